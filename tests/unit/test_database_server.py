"""The database maintenance against real servers of three major versions, each case worn by SQL."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils import database_catalog as catalog
from ansible.module_utils.database_planner import Limits
from ansible.module_utils.database_work import Job, Maintenance, Refused, Result
from ansible.module_utils.runbook_checks import run_command
from ansible.module_utils.runbook_psql import PsqlUnreachable, Session
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from support.postgres import Server, wait_until

pytestmark = pytest.mark.server
TESTS = Path(__file__).resolve().parent.parent
STEPS = ("retention", "redact", "views", "vacuum", "indexes")
SMALL = Limits(index_bloat_min_bytes=100_000)


class World:
    """One database and the maintenance job for it."""

    def __init__(self, server: Server, database: str, memory: Path) -> None:
        self.server, self.database = server, database
        self.job = Job(server.connection(database), SMALL, memory)

    def sql(self, text: str) -> list[str]:
        return self.server.sql(text, self.database)

    def value(self, text: str) -> str:
        return self.sql(text)[0]

    def change(self, **fields: Any) -> None:
        self.job = dataclasses.replace(self.job, **fields)

    def limit(self, **fields: Any) -> None:
        self.change(limits=dataclasses.replace(self.job.limits, **fields))

    def as_user(self, user: str) -> None:
        self.change(connection=self.server.connection(self.database, user))

    def plan(self) -> Result:
        with Maintenance(self.job) as maintenance:
            return maintenance.plan(remember=True)

    def step(self, step: str) -> Result:
        with Maintenance(self.job) as maintenance:
            return getattr(maintenance, step)()

    def run(self) -> Result:
        """Plan, carry out all steps, and return their findings and actions as one."""
        done = Result()
        for step in STEPS:
            result = self.step(step)
            done.actions += result.actions
            done.findings += result.findings
        return done

    def catalog(self) -> list[str]:
        """A fingerprint of the catalogs and of every table's rows."""
        sums = self.sql(
            "SELECT md5(string_agg(c::text, ',' ORDER BY oid)) FROM pg_class c; "
            "SELECT md5(string_agg(c::text, ',' ORDER BY indexrelid)) FROM pg_index c; "
            "SELECT count(*) FROM pg_statistic"
        )
        counts = self.sql(
            "SELECT format('SELECT count(*) FROM %I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'public'"
        )
        return sums + [self.value(count) for count in counts]


@pytest.fixture
def world(server: Server, database: str, tmp_path: Path) -> World:
    return World(server, database, tmp_path)


def planned(result: Result) -> list[tuple[str, str]]:
    return [(a["step"], a["subject"]) for a in result.actions]


def ids(result: Result) -> list[str]:
    return [f["id"] for f in result.findings]


def only(result: Result, id: str) -> dict[str, Any]:
    found = [f for f in result.findings if f["id"] == id]
    assert len(found) == 1, f"{id} in {ids(result)}"
    return found[0]


LOGS = """
CREATE TABLE logs (id serial PRIMARY KEY, at timestamptz NOT NULL, prompt text, cost numeric);
INSERT INTO logs (at, prompt, cost) SELECT now() - n * interval '1 hour', repeat('p', 100), 1 FROM generate_series(1, 4800) n;
CREATE INDEX logs_at ON logs (at);
ANALYZE logs;
"""
KEEP = [{"table": "logs", "time_column": "at", "keep_days": 90}]


def worn(world: World) -> None:
    world.sql(
        LOGS
        + """
        CREATE TABLE busy (id int PRIMARY KEY, v text);
        INSERT INTO busy SELECT n, repeat('x', 50) FROM generate_series(1, 20000) n;
        CREATE INDEX busy_v ON busy (v, id);
        ANALYZE busy;
        DELETE FROM busy WHERE id % 4 <> 0;
        CREATE MATERIALIZED VIEW sums AS SELECT at::date AS day, sum(cost) AS cost FROM logs GROUP BY 1;
        CREATE UNIQUE INDEX ON sums (day);
        CREATE TABLE quiet (id int); INSERT INTO quiet VALUES (1); ANALYZE quiet;
        """
    )
    leave_invalid_index(world, "busy_v")


def leave_invalid_index(world: World, index: str, base: str = "busy") -> None:
    """Leave what a cancelled REINDEX CONCURRENTLY leaves: wait for its _ccnew, then cancel it."""
    with Session(world.job.connection) as holder:
        holder.execute(
            f"SET idle_in_transaction_session_timeout = 0; BEGIN; LOCK TABLE public.{base} IN ROW EXCLUSIVE MODE"
        )
        thread = threading.Thread(target=lambda: _reindex(world, index))
        thread.start()
        wait_until(lambda: world.sql("SELECT 1 FROM pg_class WHERE relname LIKE '%\\_ccnew%'"), "the build has begun")
        wait_until(
            lambda: world.sql(
                "SELECT 1 WHERE (SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'REINDEX%' LIMIT 1)"
            ),
            "the build is cancelled",
        )
        thread.join()
        holder.execute("ROLLBACK")


def _reindex(world: World, index: str) -> None:
    try:
        world.sql(f"REINDEX INDEX CONCURRENTLY {index}")
    except Exception as error:
        assert "cancel" in str(error)


def test_a_worn_database_is_healed_and_the_second_run_has_nothing_to_do(world: World) -> None:
    worn(world)
    world.change(
        retention=KEEP, redact=[{"table": "logs", "time_column": "at", "columns": ["prompt"], "after_days": 30}]
    )
    plan = world.plan()
    assert ("retention", "public.logs") in planned(plan)
    assert ("redact", "public.logs") in planned(plan)
    assert ("views", "public.sums") in planned(plan)
    assert ("vacuum", "public.busy") in planned(plan)
    assert ("indexes", "public.busy_v_ccnew") in planned(plan)
    assert not any("quiet" in subject for _, subject in planned(plan))
    done = world.run()
    assert {a["result"] for a in done.actions} == {"done"}
    assert ("indexes", "public.busy_v") in planned(done), "bloat shows once vacuum has emptied the pages"
    assert done.findings == []
    assert world.value("SELECT count(*) FROM logs WHERE at < now() - interval '91 days'") == "0"
    assert world.value("SELECT count(*) FROM logs WHERE at < now() - interval '31 days' AND prompt IS NOT NULL") == "0"
    assert world.value("SELECT count(*) FROM logs WHERE at > now() - interval '29 days' AND prompt IS NULL") == "0"
    assert world.value("SELECT sum(cost) = count(*) FROM logs") == "t"
    assert world.value("SELECT sum(cost) FROM sums") == world.value("SELECT sum(cost) FROM logs")
    assert world.value("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == "0"
    again = world.run()
    assert again.actions == []
    assert world.plan().actions == []


def test_planning_leaves_catalogs_and_data_as_they_were(world: World) -> None:
    worn(world)
    world.change(retention=KEEP)
    before = world.catalog()
    assert world.plan().actions
    assert world.catalog() == before


def test_rows_that_arrive_during_retention_are_kept(world: World) -> None:
    world.sql(LOGS)
    world.change(retention=KEEP)
    done = threading.Event()
    errors: list[Exception] = []

    def write() -> None:
        with Session(world.job.connection) as session:
            while not done.is_set():
                try:
                    session.execute(
                        "INSERT INTO public.logs (at, cost) VALUES (now(), 7), (now() - interval '200 days', 8)"
                    )
                except Exception as error:
                    errors.append(error)
                    return

    writer = threading.Thread(target=write)
    writer.start()
    wait_until(lambda: world.value("SELECT count(*) FROM logs WHERE cost = 7") != "0", "the writer writes")
    result = world.step("retention")
    done.set()
    writer.join()
    assert not errors
    assert result.actions[0]["result"] == "done"
    assert world.value("SELECT count(*) >= 1 FROM logs WHERE cost = 7") == "t"
    assert world.value("SELECT count(*) FROM logs WHERE cost = 1 AND at < now() - interval '91 days'") == "0"


def test_a_parent_is_kept_while_a_younger_child_refers_to_it(world: World) -> None:
    world.sql(
        """
        CREATE TABLE spans (id int PRIMARY KEY, started timestamptz NOT NULL);
        CREATE TABLE metrics (id int PRIMARY KEY, span_id int UNIQUE REFERENCES spans, at timestamptz NOT NULL);
        CREATE INDEX ON spans (started); CREATE INDEX ON metrics (at);
        INSERT INTO spans SELECT n, now() - interval '100 days' FROM generate_series(1, 50) n;
        INSERT INTO metrics SELECT n, n, CASE WHEN n <= 10 THEN now() ELSE now() - interval '100 days' END FROM generate_series(1, 40) n;
        """
    )
    # The parent is named first on purpose: the order is ours to find.
    world.change(
        retention=[
            {"table": "spans", "time_column": "started", "keep_days": 90},
            {"table": "metrics", "time_column": "at", "keep_days": 90},
        ]
    )
    plan = world.plan()
    assert [(a["subject"], a["number"]) for a in plan.actions if a["step"] == "retention"] == [
        ("public.metrics", 30),
        ("public.spans", 40),
    ]
    kept = only(plan, "retention-kept")
    assert kept["observed"] == "10 rows" and kept["subject"] == "public.spans"
    world.run()
    assert world.value("SELECT count(*) FROM spans") == "10"
    assert world.value("SELECT count(*) FROM metrics") == "10"
    assert world.plan().actions == []


def test_partitions_with_partitions_are_dropped_and_a_default_one_has_its_own_rule(world: World) -> None:
    world.sql(
        """
        CREATE TABLE parts (at timestamptz NOT NULL, k int) PARTITION BY RANGE (at);
        CREATE TABLE parts_old PARTITION OF parts FOR VALUES FROM ('2020-01-01') TO ('2021-01-01') PARTITION BY LIST (k);
        CREATE TABLE parts_old_1 PARTITION OF parts_old FOR VALUES IN (1);
        CREATE TABLE parts_old_2 PARTITION OF parts_old DEFAULT;
        CREATE TABLE parts_rest PARTITION OF parts DEFAULT;
        CREATE INDEX ON parts (at);
        INSERT INTO parts SELECT '2020-01-02'::timestamptz + n * interval '1 day', n % 3 FROM generate_series(1, 300) n;
        INSERT INTO parts SELECT now() - n * interval '1 day', 1 FROM generate_series(51, 150) n;
        """
    )
    rule = {"time_column": "at", "keep_days": 100}
    world.change(retention=[{"table": "parts", **rule}])
    plan = world.plan()
    assert [a["subject"] for a in plan.actions if a["step"] == "retention"] == ["public.parts_old"]
    kept = only(plan, "retention-kept")
    assert kept["subject"] == "public.parts_rest" and kept["observed"].split()[0] in ("50", "51")
    world.run()
    assert world.value("SELECT count(*) FROM pg_class WHERE relname LIKE 'parts_old%' AND relkind <> 'i'") == "0"
    world.change(retention=[{"table": "parts", **rule}, {"table": "parts_rest", **rule}])
    world.run()
    assert world.value("SELECT count(*) FROM parts WHERE at < now() - interval '101 days'") == "0"
    assert world.plan().actions == [] and "retention-kept" not in ids(world.plan())


@pytest.mark.parametrize("family", ["partitions", "inheritance"])
def test_rows_at_the_same_place_in_another_part_stay(world: World, family: str) -> None:
    """A ctid is only unique within one table, and a parent has several."""
    world.sql(
        """
        CREATE TABLE parts (k text NOT NULL, n int, at timestamptz NOT NULL, prompt text) PARTITION BY LIST (k);
        CREATE TABLE parts_old PARTITION OF parts FOR VALUES IN ('old');
        CREATE TABLE parts_new PARTITION OF parts DEFAULT;
        """
        if family == "partitions"
        else """
        CREATE TABLE parts (k text NOT NULL, n int, at timestamptz NOT NULL, prompt text);
        CREATE TABLE parts_old () INHERITS (parts);
        CREATE TABLE parts_new () INHERITS (parts);
        """
    )
    world.sql(
        """
        CREATE INDEX ON parts (at); CREATE INDEX ON parts_old (at); CREATE INDEX ON parts_new (at);
        INSERT INTO parts_old SELECT 'old', n, now() - interval '50 days' - n * interval '1 hour', 'p' FROM generate_series(1, 2000) n;
        INSERT INTO parts_new SELECT 'new', n, now(), 'p' FROM generate_series(1, 2000) n;
        ANALYZE
        """
    )
    world.change(
        retention=[{"table": "parts", "time_column": "at", "keep_days": 90}],
        redact=[{"table": "parts", "time_column": "at", "columns": ["prompt"], "after_days": 40}],
    )
    due = {a["step"]: a["number"] for a in world.plan().actions}
    result = world.run()
    for action in result.actions:
        if action["step"] in ("retention", "redact"):
            assert (action["result"], action["detail"].split()[0]) == ("done", str(due[action["step"]]))
    assert world.value("SELECT count(*) FROM parts WHERE k = 'new' AND prompt = 'p'") == "2000"
    assert world.value("SELECT count(*) FROM parts WHERE k = 'old' AND prompt IS NULL") == str(due["redact"])
    assert world.value("SELECT count(*) FROM parts") == str(2000 + due["redact"])
    assert world.plan().actions == []


def test_expired_partitions_are_dropped_and_a_half_dropped_one_is_finished(world: World) -> None:
    world.sql(
        """
        CREATE TABLE parts (at timestamptz NOT NULL, v int) PARTITION BY RANGE (at);
        DO $$BEGIN FOR i IN 0..5 LOOP
          EXECUTE format('CREATE TABLE parts_%s PARTITION OF parts FOR VALUES FROM (%L) TO (%L)', i,
            date_trunc('day', now()) - (i + 1) * interval '30 days', date_trunc('day', now()) - i * interval '30 days');
        END LOOP; END$$;
        CREATE INDEX ON parts (at);
        INSERT INTO parts SELECT now() - n * interval '1 day', n FROM generate_series(1, 170) n;
        """
    )
    world.change(retention=[{"table": "parts", "time_column": "at", "keep_days": 60}])
    plan = [a["subject"] for a in world.plan().actions if a["step"] == "retention"]
    assert plan == ["public.parts_2", "public.parts_3", "public.parts_4", "public.parts_5"]
    # As a run that was killed between detaching and dropping leaves it:
    oid = world.value("SELECT 'parts_5'::regclass::oid::bigint")
    with Maintenance(world.job) as maintenance:
        maintenance._remember("detaching", "public.parts_5", {"oid": int(oid), "parent": "public.parts"})
    world.sql("ALTER TABLE parts DETACH PARTITION parts_5")
    assert "public.parts_5" in [a["subject"] for a in world.plan().actions]
    world.run()
    assert (
        world.value("SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class WHERE relname LIKE 'parts\\__'")
        == "parts_0,parts_1"
    )
    assert world.plan().actions == []


@pytest.mark.parametrize(
    ("schema", "retention", "message"),
    [
        ("", {"table": "nowhere", "time_column": "at", "keep_days": 9}, "there is no table 'nowhere'"),
        ("", {"table": "logs", "time_column": "when", "keep_days": 9}, "has no column 'when'; it has id, at"),
        ("", {"table": "logs", "time_column": "prompt", "keep_days": 9}, "is of type text, not a date or timestamp"),
        (
            "",
            {"table": "logs", "time_column": "at", "keep_days": 0},
            "keep_days is 0; it must be a whole number of days, 1 or more",
        ),
        ("", {"table": "logs", "time_column": "at", "keep_days": -3}, "keep_days is -3"),
        ("", {"table": "logs", "time_column": "at", "keep_days": True}, "keep_days is True"),
        ("DROP INDEX logs_at", {"table": "logs", "time_column": "at", "keep_days": 9}, "has no index"),
        (
            "CREATE DOMAIN word AS text; ALTER TABLE logs ADD w word",
            {"table": "logs", "time_column": "w", "keep_days": 9},
            "is of type text, not a date or timestamp",
        ),
        (
            "CREATE SCHEMA other; CREATE TABLE other.logs (at timestamptz)",
            {"table": "logs", "time_column": "at", "keep_days": 9},
            "ambiguous",
        ),
        (
            "ALTER TABLE logs ADD parent int REFERENCES logs",
            {"table": "logs", "time_column": "at", "keep_days": 9},
            "refers to itself",
        ),
        (
            "CREATE TABLE child (log int REFERENCES logs)",
            {"table": "logs", "time_column": "at", "keep_days": 9},
            "public.child refers to it",
        ),
        ("CREATE VIEW v AS SELECT * FROM logs", {"table": "v", "time_column": "at", "keep_days": 9}, "is no table"),
    ],
)
def test_retention_refuses_a_rule_it_cannot_carry_out(
    world: World, schema: str, retention: dict[str, Any], message: str
) -> None:
    world.sql(LOGS + schema)
    world.change(retention=[retention])
    with pytest.raises(Refused, match="database_retention") as refused:
        world.plan()
    assert message in str(refused.value) and refused.value.outcome == "bad_input"
    assert world.value("SELECT count(*) FROM logs") == "4800"


def test_retention_refuses_a_circle_of_foreign_keys(world: World) -> None:
    world.sql(
        """
        CREATE TABLE a (id int PRIMARY KEY, at timestamptz, b int); CREATE TABLE b (id int PRIMARY KEY, at timestamptz, a int REFERENCES a);
        ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b;
        CREATE INDEX ON a (at); CREATE INDEX ON b (at); CREATE INDEX ON a (b); CREATE INDEX ON b (a);
        """
    )
    world.change(retention=[{"table": t, "time_column": "at", "keep_days": 9} for t in ("a", "b")])
    with pytest.raises(Refused, match="in a circle"):
        world.plan()


@pytest.mark.parametrize(
    ("columns", "message"),
    [([], "columns is empty"), (["nope"], "has no column 'nope'"), (["id"], "is NOT NULL and of type integer")],
)
def test_redaction_refuses_columns_it_cannot_empty(world: World, columns: list[str], message: str) -> None:
    world.sql(LOGS)
    world.change(redact=[{"table": "logs", "time_column": "at", "columns": columns, "after_days": 9}])
    with pytest.raises(Refused) as refused:
        world.plan()
    assert message in str(refused.value)


def test_redaction_knows_generated_columns_and_domains(world: World) -> None:
    world.sql(
        """
        CREATE DOMAIN word AS text; CREATE DOMAIN sure AS word NOT NULL; CREATE DOMAIN moment AS timestamptz;
        CREATE TABLE notes (at moment, w sure, loud text GENERATED ALWAYS AS (upper(w)) STORED);
        INSERT INTO notes SELECT now() - n * interval '1 day', 'secret' FROM generate_series(1, 20) n;
        CREATE INDEX ON notes (at)
        """
    )
    rule = {"table": "notes", "time_column": "at", "after_days": 9}
    world.change(redact=[{**rule, "columns": ["loud"]}])
    with pytest.raises(Refused, match="loud is generated from other columns"):
        world.plan()
    world.change(redact=[{**rule, "columns": ["w"]}])
    done = world.step("redact").actions[0]
    assert (done["result"], done["after"]) == ("done", 0)
    assert (
        world.value("SELECT count(*) FROM notes WHERE at < now() - interval '11 days' AND (w <> '' OR loud <> '')")
        == "0"
    )
    assert world.step("redact").actions == []


def test_views_of_foreign_tables_are_refreshed_when_they_are_old(world: World) -> None:
    world.sql(
        """
        CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER afar FOREIGN DATA WRAPPER nowhere;
        CREATE FOREIGN TABLE rates (id int) SERVER afar;
        CREATE MATERIALIZED VIEW far AS SELECT * FROM rates WITH NO DATA;
        CREATE TABLE near_by (id int);
        CREATE MATERIALIZED VIEW near AS SELECT * FROM near_by
        """
    )
    with Maintenance(world.job) as maintenance:
        told = {v["ident"]: v["foreign_source"] for v in catalog.views(maintenance.session)}
    assert told == {"public.far": True, "public.near": False}


def test_a_table_whose_name_and_schema_have_dots_is_found(world: World) -> None:
    world.sql(
        """
        CREATE SCHEMA "a.b"; CREATE TABLE "a.b"."t.1" ("Time Col" timestamptz);
        INSERT INTO "a.b"."t.1" SELECT now() - n * interval '1 day' FROM generate_series(1, 20) n;
        CREATE INDEX ON "a.b"."t.1" ("Time Col")
        """
    )
    for name in ("t.1", "a.b.t.1"):
        world.change(retention=[{"table": name, "time_column": "Time Col", "keep_days": 9}])
        assert ("retention", '"a.b"."t.1"') in planned(world.plan())


def test_an_analyze_that_fails_is_told_and_not_tried_again_at_once(world: World) -> None:
    world.sql(
        """
        CREATE FUNCTION moody(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
          $$BEGIN IF current_setting('moody.off', true) = 'yes' THEN RETURN $1; END IF; RAISE 'not today'; END$$;
        CREATE TABLE t (id int); SET moody.off = 'yes'; INSERT INTO t SELECT generate_series(1, 5000);
        CREATE INDEX ON t (moody(id))
        """
    )
    failed = world.step("vacuum")
    assert failed.actions[0]["result"] == "failed"
    assert "Cure what the message names" in only(failed, "not-finished")["remedy"]
    plan = world.plan()
    assert planned(plan) == [] and only(plan, "failed-before")["observed"] == "not today"
    world.limit(freeze_percent=0)
    assert ("vacuum", "public.t") in planned(world.plan()), "wraparound does not wait"


def test_an_open_transaction_blocks_vacuum_and_rebuilds_but_not_the_rest(world: World) -> None:
    worn(world)
    world.change(retention=KEEP)
    world.limit(horizon_max_age_seconds=0.2)
    with Session(world.job.connection) as holder:
        holder.execute(
            "SET idle_in_transaction_session_timeout = 0; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM public.busy"
        )
        wait_until(lambda: "horizon-held" in ids(world.plan()), "the transaction is old enough")
        plan = world.plan()
        assert (
            "session" in only(plan, "horizon-held")["subject"]
            and "pg_terminate_backend" in only(plan, "horizon-held")["remedy"]
        )
        assert ("retention", "public.logs") in planned(plan)
        assert not [s for s, _ in planned(plan) if s in ("indexes", "views")]
        assert not [a for a in plan.actions if "VACUUM" in a["detail"]]
        assert ("retention", "public.logs") in planned(world.run())
        holder.execute("ROLLBACK")
    assert ("vacuum", "public.busy") in planned(world.plan())


def test_prepared_transactions_and_slots_that_hold_the_horizon_are_named(world: World) -> None:
    world.sql("CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
    gid = f"forgotten-{world.database}"
    world.sql(f"BEGIN; UPDATE t SET id = 2; PREPARE TRANSACTION '{gid}'")
    world.limit(horizon_max_age_seconds=0.1)
    try:
        wait_until(lambda: "horizon-held" in ids(world.plan()), "the prepared transaction is old enough")
        assert gid in only(world.plan(), "horizon-held")["subject"]
    finally:
        world.sql(f"ROLLBACK PREPARED '{gid}'")
    assert "horizon-held" not in ids(world.plan())


def test_a_locked_table_is_reported_and_the_others_are_done(world: World) -> None:
    worn(world)
    world.sql(
        "CREATE TABLE held (id int); INSERT INTO held SELECT generate_series(1, 1000); ANALYZE held; DELETE FROM held WHERE id > 10"
    )
    with Session(world.job.connection) as holder:
        holder.execute(
            "SET idle_in_transaction_session_timeout = 0; BEGIN; LOCK TABLE public.held IN SHARE UPDATE EXCLUSIVE MODE"
        )
        result = world.step("vacuum")
        by_subject = {a["subject"]: a["result"] for a in result.actions}
        assert by_subject["public.held"] == "skipped" and by_subject["public.busy"] == "done"
        finding = only(result, "not-finished")
        assert finding["subject"] == "public.held" and "locked by another session: session" in finding["observed"]
        holder.execute("ROLLBACK")
    assert {a["result"] for a in world.step("vacuum").actions} == {"done"}


def test_a_view_whose_readers_hold_it_is_left_after_short_tries(world: World) -> None:
    worn(world)
    with Session(world.job.connection) as holder:
        holder.execute(
            "SET idle_in_transaction_session_timeout = 0; BEGIN; REFRESH MATERIALIZED VIEW CONCURRENTLY public.sums"
        )
        started = time.monotonic()
        result = world.step("views")
        assert time.monotonic() - started < 30
        assert result.actions[0]["result"] == "skipped" and only(result, "not-finished")["subject"] == "public.sums"
        holder.execute("ROLLBACK")
    assert world.step("views").actions[0]["result"] == "done"


def test_a_read_only_role_changes_nothing_and_is_told_the_grants(world: World) -> None:
    worn(world)
    user = f"reader_{world.database}"
    world.sql(f"CREATE ROLE {user} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}")
    world.change(retention=KEEP)
    world.as_user(user)
    before = world.catalog()
    plan = world.plan()
    assert plan.actions == []
    grants = {f["subject"]: f["remedy"] for f in plan.findings if f["id"] == "grant-missing"}
    assert grants["public.logs"] == f"GRANT UPDATE, DELETE ON public.logs TO {user};"
    assert grants["pg_monitor"] == f"GRANT pg_monitor TO {user};"
    assert "GRANT" in grants["maintain"]
    assert grants["indexes"] == f"GRANT postgres TO {user};"
    assert "GRANT" in grants["views"]
    assert world.run().actions == []
    assert world.catalog() == before
    world.sql(
        f"REASSIGN OWNED BY {user} TO postgres; DROP OWNED BY {user}; GRANT pg_monitor TO {user}; GRANT SELECT, UPDATE, DELETE ON logs TO {user}"
    )
    plan = world.plan()
    assert "pg_monitor" not in [f["subject"] for f in plan.findings if f["id"] == "grant-missing"]
    assert ("retention", "public.logs") in planned(plan)
    assert world.step("retention").actions[0]["result"] == "done"
    world.as_user("postgres")
    world.sql(f"DROP OWNED BY {user}; DROP ROLE {user}")


def test_a_role_that_does_not_inherit_is_told_a_grant_that_helps(world: World) -> None:
    owner, user = f"owner_{world.database}", f'Odd "Role {world.database}'
    quoted = '"' + user.replace('"', '""') + '"'
    world.sql(f"CREATE ROLE {owner}; CREATE ROLE {quoted} LOGIN NOINHERIT; GRANT {owner}, pg_monitor TO {quoted}")
    world.sql(f"GRANT CREATE ON SCHEMA public TO {owner}")
    world.sql(f"SET ROLE {owner}; CREATE TABLE mine (id int); INSERT INTO mine SELECT generate_series(1, 5000)")
    world.as_user(user)
    plan = world.plan()
    assert plan.actions == []
    for item in plan.findings:
        if item["id"] == "grant-missing":
            world.sql(item["remedy"])
    plan = world.plan()
    assert "grant-missing" not in ids(plan) and planned(plan) == [("vacuum", "public.mine")]
    assert world.step("vacuum").actions[0]["result"] == "done"
    world.as_user("postgres")
    world.sql(f"DROP OWNED BY {owner}, {quoted}; DROP ROLE {owner}, {quoted}")


def test_rows_that_the_role_cannot_see_are_told_with_the_grant(world: World) -> None:
    user = f"blind_{world.database}"
    world.sql(
        LOGS
        + f"""
        CREATE TABLE notes (id int, log_id int REFERENCES logs (id));
        CREATE INDEX ON notes (log_id);
        INSERT INTO notes SELECT id, id FROM logs ORDER BY at LIMIT 10;
        CREATE ROLE {user} LOGIN;
        GRANT pg_monitor TO {user};
        GRANT SELECT, UPDATE, DELETE ON logs TO {user}
        """
    )
    world.change(retention=KEEP)
    world.as_user(user)
    expected = world.value("SELECT count(*) FROM logs WHERE at < date_trunc('day', now(), 'UTC') - interval '90 days'")

    def grant() -> str:
        return next(
            f["remedy"] for f in world.plan().findings if (f["id"], f["subject"]) == ("grant-missing", "public.logs")
        )

    assert grant() == f"GRANT SELECT ON public.notes TO {user};"
    world.sql(grant())
    assert ("retention", "public.logs") in planned(world.plan())
    world.sql("ALTER TABLE logs ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON logs USING (id < 50)")
    assert planned(world.plan()) == [] and grant() == f"ALTER ROLE {user} BYPASSRLS;"
    world.sql(grant())
    done = world.step("retention").actions[0]
    assert (done["number"], done["after"]) == (int(expected) - 10, 0)
    world.as_user("postgres")
    world.sql(f"DROP OWNED BY {user}; DROP ROLE {user}")


def test_a_database_without_the_trackers_tables_is_maintained_too(world: World) -> None:
    assert world.plan().actions == [] and "growth-unlimited" not in ids(world.plan())
    world.sql("CREATE TABLE x (id int); INSERT INTO x SELECT generate_series(1, 5000)")
    plan = world.plan()
    assert planned(plan) == [("vacuum", "public.x")]
    assert only(plan, "growth-unlimited")["subject"] == "public.x"
    world.run()
    assert world.plan().actions == []


def test_names_that_need_quoting(world: World) -> None:
    world.sql(
        """
        CREATE SCHEMA "My Schema";
        CREATE TABLE "My Schema"."Weird.Name; DROP TABLE x" ("The Id" int PRIMARY KEY, "When?" timestamp NOT NULL, "Te'xt" text);
        INSERT INTO "My Schema"."Weird.Name; DROP TABLE x"
          SELECT n, now() - n * interval '1 day', 'a' FROM generate_series(1, 300) n;
        CREATE INDEX "in""dex" ON "My Schema"."Weird.Name; DROP TABLE x" ("When?");
        CREATE MATERIALIZED VIEW "My Schema"."Vi ew" AS SELECT * FROM "My Schema"."Weird.Name; DROP TABLE x";
        CREATE UNIQUE INDEX ON "My Schema"."Vi ew" ("The Id");
        """
    )
    table = "My Schema.Weird.Name; DROP TABLE x"
    with pytest.raises(Refused):
        world.change(retention=[{"table": table, "time_column": "when?", "keep_days": 90}])
        world.plan()
    world.change(
        retention=[{"table": "Weird.Name; DROP TABLE x", "time_column": "When?", "keep_days": 90}],
        redact=[{"table": "Weird.Name; DROP TABLE x", "time_column": "When?", "columns": ["Te'xt"], "after_days": 30}],
    )
    result = world.run()
    assert {a["result"] for a in result.actions} == {"done"}
    assert world.value('SELECT count(*) FROM "My Schema"."Weird.Name; DROP TABLE x"') in ("89", "90")
    assert world.plan().actions == []


def test_five_hundred_tables(world: World) -> None:
    world.sql(
        "DO $$BEGIN FOR i IN 1..500 LOOP EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, v text)', i); "
        "EXECUTE format('INSERT INTO t%s SELECT n, ''x'' FROM generate_series(1, 5) n', i); END LOOP; END$$"
    )
    assert len(world.plan().actions) == 500
    result = world.step("vacuum")
    assert [a["result"] for a in result.actions] == ["done"] * 500
    assert world.plan().actions == []


def test_a_rebuild_that_is_cancelled_is_cleaned_up_and_done_by_the_next_run(world: World) -> None:
    worn(world)
    world.run()
    world.sql("UPDATE busy SET v = 'y' || v; UPDATE busy SET v = 'z' || v")
    world.sql("VACUUM ANALYZE busy")
    assert ("indexes", "public.busy_v") in planned(world.plan())
    world.change(reindex_wait_seconds=1)
    with Session(world.job.connection) as holder:
        holder.execute(
            "SET idle_in_transaction_session_timeout = 0; BEGIN; LOCK TABLE public.busy IN ROW EXCLUSIVE MODE"
        )
        result = world.step("indexes")
        item = next(a for a in result.actions if a["subject"] == "public.busy_v")
        assert item["result"] == "failed" and "55P03" in item["detail"]
        assert "public.busy_v" in [f["subject"] for f in result.findings if f["id"] == "not-finished"]
        holder.execute("ROLLBACK")
    world.change(reindex_wait_seconds=60)
    world.step("indexes")
    assert world.value("SELECT count(*) FROM pg_class WHERE relname ~ '_cc(new|old)'") == "0"
    assert world.plan().actions == []


def test_an_index_that_is_being_built_is_left_alone(world: World) -> None:
    worn(world)
    world.run()
    with Session(world.job.connection) as holder:
        holder.execute(
            "SET idle_in_transaction_session_timeout = 0; BEGIN; LOCK TABLE public.busy IN ROW EXCLUSIVE MODE"
        )
        builder = threading.Thread(target=lambda: world.sql("REINDEX INDEX CONCURRENTLY busy_v"))
        builder.start()
        wait_until(lambda: world.sql("SELECT 1 FROM pg_class WHERE relname = 'busy_v_ccnew'"), "the build has begun")
        plan = world.plan()
        assert not [s for s in planned(plan) if s[0] == "indexes"]
        assert only(plan, "index-in-build")["subject"] == "public.busy_v_ccnew"
        assert world.step("indexes").actions == []
        holder.execute("ROLLBACK")
        builder.join()
    assert world.value("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == "0"


def test_a_server_killed_in_mid_batch_leaves_whole_batches(server: Server, world: World) -> None:
    world.sql(
        LOGS + "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN PERFORM pg_sleep(0.01); RETURN OLD; END$$; CREATE TRIGGER slow BEFORE DELETE ON logs FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    world.change(retention=KEEP)
    lost: list[BaseException] = []

    def run() -> None:
        try:
            world.step("retention")
        except PsqlUnreachable as error:
            lost.append(error)

    runner = threading.Thread(target=run)
    runner.start()
    wait_until(
        lambda: world.sql("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'WITH gone%' AND state = 'active'"),
        "a batch runs",
    )
    server.kill()
    runner.join()
    assert lost
    (server.data / "postmaster.pid").unlink(missing_ok=True)
    server.start()
    world.sql("DROP TRIGGER slow ON logs")
    assert world.value("SELECT count(*) FROM logs") == "4800"
    assert {a["result"] for a in world.run().actions} == {"done"}
    assert world.value("SELECT count(*) FROM logs WHERE at < now() - interval '91 days'") == "0"


def test_a_client_killed_in_mid_batch_frees_its_locks(world: World) -> None:
    world.sql(
        LOGS + "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN PERFORM pg_sleep(0.02); RETURN OLD; END$$; CREATE TRIGGER slow BEFORE DELETE ON logs FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(TESTS)!r}); import conftest\n"
        "from pathlib import Path\nfrom ansible.module_utils.database_work import Job, Maintenance\n"
        "from ansible.module_utils.database_planner import Limits\nfrom ansible.module_utils.runbook_psql import Connection\n"
        f"job = Job({world.job.connection!r}, Limits(), Path({str(world.job.memory_dir)!r}), retention={KEEP!r})\n"
        "Maintenance(job).retention()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code])
    wait_until(
        lambda: world.sql("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'WITH gone%' AND state = 'active'"),
        "a batch runs",
    )
    child.kill()
    child.wait()
    world.sql("DROP TRIGGER slow ON logs")
    world.change(retention=KEEP)
    assert {a["result"] for a in world.run().actions} == {"done"}
    assert world.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == "0"


def test_two_maintenance_runs_exclude_each_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible.module_utils.database_work.LOCK_WAIT_SECONDS", 0.3)
    with Maintenance(world.job):
        with pytest.raises(Refused, match="another maintenance run works on database") as refused:
            world.plan()
        assert refused.value.outcome == "refused"
    world.plan()


def test_a_database_that_cannot_be_reached_says_why(world: World) -> None:
    world.change(connection=world.server.connection("no_such_database"))
    with pytest.raises(PsqlUnreachable, match='database "no_such_database" does not exist'):
        world.plan()
    world.change(connection=dataclasses.replace(world.job.connection, host="/nowhere"))
    with pytest.raises(PsqlUnreachable, match="/nowhere"):
        world.plan()
    world.change(connection=dataclasses.replace(world.job.connection, psql=["/nowhere/psql"]))
    with pytest.raises(PsqlUnreachable, match="was not found"):
        world.plan()


def test_no_rewrite_without_free_disk_space(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    worn(world)
    world.step("vacuum")
    monkeypatch.setattr("ansible.module_utils.database_catalog.free_bytes", lambda *_: 1000)
    plan = world.plan()
    assert "public.busy_v" in [f["subject"] for f in plan.findings if f["id"] == "disk-short"]
    assert ("indexes", "public.busy_v") not in planned(plan)
    assert ("indexes", "public.busy_v_ccnew") in planned(plan), "dropping needs no space"
    monkeypatch.setattr("ansible.module_utils.database_catalog.free_bytes", lambda *_: None)
    assert "disk-unknown" in ids(world.plan())
    world.limit(disk_check_required=False)
    assert ("indexes", "public.busy_v") in planned(world.plan())


def test_insert_only_tables_are_vacuumed(world: World) -> None:
    world.sql("CREATE TABLE spans (id int); INSERT INTO spans SELECT generate_series(1, 5000)")
    world.sql("VACUUM ANALYZE spans")
    assert world.plan().actions == []
    world.sql("INSERT INTO spans SELECT generate_series(1, 2100)")
    action = next(a for a in world.plan().actions)
    assert action["reason"].startswith("rows inserted") and "VACUUM" in action["detail"]
    world.run()
    assert world.plan().actions == []


def test_old_transaction_numbers_are_frozen(world: World) -> None:
    world.sql(
        "CREATE TABLE old (id int) WITH (autovacuum_freeze_max_age = 100000); INSERT INTO old VALUES (1); ANALYZE old; "
        "CREATE TABLE burn (id int); ANALYZE burn"
    )
    world.limit(freeze_percent=1)
    assert ("vacuum", "public.old") not in planned(world.plan())
    world.sql(
        "DO $$BEGIN FOR i IN 1..1100 LOOP BEGIN INSERT INTO burn VALUES (i); EXCEPTION WHEN OTHERS THEN NULL; END; "
        "END LOOP; END$$; VACUUM ANALYZE burn"
    )
    action = next(a for a in world.plan().actions if a["subject"] == "public.old")
    assert action["reason"] == "freeze: transaction age" and "FREEZE" in action["detail"]
    world.run()
    assert world.value("SELECT age(relfrozenxid) < 100 FROM pg_class WHERE relname = 'old'") == "t"
    assert ("vacuum", "public.old") not in planned(world.plan())


def test_views_are_refreshed_in_order_and_only_when_their_source_changed(world: World) -> None:
    world.sql(
        LOGS + "CREATE MATERIALIZED VIEW lower AS SELECT id, cost FROM logs; CREATE UNIQUE INDEX ON lower (id); "
        "CREATE VIEW between_them AS SELECT * FROM lower; "
        "CREATE MATERIALIZED VIEW a_upper AS SELECT sum(cost) AS total, 1 AS one FROM between_them; CREATE UNIQUE INDEX ON a_upper (one); "
        "CREATE MATERIALIZED VIEW plain AS SELECT count(*) AS n FROM logs; "
        "CREATE MATERIALIZED VIEW shell AS SELECT 1 AS x WITH NO DATA"
    )
    world.limit(views_max_age_hours=0)
    plan = world.plan()
    views = [s for step, s in planned(plan) if step == "views"]
    assert views.index("public.lower") < views.index("public.a_upper") and "public.shell" in views
    blocked = only(plan, "view-blocks-readers")
    assert blocked["subject"] == "public.plain" and blocked["observed"] == "no unique index that covers all rows"
    world.run()
    assert [s for step, s in planned(world.plan()) if step == "views"] == []
    world.sql("UPDATE logs SET cost = 2 WHERE id = 1")
    assert {s for step, s in planned(world.plan()) if step == "views"} == {"public.lower", "public.a_upper"}
    world.step("views")
    assert world.value("SELECT total FROM a_upper") == "4801"
    world.limit(views_max_age_hours=1)
    world.sql("UPDATE logs SET cost = 3 WHERE id = 1")
    assert [s for step, s in planned(world.plan()) if step == "views"] == []
    world.limit(views_max_age_hours=0, views_blocking_allowed=True)
    assert "public.plain" in [s for step, s in planned(world.plan()) if step == "views"]


def test_reports_on_indexes_keys_and_sequences(world: World) -> None:
    world.sql(
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id smallserial PRIMARY KEY, p int REFERENCES p, q int REFERENCES p); "
        "CREATE INDEX c_p ON c (p); CREATE INDEX c_p2 ON c (p); SELECT setval('c_id_seq', 30000); "
        "CREATE SEQUENCE fine; SELECT nextval('fine')"
    )
    world.limit(unused_index_days=0, unused_index_min_bytes=0)
    plan = world.plan()
    assert only(plan, "index-duplicate")["subject"] == "public.c_p2"
    assert only(plan, "foreign-key-without-index")["subject"] == "public.c.c_q_fkey"
    assert {f["subject"] for f in plan.findings if f["id"] == "index-unused"} == {"public.c_p", "public.c_p2"}
    sequence = only(plan, "sequence-exhaustion")
    assert (
        sequence["subject"] == "public.c_id_seq"
        and sequence["severity"] == "critical"
        and "91.6 % used" in sequence["observed"]
    )
    world.sql("DROP INDEX c_p2; CREATE INDEX ON c (q); SELECT setval('c_id_seq', 30)")
    world.limit(unused_index_days=30)
    assert not {"index-duplicate", "foreign-key-without-index", "index-unused", "sequence-exhaustion"} & set(
        ids(world.plan())
    )


def test_an_index_that_cannot_be_rebuilt_is_not_tried_for_ever(world: World) -> None:
    world.sql("CREATE TABLE d (v int); INSERT INTO d VALUES (1), (1), (2); ANALYZE d")
    with pytest.raises(Exception, match="could not create unique index"):
        world.sql("CREATE UNIQUE INDEX CONCURRENTLY d_v ON d (v)")
    assert ("indexes", "public.d_v") in planned(world.plan())
    failed = world.step("indexes").actions
    assert [a["result"] for a in failed if a["subject"] == "public.d_v"] == ["failed"]
    plan = world.plan()
    assert ("indexes", "public.d_v") not in planned(plan)
    assert "could not create unique index" in only(plan, "failed-before")["observed"]
    world.limit(retry_after_hours=0)
    world.sql("DELETE FROM d WHERE ctid = '(0,1)'")
    world.run()
    assert world.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'd_v'::regclass") == "t"
    assert world.value("SELECT count(*) FROM pg_class WHERE relname LIKE 'd_v%'") == "1"


def test_settings_that_bite_are_named(world: World) -> None:
    plan = world.plan()
    subjects = [f["subject"] for f in plan.findings if f["id"] == "setting"]
    assert "autovacuum" in subjects and "log_statement" not in subjects
    world.sql(f"ALTER DATABASE {world.database} SET log_statement = 'all'")
    assert "log_statement" in [f["subject"] for f in world.plan().findings if f["id"] == "setting"]


def test_a_standby_is_reported_on_only(server: Server, world: World, scratch: Path, tmp_path: Path) -> None:
    worn(world)
    copy = server.standby(scratch / f"standby-{server.folder.name}")
    try:
        replica = World(copy, world.database, tmp_path / "replica")
        plan = replica.plan()
        assert plan.actions == []
        assert only(plan, "server-read-only")["severity"] == "info"
    finally:
        copy.stop()
    assert "server-read-only" not in ids(world.plan())


def test_disk_space_is_measured_where_another_command_leads_to(world: World) -> None:
    worn(world)
    world.step("vacuum")
    folder = world.server.folder / f"{world.database}-enter"  # where the server's user gets to
    folder.mkdir()
    folder.chmod(0o777)
    container, asked = folder / "enter", folder / "asked"  # stands for docker exec NAME
    container.write_text(f'#!/bin/sh\necho "$@" >> {asked}\nexec "$@"\n')
    container.chmod(0o755)
    connection = world.job.connection
    world.change(connection=dataclasses.replace(connection, psql=[str(container), *connection.psql]))
    asked.touch()
    asked.chmod(0o666)
    plan = world.plan()
    assert "disk-unknown" not in ids(plan)
    assert ("indexes", "public.busy_v") in planned(plan)
    assert f"df -Pk {world.server.data}" in asked.read_text()


def test_checks_reach_the_server_by_the_same_command_as_the_run(world: World) -> None:
    connection = world.job.connection
    command = ["env", "-i", f"PATH={world.server.bin_dir}:/usr/bin:/bin", *connection.psql]
    role = yaml.safe_load((TESTS.parent / "roles" / "database" / "vars" / "main.yml").read_text())
    prelude = Templar(DataLoader(), {"database_psql": command}).template(trust_as_template(role["__database_prelude"]))
    variables = {"PATH": "/usr/bin:/bin", "PGDATABASE": world.database, "PGHOST": connection.host, "PGUSER": "postgres"}
    for line, answer in (("pg_isready -q", ""), ('psql -XAtc "SELECT current_database()"', world.database)):
        outcome = run_command(f"{prelude}\n{line}", variables, 10, connection.os_user)
        assert (outcome.rc, outcome.stdout.strip()) == (0, answer), outcome.stderr
    plain = Templar(DataLoader(), {"database_psql": ["psql"]}).template(trust_as_template(role["__database_prelude"]))
    assert not plain


def test_time_budget_ends_the_work_and_the_next_run_resumes(world: World) -> None:
    worn(world)
    world.change(retention=KEEP, deadline=time.monotonic() - 1)
    result = world.run()
    assert {a["result"] for a in result.actions} == {"skipped"}
    assert {f["observed"] for f in result.findings} == {"time budget used up"}
    world.change(deadline=float("inf"))
    assert {a["result"] for a in world.run().actions} == {"done"}


def test_rows_that_a_trigger_puts_back_do_not_keep_the_run_busy_for_ever(world: World) -> None:
    world.sql(
        LOGS
        + "CREATE FUNCTION back() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.prompt := 'again'; RETURN NEW; END$$; "
        "CREATE TRIGGER back BEFORE UPDATE ON logs FOR EACH ROW EXECUTE FUNCTION back()"
    )
    world.change(redact=[{"table": "logs", "time_column": "at", "columns": ["prompt"], "after_days": 30}])
    item = world.step("redact").actions[0]
    assert item["result"] == "failed" and "a trigger puts them back" in item["detail"]
    plan = world.plan()
    assert ("redact", "public.logs") not in planned(plan)
    assert "failed-before" in ids(plan)


def test_rows_of_one_moment_that_come_back_end_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible.module_utils.database_retention.FIRST_BATCH_ROWS", 100)
    monkeypatch.setattr("ansible.module_utils.database_retention.LARGEST_BATCH_ROWS", 100)
    world.sql(
        "CREATE TABLE same (id serial, at timestamptz, p text); CREATE INDEX ON same (at); "
        "INSERT INTO same (at, p) SELECT date_trunc('day', now()) - interval '99 days', 'p' FROM generate_series(1, 450)"
    )
    world.change(redact=[{"table": "same", "time_column": "at", "columns": ["p"], "after_days": 30}])
    assert world.step("redact").actions[0]["result"] == "done"
    assert world.value("SELECT count(p) FROM same") == "0"
    world.sql(
        "UPDATE same SET p = 'p'; CREATE FUNCTION back() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN NEW.p := 'again'; RETURN NEW; END$$; "
        "CREATE TRIGGER back BEFORE UPDATE ON same FOR EACH ROW EXECUTE FUNCTION back()"
    )
    assert world.step("redact").actions[0]["result"] == "failed"


def test_rows_that_a_trigger_keeps_are_reported(world: World) -> None:
    world.sql(
        LOGS + "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$; "
        "CREATE TRIGGER keep BEFORE DELETE ON logs FOR EACH ROW EXECUTE FUNCTION keep()"
    )
    world.change(retention=KEEP)
    result = world.step("retention")
    assert result.actions[0]["result"] == "skipped"
    assert "no row could be changed" in only(result, "not-finished")["observed"]
    assert world.value("SELECT count(*) FROM logs") == "4800"
