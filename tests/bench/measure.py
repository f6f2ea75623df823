"""Timing, a writer in the background, and the table of results."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One line of the report. `met` says whether the bound holds."""

    what: str
    ours: str
    other: str
    ratio: str
    bound: str
    met: bool


def timed(act: Callable[[], Any]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def in_turn(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[float, float, float]:
    """Time two things in turn, after one round to warm up; return both medians and the median of the ratios."""
    first(), second()
    pairs = [(timed(first), timed(second)) for _ in range(rounds)]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )


def percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


class Writer:
    """bench/writer.py in a process of its own, so that it shares no interpreter with what is measured."""

    def __init__(self, conninfo: str) -> None:
        self.conninfo = conninfo
        self.latencies: list[float] = []

    def __enter__(self) -> Writer:
        command = [sys.executable, str(Path(__file__).with_name("writer.py")), self.conninfo]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout and self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        output, _unused = self._process.communicate()
        self.latencies = json.loads(output)


def machine() -> list[str]:
    """Describe this machine in a few lines, without its name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    release = subprocess.run(
        ["sh", "-c", ". /etc/os-release && echo $PRETTY_NAME"], capture_output=True, text=True, check=True
    )
    return [
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB of memory, {release.stdout.strip()}, Python {platform.python_version()}"
    ]
