#!/usr/bin/python
# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r"""
module: backups_maintenance
short_description: Carry out one step of a tracker's backups
description:
  - Reads anew what is due for the step, acts on that alone and reports it. While it works it renews the run's lease.
  - Killed at any moment, it leaves no set that is not whole, and the next run removes what was left.
  - In check mode nothing is done; M(backups_maintenance_info) shows the plan.
options:
  step: {description: The step, type: str, required: true, choices: [repositories, set, expire, drill]}
  run_id: {description: Identity of the run, type: str, required: true}
  owner: {description: Who runs it, as user@host, type: str, required: true}
  leases: {description: Resources of the run, type: list, elements: str, default: []}
  lease_seconds: {description: Time after which a lease that is not renewed lapses, type: int, default: 300}
extends_documentation_fragment: []
notes:
  - All other options are those of M(backups_maintenance_info).
author: The LLM Cost Tracker runbooks authors
"""

EXAMPLES = r"""
- name: Take the set that is due
  backups_maintenance:
    step: set
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
runbook: {description: Actions with before and after, and findings for what could not be done, type: dict, returned: always}
"""

from pathlib import Path

from ansible.module_utils.backups_arguments import ARGUMENTS, carried_out, job_from
from ansible.module_utils.backups_drill import Drill
from ansible.module_utils.backups_work import Backups
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.runbook_lease import RENEWED_ARGUMENTS, renewed
from ansible.module_utils.runbook_result import report

STEPS = ["repositories", "set", "expire", "drill"]


def main() -> None:
    step = {"type": "str", "required": True, "choices": STEPS}
    module = AnsibleModule(argument_spec={**ARGUMENTS, **RENEWED_ARGUMENTS, "step": step}, supports_check_mode=True)
    given = module.params
    if module.check_mode:
        module.exit_json(changed=False, runbook=report())
    made: list[Backups] = []

    def told() -> dict:
        return {"findings": made[0].findings, "actions": made[0].actions} if made else {}

    def act() -> None:
        made.append(Backups(job_from(given)))
        state_dir = Path(given["state_dir"])
        with renewed(state_dir, given["leases"], given["run_id"], given["owner"], "backup-recovery", given["lease_seconds"]):
            if given["step"] == "drill":
                Drill(made[0], state_dir / "evidence" / given["run_id"]).run()
            else:
                getattr(made[0], given["step"])()

    carried_out(module, act, told)
    done = told()
    module.exit_json(changed=bool(done["actions"]), runbook=report(done["findings"], done["actions"]))


if __name__ == "__main__":
    main()
