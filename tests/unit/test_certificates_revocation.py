# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Revocation by lists that cryptography makes and a web server hands out, and by OpenSSL's own OCSP server."""

from __future__ import annotations

import contextlib
import http.server
import random
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import certificates_revocation
from ansible.module_utils.certificates_revocation import (
    CrlError,
    Revocation,
    Unusable,
    crl_times,
    fetch,
    parse_crl,
    revocation,
)
from ansible.module_utils.certificates_x509 import parse_der
from ansible.module_utils.runbook_tools import Tools
from certificates_corpus import DAY, NOW, THEN, Issued, intermediate, issue, leaf, root
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID
from support.postgres import wait_until
from test_certificates_endpoints import free_port

SERIAL = 0x00C0FFEE
PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER


def crl(
    issuer: Issued | None = None,
    revoked: dict[int, x509.ReasonFlags | None] | None = None,
    *,
    signer: Issued | None = None,
    this: datetime = THEN - DAY,
    following: datetime = THEN + DAY,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    encoding: Any = PEM,
) -> bytes:
    issuer = issuer or root()
    builder = x509.CertificateRevocationListBuilder(issuer.certificate.subject, this, following)
    for serial, reason in (revoked or {}).items():
        entry = x509.RevokedCertificateBuilder(serial, THEN - 3 * DAY)
        if reason is not None:
            entry = entry.add_extension(x509.CRLReason(reason), False)
        builder = builder.add_revoked_certificate(entry.build())
    builder = builder.add_extension(x509.CRLNumber(7), False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign((signer or issuer).key, hashes.SHA256()).public_bytes(encoding)


def at_urls(*urls: str, ocsp: str = "", begin: datetime | None = None, end: datetime | None = None, ca: bool = False) -> Issued:
    """A certificate whose revocation lists are at these places."""
    extensions: list[x509.ExtensionType] = []
    if urls:
        points = [x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None) for url in urls]
        extensions.append(x509.CRLDistributionPoints(points))
    if ocsp:
        place = x509.UniformResourceIdentifier(ocsp)
        extensions.append(x509.AuthorityInformationAccess([x509.AccessDescription(AuthorityInformationAccessOID.OCSP, place)]))
    times = {"begin": begin, "end": end} if begin and end else {}
    return issue("www.example.org", root(), serial=SERIAL, extensions=extensions, ca=ca, **times)  # type: ignore[arg-type]


def asked(one: Issued, data: bytes | None = None, *, issuer: Issued | None = None, limit: float = 5, now: float = NOW, **others: Any) -> Revocation:
    return revocation(parse_der(one.der), parse_der((issuer or root()).der), limit, now, data, **others)


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        status, data, headers = self.server.pages.get(self.path, (404, b"", {}))  # type: ignore[attr-defined]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            if callable(data):
                data(self.wfile)
            else:
                self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Site:
    def __init__(self, server: http.server.ThreadingHTTPServer) -> None:
        self.server = server
        self.base = f"http://127.0.0.1:{server.server_address[1]}"

    def put(self, path: str, data: bytes | Callable[[Any], None], status: int = 200, **headers: str) -> str:
        self.server.pages[path] = (status, data, headers)  # type: ignore[attr-defined]
        return self.base + path

    @property
    def asked(self) -> list[str]:
        return self.server.asked  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def site() -> Iterator[Site]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    server.block_on_close = False
    server.pages, server.asked = {}, []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield Site(server)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("encoding", [PEM, DER], ids=["pem", "der"])
def test_a_list_at_hand(encoding: Any) -> None:
    one = at_urls()
    good = asked(one, crl(revoked={1: None, SERIAL + 1: None}, encoding=encoding))
    assert (good.state, good.source, good.at) == ("good", "the list at hand", None)
    revoked = asked(one, crl(revoked={1: None, SERIAL: x509.ReasonFlags.key_compromise, 9: None}, encoding=encoding))
    assert revoked == Revocation("revoked", "the list at hand", (THEN - 3 * DAY).timestamp(), "keyCompromise")
    assert asked(one, crl(revoked={SERIAL: None}, encoding=encoding)).detail == "unspecified"


@pytest.mark.parametrize("serial", [1, 127, 128, 255, 256, 0x7FFF, 0x8000, 1 << 63, (1 << 159) - 1])
def test_every_serial_number_is_found(serial: int) -> None:
    one = issue("a.example.org", root(), serial=serial)
    others = {other: None for other in (serial + 1, serial * 256, serial * 256 + 1) if other.bit_length() < 160}
    assert asked(one, crl(revoked={**others, serial: None})).state == "revoked"
    assert asked(one, crl(revoked=others)).state == "good"


def test_the_times_of_a_list() -> None:
    assert crl_times(crl()) == ((THEN - DAY).timestamp(), (THEN + DAY).timestamp())
    assert crl_times(crl(encoding=DER)) == crl_times(crl())
    for data in (b"", b"hello", root().pem, crl()[:90]):
        with pytest.raises(CrlError):
            crl_times(data)


def test_an_empty_list() -> None:
    assert asked(at_urls(), crl()).state == "good"


def test_a_list_whose_time_is_over_says_nothing_good() -> None:
    old = {"this": THEN - 9 * DAY, "following": THEN - timedelta(seconds=1)}
    said = asked(at_urls(), crl(**old))  # type: ignore[arg-type]
    assert (said.state, "time was over" in said.detail) == ("unknown", True)
    said = asked(at_urls(), crl(revoked={SERIAL: x509.ReasonFlags.superseded}, **old))  # type: ignore[arg-type]
    assert (said.state, said.detail) == ("revoked", "superseded")
    said = asked(at_urls(), crl(revoked={SERIAL: x509.ReasonFlags.certificate_hold}, **old))  # type: ignore[arg-type]
    assert said.state == "unknown"
    said = asked(at_urls(), crl(revoked={SERIAL: x509.ReasonFlags.certificate_hold}))
    assert (said.state, said.detail) == ("revoked", "certificateHold")


def test_a_list_from_the_future() -> None:
    assert asked(at_urls(), crl(this=THEN + timedelta(seconds=200))).state == "good"
    said = asked(at_urls(), crl(this=THEN + timedelta(seconds=400)))
    assert (said.state, "future" in said.detail) == ("unknown", True)


def test_a_list_that_somebody_else_signed() -> None:
    for revoked in ({}, {SERIAL: None}):
        said = asked(at_urls(), crl(revoked=revoked, signer=intermediate()))
        assert (said.state, "signature is not of CN=Example Root 0" in said.detail) == ("unknown", True)


def test_a_changed_list() -> None:
    data = bytearray(crl(revoked={1: None}, encoding=DER))
    at = bytes(data).index(b"\x02\x01\x01\x17")
    data[at + 2] = 2
    assert "signature" in asked(at_urls(), bytes(data)).detail


def test_lists_that_are_for_others() -> None:
    def scope(**flags: bool) -> tuple[x509.ExtensionType, bool]:
        values = {"only_contains_user_certs": False, "only_contains_ca_certs": False, "indirect_crl": False,
                  "only_contains_attribute_certs": False, **flags}  # fmt: skip
        names = [x509.UniformResourceIdentifier("http://crl.example.org/x")]
        return x509.IssuingDistributionPoint(full_name=names, relative_name=None, only_some_reasons=None, **values), True

    leaf_, authority = at_urls(), at_urls(ca=True)
    users, authorities = crl(extensions=(scope(only_contains_user_certs=True),)), crl(extensions=(scope(only_contains_ca_certs=True),))
    assert [asked(one, data).state for one in (leaf_, authority) for data in (users, authorities)] == ["good", "unknown", "unknown", "good"]
    assert asked(leaf_, crl(extensions=(scope(),))).state == "good"
    assert asked(leaf_, crl(extensions=(scope(indirect_crl=True),))).state == "unknown"
    assert asked(leaf_, crl(extensions=((x509.DeltaCRLIndicator(3), True),))).state == "unknown"
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")
    assert [asked(leaf_, crl(extensions=((odd, critical),))).state for critical in (False, True)] == ["good", "unknown"]
    assert "another authority" in asked(leaf_, crl(intermediate())).detail


NO_LISTS = [b"", b"hello", root().pem, b"-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n", b"\x30\x03\x02\x01\x00", crl()[:200],
            crl(encoding=DER)[:99], crl(encoding=DER) + b"x"]  # fmt: skip


@pytest.mark.parametrize("data", NO_LISTS, ids=range(len(NO_LISTS)))
def test_what_is_no_list(data: bytes) -> None:
    said = asked(at_urls(), data)
    assert (said.state, said.detail.startswith("the list at hand: it ")) == ("unknown", True)


def test_mutated_lists_are_read_or_refused() -> None:
    chance = random.Random(5)  # noqa: S311 - the same mutations each time
    whole = crl(revoked={SERIAL: x509.ReasonFlags.key_compromise, 5: None}, encoding=DER)
    for _ in range(4000):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(data))
            data[at : at + chance.randrange(2)] = bytes([chance.randrange(256)])
        with contextlib.suppress(Unusable):
            certificates_revocation._entry(parse_crl(bytes(data)), SERIAL)


def test_a_large_list_is_read_in_time() -> None:
    many = crl(revoked=dict.fromkeys(range(1 << 40, (1 << 40) + 60_000)), encoding=DER)
    began = time.process_time()
    assert asked(at_urls(), many).state == "good"
    assert time.process_time() - began < 2


def test_the_issuer_has_to_be_the_issuer() -> None:
    said = asked(at_urls(), crl(), issuer=intermediate())
    assert (said.state, "is not the issuer" in said.detail) == ("unknown", True)


def test_an_authority_that_tells_nobody() -> None:
    assert asked(at_urls()).state == "not-offered"


def test_the_published_list(site: Site) -> None:
    url = site.put("/a.crl", crl(revoked={SERIAL: None}, encoding=DER))
    said = asked(at_urls(url))
    assert (said.state, said.source) == ("revoked", url)
    site.put("/a.crl", crl(encoding=DER))
    assert asked(at_urls(url)).state == "good"
    # What is at hand comes first, and only where it does not help the other is asked.
    before = len(site.asked)
    assert asked(at_urls(url), crl(revoked={SERIAL: None})).state == "revoked"
    assert len(site.asked) == before
    assert asked(at_urls(url), b"nonsense").state == "good"


def test_the_second_place_is_asked_where_the_first_does_not_help(site: Site) -> None:
    good = site.put("/good.crl", crl(encoding=DER))
    bad = site.put("/bad.crl", b"<html>", 200)
    said = asked(at_urls("ldap://directory.example.org/x", "https://127.0.0.1/x", site.base + "/none", bad, good))
    assert (said.state, said.source) == ("good", good)
    said = asked(at_urls("ldap://directory.example.org/x", site.base + "/none", bad))
    assert said.state == "unknown"
    assert "ldap://directory.example.org/x: it is not asked, since only http is" in said.detail
    assert "/none: the server answered 404" in said.detail
    assert "/bad.crl: it is no revocation list" in said.detail


def test_redirects_are_not_followed(site: Site) -> None:
    site.put("/good.crl", crl(encoding=DER))
    moved = site.put("/moved", b"", 302, Location=site.base + "/good.crl")
    assert "answered 302" in asked(at_urls(moved)).detail
    assert site.asked == ["/moved"]


def test_a_list_without_end(site: Site) -> None:
    def endless(file: Any) -> None:
        while True:
            file.write(b"x" * 65536)

    url = site.put("/endless", endless)
    with pytest.raises(Unusable, match="more than 1000000 bytes"):
        fetch(url, 10, 1_000_000)


@pytest.mark.parametrize("how", ["body", "headers", "silence"])
def test_a_slow_server_does_not_hold_us(site: Site, how: str) -> None:
    stop = threading.Event()

    def drip(file: Any) -> None:
        while not stop.wait(0.05):
            file.write(b"x")
            file.flush()

    with socket.create_server(("127.0.0.1", 0)) as raw:

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = raw.accept()
                with connection:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nX: " if how == "headers" else b"")
                    while not stop.wait(0.05):
                        connection.sendall(b"x" if how == "headers" else b"")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = site.put("/slow", drip) if how == "body" else f"http://127.0.0.1:{raw.getsockname()[1]}/"
        began = time.monotonic()
        said = asked(at_urls(url, url, url), limit=0.7)
        took = time.monotonic() - began
        stop.set()
        if how == "body":
            raw.shutdown(socket.SHUT_RDWR)
        thread.join(3)
    assert took < 2
    assert said.state == "unknown"
    assert "did not answer within" in said.detail


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://no-such-host.invalid/", "http://[broken/", "http://127.0.0.1:99999/", "http://a b/",
                                 "file:///etc/passwd", "http://"])  # fmt: skip
def test_what_cannot_be_reached(url: str) -> None:
    with pytest.raises(Unusable):
        fetch(url, 3)


class Responder:
    """`openssl ocsp` as a server, with its own signer or the issuer itself."""

    def __init__(self, folder: Path, signer: Issued, rows: str, authority: Issued | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "ca").write_bytes((authority or root()).pem)
        (folder / "signer").write_bytes(signer.pem)
        (folder / "key").write_bytes(signer.key_pem)
        (folder / "index").write_text(rows)
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            ["openssl", "ocsp", "-port", str(self.port), "-index", folder / "index", "-CA", folder / "ca", "-rsigner", folder / "signer", "-rkey",
             folder / "key", "-nmin", "60"], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)  # fmt: skip
        wait_until(lambda: b"waiting" in (folder / "log").read_bytes(), "the responder waits for requests")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.log.close()


def row(state: str, when: str = "") -> str:
    return f"{state}\t400101000000Z\t{when}\t{SERIAL:08X}\tunknown\t/CN=www.example.org\n"


# OpenSSL's client looks at this machine's clock for the times of an answer.
REAL = datetime.now(timezone.utc).replace(microsecond=0)
DELEGATE = {"usages": [ExtendedKeyUsageOID.OCSP_SIGNING], "begin": REAL - DAY, "end": REAL + DAY}


@pytest.mark.parametrize("delegated", [False, True], ids=["by the issuer", "by its delegate"])
@pytest.mark.parametrize(
    ("rows", "state", "detail"),
    [
        (row("V"), "good", "answer of"),
        (row("R", "261101120000Z,keyCompromise"), "revoked", "keyCompromise"),
        (row("R", "261101120000Z"), "revoked", "unspecified"),
        ("", "unknown", "does not know"),
    ],
)
def test_ocsp(tmp_path: Path, delegated: bool, rows: str, state: str, detail: str) -> None:
    signer = leaf(root(), common="OCSP", number=50, **DELEGATE) if delegated else root()
    responder = Responder(tmp_path, signer, rows)
    try:
        one = at_urls(ocsp=responder.url, begin=REAL - DAY, end=REAL + DAY)
        said = asked(one, now=time.time())
    finally:
        responder.stop()
    assert (said.state, detail in said.detail) == (state, True), said
    if state == "revoked":
        assert said.at == datetime(2026, 11, 1, 12, tzinfo=timezone.utc).timestamp()
        assert said.source == responder.url


@pytest.mark.parametrize("delegated", [False, True])
def test_ocsp_below_an_intermediate(tmp_path: Path, delegated: bool) -> None:
    """Whose root is not known here: that the issuer signs is enough."""
    signer = leaf(intermediate(), common="OCSP", number=53, **DELEGATE) if delegated else intermediate()
    responder = Responder(tmp_path, signer, row("V"), intermediate())
    place = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(responder.url))
    try:
        one = issue("www.example.org", intermediate(), serial=SERIAL, extensions=[x509.AuthorityInformationAccess([place])])
        said = asked(one, issuer=intermediate(), now=time.time())
    finally:
        responder.stop()
    assert said.state == "good", said


def test_an_ocsp_answer_of_somebody_else_does_not_count(tmp_path: Path) -> None:
    stranger = leaf(root(7), common="OCSP", number=51, **DELEGATE)
    without_right = leaf(root(), common="OCSP", number=52, begin=REAL - DAY, end=REAL + DAY)
    for signer in (stranger, without_right):
        responder = Responder(tmp_path, signer, row("V"))
        try:
            said = asked(at_urls(ocsp=responder.url, begin=REAL - DAY, end=REAL + DAY), now=time.time())
        finally:
            responder.stop()
        assert (said.state, "no answer that counts" in said.detail) == ("unknown", True)


def test_an_ocsp_answer_of_another_time_does_not_count(tmp_path: Path) -> None:
    responder = Responder(tmp_path, root(), row("V"))
    try:
        one = at_urls(ocsp=responder.url, begin=REAL - 99 * DAY, end=REAL + 99 * DAY)
        said = [asked(one, now=time.time() + shift * 86400).state for shift in (-1, 0, 1)]
    finally:
        responder.stop()
    assert said == ["unknown", "good", "unknown"]


def test_ocsp_is_asked_where_the_list_does_not_help(tmp_path: Path, site: Site) -> None:
    responder = Responder(tmp_path, root(), row("R", "261101120000Z"))
    try:
        one = at_urls(site.base + "/none", ocsp=responder.url, begin=REAL - DAY, end=REAL + DAY)
        assert asked(one, now=time.time()).source == responder.url
    finally:
        responder.stop()


def test_an_ocsp_server_that_is_none(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        quiet = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for url in (quiet, f"http://127.0.0.1:{free_port()}", site.base + "/x", "https://127.0.0.1/x"):
            began = time.monotonic()
            said = asked(at_urls(ocsp=url), limit=1)
            assert said.state == "unknown"
            assert said.detail.startswith(f"{url}: it ") or "took longer" in said.detail
            assert time.monotonic() - began < 3


def test_without_openssl_nothing_is_known(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "openssl").write_text("#!/bin/sh\necho no >&2\nexit 3\n")
        (Path(folder) / "openssl").chmod(0o755)
        said = asked(at_urls(ocsp="http://127.0.0.1:1"), crl(), tools=Tools(bin_dir=folder))
    assert said.state == "unknown"
