#!/usr/bin/python
# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r"""
module: logs_rotation_info
short_description: Read how a host's logs are rotated, and what is due
description:
  - Reads policies, logrotate's configuration and memory, files and who holds them, the journal, containers, PostgreSQL's log, archive and
    file systems in one look, and decides what is due and why.
  - logrotate's configuration is judged by its messages, not by its exit status, and by rules for what it never mentions.
  - Nothing is changed but the memory of how full the file systems were; in check mode not even that.
options:
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
- name: Read what is due
  logs_rotation_info:
    policies:
      - {name: nginx, paths: [/var/log/nginx/*.log], reopen: nginx, replaces: [nginx], max_size: 100M}
    dirs: [/var/log]
    state_dir: /var/lib/runbooks
"""

RETURN = r"""
plan: {description: Actions that are due, in their order, type: list, elements: dict, returned: always}
missing: {description: Programs that have to be installed, type: list, elements: str, returned: always}
files: {description: Files to be scanned, type: list, elements: dict, returned: always}
policies: {description: Policies as M(logs_reclaim) takes them, type: list, elements: dict, returned: always}
facts: {description: Retention, space and forecasts, type: dict, returned: always}
runbook: {description: Findings, and in check mode the plan as actions, type: dict, returned: always}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.logs_arguments import (
    ARGUMENTS,
    carried_out,
    given_from,
    policy_rows,
    thresholds_from,
)
from ansible.module_utils.logs_files import printable
from ansible.module_utils.logs_planner import facts_of, plan
from ansible.module_utils.logs_survey import Surveyor, files_to_scan
from ansible.module_utils.logs_work import hourly_timer_due
from ansible.module_utils.runbook_result import report


def plan_lines(actions: list) -> str:
    """Return the plan as lines of text, for --diff."""
    return "".join(f"{a['step']}: {a['subject']}: {a['reason']}\n" for a in actions)


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)

    def look() -> dict:
        given = given_from(module.params)
        surveyor = Surveyor(given)
        picture = surveyor.look(write=not module.check_mode)
        planned = plan(picture, thresholds_from(module.params["thresholds"]), given.archive_after_days, hourly_timer_due(surveyor, picture))
        shown = planned.actions if module.check_mode else []
        return printable({
            "diff": {"before_header": "due", "after_header": "planned", "before": "", "after": plan_lines(planned.actions)},
            "plan": planned.actions,
            "missing": picture.missing if given.manage_packages else [],
            "files": files_to_scan(picture),
            "policies": policy_rows(given.policies, given.server),
            "facts": facts_of(picture),
            "runbook": report(planned.findings, shown, complete=True),
        })

    result = carried_out(module, look, dict)
    module.exit_json(changed=bool(module.check_mode and result["plan"]), **result)


if __name__ == "__main__":
    main()
