"""`runbook identify`: from an alert, or a few words, to the runbook and the command."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runbook.alertmanager import VARIABLE, firing
from runbook.alerts import Alert, load
from runbook.errors import BadInput
from runbook.identify import Answer, Router, grouped
from runbook.options import current_project, inventory_option, json_option, print_json

if TYPE_CHECKING:
    from rich.text import Text

_HOW = 'Give a file, - for stdin, words such as "disk full", or --alertmanager URL.'


@click.command("identify")
@click.argument("what", nargs=-1, metavar="[FILE|-|WORDS...]")
@click.option("--alertmanager", "address", metavar="URL",
              help=f"Ask this Alertmanager for the alerts that fire; {VARIABLE} where nothing else is given.")  # fmt: skip
@inventory_option
@json_option
@click.pass_context
def command(
    ctx: click.Context, what: tuple[str, ...], address: str | None, inventory: tuple[str, ...], as_json: bool
) -> int:
    """Tell which runbook an alert or a symptom calls for.

    FILE is what Alertmanager's webhook sends or its API lists. Exit code 0: found; 1: only a guess.
    """
    router = Router(current_project(ctx))
    if address and what:
        raise BadInput(f"Both {what[0]!r} and --alertmanager are given.", "Leave one of them out.")
    address = address or (None if what else os.environ.get(VARIABLE))
    file = what[0] if _is_file(what) else ""
    if file or address:
        found = firing(address) if address else load(file)
        answers = grouped(router.alert(alert) for alert in found if alert.firing)
        told = _left_out(found)
    elif what:
        answers, told = [router.words(" ".join(what))], ""
    else:
        raise BadInput("There is nothing to identify.", _HOW)
    lines = [router.command(answer, inventory, "" if file == "-" else file) for answer in answers]
    if as_json:
        print_json([_document(answer, line) for answer, line in zip(answers, lines, strict=True)])
    else:
        _show(answers, lines, told)
    return int(not all(answer.certain for answer in answers))


def _is_file(what: tuple[str, ...]) -> bool:
    """One word is a file when there is such a file, or when nothing else can be meant."""
    if len(what) != 1:
        return False
    try:
        return what[0] == "-" or Path(what[0]).is_file() or what[0].endswith(".json") or "/" in what[0]
    except (OSError, ValueError):
        return False


def _left_out(found: list[Alert]) -> str:
    quiet = sum(not alert.firing for alert in found)
    if quiet == len(found):
        return "No alert is firing." if not quiet else f"None of {quiet} alerts is firing."
    return f"{quiet} of {len(found)} alerts not firing, left out." if quiet else ""


def _document(answer: Answer, line: str) -> dict[str, Any]:
    return asdict(answer) | {"certain": answer.certain, "command": line or None}


def _show(answers: list[Answer], lines: list[str], told: str) -> None:
    from runbook.render import consoles, plain  # noqa: PLC0415  rich is slow to import, and --json does not need it

    out, err = consoles()
    for number, (answer, line) in enumerate(zip(answers, lines, strict=True)):
        many = f" ({answer.count} alerts)" if answer.count > 1 else ""
        rows = [plain(f"{answer.asked}{many}", "bold"), *_rows(answer, line)]
        for row in [*([plain("")] if number else []), *rows]:
            out.print(row, soft_wrap=True)
    if told:
        err.print(plain(told, "dim"))


def _rows(answer: Answer, line: str) -> list[Text]:
    from runbook.render import plain, styled  # noqa: PLC0415  for the same reason

    def row(name: str, text: str, style: str = "") -> Text:
        return plain(f"  {name:<9} ").append_text(plain(text, style))

    rows = [
        row("Runbook" if answer.certain else "Guess", f"{answer.runbook}: {answer.title}", "bold"),
        row("Why", answer.why),
    ]
    severity = plain(f"  {'Severity':<9} ").append_text(styled(answer.severity))
    rows.append(severity.append_text(plain(f", answer within {answer.response_time}" if answer.response_time else "")))
    if not answer.exists:
        near = f"the nearest that is: {answer.instead}" if answer.instead else "nothing here is near it"
        rows.append(row("Note", f"The runbook {answer.runbook} is not in this project yet; {near}", "yellow"))
    if answer.others:
        rows.append(row("Or", ", ".join(answer.others), "dim"))
    if line:
        rows.append(row("Run", line, "bold"))
    return rows
