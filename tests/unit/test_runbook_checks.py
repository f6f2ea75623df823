"""Checks: what meets an expectation, and how commands are run."""

from __future__ import annotations

import os
import pwd
import threading
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import runbook_checks
from ansible.module_utils.runbook_checks import Outcome, expected_text, probe, run_command, unmet
from support.postgres import wait_until

ENVIRONMENT = {"PATH": os.environ["PATH"]}
JSON = '{"status": "ready", "pools": [{"free": 3}]}'


def gave(stdout: str = "", rc: int | None = 0, stderr: str = "") -> Outcome:
    return Outcome(rc, stdout, stderr, 0.1)


@pytest.mark.parametrize(
    ("expect", "outcome"),
    [
        ({"rc": 0}, gave()),
        ({"rc": 3}, gave(rc=3)),
        ({"rc": "3"}, gave(rc=3)),
        ({"matches": "^two$"}, gave("one\ntwo\nthree")),
        ({"equals": "1"}, gave("1\n")),
        ({"equals": 1}, gave("1\n")),
        ({"json": "status", "equals": "ready"}, gave(JSON)),
        ({"json": "pools.0.free", "equals": 3}, gave(JSON)),
        ({"number": {"at_most": 70}}, gave("70")),
        ({"number": {"at_most": "70.5"}}, gave("70.5\n")),
        ({"number": {"at_least": 2}}, gave("2")),
        ({"number": {"between": [1, 3]}}, gave("1")),
        ({"number": {"between": [1, 3]}}, gave("3")),
        ({"empty": True}, gave(" \n", stderr="a notice")),
        ({"empty": False}, gave("x")),
        ({"rc": 1, "matches": "gone", "empty": False}, gave("it is gone", rc=1)),
        ({}, gave("anything")),
    ],
)
def test_met(expect: dict[str, Any], outcome: Outcome) -> None:
    assert unmet(expect, outcome) is None


@pytest.mark.parametrize(
    ("expect", "outcome", "reason"),
    [
        ({"rc": 0}, gave(rc=2, stderr="no such host\nmore"), "exit code 2 instead of 0: no such host"),
        ({"rc": 0}, gave("said on stdout", rc=2), "exit code 2 instead of 0: said on stdout"),
        ({"rc": 3}, gave(), "exit code 0 instead of 3"),
        ({"empty": True}, gave("", rc=1), "exit code 1 instead of 0"),
        ({"matches": "^two$"}, gave("twofold"), "twofold"),
        ({"matches": "."}, gave(), "no output"),
        ({"equals": "1"}, gave("2"), "2"),
        ({"equals": "1"}, gave(), "no output"),
        ({"json": "status", "equals": "ready"}, gave('{"status": "degraded"}'), "status is 'degraded'"),
        ({"json": "status.deep", "equals": 1}, gave(JSON), "no status.deep in "),
        ({"json": "pools.7.free", "equals": 1}, gave(JSON), "no pools.7.free in "),
        ({"json": "status", "equals": "ready"}, gave("<html>"), "no status in '<html>'"),
        ({"number": {"at_most": 70}}, gave("70.1"), "70.1"),
        ({"number": {"at_least": 2}}, gave("1.9"), "1.9"),
        ({"number": {"between": [1, 3]}}, gave("0.9"), "0.9"),
        ({"number": {"between": [1, 3]}}, gave("3.1"), "3.1"),
        ({"number": {"at_most": 70}}, gave("many"), "not a number: 'many'"),
        ({"number": {"at_most": 70}}, gave(""), "not a number: ''"),
        ({"number": {"at_most": 70}}, gave("NaN"), "not a number: 'NaN'"),
        ({"empty": True}, gave("a\nb"), "a\nb"),
        ({"empty": False}, gave("\n"), "no output"),
        ({"rc": 0}, gave(rc=None), "no answer within 0 s"),
        ({"matches": "x", "empty": False}, gave("y"), "y"),
    ],
)
def test_unmet_says_what_was_seen(expect: dict[str, Any], outcome: Outcome, reason: str) -> None:
    assert (unmet(expect, outcome) or "").startswith(reason)


def test_an_unknown_expectation_is_an_error_and_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown expectation contains; known: rc, matches, "):
        unmet({"contains": "x"}, gave())


def test_expectations_in_words() -> None:
    assert expected_text({"rc": 1, "matches": "gone"}) == "exit code 1, output matching gone"
    assert expected_text({"json": "a.b", "equals": "ready"}) == "a.b is 'ready'"
    assert expected_text({"number": {"at_least": 1, "at_most": 2}}) == "at least 1, at most 2"
    assert expected_text({"number": {"between": [1, 3]}, "equals": "2 "}) == "2, between 1 and 3"
    assert [expected_text({"empty": value}) for value in (True, False)] == ["no output", "some output"]


def test_output_exit_code_and_both_streams() -> None:
    outcome = run_command("echo out; echo err >&2; exit 7", ENVIRONMENT, 10)
    assert (outcome.rc, outcome.stdout, outcome.stderr, outcome.truncated) == (7, "out\n", "err\n", False)


def test_at_the_time_limit_the_whole_process_group_is_gone(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    outcome = run_command(f"sleep 300 & echo $! >{pids}; echo $$ >>{pids}; echo begun; wait", ENVIRONMENT, 0.5)
    assert (outcome.rc, outcome.stdout) == (None, "begun\n")
    assert 0.5 <= outcome.seconds < 60
    for pid in pids.read_text().split():
        wait_until(lambda pid=pid: not running(pid), f"process {pid} is gone", 5)


def running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_that_left_the_group_cannot_hold_the_check_up(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    done = threading.Event()
    outcomes: list[Outcome] = []

    def check() -> None:
        # The shell waits for its child, which has a session of its own and keeps the output open.
        outcomes.append(run_command(f"setsid sh -c 'echo $$ >{pid}; exec sleep 300' & wait", ENVIRONMENT, 0.3))
        done.set()

    threading.Thread(target=check, daemon=True).start()
    try:
        assert done.wait(60), "the check ends although its output stays open"
        assert outcomes[0].rc is None
        assert running(pid.read_text().strip())
    finally:
        os.kill(int(pid.read_text()), 9)


def test_a_shell_that_closed_its_output_is_waited_for() -> None:
    assert run_command("exec >&- 2>&-; sleep 0.2; exit 3", ENVIRONMENT, 10).rc == 3
    assert run_command("exec >&- 2>&-; sleep 300", ENVIRONMENT, 0.3).rc is None


def test_output_is_capped_and_says_so() -> None:
    exact = run_command("printf 12345678", ENVIRONMENT, 10, cap_bytes=8)
    assert (exact.stdout, exact.truncated) == ("12345678", False)
    more = run_command("printf 123456789", ENVIRONMENT, 10, cap_bytes=8)
    assert (more.stdout, more.truncated) == ("12345678", True)
    errors = run_command("printf 123456789 >&2", ENVIRONMENT, 10, cap_bytes=8)
    assert (errors.stderr, errors.truncated, errors.rc) == ("12345678", True, 0)
    assert run_command("printf '\\303\\244'", ENVIRONMENT, 10, cap_bytes=1).stdout == "\ufffd"


def test_endless_output_costs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []

    class Watched(runbook_checks._Reader):
        def text(self) -> str:
            kept.append(len(self.data))
            return super().text()

    monkeypatch.setattr(runbook_checks, "_Reader", Watched)
    outcome = run_command("yes", ENVIRONMENT, 0.3)
    assert (outcome.rc, outcome.truncated, max(kept)) == (None, True, runbook_checks.OUTPUT_CAP_BYTES)


def test_values_reach_the_command_unharmed_through_its_environment_only(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for value in (
        f"$(touch {trap})",
        f"`touch {trap}`",
        f"'; touch {trap}; '",
        f'"; touch {trap}; "',
        "two\nlines",
        "*",
        "a  b",
    ):
        outcome = run_command('printf %s "$VALUE"', {**ENVIRONMENT, "VALUE": value}, 10)
        assert outcome.stdout == value
    assert not trap.exists()
    assert run_command('printf %s "$HOME$USER"', ENVIRONMENT, 10).stdout == "", "nothing else is inherited"


def test_a_user_that_does_not_exist() -> None:
    outcome = run_command("echo hello", ENVIRONMENT, 10, "no-such-user")
    assert (outcome.rc, outcome.stdout) == (127, "")
    assert "'no-such-user' does not exist" in outcome.stderr
    result = probe([check("who", user="no-such-user")], ENVIRONMENT)[0]
    assert not result["met"] and "'no-such-user' does not exist" in result["finding"]["observed"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_the_user_of_a_check_wins_over_the_user_of_all() -> None:
    checks = [check("all", command="id -u"), check("own", command="id -u", user="daemon")]
    all_user, own_user = (int(r["stdout"]) for r in probe(checks, ENVIRONMENT, "nobody"))
    assert (all_user, own_user) == (pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("daemon").pw_uid)


def check(id: str, command: str = "true", **more: Any) -> dict[str, Any]:
    return {"id": id, "question": f"{id}?", "command": command, "expect": {"rc": 0}, **more}


class Barrier:
    """Stands in for run_command: each check waits until as many as expected have begun."""

    def __init__(self, parties: int) -> None:
        self.barrier = threading.Barrier(parties)
        self.limits: list[float] = []

    def __call__(self, command: str, environment: Any, limit: float, user: Any) -> Outcome:
        self.limits.append(limit)
        self.barrier.wait(30)
        return gave(command)


def test_checks_run_at_the_same_time_and_come_back_in_their_order() -> None:
    # One after the other would break the barrier: nobody passes before all have come.
    run = Barrier(runbook_checks.CONCURRENCY)
    names = [f"c{n}" for n in range(runbook_checks.CONCURRENCY)]
    results = probe([check(n, n, timeout_seconds=3 if n == "c0" else None) for n in names], {}, run=run)
    assert [r["id"] for r in results] == names and all(r["met"] for r in results)
    assert sorted(run.limits) == [3] + [runbook_checks.DEFAULT_TIMEOUT_SECONDS] * (len(names) - 1)


def test_a_hanging_check_holds_up_nobody_and_ends_at_its_own_limit(tmp_path: Path) -> None:
    # The hanging checks end only by their limits; each of the others ends only after it has seen all of them hang.
    hanging = [check(f"hangs{n}", f"touch {tmp_path}/hangs{n}; sleep 300", timeout_seconds=2) for n in range(3)]
    waits = (
        f"until [ $(ls {tmp_path} | wc -l) -eq 3 ]; do sleep 0.05; done; pgrep -f 'touch {tmp_path}/hang[s]' | wc -l"
    )
    others = [check("sees", waits, expect={"number": {"at_least": 3}}, timeout_seconds=30)]
    results = {r["id"]: r for r in probe([*hanging, *others], ENVIRONMENT)}
    assert results["sees"]["met"], results["sees"]
    assert [results[c["id"]]["rc"] for c in hanging] == [None] * 3
    assert "no answer within" in results["hangs0"]["finding"]["observed"]


def test_a_failure_becomes_a_finding_with_its_evidence() -> None:
    told = {"finding": "It is down", "severity": "critical", "remedy": "Start it"}
    failing = check(
        "up", "echo first; echo second; echo why >&2", expect={"empty": True}, otherwise=told, section="immediate"
    )
    result = probe([failing], ENVIRONMENT)[0]
    found = result["finding"]
    assert (result["met"], found["id"], found["check"], found["title"]) == (False, "up", "up", "It is down")
    assert (found["severity"], found["remedy"], found["section"], found["state"]) == (
        "critical",
        "Start it",
        "immediate",
        "open",
    )
    assert (found["observed"], found["expected"]) == ("first (and 1 more line)", "no output")
    assert found["evidence"] == "first\nsecond\nwhy"


def test_without_otherwise_the_question_is_the_finding() -> None:
    found = probe([check("up", "false")], ENVIRONMENT)[0]["finding"]
    assert (found["title"], found["severity"]) == ("up?", "warning")


def test_what_needs_a_failed_check_is_not_judged() -> None:
    chain = [
        check("up", "false"),
        check("answers", "true", needs=["up"]),
        check("fast", "false", needs=["answers"]),
        check("beside", "false"),
        check("fine", "true"),
    ]
    up, answers, fast, beside, fine = probe(chain, ENVIRONMENT)
    assert (up["met"], beside["met"], fine["met"]) == (False, False, True)
    assert (answers["met"], answers["finding"], answers["reason"]) == (None, None, "not judged: up failed")
    assert (fast["met"], fast["finding"], fast["reason"]) == (None, None, "not judged: answers failed")


def test_what_needs_a_check_that_was_met_is_judged() -> None:
    met, failed = probe([check("up"), check("answers", "false", needs=["up"])], ENVIRONMENT)
    assert (met["met"], failed["met"]) == (True, False) and failed["finding"]


def test_what_is_in_vain_is_not_begun() -> None:
    begun: list[str] = []

    def run(command: str, *_: Any) -> Outcome:
        begun.append(command)
        return gave(rc=1)

    results = probe([check("up", "up"), check("a", "a", needs=["up"]), check("b", "b", needs=["a"])], {}, run=run)
    assert begun == ["up"]
    assert [r["reason"] for r in results[1:]] == ["not judged: up failed", "not judged: a failed"]


def test_a_need_that_another_host_looks_after_keeps_no_check_from_being_judged() -> None:
    assert [r["met"] for r in probe([check("a", needs=["elsewhere"])], ENVIRONMENT)] == [True]


def test_a_check_begins_when_what_it_needs_has_ended() -> None:
    ended: list[str] = []

    def run(command: str, *_: Any) -> Outcome:
        assert command != "second" or ended == ["first"]
        ended.append(command)
        return gave(rc=0)

    # The need may stand behind; the order is that of the page.
    results = probe([check("b", "second", needs=["a"]), check("a", "first")], {}, run=run)
    assert [(r["id"], r["met"]) for r in results] == [("b", True), ("a", True)]


def test_checks_that_need_each_other_are_an_error() -> None:
    with pytest.raises(ValueError, match="need each other: a, b"):
        probe([check("a", needs=["b"]), check("b", needs=["a"])], ENVIRONMENT)
