# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""X.509 certificates read without a library: what is in one (RFC 5280), as strict as DER is.

Signatures are not verified here: that is OpenSSL's part (certificates_judge.verify_chain).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import re
from dataclasses import dataclass, field
from datetime import datetime, timezone

# The largest certificates there are carry a hundred names or a post-quantum key, and stay below 100 KiB.
MAX_DER_BYTES = 256 << 10
MAX_FILE_BYTES = 4 << 20

SEQUENCE, SET, INTEGER, BIT_STRING, OCTET_STRING, OID, BOOLEAN = 0x30, 0x31, 0x02, 0x03, 0x04, 0x06, 0x01
UTC_TIME, GENERALIZED_TIME = 0x17, 0x18

BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
BEGIN = re.compile(rb"(?:\A|[\r\n])(?:\xef\xbb\xbf)?[ \t]*-----BEGIN ")
CERTIFICATE_LABELS = (b"CERTIFICATE", b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE")

TEXTS = {12: "utf-8", 18: "ascii", 19: "ascii", 20: "latin-1", 22: "ascii", 26: "ascii", 28: "utf-32-be", 30: "utf-16-be"}
COMMON_NAME = "2.5.4.3"
ATTRIBUTES = {COMMON_NAME: "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.9": "STREET", "2.5.4.10": "O",
              "2.5.4.11": "OU", "0.9.2342.19200300.100.1.1": "UID", "0.9.2342.19200300.100.1.25": "DC"}  # fmt: skip
RSA, RSA_PSS, EC, DSA = "1.2.840.113549.1.1.1", "1.2.840.113549.1.1.10", "1.2.840.10045.2.1", "1.2.840.10040.4.1"
KEYS = {RSA: "rsa", RSA_PSS: "rsa", EC: "ec", DSA: "dsa", "1.3.101.110": "x25519", "1.3.101.111": "x448",
        "1.3.101.112": "ed25519", "1.3.101.113": "ed448", "2.16.840.1.101.3.4.3.17": "ml-dsa-44",
        "2.16.840.1.101.3.4.3.18": "ml-dsa-65", "2.16.840.1.101.3.4.3.19": "ml-dsa-87"}  # fmt: skip
KEY_BITS = {"x25519": 256, "ed25519": 256, "x448": 448, "ed448": 456}
CURVES = {"1.2.840.10045.3.1.1": ("secp192r1", 192), "1.3.132.0.33": ("secp224r1", 224),
          "1.2.840.10045.3.1.7": ("secp256r1", 256), "1.3.132.0.34": ("secp384r1", 384), "1.3.132.0.35": ("secp521r1", 521),
          "1.3.132.0.10": ("secp256k1", 256), "1.3.36.3.3.2.8.1.1.7": ("brainpoolP256r1", 256),
          "1.3.36.3.3.2.8.1.1.11": ("brainpoolP384r1", 384), "1.3.36.3.3.2.8.1.1.13": ("brainpoolP512r1", 512)}  # fmt: skip
HASHES = {"1.2.840.113549.2.5": "md5", "1.3.14.3.2.26": "sha1", "2.16.840.1.101.3.4.2.4": "sha224",
          "2.16.840.1.101.3.4.2.1": "sha256", "2.16.840.1.101.3.4.2.2": "sha384", "2.16.840.1.101.3.4.2.3": "sha512"}  # fmt: skip
SIGNATURES = {
    "1.2.840.113549.1.1.2": ("md2WithRSAEncryption", "md2"), "1.2.840.113549.1.1.4": ("md5WithRSAEncryption", "md5"),
    "1.2.840.113549.1.1.5": ("sha1WithRSAEncryption", "sha1"), "1.3.14.3.2.29": ("sha1WithRSA", "sha1"),
    "1.2.840.113549.1.1.14": ("sha224WithRSAEncryption", "sha224"), "1.2.840.113549.1.1.11": ("sha256WithRSAEncryption", "sha256"),
    "1.2.840.113549.1.1.12": ("sha384WithRSAEncryption", "sha384"), "1.2.840.113549.1.1.13": ("sha512WithRSAEncryption", "sha512"),
    "1.2.840.10045.4.1": ("ecdsa-with-SHA1", "sha1"), "1.2.840.10045.4.3.1": ("ecdsa-with-SHA224", "sha224"),
    "1.2.840.10045.4.3.2": ("ecdsa-with-SHA256", "sha256"), "1.2.840.10045.4.3.3": ("ecdsa-with-SHA384", "sha384"),
    "1.2.840.10045.4.3.4": ("ecdsa-with-SHA512", "sha512"), "1.2.840.10040.4.3": ("dsa-with-SHA1", "sha1"),
    "2.16.840.1.101.3.4.3.1": ("dsa-with-SHA224", "sha224"), "2.16.840.1.101.3.4.3.2": ("dsa-with-SHA256", "sha256"),
    "1.3.101.112": ("ed25519", ""), "1.3.101.113": ("ed448", ""), "2.16.840.1.101.3.4.3.17": ("ml-dsa-44", ""),
    "2.16.840.1.101.3.4.3.18": ("ml-dsa-65", ""), "2.16.840.1.101.3.4.3.19": ("ml-dsa-87", ""),
}  # fmt: skip
USAGES = {"1.3.6.1.5.5.7.3.1": "serverAuth", "1.3.6.1.5.5.7.3.2": "clientAuth", "1.3.6.1.5.5.7.3.3": "codeSigning",
          "1.3.6.1.5.5.7.3.4": "emailProtection", "1.3.6.1.5.5.7.3.8": "timeStamping", "1.3.6.1.5.5.7.3.9": "OCSPSigning",
          "2.5.29.37.0": "anyExtendedKeyUsage"}  # fmt: skip
SKI, SAN, BASIC_CONSTRAINTS, CRL_POINTS = "2.5.29.14", "2.5.29.17", "2.5.29.19", "2.5.29.31"
AKI, EXTENDED_USAGE, AUTHORITY_ACCESS = "2.5.29.35", "2.5.29.37", "1.3.6.1.5.5.7.1.1"
OCSP, CA_ISSUERS = "1.3.6.1.5.5.7.48.1", "1.3.6.1.5.5.7.48.2"


class CertificateError(ValueError):
    """These bytes are no certificate.

    `code`: empty, truncated, too-large, not-pem (neither PEM nor DER), base64, der, key-instead, other-instead (a request,
    a revocation list, ...).
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True)
class Element:
    """One DER value: its tag byte, its content, and all its bytes."""

    tag: int
    content: bytes
    raw: bytes


@dataclass(frozen=True)
class Certificate:
    """What a certificate says. Times are seconds since the epoch; `names` is what it is good for: DNS names in lower case and
    addresses in short form from its subject alternative names, the common name alone where it has no such extension.

    `curve` is "" but for key_algorithm ec; `path_length` None where unlimited; `ski` and `aki` are key identifiers, b"" where
    absent; `signature_hash` is "" where the algorithm has its own.
    """

    der: bytes = field(repr=False)
    serial: int
    subject: str
    issuer: str
    subject_der: bytes = field(repr=False)
    issuer_der: bytes = field(repr=False)
    names: tuple[str, ...]
    has_san: bool
    not_before: float
    not_after: float
    key_algorithm: str
    key_bits: int
    curve: str
    spki_sha256: str
    signature_algorithm: str
    signature_hash: str
    is_ca: bool
    path_length: int | None
    ski: bytes
    aki: bytes
    ocsp_urls: tuple[str, ...]
    crl_urls: tuple[str, ...]
    issuer_urls: tuple[str, ...]
    usages: tuple[str, ...]

    @property
    def self_signed(self) -> bool:
        """Whether issuer and subject are the same; the signature itself is not looked at."""
        return self.issuer_der == self.subject_der

    @property
    def fingerprint(self) -> str:
        """The sha256 of the certificate, in lower case hex."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def serial_hex(self) -> str:
        """The serial number as OpenSSL prints it: upper case, two digits a byte, a minus before a negative one."""
        digits = f"{abs(self.serial):X}"
        return ("-" if self.serial < 0 else "") + "0" * (len(digits) % 2) + digits

    def lifetime(self) -> float:
        """Return the seconds from its first to its last moment; negative where they are the wrong way round."""
        return self.not_after - self.not_before

    def left(self, now: float) -> float:
        """Return the seconds until it expires; negative afterwards."""
        return self.not_after - now

    def fraction_left(self, now: float) -> float:
        """Return the part of its lifetime that is left, 0.0 to 1.0."""
        whole = self.lifetime()
        return max(0.0, min(1.0, self.left(now) / whole)) if whole > 0 else 0.0

    def covers(self, name: str) -> bool:
        """Return whether a client that asked for `name` (host name or address) accepts this certificate for it.

        A wildcard stands for one whole label on the left, never for an address, never directly above a top-level domain.
        """
        asked = _normal(name)
        if asked in self.names:
            return bool(asked)
        label, _, rest = asked.partition(".")
        return bool(label) and label != "*" and "." in rest and not is_address(asked) and f"*.{rest}" in self.names

    def issued(self, other: Certificate) -> bool:
        """Return whether this certificate says it is the issuer of the other, by name and key identifier."""
        return self.subject_der == other.issuer_der and not (other.aki and self.ski and other.aki != self.ski)


def is_pem(data: bytes) -> bool:
    """Return whether this is text with PEM blocks; a DER file may have such text in it and is none."""
    return not _is_der(data) and BEGIN.search(data) is not None


def to_pem(der: bytes) -> str:
    """Return a certificate as a PEM block with a line end."""
    text = base64.b64encode(der).decode("ascii")
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def parse_chain(data: bytes) -> list[Certificate]:
    """Return the certificates of a file in their order, one at least: PEM with any text around it, or one in DER.

    Raise CertificateError where there is none, or one of them cannot be read.
    """
    if not data.strip(b"\xef\xbb\xbf \t\r\n\0"):
        raise CertificateError("empty", "there is nothing in it")
    if len(data) > MAX_FILE_BYTES:
        raise CertificateError("too-large", f"it has {len(data)} bytes, more than {MAX_FILE_BYTES} are not read")
    if not is_pem(data):
        if data[0] != SEQUENCE:
            raise CertificateError("not-pem", "it is neither PEM nor DER")
        return [parse_der(data)]
    blocks = pem_blocks(data)
    found = [parse_der(der) for label, der in blocks if label in CERTIFICATE_LABELS]
    if not found and any(label.endswith(b"PRIVATE KEY") for label, _ in blocks):
        raise CertificateError("key-instead", "it holds a private key and no certificate")
    if not found:
        labels = ", ".join(sorted({label.decode("ascii") for label, _ in blocks}))
        raise CertificateError("other-instead", f"it holds no certificate, but {labels}")
    return found


def pem_blocks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return label and content of the PEM blocks in a text; the content of private keys is left out (b"").

    Raise CertificateError (truncated, base64) where one has no end or is damaged.
    """
    found = []
    at = 0
    for match in BLOCK.finditer(data):
        label, text = match.group(1), match.group(2)
        if BEGIN.search(data, at, match.start()) or b"-----BEGIN" in text:
            raise CertificateError("truncated", "a PEM block in it has no end")
        at = match.end()
        if label.endswith(b"PRIVATE KEY"):
            found.append((label, b""))
            continue
        der = decoded(text)
        if label == b"TRUSTED CERTIFICATE":
            # OpenSSL writes what it trusts the certificate for behind it.
            der = _first(der).raw
        found.append((label, der))
    if BEGIN.search(data, at):
        raise CertificateError("truncated", "a PEM block in it has no end")
    return found


def decoded(text: bytes) -> bytes:
    """Return the content of a PEM block. Raise CertificateError: base64, or truncated where only its end is missing."""
    body = b"".join(text.split())
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        cut = re.fullmatch(rb"[A-Za-z0-9+/]+", body) and len(body) % 4
        raise CertificateError("truncated" if cut else "base64", "a PEM block in it is not whole base64") from None


def parse_der(data: bytes) -> Certificate:
    """Return the certificate that these bytes are. Raise CertificateError for all other bytes."""
    if not data:
        raise CertificateError("empty", "there is nothing in it")
    if len(data) > MAX_DER_BYTES:
        raise CertificateError("too-large", f"it has {len(data)} bytes; a certificate has {MAX_DER_BYTES} at most")
    whole = _first(data)
    if whole.raw != data:
        raise CertificateError("der", f"there are {len(data) - len(whole.raw)} bytes behind it")
    _wants(whole, SEQUENCE)
    if _is_key(whole.content):
        raise CertificateError("key-instead", "it is a private key and no certificate")
    try:
        return _certificate(whole)
    except CertificateError:
        raise
    except (ValueError, IndexError, OverflowError, KeyError) as error:
        raise CertificateError("der", f"it is no certificate: {error}") from None


def element(data: bytes, at: int = 0) -> tuple[Element, int]:
    """Return the DER value that begins at `at`, and where the next one begins. Raise CertificateError (truncated, der)."""
    if len(data) < at + 2:
        raise CertificateError("truncated", "it ends in the middle of a value")
    tag, length, start = data[at], data[at + 1], at + 2
    if tag & 0x1F == 0x1F:
        raise CertificateError("der", "it has a tag that certificates do not have")
    if length == 0x80 or length > 0x84:
        raise CertificateError("der", "it has a length that DER does not allow")
    if length > 0x80:
        count = length - 0x80
        digits = data[start : start + count]
        if len(digits) < count:
            raise CertificateError("truncated", "it ends in the middle of a length")
        length, start = int.from_bytes(digits, "big"), start + count
        if length < 0x80 or digits[0] == 0:
            raise CertificateError("der", "it has a length that is not in its shortest form")
    end = start + length
    if end > len(data):
        raise CertificateError("truncated", f"a value of {length} bytes begins where {len(data) - start} are left")
    return Element(tag, data[start:end], data[at:end]), end


def elements(content: bytes) -> list[Element]:
    """Return the DER values that follow one another in `content`. Raise CertificateError."""
    found = []
    at = 0
    while at < len(content):
        one, at = element(content, at)
        found.append(one)
    return found


def integer(one: Element) -> int:
    """Return an INTEGER, in its shortest form as DER demands it. Raise CertificateError."""
    _wants(one, INTEGER)
    content = one.content
    if not content or (len(content) > 1 and content[0] in (0, 0xFF) and (content[0] == 0) == (content[1] < 0x80)):
        raise CertificateError("der", "it has a number that is not in its shortest form")
    return int.from_bytes(content, "big", signed=True)


def moment(one: Element) -> float:
    """Return a UTCTime or GeneralizedTime as seconds since the epoch. Raise CertificateError."""
    if one.tag not in (UTC_TIME, GENERALIZED_TIME):
        raise CertificateError("der", f"it has a value of type {one.tag:#x} in place of a time")
    digits = 12 if one.tag == UTC_TIME else 14
    if not re.fullmatch(rb"[0-9]{%d}Z" % digits, one.content):
        raise CertificateError("der", f"it has the time {one.content[:24]!r}, which DER does not allow")
    text = one.content[:-1].decode("ascii")
    if one.tag == UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    year, rest = int(text[:4]), [int(text[at : at + 2]) for at in range(4, 14, 2)]
    try:
        return datetime(year, rest[0], rest[1], rest[2], rest[3], rest[4], tzinfo=timezone.utc).timestamp()
    except ValueError:
        raise CertificateError("der", f"it has the time {text}, which is none") from None


def dotted(one: Element) -> str:
    """Return an OBJECT IDENTIFIER in dotted form. Raise CertificateError."""
    _wants(one, OID)
    content = one.content
    if not content or content[-1] & 0x80 or len(content) > 64:
        raise CertificateError("der", "it has an object identifier that is none")
    arcs: list[int] = []
    value = 0
    fresh = True
    for byte in content:
        if fresh and byte == 0x80:
            raise CertificateError("der", "it has an object identifier that is not in its shortest form")
        value, fresh = value << 7 | byte & 0x7F, not byte & 0x80
        if fresh:
            arcs.append(value)
            value = 0
    top = min(arcs[0] // 40, 2)
    return ".".join(str(arc) for arc in (top, arcs[0] - 40 * top, *arcs[1:]))


def name_text(name: Element) -> str:
    """Return a distinguished name as RFC 4514 writes it, the most specific part first."""
    parts = []
    for rdn in reversed(_sequence(name)):
        _wants(rdn, SET)
        parts.append("+".join(_attribute(one) for one in elements(rdn.content)))
    return ",".join(parts)


def public_key(spki: Element) -> tuple[str, int, str]:
    """Return algorithm, bits and curve ("" where it has none) of a SubjectPublicKeyInfo. Raise CertificateError, IndexError."""
    algorithm, public = _exactly(spki, 2)
    key = _bits(public)
    fields = _sequence(algorithm)
    oid = dotted(fields[0])
    name = KEYS.get(oid, oid)
    if name == "rsa":
        return name, integer(_sequence(_first(key))[0]).bit_length(), ""
    if name == "dsa":
        inherits = len(fields) < 2 or fields[1].tag != SEQUENCE
        return name, 0 if inherits else integer(_sequence(fields[1])[0]).bit_length(), ""
    if name == "ec":
        # A point is 04 and two coordinates, or 02/03 and one.
        coordinate = max(0, (len(key) - 1) // 2 if key[:1] == b"\x04" else len(key) - 1)
        if len(fields) < 2 or fields[1].tag != OID:
            return name, coordinate * 8, "explicit"
        curve = dotted(fields[1])
        return (name, CURVES[curve][1], CURVES[curve][0]) if curve in CURVES else (name, coordinate * 8, curve)
    return name, KEY_BITS.get(name, len(key) * 8), ""


def _certificate(whole: Element) -> Certificate:
    body, signed_with, signature = _exactly(whole, 3)
    _bits(signature)
    parts = _sequence(body)
    if parts and parts[0].tag == 0xA0:
        parts = parts[1:]
    if len(parts) < 6:
        raise CertificateError("der", f"it is no certificate: it has {len(parts)} parts of 6")
    serial, algorithm, issuer, validity, subject, spki = parts[:6]
    if algorithm.raw != signed_with.raw:
        raise CertificateError("der", "it names two different signature algorithms")
    begins, ends = _exactly(validity, 2)
    signature_algorithm, signature_hash = _signature(signed_with)
    key_algorithm, key_bits, curve = public_key(spki)
    extensions = _extensions(parts[6:])
    san = extensions.get(SAN)
    is_ca, path_length = _constraints(extensions.get(BASIC_CONSTRAINTS))
    ocsp_urls, issuer_urls = _access(extensions.get(AUTHORITY_ACCESS))
    return Certificate(
        der=whole.raw,
        serial=integer(serial),
        subject=name_text(subject),
        issuer=name_text(issuer),
        subject_der=subject.raw,
        issuer_der=issuer.raw,
        names=_common_name(subject) if san is None else _alternative_names(san),
        has_san=san is not None,
        not_before=moment(begins),
        not_after=moment(ends),
        key_algorithm=key_algorithm,
        key_bits=key_bits,
        curve=curve,
        spki_sha256=hashlib.sha256(spki.raw).hexdigest(),
        signature_algorithm=signature_algorithm,
        signature_hash=signature_hash,
        is_ca=is_ca,
        path_length=path_length,
        ski=_key_id(extensions.get(SKI)),
        aki=_authority_key_id(extensions.get(AKI)),
        ocsp_urls=ocsp_urls,
        crl_urls=_crl_urls(extensions.get(CRL_POINTS)),
        issuer_urls=issuer_urls,
        usages=_usages(extensions.get(EXTENDED_USAGE)),
    )


def _extensions(parts: list[Element]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in parts:
        if part.tag != 0xA3:
            continue  # the unique identifiers of version 2
        for one in _sequence(_first(part.content)):
            fields = _sequence(one)
            if not 2 <= len(fields) <= 3 or fields[-1].tag != OCTET_STRING:
                raise CertificateError("der", "it has an extension that is none")
            key = dotted(fields[0])
            if key in found:
                raise CertificateError("der", f"it has the extension {key} twice")
            found[key] = fields[-1].content
    return found


def _signature(algorithm: Element) -> tuple[str, str]:
    fields = _sequence(algorithm)
    oid = dotted(fields[0])
    if oid != RSA_PSS:
        return SIGNATURES.get(oid, (oid, ""))
    # RFC 4055: the hash is in the parameters, and sha1 where they do not say.
    for one in _sequence(fields[1]) if len(fields) > 1 else ():
        if one.tag == 0xA0:
            digest = dotted(_sequence(_first(one.content))[0])
            return "rsassaPss", HASHES.get(digest, digest)
    return "rsassaPss", "sha1"


def _constraints(value: bytes | None) -> tuple[bool, int | None]:
    fields = _sequence(_only(value)) if value is not None else []
    is_ca, length = False, None
    if fields and fields[0].tag == BOOLEAN:
        is_ca, fields = fields[0].content == b"\xff", fields[1:]
    if fields:
        length = integer(fields[0])
    return is_ca, length if is_ca else None


def _alternative_names(value: bytes) -> tuple[str, ...]:
    names = []
    for one in _sequence(_only(value)):
        if one.tag == 0x82:
            name = _normal(_printable(one.content))
            # An address that is written as a host name is accepted by no client.
            if name and not is_address(name):
                names.append(name)
        elif one.tag == 0x87 and len(one.content) in (4, 16):
            names.append(str(ipaddress.ip_address(one.content)))
    return tuple(dict.fromkeys(names))


def _common_name(subject: Element) -> tuple[str, ...]:
    found = ""
    for rdn in _sequence(subject):
        for one in elements(rdn.content):
            oid, value = _exactly(one, 2)
            if dotted(oid) == COMMON_NAME and value.tag in TEXTS:
                found = _normal(value.content.decode(TEXTS[value.tag], "backslashreplace"))
    return (found,) if found else ()


def _access(value: bytes | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    ocsp, issuers = [], []
    for one in _sequence(_only(value)) if value is not None else ():
        method, place = _exactly(one, 2)
        if place.tag == 0x86:
            kind = dotted(method)
            if kind == OCSP:
                ocsp.append(_printable(place.content))
            elif kind == CA_ISSUERS:
                issuers.append(_printable(place.content))
    return tuple(ocsp), tuple(issuers)


def _crl_urls(value: bytes | None) -> tuple[str, ...]:
    urls = []
    for point in _sequence(_only(value)) if value is not None else ():
        for part in _sequence(point):
            if part.tag != 0xA0:
                continue
            for form in elements(part.content):
                if form.tag == 0xA0:
                    urls += [_printable(one.content) for one in elements(form.content) if one.tag == 0x86]
    return tuple(urls)


def _usages(value: bytes | None) -> tuple[str, ...]:
    oids = [dotted(one) for one in _sequence(_only(value))] if value is not None else []
    return tuple(USAGES.get(oid, oid) for oid in oids)


def _key_id(value: bytes | None) -> bytes:
    if value is None:
        return b""
    one = _only(value)
    _wants(one, OCTET_STRING)
    return one.content


def _authority_key_id(value: bytes | None) -> bytes:
    for one in _sequence(_only(value)) if value is not None else ():
        if one.tag == 0x80:
            return one.content
    return b""


def _attribute(one: Element) -> str:
    oid, value = _exactly(one, 2)
    key = dotted(oid)
    if value.tag not in TEXTS:
        return f"{ATTRIBUTES.get(key, key)}=#{value.raw.hex()}"
    return f"{ATTRIBUTES.get(key, key)}={_escaped(value.content.decode(TEXTS[value.tag], 'backslashreplace'))}"


def _escaped(text: str) -> str:
    text = re.sub(r'([\\"+,;<>])', r"\\\1", text)
    text = re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\{ord(found.group()):02X}", text)
    if text[:1] in (" ", "#"):
        text = "\\" + text
    if len(text) > 1 and text.endswith(" ") and text != "\\ ":
        text = text[:-1] + "\\ "
    return text


def _printable(content: bytes) -> str:
    text = content.decode("ascii", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\x{ord(found.group()):02x}", text)


def _normal(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower().rstrip(".")


def is_address(name: str) -> bool:
    """Return whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_der(data: bytes) -> bool:
    if data[:1] != b"\x30":
        return False
    try:
        return element(data)[1] == len(data)
    except CertificateError:
        return False


def _is_key(content: bytes) -> bool:
    """Whether this is the inside of a private key: it begins with a version, or (encrypted) with how it is encrypted."""
    try:
        parts = elements(content)
        if len(parts) > 1 and parts[0].tag == INTEGER:
            return True
        encrypted = len(parts) == 2 and parts[0].tag == SEQUENCE and parts[1].tag == OCTET_STRING
        return encrypted and elements(parts[0].content)[0].tag == OID
    except (CertificateError, IndexError):
        return False


def _first(data: bytes) -> Element:
    return element(data)[0]


def _only(data: bytes) -> Element:
    one, end = element(data)
    if end != len(data):
        raise CertificateError("der", f"there are {len(data) - end} bytes behind a value")
    return one


def _wants(one: Element, tag: int) -> None:
    if one.tag != tag:
        raise CertificateError("der", f"it has a value of type {one.tag:#x} where {tag:#x} must be")


def _sequence(one: Element) -> list[Element]:
    _wants(one, SEQUENCE)
    return elements(one.content)


def _exactly(one: Element, count: int) -> list[Element]:
    parts = _sequence(one)
    if len(parts) != count:
        raise CertificateError("der", f"it has {len(parts)} values where {count} must be")
    return parts


def _bits(one: Element) -> bytes:
    _wants(one, BIT_STRING)
    if not one.content or one.content[0] != 0:
        raise CertificateError("der", "it has a bit string that is not made of whole bytes")
    return one.content[1:]


def utc(seconds: float) -> str:
    """Return a moment (seconds since the epoch) as people read it: ISO 8601, UTC, whole seconds."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f} s since 1970"
