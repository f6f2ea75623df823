"""Stopping a run: by its time limit, by Ctrl-C, by SIGTERM, and by the death of the wrapper."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from .conftest import Runbook, finish, processes_with, until


def slow(runbook: Runbook, *arguments: str, nap: str | None = None) -> tuple[list[str], Path, str]:
    """Return a command line, the file that shows the run is at work, and the nap to look for."""
    marker = runbook.root / "at-work"
    # It ends in a digit that a number keeps: the 0 of 77.10 would be gone from the command line.
    nap = nap or f"77.{os.getpid()}{abs(hash(str(runbook.root))) % 10**6}7"
    command = ["run", "slow", "-i", "one.yml", "--set", f"slow_started={marker}", "--set", f"slow_nap={nap}"]
    return [*command, *arguments], marker, nap


def nothing_is_left(runbook: Runbook, nap: str) -> None:
    assert processes_with(f"sleep\0{nap}") == []
    assert processes_with(f"RUNBOOK_RUN_ID={runbook.record['id']}") == []
    assert runbook.private() == []


def test_the_time_limit_gives_124_and_leaves_nothing(runbook: Runbook) -> None:
    command, marker, nap = slow(runbook, "--timeout", "6.5")
    done = runbook(*command)
    assert (done.code, runbook.record["state"]) == (124, "timed_out"), done.err
    assert marker.exists()
    assert "6.5 s" in runbook.record["message"]
    assert {step["id"]: step["state"] for step in runbook.record["steps"]}["wait"] == "failed"
    nothing_is_left(runbook, nap)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_130_and_leaves_nothing(runbook: Runbook, number: signal.Signals) -> None:
    command, _, nap = slow(runbook)
    process = runbook.start(*command)
    until(lambda: processes_with(f"sleep\0{nap}"))
    process.send_signal(number)
    done = finish(process)
    assert (done.code, runbook.record["state"]) == (130, "cancelled"), done.err
    nothing_is_left(runbook, nap)


def test_a_second_ctrl_c_does_not_wait(runbook: Runbook) -> None:
    command, marker, nap = slow(runbook)
    process = runbook.start(*command)
    until(marker.exists)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    done = finish(process, seconds=8)
    assert (done.code, runbook.record["state"]) == (130, "cancelled"), done.err
    nothing_is_left(runbook, nap)


def test_ctrl_c_before_ansible_has_said_anything(runbook: Runbook) -> None:
    command, _, nap = slow(runbook)
    process = runbook.start(*command)
    until(lambda: runbook.state.exists() and runbook.records())
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert done.code == 130, done.err
    nothing_is_left(runbook, nap)


def test_inputs_are_never_on_a_command_line_and_not_kept(runbook: Runbook) -> None:
    (runbook.root / "in.yml").write_text("slow_password: argumentcanary\n")
    command, marker, _ = slow(runbook, "--set", f"@{runbook.root}/in.yml")
    process = runbook.start(*command, PLANTED_API_TOKEN="environmentcanary")
    until(marker.exists)
    assert processes_with("argumentcanary") == []
    assert processes_with("environmentcanary") == [process.pid]
    (private,) = runbook.private()
    assert private.stat().st_mode & 0o777 == 0o700
    files = [path for path in private.rglob("*") if path.is_file()]
    assert [path for path in files if b"canary" in path.read_bytes()] == []
    process.send_signal(signal.SIGINT)
    finish(process)


def test_a_killed_wrapper_leaves_an_honest_record(runbook: Runbook) -> None:
    command, marker, _ = slow(runbook, nap="3")
    process = runbook.start(*command)
    until(marker.exists)
    process.kill()
    process.wait()
    assert runbook.record["state"] == "running"
    orphans = f"RUNBOOK_RUN_ID={runbook.record['id']}"
    assert processes_with(orphans)

    listed = runbook("runs", "list")
    assert "interrupted" in listed.out
    assert "still at work" in runbook.record["notes"][0]
    assert runbook.record["exit_code"] is None
    assert {step["id"]: step["state"] for step in runbook.record["steps"]}["wait"] == "failed"

    until(lambda: not processes_with(orphans))
    assert runbook.private()
    runbook("runs", "list")
    assert runbook.private() == []


def test_a_live_run_is_not_called_interrupted(runbook: Runbook) -> None:
    command, marker, _ = slow(runbook)
    process = runbook.start(*command)
    until(marker.exists)
    assert "running" in runbook("runs", "list").out
    assert runbook.private()
    process.send_signal(signal.SIGINT)
    finish(process)
