#!/usr/bin/python
# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r"""
module: runbook_remedy
short_description: Carry out one remedy of a runbook on its host
description:
  - Looks whether the remedy is still called for, keeps evidence, acts, and proves that it helped; else takes it back.
  - In a role only O(step) is given; the action plugin of the same name fills in the rest from the run.
options:
  step: {description: The step as written in C(meta/runbook.yml); in a role just its id, type: raw, required: true}
  checks: {description: The runbook's checks that this host carries out, type: list, elements: dict, default: []}
  components: {description: C(tracker_components), type: dict, default: {}}
  environment: {description: See M(runbook_probe), type: dict, default: {}}
  secrets: {description: See M(runbook_probe), type: dict, default: {}}
  os_user: {description: See M(runbook_probe), type: str}
  because: {description: The finding that calls for it, type: str, default: ""}
  follower: {description: Whether only findings that follow from others call for it, type: bool, default: false}
  targets: {description: Objects it acts on, as the plan showed them, type: list, elements: str, default: []}
  refused: {description: Why it may not act although it is planned; empty if it may, type: str, default: ""}
  state_dir: {description: Folder of leases memory and evidence, type: path}
  run_id: {description: Identity of the run, type: str}
  owner: {description: Who runs it, type: str}
  slug: {description: The runbook, type: str}
  leases: {description: Leases to keep alive meanwhile, type: list, elements: str, default: []}
  lease_seconds: {description: Time after which they lapse, type: int, default: 300}
  log_lines: {description: How many log lines to keep as evidence, type: int, default: 200}
  restarts_per_hour: {description: Restarts of one component that are allowed within an hour, type: int, default: 2}
  restart_wait_seconds: {description: Least time between two restarts; doubles each time, type: float, default: 60}
  patience_seconds: {description: How long a finding that follows from another may take to clear by itself, type: float, default: 15}
author: The LLM Cost Tracker runbooks authors
"""

EXAMPLES = r"""
- name: restart-app | Restart the app
  runbook_remedy:
    step: restart-app
"""

RETURN = r"""
cured: {description: Whether what called for the remedy is gone, type: bool, returned: success}
runbook: {description: The action and the findings that are left, type: dict, returned: always}
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.runbook_engine import Engine, Order
from ansible.module_utils.runbook_lease import LeaseHeld, renewed
from ansible.module_utils.runbook_remedies import Budget
from ansible.module_utils.runbook_result import report
from ansible.module_utils.runbook_state import StateError

ORDER = ("step", "checks", "components", "environment", "secrets", "os_user", "because", "follower", "targets", "run_id",
         "owner", "refused", "log_lines", "patience_seconds")  # fmt: skip


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "raw", "required": True},
            "checks": {"type": "list", "elements": "dict", "default": []},
            "components": {"type": "dict", "default": {}},
            "environment": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "os_user": {"type": "str"},
            "because": {"type": "str", "default": ""},
            "follower": {"type": "bool", "default": False},
            "targets": {"type": "list", "elements": "str", "default": []},
            "refused": {"type": "str", "default": ""},
            "state_dir": {"type": "path"},
            "run_id": {"type": "str"},
            "owner": {"type": "str"},
            "slug": {"type": "str"},
            "leases": {"type": "list", "elements": "str", "default": []},
            "lease_seconds": {"type": "int", "default": 300},
            "log_lines": {"type": "int", "default": 200},
            "restarts_per_hour": {"type": "int", "default": 2},
            "restart_wait_seconds": {"type": "float", "default": 60},
            "patience_seconds": {"type": "float", "default": 15},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=True, cured=False, runbook=report())
    given = module.params
    state_dir = Path(given["state_dir"])
    order = Order(
        **{name: given[name] for name in ORDER},
        state_dir=state_dir,
        budget=Budget(given["restarts_per_hour"], given["restart_wait_seconds"]),
    )
    lease = (state_dir, given["leases"], given["run_id"], given["owner"], given["slug"], given["lease_seconds"])
    try:
        with renewed(*lease):
            result = Engine(order).run()
    except (LeaseHeld, StateError) as error:
        module.fail_json(msg=str(error), runbook=report(outcome="refused", message=str(error)))
    module.exit_json(
        changed=result.changed,
        cured=result.cured,
        runbook=report(result.findings, [result.action], evidence_dir=result.evidence_dir),
    )


if __name__ == "__main__":
    main()
