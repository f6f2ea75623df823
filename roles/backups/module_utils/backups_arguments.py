# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Arguments that the modules of the role share, and how they become a job."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from ansible.module_utils.backups_engine import EngineRefused
from ansible.module_utils.backups_figures import FiguresError
from ansible.module_utils.backups_planner import Limits
from ansible.module_utils.backups_scratch import ScratchError, ScratchRefused
from ansible.module_utils.backups_survey import Job
from ansible.module_utils.runbook_components import ComponentError
from ansible.module_utils.runbook_lease import LeaseHeld
from ansible.module_utils.runbook_psql import CONNECTION_ARGUMENT, PsqlError, PsqlUnreachable, connection_from
from ansible.module_utils.runbook_result import report
from ansible.module_utils.runbook_state import StateError
from ansible.module_utils.runbook_tools import ToolError

Value = TypeVar("Value")

ARGUMENTS: dict[str, Any] = {
    "connection": CONNECTION_ARGUMENT,
    "limits": {"type": "dict", "default": {}},
    "state_dir": {"type": "path", "required": True},
    "engine": {"type": "str", "choices": ["pgbackrest", "basebackup"], "required": True},
    "repository": {"type": "path", "required": True},
    "repository_local": {"type": "bool", "default": True},
    "stanza": {"type": "str", "required": True},
    "config": {"type": "path", "required": True},
    "config_text": {"type": "str", "default": "", "no_log": True},
    "wal_method": {"type": "str", "choices": ["archive", "receive"], "default": "archive"},
    "files_repository": {"type": "str", "required": True},
    "files_environment": {"type": "dict", "default": {}, "no_log": True},
    "files_options": {"type": "list", "elements": "str", "default": []},
    "files_cacert": {"type": "path"},
    "passphrase": {"type": "str", "required": True, "no_log": True},
    "passphrase_kept_at": {"type": "str", "default": "", "no_log": False},
    "append_only": {"type": "bool", "default": False},
    "nice": {"type": "int", "default": 10},
    "upload_limit_kib": {"type": "int"},
    "scratch_dir": {"type": "path", "required": True},
    "manage_packages": {"type": "bool", "default": True},
    "manage_archiving": {"type": "bool", "default": True},
    "takeover": {"type": "bool", "default": False},
    "restart_allowed": {"type": "bool", "default": False},
    "archive_timeout_seconds": {"type": "int", "default": 60},
    "wal_wait_seconds": {"type": "int", "default": 300},
    "count_seconds": {"type": "int", "default": 300},
    "recovery_limit_seconds": {"type": "int", "default": 14400},
    "amcheck": {"type": "bool", "default": True},
    "check_parts": {"type": "int", "default": 7},
    "lock_age_seconds": {"type": "int", "default": 1800},
    "redis": {
        "type": "dict",
        "options": {
            "host": {"type": "str"},
            "port": {"type": "int"},
            "socket": {"type": "path"},
            "user": {"type": "str"},
            "password": {"type": "str", "no_log": True},
        },
    },
    "grafana_database": {"type": "path"},
    "files": {"type": "list", "elements": "dict", "default": []},
    "costs": {"type": "list", "elements": "dict", "default": []},
    "components": {"type": "dict", "default": {}},
    "parts": {"type": "list", "elements": "str", "default": []},
}
SAME = (
    "engine", "repository", "stanza", "config", "wal_method", "files_repository", "passphrase", "nice", "scratch_dir",
    "upload_limit_kib", "manage_packages", "manage_archiving", "takeover", "restart_allowed", "archive_timeout_seconds",
    "wal_wait_seconds", "count_seconds", "recovery_limit_seconds", "amcheck", "check_parts", "lock_age_seconds",
    "passphrase_kept_at", "append_only", "files", "costs", "components", "parts",
)  # fmt: skip


def server_programs(given: dict[str, Any]) -> str | None:
    """Return the folder of the server's programs: the one given, that of the running server, or the newest installed."""
    if given.get("bin_dir"):
        return str(given["bin_dir"])
    # Debian keeps them outside of PATH, one folder for each version.
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda p: int(p.split("/")[4]) if p.split("/")[4].isdigit() else 0)
    if len(found) > 1:
        running = set(_running_programs())
        found = [p for p in found if f"{p}/postgres" in running] or found
    return found[-1] if found else None


def _running_programs() -> Iterator[str]:
    """Yield the names by which the processes of this host were started; not every host has ps."""
    for entry in glob.glob("/proc/[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended in the meantime
            yield Path(entry).read_bytes().split(b"\0")[0].decode("utf-8", "replace")


def limits_from(given: dict[str, Any]) -> Limits:
    """Return the limits. Raise ValueError for one that is not known."""
    known = {f.name for f in fields(Limits)}
    if unknown := set(given) - known:
        raise ValueError(f"unknown limits: {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
    return Limits(**{name: int(value) for name, value in given.items()})


def job_from(params: dict[str, Any]) -> Job:
    """Return the job that the module arguments describe. Raise ValueError for an unknown limit."""
    bin_dir = server_programs(params["connection"])
    redis = {key: value for key, value in (params["redis"] or {}).items() if value not in (None, "")}
    return Job(
        # A server's own folder may lack its client.
        connection=connection_from(params["connection"], bin_dir if bin_dir and os.path.exists(f"{bin_dir}/psql") else None),
        limits=limits_from(params["limits"]),
        state_dir=Path(params["state_dir"]),
        repository_path=params["repository"] if params["repository_local"] else "",
        config_text=params["config_text"] + ("\n" if params["config_text"] and not params["config_text"].endswith("\n") else ""),
        os_user=params["connection"].get("os_user") or None,
        bin_dir=bin_dir,
        files_environment={k: str(v) for k, v in params["files_environment"].items()},
        files_options=tuple(params["files_options"]),
        files_cacert=params["files_cacert"] or None,
        redis=redis or None,
        grafana_database=params["grafana_database"] or None,
        **{name: params[name] for name in SAME},
    )


def carried_out(module: Any, act: Callable[[], Value], told: Callable[[], dict[str, Any]]) -> Value:
    """Return what `act` does. Where that is refused, unreachable or fails, the module ends with what was `told` so far."""
    outcome: str | None = None
    try:
        return act()
    except (EngineRefused, ScratchRefused, LeaseHeld) as error:
        outcome, message = "refused", str(error)
    except PsqlUnreachable as error:
        outcome, message = "unreachable", f"the database cannot be reached: {error}"
    except (ToolError, ScratchError, FiguresError, ComponentError, PsqlError, StateError) as error:
        message = str(error)
    except (OSError, ValueError) as error:
        message = f"{type(error).__name__}: {error}"
    so_far = told()
    return module.fail_json(
        msg=message,
        runbook=report(so_far.get("findings", []), so_far.get("actions", []), outcome=outcome, message=message),
    )
