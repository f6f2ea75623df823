"""Reports for people, made from the record alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from runbook import __version__
from runbook.docs import cell, templates
from runbook.errors import ExitCode
from runbook.record import Record, StepRun, Store
from runbook.redact import shared
from runbook.render import because, change, headline
from runbook.schema import dump
from runbook.units import SEVERITIES, amount, moment, severity_rank, size

_CHART_ROWS = 14
_CHART_WIDTH, _LABEL_WIDTH, _VALUE_WIDTH, _ROW_HEIGHT = 880, 230, 210, 40
_EXCERPT = 2000


@dataclass(frozen=True)
class Bar:
    """One table of the chart; widths and positions in pixels of the drawing."""

    name: str
    y: int
    before_width: float
    after_width: float
    before: str
    after: str
    saved: str


@dataclass(frozen=True)
class Chart:
    host: str
    width: int
    height: int
    left: int
    bars: list[Bar]
    rest: int


def breakable(text: str) -> Markup:
    """Given a long name, return it so that a narrow column breaks it between its words."""
    return Markup(re.sub(r"([._])", r"\1<wbr>", str(escape(text))))  # noqa: S704  escaped just before


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def chart(host: str, tables: Any) -> Chart | None:
    """Given facts.tables, return the drawing of their sizes; None when there is nothing to draw."""
    rows = [row for row in tables if isinstance(row, dict)] if isinstance(tables, list) else []
    rows.sort(
        key=lambda row: max(_number(row.get("bytes_before")), _number(row.get("bytes_after"))), reverse=True
    )
    biggest = max(
        (max(_number(r.get("bytes_before")), _number(r.get("bytes_after"))) for r in rows), default=0
    )
    if biggest <= 0:
        return None
    scale = (_CHART_WIDTH - _LABEL_WIDTH - _VALUE_WIDTH) / biggest
    bars = []
    for index, row in enumerate(rows[:_CHART_ROWS]):
        before, known = _number(row.get("bytes_before")), row.get("bytes_after") is not None
        after = _number(row.get("bytes_after")) if known else before
        saved = (before - after) / before * 100 if before else 0
        label = f"-{saved:.0f} %" if saved >= 0.5 else f"+{-saved:.0f} %" if saved <= -0.5 else ""
        name = str(row.get("name", ""))
        bars.append(
            Bar(
                name if len(name) <= 32 else f"{name[:31]}…",
                index * _ROW_HEIGHT,
                round(max(before * scale, 1), 1),
                round(max(after * scale, 1), 1),
                size(before),
                size(after),
                label,
            )
        )
    return Chart(
        host, _CHART_WIDTH, len(bars) * _ROW_HEIGHT, _LABEL_WIDTH, bars, max(len(rows) - _CHART_ROWS, 0)
    )


def _charts(record: Record) -> list[Chart]:
    drawn = [chart(host, facts.get("tables")) for host, facts in sorted(record.facts.items())]
    return [one for one in drawn if one]


def _timeline(record: Record) -> list[tuple[StepRun, float, float]]:
    """Return each reached step with the share of the run's time before it and in it, in percent."""
    whole = record.seconds or sum(step.seconds or 0 for step in record.steps) or 1
    rows = []
    for step in record.steps:
        if step.started is not None:
            before = (step.started - record.started).total_seconds() / whole * 100
            share = (step.seconds or 0) / whole * 100
            rows.append((step, min(max(before, 0), 99), min(max(share, 0.5), 100 - min(max(before, 0), 99))))
    return rows


def _errors(record: Record, store: Store) -> list[dict[str, str]]:
    """Return what failing tasks said, newest last, cut to a readable length."""
    found = []
    for line in store.events(record.id):
        if line.get("event") in ("failed", "unreachable"):
            text = str(line.get("msg") or line.get("result") or "")
            found.append(
                {"host": line.get("host", ""), "task": line.get("task", ""), "text": text[:_EXCERPT]}
            )
    return found[-20:]


def _facts(record: Record) -> list[tuple[str, str]]:
    rows = []
    for host, facts in sorted(record.facts.items()):
        for name, value in facts.items():
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                where = f"{host}: " if len(record.facts) > 1 else ""
                rows.append((f"{where}{name.replace('_', ' ')}", _fact(name, value)))
    return rows


def _fact(name: str, value: object) -> str:
    unit = next((unit for unit in ("seconds", "bytes", "percent") if name.endswith(unit)), None)
    return amount(value, unit)


def _context(record: Record, store: Store) -> dict[str, Any]:
    code = ExitCode(record.exit_code) if record.exit_code is not None else None
    hosts = len({action.host for action in record.actions} | {finding.host for finding in record.findings})
    ranked = sorted(
        record.findings, key=lambda f: (f.state != "open", severity_rank(f.severity), f.host, f.subject)
    )
    freed = sum(_number(a.before) - _number(a.after) for a in record.actions if _freed(a))
    return {
        "run": record,
        "headline": headline(record),
        "tone": _tone(record),
        "outcome": record.state.replace("_", " "),
        "code": code,
        "findings": ranked,
        "by_severity": [(s, sum(f.severity == s and f.state == "open" for f in ranked)) for s in SEVERITIES],
        "fixed": sum(finding.state == "fixed" for finding in ranked),
        "done": sum(action.result == "done" for action in record.actions),
        "planned": sum(action.result == "planned" for action in record.actions),
        "freed": size(freed) if freed > 0 else "",
        "many_hosts": hosts > 1 or len(record.hosts) > 1,
        "charts": _charts(record),
        "timeline": _timeline(record),
        "errors": _errors(record, store),
        "facts": _facts(record),
        "version": __version__,
    }


def _freed(action: Any) -> bool:
    return bool(
        (action.measure or action.unit) == "bytes" and action.result == "done" and action.after is not None
    )


def _tone(record: Record) -> str:
    if record.state == "succeeded":
        return "work" if record.exit_code == ExitCode.WOULD_CHANGE else "warn" if record.exit_code else "good"
    return "warn" if record.state in ("refused", "cancelled", "interrupted") else "bad"


def report(record: Record, store: Store, html: bool) -> str:
    """Given a record, return its report: one self-contained HTML page, or Markdown."""
    env = templates(autoescape=html)
    env.filters |= {
        "amount": amount,
        "moment": moment,
        "change": change,
        "because": because,
        "breakable": breakable,
        "cell": cell,
    }
    name = "report.html.j2" if html else "report.md.j2"
    context = _context(record, store)
    # Masking the context and not the page: a secret that happens to be a word of the page must not tear it.
    context["run"] = Record.of(shared().data(dump(record)))
    return env.get_template(name).render(context)
