# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""The last good configuration of a component: kept while all is well, given back when the running one is broken.

A set is a folder with one copy per file and a list of their paths, owners and modes. Sets are told apart by content;
the newest that differs from what is there now is the one to go back to.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.runbook_state import StateError, ensure_folder, read_json, write_json

KEPT_SETS = 5
MAX_BYTES = 4 * 1024 * 1024


def files_below(paths: Sequence[str]) -> list[Path]:
    """Return the regular files of `paths` (files, or folders with all below), sorted; links are what they lead to."""
    found: set[Path] = set()
    for item in paths:
        path = Path(item)
        found |= {p for p in path.rglob("*") if p.is_file()} if path.is_dir() else {path} if path.is_file() else set()
    return sorted(found)


def digest(files: Sequence[Path]) -> str:
    """Return a hash over names and contents."""
    total = hashlib.sha256()
    for path in files:
        total.update(f"{path}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def keep_good(folder: Path, paths: Sequence[str], now: float) -> str | None:
    """Copy the files into a new set unless one of the same content is there; return its name, None without files.

    Raise StateError where they are too large to be a configuration, or cannot be kept.
    """
    files = files_below(paths)
    if not files:
        return None
    size = sum(path.stat().st_size for path in files)
    if size > MAX_BYTES:
        raise StateError(
            f"{', '.join(paths)} holds {size} bytes; a configuration is at most {MAX_BYTES}: name its files alone"
        )
    name = digest(files)
    place = folder / name
    if not (place / "set.json").exists():
        ensure_folder(place)
        entries = []
        try:
            for number, path in enumerate(files):
                found = path.stat()
                shutil.copyfile(path, place / str(number))
                (place / str(number)).chmod(0o600)
                entries.append(
                    {"path": str(path), "mode": stat.S_IMODE(found.st_mode), "uid": found.st_uid, "gid": found.st_gid}
                )
        except OSError as error:
            raise StateError(f"the configuration cannot be kept in {place}: {error.strerror}") from error
        write_json(place / "set.json", {"kept_at": now, "files": entries})
    os.utime(place / "set.json", (now, now))
    _prune(folder)
    return name


def _sets(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/set.json"), key=lambda path: path.stat().st_mtime, reverse=True)


def _prune(folder: Path) -> None:
    for old in _sets(folder)[KEPT_SETS:]:
        shutil.rmtree(old.parent, ignore_errors=True)


def last_good(folder: Path, paths: Sequence[str]) -> Path | None:
    """Return the newest set that differs from what is there now, or None."""
    present = digest(files_below(paths))
    return next((path.parent for path in _sets(folder) if path.parent.name != present), None)


def changed_files(place: Path) -> list[str]:
    """Return the files that giving this set back would change or create."""
    found = []
    for number, entry in enumerate(read_json(place / "set.json", {"files": []})["files"]):
        path = Path(entry["path"])
        if not path.is_file() or path.read_bytes() != (place / str(number)).read_bytes():
            found.append(str(path))
    return found


def give_back(place: Path) -> list[str]:
    """Put a set's files back with their owners and modes; return those that changed. Each is replaced atomically."""
    content: dict[str, Any] = read_json(place / "set.json", {"files": []})
    wrong = set(changed_files(place))
    for number, entry in enumerate(content["files"]):
        path = Path(entry["path"])
        if str(path) not in wrong:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.runbook")
        try:
            shutil.copyfile(place / str(number), beside)
            os.chmod(beside, entry["mode"])
            os.chown(beside, entry["uid"], entry["gid"])
            os.replace(beside, path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise StateError(f"{path} cannot be given back: {error.strerror}") from error
    return sorted(wrong)
