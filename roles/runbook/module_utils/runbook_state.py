# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Small JSON files that survive a crash: written whole beside the old one, flushed, then renamed over it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


class StateError(Exception):
    """A state file or folder cannot be used; the text says which, why and what to do."""


def ensure_folder(folder: Path) -> None:
    """Create `folder` (mode 0700) with its parents. Raise StateError if it cannot be written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(f"state folder {folder} cannot be created: {error.strerror}; set runbook_state_dir") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StateError(f"state folder {folder} is not writable for this user; set runbook_state_dir or use become")


def read_json(path: Path, default: Any) -> Any:
    """Return the content of `path`, or `default` where there is no such file. Raise StateError if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except (OSError, ValueError) as error:
        raise StateError(f"state file {path} cannot be read ({error}); look at it, then move it away") from error


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON (mode 0600); a crash leaves the old or the new file, never a part.

    Raise StateError if it cannot be written, such as on a full disk; the old file is then as it was.
    """
    ensure_folder(path.parent)
    try:
        _replace(path, json.dumps(value, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        raise StateError(
            f"state file {path} cannot be written: {error.strerror}; free space or set runbook_state_dir"
        ) from error


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
