# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""What an authority still allows, to the second, and a ledger that a crash cannot cheat."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from ansible.module_utils import certificates_ledger
from ansible.module_utils.certificates_ledger import (
    DAY,
    HOUR,
    Budget,
    Entry,
    Ledger,
    LedgerError,
    Limits,
    budget,
    moment,
    set_of,
)
from hypothesis import given
from hypothesis import strategies as st

TESTS = Path(__file__).resolve().parents[1]
CA = "https://ca.example.test/dir"
NOW = 1_790_000_000.0
NAMES = ("a.example.test", "b.example.test")
LIMITS = Limits()


def entry(at: float, event: str, names: tuple[str, ...] = NAMES, authority: str = CA, **more: object) -> Entry:
    return Entry(at, event, "web", names, authority, **more)  # type: ignore[arg-type]


def issued(*times: float, names: tuple[str, ...] = NAMES) -> list[Entry]:
    return [entry(at, event, names) for at in times for event in ("order", "issued")]


def asked(entries: list[Entry], now: float = NOW, limits: Limits = LIMITS, names: tuple[str, ...] = NAMES) -> Budget:
    return budget(entries, names, CA, now, limits)


def test_nothing_was_ever_ordered() -> None:
    assert asked([]) == Budget(True, 5, 5, None, "")


def test_four_of_five_leaves_one() -> None:
    told = asked(issued(*[NOW - DAY * day for day in (6, 5, 4, 3)]))
    assert (told.allowed, told.left_orders, told.next_allowed) == (True, 1, None)


def test_five_of_five_is_refused_until_the_oldest_is_seven_days_old() -> None:
    times = [NOW - 6 * DAY + 0.25, NOW - 5 * DAY, NOW - 4 * DAY, NOW - 3 * DAY, NOW - 60]
    told = asked(issued(*times))
    assert (told.allowed, told.left_orders, told.next_allowed) == (False, 0, times[0] + 7 * DAY)
    assert "5 of 5 certificates of exactly these names in 7 days" in told.reason


@pytest.mark.parametrize(("age", "allowed"), [(7 * DAY, True), (7 * DAY - 1, False), (7 * DAY + 1, True)])
def test_the_edge_is_exactly_seven_days(age: float, allowed: bool) -> None:
    assert asked(issued(NOW - age, *[NOW - day for day in (4, 3, 2, 1)])).allowed is allowed


def test_seven_of_five_waits_for_the_third_oldest() -> None:
    times = [NOW - 1000 + 100 * number for number in range(7)]
    assert asked(issued(*times)).next_allowed == times[2] + 7 * DAY


def test_other_sets_and_other_authorities_do_not_count() -> None:
    others = issued(*[NOW - n for n in range(5)], names=("a.example.test",))
    others += issued(*[NOW - n for n in range(5)], names=(*NAMES, "c.example.test"))
    others += [entry(NOW - n, event, authority="https://staging.example.test/dir") for n in range(5) for event in ("order", "issued")]
    assert asked(others).left_orders == 5


def test_the_same_set_in_other_words_counts() -> None:
    assert not budget(issued(*[NOW - n for n in range(5)]), ["B.EXAMPLE.test.", "a.example.test", "A.example.test"], CA, NOW, LIMITS).allowed


def test_an_order_without_an_end_counts_as_issued() -> None:
    killed = [entry(NOW - 10 + n, "order") for n in range(5)]
    assert asked(killed).next_allowed == NOW - 10 + 7 * DAY
    # The run after it got one: that is one more, and the killed one is still not known.
    assert asked([entry(NOW - 10, "order"), *issued(NOW - 5)]).left_orders == 3


def test_an_order_that_failed_is_no_certificate() -> None:
    failed = [entry(NOW - 7200, event) for _ in range(4) for event in ("order", "failed")]
    told = asked(failed)
    assert (told.left_orders, told.left_failures) == (5, 5)


def test_five_failed_validations_of_one_name_refuse_each_set_with_it() -> None:
    times = [NOW - 3599, NOW - 1800, NOW - 900, NOW - 600, NOW - 1]
    failed = [entry(at, "failed", failed_names=("b.example.test",)) for at in times]
    told = asked(failed, names=("b.example.test", "z.example.test"))
    assert (told.allowed, told.left_failures, told.next_allowed) == (False, 0, NOW + 1)
    assert "5 of 5 failed validations of b.example.test in 60 minutes" in told.reason
    assert asked(failed, names=("a.example.test",)).left_failures == 5
    assert asked(failed, now=NOW + 1).allowed


def test_a_failure_without_names_counts_for_all_of_them_and_one_without_validation_for_none() -> None:
    assert asked([entry(NOW, "failed")] * 2).left_failures == 3
    assert asked([entry(NOW, "failed", failed_names=())] * 6).left_failures == 5


def test_what_the_authority_said_holds_until_that_second() -> None:
    told = [entry(NOW - 10, "order"), entry(NOW - 10, "rate-limited", retry_at=NOW + 30)]
    assert (asked(told).allowed, asked(told).next_allowed) == (False, NOW + 30)
    assert asked(told, now=NOW + 29.9).allowed is False
    assert asked(told, now=NOW + 30).allowed
    assert asked(told, names=("a.example.test",)).allowed
    assert asked([*told, *issued(NOW - 5)]).allowed
    whole = [entry(NOW, "rate-limited", retry_at=NOW + 30, reason="too many new orders (300) from this account")]
    assert not asked(whole, names=("a.example.test",)).allowed


def test_orders_of_the_account_count_whatever_their_names() -> None:
    limits = Limits(orders=3)
    entries = [entry(NOW - 100 + n, "order", (f"{n}.example.test",)) for n in range(3)]
    told = asked(entries, limits=limits)
    assert (told.allowed, told.next_allowed) == (False, NOW - 100 + 3 * HOUR)
    assert asked(entries, now=NOW - 100 + 3 * HOUR, limits=limits).allowed


def test_the_latest_of_several_reasons_is_the_next_time() -> None:
    entries = [*issued(*[NOW - n for n in range(5)]), entry(NOW, "rate-limited", retry_at=NOW + 9 * DAY)]
    assert asked(entries).next_allowed == NOW + 9 * DAY


def test_a_clock_that_was_moved_back_frees_nothing() -> None:
    written = issued(*[NOW - n for n in (4, 3, 2, 1, 0)])
    told = asked(written, now=NOW - 30 * DAY)
    assert (told.allowed, told.next_allowed) == (False, NOW - 23 * DAY)
    assert "look at the clock" in told.reason
    # Written while the clock was wrong, judged when it is right again: not older than the line before it.
    later = issued(NOW - 10, *[NOW - 900 * DAY] * 4)
    assert asked(later).left_orders == 0


@given(st.lists(st.floats(0, 20 * DAY), max_size=12), st.integers(1, 6))
def test_no_window_of_seven_days_ever_holds_more_than_the_limit(gaps: list[float], limit: int) -> None:
    """Whoever orders as soon as it is allowed keeps to the limit, and is never told a time at which it is refused."""
    limits = Limits(certificates=limit)
    now, entries, times = NOW, [], []
    for gap in gaps:
        now += gap
        told = asked(entries, now, limits)
        if not told.allowed:
            assert told.next_allowed is not None
            assert told.next_allowed > now
            assert not asked(entries, told.next_allowed - 0.001, limits).allowed
            now = told.next_allowed
            assert asked(entries, now, limits).allowed
        entries += issued(now)
        times.append(now)
    for at in times:
        assert sum(at <= other < at + 7 * DAY for other in times) <= limit


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def ledger(folder: Path, clock: Clock | None = None) -> Ledger:
    return Ledger(folder / "state" / "ledger.jsonl", clock or Clock())


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    assert book.entries() == ([], [])
    first = book.write("order", "web", ["B.example.test", "a.example.test"], CA)
    second = book.write("rate-limited", "web", NAMES, CA, reason="zu viel: ü\n", retry_at=NOW + 5)
    third = book.write("failed", "web", NAMES, CA, failed_names=["B.example.test"])
    assert first.names == NAMES
    assert book.entries() == ([first, second, third], [])
    assert oct(book.path.stat().st_mode & 0o777) == "0o600"
    rows = [json.loads(line) for line in book.path.read_text().splitlines()]
    assert set(rows[0]) == {"at", "event", "certificate", "names", "authority", "serial", "reason", "retry_at"}


def test_a_torn_last_line_is_told_and_the_next_is_whole(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    kept = book.write("order", "web", NAMES, CA)
    whole = book.path.read_bytes()
    for cut in (1, len(whole) // 2, len(whole) - 2):
        book.path.write_bytes(whole + whole[:cut])
        entries, damaged = book.entries()
        assert entries == [kept]
        assert ["torn by a crash" in text for text in damaged] == [True]
        after = book.write("issued", "web", NAMES, CA, serial="0A")
        entries, damaged = book.entries()
        assert entries == [kept, after]
        assert ["line 2 is damaged" in text for text in damaged] == [True]
    book.path.write_bytes(whole[:-1])
    assert book.entries() == ([kept], [])


@given(st.binary(max_size=300))
def test_whatever_is_in_the_file_is_told_not_raised(data: bytes) -> None:
    path = Path(f"/dev/shm/ledger-{os.getpid()}")
    try:
        path.write_bytes(data)
        entries, _ = Ledger(path, Clock()).entries()
        assert entries == []
    finally:
        path.unlink()


@pytest.mark.parametrize(
    "change",
    [{"at": "then"}, {"at": True}, {"event": "bought"}, {"names": 5}, {"names": [1]}, {"retry_at": "x"}, {"certificate": None}, {"at": None}],
)
def test_a_line_of_another_shape_does_not_count(tmp_path: Path, change: dict[str, object]) -> None:
    book = ledger(tmp_path)
    book.write("order", "web", NAMES, CA)
    row = {**json.loads(book.path.read_text()), **change}
    book.path.write_text(json.dumps(row) + "\n" + book.path.read_text())
    entries, damaged = book.entries()
    assert len(entries) == 1
    assert damaged == [f"{book.path}: line 1 is damaged and does not count"]


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import conftest
from ansible.module_utils.certificates_ledger import Ledger
Ledger(Path(sys.argv[1]), lambda: 1790000000.0).write("order", "web", ["a.example.test"], "https://ca/dir")
os.kill(os.getpid(), 9)
"""


def test_an_order_of_a_killed_run_counts(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(TESTS)], check=False)
    assert done.returncode == -9
    entries, damaged = Ledger(path, Clock()).entries()
    assert ([one.event for one in entries], damaged) == (["order"], [])


def test_a_line_is_on_the_disk_before_write_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync

    def seen(handle: int) -> None:
        synced.append(os.fstat(handle).st_size)
        real(handle)

    monkeypatch.setattr(certificates_ledger.os, "fsync", seen)
    book = ledger(tmp_path)
    book.write("order", "web", NAMES, CA)
    assert book.path.stat().st_size in synced


def test_a_full_disk_takes_no_order_and_no_half_of_one(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=True)
    try:
        book = Ledger(small / "ledger.jsonl", Clock())
        book.write("order", "web", NAMES, CA)
        with (small / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"x" * 1024)
        before = book.entries()
        with pytest.raises(LedgerError, match="free space"):
            for _ in range(50):
                book.write("order", "web", NAMES, CA, reason="x" * 500)
                before = book.entries()
        assert book.entries() == before
        assert before[1] == []
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_two_runs_at_once_lose_no_line(tmp_path: Path) -> None:
    book, past = ledger(tmp_path), ledger(tmp_path, Clock(NOW - 90 * DAY))

    def many() -> None:
        for _ in range(40):
            past.write("order", "old", NAMES, CA)
            book.write("order", "web", NAMES, CA, reason="x" * 300)
            book.compact()

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries, damaged = book.entries()
    assert ([one.certificate for one in entries].count("web"), damaged) == (160, [])
    assert len(entries) == 161


def test_compact_drops_what_is_old_and_never_the_last_of_a_certificate(tmp_path: Path) -> None:
    clock = Clock(NOW - 40 * DAY)
    book = ledger(tmp_path, clock)
    for event in ("order", "failed", "order", "issued", "order", "issued", "deployed"):
        book.write(event, "old", NAMES, CA, serial=event)
    clock.now = NOW - 30 * DAY
    book.write("order", "web", NAMES, CA)
    clock.now = NOW - 1
    book.write("order", "web", NAMES, CA)
    clock.now = NOW
    assert book.compact(keep_seconds=0) == 3  # never less than 30 days
    left, damaged = book.entries()
    assert [(one.certificate, one.event) for one in left] == [
        ("old", "failed"), ("old", "order"), ("old", "issued"), ("old", "deployed"), ("web", "order"), ("web", "order"),
    ]  # fmt: skip
    assert damaged == []
    assert book.compact() == 0


def test_compact_leaves_the_old_file_where_the_new_one_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(NOW - 90 * DAY)
    book = ledger(tmp_path, clock)
    for _ in range(3):
        book.write("order", "web", NAMES, CA)
    clock.now = NOW
    before = book.path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(certificates_ledger, "replace_text", full)
    with pytest.raises(LedgerError, match="No space left"):
        book.compact()
    assert book.path.read_bytes() == before


def test_an_unknown_event_is_refused_and_a_folder_in_its_place_told(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    with pytest.raises(LedgerError, match="'bought'"):
        book.write("bought", "web", NAMES, CA)
    book.path.mkdir(parents=True)
    with pytest.raises(LedgerError, match="cannot be read"):
        book.entries()
    with pytest.raises(LedgerError, match="cannot be written"):
        book.write("order", "web", NAMES, CA)


def test_names_and_times_in_one_form() -> None:
    assert set_of(["B.test", "b.test.", "0:0::1"]) == ("::1", "b.test")
    assert moment(1_790_000_000.001) == "2026-09-21T14:13:21Z"
