# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Reads everything the plan is made from: server, repositories, sets, drills and what lies around them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils.backups_basebackup import BaseBackup
from ansible.module_utils.backups_engine import Engine, EngineRefused, Repository, Server
from ansible.module_utils.backups_manifest import FILES_TAG, TAG, Shelf
from ansible.module_utils.backups_pgbackrest import PgBackRest
from ansible.module_utils.backups_planner import HOUR, Archiving, Files, Limits, Live, Picture, Space
from ansible.module_utils.runbook_psql import Connection, PsqlError, PsqlUnreachable, Session
from ansible.module_utils.runbook_restic import (
    Locked,
    Restic,
    Snapshot,
    damaged_files,
    new_marks,
    subset_for,
    verify_local,
)
from ansible.module_utils.runbook_restic import Repository as ResticRepository
from ansible.module_utils.runbook_state import read_json, write_json
from ansible.module_utils.runbook_tools import ToolError, Tools, version

LIVE = """
SELECT pg_is_in_recovery() AS standby,
  (SELECT system_identifier::text FROM pg_control_system()) AS system,
  current_setting('server_version_num')::int AS version,
  current_setting('data_directory', true) AS data_dir,
  pg_size_bytes(current_setting('wal_segment_size')) AS segment,
  current_setting('archive_mode') AS mode, current_setting('archive_command') AS command,
  coalesce(current_setting('archive_library', true), '') AS library,
  (SELECT setting::int FROM pg_settings WHERE name = 'archive_timeout') AS archive_timeout,
  current_setting('wal_level') AS wal_level,
  coalesce(current_setting('summarize_wal', true), 'off') AS summarize,
  (SELECT extract(epoch FROM min(modification))::float FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready') AS oldest_ready,
  (SELECT coalesce(json_agg(spcname), '[]') FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')) AS spaces,
  extract(epoch FROM clock_timestamp())::float AS now
"""
MEMORY = "backups.json"
RECORD_LIMIT = 50
GROWTH_DAYS = 14


@dataclass(frozen=True)
class Job:
    """All that the role was told; names are those of its inputs without their prefix."""

    connection: Connection
    limits: Limits
    state_dir: Path
    engine: str
    repository: str
    repository_path: str
    stanza: str
    config: str
    config_text: str
    wal_method: str
    files_repository: str
    passphrase: str
    os_user: str | None = None
    bin_dir: str | None = None
    nice: int = 10
    upload_limit_kib: int | None = None
    files_environment: dict[str, str] = field(default_factory=dict)
    files_options: Sequence[str] = ()
    files_cacert: str | None = None
    scratch_dir: str = ""
    manage_archiving: bool = True
    takeover: bool = False
    restart_allowed: bool = False
    manage_packages: bool = True
    archive_timeout_seconds: int = 60
    wal_wait_seconds: int = 300
    count_seconds: int = 300
    passphrase_kept_at: str = ""
    append_only: bool = False
    check_parts: int = 7
    redis: dict[str, Any] | None = None
    grafana_database: str | None = None
    files: Sequence[dict[str, Any]] = ()
    costs: Sequence[dict[str, str]] = ()
    components: dict[str, Any] = field(default_factory=dict)
    parts: Sequence[str] = ()
    lock_age_seconds: int = 1800
    recovery_limit_seconds: int = 14400
    amcheck: bool = True
    now: Callable[[], float] = time.time

    @property
    def memory_path(self) -> Path:
        return self.state_dir / "memory" / MEMORY

    @property
    def receives(self) -> bool:
        """Whether WAL is fetched by us, not handed over by the server."""
        return self.engine == "basebackup" and self.wal_method == "receive"

    def tools(self) -> Tools:
        """Return how the database's programs are run: as its user."""
        return Tools(self.os_user, self.bin_dir, self.nice)

    def own_tools(self) -> Tools:
        """Return how programs that read all of the host are run: as we are."""
        return Tools(None, self.bin_dir, self.nice)


class Surveyor:
    """Reads, and changes nothing but our own memory."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.memory: dict[str, Any] = read_json(job.memory_path, {})
        self.shelf = Shelf(job.state_dir / "backups" / "sets")
        self.restic = Restic(
            ResticRepository(
                location=job.files_repository,
                password=job.passphrase,
                environment=dict(job.files_environment),
                options=list(job.files_options),
                cache_dir=str(job.state_dir / "cache" / "restic"),
                limit_upload_kib=job.upload_limit_kib,
                limit_download_kib=None,
                cacert=job.files_cacert,
            ),
            job.own_tools(),
            now=job.now,
        )

    def config_text(self, server: Server | None) -> str:
        """Return what pgbackrest's configuration has to say on this host; empty where that is not known now."""
        data_dir = server.data_dir if server else ""
        if not data_dir or not self.job.config_text:
            return ""
        return self.rendered(data_dir)

    def rendered(self, data_dir: str) -> str:
        """Return pgbackrest's configuration for a data directory.

        Block incremental backups came with 2.46, and their authors advise 2.52.1 or newer.
        """
        cores = min(os.cpu_count() or 1, 8)
        tools = self.job.tools()
        blocks = tools.has("pgbackrest") and version(tools.run(["pgbackrest", "version"]).out) >= (2, 52, 1)
        text = self.job.config_text.replace("repo1-block=@BLOCK@\n", "repo1-block=y\n" if blocks else "")
        return text.replace("@DATA_DIR@", data_dir).replace("@CORES@", str(cores))

    def remember(self) -> None:
        """Write what has to be known next time."""
        self.memory["drills"] = self.memory.get("drills", [])[-RECORD_LIMIT:]
        write_json(self.job.memory_path, self.memory)

    def engine(self, known: dict[str, str] | None = None) -> Engine:
        """Return the driver. `known` are sha256 of manifests by label."""
        job = self.job
        if job.engine == "pgbackrest":
            return PgBackRest(job.tools(), job.stanza, job.config, job.repository_path, known or {})
        return BaseBackup(job.tools(), job.repository, job.connection, job.wal_method, job.upload_limit_kib, job.now)

    def look(self, verify: bool | None = None, write: bool = True) -> Picture:
        """Return all that is seen. `verify`: read every file (True), none (False), or where it is due (None).

        `write` allows to note what was verified; a look in check mode leaves nothing behind.
        """
        job = self.job
        live, server, settings, restart = self._live()
        files, sets, damaged = self._files(verify, write)
        known = {s["database"]["label"]: str(s["database"].get("manifest_sha256", "")) for s in sets}
        engine = self.engine(known)
        repository = engine.read(server)
        problems, verified_at = self._verified(engine, repository, verify)
        picture = Picture(
            now=job.now(),
            live=live,
            repository=repository,
            engine=job.engine,
            kinds=engine.kinds(server) if server else (),
            problems=problems,
            verified_at=verified_at,
            files=files,
            sets=tuple(sets),
            damaged_sets=damaged,
            drills=tuple(self.memory.get("drills", [])),
            settings=(*self._unprepared(repository, files, server), *settings),
            restart_needed=restart,
            spaces=tuple(self._spaces(repository, server, write)),
            uncovered=tuple(self._uncovered()),
            passphrase_kept_at=job.passphrase_kept_at,
            passphrase_beside=tuple(self._passphrase_beside(repository)),
            queue_limit=self._queue_limit(),
            append_only=job.append_only,
            unwritable=self._unwritable(repository),
            missing=tuple(self._missing()),
            may_install=job.manage_packages,
            leftovers=tuple(self._leftovers(engine)),
        )
        if write:
            self.remember()
        return picture

    def server(self) -> Server:
        """Return the live server. Raise EngineRefused if there is none to ask."""
        live, server, _, _ = self._live()
        if server is None:
            raise EngineRefused(live.message)
        return server

    def _live(self) -> tuple[Live, Server | None, list[tuple[str, str]], str]:
        try:
            with Session(self.job.connection) as session:
                row = session.rows(LIVE, limit_seconds=60)[0]
        except PsqlUnreachable as error:
            return Live("down", f"the server cannot be reached: {error}"), None, [], ""
        except PsqlError as error:
            raise EngineRefused(
                f"the server refuses to tell about its archiving: {error.message}; the role needs pg_monitor, and"
                " pg_create_restore_point and pg_switch_wal, or a superuser"
            ) from error
        archiving = Archiving(row["mode"], row["oldest_ready"])
        state = "standby" if row["standby"] else "primary"
        live = Live(state, "", archiving, row["now"])
        server = Server(
            row["system"], int(row["version"]), row["data_dir"] or "", int(row["segment"]), tuple(row["spaces"]),
            row["summarize"] == "on",
        )  # fmt: skip
        settings, restart = self._archiving_due(row) if state == "primary" else ([], "")
        return live, server, settings, restart

    def _archiving_due(self, row: dict[str, Any]) -> tuple[list[tuple[str, str]], str]:
        """Return the settings that must change with the reason for each, and what stands in the way (empty: nothing)."""
        job = self.job
        if job.receives:
            return ([], "") if row["wal_level"] != "minimal" else ([], "wal_level is minimal: set it to replica and restart")
        wanted = self.engine().archive_command()
        command = "" if row["command"] == "(disabled)" else row["command"]
        foreign = command not in ("", wanted) and not re.search(r"archive-(push|wal)\b", command)
        if (foreign or row["library"]) and not job.takeover:
            return [], (
                f"archive_command is {command or row['library']!r}, which is not ours: let the one who set it know, then"
                " run with --set backups_archiving_takeover=true"
            )
        due = []
        # While archive_mode is off, the server does not show its archive_command.
        if row["mode"] == "off" or command != wanted:
            due.append(("archive_command", "WAL has to go into the repository"))
        if not 0 < int(row["archive_timeout"]) <= job.archive_timeout_seconds:
            due.append(("archive_timeout", f"the newest data must leave the disk within {job.archive_timeout_seconds} s"))
        if row["mode"] == "off" or row["wal_level"] == "minimal":
            if not job.restart_allowed:
                return [], (
                    "archive_mode is off, and needs a restart of the server to be on: run with --set"
                    " backups_restart_allowed=true in a quiet minute, or set archive_mode=on and restart it by hand"
                )
            due.append(("archive_mode", "the server has to be restarted for it"))
        if due and not job.manage_archiving:
            return [], f"the server's archiving is not as it must be ({'; '.join(map(': '.join, due))}), and backups_manage_archiving is off"
        return due, ""

    def _missing(self) -> list[str]:
        wanted = ["pgbackrest", "restic"] if self.job.engine == "pgbackrest" else ["restic"]
        return [program for program in wanted if not self.job.own_tools().has(program)]

    def _unprepared(self, repository: Repository, files: Files, server: Server | None) -> list[tuple[str, str]]:
        job, due = self.job, []
        wanted = self.config_text(server)
        if job.engine == "pgbackrest" and wanted and _text_of(job.config) != wanted:
            due.append((job.config, "the configuration of pgbackrest has to be written"))
        if repository.state == "absent":
            due.append((job.repository, "the repository of the database has to be made"))
        if files.state == "absent":
            due.append((job.files_repository, "the repository of files has to be made"))
        return due

    def _files(self, verify: bool | None, write: bool) -> tuple[Files, list[dict[str, Any]], dict[str, str]]:
        try:
            snapshots = self._snapshots()
            stale, held = self._locks() if snapshots is not None else ((), ())
        except ToolError as error:
            return Files("error", str(error)), *self.shelf.read(None, _no_fetch, write=False)
        if snapshots is None:
            return Files("absent"), *self.shelf.read(None, _no_fetch, write=False)
        originals = {_set_of(s.tags): s.id for s in snapshots if TAG in s.tags and s.host == self.job.stanza}
        sets, damaged = self.shelf.read(
            {k: v for k, v in originals.items() if k},
            lambda snapshot: self.restic.read(snapshot, "/manifest.json").decode("utf-8", "replace"),
            write,
        )
        problems = tuple(self._files_verified(verify))
        present = frozenset(s.id for s in snapshots if FILES_TAG in s.tags)
        broken = tuple(damaged_files(self.job.files_repository, problems))
        mended_at = self.job.now() if broken else self.memory["files"].get("mended_at")
        append_only = self.job.append_only or None
        return Files("ready", "", present, problems, held, stale, append_only, True, broken, mended_at), sets, damaged

    def _snapshots(self) -> list[Snapshot] | None:
        """Return the snapshots; None where there is no repository yet.

        Each restic takes a second to derive its key. The files of a local repository are named by what is in them, so
        the list that was read with this passphrase is good until other names are there.
        """
        notes = self.memory.setdefault("files", {})
        seen = self._listing_mark()
        listing = notes.get("listing")
        if seen and listing and listing["mark"] == seen:
            return [Snapshot(**{**row, "time": datetime.fromisoformat(row["time"])}) for row in listing["snapshots"]]
        if self.restic.state() == "absent":
            return None
        found = self.restic.snapshots(None)
        if seen:
            rows = [{**vars(each), "time": each.time.isoformat()} for each in found]
            notes["listing"] = {"mark": seen, "snapshots": rows}
        return found

    def _listing_mark(self) -> str:
        """Return what a list of snapshots depends on: their names, the repository and the passphrase; empty if it is remote."""
        local = Path(self.job.files_repository)
        try:
            names = sorted(entry.name for entry in (local / "snapshots").iterdir())
            config = (local / "config").read_bytes()
            keys = sorted(entry.name for entry in (local / "keys").iterdir())
        except OSError:
            return ""
        # As slow as restic's own keys are, so that the note is no easier to guess from than those.
        told = hashlib.scrypt(self.job.passphrase.encode(), salt=hashlib.sha256(config).digest(), n=1 << 14, r=8, p=1)
        return hashlib.sha256(repr((names, keys, told)).encode()).hexdigest()

    def _locks(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the old locks in the repository of files: those whose process is provably gone, and the others."""
        now, age = self.job.now(), self.job.lock_age_seconds
        local = Path(self.job.files_repository) / "locks"
        if local.is_dir() and not any(local.iterdir()):
            return (), ()
        judged = self.restic.judged_locks(socket.gethostname(), 0)
        stale = tuple(str(lock) for lock, reason in judged if not reason)
        held = tuple(f"{lock}: {why}" for lock, why in judged if why and now - lock.time.timestamp() > age)
        return stale, held

    def _files_verified(self, verify: bool | None) -> list[str]:
        """Return what is wrong with the repository of files, from a new look or from the last one."""
        notes = self.memory.setdefault("files", {})
        now = self.job.now()
        due = verify or (verify is None and (bool(notes.get("problems")) or self._is_due(notes.get("verified_at"))))
        problems: list[str] = []
        location = self.job.files_repository
        if os.path.isdir(location):
            problems, notes["marks"] = verify_local(location, notes.get("marks", new_marks()), full=bool(due))
        if due:
            try:
                problems += self.restic.check(subset_for(int(now // 86400), self.job.check_parts))
                notes["verified_at"] = now
            except Locked:
                # A dead lock is removed by this run, whose last look checks again; a living one ends by itself.
                problems += [problem for problem in notes.get("problems", []) if problem not in problems]
            notes["problems"] = problems
        elif not os.path.isdir(location):
            problems = list(notes.get("problems", []))
        else:
            notes["problems"] = problems
        return problems

    def _is_due(self, verified_at: float | None) -> bool:
        now = self.job.now()
        return verified_at is None or not 0 <= now - verified_at <= self.job.limits.verify_max_age_hours * HOUR

    def _verified(
        self, engine: Engine, repository: Repository, verify: bool | None
    ) -> tuple[dict[str, list[str]], float | None]:
        """Return what is wrong with the backups, and when that was seen.

        A local repository is read anew when any of its files is not the one that was verified; new WAL alone does not
        call for that.
        """
        notes = self.memory.setdefault("database", {})
        if repository.state != "ready" or not repository.backups:
            return {}, notes.get("verified_at")
        if verify is False:
            return notes.get("problems", {}), notes.get("verified_at")
        marks = fingerprints(repository.local_path) if repository.local_path else {}
        labels = sorted(backup.label for backup in repository.backups)
        touched = labels != notes.get("labels") or (bool(marks) and changed(notes.get("marks", {}), marks))
        bad_before = any(notes.get("problems", {}).values())
        if not (verify or touched or bad_before or self._is_due(notes.get("verified_at"))):
            return notes.get("problems", {}), notes.get("verified_at")
        try:
            problems = engine.verify(repository.backups)
        except ToolError as error:
            return {"": [f"the repository could not be verified: {error}"]}, notes.get("verified_at")
        # Read after the fact: what was written meanwhile is looked at next time.
        notes.update(marks=marks, labels=labels, problems=problems, verified_at=self.job.now())
        return problems, notes["verified_at"]

    def _spaces(self, repository: Repository, server: Server | None, write: bool) -> Iterator[Space]:
        data_device = _device(server.data_dir) if server else None
        growth = self.memory.setdefault("growth", {})
        for path in dict.fromkeys((repository.local_path, self.job.files_repository)):
            if not path or not os.path.isdir(path):
                continue
            found = os.statvfs(path)
            total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
            history = growth.setdefault(path, [])
            rate = _growth(history, self.job.now(), total - free)
            if write:
                growth[path] = _noted(history, self.job.now(), total - free)
            yield Space(path, total, free, data_device is not None and _device(path) == data_device, rate)

    def _uncovered(self) -> Iterator[tuple[str, str]]:
        job = self.job
        covered = [os.path.realpath(path) for each in job.files for path in each["paths"]]
        if "cache" in job.parts and not job.redis:
            yield "cache", "part cache of this host"
        if not job.grafana_database and os.path.exists("/var/lib/grafana/grafana.db"):
            yield "grafana", "/var/lib/grafana/grafana.db"
        for name, component in sorted(job.components.items()):
            if job.parts and name not in job.parts:
                continue
            for path in component.get("config_files") or []:
                real = os.path.realpath(path)
                if os.path.exists(real) and not any(real == c or real.startswith(c.rstrip("/") + "/") for c in covered):
                    yield name, path

    def _unwritable(self, repository: Repository) -> str:
        """Return which local folder its user cannot write; empty if there is none."""
        job = self.job
        places = [(job.tools(), Path(repository.local_path), f"user {job.os_user or 'that runs this'}")]
        if job.engine == "pgbackrest":
            places += [(job.tools(), Path(repository.local_path) / sub / job.stanza, places[0][2]) for sub in ("backup", "archive")]
        else:
            places += [(job.tools(), Path(repository.local_path) / sub, places[0][2]) for sub in ("base", "wal")]
        places.append((job.own_tools(), Path(job.files_repository), "this user"))
        for tools, path, who in places:
            if path.is_absolute() and path.is_dir() and tools.run(["test", "-w", str(path)], ok=(0, 1)).rc:
                return f"{path} cannot be written by {who}"
        return ""

    def _passphrase_beside(self, repository: Repository) -> Iterator[str]:
        """Yield files in or beside a local repository that hold its passphrase."""
        secret = self.job.passphrase.encode()
        if len(secret) < 8:
            return
        roots = {Path(p) for p in (repository.local_path, self.job.files_repository) if p and os.path.isdir(p)}
        for folder in sorted({r for root in roots for r in (root, root.parent)}):
            for entry in sorted(folder.iterdir()):
                with contextlib.suppress(OSError):
                    if entry.is_file() and entry.stat().st_size < 65536 and secret in entry.read_bytes():
                        yield str(entry)

    def _queue_limit(self) -> str:
        text = _text_of(self.job.config) if self.job.engine == "pgbackrest" else ""
        found = re.search(r"^\s*archive-push-queue-max\s*=\s*(\S+)", text, re.M)
        return found[1] if found else ""

    def _leftovers(self, engine: Engine) -> list[str]:
        scratch = Path(self.job.scratch_dir)
        left = engine.leftovers(remove=False)
        if scratch.is_dir():
            left += [str(entry) for entry in sorted(scratch.iterdir()) if not entry.name.startswith(".")]
        return left


def fingerprints(root: str) -> dict[str, list[int]]:
    """Return size, mtime and ctime of every file below `root`. The ctime moves with every write; nobody can set it."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            with contextlib.suppress(FileNotFoundError):
                seen = os.lstat(path)
                found[os.path.relpath(path, root)] = [seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns]
    return found


def changed(before: dict[str, list[int]], after: dict[str, list[int]]) -> bool:
    """Return whether files are not those of before; new ones below archive/ and wal/, which grow, do not count."""
    growing = ("archive" + os.sep, "wal" + os.sep)
    if any(after.get(path) != mark for path, mark in before.items()):
        return True
    return any(path not in before and not path.startswith(growing) for path in after)


def _no_fetch(reference: str) -> str:
    raise AssertionError(f"{reference}: copies alone are read")


def _set_of(tags: Sequence[str]) -> str:
    return next((tag[len("set-") :] for tag in tags if tag.startswith("set-")), "")


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _device(path: str) -> int | None:
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


def _growth(history: list[list[float]], now: float, used: float) -> float | None:
    """Return the bytes a day by which a file system fills, over at least a day; None if it does not, or is unknown."""
    if not history or now - history[0][0] < 86400:
        return None
    rate = (used - history[0][1]) / (now - history[0][0]) * 86400
    return rate if rate > 0 else None


def _noted(history: list[list[float]], now: float, used: float) -> list[list[float]]:
    kept = [point for point in history if now - GROWTH_DAYS * 86400 <= point[0] <= now]
    return kept if kept and now - kept[-1][0] < 3600 else [*kept, [now, used]]


def set_tags(set_id: str, tag: str) -> list[str]:
    """Return the tags of a snapshot that belongs to a set."""
    return [tag, f"set-{set_id}"]
