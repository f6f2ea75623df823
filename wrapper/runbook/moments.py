"""Moments of an incident: what people did, said and were told beside the steps of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from runbook.record import Record


@dataclass
class Moment:
    """One line of the timeline; `what` is a word for its kind."""

    at: datetime
    what: str
    text: str
    run: str = ""


def time_of(text: str) -> datetime | None:
    """Given a time as alerts and events write it, return it in UTC; None where it is none."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


def alerts(record: Record) -> Iterator[Moment]:
    """Yield when the alerts of a run began."""
    for alert in record.alerts:
        if at := time_of(alert.starts_at):
            told = f"{alert.name} fires: {alert.annotations.get('summary', '')}".rstrip(": ")
            yield Moment(at, "alert", told, record.id)


def people(record: Record) -> Iterator[Moment]:
    """Yield notes, manual steps (also those that nobody signed) and messages of a run."""
    for note in record.said:
        yield Moment(note.at, "note", f"{note.who}: {note.text}", record.id)
    for signed in record.manual:
        if signed.answered:
            yield Moment(signed.answered, "manual", f"{signed.who}: {signed.does}: {signed.answer}", record.id)
        else:
            yield Moment(signed.asked, "manual", f"{signed.does}: nobody said that it was done", record.id)
    for sent in record.escalated:
        told = "reached" if sent.delivered else f"did not reach ({sent.error})"
        if sent.to:
            yield Moment(sent.at, "escalation", f"{sent.event} {told} {sent.to}", record.id)
