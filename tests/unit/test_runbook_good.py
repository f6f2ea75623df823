"""The last good configuration: kept once per content, given back whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.runbook_good import KEPT_SETS, changed_files, give_back, keep_good, last_good
from ansible.module_utils.runbook_state import StateError


@pytest.fixture
def config(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    (folder / "conf.d").mkdir(parents=True)
    (folder / "main.conf").write_text("one\n")
    (folder / "conf.d" / "site.conf").write_text("two\n")
    (folder / "main.conf").chmod(0o640)
    return folder


def test_a_set_is_given_back_with_modes(tmp_path: Path, config: Path) -> None:
    store, paths = tmp_path / "good", [str(config)]
    keep_good(store, paths, 1.0)
    (config / "main.conf").write_text("broken\n")
    (config / "main.conf").chmod(0o600)
    (config / "conf.d" / "site.conf").unlink()
    place = last_good(store, paths)
    assert place and changed_files(place) == [str(config / "conf.d" / "site.conf"), str(config / "main.conf")]
    give_back(place)
    assert (config / "main.conf").read_text() == "one\n" and (config / "main.conf").stat().st_mode & 0o777 == 0o640
    assert (config / "conf.d" / "site.conf").read_text() == "two\n" and changed_files(place) == []
    assert not list(config.rglob(".*.runbook"))


def test_what_is_there_now_is_not_gone_back_to(tmp_path: Path, config: Path) -> None:
    store, paths = tmp_path / "good", [str(config)]
    keep_good(store, paths, 1.0)
    assert last_good(store, paths) is None
    (config / "main.conf").write_text("newer\n")
    keep_good(store, paths, 2.0)
    place = last_good(store, paths)
    assert place and (give_back(place), (config / "main.conf").read_text())[1] == "one\n"


def test_the_same_content_is_kept_once_and_few_sets_are(tmp_path: Path, config: Path) -> None:
    store, paths = tmp_path / "good", [str(config)]
    assert keep_good(store, paths, 1.0) == keep_good(store, paths, 2.0)
    for number in range(KEPT_SETS + 3):
        (config / "main.conf").write_text(f"{number}\n")
        keep_good(store, paths, 10.0 + number)
    assert len(list(store.iterdir())) == KEPT_SETS
    (config / "main.conf").write_text("broken\n")
    place = last_good(store, paths)
    assert place
    give_back(place)
    assert (config / "main.conf").read_text() == f"{KEPT_SETS + 2}\n", "the newest"


def test_what_is_no_configuration_is_refused(tmp_path: Path, config: Path) -> None:
    (config / "core").write_bytes(b"x" * 5_000_000)
    with pytest.raises(StateError, match="name its files alone"):
        keep_good(tmp_path / "good", [str(config)], 1.0)
    assert keep_good(tmp_path / "good", [str(tmp_path / "none")], 1.0) is None


def test_copies_are_closed_to_others(tmp_path: Path, config: Path) -> None:
    keep_good(tmp_path / "good", [str(config)], 1.0)
    files = [path for path in (tmp_path / "good").rglob("*") if path.is_file()]
    assert files and all(path.stat().st_mode & 0o077 == 0 for path in files)
