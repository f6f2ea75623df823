"""A small host with a server, a repository of each kind and the backup role's steps, for tests of faults."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible.module_utils.backups_drill import Drill
from ansible.module_utils.backups_planner import Limits, Plan, plan
from ansible.module_utils.backups_restore import Request, Restore
from ansible.module_utils.backups_survey import Job, Surveyor
from ansible.module_utils.backups_work import Backups

from support.postgres import Server

ROOT = Path(__file__).resolve().parents[2]
DATABASE = "llm_metrics"
SCHEMA = """
CREATE TABLE spans (span_id varchar(32) PRIMARY KEY, start_time timestamptz NOT NULL);
CREATE TABLE llm_metrics (id serial PRIMARY KEY, span_id varchar(32) UNIQUE REFERENCES spans, total_cost_usd numeric(10,6),
  timestamp timestamptz NOT NULL);
INSERT INTO spans SELECT md5(n::text), timestamptz '2026-01-01' + n * interval '1 hour' FROM generate_series(1, 3000) n;
INSERT INTO llm_metrics (span_id, total_cost_usd, timestamp) SELECT span_id, 0.25, start_time FROM spans;
"""
CONTROL = """#!/bin/sh
# A supervisor that has one program: -c CONFIG start|stop|restart UNIT
case $3 in
start) exec {ctl} -D {data} -l {log} -w start ;;
stop) exec {ctl} -D {data} -m fast -w stop ;;
restart) exec {ctl} -D {data} -l {log} -m fast -w restart ;;
esac
"""
CONFIG = """# Ansible managed
[global]
repo1-path={repository}
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass={passphrase}
repo1-bundle=y
repo1-block=@BLOCK@
repo1-retention-full=9999999
compress-type=zst
compress-level=1
process-max=2
start-fast=y
log-level-file=off
log-level-console=warn
lock-path={lock}

[main]
pg1-path=@DATA_DIR@
pg1-socket-path={socket}
pg1-user=postgres
"""
PASSPHRASE = "a passphrase of the tests"
# Ends the process as SIGKILL does, when the named function of ours is called the n-th time.
KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{root!r} + "/tests"]
import ansible.module_utils
ansible.module_utils.__path__ += [str(f) for f in sorted(Path({root!r}).glob("roles/*/module_utils"))]
from support.backups import Lab
import pickle
lab = pickle.load(open({pickle!r}, "rb"))
left = {times}
def watch(frame, event, argument):
    global left
    if event == {event!r} and frame.f_code.co_name == {function!r} and any(n in frame.f_code.co_filename for n in ("backups_", "runbook_restic")):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.setprofile(watch)
{work}
"""


class Lab:
    """A server with the tracker's tables, and a job that backs it up into a folder beside it."""

    def __init__(self, folder: Path, bin_dir: Path, engine: str = "pgbackrest", **more: Any) -> None:
        self.folder = folder
        self.server = Server(bin_dir, folder / "pg", more.pop("settings", ""))
        self.files = folder / "etc"
        self.files.mkdir(parents=True)
        (self.files / "budget.yml").write_text("limit: 100\n")
        (self.files / "app.env").write_text("SECRET=1\n")
        (self.files / "app.env").chmod(0o640)
        control = folder / "control"
        control.write_text(CONTROL.format(ctl=bin_dir / "pg_ctl", data=self.server.data, log=self.server.folder / "log"))
        control.chmod(0o755)
        user = ["setpriv", "--reuid", self.server.user, "--regid", self.server.user, "--init-groups"] if self.server.user else []
        repository = str(folder / "repo" / "postgresql")
        self.job = Job(
            connection=replace(self.server.connection(DATABASE), psql=[str(bin_dir / "psql")]),
            limits=more.pop("limits", Limits()),
            state_dir=folder / "state",
            engine=engine,
            repository=repository,
            repository_path=repository,
            stanza="main",
            config=str(folder / "pgbackrest.conf"),
            config_text=CONFIG.format(repository=repository, passphrase=PASSPHRASE, lock=folder / "pg" / "lock", socket=folder / "pg")
            if engine == "pgbackrest"
            else "",
            wal_method=more.pop("wal_method", "archive"),
            files_repository=str(folder / "repo" / "files"),
            passphrase=PASSPHRASE,
            os_user=self.server.user,
            bin_dir=str(bin_dir),
            nice=0,
            scratch_dir=str(folder / "scratch"),
            restart_allowed=True,
            wal_wait_seconds=30,
            passphrase_kept_at="a safe",
            files=[{"name": "configuration", "paths": [str(self.files)]}],
            costs=[{"table": "llm_metrics", "time_column": "timestamp", "value_column": "total_cost_usd"}],
            components={"database": {"manager": "supervisor", "unit": "pg", "config": "none", "control": [*user, str(control)]}},
            **more,
        )

    def start(self) -> Lab:
        for parent in [self.folder, *self.folder.parents]:
            if str(parent).startswith("/tmp/"):
                parent.chmod(parent.stat().st_mode | 0o711)
        self.server.create()
        self.server.sql(f"CREATE DATABASE {DATABASE}")
        self.sql(SCHEMA)
        return self

    def stop(self) -> None:
        self.server.stop()

    def sql(self, text: str) -> list[str]:
        lines: list[str] = []
        for statement in filter(str.strip, text.split(";\n")):
            lines = self.server.sql(statement, DATABASE)
        return lines

    def but(self, **changes: Any) -> Lab:
        """Return the same host with a job of other inputs."""
        other = Lab.__new__(Lab)
        other.__dict__.update(self.__dict__)
        other.job = replace(self.job, **changes)
        return other

    def work(self) -> Backups:
        return Backups(self.job)

    def plan(self, verify: bool | None = None) -> Plan:
        return plan(Surveyor(self.job).look(verify), self.job.limits)

    def findings(self, verify: bool | None = None) -> dict[str, str]:
        """Return the ids of what is wrong, with what was observed."""
        return {each["id"]: str(each["observed"]) for each in self.plan(verify).findings}

    def maintain(self) -> list[dict[str, Any]]:
        """Carry out what is due, as the role does; return the actions."""
        done: list[dict[str, Any]] = []
        for step in ("repositories", "set", "expire", "drill"):
            due = {each["step"] for each in self.plan().actions}
            if step in due:
                done += self.step(step)
        return done

    def step(self, name: str) -> list[dict[str, Any]]:
        work = self.work()
        if name == "drill":
            Drill(work, self.job.state_dir / "evidence" / "test").run()
        else:
            getattr(work, name)()
        return work.actions

    def restore(self, **request: Any) -> Restore:
        request = {"host": "lab", "confirm": (f"lab/{DATABASE}",), **request}
        return Restore(Backups(self.job), Request(**request), self.job.state_dir / "evidence" / "test")

    def last_drill(self) -> dict[str, Any]:
        notes: dict[str, Any] = json.loads(self.job.memory_path.read_text())["drills"][-1]
        return notes

    def killed(self, work: str, function: str, times: int = 1, event: str = "call") -> None:
        """Do `work`, Python over `lab`, in a process that is killed when it calls `function` of ours."""
        place = self.folder / "lab.pickle"
        place.write_bytes(pickle.dumps(self))
        script = KILLED.format(root=str(ROOT), pickle=str(place), times=times, function=function, event=event,
                               work=textwrap.dedent(work))  # fmt: skip
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, f"{function} was not reached: {done.returncode} {done.stderr[-2000:]}"

    def data_sum(self) -> str:
        """Return a sum over the live data directory's names and, where the server is stopped, contents."""
        total = hashlib.sha256()
        for folder, _, names in sorted(os.walk(self.server.data)):
            for name in sorted(names):
                path = Path(folder) / name
                total.update(str(path.relative_to(self.server.data)).encode())
                total.update(path.read_bytes())
        return total.hexdigest()

    def backup_file(self) -> Path:
        """Return a file of the newest backup that holds data."""
        base = Path(self.job.repository)
        found = [p for p in base.rglob("*") if p.is_file() and ("bundle" in p.parts or "base" in p.relative_to(base).parts[:1])
                 and "pg_wal" not in p.parts and not p.name.startswith(("backup", "."))]  # fmt: skip
        return max(found, key=lambda path: path.stat().st_size)


def flip(path: Path, at: int | None = None) -> None:
    """Flip all bits of one byte, and leave the time of the file as it was."""
    seen = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 0xFF
    path.write_bytes(bytes(content))
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def copied(source: Path, target: Path) -> None:
    """Copy a folder as it is, owners too."""
    if target.exists():
        shutil.rmtree(target)
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
