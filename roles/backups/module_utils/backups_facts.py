# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""What a run tells of backups beside findings and actions: the sets that are kept, and what the last drill measured."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.backups_engine import by_label
from ansible.module_utils.backups_planner import Picture, good_sets


def facts_of(picture: Picture) -> dict[str, Any]:
    """Return facts for record and report. Times are seconds since 1970, sizes bytes.

    `sets`, oldest first: set, kind, finished, label, bytes, skew_seconds, sound, proven (time of the drill that it
    passed, or null). `drill`: the last one, with its phases in seconds. What a report shows in its head has its unit
    at the end of its name.
    """
    backups = by_label(picture.repository.backups)
    sound = {each["set"] for each in good_sets(picture)}
    proven = {drill["set"]: drill["at"] for drill in picture.drills if drill["result"] == "passed"}
    sets = [
        {
            "set": each["set"],
            "kind": each["kind"],
            "finished": each["finished"],
            "label": each["database"]["label"],
            "bytes": backups[label].repository_bytes if (label := each["database"]["label"]) in backups else None,
            "files_bytes": each.get("files_bytes_added"),
            "skew_seconds": each["skew_seconds"],
            "sound": each["set"] in sound,
            "proven": proven.get(each["set"]),
        }
        for each in sorted(picture.sets, key=lambda each: float(each["finished"]))
    ]
    facts: dict[str, Any] = {
        "engine": f"{picture.engine} {'.'.join(map(str, picture.repository.version))}",
        "sets": sets,
        "kept_sets": len(sets),
        "kept_backups": len(picture.repository.backups),
        "database_backups_bytes": sum(backup.repository_bytes for backup in picture.repository.backups),
        "newest_wal": picture.repository.archive.newest,
        "read_at": picture.now,
    }
    if picture.drills:
        last = max(picture.drills, key=lambda drill: float(drill["at"]))
        facts["drill"] = last
        facts["drill_result"] = last["result"]
        facts["rto_seconds"] = last["rto_seconds"]
        facts["rpo_seconds"] = last["rpo_seconds"]
    return {key: value for key, value in facts.items() if value not in (None, "")}
