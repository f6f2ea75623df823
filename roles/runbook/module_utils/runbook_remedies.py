# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Remedies: which steps the findings call for, which of them may run, and the token that confirms a plan.

Pure functions: findings and steps in, decisions out. A remedy is a step of meta/runbook.yml with these keys beside
id, kind, does and verify:

  cures     checks whose finding calls for it
  part      the part it acts on; it runs where that part is
  unless    findings, anywhere in the deployment, that make it pointless or dangerous unless an earlier step cures them
  gates     checks of the same host that must hold right before it acts
  acts      what it does, in order: {component, state}, {command}, {restore}, {reclaim}
  targets   command that lists the objects it would act on, one a line; what is not listed is not touched
  revert    acts that take it back where its verify checks do not hold
  within_seconds   how long the verify checks may take to hold
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CLASSES = ("change", "destructive")
ONLY_FIX = "only --fix carries it out"
BEFORE = "it comes before the step at which the run is taken up again: start a new run"
ONLY_DESTRUCTIVE = "only --fix destructive carries it out"
TOKEN_SECONDS = 900
# Long enough that two plans do not share one by accident; a token proves that somebody saw this plan, not who.
TOKEN_DIGITS = 20


@dataclass
class Due:
    """One remedy that findings call for on one host."""

    step: str
    kind: str
    host: str
    does: str
    because: str
    targets: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    refused: str = ""
    follower: bool = False  # called for only by findings that follow from another one

    def shown(self) -> dict[str, Any]:
        """Return what records and reports show of it."""
        names = ("step", "kind", "host", "does", "because", "targets", "values", "refused")
        return {name: getattr(self, name) for name in names}


def is_remedy(step: Mapping[str, Any]) -> bool:
    return bool(step.get("cures"))


def due_remedies(
    steps: Sequence[Mapping[str, Any]],
    findings: Sequence[Mapping[str, Any]],
    targets: Mapping[str, Mapping[str, list[str]]],
    values: Mapping[str, Mapping[str, Any]],
    fix: str,
    max_hosts: int,
    max_targets: int,
    left: Sequence[str] | None = None,
) -> list[Due]:
    """Given steps in order and ranked findings of all hosts, return what they call for, with why it may not be done.

    `targets` and `values` are per host: the objects a step would act on, and the inputs it was resolved with.
    `left` names the steps that a resumed run has left to do; None: all.
    """
    due: list[Due] = []
    for step in filter(is_remedy, steps):
        callers: dict[str, list[Mapping[str, Any]]] = {}
        for finding in findings:
            if finding["id"] in step["cures"]:
                callers.setdefault(finding["host"], []).append(finding)
        for host, found in callers.items():
            listed = targets.get(host, {}).get(step["id"])
            if step.get("targets") and not listed:
                continue
            one = Due(step["id"], step["kind"], host, step["does"], f"{found[0]['host']}/{found[0]['id']}")
            one.targets = list(listed or [])
            one.values = dict(values.get(host, {}))
            one.follower = all(finding["cause"] for finding in found)
            mine = {f"{finding['host']}/{finding['id']}" for finding in found}
            # What follows from the very finding that this step cures is not in its way.
            others = [finding for finding in findings if finding["cause"] not in mine]
            done_before = left is not None and step["id"] not in left
            one.refused = BEFORE if done_before else _forbidden(step, one, due, others, fix, max_targets)
            due.append(one)
        mine = [one for one in due if one.step == step["id"] and not one.refused]
        if len(mine) > max_hosts:
            for one in mine:
                one.refused = (
                    f"it would act on {len(mine)} hosts, at most {max_hosts} are allowed: limit the run to some with "
                    "-l, or raise runbook_max_hosts"
                )
    return due


def _forbidden(
    step: Mapping[str, Any],
    one: Due,
    earlier: Sequence[Due],
    findings: Sequence[Mapping[str, Any]],
    fix: str,
    max_targets: int,
) -> str:
    # A diagnosis shows the plan as --fix would carry it out.
    hoped = ("", ONLY_FIX) if not fix else ("",)
    cured = {other.because.rpartition("/")[2] for other in earlier if other.refused in hoped}
    cured |= {finding["id"] for finding in findings if _cause_id(finding) in cured}
    in_the_way = [f for f in findings if f["id"] in (step.get("unless") or []) and f["id"] not in cured]
    if in_the_way:
        first = in_the_way[0]
        return f"it would be in vain or do harm: {first['title']} ({first['host']}/{first['id']})"
    if len(one.targets) > max_targets:
        return (
            f"it would act on {len(one.targets)} objects, at most {max_targets} are allowed: raise runbook_max_targets"
        )
    if CLASSES.index(step["kind"]) > (CLASSES.index(fix) if fix in CLASSES else -1):
        return ONLY_DESTRUCTIVE if step["kind"] == "destructive" else ONLY_FIX
    return ""


def _cause_id(finding: Mapping[str, Any]) -> str:
    return str(finding.get("cause") or "").rpartition("/")[2]


def confirmable(due: Sequence[Due]) -> list[Due]:
    """Return the destructive remedies that only a confirmation is missing for."""
    return [one for one in due if one.kind == "destructive" and one.refused in ("", ONLY_DESTRUCTIVE)]


def make_token(slug: str, due: Sequence[Due], now: float) -> str:
    """Return the token that confirms just these remedies for 15 minutes: `expiry-hash`; empty for none.

    It is bound to the runbook, to steps, hosts and objects, and to the values they were resolved with.
    """
    expires = int(now) + TOKEN_SECONDS
    return f"{expires}-{_sign(slug, due, expires)}" if due else ""


def _sign(slug: str, due: Sequence[Due], expires: int) -> str:
    content = sorted(([one.step, one.host, sorted(one.targets), one.values] for one in due), key=str)
    text = json.dumps([slug, content, expires], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:TOKEN_DIGITS]


def confirm(tokens: Sequence[str], slug: str, due: Sequence[Due], now: float) -> str:
    """Refuse what these tokens do not confirm, and return why one of them confirms nothing; empty if each does.

    A token confirms one destructive remedy, or all of the plan.
    """
    wanted = confirmable(due)
    confirmed: set[int] = set()
    for token in tokens:
        if fault := _token_fault(token, now):
            return fault
        expires = int(token.partition("-")[0])
        sets = [wanted, *([one] for one in wanted)]
        match = next((s for s in sets if s and token.partition("-")[2] == _sign(slug, s, expires)), None)
        if match is None:
            return "the plan is not the one that was confirmed: hosts, objects or values changed; look at it again"
        confirmed |= {id(one) for one in match}
    for one in wanted:
        if id(one) not in confirmed:
            one.refused = one.refused or "it is not confirmed"
    return ""


def _token_fault(token: str, now: float) -> str:
    head, _, tail = token.partition("-")
    if not head.isdigit() or len(tail) != TOKEN_DIGITS:
        return f"the confirmation {token[:60]!r} is not of the form EXPIRY-HASH: take the token that a diagnosis prints"
    if int(head) < now:
        ended = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(head)))
        return f"the confirmation was valid until {ended}: diagnose again and confirm what it finds now"
    if int(head) > now + TOKEN_SECONDS + 60:
        return "the confirmation is valid for longer than any token is: take the one that a diagnosis prints"
    return ""


@dataclass(frozen=True)
class Budget:
    """How often a component may be restarted: `most` times in an hour, waiting twice as long each time."""

    most: int = 2
    wait_seconds: float = 60
    hour_seconds: float = 3600

    def refusal(self, name: str, before: Sequence[float], now: float) -> str:
        """Given the times of earlier restarts, return why another one is not allowed now; empty if it is."""
        recent = sorted(at for at in before if now - self.hour_seconds < at <= now + 60)
        if len(recent) >= self.most:
            free = recent[-self.most] + self.hour_seconds
            return (
                f"{name} was restarted {len(recent)} times within the hour, {self.most} are allowed: the next may come "
                f"at {_clock(free)}. A restart does not cure this; escalate"
            )
        if recent:
            wait = self.wait_seconds * 2 ** (len(recent) - 1)
            if now - recent[-1] < wait:
                return f"{name} was restarted at {_clock(recent[-1])}: the next attempt may come at {_clock(recent[-1] + wait)}"
        return ""


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%SZ", time.gmtime(seconds))
