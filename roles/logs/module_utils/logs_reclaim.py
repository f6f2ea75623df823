# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Space reclaimed in a safe order: what is lost least goes first, each rung measures again and stops at the target.

Before anything is freed, a picture of the host is kept on another disk. Data of databases is never touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import fnmatch
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from ansible.module_utils.logs_archive import (
    DAY,
    Archive,
    FolderArchive,
    archive_and_remove,
    cannot,
    place_faults,
    same_file,
)
from ansible.module_utils.logs_compress import Stays, compress, estimate_packed, finish_pending, remove_unfinished
from ansible.module_utils.logs_files import LogFile, live_name, rotated_files
from ansible.module_utils.logs_holders import Holder, Look, deleted_on, look, writers
from ansible.module_utils.logs_journal import DEFAULT_DIR, journal_files, plan_vacuum, vacuum
from ansible.module_utils.logs_packing import BLOCK, ArchiveError, Redact, opened
from ansible.module_utils.logs_space import (
    Mount,
    Space,
    Survey,
    causes,
    in_memory,
    measure,
    mounts_here,
    places_of,
    survey,
)
from ansible.module_utils.runbook_evidence import keep
from ansible.module_utils.runbook_reclaim import cached_files, faults
from ansible.module_utils.runbook_result import action, finding, human_bytes
from ansible.module_utils.runbook_state import StateError, ensure_folder, ensure_spare, spare, sync_folder
from ansible.module_utils.runbook_tools import ToolError, Tools

EVIDENCE_ROOM_BYTES = 16 << 20
# What is smaller gives nothing back: a file takes at least one block, compressed or not.
WORTH_BYTES = 8192
REOPEN_SECONDS = 5.0
PUNCH_HOLE, KEEP_SIZE = 0x02, 0x01
DATA_PROCESSES = (
    "postgres",
    "postmaster",
    "redis-server",
    "valkey-server",
    "mysqld",
    "mariadbd",
    "prometheus",
    "grafana",
)
VOLUMES = ("/var/lib/docker/volumes", "/var/lib/containers/storage/volumes")
IMAGE_UNITS = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class ReclaimRefused(Exception):
    """Nothing was freed, because it could not be done safely; the text says why and what to do."""


@dataclass(frozen=True)
class LogPolicy:
    """One policy: its lines stay `keep_days` at least, here or archived, and `max_days` at most; `reopen` makes its writer
    open its file anew."""

    name: str
    paths: tuple[str, ...]
    keep_days: float | None = None
    max_days: float | None = None
    archive: bool = False
    reopen: tuple[str, ...] | None = None

    def due_days(self, archive_after_days: float) -> float | None:
        """Return the age from which on a rotated file may go from this host; None: never. Archived, its lines stay."""
        if not self.archive:
            return self.max_days
        return archive_after_days if self.max_days is None else min(archive_after_days, self.max_days)

    def owns(self, path: str) -> bool:
        """Return whether a file is one of its logs, live or rotated."""
        names = {path, live_name(path)}
        return any(_matches(name, pattern) for name in names for pattern in self.paths if name)


def _matches(path: str, pattern: str) -> bool:
    """Return whether a glob means this path, which may be gone: a star does not reach into other folders."""
    names, wanted = path.split("/"), pattern.split("/")
    return len(names) == len(wanted) and all(fnmatch.fnmatchcase(name, want) for name, want in zip(names, wanted))


@dataclass(frozen=True)
class Reclaim:
    """What is to be reached, what may be used for it, and what never. Sizes in bytes; `confirm` is what a person confirmed."""

    filesystems: tuple[str, ...]
    target_percent: float
    state_dir: str
    run_id: str
    who: str
    host: str = ""
    evidence_dirs: tuple[str, ...] = ()
    ballast_file: str | None = None
    caches: tuple[str, ...] = ()
    policies: tuple[LogPolicy, ...] = ()
    protected: tuple[str, ...] = ()
    archive: Archive | None = None
    archive_after_days: float = 7
    redact: Redact | None = None
    hold: str = ""
    journal_dir: str = DEFAULT_DIR
    journal_keep_days: float | None = None
    journal_keep_bytes: int = 0
    copy_deleted: bool = True
    docker: bool = True
    confirm: tuple[str, ...] = ()


def protected(path: str, given: Reclaim, there: Callable[[str], bool] = os.path.lexists) -> str:
    """Return why no rung may touch `path`; "" where one may."""
    if not path.startswith("/") or os.path.normpath(path) != path:
        return f"{path!r} is no absolute path without dots"
    own = [
        given.state_dir,
        *([given.archive.place] if given.archive and given.archive.place else ()),
        *given.evidence_dirs,
    ]
    for folder, reason in [*((f, "is in protected_paths") for f in given.protected), *((f, "is kept for good") for f in own),
                           *((f, "is a volume of a container") for f in VOLUMES)]:  # fmt: skip
        if path == folder.rstrip("/") or path.startswith(folder.rstrip("/") + "/"):
            return f"{path} {reason} ({folder})"
    return _data(path, there)


def _data(path: str, there: Callable[[str], bool]) -> str:
    *folders, name = path.split("/")
    for part in [*folders, name]:
        if part in ("pg_wal", "pg_xlog", "appendonlydir") or re.fullmatch(r"PG_\d+_\d+", part):
            return f"{path} is data of a database ({part})"
    if name.endswith((".rdb", ".aof")) or re.fullmatch(r"grafana\.db(?:-\w+)?", name):
        return f"{path} is data of a database"
    for count in range(len(folders), 1, -1):
        folder = "/".join(folders[:count])
        for mark in ("PG_VERSION", "chunks_head", "appendonlydir"):
            if there(f"{folder}/{mark}"):
                return f"{path} is below {folder}, which is data of a database ({mark} is in it)"
    return ""


@dataclass
class Item:
    """One thing that a rung would do: `act` does it and returns a detail, or raises Stays with the reason why not."""

    step: str
    subject: str
    reason: str
    freed_bytes: int
    act: Callable[[], str]
    kind: str = "change"
    freed_inodes: int = 0
    inodes: frozenset[int] = frozenset()


@dataclass
class Seen:
    """What was seen of a file system before anything was freed."""

    survey: Survey
    look: Look
    mounts: list[Mount] = field(default_factory=list)


class Ladder:
    """The rungs for one file system. `findings`, `actions` and `reclaimed` are filled while it runs."""

    def __init__(
        self,
        given: Reclaim,
        filesystem: str,
        tools: Tools | None = None,
        *,
        clock: Callable[[], float] = time.time,
        statvfs: Callable[[str], Any] = os.statvfs,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        if not 0 < given.target_percent <= 90:
            raise ReclaimRefused(
                f"target_percent is {given.target_percent:g}; it is the free space to be reached, from 1 to 90"
            )
        if told := faults(given.ballast_file, given.caches):
            raise ReclaimRefused("; ".join(told))
        self.given, self.filesystem, self.tools = given, filesystem, tools or Tools()
        self.clock, self._statvfs, self._pause = clock, statvfs, pause
        self.findings: list[dict[str, Any]] = []
        self.actions: list[dict[str, Any]] = []
        self.reclaimed: list[dict[str, Any]] = []
        self.bundle: Path | None = None
        self.device = self.space().device
        self._seen: Seen | None = None
        self._ballast_bytes = 0
        self._causes: list[dict[str, Any]] = []
        # In a plan, what a reopening is expected to free is not counted twice.
        self._expected: set[int] = set()

    # --- measuring ---

    def space(self) -> Space:
        return measure(self.filesystem, self._statvfs)

    def reached(self, space: Space) -> bool:
        return min(space.free_percent, space.inodes_free_percent) >= self.given.target_percent

    def helps(self, item: Item, space: Space) -> bool:
        """Return whether an item frees what is short: bytes, or inodes."""
        short = space.free_percent < self.given.target_percent
        return item.freed_bytes > 0 if short else item.freed_inodes > 0

    # --- running ---

    def rungs(self) -> list[tuple[str, Callable[[], list[Item]]]]:
        return [
            ("ballast", self._ballast), ("caches", self._caches), ("compress", self._compress), ("journal", self._journal),
            ("retention", self._retention), ("reopen", self._reopen), ("deleted-files", self._deleted), ("images", self._images),
        ]  # fmt: skip

    def plan(self) -> list[dict[str, Any]]:
        """Return what a run would do, with the bytes that each thing would free; nothing is touched."""
        space, planned = self.space(), []
        if self.reached(space):
            return []
        self._look(space)
        self._bundle_place(space)
        free, inodes = space.free_bytes, space.inodes_free
        for _, items in self.rungs():
            for item in items():
                now = replace(space, free_bytes=free, inodes_free=inodes)
                if self.reached(now):
                    return planned
                if self.helps(item, now):
                    self._expected |= item.inodes
                    planned.append(self._action(item, free, item.freed_bytes, "planned", f"about {human_bytes(item.freed_bytes)}"))
                    free, inodes = min(free + item.freed_bytes, space.total_bytes), inodes + item.freed_inodes
        return planned

    def run(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Free space until the target is reached. Raise ReclaimRefused where no picture of before can be kept elsewhere."""
        space = self.space()
        if self.reached(space):
            return self.findings, self.actions
        self._look(space)
        if space.read_only:
            return self.findings, self.actions
        self._snapshot(space)
        self._finish_earlier()
        for rung, items in self.rungs():
            before = self.space()
            if self.reached(before):
                break
            count = len(self.actions)
            for item in items():
                space = self.space()
                if self.reached(space):
                    break
                if self.helps(item, space):
                    self._carry_out(item, space.free_bytes)
            after = self.space()
            if len(self.actions) > count:
                self.reclaimed.append({"rung": rung, "freed_bytes": after.free_bytes - before.free_bytes,
                                       "free_percent": round(after.free_percent, 1)})  # fmt: skip
        self._close()
        return self.findings, self.actions

    def _action(self, item: Item, free: int, freed: int, result: str, detail: str) -> dict[str, Any]:
        """Return what was done to one thing: what it took and what it takes now, and how much was free before."""
        taken = max(item.freed_bytes, freed)
        return action(item.step, item.subject, item.reason, kind=item.kind, number=round(100.0 * free / max(self.space().total_bytes, 1), 1),
                      threshold=self.given.target_percent, unit="percent", measure="bytes", before=taken, after=taken - freed,
                      result=result, detail=detail)  # fmt: skip

    def _carry_out(self, item: Item, before: int) -> None:
        try:
            said, result = item.act(), "done"
        except (Stays, ArchiveError, ToolError) as error:
            said, result = str(error), "skipped"
        except OSError as error:
            said, result = cannot(item.subject, error), "skipped"
        freed = max(self.space().free_bytes - before, 0)
        detail = said if result == "skipped" else f"freed {human_bytes(freed)}{'; ' + said if said else ''}"
        self.actions.append(self._action(item, before, freed, result, detail))
        if result == "skipped":
            self.findings.append(finding("reclaim-skipped", "Something was left that a rung would have freed", subject=item.subject,
                                         observed=said, severity="info", remedy="See what was observed"))  # fmt: skip

    def _look(self, space: Space) -> None:
        """See what is there, and tell what explains it."""
        mounts = mounts_here()
        seen = survey(self.device, places_of(self.device, space.path, mounts))
        self._seen = Seen(seen, look(), mounts)
        self._causes = self._why(space, self._seen.look)
        self.findings += self._causes
        if space.read_only:
            self.findings.append(finding("read-only-filesystem", "The file system is mounted read-only, nothing can be freed",
                                         subject=space.path, severity="critical",
                                         remedy="dmesg tells why: after an error of the disk, save the data first"))  # fmt: skip
        if not self._seen.look.complete:
            self.findings.append(finding("holders-incomplete", "Not every process could be looked into", severity="info",
                                         observed="some belong to others, or may do more than this user", remedy="Run it with become"))  # fmt: skip
        if self.given.hold:
            self.findings.append(finding("reclaim-on-hold", "Deletions are on hold: no log and no journal is deleted",
                                         observed=self.given.hold, severity="info", remedy="logs_hold=false ends it"))  # fmt: skip

    def _why(self, space: Space, seen: Look) -> list[dict[str, Any]]:
        assert self._seen is not None  # noqa: S101  for the type checker
        return causes(space, self._seen.survey, deleted_on(self.device, seen), self.given.target_percent)

    def _judge_causes(self, space: Space) -> None:
        """Have what explained that the disk was full count as fixed where it does not hold any more."""
        left = {one["id"] for one in self._why(space, look())}
        for one in self._causes:
            one["state"] = "open" if one["id"] in left else "fixed"

    # --- rung 0 ---

    def _candidates(self) -> list[Path]:
        """Return the folders for evidence of this run, best first."""
        wanted = [Path(self.given.state_dir) / "evidence" / self.given.run_id]
        wanted += [Path(folder) / "runbooks-evidence" / self.given.run_id for folder in self.given.evidence_dirs]
        # A repository of restic is a folder as well, but not one for files of others.
        if isinstance(self.given.archive, FolderArchive) and os.path.isdir(self.given.archive.place):
            wanted.append(Path(self.given.archive.place) / "runbooks-evidence" / self.given.run_id)
        return [folder for folder in wanted if measure(str(folder)).device != self.device]

    def _elsewhere(self) -> Iterator[Path]:
        """Yield the folders for evidence that have room and are not on the full file system; the last is memory."""
        last = spare(Path(self.given.state_dir) / "evidence" / self.given.run_id / "x").parent
        for folder in [*self._candidates(), last]:
            space = measure(str(folder))
            if space.device != self.device and space.free_bytes >= EVIDENCE_ROOM_BYTES and not space.read_only:
                yield folder

    def _bundle_place(self, space: Space) -> Path:
        place = next(self._elsewhere(), None)
        if place is None:
            raise ReclaimRefused(
                f"{space.path} is full and no other disk takes a picture of it ({human_bytes(EVIDENCE_ROOM_BYTES)}): "
                "name a folder on one in logs_evidence_dirs"
            )
        return place

    def _snapshot(self, space: Space) -> None:
        place = self._bundle_place(space)
        if str(place).startswith(str(spare(Path("/x")).parents[1])):
            ensure_spare(place)
        now = datetime.fromtimestamp(self.clock(), timezone.utc)
        try:
            ensure_folder(place)
            self.bundle = keep(place, self._picture(space), self.given.who, now)
        except StateError as error:
            raise ReclaimRefused(f"no picture can be kept in {place}: {error}") from error
        if measure(str(self.bundle)).device == self.device:
            raise ReclaimRefused(
                f"the picture would be on the full file system, in {self.bundle}: free 16 MiB elsewhere"
            )

    def _picture(self, space: Space) -> dict[str, str]:
        assert self._seen is not None  # noqa: S101  for the type checker
        seen = self._seen.survey
        held = deleted_on(self.device, self._seen.look)
        rows = [f"{one.disk_bytes}\t{one.process}\t{one.pid}\t{one.fd}\t{one.path}" for one in held]
        largest = [f"{size}\t{path}" for size, path in seen.files]
        crowded = [f"{count}\t{path}" for count, path in seen.folders]
        asked = {"df.txt": ["df", "-P"], "df-inodes.txt": ["df", "-iP"], "journal.txt": ["journalctl", "--disk-usage"],
                 "docker.txt": ["docker", "system", "df"]}  # fmt: skip
        return {
            "space.txt": "".join(f"{name}: {value}\n" for name, value in asdict(space).items()),
            "largest-files.txt": "\n".join([*largest, "" if seen.complete else "(not all was looked at in time)"]),
            "most-entries.txt": "\n".join(crowded),
            "deleted-open.txt": "\n".join(["bytes\tprocess\tpid\tfd\tpath", *rows]),
            **{name: self._said(argv) for name, argv in asked.items() if self.tools.has(argv[0])},
        }

    def _said(self, argv: Sequence[str]) -> str:
        try:
            done = self.tools.run(argv, limit_seconds=20, ok=range(256))
        except ToolError as error:
            return str(error)
        return done.out + done.err

    # --- rungs 1 and 2 ---

    def _here(self, path: str) -> os.stat_result | None:
        """Return a look at what is on this file system, behind no link and not protected."""
        try:
            found = os.lstat(path)
        except OSError:
            return None
        real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        kept = protected(real, self.given)
        if kept:
            self.findings.append(finding("reclaim-protected", "A rung would have touched what is protected; it was left",
                                         subject=path, observed=kept, severity="warning",
                                         remedy="Take it out of the caches or policies"))  # fmt: skip
        return None if kept or found.st_dev != self.device else found

    def _ballast(self) -> list[Item]:
        path = self.given.ballast_file
        found = self._here(path) if path else None
        if not path or not found or not stat.S_ISREG(found.st_mode):
            return []

        def act() -> str:
            os.unlink(path)
            self._ballast_bytes = found.st_size
            return ""

        return [Item("ballast", path, "it is there to be deleted first", found.st_blocks * 512, act)]

    def _caches(self) -> list[Item]:
        items = []
        for folder in self.given.caches:
            found = self._here(folder)
            if not found or not stat.S_ISDIR(found.st_mode):
                continue
            inside = [(path, s) for path, s in cached_files(folder, self.device) if not protected(path, self.given)]
            freed = sum(s.st_blocks * 512 for _, s in inside)
            paths = [path for path, s in sorted(inside, key=lambda one: -one[1].st_blocks)]
            items.append(Item("caches", folder, "what is in it can be fetched again", freed, lambda paths=paths: self._empty(paths),
                              "change", len(paths)))  # fmt: skip
        return items

    def _empty(self, paths: Sequence[str]) -> str:
        gone, refused = 0, ""
        for path in paths:
            if self.reached(self.space()):
                break
            try:
                os.unlink(path)
                gone += 1
            except FileNotFoundError:
                continue
            except OSError as error:
                refused = cannot(path, error)
        if not gone and refused:
            raise Stays(refused)
        return f"{gone} of {len(paths)} files"

    # --- rung 3 ---

    def _pending_places(self) -> list[Path]:
        """Return the folders on other disks in which a copy may wait; memory is none, it ends with the next boot."""
        assert self._seen is not None  # noqa: S101  for the type checker
        mounts = self._seen.mounts
        found = [folder.parent / "pending" for folder in self._candidates()]
        return [folder for folder in found if not in_memory(measure(str(folder)).path, mounts)]

    def _finish_earlier(self) -> None:
        """Finish what a killed run left: parts beside logs, and copies that wait on another disk."""
        for folder in {os.path.dirname(file.path) for _, file in self._rotated()}:
            remove_unfinished(folder)
        self._bring_back()

    def _bring_back(self) -> None:
        """Bring back the copies that wait on another disk, and tell of those for which there is no room yet."""
        for place in self._pending_places():
            for problem in finish_pending(place):
                self.findings.append(finding("reclaim-pending", "The only copy of a log waits on another disk", subject=str(place),
                                             observed=problem, severity="critical",
                                             remedy="Free space, and run this again; delete nothing there"))  # fmt: skip

    def _rotated(self) -> list[tuple[LogPolicy, LogFile]]:
        """Return the rotated files of all policies on this file system, each once."""
        found: dict[tuple[int, int], tuple[LogPolicy, LogFile]] = {}
        for policy in self.given.policies:
            for file in rotated_files(policy.paths):
                if file.device == self.device and not protected(os.path.realpath(file.path), self.given):
                    found.setdefault((file.device, file.inode), (policy, file))
        return list(found.values())

    def _compress(self) -> list[Item]:
        roomy = [place for place in self._pending_places() if measure(str(place)).free_bytes >= EVIDENCE_ROOM_BYTES]
        elsewhere = roomy[0] if roomy else None
        items = []
        for _, file in sorted(self._rotated(), key=lambda one: -one[1].disk):
            if file.compressed or file.disk < WORTH_BYTES:
                continue
            freed = file.disk - estimate_packed(file.path)
            if freed >= WORTH_BYTES // 2:
                act = lambda path=file.path: compress(path, elsewhere, lambda: self.space().free_bytes, self.tools)  # noqa: E731  one for each file
                items.append(Item("compress", file.path, "it is rotated and not compressed", freed, act))
        return items

    # --- rung 4 ---

    def _journal(self) -> list[Item]:
        given = self.given
        if (
            given.hold
            or given.journal_keep_days is None
            or not os.path.isdir(given.journal_dir)
            or not self.tools.has("journalctl")
        ):
            return []
        if os.stat(given.journal_dir).st_dev != self.device:
            return []
        now = self.clock()
        may_rotate = given.journal_dir == DEFAULT_DIR and os.path.exists("/run/systemd/journal/socket")
        planned = plan_vacuum(
            journal_files(given.journal_dir), given.journal_keep_days, given.journal_keep_bytes, now, may_rotate
        )
        if planned is None:
            return []
        reason = f"{planned.files} files have no entry of the last {given.journal_keep_days:g} days"
        return [Item("journal", given.journal_dir, reason, planned.freed_bytes,
                     lambda: vacuum(self.tools, given.journal_dir, planned, now), "change", planned.files)]  # fmt: skip

    # --- rung 5 ---

    def _retention(self) -> list[Item]:
        if self.given.hold:
            return []
        usable = self._archive_usable()
        items = []
        for policy, file in sorted(self._rotated(), key=lambda one: one[1].mtime):
            age = (self.clock() - file.mtime) / DAY
            due = policy.due_days(self.given.archive_after_days)
            if due is None or age <= max(due, 0 if policy.archive else policy.keep_days or 0):
                continue
            reason = f"it is {age:.0f} days old, {due:g} are kept"
            if not policy.archive:
                act = lambda path=file.path: _delete(path)  # noqa: E731  one for each file
                items.append(Item("retention", file.path, reason, file.disk, act, "destructive", 1))
            elif usable:
                act = lambda path=file.path, name=policy.name: self._archived(path, name)  # noqa: E731  one for each file
                items.append(
                    Item("retention", file.path, f"{reason}; it is archived first", file.disk, act, "change", 1)
                )
        return items

    def _archive_usable(self) -> bool:
        wanting = [policy for policy in self.given.policies if policy.archive]
        archive = self.given.archive
        if not wanting:
            return False
        patterns = [pattern for policy in wanting for pattern in policy.paths]
        why = "logs_archive_location is not set" if archive is None else ""
        if archive is not None and archive.place:
            why, told = place_faults(archive.place, patterns, self.device)
            self.findings += told
        if why:
            self.findings.append(finding("archive-refused", "Logs past their retention stay, because they cannot be archived",
                                         subject=archive.place if archive else "", observed=why,
                                         remedy="Name an archive on another disk"))  # fmt: skip
        return not why

    def _archived(self, path: str, policy: str) -> str:
        assert self.given.archive is not None  # noqa: S101  for the type checker
        done = archive_and_remove(path, policy, self.given.archive, self.given.redact, self.given.hold)
        self.findings += done.findings
        if done.refused:
            raise Stays(done.refused)
        return f"archived as {done.kept.name}" if done.kept else ""

    # --- rung 6 ---

    def _held(self) -> list[tuple[Holder, LogPolicy | None]]:
        """Return the deleted files that are open here now, with the policy whose log each is; data of databases is left out."""
        found = []
        for one in deleted_on(self.device, look()):
            policy = next((p for p in self.given.policies if p.owns(one.path)), None)
            if protected(one.path, self.given) or (policy is None and one.process in DATA_PROCESSES):
                continue
            found.append((one, policy))
        return found

    def _reopen(self) -> list[Item]:
        by_policy: dict[str, list[Holder]] = {}
        for one, policy in self._held():
            if policy and policy.reopen:
                by_policy.setdefault(policy.name, []).append(one)
        argv = {policy.name: policy.reopen or () for policy in self.given.policies}
        return [
            Item("reopen", name, f"its writer holds {len(held)} deleted files", sum(one.disk_bytes for one in held),
                 lambda name=name, held=held: self._ask(argv[name], held), "change", len(held), frozenset(one.inode for one in held))
            for name, held in by_policy.items()
        ]  # fmt: skip

    def _ask(self, argv: Sequence[str], held: Sequence[Holder]) -> str:
        """Copy what is only in deleted files, have their writer open its log anew, and copy what came meanwhile."""
        with contextlib.ExitStack() as stack:
            rescues = [stack.enter_context(self._rescue(one)) for one in held]
            try:
                self.tools.run(argv, limit_seconds=60)
                left = self._wait_for_release(held)
            finally:
                copies = [copy.finish() for copy in rescues]
        if left:
            raise Stays(
                f"{left} of {len(held)} deleted files are open still: restart the service; copied to {', '.join(copies)}"
            )
        return f"copied to {', '.join(copies)}"

    def _wait_for_release(self, held: Sequence[Holder]) -> int:
        """Return how many of the files somebody else still has open after a while."""
        wanted = {(one.device, one.inode) for one in held}
        until, mine = time.monotonic() + REOPEN_SECONDS, os.getpid()
        while True:
            left = {(one.device, one.inode) for one in look().holders if one.pid != mine} & wanted
            if not left or time.monotonic() > until:
                return len(left)
            self._pause(0.1)

    def _deleted(self) -> list[Item]:
        items, waiting = [], 0
        confirmed = self._confirmed("deleted-files")
        for one, policy in self._held():
            log = policy is not None or one.appends or one.path.startswith("/var/log/")
            if not one.writes or not log or one.disk_bytes < WORTH_BYTES or one.inode in self._expected:
                continue  # a scratch file that somebody deleted on purpose is no log
            if not confirmed:
                waiting += one.disk_bytes
                continue
            copied = policy is not None or self.given.copy_deleted
            items.append(Item("deleted-files", one.path, f"{one.process} (pid {one.pid}) holds it, though it is deleted",
                              one.disk_bytes, lambda one=one, copied=copied: self._clear(one, copied), "destructive"))  # fmt: skip
        self._unconfirmed("deleted-files", waiting, "Deleted files that are still open could be emptied")
        return items

    def _clear(self, one: Holder, copied: bool) -> str:
        if not copied:
            _punch(one, one.size_bytes)
            return "its content was not copied: no policy keeps it"
        with self._rescue(one) as copy:
            # Exactly what was copied goes; what is written meanwhile stays in the file.
            _punch(one, copy.copied)
            return f"copied to {copy.finish()}"

    @contextlib.contextmanager
    def _rescue(self, one: Holder) -> Iterator[Rescue]:
        assert self.bundle is not None  # noqa: S101  for the type checker
        room = measure(str(self.bundle)).free_bytes
        if one.disk_bytes + EVIDENCE_ROOM_BYTES // 2 > room:
            raise Stays(f"{one.path} takes {human_bytes(one.disk_bytes)}, and {self.bundle} has room for {human_bytes(room)}: "
                        "name a larger disk in logs_evidence_dirs")  # fmt: skip
        with open(one.through, "rb") as source:
            found = os.fstat(source.fileno())
            if (found.st_dev, found.st_ino) != (one.device, one.inode):
                raise Stays(f"{one.path} is closed by now")
            with Rescue(source, self.bundle, one, self.given.who, self.clock) as copy:
                copy.more()
                yield copy

    # --- rung 7 ---

    def _images(self) -> list[Item]:
        if not self.given.docker or not self.tools.has("docker"):
            return []
        try:
            root = self.tools.run(["docker", "info", "--format", "{{.DockerRootDir}}"], limit_seconds=20).out.strip()
            if not root.startswith("/") or os.stat(root).st_dev != self.device:
                return []
            listed = self.tools.run(
                ["docker", "image", "ls", "--filter", "dangling=true", "--format", "{{.Size}}"], limit_seconds=60
            ).out
        except (ToolError, OSError):
            return []
        size = sum(image_bytes(line) for line in listed.split())
        if not size:
            return []
        if not self._confirmed("images"):
            self._unconfirmed("images", size, "Dangling images could be removed")
            return []
        act = lambda: self.tools.run(["docker", "image", "prune", "-f"], limit_seconds=300).out.strip()[-200:]  # noqa: E731  only told here
        return [Item("images", root, "no tag names these images", size, act, "destructive", 1)]

    # --- the end ---

    def _confirmed(self, what: str) -> bool:
        return f"{self.given.host}/{what}" in self.given.confirm

    def _unconfirmed(self, what: str, size: int, title: str) -> None:
        if size:
            token = f"{self.given.host}/{what}"
            self.findings.append(finding("reclaim-unconfirmed", title, subject=token, observed=human_bytes(size), severity="warning",
                                         remedy=f"Look at them in the evidence, then: --confirm {token}"))  # fmt: skip

    def _close(self) -> None:
        self._bring_back()
        space = self.space()
        self._judge_causes(space)
        if not self.reached(space):
            self._tell_a_person(space)
        if not self._ballast_bytes:
            return
        path, size = str(self.given.ballast_file), self._ballast_bytes
        after = 100.0 * (space.free_bytes - size) / max(space.total_bytes, 1)
        if after >= self.given.target_percent and self._new_ballast(path, size):
            self.actions.append(action("ballast", path, "there is room for it again", measure="bytes", before=0, after=size,
                                       result="done", detail=human_bytes(size)))  # fmt: skip
            return
        self.findings.append(finding("ballast-gone", "The ballast file is used up", subject=path, observed=human_bytes(size), severity="info",
                                     remedy=f"When there is room again: fallocate -l {size} {path}"))  # fmt: skip

    def _new_ballast(self, path: str, size: int) -> bool:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            os.posix_fallocate(handle, 0, size)
        except OSError:
            os.unlink(path)
            return False
        finally:
            os.close(handle)
        return True

    def _tell_a_person(self, space: Space) -> None:
        assert self._seen is not None  # noqa: S101  for the type checker
        seen = self._seen.survey
        largest = ", ".join(f"{path} {human_bytes(size)}" for size, path in seen.files[:5])
        data = "; ".join(f"{what} in {place}" for _, place, what in seen.human_only[:5])
        remedy = "Enlarge the disk, or have a person free what no rung touches"
        if data:
            remedy += f" ({data}: never delete WAL; look for inactive replication slots in pg_replication_slots, and at Prometheus' retention)"
        shown = f"{space.free_percent:.1f} % of the bytes, {space.inodes_free_percent:.1f} % of the inodes"
        self.findings.append(finding("reclaim-short", "All rungs together did not free enough", subject=space.path,
                                     observed=f"{shown}; largest: {largest}", expected=f"{self.given.target_percent:g} %",
                                     severity="critical", remedy=remedy))  # fmt: skip


class Rescue:
    """A copy of a deleted file in the bundle. While it is open, the file is not lost, whoever closes it."""

    def __init__(self, source: IO[bytes], bundle: Path, one: Holder, who: str, clock: Callable[[], float]) -> None:
        self.copied = 0
        self._source, self._bundle, self._who, self._clock = source, bundle, who, clock
        self._hash, self._target = hashlib.sha256(), None
        base = re.sub(r"[^A-Za-z0-9._-]", "_", os.path.basename(one.path))[:150]
        self.name, number = f"deleted-{one.pid}-{one.fd}-{one.inode}-{base}", 1
        while os.path.lexists(bundle / self.name):
            self.name, number = f"deleted-{one.pid}-{one.fd}-{one.inode}-{number}-{base}", number + 1

    def __enter__(self) -> Rescue:
        self._target = open(self._bundle / self.name, "xb")
        os.fchmod(self._target.fileno(), 0o600)
        return self

    def __exit__(self, *error: object) -> None:
        if self._target:
            self._target.close()

    def more(self) -> None:
        """Copy what is in the file and not yet in the copy, and have it on the disk."""
        assert self._target is not None  # noqa: S101  for the type checker
        self._source.seek(self.copied)
        for data in iter(lambda: self._source.read(BLOCK), b""):
            self._target.write(data)
            self._hash.update(data)
            self.copied += len(data)
        self._target.flush()
        os.fsync(self._target.fileno())

    def finish(self) -> str:
        """Copy the rest, write down the sum, and return the name of the copy."""
        self.more()
        sync_folder(self._bundle)
        stamp = datetime.fromtimestamp(self._clock(), timezone.utc).isoformat(timespec="seconds")
        for ledger, line in (("SHA256SUMS", f"{self._hash.hexdigest()}  {self.name}\n"),
                             ("CUSTODY", f"{stamp} {self._who} kept {self.name} ({self.copied} bytes)\n")):  # fmt: skip
            with open(self._bundle / ledger, "a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        return str(self._bundle / self.name)


def _punch(one: Holder, size: int) -> None:
    """Give the first `size` bytes of a deleted file back; where its file system cannot do that, empty the whole file."""
    handle = os.open(one.through, os.O_RDWR | os.O_CLOEXEC)
    try:
        found = os.fstat(handle)
        if (found.st_dev, found.st_ino, found.st_nlink) != (one.device, one.inode, 0):
            raise Stays(f"{one.path} is closed by now")
        libc = ctypes.CDLL(None, use_errno=True)
        how = PUNCH_HOLE | KEEP_SIZE
        if libc.fallocate(handle, how, ctypes.c_int64(0), ctypes.c_int64(size)) != 0:
            os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _delete(path: str) -> str:
    """Delete a rotated log that its policy does not archive, unless somebody writes to it."""
    with opened(path) as file:
        before = os.fstat(file.fileno())
        who = writers(file.fileno())
        if who:
            raise Stays(f"{path} is open for writing by {who}")
        if not same_file(before, os.lstat(path)):
            raise Stays(f"{path} changed while it was looked at")
        os.unlink(path)
    sync_folder(Path(path).parent)
    return "its policy has it not archived"


def image_bytes(text: str) -> int:
    """Return the bytes of a size as docker writes it, such as 1.2GB; 0 for what is none."""
    found = re.fullmatch(r"([\d.]+)([kKMGT]?B)", text.strip())
    return int(float(found[1]) * IMAGE_UNITS[found[2]]) if found else 0


def ladders(given: Reclaim, tools: Tools | None = None, **more: Any) -> list[Ladder]:
    """Return one ladder for each file system that the paths are on."""
    found: dict[int, Ladder] = {}
    for path in given.filesystems:
        ladder = Ladder(given, path, tools, **more)
        found.setdefault(ladder.device, ladder)
    return list(found.values())
