#!/usr/bin/python
# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r"""
module: runbook_close
short_description: Close a run on the target
description:
  - Gives the leases back, merges the findings, marks those that the inventory accepts, and keeps the outcome of the
    runbook's last run in the state folder.
options:
  state_dir: {description: Folder of leases and evidence, type: path, required: true}
  run_id: {description: Identity of the run, type: str, required: true}
  slug: {description: The runbook, type: str, required: true}
  host: {description: Name of the host in the inventory, type: str, required: true}
  leases: {description: Resources to give back, type: list, elements: str, default: []}
  before: {description: Findings of the checks when the run began, type: list, elements: dict, default: []}
  after: {description: Findings of the checks at the end of a run that changed something, type: list, elements: dict}
  steps:
    description: >-
      What the steps reported in the result key C(runbook), in their order. A report with C(complete) is a whole look at
      the host and replaces the one before it.
    type: list
    elements: dict
    default: []
  facts: {description: Facts that the steps reported, type: list, elements: dict, default: []}
  accepted: {description: "Findings that the inventory accepts, with id, subject, until and reason", type: list, elements: dict, default: []}
  evidence_dir: {description: Folder of this run's evidence if any was kept, type: str, default: ""}
  ranks: {description: "Cause and rank of findings, by `id subject`", type: dict, default: {}}
  checks: {description: The runbook's checks, type: list, elements: dict, default: []}
  parts: {description: Parts that the host has, type: list, elements: str, default: []}
  components: {description: Components whose configuration is kept while all checks of their part hold, type: dict, default: {}}
  failed: {description: Whether the run failed, type: bool, default: false}
author: The LLM Cost Tracker runbooks authors
"""

EXAMPLES = r"""
- name: Close the run
  runbook_close:
    state_dir: /var/lib/runbooks
    run_id: 01J8Z3
    slug: database-maintenance
    host: db1
    before: "{{ __runbook_open.runbook.findings }}"
"""

RETURN = r"""
runbook: {description: The complete findings and actions of this host, type: dict, returned: always}
"""

import datetime
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.runbook_good import keep_good
from ansible.module_utils.runbook_lease import Leases
from ansible.module_utils.runbook_result import accept, before_and_after, report, settle
from ansible.module_utils.runbook_state import StateError, write_json

KEPT = ("id", "subject", "severity", "state", "observed", "cause", "rank")


def all_findings(given: dict) -> list:
    """Return the findings of checks and steps with their final state."""
    checks = [given["before"], *([] if given["after"] is None else [given["after"]])]
    looks = [step["findings"] for step in given["steps"] if step.get("complete")]
    told = [item for step in given["steps"] if not step.get("complete") for item in step["findings"]]
    return settle(checks, [], given["host"]) + settle(looks, told, given["host"])


def keep_configurations(given: dict, findings: list, state_dir: Path, now: float) -> None:
    """Keep the configuration of each component of this host whose part has nothing open."""
    parts = {check["id"]: check["part"] for check in given["checks"]}
    broken = {parts.get(f["id"]) for f in findings if f["state"] == "open" and f["severity"] != "info"}
    for name, component in given["components"].items():
        if component.get("config_files") and name in given["parts"] and name not in broken:
            keep_good(state_dir / "memory" / "good" / name, component["config_files"], now)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state_dir": {"type": "path", "required": True},
            "run_id": {"type": "str", "required": True},
            "slug": {"type": "str", "required": True},
            "host": {"type": "str", "required": True},
            "leases": {"type": "list", "elements": "str", "default": []},
            "before": {"type": "list", "elements": "dict", "default": []},
            "after": {"type": "list", "elements": "dict"},
            "steps": {"type": "list", "elements": "dict", "default": []},
            "facts": {"type": "list", "elements": "dict", "default": []},
            "accepted": {"type": "list", "elements": "dict", "default": []},
            "evidence_dir": {"type": "str", "default": ""},
            "ranks": {"type": "dict", "default": {}},
            "checks": {"type": "list", "elements": "dict", "default": []},
            "parts": {"type": "list", "elements": "str", "default": []},
            "components": {"type": "dict", "default": {}},
            "failed": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    given = module.params
    now = datetime.datetime.now(datetime.timezone.utc)
    findings = accept(all_findings(given), given["accepted"], now.date().isoformat())
    findings = [{**item, **given["ranks"].get(f"{item['id']} {item['subject']}", {})} for item in findings]
    actions = [{**item, "host": given["host"]} for step in given["steps"] for item in step["actions"]]
    facts = before_and_after(given["facts"])
    result = report(findings, actions, final=True, facts=facts, evidence_dir=given["evidence_dir"])
    if not module.check_mode:
        state_dir = Path(given["state_dir"])
        last = {
            "run_id": given["run_id"],
            "ended_at": now.isoformat(timespec="seconds"),
            "failed": given["failed"],
            "findings": [{key: f[key] for key in KEPT if key in f} for f in findings],
            "actions": [{key: a[key] for key in ("step", "subject", "result", "detail") if key in a} for a in actions],
            "open_findings": sum(f["state"] == "open" and f["severity"] != "info" for f in findings),
        }
        try:
            for resource in given["leases"]:
                Leases(state_dir).release(resource, given["run_id"])
            write_json(state_dir / "last" / f"{given['slug']}.json", last)
            keep_configurations(given, findings, state_dir, now.timestamp())
        except StateError as error:
            module.fail_json(msg=str(error), runbook=result)
    module.exit_json(changed=False, runbook=result)


if __name__ == "__main__":
    main()
