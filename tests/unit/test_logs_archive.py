# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Archive before delete, in a folder and in restic: real files, real compressors, runs that are killed."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import logs_archive, logs_packing
from ansible.module_utils.logs_archive import (
    Archive,
    ArchiveError,
    FolderArchive,
    Kept,
    LogRestic,
    ResticArchive,
    archive_and_remove,
    cannot,
    expire,
    hold,
    place_faults,
    remove,
)
from ansible.module_utils.logs_packing import opened, redacted_blocks, unpacked
from ansible.module_utils.runbook_restic import Repository
from ansible.module_utils.runbook_tools import ToolError, Tools

TESTS = Path(__file__).resolve().parents[1]
HOST = "db1"
DAY = 86400.0
NOW = datetime(2026, 11, 20, tzinfo=timezone.utc).timestamp()
OCTOBER = datetime(2025, 10, 3, tzinfo=timezone.utc).timestamp()
LINES = b"".join(b"line %d\n" % number for number in range(5000))


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def log(folder: Path, name: str = "app.log-20251003", data: bytes = LINES, mtime: float = OCTOBER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(data)
    os.utime(path, (mtime, mtime))
    return path


def masked(data: bytes) -> tuple[bytes, int]:
    """Redact digits that stand behind secret=."""
    return re.subn(rb"(?<=secret=)\d+", b"***", data)


def sums_pass(home: Path) -> bool:
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=home, capture_output=True, text=True, check=False)
    return done.returncode == 0


@pytest.fixture
def folder(tmp_path: Path) -> FolderArchive:
    (tmp_path / "archive").mkdir()
    return FolderArchive(tmp_path / "archive", HOST, lambda: NOW)


@pytest.fixture(scope="session")
def fresh_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fresh") / "repo"
    LogRestic(Repository(str(place), "made-up"), Tools()).init()
    return place


@pytest.fixture
def restic(tmp_path: Path, fresh_repository: Path) -> ResticArchive:
    shutil.copytree(fresh_repository, tmp_path / "repo")
    return ResticArchive(LogRestic(Repository(str(tmp_path / "repo"), "made-up"), Tools()), HOST, lambda: NOW)


@pytest.fixture(params=["folder", "restic"])
def archive(request: pytest.FixtureRequest) -> Archive:
    found: Archive = request.getfixturevalue(request.param)
    return found


def content(archive: Archive, kept: Kept) -> bytes:
    if isinstance(archive, FolderArchive):
        return (archive.home / kept.name).read_bytes()
    assert isinstance(archive, ResticArchive)
    snapshot, _, path = kept.name.partition(":")
    return archive.restic.read(snapshot, path)


# --- what both kinds do -------------------------------------------------------------------------------------------


def test_a_copy_has_the_bytes_and_all_that_is_known_of_the_source(tmp_path: Path, archive: Archive) -> None:
    path = log(tmp_path / "logs")
    path.chmod(0o604)
    os.chown(path, 33, 4)
    kept = archive.keep(str(path), "app")
    assert (kept.policy, kept.source, kept.source_sha256, kept.sha256) == ("app", str(path), sha(LINES), sha(LINES))
    assert (kept.bytes, kept.mtime, kept.kept_at, kept.redacted, kept.removed_at) == (
        len(LINES),
        OCTOBER,
        NOW,
        None,
        None,
    )
    assert (kept.uid, kept.gid, kept.mode) == (33, 4, 0o604)
    assert content(archive, kept) == LINES and archive.verify(kept) == "" and archive.index() == [kept]
    assert path.read_bytes() == LINES


def test_the_same_bytes_of_the_same_source_are_kept_once(tmp_path: Path, archive: Archive) -> None:
    first = archive.keep(str(log(tmp_path / "logs", "app.log.1")), "app")
    (tmp_path / "logs" / "app.log.1").rename(tmp_path / "logs" / "app.log.2")  # the next rotation
    assert archive.keep(str(tmp_path / "logs" / "app.log.2"), "app") == first
    assert archive.index() == [first]


def test_the_same_bytes_of_another_day_are_another_copy(tmp_path: Path, archive: Archive) -> None:
    first = archive.keep(str(log(tmp_path / "logs", "app.log.1")), "app")
    (tmp_path / "logs" / "app.log.1").rename(tmp_path / "logs" / "app.log.2")
    os.utime(tmp_path / "logs" / "app.log.2")
    second = archive.keep(str(tmp_path / "logs" / "app.log.2"), "app")
    assert first.name != second.name and len(archive.index()) == 2
    assert content(archive, first) == content(archive, second) == LINES


def test_other_bytes_under_the_same_name_are_another_copy(tmp_path: Path, archive: Archive) -> None:
    first = archive.keep(str(log(tmp_path / "logs", "app.log.1.gz", gzip.compress(b"one"))), "app")
    second = archive.keep(str(log(tmp_path / "logs", "app.log.1.gz", gzip.compress(b"two"))), "app")
    third = archive.keep(str(log(tmp_path / "elsewhere", "app.log.1.gz", gzip.compress(b"one"))), "app")
    other = archive.keep(str(tmp_path / "elsewhere" / "app.log.1.gz"), "another")
    assert len({kept.name for kept in (first, second, third, other)}) == 4 == len(archive.index())
    assert [archive.verify(kept) for kept in archive.index()] == [""] * 4
    assert all(kept.name.endswith(".gz") for kept in archive.index())


PACKERS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "": (bytes, bytes),
    ".gz": (gzip.compress, gzip.decompress),
    ".xz": (lzma.compress, lzma.decompress),
    ".bz2": (bz2.compress, bz2.decompress),
    ".zst": (
        lambda data: subprocess.run(["zstd", "-c"], input=data, capture_output=True, check=True).stdout,
        lambda data: subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout,
    ),
}


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_redacted_copy_stays_packed_and_keeps_its_lines(tmp_path: Path, archive: Archive, suffix: str) -> None:
    pack, unpack = PACKERS[suffix]
    data = b'{"a": "secret=12345"}\n' * 3 + LINES + b"no newline secret=9"
    source = pack(data)
    kept = archive.keep(str(log(tmp_path / "logs", f"app.log.1{suffix}", source)), "app", masked)
    plain = unpack(content(archive, kept))
    assert plain == masked(data)[0] and plain.count(b"\n") == data.count(b"\n") and kept.redacted == 4
    assert (
        kept.source_sha256 == sha(source)
        and kept.sha256 == sha(content(archive, kept))
        and kept.bytes == len(content(archive, kept))
    )
    assert archive.keep(kept.source, "app", masked) == kept and archive.verify(kept) == ""


def test_a_copy_that_was_not_redacted_does_not_count_as_one(tmp_path: Path, archive: Archive) -> None:
    path = log(tmp_path / "logs", data=b"secret=12\n")
    raw, clean = archive.keep(str(path), "app"), archive.keep(str(path), "app", masked)
    assert (raw.redacted, clean.redacted) == (None, 1) and raw.sha256 != clean.sha256 and len(archive.index()) == 2


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2", ".zst"])
def test_what_cannot_be_unpacked_is_not_redacted(tmp_path: Path, archive: Archive, suffix: str) -> None:
    whole = PACKERS[suffix][0](os.urandom(100_000))
    path = log(tmp_path / "logs", f"app.log.1{suffix}", whole[: len(whole) // 2])
    with pytest.raises(ArchiveError, match="damaged"):
        archive.keep(str(path), "app", masked)
    assert archive.index() == [] and path.exists()
    assert archive.keep(str(path), "app").sha256 == sha(path.read_bytes())  # as it is, it can be kept


def test_redaction_that_loses_a_line_is_refused(tmp_path: Path, archive: Archive) -> None:
    path = log(tmp_path / "logs")
    with pytest.raises(ArchiveError, match="number of lines"):
        archive.keep(str(path), "app", lambda data: (data.replace(b"line 7\n", b""), 1))
    assert archive.index() == []


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "nothing"])
def test_only_regular_files_are_archived(tmp_path: Path, archive: Archive, kind: str) -> None:
    path = tmp_path / "odd.log.1"
    if kind == "link":
        path.symlink_to(log(tmp_path / "logs"))
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(ArchiveError, match=r"odd\.log"):
        archive.keep(str(path), "app")
    assert archive.index() == []


def test_a_file_that_changes_meanwhile_is_no_copy(
    tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = log(tmp_path / "logs")

    def growing(data: bytes) -> tuple[bytes, int]:
        with path.open("ab") as file:
            file.write(b"more\n")
        return data, 0

    with pytest.raises(ArchiveError, match="changed while it was copied"):
        archive.keep(str(path), "app", growing)
    assert path.read_bytes().startswith(LINES + b"more\n") and archive.index() == []


def test_the_source_goes_when_its_copy_verifies(tmp_path: Path, archive: Archive) -> None:
    path = log(tmp_path / "logs")
    kept = archive.keep(str(path), "app")
    assert remove(str(path), kept, archive, "") is None and not path.exists()
    (left,) = archive.index()
    assert (
        left.removed_at == NOW and replace(left, removed_at=None, name=kept.name) == kept and archive.verify(left) == ""
    )


def test_hold_keeps_everything(tmp_path: Path, archive: Archive) -> None:
    path = log(tmp_path / "logs", mtime=0)
    done = archive_and_remove(str(path), "app", archive, None, "incident 7")
    assert "incident 7" in done.refused and path.exists() and done.kept in archive.index()
    assert expire(archive, "app", 1, "incident 7", NOW) == [] and archive.index() == [done.kept]


def test_a_changed_source_stays(tmp_path: Path, archive: Archive) -> None:
    path = log(tmp_path / "logs")
    kept = archive.keep(str(path), "app")
    log(tmp_path / "logs", data=LINES + b"x")
    refusal = remove(str(path), kept, archive, "")
    assert refusal and "not what was archived" in refusal.reason and path.exists()


def test_a_source_with_a_writer_stays(tmp_path: Path, archive: Archive) -> None:
    path = log(tmp_path / "logs")
    kept = archive.keep(str(path), "app")
    with path.open("ab"):
        refusal = remove(str(path), kept, archive, "")
        assert refusal and "open for writing" in refusal.reason and path.exists()
    with path.open("rb"):
        assert remove(str(path), kept, archive, "") is None and not path.exists()


def test_a_link_in_the_place_of_the_source_is_not_followed(tmp_path: Path, archive: Archive) -> None:
    path = log(tmp_path / "logs")
    kept = archive.keep(str(path), "app")
    path.rename(tmp_path / "precious")
    path.symlink_to(tmp_path / "precious")
    assert "link" in getattr(remove(str(path), kept, archive, ""), "reason", "")
    assert path.is_symlink() and (tmp_path / "precious").read_bytes() == LINES


def test_a_file_put_in_its_place_while_the_copy_was_read_stays(
    tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = log(tmp_path / "logs")
    kept = archive.keep(str(path), "app")

    def swapped(handle: int) -> str:
        path.rename(tmp_path / "aside")
        log(tmp_path / "logs", data=b"new")
        return ""

    monkeypatch.setattr(logs_archive, "writers", swapped)
    assert "changed while" in getattr(remove(str(path), kept, archive, ""), "reason", "")
    assert path.read_bytes() == b"new" and (tmp_path / "aside").exists()


def test_what_is_beyond_the_ceiling_expires(tmp_path: Path, archive: Archive) -> None:
    ages = [("app", 30), ("app", 91), ("app", 89), ("other", 500), ("app", -5)]
    paths = [
        log(tmp_path / "logs", f"a.log.{number}", b"%d" % number, NOW - days * DAY)
        for number, (_, days) in enumerate(ages)
    ]
    kept = [archive.keep(str(path), policy) for path, (policy, _) in zip(paths, ages)]
    assert expire(archive, "app", None, "", NOW) == []
    assert expire(archive, "app", 90, "", NOW) == [kept[1]]
    assert (
        archive.index() == [kept[0], kept[2], kept[3], kept[4]]
        and [archive.verify(k) for k in archive.index()] == [""] * 4
    )
    assert archive.verify(kept[1])
    assert expire(archive, "app", 90, "", NOW) == []


# --- damage -------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def harm(archive: Archive, kept: Kept) -> None:
    if isinstance(archive, FolderArchive):
        flip(archive.home / kept.name)
    else:
        packs = sorted(Path(archive.place, "data").rglob("?" * 64), key=lambda pack: pack.stat().st_size)
        flip(packs[-1])


def test_a_copy_that_was_damaged_refuses_the_deletion_and_is_made_anew(tmp_path: Path, archive: Archive) -> None:
    path = log(tmp_path / "logs", data=os.urandom(300_000))
    harm(archive, archive.keep(str(path), "app"))
    done = archive_and_remove(str(path), "app", archive, None, "")
    assert "does not verify" in done.refused and [f["id"] for f in done.findings] == ["archive-damaged"]
    assert path.exists() and done.kept and done.findings[0]["severity"] == "critical"
    (anew,) = archive.index()
    assert archive.verify(anew) == "" and content(archive, anew) == path.read_bytes()
    assert archive_and_remove(str(path), "app", archive, None, "").refused == "" and not path.exists()


def test_a_damaged_copy_stays_beside_and_the_sums_pass(tmp_path: Path, folder: FolderArchive) -> None:
    path = log(tmp_path / "logs")
    kept = folder.keep(str(path), "app")
    harm(folder, kept)
    assert not sums_pass(folder.home)
    archive_and_remove(str(path), "app", folder, None, "")
    assert (folder.home / f"{kept.name}.damaged").exists() and sums_pass(folder.home)


def test_a_copy_that_is_gone_is_made_anew(tmp_path: Path, folder: FolderArchive) -> None:
    path = log(tmp_path / "logs")
    (folder.home / folder.keep(str(path), "app").name).unlink()
    assert archive_and_remove(str(path), "app", folder, None, "").findings
    assert archive_and_remove(str(path), "app", folder, None, "").refused == "" and sums_pass(folder.home)


def test_an_archive_that_fails_is_told_and_the_source_stays(tmp_path: Path) -> None:
    path = log(tmp_path / "logs")
    done = archive_and_remove(str(path), "app", FolderArchive(tmp_path / "unmounted", HOST), None, "")
    assert done.kept is None and "mounted" in done.refused and [f["id"] for f in done.findings] == ["not-archived"]
    assert path.exists() and not (tmp_path / "unmounted").exists()


# --- the folder ---------------------------------------------------------------------------------------------------


def test_the_layout_can_be_read_without_us(tmp_path: Path, folder: FolderArchive) -> None:
    kept = folder.keep(str(log(tmp_path / "logs")), "app")
    place = folder.home / "app" / "2025" / "app.log-20251003"
    assert kept.name == "app/2025/app.log-20251003" and place.read_bytes() == LINES
    assert place.stat().st_mode & 0o777 == 0o600 and place.stat().st_mtime == OCTOBER
    assert (folder.home / "SHA256SUMS").read_text() == f"{sha(LINES)}  app/2025/app.log-20251003\n" and sums_pass(
        folder.home
    )
    (line,) = (folder.home / "index.jsonl").read_text().splitlines()
    assert json.loads(line) == {"event": "kept", **kept.__dict__}
    second = folder.keep(str(log(tmp_path / "logs", data=b"other")), "app")
    assert second.name == f"app/2025/app.log-20251003-{sha(b'other')[:8]}" and sums_pass(folder.home)
    assert (folder.home / "index.jsonl").read_text().startswith(line + "\n")


@pytest.mark.parametrize(
    "name", ["a\nb.log.1", "a\\b.log.1", "ü.log.1", "a b'.log.1", "-rf.log.1", "..hidden.log.1", "\udcff.log.1"]
)
def test_odd_names_are_kept_and_checked(tmp_path: Path, folder: FolderArchive, name: str) -> None:
    path = log(tmp_path / "logs", name)
    assert archive_and_remove(str(path), "app", folder, None, "").refused == ""
    assert sums_pass(folder.home) and not path.exists()
    anew = FolderArchive(folder.root, HOST)
    assert [kept.source for kept in anew.index()] == [str(path)] and anew.verify(anew.index()[0]) == ""


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a\n", "-x"])
def test_names_that_would_leave_the_folder_are_refused(tmp_path: Path, folder: FolderArchive, name: str) -> None:
    with pytest.raises(ArchiveError, match="cannot name a folder"):
        FolderArchive(folder.root, name)
    with pytest.raises(ArchiveError, match="cannot name a folder"):
        folder.keep(str(log(tmp_path / "logs")), name)


def test_an_archive_behind_a_link_is_none(tmp_path: Path, folder: FolderArchive) -> None:
    (tmp_path / "link").symlink_to(folder.root)
    with pytest.raises(ArchiveError, match="a link"):
        FolderArchive(tmp_path / "link", HOST).keep(str(log(tmp_path / "logs")), "app")


def test_a_full_archive_keeps_no_part(tmp_path: Path) -> None:
    path = log(tmp_path / "logs", data=os.urandom(3_000_000))
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=True)
    try:
        archive = FolderArchive(small, HOST)
        done = archive_and_remove(str(path), "app", archive, None, "")
        assert "No space left" in done.refused and path.exists()
        assert not any(archive.home.rglob("app.log*")) and os.listdir(archive.home / ".incoming") == []
        kept = archive.keep(str(log(tmp_path / "logs", "small.log.1")), "app")
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        assert FolderArchive(small, HOST).index() == [kept]
        assert "Read-only" in archive_and_remove(str(path), "app", FolderArchive(small, HOST), None, "").refused
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize(
    ("tail", "copies"),
    [(b'{"event": "ke', 1), (b"\0\0\0", 1), (b'"text"', 1), (b'{"event": "expired", "name": "app/2025/app.log-20251003", "at": 1}', 0)],
    ids=["torn", "zeros", "no-event", "whole-without-newline"],
)  # fmt: skip
def test_the_last_line_of_the_index_is_healed(tmp_path: Path, folder: FolderArchive, tail: bytes, copies: int) -> None:
    path = log(tmp_path / "logs")
    folder.keep(str(path), "app")
    with (folder.home / "index.jsonl").open("ab") as file:
        file.write(tail)
    anew = FolderArchive(folder.root, HOST)
    assert len(anew.index()) == copies and sums_pass(folder.home) == bool(copies)
    anew.keep(str(log(tmp_path / "logs", "b.log.1")), "app")
    assert (
        len(FolderArchive(folder.root, HOST).index()) == copies + 1 and anew.problems == [] and sums_pass(folder.home)
    )


def test_a_line_that_is_lost_is_told_and_its_copy_taken_up_again(tmp_path: Path, folder: FolderArchive) -> None:
    path = log(tmp_path / "logs")
    kept = folder.keep(str(path), "app")
    index = folder.home / "index.jsonl"
    index.write_bytes(b"\0" * index.stat().st_size + b"\n")
    anew = FolderArchive(folder.root, HOST, lambda: NOW)
    assert anew.index() == [] and "line 1 of" in anew.problems[0]
    assert anew.keep(str(path), "app") == kept and sums_pass(folder.home)


def test_two_runs_at_once_lose_nothing(tmp_path: Path, folder: FolderArchive) -> None:
    other = FolderArchive(folder.root, HOST)
    for number in range(6):
        (folder, other)[number % 2].keep(str(log(tmp_path / "logs", f"a.log.{number}", b"%d" % number)), "app")
    assert len(folder.index()) == len(other.index()) == 6 and sums_pass(folder.home)


def test_a_foreign_file_in_the_way_is_left(tmp_path: Path, folder: FolderArchive) -> None:
    foreign = log(folder.home / "app" / "2025", "app.log-20251003", b"of a person")
    kept = folder.keep(str(log(tmp_path / "logs")), "app")
    assert (
        foreign.read_bytes() == b"of a person"
        and kept.name.endswith(f"-{sha(LINES)[:8]}")
        and folder.verify(kept) == ""
    )


# --- killed runs --------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import conftest
from ansible.module_utils import logs_archive
def die(*args, **more):
    os.kill(os.getpid(), signal.SIGKILL)
def before(owner, name, when=lambda *args: True):
    real = getattr(owner, name)
    setattr(owner, name, lambda *args, **more: die() if when(*args) else real(*args, **more))
def after(owner, name, when=lambda *args: True):
    real = getattr(owner, name)
    def both(*args, **more):
        real(*args, **more)
        if when(*args): die()
    setattr(owner, name, both)
def half(path, line):
    with open(path, "ab") as file:
        file.write(line[: len(line) // 2])
    die()
ends = lambda word: lambda path, *rest: str(path).endswith(word)
{point}
archive = logs_archive.FolderArchive({root!r}, {host!r}, lambda: {now!r})
{act}
"""
POINTS = {
    "while copying": "logs_archive.copy_bytes = lambda source, target: (target.write(source.read(999)), target.flush(), die())",
    "before the rename": "before(logs_archive.os, 'rename')",
    "after the rename": "after(logs_archive.os, 'rename')",
    "within the index": "logs_archive._append_line = half",
    "after the index": "after(logs_archive, '_append_line', ends('index.jsonl'))",
    "before the sums": "before(logs_archive, '_append_line', ends('SHA256SUMS'))",
    "before the deletion": "before(logs_archive.os, 'unlink', lambda path, **more: 'logs/' in str(path))",
    "after the deletion": "after(logs_archive.os, 'unlink', lambda path, **more: 'logs/' in str(path))",
}


def killed(root: Path, point: str, act: str) -> None:
    code = KILLED.format(tests=str(TESTS), point=point, root=str(root), host=HOST, now=NOW, act=act)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("redact", [False, True], ids=["raw", "redacted"])
def test_the_next_run_heals(tmp_path: Path, folder: FolderArchive, point: str, redact: bool) -> None:
    if redact and point == "while copying":
        point = "before the rename"
    path = log(tmp_path / "logs", "app.log.1.gz", gzip.compress(LINES))
    data = path.read_bytes()
    how = "lambda data: (data.replace(b'line 1\\n', b'***\\n'), 1)" if redact else "None"
    killed(folder.root, POINTS[point], f"logs_archive.archive_and_remove({str(path)!r}, 'app', archive, {how}, '')")
    assert path.exists() == (point != "after the deletion")
    redactor = (lambda data: (data.replace(b"line 1\n", b"***\n"), 1)) if redact else None
    if path.exists():
        assert path.read_bytes() == data
        assert archive_and_remove(str(path), "app", folder, redactor, "").refused == ""
    (kept,) = folder.index()
    want = LINES.replace(b"line 1\n", b"***\n") if redact else LINES
    assert gzip.decompress(content(folder, kept)) == want and folder.verify(kept) == "" and sums_pass(folder.home)
    assert [p.name for p in (folder.home / "app").rglob("*") if p.is_file()] == ["app.log.1.gz"]
    assert os.listdir(folder.home / ".incoming") == []


@pytest.mark.parametrize("point", ["after(logs_archive, '_append_line')", "before(logs_archive.Path, 'unlink')"])
def test_an_expiry_is_finished(tmp_path: Path, folder: FolderArchive, point: str) -> None:
    kept = folder.keep(str(log(tmp_path / "logs")), "app")
    killed(folder.root, point, f"logs_archive.expire(archive, 'app', 1, '', {NOW})")
    assert (folder.home / kept.name).exists()
    assert FolderArchive(folder.root, HOST).index() == [] and not (folder.home / kept.name).exists()
    assert (folder.home / "SHA256SUMS").read_text() == ""


# --- redaction in blocks ------------------------------------------------------------------------------------------


def test_blocks_end_at_lines_and_not_inside_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_packing, "REDACT_BLOCK", 100)
    key = b"-----BEGIN X KEY-----\n" + b"abcdefgh\n" * 6 + b"-----END X KEY-----\n"
    data = (b"plain line\n" * 7 + key) * 5 + b"x" * 5000 + b"\nlast"
    path = log(tmp_path, data=data)
    seen = []

    def noted(block: bytes) -> tuple[bytes, int]:
        seen.append(block)
        return block, 1

    with opened(str(path)) as file:
        blocks = list(redacted_blocks(file, noted))
    assert b"".join(block for block, _ in blocks) == data and len(seen) > 5
    assert all(block.count(b"-----BEGIN") == block.count(b"-----END") for block in seen)


def test_an_unpacked_stream_is_whole_or_an_error(tmp_path: Path) -> None:
    for suffix, (pack, _) in PACKERS.items():
        with opened(str(log(tmp_path, f"a{suffix}", pack(LINES * 50)))) as file:
            for _ in range(2):
                with unpacked(file, suffix) as stream:
                    assert b"".join(iter(lambda stream=stream: stream.read(7777), b"")) == LINES * 50
    path = log(tmp_path, "b.zst", PACKERS[".zst"][0](os.urandom(1 << 20))[:-9])
    with opened(str(path)) as file, pytest.raises(ArchiveError, match="damaged"), unpacked(file, ".zst") as stream:
        while stream.read(1 << 16):
            pass


def test_without_zstd_it_is_said(tmp_path: Path, folder: FolderArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    path = log(tmp_path / "logs", "a.log.1.zst", PACKERS[".zst"][0](LINES))

    def missing(self: Tools, argv: list[str]) -> list[str]:
        raise ToolError("no")

    monkeypatch.setattr(Tools, "command", missing)
    with pytest.raises(ArchiveError, match="zstd is not on this host"):
        folder.keep(str(path), "app", masked)


# --- restic -------------------------------------------------------------------------------------------------------


def test_copies_of_other_hosts_and_snapshots_of_others_are_not_ours(tmp_path: Path, restic: ResticArchive) -> None:
    path = log(tmp_path / "logs", "a, b.log.1")
    ResticArchive(restic.restic, "db2", lambda: NOW).keep(str(path), "app")
    restic.restic.backup([str(path)], [ResticArchive.TAG], HOST)  # without what we write down
    assert restic.index() == []
    assert restic.keep(str(path), "app").source == str(path)


def test_a_repository_that_cannot_be_asked_is_an_archive_error(tmp_path: Path) -> None:
    archive = ResticArchive(LogRestic(Repository(str(tmp_path / "none"), "made-up"), Tools()), HOST)
    with pytest.raises(ArchiveError):
        archive.index()
    assert archive_and_remove(str(log(tmp_path / "logs")), "app", archive, None, "").kept is None


# --- hold, place, reasons -----------------------------------------------------------------------------------------


def test_what_holds(tmp_path: Path) -> None:
    file = tmp_path / "hold"
    assert hold(False, str(file)) == "" and hold(False, None) == "" and hold(True, None) == "logs_hold is set"
    file.write_text("incident 7,\n ask legal\n")
    assert hold(False, str(file)) == "incident 7, ask legal"
    file.write_text("")
    assert str(file) in hold(False, str(file))
    file.unlink()
    file.mkdir()
    assert "cannot be read" in hold(False, str(file))
    file.rmdir()
    file.symlink_to(tmp_path / "nothing")
    assert "cannot be read" in hold(False, str(file))
    (tmp_path / "plain").write_text("")
    assert hold(False, str(tmp_path / "plain" / "hold")) == ""


def test_a_hold_file_that_cannot_be_looked_for_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: str) -> os.stat_result:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(logs_archive.os, "lstat", refused)
    assert "cannot be looked for" in hold(False, str(tmp_path / "hold"))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_where_an_archive_may_be(tmp_path: Path, small: Path) -> None:
    logs = tmp_path / "logs"
    for made in (logs / "app" / "archive", tmp_path / "archive", small / "archive"):
        made.mkdir(parents=True)
    (tmp_path / "link").symlink_to(small / "archive")
    (tmp_path / "way").symlink_to(logs)
    globs = [f"{logs}/app/*.log", f"{logs}/web-*/deep/x.log"]
    refused = [(str(logs / "app" / "archive"), "is inside"), (str(logs), "is inside"), (f"{tmp_path}/way/app/archive", "is inside"),
               (str(tmp_path / "link"), "symbolic link"), (str(tmp_path / "none"), "no folder"), ("relative", "no folder")]  # fmt: skip
    for root, words in refused:
        assert words in place_faults(root, globs)[0], root
    assert place_faults(str(small / "archive"), globs) == ("", [])
    fine, told = place_faults(str(tmp_path / "archive"), globs)
    assert fine == "" and [f["id"] for f in told] == ["archive-same-filesystem"]
    assert "frees nothing" in place_faults(str(tmp_path / "archive"), globs, tmp_path.stat().st_dev)[0]
    assert place_faults(str(small / "archive"), globs, tmp_path.stat().st_dev) == ("", [])
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    assert "cannot be written" in place_faults(str(small / "archive"), globs)[0]


@pytest.mark.parametrize(("flag", "word"), [("i", "immutable"), ("a", "append-only")])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_file_that_may_not_go_says_why(
    tmp_path: Path, folder: FolderArchive, flag: str, word: str, what: str
) -> None:
    path = log(tmp_path / "logs")
    place = path if what == "file" else path.parent
    subprocess.run(["chattr", f"+{flag}", str(place)], check=True)
    try:
        done = archive_and_remove(str(path), "app", folder, None, "")
    finally:
        subprocess.run(["chattr", f"-{flag}", str(place)], check=True)
    assert f"{place} is {word}" in done.refused and "lsattr" in done.refused and path.exists()


REASONS: list[tuple[int, str]] = [(30, "read-only"), (122, "quota"), (1, "not permitted"), (5, "Input/output")]


@pytest.mark.parametrize(("number", "word"), REASONS)
def test_reasons_of_the_kernel(tmp_path: Path, number: int, word: str) -> None:
    error: Any = OSError(number, os.strerror(number))
    assert word in cannot(str(tmp_path / "x"), error)
