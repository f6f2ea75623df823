"""Bad input: exit code 5, what is wrong, the value seen and what to do; nothing has run."""

from __future__ import annotations

import json

import pytest

from .conftest import Runbook

CASES = {
    "unknown runbook": (["helthy", "-i", "one.yml"], ["helthy", 'Did you mean "healthy"?']),
    "missing inventory": (["healthy", "-i", "nowhere"], ["nowhere", "one.yml"]),
    "no inventory": (["healthy"], ["-i INVENTORY"]),
    "malformed YAML": (["healthy", "-i", "malformed.yml"], ["malformed.yml", "line 4"]),
    "unknown input": (["healthy", "-i", "one.yml", "--set", "healthy_keep_dys=1"], ['"healthy_keep_days"']),
    "wrong type": (
        ["healthy", "-i", "one.yml", "--set", "healthy_keep_days=soon"],
        ['"soon" is no whole number'],
    ),
    "no choice": (
        ["healthy", "-i", "one.yml", "--set", "healthy_mode=gentel"],
        ["gentle, thorough", "gentel"],
    ),
    "nested": (["healthy", "-i", "one.yml", "--set", "healthy_rules=[{keep_days: 3}]"], ["table is missing"]),
    "no assignment": (["healthy", "-i", "one.yml", "--set", "x"], ["name=value"]),
    "reserved": (["healthy", "-i", "one.yml", "--set", "runbook_owner=eve"], ["runbook_owner"]),
    "unknown option": (["healthy", "--nope"], ["--nope"]),
    "no time": (["healthy", "-i", "one.yml", "--timeout", "0"], ["--timeout"]),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_before_anything_ran(runbook: Runbook, case: str) -> None:
    arguments, words = CASES[case]
    done = runbook("run", *arguments)
    assert done.code == 5, done.err
    for word in words:
        assert word in done.err
    assert "Traceback" not in done.err
    assert runbook.records() == []
    assert done.out == ""


def test_an_inventory_only_ansible_can_judge_is_refused_with_its_reason(runbook: Runbook) -> None:
    done = runbook.run("healthy", inventory="malformed.ini")
    assert done.code == 5, done.err
    assert "malformed.ini cannot be parsed" in done.err
    assert runbook.record["hosts"] == []


def test_a_limit_that_leaves_no_host_is_refused(runbook: Runbook) -> None:
    done = runbook.run("healthy", "-l", "nosuch")
    assert done.code == 5, done.err
    assert "No host of the inventory" in done.err


def test_typed_values_reach_the_role(runbook: Runbook, tmp_path: object) -> None:
    (runbook.root / "in.yml").write_text("healthy_keep_days: 12\nhealthy_greeting: '{{ 6 * 7 }}'\n")
    rules = "[{table: usage, keep_days: '3'}]"
    done = runbook.run("healthy", "--set", f"@{runbook.root}/in.yml", "--set", f"healthy_rules={rules}")
    assert done.code == 0, done.err
    assert runbook.record["inputs"]["healthy_rules"] == [{"table": "usage", "keep_days": 3}]


def test_what_a_person_or_an_alert_says_is_no_template(runbook: Runbook) -> None:
    marker = runbook.root / "ran"
    hostile = "{{ lookup('ansible.builtin.pipe', 'touch MARKER') }} {% raw %} \n'\"\x07: !x &a".replace(
        "MARKER", str(marker)
    )
    rules = json.dumps([{"table": hostile, "keep_days": 3}])
    done = runbook.run("healthy", "--set", f"healthy_rules={rules}", "--reason", hostile, "--ticket", "{{ 1 / 0 }}")
    assert done.code == 0, done.err
    assert not marker.exists()
    assert runbook.record["reason"] == hostile and runbook.record["inputs"]["healthy_rules"][0]["table"] == hostile


@pytest.mark.parametrize("kind", ["file", "file in the way"])
def test_without_a_place_for_records_nothing_runs(runbook: Runbook, kind: str) -> None:
    (runbook.root / "blocked").write_text("")
    place = runbook.root / "blocked" if kind == "file" else runbook.root / "blocked" / "state"
    marker = runbook.root / "ran"
    done = runbook.run("slow", "--set", f"slow_started={marker}", RUNBOOK_STATE_DIR=str(place))
    assert done.code == 5
    assert "RUNBOOK_STATE_DIR" in done.err
    assert str(place) in done.err
    assert not marker.exists()


def test_an_unexpected_fault_exits_2_with_a_masked_log(runbook: Runbook) -> None:
    """HOME that is no folder breaks nothing; a project whose spec is a folder does."""
    done = runbook("list", RUNBOOK_PROJECT=str(_broken_project(runbook)), PLANTED_API_TOKEN="plantedcanary")
    assert done.code == 2
    assert "Traceback" not in done.err
    (log,) = (runbook.state / "errors").iterdir()
    assert "IsADirectoryError" in log.read_text()


def _broken_project(runbook: Runbook) -> object:
    project = runbook.root / "project"
    (project / "playbooks").mkdir(parents=True)
    (project / "roles" / "x" / "meta" / "runbook.yml").mkdir(parents=True)
    return project
