# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Causes: which finding is the root, and which only follow from it.

A check names in `follows` the checks whose failure explains its own. Across the hosts of a deployment that makes a
graph; a finding that nothing explains is a root cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SEVERITIES = ("critical", "warning", "info")
# What is wrong with a machine explains only what runs on it.
HOST_PART = "host"


def explanations(checks: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return, per check, all checks that may explain its failure: those it follows, and what they follow."""
    direct = {check["id"]: list(check.get("follows") or []) for check in checks}
    found: dict[str, list[str]] = {}
    for name, follows in direct.items():
        seen: list[str] = []
        pending = list(follows)
        while pending:
            other = pending.pop(0)
            if other not in seen and other != name:
                seen.append(other)
                pending.extend(direct.get(other, []))
        found[name] = seen
    return found


def rank(looks: Mapping[str, Iterable[Mapping[str, Any]]], checks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Given the findings per host, return them all with `host`, `cause` and `rank`, root causes first.

    `cause` is `host/id` of the root a finding follows from, empty for a root. Roots are ordered by severity, then as
    their checks are, which is along the dependency chain; what follows from a root comes right after it.
    """
    order = {check["id"]: number for number, check in enumerate(checks)}
    parts = {check["id"]: check["part"] for check in checks}
    because = explanations(checks)
    present = [{**finding, "host": host} for host, findings in looks.items() for finding in findings]

    def explained_by(one: Mapping[str, Any]) -> list[dict[str, Any]]:
        names = because.get(one["id"], [])
        return [
            other
            for other in present
            # Advice explains no outage.
            if other["severity"] != "info"
            and other["id"] in names
            and (parts.get(other["id"]) != HOST_PART or other["host"] == one["host"])
        ]

    def root_of(one: dict[str, Any]) -> dict[str, Any] | None:
        seen: list[int] = [id(one)]
        pending, roots = explained_by(one), []
        while pending:
            other = pending.pop(0)
            if id(other) in seen:
                continue
            seen.append(id(other))
            deeper = explained_by(other)
            pending.extend(deeper)
            if not deeper:
                roots.append(other)
        return min(roots, key=place, default=None)

    def place(one: Mapping[str, Any]) -> tuple[Any, ...]:
        return (SEVERITIES.index(one["severity"]), order.get(one["id"], len(order)), one["host"], one["subject"])

    ranked = []
    for one in present:
        root = root_of(one)
        cause = f"{root['host']}/{root['id']}" if root else ""
        ranked.append((place(root or one), bool(root), place(one)[1:], {**one, "cause": cause}))
    ranked.sort(key=lambda entry: entry[:3])
    return [{**one, "rank": number} for number, (*_, one) in enumerate(ranked, 1)]


def seen(task_vars: Any, *names: str) -> dict[str, Any]:
    """Return, per host of the play, the first of these registered results that is a look at it."""
    found = {}
    for host in task_vars["ansible_play_hosts_all"]:
        known = task_vars["hostvars"].get(host) or {}
        looks = (known.get(name) or {} for name in names)
        look = next((one for one in looks if (one.get("runbook") or {}).get("findings") is not None), None)
        if look and not look.get("failed"):
            found[host] = look
    return found
