"""Lists and single records, for the terminal and as data."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from runbook import render
from runbook.catalog import Catalog
from runbook.project import Project
from runbook.record import Record, Store, now
from runbook.render import plain, table
from runbook.units import age, duration, moment

SHORT_ID = 12  # the time in milliseconds and two random characters: enough to name a run
_WIDE = 110


def _age_seconds(data: dict[str, Any]) -> float:
    return (now() - datetime.fromisoformat(data["started"])).total_seconds()


def overview(project: Project, store: Store) -> list[dict[str, Any]]:
    """Return one row per runbook, with its newest run and whether it is overdue."""
    runbooks = Catalog(project).runbooks()
    seen = store.last_runs({runbook.slug for runbook in runbooks})
    rows = []
    for runbook in runbooks:
        entry = seen.get(runbook.slug, {})
        last, good = entry.get("last"), entry.get("good")
        limit = runbook.schedule.max_age_hours if runbook.schedule else None
        rows.append(
            {
                "slug": runbook.slug,
                "title": runbook.title,
                "category": runbook.category,
                "severity": runbook.severity,
                "alerts": [alert.name for alert in runbook.alerts],
                "schedule": runbook.schedule.on_calendar if runbook.schedule else None,
                "max_age_hours": limit,
                "overdue": limit is not None and (good is None or _age_seconds(good) > limit * 3600),
                "last_run": last and {key: last.get(key) for key in ("id", "started", "state", "exit_code", "check")},
            }
        )
    return rows


def show_overview(rows: list[dict[str, Any]]) -> None:
    out, err = render.consoles()
    if not rows:
        err.print("This project has no runbooks.")
        return
    lines = []
    for row in rows:
        last, alerts = row["last_run"], row["alerts"]
        name = render.stacked(plain(row["slug"], "bold"), plain(", ".join(alerts), "dim"))
        when = render.stacked(plain(age(_age_seconds(last))), _outcome(last)) if last else "never"
        due = plain("overdue", "bold yellow") if row["overdue"] else plain("in time", "green")
        lines.append((name, row["category"], when, due if row["max_age_hours"] is not None else ""))
    out.print(table(("Runbook, alerts", "Category", "Last run", "Due"), lines))


def _outcome(data: dict[str, Any]) -> Any:
    return plain(render.outcome(data["state"], data["check"]), render.STYLE.get(data["state"], "dim"))


def show_runs(found: list[dict[str, Any]]) -> None:
    out, err = render.consoles()
    if not found:
        err.print("No such runs.")
        return
    columns = ["Run", "Runbook", "Started (UTC)", "Outcome", "Exit", "Open", "By", "Hosts"]
    rows = []
    for data in found:
        started = f"{datetime.fromisoformat(data['started']):%Y-%m-%d %H:%M}"
        code = "" if data["exit_code"] is None else data["exit_code"]
        left = sum(f["state"] == "open" and f["severity"] != "info" for f in data["findings"])
        who, hosts = f"{data['who']['user']}@{data['who']['host']}", ", ".join(data["hosts"])
        rows.append([data["id"][:SHORT_ID], data["runbook"], started, _outcome(data), code, left, who, hosts])
    shown = len(columns) if out.width >= _WIDE else 6
    out.print(table(columns[:shown], [row[:shown] for row in rows]))


def show_run(record: Record, folder: Path) -> None:
    out, err = render.consoles()
    limited = f" limited to {record.limit}" if record.limit else ""
    facts = {
        "Run": record.id,
        "Runbook": f"{record.title} ({record.runbook})",
        "Who": record.owner,
        "What": render.outcome(record.state, record.check),
        "When": f"{moment(record.started)}, {duration(record.seconds) or record.state}",
        "Why": " · ".join(filter(None, (record.reason, record.ticket))),
        "Inventory": f"{', '.join(record.inventory)}{limited}",
        "Hosts": ", ".join(record.hosts),
        "Inputs": ", ".join(f"{name}={value}" for name, value in record.inputs.items()),
        "Evidence": ", ".join(f"{host}:{path}" for host, path in record.evidence.items()),
        "Record": folder,
    }
    for name, value in facts.items():
        if value:
            out.print(plain(f"{name:<10}", "dim"), plain(value), soft_wrap=True)
    out.print()
    reached = [step for step in record.steps if step.state != "pending"]
    if reached:
        rows = [(step.id, render.styled(render.step_state(record, step)), duration(step.seconds)) for step in reached]
        out.print(table(("", "", ""), rows, "Steps"))
        out.print()
    render.show_results(record, out)
    render.show_end(record, err)


def replay(store: Store, record: Record) -> None:
    """Print a run's events with the time since its start, then its results."""
    out, err = render.consoles()
    for line in store.events(record.id):
        if line["event"] not in ("task", "stats"):
            at = datetime.fromisoformat(line["at"]).astimezone()
            since = max((at - record.started).total_seconds(), 0)
            out.print(plain(f"{since:8.1f} s", "dim"), render.event_line(line), soft_wrap=True)
    out.print()
    render.show_results(record, out)
    render.show_end(record, err)
