"""Numbers as people read them."""

from __future__ import annotations

from datetime import datetime

SEVERITIES = ("critical", "warning", "info")
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def severity_rank(severity: str) -> int:
    """Return 0 for the worst severity."""
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)


def size(value: float) -> str:
    sign, value = ("-" if value < 0 else ""), abs(value)
    for unit in _BYTES:
        if value < 1024 or unit == _BYTES[-1]:
            return f"{sign}{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{sign}{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the last unit takes everything")


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def amount(value: object, unit: str | None) -> str:
    """Given a value and its unit (bytes, rows, seconds, percent, ...), return it for a reader."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if unit == "bytes":
        return size(value)
    if unit == "seconds":
        return duration(value)
    number = (
        f"{value:,.0f}"
        if float(value).is_integer()
        else f"{value:,.1f}"
        if abs(value) >= 1
        else f"{value:.3g}"
    )
    if unit == "percent":
        return f"{number} %"
    return f"{number} {unit}" if unit else number


def moment(value: datetime | None) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S} UTC" if value else ""


def age(seconds: float) -> str:
    """Return how long ago something was, coarsely."""
    for size_, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size_:
            count = int(seconds // size_)
            return f"{count} {word}{'s' if count != 1 else ''} ago"
    return "just now"
