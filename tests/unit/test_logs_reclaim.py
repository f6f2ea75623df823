# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""The ladder on small file systems that are really full: order, target, what stays, what is told."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import logs_compress, logs_reclaim
from ansible.module_utils.logs_archive import FolderArchive, LogRestic, ResticArchive
from ansible.module_utils.logs_reclaim import (
    Ladder,
    LogPolicy,
    Reclaim,
    ReclaimRefused,
    image_bytes,
    ladders,
    protected,
)
from ansible.module_utils.logs_space import Space, Survey, causes, measure, mounts
from ansible.module_utils.runbook_restic import Repository
from ansible.module_utils.runbook_tools import Tools
from support.postgres import wait_until

MIB = 1 << 20
DAY = 86400.0
HOST = "app1"
NUMBERS = itertools.count(1)


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


def write(path: Path, size: int, age_days: float = 0, compressible: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"the same line\n" * (size // 14) if compressible else os.urandom(size))
    then = time.time() - age_days * DAY
    os.utime(path, (then, then))
    return path


def fill(folder: Path) -> Path:
    """Fill a file system to the last byte."""
    path = folder / "filler"
    block = os.urandom(MIB)
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(block)
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x")
    return path


def hashes(*folders: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextlib.contextmanager
def tmpfs(place: Path, options: str) -> Iterator[Path]:
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place))
    try:
        yield place
    finally:
        run("umount", "-l", str(place))


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB, to be filled by the test."""
    with tmpfs(tmp_path / "full", "size=64m") as place:
        yield place


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Path]:
    """A file system with reserved blocks and attributes."""
    image, place = tmp_path / "image", tmp_path / "disk"
    image.write_bytes(b"")
    os.truncate(image, 48 * MIB)
    run("mkfs.ext4", "-q", "-m", "20", "-O", "^has_journal", str(image))
    place.mkdir()
    run("mount", "-o", "loop", str(image), str(place))
    yield place
    run("umount", "-l", str(place))


WRITER = """
import signal, sys
path = sys.argv[1]
file = open(path, "a")
def again(*args):
    global file
    file.close()
    file = open(path, "a")
signal.signal(signal.SIGUSR1, again)
print("ready", flush=True)
for line in sys.stdin:
    file.write(line); file.flush(); print("done", flush=True)
"""


class Writer:
    """A process that writes the lines it is given to a file that it keeps open, and opens it anew on SIGUSR1."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answered("ready")

    def _answered(self, word: str) -> None:
        assert self.process.stdout and self.process.stdout.readline().strip() == word

    def write(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        self._answered("done")

    def end(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def writers() -> Iterator[list[Writer]]:
    made: list[Writer] = []
    yield made
    for writer in made:
        writer.end()


def given(tmp_path: Path, full: Path, **more: Any) -> Reclaim:
    (tmp_path / "evidence").mkdir(exist_ok=True)
    defaults: dict[str, Any] = {
        "filesystems": (str(full),), "target_percent": 20.0, "state_dir": str(full / "state"), "run_id": f"run{next(NUMBERS)}",
        "who": "me@here", "host": HOST, "evidence_dirs": (str(tmp_path / "evidence"),),
    }  # fmt: skip
    return Reclaim(**{**defaults, **more})


def ladder(wanted: Reclaim, **more: Any) -> Ladder:
    (one,) = ladders(wanted, **more)
    return one


def ids(findings: list[dict[str, Any]]) -> list[str]:
    return sorted({found["id"] for found in findings})


# --- all rungs ----------------------------------------------------------------------------------------------------


class World:
    """A file system of 64 MiB at 100 %, with something for each rung, and what must never be touched."""

    def __init__(self, tmp_path: Path, full: Path, writers: list[Writer], monkeypatch: pytest.MonkeyPatch) -> None:
        self.full, self.logs = full, full / "log"
        write(full / "pg" / "16" / "PG_VERSION", 100)
        write(full / "pg" / "16" / "pg_wal" / "000000010000000000000001", 3 * MIB, 400)
        write(full / "pg" / "16" / "old.log.1", MIB, 400, compressible=True)
        write(full / "redis" / "dump.rdb", MIB, 400)
        write(full / "redis" / "appendonlydir" / "a.aof.1", MIB, 400, compressible=True)
        write(full / "grafana" / "grafana.db", MIB, 400)
        write(full / "state" / "a.log.1", MIB, 400, compressible=True)
        self.precious = [full / name for name in ("pg", "redis", "grafana", "state")]
        self.ballast = write(full / "tracker" / "ballast", 4 * MIB)
        self.cache = write(full / "cache" / "apt" / "a.deb", 4 * MIB)
        self.plain = write(self.logs / "app.log.1", 4 * MIB, 1, compressible=True)
        self.old = write(self.logs / "app.log.2.gz", 4 * MIB, 60)
        self.live = self.logs / "web" / "access.log"
        writers.append(Writer(self.live))
        writers.append(Writer(self.logs / "other" / "stray.log"))
        for number, writer in enumerate(writers):
            writer.write(str(number) * 4 * MIB)
            writer.path.unlink()
        self.image = write(full / "docker" / "overlay2" / "layer", 4 * MIB)
        self.filler = fill(full)
        self._docker(tmp_path, monkeypatch)
        (tmp_path / "archive").mkdir()
        reopen = ("kill", "-USR1", str(writers[0].process.pid))
        globs = tuple(f"{full}/{name}/*.log" for name in ("log", "pg/16", "redis/appendonlydir", "state"))
        self.given = given(
            tmp_path, full, ballast_file=str(self.ballast), caches=(str(self.cache.parent), str(full / "redis")),
            policies=(LogPolicy("app", globs, keep_days=30, archive=True), LogPolicy("web", (f"{self.logs}/web/*.log",), reopen=reopen)),
            archive=FolderArchive(tmp_path / "archive", HOST), confirm=(f"{HOST}/deleted-files", f"{HOST}/images"),
        )  # fmt: skip
        self.before = hashes(*self.precious)

    def _docker(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = tmp_path / "bin" / "docker"
        fake.parent.mkdir()
        fake.write_text(
            "#!/bin/sh\n"
            f'echo "$*" >>{tmp_path}/docker-calls\n'
            f'case "$1 $2" in "info --format") echo {self.full}/docker;; "image ls") test -e {self.image} && echo 4.19MB;;\n'
            f'"image prune") rm -f {self.image}; echo Total reclaimed space: 4.19MB;; "system df") echo df;; *) exit 1;; esac\n'
        )
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
        self.docker_calls = tmp_path / "docker-calls"

    def there(self) -> list[str]:
        """Return which rungs have not been climbed, as their objects show."""
        stray = [one for one in logs_reclaim.look().holders if one.path == str(self.logs / "other" / "stray.log")]
        access = [one for one in logs_reclaim.look().holders if one.path == str(self.live) and one.deleted]
        seen = {
            "ballast": self.ballast.exists(), "caches": self.cache.exists(), "compress": self.plain.exists(),
            "retention": self.old.exists(), "reopen": bool(access), "deleted-files": bool(stray and stray[0].disk_bytes > MIB),
            "images": self.image.exists(),
        }  # fmt: skip
        return [rung for rung, yet in seen.items() if yet]


RUNGS = ["ballast", "caches", "compress", "retention", "reopen", "deleted-files", "images"]


@pytest.fixture
def world(tmp_path: Path, full: Path, writers: list[Writer], monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, full, writers, monkeypatch)


@pytest.mark.parametrize("rung", RUNGS)
def test_each_rung_is_climbed_in_its_order_and_stops_at_the_target(world: World, tmp_path: Path, rung: str) -> None:
    assert measure(str(world.full)).free_bytes == 0 and world.there() == RUNGS
    number = RUNGS.index(rung) + 1
    wanted = replace(world.given, target_percent=(number * 4 - 1) / 64 * 100)
    made = ladder(wanted)
    findings, actions = made.run()
    assert world.there() == RUNGS[number:], actions
    assert [one["rung"] for one in made.reclaimed] == RUNGS[:number]
    assert hashes(*world.precious) == world.before and world.filler.stat().st_size > 10 * MIB
    assert all(
        one["result"] == "done" and one["measure"] == "bytes" and one["before"] > one["after"] for one in actions
    )
    assert [one["number"] for one in actions] == sorted(one["number"] for one in actions), "more is free before each"
    assert (
        all(one["freed_bytes"] > 3 * MIB for one in made.reclaimed)
        and made.reclaimed[-1]["free_percent"] >= wanted.target_percent
    )
    assert "reclaim-short" not in ids(findings)
    assert made.bundle and str(made.bundle).startswith(str(tmp_path / "evidence"))
    run("sh", "-c", f"cd {made.bundle} && sha256sum -c SHA256SUMS")
    again, nothing = ladder(replace(wanted, run_id="again")).run()
    assert (again, nothing) == ([], []) and world.there() == RUNGS[number:]


def test_the_plan_is_what_a_run_does_and_touches_nothing(world: World, tmp_path: Path) -> None:
    wanted = replace(world.given, target_percent=40)
    everything = [world.full, tmp_path / "evidence", tmp_path / "archive"]
    before = hashes(*everything)
    planned = ladder(wanted).plan()
    assert hashes(*everything) == before and world.there() == RUNGS
    assert [one["step"] for one in planned] == RUNGS and {one["result"] for one in planned} == {"planned"}
    _, done = ladder(wanted).run()
    assert [(one["step"], one["subject"], one["kind"]) for one in done if one["result"] == "done"] == [
        (one["step"], one["subject"], one["kind"]) for one in planned
    ]
    for promised, made in zip(planned, done):
        assert abs((made["before"] - made["after"]) - (promised["before"] - promised["after"])) < MIB // 8
    assert [one["step"] for one in planned if one["kind"] == "destructive"] == ["deleted-files", "images"]


def test_without_confirmation_what_needs_one_is_only_told(world: World) -> None:
    findings, _ = ladder(replace(world.given, confirm=(f"other/{RUNGS[-1]}", "images"), target_percent=50)).run()
    assert world.there() == ["deleted-files", "images"] and "reclaim-short" in ids(findings)
    waiting = {one["subject"]: one for one in findings if one["id"] == "reclaim-unconfirmed"}
    assert set(waiting) == {f"{HOST}/deleted-files", f"{HOST}/images"}
    assert "image prune" not in world.docker_calls.read_text()


def test_what_is_protected_is_told_and_named_for_a_person(world: World) -> None:
    findings, _ = ladder(replace(world.given, target_percent=80)).run()
    assert hashes(*world.precious) == world.before
    (short,) = [one for one in findings if one["id"] == "reclaim-short"]
    assert (
        "pg_wal" in short["remedy"]
        and "replication slots" in short["remedy"]
        and str(world.filler) in short["observed"]
    )
    assert all(
        "volume" not in call and "-a" not in call.split() for call in world.docker_calls.read_text().splitlines()
    )


def test_hold_stops_every_deletion_of_logs(world: World) -> None:
    findings, actions = ladder(replace(world.given, hold="incident 7", target_percent=50)).run()
    assert world.old.exists() and "reclaim-on-hold" in ids(findings)
    assert {one["step"] for one in actions} == {"ballast", "caches", "compress", "reopen", "deleted-files", "images"}


def test_the_archive_has_the_log_before_it_goes(world: World, tmp_path: Path) -> None:
    data = world.old.read_bytes()
    ladder(replace(world.given, target_percent=15 / 64 * 100)).run()
    archive = FolderArchive(tmp_path / "archive", HOST)
    (kept,) = archive.index()
    assert not world.old.exists() and (archive.home / kept.name).read_bytes() == data and kept.removed_at
    run("sh", "-c", f"cd {archive.home} && sha256sum -c SHA256SUMS")


def test_a_compressed_log_has_the_same_lines(world: World) -> None:
    data, mtime = world.plain.read_bytes(), world.plain.stat().st_mtime
    os.chmod(world.plain, 0o604)
    os.chown(world.plain, 33, 4)
    ladder(replace(world.given, target_percent=11 / 64 * 100)).run()
    (packed,) = world.logs.glob("app.log.1.*")
    unpack = ["gzip", "-dc"] if packed.suffix == ".gz" else ["zstd", "-dc"]
    assert subprocess.run([*unpack, str(packed)], capture_output=True, check=True).stdout == data
    found = packed.stat()
    assert (found.st_mtime, found.st_mode & 0o777, found.st_uid, found.st_gid) == (mtime, 0o604, 33, 4)
    assert packed.suffix == ".gz"  # as its neighbour is


def test_no_line_of_a_deleted_log_is_lost(world: World, writers: list[Writer]) -> None:
    _, actions = ladder(replace(world.given, target_percent=23 / 64 * 100)).run()
    steps = {one["step"]: one for one in actions}
    for number, step in enumerate(("reopen", "deleted-files")):
        copy = Path(steps[step]["detail"].rsplit(" ", 1)[-1])
        assert copy.read_text() == str(number) * 4 * MIB + "\n" and copy.stat().st_mode & 0o777 == 0o600
        run("sh", "-c", f"cd {copy.parent} && sha256sum -c SHA256SUMS && grep -q {copy.name} SHA256SUMS CUSTODY")
    writers[0].write("after")
    assert world.live.read_text() == "after\n"
    writers[1].write("later")  # in the file that was emptied, behind what was copied
    (stray,) = [one for one in logs_reclaim.look().holders if one.path.endswith("stray.log")]
    assert Path(stray.through).read_bytes().strip(b"\0") == b"later\n" and stray.disk_bytes < MIB


def test_what_a_writer_adds_while_its_log_is_copied_stays(
    world: World, writers: list[Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = logs_reclaim._punch

    def late(*args: Any) -> None:
        writers[1].write("in between")
        real(*args)

    monkeypatch.setattr(logs_reclaim, "_punch", late)
    _, actions = ladder(replace(world.given, target_percent=23 / 64 * 100)).run()
    (stray,) = [one for one in logs_reclaim.look().holders if one.path.endswith("stray.log")]
    assert Path(stray.through).read_bytes().endswith(b"in between\n")
    copy = Path(actions[-1]["detail"].rsplit(" ", 1)[-1])
    assert copy.read_text().endswith("1\nin between\n")


def test_the_only_copy_that_waits_elsewhere_is_told(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody takes the space before the compressed copy is back."""
    data, real = world.plain.read_bytes(), logs_compress._let_go

    def taken(path: str, *rest: Any) -> None:
        real(path, *rest)
        monkeypatch.setattr(logs_compress, "_dress", full_disk)

    def full_disk(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logs_compress, "_let_go", taken)
    wanted = replace(world.given, target_percent=11 / 64 * 100, ballast_file=None, caches=())
    findings, actions = ladder(wanted).run()
    told = [one for one in findings if one["id"] == "reclaim-pending"]
    assert told and told[0]["severity"] == "critical" and not world.plain.exists()
    assert actions[0]["result"] == "skipped" and not list(world.logs.glob("app.log.1*"))
    monkeypatch.undo()
    ladder(replace(wanted, run_id="next", target_percent=20)).run()
    (packed,) = world.logs.glob("app.log.1.*")
    assert subprocess.run(["gzip", "-dc", str(packed)], capture_output=True, check=True).stdout == data


# --- deleted files ------------------------------------------------------------------------------------------------


def held(tmp_path: Path, full: Path, writers: list[Writer], name: str = "web/access.log") -> Writer:
    writer = Writer(full / name)
    writers.append(writer)
    writer.write("x" * 20 * MIB)
    writer.path.unlink()
    fill(full)
    return writer


def test_a_writer_that_does_not_reopen_is_told(
    tmp_path: Path, full: Path, writers: list[Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_reclaim, "REOPEN_SECONDS", 0.2)
    held(tmp_path, full, writers)
    policy = LogPolicy("web", (f"{full}/web/*.log",), reopen=("true",))
    findings, (asked,) = ladder(given(tmp_path, full, policies=(policy,))).run()
    assert asked["result"] == "skipped" and "restart the service" in asked["detail"]
    assert {"deleted-open", "reclaim-short", "reclaim-unconfirmed"} <= set(ids(findings))
    _, actions = ladder(given(tmp_path, full, policies=(policy,), confirm=(f"{HOST}/deleted-files",))).run()
    assert [(one["step"], one["result"]) for one in actions] == [("reopen", "skipped"), ("deleted-files", "done")]
    assert measure(str(full)).free_percent > 20


def test_a_policy_s_log_is_not_emptied_without_room_for_its_copy(
    tmp_path: Path, full: Path, writers: list[Writer]
) -> None:
    held(tmp_path, full, writers)
    with tmpfs(tmp_path / "tight", "size=20m") as tight:
        policy = LogPolicy("web", (f"{full}/web/*.log",))
        wanted = given(
            tmp_path, full, policies=(policy,), evidence_dirs=(str(tight),), confirm=(f"{HOST}/deleted-files",)
        )
        _, (tried,) = ladder(wanted).run()
    assert tried["result"] == "skipped" and "has room for" in tried["detail"] and measure(str(full)).free_bytes == 0


@pytest.mark.parametrize("name", ["pg/log.log", "redis/appendonly.aof", "x/dump.rdb", "grafana/grafana.db"])
def test_deleted_data_of_databases_is_never_emptied(
    tmp_path: Path, full: Path, writers: list[Writer], name: str
) -> None:
    write(full / "pg" / "PG_VERSION", 10)
    held(tmp_path, full, writers, name)
    _, actions = ladder(given(tmp_path, full, confirm=(f"{HOST}/deleted-files",))).run()
    assert actions == [] and measure(str(full)).free_bytes == 0


def test_a_scratch_file_that_was_deleted_on_purpose_stays(tmp_path: Path, full: Path) -> None:
    scratch = full / "sort123"
    with scratch.open("w+b") as file:
        file.write(b"x" * 20 * MIB)
        file.flush()
        scratch.unlink()
        fill(full)
        findings, actions = ladder(given(tmp_path, full, confirm=(f"{HOST}/deleted-files",))).run()
        file.seek(0)
        assert actions == [] and file.read() == b"x" * 20 * MIB
        assert "deleted-open" in ids(findings)


def test_a_file_system_that_makes_no_holes_gets_the_file_emptied(
    tmp_path: Path, full: Path, writers: list[Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        def __init__(self, *args: Any, **more: Any) -> None: ...
        def fallocate(self, *args: Any) -> int:
            return -1

    monkeypatch.setattr(logs_reclaim.ctypes, "CDLL", Refusing)
    held(tmp_path, full, writers, "a.log")
    ladder(given(tmp_path, full, confirm=(f"{HOST}/deleted-files",))).run()
    assert measure(str(full)).free_percent > 20


def test_what_no_policy_keeps_may_be_emptied_without_a_copy(tmp_path: Path, full: Path, writers: list[Writer]) -> None:
    held(tmp_path, full, writers, "stray.log")
    made = ladder(given(tmp_path, full, confirm=(f"{HOST}/deleted-files",), copy_deleted=False))
    _, (emptied,) = made.run()
    assert "not copied" in emptied["detail"] and made.bundle and not list(made.bundle.glob("deleted-[0-9]*"))
    assert measure(str(full)).free_percent > 20


# --- evidence -----------------------------------------------------------------------------------------------------


def test_without_a_place_elsewhere_nothing_is_freed(
    tmp_path: Path, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ballast = write(full / "tracker" / "ballast", 20 * MIB)
    fill(full)
    monkeypatch.setattr(logs_reclaim, "EVIDENCE_ROOM_BYTES", 1 << 60)
    wanted = given(tmp_path, full, ballast_file=str(ballast), evidence_dirs=(str(full / "evidence"),))
    for act in ("run", "plan"):
        with pytest.raises(ReclaimRefused, match="logs_evidence_dirs"):
            getattr(ladder(wanted), act)()
    assert ballast.exists() and not (full / "evidence").exists()


def test_memory_that_is_the_full_disk_is_no_place_either(
    tmp_path: Path, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ballast = write(full / "tracker" / "ballast", 20 * MIB)
    monkeypatch.setattr(logs_reclaim, "spare", lambda path: full / "spare" / path.name)
    with pytest.raises(ReclaimRefused, match="logs_evidence_dirs"):
        ladder(given(tmp_path, full, ballast_file=str(ballast), evidence_dirs=(), target_percent=85.0)).run()
    assert ballast.exists() and not (full / "spare").exists()


def test_the_state_folder_is_the_place_where_it_is_on_another_disk(tmp_path: Path, full: Path) -> None:
    ballast = write(full / "tracker" / "ballast", 20 * MIB)
    fill(full)
    made = ladder(given(tmp_path, full, ballast_file=str(ballast), state_dir=str(tmp_path / "state"), run_id="r1"))
    made.run()
    assert made.bundle == tmp_path / "state" / "evidence" / "r1"
    names = {path.name for path in made.bundle.iterdir()}
    assert {
        "SHA256SUMS",
        "CUSTODY",
        "df.txt",
        "df-inodes.txt",
        "largest-files.txt",
        "most-entries.txt",
        "deleted-open.txt",
    } <= names
    assert str(ballast) in (made.bundle / "largest-files.txt").read_text()


def test_memory_is_the_last_resort(tmp_path: Path, full: Path) -> None:
    ballast = write(full / "tracker" / "ballast", 20 * MIB)
    fill(full)
    made = ladder(given(tmp_path, full, ballast_file=str(ballast), evidence_dirs=(str(full / "evidence"),)))
    made.run()
    assert made.bundle and str(made.bundle).startswith("/dev/shm/runbooks-") and not ballast.exists()
    run("sh", "-c", f"cd {made.bundle} && sha256sum -c SHA256SUMS && rm -r {made.bundle}")


def test_the_archive_s_disk_takes_the_picture_but_a_repository_does_not(tmp_path: Path, full: Path) -> None:
    (tmp_path / "archive").mkdir()
    repository = LogRestic(Repository(str(tmp_path / "archive"), "made-up"), Tools())
    for archive, word in (
        (FolderArchive(tmp_path / "archive", HOST), str(tmp_path)),
        (ResticArchive(repository, HOST), "/dev/shm"),
    ):
        ballast = write(full / "tracker" / "ballast", 20 * MIB)
        fill(full)
        made = ladder(given(tmp_path, full, ballast_file=str(ballast), evidence_dirs=(), archive=archive))
        made.run()
        assert made.bundle and str(made.bundle).startswith(word)
        (full / "filler").unlink()
    run("rm", "-r", str(made.bundle))


def test_nothing_is_written_on_the_full_disk_before_something_is_free(tmp_path: Path, full: Path) -> None:
    ballast = write(full / "tracker" / "ballast", 20 * MIB)
    fill(full)
    before = {str(path) for path in full.rglob("*")}
    _, actions = ladder(given(tmp_path, full, ballast_file=str(ballast))).run()
    assert actions[0]["number"] == 0 and {str(path) for path in full.rglob("*")} == before - {str(ballast)}


# --- what is told apart -------------------------------------------------------------------------------------------


def test_inodes_are_a_target_of_their_own(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "few", "size=64m,nr_inodes=300") as few:
        ballast = write(few / "tracker" / "ballast", 5 * MIB)
        plain = write(few / "log" / "a.log.1", 2 * MIB, 1, compressible=True)
        (few / "cache" / "many").mkdir(parents=True)
        with contextlib.suppress(OSError):
            for number in range(1000):
                (few / "cache" / "many" / str(number)).touch()
        assert measure(str(few)).inodes_free == 0 and measure(str(few)).free_percent > 80
        policy = LogPolicy("app", (f"{few}/log/*.log",))
        made = ladder(
            given(tmp_path, few, ballast_file=str(ballast), caches=(str(few / "cache" / "many"),), policies=(policy,))
        )
        findings, actions = made.run()
        assert [one["step"] for one in actions] == ["caches"] and ballast.exists() and plain.exists()
        left = measure(str(few))
        assert 20 <= left.inodes_free_percent < 22 and "reclaim-short" not in ids(findings)
        (told,) = [one for one in findings if one["id"] == "inodes-exhausted"]
        assert f"{few}/cache/many" in told["observed"] and told["state"] == "fixed"


def test_reserved_blocks_are_told_apart(tmp_path: Path, ext4: Path) -> None:
    ballast = write(ext4 / "tracker" / "ballast", 20 * MIB)
    filler = ext4 / "filler"
    while (space := measure(str(ext4))).free_bytes > 0:  # root goes on where users cannot
        with filler.open("ab") as file:
            file.write(os.urandom(min(MIB, space.free_bytes + 4096)))
            file.flush()
            os.fsync(file.fileno())
    space = measure(str(ext4))
    assert space.free_bytes == 0 < space.root_free_bytes
    findings, _ = ladder(given(tmp_path, ext4, ballast_file=str(ballast))).run()
    assert "reserved-blocks" in ids(findings) and not ballast.exists()


@pytest.mark.parametrize(("flag", "word"), [("i", "immutable"), ("a", "append-only")])
def test_a_file_that_may_not_go_is_told_and_the_rest_goes_on(tmp_path: Path, ext4: Path, flag: str, word: str) -> None:
    ballast, cached = write(ext4 / "tracker" / "ballast", 10 * MIB), write(ext4 / "cache" / "apt" / "a", 14 * MIB)
    fill(ext4)
    run("chattr", f"+{flag}", str(ballast))
    try:
        findings, actions = ladder(given(tmp_path, ext4, ballast_file=str(ballast), caches=(str(cached.parent),))).run()
    finally:
        run("chattr", f"-{flag}", str(ballast))
    assert [(one["step"], one["result"]) for one in actions] == [("ballast", "skipped"), ("caches", "done")]
    assert word in actions[0]["detail"] and "lsattr" in actions[0]["detail"] and "reclaim-skipped" in ids(findings)
    assert ballast.exists() and not cached.exists()


def test_an_immutable_folder_says_so(tmp_path: Path, ext4: Path) -> None:
    cached = write(ext4 / "cache" / "apt" / "a", 14 * MIB)
    old = write(ext4 / "log" / "a.log.1.gz", 2 * MIB, 100)
    fill(ext4)
    for folder in (cached.parent, old.parent):
        run("chattr", "+i", str(folder))
    try:
        policy = LogPolicy("app", (f"{old.parent}/*.log",), max_days=30)
        _, actions = ladder(given(tmp_path, ext4, caches=(str(cached.parent),), policies=(policy,))).run()
    finally:
        for folder in (cached.parent, old.parent):
            run("chattr", "-i", str(folder))
    assert [one["result"] for one in actions] == ["skipped", "skipped"] and all(
        "immutable" in one["detail"] for one in actions
    )
    assert cached.exists() and old.exists()


def test_a_read_only_file_system_is_left(tmp_path: Path, full: Path) -> None:
    ballast = write(full / "tracker" / "ballast", 20 * MIB)
    fill(full)
    run("mount", "-o", "remount,ro", str(full))
    findings, actions = ladder(given(tmp_path, full, ballast_file=str(ballast))).run()
    assert actions == [] and "read-only-filesystem" in ids(findings) and ballast.exists()


def test_causes_are_told_only_where_they_are_true() -> None:
    plain = Space("/x", 1, 1000, 500, 500, 100, 90, False)
    assert causes(plain, Survey(), [], 20) == []
    assert ids(causes(replace(plain, free_bytes=0), Survey(), [], 20)) == ["reserved-blocks"]
    assert ids(causes(replace(plain, free_bytes=0, root_free_bytes=0), Survey(), [], 20)) == []
    assert ids(causes(replace(plain, inodes_free=1), Survey(), [], 20)) == ["inodes-exhausted"]
    assert causes(replace(plain, inodes=0, inodes_free=0), Survey(), [], 20) == []  # btrfs counts none


def test_mountinfo_is_read() -> None:
    text = (
        "24 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
        "81 24 0:40 /log\\040dir /var/log rw shared:1 master:2 - tmpfs tmpfs rw,size=64m\n"
    )
    first, second = mounts(text)
    assert (first.place, first.root, first.kind, first.device) == ("/", "/", "ext4", os.makedev(254, 0))
    assert (second.place, second.root, second.kind, second.device) == (
        "/var/log",
        "/log dir",
        "tmpfs",
        os.makedev(0, 40),
    )


# --- single rungs -------------------------------------------------------------------------------------------------


def test_the_ballast_is_made_anew_where_there_is_room(tmp_path: Path, full: Path) -> None:
    ballast, cached = write(full / "tracker" / "ballast", 4 * MIB), write(full / "cache" / "apt" / "a", 30 * MIB)
    fill(full)
    wanted = given(tmp_path, full, ballast_file=str(ballast), caches=(str(cached.parent),))
    findings, actions = ladder(wanted).run()
    assert [one["step"] for one in actions] == ["ballast", "caches", "ballast"] and ballast.stat().st_size == 4 * MIB
    assert measure(str(full)).free_percent >= 20 and "ballast-gone" not in ids(findings)


def test_a_ballast_for_which_there_is_no_room_is_told(tmp_path: Path, full: Path) -> None:
    ballast = write(full / "tracker" / "ballast", 14 * MIB)
    fill(full)
    findings, _ = ladder(given(tmp_path, full, ballast_file=str(ballast))).run()
    assert not ballast.exists()
    (told,) = [one for one in findings if one["id"] == "ballast-gone"]
    assert f"fallocate -l {14 * MIB} {ballast}" in told["remedy"]


def test_a_ballast_among_data_is_left_and_told(tmp_path: Path, full: Path) -> None:
    write(full / "pg" / "main" / "PG_VERSION", 10)
    ballast = write(full / "pg" / "main" / "ballast", 20 * MIB)
    behind = write(full / "wal" / "pg_wal" / "ballast", 20 * MIB)
    (full / "link").symlink_to(behind.parent)
    fill(full)
    for path in (ballast, full / "link" / "ballast"):
        findings, actions = ladder(given(tmp_path, full, ballast_file=str(path))).run()
        assert actions == [] and ballast.exists() and behind.exists() and "reclaim-protected" in ids(findings)


def test_a_cache_is_emptied_only_as_far_as_is_needed(tmp_path: Path, full: Path) -> None:
    for number in range(10):
        write(full / "cache" / "apt" / str(number), 3 * MIB)
    (full / "cache" / "apt" / "link").symlink_to("/etc/passwd")
    fill(full)
    _, (emptied,) = ladder(given(tmp_path, full, caches=(str(full / "cache" / "apt"),))).run()
    left = [path for path in (full / "cache" / "apt").iterdir() if path.is_file() and not path.is_symlink()]
    assert len(left) == 5 and "5 of 10 files" in emptied["detail"]


@pytest.mark.parametrize(
    ("policy", "days"),
    [
        ({}, None), ({"keep_days": 30}, None), ({"max_days": 90}, 90), ({"keep_days": 30, "max_days": 90}, 90), ({"archive": True}, 7),
        ({"keep_days": 30, "archive": True}, 7), ({"max_days": 90, "archive": True}, 7), ({"max_days": 3, "archive": True}, 3),
    ],
)  # fmt: skip
def test_from_which_age_on_a_log_may_go(policy: dict[str, Any], days: float | None) -> None:
    assert LogPolicy("p", (), **policy).due_days(7) == days


@pytest.mark.parametrize(
    ("path", "owned"),
    [
        ("/var/log/app/a.log", True), ("/var/log/app/a.log.3.gz", True), ("/var/log/app/a.log-20261101", True), ("/srv/x/all", True),
        ("/var/log/app/deep/a.log", False), ("/var/log/a.log", False), ("/var/log/app/a.txt", False), ("/srv/x/y/all", False),
    ],
)  # fmt: skip
def test_which_files_are_of_a_policy(path: str, owned: bool) -> None:
    assert LogPolicy("p", ("/var/log/app/*.log", "/srv/*")).owns(path) is (owned and path != "/srv/x/all")
    assert LogPolicy("p", ("/var/log/app/*.log", "/srv/*/all")).owns(path) is owned


def test_an_age_that_has_to_be_kept_wins_over_the_most(tmp_path: Path, full: Path) -> None:
    old = write(full / "log" / "a.log.1.gz", 30 * MIB, 95)
    fill(full)
    policy = LogPolicy("app", (f"{full}/log/*.log",), keep_days=100, max_days=90)
    assert ladder(given(tmp_path, full, policies=(policy,))).run()[1] == [] and old.exists()


def test_retention_takes_the_oldest_first_and_only_what_is_past_it(tmp_path: Path, full: Path) -> None:
    logs = [write(full / "log" / f"a.log.{age}.gz", 8 * MIB, age) for age in (91, 200, 89, 120)]
    live = write(full / "log" / "a.log", MIB, 300)
    future = write(full / "log" / "a.log.9.gz", MIB, -400)
    fill(full)
    policy = LogPolicy("app", (f"{full}/log/*.log",), max_days=90)
    _, actions = ladder(given(tmp_path, full, policies=(policy,))).run()
    assert [Path(one["subject"]).name for one in actions] == ["a.log.200.gz", "a.log.120.gz"]
    assert (
        [one["kind"] for one in actions] == ["destructive"] * 2
        and logs[0].exists()
        and live.exists()
        and future.exists()
    )
    ladder(given(tmp_path, full, policies=(policy,), target_percent=60)).run()
    assert not logs[0].exists() and logs[2].exists() and live.exists() and future.exists()


def test_a_rotated_log_with_a_writer_stays(tmp_path: Path, full: Path, writers: list[Writer]) -> None:
    writer = Writer(full / "log" / "a.log.1")
    writers.append(writer)
    writer.write("x" * 20 * MIB)
    os.utime(writer.path, (1, 1))
    fill(full)
    policy = LogPolicy("app", (f"{full}/log/*.log",), max_days=90)
    _, actions = ladder(given(tmp_path, full, policies=(policy,))).run()
    assert [(one["step"], one["result"]) for one in actions] == [("compress", "skipped"), ("retention", "skipped")]
    assert all("open for writing" in one["detail"] for one in actions) and writer.path.stat().st_size > 20 * MIB


def test_without_an_archive_elsewhere_archived_policies_stay(tmp_path: Path, full: Path) -> None:
    old = write(full / "log" / "a.log.1.gz", 20 * MIB, 100)
    (full / "archive").mkdir()
    fill(full)
    policy = LogPolicy("app", (f"{full}/log/*.log",), keep_days=30, max_days=60, archive=True)
    for archive in (None, FolderArchive(full / "archive", HOST)):
        findings, actions = ladder(given(tmp_path, full, policies=(policy,), archive=archive)).run()
        assert actions == [] and old.exists() and "archive-refused" in ids(findings)


def test_small_or_incompressible_logs_are_not_compressed(tmp_path: Path, full: Path) -> None:
    write(full / "log" / "a.log.1", 5 * MIB, 1)
    write(full / "log" / "a.log.2", 4000, 1, compressible=True)
    write(
        full / "log" / "a.log.3.gz", MIB, 1, compressible=True
    )  # whatever is in it, its name says that it is compressed
    fill(full)
    policy = LogPolicy("app", (f"{full}/log/*.log",))
    assert ladder(given(tmp_path, full, policies=(policy,))).run()[1] == []


def test_logs_behind_links_and_on_other_disks_stay(tmp_path: Path, full: Path) -> None:
    outside = write(tmp_path / "outside" / "b.log.1", MIB, 100, compressible=True)
    (full / "log").mkdir()
    (full / "log" / "a.log.1").symlink_to(outside)
    fill(full)
    policy = LogPolicy("app", (f"{full}/log/*.log", f"{tmp_path}/outside/*.log"), max_days=30)
    assert ladder(given(tmp_path, full, policies=(policy,))).run()[1] == [] and outside.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ballast_file": "/var"}, "two folders deep"), ({"caches": ("relative/x",)}, "absolute path"), ({"caches": ("//usr",)}, "absolute"),
        ({"target_percent": 0.0}, "target_percent is 0"), ({"target_percent": 95.0}, "target_percent is 95"),
    ],
)  # fmt: skip
def test_dangerous_inputs_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ReclaimRefused, match=words):
        ladder(given(tmp_path, tmp_path, **change))


def test_each_file_system_has_one_ladder(tmp_path: Path, full: Path) -> None:
    wanted = given(tmp_path, full, filesystems=(str(full), str(full / "not" / "there"), str(tmp_path)))
    assert [one.filesystem for one in ladders(wanted)] == [str(full), str(tmp_path)]


def test_with_enough_free_nothing_is_looked_at(tmp_path: Path, full: Path) -> None:
    ballast = write(full / "tracker" / "ballast", MIB)
    made = ladder(given(tmp_path, full, ballast_file=str(ballast)))
    assert made.plan() == [] and made.run() == ([], []) and made.bundle is None and ballast.exists()


PROTECTED: list[tuple[str, str]] = [
    ("/var/lib/postgresql/15/main/base/1/2", "PG_VERSION"), ("/var/lib/postgresql/15/main/log/x.log.1", "PG_VERSION"),
    ("/mnt/wal/pg_wal/000000010000000000000001", "pg_wal"), ("/mnt/pg_xlog/1", "pg_xlog"), ("/mnt/ts/PG_15_202209061/5/6", "PG_15"),
    ("/var/lib/redis/dump.rdb", "data"), ("/var/lib/redis/x.aof", "data"), ("/srv/appendonlydir/x.log.1", "appendonlydir"),
    ("/var/lib/grafana/grafana.db", "data"), ("/var/lib/grafana/grafana.db-wal", "data"), ("/var/lib/docker/volumes/a/x.log.1", "volume"),
    ("/var/lib/docker/volumes", "volume"), ("/var/lib/containers/storage/volumes/x", "volume"), ("/var/lib/runbooks/x", "kept"),
    ("/var/lib/runbooks", "kept"), ("/srv/archive/db1/x.log.1", "kept"), ("/srv/evidence/x", "kept"), ("/own/path/x", "protected_paths"),
    ("/prometheus/data/wal/0001", "chunks_head"), ("relative.log.1", "absolute"), ("/var/log/../lib/x", "dots"), ("/var/log//x", "dots"),
    ("/var/log/app.log.1", ""), ("/var/lib/runbooks-other/x", ""), ("/var/log/pg_wal.log.1", ""), ("/var/log/rdb", ""),
    ("/var/log/postgresql/postgresql-15-main.log.1", ""), ("/own/pathology", ""), ("/srv/archives/x", ""), ("/var/log/mygrafana.db", ""),
]  # fmt: skip


@pytest.mark.parametrize(("path", "word"), PROTECTED)
def test_what_no_rung_may_touch(tmp_path: Path, path: str, word: str) -> None:
    there = {"/var/lib/postgresql/15/main/PG_VERSION", "/prometheus/data/chunks_head"}.__contains__
    wanted = replace(given(tmp_path, tmp_path), state_dir="/var/lib/runbooks", evidence_dirs=("/srv/evidence/",), protected=("/own/path",),
                     archive=FolderArchive("/srv/archive", HOST))  # fmt: skip
    why = protected(path, wanted, there)
    assert (word in why) if word else why == ""


@pytest.mark.parametrize(
    ("text", "size"),
    [("1.2GB", 1_200_000_000), ("4.19MB", 4_190_000), ("12kB", 12_000), ("0B", 0), ("7B", 7), ("N/A", 0)],
)
def test_sizes_of_docker(text: str, size: int) -> None:
    assert image_bytes(text) == size


def test_the_writer_of_these_tests_reopens(full: Path, writers: list[Writer]) -> None:
    writer = Writer(full / "a.log")
    writers.append(writer)
    writer.path.unlink()
    writer.process.send_signal(signal.SIGUSR1)
    wait_until(writer.path.exists, "the writer opens its log anew")
