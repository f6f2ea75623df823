"""Pictures of backups for a report: the sets that are kept on a line of time, and what a drill spent its time on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from runbook.units import duration, moment, size

_LEAST_PERCENT, _MOST_PERCENT = 1.5, 98.5
_KINDS = {"full": "full", "diff": "differential", "incr": "incremental", "wal": "WAL and files"}


@dataclass(frozen=True)
class Mark:
    """One set on the line: where it is in percent, and what it says when pointed at."""

    at: float
    kind: str
    when: str
    size: str
    name: str
    sound: bool
    proven: str
    skew: str

    @property
    def state(self) -> str:
        return "damaged" if not self.sound else f"proven {self.proven}" if self.proven else "verified"


@dataclass(frozen=True)
class Phase:
    """One phase of a drill: its share of the whole in percent, and how long it took."""

    name: str
    percent: float
    took: str


def marks(facts: dict[str, Any]) -> list[Mark]:
    """Given facts.sets and facts.read_at, return the sets from left (oldest) to right (now)."""
    sets = [each for each in facts.get("sets") or [] if isinstance(each, dict) and "finished" in each]
    if not sets:
        return []
    end = max(float(facts.get("read_at") or 0), *(float(each["finished"]) for each in sets))
    begin = min(float(each["finished"]) for each in sets)
    span = max(end - begin, 60.0)
    reach = _MOST_PERCENT - _LEAST_PERCENT
    return [
        Mark(
            at=_LEAST_PERCENT + (float(each["finished"]) - begin) / span * reach,
            kind=_KINDS.get(str(each["kind"]), str(each["kind"])),
            when=_moment(each["finished"]),
            size=size(float(each["bytes"])) if each.get("bytes") else "",
            name=str(each["set"]),
            sound=bool(each.get("sound")),
            proven=_moment(each["proven"]) if each.get("proven") else "",
            skew=duration(each.get("skew_seconds")),
        )
        for each in sets
    ]


def phases(facts: dict[str, Any]) -> list[Phase]:
    """Given facts.drill, return its phases in their order."""
    drill = facts.get("drill")
    took = drill.get("phases") if isinstance(drill, dict) else None
    if not isinstance(took, dict) or not took:
        return []
    whole = sum(float(seconds) for seconds in took.values()) or 1.0
    return [Phase(name.replace("_", " "), float(seconds) / whole * 100, duration(float(seconds))) for name, seconds in took.items()]


def _moment(seconds: Any) -> str:
    return moment(datetime.fromtimestamp(float(seconds), UTC))
