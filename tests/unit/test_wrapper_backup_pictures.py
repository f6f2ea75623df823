"""Pictures of backups: where sets are on the line of time, and what a drill spent its time on."""

from __future__ import annotations

from typing import Any

import pytest
from runbook.backup_pictures import marks, phases

DAY = 86400.0


def one(day: float, **more: Any) -> dict[str, Any]:
    told = {"set": f"s{day:g}", "kind": "diff", "finished": day * DAY, "bytes": 1024, "skew_seconds": 0.5, "sound": True}
    return {**told, "proven": None, **more}


def test_sets_are_where_their_time_is() -> None:
    found = marks({"sets": [one(0, kind="full"), one(5), one(10)], "read_at": 20 * DAY})
    assert [round(mark.at, 1) for mark in found] == [1.5, 25.8, 50.0], "now is at the right end, not the newest set"
    assert [mark.kind for mark in found] == ["full", "differential", "differential"]
    assert (found[0].when, found[0].size, found[0].skew) == ("1970-01-01 00:00:00 UTC", "1.0 KiB", "0.5 s")


def test_damage_hides_an_earlier_proof() -> None:
    states = [mark.state for mark in marks({"sets": [one(1), one(2, proven=2 * DAY), one(3, proven=3 * DAY, sound=False)]})]
    assert states == ["verified", "proven 1970-01-03 00:00:00 UTC", "damaged"]


def test_one_set_and_a_clock_that_was_set_back_stay_on_the_line() -> None:
    for facts in ({"sets": [one(9)], "read_at": 9 * DAY}, {"sets": [one(1), one(9)], "read_at": 5 * DAY}):
        assert all(0 <= mark.at <= 100 for mark in marks(facts))


@pytest.mark.parametrize("facts", [{}, {"sets": None}, {"sets": []}, {"sets": [{"set": "of another version"}]}])
def test_no_sets_are_no_picture(facts: dict[str, Any]) -> None:
    assert marks(facts) == []


def test_phases_are_in_the_order_of_a_restore_and_tell_what_is_rto() -> None:
    took = {"amcheck": 2.0, "archive": 0.1, "files": 1.0, "recovery": 0.5, "restore": 4.0, "something_new": 1.0}
    found = phases({"drill": {"phases": took}})
    assert [(part.name, part.waited) for part in found] == [
        ("files", True), ("database", True), ("recovery to the restore point", True), ("newest WAL into the repository", False),
        ("indexes against their tables", False), ("something new", False),
    ]  # fmt: skip
    assert [part.percent for part in found][:3] == [25.0, 100.0, 12.5]
    assert found[1].took == "4.0 s"


@pytest.mark.parametrize("facts", [{}, {"drill": None}, {"drill": {}}, {"drill": {"phases": {}}}])
def test_no_drill_is_no_picture(facts: dict[str, Any]) -> None:
    assert phases(facts) == []


def test_a_drill_that_took_no_time_is_no_division_by_zero() -> None:
    assert [part.percent for part in phases({"drill": {"phases": {"files": 0.0}}})] == [0.0]
