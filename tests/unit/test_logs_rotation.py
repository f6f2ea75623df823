"""Policies put in place, proven and carried out with the real logrotate, real writers and a folder as archive."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.logs_archive import FolderArchive
from ansible.module_utils.logs_files import rotated_of
from ansible.module_utils.logs_planner import Thresholds
from ansible.module_utils.logs_policy import DISABLED, MARK
from ansible.module_utils.logs_survey import Surveyor
from ansible.module_utils.logs_work import Logs
from support.logs import DAY, Host, ids, wait


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path / "host")
    yield made
    made.end()


# --- a whole run ----------------------------------------------------------------------------------------------------


def test_a_policy_is_installed_proven_and_then_nothing_is_due(host: Host) -> None:
    host.policies({"name": "app", "max_size": "1M"})
    path = host.log("app.log", 100)
    done = host.carry_out()
    assert [(a["step"], a["subject"], a["result"]) for a in done.actions] == [
        ("policies", str(host.given.config), "done"), ("policies", "app", "done"), ("rotate", "app", "done"),
    ]  # fmt: skip
    assert done.findings == [] and host.numbers(path) == list(range(100))
    picture, planned = host.look()
    assert planned.actions == [] and ids(planned.findings) <= {"holders-incomplete"}
    assert picture.rotated_at[str(path)] > 0, "the schedule knows of it"
    assert host.carry_out().actions == []


def test_looking_changes_nothing(host: Host) -> None:
    host.policies({"name": "app"})
    host.log("app.log")
    before = {p: p.read_bytes() for p in host.root.rglob("*") if p.is_file()}
    _, planned = host.look(write=False)
    assert {a["step"] for a in planned.actions} == {"policies", "rotate"}
    after = {p: p.read_bytes() for p in host.root.rglob("*") if p.is_file() and "logrotate-debug" not in p.name}
    assert after == before


def test_a_policy_that_changes_is_proven_again(host: Host) -> None:
    host.policies({"name": "app"})
    host.log("app.log")
    host.carry_out()
    host.policies({"name": "app", "keep": 3})
    host.log("app.log")
    assert [(a["step"], a["subject"]) for a in host.carry_out().actions] == [("policies", "app"), ("rotate", "app")]


def test_an_empty_log_has_nothing_to_prove_yet(host: Host) -> None:
    host.policies({"name": "app"})
    host.log("app.log", lines=0)
    assert [a["step"] for a in host.carry_out().actions] == ["policies", "policies"]
    assert host.look()[1].actions == []
    host.log("app.log", lines=3)
    assert [a["step"] for a in host.carry_out().actions] == ["rotate"]


def test_a_policy_that_is_gone_goes_and_gives_back_what_it_replaced(host: Host) -> None:
    (host.folder / "other").write_text(f"{host.logs}/app.log {{\n weekly\n}}\n")
    host.log("app.log")
    host.policies({"name": "app"})
    _, planned = host.look()
    assert "add other to replaces" in planned.blocked["app"] and f"{host.folder}/other:1" in planned.blocked["app"]
    host.carry_out()
    host.policies({"name": "app", "replaces": ["other"]})
    assert host.carry_out().findings == []
    assert sorted(os.listdir(host.folder)) == ["llm-cost-tracker-app", f"other{DISABLED}"]
    host.policies()
    host.carry_out()
    assert os.listdir(host.folder) == ["other"]


def test_what_others_wrote_is_never_removed(host: Host) -> None:
    foreign = host.folder / "llm-cost-tracker-mine"
    foreign.write_text(f"{host.logs}/x.log {{\n}}\n")
    host.policies()
    host.carry_out()
    assert foreign.exists()


def test_what_logrotate_complains_about_is_not_installed(host: Host) -> None:
    host.log("app.log")
    host.policies({"name": "app", "options": ["maxsiz 100k"]}, {"name": "fine"})
    host.log("fine.log")
    _, planned = host.look()
    assert "unknown option 'maxsiz'" in planned.blocked["app"] and "(maxsiz 100k)" in planned.blocked["app"]
    host.carry_out()
    assert not (host.folder / "llm-cost-tracker-app").exists() and (host.folder / "llm-cost-tracker-fine").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [(["size 1k"], "takes the place of daily"), (["compresscmd /nowhere/x"], "/nowhere/x is not there"), (["rotate 0"], "a deletion"),
     (["dateformat -%Y%m%d", "maxsize 1k"], "second rotation on one day")],
)  # fmt: skip
def test_what_logrotate_would_not_even_mention_is_not_installed_either(host: Host, options: list[str], told: str) -> None:
    host.log("app.log")
    host.policies({"name": "app", "options": options})
    assert told in host.look()[1].blocked["app"]
    host.carry_out()
    assert os.listdir(host.folder) == []


def test_a_failing_script_is_told_and_no_line_is_lost(host: Host) -> None:
    host.policies({"name": "app", "reopen": "command", "command": "echo no such service >&2; exit 7"})
    path = host.log("app.log", 50)
    done = host.carry_out()
    failed = next(a for a in done.actions if a["step"] == "rotate")
    assert failed["result"] == "failed" and "postrotate" in failed["detail"]
    assert host.numbers(path) == list(range(50))
    assert "app" not in Surveyor(host.given).memory.get("proofs", {}), "what failed is no proof"


# --- writers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["usr1", "watched"])
def test_no_line_is_lost_over_twenty_rotations(host: Host, kind: str) -> None:
    path = host.write("app.log", kind)
    reopen = {"reopen": "signal", "signal": "USR1", "pid_file": f"{path}.pid"} if kind == "usr1" else {"reopen": "watched"}
    host.policies({"name": "app", "keep": 50, **reopen})
    assert not host.carry_out().findings
    logs = Logs(Surveyor(host.given), Thresholds())
    for _ in range(19):
        service = logs.surveyor.look(write=False).services[0]
        wait(lambda: path.exists() and path.stat().st_size > 50)
        names = len(rotated_of(str(path)))
        logs._force(service)
        assert len(rotated_of(str(path))) == names + 1
    last = host.finish(path)
    assert sorted(host.numbers(path)) == list(range(1, last + 1))
    assert len(rotated_of(str(path))) >= 20


def test_a_writer_that_stays_on_the_old_file_is_named(host: Host) -> None:
    path = host.write("app.log", "stubborn")
    host.policies({"name": "app", "reopen": "command", "command": "true"}, reopen_wait_seconds=0.3)
    failed = next(a for a in host.carry_out().actions if a["step"] == "rotate")
    pid = Path(f"{path}.pid").read_text()
    assert failed["result"] == "failed" and f"({pid}) still write to the rotated file" in failed["detail"]
    _, planned = host.look()
    told = next(f for f in planned.findings if f["id"] == "writer-on-rotated")
    assert f"({pid})" in told["subject"]


def test_a_writer_is_brought_back(host: Host) -> None:
    path = host.write("app.log", "usr1")
    os.rename(path, f"{path}-20260101-1767225600")
    path.touch()
    host.policies({"name": "app", "reopen": "signal", "signal": "USR1", "pid_file": f"{path}.pid"})
    _, planned = host.look()
    assert planned.reopen == ["app"]
    done = host.carry_out()
    assert [a["result"] for a in done.actions if "reopen" in a["subject"]] == ["done"]
    wait(lambda: path.stat().st_size > 0)
    assert host.look()[1].reopen == []


def test_a_writer_on_a_deleted_file_is_brought_back(host: Host) -> None:
    path = host.write("app.log", "usr1")
    path.unlink()
    host.policies({"name": "app", "reopen": "signal", "signal": "USR1", "pid_file": f"{path}.pid"})
    assert ids(host.look()[1].findings) >= {"writer-on-deleted"}
    host.carry_out()
    assert path.exists() and "writer-on-deleted" not in ids(host.look()[1].findings)


def test_copytruncate_states_its_loss(host: Host) -> None:
    path = host.write("app.log", "stubborn")
    host.policies({"name": "app", "reopen": "copytruncate"})
    done = host.carry_out()
    assert all(a["result"] == "done" for a in done.actions)
    _, planned = host.look()
    assert next(f for f in planned.findings if f["id"] == "copytruncate")["severity"] == "info"
    assert host.finish(path) > 0


# --- what is overdue ------------------------------------------------------------------------------------------------


def test_a_log_that_was_never_rotated_is(host: Host) -> None:
    host.policies({"name": "app", "max_size": "10k"})
    host.log("app.log")
    host.carry_out()
    path = host.logs / "app.log"
    path.write_bytes(b"x" * 21 * 1024)
    _, planned = host.look()
    assert [(a["number"], a["threshold"], a["unit"]) for a in planned.due("rotate")] == [(21504, 10240, "bytes")]
    done = host.carry_out()
    assert [a["result"] for a in done.actions if a["step"] == "rotate"] == ["done"]
    assert not path.exists(), "its writer makes it anew"
    assert host.look()[1].actions == []


def test_a_schedule_that_sleeps_is_seen(host: Host) -> None:
    host.policies({"name": "app"})
    path = host.log("app.log")
    host.carry_out()
    path.write_text("more\n")
    host.now = time.time() + 3 * DAY
    assert [a["unit"] for a in host.look()[1].due("rotate")] == ["hours"]


# --- archive and retention --------------------------------------------------------------------------------------------


@pytest.fixture
def archiving(host: Host) -> Host:
    host.policies({"name": "app", "archive": True, "keep": 5, "max_days": 60}, archive=FolderArchive(host.archive, "host1"))
    host.log("app.log")
    host.carry_out()
    return host


def test_old_files_go_to_the_archive_and_the_sums_are_right(archiving: Host) -> None:
    host = archiving
    old = host.log("app.log-20260101-1767225600.gz", 500, age_days=10)
    young = host.log("app.log-20260107-1767744000.gz", 500, age_days=2)
    text = old.read_bytes()
    done = host.carry_out()
    assert [(a["subject"], a["result"]) for a in done.actions] == [(str(old), "done")]
    assert not old.exists() and young.exists()
    home = host.archive / "host1"
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=home, capture_output=True, check=False).returncode == 0
    assert hashlib.sha256(text).hexdigest() in (home / "SHA256SUMS").read_text()
    assert host.look()[1].actions == []


def test_more_than_the_policy_keeps_is_archived_early(archiving: Host) -> None:
    host = archiving
    files = [host.log(f"app.log-202601{n:02}-17672256{n:02}.gz", 5 + n, age_days=3 - n / 10) for n in range(1, 8)]
    host.carry_out()
    assert [f.exists() for f in files][:3] == [False, False, False] and files[-1].exists()


@pytest.mark.parametrize("how", ["flag", "file"])
def test_a_hold_keeps_everything_and_logrotate_too(archiving: Host, how: str) -> None:
    host = archiving
    old = host.log("app.log-20260101-1767225600.gz", 500, age_days=90)
    if how == "flag":
        host.given = replace(host.given, hold=True)
    else:
        Path(host.given.hold_file).write_text("case 42\n")
    picture, planned = host.look()
    assert picture.held and "hold" in ids(planned.findings)
    host.carry_out()
    assert old.exists(), "archived, but not deleted"
    assert "rotate -1" in (host.folder / "llm-cost-tracker-app").read_text()
    assert host.look()[1].actions == []


def test_a_hold_that_logrotate_meets_first_stops_it(host: Host) -> None:
    host.policies({"name": "app", "keep": 1})
    path = host.log("app.log", 5)
    host.carry_out()
    Path(host.given.hold_file).touch()
    path.write_text("new\n")
    before = sorted(os.listdir(host.logs))
    done = subprocess.run(["logrotate", "-f", "-s", host.given.state_file, host.given.config], capture_output=True, check=False)
    assert done.returncode != 0 and sorted(os.listdir(host.logs)) == before
    # The next run of the runbook knows: rotations go on, and nothing is deleted.
    host.carry_out()
    assert "rotate -1" in (host.folder / "llm-cost-tracker-app").read_text()


def test_without_an_archive_what_is_past_its_time_is_deleted(host: Host) -> None:
    host.policies({"name": "app", "max_days": 30})
    host.log("app.log")
    host.carry_out()
    old, young = host.log("app.log-20260101-1767225600", age_days=31), host.log("app.log-20260102-1767312000", age_days=29)
    done = host.carry_out()
    assert [(a["subject"], a["number"], a["threshold"]) for a in done.actions] == [(str(old), 31.0, 30)]
    assert not old.exists() and young.exists()


def test_a_damaged_archive_deletes_nothing(archiving: Host) -> None:
    host = archiving
    shutil.rmtree(host.archive)
    old = host.log("app.log-20260101-1767225600.gz", 500, age_days=10)
    _, planned = host.look()
    assert "archive-unusable" in ids(planned.findings) and planned.archive == []
    host.carry_out()
    assert old.exists()


# --- files ----------------------------------------------------------------------------------------------------------


def test_modes_that_are_too_wide_are_narrowed(host: Host) -> None:
    host.policies({"name": "app", "mode": "0600", "reopen": "command", "command": "true"})
    path, rotated = host.log("app.log", 0), host.log("app.log-20260101-1767225600")
    for file in (path, rotated):
        file.chmod(0o664)
    host.carry_out()
    assert {f.stat().st_mode & 0o777 for f in (path, rotated)} == {0o600} and host.look()[1].actions == []


def test_the_mode_of_a_file_that_its_writer_makes_is_told(host: Host) -> None:
    host.policies({"name": "app"})
    host.log("app.log").chmod(0o644)
    host.carry_out()
    host.log("app.log").chmod(0o644)
    _, planned = host.look()
    assert planned.actions == [] and "log-readable" in ids(planned.findings)
    assert {f.mode for f in rotated_of(str(host.logs / "app.log"))} == {0o640}


def test_files_without_a_policy_are_told(host: Host) -> None:
    host.policies({"name": "app"})
    (host.logs / "forgotten.log").write_bytes(b"x" * (2 << 20))
    (host.logs / "small.log").write_bytes(b"x")
    told = [f["subject"] for f in host.look()[1].findings if f["id"] == "uncovered"]
    assert told == [str(host.logs / "forgotten.log")]
    host.given = replace(host.given, ignored_paths=(f"{host.logs}/forgotten.log",))
    assert "uncovered" not in ids(host.look()[1].findings)


def test_an_app_that_rotates_itself_is_not_fought(host: Host) -> None:
    for number in range(1, 6):
        (host.logs / f"app.log.{number}").write_bytes(b"x" * (10000 - number))
    host.log("app.log")
    host.policies({"name": "app"})
    _, planned = host.look()
    assert "rotated by its own application" in planned.blocked["app"]
    host.policies({"name": "app", "rotated_by": "application", "keep": 5, "keep_days": 30, "mode": "0644"})
    host.given = replace(host.given, ignored_paths=())
    _, planned = host.look()
    assert not planned.blocked and planned.actions == [] and ids(planned.findings) - {"holders-incomplete"} == {"retention-short"}


def test_an_owner_that_is_not_there_is_told_before_anything(host: Host) -> None:
    host.policies({"name": "app", "owner": "nobody-of-that-name", "group": "adm"})
    host.log("app.log")
    assert "user nobody-of-that-name is not known" in host.look()[1].blocked["app"]
    assert [a["subject"] for a in host.carry_out().actions] == [str(host.given.config)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root rotates for others")
def test_folders_of_others_are_rotated_as_them(host: Host) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(host.logs, nobody.pw_uid, nobody.pw_gid)
    path = host.log("app.log")
    os.chown(path, nobody.pw_uid, nobody.pw_gid)
    host.policies({"name": "app"})
    assert all(a["result"] == "done" for a in host.carry_out().actions)
    text = (host.folder / "llm-cost-tracker-app").read_text()
    assert "su nobody nogroup" in text and text.startswith(MARK)
    assert {f.uid for f in rotated_of(str(path))} == {nobody.pw_uid}


def test_a_policy_without_a_folder_here_is_for_other_hosts(host: Host) -> None:
    host.policies({"name": "app"}, {"name": "other", "paths": ["/nonexistent/logs/*.log"], "owner": "nobody-of-that-name", "group": "adm"})
    host.log("app.log")
    host.carry_out()
    picture, planned = host.look()
    assert planned.actions == [] and not planned.blocked and len(picture.services) == 2
    assert os.listdir(host.folder) == ["llm-cost-tracker-app"]


def test_a_signal_that_would_end_workers_is_refused(host: Host) -> None:
    path = host.log("app.log")
    script = host.root / "uvicorn"
    script.write_text("import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    app = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    try:
        assert app.stdout and app.stdout.readline() == b"up\n"
        Path(f"{path}.pid").write_text(f"{app.pid}\n")
        host.policies({"name": "app", "reopen": "signal", "signal": "USR1", "pid_file": f"{path}.pid"})
        assert "workers end at USR1" in host.look()[1].blocked["app"]
        host.policies({"name": "app", "reopen": "signal", "signal": "HUP", "pid_file": f"{path}.pid"})
        assert not host.look()[1].blocked
    finally:
        app.kill()
        app.wait()


# --- killed -----------------------------------------------------------------------------------------------------------


def test_a_run_that_was_killed_between_two_files_is_finished_by_the_next(archiving: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host = archiving
    files = [host.log(f"app.log-2026010{n}-176722560{n}.gz", 100 + n, age_days=20 - n) for n in range(1, 4)]

    class Killed(BaseException):
        pass

    unlink = os.unlink

    def killed(path: Any, **more: Any) -> None:
        if str(path).startswith(str(host.logs)):
            raise Killed
        unlink(path, **more)

    monkeypatch.setattr(os, "unlink", killed)
    with pytest.raises(Killed):
        host.carry_out()
    monkeypatch.undo()
    assert all(f.exists() for f in files)
    host.carry_out()
    assert not any(f.exists() for f in files)
    home = host.archive / "host1"
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=home, capture_output=True, check=False).returncode == 0
    assert len((home / "SHA256SUMS").read_text().splitlines()) == 3
