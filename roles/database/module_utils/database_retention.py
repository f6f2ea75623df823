# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Retention and redaction: rows past their day leave (or lose their text) in small batches, children before parents.

A row that another row refers to is never deleted, whatever the foreign key's action: it is kept and counted. The
cut-off is the start of a UTC day, so that a second run on the same day finds nothing.
"""

from __future__ import annotations

import datetime
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

from ansible.module_utils import database_catalog as catalog
from ansible.module_utils.runbook_psql import LOCK_NOT_AVAILABLE, QUERY_CANCELED, PsqlError, Session, literal
from ansible.module_utils.runbook_result import action, finding

Row = dict[str, Any]
FIRST_BATCH_ROWS = 5_000
LARGEST_BATCH_ROWS = 100_000
# A batch is to take between these two; locks are held no longer.
BATCH_SECONDS = (0.5, 1.0)
LOCK_TRIES = 5
COME_BACK = "the rows are due again after each batch: a trigger puts them back"
# What a role needs to see the rows that row level security hides from it.
SEE_ALL_ROWS = "BYPASSRLS"
INSUFFICIENT_PRIVILEGE = "42501"
INVALID_PARAMETER_VALUE = "22023"
TIME_TYPES = ("timestamp with time zone", "timestamp without time zone", "date")
TEXT_TYPES = ("text", "character varying", "character")


class RuleError(ValueError):
    """A retention or redaction rule cannot be carried out as written; the text says why and what to do."""


@dataclass
class Rule:
    """One resolved rule. `cutoff` is an SQL expression's value as ISO text; `columns` are emptied, none means delete."""

    table: Row
    time_ident: str
    time_type: str
    days: int
    cutoff: str
    columns: list[tuple[str, str]] = field(default_factory=list)  # quoted name, SQL value that empties it
    references: list[Row] = field(default_factory=list)  # foreign keys of other tables to this one
    partitioned: bool = False
    rules: dict[int, Rule] = field(default_factory=dict, repr=False)  # the delete rules by table oid

    @property
    def step(self) -> str:
        return "redact" if self.columns else "retention"

    def expired(self) -> str:
        return f"{self.time_ident} < {self.limit()}"

    def limit(self) -> str:
        return f"{literal(self.cutoff)}::{self.time_type}"

    def due(self, ahead: bool = False) -> str:
        """Return the condition of the rows (alias t) this rule acts on.

        With `ahead` it tells what will be due once the rules before this one have been carried out.
        """
        conditions = [f"t.{self.expired()}"]
        if self.columns:
            filled = " OR ".join(f"t.{name} IS DISTINCT FROM {empty}" for name, empty in self.columns)
            conditions.append(f"({filled})")
            deleted = self.rules.get(self.table["oid"])
            if ahead and deleted and not deleted.references and not deleted.partitioned:
                conditions.append(f"NOT t.{deleted.expired()}")
        conditions += [f"NOT {self._referred(key, ahead)}" for key in self.references]
        return " AND ".join(conditions)

    def kept(self) -> str:
        """Return the condition of the expired rows that stay because another row, which stays too, refers to them."""
        return f"t.{self.expired()} AND ({' OR '.join(self._referred(key, True) for key in self.references)})"

    def _referred(self, key: Row, ahead: bool) -> str:
        pairs = zip(key["child_columns"], key["parent_columns"])
        matches = " AND ".join(f"child.{own} = t.{parent}" for own, parent in pairs)
        child = self.rules.get(key["child_oid"])
        if ahead and child is not None and not child.partitioned:
            matches += f" AND NOT child.{child.expired()}"
        return f"EXISTS (SELECT FROM {key['child_ident']} child WHERE {matches})"


def cutoff_day(now: float, days: int) -> str:
    """Return the start of the UTC day that lies `days` before `now` (seconds since the epoch), as ISO text."""
    day = datetime.datetime.fromtimestamp(now, datetime.timezone.utc).date() - datetime.timedelta(days=days)
    return f"{day.isoformat()} 00:00:00+00"


def resolve(
    session: Session, retention: Sequence[Mapping[str, Any]], redact: Sequence[Mapping[str, Any]], now: float
) -> list[Rule]:
    """Return the rules in the order in which they can be carried out: deletes, children first, then redactions.

    Raise RuleError for an unknown or ambiguous table, an unknown column, one that holds no time, a time column
    without an index (unless the rule says allow_unindexed), days below 1, a text column that cannot be emptied, or
    foreign keys that cannot be ordered.
    """
    keys = catalog.foreign_keys(session)
    deletes = [_delete_rule(session, entry, keys, now) for entry in retention]
    redactions = [_redact_rule(session, entry, now) for entry in redact]
    for rules, name in ((deletes, "database_retention"), (redactions, "database_redact")):
        idents = [rule.table["ident"] for rule in rules]
        twice = sorted({ident for ident in idents if idents.count(ident) > 1})
        if twice:
            raise RuleError(f"{name} names {', '.join(twice)} twice; keep one entry per table")
    by_oid = {rule.table["oid"]: rule for rule in deletes}
    for rule in [*deletes, *redactions]:
        rule.rules = by_oid
    return children_first(deletes) + redactions


def _table(session: Session, name: str, where: str) -> Row:
    found = catalog.find_table(session, name)
    if not found:
        raise RuleError(
            f"{where}: there is no table {name!r} in this database; spell it as the catalog does, schema.table if needed"
        )
    if len(found) > 1:
        raise RuleError(f"{where}: {name!r} is ambiguous: {', '.join(r['ident'] for r in found)}; write schema.table")
    if found[0]["kind"] not in ("r", "p"):
        raise RuleError(f"{where}: {name!r} is no table but a view or foreign table; name the table behind it")
    return found[0]


def _time_column(session: Session, table: Row, entry: Mapping[str, Any], where: str) -> tuple[Row, list[Row]]:
    columns = catalog.columns(session, table["oid"])
    name = str(entry["time_column"])
    match = [c for c in columns if c["name"] == name]
    if not match:
        raise RuleError(
            f"{where}: {table['ident']} has no column {name!r}; it has {', '.join(c['name'] for c in columns)}"
        )
    if match[0]["type"] not in TIME_TYPES:
        raise RuleError(f"{where}: {table['ident']}.{name} is of type {match[0]['type']}, not a date or timestamp")
    if not match[0]["leads_index"] and not entry.get("allow_unindexed"):
        raise RuleError(
            f"{where}: {table['ident']}.{name} has no index, so every batch would read the whole table; "
            f"CREATE INDEX CONCURRENTLY ON {table['ident']} ({match[0]['ident']}), or set allow_unindexed: true"
        )
    return match[0], columns


def _days(entry: Mapping[str, Any], key: str, where: str) -> int:
    days = entry.get(key)
    if isinstance(days, bool) or not str(days).isdigit() or int(str(days)) < 1:
        raise RuleError(f"{where}: {key} is {days!r}; it must be a whole number of days, 1 or more")
    return int(str(days))


def _delete_rule(session: Session, entry: Mapping[str, Any], keys: Sequence[Row], now: float) -> Rule:
    where = f"database_retention, {entry.get('table')}"
    days = _days(entry, "keep_days", where)
    table = _table(session, str(entry["table"]), where)
    column, _ = _time_column(session, table, entry, where)
    references = [key for key in keys if key["parent_oid"] == table["oid"]]
    for key in references:
        if key["child_oid"] == table["oid"]:
            raise RuleError(
                f"{where}: the table refers to itself ({key['name']}); rows cannot be put in an order to delete them"
            )
        if not key["indexed"] and not entry.get("allow_unindexed"):
            raise RuleError(
                f"{where}: {key['child_ident']} refers to it by {key['name']} without an index; every deleted row would "
                f"read all of that table. CREATE INDEX CONCURRENTLY ON {key['child_ident']} ({', '.join(key['child_columns'])})"
            )
    partitioned = table["kind"] == "p"
    if partitioned:
        key_of = catalog.partition_key(session, table["oid"])
        if key_of["strategy"] != "r" or key_of["has_expressions"] or key_of["columns"] != [column["name"]]:
            partitioned = False
    return Rule(
        table,
        column["ident"],
        column["type"],
        days,
        cutoff_day(now, days),
        references=references,
        partitioned=partitioned,
    )


def _redact_rule(session: Session, entry: Mapping[str, Any], now: float) -> Rule:
    where = f"database_redact, {entry.get('table')}"
    days = _days(entry, "after_days", where)
    table = _table(session, str(entry["table"]), where)
    column, columns = _time_column(session, table, entry, where)
    by_name = {c["name"]: c for c in columns}
    emptied = []
    for name in entry.get("columns") or []:
        if name not in by_name:
            raise RuleError(f"{where}: {table['ident']} has no column {name!r}; it has {', '.join(by_name)}")
        target = by_name[name]
        if target["generated"]:
            raise RuleError(f"{where}: {name} is generated from other columns; name the column it is made from")
        if target["nullable"]:
            emptied.append((target["ident"], "NULL"))
        elif target["type"] in TEXT_TYPES:
            emptied.append((target["ident"], "''"))
        elif target["type"] in ("json", "jsonb"):
            raise RuleError(f"{where}: {name} is NOT NULL {target['type']}; drop NOT NULL so that it can be emptied")
        else:
            raise RuleError(f"{where}: {name} is NOT NULL and of type {target['type']}; only text can be emptied then")
        if target["type"] == "json":
            raise RuleError(f"{where}: {name} is of type json, which cannot be compared; make it jsonb")
    if not emptied:
        raise RuleError(f"{where}: columns is empty; name the columns whose text is to go")
    return Rule(table, column["ident"], column["type"], days, cutoff_day(now, days), columns=emptied)


def children_first(rules: Sequence[Rule]) -> list[Rule]:
    """Return the rules so that a table comes before those it refers to. Raise RuleError if they refer in a circle."""
    ordered: list[Rule] = []
    waiting = list(rules)
    while waiting:
        oids = {rule.table["oid"] for rule in waiting}
        free = [r for r in waiting if not any(k["child_oid"] in oids for k in r.references)]
        if not free:
            raise RuleError(
                "database_retention: "
                + ", ".join(r.table["ident"] for r in waiting)
                + " refer to each other in a circle, so that "
                "no order can delete them; leave one out or make a foreign key deferrable and handle it by hand"
            )
        ordered += free
        waiting = [r for r in waiting if r not in free]
    return ordered


# --- planning ---------------------------------------------------------------------------------------------------


def plan(
    session: Session, rules: Iterable[Rule], count_seconds: float, ahead: bool = True
) -> tuple[list[Row], list[Row]]:
    """Return planned actions and findings of the rules; counting rows may take `count_seconds` for each.

    A rule that cannot be counted in that time is planned without a number. `ahead` counts as if the rules before
    had been carried out, as a plan has to.
    """
    planned: list[Row] = []
    found: list[Row] = []
    for rule in rules:
        lacking = _lacking(rule)
        if lacking:
            found.append(_grant_missing(rule, lacking, str(session.value("SELECT quote_ident(current_user) AS u"))))
            continue
        if rule.partitioned:
            planned += _partition_actions(session, rule)
            found += _default_partition_findings(session, rule, count_seconds)
            continue
        number = _count(session, rule, rule.due(ahead), count_seconds)
        if number != 0:
            planned.append(rule_action(rule, number))
        if rule.references:
            kept = _count(session, rule, rule.kept(), count_seconds)
            if kept:
                children = ", ".join(sorted({key["child_ident"] for key in rule.references}))
                found.append(
                    finding(
                        "retention-kept",
                        f"Expired rows are kept because {children} still refers to them",
                        subject=rule.table["ident"],
                        severity="info",
                        observed=f"{kept} rows",
                        expected="0 rows",
                        remedy="None if the children are younger; else give them a retention rule of their own",
                    )
                )
    return planned, found


def _lacking(rule: Rule) -> dict[str, list[str]]:
    """Return the privileges that the rule needs and the role lacks, by quoted table; BYPASSRLS where rows are hidden."""
    # UPDATE for a delete too: rows are locked first, so that those in use are skipped instead of waited for.
    needed = ("SELECT", "UPDATE") if rule.columns else ("SELECT", "UPDATE", "DELETE")
    lacking = {rule.table["ident"]: [word for word in needed if not rule.table[f"may_{word.lower()}"]]}
    if rule.table["hides_rows"]:
        lacking[rule.table["ident"]].append(SEE_ALL_ROWS)
    for key in rule.references:
        if not key["child_may_select"]:
            lacking[key["child_ident"]] = ["SELECT"]
        elif key["child_hides_rows"]:
            lacking[key["child_ident"]] = [SEE_ALL_ROWS]
    return {ident: words for ident, words in lacking.items() if words}


def _grant_missing(rule: Rule, lacking: Mapping[str, Sequence[str]], user: str) -> Row:
    own = rule.table["ident"]
    remedies = (
        [f"ALTER ROLE {user} {SEE_ALL_ROWS};"] if any(SEE_ALL_ROWS in words for words in lacking.values()) else []
    )
    for ident, words in lacking.items():
        granted = [word for word in words if word != SEE_ALL_ROWS]
        remedies += [f"GRANT {', '.join(granted)} ON {ident} TO {user};"] if granted else []
    return finding(
        "grant-missing",
        f"Rows past their day stay: the role may not {rule.step}",
        subject=own if rule.step == "retention" else f"{own} ({rule.step})",  # a table may have both rules
        observed="; ".join(
            f"no {' and no '.join(words)}" + ("" if ident == own else f" on {ident}")
            for ident, words in lacking.items()
        ),
        expected=", ".join(sorted({word for words in lacking.values() for word in words})),
        remedy=" ".join(remedies),
    )


def rule_action(rule: Rule, number: int | None) -> Row:
    """Return the planned action of a rule; `number` of rows, None if counting took too long."""
    reason = "rows past their day" if not rule.columns else "rows whose text is past its day"
    return {
        **action(
            rule.step,
            rule.table["ident"],
            reason,
            number=number,
            unit="rows",
            before=number,
            detail=f"older than {rule.days} days, before {rule.cutoff[:10]}",
        ),
        "oid": rule.table["oid"],
    }


def _count(session: Session, rule: Rule, condition: str, seconds: float) -> int | None:
    """Return the number of rows, None if there are some but counting takes too long."""
    try:
        session.execute(f"SET statement_timeout = {int(seconds * 1000)}")
        return int(session.value(f"SELECT count(*) AS n FROM {rule.table['ident']} t WHERE {condition}"))
    except PsqlError as error:
        if error.sqlstate != QUERY_CANCELED:
            raise
        return None
    finally:
        session.execute("SET statement_timeout = 0")


def _partition_actions(session: Session, rule: Rule) -> list[Row]:
    planned = []
    for part in expired_partitions(session, rule):
        planned.append(
            {
                **action(
                    "retention",
                    part["ident"],
                    "partition past its day",
                    number=part["bytes"],
                    unit="bytes",
                    before=part["bytes"],
                    detail=f"partition of {rule.table['ident']}",
                ),
                "oid": part["oid"],
            }
        )
    return planned


def _default_partition_findings(session: Session, rule: Rule, count_seconds: float) -> list[Row]:
    """Return a finding if rows past their day are in the default partition, which has no day to be dropped at."""
    for part in catalog.partitions(session, rule.table["oid"]):
        if part["bound"] != "DEFAULT" or part["kind"] != "r":
            continue
        number = _count(session, rule, f"t.{rule.expired()} AND t.tableoid = {part['oid']}", count_seconds)
        if number != 0:
            return [
                finding(
                    "retention-kept",
                    "Expired rows are kept in the default partition, which is never dropped",
                    subject=part["ident"],
                    observed="more rows than could be counted" if number is None else f"{number} rows",
                    expected="0 rows",
                    remedy="Give the default partition a rule of its own in database_retention",
                )
            ]
    return []


def expired_partitions(session: Session, rule: Rule) -> list[Row]:
    """Return the partitions whose upper bound is not after the cut-off. Raise RuleError if the parent is referred to."""
    parts = catalog.partitions(session, rule.table["oid"])
    expired = []
    for part in parts:
        bound = re.fullmatch(r"FOR VALUES FROM \(.*\) TO \((?:'([^']+)'|(MAXVALUE))\)", part["bound"] or "")
        if part["kind"] not in ("r", "p") or not bound or bound.group(1) is None:
            continue
        if session.value(f"SELECT {literal(bound.group(1))}::{rule.time_type} <= {rule.limit()} AS over"):
            expired.append({**part, "has_default": any(p["bound"] == "DEFAULT" for p in parts)})
    if expired and expired[0]["referenced"]:
        raise RuleError(
            f"database_retention, {rule.table['ident']}: partitions that a foreign key refers to cannot be dropped; "
            "drop the foreign key or leave the table out"
        )
    return expired


# --- carrying out -----------------------------------------------------------------------------------------------


@dataclass
class Progress:
    """What the batches of one rule did."""

    rows: int = 0
    batches: int = 0
    longest_seconds: float = 0.0
    stopped: str = ""


def write_less_wal(session: Session) -> None:
    """Compress the page images that this session writes to the WAL, where the role and the server allow it.

    Rows that leave touch pages all over the table; their images fill WAL files and make every commit of others wait.
    """
    for method in ("lz4", "on"):
        try:
            session.execute(f"SET wal_compression = {method}")
        except PsqlError as error:
            if error.sqlstate == INSUFFICIENT_PRIVILEGE:
                return
            if error.sqlstate != INVALID_PARAMETER_VALUE:
                raise
        else:
            return


def next_batch_rows(rows: int, seconds: float) -> int:
    """Return the size of the next batch so that it takes about 0.75 s, at most doubling from one to the next."""
    low, high = BATCH_SECONDS
    if low <= seconds <= high:
        return rows
    wanted = rows * ((low + high) / 2) / max(seconds, 0.001)
    return int(max(100, min(wanted, rows * 2, LARGEST_BATCH_ROWS)))


def batch_statement(rule: Rule, rows: int, after: str | None) -> str:
    """Return one batch as a single statement: it picks the oldest due rows that nobody has locked, acts, and counts.

    `after` is where the last batch ended: the index entries of rows that are gone need not be read again.
    """
    floor = f" AND t.{rule.time_ident} >= {literal(after)}::{rule.time_type}" if after is not None else ""
    picked = (
        f"FROM {rule.table['ident']} t WHERE {rule.due()}{floor} "
        f"ORDER BY t.{rule.time_ident} LIMIT {int(rows)} FOR UPDATE SKIP LOCKED"
    )
    sets = ", ".join(f"{name} = {empty}" for name, empty in rule.columns)
    target = f"{rule.table['ident']} t"
    act = f"UPDATE {target} SET {sets}" if sets else f"DELETE FROM {target}"
    if rule.table["has_children"]:
        # A ctid is a place in one table: other partitions have a row at the same place. The array makes it a TID scan.
        picks = f"picked AS MATERIALIZED (SELECT t.tableoid AS part, t.ctid AS place {picked}), "
        source = " FROM picked" if sets else " USING picked"
        where = "t.ctid = ANY (ARRAY(SELECT place FROM picked)) AND t.ctid = picked.place AND t.tableoid = picked.part"
    else:
        picks, source, where = "", "", f"t.ctid = ANY (ARRAY(SELECT t.ctid {picked}))"
    return (
        f"WITH {picks}gone AS ({act}{source} WHERE {where} RETURNING t.{rule.time_ident} AS at) "
        "SELECT json_build_object('rows', count(*), 'last', max(at)::text)::text FROM gone"
    )


def carry_out(
    session: Session,
    rule: Rule,
    deadline: float,
    batch_timeout_seconds: int = 300,
    clock: Callable[[], float] = time.monotonic,
    pause_fraction: float = 0.0,
    wait: Callable[[float], None] = time.sleep,
) -> Progress:
    """Run batches until nothing is due, the deadline (of `clock`) passes, or the table stays locked.

    Each batch is a transaction of its own, so that a killed run leaves whole batches only.
    """
    progress = Progress()
    rows, after, looked_again, at_same_time = FIRST_BATCH_ROWS, None, False, 0
    session.execute(f"SET statement_timeout = {batch_timeout_seconds * 1000}; SET lock_timeout = '1s'")
    write_less_wal(session)
    while True:
        if clock() >= deadline:
            progress.stopped = "time budget used up"
            return progress
        started = clock()
        done = with_lock_retries(
            lambda rows=rows, after=after: json.loads(session.execute(batch_statement(rule, rows, after))[0]), wait
        )
        seconds = clock() - started
        if done is None:
            progress.stopped = "locked by another session"
            return progress
        progress.rows += done["rows"]
        progress.batches += 1
        progress.longest_seconds = max(progress.longest_seconds, seconds)
        if done["rows"] < rows:
            left = _left(session, rule, max(1, progress.rows))
            progress.stopped = why_left(progress.rows, left)
            if progress.stopped or left == 0 or looked_again:
                return progress
            # A few rows came, or were unlocked, below where the last batch ended: one look from the start.
            looked_again, after = True, None
            continue
        at_same_time = at_same_time + done["rows"] if done["last"] == after else 0
        if at_same_time > LARGEST_BATCH_ROWS and at_same_time > _at(session, rule, done["last"]):
            progress.stopped = COME_BACK
            return progress
        after = done["last"]
        rows = next_batch_rows(done["rows"], seconds)
        if pause_fraction:
            wait(seconds * pause_fraction)


def why_left(done: int, left: int) -> str:
    """Return why rows are due after the last batch; empty if there are none, or only some that came meanwhile.

    `left` is counted up to the number of rows done: if as many are due as were done, those came back.
    """
    if left == 0:
        return ""
    if done == 0:
        return "no row could be changed: they are locked, or a trigger or policy keeps them"
    return COME_BACK if left >= done else ""


def _at(session: Session, rule: Rule, moment: str) -> int:
    """Count the rows of one moment, due or not."""
    same = f"{rule.time_ident} = {literal(moment)}::{rule.time_type}"
    return int(session.value(f"SELECT count(*) AS n FROM {rule.table['ident']} WHERE {same}"))


def _left(session: Session, rule: Rule, most: int) -> int:
    """Count the rows that are due, up to `most`."""
    due = f"SELECT FROM {rule.table['ident']} t WHERE {rule.due()} LIMIT {int(most)}"
    return int(session.value(f"SELECT count(*) AS n FROM ({due}) q"))


def with_lock_retries(
    attempt: Callable[[], Any], wait: Callable[[float], None] = time.sleep, tries: int = LOCK_TRIES
) -> Any:
    """Call `attempt` until it gets its lock, with growing pauses so that users pass; None if it never does.

    The pauses are 0.1, 0.2, 0.4 ... s: a strong lock that waits makes everybody behind it wait too, so it
    gives up fast (lock_timeout) and comes back.
    """
    for number in range(tries):
        try:
            return attempt()
        except PsqlError as error:
            if error.sqlstate != LOCK_NOT_AVAILABLE:
                raise
            if number + 1 < tries:
                wait(0.1 * 2**number)
    return None


def execute_with_retries(session: Session, statement: str, wait: Callable[[float], None] = time.sleep) -> bool:
    """Run a statement that needs a strong lock; return whether it ever got it."""
    return with_lock_retries(lambda: session.execute(statement), wait) is not None


def drop_partition(session: Session, part: Row, parent_ident: str, wait: Callable[[float], None] = time.sleep) -> bool:
    """Detach and drop one partition; return False if the locks could not be had.

    Without a default partition it is detached CONCURRENTLY, which blocks nobody; else with short, repeated tries.
    """
    session.execute("SET lock_timeout = '500ms'; SET statement_timeout = '5min'")
    detach = f"ALTER TABLE {parent_ident} DETACH PARTITION {part['ident']}"
    statements = [f"DROP TABLE {part['ident']}"]
    if part.get("detach_pending"):
        statements.insert(0, f"{detach} FINALIZE")
    elif part.get("attached", True):
        statements.insert(0, detach if part["has_default"] else f"{detach} CONCURRENTLY")
    return all(execute_with_retries(session, statement, wait) for statement in statements)
