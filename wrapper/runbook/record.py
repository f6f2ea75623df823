"""The record of a run: written ahead, so that a crash at any point leaves an honest one."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import platform
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from runbook import __version__, processes
from runbook.catalog import Severity
from runbook.errors import BadInput, StateError
from runbook.redact import shared
from runbook.schema import SchemaError, build, dump

_ENDED = Literal["succeeded", "failed", "refused", "unreachable", "timed_out", "cancelled", "interrupted"]
State = Literal["planned", "running"] | _ENDED
SEVERITIES = ("critical", "warning", "info")
ID_LENGTH = 26
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def now() -> datetime:
    return datetime.now(UTC)


def new_id() -> str:
    """Return a ULID: 26 characters that sort by time."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def _flatten(item: object, names: tuple[str, ...]) -> None:
    """A role may report a list or mapping where a report shows one value."""
    for name in names:
        value = getattr(item, name)
        if isinstance(value, dict | list):
            setattr(item, name, json.dumps(value, default=str))


@dataclass
class Finding:
    id: str = ""
    host: str = ""
    subject: str = ""
    title: str = ""
    observed: Any = None
    expected: Any = None
    severity: Severity = "warning"
    remedy: Any = None
    state: Literal["open", "fixed", "accepted"] = "open"
    evidence: Any = None
    check: str | None = None
    section: str | None = None
    cause: str = ""  # the finding (host/id) that this one follows from; empty for a root cause
    rank: int = 0  # place along the dependency chain, from 1; 0 where nobody ranked it

    def __post_init__(self) -> None:
        _flatten(self, ("observed", "expected", "evidence", "remedy"))

    @property
    def key(self) -> tuple[str, ...]:
        return self.host, self.id, self.subject

    @property
    def counts(self) -> bool:
        """Whether it keeps the run from ending with exit code 0; info is advice."""
        return self.state == "open" and self.severity != "info"


@dataclass
class Action:
    step: str = ""
    kind: str = "change"
    host: str = ""
    subject: str = ""
    reason: str = ""
    number: Any = None
    threshold: Any = None
    unit: str | None = None  # of number and threshold
    measure: str | None = None  # the unit of before and after; where it is missing, `unit` is
    before: Any = None
    after: Any = None
    result: Literal["planned", "done", "skipped", "failed"] = "done"
    seconds: float | None = None
    detail: Any = None

    def __post_init__(self) -> None:
        _flatten(self, ("number", "threshold", "before", "after", "detail"))

    @property
    def key(self) -> tuple[str, ...]:
        return self.host, self.step, self.kind, self.subject


@dataclass
class StepRun:
    id: str
    kind: str = ""
    does: str = ""
    state: Literal["pending", "running", "ok", "changed", "skipped", "failed"] = "pending"
    started: datetime | None = None
    ended: datetime | None = None
    seconds: float | None = None


@dataclass
class Who:
    user: str
    host: str
    pid: int
    started_ticks: int

    @classmethod
    def me(cls) -> Who:
        user = str(os.getuid())
        with suppress(KeyError, OSError):  # a user without an entry in passwd, as in some containers
            user = getpass.getuser()
        owner = processes.process(os.getpid())
        return cls(user, socket.gethostname(), owner.pid, owner.started)

    def alive(self) -> bool:
        if self.host != socket.gethostname():
            return True  # a shared state folder; only the owner's own machine can tell
        return processes.Process(self.pid, self.started_ticks).alive()


@dataclass
class AlertRef:
    """The alert that led to a run, as Alertmanager identifies it."""

    name: str
    fingerprint: str = ""
    starts_at: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass
class OperatorNote:
    """What a person wrote down beside a run."""

    at: datetime
    who: str
    text: str


@dataclass
class Escalated:
    """One message that was sent, or could not be: `event` is trigger or resolve, `key` what both have in common.

    `number` counts the messages of a key, so that their order holds when a clock is set; `since` is when it began.
    """

    at: datetime
    to: str
    event: Literal["trigger", "resolve"]
    key: str
    delivered: bool
    error: str = ""
    number: int = 0
    since: datetime | None = None


@dataclass
class Signed:
    """A manual step: when it was asked for, and who said what about it."""

    step: str
    does: str
    asked: datetime
    answered: datetime | None = None
    who: str = ""
    answer: str = ""


@dataclass
class Remedy:
    """One step that the findings call for: what it would do, where, and why it may not."""

    step: str
    kind: str = "change"
    host: str = ""
    does: str = ""
    because: str = ""  # the finding that calls for it
    targets: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    refused: str = ""  # why a guard forbids it; empty where none does
    confirmation: str = ""  # what --confirm takes for this destructive remedy alone


@dataclass
class Source:
    root: str
    revision: str | None = None
    dirty: bool | None = None


@dataclass
class Record:
    runbook: str
    title: str
    project: Source
    id: str = field(default_factory=new_id)
    schema_version: int = 1
    state: State = "planned"
    exit_code: int | None = None
    message: str = ""
    remedy: str = ""
    who: Who = field(default_factory=Who.me)
    started: datetime = field(default_factory=now)
    ended: datetime | None = None
    seconds: float | None = None
    reason: str = ""
    ticket: str = ""
    inventory: list[str] = field(default_factory=list)
    limit: str | None = None
    check: bool = False
    diff: bool = False
    time_limit_seconds: float | None = None
    hosts: list[str] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    private_dir: str = ""
    steps: list[StepRun] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    evidence: dict[str, str] = field(default_factory=dict)
    stats: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    fix: str = ""  # which kinds of remedies were allowed: nothing, change, destructive
    plan: list[Remedy] = field(default_factory=list)
    confirmation: str = ""  # what --confirm takes to have the destructive part of the plan carried out
    alerts: list[AlertRef] = field(default_factory=list)
    silence: str = ""
    resumes: str = ""  # the run this one goes on with
    manual: list[Signed] = field(default_factory=list)
    said: list[OperatorNote] = field(default_factory=list)
    escalated: list[Escalated] = field(default_factory=list)
    tells: bool | None = None  # whether the inventory has anybody told; None where no host was asked

    @property
    def open_findings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.counts]

    @property
    def ranked_findings(self) -> list[Finding]:
        """The findings, open ones first, root causes and the worst at the top; what is only advice comes last."""

        def place(f: Finding) -> tuple[bool, bool, int, int, str, str]:
            return f.severity == "info", f.state != "open", f.rank or sys.maxsize, SEVERITIES.index(f.severity), f.host, f.subject

        return sorted(self.findings, key=place)

    @property
    def finished(self) -> bool:
        return self.state not in ("planned", "running")

    @property
    def owner(self) -> str:
        return f"{self.who.user}@{self.who.host}"

    def count(self, result: str) -> int:
        """Return how many actions had a result."""
        return sum(action.result == result for action in self.actions)

    @classmethod
    def of(cls, data: Any) -> Record:
        """Given a record as it was stored, return it; keys of later versions are left out."""
        return build(cls, data, lenient=True)


def versions() -> dict[str, str]:
    from importlib.metadata import version  # noqa: PLC0415  slow to import, and only a run needs it

    known = {name.replace("-", "_"): version(name) for name in ("ansible-core", "ansible-runner")}
    return {"runbook": __version__, "python": platform.python_version(), **known}


class Store:
    """The folder of records. `active/` names the runs that have not ended; a start reads only those."""

    def __init__(self, root: Path) -> None:
        self.root, self.runs, self.active = root, root / "runs", root / "active"

    def prepare(self) -> None:
        """Make the folders and prove that they can be written. Raise StateError when not."""
        try:
            for folder in (self.root, self.runs, self.active):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(self.active / f".probe-{os.getpid()}", "")
            (self.active / f".probe-{os.getpid()}").unlink()
        except OSError as error:
            raise StateError(
                f"Records cannot be written to {self.root}: {error.strerror or error}. Nothing was run.",
                "Make the folder writable, or name another one with RUNBOOK_STATE_DIR.",
            ) from error

    def folder(self, run_id: str) -> Path:
        return self.runs / run_id

    def create(self, record: Record) -> Path:
        """Write a new record ahead of its run and return its folder."""
        folder = self.folder(record.id)
        try:
            folder.mkdir(mode=0o700)
            _write(self.active / record.id, "")
            self.save(record)
        except OSError as error:
            said = f"The record {folder} cannot be written: {error.strerror}. Nothing was run."
            raise StateError(said) from error
        return folder

    def save(self, record: Record) -> None:
        data = shared().data(dump(record))
        _write(self.folder(record.id) / "run.json", json.dumps(data, indent=1) + "\n")
        if record.finished:
            (self.active / record.id).unlink(missing_ok=True)

    def ids(self) -> list[str]:
        """Return the ids of all records, newest first."""
        return _ids(self.runs)

    def read(self, run_id: str) -> dict[str, Any] | None:
        """Given an id, return the raw record; None when it is gone or damaged."""
        try:
            data = json.loads((self.folder(run_id) / "run.json").read_text())
        except (OSError, ValueError):
            return None
        return data if isinstance(data, dict) else None

    def newest(self, limit: int = 500) -> Iterator[dict[str, Any]]:
        """Yield raw records, newest first."""
        yield from filter(None, map(self.read, self.ids()[:limit]))

    def load(self, name: str) -> Record:
        """Given an id, a unique prefix or `last`, return the record. Raise BadInput when there is none."""
        ids = self.ids()
        found = ids[:1] if name == "last" else [run_id for run_id in ids if run_id.startswith(name.upper())]
        if not found:
            raise BadInput(f'There is no run "{name}" in {self.runs}.', "`runbook runs list` shows them.")
        if len(found) > 1:
            said = f'"{name}" fits {len(found)} runs, from {found[-1]} to {found[0]}.'
            raise BadInput(said, "Give more of the id.")
        try:
            return Record.of(self.read(found[0]))
        except SchemaError as error:
            raise BadInput(f"The record {self.folder(found[0]) / 'run.json'} is damaged: {error}") from error

    def amend(self, name: str, change: Callable[[Record], object]) -> Record:
        """Given an id, prefix or `last`, change a record that is there, one writer at a time, and return it.

        Raise BadInput while its run is still at work: that writes the record itself.
        """
        record = self.load(name)
        with (self.folder(record.id) / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            record = self.load(record.id)
            if not record.finished and record.who.alive() and record.who.pid != os.getpid():
                raise BadInput(f"Run {record.id} is still at work.", "Wait until it has ended, then note it.")
            change(record)
            self.save(record)
        return record

    def recover(self) -> list[Record]:
        """Mark runs whose owner is gone as interrupted, and return them."""
        changed = []
        for run_id in reversed(_ids(self.active)):
            try:
                record = Record.of(self.read(run_id))
            except SchemaError:
                continue  # `runs show` tells what is wrong with it
            if record.finished:
                (self.active / run_id).unlink(missing_ok=True)
            elif not record.who.alive():
                _mark_interrupted(record)
                self.save(record)
                changed.append(record)
        return changed

    def events(self, run_id: str) -> Iterator[dict[str, Any]]:
        """Yield a run's events; a last line cut off by a crash is left out."""
        with suppress(OSError), (self.folder(run_id) / "events.jsonl").open() as file:
            for line in file:
                with suppress(ValueError):
                    yield json.loads(line)

    def select(self, slug: str | None, failed: bool, host: str | None) -> Iterator[dict[str, Any]]:
        """Yield raw records that fit the filters, newest first."""
        for data in self.newest():
            unwanted = (slug and data.get("runbook") != slug) or (host and host not in data.get("hosts", []))
            if not unwanted and not (failed and data.get("state") == "succeeded"):
                yield data

    def last_runs(self, slugs: set[str]) -> dict[str, dict[str, Any]]:
        """Return, per runbook, its newest run (`last`) and its newest good one that was no --check (`good`)."""
        seen: dict[str, dict[str, Any]] = {}
        for data in self.newest():
            entry = seen.setdefault(str(data.get("runbook")), {"last": data})
            if _good(data):
                entry.setdefault("good", data)
            if all("good" in seen.get(slug, {}) for slug in slugs):
                break  # a list of runbooks must not read years of records
        return seen

    def dead_runs(self, limit: int = 20) -> list[str]:
        """Return runs that ended without giving their leases back, so that the next need not wait."""
        ended = ("interrupted", "cancelled", "timed_out", "failed")
        found = [str(data["id"]) for data in self.newest(limit) if data.get("state") in ended]
        return [run_id for run_id in found if not processes.of_run(run_id)]

    def usual_seconds(self, slug: str, wanted: int = 5) -> dict[str, float]:
        """Given a runbook, return the median seconds of each of its steps over the last good runs."""
        good = (data for data in self.newest(100) if data.get("runbook") == slug and _good(data))
        seen: dict[str, list[float]] = {}
        for data in islice(good, wanted):
            for step in data.get("steps", []):
                if step.get("seconds") is not None:
                    seen.setdefault(step["id"], []).append(step["seconds"])
        return {name: sorted(values)[len(values) // 2] for name, values in seen.items()}


def _ids(folder: Path) -> list[str]:
    try:
        return sorted((name for name in os.listdir(folder) if len(name) == ID_LENGTH), reverse=True)
    except OSError:
        return []


def _good(data: dict[str, Any]) -> bool:
    return data.get("state") == "succeeded" and not data.get("check")


def _mark_interrupted(record: Record) -> None:
    record.state, record.ended = "interrupted", now()
    record.message = f"The process that ran this (pid {record.who.pid}) is gone; how far it came is below."
    record.remedy = f"Every step can be repeated: runbook run {record.runbook}"
    for step in record.steps:
        if step.state == "running":
            step.state = "failed"
    if pids := ", ".join(str(pid) for pid in sorted(item.pid for item in processes.of_run(record.id))):
        record.notes.append(f"When this was noticed, its ansible-playbook was still at work: pid {pids}.")


def _write(path: Path, text: str) -> None:
    """Replace a file so that a reader, or a crash, sees the old text or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Journal:
    """A run's events.jsonl. Lines are masked by whoever makes them, and again here."""

    def __init__(self, folder: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._file = os.fdopen(os.open(folder / "events.jsonl", flags, 0o600), "w")

    def write(self, line: dict[str, Any]) -> str:
        """Append one event and return the line as written."""
        text = json.dumps(shared().data(line), separators=(",", ":"), default=str)
        self._file.write(text + "\n")
        self._file.flush()
        return text

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
