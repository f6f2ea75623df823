"""What a backup remembers of a database, on real servers of three versions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import backups_figures
from ansible.module_utils.backups_figures import (
    Difference,
    FiguresError,
    compare,
    ensure_canary,
    integrity,
    newest_canary,
    not_compared,
    read_figures,
    take_figures,
    wal_bytes,
)
from ansible.module_utils.runbook_psql import Connection, Session
from support.postgres import Server, wait_until

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = (ROOT / "roles/sandbox/files/sql/schema.sql").read_text(encoding="utf-8")
ROWS = """
INSERT INTO spans (span_id, trace_id, operation_name, start_time)
  SELECT 's' || i, 't' || i, 'chat', '2026-11-01T12:00:00Z'::timestamptz + i * interval '1 hour' FROM generate_series(1, 48) i;
INSERT INTO llm_metrics (span_id, model_name, provider, total_cost_usd, timestamp)
  SELECT span_id, 'm', 'p', 0.000123, start_time FROM spans;
INSERT INTO llm_usage_logs (model_name, total_cost_usd, timestamp) SELECT 'm', 0.5, '2026-11-01T23:30:00-02:00' FROM generate_series(1, 3);
INSERT INTO budget_usage (period_start, period_end, total_cost_usd) VALUES ('2026-11-01', '2026-11-30', 10.25);
INSERT INTO budget_rules (name, monthly_limit_usd) VALUES ('all', 100);
"""


@pytest.fixture
def tracker(server: Server, database: str) -> Iterator[str]:
    server.sql(f"SET search_path = public; {SCHEMA} {ROWS}", database)
    yield database


def figures_of(server: Server, database: str, **more: Any) -> dict[str, Any]:
    return read_figures(server.connection(database), **more).as_dict()


def test_wal_bytes_leave_page_headers_out() -> None:
    segment = 16 * 1024 * 1024
    assert wal_bytes("0/1000000", segment) - wal_bytes("0/0", segment) == 2048 * (8192 - 24) - 16
    assert wal_bytes("0/1000028", segment) == wal_bytes("0/1000000", segment)  # the long header of a segment
    assert wal_bytes("0/1002018", segment) == wal_bytes("0/1002000", segment)  # the short one of a page
    assert wal_bytes("0/1002020", segment) - wal_bytes("0/1001FF8", segment) == 16
    assert wal_bytes("1/0", segment) - wal_bytes("0/FF000000", segment) == 2048 * (8192 - 24) - 16


def test_figures_of_an_idle_server_are_exact(server: Server, tracker: str) -> None:
    # More than a page of restore points: those that cross a page header are exact too.
    taken = [take_figures(server.connection(tracker), "set", 3, count_seconds=60) for _ in range(8)]
    assert all(marked(server, tracker) for _ in range(90))
    one = taken[0].as_dict()
    assert (one["exact"], one["attempts"], one["restore_point"]) == (True, 1, "set-1")
    assert one["tables"]["public.spans"] == 48 and one["tables"]["public.budget_rules"] == 1
    assert one["costs"]["public.llm_metrics"]["2026-11-02"] == {"rows": 24, "sum": "0.002952"}
    assert one["costs"]["public.llm_usage_logs"] == {"2026-11-02": {"rows": 3, "sum": "1.500000"}}  # UTC
    assert one["costs"]["public.budget_usage"] == {"2026-11-01": {"rows": 1, "sum": "10.250000"}}
    assert one["sequences"]["public.budget_rules_id_seq"] == {"last_value": 1, "is_called": True, "increment": 1}
    assert one["extensions"] == {"plpgsql": "1.0"} and "postgres" in one["roles"]
    assert int(one["wal_file"][:8], 16) == one["timeline"] == 1
    assert one["settings"]["max_connections"] == "30" and one["settings"]["wal_segment_size"] == "16MB"
    assert int(one["system_identifier"]) > 0 and one["server_version_num"] // 10000 in (15, 16, 18)
    assert {"schema", "count", "restore_point"} <= set(one["phases"])


def marked(server: Server, database: str) -> bool:
    with Session(server.connection(database)) as session:
        exact, _ = backups_figures._mark(session, "mark")
        session.execute("ROLLBACK")
        return bool(exact)


def test_an_idle_transaction_does_not_take_exactness_away(server: Server, tracker: str) -> None:
    with Session(server.connection(tracker)) as writer:
        writer.execute("BEGIN; INSERT INTO public.budget_rules (name, monthly_limit_usd) VALUES ('mine', 1)")
        server.sql(
            "BEGIN; INSERT INTO public.budget_rules (name, monthly_limit_usd) VALUES ('two', 1); PREPARE TRANSACTION 'two'",
            tracker,
        )
        taken = take_figures(server.connection(tracker), "idle", 1)
        writer.execute("COMMIT")
        server.sql("ROLLBACK PREPARED 'two'", tracker)
    assert taken.exact and taken.tables["public.budget_rules"] == 1


class Meddled(Session):
    """A session during whose first two attempts somebody else writes between the LSN and the snapshot."""

    def __init__(self, connection: Connection, between: Callable[[], Any]) -> None:
        self.left, self.between = 2, between
        super().__init__(connection)

    def execute(self, sql: str, limit_seconds: float | None = None) -> list[str]:
        if "pg_create_restore_point(" not in sql or self.left == 0 or "BEGIN ISOLATION" not in sql:
            return super().execute(sql, limit_seconds)
        before, after = sql.split("BEGIN ISOLATION")
        super().execute(before, limit_seconds)
        self.left -= 1
        self.between()
        return super().execute(f"BEGIN ISOLATION{after}", limit_seconds)


def test_a_write_between_is_seen_and_the_mark_made_again(
    server: Server, tracker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def between() -> None:
        server.sql("INSERT INTO public.budget_rules (name, monthly_limit_usd) VALUES ('x', 1)", tracker)

    monkeypatch.setattr(backups_figures, "Session", lambda connection: Meddled(connection, between))
    taken = take_figures(server.connection(tracker), "meddled")
    assert (taken.exact, taken.attempts, taken.restore_point) == (True, 3, "meddled-3")
    assert taken.tables["public.budget_rules"] == 3
    last = take_figures(server.connection(tracker), "meddled", 2)
    assert (last.exact, last.attempts, last.restore_point) == (False, 2, "meddled-2")
    assert last.tables["public.budget_rules"] == 5 and "at each of 2 attempts" in last.notes[-1]


def test_a_commit_that_others_do_not_see_yet_is_not_called_exact(server: Server, tracker: str) -> None:
    # A commit that waits for a standby is in the WAL, and a recovery shows it, but no snapshot here does.
    server.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'; SELECT pg_reload_conf()")
    try:
        with Session(server.connection(tracker)) as writer:
            thread = threading.Thread(
                target=lambda: writer.execute(
                    "INSERT INTO public.budget_rules (name, monthly_limit_usd) VALUES ('mine', 1)"
                )
            )
            thread.start()
            wait_until(
                lambda: server.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == ["1"],
                "the commit waits for the standby",
            )
            taken = take_figures(server.connection(tracker), "waits", 1)
            server.sql("ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()")
            thread.join(30)
            assert not thread.is_alive()
    finally:
        server.sql("ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()")
    assert taken.tables["public.budget_rules"] == 1 and not taken.exact and "may show more" in taken.notes[-1]


def test_a_column_of_money_can_be_named_and_what_is_not_there_is_told(server: Server, tracker: str) -> None:
    server.sql(
        'CREATE TABLE public."My Bills" ("When" date, "EUR" real); '
        "INSERT INTO public.\"My Bills\" VALUES ('2026-01-02', 1.5), (NULL, 2)",
        tracker,
    )
    wanted = [
        {"table": "My Bills", "time_column": "When", "value_column": "EUR"},
        {"table": "invoices", "time_column": "at", "value_column": "usd"},
    ]
    one = figures_of(server, tracker, costs=wanted)
    assert one["costs"] == {
        'public."My Bills"': {"2026-01-02": {"rows": 1, "sum": "1.5"}, "none": {"rows": 1, "sum": "2"}}
    }
    assert one["tables"]['public."My Bills"'] == 2
    assert any(note.startswith("invoices with a time at") for note in one["notes"])


def test_a_table_that_takes_too_long_is_not_compared(server: Server, tracker: str) -> None:
    server.sql(
        "CREATE TABLE public.large AS SELECT generate_series(1, 4000000); CREATE UNLOGGED TABLE public.scratch (n int)",
        tracker,
    )
    one = figures_of(server, tracker, count_seconds=0.1)
    two = figures_of(server, tracker)
    assert one["tables"]["public.large"] is None and one["tables"]["public.spans"] == 48
    assert "public.large is not compared: counting it took longer than its time limit" in one["notes"]
    assert "public.scratch" not in one["tables"] and any("public.scratch is unlogged" in n for n in one["notes"])
    assert compare(one, two) == [] and not_compared(one, two) == ["public.large"]


def test_a_locked_table_does_not_hold_the_backup_up(server: Server, tracker: str) -> None:
    with Session(server.connection(tracker)) as other:
        other.execute("BEGIN; LOCK TABLE public.llm_metrics IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(FiguresError, match=r"was not read within 0.2 s: a table is locked"):
            read_figures(server.connection(tracker), count_seconds=0.2)


CHANGES = {
    "ALTER TABLE spans ALTER status_code SET DEFAULT 1": ["column public.spans.status_code"],
    "ALTER TABLE spans ALTER operation_name TYPE varchar(300)": ["column public.spans.operation_name"],
    "ALTER TABLE spans ALTER trace_id DROP NOT NULL": ["column public.spans.trace_id"],
    "CREATE INDEX extra ON spans (trace_id)": ["index public.extra"],
    "ALTER TABLE llm_metrics DROP CONSTRAINT llm_metrics_span_id_fkey": [
        "constraint public.llm_metrics.llm_metrics_span_id_fkey"
    ],
    "CREATE VIEW v AS SELECT 1 AS one": ["column public.v.one", "view public.v"],
    "CREATE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'": ["function public.f(integer)"],
    "GRANT SELECT ON spans TO PUBLIC": ["table public.spans"],
    "ALTER SEQUENCE budget_rules_id_seq INCREMENT 2": ["sequence public.budget_rules_id_seq"],
    "CREATE TYPE mood AS ENUM ('a', 'b')": ["type public.mood"],
    "CREATE POLICY p ON spans USING (true)": ["policy public.spans.p"],
    "CREATE SCHEMA other": ["schema other"],
    "CREATE RULE r AS ON DELETE TO spans DO INSTEAD NOTHING": ["rule public.spans.r"],
    "CREATE STATISTICS st ON trace_id, span_id FROM spans": ["statistics public.st"],
}


def test_every_change_of_the_schema_is_named(server: Server, tracker: str) -> None:
    before = figures_of(server, tracker)
    with Session(server.connection(tracker)) as session:
        for change, objects in CHANGES.items():
            session.execute(f"BEGIN; SET LOCAL search_path = public; {change}; SET LOCAL search_path = pg_catalog")
            now = {
                f"{r['kind']} {r['name']}": backups_figures._short(r["definition"])
                for r in backups_figures.schema_objects(session)
            }
            session.execute("ROLLBACK")
            changed = [d.subject for d in backups_figures._compare_names("schema", before["objects"], now)]
            assert changed == objects, change


def test_the_same_schema_made_in_another_order_is_the_same(server: Server, database: str) -> None:
    made = [
        "CREATE TABLE public.a (n int, m text)",
        "CREATE TABLE public.b (n int PRIMARY KEY)",
        "CREATE INDEX i ON public.a (n)",
        "GRANT SELECT ON public.a TO pg_monitor",
        "GRANT INSERT ON public.a TO pg_read_all_data",
    ]
    prints = []
    for order in (made, [made[1], "CREATE TABLE public.a (gone int, m text, n int)", *made[:1:-1]]):
        server.sql("DROP TABLE IF EXISTS public.a, public.b", database)
        for statement in order:
            server.sql(statement, database)
        server.sql("ALTER TABLE public.a DROP COLUMN IF EXISTS gone", database)
        prints.append(figures_of(server, database)["schema"])
    assert prints[0] == prints[1]


def test_compare_names_what_is_gone(server: Server, tracker: str) -> None:
    before = figures_of(server, tracker)
    assert compare(before, figures_of(server, tracker)) == []
    server.sql(
        "DELETE FROM public.budget_rules; UPDATE public.llm_metrics SET total_cost_usd = 0 WHERE span_id = 's48'; "
        "SELECT setval('public.llm_usage_logs_id_seq', 1)",
        tracker,
    )
    found = compare(
        {**before, "roles": ["postgres", "gone"], "extensions": {"plpgsql": "9"}}, figures_of(server, tracker)
    )
    assert found == [
        Difference("rows", "public.budget_rules", 1, 0),
        Difference(
            "costs", "public.llm_metrics 2026-11-03", {"rows": 13, "sum": "0.001599"}, {"rows": 13, "sum": "0.001476"}
        ),
        Difference("sequence", "public.llm_usage_logs_id_seq", 3, 1),
        Difference("extension", "plpgsql", "9", "1.0"),
        Difference("role", "gone", "present", None),
    ]


def test_compare_without_exactness_takes_more_for_good_and_less_for_lost(server: Server, tracker: str) -> None:
    before = {**figures_of(server, tracker), "exact": False}
    server.sql("INSERT INTO public.llm_usage_logs (model_name, total_cost_usd) VALUES ('m', 1)", tracker)
    after = figures_of(server, tracker)
    assert compare(before, after) == []
    assert {d.kind for d in compare(before, after, exact=True)} == {"rows", "costs"}
    assert {d.subject.split()[0] for d in compare(after, {**before, "exact": True}, exact=False)} == {
        "public.llm_usage_logs",
        "public.llm_usage_logs_id_seq",
    }


def test_compare_names_a_table_that_is_gone_and_one_that_came(server: Server, tracker: str) -> None:
    before = figures_of(server, tracker)
    server.sql("DROP TABLE public.user_sessions; CREATE TABLE public.new (n int)", tracker)
    found = compare(before, figures_of(server, tracker))
    assert Difference("rows", "public.user_sessions", 0, None) in found
    assert Difference("rows", "public.new", None, 0) in found
    assert "table public.user_sessions" in {d.subject for d in found}


def test_integrity_of_sound_data_finds_nothing(server: Server, tracker: str) -> None:
    server.sql(KEYS, tracker)
    with Session(server.connection(tracker)) as session:
        assert integrity(session, 60) == []


# Keys over partitions, with NULLs, and between partitioned tables; nothing in them is an orphan.
KEYS = """
SET search_path = public;
CREATE TABLE parent (a int, "B" text, PRIMARY KEY (a, "B")) PARTITION BY RANGE (a);
CREATE TABLE parent_1 PARTITION OF parent FOR VALUES FROM (0) TO (100);
CREATE TABLE parent_2 PARTITION OF parent FOR VALUES FROM (100) TO (200);
CREATE TABLE simple (n int, a int, b text, FOREIGN KEY (a, b) REFERENCES parent) PARTITION BY LIST (n);
CREATE TABLE simple_1 PARTITION OF simple FOR VALUES IN (1);
CREATE TABLE whole (a int, b text, FOREIGN KEY (a, b) REFERENCES parent MATCH FULL);
INSERT INTO parent VALUES (1, 'x'), (150, 'y');
INSERT INTO simple VALUES (1, 1, 'x'), (1, 150, 'y'), (1, 7, NULL), (1, NULL, NULL);
INSERT INTO whole VALUES (1, 'x'), (NULL, NULL);
CREATE TABLE down (id int GENERATED BY DEFAULT AS IDENTITY (INCREMENT -1));
INSERT INTO down DEFAULT VALUES;
"""


def test_integrity_finds_orphans_low_sequences_and_invalid_indexes(server: Server, tracker: str) -> None:
    server.sql(
        f"{KEYS} SET session_replication_role = replica; DELETE FROM parent WHERE a = 150; "
        "INSERT INTO whole VALUES (9, NULL); DELETE FROM spans WHERE span_id IN ('s1', 's2'); "
        "INSERT INTO budget_rules (id, name, monthly_limit_usd) VALUES (9, 'nine', 1); INSERT INTO down VALUES (-7); "
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'spans_pkey'::regclass",
        tracker,
    )
    with Session(server.connection(tracker)) as session:
        found = {(p.kind, p.subject): p for p in integrity(session, 60)}
    assert {key: p.count for key, p in found.items()} == {
        ("orphans", "public.llm_metrics.llm_metrics_span_id_fkey"): 2,
        ("orphans", "public.simple.simple_a_b_fkey"): 1,
        ("orphans", "public.whole.whole_a_b_fkey"): 1,
        ("sequence", "public.budget_rules_id_seq"): 1,
        ("sequence", "public.down_id_seq"): 1,
        ("index", "public.spans_pkey"): 1,
    }
    low = found["sequence", "public.budget_rules_id_seq"]
    assert low.text == "the next number is 2, but public.budget_rules.id is at 9"


def test_a_key_over_time_is_looked_at_too(server: Server, database: str) -> None:
    if int(server.sql("SELECT current_setting('server_version_num')")[0]) < 180000:
        statement = "SELECT 1"
    else:
        statement = """
            CREATE TABLE public.rates (id int4range, valid daterange, PRIMARY KEY (id, valid WITHOUT OVERLAPS));
            CREATE TABLE public.used (id int4range, valid daterange,
              CONSTRAINT k FOREIGN KEY (id, PERIOD valid) REFERENCES public.rates (id, PERIOD valid));
            INSERT INTO public.rates VALUES ('[1,1]', '[2026-01-01,2026-02-01)'), ('[1,1]', '[2026-02-01,2026-03-01)');
            INSERT INTO public.used VALUES ('[1,1]', '[2026-01-15,2026-02-15)');
            SET session_replication_role = replica;
            INSERT INTO public.used VALUES ('[1,1]', '[2026-02-15,2026-03-15)');
        """
    server.sql(statement, database)
    with Session(server.connection(database)) as session:
        assert [(p.subject, p.count) for p in integrity(session)] == (
            [] if "k" not in statement else [("public.used.k", 1)]
        )


def test_the_canary_keeps_its_newest_rows(server: Server, database: str) -> None:
    connection = server.connection(database)
    with Session(connection) as session:
        assert newest_canary(session).note == "the database has no table runbooks.canary"
        first = ensure_canary(connection, "drill's")
        session.execute(
            "INSERT INTO runbooks.canary SELECT now() - i * interval '1 s', 'old' FROM generate_series(1, 150) i"
        )
        last = ensure_canary(connection)
        assert first.at and last.at and first.at < last.at == newest_canary(session).at
        kept = session.rows(
            "SELECT count(*) AS n, count(*) FILTER (WHERE drill = 'drill''s') AS mine FROM runbooks.canary"
        )
    assert kept == [{"n": 100, "mine": 1}]


def test_roles_that_may_not_are_told_so(server: Server, database: str) -> None:
    server.sql("DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN")
    connection = server.connection(database, "reader")
    told = ensure_canary(connection)
    assert told.at is None and told.note.startswith("no canary row, as role reader may not: permission denied")
    with pytest.raises(FiguresError, match=r"role reader may not .*: GRANT EXECUTE .* TO reader"):
        take_figures(connection, "x")
    with pytest.raises(FiguresError, match="use a shorter name"):
        take_figures(server.connection(database), "x" * 62)
