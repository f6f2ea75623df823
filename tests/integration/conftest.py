"""Runs the real command, as a person would, on a small project and with a home of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
SMALL = Path(__file__).resolve().parent / "projects" / "small"


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


class Runbook:
    """The command with its state, runtime and home folders below one temporary folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.runtime = root / "runtime"
        self.env = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(root / "home"),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(REPO / "wrapper"),
            "RUNBOOK_PROJECT": str(SMALL),
            "RUNBOOK_STATE_DIR": str(self.state),
            "XDG_RUNTIME_DIR": str(self.runtime),
        }
        for name in ("home", "runtime", "work"):
            (root / name).mkdir(mode=0o700)
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "runbook", *arguments],
            env=self.env | env,
            cwd=self.root / "work",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def __call__(self, *arguments: str, **env: str) -> Done:
        return finish(self.start(*arguments, **env))

    def run(self, slug: str, *arguments: str, inventory: str = "one.yml", **env: str) -> Done:
        return self("run", slug, "-i", inventory, *arguments, **env)

    def records(self) -> list[dict[str, Any]]:
        paths = sorted(self.state.glob("runs/*/run.json"))
        return [json.loads(path.read_text()) for path in paths]

    @property
    def record(self) -> dict[str, Any]:
        (record,) = self.records()
        return record

    def private(self) -> list[Path]:
        return list(self.runtime.glob("runbook-*"))


def finish(process: subprocess.Popen[str], seconds: float = 60) -> Done:
    out, err = process.communicate(timeout=seconds)
    return Done(process.returncode, out, err)


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait for a condition, with a limit; return what made it true."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"this did not come true within {seconds} s: {condition}")


def processes_with(text: str) -> list[int]:
    """Return the pids whose environment or command line holds a text."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            parts = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            alive = (entry / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            continue
        if alive and text.encode() in parts:
            found.append(int(entry.name))
    return found


@pytest.fixture
def runbook(tmp_path: Path) -> Iterator[Runbook]:
    command = Runbook(tmp_path)
    yield command
    for process in command.started:
        if process.poll() is None:
            process.kill()
            process.communicate()
