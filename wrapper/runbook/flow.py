"""What `run` and `resume` have in common: a person is asked before, the run is carried out, others are told after."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import click

from runbook.confirm import ask_before
from runbook.project import Project
from runbook.record import Record, Store
from runbook.redact import shared
from runbook.runs import Around, Observer, Request, execute

if TYPE_CHECKING:
    from runbook.silence import Wanted


def carry_out(
    project: Project, store: Store, request: Request, open_observer: Callable[[], Observer], quiet: bool,
    silence: Wanted | None = None,
) -> int:  # fmt: skip
    """Given a request, carry it out with all that surrounds it, and return the exit code; `quiet` tells nobody else."""
    request = ask_before(project, store, request, open_observer)
    around = _silenced(project, store, silence) if silence else nullcontext
    record = execute(project, store, request, open_observer, around)
    if not quiet:
        _tell(project, store, record)
    click.echo(f"Record: {store.folder(record.id) / 'run.json'}", err=True)
    return record.exit_code or 0


def _silenced(project: Project, store: Store, silence: Wanted) -> Around:
    from runbook.silence import silenced  # noqa: PLC0415  only where it is asked for

    return partial(silenced, project, store, silence, _say)


def _tell(project: Project, store: Store, record: Record) -> None:
    from runbook.escalation import after_run  # noqa: PLC0415  only where somebody may have to be told

    after_run(project, store, record, _say)


def _say(text: str) -> None:
    click.echo(shared().clean(text), err=True)
