# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""A log becomes its compressed copy where there is room for both, and where there is none."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils import logs_compress
from ansible.module_utils.logs_compress import (
    Stays,
    compress,
    estimate_packed,
    finish_pending,
    remove_unfinished,
    suffix_for,
    unpacked_digest,
)
from ansible.module_utils.logs_packing import ArchiveError
from ansible.module_utils.runbook_tools import Tools

TESTS = Path(__file__).resolve().parents[1]
MIB = 1 << 20
LINES = b"".join(b"numbered line %09d\n" % number for number in range(100_000))
THEN = 1_760_000_000.0


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def log(folder: Path, name: str = "app.log.1", data: bytes = LINES) -> Path:
    path = folder / name
    path.write_bytes(data)
    path.chmod(0o604)
    os.chown(path, 33, 4)
    os.utime(path, (THEN, THEN))
    return path


def fill(place: Path) -> Path:
    with (place / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(os.urandom(4096))
    return place / "filler"


def room(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def content(path: Path) -> bytes:
    tool = {".gz": "gzip", ".zst": "zstd"}[path.suffix]
    return subprocess.run([tool, "-dc", str(path)], capture_output=True, check=True).stdout


def pack(path: Path, elsewhere: Path | None, limit: int | None = None) -> Path:
    return Path(compress(str(path), elsewhere, lambda: room(path.parent) if limit is None else limit, Tools()))


def is_the_log(path: Path) -> bool:
    found = path.stat()
    return content(path) == LINES and (found.st_mode & 0o777, found.st_uid, found.st_gid, found.st_mtime) == (
        0o604,
        33,
        4,
        THEN,
    )


def test_beside_where_there_is_room(tmp_path: Path) -> None:
    packed = pack(log(tmp_path), None)
    assert packed == tmp_path / "app.log.1.zst" and is_the_log(packed) and os.listdir(tmp_path) == ["app.log.1.zst"]


@pytest.mark.parametrize(
    ("neighbours", "suffix"), [([], ".zst"), (["app.log.2.gz"], ".gz"), (["app.log.2.gz", "app.log.3.zst"], ".zst"), (["b.log.2.gz"], ".zst")]
)  # fmt: skip
def test_as_the_neighbours_are(tmp_path: Path, neighbours: list[str], suffix: str) -> None:
    for name in neighbours:
        (tmp_path / name).touch()
    assert suffix_for(str(log(tmp_path)), Tools()) == suffix
    assert is_the_log(pack(tmp_path / "app.log.1", None))


def test_without_zstd_it_is_gzip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tools, "has", lambda self, program: False)
    assert pack(log(tmp_path), None).suffix == ".gz" and is_the_log(tmp_path / "app.log.1.gz")


def test_on_a_full_disk_by_way_of_another(tmp_path: Path, small: Path) -> None:
    path, elsewhere = log(small), tmp_path / "pending"
    fill(small)
    assert room(small) == 0
    assert is_the_log(pack(path, elsewhere)) and not path.exists() and os.listdir(elsewhere) == []


def test_room_that_vanishes_meanwhile_is_no_loss(tmp_path: Path, small: Path) -> None:
    path, elsewhere = log(small), tmp_path / "pending"
    fill(small)
    assert is_the_log(pack(path, elsewhere, limit=1 << 40)) and os.listdir(elsewhere) == []
    assert sorted(os.listdir(small)) == ["app.log.1.zst", "filler"]


def test_without_another_disk_it_stays(small: Path) -> None:
    path = log(small)
    fill(small)
    with pytest.raises(Stays, match="logs_evidence_dirs"):
        pack(path, None)
    assert path.read_bytes() == LINES and sorted(os.listdir(small)) == ["app.log.1", "filler"]


def test_a_writer_keeps_it(tmp_path: Path) -> None:
    path = log(tmp_path)
    with path.open("ab"), pytest.raises(Stays, match="open for writing"):
        pack(path, None)
    assert os.listdir(tmp_path) == ["app.log.1"]


def test_one_that_changes_meanwhile_stays_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = log(tmp_path), logs_compress.unpacked_digest

    def meanwhile(*args: str) -> str:
        with path.open("ab") as file:
            file.write(b"late\n")
        return real(*args)

    monkeypatch.setattr(logs_compress, "unpacked_digest", meanwhile)
    with pytest.raises(Stays, match="changed while"):
        pack(path, None)
    assert path.read_bytes() == LINES + b"late\n" and os.listdir(tmp_path) == ["app.log.1"]


@pytest.mark.parametrize("by", ["beside", "elsewhere"])
def test_a_copy_that_is_not_the_same_refuses(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    path = log(small)
    if by == "elsewhere":
        fill(small)
    monkeypatch.setattr(logs_compress, "unpacked_digest", lambda *args: "0" * 64)
    with pytest.raises(Stays, match="differs"):
        pack(path, tmp_path / "pending")
    assert path.read_bytes() == LINES and not list(small.glob("*.zst"))
    monkeypatch.undo()
    assert finish_pending(tmp_path / "pending") == [] and is_the_log(pack(path, tmp_path / "pending"))


def test_a_target_with_other_content_is_left(tmp_path: Path) -> None:
    path = log(tmp_path)
    (tmp_path / "app.log.1.zst").write_bytes(b"of somebody")
    with pytest.raises(Stays, match="other content"):
        pack(path, None)
    assert path.exists() and (tmp_path / "app.log.1.zst").read_bytes() == b"of somebody"


def test_what_would_not_shrink_stays(tmp_path: Path, small: Path) -> None:
    path = log(small, data=os.urandom(MIB))
    fill(small)
    with pytest.raises(Stays, match="smaller"):
        pack(path, tmp_path / "pending")
    assert path.exists() and os.listdir(tmp_path / "pending") == []


def test_estimates_are_near_and_not_below(tmp_path: Path) -> None:
    for data in (LINES, os.urandom(MIB), b"", b"x" * 100, LINES[:50_000] + os.urandom(200_000)):
        path = log(tmp_path, data=data)
        real = len(subprocess.run(["zstd", "-qc", str(path)], capture_output=True, check=True).stdout)
        assert real <= estimate_packed(str(path)) + 4096 <= len(data) + 3 * 4096
    assert estimate_packed(str(tmp_path / "none")) == 0


def test_leftovers_beside_logs_go(tmp_path: Path) -> None:
    (tmp_path / ".app.log.1.zst.reclaim").touch()
    (tmp_path / ".other").touch()
    remove_unfinished(str(tmp_path))
    remove_unfinished(str(tmp_path / "none"))
    assert os.listdir(tmp_path) == [".other"]


def test_a_damaged_copy_has_no_sum(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(LINES)[:-9])
    assert unpacked_digest(str(tmp_path / "a.gz")) == ""


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link.log.1").symlink_to(log(tmp_path))
    with pytest.raises(ArchiveError, match="link"):
        pack(tmp_path / "link.log.1", None)


# --- killed runs --------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import conftest
from pathlib import Path
from ansible.module_utils import logs_compress
from ansible.module_utils.runbook_tools import Tools
def die(*args, **more):
    os.kill(os.getpid(), signal.SIGKILL)
def before(owner, name):
    setattr(owner, name, die)
def after(owner, name):
    real = getattr(owner, name)
    setattr(owner, name, lambda *args, **more: (real(*args, **more), die()))
{point}
logs_compress.compress({path!r}, Path({elsewhere!r}), lambda: {room}, Tools())
"""
POINTS = {
    "packed elsewhere": "before(logs_compress, 'replace_text')",
    "noted": "after(logs_compress, 'replace_text')",
    "source gone": "after(logs_compress, '_let_go')",
    "half back": "logs_compress.copy_bytes = lambda source, target: (target.write(source.read(99)), target.flush(), die())",
    "back": "after(logs_compress, '_bring_back')",
    "beside, packed": "after(logs_compress, '_pack')",
    "beside, source not gone": "before(logs_compress, '_let_go')",
}


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_run_is_finished(tmp_path: Path, small: Path, point: str) -> None:
    path, elsewhere = log(small), tmp_path / "pending"
    beside = point.startswith("beside")
    if not beside:
        fill(small)
    code = KILLED.format(
        tests=str(TESTS), point=POINTS[point], path=str(path), elsewhere=str(elsewhere), room=1 << 40 if beside else 0
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert path.exists() == (point not in ("source gone", "half back", "back"))
    remove_unfinished(str(small))
    assert finish_pending(elsewhere) == []
    if path.exists():
        pack(path, elsewhere)
    assert is_the_log(small / "app.log.1.zst") and not path.exists()
    assert not elsewhere.exists() or os.listdir(elsewhere) == []
    assert sorted(os.listdir(small)) == ["app.log.1.zst"] + ([] if beside else ["filler"])


def test_the_only_copy_waits_until_there_is_room(tmp_path: Path, small: Path) -> None:
    path, elsewhere = log(small), tmp_path / "pending"
    fill(small)
    code = KILLED.format(
        tests=str(TESTS), point=POINTS["source gone"], path=str(path), elsewhere=str(elsewhere), room=0
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    other = small / "other"
    with other.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(os.urandom(4096))
    (problem,) = finish_pending(elsewhere)
    assert "only copy" in problem and "No space" in problem and len(os.listdir(elsewhere)) == 2
    other.unlink()
    assert finish_pending(elsewhere) == [] and is_the_log(small / "app.log.1.zst")


def test_a_note_that_cannot_be_read_keeps_the_copy(tmp_path: Path) -> None:
    (tmp_path / "abc.zst").write_bytes(b"x")
    (tmp_path / "abc.zst.json").write_text(json.dumps({"source": "/x"}))
    assert "only copy" in finish_pending(tmp_path)[0] and (tmp_path / "abc.zst").exists()
