"""Roles: inputs described once, steps that are files, files that stay readable."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.database_planner import Limits
from support.repository import ROLES, ROOT, RUNBOOK_FILES, RUNBOOK_ROLES, entry, load, name, runbook, tasks

TYPES = {
    "str": str,
    "path": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "list": list,
    "dict": dict,
    "raw": object,
}
INCLUDES = ("ansible.builtin.include_tasks", "ansible.builtin.import_tasks")
TASK_FILES = sorted(path for role in ROLES for path in (role / "tasks").glob("*.yml"))


def specs(role: Path) -> dict[str, Any]:
    """Return the inputs of all entry points of a role; one that several have is described once."""
    found: dict[str, Any] = {}
    for point in load(role / "meta" / "argument_specs.yml")["argument_specs"].values():
        for key, option in point["options"].items():
            assert found.setdefault(key, option) == option, f"{key} is described in two ways"
    return found


def defaults(role: Path) -> dict[str, Any]:
    return load(role / "defaults" / "main.yml") or {}


@pytest.mark.parametrize("role", ROLES, ids=lambda r: r.name)
def test_inputs_have_a_default_and_a_description_or_neither(role: Path) -> None:
    described, given = specs(role), defaults(role)
    assert sorted(set(given) - set(described)) == [], "defaults without a description"
    silent = {key for key, option in described.items() if option.get("required") or option.get("default") is None}
    assert sorted(set(described) - set(given) - silent) == [], "described with a default that is not there"


@pytest.mark.parametrize("role", ROLES, ids=lambda r: r.name)
def test_the_described_default_is_the_default(role: Path) -> None:
    described = specs(role)
    differ = {
        key: (value, described[key].get("default"))
        for key, value in defaults(role).items()
        if key in described and value != described[key].get("default")
    }
    assert differ == {}
    wrong = {
        key: value
        for key, value in defaults(role).items()
        if value is not None and "{{" not in str(value) and not _fits(value, described[key]["type"])
    }
    assert wrong == {}, "defaults that are not of the described type"


def _fits(value: Any, kind: str) -> bool:
    return isinstance(value, TYPES[kind]) and (kind == "bool" or not isinstance(value, bool))


@pytest.mark.parametrize("role", ROLES, ids=lambda r: r.name)
def test_inputs_are_named_for_their_role_and_described(role: Path) -> None:
    points = [f"{point}_" for point in load(role / "meta" / "argument_specs.yml")["argument_specs"] if point != "main"]
    for key, option in specs(role).items():
        assert key.startswith((f"{role.name}_", *points)), key
        assert option.get("type") in TYPES and option.get("description"), key
        for inner, part in (option.get("options") or {}).items():
            assert part.get("type") in TYPES and part.get("description"), f"{key}.{inner}"


def test_the_planner_alone_decides_as_the_role_does() -> None:
    given = defaults(ROOT / "roles" / "database")
    own = {field.name: field.default for field in fields(Limits)}
    assert own == {key: given[f"database_{key}"] for key in own}


def includes(path: Path) -> list[str]:
    found = []
    for task in tasks(load(path)):
        for keyword in INCLUDES:
            if keyword in task:
                file = task[keyword] if isinstance(task[keyword], str) else task[keyword]["file"]
                found.append(file.removesuffix(".yml"))
    return found


def contents(path: Path) -> Path:
    """Return the contents page of a runbook: the task file of its entry point."""
    return path.parents[1] / "tasks" / f"{entry(path)}.yml"


def check_of(path: Path) -> str:
    return "check" if entry(path) == "main" else f"{entry(path)}-check"


@pytest.mark.parametrize("path", RUNBOOK_FILES, ids=name)
def test_steps_are_files_in_their_order(path: Path) -> None:
    steps = [step["id"] for step in runbook(path)["steps"] if step["kind"] != "manual"]
    assert len(steps) == len(set(steps))
    assert [file for file in includes(contents(path)) if file != "check"] == steps
    assert contents(path).with_name(f"{check_of(path)}.yml").exists()


@pytest.mark.parametrize("role", RUNBOOK_ROLES, ids=lambda r: r.name)
def test_files_are_steps(role: Path) -> None:
    known = set()
    for path in (role / "meta").glob("runbook*.yml"):
        steps = {step["id"] for step in runbook(path)["steps"] if step["kind"] != "manual"}
        assert not steps & known, "a step's id is that of its file"
        known |= steps | {entry(path), check_of(path)}
    # A part of a step that is included is named for it, as issue_sign is.
    assert {re.sub(r"_\w+$", "", path.stem) for path in (role / "tasks").glob("*.yml")} == known


@pytest.mark.parametrize("path", RUNBOOK_FILES, ids=name)
def test_a_step_hands_its_result_to_the_frame(path: Path) -> None:
    """The frame collects what steps register as __<role>_step_<id>; a tool has no frame."""
    if runbook(path)["category"] == "tool":
        return
    role = path.parents[1]
    for step in runbook(path)["steps"]:
        if step["kind"] == "manual":
            continue
        registered = [task.get("register") for task in tasks(load(role / "tasks" / f"{step['id']}.yml"))]
        assert f"__{role.name}_step_{step['id'].replace('-', '_')}" in registered, step["id"]


CONTENTS = {contents(path) for path in RUNBOOK_FILES} | {role / "tasks" / "main.yml" for role in ROLES}


@pytest.mark.parametrize("path", TASK_FILES, ids=name)
def test_tasks_are_named_for_their_step(path: Path) -> None:
    for task in tasks(load(path)):
        pattern = r"[A-Z].*[^.]" if path in CONTENTS else rf"{path.stem} \| [A-Z].*[^.]"
        assert re.fullmatch(pattern, str(task.get("name"))), f"{task.get('name')!r} is not of the form {pattern}"


@pytest.mark.parametrize("path", TASK_FILES, ids=name)
def test_task_files_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= (40 if path in CONTENTS else 120)


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("roles/*/tasks/*.yml")) + sorted(ROOT.glob("playbooks/*.yml")), ids=name
)
def test_no_failure_is_swallowed(path: Path) -> None:
    for play_or_task in load(path):
        inner = [
            *tasks(play_or_task.get("tasks")),
            *tasks(play_or_task.get("pre_tasks")),
            *tasks(play_or_task.get("post_tasks")),
        ]
        for task in [*tasks([play_or_task]), *inner]:
            assert "ignore_errors" not in task and "ignore_unreachable" not in task, task.get("name")
            assert task.get("failed_when") is not False, task.get("name")
            assert "ansible.builtin.pause" not in task and "ansible.builtin.shell" not in task, task.get("name")
