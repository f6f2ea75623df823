#!/usr/bin/python
# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r"""
module: database_maintenance
short_description: Carry out one step of a database's maintenance
description:
  - Reads anew what is due for the step, acts on that alone, reads again and reports each object before and after.
  - While it works it renews the run's lease and holds an advisory lock on the database.
  - In check mode nothing is done; M(database_maintenance_info) shows the plan.
options:
  step: {description: The step, type: str, required: true, choices: [retention, redact, views, vacuum, indexes]}
  run_id: {description: Identity of the run, type: str, required: true}
  owner: {description: Who runs it, as user@host, type: str, required: true}
  leases: {description: Resources of the run, type: list, elements: str, default: []}
  lease_seconds: {description: Time after which a lease that is not renewed lapses, type: int, default: 300}
  connection: {description: See M(database_maintenance_info), type: dict, required: true}
  limits: {description: See M(database_maintenance_info), type: dict, default: {}}
  retention: {description: See M(database_maintenance_info), type: list, elements: dict, default: []}
  redact: {description: See M(database_maintenance_info), type: list, elements: dict, default: []}
  state_dir: {description: See M(database_maintenance_info), type: path, required: true}
  data_dir: {description: See M(database_maintenance_info), type: path}
  jobs: {description: See M(database_maintenance_info), type: int, default: 2}
  count_seconds: {description: See M(database_maintenance_info), type: int, default: 30}
  reindex_wait_seconds: {description: See M(database_maintenance_info), type: int, default: 60}
  batch_timeout_seconds: {description: See M(database_maintenance_info), type: int, default: 300}
  batch_pause_percent: {description: See M(database_maintenance_info), type: int, default: 0}
  vacuum_truncate: {description: See M(database_maintenance_info), type: bool, default: true}
  ends_at: {description: See M(database_maintenance_info), type: float}
author: The LLM Cost Tracker runbooks authors
"""

EXAMPLES = r"""
- name: Vacuum what is due
  database_maintenance:
    step: vacuum
    run_id: 01J8Z3
    owner: ops@laptop
    connection: {database: llm_metrics, os_user: postgres}
    state_dir: /var/lib/runbooks
"""

RETURN = r"""
runbook: {description: Actions with before and after and findings for what could not be finished, type: dict, returned: always}
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.database_arguments import ARGUMENTS, maintain
from ansible.module_utils.runbook_lease import RENEWED_ARGUMENTS, LeaseHeld, renewed
from ansible.module_utils.runbook_result import report
from ansible.module_utils.runbook_state import StateError

STEPS = ["retention", "redact", "views", "vacuum", "indexes"]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "step": {"type": "str", "required": True, "choices": STEPS},
            **RENEWED_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    given = module.params
    if module.check_mode:
        module.exit_json(changed=False, runbook=report())
    keep = renewed(
        Path(given["state_dir"]),
        given["leases"],
        given["run_id"],
        given["owner"],
        "database-maintenance",
        given["lease_seconds"],
    )
    try:
        with keep:
            result = maintain(module, lambda maintenance: getattr(maintenance, given["step"])())
    except (LeaseHeld, StateError) as error:
        module.fail_json(msg=str(error), runbook=report(outcome="refused", message=str(error)))
    actions = result.public_actions()
    failed = [a for a in actions if a["result"] == "failed"]
    told = report(result.findings, actions)
    if failed:
        # The other objects were done all the same; the run goes on and the findings say what is left.
        module.warn(f"{len(failed)} of {len(actions)} actions failed: {failed[0]['subject']}: {failed[0]['detail']}")
    module.exit_json(changed=result.changed, runbook=told)


if __name__ == "__main__":
    main()
