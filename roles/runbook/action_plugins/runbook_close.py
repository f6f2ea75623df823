# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Has the module of the same name close the run, with the ranks that the last look at all hosts gives its findings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.plugins.action import ActionBase

# See runbook_plan.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.runbook_causes import rank, seen


class ActionModule(ActionBase):  # type: ignore[misc]
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = dict(self._task.args)
        checks = task_vars["__runbook"]["checks"]
        given["checks"] = [{"id": check["id"], "part": check["part"]} for check in checks]
        here = task_vars["inventory_hostname"]
        plan = task_vars.get("__runbook_plan") or {}
        if self._task.check_mode and plan.get("runbook"):
            given["steps"] = [*given["steps"], {"findings": [], "actions": plan["runbook"].get("actions") or []}]
        ranks = dict(plan.get("ranks") or {})
        looks = seen(task_vars, "__runbook_prove", "__runbook_open")
        for one in rank({host: look["runbook"]["findings"] for host, look in looks.items()}, checks):
            if one["host"] == here:
                # What the first look named a cause stays one, although the last no longer shows it.
                ranks.setdefault(f"{one['id']} {one['subject']}", {"cause": one["cause"], "rank": one["rank"]})
        given["ranks"] = ranks
        return result | self._execute_module(module_name="runbook_close", module_args=given, task_vars=task_vars)
