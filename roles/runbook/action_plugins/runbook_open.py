# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Refuses a policy of escalation that does not hold, then has the module of the same name open the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template

# See runbook_plan.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.runbook_policy import faults
from ansible.module_utils.runbook_result import report

# The keys of each contact and no value: addresses come from the vault, and a run that tells nobody needs none.
CONTACTS = """
{%- set all = tracker_contacts or {} -%}
{%- set found = {} -%}
{%- for name in (all if all is mapping else []) -%}
{%- set _ = found.update({name: (all[name] | list) if all[name] is mapping else none}) -%}
{%- endfor -%}
{{ (found if all is mapping else none) | to_json }}
"""
RUNGS = "{{ tracker_escalation or [] }}"
DO = "Correct it in the inventory; no host was looked at"


class ActionModule(ActionBase):  # type: ignore[misc]
    TRANSFERS_FILES = False
    _rungs = 0

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        if fault := self._fault(task_vars):
            said = f"Who is told cannot be decided: {fault}. {DO}"
            return result | {"failed": True, "msg": said, "runbook": report(outcome="bad_input", message=said)}
        module = self._execute_module(task_vars=task_vars)
        if isinstance(module.get("runbook"), dict):
            # Where nobody is to be told, the wrapper need not ask the inventory who.
            module["runbook"]["told"] = self._rungs > 0
        return result | module

    def _fault(self, task_vars: Any) -> str:
        try:
            known = [name in task_vars for name in ("tracker_contacts", "tracker_escalation")]
            contacts = json.loads(self._templar.template(trust_as_template(CONTACTS))) if known[0] else {}
            rungs = self._templar.template(trust_as_template(RUNGS)) if known[1] else []
        except AnsibleUndefinedVariable as error:
            return f"tracker_contacts or tracker_escalation needs something that is not there: {error.message}"
        except (AnsibleError, ValueError) as error:
            # What it says may quote an address.
            return f"tracker_contacts or tracker_escalation cannot be read ({type(error).__name__})"
        self._rungs = len(rungs or [])
        return "; ".join(faults(contacts, rungs))
