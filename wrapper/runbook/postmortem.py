"""The incident file: what one or several runs tell about an incident, from the alert to the recovery."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import yaml

from runbook.catalog import Catalog, Lesson, Runbook, load_runbook
from runbook.docs import template
from runbook.errors import BadInput
from runbook.moments import Moment, alerts, people, time_of
from runbook.project import Project
from runbook.record import Finding, Record, Store
from runbook.redact import shared
from runbook.schema import dump
from runbook.units import counted, duration, moment

QUESTIONS = (
    "Who was affected, and how did they notice?",
    "Why did the root cause come about, and why then?",
    "What went well, and what was luck?",
    "What slowed the detection or the recovery down?",
    "What will be changed so that it cannot happen again, by whom and until when?",
)


@dataclass
class Incident:
    """Times are UTC; `detect_seconds` is alert to first run (MTTD), `recover_seconds` alert to recovery (MTTR)."""

    runs: list[Record]
    timeline: list[Moment] = field(default_factory=list)
    began: datetime | None = None
    recovered: datetime | None = None
    detect_seconds: float | None = None
    recover_seconds: float | None = None
    roots: list[Finding] = field(default_factory=list)
    open_findings: list[Finding] = field(default_factory=list)


def incident(records: list[Record], store: Store) -> Incident:
    """Given the runs of an incident, return what they tell. Raise BadInput without any."""
    if not records:
        raise BadInput("No run was named.", "`runbook runs list` shows them.")
    runs = sorted((Record.of(shared().data(dump(record))) for record in records), key=lambda record: record.started)
    told = Incident(runs)
    seen: set[tuple[object, ...]] = set()
    for record in runs:
        told.timeline += _moments(record, store, seen)
    told.timeline.sort(key=lambda item: item.at)
    # The alerts' own start is the beginning; without one, the first look.
    starts = [at for record in runs for alert in record.alerts if (at := time_of(alert.starts_at))]
    told.began = min(starts, default=runs[0].started)
    told.recovered = _recovered(runs)
    looks = [record.started for record in runs if record.started >= told.began]
    told.detect_seconds = (looks[0] - told.began).total_seconds() if starts and looks else None
    if told.recovered:
        told.recover_seconds = (told.recovered - told.began).total_seconds()
    roots = {f.key: f for record in runs for f in record.findings if f.rank and not f.cause and f.severity != "info"}
    told.roots = list(roots.values())
    told.open_findings = runs[-1].open_findings
    return told


def _recovered(runs: list[Record]) -> datetime | None:
    """Return when nothing was open any more: the end of the first run after the last that left something open."""
    ended = None
    for record in runs:
        good = record.state == "succeeded" and not record.open_findings and not record.check
        ended = (ended or record.ended) if good else None
    return ended


def _moments(record: Record, store: Store, seen: set[tuple[object, ...]]) -> Iterator[Moment]:
    """Yield what one run tells; `seen` holds what earlier ones told already."""
    for one in alerts(record):
        key = ("alert", one.at, one.text)
        if key not in seen:
            seen.add(key)
            yield one
    why = " ".join(filter(None, (record.reason, record.ticket)))
    mode = f" --fix {record.fix}" if record.fix else " (diagnosis)" if record.plan else ""
    yield Moment(
        record.started, "run", f"{record.owner} starts {record.runbook}{mode}{': ' + why if why else ''}", record.id
    )
    yield from _events(record, store, seen)
    yield from people(record)
    if record.ended:
        count = len(record.open_findings)
        left = f", {counted(count, 'finding')} open" if count else ", nothing left open"
        yield Moment(record.ended, "end", f"{record.runbook} {record.state.replace('_', ' ')}{left}", record.id)


def _events(record: Record, store: Store, seen: set[tuple[object, ...]]) -> Iterator[Moment]:
    """Yield findings when they were first seen and actions when they were done, from the events of the run."""
    for line in store.events(record.id):
        payload, at = line.get("runbook") or {}, time_of(str(line.get("at")))
        if at is None or payload.get("final"):
            continue
        for one in payload.get("findings") or []:
            key = ("finding", line.get("host"), one.get("id"), one.get("subject"))
            if key not in seen and one.get("severity") != "info":
                seen.add(key)
                yield Moment(
                    at, "finding", f"{one.get('title')} on {line.get('host')}: {one.get('observed')}", record.id
                )
        for one in payload.get("actions") or []:
            if one.get("result") != "planned":
                told = f"{one.get('step')} on {line.get('host')}: {one.get('result')}, {one.get('detail') or one.get('subject')}"
                yield Moment(at, "action", told, record.id)


def render(told: Incident, html: bool) -> str:
    """Return the incident file as one HTML page or as Markdown."""
    page = template("postmortem.html.j2" if html else "postmortem.md.j2", moment=moment)
    return page.render(
        told=told, questions=QUESTIONS, took=lambda seconds: duration(seconds) if seconds is not None else "unknown"
    )


def add_lesson(project: Project, runbook: Runbook, lesson: Lesson) -> Path:
    """Append a lesson to the runbook's data, which stays as its authors wrote it; return the file.

    Raise BadInput where the file is not of the form that this can write to.
    """
    path = Catalog(project).path(runbook.slug)
    before = path.read_text()
    entry = yaml.safe_dump(
        [{"date": lesson.date, "text": lesson.text, "run": lesson.run}], allow_unicode=True, width=110
    )
    indented = "".join(f"  {line}\n" for line in entry.rstrip("\n").splitlines())
    after, count = re.subn(r"(?m)^lessons: *\[\] *\n", lambda _: f"lessons:\n{indented}", before, count=1)
    if not count:
        after, count = re.subn(r"(?m)^lessons:\n(?:  .*\n)*", lambda found: found[0] + indented, before, count=1)
    fault = f"{path} has no key `lessons` at its left margin that a lesson can be added to."
    if not count:
        raise BadInput(fault, "Add `lessons: []` to it.")
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(after)
    try:
        # Read back from where the loader can find its role.
        if yaml.safe_load(after)["lessons"][-1]["text"] != lesson.text:
            raise BadInput(fault, "Correct it by hand.")
        beside.replace(path)
        load_runbook(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        path.write_text(before)
        raise
    return path
