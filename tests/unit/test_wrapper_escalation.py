"""Who is told when, by the records alone and a clock that the test turns."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes.services import Mail, PagerDuty, Slack
from runbook import escalation, notifiers
from runbook.catalog import Runbook
from runbook.escalation import Contact, Desk, Message, Policy, Rung, incident, key_of
from runbook.project import Project
from runbook.record import Action, AlertRef, Finding, Record, Remedy, Source, Store
from runbook.redact import shared
from runbook.schema import dump

START = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
BOOK = Runbook(role="service_down", slug="service-down", title="Service down", category="incident", severity="warning")
CONTACTS = {name: Contact(name.title(), f"fake://{name}") for name in ("oncall", "infra", "boss")}
RUNGS = [Rung("oncall"), Rung("infra", after_minutes=30), Rung("boss", after_minutes=60, severities=["critical"])]
POLICY = Policy(CONTACTS, RUNGS)


class World:
    """A store, a clock, and addresses that fail when told to."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.store.prepare()
        self.now = START
        self.broken: set[str] = set()
        self.sent: list[tuple[str, str, str]] = []
        self.desk = Desk(self.store, self.send, lambda: self.now)

    def send(self, url: str, message: Message) -> str:
        name = url.removeprefix("fake://")
        if name in self.broken:
            return "it answered 429 Too Many Requests"
        self.sent.append((name, message.event, message.key))
        return ""

    def run(self, minutes: float = 0, severity: str = "critical", **changes: Any) -> Record:
        self.now = START + timedelta(minutes=minutes)
        values: dict[str, Any] = {
            "runbook": "service-down", "title": "Service down", "project": Source("/x"), "state": "succeeded",
            "started": self.now, "ended": self.now, "hosts": ["app1"], "exit_code": 1, "inventory": ["/inv"],
            "findings": [Finding(id="app-ready", host="app1", title="The app is down", severity=severity)],
        }  # fmt: skip
        record = Record(**values | changes)
        record.id = f"{int(self.now.timestamp() * 1000):013d}{record.id[-13:]}"
        self.store.create(record)
        return record

    def healthy(self, minutes: float, **changes: Any) -> Record:
        return self.run(minutes, **{"findings": [], "exit_code": 0} | changes)

    def message(self, record: Record, event: Any, key: str = "") -> Message:
        return Message("title", "body", "critical", event, key or key_of(dump(record)))

    def trigger(self, record: Record, policy: Policy = POLICY) -> list[tuple[str, bool]]:
        matched = escalation.matching(policy, record, BOOK)
        sent = self.desk.trigger(record, policy, self.message(record, "trigger"), matched)
        return [(one.to, one.delivered) for one in sent]

    def resolve(self, record: Record) -> list[tuple[str, bool]]:
        sent = []
        for key in self.desk.concerned(record):
            sent += self.desk.resolve(record, POLICY, self.message(record, "resolve", key))
        return [(one.to, one.delivered) for one in sent]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_first_run_tells_the_first_rung_and_the_record_says_so(world: World) -> None:
    record = world.run()
    assert world.trigger(record) == [("oncall", True)]
    kept = world.store.load(record.id).escalated
    assert [(one.to, one.event, one.delivered, one.at) for one in kept] == [("oncall", "trigger", True, START)]
    assert record.escalated == kept


@pytest.mark.parametrize(
    ("minutes", "told"), [(29, []), (30, [("infra", True)]), (61, [("infra", True), ("boss", True)])]
)
def test_a_later_run_of_the_same_incident_climbs_and_tells_nobody_twice(
    world: World, minutes: float, told: list[Any]
) -> None:
    world.trigger(world.run())
    assert world.trigger(world.run(minutes)) == told


def test_time_alone_climbs_for_the_same_run(world: World) -> None:
    record = world.run()
    world.trigger(record)
    world.now = START + timedelta(minutes=31)
    assert world.trigger(record) == [("infra", True)]


def test_an_incident_begins_with_the_first_run_that_found_it_even_if_nobody_was_told(world: World) -> None:
    world.run()
    assert world.trigger(world.run(45)) == [("oncall", True), ("infra", True)]


def test_a_failure_falls_to_the_next_rung_and_no_further(world: World) -> None:
    world.broken = {"oncall"}
    record = world.run()
    assert world.trigger(record) == [("oncall", False), ("infra", True)]
    assert world.store.load(record.id).escalated[0].error == "it answered 429 Too Many Requests"


def test_failures_fall_through_all_rungs(world: World) -> None:
    world.broken = {"oncall", "infra"}
    assert world.trigger(world.run()) == [("oncall", False), ("infra", False), ("boss", True)]


def test_who_was_not_reached_is_tried_again_by_the_next_run(world: World) -> None:
    world.broken = {"oncall"}
    world.trigger(world.run())
    world.broken = set()
    assert world.trigger(world.run(5)) == [("oncall", True)]


def test_all_contacts_of_a_rung_are_told_and_one_failure_falls(world: World) -> None:
    world.broken = {"infra"}
    policy = Policy(CONTACTS, [Rung(["oncall", "infra"]), Rung("boss", after_minutes=60)])
    assert world.trigger(world.run(), policy) == [("oncall", True), ("infra", False), ("boss", True)]


def test_a_contact_without_an_address_counts_as_a_failure(world: World) -> None:
    policy = Policy({"oncall": Contact("On-call", ""), "infra": CONTACTS["infra"]}, RUNGS[:2])
    record = world.run()
    assert world.trigger(record, policy) == [("oncall", False), ("infra", True)]
    assert "no address" in record.escalated[0].error


def test_recovery_resolves_once_with_the_same_key_and_only_who_was_reached(world: World) -> None:
    world.broken = {"oncall"}
    world.trigger(world.run())
    world.broken = set()
    assert world.resolve(world.healthy(10)) == [("infra", True)]
    assert world.resolve(world.healthy(20)) == []
    (first, second) = world.sent
    assert (first[:2], second[:2]) == (("infra", "trigger"), ("infra", "resolve"))
    assert first[2] == second[2]


def test_a_resolve_that_did_not_arrive_is_tried_again(world: World) -> None:
    world.trigger(world.run())
    world.broken = {"oncall"}
    assert world.resolve(world.healthy(10)) == [("oncall", False)]
    world.broken = set()
    assert world.resolve(world.healthy(20)) == [("oncall", True)]


def test_an_incident_after_the_recovery_starts_at_the_first_rung(world: World) -> None:
    world.trigger(world.run())
    world.resolve(world.healthy(10))
    assert world.trigger(world.run(100)) == [("oncall", True)]


def test_after_a_resolve_that_nobody_had_to_hear_the_next_incident_is_new(world: World) -> None:
    record = world.run(alerts=[AlertRef("ServiceDown", "ab12")])
    message = world.message(record, "resolve")
    assert [one.to for one in world.desk.resolve(record, POLICY, message)] == [""]
    assert world.trigger(world.run(100, alerts=[AlertRef("ServiceDown", "ab12")])) == [("oncall", True)]


def test_a_run_that_told_nobody_is_over_with_its_incident(world: World) -> None:
    first = world.run()
    world.trigger(first)
    assert world.trigger(world.run(5)) == []
    world.now = START + timedelta(minutes=20)
    world.desk.resolve(first, POLICY, world.message(first, "resolve"))
    assert world.trigger(world.run(100)) == [("oncall", True)]


def test_an_incident_that_nobody_heard_of_ends_with_a_run_that_tells_nobody(world: World) -> None:
    world.broken = set(CONTACTS)
    world.trigger(world.run())
    world.healthy(10)
    world.broken = set()
    assert world.trigger(world.run(100)) == [("oncall", True)]


def test_a_recovery_on_more_hosts_covers_the_incident_and_one_elsewhere_does_not(world: World) -> None:
    world.trigger(world.run())
    assert world.resolve(world.healthy(5, hosts=["app2"])) == []
    assert world.resolve(world.healthy(6, runbook="other", hosts=["app1"])) == []
    assert world.resolve(world.healthy(7, hosts=["app1", "app2"])) == [("oncall", True)]


# A clock that is set between two runs; the ids of records, and so their order, follow it


def test_a_clock_that_goes_back_during_a_run_does_not_keep_the_first_rung_from_being_told(world: World) -> None:
    record = world.run(60)
    world.now = START
    assert world.trigger(record) == [("oncall", True)]


@pytest.mark.parametrize("jump", [-3 * 24 * 60, -61, 0, 61, 3 * 24 * 60])
def test_a_clock_that_jumps_tells_nobody_twice(world: World, jump: float) -> None:
    told = world.trigger(world.run()) + world.trigger(world.run(jump)) + world.trigger(world.run(5))
    names = [name for name, _ in told]
    assert names[0] == "oncall" and sorted(set(names)) == sorted(names)
    assert ("boss" in names) == (jump >= 60), "going back makes nothing older"


@pytest.mark.parametrize("jump", [-3 * 24 * 60, -61, 0, 61, 3 * 24 * 60])
def test_a_recovery_under_a_clock_that_jumped_is_one(world: World, jump: float) -> None:
    world.trigger(world.run())
    assert world.resolve(world.healthy(jump)) == [("oncall", True)]
    assert world.resolve(world.healthy(jump + 1)) == []
    assert world.trigger(world.run(10)) == [("oncall", True)], "a new incident"
    assert world.trigger(world.run(12)) == []
    assert world.resolve(world.healthy(13)) == [("oncall", True)]


def test_a_recovery_under_a_clock_that_went_back_makes_the_next_incident_no_older(world: World) -> None:
    world.trigger(world.run())
    world.resolve(world.healthy(-61))
    assert world.trigger(world.run(31)) == [("oncall", True)]


def test_what_was_told_under_a_clock_too_far_ahead_does_not_silence_the_next_incident(world: World) -> None:
    world.trigger(world.run())
    ahead = world.trigger(world.run(2 * 24 * 60))
    assert ahead == [("infra", True), ("boss", True)]
    assert len(world.resolve(world.healthy(20))) == 3
    world.trigger(world.run(30))
    assert world.trigger(world.run(61)) == [("infra", True)]


def test_an_alert_is_the_key_whatever_the_hosts(world: World) -> None:
    alert = [AlertRef("ServiceDown", "ab12")]
    record = world.run(alerts=alert)
    assert key_of(dump(record)) == "alert:ab12"
    world.trigger(record)
    assert world.resolve(world.healthy(5, hosts=["app1"])) == []
    assert world.resolve(world.healthy(6, alerts=alert, hosts=["app9"])) == [("oncall", True)]


def test_a_check_run_neither_begins_nor_ends_an_incident(world: World) -> None:
    world.run(check=True)
    assert world.trigger(world.run(90)) == [("oncall", True)]
    assert world.desk.concerned(world.healthy(95, check=True)) != []  # after_run never asks for a check
    assert not escalation.recovered(dump(world.healthy(96, check=True)))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"check": True}, False),
        ({"findings": []}, False),
        ({"findings": [Finding(severity="info")]}, False),
        ({"findings": [], "state": "failed"}, True),
        ({"findings": [], "state": "unreachable"}, True),
        ({"findings": [], "state": "timed_out"}, True),
        ({"findings": [], "state": "refused", "exit_code": 3}, True),
        ({"findings": [], "state": "refused", "exit_code": 5}, False),
        ({"findings": [], "state": "refused", "exit_code": 5, "alerts": [AlertRef("A", "ab")]}, True),
        ({"state": "cancelled"}, False),
    ],
)
def test_what_somebody_has_to_know(world: World, changes: dict[str, Any], expected: bool) -> None:
    assert escalation.in_trouble(dump(world.run(**changes))) is expected


@pytest.mark.parametrize(
    ("category", "severity", "expected"),
    [
        ("incident", "warning", False), ("troubleshooting", "warning", False), ("maintenance", "warning", True),
        ("tool", "warning", True), ("maintenance", "critical", False),
    ],
)  # fmt: skip
def test_maintenance_is_quiet_without_a_critical_finding(
    world: World, category: Any, severity: str, expected: bool
) -> None:
    book = Runbook(role="x", slug="x", title="X", category=category)
    assert escalation.quiet(world.run(severity=severity), book) is expected
    assert escalation.quiet(world.run(state="failed", severity=severity), book) is (category == "tool"), (
        "it was not done"
    )


@pytest.mark.parametrize(
    ("changes", "joins"),
    [
        ({}, True), ({"hosts": ["app1", "app2"]}, True), ({"hosts": [], "state": "refused"}, True),
        ({"hosts": ["other"]}, False), ({"runbook": "performance-issues"}, False),
        ({"hosts": [], "state": "unreachable", "inventory": ["/other"]}, False),
    ],
)  # fmt: skip
def test_a_run_by_hand_joins_what_an_alert_has_opened(world: World, changes: dict[str, Any], joins: bool) -> None:
    alert = AlertRef("ServiceDown", "0123456789abcdef")
    assert world.trigger(world.run(alerts=[alert])) != []
    by_hand = world.run(1, **changes)
    assert world.desk.key_for(by_hand) == ("alert:0123456789abcdef" if joins else key_of(dump(by_hand)))
    other = world.run(2, alerts=[AlertRef("ServiceDown", "fedcba9876543210")])
    assert world.desk.key_for(other) == "alert:fedcba9876543210", "another alert is another incident"


def test_rungs_match_severity_category_and_labels(world: World) -> None:
    rungs = [
        Rung("oncall", severities=["critical"]), Rung("infra", categories=["maintenance"]),
        Rung("boss", labels={"team": ["security", "sre"]}), Rung("oncall", after_minutes=5),
    ]  # fmt: skip
    policy = Policy(CONTACTS, rungs)
    record = world.run(severity="warning", alerts=[AlertRef("A", "ab", labels={"team": "sre"})])
    assert escalation.matching(policy, record, BOOK) == [rungs[2], rungs[3]]
    assert escalation.matching(policy, world.run(), BOOK) == [rungs[0], rungs[3]]


def test_severity_is_the_worst_of_findings_and_alert(world: World) -> None:
    alert = AlertRef("A", "ab", labels={"severity": "critical"})
    assert escalation.severity_of(world.run(severity="warning"), BOOK) == "warning"
    assert escalation.severity_of(world.run(severity="warning", alerts=[alert]), BOOK) == "critical"
    assert escalation.severity_of(world.run(findings=[], state="failed"), BOOK) == "warning"
    assert escalation.severity_of(world.run(alerts=[AlertRef("A", labels={"severity": "odd"})]), BOOK) == "critical"


def test_a_message_tells_root_first_what_was_tried_and_what_next_within_bounds(world: World) -> None:
    shared().learn("messagecanary77")
    findings = [Finding(id="app-ready", host="app1", title="The app is down", severity="critical", rank=2,
                        cause="app1/disk", observed="connection refused"),
                Finding(id="disk", host="app1", title="The disk is full", severity="warning", rank=1,
                        evidence="df messagecanary77 \x1b[2J" + "x" * 5000)]  # fmt: skip
    actions = [Action(step="free-disk", host="app1", subject="/", reason="disk full", result="failed")]
    record = world.run(findings=findings, actions=actions, plan=[Remedy("free-disk", host="app1")], fix="change")
    told = escalation.compose(record, BOOK, "trigger", "k", "it still fires\nafter 15 min")
    assert told.title == "[critical] Service down: The disk is full on app1"
    lines = told.body.splitlines()
    assert [line for line in lines if line.startswith("- ")] == [
        "- root cause, warning: The disk is full, on app1",
        "- critical: The app is down, on app1: connection refused (follows from app1/disk)",
    ]
    assert "Why you are told: it still fires after 15 min" in lines
    assert any(line.startswith("Tried: free-disk / on app1: failed") for line in lines)
    assert any(line.startswith("Next: runbook ") for line in lines)
    assert any(record.id in line for line in lines)
    assert "messagecanary77" not in told.body and "\x1b" not in told.body
    assert len(told.body) < 3000


def test_recovered_says_so(world: World) -> None:
    told = escalation.compose(world.healthy(5), BOOK, "resolve", "k", "")
    assert told.title == "[recovered] Service down on app1"
    assert "Tried" not in told.body


def test_a_record_of_a_later_version_does_not_hide_an_incident() -> None:
    data = {"runbook": "x", "hosts": ["a"], "state": "failed", "started": "2026-03-01T10:00:00+00:00", "new": 1}
    assert incident([data], key_of(data)).since == START


# What leaves this machine


def send(url: str, event: str = "trigger", severity: str = "critical") -> str:
    return notifiers.deliver(url, "title <!channel>", "body & <x|y>", severity, event, "alert:ab12")


def test_pagerduty_gets_one_key_for_trigger_and_resolve() -> None:
    with PagerDuty() as duty:
        assert (send(duty.url()), send(duty.url(), "resolve")) == ("", "")
        first, second = duty.events
    assert (first["event_action"], second["event_action"]) == ("trigger", "resolve")
    assert {first["dedup_key"], second["dedup_key"]} == {"alert:ab12"}
    assert first["routing_key"] == "pagerdutycanary0001"
    assert (first["payload"]["severity"], first["payload"]["summary"]) == ("critical", "title <!channel>")
    assert first["payload"]["custom_details"]["message"] == "body & <x|y>"


def test_slack_reads_no_markup_in_what_hosts_said() -> None:
    with Slack() as slack:
        assert send(slack.url()) == ""
        assert slack.texts == ["*title &lt;!channel&gt;*\nbody &amp; &lt;x|y&gt;"]
        assert slack.requests[0][1] == "/services/T0001/B0001/slackcanary0002"


def test_mail_goes_through_apprise_itself() -> None:
    with Mail() as mail:
        assert send(mail.url()) == ""
    (message,) = mail.messages
    assert message["To"] == "security@example.com"
    assert "title" in str(message["Subject"])


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (429, "it answered 429 Too Many Requests"), (500, "it answered 500 Internal Server Error"),
        (302, "it answered 302 Found"), (599, "it answered 599"), ("hang", "it did not answer in time"),
    ],
)  # fmt: skip
def test_why_it_was_not_delivered_is_told_without_the_address(answer: Any, told: str) -> None:
    with PagerDuty() as duty, Slack() as slack:
        duty.answers, slack.answers = [answer], [answer]
        assert (send(duty.url()), send(slack.url())) == (told, told)


def test_apprise_s_own_services_tell_a_status_and_nothing_of_their_address() -> None:
    with PagerDuty() as duty:
        duty.answers = [429]
        told = send(f"json://user:jsoncanary0003@127.0.0.1:{duty.port}/jsonpathcanary0004")
    assert told == "it answered 429 Too Many Requests"


def test_a_service_that_is_down_cannot_be_reached() -> None:
    with Slack() as slack:
        url = slack.url()
    assert send(url) == "it cannot be reached"


@pytest.mark.parametrize(
    "url",
    [
        "nonsense", "nosuchscheme://x", "pagerdutyevents://events.pagerduty.com",
        "pagerdutyevents://key12345678@events.pagerduty.com/?tls=no", "slackwebhook://hooks.slack.com/services/x?tls=no",
    ],
)  # fmt: skip
def test_an_address_that_is_none_or_would_go_in_clear_is_refused(url: str) -> None:
    assert send(url) == "its address is not valid"


def test_nothing_of_an_address_is_logged_or_shown(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with PagerDuty() as duty:
        duty.answers = [500]
        send(f"json://user:jsoncanary0003@127.0.0.1:{duty.port}/jsonpathcanary0004")
    send("mailto://mailcanary0005:mailpasswordcanary@127.0.0.1:1?to=x@example.com&from=y@example.com")
    assert "canary" not in "".join(capfd.readouterr())
    assert caplog.records == []


@pytest.mark.parametrize(
    ("url", "secrets", "words"),
    [
        ("json://user:short@10.0.0.1/jsonpathcanary0004", ["short", "jsonpathcanary0004"], ["user", "10.0.0.1"]),
        ("slackwebhook://hooks.slack.com/services/T0001/B0001/abc12345", ["abc12345"], ["services", "hooks.slack.com"]),
        ("pagerduty://0123456789abcdef@apikeyapikeyapikeyapikey", ["0123456789abcdef", "apikeyapikeyapikeyapikey"], []),
        ("mailto://alerts@example.com?to=security@example.com", [], ["alerts", "example.com"]),
        ("json://x/?token=a%2F123456789", ["a/123456789"], []),
    ],
)
def test_parts_of_an_address_that_look_like_keys_are_secrets(url: str, secrets: list[str], words: list[str]) -> None:
    found = escalation.secrets_of(url)
    assert set(secrets) <= set(found) and url in found
    assert not set(words) & set(found)


def test_the_limit_holds_for_a_server_that_trickles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifiers, "LIMIT_SECONDS", 0.2)
    with PagerDuty() as duty:
        duty.answers = ["hang"]
        assert send(duty.url().replace("rto=2", "rto=60")) == "it did not answer within 0.2 s"


def test_the_index_of_what_is_open_holds_no_address(world: World) -> None:
    world.trigger(world.run())
    (path,) = (world.store.root / "incidents").glob("*.json")
    assert "fake://" not in path.read_text()
    assert json.loads(path.read_text())["hosts"] == ["app1"]


def test_where_the_run_saw_that_nobody_is_told_the_inventory_is_not_asked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: Any) -> None:
        raise LookupError("asked")

    monkeypatch.setattr(escalation, "Catalog", asked)
    said: dict[Any, list[str]] = {False: [], None: []}
    for tells, lines in said.items():
        escalation.after_run(Project(Path("/x")), world.store, world.run(tells=tells), lines.append, world.desk)
    assert said == {False: [], None: ["Nobody could be told of this run: LookupError: asked"]}
