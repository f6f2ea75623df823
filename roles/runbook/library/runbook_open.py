#!/usr/bin/python
# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r"""
module: runbook_open
short_description: Open a run on the target
description:
  - Makes the state folder usable and takes the leases of the run.
  - Refuses when another living run holds one of them.
  - In check mode nothing is written; a lease of another run still refuses.
options:
  state_dir: {description: Folder of leases, memory and evidence, type: path, required: true}
  run_id: {description: Identity of the run, type: str, required: true}
  slug: {description: The runbook, type: str, required: true}
  owner: {description: Who runs it, as user@host, type: str, required: true}
  leases: {description: Resources to lease, type: list, elements: str, default: []}
  lease_seconds: {description: Time after which a lease that is not renewed lapses, type: int, default: 300}
  dead_runs: {description: Runs known to have ended without giving their leases back, type: list, elements: str, default: []}
author: The LLM Cost Tracker runbooks authors
"""

EXAMPLES = r"""
- name: Open the run
  runbook_open:
    state_dir: /var/lib/runbooks
    run_id: 01J8Z3
    slug: database-maintenance
    owner: ops@laptop
    leases: ["database:llm_metrics"]
"""

RETURN = r"""
opened_at: {description: Start of the run on the target's clock in seconds since the epoch, type: float, returned: success}
"""

import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.runbook_lease import LeaseHeld, Leases
from ansible.module_utils.runbook_result import report
from ansible.module_utils.runbook_state import StateError, ensure_folder


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state_dir": {"type": "path", "required": True},
            "run_id": {"type": "str", "required": True},
            "slug": {"type": "str", "required": True},
            "owner": {"type": "str", "required": True},
            "leases": {"type": "list", "elements": "str", "default": []},
            "lease_seconds": {"type": "int", "default": 300},
            "dead_runs": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    leases = Leases(Path(wanted["state_dir"]))
    taken = []
    try:
        for resource in wanted["leases"]:
            if module.check_mode:
                held = leases.holder(resource, wanted["run_id"], wanted["dead_runs"])
                if held is not None:
                    raise LeaseHeld(held, time.time())
            else:
                leases.acquire(
                    resource,
                    wanted["run_id"],
                    wanted["owner"],
                    wanted["slug"],
                    wanted["lease_seconds"],
                    wanted["dead_runs"],
                )
                taken.append(resource)
        if not module.check_mode:
            ensure_folder(Path(wanted["state_dir"]) / "memory")
    except LeaseHeld as held_by_other:
        for resource in taken:
            leases.release(resource, wanted["run_id"])
        module.fail_json(msg=str(held_by_other), runbook=report(outcome="refused", message=str(held_by_other)))
    except StateError as error:
        module.fail_json(msg=str(error), runbook=report(outcome="bad_input", message=str(error)))
    module.exit_json(changed=False, opened_at=time.time(), runbook=report())


if __name__ == "__main__":
    main()
