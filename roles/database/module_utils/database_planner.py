# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Decides what is due: rows from the catalogs in, planned actions and findings out. Pure functions, no server.

An action carries the object, the reason, the number that asked for it and the threshold it passed, so that a
report needs nothing else. Where the numbers come from: docs/architecture.md, "Thresholds".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible.module_utils.runbook_psql import MIN_CLIENT_MAJOR
from ansible.module_utils.runbook_result import action, finding, human_bytes

Row = dict[str, Any]

# Refused below: REINDEX CONCURRENTLY of 14.0 to 14.3 corrupted indexes silently.
# https://www.postgresql.org/docs/release/14.4/
OLDEST_VERSION = 140004
PAGE_HEADER_BYTES = 24
BTREE_SPECIAL_BYTES = 16
ITEM_POINTER_BYTES = 4
TUPLE_HEADER_BYTES = 8
# A posting list of a freshly built B-tree takes at most a tenth of a page.
# https://www.postgresql.org/docs/15/btree-implementation.html#BTREE-DEDUPLICATION
POSTING_LIST_FRACTION = 0.1
HEAP_POINTER_BYTES = 6
# REINDEX builds the new index beside the old one, and sorts; a refresh writes a second copy of the view.
DISK_FACTOR = 1.2


@dataclass(frozen=True)
class Limits:
    """Thresholds of a run. None for an autovacuum number means: the server's own setting."""

    vacuum_threshold_rows: int | None = None
    vacuum_scale_factor: float | None = None
    vacuum_insert_threshold_rows: int | None = None
    vacuum_insert_scale_factor: float | None = None
    analyze_threshold_rows: int | None = None
    analyze_scale_factor: float | None = None
    freeze_percent: float = 50
    index_bloat_percent: float = 30
    index_bloat_min_bytes: int = 10 * 1024 * 1024
    unused_index_days: int = 30
    unused_index_min_bytes: int = 1024 * 1024
    views_max_age_hours: float = 24
    views_blocking_allowed: bool = False
    sequence_warn_percent: float = 70
    sequence_critical_percent: float = 85
    sequence_warn_days: float = 90
    horizon_max_age_seconds: float = 300
    horizon_max_age_xids: int = 50_000
    retry_after_hours: float = 168
    disk_check_required: bool = True
    requested_checkpoints_warn_percent: float = 50


def guard(server: Row, client_major: int) -> tuple[str, str] | None:
    """Return (outcome, message) if this server is not to be maintained at all, else None."""
    if server["version_num"] < OLDEST_VERSION:
        return "refused", (
            f"PostgreSQL {server['version']} is too old: REINDEX CONCURRENTLY of 14.0 to 14.3 corrupts indexes; "
            "update the server to 14.4 or newer"
        )
    if client_major < MIN_CLIENT_MAJOR:
        told = f"psql {client_major} is too old: install the PostgreSQL client {MIN_CLIENT_MAJOR} or newer"
        return "refused", told
    return None


def blockers(holders: Sequence[Row], limits: Limits) -> list[Row]:
    """Return the holders of the xmin horizon that are older than the limits, oldest first."""
    old = [
        h
        for h in holders
        if (h["age_seconds"] is not None and h["age_seconds"] > limits.horizon_max_age_seconds)
        or (h["age_seconds"] is None and (h["age_xids"] or 0) > limits.horizon_max_age_xids)
    ]
    return sorted(old, key=lambda h: -(h["age_seconds"] or h["age_xids"] or 0))


def blocker_findings(blocking: Sequence[Row], limits: Limits) -> list[Row]:
    """Return one finding per holder that makes vacuum, rebuilds and refreshes useless or endless."""
    remedies = {
        "session": "End the transaction (ask its owner first): SELECT pg_terminate_backend({pid});",
        "prepared": "COMMIT PREPARED or ROLLBACK PREPARED it",
        "slot": "Let its consumer catch up, or drop the slot if it is no longer used",
        "standby": "End the long query on the standby, or turn hot_standby_feedback off there",
    }
    found = []
    for holder in blocking:
        by_time = holder["age_seconds"] is not None
        found.append(
            finding(
                "horizon-held",
                "Dead rows cannot be removed: the xmin horizon is held",
                subject=holder["holder"],
                observed=f"{holder['age_seconds']:.0f} s" if by_time else f"{holder['age_xids']} transactions",
                expected=f"at most {limits.horizon_max_age_seconds:.0f} s"
                if by_time
                else f"at most {limits.horizon_max_age_xids} transactions",
                remedy=remedies[holder["kind"]].format(pid=holder.get("pid")),
            )
        )
    return found


# --- vacuum, analyze, freeze ------------------------------------------------------------------------------------


def _number(table: Row, option: str, wanted: float | None, server_value: float) -> float:
    """Per-table storage parameter first, then the input, then the server's setting, as autovacuum would."""
    own = table["options"].get(option)
    if own is not None:
        return float(own)
    return server_value if wanted is None else float(wanted)


def vacuum_due(table: Row, server: Row, limits: Limits) -> tuple[str, float, float, str] | None:
    """Return (reason, number, threshold, unit) if autovacuum's formulas or the ages ask for a VACUUM, else None."""
    if table["kind"] == "p":
        return None
    rows = max(table["reltuples"], 0)
    freeze = _freeze_due(table, server, limits)
    if freeze:
        return freeze
    threshold = _number(table, "autovacuum_vacuum_threshold", limits.vacuum_threshold_rows, server["vacuum_threshold"])
    threshold += rows * _number(
        table, "autovacuum_vacuum_scale_factor", limits.vacuum_scale_factor, server["vacuum_scale_factor"]
    )
    if table["dead_rows"] > threshold:
        return "dead rows", table["dead_rows"], math.floor(threshold), "rows"
    base = _number(
        table, "autovacuum_vacuum_insert_threshold", limits.vacuum_insert_threshold_rows, server["insert_threshold"]
    )
    if base < 0:  # -1 turns insert vacuums off, for autovacuum and so for us
        return None
    threshold = base + rows * _number(
        table, "autovacuum_vacuum_insert_scale_factor", limits.vacuum_insert_scale_factor, server["insert_scale_factor"]
    )
    if table["inserted_rows"] > threshold:
        return "rows inserted since the last vacuum", table["inserted_rows"], math.floor(threshold), "rows"
    return None


def _freeze_due(table: Row, server: Row, limits: Limits) -> tuple[str, float, float, str] | None:
    for age, option, setting, word in (
        ("xid_age", "autovacuum_freeze_max_age", "freeze_max_age", "transaction age"),
        ("mxid_age", "autovacuum_multixact_freeze_max_age", "multixact_freeze_max_age", "multixact age"),
    ):
        # A per-table value above the server's is ignored by PostgreSQL, so by us.
        maximum = min(_number(table, option, None, server[setting]), server[setting])
        threshold = maximum * limits.freeze_percent / 100
        if table[age] > threshold:
            return f"freeze: {word}", table[age], math.floor(threshold), "transactions"
    return None


def analyze_due(
    table: Row, server: Row, limits: Limits, memory: Mapping[str, Any]
) -> tuple[str, float, float, str] | None:
    """Return (reason, number, threshold, unit) if statistics are missing or stale, else None.

    Columns that had no statistics after the last ANALYZE of ours are remembered: another one would not help.
    """
    rows = max(table["reltuples"], 0)
    missing = table["missing_statistics"] or []
    has_rows = table["heap_bytes"] > 0 or (table["kind"] == "p" and table["has_children"])
    known = memory.get("without_statistics", {}).get(table["ident"], [])
    new = [c for c in missing if c not in known]
    if has_rows and new:
        return "columns without statistics", len(new), 0, "columns"
    if table["kind"] == "p":
        return None
    threshold = _number(
        table, "autovacuum_analyze_threshold", limits.analyze_threshold_rows, server["analyze_threshold"]
    )
    threshold += rows * _number(
        table, "autovacuum_analyze_scale_factor", limits.analyze_scale_factor, server["analyze_scale_factor"]
    )
    if table["changed_rows"] > threshold:
        return "rows changed since the last analyze", table["changed_rows"], math.floor(threshold), "rows"
    return None


def plan_vacuum(
    tables: Sequence[Row], server: Row, limits: Limits, memory: Mapping[str, Any], blocked: bool
) -> list[Row]:
    """Return the planned VACUUM and ANALYZE actions, largest table first.

    While the horizon is held a VACUUM would remove nothing, so only ANALYZE is planned.
    """
    planned = []
    for table in tables:
        vacuum = None if blocked else vacuum_due(table, server, limits)
        analyze = analyze_due(table, server, limits, memory)
        due = vacuum or analyze
        if due is None or (not table["may_maintain"] and not server["database_owner"]):
            continue
        options = []
        if vacuum:
            options.append("VACUUM")
        if vacuum and vacuum[0].startswith("freeze"):
            options.append("FREEZE")
        if analyze:
            options.append("ANALYZE")
        reason = f"{due[0]}; {analyze[0]}" if vacuum and analyze else due[0]
        planned.append(
            {
                **action(
                    "vacuum",
                    table["ident"],
                    reason,
                    number=due[1],
                    threshold=due[2],
                    unit=due[3],
                    measure="rows",
                    before=table["dead_rows"],
                    detail=" ".join(options),
                ),
                "oid": table["oid"],
                "options": options,
            }
        )
    return planned


# --- indexes ----------------------------------------------------------------------------------------------------


def expected_index_bytes(index: Row, block_size: int, memory: Mapping[str, Any]) -> float | None:
    """Return the bytes a freshly built copy of this B-tree would take, or None if that cannot be told.

    After a rebuild of ours its bytes per row are remembered and used; before, the size is estimated from the
    statistics of its columns, with deduplication of equal keys.
    """
    rows = index["reltuples"]
    if rows < 0:
        return None
    known = memory.get("indexes", {}).get(index["ident"])
    if known and known["definition"] == index["definition"]:
        # A quarter of a page per level and the metapage do not shrink with the rows.
        return max(float(known["bytes_per_row"]) * rows, 2.0 * block_size)
    if index["method"] != "btree" or not index["columns"] or any(c["width"] is None for c in index["columns"]):
        return None
    per_row = _tuple_bytes(index)
    duplicates = _duplicates(index, rows)
    if duplicates >= 2:
        posting = block_size * POSTING_LIST_FRACTION - ITEM_POINTER_BYTES
        per_list = max(2.0, min(duplicates, (posting - per_row) / HEAP_POINTER_BYTES))
        per_row = HEAP_POINTER_BYTES + per_row / per_list
    usable = (block_size - PAGE_HEADER_BYTES - BTREE_SPECIAL_BYTES) * index["fillfactor"] / 100
    leaves = math.ceil(rows * per_row / usable)
    # One internal entry per leaf, one metapage.
    inner = math.ceil(leaves * _tuple_bytes(index) / usable)
    return float((leaves + inner + 2) * block_size)


def _tuple_bytes(index: Row) -> float:
    data = 0.0
    has_nulls = False
    for column in index["columns"]:
        width = column["width"]
        if column["length"] > 0:
            step = {"c": 1, "s": 2, "i": 4, "d": 8}[column["align"]]
            data = math.ceil(data / step) * step
            width = column["length"]
        data += (1 - column["nulls"]) * width
        has_nulls = has_nulls or column["nulls"] > 0
    header = TUPLE_HEADER_BYTES + (8 if has_nulls else 0)
    return math.ceil((header + data) / 8) * 8 + ITEM_POINTER_BYTES


def _duplicates(index: Row, rows: float) -> float:
    """Return how many rows share a key on average, 1 where equal keys cannot be stored once."""
    if index["is_unique"] or not index["may_deduplicate"] or not all(c["deduplicates"] for c in index["columns"]):
        return 1
    distinct = 1.0
    for column in index["columns"]:
        own = column["distinct"]
        distinct *= max(1.0, own if own > 0 else -own * rows)
    return rows / min(distinct, rows) if rows else 1


def bloat_percent(index: Row, block_size: int, memory: Mapping[str, Any]) -> float | None:
    """Return the percentage of the index that a rebuild would free (0 to 100), or None if unknown."""
    expected = expected_index_bytes(index, block_size, memory)
    if expected is None or not index["bytes"]:
        return None
    return max(0.0, 100.0 * (1 - expected / index["bytes"]))


def is_leftover(index: Row, indexes: Iterable[Row]) -> bool:
    """Return whether an invalid index is what a cancelled REINDEX CONCURRENTLY left behind.

    Its name ends in _ccnew or _ccold and maybe a number, and another index of its table has the same definition
    or the name without that ending (a table's TOAST index always has).
    """
    for ending in ("_ccnew", "_ccold"):
        base, found, number = index["name"].rpartition(ending)
        if found and base and (number == "" or number.isdigit()):
            if index["schema"] == "pg_toast":
                return True
            return any(
                other["table_oid"] == index["table_oid"]
                and other["oid"] != index["oid"]
                and (other["definition"] == index["definition"] or other["name"] == base)
                for other in indexes
            )
    return False


def _index_due(
    index: Row, indexes: Sequence[Row], server: Row, limits: Limits, memory: Mapping[str, Any]
) -> tuple[str, str, Any, Any, str] | None:
    """Return (verb, reason, number, threshold, unit) if the index is to be rebuilt or dropped, else None."""
    if not index["valid"]:
        if index["building"] or index["locked"]:
            return None
        if is_leftover(index, indexes):
            return "DROP", "dead leftover of a concurrent rebuild", index["bytes"], None, "bytes"
        return "REINDEX", "invalid", index["bytes"], None, "bytes"
    if index["bytes"] < limits.index_bloat_min_bytes or index["is_exclusion"]:
        return None
    percent = bloat_percent(index, server["block_size"], memory)
    if percent is None or percent <= limits.index_bloat_percent:
        return None
    return "REINDEX", "bloat", round(percent, 1), limits.index_bloat_percent, "percent"


def plan_indexes(
    indexes: Sequence[Row], server: Row, limits: Limits, memory: Mapping[str, Any], blocked: bool, now: float
) -> list[Row]:
    """Return the planned drops of leftovers and rebuilds of invalid and bloated indexes, largest first.

    While old transactions run nothing is planned: concurrent builds wait for them.
    """
    if blocked:
        return []
    planned = []
    for index in indexes:
        due = _index_due(index, indexes, server, limits, memory)
        if (
            due is None
            or not (index["owner"] or server["superuser"])
            or failed_lately("indexes", index["ident"], limits, memory, now)
        ):
            continue
        planned.append(
            {
                **action(
                    "indexes",
                    index["ident"],
                    due[1],
                    number=due[2],
                    threshold=due[3],
                    unit=due[4],
                    measure="bytes",
                    before=index["bytes"],
                    detail=f"{due[0]} on {index['table_ident']}",
                ),
                "oid": index["oid"],
                "table_oid": index["table_oid"],
                "verb": due[0],
                "bytes": index["bytes"],
            }
        )
    return planned


def failed_lately(step: str, subject: str, limits: Limits, memory: Mapping[str, Any], now: float) -> bool:
    """Return whether the same action failed within the retry time, for a reason that waiting does not cure."""
    failure = memory.get("failures", {}).get(f"{step}:{subject}")
    return bool(failure) and now - failure["at"] < limits.retry_after_hours * 3600


def failure_findings(limits: Limits, memory: Mapping[str, Any], now: float) -> list[Row]:
    """Return a finding for each remembered failure that keeps an action from being planned."""
    found = []
    for key, failure in sorted(memory.get("failures", {}).items()):
        step, _, subject = key.partition(":")
        if failed_lately(step, subject, limits, memory, now):
            found.append(
                finding(
                    "failed-before",
                    f"The step {step} failed on this object and is not tried again yet",
                    subject=subject,
                    observed=failure["error"],
                    expected="success",
                    remedy=f"Cure the cause; tried again {limits.retry_after_hours:.0f} h after the failure",
                )
            )
    return found


def index_findings(indexes: Sequence[Row], foreign_keys: Sequence[Row], server: Row, limits: Limits) -> list[Row]:
    """Return what is reported only: unused and duplicate indexes, foreign keys without one, builds that go on."""
    found = []
    seen: dict[str, Row] = {}
    for index in sorted(indexes, key=lambda i: (not i["backs_constraint"], not i["is_unique"], i["oid"])):
        if not index["valid"]:
            if index["building"] or index["locked"]:
                found.append(
                    finding(
                        "index-in-build",
                        "An invalid index is being built now; it is left alone",
                        subject=index["ident"],
                        severity="info",
                        observed="building",
                        expected="valid",
                        remedy="None; the next run looks again",
                    )
                )
            continue
        twin = seen.setdefault(index["definition"], index)
        if twin is not index and not index["backs_constraint"]:
            found.append(
                finding(
                    "index-duplicate",
                    f"Same columns as {twin['ident']}",
                    subject=index["ident"],
                    severity="info",
                    observed=human_bytes(index["bytes"]),
                    expected="one index",
                    remedy=f"After a look at the queries: DROP INDEX CONCURRENTLY {index['ident']};",
                )
            )
    days = (server["stats_seconds"] or 0) / 86400
    if days >= limits.unused_index_days:
        found += [
            finding(
                "index-unused",
                f"Not used in the {days:.0f} days since statistics were reset",
                subject=index["ident"],
                severity="info",
                observed="0 scans",
                expected="used",
                remedy="Look at the standbys' counters too, then drop it",
            )
            for index in indexes
            if index["valid"]
            and index["scans"] == 0
            and index["bytes"] >= limits.unused_index_min_bytes
            and not index["is_unique"]
            and not index["backs_constraint"]
        ]
    found += [
        finding(
            "foreign-key-without-index",
            f"Deletes from {key['parent_ident']} read all of {key['child_ident']}",
            subject=f"{key['child_ident']}.{key['name']}",
            observed="no index",
            expected="an index",
            remedy=f"CREATE INDEX CONCURRENTLY ON {key['child_ident']} ({', '.join(key['child_columns'])});",
        )
        for key in foreign_keys
        if not key["indexed"]
    ]
    return found


# --- materialized views -----------------------------------------------------------------------------------------


def plan_views(
    views: Sequence[Row], limits: Limits, memory: Mapping[str, Any], blocked: bool, now: float
) -> tuple[list[Row], list[Row]]:
    """Return the planned refreshes, sources before the views that read them, and findings.

    A view is due when a source changed since the last refresh of ours and that is older than the limit. The first
    run knows of no refresh, so it refreshes.
    """
    planned: list[Row] = []
    found: list[Row] = []
    due_oids: set[int] = set()
    for view in _sources_first(views):
        if view["nullable_keys"]:
            found.append(
                finding(
                    "view-key-with-nulls",
                    "Rows with NULL in the unique key are rewritten at every refresh",
                    subject=view["ident"],
                    severity="info",
                    observed=", ".join(view["nullable_keys"]),
                    expected="no NULL in the unique key",
                    remedy="Use coalesce() in the view's key columns",
                )
            )
        known = memory.get("views", {}).get(view["ident"], {})
        below_due = any(oid in due_oids for oid in view["views_below"] or [])
        age_hours = (now - known["refreshed_at"]) / 3600 if known else None
        # Whether a foreign table changed nobody here can tell, so its views are refreshed when they are old.
        changed = not known or known["writes"] != view["writes"] or known["oid"] != view["oid"] or below_due
        changed = changed or view["foreign_source"]
        if view["populated"] and not (changed and (age_hours is None or age_hours >= limits.views_max_age_hours)):
            continue
        if not view["may_maintain"] or failed_lately("views", view["ident"], limits, memory, now):
            continue
        obstacle = _view_obstacle(view)
        if obstacle and view["populated"] and not limits.views_blocking_allowed:
            found.append(
                finding(
                    "view-blocks-readers",
                    "Stale, but cannot be refreshed without blocking its readers",
                    subject=view["ident"],
                    observed=obstacle,
                    expected="a unique index on plain columns, without WHERE",
                    remedy="CREATE UNIQUE INDEX CONCURRENTLY on its key, or set database_views_blocking_allowed",
                )
            )
            continue
        if blocked:
            continue
        due_oids.add(view["oid"])
        reason = "no refresh on record"
        if not view["populated"]:
            reason = "never filled"
        elif known:
            reason = "reads a foreign table" if view["foreign_source"] else "source changed"
        planned.append(
            {
                **action(
                    "views",
                    view["ident"],
                    reason,
                    number=None if age_hours is None else round(age_hours, 1),
                    threshold=limits.views_max_age_hours,
                    unit="hours",
                    measure="bytes",
                    before=view["bytes"],
                    detail="REFRESH" if obstacle or not view["populated"] else "REFRESH CONCURRENTLY",
                ),
                "oid": view["oid"],
                "concurrently": not obstacle and view["populated"],
                "bytes": view["bytes"],
                "writes": view["writes"],
            }
        )
    return planned, found


def _view_obstacle(view: Row) -> str:
    if not view["populated"]:
        return "it has never been filled"
    return "" if view["unique_index"] else "no unique index that covers all rows"


def _sources_first(views: Sequence[Row]) -> list[Row]:
    by_oid = {view["oid"]: view for view in views}
    ordered: list[Row] = []

    def visit(view: Row) -> None:
        if view in ordered:
            return
        for oid in view["views_below"] or []:
            if oid in by_oid and oid != view["oid"]:
                visit(by_oid[oid])
        ordered.append(view)

    for view in views:
        visit(view)
    return ordered


# --- disk, rights, sequences ------------------------------------------------------------------------------------


def within_disk(planned: Sequence[Row], free: int | None, limits: Limits, jobs: int) -> tuple[list[Row], list[Row]]:
    """Return the rewrites that fit on the disk, and findings for those that do not (or cannot be judged).

    `free` is what the file system of the data directory has left in bytes, None where that cannot be measured. The
    `jobs` largest may run at once, so each must fit beside the others.
    """
    fits: list[Row] = []
    found: list[Row] = []
    unknown: list[Row] = []
    for item in planned:
        need = math.ceil(item["bytes"] * DISK_FACTOR) * max(1, jobs)
        if item.get("verb") == "DROP":
            fits.append(item)
        elif free is None and limits.disk_check_required:
            unknown.append(item)
        elif free is not None and free < need:
            found.append(
                finding(
                    "disk-short",
                    "Too little free disk space to rewrite it",
                    subject=item["subject"],
                    severity="critical",
                    observed=f"{human_bytes(free)} free",
                    expected=f"{human_bytes(need)} free",
                    remedy="Free disk space first",
                )
            )
        else:
            fits.append(item)
    if unknown:
        found.append(
            finding(
                "disk-unknown",
                "Free disk space cannot be measured, so nothing is rewritten",
                subject=f"step {unknown[0]['step']}",
                observed=f"unknown; left alone: {_some([{'ident': item['subject']} for item in unknown])}",
                expected=f"{human_bytes(max(i['bytes'] for i in unknown) * DISK_FACTOR * max(1, jobs))} free",
                remedy="GRANT pg_monitor, by which a local server tells its folder; or set database_data_dir to the data "
                "directory as this host sees it, or database_disk_check_required: false",
            )
        )
    return fits, found


def rights_findings(server: Row, tables: Sequence[Row], limits: Limits, memory: Mapping[str, Any]) -> list[Row]:
    """Return findings that name the grants a role lacks for what is due."""
    found = []
    user = server["user"]
    if not server["superuser"] and not server["monitor"]:
        found.append(
            finding(
                "grant-missing",
                "Sessions, slots and WAL of others cannot be read",
                subject="pg_monitor",
                observed=f"role {user} is no member",
                expected="member of pg_monitor",
                remedy=_grant(server, ["pg_monitor"]),
            )
        )
    lacking = [
        t
        for t in tables
        if not t["may_maintain"]
        and not server["database_owner"]
        and (vacuum_due(t, server, limits) or analyze_due(t, server, limits, memory))
    ]
    if lacking:
        found.append(
            finding(
                "grant-missing",
                "Tables are due for vacuum or analyze, but the role may not",
                subject="maintain",
                observed=_some(lacking),
                expected=f"role {user} owns them or may maintain them",
                remedy=_grant(server, _maintainers(server, lacking)),
            )
        )
    return found


def owner_findings(
    server: Row, indexes: Sequence[Row], views: Sequence[Row], limits: Limits, memory: Mapping[str, Any]
) -> list[Row]:
    """Return findings for indexes and materialized views that are due, but that the role may not touch."""
    found = []
    # MAINTAIN would allow a rebuild, but not to drop what a failed one leaves behind.
    mine = [i for i in indexes if not (i["owner"] or server["superuser"])]
    due = [i for i in mine if _index_due(i, indexes, server, limits, memory)]
    if due:
        found.append(
            finding(
                "grant-missing",
                "Indexes are due to be rebuilt or dropped, but the role may not",
                subject="indexes",
                observed=_some(due),
                expected=f"role {server['user']} is, or is a member of, their owner",
                remedy=_grant(server, [i["owner_ident"] for i in due]),
            )
        )
    unread = [v for v in views if not v["may_maintain"]]
    if unread:
        found.append(
            finding(
                "grant-missing",
                "Materialized views are not looked after: the role may not refresh them",
                subject="views",
                severity="info",
                observed=_some(unread),
                expected=f"role {server['user']} owns them or may maintain them",
                remedy=_grant(server, _maintainers(server, unread)),
            )
        )
    return found


def _some(items: Sequence[Row], most: int = 10) -> str:
    more = len(items) - most
    return ", ".join(item["ident"] for item in items[:most]) + (f" and {more} more" if more > 0 else "")


def _maintainers(server: Row, items: Sequence[Row]) -> list[str]:
    return ["pg_maintain"] if server["version_num"] >= 170000 else [item["owner_ident"] for item in items]


def _grant(server: Row, roles: Sequence[str]) -> str:
    """Return the statement that lets the role of this run act as one of `roles`, also where it does not inherit."""
    words = f"GRANT {', '.join(dict.fromkeys(roles))} TO {server['user_ident']}"
    if server["inherits"]:
        return f"{words};"
    if server["version_num"] >= 160000:
        return f"{words} WITH INHERIT TRUE;"
    return f"{words}; ALTER ROLE {server['user_ident']} INHERIT;"


def sequence_findings(sequences: Sequence[Row], limits: Limits, memory: Mapping[str, Any], now: float) -> list[Row]:
    """Return findings for sequences that near the end of their column's type, with days left at the measured rate.

    The rate comes from the value remembered by an earlier run, at least an hour ago.
    """
    found = []
    for sequence in sequences:
        if sequence["cycle"]:
            continue
        percent = 100 * sequence["last_value"] / sequence["limit_value"]
        days = days_left(sequence, memory, now)
        soon = days is not None and days < limits.sequence_warn_days
        if percent < limits.sequence_warn_percent and not soon:
            continue
        column = sequence["column_ident"] or sequence["ident"]
        found.append(
            finding(
                "sequence-exhaustion",
                f"{column} runs out of numbers",
                subject=sequence["ident"],
                severity="critical" if percent >= limits.sequence_critical_percent else "warning",
                observed=f"{percent:.1f} % used" + ("" if days is None else f", {days:.0f} days left"),
                expected=f"below {limits.sequence_warn_percent:.0f} %",
                remedy=f"Widen {column} to bigint" if sequence["limit_value"] < 2**62 else "Raise MAXVALUE",
            )
        )
    return found


def days_left(sequence: Row, memory: Mapping[str, Any], now: float) -> float | None:
    """Return the days until the sequence ends at the rate since the remembered reading, None if unknown."""
    known = memory.get("sequences", {}).get(sequence["ident"])
    if not known or now - known["at"] < 3600:
        return None
    used = sequence["last_value"] - known["last_value"]
    if used <= 0:
        return None
    remaining: float = sequence["limit_value"] - sequence["last_value"]
    return remaining / used * (now - known["at"]) / 86400


def growth_finding(tables: Sequence[Row], has_retention: bool) -> list[Row]:
    """Return a finding if no retention rule limits the growth of the largest table."""
    ordinary = [t for t in tables if t["kind"] in ("r", "p")]
    if has_retention or not ordinary:
        return []
    largest = max(ordinary, key=lambda t: t["total_bytes"])
    return [
        finding(
            "growth-unlimited",
            "No retention rule: nothing limits the growth of the database",
            subject=largest["ident"],
            observed=f"largest table, {human_bytes(largest['total_bytes'])}",
            expected="database_retention is set",
            remedy="Set database_retention, see inventories/example",
        )
    ]


# Settings that cost data, growth or secrets: (value that bites, severity, what it means, remedy).
SETTINGS = {
    "autovacuum": (
        "off",
        "warning",
        "Autovacuum is off: dead rows wait for this runbook",
        "ALTER SYSTEM SET autovacuum = on; and reload",
    ),
    "track_counts": (
        "off",
        "critical",
        "Counters are off: nothing can tell what is due",
        "ALTER SYSTEM SET track_counts = on; and reload",
    ),
    "fsync": (
        "off",
        "critical",
        "A crash of the host loses or damages data",
        "ALTER SYSTEM SET fsync = on; and reload",
    ),
    "full_page_writes": (
        "off",
        "critical",
        "A crash of the host can damage data",
        "ALTER SYSTEM SET full_page_writes = on; and reload",
    ),
    "log_statement": (
        "all",
        "warning",
        "Statements are logged with the prompts in them",
        "ALTER SYSTEM SET log_statement = ddl; and reload",
    ),
}
CHECKPOINTS_TO_JUDGE = 10


def settings_findings(settings: Mapping[str, str], checkpoints: Row, limits: Limits) -> list[Row]:
    """Return findings for settings that bite, and for checkpoints that WAL volume forces too often.

    `checkpoints` counts since the statistics were reset: `timed` and `requested` (by WAL volume or by hand).
    """
    found = [
        finding("setting", meaning, subject=name, observed=bad, expected=f"not {bad}", severity=severity, remedy=remedy)
        for name, (bad, severity, meaning, remedy) in SETTINGS.items()
        if settings.get(name) == bad
    ]
    total = checkpoints["timed"] + checkpoints["requested"]
    percent = 100 * checkpoints["requested"] / total if total else 0
    if total >= CHECKPOINTS_TO_JUDGE and percent > limits.requested_checkpoints_warn_percent:
        found.append(
            finding(
                "setting",
                "Checkpoints come before their time: max_wal_size is too small for the writes",
                subject="max_wal_size",
                observed=f"{percent:.0f} % of {total} checkpoints requested, max_wal_size {settings.get('max_wal_size')} MB",
                expected=f"at most {limits.requested_checkpoints_warn_percent:.0f} %",
                remedy="Raise max_wal_size and reload",
            )
        )
    return found
