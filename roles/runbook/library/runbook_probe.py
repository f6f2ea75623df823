#!/usr/bin/python
# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r"""
module: runbook_probe
short_description: Carry out all checks of a runbook on a host, at once
description:
  - Runs the commands of C(meta/runbook.yml) concurrently, each with its own time limit and output cap, and compares
    their output with what is expected. Reads only, so it runs in check mode too.
options:
  checks: {description: The checks as written in C(meta/runbook.yml), type: list, elements: dict, required: true}
  environment: {description: Environment of the commands; values reach them in no other way, type: dict, default: {}}
  secrets: {description: More of the environment that is never shown, type: dict, default: {}}
  os_user: {description: Operating system user that runs the commands, type: str}
author: The LLM Cost Tracker runbooks authors
"""

EXAMPLES = r"""
- name: Probe the database
  runbook_probe:
    checks:
      - id: server-accepts
        question: Does the server accept connections?
        command: pg_isready
        expect: {rc: 0}
    environment: {PGHOST: /run/postgresql}
"""

RETURN = r"""
results: {description: One entry per check with id met reason rc stdout seconds, type: list, returned: success}
runbook: {description: Findings of the checks that did not meet their expectation, type: dict, returned: always}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.runbook_checks import probe_all
from ansible.module_utils.runbook_result import report


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "checks": {"type": "list", "elements": "dict", "required": True},
            "environment": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "os_user": {"type": "str"},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        results, findings = probe_all(given["checks"], given["environment"], given["secrets"], given["os_user"])
    except ValueError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, results=results, runbook=report(findings))


if __name__ == "__main__":
    main()
