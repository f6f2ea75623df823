#!/usr/bin/python
"""Ansible module, see DOCUMENTATION."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_certificate
short_description: Make self-signed certificates for 127.0.0.1
description:
  - Made anew where one is missing, does not fit its key, or is about to end. What is a link is managed by somebody else, and stays.
  - For a worn sandbox they are nearly over, and what managed them in the meantime is forgotten.
  - Uses the library cryptography, which ansible-core itself depends on.
options:
  folder:
    description: Where the certificates are.
    type: path
    required: true
  names:
    description: Names of the pairs of files, NAME.crt and NAME.key; clients are told to trust the first one.
    type: list
    elements: str
    required: true
  worn:
    description: Whether they are to be nearly over.
    type: bool
    default: false
  managed:
    description: Folders of who manages them, which are removed when they are worn out again.
    type: list
    elements: path
    default: []
attributes:
  check_mode:
    support: full
"""
EXAMPLES = r"""
- name: Ensure that the app has a certificate
  sandbox_certificate:
    folder: /var/tmp/runbook-sandbox/tls
    names: [tls]
"""
RETURN = r"""
made:
  description: Names of the pairs that were made.
  returned: always
  type: list
"""

import datetime
import ipaddress
import os
import shutil
import tempfile

from ansible.module_utils.basic import AnsibleModule
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TRUST = "ca.crt"
LIFETIME = datetime.timedelta(days=397)  # what browsers accept at most
WORN_LIFETIME, WORN_LEFT = datetime.timedelta(days=90), datetime.timedelta(hours=6)
# Renewal is the business of certificate-management; the sandbox only sees to it that the next hour works.
LEAST_LEFT = datetime.timedelta(hours=1)


class Certificates:
    """The pairs of one folder, and the file with what clients have to trust."""

    def __init__(self, folder: str, names: list, worn: bool, managed: list) -> None:
        self.folder, self.names, self.worn, self.managed = folder, names, worn, managed
        self.now = datetime.datetime.now(datetime.timezone.utc)

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def due(self) -> list[str]:
        """Return the names of the pairs that have to be made: worn out, they are made together."""
        if self.worn and (self.forgotten() or not all(self._good(name) for name in self.names)):
            return list(self.names)
        return [name for name in self.names if not self._good(name)]

    def forgotten(self) -> list[str]:
        """Return what has to be removed, so that nobody remembers having managed them."""
        return [path for path in self.managed if os.path.lexists(path)] if self.worn else []

    def distrusted(self) -> bool:
        """Return whether clients are not told to trust the first one; of a managed one its manager says what to trust."""
        return not self._is_managed(self.names[0]) and self._read(TRUST) != self._read(f"{self.names[0]}.crt")

    def _is_managed(self, name: str) -> bool:
        return all(os.path.islink(path) and os.path.exists(path) for path in (self.path(f"{name}.crt"), self.path(f"{name}.key")))

    def _good(self, name: str) -> bool:
        if self._is_managed(name):
            return not self.worn
        try:
            certificate = x509.load_pem_x509_certificate(self._read(f"{name}.crt"))
            key = serialization.load_pem_private_key(self._read(f"{name}.key"), None)
        except ValueError:
            return False
        left = _end(certificate) - self.now
        fits = key.public_key().public_numbers() == certificate.public_key().public_numbers()
        return fits and left > LEAST_LEFT and (left <= WORN_LEFT or not self.worn)

    def _read(self, name: str) -> bytes:
        try:
            with open(self.path(name), "rb") as handle:
                return handle.read()
        except FileNotFoundError:
            return b""

    def make(self, module: AnsibleModule, name: str) -> None:
        end = self.now + (WORN_LEFT if self.worn else LIFETIME)
        begin = end - WORN_LIFETIME if self.worn else self.now - datetime.timedelta(hours=1)
        certificate, key = _make(begin, end)
        # The certificate last: a run killed in between finds that they do not fit.
        _write(module, key, self.path(f"{name}.key"), 0o600)
        _write(module, certificate, self.path(f"{name}.crt"), 0o644)

    def trust(self, module: AnsibleModule) -> None:
        _write(module, self._read(f"{self.names[0]}.crt"), self.path(TRUST), 0o644)


def _end(certificate: x509.Certificate) -> datetime.datetime:
    # The aware property came with cryptography 42 and the naive one goes.
    aware = getattr(certificate, "not_valid_after_utc", None)
    return aware or certificate.not_valid_after.replace(tzinfo=datetime.timezone.utc)


def _make(begin: datetime.datetime, end: datetime.datetime) -> tuple[bytes, bytes]:
    """Return a certificate and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "llm-cost-tracker sandbox")])
    addresses = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        # A trust anchor of its own, so that clients can be told to trust exactly this file.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), encoded


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
        argument_spec={
            "folder": {"type": "path", "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
            "worn": {"type": "bool", "default": False},
            "managed": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    given = module.params
    certificates = Certificates(given["folder"], given["names"], given["worn"], given["managed"])
    due, distrusted = certificates.due(), certificates.distrusted()
    if not module.check_mode:
        for name in due:
            certificates.make(module, name)
        for path in certificates.forgotten():
            shutil.rmtree(path)
        if certificates.distrusted():
            certificates.trust(module)
    module.exit_json(changed=bool(due) or distrusted, made=due)


if __name__ == "__main__":
    main()
