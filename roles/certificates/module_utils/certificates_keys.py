# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Private keys: what one is, and new ones with their requests. OpenSSL does the arithmetic.

A key goes to OpenSSL on its standard input or by its path, never on a command line, and is in no message.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from ansible.module_utils.certificates_model import HOST_NAME, KEY_TYPES
from ansible.module_utils.certificates_x509 import (
    BEGIN,
    BLOCK,
    INTEGER,
    OCTET_STRING,
    OID,
    SEQUENCE,
    CertificateError,
    Element,
    decoded,
    element,
    elements,
    integer,
    is_address,
    public_key,
)
from ansible.module_utils.runbook_state import sync_folder
from ansible.module_utils.runbook_tools import ToolError, ToolMissing, Tools

MAX_KEY_BYTES = 256 << 10
# An RSA key of 4096 bits takes a slow host some seconds to make; reading one is a matter of milliseconds.
MAKE_SECONDS, READ_SECONDS = 120.0, 10.0
FORMATS = {b"PRIVATE KEY": "pkcs8", b"ENCRYPTED PRIVATE KEY": "pkcs8", b"RSA PRIVATE KEY": "pkcs1", b"EC PRIVATE KEY": "sec1",
           b"DSA PRIVATE KEY": "dsa"}  # fmt: skip
GENERATE = {
    "ecdsa-p256": ("EC", "ec_paramgen_curve:P-256"), "ecdsa-p384": ("EC", "ec_paramgen_curve:P-384"),
    "rsa-2048": ("RSA", "rsa_keygen_bits:2048"), "rsa-3072": ("RSA", "rsa_keygen_bits:3072"),
    "rsa-4096": ("RSA", "rsa_keygen_bits:4096"), "ed25519": ("ED25519", ""),
}  # fmt: skip
MAX_COMMON_NAME = 64
SELF_SIGNED = "self-signed"
CA_CONFIG = """
[ca]
default_ca = own
[own]
database = {folder}/index
new_certs_dir = {folder}
serial = {folder}/serial
default_md = {digest}
policy = any
email_in_dn = no
unique_subject = no
copy_extensions = none
x509_extensions = leaf
[any]
commonName = optional
organizationName = optional
[leaf]
basicConstraints = critical,CA:FALSE
keyUsage = critical,{usage}
extendedKeyUsage = {purposes}
subjectKeyIdentifier = hash
subjectAltName = @names
"""


class KeyError_(ValueError):
    """This is no private key that can be used.

    `code`: missing, unreadable, empty, truncated, encrypted, certificate-instead, unsupported.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True)
class KeyInfo:
    """What a private key is. `format`: pkcs8, pkcs1, sec1, dsa (each in PEM) or der.

    Of a key that OpenSSL was not asked about, only `format` and `encrypted` are known: the others are "" and 0.
    """

    algorithm: str
    bits: int
    spki_sha256: str
    format: str
    encrypted: bool = False


@dataclass(frozen=True)
class _Block:
    """A private key in PEM, alone, as OpenSSL reads it."""

    pem: str
    format: str
    encrypted: bool


def read_key(source: str | os.PathLike[str] | bytes, tools: Tools | None = None, limit_seconds: float = READ_SECONDS) -> KeyInfo:
    """Return what the private key in a file (a path) or in these bytes is. Raise KeyError_; ToolError where there is no openssl."""
    data = source if isinstance(source, bytes) else _content(os.fspath(source))
    block = _block(data)
    if block.encrypted:
        raise KeyError_("encrypted", "the key is encrypted; a service that starts by itself needs it without a passphrase")
    try:
        # An empty passphrase is given so that none is asked for, whatever this file turns out to be.
        done = (tools or Tools()).run(
            ["openssl", "pkey", "-pubout", "-outform", "PEM", "-passin", "pass:"], stdin=block.pem, limit_seconds=limit_seconds
        )
        spki = base64.b64decode("".join(line for line in done.out.split("\n") if not line.startswith("-----")), validate=True)
        algorithm, bits, _ = public_key(element(spki)[0])
    except ToolMissing:
        raise
    except ToolError as error:
        if error.rc is None:
            raise
        raise KeyError_("unsupported", "openssl cannot read the key: it is damaged, or of a kind that is not known here") from None
    except (CertificateError, ValueError, IndexError):
        raise KeyError_("unsupported", "openssl wrote no public key for it") from None
    return KeyInfo(algorithm, bits, hashlib.sha256(spki).hexdigest(), block.format)


def glance_at_key(data: bytes) -> KeyInfo:
    """Return what is seen of a private key without OpenSSL: its format and whether it is encrypted. Raise KeyError_."""
    block = _block(data)
    return KeyInfo("", 0, "", block.format, block.encrypted)


def make_key(key_type: str, path: str, mode: int, uid: int = -1, gid: int = -1, tools: Tools | None = None) -> None:
    """Make a new private key of a type in KEY_TYPES, in PKCS#8. It is nobody else's to read at any moment.

    `uid` and `gid` -1: ours. Raise FileExistsError where there is a file, ValueError for another type, ToolError, OSError.
    """
    if key_type not in GENERATE:
        raise ValueError(f"key type is {key_type!r}; it must be one of {', '.join(KEY_TYPES)}")
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "there is a file already, and a key is never overwritten", path)
    algorithm, option = GENERATE[key_type]
    options = ["-pkeyopt", option] if option else []
    if algorithm == "EC":
        options += ["-pkeyopt", "ec_param_enc:named_curve"]
    argv = ["openssl", "genpkey", "-algorithm", algorithm, *options, "-outform", "PEM"]
    made = (tools or Tools()).run(argv, limit_seconds=MAKE_SECONDS).out
    if glance_at_key(made.encode("ascii", "replace")).format != "pkcs8":
        raise ToolError("openssl genpkey wrote no PKCS#8 key")
    part = _written(path, made, 0o600)
    try:
        if (uid, gid) != (-1, -1):
            os.chown(part, uid, gid)
        os.chmod(part, mode)
        # Unlike a rename, a link never replaces what somebody else put there meanwhile.
        os.link(part, path)
    finally:
        os.unlink(part)
    sync_folder(Path(path).parent)


def make_csr(key_path: str, names: Sequence[str], path: str, tools: Tools | None = None, purposes: Sequence[str] = ()) -> None:
    """Write a certificate request for host names and addresses, replacing one that is there; its common name is the first
    of them, unless that is too long for one. `purposes` (serverAuth, clientAuth) are asked for where an authority does as it
    is asked. Raise ValueError for a name that is none, ToolError, OSError."""
    checked = _checked(names)
    _replace(path, _request(key_path, checked, tools or Tools(), purposes=purposes))


def self_sign(
    key_path: str,
    names: Sequence[str],
    days: float,
    path: str,
    client: bool = False,
    now: float | None = None,
    tools: Tools | None = None,
) -> None:
    """Write a self-signed certificate for a start without an authority: valid from `now` (seconds since the epoch) for `days`,
    no CA, and its own trust anchor. With `client` it is good for clients too. Raise ValueError, ToolError, OSError.
    """
    checked = _checked(names)
    begin = time.time() if now is None else now
    tools = tools or Tools()
    key = read_key(key_path, tools)
    # `openssl req -x509` knows whole days from now only; `openssl ca` takes both moments.
    with tempfile.TemporaryDirectory(prefix="certificates-") as folder:
        config = CA_CONFIG.format(
            folder=folder,
            digest="default" if key.algorithm in ("ed25519", "ed448") else "sha256",
            usage="digitalSignature,keyEncipherment" if key.algorithm == "rsa" else "digitalSignature",
            purposes="serverAuth,clientAuth" if client else "serverAuth",
        )
        places = {name: os.path.join(folder, name) for name in ("config", "request", "index", "made")}
        Path(places["config"]).write_text(config + _alternative_names(checked), encoding="ascii")
        Path(places["request"]).write_text(_request(key_path, checked, tools, SELF_SIGNED), encoding="ascii")
        Path(places["index"]).write_text("", encoding="ascii")
        tools.run(
            ["openssl", "ca", "-batch", "-selfsign", "-notext", "-preserveDN", "-rand_serial", "-config", places["config"],
             "-keyfile", key_path, "-passin", "pass:", "-in", places["request"], "-startdate", _stamp(begin),
             "-enddate", _stamp(begin + days * 86400), "-out", places["made"]],
            limit_seconds=READ_SECONDS,
        )  # fmt: skip
        _replace(path, Path(places["made"]).read_text(encoding="ascii"))


def _content(path: str) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise KeyError_("missing", f"{path} is not there") from None
    except OSError as error:
        raise KeyError_("unreadable", f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise KeyError_("unreadable", f"{path} is no file")
    with os.fdopen(handle, "rb") as file:
        try:
            data = file.read(MAX_KEY_BYTES + 1)
        except OSError as error:
            raise KeyError_("unreadable", f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_KEY_BYTES:
        raise KeyError_("unsupported", f"{path} has more than {MAX_KEY_BYTES} bytes, which no key has")
    return data


def _block(data: bytes) -> _Block:
    if not data.strip(b"\xef\xbb\xbf \t\r\n\0"):
        raise KeyError_("empty", "there is nothing in it")
    if data[:1] == b"\x30":
        with contextlib.suppress(CertificateError):
            if element(data)[1] == len(data):
                return _der_block(data)
    labels = []
    for match in BLOCK.finditer(data):
        label, text = match.group(1), match.group(2)
        if b"-----BEGIN" in text:
            raise KeyError_("truncated", "a PEM block in it has no end")
        labels.append(label)
        if label in FORMATS:
            return _pem_block(label, text)
    if BEGIN.search(data) and len(labels) < len(BEGIN.findall(data)):
        raise KeyError_("truncated", "a PEM block in it has no end")
    if any(label.endswith(b"CERTIFICATE") for label in labels):
        raise KeyError_("certificate-instead", "it holds a certificate and no private key")
    if labels:
        held = ", ".join(sorted({label.decode("ascii") for label in labels}))
        raise KeyError_("unsupported", f"it holds no private key for TLS, but {held}")
    if data[:1] == b"\x30":
        try:
            element(data)
        except CertificateError as error:
            if error.code == "truncated":
                raise KeyError_("truncated", "it looks like DER, but not all of it is there") from None
    raise KeyError_("unsupported", "it is neither PEM nor DER")


def _pem_block(label: bytes, text: bytes) -> _Block:
    encrypted = label == b"ENCRYPTED PRIVATE KEY" or b"Proc-Type: 4,ENCRYPTED" in text
    lines = [line.strip() for line in text.split(b"\n")]
    body = b"".join(line for line in lines if line and b":" not in line)
    if encrypted and b"Proc-Type" in text:
        return _Block("", FORMATS[label], True)
    try:
        der = decoded(body)
        _, end = element(der)
    except CertificateError as error:
        raise KeyError_("truncated" if error.code == "truncated" else "unsupported", f"the key is damaged: {error}") from None
    if end != len(der):
        raise KeyError_("unsupported", f"the key is damaged: there are {len(der) - end} bytes behind it")
    return _Block(_as_pem(label.decode("ascii"), der), FORMATS[label], encrypted)


def _der_block(data: bytes) -> _Block:
    try:
        parts = elements(element(data)[0].content)
        label = _label(parts)
    except (CertificateError, IndexError):
        label = ""
    if label == "CERTIFICATE":
        raise KeyError_("certificate-instead", "it holds a certificate and no private key")
    if not label:
        raise KeyError_("unsupported", "it is DER, but no private key that is known here")
    return _Block(_as_pem(label, data), "der", label.startswith("ENCRYPTED"))


def _label(parts: list[Element]) -> str:
    """Return what a DER file with these parts is called in PEM; "" for what is neither a key nor a certificate."""
    tags = [part.tag for part in parts]
    if tags[:3] == [INTEGER, SEQUENCE, OCTET_STRING] and integer(parts[0]) in (0, 1):
        return "PRIVATE KEY"
    if tags[:2] == [INTEGER, OCTET_STRING] and integer(parts[0]) == 1:
        return "EC PRIVATE KEY"
    if len(tags) >= 9 and set(tags[:9]) == {INTEGER}:
        return "RSA PRIVATE KEY"
    if len(tags) == 6 and set(tags) == {INTEGER}:
        return "DSA PRIVATE KEY"
    if tags == [SEQUENCE, OCTET_STRING] and elements(parts[0].content)[0].tag == OID:
        return "ENCRYPTED PRIVATE KEY"
    return "CERTIFICATE" if len(tags) == 3 and tags[0] == SEQUENCE and len(elements(parts[0].content)) >= 6 else ""


def _as_pem(label: str, der: bytes) -> str:
    text = base64.b64encode(der).decode("ascii")
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def _checked(names: Sequence[str]) -> list[str]:
    """Return the names that go into a configuration of OpenSSL, where a line end or a dollar would say more than a name."""
    if not names:
        raise ValueError("names is empty; a certificate needs one name at least")
    for name in names:
        if not is_address(name) and not (re.fullmatch(HOST_NAME, name) and len(name) < 254):
            raise ValueError(f"{name!r} is neither a host name nor an address")
    return list(dict.fromkeys(names))


def _request(key_path: str, names: Sequence[str], tools: Tools, otherwise: str = "", purposes: Sequence[str] = ()) -> str:
    """Return a request. `otherwise` is the organization in it where the first name is too long for a common name."""
    common = names[0] if len(names[0]) <= MAX_COMMON_NAME else ""
    subject = f"CN = {common}\n" if common else f"O = {otherwise}\n" if otherwise else ""
    # RFC 5280 4.2.1.6: with nobody in the subject, the alternative names are what counts.
    critical = "" if subject else "critical,"
    config = (
        "[req]\nprompt = no\nstring_mask = utf8only\nutf8 = yes\ndistinguished_name = subject\nreq_extensions = asked\n"
        f"[subject]\n{subject}[asked]\nsubjectAltName = {critical}@names\n"
        + (f"basicConstraints = critical,CA:FALSE\nextendedKeyUsage = {','.join(purposes)}\n" if purposes else "")
        + _alternative_names(names)
    )
    with tempfile.NamedTemporaryFile("w", prefix="certificates-", encoding="ascii") as file:
        file.write(config)
        file.flush()
        empty = [] if subject else ["-subj", "/"]
        argv = ["openssl", "req", "-new", "-batch", "-config", file.name, "-key", key_path, "-passin", "pass:", *empty, "-outform", "PEM"]
        return str(tools.run(argv, limit_seconds=READ_SECONDS).out)


def _alternative_names(names: Sequence[str]) -> str:
    rows = [f"{'IP' if is_address(name) else 'DNS'}.{number} = {name}" for number, name in enumerate(names, 1)]
    return "[names]\n" + "\n".join(rows) + "\n"


def _stamp(moment: float) -> str:
    return datetime.fromtimestamp(int(moment), timezone.utc).strftime("%Y%m%d%H%M%SZ")


def _written(path: str, text: str, mode: int) -> str:
    """Write a new file beside `path`, flushed to the disk, and return its name."""
    folder, name = os.path.split(path)
    part = os.path.join(folder, f".{name[:200]}.{secrets.token_hex(6)}")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        os.unlink(part)
        raise
    return part


def _replace(path: str, text: str) -> None:
    part = _written(path, text, 0o644)
    try:
        os.rename(part, path)
    except BaseException:
        os.unlink(part)
        raise
    sync_folder(Path(path).parent)
