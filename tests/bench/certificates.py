"""Certificate management against the bare tools."""

from __future__ import annotations

import contextlib
import http.client
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.certificates_acme import Account, Challenge
from ansible.module_utils.certificates_consumers import Reach, Services
from ansible.module_utils.certificates_deploy import Deployer, Deployment
from ansible.module_utils.certificates_issue import Issuer
from ansible.module_utils.certificates_model import Consumer, Managed
from ansible.module_utils.certificates_store import Shelf
from ansible.module_utils.certificates_survey import Acme, Given, Surveyor
from fakes.acme import Pebble, free_ports, pebble
from unit import certificates_made as made

from bench import wrapper
from bench.logs import PING
from bench.measure import Figure, in_turn, timed

PLAYBOOK = wrapper.ROOT / "playbooks/certificate-management.yml"
CERTIFICATES = 20
RENEWALS = 50
REQUESTS_PER_SECOND = 100
ROUNDS = 5


class Nginx:
    """An nginx with a TLS server on each port, whose files are <folder>/<n>.crt and .key."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self.folder, self.ports, self.config = folder, ports, folder / "nginx.conf"

    def start(self) -> None:
        servers = "".join(
            f"server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {self.folder}/{n}.crt; ssl_certificate_key {self.folder}/{n}.key; "
            'location / { return 200 "ok"; } }\n'
            for n, port in enumerate(self.ports)
        )
        self.config.write_text(
            f"pid {self.folder}/nginx.pid; error_log {self.folder}/error.log; worker_processes 2; events {{}}\n"
            f"http {{ access_log off; keepalive_timeout 5s;\n{servers}}}\n"
        )
        subprocess.run(["nginx", "-c", str(self.config)], check=True)

    @property
    def reload(self) -> list[str]:
        return ["nginx", "-c", str(self.config), "-s", "reload"]

    def stop(self) -> None:
        subprocess.run(["nginx", "-c", str(self.config), "-s", "stop"], check=False)


@contextlib.contextmanager
def nginx(folder: Path, count: int, pair: tuple[str, str]) -> Iterator[Nginx]:
    """Have an nginx serve `pair` on `count` ports."""
    folder.mkdir(parents=True)
    for n in range(count):
        (folder / f"{n}.crt").write_text(pair[0])
        (folder / f"{n}.key").write_text(pair[1])
        (folder / f"{n}.key").chmod(0o600)
    server = Nginx(folder, free_ports(count))
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _managed(server: Nginx, number: int, **more: Any) -> Managed:
    consumer = Consumer("nginx", "command", f"127.0.0.1:{server.ports[number]}", "tracker.test", command=tuple(server.reload))
    given: dict[str, Any] = {"names": ("tracker.test",), "issuer": "private_ca", "consumers": (consumer,)}
    return Managed(f"web{number}", certificate_file=f"{server.folder}/{number}.crt", key_file=f"{server.folder}/{number}.key", **{**given, **more})


# --- a second run ------------------------------------------------------------------------------------------------


def steady(scratch: Path) -> list[Figure]:
    """A second run with 20 certificates of a private authority at 20 addresses, against one ping."""
    now = time.time()
    with nginx(scratch / "steady", CERTIFICATES, made.Authority(now=now).pair(since=now - 60, until=now + 90 * made.DAY)) as server:
        rows = [
            {"name": f"web{n}", "names": [f"web{n}.tracker.test"], "issuer": "private_ca", "certificate_file": f"{server.folder}/{n}.crt",
             "key_file": f"{server.folder}/{n}.key",
             "consumers": [{"kind": "command", "address": f"127.0.0.1:{port}", "command": server.reload}]}
            for n, port in enumerate(server.ports)
        ]  # fmt: skip
        host = {
            "ansible_connection": "local", "ansible_python_interpreter": sys.executable, "tracker_become": False, "tracker_parts": ["proxy"],
            "runbook_state_dir": str(scratch / "state"), "certificates_store_dir": str(scratch / "store"), "certificates_managed": rows,
            "certificates_ca_dir": str(scratch / "authority"), "certificates_ca_root_dir": str(scratch / "root"),
            "certificates_ca_passphrase": "made up for a bench", "certificates_discover_ports": [],
        }  # fmt: skip
        inventory, ping_file = scratch / "certificates-inventory.yml", scratch / "ping.yml"
        inventory.write_text(yaml.safe_dump({"proxy": {"hosts": {"web1": host}}}))
        ping_file.write_text(PING)
        bare = [str(wrapper.BIN / "ansible-playbook"), str(PLAYBOOK), "-i", str(inventory)]
        ping = [str(wrapper.BIN / "ansible-playbook"), str(ping_file), "-i", str(inventory)]
        wrapper.run(bare, scratch)
        seconds, floor, ratio = in_turn(lambda: wrapper.run(bare, scratch), lambda: wrapper.run(ping, scratch), 5)
        calls, changed = wrapper.module_calls(wrapper.run(bare, scratch, ANSIBLE_STDOUT_CALLBACK="json"))
    what = f"second run of certificate management, {CERTIFICATES} certificates at {CERTIFICATES} addresses"
    return [
        Figure(what, f"{seconds:.2f} s", f"one ping {floor:.2f} s", f"{ratio:.2f}", "<= 3", ratio <= 3),
        Figure(f"module calls of a {what}", f"{calls}, changed={changed}", "-", "-", "<= 4, changed=0", calls <= 4 and changed == 0),
    ]


# --- one renewal --------------------------------------------------------------------------------------------------


def renewal(scratch: Path) -> list[Figure]:
    """One certificate is renewed and served, by the steps issue and deploy, and by bare lego and a reload."""
    now = time.time()
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    pair = made.Authority(now=now).pair(since=now - 60, until=now + 90 * made.DAY)
    with pebble(scratch / "pebble") as authority, nginx(scratch / "renewal", 2, pair) as server:
        for n in range(ROUNDS + 1):
            times["ours"].append(_ours(scratch, authority, server))
            times["bare"].append(_bare(scratch, authority, server, first=n == 0))
    # The first round registers an account and proves the name.
    ours, bare = min(times["ours"][1:]), min(times["bare"][1:])
    more = ours - bare
    return [Figure("renewal of one certificate until it is served, against `lego renew` and a reload", f"{ours:.2f} s", f"{bare:.2f} s",
                   f"{more:+.2f} s", "<= +1.5 s", more <= 1.5)]  # fmt: skip


def _ours(scratch: Path, authority: Pebble, server: Nginx) -> float:
    account = Account(authority.directory, "ops@example.test", str(scratch / "store/accounts"), ca_file=str(authority.ca_file))
    roots = scratch / "pebble-roots.pem"
    roots.write_bytes(authority.get("/roots/0"))
    acme = Acme(account, Challenge("http-01", http_port=f"127.0.0.1:{authority.http_port}"), trust_file=str(roots))
    # Always due: nearly all of its life may be left.
    managed = _managed(server, 0, issuer="acme", renew_at_fraction=0.999999999)
    given = Given((managed,), scratch / "store", scratch / "state", reach=Reach(), acme=acme)

    def work() -> None:
        issuer = Issuer(Surveyor(given))
        issuer.issue()
        assert not issuer.findings, issuer.findings
        surveyor = Surveyor(given)
        deployment = Deployment(Services(given.reach), surveyor.judge, surveyor.ledger, {})
        deployer = Deployer(surveyor.shelf(managed), deployment)
        deployer.run()
        assert not deployer.failed, deployer.failed
        # What an authority allows in a week is no concern of a bench.
        (scratch / "store/ledger.jsonl").unlink()

    return timed(work)


def _bare(scratch: Path, authority: Pebble, server: Nginx, *, first: bool) -> float:
    argv = ["lego", "--server", authority.directory, "--email", "ops@example.test", "--accept-tos", "--path", str(scratch / "lego"),
            "--domains", "bare.tracker.test", "--http", "--http.port", f"127.0.0.1:{authority.http_port}"]  # fmt: skip
    argv += ["run"] if first else ["renew", "--days", "9999", "--no-random-sleep"]
    env = {**os.environ, "LEGO_CA_CERTIFICATES": str(authority.ca_file)}

    def work() -> None:
        subprocess.run(argv, env=env, check=True, capture_output=True)
        for kind in ("crt", "key"):
            (server.folder / f"1.{kind}").write_bytes((scratch / f"lego/certificates/bare.tracker.test.{kind}").read_bytes())
        subprocess.run(server.reload, check=True, capture_output=True)

    return timed(work)


# --- nobody notices -----------------------------------------------------------------------------------------------


class Clients:
    """Sends requests at a steady pace, each over a new connection, and counts what fails."""

    def __init__(self, port: int) -> None:
        self.port, self.sent, self.failed, self.slowest = port, 0, [], 0.0  # type: ignore[var-annotated]
        self._stop = threading.Event()
        self._context = ssl.create_default_context()
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(8)]

    def _send(self, number: int) -> None:
        due = time.monotonic() + number / REQUESTS_PER_SECOND
        while not self._stop.wait(max(0, due - time.monotonic())):
            due += len(self._threads) / REQUESTS_PER_SECOND
            began = time.monotonic()
            try:
                connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=self._context)
                connection.request("GET", "/")
                answer = connection.getresponse()
                good = answer.status == 200 and answer.read() == b"ok"
                connection.close()
                said = "" if good else f"status {answer.status}"
            except (OSError, http.client.HTTPException) as error:
                said = repr(error)
            with self._lock:
                self.sent += 1
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.failed += [said] if said else []

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def unnoticed(scratch: Path) -> list[Figure]:
    """Fifty renewals over an nginx that answers 100 requests a second, each over a new connection."""
    now = time.time()
    authority = made.Authority(now=now)
    pairs = [authority.pair(since=now - 60, until=now + 90 * made.DAY) for _ in range(RENEWALS + 1)]
    with nginx(scratch / "unnoticed", 1, pairs[0]) as server, Clients(server.ports[0]) as clients:
        managed = _managed(server, 0)
        shelf = Shelf(scratch / "unnoticed-store", managed)
        given = Given((managed,), scratch / "unnoticed-store", scratch / "state", reach=Reach())
        surveyor = Surveyor(given)
        seconds = timed(lambda: [_deploy(shelf, surveyor, pair) for pair in pairs[1:]])
    pace = clients.sent / seconds
    return [Figure(f"{RENEWALS} renewals of a certificate under load: requests that failed", f"{len(clients.failed)} of {clients.sent:,}",
                   f"{pace:.0f} requests/s, slowest {clients.slowest * 1000:.0f} ms", "-", "0", not clients.failed)]  # fmt: skip


def _deploy(shelf: Shelf, surveyor: Surveyor, pair: tuple[str, str]) -> None:
    folder = shelf.open_next()
    (folder / "key.pem").write_text(pair[1])
    shelf.put_issued(pair[0], "")
    authority: Mapping[str, str] = {}
    deployer = Deployer(shelf, Deployment(Services(surveyor.given.reach), surveyor.judge, surveyor.ledger, authority))
    deployer.run()
    assert not deployer.failed, deployer.failed
