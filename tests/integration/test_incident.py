"""Incidents on a small deployment of three hosts: diagnosis, remedies, confirmation, leases. A host is a folder."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import REPO, Done, Runbook

RUNBOOK: dict[str, Any] = {
    "slug": "door", "title": "Door", "category": "incident", "severity": "critical", "response_time": "now", "mode": "diagnose",
    "leases": ["door:main"], "time_limit_seconds": 120,
    "environment": {"HERE": "{{ door_here }}"}, "secrets": {},
    "checks": [
        {"id": "disk", "part": "host", "section": "immediate", "question": "Is the disk free?", "command": "ls $HERE | grep -x disk-full; true",
         "expect": {"empty": True}, "shows": "", "otherwise": {"finding": "The disk is full", "severity": "critical", "remedy": "Clean up"}},
        {"id": "db-up", "part": "database", "section": "immediate", "question": "Is the database up?", "command": "test -e $HERE/up",
         "follows": ["disk"], "expect": {"rc": 0}, "shows": "",
         "otherwise": {"finding": "The database is down", "severity": "critical", "remedy": "start-db"}},
        {"id": "blocked", "part": "database", "section": "investigation", "question": "Who blocks?", "command": "ls $HERE/blockers",
         "expect": {"empty": True}, "shows": "", "otherwise": {"finding": "Somebody blocks", "severity": "critical", "remedy": "unblock"}},
        {"id": "app-up", "part": "app", "section": "verification", "question": "Is the app up?", "command": "test -e $HERE/up",
         "follows": ["db-up"], "expect": {"rc": 0}, "shows": "",
         "otherwise": {"finding": "The app is down", "severity": "critical", "remedy": "start-app"}},
    ],
    "steps": [
        {"id": "start-db", "kind": "change", "does": "Start the database", "part": "database", "cures": ["db-up"], "unless": ["disk"],
         "acts": [{"command": "test ! -e $HERE/stuck && touch $HERE/up"}], "verify": ["db-up"], "within_seconds": 1},
        {"id": "unblock", "kind": "destructive", "does": "Remove who blocks", "part": "database", "cures": ["blocked"],
         "targets": "ls $HERE/blockers", "acts": [{"command": "cd $HERE/blockers && printf '%s\\n' \"$RUNBOOK_TARGETS\" | xargs rm -v --"}],
         "verify": ["blocked"], "within_seconds": 1},
        {"id": "start-app", "kind": "change", "does": "Start the app", "part": "app", "cures": ["app-up"], "unless": ["db-up", "disk", "blocked"],
         "acts": [{"command": "touch $HERE/up && echo started >> $HERE/starts"}], "verify": ["app-up"], "within_seconds": 1},
    ],
}  # fmt: skip
MANUAL = {"id": "call-owner", "kind": "manual", "does": "Call the owner of the door"}
LOOK = """- name: start-app | Look for what is broken
  ansible.builtin.command: test ! -e {{ door_here }}/broken
  changed_when: false
"""
STEP = "---\n- name: {id} | Carry it out\n  runbook_remedy:\n    step: {id}\n  register: __door_step_{name}\n"
MAIN = """---
- name: End here if nothing may be done
  ansible.builtin.meta: end_role
  when: not __runbook_due_anywhere or ansible_check_mode
"""
PLAYBOOK = """---
- name: Door
  hosts: all
  gather_facts: false
  roles:
    - role: runbook
      vars: {runbook_slug: door, runbook_role: door}
"""


class Deployment:
    """db1, app1 and app2, each a folder; `up` in it means that it runs."""

    def __init__(self, root: Path, command: Runbook) -> None:
        self.root, self.command = root, command
        self.project = root / "project"
        self._write()
        command.env |= {"RUNBOOK_PROJECT": str(self.project), "PYTHONPATH": str(REPO / "wrapper")}
        for host in ("db1", "app1", "app2"):
            (root / host).mkdir()
            (root / host / "up").touch()
        (root / "db1" / "blockers").mkdir()

    def _write(self) -> None:
        role = self.project / "roles" / "door"
        for folder in (role / "meta", role / "tasks", self.project / "playbooks", self.project / "inventories"):
            folder.mkdir(parents=True)
        # A link would lead the frame to the roles beside its target.
        shutil.copytree(REPO / "roles" / "runbook", self.project / "roles" / "runbook")
        shutil.copy(REPO / "ansible.cfg", self.project)
        (role / "meta" / "runbook.yml").write_text(
            yaml.safe_dump({**RUNBOOK, "steps": [MANUAL, *RUNBOOK["steps"]]}, sort_keys=False)
        )
        (role / "tasks" / "check.yml").write_text("---\n[]\n")
        main = MAIN
        for step in RUNBOOK["steps"]:
            name = step["id"].replace("-", "_")
            text = STEP.format(id=step["id"], name=name)
            if step["id"] == "start-app":
                text = text.replace("---\n", f"---\n{LOOK}\n", 1)
            (role / "tasks" / f"{step['id']}.yml").write_text(text)
            main += f"- name: {step['does']}\n  ansible.builtin.import_tasks: {step['id']}.yml\n"
        (role / "tasks" / "main.yml").write_text(main)
        (self.project / "playbooks" / "door.yml").write_text(PLAYBOOK)
        here = {"door_here": f"{self.root}/{{{{ inventory_hostname }}}}", "runbook_state_dir": f"{self.root}/{{{{ inventory_hostname }}}}.state",
                "ansible_connection": "local", "ansible_python_interpreter": sys.executable, "tracker_become": False,
                "runbook_patience_seconds": 0, "runbook_max_hosts": 2}  # fmt: skip
        hosts = {
            "db1": {"tracker_parts": ["database"]},
            "app1": {"tracker_parts": ["app"]},
            "app2": {"tracker_parts": ["app"]},
        }
        (self.project / "inventories" / "three.yml").write_text(yaml.safe_dump({"all": {"vars": here, "hosts": hosts}}))

    def down(self, *hosts: str) -> None:
        for host in hosts:
            (self.root / host / "up").unlink()

    def is_up(self, host: str) -> bool:
        return (self.root / host / "up").exists()

    def run(self, *arguments: str) -> Done:
        return self.command("run", "door", "-i", "three.yml", *arguments)

    def document(self, *arguments: str) -> Any:
        return self.run("--json", *arguments).document


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Deployment]:
    command = Runbook(tmp_path)
    yield Deployment(tmp_path, command)
    for process in command.started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def chain(document: Any) -> list[tuple[str, str, str]]:
    ranked = sorted(document["findings"], key=lambda finding: finding["rank"])
    return [(f"{one['host']}/{one['id']}", one["cause"], one["state"]) for one in ranked]


def planned(document: Any) -> dict[str, str]:
    return {f"{one['host']}/{one['step']}": one["refused"] for one in document["plan"]}


def done(document: Any) -> list[tuple[str, str, str]]:
    return [(one["host"], one["step"], one["result"]) for one in document["actions"]]


def test_a_healthy_deployment_has_nothing_to_tell(three: Deployment) -> None:
    document = three.document()
    assert (document["exit_code"], document["findings"], document["plan"], document["actions"]) == (0, [], [], [])
    assert document["tells"] is False, "the inventory has nobody told, so nobody is looked up"


def test_the_cause_on_one_host_explains_what_is_seen_on_others(three: Deployment) -> None:
    three.down("db1", "app1", "app2")
    document = three.document()
    assert document["exit_code"] == 1
    assert chain(document) == [
        ("db1/db-up", "", "open"),
        ("app1/app-up", "db1/db-up", "open"),
        ("app2/app-up", "db1/db-up", "open"),
    ]
    assert set(planned(document)) == {"db1/start-db", "app1/start-app", "app2/start-app"}
    assert not three.is_up("db1") and document["actions"] == []


def test_remedies_run_in_the_order_of_dependence(three: Deployment) -> None:
    three.down("db1", "app1")
    document = three.document("--fix")
    assert document["exit_code"] == 0, document["message"]
    assert done(document) == [("db1", "start-db", "done"), ("app1", "start-app", "done")]
    assert {state for _, _, state in chain(document)} == {"fixed"} and three.is_up("db1") and three.is_up("app1")


def test_the_app_is_not_started_in_vain(three: Deployment) -> None:
    three.down("db1", "app1")
    (three.root / "db1" / "stuck").touch()
    document = three.document("--fix")
    assert document["exit_code"] == 1 and not three.is_up("app1")
    assert done(document) == [("app1", "start-app", "skipped"), ("db1", "start-db", "failed")] or done(document) == [
        ("db1", "start-db", "failed"), ("app1", "start-app", "skipped")]  # fmt: skip
    refused = next(one for one in document["findings"] if one["id"] == "remedy-refused")
    assert "start-db on db1 did not help" in refused["observed"]


def test_what_no_step_cures_forbids_the_rest(three: Deployment) -> None:
    three.down("db1")
    (three.root / "db1" / "disk-full").touch()
    document = three.document("--fix")
    assert "The disk is full" in planned(document)["db1/start-db"] and document["actions"] == []
    assert chain(document)[0][0] == "db1/disk"


def test_check_shows_the_plan_and_changes_nothing(three: Deployment) -> None:
    three.down("app1")
    document = three.document("--check", "--fix")
    assert (
        document["exit_code"] == 6 and done(document) == [("app1", "start-app", "planned")] and not three.is_up("app1")
    )
    assert not (three.root / "app1.state" / "evidence").exists()


def test_a_remedy_on_too_many_hosts_is_refused(three: Deployment) -> None:
    three.down("app1", "app2")
    document = three.document("--fix", "--set", "runbook_max_hosts=1")
    assert all("at most 1" in refused for refused in planned(document).values()) and document["actions"] == []


def test_what_is_destructive_needs_the_token_of_its_plan(three: Deployment) -> None:
    (three.root / "db1" / "blockers" / "41").touch()
    refused = three.run("--fix", "destructive")
    assert refused.code == 3 and "--confirm" in refused.err and (three.root / "db1" / "blockers" / "41").exists()
    token = three.document()["confirmation"]
    (three.root / "db1" / "blockers" / "42").touch()
    other = three.run("--fix", "destructive", "--confirm", token)
    assert other.code == 3 and "not the one that was confirmed" in other.err
    assert (three.root / "db1" / "blockers" / "41").exists()
    document = three.document()
    assert next(one for one in document["plan"] if one["step"] == "unblock")["targets"] == ["41", "42"]
    confirmed = three.document("--fix", "destructive", "--confirm", document["confirmation"])
    assert confirmed["exit_code"] == 0 and done(confirmed) == [("db1", "unblock", "done")]
    assert not list((three.root / "db1" / "blockers").iterdir())
    kept = next((three.root / "db1.state" / "evidence").rglob("targets.txt"))
    assert kept.read_text() == "41\n42\n"


@pytest.mark.parametrize("token", ["x", "1-aaaaaaaaaaaaaaaaaaaa", "{{ lookup('pipe', 'touch /tmp/runbook-pwned') }}"])
def test_a_token_that_is_none_is_refused(three: Deployment, token: str) -> None:
    (three.root / "db1" / "blockers" / "41").touch()
    result = three.run("--fix", "destructive", "--confirm", token)
    assert result.code == 3 and (three.root / "db1" / "blockers" / "41").exists()
    assert not Path("/tmp/runbook-pwned").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--confirm", "x"], "--fix destructive"),
        (["--fix", "all"], "'all'"),
        (["--set", "runbook_fix=change"], "runbook_fix"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(three: Deployment, arguments: list[str], words: str) -> None:
    result = three.run(*arguments)
    assert result.code == 5 and words in result.err


def on_a_terminal(three: Deployment, answers: str, *arguments: str) -> tuple[int, str]:
    """Run the command with a terminal as its stdin and type the answers."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "runbook", "run", "door", "-i", "three.yml", *arguments],
        env=three.command.env, cwd=three.root, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    three.command.started.append(process)
    os.close(theirs)
    os.write(ours, answers.encode())
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    return process.returncode, out


def signed(document: Any) -> list[tuple[str, str]]:
    for one in document["manual"]:
        assert one["does"] == MANUAL["does"] and bool(one["who"]) == bool(one["answered"]) == bool(one["answer"])
        assert one["asked"] <= (one["answered"] or one["asked"])
    return [(one["step"], one["answer"]) for one in document["manual"]]


def test_a_manual_step_is_signed_beforehand_or_stays_unsigned(three: Deployment) -> None:
    three.down("app1")
    assert signed(three.document()) == [], "a diagnosis asks for nothing"
    assert signed(three.document("--fix")) == [("call-owner", "")]
    assert "nobody said that it was done" in three.command("runs", "report", "last").out
    assert signed(three.document("--fix", "--sign", "call-owner=Ann knows")) == [("call-owner", "Ann knows")]
    assert "Ann knows" in three.command("runs", "report", "last", "--html").out


def test_a_runbook_that_acts_by_itself_asks_for_its_manual_steps_too(three: Deployment) -> None:
    meta = three.project / "roles" / "door" / "meta" / "runbook.yml"
    meta.write_text(meta.read_text().replace("mode: diagnose", "mode: maintain"))
    assert signed(three.document()) == [("call-owner", "")]
    assert signed(three.document("--check")) == []
    assert signed(three.document("--sign", "call-owner=Ann knows")) == [("call-owner", "Ann knows")]


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        ("call-owner=abort", 3, "call-owner was aborted"),
        ("call-owner=", 5, "STEP=ANSWER"),
        ("start-app=done", 5, "Manual steps: call-owner"),
        ("nonsense", 5, "STEP=ANSWER"),
    ],
)
def test_an_aborted_or_wrongly_signed_manual_step_ends_the_run_before_it_acts(
    three: Deployment, answer: str, code: int, words: str
) -> None:
    three.down("app1")
    result = three.run("--fix", "--sign", answer)
    assert result.code == code and words in result.err
    assert not three.is_up("app1")


@pytest.mark.parametrize(("typed", "up"), [("called her\n", True), ("abort\n", False)])
def test_on_a_terminal_a_manual_step_is_asked_for(three: Deployment, typed: str, up: bool) -> None:
    three.down("app1")
    code, out = on_a_terminal(three, typed, "--fix")
    assert "Call the owner of the door" in out and code == (0 if up else 3), out
    assert three.is_up("app1") is up
    if up:
        assert signed(json.loads(three.command("runs", "show", "last", "--json").out)) == [("call-owner", "called her")]


def test_a_run_is_resumed_at_the_step_that_failed(three: Deployment) -> None:
    three.down("db1", "app1")
    (three.root / "app1" / "broken").touch()
    failed = three.document("--fix", "--reason", "pager", "--sign", "call-owner=Ann knows")
    assert failed["state"] == "failed" and done(failed) == [("db1", "start-db", "done")] and not three.is_up("app1")
    (three.root / "app1" / "broken").unlink()
    three.down("db1")
    resume = ("runs", "resume", failed["id"], "--json")
    blocked = three.command(*resume)
    assert "at step start-app" in blocked.err
    refused = planned(blocked.document)
    assert "taken up again" in refused["db1/start-db"] and "The database is down" in refused["app1/start-app"]
    assert not three.is_up("db1") and not three.is_up("app1"), "what comes before the failed step is not done again"
    (three.root / "db1" / "up").touch()
    resumed = three.command(*resume).document
    assert resumed["exit_code"] == 0 and done(resumed) == [("app1", "start-app", "done")] and three.is_up("app1")
    assert (resumed["resumes"], resumed["reason"], resumed["fix"]) == (failed["id"], "pager", "change")
    assert signed(resumed) == [("call-owner", "Ann knows")], "what was signed needs no second signature"


def test_what_needs_no_resuming_is_refused(three: Deployment) -> None:
    document = three.document()
    result = three.command("runs", "resume", document["id"])
    assert result.code == 3 and "has succeeded" in result.err
    assert three.command("runs", "resume", "01AAAAAAAAAAAAAAAAAAAAAAAA").code == 5


@pytest.mark.parametrize(("typed", "gone"), [("done\ndb1\n", True), ("done\nyes\n", False), ("done\n\n", False)])
def test_on_a_terminal_each_destructive_remedy_is_asked_for(three: Deployment, typed: str, gone: bool) -> None:
    blocker = three.root / "db1" / "blockers" / "41"
    blocker.touch()
    code, out = on_a_terminal(three, typed, "--fix", "destructive")
    assert "unblock on db1" in out and "41" in out
    assert blocker.exists() is not gone and code == (0 if gone else 1), out


def test_two_runs_exclude_each_other_where_they_act_only(three: Deployment) -> None:
    lease = {"resource": "door:main", "run_id": "OTHER", "owner": "alice@laptop", "purpose": "door",
             "acquired_at": time.time(), "expires_at": time.time() + 300}  # fmt: skip
    folder = three.root / "db1.state" / "leases"
    folder.mkdir(parents=True)
    (folder / "door:main.json").write_text(json.dumps(lease))
    assert three.run().code == 0, "to look is free"
    refused = three.run("--fix")
    assert refused.code == 3 and "alice@laptop" in refused.err
    listed = three.command("lease", "list", "-i", "three.yml", "--json").document
    assert listed["db1"][0]["run_id"] == "OTHER" and listed["db1"][0]["alive"]
    assert three.command("lease", "break", "door:main", "-i", "three.yml", "--reason", "gone").code == 3
    assert three.command("lease", "break", "door:main", "-i", "three.yml", "--reason", "{{ 1 }}", "--yes").code == 5
    broken = three.command("lease", "break", "door:main", "-i", "three.yml", "--reason", "her laptop died", "--yes")
    assert broken.code == 0, broken.err
    assert "her laptop died" in (folder / "broken.log").read_text()
    assert three.run("--fix").code == 0


def test_reports_mark_root_and_followers(three: Deployment) -> None:
    three.down("db1", "app1")
    assert three.run().code == 1
    html = three.command("runs", "report", "last", "--html").out
    assert html.count(">root cause<") == 1 and "follows from db1/db-up" in html and "only --fix carries it out" in html
    text = three.command("runs", "show", "last").out
    assert "Root cause: The database is down" in text and "Plan" in text
