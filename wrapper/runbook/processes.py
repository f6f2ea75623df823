"""Reads /proc: is a run's owner still alive, and what has a stopped run left behind?

Where there is no /proc (macOS) an owner is judged by its pid alone, and nothing is swept.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
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
        state = _stat(self.pid)
        if state is None:
            return _exists(self.pid) if not PROC.is_dir() else False
        return state[0] not in "ZX" and (state[2] == self.started or not self.started)

    def send(self, number: int) -> None:
        if self.alive():
            try:
                os.kill(self.pid, number)
            except (ProcessLookupError, PermissionError):
                return


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
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


def _all() -> Iterator[tuple[int, int, int]]:
    """Yield (pid, parent, start time) of every process."""
    if PROC.is_dir():
        for name in os.listdir(PROC):
            if name.isdigit() and (state := _stat(int(name))) and state[0] not in "ZX":
                yield int(name), state[1], state[2]


def descendants(root: int) -> set[Process]:
    """Given a pid, return it and everything below it that is alive."""
    rows = list(_all())
    found = {root}
    grew = True
    while grew:
        grew = False
        for pid, parent, _ in rows:
            if parent in found and pid not in found:
                found.add(pid)
                grew = True
    return {Process(pid, started) for pid, _, started in rows if pid in found}


def of_run(run_id: str) -> set[Process]:
    """Given a run's id, return its ansible-playbook and forked workers that are alive.

    A daemon the run started for good (the sandbox's server) carries the mark as well but is none of these.
    """
    mark = f"{MARKER}={run_id}".encode()
    found = set()
    for pid, _, started in _all():
        try:
            if mark not in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                continue
            if b"ansible-playbook" in (PROC / str(pid) / "cmdline").read_bytes():
                found.add(Process(pid, started))
        except OSError:
            continue
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
