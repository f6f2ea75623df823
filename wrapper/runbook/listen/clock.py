"""Time that a clock set wrong cannot bend: cooldowns and budgets are counted by what has passed, not by the date."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Moment:
    """An instant as the wall clock and the machine's own seconds since its boot tell it."""

    wall: float
    steady: float
    boot: str


def _steady() -> float:
    """Return seconds since boot, those asleep too, so that they go on counting when the listener starts again."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


class Clock:
    """Within one boot the wall clock does not count; across a boot it does, and then never backwards."""

    def __init__(
        self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = _steady, boot: str | None = None
    ) -> None:
        self.wall, self.steady, self.boot = wall, steady, _boot() if boot is None else boot

    def now(self) -> Moment:
        return Moment(self.wall(), self.steady(), self.boot)

    def since(self, then: Moment) -> float:
        """Given a moment, return the seconds that have passed, at least 0."""
        if then.boot == self.boot and (passed := self.steady() - then.steady) >= 0:
            return passed
        return max(0.0, self.wall() - then.wall)

    def adopt(self, then: Moment) -> Moment:
        """Given a moment that was stored, return it as one of this boot: from here on its age only grows."""
        age = self.since(then)
        return Moment(self.wall() - age, self.steady() - age, self.boot)
