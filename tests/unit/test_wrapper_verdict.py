"""How a run ended, from what was seen of it."""

from __future__ import annotations

from typing import Any

import pytest
from runbook.errors import ExitCode
from runbook.events import Collector, Failure, Tally, stem, verdict
from runbook.record import Record, Source, StepRun

STATS = {"h": {"ok": 1}}
WARNING = {"id": "a", "severity": "warning", "state": "open"}


def record(**values: Any) -> Record:
    return Record(
        **{"runbook": "x", "title": "X", "project": Source("/"), "hosts": ["h"], "time_limit_seconds": 9.0} | values
    )


def seen(findings: list[dict[str, Any]], actions: list[dict[str, Any]] = [], **values: Any) -> Record:  # noqa: B006  read only
    made = record(stats=STATS, **values)
    collector = Collector(made)
    result = {"changed": False, "runbook": {"final": True, "findings": findings, "actions": actions}}
    collector.feed({"event": "runner_on_ok", "event_data": {"host": "h", "task": "close | Report", "res": result}})
    return made


GOOD = [
    (seen([]), ExitCode.OK),
    (seen([WARNING]), ExitCode.FINDINGS),
    (seen([WARNING | {"severity": "critical"}]), ExitCode.FINDINGS),
    (seen([WARNING | {"severity": "info"}]), ExitCode.OK),
    (seen([WARNING | {"state": "fixed"}]), ExitCode.OK),
    (seen([WARNING | {"state": "accepted"}]), ExitCode.OK),
    (seen([WARNING], [{"step": "s", "result": "planned"}], check=True), ExitCode.WOULD_CHANGE),
    (seen([WARNING], [{"step": "s", "result": "skipped"}], check=True), ExitCode.FINDINGS),
    (seen([], [{"step": "s", "result": "done"}]), ExitCode.OK),
]


@pytest.mark.parametrize(("made", "code"), GOOD)
def test_a_run_that_went_through(made: Record, code: ExitCode) -> None:
    end = verdict(made, Tally(finished=True), 0, None)
    assert (end.state, end.code) == ("succeeded", code)


def test_a_changed_task_in_check_mode_is_work() -> None:
    assert (
        verdict(record(stats=STATS, check=True), Tally(changed=1, finished=True), 0, None).code == ExitCode.WOULD_CHANGE
    )


def test_an_order_to_stop_that_came_too_late_changes_nothing() -> None:
    assert verdict(record(stats=STATS), Tally(finished=True), 0, "cancelled").code == ExitCode.OK


def failure(outcome: str | None, host: str = "h") -> Failure:
    return Failure(host, "work | Try", "it did not go", outcome)


BAD = [
    (Tally(failures=[failure(None)]), 2, "failed", ExitCode.FAILED),
    (Tally(failures=[failure("refused")]), 2, "refused", ExitCode.REFUSED),
    (Tally(failures=[failure("unreachable")]), 2, "unreachable", ExitCode.UNREACHABLE),
    (Tally(failures=[failure("bad_input")]), 2, "refused", ExitCode.BAD_INPUT),
    (Tally(failures=[failure("refused"), failure(None)]), 2, "refused", ExitCode.REFUSED),
    (Tally(failures=[failure(None), failure("refused")]), 2, "refused", ExitCode.REFUSED),
    (Tally(failures=[failure("refused"), failure(None, "other")]), 2, "failed", ExitCode.FAILED),
    (Tally(failures=[failure("nonsense")]), 2, "failed", ExitCode.FAILED),
    (Tally(unreachable={"h": "no route"}), 4, "unreachable", ExitCode.UNREACHABLE),
    (Tally(unreachable={"h": "no route"}, failures=[failure(None, "o")]), 6, "failed", ExitCode.FAILED),
    (Tally(errors=["[ERROR]: the playbook: x could not be found"]), 1, "failed", ExitCode.FAILED),
    (
        Tally(errors=["ERROR! Completely failed to parse inventory source /x"]),
        1,
        "refused",
        ExitCode.BAD_INPUT,
    ),
    (
        Tally(errors=["Specified inventory ... leaves us with no hosts to target."]),
        1,
        "refused",
        ExitCode.BAD_INPUT,
    ),
    (Tally(errors=["Attempting to decrypt but no vault secrets found"]), 4, "refused", ExitCode.BAD_INPUT),
    (Tally(), 4, "failed", ExitCode.FAILED),
    (Tally(), None, "failed", ExitCode.FAILED),
]


@pytest.mark.parametrize(("tally", "rc", "state", "code"), BAD)
def test_a_run_that_did_not(tally: Tally, rc: int | None, state: str, code: ExitCode) -> None:
    end = verdict(record(), tally, rc, None)
    assert (end.state, end.code) == (state, code)
    assert end.message


def test_no_host_matched_is_bad_input() -> None:
    assert (
        verdict(record(hosts=[], stats=STATS), Tally(no_hosts=True, finished=True), 0, None).code == ExitCode.BAD_INPUT
    )
    assert verdict(record(hosts=[]), Tally(no_hosts=True, finished=True), 0, None).code == ExitCode.BAD_INPUT


def test_stopped_runs() -> None:
    assert verdict(record(), Tally(), 254, "timed_out").code == ExitCode.TIMED_OUT
    assert verdict(record(), Tally(), 99, "cancelled").code == ExitCode.CANCELLED
    assert verdict(record(), Tally(), None, None, "SystemExit: 1").code == ExitCode.FAILED


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        ("database : vacuum | Read rows", "vacuum"),
        ("close | Report", "close"),
        ("Validating arguments", None),
    ],
)
def test_stem(task: str, wanted: str | None) -> None:
    assert stem(task) == wanted


def feed(collector: Collector, kind: str, **data: Any) -> Any:
    return collector.feed({"event": kind, "event_data": data, "created": "2026-01-01T00:00:00+00:00", "pid": 7})


def test_steps_follow_the_tasks_and_a_step_entered_twice_adds_up() -> None:
    made = record(steps=[StepRun("plan"), StepRun("act"), StepRun("never")])
    collector = Collector(made)
    for _ in range(2):  # two batches of hosts
        feed(collector, "playbook_on_task_start", name="r : plan | Read")
        feed(collector, "runner_on_ok", host="h", task="plan | Read", res={"changed": False})
        feed(collector, "playbook_on_task_start", name="r : act | Do")
        feed(collector, "runner_on_skipped", host="h", task="act | Do", res={})
    collector.leave()
    assert [step.state for step in made.steps] == ["ok", "skipped", "pending"]
    assert made.steps[0].started is not None and made.steps[0].started < made.steps[0].ended  # type: ignore[operator]
    assert made.steps[2].seconds is None


def test_an_ill_formed_finding_is_noted_not_fatal() -> None:
    made = record()
    payload = {
        "findings": [{"id": "a", "severity": "awful"}, "text", {"id": 5, "observed": {"rows": 3}}],
        "actions": None,
    }
    feed(Collector(made), "runner_on_ok", host="h", task="t", res={"changed": False, "runbook": payload})
    assert [(finding.id, finding.observed) for finding in made.findings] == [("5", '{"rows": 3}')]
    assert len(made.notes) == 2


def test_an_empty_result_says_that_it_was_cut_off() -> None:
    made = record()
    line = feed(Collector(made), "runner_on_ok", host="h", task="t", res={})
    assert line["truncated"] is True
    assert "truncated" in made.notes[0]


def test_an_ignored_failure_does_not_count() -> None:
    collector = Collector(record())
    feed(collector, "runner_on_failed", host="h", task="t", res={"msg": "x"}, ignore_errors=True)
    assert collector.tally.failures == []


def test_a_failing_argument_spec_is_bad_input() -> None:
    collector = Collector(record())
    task = "database : Validating arguments against arg spec main"
    feed(
        collector,
        "runner_on_failed",
        host="h",
        task=task,
        res={"msg": "x", "argument_errors": ["a is missing", "b"]},
    )
    assert [(f.outcome, f.message) for f in collector.tally.failures] == [("bad_input", "a is missing; b")]


def test_a_failed_loop_says_what_its_first_failed_item_said() -> None:
    collector = Collector(record())
    items = [{"msg": "fine"}, {"failed": True, "msg": "jobs is 99"}, {"failed": True, "msg": "too"}]
    result = {"failed": True, "msg": "One or more items failed", "results": items}
    collector.feed(
        {"event": "runner_on_failed", "event_data": {"host": "h", "task": "check | Refuse", "res": result}}
    )
    end = verdict(collector.record, collector.tally, 2, None)
    assert (end.code, end.message) == (ExitCode.BAD_INPUT, "h: jobs is 99")
