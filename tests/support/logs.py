# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""A host in a folder, with the real logrotate and real writers."""

from __future__ import annotations

import gzip
import itertools
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible.module_utils.logs_files import rotated_of
from ansible.module_utils.logs_limits import Limits
from ansible.module_utils.logs_planner import Plan, Thresholds, plan
from ansible.module_utils.logs_policy import Server, policies_from
from ansible.module_utils.logs_survey import Given, Picture, Surveyor
from ansible.module_utils.logs_work import Logs, hourly_timer_due

DAY = 86400
# Writes numbered lines; opens its file anew on USR1, or whenever it is another one (watched), or never (stubborn).
WRITER = """
import os, signal, sys, time
path, kind = sys.argv[1], sys.argv[2]
file = open(path, "a", buffering=1)
due = []
signal.signal(signal.SIGUSR1, lambda *_: due.append(1))
open(path + ".pid", "w").write(str(os.getpid()))
number = 0
while not os.path.exists(path + ".stop"):
    if kind == "usr1" and due:
        due.clear()
        file.close()
        file = open(path, "a", buffering=1)
    if kind == "watched":
        try:
            same = os.path.samestat(os.stat(path), os.fstat(file.fileno()))
        except FileNotFoundError:
            same = False
        if not same:
            file.close()
            file = open(path, "a", buffering=1)
    number += 1
    file.write(f"line {number}\\n")
    time.sleep(0.001)
open(path + ".last", "w").write(str(number))
"""


class Host:
    """A host in a folder: logs, logrotate's configuration, state, archive."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.logs, self.folder, self.state_dir = root / "logs", root / "conf.d", root / "state"
        self.archive = root / "archive"
        for folder in (self.logs, self.folder, self.archive):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)
        # logrotate looks at the parents of a log too.
        for parent in itertools.takewhile(lambda each: each != Path(tempfile.gettempdir()), root.parents):
            parent.chmod(0o755)
        self.writers: list[tuple[subprocess.Popen[bytes], Path]] = []
        self.now: float | None = None
        self.given = Given(
            policies=(), state_dir=self.state_dir, config=str(root / "logrotate.conf"), config_dir=str(self.folder),
            state_file=str(root / "logrotate.status"), schedule="run", dirs=(str(self.logs),), ignored_paths=("*.pid", f"{self.logs}/*.pid"),
            filesystems=(), server=Server(os_user=""), limits=Limits(), archive=None, archive_after_days=7, archive_max_days=None,
            hold=False, hold_file=str(root / "hold"), manage_packages=False, reopen_wait_seconds=5, now=self.clock,
        )  # fmt: skip

    def clock(self) -> float:
        return self.now or time.time()

    def policies(self, *policies: dict[str, Any], **changes: Any) -> None:
        made = policies_from([{"paths": [f"{self.logs}/{p['name']}.log"], **p} for p in policies])
        self.given = replace(self.given, policies=tuple(made), **changes)

    def log(self, name: str, lines: int = 10, age_days: float = 0) -> Path:
        path = self.logs / name
        text = "".join(f"line {n}\n" for n in range(lines)).encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        path.chmod(0o640)
        moment = self.clock() - age_days * DAY
        os.utime(path, (moment, moment))
        return path

    def look(self, write: bool = True) -> tuple[Picture, Plan]:
        surveyor = Surveyor(self.given)
        picture = surveyor.look(write)
        return picture, plan(picture, Thresholds(), self.given.archive_after_days, hourly_timer_due(surveyor, picture))

    def carry_out(self) -> Logs:
        """Do what is due, step by step, and return what the steps told."""
        logs = Logs(Surveyor(self.given), Thresholds())
        for step in ("policies", "limits", "rotate", "archive"):
            _, planned = logs.due()
            if planned.due(step):
                getattr(logs, step)()
        return logs

    def write(self, name: str, kind: str) -> Path:
        path = self.logs / name
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), kind])
        self.writers.append((writer, path))
        wait(lambda: Path(f"{path}.pid").exists() and path.exists() and path.stat().st_size > 100)
        return path

    def finish(self, path: Path) -> int:
        """End the writer of a file and return its last number."""
        Path(f"{path}.stop").touch()
        next(w for w, p in self.writers if p == path).wait(20)
        return int(Path(f"{path}.last").read_text())

    def end(self) -> None:
        """End the writers that are left."""
        for writer, _ in self.writers:
            writer.kill()
            writer.wait()

    def numbers(self, path: Path) -> list[int]:
        """Return the numbers in the rotated and live files, in the order of rotation."""
        found = []
        for file in [*(f.path for f in rotated_of(str(path))), str(path)]:
            raw = Path(file).read_bytes() if os.path.exists(file) else b""
            if file.endswith(".zst"):
                raw = subprocess.run(["zstd", "-dc", file], capture_output=True, check=True).stdout
            found += [int(line.split()[1]) for line in raw.splitlines()]
        return found


def wait(holds: Any, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "not within the time given"
        time.sleep(0.02)


def ids(found: list[dict[str, Any]]) -> set[str]:
    return {each["id"] for each in found}
