# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Certificates are read as the cryptography package reads them, and no bytes break the reader."""

from __future__ import annotations

import dataclasses
import ipaddress
import random
import subprocess
import warnings
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.certificates_x509 import (
    Certificate,
    CertificateError,
    Element,
    element,
    integer,
    is_pem,
    moment,
    parse_chain,
    parse_der,
    to_pem,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

ROOTS = Path("/etc/ssl/certs/ca-certificates.crt")
UTC = timezone.utc
THEN = datetime(2026, 3, 1, 12, 30, 15, tzinfo=UTC)
EKUS = {ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth", ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
        ExtendedKeyUsageOID.OCSP_SIGNING: "OCSPSigning", x509.ObjectIdentifier("1.3.6.1.4.1.99999.7.200"): "1.3.6.1.4.1.99999.7.200"}  # fmt: skip


@cache
def key(kind: str) -> Any:
    if kind.startswith("rsa-"):
        return rsa.generate_private_key(65537, int(kind[4:]))
    makers: dict[str, Any] = {
        "secp256r1": lambda: ec.generate_private_key(ec.SECP256R1()), "secp384r1": lambda: ec.generate_private_key(ec.SECP384R1()),
        "secp521r1": lambda: ec.generate_private_key(ec.SECP521R1()), "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
        "brainpoolP384r1": lambda: ec.generate_private_key(ec.BrainpoolP384R1()), "ed25519": ed25519.Ed25519PrivateKey.generate,
        "ed448": ed448.Ed448PrivateKey.generate, "dsa": lambda: dsa.generate_private_key(2048),
    }  # fmt: skip
    return makers[kind]()


KINDS = ("rsa-1024", "rsa-2048", "secp256r1", "secp384r1", "secp521r1", "secp256k1", "brainpoolP384r1", "ed25519", "ed448", "dsa")


def make(
    kind: str = "secp256r1",
    subject: x509.Name | str = "www.example.org",
    names: tuple[str, ...] | None = ("www.example.org",),
    *,
    serial: int = 0x00A1B2C3,
    not_before: datetime = THEN,
    not_after: datetime = THEN + timedelta(days=90),
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    digest: hashes.HashAlgorithm | None = None,
    pss: bool = False,
) -> bytes:
    if isinstance(subject, str):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "An Authority"), x509.NameAttribute(NameOID.COUNTRY_NAME, "DE")])
    builder = x509.CertificateBuilder(issuer, subject, key(kind).public_key(), serial, not_before, not_after)
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([general(name) for name in names]), False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    if digest is None and not kind.startswith("ed"):
        digest = hashes.SHA256()
    scheme = padding.PSS(padding.MGF1(digest), 32) if pss and digest else None
    made = builder.sign(key(kind), digest, rsa_padding=scheme)  # type: ignore[arg-type]
    return made.public_bytes(serialization.Encoding.DER)


def general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def agrees(der: bytes) -> Certificate:
    """Compare all fields with what cryptography reads."""
    ours = parse_der(der)
    theirs = x509.load_der_x509_certificate(der)
    assert ours.serial == theirs.serial_number
    assert ours.subject == theirs.subject.rfc4514_string()
    assert ours.issuer == theirs.issuer.rfc4514_string()
    assert ours.subject_der == theirs.subject.public_bytes()
    assert ours.issuer_der == theirs.issuer.public_bytes()
    assert ours.not_before == theirs.not_valid_before_utc.timestamp()
    assert ours.not_after == theirs.not_valid_after_utc.timestamp()
    assert bytes.fromhex(ours.fingerprint) == theirs.fingerprint(hashes.SHA256())
    public = theirs.public_key()
    spki = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(spki)
    assert ours.spki_sha256 == digest.finalize().hex()
    if isinstance(public, ec.EllipticCurvePublicKey):
        assert (ours.key_algorithm, ours.key_bits, ours.curve) == ("ec", public.curve.key_size, public.curve.name)
    elif isinstance(public, rsa.RSAPublicKey | dsa.DSAPublicKey):
        expected = "rsa" if isinstance(public, rsa.RSAPublicKey) else "dsa"
        assert (ours.key_algorithm, ours.key_bits, ours.curve) == (expected, public.key_size, "")
    used = theirs.signature_hash_algorithm
    assert ours.signature_hash == (used.name if used else "")
    extensions = {one.oid: one.value for one in theirs.extensions}
    basic = extensions.get(x509.BasicConstraints.oid)
    assert ours.is_ca == bool(basic and basic.ca)
    assert ours.path_length == (basic.path_length if basic else None)
    ski = extensions.get(x509.SubjectKeyIdentifier.oid)
    assert ours.ski == (ski.digest if ski else b"")
    aki = extensions.get(x509.AuthorityKeyIdentifier.oid)
    assert ours.aki == ((aki.key_identifier or b"") if aki else b"")
    san = extensions.get(x509.SubjectAlternativeName.oid)
    assert ours.has_san == (san is not None)
    if san is not None:
        expected_names = [name.lower() for name in san.get_values_for_type(x509.DNSName)]
        expected_names += [str(name) for name in san.get_values_for_type(x509.IPAddress)]
        assert sorted(ours.names) == sorted(set(expected_names))
    usages = extensions.get(x509.ExtendedKeyUsage.oid)
    if usages is not None and all(one in EKUS for one in usages):
        assert ours.usages == tuple(EKUS[one] for one in usages)
    points = extensions.get(x509.CRLDistributionPoints.oid)
    urls = [name.value for point in points or () for name in point.full_name or () if isinstance(name, x509.UniformResourceIdentifier)]
    assert ours.crl_urls == tuple(urls)
    access = extensions.get(x509.AuthorityInformationAccess.oid)
    for method, found in ((AuthorityInformationAccessOID.OCSP, ours.ocsp_urls), (AuthorityInformationAccessOID.CA_ISSUERS, ours.issuer_urls)):
        assert found == tuple(one.access_location.value for one in access or () if one.access_method == method)
    return ours


@pytest.mark.parametrize("kind", KINDS)
def test_reads_every_kind_of_key(kind: str) -> None:
    ours = agrees(make(kind))
    if kind.startswith("ed"):
        assert (ours.key_algorithm, ours.key_bits, ours.signature_hash) == (kind, {"ed25519": 256, "ed448": 456}[kind], "")


@pytest.mark.parametrize("digest", [hashes.SHA224(), hashes.SHA384(), hashes.SHA512()], ids=lambda one: one.name)
@pytest.mark.parametrize("kind", ["rsa-2048", "secp256r1"])
def test_reads_every_signature(kind: str, digest: hashes.HashAlgorithm) -> None:
    assert agrees(make(kind, digest=digest)).signature_hash == digest.name


@pytest.mark.parametrize(
    ("scheme", "digest"), [("pkcs1", "md5"), ("pkcs1", "sha1"), ("pkcs1", "sha256"), ("pss", "sha1"), ("pss", "sha256")]
)
def test_reads_what_openssl_signs(tmp_path: Path, digest: str, scheme: str) -> None:
    options = ["-sigopt", "rsa_padding_mode:pss"] if scheme == "pss" else []
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:1024", "-nodes", f"-{digest}", *options, "-subj", "/CN=old.example.org",
                    "-keyout", tmp_path / "key", "-out", tmp_path / "cert"], check=True, capture_output=True)  # fmt: skip
    (one,) = parse_chain((tmp_path / "cert").read_bytes())
    named = "rsassaPss" if scheme == "pss" else f"{digest}WithRSAEncryption"
    assert (one.signature_hash, one.signature_algorithm, one.is_ca) == (digest, named, True)


@pytest.mark.parametrize("digest", [hashes.SHA256(), hashes.SHA512()], ids=lambda one: one.name)
def test_reads_the_hash_of_pss_signatures(digest: hashes.HashAlgorithm) -> None:
    assert agrees(make("rsa-2048", digest=digest, pss=True)).signature_algorithm == "rsassaPss"


def test_the_roots_of_this_system_are_read_alike() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chain = parse_chain(ROOTS.read_bytes())
        assert len(chain) > 100
        for one in chain:
            agrees(one.der)


extension_sets = st.fixed_dictionaries({}, optional={
    "basic": st.builds(lambda ca, length: x509.BasicConstraints(ca, length if ca else None), st.booleans(), st.none() | st.integers(0, 9)),
    "ski": st.binary(min_size=1, max_size=20).map(x509.SubjectKeyIdentifier),
    "aki": st.binary(min_size=1, max_size=20).map(lambda value: x509.AuthorityKeyIdentifier(value, None, None)),
    "eku": st.lists(st.sampled_from(list(EKUS)), min_size=1, max_size=4, unique=True).map(x509.ExtendedKeyUsage),
    "crl": st.lists(st.sampled_from(["http://a.example/1.crl", "ldap://b.example/x", "https://c.example/2"]), min_size=1, max_size=3).map(
        lambda urls: x509.CRLDistributionPoints(
            [x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None) for url in urls])),
    "aia": st.lists(st.tuples(st.booleans(), st.sampled_from(["http://o.example", "http://i.example/ca.crt"])), min_size=1, max_size=3).map(
        lambda rows: x509.AuthorityInformationAccess([x509.AccessDescription(
            AuthorityInformationAccessOID.OCSP if ocsp else AuthorityInformationAccessOID.CA_ISSUERS,
            x509.UniformResourceIdentifier(url)) for ocsp, url in rows])),
    "unknown": st.binary(max_size=30).map(lambda value: x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.55555.1"), value)),
})  # fmt: skip
attribute_values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x2FFF, blacklist_characters="\x7f"), min_size=1, max_size=20)
subjects = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from([NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.LOCALITY_NAME, NameOID.GIVEN_NAME, NameOID.TITLE,
                             NameOID.USER_ID]),
            attribute_values),
        min_size=1, max_size=2, unique_by=lambda row: row[0]),
    max_size=4).map(lambda rdns: x509.Name([x509.RelativeDistinguishedName(
        [x509.NameAttribute(*row, _validate=False) for row in rdn]) for rdn in rdns]))  # fmt: skip
dns = st.from_regex(r"(\*\.)?[A-Za-z0-9-]{1,10}(\.[A-Za-z0-9-]{1,10}){0,3}", fullmatch=True).filter(
    lambda name: not name.replace(".", "").isdigit()
)
moments = st.datetimes(datetime(1950, 1, 1), datetime(9999, 12, 30)).map(lambda value: value.replace(microsecond=0, tzinfo=UTC))


@settings(max_examples=250, deadline=None)
@given(
    kind=st.sampled_from(["rsa-2048", "secp256r1", "ed25519"]),
    subject=subjects,
    names=st.none() | st.lists(dns | st.ip_addresses().map(str), min_size=1, max_size=5).map(tuple),
    serial=st.integers(1, (1 << 159) - 1),
    times=st.tuples(moments, moments).filter(lambda pair: pair[0] <= pair[1]),
    extensions=extension_sets,
    critical=st.booleans(),
)
def test_reads_what_cryptography_writes(
    kind: str,
    subject: x509.Name,
    names: tuple[str, ...] | None,
    serial: int,
    times: tuple[datetime, datetime],
    extensions: dict[str, x509.ExtensionType],
    critical: bool,
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = make(kind, subject, names, serial=serial, not_before=times[0], not_after=times[1],
                    extensions=tuple((one, critical) for one in extensions.values()))  # fmt: skip
        agrees(made)


@settings(max_examples=1500, deadline=None)
@given(st.binary(max_size=400) | st.binary(max_size=300).map(lambda data: b"\x30\x82" + len(data).to_bytes(2, "big") + data))
def test_random_bytes_are_refused(data: bytes) -> None:
    for read in (parse_der, parse_chain):
        with pytest.raises(CertificateError) as told:
            read(data)
        assert told.value.code


def mutations() -> list[bytes]:
    every = (
        x509.BasicConstraints(True, 3), x509.SubjectKeyIdentifier(b"abc"), x509.AuthorityKeyIdentifier(b"def", None, None),
        x509.ExtendedKeyUsage(list(EKUS)),
        x509.CRLDistributionPoints([x509.DistributionPoint([x509.UniformResourceIdentifier("http://c.example/x")], None, None, None)]),
        x509.AuthorityInformationAccess([x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier("http://o"))]),
    )  # fmt: skip
    return [make(kind, names=("a.example.org", "10.0.0.1"), extensions=tuple((one, True) for one in every)) for kind in ("rsa-1024", "secp256r1")]


def test_mutated_certificates_are_read_or_refused() -> None:
    chance = random.Random(7)  # noqa: S311 - the same mutations each time
    for der in mutations():
        # Each byte once, and then several at a time, with bytes removed and added.
        changed = [der[:at] + bytes([chance.randrange(256)]) + der[at + 1 :] for at in range(len(der)) for _ in range(6)]
        changed += [der[:at] for at in range(len(der))]
        for _ in range(3000):
            data = bytearray(der)
            for _ in range(chance.randrange(1, 5)):
                at = chance.randrange(len(data))
                how = chance.randrange(3)
                if how == 0:
                    data[at] ^= 1 << chance.randrange(8)
                elif how == 1:
                    del data[at : at + chance.randrange(1, 9)]
                else:
                    data[at:at] = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 9)))
            changed.append(bytes(data))
        for one in changed:
            read_or_refused(one)


def test_mutated_text_is_read_or_refused() -> None:
    chance = random.Random(8)  # noqa: S311 - the same mutations each time
    text = bytearray((to_pem(make()) + to_pem(make("ed25519"))).encode())
    for _ in range(4000):
        data = bytearray(text)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(data))
            data[at : at + chance.randrange(3)] = bytes(chance.randrange(256) for _ in range(chance.randrange(3)))
        read_or_refused(bytes(data))


def read_or_refused(data: bytes) -> None:
    try:
        for one in parse_chain(data):
            assert one.lifetime() == one.not_after - one.not_before
            one.covers("a.example.org")
            assert one.serial_hex
            one.subject.encode()
    except CertificateError as told:
        assert told.code


def test_every_truncation_of_der_is_called_so() -> None:
    der = make()
    for at in range(1, len(der)):
        with pytest.raises(CertificateError) as told:
            parse_chain(der[:at])
        assert told.value.code == "truncated"


def test_text_around_blocks_and_line_ends_do_not_matter() -> None:
    one, two = make(), make("ed25519")
    text = f"subject: CN=x\n 0 s:/CN=é\n{to_pem(one)}\nbetween -----\n{to_pem(two)}trailing"
    for data in (text, text.replace("\n", "\r\n"), "\ufeff" + to_pem(one) + to_pem(two)):
        assert [found.der for found in parse_chain(data.encode())] == [one, two]
        assert is_pem(data.encode())


def test_the_keys_beside_certificates_are_passed_over() -> None:
    private = key("secp256r1").private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert len(parse_chain(private + to_pem(make()).encode())) == 1


def test_der_with_pem_in_it_is_der() -> None:
    note = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x04\x1e\n-----BEGIN CERTIFICATE-----\n")
    der = make(extensions=((note, False),))
    assert not is_pem(der)
    assert parse_chain(der)[0].der == der


def test_two_different_signature_algorithms_are_refused() -> None:
    der = make()
    sha256, sha384 = bytes.fromhex("06082a8648ce3d040302"), bytes.fromhex("06082a8648ce3d040303")
    assert der.count(sha256) == 2
    assert parse_der(der.replace(sha256, sha384)).signature_hash == "sha384"
    with pytest.raises(CertificateError, match="two different signature algorithms"):
        parse_der(der.replace(sha256, sha384, 1))


def test_an_extension_that_is_there_twice_is_refused() -> None:
    others = [x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.2.3.{last}"), b"\x05\x00") for last in (4, 5)]
    der = make(extensions=tuple((one, False) for one in others))
    with pytest.raises(CertificateError, match=r"extension 1\.2\.3\.4 twice"):
        parse_der(der.replace(b"\x06\x03\x2a\x03\x05", b"\x06\x03\x2a\x03\x04"))


def test_a_path_length_makes_no_authority() -> None:
    basic = x509.UnrecognizedExtension(x509.BasicConstraints.oid, bytes.fromhex("3003020105"))
    one = parse_der(make(extensions=((basic, True),)))
    assert (one.is_ca, one.path_length) == (False, None)


@pytest.mark.parametrize("how", ["x509", "trusted"])
def test_the_labels_openssl_knows(tmp_path: Path, how: str) -> None:
    data = to_pem(make()).encode()
    if how == "trusted":
        (tmp_path / "plain").write_bytes(data)
        argv = ["openssl", "x509", "-in", str(tmp_path / "plain"), "-trustout", "-addtrust", "serverAuth"]
        data = subprocess.run(argv, check=True, capture_output=True).stdout
        assert b"TRUSTED" in data
    else:
        data = data.replace(b"CERTIFICATE", b"X509 CERTIFICATE")
    assert parse_chain(data)[0].names == ("www.example.org",)


def pem_of(label: str, body: str = "MAA=") -> bytes:
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n".encode()


# Each worker makes its own certificates: what is in them must not get into the names of tests.
NONE = [
    (b"", "empty"),
    (b" \r\n\t\n", "empty"),
    (b"\xef\xbb\xbf", "empty"),
    (b"\0" * 4096, "empty"),
    (b"hello\n", "not-pem"),
    (b"0 is a digit and 0x30", "truncated"),
    (b"\x30\x80\x00\x00", "der"),
    (b"\x30\x81\x05\x00", "der"),
    (to_pem(make()).encode()[:20], "truncated"),
    (to_pem(make()).encode()[:200], "truncated"),
    (to_pem(make()).encode()[:-5], "truncated"),
    (to_pem(make()).encode()[:300] + to_pem(make()).encode(), "truncated"),
    (to_pem(make()).encode() + to_pem(make()).encode()[:300], "truncated"),
    (to_pem(make()[:-10]).encode(), "truncated"),
    (to_pem(make() + b"\0").encode(), "der"),
    (to_pem(make()).replace("M", "!", 1).encode(), "base64"),
    (pem_of("PRIVATE KEY"), "key-instead"),
    (pem_of("ENCRYPTED PRIVATE KEY"), "key-instead"),
    (pem_of("CERTIFICATE REQUEST"), "other-instead"),
    (pem_of("X509 CRL"), "other-instead"),
    (pem_of("CERTIFICATE"), "der"),
    (b"-----BEGIN CERTIFICATE-----\n" + b"A" * (5 << 20), "too-large"),
    (b"\x30\x84\x00\xff\xff\xff" + b"A" * 300_000, "too-large"),
]


@pytest.mark.parametrize(("data", "code"), NONE, ids=range(len(NONE)))
def test_what_is_no_certificate_is_told_apart(data: bytes, code: str) -> None:
    with pytest.raises(CertificateError) as told:
        parse_chain(data)
    assert told.value.code == code
    assert str(told.value)


@pytest.mark.parametrize("kind", ["rsa-2048", "secp256r1", "ed25519"])
@pytest.mark.parametrize("shape", ["PKCS8", "TraditionalOpenSSL", "encrypted"])
def test_a_key_in_der_is_called_a_key(kind: str, shape: str) -> None:
    if kind == "ed25519" and shape == "TraditionalOpenSSL":
        pytest.skip("there is no such key")
    form = serialization.PrivateFormat.PKCS8 if shape == "encrypted" else getattr(serialization.PrivateFormat, shape)
    secret: Any = serialization.BestAvailableEncryption(b"x") if shape == "encrypted" else serialization.NoEncryption()
    with pytest.raises(CertificateError) as told:
        parse_chain(key(kind).private_bytes(serialization.Encoding.DER, form, secret))
    assert told.value.code == "key-instead"


@pytest.mark.parametrize(
    ("raw", "value"),
    [("020100", 0), ("02017f", 127), ("02020080", 128), ("0201ff", -1), ("020180", -128), ("0202ff7f", -129), ("02080000000000000000", None),
     ("0202007f", None), ("0202ff80", None), ("0200", None), ("030100", None)],
)  # fmt: skip
def test_integers(raw: str, value: int | None) -> None:
    one, _ = element(bytes.fromhex(raw))
    if value is not None:
        assert integer(one) == value
        return
    with pytest.raises(CertificateError):
        integer(one)


@pytest.mark.parametrize(
    ("serial", "text"),
    [(0, "00"), (1, "01"), (0x80, "80"), (0xABC, "0ABC"), (-1, "-01"), (-0xABC, "-0ABC"), (1 << 152, "01" + "00" * 19)],
)
def test_serial_numbers_are_written_as_openssl_writes_them(serial: int, text: str) -> None:
    one = dataclasses.replace(parse_der(make()), serial=serial)
    assert one.serial_hex == text


def test_a_negative_serial_is_read_as_openssl_reads_it() -> None:
    der = make(serial=0x7A1B2C3D)
    der = der.replace(bytes.fromhex("02047A1B2C3D"), bytes.fromhex("0204FA1B2C3D"), 1)
    said = subprocess.run(["openssl", "x509", "-inform", "DER", "-noout", "-serial"], input=der, check=True, capture_output=True).stdout
    assert f"serial={parse_der(der).serial_hex}\n".encode() == said


@pytest.mark.parametrize(
    ("tag", "text", "seconds"),
    [
        (0x17, "500101000000Z", datetime(1950, 1, 1, tzinfo=UTC)),
        (0x17, "491231235959Z", datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (0x18, "20500101000000Z", datetime(2050, 1, 1, tzinfo=UTC)),
        (0x18, "99991231235959Z", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (0x18, "00010101000000Z", datetime(1, 1, 1, tzinfo=UTC)),
        (0x17, "260230000000Z", None),
        (0x17, "2601010000Z", None),
        (0x17, "260101000000+0100", None),
        (0x18, "20260101000000.5Z", None),
        (0x18, "00000101000000Z", None),
        (0x18, "20260101000060Z", None),
        (0x04, "260101000000Z", None),
    ],
)
def test_times(tag: int, text: str, seconds: datetime | None) -> None:
    one = Element(tag, text.encode(), b"")
    if seconds is not None:
        assert moment(one) == seconds.timestamp()
        return
    with pytest.raises(CertificateError) as told:
        moment(one)
    assert told.value.code == "der"


@pytest.mark.parametrize(
    ("names", "asked", "covered"),
    [
        (("www.example.org",), "WWW.Example.org.", True),
        (("www.example.org",), "example.org", False),
        (("www.example.org",), "a.www.example.org", False),
        (("*.example.org",), "a.example.org", True),
        (("*.example.org",), "A.Example.ORG", True),
        (("*.example.org",), "a.b.example.org", False),
        (("*.example.org",), "example.org", False),
        (("*.example.org",), ".example.org", False),
        (("*.example.org",), "*.example.org", True),
        (("*.example.org",), "*.a.example.org", False),
        (("www.example.org",), "*.example.org", False),
        (("*.org",), "example.org", False),
        (("w*.example.org",), "www.example.org", False),
        (("*.*.example.org",), "a.b.example.org", False),
        (("*",), "localhost", False),
        (("10.0.0.1",), "10.0.0.1", True),
        (("*.0.0.1",), "10.0.0.1", False),
        (("2001:db8::1",), "2001:0DB8:0:0::1", True),
        (("localhost",), "localhost", True),
        (("localhost",), "", False),
    ],
)
def test_which_names_are_covered(names: tuple[str, ...], asked: str, covered: bool) -> None:
    assert parse_der(make(names=names)).covers(asked) is covered


def test_an_address_written_as_a_host_name_covers_nothing() -> None:
    builder_names = x509.SubjectAlternativeName([x509.DNSName("10.0.0.1"), x509.DNSName("a.example.org")])
    one = parse_der(make(names=None, extensions=((builder_names, False),)))
    assert one.names == ("a.example.org",)


def test_the_common_name_counts_only_without_alternative_names() -> None:
    assert parse_der(make(names=None)).names == ("www.example.org",)
    assert not parse_der(make(names=None)).has_san
    assert parse_der(make(names=("other.example.org",))).names == ("other.example.org",)


def test_a_name_with_a_nul_covers_nothing_else() -> None:
    der = make(names=("www.example.orgx.evil.example",)).replace(b"orgx.evil", b"org\0.evil")
    one = parse_der(der)
    assert not one.covers("www.example.org")
    assert one.names == ("www.example.org\\x00.evil.example",)


def test_control_characters_do_not_get_into_texts() -> None:
    der = make(subject="a-line-x-end", names=None).replace(b"a-line-x-end", b"a-line\n\x1b[31x")
    assert parse_der(der).subject == "CN=a-line\\0A\\1B[31x"


def test_lifetimes() -> None:
    one = parse_der(make())
    begin = THEN.timestamp()
    assert one.lifetime() == 90 * 86400
    assert one.left(begin + 86400) == 89 * 86400
    assert one.fraction_left(begin + 60 * 86400) == pytest.approx(1 / 3)
    assert [one.fraction_left(begin - 5), one.fraction_left(begin + 91 * 86400)] == [1.0, 0.0]
    assert dataclasses.replace(one, not_after=one.not_before).fraction_left(begin) == 0.0


def test_pem_is_what_openssl_writes() -> None:
    der = make()
    said = subprocess.run(["openssl", "x509", "-inform", "DER"], input=der, check=True, capture_output=True).stdout
    assert to_pem(der).encode() == said
