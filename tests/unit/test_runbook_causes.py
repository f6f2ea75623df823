"""Which finding is the root, and which follow: one table per shape of a deployment."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.runbook_causes import explanations, rank, seen

CHECKS: list[dict[str, Any]] = [
    {"id": "disk", "part": "host"},
    {"id": "database", "part": "database", "follows": ["disk"]},
    {"id": "frozen", "part": "database"},
    {"id": "process", "part": "app", "follows": ["disk"]},
    {"id": "ready", "part": "app", "follows": ["process", "database", "frozen"]},
    {"id": "proxy", "part": "proxy", "follows": ["ready"]},
    {"id": "advice", "part": "host"},
]


def found(*names: str, severity: str = "critical") -> list[dict[str, Any]]:
    return [{"id": name, "subject": "", "severity": severity} for name in names]


def told(looks: dict[str, list[dict[str, Any]]]) -> list[tuple[str, str]]:
    return [(f"{one['host']}/{one['id']}", one["cause"]) for one in rank(looks, CHECKS)]


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ({"a": found("ready")}, [("a/ready", "")]),
        ({"a": found("ready", "process")}, [("a/process", ""), ("a/ready", "a/process")]),
        # Across hosts, and through a link that has no finding of its own.
        ({"p": found("proxy"), "d": found("database")}, [("d/database", ""), ("p/proxy", "d/database")]),
        # What is wrong with a machine explains what runs on it, and nothing elsewhere.
        ({"p": found("disk"), "d": found("database")}, [("p/disk", ""), ("d/database", "")]),
        ({"d": found("disk", "database"), "a": found("ready")},
         [("d/disk", ""), ("d/database", "d/disk"), ("a/ready", "d/disk")]),
        # Two roots: the deeper one explains, both are named.
        ({"a": found("process", "ready"), "d": found("frozen")},
         [("d/frozen", ""), ("a/ready", "d/frozen"), ("a/process", "")]),
        ({}, []),
    ],
)  # fmt: skip
def test_roots_come_first_and_what_follows_is_marked(
    looks: dict[str, list[dict[str, Any]]], expected: list[tuple[str, str]]
) -> None:
    assert told(looks) == expected


def test_advice_comes_after_what_is_broken_however_deep_it_stands() -> None:
    looks = {"a": [*found("disk", severity="info"), *found("ready")]}
    assert [one["id"] for one in rank(looks, CHECKS)] == ["ready", "disk"]


def test_ranks_are_counted_from_one() -> None:
    assert [one["rank"] for one in rank({"a": found("ready", "process")}, CHECKS)] == [1, 2]


def test_a_circle_ends() -> None:
    circle = [{"id": "x", "part": "app", "follows": ["y"]}, {"id": "y", "part": "app", "follows": ["x"]}]
    assert explanations(circle) == {"x": ["y"], "y": ["x"]}
    assert [one["id"] for one in rank({"a": found("x", "y")}, circle)] == ["x", "y"]


def test_a_host_that_could_not_be_looked_at_is_left_out() -> None:
    look = {"runbook": {"findings": []}, "targets": {}}
    hosts = {"a": {"__open": look}, "b": {}, "c": {"__open": {"failed": True, "runbook": {"findings": []}}}}
    task_vars = {"ansible_play_hosts_all": ["a", "b", "c", "gone"], "hostvars": hosts}
    assert seen(task_vars, "__prove", "__open") == {"a": look}
