"""A certificate authority on loopback: real pebble with pebble-challtestsrv, and a stand-in for what pebble cannot do.

The stand-in adds renewalInfo (RFC 9773) to a real pebble's directory and passes everything else on; `answers` are given
instead of the authority's own, which is how a rate limit, a lost nonce or a CA that is overloaded looks.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

START_SECONDS = 20.0


def free_ports(count: int) -> list[int]:
    """Return ports that are free now, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def localhost_certificate(folder: Path) -> tuple[Path, Path, Path]:
    """Make a CA and a certificate of localhost with its key; return the paths of CA, certificate and key."""
    paths = folder / "api-ca.pem", folder / "api.pem", folder / "api-key.pem"
    if all(path.exists() for path in paths):
        return paths
    now = datetime.datetime.now(datetime.timezone.utc)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    root = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test API root")])
    leaf = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    alternative = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    made = []
    for subject, key, extension in ((root, keys[0], x509.BasicConstraints(True, None)), (leaf, keys[1], alternative)):
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(root)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(extension, critical=subject is root)
        )
        made.append(builder.sign(keys[0], hashes.SHA256()))
    plain = serialization.NoEncryption()
    paths[0].write_bytes(made[0].public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(made[1].public_bytes(serialization.Encoding.PEM))
    paths[2].write_bytes(keys[1].private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return paths


def wait_for(condition: Any, what: str, limit_seconds: float = START_SECONDS) -> None:
    """Return when `condition()` is true. Raise AssertionError where it does not become so."""
    until = time.monotonic() + limit_seconds
    while not condition():
        assert time.monotonic() < until, f"{what} within {limit_seconds:g} s"
        time.sleep(0.02)


@dataclass
class Pebble:
    """A running pebble. `http_port` and `tls_port` are where it looks for answers to challenges, `dns_port` whom it asks."""

    folder: Path
    environment: dict[str, str]
    settings: dict[str, Any]
    port: int
    management_port: int
    http_port: int
    tls_port: int
    dns_port: int
    hook_port: int
    ca_file: Path
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def directory(self) -> str:
        return f"https://127.0.0.1:{self.port}/dir"

    @property
    def management(self) -> str:
        return f"https://127.0.0.1:{self.management_port}"

    @property
    def log(self) -> str:
        return (self.folder / "pebble.log").read_text(errors="replace")

    @property
    def orders(self) -> int:
        """How many orders were asked for since the folder was made."""
        return self.log.count("POST /order-plz ->")

    @property
    def judged(self) -> int:
        """How many challenges were judged since the folder was made."""
        return len(re.findall(r"set (?:IN)?VALID by", self.log))

    @property
    def contacts(self) -> int:
        """How many requests came in since the folder was made, our own waiting for its start left out."""
        return self.log.count(" -> calling handler()") - self.log.count("HEAD /dir -> calling handler()")

    def start(self) -> None:
        config = self.folder / "pebble.json"
        config.write_text(json.dumps({"pebble": self.settings}))
        assistant = ["pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "", "-https01", "",
                     "-tlsalpn01", "", "-dns01", f"127.0.0.1:{self.dns_port}", "-management", f"127.0.0.1:{self.hook_port}"]  # fmt: skip
        if not self._processes:
            self._run(assistant, "challtestsrv.log")
            wait_for(lambda: _listens(self.hook_port), "pebble-challtestsrv listens")
        self._run(["pebble", "-config", str(config), "-dnsserver", f"127.0.0.1:{self.dns_port}"], "pebble.log")
        wait_for(self._answers, "pebble answers")

    def _run(self, argv: list[str], log: str) -> None:
        with (self.folder / log).open("ab") as out:
            env = {**os.environ, **self.environment}
            self._processes.append(subprocess.Popen(argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=env))

    def _answers(self) -> bool:
        assert self._processes[-1].poll() is None, f"pebble ended: {self.log[-1000:]}"
        with contextlib.suppress(OSError):
            return _asked(self.port, "HEAD", "/dir", self.ca_file)[0] == 200
        return False

    def stop(self) -> None:
        """The authority is gone; whoever answers names stays."""
        _end(self._processes.pop())

    def restart(self) -> None:
        """The authority starts anew: it has forgotten accounts, orders and certificates, and has a new root."""
        self.stop()
        self.start()

    def close(self) -> None:
        while self._processes:
            _end(self._processes.pop())

    def get(self, path: str) -> bytes:
        """Return what the management interface says."""
        return _asked(self.management_port, "GET", path, self.ca_file)[2]

    def status(self, serial_hex: str) -> dict[str, Any]:
        """Return what the authority knows of a certificate: Status and, where it is revoked, RevokedAt and Reason."""
        return dict(json.loads(self.get(f"/cert-status-by-serial/{serial_hex.lower()}")))


def _asked(
    port: int, method: str, path: str, ca_file: Path, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, list[tuple[str, str]], bytes]:
    """Return status, headers and body of what an HTTPS server of ours answers."""
    link = http.client.HTTPSConnection("127.0.0.1", port, context=ssl.create_default_context(cafile=str(ca_file)), timeout=10)
    try:
        link.request(method, path, body, headers or {})
        answer = link.getresponse()
        return answer.status, answer.getheaders(), answer.read()
    finally:
        link.close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def pebble(
    folder: Path,
    *,
    nonce_reject: int = 0,
    chain_length: int = 2,
    authz_reuse: int = 50,
    validity_seconds: int = 7776000,
    external_accounts: dict[str, str] | None = None,
) -> Iterator[Pebble]:
    """Run pebble and pebble-challtestsrv on free ports of loopback until the block ends.

    `nonce_reject` and `authz_reuse` are percentages; `external_accounts` maps key identifiers to base64url HMAC keys, and
    makes binding a must.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ca_file, certificate, key = localhost_certificate(folder)
    port, management, http_port, tls_port, dns_port, hook_port = free_ports(6)
    settings: dict[str, Any] = {
        "listenAddress": f"127.0.0.1:{port}",
        "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": str(certificate),
        "privateKey": str(key),
        "httpPort": http_port,
        "tlsPort": tls_port,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": external_accounts is not None,
        "externalAccountMACKeys": external_accounts or {},
        "certificateValidityPeriod": validity_seconds,
    }
    environment = {
        "PEBBLE_VA_NOSLEEP": "1",
        "PEBBLE_WFE_NONCEREJECT": str(nonce_reject),
        "PEBBLE_CHAIN_LENGTH": str(chain_length),
        "PEBBLE_AUTHZREUSE": str(authz_reuse),
    }
    made = Pebble(folder, environment, settings, port, management, http_port, tls_port, dns_port, hook_port, ca_file)
    try:
        made.start()
        yield made
    finally:
        made.close()


DNS_HOOK = """#!/usr/bin/env python3
import json, sys, urllib.request
what, name, value = sys.argv[1:4]
page = {{"present": "set-txt", "cleanup": "clear-txt"}}[what]
body = json.dumps({{"host": name, "value": value}}).encode()
urllib.request.urlopen(f"http://127.0.0.1:{port}/{{page}}", body, timeout=5).read()
"""


def dns_hook(authority: Pebble) -> Path:
    """Return a program that puts a challenge's record into the names that the authority asks for."""
    path = authority.folder / "dns-hook"
    path.write_text(DNS_HOOK.format(port=authority.hook_port))
    path.chmod(0o755)
    return path


class Webroot:
    """A web server that hands out the files below a folder, as nginx does with /.well-known/acme-challenge."""

    def __init__(self, folder: Path, port: int) -> None:
        outer = self
        self.asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                path = folder / self.path.lstrip("/")
                found = path.is_file()
                data = path.read_bytes() if found else b""
                self.send_response(200 if found else 404)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Webroot:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass
class Answer:
    """What the stand-in says: status, a body that is sent as JSON (bytes as they are), and further headers."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


def problem(status: int, kind: str, detail: str, **headers: str) -> Answer:
    """Return an error as RFC 8555 section 6.7 has it; a header's name is given with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail, "status": status},
                  {"Content-Type": "application/problem+json", **named})  # fmt: skip


def rate_limited(retry_after: str = "2026-12-01 07:30:00 UTC", header: str = "") -> Answer:
    """Return Let's Encrypt's refusal of a sixth certificate of the same names."""
    detail = (
        "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, "
        f"retry after {retry_after}: see https://letsencrypt.org/docs/rate-limits/#new-certificates-per-exact-set-of-identifiers"
    )
    return problem(429, "rateLimited", detail, **({"Retry_After": header} if header else {}))


class StandIn:
    """An HTTPS server that speaks for an authority.

    `answers[path]` is a list of answers that are given one after the other instead of its own; `window` is (start, end) in
    RFC 3339, None leaves renewalInfo out of the directory; `requests` holds (method, path) of all that came. Accounts and
    orders are those of `behind`, whose judgement of a challenge is waited for.
    """

    def __init__(self, folder: Path, behind: Pebble | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.ca_file, certificate, key = localhost_certificate(folder)
        self.behind = behind
        self.window: tuple[str, str] | None = None
        self.explanation = ""
        self.retry_after = "21600"
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[tuple[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.requests.append((self.command, self.path))
                told = outer._take(self.command, self.path, body, dict(self.headers))
                data = told.body if isinstance(told.body, bytes) else json.dumps(told.body or {}).encode()
                self.send_response(told.status)
                for name, value in told.headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in told.headers:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_POST = do_HEAD = _any

            def log_message(self, *_: object) -> None:
                return

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                return  # a caller that gave up

        self._server = Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        # Not in the accepting thread: a caller that never shakes hands would keep the others out.
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def orders(self) -> int:
        """How many orders were asked for."""
        return self.requests.count(("POST", "/order-plz"))

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def directory(self) -> str:
        return f"{self.address}/dir"

    def _take(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        if self.answers.get(path):
            told = self.answers[path].pop(0)
            nonce = {"Replay-Nonce": base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")} if self.behind is None else {}
            return Answer(told.status, told.body, {**nonce, **told.headers})
        if path.startswith("/renewal-info/") and self.window:
            start, end = self.window
            about = {"explanationURL": self.explanation} if self.explanation else {}
            retry = {"Retry-After": self.retry_after} if self.retry_after else {}
            return Answer(200, {"suggestedWindow": {"start": start, "end": end}, **about}, retry)
        if self.behind is None:
            if path == "/dir":
                return Answer(200, self._with_window({"newNonce": f"{self.address}/nonce"}))
            return problem(404, "malformed", "no such page")
        judged = self.behind.judged if path.startswith("/chalZ/") else 0
        passed = self._pass_on(method, path, body, headers)
        if path.startswith("/chalZ/") and passed.status == 200:
            # Clients look at once whether it was judged, and then wait for five seconds.
            behind = self.behind
            wait_for(lambda: behind.judged > judged, "the challenge is judged", 15)
        if path == "/dir" and passed.status == 200 and method == "GET":
            return Answer(200, self._with_window(json.loads(passed.body)))
        return passed

    def _with_window(self, directory: dict[str, Any]) -> dict[str, Any]:
        return {**directory, **({"renewalInfo": f"{self.address}/renewal-info"} if self.window else {})}

    def _pass_on(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        assert self.behind is not None
        # The caller's Host is kept: the authority makes its addresses of it, and signatures hold them.
        named = {name: value for name, value in headers.items() if name in ("Host", "Content-Type", "User-Agent", "Accept")}
        status, given, data = _asked(self.behind.port, method, path, self.behind.ca_file, body or None, named)
        ours = ("content-length", "transfer-encoding", "connection", "date", "link")
        kept = {name: value for name, value in given if name.lower() not in ours}
        links = ", ".join(value for name, value in given if name.lower() == "link")
        return Answer(status, data, {**kept, **({"Link": links} if links else {})})

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
