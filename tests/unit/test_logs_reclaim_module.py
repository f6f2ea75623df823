# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""The reclaim as Ansible runs it: one playbook calls it several times on one file system that is full."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_modules import arguments, comparable, load

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "roles" / "logs" / "library" / "logs_reclaim.py"
MIB = 1 << 20


# --- documentation ------------------------------------------------------------------------------------------------


def test_documented_options_are_those_of_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(MODULE)
    documentation = yaml.safe_load(module.DOCUMENTATION)
    given = arguments(module, monkeypatch)
    assert documentation["module"] == "logs_reclaim" and given["supports_check_mode"] is True
    assert comparable(documentation["options"], "suboptions") == comparable(given["argument_spec"], "options")
    assert [name for name, option in documentation["options"].items() if not option.get("description")] == []


def test_examples_and_returns_are_described() -> None:
    module = load(MODULE)
    options = yaml.safe_load(module.DOCUMENTATION)["options"]
    required = {name for name, option in options.items() if option.get("required")}
    for task in yaml.safe_load(module.EXAMPLES):
        assert required <= set(task["logs_reclaim"]) <= set(options)
    assert all({"description", "type", "returned"} <= set(entry) for entry in yaml.safe_load(module.RETURN).values())


# --- one playbook -------------------------------------------------------------------------------------------------


class World:
    """A full file system, and what the tasks of the playbook gave, by their names."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.full = folder, folder / "full"
        self.results: dict[str, dict[str, Any]] = {}

    def build(self) -> None:
        for name in ("full/tracker", "full/log", "archive", "evidence", "full/redis"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.full / "tracker" / "ballast").write_bytes(b"\0" * 3 * MIB)
        self.old = os.urandom(3 * MIB)
        (self.full / "log" / "app.log.1.gz").write_bytes(self.old)
        then = time.time() - 60 * 86400
        os.utime(self.full / "log" / "app.log.1.gz", (then, then))
        (self.full / "redis" / "dump.rdb").write_bytes(os.urandom(MIB))
        with (self.full / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(os.urandom(4096))

    def tasks(self) -> list[dict[str, Any]]:
        policy = {"name": "app", "paths": [f"{self.full}/log/*.log"], "keep_days": 30, "archive": True}
        given = {
            "filesystems": [str(self.full)], "target_percent": 30, "host": "app1", "state_dir": str(self.full / "state"),
            "evidence_dirs": [str(self.folder / "evidence")], "ballast_file": str(self.full / "tracker" / "ballast"),
            "policies": [policy], "archive_location": str(self.folder / "archive"), "archive_host": "app1", "run_id": "one",
            "owner": "me@here", "leases": ["host:app1"],
        }  # fmt: skip
        other = {**given, "run_id": "two"}
        calls: list[tuple[str, dict[str, Any], bool]] = [
            ("check", given, True), ("bad target", {**given, "target_percent": 95}, False),
            ("bad cache", {**given, "caches": ["/usr"]}, False),
            ("restic without passphrase", {**given, "archive_location": "sftp:x:/y"}, False),
            ("on hold", {**given, "hold_file": str(self.full / "redis"), "ballast_file": None}, False),
            ("run", given, False), ("of another run", {**other, "target_percent": 40}, False), ("again", given, False),
            ("check again", given, True),
        ]  # fmt: skip
        return [
            {"name": name, "logs_reclaim": options, **({"check_mode": True} if check else {})}
            for name, options, check in calls
        ]

    def run(self) -> None:
        for role in ("runbook", "logs"):
            for part in ("library", "module_utils"):
                target = self.folder / "roles" / role / part
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(ROOT / "roles" / role / part)
        find = f"find {self.full} {self.folder}/evidence {self.folder}/archive"
        look = {"name": "files after the check", "ansible.builtin.command": {"cmd": find}}
        tasks: list[dict[str, Any]] = [
            {"block": [task], "rescue": [{"ansible.builtin.meta": "noop"}]} for task in self.tasks()
        ]
        tasks.insert(1, look)
        play = {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "roles": ["runbook", "logs"],
            "tasks": tasks,
        }
        (self.folder / "play.yml").write_text(yaml.safe_dump([play], sort_keys=False))
        (self.folder / "ansible.cfg").write_text("")
        environment = {
            **os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_HOME": str(self.folder / "home"),
            "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"), "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "ANSIBLE_LOCALHOST_WARNING": "false",
        }  # fmt: skip
        command = [Path(sys.executable).parent / "ansible-playbook", "-i", "localhost,", "play.yml"]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        for task in json.loads(done.stdout)["plays"][0]["tasks"]:
            self.results[task["task"]["name"]] = task["hosts"].get("localhost", {})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("reclaim"))
    made.full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(made.full)], check=True)
    try:
        made.build()
        made.run()
        yield made
    finally:
        subprocess.run(["umount", "-l", str(made.full)], check=True)


def actions(world: World, name: str) -> list[tuple[str, str]]:
    return [(one["step"], one["result"]) for one in world.results[name]["runbook"]["actions"]]


def test_check_mode_shows_the_bytes_and_touches_nothing(world: World) -> None:
    result = world.results["check"]
    assert result["changed"] and actions(world, "check") == [("ballast", "planned"), ("retention", "planned")]
    assert [one["before"] - one["after"] for one in result["runbook"]["actions"]] == [3 * MIB, 3 * MIB]
    files = world.results["files after the check"]["stdout_lines"]
    assert f"{world.full}/tracker/ballast" in files and f"{world.full}/log/app.log.1.gz" in files
    assert not [path for path in files if "/evidence/" in path or "/archive/" in path]


@pytest.mark.parametrize(
    ("name", "words"),
    [("bad target", "target_percent is 95"), ("bad cache", "'/usr'"), ("restic without passphrase", "passphrase")],
)
def test_what_makes_no_sense_is_refused(world: World, name: str, words: str) -> None:
    result = world.results[name]
    assert result["failed"] and result["runbook"]["outcome"] == "refused" and words in result["msg"]


def test_a_hold_file_that_cannot_be_read_holds(world: World) -> None:
    result = world.results["on hold"]
    assert not result["changed"] and actions(world, "on hold") == []
    assert "reclaim-on-hold" in [found["id"] for found in result["runbook"]["findings"]]


def test_a_run_frees_and_tells_of_each_rung(world: World) -> None:
    result = world.results["run"]
    assert result["changed"] and actions(world, "run") == [("ballast", "done"), ("retention", "done")]
    assert [one["rung"] for one in result["facts"]["reclaimed"]] == ["ballast", "retention"]
    assert result["facts"]["space"][0]["free_percent"] >= 30
    (bundle,) = result["facts"]["evidence"]
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=bundle, check=True, capture_output=True)
    (kept,) = (world.folder / "archive").rglob("app.log.1.gz")
    assert kept.read_bytes() == world.old and (world.full / "redis" / "dump.rdb").stat().st_size == MIB


def test_a_lease_of_another_run_refuses(world: World) -> None:
    result = world.results["of another run"]
    assert result["failed"] and result["runbook"]["outcome"] == "refused" and "leased by me@here" in result["msg"]


def test_with_enough_space_nothing_changes(world: World) -> None:
    for name in ("again", "check again"):
        assert not world.results[name]["changed"] and actions(world, name) == []
        assert world.results[name]["runbook"]["findings"] == []
