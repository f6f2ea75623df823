# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Certificates and keys, good ones and such as are broken in one way each, made when they are asked for."""

from __future__ import annotations

import base64
import ipaddress
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = 1_790_000_000.0
THEN = datetime.fromtimestamp(NOW, timezone.utc)
DAY = timedelta(days=1)
NAME = "www.example.org"
SERVER, CLIENT, ANY = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
PKCS8, TRADITIONAL = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL
CURVES: dict[str, Any] = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1, "p224": ec.SECP224R1, "k256": ec.SECP256K1,
                          "brainpool": ec.BrainpoolP256R1}  # fmt: skip


def private(kind: str, number: int = 0) -> Any:
    """Return a private key of a kind such as p256, rsa-2048 or ed25519; `number` tells several apart."""
    return _private(kind, number)


@cache
def _private(kind: str, _number: int) -> Any:
    if kind.startswith("rsa-"):
        return rsa.generate_private_key(65537, int(kind[4:]))
    others: dict[str, Any] = {"ed25519": ed25519.Ed25519PrivateKey.generate, "ed448": ed448.Ed448PrivateKey.generate,
                              "dsa": lambda: dsa.generate_private_key(2048)}  # fmt: skip
    return others[kind]() if kind in others else ec.generate_private_key(CURVES[kind]())


def key_bytes(key: Any, form: Any = PKCS8, encoding: Any = PEM, secret: bytes = b"") -> bytes:
    how: Any = serialization.BestAvailableEncryption(secret) if secret else serialization.NoEncryption()
    return bytes(key.private_bytes(encoding, form, how))


@dataclass(frozen=True)
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(DER)

    @property
    def key_pem(self) -> bytes:
        return key_bytes(self.key)


def general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def issue(
    common: str,
    issuer: Issued | None = None,
    *,
    kind: str = "p256",
    number: int = 0,
    names: Iterable[str] | None = (NAME,),
    begin: datetime = THEN - 10 * DAY,
    end: datetime = THEN + 50 * DAY,
    ca: bool = False,
    usages: Iterable[x509.ObjectIdentifier] = (SERVER,),
    digest: str = "sha256",
    serial: int | None = None,
    extensions: Iterable[x509.ExtensionType] = (),
) -> Issued:
    """Issue a certificate; without an issuer it signs itself. With `digest` sha1 or md5 OpenSSL signs it."""
    key = private(kind, number)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)] if common else [])
    signer = issuer.key if issuer else key
    builder = x509.CertificateBuilder(
        issuer.certificate.subject if issuer else subject, subject, key.public_key(), serial or x509.random_serial_number(), begin, end
    )
    builder = builder.add_extension(x509.BasicConstraints(ca, None), True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False)
    if ca:
        builder = builder.add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), True)
    else:
        if names is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([general(name) for name in names]), not common)
        if list(usages):
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), False)
    for extension in extensions:
        builder = builder.add_extension(extension, False)
    made = builder.sign(signer, None if isinstance(signer, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)) else hashes.SHA256())
    if digest != "sha256":
        made = _signed_anew(made, signer, digest)
    return Issued(made, key)


def _signed_anew(certificate: x509.Certificate, signer: Any, digest: str) -> x509.Certificate:
    """Replace the signature by a weak one, which cryptography does not make."""
    oids = {("sha1", True): "1.2.840.10045.4.1", ("sha1", False): "1.2.840.113549.1.1.5", ("md5", False): "1.2.840.113549.1.1.4"}
    curve = isinstance(signer, ec.EllipticCurvePrivateKey)
    old = _algorithm(certificate.signature_algorithm_oid.dotted_string, curve)
    new = _algorithm(oids[(digest, curve)], curve)
    body = certificate.tbs_certificate_bytes
    assert body.count(old) == 1
    inner = body[4:].replace(old, new)
    body = b"\x30\x82" + len(inner).to_bytes(2, "big") + inner
    with tempfile.NamedTemporaryFile() as file:
        file.write(key_bytes(signer))
        file.flush()
        argv = ["openssl", "dgst", f"-{digest}", "-sign", file.name]
        signature = subprocess.run(argv, input=body, check=True, capture_output=True).stdout
    bits = b"\x00" + signature
    head = b"\x03" + (bytes([len(bits)]) if len(bits) < 128 else b"\x82" + len(bits).to_bytes(2, "big"))
    whole = body + new + head + bits
    return x509.load_der_x509_certificate(b"\x30\x82" + len(whole).to_bytes(2, "big") + whole)


def _algorithm(oid: str, curve: bool) -> bytes:
    arcs = [int(arc) for arc in oid.split(".")]
    raw = bytes([arcs[0] * 40 + arcs[1]])
    for arc in arcs[2:]:
        digits = [arc & 0x7F]
        while arc := arc >> 7:
            digits.insert(0, arc & 0x7F | 0x80)
        raw += bytes(digits)
    content = b"\x06" + bytes([len(raw)]) + raw + (b"" if curve else b"\x05\x00")
    return b"\x30" + bytes([len(content)]) + content


@cache
def root(number: int = 0, digest: str = "sha256", kind: str = "p256") -> Issued:
    common = f"Example Root {number}"
    return issue(common, kind=kind, number=100 + number, ca=True, begin=THEN - 1000 * DAY, end=THEN + 3000 * DAY, digest=digest)


@cache
def intermediate(number: int = 0, above: int | None = None, kind: str = "p256", digest: str = "sha256", begin: int = -100, end: int = 900) -> Issued:
    parent = root() if above is None else intermediate(above)
    if digest != "sha256":
        parent = root(2, kind="rsa-2048")
    return issue(f"Example Intermediate {number}", parent, kind=kind, number=200 + number, ca=True, begin=THEN + begin * DAY,
                 end=THEN + end * DAY, digest=digest)  # fmt: skip


def leaf(issuer: Issued | None = None, **options: Any) -> Issued:
    return issue(options.pop("common", NAME), issuer or intermediate(), **options)


@dataclass(frozen=True)
class Case:
    """A pair of files and the codes of all that is wrong with it: `write` puts them into a folder, and returns the
    certificate's and the key's path."""

    name: str
    expected: frozenset[str]
    write: Callable[[Path], tuple[Path, Path]]
    names: tuple[str, ...] = (NAME,)
    trust: tuple[Issued, ...] = field(default_factory=tuple)
    client: bool = False


def cases() -> list[Case]:
    made: list[Case] = []

    def add(
        name: str,
        expected: str,
        certificate: Callable[[], bytes],
        key: Callable[[], bytes | None] = lambda: key_bytes(private("p256")),
        *,
        names: tuple[str, ...] = (NAME,),
        mode: int = 0o600,
        suffixes: tuple[str, str] = (".pem", ".key"),
        client: bool = False,
        arrange: Callable[[Path, Path], None] = lambda certificate, key: None,
    ) -> None:
        def write(folder: Path) -> tuple[Path, Path]:
            paths = folder / f"certificate{suffixes[0]}", folder / f"private{suffixes[1]}"
            for path, data, how in zip(paths, (certificate(), key()), (0o644, mode), strict=True):
                if data is not None:
                    path.write_bytes(data)
                    path.chmod(how)
            arrange(*paths)
            return paths

        made.append(Case(name, frozenset(expected.split()), write, names, (root(), root(2, kind="rsa-2048")), client))

    _good(add)
    _certificates(add)
    _chains(add)
    _strength(add)
    _keys(add)
    _broken_files(add)
    return made


def chain(**options: Any) -> Callable[[], bytes]:
    """A leaf with its intermediate."""
    return lambda: leaf(**options).pem + intermediate().pem


def _good(add: Callable[..., None]) -> None:
    for kind in ("p256", "p384", "p521", "rsa-2048", "rsa-3072", "ed25519", "ed448"):
        add(f"good {kind}", "", chain(kind=kind), lambda kind=kind: key_bytes(private(kind)))
    rsa_key, curve_key = private("rsa-2048"), private("p256")
    add("good PKCS#1", "", chain(kind="rsa-2048"), lambda: key_bytes(rsa_key, TRADITIONAL))
    add("good SEC1", "", chain(), lambda: key_bytes(curve_key, TRADITIONAL))
    add("good SEC1 with parameters", "", chain(), lambda: (
        b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + key_bytes(curve_key, TRADITIONAL)))  # fmt: skip
    add("good key in DER PKCS#8", "", chain(), lambda: key_bytes(curve_key, PKCS8, DER), suffixes=(".pem", ".der"))
    add("good key in DER PKCS#1", "", chain(kind="rsa-2048"), lambda: key_bytes(rsa_key, TRADITIONAL, DER))
    add("good key in DER SEC1", "", chain(), lambda: key_bytes(curve_key, TRADITIONAL, DER))
    add("good certificate in DER", "", lambda: leaf(root()).der, suffixes=(".der", ".key"))
    add("good without suffixes", "", chain(), suffixes=("", ""))
    add("good with CRLF", "", lambda: chain()().replace(b"\n", b"\r\n"), lambda: key_bytes(curve_key).replace(b"\n", b"\r\n"))
    add("good with text before", "", lambda: b"subject=CN = x\nissuer=CN = y\n" + b"    text\n" * 900 + chain()())
    add("good in one file", "", lambda: key_bytes(curve_key) + chain()(), lambda: None, arrange=_one_file)
    add("good wildcard", "", chain(names=["*.example.org"]))
    add("good name in capitals", "", chain(names=["WWW.Example.ORG"]))
    add("good several names", "", chain(names=["a.example.org", "b.example.org", NAME]), names=(NAME, "b.example.org"))
    add("good address", "", chain(names=["10.0.0.1"]), names=("10.0.0.1",))
    add("good IPv6 address", "", chain(names=["2001:db8::1"]), names=("2001:DB8:0::1",))
    add("good from the root", "", lambda: leaf(root()).pem)
    add("good with its root", "", lambda: chain()() + root().pem)
    add("good with two intermediates", "", lambda: leaf(intermediate(2, 0)).pem + intermediate(2, 0).pem + intermediate().pem)
    add("good without subject", "", chain(common=""))
    add("good without usages", "", chain(usages=[]))
    add("good for any usage and servers", "", chain(usages=[ANY, SERVER]))
    add("good client", "", chain(usages=[CLIENT], names=None), client=True)
    add("good trusted label", "", lambda: leaf(root()).pem.replace(b"CERTIFICATE", b"X509 CERTIFICATE"))


def _certificates(add: Callable[..., None]) -> None:
    add("expired", "expired", chain(begin=THEN - 90 * DAY, end=THEN - timedelta(seconds=1)))
    add("not yet valid", "not-yet-valid", chain(begin=THEN + timedelta(seconds=1)))
    add("ends before it begins", "lifetime-odd", lambda: _swapped(leaf(root())), suffixes=(".der", ".key"))
    add("valid for ten years", "long-lifetime", chain(end=THEN + 3650 * DAY))
    add("wrong name", "name-not-covered", chain(names=["other.example.org"]))
    add("one name missing", "name-not-covered", chain(), names=(NAME, "api.example.org"))
    add("wildcard too high", "name-not-covered", chain(names=["*.example.org"]), names=("a.b.example.org",))
    add("wildcard without the domain", "name-not-covered", chain(names=["*.example.org"]), names=("example.org",))
    add("wildcard of a top-level domain", "name-not-covered", chain(names=["*.org"]), names=("example.org",))
    add("wildcard in a label", "name-not-covered", chain(names=["w*.example.org"]))
    add("wrong address", "name-not-covered", chain(names=["10.0.0.1"]), names=("10.0.0.2",))
    add("address as a host name", "name-not-covered", chain(names=None, extensions=[x509.SubjectAlternativeName([x509.DNSName("10.0.0.1")])]),
        names=("10.0.0.1",))  # fmt: skip
    add("common name not among the names", "name-not-covered", chain(common=NAME, names=["b.example.org"]))
    add("no alternative names", "no-san", chain(names=None))
    add("no alternative names, other name", "no-san name-not-covered", chain(names=None, common="b.example.org"))
    add("for clients", "wrong-usage", chain(usages=[CLIENT]))
    add("for any usage, which OpenSSL does not take for servers", "wrong-usage", chain(usages=[ANY]))
    add("for servers, shown by a client", "wrong-usage", chain(usages=[SERVER]), client=True)
    add("intermediate as leaf", "is-ca no-san name-not-covered long-lifetime", lambda: intermediate().pem, lambda: intermediate().key_pem)
    add("root as leaf", "is-ca no-san name-not-covered long-lifetime self-signed", lambda: root().pem, lambda: root().key_pem)
    add("self-signed", "self-signed", lambda: issue(NAME).pem)
    add("expired with a wrong name", "expired name-not-covered", chain(end=THEN - DAY, names=["b.example.org"]))


def _chains(add: Callable[..., None]) -> None:
    two, rsa_root = intermediate(2, 0), root(2, kind="rsa-2048")
    add("intermediate missing", "chain-incomplete", lambda: leaf().pem)
    add("second intermediate missing", "chain-incomplete", lambda: leaf(two).pem + two.pem)
    add("first intermediate missing", "chain-incomplete chain-foreign", lambda: leaf(two).pem + intermediate().pem)
    add("from an unknown root", "chain-incomplete", lambda: leaf(root(7)).pem)
    add("leaf last", "chain-order", lambda: intermediate().pem + leaf().pem)
    add("intermediates the wrong way round", "chain-order", lambda: leaf(two).pem + intermediate().pem + two.pem)
    add("root before its intermediate", "chain-order", lambda: leaf().pem + root().pem + intermediate().pem)
    add("an intermediate of others", "chain-foreign", lambda: chain()() + intermediate(5).pem)
    add("a leaf of others", "chain-foreign", lambda: chain()() + leaf(root(), number=5).pem)
    add("another intermediate instead", "chain-foreign chain-incomplete", lambda: leaf().pem + intermediate(5).pem)
    add("the leaf twice", "chain-foreign", lambda: leaf(serial=77, kind="rsa-2048", issuer=rsa_root).pem * 2,
        lambda: key_bytes(private("rsa-2048")))  # fmt: skip
    add("the intermediate twice", "chain-foreign", lambda: chain()() + intermediate().pem)
    late = intermediate(3, end=-1)
    add("expired intermediate", "chain-expired", lambda: leaf(late).pem + late.pem)
    early = intermediate(4, begin=1)
    add("intermediate not yet valid", "chain-not-yet-valid", lambda: leaf(early).pem + early.pem)


def _strength(add: Callable[..., None]) -> None:
    for kind in ("rsa-1024", "k256", "p224", "brainpool", "dsa"):
        add(f"weak key {kind}", "weak-key", chain(kind=kind), lambda kind=kind: key_bytes(private(kind)))
    weak = intermediate(6, kind="rsa-1024")
    add("intermediate with a weak key", "weak-key", lambda: leaf(weak).pem + weak.pem)
    add("signed with SHA-1", "weak-signature", lambda: leaf(intermediate(), digest="sha1").pem + intermediate().pem)
    strong = root(2, kind="rsa-2048")
    add("signed with SHA-1 and RSA", "weak-signature", lambda: leaf(strong, digest="sha1").pem)
    add("signed with MD5", "weak-signature", lambda: leaf(strong, digest="md5").pem)
    old = intermediate(8, digest="sha1")
    add("intermediate signed with SHA-1", "weak-signature", lambda: leaf(old).pem + old.pem)
    oldest = root(3, "sha1")
    add("good with a root that signed itself with SHA-1", "", lambda: leaf(oldest).pem + oldest.pem)


def _keys(add: Callable[..., None]) -> None:
    add("another key", "key-mismatch", chain(), lambda: key_bytes(private("p256", 9)))
    add("a key of another kind", "key-mismatch", chain(), lambda: key_bytes(private("rsa-2048")))
    add("the key of the intermediate", "key-mismatch", chain(), lambda: intermediate().key_pem)
    for form, named in ((PKCS8, "PKCS#8"), (TRADITIONAL, "traditional")):
        add(f"encrypted key, {named}", "encrypted", chain(), lambda form=form: key_bytes(private("p256"), form, secret=b"secret"))
    add("encrypted RSA key, traditional", "encrypted", chain(kind="rsa-2048"), lambda: key_bytes(private("rsa-2048"), TRADITIONAL, secret=b"x"))
    add("encrypted key in DER", "encrypted", chain(), lambda: key_bytes(private("p256"), PKCS8, DER, b"secret"))
    add("key for everybody", "key-readable", chain(), mode=0o644)
    add("key to write for its group", "key-writable", chain(), mode=0o660)
    add("key for everybody to write", "key-readable key-writable", chain(), mode=0o666)
    add("no key", "missing", chain(), lambda: None)
    add("certificate in place of the key", "certificate-instead", chain(), chain())
    add("certificate in DER in place of the key", "certificate-instead", chain(), lambda: leaf().der)
    add("public key in place of the key", "unsupported", chain(), lambda: private("p256").public_key().public_bytes(
        PEM, serialization.PublicFormat.SubjectPublicKeyInfo))  # fmt: skip
    add("key of OpenSSH", "unsupported", chain(), lambda: key_bytes(private("ed25519"), serialization.PrivateFormat.OpenSSH))
    add("empty key", "empty", chain(), lambda: b"")
    add("key of line ends", "empty", chain(), lambda: b"\r\n\r\n")
    whole = key_bytes(private("rsa-2048"))
    for where, cut in (("its first line", 20), ("the middle", 900), ("its last line", len(whole) - 9)):
        add(f"key cut in {where}", "truncated", chain(kind="rsa-2048"), lambda cut=cut: whole[:cut])
    add("key cut with its end", "truncated", chain(kind="rsa-2048"), lambda: whole[:900] + b"\n-----END PRIVATE KEY-----\n")
    add("key in DER, cut", "truncated", chain(kind="rsa-2048"), lambda: key_bytes(private("rsa-2048"), PKCS8, DER)[:700])
    add("key that leads to itself", "symlink-loop unreadable", chain(), lambda: None, arrange=lambda _, key: key.symlink_to(key.name))
    add("key that leads nowhere", "dangling missing", chain(), lambda: None, arrange=lambda _, key: key.symlink_to("gone"))


def _broken_files(add: Callable[..., None]) -> None:
    add("empty certificate", "empty", lambda: b"")
    add("certificate of zeros", "empty", lambda: b"\0" * 4096)
    whole = chain()()
    one = leaf(root()).pem
    for where, data in (("its first line", one[:20]), ("the middle", one[:400]), ("its last line", one[:-9]), ("the second block", whole[:-300]),
                        ("the first block", whole[:400] + intermediate().pem)):  # fmt: skip
        add(f"certificate cut in {where}", "truncated", lambda data=data: data)
    add("certificate cut with its end", "truncated", lambda: one[:401] + b"\n-----END CERTIFICATE-----\n")
    add("certificate in DER, cut", "truncated", lambda: leaf(root()).der[:300], suffixes=(".der", ".key"))
    add("certificate with bytes behind it", "der", lambda: leaf(root()).der + b"\n", suffixes=(".crt", ".key"))
    add("certificate with a damaged character", "base64", lambda: one.replace(b"\nMI", b"\nM\xff", 1))
    add("certificate with a damaged byte", "der", lambda: _pem(_damaged(leaf(root()).der)))
    add("text in place of the certificate", "not-pem", lambda: b"404 page not found\n", suffixes=(".crt", ".key"))
    add("request in place of the certificate", "other-instead", lambda: (
        x509.CertificateSigningRequestBuilder(x509.Name([])).sign(private("p256"), hashes.SHA256()).public_bytes(PEM)))  # fmt: skip
    add("key in place of the certificate", "key-instead key-readable", lambda: key_bytes(private("p256")))
    add("byte order mark", "bom", lambda: b"\xef\xbb\xbf" + chain()())
    add("certificate that leads to itself", "symlink-loop", lambda: None, arrange=lambda certificate, _: certificate.symlink_to(certificate.name))
    add("certificate that leads nowhere", "dangling", lambda: None, arrange=lambda certificate, _: certificate.symlink_to("gone"))


def _one_file(certificate: Path, key: Path) -> None:
    certificate.chmod(0o600)
    key.symlink_to(certificate.name)


def _swapped(one: Issued) -> bytes:
    times = [f"{moment:%y%m%d%H%M%SZ}".encode() for moment in (one.certificate.not_valid_before_utc, one.certificate.not_valid_after_utc)]
    return one.der.replace(times[0], b"?" * 13).replace(times[1], times[0]).replace(b"?" * 13, times[1])


def _damaged(der: bytes) -> bytes:
    at = der.index(b"\x17\x0d")
    return der[:at] + b"\x04" + der[at + 1 :]


def _pem(der: bytes) -> bytes:
    text = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"


def write_chain(folder: Path, one: Issued, *above: Issued) -> tuple[str, str]:
    """Write a certificate with those above it, and its key, for a server to read; return both paths."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(each.pem for each in (one, *above)))
    key.write_bytes(one.key_pem)
    os.chmod(key, 0o600)
    return str(certificate), str(key)
