"""`runbook listen`: carry out runbooks when Alertmanager calls."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from runbook.alertmanager import is_loopback
from runbook.errors import BadInput, ExitCode, RunbookError
from runbook.options import current_project, open_records
from runbook.project import Project, state_dir

if TYPE_CHECKING:
    from runbook.listen.settings import Loaded

_EXTRA = "pip install 'llm-cost-tracker-runbooks[listen]'"


class AlreadyListening(RunbookError):
    code = ExitCode.REFUSED


@click.command("listen")
@click.option(
    "--config", "file", required=True, type=click.Path(path_type=Path), help="What to listen for; docs/alerts.md."
)
@click.option("--check", is_flag=True, help="Only tell whether the configuration holds.")
@click.pass_context
def command(ctx: click.Context, file: Path, check: bool) -> int:
    """Take alerts from Alertmanager's webhook and carry out the runbooks they call for.

    Diagnoses only, unless a route says `fix: change`. Nothing destructive is ever carried out.
    """
    from runbook.listen import settings  # noqa: PLC0415  start-up time matters

    project = current_project(ctx)
    loaded = settings.load(file, project)
    if check:
        click.echo(f"{file} holds: {len(loaded.settings.routes)} routes, {len(loaded.tokens)} tokens.", err=True)
        return 0
    return _serve(project, loaded)


def _serve(project: Project, loaded: Loaded) -> int:
    try:
        from runbook.listen import app  # noqa: PLC0415  an optional library
    except ImportError as error:
        raise BadInput(f"The listener needs {error.name}, which is not installed.", f"Install it: {_EXTRA}") from error
    from runbook.listen import hooks, queue, work  # noqa: PLC0415  start-up time matters
    from runbook.listen.clock import Clock  # noqa: PLC0415  for the same reason

    mine = loaded.settings
    if mine.tls is None and not is_loopback(mine.address):
        work.say(f"Warning: tokens and alerts reach {mine.address} unencrypted; set tls, or put a proxy before it")
    store = open_records(ready=True)
    alone = _alone(state_dir() / "queue")
    environment = work.environment_of_children(token.env for token in mine.tokens)
    runner = work.Commands(project.root, loaded.inventory, environment, store)
    listener = work.Listener(
        queue=queue.Queue(loaded.routes, Clock()), spool=queue.Spool(state_dir() / "queue"), runner=runner,
        hooks=hooks.commands(project.root, environment), workers=mine.workers,
        escalate_after_minutes=mine.escalate_after_minutes,
    )  # fmt: skip
    with alone:
        return app.serve(app.Intake(listener, mine, loaded.tokens))


def _alone(folder: Path) -> IO[str]:
    """Return the lock that keeps a second listener from the same queue. Raise AlreadyListening."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise AlreadyListening(f"Another listener works on {folder}.", "Stop it, or set RUNBOOK_STATE_DIR.") from error
    return lock
