# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Evidence: what was seen on the target before anything was changed or after something failed.

A bundle is a folder per run with one file per item, a sha256 manifest in the format of `sha256sum -c`, and a
custody line for every time something was added: when (UTC), by whom, what.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from ansible.module_utils.runbook_state import StateError, ensure_folder, ensure_spare, spare

LEDGERS = ("SHA256SUMS", "CUSTODY")
# A value in quotes ends at its quote (which JSON inside JSON escapes), any other at a space or delimiter. Counts of
# tokens, which this tracker is about, are no secrets.
_VALUE = r"(?:(?P<quote>\\?[\"'])(?P<quoted>.*?)(?=(?<!\\)(?P=quote)|$)|[^\s\"',}]+)"
_SECRETS = (
    re.compile(
        r"(?im)(?P<key>(?:password|passwd|secret|token(?!s|_count)|api[_-]?key)[\w-]{0,40}\\?[\"']?\s*[:=]\s*)" + _VALUE
    ),
    re.compile(r"(?i)(?P<key>\bauthorization\\?[\"']?\s*[:=]\s*\\?[\"']?)(?:\w+\s+)?[^\s\"',}\\]+"),
    re.compile(r"(?P<key>://[^/\s:@]+:)[^@\s/]+(?=@)"),
)
_MASK = "********"
ROOM_BYTES = 16 * 1024 * 1024


def mask(text: str) -> str:
    """Return `text` with the values of password=, token:, Authorization: and URL credentials replaced."""
    for secret in _SECRETS:
        text = secret.sub(lambda m: m["key"] + (m.groupdict().get("quote") or "") + _MASK, text)
    return text


def transcript(command: str, output: str, rc: int | None) -> str:
    """Return what a command gave, as a shell would show it."""
    return f"$ {command}\n{output}\nexit code {rc}\n"


def keep(folder: Path, items: Mapping[str, str], who: str, now: datetime.datetime) -> Path:
    """Add `items` (file name -> text) to the bundle in `folder`, masked, and return the folder.

    An item that is there already is never overwritten: the new one gets a number. Where the disk is full the bundle is
    kept in memory. Raise StateError if it cannot be written.
    """
    if not has_room(folder):
        folder = spare(folder)
        ensure_spare(folder)
    ensure_folder(folder)
    stamp = now.astimezone(datetime.timezone.utc).isoformat(timespec="seconds")
    try:
        for name, text in items.items():
            path = _free(folder, re.sub(r"[^A-Za-z0-9._-]", "_", name))
            data = mask(text).encode()
            path.write_bytes(data)
            path.chmod(0o600)
            with open(folder / "SHA256SUMS", "a", encoding="utf-8") as manifest:
                manifest.write(f"{hashlib.sha256(data).hexdigest()}  {path.name}\n")
            with open(folder / "CUSTODY", "a", encoding="utf-8") as custody:
                custody.write(f"{stamp} {who} kept {path.name} ({len(data)} bytes)\n")
    except OSError as error:
        raise StateError(f"evidence cannot be kept in {folder}: {error.strerror}") from error
    return folder


def has_room(folder: Path) -> bool:
    """Return whether the disk of `folder` can take a bundle; evidence never goes to the disk that is full."""
    place = folder
    while not place.exists():
        place = place.parent
    found = os.statvfs(place)
    inodes = found.f_favail > 0 or found.f_files == 0  # some file systems do not count them
    return found.f_bavail * found.f_frsize >= ROOM_BYTES and not found.f_flag & os.ST_RDONLY and inodes


def _free(folder: Path, name: str) -> Path:
    path, number = folder / name, 2
    while path.name in LEDGERS or path.exists():
        path, number = folder / f"{name}.{number}", number + 1
    return path
