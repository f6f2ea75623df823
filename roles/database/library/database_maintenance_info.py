#!/usr/bin/python
# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r"""
module: database_maintenance_info
short_description: Plan the maintenance of a PostgreSQL database
description:
  - Reads the catalogs and counters in one session and returns what is due, why, and what to report.
  - Changes nothing on the server. In check mode it shows the plan as a diff and reports C(changed) if anything is due.
options:
  purpose:
    description: >-
      C(plan) before anything is done; C(verify) afterwards, when everything that is still due is a finding.
    type: str
    choices: [plan, verify]
    default: plan
  connection:
    description: Where and as whom to connect. An unset host, port or user is libpq's default.
    type: dict
    required: true
    suboptions:
      database: {description: Name of the database, type: str, required: true}
      host: {description: Host name or socket folder, type: str}
      port: {description: Port, type: int}
      user: {description: Role to connect as, type: str}
      password: {description: Its password if it needs one, type: str}
      os_user: {description: Operating system user that runs psql, type: str}
      bin_dir: {description: Folder of psql, type: path}
      psql: {description: "Command that starts psql, such as docker exec -i NAME psql", type: list, elements: str, default: [psql]}
  limits: {description: Thresholds by the names of the role's inputs without their prefix, type: dict, default: {}}
  retention: {description: "Rules with table, time_column, keep_days, allow_unindexed", type: list, elements: dict, default: []}
  redact: {description: "Rules with table, time_column, columns, after_days, allow_unindexed", type: list, elements: dict, default: []}
  state_dir: {description: Folder of the role's memory, type: path, required: true}
  data_dir: {description: The server's data directory as this host sees it, type: path}
  jobs: {description: How many objects are worked on at the same time, type: int, default: 2}
  count_seconds: {description: Time that counting the rows of one rule may take, type: int, default: 30}
  reindex_wait_seconds: {description: Time a concurrent rebuild waits for old transactions, type: int, default: 60}
  batch_timeout_seconds: {description: Time limit of one batch of rows, type: int, default: 300}
  batch_pause_percent: {description: Pause after a batch as a percentage of its own time, type: int, default: 0}
  vacuum_truncate: {description: Whether VACUUM gives empty pages at the end of a table back, type: bool, default: true}
  ends_at: {description: End of the time budget in seconds since the epoch, type: float}
author: The LLM Cost Tracker runbooks authors
"""

EXAMPLES = r"""
- name: Plan the maintenance
  database_maintenance_info:
    connection: {database: llm_metrics, os_user: postgres}
    state_dir: /var/lib/runbooks
  register: plan
"""

RETURN = r"""
plan: {description: "Planned actions with step, subject, reason, number and threshold", type: list, returned: success}
facts: {description: "Server version, database and table sizes in bytes, dead rows", type: dict, returned: success}
runbook: {description: Findings; the planned actions in check mode, type: dict, returned: always}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.database_arguments import ARGUMENTS, maintain
from ansible.module_utils.runbook_result import finding, report


def plan_lines(plan: list) -> str:
    """Return the plan as lines for a diff, one per action."""
    return "".join(
        f"{a['step']}: {a['subject']}: {a['detail'] or a['reason']} ({a['reason']}: {a['number']} {a['unit']}, limit {a['threshold']})\n"
        for a in plan
    )


def still_due(item: dict) -> dict:
    """Return the finding for something that was to be done by this run and is due all the same."""
    return finding(
        "not-finished",
        f"Still due after the step {item['step']}",
        subject=item["subject"],
        observed=f"{item['reason']}: {item['number']} {item['unit']}",
        expected=f"at most {item['threshold']}",
        remedy="Run again; if it comes back each time, look at what writes to it",
        section="verification",
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={**ARGUMENTS, "purpose": {"type": "str", "choices": ["plan", "verify"], "default": "plan"}},
        supports_check_mode=True,
    )
    result = maintain(module, lambda maintenance: maintenance.plan(remember=not module.check_mode))
    plan = result.public_actions()
    if module.params["purpose"] == "verify":
        result.findings += [still_due(item) for item in plan]
    module.exit_json(
        changed=module.check_mode and bool(plan),
        diff={"before_header": "due", "after_header": "planned", "before": "", "after": plan_lines(plan)},
        plan=plan,
        facts=result.facts,
        runbook=report(result.findings, plan if module.check_mode else [], complete=True),
    )


if __name__ == "__main__":
    main()
