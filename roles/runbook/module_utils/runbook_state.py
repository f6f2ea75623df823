# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Small JSON files that survive a crash: written whole beside the old one, flushed, then renamed over it.

A full or read-only disk is what an incident looks like: what cannot be written there is kept in memory (/dev/shm), and
back on the disk with the next write that succeeds.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class StateError(Exception):
    """A state file or folder cannot be used; the text says which, why and what to do."""


SPARE_ROOT = Path("/dev/shm")  # noqa: S108  the folder below it is ours alone, which is checked
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def spare(path: Path) -> Path:
    """Return where `path` is kept while its own disk takes nothing."""
    place = hashlib.sha256(str(path.parent).encode()).hexdigest()[:16]
    return SPARE_ROOT / f"runbooks-{os.geteuid()}" / place / path.name


def ensure_spare(folder: Path) -> None:
    """Create a folder below SPARE_ROOT. Raise StateError if somebody else was there first."""
    mine = SPARE_ROOT / f"runbooks-{os.geteuid()}"
    try:
        mine.mkdir(mode=0o700, exist_ok=True)
        found = mine.lstat()
        if found.st_uid != os.geteuid() or found.st_mode & 0o077 or mine.is_symlink():
            raise StateError(f"{mine} belongs to somebody else; look at it, then remove it")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(f"neither the disk nor {mine} can be written: {error.strerror}") from error


def ensure_folder(folder: Path) -> None:
    """Create `folder` (mode 0700) with its parents. Raise StateError if it cannot be written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in FULL:
            return  # what is to be written there goes to its spare place
        raise StateError(f"state folder {folder} cannot be created: {error.strerror}; set runbook_state_dir") from error
    if not os.access(folder, os.W_OK | os.X_OK) and not _read_only(folder):
        raise StateError(f"state folder {folder} is not writable for this user; set runbook_state_dir or use become")


def read_json(path: Path, default: Any) -> Any:
    """Return the content of `path`, or `default` where there is no such file. Raise StateError if it is damaged."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return json.loads(spare(path).read_text(encoding="utf-8"))
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except (OSError, ValueError) as error:
        raise StateError(f"state file {path} cannot be read ({error}); look at it, then move it away") from error


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON (mode 0600); a crash leaves the old or the new file, never a part.

    On a full disk it is kept in memory. Raise StateError if it cannot be written; the old file is then as it was.
    """
    ensure_folder(path.parent)
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    try:
        replace_text(path, text)
        spare(path).unlink(missing_ok=True)
    except OSError as error:
        if error.errno in FULL or not path.parent.exists():
            with contextlib.suppress(OSError):
                ensure_spare(spare(path).parent)
                replace_text(spare(path), text)
                return
        raise StateError(
            f"state file {path} cannot be written: {error.strerror}; free space or set runbook_state_dir"
        ) from error


def remove(path: Path) -> None:
    """Remove a state file, wherever it is kept."""
    spare(path).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _read_only(folder: Path) -> bool:
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:
        return True  # it is not there because the disk is full


def replace_text(path: Path, text: str, mode: int = 0o600, owner: Mapping[str, int] | None = None) -> None:
    """Replace `path` by `text`; a crash leaves the old or the new file, never a part. Raise OSError where that fails.

    `owner` has the ids `user` and `group`, as child_identity gives them; none or empty leaves the file ours.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            if owner:
                os.fchown(file.fileno(), owner["user"], owner["group"])
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Have the names in a folder on the disk."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
