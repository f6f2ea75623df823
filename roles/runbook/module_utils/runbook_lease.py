# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Leases: one owner per resource at a time, whichever runbook, laptop or timer asks.

A lease is a JSON file on the target with an expiry. Nothing depends on its being given back: a killed owner's
lease ends by itself, so the owner renews it while it works. Times are seconds since the epoch, UTC.
"""

from __future__ import annotations

import builtins
import contextlib
import fcntl
import re
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, TextIO

from ansible.module_utils.runbook_state import (
    StateError,
    ensure_folder,
    ensure_spare,
    read_json,
    remove,
    spare,
    write_json,
)

FIELDS = {"resource", "run_id", "owner", "purpose", "acquired_at", "expires_at"}
# Arguments of a module that works for long and renews the run's leases while it does.
RENEWED_ARGUMENTS: dict[str, Any] = {
    "run_id": {"type": "str", "required": True},
    "owner": {"type": "str", "required": True},
    "leases": {"type": "list", "elements": "str", "default": []},
    "lease_seconds": {"type": "int", "default": 300},
}


class LeaseHeld(Exception):
    """Another run holds the resource; `lease` is its record."""

    def __init__(self, lease: dict[str, Any], now: float) -> None:
        self.lease = lease
        left = max(0, int(lease["expires_at"] - now))
        super().__init__(
            f"{lease['resource']} is leased by {lease['owner']} for {lease['purpose']} (run {lease['run_id']}); "
            f"the lease ends by itself in {left} s unless its owner renews it"
        )


class Leases:
    """The leases kept in one state folder."""

    def __init__(self, state_dir: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder = state_dir / "leases"
        self.clock = clock

    def path(self, resource: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9_.:@/ -]{1,200}", resource):
            raise StateError(
                f"lease name {resource[:200]!r} has characters beyond letters, digits and _ . : @ / - and space"
            )
        return self.folder / (re.sub(r"[/ ]", "%", resource) + ".json")

    def holder(self, resource: str, run_id: str, dead_runs: Sequence[str] = ()) -> dict[str, Any] | None:
        """Return the lease of another living run, or None if `run_id` may have the resource."""
        lease = self._read(resource)
        if lease is None or lease["run_id"] == run_id or lease["run_id"] in dead_runs:
            return None
        return lease if lease["expires_at"] > self.clock() else None

    def acquire(
        self, resource: str, run_id: str, owner: str, purpose: str, seconds: int, dead_runs: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Take or renew the lease. Raise LeaseHeld if another run holds it."""
        with self._locked():
            held = self.holder(resource, run_id, dead_runs)
            if held is not None:
                raise LeaseHeld(held, self.clock())
            now = self.clock()
            lease = {
                "resource": resource,
                "run_id": run_id,
                "owner": owner,
                "purpose": purpose,
                "acquired_at": now,
                "expires_at": now + seconds,
            }
            write_json(self.path(resource), lease)
            return lease

    def release(self, resource: str, run_id: str) -> bool:
        """Give the lease back if `run_id` holds it; return whether it did."""
        with self._locked():
            lease = self._read(resource)
            if lease is None or lease["run_id"] != run_id:
                return False
            remove(self.path(resource))
            return True

    def list(self) -> builtins.list[dict[str, Any]]:
        """Return all lease records, expired ones too."""
        paths = {
            *self.folder.glob("*.json"),
            *(self.folder / p.name for p in spare(self.folder / "x").parent.glob("*.json")),
        }
        return [read_json(path, {}) for path in sorted(paths)]

    def _read(self, resource: str) -> dict[str, Any] | None:
        path = self.path(resource)
        lease: dict[str, Any] | None = read_json(path, None)
        if lease is not None and not (
            isinstance(lease, dict) and set(lease) >= FIELDS and isinstance(lease["expires_at"], (int, float))
        ):
            raise StateError(f"state file {path} is no lease; look at it, then move it away")
        return lease

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        ensure_folder(self.folder)
        with self._lock_file() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _lock_file(self) -> TextIO:
        lock = self.folder / ".lock"
        try:
            return open(lock, "a", encoding="utf-8")
        except OSError:  # the disk takes no new file, or is read-only
            ensure_spare(spare(lock).parent)
            return open(spare(lock), "a", encoding="utf-8")


@contextlib.contextmanager
def renewed(
    state_dir: Path, resources: Sequence[str], run_id: str, owner: str, purpose: str, seconds: int
) -> Iterator[None]:
    """Keep the leases alive while the block runs; they lapse `seconds` after the process has died."""
    leases = Leases(state_dir)
    done = threading.Event()

    def renew() -> None:
        for resource in resources:
            leases.acquire(resource, run_id, owner, purpose, seconds)

    def keep() -> None:
        while not done.wait(seconds / 3):
            with contextlib.suppress(LeaseHeld, StateError):
                renew()

    renew()
    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
