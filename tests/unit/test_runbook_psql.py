"""Sessions over psql: quoting, errors, and servers and clients that are lost, old or not there."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.runbook_psql import (
    Connection,
    PsqlError,
    PsqlUnreachable,
    Session,
    _error_from,
    child_identity,
    client_version,
    literal,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.postgres import Server, wait_until

FAKE = Path(__file__).resolve().parent.parent / "fakes" / "tool"
# One session serves all examples; a slow machine is no failure.
REAL_SERVER = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=60)


@pytest.fixture(scope="module")
def session(server: Server) -> Iterator[Session]:
    with Session(server.connection()) as made:
        yield made


@pytest.mark.parametrize(
    ("value", "sql"),
    [
        (None, "NULL"),
        (True, "true"),
        (False, "false"),
        (5, "5"),
        (-1.5, "-1.5"),
        ("it's", "'it''s'"),
        ("", "''"),
        ("\\", "'\\'"),
    ],
)
def test_literals(value: object, sql: str) -> None:
    assert literal(value) == sql


def test_text_that_postgresql_does_not_have() -> None:
    with pytest.raises(ValueError, match="NUL"):
        literal("a\x00b")


@pytest.mark.server
@REAL_SERVER
@given(TEXT)
@example("'; DROP TABLE x; --")
@example("\\")
@example("\\'\n\\! touch x\n\\q")
@example(":ERROR :'SQLSTATE' :\"x\" $$ $1 %s")
@example("done-\r\n\r\x1a\x04\x85\u2028")
@example("ERROR:  22012: no error")
@example("/* -- ;\n;")
def test_any_text_comes_back_from_a_real_server_as_it_was(session: Session, text: str) -> None:
    assert session.value(f"SELECT {literal(text)}::text AS t") == text
    assert session.rows(f"SELECT {literal(text)} AS t, {literal(len(text))} AS n") == [{"t": text, "n": len(text)}]


@pytest.mark.server
@REAL_SERVER
@given(
    st.one_of(
        st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.none()
    )
)
def test_any_number_comes_back_from_a_real_server_as_it_was(session: Session, value: object) -> None:
    kind = {bool: "boolean", int: "bigint", float: "float8"}.get(type(value), "text")
    # A minus binds less than a cast, so -2^63 needs its parentheses.
    assert session.value(f"SELECT ({literal(value)})::{kind} AS v") == value


@REAL_SERVER
@given(TEXT)
@example("a b")
@example("' host=evil '")
@example("\\' password=x")
def test_any_connection_value_is_one_value(text: str) -> None:
    assert parsed(Connection(text, text, 5432, text).conninfo()) == {
        "dbname": text,
        "host": text,
        "port": "5432",
        "user": text,
        "application_name": "llmct-maint",
        "connect_timeout": "5",
    }


def parsed(conninfo: str) -> dict[str, str]:
    """Parse keyword='value' pairs by libpq's rules: in quotes a backslash takes the next character as it is."""
    values, rest = {}, conninfo
    while rest:
        key, rest = rest.split("='", 1)
        value, at = "", 0
        while rest[at] != "'":
            at += rest[at] == "\\"
            value += rest[at]
            at += 1
        values[key], rest = value, rest[at + 1 :].removeprefix(" ")
    return values


@pytest.mark.server
@pytest.mark.parametrize("name", ["it's", "back\\slash", "dbname=postgres", "two words", 'quo"te', "' host=/nowhere '"])
def test_databases_with_any_name_are_reached(server: Server, name: str) -> None:
    quoted = name.replace('"', '""')
    server.sql(f'CREATE DATABASE "{quoted}"')
    try:
        with Session(server.connection(name)) as session:
            assert session.value("SELECT current_database() AS d") == name
    finally:
        server.sql(f'DROP DATABASE "{quoted}" WITH (FORCE)')


@pytest.mark.server
def test_a_failed_statement_says_what_and_the_session_goes_on(session: Session) -> None:
    with pytest.raises(PsqlError, match="division by zero") as error:
        session.execute("SELECT 1/0")
    assert error.value.sqlstate == "22012"
    with pytest.raises(PsqlError) as error:
        session.execute("SELECT * FROM nowhere")
    assert (error.value.sqlstate, error.value.message) == ("42P01", 'relation "nowhere" does not exist')
    assert session.execute("SELECT 1; SELECT 2") == ["1", "2"]


@pytest.mark.server
def test_an_error_in_any_of_several_statements_counts(session: Session) -> None:
    for sql in ("SELECT 1/0; SELECT 2", "SELECT 2; SELECT 1/0"):
        with pytest.raises(PsqlError, match="division by zero"):
            session.execute(sql)
    assert session.value("SELECT 1 AS one") == 1


def test_errors_are_known_in_any_language() -> None:
    german = ["WARNUNG:  01000: vorher", "FEHLER:  42P01: Relation »x« existiert nicht", "LINE 1: SELECT 1: FROM x"]
    error = _error_from(german, "42P01")
    assert (error.sqlstate, error.message) == ("42P01", "Relation »x« existiert nicht")
    assert _error_from([], "").message == "the statement failed without a message"


@pytest.mark.server
def test_the_settings_of_a_role_change_nothing(server: Server) -> None:
    server.sql(
        """
        CREATE ROLE odd LOGIN SUPERUSER;
        ALTER ROLE odd SET statement_timeout = '50ms'; ALTER ROLE odd SET lock_timeout = '1ms';
        ALTER ROLE odd SET idle_session_timeout = '100ms'; ALTER ROLE odd SET quote_all_identifiers = on;
        ALTER ROLE odd SET default_transaction_isolation = 'serializable'; ALTER ROLE odd SET datestyle = 'German';
        ALTER ROLE odd SET client_encoding = 'LATIN1'; ALTER ROLE odd SET standard_conforming_strings = off
        """
    )
    try:
        with Session(server.connection(user="odd")) as session:
            time.sleep(0.3)
            session.execute("SELECT pg_sleep(0.2)")
            assert session.rows("SELECT quote_ident('a') AS a, current_setting('lock_timeout') AS l, '\\ü' AS t") == [
                {"a": "a", "l": "0", "t": "\\ü"}
            ]
            assert session.value("SELECT current_setting('transaction_isolation')") == "read committed"
    finally:
        server.sql("DROP ROLE odd")


@pytest.mark.server
def test_warnings_are_kept_and_are_no_errors(session: Session) -> None:
    session.execute("DO $$BEGIN RAISE WARNING 'mind the gap'; RAISE NOTICE 'psst'; END$$")
    assert len(session.warnings) == 1 and "mind the gap" in session.warnings[0]
    session.execute("SELECT 1")
    assert session.warnings == []


@pytest.mark.server
def test_the_users_own_settings_change_nothing(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rc = tmp_path / "psqlrc"
    rc.write_text("\\pset format html\n\\set ON_ERROR_STOP on\n")
    for name, value in {
        "PSQLRC": str(rc),
        "PGHOST": "/nowhere",
        "PGOPTIONS": "-c datestyle=german",
        "PGTZ": "Asia/Tokyo",
    }.items():
        monkeypatch.setenv(name, value)
    server.sql(
        "ALTER ROLE postgres SET standard_conforming_strings = off; ALTER ROLE postgres SET datestyle = 'German'"
    )
    try:
        with Session(server.connection()) as session:
            assert session.value(f"SELECT {literal(chr(92) + 'n')} AS t") == "\\n"
            assert session.execute("SELECT '2026-03-15 12:00+00'::timestamptz") == ["2026-03-15 12:00:00+00"]
    finally:
        server.sql("ALTER ROLE postgres RESET ALL")


@pytest.mark.server
def test_a_session_that_is_ended_by_the_server(server: Server) -> None:
    with Session(server.connection()) as lost, Session(server.connection()) as other:
        pid = lost.value("SELECT pg_backend_pid() AS p")
        other.execute(f"SELECT pg_terminate_backend({pid}, 10000)")
        with pytest.raises(PsqlUnreachable, match=r"terminating connection|server closed the connection"):
            lost.execute("SELECT 1")
        with pytest.raises(PsqlUnreachable):
            lost.execute("SELECT 1")
        assert other.value("SELECT 1 AS one") == 1


@pytest.mark.server
def test_a_client_that_is_killed_in_a_statement(server: Server) -> None:
    with Session(server.connection()) as lost:
        threading.Timer(0.3, lambda: lost._process.send_signal(signal.SIGKILL)).start()
        with pytest.raises(PsqlUnreachable, match="psql ended without a message"):
            lost.execute("SELECT pg_sleep(300)")


@pytest.mark.server
def test_asking_a_lost_session_again_does_not_wait_for_ever(server: Server) -> None:
    with Session(server.connection()) as lost:
        lost._process.kill()
        with pytest.raises(PsqlUnreachable):
            lost.execute("SELECT 1")
        # As in the moment when psql has closed its output but not yet its input: what is written is taken.
        read, write = os.pipe()
        with os.fdopen(write, "w") as taken, os.fdopen(read):
            lost._stdin = taken
            again = threading.Thread(target=_fails, args=(lost,), daemon=True)
            again.start()
            again.join(20)
            assert not again.is_alive()


def _fails(session: Session) -> None:
    with pytest.raises(PsqlUnreachable):
        session.execute("SELECT 1")


@pytest.mark.server
def test_no_answer_within_the_limit_ends_the_statement_on_the_server_too(server: Server) -> None:
    with Session(server.connection()) as slow:
        pid = slow.value("SELECT pg_backend_pid() AS p")
        with pytest.raises(PsqlUnreachable, match="no answer within the time limit"):
            slow.execute("SELECT pg_sleep(300)", limit_seconds=0.3)
    wait_until(
        lambda: server.sql(f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}") == ["0"],
        "its session is gone",
        10,
    )


@pytest.mark.server
def test_a_frozen_server_costs_the_limit_and_no_more(server: Server) -> None:
    with Session(server.connection()) as session:
        pid = int(session.value("SELECT pg_backend_pid() AS p"))
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(PsqlUnreachable, match="no answer within the time limit"):
                session.execute("SELECT 1", limit_seconds=0.3)
        finally:
            os.kill(pid, signal.SIGCONT)


def test_statement_ends_that_differ(session: Session) -> None:
    for sql in ("SELECT 1", "SELECT 1;", "SELECT 1 -- comment", "SELECT 1 /* ; */ ;\n"):
        assert session.execute(sql) == ["1"]
    assert session.rows("SELECT 1 AS a -- comment;") == [{"a": 1}]
    assert session.rows("SELECT 1 AS a WHERE false") == []


@pytest.mark.parametrize(
    ("out", "rc", "message"),
    [
        ("psql (PostgreSQL) 12.22 (Debian 12.22-1)", 0, "psql 12 is too old: 13 or newer is needed"),
        ("psql (PostgreSQL) 9.6.24", 0, "psql 9 is too old"),
        (
            "Error: You must install at least one postgresql-client-<version> package",
            0,
            "--version failed: Error: You must install",
        ),
        ("", 1, "--version failed"),
    ],
)
def test_clients_that_will_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, rc: int, message: str
) -> None:
    with pytest.raises(PsqlUnreachable, match=message):
        client_version(fake_client(tmp_path, monkeypatch, out, rc))


@pytest.mark.parametrize(
    ("out", "major"),
    [
        ("psql (PostgreSQL) 13.0", 13),
        ("psql (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", 15),
        ("psql (PostgreSQL) 19beta1", 19),
    ],
)
def test_clients_that_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, major: int) -> None:
    assert client_version(fake_client(tmp_path, monkeypatch, out, 0)) == major
    assert (tmp_path / "calls").read_text() == "psql [--version]\n"


def fake_client(folder: Path, monkeypatch: pytest.MonkeyPatch, out: str, rc: int) -> Connection:
    (folder / "psql").symlink_to(FAKE)
    (folder / "psql.out").write_text(out + "\n")
    (folder / "psql.rc").write_text(str(rc))
    monkeypatch.setenv("FAKE_CALLS", str(folder / "calls"))
    monkeypatch.setenv("FAKE_ANSWERS", str(folder))
    return Connection("any", psql=[str(folder / "psql")])


@pytest.mark.server
def test_what_cannot_be_reached_says_why(server: Server) -> None:
    good = server.connection()
    cases = {
        "'no-such-user' does not exist": {"os_user": "no-such-user"},
        'role "nobody_here" does not exist': {"user": "nobody_here"},
        'database "none" does not exist': {"database": "none"},
        "/nowhere": {"host": "/nowhere"},
    }
    for message, change in cases.items():
        with pytest.raises(PsqlUnreachable, match=message):
            Session(dataclasses.replace(good, **change))
    with pytest.raises(PsqlUnreachable, match="client program '/nowhere/psql' was not found"):
        client_version(dataclasses.replace(good, psql=["/nowhere/psql"]))
    with pytest.raises(PsqlUnreachable, match="'no-such-user' does not exist"):
        client_version(dataclasses.replace(good, os_user="no-such-user"))


def test_a_user_that_we_may_not_become(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert child_identity(None) == {} == child_identity("")
    with pytest.raises(PsqlUnreachable, match="may not become 'root': use become, or set the OS user to null"):
        child_identity("root")


@pytest.mark.server
def test_the_password_is_in_no_command_line(server: Server) -> None:
    with Session(dataclasses.replace(server.connection(), password="hunter2-Zx")) as session:
        line = Path(f"/proc/{session._process.pid}/cmdline").read_bytes()
        assert b"application_name" in line and b"hunter2-Zx" not in line
        seen = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert "hunter2-Zx" not in seen
