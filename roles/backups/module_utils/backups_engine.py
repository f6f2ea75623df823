# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""What the two engines for PostgreSQL have in common: their backups, their WAL, and what they must be able to do.

All times are seconds since 1970 (UTC), all sizes bytes. WAL files are named TTTTTTTTLLLLLLLLSSSSSSSS: timeline, log and
segment, https://www.postgresql.org/docs/15/continuous-archiving.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

WAL_NAME = re.compile(r"[0-9A-F]{24}")
FULL, DIFF, INCR, WAL = "full", "diff", "incr", "wal"


class EngineRefused(Exception):
    """The engine must not act; the text says what is wrong, what was seen and what to do."""


@dataclass(frozen=True)
class Backup:
    """One backup of the database in a repository. `needs` are the labels it cannot be restored without."""

    label: str
    kind: str
    started: float
    stopped: float
    lsn_start: str
    lsn_stop: str
    wal_start: str
    wal_stop: str
    bytes: int
    repository_bytes: int
    system_identifier: str
    server_major: int
    needs: tuple[str, ...] = ()
    error: bool = False


@dataclass(frozen=True)
class Archive:
    """The WAL files in a repository: whole ones, and those that are missing between them."""

    names: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    newest_at: float | None = None

    @property
    def newest(self) -> str:
        return max(self.names, default="")

    def gap_after(self, wal_start: str) -> str:
        """Return the first missing file on the timeline of `wal_start` that comes after it; empty if none is missing."""
        later = [gap for gap in self.gaps if gap[:8] == wal_start[:8] and gap >= wal_start]
        return min(later, default="")


@dataclass(frozen=True)
class Repository:
    """A repository as it was read. `state` is ready, absent (nothing was made yet), mismatch or error."""

    state: str
    message: str = ""
    backups: tuple[Backup, ...] = ()
    archive: Archive = field(default_factory=Archive)
    encrypted: bool = False
    local_path: str = ""
    version: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Server:
    """What of the live server an engine has to know."""

    system_identifier: str
    version_num: int
    data_dir: str
    wal_segment_bytes: int = 16 * 1024 * 1024
    tablespaces: tuple[str, ...] = ()
    summarizes_wal: bool = False

    @property
    def major(self) -> int:
        return self.version_num // 10000


class Engine(Protocol):
    """A driver: what the role needs of a tool that backs PostgreSQL up."""

    name: str

    def read(self, server: Server | None) -> Repository:
        """Return the repository as it is. Nothing is changed; what cannot be read is said in `message`."""

    def archive_command(self) -> str:
        """Return PostgreSQL's archive_command."""

    def restore_command(self, data_dir: Path) -> str:
        """Return PostgreSQL's restore_command for a server on `data_dir`."""

    def kinds(self, server: Server) -> tuple[str, ...]:
        """Return the kinds of backup that this engine can take of this server."""

    def prepare(self, server: Server) -> list[str]:
        """Make the repository usable, if it is not; return what was done. Raise EngineRefused if it belongs to others."""

    def backup(self, kind: str, server: Server) -> str:
        """Take a backup and return its label. A backup that fails or is killed leaves no label."""

    def verify(self, backups: Sequence[Backup]) -> dict[str, list[str]]:
        """Read every file of the repository; return what is wrong by label ("" is what all of them need)."""

    def manifest_sum(self, label: str) -> str:
        """Return the sha256 of the engine's own manifest of a backup; empty where `verify` needs no help to miss a change."""

    def receive(self, until_lsn: str) -> None:
        """Fetch the WAL up to `until_lsn`, the end of a WAL file, where the server does not hand it over."""

    def expire(self, keep: Sequence[Backup], gone: Sequence[Backup]) -> None:
        """Remove the backups `gone`, and the WAL that no backup in `keep` needs."""

    def restore(self, label: str, into: Path, repository: Repository) -> None:
        """Write the data directory of a backup into the empty folder `into`, without settings for recovery."""

    def leftovers(self, remove: bool) -> list[str]:
        """Return what killed runs left in the repository; remove it if asked to."""


def segment_number(name: str, segment_bytes: int) -> int:
    """Return the running number of a WAL file on its timeline."""
    return int(name[8:16], 16) * (0x100000000 // segment_bytes) + int(name[16:24], 16)


def segment_name(timeline: str, number: int, segment_bytes: int) -> str:
    """Return the name of the WAL file with this number; `timeline` is its first eight digits."""
    per_log = 0x100000000 // segment_bytes
    return f"{timeline}{number // per_log:08X}{number % per_log:08X}"


def wal_gaps(names: Iterable[str], segment_bytes: int, needed_from: str = "") -> tuple[str, ...]:
    """Return the WAL files that are missing between the first and the last of each timeline.

    What lies before `needed_from` on its timeline was expired, and is missed by nobody.
    """
    by_timeline: dict[str, set[int]] = {}
    for name in names:
        by_timeline.setdefault(name[:8], set()).add(segment_number(name, segment_bytes))
    missing: list[str] = []
    for timeline, numbers in sorted(by_timeline.items()):
        first = min(numbers)
        if needed_from[:8] == timeline:
            first = segment_number(needed_from, segment_bytes)
        absent = (n for n in range(first, max(numbers) + 1) if n not in numbers)
        missing += [segment_name(timeline, n, segment_bytes) for n in _at_most(absent, 1000)]
    return tuple(missing)


def _at_most(numbers: Iterable[int], count: int) -> Iterable[int]:
    for seen, number in enumerate(numbers):
        if seen == count:
            return
        yield number


def by_label(backups: Iterable[Backup]) -> dict[str, Backup]:
    """Return the backups by their label."""
    return {backup.label: backup for backup in backups}


def sound(backup: Backup, problems: dict[str, list[str]]) -> bool:
    """Return whether a backup, and all it needs, has nothing wrong with it."""
    names = (backup.label, *backup.needs, "")
    return not backup.error and not any(problems.get(name) for name in names)
