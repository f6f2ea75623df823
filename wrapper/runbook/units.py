"""Numbers as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

_BYTES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(value: float) -> str:
    sign, value, step = ("-" if value < 0 else ""), abs(value), 0
    while value >= 1024 and step < len(_BYTES) - 1:
        value, step = value / 1024, step + 1
    return f"{sign}{value:.{0 if step == 0 or value >= 100 else 1}f} {_BYTES[step]}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: float) -> str:
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 1 else f"{value:.3g}"


def counted(value: float, noun: str, plural: str = "") -> str:
    """Given a number and a noun, return `1 host` or `2 hosts`; `plural` where it is not just an s."""
    return f"{number(value)} {noun if value == 1 else plural or noun + 's'}"


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
    if unit in ("rows", "columns", "hours", "days"):
        return counted(value, unit.removesuffix("s"))
    return f"{number(value)} {'%' if unit == 'percent' else unit or ''}".rstrip()


def moment(value: datetime | None) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S} UTC" if value else ""


def instant(seconds: float) -> str:
    """Given seconds since 1970, return the moment for a reader."""
    return moment(datetime.fromtimestamp(seconds, UTC))


def age(seconds: float) -> str:
    """Return how long ago something was, coarsely."""
    for length, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            return f"{counted(seconds // length, word)} ago"
    return "just now"
