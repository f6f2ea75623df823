# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Decides on the control node what the findings of all hosts call for; no host is contacted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.plugins.action import ActionBase

# What decides is code of the role, tested without Ansible; Ansible finds it by itself only on managed hosts.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils import runbook_remedies as remedies
from ansible.module_utils.runbook_causes import rank, seen
from ansible.module_utils.runbook_result import action, report

DOCUMENTATION = r"""
module: runbook_plan
short_description: Rank the findings of all hosts and plan the remedies they call for
options:
  fix: {description: "Which kinds of remedies may run: empty, change or destructive", type: str, default: ""}
  confirm: {description: Tokens that confirm destructive remedies, type: list, default: []}
  remaining: {description: Steps that a resumed run has left to do, type: list}
  max_hosts: {description: On how many hosts one remedy may act, type: int, default: 1}
  max_targets: {description: On how many objects one remedy may act, type: int, default: 5}
"""


class ActionModule(ActionBase):  # type: ignore[misc]
    """Returns `due` (step id -> what the remedy needs to know) for this host, and what records show of the plan."""

    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        given, here = self._task.args, task_vars["inventory_hostname"]
        # As it is written: what decides is no template, and rendering the rest takes longer than deciding.
        runbook, looks, now = task_vars["__runbook"], seen(task_vars, "__runbook_open"), time.time()
        findings = rank({host: look["runbook"]["findings"] for host, look in looks.items()}, runbook["checks"])
        targets = {host: look["targets"] for host, look in looks.items()}
        values = {host: {"resolved": look["resolved"]} for host, look in looks.items()}
        fix, tokens = given.get("fix") or "", list(given.get("confirm") or [])
        bounds = int(given.get("max_hosts") or 1), int(given.get("max_targets") or 5)
        due = remedies.due_remedies(runbook["steps"], findings, targets, values, fix, *bounds, given.get("remaining"))
        shown = self._shown(runbook["slug"], due, now)
        if fault := self._unconfirmed(runbook["slug"], due, fix, tokens, now):
            return {"failed": True, "msg": fault, "runbook": report(outcome="refused", message=fault, **shown)}
        mine = [one for one in due if one.host == here]
        allowed = {one.step: vars(one) for one in mine if not one.refused}
        planned = [
            action(one.step, ", ".join(one.targets) or "", f"finding {one.because}", kind=one.kind)
            for one in mine
            if self._task.check_mode and not one.refused
        ]
        own = [one for one in findings if one["host"] == here]
        return {
            "changed": False,
            "due": allowed,
            "ranks": {f"{one['id']} {one['subject']}": {"cause": one["cause"], "rank": one["rank"]} for one in own},
            "runbook": report(own, planned, **self._shown(runbook["slug"], due, now, shown["confirmation"])),
        }

    @staticmethod
    def _shown(slug: str, due: list[remedies.Due], now: float, token: str | None = None) -> dict[str, Any]:
        wanted = remedies.confirmable(due)
        plan = [
            {**one.shown(), "confirmation": remedies.make_token(slug, [one], now) if one in wanted else ""}
            for one in due
        ]
        return {"plan": plan, "confirmation": remedies.make_token(slug, wanted, now) if token is None else token}

    @staticmethod
    def _unconfirmed(slug: str, due: list[remedies.Due], fix: str, tokens: list[str], now: float) -> str:
        """Refuse what is not confirmed, and return why nothing at all may be done; empty otherwise."""
        wanted = [one for one in remedies.confirmable(due) if not one.refused]
        if fix != "destructive" or not (wanted or tokens):
            return ""
        if not tokens:
            names = ", ".join(f"{one.step} on {one.host}" for one in wanted)
            return (
                f"{names} can destroy data or evidence and is not confirmed; nothing was done. Look at the plan, then "
                "confirm it with --confirm TOKEN"
            )
        return remedies.confirm(tokens, slug, due, now)
