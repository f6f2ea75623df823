"""The scan as Ansible runs it: one playbook calls it several times over one folder of logs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.logs_leaks import LogFile, look
from ansible.module_utils.logs_scanner import Limits
from test_modules import arguments, comparable, load

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "roles" / "logs" / "library" / "logs_scan.py"
NOW = 1_790_000_000.0
# Put together here, so that nothing in this file is what is looked for.
KEY = "sk-" + "proj-" + "aB3dE5gH7jK9mN1pQ2rS4tU6vW8x"
PASSWORD = "Hunter" + "-2-the-Moon"
MAIL = "jane.doe" + "@" + "some-firm.org"
PROMPT = "Summarise what my doctor wrote"
SECRETS = (KEY, PASSWORD, MAIL, PROMPT)


def tracker(level: str, message: str) -> str:
    entry = {"timestamp": "2026-09-21T10:00:00.000+00:00", "level": level, "logger": "tracker", "message": message}
    return json.dumps(entry) + "\n"


# --- documentation ------------------------------------------------------------------------------------------------


def test_documented_options_are_those_of_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(MODULE)
    documentation = yaml.safe_load(module.DOCUMENTATION)
    given = arguments(module, monkeypatch)
    assert documentation["module"] == "logs_scan" and given["supports_check_mode"] is True
    assert comparable(documentation["options"], "suboptions") == comparable(given["argument_spec"], "options")
    assert [name for name, option in documentation["options"].items() if not option.get("description")] == []


def test_examples_and_returns_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(MODULE)
    options = yaml.safe_load(module.DOCUMENTATION)["options"]
    for task in yaml.safe_load(module.EXAMPLES):
        assert {"files", "state_dir"} <= set(task["logs_scan"]) <= set(options)
    assert all({"description", "type", "returned"} <= set(entry) for entry in yaml.safe_load(module.RETURN).values())


def test_the_text_of_an_error_is_not_told() -> None:
    module = load(MODULE)
    try:
        int(PASSWORD)
    except ValueError as error:
        told = module.where(error)
    assert PASSWORD not in told
    assert "ValueError in test_logs_scan_module.py, line" in told


# --- judgement ----------------------------------------------------------------------------------------------------


def looked(folder: Path, memory: dict[str, Any] | None = None, error_rate: float = 60, **limits: Any) -> Any:
    files = [LogFile(str(path), "app", "confidential") for path in sorted(folder.glob("*.log"))]
    return look(files, memory or {}, Limits(**limits), error_rate, lambda: 0.0, NOW)


def told(result: Any) -> list[tuple[str, str, str]]:
    return [(f["id"], f["severity"], f["subject"]) for f in result.findings]


def test_findings_by_what_is_found(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    statement = f"LOG:  statement: INSERT INTO llm_usage_logs (prompt_text) VALUES ('{PROMPT}')\n"
    log.write_text(f"x\nkey {KEY}\nkey {KEY}\npassword={PASSWORD}\nby {MAIL}\n{statement}")
    result = looked(tmp_path)
    assert told(result) == [
        ("secret-in-log", "critical", f"{log}: OpenAI API key"),
        ("secret-in-log", "critical", f"{log}: password"),
        ("prompts-in-log", "warning", f"{log}: prompt in a statement"),
        ("personal-data-in-log", "info", f"{log}: mail address"),
    ]
    first = result.findings[0]
    assert first["observed"] == "2 lines, first line 2: key sk-p***8x"
    assert first["expected"] == "none (classification confidential)" and first["remedy"].startswith("Revoke it first")
    assert "log_statement=none" in result.findings[2]["remedy"]
    assert result.facts["secrets"] == {"mail-address": 1, "openai-key": 2, "password": 1, "prompt-statement": 1}
    everything = json.dumps([result.findings, result.facts, result.memory])
    assert [secret for secret in SECRETS if secret in everything] == []


def test_a_new_error_is_told_and_one_that_comes_often_warns(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(tracker("ERROR", "insert failed") * 61 + tracker("ERROR", "one more") + tracker("ERROR", "and more"))
    result = looked(tmp_path)
    fingerprint = result.facts["errors"][0]["fingerprint"]
    assert told(result) == [("new-errors", "warning", f"{log}: {fingerprint}"), ("new-errors", "info", "")]
    assert result.findings[0]["observed"] == "61 times, 61 an hour: ERROR insert failed"
    assert result.findings[1]["observed"].startswith("2 messages, the most frequent 1 times: ERROR ")
    assert told(looked(tmp_path, error_rate=61)) == [("new-errors", "info", "")]
    with log.open("a") as file:
        file.write(tracker("ERROR", "insert failed") * 200)
    again = looked(tmp_path, json.loads(json.dumps(result.memory)))
    assert told(again) == [] and again.facts["errors"][0]["count"] == 200
    assert again.facts["errors"][0]["first_seen"] == "2026-09-21T10:00:00Z"


def test_no_more_than_ten_errors_are_in_the_report(tmp_path: Path) -> None:
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    (tmp_path / "a.log").write_text("".join(tracker("ERROR", f"failed {word}") * 99 for word in words))
    result = looked(tmp_path)
    assert len(result.facts["errors"]) == 10
    assert [f["severity"] for f in result.findings] == ["warning"] * 10 + ["info"]


def test_what_is_left_over_is_told(tmp_path: Path) -> None:
    for name in ("a.log", "b.log"):
        (tmp_path / name).write_text(tracker("INFO", "fine") * (200 if name == "b.log" else 100))
    small = {"max_bytes": 1, "block_bytes": 500, "long_line_bytes": 100, "turn_bytes": 500}
    result = looked(tmp_path, **small)
    assert told(result) == [("scan-behind", "info", "")]
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size - 1500 <= result.facts["unscanned_bytes"] < size
    assert f"in 2 files are left, most of it in {tmp_path / 'b.log'}" in result.findings[0]["observed"]
    assert told(looked(tmp_path, result.memory)) == []


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.log").symlink_to("/etc/passwd")
    result = look(
        [LogFile(str(tmp_path / "a.log")), LogFile(str(tmp_path / "gone.log"))], {}, Limits(), 60, lambda: 0.0, NOW
    )
    assert [(f["id"], f["severity"], Path(f["subject"]).name, f["observed"]) for f in result.findings] == [
        ("log-unreadable", "warning", "a.log", "it is a symbolic link"),
        ("log-unreadable", "info", "gone.log", "it is gone"),
    ]


# --- one run of all -----------------------------------------------------------------------------------------------


class World:
    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / "state"
        self.results: dict[str, dict[str, Any]] = {}
        self.output = ""

    def tasks(self) -> list[dict[str, Any]]:
        log, other = self.folder / "app.log", self.folder / "other.log"
        files = [{"path": str(log), "policy": "app", "classification": "confidential"}, {"path": str(other)}]
        given = {"files": files, "state_dir": str(self.state)}

        def shell(name: str, script: str) -> dict[str, Any]:
            return {"name": name, "ansible.builtin.shell": script}

        return [
            {"name": "in check mode", "logs_scan": given, "check_mode": True},
            shell("look", f"find {self.state} -type f 2>/dev/null; true"),
            {"name": "first", "logs_scan": given},
            {"name": "second", "logs_scan": given},
            shell("append", f"cat {self.folder}/more >>{log}"),
            {
                "name": "third",
                "logs_scan": {**given, "personal_data": False, "error_rate_warn_per_hour": 1, "nice": 19},
            },
            {"name": "behind", "logs_scan": {**given, "state_dir": f"{self.state}-2", "max_seconds": 0}},
            shell("damage", f"echo '{{' >{self.state}/memory/logs-scan.json"),
            {"name": "damaged", "logs_scan": given},
            {"name": "bad input", "logs_scan": {**given, "files": [{"path": str(log), "classification": "secret"}]}},
        ]

    def run(self) -> None:
        for role in ("runbook", "logs"):
            for part in ("library", "module_utils"):
                target = self.folder / "roles" / role / part
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(ROOT / "roles" / role / part)
        (self.folder / "app.log").write_text(
            tracker("INFO", "fine") * 20 + tracker("ERROR", f"key {KEY} for {MAIL} refused")
        )
        (self.folder / "other.log").write_bytes(b"\xff\0\xfe\n" * 9 + f"password={PASSWORD}\n".encode())
        (self.folder / "more").write_text(tracker("CRITICAL", "no database") * 5 + f"redis://:{PASSWORD}@cache:6379\n")
        tasks = [{"block": [task], "rescue": [{"ansible.builtin.meta": "noop"}]} for task in self.tasks()]
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
            "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg"), "ANSIBLE_PYTHON_INTERPRETER": sys.executable, "ANSIBLE_LOCALHOST_WARNING": "false",
        }  # fmt: skip
        command = [Path(sys.executable).parent / "ansible-playbook", "-vvv", "-i", "localhost,", "play.yml"]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        self.output = done.stdout + done.stderr
        for task in json.loads(done.stdout[done.stdout.index("\n{") :])["plays"][0]["tasks"]:
            self.results[task["task"]["name"]] = task["hosts"].get("localhost", {})

    def found(self, name: str) -> list[tuple[str, str]]:
        return [(f["id"], Path(f["subject"]).name) for f in self.results[name]["runbook"]["findings"]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("scan"))
    made.run()
    yield made


pytestmark = pytest.mark.xdist_group("logs-scan")
FIRST = [
    ("secret-in-log", "app.log: OpenAI API key"),
    ("personal-data-in-log", "app.log: mail address"),
    ("secret-in-log", "other.log: password"),
]


def test_findings_stay_open_though_nothing_is_read_twice(world: World) -> None:
    assert world.found("first") == [*FIRST, ("new-errors", "")]
    assert world.found("second") == FIRST
    first, second = world.results["first"], world.results["second"]
    assert first["changed"] is False and first["runbook"]["actions"] == []
    # What is told by a look that is not one at the whole host stays open, whatever later looks see.
    assert "complete" not in first["runbook"]
    assert (
        first["facts"]["scanned_bytes"]
        == sum((world.folder / n).stat().st_size for n in ("app.log", "other.log"))
        - (world.folder / "more").stat().st_size
    )
    assert (second["facts"]["scanned_bytes"], second["facts"]["errors"]) == (0, [])
    assert first["runbook"]["findings"][0]["observed"].startswith("1 line, first line 21: ")


def test_check_mode_shows_the_same_and_remembers_nothing(world: World) -> None:
    assert world.found("in check mode") == world.found("first")
    assert world.results["look"]["stdout"] == ""
    assert (world.state / "memory").stat().st_mode & 0o777 == 0o700


def test_what_was_appended_is_found_with_the_options_given(world: World) -> None:
    assert [each for each in world.found("third") if each[0] == "secret-in-log"] == [
        ("secret-in-log", "app.log: OpenAI API key"), ("secret-in-log", "app.log: password in a URL"), FIRST[2],
    ]  # fmt: skip
    assert "personal-data-in-log" not in [each[0] for each in world.found("third")]
    loud = [f for f in world.results["third"]["runbook"]["findings"] if f["id"] == "new-errors"]
    assert [(f["severity"], f["observed"]) for f in loud] == [("warning", "5 times, 5 an hour: CRITICAL no database")]


def test_a_run_without_time_is_behind(world: World) -> None:
    assert world.found("behind") == [("scan-behind", "")]
    assert world.results["behind"]["facts"]["scanned_bytes"] == 0


def test_a_damaged_memory_and_bad_input_are_told(world: World) -> None:
    damaged = world.results["damaged"]
    assert damaged["failed"] and "logs-scan.json cannot be read" in damaged["msg"]
    assert damaged["runbook"]["message"] == damaged["msg"]
    assert world.results["bad input"]["failed"] and "confidential" in world.results["bad input"]["msg"]


def test_no_value_is_in_any_output_or_memory(world: World) -> None:
    kept = [path.read_bytes() for path in world.folder.glob("state*/**/*") if path.is_file()]
    assert len(kept) == 2
    for secret in SECRETS[:3]:
        assert secret not in world.output
        assert not any(secret.encode() in text for text in kept)


def test_nothing_warns_or_breaks_down(world: World) -> None:
    for name, result in world.results.items():
        shown = f"{result.get('exception')} {result.get('module_stderr')} {result.get('msg')}"
        assert "Traceback" not in shown and "MODULE FAILURE" not in shown, f"{name}: {shown}"
        assert result.get("warnings", []) == [] == result.get("deprecations", []), name
