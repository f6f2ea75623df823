"""Reads /proc: is a run's owner still alive, and what has a stopped run left behind?

Where there is no /proc (macOS) an owner is judged by its pid alone, and nothing is swept.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
MARKER = "RUNBOOK_RUN_ID"


@dataclass(frozen=True)
class Process:
    """A process that a reused pid cannot be mistaken for; `started` is in clock ticks since boot."""

    pid: int
    started: int

    def alive(self) -> bool:
        if not PROC.is_dir():
            return _answers(self.pid)
        state = _stat(self.pid)
        return state is not None and state[0] not in "ZX" and self.started in (0, state[2])

    def send(self, number: int) -> None:
        if self.alive():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, number)


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def _stat(pid: int) -> tuple[str, int, int] | None:
    """Given a pid, return (state, parent, start time)."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return None
    return fields[0], int(fields[1]), int(fields[19])


def process(pid: int) -> Process:
    state = _stat(pid)
    return Process(pid, state[2] if state else 0)


def _all() -> dict[Process, int]:
    """Return every live process with its parent's pid."""
    pids = [int(name) for name in os.listdir(PROC) if name.isdigit()] if PROC.is_dir() else []
    states = {pid: state for pid in pids if (state := _stat(pid)) and state[0] not in "ZX"}
    return {Process(pid, started): parent for pid, (_, parent, started) in states.items()}


def descendants(root: int) -> set[Process]:
    """Given a pid, return it and everything below it that is alive."""
    parents = _all()
    found: set[Process] = set()
    new = {item for item in parents if item.pid == root}
    while new:
        found |= new
        pids = {item.pid for item in new}
        new = {item for item, parent in parents.items() if parent in pids} - found
    return found


def of_run(run_id: str) -> set[Process]:
    """Given a run's id, return its ansible-playbook and forked workers that are alive.

    A daemon the run started for good (the sandbox's server) carries the mark as well but is none of these.
    """
    mark = f"{MARKER}={run_id}".encode()
    found = set()
    for item in _all():
        with suppress(OSError):
            marked = mark in (PROC / str(item.pid) / "environ").read_bytes().split(b"\0")
            if marked and b"ansible-playbook" in (PROC / str(item.pid) / "cmdline").read_bytes():
                found.add(item)
    return found


def end(processes: set[Process], grace_seconds: float = 2) -> int:
    """Given processes, terminate those still alive, then kill the stubborn. Return how many there were."""
    left = {item for item in processes if item.alive()}
    for number in (signal.SIGTERM, signal.SIGKILL):
        for item in left:
            item.send(number)
        limit = time.monotonic() + grace_seconds
        while any(item.alive() for item in left) and time.monotonic() < limit:
            time.sleep(0.02)
    return len(left)
