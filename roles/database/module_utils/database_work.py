# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Carries out maintenance: reads, plans, acts on what is due, reads again. One method per step of the runbook.

Every step plans for itself from a fresh reading, so that a step sees what the one before it left (rows deleted by
retention make indexes worth rebuilding), and so that a killed run is resumed by simply running again.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils import database_catalog as catalog
from ansible.module_utils import database_planner as planner
from ansible.module_utils import database_retention as retention
from ansible.module_utils.runbook_psql import (
    LOCK_NOT_AVAILABLE,
    OBJECT_IN_USE,
    QUERY_CANCELED,
    Connection,
    PsqlError,
    PsqlUnreachable,
    Session,
    client_version,
)
from ansible.module_utils.runbook_result import action, finding
from ansible.module_utils.runbook_state import read_json, write_json

Row = dict[str, Any]

# What waiting cures: such a failure is not remembered against the object.
TRANSIENT = (LOCK_NOT_AVAILABLE, OBJECT_IN_USE, QUERY_CANCELED, "40P01", "40001", "53100", "53300", "57P01")
# A run whose client was killed frees its advisory lock within client_connection_check_interval.
LOCK_WAIT_SECONDS = 6
TRIGGERED_DATA_CHANGE_VIOLATION = "27000"
SKIP_LOCKED_TRIES = 3
LOOPBACK = ("localhost", "127.0.0.1", "::1")
REPORTED_TABLES = 20


class Refused(Exception):
    """Maintenance must not run here or now; `outcome` is refused or bad_input."""

    def __init__(self, message: str, outcome: str = "refused") -> None:
        super().__init__(message)
        self.outcome = outcome


@dataclass
class Result:
    """Findings and actions of a plan or a step."""

    findings: list[Row] = field(default_factory=list)
    actions: list[Row] = field(default_factory=list)
    facts: Row = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        return any(a["result"] == "done" for a in self.actions)

    def public_actions(self) -> list[Row]:
        known = action("", "", "")
        return [{k: v for k, v in a.items() if k in known} for a in self.actions]


@dataclass(frozen=True)
class Job:
    """What a run was asked to do. `deadline` is on the monotonic clock; `data_dir` as this host sees it."""

    connection: Connection
    limits: planner.Limits
    memory_dir: Path
    retention: Sequence[Mapping[str, Any]] = ()
    redact: Sequence[Mapping[str, Any]] = ()
    jobs: int = 2
    data_dir: str | None = None
    deadline: float = float("inf")
    count_seconds: float = 30
    reindex_wait_seconds: int = 60
    vacuum_truncate: bool = True
    batch_timeout_seconds: int = 300
    batch_pause_fraction: float = 0.0


def _client_and_session(connection: Connection) -> tuple[int, Session]:
    """Return psql's major version and a session, asked for at the same time."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        version = pool.submit(client_version, connection)
        try:
            session = Session(connection)
        except PsqlUnreachable:
            version.result()  # a client that is missing or too old is the better reason
            raise
        try:
            return version.result(), session
        except BaseException:
            session.close()
            raise


class Maintenance:
    """One module call's work on one database: a session that holds the advisory lock, and the memory file."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.client_major, self.session = _client_and_session(job.connection)
        try:
            self.server = catalog.server(self.session)
            self._guard()
            self.memory_path = (
                job.memory_dir / f"database-{self.server['system_identifier']}-{self.server['database_oid']}.json"
            )
            self.memory: Row = read_json(self.memory_path, {})
        except BaseException:
            self.session.close()
            raise
        self._memory_lock = threading.Lock()

    def __enter__(self) -> Maintenance:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def _guard(self) -> None:
        refused = planner.guard(self.server, self.client_major)
        if refused:
            raise Refused(refused[1], refused[0])
        give_up = time.monotonic() + LOCK_WAIT_SECONDS
        while not catalog.try_advisory_lock(self.session):
            if time.monotonic() > give_up:
                holder = catalog.advisory_lock_holder(self.session)
                raise Refused(
                    f"another maintenance run works on database {self.server['database']}: {holder}; wait for it or end it"
                )
            time.sleep(0.2)  # the lock has no notification; its holder may be a session that is just ending

    # --- the plan -----------------------------------------------------------------------------------------------

    def plan(self, remember: bool) -> Result:
        """Return everything that is due and everything to report. Writes nothing but, if asked, the memory."""
        limits, server = self.job.limits, self.server
        tables = catalog.tables(self.session)
        result = Result(facts=self._facts(tables))
        if server["in_recovery"] or server["read_only"]:
            what = "a standby" if server["in_recovery"] else "read-only (default_transaction_read_only)"
            result.findings.append(
                finding(
                    "server-read-only",
                    f"The server is {what}: it is reported on, not maintained",
                    subject=server["database"],
                    severity="info" if server["in_recovery"] else "warning",
                    observed=what,
                    expected="a primary",
                    remedy="Run the maintenance on the primary",
                )
            )
        blocking = planner.blockers(catalog.horizon_holders(self.session), limits)
        result.findings += planner.blocker_findings(blocking, limits)
        indexes, views = catalog.indexes(self.session), catalog.views(self.session)
        steps = [
            self._plan_retention(),
            self._plan_views(views, bool(blocking)),
            self._plan_vacuum(tables, bool(blocking)),
            self._plan_indexes(indexes, bool(blocking)),
        ]
        for planned, found in steps:
            result.actions += planned
            result.findings += found
        result.findings += planner.index_findings(indexes, catalog.foreign_keys(self.session), server, limits)
        result.findings += planner.rights_findings(server, tables, limits, self.memory)
        result.findings += planner.owner_findings(server, indexes, views, limits, self.memory)
        result.findings += planner.growth_finding(tables, bool(self.job.retention))
        result.findings += planner.failure_findings(limits, self.memory, server["now"])
        settings = catalog.settings(self.session, [*planner.SETTINGS, "max_wal_size"])
        result.findings += planner.settings_findings(settings, catalog.checkpoints(self.session), limits)
        sequences = catalog.sequences(self.session)
        result.findings += planner.sequence_findings(sequences, limits, self.memory, server["now"])
        if server["in_recovery"] or server["read_only"]:
            result.actions = []
        elif remember:
            self._remember_sequences(sequences)
        return result

    def _facts(self, tables: Sequence[Row]) -> Row:
        return {
            "server_version": self.server["version"],
            "client_major": self.client_major,
            "database": self.server["database"],
            "database_bytes": self.server["database_bytes"],
            "tables": [
                {"name": t["ident"], "bytes": t["total_bytes"], "dead_rows": t["dead_rows"]}
                for t in tables[:REPORTED_TABLES]
                if t["kind"] != "p"
            ],
        }

    def _rules(self) -> list[retention.Rule]:
        try:
            return retention.resolve(self.session, self.job.retention, self.job.redact, self.server["now"])
        except retention.RuleError as error:
            raise Refused(str(error), "bad_input") from error

    def _plan_retention(self) -> tuple[list[Row], list[Row]]:
        try:
            planned, found = retention.plan(self.session, self._rules(), self.job.count_seconds)
        except retention.RuleError as error:
            raise Refused(str(error), "bad_input") from error
        return self._not_failed_lately(planned) + self._half_dropped(), found

    def _not_failed_lately(self, planned: Sequence[Row]) -> list[Row]:
        limits, now = self.job.limits, self.server["now"]
        return [a for a in planned if not planner.failed_lately(a["step"], a["subject"], limits, self.memory, now)]

    def _half_dropped(self) -> list[Row]:
        """Return drops of partitions that an earlier, killed run had detached."""
        planned = []
        for ident, entry in sorted(self.memory.get("detaching", {}).items()):
            there = self.session.rows(
                f"SELECT c.oid::bigint AS oid, pg_total_relation_size(c.oid) AS bytes FROM pg_class c WHERE c.oid = {int(entry['oid'])} "
                "AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)"
            )
            if there:
                planned.append(
                    {
                        **action(
                            "retention",
                            ident,
                            "partition that an earlier run had detached",
                            number=there[0]["bytes"],
                            unit="bytes",
                            before=there[0]["bytes"],
                            detail=f"partition of {entry['parent']}",
                        ),
                        "oid": there[0]["oid"],
                        "parent_ident": entry["parent"],
                    }
                )
        return planned

    def _plan_views(self, views: Sequence[Row], blocked: bool) -> tuple[list[Row], list[Row]]:
        planned, found = planner.plan_views(views, self.job.limits, self.memory, blocked, self.server["now"])
        fits, short = planner.within_disk(planned, self._free_bytes(), self.job.limits, self.job.jobs)
        return fits, found + short

    def _plan_vacuum(self, tables: Sequence[Row], blocked: bool) -> tuple[list[Row], list[Row]]:
        planned = planner.plan_vacuum(tables, self.server, self.job.limits, self.memory, blocked)
        hopeful = self._not_failed_lately(planned)
        # Wraparound does not wait for a cure.
        return [item for item in planned if "FREEZE" in item["options"] or item in hopeful], []

    def _plan_indexes(self, indexes: Sequence[Row], blocked: bool) -> tuple[list[Row], list[Row]]:
        now = self.server["now"]
        planned = planner.plan_indexes(indexes, self.server, self.job.limits, self.memory, blocked, now)
        return planner.within_disk(planned, self._free_bytes(), self.job.limits, self.job.jobs)

    def _free_bytes(self) -> int | None:
        connection = self.job.connection
        if self.job.data_dir:
            return catalog.free_bytes(self.job.data_dir)
        if connection.host and not connection.host.startswith("/") and connection.host not in LOOPBACK:
            return None
        # A client behind another command (docker exec) sees another file system, so it is that one's df which is asked.
        return catalog.free_bytes(catalog.data_directory(self.session), connection.psql[:-1])

    def _blocked(self) -> bool:
        return bool(planner.blockers(catalog.horizon_holders(self.session), self.job.limits))

    # --- the steps ----------------------------------------------------------------------------------------------

    def retention(self) -> Result:
        """Delete rows past their day, children first, and drop partitions past theirs."""
        return self._rules_step("retention")

    def redact(self) -> Result:
        """Empty text past its day; the rows and their costs stay."""
        return self._rules_step("redact")

    def _rules_step(self, step: str) -> Result:
        result = Result()
        if step == "retention":
            self._finish_drops(result)
        # One rule after the other, each read anew: what a parent may lose depends on what its children lost.
        for rule in (r for r in self._rules() if r.step == step):
            planned, found = retention.plan(self.session, [rule], self.job.count_seconds, ahead=False)
            result.findings += [f for f in found if f["id"] != "grant-missing"]
            for item in self._not_failed_lately(planned):
                act = self._drop_partition if rule.partitioned else self._batches
                self._act(item, lambda work, item=item, rule=rule, act=act: act(item, work, rule), result)
        return result

    def _finish_drops(self, result: Result) -> None:
        for item in self._half_dropped():
            self._act(
                item,
                lambda work, item=item: self._drop(
                    item, work, item["parent_ident"], {"ident": item["subject"], "attached": False}
                ),
                result,
            )

    def _act(self, item: Row, act: Callable[[Session], None], result: Result) -> None:
        """Carry out one action in a session of its own and add it to the result."""
        with self._working() as work:
            self._in(item, lambda: act(work))
        result.actions.append(item)
        result.findings += self._unfinished(item)

    def _batches(self, item: Row, work: Session, rule: retention.Rule) -> None:
        progress = retention.carry_out(
            work, rule, self.job.deadline, self.job.batch_timeout_seconds, pause_fraction=self.job.batch_pause_fraction
        )
        item["result"] = "done" if progress.rows else "skipped"
        item["after"] = None if item["before"] is None else max(0, item["before"] - progress.rows)
        verb = "emptied" if rule.columns else "deleted"
        item["detail"] = (
            f"{progress.rows} rows {verb} in {progress.batches} batches, longest {progress.longest_seconds:.2f} s; {item['detail']}"
        )
        if progress.stopped == retention.COME_BACK:
            raise PsqlError(TRIGGERED_DATA_CHANGE_VIOLATION, f"{progress.stopped}; {item['detail']}")
        if progress.stopped:
            item["detail"] += f"; stopped: {progress.stopped}"
            item["stopped"] = progress.stopped

    def _drop_partition(self, item: Row, work: Session, rule: retention.Rule) -> None:
        part = next(p for p in retention.expired_partitions(self.session, rule) if p["oid"] == item["oid"])
        self._drop(item, work, rule.table["ident"], part)

    def _drop(self, item: Row, work: Session, parent: str, part: Row) -> None:
        # Written before the partition is detached: a run killed in between would forget that it is to be dropped.
        self._remember("detaching", item["subject"], {"oid": item["oid"], "parent": parent})
        if retention.drop_partition(work, part, parent):
            self._remember("detaching", item["subject"], None)
            item.update(result="done", after=0)
        else:
            item.update(result="skipped", stopped="locked by another session")

    def views(self) -> Result:
        """Refresh materialized views whose source changed, sources first, independent ones at the same time."""
        views = {v["oid"]: v for v in catalog.views(self.session)}
        planned, found = self._plan_views(list(views.values()), self._blocked())
        result = Result(findings=found)
        for level in _levels(planned, {oid: v["views_below"] or [] for oid, v in views.items()}):
            self._each([[item] for item in level], self._refresh)
            result.actions += level
            result.findings += [f for item in level for f in self._unfinished(item)]
        after = {v["oid"]: v for v in catalog.views(self.session)}
        for item in result.actions:
            if item["result"] == "done" and item["oid"] in after:
                item["after"] = after[item["oid"]]["bytes"]
        return result

    def _refresh(self, item: Row, work: Session) -> None:
        how = "CONCURRENTLY " if item["concurrently"] else ""
        work.execute(f"SET lock_timeout = '1s'; SET statement_timeout = {self._milliseconds_left()}")
        if not retention.execute_with_retries(work, f"REFRESH MATERIALIZED VIEW {how}{item['subject']}"):
            item.update(result="skipped", stopped="locked by another session")
            return
        item["result"] = "done"
        # The counters were read before the refresh: a write that came later makes the view due again.
        self._remember(
            "views", item["subject"], {"oid": item["oid"], "writes": item["writes"], "refreshed_at": self.server["now"]}
        )

    def vacuum(self) -> Result:
        """VACUUM and ANALYZE what autovacuum's own formulas say is due, several tables at once."""
        tables = catalog.tables(self.session)
        planned, _ = self._plan_vacuum(tables, self._blocked())
        self._each([[item] for item in planned], self._vacuum)
        result = Result(actions=planned)
        after = {t["oid"]: t for t in catalog.tables(self.session)}
        for item in planned:
            now = after.get(item["oid"])
            if item["result"] == "done" and now:
                item["after"] = now["dead_rows"]
                if "ANALYZE" in item["options"]:
                    self._remember("without_statistics", item["subject"], now["missing_statistics"])
            result.findings += self._unfinished(item)
        return result

    def _vacuum(self, item: Row, work: Session) -> None:
        options = list(item["options"])
        if options[0] == "VACUUM":
            # SKIP_LOCKED: autovacuum and users keep their locks, nobody queues behind us.
            words = ["SKIP_LOCKED", *options[1:], *([] if self.job.vacuum_truncate else ["TRUNCATE false"])]
            statement = f"VACUUM ({', '.join(words)}) {item['subject']}"
        else:
            statement = f"ANALYZE (SKIP_LOCKED) {item['subject']}"
        work.execute(f"SET statement_timeout = {self._milliseconds_left()}")
        for number in range(SKIP_LOCKED_TRIES):
            work.execute(statement)
            if not any(LOCK_NOT_AVAILABLE in warning for warning in work.warnings):
                refused = [w for w in work.warnings if "skipping" in w]
                item.update(result="failed" if refused else "done", detail=" ".join(refused) or item["detail"])
                return
            if number + 1 < SKIP_LOCKED_TRIES:
                time.sleep(0.2 * 2**number)  # a lock has no notification; what stays locked is left for the next run
        item.update(result="skipped", stopped="locked by another session")

    def indexes(self) -> Result:
        """Drop dead leftovers, rebuild invalid and bloated indexes concurrently, one per table at a time."""
        indexes = catalog.indexes(self.session)
        there = {index["oid"] for index in indexes}
        planned, found = self._plan_indexes(indexes, self._blocked())
        result = Result(findings=found, actions=planned)
        by_table: dict[int, list[Row]] = {}
        for item in sorted(planned, key=lambda i: i["verb"] != "DROP"):
            by_table.setdefault(item["table_oid"], []).append(item)
        self._each(list(by_table.values()), self._rebuild)
        after = {i["oid"]: i for i in catalog.indexes(self.session)}
        by_ident = {i["ident"]: i for i in after.values()}
        for item in planned:
            now = by_ident.get(item["subject"])
            if item["result"] == "done":
                item["after"] = now["bytes"] if now else 0
                if now and item["verb"] == "REINDEX":
                    self._remember(
                        "indexes",
                        item["subject"],
                        {
                            "bytes_per_row": now["bytes"] / max(now["reltuples"], 1),
                            "definition": now["definition"],
                        },
                    )
            result.findings += self._unfinished(item)
        result.actions += self._sweep(list(after.values()), there)
        return result

    def _rebuild(self, item: Row, work: Session) -> None:
        # Neither waits with a lock that blocks readers or writers, so both may wait longer than the others; the
        # statement limit ends the work with the time budget.
        work.execute(
            f"SET lock_timeout = '{self.job.reindex_wait_seconds}s'; SET statement_timeout = {self._milliseconds_left()}"
        )
        if item["verb"] == "DROP":
            work.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {item['subject']}")
        else:
            work.execute(f"REINDEX INDEX CONCURRENTLY {item['subject']}")
        item["result"] = "done"

    def _sweep(self, indexes: Sequence[Row], there: set[int]) -> list[Row]:
        """Drop what rebuilds of this run left behind when they were cancelled or failed; `there` was there before."""
        swept = []
        for index in indexes:
            if (
                index["valid"]
                or index["oid"] in there
                or index["building"]
                or index["locked"]
                or not planner.is_leftover(index, indexes)
            ):
                continue
            item = {
                **action(
                    "indexes",
                    index["ident"],
                    "left by a rebuild of this run",
                    number=index["bytes"],
                    unit="bytes",
                    before=index["bytes"],
                    detail=f"DROP on {index['table_ident']}",
                ),
                "verb": "DROP",
                "oid": index["oid"],
            }
            result = Result()
            self._act(item, lambda work, item=item: self._rebuild(item, work), result)
            swept += result.actions
        return swept

    # --- shared by the steps ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _working(self) -> Iterator[Session]:
        """Open a session to act in; triggers and expressions of the users find their names as they do for the users."""
        with Session(self.job.connection) as work:
            work.execute("RESET search_path")
            yield work

    def _each(self, groups: Sequence[Sequence[Row]], act: Callable[[Row, Session], None]) -> None:
        """Run `act` on every item; the items of a group one after the other, groups in parallel sessions."""
        waiting: queue.SimpleQueue[Sequence[Row]] = queue.SimpleQueue()
        for group in groups:
            waiting.put(group)
        lost: list[BaseException] = []

        def worker() -> None:
            try:
                with self._working() as work:
                    while True:
                        for item in waiting.get_nowait():
                            self._in(item, lambda item=item: act(item, work))
            except queue.Empty:
                pass
            except PsqlUnreachable as error:
                lost.append(error)

        threads = [threading.Thread(target=worker) for _ in range(min(self.job.jobs, len(groups)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if lost:
            raise lost[0]

    def _in(self, item: Row, act: Callable[[], None]) -> None:
        """Run one action within the time budget, time it, and turn a failed statement into a failed action."""
        started = time.monotonic()
        if started >= self.job.deadline:
            item.update(result="skipped", stopped="time budget used up")
            return
        try:
            act()
        except PsqlError as error:
            item.update(result="failed", detail=f"{error.message} (SQLSTATE {error.sqlstate})")
            if error.sqlstate in TRANSIENT:
                over = error.sqlstate == QUERY_CANCELED and time.monotonic() >= self.job.deadline - 1
                item["stopped"] = "time budget used up" if over else error.message
            else:
                self._remember(
                    "failures", f"{item['step']}:{item['subject']}", {"at": self.server["now"], "error": error.message}
                )
        else:
            self._remember("failures", f"{item['step']}:{item['subject']}", None)
        finally:
            item["seconds"] = round(time.monotonic() - started, 3)

    def _unfinished(self, item: Row) -> list[Row]:
        """Return a finding for an action that was due but could not be carried out or finished."""
        if item["result"] != "failed" and not item.get("stopped"):
            return []
        observed = item.get("stopped") or item["detail"]
        if "locked" in observed:
            holders = catalog.lock_holders(self.session, [item["oid"]])
            observed += f": {holders[item['oid']]}" if item["oid"] in holders else ""
        return [
            finding(
                "not-finished",
                f"Due, but not finished by the step {item['step']}",
                subject=item["subject"],
                observed=observed,
                expected="done",
                remedy="Run again; if it is locked, end the session that holds the lock"
                if item.get("stopped")
                else f"Cure what the message names; tried again {self.job.limits.retry_after_hours:.0f} h after the failure",
            )
        ]

    def _milliseconds_left(self) -> int:
        """Return the time budget as a statement_timeout; 0 (none) without a budget."""
        if self.job.deadline == float("inf"):
            return 0
        return max(1, int((self.job.deadline - time.monotonic()) * 1000))

    def _remember(self, kind: str, key: str, value: Any) -> None:
        with self._memory_lock:
            entries = self.memory.setdefault(kind, {})
            if (entries.get(key) == value) if value else (key not in entries):
                return
            if value:
                entries[key] = value
            else:
                del entries[key]
            write_json(self.memory_path, self.memory)

    def _remember_sequences(self, sequences: Sequence[Row]) -> None:
        """Keep a reading per sequence; a day later it is replaced, so that the rate follows the present."""
        now = self.server["now"]
        for sequence in sequences:
            known = self.memory.get("sequences", {}).get(sequence["ident"])
            if not known or now - known["at"] > 86400 or known["last_value"] > sequence["last_value"]:
                self._remember("sequences", sequence["ident"], {"last_value": sequence["last_value"], "at": now})


def _levels(planned: Sequence[Row], below: Mapping[int, Sequence[int]]) -> list[list[Row]]:
    """Return the items in groups: those of a group do not read one another, and read only from earlier groups."""
    levels: list[list[Row]] = []
    waiting = list(planned)
    while waiting:
        oids = {item["oid"] for item in waiting}
        free = [i for i in waiting if not oids & set(below.get(i["oid"], [])) - {i["oid"]}] or waiting
        levels.append(free)
        waiting = [i for i in waiting if i not in free]
    return levels
