# sign.py KEY CHAIN PASSPHRASE DAYS_OLD DAYS_LEFT NAME...: signs the public key of standard input, and prints leaf and chain.
# KEY is that of an authority, whose certificate is the first of CHAIN; "-" makes one that nobody knows.
from __future__ import annotations

import ipaddress
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def subject(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


key_path, chain_path, passphrase, days_old, days_left, *names = sys.argv[1:]
public = serialization.load_pem_public_key(sys.stdin.buffer.read())
if key_path == "-":
    key, issuer, chain = ec.generate_private_key(ec.SECP256R1()), named("Somebody else"), ""
else:
    key = serialization.load_pem_private_key(Path(key_path).read_bytes(), passphrase.encode())
    chain = Path(chain_path).read_text()
    issuer = x509.load_pem_x509_certificates(chain.encode())[0].subject
now = datetime.now(timezone.utc)
leaf = (
    x509.CertificateBuilder()
    .subject_name(named(names[0]))
    .issuer_name(issuer)
    .public_key(public)
    .serial_number(x509.random_serial_number())
    .not_valid_before(now - timedelta(days=float(days_old)))
    .not_valid_after(now + timedelta(days=float(days_left)))
    .add_extension(x509.SubjectAlternativeName([subject(name) for name in names]), critical=False)
    .sign(key, hashes.SHA256())
)
sys.stdout.write(leaf.public_bytes(serialization.Encoding.PEM).decode() + chain)
