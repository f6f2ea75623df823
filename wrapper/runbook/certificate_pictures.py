"""Pictures of certificates for a report: when each one ends and is renewed, before the run and after it, and what is served."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from runbook.units import counted, duration, instant, number

WIDTH = 1000.0
# Names are left of the bars, and who is served right of them.
LEFT, RIGHT = 210.0, 890.0
_HEAD, _ROW = 34.0, 30.0
_NAME_LENGTH = 28
# Of what is in no inventory a host may have any number; what ends first is drawn.
_MOST_UNMANAGED = 20
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_MONTH, _YEAR = 30 * _DAY, 365 * _DAY
# Where lifetimes differ more than this, a line of time with equal steps would leave nothing of the short ones.
_MOST_RATIO = 25.0
_TICK_DISTANCE = 62.0
_STEPS = (
    _MINUTE, 5 * _MINUTE, 10 * _MINUTE, 30 * _MINUTE, _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR, _DAY, 3 * _DAY, 7 * _DAY, 14 * _DAY, _MONTH,
    3 * _MONTH, 6 * _MONTH, _YEAR, 3 * _YEAR, 10 * _YEAR, 30 * _YEAR, 100 * _YEAR, 1000 * _YEAR,
)  # fmt: skip
_TONES = {"expired": "bad", "not valid yet": "bad", "unreadable": "bad", "due": "warn", "good": "good", "not managed": "calm"}


@dataclass(frozen=True)
class Span:
    """A bar, from `begin` over `now` to `end`, in the units of the picture: what is left of `now` is over."""

    begin: float
    now: float
    end: float


@dataclass(frozen=True)
class Row:
    """One certificate. `before` is its bar before the run, where the run replaced it; `renew` is where renewal is due."""

    name: str
    label: str
    y: float
    state: str
    tone: str
    changed: str
    bar: Span | None
    before: Span | None
    renew: float | None
    issuer: str
    serial: str
    ends: str
    left: str
    renewed_by: str
    served: str
    served_tone: str
    deployed: str
    orders: str

    @property
    def told(self) -> str:
        """What the row says when pointed at."""
        parts = [f"{self.name}: {self.state}", f"ends {self.ends}" if self.ends else "", f"renewal due {self.renewed_by}" if self.renewed_by else ""]
        return ", ".join(part for part in [*parts, f"served: {self.served}" if self.served else ""] if part)


@dataclass(frozen=True)
class Tick:
    x: float
    label: str


@dataclass(frozen=True)
class Timeline:
    """The picture: `now` is where the present is, `even` whether equal lengths are equal times."""

    rows: list[Row]
    ticks: list[Tick]
    now: float
    height: float
    even: bool
    read_at: str
    more: int

    @property
    def width(self) -> float:
        return WIDTH

    @property
    def told(self) -> str:
        """The picture in words."""
        states = [row.state for row in self.rows]
        return ", ".join(f"{states.count(state)} {state}" for state in _TONES if state in states)


@dataclass(frozen=True)
class _Look:
    """A certificate as one look saw it; moments in seconds since the epoch."""

    begin: float
    end: float
    renew: float | None
    serial: str

    def state(self, now: float) -> str:
        if now >= self.end:
            return "expired"
        if now < self.begin:
            return "not valid yet"
        return "due" if self.renew is not None and now >= self.renew else "good"


def timeline(facts: dict[str, Any]) -> Timeline | None:
    """Given facts.certificates, facts.unmanaged_certificates and facts.certificates_at, return the picture; None without a certificate."""
    now = _moment(facts.get("certificates_at"))
    managed, others = _rows(facts, "certificates"), _rows(facts, "unmanaged_certificates")
    if now is None or not managed + others:
        return None
    looks = [(row, _look(row, "before"), _look(row, "after"), True) for row in managed]
    foreign = [(row, None, _look(row, "after") or _look(row, "before"), False) for row in others]
    looks.sort(key=lambda one: (one[2].end if one[2] else 0, str(one[0]["name"])))
    foreign.sort(key=lambda one: (one[2].end if one[2] else 0, str(one[0]["name"])))
    drawn = [*looks, *foreign[:_MOST_UNMANAGED]]
    seen = [look for _, before, after, _ in drawn for look in (before, after) if look]
    place, even = _scale(seen, now)
    rows = [_row(each, before, after, now, place, position, is_managed) for position, (each, before, after, is_managed) in enumerate(drawn)]
    return Timeline(rows, _ticks(place, now, even), place(now), _HEAD + _ROW * len(rows) + 6, even, instant(now), len(foreign) - _MOST_UNMANAGED)


def _row(
    each: dict[str, Any], before: _Look | None, after: _Look | None, now: float, place: Callable[[float], float], position: int, managed: bool
) -> Row:
    state = after.state(now) if after else "unreadable"
    if not managed and state in ("good", "due"):
        state = "not managed"
    earlier = (before.state(now) if before else "unreadable") if managed else state
    replaced = before is not None and after is not None and before.serial != after.serial
    served, served_tone = _served(each) if managed else ("", "calm")
    return Row(
        name=str(each["name"]),
        label=_short(str(each["name"])),
        y=_HEAD + _ROW * position,
        state=state,
        tone=_TONES[state],
        changed=f"{earlier} → {state}" if earlier != state else "renewed" if replaced else "",
        bar=_span(after, now, place),
        before=_span(before, now, place) if replaced else None,
        renew=place(after.renew) if after and after.renew is not None else None,
        issuer=str(_value(each, "issuer") or _value(each, "subject") or "").replace("_", " "),
        serial=after.serial if after else "",
        ends=_told(after.end) if after else "",
        left=_left(after.end - now) if after else "",
        renewed_by=_told(after.renew) if after and after.renew is not None else "",
        served=served,
        served_tone=served_tone,
        deployed=_told(at) if (at := _moment(_value(each, "last_deployed_at"))) is not None else "",
        orders="" if _value(each, "orders_left") is None else number(_value(each, "orders_left")),
    )


def _look(each: dict[str, Any], when: str) -> _Look | None:
    begin, end = _moment(each.get(f"not_before_{when}")), _moment(each.get(f"not_after_{when}"))
    if begin is None or end is None:
        return None
    return _Look(begin, end, _moment(each.get(f"renew_at_{when}")), str(each.get(f"serial_{when}") or ""))


def _value(each: dict[str, Any], name: str) -> Any:
    after = each.get(f"{name}_after")
    return each.get(f"{name}_before") if after is None else after


def _moment(value: Any) -> float | None:
    """Return a moment that can be told as a date, None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return min(max(float(value), 0.0), 253402300799.0)  # the end of the year 9999


def _told(at: float) -> str:
    """Return a moment of the table, UTC to the minute."""
    return instant(at)[:16]


def _served(each: dict[str, Any]) -> tuple[str, str]:
    asked, right = int(each.get("served_after") or 0), int(each.get("served_matches_after") or 0)
    if not asked:
        return "not asked", "calm"
    if right == asked:
        return ("yes" if asked == 1 else f"yes, {asked}"), "good"
    return ("no" if asked == 1 else f"no, {right} of {asked}"), "bad"


def _span(look: _Look | None, now: float, place: Callable[[float], float]) -> Span | None:
    if look is None:
        return None
    begin, end = place(look.begin), place(max(look.end, look.begin))
    return Span(begin, min(max(place(now), begin), end), end)


def _left(seconds: float) -> str:
    return _length(seconds) if seconds > 0 else f"over since {_length(-seconds)}"


def _length(seconds: float) -> str:
    if seconds >= 2 * _YEAR:
        return f"{number(round(seconds / _YEAR, 1))} years"
    if seconds >= 3 * _DAY:
        return counted(int(seconds // _DAY), "day")
    return duration(seconds)


def _short(name: str) -> str:
    """Return a name as it fits beside its bar: of a path the end, of others both ends, as many begin alike."""
    if len(name) <= _NAME_LENGTH:
        return name
    return "…" + name[-_NAME_LENGTH + 1 :] if name.startswith("/") else f"{name[: _NAME_LENGTH // 2]}…{name[-_NAME_LENGTH // 2 + 1 :]}"


def _scale(looks: Sequence[_Look], now: float) -> tuple[Callable[[float], float], bool]:
    """Return where a moment is on the line, and whether equal lengths are equal times.

    With lifetimes of very different lengths, distances from now are shown by their logarithm, so that ten minutes and ten
    years are both to be seen.
    """
    begin = min([look.begin for look in looks] + [now - _MINUTE])
    end = max([look.end for look in looks] + [now + _MINUTE])
    lifetimes = [look.end - look.begin for look in looks if look.end > look.begin]
    even = not lifetimes or (end - begin) / min(lifetimes) <= _MOST_RATIO
    unit = max(min(lifetimes, default=_DAY) / 4, 1.0)

    def bent(at: float) -> float:
        return at - now if even else math.copysign(math.log1p(abs(at - now) / unit), at - now)

    low, high = bent(begin), bent(end)

    def place(at: float) -> float:
        part = (bent(min(max(at, begin), end)) - low) / (high - low)
        return round(LEFT + part * (RIGHT - LEFT), 2)

    return place, even


def _ticks(place: Callable[[float], float], now: float, even: bool) -> list[Tick]:
    """Return marks on both sides of now, far enough from each other to be read."""
    return sorted([*_side(place, now, even, -1), *_side(place, now, even, 1)], key=lambda tick: tick.x)


def _side(place: Callable[[float], float], now: float, even: bool, sign: int) -> Iterable[Tick]:
    edge = LEFT if sign < 0 else RIGHT
    last = place(now)
    # On an even line, what is far enough from now is far enough from the next one.
    first = next((step for step in _STEPS if abs(place(now + sign * step) - last) >= _TICK_DISTANCE), _STEPS[-1])
    for step in [first * times for times in range(1, 15)] if even else _STEPS:
        x = place(now + sign * step)
        # A moment beyond the picture is placed at its edge.
        if abs(x - last) >= _TICK_DISTANCE and abs(x - edge) > 1:
            last = x
            yield Tick(x, f"{'-' if sign < 0 else '+'}{_tick_length(step)}")


def _tick_length(seconds: float) -> str:
    for unit, word in ((_YEAR, "y"), (_MONTH, "mo"), (_DAY, "d"), (_HOUR, "h")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {word}"
    return f"{seconds / _MINUTE:.0f} min"


def _rows(facts: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = facts.get(name)
    return [row for row in found if isinstance(row, dict) and row.get("name")] if isinstance(found, list) else []
