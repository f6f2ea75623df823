#!/usr/bin/env python3
"""Compare programs that get a certificate for a given request from one pebble: median seconds of each, as a table.

Usage: python tests/bench/acme_clients.py [CERTIFICATES]. Each client gets certificates for names that the authority has not
seen ("validated"), then for the same names again ("authorized": the challenge is left out). certbot is measured where it is.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests")]
import conftest  # noqa: E402, F401 - makes the roles' module_utils importable
from ansible.module_utils.certificates_acme import Account, Challenge, issue  # noqa: E402 - after the path above
from ansible.module_utils.runbook_tools import Tools  # noqa: E402 - after the path above
from fakes.acme import Pebble, Webroot, pebble  # noqa: E402 - after the path above

from bench.measure import timed  # noqa: E402 - after the path above

LIMIT_SECONDS = 180
# http-01 takes two calls of the module, with what it asks for put where it is served in between.
PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  module_defaults:
    community.crypto.acme_certificate: &options
      acme_directory: "{{ directory }}"
      acme_version: 2
      account_key_src: "{{ account }}"
      account_email: ops@example.test
      terms_agreed: true
      validate_certs: false
      csr: "{{ request }}"
      fullchain_dest: "{{ certificate }}"
      challenge: http-01
      force: true
  tasks:
    - name: Order
      community.crypto.acme_certificate: {}
      register: order
    - name: Make the folder
      ansible.builtin.file: {path: "{{ webroot }}/.well-known/acme-challenge", state: directory, mode: "0755"}
    - name: Place the answers
      ansible.builtin.copy:
        dest: "{{ webroot }}/{{ item.value['http-01'].resource }}"
        content: "{{ item.value['http-01'].resource_value }}"
        mode: "0644"
      loop: "{{ order.challenge_data | dict2items }}"
    - name: Fetch
      community.crypto.acme_certificate:
        data: "{{ order }}"
"""


def run(argv: list[str], **more: str) -> None:
    done = subprocess.run(
        argv, env={**os.environ, **more}, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False, cwd="/"
    )
    if done.returncode:
        raise SystemExit(f"{argv[0]} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def request_for(folder: Path, name: str) -> Path:
    path = folder / f"{name}.csr"
    run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{path}.key",
         "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-out", str(path)])  # fmt: skip
    return path


def ours(authority: Pebble, folder: Path, name: str, request: Path) -> None:
    account = Account(authority.directory, "ops@example.test", str(folder / "ours"), ca_file=str(authority.ca_file))
    issue(Tools(), account, Challenge("http-01", http_port=f"127.0.0.1:{authority.http_port}"), str(request), [name], LIMIT_SECONDS)


def lego(authority: Pebble, folder: Path, name: str, request: Path) -> None:
    run(["lego", "--server", authority.directory, "--email", "ops@example.test", "--accept-tos", "--path", str(folder / "lego"), "--csr",
         str(request), "--http", "--http.port", f"127.0.0.1:{authority.http_port}", "run"],
        LEGO_CA_CERTIFICATES=str(authority.ca_file))  # fmt: skip


def certbot(authority: Pebble, folder: Path, name: str, request: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as out:
        run(["certbot", "certonly", "--non-interactive", "--agree-tos", "--email", "ops@example.test", "--server", authority.directory,
             "--csr", str(request), "--standalone", "--http-01-address", "127.0.0.1", "--http-01-port", str(authority.http_port),
             *[word for kind in ("config", "work", "logs") for word in (f"--{kind}-dir", str(folder / "certbot" / kind))],
             *[word for kind in ("cert", "chain", "fullchain") for word in (f"--{kind}-path", f"{out}/{kind}.pem")]],
            REQUESTS_CA_BUNDLE=str(authority.ca_file))  # fmt: skip


def modules(authority: Pebble, folder: Path, name: str, request: Path) -> None:
    webroot = folder / "webroot"
    webroot.mkdir(exist_ok=True)
    playbook, account = folder / "issue.yml", folder / "account.pem"
    playbook.write_text(PLAYBOOK)
    if not account.exists():
        run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(account)])
    values = {"directory": authority.directory, "account": str(account), "request": str(request), "webroot": str(webroot),
              "certificate": f"{request}.crt", "ansible_python_interpreter": sys.executable}  # fmt: skip
    config = folder / "ansible.cfg"
    config.write_text("[defaults]\n")
    with Webroot(webroot, authority.http_port):
        run(["ansible-playbook", "-i", "localhost,", "-c", "local", str(playbook), "-e", json.dumps(values)], ANSIBLE_CONFIG=str(config))


CLIENTS: dict[str, Callable[[Pebble, Path, str, Path], None]] = {
    "lego --csr, by issue()": ours,
    "lego --csr": lego,
    "certbot --csr": certbot,
    "community.crypto.acme_certificate": modules,
}


def main(count: int) -> None:
    rows = []
    with tempfile.TemporaryDirectory(prefix="acme-clients-") as name:
        folder = Path(name)
        with pebble(folder / "pebble", authz_reuse=100) as authority:
            for number, (client, act) in enumerate(CLIENTS.items()):
                if client.startswith("certbot") and not shutil.which("certbot"):
                    continue
                names = [f"c{number}-{index}.example.test" for index in range(count + 1)]
                requests = {each: request_for(folder, each) for each in names}
                medians = []
                for _ in ("validated", "authorized"):
                    # The first registers the account and warms caches up.
                    seconds = [timed(partial(act, authority, folder, each, requests[each])) for each in names]
                    medians.append(statistics.median(seconds[1:]))
                rows.append((client, *medians))
                print(f"{client}: {medians[0]:.2f} s, {medians[1]:.2f} s", file=sys.stderr)
    print(f"| client | validated, s (median of {count}) | authorized, s |\n|---|---|---|")
    for client, first, second in rows:
        print(f"| {client} | {first:.2f} | {second:.2f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
