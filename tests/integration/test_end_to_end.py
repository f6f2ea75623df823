"""From a killed app to a closed incident. All is real (a sandbox, Prometheus, Alertmanager, the listener) but the people."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.runbook_checks import Outcome, unmet
from fakes.services import PagerDuty
from support.monitoring import SERVICE_DOWN, Alertmanager, Prometheus, free_port

from .conftest import REPO, Runbook, finish, processes_with, until
from .test_listen import Listening

# In one worker: they share a sandbox.
pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.xdist_group("end-to-end")]

UNIT = "llm-cost-tracker"
SANDBOX = REPO / "inventories" / "sandbox"
FIGURES = REPO / ".cache" / "end-to-end.json"
SECONDS = 180  # the limit of each wait; on a machine with nothing else to do, the longest takes a quarter of it


class Deployment:
    """A sandbox and what watches it; `webhook` is where its alerts are sent."""

    alertmanager: Alertmanager
    prometheus: Prometheus

    def __init__(self, root: Path) -> None:
        self.root, self.folder, self.port = root, root / "made", free_port()
        self.token_file = root / "token"
        self.token_file.write_text(f"{os.urandom(16).hex()}\n")

    def command(self, root: Path) -> Runbook:
        """Return the command with records of its own, for this sandbox."""
        root.mkdir(exist_ok=True)
        made = Runbook(root)
        made.env |= {"RUNBOOK_PROJECT": str(REPO), "RUNBOOK_SANDBOX_DIR": str(self.folder)}
        return made

    def build(self, state: str) -> None:
        command = self.command(self.root / state)
        done = finish(command.start("run", "sandbox", "-i", str(SANDBOX), "--set", f"sandbox_state={state}",
                                    "--set", "sandbox_scale=0.02"), 300)  # fmt: skip
        assert done.code == 0, done.out + done.err

    @property
    def record(self) -> dict[str, Any]:
        return yaml.safe_load((self.folder / "sandbox.yml").read_text())

    def control(self, *words: str) -> str:
        line = [sys.executable, "-m", "supervisor.supervisorctl", "-c", self.record["supervisor_config"], *words]
        return subprocess.run(line, capture_output=True, text=True, check=False).stdout.strip()

    def kill(self) -> None:
        """End the app as the kernel would, and nothing but it."""
        os.kill(int(self.control("pid", UNIT)), signal.SIGKILL)
        until(lambda: self.control("pid", UNIT) == "0", 20)

    def ready(self) -> bool:
        trust = ssl.create_default_context(cafile=self.record["app_ca_file"])
        url = f"{self.record['app_url']}/health/ready"
        try:
            with urllib.request.urlopen(url, timeout=5, context=trust) as answer:  # noqa: S310  always https
                return json.load(answer) == {"status": "ready"}
        except OSError:
            return False

    def starts(self) -> int:
        return (self.folder / "supervisor" / "supervisord.log").read_text().count(f"spawned: '{UNIT}'")


class Scene:
    """One test's records, listener and people, around the sandbox that all share."""

    def __init__(self, deployment: Deployment, root: Path, duty: PagerDuty) -> None:
        self.deployment, self.duty = deployment, duty
        self.runbook = deployment.command(root / "records")
        given = {
            # The target's memory: the restart of the test before would count, and this one would be refused.
            "runbook_state_dir": str(root / "target"),
            "tracker_contacts": {"oncall": {"title": "On-call engineer", "url": duty.url()}},
            "tracker_escalation": [{"to": "oncall", "severities": ["critical"]}],
        }
        # Variables of the host: they win over those of the groups, which the sandbox's own inventory sets.
        (root / "people.yml").write_text(json.dumps({"all": {"hosts": {"sandbox": given}}}))
        self.inventory = [str(SANDBOX), str(root / "people.yml")]

    def listen(self, fix: str | None) -> None:
        route = {"match": {"alertname": "ServiceDown"}, "runbook": "service-down", "fix": fix}
        self.listening = Listening(
            self.runbook, inventory=self.inventory, port=self.deployment.port, routes=[route],
            tokens=[{"file": str(self.deployment.token_file)}],
        )  # fmt: skip
        self.listening.start()

    def job(self) -> dict[str, Any]:
        return (self.listening.jobs() or [{"state": "", "told": None}])[0]

    def closed(self) -> bool:
        """Whether the alert is resolved, and whoever has to know of that does."""
        return "resolve" in (self.job()["told"] or [])

    def postmortem(self, *records: dict[str, Any]) -> str:
        done = self.runbook("runs", "postmortem", *[record["id"] for record in records])
        assert done.code == 0, done.err
        return done.out

    def clear(self) -> None:
        """End what a test that failed left at work, and have the next one begin with an app that runs."""
        for pid in processes_with(str(self.runbook.state)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.runbook.started:
            process.wait(20)
        self.deployment.control("start", UNIT)
        until(lambda: not self.deployment.alertmanager.alerts(), SECONDS)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    made = Deployment(tmp_path_factory.mktemp("deployment"))
    try:
        made.build("present")
        hook = f"http://127.0.0.1:{made.port}/alerts"
        with Alertmanager(made.root / "alertmanager", hook, made.token_file) as made.alertmanager, Prometheus(
            made.root / "prometheus", made.record["app_url"], made.alertmanager, [SERVICE_DOWN], made.record["app_ca_file"]
        ) as made.prometheus:  # fmt: skip
            until(lambda: made.prometheus.sees("1"), SECONDS)
            yield made
    finally:
        made.build("absent")
    assert processes_with(str(made.folder)) == []


@pytest.fixture
def scene(deployment: Deployment, tmp_path: Path) -> Iterator[Scene]:
    with PagerDuty() as duty:
        made = Scene(deployment, tmp_path, duty)
        try:
            yield made
        finally:
            made.clear()


def the_app_was_killed(record: dict[str, Any], state: str) -> bool:
    """Whether a record names the app as the cause, all else as what follows from it, and all in one state."""
    counting = [one for one in record["findings"] if one["severity"] != "info"]
    first = min(counting, key=lambda one: one["rank"])
    told = (first["id"], first["observed"], first["cause"]) == ("app-process", "exited", "")
    followers = {one["cause"] for one in counting if one is not first}
    return told and followers == {"sandbox/app-process"} and {one["state"] for one in counting} == {state}


PASTED = re.compile(r"`(?P<id>[a-z-]+)`, on [^\n]*:\n\n```sh\n(?P<command>.*?)\n```", re.DOTALL)
RUNBOOK = yaml.safe_load((REPO / "roles" / "service_down" / "meta" / "runbook.yml").read_text())
INPUTS = yaml.safe_load((REPO / "roles" / "service_down" / "defaults" / "main.yml").read_text())


def expected(check: dict[str, Any]) -> dict[str, Any]:
    """Return a check's expectation with the defaults that the page shows."""
    text = re.sub(r"\{\{ (\w+) \}\}", lambda found: str(INPUTS[found[1]]), json.dumps(check["expect"]))
    return json.loads(text)


def test_commands_of_the_page_give_what_it_says(deployment: Deployment) -> None:
    """Pasted into a shell of the host, as an operator does; the part `host` is every host."""
    page = (REPO / "docs" / "runbooks" / "service-down.md").read_text()
    commands = {found["id"]: found["command"] for found in PASTED.finditer(page)}
    checks = {check["id"]: check for check in RUNBOOK["checks"]}
    assert set(commands) == set(checks)
    command = deployment.command(deployment.root / "pasted")
    shell = command("env", "service-down", "-i", str(SANDBOX), "-l", "sandbox").out
    wrong = {}
    for name, check in checks.items():
        # The mark of a span is chosen anew for each look; a person posts one, then looks for it, in that order.
        if check["part"] not in ("host", "app", "database") or check["otherwise"]["severity"] == "info":
            continue
        done = subprocess.run(
            ["bash", "-c", f"{shell}\n{commands[name]}"], capture_output=True, text=True, check=False, cwd="/"
        )
        why = unmet(expected(check), Outcome(done.returncode, done.stdout, done.stderr, 0))
        if why is not None:
            wrong[name] = why
    assert wrong == {}


def test_a_killed_app_comes_back_and_nobody_is_woken(
    deployment: Deployment, scene: Scene, record_property: Callable[[str, object], None]
) -> None:
    scene.listen(fix="change")
    starts, killed = deployment.starts(), time.time()
    deployment.kill()
    until(lambda: deployment.starts() > starts and deployment.ready(), SECONDS)
    answered = time.time()
    until(scene.closed, SECONDS)
    assert scene.listening.end() == 0

    (record,) = scene.runbook.records()
    (alert,) = record["alerts"]
    assert scene.job()["key"] == f"{alert['fingerprint']}@{alert['starts_at']}"
    assert (alert["name"], alert["labels"]["priority"]) == ("ServiceDown", "p0")
    assert (record["state"], record["fix"], record["exit_code"]) == ("succeeded", "change", 0)
    assert the_app_was_killed(record, "fixed")
    assert [(one["step"], one["result"]) for one in record["actions"]] == [("restart-app", "done")]
    assert deployment.starts() == starts + 1
    assert scene.duty.events == [], "what a remedy cures at once is told by the record alone"

    page = scene.postmortem(record)
    fired = datetime.fromisoformat(alert["starts_at"]).timestamp()
    ended = datetime.fromisoformat(record["ended"]).timestamp()
    assert "unknown" not in page and "restart-app on sandbox: done" in page
    figures = {"killed to firing": fired - killed, "killed to answering": answered - killed, "MTTR": ended - fired}
    for name, seconds in figures.items():
        record_property(name, round(seconds, 1))
    FIGURES.parent.mkdir(exist_ok=True)
    FIGURES.write_text(json.dumps({name: round(seconds, 1) for name, seconds in figures.items()}, indent=1))


def test_who_is_paged_carries_out_the_remedy_and_the_listener_closes_the_loop(
    deployment: Deployment, scene: Scene
) -> None:
    """The default: the listener only looks. The command of the page is given twice at once; one of them acts."""
    scene.listen(fix=None)
    starts = deployment.starts()
    deployment.kill()
    until(lambda: scene.job()["state"] == "done", SECONDS)
    (trigger,) = scene.duty.events
    (looked,) = scene.runbook.records()
    assert (looked["exit_code"], looked["actions"], deployment.starts()) == (1, [], starts)
    assert the_app_was_killed(looked, "open")
    assert trigger["payload"]["summary"] == "[critical] Service down: The app does not run on sandbox"
    assert trigger["dedup_key"] == f"alert:{looked['alerts'][0]['fingerprint']}"

    told = trigger["payload"]["custom_details"]["message"]
    command = shlex.split(next(line for line in told.splitlines() if line.startswith("Next: ")))[2:]
    # Quiet: whoever is refused would page for that.
    pair = [scene.runbook.start(*command, "--quiet-escalation") for _ in range(2)]
    done = sorted((finish(process, SECONDS) for process in pair), key=lambda one: one.code)
    assert [one.code for one in done] == [0, 3], [one.err for one in done]
    fixed, refused = sorted(scene.runbook.records()[1:], key=lambda one: one["exit_code"])
    owner = f"{fixed['who']['user']}@{fixed['who']['host']}"
    assert f"is leased by {owner} for service-down (run {fixed['id']})" in done[1].err
    assert the_app_was_killed(fixed, "fixed") and refused["actions"] == []
    assert deployment.starts() == starts + 1

    until(scene.closed, SECONDS)
    assert scene.listening.end() == 0
    resolve = scene.duty.events[-1]
    assert [one["event_action"] for one in scene.duty.events] == ["trigger", "resolve"]
    assert trigger["dedup_key"] == resolve["dedup_key"]
    sent = [(one["to"], one["event"], one["delivered"]) for one in scene.runbook.records()[0]["escalated"]]
    assert sent == [("oncall", "trigger", True), ("oncall", "resolve", True)]
    page = scene.postmortem(looked, fixed)
    assert "unknown" not in page and "trigger reached oncall" in page and "resolve reached oncall" in page
