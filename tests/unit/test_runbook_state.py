"""State files: whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import runbook_state
from ansible.module_utils.runbook_lease import LeaseHeld, Leases
from ansible.module_utils.runbook_state import StateError, ensure_folder, read_json, spare, write_json


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "state.json"
    assert read_json(path, {"none": True}) == {"none": True}
    for value in ({"b": [1, None, "ä\n"], "a": {"x": 1.5}}, [], None):
        write_json(path, value)
        assert read_json(path, "default") == value


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.json"
    write_json(path, 1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"a": 1} trailing'])
def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(StateError, match=f"{path} cannot be read .*move it away"):
        read_json(path, {})
    assert path.read_bytes() == content


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write_json(path, "old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for call in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(runbook_state.os, call, full)
            with pytest.raises(StateError, match=f"{path} cannot be written: No space left on device"):
                write_json(path, "new")
        assert read_json(path, None) == "old"
        assert os.listdir(tmp_path) == ["state.json"]
    with pytest.raises(TypeError):
        write_json(path, object())
    assert os.listdir(tmp_path) == ["state.json"] and read_json(path, None) == "old"


def test_the_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            runbook_state.os, name, lambda *given, name=name, real=real: (calls.append(name), real(*given))[1]
        )
    write_json(tmp_path / "state.json", 1)
    assert calls == ["fsync", "replace", "fsync"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"file/state cannot be created: Not a directory; set runbook_state_dir"):
        ensure_folder(tmp_path / "file" / "state")
    with pytest.raises(StateError, match="cannot be created"):
        write_json(tmp_path / "file" / "state.json", 1)


def test_a_folder_that_is_not_ours_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As root nothing is closed to us, so the answer of the system is put in its place.
    monkeypatch.setattr(runbook_state.os, "access", lambda path, mode: False)
    with pytest.raises(
        StateError, match=f"{tmp_path} is not writable for this user; set runbook_state_dir or use become"
    ):
        ensure_folder(tmp_path)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A disk that takes nothing: every new file below tmp_path/disk fails, and the spare place is tmp_path/memory."""
    real = tempfile.mkstemp

    def full(**given: Any) -> Any:
        if str(given.get("dir", "")).startswith(str(tmp_path / "disk")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(**given)

    (tmp_path / "memory").mkdir()
    monkeypatch.setattr(runbook_state, "SPARE_ROOT", tmp_path / "memory")
    monkeypatch.setattr(runbook_state.tempfile, "mkstemp", full)
    return tmp_path / "disk"


def test_on_a_full_disk_state_is_kept_in_memory(full_disk: Path) -> None:
    path = full_disk / "leases" / "x.json"
    write_json(path, {"a": 1})
    assert not path.exists() and read_json(path, None) == {"a": 1}


def test_state_is_back_on_the_disk_once_it_has_room(full_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = full_disk / "x.json"
    write_json(path, {"a": 1})
    monkeypatch.undo()
    monkeypatch.setattr(runbook_state, "SPARE_ROOT", full_disk.parent / "memory")
    write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2} and not spare(path).exists() and read_json(path, None) == {"a": 2}


def test_a_spare_place_of_somebody_else_is_refused(full_disk: Path) -> None:
    (full_disk.parent / "memory" / f"runbooks-{os.geteuid()}").mkdir(mode=0o755)
    with pytest.raises(StateError, match=r"cannot be written|belongs to somebody else"):
        write_json(full_disk / "x.json", {"a": 1})


def test_a_lease_holds_on_a_full_disk(full_disk: Path) -> None:
    leases = Leases(full_disk)
    leases.acquire("database:x", "RUN1", "a@b", "test", 300)
    with pytest.raises(LeaseHeld):
        leases.acquire("database:x", "RUN2", "a@b", "test", 300)
    assert [lease["run_id"] for lease in leases.list()] == ["RUN1"]
    assert leases.release("database:x", "RUN1") and leases.list() == []
