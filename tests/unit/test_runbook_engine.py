"""One remedy on its host: every guard, what it keeps, and what it does when it did not help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import runbook_good
from ansible.module_utils.runbook_engine import Engine, Order, Result
from ansible.module_utils.runbook_remedies import Budget


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


CHECKS = [
    {"id": name, "part": "app", "question": f"{name}?", "command": f"test -e $HERE/{name}", "expect": {"rc": 0},
     "otherwise": {"finding": f"No {name}", "severity": "critical", "remedy": "x"}}
    for name in ("up", "database", "ready")
]  # fmt: skip


@pytest.fixture
def clock() -> Clock:
    return Clock()


def order(tmp_path: Path, **more: Any) -> Order:
    step = {
        "id": "fix-it", "kind": "change", "does": "Fix it", "part": "app", "cures": ["up"], "verify": ["up"],
        "within_seconds": 3, "acts": [{"command": 'touch "$HERE/up" && echo touched'}], **more.pop("step", {}),
    }  # fmt: skip
    given: dict[str, Any] = {
        "components": {}, "environment": {"HERE": str(tmp_path)}, "secrets": {"SECRET": "hunter2-Zx"}, "os_user": None,
        "because": "a/up", "follower": False, "targets": [], "state_dir": tmp_path / "state", "run_id": "RUN",
        "owner": "ops@laptop", **more,
    }  # fmt: skip
    return Order(step=step, checks=CHECKS, **given)


def run(given: Order, clock: Clock) -> Result:
    return Engine(given, clock, clock.wait).run()


def test_it_acts_proves_and_keeps_evidence_first(tmp_path: Path, clock: Clock) -> None:
    result = run(order(tmp_path), clock)
    assert (result.action["result"], result.changed, result.cured, result.findings) == ("done", True, True, [])
    assert result.action["detail"] == "touched"
    kept = Path(result.evidence_dir)
    assert "exit code 1" in (kept / "up.txt").read_text()  # what the check said before
    assert "ops@laptop" in (kept / "CUSTODY").read_text()


def test_what_has_cleared_by_itself_is_left_alone(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "up").touch()
    result = run(order(tmp_path, step={"acts": [{"command": "touch $HERE/acted"}]}), clock)
    assert (result.action["result"], result.changed, result.cured) == ("skipped", False, True)
    assert not (tmp_path / "acted").exists()


def test_what_follows_from_a_cured_cause_gets_time_to_clear(tmp_path: Path, clock: Clock) -> None:
    class Patient(Clock):
        def wait(self, seconds: float) -> None:
            super().wait(seconds)
            if self.now >= 1_800_000_005:
                (tmp_path / "up").touch()

    patient = Patient()
    result = run(order(tmp_path, follower=True, patience_seconds=10), patient)
    assert result.action["result"] == "skipped" and patient.now < 1_800_000_010
    (tmp_path / "up").unlink()
    assert run(order(tmp_path, follower=True, patience_seconds=2), clock).action["result"] == "done"


def test_a_gate_that_does_not_hold_forbids_it(tmp_path: Path, clock: Clock) -> None:
    result = run(order(tmp_path, step={"gates": ["database"]}), clock)
    assert result.action["result"] == "skipped" and not (tmp_path / "up").exists()
    (left,) = result.findings
    assert left["severity"] == "critical" and "No database" in left["observed"] and "vain" in left["observed"]
    (tmp_path / "database").touch()
    assert run(order(tmp_path, step={"gates": ["database"]}), clock).action["result"] == "done"


def test_a_remedy_after_one_that_failed_is_refused(tmp_path: Path, clock: Clock) -> None:
    result = run(order(tmp_path, refused="start-database on d did not help"), clock)
    assert result.action["result"] == "skipped" and "start-database" in result.action["detail"]


def test_an_act_that_fails_stops_the_rest_and_is_told(tmp_path: Path, clock: Clock) -> None:
    acts = [{"command": "echo broken pipe >&2; exit 3"}, {"command": "touch $HERE/second"}]
    result = run(order(tmp_path, step={"acts": acts}), clock)
    assert result.action["result"] == "failed" and not (tmp_path / "second").exists()
    assert "exit code 3: broken pipe" in result.findings[0]["observed"] and not result.changed


def test_what_did_not_help_is_taken_back(tmp_path: Path, clock: Clock) -> None:
    step = {"acts": [{"command": "touch $HERE/new"}], "revert": [{"command": "rm $HERE/new"}]}
    result = run(order(tmp_path, step=step), clock)
    assert (result.action["result"], result.changed, result.cured) == ("failed", True, False)
    assert not (tmp_path / "new").exists() and "taken back" in result.findings[0]["observed"]
    assert clock.now >= 1_800_000_003, "it waited for its checks to hold"


def test_a_revert_that_fails_is_told(tmp_path: Path, clock: Clock) -> None:
    step = {"acts": [{"command": "touch $HERE/new"}], "revert": [{"command": "exit 9"}]}
    assert "could not be taken back" in run(order(tmp_path, step=step), clock).findings[0]["observed"]


def test_targets_reach_the_command_by_the_environment_alone(tmp_path: Path, clock: Clock) -> None:
    nasty = "41|$(touch pwned); `id`|x'\""
    acts = [{"command": 'printf "%s" "$RUNBOOK_TARGETS" > "$HERE/up"'}]
    result = run(order(tmp_path, targets=[nasty, "42"], step={"acts": acts}), clock)
    assert (tmp_path / "up").read_text() == f"{nasty}\n42" and result.action["result"] == "done"
    assert nasty in (Path(result.evidence_dir) / "targets.txt").read_text()


def supervised(tmp_path: Path, script: str) -> dict[str, Any]:
    """Return components whose manager is a small program of ours."""
    tool = tmp_path / "ctl"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{script}\n')
    tool.chmod(0o755)
    return {"app": {"manager": "supervisor", "unit": "app", "config": "/c", "control": [str(tool)]}}


RUNNING = 'case $3 in status) echo "app RUNNING pid 7, uptime 1" ;; esac'


def test_restarts_are_counted_before_they_happen_and_end(tmp_path: Path, clock: Clock) -> None:
    components = supervised(tmp_path, RUNNING)
    restart = {"acts": [{"component": "app", "state": "restarted"}], "cures": ["up"], "verify": ["ready"]}
    results = []
    for _ in range(3):
        results.append(run(order(tmp_path, components=components, step=restart, budget=Budget(2, 0)), clock))
        clock.wait(120)
    assert [r.action["result"] for r in results] == ["failed", "failed", "skipped"]
    assert "restarted 2 times within the hour" in results[2].findings[0]["observed"]
    assert (tmp_path / "calls").read_text().count("restart app") == 2
    counted = json.loads((tmp_path / "state" / "memory" / "restarts.json").read_text())
    assert len(counted["app"]) == 2
    clock.wait(3600)
    run(order(tmp_path, components=components, step=restart, budget=Budget(2, 0)), clock)
    assert (tmp_path / "calls").read_text().count("restart app") == 3


def test_a_component_that_nobody_described_is_told(tmp_path: Path, clock: Clock) -> None:
    result = run(order(tmp_path, step={"acts": [{"component": "app", "state": "restarted"}]}), clock)
    assert "tracker_components does not say" in result.findings[0]["observed"]


def configured(tmp_path: Path, validate: str = "true") -> dict[str, Any]:
    (tmp_path / "app.env").write_text("PORT=8000\n")
    components = supervised(tmp_path, RUNNING)
    components["app"] |= {"config_files": [str(tmp_path / "app.env")], "validate": validate}
    runbook_good.keep_good(tmp_path / "state" / "memory" / "good" / "app", [str(tmp_path / "app.env")], 1.0)
    (tmp_path / "app.env").write_text("PORT=eighty\n")
    return components


def test_the_last_good_configuration_is_given_back(tmp_path: Path, clock: Clock) -> None:
    step = {"acts": [{"restore": "app"}, {"command": "touch $HERE/up"}]}
    components = configured(tmp_path, f"grep -q 8000 {tmp_path}/app.env")
    result = run(order(tmp_path, components=components, step=step), clock)
    assert result.action["result"] == "done" and (tmp_path / "app.env").read_text() == "PORT=8000\n"
    kept = list((tmp_path / "state" / "evidence" / "RUN").rglob("*"))
    assert any(path.is_file() and "eighty" in path.read_text() for path in kept), "the broken one is evidence"


def test_a_configuration_that_does_not_help_is_put_back(tmp_path: Path, clock: Clock) -> None:
    components = configured(tmp_path)
    result = run(order(tmp_path, components=components, step={"acts": [{"restore": "app"}]}), clock)
    assert result.action["result"] == "failed" and (tmp_path / "app.env").read_text() == "PORT=eighty\n"
    assert "as it was before" in result.findings[0]["observed"]


def test_a_good_configuration_that_its_validator_refuses_is_put_back(tmp_path: Path, clock: Clock) -> None:
    components = configured(tmp_path, "echo no such option; exit 1")
    result = run(order(tmp_path, components=components, step={"acts": [{"restore": "app"}]}), clock)
    assert "no such option" in result.findings[0]["observed"]
    assert (tmp_path / "app.env").read_text() == "PORT=eighty\n"


def test_without_a_good_configuration_nothing_is_touched(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "app.env").write_text("PORT=eighty\n")
    components = supervised(tmp_path, RUNNING)
    components["app"]["config_files"] = [str(tmp_path / "app.env")]
    result = run(order(tmp_path, components=components, step={"acts": [{"restore": "app"}]}), clock)
    assert "no other configuration" in result.findings[0]["observed"] and not result.changed


def test_without_evidence_nothing_is_done(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    result = run(order(tmp_path), clock)
    assert result.action["result"] == "skipped" and "no evidence" in result.findings[0]["observed"]
    assert not (tmp_path / "up").exists()
