# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Log files and their rotated ones, told apart by their names.

Rotated: what an application names `app.log.3`, logrotate `app.log-20260301`, `app.log-2026030114`, `app.log-20260301-1772323200`
or `app.log.2.gz`, each with or without the suffix of a compressor.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

SUFFIXES = (".gz", ".zst", ".xz", ".bz2")
_ROTATED = re.compile(r"(?P<live>.+?)(?:[.-]\d{8}(?:\d{2})?(?:-\d{9,11})?|\.\d{1,4}|\.old)(?:\.gz|\.zst|\.xz|\.bz2)?")


@dataclass(frozen=True)
class LogFile:
    """One file: `size` as it is read, `disk` bytes that it takes, `mtime` in seconds since 1970."""

    path: str
    size: int
    disk: int
    mtime: float
    device: int
    inode: int
    uid: int
    gid: int
    mode: int

    @property
    def compressed(self) -> bool:
        return self.path.endswith(SUFFIXES)


def live_name(path: str) -> str:
    """Return the name of the live file that `path` was rotated from, or "" where it is no rotated file's name."""
    folder, name = os.path.split(path)
    found = _ROTATED.fullmatch(name)
    return os.path.join(folder, found["live"]) if found else ""


def is_rotated(path: str) -> bool:
    return bool(live_name(path))


def look_at(path: str) -> LogFile | None:
    """Return what is there, or None where it is no regular file of its own (a link, a folder, nothing)."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return LogFile(
        path, found.st_size, found.st_blocks * 512, found.st_mtime, found.st_dev, found.st_ino, found.st_uid,
        found.st_gid, stat.S_IMODE(found.st_mode),
    )  # fmt: skip


def live_files(patterns: Iterable[str]) -> list[LogFile]:
    """Return the files that the globs match, without rotated ones, each once, in the order of their names."""
    paths = {path for pattern in patterns for path in glob.glob(pattern) if not is_rotated(path)}
    return [file for path in sorted(paths) if (file := look_at(path))]


def rotated_of(path: str) -> list[LogFile]:
    """Return the rotated files of the live file `path`, which need not be there itself; the oldest comes first."""
    found = [
        file for each in _names(os.path.dirname(path) or ".") if live_name(each) == path and (file := look_at(each))
    ]
    return sorted(found, key=lambda file: (file.mtime, file.path))


def rotated_files(patterns: Iterable[str]) -> list[LogFile]:
    """Return the rotated files of all live files that the globs match or once matched, oldest first."""
    patterns = list(patterns)
    lives = {file.path for file in live_files(patterns)}
    for pattern in patterns:
        # The live file may be gone while what was rotated from it is still there.
        for path in glob.glob(pattern + "[.-]*"):
            if live := live_name(path):
                lives.add(live)
    # Each folder once, not once for each of its files, of which there may be thousands.
    folders = {os.path.dirname(live) or "." for live in lives}
    found = [
        file for folder in folders for path in _names(folder) if live_name(path) in lives and (file := look_at(path))
    ]
    return sorted(found, key=lambda file: (file.mtime, file.path))


def _names(folder: str) -> list[str]:
    try:
        return [os.path.join(folder, name) for name in os.listdir(folder)]
    except OSError:
        return []


def printable(value: Any) -> Any:
    """Return a result with the bytes of names that are no UTF-8 written as \\xNN: Ansible refuses a result that has them as they are."""
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", lambda m: f"\\x{ord(m[0]) & 0xFF:02x}", value)
    if isinstance(value, dict):
        return {printable(name): printable(each) for name, each in value.items()}
    return [printable(each) for each in value] if isinstance(value, (list, tuple)) else value
