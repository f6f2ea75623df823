"""`runbook escalate`: tell people of a run that has ended, or that its incident is over."""

from __future__ import annotations

import click

from runbook.errors import BadInput
from runbook.escalation import Desk, Event, Undelivered, deliver, escalate, report
from runbook.inventory import resolve
from runbook.options import current_project, inventory_option, open_records, run_argument


@click.command("escalate")
@run_argument
@click.option("--event", type=click.Choice(["trigger", "resolve"]), default="trigger", show_default=True,
              help="Something is wrong, or it is over.")  # fmt: skip
@click.option("--why", required=True, metavar="TEXT", help="Why people are told; in the message.")
@inventory_option
@click.pass_context
def command(ctx: click.Context, run_id: str, event: Event, why: str, inventory: tuple[str, ...]) -> int:
    """Tell people of a run, by the inventory's tracker_escalation.

    Who is due by the age of the incident and was not told of it yet. Exit code 0: told, or nobody is due; 2: nobody
    could be told.
    """
    project, store = current_project(ctx), open_records(ready=True)
    record = store.load(run_id)
    if not record.finished:
        raise BadInput(
            f"Run {record.id} is still at work; when it ends it tells by itself.", "Wait until it has ended."
        )
    if inventory:
        record.inventory = [str(path) for path in resolve(inventory, project)]
    sent = escalate(project, Desk(store, deliver), record, event, why)
    report(sent, lambda text: click.echo(text, err=True))
    if not any(one.to for one in sent):
        told = "Nobody knows of it, so nobody was told." if event == "resolve" else "Nobody is due to be told now."
        click.echo(told, err=True)
    if any(not one.delivered for one in sent) and (event == "resolve" or not any(one.delivered for one in sent)):
        raise Undelivered("Not everybody could be told.", "Look at tracker_contacts, then try again.")
    return 0
