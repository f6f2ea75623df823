"""restic itself, on repositories that are whole, locked, full, read-only, flipped and cut off."""

from __future__ import annotations

import getpass
import grp
import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from ansible.module_utils import runbook_restic
from ansible.module_utils.runbook_restic import (
    Absent,
    Incomplete,
    Lock,
    Locked,
    ReadOnly,
    Repository,
    RepositoryFull,
    Restic,
    Unreachable,
    WrongPassword,
    after_forget,
    before_forget,
    classify,
    damaged_files,
    holder_is_gone,
    new_marks,
    pack_bytes,
    subset_for,
    verify_local,
)
from ansible.module_utils.runbook_tools import ToolError, Tools
from support.postgres import unprivileged_user, wait_until

TAGS = ["llm-cost-tracker", "set:20261101T020000Z"]
HOST = os.uname().nodename
EMPTY_SHA = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new repository, to be copied: restic takes its time to make a key."""
    folder = tmp_path_factory.mktemp("fresh")
    restic(folder).init()
    return folder / "repo"


@pytest.fixture
def place(tmp_path: Path, fresh: Path) -> Path:
    """A folder with a repository in repo and files to back up in src."""
    source = tmp_path / "src"
    (source / "deep").mkdir(parents=True)
    (source / "a").write_text("alpha")
    (source / "deep" / "b[1]").write_bytes(os.urandom(3_000_000))
    (source / "deep" / "b1").write_text("another")
    (source / "a").chmod(0o640)
    (source / "deep").chmod(0o751)
    shutil.copytree(fresh, tmp_path / "repo")
    return tmp_path


def restic(place: Path, word: str = "right", **more: object) -> Restic:
    return Restic(Repository(str(place / "repo"), word), Tools(), **more)  # type: ignore[arg-type]


def packs(place: Path) -> list[Path]:
    return sorted((p for p in (place / "repo" / "data").glob("*/*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(path: Path, at: int = 100) -> None:
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


class TestStateAndInit:
    def test_absent_then_ready(self, tmp_path: Path) -> None:
        one = restic(tmp_path)
        assert one.state() == "absent"
        one.init()
        assert one.state() == "ready"

    def test_a_second_init_is_refused(self, place: Path) -> None:
        with pytest.raises(ToolError, match="already"):
            restic(place).init()

    def test_wrong_password(self, place: Path) -> None:
        with pytest.raises(WrongPassword, match="password is wrong") as caught:
            restic(place, "wrong-secret").state()
        assert "wrong-secret" not in str(caught.value)

    def test_lost_config_is_not_an_absent_repository(self, place: Path) -> None:
        restic(place).store("m", b"x", TAGS, "h")
        (place / "repo" / "config").unlink()
        with pytest.raises(ToolError, match=r"damaged.*config is missing"):
            restic(place).state()

    def test_interrupted_init_can_be_done_again(self, tmp_path: Path) -> None:
        for folder in ("data/00", "index", "keys", "locks", "snapshots"):
            (tmp_path / "repo" / folder).mkdir(parents=True)
        one = restic(tmp_path)
        assert one.state() == "absent"
        one.init()
        assert one.state() == "ready"

    def test_a_file_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "repo").write_text("")
        with pytest.raises(ToolError, match="not a folder"):
            restic(tmp_path).state()

    def test_operations_on_an_absent_repository(self, tmp_path: Path) -> None:
        with pytest.raises(Absent, match="there is no repository"):
            restic(tmp_path).snapshots()

    def test_environment_of_the_operator_does_not_win(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RESTIC_REPOSITORY_FILE", "/nonexistent")
        monkeypatch.setenv("RESTIC_PASSWORD_COMMAND", "echo wrong")
        monkeypatch.setenv("RESTIC_PASSWORD_FILE", "/nonexistent")
        assert restic(place).state() == "ready"

    def test_nobody_answers(self) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
        repository = Repository(f"rest:http://user:hidden-word@127.0.0.1:{port}/", "x")
        # restic before 0.17 gives up at once, a later one is ended after a minute.
        with pytest.raises(Unreachable, match=r"cannot be reached|gave no answer") as caught:
            Restic(repository, Tools()).state()
        assert "hidden-word" not in str(caught.value)

    def test_sftp_without_a_server(self) -> None:
        command = "sftp.command=sh -c 'echo ssh: connect to host backup port 22: Connection refused >&2; exit 255'"
        with pytest.raises(Unreachable):
            Restic(Repository("sftp:backup:/x", "x", options=[command]), Tools()).state()

    def test_relative_location_and_empty_password_are_refused(self) -> None:
        with pytest.raises(ToolError, match="absolute"):
            Restic(Repository("repo", "x"), Tools())
        with pytest.raises(ToolError, match="empty"):
            Restic(Repository("/repo", ""), Tools())

    def test_secrets_are_not_shown(self) -> None:
        repository = Repository("rest:https://u:pw1@h/", "pw2", {"AWS_SECRET_ACCESS_KEY": "pw3"})
        assert repository.shown == "rest:https://u:***@h/"
        assert "pw2" not in repr(repository) and "pw3" not in repr(repository)


class TestVersion:
    def test_the_real_one(self, place: Path) -> None:
        assert restic(place).version() >= (0, 14)

    def test_old_restic_is_refused(self, tmp_path: Path) -> None:
        fake = tmp_path / "restic"
        fake.write_text("#!/bin/sh\necho restic 0.12.1 compiled with go1.17 on linux/amd64\n")
        fake.chmod(0o755)
        with pytest.raises(ToolError, match=r"'restic 0\.12\.1' is too old"):
            Restic(Repository("/repo", "x"), Tools(bin_dir=str(tmp_path))).snapshots()


class TestBackupAndRestore:
    def test_round_trip_keeps_content_owner_and_mode(self, place: Path) -> None:
        one = restic(place)
        nobody = pwd.getpwnam("nobody")
        os.chown(place / "src" / "a", nobody.pw_uid, nobody.pw_gid)
        (place / "src" / "link").symlink_to("/nowhere")
        made = one.backup([str(place / "src")], TAGS, "web1")
        assert (made.files, len(made.snapshot)) == (3, 64)
        assert made.bytes_added > 3_000_000 and made.bytes_processed == 3_000_012
        spent = one.restore(made.snapshot, place / "out")
        back = place / "out" / str(place / "src").lstrip("/")
        assert spent > 0
        assert (back / "deep" / "b[1]").read_bytes() == (place / "src" / "deep" / "b[1]").read_bytes()
        assert os.readlink(back / "link") == "/nowhere"
        found = (back / "a").stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (nobody.pw_uid, nobody.pw_gid, 0o640)
        assert stat.S_IMODE((back / "deep").stat().st_mode) == 0o751
        assert grp.getgrgid(found.st_gid)

    def test_nothing_new_adds_next_to_nothing(self, place: Path) -> None:
        one = restic(place)
        one.backup([str(place / "src")], TAGS, "web1")
        assert one.backup([str(place / "src")], TAGS, "web1").bytes_added < 10_000

    def test_restore_of_chosen_paths_takes_them_literally(self, place: Path) -> None:
        one = restic(place)
        made = one.backup([str(place / "src")], TAGS, "web1")
        one.restore(made.snapshot, place / "out", [str(place / "src" / "deep" / "b[1]")])
        names = sorted(p.name for p in (place / "out").rglob("*") if p.is_file())
        assert names == ["b[1]"]

    def test_restore_of_a_path_that_is_not_in_it(self, place: Path) -> None:
        one = restic(place)
        made = one.backup([str(place / "src")], TAGS, "web1")
        with pytest.raises(ToolError, match="does not hold /etc/nowhere"):
            one.restore(made.snapshot, place / "out", ["/etc/nowhere"])

    def test_excludes(self, place: Path) -> None:
        one = restic(place)
        assert one.backup([str(place / "src")], TAGS, "web1", [str(place / "src" / "deep")]).files == 1

    def test_store_and_read_are_the_same_bytes(self, place: Path) -> None:
        one = restic(place)
        content = bytes(range(256)) + b"\r\n"
        id = one.store("manifest.json", content, TAGS, "web1")
        assert len(id) == 64
        assert one.read(id, "/manifest.json") == content
        with pytest.raises(ToolError, match="dump"):
            one.read(id, "/other.json")

    def test_snapshots_by_all_of_their_tags(self, place: Path) -> None:
        one = restic(place)
        first = one.store("m", b"1", ["a", "b"], "web1")
        second = one.store("m", b"2", ["a"], "web2")
        found = one.snapshots()
        assert [(s.id, s.host, s.tags, s.paths) for s in found] == [
            (first, "web1", ["a", "b"], ["/m"]),
            (second, "web2", ["a"], ["/m"]),
        ]
        assert [s.id for s in one.snapshots(["a", "b"])] == [first]
        assert one.snapshots(["c"]) == []
        assert found[0].time.tzinfo == timezone.utc
        assert abs(found[0].time.timestamp() - time.time()) < 60

    def test_a_time_with_nanoseconds_and_a_zone(self) -> None:
        found = runbook_restic._instant("2026-03-01T01:02:03.123456789+02:00")
        assert found == datetime(2026, 2, 28, 23, 2, 3, 123456, timezone.utc)
        assert runbook_restic._instant("2026-03-01T01:02:03.5Z").microsecond == 500000

    def test_a_comma_in_a_tag_is_refused(self, place: Path) -> None:
        with pytest.raises(ToolError, match="comma"):
            restic(place).store("m", b"1", ["a,b"], "web1")

    def test_a_missing_path_is_named(self, place: Path) -> None:
        one = restic(place)
        with pytest.raises(Incomplete, match="/nowhere") as caught:
            one.backup([str(place / "src"), "/nowhere"], TAGS, "web1")
        assert caught.value.items == ["/nowhere"]
        assert one.snapshots() == []

    def test_unreadable_file_is_named_and_its_snapshot_forgotten(self, tmp_path: Path) -> None:
        user = unprivileged_user() or getpass.getuser()
        for parent in [tmp_path, *tmp_path.parents]:
            if str(parent).startswith("/tmp/"):
                parent.chmod(parent.stat().st_mode | 0o711)
        for name in ("repo", "src"):
            (tmp_path / name).mkdir()
            shutil.chown(tmp_path / name, user)
        (tmp_path / "src" / "fine").write_text("x")
        (tmp_path / "src" / "secret").write_text("x")
        (tmp_path / "src" / "secret").chmod(0o000)
        one = Restic(Repository(str(tmp_path / "repo"), "x"), Tools(os_user=unprivileged_user()))
        one.init()
        with pytest.raises(Incomplete, match=r"could not read .*secret") as caught:
            one.backup([str(tmp_path / "src")], TAGS, "web1")
        assert caught.value.items == [str(tmp_path / "src" / "secret")]
        assert one.snapshots() == []

    def test_forget_takes_exactly_the_given(self, place: Path) -> None:
        one = restic(place)
        (place / "big").write_bytes(os.urandom(2_000_000))
        gone = one.backup([str(place / "big")], TAGS, "web1").snapshot
        kept = one.store("m", b"x", TAGS, "web1")
        size = pack_bytes(one.repository.location)
        removed = one.forget([gone], prune=True)
        assert [s.id for s in one.snapshots()] == [kept]
        assert f"snapshots/{gone}" in removed and any(name.startswith("data/") for name in removed)
        assert size - pack_bytes(one.repository.location) > 2_000_000
        assert one.forget([], prune=True) == []


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of four MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


class TestDisks:
    def test_full(self, small: Path, tmp_path: Path) -> None:
        one = restic(small)
        one.init()
        (tmp_path / "big").write_bytes(os.urandom(9_000_000))
        with pytest.raises(RepositoryFull, match="it is full"):
            one.backup([str(tmp_path / "big")], TAGS, "web1")
        assert one.state() == "ready"

    def test_read_only(self, small: Path, tmp_path: Path) -> None:
        one = restic(small)
        one.init()
        id = one.store("m", b"x", TAGS, "web1")
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        assert one.state() == "ready"
        for change in (lambda: one.store("m", b"y", TAGS, "h"), lambda: one.forget([id], prune=False)):
            with pytest.raises(ReadOnly, match="mounted read-only"):
                change()
        # What is there can still be had.
        assert one.read(id, "/m") == b"x"
        assert one.restore(id, tmp_path / "out") > 0
        assert one.check("1/1") == []

    def test_folder_of_somebody_else(self, place: Path) -> None:
        for parent in [place, *place.parents]:
            if str(parent).startswith("/tmp/"):
                parent.chmod(parent.stat().st_mode | 0o711)
        one = Restic(Repository(str(place / "repo"), "right"), Tools(os_user="nobody"))
        with pytest.raises(ToolError, match="permission denied"):
            one.state()


class TestVerify:
    def test_sound_twice_and_marks_skip(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        one = restic(place)
        one.backup([str(place / "src")], TAGS, "h")
        problems, marks = verify_local(one.repository.location, new_marks(), False)
        assert problems == []
        assert {name.split("/")[0] for name in marks["files"]} == {"data", "index", "snapshots", "keys"}
        read: list[Path] = []
        real = runbook_restic._differs
        monkeypatch.setattr(runbook_restic, "_differs", lambda path: read.append(path) or real(path))
        marks = json.loads(json.dumps(marks))  # they are kept in a file
        assert verify_local(one.repository.location, marks, False) == ([], marks)
        assert read == []
        assert verify_local(one.repository.location, marks, True) == ([], marks)
        assert len(read) == len(marks["files"])

    def test_flipped_byte_is_found_by_both(self, place: Path) -> None:
        one = restic(place)
        one.backup([str(place / "src")], TAGS, "h")
        assert one.check("1/1") == []
        _, marks = verify_local(one.repository.location, new_marks(), False)
        pack = packs(place)[-1]
        flip(pack)
        problems, after = verify_local(one.repository.location, marks, False)
        assert len(problems) == 1 and problems[0].startswith(f"pack {pack} is damaged")
        # It is told of until it is whole.
        assert verify_local(one.repository.location, after, False)[0] == problems
        found = one.check("1/1")
        assert found and pack.name[:8] in " ".join(found)

    @pytest.mark.parametrize("kind", ["pack", "index"])
    def test_what_a_damaged_file_held_is_saved_anew(self, place: Path, kind: str) -> None:
        one = restic(place)
        one.backup([str(place / "src")], TAGS, "h")
        victim = packs(place)[-1] if kind == "pack" else next((place / "repo" / "index").iterdir())
        flip(victim)
        found = damaged_files(one.repository.location, verify_local(one.repository.location, new_marks(), True)[0])
        assert found == [str(victim.relative_to(place / "repo"))]
        one.set_aside(found)
        assert (place / "repo" / "damaged" / victim.name).exists()
        saved = one.backup([str(place / "src")], TAGS, "h")
        assert verify_local(one.repository.location, new_marks(), True)[0] == [] and one.check("1/1") == []
        one.restore(saved.snapshot, place / "out")
        restored = place / "out" / str(place / "src").lstrip("/")
        assert (restored / "deep" / "b[1]").read_bytes() == (place / "src" / "deep" / "b[1]").read_bytes()

    def test_what_was_in_older_snapshots_alone_is_told_as_lost(self, place: Path) -> None:
        one = restic(place)
        one.backup([str(place / "src")], TAGS, "h")
        (place / "src" / "deep" / "b[1]").write_text("other")
        flip(packs(place)[-1])
        one.set_aside(damaged_files(one.repository.location, verify_local(one.repository.location, new_marks(), True)[0]))
        saved = one.backup([str(place / "src")], TAGS, "h")
        assert "b[1]" in " ".join(one.check())
        one.restore(saved.snapshot, place / "out")

    def test_a_killed_repair_is_gone_on_with(self, place: Path) -> None:
        one = restic(place)
        one.backup([str(place / "src")], TAGS, "h")
        (place / "repo" / "damaged").mkdir()
        (place / "repo" / "damaged" / "index-is-due").touch()
        packs(place)[-1].rename(place / "repo" / "damaged" / "pack")
        found = damaged_files(one.repository.location, [])
        assert found == ["damaged/index-is-due"]
        one.set_aside(found)
        one.backup([str(place / "src")], TAGS, "h")
        assert one.check("1/1") == [] and damaged_files(one.repository.location, []) == []

    def test_a_repository_elsewhere_is_not_repaired(self) -> None:
        one = Restic(Repository("sftp:h:/r", "word"), Tools())
        assert damaged_files("sftp:h:/r", ["pack sftp:h:/r/data/00/" + "0" * 64 + " is damaged"]) == []
        with pytest.raises(ToolError, match="elsewhere"):
            one.set_aside(["data/00/" + "0" * 64])

    def test_flipped_byte_with_its_time_put_back(self, place: Path) -> None:
        one = restic(place)
        one.backup([str(place / "src")], TAGS, "h")
        _, marks = verify_local(one.repository.location, new_marks(), False)
        pack = packs(place)[-1]
        before = pack.stat()
        flip(pack)
        pack.chmod(stat.S_IMODE(before.st_mode))
        os.utime(pack, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert pack.stat().st_mtime_ns == before.st_mtime_ns
        assert len(verify_local(one.repository.location, marks, False)[0]) == 1

    @pytest.mark.parametrize(("folder", "kind"), [("index", "index"), ("snapshots", "snapshot"), ("keys", "key")])
    def test_cut_off(self, place: Path, folder: str, kind: str) -> None:
        restic(place).store("m", b"x", TAGS, "h")
        victim = next((place / "repo" / folder).iterdir())
        victim.chmod(0o600)
        os.truncate(victim, 50)
        problems, _ = verify_local(str(place / "repo"), new_marks(), False)
        assert problems == [p for p in problems if p.startswith(f"{kind} {victim} is damaged: its 50 bytes")]
        assert len(problems) == 1

    def test_cut_off_index_fails_the_check(self, place: Path) -> None:
        one = restic(place)
        one.store("m", b"x", TAGS, "h")
        victim = next((place / "repo" / "index").iterdir())
        victim.chmod(0o600)
        os.truncate(victim, 50)
        assert victim.name[:8] in " ".join(one.check())

    def test_lost_files_are_told_of_once(self, place: Path) -> None:
        one = restic(place)
        one.store("m", b"x", TAGS, "h")
        _, marks = verify_local(one.repository.location, new_marks(), False)
        victim = next((place / "repo" / "snapshots").iterdir())
        victim.unlink()
        problems, after = verify_local(one.repository.location, marks, False)
        assert problems == [f"snapshot {victim} is gone, and no forget of ours removed it"]
        assert verify_local(one.repository.location, after, False)[0] == []

    def test_what_our_own_forget_removed_is_not_lost(self, place: Path) -> None:
        one = restic(place)
        gone = one.store("m", b"x", TAGS, "h")
        one.store("m", b"y", TAGS, "h")
        _, marks = verify_local(one.repository.location, new_marks(), False)
        pending = before_forget(marks)
        removed = one.forget([gone], prune=True)
        assert verify_local(one.repository.location, after_forget(pending, removed), False)[0] == []
        # Killed before the marks were saved: nothing is judged lost then, but what is there is read.
        assert verify_local(one.repository.location, pending, False)[0] == []
        assert len(verify_local(one.repository.location, marks, False)[0]) == len(removed)

    def test_no_repository(self, tmp_path: Path) -> None:
        assert "holds no local restic repository" in verify_local(str(tmp_path), new_marks(), False)[0][0]
        assert "holds no local" in verify_local("sftp:h:/x", new_marks(), False)[0][0]

    def test_the_parts_take_turns(self) -> None:
        assert [subset_for(day, 3) for day in (0, 1, 2, 3)] == ["1/3", "2/3", "3/3", "1/3"]
        with pytest.raises(ValueError, match="parts is 0"):
            subset_for(1, 0)

    def test_part_that_is_none(self, place: Path) -> None:
        with pytest.raises(ToolError, match="such as 3/7"):
            restic(place).check("10G")


def backing_up(place: Path) -> list[str]:
    return ["restic", "-r", str(place / "repo"), "--no-cache", "backup", "--stdin"]


def background(argv: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "RESTIC_PASSWORD": "right"}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, env=environment)


def written_locks(place: Path) -> list[Path]:
    """Return the locks that are written whole; restic writes them under another name first."""
    return [path for path in (place / "repo" / "locks").iterdir() if len(path.name) == 64]


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process the hard way, so that it takes no lock away."""
    process.kill()
    process.wait()
    if process.stdin and not process.stdin.closed:
        process.stdin.close()


@pytest.fixture
def holder(place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A restic that holds a lock: it backs up a pipe nobody writes to."""
    process = background(backing_up(place))
    wait_until(lambda: written_locks(place), "the lock is there")
    yield process
    end(process)


class TestLocks:
    def test_a_living_one_is_told_and_kept(self, place: Path, holder: subprocess.Popen[bytes]) -> None:
        one = restic(place, now=lambda: time.time() + 3600)
        (lock,) = one.locks()
        assert (lock.host, lock.pid, lock.exclusive, lock.user) == (HOST, holder.pid, False, getpass.getuser())
        assert one.judged_locks(HOST, 600) == [(lock, f"process {holder.pid} is running")]
        assert one.release_stale(HOST, 600) == []
        assert str(lock).startswith(f"lock {lock.id[:8]} of pid {holder.pid} ({getpass.getuser()}) on {HOST} since 2")
        assert len(one.locks()) == 1

    def test_of_a_killed_process_is_removed(self, place: Path, holder: subprocess.Popen[bytes]) -> None:
        one = restic(place, now=lambda: time.time() + 700)
        end(holder)
        assert len(one.release_stale(HOST, 600)) == 1
        assert one.locks() == []
        assert one.forget([], prune=True) == []

    def test_a_zombie_holds_nothing(self, place: Path, holder: subprocess.Popen[bytes]) -> None:
        holder.send_signal(signal.SIGKILL)
        wait_until(lambda: ") Z " in Path(f"/proc/{holder.pid}/stat").read_text(), "it is a zombie")
        assert len(restic(place).release_stale(HOST, 0)) == 1

    def test_too_young_is_kept(self, place: Path, holder: subprocess.Popen[bytes]) -> None:
        end(holder)
        assert restic(place).release_stale(HOST, 600) == []
        ((_, reason),) = restic(place).judged_locks(HOST, 600)
        assert "less than 600 s" in reason

    def test_of_another_host_is_kept_and_told(self, place: Path) -> None:
        argv = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec restic "$@"', "restic"]
        argv += ["-r", str(place / "repo"), "--no-cache", "backup", "--stdin"]
        other = background(argv)
        wait_until(lambda: written_locks(place), "the lock is there")
        end(other)
        one = restic(place)
        # Neither by our name, nor by its own: its processes are not to be seen from here.
        for name in (HOST, "elsewhere"):
            assert one.release_stale(name, 0) == []
            assert [reason for _, reason in one.judged_locks(name, 0)] == [
                "it is of host elsewhere, whose processes are not seen from here"
            ]
        assert [lock.host for lock in one.locks()] == ["elsewhere"]

    def test_exactly_ours_is_removed_beside_a_living_one(self, place: Path, holder: subprocess.Popen[bytes]) -> None:
        (alive,) = written_locks(place)
        other = background(backing_up(place))
        wait_until(lambda: len(written_locks(place)) == 2, "the second lock is there")
        end(other)
        assert [lock.pid for lock in restic(place).release_stale(HOST, 0)] == [other.pid]
        assert written_locks(place) == [alive]

    def test_one_that_cannot_be_read_is_kept(self, place: Path) -> None:
        name = place / "repo" / "locks" / EMPTY_SHA
        name.write_bytes(b"")
        assert restic(place).release_stale(HOST, 0) == []
        ((lock, reason),) = restic(place).judged_locks(HOST, 0)
        assert reason == "it cannot be read" and "which cannot be read" in str(lock)
        assert abs(lock.time.timestamp() - time.time()) < 60
        assert name.exists()

    def test_a_number_used_again_is_another_process(self) -> None:
        def lock(pid: int, seconds: float) -> Lock:
            return Lock("a" * 64, HOST, pid, "root", datetime.fromtimestamp(seconds, timezone.utc), True)

        assert not holder_is_gone(lock(os.getpid(), time.time()))
        assert holder_is_gone(lock(os.getpid(), time.time() - 365 * 86400))
        assert not holder_is_gone(lock(0, 0))

    def test_locked_is_said_and_waited_for(self, place: Path, holder: subprocess.Popen[bytes]) -> None:
        with pytest.raises(Locked, match=f"PID {holder.pid}"):
            restic(place).forget([], prune=True)
        waited: list[float] = []

        def pause(seconds: float) -> None:
            waited.append(seconds)
            end(holder)
            restic(place).release_stale(HOST, 0)

        restic(place, wait_lock_seconds=60, pause=pause).forget([], prune=True)
        assert len(waited) == 1

    def test_elsewhere_unlock_is_asked_only_if_all_are_dead(self, place: Path, tmp_path: Path) -> None:
        """The restic of a location elsewhere is a recorder before the real one."""
        log, bin_dir = tmp_path / "log", tmp_path / "bin"
        bin_dir.mkdir()
        real = shutil.which("restic")
        (bin_dir / "restic").write_text(
            f'#!/bin/sh\necho "$@" >> {log}\nRESTIC_REPOSITORY={place}/repo exec {real} "$@"\n'
        )
        (bin_dir / "restic").chmod(0o755)
        one = Restic(Repository("sftp:elsewhere:/repo", "right"), Tools(bin_dir=str(bin_dir)))
        both = [background(backing_up(place)) for _ in "ab"]
        wait_until(lambda: len(one.locks()) == 2, "both locks are there")
        dead, alive = both
        end(dead)
        assert one.release_stale(HOST, 0) == []
        assert "unlock" not in log.read_text()
        end(alive)
        assert {lock.pid for lock in one.release_stale(HOST, 0)} == {dead.pid, alive.pid}
        assert "unlock" in log.read_text() and one.locks() == []


class TestClassify:
    @pytest.mark.parametrize(
        ("rc", "text", "version", "kind"),
        [
            (10, "", (0, 17), Absent),
            (11, "", (0, 18), Locked),
            (12, "", (0, 17, 1), WrongPassword),
            (10, "something", (0, 14), ToolError),
            (1, "Fatal: unable to open config file: Stat: 403 Forbidden", (0, 14), ReadOnly),
            (1, "Fatal: unable to open config file: Head: dial tcp: connect: connection refused\nIs there a repository "
             "at the following location?", (0, 14), Unreachable),
            (1, "Fatal: unable to open config file: Stat: The specified key does not exist.\nIs there a repository at "
             "the following location?", (0, 14), Absent),
            (1, "client.PutObject: The AWS Access Key Id you provided does not exist", (0, 14), Unreachable),
            (1, "subprocess ssh: root@h: Permission denied (publickey,password).", (0, 14), Unreachable),
            (1, "open /r/locks/x: permission denied", (0, 14), ReadOnly),
            (1, "write /r/data/x: disk quota exceeded", (0, 16), RepositoryFull),
            (1, "error for tree 97fc0c3d: decrypting blob 97fc0c3df5a72503 failed: ciphertext verification failed", (0, 14), ToolError),
            (1, "no idea", (0, 18), ToolError),
        ],
    )  # fmt: skip
    def test_kinds(self, rc: int, text: str, version: tuple[int, ...], kind: type[ToolError]) -> None:
        assert classify(rc, text, version)[0] is kind

    def test_sftp_that_says_no_more_than_failure(self) -> None:
        said = 'Fatal: unable to save snapshot: Write: sftp: "Failure" (SSH_FX_FAILURE)'
        assert "full, or read-only" in classify(1, said, (0, 14))[1]
