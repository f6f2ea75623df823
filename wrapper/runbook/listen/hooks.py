"""What happens around a job beside its run: who is told when an alert does not clear, and when it does."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from runbook.listen.queue import Job, safe_name

TIME_LIMIT = 120.0  # seconds; delivery tries several ways, each with a limit of its own

Hook = Callable[[Job], Awaitable[bool]]


@dataclass(frozen=True)
class Hooks:
    """Each returns whether it is done; what is not is tried again."""

    closed: Hook
    escalate: Hook


def commands(project: Path, environment: dict[str, str]) -> Hooks:
    """Return hooks that call `runbook escalate`."""

    async def closed(job: Job) -> bool:
        return await _call(project, environment, job, "resolve", f"alert {safe_name(job.alert)} is resolved")

    async def escalate(job: Job) -> bool:
        why = f"alert {safe_name(job.alert)} still fires after the run"
        return await _call(project, environment, job, "trigger", why)

    return Hooks(closed, escalate)


async def _call(project: Path, environment: dict[str, str], job: Job, event: str, why: str) -> bool:
    words = ["escalate", job.run_id, "--event", event, "--why", why]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runbook", "--project", str(project), *words,
        env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        return await asyncio.wait_for(process.wait(), TIME_LIMIT) == 0
    except TimeoutError:
        process.kill()
        await process.wait()
        return False
