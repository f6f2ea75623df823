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
  times:
    description: How often all checks have to hold; the first look at which one does not is the result.
    type: int
    default: 1
  components: {description: Components that must not be started again meanwhile, type: dict, default: {}}
  over_seconds: {description: Time over which these looks are spread evenly, type: float, default: 0}
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

import contextlib
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.runbook_checks import look
from ansible.module_utils.runbook_components import Component, ComponentError
from ansible.module_utils.runbook_result import finding, report

ESCALATE = "Escalate: a remedy helped for a moment only"


def look_often(given: dict) -> tuple:
    """Return results and findings of one look, or with `times` of the first look at which a check does not hold.

    Then its findings say that the service does not stay up; a component that was started meanwhile is one as well.
    """
    started = starts(given["components"])
    for number in range(given["times"]):
        if number:
            time.sleep(given["over_seconds"] / (given["times"] - 1))
        results, findings, _ = look(given)
        if findings:
            break
    if given["times"] == 1:
        return results, findings
    told = [
        finding("unstable", f"It does not stay up: {f['title']}", subject=f["id"], observed=f["observed"],
                expected=f["expected"], severity="critical", remedy=ESCALATE, check=f["id"], section="verification")
        for f in findings
    ]  # fmt: skip
    for name, before in started.items():
        after = starts({name: given["components"][name]}).get(name)
        if after != before:
            seen = {"observed": after, "expected": before, "severity": "critical", "remedy": ESCALATE}
            told.append(finding("unstable", "A component was started again meanwhile", subject=name, **seen))
    return results, told


def starts(components: dict) -> dict:
    """Return what changes when a component is started anew, for those whose manager tells."""
    told = {}
    for name, description in components.items():
        with contextlib.suppress(ComponentError):
            status = Component(name, description).status()
            told[name] = f"{status.restarts} restarts, up since {status.since}" if status.since else status.state
    return told


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "checks": {"type": "list", "elements": "dict", "required": True},
            "environment": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "components": {"type": "dict", "default": {}},
            "times": {"type": "int", "default": 1},
            "over_seconds": {"type": "float", "default": 0},
            "os_user": {"type": "str"},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        results, findings = look_often(given)
    except ValueError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, results=results, runbook=report(findings))


if __name__ == "__main__":
    main()
