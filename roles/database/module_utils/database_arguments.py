# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Arguments that both modules of the role share, and how they become a job."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from ansible.module_utils.database_planner import Limits
from ansible.module_utils.database_work import Job, Maintenance, Refused, Result
from ansible.module_utils.runbook_psql import CONNECTION_ARGUMENT, PsqlError, PsqlUnreachable, connection_from
from ansible.module_utils.runbook_result import report
from ansible.module_utils.runbook_state import StateError

ARGUMENTS: dict[str, Any] = {
    "connection": CONNECTION_ARGUMENT,
    "limits": {"type": "dict", "default": {}},
    "retention": {"type": "list", "elements": "dict", "default": []},
    "redact": {"type": "list", "elements": "dict", "default": []},
    "state_dir": {"type": "path", "required": True},
    "data_dir": {"type": "path"},
    "jobs": {"type": "int", "default": 2},
    "count_seconds": {"type": "int", "default": 30},
    "reindex_wait_seconds": {"type": "int", "default": 60},
    "batch_timeout_seconds": {"type": "int", "default": 300},
    "batch_pause_percent": {"type": "int", "default": 0},
    "vacuum_truncate": {"type": "bool", "default": True},
    "ends_at": {"type": "float"},
}


def job_from(params: dict[str, Any]) -> Job:
    """Return the job that the module arguments describe. Raise ValueError for an unknown limit."""
    known = {f.name for f in fields(Limits)}
    unknown = set(params["limits"]) - known
    if unknown:
        raise ValueError(f"unknown limits: {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
    types = {f.name: f.type for f in fields(Limits)}
    limits = Limits(**{k: _typed(v, str(types[k])) for k, v in params["limits"].items()})
    deadline = float("inf")
    if params["ends_at"] is not None:
        deadline = time.monotonic() + params["ends_at"] - time.time()
    return Job(
        connection_from(params["connection"], params["connection"].get("bin_dir")),
        limits,
        Path(params["state_dir"]) / "memory",
        retention=params["retention"],
        redact=params["redact"],
        jobs=max(1, params["jobs"]),
        data_dir=params["data_dir"] or None,
        deadline=deadline,
        count_seconds=params["count_seconds"],
        reindex_wait_seconds=params["reindex_wait_seconds"],
        vacuum_truncate=params["vacuum_truncate"],
        batch_timeout_seconds=params["batch_timeout_seconds"],
        batch_pause_fraction=params["batch_pause_percent"] / 100,
    )


def _typed(value: Any, wanted: str) -> Any:
    if value is None or value == "":
        return None
    if "bool" in wanted:
        return value if isinstance(value, bool) else str(value).lower() in ("true", "yes", "1")
    return int(value) if "int" in wanted else float(value)


def maintain(module: Any, act: Callable[[Maintenance], Result]) -> Result:
    """Return what `act` does on the database that the module's arguments describe.

    Where that is refused, unreachable or fails, the module ends with that outcome.
    """
    try:
        with Maintenance(job_from(module.params)) as maintenance:
            return act(maintenance)
    except Refused as refused:
        outcome, message = refused.outcome, str(refused)
    except PsqlUnreachable as error:
        outcome, message = "unreachable", f"the database cannot be reached: {error}"
    except (PsqlError, StateError, ValueError) as error:
        outcome, message = None, str(error)
    return module.fail_json(msg=message, runbook=report(outcome=outcome, message=message))
