"""What an operator sees: data on stdout, words on stderr, never a control sequence from a host."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from runbook.errors import ExitCode
from runbook.record import Action, Record, StepRun
from runbook.redact import shared
from runbook.schema import dump
from runbook.units import amount, duration, severity_rank

_STATE_STYLE = {
    "succeeded": "green",
    "failed": "red",
    "refused": "yellow",
    "unreachable": "red",
    "ok": "green",
}
_STATE_STYLE |= {"timed_out": "red", "cancelled": "yellow", "interrupted": "yellow", "changed": "cyan"}
_SEVERITY_STYLE = {"critical": "bold red", "warning": "yellow", "info": "blue"}


def plain(value: object, style: str = "") -> Text:
    """Given a value, return it as text rich will not interpret, masked and free of control sequences."""
    return Text(shared().clean("" if value is None else str(value)), style=style)


def table(columns: Iterable[str], rows: Iterable[Iterable[object]], title: str | None = None) -> Table:
    drawn = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for column in columns:
        drawn.add_column(column, header_style="bold", overflow="fold")
    for row in rows:
        drawn.add_row(*(cell if isinstance(cell, Text) else plain(cell) for cell in row))
    return drawn


def consoles() -> tuple[Console, Console]:
    """Return (stdout, stderr). Piped output is not folded at 80 columns: it goes to a program."""
    width = None if sys.stdout.isatty() else 200
    return Console(width=width, highlight=False), Console(stderr=True, highlight=False)


class Terminal:
    """Shows a run as it goes on; one live line on a terminal, plain lines elsewhere."""

    def __init__(self, jsonl: bool = False, as_json: bool = False, verbosity: int = 0) -> None:
        self.jsonl, self.as_json, self.verbosity = jsonl, as_json, verbosity
        self.out, self.err = consoles()
        self._live: Live | None = None
        self._shown: str | None = None
        self._usual: dict[str, float] = {}
        self._since = 0.0
        self._silent = False

    def _emit(self, text: str) -> None:
        """Print a line of data. A reader that went away must not end the run."""
        if not self._silent:
            try:
                print(text, flush=True)
            except BrokenPipeError:
                self._silent = True

    def started(self, record: Record, usual: dict[str, float]) -> None:
        self._usual = usual
        what = f"{record.title}{' (check)' if record.check else ''}: run {record.id}"
        self.err.print(plain(what, "bold"))
        if self.jsonl:
            self._emit(json.dumps({"event": "run", "id": record.id, "runbook": record.runbook}))
        if self.err.is_terminal:
            self._live = Live(console=self.err, refresh_per_second=8, transient=True)
            self._live.start()

    def event(self, line: dict[str, Any], text: str) -> None:
        if self.jsonl:
            self._emit(text)
        if self.verbosity and line["event"] in ("ok", "failed", "unreachable", "output", "warning"):
            self.err.print(event_line(line))

    def step(self, record: Record, current: StepRun | None) -> None:
        name = current.id if current else None
        if name != self._shown:
            self._done(record)
            self._shown, self._since = name, time.monotonic()
        if current and self._live:
            spent = time.monotonic() - self._since
            self._live.update(Spinner("dots", Text(f"{self._label(record, current)}  {duration(spent)}")))

    def _label(self, record: Record, step: StepRun) -> str:
        number = record.steps.index(step) + 1
        usual = self._usual.get(step.id)
        return f"{number}/{len(record.steps)} {step.id}{f', usually {duration(usual)}' if usual else ''}"

    def _done(self, record: Record) -> None:
        step = next((s for s in record.steps if s.id == self._shown and s.ended), None)
        if step:
            number = f"{record.steps.index(step) + 1}/{len(record.steps)}"
            line = plain(f"  {number:>5} {step.id:<14} ")
            line.append_text(plain(f"{step.state:<8}", _STATE_STYLE.get(step.state, "dim")))
            self.err.print(line, duration(step.seconds))

    def notice(self, text: str) -> None:
        self.err.print(plain(text, "yellow"), soft_wrap=True)

    def finished(self, record: Record) -> None:
        self._done(record)
        if self._live:
            self._live.stop()
        if self.jsonl:
            self._emit(json.dumps({"event": "result", **document(record)}))
        elif self.as_json:
            self._emit(json.dumps(document(record), indent=2))
        else:
            show_results(record, self.out)
        show_headline(record, self.err)
        for command in next_commands(record):
            self.err.print(Text("Next: "), plain(command, "bold"), soft_wrap=True)


def document(record: Record) -> Any:
    """Given a record, return the masked document that --json prints."""
    return shared().data(dump(record))


def event_line(line: dict[str, Any]) -> Text:
    where = f"{line['host']}: " if line.get("host") else ""
    said = line.get("msg") or line.get("text") or ""
    shown = plain(f"    {line['event']:<11}", _STATE_STYLE.get(line["event"], "dim"))
    return shown.append_text(plain(f"{where}{line.get('task') or ''} {said}".rstrip()))


def headline(record: Record) -> str:
    """Return how the run ended, in one line."""
    planned = sum(action.result == "planned" for action in record.actions)
    done = sum(action.result == "done" for action in record.actions)
    count, fixed = len(record.open_findings), sum(f.state == "fixed" for f in record.findings)
    parts = [f"{planned} planned"] if record.check else [f"{done} done"]
    parts.append(f"{count} finding{'s' if count != 1 else ''} left open")
    if fixed:
        parts.append(f"{fixed} fixed")
    told = f"{record.title} {record.state.replace('_', ' ')}"
    if record.hosts:
        told += f" on {len(record.hosts)} host{'s' if len(record.hosts) != 1 else ''}"
    if record.seconds is not None:
        told += f" after {duration(record.seconds)}"
    acted = record.state == "succeeded" or planned or done or record.findings
    return f"{told}: {', '.join(parts)}" if acted else told


def show_headline(record: Record, err: Console) -> None:
    err.print(plain(headline(record), f"bold {_STATE_STYLE.get(record.state, 'yellow')}"), soft_wrap=True)
    if record.message:
        err.print(plain(record.message), soft_wrap=True)
    if record.remedy:
        err.print(plain(record.remedy), soft_wrap=True)
    for note in record.notes:
        err.print(plain(f"Note: {note}", "yellow"), soft_wrap=True)
    if record.exit_code is not None:
        err.print(
            plain(f"Exit {record.exit_code}: {ExitCode(record.exit_code).meaning}", "dim"), soft_wrap=True
        )


def show_results(record: Record, out: Console) -> None:
    """Print the findings, worst first, and the actions."""
    if record.findings:
        ranked = sorted(record.findings, key=lambda f: (f.state != "open", severity_rank(f.severity), f.host))
        rows: list[tuple[object, ...]] = [
            (
                plain(f.severity, _SEVERITY_STYLE[f.severity]),
                f.state,
                f.host,
                f.subject,
                f.title,
                f.observed,
                f.remedy,
            )
            for f in ranked
        ]
        out.print(
            table(("Severity", "State", "Host", "Subject", "Finding", "Observed", "Remedy"), rows, "Findings")
        )
        out.print()
    if record.actions:
        rows = [
            (
                plain(a.result, _action_style(a)),
                a.host,
                a.step,
                a.subject,
                because(a),
                change(a),
                duration(a.seconds),
            )
            for a in record.actions
        ]
        out.print(
            table(("Result", "Host", "Step", "Subject", "Reason", "Before → after", "Took"), rows, "Actions")
        )
        out.print()


def _action_style(action: Action) -> str:
    return {"done": "green", "planned": "cyan", "failed": "red"}.get(action.result, "dim")


def change(action: Action) -> str:
    """Return what an action changed, in units people read."""
    unit = action.measure or action.unit
    if action.after is None:
        return amount(action.before, unit)
    return f"{amount(action.before, unit)} → {amount(action.after, unit)}"


def because(action: Action) -> str:
    """Return why an action was due: the reason, the number that decided it and its limit."""
    told = action.reason
    if action.number is not None and action.number != action.before:
        told += f": {amount(action.number, action.unit)}"
    if action.threshold is not None:
        told += f" (limit {amount(action.threshold, action.unit)})"
    return told


def again(record: Record) -> str:
    """Return the command that carries a run out again, this time for real; masked inputs stay masked."""
    words = ["runbook", "run", record.runbook]
    for path in record.inventory:
        words += ["-i", path]
    if record.limit:
        words += ["-l", record.limit]
    for name, value in record.inputs.items():
        words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)


def next_commands(record: Record) -> list[str]:
    """Return the commands an operator is likely to want next, the likeliest first."""
    show = f"runbook runs show {record.id}"
    if record.state in ("cancelled", "timed_out", "interrupted"):
        return [show, again(record)]
    if record.exit_code == ExitCode.WOULD_CHANGE:
        return [again(record)]
    if record.state == "unreachable":
        return [
            shlex.join(["runbook", "doctor", *(w for path in record.inventory for w in ("-i", path))]),
            show,
        ]
    if record.state == "succeeded":
        return [f"runbook runs report {record.id} --html -o report.html"]
    return [show]
