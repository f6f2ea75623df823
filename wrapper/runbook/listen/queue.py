"""What the listener has to remember, one file per job: a restart, or a loss of power, forgets nothing it promised.

A job's file is a webhook body of its alert, so that `runbook run --alert` reads it, with the state under `job`.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runbook.alerts import Alert
from runbook.listen.clock import Clock, Moment
from runbook.listen.settings import Route, Routes
from runbook.record import ID_LENGTH, new_id
from runbook.schema import build, dump

KEEP = 5000  # settled jobs that are remembered, so that a repeated alert is known
HOUR = 3600.0
State = Literal["waiting", "running", "done", "failed", "held_back", "over"]
_OPEN = ("waiting", "running")


@dataclass(slots=True)
class Job:
    """One alert and what was done about it."""

    id: str
    key: str
    alert: str
    route: str
    runbook: str
    received: Moment
    cooldown_minutes: float
    max_runs_per_hour: int
    limit: str | None = None
    fix: str = ""
    acts: bool = False
    state: State = "waiting"
    why: str = ""
    since: Moment | None = None  # with `pause_seconds`: not before then
    pause_seconds: float = 0
    tries: int = 0
    deaths: int = 0  # how often it was cut off, by a kill of the listener or of the run
    pid: int = 0
    ticks: int = 0
    run_id: str = ""
    exit_code: int | None = None
    ended: Moment | None = None
    resolved: bool = False
    told: list[str] | None = None  # what escalation was told: trigger, resolve
    tellings: int = 0

    @property
    def open(self) -> bool:
        return self.state in _OPEN

    @property
    def place(self) -> tuple[str, str]:
        """Two jobs of one place never run at the same time; the inventory is the same for all."""
        return self.runbook, self.limit or ""


@dataclass(frozen=True, slots=True)
class Op:
    """A change to the folder: `body` replaces the file, `job` only the state in it; neither removes it."""

    name: str
    body: dict[str, Any] | None = None
    job: dict[str, Any] | None = None


class Spool:
    """The folder of jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.routes = folder / "routes.json"

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def write(self, ops: Iterable[Op]) -> None:
        """Carry out changes so that they survive a loss of power. Raise OSError when they may not."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for op in ops:
            if op.body is None and op.job is None:
                self.path(op.name).unlink(missing_ok=True)
                continue
            body = op.body
            if body is None:
                with suppress(OSError, ValueError):
                    body = json.loads(self.path(op.name).read_text()) | {"job": op.job}
            if body is not None:
                self._replace(op.name, json.dumps(body))
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _replace(self, name: str, text: str) -> None:
        temporary = self.folder / f".{name}.new"
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path(name))

    def load(self) -> tuple[list[Job], dict[str, list[Moment]], list[str]]:
        """Return the jobs, oldest first, the starts by route, and the names of files that are damaged."""
        jobs, damaged = [], []
        names = sorted(path.stem for path in self.folder.glob("*.json") if len(path.stem) == ID_LENGTH)
        for name in names:
            try:
                jobs.append(build(Job, json.loads(self.path(name).read_text())["job"], lenient=True))
            except (OSError, ValueError, KeyError, TypeError):
                damaged.append(name)
        starts: dict[str, list[Moment]] = {}
        with suppress(OSError, ValueError, TypeError, AttributeError):
            data = json.loads(self.routes.read_text())["starts"]
            starts = {str(route): [build(Moment, item) for item in items] for route, items in data.items()}
        for left in self.folder.glob(".*.new"):
            left.unlink(missing_ok=True)
        return jobs, starts, damaged


class Queue:
    """Decides what becomes of an alert. Holds no lock and does no I/O: one thread uses it, and `ops` are for the spool."""

    def __init__(self, routes: Routes, clock: Clock, keep: int = KEEP) -> None:
        self.routes, self.clock, self.keep = routes, clock, keep
        self.jobs: dict[str, Job] = {}
        self.by_key: dict[str, str] = {}
        self.open: dict[str, Job] = {}
        self.unsettled: dict[str, Job] = {}
        self.starts: dict[str, list[Moment]] = {}
        self.unstored: set[str] = set()  # jobs nobody was promised yet; they are not due
        self.counts: Counter[str] = Counter()
        self.held: Counter[tuple[str, str]] = Counter()

    def restore(self, jobs: list[Job], starts: dict[str, list[Moment]]) -> list[Op]:
        """Given what was stored, take it over; return changes for what was stored twice."""
        ops = []
        adopt = self.clock.adopt
        self.starts = {route: [adopt(moment) for moment in moments] for route, moments in starts.items()}
        for job in jobs:
            if job.key in self.by_key:
                ops.append(Op(job.id))
                continue
            job.received = adopt(job.received)
            job.since, job.ended = job.since and adopt(job.since), job.ended and adopt(job.ended)
            self._hold(job)
        return ops + self._forget_old()

    def _hold(self, job: Job) -> None:
        self.jobs[job.id] = job
        self.by_key[job.key] = job.id
        self.sort(job)

    def sort(self, job: Job) -> None:
        """Put a job where its state belongs."""
        for where, wanted in ((self.open, job.open), (self.unsettled, self._owes_later(job))):
            if wanted:
                where[job.id] = job
            else:
                where.pop(job.id, None)

    @staticmethod
    def _owes_later(job: Job) -> bool:
        """Whether escalation may still have to hear about it."""
        return bool(job.run_id) and job.state in ("done", "failed") and "resolve" not in (job.told or [])

    def take(self, alert: Alert) -> tuple[str, Op | None]:
        """Given an alert, return what became of it and the change to store."""
        known = self.jobs.get(self.by_key.get(alert.key, ""))
        outcome, op = self._repeated(alert, known) if known else self._first(alert)
        self.counts[outcome] += 1
        return outcome, op

    def _repeated(self, alert: Alert, job: Job) -> tuple[str, Op | None]:
        if alert.status == "resolved":
            if job.resolved:
                return "duplicate", None
            job.resolved, job.tellings, job.pause_seconds = True, 0, 0
            if job.state == "waiting":
                job.state, job.why = "over", "the alert was resolved before its turn came"
            return "resolved", self.change(job)
        if alert.firing and job.state == "held_back" and not self._forbidden(job):
            job.state, job.why = "waiting", ""
            return "queued", self.change(job)
        return "duplicate", None

    def _first(self, alert: Alert) -> tuple[str, Op | None]:
        if not alert.firing:
            return "not_firing", None
        route = self.routes.find(alert)
        if route is None:
            return "unrouted", None
        job = self._job(alert, route)
        if why := self._forbidden(job):
            self._hold_back(job, why)
        self._hold(job)
        body = {"version": "4", "status": "firing", "receiver": "runbook listen", "alerts": [alert.body()]}
        return ("held_back" if job.state == "held_back" else "queued"), Op(job.id, body | {"job": dump(job)})

    def _job(self, alert: Alert, route: Route) -> Job:
        return Job(
            id=new_id(), key=alert.key, alert=alert.name, route=route.name, runbook=route.runbook, limit=route.limit,
            received=self.clock.now(), cooldown_minutes=route.cooldown_minutes, fix=route.fix or "", acts=route.acts,
            max_runs_per_hour=route.max_runs_per_hour,
        )  # fmt: skip

    def _forbidden(self, job: Job, starting: bool = False) -> str:
        """Return why a job must not run: cooldown or spent; empty where it may. Waiting jobs count as runs to come."""
        starts = self._last_hour(job.route)
        before = 0 if starting else sum(other.route == job.route for other in self.open.values() if not other.tries)
        cooldown = job.cooldown_minutes * 60
        last = min((self.clock.since(start) for start in self.starts.get(job.route, [])), default=cooldown)
        if last < cooldown or (before and cooldown):
            return "cooldown"
        return "spent" if len(starts) + before >= job.max_runs_per_hour else ""

    def _last_hour(self, route: str) -> list[Moment]:
        return [start for start in self.starts.get(route, []) if self.clock.since(start) < HOUR]

    def _hold_back(self, job: Job, why: str) -> None:
        told = {
            "cooldown": f"less than {job.cooldown_minutes:g} minutes after the last run of route {job.route}",
            "spent": f"route {job.route} has had its {job.max_runs_per_hour} runs of this hour",
        }
        job.state, job.why = "held_back", told[why]
        self.held[job.route, why] += 1

    def due(self) -> list[Job]:
        """Return the jobs whose time has come, oldest first."""
        found = [job for job in self.open.values() if job.state == "waiting" and job.id not in self.unstored]
        return [job for job in found if not job.since or self.clock.since(job.since) >= job.pause_seconds]

    def start(self, job: Job) -> list[Op]:
        """Given a job that is due, mark it as running, or hold it back; return the changes to store first."""
        if not job.tries:
            if why := self._forbidden(job, starting=True):
                self._hold_back(job, why)
                return [self.change(job)]
            longest = max(HOUR, job.cooldown_minutes * 60)
            kept = [start for start in self.starts.get(job.route, []) if self.clock.since(start) < longest]
            self.starts[job.route] = [*kept, self.clock.now()]
        job.state, job.tries, job.pid, job.why = "running", job.tries + 1, 0, ""
        starts = {route: [dump(moment) for moment in moments] for route, moments in self.starts.items()}
        return [self.change(job), Op("routes", {"starts": starts})]

    def take_back(self, job: Job) -> None:
        """Undo `start`, which could not be stored."""
        job.state, job.tries, job.why = "waiting", job.tries - 1, ""
        if not job.tries:
            self.starts[job.route] = self.starts.get(job.route, [])[:-1]
        self.sort(job)

    def wait(self, job: Job, seconds: float, why: str) -> Op:
        """Put a job back for a while."""
        job.state, job.since, job.pause_seconds, job.why = "waiting", self.clock.now(), seconds, why
        if job.resolved:
            job.state, job.why = "over", "the alert was resolved before its turn came again"
        return self.change(job)

    def end(self, job: Job, state: Literal["done", "failed"], why: str = "") -> Op:
        job.state, job.why, job.ended, job.since, job.pause_seconds = state, why, self.clock.now(), None, 0
        return self.change(job)

    def change(self, job: Job) -> Op:
        self.sort(job)
        return Op(job.id, job=dump(job))

    def drop(self, ids: Iterable[str]) -> None:
        """Forget jobs that could not be stored: whoever sent them sends them again."""
        for name in ids:
            if job := self.jobs.pop(name, None):
                self.by_key.pop(job.key, None)
                self.open.pop(name, None)
                self.unsettled.pop(name, None)

    def tidy(self) -> list[Op]:
        """Forget the oldest settled jobs above the number that is kept; return the changes to store."""
        return self._forget_old()

    def _forget_old(self) -> list[Op]:
        if len(self.jobs) <= self.keep + self.keep // 10:
            return []
        settled = [name for name, job in self.jobs.items() if not job.open]
        old = settled[: len(self.jobs) - self.keep]
        self.drop(old)
        return [Op(name) for name in old]

    def states(self) -> Counter[str]:
        return Counter(job.state for job in self.jobs.values())


def safe_name(text: str) -> str:
    """Given an alert's name, return it as a word for a command line that people read."""
    return re.sub(r"[^A-Za-z0-9_.:-]+", "_", text)[:64]
