"""The life of a run: refuse bad input, write the record ahead, let Ansible work, tell how it ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from runbook import inputs, inventory, processes
from runbook.catalog import Catalog, Runbook
from runbook.errors import BadInput, RunbookError
from runbook.events import Collector, phases, verdict
from runbook.project import Project, Revision
from runbook.record import Journal, Record, Source, StepRun, Store, now, versions
from runbook.redact import shared
from runbook.runner import Job, Play, make_private, sweep_private


@dataclass(frozen=True)
class Request:
    """What the operator asked for."""

    slug: str
    inventory: tuple[str, ...]
    limit: str | None = None
    check: bool = False
    diff: bool = False
    sets: tuple[str, ...] = ()
    reason: str = ""
    ticket: str = ""
    timeout_seconds: float | None = None
    verbosity: int = 0


class Observer(Protocol):
    """Who is told about a run while it goes on."""

    def started(self, record: Record, usual: dict[str, float]) -> None: ...
    def event(self, line: dict[str, Any], text: str) -> None: ...
    def step(self, record: Record, current: StepRun | None) -> None: ...
    def notice(self, text: str) -> None: ...
    def finished(self, record: Record) -> None: ...


class Stop:
    """Why a run has to stop. Owns the signal handlers while it lasts, and gives them back."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, limit_seconds: float) -> None:
        self.deadline = time.monotonic() + limit_seconds
        self.asked = 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        for number in self.SIGNALS:
            self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked += 1

    @property
    def orders(self) -> int:
        """How often it was ordered: the first is polite, the second is not."""
        return self.asked + (time.monotonic() > self.deadline)

    @property
    def why(self) -> str | None:
        if self.asked:
            return "cancelled"
        return "timed_out" if time.monotonic() > self.deadline else None


def open_store(root: Path) -> Store:
    """Given the state folder, return its store, with what dead runs left behind put in order."""
    store = Store(root)
    with suppress(OSError):  # a folder that can only be read still can be listed
        for record in store.recover():
            private = Path(record.private_dir)
            if record.id in private.name and not processes.of_run(record.id):
                shutil.rmtree(private, ignore_errors=True)
        sweep_private()
    return store


def all_options(
    project: Project, runbook: Runbook
) -> tuple[dict[str, inputs.Option], dict[str, inputs.Option]]:
    """Return (the runbook's inputs, the frame's inputs), without those only the wrapper may set."""
    return inputs.load_options(project.roles / runbook.role), inputs.frame_options(project.roles)


@dataclass
class Plan:
    """A request that was found valid."""

    request: Request
    runbook: Runbook
    record: Record
    job: Job


def plan(project: Project, request: Request, dead_runs: Iterable[str] = ()) -> Plan:
    """Given a request, return what to run. Raise BadInput; nothing has been written or started by then."""
    runbook = Catalog(project).get(request.slug)
    playbook = project.playbook(request.slug)
    if not playbook.exists():
        raise BadInput(
            f"The runbook {request.slug} has no playbook {playbook}.", "Add it, or use another project."
        )
    limit_seconds = request.timeout_seconds or runbook.time_limit_seconds
    own, frame = all_options(project, runbook)
    options = own | frame
    values = inputs.parse_inputs(request.sets, options)
    for name, value in values.items():
        if inputs.is_secret(name, options[name]):
            shared().learn(value)
    paths = inventory.resolve(request.inventory, project)
    inventory.inspect(paths, shared())
    record = Record(
        runbook=runbook.slug,
        title=runbook.title,
        reason=request.reason,
        ticket=request.ticket,
        inventory=[str(path) for path in paths],
        limit=request.limit,
        check=request.check,
        diff=request.diff,
        time_limit_seconds=limit_seconds,
        inputs=inputs.masked(values, options),
        project=Source(root=str(project.root)),
        steps=phases(runbook),
    )
    own_vars = dict(
        zip(
            inputs.SET_BY_RUN,
            (record.id, record.owner, request.reason, request.ticket, list(dead_runs)),
            strict=True,
        ),
        **values,
    )
    job = Job(
        run_id=record.id, project=project, playbook=playbook, inventory=paths, extra_vars=own_vars,
        limit=request.limit, check=request.check, diff=request.diff, verbosity=request.verbosity,
    )  # fmt: skip
    return Plan(request, runbook, record, job)


def execute(project: Project, store: Store, request: Request, observer: Observer) -> Record:
    """Given a request, carry it out and return its record. Raise a RunbookError when it cannot be started."""
    shared().learn_named(os.environ)
    store.prepare()
    revision = Revision(project.root)
    planned = plan(project, request, store.dead_runs())
    record = planned.record
    private = make_private(record.id)
    record.private_dir = str(private)
    watch = _Watch(record, store, Journal(store.create(record)), observer)
    try:
        with Stop(record.time_limit_seconds or 0) as stop:
            play = Play(planned.job, private)
            play.start()
            try:
                record.versions = versions()
                record.project.revision, record.project.dirty = revision.read()
                record.state = "running"
                store.save(record)
                observer.started(record, store.usual_seconds(record.runbook))
                watch.follow(play, stop)
            except BaseException:
                _abandon(play)
                raise
    except BaseException as error:
        _give_up(record, store, error)
        raise
    finally:
        watch.journal.close()
        shutil.rmtree(private, ignore_errors=True)
    observer.finished(record)
    return record


@dataclass
class _Watch:
    """Watches a play to its end, and writes down what it reports."""

    record: Record
    store: Store
    journal: Journal
    observer: Observer

    def follow(self, play: Play, stop: Stop) -> None:
        collector, orders, why = Collector(self.record), 0, None
        for raw in play.events():
            if stop.orders > orders:
                orders, why = stop.orders, why or stop.why
                self.observer.notice(_stopping(why, orders))
                play.stop(at_once=orders > 1)
            if raw is not None:
                self._digest(shared().data(raw), collector)
            else:
                self.observer.step(self.record, collector.current)
        collector.leave(stopped=bool(why))
        if why:
            play.sweep()
        end = verdict(self.record, collector.tally, play.rc, why, play.error)
        self.record.state, self.record.exit_code = end.state, int(end.code)
        self.record.message, self.record.remedy = shared().clean(end.message), end.remedy
        _close(self.record, self.store)

    def _digest(self, raw: dict[str, Any], collector: Collector) -> None:
        before = collector.current
        line = collector.feed(raw)
        if line is None:
            return
        text = self.journal.write(line)
        if collector.current is not before or "runbook" in line:
            self.store.save(self.record)
        self.observer.event(line, text)
        if collector.current is not before:
            self.observer.step(self.record, collector.current)


def _stopping(why: str | None, orders: int) -> str:
    if orders > 1:
        return "Stopping at once."
    reason = "The time limit is reached" if why == "timed_out" else "Cancelling"
    return f"{reason}: letting ansible-playbook end its work. Ctrl-C again stops it at once."


def _abandon(play: Play) -> None:
    """The wrapper cannot go on: nothing may go on without it."""
    play.stop(at_once=True)
    for _ in play.events():
        continue
    play.sweep()


def _close(record: Record, store: Store) -> None:
    record.ended = now()
    record.seconds = round((record.ended - record.started).total_seconds(), 3)
    store.save(record)


def _give_up(record: Record, store: Store, error: BaseException) -> None:
    """The wrapper itself failed: the record must not claim that the run goes on."""
    if not record.finished:
        record.state, record.exit_code = "failed", 2
        if isinstance(error, RunbookError):
            record.exit_code = int(error.code)
        record.message = shared().clean(f"The wrapper failed: {type(error).__name__}: {error}")
        with suppress(OSError):
            _close(record, store)


def ask(
    project: Project, job: Job, files: dict[str, Any], limit_seconds: float = 60
) -> Iterator[dict[str, Any]]:
    """Given a job that only reads, run it without a record and yield its raw events, unmasked.

    `files` are written to the private folder as JSON: `play.json` is the playbook, `defaults.json` an
    inventory that ranks below the job's own.
    """
    private = make_private(job.run_id)
    try:
        for name, content in files.items():
            (private / name).write_text(json.dumps(content))
        lowest = [private / "defaults.json"] if "defaults.json" in files else []
        job = replace(job, playbook=private / "play.json", inventory=[*lowest, *job.inventory])
        with Stop(limit_seconds) as stop:
            play = Play(job, private)
            play.start()
            for event in play.events():
                if stop.why:
                    play.stop()
                if event is not None:
                    yield event
            if stop.why:
                play.sweep()
                raise RunbookError("Ansible did not answer in time, or was cancelled.")
    finally:
        shutil.rmtree(private, ignore_errors=True)


def select(
    store: Store, slug: str | None = None, failed: bool = False, host: str | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """Return raw records, newest first, that fit the filters."""
    found: list[dict[str, Any]] = []
    for data in store.newest():
        if slug and data.get("runbook") != slug:
            continue
        if failed and data.get("state") == "succeeded":
            continue
        if host and host not in data.get("hosts", []):
            continue
        found.append(data)
        if len(found) == limit:
            break
    return found


def last_runs(store: Store, slugs: set[str]) -> dict[str, dict[str, Any]]:
    """Return, per runbook, its newest run (`last`) and its newest good one that was no --check (`good`)."""
    seen: dict[str, dict[str, Any]] = {}
    for data in store.newest():
        entry = seen.setdefault(str(data.get("runbook")), {})
        entry.setdefault("last", data)
        if data.get("state") == "succeeded" and not data.get("check"):
            entry.setdefault("good", data)
        if slugs and all("good" in seen.get(slug, {}) for slug in slugs):
            break
    return seen
