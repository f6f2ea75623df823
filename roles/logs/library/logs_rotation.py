#!/usr/bin/python
# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r"""
module: logs_rotation
short_description: Carry out one step of log management
description:
  - Reads anew what is due for the step, acts on that alone and reports it. While it works it renews the run's lease.
  - A policy is put in place only when logrotate has nothing to complain about it, and proven by rotating stand-ins first and the live file then.
  - A file is deleted only when its archived copy was read back and is whole, or when its policy wants no archive; nothing under a hold.
  - In check mode nothing is done; M(logs_rotation_info) shows the plan.
options:
  step: {description: The step, type: str, required: true, choices: [policies, limits, rotate, archive]}
  run_id: {description: Identity of the run, type: str, required: true}
  owner: {description: "Who runs it, as user@host", type: str, required: true}
  leases: {description: Resources of the run, type: list, elements: str, default: []}
  lease_seconds: {description: Time after which a lease that is not renewed lapses, type: int, default: 300}
  policies:
    description: Policies of log files, as in the role's input logs_policies
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Name of the policy, type: str, required: true}
      paths: {description: Globs of live files, type: list, elements: str, required: true}
      rotated_by: {description: Who rotates, type: str, choices: [logrotate, application], default: logrotate}
      frequency: {description: How often, type: str, choices: [hourly, daily, weekly, monthly], default: daily}
      max_size: {description: Size from which on it is rotated earlier, type: str}
      keep: {description: Rotated files that are kept, type: int, default: 14}
      keep_days: {description: Days that lines have to be there, type: int}
      max_days: {description: Days that lines may be there, type: int}
      reopen:
        description: How the writer opens its file anew
        type: str
        choices: [nginx, postgresql, watched, signal, command, copytruncate]
        default: watched
      signal: {description: Signal of reopen=signal, type: str}
      pid_file: {description: File with the process to signal, type: path}
      unit: {description: Unit of systemd to signal, type: str}
      command: {description: Shell of reopen=command, type: str}
      owner: {description: User of the files, type: str}
      group: {description: Group of the files, type: str}
      mode: {description: Mode of the files, type: str, default: "0640"}
      compress: {description: Compressor, type: str, choices: [auto, zstd, gzip, none], default: auto}
      archive: {description: Whether rotated files are archived before they go, type: bool, default: false}
      classification: {description: What is in them, type: str, choices: [public, internal, confidential], default: internal}
      replaces: {description: Files of logrotate's configuration that it takes the place of, type: list, elements: str, default: []}
      options: {description: Further directives of logrotate, type: list, elements: str, default: []}
  state_dir: {description: Folder of memory and evidence, type: path, required: true}
  config: {description: Configuration that logrotate is started with, type: path, default: /etc/logrotate.conf}
  config_dir: {description: Folder of its parts, type: path, default: /etc/logrotate.d}
  state_file: {description: File in which logrotate remembers what it rotated, type: path, default: /var/lib/logrotate/status}
  schedule: {description: Whether the system starts logrotate or the run of the runbook does, type: str, choices: [system, run], default: system}
  dirs: {description: Folders in which log files are looked for, type: list, elements: path, default: []}
  ignored_paths: {description: Globs of files that need no policy, type: list, elements: str, default: []}
  filesystems: {description: Paths whose file systems are watched beside those of the logs, type: list, elements: path, default: []}
  thresholds: {description: What is reported; names are those of the role's inputs without logs_, type: dict, default: {}}
  archive_after_days: {description: Age in days from which on rotated files are archived, type: int, default: 7}
  archive_max_days: {description: Age in days from which on archived copies go, for policies without max_days, type: int}
  archive_location: {description: A folder, or a restic repository, type: str}
  archive_host: {description: Name of this host in the archive; its own where it is empty, type: str, default: ""}
  archive_passphrase: {description: Passphrase of the restic repository, type: str}
  archive_environment: {description: Variables that restic needs, type: dict, default: {}}
  archive_options: {description: Extended options of restic, type: list, elements: str, default: []}
  archive_redact: {description: Whether secrets are masked in archived copies, type: bool, default: false}
  hold: {description: Whether nothing may be deleted, type: bool, default: false}
  hold_file: {description: A file that says the same while it is there, type: path}
  connection:
    description: How to reach PostgreSQL; none where its log is not looked at
    type: dict
    suboptions:
      database: {description: Database, type: str, required: true}
      host: {description: Host or folder of its socket, type: str}
      port: {description: Port, type: int}
      user: {description: Role, type: str}
      password: {description: Password, type: str}
      os_user: {description: User as whom psql runs, type: str}
      bin_dir: {description: Folder of psql, type: path}
      psql: {description: Command of psql, type: list, elements: str, default: [psql]}
  postgresql_settings: {description: Settings of PostgreSQL's log by name, type: dict, default: {}}
  journal: {description: Limits of the journal; storage, max_use_bytes, keep_free_bytes, max_days, type: dict}
  docker: {description: Limits of containers' logs; driver, max_size, max_file, daemon_json, containers, type: dict}
  tmpfiles: {description: Folders of temporary files; path and max_days, type: list, elements: dict, default: []}
  manage_packages: {description: Whether programs may be installed, type: bool, default: true}
  confirm: {description: Confirmations that were given, type: list, elements: str, default: []}
  host: {description: Name of the host in the inventory, type: str, default: ""}
author: The LLM Cost Tracker runbooks authors
"""

EXAMPLES = r"""
- name: Put policies in place
  logs_rotation:
    step: policies
    run_id: 01J8Z3
    owner: ops@laptop
    policies:
      - {name: nginx, paths: [/var/log/nginx/*.log], reopen: nginx, replaces: [nginx], max_size: 100M}
    state_dir: /var/lib/runbooks
"""

RETURN = r"""
runbook: {description: Actions with before and after, and findings for what could not be done, type: dict, returned: always}
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.logs_arguments import (
    ARGUMENTS,
    carried_out,
    given_from,
    redact_from,
    thresholds_from,
)
from ansible.module_utils.logs_files import printable
from ansible.module_utils.logs_survey import Surveyor
from ansible.module_utils.logs_work import Logs
from ansible.module_utils.runbook_lease import RENEWED_ARGUMENTS, renewed
from ansible.module_utils.runbook_result import report

STEPS = ["policies", "limits", "rotate", "archive"]


def main() -> None:
    step = {"type": "str", "required": True, "choices": STEPS}
    module = AnsibleModule(argument_spec={**ARGUMENTS, **RENEWED_ARGUMENTS, "step": step}, supports_check_mode=True)
    given = module.params
    if module.check_mode:
        module.exit_json(changed=False, runbook=report())
    made: list[Logs] = []

    def told() -> dict:
        return {"findings": made[0].findings, "actions": made[0].actions} if made else {}

    def act() -> None:
        made.append(Logs(Surveyor(given_from(given)), thresholds_from(given["thresholds"]), redact_from(given)))
        lease = (Path(given["state_dir"]), given["leases"], given["run_id"], given["owner"], "log-management", given["lease_seconds"])
        with renewed(*lease):
            getattr(made[0], given["step"])()

    carried_out(module, act, told)
    done = printable(told())
    module.exit_json(changed=any(a["result"] == "done" for a in done["actions"]), runbook=report(done["findings"], done["actions"]))


if __name__ == "__main__":
    main()
