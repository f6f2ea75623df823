#!/usr/bin/python
# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r"""
module: runbook_evidence
short_description: Keep what was seen on a host
description:
  - Writes texts, the output of commands, and status and recent logs of the host's components into the run's evidence
    folder with a sha256 manifest and a custody line. Known secrets are masked. Nothing is ever overwritten.
  - In check mode nothing is written.
options:
  folder: {description: The run's evidence folder, type: path, required: true}
  who: {description: Who keeps it, as user@host, type: str, required: true}
  texts: {description: File name and text of each item, type: dict, default: {}}
  commands: {description: File name and command line of each item, type: dict, default: {}}
  environment: {description: Environment of the commands, type: dict, default: {}}
  os_user: {description: Operating system user that runs the commands, type: str}
  components: {description: Components as described in C(tracker_components), type: dict, default: {}}
  log_lines: {description: How many of each component's last log lines to keep, type: int, default: 200}
author: The LLM Cost Tracker runbooks authors
"""

EXAMPLES = r"""
- name: Keep the sessions of the server
  runbook_evidence:
    folder: /var/lib/runbooks/evidence/01J8Z3
    who: ops@laptop
    commands: {sessions: psql -c 'TABLE pg_stat_activity'}
"""

RETURN = r"""
folder: {description: Where the evidence is, type: str, returned: success}
"""

import datetime
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.runbook_checks import command_environment, run_command
from ansible.module_utils.runbook_components import Component, ComponentError
from ansible.module_utils.runbook_evidence import keep, transcript
from ansible.module_utils.runbook_result import report
from ansible.module_utils.runbook_state import StateError

COMMAND_TIMEOUT_SECONDS = 20


def component_texts(components: dict, log_lines: int) -> dict:
    texts = {}
    for name, description in components.items():
        try:
            component = Component(name, description)
            texts[f"{name}-status.txt"] = f"{component.status()}\n"
            texts[f"{name}-log.txt"] = component.logs(log_lines)
        except ComponentError as error:
            texts[f"{name}-status.txt"] = f"{error}\n"
    return texts


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "who": {"type": "str", "required": True},
            "texts": {"type": "dict", "default": {}},
            "commands": {"type": "dict", "default": {}},
            "environment": {"type": "dict", "default": {}, "no_log": False},
            "os_user": {"type": "str"},
            "components": {"type": "dict", "default": {}},
            "log_lines": {"type": "int", "default": 200},
        },
        supports_check_mode=True,
    )
    given = module.params
    folder = Path(given["folder"])
    if module.check_mode:
        module.exit_json(changed=False, folder=str(folder), skipped=True)
    environment = command_environment(given["environment"])
    items = {str(k): str(v) for k, v in given["texts"].items()}
    items.update(component_texts(given["components"], given["log_lines"]))
    for name, command in given["commands"].items():
        outcome = run_command(str(command), environment, COMMAND_TIMEOUT_SECONDS, given["os_user"])
        items[str(name)] = transcript(command, outcome.stdout + outcome.stderr, outcome.rc)
    try:
        keep(folder, items, given["who"], datetime.datetime.now(datetime.timezone.utc))
    except StateError as error:
        module.fail_json(msg=str(error))
    # Evidence is bookkeeping, not a change of the system.
    module.exit_json(changed=False, folder=str(folder), runbook=report(evidence_dir=str(folder)))


if __name__ == "__main__":
    main()
