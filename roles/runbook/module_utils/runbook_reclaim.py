# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Space reclaimed in a safe order: the ballast file first, then caches that the inventory allows.

Each rung measures the file system again and stops when the target is reached. Nothing outside the named folders, on
another file system or behind a link is touched.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.runbook_result import human_bytes

# Folders whose loss is one: a typo in the inventory must not empty them.
FORBIDDEN = {"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/opt", "/proc", "/root", "/run", "/sbin", "/srv",
             "/sys", "/usr", "/var", "/var/lib", "/var/log", "/var/cache"}  # fmt: skip


def free_percent(path: str) -> float:
    """Return how many percent of the file system that holds `path` are free for its users."""
    found = os.statvfs(_existing(path))
    total = found.f_blocks - found.f_bfree + found.f_bavail
    return 100.0 * found.f_bavail / total if total else 0.0


def _existing(path: str) -> Path:
    place = Path(path)
    while not place.exists():
        place = place.parent
    return place


def faults(ballast: str | None, caches: Sequence[str]) -> list[str]:
    """Return what is wrong with the inputs; nothing is touched while there is something."""
    told = []
    for path in [*([ballast] if ballast else []), *caches]:
        clean = "/" + os.path.normpath(path).lstrip("/")  # POSIX lets two slashes at the start be
        if not os.path.isabs(path) or clean in FORBIDDEN or clean.count("/") < 2:
            told.append(f"{path!r} must be an absolute path at least two folders deep that holds nothing else")
    return told


def reclaim(filesystem: str, target_percent: float, ballast: str | None, caches: Sequence[str]) -> list[dict[str, Any]]:
    """Free space until `target_percent` of the file system at `filesystem` are free.

    Return one entry per rung that freed something: rung, path, freed_bytes. Raise ValueError for dangerous inputs.
    """
    if told := faults(ballast, caches):
        raise ValueError("; ".join(told))
    device = _existing(filesystem).stat().st_dev
    done = []
    for rung, path in [("ballast", ballast), *(("cache", cache) for cache in caches)]:
        if free_percent(filesystem) >= target_percent:
            break
        if not path or not os.path.lexists(path) or os.path.islink(path) or os.stat(path).st_dev != device:
            continue
        freed = _remove_file(path) if rung == "ballast" else _empty(path, device)
        if freed:
            done.append({"rung": rung, "path": path, "freed_bytes": freed})
    return done


def _remove_file(path: str) -> int:
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        return 0
    os.unlink(path)
    return found.st_blocks * 512


def _empty(folder: str, device: int) -> int:
    freed = 0
    for path, found in cached_files(folder, device):
        try:
            os.unlink(path)
            freed += found.st_blocks * 512
        except OSError:
            continue  # somebody else removed it, or keeps it; what counts is what the file system says after this
    return freed


def cached_files(folder: str, device: int) -> Iterator[tuple[str, os.stat_result]]:
    """Yield what may be removed of a cache: regular files with one name on its own file system, behind no link."""
    for place, folders, files in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if os.lstat(os.path.join(place, name)).st_dev == device]
        for name in files:
            path = os.path.join(place, name)
            found = os.lstat(path)
            # A file in use by its cache (a lock) is small; what takes space is regular and has one name.
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and name != "lock":
                yield path, found


def told(done: Sequence[dict[str, Any]]) -> str:
    return (
        ", ".join(f"{human_bytes(one['freed_bytes'])} from {one['path']}" for one in done)
        or "nothing was there to free"
    )
