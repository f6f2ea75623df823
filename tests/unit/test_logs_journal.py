# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""The journal is vacuumed by journalctl itself, on copies of files that journald wrote, and never below its floor."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.logs_journal import JournalFile, journal_files, plan_vacuum, vacuum
from ansible.module_utils.logs_reclaim import Ladder, Reclaim
from ansible.module_utils.runbook_tools import Tools

DAY = 86400.0
MIB = 1 << 20
JOURNALD = """
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal /run/log/journal "$1/etc"
printf '[Journal]\\nStorage=volatile\\nRateLimitBurst=0\\n' >"$1/etc/journald.conf"
mount --bind "$1/etc/journald.conf" /etc/systemd/journald.conf
timeout 60 /lib/systemd/systemd-journald </dev/null >"$1/out" 2>&1 &
tries=0
until [ -S /run/systemd/journal/stdout ] || [ $tries -gt 100 ]; do tries=$((tries + 1)); sleep 0.1; done
for number in $(seq 1 20); do echo "entry $number"; done | timeout 10 systemd-cat -t test
timeout 10 journalctl --rotate
cp /run/log/journal/*/system@*.journal "$1/archived.journal"
cp /run/log/journal/*/system.journal "$1/active.journal"
kill $!
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archived and an active file as journald writes them, in a /run of its own."""
    folder = tmp_path_factory.mktemp("journald")
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", JOURNALD, "sh", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert (folder / "archived.journal").exists(), done.stderr + (folder / "out").read_text()
    return folder


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    folder = tmp_path / "journal" / Path("/etc/machine-id").read_text().strip()
    folder.mkdir(parents=True)
    return folder


def dated(
    written: Path, journal: Path, number: int, first_days: float, last_days: float, kind: str = "system@"
) -> Path:
    """Make a file whose entries say that they are from so many days ago."""
    now = time.time()
    first, last = (int((now - days * DAY) * 1e6) for days in (first_days, last_days))
    archived = "@" in kind
    name = f"{kind}{'0123456789abcdef' * 2}-{number:016x}-{first:016x}.journal" if archived else f"{kind}.journal"
    path = journal / name
    shutil.copy(written / ("archived.journal" if archived else "active.journal"), path)
    with path.open("r+b") as file:
        file.seek(184)
        file.write(struct.pack("<QQ", first, last))
    os.utime(path, (last / 1e6, last / 1e6))
    return path


def usage(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*.journal"))


def test_what_journald_wrote_is_read(written: Path, tmp_path: Path) -> None:
    for name in ("archived", "active"):
        shutil.copy(
            written / f"{name}.journal", tmp_path / ("system@x.journal" if name == "archived" else "system.journal")
        )
    files = {file.active: file for file in journal_files(str(tmp_path))}
    assert time.time() - 600 < files[False].first_at <= files[False].last_at <= time.time()
    assert files[True].first_at >= files[False].last_at - 1 and files[True].disk_bytes > 0


def test_only_what_has_no_young_entry_goes(written: Path, journal: Path) -> None:
    ages = [(90, 60), (60, 40), (40, 20), (20, 10), (10, 1)]
    paths = [dated(written, journal, number, *age) for number, age in enumerate(ages)]
    active = dated(written, journal, 9, 1, 0, "system")
    before, now = usage(journal), time.time()
    planned = plan_vacuum(journal_files(str(journal)), 30, 0, now, False)
    assert planned and planned.files == 2 and not planned.rotate
    vacuum(Tools(), str(journal.parent), planned, now)
    assert [path.exists() for path in paths] == [False, False, True, True, True] and active.exists()
    assert before - usage(journal) == planned.freed_bytes
    assert plan_vacuum(journal_files(str(journal)), 30, 0, now, False) is None


def test_journalctl_alone_would_take_young_entries(written: Path, journal: Path) -> None:
    """Why the time is computed: by its own rule journalctl removes what begins too early, whatever else is in it."""
    path = dated(written, journal, 1, 40, 1)
    dated(written, journal, 2, 1, 0)
    Tools().run(["journalctl", f"--directory={journal.parent}", "--vacuum-time=30d"])
    assert not path.exists()


def test_a_long_file_protects_what_begins_after_it(written: Path, journal: Path) -> None:
    oldest = dated(written, journal, 1, 90, 80)
    long = dated(written, journal, 2, 70, 5, "user-1000@")
    between = dated(written, journal, 3, 60, 50)
    now = time.time()
    planned = plan_vacuum(journal_files(str(journal)), 30, 0, now, False)
    assert planned and planned.files == 1
    vacuum(Tools(), str(journal.parent), planned, now)
    assert not oldest.exists() and long.exists() and between.exists()


def test_the_floor_of_bytes_holds_as_well(written: Path, journal: Path) -> None:
    for number in range(5):
        dated(written, journal, number, 90 - number, 89 - number)
    size, now = usage(journal) // 5, time.time()
    planned = plan_vacuum(journal_files(str(journal)), 30, 3 * size, now, False)
    assert planned and planned.files == 2
    vacuum(Tools(), str(journal.parent), planned, now)
    assert usage(journal) == 3 * size
    assert plan_vacuum(journal_files(str(journal)), 30, 3 * size, now, False) is None


def test_a_file_that_cannot_be_read_protects_all(written: Path, journal: Path) -> None:
    old = dated(written, journal, 1, 90, 80)
    broken = dated(written, journal, 2, 70, 60)
    broken.write_bytes(b"\0" * 4096)  # its time is now
    assert plan_vacuum(journal_files(str(journal)), 30, 0, time.time(), False) is None and old.exists()


def one(first_days: float, last_days: float, active: bool = False, size: int = 10) -> JournalFile:
    return JournalFile(f"/{first_days}", -first_days * DAY, -last_days * DAY, size, active)


@pytest.mark.parametrize(
    ("files", "may_rotate", "going", "rotate"),
    [
        ([], False, 0, False),
        ([one(90, 80)], False, 1, False),
        ([one(90, 80), one(50, 40, active=True)], False, 1, False),
        ([one(90, 80), one(50, 40, active=True)], True, 2, True),  # of a user who is gone
        ([one(90, 80), one(50, 1, active=True)], True, 1, False),
        ([one(90, 1, active=True), one(80, 70)], True, 0, False),
        ([one(30.001, 30.0005)], False, 0, False),  # within reach of the time that passes
    ],
)
def test_what_may_go(files: list[JournalFile], may_rotate: bool, going: int, rotate: bool) -> None:
    planned = plan_vacuum(files, 30, 0, 0, may_rotate)
    assert (planned.files if planned else 0, bool(planned and planned.rotate)) == (going, rotate)


def test_rotation_is_asked_for_only_where_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "journalctl"
    fake.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/calls\necho "Vacuuming done" >&2\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for active in (False, True):
        planned = plan_vacuum([one(90, 80, active=active)], 30, 0, 0, True)
        assert planned and vacuum(Tools(), "/var/log/journal", planned, 0) == "Vacuuming done"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [re.sub(r"\d+", "N", call) for call in calls] == ["--vacuum-time=Ns", "--rotate", "--vacuum-time=Ns"]
    assert int(re.sub(r"\D", "", calls[0])) > 30 * DAY


# --- as a rung ----------------------------------------------------------------------------------------------------


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB with a journal."""
    place = tmp_path / "full"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize(
    ("change", "gone"),
    [({}, 2), ({"hold": "incident 7"}, 0), ({"journal_keep_days": None}, 0), ({"journal_keep_days": 75.0}, 1), ({"target_percent": 1.0}, 2)],
)  # fmt: skip
def test_the_journal_is_a_rung_with_a_floor(
    written: Path, tmp_path: Path, full: Path, change: dict[str, Any], gone: int
) -> None:
    folder = full / "journal" / Path("/etc/machine-id").read_text().strip()
    folder.mkdir(parents=True)
    paths = [dated(written, folder, number, *age) for number, age in enumerate([(90, 80), (70, 60), (20, 10)])]
    with (full / "rest").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(os.urandom(4096))
    values = {"filesystems": (str(full),), "target_percent": 90.0, "state_dir": str(tmp_path / "state"), "run_id": "one", "who": "me@here",
              "journal_dir": str(full / "journal"), "journal_keep_days": 30.0}  # fmt: skip
    ladder = Ladder(Reclaim(**{**values, **change}), str(full))
    planned = Ladder(ladder.given, str(full)).plan()
    _, actions = ladder.run()
    assert [path.exists() for path in paths] == [number >= gone for number in range(3)]
    assert [(one["step"], one["result"]) for one in actions] == ([("journal", "done")] if gone else [])
    assert [one["after"] for one in planned] == [one["after"] for one in actions]
