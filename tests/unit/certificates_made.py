# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Certificates and keys made for tests, and a host of services that present what their file held when they were told last."""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.certificates_endpoints import Endpoint, Served
from ansible.module_utils.certificates_model import Consumer, Managed
from ansible.module_utils.certificates_x509 import CertificateError, parse_chain
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = 1_790_000_000.0
DAY = 86400.0


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


class Authority:
    """A root, and an issuing authority below it."""

    def __init__(self, text: str = "Test", now: float = NOW, days: float = 3650) -> None:
        self.root_key, self.key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        self.root = self._sign(f"{text} root", self.root_key, f"{text} root", self.root_key, now, days)
        self.issuing = self._sign(f"{text} issuing", self.key, f"{text} root", self.root_key, now, days)

    def _sign(
        self, subject: str, key: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey, now: float, days: float
    ) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_moment(now - DAY))
            .not_valid_after(_moment(now + days * DAY))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(by, hashes.SHA256())
        )

    def pair(
        self, names: Sequence[str] = ("tracker.test",), *, since: float = NOW - DAY, until: float = NOW + 90 * DAY, chain: bool = True
    ) -> tuple[str, str]:
        """Return a certificate with its chain, and its key, both in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        text = self.sign(key.public_key(), names, since, until)
        return text + (self.issuing_pem if chain else ""), key_pem(key)

    def sign(self, key: Any, names: Sequence[str], since: float, until: float) -> str:
        """Return a certificate for a public key, in PEM."""
        alternatives = [x509.IPAddress(ipaddress.ip_address(one)) if one[0].isdigit() else x509.DNSName(one) for one in names]
        made = (
            x509.CertificateBuilder()
            .subject_name(name(names[0]))
            .issuer_name(self.issuing.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_moment(since))
            .not_valid_after(_moment(until))
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM).decode()

    def crl_pem(self, *serials: int, now: float = NOW, days: float = 30) -> str:
        """Return a list of revoked certificates, in PEM."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.issuing.subject)
        builder = builder.last_update(_moment(now - 3600)).next_update(_moment(now + days * DAY))
        for serial in serials:
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_moment(now - 60)).build()
            builder = builder.add_revoked_certificate(one)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    @property
    def issuing_pem(self) -> str:
        return self.issuing.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def root_pem(self) -> str:
        return self.root.public_bytes(serialization.Encoding.PEM).decode()


class Host:
    """A folder with services, each of which presents what its certificate's file held when it was told last.

    A service that refuses is told and stays as it is, as nginx does; one that fails returns an error.
    """

    def __init__(self, folder: Path, names: Sequence[str] = ("one", "two")) -> None:
        self.folder = folder
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"
        self.names = tuple(names)

    def served(self, consumer: str) -> Path:
        return self.folder / f"served-{consumer}"

    def consumers(self, *, silent: Sequence[str] = ()) -> tuple[Consumer, ...]:
        made = []
        for number, one in enumerate(self.names):
            served = self.served(one)
            script = (
                f"[ ! -e {self.folder}/fails-{one} ] || exit 1; echo told >>{self.folder}/told-{one}; "
                f"[ -e {self.folder}/refuses-{one} ] || {{ cat {self.certificate} >{served}.new && mv {served}.new {served}; }}"
            )
            address = "" if one in silent else f"127.0.0.1:{20000 + number}"
            made.append(Consumer(one, "command", address, "tracker.test", command=("sh", "-c", script)))
        return tuple(made)

    def managed(self, **more: object) -> Managed:
        given = {"name": "web", "names": ("tracker.test",), "issuer": "private_ca", "certificate_file": str(self.certificate),
                 "key_file": str(self.key), "consumers": self.consumers()}  # fmt: skip
        return Managed(**{**given, **more})  # type: ignore[arg-type]

    def put(self, pair: tuple[str, str], *, serve: bool = True) -> None:
        """Put a pair in the files that consumers read, and have them serve it."""
        self.certificate.write_text(pair[0])
        self.key.write_text(pair[1])
        os.chmod(self.key, 0o600)
        for one in self.names if serve else ():
            self.served(one).write_text(pair[0])

    def ask(self, endpoints: Sequence[Endpoint]) -> list[Served]:
        answers = []
        for endpoint in endpoints:
            one = self.names[int(endpoint.address.rpartition(":")[2]) - 20000]
            try:
                answers.append(Served(endpoint, tuple(parse_chain(self.served(one).read_bytes()))))
            except (OSError, CertificateError) as error:
                answers.append(Served(endpoint, (), str(error)))
        return answers

    def presented(self) -> set[str]:
        """Return the certificates that are presented, the leaf's PEM of each."""
        return {self.served(one).read_text() for one in self.names}
