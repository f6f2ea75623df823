# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Who holds which file, with real processes that hold some."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils import logs_holders
from ansible.module_utils.logs_holders import Holder, Look, deleted_on, holders, look, writers

HOLD = "import sys; f = open(sys.argv[1], sys.argv[2]); print('ready', flush=True); sys.stdin.read()"


@contextlib.contextmanager
def held(path: Path, mode: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has the file open until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    try:
        yield process
    finally:
        process.communicate("")


def of(process: subprocess.Popen[str], folder: Path) -> list[Holder]:
    return [one for one in holders(lambda path: path.startswith(str(folder))) if one.pid == process.pid]


@pytest.mark.parametrize(
    ("mode", "writes", "appends"), [("r", False, False), ("a", True, True), ("r+", True, False), ("w", True, False)]
)
def test_an_open_file_with_its_holder(tmp_path: Path, mode: str, writes: bool, appends: bool) -> None:
    path = tmp_path / "app.log"
    path.write_bytes(b"x" * 5000)
    with held(path, mode) as process:
        (found,) = of(process, tmp_path)
    there = path.stat()
    assert (found.writes, found.appends, found.deleted, found.path) == (writes, appends, False, str(path))
    assert (found.device, found.inode, found.size_bytes) == (there.st_dev, there.st_ino, there.st_size)
    assert found.process.startswith("python")


def test_a_deleted_file_keeps_its_name_and_is_reached(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_bytes(b"x" * 10_000)
    with held(path, "a") as process:
        path.unlink()
        (found,) = of(process, tmp_path)
        assert Path(found.through).read_bytes() == b"x" * 10_000
    assert found.deleted and found.path == str(path) and found.size_bytes == 10_000 and found.disk_bytes >= 10_000


def test_a_name_that_says_deleted_is_none(tmp_path: Path) -> None:
    path = tmp_path / "app.log (deleted)"
    path.write_bytes(b"x")
    with held(path, "a") as process:
        (there,) = of(process, tmp_path)
        path.unlink()
        (gone,) = of(process, tmp_path)
    assert (there.path, there.deleted) == (str(path), False)
    assert (gone.path, gone.deleted) == (str(path), True)


def test_a_second_name_keeps_the_file(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_bytes(b"x")
    os.link(path, tmp_path / "other")
    with held(path, "a") as process:
        path.unlink()
        (found,) = of(process, tmp_path)
    assert (found.path, found.deleted) == (str(path), False)


def test_folders_pipes_and_devices_are_no_files(tmp_path: Path) -> None:
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        mine = [one.path for one in holders() if one.pid == os.getpid()]
    finally:
        os.close(handle)
    assert str(tmp_path) not in mine and not any(path.startswith("/dev/null") for path in mine)


def test_memory_files_are_told_apart(tmp_path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.memfd_create(b"scratch", 0)
    assert handle >= 0
    try:
        os.write(handle, b"x" * 9000)
        (found,) = [one for one in holders() if one.pid == os.getpid() and one.fd == handle]
        assert found.memfd and found.device != tmp_path.stat().st_dev
        assert deleted_on(found.device, Look([found])) == []
    finally:
        os.close(handle)


def test_each_deleted_file_once_the_largest_first() -> None:
    def one(pid: int, inode: int, disk: int, **more: bool) -> Holder:
        return Holder(pid, "p", 3, f"/f{inode}", **{"deleted": True, "writes": False, **more}, device=7, inode=inode,
                      size_bytes=disk, disk_bytes=disk)  # fmt: skip

    seen = Look([one(1, 5, 10), one(2, 5, 10, writes=True), one(3, 6, 99), one(4, 8, 500, deleted=False)])
    assert [(h.pid, h.inode) for h in deleted_on(7, seen)] == [(3, 6), (2, 5)]
    assert deleted_on(8, seen) == []


def made_up(proc: Path, pid: str, target: Path, flags: str = "0102001") -> Path:
    (proc / pid / "fd").mkdir(parents=True)
    (proc / pid / "fdinfo").mkdir()
    (proc / pid / "fd" / "3").symlink_to(target)
    (proc / pid / "fdinfo" / "3").write_text(f"pos:\t0\nflags:\t{flags}\nmnt_id:\t24\n")
    (proc / pid / "comm").write_text("a (b) c\n")
    return proc / pid


def test_processes_that_end_meanwhile_are_left_out(tmp_path: Path) -> None:
    target = tmp_path / "log"
    target.write_text("x")
    proc = tmp_path / "proc"
    made_up(proc, "10", target)
    (made_up(proc, "11", target) / "fdinfo" / "3").unlink()
    (made_up(proc, "12", target) / "comm").unlink()
    (proc / "13").mkdir()
    (proc / "self").mkdir()
    made_up(proc, "14", tmp_path / "gone")
    seen = look(proc=proc)
    assert [(h.pid, h.process, h.writes, h.appends) for h in seen.holders] == [(10, "a (b) c", True, True)]
    assert seen.complete == (os.geteuid() == 0)


def test_what_may_not_be_seen_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "log"
    target.write_text("x")
    made_up(tmp_path / "proc", "10", target)
    made_up(tmp_path / "proc", "11", target)
    real = os.listdir

    def refused(path: object) -> list[str]:
        if str(path).endswith("10/fd"):
            raise PermissionError(errno.EACCES, "no")
        return real(str(path))

    monkeypatch.setattr(os, "listdir", refused)
    seen = look(proc=tmp_path / "proc")
    assert not seen.complete and [h.pid for h in seen.holders] == [11]


def test_without_root_it_is_never_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not look(proc=tmp_path / "proc").complete


@pytest.mark.parametrize("leases", [True, False], ids=["leases", "no-leases"])
def test_who_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leases: bool) -> None:
    if not leases:

        def refused(handle: int, how: int, what: int = 0) -> int:
            raise OSError(errno.EINVAL, "no leases here")

        monkeypatch.setattr(logs_holders.fcntl, "fcntl", refused)
    path = tmp_path / "app.log"
    path.write_text("x")
    handle = os.open(path, os.O_RDONLY)
    try:
        assert writers(handle) == ""
        with held(path, "r"):
            assert writers(handle) == ""
        with held(path, "a") as process:
            assert f"(pid {process.pid})" in writers(handle)
        assert writers(handle) == ""
    finally:
        os.close(handle)


def test_a_lease_is_given_back_at_once(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_text("x")
    handle = os.open(path, os.O_RDONLY)
    try:
        assert writers(handle) == "" and fcntl.fcntl(handle, fcntl.F_GETLEASE) == fcntl.F_UNLCK
        with open(path, "a", encoding="utf-8") as file:  # would wait for a lease that is held
            file.write("y")
    finally:
        os.close(handle)


def test_a_writer_that_cannot_be_seen_counts(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_text("x")
    (tmp_path / "proc").mkdir()
    handle = os.open(path, os.O_RDONLY)
    try:
        with held(path, "a"):
            assert "cannot be seen" in writers(handle, tmp_path / "proc")
    finally:
        os.close(handle)
