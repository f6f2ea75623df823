"""Tells people when a run leaves something open or fails, and tells the same people when it is over.

Who and when is the inventory's `tracker_contacts` and `tracker_escalation`. What was sent, or could not be, is in the
record of the run. How long an incident lasts and who knows of it is read from the records, with nothing kept beside
them but an index of what is not resolved yet.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from runbook import inventory
from runbook.alerts import clean
from runbook.catalog import Catalog, Runbook, Severity
from runbook.errors import ExitCode, RunbookError
from runbook.project import Project
from runbook.record import SEVERITIES, Escalated, Record, Store, now
from runbook.redact import shared
from runbook.runs import ask
from runbook.schema import SchemaError, build, dump

Event = Literal["trigger", "resolve"]
Category = Literal["incident", "maintenance", "troubleshooting", "tool"]
Clock = Callable[[], datetime]
Say = Callable[[str], None]

LOOK_BACK = 2000  # records; an incident that began before so many runs counts from the oldest of them
_TROUBLE = ("failed", "unreachable", "refused", "timed_out")
_MISSING = "the inventory has no address for it"
# One broken secret must not keep the other contacts from being told, so each address is looked up by itself.
_CONTACTS = (
    "{% set found = {} %}{% for name in tracker_contacts | default({}, true) %}{% set _ = found.update({name: {"
    "'title': tracker_contacts[name].title | default(name, true), 'url': tracker_contacts[name].url | default('', true)"
    "}}) %}{% endfor %}{{ found | to_json }}"
)
_PLAY = {
    "hosts": "all",
    "gather_facts": False,
    "tasks": [
        {
            "name": "Read who is told",
            "run_once": True,
            "ansible.builtin.debug": {
                "msg": {"contacts": _CONTACTS, "rungs": "{{ tracker_escalation | default([], true) }}"}
            },
        }
    ],
}


@dataclass(frozen=True)
class Contact:
    """Somebody who is told; `url` is apprise's and comes from the vault."""

    title: str = ""
    url: str = ""


@dataclass(frozen=True)
class Rung:
    """Who is told, how long after the incident began, and of what; a matcher that is left out fits everything.

    `labels` are those of the alert that the run answers; a list is any of its values.
    """

    to: str | list[str]
    after_minutes: float = 0
    severities: list[Severity] = field(default_factory=list)
    categories: list[Category] = field(default_factory=list)
    labels: dict[str, str | list[str]] = field(default_factory=dict)
    why: str = ""

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("to names nobody")
        if not (math.isfinite(self.after_minutes) and self.after_minutes >= 0):
            raise ValueError(f"after_minutes is {self.after_minutes}, no number of minutes from 0 on")

    @property
    def names(self) -> list[str]:
        return [self.to] if isinstance(self.to, str) else self.to

    def fits(self, severity: str, category: str, labels: dict[str, str]) -> bool:
        told = all(
            labels.get(name) in ([want] if isinstance(want, str) else want) for name, want in self.labels.items()
        )
        return (
            told
            and severity in (self.severities or SEVERITIES)
            and (not self.categories or category in self.categories)
        )


@dataclass(frozen=True)
class Policy:
    """Who is told; roles/runbook/module_utils/runbook_policy.py has the same rules, for the start of a run."""

    contacts: dict[str, Contact] = field(default_factory=dict)
    rungs: list[Rung] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in [name for rung in self.rungs for name in rung.names]:
            if name not in self.contacts:
                raise ValueError(f"a rung names {name!r}; the contacts are {', '.join(self.contacts) or 'nobody'}")


@dataclass(frozen=True)
class Message:
    title: str
    body: str
    severity: str
    event: Event
    key: str


@dataclass
class Incident:
    """What the records tell of one key: since when it is open, which contacts know of it, and the last message's number."""

    key: str
    since: datetime | None = None
    told: list[str] = field(default_factory=list)
    last: int = 0


Send = Callable[[str, Message], str]


class Undelivered(RunbookError):
    """Nobody could be told."""


def key_of(data: dict[str, Any]) -> str:
    """Given a record as data, return what all runs about the same incident have in common."""
    for alert in data.get("alerts") or []:
        if alert.get("fingerprint"):
            return f"alert:{alert['fingerprint']}"
    where = sorted(data.get("hosts") or []) or [*(data.get("inventory") or []), data.get("limit") or ""]
    return f"{data['runbook']}:{hashlib.sha256(json.dumps(where).encode()).hexdigest()[:16]}"


def _left_open(data: dict[str, Any]) -> bool:
    return any(one.get("state") == "open" and one.get("severity") != "info" for one in data.get("findings") or [])


def in_trouble(data: dict[str, Any]) -> bool:
    """Given a record as data, return whether somebody may have to know how it ended; a --check never tells."""
    if data.get("check"):
        return False
    if data.get("state") == "refused" and data.get("exit_code") == ExitCode.BAD_INPUT:
        return bool(data.get("alerts"))  # a slip of whoever typed it, unless an alert waits for the answer
    return data.get("state") in _TROUBLE or (data.get("state") == "succeeded" and _left_open(data))


def recovered(data: dict[str, Any]) -> bool:
    return data.get("state") == "succeeded" and not data.get("check") and not _left_open(data)


def incident(records: Iterable[dict[str, Any]], key: str) -> Incident:
    """Given records as data, oldest first, return what is open under a key.

    That order is a clock's, which may have been set; messages have an order of their own, and what they say goes before.
    """
    known = list(records)
    found, began, over = Incident(key), None, None
    for one in sorted((one for data in known for one in _sent(data, key)), key=_number):
        found.last = _number(one)
        if one["event"] == "trigger":
            began = began or one.get("since")
            found.told += [one["to"]] if one["delivered"] and one["to"] not in found.told else []
        elif one["delivered"]:
            found.told = [name for name in found.told if name != one["to"]]
        if one["event"] == "resolve" and not found.told:
            began, over = None, one
    if began and found.told:
        found.since = datetime.fromisoformat(began)
    else:
        found.since = _first_trouble([data for data in known if not _before(data, key, over)], key)
    return found


def _sent(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return [one for one in data.get("escalated") or [] if one.get("key") == key]


def _number(one: dict[str, Any]) -> int:
    return int(one.get("number") or 0)


def _before(data: dict[str, Any], key: str, over: dict[str, Any] | None) -> bool:
    """Return whether a record is of an incident that was over with the message `over`."""
    if over is None:
        return False
    told = any(0 < _number(one) <= _number(over) for one in _sent(data, key))
    return told or datetime.fromisoformat(data["started"]) <= datetime.fromisoformat(over["at"])


def _first_trouble(records: list[dict[str, Any]], key: str) -> datetime | None:
    since = None
    for data in records:
        if data.get("check") or key_of(data) != key:
            continue
        if in_trouble(data):
            since = since or datetime.fromisoformat(data["started"])
        elif recovered(data):
            since = None
    return since


def severity_of(record: Record, runbook: Runbook) -> Severity:
    """Return the worst of what is open; where nothing is known, of the runbook; and of the alert in any case."""
    words = [finding.severity for finding in record.open_findings] or [runbook.severity]
    told = {alert.labels.get("severity") for alert in record.alerts}
    words += [word for word in get_args(Severity) if word in told]
    return min(words, key=SEVERITIES.index)


def quiet(record: Record, runbook: Runbook) -> bool:
    """Maintenance that was done and leaves no critical finding can wait until somebody reads its report."""
    if any(f.severity == "critical" for f in record.open_findings):
        return False
    return runbook.category == "tool" or (runbook.category == "maintenance" and record.state == "succeeded")


def read_policy(project: Project, paths: list[Path], limit: str | None) -> Policy:
    """Given an inventory, return who is told. Raise RunbookError when that cannot be read, with no secret in it."""
    answer = ask(project, paths, limit, _PLAY, {})
    result = next(iter(answer.results.values()), None)
    if result is None:
        told = shared().clean(answer.end.message or "no host was found")
        raise RunbookError(f"Who is to be told cannot be read from the inventory: {told}", answer.end.remedy)
    policy = policy_of(result["msg"]["contacts"], result["msg"]["rungs"])
    for contact in policy.contacts.values():
        shared().learn(secrets_of(contact.url))
    return policy


def policy_of(contacts: Any, rungs: Any) -> Policy:
    """Given what the inventory says, return the policy. Raise RunbookError that shows no address."""
    try:
        contacts = json.loads(contacts) if isinstance(contacts, str) else contacts
        return build(Policy, {"contacts": contacts, "rungs": rungs})
    except (SchemaError, ValueError) as error:
        told = shared().clean(str(error)) if isinstance(error, SchemaError) else "it is no mapping"
        told = re.sub(r"\S+://\S+", "what looks like an address", told)
        raise RunbookError(
            f"tracker_contacts or tracker_escalation is wrong: {told}", "Correct the inventory."
        ) from None


def secrets_of(url: str) -> list[str]:
    """Given an address, return it and the parts of it that look like keys, so that no message repeats one."""
    parts = urllib.parse.urlsplit(url)
    pieces = [*re.split(r"[/@:]", parts.netloc), *parts.path.split("/")]
    pieces += [value for _, value in urllib.parse.parse_qsl(parts.query)]
    words = [urllib.parse.unquote(piece) for piece in pieces if "." not in piece]
    keys = [word for word in words if len(word) >= 20 or (len(word) >= 8 and re.search(r"\d", word))]
    return [url, *keys, *([parts.password] if parts.password else [])]


@dataclass
class Desk:
    """Climbs the rungs for one store of records. `send` delivers to an address and returns why it could not."""

    store: Store
    send: Send
    clock: Clock = now

    @property
    def _folder(self) -> Path:
        return self.store.root / "incidents"

    def _marker(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two runs that end at once must not both tell the same people."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def unresolved(self) -> list[dict[str, Any]]:
        """Return what is noted of incidents that somebody was told of."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            with suppress(OSError, ValueError):
                found.append(json.loads(path.read_text()))
        return found

    def concerned(self, record: Record) -> list[str]:
        """Given a run that left nothing open, return the keys of incidents that are over by that."""
        data, keys = dump(record), []
        for one in self.unresolved():
            covered = one["hosts"] and set(one["hosts"]) <= set(record.hosts)
            mine = not one["key"].startswith("alert:") and one["runbook"] == record.runbook and covered
            if mine or one["key"] == key_of(data):
                keys.append(one["key"])
        return keys

    def key_for(self, record: Record) -> str:
        """Given a run in trouble, return its incident's key: one that answers no alert joins what is open on its hosts."""
        own = key_of(dump(record))
        if own.startswith("alert:"):
            return own
        for one in self.unresolved():
            here = set(one["hosts"]) & set(record.hosts) if record.hosts else one["inventory"] == record.inventory
            if one["key"].startswith("alert:") and one["runbook"] == record.runbook and here:
                return str(one["key"])
        return own

    def incident(self, key: str) -> Incident:
        return incident(reversed(list(islice(self.store.newest(LOOK_BACK), LOOK_BACK))), key)

    def trigger(self, record: Record, policy: Policy, message: Message, matched: list[Rung]) -> list[Escalated]:
        """Tell whoever is due by now, and after each failure the next one as well; return what was tried."""
        with self._alone():
            known = self.incident(message.key)
            began = known.since = known.since or record.started
            age_minutes = max(0.0, (self.clock() - began).total_seconds() / 60)
            sent: list[Escalated] = []
            told, fell = set(known.told), False
            for rung in matched:
                if rung.after_minutes > age_minutes and not fell:
                    break
                fell = False
                for name in rung.names:
                    if name not in told:
                        sent.append(self._deliver(record, policy, name, message, known))
                        told |= {name} if sent[-1].delivered else set()
                        fell |= not sent[-1].delivered
            self._keep(record, sent)
            return sent

    def resolve(self, record: Record, policy: Policy, message: Message) -> list[Escalated]:
        """Tell those who know of the incident that it is over; return what was tried."""
        with self._alone():
            known = self.incident(message.key)
            sent = [self._deliver(record, policy, name, message, known) for name in known.told]
            if not known.told:
                # Without this line the next incident of the same key would seem as old as this one.
                sent = [Escalated(self.clock(), "", "resolve", message.key, delivered=True, number=known.last + 1)]
            self._keep(record, sent)
            if all(one.delivered for one in sent):
                self._marker(message.key).unlink(missing_ok=True)
            return sent

    def _deliver(self, record: Record, policy: Policy, name: str, message: Message, known: Incident) -> Escalated:
        contact = policy.contacts.get(name)
        if message.event == "trigger":
            noted = {"key": message.key, "runbook": record.runbook, "hosts": record.hosts,
                     "inventory": record.inventory, "limit": record.limit}  # fmt: skip
            self._marker(message.key).write_text(json.dumps(noted))
        error = self.send(contact.url, message) if contact and contact.url else _MISSING
        error = shared().clean(error)
        known.last += 1
        return Escalated(self.clock(), name, message.event, message.key, not error, error, known.last, known.since)

    def _keep(self, record: Record, sent: list[Escalated]) -> None:
        if sent:
            self.store.amend(record.id, lambda kept: kept.escalated.extend(sent))
            record.escalated.extend(sent)


def compose(record: Record, runbook: Runbook, event: Event, key: str, why: str) -> Message:
    """Return what people are told of a run: what is open and why, what was tried, and what to do next."""
    from runbook.escalation_text import body, title  # noqa: PLC0415  the renderer is slow to import

    severity = severity_of(record, runbook)
    return Message(title(record, severity, event, why), body(record, event, why), severity, event, key)


def matching(policy: Policy, record: Record, runbook: Runbook) -> list[Rung]:
    """Return the rungs that fit a run, in the order of their time."""
    labels = {name: value for alert in record.alerts for name, value in alert.labels.items()}
    severity = severity_of(record, runbook)
    fit = [rung for rung in policy.rungs if rung.fits(severity, runbook.category, labels)]
    return sorted(fit, key=lambda rung: rung.after_minutes)


def escalate(
    project: Project, desk: Desk, record: Record, event: Event, why: str, policy: Policy | None = None
) -> list[Escalated]:
    """Given a finished run, tell people of it or that it is over; return what was tried. Raise RunbookError."""
    runbook = Catalog(project).get(record.runbook)
    if policy is None:
        policy = read_policy(project, inventory.resolve(record.inventory, project), record.limit)
    if event == "resolve":
        return desk.resolve(record, policy, compose(record, runbook, "resolve", key_of(dump(record)), why))
    if not (matched := matching(policy, record, runbook)):
        return []
    return desk.trigger(record, policy, compose(record, runbook, "trigger", desk.key_for(record), why), matched)


def after_run(project: Project, store: Store, record: Record, say: Say, desk: Desk | None = None) -> None:
    """Given a run that has ended, tell whoever has to know. Nothing that goes wrong here changes how the run ended."""
    if record.tells is False:
        return
    try:
        desk = desk or Desk(store, deliver)
        runbook = Catalog(project).get(record.runbook)
        data = dump(record)
        if in_trouble(data) and not quiet(record, runbook):
            report(escalate(project, desk, record, "trigger", ""), say)
        elif recovered(data) and (keys := desk.concerned(record)):
            policy = read_policy(project, inventory.resolve(record.inventory, project), record.limit)
            for key in keys:
                message = compose(record, runbook, "resolve", key, "")
                report(desk.resolve(record, policy, message), say)
    except Exception as error:  # whatever it is: the run itself is over, and its exit code stands
        told = shared().clean(f"{error}" if isinstance(error, RunbookError) else f"{type(error).__name__}: {error}")
        text = f"Nobody could be told of this run: {clean(told, 500)}"
        say(text)
        with suppress(Exception):
            store.amend(record.id, lambda kept: kept.notes.append(text))


def report(sent: list[Escalated], say: Say) -> None:
    """Say in one line each what was tried."""
    for one in sent:
        if not one.to:
            continue
        done = "was told" if one.event == "trigger" else "was told that it is over"
        say(f"Escalation: {one.to} {done}." if one.delivered else f"Escalation: {one.to} was not told: {one.error}.")
    if sent and not any(one.delivered for one in sent):
        say("Escalation: nobody could be told. Tell somebody yourself.")


def deliver(url: str, message: Message) -> str:
    """Given an address and a message, deliver it; return why it could not be, or an empty text."""
    from runbook.notifiers import deliver as send  # noqa: PLC0415  apprise takes half a second to import

    return send(url, message.title, message.body, message.severity, message.event, message.key)
