"""`runbook runs postmortem`: the incident file of one or several runs."""

from __future__ import annotations

from pathlib import Path

import click

from runbook.catalog import Catalog, Lesson
from runbook.docs import write_pages
from runbook.files import write_output
from runbook.options import complete_runs, current_project, open_records
from runbook.postmortem import add_lesson, incident, render
from runbook.record import now
from runbook.redact import shared


@click.command("postmortem")
@click.argument("run_ids", nargs=-1, required=True, metavar="ID...", shell_complete=complete_runs)
@click.option("--html", "form", flag_value="html", help="One self-contained page.")
@click.option("--markdown", "form", flag_value="markdown", default=True, help="Markdown (the default).")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write; else stdout.")
@click.option("--lesson", metavar="TEXT", help="What was learned; appended to the runbook's data and page.")
@click.pass_context
def command(ctx: click.Context, run_ids: tuple[str, ...], form: str, output: Path | None, lesson: str | None) -> int:
    """Write the incident file of runs: timeline from alert to recovery, causes, actions, and the questions left."""

    store = open_records()
    records = list({record.id: record for record in map(store.load, run_ids)}.values())
    text = render(incident(records, store), html=form == "html")
    if lesson:
        _learn(ctx, lesson, records[-1].runbook, records[-1].id)
    if output is None:
        click.echo(text, nl=False)
        return 0

    write_output(output, text, "Incident file")
    return 0


def _learn(ctx: click.Context, text: str, slug: str, run_id: str) -> None:

    project = current_project(ctx)
    lesson = Lesson(now().date().isoformat(), " ".join(shared().clean(text).split()), run_id)
    path = add_lesson(project, Catalog(project).get(slug), lesson)
    for page in [path, *write_pages(project, check=False)]:
        click.echo(f"Written: {page}", err=True)
