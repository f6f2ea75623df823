# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""What is not PostgreSQL: copied while it is at work, described for the manifest, and proven from a restored copy.

A copy of a running service's files is not consistent; each is asked for its data in its own way.
"""

from __future__ import annotations

import contextlib
import fnmatch
import grp
import hashlib
import os
import pwd
import re
import shutil
import ssl
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible.module_utils.runbook_result import human_bytes
from ansible.module_utils.runbook_tools import Done, ToolError, ToolMissing, Tools, end_group, last_words

POLL_SECONDS = 0.1
SAVE_LIMIT_SECONDS = 1800
LOAD_LIMIT_SECONDS = 1800
SQLITE_DONE = 101
# Longer paths do not fit into a socket's address.
SOCKET_PATH_BYTES = 107
# What a scratch server needs beside what the live one uses, before the host is short of memory.
MEMORY_FACTOR = 1.3
GRAFANA_TABLES = ("dashboard", "user", "data_source")
KEY_FILE_LIMIT_BYTES = 1 << 20
PID_FILE, SOCKET, LOG, DUMP = "redis.pid", "r.sock", "redis.log", "scratch.rdb"


@dataclass(frozen=True)
class FileEntry:
    """One file as it is to be found again. `mode` is octal text such as "0640", owner and group are names.

    `kind` is file, link (sha256 is that of its target's name) or folder (sha256 is empty).
    """

    path: str
    sha256: str
    bytes: int
    owner: str
    group: str
    mode: str
    kind: str = "file"


@dataclass(frozen=True)
class Captured:
    """One component of a set. `at` is ISO 8601 UTC, `problems` are what could not be had."""

    name: str
    kind: str
    at: str
    files: list[FileEntry]
    details: dict[str, Any]
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class KeyFinding:
    """What was seen of a private key or certificate; `kind` is problem, warning or note."""

    kind: str
    path: str
    text: str


# Redis


@dataclass(frozen=True)
class RedisCli:
    """One server, asked by redis-cli. `settings`: host, port, socket, password, user; all may be left out."""

    tools: Tools
    settings: Mapping[str, Any]

    def run(self, *words: str, limit_seconds: float = 30) -> Done:
        """Run redis-cli. Raise ToolError where the server is not reached, or answers with an error."""
        place = self.settings
        where = ["-s", str(place["socket"])] if place.get("socket") else [
            "-h", str(place.get("host") or "127.0.0.1"), "-p", str(place.get("port") or 6379)]  # fmt: skip
        user = ["--user", str(place["user"])] if place.get("user") else []
        password = place.get("password")
        # Where there is none, the operator's own environment must not speak for us.
        done = self.tools.run(
            ["redis-cli", *where, *user, "--no-auth-warning", *words],
            env={"REDISCLI_AUTH": str(password) if password else None},
            limit_seconds=limit_seconds,
            ok=(0, 1),
        )
        refused = re.search(r"^(?:AUTH failed|(?:\(error\) )?(?:NOAUTH|WRONGPASS|NOPERM)).*", done.err + done.out, re.M)
        if refused:
            raise ToolError(
                f"redis at {self.shown} refuses us: {refused.group(0)[:300]}; set its password and user, with the"
                " right to INFO, LASTSAVE, TIME and BGSAVE"
            )
        if done.rc != 0:
            raise ToolError(f"redis at {self.shown} cannot be asked: {last_words(done)}", done.rc, done.out + done.err)
        return done

    def ask(self, *words: str) -> str:
        """Return a command's answer. Raise ToolError where it is an error."""
        answer = self.run(*words).out.strip()
        if re.match(r"(?:\(error\) )?(?:ERR|[A-Z]{5,}) ", answer):
            raise ToolError(f"redis at {self.shown} answers {words[0]} with: {answer[:300]}")
        return answer

    def info(self, section: str) -> dict[str, str]:
        lines = self.ask("INFO", section).splitlines()
        return dict(line.strip().split(":", 1) for line in lines if ":" in line)

    @property
    def shown(self) -> str:
        place = self.settings
        return str(place.get("socket") or f"{place.get('host') or '127.0.0.1'}:{place.get('port') or 6379}")


def capture_redis(
    tools: Tools,
    settings: Mapping[str, Any],
    staging: Path,
    now: Callable[[], float] = time.time,
    *,
    limit_seconds: float = SAVE_LIMIT_SECONDS,
    pause: Callable[[float], None] = time.sleep,
) -> Captured:
    """Have Redis write its data and copy the file to staging/redis.rdb.

    details: version, role, maxmemory and used_memory (bytes), keys {db: {keys, expires}} as the server counted them,
    rdb {keys, expires} as redis-check-rdb did (None where that is missing: `check` says so), source, save_seconds.
    Raise ToolError where the server refuses, cannot save, or its file is not whole.
    """
    cli = RedisCli(tools, settings)
    until = time.monotonic() + limit_seconds
    server, memory, replication = cli.info("server"), cli.info("memory"), cli.info("replication")
    began = time.monotonic()
    keys, saved_at = _save(cli, until, pause)
    at = now()
    target = staging / "redis.rdb"
    source = _fetch(cli, target, saved_at, max(1.0, until - time.monotonic()))
    size = target.stat().st_size
    if size == 0:
        target.unlink()
        raise ToolError(f"the dump of redis at {cli.shown} has 0 bytes: see its log and the disk of its folder")
    check, rdb = _check_rdb(tools, target)
    if rdb is None and check:
        target.unlink()
        raise ToolError(f"the dump of redis at {cli.shown} is damaged: {check}")
    details = {
        "version": server.get("redis_version", ""),
        "role": replication.get("role", ""),
        "maxmemory": int(memory.get("maxmemory", 0)),
        "used_memory": int(memory.get("used_memory", 0)),
        "keys": keys,
        "rdb": rdb,
        "check": "" if rdb is not None else "redis-check-rdb is not on this host: the dump was not checked",
        "source": source,
        "save_seconds": round(time.monotonic() - began, 1),
    }
    return Captured("redis", "redis", _iso(at), [_entry(target)], details)


def _save(cli: RedisCli, until: float, pause: Callable[[float], None]) -> tuple[dict[str, dict[str, int]], int]:
    """Have the server save once, after any save that is under way; return its keys per db and the time of the save."""

    def wait(what: str) -> None:
        if time.monotonic() > until:
            raise ToolError(f"redis at {cli.shown} did not get ready within the time limit: {what}")
        pause(POLL_SECONDS)

    while True:
        while _busy(cli.info("persistence")):
            wait("it saves, or rewrites its AOF")
        # LASTSAVE counts whole seconds: two saves in one could not be told apart.
        while int(cli.ask("TIME").split()[0]) <= int(cli.ask("LASTSAVE")):
            wait("its clock stands still")
        before = int(cli.ask("LASTSAVE"))
        keys = _keyspace(cli)
        answer = cli.run("BGSAVE").out.strip()
        if "in progress" in answer:
            wait("it saves, or rewrites its AOF")
            continue
        if not answer.startswith("Background saving started"):
            raise ToolError(f"redis at {cli.shown} refuses to save: {answer[:300] or 'no answer'}; {_save_hint(cli)}")
        break
    while True:
        seen = cli.info("persistence")
        saved_at = int(cli.ask("LASTSAVE"))
        if seen.get("rdb_bgsave_in_progress") == "0":
            if seen.get("rdb_last_bgsave_status") != "ok" or saved_at <= before:
                raise ToolError(f"redis at {cli.shown} could not save: {_save_hint(cli)}")
            return keys, saved_at
        wait("its save goes on")


def _busy(persistence: Mapping[str, str]) -> bool:
    return any(
        persistence.get(name) == "1" for name in ("loading", "rdb_bgsave_in_progress", "aof_rewrite_in_progress")
    )


def _save_hint(cli: RedisCli) -> str:
    """Return what is to be looked at where a save fails; the reason itself is only in the server's log."""
    with contextlib.suppress(ToolError, OSError, IndexError):
        folder = cli.ask("CONFIG", "GET", "dir").splitlines()[1]
        if not os.path.isdir(folder):
            return f"its folder {folder} is not there (as seen from this host); see the log of redis"
        free = human_bytes(shutil.disk_usage(folder).free)
        return f"its folder {folder} has {free} free; see the log of redis for why (disk, rights, or memory to fork)"
    return "see the log of redis for why (disk, rights, or memory to fork)"


def _keyspace(cli: RedisCli) -> dict[str, dict[str, int]]:
    """Return {"db0": {"keys": 3, "expires": 1}} for each database that has keys."""
    found = {}
    for name, text in cli.info("keyspace").items():
        numbers = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
        found[name] = {"keys": int(numbers["keys"]), "expires": int(numbers["expires"])}
    return found


def _fetch(cli: RedisCli, target: Path, saved_at: int, limit_seconds: float) -> str:
    """Copy the saved dump to `target`; return where it came from."""
    part = target.with_suffix(".part")
    part.unlink(missing_ok=True)
    try:
        path = _dump_path(cli, saved_at)
        if path is not None:
            with path.open("rb") as source, _private(part) as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
                copy.flush()
                os.fsync(copy.fileno())
        else:
            done = cli.run("--rdb", str(part), limit_seconds=limit_seconds)
            if not part.exists():
                raise ToolError(f"redis-cli --rdb wrote no dump of redis at {cli.shown}: {last_words(done)}")
            part.chmod(0o600)
        os.replace(part, target)
    except OSError as error:
        raise ToolError(f"the dump of redis at {cli.shown} cannot be copied to {target}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return str(path) if path is not None else "redis-cli --rdb"


def _dump_path(cli: RedisCli, saved_at: int) -> Path | None:
    """Return the file the server just saved; None where it is not to be had from here.

    A server in a container names a path of its own, where this host may have a file of another server: only a file
    that was written when the server says it saved is taken.
    """
    try:
        folder, name = (cli.ask("CONFIG", "GET", key).splitlines()[1] for key in ("dir", "dbfilename"))
        found = (Path(folder) / name).stat()
    except (ToolError, IndexError, ValueError, OSError):
        return None
    path = Path(folder) / name
    fresh = stat.S_ISREG(found.st_mode) and abs(found.st_mtime - saved_at) <= 2
    return path if fresh and os.access(path, os.R_OK) else None


def _check_rdb(tools: Tools, dump: Path) -> tuple[str, dict[str, int] | None]:
    """Return ("", counts of keys) of a sound dump, (what is wrong, None) of another, ("", None) without the program."""
    try:
        done = tools.run(["redis-check-rdb", str(dump)], ok=(0, 1), as_us=True)
    except ToolMissing:
        return "", None
    words = [line for line in (done.out + done.err).splitlines() if line.strip()]
    numbers = {what: int(count) for count, what in re.findall(r"\[info\] (\d+) (keys read|expires)", done.out)}
    if done.rc != 0 or len(numbers) != 2:
        errors = [line for line in words if "[info]" not in line and "AUX FIELD" not in line and "---" not in line]
        return "redis-check-rdb: " + "; ".join(errors[-3:])[:400], None
    return "", {"keys": numbers["keys read"], "expires": numbers["expires"]}


def prove_redis(
    tools: Tools,
    dump: Path,
    scratch: Path,
    expected: Mapping[str, Any],
    *,
    limit_seconds: float = LOAD_LIMIT_SECONDS,
) -> tuple[list[str], dict[str, Any]]:
    """Load a dump into a scratch server and compare its keys with `expected`, the details of its capture.

    The server listens on a socket in `scratch` only, keeps nothing, and is always ended. Return the problems and
    {"keys": {db: {keys, expires}}, "load_seconds", "check"}. Raise ToolError where this host cannot do it.
    """
    details: dict[str, Any] = {"keys": None, "load_seconds": None, "check": ""}
    try:
        size = dump.stat().st_size
    except OSError as error:
        return [f"dump {dump} cannot be read: {error.strerror}"], details
    if size == 0:
        return [f"dump {dump} has 0 bytes"], details
    wrong, rdb = _check_rdb(tools, dump)
    if wrong:
        return [f"dump {dump} is damaged: {wrong}"], details
    if rdb is None:
        details["check"] = "redis-check-rdb is not on this host: the dump was loaded, but not checked"
    if not tools.has("redis-server"):
        return ["redis-server is not on this host: the dump was not loaded, install it for the proof"], details
    _refuse_without_memory(int(expected.get("used_memory") or 0))
    end_leftovers(scratch)
    began = time.monotonic()
    with _scratch_server(tools, dump, scratch) as process:
        cli = RedisCli(tools, {"socket": str(scratch / SOCKET)})
        wrong = _wait_loaded(cli, process, scratch, began + limit_seconds)
        if wrong:
            return [f"dump {dump} does not load: {wrong}"], details
        details["keys"], details["load_seconds"] = _keyspace(cli), round(time.monotonic() - began, 1)
    return compare_keys(expected, details["keys"]), details


def compare_keys(expected: Mapping[str, Any], loaded: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return where the loaded keys are not those of the capture.

    A key with a time to live may be gone by now. The server counted a moment before it saved: by as much as its count
    of all keys differs from that of the dump, a database may differ too.
    """
    live: Mapping[str, Mapping[str, int]] = expected.get("keys") or {}
    rdb = expected.get("rdb")
    total = sum(db["keys"] for db in loaded.values())
    problems = []
    drift = 0
    if rdb:
        drift = abs(rdb["keys"] - sum(db["keys"] for db in live.values()))
        if not rdb["keys"] - rdb["expires"] <= total <= rdb["keys"]:
            problems.append(
                f"{total} keys are in the loaded dump, {rdb['keys']} were saved ({rdb['expires']} expiring)"
            )
    for name in sorted({*live, *loaded}):
        want = live.get(name, {"keys": 0, "expires": 0})
        seen = loaded.get(name, {"keys": 0})["keys"]
        if not want["keys"] - want["expires"] - drift <= seen <= want["keys"] + drift:
            problems.append(f"{name} has {seen} keys, {want['keys']} were saved ({want['expires']} of them expiring)")
    return problems


def _refuse_without_memory(used: int) -> None:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        if used * MEMORY_FACTOR > free:
            raise ToolError(
                f"the dump needs about {human_bytes(used * MEMORY_FACTOR)} of memory to load, and {human_bytes(free)} is"
                " available: prove it on a host with more"
            )


@contextlib.contextmanager
def _scratch_server(tools: Tools, dump: Path, scratch: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a server that has loaded, or fails to load, the dump. The name of its pid file is known to end_leftovers."""
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    if len(os.fsencode(scratch / SOCKET)) > SOCKET_PATH_BYTES:
        raise ToolError(
            f"scratch folder {scratch} is too long a name for a socket: set backups_scratch_dir to a shorter"
        )
    (scratch / DUMP).unlink(missing_ok=True)
    (scratch / DUMP).symlink_to(dump.resolve())
    settings = {"port": "0", "unixsocket": str(scratch / SOCKET), "unixsocketperm": "700", "dir": str(scratch),
                "dbfilename": DUMP, "save": "", "appendonly": "no", "daemonize": "no", "logfile": str(scratch / LOG),
                "pidfile": str(scratch / PID_FILE), "maxmemory": "0", "maxmemory-policy": "noeviction"}  # fmt: skip
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    process = subprocess.Popen(
        tools.command(["redis-server", *words]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=scratch,
        start_new_session=True,
    )
    try:
        (scratch / PID_FILE).write_text(f"{process.pid}\n", encoding="ascii")
        yield process
    finally:
        end_group(process)
        for name in (PID_FILE, SOCKET, DUMP, LOG):
            (scratch / name).unlink(missing_ok=True)


def _wait_loaded(cli: RedisCli, process: subprocess.Popen[str], scratch: Path, until: float) -> str:
    """Wait until the server has loaded its dump; return what it said where it did not."""
    while time.monotonic() < until:
        if process.poll() is not None:
            log = scratch / LOG
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
            return " ".join(lines[-3:])[-400:] or f"redis-server ended with exit status {process.returncode}"
        with contextlib.suppress(ToolError):
            if cli.ask("PING") == "PONG":
                return ""
        time.sleep(POLL_SECONDS)
    return "it took longer than the time limit"


def end_leftovers(scratch: Path) -> list[int]:
    """End the scratch server of a run that was killed; return the pids ended. A pid of somebody else is left alone."""
    file = scratch / PID_FILE
    ended = []
    try:
        pid = int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        pid = 0
    if pid > 1 and _is_scratch_server(pid, scratch):
        for number in (15, 9):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            until = time.monotonic() + 10
            while _is_scratch_server(pid, scratch) and time.monotonic() < until:
                time.sleep(POLL_SECONDS)
        ended.append(pid)
    for name in (PID_FILE, SOCKET, DUMP, LOG):
        (scratch / name).unlink(missing_ok=True)
    return ended


def _is_scratch_server(pid: int, scratch: Path) -> bool:
    """Return whether the process is a redis-server at work in `scratch`; a zombie is none."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
        return name.startswith("redis-server") and os.path.samefile(f"/proc/{pid}/cwd", scratch)
    except OSError:
        return False


# SQLite


def capture_sqlite(
    path: str | os.PathLike[str],
    staging: Path,
    now: Callable[[], float] = time.time,
    *,
    name: str = "grafana",
    tables: Sequence[str] = GRAFANA_TABLES,
    limit_seconds: float = 300,
) -> Captured:
    """Copy a SQLite database that is in use to staging/`name`.db, whatever its journal mode.

    details: rows {table: count} of the `tables` it has, bytes, original {path, owner, group, mode}. Raise ToolError
    where it is missing, damaged, or busy for longer than the limit.
    """
    sqlite3 = _sqlite()
    source = Path(path)
    if not source.is_file():
        raise ToolError(f"database {source} of {name} is not there: correct its path")
    target, part = staging / f"{name}.db", staging / f"{name}.part"
    until = time.monotonic() + limit_seconds

    def in_time(status: int, remaining: int, total: int) -> None:
        if status != SQLITE_DONE and time.monotonic() > until:
            raise ToolError(f"database {source} was busy for longer than {limit_seconds:g} s")

    part.unlink(missing_ok=True)
    _private(part).close()
    at = now()
    try:
        with contextlib.ExitStack() as stack:
            live = stack.enter_context(
                contextlib.closing(sqlite3.connect(_uri(source, "mode=ro"), uri=True, timeout=5))
            )
            copy = stack.enter_context(contextlib.closing(sqlite3.connect(part, isolation_level=None)))
            # All in one step: in several, each write of the service would have it begin again.
            live.backup(copy, pages=-1, progress=in_time, sleep=POLL_SECONDS)
            # One file, without a -wal beside it.
            copy.execute("PRAGMA journal_mode = DELETE")
        rows = _sound_rows(part, tables)
        os.replace(part, target)
    except sqlite3.Error as error:
        raise ToolError(f"database {source} of {name} cannot be copied: {error}") from error
    finally:
        for left in (part, Path(f"{part}-journal"), Path(f"{part}-wal"), Path(f"{part}-shm")):
            left.unlink(missing_ok=True)
    was = _entry(source, content=False)
    original = {"path": str(source), "owner": was.owner, "group": was.group, "mode": was.mode}
    details = {"rows": rows, "bytes": target.stat().st_size, "original": original}
    return Captured(name, "sqlite", _iso(at), [_entry(target)], details)


def prove_sqlite(file: Path, expected: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a restored database: its pages, or its rows beside `expected`, the capture's details."""
    sqlite3 = _sqlite()
    if not file.is_file():
        return [f"database {file} is missing"]
    want: Mapping[str, int] = expected.get("rows") or {}
    try:
        rows = _sound_rows(file, list(want))
    except (ToolError, sqlite3.Error) as error:
        return [f"database {file} is damaged: {error}"]
    return [
        f"table {table} of {file} has {rows.get(table, 0)} rows, {count} were saved"
        for table, count in want.items()
        if rows.get(table) != count
    ]


def _sqlite() -> Any:
    try:
        import sqlite3  # noqa: PLC0415  some builds of Python come without it, and the other components need none
    except ImportError:
        raise ToolMissing("this host's Python has no module sqlite3: install python3's full standard library") from None
    return sqlite3


def _uri(path: Path, query: str) -> str:
    return f"file:{quote(str(path))}?{query}"


def _sound_rows(file: Path, tables: Sequence[str]) -> dict[str, int]:
    """Return the row counts of the tables that are there. Raise ToolError where the database is not sound."""
    # Immutable: nobody else is at it, and nothing is to be written beside it.
    with contextlib.closing(_sqlite().connect(_uri(file, "mode=ro&immutable=1"), uri=True)) as copy:
        found = [str(row[0]) for row in copy.execute("PRAGMA integrity_check(10)")]
        if found != ["ok"]:
            raise ToolError("integrity_check says: " + "; ".join(found)[:400])
        there = {row[0] for row in copy.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        quoted = {table: '"' + table.replace('"', '""') + '"' for table in tables if table in there}
        return {
            table: int(copy.execute(f"SELECT count(*) FROM {name}").fetchone()[0])  # noqa: S608  a quoted name
            for table, name in quoted.items()
        }


# Files


def capture_files(
    name: str, paths: Sequence[str], excludes: Sequence[str] = (), now: Callable[[], float] = time.time
) -> Captured:
    """Describe files and folders as they are; they stay where they are, for the snapshot to take.

    Links are described, not followed. `excludes` are patterns as restic takes them. Missing and unreadable paths are in
    `problems`; sockets, pipes and devices, of which nothing is kept, in details["skipped"].
    """
    files: list[FileEntry] = []
    problems: list[str] = []
    skipped: list[str] = []
    at = now()
    for path in paths:
        if not os.path.lexists(path):
            problems.append(f"{path} is not there")
            continue
        for one in _tree(Path(path), excludes, problems):
            try:
                mode = one.lstat().st_mode
                if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
                    files.append(_entry(one))
                else:
                    skipped.append(str(one))
            except FileNotFoundError:
                continue  # it went while we looked
            except OSError as error:
                problems.append(f"{one} cannot be read: {error.strerror}")
    details = {"paths": list(paths), "bytes": sum(entry.bytes for entry in files), "skipped": skipped}
    return Captured(name, "files", _iso(at), files, details, problems)


def prove_files(root: Path, expected: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return how the tree restored below `root` differs from the entries of the manifest; more than those is fine."""
    problems = []
    for entry in expected:
        path = root / str(entry["path"]).lstrip("/")
        try:
            seen = _entry(path)
        except FileNotFoundError:
            problems.append(f"{entry['path']} is missing")
            continue
        except OSError as error:
            problems.append(f"{entry['path']} cannot be read: {error.strerror}")
            continue
        problems += _differences(entry, seen)
    return problems


def _differences(entry: Mapping[str, Any], seen: FileEntry) -> list[str]:
    path = entry["path"]
    kind = entry.get("kind", "file")
    if seen.kind != kind:
        return [f"{path} is a {seen.kind}, a {kind} was saved"]
    found = []
    if seen.sha256 != entry["sha256"]:
        what = "target" if kind == "link" else "content"
        found.append(f"{path} has another {what} than was saved ({seen.bytes} bytes, {entry['bytes']} were saved)")
    for name in ("owner", "group", "mode"):
        # A link has no mode of its own on Linux.
        if getattr(seen, name) != entry[name] and not (kind == "link" and name == "mode"):
            found.append(f"{path} has {name} {getattr(seen, name)}, {entry[name]} was saved")
    return found


def _tree(path: Path, excludes: Sequence[str], problems: list[str]) -> Iterator[Path]:
    """Yield a path and all below it, without what is excluded."""
    if excluded(str(path), excludes):
        return
    yield path
    if path.is_symlink() or not path.is_dir():
        return
    try:
        inside = sorted(path.iterdir())
    except OSError as error:
        problems.append(f"{path} cannot be read: {error.strerror}")
        return
    for one in inside:
        yield from _tree(one, excludes, problems)


def excluded(path: str, patterns: Sequence[str]) -> bool:
    """Return whether restic would leave out this path for one of its exclude patterns.

    https://restic.readthedocs.io/en/stable/040_backup.html#excluding-files
    """
    parts = [part for part in path.split("/") if part]
    for pattern in patterns:
        # Go writes [^a] where Python has [!a].
        wanted = [part.replace("[^", "[!") for part in pattern.split("/") if part]
        starts = range(1) if pattern.startswith("/") else range(len(parts))
        if wanted and any(_matches(parts[start:], wanted) for start in starts):
            return True
    return False


def _matches(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    """Return whether the first parts of a path are as wanted; ** stands for any number of them."""
    if not wanted:
        return True
    if wanted[0] == "**":
        return any(_matches(parts[skip:], wanted[1:]) for skip in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], wanted[0]) and _matches(parts[1:], wanted[1:])


def _entry(path: Path, content: bool = True) -> FileEntry:
    """Describe one file, link or folder. Raise OSError where it is gone or cannot be read."""
    found = path.lstat()
    mode = f"{stat.S_IMODE(found.st_mode):04o}"
    owner, group = _owner(found.st_uid), _group(found.st_gid)
    if stat.S_ISLNK(found.st_mode):
        digest = hashlib.sha256(os.fsencode(os.readlink(path))).hexdigest()
        return FileEntry(str(path), digest, 0, owner, group, mode, "link")
    if stat.S_ISDIR(found.st_mode):
        return FileEntry(str(path), "", 0, owner, group, mode, "folder")
    if not stat.S_ISREG(found.st_mode):
        return FileEntry(str(path), "", 0, owner, group, mode, "special file")
    digest, size = _digest(path) if content else ("", found.st_size)
    return FileEntry(str(path), digest, size, owner, group, mode)


def _digest(path: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


# Keys and certificates


def prove_keys(
    tools: Tools, root: Path, paths: Iterable[str], now: Callable[[], float] = time.time
) -> list[KeyFinding]:
    """Return what is wrong with the private keys and certificates among the files `paths` restored below `root`.

    A key must belong to the certificate beside it (its own name with another ending; certbot's privkey.pem and
    cert.pem), or else to one of the set. Expired certificates are warnings, keys with a passphrase notes.
    """
    found: list[KeyFinding] = []
    keys: dict[str, str] = {}
    certificates: dict[str, str] = {}
    for path in sorted(set(paths)):
        text = _pem(root / path.lstrip("/"))
        if text is None:
            continue
        if "-----BEGIN CERTIFICATE-----" in text:
            found += _read_certificate(tools, root, path, certificates, now())
        if re.search(r"-----BEGIN [A-Z ]*PRIVATE KEY-----", text) or path.endswith(".key"):
            found += _read_key(tools, root, path, text, keys)
    for path, public in keys.items():
        beside = [other for other in certificates if _stem(other) == _stem(path)]
        foreign = [other for other in beside if certificates[other] != public]
        if foreign:
            found.append(KeyFinding("problem", path, f"does not belong to the certificate {', '.join(foreign)}"))
        elif certificates and not beside and public not in certificates.values():
            found.append(KeyFinding("problem", path, f"belongs to none of the certificates {', '.join(certificates)}"))
    return found


def _pem(path: Path) -> str | None:
    """Return the content of a small regular file as text; None of any other."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or not 0 < found.st_size <= KEY_FILE_LIMIT_BYTES:
            return None
        return path.read_bytes().decode("latin-1")
    except OSError:
        return None


def _read_certificate(
    tools: Tools, root: Path, path: str, certificates: dict[str, str], now: float
) -> list[KeyFinding]:
    """Put a certificate's public key into `certificates`; return what is wrong with it."""
    file = str(root / path.lstrip("/"))
    argv = ["openssl", "x509", "-in", file, "-noout", "-pubkey", "-enddate"]
    done = tools.run(argv, ok=range(256), as_us=True, limit_seconds=30)
    ends = re.search(r"^notAfter=(.*)$", done.out, re.M)
    if done.rc != 0 or ends is None:
        return [KeyFinding("problem", path, f"is no certificate openssl can read: {last_words(done)[:200]}")]
    certificates[path] = _public(done.out)
    end = ssl.cert_time_to_seconds(ends.group(1).strip())
    return [KeyFinding("warning", path, f"expired at {_iso(end)}")] if end <= now else []


def _read_key(tools: Tools, root: Path, path: str, text: str, keys: dict[str, str]) -> list[KeyFinding]:
    """Put a private key's public half into `keys`; return what is wrong with it."""
    if "ENCRYPTED" in text:
        return [KeyFinding("note", path, "has a passphrase: it was not compared with its certificate")]
    if "BEGIN OPENSSH PRIVATE KEY" in text:
        return [KeyFinding("note", path, "is a key of OpenSSH, which no certificate here belongs to")]
    pem = "-----BEGIN" in text
    argv = ["openssl", "pkey", "-in", str(root / path.lstrip("/")), "-pubout", "-passin", "pass:"]
    done = tools.run([*argv, *([] if pem else ["-inform", "DER"])], ok=range(256), as_us=True, limit_seconds=30)
    if done.rc == 0:
        keys[path] = _public(done.out)
        return []
    if pem:
        return [KeyFinding("problem", path, f"is no private key openssl can read: {last_words(done)[:200]}")]
    return [KeyFinding("note", path, "is named .key, and is no private key openssl knows")]


def _public(text: str) -> str:
    found = re.search(r"-----BEGIN PUBLIC KEY-----(.*?)-----END PUBLIC KEY-----", text, re.S)
    return re.sub(r"\s", "", found.group(1)) if found else ""


def _stem(path: str) -> str:
    """Return what a key and its certificate have in common: folder and name; certbot's names count as one."""
    folder, _, name = path.rpartition("/")
    stem = name.rsplit(".", 1)[0]
    return f"{folder}/{re.sub(r'^(?:privkey|fullchain|cert)(?=[0-9]*$)', 'certbot', stem)}"


def _private(path: Path) -> Any:
    """Create a file for ourselves alone and return it, open for writing bytes."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
