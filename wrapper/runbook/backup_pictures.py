"""Pictures of backups for a report: the sets that are kept on a line of time, and what a drill spent its time on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runbook.units import duration, instant, size

_LEAST_PERCENT, _MOST_PERCENT = 1.5, 98.5
_KINDS = {"full": "full", "diff": "differential", "incr": "incremental", "wal": "WAL and files"}
# The phases of a drill in their order, which JSON loses. A person who restores waits for the first ones alone.
_WAITED = {"files": "files", "restore": "database", "recovery": "recovery to the restore point"}
_CHECKED = {
    "archive": "newest WAL into the repository",
    "figures": "rows, costs and schema",
    "integrity": "foreign keys and sequences",
    "amcheck": "indexes against their tables",
    "dump": "reading every row",
    "checksums": "page checksums",
    "components": "files against the manifest",
}


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
    """One phase of a drill: its share of the longest in percent, how long it took, and whether it counts as RTO."""

    name: str
    percent: float
    took: str
    waited: bool


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
            when=instant(float(each["finished"])),
            size=size(float(each["bytes"])) if each.get("bytes") else "",
            name=str(each["set"]),
            sound=bool(each.get("sound")),
            proven=instant(float(each["proven"])) if each.get("proven") else "",
            skew=duration(each.get("skew_seconds")),
        )
        for each in sets
    ]


def phases(facts: dict[str, Any]) -> list[Phase]:
    """Given facts.drill, return its phases in their order, those that a restore takes as well before the proofs."""
    drill = facts.get("drill")
    took = drill.get("phases") if isinstance(drill, dict) else None
    if not isinstance(took, dict) or not took:
        return []
    known = {**_WAITED, **_CHECKED}
    longest = max(float(seconds) for seconds in took.values()) or 1.0
    return [
        Phase(known.get(name, name.replace("_", " ")), float(took[name]) / longest * 100, duration(float(took[name])), name in _WAITED)
        for name in [*(name for name in known if name in took), *(name for name in took if name not in known)]
    ]
