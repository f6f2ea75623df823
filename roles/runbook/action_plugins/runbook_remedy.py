# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Has the module of the same name carry out one planned remedy, with all it needs to know from the run."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc]
    """A step file says which step; the plan of the run says whether, and with what.

    A remedy that the plan does not hold for this host is skipped without a round trip, and check mode needs none. One
    whose finding was to be cured by an earlier remedy that failed, on whatever host, is refused: it would act in vain.
    """

    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        name = str(self._task.args["step"])
        due = (task_vars.get("__runbook_plan") or {}).get("due") or {}
        if name not in due:
            return result | {"changed": False, "skipped": True}
        if self._task.check_mode:
            return result | {"changed": True}
        planned = due[name]
        arguments = dict(self._templar.template(task_vars["__runbook_remedy_arguments"]))
        step = next(step for step in task_vars["__runbook"]["steps"] if step["id"] == name)
        arguments["step"] = self._templar.template(step)
        arguments |= {key: planned[key] for key in ("because", "follower", "targets")}
        if failed := self._failed_before(task_vars, arguments["step"]):
            arguments["refused"] = failed
        module = self._execute_module(module_name="runbook_remedy", module_args=arguments, task_vars=task_vars)
        return result | module

    def _failed_before(self, task_vars: Any, step: Any) -> str:
        """Return which earlier remedy of this run did not cure what this step must not act beside."""
        unless = set(step.get("unless") or [])
        for host in task_vars["ansible_play_hosts_all"]:
            known = task_vars["hostvars"].get(host) or {}
            plan = (known.get("__runbook_plan") or {}).get("due") or {}
            for other in plan.values():
                done = known.get(f"__{task_vars['runbook_role']}_step_{other['step'].replace('-', '_')}")
                cause = other["because"].rpartition("/")[2]
                if done and done.get("cured") is False and cause in unless:
                    return f"{other['step']} on {host} did not help"
        return ""
