# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""The journal, vacuumed down to a floor of days and of bytes, both of which hold.

journalctl removes an archived file when its first entry is too old, whatever else is in it, and with --vacuum-size it
knows no age. So the moment given to it is computed from the first and last entry of each file.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ansible.module_utils.runbook_tools import Tools

DEFAULT_DIR = "/var/log/journal"
DAY = 86400.0
# Time passes between our look and journalctl's; a younger file must not come into its reach by that.
SLACK_SECONDS = 600
# struct Header in systemd's journal-def.h, part of its documented file format.
MAGIC, ENTRY_TIMES_AT, HEADER_BYTES = b"LPKSHHRH", 184, 200


@dataclass(frozen=True)
class JournalFile:
    """One file: times of its first and last entry in seconds since 1970. An active one is still written to."""

    path: str
    first_at: float
    last_at: float
    disk_bytes: int
    active: bool


@dataclass(frozen=True)
class Vacuum:
    """What may go: archived files that begin before `before`; `rotate` where an active file is that old."""

    before: float
    freed_bytes: int
    files: int
    rotate: bool


def journal_files(folder: str) -> list[JournalFile]:
    """Return the files of a journal, oldest first."""
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            if name.endswith((".journal", ".journal~")):
                with contextlib.suppress(OSError):
                    found.append(_file(os.path.join(place, name)))
    return sorted(found, key=lambda one: (one.first_at, one.path))


def _file(path: str) -> JournalFile:
    seen = os.stat(path)
    with open(path, "rb") as file:
        header = file.read(HEADER_BYTES)
    first, last = 0, int(seen.st_mtime * 1e6)  # one that cannot be read may begin at any time
    if len(header) == HEADER_BYTES and header.startswith(MAGIC):
        times = struct.unpack_from("<QQ", header, ENTRY_TIMES_AT)
        first, last = times if times[0] else (last, last)  # no entry yet
    active = "@" not in os.path.basename(path) and not path.endswith("~")
    return JournalFile(path, first / 1e6, last / 1e6, seen.st_blocks * 512, active)


def plan_vacuum(
    files: Sequence[JournalFile], keep_days: float, keep_bytes: int, now: float, may_rotate: bool
) -> Vacuum | None:
    """Return what may go so that `keep_days` and `keep_bytes` are both left; None where nothing may.

    An active file counts as young, unless it may be rotated and has nothing young in it.
    """
    oldest = now - keep_days * DAY
    left = sum(one.disk_bytes for one in files)
    going: list[JournalFile] = []
    before = oldest
    for one in files:
        # What begins after this one might be reached with it.
        young = one.last_at >= oldest or (one.active and not may_rotate)
        if young or left - one.disk_bytes < keep_bytes:
            before = min(before, one.first_at)
            break
        going.append(one)
        left -= one.disk_bytes
    before -= SLACK_SECONDS
    going = [one for one in going if one.first_at < before]
    if not going:
        return None
    return Vacuum(before, sum(one.disk_bytes for one in going), len(going), any(one.active for one in going))


def vacuum(tools: Tools, folder: str, planned: Vacuum, now: float) -> str:
    """Have journalctl remove it; return what it said. Raise ToolError where it failed."""
    words = [] if folder == DEFAULT_DIR else [f"--directory={folder}"]
    if planned.rotate:
        tools.run(["journalctl", "--rotate"], limit_seconds=60)
    seconds = int(now - planned.before) + 1
    done = tools.run(["journalctl", *words, f"--vacuum-time={seconds}s"], limit_seconds=120)
    return (done.err + done.out).strip().splitlines()[-1] if (done.err + done.out).strip() else ""
