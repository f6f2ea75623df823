"""Lists and single records, for the terminal and as data."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from runbook.catalog import Catalog
from runbook.project import Project
from runbook.record import Record, Store, now
from runbook.render import consoles, event_line, next_commands, plain, show_headline, show_results, table
from runbook.runs import last_runs
from runbook.units import age, duration, moment


def _age_seconds(data: dict[str, Any] | None) -> float | None:
    if not data:
        return None
    return (now() - datetime.fromisoformat(data["started"])).total_seconds()


def overview(project: Project, store: Store) -> list[dict[str, Any]]:
    """Return one row per runbook, with its newest run and whether it is overdue."""
    runbooks = Catalog(project).runbooks()
    seen = last_runs(store, {runbook.slug for runbook in runbooks})
    rows = []
    for runbook in runbooks:
        entry = seen.get(runbook.slug, {})
        last, good = entry.get("last"), _age_seconds(entry.get("good"))
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
                "overdue": limit is not None and (good is None or good > limit * 3600),
                "last_run": last
                and {key: last.get(key) for key in ("id", "started", "state", "exit_code", "check")},
            }
        )
    return rows


def _due(row: dict[str, Any]) -> Any:
    if row["max_age_hours"] is None:
        return ""
    return plain("overdue", "bold yellow") if row["overdue"] else plain("in time", "green")


def show_overview(rows: list[dict[str, Any]]) -> None:
    out, err = consoles()
    if not rows:
        err.print("This project has no runbooks.")
        return
    lines = []
    for row in rows:
        last = row["last_run"]
        when = age(_age_seconds(last) or 0) if last else "never"
        outcome = f"{last['state']}{' (check)' if last['check'] else ''}" if last else ""
        lines.append(
            (row["slug"], row["title"], row["category"], ", ".join(row["alerts"]), when, outcome, _due(row))
        )
    out.print(table(("Runbook", "Title", "Category", "Alerts", "Last run", "Outcome", "Due"), lines))


def show_runs(found: list[dict[str, Any]]) -> None:
    out, err = consoles()
    if not found:
        err.print("No such runs.")
        return
    rows = []
    for data in found:
        counted = [f for f in data["findings"] if f["state"] == "open" and f["severity"] != "info"]
        state = f"{data['state'].replace('_', ' ')}{' (check)' if data['check'] else ''}"
        hosts = ", ".join(data["hosts"])
        who, started = f"{data['who']['user']}@{data['who']['host']}", datetime.fromisoformat(data["started"])
        code = "" if data["exit_code"] is None else data["exit_code"]
        rows.append((data["id"], data["runbook"], moment(started), who, hosts, state, code, len(counted)))
    out.print(table(("Run", "Runbook", "Started", "By", "Hosts", "Outcome", "Exit", "Open"), rows))


def show_run(record: Record, folder: Path) -> None:
    out, err = consoles()
    facts = [
        ("Run", record.id),
        ("Runbook", f"{record.title} ({record.runbook}){' --check' if record.check else ''}"),
        ("Who", record.owner),
        ("When", f"{moment(record.started)}, {duration(record.seconds) or record.state}"),
        ("Why", " · ".join(filter(None, (record.reason, record.ticket)))),
        ("Inventory", ", ".join(record.inventory) + (f" limited to {record.limit}" if record.limit else "")),
        ("Hosts", ", ".join(record.hosts)),
        ("Inputs", ", ".join(f"{name}={value}" for name, value in record.inputs.items())),
        ("Evidence", ", ".join(f"{host}:{path}" for host, path in record.evidence.items())),
        ("Record", folder),
    ]
    for name, value in facts:
        if value:
            out.print(plain(f"{name:<10}", "bold"), plain(value), soft_wrap=True)
    out.print()
    reached = [step for step in record.steps if step.state != "pending"]
    if reached:
        out.print(
            table(("Step", "State", "Took"), [(s.id, s.state, duration(s.seconds)) for s in reached], "Steps")
        )
        out.print()
    show_results(record, out)
    show_headline(record, err)
    for command in next_commands(record):
        err.print("Next:", plain(command, "bold"), soft_wrap=True)


def replay(store: Store, record: Record) -> None:
    """Print a run's events with the time since its start, then its results."""
    out, err = consoles()
    for line in store.events(record.id):
        if line["event"] in ("task", "stats"):
            continue
        try:
            since = (datetime.fromisoformat(line["at"]).astimezone() - record.started).total_seconds()
        except ValueError:
            since = 0
        out.print(plain(f"{since:8.1f} s", "dim"), event_line(line), soft_wrap=True)
    out.print()
    show_results(record, out)
    show_headline(record, err)
