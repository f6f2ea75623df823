# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Hosts as nobody sets them up on purpose: odd configuration, odd files, writers of other namespaces, runs that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import logs_logrotate, logs_work
from ansible.module_utils.logs_archive import FolderArchive
from ansible.module_utils.logs_arguments import printable
from ansible.module_utils.logs_files import rotated_files, rotated_of
from ansible.module_utils.logs_planner import Thresholds, plan
from ansible.module_utils.logs_policy import DISABLED
from ansible.module_utils.logs_proof import stand_ins
from ansible.module_utils.logs_survey import Surveyor, files_to_scan
from ansible.module_utils.logs_work import Logs
from ansible.module_utils.runbook_tools import ToolError, Tools
from support.logs import DAY, Host, ids, wait

TESTS = Path(__file__).resolve().parents[1]
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="it needs root's rights")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path / "host")
    yield made
    made.end()


@pytest.fixture
def app(host: Host) -> Host:
    """A host with one log and its policy, where nothing is due yet."""
    host.policies({"name": "app"})
    host.log("app.log", 50)
    assert [a["result"] for a in host.carry_out().actions] == ["done"] * 3
    return host


def main(host: Host, text: str) -> None:
    path = Path(host.given.config)
    path.write_text(text)
    path.chmod(0o644)


# --- configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["in the folder", "named"])
def test_a_fifo_is_told_and_waited_for_by_nobody(host: Host, place: str) -> None:
    fifo = (host.folder if place == "in the folder" else host.root) / "pipe"
    os.mkfifo(fifo)
    main(host, f"include {fifo}\ninclude {host.folder}\n" if place == "named" else f"include {host.folder}\n")
    host.policies({"name": "app"})
    host.log("app.log")
    _, planned = host.look()
    told = next(f for f in planned.findings if f["id"] == "logrotate-hangs")
    assert (told["subject"], told["severity"]) == (str(fifo), "critical") and str(fifo) in planned.blocked["app"]
    with pytest.raises(ToolError, match="took longer"):  # it is true
        Tools().run(["logrotate", "--debug", "--state", str(host.root / "s"), host.given.config], limit_seconds=1)
    fifo.unlink()
    main(host, f"include {host.folder}\n")
    host.carry_out()
    assert host.look()[1].actions == []


def test_folders_and_dangling_links_among_the_configuration_stop_nothing(host: Host) -> None:
    (host.folder / "folder").mkdir()
    (host.folder / "dangling").symlink_to("/nowhere/at/all")
    host.policies({"name": "app"})
    host.log("app.log")
    assert [a["result"] for a in host.carry_out().actions] == ["done"] * 3
    _, planned = host.look()
    assert planned.actions == []
    assert [f["observed"] for f in planned.findings if f["id"] == "logrotate-message"] == [
        "failed to open config file dangling: No such file or directory"
    ]


@pytest.mark.parametrize("text", ["weekly\n", "include FOLDER/*\n", "taboopat + llm-*\ninclude FOLDER\n"])
def test_a_policy_that_logrotate_would_never_read_is_not_put_in_place(host: Host, text: str) -> None:
    main(host, text.replace("FOLDER", str(host.folder)))
    host.policies({"name": "app"})
    host.log("app.log")
    assert f"add the line `include {host.folder}` to {host.given.config}" in host.look()[1].blocked["app"]
    assert host.carry_out().actions == [] and os.listdir(host.folder) == []


def test_a_main_file_that_logrotate_ignores_is_told_as_such(host: Host) -> None:
    main(host, f"include {host.folder}\n")
    os.chmod(host.given.config, 0o664)
    host.policies({"name": "app"})
    assert "logrotate ignores" in host.look()[1].blocked["app"] and "mode 0664" in host.look()[1].blocked["app"]


def test_what_another_folder_holds_cannot_be_replaced(host: Host) -> None:
    (host.root / "one").write_text(f"{host.logs}/app.log {{\n weekly\n}}\n")
    main(host, f"include {host.root}/one\ninclude {host.folder}\n")
    host.policies({"name": "app"})
    told = host.look()[1].blocked["app"]
    assert f"{host.root}/one:1" in told and "take the path out" in told and "replaces" not in told


@root_only
@pytest.mark.parametrize("how", ["mode", "owner"])
def test_a_file_of_ours_that_logrotate_ignores_is_mended(app: Host, how: str) -> None:
    path = app.folder / "llm-cost-tracker-app"
    if how == "mode":
        path.chmod(0o664)
    else:
        os.chown(path, 65534, 65534)
    assert [(a["subject"], a["reason"].split(":")[0]) for a in app.look()[1].actions] == [
        ("app", "logrotate ignores its file")
    ]
    app.carry_out()
    assert app.look()[1].actions == [] and path.stat().st_mode & 0o777 == 0o644 and path.stat().st_uid == 0


@root_only
def test_what_this_user_cannot_read_is_told(host: Host) -> None:
    # In the child, as root reads everything.
    path = host.folder / "secret"
    path.write_text(f"{host.logs}/other.log {{\n}}\n")
    path.chmod(0)
    main(host, f"include {host.folder}\n")
    for place in (host.root, host.folder, host.logs):
        os.chown(place, 65534, 65534)
    host.policies({"name": "app"})
    host.log("app.log", 5)
    os.chown(host.logs / "app.log", 65534, 65534)
    host.look(write=False)  # whatever Python loads late is loaded: the child may not read where it is installed
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            os.setgid(65534)
            os.setuid(65534)
            _, planned = host.look()
            told = {
                "ignored": [f["subject"] for f in planned.findings if f["id"] == "logrotate-ignored"],
                "blocked": planned.blocked,
            }
        except BaseException as error:
            told = {"error": repr(error)}
        os.write(writer, json.dumps(told).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert json.loads(os.read(reader, 65536)) == {"ignored": [str(path)], "blocked": {}}


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a link", "a FIFO", "a folder"])
def test_what_is_no_log_is_told(host: Host, kind: str) -> None:
    path = host.logs / "app.log"
    if kind == "a link":
        (host.root / "real.log").write_text("line\n")
        path.symlink_to(host.root / "real.log")
    elif kind == "a FIFO":
        os.mkfifo(path)
    else:
        path.mkdir()
    host.policies({"name": "app"})
    host.carry_out()
    _, planned = host.look()
    told = next(f for f in planned.findings if f["id"] == "no-log-file")
    assert told["subject"] == str(path) and told["observed"].startswith(kind) and planned.actions == []


def test_a_link_to_a_log_of_the_same_policy_is_nothing(host: Host) -> None:
    host.policies({"name": "app", "paths": [f"{host.logs}/*.log"]})
    host.log("app-3.log")
    (host.logs / "app.log").symlink_to("app-3.log")
    assert "no-log-file" not in ids(host.look()[1].findings)


def test_thousands_of_files_are_read_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(300):
        (host.logs / f"a{number}.log").touch(0o644)
        (host.logs / f"a{number}.log.1").touch(0o644)
    listed: list[str] = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path=".": listed.append(str(path)) or real(path))
    assert len(rotated_files([f"{host.logs}/*.log"])) == 300
    assert listed.count(str(host.logs)) == 1


def test_findings_about_thousands_of_files_leave_room_for_others(host: Host) -> None:
    host.policies({"name": "app", "paths": [f"{host.logs}/*.log"]})
    for number in range(50):
        host.log(f"a{number}.log").chmod(0o644)
    told = [f for f in host.look()[1].findings if f["id"] == "log-readable"]
    assert len(told) == 21 and (told[-1]["subject"], told[-1]["observed"]) == ("app", "30 more files")


def test_a_proof_needs_no_stand_in_for_each_of_thousands(host: Host) -> None:
    host.policies({"name": "app", "paths": [f"{host.logs}/*.log"]})
    for number in range(100):
        host.log(f"a{number}.log")
    assert len(stand_ins(host.look()[0].services[0].live)) == 20
    assert [a["result"] for a in host.carry_out().actions] == ["done"] * 3 and host.look()[1].actions == []


@root_only
@pytest.mark.parametrize("flags", ["bind", "immutable"])
def test_a_folder_that_takes_no_change_is_told_and_loses_nothing(host: Host, flags: str) -> None:
    host.policies({"name": "app"})
    path = host.log("app.log", 50)
    if flags == "bind":
        subprocess.run(["mount", "--bind", str(host.logs), str(host.logs)], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(host.logs)], check=True)
    else:
        subprocess.run(["chattr", "+i", str(host.logs)], check=True)
    try:
        failed = next(a for a in host.carry_out().actions if a["step"] == "rotate")
        _, planned = host.look()
    finally:
        undo = ["umount", str(host.logs)] if flags == "bind" else ["chattr", "-i", str(host.logs)]
        subprocess.run(undo, check=True)
    assert (
        failed["result"] == "failed"
        and failed["detail"].startswith("failed to rename")
        and host.numbers(path) == list(range(50))
    )
    read_only = [f["subject"] for f in planned.findings if f["id"] == "filesystem-read-only"]
    assert read_only == ([str(host.logs)] if flags == "bind" else [])
    assert [a["result"] for a in host.carry_out().actions] == ["done"] and host.look()[1].actions == []


def test_a_name_that_is_no_text_is_shown_and_not_handed_on(host: Host) -> None:
    host.policies({"name": "app", "paths": [f"{host.logs}/*.log"]})
    host.log("app.log")
    host.log("with spaces 'and quotes'.log")
    odd = os.fsdecode(os.fsencode(host.logs) + b"/n\xe9\xff.log")
    Path(odd).write_text("line\n")
    Path(odd).chmod(0o644)
    picture, planned = host.look()
    assert [os.path.basename(f["path"]) for f in files_to_scan(picture)] == ["app.log", "with spaces 'and quotes'.log"]
    assert [f["subject"] for f in planned.findings if f["id"] == "odd-name"] == [odd]
    shown = json.dumps(
        printable(planned.findings), ensure_ascii=False
    ).encode()  # which Ansible does, and fails otherwise
    assert b"/n\\\\xe9\\\\xff.log" in shown
    assert [a["result"] for a in host.carry_out().actions] == ["done"] * 3 and host.look()[1].actions == []


# --- time -----------------------------------------------------------------------------------------------------------


def test_a_run_in_the_future_is_no_fresh_one(app: Host) -> None:
    picture, _ = app.look()
    picture.scheduler, picture.last_run = "cron", picture.now + 300 * DAY
    told = next(f for f in plan(picture, Thresholds()).findings if f["id"] == "logrotate-stale")
    assert told["observed"] == "300.0 days in the future"


def ended(pid: int) -> bool:
    """Return whether a process is no more, or waits for nobody but its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_script_that_hangs_is_ended_and_the_next_run_goes_on(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_logrotate, "ROTATION_SECONDS", 1)
    host.policies({"name": "app", "reopen": "command", "command": f"sleep 300 & echo $! > {host.root}/pid; wait"})
    path = host.log("app.log", 50)
    failed = next(a for a in host.carry_out().actions if a["step"] == "rotate")
    assert failed["result"] == "failed" and "took longer than 1 s" in failed["detail"]
    assert host.numbers(path) == list(range(50)) and ended(int((host.root / "pid").read_text()))
    host.policies({"name": "app", "reopen": "command", "command": "true"})
    assert "logrotate-state" not in ids(host.look()[1].findings)
    path.write_text("line 50\n")
    assert [a["result"] for a in host.carry_out().actions] == ["done", "done"]
    assert host.numbers(path) == list(range(51)) and host.look()[1].actions == []


def test_a_lock_of_another_logrotate_is_waited_for(app: Host) -> None:
    (app.logs / "app.log").write_text("line 50\n")
    app.policies({"name": "app", "keep": 9})
    code = "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); time.sleep(1)"
    with subprocess.Popen([sys.executable, "-c", code, app.given.state_file], stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline()
        assert [a["result"] for a in app.carry_out().actions] == ["done", "done"]
    assert app.look()[1].actions == []


# --- writers --------------------------------------------------------------------------------------------------------


def test_a_writer_behind_a_linked_folder_is_seen(host: Host) -> None:
    path = host.write("app.log", "usr1")
    (host.root / "link").symlink_to(host.logs)
    linked = host.root / "link" / "app.log"
    host.policies(
        {"name": "app", "paths": [str(linked)], "reopen": "signal", "signal": "USR1", "pid_file": f"{path}.pid"}
    )
    picture, _ = host.look()
    assert [w.pid for w in picture.services[0].writers] == [host.writers[0][0].pid]
    path.unlink()
    assert host.look()[1].reopen == ["app"]
    host.carry_out()
    wait(path.exists)
    assert host.look()[1].reopen == []


@root_only
def test_a_writer_in_another_mount_namespace_is_seen(host: Host) -> None:
    inside = host.root / "inside"
    inside.mkdir()
    code = "import sys, time; f = open(sys.argv[1], 'a', buffering=1); f.write('line 1\\n'); time.sleep(60)"
    script = f'mount --bind {host.logs} {inside} && exec {sys.executable} -c "$0" {inside}/app.log'
    writer = subprocess.Popen(["unshare", "--mount", "sh", "-c", script, code])
    host.writers.append((writer, host.logs / "app.log"))
    path = host.logs / "app.log"
    wait(lambda: path.exists() and path.stat().st_size > 0)
    host.policies({"name": "app", "reopen": "command", "command": "true"}, reopen_wait_seconds=0.2)
    assert [w.pid for w in host.look()[0].services[0].writers] == [writer.pid]
    path.rename(f"{path}-20260101-1767225600")
    assert host.look()[1].reopen == ["app"]


def test_a_writer_that_does_not_watch_though_its_policy_says_so_is_told(host: Host) -> None:
    path = host.write("app.log", "stubborn")
    host.policies({"name": "app"}, reopen_wait_seconds=0.1)
    old = Path(f"{path}-20260101-{time.time() - 600:.0f}")
    path.rename(old)
    path.touch(0o640)
    size = old.stat().st_size
    wait(lambda: old.stat().st_size > size)
    assert host.look()[1].reopen == ["app"]


def test_an_idle_writer_that_watches_is_left_in_peace(app: Host) -> None:
    path = app.log("app.log", 3, age_days=0.5)
    writer = subprocess.Popen([sys.executable, "-c", f"import time; f = open({str(path)!r}, 'a'); print(1, flush=True); time.sleep(60)"],
                              stdout=subprocess.PIPE)  # fmt: skip
    app.writers.append((writer, path))
    assert writer.stdout and writer.stdout.readline()
    app.policies({"name": "app", "keep": 9}, reopen_wait_seconds=0.1)
    assert [a["result"] for a in app.carry_out().actions] == ["done", "done"]
    _, planned = app.look()
    assert planned.actions == [] and not ids(planned.findings) & {"writer-on-rotated", "writer-waits"}


def test_a_look_starts_logrotate_twice_at_most(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    main(host, f"include {host.folder}\n")
    host.policies(*({"name": f"p{n}"} for n in range(20)))
    for number in range(20):
        host.log(f"p{number}.log")
    started: list[str] = []
    real = Tools.run

    def run(self: Tools, argv: list[str], **more: object) -> object:
        started.append(os.path.basename(argv[0]))
        return real(self, argv, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Tools, "run", run)
    host.look()
    assert started.count("logrotate") == 2
    monkeypatch.undo()
    host.carry_out()
    monkeypatch.setattr(Tools, "run", run)
    started.clear()
    assert host.look()[1].actions == [] and started.count("logrotate") == 1


# --- the application's own rotation ---------------------------------------------------------------------------------

APP = """
import importlib.util, logging, os, sys, time
spec = importlib.util.spec_from_file_location("app_logs", sys.argv[1])
logs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(logs)
logs.MAX_BYTES, logs.BACKUPS = 20000, 30
logs.configure(sys.argv[2], "INFO")
name = os.path.join(sys.argv[2], "llm-cost-tracker.log")
number = 0
while not os.path.exists(name + ".21"):
    number += 1
    logging.getLogger("numbers").info("line %d", number)
    time.sleep(0.0005)
print(number)
"""


def test_the_app_rotates_by_itself_under_the_eyes_of_the_role(host: Host) -> None:
    source = TESTS.parent / "roles" / "sandbox" / "files" / "app" / "logs.py"
    live = host.logs / "llm-cost-tracker.log"
    application = {
        "name": "app",
        "paths": [f"{host.logs}/*.log"],
        "rotated_by": "application",
        "keep": 30,
        "max_days": 30,
    }
    host.policies(application, archive=FolderArchive(host.archive, "host1"), archive_after_days=0)
    writer = subprocess.Popen(
        [sys.executable, "-c", APP, str(source), str(host.logs)], stdout=subprocess.PIPE, text=True
    )
    host.writers.append((writer, live))
    wait(live.exists)
    runs = 0
    while writer.poll() is None:
        acted = host.carry_out()
        assert all(a["step"] == "policies" and a["result"] == "done" for a in acted.actions), acted.actions
        runs += 1
    assert writer.stdout and runs > 1
    last = int(writer.stdout.read())
    files = [*(Path(f.path) for f in rotated_of(str(live))), live]
    assert sorted({p.name for p in files}) == sorted([live.name, *(f"{live.name}.{n}" for n in range(1, 22))])
    numbers = [int(json.loads(line)["message"].split()[1]) for p in files for line in p.read_text().splitlines()]
    assert sorted(numbers) == list(range(1, last + 1))
    assert not [p for p in host.archive.rglob("*.log*") if p.is_file()]


def test_a_file_that_the_app_rotates_on_meanwhile_is_no_failure(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.policies({"name": "app", "rotated_by": "application", "mode": "0600"})
    host.log("app.log")
    path = host.log("app.log.1")
    real = logs_work.plan

    def planned(*given: Any, **more: Any) -> Any:
        result = real(*given, **more)
        path.unlink(missing_ok=True)
        return result

    logs = Logs(Surveyor(host.given), Thresholds())
    monkeypatch.setattr(logs_work, "plan", planned)
    logs.policies()
    assert logs.findings == []


# --- killed ---------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import conftest
from pathlib import Path
from ansible.module_utils import logs_archive, logs_logrotate, logs_proof, logs_work
from ansible.module_utils.logs_survey import Surveyor, files_to_scan
from support.logs import Host
def die(*args, **more):
    os.kill(os.getpid(), signal.SIGKILL)
def before(owner, name, count=1):
    real, seen = getattr(owner, name), []
    def instead(*args, **more):
        seen.append(1)
        return die() if len(seen) == count else real(*args, **more)
    setattr(owner, name, instead)
def after(owner, name, count=1):
    real, seen = getattr(owner, name), []
    def instead(*args, **more):
        seen.append(1)
        result = real(*args, **more)
        return die() if len(seen) == count else result
    setattr(owner, name, instead)
host = Host(Path({root!r}))
host.policies(*{policies!r}, archive=logs_archive.FolderArchive(host.archive, "host1"))
{point}
host.carry_out()
"""
POINTS = [
    "after(logs_work, 'replace_text')", "after(logs_work.os, 'replace', 2)", "before(logs_work, 'replace_text', 2)",
    "after(logs_work, 'replace_text', 2)",
    "before(logs_proof, 'rotate')", "after(logs_proof, 'rotate', 2)", "before(logs_work, 'rotate')", "after(logs_work, 'rotate')",
    "before(Surveyor, 'remember')", "after(Surveyor, 'remember')", "before(logs_archive.os, 'rename')", "after(logs_archive, '_append_line')",
    "before(logs_archive.os, 'unlink')", "after(logs_archive.os, 'unlink')",
]  # fmt: skip


def killed(host: Host, policies: list[dict[str, object]], point: str) -> None:
    code = KILLED.format(tests=str(TESTS), root=str(host.root), policies=policies, point=point)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("point", POINTS)
def test_a_run_that_is_killed_anywhere_is_finished_by_the_next(host: Host, point: str) -> None:
    path = host.write("app.log", "usr1")
    old = [host.log(f"app.log-2025010{n}-173568960{n}", 10 + n, age_days=30 - n) for n in (1, 2)]
    (host.folder / "other").write_text(f"{path} {{\n weekly\n}}\n")
    policies = [
        {
            "name": "app",
            "archive": True,
            "replaces": ["other"],
            "reopen": "signal",
            "signal": "USR1",
            "pid_file": f"{path}.pid",
        }
    ]
    killed(host, policies, point)
    host.policies(*policies, archive=FolderArchive(host.archive, "host1"))
    host.carry_out()
    wait(lambda: path.exists() and path.stat().st_size > 0)
    host.carry_out()
    assert host.carry_out().actions == [] and ids(host.look()[1].findings) <= {
        "holders-incomplete",
        "archive-same-filesystem",
    }
    assert sorted(os.listdir(host.folder)) == ["llm-cost-tracker-app", f"other{DISABLED}"]
    last = host.finish(path)
    assert not any(file.exists() for file in old), "they are in the archive"
    assert sorted(host.numbers(path)) == list(range(1, last + 1))
    home = host.archive / "host1"
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=home, capture_output=True, check=False).returncode == 0
    assert len((home / "SHA256SUMS").read_text().splitlines()) == 2


@pytest.mark.parametrize("point", ["before(logs_work.os, 'replace')", "after(logs_work.os, 'replace')", "before(logs_work.os, 'unlink')",
                                   "after(logs_work.os, 'unlink')"])  # fmt: skip
def test_a_removal_that_is_killed_gives_back_what_was_replaced(host: Host, point: str) -> None:
    (host.folder / "other").write_text(f"{host.logs}/app.log {{\n weekly\n}}\n")
    host.log("app.log")
    host.policies({"name": "app", "replaces": ["other"]})
    host.carry_out()
    killed(host, [], point)
    host.policies()
    host.carry_out()
    assert host.carry_out().actions == [] and os.listdir(host.folder) == ["other"]


def test_a_compression_that_was_killed_is_done_again(app: Host) -> None:
    path = app.logs / "app.log"
    half = Path(f"{rotated_of(str(path))[0].path}.zst")
    half.write_bytes(b"half of it")
    path.write_text("line 50\n")
    app.policies({"name": "app", "keep": 9})
    app.carry_out()
    path.write_text("line 51\n")
    app.carry_out()
    assert app.carry_out().actions == []
