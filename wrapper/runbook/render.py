"""What an operator sees: data on stdout, words on stderr, never a control sequence from a host."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from runbook.errors import ExitCode
from runbook.record import Action, Finding, Record, Remedy, StepRun
from runbook.redact import shared
from runbook.schema import dump
from runbook.units import amount, counted, duration

STYLE = {"succeeded": "green", "ok": "green", "done": "green", "fixed": "green", "accepted": "dim"}
STYLE |= {"failed": "red", "unreachable": "red", "timed_out": "red", "critical": "bold red", "info": "blue"}
STYLE |= dict.fromkeys(("refused", "cancelled", "interrupted", "warning"), "yellow")
STYLE |= {"changed": "cyan", "planned": "cyan", "change": "cyan", "destructive": "bold red"}

_WHOLE = 26  # characters; a cell up to this length is never broken


def plain(value: object, style: str = "") -> Text:
    """Given a value, return it as text rich will not interpret, masked and free of control sequences."""
    return Text(shared().clean("" if value is None else str(value)), style=style)


def styled(word: str, width: int = 0) -> Text:
    """Given a state, result or severity, return it in its colour."""
    return plain(word.replace("_", " ").ljust(width), STYLE.get(word, "dim"))


def stacked(*lines: Text) -> Text:
    """Return a cell of several lines, without the empty ones."""
    return Text("\n").join(line for line in lines if line)


def table(columns: Sequence[str], rows: Iterable[Iterable[object]], title: str = "") -> Table:
    """Return a table without lines; short columns stay whole, and long ones share the room that is left."""
    cells = [[cell if isinstance(cell, Text) else plain(cell) for cell in row] for row in rows]
    drawn = Table(
        title=title or None, title_justify="left", title_style="bold", show_header=any(columns),
        box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold",
    )  # fmt: skip
    for index, column in enumerate(columns):
        short = all(len(line) <= _WHOLE for row in cells for line in row[index].split())
        drawn.add_column(column, overflow="ellipsis" if short else "fold", no_wrap=short)
    for row in cells:
        drawn.add_row(*row)
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
        self._live = Live(console=self.err, refresh_per_second=8, transient=True)
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
        self.err.print(plain(f"{record.title}{' (check)' if record.check else ''}: run {record.id}", "bold"))
        if self.jsonl:
            self._emit(json.dumps({"event": "run", "id": record.id, "runbook": record.runbook}))
        if self.err.is_terminal:
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
        if current and self._live.is_started:
            usual = self._usual.get(current.id)
            spent = duration(time.monotonic() - self._since)
            said = f"{_place(record, current).strip()}  {spent}{f', usually {duration(usual)}' if usual else ''}"
            self._live.update(Spinner("dots", plain(said)))

    def _done(self, record: Record) -> None:
        step = next((s for s in record.steps if s.id == self._shown and s.ended), None)
        if step and (step.state != "skipped" or self.verbosity):
            line = plain(f"{_place(record, step):<22} ").append_text(styled(step_state(record, step), 8))
            self.err.print(line, duration(step.seconds))

    def notice(self, text: str) -> None:
        self.err.print(plain(text, "yellow"), soft_wrap=not self.err.is_terminal)

    def finished(self, record: Record) -> None:
        self._done(record)
        self._live.stop()
        if self.jsonl:
            self._emit(json.dumps({"event": "result", **document(record)}))
        elif self.as_json:
            self._emit(json.dumps(document(record), indent=2))
        else:
            show_results(record, self.out)
        show_end(record, self.err)


def document(record: Record) -> Any:
    """Given a record, return the masked document that --json prints."""
    return shared().data(dump(record))


def event_line(line: dict[str, Any]) -> Text:
    where = f"{line['host']}: " if line.get("host") else ""
    said = f"{where}{line.get('task') or ''} {line.get('msg') or line.get('text') or line.get('play') or ''}"
    return styled(line["event"], 11).append_text(plain(f" {said}".rstrip()))


def _place(record: Record, step: StepRun) -> str:
    return f"{f'{record.steps.index(step) + 1}/{len(record.steps)}':>7} {step.id}"


def step_state(record: Record, step: StepRun) -> str:
    """Return a step's state; what Ansible calls changed in check mode was only planned."""
    return "planned" if record.check and step.state == "changed" else step.state


def outcome(state: str, check: bool) -> str:
    """Return how a run ended, as a word."""
    if check:
        return "checked" if state == "succeeded" else f"check {state.replace('_', ' ')}"
    return state.replace("_", " ")


def headline(record: Record) -> str:
    """Return how the run ended, in one line."""
    told = f"{record.title} {outcome(record.state, record.check)}"
    if not (record.state == "succeeded" or record.actions or record.findings):
        return told
    result = "planned" if record.check else "done"
    parts = ["nothing to do" if record.state == "succeeded" else "nothing done"]
    if record.actions:
        parts = [f"{counted(record.count(result), 'action')} {result}"]
    elif record.plan:
        parts = [f"{counted(len(record.plan), 'remedy', 'remedies')} called for"]
    elif changed := sum(by_name["changed"] for by_name in record.stats.values()):
        parts = [f"{counted(changed, 'task')} changed"]
    if failed := record.count("failed"):
        parts.append(f"{failed} failed")
    parts.append(f"{counted(len(record.open_findings), 'finding')} open")
    if critical := sum(finding.severity == "critical" for finding in record.open_findings):
        parts[-1] += f" ({critical} critical)"
    if fixed := sum(finding.state == "fixed" for finding in record.findings):
        parts.append(f"{fixed} fixed")
    return f"{told}: {', '.join(parts)}"


def show_end(record: Record, err: Console) -> None:
    """Print how the run ended, what it means, and what an operator is likely to want next."""
    lines = [plain(headline(record), f"bold {STYLE.get(record.state, 'yellow')}")]
    lines += [plain(record.message), plain(record.remedy), *(plain(f"Note: {n}", "yellow") for n in record.notes)]
    if record.exit_code is not None:
        where = f"{counted(len(record.hosts), 'host')}, {duration(record.seconds)}"
        meaning = ExitCode(record.exit_code).meaning.replace("`", "")
        lines.append(plain(f"Exit {record.exit_code}, {where}: {meaning}", "dim"))
    for line in filter(None, lines):
        err.print(line, soft_wrap=not err.is_terminal)
    for command in next_commands(record):
        err.print(Text("Next: ").append_text(plain(command, "bold")), soft_wrap=True)


def show_results(record: Record, out: Console) -> None:
    """Print the findings, worst first, and the actions. Each has lines of its own: tables need more columns
    than a terminal has."""
    many = len(record.hosts) > 1
    if record.findings:
        rows = [
            (styled(f.severity if f.state == "open" else f.state), _finding(record, f, many))
            for f in record.ranked_findings
        ]
        out.print(table(("", ""), rows, "Findings"))
        out.print()
    if record.plan:
        planned = [(styled(p.kind), p.step, _remedy(p)) for p in record.plan]
        out.print(table(("", "", ""), planned, "Plan"))
        out.print()
    if record.actions:
        columns = ("", "", "", "Before → after", "Took")
        acted = [(styled(a.result), a.step, _action(a, many), change(a), duration(a.seconds)) for a in record.actions]
        out.print(table(columns, acted, "Actions"))
        out.print()


def _finding(record: Record, finding: Finding, many_hosts: bool) -> Text:
    where = [finding.subject, f"on {finding.host}" if many_hosts else ""]
    observed = "" if finding.observed is None else str(finding.observed)
    said = ": ".join(filter(None, (" ".join(filter(None, where)), observed)))
    followed = plain(f"follows from {finding.cause}", "dim") if finding.cause else plain("")
    cure = f"→ {remedy(record, finding)}" if finding.remedy and finding.state == "open" else ""
    title = plain(finding.title or finding.id, "" if finding.cause else "bold")
    if is_root(record, finding):
        title = plain("Root cause: ", "bold red").append_text(title)
    return stacked(title, plain(said), followed, plain(cure if not finding.cause else ""))


def is_root(record: Record, finding: Finding) -> bool:
    """Return whether other findings of the run follow from this one, or none but it was ranked."""
    ranked = [f for f in record.findings if f.rank and f.severity != "info"]
    return bool(finding.rank and not finding.cause and finding.severity != "info") and (
        len(ranked) == 1 or any(f.cause == f"{finding.host}/{finding.id}" for f in ranked)
    )


def _remedy(remedy: Remedy) -> Text:
    where = plain(f"on {remedy.host}: ", "bold").append_text(plain(remedy.does))
    targets = plain("\n".join(remedy.targets))
    why = plain(f"because of {remedy.because}", "dim")
    return stacked(where, targets, why, plain(f"not done: {remedy.refused}" if remedy.refused else "", "yellow"))


def _action(action: Action, many_hosts: bool) -> Text:
    where = f"{action.subject} on {action.host}" if many_hosts else action.subject
    return stacked(plain(where, "bold"), plain(because(action), "dim"))


def remedy(record: Record, finding: Finding) -> str:
    """Return what cures a finding; a bare name is that of a step of the runbook."""
    step = next((step for step in record.steps if step.id == finding.remedy), None)
    return f"step {step.id} of this runbook" if step else str(finding.remedy)


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


def _inventories(record: Record) -> list[str]:
    return [word for path in record.inventory for word in ("-i", path)]


def again(record: Record) -> str:
    """Return the command that carries a run out again, this time for real; masked inputs stay masked."""
    words = ["runbook", "run", record.runbook, *_inventories(record)]
    if record.limit:
        words += ["-l", record.limit]
    for name, value in record.inputs.items():
        words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)


def _fixes(record: Record) -> list[str]:
    """Return the commands that carry out what the plan holds and this run was not allowed to do."""
    waiting = [remedy for remedy in record.plan if remedy.refused.startswith("only --fix")]
    found = []
    if any(remedy.kind == "change" for remedy in waiting):
        found.append(f"{again(record)} --fix")
    if record.confirmation and (record.fix != "destructive" or record.state == "refused"):
        found.append(f"{again(record)} --fix destructive --confirm {record.confirmation}")
    return found


def next_commands(record: Record) -> list[str]:
    """Return the commands an operator is likely to want next, the likeliest first."""
    show = f"runbook runs show {record.id}"
    if record.state in ("cancelled", "timed_out", "interrupted"):
        return [show, f"{again(record)} --check" if record.check else f"runbook runs resume {record.id}"]
    if record.exit_code == ExitCode.WOULD_CHANGE:
        return [again(record)]
    if record.state == "unreachable":
        return [shlex.join(["runbook", "doctor", *_inventories(record)]), show]
    if record.state == "failed" and not record.check:
        return [show, f"runbook runs resume {record.id}"]
    fixes = _fixes(record)
    if record.state == "succeeded" and not fixes:
        return [f"runbook runs report {record.id} --html -o report.html"]
    return [*fixes, show]
