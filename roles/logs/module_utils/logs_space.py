# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""What a file system has left, and why: told apart are full, out of inodes, held by deleted files, reserved, read-only."""

from __future__ import annotations

import heapq
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.logs_holders import Holder
from ansible.module_utils.runbook_result import finding, human_bytes

MEMORY = ("tmpfs", "ramfs", "devtmpfs")
# Below this share of what is used, deleted files are not the reason.
DELETED_MATTERS = 0.1
# Folders that only a person empties, by a name in them or their own.
FOR_A_PERSON = {"pg_wal": "PostgreSQL's WAL", "pg_xlog": "PostgreSQL's WAL", "chunks_head": "Prometheus"}


@dataclass(frozen=True)
class Space:
    """One file system now: free is what its users get, `root_free_bytes` what root gets; `inodes` is 0 where none are counted."""

    path: str
    device: int
    total_bytes: int
    free_bytes: int
    root_free_bytes: int
    inodes: int
    inodes_free: int
    read_only: bool

    @property
    def free_percent(self) -> float:
        return 100.0 * self.free_bytes / self.total_bytes if self.total_bytes else 0.0

    @property
    def inodes_free_percent(self) -> float:
        return 100.0 * self.inodes_free / self.inodes if self.inodes else 100.0

    @property
    def reserved_bytes(self) -> int:
        return self.root_free_bytes - self.free_bytes


def measure(path: str, statvfs: Callable[[str], Any] = os.statvfs) -> Space:
    """Measure the file system that holds `path`, or its nearest folder that is there."""
    while not os.path.exists(path):
        path = os.path.dirname(path) or "/"
    found = statvfs(path)
    size = found.f_frsize
    # As df does it: what is reserved for root is neither used nor free.
    total = (found.f_blocks - found.f_bfree + found.f_bavail) * size
    return Space(path, os.stat(path).st_dev, total, found.f_bavail * size, found.f_bfree * size, found.f_files, found.f_favail,
                 bool(found.f_flag & os.ST_RDONLY))  # fmt: skip


@dataclass(frozen=True)
class Mount:
    """One place where a file system is seen; `root` is the folder of it that is seen there."""

    place: str
    root: str
    kind: str
    device: int


def mounts(text: str) -> list[Mount]:
    """Return the mounts that /proc/self/mountinfo tells of."""
    found = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        words = left.split()
        major, minor = words[2].split(":")
        place, root = (_unescaped(word) for word in (words[4], words[3]))
        found.append(Mount(place, root, right.split()[0], os.makedev(int(major), int(minor))))
    return found


def _unescaped(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), word)


def mounts_here() -> list[Mount]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return mounts(file.read())


def in_memory(path: str, seen: Iterable[Mount]) -> bool:
    """Return whether a folder is lost with the next boot."""
    device = os.stat(path).st_dev
    return any(mount.device == device and mount.kind in MEMORY for mount in seen)


def mount_of(path: str, seen: Iterable[Mount]) -> str:
    """Return where the file system that holds a path is mounted; of two mounts at one place the later one is on top."""
    best = "/"
    for mount in seen:
        inside = path == mount.place or path.startswith(f"{mount.place.rstrip('/')}/")
        best = mount.place if inside and len(mount.place) >= len(best) else best
    return best


def places_of(device: int, path: str, seen: Iterable[Mount]) -> list[str]:
    """Return the folders from which all of a file system is seen: its root, or all parts of it that are mounted."""
    here = [mount for mount in seen if mount.device == device]
    whole = [mount.place for mount in here if mount.root == "/"]
    if whole or here:
        return whole[:1] or sorted({mount.place for mount in here})
    # btrfs and others have devices that mountinfo does not know.
    while path != "/" and os.stat(os.path.dirname(path)).st_dev == device:
        path = os.path.dirname(path)
    return [path]


@dataclass
class Survey:
    """What a walk over a file system found: largest files as (bytes, path), folders with most entries as (entries, path)."""

    files: list[tuple[int, str]] = field(default_factory=list)
    folders: list[tuple[int, str]] = field(default_factory=list)
    human_only: list[tuple[int, str, str]] = field(default_factory=list)
    used_bytes: int = 0
    entries: int = 0
    complete: bool = True


def survey(
    device: int,
    places: Sequence[str],
    limit_seconds: float = 10,
    clock: Callable[[], float] = time.monotonic,
    most: int = 20,
) -> Survey:
    """Walk over a file system for at most `limit_seconds`; a file with several names counts once."""
    seen, until = Survey(), clock() + limit_seconds
    counted: set[int] = set()
    waiting = [place for place in places if os.path.isdir(place)]
    visited: set[int] = set()
    while waiting:
        if clock() > until:
            seen.complete = False
            break
        folder = waiting.pop()
        try:
            inode = os.stat(folder).st_ino
            entries = list(os.scandir(folder))
        except OSError:
            continue
        if inode not in visited:
            visited.add(inode)
            waiting += _folder(folder, entries, device, seen, counted, most)
    seen.files.sort(reverse=True)
    seen.folders.sort(reverse=True)
    return seen


def _folder(
    folder: str, entries: list[os.DirEntry[str]], device: int, seen: Survey, counted: set[int], most: int
) -> list[str]:
    """Add one folder to what was seen; return the folders in it."""
    deeper, held = [], 0
    for entry in entries:
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        if found.st_dev != device:
            continue
        if entry.is_dir(follow_symlinks=False):
            deeper.append(entry.path)
        if found.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
            if found.st_ino in counted:
                continue
            counted.add(found.st_ino)
        disk = found.st_blocks * 512
        held += disk
        if stat.S_ISREG(found.st_mode) and disk:
            _keep_most(seen.files, (disk, entry.path), most)
    seen.used_bytes += held
    seen.entries += len(entries)
    _keep_most(seen.folders, (len(entries), folder), most // 2)
    name = os.path.basename(folder)
    if name in FOR_A_PERSON:
        place = folder if name.startswith("pg_") else os.path.dirname(folder)
        seen.human_only.append((held, place, FOR_A_PERSON[name]))
    return deeper


def _keep_most(heap: list[tuple[int, str]], item: tuple[int, str], most: int) -> None:
    if len(heap) < most:
        heapq.heappush(heap, item)
    else:
        heapq.heappushpop(heap, item)


def causes(space: Space, seen: Survey, deleted: Sequence[Holder], target_percent: float) -> list[dict[str, Any]]:
    """Return what explains that a file system is full, where it is not simply that much was written."""
    found = []
    if space.inodes_free_percent < target_percent and space.free_percent >= target_percent:
        most = ", ".join(f"{path} ({count})" for count, path in seen.folders[:5])
        found.append(finding("inodes-exhausted", "There is room, but no inodes are left for new files", subject=space.path,
                             observed=f"{space.inodes_free} of {space.inodes} inodes free; most entries: {most}",
                             expected=f"{target_percent:g} %", severity="critical",
                             remedy="Many small files take them: find who writes them in the folders named"))  # fmt: skip
    held = sum(one.disk_bytes for one in deleted)
    used = space.total_bytes - space.free_bytes
    if held > DELETED_MATTERS * used:
        whom = ", ".join(
            f"{one.process} (pid {one.pid}) {one.path} {human_bytes(one.disk_bytes)}" for one in deleted[:5]
        )
        found.append(finding("deleted-open", "Deleted files that are still open take space that du does not show", subject=space.path,
                             observed=f"{human_bytes(held)}: {whom}", severity="warning",
                             remedy="Have the process open its log anew (reload), or restart it"))  # fmt: skip
    if space.free_bytes == 0 and space.root_free_bytes > 0:
        found.append(finding("reserved-blocks", "Users get no space, root still does: the rest is reserved", subject=space.path,
                             observed=f"{human_bytes(space.reserved_bytes)} reserved", severity="info",
                             remedy="tune2fs -m 1 lowers it on a data disk; keep it on that of the system"))  # fmt: skip
    return found
