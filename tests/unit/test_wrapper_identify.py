"""From alerts and words to runbooks: what is known, what is guessed, and a command line that holds no surprise."""

from __future__ import annotations

import json
import shlex
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runbook.alerts import Alert
from runbook.cli import cli
from runbook.errors import BadInput
from runbook.identify import Router, load_table, tokens
from runbook.project import Project

RUNBOOK = """
slug: {slug}
title: {title}
category: {category}
mode: {mode}
severity: critical
response_time: soon
alerts: {alerts}
symptoms: {symptoms}
"""


def role(root: Path, slug: str, title: str, alerts: Sequence[dict[str, Any]] = (), **changes: Any) -> None:
    folder = root / "roles" / slug.replace("-", "_") / "meta"
    folder.mkdir(parents=True, exist_ok=True)
    values = {"category": "incident", "mode": "diagnose", "symptoms": []} | changes
    text = RUNBOOK.format(slug=slug, title=title, alerts=json.dumps(list(alerts)), **values)
    (folder / "runbook.yml").write_text(text)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    (root / "playbooks").mkdir()
    role(root, "service-down", "Service down", [{"name": "ServiceDown", "why": "It is down"}])
    full = {"name": "DiskSpaceRunningLow", "labels": {"category": "storage"}, "why": "The tables"}
    maintained = {"category": "maintenance", "mode": "maintain"}
    role(
        root, "database-maintenance", "Database maintenance", [full], **maintained, symptoms='["Queries become slower"]'
    )
    role(root, "backup-recovery", "Backup and recovery", **maintained)
    logs = {"name": "DiskSpaceRunningLow", "labels": {"category": "storage", "instance": "log1"}, "why": "The logs"}
    role(root, "log-cleaning", "Log cleaning", [logs, {"name": "LogsGrow"}])
    return root


@pytest.fixture(scope="module")
def router(root: Path) -> Router:
    return Router(Project(root))


def alert(name: str, url: str = "", summary: str = "", **labels: str) -> Alert:
    annotations = {"runbook_url": url, "summary": summary}
    return Alert(name, "firing", {"alertname": name} | labels, annotations, "2026-03-01T10:00:00+00:00", "", "ab")


def test_the_catalogue_routes_what_it_names(router: Router) -> None:
    answer = router.alert(alert("ServiceDown"))
    assert (answer.runbook, answer.why, answer.how, answer.exists) == ("service-down", "It is down", "alert", True)
    assert (answer.severity, answer.response_time) == ("critical", "5 minutes")


def test_the_route_that_asks_for_more_labels_wins(router: Router) -> None:
    assert router.alert(alert("DiskSpaceRunningLow", category="storage")).runbook == "database-maintenance"
    assert router.alert(alert("DiskSpaceRunningLow", category="storage", instance="log1")).runbook == "log-cleaning"


def test_the_catalogue_comes_before_the_table(tmp_path: Path) -> None:
    (tmp_path / "playbooks").mkdir()
    role(tmp_path, "performance-issues", "Performance", [{"name": "HighErrorRate", "why": "Ours"}])
    answer = Router(Project(tmp_path)).alert(alert("HighErrorRate"))
    assert (answer.runbook, answer.why, answer.exists) == ("performance-issues", "Ours", True)
    assert load_table().alerts["HighErrorRate"].runbook == "common-issues"


def test_a_runbook_that_is_not_there_yet_is_said_to_be_so(router: Router) -> None:
    answer = router.alert(alert("HighLatency"))
    assert (answer.runbook, answer.certain, answer.exists) == ("performance-issues", True, False)
    assert answer.instead == answer.carried_out == "service-down"


def test_where_nothing_is_near_it_is_said_to_be_so(router: Router) -> None:
    answer = router.alert(alert("HighDailyCost"))
    assert (answer.runbook, answer.exists, answer.instead, answer.carried_out) == ("high-cost-alerts", False, "", "")


def test_the_alert_says_how_severe_it_is_when_it_can(router: Router) -> None:
    assert router.alert(alert("HighLatency", severity="Critical")).severity == "critical"
    assert router.alert(alert("HighLatency", severity="p1")).severity == "warning"


@pytest.mark.parametrize(
    "url", ["https://runbooks.terragonlabs.com/backup-recovery", "http://x/docs/backup-recovery.md#now"]
)
def test_the_address_of_its_runbook_routes_an_unknown_alert(router: Router, url: str) -> None:
    answer = router.alert(alert("BackupTooOld", url))
    assert (answer.runbook, answer.how, answer.certain) == ("backup-recovery", "runbook_url", True)


def test_the_address_routes_no_alert_that_is_known(router: Router) -> None:
    assert router.alert(alert("ServiceDown", "https://x/backup-recovery")).runbook == "service-down"


@pytest.mark.parametrize(
    "url", ["https://x/unknown-slug", "https://x/", "http://[", "/../../etc/passwd", "https://x/$(reboot)"]
)
def test_an_address_that_names_no_runbook_is_passed_over(router: Router, url: str) -> None:
    answer = router.alert(alert("BackupTooOld", url))
    assert (answer.runbook, answer.how) == ("backup-recovery", "guess")


def test_an_alert_that_nobody_knows_gets_the_nearest_and_common_issues(router: Router) -> None:
    answer = router.alert(alert("TlsCertificateExpiresSoon"))
    assert (answer.runbook, answer.certain) == ("certificate-management", False)
    assert "common-issues" in answer.others
    nothing = router.alert(alert("Qqqq"))
    assert (nothing.runbook, nothing.certain, nothing.instead) == ("common-issues", False, "service-down")


WORDS = {
    "disk full": "database-maintenance",
    "the Disks are FULL": "database-maintenance",
    "log files fill the disk": "log-management",
    "502": "service-down",
    "certificate expired": "certificate-management",
    "expired certificates": "certificate-management",
    "certifcate expired": "certificate-management",
    "backup failed": "backup-recovery",
    "api key leaked": "security-incidents",
    "The app is slow!": "performance-issues",
    "costs too high": "high-cost-alerts",
    "webhook not delivered": "integration-problems",
    "environment variable missing": "configuration-errors",
    "service down": "service-down",
    "ServiceDown": "service-down",
    "servicedown": "service-down",
    "log-cleaning": "log-cleaning",
}


@pytest.mark.parametrize("words", WORDS)
def test_words_find_their_runbook(router: Router, words: str) -> None:
    answer = router.words(words)
    assert (answer.runbook, answer.certain) == (WORDS[words], True), router.rank(words)


def test_words_that_fit_only_in_part_are_a_guess(router: Router) -> None:
    answer = router.words("the certificate of the coffee machine")
    assert (answer.runbook, answer.certain) == ("certificate-management", False)
    assert router.words("coffee").runbook == "common-issues"


@pytest.mark.parametrize("words", ["", "  ", "the of", "!!!", "\x1b[0m"])
def test_words_that_say_nothing_are_refused(router: Router, words: str) -> None:
    with pytest.raises(BadInput, match="Nothing can be told"):
        router.words(words)


def test_names_are_taken_apart() -> None:
    assert tokens("HighCPUUsage of 502s, queries") == ["high", "cpu", "usage", "502", "query"]
    assert tokens("status is process boxes matches") == ["status", "process", "box", "match"]


def test_the_order_of_ranks_does_not_change(router: Router, root: Path) -> None:
    asked = "the app is slow and the disk is full and errors"
    assert all(Router(Project(root)).rank(asked) == router.rank(asked) for _ in range(3))


def test_a_table_that_names_an_unknown_runbook_is_refused(tmp_path: Path) -> None:
    (tmp_path / "routes.yml").write_text(
        "runbooks: {}\nalerts: {A: {runbook: b, why: c, severity: info, response_minutes: 1}}"
    )
    with pytest.raises(BadInput, match="A names the unknown runbook b"):
        load_table(tmp_path / "routes.yml")


def test_what_acts_by_itself_is_looked_at_first(router: Router) -> None:
    maintained = router.command(router.words("disk full"), ["prod"], "a b.json")
    assert maintained == "runbook run database-maintenance -i prod --check --alert 'a b.json'"
    assert router.command(router.words("service down"), []) == "runbook run service-down -i INVENTORY"


def test_nothing_to_carry_out_gives_no_command(tmp_path: Path) -> None:
    (tmp_path / "playbooks").mkdir()
    router = Router(Project(tmp_path))
    answer = router.alert(alert("ServiceDown"))
    assert (answer.exists, answer.instead, router.command(answer, ["x"])) == (False, "", "")


def call(root: Path, *words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["--project", str(root), "identify", *words], input=stdin, standalone_mode=False)


def payload(*alerts: dict[str, Any]) -> str:
    return json.dumps({"version": "4", "status": "firing", "alerts": list(alerts)})


def sent(name: str = "ServiceDown", **changes: Any) -> dict[str, Any]:
    return {
        "status": "firing", "labels": {"alertname": name}, "annotations": {}, "startsAt": "2026-03-01T10:00:00Z", "fingerprint": "ab",
    } | changes  # fmt: skip


def test_a_payload_is_answered_on_the_terminal(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alert.json").write_text(payload(sent("HighLatency"), sent(), sent(), sent(status="resolved")))
    done = call(root, str(tmp_path / "alert.json"), "-i", "prod")
    assert done.return_value == 0, done.output
    assert done.stdout.index("ServiceDown (2 alerts)") < done.stdout.index("HighLatency")
    assert f"Run       runbook run service-down -i prod --alert {tmp_path}/alert.json" in done.stdout
    assert "performance-issues is not in this project yet; the nearest that is: service-down" in done.stdout
    assert "critical, answer within 5 minutes" in done.stdout
    assert "1 of 4 alerts not firing" in done.stderr


def test_a_guess_gives_1(root: Path) -> None:
    done = call(root, "-", stdin=payload(sent("Qqqq"), sent()))
    assert done.return_value == 1
    assert "Guess     common-issues" in done.stdout


def test_nothing_that_fires_is_no_fault(root: Path) -> None:
    done = call(root, "-", stdin=payload(sent(status="resolved")))
    assert (done.return_value, done.stdout) == (0, "")
    assert "None of 1 alerts is firing" in done.stderr


def test_json_says_the_same(root: Path) -> None:
    (answer,) = json.loads(call(root, "disk", "full", "--json").stdout)
    assert (answer["runbook"], answer["certain"], answer["how"]) == ("database-maintenance", True, "words")
    assert answer["command"] == "runbook run database-maintenance -i INVENTORY --check"


@pytest.mark.parametrize("words", [(), ("missing.json",), ("nowhere/alert",), ("x", "--alertmanager", "http://x")])
def test_what_cannot_be_identified_is_refused(root: Path, words: tuple[str, ...]) -> None:
    done = call(root, *words)
    assert isinstance(done.exception, BadInput) and done.exception.remedy


HOSTILE = [
    "$(reboot)",
    "`id`",
    "'; reboot #",
    "{{ 7 * 7 }}",
    "\x1b[2J",
    "a\nb",
    "\x00",
    "\ud800",
    "\u202e",
    "-rf",
    "--fix",
    "[bold]x[/]",
]
hostile = st.text() | st.sampled_from(HOSTILE)


def shows_as_it_is(text: str) -> bool:
    return all(c == "\n" or unicodedata.category(c) not in ("Cc", "Cs") for c in text) and "\u202e" not in text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=hostile.filter(str.strip), labels=st.dictionaries(st.sampled_from(["severity", "instance", "category"]), hostile),
       summary=hostile, url=hostile)  # fmt: skip
def test_hostile_alerts_reach_no_terminal_and_no_shell(
    root: Path, name: str, labels: dict[str, str], summary: str, url: str
) -> None:
    given = sent(labels=labels | {"alertname": name}, annotations={"summary": summary, "runbook_url": url})
    done = call(root, "-", stdin=payload(given))
    if done.exception:
        assert isinstance(done.exception, BadInput) and shows_as_it_is(str(done.exception))
        return
    assert shows_as_it_is(done.stdout), ascii(done.stdout)
    lines = [line.removeprefix("  Run       ") for line in done.stdout.splitlines() if line.startswith("  Run ")]
    assert len(lines) == 1
    assert shlex.split(lines[0])[:3] in (
        ["runbook", "run", slug] for slug in ("service-down", "database-maintenance", "backup-recovery", "log-cleaning")
    )
    assert set(shlex.split(lines[0])[3:]) <= {"-i", "INVENTORY", "--check"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(inventory=st.lists(hostile, max_size=2), file=hostile.filter(bool))
def test_a_command_line_is_quoted(root: Path, router: Router, inventory: list[str], file: str) -> None:
    words = shlex.split(router.command(router.words("service down"), inventory, file))
    named = [word for name in inventory or ["INVENTORY"] for word in ("-i", name)]
    assert words == ["runbook", "run", "service-down", *named, "--alert", file]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(hostile.filter(lambda word: "\x00" not in word), min_size=1, max_size=4))
def test_any_words_are_answered_or_refused(root: Path, words: list[str]) -> None:
    done = call(root, "--", *words)
    assert done.exception is None or isinstance(done.exception, BadInput), done.exception
    assert shows_as_it_is(done.stdout)
