"""Leases: one owner per resource, whatever happens to it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.runbook_lease import LeaseHeld, Leases, renewed
from ansible.module_utils.runbook_state import StateError
from support.postgres import wait_until

TESTS = Path(__file__).resolve().parent.parent
RESOURCE = "database:llm_metrics"


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(tmp_path: Path, clock: Clock) -> Leases:
    return Leases(tmp_path, clock)


def take(leases: Leases, run: str, resource: str = RESOURCE, seconds: int = 300, **more: Any) -> dict[str, Any]:
    return leases.acquire(resource, run, f"{run}@laptop", "database-maintenance", seconds, **more)


def test_a_free_resource_is_had(leases: Leases, clock: Clock) -> None:
    lease = take(leases, "one")
    assert (lease["acquired_at"], lease["expires_at"]) == (clock.now, clock.now + 300)
    assert leases.list() == [lease]


def test_another_run_is_refused_and_told_by_whom_and_until_when(leases: Leases, clock: Clock) -> None:
    take(leases, "one")
    clock.now += 100
    with pytest.raises(LeaseHeld) as held:
        take(leases, "two")
    text = str(held.value)
    assert f"{RESOURCE} is leased by one@laptop for database-maintenance (run one)" in text and "in 200 s" in text
    assert held.value.lease["run_id"] == "one"
    assert leases.list()[0]["run_id"] == "one"


def test_resources_do_not_hinder_each_other(leases: Leases) -> None:
    take(leases, "one")
    take(leases, "two", "database:other")
    assert [lease["run_id"] for lease in leases.list()] == ["one", "two"]


def test_the_same_run_renews(leases: Leases, clock: Clock) -> None:
    take(leases, "one")
    clock.now += 299
    assert take(leases, "one")["expires_at"] == clock.now + 300
    clock.now += 299
    with pytest.raises(LeaseHeld):
        take(leases, "two")


def test_a_lease_ends_by_itself_and_not_a_second_earlier(leases: Leases, clock: Clock) -> None:
    take(leases, "one")
    clock.now += 299.9
    assert leases.holder(RESOURCE, "two") is not None
    clock.now += 0.1
    assert leases.holder(RESOURCE, "two") is None
    assert take(leases, "two")["run_id"] == "two"


def test_a_run_that_is_known_to_be_dead_holds_nothing(leases: Leases) -> None:
    take(leases, "one")
    with pytest.raises(LeaseHeld):
        take(leases, "two", dead_runs=["zero"])
    assert take(leases, "two", dead_runs=["zero", "one"])["run_id"] == "two"


def test_only_the_holder_gives_a_lease_back(leases: Leases) -> None:
    assert leases.release(RESOURCE, "one") is False
    take(leases, "one")
    assert leases.release(RESOURCE, "two") is False
    assert leases.holder(RESOURCE, "two") is not None
    assert leases.release(RESOURCE, "one") is True
    assert leases.list() == []


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '"text"', "null", '{"run_id": "one", "expires_at": 1}'])
def test_a_damaged_lease_is_refused_by_name_and_left_alone(leases: Leases, content: str) -> None:
    take(leases, "one")
    path = leases.path(RESOURCE)
    path.write_text(content)
    for use in (
        lambda: take(leases, "two"),
        lambda: leases.holder(RESOURCE, "two"),
        lambda: leases.release(RESOURCE, "one"),
    ):
        if content == "null":  # as good as none
            use()
            break
        with pytest.raises(StateError, match=f"{path}.*move it away"):
            use()
        assert path.read_text() == content


@pytest.mark.parametrize("name", ["", "a\nb", "a\x00b", "$(id)", "a;b", "ä", "x" * 201, "a\\b", "a\n"])
def test_names_that_are_refused(leases: Leases, name: str) -> None:
    with pytest.raises(StateError, match="lease name"):
        take(leases, "one", name)


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", ".", "/", ".lock", "a b/c", "certificates:app1@x"])
def test_names_cannot_leave_their_folder(leases: Leases, tmp_path: Path, name: str) -> None:
    take(leases, "one", name)
    assert leases.path(name).resolve().parent == (tmp_path / "leases").resolve()
    written = {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*")}
    assert written == {"leases"}
    with pytest.raises(LeaseHeld):
        take(leases, "two", name)


# Own processes rather than forks of this one, whose other threads may hold locks at that moment.
PRELUDE = f"""
import sys, time
sys.path.insert(0, {str(TESTS)!r})
import conftest
from pathlib import Path
from ansible.module_utils.runbook_lease import LeaseHeld, Leases, renewed
folder = Path(sys.argv[1])
"""
RACER = """
for line in sys.stdin:
    try:
        lease = Leases(folder).acquire(line.strip(), sys.argv[2], "me@here", "test", 300)
    except LeaseHeld as held:
        lease = held.lease
    print(lease["run_id"], flush=True)
"""
OWNER = """
with renewed(folder, ["database:llm_metrics", "second"], "one", "one@laptop", "test", 1.2):
    print("ready", flush=True)
    time.sleep(300)
"""


@contextlib.contextmanager
def process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PRELUDE + code, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def test_of_two_processes_exactly_one_wins(tmp_path: Path) -> None:
    with process(RACER, str(tmp_path), "one") as one, process(RACER, str(tmp_path), "two") as two:
        for number in range(60):
            for racer in (one, two) if number % 2 else (two, one):
                assert racer.stdin
                racer.stdin.write(f"r{number}\n")
                racer.stdin.flush()
            winners = [racer.stdout.readline().strip() for racer in (one, two) if racer.stdout]
            assert winners in (["one", "one"], ["two", "two"]), number
    assert {lease["run_id"] for lease in Leases(tmp_path).list()} == {"one", "two"}, "each was faster now and then"


def test_a_lease_is_kept_while_its_owner_lives_and_lapses_after_a_kill(tmp_path: Path) -> None:
    leases = Leases(tmp_path)
    with process(OWNER, str(tmp_path)) as owner:
        assert owner.stdout and owner.stdout.readline() == "ready\n"
        first = {lease["resource"]: lease["expires_at"] for lease in leases.list()}
        assert set(first) == {RESOURCE, "second"}
        # Renewed beyond its first end, for both resources.
        wait_until(
            lambda: all(lease["expires_at"] > first[lease["resource"]] + 1.2 for lease in leases.list()),
            "renewed twice",
        )
        with pytest.raises(LeaseHeld):
            take(leases, "two")
        owner.kill()
        owner.wait()
        assert leases.holder(RESOURCE, "two") is not None, "killed owners give nothing back"
        wait_until(lambda: leases.holder(RESOURCE, "two") is None, "the lease lapses", 10)
    assert take(leases, "two")["run_id"] == "two"


def test_renewal_ends_with_the_block_and_survives_a_bad_moment(tmp_path: Path) -> None:
    leases = Leases(tmp_path)
    path = leases.path(RESOURCE)
    threads = threading.active_count()
    with renewed(tmp_path, [RESOURCE], "one", "one@laptop", "test", 0.3):
        good = path.read_text()
        path.write_text("{")  # for a moment, such as a file system that is full or gone
        time.sleep(0.3)
        path.write_text(good)
        wait_until(
            lambda: json.loads(path.read_text())["expires_at"] > json.loads(good)["expires_at"] + 0.3,
            "renewed again",
            10,
        )
    assert threading.active_count() == threads


def test_nothing_begins_without_the_lease(tmp_path: Path) -> None:
    take(Leases(tmp_path), "two")
    with pytest.raises(LeaseHeld), renewed(tmp_path, [RESOURCE], "one", "one@laptop", "test", 300):
        pytest.fail("the block ran")
