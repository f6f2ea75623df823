#!/usr/bin/python
# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r"""
module: logs_reclaim
short_description: Free space on a full file system in a safe order
description:
  - Climbs a ladder of rungs, what is lost least first, measures again after everything it does, and stops at the target.
  - The ballast file, caches, compression of rotated logs, the journal, rotated logs past their retention after archive and
    verification, deleted files that are still open, dangling images. Data of databases is never touched.
  - A picture of the host is kept on another file system before anything is freed; without a place for it nothing is done.
  - In check mode nothing is touched, and the plan with the bytes of each thing is reported.
options:
  filesystems: {description: Paths whose file systems are freed, type: list, elements: path, required: true}
  target_percent: {description: Free space in percent that is to be reached, in bytes and in inodes, type: float, required: true}
  host: {description: Name of the host in the inventory; confirmations begin with it, type: str, default: ""}
  state_dir: {description: Folder of the state of the runbooks; it is never touched, type: path, required: true}
  evidence_dirs: {description: Folders on other disks for the picture of before and copies that wait, type: list, elements: path, default: []}
  ballast_file: {description: File that is deleted first, type: path}
  caches: {description: Folders whose content can be fetched again, type: list, elements: path, default: []}
  policies:
    description: Policies of logs
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Name of the policy, type: str, required: true}
      paths: {description: Globs of its live files, type: list, elements: str, required: true}
      keep_days: {description: Days that its lines stay at least, here or archived, type: float}
      max_days: {description: Days that its lines stay at most, type: float}
      archive: {description: Whether files are archived before they are deleted, type: bool, default: false}
      reopen: {description: Command that makes the writer open its file anew, type: list, elements: str}
  protected_paths: {description: Folders that no rung touches, type: list, elements: path, default: []}
  journal_dir: {description: Folder of the journal, type: path, default: /var/log/journal}
  journal_keep_days: {description: Days of the journal that stay in any case; without it the journal is left, type: float}
  journal_keep_bytes: {description: Bytes of the journal that stay in any case, type: int, default: 0}
  copy_deleted: {description: Whether deleted files of no policy are copied to the evidence too before they are emptied, type: bool, default: true}
  docker: {description: Whether dangling images may be looked for, type: bool, default: true}
  archive_after_days: {description: Age in days from which on rotated files may be archived and deleted, type: float, default: 7}
  archive_location: {description: Folder of the archive, or a restic repository, type: str}
  archive_host: {description: Name of the host in the archive, type: str, default: ""}
  archive_passphrase: {description: Passphrase of a restic repository, type: str}
  archive_environment: {description: Variables that restic needs, type: dict, default: {}}
  archive_options: {description: Extended options of restic, type: list, elements: str, default: []}
  archive_redact: {description: Whether secrets are masked in archived copies, type: bool, default: false}
  hold: {description: Whether deletions of logs are on hold, type: bool, default: false}
  hold_file: {description: File that puts deletions on hold while it is there; its content is the reason, type: path}
  confirm:
    description: What a person confirmed; C(HOST/deleted-files) empties deleted files that are open, C(HOST/images) removes dangling images
    type: list
    elements: str
    default: []
  run_id: {description: Identity of the run, type: str, required: true}
  owner: {description: Who runs it, as user@host, type: str, required: true}
  leases: {description: Resources of the run, type: list, elements: str, default: []}
  lease_seconds: {description: Time after which a lease that is not renewed lapses, type: int, default: 300}
author: The LLM Cost Tracker runbooks authors
"""

EXAMPLES = r"""
- name: Free a fifth of the disk of logs
  logs_reclaim:
    filesystems: [/var/log]
    target_percent: 20
    host: app1
    state_dir: /var/lib/runbooks
    evidence_dirs: [/srv/evidence]
    ballast_file: /var/log/ballast
    caches: [/var/cache/apt/archives]
    policies:
      - {name: app, paths: ["/opt/llm-cost-tracker/logs/*.log"], keep_days: 30, archive: true}
      - {name: nginx, paths: ["/var/log/nginx/*.log"], keep_days: 14, max_days: 90, reopen: [nginx, -s, reopen]}
    archive_location: /srv/archive
    journal_keep_days: 14
    run_id: 01J8Z3
    owner: ops@laptop
"""

RETURN = r"""
facts:
  description: C(reclaimed) has the rungs with freed_bytes and free_percent, C(space) the file systems, C(evidence) the folders of the picture
  returned: always
  type: dict
runbook: {description: Actions with the free bytes before and after, and findings, type: dict, returned: always}
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.logs_archive import hold
from ansible.module_utils.logs_arguments import ARCHIVE_ARGUMENTS, BadInput, archive_from, carried_out, redact_from
from ansible.module_utils.logs_files import printable
from ansible.module_utils.logs_reclaim import Ladder, LogPolicy, Reclaim, ReclaimRefused, ladders
from ansible.module_utils.runbook_lease import RENEWED_ARGUMENTS, renewed
from ansible.module_utils.runbook_result import report

ARGUMENTS: dict[str, Any] = {
    "filesystems": {"type": "list", "elements": "path", "required": True},
    "target_percent": {"type": "float", "required": True},
    "host": {"type": "str", "default": ""},
    "state_dir": {"type": "path", "required": True},
    "evidence_dirs": {"type": "list", "elements": "path", "default": []},
    "ballast_file": {"type": "path"},
    "caches": {"type": "list", "elements": "path", "default": []},
    "policies": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "paths": {"type": "list", "elements": "str", "required": True},
            "keep_days": {"type": "float"},
            "max_days": {"type": "float"},
            "archive": {"type": "bool", "default": False},
            "reopen": {"type": "list", "elements": "str"},
        },
    },
    "protected_paths": {"type": "list", "elements": "path", "default": []},
    "journal_dir": {"type": "path", "default": "/var/log/journal"},
    "journal_keep_days": {"type": "float"},
    "journal_keep_bytes": {"type": "int", "default": 0},
    "copy_deleted": {"type": "bool", "default": True},
    "docker": {"type": "bool", "default": True},
    "archive_after_days": {"type": "float", "default": 7},
    **ARCHIVE_ARGUMENTS,
    "confirm": {"type": "list", "elements": "str", "default": []},
}
SAME = ("target_percent", "host", "state_dir", "journal_dir", "journal_keep_days", "journal_keep_bytes", "copy_deleted",
        "docker", "archive_after_days", "run_id")  # fmt: skip
LISTS = ("filesystems", "evidence_dirs", "caches", "confirm")


def reclaim_from(params: dict) -> Reclaim:
    policies = tuple(
        LogPolicy(**{**row, "paths": tuple(row["paths"]), "reopen": tuple(row["reopen"]) if row["reopen"] else None})
        for row in params["policies"]
    )
    return Reclaim(
        **{name: params[name] for name in SAME},
        **{name: tuple(params[name]) for name in LISTS},
        who=params["owner"],
        ballast_file=params["ballast_file"] or None,
        protected=tuple(params["protected_paths"]),
        policies=policies,
        archive=archive_from(params),
        redact=redact_from(params),
        hold=hold(params["hold"], params["hold_file"]),
    )


def main() -> None:
    module = AnsibleModule(argument_spec={**ARGUMENTS, **RENEWED_ARGUMENTS}, supports_check_mode=True)
    given = module.params
    made: list[Ladder] = []
    planned: list[dict] = []

    def told() -> dict:
        return {
            "findings": [found for ladder in made for found in ladder.findings],
            "actions": planned + [done for ladder in made for done in ladder.actions],
        }

    def act() -> None:
        try:
            made.extend(ladders(reclaim_from(given)))
            if module.check_mode:
                planned.extend(one for ladder in made for one in ladder.plan())
                return
            purpose = "log-management"
            with renewed(
                Path(given["state_dir"]),
                given["leases"],
                given["run_id"],
                given["owner"],
                purpose,
                given["lease_seconds"],
            ):
                for ladder in made:
                    ladder.run()
        except ReclaimRefused as error:
            raise BadInput(str(error)) from error

    carried_out(module, act, told)
    spaces = [(ladder.filesystem, ladder.space()) for ladder in made]
    facts = {
        "reclaimed": [one for ladder in made for one in ladder.reclaimed],
        "space": [
            {"name": path, "free_bytes": space.free_bytes, "free_percent": round(space.free_percent, 1)}
            for path, space in spaces
        ],
        "evidence": [str(ladder.bundle) for ladder in made if ladder.bundle],
    }
    done = told()
    changed = any(one["result"] in ("done", "planned") for one in done["actions"])
    module.exit_json(changed=changed, **printable({"facts": facts, "runbook": report(done["findings"], done["actions"])}))


if __name__ == "__main__":
    main()
