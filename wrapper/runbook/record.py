"""The record of a run: written ahead, so that a crash at any point leaves an honest one."""

from __future__ import annotations

import getpass
import json
import os
import platform
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from runbook import processes
from runbook.catalog import Severity
from runbook.errors import BadInput, StateError
from runbook.redact import shared
from runbook.schema import SchemaError, build, dump

State = Literal[
    "planned",
    "running",
    "succeeded",
    "failed",
    "refused",
    "unreachable",
    "timed_out",
    "cancelled",
    "interrupted",
]
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

    def __post_init__(self) -> None:
        _flatten(self, ("observed", "expected", "evidence", "remedy"))

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
        try:
            user = getpass.getuser()
        except (KeyError, OSError):
            user = str(os.getuid())
        owner = processes.process(os.getpid())
        return cls(user=user, host=socket.gethostname(), pid=owner.pid, started_ticks=owner.started)

    def alive(self) -> bool:
        if self.host != socket.gethostname():
            return True  # a shared state folder; only the owner's own machine can tell
        return processes.Process(self.pid, self.started_ticks).alive()


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

    @property
    def open_findings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.counts]

    @property
    def finished(self) -> bool:
        return self.state not in ("planned", "running")

    @classmethod
    def of(cls, data: dict[str, Any]) -> Record:
        """Given a record as it was stored, return it; keys of later versions are left out."""
        return build(cls, data, lenient=True)

    @property
    def owner(self) -> str:
        return f"{self.who.user}@{self.who.host}"


def versions() -> dict[str, str]:
    from importlib.metadata import version  # noqa: PLC0415  slow to import, and only a run needs it

    from runbook import __version__  # noqa: PLC0415

    known = {name.replace("-", "_"): version(name) for name in ("ansible-core", "ansible-runner")}
    return {"runbook": __version__, "python": platform.python_version(), **known}


class Store:
    """The folder of records. `active/` names the runs that have not ended; a start reads only those."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runs = root / "runs"
        self.active = root / "active"

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
            raise StateError(
                f"The record {folder} cannot be written: {error.strerror}. Nothing was run."
            ) from error
        return folder

    def save(self, record: Record) -> None:
        data = shared().data(dump(record))
        _write(self.folder(record.id) / "run.json", json.dumps(data, indent=1) + "\n")
        if record.finished:
            (self.active / record.id).unlink(missing_ok=True)

    def ids(self) -> list[str]:
        """Return the ids of all records, newest first."""
        try:
            return sorted((name for name in os.listdir(self.runs) if len(name) == 26), reverse=True)
        except OSError:
            return []

    def read(self, run_id: str) -> dict[str, Any] | None:
        """Given an id, return the raw record; None when it is gone or damaged."""
        try:
            data = json.loads((self.folder(run_id) / "run.json").read_text())
        except (OSError, ValueError):
            return None
        return data if isinstance(data, dict) else None

    def newest(self, limit: int = 500) -> Iterator[dict[str, Any]]:
        """Yield raw records, newest first."""
        for run_id in self.ids()[:limit]:
            if data := self.read(run_id):
                yield data

    def load(self, name: str) -> Record:
        """Given an id, a unique prefix or `last`, return the record. Raise BadInput when there is none."""
        ids = self.ids()
        found = ids[:1] if name == "last" else [run_id for run_id in ids if run_id.startswith(name.upper())]
        if not found:
            raise BadInput(f'There is no run "{name}" in {self.runs}.', "`runbook runs list` shows them.")
        if len(found) > 1:
            raise BadInput(
                f'"{name}" fits {len(found)} runs, from {found[-1]} to {found[0]}.', "Give more of the id."
            )
        data = self.read(found[0])
        if data is None:
            raise BadInput(f"The record {self.folder(found[0]) / 'run.json'} is damaged.")
        try:
            return Record.of(data)
        except SchemaError as error:
            raise BadInput(f"The record {self.folder(found[0]) / 'run.json'} is damaged: {error}") from error

    def recover(self) -> list[Record]:
        """Mark runs whose owner is gone as interrupted, and return them."""
        changed = []
        for run_id in sorted(os.listdir(self.active)) if self.active.is_dir() else []:
            data = self.read(run_id) if len(run_id) == 26 else None
            if data is None:
                continue
            try:
                record = Record.of(data)
            except SchemaError:
                continue  # `runs show` tells what is wrong with it
            if not record.finished and not record.who.alive():
                _mark_interrupted(record)
                changed.append(record)
                self.save(record)
            elif record.finished:
                (self.active / run_id).unlink(missing_ok=True)
        return changed

    def events(self, run_id: str) -> Iterator[dict[str, Any]]:
        """Yield a run's events; a last line cut off by a crash is left out."""
        try:
            with (self.folder(run_id) / "events.jsonl").open() as file:
                for line in file:
                    try:
                        yield json.loads(line)
                    except ValueError:
                        continue
        except OSError:
            return

    def dead_runs(self, limit: int = 20) -> list[str]:
        """Return runs that ended without giving their leases back, so that the next need not wait."""
        ended = ("interrupted", "cancelled", "timed_out", "failed")
        found = [str(data["id"]) for data in self.newest(limit) if data.get("state") in ended]
        return [run_id for run_id in found if not processes.of_run(run_id)]

    def usual_seconds(self, slug: str, wanted: int = 5) -> dict[str, float]:
        """Given a runbook, return the median seconds of each of its steps over the last good runs."""
        seen: dict[str, list[float]] = {}
        runs = 0
        for data in self.newest(100):
            if data.get("runbook") == slug and data.get("state") == "succeeded" and not data.get("check"):
                for step in data.get("steps", []):
                    if step.get("seconds") is not None:
                        seen.setdefault(step["id"], []).append(step["seconds"])
                runs += 1
                if runs == wanted:
                    break
        return {name: sorted(values)[len(values) // 2] for name, values in seen.items()}


def _mark_interrupted(record: Record) -> None:
    record.state, record.exit_code = "interrupted", None
    record.message = f"The process that ran this (pid {record.who.pid}) is gone; how far it came is below."
    record.remedy = f"Every step can be repeated: runbook run {record.runbook}"
    record.ended = now()
    for step in record.steps:
        if step.state == "running":
            step.state = "failed"
    if left := processes.of_run(record.id):
        pids = ", ".join(str(item.pid) for item in sorted(left, key=lambda item: item.pid))
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
