#!/usr/bin/python
# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r"""
module: runbook_lease
short_description: List the leases on a host, or break one
description:
  - Breaking takes the resource from a run that may still be at work, so it is written down on the host, with who and why.
options:
  state_dir: {description: Folder of leases, type: path, required: true}
  resource: {description: Resource whose lease to break; null only lists, type: str}
  who: {description: Who breaks it as user@host, type: str, default: ""}
  reason: {description: Why it is broken, type: str, default: ""}
author: The LLM Cost Tracker runbooks authors
"""

EXAMPLES = r"""
- name: Read the leases
  runbook_lease:
    state_dir: /var/lib/runbooks
"""

RETURN = r"""
leases: {description: "Each lease with resource run_id owner purpose acquired_at expires_at and alive", type: list, returned: success}
broken: {description: The lease that was broken, type: dict, returned: when one was}
"""

import json
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.runbook_lease import Leases
from ansible.module_utils.runbook_result import report
from ansible.module_utils.runbook_state import StateError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state_dir": {"type": "path", "required": True},
            "resource": {"type": "str"},
            "who": {"type": "str", "default": ""},
            "reason": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    given = module.params
    leases, now, broken = Leases(Path(given["state_dir"])), time.time(), None
    try:
        found = [lease for lease in leases.list() if lease]
        if given["resource"]:
            broken = next((lease for lease in found if lease["resource"] == given["resource"]), None)
            if broken and not module.check_mode:
                line = {"at": now, "who": given["who"], "reason": given["reason"], "lease": broken}
                with open(leases.folder / "broken.log", "a", encoding="utf-8") as log:
                    log.write(json.dumps(line, sort_keys=True) + "\n")
                leases.release(broken["resource"], broken["run_id"])
                found = [lease for lease in leases.list() if lease]
    except (StateError, OSError, KeyError, TypeError) as error:
        module.fail_json(msg=f"the leases cannot be read or broken: {error}", runbook=report())
    shown = [{**lease, "alive": lease["expires_at"] > now} for lease in found]
    module.exit_json(changed=broken is not None, leases=shown, broken=broken, runbook=report())


if __name__ == "__main__":
    main()
