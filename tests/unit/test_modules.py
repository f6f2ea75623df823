"""The modules as Ansible runs them: one playbook calls them all, and each test looks at what its calls gave."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from support.postgres import Server

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(p for p in ROOT.glob("roles/*/library/*.py") if p.name.startswith(("runbook_", "database_", "logs_", "certificates_")))
FAKE = ROOT / "tests" / "fakes" / "tool"
CANARY = "hunter2-Zx"

# --- documentation ----------------------------------------------------------------------------------------------


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Seen(Exception):
    pass


def arguments(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the module gives to AnsibleModule."""

    def instead(**given: Any) -> None:
        raise Seen(given)

    monkeypatch.setattr(module, "AnsibleModule", instead)
    with pytest.raises(Seen) as seen:
        module.main()
    given: dict[str, Any] = seen.value.args[0]
    return given


def comparable(options: dict[str, Any], nested: str) -> dict[str, Any]:
    return {
        name: {
            "type": option.get("type", "str"),
            "required": option.get("required", False),
            "default": option.get("default"),
            "choices": option.get("choices"),
            "elements": option.get("elements"),
            "options": comparable(option.get(nested) or {}, nested),
        }
        for name, option in options.items()
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_documented_options_are_those_of_the_module(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(path)
    documentation = yaml.safe_load(module.DOCUMENTATION)
    given = arguments(module, monkeypatch)
    assert documentation["module"] == path.stem
    assert documentation["short_description"] and documentation["description"] and documentation["author"]
    documented = comparable(documentation["options"], "suboptions")
    taken = comparable(given["argument_spec"], "options")
    for name, option in documentation["options"].items():
        if option["description"].startswith("See M("):  # the other module's documentation has what is inside
            documented[name].pop("options"), taken[name].pop("options")
    assert documented == taken
    assert given["supports_check_mode"] is True
    without = [name for name, option in documentation["options"].items() if not option.get("description")]
    assert without == []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_examples_use_the_options_that_there_are(path: Path) -> None:
    module = load(path)
    options = yaml.safe_load(module.DOCUMENTATION)["options"]
    required = {name for name, option in options.items() if option.get("required")}
    examples = yaml.safe_load(module.EXAMPLES)
    assert examples
    for task in examples:
        assert task["name"] and required <= set(task[path.stem]) <= set(options)
    returned = yaml.safe_load(module.RETURN)
    assert returned and all({"description", "type", "returned"} <= set(entry) for entry in returned.values())


# --- one run of all -----------------------------------------------------------------------------------------------


class World:
    """What the tasks of the one playbook gave, by their names, and where they wrote."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder, self.server = folder, server
        self.results: dict[str, dict[str, Any]] = {}
        self.output = ""

    def tasks(self) -> list[dict[str, Any]]:
        connection = {
            "database": "llm_metrics", "host": str(self.server.folder), "user": "postgres", "os_user": self.server.user,
            "bin_dir": str(self.server.bin_dir),
        }  # fmt: skip
        state = str(self.folder / "state")
        run = {"state_dir": state, "run_id": "one", "slug": "a-book", "owner": "me@here", "leases": ["r:one", "r:two"]}
        ask = {"connection": connection, "state_dir": state}
        act = {**ask, "run_id": "one", "owner": "me@here", "leases": ["r:one"], "step": "vacuum"}
        checks = [
            {"id": "met", "question": "?", "command": 'test "$SECRET" = ' + CANARY, "expect": {"rc": 0}},
            {"id": "unmet", "question": "?", "command": "echo '$VALUE'; echo $VALUE", "expect": {"empty": True}},
            {"id": "unset", "question": "?", "command": 'test -z "${EMPTY+x}"', "expect": {"rc": 0}},
            {"id": "path", "question": "?", "command": "own-tool", "expect": {"rc": 0}},
        ]
        control = {"manager": "systemd", "unit": "app", "control": [str(FAKE)]}
        return [
            {"name": "open in check mode", "runbook_open": {**run, "state_dir": f"{state}-2"}, "check_mode": True},
            {"name": "open", "runbook_open": run},
            {"name": "open again", "runbook_open": {**run, "run_id": "two", "leases": ["r:three", "r:two"]}},
            {"name": "open again in check mode", "runbook_open": {**run, "run_id": "two"}, "check_mode": True},
            {"name": "open after a death", "runbook_open": {**run, "run_id": "two", "leases": [], "dead_runs": ["one"]}},
            {"name": "open with a bad name", "runbook_open": {**run, "leases": ["$(id)"]}},
            {
                "name": "probe",
                "runbook_probe": {
                    "checks": checks,
                    "environment": {"VALUE": "$(id) 'x'", "EMPTY": None, "RUNBOOK_PATH": str(self.folder)},
                    "secrets": {"SECRET": CANARY},
                },
                "check_mode": True,
            },
            {"name": "probe wrongly", "runbook_probe": {"checks": [{**checks[0], "expect": {"contains": "x"}}]}},
            {
                "name": "evidence in check mode",
                "runbook_evidence": {"folder": f"{state}-3", "who": "me@here", "texts": {"a": "b"}},
                "check_mode": True,
            },
            {
                "name": "evidence",
                "runbook_evidence": {
                    "folder": f"{state}/evidence/one", "who": "me@here", "texts": {"a.txt": f"password={CANARY}"},
                    "commands": {"id.txt": 'echo "$WORD"; exit 3'}, "environment": {"WORD": "from outside"},
                    "components": {"app": control, "odd": {"manager": "upstart"}},
                },
            },
            {"name": "status", "runbook_component": {"name": "app", "component": control}},
            {"name": "restart in check mode", "runbook_component": {"name": "app", "component": control, "state": "restarted"}, "check_mode": True},
            {"name": "start", "runbook_component": {"name": "app", "component": control, "state": "started"}},
            {"name": "restart", "runbook_component": {"name": "app", "component": control, "state": "restarted"}},
            {"name": "odd manager", "runbook_component": {"name": "odd", "component": {"manager": "upstart"}}},
            {"name": "plan in check mode", "database_maintenance_info": {**ask, "state_dir": f"{state}-4"}, "check_mode": True, "diff": True},
            {"name": "plan", "database_maintenance_info": ask},
            {"name": "act in check mode", "database_maintenance": {**act, "state_dir": f"{state}-5"}, "check_mode": True},
            {"name": "act for another run", "database_maintenance": {**act, "run_id": "two"}},
            {"name": "act", "database_maintenance": act},
            {"name": "verify", "database_maintenance_info": {**ask, "purpose": "verify"}},
            {"name": "no such server", "database_maintenance_info": {**ask, "connection": {**connection, "host": "/nowhere"}}},
            {"name": "act without server", "database_maintenance": {**act, "connection": {**connection, "host": "/nowhere"}}},
            {"name": "no such limit", "database_maintenance_info": {**ask, "limits": {"speed": 5}}},
            {
                "name": "no such table",
                "database_maintenance_info": {**ask, "retention": [{"table": "none", "time_column": "at", "keep_days": 9}]},
            },
            {"name": "close in check mode", "runbook_close": {**self.close(run)}, "check_mode": True},
            {"name": "look", "ansible.builtin.command": {"cmd": f"find {state} {state}-2 {state}-3 {state}-4 {state}-5 -type f"}},
            {"name": "close", "runbook_close": self.close(run)},
        ]  # fmt: skip

    def close(self, run: dict[str, Any]) -> dict[str, Any]:
        finding = {"id": "x", "subject": "", "severity": "warning", "state": "open", "evidence": ""}
        done = {"step": "vacuum", "subject": "t", "result": "done"}
        kept = {name: value for name, value in run.items() if name != "owner"}
        return {
            **kept, "host": "db1", "ranks": {"x ": {"cause": "root", "rank": 3}}, "before": [finding, {**finding, "id": "cured"}], "after": [finding],
            "evidence_dir": "/e",
            "steps": [{"findings": [{**finding, "id": "told"}], "actions": [done]}], "failed": True,
            "facts": [{"tables": [{"name": "t", "bytes": 9}]}, {"tables": [{"name": "t", "bytes": 5}]}],
            "accepted": [{"id": "x", "reason": "known"}],
        }  # fmt: skip

    def run(self) -> None:
        for role in ("runbook", "database"):
            for part in ("library", "module_utils"):
                target = self.folder / "roles" / role / part
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(ROOT / "roles" / role / part)
        # What fails on purpose is rescued, one by one.
        tasks = [{"block": [task], "rescue": [{"ansible.builtin.meta": "noop"}]} for task in self.tasks()]
        play = {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "roles": ["runbook", "database"],
            "tasks": tasks,
        }
        (self.folder / "play.yml").write_text(yaml.safe_dump([play], sort_keys=False))
        (self.folder / "ansible.cfg").write_text("")
        (self.folder / "own-tool").symlink_to("/bin/true")
        (self.folder / "tool.out").write_text(
            "LoadState=loaded\nActiveState=active\nSubState=running\nResult=success\n"
        )
        environment = {
            **os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_HOME": str(self.folder / "home"),
            "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"), "ANSIBLE_PYTHON_INTERPRETER": sys.executable, "ANSIBLE_LOCALHOST_WARNING": "false",
            "FAKE_CALLS": str(self.folder / "calls"), "FAKE_ANSWERS": str(self.folder),
        }  # fmt: skip
        command = [Path(sys.executable).parent / "ansible-playbook", "-i", "localhost,", "play.yml"]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        self.output = done.stdout
        for task in json.loads(done.stdout)["plays"][0]["tasks"]:
            self.results[task["task"]["name"]] = task["hosts"].get("localhost", {})

    def outcome(self, name: str) -> tuple[bool, str | None]:
        result = self.results[name]
        return bool(result.get("failed")), result.get("runbook", {}).get("outcome")

    def path(self, relative: str) -> Path:
        return self.folder / relative


@pytest.fixture(scope="module")
def world(scratch: Path, bin_dirs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    server = Server(bin_dirs["system15"], scratch / "modules")
    server.create()
    server.sql("CREATE DATABASE llm_metrics")
    server.sql(
        "CREATE SEQUENCE counted; SELECT nextval('counted'); "
        "CREATE TABLE worn (v int); INSERT INTO worn SELECT generate_series(1, 5000); DELETE FROM worn",
        "llm_metrics",
    )
    made = World(tmp_path_factory.mktemp("modules"), server)
    try:
        made.run()
        yield made
    finally:
        server.stop()


# One worker: the others would make the same server once more.
pytestmark = [pytest.mark.server, pytest.mark.xdist_group("modules")]


def test_a_run_is_opened_and_leases_are_taken(world: World) -> None:
    assert world.outcome("open") == (False, None)
    assert world.results["open"]["opened_at"] > 0 and world.results["open"]["changed"] is False
    assert world.path("state/memory").is_dir()


def test_a_lease_of_another_run_refuses_also_in_check_mode(world: World) -> None:
    for name in ("open again", "open again in check mode"):
        assert world.outcome(name) == (True, "refused")
        message = world.results[name]["runbook"]["message"]
        assert "is leased by me@here for a-book (run one)" in message and message == world.results[name]["msg"]
    assert not world.path("state/leases/r:three.json").exists(), "what was taken before the refusal is given back"
    assert world.outcome("open after a death") == (False, None)
    assert world.outcome("open with a bad name") == (True, "bad_input")


def test_check_mode_writes_nothing(world: World) -> None:
    for name in ("open in check mode", "evidence in check mode", "act in check mode", "close in check mode"):
        assert world.outcome(name) == (False, None) and world.results[name]["changed"] is False
    for number in (2, 3, 4, 5):
        assert not world.path(f"state-{number}").exists()
    assert list(world.path("state/memory").glob("database-*.json")), "without check mode a plan remembers the sequences"
    before_close = world.results["look"]["stdout"]
    assert "r:one.json" in before_close and "last/" not in before_close, "close in check mode keeps leases and outcome"


def test_probe_judges_in_check_mode_too(world: World) -> None:
    result = world.results["probe"]
    assert {r["id"]: r["met"] for r in result["results"]} == {"met": True, "unmet": False, "unset": True, "path": True}
    assert [f["id"] for f in result["runbook"]["findings"]] == ["unmet"]
    assert result["results"][1]["stdout"] == "$VALUE\n$(id) 'x'\n"
    assert world.outcome("probe wrongly")[0]
    assert (
        "a check in meta/runbook.yml is written wrongly: unknown expectation contains"
        in world.results["probe wrongly"]["msg"]
    )


def test_secrets_are_not_in_what_ansible_shows(world: World) -> None:
    assert CANARY not in json.dumps(world.results["probe"]), "not even where a check's own command line has it"


def test_evidence_is_kept_masked(world: World) -> None:
    folder = world.path("state/evidence/one")
    assert world.results["evidence"]["folder"] == str(folder) == world.results["evidence"]["runbook"]["evidence_dir"]
    texts = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(texts) == {"a.txt", "id.txt", "app-status.txt", "app-log.txt", "odd-status.txt", "SHA256SUMS", "CUSTODY"}
    assert texts["a.txt"] == "password=********"
    assert texts["id.txt"] == '$ echo "$WORD"; exit 3\nfrom outside\n\nexit code 3\n'
    assert "active (running)" in texts["app-status.txt"] and "manager is 'upstart'" in texts["odd-status.txt"]
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0


def test_components_are_read_and_changed(world: World) -> None:
    changed = {name: world.results[name]["changed"] for name in ("status", "restart in check mode", "start", "restart")}
    assert changed == {"status": False, "restart in check mode": True, "start": False, "restart": True}
    assert world.results["status"]["status"]["before"]["state"] == "running"
    acts = [line for line in world.path("calls").read_text().splitlines() if "[show]" not in line]
    assert acts == ["tool [reset-failed] [app]", "tool [restart] [app]"], "check mode acts on nothing, and what runs is not started"
    assert world.outcome("odd manager")[0] and "manager is 'upstart'" in world.results["odd manager"]["msg"]


def test_a_plan_is_a_change_in_check_mode_only(world: World) -> None:
    check, real = world.results["plan in check mode"], world.results["plan"]
    assert (check["changed"], real["changed"]) == (True, False)
    for result in (check, real):
        assert [(a["step"], a["subject"], a["result"]) for a in result["plan"]] == [
            ("vacuum", "public.worn", "planned")
        ]
    assert check["runbook"]["actions"] == check["plan"] and real["runbook"]["actions"] == []
    assert "vacuum: public.worn: VACUUM ANALYZE (dead rows" in check["diff"]["after"]
    assert real["facts"]["server_version"].startswith("15")


def test_a_step_acts_and_the_next_look_finds_nothing_due(world: World) -> None:
    acted = world.results["act"]
    assert acted["changed"] is True
    assert [(a["subject"], a["result"], a["before"], a["after"]) for a in acted["runbook"]["actions"]] == [
        ("public.worn", "done", 5000, 0)
    ]
    assert world.results["verify"]["plan"] == []
    assert "not-finished" not in [f["id"] for f in world.results["verify"]["runbook"]["findings"]]


def test_a_step_without_its_lease_is_refused(world: World) -> None:
    assert world.outcome("act for another run") == (True, "refused")
    assert world.results["act for another run"]["msg"].startswith("r:one is leased by me@here")


def test_outcomes_of_what_cannot_be_done(world: World) -> None:
    for name in ("no such server", "act without server"):
        assert world.outcome(name) == (True, "unreachable")
        assert "/nowhere" in world.results[name]["runbook"]["message"]
    assert world.outcome("no such table") == (True, "bad_input")
    assert "there is no table 'none'" in world.results["no such table"]["msg"]
    assert world.outcome("no such limit")[0] and world.results["no such limit"]["msg"].startswith(
        "unknown limits: speed; known: "
    )


def test_close_sums_up_and_gives_the_leases_back(world: World) -> None:
    runbook = world.results["close"]["runbook"]
    assert {f["id"]: f["state"] for f in runbook["findings"]} == {"x": "accepted", "cured": "fixed", "told": "open"}
    assert {f["host"] for f in runbook["findings"]} == {"db1"} == {a["host"] for a in runbook["actions"]}
    assert runbook["facts"] == {"tables": [{"name": "t", "bytes_before": 9, "bytes_after": 5}]}
    assert (runbook["final"], runbook["evidence_dir"]) == (True, "/e")
    assert list(world.path("state/leases").glob("*.json")) == []
    last = json.loads(world.path("state/last/a-book.json").read_text())
    assert (last["run_id"], last["failed"], last["open_findings"]) == ("one", True, 1)
    assert [(f["id"], f.get("cause")) for f in last["findings"]] == [("x", "root"), ("cured", None), ("told", None)]
    assert last["actions"] == [{"step": "vacuum", "subject": "t", "result": "done"}]


def test_no_module_warns_or_breaks_down(world: World) -> None:
    for name, result in world.results.items():
        told = f"{result.get('exception')} {result.get('module_stderr')} {result.get('msg')}"
        assert "Traceback" not in told and "MODULE FAILURE" not in told, f"{name}: {told}"
        assert result.get("warnings", []) == [], name
        assert result.get("deprecations", []) == [], name
