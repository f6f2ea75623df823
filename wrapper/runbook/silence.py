"""Keeps Alertmanager quiet about what a run is at work on: from before its first look until it has ended, however it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from runbook.alertmanager import LABEL, VARIABLE, Alertmanager, Matcher
from runbook.alerts import clean
from runbook.catalog import Catalog, Runbook
from runbook.errors import BadInput, RunbookError
from runbook.project import Project
from runbook.record import Record, Store
from runbook.redact import shared
from runbook.units import counted, moment

# Labels that say which one it is; what else an alert has says how bad it is and whose.
IDENTIFYING = ("alertname", "job", "instance", "application", "model")
MARGIN_SECONDS = 300  # beyond the time limit of the run, for a wrapper that was killed
COMMENT = 500  # characters
NAMES = 5
_DO = "Narrow it down with --silence-matcher NAME=VALUE, or allow more with --silence-max."


@dataclass(frozen=True)
class Wanted:
    """What the operator asked for; `matchers` are NAME=VALUE and stand for those that the run would choose."""

    address: str
    matchers: tuple[str, ...] = ()
    at_most: int = 5


def wanted(silence: bool, address: str | None, matchers: tuple[str, ...], at_most: int) -> Wanted:
    """Given the options of `run`, return what they ask for. Raise BadInput where they do not fit together."""
    if not silence:
        raise BadInput("--silence-matcher is given without --silence.", "Add it, or leave the matchers out.")
    if not address:
        raise BadInput("--silence needs an Alertmanager.", f"Name it with --alertmanager URL or {VARIABLE}.")
    given_matchers(matchers)
    Alertmanager(address)
    return Wanted(address, matchers, at_most)


def given_matchers(items: tuple[str, ...]) -> list[Matcher]:
    """Given NAME=VALUE items, return matchers; a name that is given twice fits any of its values. Raise BadInput."""
    found: dict[str, list[str]] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (equals and LABEL.fullmatch(name) and value) or value[0] == "~" or clean(value, len(value)) != value:
            said = f"--silence-matcher {clean(item, 100)!r} is not of the form NAME=VALUE."
            raise BadInput(said, "NAME is a label, VALUE all of its value, as in instance=app1:8000.")
        found.setdefault(name, []).append(value)
    return [Matcher(name, tuple(dict.fromkeys(values))) for name, values in found.items()]


def chosen_matchers(record: Record, runbook: Runbook) -> list[Matcher]:
    """Given a run, return matchers for the alerts it answers, else for those of its runbook. Raise BadInput for none.

    One silence for all: a label counts where all of them have it, with any of their values.
    """
    all_labels = [{"alertname": alert.name, **alert.labels} for alert in record.alerts]
    all_labels = all_labels or [{"alertname": alert.name, **alert.labels} for alert in runbook.alerts]
    if not all_labels:
        said = f"There is nothing to silence: the run answers no alert, and {runbook.slug} names none."
        raise BadInput(said, "Give --alert FILE, or --silence-matcher NAME=VALUE.")
    names = IDENTIFYING if record.alerts else tuple(dict.fromkeys(name for labels in all_labels for name in labels))
    return [
        Matcher(name, tuple(dict.fromkeys(labels[name] for labels in all_labels)))
        for name in names
        if all(labels.get(name) for labels in all_labels)
    ]


@contextmanager
def silenced(
    project: Project, store: Store, asked: Wanted, say: Callable[[str], None], record: Record
) -> Iterator[None]:
    """Given a planned run, hold a silence open while it lasts; none for a --check.

    Raise BadInput when it would hit too much, AskError when Alertmanager does not answer; nothing was changed then.
    """
    if record.check:
        yield
        return
    manager = Alertmanager(asked.address)
    matchers = given_matchers(asked.matchers) or chosen_matchers(record, Catalog(project).get(record.runbook))
    hit = _hit(manager, matchers, asked.at_most)
    seconds = (record.time_limit_seconds or 0) + MARGIN_SECONDS
    name = manager.silence(matchers, seconds, record.owner, _comment(record))
    record.silence = manager.page(name)
    ends = moment(manager.now() + timedelta(seconds=seconds))
    try:
        say(f"Silence: {', '.join(map(str, matchers))} ({counted(hit, 'alert')} now): {record.silence}")
        yield
    finally:
        try:
            manager.expire(name)
        except RunbookError as error:
            _could_not_end(record, store, f"{error} It ends by itself at {ends}.", say)


def _hit(manager: Alertmanager, matchers: list[Matcher], at_most: int) -> int:
    """Return how many alerts there are that a silence would hit. Raise BadInput when they are too many."""
    found = manager.alerts(*map(str, matchers))
    if len(found) > at_most:
        names = list(dict.fromkeys(alert.name for alert in found))
        shown = ", ".join(names[:NAMES]) + (" …" if len(names) > NAMES else "")
        said = (
            f"The silence {', '.join(map(str, matchers))} would hit {len(found)} alerts, more than {at_most}: {shown}."
        )
        raise BadInput(said, _DO)
    return len(found)


def _comment(record: Record) -> str:
    why = ": ".join(filter(None, (f"runbook run {record.id} of {record.runbook}", record.reason)))
    return clean(shared().clean(f"{why} ({record.ticket})" if record.ticket else why), COMMENT)


def _could_not_end(record: Record, store: Store, why: str, say: Callable[[str], None]) -> None:
    text = shared().clean(f"The silence {record.silence} could not be ended: {why}")
    record.notes.append(text)
    with suppress(OSError):
        store.save(record)
    if not record.finished:
        say(text)  # else whoever shows the end of the run shows its notes
