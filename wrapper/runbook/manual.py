"""Manual steps: a person does them, and says so; when, who and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

import click

from runbook.catalog import Runbook
from runbook.errors import BadInput, ExitCode, RunbookError
from runbook.record import Signed
from runbook.redact import shared

ANSWER_MAX = 2000


class Aborted(RunbookError):
    code = ExitCode.REFUSED


def given_answers(runbook: Runbook, items: tuple[str, ...]) -> dict[str, str]:
    """Given `STEP=ANSWER` items, return them by step. Raise BadInput for a step that is none or not manual."""
    answers: dict[str, str] = {}
    manual = [step.id for step in runbook.steps if step.kind == "manual"]
    for item in items:
        name, equals, answer = item.partition("=")
        if not equals or name not in manual or not answer.strip():
            raise BadInput(
                f'--sign "{item}" is not of the form STEP=ANSWER.', f"Manual steps: {', '.join(manual) or 'none'}."
            )
        answers[name] = shared().clean(answer.strip())[:ANSWER_MAX]
    return answers


def ask_manual(
    runbook: Runbook,
    answers: dict[str, str],
    who: str,
    clock: Callable[[], datetime],
    ask: Callable[[str], str] | None,
    before: Iterable[Signed] = (),
) -> list[Signed]:
    """Go through a runbook's manual steps, and return what was said about each; `before` is what was signed already.

    `ask` puts a question to a person; None where there is none: what is not signed beforehand stays unsigned then.
    Raise Aborted when the person says abort.
    """
    signed, kept = [], {one.step: one for one in before if one.answered}
    for step in runbook.steps:
        if step.kind != "manual":
            continue
        if step.id in kept and step.id not in answers:
            signed.append(kept[step.id])
            continue
        entry = Signed(step.id, step.does, asked=clock())
        answer = answers.get(step.id)
        if answer is None and ask is not None:
            answer = shared().clean(ask(f"{step.does}\n  Type done, skip, abort, or what you did").strip())[:ANSWER_MAX]
        if answer:
            entry.answered, entry.answer, entry.who = clock(), answer, who
        signed.append(entry)
        if answer and answer.lower() == "abort":
            raise Aborted(
                f"The manual step {step.id} was aborted; nothing else was done.", "Run it again when it can be done."
            )
    return signed


def prompt(question: str) -> str:
    return str(click.prompt(question, default="", show_default=False, err=True))
