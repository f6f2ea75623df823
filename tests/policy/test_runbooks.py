"""Runbooks: data that holds together, and for each its page, playbook, role and fault scenario."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.runbook_checks import EXPECTATIONS
from runbook.docs import write_pages
from runbook.project import Project
from support.repository import ROOT, RUNBOOK_FILES, entry, load, name, runbook

WRITTEN = [path for path in RUNBOOK_FILES if runbook(path)["category"] != "tool"]
PLAYBOOKS = sorted((ROOT / "playbooks").glob("*.yml"))
CHECK_KEYS = {
    "id", "part", "section", "question", "command", "user", "timeout_seconds", "expect", "needs", "shows", "otherwise",
    "follows", "writes",
}  # fmt: skip
REQUIRED_KEYS = CHECK_KEYS - {"user", "timeout_seconds", "needs", "follows", "writes"}
PARTS = {"host", "app", "database", "cache", "proxy", "collector", "monitoring", "control"}
SECTIONS = {"immediate", "investigation", "verification"}
KINDS = {"read", "change", "destructive", "manual"}
ALERTS = load(ROOT / "tests" / "policy" / "alerts.yml")
each_runbook = pytest.mark.parametrize("path", RUNBOOK_FILES, ids=name)
each_written = pytest.mark.parametrize("path", WRITTEN, ids=name)


def test_there_are_runbooks() -> None:
    assert WRITTEN
    slugs = [runbook(path)["slug"] for path in RUNBOOK_FILES]
    assert len(slugs) == len(set(slugs))


@each_runbook
def test_checks_are_complete_and_name_what_exists(path: Path) -> None:
    data = runbook(path)
    steps = {step["id"] for step in data["steps"]}
    known: set[str] = set()
    for check in data["checks"]:
        where = check["id"]
        assert set(check) >= REQUIRED_KEYS and set(check) <= CHECK_KEYS, where
        assert where not in known, f"{where} occurs twice"
        assert check["part"] in PARTS and check["section"] in SECTIONS, where
        assert check["question"].endswith("?") and check["command"].strip(), where
        assert set(check.get("needs", [])) <= known, f"{where} needs what does not come before it"
        assert set(check["otherwise"]) == {"finding", "severity", "remedy"} and all(check["otherwise"].values()), where
        assert check["otherwise"]["severity"] in ("info", "warning", "critical"), where
        remedy = check["otherwise"]["remedy"]
        assert not re.fullmatch(r"[a-z][a-z0-9_-]*", remedy) or remedy in steps, f"{where}: there is no step {remedy}"
        known.add(where)


@each_runbook
def test_expectations_are_of_the_kinds_that_the_probe_knows(path: Path) -> None:
    for check in runbook(path)["checks"]:
        expect = check["expect"]
        assert expect and set(expect) <= set(EXPECTATIONS), check["id"]
        assert "json" not in expect or "equals" in expect, check["id"]
        bounds = expect.get("number", {"at_most": 0})
        assert bounds and set(bounds) <= {"at_most", "at_least", "between"}, check["id"]
        if "matches" in expect:
            re.compile(expect["matches"])


@each_runbook
def test_commands_take_their_values_from_the_environment_alone(path: Path) -> None:
    data = runbook(path)
    given = set(data["environment"]) | set(data.get("secrets", {}))
    for check in data["checks"]:
        assert not re.search(r"\{\{|\{%", check["command"]), f"{check['id']}: a command is never templated"
        wanted = set(re.findall(r"\$\{?([A-Za-z_]\w*)", check["command"]))
        # What the line itself sets: a loop's variable, an assignment, what it reads.
        wanted -= {variable for read in re.findall(r"\bread -r ((?:\w+ ?)+)", check["command"]) for variable in read.split()}
        wanted -= {a or b for a, b in re.findall(r"\bfor (\w+) in|(?:^|[\s;({])(\w+)=", check["command"])}
        assert wanted <= given, f"{check['id']}: nobody sets {sorted(wanted - given)}"
    used = " ".join(check["command"] for check in data["checks"])
    own = {variable for variable in given if not re.match(r"PG|RUNBOOK_|CURL_|REDISCLI_", variable)}
    assert {variable for variable in own if f"${variable}" not in used and f"${{{variable}" not in used} == set()


@each_runbook
def test_steps_are_of_known_kinds_and_proved_by_checks_that_exist(path: Path) -> None:
    data = runbook(path)
    checks = {check["id"] for check in data["checks"]}
    for step in data["steps"]:
        assert step["kind"] in KINDS and step["does"] and not step["does"].endswith("."), step["id"]
        assert set(step["verify"]) <= checks, step["id"]


REMEDY_KEYS = {"id", "kind", "does", "verify", "part", "cures", "unless", "gates", "targets", "acts", "revert", "evidence", "user",
               "within_seconds"}  # fmt: skip


@each_runbook
def test_a_remedy_names_what_calls_for_it_and_what_proves_it(path: Path) -> None:
    data = runbook(path)
    checks = {check["id"] for check in data["checks"]}
    before: set[str] = set()
    for step in data["steps"]:
        remedy = step.get("cures")
        assert set(step) <= (REMEDY_KEYS if remedy else {"id", "kind", "does", "verify"}), step["id"]
        before.add(step["id"])
        if not remedy:
            continue
        assert step["kind"] in ("change", "destructive") and step["part"] in PARTS and step["acts"], step["id"]
        for key in ("cures", "unless", "gates", "verify"):
            assert set(step.get(key, [])) <= checks, f"{step['id']}: {key}"
        assert step["verify"], f"{step['id']}: nothing proves that it helped"
        for act in [*step["acts"], *step.get("revert", [])]:
            assert len({"component", "command", "restore", "reclaim"} & set(act)) == 1, f"{step['id']}: {act}"
            assert "{{" not in str(act.get("command", "")), f"{step['id']}: a command is never templated"
        if step["kind"] == "destructive":
            assert step.get("targets"), f"{step['id']}: a destructive step names the objects it acts on"


@each_runbook
def test_what_names_a_remedy_is_what_it_cures(path: Path) -> None:
    data = runbook(path)
    remedies = {step["id"]: step["cures"] for step in data["steps"] if step.get("cures")}
    for check in data["checks"]:
        named = check["otherwise"]["remedy"]
        assert named not in remedies or check["id"] in remedies[named], f"{check['id']} names {named}, which does not cure it"


@each_runbook
def test_explanations_stand_before_what_they_explain_or_in_another_part(path: Path) -> None:
    checks = runbook(path)["checks"]
    order = {check["id"]: number for number, check in enumerate(checks)}
    for check in checks:
        assert set(check.get("follows", [])) <= set(order), check["id"]
        later = [name for name in check.get("follows", []) if order[name] > order[check["id"]]]
        assert not later, f"{check['id']} follows {later}, which the dependency chain has after it"


@each_runbook
def test_alerts_are_those_that_the_tracker_has(path: Path) -> None:
    assert [alert["name"] for alert in runbook(path)["alerts"] if alert["name"] not in ALERTS] == []


def test_the_list_of_alerts_is_a_list() -> None:
    assert sorted(set(ALERTS)) == ALERTS


@each_written
def test_an_operator_finds_what_a_page_needs(path: Path) -> None:
    data = runbook(path)
    for key in (
        "overview",
        "symptoms",
        "investigation_steps",
        "resolution_steps",
        "prevention",
        "escalation",
        "response_time",
    ):
        assert data[key], key
    assert {check["section"] for check in data["checks"]} == SECTIONS
    assert data["time_limit_seconds"] > 0 and data["leases"]
    for rung in data["escalation"]:
        assert set(rung) == {"after", "to", "how", "why"} and all(rung.values())


def play_roles(path: Path) -> list[Any]:
    return [role for play in load(path) for role in play.get("roles", [])]


@each_runbook
def test_a_runbook_has_its_playbook(path: Path) -> None:
    data = runbook(path)
    playbook = ROOT / "playbooks" / f"{data['slug']}.yml"
    plays = load(playbook)
    assert [play["name"] for play in plays] == [data["title"]], "the title, word for word"
    if data["category"] != "tool":
        assert [one["role"] for one in play_roles(playbook)] == ["runbook"]
        given = play_roles(playbook)[0]["vars"]
        assert (given["runbook_slug"], given["runbook_role"]) == (data["slug"], path.parent.parent.name)
        assert given.get("runbook_entry", "main") == entry(path)


@pytest.mark.parametrize("path", PLAYBOOKS, ids=name)
def test_a_playbook_is_short_and_has_its_runbook(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 25
    if any("ansible.builtin.import_playbook" in play for play in load(path)):
        return
    assert path.stem in [runbook(file)["slug"] for file in RUNBOOK_FILES]
    for play in load(path):
        assert play.get("gather_facts") is False and not play.get("tasks"), "a playbook names the runbook, nothing else"


@each_written
def test_a_runbook_has_its_page(path: Path) -> None:
    page = (ROOT / "docs" / "runbooks" / f"{runbook(path)['slug']}.md").read_text()
    assert f"# {runbook(path)['title']}" in page.splitlines()
    assert f"({runbook(path)['slug']}.md)" in (ROOT / "docs" / "runbooks" / "index.md").read_text()


@each_written
def test_what_a_page_expects_is_a_value(path: Path) -> None:
    page = (ROOT / "docs" / "runbooks" / f"{runbook(path)['slug']}.md").read_text()
    assert [line for line in page.splitlines() if line.startswith("Expected: ") and "{{" in line] == []


def test_pages_are_fresh() -> None:
    assert [name(path) for path in write_pages(Project(ROOT), check=True)] == [], "make docs renders them"


@each_written
def test_a_runbook_has_a_healthy_scenario_and_a_fault(path: Path) -> None:
    role = path.parents[1]
    scenarios = {path.parent.name for path in (role / "molecule").glob("*/molecule.yml")}
    assert "default" in scenarios and len(scenarios) >= 2
    for scenario in scenarios:
        folder = role / "molecule" / scenario
        shared = load(folder / "molecule.yml").get("provisioner", {}).get("playbooks", {})
        for part in ("converge", "verify"):
            assert (folder / shared.get(part, f"{part}.yml")).exists(), f"{scenario}/{part}"
