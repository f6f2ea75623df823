# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""An archive of logs in a restic repository, such as that of the backups role: one snapshot for each copy."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any
from urllib.parse import quote, unquote

from ansible.module_utils.logs_archive import ArchiveError, Kept, known_copy, plain_name, same_file
from ansible.module_utils.logs_packing import (
    BLOCK,
    ContentError,
    Redact,
    digest,
    forget_cached,
    opened,
    packed,
    redacted_blocks,
    suffix_of,
    unpacked,
)
from ansible.module_utils.runbook_restic import Restic, damaged_files, new_marks, verify_local
from ansible.module_utils.runbook_tools import ToolError, end_group


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
                known = known_copy(self.index(), policy, path, sha256, redact)
                if known:
                    return known
                wanted = self._stored(path, policy, source, before, sha256, redact)
                if not same_file(before, os.fstat(source.fileno())):
                    self._forget(policy, path, sha256, redact)
                    raise ArchiveError(f"{path} changed while it was copied: somebody still writes to it")
        except (ContentError, ToolError, OSError) as error:
            raise ArchiveError(f"{path} cannot be archived: {error}") from error
        self._kept = None
        kept = known_copy(self.index(), policy, path, sha256, redact)
        if kept is None or kept.sha256 != wanted:
            raise ArchiveError(f"{path} is not in the repository after its backup; look at restic snapshots")
        return kept

    def _forget(self, policy: str, path: str, sha256: str, redact: Redact | None) -> None:
        """Forget a copy of what nobody knows."""
        self._kept = None
        made = known_copy(self.index(), policy, path, sha256, redact)
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
