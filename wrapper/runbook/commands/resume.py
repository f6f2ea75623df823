"""`runbook runs resume`: go on with a run where it failed."""

from __future__ import annotations

import json

import click

from runbook.errors import BadInput, ExitCode, RunbookError
from runbook.flow import carry_out
from runbook.options import complete_runs, current_project, open_records
from runbook.record import Record
from runbook.redact import MASK
from runbook.render import Terminal
from runbook.runs import Observer, Request


class Refused(RunbookError):
    code = ExitCode.REFUSED


@click.command("resume")
@click.argument("run_id", metavar="ID", shell_complete=complete_runs)
@click.option(
    "--set", "sets", multiple=True, metavar="NAME=VALUE", help="Inputs that were secret, and so were not kept."
)
@click.option("--confirm", multiple=True, metavar="TOKEN", help="Confirms the destructive plan anew.")
@click.option("--reason", default="", help="Why; the reason of the first run where it is left out.")
@click.option("--quiet-escalation", "quiet", is_flag=True, help="Tell nobody, whatever the run finds.")
@click.option("--json", "as_json", is_flag=True, help="Print the finished record as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    run_id: str,
    sets: tuple[str, ...],
    confirm: tuple[str, ...],
    reason: str,
    quiet: bool,
    as_json: bool,
) -> int:
    """Carry a run that failed on from the step that failed, with the same inventory, hosts and inputs.

    Its preconditions are looked at again first: bad input, leases and all checks.
    """
    store = open_records(ready=True)
    old = store.load(run_id)
    step = failed_step(old)
    own = {item.partition("=")[0] for item in sets}
    if missing := [name for name, value in old.inputs.items() if value == MASK and name not in own]:
        said = f"The inputs {', '.join(missing)} of run {old.id} were secret and are not in its record."
        raise BadInput(said, f"Give them again: {' '.join(f'--set {name}=...' for name in missing)}")
    kept = {name: value for name, value in old.inputs.items() if name not in own}
    request = Request(
        old.runbook, tuple(old.inventory), old.limit, sets=(*(_item(*pair) for pair in kept.items()), *sets),
        reason=reason or old.reason, ticket=old.ticket, timeout=old.time_limit_seconds, fix=old.fix, confirm=confirm,
        alerts=tuple(old.alerts), signed=tuple(old.manual), resumes=old.id, resume_from=step,
    )  # fmt: skip
    click.echo(f"Resuming run {old.id} {f'at step {step}' if step else 'from its beginning'}.", err=True)

    def terminal() -> Observer:
        return Terminal(as_json=as_json)

    return carry_out(current_project(ctx), store, request, terminal, quiet)


def failed_step(old: Record) -> str:
    """Return the step of the runbook's own at which a run ended; empty where it did not come that far.

    Raise Refused for a run that is at work, has succeeded, or only looked.
    """
    if not old.finished:
        raise Refused(f"Run {old.id} is still at work.", "Wait until it has ended.")
    if old.state == "succeeded" or old.check:
        said = "was only a check" if old.check else "has succeeded"
        raise Refused(f"Run {old.id} {said}; there is nothing to resume.", f"Run it again: runbook run {old.runbook}")
    own = [step for step in old.steps if step.kind != "frame"]
    return next((step.id for step in own if step.state in ("failed", "running")), "")


def _item(name: str, value: object) -> str:
    return f"{name}={value if isinstance(value, str) else json.dumps(value)}"
