# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Real servers are asked for their chain: OpenSSL's, nginx, PostgreSQL, Redis, and such as are none."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible.module_utils.certificates_endpoints import Endpoint, Served, ask, ask_all
from ansible.module_utils.certificates_x509 import parse_der
from ansible.module_utils.runbook_tools import Tools
from certificates_corpus import Issued, intermediate, leaf, root, write_chain
from support.postgres import Server, wait_until

POSTGRESQL = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"))), None)


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def listens(port: int, host: str = "127.0.0.1") -> bool:
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def running(argv: list[str], port: int, host: str = "127.0.0.1") -> Iterator[None]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd="/")
        try:
            wait_until(lambda: listens(port, host) or process.poll() is not None, f"{argv[0]} listens")
            if process.poll() is not None:
                log.seek(0)
                raise AssertionError(log.read().decode(errors="replace"))
            yield
        finally:
            process.terminate()
            process.wait(20)


@contextlib.contextmanager
def openssl_server(folder: Path, one: Issued, *options: str, host: str = "127.0.0.1") -> Iterator[str]:
    certificate, key = write_chain(folder, one, intermediate())
    port = free_port(host)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    above = folder / "above.pem"
    above.write_bytes(intermediate().pem)
    argv = ["openssl", "s_server", "-accept", address, "-cert", certificate, "-cert_chain", str(above), "-key", key, "-quiet", *options]
    with running(argv, port, host):
        yield address


def serials(served: Served) -> list[str]:
    return [one.serial_hex for one in served.chain]


def expected(*issued: Issued) -> list[str]:
    return [parse_der(one.der).serial_hex for one in issued]


@pytest.mark.parametrize(
    ("options", "protocol"),
    [
        (["-tls1_2"], "TLSv1.2"),
        (["-tls1_3"], "TLSv1.3"),
        (["-tls1_2", "-Verify", "1", "-verify_return_error"], "TLSv1.2"),
        (["-tls1_3", "-Verify", "1", "-verify_return_error"], "TLSv1.3"),
        (["-tls1", "-cipher", "ALL:@SECLEVEL=0"], "TLSv1"),
        (["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], "TLSv1.1"),
    ],
    ids=["1.2", "1.3", "1.2 with client certificates", "1.3 with client certificates", "1.0", "1.1"],
)
@pytest.mark.parametrize("kind", ["p256", "rsa-2048"])
def test_every_version_with_and_without_client_certificates(tmp_path: Path, options: list[str], protocol: str, kind: str) -> None:
    one = leaf(kind=kind)
    with openssl_server(tmp_path, one, *options) as address:
        served = ask(Endpoint(address, "www.example.org"))
    assert (serials(served), served.error, served.protocol) == (expected(one, intermediate()), "", protocol)
    assert 0 < served.seconds < 5
    assert served.serial_hex == expected(one)[0]


@pytest.mark.parametrize("kind", ["ed25519", "rsa-1024", "p521"])
def test_odd_keys(tmp_path: Path, kind: str) -> None:
    one = leaf(kind=kind, names=["a.example.org"])
    with openssl_server(tmp_path, one, "-cipher", "ALL:@SECLEVEL=0", "-tls1_2") as address:
        assert serials(ask(Endpoint(address))) == expected(one, intermediate())


def test_a_server_whose_curve_clients_do_not_offer_is_told(tmp_path: Path) -> None:
    """It would take a cipher that needs none, were that offered."""
    with openssl_server(tmp_path, leaf(kind="k256"), "-cipher", "ALL:@SECLEVEL=0", "-tls1_2") as address:
        served = ask(Endpoint(address))
    assert served.error == f"{address} ended the handshake: handshake failure"


def test_the_second_name_has_its_own_certificate(tmp_path: Path) -> None:
    other = leaf(names=["second.example.org"], number=3)
    (tmp_path / "other").mkdir()
    certificate, key = write_chain(tmp_path / "other", other)
    one = leaf()
    named = ["-servername", "second.example.org", "-cert2", certificate, "-key2", key]
    with openssl_server(tmp_path, one, *named) as address:
        answers = ask_all([Endpoint(address, name) for name in ("www.example.org", "second.example.org", "", "127.0.0.1")])
    assert [served.serial_hex for served in answers] == expected(one, other, one, one)


def test_an_address_is_not_sent_as_a_name(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    certificate, key = write_chain(tmp_path / "other", leaf(number=3))
    strict = ["-servername", "second.example.org", "-servername_fatal", "-cert2", certificate, "-key2", key]
    with openssl_server(tmp_path, leaf(), *strict) as address:
        named, by_address, nameless = ask_all([Endpoint(address, name) for name in ("www.example.org", "127.0.0.1", "")])
    assert named.error == f"{address} ended the handshake: unrecognized name"
    assert [len(by_address.chain), len(nameless.chain)] == [2, 2]


def test_a_host_that_allows_new_versions_only_asks_old_servers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = leaf(kind="rsa-1024")
    config = tmp_path / "openssl.cnf"
    config.write_text("openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = own\n[own]\nMinProtocol = TLSv1.2\n"
                      "CipherString = DEFAULT@SECLEVEL=2\n")  # fmt: skip
    with openssl_server(tmp_path, one, "-tls1", "-cipher", "ALL:@SECLEVEL=0") as address:
        monkeypatch.setenv("OPENSSL_CONF", str(config))
        served = ask(Endpoint(address))
    assert (serials(served), served.protocol) == (expected(one, intermediate()), "TLSv1")


def test_an_ipv6_address(tmp_path: Path) -> None:
    try:
        free_port("::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    one = leaf()
    with openssl_server(tmp_path, one, host="::1") as address:
        assert ask(Endpoint(address)).serial_hex == expected(one)[0]


NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error;
events {{ worker_connections 64; }}
http {{
    access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
    uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    server {{
        listen 127.0.0.1:{port} ssl; server_name www.example.org; ssl_certificate {certificate}; ssl_certificate_key {key};
        ssl_client_certificate {trust}; ssl_verify_client on;
    }}
    server {{ listen 127.0.0.1:{plain}; }}
}}
"""


def test_nginx_with_client_certificates_and_without_tls(tmp_path: Path) -> None:
    one, port, plain = leaf(), free_port(), free_port()
    certificate, key = write_chain(tmp_path, one, intermediate(), root())
    (tmp_path / "trust").write_bytes(root().pem)
    values = {"folder": tmp_path, "port": port, "plain": plain, "certificate": certificate, "key": key, "trust": tmp_path / "trust"}
    (tmp_path / "conf").write_text(NGINX.format(**values))
    with running(["nginx", "-c", str(tmp_path / "conf"), "-e", str(tmp_path / "error")], port):
        served, without = ask_all([Endpoint(f"127.0.0.1:{port}", "www.example.org"), Endpoint(f"127.0.0.1:{plain}")])
    assert serials(served) == expected(one, intermediate(), root())
    assert without.error == f"127.0.0.1:{plain} answers, but does not speak TLS"


@pytest.fixture(scope="module")
def postgresql() -> Iterator[tuple[int, int, Issued]]:
    """A server with TLS, and one without: their ports, and the certificate."""
    assert POSTGRESQL, "PostgreSQL is not installed"
    one, port, without = leaf(), free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="rb", dir="/tmp") as folder:
        certificate, key = write_chain(Path(folder), one, intermediate())
        secure = f"ssl = on\nssl_cert_file = '{certificate}'\nssl_key_file = '{key}'"
        servers = [Server(POSTGRESQL, Path(folder) / "secure", f"listen_addresses = '127.0.0.1'\nport = {port}\n{secure}"),
                   Server(POSTGRESQL, Path(folder) / "plain", f"listen_addresses = '127.0.0.1'\nport = {without}")]  # fmt: skip
        if servers[0].user:
            for path in (certificate, key):
                shutil.chown(path, servers[0].user)
        try:
            for server in servers:
                server.create()
            yield port, without, one
        finally:
            for server in servers:
                server.stop()


def test_postgresql(postgresql: tuple[int, int, Issued]) -> None:
    port, without, one = postgresql
    served = ask(Endpoint(f"127.0.0.1:{port}", "www.example.org", "postgres"))
    assert (serials(served), served.protocol) == (expected(one, intermediate()), "TLSv1.3")
    refused = ask(Endpoint(f"127.0.0.1:{without}", starttls="postgres"))
    assert refused.error == f"127.0.0.1:{without} has TLS switched off: it said no to starttls postgres"
    # Before version 17 there is no TLS without the request for it.
    assert ask(Endpoint(f"127.0.0.1:{port}")).error


def test_redis(tmp_path: Path) -> None:
    one, port = leaf(kind="rsa-2048"), free_port()
    certificate, key = write_chain(tmp_path, one, intermediate())
    (tmp_path / "trust").write_bytes(root().pem)
    argv = ["redis-server", "--port", "0", "--bind", "127.0.0.1", "--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key,
            "--tls-ca-cert-file", str(tmp_path / "trust"), "--save", "", "--dir", str(tmp_path)]  # fmt: skip
    with running(argv, port):
        served = ask(Endpoint(f"127.0.0.1:{port}"))
    assert serials(served) == expected(one, intermediate())


@contextlib.contextmanager
def listening(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    held.append(connection)
                    answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        for connection in held:
            connection.close()


def first_and(data: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(data)
        connection.shutdown(socket.SHUT_RDWR)

    return answer


@pytest.mark.parametrize("starttls", ["", "postgres"])
def test_a_server_that_says_nothing_does_not_hold_us(starttls: str) -> None:
    with listening(lambda connection: None) as address:
        began = time.monotonic()
        served = ask(Endpoint(address, starttls=starttls), limit_seconds=0.6)
        assert time.monotonic() - began < 3
    assert served.error == f"{address} did not finish a TLS handshake within 0.6 s"
    assert served.chain == ()


def test_a_server_that_talks_for_ever_does_not_hold_us() -> None:
    stop = threading.Event()

    def drip(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(b"\x16\x03\x03\x40\x00")
            while not stop.wait(0.05):
                connection.sendall(b"\x02")

    with listening(drip) as address:
        served = ask(Endpoint(address), limit_seconds=0.6)
        stop.set()
    assert "did not finish" in served.error or "does not speak TLS" in served.error


@pytest.mark.parametrize(
    ("data", "starttls", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "", "does not speak TLS"),
        (b"220 mail.example.org ESMTP\r\n", "", "does not speak TLS"),
        (bytes(range(256)) * 40, "", "does not speak TLS"),
        (b"", "", "ended the connection"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "", "ended the handshake: handshake failure"),
        (b"\x15\x03\x03\x00\x02\x02\x70", "", "ended the handshake: unrecognized name"),
        (b"N", "postgres", "TLS switched off"),
        (b"", "postgres", "ended the connection"),
        (b"S", "postgres", "ended the connection"),
    ],
)
def test_what_is_no_tls_server_is_told(data: bytes, starttls: str, words: str) -> None:
    with listening(first_and(data)) as address:
        served = ask(Endpoint(address, starttls=starttls))
    assert words in served.error
    assert served.error.startswith(address)
    assert (served.chain, served.protocol) == ((), "")


def test_what_cannot_be_reached_is_told() -> None:
    port = free_port()
    closed, nobody = ask_all([Endpoint(f"127.0.0.1:{port}"), Endpoint("no-such-host.invalid:443")])
    assert closed.error == f"127.0.0.1:{port} cannot be reached: connection refused"
    assert nobody.error == "no-such-host.invalid:443 cannot be reached: there is no such host name"


@pytest.mark.parametrize(
    "endpoint",
    [Endpoint("localhost"), Endpoint("localhost:"), Endpoint(":443"), Endpoint("a b:443"), Endpoint("-help:443"), Endpoint("h:99999"),
     Endpoint("h:0"), Endpoint("::1:443"), Endpoint("h:443\n"), Endpoint("h:443", "-help"), Endpoint("h:443", "a\nb"), Endpoint("h:443", "", "smtp"),
     Endpoint("")],
)  # fmt: skip
def test_what_is_no_endpoint_is_not_asked(endpoint: Endpoint, tmp_path: Path) -> None:
    served = ask(endpoint, tools=Tools(bin_dir=str(tmp_path)))
    assert "must be" in served.error
    assert served.seconds == 0


def test_a_host_without_openssl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("ansible.module_utils.runbook_tools.shutil.which", lambda *args, **options: None)
    assert "openssl is not on this host" in ask(Endpoint("127.0.0.1:443")).error


def test_many_are_asked_at_once_and_answered_in_order(tmp_path: Path) -> None:
    one = leaf()
    with openssl_server(tmp_path, one) as address, contextlib.ExitStack() as stack:
        quiet = [stack.enter_context(listening(lambda connection: None)) for _ in range(7)]
        endpoints = [Endpoint(address)] + [Endpoint(where) for where in quiet] + [Endpoint(address)]
        began = time.monotonic()
        answers = ask_all(endpoints, limit_seconds=1.5)
        took = time.monotonic() - began
    assert [served.endpoint for served in answers] == endpoints
    assert [bool(served.chain) for served in answers] == [True] + [False] * 7 + [True]
    assert took < 7  # one after the other would be more than ten
    assert ask_all([]) == []


def test_nothing_is_left_running(tmp_path: Path) -> None:
    (tmp_path / "openssl").write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\nexec sleep 60\n")
    (tmp_path / "openssl").chmod(0o755)
    served = ask(Endpoint("127.0.0.1:443"), 0.5, Tools(bin_dir=str(tmp_path)))
    assert "did not finish" in served.error
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
