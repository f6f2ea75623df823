"""Evidence: complete, unaltered, without secrets."""

from __future__ import annotations

import datetime
import json
import stat
import subprocess
from pathlib import Path

import pytest
from ansible.module_utils.runbook_evidence import keep, mask
from ansible.module_utils.runbook_state import StateError

NOW = datetime.datetime(2026, 3, 15, 14, 30, 5, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))


def verify(folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


def test_the_manifest_verifies_and_tampering_shows(tmp_path: Path) -> None:
    folder = keep(tmp_path / "run", {"a.txt": "one\n", "b.txt": "zwei ä\n", "empty.txt": ""}, "ops@laptop", NOW)
    keep(folder, {"c.txt": "three"}, "ops@laptop", NOW)
    assert verify(folder) == (0, "a.txt: OK\nb.txt: OK\nempty.txt: OK\nc.txt: OK\n")
    (folder / "b.txt").write_text("zwei\n")
    rc, told = verify(folder)
    assert rc == 1 and "b.txt: FAILED" in told
    (folder / "a.txt").unlink()
    assert "a.txt: FAILED open or read" in verify(folder)[1]


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for text in ("first", "second", "third"):
        keep(folder, {"a.txt": text}, "ops@laptop", NOW)
    assert [(folder / name).read_text() for name in ("a.txt", "a.txt.2", "a.txt.3")] == ["first", "second", "third"]
    assert verify(folder)[0] == 0


def test_every_item_has_a_custody_line_in_utc(tmp_path: Path) -> None:
    folder = keep(tmp_path / "run", {"a.txt": "one\n"}, "ops@laptop", NOW)
    keep(folder, {"a.txt": "other"}, "timer@db1", NOW + datetime.timedelta(minutes=1))
    assert (folder / "CUSTODY").read_text().splitlines() == [
        "2026-03-15T12:30:05+00:00 ops@laptop kept a.txt (4 bytes)",
        "2026-03-15T12:31:05+00:00 timer@db1 kept a.txt.2 (5 bytes)",
    ]


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    folder = keep(tmp_path / "run", {"a.txt": "x"}, "me", NOW)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "a.txt").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "name", ["../../escape", "/etc/passwd", "..", ".", "", "a b\nc", "SHA256SUMS", "CUSTODY", "-c"]
)
def test_hostile_names_stay_in_the_folder_and_out_of_the_ledgers(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "x" / "run"
    keep(folder, {name: "text"}, "me", NOW)
    items = {p.name for p in folder.iterdir()} - {"SHA256SUMS", "CUSTODY"}
    assert len(items) == 1 and [p for p in tmp_path.rglob("*") if p.is_file() and p.parent != folder] == []
    assert (folder / items.pop()).read_text() == "text"
    assert verify(folder)[0] == 0
    assert len((folder / "CUSTODY").read_text().splitlines()) == 1


CANARY = "hunter2-Zx"


@pytest.mark.parametrize(
    "text",
    [
        f"password={CANARY}",
        f"PGPASSWORD={CANARY} psql",
        f"'password': '{CANARY}'",
        f'{{"api_key": "{CANARY}", "b": 1}}',
        f"OPENAI_API_KEY: {CANARY}",
        f"auth-token = {CANARY}",
        f"SECRET_KEY={CANARY}",
        f"postgresql://tracker:{CANARY}@db:5432/llm_metrics",
        f"https://user:{CANARY}@host/x?y=1",
        f"Authorization: Bearer {CANARY}",
        f"authorization: Basic {CANARY}==",
        f'{{"password": "{CANARY} {CANARY}"}}',
        f'{{"password": "{CANARY}, {CANARY}"}}',
        f'{{"password": "a\\"{CANARY}"}}',
        f'{{"stdout": "{{\\"password\\": \\"{CANARY} {CANARY}\\"}}"}}',
        f'{{"headers": {{"Authorization": "Bearer {CANARY}"}}}}',
        f"password: '{CANARY} {CANARY}",
    ],
)
def test_secrets_are_masked_and_what_is_around_them_stays(tmp_path: Path, text: str) -> None:
    folder = keep(tmp_path / "run", {"log.txt": f"before\n{text}\nafter\n"}, "me", NOW)
    for path in folder.iterdir():
        assert CANARY not in path.read_text()
    lines = (folder / "log.txt").read_text().splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("before", "after", 3) and "********" in lines[1]


@pytest.mark.parametrize(
    "text",
    [
        "tokens used: many",
        "the secretary said: no",
        "passwords are hard",
        "http://host:8080/path",
        "prompt_tokens_total 12",
        '{"total_tokens": 512, "token_count": 3}',
        "max_tokens=100",
    ],
)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert mask(text) == text


def test_masked_json_is_still_json() -> None:
    masked = mask(json.dumps({"password": 'a"b, c', "inner": json.dumps({"token": "x y"}), "empty": "", "n": 1}))
    read = json.loads(masked)
    assert (read["password"], json.loads(read["inner"]), read["n"]) == ("********", {"token": "********"}, 1)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="file/run cannot be created"):
        keep(tmp_path / "file" / "run", {"a": "b"}, "me", NOW)
    folder = keep(tmp_path / "run", {}, "me", NOW)
    (folder / "CUSTODY").mkdir()
    with pytest.raises(StateError, match=f"evidence cannot be kept in {folder}: Is a directory"):
        keep(folder, {"a": "b"}, "me", NOW)
