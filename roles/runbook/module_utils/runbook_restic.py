# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""restic 0.14 and newer: what it says is sorted by cause, its locks are judged one by one, its files are proven.

Exit statuses with a meaning came with 0.17 (10 no repository, 11 locked, 12 wrong password); before, the text alone
tells. https://restic.readthedocs.io/en/stable/075_scripting.html#exit-codes
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from ansible.module_utils.runbook_psql import PsqlUnreachable, child_identity
from ansible.module_utils.runbook_tools import Done, ToolError, Tools, end_group, version

OLDEST = (0, 14)
SCHEMES = ("sftp:", "rest:", "s3:", "b2:", "swift:", "azure:", "gs:", "rclone:")
# An answer to "is it there" that takes longer than this is none; restic itself would retry for 15 minutes.
STATE_LIMIT_SECONDS = 60
# The time of boot, from which the start of a process is reckoned, moves with corrections of the clock.
CLOCK_MARGIN_SECONDS = 60
RETRY_SECONDS = 5
INCOMPLETE = 3
ANY_STATUS = range(256)
T = TypeVar("T")
KINDS = {"data": "pack", "index": "index", "snapshots": "snapshot", "keys": "key"}
ASIDE = "damaged"
INDEX_DUE = "index-is-due"


class WrongPassword(ToolError):
    """The repository does not open with this password (or the file of its key is damaged)."""


class Unreachable(ToolError):
    """Nobody answers at the location, or refuses who we are there."""


class ReadOnly(ToolError):
    """The repository can be read, but not written."""


class RepositoryFull(ToolError):
    """There is no room left where the repository is."""


class Locked(ToolError):
    """Somebody holds a lock on the repository; the text is restic's own about whom."""


class Absent(ToolError):
    """There is no repository at the location."""


class Incomplete(ToolError):
    """Some of what was to be backed up could not be read: `items` names it."""

    def __init__(self, message: str, items: list[str]) -> None:
        super().__init__(message, INCOMPLETE)
        self.items = items


# In this order: "unable to open config file" is said about an absent repository and about one nobody answers for.
_CAUSES: tuple[tuple[type[ToolError], str, str], ...] = (
    (RepositoryFull, r"no space left on device|disk quota exceeded|quotaexceeded|storagefull|insufficient storage|"
     r"507 insufficient|not enough space", "it is full: free space there, or let retention forget more"),
    (WrongPassword, r"wrong password or no key found|no key found|password is incorrect|an empty password",
     "it does not open: the password is wrong, or the file of its key is damaged"),
    (Locked, r"repository is already locked|already locked exclusively", "somebody else is at work in it"),
    (Unreachable, r"connection refused|connection reset|connection timed out|no such host|could not resolve|"
     r"i/o timeout|no route to host|network is unreachable|deadline exceeded|host key verification failed|"
     r"permission denied \(|unable to start the sftp session|x509:|tls:|certificate signed by|"
     r"invalidaccesskeyid|access key id|signaturedoesnotmatch|signature we calculated|401 unauthorized|"
     r"(?<![0-9a-f])50[234] |transport endpoint is not connected|stale (?:nfs )?file handle|stuck", "it cannot be reached"),
    (ReadOnly, r"read-only file system|permission denied|operation not permitted|403 forbidden|access ?denied|"
     r"blocked in append-only mode", "it cannot be written"),
    (Absent, r"repository does not exist|is there a repository at the following location|unable to open config file",
     "there is no repository"),
    # OpenSSH's server has one word for most of what goes wrong.
    (ToolError, r"ssh_fx_failure", "the SFTP server says no more than Failure: its disk is full, or read-only"),
)  # fmt: skip
_STATUSES: dict[int, type[ToolError]] = {10: Absent, 11: Locked, 12: WrongPassword}


@dataclass(frozen=True)
class Repository:
    """Where backups are kept and how they are opened.

    `location` is a folder, or sftp:, rest:, s3: with what restic expects after it; `environment` are credentials
    (AWS_ACCESS_KEY_ID, RESTIC_REST_PASSWORD...), `options` restic's extended ones, such as "sftp.command=ssh ... -s sftp".
    """

    location: str
    password: str = field(repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    options: Sequence[str] = ()
    cache_dir: str | None = None
    limit_upload_kib: int | None = None
    limit_download_kib: int | None = None
    cacert: str | None = None

    @property
    def local(self) -> Path | None:
        """The folder of a local repository; None for one elsewhere."""
        if self.location.startswith(SCHEMES):
            return None
        return Path(self.location[6:] if self.location.startswith("local:") else self.location)

    @property
    def shown(self) -> str:
        """The location without the password that may be in it."""
        return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", self.location)


@dataclass(frozen=True)
class Snapshot:
    """One state of backed up paths. `time` is UTC, `id` has all its 64 digits."""

    id: str
    time: datetime
    tags: list[str]
    paths: list[str]
    host: str


@dataclass(frozen=True)
class Backup:
    """What a backup did: its snapshot's full id, and how much it read and really added."""

    snapshot: str
    files: int
    bytes_processed: int
    bytes_added: int
    seconds: float


@dataclass(frozen=True)
class Lock:
    """A lock in the repository. `time` is UTC. One that cannot be read has host "", pid 0 and the time of its file."""

    id: str
    host: str
    pid: int
    user: str
    time: datetime
    exclusive: bool

    def __str__(self) -> str:
        since = f"{self.time:%Y-%m-%dT%H:%M:%SZ}"
        if not self.host:
            return f"lock {self.id[:8]} since {since}, which cannot be read"
        kind = "exclusive lock" if self.exclusive else "lock"
        return f"{kind} {self.id[:8]} of pid {self.pid} ({self.user}) on {self.host} since {since}"


class Restic:
    """One repository. Every method raises ToolError or one of its kinds above; no text holds a secret.

    `wait_lock_seconds` is how long somebody else's lock is waited for (restic's own --retry-lock came with 0.16),
    `limit_seconds` how long one run of restic may take.
    """

    def __init__(
        self,
        repository: Repository,
        tools: Tools,
        now: Callable[[], float] = time.time,
        *,
        wait_lock_seconds: float = 0,
        limit_seconds: float | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        if not repository.password:
            raise ToolError(f"the password of repository {repository.shown} is empty: set backups_repository_password")
        if repository.local is not None and not repository.local.is_absolute():
            raise ToolError(f"repository {repository.location!r} is not an absolute path, nor sftp:, rest: or s3:")
        self.repository, self.tools = repository, tools
        self._now, self._pause = now, pause
        self._wait, self._limit = wait_lock_seconds, limit_seconds
        self._version: tuple[int, ...] | None = None

    def version(self) -> tuple[int, ...]:
        """Return restic's version, such as (0, 14, 0). Raise ToolError if it is older than we know how to use."""
        if self._version is None:
            text = self.tools.run(["restic", "version"], limit_seconds=30).out
            found = version(text)
            if found < OLDEST:
                seen = text.strip().split(" compiled")[0]
                raise ToolError(f"{seen!r} is too old: restic {OLDEST[0]}.{OLDEST[1]} or newer is needed")
            self._version = found
        return self._version

    def state(self) -> str:
        """Return "ready" or "absent". Raise WrongPassword, Unreachable or another ToolError where neither is true."""
        local = self.repository.local
        if local is not None and not _has_config(local):
            return "absent"
        try:
            self._run("cat", "config", "--no-lock", limit_seconds=STATE_LIMIT_SECONDS)
        except Absent:
            return "absent"
        except ToolError as error:
            if type(error) is ToolError and error.rc is None:
                raise Unreachable(f"repository {self.repository.shown} gave no answer: {error}") from error
            raise
        return "ready"

    def init(self) -> None:
        """Create the repository. Raise ToolError where there is one, or parts of one."""
        if self.state() == "ready":
            raise ToolError(f"there is a repository at {self.repository.shown} already")
        self._run("init")

    def snapshots(self, tags: Sequence[str] | None = None) -> list[Snapshot]:
        """Return the snapshots that have all the given tags, oldest first. Takes no lock."""
        chosen = [f"--tag={','.join(_plain(tags))}"] if tags else []
        rows = json.loads(self._run("snapshots", "--json", "--no-lock", *chosen).out or "null") or []
        return sorted((_snapshot(row) for row in rows), key=lambda s: (s.time, s.id))

    def backup(self, paths: Sequence[str], tags: Sequence[str], host: str, excludes: Sequence[str] = ()) -> Backup:
        """Back up files and folders into one snapshot.

        Raise Incomplete naming what could not be read; the snapshot without it is forgotten again.
        """
        missing = [path for path in paths if not os.path.lexists(path)]
        if missing or not paths:
            raise Incomplete(f"not there to be backed up: {', '.join(missing) or 'no path was given'}", missing)
        scan = ["--no-scan"] if self.version() >= (0, 15) else []
        words = [*_tagged(tags, host), *scan, *(f"--exclude={pattern}" for pattern in excludes)]
        for again in ((), ("--force",)):
            done = self._run("backup", "--json", *again, *words, "--", *paths, writes=True, ok=(0, INCOMPLETE))
            if done.rc != INCOMPLETE:
                return self._summary(done)
            # A file whose content was lost from the repository counts as unread, though it is stored again: only a run
            # that looks at no earlier snapshot tells it from one that cannot be read.
            told = self._forget_incomplete(done)
        items = _unread(done)
        raise Incomplete(f"restic could not read {', '.join(items) or 'some files'}: {_gist(done)}{told}", items)

    def _forget_incomplete(self, done: Done) -> str:
        """Forget the snapshot of a backup that is not whole; return what went wrong with that, or ""."""
        try:
            self.forget([self._summary(done).snapshot], prune=False)
        except ToolError as error:
            return f"; its incomplete snapshot could not be forgotten: {error}"
        return ""

    def store(self, name: str, content: bytes, tags: Sequence[str], host: str) -> str:
        """Back up bytes as the file /`name`; return the full id of the snapshot."""
        if not name or "/" in name:
            raise ToolError(f"{name!r} is not a plain file name")
        words = ["--stdin", f"--stdin-filename={name}", "--json", *_tagged(tags, host)]
        return self._summary(self._run("backup", *words, writes=True, content=content)).snapshot

    def read(self, snapshot: str, path: str) -> bytes:
        """Return the content of one file of a snapshot, by its path as backed up."""
        self.version()
        argv = ["restic", *self._globals(), "dump", *self._reading(), snapshot, path]
        return self._patiently(lambda: self._exchange(argv, None))[1]

    def restore(self, snapshot: str, target: Path, include: Sequence[str] = (), verify: bool = True) -> float:
        """Restore a snapshot, or the paths of it named in `include`, below `target`; return the seconds it took.

        Raise ToolError where a file differs after it was written, and where a path is not in the snapshot.
        """
        patterns = [f"--include={_literal_pattern(path)}" for path in include]
        words = [f"--target={target}", *patterns, *(["--verify"] if verify else [])]
        done = self._run("restore", *self._reading(), *words, snapshot)
        missing = [path for path in include if not os.path.lexists(target / path.lstrip("/"))]
        if missing:
            raise ToolError(f"snapshot {snapshot[:8]} does not hold {', '.join(missing)}")
        return done.seconds

    def forget(self, ids: Sequence[str], prune: bool) -> list[str]:
        """Forget exactly these snapshots, and with `prune` remove what no snapshot needs any more.

        Return the names of the files this removed from a local repository, for `after_forget`; [] for others.
        """
        before = _names(self.repository.local)
        if ids:
            self._run("forget", *(["--prune"] if prune else []), *ids, writes=True)
            left = {snapshot.id for snapshot in self.snapshots()}
            kept = [id for id in ids if any(one.startswith(id) for one in left)]
            if kept:
                raise ToolError(f"restic forgot all but {', '.join(kept)}: does the location allow removal?")
        elif prune:
            self._run("prune", writes=True)
        return sorted(before - _names(self.repository.local))

    def check(self, subset: str | None = None) -> list[str]:
        """Return what is wrong with the repository, one text each; [] if it is sound.

        `subset` such as "3/7" reads that part of the packs too.
        """
        if subset is not None and not re.fullmatch(r"[1-9]\d*/[1-9]\d*", subset):
            raise ToolError(f"{subset!r} is not a part of the repository, such as 3/7")
        part = [f"--read-data-subset={subset}"] if subset else []
        done = self._run("check", *self._reading(), *part, ok=(0, 1))
        if done.rc == 0:
            return []
        noise = re.compile(
            r"repository contains errors|^load indexes|^check |^create |^\[|^read |^using temporary cache"
        )
        lines = [line for line in _lines(done.err) if not noise.search(line)]
        return lines or [_gist(done)]

    def set_aside(self, names: Sequence[str]) -> None:
        """Move damaged packs and indexes of a local repository into its folder `damaged`, and make the index anew.

        `names` are those of `damaged_files`. The next backup of what they held saves it again; what is in older
        snapshots alone is lost, and `check` names it. Killed in between, `damaged_files` tells that the index is due.
        """
        local = self.repository.local
        if local is None:
            raise ToolError(f"repository {self.repository.shown} is elsewhere: run restic repair index there")
        aside = local / ASIDE
        aside.mkdir(mode=0o700, exist_ok=True)
        (aside / INDEX_DUE).touch()
        for name in names:
            if (local / name).parent != aside:
                os.replace(local / name, aside / Path(name).name)
        self._run(*(["repair", "index"] if self.version() >= (0, 16) else ["rebuild-index"]), writes=True)
        (aside / INDEX_DUE).unlink()

    def locks(self) -> list[Lock]:
        """Return the locks in the repository, oldest first; one that goes while we look is left out."""
        found = []
        for id in self._lock_ids():
            try:
                found.append(_lock(id, json.loads(self._run("cat", "lock", id, "--no-lock").out)))
            except (ToolError, ValueError, KeyError):
                # restic renews its lock every five minutes under a new name: gone is not unreadable.
                if id in self._lock_ids():
                    found.append(Lock(id, "", 0, "", self._written(id), False))
        return sorted(found, key=lambda lock: lock.time)

    def _written(self, id: str) -> datetime:
        """Return when the file of a lock was written; the beginning of time where that cannot be seen."""
        local = self.repository.local
        try:
            seconds = (local / "locks" / id).stat().st_mtime if local is not None else 0.0
        except OSError:
            seconds = 0.0
        return datetime.fromtimestamp(seconds, timezone.utc)

    def judged_locks(self, host: str, min_age_seconds: float) -> list[tuple[Lock, str]]:
        """Return each lock with the reason why it stays; "" for one whose holder provably is no more.

        Only a process of this very host is provable. `host` is its name as restic writes it into locks (the node name).
        A living restic renews its lock every five minutes: with `min_age_seconds` above 600 not even one in a container
        that shares our name is taken for dead.
        """
        return [(lock, self._kept_because(lock, host, min_age_seconds)) for lock in self.locks()]

    def release_stale(self, host: str, min_age_seconds: float) -> list[Lock]:
        """Remove the locks that `judged_locks` gives no reason to keep; return those that are gone.

        `restic unlock` also takes every lock older than 30 minutes, whoever holds it. A lock is one file under its own
        name, so in a folder exactly ours are unlinked. Elsewhere restic is the only way in: it is asked only where
        there is no lock but provably dead ones; one that is taken meanwhile is too new for it.
        """
        judged = self.judged_locks(host, min_age_seconds)
        stale = [lock for lock, reason in judged if not reason]
        local = self.repository.local
        if local is not None:
            for lock in stale:
                try:
                    (local / "locks" / lock.id).unlink()
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise ReadOnly(f"{lock} cannot be removed: {error.strerror}") from error
            return stale
        if not stale or len(stale) < len(judged):
            return []
        self._run("unlock")
        left = set(self._lock_ids())
        return [lock for lock in stale if lock.id not in left]

    def _kept_because(self, lock: Lock, host: str, min_age_seconds: float) -> str:
        if not lock.host:
            return "it cannot be read"
        if lock.host != host or host != os.uname().nodename:
            return f"it is of host {lock.host}, whose processes are not seen from here"
        age = self._now() - lock.time.timestamp()
        if age < min_age_seconds:
            return f"it is {max(age, 0):.0f} s old, less than {min_age_seconds:.0f} s"
        return "" if holder_is_gone(lock) else f"process {lock.pid} is running"

    def _lock_ids(self) -> list[str]:
        return re.findall(r"^[0-9a-f]{64}$", self._run("list", "locks", "--no-lock").out, re.M)

    def _globals(self) -> list[str]:
        repository = self.repository
        words = [f"--cache-dir={repository.cache_dir}"] if repository.cache_dir else ["--no-cache"]
        words += [f"--option={option}" for option in repository.options]
        for name, value in (("limit-upload", repository.limit_upload_kib), ("cacert", repository.cacert),
                            ("limit-download", repository.limit_download_kib)):  # fmt: skip
            if value is not None:
                words.append(f"--{name}={value}")
        return words

    def _environment(self) -> dict[str, str]:
        # What the operator's own shell says about another repository must not win over ours.
        other = {name: "" for name in os.environ if name.startswith("RESTIC_")}
        # The location goes here as well: a rest: URL may hold a password, and argv is for everyone to read.
        ours = {"RESTIC_REPOSITORY": self.repository.location, "RESTIC_PASSWORD": self.repository.password}
        return {**other, **self.repository.environment, **ours, "RESTIC_PROGRESS_FPS": "0.02"}

    def _reading(self) -> list[str]:
        """The words for reading with a lock, so that nobody prunes meanwhile; without where none can be written."""
        return ["--no-lock"] if _cannot_write(self.repository.local) else []

    def _run(
        self,
        *words: str,
        writes: bool = False,
        content: bytes | None = None,
        ok: Sequence[int] = (0,),
        limit_seconds: float | None = None,
    ) -> Done:
        self.version()
        argv = ["restic", *self._globals(), *words]
        reason = _cannot_write(self.repository.local) if writes else ""
        if reason:
            # restic retries the writing of its lock for a minute before it says so.
            raise ReadOnly(f"repository {self.repository.shown} cannot be written: {reason}")

        def once() -> Done:
            if content is not None:
                return self._exchange(argv, content)[0]
            limit = limit_seconds or self._limit
            done = self.tools.run(argv, env=self._environment(), limit_seconds=limit, ok=ANY_STATUS)
            self._raise_for(words[0], done, ok)
            return done

        return self._patiently(once)

    def _patiently(self, once: Callable[[], T]) -> T:
        until = self._now() + self._wait
        while True:
            try:
                return once()
            except Locked:
                if self._now() >= until:
                    raise
            self._pause(RETRY_SECONDS)

    def _exchange(self, argv: Sequence[str], content: bytes | None) -> tuple[Done, bytes]:
        """Run restic with bytes to read and to write, which Tools.run would take for text."""
        began = time.monotonic()
        try:
            identity = child_identity(self.tools.os_user)
        except PsqlUnreachable as error:
            raise ToolError(str(error)) from error
        process = subprocess.Popen(
            self.tools.command(argv),
            stdin=subprocess.DEVNULL if content is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C.UTF-8", **self._environment()},
            cwd="/",
            start_new_session=True,
            **identity,
        )
        try:
            out, err = process.communicate(content, timeout=self._limit)
        except subprocess.TimeoutExpired:
            end_group(process)
            raise ToolError(f"restic took longer than {self._limit:g} s and was ended") from None
        except BaseException:
            end_group(process)
            raise
        text = out.decode("utf-8", "replace") if content is not None else ""
        done = Done(process.returncode, text, err.decode("utf-8", "replace"), time.monotonic() - began)
        self._raise_for("backup" if content is not None else "dump", done, (0,))
        return done, out

    def _raise_for(self, verb: str, done: Done, ok: Sequence[int]) -> None:
        """Raise the error for an exit status that is not fine; a problem `check` found is no error of check."""
        if done.rc in ok and not (verb == "check" and done.rc):
            return
        cause, advice = classify(done.rc, done.err + done.out, self.version())
        if cause is ToolError and done.rc in ok:
            return
        gist = _gist(done).replace(self.repository.location, self.repository.shown)
        raise cause(
            f"restic {verb} on repository {self.repository.shown} failed"
            f"{': ' + advice if advice else f' with exit status {done.rc}'} ({gist})",
            done.rc,
            gist,
        )

    def _summary(self, done: Done) -> Backup:
        row = next((row for row in _messages(done.out) if row.get("message_type") == "summary"), None)
        if row is None or not row.get("snapshot_id"):
            raise ToolError(f"restic backup told of no snapshot: {_gist(done)}", done.rc, done.out)
        return Backup(
            self._full_id(row["snapshot_id"]),
            int(row["total_files_processed"]),
            int(row["total_bytes_processed"]),
            int(row["data_added"]),
            float(row.get("total_duration", done.seconds)),
        )

    def _full_id(self, id: str) -> str:
        """Return all 64 digits of a snapshot's id, of which restic before 0.15 tells eight."""
        if len(id) == 64:
            return id
        rows = json.loads(self._run("snapshots", "--json", "--no-lock", id).out or "null") or []
        found = [str(row["id"]) for row in rows if row["id"].startswith(id)]
        if len(found) != 1:
            raise ToolError(f"snapshot {id} of this very backup is not in the repository {self.repository.shown}")
        return found[0]


def classify(rc: int, text: str, restic: tuple[int, ...]) -> tuple[type[ToolError], str]:
    """Return the kind of error and what it means, from restic's exit status, its words and its version."""
    if restic >= (0, 17) and rc in _STATUSES:
        kind = _STATUSES[rc]
        return kind, next(advice for cause, _, advice in _CAUSES if cause is kind)
    for kind, pattern, advice in _CAUSES:
        if re.search(pattern, text, re.I):
            return kind, advice
    return ToolError, ""


def subset_for(day: int, parts: int) -> str:
    """Return which of `parts` parts of the packs is read on a day (a running number), such as "3/7"."""
    if parts < 1:
        raise ValueError(f"parts is {parts}; it must be 1 or more")
    return f"{day % parts + 1}/{parts}"


def holder_is_gone(lock: Lock) -> bool:
    """Return whether the process of a lock of this host does not run, or is another that got its number later."""
    if lock.pid <= 0:
        return False
    try:
        os.kill(lock.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # somebody else's, but there
    try:
        # The name in brackets may hold anything: fields are counted from the last bracket.
        fields = Path(f"/proc/{lock.pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = next(
            line for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines() if line[:6] == "btime "
        )
    except (OSError, StopIteration):
        return False  # /proc that hides it (hidepid) proves nothing
    if fields[0] in "ZX":
        return True
    started = int(boot.split()[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return started > lock.time.timestamp() + CLOCK_MARGIN_SECONDS


def new_marks() -> dict[str, Any]:
    """Return marks that know no file: {"files": {name: [size, mtime_ns, ctime_ns]}, "forgetting": bool}."""
    return {"files": {}, "forgetting": False}


def before_forget(marks: Mapping[str, Any]) -> dict[str, Any]:
    """Return marks under which missing files are not judged; to be saved before `forget`, which may be killed."""
    return {"files": dict(marks.get("files", {})), "forgetting": True}


def after_forget(marks: Mapping[str, Any], removed: Iterable[str]) -> dict[str, Any]:
    """Return the marks without the files that `forget` removed."""
    gone = set(removed)
    files = {name: mark for name, mark in marks.get("files", {}).items() if name not in gone}
    return {"files": files, "forgetting": False}


def verify_local(location: str, marks: Mapping[str, Any], full: bool) -> tuple[list[str], dict[str, Any]]:
    """Compare every file of a local repository with its name, which is the sha256 of its content.

    Files that are as their mark says (size, mtime, ctime) are skipped unless `full`. Return one text for each problem,
    and the new marks: a damaged file gets none, so that it is told of until it is whole. A file the marks knew that is
    there no more is a problem too, once.
    """
    root = Repository(location, "-").local
    if root is None or not (root / "config").is_file():
        return [f"{location} holds no local restic repository: its file config is missing"], new_marks()
    known: dict[str, Any] = marks.get("files", {})
    problems: list[str] = []
    files: dict[str, list[int]] = {}
    for name in sorted(_names(root)):
        try:
            found = (root / name).stat()
            mark = [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
            wrong = "" if not full and list(known.get(name, ())) == mark else _differs(root / name)
        except OSError as error:
            wrong = f"cannot be read: {error.strerror}"
        if wrong:
            problems.append(f"{_kind(name)} {root / name} {wrong}")
        else:
            files[name] = mark
    if not marks.get("forgetting"):
        lost = sorted(name for name in known if name not in files and not os.path.lexists(root / name))
        problems += [f"{_kind(name)} {root / name} is gone, and no forget of ours removed it" for name in lost]
    return problems, {"files": files, "forgetting": False}


def damaged_files(location: str, problems: Iterable[str]) -> list[str]:
    """Return the packs and indexes that `verify_local` found damaged, relative to a local repository, for `set_aside`."""
    root = Repository(location, "-").local
    if root is None:
        return []
    pattern = re.compile(rf"(?:pack|index) {re.escape(str(root))}/((?:data/[0-9a-f]{{2}}|index)/[0-9a-f]{{64}}) is damaged")
    found = [match[1] for problem in problems if (match := pattern.match(problem))]
    due = f"{ASIDE}/{INDEX_DUE}"
    return found + ([due] if (root / due).exists() else [])


def pack_bytes(location: str) -> int:
    """Return the size of all packs of a local repository, in bytes."""
    root = Repository(location, "-").local
    total = 0
    for name in _names(root):
        if root is not None and name.startswith("data/"):
            with contextlib.suppress(FileNotFoundError):
                total += (root / name).stat().st_size
    return total


def _kind(name: str) -> str:
    return KINDS[name.split("/", 1)[0]]


def _differs(path: Path) -> str:
    """Return how the content of a file differs from its name; "" if it does not."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if hasattr(os, "posix_fadvise"):
            # The disk is to be read, not what memory remembers of it.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        size = os.fstat(file.fileno()).st_size
    if digest.hexdigest() == path.name:
        return ""
    return f"is damaged: its {size} bytes have the sha256 {digest.hexdigest()[:16]}..., which is not its name"


def _names(root: Path | None) -> set[str]:
    """Return the files of a local repository that are named by their content, relative to it."""
    return set() if root is None else set(_walk(root))


def _walk(root: Path) -> Iterator[str]:
    for kind in KINDS:
        for folder, _, files in os.walk(root / kind):
            for name in files:
                if re.fullmatch(r"[0-9a-f]{64}", name):
                    yield str((Path(folder) / name).relative_to(root))


def _has_config(root: Path) -> bool:
    """Return whether a folder holds a repository. Raise where that cannot be seen, or where only its config is lost."""
    try:
        if (root / "config").stat():
            return True
    except NotADirectoryError:
        raise ToolError(f"repository {root} is not a folder") from None
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Unreachable(f"repository {root} cannot be looked into: {error.strerror}") from error
    parts = sorted(name for name in _names(root) if not name.startswith("keys/"))
    if parts:
        raise ToolError(
            f"repository {root} is damaged: its file config is missing, but {len(parts)} files of backups are there; "
            "bring config back from a copy, and do not create a repository in its place"
        )
    return False


def _cannot_write(root: Path | None) -> str:
    """Return why a local repository cannot be written; "" if it can, is elsewhere, or is not there yet."""
    if root is None or not root.is_dir():
        return ""
    if os.statvfs(root).f_flag & os.ST_RDONLY:
        return "its file system is mounted read-only"
    locks = root / "locks"
    return "" if os.access(locks if locks.is_dir() else root, os.W_OK | os.X_OK) else "no permission to write there"


def _plain(tags: Sequence[str]) -> list[str]:
    for tag in tags:
        if not re.fullmatch(r"[^,\s][^,]*", tag):
            raise ToolError(f"{tag!r} is not a tag: it is empty, or has a comma in it")
    return list(tags)


def _tagged(tags: Sequence[str], host: str) -> list[str]:
    return [*(f"--tag={tag}" for tag in _plain(tags)), f"--host={host}"]


def _literal_pattern(path: str) -> str:
    """Return restic's pattern for exactly this path."""
    return re.sub(r"([\\*?\[\]])", r"\\\1", path)


def _instant(text: str) -> datetime:
    """Return a time of restic's, which has nanoseconds and a zone, as UTC."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", text)
    if found is None:
        raise ToolError(f"{text!r} is no time as restic writes it")
    whole, fraction, zone = found.groups()
    micro = (fraction or "0")[:6].ljust(6, "0")
    return datetime.fromisoformat(f"{whole}.{micro}{'+00:00' if zone == 'Z' else zone}").astimezone(timezone.utc)


def _snapshot(row: Mapping[str, Any]) -> Snapshot:
    return Snapshot(
        row["id"], _instant(row["time"]), list(row.get("tags") or []), list(row["paths"]), row.get("hostname", "")
    )


def _lock(id: str, row: Mapping[str, Any]) -> Lock:
    return Lock(
        id, row["hostname"], int(row["pid"]), row.get("username", ""), _instant(row["time"]), bool(row["exclusive"])
    )


def _messages(text: str) -> list[dict[str, Any]]:
    rows = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict):
                rows.append(row)
    return rows


def _unread(done: Done) -> list[str]:
    """Return what restic told it could not read, each once."""
    items = [row.get("item", "") for row in _messages(done.err + "\n" + done.out) if row.get("message_type") == "error"]
    return sorted({str(item) for item in items if item})


def _lines(text: str) -> list[str]:
    """Return what restic wrote without its retries and the stack below an error."""
    noise = re.compile(r"returned error, retrying after|^(?:github\.com/|main\.|runtime\.|golang\.org/)\S*$|^\t")
    return [line.strip() for line in text.splitlines() if line.strip() and not noise.search(line)]


def _gist(done: Done) -> str:
    lines = _lines(done.err) or [line for line in _lines(done.out) if not line.startswith("{")]
    return "; ".join(lines)[-800:] or "it said nothing"
