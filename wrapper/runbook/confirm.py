"""Asks a person, remedy by remedy, about what can destroy data or evidence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click

from runbook.catalog import Catalog, Runbook
from runbook.errors import BadInput
from runbook.manual import ask_manual, given_answers, prompt
from runbook.project import Project
from runbook.record import Remedy, Store, Who, now
from runbook.redact import shared
from runbook.runs import Observer, Request, execute


def refuse_nonsense(runbook: Runbook, request: Request) -> None:
    """Raise BadInput when --fix or --confirm is given where it means nothing."""
    if request.fix and runbook.mode != "diagnose":
        said = f"{runbook.slug} carries out its steps by itself; --fix is for runbooks that diagnose first."
        raise BadInput(said, f"Leave it out: runbook run {runbook.slug}. --check shows the plan.")
    # A maintenance runbook with a destructive step wants to be told the name of what it replaces.
    names_targets = runbook.mode != "diagnose" and any(step.kind == "destructive" for step in runbook.steps)
    if request.confirm and request.fix != "destructive" and not names_targets:
        raise BadInput("--confirm is given without --fix destructive.", "Add it, or leave the token out.")


def ask_before(project: Project, store: Store, request: Request, open_observer: Callable[[], Observer]) -> Request:
    """Given a request, refuse what makes no sense, ask what has to be asked, and return what to carry out."""
    runbook = Catalog(project).get(request.slug)
    refuse_nonsense(runbook, request)
    person = sys.stdin.isatty() and not request.check
    answers = given_answers(runbook, request.answers)
    acts = bool(request.fix) or runbook.mode != "diagnose"
    if acts and not request.check:
        me = Who.me()
        signed = ask_manual(runbook, answers, f"{me.user}@{me.host}", now, prompt if person else None, request.signed)
        request = replace(request, signed=tuple(signed))
    if request.fix == "destructive" and person and not request.confirm:
        request, looked = ask_first(project, store, request, open_observer)
        click.echo(f"Record of the diagnosis: {looked}", err=True)
    return request


def ask_first(
    project: Project, store: Store, request: Request, open_observer: Callable[[], Observer]
) -> tuple[Request, Path | None]:
    """Diagnose, ask about each destructive remedy of the plan, and return the request with the tokens of those agreed to.

    The second value is the record of that diagnosis. What is not agreed to is not carried out; safe remedies are.
    """
    looked = execute(project, store, replace(request, fix="", confirm=(), signed=()), open_observer)
    tokens = tuple(remedy.confirmation for remedy in looked.plan if remedy.confirmation and _agreed(remedy))
    fix = "destructive" if tokens else "change"
    return replace(request, fix=fix, confirm=tokens), store.folder(looked.id)


def _agreed(remedy: Remedy) -> bool:
    clean = shared().clean
    click.echo(f"\n{remedy.step} on {remedy.host} ({remedy.kind}): {clean(remedy.does)}", err=True)
    for target in remedy.targets:
        click.echo(f"  {clean(target)}", err=True)
    click.echo(f"  because of finding {clean(remedy.because)}", err=True)
    typed = click.prompt(f"Type {remedy.host} to have it carried out, anything else to leave it", default="", err=True,
                         show_default=False)  # fmt: skip
    return str(typed).strip() == remedy.host
