"""The life of a run: refuse bad input, write the record ahead, let Ansible work, tell how it ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from runbook import inputs, inventory, processes
from runbook.catalog import Catalog
from runbook.errors import BadInput, ExitCode, RunbookError
from runbook.events import Collector, Tally, Verdict, phases, verdict
from runbook.project import Project, revision
from runbook.record import AlertRef, Journal, Record, Signed, Source, StepRun, Store, now, versions
from runbook.redact import shared
from runbook.runner import Job, Play, make_private, sweep_private

ASK_SECONDS = 60.0  # a host that takes longer to say who it is cannot be worked with


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
    timeout: float | None = None
    verbosity: int = 0
    fix: str = ""
    confirm: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    signed: tuple[Signed, ...] = ()
    resumes: str = ""
    resume_from: str = ""
    alerts: tuple[AlertRef, ...] = ()


Around = Callable[[Record], AbstractContextManager[object]]


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
        return ("cancelled" if self.asked else "timed_out") if self.orders else None


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


def plan(project: Project, request: Request, dead_runs: list[str]) -> tuple[Record, Job]:
    """Given a request, return what to run. Raise BadInput; nothing has been written or started by then."""
    runbook = Catalog(project).get(request.slug)
    playbook = project.playbook(request.slug)
    if not playbook.exists():
        raise BadInput(f"The runbook {request.slug} has no playbook {playbook}.", "Use another project.")
    options = inputs.load_options(project.roles / runbook.role, runbook.entry) | inputs.frame_options(project.roles)
    values = inputs.parse_inputs(request.sets, options)
    shared().learn([value for name, value in values.items() if inputs.is_secret(name, options[name])])
    paths = inventory.resolve(request.inventory, project)
    record = Record(
        runbook=runbook.slug,
        title=runbook.title,
        reason=request.reason,
        ticket=request.ticket,
        inventory=[str(path) for path in paths],
        limit=request.limit,
        check=request.check,
        diff=request.diff,
        time_limit_seconds=request.timeout or runbook.time_limit_seconds,
        inputs=inputs.masked(values, options),
        project=Source(root=str(project.root)),
        steps=phases(runbook),
        fix=request.fix,
        manual=list(request.signed),
        resumes=request.resumes,
        alerts=list(request.alerts),
    )
    by_run = (record.id, record.owner, request.reason, request.ticket, dead_runs,
              request.fix, list(request.confirm), request.resume_from)  # fmt: skip
    job = Job(
        run_id=record.id, project=project, playbook=playbook, inventory=paths, limit=request.limit,
        extra_vars=dict(zip(inputs.SET_BY_RUN, by_run, strict=True)) | values,
        check=request.check, diff=request.diff, verbosity=request.verbosity,
    )  # fmt: skip
    return record, job


def execute(
    project: Project, store: Store, request: Request, open_observer: Callable[[], Observer], around: Around = nullcontext
) -> Record:
    """Given a request, carry it out and return its record. Raise a RunbookError when it cannot be started.

    `around` surrounds it from before its record is written until it has ended, also where a signal ends it.
    The observer is made when Ansible is already at work, so that it need not wait for a terminal library.
    """
    shared().learn_named(os.environ)
    store.prepare()
    record, job = plan(project, request, store.dead_runs())
    # From here on a signal is an order to stop in good order: nothing that was made may be left behind.
    with Stop(record.time_limit_seconds or 0) as stop:
        private = make_private(record.id)
        record.private_dir = str(private)
        try:
            with around(record), closing(Journal(store.create(record))) as journal:
                observer = _carry_out(record, Play(job, private), store, journal, stop, open_observer)
        except BaseException as error:
            _give_up(record, store, error)
            raise
        finally:
            shutil.rmtree(private, ignore_errors=True)
    observer.finished(record)
    return record


def _carry_out(
    record: Record, play: Play, store: Store, journal: Journal, stop: Stop, open_observer: Callable[[], Observer]
) -> Observer:
    play.start()
    try:
        observer = open_observer()
        record.versions = versions()
        record.project.revision, record.project.dirty = revision(Path(record.project.root))
        record.state = "running"
        store.save(record)
        observer.started(record, store.usual_seconds(record.runbook))
        _Watch(record, store, journal, observer).follow(play, stop)
    except BaseException:
        _abandon(play)
        raise
    return observer


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
    record.seconds = max(0.0, round((record.ended - record.started).total_seconds(), 3))
    store.save(record)


def _give_up(record: Record, store: Store, error: BaseException) -> None:
    """The wrapper itself failed: the record must not claim that the run goes on."""
    if not record.finished:
        record.state = "failed"
        record.exit_code = int(error.code if isinstance(error, RunbookError) else ExitCode.FAILED)
        record.message = shared().clean(f"The wrapper failed: {type(error).__name__}: {error}")
        with suppress(OSError):
            _close(record, store)


@dataclass
class Answer:
    """What hosts said to one task that only reads; `results` by host, unmasked."""

    record: Record
    tally: Tally
    results: dict[str, dict[str, Any]]
    end: Verdict


def ask(
    project: Project, paths: list[Path], limit: str | None, play: dict[str, Any], defaults: dict[str, Any]
) -> Answer:
    """Given a play of one task, run it without a record; `defaults` rank below the inventory's variables."""
    record = Record(runbook="ask", title="Ask", project=Source(root=str(project.root)))
    private = make_private(record.id)
    collector, results = Collector(record), {}
    try:
        (private / "play.json").write_text(json.dumps([play]))
        (private / "defaults.json").write_text(json.dumps({"all": {"vars": defaults}}))
        job = Job(record.id, project, private / "play.json", [private / "defaults.json", *paths], limit=limit)
        with Stop(ASK_SECONDS) as stop:
            asked = Play(job, private)
            asked.start()
            for event in asked.events():
                if stop.why:
                    asked.stop()
                collector.feed(shared().data(event or {}))
                if event and event.get("event") == "runner_on_ok":
                    results[event["event_data"]["host"]] = event["event_data"]["res"]
            if stop.why:
                asked.sweep()
                raise RunbookError("Ansible did not answer in time, or was cancelled.")
        end = verdict(record, collector.tally, asked.rc, None, asked.error)
        return Answer(record, collector.tally, results, end)
    finally:
        shutil.rmtree(private, ignore_errors=True)
