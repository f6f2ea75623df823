"""Manifests are whole or none; what changed is seen; what people write is read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.backups_engine import EngineRefused
from ansible.module_utils.backups_manifest import SET_ID, ManifestDamaged, Shelf, new_set_id, opened, sealed
from ansible.module_utils.backups_pgbackrest import read_verification
from ansible.module_utils.backups_restore import moment
from ansible.module_utils.backups_survey import _growth, _noted, changed, fingerprints
from ansible.module_utils.runbook_tools import ToolError, ToolMissing, Tools, version
from support.backups import flip

WHOLE = {
    "set": "20260301T020000Z-abcdef",
    "host": "db1",
    "started": 1.0,
    "finished": 2.0,
    "kind": "full",
    "database": {"label": "F1"},
    "components": [],
    "snapshot": "s",
    "skew_seconds": 1.0,
    "versions": {},
}


def test_a_sealed_manifest_opens() -> None:
    assert opened(json.dumps(sealed(WHOLE)), "here")["set"] == WHOLE["set"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps({**sealed(WHOLE), "skew_seconds": 2.0}), "was changed"),
        (json.dumps(sealed(WHOLE))[:-3], "no JSON"),
        (json.dumps(WHOLE), "no seal"),
        ("[]", "no seal"),
        (json.dumps(sealed({k: v for k, v in WHOLE.items() if k != "snapshot"})), "lacks snapshot"),
        (json.dumps(sealed({**WHOLE, "format": 9})), "format 9"),
    ],
)
def test_a_manifest_that_is_not_what_was_written_is_refused(text: str, said: str) -> None:
    with pytest.raises(ManifestDamaged, match=said):
        opened(text, "here")


def test_set_ids_are_of_their_time_and_never_the_same() -> None:
    ids = {new_set_id(1772330400.0) for _ in range(50)}
    assert len(ids) == 50
    assert all(SET_ID.fullmatch(each) and each.startswith("20260301T020000Z") for each in ids)


class TestShelf:
    def read(self, shelf: Shelf, originals: dict[str, Any] | None) -> tuple[list[str], dict[str, str]]:
        found, problems = shelf.read(originals, lambda reference: reference, write=True)
        return [each["set"] for each in found], problems

    def test_a_copy_is_made_from_the_original(self, tmp_path: Path) -> None:
        shelf = Shelf(tmp_path)
        assert self.read(shelf, {WHOLE["set"]: json.dumps(sealed(WHOLE))}) == ([WHOLE["set"]], {})
        assert self.read(shelf, None)[0] == [WHOLE["set"]]

    def test_a_damaged_copy_is_told_once_and_mended(self, tmp_path: Path) -> None:
        shelf = Shelf(tmp_path)
        shelf.keep(sealed(WHOLE))
        flip(shelf.path(str(WHOLE["set"])))
        found, problems = self.read(shelf, {WHOLE["set"]: json.dumps(sealed(WHOLE))})
        assert found == [WHOLE["set"]] and list(problems) == [WHOLE["set"]]
        assert self.read(shelf, {WHOLE["set"]: "not read"}) == ([WHOLE["set"]], {})

    def test_a_damaged_original_is_no_set(self, tmp_path: Path) -> None:
        assert self.read(Shelf(tmp_path), {WHOLE["set"]: "{}"})[0] == []

    def test_another_sets_manifest_is_not_taken_for_this_one(self, tmp_path: Path) -> None:
        found, problems = self.read(Shelf(tmp_path), {"20260302T020000Z-abcdef": json.dumps(sealed(WHOLE))})
        assert found == [] and "says that it is" in problems["20260302T020000Z-abcdef"]

    def test_what_is_gone_from_the_repository_is_gone(self, tmp_path: Path) -> None:
        shelf = Shelf(tmp_path)
        shelf.keep(sealed(WHOLE))
        assert self.read(shelf, {}) == ([], {})


def test_a_change_shows_whatever_the_time_of_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    (tmp_path / "archive").mkdir()
    (tmp_path / "backup" / "f").write_bytes(b"0" * 100)
    before = fingerprints(str(tmp_path))
    assert not changed(before, fingerprints(str(tmp_path)))
    (tmp_path / "archive" / "new").write_bytes(b"1")
    assert not changed(before, fingerprints(str(tmp_path))), "WAL that is new calls for nothing"
    flip(tmp_path / "backup" / "f")
    assert changed(before, fingerprints(str(tmp_path)))


def test_a_new_or_a_lost_file_of_a_backup_shows(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0")
    before = fingerprints(str(tmp_path))
    (tmp_path / "g").write_bytes(b"0")
    assert changed(before, fingerprints(str(tmp_path)))
    os.unlink(tmp_path / "g")
    assert not changed(before, fingerprints(str(tmp_path)))
    os.unlink(tmp_path / "f")
    assert changed(before, fingerprints(str(tmp_path)))


def test_what_verify_says_is_read() -> None:
    text = """stanza: main
status: error
  archiveId: 15-1, total WAL checked: 5, total valid WAL: 4
    missing: 0, checksum invalid: 1, size invalid: 0, other: 0
  backup: 20261127-144938F, status: invalid, total files checked: 964, total valid files: 963
    missing: 0, checksum invalid: 1, size invalid: 0, other: 0
  backup: 20261128-144938F, status: valid, total files checked: 965, total valid files: 965
    missing: 0, checksum invalid: 0, size invalid: 0, other: 0
"""
    found = read_verification(text)
    assert set(found) == {"", "20261127-144938F"}
    assert "checksum invalid: 1" in found["20261127-144938F"] and "archive" in found[""]
    assert read_verification("status: error\n  No usable backup.info file\n") == {"": "verify says No usable backup.info file"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-03-01 14:05:00+00", 1772373900.0),
        ("2026-03-01T14:05:00Z", 1772373900.0),
        ("2026-03-01 15:05:00.5+01:00", 1772373900.5),
    ],
)
def test_moments_are_read(text: str, seconds: float) -> None:
    assert moment(text) == seconds


@pytest.mark.parametrize("text", ["yesterday", "2026-03-01 14:05:00", "2026-13-01 14:05:00+00", "'; DROP TABLE x; --"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(EngineRefused, match="restore_time is"):
        moment(text)


def test_days_until_full_come_from_how_a_disk_fills() -> None:
    day = 86400.0
    history: list[list[float]] = []
    for number in range(4):
        history = _noted(history, number * day, 100.0 + 10 * number)
    assert _growth(history, 4 * day, 140.0) == pytest.approx(10.0)
    assert _growth(history, 4 * day, 50.0) is None, "it empties"
    assert _growth(history[:1], 3600.0, 200.0) is None, "an hour tells nothing"
    assert len(_noted(history, 3 * day + 60, 130.0)) == len(history), "a run a minute later adds nothing"


def test_programs_say_what_went_wrong(tmp_path: Path) -> None:
    tools = Tools()
    with pytest.raises(ToolMissing, match="no-such-program is not on this host"):
        tools.run(["no-such-program"])
    with pytest.raises(ToolError, match="exit status 3: first; second") as caught:
        tools.run(["sh", "-c", "echo first >&2; echo second >&2; exit 3"])
    assert caught.value.rc == 3
    with pytest.raises(ToolError, match="took longer than"):
        tools.run(["sleep", "60"], limit_seconds=0.2)
    assert tools.run(["sh", "-c", 'printf "${GONE-unset}"'], env={"GONE": None}).out == "unset"
    assert tools.run(["printf", r"\377"]).out.encode("utf-8", "surrogateescape") == b"\xff", "no byte is lost"
    assert version("restic 0.14.0 compiled") == (0, 14, 0) and version("none") == (0,)
