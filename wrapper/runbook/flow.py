"""What `run` and `resume` have in common: a person is asked before, the run is carried out, others are told after."""

from __future__ import annotations

from collections.abc import Callable

import click

from runbook.project import Project
from runbook.record import Record, Store
from runbook.runs import Observer, Request, execute


def carry_out(
    project: Project, store: Store, request: Request, open_observer: Callable[[], Observer], quiet: bool
) -> int:
    """Given a request, carry it out with all that surrounds it, and return the exit code; `quiet` tells nobody else."""
    if request.fix or request.confirm or request.answers:
        from runbook.confirm import before_fix  # noqa: PLC0415  only an incident needs it

        request = before_fix(project, store, request, open_observer)
    record = execute(project, store, request, open_observer)
    if not quiet:
        _tell(project, store, record)
    click.echo(f"Record: {store.folder(record.id) / 'run.json'}", err=True)
    return record.exit_code or 0


def _tell(project: Project, store: Store, record: Record) -> None:
    from runbook.escalation import after_run  # noqa: PLC0415  only where somebody may have to be told

    after_run(project, store, record, lambda text: click.echo(text, err=True))
