"""`runbook note`: write down beside a run what a person saw or did."""

from __future__ import annotations

import click

from runbook.errors import BadInput
from runbook.options import complete_runs, open_records
from runbook.record import OperatorNote, Who, now
from runbook.redact import shared

NOTE_MAX = 10_000


@click.command("note")
@click.argument("words", nargs=-1, required=True, metavar="TEXT...")
@click.option("--run", "run_id", default="last", show_default=True, metavar="ID", shell_complete=complete_runs,
              help="The run it belongs to.")  # fmt: skip
def command(words: tuple[str, ...], run_id: str) -> int:
    """Write a note into the record of a run, with the time and your name."""

    text = " ".join(words).strip()
    if not text or len(text) > NOTE_MAX:
        raise BadInput(f"The note has {len(text)} characters; it must have 1 to {NOTE_MAX}.", "Put a file elsewhere.")
    store = open_records(ready=True)
    who = Who.me()
    note = OperatorNote(now(), f"{who.user}@{who.host}", shared().clean(text))
    record = store.amend(run_id, lambda record: record.said.append(note))
    click.echo(f"Noted beside run {record.id} ({record.runbook}).", err=True)
    return 0
