# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""One PostgreSQL session over the server's own client, psql: no driver is needed on a managed host.

A session is one psql process that is fed statements through a pipe, so that session state (settings, an
advisory lock) lives as long as the session does. If this process dies, psql reads end-of-file and the server
drops the session; `client_connection_check_interval` ends a statement that is still running then.
https://www.postgresql.org/docs/15/runtime-config-connection.html
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pwd
import queue
import re
import shutil
import signal
import subprocess
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

APPLICATION_NAME = "llmct-maint"
LOCK_NOT_AVAILABLE = "55P03"
QUERY_CANCELED = "57014"
OBJECT_IN_USE = "55006"
# psql 13 brought \warn, by which the end of a statement's messages is known.
MIN_CLIENT_MAJOR = 13


class PsqlError(Exception):
    """A statement failed. `sqlstate` is PostgreSQL's five-character code, `message` its first line."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message


class PsqlUnreachable(Exception):
    """No session can be had (or it was lost); the text is the reason as the client gave it."""


@dataclass(frozen=True)
class Connection:
    """Where and as whom to connect. `host` is a host name or a socket folder; None is libpq's default.

    `os_user` is the operating system user that runs psql (peer authentication), `psql` the command that
    starts it, such as ["docker", "exec", "-i", "tracker-db", "psql"] for a server in a container.
    """

    database: str
    host: str | None = None
    port: int | None = None
    user: str | None = None
    password: str | None = None
    os_user: str | None = None
    psql: list[str] = field(default_factory=lambda: ["psql"])
    connect_timeout_seconds: int = 5

    def conninfo(self) -> str:
        parts = {
            "dbname": self.database,
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "application_name": APPLICATION_NAME,
            "connect_timeout": self.connect_timeout_seconds,
        }
        return " ".join(f"{k}={_conninfo_value(v)}" for k, v in parts.items() if v is not None)


# The argument of a module that says how to reach a server.
CONNECTION_ARGUMENT: dict[str, Any] = {
    "type": "dict",
    "required": True,
    "options": {
        "database": {"type": "str", "required": True},
        "host": {"type": "str"},
        "port": {"type": "int"},
        "user": {"type": "str"},
        "password": {"type": "str", "no_log": True},
        "os_user": {"type": "str"},
        "bin_dir": {"type": "path"},
        "psql": {"type": "list", "elements": "str", "default": ["psql"]},
    },
}


def connection_from(given: dict[str, Any], bin_dir: str | None) -> Connection:
    """Return the connection that CONNECTION_ARGUMENT describes; psql alone is taken from `bin_dir`, if there is one."""
    psql = list(given["psql"])
    if bin_dir and len(psql) == 1:
        psql = [os.path.join(bin_dir, psql[0])]
    return Connection(
        given["database"],
        given.get("host") or None,
        given.get("port"),
        given.get("user") or None,
        given.get("password") or None,
        given.get("os_user") or None,
        psql,
    )


def _conninfo_value(value: Any) -> str:
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def literal(value: Any) -> str:
    """Return `value` as an SQL literal (text, number, boolean or NULL), safe with standard_conforming_strings."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    text = str(value)
    if "\x00" in text:
        raise ValueError("PostgreSQL has no text with a NUL character in it")
    return "'" + text.replace("'", "''") + "'"


def child_identity(os_user: str | None) -> dict[str, Any]:
    """Return the Popen arguments that run a child as `os_user`; none where that is who we are.

    Raise PsqlUnreachable if the user does not exist, or if this process may not become it.
    """
    if not os_user:
        return {}
    try:
        entry = pwd.getpwnam(os_user)
    except KeyError:
        raise PsqlUnreachable(f"operating system user {os_user!r} does not exist on this host") from None
    if entry.pw_uid == os.geteuid():
        return {}
    if os.geteuid() != 0:
        me = pwd.getpwuid(os.geteuid()).pw_name
        raise PsqlUnreachable(
            f"running as {me!r}, which may not become {os_user!r}: use become, or set the OS user to null"
        )
    groups = os.getgrouplist(os_user, entry.pw_gid)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}


def client_version(connection: Connection) -> int:
    """Return the major version of psql. Raise PsqlUnreachable if it cannot be started or is too old."""
    command = connection.psql
    if shutil.which(command[0]) is None:
        raise PsqlUnreachable(
            f"client program {command[0]!r} was not found: install the PostgreSQL client or set its folder"
        )
    try:
        done = subprocess.run(
            [*command, "--version"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            cwd="/",
            **child_identity(connection.os_user),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PsqlUnreachable(f"{command[0]} --version failed: {error}") from error
    found = re.search(r"(\d+)(?:\.\d+|beta|rc|devel)", done.stdout)
    if done.returncode != 0 or not found:
        raise PsqlUnreachable(f"{' '.join(command)} --version failed: {(done.stderr or done.stdout).strip()[:300]}")
    if int(found.group(1)) < MIN_CLIENT_MAJOR:
        raise PsqlUnreachable(f"psql {found.group(1)} is too old: {MIN_CLIENT_MAJOR} or newer is needed")
    return int(found.group(1))


def _dies_with_us() -> list[str]:
    """Return the command prefix that has the kernel end psql when the thread that starts it is gone.

    psql reads end-of-file only between statements, so a killed run would leave its statement running to its end.
    setpriv is part of util-linux; where it is missing, the statement's own time limit has to do.
    """
    return ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []


class Session:
    """A PostgreSQL session. Use it as a context manager; it is not shared between threads."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.warnings: list[str] = []
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PG") and k != "PSQLRC"}
        environment["LC_MESSAGES"] = "C"
        if connection.password is not None:
            environment["PGPASSWORD"] = connection.password
        arguments = ["-X", "-q", "-A", "-t", "-w", "-v", "VERBOSITY=verbose", "-d", connection.conninfo()]
        try:
            self._process = subprocess.Popen(
                [*_dies_with_us(), *connection.psql, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=environment,
                cwd="/",
                start_new_session=True,
                **child_identity(connection.os_user),
            )
        except OSError as error:
            raise PsqlUnreachable(f"cannot start {connection.psql[0]}: {error}") from error
        self._stdin: Any = self._process.stdin
        self._output: queue.Queue[str | None] = queue.Queue()
        self._messages: queue.Queue[str | None] = queue.Queue()
        for stream, lines in ((self._process.stdout, self._output), (self._process.stderr, self._messages)):
            threading.Thread(target=_read_lines, args=(stream, lines), daemon=True).start()
        # Results are exchanged in these formats whatever the settings of the server, database or role are.
        self.execute(
            "SET standard_conforming_strings = on; SET client_encoding = 'UTF8'; SET datestyle = 'ISO'; "
            "SET timezone = 'UTC'; SET client_min_messages = warning; SET idle_in_transaction_session_timeout = '60s'; "
            "SET client_connection_check_interval = '2s'; SET search_path = pg_catalog; "
            "SET quote_all_identifiers = off; SET default_transaction_isolation = 'read committed'; "
            # Limits meant for the application would end a session that waits, or a statement that takes its time.
            "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN "
            "('statement_timeout', 'lock_timeout', 'idle_session_timeout', 'transaction_timeout')",
            limit_seconds=connection.connect_timeout_seconds + 10,
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session in order: the server flushes the session's statistics and frees its locks."""
        if self._process.poll() is None:
            try:
                self._stdin.close()
                self._process.wait(timeout=10)
            except (OSError, subprocess.TimeoutExpired):
                self._process.kill()
                self._process.wait(timeout=10)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                # What was written for a psql that is gone cannot be flushed any more.
                with contextlib.suppress(OSError):
                    stream.close()

    @functools.cached_property
    def server_version_num(self) -> int:
        """The server's version as a number, such as 150018; asked for once."""
        return int(self.value("SELECT current_setting('server_version_num')::int"))

    def execute(self, sql: str, limit_seconds: float | None = None) -> list[str]:
        """Run `sql` (one or more statements, no psql backslash commands) and return its output lines.

        Server warnings are in `self.warnings` afterwards. Raise PsqlError if a statement failed, and
        PsqlUnreachable if the session was lost or gave no answer within `limit_seconds` (then it is ended).
        """
        marker = f"done-{uuid.uuid4().hex}"
        # With several statements ERROR would tell of the last one only; messages are in the server's own language.
        text = (
            f"\\set LAST_ERROR_SQLSTATE 00000\n{sql.strip().rstrip(';')}\n;\n"
            f"\\echo {marker} :LAST_ERROR_SQLSTATE\n\\warn {marker}\n"
        )
        try:
            self._stdin.write(text)
            self._stdin.flush()
        except OSError:
            raise PsqlUnreachable(self._last_words()) from None
        deadline = None if limit_seconds is None else time.monotonic() + limit_seconds
        output = self._read_until(self._output, marker, deadline)
        messages = self._read_until(self._messages, marker, deadline)
        sqlstate = output.pop()[len(marker) :].strip()
        messages.pop()
        self.warnings = [m for m in messages if not m.startswith(("LOCATION:", "CONTEXT:"))]
        if sqlstate != "00000":
            raise _error_from(self.warnings, sqlstate)
        return output

    def rows(self, query: str, limit_seconds: float | None = None) -> list[dict[str, Any]]:
        """Run one SELECT and return its rows as dicts (JSON types; timestamps are ISO 8601 text)."""
        lines = self.execute(
            f"SELECT coalesce(json_agg(row_to_json(q)), '[]')::text FROM (\n{query.strip().rstrip(';')}\n) q",  # noqa: S608 - the caller's own query, in brackets
            limit_seconds,
        )
        rows: list[dict[str, Any]] = json.loads("\n".join(lines))
        return rows

    def value(self, query: str, limit_seconds: float | None = None) -> Any:
        """Run one SELECT and return the first column of its only row."""
        row = self.rows(query, limit_seconds)[0]
        return next(iter(row.values()))

    def _read_until(self, lines: queue.Queue[str | None], marker: str, deadline: float | None) -> list[str]:
        read: list[str] = []
        while True:
            try:
                line = lines.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                self._abandon()
                raise PsqlUnreachable(
                    "the server gave no answer within the time limit; the session was ended"
                ) from None
            if line is None:
                lines.put(None)  # the end stays the end: who asks again must not wait for ever
                raise PsqlUnreachable(self._last_words(read))
            read.append(line)
            if line.startswith(marker):
                return read

    def _abandon(self) -> None:
        # SIGINT makes psql send a cancel request; a server that is frozen does not hear it.
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=10)

    def _last_words(self, read: list[str] | None = None) -> str:
        words = list(read or [])
        while True:
            try:
                line = self._messages.get(timeout=2)
            except queue.Empty:
                break
            if line is None:
                self._messages.put(None)
                break
            words.append(line)
        told = [w for w in words if w.strip() and not w.startswith(("LOCATION:", "CONTEXT:"))]
        return " ".join(told)[:600] or "psql ended without a message"


def _read_lines(stream: Any, lines: queue.Queue[str | None]) -> None:
    try:
        for line in stream:
            lines.put(line.rstrip("\n"))
    except ValueError:  # the stream was closed under us: the session ends
        pass
    finally:
        lines.put(None)


def _error_from(messages: list[str], sqlstate: str) -> PsqlError:
    """Return the error with this code; the severity before it is in the language of the server."""
    for message in messages:
        found = re.match(rf"(?:psql:[^ ]* )?[^:]+: +{re.escape(sqlstate)}: (.*)", message) if sqlstate else None
        if found:
            return PsqlError(sqlstate, found.group(1))
    return PsqlError(sqlstate, " ".join(messages)[:300] or "the statement failed without a message")
