# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""The manifest of a set: what was saved together, how large, and what a restored system must look like.

It is written last, when all else is in the repositories, and sealed with the sha256 of itself: a set without a whole
manifest does not exist. It is kept in the repository of files, and a copy in the state folder, <id>/manifest.json.

Keys: set (its id), host, started, finished (seconds since 1970), kind (full, diff, incr, wal), database (label, engine,
manifest_sha256, figures as backups_figures gives them), components (as backups_components gives them), snapshot (id of
the files in restic, or empty), skew_seconds (between the restore point and the last component), versions, sha256.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils.runbook_state import StateError, write_json

FORMAT = 1
SET_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")
NAME = "manifest.json"
TAG = "runbooks-manifest"
FILES_TAG = "runbooks-files"
KEYS = ("set", "host", "started", "finished", "kind", "database", "components", "snapshot", "skew_seconds", "versions")


class ManifestDamaged(Exception):
    """A manifest is not what was written; the text says which and how that shows."""


def new_set_id(now: float) -> str:
    """Return the id of a new set: its time in UTC and six random digits, so that two never share one."""
    return f"{datetime.fromtimestamp(now, timezone.utc):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def _canonical(manifest: dict[str, Any]) -> str:
    bare = {key: value for key, value in manifest.items() if key != "sha256"}
    return json.dumps(bare, sort_keys=True, separators=(",", ":"))


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest with its format and the sha256 of itself."""
    whole = {"format": FORMAT, **manifest}
    return {**whole, "sha256": hashlib.sha256(_canonical(whole).encode()).hexdigest()}


def opened(text: str, where: str) -> dict[str, Any]:
    """Return the manifest in `text`. Raise ManifestDamaged if it is not whole, or from a newer version than this."""
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise ManifestDamaged(f"{where} is no JSON any more: {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("sha256"), str):
        raise ManifestDamaged(f"{where} has no seal")
    found = hashlib.sha256(_canonical(manifest).encode()).hexdigest()
    if found != manifest["sha256"]:
        raise ManifestDamaged(f"{where} was changed: its sha256 is {found[:12]}, sealed was {manifest['sha256'][:12]}")
    if manifest.get("format") != FORMAT:
        raise ManifestDamaged(f"{where} has format {manifest.get('format')}; this version reads {FORMAT}: use a newer one")
    if missing := [key for key in KEYS if key not in manifest]:
        raise ManifestDamaged(f"{where} lacks {', '.join(missing)}")
    return manifest


class Shelf:
    """The manifests of a host: copies in a folder of the state directory, the originals where `fetch` finds them.

    `originals` maps set ids to what `fetch` needs to read one; None says that the repository cannot be read now, and
    only copies are known.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, set_id: str) -> Path:
        return self.folder / set_id / NAME

    def keep(self, manifest: dict[str, Any]) -> None:
        """Write a copy."""
        write_json(self.path(manifest["set"]), manifest)

    def drop(self, set_id: str) -> None:
        """Remove the copy of a set that is no more."""
        self.path(set_id).unlink(missing_ok=True)
        if self.path(set_id).parent.is_dir():
            self.path(set_id).parent.rmdir()

    def read(
        self, originals: dict[str, str] | None, fetch: Callable[[str], str], write: bool
    ) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Return the whole manifests, oldest first, and what is wrong with others, by set id.

        A damaged copy is told, and made anew from its original where `write` allows it; it does not hide the set.
        """
        copies = {path.parent.name for path in self.folder.glob(f"*/{NAME}") if SET_ID.fullmatch(path.parent.name)}
        found: list[dict[str, Any]] = []
        problems: dict[str, str] = {}
        for set_id in sorted(copies if originals is None else originals):
            manifest = self._copy(set_id, problems) if set_id in copies else None
            if manifest is None and originals is not None:
                manifest = self._original(set_id, originals[set_id], fetch, problems)
                if manifest is not None and write:
                    self._mend(set_id, manifest)
            if manifest is not None:
                found.append(manifest)
        return found, problems

    def _copy(self, set_id: str, problems: dict[str, str]) -> dict[str, Any] | None:
        try:
            return opened(self.path(set_id).read_text(encoding="utf-8"), str(self.path(set_id)))
        except (ManifestDamaged, OSError, UnicodeDecodeError) as error:
            problems[set_id] = str(error)
            return None

    def _original(
        self, set_id: str, reference: str, fetch: Callable[[str], str], problems: dict[str, str]
    ) -> dict[str, Any] | None:
        try:
            manifest = opened(fetch(reference), f"the manifest of {set_id} in the repository")
        except ManifestDamaged as error:
            problems[set_id] = str(error)
            return None
        if manifest["set"] != set_id:
            problems[set_id] = f"the manifest of {set_id} in the repository says that it is {manifest['set']}"
            return None
        return manifest

    def _mend(self, set_id: str, manifest: dict[str, Any]) -> None:
        try:
            write_json(self.path(set_id), manifest)
        except StateError:
            return  # the original is what counts; the state folder has a check of its own
