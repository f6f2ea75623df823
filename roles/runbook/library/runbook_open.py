#!/usr/bin/python
# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r"""
module: runbook_open
short_description: Open a run on the target and probe it
description:
  - Makes the state folder usable and takes the leases of the run.
  - Refuses when another living run holds one of them.
  - In check mode nothing is written; a lease of another run still refuses.
  - Then carries out the runbook's checks as M(runbook_probe) does, in the same call, since a call costs more than they do.
options:
  state_dir: {description: Folder of leases, memory and evidence, type: path, required: true}
  run_id: {description: Identity of the run; empty mints one, type: str}
  slug: {description: The runbook, type: str, required: true}
  owner: {description: Who runs it as user@host; empty is the user on the target, type: str}
  leases: {description: Resources to lease, type: list, elements: str, default: []}
  lease_seconds: {description: Time after which a lease that is not renewed lapses, type: int, default: 300}
  dead_runs: {description: Runs known to have ended without giving their leases back, type: list, elements: str, default: []}
  checks: {description: See M(runbook_probe), type: list, elements: dict, default: []}
  targets: {description: "Steps whose C(targets) command lists the objects they would act on", type: list, elements: dict, default: []}
  volatile: {description: Variables of the environment that differ from run to run, type: list, elements: str, default: []}
  environment: {description: See M(runbook_probe), type: dict, default: {}}
  secrets: {description: See M(runbook_probe), type: dict, default: {}}
  os_user: {description: See M(runbook_probe), type: str}
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
run_id: {description: Identity of the run, type: str, returned: success}
owner: {description: Who runs it, type: str, returned: success}
opened_at: {description: Start of the run on the target's clock in seconds since the epoch, type: float, returned: success}
results: {description: One entry per check with id met reason rc stdout seconds, type: list, returned: success}
targets: {description: Per step the objects that it would act on, type: dict, returned: success}
resolved: {description: Hash of the values that commands get, type: str, returned: success}
runbook: {description: Findings of the checks that did not meet their expectation, type: dict, returned: always}
"""

import getpass
import hashlib
import json
import platform
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.runbook_checks import look
from ansible.module_utils.runbook_lease import LeaseHeld, Leases
from ansible.module_utils.runbook_result import report
from ansible.module_utils.runbook_state import StateError, ensure_folder


def resolved(environment: dict, volatile: list) -> str:
    """Return a hash of the values that commands get, so that a confirmation holds for these alone."""
    kept = {name: str(value) for name, value in environment.items() if name not in volatile}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state_dir": {"type": "path", "required": True},
            "run_id": {"type": "str"},
            "slug": {"type": "str", "required": True},
            "owner": {"type": "str"},
            "leases": {"type": "list", "elements": "str", "default": []},
            "lease_seconds": {"type": "int", "default": 300},
            "dead_runs": {"type": "list", "elements": "str", "default": []},
            "checks": {"type": "list", "elements": "dict", "default": []},
            "targets": {"type": "list", "elements": "dict", "default": []},
            "volatile": {"type": "list", "elements": "str", "default": []},
            "environment": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "os_user": {"type": "str"},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    wanted["run_id"] = wanted["run_id"] or time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    wanted["owner"] = wanted["owner"] or f"{getpass.getuser()}@{platform.node()}"
    if wanted["lease_seconds"] < 1:
        told = f"runbook_lease_seconds is {wanted['lease_seconds']}; a lease lasts at least 1 second, 300 is usual"
        module.fail_json(msg=told, runbook=report(outcome="bad_input", message=told))
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
    opened_at = time.time()
    try:
        results, findings, targets = look(wanted, wanted["targets"])
    except ValueError as error:
        for resource in taken:
            leases.release(resource, wanted["run_id"])
        module.fail_json(msg=str(error), runbook=report())
    module.exit_json(
        changed=False,
        run_id=wanted["run_id"],
        owner=wanted["owner"],
        opened_at=opened_at,
        results=results,
        targets=targets,
        resolved=resolved(wanted["environment"], wanted["volatile"]),
        runbook=report(findings),
    )


if __name__ == "__main__":
    main()
