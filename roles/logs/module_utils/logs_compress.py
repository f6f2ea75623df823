# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""A rotated log becomes its compressed copy, on a disk that may have no room for both.

The source goes only when its copy, unpacked, has the same sha256. Where there is no room beside it, the copy is made on
another disk, which keeps it until it is back: a run that is killed in between is finished by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ansible.module_utils.logs_archive import live, same_file
from ansible.module_utils.logs_files import rotated_of
from ansible.module_utils.logs_holders import writers
from ansible.module_utils.logs_packing import (
    BLOCK,
    ArchiveError,
    blocks_of,
    copy_bytes,
    digest,
    opened,
    packed,
    suffix_of,
    unpacked,
)
from ansible.module_utils.runbook_state import replace_text, sync_folder
from ansible.module_utils.runbook_tools import Tools

UNFINISHED = ".reclaim"
SAMPLE_BYTES, SAMPLES = 64 << 10, 8
MARGIN_BYTES = 256 << 10


class Stays(Exception):
    """A file is left as it is; the text says why."""


def estimate_packed(path: str) -> int:
    """Return how many bytes the compressed copy will take at most, from samples all over the file."""
    try:
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            raw = packed_bytes = 0
            for number in range(SAMPLES):
                file.seek(number * max(size - SAMPLE_BYTES, 0) // SAMPLES)
                data = file.read(SAMPLE_BYTES)
                raw, packed_bytes = raw + len(data), packed_bytes + len(zlib.compress(data, 1))
    except (ArchiveError, OSError):
        return 0
    return int(size * min(1.0, packed_bytes / raw)) + 4096 if raw else 4096


def suffix_for(path: str, tools: Tools) -> str:
    """Return what to compress with: as its neighbours are, so that whoever rotates them finds it, else the best there is."""
    beside = [suffix_of(file.path) for file in rotated_of(live(path))]
    if ".gz" in beside and ".zst" not in beside:
        return ".gz"
    return ".zst" if tools.has("zstd") else ".gz"


def compress(path: str, elsewhere: Path | None, room: Callable[[], int], tools: Tools) -> str:
    """Replace a file by its compressed copy and return the copy's path. Raise Stays where it has to be left.

    `room` measures the free bytes beside it; `elsewhere` is a folder on another disk, None where there is none.
    """
    with opened(path) as source:
        before = os.fstat(source.fileno())
        who = writers(source.fileno())
        if who:
            raise Stays(f"{path} is open for writing by {who}")
        target = path + suffix_for(path, tools)
        sha256 = digest(source)
        if os.path.lexists(target):
            if unpacked_digest(target) != sha256:
                raise Stays(f"{target} is there already, with other content")
            _let_go(path, source, before)
            return target
        if room() > estimate_packed(path) + MARGIN_BYTES and _beside(source, target, sha256, before):
            _let_go(path, source, before, target)
            return target
        copy = _put_elsewhere(source, path, target, sha256, before, elsewhere)
        try:
            _let_go(path, source, before)
        except BaseException:
            _forget(copy)
            raise
    # Only now: as long as the source is open here, its space is not free.
    _bring_back(copy, json.loads(_note(copy).read_text(encoding="utf-8")))
    _forget(copy)
    return target


def _let_go(path: str, source: IO[bytes], before: os.stat_result, made: str = "") -> None:
    """Delete the source, whose copy was verified. Where somebody touched it meanwhile, the copy that was `made` goes instead."""
    who = writers(source.fileno())
    if not who and same_file(before, os.fstat(source.fileno())) and same_file(before, os.lstat(path)):
        os.unlink(path)
        sync_folder(Path(path).parent)
        return
    if made:
        os.unlink(made)
    raise Stays(f"{path} changed while it was compressed{': open for writing by ' + who if who else ''}")


def _beside(source: IO[bytes], target: str, sha256: str, before: os.stat_result) -> bool:
    """Make the copy in the same folder; return False where there was no room for it after all."""
    part = _part(target)
    try:
        _pack(source, part, target)
        if unpacked_digest(part, suffix_of(target)) != sha256:
            raise Stays(f"the compressed copy of {source.name} differs from it: look at the disk")
        _finish(part, target, before)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return False
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
    return True


def _put_elsewhere(
    source: IO[bytes], path: str, target: str, sha256: str, before: os.stat_result, elsewhere: Path | None
) -> Path:
    """Make the copy on another disk, verified, with a note by which a later run brings it back."""
    if elsewhere is None:
        raise Stays(f"there is no room beside {path}, nor another disk: name a folder there in logs_evidence_dirs")
    elsewhere.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy = elsewhere / f"{sha256[:32]}{suffix_of(target)}"
    _pack(source, str(copy), target)
    wrong = ""
    if unpacked_digest(str(copy)) != sha256:
        wrong = f"the compressed copy of {path} in {elsewhere} differs from it: look at the disk"
    elif copy.stat().st_size + 4096 >= before.st_blocks * 512:
        wrong = f"{path} would not become smaller"
    if wrong:
        copy.unlink()
        raise Stays(wrong)
    with opened(str(copy)) as file:
        note = {"source": path, "target": target, "sha256": digest(file), "source_sha256": sha256, "uid": before.st_uid,
                "gid": before.st_gid, "mode": stat.S_IMODE(before.st_mode), "mtime": before.st_mtime}  # fmt: skip
    replace_text(_note(copy), json.dumps(note))
    return copy


def finish_pending(elsewhere: Path) -> list[str]:
    """Bring back the copies that a killed run left on another disk; return what could not be, one text each."""
    problems = []
    for copy in sorted(elsewhere.glob("*")) if elsewhere.is_dir() else ():
        if copy.name.endswith(".json") or copy.name.startswith("."):
            continue
        if not _note(copy).exists():
            copy.unlink()  # its source is where it was
            continue
        try:
            _resume(copy, json.loads(_note(copy).read_text(encoding="utf-8")))
        except (ArchiveError, OSError, ValueError, KeyError, Stays) as error:
            problems.append(f"{copy} is the only copy of a log and cannot be brought back: {error}")
    return problems


def _resume(copy: Path, note: dict[str, Any]) -> None:
    source, target = str(note["source"]), str(note["target"])
    if os.path.lexists(target) and _same(target, note["sha256"]):
        _forget(copy)  # a source that is still there is compressed by this run, which finds the copy
    elif os.path.lexists(source) and _same(source, note["source_sha256"]):
        _forget(copy)
    else:
        _bring_back(copy, note)
        _forget(copy)


def _same(path: str, sha256: str) -> bool:
    try:
        with opened(path) as file:
            return digest(file) == sha256
    except ArchiveError:
        return False


def _bring_back(copy: Path, note: dict[str, Any]) -> None:
    target = str(note["target"])
    if os.path.lexists(target):
        raise Stays(f"{target} is there already, with other content")
    part = _part(target)
    try:
        with opened(str(copy)) as source, open(part, "wb") as file:
            if copy_bytes(source, file) != note["sha256"]:
                raise Stays(f"{copy} is not what was written there")
            file.flush()
            os.fsync(file.fileno())
        if not _same(part, note["sha256"]):
            raise Stays(f"{part} differs from {copy} after it was written: look at the disk")
        _dress(part, note["uid"], note["gid"], note["mode"], note["mtime"])
        os.rename(part, target)
        sync_folder(Path(target).parent)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)


def _forget(copy: Path) -> None:
    # The note goes first: a copy without one counts as a leftover.
    with contextlib.suppress(FileNotFoundError):
        _note(copy).unlink()
    with contextlib.suppress(FileNotFoundError):
        copy.unlink()


def _pack(source: IO[bytes], place: str, target: str) -> None:
    handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            with packed(file, suffix_of(target)) as out:
                for data in blocks_of(source):
                    out.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place)
        raise


def _finish(part: str, target: str, before: os.stat_result) -> None:
    _dress(part, before.st_uid, before.st_gid, stat.S_IMODE(before.st_mode), before.st_mtime)
    os.rename(part, target)
    sync_folder(Path(target).parent)


def _dress(path: str, uid: int, gid: int, mode: int, mtime: float) -> None:
    if (os.stat(path).st_uid, os.stat(path).st_gid) != (uid, gid):
        os.chown(path, uid, gid)
    os.chmod(path, mode)
    os.utime(path, (mtime, mtime))


def unpacked_digest(path: str, suffix: str | None = None) -> str:
    """Return the sha256 of what is in a compressed file, read from the disk; "" where it is damaged."""
    total = hashlib.sha256()
    try:
        with opened(path) as file:
            digest(file)  # what memory remembers of it is not what is to be verified
            with unpacked(file, suffix_of(path) if suffix is None else suffix) as stream:
                for data in iter(lambda: stream.read(BLOCK), b""):
                    total.update(data)
    except ArchiveError:
        return ""
    return total.hexdigest()


def remove_unfinished(folder: str) -> None:
    """Remove the parts that a killed run left beside logs."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name.startswith(".") and name.endswith(UNFINISHED):
                os.unlink(os.path.join(folder, name))


def _part(target: str) -> str:
    folder, name = os.path.split(target)
    return os.path.join(folder, f".{name[:200]}{UNFINISHED}")


def _note(copy: Path) -> Path:
    return copy.with_name(copy.name + ".json")
