#!/usr/bin/python
# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r"""
module: backups_restore
short_description: Bring a database, a table or files of a tracker back
description:
  - C(plan) reads what would be done and what would be lost, and refuses what cannot work; it changes nothing.
  - C(data) does it, with a confirmation that names host and database. Old data is moved aside, never deleted.
  - C(backup) takes a full set of a server that was restored, as it goes on in a new timeline.
options:
  step: {description: The step, type: str, required: true, choices: [plan, data, backup]}
  target: {description: A set's id or latest, type: str, default: latest}
  time: {description: Moment to go back to with its zone, type: str, default: ""}
  scope: {description: What is brought back, type: str, choices: [database, table, files], default: database}
  table: {description: The table of scope table as schema.name, type: str, default: ""}
  paths: {description: The files of scope files, type: list, elements: str, default: []}
  host: {description: Name of the host in the inventory, type: str, required: true}
  confirm: {description: What the operator confirmed, type: list, elements: str, default: []}
  run_id: {description: Identity of the run, type: str, required: true}
  owner: {description: Who runs it, as user@host, type: str, required: true}
  leases: {description: Resources of the run, type: list, elements: str, default: []}
  lease_seconds: {description: Time after which a lease that is not renewed lapses, type: int, default: 300}
notes:
  - All other options are those of M(backups_maintenance_info).
author: The LLM Cost Tracker runbooks authors
"""

EXAMPLES = r"""
- name: Bring everything back to just before the mistake
  backups_restore:
    step: data
    time: 2026-03-01 14:05:00+00
    host: db1
    confirm: [db1/llm_metrics]
    run_id: 01J8Z3
    owner: ops@laptop
    connection: {database: llm_metrics, os_user: postgres}
    state_dir: /var/lib/runbooks
    engine: pgbackrest
    repository: /mnt/backups/postgresql
    stanza: main
    config: /etc/pgbackrest/llm-cost-tracker.conf
    files_repository: /mnt/backups/files
    passphrase: "{{ vault_backups_passphrase }}"
    scratch_dir: /var/lib/runbooks/scratch
"""

RETURN = r"""
facts: {description: What it goes back to and what is lost, type: dict, returned: for the step plan}
runbook: {description: Actions and findings; the outcome refused says that nothing was changed and why, type: dict, returned: always}
"""

from dataclasses import replace
from pathlib import Path

from ansible.module_utils.backups_arguments import ARGUMENTS, carried_out, job_from
from ansible.module_utils.backups_restore import Request, Restore
from ansible.module_utils.backups_work import Backups
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.runbook_lease import RENEWED_ARGUMENTS, renewed
from ansible.module_utils.runbook_result import action, report

OWN = {
    "step": {"type": "str", "required": True, "choices": ["plan", "data", "backup"]},
    "target": {"type": "str", "default": "latest"},
    "time": {"type": "str", "default": ""},
    "scope": {"type": "str", "choices": ["database", "table", "files"], "default": "database"},
    "table": {"type": "str", "default": ""},
    "paths": {"type": "list", "elements": "str", "default": []},
    "host": {"type": "str", "required": True},
    "confirm": {"type": "list", "elements": "str", "default": []},
}


def planned(restore: Restore) -> dict:
    """Return what would be done, as facts and as an action for people."""
    way = restore.way()
    what = {"database": way.data_dir, "table": restore.request.table, "files": ", ".join(restore.request.paths)}
    shown = action("restore-data", what[restore.request.scope], restore.lost(way), kind="destructive")
    return {"facts": way.facts, "plan": [shown]}


def main() -> None:
    module = AnsibleModule(argument_spec={**ARGUMENTS, **RENEWED_ARGUMENTS, **OWN}, supports_check_mode=True)
    given = module.params
    if module.check_mode and given["step"] != "plan":
        module.exit_json(changed=False, runbook=report())
    made: list[Restore] = []

    def told() -> dict:
        return {"findings": made[0].backups.findings, "actions": made[0].backups.actions} if made else {}

    def act() -> dict:
        state_dir = Path(given["state_dir"])
        names = ("target", "time", "scope", "table", "host")
        request = Request(**{n: given[n] for n in names}, paths=tuple(given["paths"]), confirm=tuple(given["confirm"]))
        # Whoever restores is in a hurry.
        backups = Backups(replace(job_from(given), nice=0))
        made.append(Restore(backups, request, state_dir / "evidence" / given["run_id"]))
        if given["step"] == "plan":
            found = planned(made[0])
            if not module.check_mode:
                made[0].refuse_unconfirmed(found["plan"][0]["reason"])
            return found
        with renewed(state_dir, given["leases"], given["run_id"], given["owner"], "backup-restore", given["lease_seconds"]):
            made[0].run() if given["step"] == "data" else made[0].backup_again()
        return {}

    result = carried_out(module, act, told)
    done = told()
    actions = [*done["actions"], *(result.pop("plan", []) if module.check_mode else [])]
    module.exit_json(changed=bool(actions), runbook=report(done["findings"], actions), **result)


if __name__ == "__main__":
    main()
