"""Findings and actions: how the looks and tellings of a run become one list."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.runbook_result import (
    accept,
    action,
    before_and_after,
    finding,
    human_bytes,
    report,
    settle,
)


def f(id: str, subject: str = "", **more: Any) -> dict[str, Any]:
    return finding(id, f"title of {id}", subject=subject, **more)


def states(findings: list[dict[str, Any]]) -> dict[tuple[str, str], str]:
    return {(item["id"], item["subject"]): item["state"] for item in findings}


def test_a_finding_has_a_known_severity() -> None:
    assert f("x")["severity"] == "warning" and f("x")["state"] == "open"
    with pytest.raises(ValueError, match="severity is 'bad'; it must be one of info, warning, critical"):
        f("x", severity="bad")


def test_an_action_measures_in_its_own_unit_unless_told() -> None:
    assert action("s", "o", "r", unit="rows")["measure"] == "rows"
    assert action("s", "o", "r", unit="percent", measure="bytes")["measure"] == "bytes"
    assert report([f("x")], [], final=True) == {"findings": [f("x")], "actions": [], "final": True}


def test_what_only_an_earlier_look_shows_is_fixed() -> None:
    settled = settle([[f("a"), f("b", "t1"), f("b", "t2")], [f("b", "t2")]], [], "db1")
    assert states(settled) == {("a", ""): "fixed", ("b", "t1"): "fixed", ("b", "t2"): "open"}
    assert {item["host"] for item in settled} == {"db1"}


def test_what_comes_back_or_is_new_is_open() -> None:
    assert states(settle([[f("a")], [], [f("a"), f("new")]], [], "h")) == {("a", ""): "open", ("new", ""): "open"}


def test_the_last_look_tells_how_it_is_now() -> None:
    settled = settle([[f("a", observed=9)], [f("a", observed=5)]], [], "h")
    assert [item["observed"] for item in settled] == [5]


def test_one_look_alone_leaves_all_open_and_none_leaves_nothing() -> None:
    assert states(settle([[f("a")]], [], "h")) == {("a", ""): "open"}
    assert settle([], [], "h") == [] and settle([[]], [], "h") == []


def test_what_a_step_tells_stays_open_and_wins() -> None:
    told = [f("a", "t1", observed="locked"), f("c")]
    settled = settle([[f("a", "t1"), f("b")], []], told, "h")
    assert states(settled) == {("a", "t1"): "open", ("b", ""): "fixed", ("c", ""): "open"}
    assert next(item for item in settled if item["id"] == "a")["observed"] == "locked"


def test_steps_can_tell_without_any_look() -> None:
    assert states(settle([], [f("a")], "h")) == {("a", ""): "open"}


DAY = "2026-03-15"


@pytest.mark.parametrize(
    ("rule", "item", "state"),
    [
        ({}, f("x", "t"), "accepted"),
        ({"id": "y"}, f("x", "t"), "open"),
        ({"subject": "t"}, f("x", "t"), "accepted"),
        ({"subject": "u"}, f("x", "t"), "open"),
        ({"subject": None}, f("x", "t"), "accepted"),
        ({"until": "2026-03-14"}, f("x", "t"), "open"),
        ({"until": "2026-03-15"}, f("x", "t"), "accepted"),
        ({"until": "2026-03-16"}, f("x", "t"), "accepted"),
        ({"until": None}, f("x", "t"), "accepted"),
        ({}, f("x", "t", severity="critical"), "open"),
        ({"subject": "t"}, f("x", "t", severity="critical"), "accepted"),
        ({"subject": "t", "until": "2026-03-14"}, f("x", "t", severity="critical"), "open"),
        ({}, f("x", "t", severity="info"), "accepted"),
        ({}, f("x", "t", state="fixed"), "fixed"),
    ],
)
def test_what_the_inventory_accepts(rule: dict[str, Any], item: dict[str, Any], state: str) -> None:
    result = accept([item], [{"id": "x", "reason": "known since March", **rule}], DAY)
    assert [one["state"] for one in result] == [state]
    assert ("known since March" in result[0]["evidence"]) is (state == "accepted")


def test_a_later_rule_counts_where_an_earlier_one_has_ended() -> None:
    rules = [{"id": "x", "until": "2026-01-01", "reason": "old"}, {"id": "x", "reason": "new"}]
    result = accept([f("x"), f("z")], rules, DAY)
    assert states(result) == {("x", ""): "accepted", ("z", ""): "open"}
    assert "new" in result[0]["evidence"]


def test_accepting_changes_nothing_that_was_handed_in() -> None:
    item = f("x", evidence="seen")
    result = accept([item], [{"id": "x", "reason": "r"}], DAY)
    assert (item["state"], item["evidence"], result[0]["evidence"]) == ("open", "seen", "accepted: r seen")


def test_facts_before_and_after() -> None:
    first = {
        "version": "15",
        "tables": [{"name": "a", "bytes": 10, "dead": 5}, {"name": "gone", "bytes": 3, "dead": 0}],
    }
    last = {
        "version": "15",
        "tables": [{"name": "a", "bytes": 6, "dead": 0}, {"name": "new", "bytes": 1, "dead": 0}],
        "list": [1, 2],
    }
    assert before_and_after([first, {"tables": []}, last]) == {
        "version": "15",
        "list": [1, 2],
        "tables": [
            {"name": "a", "bytes_before": 10, "dead_before": 5, "bytes_after": 6, "dead_after": 0},
            {"name": "gone", "bytes_before": 3, "dead_before": 0},
            {"name": "new", "bytes_after": 1, "dead_after": 0},
        ],
    }


def test_one_look_is_both_before_and_after() -> None:
    look = {"tables": [{"name": "a", "bytes": 10}]}
    assert before_and_after([look]) == {"tables": [{"name": "a", "bytes_before": 10, "bytes_after": 10}]}
    assert before_and_after([]) == {}


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (2_000_000, "1.9 MiB"),
        (2**20 - 2**10, "1023.0 KiB"),
        (2**20, "1.0 MiB"),
        (5 * 2**30, "5.0 GiB"),
        (2**40, "1.0 TiB"),
        (5000 * 2**40, "5000 TiB"),
    ],
)
def test_bytes_for_a_person(number: int, text: str) -> None:
    assert human_bytes(number) == text


def test_facts_that_only_one_step_has_are_kept() -> None:
    plan = {"services": [{"name": "app", "bytes": 9}], "read_at": 1}
    assert before_and_after([plan, {"errors": [{"count": 3}]}, {"services": [{"name": "app", "bytes": 4}], "read_at": 2}]) == {
        "services": [{"name": "app", "bytes_before": 9, "bytes_after": 4}],
        "read_at": 2,
        "errors": [{"count": 3}],
    }
    assert before_and_after([plan, {"errors": []}])["services"] == [{"name": "app", "bytes_before": 9, "bytes_after": 9}]
