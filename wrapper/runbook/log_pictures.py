"""Pictures of logs for a report: how file systems and services grow, what an emergency freed, how far logs reach back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runbook.units import amount, instant, number, size

_WIDTH, _HEIGHT = 100.0, 36.0
_DAY = 86400.0
# The part of the picture that is still to come.
_AHEAD = 0.3
# The rungs of an emergency in the words of its page.
_RUNGS = {
    "ballast": "ballast",
    "caches": "caches",
    "compress": "rotated files, compressed",
    "journal": "journal",
    "retention": "rotated files, archived",
    "reopen": "deleted files, opened anew",
    "deleted-files": "deleted files, emptied",
    "images": "images without a name",
}


@dataclass(frozen=True)
class Curve:
    """How one thing grew: `line` and `ahead` are points of an SVG picture of 100 x 36, `full` is where it is full."""

    title: str
    line: str
    ahead: str
    full: float | None
    begin: str
    end: str
    told: str
    tone: str


@dataclass(frozen=True)
class Rung:
    """What one rung freed: its share of the most in percent, and how much was free after it."""

    name: str
    percent: float
    freed: str
    free: str


@dataclass(frozen=True)
class Kept:
    """How far the lines of a service reach back, and what its policy says to that."""

    name: str
    files: str
    size: str
    reach: str
    policy: str
    archived: str
    verdict: str
    tone: str


def curves(facts: dict[str, Any]) -> list[Curve]:
    """Given facts.curves, return a picture for each with at least two points."""
    return [_curve(each) for each in _rows(facts, "curves") if len(_points(each)) >= 2]


def _points(each: dict[str, Any]) -> list[tuple[float, float]]:
    return [(float(t), float(v)) for t, v in each.get("points") or []]


def _curve(each: dict[str, Any]) -> Curve:
    points = _points(each)
    begin, end = points[0][0], points[-1][0]
    span = max(end - begin, 1.0)
    ahead = span * _AHEAD
    slope = float(each.get("bytes_per_day") or 0) / _DAY
    capacity = float(each.get("capacity") or 0)
    then = max(points[-1][1] + slope * ahead, 0.0)
    top = max(capacity, then, *(value for _, value in points), 1.0)

    def place(t: float, value: float) -> str:
        return f"{(t - begin) / (span + ahead) * _WIDTH:.2f},{_HEIGHT - value / top * _HEIGHT:.2f}"

    left = each.get("days_left")
    return Curve(
        title=f"{each.get('of', '')} {each.get('subject', '')}".strip(),
        line=" ".join(place(t, value) for t, value in points),
        ahead=f"{place(*points[-1])} {place(end + ahead, then)}",
        full=_HEIGHT - capacity / top * _HEIGHT if capacity else None,
        begin=instant(begin),
        end=instant(end),
        told=_trend(each, left),
        tone="bad" if left is not None and left < 3 else "warn" if left is not None and left < 14 else "calm",
    )


def _trend(each: dict[str, Any], left: float | None) -> str:
    trend = str(each.get("trend", "unknown"))
    if trend == "unknown":
        return "too little is known for a forecast"
    words = trend if trend != "growing" else f"grows by {size(float(each.get('bytes_per_day') or 0))} a day"
    return f"{words}, full in {number(round(left, 1))} days" if left is not None else words


def rungs(facts: dict[str, Any]) -> list[Rung]:
    """Given facts.reclaimed, return the rungs in the order in which they were taken."""
    rows = _rows(facts, "reclaimed")
    most = max((float(row.get("freed_bytes") or 0) for row in rows), default=0.0) or 1.0
    return [
        Rung(
            name=_RUNGS.get(str(row.get("rung")), str(row.get("rung")).replace("_", " ")),
            percent=max(0.0, float(row.get("freed_bytes") or 0)) / most * 100,
            freed=size(max(0.0, float(row.get("freed_bytes") or 0))),
            free=amount(row.get("free_percent"), "percent"),
        )
        for row in rows
    ]


def kept(facts: dict[str, Any]) -> list[Kept]:
    """Given facts.services, return how far each service's lines reach back."""
    return [
        Kept(
            name=str(row.get("name")),
            files=number(row.get("files_after") or 0),
            size=size(float(row.get("bytes_after") or 0)),
            reach=f"{number(row.get('oldest_days_after') or 0)} days",
            policy=_between(row.get("keep_days_after"), row.get("max_days_after")),
            archived=number(row.get("archived_after") or 0),
            verdict=str(row.get("verdict_after")),
            tone="good" if row.get("verdict_after") == "as the policy says" else "warn",
        )
        for row in _rows(facts, "services")
        if row.get("verdict_after")
    ]


def _between(least: Any, most: Any) -> str:
    if least and most:
        return f"{least} to {most} days"
    return f"at least {least} days" if least else f"at most {most} days" if most else "any"


def errors(facts: dict[str, Any]) -> list[dict[str, str]]:
    """Given facts.errors, return the errors of the scan, most frequent first."""
    return [
        {
            "sample": str(row.get("sample", "")),
            "count": number(row.get("count") or 0),
            "rate": f"{number(round(float(row.get('per_hour') or 0), 1))} an hour",
            "new": "new" if row.get("new") else "",
            "path": ", ".join(str(path) for path in row.get("paths") or []),
        }
        for row in _rows(facts, "errors")
    ]


def _rows(facts: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = facts.get(name)
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
