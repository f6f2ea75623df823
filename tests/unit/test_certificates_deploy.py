# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""A deployment is a transaction: all consumers present the new certificate or all the old one, also after a kill at any statement."""

from __future__ import annotations

import os
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Callable

import certificates_made as made
import pytest
from ansible.module_utils.certificates_consumers import Reach, Services
from ansible.module_utils.certificates_deploy import Deployer, Deployment
from ansible.module_utils.certificates_judge import Fault, judge
from ansible.module_utils.certificates_keys import KeyError_, KeyInfo, read_key
from ansible.module_utils.certificates_ledger import Ledger
from ansible.module_utils.certificates_model import Managed
from ansible.module_utils.certificates_store import Shelf
from ansible.module_utils.certificates_x509 import CertificateError, parse_chain

AUTHORITY = made.Authority()
OLD = AUTHORITY.pair(since=made.NOW - 60 * made.DAY, until=made.NOW + made.DAY)
NEW = AUTHORITY.pair()
OTHER = AUTHORITY.pair()


def judged(managed: Managed, folder: Path | None, key: KeyInfo | None = None) -> list[Fault]:
    certificate, key_path = (folder / "certificate.pem", folder / "key.pem") if folder else (Path(managed.certificate_file), Path(managed.key_file))
    try:
        return judge(parse_chain(certificate.read_bytes()), key or read_key(key_path), managed.names, made.NOW)
    except (OSError, CertificateError, KeyError_) as error:
        return [Fault("unreadable", str(error))]


class Site:
    """A host, its store, and what is needed to deploy there."""

    def __init__(self, tmp_path: Path, **more: Any) -> None:
        self.host = made.Host(tmp_path)
        self.store = tmp_path / "store"
        self.managed = self.host.managed(**more)
        self.shelf = Shelf(self.store, self.managed, lambda: made.NOW)
        self.ledger = Ledger(self.store / "ledger.jsonl", lambda: made.NOW)
        self.authority: dict[str, str] = {}
        self.wait_seconds = 0.3

    def stage(self, pair: tuple[str, str]) -> None:
        folder = self.shelf.open_next()
        (folder / "key.pem").write_text(pair[1])
        self.shelf.put_issued(pair[0], "")

    def deployer(self, judge: Callable[..., list[Fault]] = judged) -> Deployer:
        services = Services(Reach(wait_seconds=self.wait_seconds, poll_seconds=0.001), self.host.ask)
        return Deployer(self.shelf, Deployment(services, judge, self.ledger, self.authority, clock=lambda: made.NOW))

    def deploy(self, **more: Any) -> Deployer:
        deployer = self.deployer(**more)
        deployer.run()
        return deployer

    def events(self) -> list[str]:
        return [entry.event for entry in self.ledger.entries()[0]]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    found = Site(tmp_path)
    found.host.put(OLD)
    return found


def test_all_consumers_present_the_new_one(site: Site) -> None:
    site.stage(NEW)
    done = site.deploy()
    assert not done.failed
    assert site.host.presented() == {NEW[0]}
    assert site.events() == ["deployed"]
    assert site.host.certificate.read_text() == NEW[0] and site.host.key.read_text() == NEW[1]
    assert stat.S_IMODE(os.stat(site.host.key).st_mode) == 0o600
    assert site.shelf.transaction() is None


def test_a_second_run_does_nothing(site: Site) -> None:
    site.stage(NEW)
    site.deploy()
    told = (site.host.folder / "told-one").read_text()
    again = site.deploy()
    assert again.actions == [] and again.findings == []
    assert (site.host.folder / "told-one").read_text() == told


def test_what_was_there_before_is_kept(site: Site) -> None:
    site.stage(NEW)
    site.deploy()
    kept = [(path / "certificate.pem").read_text() for path in site.shelf.versions.iterdir()]
    assert OLD[0] in kept and NEW[0] in kept


def test_one_that_does_not_take_it_brings_all_back(site: Site) -> None:
    site.stage(NEW)
    (site.host.folder / "refuses-two").touch()
    done = site.deploy()
    assert "two" in done.failed
    assert site.host.presented() == {OLD[0]}
    assert site.host.certificate.read_text() == OLD[0] and site.host.key.read_text() == OLD[1]
    assert site.events() == ["rolled-back"]
    assert site.shelf.transaction() is None


def test_one_that_cannot_be_told_brings_all_back(site: Site) -> None:
    site.stage(NEW)
    (site.host.folder / "fails-two").touch()
    done = site.deploy()
    assert "two" in done.failed
    # It cannot be told of the old one either, and presents it still.
    assert site.host.presented() == {OLD[0]}


def test_what_was_taken_back_is_tried_again_without_an_order(site: Site) -> None:
    site.stage(NEW)
    (site.host.folder / "refuses-two").touch()
    site.deploy()
    (site.host.folder / "refuses-two").unlink()
    assert not site.deploy().failed
    assert site.host.presented() == {NEW[0]}
    assert site.deploy().actions == []


@pytest.mark.parametrize("pair", [
    pytest.param((NEW[0], OTHER[1]), id="key of another"),
    pytest.param(AUTHORITY.pair(until=made.NOW - 1), id="expired"),
    pytest.param(AUTHORITY.pair(since=made.NOW + 3600), id="begins later"),
    pytest.param(AUTHORITY.pair(("other.test",)), id="other name"),
    pytest.param(AUTHORITY.pair(chain=False), id="no intermediate"),
    pytest.param((NEW[0][:300], NEW[1]), id="truncated"),
])  # fmt: skip
def test_what_is_not_good_is_never_deployed(site: Site, pair: tuple[str, str]) -> None:
    site.stage(pair)
    done = site.deploy()
    assert site.host.presented() == {OLD[0]}
    assert Path(site.host.certificate).read_text() == OLD[0]
    if "BEGIN" in pair[0] and "END" in pair[0]:
        assert done.failed and [one["id"] for one in done.findings] == ["deploy-refused"]


def test_a_service_that_serves_another_one_is_told(site: Site) -> None:
    site.host.served("two").write_text(OTHER[0])
    done = site.deploy()
    assert not done.failed
    assert site.host.presented() == {OLD[0]}
    assert not (site.host.folder / "told-one").exists()


def test_a_pair_that_does_not_belong_together_is_not_told(site: Site) -> None:
    site.host.put((NEW[0], OTHER[1]), serve=False)
    done = site.deploy()
    assert "not deployed" in done.failed
    assert site.host.presented() == {OLD[0]}


def test_one_that_does_not_answer_keeps_nobody(site: Site) -> None:
    site.host.served("two").unlink()
    (site.host.folder / "fails-two").touch()
    site.stage(NEW)
    assert not site.deploy().failed
    assert site.host.served("one").read_text() == NEW[0]


def test_a_file_of_somebody_else_is_kept_and_taken_if_it_is_newer(site: Site) -> None:
    site.stage(NEW)
    site.deploy()
    newer = AUTHORITY.pair(since=made.NOW - 60)
    for path, text in ((site.host.certificate, newer[0]), (site.host.key, newer[1])):
        path.unlink()
        path.write_text(text)
    assert not site.deploy().failed
    assert site.host.presented() == {newer[0]}
    assert site.host.certificate.is_symlink() and site.deploy().actions == []


def test_a_broken_file_of_somebody_else_is_kept_and_replaced(site: Site) -> None:
    site.stage(NEW)
    site.deploy()
    site.host.certificate.unlink()
    site.host.certificate.write_text("nothing")
    assert not site.deploy().failed
    assert site.host.certificate.read_text() == NEW[0]
    assert "nothing" in [(path / "certificate.pem").read_text() for path in site.shelf.versions.iterdir()]


def test_wrong_modes_are_set_right(site: Site) -> None:
    site.stage(NEW)
    site.deploy()
    key = site.shelf.versions / str(site.shelf.current()) / "key.pem"
    key.chmod(0o644)
    done = site.deploy()
    assert [one["result"] for one in done.actions] == ["done"]
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and site.deploy().actions == []


def test_the_first_certificate_of_all(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.stage(NEW)
    done = site.deploy()
    assert not done.failed
    assert site.host.presented() == {NEW[0]}


def test_roots_come_before_the_certificate_and_their_readers_are_told(tmp_path: Path) -> None:
    site = Site(tmp_path, trust_file=str(tmp_path / "roots.pem"))
    site.host.put(OLD)
    site.authority = {"trust": AUTHORITY.root_pem}
    site.deploy()
    assert (tmp_path / "roots.pem").read_text() == AUTHORITY.root_pem
    told = len((tmp_path / "told-one").read_text().splitlines())
    assert told == 1 and site.deploy().actions == []
    site.authority = {"trust": AUTHORITY.root_pem + made.Authority("Next").root_pem}
    site.deploy()
    assert len((tmp_path / "told-one").read_text().splitlines()) == 2
    assert site.deploy().actions == []


def test_old_versions_go_and_the_current_one_stays(site: Site) -> None:
    for _ in range(8):
        site.stage(AUTHORITY.pair())
        site.deploy()
    assert len(list(site.shelf.versions.iterdir())) == 5
    assert site.deploy().actions == []


# --- killed at every statement ----------------------------------------------------------------------------------

TRACED = ("certificates_deploy.py", "certificates_store.py", "certificates_consumers.py")


def quick(key: KeyInfo) -> Callable[..., list[Fault]]:
    """Judge without OpenSSL: keys are of one kind, and whose they are is known from their text."""
    def judge_quickly(managed: Managed, folder: Path | None) -> list[Fault]:
        certificate, path = (folder / "certificate.pem", folder / "key.pem") if folder else (Path(managed.certificate_file), Path(managed.key_file))
        try:
            pair = (certificate.read_text(), path.read_text())
        except OSError as error:
            return [Fault("unreadable", str(error))]
        return [] if pair in (OLD, NEW) else [Fault("key-mismatch", "not a pair")]
    return judge_quickly


def killed(site: Site, number: int) -> bool:
    """Deploy in a process of its own that is killed at its statement `number`; return whether it came that far."""
    child = os.fork()
    if child == 0:
        count = 0

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal count
            if not frame.f_code.co_filename.endswith(TRACED):
                return None
            if event == "line":
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        try:
            sys.settrace(trace)
            site.deployer(judge=quick(KEY)).run()
        finally:
            sys.settrace(None)
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder in memory: what is written is on no disk, which thousands of runs would wait for."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


KEY = KeyInfo("ec", 256, "", "pkcs8")


@pytest.mark.parametrize("refuses", [False, True], ids=["taken", "refused"])
def test_killed_at_every_statement_the_next_run_ends_on_one_serial(in_memory: Path, refuses: bool) -> None:
    number = 0
    while True:
        number += 1
        place = in_memory / str(number)
        place.mkdir()
        site = Site(place)
        site.host.put(OLD)
        site.stage(NEW)
        if refuses:
            site.wait_seconds = 0.02
            (place / "refuses-two").touch()
        came = killed(site, number)
        # At no moment are certificate and key that consumers read of two different pairs.
        assert (site.host.certificate.read_text(), site.host.key.read_text()) in (OLD, NEW), number
        (place / "refuses-two").unlink(missing_ok=True)
        site.deploy(judge=quick(KEY))
        again = site.deploy(judge=quick(KEY))
        assert site.host.presented() == {NEW[0]}, number
        assert (site.host.certificate.read_text(), site.host.key.read_text()) == NEW, number
        assert again.actions == [] and not again.failed and site.shelf.transaction() is None, number
        kept = [(path / "certificate.pem").read_text() for path in site.shelf.versions.iterdir()]
        assert OLD[0] in kept, number
        if not came:
            break
    assert number > 100
