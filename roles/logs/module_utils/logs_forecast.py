# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""How fast something fills up, and when it is full: from samples of (seconds since 1970, bytes used).

The slope is the median of those between all pairs (Theil and Sen), so that outliers do not move it. What a rotation or
a daily cleanup takes away again is no growth: there the lowest points tell the trend and the highest ones the level. A
step, such as one big file, is no growth either.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Sample = tuple[float, float]

HOUR, DAY = 3600.0, 86400.0
# With less than this nothing is forecast: a day is what a daily cleanup needs to be seen.
LEAST_POINTS, LEAST_SECONDS = 6, DAY
MOST_PAIRED = 400
# A change that is smaller than this part of the capacity over all samples is none.
STEADY_SHARE = 0.001
# One or two jumps are events; more of them are how something grows.
MOST_STEPS = 2

GROWING, STEADY, SAW_TOOTH, SHRINKING, UNKNOWN = "growing", "steady", "saw-tooth", "shrinking", "unknown"


@dataclass(frozen=True)
class Forecast:
    """The trend. `days_left` is None where nothing fills up or too little is known; `points` is how many counted.

    `reason` says why nothing is forecast where `kind` is unknown.
    """

    slope_bytes_per_day: float
    days_left: float | None
    kind: str
    points: int
    reason: str = ""


def forecast(samples: Sequence[Sample], capacity: float) -> Forecast:
    """Return the trend of the samples, which are in the order in which they were taken, and when `capacity` is reached.

    Without a capacity (0) there is a trend alone.
    """
    points = _trusted(samples)
    if len(points) < LEAST_POINTS:
        return Forecast(0.0, None, UNKNOWN, len(points), f"{len(points)} samples; {LEAST_POINTS} are needed")
    span = points[-1][0] - points[0][0]
    if span < LEAST_SECONDS:
        hours = span / HOUR
        return Forecast(
            0.0, None, UNKNOWN, len(points), f"samples of {hours:.1f} hours; {LEAST_SECONDS / HOUR:.0f} are needed"
        )
    drops = _drops(points)
    if drops:
        return _saw_tooth(points, drops, capacity)
    parts = _between_steps(points)
    slope = _slope_within(parts)
    level, noise = _level(parts[-1], slope)
    return _judged(slope, level, noise, span, capacity, len(points))


def _judged(slope: float, level: float, noise: float, span: float, capacity: float, count: int) -> Forecast:
    change = slope * span
    if abs(change) < max(2 * noise, STEADY_SHARE * capacity):
        return Forecast(slope * DAY, 0.0 if 0 < capacity <= level else None, STEADY, count)
    if slope < 0:
        return Forecast(slope * DAY, None, SHRINKING, count)
    return Forecast(slope * DAY, _days(slope, level, capacity), GROWING, count)


def _days(slope: float, level: float, capacity: float) -> float | None:
    return max(0.0, (capacity - level) / slope / DAY) if capacity > 0 else None


def _trusted(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples in the order of time, without those that a clock put after the newest, and thinned."""
    if not samples:
        return []
    newest = samples[-1][0]
    by_time = {float(at): float(used) for at, used in samples if at <= newest}
    points = sorted(by_time.items())
    while len(points) > MOST_PAIRED:
        points = points[-1::-2][::-1]
    return points


def _slope(points: Sequence[Sample]) -> float:
    """Return bytes per second; 0 for fewer than two points."""
    return _slope_within([points])


def _slope_within(parts: Sequence[Sequence[Sample]]) -> float:
    """Return the median of the slopes between all pairs of points that are in the same part."""
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for part in parts
        for i, earlier in enumerate(part)
        for later in part[i + 1 :]
    ]
    return statistics.median(slopes) if slopes else 0.0


def _level(points: Sequence[Sample], slope: float) -> tuple[float, float]:
    """Return where the line through the points is at the last of them, and how far points are from it (median)."""
    end = points[-1][0]
    offsets = [used - slope * (at - end) for at, used in points]
    level = statistics.median(offsets)
    return level, statistics.median(abs(offset - level) for offset in offsets)


def _steps(points: Sequence[Sample]) -> tuple[list[float], float, float]:
    """Return the change at each point, the usual size of one, and the spread of all points without the outermost."""
    changes = [later[1] - earlier[1] for earlier, later in zip(points, points[1:])]
    values = sorted(used for _at, used in points)
    cut = len(values) // 20
    return changes, statistics.median(abs(change) for change in changes), values[-1 - cut] - values[cut]


def _drops(points: Sequence[Sample]) -> list[int]:
    """Return the places after which a tooth of a saw begins: falls that stand out, with rises between that do not."""
    changes, usual, spread = _steps(points)
    falls = [i + 1 for i, change in enumerate(changes) if -change > max(3.5 * usual, 0.25 * spread, 1.0)]
    if len(falls) < 2:
        return []
    rises = sorted(change for change in changes if change > 0)
    fall = statistics.median(-changes[i - 1] for i in falls)
    # Noise goes up as fast as it goes down.
    if not rises or rises[len(rises) * 9 // 10] > 0.5 * fall:
        return []
    return falls


def _saw_tooth(points: Sequence[Sample], drops: Sequence[int], capacity: float) -> Forecast:
    """Return the trend of the lowest points, and when the highest ones reach the capacity by it."""
    bounds = [0, *drops, len(points)]
    teeth = [points[start:end] for start, end in zip(bounds, bounds[1:])]
    # The first tooth began before the first sample, the last one is not at its top yet.
    lows = [min(tooth, key=lambda point: point[1]) for tooth in teeth[1:]]
    tops = [max(tooth, key=lambda point: point[1]) for tooth in teeth[:-1]]
    height = statistics.median(top[1] - low[1] for top, low in zip(tops[1:], lows)) if len(tops) > 1 else 0.0
    slope = _slope(lows)
    level = max(tops[-1][1], points[-1][1])
    if len(lows) < 3 or slope * (lows[-1][0] - lows[0][0]) < max(0.15 * height, STEADY_SHARE * capacity):
        return Forecast(slope * DAY if len(lows) > 2 else 0.0, None, SAW_TOOTH, len(points))
    return Forecast(slope * DAY, _days(slope, level, capacity), SAW_TOOTH, len(points))


def _between_steps(points: Sequence[Sample]) -> list[Sequence[Sample]]:
    """Return the points between sudden changes, where there are no more of these than events make."""
    changes, usual, _spread = _steps(points)
    whole = abs(points[-1][1] - points[0][1]) + max(abs(change) for change in changes)
    hours = [later[0] - earlier[0] for earlier, later in zip(points, points[1:])]
    speed = statistics.median(abs(change) / max(seconds, 1.0) for change, seconds in zip(changes, hours))
    steps = [
        i + 1
        for i, (change, seconds) in enumerate(zip(changes, hours))
        # A gap between samples has room for more change than an hour.
        if abs(change) > max(8 * usual, 8 * speed * seconds, 0.1 * whole, 1.0)
    ]
    if not 0 < len(steps) <= MOST_STEPS:
        return [points]
    bounds = [0, *steps, len(points)]
    return [points[start:end] for start, end in zip(bounds, bounds[1:])]


def history(files: Sequence[tuple[float, float]], now: float) -> list[Sample]:
    """Return samples of all that a service ever wrote, from its rotated files as (time of the last write, bytes).

    For a first run, which has no samples of its own: their slope is what the service writes. Files from the future are
    left out.
    """
    written, samples = 0.0, []
    for at, size in sorted(files):
        if at <= now:
            written += size
            samples.append((float(at), written))
    return samples


def keep_sample(
    samples: Sequence[Sample], now: float, value: float, least_gap_seconds: float = HOUR, most: int = 400
) -> list[Sample]:
    """Return the samples with a new one, where the last is old enough. Of too many, every other older one goes.

    A clock that was set back begins a gap of its own: what it put into the future stays until it is thinned.
    """
    kept = [(float(at), float(used)) for at, used in samples]
    if kept and abs(now - kept[-1][0]) < least_gap_seconds:
        return kept
    kept.append((float(now), float(value)))
    if len(kept) > most:
        half = len(kept) // 2
        kept = kept[:half][::-2][::-1] + kept[half:]
    return kept
