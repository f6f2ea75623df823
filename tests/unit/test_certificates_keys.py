# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Keys in every form are told apart, new ones are nobody else's to read, and what is made of them is usable."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import stat
import subprocess
import threading
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import certificates_keys
from ansible.module_utils.certificates_keys import KeyError_, glance_at_key, make_csr, make_key, read_key, self_sign
from ansible.module_utils.certificates_model import KEY_TYPES
from ansible.module_utils.certificates_x509 import parse_chain
from ansible.module_utils.runbook_tools import ToolError, ToolMissing, Tools
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
PKCS8, TRADITIONAL = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL
OPEN = serialization.NoEncryption()
SECRET = b"correct horse"
NOW = 1_790_000_000.0


@cache
def key(kind: str) -> Any:
    makers: dict[str, Any] = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048), "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
        "p521": lambda: ec.generate_private_key(ec.SECP521R1()), "ed25519": ed25519.Ed25519PrivateKey.generate,
        "ed448": ed448.Ed448PrivateKey.generate, "dsa": lambda: dsa.generate_private_key(2048),
    }  # fmt: skip
    return makers[kind]()


def spki_sha256(private: Any) -> str:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(private.public_key().public_bytes(DER, serialization.PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize().hex()


FORMS = [("rsa", PKCS8, "pkcs8", "rsa", 2048), ("rsa", TRADITIONAL, "pkcs1", "rsa", 2048), ("ec", PKCS8, "pkcs8", "ec", 256),
         ("ec", TRADITIONAL, "sec1", "ec", 256), ("p521", TRADITIONAL, "sec1", "ec", 521), ("ed25519", PKCS8, "pkcs8", "ed25519", 256),
         ("ed448", PKCS8, "pkcs8", "ed448", 456), ("dsa", TRADITIONAL, "dsa", "dsa", 2048), ("dsa", PKCS8, "pkcs8", "dsa", 2048)]  # fmt: skip


@pytest.mark.parametrize("encoding", [PEM, DER], ids=["pem", "der"])
@pytest.mark.parametrize(("kind", "form", "named", "algorithm", "bits"), FORMS)
def test_reads_every_form(tmp_path: Path, encoding: Any, kind: str, form: Any, named: str, algorithm: str, bits: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(key(kind).private_bytes(encoding, form, OPEN))
    for source in (path, str(path), path.read_bytes()):
        found = read_key(source)
        assert (found.algorithm, found.bits, found.spki_sha256) == (algorithm, bits, spki_sha256(key(kind)))
        assert (found.format, found.encrypted) == (named if encoding is PEM else "der", False)
    assert glance_at_key(path.read_bytes()).format == found.format


@pytest.mark.parametrize("encoding", [PEM, DER], ids=["pem", "der"])
@pytest.mark.parametrize("form", [PKCS8, TRADITIONAL], ids=["pkcs8", "traditional"])
@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_an_encrypted_key_is_told_and_nobody_is_asked(encoding: Any, form: Any, kind: str) -> None:
    if encoding is DER and form is TRADITIONAL:
        pytest.skip("there is no such key")
    data = key(kind).private_bytes(encoding, form, serialization.BestAvailableEncryption(SECRET))
    with pytest.raises(KeyError_) as told:
        read_key(data)
    assert told.value.code == "encrypted"
    assert glance_at_key(data).encrypted


def test_text_around_other_blocks_and_line_ends_do_not_matter() -> None:
    private = key("ec").private_bytes(PEM, TRADITIONAL, OPEN)
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    for data in (b"Bag Attributes\n  x: y\n" + private, parameters + private, private.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + private):
        assert read_key(data).spki_sha256 == spki_sha256(key("ec"))


PRIVATE = key("rsa").private_bytes(PEM, PKCS8, OPEN)
BLOCK_END = b"-----END PRIVATE KEY-----\n"


# Each worker makes its own keys: what is in them must not get into the names of tests.
BROKEN = [
    (b"", "empty"),
    (b"\n \r\n", "empty"),
    (b"\0" * 512, "empty"),
    (PRIVATE[:20], "truncated"),
    (PRIVATE[:300], "truncated"),
    (PRIVATE[:-8], "truncated"),
    (PRIVATE[:650] + b"\n" + BLOCK_END, "truncated"),
    (PRIVATE[:650] + PRIVATE, "truncated"),
    (key("rsa").private_bytes(DER, PKCS8, OPEN)[:-7], "truncated"),
    (PRIVATE.replace(b"M", b"!", 2), "unsupported"),
    (b"-----BEGIN PRIVATE KEY-----\nMAMCAQA=\n-----END PRIVATE KEY-----\n", "unsupported"),
    (b"hello", "unsupported"),
    (b"\x30\x03\x02\x01\x00", "unsupported"),
    (b"-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n", "unsupported"),
    (key("ed25519").private_bytes(PEM, serialization.PrivateFormat.OpenSSH, OPEN), "unsupported"),
]


@pytest.mark.parametrize(("data", "code"), BROKEN, ids=range(len(BROKEN)))
def test_what_is_no_usable_key_is_told_apart(data: bytes, code: str) -> None:
    with pytest.raises(KeyError_) as told:
        read_key(data)
    assert told.value.code == code


@pytest.mark.parametrize("encoding", ["PEM", "DER"])
def test_a_certificate_instead(tmp_path: Path, encoding: str) -> None:
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:1024", "-nodes", "-subj", "/CN=x", "-keyout", tmp_path / "key", "-outform",
                    encoding, "-out", tmp_path / "cert"], check=True, capture_output=True)  # fmt: skip
    with pytest.raises(KeyError_) as told:
        read_key(tmp_path / "cert")
    assert told.value.code == "certificate-instead"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=120).map(lambda data: b"\x30" + bytes([len(data)]) + data))
def test_random_bytes_are_no_key(data: bytes) -> None:
    with contextlib.suppress(KeyError_):
        glance_at_key(data)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "large").write_bytes(b"-----BEGIN PRIVATE KEY-----\n" + b"A" * 400_000)
    expected = {"none": "missing", "pipe": "unreadable", "loop": "unreadable", ".": "unreadable", "large": "unsupported"}
    for name, code in expected.items():
        with pytest.raises(KeyError_) as told:
            read_key(tmp_path / name)
        assert (name, told.value.code) == (name, code)


def test_a_file_of_somebody_else_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(PRIVATE)
    path.chmod(0o600)
    pid = os.fork()
    if not pid:
        # Only the child gives its rights away.
        try:
            os.setuid(65534)
            read_key(path)
        except KeyError_ as told:
            os._exit(0 if told.code in ("unreadable", "missing") else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_key_is_on_no_command_line_and_in_no_message(tmp_path: Path) -> None:
    seen = fake_openssl(tmp_path, 'printf "%s\\n" "$@" >>"$0.seen"; env >>"$0.seen"; echo broken >&2; exit 1')
    secret = PRIVATE.split(b"\n")[3].decode()
    with pytest.raises(KeyError_) as told:
        read_key(PRIVATE, Tools(bin_dir=str(tmp_path)))
    assert "pkey" in seen.read_text()
    assert secret not in seen.read_text() + str(told.value)


def test_a_slow_or_missing_openssl_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_openssl(tmp_path, "exec sleep 30")
    with pytest.raises(ToolError, match="took longer"):
        read_key(PRIVATE, Tools(bin_dir=str(tmp_path)), limit_seconds=0.3)
    monkeypatch.setattr(Tools, "path", missing)
    with pytest.raises(ToolMissing):
        read_key(PRIVATE)


def missing(self: Tools, program: str) -> str:
    raise ToolMissing(f"{program} is not on this host")


def fake_openssl(folder: Path, script: str) -> Path:
    (folder / "openssl").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "openssl").chmod(0o755)
    return folder / "openssl.seen"


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_new_keys(tmp_path: Path, key_type: str) -> None:
    path = tmp_path / "key.pem"
    make_key(key_type, str(path), 0o640, 33, 4)
    found = read_key(path)
    expected = {"ecdsa-p256": ("ec", 256), "ecdsa-p384": ("ec", 384), "ed25519": ("ed25519", 256), "rsa-2048": ("rsa", 2048),
                "rsa-3072": ("rsa", 3072), "rsa-4096": ("rsa", 4096)}  # fmt: skip
    assert (found.algorithm, found.bits, found.format) == (*expected[key_type], "pkcs8")
    there = path.stat()
    assert (stat.S_IMODE(there.st_mode), there.st_uid, there.st_gid, there.st_nlink) == (0o640, 33, 4, 1)
    loaded: Any = serialization.load_pem_private_key(path.read_bytes(), None)
    assert spki_sha256(loaded) == found.spki_sha256
    assert os.listdir(tmp_path) == ["key.pem"]


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text("the only one")
    with pytest.raises(FileExistsError):
        make_key("ed25519", str(path), 0o600)
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        make_key("ed25519", str(tmp_path / "dangling"), 0o600)
    assert path.read_text() == "the only one"
    assert sorted(os.listdir(tmp_path)) == ["dangling", "key.pem"]


def test_nor_one_that_came_while_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key.pem"
    modes = []
    written = certificates_keys._written

    def and_somebody_else(place: str, text: str, mode: int) -> str:
        part = written(place, text, mode)
        modes.append(stat.S_IMODE(os.stat(part).st_mode))
        path.write_text("the other's")
        return str(part)

    monkeypatch.setattr(certificates_keys, "_written", and_somebody_else)
    with pytest.raises(FileExistsError):
        make_key("ed25519", str(path), 0o640)
    assert (path.read_text(), os.listdir(tmp_path), modes) == ("the other's", ["key.pem"], [0o600])


def test_a_key_type_that_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rsa-1024"):
        make_key("rsa-1024", str(tmp_path / "key"), 0o600)


NAMES = ["www.example.org", "*.example.org", "10.0.0.1", "2001:db8::1", "under_score.example.org"]


@pytest.mark.parametrize("key_type", ["ecdsa-p256", "rsa-2048", "ed25519"])
def test_requests(tmp_path: Path, key_type: str) -> None:
    make_key(key_type, str(tmp_path / "key"), 0o600)
    make_csr(str(tmp_path / "key"), NAMES, str(tmp_path / "csr"))
    asked = x509.load_pem_x509_csr((tmp_path / "csr").read_bytes())
    assert asked.is_signature_valid
    assert asked.subject.rfc4514_string() == "CN=www.example.org"
    san = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert san.value.get_values_for_type(x509.DNSName) == [NAMES[0], NAMES[1], NAMES[4]]
    assert [str(one) for one in san.value.get_values_for_type(x509.IPAddress)] == NAMES[2:4]
    assert not san.critical
    assert sorted(os.listdir(tmp_path)) == ["csr", "key"]


def test_a_name_too_long_for_a_common_name(tmp_path: Path) -> None:
    long = ".".join(["a" * 40, "b" * 40, "example.org"])
    make_key("ecdsa-p256", str(tmp_path / "key"), 0o600)
    make_csr(str(tmp_path / "key"), [long, "short.example.org"], str(tmp_path / "csr"))
    asked = x509.load_pem_x509_csr((tmp_path / "csr").read_bytes())
    san = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert (len(asked.subject), san.critical) == (0, True)
    assert san.value.get_values_for_type(x509.DNSName) == [long, "short.example.org"]
    self_sign(str(tmp_path / "key"), [long], 1, str(tmp_path / "cert"), now=NOW)
    (one,) = parse_chain((tmp_path / "cert").read_bytes())
    assert (one.subject, one.names) == ("O=self-signed", (long,))


@pytest.mark.parametrize("name", ["", "a\nb", "$ENV::HOME", "a,DNS:b", "a b", "x" * 70])
def test_names_that_say_more_than_a_name_are_refused(tmp_path: Path, name: str) -> None:
    make_key("ed25519", str(tmp_path / "key"), 0o600)
    for make in (
        lambda names: make_csr(str(tmp_path / "key"), names, str(tmp_path / "out")),
        lambda names: self_sign(str(tmp_path / "key"), names, 1, str(tmp_path / "out")),
    ):
        with pytest.raises(ValueError, match="neither a host name nor an address"):
            make(["www.example.org", name])
        with pytest.raises(ValueError, match="empty"):
            make([])
    assert os.listdir(tmp_path) == ["key"]


@pytest.mark.parametrize("key_type", ["ecdsa-p256", "rsa-2048", "ed25519"])
@pytest.mark.parametrize("client", [False, True])
def test_self_signed_certificates(tmp_path: Path, key_type: str, client: bool) -> None:
    make_key(key_type, str(tmp_path / "key"), 0o600)
    self_sign(str(tmp_path / "key"), NAMES, 600 / 86400, str(tmp_path / "cert"), client, NOW)
    (one,) = parse_chain((tmp_path / "cert").read_bytes())
    assert (one.not_before, one.not_after) == (NOW, NOW + 600)
    assert set(one.names) == set(NAMES)
    assert (one.is_ca, one.self_signed, one.has_san) == (False, True, True)
    assert one.usages == (("serverAuth", "clientAuth") if client else ("serverAuth",))
    assert one.spki_sha256 == read_key(tmp_path / "key").spki_sha256
    assert one.signature_hash == ("" if key_type == "ed25519" else "sha256")
    first = one.serial
    self_sign(str(tmp_path / "key"), NAMES, 1, str(tmp_path / "cert"), client, NOW)
    assert parse_chain((tmp_path / "cert").read_bytes())[0].serial != first
    assert sorted(os.listdir(tmp_path)) == ["cert", "key"]


@pytest.mark.parametrize("key_type", ["ecdsa-p256", "rsa-2048", "ed25519"])
def test_a_self_signed_certificate_is_its_own_trust_anchor(tmp_path: Path, key_type: str) -> None:
    private, certificate = str(tmp_path / "key"), str(tmp_path / "cert")
    make_key(key_type, private, 0o600)
    self_sign(private, ["localhost", "127.0.0.1"], 30, certificate, client=True)
    for purpose in ("sslserver", "sslclient"):
        argv = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-verify_hostname", "localhost", "-CAfile", certificate, certificate]
        assert subprocess.run(argv, capture_output=True, check=False).returncode == 0
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate)
    server.load_cert_chain(certificate, private)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=certificate)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    client.load_cert_chain(certificate, private)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepted: list[str] = []
        thread = threading.Thread(target=answer, args=(listening, server, accepted))
        thread.start()
        for name in ("localhost",):
            with socket.create_connection(listening.getsockname()) as plain, client.wrap_socket(plain, server_hostname=name) as secure:
                assert secure.recv(10) == b"hello"
        thread.join()
    assert accepted == ["localhost"]


def answer(listening: socket.socket, context: ssl.SSLContext, accepted: list[str]) -> None:
    plain, _ = listening.accept()
    with context.wrap_socket(plain, server_side=True) as secure:
        accepted.append(dict(part[0] for part in secure.getpeercert()["subject"])["commonName"])  # type: ignore[index, misc]
        secure.sendall(b"hello")


def test_far_away_times(tmp_path: Path) -> None:
    make_key("ecdsa-p256", str(tmp_path / "key"), 0o600)
    self_sign(str(tmp_path / "key"), ["a.example.org"], 40_000, str(tmp_path / "cert"), now=-86400.0 * 365)
    (one,) = parse_chain((tmp_path / "cert").read_bytes())
    assert (one.not_before, one.not_after) == (-86400.0 * 365, 86400.0 * (40_000 - 365))


def test_a_request_replaces_the_one_before_and_an_encrypted_key_asks_nobody(tmp_path: Path) -> None:
    make_key("ed25519", str(tmp_path / "key"), 0o600)
    for name in ("a.example.org", "b.example.org"):
        make_csr(str(tmp_path / "key"), [name], str(tmp_path / "csr"))
    assert x509.load_pem_x509_csr((tmp_path / "csr").read_bytes()).subject.rfc4514_string() == "CN=b.example.org"
    (tmp_path / "key").write_bytes(key("ec").private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(SECRET)))
    with pytest.raises(ToolError) as told:
        make_csr(str(tmp_path / "key"), ["a.example.org"], str(tmp_path / "csr"))
    assert not re.search("correct horse", str(told.value))


def test_purposes_are_asked_for(tmp_path: Path) -> None:
    key, request = tmp_path / "key", tmp_path / "request"
    make_key("ecdsa-p256", str(key), 0o600)
    make_csr(str(key), ["tracker.test"], str(request), purposes=("serverAuth", "clientAuth"))
    asked = x509.load_pem_x509_csr(request.read_bytes()).extensions
    usages = [usage._name for usage in asked.get_extension_for_class(x509.ExtendedKeyUsage).value]
    assert usages == ["serverAuth", "clientAuth"]
    assert not asked.get_extension_for_class(x509.BasicConstraints).value.ca
