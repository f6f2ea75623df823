# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Content of log files, whatever packs it: read through no link, hashed from the disk, unpacked, redacted and packed again."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import hashlib
import lzma
import os
import stat
import subprocess
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from ansible.module_utils.logs_files import SUFFIXES
from ansible.module_utils.runbook_tools import ToolError, Tools, end_group

Redact = Callable[[bytes], "tuple[bytes, int]"]
BLOCK = 1 << 20
REDACT_BLOCK = 4 << 20
BEGIN_KEY, END_KEY = b"-----BEGIN", b"-----END"
# A key of more than this is none; a block must end somewhere.
LONGEST_KEY = 64 << 10


class ArchiveError(Exception):
    """A log cannot be read or archived, or an archive cannot be used; the text says which, why and what to do."""


def digest(file: IO[bytes]) -> str:
    """Return the sha256 of what the disk holds of an open file, not what memory remembers of it."""
    forget_cached(file.fileno())
    total = hashlib.sha256()
    for data in blocks_of(file):
        total.update(data)
    forget_cached(file.fileno())
    return total.hexdigest()


def blocks_of(file: IO[bytes]) -> Iterator[bytes]:
    """Yield what an open file holds now, from its beginning: one that grows faster than it is read has an end too."""
    file.seek(0)
    left = os.fstat(file.fileno()).st_size
    while left > 0:
        data = file.read(min(BLOCK, left))
        if not data:
            return
        left -= len(data)
        yield data


class _UpTo:
    """An open file up to the size that it has now."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._left = file, os.fstat(file.fileno()).st_size

    def read(self, number: int = -1) -> bytes:
        data = self._file.read(self._left if number < 0 else min(number, self._left))
        self._left -= len(data)
        return data


def forget_cached(handle: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """Open a regular file for reading, never through a link. Raise ArchiveError where it is none."""
    try:
        # Without O_NONBLOCK the opening of a pipe would wait for somebody who writes.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        words = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise ArchiveError(f"{path} cannot be read: {words}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ArchiveError(f"{path} is no regular file")
    # Unbuffered: its descriptor is given to programs, which go on where it stands.
    with os.fdopen(handle, "rb", buffering=0) as file:
        yield file


def suffix_of(name: str) -> str:
    """Return the suffix of the compressor in a name; "" where there is none."""
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


@contextlib.contextmanager
def unpacked(file: IO[bytes], suffix: str) -> Iterator[IO[bytes]]:
    """Give the content of an open file that is compressed as its suffix says. Raise ArchiveError where it is damaged."""
    file.seek(0)
    try:
        if suffix == ".zst":
            with _zstd_reading(file) as stream:
                yield stream
        else:
            openers: dict[str, Callable[[IO[bytes]], Any]] = {
                ".gz": lambda f: gzip.GzipFile(fileobj=f, mode="rb"), ".xz": lzma.LZMAFile, ".bz2": bz2.BZ2File, "": _UpTo,
            }  # fmt: skip
            yield openers[suffix](file)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ArchiveError(f"it is damaged and cannot be unpacked: {error}") from error
    except OSError as error:
        if error.errno is None:  # the words of bz2 about damaged data
            raise ArchiveError(f"it is damaged and cannot be unpacked: {error}") from error
        raise


@contextlib.contextmanager
def _zstd_reading(file: IO[bytes]) -> Iterator[IO[bytes]]:
    process = subprocess.Popen(
        _zstd("-dc"), stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None and process.stderr is not None  # noqa: S101  for the type checker
        yield process.stdout
        rest = process.stdout.read()  # nothing, unless the reader had enough
        words = process.stderr.read().decode("utf-8", "replace").strip()
        if process.wait() and not rest:
            raise ArchiveError(f"it is damaged and cannot be unpacked: {words}")
    finally:
        end_group(process)


@contextlib.contextmanager
def packed(file: IO[bytes], suffix: str) -> Iterator[IO[bytes]]:
    """Give a file to write to, which ends in `file` compressed as the suffix says, the same bytes for the same content."""
    if suffix == ".zst":
        process = subprocess.Popen(
            _zstd("-T1", "-c"), stdin=subprocess.PIPE, stdout=file, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            assert process.stdin is not None and process.stderr is not None  # noqa: S101  for the type checker
            broken = None
            try:
                yield process.stdin
                process.stdin.close()
            except BrokenPipeError as error:
                broken = error
            words = process.stderr.read().decode("utf-8", "replace").strip()
            if process.wait() or broken:
                full = "No space left" in words
                raise OSError(errno.ENOSPC if full else errno.EIO, words or "zstd ended early")
        finally:
            end_group(process)
        return
    with _packer(file, suffix) as stream:
        yield stream


def _packer(file: IO[bytes], suffix: str) -> contextlib.AbstractContextManager[Any]:
    if suffix == ".gz":
        # Without name and time in it, so that the copy of a killed run is known again.
        return gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6, mtime=0)
    if suffix == ".xz":
        return lzma.LZMAFile(file, "wb", preset=3)
    return bz2.BZ2File(file, "wb") if suffix == ".bz2" else contextlib.nullcontext(file)


def _zstd(*words: str) -> list[str]:
    try:
        return Tools().command(["zstd", "-q", *words])
    except ToolError as error:
        raise ArchiveError("zstd is not on this host: install it (apt-get install zstd)") from error


def redacted_blocks(stream: IO[bytes], redact: Redact) -> Iterator[tuple[bytes, int]]:
    """Yield redacted blocks, each with how many values were masked. Raise ArchiveError where a line would be lost.

    A block ends at the end of a line, and not inside a private key.
    """
    rest = b""
    while True:
        data = stream.read(REDACT_BLOCK)
        whole = rest + data
        cut = len(whole) if not data else _cut(whole)
        if cut:
            clean, count = redact(whole[:cut])
            if clean.count(b"\n") != whole.count(b"\n", 0, cut):
                raise ArchiveError("redaction would change the number of lines; it was left as it is")
            yield clean, count
        rest = whole[cut:]
        if not data:
            return


def _cut(data: bytes) -> int:
    cut = data.rfind(b"\n") + 1
    begin = data.rfind(BEGIN_KEY, 0, cut)
    if begin >= 0 and data.find(END_KEY, begin, cut) < 0 and cut - begin < LONGEST_KEY:
        cut = data.rfind(b"\n", 0, begin) + 1
    # A line longer than this is cut all the same: memory is not without end.
    return cut or (len(data) if len(data) > 16 * REDACT_BLOCK else 0)


def copy_bytes(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy an open file and return the sha256 of what was read."""
    total = hashlib.sha256()
    for data in blocks_of(source):
        total.update(data)
        target.write(data)
    return total.hexdigest()
