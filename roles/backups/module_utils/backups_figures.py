# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
# ruff: noqa: S608  statements are put together from the catalog's own quoted names and literal()
"""What a backup remembers of a database, and whether a restored database equals it.

The figures of a backup are those of one snapshot, taken in the same statement that writes a restore point into the
WAL. Where nothing else was written between, a recovery to that restore point shows exactly these figures.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

from ansible.module_utils.runbook_psql import QUERY_CANCELED, Connection, PsqlError, Session, literal

Row = dict[str, Any]

# An XLogRecord (24), a short data header (2), time (8) and name (64) of the restore point, aligned to 8 bytes.
RESTORE_POINT_BYTES = 104
# src/include/access/xlog_internal.h: the header of a WAL page, and of the first page of a segment.
SHORT_HEADER, LONG_HEADER = 24, 40
MAX_RESTORE_POINT_NAME = 63
# How long a transaction that was ending when the snapshot was taken is waited for.
DOUBT_SECONDS = 1.0
INSUFFICIENT_PRIVILEGE = "42501"
READ_ONLY = "25006"
CANARY_ROWS = 100

# What a server needs at least to replay this server's WAL, or to open its files.
SETTINGS = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "shared_preload_libraries",
    "wal_level",
    "data_checksums",
    "wal_segment_size",
    "block_size",
)
COST_COLUMNS = ("total_cost_usd",)
TIME_COLUMNS = ("timestamp", "start_time", "period_start", "created_at")

_USER_SCHEMA = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'"


class FiguresError(Exception):
    """The figures of a database cannot be taken; the text says why and what to do."""


@dataclass
class Figures:
    """What one database held at one moment.

    `exact` says that a recovery to `restore_point` shows exactly this; without, it may show transactions more (never
    fewer). `tables` has rows per table, None: not counted. `costs` has per table and UTC day ("none": rows without a
    time) {rows, sum}, sums as text. `objects` has a short hash per object of the schema, `phases` seconds.
    """

    exact: bool = False
    attempts: int = 0
    restore_point: str | None = None
    lsn: str | None = None
    wal_file: str | None = None
    timeline: int = 0
    taken_at: str = ""
    database: str = ""
    server_version: str = ""
    server_version_num: int = 0
    system_identifier: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    tables: dict[str, int | None] = field(default_factory=dict)
    costs: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    sequences: dict[str, dict[str, Any]] = field(default_factory=dict)
    schema: str = ""
    objects: dict[str, str] = field(default_factory=dict)
    extensions: dict[str, str] = field(default_factory=dict)
    roles: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON can hold them."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """What a restored database shows otherwise. `kind` is rows, costs, schema, sequence, extension or role."""

    kind: str
    subject: str
    expected: Any
    observed: Any


@dataclass(frozen=True)
class Problem:
    """Data that contradicts itself. `kind` is orphans, sequence or index; `count` the rows it is about."""

    kind: str
    subject: str
    text: str
    count: int = 0


# --- taking ---------------------------------------------------------------------------------------------------------


def wal_bytes(lsn: str, segment_bytes: int, page_bytes: int = 8192) -> int:
    """Return how many bytes of records lie before an LSN, its page headers left out (XLogRecPtrToBytePos)."""
    high, low = lsn.split("/")
    pointer = (int(high, 16) << 32) + int(low, 16)
    in_page = page_bytes - SHORT_HEADER
    in_segment = segment_bytes // page_bytes * in_page - (LONG_HEADER - SHORT_HEADER)
    segments, within = divmod(pointer, segment_bytes)
    pages, offset = divmod(within, page_bytes)
    if pages == 0:
        return segments * in_segment + max(0, offset - LONG_HEADER)
    first = page_bytes - LONG_HEADER
    return segments * in_segment + first + (pages - 1) * in_page + max(0, offset - SHORT_HEADER)


def take_figures(
    connection: Connection,
    restore_point: str,
    attempts: int = 20,
    *,
    costs: Sequence[Mapping[str, str]] | None = None,
    count_seconds: float = 600,
) -> Figures:
    """Write a restore point `<restore_point>-<n>` and return the figures a recovery to it shows.

    `costs` names columns of money as {table, time_column, value_column}; None: columns called total_cost_usd beside a
    time. A table that takes longer than `count_seconds` is not counted. Raise FiguresError where no restore point can
    be written, PsqlUnreachable and PsqlError for a server that does not answer.
    """
    _refuse_name(f"{restore_point}-{attempts}")
    began = time.monotonic()
    with Session(connection) as session:
        _refuse_server(session)
        # Sequences obey no snapshot: what they are at before the restore point is the least a recovery to it shows.
        sequences = _sequences(session)
        exact, number, lsn = False, 0, ""
        while not exact and number < attempts:
            if number:
                session.execute("ROLLBACK")
            number += 1
            exact, lsn = _mark(session, f"{restore_point}-{number}")
        figures = Figures(exact=exact, attempts=number, restore_point=f"{restore_point}-{number}", lsn=lsn)
        figures.phases["restore_point"] = time.monotonic() - began
        figures.wal_file = session.value(f"SELECT pg_walfile_name({literal(lsn)})")
        _read(session, figures, costs, count_seconds)
        figures.sequences = {n: s for n, s in sequences.items() if f"sequence {n}" in figures.objects}
        session.execute("ROLLBACK")
    if not exact:
        figures.notes.append(
            f"other sessions wrote at each of {number} attempts: a recovery to {figures.restore_point} may show more "
            "than these figures, so they are compared as the least that must be there"
        )
    return figures


def read_figures(
    connection: Connection, *, costs: Sequence[Mapping[str, str]] | None = None, count_seconds: float = 600
) -> Figures:
    """Return the figures of a database as it is now, without a restore point: those of a restored one."""
    with Session(connection) as session:
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        figures = Figures(exact=True)
        _read(session, figures, costs, count_seconds)
        figures.sequences = _sequences(session)
        session.execute("ROLLBACK")
    return figures


def _refuse_name(name: str) -> None:
    if len(name.encode()) > MAX_RESTORE_POINT_NAME or not name.isprintable():
        raise FiguresError(
            f"restore point {name!r} has {len(name.encode())} bytes; "
            f"PostgreSQL takes {MAX_RESTORE_POINT_NAME}: use a shorter name"
        )


def _refuse_server(session: Session) -> None:
    row = session.rows(
        """
        SELECT pg_is_in_recovery() AS standby, current_setting('wal_level') AS wal_level, current_user AS "user",
               has_function_privilege('pg_create_restore_point(text)', 'EXECUTE') AS may,
               current_setting('default_transaction_read_only')::bool AS read_only
        """
    )[0]
    if row["standby"]:
        raise FiguresError("the server is a standby, which cannot write a restore point: back up the primary")
    if row["wal_level"] == "minimal":
        raise FiguresError("wal_level is minimal, so there is nothing to recover with: set wal_level = replica")
    if not row["may"]:
        raise FiguresError(
            f"role {row['user']} may not write a restore point: "
            f"GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO {row['user']}"
        )


def _mark(session: Session, name: str) -> tuple[bool, str]:
    """Begin a transaction whose snapshot is that of the restore point `name`; return whether it is exact, and the LSN.

    The statements go in one message (\\;), so that as little as possible is written between them.
    """
    before, after, ahead, segment, page = session.execute(
        "BEGIN \\; SELECT set_config('runbooks.lsn', pg_current_wal_insert_lsn()::text, false) \\; COMMIT \\; "
        "BEGIN ISOLATION LEVEL REPEATABLE READ \\; "
        f"SELECT current_setting('runbooks.lsn'), pg_create_restore_point({literal(name)}), "
        "age(pg_snapshot_xmax(pg_current_snapshot())::xid), "
        "pg_size_bytes(current_setting('wal_segment_size')), current_setting('wal_block_size')"
    )[-1].split("|")
    sizes = (int(segment), int(page))
    written = wal_bytes(after, *sizes) - wal_bytes(before, *sizes)
    return written == RESTORE_POINT_BYTES and _all_seen(session, int(ahead)), after


def _all_seen(session: Session, ahead: int) -> bool:
    """Return whether the snapshot sees every transaction whose commit is in the WAL before the restore point.

    A commit is in the WAL a moment before others see it (longer where a standby has to confirm it). A transaction
    that the snapshot does not see is none of these if it was rolled back, or still runs after it was seen to wait for
    its client, for a lock or as a prepared one. One that commits now may be: then nobody can tell. Of the numbers from
    the snapshot's xmax on, `ahead` are taken.
    """
    end = time.monotonic() + DOUBT_SECONDS
    while True:
        session.execute("SELECT pg_stat_clear_snapshot()")  # pg_stat_activity stands still within a transaction
        unseen = session.rows(
            f"""
            SELECT x::text AS xid,
                   EXISTS (SELECT FROM pg_stat_activity a WHERE a.backend_xid = x::xid
                            AND (a.wait_event_type = 'Lock' OR a.wait_event = 'ClientRead'))
                   OR (EXISTS (SELECT FROM pg_prepared_xacts p WHERE p.transaction = x::xid)
                       AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.state = 'active' AND a.pid <> pg_backend_pid()
                                        AND a.query ~* 'commit\\s+prepared')) AS waits
              FROM (SELECT pg_snapshot_xip(pg_current_snapshot())
                    UNION ALL
                    SELECT (pg_snapshot_xmax(pg_current_snapshot())::text::bigint + i)::text::xid8
                      FROM generate_series(0, {ahead - 1}) i) unseen (x)
             WHERE pg_xact_status(x) <> 'aborted'
            """
        )
        # Asked after that: only one that still runs was itself seen waiting, not what its session did next.
        status = {r["xid"]: session.value(f"SELECT pg_xact_status({literal(r['xid'])}::xid8)") for r in unseen}
        doubtful = [r for r in unseen if not r["waits"] or status[r["xid"]] != "in progress"]
        if all(status[r["xid"]] == "aborted" for r in doubtful):
            return True
        if "committed" in (status[r["xid"]] for r in doubtful) or time.monotonic() > end:
            return False
        time.sleep(0.01)


def _read(session: Session, figures: Figures, costs: Sequence[Mapping[str, str]] | None, count_seconds: float) -> None:
    """Fill in what the snapshot of the running transaction shows."""
    began = time.monotonic()
    # Rows that a policy hides must be an error, not a smaller number.
    session.execute(
        f"SET LOCAL row_security = off; SET LOCAL statement_timeout = {max(1, round(count_seconds * 1000))}"
    )
    try:
        _read_schema(session, figures)
    except PsqlError as error:
        if error.sqlstate != QUERY_CANCELED:
            raise
        raise FiguresError(
            f"the schema of {session.connection.database} was not read within {count_seconds:g} s: "
            "a table is locked (ALTER TABLE, VACUUM FULL); try again when that has ended"
        ) from error
    figures.phases["schema"] = time.monotonic() - began
    began = time.monotonic()
    _count(session, figures, costs)
    figures.phases["count"] = time.monotonic() - began


def _read_schema(session: Session, figures: Figures) -> None:
    _read_server(session, figures)
    figures.objects = {f"{r['kind']} {r['name']}": _short(r["definition"]) for r in schema_objects(session)}
    listing = "\n".join(f"{name} {figures.objects[name]}" for name in sorted(figures.objects))
    figures.schema = hashlib.sha256(listing.encode()).hexdigest()


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_server(session: Session, figures: Figures) -> None:
    names = ", ".join(literal(name) for name in SETTINGS)
    row = session.rows(
        f"""
        SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS taken_at,
               current_database() AS database, current_setting('server_version') AS server_version,
               current_setting('server_version_num')::int AS server_version_num,
               (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
               (SELECT timeline_id FROM pg_control_checkpoint()) AS timeline,
               (SELECT json_object_agg(name, current_setting(name)) FROM pg_settings WHERE name IN ({names})) AS settings,
               (SELECT json_object_agg(extname, extversion) FROM pg_extension) AS extensions,
               (SELECT json_agg(rolname ORDER BY rolname COLLATE "C") FROM pg_roles WHERE rolname !~ '^pg_') AS roles
        """
    )[0]
    for name, value in row.items():
        setattr(figures, name, value if value is not None else type(getattr(figures, name))())
    if figures.wal_file:  # the control file knows a new timeline only after its first checkpoint
        figures.timeline = int(figures.wal_file[:8], 16)


def _sequences(session: Session) -> dict[str, dict[str, Any]]:
    """Return where each sequence stands; a recovered one may be up to 32 numbers further, as the WAL runs ahead."""
    names = session.rows(
        f"""
        SELECT format('%I.%I', n.nspname, c.relname) AS ident, s.seqincrement AS increment
          FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE {_USER_SCHEMA} AND c.relpersistence = 'p' AND has_table_privilege(c.oid, 'SELECT')
        """
    )
    found = {}
    for row in names:
        state = session.rows(f"SELECT last_value, is_called FROM {row['ident']}")[0]
        found[row["ident"]] = {**state, "increment": row["increment"]}
    return found


def _count(session: Session, figures: Figures, costs: Sequence[Mapping[str, str]] | None) -> None:
    money = _cost_columns(session, figures) if costs is None else _known_costs(session, figures, costs)
    for table in _tables(session):
        name = table["ident"]
        source = f"ONLY {name}" if table["kind"] != "p" else name
        if table["persistence"] != "p":
            figures.notes.append(f"{name} is unlogged, so it is empty after a recovery: not compared")
            continue
        if name in money:
            days = _counted(session, figures, name, _cost_query(source, money[name]))
            if days is not None:
                figures.costs[name] = {r["day"]: {"rows": r["rows"], "sum": r["sum"]} for r in days}
            if table["kind"] != "p":
                figures.tables[name] = None if days is None else sum(r["rows"] for r in days)
        elif table["kind"] != "p":
            rows = _counted(session, figures, name, f"SELECT count(*) AS rows FROM {source}")
            figures.tables[name] = None if rows is None else rows[0]["rows"]


def _counted(session: Session, figures: Figures, name: str, query: str) -> list[Row] | None:
    """Return the rows of a count; None where the table may not be read or takes too long, which is noted."""
    session.execute("SAVEPOINT counting")
    try:
        rows: list[Row] = session.rows(query)
    except PsqlError as error:
        if error.sqlstate not in (QUERY_CANCELED, INSUFFICIENT_PRIVILEGE):
            raise
        session.execute("ROLLBACK TO counting")
        why = "counting it took longer than its time limit" if error.sqlstate == QUERY_CANCELED else error.message
        figures.notes.append(f"{name} is not compared: {why}")
        return None
    session.execute("RELEASE counting")
    return rows


def _tables(session: Session) -> list[Row]:
    rows: list[Row] = session.rows(
        f"""
        SELECT format('%I.%I', n.nspname, c.relname) AS ident, c.relkind AS kind, c.relpersistence AS persistence
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'm') AND c.relispopulated AND c.relpersistence <> 't' AND {_USER_SCHEMA}
         ORDER BY c.relkind = 'm', n.nspname COLLATE "C", c.relname COLLATE "C"
        """
    )
    return rows


def _cost_query(source: str, columns: tuple[str, str]) -> str:
    moment, value = columns
    # The session's time zone is UTC. Sums of numeric do not depend on the order of the rows; those of float would.
    return f"""
        SELECT coalesce(({moment}::timestamp)::date::text, 'none') AS day, count(*) AS rows,
               coalesce(sum({value}::numeric), 0)::text AS sum
          FROM {source} GROUP BY 1 ORDER BY 1
    """


def _columns(session: Session) -> dict[str, dict[str, Row]]:
    """Return the columns per table that may hold money or a time: ident, and whether it is the one or the other."""
    rows = session.rows(
        f"""
        SELECT format('%I.%I', n.nspname, c.relname) AS ident, c.relname AS bare, n.nspname AS schema,
               a.attname AS name, format('%I', a.attname) AS quoted, t.typcategory = 'D' AS is_time,
               t.typcategory = 'N' AS is_number
          FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
          JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped AND t.typcategory IN ('D', 'N')
           AND t.typname <> 'time' AND t.typname <> 'timetz' AND {_USER_SCHEMA} AND NOT c.relispartition
         ORDER BY n.nspname = 'public' DESC, 1
        """
    )
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row["ident"], {})[row["name"]] = row
    return found


def _cost_columns(session: Session, figures: Figures) -> dict[str, tuple[str, str]]:
    found = {}
    for ident, columns in _columns(session).items():
        value = next((columns[c] for c in COST_COLUMNS if c in columns and columns[c]["is_number"]), None)
        moment = next((columns[c] for c in TIME_COLUMNS if c in columns and columns[c]["is_time"]), None)
        if value and moment:
            found[ident] = (moment["quoted"], value["quoted"])
        elif value:
            figures.notes.append(f"{ident} has {value['name']} but no time beside it: its sums are not compared")
    return found


def _known_costs(session: Session, figures: Figures, costs: Iterable[Mapping[str, str]]) -> dict[str, tuple[str, str]]:
    found = {}
    tables = _columns(session)
    for wanted in costs:
        name, moment, value = wanted["table"], wanted["time_column"], wanted["value_column"]
        ident = next(
            (i for i, c in tables.items() if name in (i, *(f(r) for r in c.values() for f in (_bare, _dotted)))), None
        )
        columns = tables.get(ident or "", {})
        if not ident or not columns.get(moment, {}).get("is_time") or not columns.get(value, {}).get("is_number"):
            figures.notes.append(f"{name} with a time {moment} and a number {value} does not exist: no sums of it")
        else:
            found[ident] = (columns[moment]["quoted"], columns[value]["quoted"])
    return found


def _bare(row: Row) -> str:
    return str(row["bare"])


def _dotted(row: Row) -> str:
    return f"{row['schema']}.{row['bare']}"


# --- the schema -----------------------------------------------------------------------------------------------------


def _acl(column: str, kind: str, owner: str) -> str:
    """SQL of owner and privileges by name, in an order of their own; a missing list is the default one."""
    return (
        f"pg_get_userbyid({owner}) || ' ' || coalesce((SELECT string_agg(g, ',' ORDER BY g COLLATE \"C\") FROM "
        "(SELECT format('%s:%s%s/%s', CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END, "
        "privilege_type, CASE WHEN is_grantable THEN '*' END, pg_get_userbyid(grantor)) AS g "
        f"FROM aclexplode(coalesce({column}, acldefault({literal(kind)}, {owner})))) x), '')"
    )


def _own(catalog: str, oid: str) -> str:
    """SQL that is true for an object that is not part of an extension, whose version stands for its objects."""
    return (
        f"NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = '{catalog}'::regclass AND d.objid = {oid} "
        "AND d.deptype = 'e')"
    )


_CLASS = f"pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND {_USER_SCHEMA} AND {_own('pg_class', 'c.oid')}"
_IDENT = "format('%I.%I', n.nspname, c.relname)"

# kind, name, definition; definitions have no OIDs, positions or numbers of rows in them.
_OBJECTS = (
    f"""SELECT 'schema' AS kind, quote_ident(n.nspname) AS name, {_acl("n.nspacl", "n", "n.nspowner")} AS definition
          FROM pg_namespace n WHERE {_USER_SCHEMA} AND {_own("pg_namespace", "n.oid")}""",
    f"""SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table'
                    ELSE 'table' END, {_IDENT},
               concat_ws(E'\\n', c.relkind, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity, c.relreplident,
                 (SELECT string_agg(o, ',' ORDER BY o COLLATE "C") FROM unnest(c.reloptions) o),
                 pg_get_expr(c.relpartbound, c.oid), CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END,
                 (SELECT string_agg(i.inhparent::regclass::text, ',' ORDER BY i.inhseqno) FROM pg_inherits i WHERE i.inhrelid = c.oid),
                 CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END, {_acl("c.relacl", "r", "c.relowner")})
          FROM {_CLASS} WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'""",
    f"""SELECT 'column', {_IDENT} || '.' || quote_ident(a.attname),
               concat_ws(E'\\n', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated, a.attstorage,
                 (SELECT co.collname FROM pg_collation co WHERE co.oid = a.attcollation), pg_get_expr(ad.adbin, ad.adrelid),
                 (SELECT string_agg(x::text, ',' ORDER BY x::text COLLATE "C") FROM unnest(a.attacl) x))
          FROM {_CLASS} JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          LEFT JOIN pg_attrdef ad ON ad.adrelid = c.oid AND ad.adnum = a.attnum
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND c.relpersistence <> 't'""",
    # NOT NULL became a constraint with PostgreSQL 18; that of its column says the same.
    f"""SELECT 'constraint', {_IDENT} || '.' || quote_ident(k.conname),
               concat_ws(E'\\n', pg_get_constraintdef(k.oid), k.convalidated)
          FROM {_CLASS} JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype NOT IN ('n', 't')
         WHERE c.relpersistence <> 't'""",
    f"""SELECT 'index', format('%I.%I', n.nspname, i.relname),
               concat_ws(E'\\n', pg_get_indexdef(x.indexrelid), x.indisvalid, x.indisclustered, x.indisreplident)
          FROM {_CLASS} JOIN pg_index x ON x.indrelid = c.oid JOIN pg_class i ON i.oid = x.indexrelid
         WHERE c.relpersistence <> 't'""",
    f"""SELECT 'sequence', {_IDENT},
               concat_ws(E'\\n', format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmax, s.seqmin, s.seqcache,
                 s.seqcycle, {_acl("c.relacl", "s", "c.relowner")},
                 (SELECT format('%s.%s', o.refobjid::regclass, a.attname) FROM pg_depend o
                    JOIN pg_attribute a ON a.attrelid = o.refobjid AND a.attnum = o.refobjsubid
                   WHERE o.classid = 'pg_class'::regclass AND o.objid = c.oid AND o.deptype IN ('a', 'i')
                     AND o.refclassid = 'pg_class'::regclass AND o.refobjsubid > 0 LIMIT 1))
          FROM {_CLASS} JOIN pg_sequence s ON s.seqrelid = c.oid WHERE c.relpersistence <> 't'""",
    f"""SELECT 'function', format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
               concat_ws(E'\\n', CASE WHEN p.prokind = 'a' THEN (SELECT concat_ws(' ', g.aggtransfn, g.aggfinalfn, g.agginitval)
                                        FROM pg_aggregate g WHERE g.aggfnoid = p.oid)
                                ELSE pg_get_functiondef(p.oid) END, {_acl("p.proacl", "f", "p.proowner")})
          FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {_USER_SCHEMA} AND {_own("pg_proc", "p.oid")}""",
    f"""SELECT 'trigger', {_IDENT} || '.' || quote_ident(g.tgname), pg_get_triggerdef(g.oid) || g.tgenabled::text
          FROM {_CLASS} JOIN pg_trigger g ON g.tgrelid = c.oid AND NOT g.tgisinternal""",
    f"""SELECT 'rule', {_IDENT} || '.' || quote_ident(r.rulename), pg_get_ruledef(r.oid) || r.ev_enabled::text
          FROM {_CLASS} JOIN pg_rewrite r ON r.ev_class = c.oid AND r.rulename <> '_RETURN'""",
    f"""SELECT 'policy', {_IDENT} || '.' || quote_ident(p.polname),
               concat_ws(E'\\n', p.polcmd, p.polpermissive, pg_get_expr(p.polqual, p.polrelid),
                 pg_get_expr(p.polwithcheck, p.polrelid),
                 (SELECT string_agg(CASE WHEN o = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(o) END, ',' ORDER BY 1) FROM unnest(p.polroles) o))
          FROM {_CLASS} JOIN pg_policy p ON p.polrelid = c.oid""",
    f"""SELECT 'statistics', format('%I.%I', n.nspname, s.stxname), pg_get_statisticsobjdef(s.oid)
          FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE {_USER_SCHEMA}""",
    f"""SELECT 'type', format('%I.%I', n.nspname, t.typname),
               concat_ws(E'\\n', t.typtype, CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END,
                 t.typnotnull, t.typdefault,
                 (SELECT string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid),
                 (SELECT string_agg(pg_get_constraintdef(k.oid), ',' ORDER BY k.conname) FROM pg_constraint k WHERE k.contypid = t.oid),
                 {_acl("t.typacl", "T", "t.typowner")})
          FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
          LEFT JOIN pg_class r ON r.oid = t.typrelid
         WHERE {_USER_SCHEMA} AND (t.typtype IN ('e', 'd', 'r') OR (t.typtype = 'c' AND r.relkind = 'c'))
           AND {_own("pg_type", "t.oid")}""",
)


def schema_objects(session: Session) -> list[Row]:
    """Return every object of the database that users made: kind, name, definition (a text without OIDs)."""
    rows: list[Row] = session.rows("\nUNION ALL\n".join(_OBJECTS))
    return rows


# --- comparing ------------------------------------------------------------------------------------------------------


def compare(expected: Mapping[str, Any], restored: Mapping[str, Any], exact: bool | None = None) -> list[Difference]:
    """Return how a restored database (Figures.as_dict()) differs from what its backup remembers.

    `exact` None: as the backup says. If it is false (others wrote while the restore point was made, or the recovery
    went further than it), what only grew is no difference: such a recovery holds every transaction of the figures and
    later ones. It holds for all days, as budgets and sessions of earlier days are updated too. Sequences need only
    have got as far: the WAL runs ahead of them. What was not counted is not compared.
    """
    strict = bool(expected.get("exact")) if exact is None else exact
    found = [
        *_compare_rows(expected["tables"], restored["tables"], strict),
        *_compare_costs(expected["costs"], restored["costs"], strict),
        *_compare_names("schema", expected["objects"], restored["objects"]),
        *_compare_sequences(expected["sequences"], restored["sequences"]),
        *_compare_names("extension", expected["extensions"], restored["extensions"]),
    ]
    missing = sorted(set(expected["roles"]) - set(restored["roles"]))
    return [*found, *(Difference("role", name, "present", None) for name in missing)]


def not_compared(expected: Mapping[str, Any], restored: Mapping[str, Any]) -> list[str]:
    """Return the tables whose rows one side or the other did not count: nothing is proven of them."""
    both = {**restored["tables"], **expected["tables"]}
    return sorted(t for t in both if expected["tables"].get(t, 0) is None or restored["tables"].get(t, 0) is None)


def _compare_rows(expected: Mapping[str, Any], restored: Mapping[str, Any], strict: bool) -> list[Difference]:
    found = []
    for table, rows in sorted(expected.items()):
        observed = restored.get(table)
        if table in restored and (rows is None or observed is None):
            continue
        if observed is None or observed < rows or (strict and observed != rows):
            found.append(Difference("rows", table, rows, observed))
    if strict:
        found += [Difference("rows", t, None, r) for t, r in sorted(restored.items()) if t not in expected]
    return found


def _compare_costs(
    expected: Mapping[str, Mapping[str, Any]], restored: Mapping[str, Mapping[str, Any]], strict: bool
) -> list[Difference]:
    found = []
    nothing = {"rows": 0, "sum": "0"}
    for table, days in sorted(expected.items()):
        others = restored.get(table)
        if others is None:  # the table is missing or was not counted, which its rows tell
            continue
        for day in sorted({*days, *others}):
            want, have = days.get(day, nothing), others.get(day, nothing)
            more = have["rows"] >= want["rows"] and Decimal(have["sum"]) >= Decimal(want["sum"])
            same = have["rows"] == want["rows"] and Decimal(have["sum"]) == Decimal(want["sum"])
            if not same and (strict or not more):
                found.append(Difference("costs", f"{table} {day}", dict(want), dict(have)))
    return found


def _compare_names(kind: str, expected: Mapping[str, str], restored: Mapping[str, str]) -> list[Difference]:
    return [
        Difference(kind, name, expected.get(name), restored.get(name))
        for name in sorted({*expected, *restored})
        if expected.get(name) != restored.get(name)
    ]


def _compare_sequences(expected: Mapping[str, Any], restored: Mapping[str, Any]) -> list[Difference]:
    found = []
    for name, want in sorted(expected.items()):
        have = restored.get(name)
        behind = have is None or (_next_value(have) - _next_value(want)) * want["increment"] < 0
        if behind:
            found.append(Difference("sequence", name, want["last_value"], have and have["last_value"]))
    return found


def _next_value(sequence: Mapping[str, Any]) -> int:
    return int(sequence["last_value"]) + (int(sequence["increment"]) if sequence["is_called"] else 0)


# --- integrity ------------------------------------------------------------------------------------------------------


def integrity(session: Session, limit_seconds: float | None = None) -> list[Problem]:
    """Return what in a database contradicts its own rules: orphans, sequences behind their column, invalid indexes.

    Raise PsqlUnreachable if one statement takes longer than `limit_seconds`.
    """
    session.execute("SET row_security = off")
    return [*orphans(session, limit_seconds), *low_sequences(session, limit_seconds), *_invalid_indexes(session)]


def orphans(session: Session, limit_seconds: float | None = None) -> list[Problem]:
    """Return the foreign keys with rows that refer to nothing. Those not validated or not enforced are left out.

    A key of a partitioned table is looked at once, over all partitions.
    """
    found = []
    for key in _foreign_keys(session):
        count = session.value(_orphan_query(key), limit_seconds)
        if count:
            subject = f"{key['child']}.{key['name']}"
            text = f"{count} rows of {key['child']} refer to rows of {key['parent']} that are not there"
            found.append(Problem("orphans", subject, text, count))
    return found


def _foreign_keys(session: Session) -> list[Row]:
    # conperiod and conenforced came with PostgreSQL 18, so they are asked for by way of JSON.
    rows: list[Row] = session.rows(
        f"""
        SELECT quote_ident(k.conname) AS name, k.confmatchtype AS match, c.relkind AS child_kind, p.relkind AS parent_kind,
               {_IDENT} AS child, format('%I.%I', pn.nspname, p.relname) AS parent,
               coalesce((to_jsonb(k) ->> 'conperiod')::bool, false) AS period,
               (SELECT json_agg(json_build_array(quote_ident(ca.attname), quote_ident(pa.attname),
                                  format('OPERATOR(%I.%s)', o.nspname, op.oprname)) ORDER BY u.position)
                  FROM unnest(k.conkey, k.confkey, k.conpfeqop) WITH ORDINALITY u (child, parent, operator, position)
                  JOIN pg_attribute ca ON ca.attrelid = k.conrelid AND ca.attnum = u.child
                  JOIN pg_attribute pa ON pa.attrelid = k.confrelid AND pa.attnum = u.parent
                  JOIN pg_operator op ON op.oid = u.operator JOIN pg_namespace o ON o.oid = op.oprnamespace) AS columns
          FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
         WHERE k.contype = 'f' AND k.conparentid = 0 AND k.convalidated AND {_USER_SCHEMA}
           AND coalesce((to_jsonb(k) ->> 'conenforced')::bool, true)
         ORDER BY 5, 1
        """
    )
    return rows


def _orphan_query(key: Row) -> str:
    """Return the SQL that counts the orphans of a key. MATCH SIMPLE ignores a row with any NULL, FULL only all NULL."""
    columns = key["columns"]
    given = " AND ".join(f"c.{child} IS NOT NULL" for child, _, _ in columns)
    if key["match"] == "f":
        given = f"NOT ({' AND '.join(f'c.{child} IS NULL' for child, _, _ in columns)})"
    child, parent = (
        f"{'' if key[kind] == 'p' else 'ONLY '}{key[side]}"
        for kind, side in (("child_kind", "child"), ("parent_kind", "parent"))
    )
    if not key["period"]:
        same = " AND ".join(f"p.{b} {operator} c.{a}" for a, b, operator in columns)
        return f"SELECT count(*) FROM {child} c WHERE {given} AND NOT EXISTS (SELECT FROM {parent} p WHERE {same})"
    # The last column is a range that the rows of the parent have to cover together.
    same = " AND ".join(f"p.{b} {operator} c.{a}" for a, b, operator in columns[:-1])
    a, b, _ = columns[-1]
    covered = f"c.{a} <@ (SELECT range_agg(p.{b}) FROM {parent} p WHERE {same})"
    return f"SELECT count(*) FROM {child} c WHERE {given} AND NOT coalesce({covered}, false)"


def low_sequences(session: Session, limit_seconds: float | None = None) -> list[Problem]:
    """Return the sequences whose next number their own column already has or has passed."""
    owned = session.rows(
        f"""
        SELECT {_IDENT} AS ident, s.seqincrement AS increment, quote_ident(a.attname) AS "column",
               format('%I.%I', tn.nspname, t.relname) AS "table"
          FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
                          AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0
          JOIN pg_class t ON t.oid = d.refobjid JOIN pg_namespace tn ON tn.oid = t.relnamespace
          JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
          JOIN pg_type y ON y.oid = a.atttypid AND y.typcategory = 'N'
         WHERE NOT s.seqcycle AND c.relpersistence <> 't' AND {_USER_SCHEMA} ORDER BY 1
        """
    )
    found = []
    for row in owned:
        far = "max" if row["increment"] > 0 else "min"
        state = session.rows(
            f"SELECT s.last_value, s.is_called, (SELECT {far}({row['column']})::numeric FROM {row['table']}) AS far "
            f"FROM {row['ident']} s",
            limit_seconds,
        )[0]
        state["increment"] = row["increment"]
        if state["far"] is not None and (_next_value(state) - state["far"]) * row["increment"] <= 0:
            text = f"the next number is {_next_value(state)}, but {row['table']}.{row['column']} is at {state['far']}"
            found.append(Problem("sequence", row["ident"], text, 1))
    return found


def _invalid_indexes(session: Session) -> list[Problem]:
    rows = session.rows(
        f"""
        SELECT {_IDENT} AS ident, x.indrelid::regclass::text AS "table"
          FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE NOT (x.indisvalid AND x.indisready AND x.indislive) AND {_USER_SCHEMA} ORDER BY 1
        """
    )
    return [Problem("index", r["ident"], f"the index {r['ident']} of {r['table']} is invalid", 1) for r in rows]


# --- canary ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Canary:
    """A row with the moment it was written. `at` is UTC, ISO 8601; None: it could not be, and `note` says why."""

    at: str | None
    note: str = ""


_CANARY_AT = "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"


def ensure_canary(connection: Connection, drill: str = "") -> Canary:
    """Write a row that tells how fresh a restored database is, and keep the newest 100. `drill` names what it is for.

    The row commits with its statement. A role or a server that may not write is no error: `note` says so.
    """
    at = _CANARY_AT.format("at")
    try:
        with Session(connection) as session:
            if session.value("SELECT to_regclass('runbooks.canary') IS NULL"):
                session.execute(
                    "BEGIN \\; CREATE SCHEMA IF NOT EXISTS runbooks \\; "
                    "CREATE TABLE IF NOT EXISTS runbooks.canary (at timestamptz NOT NULL, drill text NOT NULL) \\; COMMIT"
                )
            lines = session.execute(
                "WITH gone AS (DELETE FROM runbooks.canary WHERE ctid IN (SELECT ctid FROM runbooks.canary "
                f"ORDER BY at DESC OFFSET {CANARY_ROWS - 1})) "
                f"INSERT INTO runbooks.canary VALUES (clock_timestamp(), {literal(drill)}) RETURNING {at}"
            )
    except PsqlError as error:
        if error.sqlstate not in (INSUFFICIENT_PRIVILEGE, READ_ONLY):
            raise
        return Canary(None, f"no canary row, as role {connection.user or 'of the session'} may not: {error.message}")
    return Canary(lines[-1])


def newest_canary(session: Session) -> Canary:
    """Return the newest canary row of a database."""
    if session.value("SELECT to_regclass('runbooks.canary') IS NULL"):
        return Canary(None, "the database has no table runbooks.canary")
    at = session.value(f"SELECT {_CANARY_AT.format('max(at)')} FROM runbooks.canary")
    return Canary(at, "" if at else "runbooks.canary has no rows")
