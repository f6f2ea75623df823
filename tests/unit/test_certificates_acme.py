# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Certificates from a real pebble through a real lego, and from authorities that refuse, forget and vanish."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from ansible.module_utils.certificates_acme import (
    Account,
    AcmeError,
    Challenge,
    Issued,
    explain,
    issue,
    issue_within_budget,
    move_aside,
    probe,
    retry_at,
    revoke,
)
from ansible.module_utils.certificates_ari import Cache, cert_id, renewal_window
from ansible.module_utils.certificates_ledger import DAY, HOUR, Entry, Ledger, LedgerError, Limits, budget
from ansible.module_utils.certificates_renewal import decide
from ansible.module_utils.certificates_x509 import parse_chain
from ansible.module_utils.runbook_tools import Tools
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fakes.acme import Pebble, StandIn, Webroot, dns_hook, free_ports, pebble, problem, rate_limited

LIMIT = 60.0
NOW = 1_790_000_000.0
SECRET = base64.urlsafe_b64encode(b"an HMAC key of thirty-two bytes!").decode().rstrip("=")
_numbers = itertools.count(1)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class Desk:
    """One who orders: an account with an authority, its ledger, and the requests it makes."""

    folder: Path
    authority: Pebble
    front: StandIn
    tools: Tools = field(default_factory=Tools)
    clock: Clock = field(default_factory=Clock)

    @property
    def account(self) -> Account:
        return Account(self.front.directory, "ops@example.test", str(self.folder / "acme"), ca_file=str(self.front.ca_file))

    @property
    def http(self) -> Challenge:
        return Challenge("http-01", http_port=f"127.0.0.1:{self.authority.http_port}")

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / "ledger.jsonl", self.clock)

    def request(self, *names: str, rsa_key: bool = False) -> tuple[str, str]:
        """Return the paths of a request for a certificate and of its key."""
        key = rsa.generate_private_key(65537, 2048) if rsa_key else ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
        alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        made = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(alternative, False).sign(key, hashes.SHA256())
        number = next(_numbers)
        request, path = self.folder / f"request-{number}.pem", self.folder / f"key-{number}.pem"
        request.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        path.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return str(request), str(path)

    def get(self, *names: str, challenge: Challenge | None = None, account: Account | None = None, limit: float = LIMIT) -> Issued:
        request, _ = self.request(*names)
        return issue(self.tools, account or self.account, challenge or self.http, request, names, limit, clock=self.clock)

    def order(self, *names: str, challenge: Challenge | None = None, staging: str | None = None, limits: Limits | None = None) -> Issued:
        request, _ = self.request(*names)
        return issue_within_budget(
            self.ledger, limits or Limits(), self.tools, self.account, challenge or self.http, "web", request, names, LIMIT,
            staging_directory=staging,
        )  # fmt: skip

    @property
    def events(self) -> list[str]:
        return [entry.event for entry in self.ledger.entries()[0]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    with pebble(tmp_path_factory.mktemp("pebble"), authz_reuse=100) as made:
        yield made


@pytest.fixture
def desk(running: Pebble, tmp_path: Path) -> Iterator[Desk]:
    with StandIn(tmp_path / "front", running) as front:
        yield Desk(tmp_path, running, front)


def own(folder: Path, authority: Pebble, front: StandIn) -> Desk:
    return Desk(folder, authority, front)


def verify(issued: Issued, authority: Pebble, folder: Path) -> None:
    """The chain leads to the authority's root, with nothing but what a server would send."""
    (folder / "root.pem").write_bytes(authority.get("/roots/0"))
    (folder / "chain.pem").write_text(issued.chain_pem)
    (folder / "leaf.pem").write_text(issued.certificate_pem)
    argv = ["openssl", "verify", "-CAfile", "root.pem", "-untrusted", "chain.pem", "leaf.pem"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert issued.fullchain_pem == issued.certificate_pem + issued.chain_pem


def names_of(issued: Issued) -> set[str]:
    leaf = x509.load_pem_x509_certificate(issued.certificate_pem.encode())
    return set(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName))


# What is issued.


def test_http_standalone_and_renewal(desk: Desk) -> None:
    request, key = desk.request("app.example.test", "b.example.test")
    issued = issue(desk.tools, desk.account, desk.http, request, ("app.example.test", "b.example.test"), LIMIT)
    verify(issued, desk.authority, desk.folder)
    assert names_of(issued) == {"app.example.test", "b.example.test"}
    leaf = x509.load_pem_x509_certificate(issued.certificate_pem.encode())
    private = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    assert leaf.public_key() == private.public_key()
    assert int(issued.serial, 16) == leaf.serial_number
    assert issued.chain_pem.count("BEGIN CERTIFICATE") == 2
    again = issue(desk.tools, desk.account, desk.http, request, ("app.example.test", "b.example.test"), LIMIT)
    assert again.serial != issued.serial
    assert desk.front.orders == 2


def test_nothing_but_the_account_is_kept_and_it_is_closed(desk: Desk) -> None:
    desk.get("kept.example.test")
    root = Path(desk.account.path)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    assert [path.name for path in files] == ["account.json", "ops@example.test.key"]
    assert [oct(path.stat().st_mode & 0o777) for path in (root, *files)] == ["0o700", "0o600", "0o600"]


def test_http_webroot(desk: Desk) -> None:
    webroot = desk.folder / "web root"
    webroot.mkdir()
    with Webroot(webroot, desk.authority.http_port) as server:
        issued = desk.get("webroot.example.test", challenge=Challenge("http-01", webroot=str(webroot)))
    assert names_of(issued) == {"webroot.example.test"}
    assert server.asked
    assert [path for path in webroot.rglob("*") if path.is_file()] == []


def test_tls_alpn(desk: Desk) -> None:
    challenge = Challenge("tls-alpn-01", tls_port=f"127.0.0.1:{desk.authority.tls_port}")
    assert names_of(desk.get("alpn.example.test", challenge=challenge)) == {"alpn.example.test"}


def by_dns(desk: Desk) -> Challenge:
    hook = str(dns_hook(desk.authority))
    return Challenge("dns-01", dns_hook=hook, dns_resolvers=(f"127.0.0.1:{desk.authority.dns_port}",), propagation=False)


def test_dns_hook_and_wildcard(desk: Desk) -> None:
    names = ("dns.example.test", "*.dns.example.test")
    assert names_of(desk.get(*names, challenge=by_dns(desk))) == set(names)


def test_nonces_are_refused_half_of_the_time(tmp_path: Path) -> None:
    with pebble(tmp_path / "ca", nonce_reject=50) as authority, StandIn(tmp_path / "front", authority) as front:
        desk = own(tmp_path, authority, front)
        issued = desk.order("nonce.example.test")
        assert front.orders >= 1
        assert desk.events[-1] == "issued"
        assert desk.events.count("order") <= 2
        assert len(front.requests) < 120
        assert revoke(desk.tools, desk.account, issued.certificate_pem)


def test_authorizations_that_are_used_again_and_those_that_are_not(desk: Desk, tmp_path: Path) -> None:
    asked = []
    with pebble(tmp_path / "ca", authz_reuse=0) as authority, StandIn(tmp_path / "other", authority) as front:
        for one in (desk, own(tmp_path, authority, front)):
            one.get("reuse.example.test")
            before = len(one.front.requests)
            for _ in range(3):
                one.get("reuse.example.test")
            asked.append(sum(path.startswith("/chalZ/") for _, path in one.front.requests[before:]))
    assert asked[0] == 0 < asked[1]


def test_a_key_of_another_kind_of_account(desk: Desk) -> None:
    desk.get("rsa.example.test", account=replace(desk.account, key_type="rsa-2048"))
    key = desk.account.folder / "keys" / "ops@example.test.key"
    assert "BEGIN RSA PRIVATE KEY" in key.read_text()


# External account binding.


def recording(folder: Path) -> tuple[Tools, Path]:
    """Return tools that write down the arguments of each call of lego and openssl."""
    log, programs = folder / "arguments.log", folder / "bin"
    programs.mkdir()
    for name in ("lego", "openssl"):
        real = shutil.which(name)
        (programs / name).write_text(f'#!/bin/sh\nprintf "%s\\n" "{name} $*" >>{log}\nexec {real} "$@"\n')
        (programs / name).chmod(0o755)
    return Tools(bin_dir=str(programs)), log


@pytest.mark.parametrize("key_type", ["ec256", "ec384", "rsa2048"])
def test_external_binding_without_a_secret_among_arguments(tmp_path: Path, key_type: str) -> None:
    binding = {"kid-1": SECRET}
    with pebble(tmp_path / "ca", external_accounts=binding, nonce_reject=30) as authority, StandIn(tmp_path / "front", authority) as front:
        desk = own(tmp_path, authority, front)
        desk.tools, log = recording(tmp_path)
        bound = replace(desk.account, eab_kid="kid-1", eab_hmac=SECRET, key_type=key_type)
        for _ in range(2):
            issued = desk.get("eab.example.test", account=bound)
            assert names_of(issued) == {"eab.example.test"}
        assert "There are now 1 accounts in memory" in authority.log
        assert "There are now 2 accounts" not in authority.log
        assert revoke(desk.tools, bound, issued.certificate_pem)
    assert "lego" in log.read_text()
    assert SECRET not in log.read_text()
    assert SECRET not in repr(bound)
    mode = (desk.account.folder / "keys" / "ops@example.test.key").stat().st_mode
    assert oct(mode & 0o777) == "0o600"


def test_a_wrong_binding_is_rejected_without_telling_the_secret(tmp_path: Path) -> None:
    wrong = base64.urlsafe_b64encode(b"x" * 32).decode().rstrip("=")
    with pebble(tmp_path / "ca", external_accounts={"kid-1": SECRET}) as authority, StandIn(tmp_path / "front", authority) as front:
        desk = own(tmp_path, authority, front)
        for kid, hmac in (("kid-1", wrong), ("kid-9", SECRET)):
            with pytest.raises(AcmeError) as caught:
                desk.get("eab.example.test", account=replace(desk.account, eab_kid=kid, eab_hmac=hmac))
            assert caught.value.kind == "rejected"
            assert hmac not in str(caught.value)
        with pytest.raises(AcmeError) as caught:
            desk.get("eab.example.test")
        assert caught.value.kind == "rejected"
        assert "requires External Account Binding. (ask the authority" in str(caught.value)
        assert front.orders == 0


# What goes wrong, how often it is tried, and what is written down.


def test_the_authority_is_down(desk: Desk) -> None:
    gone = replace(desk.account, directory=f"https://127.0.0.1:{free_ports(1)[0]}/dir")
    request, _ = desk.request("down.example.test")
    with pytest.raises(AcmeError) as caught:
        issue_within_budget(desk.ledger, Limits(), desk.tools, gone, desk.http, "web", request, ["down.example.test"], LIMIT)
    assert (caught.value.kind, "connection refused" in str(caught.value)) == ("unreachable", True)
    entries, _ = desk.ledger.entries()
    assert [(entry.event, entry.failed_names) for entry in entries] == [("order", None), ("failed", ())]
    told = budget(entries, ["down.example.test"], gone.directory, NOW, Limits())
    assert (told.left_orders, told.left_failures) == (5, 5)  # no validation failed


def test_an_authority_whose_certificate_is_not_trusted(desk: Desk) -> None:
    with pytest.raises(AcmeError, match="set the authority's CA file") as caught:
        desk.get("trust.example.test", account=replace(desk.account, ca_file=""))
    assert caught.value.kind == "unreachable"


def test_an_authority_that_never_answers_is_left(desk: Desk) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        silent = replace(desk.account, directory=f"https://127.0.0.1:{listener.getsockname()[1]}/dir")
        began = time.monotonic()
        with pytest.raises(AcmeError) as caught:
            desk.get("silent.example.test", account=silent, limit=2)
    assert caught.value.kind == "unreachable"
    assert time.monotonic() - began < 10


def test_an_order_whose_end_was_not_seen_counts(desk: Desk) -> None:
    """lego is ended while it waits for the hook: there may be a certificate, so that its order stays open."""
    hook = desk.folder / "slow-hook"
    hook.write_text("#!/bin/sh\nexec sleep 30\n")
    hook.chmod(0o755)
    request, _ = desk.request("slow.example.test")
    challenge = replace(by_dns(desk), dns_hook=str(hook))
    with pytest.raises(AcmeError, match="took longer than") as caught:
        issue_within_budget(desk.ledger, Limits(), desk.tools, desk.account, challenge, "web", request, ["slow.example.test"], 3)
    assert caught.value.may_have_issued
    assert desk.events == ["order"]
    assert budget(desk.ledger.entries()[0], ["slow.example.test"], desk.account.directory, NOW, Limits()).left_orders == 4


def test_the_authority_has_forgotten_the_account(tmp_path: Path) -> None:
    with pebble(tmp_path / "ca") as authority, StandIn(tmp_path / "front", authority) as front:
        desk = own(tmp_path, authority, front)
        desk.order("forgot.example.test")
        before = {path.name: path.read_bytes() for path in desk.account.folder.rglob("*.*") if path.is_file()}
        authority.restart()
        desk.clock.now += 60
        desk.order("forgot.example.test")
        assert desk.events == ["order", "issued", "order", "failed", "order", "issued"]
        aside = desk.account.folder.with_name("ops@example.test.forgotten-20260921T141420Z")
        assert {path.name: path.read_bytes() for path in aside.rglob("*.*") if path.is_file()} == before
        # Only the new account is used from now on.
        desk.order("forgot.example.test")
        assert (desk.events[-2:], front.orders) == (["order", "issued"], 4)


def test_an_authority_that_forgets_every_account_is_tried_twice(desk: Desk) -> None:
    forgotten = problem(400, "accountDoesNotExist", "Account not found.")
    desk.front.answers["/order-plz"] = [forgotten] * 9
    with pytest.raises(AcmeError) as caught:
        desk.order("twice.example.test")
    assert (caught.value.kind, desk.front.orders) == ("account", 2)
    assert desk.events == ["order", "failed"] * 2


def test_a_forgotten_account_with_external_binding_is_bound_anew(tmp_path: Path) -> None:
    with pebble(tmp_path / "ca", external_accounts={"kid-1": SECRET}) as authority, StandIn(tmp_path / "front", authority) as front:
        desk = own(tmp_path, authority, front)
        bound = replace(desk.account, eab_kid="kid-1", eab_hmac=SECRET)
        desk.get("eab.example.test", account=bound)
        authority.restart()
        assert names_of(desk.get("eab.example.test", account=bound)) == {"eab.example.test"}


def test_moving_aside_twice_in_a_second_loses_nothing(tmp_path: Path) -> None:
    account = Account("https://ca.example.test:14000/dir", "ops@example.test", str(tmp_path))
    assert move_aside(account, NOW) is None
    for _ in range(3):
        account.folder.mkdir(parents=True)
        assert move_aside(account, NOW) is not None
    assert len(list(account.folder.parent.iterdir())) == 3
    assert account.folder.parent.name == "ca.example.test_14000"


def test_a_closed_port_is_tried_once_a_run_and_not_at_all_after_five(desk: Desk) -> None:
    closed = Challenge("http-01", http_port=f"127.0.0.1:{free_ports(1)[0]}")
    for number in range(5):
        desk.clock.now += 60
        with pytest.raises(AcmeError) as caught:
            desk.order("closed.example.test", "open.example.test", challenge=closed)
        assert caught.value.kind == "validation"
        assert caught.value.names == ("closed.example.test", "open.example.test")
        assert desk.front.orders == number + 1
    before = len(desk.front.requests)
    with pytest.raises(AcmeError) as caught:
        desk.order("closed.example.test", challenge=closed)
    assert caught.value.kind == "budget"
    assert "5 of 5 failed validations of closed.example.test" in str(caught.value)
    assert "allowed from 2026-09-21T15:14:20Z" in str(caught.value)
    assert caught.value.retry_at == NOW + 60 + HOUR
    assert len(desk.front.requests) == before
    assert desk.events == ["order", "failed"] * 5
    # Another name is not kept from its certificate, nor is this one an hour later.
    desk.order("other.example.test")
    desk.clock.now = NOW + 60 + HOUR
    desk.order("closed.example.test")


def test_one_failed_name_of_two_is_the_one_that_is_told(desk: Desk) -> None:
    desk.get("good.example.test")  # authorized from now on
    closed = Challenge("http-01", http_port=f"127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(AcmeError) as caught:
        desk.order("good.example.test", "bad.example.test", challenge=closed)
    assert (caught.value.kind, caught.value.names) == ("validation", ("bad.example.test",))
    assert desk.ledger.entries()[0][-1].failed_names == ("bad.example.test",)


def test_a_port_that_is_taken_is_this_hosts_fault(desk: Desk) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(AcmeError, match="could not be answered from this host") as caught:
            desk.get("taken.example.test", challenge=Challenge("http-01", http_port=f"127.0.0.1:{taken.getsockname()[1]}"))
    assert caught.value.kind == "client"


def test_a_rate_limit_is_kept_to_the_second(desk: Desk) -> None:
    desk.front.answers["/order-plz"] = [rate_limited("2026-09-22 07:30:00 UTC")] * 9
    with pytest.raises(AcmeError) as caught:
        desk.order("limited.example.test")
    until = NOW + 62199 + 1  # 2026-09-22T07:30:00Z
    assert (caught.value.kind, caught.value.retry_at) == ("rate-limited", until)
    assert (desk.front.orders, desk.events) == (1, ["order", "rate-limited"])
    before = len(desk.front.requests)
    desk.clock.now = until - 1
    with pytest.raises(AcmeError, match="allowed from 2026-09-22T07:30:00Z") as caught:
        desk.order("limited.example.test")
    assert (caught.value.kind, len(desk.front.requests)) == ("budget", before)
    desk.front.answers.clear()
    desk.clock.now = until
    desk.order("limited.example.test")


def test_a_busy_authority_is_tried_twice_and_one_that_recovers_issues(desk: Desk) -> None:
    busy = problem(503, "serverInternal", "Service busy; retry later.", Retry_After="60")
    desk.front.answers["/order-plz"] = [busy] * 9
    with pytest.raises(AcmeError) as caught:
        desk.order("busy.example.test")
    assert (caught.value.kind, desk.front.orders) == ("unreachable", 2)
    assert desk.events == ["order", "failed"] * 2
    desk.front.answers["/order-plz"] = [busy]
    desk.order("busy.example.test")
    assert desk.events[4:] == ["order", "failed", "order", "issued"]


def test_a_refusal_is_not_repeated(desk: Desk) -> None:
    desk.front.answers["/order-plz"] = [problem(400, "rejectedIdentifier", "policy forbids issuing for name")] * 9
    with pytest.raises(AcmeError, match="policy forbids") as caught:
        desk.order("refused.example.test")
    assert (caught.value.kind, desk.front.orders) == ("rejected", 1)


def test_five_certificates_and_no_sixth(desk: Desk) -> None:
    for _ in range(5):
        desk.clock.now += 1
        desk.order("five.example.test")
    before = len(desk.front.requests)
    with pytest.raises(AcmeError, match="5 of 5 certificates of exactly these names") as caught:
        desk.order("FIVE.example.test")
    assert (caught.value.retry_at, len(desk.front.requests)) == (NOW + 1 + 7 * DAY, before)
    desk.order("five.example.test", "six.example.test")


def test_no_order_without_a_ledger(desk: Desk) -> None:
    desk.ledger.path.mkdir()
    with pytest.raises(LedgerError):
        desk.order("ledger.example.test")
    assert desk.front.requests == []


def test_a_certificate_is_not_lost_where_the_ledger_cannot_be_written_any_more(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Ledger.write

    def full(self: Ledger, event: str, *args: object, **more: object) -> Entry:
        if event == "issued":
            raise LedgerError("no space left")
        return real(self, event, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Ledger, "write", full)
    issued = desk.order("full.example.test")
    assert (issued.trouble, names_of(issued)) == ("no space left", {"full.example.test"})
    assert desk.events == ["order"]


# Staging first.


def test_a_new_set_of_names_is_tried_at_staging_first_and_only_then(desk: Desk, tmp_path: Path) -> None:
    with pebble(tmp_path / "ca") as authority, StandIn(tmp_path / "staging", authority) as staging:
        (tmp_path / "both.pem").write_bytes(staging.ca_file.read_bytes() + desk.front.ca_file.read_bytes())
        authority.settings["httpPort"] = desk.authority.http_port
        authority.restart()
        account = replace(desk.account, ca_file=str(tmp_path / "both.pem"))
        order = lambda *names: issue_within_budget(  # noqa: E731  a short name in this test alone
            desk.ledger, Limits(), desk.tools, account, desk.http, "web", desk.request(*names)[0], names, LIMIT,
            staging_directory=staging.directory,
        )  # fmt: skip
        staging.answers["/order-plz"] = [problem(400, "rejectedIdentifier", "no")]
        with pytest.raises(AcmeError, match="was not asked, since") as caught:
            order("new.example.test")
        assert (caught.value.kind, desk.front.requests) == ("rejected", [])
        issued = order("new.example.test")
        verify(issued, desk.authority, tmp_path)
        assert (staging.orders, desk.front.orders) == (2, 1)
        order("new.example.test")
        assert (staging.orders, desk.front.orders) == (2, 2)
        order("new.example.test", "more.example.test")
        assert (staging.orders, desk.front.orders) == (3, 3)
        assert (Path(account.path) / "staging" / "accounts").is_dir()
        # A production that keeps failing leaves enough of staging.
        for number in range(6):
            desk.clock.now += HOUR
            desk.front.answers["/order-plz"] = [problem(400, "rejectedIdentifier", "no")]
            with pytest.raises(AcmeError) as caught:
                order("failing.example.test")
            assert (caught.value.kind, staging.orders) == ("rejected", 4 + number)
        assert [entry.authority == staging.directory for entry in desk.ledger.entries()[0][:4]] == [True] * 4


# Renewal as the authority wants it.


def test_a_certificate_is_renewed_when_its_authority_says_so(desk: Desk) -> None:
    desk.front.window = ("2026-09-01T00:00:00Z", "2026-09-02T00:00:00Z")
    issued = desk.get("ari.example.test")
    leaf = parse_chain(issued.certificate_pem.encode())[0]
    cache = Cache(desk.folder / "ari.json")
    found, trouble = renewal_window(desk.front.directory, leaf.aki, leaf.serial, str(desk.front.ca_file), cache, NOW)
    assert trouble == ""
    assert f"/renewal-info/{cert_id(leaf.aki, leaf.serial)}" in [path for _, path in desk.front.requests]
    now = leaf.not_before
    assert decide(now, now, leaf.not_after, fraction=None, ari=found, seed="web").due
    assert not decide(now, now, leaf.not_after, fraction=None, ari=None, seed="web").due


def test_damage_in_the_ledger_is_told_with_the_certificate(desk: Desk) -> None:
    desk.ledger.path.write_text('{"at": 179000')
    issued = desk.order("torn.example.test")
    assert "torn by a crash" in issued.trouble


# Revocation.


def test_revoked_by_the_account(desk: Desk) -> None:
    issued = desk.get("revoked.example.test")
    assert desk.authority.status(issued.serial)["Status"] == "Valid"
    assert revoke(desk.tools, desk.account, issued.fullchain_pem, reason=4) is True
    told = desk.authority.status(issued.serial)
    assert (told["Status"], told["Reason"]) == ("Revoked", 4)
    assert told["RevokedAt"]
    assert revoke(desk.tools, desk.account, issued.fullchain_pem, reason=4) is False
    assert not list(Path(desk.account.path).glob(".work-*"))


@pytest.mark.parametrize("rsa_key", [False, True], ids=["ec", "rsa"])
def test_revoked_by_the_certificates_own_key(desk: Desk, rsa_key: bool) -> None:
    request, key = desk.request("lost.example.test", rsa_key=rsa_key)
    issued = issue(desk.tools, desk.account, desk.http, request, ["lost.example.test"], LIMIT)
    shutil.rmtree(desk.account.path)  # the account is lost
    assert revoke(desk.tools, desk.account, issued.certificate_pem, key, 1) is True
    assert desk.authority.status(issued.serial)["Reason"] == 1
    assert revoke(desk.tools, desk.account, issued.certificate_pem, key, 1) is False


def test_what_cannot_be_revoked_is_told(desk: Desk) -> None:
    issued = desk.get("lost.example.test")
    _, other = desk.request("lost.example.test")
    with pytest.raises(AcmeError, match="unauthorized") as caught:
        revoke(desk.tools, desk.account, issued.certificate_pem, other, 1)
    assert caught.value.kind == "rejected"
    with pytest.raises(AcmeError, match="there is no account") as caught:
        revoke(desk.tools, replace(desk.account, email="new@example.test"), issued.certificate_pem)
    assert caught.value.kind == "account"
    with pytest.raises(AcmeError, match="reason is 7"):
        revoke(desk.tools, desk.account, issued.certificate_pem, reason=7)
    with pytest.raises(AcmeError, match="no certificate"):
        revoke(desk.tools, desk.account, "hello")
    with pytest.raises(AcmeError, match="cannot be read"):
        revoke(desk.tools, desk.account, issued.certificate_pem, "/nonexistent")
    gone = replace(desk.account, directory=f"https://127.0.0.1:{free_ports(1)[0]}/dir")
    with pytest.raises(AcmeError) as caught:
        revoke(desk.tools, gone, issued.certificate_pem, other)
    assert caught.value.kind == "unreachable"


def test_a_foreign_accounts_revocation_is_rejected(desk: Desk) -> None:
    issued = desk.get("foreign.example.test")
    stranger = replace(desk.account, email="stranger@example.test")
    desk.get("stranger.example.test", account=stranger)
    with pytest.raises(AcmeError) as caught:
        revoke(desk.tools, stranger, issued.certificate_pem)
    assert caught.value.kind == "rejected"
    assert desk.authority.status(issued.serial)["Status"] == "Valid"


# What lego is, and what it says.


def test_the_lego_of_this_host() -> None:
    client = probe(Tools())
    assert client.version.startswith("4.")
    assert (client.options_last, client.knows("--csr"), client.knows("--cs"), client.knows("$LEGO_PATH")) == (False, True, False, True)


def stand_in(folder: Path, version: str, own_help: str, run_help: str = "", more: str = "") -> Tools:
    """Return tools with another lego, which writes down its arguments and what of its environment is of interest."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "lego").write_text(
        f"""#!/bin/sh
case "$*" in
--version) echo "{version}"; exit ;;
--help) echo "{own_help}"; exit ;;
"run --help") echo "{run_help}"; exit ;;
esac
printf '%s\\n' "$*" >>{folder}/arguments
env | grep ^LEGO_ | sort >{folder}/environment
{more}
exit 1
"""
    )
    (programs / "lego").chmod(0o755)
    return Tools(bin_dir=str(programs))


V5_RUN = (
    "--accept-tos --email --server --csr --path --key-type --http --http.address --http.webroot --tls --tls.address --dns "
    "--dns.resolvers --dns.propagation.wait --dns.propagation.disable-ans --dns.propagation.disable-rns --eab --eab-kid "
    "[\\$LEGO_EAB_KID] --eab-hmac [\\$LEGO_EAB_HMAC] --cert.timeout --http-timeout"
)


def asked_of(tools: Tools, tmp_path: Path, challenge: Challenge, **more: str) -> str:
    account = Account("https://127.0.0.1:1/dir", "ops@example.test", str(tmp_path / "acme"), **more)
    with pytest.raises(AcmeError):
        issue(tools, account, challenge, "/r.pem", ["a.test"], 30)
    return (tmp_path / "arguments").read_text()


def test_the_fifth_lego_has_its_options_after_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its documentation: that version is not in Debian."""
    monkeypatch.setenv("LEGO_EMAIL", "somebody@else.test")
    tools = stand_in(tmp_path, "lego version 5.6.0 linux/amd64", "COMMANDS: run", V5_RUN)
    told = asked_of(tools, tmp_path, Challenge("http-01", http_port="127.0.0.1:80"), eab_kid="kid-1", eab_hmac=SECRET)
    assert told.startswith("run --server https://127.0.0.1:1/dir --email ops@example.test --path ")
    assert " --eab " in told
    assert " --http --http.address 127.0.0.1:80 --csr /r.pem" in told
    assert SECRET not in told
    assert (tmp_path / "environment").read_text().splitlines() == [f"LEGO_EAB_HMAC={SECRET}", "LEGO_EAB_KID=kid-1"]
    hook = Challenge("dns-01", dns_hook="/bin/true", dns_resolvers=("127.0.0.1:53", "127.0.0.2:53"), propagation=False)
    told = asked_of(tools, tmp_path, hook)
    assert "--dns exec --dns.resolvers 127.0.0.1:53 --dns.resolvers 127.0.0.2:53 --dns.propagation.disable-ans" in told
    assert "--tls.address :443" in asked_of(tools, tmp_path, Challenge("tls-alpn-01"))


def test_a_secret_that_lego_says_is_not_said_again(tmp_path: Path) -> None:
    tools = stand_in(tmp_path, "lego version 4.35.0 linux/amd64", "--csr --http --http.port [\\$LEGO_EAB_HMAC]", more="env | grep ^LEGO_EAB >&2")
    account = Account("https://127.0.0.1:1/dir", "ops@example.test", str(tmp_path / "acme"), eab_kid="kid-1", eab_hmac=SECRET)
    with pytest.raises(AcmeError, match=r"LEGO_EAB_HMAC=\*\*\*") as caught:
        issue(tools, account, Challenge("http-01", http_port="127.0.0.1:1"), "/r.pem", ["a.test"], 30)
    assert SECRET not in str(caught.value)


def test_an_option_that_a_lego_does_not_know_is_told(tmp_path: Path) -> None:
    tools = stand_in(tmp_path, "lego version 4.99.0 linux/amd64", "--csr --http")
    with pytest.raises(AcmeError, match=r"lego 4\.99\.0 has no option --tls") as caught:
        issue(tools, Account("https://127.0.0.1:1/dir", "a@b.test", str(tmp_path)), Challenge("tls-alpn-01"), "/r", ["a.test"], 5)
    assert caught.value.kind == "client"


@pytest.mark.parametrize(
    ("version", "words"),
    [("lego version 4.8.0 linux/amd64", r"is 4\.8\.0; 4\.9 or newer"), ("lego version 2.7.2", r"is 2\.7\.2; 4\.9 or newer")],
)
def test_an_old_lego_is_refused(tmp_path: Path, version: str, words: str) -> None:
    with pytest.raises(AcmeError, match=words) as caught:
        probe(stand_in(tmp_path, version, "--csr"))
    assert caught.value.kind == "client"


def test_a_lego_without_a_number_is_known_by_its_package(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    query = tmp_path / "bin" / "dpkg-query"
    for packaged, good in (("4.8.2-1", False), ("4.17.4-2+b1", True), ("", True)):
        query.write_text(f"#!/bin/sh\nprintf '{packaged}'\n")
        query.chmod(0o755)
        tools = stand_in(tmp_path, "lego version dev linux/amd64", "--csr")
        if good:
            assert probe(tools).version == (packaged.partition("-")[0] or "lego version dev linux/amd64")
        else:
            with pytest.raises(AcmeError, match=r"4\.9 or newer"):
                probe(tools)


def test_no_lego_and_a_broken_one_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "lego").write_text("#!/bin/sh\nexit 7\n")
    (tmp_path / "bin" / "lego").chmod(0o755)
    with pytest.raises(AcmeError, match="exit status 7"):
        probe(Tools(bin_dir=str(tmp_path / "bin")))
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(AcmeError, match="apt-get install lego"):
        probe(Tools())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"directory": "http://ca.example.test/dir"}, "no https address"),
        ({"email": ""}, "e-mail address is ''"),
        ({"email": "../../x@y"}, "e-mail address"),
        ({"email": "-x@y"}, "e-mail address"),
        ({"key_type": "dsa"}, "key type is 'dsa'"),
        ({"eab_kid": "kid-1"}, "one of them is missing"),
        ({"eab_kid": "kid-1", "eab_hmac": "ä"}, "not base64url"),
        ({"path": "/proc/nowhere"}, "cannot be written"),
    ],
)
def test_an_account_that_cannot_be_is_told(tmp_path: Path, changed: dict[str, str], words: str) -> None:
    account = replace(Account("https://127.0.0.1:1/dir", "ops@example.test", str(tmp_path / "acme")), **changed)
    with pytest.raises(AcmeError, match=words) as caught:
        issue(Tools(), account, Challenge("http-01", http_port="127.0.0.1:1"), "/r.pem", ["a.test"], 10)
    assert caught.value.kind == "client"


@pytest.mark.parametrize(
    ("challenge", "names", "words"),
    [
        (Challenge("http-02"), ["a.test"], "'http-02'"),
        (Challenge("http-01"), [], "no name"),
        (Challenge("http-01"), ["*.a.test"], "proven by dns-01 only"),
        (Challenge("http-01", webroot="/nonexistent"), ["a.test"], "is no folder"),
        (Challenge("dns-01", dns_hook="relative"), ["a.test"], "must be the path of a program"),
        (Challenge("dns-01", dns_hook="/etc/passwd"), ["a.test"], "must be the path of a program"),
    ],
)
def test_a_challenge_that_cannot_be_is_told(tmp_path: Path, challenge: Challenge, names: list[str], words: str) -> None:
    account = Account("https://127.0.0.1:1/dir", "ops@example.test", str(tmp_path / "acme"))
    with pytest.raises(AcmeError, match=words) as caught:
        issue(Tools(), account, challenge, "/r.pem", names, 10)
    assert caught.value.kind == "client"


@pytest.mark.parametrize("content", ["", "hello", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"])
def test_a_request_that_is_none_is_told(desk: Desk, content: str) -> None:
    path = desk.folder / "request.pem"
    path.write_text(content)
    with pytest.raises(AcmeError) as caught:
        issue(desk.tools, desk.account, desk.http, str(path), ["a.test"], LIMIT)
    assert caught.value.kind == "client"
    assert desk.front.orders == 0


def test_leftovers_of_killed_runs_go_and_those_of_others_stay(desk: Desk) -> None:
    root = Path(desk.account.path)
    old, new = root / ".work-old", root / ".work-new"
    for folder in (old, new):
        (folder / "certificates").mkdir(parents=True)
    os.utime(old, (1, 1))
    desk.get("leftover.example.test")
    assert (old.exists(), new.exists()) == (False, True)


def of(text: str) -> AcmeError:
    return explain(text, "https://ca.test/dir", ["a.test", "b.test"], NOW)


E = "urn:ietf:params:acme:error:"
TOLD = "Could not obtain certificates:\n\t"
SOUGHT = "2026/11/27 22:59:24 [INFO] [a.test] acme: Validations succeeded; requesting certificates\n"
POSTED = ":: POST :: https://ca.test/x :: " + E


@pytest.mark.parametrize(
    ("text", "kind", "names", "sought"),
    [
        (f"{TOLD}error: one or more\n[a.test] acme: error: 403 :: {E}unauthorized :: wrong", "validation", ("a.test",), False),
        (f"2026/11/27 22:59:45 {TOLD}[B.test] invalid authorization: acme: error: 400 :: {E}dns :: x", "validation", ("b.test",), False),
        (f"{TOLD}[a.test] acme: error: 429 {POSTED}rateLimited :: slow down", "rate-limited", (), False),
        (f"{TOLD}acme: error: 403 {POSTED}unauthorized :: account is not valid", "rejected", (), False),
        (f"{TOLD}[a.test] propagation: time limit exceeded: last error: NS ns1. returned NXDOMAIN", "client", (), False),
        (f"{SOUGHT}{TOLD}[a.test] time limit exceeded: last error: x", "unreachable", (), True),
        (f"{SOUGHT}{TOLD}acme: error: 500 {POSTED}serverInternal :: x", "unreachable", (), True),
        (f"{SOUGHT}{TOLD}acme: error: 403 {POSTED}badCSR :: x", "rejected", (), False),
        ("Could not create client: get directory at 'https://ca.test/dir': dial tcp: lookup ca.test: no such host", "unreachable", (), False),
        (f"[INFO] retry due to: acme: error: 400 {POSTED}badNonce\n{TOLD}acme: error: 400 {POSTED}malformed", "rejected", (), False),
        (f"{TOLD}acme: error: 400 {POSTED}badNonce :: x", "unreachable", (), False),
        ("", "client", (), False),
        ("panic: \udcff", "client", (), False),
    ],
)
def test_what_lego_says(text: str, kind: str, names: tuple[str, ...], sought: bool) -> None:
    told = of(text)
    assert (told.kind, told.names, told.may_have_issued) == (kind, names, sought)
    str(told).encode()


def test_when_to_come_again() -> None:
    assert retry_at("too many ..., retry after 2026-09-22T07:30:00Z: see", NOW) == NOW + 62200
    assert retry_at("retry after 2026-09-22 07:30:00.123 UTC", NOW) == NOW + 62200
    assert retry_at("slow down", NOW) == NOW + HOUR
    assert retry_at("retry after 2026-99-99 07:30:00 UTC", NOW) == NOW + HOUR
    assert retry_at("retry after 2020-01-01 07:30:00 UTC", NOW) == NOW
    assert retry_at("retry after 2990-01-01 07:30:00 UTC", NOW) == NOW + 32 * DAY


def test_a_ledger_is_readable_by_people(desk: Desk) -> None:
    desk.order("readable.example.test")
    rows = [json.loads(line) for line in desk.ledger.path.read_text().splitlines()]
    assert [(row["event"], row["certificate"], row["names"]) for row in rows] == [
        ("order", "web", ["readable.example.test"]),
        ("issued", "web", ["readable.example.test"]),
    ]
    assert rows[1]["serial"] in {row["serial"] for row in rows if row["serial"]}
