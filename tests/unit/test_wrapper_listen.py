"""The listener's decisions: what is run, what is held back, and what survives kills, storms and clocks that jump."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from runbook.alerts import Alert, parse
from runbook.errors import BadInput
from runbook.identify import Router
from runbook.listen import settings as configuration
from runbook.listen import work
from runbook.listen.clock import Clock, Moment
from runbook.listen.hooks import Hooks, commands
from runbook.listen.queue import Job, Op, Queue, Spool
from runbook.listen.settings import Route, Token
from runbook.listen.work import Commands, Listener, Overloaded, reason
from runbook.project import Project
from runbook.record import Record, Source, Store

SMALL = Path(__file__).resolve().parents[1] / "integration" / "projects" / "small"
ROUTE = Route("healthy", {"alertname": "A"}, name="a", cooldown_minutes=30, max_runs_per_hour=4)
HOUR = 3600.0


class Time:
    """A wall clock that can be set wrong beside seconds that only pass."""

    def __init__(self) -> None:
        self.wall, self.steady, self.boot = 1_800_000_000.0, 1000.0, "first"

    def pass_(self, seconds: float) -> None:
        self.wall, self.steady = self.wall + seconds, self.steady + seconds

    def reboot(self) -> None:
        self.steady, self.boot = 5.0, f"{self.boot}+"

    def clock(self) -> Clock:
        return Clock(lambda: self.wall, lambda: self.steady, self.boot)


class Fixed:
    """Routes by the alert's name."""

    def __init__(self, *routes: Route) -> None:
        self.routes = {route.match["alertname"]: route for route in routes}

    def find(self, alert: Alert) -> Route | None:
        return self.routes.get(alert.name)


@dataclass
class Runs:
    """Carries out jobs by the exit codes it was given; a run waits where it is told to."""

    codes: list[int] = field(default_factory=list)
    message: str = ""
    gate: asyncio.Event | None = None
    pid: int = 0
    began: list[Job] = field(default_factory=list)
    at_once: int = 0
    most: int = 0
    records: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def run(self, job: Job, file: Path, begun: Callable[[int], None]) -> int:
        assert parse(file.read_bytes()).alerts[0].key == job.key, "the alert is on disk before its run begins"
        self.began.append(job)
        begun(self.pid)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        if self.gate:
            await self.gate.wait()
        self.at_once -= 1
        code = self.codes.pop(0) if self.codes else 0
        self.records[job.id] = {
            "id": f"run-of-{job.id}",
            "state": "succeeded",
            "exit_code": code,
            "message": self.message,
        }
        return code

    def find(self, job: Job) -> dict[str, Any] | None:
        return self.records.get(job.id)


@dataclass
class Told:
    events: list[tuple[str, str]] = field(default_factory=list)
    answers: list[bool] = field(default_factory=list)

    def hooks(self) -> Hooks:
        def hook(event: str) -> Callable[[Job], Awaitable[bool]]:
            async def call(job: Job) -> bool:
                self.events.append((event, job.run_id))
                return self.answers.pop(0) if self.answers else True

            return call

        return Hooks(hook("closed"), hook("escalate"))


@dataclass
class World:
    """All that a listener needs, and what survives it."""

    folder: Path
    time: Time = field(default_factory=Time)
    runs: Runs = field(default_factory=Runs)
    told: Told = field(default_factory=Told)
    routes: tuple[Route, ...] = (ROUTE,)
    keep: int = 5000

    def listener(self, **changes: Any) -> Listener:
        queue = Queue(Fixed(*self.routes), self.time.clock(), self.keep)  # type: ignore[arg-type]
        return Listener(queue, Spool(self.folder), self.runs, self.told.hooks(), **changes)

    @asynccontextmanager
    async def listening(self, **changes: Any) -> Any:
        listener = self.listener(**changes)
        await listener.begin()
        try:
            yield listener
        finally:
            await listener.end(0)

    def stored(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text())["job"] for path in sorted(self.folder.glob("0*.json"))]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(work, "TICK_SECONDS", 0.005)
    return World(tmp_path / "queue")


def alert(number: int = 0, name: str = "A", status: str = "firing") -> Alert:
    return Alert(name, status, {"alertname": name}, {}, "2026-03-01T10:00:00+00:00", "", f"{number:016x}")


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def quiet(listener: Listener) -> None:
    await until(lambda: not listener.queue.open and not listener._tasks)


def states(listener: Listener) -> dict[str, int]:
    return dict(listener.queue.states())


def test_an_alert_is_run_once_and_remembered(world: World) -> None:
    async def scene() -> None:
        async with world.listening() as listener:
            assert await listener.take([alert()]) == {"queued": 1}
            await quiet(listener)
            assert states(listener) == {"done": 1}

    asyncio.run(scene())
    (job,) = world.stored()
    assert (job["state"], job["run_id"], job["exit_code"], job["tries"]) == ("done", f"run-of-{job['id']}", 0, 1)


def test_it_is_on_disk_before_it_is_promised(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)

    async def scene() -> None:
        world.runs.gate = asyncio.Event()
        async with world.listening() as listener:
            before = len(synced)
            await listener.take([alert()])
            assert len(synced) >= before + 2, "the file and its folder"
            assert [job["key"] for job in world.stored()] == [alert().key]

    asyncio.run(scene())


def test_what_cannot_be_stored_is_not_promised(world: World) -> None:
    async def scene() -> None:
        async with world.listening() as listener:

            def full(ops: Any) -> None:
                raise OSError(28, "No space left on device")

            kept, listener.spool.write = listener.spool.write, full
            with pytest.raises(Overloaded, match="No space left"):
                await listener.take([alert()])
            assert not listener.healthy and world.runs.began == []
            listener.spool.write = kept
            assert await listener.take([alert()]) == {"queued": 1}
            assert listener.healthy
            await quiet(listener)

    asyncio.run(scene())
    assert len(world.runs.began) == 1


def test_a_run_whose_beginning_cannot_be_stored_begins_later(world: World) -> None:
    async def scene() -> None:
        async with world.listening() as listener:
            kept, failed = listener.spool.write, []

            def full_at_first(ops: list[Op]) -> None:
                if not failed and any(op.job and op.job["state"] == "running" for op in ops):
                    failed.append(ops)
                    raise OSError(28, "No space left on device")
                kept(ops)

            listener.spool.write = full_at_first
            await listener.take([alert()])
            await quiet(listener)
            assert failed and len(listener.queue.starts["a"]) == 1

    asyncio.run(scene())
    assert (len(world.runs.began), world.stored()[0]["tries"]) == (1, 1)


def test_a_repetition_of_what_was_not_stored_is_not_promised_either(world: World) -> None:
    async def scene() -> None:
        async with world.listening() as listener:
            kept, repeated, failed = listener.spool.write, threading.Event(), []

            def full_at_first(ops: list[Op]) -> None:
                if ops and not failed:
                    failed.append(ops)
                    assert repeated.wait(10)
                    raise OSError(28, "No space left on device")
                kept(ops)

            listener.spool.write = full_at_first
            first = asyncio.create_task(listener.take([alert()]))
            await until(lambda: failed)
            second = asyncio.create_task(listener.take([alert()]))
            await asyncio.sleep(0)
            repeated.set()
            results = await asyncio.gather(first, second, return_exceptions=True)
            assert [type(result) for result in results] == [Overloaded, Overloaded]

    asyncio.run(scene())


def test_an_alert_that_was_stored_twice_is_one_job(world: World) -> None:
    spool = Spool(world.folder)
    for _ in range(2):  # the second time after the answer to the first was lost
        _, op = Queue(Fixed(ROUTE), world.time.clock()).take(alert())  # type: ignore[arg-type]
        assert op
        spool.write([op])
    assert len(world.stored()) == 2

    async def scene() -> None:
        async with world.listening() as listener:
            await quiet(listener)

    asyncio.run(scene())
    assert (len(world.runs.began), len(world.stored())) == (1, 1)


def test_a_thousand_duplicates_are_one_job(world: World) -> None:
    async def scene() -> None:
        async with world.listening() as listener:
            told: Counter[str] = Counter()
            for _ in range(10):
                answers = await asyncio.gather(*(listener.take([alert()] * 10) for _ in range(10)))
                told += sum(answers, Counter())
            assert told == {"queued": 1, "duplicate": 999}
            await quiet(listener)

    asyncio.run(scene())
    assert (len(world.runs.began), len(world.stored())) == (1, 1)


def test_a_duplicate_is_known_after_a_restart(world: World) -> None:
    async def scene() -> None:
        async with world.listening() as listener:
            await listener.take([alert()])
            await quiet(listener)
        world.time.pass_(10 * HOUR)
        async with world.listening() as listener:
            assert await listener.take([alert()]) == {"duplicate": 1}

    asyncio.run(scene())
    assert len(world.runs.began) == 1


def test_the_same_alert_that_fires_anew_is_a_new_job(world: World) -> None:
    async def scene() -> None:
        async with world.listening() as listener:
            await listener.take([alert()])
            await quiet(listener)
            world.time.pass_(HOUR)
            assert await listener.take([replace(alert(), starts_at="2026-03-01T12:00:00+00:00")]) == {"queued": 1}
            await quiet(listener)

    asyncio.run(scene())
    assert len(world.runs.began) == 2


def test_only_what_fires_is_run(world: World) -> None:
    async def scene() -> None:
        async with world.listening() as listener:
            given = [alert(status="resolved"), alert(1, status="suppressed"), alert(2, "Unknown")]
            assert await listener.take(given) == {"not_firing": 2, "unrouted": 1}

    asyncio.run(scene())
    assert (world.runs.began, world.stored()) == ([], [])


@pytest.mark.parametrize("cooldown, ran", [(30, 1), (0, 4)])
def test_a_storm_is_bounded_and_what_is_held_back_is_told(world: World, cooldown: float, ran: int) -> None:
    world.routes = (replace(ROUTE, cooldown_minutes=cooldown),)

    async def scene() -> None:
        async with world.listening() as listener:
            told = await listener.take([alert(number) for number in range(200)])
            assert told == {"queued": ran, "held_back": 200 - ran}
            await quiet(listener)
            assert states(listener) == {"done": ran, "held_back": 200 - ran}
            assert sum(listener.queue.held.values()) == 200 - ran

    asyncio.run(scene())
    assert len(world.runs.began) == ran
    assert len(world.stored()) == 200
    assert all(job["why"] for job in world.stored() if job["state"] == "held_back")


def test_a_storm_does_not_go_on_after_a_restart(world: World) -> None:
    world.routes = (replace(ROUTE, cooldown_minutes=0),)

    async def scene() -> None:
        for wave in range(3):
            async with world.listening() as listener:
                await listener.take([alert(number) for number in range(wave * 50, wave * 50 + 50)])
                await quiet(listener)

    asyncio.run(scene())
    assert len(world.runs.began) == 4


def test_an_alert_that_was_held_back_has_another_chance_when_it_is_repeated(world: World) -> None:
    async def scene() -> None:
        async with world.listening() as listener:
            assert await listener.take([alert(1), alert(2)]) == {"queued": 1, "held_back": 1}
            await quiet(listener)
            assert await listener.take([alert(2)]) == {"duplicate": 1}
            world.time.pass_(HOUR)
            assert await listener.take([alert(2)]) == {"queued": 1}
            await quiet(listener)

    asyncio.run(scene())
    assert len(world.runs.began) == 2


def test_routes_have_budgets_of_their_own(world: World) -> None:
    world.routes = (ROUTE, replace(ROUTE, match={"alertname": "B"}, name="b", runbook="quiet"))

    async def scene() -> None:
        async with world.listening() as listener:
            assert await listener.take([alert(1), alert(2, "B")]) == {"queued": 2}
            await quiet(listener)

    asyncio.run(scene())


JUMPS = [-10 * HOUR, 10 * HOUR, -400 * 24 * HOUR, 400 * 24 * HOUR]
# A jump forward while the machine is off cannot be told from a long night; see below.
SCENES = [(jump, reboot, restart) for jump in JUMPS for reboot, restart in [(False, False), (False, True), (True, True)]
          if jump < 0 or not reboot]  # fmt: skip


@pytest.mark.parametrize("jump, reboot, restart", SCENES)
def test_a_clock_that_jumps_neither_stalls_nor_releases(world: World, jump: float, reboot: bool, restart: bool) -> None:
    async def scene() -> None:
        async with world.listening() as listener:
            await listener.take([alert(0)])
            await quiet(listener)
            world.time.pass_(60)
            world.time.wall += jump
            if not restart:
                await after(listener)
        if reboot:
            world.time.reboot()
        if restart:
            async with world.listening() as listener:
                await after(listener)

    async def after(listener: Listener) -> None:
        assert await listener.take([alert(number) for number in range(1, 20)]) == {"held_back": 19}
        world.time.pass_(31 * 60)
        assert (await listener.take([alert(30)]))["queued"] == 1
        await quiet(listener)

    asyncio.run(scene())
    assert len(world.runs.began) == 2


def test_a_jump_forward_during_a_reboot_gives_one_new_budget_at_most(world: World) -> None:
    world.routes = (replace(ROUTE, cooldown_minutes=0),)

    async def scene() -> None:
        for wave in range(2):
            async with world.listening() as listener:
                await listener.take([alert(number) for number in range(100 * wave, 100 * wave + 100)])
                await quiet(listener)
            world.time.wall += 400 * 24 * HOUR
            world.time.reboot()

    asyncio.run(scene())
    assert len(world.runs.began) == 8


def test_moments_of_an_earlier_boot_grow_old() -> None:
    time = Time()
    then = time.clock().now()
    time.reboot()
    time.wall -= 5000
    clock = time.clock()
    mine = clock.adopt(then)
    assert clock.since(mine) == 0
    time.pass_(100)
    assert clock.since(mine) == 100
    assert clock.since(then) == 0, "which is why it is adopted"


def test_one_place_is_never_at_work_twice(world: World) -> None:
    world.routes = tuple(
        replace(ROUTE, match={"alertname": name}, name=name, runbook=runbook, limit=limit)
        for name, runbook, limit in [
            ("A", "x", None),
            ("B", "x", None),
            ("C", "x", "h1"),
            ("D", "y", None),
            ("E", "z", None),
        ]
    )

    async def scene() -> None:
        world.runs.gate = asyncio.Event()
        async with world.listening(workers=3) as listener:
            await listener.take([alert(number, name) for number, name in enumerate("ABCDE")])
            await until(lambda: len(world.runs.began) == 3)
            assert [job.alert for job in world.runs.began] == ["A", "C", "D"]
            world.runs.gate.set()
            await quiet(listener)

    asyncio.run(scene())
    assert (len(world.runs.began), world.runs.most) == (5, 3)


def test_a_held_lease_is_waited_for(world: World) -> None:
    world.runs.codes, world.runs.message = [3, 3, 0], "service:x is leased by bob@laptop for work (run 01)"

    async def scene() -> None:
        async with world.listening() as listener:
            await listener.take([alert()])
            for number, pause in enumerate((30, 60), 1):
                await until(lambda number=number: len(world.runs.began) == number and not listener._tasks)
                world.time.pass_(pause - 1)
                await asyncio.sleep(0.05)
                assert len(world.runs.began) == number, "not before the pause is over"
                world.time.pass_(2)
                await until(lambda number=number: len(world.runs.began) == number + 1)
            await quiet(listener)
            assert states(listener) == {"done": 1}
            assert len(listener.queue.starts["a"]) == 1, "a repetition is no new run of the hour"

    asyncio.run(scene())


def test_a_lease_that_is_never_free_ends_the_job(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "LEASE_PAUSE", 0)
    world.runs.codes, world.runs.message = [3] * 20, "service:x is leased by bob@laptop"

    async def scene() -> None:
        async with world.listening() as listener:
            await listener.take([alert()])
            await quiet(listener)
            assert states(listener) == {"failed": 1}

    asyncio.run(scene())
    assert len(world.runs.began) == work.LEASE_TRIES
    assert "bob@laptop" in world.stored()[0]["why"]


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6, 124])
def test_another_end_is_an_end(world: World, code: int) -> None:
    world.runs.codes, world.runs.message = [code], "it is not the time"

    async def scene() -> None:
        async with world.listening() as listener:
            await listener.take([alert()])
            await quiet(listener)
            assert (states(listener), listener.runs) == ({"done": 1}, {("healthy", str(code)): 1})

    asyncio.run(scene())
    assert len(world.runs.began) == 1


def test_a_run_that_was_killed_is_done_once_more_and_no_more(world: World) -> None:
    world.runs.codes = [-9, -9]

    async def scene() -> None:
        async with world.listening() as listener:
            await listener.take([alert()])
            await quiet(listener)
            assert states(listener) == {"failed": 1}

    asyncio.run(scene())
    assert len(world.runs.began) == 2
    assert world.stored()[0]["why"] == "it was cut off twice"


class Killed:
    """What a kill in the middle of a run leaves: the job's file, and a record in whatever state."""

    def __init__(self, world: World, **record: Any) -> None:
        self.world, self.record = world, record

    async def __call__(self, times: int = 1) -> None:
        for _ in range(times):
            self.world.runs.gate = asyncio.Event()
            async with self.world.listening() as listener:
                await listener.take([alert()])
                await until(lambda: listener._tasks and all(job["pid"] or job["tries"] for job in self.world.stored()))
                await listener.keeper.put([])
            if self.record:
                self.world.runs.records[self.world.stored()[0]["id"]] = {"id": "run-1", "message": "", **self.record}
        self.world.runs.gate = None


def test_after_a_kill_a_run_that_ended_is_not_run_again(world: World) -> None:
    async def scene() -> None:
        await Killed(world, state="failed", exit_code=2)()
        async with world.listening() as listener:
            await quiet(listener)
            assert states(listener) == {"done": 1}

    asyncio.run(scene())
    assert len(world.runs.began) == 1
    assert (world.stored()[0]["run_id"], world.stored()[0]["exit_code"]) == ("run-1", 2)


@pytest.mark.parametrize(
    "record", [{}, {"state": "interrupted", "exit_code": None}, {"state": "cancelled", "exit_code": 130}]
)
def test_after_a_kill_a_run_that_did_not_end_is_run_again(world: World, record: dict[str, Any]) -> None:
    async def scene() -> None:
        await Killed(world, **record)()
        async with world.listening() as listener:
            await quiet(listener)
            assert states(listener) == {"done": 1}

    asyncio.run(scene())
    assert len(world.runs.began) == 2


def test_after_two_kills_it_is_given_up(world: World) -> None:
    async def scene() -> None:
        await Killed(world)(times=2)
        async with world.listening() as listener:
            await quiet(listener)
            assert states(listener) == {"failed": 1}

    asyncio.run(scene())
    assert len(world.runs.began) == 2


def test_a_run_that_outlives_the_listener_is_waited_for(world: World) -> None:
    async def scene() -> None:
        await Killed(world, state="running", exit_code=None)()
        async with world.listening() as listener:
            await asyncio.sleep(0.05)
            assert states(listener) == {"running": 1}
            (record,) = world.runs.records.values()
            record.update(state="succeeded", exit_code=0)
            await quiet(listener)
            assert states(listener) == {"done": 1}

    asyncio.run(scene())
    assert len(world.runs.began) == 1


def test_a_process_that_outlives_the_listener_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    living = {4711}
    monkeypatch.setattr(work.processes.Process, "alive", lambda self: self.pid in living)
    monkeypatch.setattr(work.processes, "process", lambda pid: work.processes.Process(pid, 1))
    world.runs.pid = 4711

    async def scene() -> None:
        await Killed(world)()
        async with world.listening() as listener:
            await asyncio.sleep(0.05)
            assert (states(listener), len(world.runs.began)) == ({"running": 1}, 1)
            living.clear()
            await quiet(listener)

    asyncio.run(scene())
    assert len(world.runs.began) == 2, "it left no record, so it is done once more"


def test_what_waited_is_taken_up_after_a_restart(world: World) -> None:
    spool, queue = Spool(world.folder), Queue(Fixed(ROUTE), world.time.clock())  # type: ignore[arg-type]
    _, op = queue.take(alert())
    assert op
    spool.write([op])

    async def scene() -> None:
        async with world.listening() as listener:
            await quiet(listener)

    asyncio.run(scene())
    assert len(world.runs.began) == 1


def test_damaged_files_are_left_out_and_told(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.folder.mkdir()
    (world.folder / f"{'0' * 26}.json").write_text('{"version": "4"')
    (world.folder / f"{'1' * 26}.json").write_text('{"job": {"id": 4}}')
    (world.folder / "routes.json").write_text("[]")
    (world.folder / ".x.new").write_text("half")

    async def scene() -> None:
        async with world.listening() as listener:
            await listener.take([alert()])
            await quiet(listener)

    asyncio.run(scene())
    assert capsys.readouterr().err.count("is damaged") == 2
    assert not (world.folder / ".x.new").exists()


def test_memory_is_bounded(world: World) -> None:
    world.keep, world.routes = 50, (replace(ROUTE, cooldown_minutes=0, max_runs_per_hour=1),)

    async def scene() -> None:
        async with world.listening() as listener:
            for number in range(300):
                await listener.take([alert(number)])
            assert len(listener.queue.jobs) <= 56 and len(listener.queue.by_key) == len(listener.queue.jobs)
            await listener.keeper.put([])
            assert len(world.stored()) == len(listener.queue.jobs)

    asyncio.run(scene())


def test_resolved_before_its_turn_is_not_run(world: World) -> None:
    async def scene() -> None:
        world.runs.gate = asyncio.Event()
        world.routes = (replace(ROUTE, cooldown_minutes=0),)
        async with world.listening(workers=1) as listener:
            await listener.take([alert(0), alert(1)])
            await until(lambda: world.runs.began)
            assert await listener.take([alert(1, status="resolved")]) == {"resolved": 1}
            world.runs.gate.set()
            await quiet(listener)
            assert states(listener) == {"done": 1, "over": 1}

    asyncio.run(scene())
    assert len(world.runs.began) == 1


def test_resolved_after_its_run_closes_the_incident_once(world: World) -> None:
    async def scene() -> None:
        async with world.listening() as listener:
            await listener.take([alert()])
            await quiet(listener)
            assert await listener.take([alert(status="resolved")] * 2) == {"resolved": 1, "duplicate": 1}
            await until(lambda: world.told.events)
            world.time.pass_(HOUR)
            await asyncio.sleep(0.05)

    asyncio.run(scene())
    assert world.told.events == [("closed", f"run-of-{world.stored()[0]['id']}")]


def test_an_alert_that_does_not_clear_is_escalated_once_and_resolved_later(world: World) -> None:
    async def scene() -> None:
        async with world.listening(escalate_after_minutes=15) as listener:
            await listener.take([alert()])
            await quiet(listener)
            world.time.pass_(14 * 60)
            await asyncio.sleep(0.05)
            assert world.told.events == []
        world.time.pass_(2 * 60)
        async with world.listening(escalate_after_minutes=15) as listener:
            await until(lambda: world.told.events)
            await until(lambda: not listener._tasks)
            world.time.pass_(HOUR)
            await asyncio.sleep(0.05)
            await listener.take([alert(status="resolved")])
            await until(lambda: len(world.told.events) == 2 and not listener._tasks)

    asyncio.run(scene())
    assert [event for event, _ in world.told.events] == ["escalate", "closed"]
    assert world.stored()[0]["told"] == ["trigger", "resolve"]


def test_what_could_not_be_told_is_told_again_but_not_for_ever(world: World) -> None:
    world.told.answers = [False] * 20

    async def scene() -> None:
        async with world.listening(escalate_after_minutes=None) as listener:
            await listener.take([alert()])
            await quiet(listener)
            await listener.take([alert(status="resolved")])
            for number in range(1, work.TELL_TRIES + 1):
                await until(lambda number=number: len(world.told.events) == number and not listener._tasks)
                await asyncio.sleep(0.02)
                assert len(world.told.events) == number
                world.time.pass_(HOUR)
            await asyncio.sleep(0.05)
            assert listener.tellings == {("resolve", "failed"): work.TELL_TRIES}

    asyncio.run(scene())
    assert len(world.told.events) == work.TELL_TRIES


def test_stopping_takes_nothing_more_and_waits_for_what_is_at_work(world: World) -> None:
    async def scene() -> None:
        world.runs.gate = asyncio.Event()
        listener = world.listener()
        await listener.begin()
        await listener.take([alert()])
        await until(lambda: world.runs.began)
        ending = asyncio.create_task(listener.end(10))
        await until(lambda: listener.stopping)
        with pytest.raises(Overloaded, match="stopping"):
            await listener.take([alert(1)])
        assert not listener.healthy
        world.runs.gate.set()
        await ending

    asyncio.run(scene())
    assert world.stored()[0]["state"] == "done"


def job(**changes: Any) -> Job:
    values: dict[str, Any] = {
        "id": "0" * 26, "key": "k", "alert": "A", "route": "a", "runbook": "service-down", "received": Moment(0, 0, ""),
        "cooldown_minutes": 1, "max_runs_per_hour": 1,
    } | changes  # fmt: skip
    return Job(**values)


def line(tmp_path: Path, **changes: Any) -> list[str]:
    commands = Commands(Path("/p"), ["/i/prod"], {}, Store(tmp_path))
    return commands.line(job(**changes), Path("/q/job.json"))[3:]


def test_a_job_is_an_argument_list_in_which_nothing_of_the_alert_has_meaning(tmp_path: Path) -> None:
    hostile = "$(reboot); --fix=destructive {{ 1 }}\x1b[2J"
    told = line(tmp_path, alert=hostile)
    assert told[:6] == ["--project", "/p", "run", "service-down", "-i", "/i/prod"]
    assert told[6:] == [
        "--alert",
        "/q/job.json",
        "--reason",
        f"alert _reboot_--fix_destructive_1_2J, job {'0' * 26}",
        "--json",
    ]


def test_remedies_only_where_the_route_opts_in(tmp_path: Path) -> None:
    assert "--fix" not in line(tmp_path)
    told = line(tmp_path, fix="change", limit="app1")
    assert told[told.index("--fix") + 1] == "change" and told[told.index("-l") + 1] == "app1"


def test_a_runbook_that_acts_by_itself_only_looks_unless_the_route_opts_in(tmp_path: Path) -> None:
    assert "--check" in line(tmp_path, acts=True)
    told = line(tmp_path, acts=True, fix="change")
    assert not {"--check", "--fix"} & set(told)


def test_the_record_of_a_job_is_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    for why in ("by hand", reason(job()), "by hand"):
        record = Record("service-down", "Service down", Source("/p"), reason=why, state="succeeded", exit_code=0)
        store.create(record)
    found = Commands(Path("/p"), [], {}, store).find(job())
    assert found and found["reason"] == reason(job())
    assert Commands(Path("/p"), [], {}, store).find(job(id="1" * 26)) is None


def test_a_state_of_a_later_version_is_read(tmp_path: Path) -> None:
    spool, queue = Spool(tmp_path), Queue(Fixed(ROUTE), Time().clock())  # type: ignore[arg-type]
    _, op = queue.take(alert())
    assert op and op.body
    spool.write([Op(op.name, op.body | {"job": op.body["job"] | {"later": 1}})])
    assert [job.key for job in spool.load()[0]] == [alert().key]


CONFIG: dict[str, Any] = {
    "inventory": ["one.yml"], "tokens": [{"env": "LISTEN_TOKEN"}],
    "routes": [{"match": {"alertname": "ServiceDown"}, "runbook": "guarded", "fix": "change", "cooldown_minutes": 5}],
}  # fmt: skip


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("LISTEN_TOKEN", "0123456789abcdef-token")
    yield "0123456789abcdef-token"


def load(tmp_path: Path, **changes: Any) -> configuration.Loaded:
    (tmp_path / "listen.yml").write_text(json.dumps(CONFIG | changes))
    return configuration.load(tmp_path / "listen.yml", Project(SMALL))


def test_a_configuration_is_read(tmp_path: Path, token: str) -> None:
    (tmp_path / "next").write_text("fedcba9876543210-next\n")
    loaded = load(tmp_path, tokens=[{"env": "LISTEN_TOKEN"}, {"file": str(tmp_path / "next")}])
    assert loaded.tokens == [token, "fedcba9876543210-next"]
    assert loaded.inventory == [str(SMALL / "inventories" / "one.yml")]
    route = loaded.routes.find(replace(alert(), labels={"alertname": "ServiceDown", "x": "y"}))
    assert route and (route.runbook, route.fix, route.name) == ("guarded", "change", "guarded")


def test_alerts_without_a_route_go_where_the_catalogue_says(tmp_path: Path, token: str) -> None:
    loaded = load(tmp_path)
    full = Alert("DiskSpaceRunningLow", "firing", {"alertname": "DiskSpaceRunningLow", "category": "storage"})
    route = loaded.routes.find(full)
    assert route and (route.runbook, route.fix, route.acts) == ("healthy", None, True)
    assert loaded.routes.find(alert(0, "HighLatency")) is None, "its runbook is not there"
    assert loaded.routes.find(alert(0, "HealthyThing")) is None, "a guess is not run"
    assert Router(Project(SMALL)).alert(alert(0, "HealthyThing")).runbook == "healthy"
    assert load(tmp_path, others="ignore").routes.find(full) is None


def _route(**changes: Any) -> dict[str, Any]:
    return {"routes": [{"match": {"alertname": "A"}, "runbook": "guarded"} | changes]}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown runbook": (_route(runbook="garded"), 'no runbook "garded". Did you mean "guarded"'),
    "a tool": (_route(runbook="quiet"), "is a tool"),
    "an unknown class": (_route(fix="everything"), "'everything' is none of change"),
    "destructive": (_route(fix="destructive"), "'destructive' is none of change"),
    "an unknown inventory": ({"inventory": ["prod"]}, 'no inventory "prod"'),
    "no inventory": ({"inventory": []}, "No inventory was named"),
    "an unknown key": ({"colour": 1}, "colour: there is no such key"),
    "a route for all": (_route(match={}), "matches every alert"),
    "two of one name": ({"routes": _route()["routes"] * 2}, "Two routes have the name guarded"),
    "no tokens": ({"tokens": []}, "at least one is needed"),
    "a token of nowhere": ({"tokens": [{}]}, "either `file` or `env`"),
    "a token that is not set": ({"tokens": [{"env": "NOT_SET"}]}, "has 0 characters"),
    "a token that is not there": ({"tokens": [{"file": "/nowhere"}]}, "No token can be read from the file /nowhere"),
    "less than no cooldown": (_route(cooldown_minutes=-1), "must not be below 0"),
    "no runs": (_route(max_runs_per_hour=0), "must be at least 1"),
    "no workers": ({"workers": 0}, "between 1 and 32"),
    "a port beyond all": ({"port": 70000}, "between 0 and 65535"),
    "tls of nowhere": ({"tls": {"certificate": "/nowhere", "key": "/nowhere"}}, "cannot be used"),
    "text for a number": ({"workers": "two"}, "workers: 'two' is not a whole number"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_configuration_that_does_not_hold_is_refused(tmp_path: Path, token: str, fault: str) -> None:
    changes, told = REFUSED[fault]
    with pytest.raises(BadInput) as caught:
        load(tmp_path, **changes)
    assert told in str(caught.value) and "listen.yml" in str(caught.value)
    assert caught.value.remedy and token not in str(caught.value)


@pytest.mark.parametrize(
    ("people", "told"),
    [
        ({"tracker_escalation": [{"to": "nobody"}]}, "a rung names 'nobody'"),
        ({"tracker_escalation": [{"to": "a", "severities": ["bad"]}], "tracker_contacts": {"a": {}}}, "'bad' is none of"),
        ({"tracker_contacts": {"a": {"url": "{{ lookup('ansible.builtin.file', '/nowhere') }}"}}}, "cannot be read"),
    ],
)  # fmt: skip
def test_people_who_cannot_be_told_are_found_at_the_start(
    tmp_path: Path, token: str, people: dict[str, Any], told: str
) -> None:
    (tmp_path / "people.yml").write_text(json.dumps({"all": {"vars": people, "hosts": {"here": {}}}}))
    with pytest.raises(BadInput, match=r"listen\.yml: ") as caught:
        load(tmp_path, inventory=[str(tmp_path / "people.yml")])
    assert told in str(caught.value) and caught.value.remedy


@pytest.mark.parametrize("text", ["[", "- 1", "", "\x00"])
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "listen.yml").write_text(text)
    with pytest.raises(BadInput):
        configuration.load(tmp_path / "listen.yml", Project(SMALL))


def test_tokens_are_checked_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("täglich neu, immer gut")
    with pytest.raises(BadInput, match="no header can hold"):
        configuration._token(Token(file=str(tmp_path / "token")))


@pytest.mark.parametrize("event, code", [("resolve", 0), ("trigger", 0), ("trigger", 2)])
def test_escalation_is_called_with_the_run_and_clean_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: str, code: int
) -> None:
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "$OUT"\nexit {code}\n')
    fake.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(fake))
    told = commands(Path("/p"), {"OUT": str(tmp_path / "out"), "PATH": "/usr/bin:/bin"})
    hook = told.closed if event == "resolve" else told.escalate
    assert asyncio.run(hook(job(alert="A\x1b; $(reboot)", run_id="01RUN"))) == (code == 0)  # type: ignore[arg-type]
    words = (tmp_path / "out").read_text().splitlines()
    assert words[:8] == ["-m", "runbook", "--project", "/p", "escalate", "01RUN", "--event", event]
    assert words[8] == "--why" and words[9].startswith("alert A_reboot_ ")
