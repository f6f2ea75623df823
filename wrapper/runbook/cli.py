"""The command line. Every command returns an exit code; what it needs is imported when it is called.

`runbook list` has to answer at once, and `runbook run` must not keep Ansible waiting for libraries.
"""
# ruff: noqa: PLC0415  see above

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from runbook import __version__, errors
from runbook.options import (
    complete_slugs,
    current_project,
    inventory_option,
    json_option,
    limit_option,
    open_records,
    print_json,
    run_argument,
    slug_argument,
)
from runbook.project import state_dir

if TYPE_CHECKING:
    from runbook.record import Record, Store
    from runbook.silence import Wanted

_SECONDS = click.FloatRange(min=0, min_open=True)
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Commands(click.Group):
    """Commands that live in a file of their own are imported when they are called: `group name` -> `file:object`."""

    ELSEWHERE: ClassVar[dict[str, str]] = {
        "escalate": "escalate:command",
        "identify": "identify:command",
        "lease": "leases:commands",
        "listen": "listen:command",
        "note": "notes:command",
        "runs postmortem": "postmortem:command",
        "runs resume": "resume:command",
    }

    def _elsewhere(self) -> dict[str, str]:
        prefix = "" if self.name == "cli" else f"{self.name} "
        mine = {key.removeprefix(prefix): place for key, place in self.ELSEWHERE.items() if key.startswith(prefix)}
        return {name: place for name, place in mine.items() if " " not in name}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._elsewhere()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = self._elsewhere().get(cmd_name)
        if place is None:
            return super().get_command(ctx, cmd_name)
        file, _, name = place.partition(":")
        found: click.Command = getattr(import_module(f"runbook.commands.{file}"), name)
        return found


@click.group(context_settings=CONTEXT, cls=Commands)
@click.option("--project", envvar="RUNBOOK_PROJECT", metavar="DIR", help="Folder with playbooks/ and roles/.")
@click.version_option(__version__, prog_name="runbook")
def cli(project: str | None) -> None:
    """Carry out runbooks with Ansible, and remember what was done.

    Exit codes of a run: 0 nothing left open, 1 findings left open, 2 failed, 3 refused, 4 unreachable,
    5 bad input, 6 --check found work, 124 time limit, 130 cancelled.
    """


@cli.command("list")
@json_option
@click.pass_context
def list_command(ctx: click.Context, as_json: bool) -> int:
    """List the runbooks, and when each was last carried out."""
    from runbook.overview import overview, show_overview

    rows = overview(current_project(ctx), open_records())
    print_json(rows) if as_json else show_overview(rows)
    return 0


@cli.command()
@slug_argument
@click.pass_context
def show(ctx: click.Context, slug: str) -> int:
    """Show a runbook's page in the terminal."""
    from rich.console import Console
    from rich.markdown import Markdown

    from runbook.catalog import Catalog
    from runbook.docs import page

    project = current_project(ctx)
    text = page(project, Catalog(project).get(slug), diagram=False)
    if sys.stdout.isatty():
        Console(highlight=False).print(Markdown(text))
    else:
        click.echo(text, nl=False)
    return 0


class RunCommand(click.Command):
    """`run` with a help text that goes on with the inputs of the runbook that was named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["runbook.words"] = [word for word in args if not word.startswith("-")]
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from runbook.catalog import Catalog
        from runbook.inputs import frame_options, load_options

        project = current_project(ctx)
        catalog = Catalog(project)
        slug = next((word for word in ctx.meta.get("runbook.words", ()) if word in catalog.slugs), None)
        if slug is None:
            with formatter.section("Runbooks"):
                formatter.write_text(", ".join(catalog.slugs) or "none")
            return
        runbook = catalog.get(slug)
        own = load_options(project.roles / runbook.role, runbook.entry)
        for title, options in ((slug, own), ("every run", frame_options(project.roles))):
            if options:
                with formatter.section(f"Inputs of {title} (--set name=value)"):
                    formatter.write_dl([(name, _describe(option)) for name, option in options.items()])


def _describe(option: Any) -> str:
    facts = [option.kind]
    if option.required:
        facts.append("required")
    elif option.default is not None:
        facts.append(f"default {json.dumps(option.default, default=str)}")
    if option.choices:
        facts.append(f"one of {', '.join(map(str, option.choices))}")
    return f"{option.text} [{', '.join(facts)}]".strip()


@cli.command(cls=RunCommand)
@slug_argument
@inventory_option
@limit_option
@click.option("--check", is_flag=True, help="Change nothing, show what would be done; exit code 6 if any.")
@click.option("--diff", is_flag=True, help="Show what changes, line by line, with -v.")
@click.option("--set", "sets", multiple=True, metavar="NAME=VALUE|@FILE", help="An input, or a file of them.")
@click.option("--reason", default="", help="Why this is done; kept in the record.")
@click.option("--ticket", default="", help="The ticket or incident this belongs to; kept in the record.")
@click.option("--alert", metavar="FILE|-", help="The alert this answers, as Alertmanager tells it; kept in the record.")
@click.option("--timeout", type=_SECONDS, metavar="S", help="Time limit in seconds.")
@click.option(
    "--fix", type=click.Choice(["change", "destructive"]), is_flag=False, flag_value="change", metavar="[CLASS]",
    help="Carry out the remedies that the findings call for: safe ones, or with `destructive` confirmed ones too.",
)  # fmt: skip
@click.option("--confirm", multiple=True, metavar="TOKEN", help="Confirms a destructive plan; a diagnosis prints it.")
@click.option("--sign", "answers", multiple=True, metavar="STEP=ANSWER", help="What was done about a manual step.")
@click.option("--quiet-escalation", is_flag=True, help="Tell nobody, whatever the run finds.")
@click.option("--silence", is_flag=True, help="Keep Alertmanager quiet about the alerts it answers while it runs.")
@click.option("--alertmanager", "address", envvar="RUNBOOK_ALERTMANAGER", metavar="URL", help="Where --silence asks.")
@click.option("--silence-matcher", "matchers", multiple=True, metavar="NAME=VALUE", help="Silence these labels instead.")
@click.option("--silence-max", "at_most", default=5, show_default=True, type=click.IntRange(1), metavar="K",
              help="Refuse a silence that hits more alerts.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the finished record as JSON.")
@click.option("--jsonl", is_flag=True, help="Print events as they happen, one JSON object a line.")
@click.option("-v", "--verbose", count=True, help="Show every task; twice and more: Ansible's own verbosity.")
@click.pass_context
def run(ctx: click.Context, /, as_json: bool, jsonl: bool, verbose: int, **asked: Any) -> int:
    """Carry out a runbook. `runbook run RUNBOOK --help` lists its inputs."""
    from runbook.flow import carry_out
    from runbook.runs import Observer, Request

    def terminal() -> Observer:
        from runbook.render import Terminal

        return Terminal(jsonl, as_json, verbose)

    asked["fix"], untold = asked["fix"] or "", asked.pop("quiet_escalation")
    if alert := asked.pop("alert"):
        from runbook.alerts import load

        asked["alerts"] = tuple(found.ref() for found in load(alert))
    silence = _silence(*(asked.pop(name) for name in ("silence", "address", "matchers", "at_most")))
    request = Request(verbosity=max(verbose - 1, int(asked["diff"] and verbose > 1)), **asked)
    project, store = current_project(ctx), open_records(ready=True)
    return carry_out(project, store, request, terminal, untold, silence)


def _silence(asked: bool, address: str | None, matchers: tuple[str, ...], at_most: int) -> Wanted | None:
    if not (asked or matchers):
        return None
    from runbook.silence import wanted

    return wanted(asked, address, matchers, at_most)


@cli.group(cls=Commands)
def runs() -> None:
    """Look at what was done. ID may be the start of an id, or `last`."""


@runs.command("list")
@click.option("--runbook", "slug", metavar="RUNBOOK", shell_complete=complete_slugs, help="Only its runs.")
@click.option("--failed", is_flag=True, help="Only runs that did not succeed.")
@click.option("--host", metavar="HOST", help="Only runs that touched this host.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="At most so many.")
@json_option
def runs_list(slug: str | None, failed: bool, host: str | None, limit: int, as_json: bool) -> int:
    """List runs, newest first."""
    from runbook.overview import show_runs

    found = list(islice(open_records().select(slug, failed, host), limit))
    print_json(found) if as_json else show_runs(found)
    return 0


def _record(run_id: str) -> tuple[Store, Record]:
    store = open_records()
    return store, store.load(run_id)


@runs.command("show")
@run_argument
@json_option
def runs_show(run_id: str, as_json: bool) -> int:
    """Show one run."""
    from runbook.overview import show_run
    from runbook.render import document

    store, record = _record(run_id)
    print_json(document(record)) if as_json else show_run(record, store.folder(record.id))
    return 0


@runs.command("replay")
@run_argument
def runs_replay(run_id: str) -> int:
    """Show a run's events again, as they happened."""
    from runbook.overview import replay

    store, record = _record(run_id)
    replay(store, record)
    return 0


@runs.command("report")
@run_argument
@click.option("--html", "form", flag_value="html", help="One self-contained page.")
@click.option("--markdown", "form", flag_value="markdown", default=True, help="Markdown (the default).")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write; else stdout.")
def runs_report(run_id: str, form: str, output: Path | None) -> int:
    """Write a report of a run, for people."""
    from runbook.report import report

    store, record = _record(run_id)
    text = report(record, store, html=form == "html")
    if output is None:
        click.echo(text, nl=False)
        return 0
    from runbook.files import write_output

    write_output(output, text, "Report")
    return 0


@cli.command()
@inventory_option
@limit_option
@json_option
@click.pass_context
def doctor(ctx: click.Context, inventory: tuple[str, ...], limit: str | None, as_json: bool) -> int:
    """Tell whether runbooks can be carried out from here, and what to do where not."""
    from runbook.doctor import examine, show_examined

    results = examine(current_project(ctx), inventory, limit)
    print_json([vars(result) for result in results]) if as_json else show_examined(results)
    return 0 if all(result.ok for result in results) else 1


@cli.command()
@slug_argument
@inventory_option
@limit_option
@click.option("--secrets", is_flag=True, help="Print secret values as well; they end up in your shell.")
@click.pass_context
def env(ctx: click.Context, slug: str, inventory: tuple[str, ...], limit: str | None, secrets: bool) -> int:
    """Print the variables a page's commands use: eval "$(runbook env RUNBOOK -i INVENTORY -l HOST)"."""
    from runbook.environments import check_environment, exports

    values = check_environment(current_project(ctx), slug, inventory, limit)
    click.echo(exports(values, secrets), nl=False)
    return 0


@cli.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 when a page is stale.")
@click.pass_context
def docs(ctx: click.Context, check: bool) -> int:
    """Render docs/runbooks/ from the roles."""
    from runbook.docs import write_pages

    project = current_project(ctx)
    stale = write_pages(project, check)
    for path in stale:
        click.echo(f"{'Stale' if check else 'Written'}: {path}", err=True)
    if check and stale:
        click.echo("Run `runbook docs` and commit what it writes.", err=True)
    return int(check and bool(stale))


def main() -> None:
    """Run the command line and exit with its code."""
    if os.environ.get("NO_COLOR") == "":
        del os.environ["NO_COLOR"]  # no-color.org: an empty value does not count; rich thinks it does
    sys.exit(errors.boundary(lambda: cli.main(prog_name="runbook", standalone_mode=False), state_dir))
