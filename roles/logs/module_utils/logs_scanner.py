# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Log files read once, a bounded part in each run, for what must not be in them.

The memory holds, for each file (device and inode), up to where it was read, and masked what was found; so a finding
stays open until its file is gone, though nothing is read twice. A file is followed when it is renamed, and read anew
when it was truncated or its inode belongs to another file now.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, Protocol

from ansible.module_utils.logs_files import SUFFIXES
from ansible.module_utils.logs_patterns import (
    HIDDEN,
    LONGEST_BYTES,
    PERSONAL,
    TITLES,
    Hit,
    excerpt,
    find_in,
    fold,
    likely,
    pieces,
    whole_lines,
)

HEAD_BYTES = 256
VERSION = 1
# What may stand right before or after a value: a long line is cut behind one of these.
_BETWEEN = b" \t,;\"'{}[]()<>&\n\0"


@dataclass(frozen=True)
class Limits:
    """What a run may cost: bytes that are read, in whole blocks, and seconds of the processor. One block is always read.

    A line longer than `long_line_bytes` is looked at in parts, which overlap by `overlap_bytes`.
    """

    max_bytes: int = 512 * 1024 * 1024
    max_seconds: float = 20.0
    block_bytes: int = 512 * 1024
    turn_bytes: int = 16 * 1024 * 1024
    long_line_bytes: int = 256 * 1024
    overlap_bytes: int = LONGEST_BYTES
    personal_data: bool = True


class Watcher(Protocol):
    """Somebody else who wants to see what is read."""

    def feed(self, path: str, data: bytes, folded: bytes) -> None:
        """Take whole lines (of a long one, its first part)."""


@dataclass(frozen=True)
class Found:
    """What was found of one kind in one file: in how many lines, the first of them, and that line masked."""

    kind: str
    count: int
    line: int
    excerpt: str


@dataclass
class FileScan:
    """One file after the run. `problem` says why it was not read; `vanished` that it is not there any more."""

    path: str
    found: list[Found] = field(default_factory=list)
    scanned_bytes: int = 0
    unscanned_bytes: int = 0
    problem: str = ""
    vanished: bool = False


@dataclass
class Scan:
    """All files after the run, and the memory for the next one, which is JSON."""

    files: list[FileScan]
    memory: dict[str, Any]

    @property
    def scanned_bytes(self) -> int:
        return sum(file.scanned_bytes for file in self.files)

    @property
    def unscanned_bytes(self) -> int:
        return sum(file.unscanned_bytes for file in self.files)


class _Unreadable(Exception):
    """A file cannot be read; the text says why. It never has a part of the file in it."""


def scan(
    files: Sequence[str],
    memory: dict[str, Any],
    limits: Limits,
    cpu: Callable[[], float],
    now: float,
    watcher: Watcher | None = None,
) -> Scan:
    """Read on in the files, in turn, until all are read or the limits are reached.

    `memory` is what the last run gave back, or empty; it is left as it is. `cpu` says how many seconds the processor
    has worked for this process.
    """
    known = dict(memory.get("files", {})) if memory.get("version") == VERSION else {}
    readers, refused = _readers(files, known, limits, watcher)
    kept = {key: known[key] for file in refused if (key := _key_of(file.path)) in known}
    kept.update(_compressed(known, {*kept, *(reader.key for reader in readers)}))
    others = [FileScan(entry["path"], _told(entry, limits)) for entry in kept.values() if entry.get("compressed")]
    # Who comes first changes from run to run, so that a small budget reaches every file in the end.
    first = next((i for i, reader in enumerate(readers) if reader.key == memory.get("next")), 0)
    turns = readers[first:] + readers[:first]
    began, left = cpu(), max(limits.max_bytes, limits.block_bytes + limits.long_line_bytes)

    def over() -> bool:
        return cpu() - began >= limits.max_seconds

    while turns and left > 0 and not over():
        reader = turns.pop(0)
        left -= reader.turn(left, over)
        if reader.unread and not reader.result.problem:
            turns.append(reader)
    for reader in readers:
        reader.end(now)
    waiting = [reader for reader in turns if reader.unread]
    return Scan(
        [*(reader.result for reader in readers), *refused, *others],
        {
            "version": VERSION,
            "next": waiting[0].key if waiting else "",
            "files": {**kept, **{reader.key: reader.entry for reader in readers}},
        },
    )


def _readers(
    files: Sequence[str], known: dict[str, Any], limits: Limits, watcher: Watcher | None
) -> tuple[list[_Reader], list[FileScan]]:
    """Return a reader for each file that can be read, once however many names it has, and what is to be told of others."""
    readers: dict[str, _Reader] = {}
    refused = []
    renamed = _renamed(known, files)
    for path in [*files, *renamed]:
        if path.endswith(SUFFIXES):
            continue
        try:
            with _opened(path) as handle:
                key = _key(os.fstat(handle))
        except FileNotFoundError:
            refused.append(FileScan(path, problem="it is gone", vanished=True))
        except _Unreadable as error:
            refused.append(FileScan(path, problem=str(error)))
            # What was found in it is still there.
            refused[-1].found = _told(known.get(_key_of(path), {}), limits)
        else:
            entry = known.get(key, {})
            # The inode of a compressed file may be that of a log now.
            readers.setdefault(key, _Reader(path, key, {} if entry.get("compressed") else entry, limits, watcher))
    return list(readers.values()), refused


def _compressed(known: dict[str, Any], seen: set[str]) -> dict[str, Any]:
    """Return what is remembered of files that are there only compressed: what was found in them still is."""
    kept = {}
    for path in _renamed(known, []):
        key = _key_of(path)
        # An inode that is another file's now has another size, or was that of a file before it was compressed.
        if known[key].get("compressed") == _size_of(path):
            kept[key] = {**known[key], "path": path}
    for key in set(known) - seen - set(kept):
        entry = known[key]
        for path in (f"{entry.get('path')}{suffix}" for suffix in SUFFIXES):
            if (size := _size_of(path)) and (entry.get("found") or entry.get("tail")):
                names = ("found", "tail")
                kept[_key_of(path)] = {
                    "path": path,
                    "compressed": size,
                    **{name: entry.get(name, {}) for name in names},
                }
    return kept


def _renamed(known: dict[str, Any], files: Sequence[str]) -> list[str]:
    """Return the names that remembered files have now, where none of the given files is one of them.

    What was written before a rotation and not yet read is in a file that may have got another name.
    """
    missing = set(known) - {_key_of(path) for path in files}
    folders = {os.path.dirname(str(known[key].get("path", ""))) for key in missing}
    found = []
    for folder in sorted(folder for folder in folders if folder):
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            found += [entry.path for entry in entries if _key_of(entry.path) in missing]
    return sorted(found)


def _key(status: os.stat_result) -> str:
    return f"{status.st_dev}:{status.st_ino}"


def _key_of(path: str) -> str:
    try:
        return _key(os.lstat(path))
    except OSError:
        return ""


def _size_of(path: str) -> int:
    """Return the size of a file, or 0 where there is none."""
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


@contextlib.contextmanager
def _opened(path: str) -> Any:
    """Give a handle of a regular file. Raise FileNotFoundError, or _Unreadable for all else that is wrong."""
    try:
        # Not through a link, which may lead anywhere, and without waiting for who writes a pipe.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = "it is a symbolic link" if os.path.islink(path) else error.strerror or "it cannot be opened"
        raise _Unreadable(reason) from None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise _Unreadable("it is not a regular file")
        yield handle
    except OSError as error:
        raise _Unreadable(error.strerror or "it cannot be read") from None
    finally:
        os.close(handle)


class _Reader:
    """Reads one file on from where the last run ended."""

    def __init__(self, path: str, key: str, entry: dict[str, Any], limits: Limits, watcher: Watcher | None) -> None:
        self.key, self.limits, self.watcher = key, limits, watcher
        self.entry: dict[str, Any] = {**entry, "path": path}
        self.result = FileScan(path)
        self.unread = True
        self._checked = False
        self._size = 0

    def turn(self, most_bytes: int, over: Callable[[], bool]) -> int:
        """Read on for one turn and return how many bytes were read. Afterwards `unread` says whether there is more."""
        read = 0
        try:
            with _opened(self.result.path) as handle:
                status = os.fstat(handle)
                if _key(status) != self.key:  # rotated since; the next run finds it by its new name
                    self.unread = False
                    return 0
                if not self._checked:
                    self._start(handle, status.st_size)
                read = self._read(handle, min(most_bytes, self.limits.turn_bytes), over)
        except FileNotFoundError:
            self.unread = False
        except _Unreadable as error:
            self.unread, self.result.problem = False, str(error)
        self.result.scanned_bytes += read
        return read

    def _start(self, handle: int, size: int) -> None:
        """Forget what was read where it is not in the file any more: truncated, or another file with this inode."""
        head = os.pread(handle, int(self.entry.get("head_bytes", 0)), 0)
        if size < self.entry.get("offset", 0) or _sum(head) != self.entry.get("head", _sum(b"")):
            self.entry = {"path": self.result.path}
        for name, value in (("offset", 0), ("lines", 0), ("found", {}), ("inside", False)):
            self.entry.setdefault(name, value)
        self.entry["found"] = {kind: dict(one) for kind, one in self.entry["found"].items()}
        self._checked, self._size = True, size
        # What has not grown since its unfinished line was looked at needs no look.
        self.unread = size > self.entry["offset"] and size != self.entry.get("size")

    def _read(self, handle: int, most_bytes: int, over: Callable[[], bool]) -> int:
        read, want = 0, self.limits.block_bytes
        while self.unread and read < most_bytes and not (read and over()):
            at = self.entry["offset"] = _after_hole(handle, self.entry["offset"], self._size)
            asked = min(want, self._size - at)
            data = os.pread(handle, asked, at)
            used = self._use(data)
            self.entry["offset"] += used
            read += used
            # Without the end of a line or enough of it nothing was used.
            want = self.limits.block_bytes if used else want * 2
            if at + len(data) >= self._size or len(data) < asked:  # truncated meanwhile
                self.unread = False
                read += self._end_of_file(data[used:])
        if self.entry.get("head_bytes", 0) < HEAD_BYTES:
            head = os.pread(handle, min(HEAD_BYTES, self.entry["offset"]), 0)
            self.entry.update(head=_sum(head), head_bytes=len(head))
        return read

    def _use(self, data: bytes) -> int:
        """Look at the whole lines in the data, or at a part of one too long to wait for; return how much was used."""
        cut = whole_lines(data)
        if cut:
            self.entry["lines"] += self._look(data, cut, self.entry["found"])
        elif len(data) > self.limits.long_line_bytes:
            cut = self._part(data)
            self._look(data, len(data), self.entry["found"])
            self.entry["lines"] += data.count(b"\n", 0, cut)
        if cut:
            self.entry["inside"] = data[cut - 1 : cut] != b"\n"
        return cut

    def _part(self, data: bytes) -> int:
        """Return where to cut a part of a long line: between words, and so far from its end that no hit is cut."""
        last = max(1, len(data) - self.limits.overlap_bytes)
        words = range(last, max(0, last - self.limits.overlap_bytes), -1)
        return next((place for place in words if data[place - 1] in _BETWEEN), last)

    def _look(self, data: bytes, end: int, found: dict[str, Any], *, tail: bool = False) -> int:
        """Enter what is found up to `end`, and return how many lines end there.

        What is seen twice, where parts of a line overlap, is in one line and counts once.
        """
        if b"\0" in data:
            data = data[:end].replace(b"\0", b"")
            end = len(data)
        line = first = self.entry["lines"] + 1
        for start, stop in pieces(data, end):
            piece = data[start:stop]
            folded = fold(piece)
            inside = self.entry["inside"] and line == first
            if self.watcher is not None and not tail:
                self._show(piece, folded, inside)
            hits = find_in(piece, likely(piece, folded))
            if hits:
                self._enter(piece, hits, line, first if inside else 0, found)
            line += folded.count(b"\n")
        return line - first

    def _show(self, piece: bytes, folded: bytes, inside: bool) -> None:
        assert self.watcher is not None  # noqa: S101  for the type checker
        if inside:  # the rest of a line is none
            piece = piece[piece.find(b"\n") + 1 or len(piece) :]
        if piece:
            self.watcher.feed(self.result.path, piece, folded)

    def _enter(self, piece: bytes, hits: list[Hit], line: int, cut_line: int, found: dict[str, Any]) -> None:
        """Enter hits. Of `cut_line` only the end is there: what stands around a hit may be the end of a secret."""
        at = 0
        for hit in hits:
            line += piece.count(b"\n", at, hit.value_start)
            at = hit.value_start
            if hit.kind.group == PERSONAL and not self.limits.personal_data:
                continue
            seen = found.get(hit.kind.id)
            if seen is None:
                shown = HIDDEN if line == cut_line else excerpt(piece, hit, hits)
                found[hit.kind.id] = {"count": 1, "line": line, "last": line, "excerpt": shown}
            elif seen["last"] != line:
                seen["count"] += 1
                seen["last"] = line

    def _end_of_file(self, rest: bytes) -> int:
        """Look at a last line that is not finished, and return its length; it is read again when it is finished."""
        self.entry["size"] = self._size
        self.entry["tail"] = {}
        if rest:
            self._look(rest, len(rest), self.entry["tail"], tail=True)
        return len(rest)

    def end(self, now: float) -> None:
        """Set down the result."""
        size = self._size
        if not self._checked:
            with contextlib.suppress(FileNotFoundError, _Unreadable), _opened(self.result.path) as handle:
                status = os.fstat(handle)
                if _key(status) == self.key:
                    size = status.st_size
                    self._start(handle, size)
        # An unfinished last line was looked at, though it is read once more.
        done = self.entry.get("size") == size and not self.unread
        self.result.unscanned_bytes = 0 if done or not self._checked else size - self.entry["offset"]
        self.result.found = _told(self.entry, self.limits)
        self.entry["seen_at"] = now


def _told(entry: dict[str, Any], limits: Limits) -> list[Found]:
    merged: dict[str, Found] = {}
    for found in (entry.get("found", {}), entry.get("tail", {})):
        for kind, one in found.items():
            before = merged.get(kind)
            count = one["count"] + (before.count if before else 0)
            merged[kind] = Found(
                kind, count, before.line if before else one["line"], before.excerpt if before else one["excerpt"]
            )
    return [
        merged[kind]
        for kind, known in TITLES.items()
        if kind in merged and (limits.personal_data or known.group != PERSONAL)
    ]


def _after_hole(handle: int, at: int, size: int) -> int:
    """Return where the next data is: a truncated file that is written on has a hole of any size at its start."""
    try:
        return min(size, os.lseek(handle, at, os.SEEK_DATA))
    except OSError as error:
        return size if error.errno == errno.ENXIO else at  # none up to the end, or a file system that cannot say


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
