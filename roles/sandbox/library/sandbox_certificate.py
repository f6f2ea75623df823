#!/usr/bin/python
"""Ansible module, see DOCUMENTATION."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_certificate
short_description: Make a self-signed certificate for 127.0.0.1
description:
  - Made anew when it is missing, does not fit its key, or ends within 30 days.
  - Uses the library cryptography, which ansible-core itself depends on.
options:
  folder:
    description: Where tls.crt and tls.key are.
    type: path
    required: true
attributes:
  check_mode:
    support: full
"""
EXAMPLES = r"""
- name: Ensure that the app has a certificate
  sandbox_certificate:
    folder: /var/tmp/runbook-sandbox/tls
"""
RETURN = r"""
not_after:
  description: When the certificate ends.
  returned: always
  type: str
"""

import datetime
import ipaddress
import os
import tempfile

from ansible.module_utils.basic import AnsibleModule
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VALID = datetime.timedelta(days=397)  # what browsers accept at most
RENEW_BEFORE = datetime.timedelta(days=30)


def _end(certificate: x509.Certificate) -> datetime.datetime:
    # The aware property came with cryptography 42 and the naive one goes.
    aware = getattr(certificate, "not_valid_after_utc", None)
    return aware or certificate.not_valid_after.replace(tzinfo=datetime.timezone.utc)


def _current(folder: str) -> x509.Certificate | None:
    """Return the certificate if it is good for a while and its key fits."""
    try:
        with open(os.path.join(folder, "tls.crt"), "rb") as handle:
            certificate = x509.load_pem_x509_certificate(handle.read())
        with open(os.path.join(folder, "tls.key"), "rb") as handle:
            key = serialization.load_pem_private_key(handle.read(), None)
    except (FileNotFoundError, ValueError):
        return None
    good = _end(certificate) - datetime.datetime.now(datetime.timezone.utc) > RENEW_BEFORE
    fits = key.public_key().public_numbers() == certificate.public_key().public_numbers()
    return certificate if good and fits else None


def _make() -> tuple[x509.Certificate, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "llm-cost-tracker sandbox")])
    now = datetime.datetime.now(datetime.timezone.utc)
    addresses = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        # A trust anchor of its own, so that clients can be told to trust exactly this file.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate, encoded


def _write(module: AnsibleModule, content: bytes, path: str, mode: int) -> None:
    owner = os.stat(os.path.dirname(path))
    with tempfile.NamedTemporaryFile(dir=module.tmpdir, delete=False) as handle:
        handle.write(content)
    os.chmod(handle.name, mode)
    module.atomic_move(handle.name, path)
    os.chmod(path, mode)
    os.chown(path, owner.st_uid, owner.st_gid)


def main() -> None:
    module = AnsibleModule(
        argument_spec={"folder": {"type": "path", "required": True}}, supports_check_mode=True
    )
    folder = module.params["folder"]
    certificate = _current(folder)
    changed = certificate is None
    if certificate is None:
        certificate, key = _make()
        if not module.check_mode:
            # The certificate last: a run killed in between finds that they do not fit.
            _write(module, key, os.path.join(folder, "tls.key"), 0o600)
            encoded = certificate.public_bytes(serialization.Encoding.PEM)
            _write(module, encoded, os.path.join(folder, "tls.crt"), 0o644)
    module.exit_json(changed=changed, not_after=_end(certificate).isoformat(timespec="seconds"))


if __name__ == "__main__":
    main()
