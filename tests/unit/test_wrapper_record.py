from __future__ import annotations

import os
import shlex
import socket
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from runbook import processes, render
from runbook.errors import BadInput, StateError
from runbook.record import Journal, Record, Source, StepRun, Store, Who, new_id


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "state")
    store.prepare()
    return store


def dead() -> Who:
    process = subprocess.Popen(["true"])
    process.wait()
    return Who("me", socket.gethostname(), process.pid, 1)


def add(store: Store, **values: object) -> Record:
    record = Record(**{"runbook": "x", "title": "X", "project": Source("/")} | values)  # type: ignore[arg-type]
    store.create(record)
    return record


def test_ids_are_ulids_and_sort_by_time() -> None:
    ids = [new_id() for _ in range(3)]
    assert all(len(name) == 26 and name[0] in "01234567" for name in ids)
    assert sorted(ids, key=lambda name: name[:10]) == ids or ids[0][:10] == ids[2][:10]


def test_a_record_survives_writing_and_reading(store: Store) -> None:
    record = add(store, steps=[StepRun("a", started=None, seconds=1.5)], inputs={"n": [1, {"k": None}]})
    assert store.load(record.id) == record
    assert store.folder(record.id).stat().st_mode & 0o777 == 0o700
    assert (store.folder(record.id) / "run.json").stat().st_mode & 0o777 == 0o600


def test_a_run_whose_owner_is_gone_is_interrupted(store: Store) -> None:
    record = add(store, state="running", who=dead(), steps=[StepRun("a", state="running"), StepRun("b")])
    assert [found.id for found in store.recover()] == [record.id]
    found = store.load("last")
    assert (found.state, found.exit_code, found.ended is not None) == ("interrupted", None, True)
    assert [step.state for step in found.steps] == ["failed", "pending"]
    assert store.recover() == []


def test_a_reused_pid_is_not_the_owner(store: Store) -> None:
    mine = processes.process(os.getpid())
    add(store, state="running", who=Who("me", socket.gethostname(), mine.pid, mine.started - 1))
    assert len(store.recover()) == 1


def test_a_live_or_foreign_owner_is_left_alone(store: Store) -> None:
    add(store, state="running")
    add(store, state="running", who=Who("me", "another-host", dead().pid, 1))
    assert store.recover() == []


def test_ids_by_prefix_and_last(store: Store) -> None:
    first, second = add(store, id="01AAAAAAAAAAAAAAAAAAAAAAAA"), add(store, id="01BBBBBBBBBBBBBBBBBBBBBBBB")
    assert store.load("01a") == first
    assert store.load("last") == second
    for name, words in (("01", "fits 2 runs"), ("02", "no run")):
        with pytest.raises(BadInput, match=words):
            store.load(name)


def test_damaged_files_are_told_or_passed_over(store: Store) -> None:
    record = add(store)
    (store.folder(record.id) / "run.json").write_text('{"runbook": 1')
    assert list(store.newest()) == []
    assert store.recover() == []
    with pytest.raises(BadInput, match="damaged"):
        store.load("last")
    (store.folder(record.id) / "run.json").write_text('{"runbook": []}')
    with pytest.raises(BadInput, match="damaged"):
        store.load("last")


def test_a_half_written_event_is_left_out(store: Store) -> None:
    folder = store.folder(add(store).id)
    journal = Journal(folder)
    journal.write({"event": "ok", "db_password": "hunter22"})
    journal.close()
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"event": "cut o')
    assert list(store.events(folder.name)) == [{"event": "ok", "db_password": "********"}]


def test_an_unwritable_place_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError) as caught:
        Store(tmp_path / "file" / "state").prepare()
    assert "RUNBOOK_STATE_DIR" in caught.value.remedy
    assert caught.value.code == 5


def test_usual_seconds_are_the_median_of_good_runs(store: Store) -> None:
    for seconds, state in ((1, "succeeded"), (30, "succeeded"), (3, "succeeded"), (99, "failed")):
        add(store, state=state, steps=[StepRun("a", seconds=float(seconds)), StepRun("b")])
    add(store, state="succeeded", check=True, steps=[StepRun("a", seconds=0.1)])
    assert store.usual_seconds("x") == {"a": 3.0}
    assert store.usual_seconds("y") == {}


def test_leases_of_runs_that_ended_badly_may_be_taken_over(store: Store) -> None:
    bad = [add(store, state=state).id for state in ("cancelled", "interrupted", "timed_out", "failed")]
    for state in ("succeeded", "running", "refused"):
        add(store, state=state)
    assert sorted(store.dead_runs()) == sorted(bad)


def test_the_suggested_command_is_the_run_that_was_checked(store: Store) -> None:
    record = add(store, check=True, inventory=["/a b/hosts"], limit="db1", inputs={"n": 3, "l": ["x"], "t": "it's"})
    words = shlex.split(render.again(record))
    assert words[:6] == ["runbook", "run", "x", "-i", "/a b/hosts", "-l"]
    assert words[6:] == ["db1", "--set", "n=3", "--set", 'l=["x"]', "--set", "t=it's"]


def test_only_ansible_and_what_is_below_it_is_swept() -> None:
    """A daemon that carries the run's mark, as the sandbox's server does, is not ours to end."""
    env = os.environ | {processes.MARKER: "01TEST"}
    daemon = subprocess.Popen(["sleep", "30.11"], env=env)
    worker = subprocess.Popen(["sh", "-c", "sleep 30.12; true", "ansible-playbook"], env=env)
    try:
        found = processes.of_run("01TEST")
        # The shell's own child looks like it between fork and exec.
        assert {item.pid for item in found} >= {worker.pid}
        assert daemon.pid not in {item.pid for item in found}
        assert len(processes.descendants(worker.pid)) >= 1
        assert processes.end(found | processes.descendants(worker.pid), timedelta(seconds=1).total_seconds()) >= 1
        worker.wait(timeout=5)
        assert daemon.poll() is None
    finally:
        daemon.kill()
        daemon.wait()
        worker.kill()
        worker.wait()
