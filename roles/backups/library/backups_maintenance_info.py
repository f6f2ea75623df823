#!/usr/bin/python
# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r"""
module: backups_maintenance_info
short_description: Read what is due of a tracker's backups
description:
  - Reads server, repositories, sets and drills, verifies what has to be verified, and decides what is due and why.
  - A backup that exists but does not verify counts as none. Nothing is changed but the memory of what was verified.
options:
  purpose: {description: Whether this is the first look of a run or the last one, type: str, choices: [plan, verify], default: plan}
  connection: {description: How to reach the server; database, host, port, user, password, os_user, bin_dir and psql, type: dict, required: true}
  limits: {description: What must be true; names are those of the role's inputs without backups_, type: dict, default: {}}
  state_dir: {description: Folder of memory, manifests and evidence, type: path, required: true}
  engine: {description: pgbackrest or basebackup, type: str, required: true, choices: [pgbackrest, basebackup]}
  repository: {description: Folder of the repository of the database, type: path, required: true}
  repository_local: {description: Whether it is on this host, type: bool, default: true}
  stanza: {description: Stanza of pgbackrest, type: str, required: true}
  config: {description: Configuration file of pgbackrest, type: path, required: true}
  config_text: {description: What it has to say; @DATA_DIR@ and @CORES@ are replaced by those of the host, type: str, default: ""}
  wal_method: {description: archive or receive, type: str, choices: [archive, receive], default: archive}
  files_repository: {description: Location of the repository of files, type: str, required: true}
  files_environment: {description: Variables that restic needs, type: dict, default: {}}
  files_options: {description: Extended options of restic, type: list, elements: str, default: []}
  files_cacert: {description: Certificate of the authority of its server, type: path}
  passphrase: {description: Passphrase of both repositories, type: str, required: true}
  passphrase_kept_at: {description: Where else it is kept, type: str, default: ""}
  append_only: {description: Whether backups cannot be deleted from here, type: bool, default: false}
  nice: {description: Politeness of backups, type: int, default: 10}
  upload_limit_kib: {description: KiB a second, type: int}
  scratch_dir: {description: Folder for drills and copies, type: path, required: true}
  manage_packages: {description: Whether programs may be installed, type: bool, default: true}
  manage_archiving: {description: Whether the server's archiving may be set, type: bool, default: true}
  takeover: {description: Whether the archive_command of others may be replaced, type: bool, default: false}
  restart_allowed: {description: Whether the server may be restarted, type: bool, default: false}
  archive_timeout_seconds: {description: The server's archive_timeout at most, type: int, default: 60}
  wal_wait_seconds: {description: How long to wait for WAL in the repository, type: int, default: 300}
  count_seconds: {description: How long counting one table may take, type: int, default: 300}
  recovery_limit_seconds: {description: How long a recovery may take, type: int, default: 14400}
  amcheck: {description: Whether drills check indexes against tables, type: bool, default: true}
  check_parts: {description: Parts of restic's data of which one is read, type: int, default: 7}
  lock_age_seconds: {description: Age from which on a lock is looked into, type: int, default: 1800}
  redis: {description: How to reach the cache, type: dict}
  grafana_database: {description: Grafana's SQLite file, type: path}
  files: {description: Files of a set, type: list, elements: dict, default: []}
  costs: {description: Tables compared by cost per day, type: list, elements: dict, default: []}
  components: {description: The inventory's tracker_components, type: dict, default: {}}
  parts: {description: The inventory's tracker_parts of this host, type: list, elements: str, default: []}
author: The LLM Cost Tracker runbooks authors
"""

EXAMPLES = r"""
- name: Read what is due
  backups_maintenance_info:
    connection: {database: llm_metrics, os_user: postgres}
    state_dir: /var/lib/runbooks
    engine: pgbackrest
    repository: /mnt/backups/postgresql
    stanza: main
    config: /etc/pgbackrest/llm-cost-tracker.conf
    files_repository: /mnt/backups/files
    passphrase: "{{ vault_backups_passphrase }}"
    scratch_dir: /var/lib/runbooks/scratch
"""

RETURN = r"""
plan: {description: Actions that are due, in their order, type: list, elements: dict, returned: always}
missing: {description: Programs that have to be installed, type: list, elements: str, returned: always}
facts: {description: Sets that are kept, what the last drill measured, space, type: dict, returned: always}
runbook: {description: Findings, and in check mode the plan as actions, type: dict, returned: always}
"""

from ansible.module_utils.backups_arguments import ARGUMENTS, carried_out, job_from
from ansible.module_utils.backups_facts import facts_of
from ansible.module_utils.backups_planner import plan
from ansible.module_utils.backups_survey import Surveyor
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.runbook_result import report


def plan_lines(actions: list) -> str:
    """Return the plan as lines of text, for --diff."""
    return "".join(f"{a['step']}: {a['subject']}: {a['reason']}\n" for a in actions)


def main() -> None:
    purpose = {"type": "str", "choices": ["plan", "verify"], "default": "plan"}
    module = AnsibleModule(argument_spec={**ARGUMENTS, "purpose": purpose}, supports_check_mode=True)

    def look() -> dict:
        job = job_from(module.params)
        picture = Surveyor(job).look(write=not module.check_mode)
        planned = plan(picture, job.limits)
        shown = planned.actions if module.check_mode else []
        return {
            "diff": {"before_header": "due", "after_header": "planned", "before": "", "after": plan_lines(planned.actions)},
            "plan": [] if planned.blocked else planned.actions,
            "missing": list(picture.missing),
            "facts": facts_of(picture),
            "runbook": report(planned.findings, shown, complete=True),
        }

    result = carried_out(module, look, dict)
    module.exit_json(changed=bool(module.check_mode and result["plan"]), **result)


if __name__ == "__main__":
    main()
