#!/usr/bin/python
# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r"""
module: runbook_component
short_description: Read or change the state of a component
description:
  - Knows the managers systemd, compose and supervisor, and is the only place that does.
options:
  name: {description: Name of the component, type: str, required: true}
  component: {description: "Its description in C(tracker_components) with manager, unit and config", type: dict, required: true}
  state:
    description: C(status) only reads; C(restarted) and C(reloaded) always act.
    type: str
    choices: [status, started, stopped, restarted, reloaded]
    default: status
author: The LLM Cost Tracker runbooks authors
"""

EXAMPLES = r"""
- name: Read the state of the app
  runbook_component:
    name: app
    component: {manager: systemd, unit: llm-cost-tracker}
"""

RETURN = r"""
status: {description: "State before and after, with state detail restarts exit_code since", type: dict, returned: success}
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.runbook_components import VERBS, Component, ComponentError
from ansible.module_utils.runbook_result import report


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "component": {"type": "dict", "required": True},
            "state": {"type": "str", "choices": ["status", *VERBS], "default": "status"},
        },
        supports_check_mode=True,
    )
    wanted = module.params["state"]
    try:
        component = Component(module.params["name"], module.params["component"])
        before = component.status()
        is_there = {"started": before.state == "running", "stopped": before.state in ("stopped", "absent")}.get(
            wanted, False
        )
        changed = wanted != "status" and not is_there
        if changed and not module.check_mode:
            component.ensure(wanted)
        after = component.status() if changed and not module.check_mode else before
    except ComponentError as error:
        module.fail_json(msg=str(error), runbook=report())
    module.exit_json(changed=changed, status={"before": asdict(before), "after": asdict(after)}, runbook=report())


if __name__ == "__main__":
    main()
