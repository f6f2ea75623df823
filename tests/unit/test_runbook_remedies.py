"""Plans: what findings call for, what forbids it, and what a token confirms."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.runbook_remedies import (
    ONLY_DESTRUCTIVE,
    ONLY_FIX,
    TOKEN_SECONDS,
    Budget,
    Due,
    confirm,
    due_remedies,
    make_token,
)

STEPS: list[dict[str, Any]] = [
    {"id": "look", "kind": "read", "does": "Look"},
    {"id": "free", "kind": "change", "does": "Free", "cures": ["disk"], "acts": []},
    {"id": "start-db", "kind": "change", "does": "Start", "cures": ["database"], "unless": ["disk"], "acts": []},
    {"id": "end", "kind": "destructive", "does": "End", "cures": ["blocked"], "targets": "list", "acts": []},
    {
        "id": "restart",
        "kind": "change",
        "does": "Restart",
        "cures": ["ready", "process"],
        "unless": ["database", "blocked"],
        "acts": [],
    },
]


def finding(id: str, host: str = "a", cause: str = "") -> dict[str, Any]:
    return {"id": id, "host": host, "title": f"{id} broke", "cause": cause, "subject": "", "severity": "critical"}


def plan(
    *findings: dict[str, Any], fix: str = "change", targets: Any = None, hosts: int = 1, objects: int = 5
) -> dict[str, str]:
    due = due_remedies(STEPS, findings, targets or {}, {}, fix, hosts, objects)
    return {f"{one.host}/{one.step}": one.refused for one in due}


def test_nothing_is_due_without_a_finding() -> None:
    assert plan() == {}


@pytest.mark.parametrize(("fix", "refused"), [("", ONLY_FIX), ("change", ""), ("destructive", "")])
def test_a_safe_remedy_needs_fix(fix: str, refused: str) -> None:
    assert plan(finding("process"), fix=fix) == {"a/restart": refused}


@pytest.mark.parametrize(
    ("fix", "refused"), [("", ONLY_DESTRUCTIVE), ("change", ONLY_DESTRUCTIVE), ("destructive", "")]
)
def test_a_destructive_remedy_needs_its_word(fix: str, refused: str) -> None:
    listed = {"a": {"end": ["41|alice"]}}
    assert plan(finding("blocked"), fix=fix, targets=listed)["a/end"] == refused


def test_a_remedy_without_objects_is_not_due() -> None:
    assert plan(finding("blocked"), fix="destructive", targets={"a": {"end": []}}) == {}


def test_the_app_is_not_restarted_beside_a_dead_database() -> None:
    blocked, follower = finding("blocked", "d"), finding("ready", "a", "d/blocked")
    refused = plan(blocked, follower)["a/restart"]
    assert refused == "it would be in vain or do harm: blocked broke (d/blocked)"


def test_it_is_once_an_earlier_remedy_cures_the_cause() -> None:
    root, follower = finding("database", "d"), finding("ready", "a", "d/database")
    assert plan(root, follower) == {"d/start-db": "", "a/restart": ""}
    # A diagnosis shows what --fix would do.
    assert plan(root, follower, fix="") == {"d/start-db": ONLY_FIX, "a/restart": ONLY_FIX}


def test_what_follows_from_a_cured_cause_is_not_in_the_way_either() -> None:
    disk, database, ready = finding("disk"), finding("database", cause="a/disk"), finding("ready", cause="a/disk")
    assert plan(disk, database, ready) == {"a/free": "", "a/start-db": "", "a/restart": ""}


def test_what_follows_from_the_finding_itself_is_not_in_the_way() -> None:
    steps = [{"id": "start", "kind": "change", "does": "Start", "cures": ["proxy"], "unless": ["certificate"], "acts": []}]
    proxy, certificate = finding("proxy"), finding("certificate", cause="a/proxy")
    (one,) = due_remedies(steps, [proxy, certificate], {}, {}, "change", 1, 5)
    assert one.refused == ""
    (one,) = due_remedies(steps, [proxy, finding("certificate")], {}, {}, "change", 1, 5)
    assert "certificate broke" in one.refused


def test_only_followers_make_a_follower() -> None:
    due = due_remedies(STEPS, [finding("database", "d"), finding("ready", "a", "d/database")], {}, {}, "change", 1, 5)
    assert {one.step: one.follower for one in due} == {"start-db": False, "restart": True}


def test_the_blast_radius_is_bounded() -> None:
    three = [finding("process", host) for host in "abc"]
    assert set(plan(*three, hosts=3).values()) == {""}
    assert all("acts on" in r or "act on 3 hosts" in r for r in plan(*three, hosts=2).values())
    many = {"a": {"end": [str(n) for n in range(6)]}}
    assert "6 objects" in plan(finding("blocked"), fix="destructive", targets=many)["a/end"]


def due(
    step: str = "end", host: str = "a", targets: tuple[str, ...] = ("41",), values: Any = None, refused: str = ""
) -> Due:
    return Due(step, "destructive", host, "End", "a/blocked", list(targets), values or {"resolved": "x"}, refused)


NOW = 1_800_000_000.0


def test_a_token_confirms_its_plan_for_a_quarter_of_an_hour() -> None:
    token = make_token("slug", [due()], NOW)
    assert confirm([token], "slug", [due()], NOW + TOKEN_SECONDS - 1) == ""
    assert "valid until" in confirm([token], "slug", [due()], NOW + TOKEN_SECONDS + 1)


@pytest.mark.parametrize(
    "other",
    [due("roll"), due(host="b"), due(targets=("42",)), due(targets=("41", "42")), due(values={"resolved": "y"})],
)
def test_a_token_confirms_nothing_else(other: Due) -> None:
    assert "not the one that was confirmed" in confirm([make_token("slug", [due()], NOW)], "slug", [other], NOW)


def test_a_token_is_for_one_runbook() -> None:
    assert confirm([make_token("slug", [due()], NOW)], "other", [due()], NOW)


def test_one_token_confirms_one_remedy_of_several() -> None:
    first, second = due(), due(host="b")
    assert confirm([make_token("slug", [first], NOW)], "slug", [first, second], NOW) == ""
    assert (first.refused, second.refused) == ("", "it is not confirmed")


def test_the_token_of_the_plan_confirms_all_of_it() -> None:
    both = [due(), due(host="b")]
    assert confirm([make_token("slug", both, NOW)], "slug", both, NOW) == ""
    assert [one.refused for one in both] == ["", ""]


@pytest.mark.parametrize(
    "token",
    ["", "x", "1-2", "9" * 400, f"{int(NOW)}-", f"{int(NOW) + 10**6}-" + "a" * 20, "-" + "a" * 20, "\uff11-" + "a" * 20],
)
def test_a_malformed_token_says_what_to_do(token: str) -> None:
    told = confirm([token], "slug", [due()], NOW)
    assert told and len(told) < 300


def test_no_remedy_no_token() -> None:
    assert make_token("slug", [], NOW) == ""


@pytest.mark.parametrize(
    ("before", "refused"),
    [
        ([], ""),
        ([NOW - 61], ""),
        ([NOW - 59], "next attempt"),
        ([NOW - 3000, NOW - 61], "restarted 2 times"),
        ([NOW - 3601, NOW - 3000], ""),
        ([NOW - 3601, NOW - 3600, NOW - 3599], ""),
        ([NOW + 10_000_000], ""),  # a clock that was set back must not end all restarts
    ],
)
def test_the_restart_budget(before: list[float], refused: str) -> None:
    told = Budget().refusal("app", before, NOW)
    assert refused in told and bool(told) == bool(refused)


def test_the_wait_doubles() -> None:
    budget = Budget(most=5)
    assert budget.refusal("app", [NOW - 300, NOW - 119], NOW)
    assert not budget.refusal("app", [NOW - 300, NOW - 121], NOW)
