# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Archive before delete: a rotated log is copied elsewhere, read back, and only then removed.

An archive is a folder, `<root>/<host>/<policy>/<YYYY>/<name>` with `index.jsonl` and `SHA256SUMS` in `<root>/<host>`, or
a restic repository. A run that is killed leaves either no copy, or one that the next run finishes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import quote, unquote

from ansible.module_utils.logs_files import live_name
from ansible.module_utils.logs_holders import writers
from ansible.module_utils.logs_packing import (
    BLOCK,
    ArchiveError,
    Redact,
    copy_bytes,
    digest,
    forget_cached,
    opened,
    packed,
    redacted_blocks,
    suffix_of,
    unpacked,
)
from ansible.module_utils.runbook_restic import Restic, damaged_files, new_marks, verify_local
from ansible.module_utils.runbook_result import finding
from ansible.module_utils.runbook_state import replace_text, sync_folder
from ansible.module_utils.runbook_tools import ToolError, end_group

DAY = 86400.0
INDEX, SUMS, INCOMING = "index.jsonl", "SHA256SUMS", ".incoming"


@dataclass(frozen=True)
class Kept:
    """One archived copy. `name` is relative to `<root>/<host>`, or `snapshot:path`; times are seconds since 1970.

    `redacted` is the number of values that were masked in it, None where nobody asked for that; `removed_at` is when the
    source was deleted, None while it was not.
    """

    policy: str
    source: str
    source_sha256: str
    name: str
    sha256: str
    bytes: int
    mtime: float
    kept_at: float
    redacted: int | None = None
    removed_at: float | None = None
    uid: int = 0
    gid: int = 0
    mode: int = 0o640


@dataclass(frozen=True)
class Refusal:
    """Why a file was not deleted, and what a person has to be told about it."""

    reason: str
    finding: dict[str, Any] | None = None


class Archive(Protocol):
    """What an archive does. `place` is its folder on this host, "" where it is elsewhere."""

    place: str

    def keep(self, path: str, policy: str, redact: Redact | None = None) -> Kept: ...
    def verify(self, kept: Kept) -> str: ...
    def index(self) -> list[Kept]: ...
    def note_removed(self, kept: Kept) -> None: ...
    def note_damaged(self, kept: Kept, why: str) -> None: ...
    def drop(self, gone: Sequence[Kept]) -> None: ...


@dataclass
class _Written:
    source_sha256: str = ""
    redacted: int | None = None


# --- a folder -----------------------------------------------------------------------------------------------------


class FolderArchive:
    """Copies below `root/host`. Every method raises ArchiveError where the folder cannot be used."""

    def __init__(self, root: str | Path, host: str, clock: Callable[[], float] = time.time) -> None:
        self.root, self.host, self.clock = Path(root), plain_name(host, "host"), clock
        self.home = self.root / self.host
        self.place = str(self.root)
        self.problems: list[str] = []
        self._kept: dict[str, Kept] = {}
        self._seen: tuple[int, int, int] | None = None

    def keep(self, path: str, policy: str, redact: Redact | None = None) -> Kept:
        """Archive one file and return its copy; the one that is there already for the same bytes of the same source."""
        folder = plain_name(policy, "policy")
        with self._locked(), opened(path) as source:
            before = os.fstat(source.fileno())
            if any(k.mtime == before.st_mtime and live(k.source) == live(path) for k in self._kept.values()):
                known = self._known(policy, path, digest(source), before.st_mtime, redact)
                if known:
                    return known
            try:
                return self._add(path, policy, folder, source, before, redact)
            except OSError as error:
                raise ArchiveError(f"{path} cannot be archived in {self.home}: {error.strerror or error}") from error

    def verify(self, kept: Kept) -> str:
        """Return what is wrong with an archived copy, which is read from the disk; "" where nothing is."""
        try:
            with opened(str(self.home / kept.name)) as file:
                found = digest(file)
        except ArchiveError as error:
            return str(error)
        except OSError as error:
            return f"{self.home / kept.name} cannot be read: {error.strerror}"
        if found != kept.sha256:
            return f"{self.home / kept.name} has the sha256 {found[:16]}..., {kept.sha256[:16]}... was recorded"
        return ""

    def index(self) -> list[Kept]:
        """Return all copies, in the order in which they were kept."""
        if not self.home.is_dir():
            return []
        if not os.access(self.home, os.W_OK) or os.statvfs(self.home).f_flag & os.ST_RDONLY:
            self._kept, _ = self._events(_lines_of(self.home / INDEX)[0])  # to be read only: nothing can be healed
            return list(self._kept.values())
        with self._locked():
            return list(self._kept.values())

    def note_removed(self, kept: Kept) -> None:
        """Write down that the source was deleted."""
        with self._locked():
            self._append({"event": "removed", "name": kept.name, "at": self.clock()})

    def note_damaged(self, kept: Kept, why: str) -> None:
        """Take a copy that does not verify out of the index, so that the source is archived anew; the copy is moved aside."""
        with self._locked():
            if kept.name not in self._kept:
                return
            self._append({"event": "damaged", "name": kept.name, "at": self.clock(), "why": why})
            self._write_sums()
            place = self.home / kept.name
            with contextlib.suppress(FileNotFoundError):
                os.rename(place, _free(place.with_name(place.name + ".damaged")))

    def drop(self, gone: Sequence[Kept]) -> None:
        """Remove copies for good. The index says so first: what is killed after that is finished by the next run."""
        with self._locked():
            for kept in gone:
                if kept.name in self._kept:
                    self._append({"event": "expired", "name": kept.name, "at": self.clock()})
            self._write_sums()
            for kept in gone:
                self._unlink(kept.name)

    def _known(self, policy: str, path: str, sha256: str, mtime: float, redact: Redact | None) -> Kept | None:
        return known_copy(self._kept.values(), policy, path, sha256, mtime, redact)

    def _add(
        self, path: str, policy: str, folder: str, source: IO[bytes], before: os.stat_result, redact: Redact | None
    ) -> Kept:
        incoming = self.home / INCOMING / f"{os.getpid()}-{before.st_ino}"
        try:
            wrote = self._copy(source, incoming, suffix_of(path), before, redact)
            if not same_file(before, os.fstat(source.fileno())):
                raise ArchiveError(f"{path} changed while it was copied: somebody still writes to it")
            known = self._known(policy, path, wrote.source_sha256, before.st_mtime, redact)
            if known:
                return known
            with opened(str(incoming)) as file:
                stored, size = digest(file), os.fstat(file.fileno()).st_size
            if redact is None and stored != wrote.source_sha256:
                raise ArchiveError(
                    f"the copy of {path} differs from it after it was written: look at the disk of {self.root}"
                )
            year = f"{datetime.fromtimestamp(max(before.st_mtime, 0), timezone.utc):%Y}"
            name = self._name(f"{folder}/{year}", os.path.basename(path), stored)
            place = self.home / name
            _folders(place.parent)
            os.rename(incoming, place)
            sync_folder(place.parent)
        finally:
            with contextlib.suppress(FileNotFoundError):
                incoming.unlink()
        kept = Kept(policy, path, wrote.source_sha256, name, stored, size, before.st_mtime, self.clock(), wrote.redacted,
                    None, before.st_uid, before.st_gid, stat.S_IMODE(before.st_mode))  # fmt: skip
        self._append({"event": "kept", **asdict(kept)})
        _append_line(self.home / SUMS, f"{stored}  {name}\n".encode())
        return kept

    def _copy(
        self, source: IO[bytes], incoming: Path, suffix: str, before: os.stat_result, redact: Redact | None
    ) -> _Written:
        wrote = _Written()
        handle = os.open(incoming, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as target:
            if redact is None:
                wrote.source_sha256 = copy_bytes(source, target)
            else:
                wrote.source_sha256, wrote.redacted = digest(source), 0
                with unpacked(source, suffix) as plain, packed(target, suffix) as out:
                    for block, count in redacted_blocks(plain, redact):
                        out.write(block)
                        wrote.redacted += count
            target.flush()
            os.utime(target.fileno(), (before.st_mtime, before.st_mtime))
            os.fsync(target.fileno())
        return wrote

    def _name(self, folder: str, base: str, sha256: str) -> str:
        """Return a free name, or that of the same bytes which a killed run left without an entry."""
        # What sha256sum would escape, and what is no text, does not go into a name.
        base = re.sub(r"[\\\x00-\x1f\ud800-\udfff]", "_", base).lstrip(".") or "_"
        suffix = suffix_of(base)
        stem, number = base[: len(base) - len(suffix)] if suffix else base, 1
        name = f"{folder}/{base}"
        while name in self._kept or not self._may_take(name, sha256):
            more = "" if number == 1 else f"-{number}"
            name, number = f"{folder}/{stem}-{sha256[:8]}{more}{suffix}", number + 1
        return name

    def _may_take(self, name: str, sha256: str) -> bool:
        place = self.home / name
        if not os.path.lexists(place):
            return True
        try:
            with opened(str(place)) as file:
                return digest(file) == sha256
        except ArchiveError:
            return False

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if self.root.is_symlink() or not self.root.is_dir():
            raise ArchiveError(f"archive {self.root} is no folder (or a link): is its disk mounted?")
        try:
            _folders(self.home / INCOMING)
            with open(self.home / ".lock", "a", encoding="utf-8") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._heal()
                yield
        except OSError as error:
            raise ArchiveError(f"archive {self.home} cannot be used: {error.strerror or error}") from error

    def _heal(self) -> None:
        """Know the index as it is on the disk, and finish what a killed run left."""
        path = self.home / INDEX
        if self._seen is not None and self._seen == _mark(path):
            return
        lines, tail = _lines_of(path)
        if tail:
            _mend_tail(path, tail)
            lines, _ = _lines_of(path)
        self._kept, expired = self._events(lines)
        self._seen = _mark(path)
        for name in expired:
            self._unlink(name)
        for left in (self.home / INCOMING).iterdir():
            left.unlink()
        self._write_sums()

    def _events(self, lines: Iterable[bytes]) -> tuple[dict[str, Kept], list[str]]:
        """Return the copies by their names, and the names that expired."""
        kept: dict[str, Kept] = {}
        expired: set[str] = set()
        self.problems = []
        for number, line in enumerate(lines, 1):
            try:
                _apply(json.loads(line), kept, expired)
            except (ValueError, KeyError, TypeError):
                self.problems.append(f"line {number} of {self.home / INDEX} cannot be read")
        return kept, sorted(expired)

    def _append(self, event: dict[str, Any]) -> None:
        _append_line(self.home / INDEX, json.dumps(event, sort_keys=True).encode() + b"\n")
        _apply(dict(event), self._kept, set())
        self._seen = _mark(self.home / INDEX)

    def _write_sums(self) -> None:
        text = "".join(f"{kept.sha256}  {kept.name}\n" for kept in self._kept.values())
        path = self.home / SUMS
        with contextlib.suppress(FileNotFoundError, ValueError):
            if path.read_text(encoding="utf-8") == text:
                return
        if text or path.exists():
            replace_text(path, text)

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.home / name).unlink()


def _apply(event: dict[str, Any], kept: dict[str, Kept], expired: set[str]) -> None:
    what, name = event.pop("event"), event["name"]
    if what == "kept":
        kept[name] = Kept(**event)
        expired.discard(name)
    elif what == "removed" and name in kept:
        kept[name] = replace(kept[name], removed_at=float(event["at"]))
    elif what in ("damaged", "expired") and name in kept:
        del kept[name]
        if what == "expired":
            expired.add(name)


def _lines_of(path: Path) -> tuple[list[bytes], bytes]:
    """Return the whole lines of a file, and what is behind the last of them."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], b""
    *lines, tail = data.split(b"\n")
    return lines, tail


def _mend_tail(path: Path, tail: bytes) -> None:
    """Finish the last line of an index, which lacks its end, or cut it off where it is not whole."""
    try:
        whole = isinstance(json.loads(tail), dict)
    except ValueError:
        whole = False
    if whole:
        _append_line(path, b"\n")
        return
    with open(path, "r+b") as file:
        file.truncate(os.fstat(file.fileno()).st_size - len(tail))
        os.fsync(file.fileno())


def _append_line(path: Path, line: bytes) -> None:
    new = not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        while line:
            line = line[os.write(handle, line) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    if new:
        sync_folder(path.parent)


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _folders(folder: Path) -> None:
    """Create a folder with its parents (mode 0700), so that a crash does not lose them."""
    if folder.is_dir():
        return
    _folders(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def _free(path: Path) -> Path:
    free, number = path, 2
    while os.path.lexists(free):
        free, number = path.with_name(f"{path.name}.{number}"), number + 1
    return free


def plain_name(name: str, what: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,200}", name):
        raise ArchiveError(f"{what} {name[:80]!r} cannot name a folder: letters, digits and _ . @ - are allowed")
    return name


def live(path: str) -> str:
    """Return what stays the same of a log's name while it is rotated on."""
    return live_name(path) or path


def known_copy(
    all_kept: Iterable[Kept], policy: str, path: str, sha256: str, mtime: float, redact: Redact | None
) -> Kept | None:
    """Return the copy of these bytes of this source and time, whatever number it had, redacted or not as is asked for now."""
    for kept in all_kept:
        same = kept.source_sha256 == sha256 and kept.policy == policy and live(kept.source) == live(path) and kept.mtime == mtime
        if same and (kept.redacted is not None) == (redact is not None):
            return kept
    return None


def same_file(one: os.stat_result, other: os.stat_result) -> bool:
    """Return whether two looks at a file saw the same one, unchanged."""
    keys = ("st_dev", "st_ino", "st_size", "st_mtime_ns")
    return all(getattr(one, key) == getattr(other, key) for key in keys)


# --- a restic repository -------------------------------------------------------------------------------------------


class LogRestic(Restic):
    """restic with streams instead of bytes in memory: a log may be larger than that."""

    def digest(self, snapshot: str, path: str) -> str:
        """Return the sha256 of one file of a snapshot, as the repository gives it."""
        argv = ["restic", *self._globals(), "dump", *self._reading(), snapshot, path]
        with self._started(argv, subprocess.DEVNULL, subprocess.PIPE) as process:
            total = hashlib.sha256()
            for data in iter(lambda: process.stdout.read(BLOCK), b""):
                total.update(data)
            words = process.stderr.read().decode("utf-8", "replace")
            if process.wait():
                raise ToolError(f"restic dump of {path} failed: {words.strip()[-400:]}", process.returncode)
        return total.hexdigest()

    def store_stream(self, name: str, blocks: Iterable[bytes], tags: Sequence[str], host: str) -> None:
        """Back up a stream as the file /`name`. An error in the stream leaves no snapshot."""
        words = ["--stdin", f"--stdin-filename={name}", "--quiet", *(f"--tag={tag}" for tag in tags), f"--host={host}"]
        argv = ["restic", *self._globals(), "backup", *words]
        with self._started(argv, subprocess.PIPE, subprocess.DEVNULL) as process:
            try:
                for block in blocks:
                    process.stdin.write(block)
                process.stdin.close()
            except BrokenPipeError:
                pass  # restic says why
            except BaseException:
                end_group(process)  # before its input ends, which it would take for the end of the file
                raise
            words_said = process.stderr.read().decode("utf-8", "replace")
            if process.wait():
                raise ToolError(f"restic backup of {name} failed: {words_said.strip()[-400:]}", process.returncode)

    def tag(self, snapshot: str, tag: str) -> None:
        """Add a tag to a snapshot, which gets another id by that."""
        self._run("tag", f"--add={tag}", snapshot, writes=True)

    @contextlib.contextmanager
    def _started(self, argv: list[str], stdin: int, stdout: int) -> Iterator[Any]:
        self.version()
        environment = {**os.environ, "LC_ALL": "C.UTF-8", **self._environment()}
        process = subprocess.Popen(
            self.tools.command(argv), stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=environment, cwd="/",
            start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                end_group(process)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    with contextlib.suppress(OSError):
                        stream.close()


class ResticArchive:
    """Copies in a restic repository, one snapshot each; what is known of a copy is in the snapshot's tags."""

    TAG = "llm-cost-tracker-logs"

    def __init__(self, restic: LogRestic, host: str, clock: Callable[[], float] = time.time) -> None:
        self.restic, self.host, self.clock = restic, host, clock
        local = restic.repository.local
        self.place = "" if local is None else str(local)
        self._kept: list[Kept] | None = None

    def keep(self, path: str, policy: str, redact: Redact | None = None) -> Kept:
        """Archive one file and return its copy; the one that is there already for the same bytes of the same source."""
        plain_name(policy, "policy")
        try:
            with opened(path) as source:
                before = os.fstat(source.fileno())
                sha256 = digest(source)
                known = known_copy(self.index(), policy, path, sha256, before.st_mtime, redact)
                if known:
                    return known
                wanted = self._stored(path, policy, source, before, sha256, redact)
                if not same_file(before, os.fstat(source.fileno())):
                    self._forget(policy, path, sha256, before.st_mtime, redact)
                    raise ArchiveError(f"{path} changed while it was copied: somebody still writes to it")
        except (ToolError, OSError) as error:
            raise ArchiveError(f"{path} cannot be archived: {error}") from error
        self._kept = None
        kept = known_copy(self.index(), policy, path, sha256, before.st_mtime, redact)
        if kept is None or kept.sha256 != wanted:
            raise ArchiveError(f"{path} is not in the repository after its backup; look at restic snapshots")
        return kept

    def _forget(self, policy: str, path: str, sha256: str, mtime: float, redact: Redact | None) -> None:
        """Forget a copy of what nobody knows."""
        self._kept = None
        made = known_copy(self.index(), policy, path, sha256, mtime, redact)
        if made:
            self.restic.forget([made.name.partition(":")[0]], prune=False)
            self._kept = None

    def _stored(
        self, path: str, policy: str, source: IO[bytes], before: os.stat_result, sha256: str, redact: Redact | None
    ) -> str:
        """Back the file up and return the sha256 of what is to be read back."""
        stored, size, count = sha256, before.st_size, None
        if redact is not None:
            stored, size, count = self._measured(source, suffix_of(path), redact)
        owner = f"{before.st_uid}:{before.st_gid}:{stat.S_IMODE(before.st_mode):o}"
        facts = {"policy": policy, "source": quote(os.fsencode(path), safe="/"), "source-sha256": sha256, "sha256": stored,
                 "bytes": size, "mtime": repr(before.st_mtime), "owner": owner,
                 "kept": repr(self.clock()), **({} if count is None else {"redacted": count})}  # fmt: skip
        tags = [self.TAG, *(f"{name}:{value}" for name, value in facts.items())]
        if redact is None:
            self.restic.backup([path], tags, self.host)
        else:
            blocks = (block for block, _ in self._packed_blocks(source, suffix_of(path), redact))
            self.restic.store_stream(os.path.basename(path), blocks, tags, self.host)
        return stored

    def _measured(self, source: IO[bytes], suffix: str, redact: Redact) -> tuple[str, int, int]:
        total, size, found = hashlib.sha256(), 0, 0
        for block, count in self._packed_blocks(source, suffix, redact):
            total.update(block)
            size, found = size + len(block), found + count
        return total.hexdigest(), size, found

    def _packed_blocks(self, source: IO[bytes], suffix: str, redact: Redact) -> Iterator[tuple[bytes, int]]:
        """Yield the redacted content, packed as it was; a program of others packs into a file without a name."""
        with unpacked(source, suffix) as plain:
            if not suffix:
                yield from redacted_blocks(plain, redact)
                return
            handle = os.memfd_create("redacted")
            with os.fdopen(handle, "w+b") as memory:
                count = 0
                with packed(memory, suffix) as out:
                    for block, hits in redacted_blocks(plain, redact):
                        out.write(block)
                        count += hits
                memory.flush()
                memory.seek(0)
                yield b"", count
                yield from ((data, 0) for data in iter(lambda: memory.read(BLOCK), b""))

    def verify(self, kept: Kept) -> str:
        """Return what is wrong with an archived copy, which is read from the repository; "" where nothing is."""
        snapshot, _, path = kept.name.partition(":")
        self._read_anew()
        try:
            found = self.restic.digest(snapshot, path)
        except (ToolError, OSError) as error:
            return f"it cannot be read from the repository: {error}"
        if found != kept.sha256:
            return f"{path} has the sha256 {found[:16]}... there, {kept.sha256[:16]}... was recorded"
        return ""

    def _read_anew(self) -> None:
        """Have a local repository read from the disk, not from what memory remembers of it."""
        local = self.restic.repository.local
        for folder, _, files in os.walk(local / "data") if local else ():
            for name in files:
                with contextlib.suppress(OSError), open(os.path.join(folder, name), "rb") as file:
                    forget_cached(file.fileno())

    def index(self) -> list[Kept]:
        """Return all copies of this host, the earliest first."""
        if self._kept is None:
            try:
                found = self.restic.snapshots([self.TAG])
            except ToolError as error:
                raise ArchiveError(str(error)) from error
            rows = [_from_tags(one.id, one.paths, one.tags) for one in found if one.host == self.host]
            self._kept = sorted((row for row in rows if row), key=lambda kept: kept.kept_at)
        return list(self._kept)

    def note_removed(self, kept: Kept) -> None:
        self._tagged(kept, f"removed:{self.clock()!r}")

    def note_damaged(self, kept: Kept, why: str) -> None:
        """Take a copy out of the index, and what is damaged in a local repository out of use, or the same would be reused."""
        self._tagged(kept, f"damaged:{self.clock()!r}")
        location = self.restic.repository.location
        if self.restic.repository.local is not None:
            problems, _ = verify_local(location, new_marks(), full=True)
            names = damaged_files(location, problems)
            try:
                if names:
                    self.restic.set_aside(names)
            except (ToolError, OSError) as error:
                raise ArchiveError(
                    f"what is damaged in {self.restic.repository.shown} cannot be moved aside: {error}"
                ) from error

    def drop(self, gone: Sequence[Kept]) -> None:
        try:
            if gone:
                self.restic.forget([kept.name.partition(":")[0] for kept in gone], prune=True)
        except ToolError as error:
            raise ArchiveError(str(error)) from error
        finally:
            self._kept = None

    def _tagged(self, kept: Kept, tag: str) -> None:
        try:
            self.restic.tag(kept.name.partition(":")[0], tag)
        except ToolError as error:
            raise ArchiveError(str(error)) from error
        finally:
            self._kept = None


def _from_tags(snapshot: str, paths: Sequence[str], tags: Iterable[str]) -> Kept | None:
    """Return what the tags of a snapshot say; None for one that is damaged, or not of ours."""
    facts = dict(tag.split(":", 1) for tag in tags if ":" in tag)
    if "damaged" in facts:
        return None
    try:
        uid, gid, mode = facts["owner"].split(":")
        return Kept(
            facts["policy"], unquote(facts["source"], errors="surrogateescape"), facts["source-sha256"], f"{snapshot}:{paths[0]}",
            facts["sha256"], int(facts["bytes"]), float(facts["mtime"]), float(facts["kept"]),
            int(facts["redacted"]) if "redacted" in facts else None, float(facts["removed"]) if "removed" in facts else None,
            int(uid), int(gid), int(mode, 8),
        )  # fmt: skip
    except (KeyError, ValueError, IndexError):
        return None


# --- what may go --------------------------------------------------------------------------------------------------


def remove(path: str, kept: Kept, archive: Archive, hold: str) -> Refusal | None:
    """Delete the source of an archived copy. Return why not where it has to stay.

    It goes only if nothing holds deletions back, its bytes are still those that were archived, nobody has it open for
    writing, and the copy verifies now.
    """
    if hold:
        return Refusal(f"deletions are on hold: {hold}")
    try:
        with opened(path) as source:
            refusal = _must_stay(path, source, kept, archive)
            if refusal:
                return refusal
            os.unlink(path)
        sync_folder(Path(path).parent)
    except ArchiveError as error:
        return Refusal(str(error))
    except OSError as error:
        return Refusal(cannot(path, error))
    with contextlib.suppress(ArchiveError):  # what is gone is gone, and its copy was verified
        archive.note_removed(kept)
    return None


def _must_stay(path: str, source: IO[bytes], kept: Kept, archive: Archive) -> Refusal | None:
    before = os.fstat(source.fileno())
    if digest(source) != kept.source_sha256:
        return Refusal(f"{path} is not what was archived any more")
    wrong = archive.verify(kept)
    if wrong:
        archive.note_damaged(kept, wrong)
        return Refusal(f"its archived copy does not verify: {wrong}", damaged_finding(kept, wrong))
    who = writers(source.fileno())
    if who:
        return Refusal(f"{path} is open for writing by {who}")
    if not same_file(before, os.fstat(source.fileno())) or not same_file(before, os.lstat(path)):
        return Refusal(f"{path} changed while its copy was verified")
    return None


def damaged_finding(kept: Kept, wrong: str) -> dict[str, Any]:
    return finding(
        "archive-damaged", "An archived log does not verify; its source stays and is archived anew", subject=kept.name,
        observed=wrong, expected=kept.sha256, severity="critical",
        remedy="Find out what changes files in the archive: its disk, or somebody; verify the rest with sha256sum -c SHA256SUMS",
    )  # fmt: skip


FS_IOC_GETFLAGS = 0x80086601
IMMUTABLE, APPEND_ONLY = 0x10, 0x20


def cannot(path: str, error: OSError) -> str:
    """Return why a file cannot be deleted or replaced, in words that say what to do."""
    if error.errno == errno.EROFS:
        return f"{path}: its file system is mounted read-only (dmesg tells whether for errors)"
    if error.errno == errno.EDQUOT:
        return f"{path}: the quota of its owner is used up, whatever df says (repquota -a)"
    if error.errno in (errno.EPERM, errno.EACCES):
        for place in (path, os.path.dirname(path)):
            flags = _attributes(place)
            word = "immutable" if flags & IMMUTABLE else "append-only" if flags & APPEND_ONLY else ""
            if word:
                return f"{place} is {word}: see lsattr -d {place}; who set it wants that, so it was left"
    return f"{path}: {error.strerror or error}"


def _attributes(place: str) -> int:
    try:
        handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        return int.from_bytes(fcntl.ioctl(handle, FS_IOC_GETFLAGS, b"\0" * 8)[:4], "little")
    except OSError:
        return 0  # this file system knows no such flags
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Outcome:
    """What became of one file: its copy (None: there is none), why it is still there ("": it is not), what to tell."""

    kept: Kept | None
    refused: str = ""
    findings: tuple[dict[str, Any], ...] = ()


def archive_and_remove(path: str, policy: str, archive: Archive, redact: Redact | None, hold: str) -> Outcome:
    """Archive one file, verify the copy, delete the file. A copy that turns out damaged is made anew; the file then stays."""
    try:
        kept = archive.keep(path, policy, redact)
    except ArchiveError as error:
        told = finding("not-archived", "A log cannot be archived, so it stays", subject=path, observed=str(error),
                       remedy="See what was observed; nothing was deleted")  # fmt: skip
        return Outcome(None, str(error), (told,))
    refusal = remove(path, kept, archive, hold)
    if refusal is None:
        return Outcome(kept)
    told_of = (refusal.finding,) if refusal.finding else ()
    if refusal.finding:
        with contextlib.suppress(ArchiveError):  # what is wrong was told already
            kept = archive.keep(path, policy, redact)
    return Outcome(kept, refusal.reason, told_of)


def expire(archive: Archive, policy: str, max_days: int | None, hold: str, now: float) -> list[Kept]:
    """Remove the archived copies of a policy that are older than its ceiling, and return them; none under hold."""
    if hold or max_days is None:
        return []
    gone = [kept for kept in archive.index() if kept.policy == policy and now - kept.mtime > max_days * DAY]
    archive.drop(gone)
    return gone


def hold(flag: bool, hold_file: str | None) -> str:
    """Return why deletions are on hold, "" where they are not. A file that cannot be read holds as well."""
    if flag:
        return "logs_hold is set"
    if not hold_file or not os.path.lexists(hold_file):
        return _unseen(hold_file) if hold_file else ""
    try:
        # Only the beginning is shown; a folder or a device is no reason to stop.
        with open(hold_file, encoding="utf-8", errors="replace") as file:
            words = " ".join(file.read(500).split())
    except OSError as error:
        return f"{hold_file} is there and cannot be read: {error.strerror}"
    return words or f"{hold_file} is there"


def _unseen(path: str) -> str:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return f"{path} cannot be looked for: {error.strerror}"
    return f"{path} is there"


def place_faults(
    root: str, patterns: Sequence[str], full_device: int | None = None
) -> tuple[str, list[dict[str, Any]]]:
    """Return why a folder cannot be the archive of logs at these globs ("" where it can), and findings about it.

    In an emergency `full_device` is the file system that is full: an archive there is refused, as it frees nothing.
    """
    wrong = _unusable(root) or _within(root, patterns)
    if wrong:
        return wrong, []
    device = os.stat(root).st_dev
    if device == full_device:
        return f"archive {root} is on the file system that is full: archiving there frees nothing", []
    shared = [pattern for pattern in patterns if _device(_folder_of(pattern)) == device]
    if not shared:
        return "", []
    return "", [
        finding("archive-same-filesystem", "The archive is on the file system of the logs", subject=root, observed=shared[0],
                remedy="Whatever fills or ends that disk ends both: use another disk, or a restic repository elsewhere")
    ]  # fmt: skip


def _unusable(root: str) -> str:
    if os.path.islink(root):
        return f"archive {root} is a symbolic link: name the folder itself"
    if not os.path.isabs(root) or not os.path.isdir(root):
        return f"archive {root} is no folder of this host: create it, or mount its disk"
    if os.statvfs(root).f_flag & os.ST_RDONLY or not os.access(root, os.W_OK | os.X_OK):
        return f"archive {root} cannot be written by user id {os.geteuid()}: mount it writable, or give it to that user"
    return ""


def _within(root: str, patterns: Sequence[str]) -> str:
    real = os.path.realpath(root)
    for pattern in patterns:
        folder = os.path.realpath(_folder_of(pattern))
        if real == folder or real.startswith(folder.rstrip("/") + "/"):
            return f"archive {root} is inside {folder}, where {pattern} are logs: name a folder elsewhere"
    return ""


def _device(path: str) -> int | None:
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


def _folder_of(pattern: str) -> str:
    """Return the folder in which all that a glob matches is, wherever in it."""
    folder = os.path.dirname(pattern)
    while glob.has_magic(folder):
        folder = os.path.dirname(folder)
    return folder or "/"
