#!/usr/bin/python
# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_logs
short_description: Make folders for logs in a sandbox, and wear its logs out
description:
  - Makes the folder of the archive. When the sandbox is to be worn, it adds what months without log management leave; a log of
    PostgreSQL that was never rotated, rotated ones that nobody archived, a file that nobody rotates, keys and addresses in the app's log,
    modes that are too wide, and a ballast and a cache for an emergency.
  - The keys are made up; none of them was ever valid.
options:
  layout: {description: What sandbox_layout_info decided, type: dict, required: true}
  worn: {description: Whether the logs are to need management of every kind, type: bool, default: false}
author: The LLM Cost Tracker runbooks authors
"""

EXAMPLES = r"""
- name: Ensure that logs are worn
  sandbox_logs:
    layout: "{{ __sandbox_layout }}"
    worn: true
"""

RETURN = r"""
worn: {description: What was added, type: list, elements: str, returned: always}
"""

import json
import os
import pwd
import time
from collections.abc import Iterable, Iterator
from typing import Callable

from ansible.module_utils.basic import AnsibleModule

DAY = 86400
MIB = 1024 * 1024
LIVE_BYTES = 24 * MIB
# Days since the rotation of each file that was left behind.
AGES = (3, 9, 16, 25, 40)


def moment(seconds: float, pattern: str = "%Y-%m-%d %H:%M:%S.000 UTC") -> str:
    return time.strftime(pattern, time.gmtime(seconds))


def server_lines(begin: float, size: int) -> Iterator[str]:
    """Yield lines as PostgreSQL writes them, `size` bytes in all, ten of them with an error."""
    written = number = 0
    while written < size:
        level, text = "LOG", f"duration: {1000 + number % 977}.{number % 1000:03} ms  execute <unnamed>: SELECT refresh_summary({number})"
        if number % 5000 == 4999:
            level, text = "ERROR", f"deadlock detected while waiting for relation {16384 + number % 7}"
        line = f"{moment(begin + number)} [{4000 + number % 9}] tracker@llm_metrics llm-cost-tracker {level}:  {text}\n"
        written += len(line)
        number += 1
        yield line


def app_lines(begin: float) -> Iterator[str]:
    """Yield lines as the app writes them; a few hold what must be in no log."""
    key = "-".join(["sk", "proj", "Tr4ck3r" + "Qw8eRt2yUi6oPa0sDf3gHj7kLz1xCv5b"])
    told = {
        120: ("WARNING", f"provider refused the request, Authorization: Bearer {key}"),
        480: ("ERROR", "cannot connect: postgresql://tracker:" + "n0t-my-passw0rd" + "@db.internal:5432/llm_metrics"),
        900: ("INFO", "budget alert sent to jane.doe@customer.example"),
    }
    for number in range(4000):
        level, message = told.get(number, ("INFO", f"recorded {number % 31} spans of trace {number * 7919 % 99991:032x}"))
        if number % 400 == 399:
            level, message = "ERROR", f"model price missing for gpt-{number % 3}, counted as zero"
        entry = {"timestamp": moment(begin + number, "%Y-%m-%dT%H:%M:%S.000+00:00"), "level": level, "logger": "llm_cost_tracker",
                 "message": message, "module": "store", "function": "record", "line": 88, "request_id": None, "user_id": None}  # fmt: skip
        yield json.dumps(entry) + "\n"


class Logs:
    """The logs of one sandbox."""

    def __init__(self, layout: dict) -> None:
        self.data_dir = layout["data_dir"]
        user = layout["os_user"]
        self.owner = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
        self.now = time.time()

    def path(self, *parts: str) -> str:
        return os.path.join(self.data_dir, *parts)

    def missing_folders(self) -> list[str]:
        return [path for name in ("log-archive", "cache") if not os.path.isdir(path := self.path(name))]

    def wear(self) -> dict[str, Callable[[], None]]:
        """Return what is to be added, by name: everything, if some of it was managed in the meantime."""
        live = self.path("postgresql-logs", "postgresql.log")
        if os.path.exists(self.path("ballast")) and os.path.exists(live) and os.path.getsize(live) > LIVE_BYTES:
            return {}
        return {
            "rotated files": self._rotated,
            "a log that was never rotated": self._live,
            "keys in a log": self._leaks,
            "a file of nobody": lambda: self._write("logs/profile.txt", [b"sample\n" * (MIB // 7)] * 3),
            "cache": lambda: self._write("cache/model-prices.json", [b"[]" * MIB] * 2),
            # The last one: what was not finished is begun anew.
            "ballast": lambda: self._write("ballast", [b"\0" * MIB] * 8),
        }

    def _rotated(self) -> None:
        for age in AGES:
            rotated = self.now - age * DAY
            name = f"postgresql-logs/postgresql.log-{moment(rotated, '%Y%m%d')}-{int(rotated)}"
            self._write(name, (line.encode() for line in server_lines(rotated - DAY, 2 * MIB)), rotated)

    def _live(self) -> None:
        """Add lines to the log that the server has open; it appends, as this does."""
        path = self.path("postgresql-logs", "postgresql.log")
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(server_lines(self.now - 30 * DAY, LIVE_BYTES))
        os.chown(path, self.owner.pw_uid, self.owner.pw_gid)

    def _leaks(self) -> None:
        lines = (line.encode() for line in app_lines(self.now - DAY))
        self._write("logs/llm-cost-tracker.log.1", lines, self.now - DAY / 2, 0o644)

    def _write(self, name: str, blocks: Iterable[bytes], mtime: float | None = None, mode: int = 0o600) -> None:
        path = self.path(name)
        with open(f"{path}.new", "wb") as file:
            os.fchmod(file.fileno(), mode)
            os.fchown(file.fileno(), self.owner.pw_uid, self.owner.pw_gid)
            for block in blocks:
                file.write(block)
        if mtime is not None:
            os.utime(f"{path}.new", (mtime, mtime))
        os.replace(f"{path}.new", path)


def main() -> None:
    module = AnsibleModule(
        argument_spec={"layout": {"type": "dict", "required": True}, "worn": {"type": "bool", "default": False}},
        supports_check_mode=True,
    )
    logs = Logs(module.params["layout"])
    folders = logs.missing_folders()
    due = logs.wear() if module.params["worn"] else {}
    if not module.check_mode:
        for path in folders:
            os.makedirs(path, mode=0o700)
        for make in due.values():
            make()
    module.exit_json(changed=bool(folders or due), worn=list(due))


if __name__ == "__main__":
    main()
