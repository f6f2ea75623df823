"""From a run to whoever is told: real commands, real messages to stand-ins on loopback."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes.services import Alertmanager as SilenceFake
from fakes.services import Mail, PagerDuty, Slack
from runbook.alertmanager import Alertmanager
from support.monitoring import Alertmanager as RealAlertmanager

from .conftest import REPO, Done, Runbook, finish, until

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
            for one, name in [
                (data, "started"),
                *((sent, key) for sent in data["escalated"] for key in ("at", "since")),
            ]:
                one[name] = (datetime.fromisoformat(one[name]) - timedelta(minutes=minutes)).isoformat()
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


# Silences


def alert_of(folder: Path, **labels: str) -> str:
    path = folder / "alert.json"
    path.write_text(
        json.dumps([{"labels": {"alertname": "ServiceDown", **labels}, "startsAt": "2026-03-01T10:00:00Z"}])
    )
    return str(path)


@pytest.fixture
def quiet(runbook: Runbook) -> Iterator[SilenceFake]:
    with SilenceFake([{"alertname": "ServiceDown", "instance": "app1"}]) as manager:
        runbook.env["RUNBOOK_ALERTMANAGER"] = manager.address
        yield manager


def test_a_run_is_silenced_and_the_record_links_alert_silence_and_run(runbook: Runbook, quiet: SilenceFake) -> None:
    alert = alert_of(runbook.root, instance="app1")
    done = runbook.run("healthy", "--silence", "--alert", alert, "--reason", "looking", "--ticket", "INC-7")
    assert done.code == 0, done.err
    (name,) = quiet.silences
    assert quiet.deleted == [name]
    record = runbook.record
    assert record["silence"] == f"{quiet.address}/#/silences/{name}"
    assert record["alerts"][0]["name"] == "ServiceDown"
    assert "could not" not in str(record["notes"])
    assert quiet.silences[name]["comment"] == f"runbook run {record['id']} of healthy: looking (INC-7)"
    report = runbook("runs", "report", "last").out
    assert all(text in report for text in ("ServiceDown", record["silence"], record["id"]))
    assert "(1 alert now)" in done.err


@pytest.mark.parametrize(
    ("slug", "arguments", "code"),
    [("broken", [], 2), ("slow", ["--timeout", "4", "--set", "slow_started=/dev/null"], 124)],
)
def test_a_silence_ends_with_a_run_that_fails(
    runbook: Runbook, quiet: SilenceFake, slug: str, arguments: list[str], code: int
) -> None:
    done = runbook.run(slug, *arguments, "--silence", "--silence-matcher", "instance=app1")
    assert done.code == code, done.err
    assert len(quiet.silences) == len(quiet.deleted) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_silence_ends_with_a_run_that_is_stopped(
    runbook: Runbook, quiet: SilenceFake, number: signal.Signals
) -> None:
    started = runbook.root / "slow-started"
    arguments = ["--set", f"slow_started={started}", "--silence", "--silence-matcher", "instance=app1"]
    process = runbook.start("run", "slow", "-i", "one.yml", *arguments)
    until(started.exists)
    assert (len(quiet.silences), quiet.deleted) == (1, [])
    process.send_signal(number)
    done = finish(process)
    assert done.code == 130, done.err
    assert quiet.deleted == list(quiet.silences)


def test_a_silence_is_opened_before_anything_else_and_a_signal_meanwhile_ends_it(
    runbook: Runbook, quiet: SilenceFake
) -> None:
    quiet.answers = ["hang"]
    process = runbook.start("run", "healthy", "-i", "one.yml", "--silence", "--silence-matcher", "instance=app1")
    until(lambda: quiet.requests)
    assert runbook.records() == []
    process.send_signal(signal.SIGTERM)
    quiet.release()
    done = finish(process)
    assert (done.code, runbook.record["state"]) == (130, "cancelled"), done.err
    assert quiet.deleted == list(quiet.silences)


def test_a_check_opens_no_silence(runbook: Runbook, quiet: SilenceFake) -> None:
    assert runbook.run("healthy", "--check", "--silence", "--silence-matcher", "instance=app1").code == 6
    assert quiet.requests == []


def test_a_silence_that_cannot_be_ended_is_said_and_noted(runbook: Runbook, quiet: SilenceFake) -> None:
    quiet.answers = [None, None, 503]
    done = runbook.run("healthy", "--silence", "--silence-matcher", "instance=app1")
    assert done.code == 0, done.err
    assert done.err.count("could not be ended") == 1
    assert "could not be ended" in runbook.record["notes"][-1]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--silence-max", "1", "--silence-matcher", "alertname=Many"], 5, "would hit 2 alerts, more than 1: Many."),
        (["--alertmanager", "http://127.0.0.1:1", "--silence-matcher", "a=b"], 4, "does not answer"),
        ([], 5, "nothing to silence"),
    ],
)
def test_a_silence_that_cannot_be_opened_ends_the_run_before_it_begins(
    runbook: Runbook, quiet: SilenceFake, arguments: list[str], code: int, told: str
) -> None:
    quiet.alerts += [{"alertname": "Many", "instance": f"app{n}"} for n in range(2)]
    started = runbook.root / "slow-started"
    done = runbook.run("slow", "--set", f"slow_started={started}", "--silence", *arguments)
    assert (done.code, told in done.err) == (code, True), done.err
    assert (started.exists(), runbook.records(), runbook.private(), quiet.silences) == (False, [], [], {})


def test_a_real_alertmanager_is_silenced_while_the_run_lasts(runbook: Runbook, tmp_path: Path) -> None:
    with RealAlertmanager(tmp_path / "alertmanager") as manager:
        labels = {"alertname": "ServiceDown", "job": 'a "job"\\n|x'}
        manager.fire(**labels, instance="app1:8000", severity="critical")
        manager.fire(**labels, instance="app2.example", severity="critical")
        manager.fire(alertname="Other", instance="app1:8000")
        path = runbook.root / "alert.json"
        path.write_text(json.dumps([one for one in manager.alerts() if one["labels"]["alertname"] == "ServiceDown"]))
        started = runbook.root / "slow-started"
        arguments = ["--silence", "--alertmanager", manager.address, "--alert", str(path), "--reason", "it is däwn"]
        process = runbook.start("run", "slow", "-i", "one.yml", "--set", f"slow_started={started}", *arguments)
        until(started.exists)
        until(lambda: Counter(one["status"]["state"] for one in manager.alerts()) == {"suppressed": 2, "active": 1})
        (silence,) = manager.silences()
        assert silence["status"]["state"] == "active"
        assert silence["comment"] == f"runbook run {runbook.record['id']} of slow: it is däwn"
        identified = runbook("identify", "--json", RUNBOOK_ALERTMANAGER=manager.address)
        assert [one["asked"] for one in identified.document] == ["Other"]
        process.send_signal(signal.SIGTERM)
        done = finish(process)
        assert (done.code, runbook.record["notes"]) == (130, []), done.err
        assert "(2 alerts now)" in done.err
        assert manager.silences()[0]["status"]["state"] == "expired"
        until(lambda: {one["status"]["state"] for one in manager.alerts()} == {"active"})
        assert runbook.record["silence"].endswith(silence["id"])
        Alertmanager(manager.address).expire(silence["id"])  # once more, as when a person was faster
        narrow = ["--silence-matcher", "instance=app1:8000", "--silence-max", "1"]
        refused = runbook.run("healthy", "--silence", *narrow, RUNBOOK_ALERTMANAGER=manager.address)
        assert (refused.code, "would hit 2 alerts" in refused.err) == (5, True), refused.err
        assert len(manager.silences()) == 1
