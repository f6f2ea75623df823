# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Which process holds which file: what is deleted takes its space until the last of them lets go.

The kernel is asked by way of /proc/PID/fd, so a file is known by device and inode whatever its name says, in the mount
namespace of a container as well.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

DELETED = " (deleted)"


@dataclass(frozen=True)
class Holder:
    """One open file of one process; `process` is its short name, `path` the name it was opened by, `fd` its number there."""

    pid: int
    process: str
    fd: int
    path: str
    deleted: bool
    device: int
    inode: int
    size_bytes: int
    disk_bytes: int
    writes: bool
    appends: bool = False

    @property
    def memfd(self) -> bool:
        """Whether it never had a name in any folder."""
        return self.path.startswith(("/memfd:", "/SYSV", "/dev/zero", "/[aio]"))

    @property
    def through(self) -> str:
        """The name that leads to the very file, though it is deleted."""
        return f"/proc/{self.pid}/fd/{self.fd}"


@dataclass
class Look:
    """All that was seen; not `complete` where processes of others could not be looked into."""

    holders: list[Holder] = field(default_factory=list)
    complete: bool = True


def holders(wanted: Callable[[str], bool] | None = None, proc: Path = Path("/proc")) -> list[Holder]:
    """Return the regular files that processes have open, those that are `wanted` by their name; see `look`."""
    return look(wanted, proc).holders


def look(wanted: Callable[[str], bool] | None = None, proc: Path = Path("/proc")) -> Look:
    """Read once which regular files processes have open. A process that ends meanwhile is left out."""
    seen = Look(complete=os.geteuid() == 0)
    for pid in sorted(int(name) for name in os.listdir(proc) if name.isdigit()):
        try:
            numbers = sorted(int(name) for name in os.listdir(proc / str(pid) / "fd"))
        except PermissionError:
            # One that has ended and waits for its parent shows nothing, and holds nothing.
            seen.complete = seen.complete and _has_ended(proc, pid)
            continue
        except OSError:
            continue
        for number in numbers:
            try:
                found = _one(proc, pid, number, wanted)
            except PermissionError:
                seen.complete = False
            except (OSError, ValueError):
                continue
            else:
                seen.holders += [found] if found else []
    return seen


def _has_ended(proc: Path, pid: int) -> bool:
    try:
        state = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return not (proc / str(pid)).exists()
    return state.rpartition(")")[2].split()[:1] in (["Z"], ["X"])


def _one(proc: Path, pid: int, number: int, wanted: Callable[[str], bool] | None) -> Holder | None:
    place = f"{proc}/{pid}/fd/{number}"
    shown = os.readlink(place)
    if not shown.startswith("/"):
        return None  # a socket, a pipe or the like
    found = os.stat(place)
    if not stat.S_ISREG(found.st_mode):
        return None
    path, deleted = _name(shown, found)
    if wanted is not None and not wanted(path):
        return None
    flags = _flags(f"{proc}/{pid}/fdinfo/{number}")
    with open(f"{proc}/{pid}/comm", encoding="utf-8", errors="replace") as file:
        process = file.read().rstrip("\n")
    writes = flags & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR)
    return Holder(
        pid, process, number, path, deleted, found.st_dev, found.st_ino, found.st_size, found.st_blocks * 512, writes,
        bool(writes and flags & os.O_APPEND),
    )  # fmt: skip


def _name(shown: str, found: os.stat_result) -> tuple[str, bool]:
    """Return the name without what the kernel adds to a deleted one's, and whether the file has no name any more."""
    if not shown.endswith(DELETED):
        return shown, False
    with contextlib.suppress(OSError):
        named = os.lstat(shown)
        if (named.st_dev, named.st_ino) == (found.st_dev, found.st_ino):
            return shown, False  # somebody gave a file this very name
    # With a second hard link the file is still there: closing it would free nothing.
    return shown[: -len(DELETED)], found.st_nlink == 0


def _flags(path: str) -> int:
    with open(path, encoding="ascii") as file:
        for line in file:
            if line.startswith("flags:"):
                return int(line.split()[1], 8)
    raise ValueError(f"{path} has no flags")


def deleted_on(device: int, seen: Look) -> list[Holder]:
    """Return the deleted files on one file system, each once, the one that takes most first. A holder that writes is preferred."""
    chosen: dict[int, Holder] = {}
    for one in seen.holders:
        if one.deleted and one.device == device and not one.memfd:
            before = chosen.get(one.inode)
            if before is None or (one.writes and not before.writes):
                chosen[one.inode] = one
    return sorted(chosen.values(), key=lambda one: (-one.disk_bytes, one.path))


def writers(handle: int, proc: Path = Path("/proc")) -> str:
    """Return who has the open file `handle`, ours for reading, open for writing; "" where nobody has.

    The kernel grants a read lease only while there is no writer, in whatever namespace; where it knows no leases, or
    the file is another user's, /proc is looked through.
    """
    with contextlib.suppress(OSError):
        # A lease that somebody breaks sends a signal: this one is ignored where nobody asked for it, SIGIO would kill.
        fcntl.fcntl(handle, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return _writing(handle, proc) or "a process that cannot be seen from here"
    except OSError:
        return _writing(handle, proc)
    fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return ""


def _writing(handle: int, proc: Path) -> str:
    mine = os.fstat(handle)
    found = {
        f"{one.process} (pid {one.pid})"
        for one in holders(None, proc)
        if one.writes and (one.device, one.inode) == (mine.st_dev, mine.st_ino)
    }
    return ", ".join(sorted(found))
