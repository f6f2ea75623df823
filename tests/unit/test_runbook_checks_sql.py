"""Every check of the database runbook, as its page prints it: silent on a healthy server, and fired by a real fault."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.runbook_checks import probe_all
from ansible.module_utils.runbook_psql import PsqlError, PsqlUnreachable, Session
from jinja2 import StrictUndefined
from jinja2.nativetypes import NativeEnvironment
from support.postgres import Server, wait_until

# One worker: the others would make the same server once more.
pytestmark = [pytest.mark.server, pytest.mark.xdist_group("checks_sql")]
ROLE = Path(__file__).resolve().parents[2] / "roles" / "database"
RUNBOOK = yaml.safe_load((ROLE / "meta" / "runbook.yml").read_text())
CHECKS = {check["id"]: check for check in RUNBOOK["checks"]}
DEFAULTS = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
JINJA = NativeEnvironment(undefined=StrictUndefined)


def resolve(value: Any, variables: dict[str, Any]) -> Any:
    """Return `value` with its templates replaced by the role's defaults and `variables`, as Ansible would."""
    if isinstance(value, dict):
        return {key: resolve(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [resolve(item, variables) for item in value]
    if isinstance(value, str) and "{{" in value:
        known = {name: resolve(item, variables) for name, item in variables.items() if re.search(rf"\b{name}\b", value)}
        return resolve(JINJA.from_string(value).render(known), variables)
    return value


class Patient:
    """A server of its own, to be made ill, and its checks."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def sql(self, text: str) -> list[str]:
        return self.server.sql(text, "llm_metrics")

    def session(self) -> Session:
        return Session(self.server.connection("llm_metrics"))

    def probe(self, ids: list[str], **inputs: Any) -> dict[str, dict[str, Any]]:
        """Carry out checks as the role would; each result has its finding, None where the expectation was met."""
        host = {
            "host": str(self.server.folder),
            "user": "postgres",
            "os_user": self.server.user,
            "bin_dir": str(self.server.bin_dir),
        }
        variables = {**DEFAULTS, **{f"database_{name}": value for name, value in {**host, **inputs}.items()}}
        given = resolve({key: RUNBOOK[key] for key in ("environment", "secrets", "os_user")}, variables)
        checks = [{**CHECKS[id], "expect": resolve(CHECKS[id]["expect"], variables)} for id in ids]
        results, findings = probe_all(checks, given["environment"], given["secrets"], given["os_user"] or None)
        by_check = {found["check"]: found for found in findings}
        return {result["id"]: {**result, "finding": by_check.get(result["id"])} for result in results}

    def judge(self, id: str, **inputs: Any) -> dict[str, Any]:
        """Carry out one check and those it needs."""
        ids = [id]
        while needs := [n for i in ids for n in CHECKS[i].get("needs", []) if n not in ids]:
            ids += needs
        return self.probe(list(reversed(ids)), **inputs)[id]


@pytest.fixture(scope="module")
def patient(scratch: Path, bin_dirs: dict[str, Path]) -> Iterator[Patient]:
    # The system's server: unlike the wheel's it has extensions that can be old.
    made = Server(
        bin_dirs["system15"],
        scratch / "patient",
        "archive_mode = on\narchive_command = '/bin/true'\nautovacuum_freeze_max_age = 100000\ndeadlock_timeout = '20s'",
    )
    made.create()
    made.sql("CREATE DATABASE llm_metrics")
    yield Patient(made)
    made.stop()


@contextlib.contextmanager
def in_background(session: Session, sql: str) -> Iterator[None]:
    """Run a statement that does not end by itself beside the test; it is ended with its session."""

    def run() -> None:
        with contextlib.suppress(PsqlError, PsqlUnreachable):
            session.execute(sql)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    session._process.terminate()
    thread.join(30)


# --- the faults: each yields the inputs it is judged with, and is undone ----------------------------------------

Fault = Callable[[Patient], "contextlib.AbstractContextManager[dict[str, Any]]"]
FAULTS: dict[str, tuple[Fault, str]] = {}


def fault(id: str, shown: str) -> Callable[[Callable[[Patient], Iterator[dict[str, Any]]]], Any]:
    """Register the fault that makes the check `id` fail with `shown` in its evidence."""

    def register(function: Callable[[Patient], Iterator[dict[str, Any]]]) -> Any:
        FAULTS[id] = (contextlib.contextmanager(function), shown)
        return function

    return register


@fault("server-accepts", "no response")
def _stopped(patient: Patient) -> Iterator[dict[str, Any]]:
    patient.server.stop()
    yield {}
    patient.server.start()


@fault("server-answers", "not currently accepting connections")
def _closed_database(patient: Patient) -> Iterator[dict[str, Any]]:
    patient.server.sql("ALTER DATABASE llm_metrics ALLOW_CONNECTIONS false")
    yield {}
    patient.server.sql("ALTER DATABASE llm_metrics ALLOW_CONNECTIONS true")


def _many_sessions(patient: Patient, number: int) -> Iterator[dict[str, Any]]:
    with contextlib.ExitStack() as sessions:
        for _ in range(number):
            # The checks' own sessions carry the name llmct-maint and do not count.
            sessions.enter_context(patient.session()).execute("SET application_name = 'app'")
        yield {}


@fault("connections", "74")  # 20 of 27
def _connections(patient: Patient) -> Iterator[dict[str, Any]]:
    yield from _many_sessions(patient, 20)


@fault("connections-critical", "93")  # 25 of 27
def _connections_used_up(patient: Patient) -> Iterator[dict[str, Any]]:
    yield from _many_sessions(patient, 25)


@fault("long-transactions", "|active|")
def _long_transaction(patient: Patient) -> Iterator[dict[str, Any]]:
    with patient.session() as session, in_background(session, "SELECT pg_sleep(300)"):
        yield {"transaction_warn_seconds": 1}


@fault("idle-transactions", "|llmct-maint|")
def _idle_transaction(patient: Patient) -> Iterator[dict[str, Any]]:
    with patient.session() as session:
        session.execute("BEGIN; SELECT 1")
        yield {"idle_transaction_warn_seconds": 1}


@fault("blocked-sessions", "waits for")
def _blocked_session(patient: Patient) -> Iterator[dict[str, Any]]:
    patient.sql("CREATE TABLE contended (id int)")
    with patient.session() as holder:
        holder.execute("BEGIN; LOCK TABLE public.contended")
        with patient.session() as waiter, in_background(waiter, "SELECT * FROM public.contended"):
            yield {}
    patient.sql("DROP TABLE contended")


@fault("replication-lag", "|streaming|")
def _standby_that_does_not_replay(patient: Patient) -> Iterator[dict[str, Any]]:
    server = patient.server
    copy = server.standby(server.folder.with_name("patient-standby"))
    try:
        wait_until(
            lambda: patient.sql("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"), "the standby streams"
        )
        wait_until(lambda: patient.judge("replication-lag", replication_lag_warn_bytes=20_000)["met"], "it keeps up")
        copy.sql("SELECT pg_wal_replay_pause()")
        patient.sql("SELECT pg_logical_emit_message(false, 'x', repeat('x', 30000))")
        yield {"replication_lag_warn_bytes": 20_000}
    finally:
        copy.stop()


@fault("retained-wal", "forgotten|f|")
def _forgotten_slot(patient: Patient) -> Iterator[dict[str, Any]]:
    patient.sql("CHECKPOINT; SELECT pg_create_physical_replication_slot('forgotten', true)")
    assert patient.judge("retained-wal", slot_retained_warn_bytes=20_000)["met"]
    patient.sql("SELECT pg_logical_emit_message(false, 'x', repeat('x', 30000))")
    yield {"slot_retained_warn_bytes": 20_000}
    patient.sql("SELECT pg_drop_replication_slot('forgotten')")


def _fill_wal(patient: Patient, files: int) -> None:
    for _ in range(files):
        patient.sql("SELECT txid_current(); SELECT pg_switch_wal()")


@fault("wal-size", ".")
def _wal_that_cannot_go(patient: Patient) -> Iterator[dict[str, Any]]:
    patient.sql("SELECT pg_create_physical_replication_slot('keeps', true)")
    patient.server.sql("ALTER SYSTEM SET max_wal_size = '32MB'")
    patient.server.sql("SELECT pg_reload_conf()")
    _fill_wal(patient, 5)
    yield {}
    patient.sql("SELECT pg_drop_replication_slot('keeps')")
    patient.server.sql("ALTER SYSTEM RESET max_wal_size")
    patient.server.sql("SELECT pg_reload_conf()")
    patient.server.sql("CHECKPOINT")


@fault("wal-ready", "")
def _archiving_that_fails(patient: Patient) -> Iterator[dict[str, Any]]:
    patient.server.sql("ALTER SYSTEM SET archive_command = '/bin/false'")
    patient.server.sql("SELECT pg_reload_conf()")
    _fill_wal(patient, 2)
    yield {"wal_ready_warn_files": 1}
    patient.server.sql("ALTER SYSTEM RESET archive_command")
    patient.server.sql("SELECT pg_reload_conf()")


@fault("transaction-age", "")
def _used_transaction_numbers(patient: Patient) -> Iterator[dict[str, Any]]:
    patient.sql(
        "CREATE TABLE burn (id int); DO $$BEGIN FOR i IN 1..3000 LOOP BEGIN INSERT INTO burn VALUES (i); "
        "EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END$$; DROP TABLE burn"
    )
    yield {"freeze_warn_percent": 2}


@fault("extension-updates", "hstore|1.4|")
def _old_extension(patient: Patient) -> Iterator[dict[str, Any]]:
    patient.sql("CREATE EXTENSION hstore VERSION '1.4'")
    yield {}
    patient.sql("ALTER EXTENSION hstore UPDATE")


@fault("invalid-indexes", "broken_v|")
def _invalid_index(patient: Patient) -> Iterator[dict[str, Any]]:
    patient.sql("CREATE TABLE broken (v int); INSERT INTO broken VALUES (1), (1); ANALYZE broken")
    with pytest.raises(PsqlError, match="could not create unique index"):
        patient.sql("CREATE UNIQUE INDEX CONCURRENTLY broken_v ON broken (v)")
    yield {}
    patient.sql("DROP TABLE broken")


@fault("dead-rows", "worn|1000")
def _dead_rows(patient: Patient) -> Iterator[dict[str, Any]]:
    patient.sql(
        "CREATE TABLE worn (v int); INSERT INTO worn SELECT generate_series(1, 1000); ANALYZE worn; DELETE FROM worn"
    )
    yield {}
    patient.sql("VACUUM worn")


@fault("statistics", "unknown")
def _never_analyzed(patient: Patient) -> Iterator[dict[str, Any]]:
    patient.sql("CREATE TABLE unknown (v int); INSERT INTO unknown VALUES (1)")
    yield {}
    patient.sql("ANALYZE unknown")


@fault("views-filled", "public.shell")
def _empty_shell(patient: Patient) -> Iterator[dict[str, Any]]:
    patient.sql("CREATE MATERIALIZED VIEW shell AS SELECT 1 AS x WITH NO DATA")
    yield {}
    patient.sql("REFRESH MATERIALIZED VIEW shell; ANALYZE shell")


def test_every_check_has_its_fault() -> None:
    assert list(FAULTS) == list(CHECKS)


def test_all_checks_at_once_are_silent_on_a_healthy_server(patient: Patient) -> None:
    patient.sql("CREATE TABLE fine (id int PRIMARY KEY); INSERT INTO fine SELECT generate_series(1, 500); ANALYZE fine")
    results = patient.probe(list(CHECKS))
    assert {id: r["reason"] for id, r in results.items() if not r["met"]} == {}


@pytest.mark.parametrize("id", CHECKS)
def test_fires_while_the_fault_is_there_and_only_then(patient: Patient, id: str) -> None:
    make, shown = FAULTS[id]
    assert patient.judge(id)["met"]
    with make(patient) as inputs:
        # Some faults need time (an age, a counter that is flushed): the check is asked again until it fires.
        found = wait_until(lambda: patient.judge(id, **inputs)["finding"], f"{id} fires", 20)
        assert shown in found["evidence"]
        assert (
            found["title"] == CHECKS[id]["otherwise"]["finding"]
            and found["severity"] == CHECKS[id]["otherwise"]["severity"]
        )
    wait_until(lambda: patient.judge(id)["met"], f"{id} is silent again", 20)


def test_a_dead_server_is_one_finding_and_not_twenty(patient: Patient) -> None:
    with FAULTS["server-accepts"][0](patient):
        results = patient.probe(list(CHECKS))
    assert [id for id, r in results.items() if r["finding"]] == ["server-accepts"]
    assert {r["met"] for id, r in results.items() if id != "server-accepts"} == {None}
    wait_until(lambda: patient.judge("server-answers")["met"], "it answers again")


def test_names_with_quotes_and_shell_in_them_reach_the_server_as_they_are(patient: Patient, tmp_path: Path) -> None:
    name = f'it\'s "$(touch {tmp_path}/trap)" `id`'
    quoted = name.replace('"', '""')
    patient.server.sql(f'CREATE DATABASE "{quoted}"')
    results = patient.probe(["server-accepts", "server-answers"], name=name)
    assert all(r["met"] for r in results.values()), results
    assert not (tmp_path / "trap").exists()
    patient.server.sql(f'DROP DATABASE "{quoted}"')
