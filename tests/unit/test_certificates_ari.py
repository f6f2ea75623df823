# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Renewal information from a server that is right, wrong, slow or gone."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.certificates_ari import (
    AriError,
    Cache,
    cert_id,
    check_address,
    directory,
    exchange,
    renewal_window,
    retry_after,
    seconds_of,
    window,
)
from ansible.module_utils.certificates_renewal import Window
from fakes.acme import Answer, StandIn, free_ports
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_790_000_000.0
# The certificate of RFC 9773, section 4.1.
AKI, SERIAL = bytes.fromhex("69885b6b87464041e1b37b847ba0ae2cde01c8d4"), 0x87654321
PAGE = "/renewal-info/aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"
START, END = "2026-09-01T00:00:00Z", "2026-09-03T12:30:00.5+02:00"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path / "ca") as made:
        made.window = (START, END)
        yield made


def asked(server: StandIn, limit: float = 5) -> Window | None:
    ca_file = str(server.ca_file)
    return window(directory(server.directory, ca_file, limit), AKI, SERIAL, ca_file, limit, NOW)


def test_the_name_of_the_rfcs_own_certificate() -> None:
    assert cert_id(AKI, SERIAL) == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"
    assert cert_id(b"\1", 0) == "AQ.AA"
    assert cert_id(b"\1", 0x7F) == "AQ.fw"
    assert cert_id(b"\1", 0x80) == "AQ.AIA"
    assert cert_id(b"\1", -1) == "AQ._w"


def test_a_certificate_without_an_authority_key_identifier_is_told() -> None:
    with pytest.raises(AriError, match="authority key identifier"):
        cert_id(b"", 5)


@given(st.integers(-(2**170), 2**170))
def test_the_serial_is_what_der_has(serial: int) -> None:
    length = 1
    while not -(1 << (8 * length - 1)) <= serial < 1 << (8 * length - 1):
        length += 1
    expected = serial.to_bytes(length, "big", signed=True)
    assert cert_id(b"\0", serial) == "AA." + base64.urlsafe_b64encode(expected).decode().rstrip("=")


def test_the_window_of_a_certificate(server: StandIn) -> None:
    server.explanation, server.retry_after = "https://ca.example.test/why", "7200"
    found = asked(server)
    assert found == Window(1_788_220_800.0, 1_788_431_400.5, "https://ca.example.test/why", 7200.0)
    assert server.requests == [("GET", "/dir"), ("GET", PAGE)]


def test_an_authority_without_renewal_information(server: StandIn) -> None:
    server.window = None
    assert asked(server) is None
    assert window({"renewalInfo": 5}, AKI, SERIAL, None, 1, NOW) is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(404, {"type": "urn:ietf:params:acme:error:malformed"}), "answers 404"),
        (Answer(503, b"busy"), "answers 503: busy"),
        (Answer(200, b"<html>"), "no JSON"),
        (Answer(200, [1]), "no JSON object"),
        (Answer(200, {"suggestedWindow": 7}), "gives no window"),
        (Answer(200, {"suggestedWindow": {"start": END, "end": START}}), "gives no window"),
        (Answer(200, {"suggestedWindow": {"start": START, "end": "soon"}}), "gives no window"),
        (Answer(200, b"x" * 300_000), "more than 262144 bytes"),
        (Answer(200, b"[" * 100_000), "no JSON"),
        (Answer(200, b'{"suggested', {"Content-Length": "900"}), "no JSON"),
        (Answer(302, {}, {"Location": "http://ca.example.test/elsewhere"}), "points elsewhere"),
        (Answer(302, {}, {"Location": "file:///etc/passwd"}), "answers 302"),
    ],
)
def test_what_a_server_does_wrong_is_told(server: StandIn, answer: Answer, words: str) -> None:
    server.answers[PAGE] = [answer]
    with pytest.raises(AriError, match=words):
        asked(server, limit=2)


def test_a_redirect_within_https_is_followed(server: StandIn) -> None:
    server.answers["/dir"] = [Answer(301, {}, {"Location": f"{server.address}/dir"})]
    assert asked(server) is not None


def test_a_server_that_is_not_trusted_or_gone_is_told(server: StandIn) -> None:
    with pytest.raises(AriError, match="certificate verify failed"):
        directory(server.directory, None, 5)
    with pytest.raises(AriError, match="cannot be read"):
        directory(server.directory, "/nonexistent", 5)
    with pytest.raises(AriError, match="refused"):
        directory(f"https://127.0.0.1:{free_ports(1)[0]}/dir", None, 5)


def drip(listener: socket.socket, done: threading.Event) -> None:
    link, _ = listener.accept()
    with link:
        link.recv(4096)
        link.sendall(b"HTTP/1.1 200 OK\r\n")
        while not done.wait(0.05):
            link.sendall(b"X: 1\r\n")


@pytest.mark.parametrize("speaks", [False, True], ids=["silent", "dripping"])
def test_a_server_that_never_ends_is_left(speaks: bool) -> None:
    done = threading.Event()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=drip, args=(listener, done))
        if speaks:
            thread.start()
        began = time.monotonic()
        with pytest.raises(AriError, match=r"took longer than 0\.4 s|timed out"):
            exchange(f"http://127.0.0.1:{listener.getsockname()[1]}/dir", None, 0.4)
        assert time.monotonic() - began < 3
        done.set()
        if speaks:
            thread.join()


@pytest.mark.parametrize(
    "url",
    ["http://ca.example.test/dir", "file:///etc/passwd", "ftp://x/", "", "https://", "https://x:port/", "http://127.0.0.1.evil.test/"],
)
def test_only_https_is_spoken(url: str) -> None:
    with pytest.raises(AriError):
        exchange(url, None, 1)


def test_plain_http_to_this_machine_is_for_tests() -> None:
    for url in ("http://127.0.0.1:1/", "http://localhost:1/", "http://[::1]:1/", "https://ca.example.test/"):
        check_address(url)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("21600", 21600), ("0", 60), ("59", 60), ("99999999999999999999", 86400), (None, 21600), ("", 21600), ("soon", 21600), ("\u00b2", 21600),
        ("Mon, 21 Sep 2026 14:43:20 GMT", 2400), ("Mon, 21 Sep 1999 14:43:20 GMT", 60), ("-5", 21600),
    ],
)  # fmt: skip
def test_how_long_an_answer_is_good(text: str | None, seconds: float) -> None:
    # NOW is 2026-09-21T14:13:20Z; a date in the future counts from it.
    expected = 1800 if text == "Mon, 21 Sep 2026 14:43:20 GMT" else seconds
    assert retry_after(text, NOW) == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02T00:00:00Z", 86400.0), ("1970-01-01t01:00:00.25+01:00", 0.25), ("1969-12-31T23:00:00-02:00", 3600.0),
        ("2026-09-01", None), ("2026-13-01T00:00:00Z", None), ("2026-09-01T00:00:00", None), (5, None), (None, None),
    ],
)  # fmt: skip
def test_times_in_rfc_3339(text: object, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


@given(st.one_of(st.none(), st.text(), st.integers(), st.lists(st.integers())))
def test_no_time_and_no_header_raises(value: object) -> None:
    seconds_of(value)
    retry_after(value if isinstance(value, str) else None, NOW)


def test_an_answer_is_used_until_it_is_to_be_asked_again(server: StandIn, tmp_path: Path) -> None:
    server.retry_after = "3600"
    cache = Cache(tmp_path / "state" / "ari.json")
    ask = lambda now: renewal_window(server.directory, AKI, SERIAL, str(server.ca_file), cache, now)  # noqa: E731  a short name in this test alone
    first, trouble = ask(NOW)
    assert (trouble, len(server.requests)) == ("", 2)
    server.window = ("2026-08-01T00:00:00Z", "2026-08-02T00:00:00Z")
    assert ask(NOW + 3599) == (first, "")
    assert len(server.requests) == 2
    second, _ = ask(NOW + 3600)
    assert (second != first, len(server.requests)) == (True, 4)
    assert ask(NOW)[0] == second  # a clock that was moved back asks again
    assert len(server.requests) == 6


def test_what_was_said_still_counts_where_asking_fails(server: StandIn, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "ari.json")
    first, _ = renewal_window(server.directory, AKI, SERIAL, str(server.ca_file), cache, NOW)
    server.answers["/dir"] = [Answer(503, b"busy")]
    again, trouble = renewal_window(server.directory, AKI, SERIAL, str(server.ca_file), cache, NOW + 90000)
    assert again == first
    assert "answers 503" in trouble
    assert renewal_window(server.directory, b"", SERIAL, None, cache, NOW)[0] is None


@pytest.mark.parametrize("content", ["not json", "[]", '{"x": 5}', "5"])
def test_a_damaged_cache_is_no_reason_to_stop(server: StandIn, tmp_path: Path, content: str) -> None:
    path = tmp_path / "ari.json"
    path.write_text(content)
    found, trouble = renewal_window(server.directory, AKI, SERIAL, str(server.ca_file), Cache(path), NOW)
    assert found is not None
    assert bool(trouble) == (content == "not json")


def test_the_cache_forgets_certificates_that_are_gone(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "ari.json")
    cache.window("old", NOW - 70 * 86400, lambda: Window(1.0, 2.0))
    cache.window("new", NOW, lambda: Window(1.0, 2.0))
    assert set(json.loads(cache.path.read_text())) == {"new"}
