# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""A PostgreSQL server on a restored data directory: recovered to a target, looked at, thrown away.

It lives in a folder that carries our mark, is reached by a socket in a folder of mode 0700 and by nothing else, archives
nothing, and obeys no setting of the live server. It ends when this process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from ansible.module_utils.backups_engine import segment_name, segment_number
from ansible.module_utils.runbook_psql import Connection, PsqlError, PsqlUnreachable, Session, child_identity
from ansible.module_utils.runbook_result import human_bytes
from ansible.module_utils.runbook_tools import ToolError, ToolMissing, Tools, end_group

MARK = ".runbooks-scratch"
MARK_TEXT = "made by the backup runbooks: this folder and all below it may be deleted\n"
ASIDE = "postgresql.auto.conf.before-recovery"
# sun_path has 108 bytes, the last of which is NUL.
MAX_SOCKET_BYTES = 107
LONGEST_SOCKET = "20261231T235959Z/run/.s.PGSQL.65535"
FREE_FACTOR = 1.2
PORT = 54321
KINDS = ("name", "time", "lsn", "xid", "latest", "immediate")
# They act on their own: a copy must not run the jobs of the live server, or talk to its peers.
ACTIVE_LIBRARIES = ("pg_cron", "pg_partman_bgw", "pg_squeeze", "pglogical", "bdr", "pg_net", "pgagent")
# Names in postgresql.auto.conf that tools write for a recovery, and that must not outlive it.
RECOVERY_SETTING = re.compile(r"\s*(restore_command|recovery_end_command|archive_cleanup_command|recovery_target\w*)\b")

# What pg_controldata calls the settings a server needs to replay the WAL.
CONTROL_SETTINGS = {
    "wal_level setting": "wal_level",
    "max_connections setting": "max_connections",
    "max_worker_processes setting": "max_worker_processes",
    "max_wal_senders setting": "max_wal_senders",
    "max_prepared_xacts setting": "max_prepared_transactions",
    "max_locks_per_xact setting": "max_locks_per_transaction",
}

_SEGMENT = re.compile(r'restored log file "([0-9A-F]{24})" from archive')
_STOPPED = re.compile(r"recovery stopping (before|after|at) .*")
_LAST_COMMIT = re.compile(r"last completed transaction was at log time ([0-9-]+ [0-9:.]+)(?:\+00| UTC|)")
_NO_LIBRARY = re.compile(r'could not (?:access file|load library) "([^"]+)"')
_WAL_MISSING = (
    "could not locate required checkpoint record",
    "could not locate a valid checkpoint record",
    "WAL ends before end of online backup",
    "WAL ends before consistent recovery point",
    "could not find redo location",
)


class ScratchRefused(Exception):
    """A place cannot be used for a restore; the text says why and what to do."""


class ScratchError(Exception):
    """The server on the restored data does not start or recover; the text has its last words."""


class TargetNotReached(ScratchError):
    """The recovery ended elsewhere. `last_commit_at` is the newest it reached (UTC, ISO 8601), None: unknown."""

    def __init__(self, message: str, last_commit_at: str | None = None) -> None:
        super().__init__(message)
        self.last_commit_at = last_commit_at


class MissingWal(TargetNotReached):
    """A WAL segment that the recovery needs is not in the archive; `segment` names it where that is known."""

    def __init__(self, message: str, segment: str | None = None, last_commit_at: str | None = None) -> None:
        super().__init__(message, last_commit_at)
        self.segment = segment


# --- the place ------------------------------------------------------------------------------------------------------


def refuse_place(
    root: Path,
    live_data_dirs: Sequence[Path],
    needed_bytes: int,
    *,
    os_user: str | None = None,
    free_bytes: Callable[[Path], int] | None = None,
) -> None:
    """Raise ScratchRefused if `root` is no place to restore `needed_bytes` to.

    It is not if it is, holds or lies in a live data directory, has files of others, has too little space, cannot be
    written by us or reached by `os_user`, or has too long a name for a socket.
    """
    _refuse_name(root)
    real = Path(os.path.realpath(root))
    for live in live_data_dirs:
        _refuse_live(root, real, Path(os.path.realpath(live)))
    parent = next(p for p in (real, *real.parents) if p.exists())
    if not parent.is_dir():
        raise ScratchRefused(f"{root} cannot be a folder, as {parent} is a file: choose another place")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ScratchRefused(f"{parent} is not writable for this user: choose another place, or use become")
    if real.exists():
        _refuse_content(root, real)
    _refuse_unreachable(parent, os_user)
    free = (free_bytes or _free_bytes)(parent)
    wanted = round(needed_bytes * FREE_FACTOR)
    if free < wanted:
        raise ScratchRefused(
            f"{root} has {human_bytes(free)} free; restoring {human_bytes(needed_bytes)} needs {human_bytes(wanted)} "
            f"({FREE_FACTOR:g} times): free space or choose another place"
        )


def _refuse_name(root: Path) -> None:
    length = len(os.fsencode(root / LONGEST_SOCKET))
    if length > MAX_SOCKET_BYTES:
        raise ScratchRefused(
            f"{root} is too long: a socket in it would have a name of {length} bytes, and {MAX_SOCKET_BYTES} is the most"
        )
    if not root.is_absolute():
        raise ScratchRefused(f"{root} does not begin with /: give the full name of the folder")
    if root.is_symlink():
        raise ScratchRefused(f"{root} is a link to {os.path.realpath(root)}: name that folder")


def _refuse_live(root: Path, real: Path, live: Path) -> None:
    if real == live:
        raise ScratchRefused(f"{root} is the live data directory {live}: choose another place")
    if live in real.parents:
        raise ScratchRefused(f"{root} lies in the live data directory {live}: choose another place")
    if real in live.parents:
        raise ScratchRefused(f"the live data directory {live} lies in {root}: choose another place")


def _refuse_content(root: Path, real: Path) -> None:
    owner = real.stat().st_uid
    if owner not in (os.geteuid(), 0):
        raise ScratchRefused(f"{root} belongs to user {owner}, not to us ({os.geteuid()}): choose another place")
    others = [p.name for p in real.iterdir() if p.name != MARK]
    if others and not is_marked(real):
        raise ScratchRefused(
            f"{root} is not empty and not ours (no {MARK} in it, but {sorted(others)[0]}): choose another place"
        )


def _refuse_unreachable(parent: Path, os_user: str | None) -> None:
    """Refuse folders that the server's own user cannot pass; those below `parent` are made by us."""
    if os_user is None or os.geteuid() != 0:
        return
    try:
        entry = pwd.getpwnam(os_user)
    except KeyError:
        raise ScratchRefused(f"operating system user {os_user} does not exist on this host") from None
    groups = os.getgrouplist(os_user, entry.pw_gid)
    for folder in (parent, *parent.parents):
        found = folder.stat()
        bit = 0o100 if found.st_uid == entry.pw_uid else 0o010 if found.st_gid in groups else 0o001
        if not found.st_mode & bit and entry.pw_uid != 0:
            raise ScratchRefused(f"user {os_user} cannot get into {folder}: choose another place, or chmod a+x it")


def _free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def is_marked(folder: Path) -> bool:
    """Return whether a folder (no link to one) carries our mark."""
    mark = folder / MARK
    try:
        return not folder.is_symlink() and not mark.is_symlink() and mark.read_text(encoding="utf-8") == MARK_TEXT
    except (OSError, ValueError):
        return False


class Place:
    """A folder for one restore below `root`: `data` for the data directory, `run` for all else.

    As a context manager it makes the folder, marks it and holds its lock, and removes it at the end (not where `keep`
    was set). Call refuse_place first.
    """

    def __init__(self, root: Path, os_user: str | None = None, now: Callable[[], float] = time.time) -> None:
        self.root = root
        self.os_user = os_user
        self.folder = root / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now()))
        self.data, self.run = self.folder / "data", self.folder / "run"
        self.keep = False
        self._lock = -1

    def __enter__(self) -> Place:
        for parent in reversed([self.root, *self.root.parents]):
            if not parent.exists():
                parent.mkdir()
                parent.chmod(0o711)  # whatever the umask: the server's user has to get here
        if not is_marked(self.root):
            (self.root / MARK).write_text(MARK_TEXT, encoding="utf-8")
        try:
            self.folder.mkdir()
            self.folder.chmod(0o711)
        except FileExistsError:
            raise ScratchRefused(f"{self.folder} exists: another restore began in this second") from None
        self._lock = os.open(self.folder / MARK, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(self._lock, MARK_TEXT.encode())  # a mark counts by its text: never one without a lock
        for folder in (self.data, self.run):
            folder.mkdir(mode=0o700)
            give(folder, self.os_user)
        return self

    def __exit__(self, *_: object) -> None:
        if not self.keep:
            _end_servers(self.folder)
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


def give(path: Path, os_user: str | None) -> None:
    """Make `os_user` the owner of a file or folder, where we are root; a link is not followed."""
    if os_user is not None and os.geteuid() == 0:
        entry = pwd.getpwnam(os_user)
        os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)


# --- the target -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """Where a recovery ends. `kind` is one of KINDS; `value` a restore point, time (with its zone), LSN or xid."""

    kind: str = "latest"
    value: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"recovery target kind is {self.kind!r}; it must be one of {', '.join(KINDS)}")
        if bool(self.value) == (self.kind in ("latest", "immediate")):
            raise ValueError(f"recovery target {self.kind} has value {self.value!r}")
        zone = re.search(r"(Z|UTC|[+-]\d\d(:?\d\d)?)$", self.value)
        if self.kind == "time" and not zone:
            raise ValueError(f"recovery target time {self.value!r} has no time zone: write it as 2026-01-31T12:00:00Z")
        if self.kind == "lsn" and not re.fullmatch(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}", self.value):
            raise ValueError(f"recovery target lsn {self.value!r} is no LSN, such as 0/3000148")
        if self.kind == "xid" and not self.value.isdigit():
            raise ValueError(f"recovery target xid {self.value!r} is no number")

    def __str__(self) -> str:
        return f"{self.kind} {self.value}".strip()


def quoted(value: object) -> str:
    """Return a value as postgresql.conf takes it."""
    text = str(value)
    if "\n" in text or "\x00" in text:
        raise ValueError(f"a setting of PostgreSQL has one line, not {text!r}")
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def settings_lines(target: Target, restore_command: str, archive: str, timeline: str = "latest") -> list[str]:
    """Return the lines of postgresql.conf that recover to a target and say what becomes of new WAL.

    `archive` "off" archives nothing (drills). "keep" holds the new timeline's WAL back until a server archives it: an
    empty archive_command fails each time, so the segments stay marked as ready.
    """
    if archive not in ("off", "keep"):
        raise ValueError(f"archive is {archive!r}; it must be off or keep")
    lines = [
        f"restore_command = {quoted(restore_command)}",
        f"recovery_target_timeline = {quoted(timeline)}",
        "recovery_target_action = 'promote'",
        "recovery_target_inclusive = on",
        f"archive_mode = {'on' if archive == 'keep' else 'off'}",
        "archive_command = ''",
    ]
    if target.kind == "immediate":
        lines.append("recovery_target = 'immediate'")
    elif target.kind != "latest":
        # This setting is read before the server knows the names of time zones, Z among them.
        value = re.sub(r"\s*(Z|UTC)$", "+00", target.value) if target.kind == "time" else target.value
        lines.append(f"recovery_target_{target.kind} = {quoted(value)}")
    return lines


@dataclass(frozen=True)
class Recovered:
    """How a recovery ended. `evidence` is the line of the server's log that proves it, times are UTC, ISO 8601."""

    reached: bool
    evidence: str
    last_commit_at: str | None
    end_lsn: str
    timeline: int
    seconds: float
    segments: int
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Checked:
    """What a check of all data found. `done` False: it did not run, and `notes` says why; that is no pass."""

    done: bool
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


def next_segment(name: str, segment_bytes: int) -> str:
    """Return the name of the WAL segment after `name`, on the same timeline."""
    return segment_name(name[:8], segment_number(name, segment_bytes) + 1, segment_bytes)


# --- the server -----------------------------------------------------------------------------------------------------


class ScratchServer:
    """A server on `data_dir`, with its configuration, log and socket in `run_dir`; both belong to `tools.os_user`.

    `settings` are those the backup remembers (Figures.settings); what the data directory needs at least is added.
    `has_wal` tells whether the archive has a segment: with it a gap is told from the end. `superuser` is the
    database role of the checks. As a context manager it is stopped at the end.
    """

    def __init__(
        self,
        data_dir: Path,
        run_dir: Path,
        tools: Tools,
        *,
        restore_command: str,
        target: Target | None = None,
        archive: str = "off",
        timeline: str = "latest",
        port: int = PORT,
        settings: Mapping[str, Any] | None = None,
        superuser: str = "postgres",
        has_wal: Callable[[str], bool] | None = None,
        tablespace_roots: Sequence[Path] = (),
    ) -> None:
        self.data_dir, self.run_dir, self.tools, self.port = data_dir, run_dir, tools, port
        self.target = target or Target()
        self.archive, self.timeline, self.restore_command = archive, timeline, restore_command
        self.superuser, self.has_wal = superuser, has_wal
        self.tablespace_roots = [data_dir.parent, *tablespace_roots]
        self.phases: dict[str, float] = {}
        self.notes: list[str] = []
        self.log = run_dir / "log"
        self._given = dict(settings or {})
        self._own_segments: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> ScratchServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop("fast" if error is None else "immediate")

    # --- before the start

    def control(self) -> dict[str, str]:
        """Return what pg_controldata says of the data directory, by its English names."""
        done = self.tools.run(["pg_controldata", "-D", str(self.data_dir)], limit_seconds=60)
        pairs = (line.split(":", 1) for line in done.out.splitlines() if ":" in line)
        return {name.strip(): value.strip() for name, value in pairs}

    def needed_settings(self) -> dict[str, str]:
        """Return the settings the server needs to replay and open its data, the greater one where two say so."""
        control = self.control()
        needed = {ours: control[theirs] for theirs, ours in CONTROL_SETTINGS.items() if theirs in control}
        for name in CONTROL_SETTINGS.values():
            given = str(self._given.get(name, ""))
            if (given.isdigit() and int(given) > int(needed.get(name, "0"))) or given == "logical":
                needed[name] = given
        if needed.get("wal_level") == "minimal":
            needed["wal_level"] = "replica"
        return needed

    def _libraries(self) -> list[str]:
        wanted = [n.strip().strip('"') for n in str(self._given.get("shared_preload_libraries", "")).split(",")]
        names = [n for n in wanted if n]
        for name in [n for n in names if os.path.basename(n) in ACTIVE_LIBRARIES]:
            names.remove(name)
            self.notes.append(f"{name} is left out: it would act on its own")
        return names

    def prepare(self) -> None:
        """Write the server's own configuration and take that of the live server out of its way.

        Raise ScratchRefused where the data directory reaches outside of its place.
        """
        self._refuse_links()
        wal = self.data_dir / "pg_wal"
        self._own_segments = sorted(f.name for f in wal.iterdir() if re.fullmatch("[0-9A-F]{24}", f.name))
        self.data_dir.chmod(0o700)
        self.run_dir.mkdir(mode=0o700, exist_ok=True)
        give(self.run_dir, self.tools.os_user)
        auto = self.data_dir / "postgresql.auto.conf"
        if auto.exists() and not (self.data_dir / ASIDE).exists():  # an ended run has put it aside already
            os.replace(auto, self.data_dir / ASIDE)
        for name in ("standby.signal", "postmaster.pid", "postmaster.opts"):
            (self.data_dir / name).unlink(missing_ok=True)
        self._write(auto, "")
        self._write(self.data_dir / "recovery.signal", "")
        self._write(self.run_dir / "pg_hba.conf", "local all all trust\n")  # the socket's folder is its guard
        self._write(self.run_dir / "pg_ident.conf", "")
        self._write(self.log, "")

    def _refuse_links(self) -> None:
        """Refuse links to where a live server may have its files."""
        spaces = self.data_dir / "pg_tblspc"
        links = [self.data_dir / "pg_wal", *(spaces.iterdir() if spaces.is_dir() else [])]
        roots = [Path(os.path.realpath(root)) for root in self.tablespace_roots]
        for link in links:
            real = Path(os.path.realpath(link))
            if link.is_symlink() and not any(root in real.parents for root in roots):
                raise ScratchRefused(
                    f"{link} leads to {real}, which may be the live server's: restore it below {self.data_dir.parent}"
                )

    def _write(self, path: Path, text: str) -> None:
        path.unlink(missing_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
        give(path, self.tools.os_user)

    def _configure(self, needed: Mapping[str, str], libraries: Sequence[str]) -> None:
        lines = [f"{name} = {quoted(value)}" for name, value in needed.items()]
        lines += settings_lines(self.target, self.restore_command, self.archive, self.timeline)
        if self.archive == "off":  # what is thrown away need not survive a power cut
            lines += ["fsync = off", "full_page_writes = off", "synchronous_commit = off"]
        lines += [
            f"data_directory = {quoted(self.data_dir)}",
            f"shared_preload_libraries = {quoted(','.join(libraries))}",
            # Without it the server takes no sessions before the end, and a max_connections that was raised in the
            # WAL does not pause the recovery.
            "hot_standby = off",
            "max_logical_replication_workers = 0",  # a copy must not fetch from the live server's publishers
            "unix_socket_permissions = 0700",
            "log_destination = 'stderr'",
            "logging_collector = off",
            "log_line_prefix = '%m [%p] '",
            "log_timezone = 'UTC'",
            "log_min_messages = 'warning'",
            "log_checkpoints = off",
            "lc_messages = 'C'",
            "ssl = off",
            "jit = off",
            "autovacuum = off",
            "max_wal_size = '4GB'",
        ]
        self._write(self.run_dir / "postgresql.conf", "\n".join(lines) + "\n")

    # --- start and recover

    def start_and_recover(self, limit_seconds: float) -> Recovered:
        """Start the server, recover to the target and return how that ended; sessions are possible then.

        Raise TargetNotReached, MissingWal, or ScratchError for a server that does not start or takes longer than
        `limit_seconds`; nothing runs then.
        """
        began = time.monotonic()
        self.prepare()
        needed, libraries = self.needed_settings(), self._libraries()
        self.phases["prepare"] = time.monotonic() - began
        began = time.monotonic()
        end = began + limit_seconds
        try:
            while True:
                self._configure(needed, libraries)
                self._start()
                if self._wait(end, limit_seconds):
                    break
                if not self._drop_library(libraries):
                    raise self._explained()
            self.phases["recover"] = time.monotonic() - began
            return self._recovered(self.phases["recover"])
        except BaseException:
            self.stop("immediate")
            raise

    def _start(self) -> None:
        self._write(self.log, "")
        # On the command line they are stronger than any file of the restored cluster.
        own = {
            "config_file": self.run_dir / "postgresql.conf",
            "hba_file": self.run_dir / "pg_hba.conf",
            "ident_file": self.run_dir / "pg_ident.conf",
            "listen_addresses": "",
            "port": self.port,
            "unix_socket_directories": self.run_dir,
            "archive_mode": "on" if self.archive == "keep" else "off",
            "archive_command": "",
            "primary_conninfo": "",
        }
        command = ["postgres", "-D", str(self.data_dir)]
        for name, value in own.items():
            command += ["-c", f"{name}={value}"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        try:
            identity = child_identity(self.tools.os_user)
        except PsqlUnreachable as error:
            raise ScratchError(str(error)) from error
        with open(self.log, "ab") as log:
            # Not pg_ctl: as a child the server tells at once that it ended, and it ends with us.
            self._process = subprocess.Popen(
                self.tools.command(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                env={**environment, "LC_ALL": "C", "LANG": "C"},
                cwd="/",
                start_new_session=True,
                **identity,
            )

    def _wait(self, end: float, limit_seconds: float) -> bool:
        """Return True when the server has ended its recovery, False when it has ended itself."""
        assert self._process is not None  # noqa: S101  it was started a line above
        pause = 0.05
        while time.monotonic() < end:
            if self._process.poll() is not None:
                return False
            if "database system is ready to accept connections" in self._log():
                return True
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(pause)
            pause = min(1.0, pause * 1.2)
        segments = _SEGMENT.findall(self._log())
        raise ScratchError(
            f"the recovery to {self.target} took longer than {limit_seconds:g} s and was ended; it had replayed "
            f"{len(segments)} segments{' up to ' + segments[-1] if segments else ''}. {self._last_lines()}"
        )

    def _log(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def _last_lines(self) -> str:
        lines = [line for line in self._log().splitlines() if line.strip()]
        return "The server's last words: " + " | ".join(lines[-8:])

    def _drop_library(self, libraries: list[str]) -> bool:
        """Leave a library out that cannot be loaded; return whether there was one."""
        found = _NO_LIBRARY.search(self._log())
        name = found.group(1) if found else ""
        missing = [n for n in libraries if n == name or os.path.basename(name).split(".")[0] == os.path.basename(n)]
        for library in missing:
            libraries.remove(library)
            self.notes.append(f"{library} is not on this host: started without it")
        return bool(missing)

    def _explained(self) -> ScratchError:
        """Return why a server ended before its recovery did."""
        log = self._log()
        last = self._last_commit(log)
        upto = f"the last transaction that can be reached is of {last}" if last else "no transaction was reached"
        if "recovery ended before configured recovery target was reached" in log:
            gap = self._gap(log)
            if gap:
                return MissingWal(f"{self._gap_text(gap)}; {self.target} lies behind it, {upto}", gap, last)
            segments = _SEGMENT.findall(log)
            where = f" The archive ends with {segments[-1]}." if segments else " The archive gave no segment."
            return TargetNotReached(f"the target {self.target} lies after the end of the WAL: {upto}.{where}", last)
        if "requested recovery stop point is before consistent recovery point" in log:
            return TargetNotReached(
                f"the target {self.target} lies before the end of this backup: use an earlier backup", last
            )
        missing = next((words for words in _WAL_MISSING if words in log), None)
        if missing:
            segment = self._gap(log) or self._first_needed()
            return MissingWal(
                f"the archive lacks WAL that this backup itself needs ({missing}"
                f"{', first ' + segment if segment else ''}): it cannot be used. {self._last_lines()}",
                segment,
                last,
            )
        return ScratchError(f"the server on the restored data did not start. {self._last_lines()}")

    def _last_commit(self, log: str) -> str | None:
        found = _LAST_COMMIT.findall(log)
        return f"{found[-1].replace(' ', 'T')}Z" if found else None

    def _first_needed(self) -> str | None:
        with contextlib.suppress(OSError):
            label = (self.data_dir / "backup_label").read_text(encoding="utf-8", errors="replace")
            found = re.search(r"\(file ([0-9A-F]{24})\)", label)
            return found.group(1) if found else None
        return None

    def _gap(self, log: str) -> str | None:
        """Return the segment that is missing where later ones are there; None for an archive that just ends."""
        segments = sorted([*self._own_segments, *_SEGMENT.findall(log)])
        if not segments or self.has_wal is None:
            return None
        size = int(re.sub(r"\D", "", self.control().get("Bytes per WAL segment", "")) or 16 * 1024 * 1024)
        missing = following = next_segment(segments[-1], size)
        for _ in range(64):  # a hole of more is an archive that was lost
            following = next_segment(following, size)
            if self.has_wal(following):
                return None if self.has_wal(missing) else missing
        return None

    def _gap_text(self, gap: str) -> str:
        return f"segment {gap} is missing from the archive, while later ones are there"

    def _recovered(self, seconds: float) -> Recovered:
        log = self._log()
        evidence = next((line for line in log.splitlines() if _STOPPED.search(line)), "")
        if self.target.kind == "latest":
            evidence = next((line for line in log.splitlines() if "archive recovery complete" in line), "")
        last = self._last_commit(log)
        gap = self._gap(log) if self.target.kind == "latest" else None
        if gap:
            raise MissingWal(f"{self._gap_text(gap)}: the recovery ended before it, at {last}", gap, last)
        if not evidence:
            raise TargetNotReached(
                f"the server came up, but its log does not say that it stopped at {self.target}. {self._last_lines()}",
                last,
            )
        row = self._facts()
        return Recovered(
            True, evidence, last, row["lsn"], row["timeline"], seconds, len(_SEGMENT.findall(log)), list(self.notes)
        )

    def _facts(self) -> dict[str, Any]:
        try:
            with Session(self.connection("template1")) as session:
                row: dict[str, Any] = session.rows(
                    """
                    SELECT pg_is_in_recovery() AS recovering, coalesce(pg_last_wal_replay_lsn(), pg_current_wal_lsn())::text AS lsn,
                           ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int AS timeline
                    """
                )[0]
        except (PsqlError, PsqlUnreachable) as error:
            raise ScratchError(
                f"the restored server came up but does not answer as role {self.superuser}: {error}"
            ) from error
        if row["recovering"]:
            raise ScratchError(f"the server is still in recovery. {self._last_lines()}")
        return row

    def connection(self, database: str) -> Connection:
        """Return how to reach a database of the server."""
        return Connection(
            database, str(self.run_dir), self.port, self.superuser, None, self.tools.os_user, [self.tools.path("psql")]
        )

    @property
    def running(self) -> bool:
        """Whether the server runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self, mode: str = "fast", limit_seconds: float = 120) -> None:
        """Stop the server (fast: with a checkpoint, immediate: without); one that does not end is made to."""
        if self._process is None:
            return
        began = time.monotonic()
        order = {"fast": (signal.SIGINT, signal.SIGQUIT), "immediate": (signal.SIGQUIT,)}[mode]
        for how in order:
            if self._process.poll() is not None:
                break
            self._process.send_signal(how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(limit_seconds)
        if self._process.poll() is None:
            end_group(self._process, 5)
        self._process = None
        self.phases["stop"] = time.monotonic() - began

    def keep_log(self, to: Path) -> None:
        """Copy the server's log to a file, whose folder is made where it is missing."""
        if self.log.exists():
            os.makedirs(to.parent, mode=0o700, exist_ok=True)
            shutil.copyfile(self.log, to)

    def settle_auto_conf(self) -> None:
        """Give a real restore its postgresql.auto.conf back, without settings for a recovery. The server is stopped."""
        aside, auto = self.data_dir / ASIDE, self.data_dir / "postgresql.auto.conf"
        if not aside.exists():
            return
        lines = aside.read_text(encoding="utf-8").splitlines(keepends=True)
        self._write(auto, "".join(line for line in lines if not RECOVERY_SETTING.match(line)))
        aside.unlink()

    # --- checks

    def page_checksums(self, limit_seconds: float | None = None) -> Checked:
        """Return what pg_checksums finds in the stopped data directory; not done where checksums are off."""
        if self.running:
            raise ScratchError("page checksums can be checked only while the server is stopped: stop it first")
        if self.control().get("Data page checksum version") == "0":
            return Checked(False, notes=["data checksums are off in this cluster, so pages cannot be checked by them"])
        try:
            done = self.tools.run(
                ["pg_checksums", "--check", "-D", str(self.data_dir)], limit_seconds=limit_seconds, ok=(0, 1)
            )
        except ToolMissing as error:
            return Checked(False, notes=[str(error)])
        self.phases["page_checksums"] = done.seconds
        problems = [line for line in done.err.splitlines() if "checksum verification failed" in line]
        if done.rc != 0 and not problems:
            raise ScratchError(f"pg_checksums failed: {done.err.strip()[-600:]}")
        return Checked(True, problems, seconds=done.seconds)

    def amcheck(self, databases: Sequence[str], jobs: int = 2, limit_seconds: float | None = None) -> Checked:
        """Return what pg_amcheck finds in tables and B-tree indexes, each row looked up in its indexes.

        It installs the extension amcheck in the scratch databases: compare schemas before. Not done where the program
        or the extension is not on this host.
        """
        command = ["pg_amcheck", "--heapallindexed", "--install-missing", f"--jobs={jobs}", "--no-password"]
        command += [f"--host={self.run_dir}", f"--port={self.port}", f"--username={self.superuser}"]
        command += [f"--database={name}" for name in databases]
        try:
            done = self.tools.run(command, limit_seconds=limit_seconds, ok=(0, 1, 2))
        except ToolMissing as error:
            return Checked(False, notes=[str(error)])
        self.phases["amcheck"] = done.seconds
        if "extension control file" in done.err or 'extension "amcheck" is not available' in done.err:
            note = "the extension amcheck is not on this host: install the contrib package of the server"
            return Checked(False, notes=[note], seconds=done.seconds)
        if done.rc == 1:
            raise ScratchError(f"pg_amcheck failed: {(done.err or done.out).strip()[-600:]}")
        problems = _amcheck_problems(done.out + done.err) if done.rc == 2 else []
        return Checked(True, problems, seconds=done.seconds)

    def dump_to_null(self, database: str, limit_seconds: float | None = None) -> tuple[int, float]:
        """Dump a database to nowhere, which reads every row; return bytes and seconds. Raise ToolError if it fails."""
        command = ["pg_dump", "-Fc", "-Z0", "--no-password", "-h", str(self.run_dir), "-p", str(self.port)]
        command += ["-U", self.superuser, "-d", database]
        began = time.monotonic()
        with tempfile.TemporaryFile() as messages:
            process: subprocess.Popen[Any] = subprocess.Popen(
                self.tools.command(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=messages,
                env={"LC_ALL": "C", "PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent"},
                cwd="/",
                start_new_session=True,
                **child_identity(self.tools.os_user),
            )
            size, in_time = _drained(process, limit_seconds)
            messages.seek(0)
            text = messages.read().decode(errors="replace").strip()
        if not in_time:
            raise ToolError(f"pg_dump of {database} took longer than {limit_seconds:g} s and was ended")
        if process.returncode != 0:
            rc = process.returncode
            raise ToolError(f"pg_dump of {database} failed with exit status {rc}: {text[-600:]}", rc, text)
        seconds = time.monotonic() - began
        self.phases[f"dump {database}"] = seconds
        return size, seconds


def _drained(process: subprocess.Popen[Any], limit_seconds: float | None) -> tuple[int, bool]:
    """Read all a program writes until it ends; return how many bytes, and whether it ended by itself in time."""
    late = threading.Event()

    def end_it() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(limit_seconds or threading.TIMEOUT_MAX, end_it)
    timer.daemon = True
    timer.start()
    size = 0
    try:
        assert process.stdout is not None  # noqa: S101  it is a pipe
        with process.stdout:
            while block := os.read(process.stdout.fileno(), 1 << 20):
                size += len(block)
        process.wait()
    except BaseException:
        end_group(process)
        raise
    finally:
        timer.cancel()
    return size, not late.is_set()


def _amcheck_problems(text: str) -> list[str]:
    """Return one line per problem: pg_amcheck writes the object, then what is wrong with it, indented."""
    problems: list[str] = []
    for line in text.splitlines():
        if line.startswith((" ", "\t")) and problems:
            problems[-1] += f" {line.strip()}"
        elif line.strip():
            problems.append(line.strip())
    return problems


# --- leftovers ------------------------------------------------------------------------------------------------------


def clean_leftovers(root: Path) -> list[str]:
    """End the servers and remove the folders that earlier runs left below `root`; return what was done.

    Only folders with our mark are touched, none through a link, and none that a running restore holds.
    """
    done: list[str] = []
    if not is_marked(root):
        return done
    for folder in sorted(root.iterdir()):
        if folder.is_symlink() or not folder.is_dir() or not is_marked(folder):
            continue
        lock = os.open(folder / MARK, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            ended = _end_servers(folder)
            if ended:
                done.append(f"ended a server in {folder} ({len(ended)} processes)")
            shutil.rmtree(folder)  # it does not follow links
            done.append(f"removed {folder}")
        finally:
            os.close(lock)
    return done


def _end_servers(folder: Path, limit_seconds: float = 20) -> list[int]:
    """End every postgres whose working directory, which is its data directory, lies in `folder`; return their pids."""
    ended: list[int] = []
    for how in (signal.SIGQUIT, signal.SIGKILL):
        end = time.monotonic() + limit_seconds
        found = _servers_in(folder)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
        ended += [pid for pid in found if pid not in ended]
        while _servers_in(folder) and time.monotonic() < end:
            time.sleep(0.05)
    return ended


def _servers_in(folder: Path) -> list[int]:
    real = Path(os.path.realpath(folder))
    return sorted(int(e.name) for e in Path("/proc").iterdir() if e.name.isdigit() and _is_server_in(e, real))


def _is_server_in(process: Path, folder: Path) -> bool:
    try:
        program = Path(os.readlink(process / "exe")).name.split(" ")[0]
        return program == "postgres" and folder in Path(os.readlink(process / "cwd")).parents
    except PermissionError:
        pass  # root in a container may not look into the processes of others, but at their command lines
    except OSError:  # it ended
        return False
    try:
        words = [os.fsdecode(word) for word in (process / "cmdline").read_bytes().split(b"\0")]
    except OSError:
        return False
    # Only the first process of a server says where its data is; the others end with it.
    named = words[words.index("-D") + 1] if "-D" in words[:-1] else ""
    return Path(words[0]).name == "postgres" and folder in Path(os.path.realpath(named)).parents
