# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Findings and actions: the common currency of all runbooks.

Reports, exit codes, escalation and metrics are made from these two shapes alone. Numbers carry their unit in
`unit` (bytes, rows, seconds, percent, transactions).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

SEVERITIES = ("info", "warning", "critical")


def finding(
    id: str,
    title: str,
    *,
    subject: str = "",
    observed: Any = None,
    expected: Any = None,
    severity: str = "warning",
    remedy: str = "",
    state: str = "open",
    evidence: str = "",
    check: str = "",
    section: str = "investigation",
) -> dict[str, Any]:
    """Return a finding: a check that did not meet its expectation. `subject` is the object it is about."""
    if severity not in SEVERITIES:
        raise ValueError(f"severity is {severity!r}; it must be one of {', '.join(SEVERITIES)}")
    return {
        "id": id,
        "host": "",
        "subject": subject,
        "title": title,
        "observed": observed,
        "expected": expected,
        "severity": severity,
        "remedy": remedy,
        "state": state,
        "evidence": evidence,
        "check": check,
        "section": section,
    }


def action(
    step: str,
    subject: str,
    reason: str,
    *,
    kind: str = "change",
    number: Any = None,
    threshold: Any = None,
    unit: str = "",
    measure: str = "",
    before: Any = None,
    after: Any = None,
    result: str = "planned",
    seconds: float | None = None,
    detail: str = "",
) -> dict[str, Any]:
    """Return an action: what a step did (or plans to do) to one object, and the number that asked for it.

    `unit` is that of number and threshold, `measure` that of before and after (empty: the same).
    """
    return {
        "step": step,
        "kind": kind,
        "host": "",
        "subject": subject,
        "reason": reason,
        "number": number,
        "threshold": threshold,
        "unit": unit,
        "measure": measure or unit,
        "before": before,
        "after": after,
        "result": result,
        "seconds": seconds,
        "detail": detail,
    }


def report(
    findings: Iterable[dict[str, Any]] = (),
    actions: Iterable[dict[str, Any]] = (),
    **more: Any,
) -> dict[str, Any]:
    """Return the value of the result key `runbook`, which every module of this project hands back."""
    return {"findings": list(findings), "actions": list(actions), **more}


def human_bytes(number: float) -> str:
    """Return a number of bytes for a person to read, such as 1.9 MiB."""
    if number < 1024:
        return f"{number:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        number /= 1024
        if number < 1024:
            return f"{number:.1f} {unit}"
    return f"{number:.0f} TiB"


def settle(pictures: Iterable[list[dict[str, Any]]], told: Iterable[dict[str, Any]], host: str) -> list[dict[str, Any]]:
    """Return the findings of a run, one per id and subject.

    `pictures` are complete looks at the host, earliest first: what an earlier one shows and the last does not is
    fixed. `told` are findings of single steps about what they could not do; they stay open.
    """
    settled: dict[tuple[str, str], dict[str, Any]] = {}
    looks = list(pictures)
    for number, look in enumerate(looks, 1):
        state = "open" if number == len(looks) else "fixed"
        settled.update({(f["id"], f["subject"]): {**f, "host": host, "state": state} for f in look})
    settled.update({(f["id"], f["subject"]): {**f, "host": host} for f in told})
    return list(settled.values())


def before_and_after(facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the facts of all looks as one, the last word on each counting.

    In a list of objects with a name, each value V becomes V_before and V_after, by the first and the last look at that list.
    """
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for look in facts for key in look):
        first, *_, last = [look[key] for look in facts if key in look] * 2
        merged[key] = _compared(first, last) if isinstance(last, list) and all(isinstance(v, dict) and "name" in v for v in last) else last
    return merged


def _compared(first: list[dict[str, Any]], last: list[dict[str, Any]]) -> list[dict[str, Any]]:
    earlier, later = ({item["name"]: item for item in look} for look in (first, last))
    return [
        {"name": n, **_numbers(earlier.get(n, {}), "before"), **_numbers(later.get(n, {}), "after")}
        for n in [*earlier, *(n for n in later if n not in earlier)]
    ]


def _numbers(item: dict[str, Any], suffix: str) -> dict[str, Any]:
    return {f"{k}_{suffix}": v for k, v in item.items() if k != "name"}


def accept(findings: Iterable[dict[str, Any]], accepted: Iterable[dict[str, Any]], today: str) -> list[dict[str, Any]]:
    """Return the findings with those marked accepted that the inventory accepts.

    An entry is {id, subject (optional: all), until (YYYY-MM-DD, optional), reason}; it counts up to and
    including the day `until`. A critical finding is never accepted without a subject.
    """
    rules = list(accepted)
    result = []
    for item in findings:
        rule = next((r for r in rules if _accepts(r, item, today)), None)
        if rule is not None and item["state"] == "open":
            reason = f"accepted: {rule.get('reason', '')} {item['evidence']}".strip()
            result.append({**item, "state": "accepted", "evidence": reason})
        else:
            result.append(item)
    return result


def _accepts(rule: dict[str, Any], item: dict[str, Any], today: str) -> bool:
    subject = rule.get("subject")
    if rule["id"] != item["id"] or (subject is not None and subject != item["subject"]):
        return False
    if subject is None and item["severity"] == "critical":
        return False
    return not rule.get("until") or today <= str(rule["until"])
