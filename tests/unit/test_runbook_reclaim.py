"""Space reclaimed in a safe order, and what must never be touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible.module_utils import runbook_reclaim
from ansible.module_utils.runbook_reclaim import faults, free_percent, reclaim, told


def fill(path: Path, size: int = 8192) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the file system says, one answer after the other; the last one stays."""
    answers: list[float] = [0.0]
    monkeypatch.setattr(
        runbook_reclaim, "free_percent", lambda path: answers.pop(0) if len(answers) > 1 else answers[0]
    )
    return answers


def test_the_ballast_goes_first_and_is_enough(tmp_path: Path, free: list[float]) -> None:
    ballast, cached = fill(tmp_path / "ballast"), fill(tmp_path / "cache" / "a.deb")
    free[:] = [1.0, 20.0]
    done = reclaim(str(tmp_path), 15, str(ballast), [str(cached.parent)])
    assert [(one["rung"], one["freed_bytes"]) for one in done] == [("ballast", 8192)]
    assert not ballast.exists() and cached.exists() and "8.0 KiB" in told(done)


def test_caches_follow_in_their_order_until_the_target(tmp_path: Path, free: list[float]) -> None:
    first, second = fill(tmp_path / "one" / "deep" / "a"), fill(tmp_path / "two" / "b")
    free[:] = [1.0, 1.0, 20.0]
    reclaim(str(tmp_path), 15, None, [str(tmp_path / "one"), str(tmp_path / "two")])
    assert not first.exists() and first.parent.is_dir() and second.exists()


def test_with_enough_free_nothing_is_touched(tmp_path: Path) -> None:
    ballast = fill(tmp_path / "ballast")
    assert reclaim(str(tmp_path), 0, str(ballast), []) == [] and ballast.exists()
    assert told([]) == "nothing was there to free"


def test_links_locks_and_shared_files_stay(tmp_path: Path, free: list[float]) -> None:
    outside = fill(tmp_path / "outside" / "precious")
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "link").symlink_to(outside)
    (cache / "folder").symlink_to(outside.parent)
    os.link(outside, cache / "hard")
    fill(cache / "lock")
    reclaim(str(tmp_path), 15, None, [str(cache)])
    assert outside.exists() and {p.name for p in cache.iterdir()} == {"link", "folder", "hard", "lock"}


def test_a_ballast_that_is_a_link_or_a_folder_stays(tmp_path: Path, free: list[float]) -> None:
    outside = fill(tmp_path / "precious")
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "folder").mkdir()
    assert reclaim(str(tmp_path), 15, str(tmp_path / "link"), []) == []
    assert reclaim(str(tmp_path), 15, str(tmp_path / "folder"), []) == []
    assert outside.exists() and (tmp_path / "folder").is_dir()


def test_another_file_system_is_left_alone(tmp_path: Path, free: list[float]) -> None:
    shm = Path("/dev/shm") / f"runbook-test-{os.getpid()}"  # a file system of its own
    elsewhere = fill(shm / "cache" / "a")
    try:
        assert reclaim(str(tmp_path), 15, None, [str(elsewhere.parent)]) == [] and elsewhere.exists()
    finally:
        elsewhere.unlink()
        elsewhere.parent.rmdir()
        shm.rmdir()


@pytest.mark.parametrize("path", ["/", "/etc", "/var/log", "var/cache/x", "/var/../etc", "/opt/", "//var//lib//"])
def test_a_dangerous_path_refuses_everything(path: str, tmp_path: Path, free: list[float]) -> None:
    ballast = fill(tmp_path / "ballast")
    assert faults(None, [path])
    with pytest.raises(ValueError, match="absolute path"):
        reclaim(str(tmp_path), 15, str(ballast), [path])
    assert ballast.exists()


def test_free_percent_is_what_df_says(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    users = found.f_blocks - found.f_bfree + found.f_bavail
    assert free_percent(str(tmp_path / "not" / "there")) == pytest.approx(100 * found.f_bavail / users, abs=1)
