"""`runbook lease`: who works on what, and taking a resource from a run that will not give it back."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import click

from runbook import inventory, processes
from runbook.catalog import load_yaml
from runbook.errors import BadInput, ExitCode, RunbookError
from runbook.options import current_project, inventory_option, json_option, limit_option, open_records, print_json
from runbook.project import Project
from runbook.record import OperatorNote, Who, now
from runbook.render import consoles, plain, styled, table
from runbook.runs import ask
from runbook.units import duration


class Refused(RunbookError):
    code = ExitCode.REFUSED


def _ask(
    project: Project, inventories: tuple[str, ...], limit: str | None, **arguments: str
) -> dict[str, list[dict[str, Any]]]:
    """Return the leases per host, after breaking the one that `arguments` name."""
    paths = inventory.resolve(inventories, project)
    defaults = load_yaml((project.roles / "runbook" / "defaults" / "main.yml").read_text())
    task = {"name": "Read the leases", "runbook_lease": {"state_dir": "{{ runbook_state_dir }}", **arguments}}
    play = {
        "hosts": "all",
        "gather_facts": False,
        "become": "{{ tracker_become | default(true) | bool }}",
        "tasks": [task],
    }
    answer = ask(project, paths, limit, play, defaults)
    if not answer.results:
        raise RunbookError(answer.end.message or "No host answered.", answer.end.remedy or "Check -i and -l.")
    return {host: result["leases"] for host, result in answer.results.items()}


@click.group("lease")
def commands() -> None:
    """Leases: one run at a time per resource, whichever laptop, timer or alert started it."""


@commands.command("list")
@inventory_option
@limit_option
@json_option
@click.pass_context
def list_command(ctx: click.Context, inventory: tuple[str, ...], limit: str | None, as_json: bool) -> int:
    """List the leases on the hosts."""
    found = _ask(current_project(ctx), inventory, limit)
    if as_json:
        print_json(found)
        return 0
    out, err = consoles()
    rows = [(host, *_row(lease)) for host, leases in sorted(found.items()) for lease in leases]
    if not rows:
        err.print("No leases are held.")
        return 0
    out.print(table(("Host", "Resource", "Owner", "For", "Run", "Held", "State"), rows))
    return 0


def _row(lease: dict[str, Any]) -> tuple[Any, ...]:
    held = datetime.now(UTC).timestamp() - lease["acquired_at"]
    state = styled("running" if lease["alive"] else "expired")
    return plain(lease["resource"], "bold"), lease["owner"], lease["purpose"], lease["run_id"], duration(held), state


@commands.command("break")
@click.argument("resource")
@inventory_option
@limit_option
@click.option("--reason", required=True, help="Why; kept on the host and in the record of the run that loses it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Even when its run is known to be at work on this machine.")
@click.pass_context
def break_command(
    ctx: click.Context,
    resource: str,
    inventory: tuple[str, ...],
    limit: str | None,
    reason: str,
    yes: bool,
    force: bool,
) -> int:
    """Take RESOURCE from the run that holds it. The run goes on; make sure that it is dead."""
    project = current_project(ctx)
    if not reason.strip() or any(mark in reason + resource for mark in ("{{", "{%", "{#")):
        raise BadInput("--reason is empty, or has the marks of a template.", "Say in plain words why the lease is broken.")
    found = _ask(project, inventory, limit)
    held = {host: lease for host, leases in found.items() for lease in leases if lease["resource"] == resource}
    if not held:
        known = sorted({lease["resource"] for leases in found.values() for lease in leases})
        raise BadInput(
            f'No lease "{resource}" is held on {", ".join(sorted(found))}.', f"Held are: {', '.join(known) or 'none'}."
        )
    if len(held) > 1:
        raise BadInput(
            f"{len(held)} hosts have a lease {resource}: {', '.join(sorted(held))}.", "Name one of them with -l."
        )
    ((host, lease),) = held.items()
    _refuse_living(lease, force)
    told = f"{resource} on {host}, held by {lease['owner']} for {lease['purpose']} (run {lease['run_id']})"
    _confirm(told, host, yes)
    me = Who.me()
    who = f"{me.user}@{me.host}"
    _ask(project, inventory, host, resource=resource, who=who, reason=reason)
    click.echo(f"Broken: {told}", err=True)
    _remember(lease["run_id"], OperatorNote(now(), who, f"Lease {resource} on {host} was broken: {reason}"))
    return 0


def _refuse_living(lease: dict[str, Any], force: bool) -> None:
    if processes.of_run(lease["run_id"]) and not force:
        said = f"Run {lease['run_id']}, which holds {lease['resource']}, is at work on this machine."
        raise Refused(said, "Cancel it with Ctrl-C, or add --force.")


def _confirm(told: str, host: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused(f"Breaking {told} needs a confirmation.", "Add --yes.")
    typed = click.prompt(f"Break {told}? Type {host}", default="", show_default=False, err=True)
    if typed.strip() != host:
        raise Refused("Nothing was broken.")


def _remember(run_id: str, note: OperatorNote) -> None:
    """Write it beside the run as well, where its record is on this machine."""
    store = open_records()
    if run_id in store.ids():
        try:
            store.amend(run_id, lambda record: record.said.append(note))
        except BadInput as error:
            click.echo(f"Its record could not be amended: {error}", err=True)
