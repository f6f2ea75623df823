"""Every way a run can end, by exit code, state and record."""

from __future__ import annotations

import json

import pytest

from .conftest import SMALL, Runbook


def test_success_records_who_why_steps_actions_and_facts(runbook: Runbook) -> None:
    done = runbook.run("healthy", "--reason", "weekly", "--ticket", "OPS-7", "--set", "healthy_keep_days=30")
    assert (done.code, runbook.record["state"]) == (0, "succeeded"), done.err
    record = runbook.record
    assert (record["reason"], record["ticket"]) == ("weekly", "OPS-7")
    assert record["inputs"] == {"healthy_keep_days": 30}
    assert record["hosts"] == ["here"]
    assert record["inventory"] == [str(SMALL / "inventories" / "one.yml")]
    states = {step["id"]: step["state"] for step in record["steps"]}
    assert list(states) == ["check", "open", "plan", "vacuum", "prove", "evidence", "close"]
    reached = {name: state for name, state in states.items() if state != "pending"}
    assert reached == {"plan": "ok", "vacuum": "changed", "close": "ok"}
    assert [action["after"] for action in record["actions"]] == [1048576]
    assert record["facts"]["here"]["server_version"] == "15.18"
    assert record["versions"]["ansible_core"].startswith("2.")
    assert record["seconds"] > 0
    assert runbook.private() == []


def test_the_frame_is_told_the_run_and_the_reason(runbook: Runbook) -> None:
    runbook.run("healthy", "--reason", "weekly")
    (folder,) = (runbook.state / "runs").iterdir()
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    said = next(event["msg"] for event in events if event.get("msg", "").startswith("keep"))
    assert said == f"keep 90 days, {folder.name}, weekly"


def test_open_findings_give_1_and_the_final_list_replaces_earlier_ones(runbook: Runbook) -> None:
    done = runbook.run("untidy", inventory="two.yml")
    assert (done.code, runbook.record["state"]) == (1, "succeeded"), done.err
    assert {finding["id"] for finding in runbook.record["findings"]} == {"dust", "hint"}
    assert sorted(finding["host"] for finding in runbook.record["findings"]) == [
        "here",
        "here",
        "there",
        "there",
    ]
    assert "Dust it" in done.out
    assert "\x1b" not in done.out


def test_check_with_planned_work_gives_6(runbook: Runbook) -> None:
    done = runbook.run("untidy", "--check", "--diff")
    assert (done.code, runbook.record["state"]) == (6, "succeeded"), done.err
    assert runbook.record["check"] is True
    assert "planned" in done.out


def test_check_without_work_gives_0(runbook: Runbook) -> None:
    assert runbook.run("quiet", "--check").code == 0


@pytest.mark.parametrize(
    ("outcome", "code", "state"),
    [("refused", 3, "refused"), ("unreachable", 4, "unreachable"), ("bad_input", 5, "refused")],
)
def test_a_step_can_decide_the_outcome(runbook: Runbook, outcome: str, code: int, state: str) -> None:
    done = runbook.run("guarded", "--set", f"guarded_outcome={outcome}")
    assert (done.code, runbook.record["state"]) == (code, state), done.err
    assert "lease database:x is held by eve@laptop" in done.err


def test_a_failing_task_gives_2_and_its_words(runbook: Runbook) -> None:
    done = runbook.run("broken")
    assert (done.code, runbook.record["state"]) == (2, "failed")
    assert "no such luck" in runbook.record["message"]
    assert {step["id"]: step["state"] for step in runbook.record["steps"]}["work"] == "failed"


def test_a_host_that_does_not_answer_gives_4(runbook: Runbook) -> None:
    done = runbook.run("healthy", inventory="gone.ini")
    assert (done.code, runbook.record["state"]) == (4, "unreachable")
    assert "Connection refused" in done.err
    assert "runbook doctor" in done.err


def test_json_prints_one_document_and_nothing_else_on_stdout(runbook: Runbook) -> None:
    done = runbook.run("untidy", "--json")
    assert done.document["exit_code"] == 1
    assert done.document == runbook.record
    assert "left open" in done.err


def test_jsonl_prints_events_as_objects_and_ends_with_the_result(runbook: Runbook) -> None:
    done = runbook.run("healthy", "--jsonl")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert (lines[0]["event"], lines[-1]["event"]) == ("run", "result")
    assert {"task", "ok", "stats"} <= {line["event"] for line in lines}
    assert lines[-1]["state"] == "succeeded"


def test_a_result_too_large_is_noted_as_truncated(runbook: Runbook) -> None:
    done = runbook.run("wordy")
    assert done.code == 0, done.err
    (folder,) = (runbook.state / "runs").iterdir()
    assert '"truncated":true' in (folder / "events.jsonl").read_text()
    assert (folder / "events.jsonl").stat().st_size < 20_000
