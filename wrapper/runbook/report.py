"""Reports for people, made from the record alone."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup, escape

from runbook.backup_pictures import marks, phases
from runbook.certificate_pictures import timeline
from runbook.docs import template
from runbook.errors import ExitCode
from runbook.log_pictures import curves, errors, kept, rungs
from runbook.moments import people
from runbook.record import SEVERITIES, Record, StepRun, Store
from runbook.redact import shared
from runbook.render import because, change, headline, is_root, remedy, step_state
from runbook.schema import dump
from runbook.units import amount, instant, moment, size

_CHART_ROWS = 14
_ACRONYMS = ("rpo", "rto", "wal")
_EXCERPT = 2000


def breakable(text: str) -> Markup:
    """Given a long name, return it so that a narrow column breaks it between its words."""
    return Markup(re.sub(r"([._])", r"\1<wbr>", str(escape(text))))  # noqa: S704  escaped just before


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def chart(tables: Any) -> list[dict[str, Any]]:
    """Given facts.tables, return a row per table, biggest first, with its bars in percent of the biggest."""
    sizes = []
    for row in tables if isinstance(tables, list) else []:
        before, after = row.get("bytes_before"), row.get("bytes_after")
        sizes.append((str(row.get("name", "")), _number(before), _number(before if after is None else after)))
    biggest = max((max(before, after) for _, before, after in sizes), default=0)
    if not biggest:
        return []
    sizes.sort(key=lambda row: max(row[1:]), reverse=True)
    return [
        {
            "name": name,
            "bars": {"before": before / biggest * 100, "after": after / biggest * 100},
            "sizes": size(before) if size(before) == size(after) else f"{size(before)} → {size(after)}",
            "percent": round((after - before) / before * 100) if before else 0,
        }
        for name, before, after in sizes
    ]


def _timeline(record: Record) -> list[tuple[StepRun, float, float]]:
    """Return each reached step with the share of the run's time before it and in it, in percent."""
    whole = record.seconds or sum(step.seconds or 0 for step in record.steps) or 1
    rows = []
    for step in record.steps:
        if step.started is not None:
            before = min(max((step.started - record.started).total_seconds() / whole * 100, 0), 99)
            rows.append((step, before, min(max((step.seconds or 0) / whole * 100, 0.5), 100 - before)))
    return rows


def _errors(record: Record, store: Store) -> list[dict[str, str]]:
    """Return what failing tasks said, newest last, cut to a readable length."""
    return [
        {
            "host": line.get("host", ""),
            "task": line.get("task", ""),
            "text": str(line.get("msg") or line.get("result") or "")[:_EXCERPT],
        }
        for line in store.events(record.id)
        if line.get("event") in ("failed", "unreachable")
    ][-20:]


def _facts(record: Record) -> list[tuple[str, str]]:
    """Return what hosts said about themselves; a name that ends in a unit has its value told in it."""
    rows = []
    for host, facts in sorted(record.facts.items()):
        where = f"{host}: " if len(record.facts) > 1 else ""
        for name, value in facts.items():
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                unit = next((unit for unit in ("seconds", "bytes", "percent") if name.endswith(unit)), None)
                told = amount(value, unit)
                if name.endswith("_at") and not isinstance(value, str):
                    told = instant(value)
                rows.append((f"{where}{_shown(name)}", told))
    return rows


def _shown(name: str) -> str:
    """Given the name of a fact, return it for a reader; its value has the unit."""
    words = name.removesuffix("_seconds").replace("_bytes", "_size").split("_")
    return " ".join(word.upper() if word in _ACRONYMS else word for word in words)


def _freed(record: Record) -> str:
    freed = sum(
        _number(action.before) - _number(action.after)
        for action in record.actions
        if (action.measure or action.unit) == "bytes" and action.result == "done" and action.after is not None
    )
    return size(freed) if freed > 0 else ""


def _tone(record: Record) -> str:
    if record.state == "succeeded":
        return "work" if record.exit_code == ExitCode.WOULD_CHANGE else "warn" if record.exit_code else "good"
    return "warn" if record.state in ("refused", "cancelled", "interrupted") else "bad"


def report(record: Record, store: Store, html: bool) -> str:
    """Given a record, return its report: one self-contained HTML page, or Markdown."""
    # Masking the record and not the page: a secret that happens to be a word of the page must not tear it.
    record = Record.of(shared().data(dump(record)))
    findings = record.ranked_findings
    by_severity = [(s, sum(f.severity == s and f.state == "open" for f in findings)) for s in SEVERITIES]
    filters = {"amount": amount, "moment": moment, "change": change, "because": because, "breakable": breakable}
    page = template("report.html.j2" if html else "report.md.j2", **filters)
    return page.render(
        run=record,
        headline=headline(record),
        tone=_tone(record),
        outcome=record.state.replace("_", " "),
        code=None if record.exit_code is None else ExitCode(record.exit_code),
        findings=findings,
        by_severity=by_severity,
        fixed=sum(finding.state == "fixed" for finding in findings),
        freed=_freed(record),
        many_hosts=len(record.hosts) > 1,
        charts={host: chart(facts.get("tables")) for host, facts in sorted(record.facts.items())},
        chart_rows=_CHART_ROWS,
        sets={host: marks(facts) for host, facts in sorted(record.facts.items())},
        drills={host: (facts.get("drill"), phases(facts)) for host, facts in sorted(record.facts.items())},
        logs={
            host: {"curves": curves(facts), "rungs": rungs(facts), "kept": kept(facts), "errors": errors(facts)}
            for host, facts in sorted(record.facts.items())
        },
        certificates={host: picture for host, facts in sorted(record.facts.items()) if (picture := timeline(facts))},
        timeline=_timeline(record),
        errors=_errors(record, store),
        beside=sorted(people(record), key=lambda one: one.at),
        facts=_facts(record),
        remedy=lambda finding: remedy(record, finding),
        is_root=lambda finding: is_root(record, finding),
        step_state=lambda step: step_state(record, step),
    )
