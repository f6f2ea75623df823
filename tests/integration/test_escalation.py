"""From a run to whoever is told: real commands, real messages to stand-ins on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes.services import Mail, PagerDuty, Slack

from .conftest import REPO, Done, Runbook, until

CANARIES = ("pagerdutycanary", "slackcanary", "evidencecanary")


class Office:
    """The people of an inventory, and what reached them."""

    def __init__(self, runbook: Runbook, duty: PagerDuty, slack: Slack, mail: Mail) -> None:
        self.runbook, self.duty, self.slack, self.mail = runbook, duty, slack, mail
        self.contacts = {
            "oncall": {"title": "On-call engineer", "url": duty.url()},
            "infra": {"title": "Infrastructure team", "url": slack.url()},
            "boss": {"title": "Management", "url": mail.url("boss@example.com")},
        }
        self.rungs: list[dict[str, Any]] = [
            {"to": "oncall"}, {"to": "infra", "after_minutes": 30}, {"to": "boss", "after_minutes": 60},
        ]  # fmt: skip

    def run(self, *arguments: str, slug: str = "shaky") -> Done:
        return self.runbook.run(slug, *arguments, inventory=str(self.inventory()))

    def inventory(self) -> Path:
        path = self.runbook.root / "people.yml"
        host = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
        everywhere = {"tracker_contacts": self.contacts, "tracker_escalation": self.rungs}
        path.write_text(json.dumps({"all": {"vars": everywhere, "hosts": {"here": host}}}))
        return path

    def age(self, minutes: float) -> None:
        """Let all that happened have happened so long ago."""
        for path in self.runbook.state.glob("runs/*/run.json"):
            data = json.loads(path.read_text())
            data["started"] = (datetime.fromisoformat(data["started"]) - timedelta(minutes=minutes)).isoformat()
            path.write_text(json.dumps(data))

    def told(self) -> list[list[tuple[str, str, bool]]]:
        return [[(e["to"], e["event"], e["delivered"]) for e in r["escalated"]] for r in self.runbook.records()]


@pytest.fixture
def office(runbook: Runbook) -> Iterator[Office]:
    with PagerDuty() as duty, Slack() as slack, Mail() as mail:
        yield Office(runbook, duty, slack, mail)


def test_open_findings_are_told_and_the_recovery_resolves_the_same_incident(office: Office) -> None:
    first = office.run()
    assert first.code == 1, first.err
    assert "Escalation: oncall was told." in first.err
    second = office.run("--set", "shaky_open=false")
    assert second.code == 0, second.err
    third = office.run("--set", "shaky_open=false")
    assert third.code == 0, third.err
    trigger, resolve = office.duty.events
    assert (trigger["event_action"], resolve["event_action"]) == ("trigger", "resolve")
    assert trigger["dedup_key"] == resolve["dedup_key"]
    assert trigger["payload"]["summary"] == "[critical] Shaky: It shakes on here"
    assert office.told() == [[("oncall", "trigger", True)], [("oncall", "resolve", True)], []]
    assert (office.slack.texts, office.mail.messages) == ([], [])


def test_a_second_run_climbs_when_the_incident_is_old_enough(office: Office) -> None:
    office.run()
    office.age(61)
    done = office.run()
    assert done.code == 1, done.err
    assert office.told() == [[("oncall", "trigger", True)], [("infra", "trigger", True), ("boss", "trigger", True)]]
    assert [event["event_action"] for event in office.duty.events] == ["trigger"]
    assert "It shakes" in office.slack.texts[0]


def test_pagerduty_429_falls_to_slack_and_only_slack_hears_of_the_recovery(office: Office) -> None:
    office.duty.answers = [429]
    done = office.run()
    assert done.code == 1
    assert "Escalation: oncall was not told: it answered 429 Too Many Requests." in done.err
    office.run("--set", "shaky_open=false")
    assert office.told() == [[("oncall", "trigger", False), ("infra", "trigger", True)], [("infra", "resolve", True)]]
    assert len(office.duty.events) == 1
    assert office.slack.texts[1].startswith("*[recovered] Shaky on here*")


def test_slack_down_falls_to_mail(office: Office) -> None:
    office.rungs = [{"to": "infra"}, {"to": "boss", "after_minutes": 60}]
    office.slack.close()
    done = office.run()
    assert done.code == 1
    assert office.told() == [[("infra", "trigger", False), ("boss", "trigger", True)]]
    assert office.mail.messages[0]["To"] == "boss@example.com"
    error = office.runbook.record["escalated"][0]["error"]
    assert error == "it cannot be reached"


def test_nobody_reached_changes_no_exit_code_and_is_said_loudly(office: Office) -> None:
    office.duty.answers, office.rungs = [500], [{"to": "oncall"}]
    done = office.run()
    assert done.code == 1
    assert "nobody could be told" in done.err


@pytest.mark.parametrize("arguments", [["--check"], ["--quiet-escalation"]])
def test_a_check_and_a_quiet_run_tell_nobody(office: Office, arguments: list[str]) -> None:
    office.run(*arguments)
    assert (office.duty.events, office.told()) == ([], [[]])


def test_maintenance_without_a_critical_finding_tells_nobody(office: Office) -> None:
    assert office.run(slug="untidy").code == 1
    assert office.duty.events == []


@pytest.mark.parametrize(
    ("slug", "arguments", "code"),
    [
        ("broken", [], 2), ("guarded", ["--set", "guarded_outcome=refused"], 3),
        ("guarded", ["--set", "guarded_outcome=unreachable"], 4),
    ],
)  # fmt: skip
def test_a_run_that_fails_is_told(office: Office, slug: str, arguments: list[str], code: int) -> None:
    assert office.run(*arguments, slug=slug).code == code
    assert [event["event_action"] for event in office.duty.events] == ["trigger"]


def test_the_command_climbs_and_resolves(office: Office) -> None:
    office.run()
    run_id = office.runbook.record["id"]
    nothing = office.runbook("escalate", run_id, "--why", "still firing")
    assert (nothing.code, "Nobody is due" in nothing.err) == (0, True), nothing.err
    office.age(31)
    climbed = office.runbook("escalate", run_id, "--event", "trigger", "--why", "still firing after the fix")
    assert climbed.code == 0, climbed.err
    assert "Why you are told: still firing after the fix" in office.slack.texts[0]
    over = office.runbook("escalate", run_id, "--event", "resolve", "--why", "the alert is resolved")
    assert over.code == 0, over.err
    again = office.runbook("escalate", run_id, "--event", "resolve", "--why", "the alert is resolved")
    assert (again.code, "nobody was told" in again.err) == (0, True), again.err
    assert [event["event_action"] for event in office.duty.events] == ["trigger", "resolve"]
    assert len({event["dedup_key"] for event in office.duty.events}) == 1
    assert len(office.slack.texts) == 2


def test_the_command_fails_when_nobody_could_be_told(office: Office) -> None:
    office.run("--quiet-escalation")
    office.rungs = [{"to": "oncall"}]
    office.duty.answers = [500]
    office.inventory()
    assert office.runbook("escalate", "last", "--why", "x").code == 2


def test_the_command_takes_another_inventory_and_leaves_the_record_s(office: Office) -> None:
    office.runbook.run("shaky", "--quiet-escalation")
    before = office.runbook.record["inventory"]
    done = office.runbook("escalate", "last", "--why", "x", "-i", str(office.inventory()))
    assert (done.code, len(office.duty.events)) == (0, 1), done.err
    assert office.runbook.record["inventory"] == before


def test_a_run_still_at_work_is_left_alone(office: Office, tmp_path: Path) -> None:
    started = tmp_path / "slow-started"
    office.runbook.start("run", "slow", "-i", str(office.inventory()), "--set", f"slow_started={started}")
    until(started.exists)
    done = office.runbook("escalate", "last", "--why", "x")
    assert (done.code, "still at work" in done.err) == (5, True), done.err


def test_one_missing_secret_does_not_silence_the_others(office: Office) -> None:
    office.contacts["oncall"]["url"] = "{{ vault_that_nobody_set }}"
    done = office.run()
    assert done.code == 1
    assert office.told() == [[("oncall", "trigger", False), ("infra", "trigger", True)]]
    assert "has no address" in done.err


def test_a_policy_that_cannot_be_read_is_noted(office: Office) -> None:
    office.rungs = [{"whom": "oncall"}]
    done = office.run()
    assert done.code == 1
    assert "tracker_escalation is wrong" in done.err
    assert "tracker_escalation is wrong" in office.runbook.record["notes"][-1]


@pytest.mark.parametrize(
    ("rung", "told"),
    [
        ({"to": "oncal"}, 'names "oncal", which is no contact (did you mean oncall?)'),
        ({"to": "oncall", "after_minutes": "soon"}, 'after_minutes is "soon", no number'),
    ],
)  # fmt: skip
def test_a_policy_that_does_not_hold_is_refused_before_the_host_is_looked_at(
    office: Office, rung: dict[str, Any], told: str
) -> None:
    office.rungs = [rung]
    hosts = json.loads(office.inventory().read_text())["all"]
    state = office.runbook.root / "on-the-host"
    hosts["vars"] |= {"runbook_state_dir": str(state), "tracker_become": False, "tracker_parts": ["app"]}
    path = office.runbook.root / "real.yml"
    path.write_text(json.dumps({"all": {"vars": hosts["vars"], "children": {"app": {"hosts": hosts["hosts"]}}}}))
    done = office.runbook("run", "service-down", "-i", str(path), "--fix", RUNBOOK_PROJECT=str(REPO))
    assert (done.code, told in done.err) == (5, True), done.err
    assert (office.runbook.record["state"], office.runbook.record["exit_code"]) == ("refused", 5)
    assert not state.exists()
    assert office.duty.events == []


def test_no_secret_is_written_printed_or_sent(office: Office) -> None:
    office.duty.answers = [429]
    printed = [office.run("-vv"), office.runbook("escalate", "last", "--why", "slackcanary0002 is not working")]
    printed += [office.run("--json", "--set", "shaky_open=false")]
    printed += [office.runbook("runs", "show", "last", "--json"), office.runbook("runs", "report", "last")]
    assert len(office.slack.texts) == 2
    said = "".join(done.out + done.err for done in printed)
    assert [canary for canary in CANARIES if canary in said] == []
    sent = json.dumps([office.slack.texts, [event["payload"] for event in office.duty.events]])
    assert [canary for canary in CANARIES if canary in sent] == []
    kept = {
        path: path.read_bytes().decode(errors="replace") for path in office.runbook.root.rglob("*") if path.is_file()
    }
    kept.pop(office.runbook.root / "people.yml")
    assert {str(path): canary for path, text in kept.items() for canary in CANARIES if canary in text} == {}
    assert office.runbook.private() == []


def test_a_run_that_has_nothing_to_tell_does_not_read_the_inventory_again(office: Office) -> None:
    office.contacts["oncall"]["url"] = (
        "{{ lookup('ansible.builtin.pipe', 'touch " + str(office.runbook.root) + "/read') }}"
    )
    assert office.run("--set", "shaky_open=false").code == 0
    assert not (office.runbook.root / "read").exists()
    office.run()
    assert (office.runbook.root / "read").exists()
