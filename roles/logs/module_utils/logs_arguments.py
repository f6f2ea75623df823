# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Arguments that the modules of the role share, and how they become what is given."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Callable, TypeVar

from ansible.module_utils.logs_archive import Archive, ArchiveError, FolderArchive, LogRestic, Redact, ResticArchive
from ansible.module_utils.logs_files import printable
from ansible.module_utils.logs_limits import Limits
from ansible.module_utils.logs_patterns import redact
from ansible.module_utils.logs_planner import Thresholds
from ansible.module_utils.logs_policy import POLICY_ARGUMENT, Policy, Server, policies_from
from ansible.module_utils.logs_survey import Given
from ansible.module_utils.logs_work import Refused
from ansible.module_utils.runbook_lease import LeaseHeld
from ansible.module_utils.runbook_psql import (
    CONNECTION_ARGUMENT,
    Connection,
    PsqlError,
    PsqlUnreachable,
    connection_from,
)
from ansible.module_utils.runbook_restic import SCHEMES, Repository
from ansible.module_utils.runbook_result import report
from ansible.module_utils.runbook_state import StateError
from ansible.module_utils.runbook_tools import ToolError, Tools

Value = TypeVar("Value")
ARCHIVE_ARGUMENTS: dict[str, Any] = {
    "archive_location": {"type": "str"},
    "archive_host": {"type": "str", "default": ""},
    "archive_passphrase": {"type": "str", "no_log": True},
    "archive_environment": {"type": "dict", "default": {}, "no_log": True},
    "archive_options": {"type": "list", "elements": "str", "default": []},
    "archive_redact": {"type": "bool", "default": False},
    "hold": {"type": "bool", "default": False},
    "hold_file": {"type": "path"},
}
ARGUMENTS: dict[str, Any] = {
    "policies": POLICY_ARGUMENT,
    "state_dir": {"type": "path", "required": True},
    "config": {"type": "path", "default": "/etc/logrotate.conf"},
    "config_dir": {"type": "path", "default": "/etc/logrotate.d"},
    "state_file": {"type": "path", "default": "/var/lib/logrotate/status"},
    "schedule": {"type": "str", "choices": ["system", "run"], "default": "system"},
    "dirs": {"type": "list", "elements": "path", "default": []},
    "ignored_paths": {"type": "list", "elements": "str", "default": []},
    "filesystems": {"type": "list", "elements": "path", "default": []},
    "thresholds": {"type": "dict", "default": {}},
    "archive_after_days": {"type": "int", "default": 7},
    "archive_max_days": {"type": "int"},
    **ARCHIVE_ARGUMENTS,
    "connection": {**CONNECTION_ARGUMENT, "required": False},
    "postgresql_settings": {"type": "dict", "default": {}},
    "journal": {"type": "dict"},
    "docker": {"type": "dict"},
    "tmpfiles": {"type": "list", "elements": "dict", "default": []},
    "manage_packages": {"type": "bool", "default": True},
    "confirm": {"type": "list", "elements": "str", "default": []},
    "host": {"type": "str", "default": ""},
}


class BadInput(ValueError):
    """The inputs make no sense; the text says which, the value seen and what to do."""


def archive_from(params: Mapping[str, Any]) -> Archive | None:
    """Return the archive: a folder, or a restic repository where there is a passphrase. None where there is no archive."""
    location = params["archive_location"]
    if not location:
        return None
    host = params["archive_host"] or os.uname().nodename
    if params["archive_passphrase"] or location.startswith(SCHEMES):
        if not params["archive_passphrase"]:
            raise BadInput(
                f"logs_archive_location is {location}, a restic repository, and logs_archive_passphrase is not set"
            )
        environment = {k: str(v) for k, v in params["archive_environment"].items()}
        repository = Repository(location, params["archive_passphrase"], environment, tuple(params["archive_options"]))
        return ResticArchive(LogRestic(repository, Tools(nice=10)), host)
    if not location.startswith("/"):
        raise BadInput(
            f"logs_archive_location is {location!r}; it must be an absolute path, or a location as restic takes it"
        )
    return FolderArchive(location, host)


def redact_from(params: Mapping[str, Any]) -> Redact | None:
    return redact if params["archive_redact"] else None


def server_from(params: Mapping[str, Any]) -> tuple[Server, Connection | None]:
    """Return how logrotate's script and how this role reach PostgreSQL."""
    given = params["connection"]
    if not given:
        return Server(os_user=""), None
    connection = connection_from(given, given.get("bin_dir"))
    psql = os.path.join(given["bin_dir"], "psql") if given.get("bin_dir") else "psql"
    os_user = given.get("os_user") or "" if os.geteuid() == 0 else ""
    return Server(given.get("host") or "", given.get("port"), given.get("user") or "postgres", os_user, psql), connection


def thresholds_from(given: Mapping[str, Any]) -> Thresholds:
    known = {f.name for f in fields(Thresholds)}
    if unknown := set(given) - known:
        raise BadInput(f"unknown thresholds: {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
    return Thresholds(**{name: float(value) for name, value in given.items()})


def given_from(params: Mapping[str, Any]) -> Given:
    """Return what the module arguments describe. Raise BadInput with all that is wrong, before anything was looked at."""
    try:
        policies = policies_from(params["policies"])
    except ValueError as error:
        raise BadInput(f"logs_policies: {error}") from error
    server, connection = server_from(params)
    limits = Limits(
        journal=params["journal"],
        docker=params["docker"],
        postgresql={k: _setting(v) for k, v in params["postgresql_settings"].items()},
        connection=connection,
        tmpfiles=tuple(params["tmpfiles"]),
        confirm=tuple(params["confirm"]),
        host=params["host"],
    )
    if told := limits.faults():
        raise BadInput("; ".join(told))
    archive = archive_from(params)
    if archive is None and (without := [p.name for p in policies if p.archive]):
        raise BadInput(f"the policies {', '.join(without)} have archive=true, and logs_archive_location is not set")
    return Given(
        policies=tuple(policies),
        state_dir=Path(params["state_dir"]),
        server=server,
        limits=limits,
        archive=archive,
        dirs=tuple(params["dirs"]),
        ignored_paths=tuple(params["ignored_paths"]),
        filesystems=tuple(params["filesystems"]),
        **{name: params[name] for name in ("config", "config_dir", "state_file", "schedule", "archive_after_days", "archive_max_days",
                                           "hold", "manage_packages")},
        hold_file=params["hold_file"] or "",
    )  # fmt: skip


def _setting(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def policy_rows(policies: tuple[Policy, ...], server: Server) -> list[dict[str, Any]]:
    """Return the policies as the reclaim takes them; it leaves alone what applications rotate by themselves."""
    return [
        {"name": p.name, "paths": list(p.paths), "keep_days": p.keep_days, "max_days": p.max_days, "archive": p.archive,
         "reopen": p.reopen_argv(server)}
        for p in policies
        if p.by_logrotate
    ]  # fmt: skip


def carried_out(module: Any, act: Callable[[], Value], told: Callable[[], dict[str, Any]]) -> Value:
    """Return what `act` does. Where that is refused, unreachable or fails, the module ends with what was `told` so far."""
    outcome: str | None = None
    try:
        return act()
    except (BadInput, Refused, LeaseHeld) as error:
        outcome, message = "refused", str(error)
    except (PsqlUnreachable, PsqlError, ToolError, StateError, ArchiveError) as error:
        message = str(error)
    except (OSError, ValueError) as error:
        message = f"{type(error).__name__}: {error}"
    so_far = told()
    return module.fail_json(
        msg=printable(message),
        runbook=printable(report(so_far.get("findings", []), so_far.get("actions", []), outcome=outcome, message=message)),
    )
