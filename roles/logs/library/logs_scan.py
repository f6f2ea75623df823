#!/usr/bin/python
# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r"""
module: logs_scan
short_description: Look through log files for secrets, personal data and errors
description:
  - Reads what is new in the files since the last run, within a bound of bytes and seconds; the next run goes on where it stopped.
  - What was found in a file stays a finding until the file is gone. Values are never shown, only where they are and a masked excerpt.
  - On the host nothing is written but the memory of what was read; in check mode not even that.
options:
  files:
    description: The files, live and rotated; those whose names say that they are compressed are left out
    type: list
    elements: dict
    required: true
    suboptions:
      path: {description: The file, type: path, required: true}
      policy: {description: Name of the policy that covers it, type: str, default: ""}
      classification: {description: What may be in it, type: str, choices: [public, internal, confidential], default: internal}
  state_dir: {description: Folder of memory and evidence, type: path, required: true}
  max_bytes: {description: How much is read in one run, type: int, default: 536870912}
  max_seconds: {description: How many seconds of the processor one run may take, type: float, default: 20}
  personal_data: {description: Whether mail addresses are looked for, type: bool, default: true}
  error_rate_warn_per_hour: {description: How many of an error that was never seen before are a warning, type: float, default: 60}
  nice: {description: "Politeness, from 0 to 19", type: int, default: 10}
author: The LLM Cost Tracker runbooks authors
"""

EXAMPLES = r"""
- name: Look through the logs
  logs_scan:
    files:
      - {path: /var/log/nginx/error.log, policy: nginx}
      - {path: /opt/llm-cost-tracker/logs/llm-cost-tracker.log, policy: llm-cost-tracker, classification: confidential}
    state_dir: /var/lib/runbooks
"""

RETURN = r"""
facts:
  description: >-
    The most frequent errors of this run (fingerprint, level, sample, paths, count, per_hour, first_seen, last_seen, new), scanned_bytes,
    unscanned_bytes, and secrets, which is how many lines hold each kind
  type: dict
  returned: always
runbook: {description: Findings, type: dict, returned: always}
"""

import contextlib
import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.logs_files import printable
from ansible.module_utils.logs_leaks import LogFile, look, remember, remembered
from ansible.module_utils.logs_scanner import Limits
from ansible.module_utils.runbook_result import report
from ansible.module_utils.runbook_state import StateError

FILE = {
    "path": {"type": "path", "required": True},
    "policy": {"type": "str", "default": ""},
    "classification": {"type": "str", "choices": ["public", "internal", "confidential"], "default": "internal"},
}
ARGUMENTS = {
    "files": {"type": "list", "elements": "dict", "required": True, "options": FILE},
    "state_dir": {"type": "path", "required": True},
    "max_bytes": {"type": "int", "default": 536870912},
    "max_seconds": {"type": "float", "default": 20},
    "personal_data": {"type": "bool", "default": True},
    "error_rate_warn_per_hour": {"type": "float", "default": 60},
    "nice": {"type": "int", "default": 10},
}


def where(error: BaseException) -> str:
    """Return the kind of an error and its place. Its text may hold a part of a log."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" in {os.path.basename(trace.tb_frame.f_code.co_filename)}, line {trace.tb_lineno}" if trace else ""
    return f"the scan failed with {type(error).__name__}{place}; nothing was remembered of this run, the next one reads it again"


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    given = module.params
    with contextlib.suppress(OSError):  # somebody else's limit on politeness is no reason not to look
        os.nice(max(0, given["nice"]))
    files = [LogFile(**file) for file in given["files"]]
    limits = Limits(given["max_bytes"], given["max_seconds"], personal_data=given["personal_data"])
    try:
        seen = look(
            files,
            remembered(given["state_dir"]),
            limits,
            given["error_rate_warn_per_hour"],
            time.process_time,
            time.time(),
        )
        if not module.check_mode:
            remember(given["state_dir"], seen.memory)
    except StateError as error:
        module.fail_json(msg=str(error), runbook=report(message=str(error)))
    except Exception as error:
        # Ansible would show the text of the error, with what is in the log.
        module.fail_json(msg=where(error), runbook=report(message=where(error)))
    module.exit_json(changed=False, **printable({"facts": seen.facts, "runbook": report(seen.findings)}))


if __name__ == "__main__":
    main()
