"""Carries out jobs: each in a process of its own, never two of one place, and again after a kill at most once."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from runbook import processes
from runbook.alerts import Alert
from runbook.listen.hooks import Hooks
from runbook.listen.queue import Job, Op, Queue, Spool, safe_name
from runbook.record import Store, now
from runbook.redact import shared

TICK_SECONDS = 1.0
LEASE_PAUSE = 30.0  # seconds before the first repetition; doubled each time
LEASE_PAUSE_MOST = 900.0
LEASE_TRIES = 8  # about an hour in all: whoever holds a lease for longer has to be looked at
TELL_PAUSE = 60.0
TELL_TRIES = 5
_REFUSED, _CANCELLED = 3, 130


class Overloaded(Exception):
    """Nothing could be promised; whoever asked has to ask again."""


def say(text: str) -> None:
    with suppress(OSError, ValueError):
        print(f"{now():%Y-%m-%dT%H:%M:%SZ} {shared().clean(text)}", file=sys.stderr, flush=True)


class Keeper:
    """Writes changes in the order in which they come, and all that wait together in one go."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.broken = ""
        self._waiting: list[tuple[list[Op], asyncio.Future[None]]] = []
        self._some = asyncio.Event()

    def put(self, ops: Iterable[Op]) -> asyncio.Future[None]:
        """Given changes, return what is done when they, and all before them, are on disk."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._waiting.append((list(ops), done))
        self._some.set()
        return done

    async def work(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            batch, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self.spool.write, [op for ops, _ in batch for op in ops])
                self.broken = ""
            except OSError as error:
                self.broken = f"{self.spool.folder} cannot be written: {error.strerror or error}"
                say(self.broken)
            for _, done in batch:
                if not done.done():
                    done.set_exception(Overloaded(self.broken)) if self.broken else done.set_result(None)


class Runner(Protocol):
    """Starts runs and knows what became of them."""

    async def run(self, job: Job, file: Path, begun: Callable[[int], None]) -> int: ...
    def find(self, job: Job) -> dict[str, Any] | None: ...


@dataclass(frozen=True)
class Commands:
    """`runbook run`, as a person would start it."""

    project: Path
    inventory: list[str]
    environment: dict[str, str]
    store: Store
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def line(self, job: Job, file: Path) -> list[str]:
        """Return the command of a job. What comes from the alert is in the file; here is only what is configured."""
        words = [sys.executable, "-m", "runbook", "--project", str(self.project), "run", job.runbook]
        words += [word for path in self.inventory for word in ("-i", path)]
        words += ["-l", job.limit] if job.limit else []
        if job.acts:
            words += [] if job.fix else ["--check"]
        elif job.fix:
            words += ["--fix", job.fix]
        return [*words, "--alert", str(file), "--reason", reason(job), "--json"]

    async def run(self, job: Job, file: Path, begun: Callable[[int], None]) -> int:
        """Carry a job out and return its exit code. It has a session of its own, so that it survives the listener."""
        process = await asyncio.create_subprocess_exec(
            *self.line(job, file), env=self.environment, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        begun(process.pid)
        return await process.wait()

    def find(self, job: Job) -> dict[str, Any] | None:
        """Return the newest record of a job's runs, after those that died are marked."""
        with self._one_at_a_time:
            self.store.recover()
        return next((data for data in self.store.newest() if job.id in str(data.get("reason"))), None)


def reason(job: Job) -> str:
    return f"alert {safe_name(job.alert)}, job {job.id}"


@dataclass
class Listener:
    """Takes alerts and works off the jobs they make."""

    queue: Queue
    spool: Spool
    runner: Runner
    hooks: Hooks
    workers: int = 2
    escalate_after_minutes: float | None = 15
    stopping: bool = False
    runs: Counter[tuple[str, str]] = field(default_factory=Counter)
    tellings: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.keeper = Keeper(self.spool)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._own: list[asyncio.Task[None]] = []
        self._some = asyncio.Event()

    async def begin(self) -> None:
        """Take over what an earlier listener left, and start working."""
        jobs, starts, damaged = await asyncio.to_thread(self.spool.load)
        for name in damaged:
            say(f"The file {self.spool.path(name)} is damaged; it is left as it is")
        ops = self.queue.restore(jobs, starts)
        self._own = [asyncio.create_task(self.keeper.work())]
        await self.keeper.put(ops)
        for job in [job for job in self.queue.open.values() if job.state == "running"]:
            self._spawn(job, self._resume(job))
        self._own.append(asyncio.create_task(self._work()))

    async def end(self, seconds: float) -> None:
        """Stop taking; let what is at work end within so many seconds, and leave the rest for the next start."""
        self.stopping = True
        self._some.set()
        if self._tasks:
            say(f"Stopping: waiting up to {seconds:g} s for {len(self._tasks)} at work")
            await asyncio.wait(self._tasks.values(), timeout=seconds)
        with suppress(Overloaded):
            await self.keeper.put([])
        left = [*self._own, *self._tasks.values()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    @property
    def healthy(self) -> bool:
        return not (self.stopping or self.keeper.broken or any(task.done() for task in self._own))

    async def take(self, alerts: Iterable[Alert]) -> Counter[str]:
        """Given alerts, return how many met which end, once that is on disk. Raise Overloaded when it is not."""
        if self.stopping:
            raise Overloaded("the listener is stopping")
        told: Counter[str] = Counter()
        ops: list[Op] = []
        keys = []
        for alert in alerts:
            outcome, op = self.queue.take(alert)
            told[outcome] += 1
            keys += [alert.key] if outcome in ("queued", "held_back", "duplicate") else []
            ops += [op] if op else []
        new = {op.name for op in ops if op.body}
        self.queue.unstored |= new
        try:
            await self.keeper.put(ops)
        except Overloaded:
            self.queue.drop(new)
            raise
        finally:
            self.queue.unstored -= new
        if any(key not in self.queue.by_key for key in keys):
            raise Overloaded("what this repeats was not stored")
        if told["queued"] or told["resolved"]:
            self._some.set()
        if forgotten := self.queue.tidy():
            self.keeper.put(forgotten)
        return told

    async def _work(self) -> None:
        while not self.stopping:
            for job in self.queue.due():
                busy = {self.queue.jobs[name].place for name in self._tasks if name in self.queue.open}
                if len(busy) >= self.workers:
                    break
                if job.place not in busy:
                    self._spawn(job, self._carry_out(job))
                    await asyncio.sleep(0)
            self._tell()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._some.wait(), TICK_SECONDS)
            self._some.clear()

    def _spawn(self, job: Job, work: Awaitable[None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except Overloaded:
                pass  # the disk is full or gone, and the keeper has said so; the file tells what was last true
            except Exception as error:
                say(f"Job {job.id} failed: {type(error).__name__}: {error}")
                self.keeper.put([self.queue.end(job, "failed", "the listener failed")])
            finally:
                self._tasks.pop(job.id, None)
                self._some.set()

        self._tasks[job.id] = asyncio.create_task(guarded())

    async def _carry_out(self, job: Job) -> None:
        ops = self.queue.start(job)
        try:
            await self.keeper.put(ops)
        except Overloaded:
            if job.state == "running":
                self.queue.take_back(job)
                await asyncio.sleep(TICK_SECONDS)
            raise
        if job.state != "running":
            say(f"Job {job.id} for {job.alert} is held back: {job.why}")
            return
        say(f"Job {job.id}: runbook {job.runbook} for alert {job.alert}")

        def begun(pid: int) -> None:
            owner = processes.process(pid)
            job.pid, job.ticks = owner.pid, owner.started
            self.keeper.put([self.queue.change(job)])

        code = await self.runner.run(job, self.spool.path(job.id), begun)
        record = await asyncio.to_thread(self.runner.find, job)
        self._settle(job, code, record)

    async def _resume(self, job: Job) -> None:
        """A job that was at work when the listener was killed: its run may go on, be over, or never have begun."""
        while job.pid and processes.Process(job.pid, job.ticks).alive():
            await asyncio.sleep(TICK_SECONDS)
        record = await asyncio.to_thread(self.runner.find, job)
        while record and record.get("state") in ("planned", "running"):
            await asyncio.sleep(TICK_SECONDS)
            record = await asyncio.to_thread(self.runner.find, job)
        code = record.get("exit_code") if record and record.get("state") != "interrupted" else None
        self._settle(job, _CANCELLED if code is None else int(code), record)

    def _settle(self, job: Job, code: int, record: dict[str, Any] | None) -> None:
        """Given how a run ended, decide what becomes of its job."""
        if record:
            job.run_id = str(record.get("id", ""))
        job.exit_code, job.pid = code, 0
        message = str((record or {}).get("message", ""))
        self.runs[job.runbook, str(code)] += 1
        if code == _CANCELLED or code < 0:
            op = self._cut_off(job)
        elif code == _REFUSED and "is leased by" in message:
            op = self._leased(job, message)
        else:
            op = self.queue.end(
                job, "done" if record else "failed", "" if record else f"it ended with {code} without a record"
            )
        self.keeper.put([op])
        say(f"Job {job.id}: {job.state}, exit code {code}{f', {job.why}' if job.why else ''}")

    def _cut_off(self, job: Job) -> Op:
        job.deaths += 1
        if job.deaths > 1:
            return self.queue.end(job, "failed", "it was cut off twice")
        return self.queue.wait(job, 0, "it was cut off; once more")

    def _leased(self, job: Job, message: str) -> Op:
        if job.tries >= LEASE_TRIES:
            return self.queue.end(job, "failed", f"the lease did not get free: {message}")
        return self.queue.wait(job, min(LEASE_PAUSE * 2 ** (job.tries - 1), LEASE_PAUSE_MOST), message)

    def _tell(self) -> None:
        """Have escalation told what it has to know by now."""
        for job in list(self.queue.unsettled.values()):
            event = self._owed(job)
            if event and job.id not in self._tasks and len(self._tasks) < 2 * self.workers:
                self._spawn(job, self._call(job, event))

    def _owed(self, job: Job) -> str:
        clock = self.queue.clock
        if job.tellings >= TELL_TRIES or (job.since and clock.since(job.since) < job.pause_seconds):
            return ""
        if job.resolved:
            return "resolve"
        if self.escalate_after_minutes is None or "trigger" in (job.told or []) or job.ended is None:
            return ""
        return "trigger" if clock.since(job.ended) >= self.escalate_after_minutes * 60 else ""

    async def _call(self, job: Job, event: str) -> None:
        hook = self.hooks.closed if event == "resolve" else self.hooks.escalate
        try:
            done = await hook(job)
        except OSError as error:
            say(f"Job {job.id}: {event} cannot be told: {error}")
            done = False
        self.tellings[event, "ok" if done else "failed"] += 1
        if done:
            job.told, job.tellings, job.pause_seconds = [*(job.told or []), event], 0, 0
        else:
            job.tellings += 1
            job.since, job.pause_seconds = self.queue.clock.now(), TELL_PAUSE * 2 ** (job.tellings - 1)
            if job.tellings >= TELL_TRIES:
                say(f"Job {job.id}: {event} could not be told {TELL_TRIES} times; given up")
        await self.keeper.put([self.queue.change(job)])


def environment_of_children(hidden: Iterable[str | None]) -> dict[str, str]:
    """Return this process's environment without some variables: a child needs no bearer token."""
    names = set(hidden)
    return {name: value for name, value in os.environ.items() if name not in names}
