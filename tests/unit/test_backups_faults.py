"""One fault each: it is caught by the next look, nothing is lost, and the next run heals what can be healed."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ansible.module_utils.backups_engine import EngineRefused
from ansible.module_utils.backups_planner import Limits, good_sets
from ansible.module_utils.backups_scratch import ScratchRefused
from ansible.module_utils.backups_survey import Surveyor
from support.backups import DATABASE, Lab, copied, flip
from support.postgres import Server

ENGINES = ["pgbackrest", "basebackup"]


@pytest.fixture(scope="module", params=ENGINES)
def whole(request: pytest.FixtureRequest, scratch: Path, bin_dirs: dict[str, Path]) -> Iterator[Lab]:
    """A host with one set that was proven; its repository and state are kept aside."""
    lab = Lab(scratch / f"fault-{request.param}", bin_dirs["system15"], request.param).start()
    lab.maintain()
    for name in ("repo", "state"):
        copied(lab.folder / name, lab.folder / f"{name}.good")
    yield lab
    lab.stop()


@pytest.fixture
def lab(whole: Lab) -> Iterator[Lab]:
    """The host as it was after its first run, whatever a test did to repository and state."""
    for name in ("repo", "state"):
        copied(whole.folder / f"{name}.good", whole.folder / name)
    # What a copy changes is a ctime, and a look notes that this is nothing.
    Surveyor(whole.job).look(verify=True)
    whole.sql("SELECT pg_switch_wal()")
    yield whole


def scratch_servers(lab: Lab) -> list[str]:
    done = subprocess.run(["pgrep", "-af", f"postgres -D {lab.job.scratch_dir}"], capture_output=True, text=True, check=False)
    return done.stdout.split("\n")[:-1]


def scratch_folders(lab: Lab) -> list[Path]:
    return list(Path(lab.job.scratch_dir).glob("[!.]*"))


# Damage: found by the very next look, whatever the time of the file says


def test_one_flipped_byte_in_a_backup(lab: Lab) -> None:
    flip(lab.backup_file())
    planned = lab.plan()
    assert "backup-damaged" in [each["id"] for each in planned.findings]
    assert planned.kind == "full", "what does not verify counts as none"
    assert [a["result"] for a in lab.maintain() if a["step"] in ("set", "drill")] != ["failed"]
    assert lab.plan().kind == "", "the new one is whole"


def test_one_flipped_byte_in_a_manifest_of_the_engine(lab: Lab) -> None:
    name = "backup.manifest" if lab.job.engine == "pgbackrest" else "backup_manifest"
    flip(next(Path(lab.job.repository).rglob(name)))
    assert lab.plan().kind == "full"


@pytest.mark.parametrize("name", ["backup.info", "archive.info"])
def test_one_flipped_byte_in_what_pgbackrest_knows(lab: Lab, name: str) -> None:
    if lab.job.engine == "pgbackrest":
        flip(next(Path(lab.job.repository).rglob(name)))
        assert "backup-damaged" in lab.findings()


def test_one_flipped_byte_in_the_manifest_of_a_set(lab: Lab) -> None:
    path = next((lab.job.state_dir / "backups" / "sets").rglob("manifest.json"))
    flip(path)
    assert "manifest-damaged" in lab.findings()
    assert "manifest-damaged" not in lab.findings(), "its copy was made anew from the repository"


def test_one_flipped_byte_in_a_pack_of_restic(lab: Lab) -> None:
    flip(max((Path(lab.job.files_repository) / "data").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0))
    assert "files-damaged" in lab.findings()
    assert "files-damaged" in lab.findings(), "it stays found"


def test_a_missing_wal_file(lab: Lab) -> None:
    archive = sorted(p for p in Path(lab.job.repository).rglob("0000000100000000*") if p.is_file() and ".backup" not in p.name)
    newest = max(p.name[:24] for p in archive)
    for path in archive:
        if path.name.startswith(f"{int(newest, 16) - 1:024X}"):
            path.unlink()
    found = lab.findings()
    assert f"{int(newest, 16) - 1:024X}" in found["wal-gap"]


def test_a_damaged_wal_file_fails_the_drill_if_nothing_else_tells(lab: Lab) -> None:
    archive = [p for p in Path(lab.job.repository).rglob("0000000100000000*") if p.is_file() and ".backup" not in p.name]
    flip(max(archive, key=lambda p: p.name), 40)
    assert "backup-damaged" in lab.findings(verify=True)


# Wrong names and wrong places: said, and nothing is touched


def test_a_wrong_passphrase(lab: Lab) -> None:
    other = lab.but(passphrase="not the passphrase at all", config_text=lab.job.config_text.replace("of the tests", "of others"))
    config = Path(lab.job.config)
    kept = config.read_text() if config.exists() else ""
    try:
        if kept:
            config.write_text(kept.replace("of the tests", "of others"))
        planned = other.plan()
        found = {each["id"] for each in planned.findings}
        assert "files-unusable" in found
        assert ("repository-unusable" in found) == (lab.job.engine == "pgbackrest")
        assert planned.actions == []
        assert "pass" in planned.blocked
    finally:
        if kept:
            config.write_text(kept)


def test_a_wrong_stanza(lab: Lab) -> None:
    if lab.job.engine == "pgbackrest":
        planned = lab.but(stanza="other").plan()
        assert "wrong-system" in [each["id"] for each in planned.findings] and planned.actions == []
        assert "main" in planned.blocked


def test_another_system_in_the_repository(lab: Lab, scratch: Path, bin_dirs: dict[str, Path]) -> None:
    stranger = Server(bin_dirs["system15"], scratch / f"stranger-{lab.job.engine}")
    stranger.create()
    try:
        stranger.sql(f"CREATE DATABASE {DATABASE}")
        other = lab.but(connection=stranger.connection(DATABASE), takeover=True)
        planned = other.plan()
        assert "wrong-system" in [each["id"] for each in planned.findings] and planned.actions == []
        with pytest.raises(EngineRefused, match="system"):
            other.step("repositories")
    finally:
        stranger.stop()


def test_a_stale_copy_of_the_repository(lab: Lab) -> None:
    later = replace(lab.job, now=lambda: time.time() + 30 * 3600)
    stale = lab.but(now=later.now)
    found = stale.findings(verify=True)
    assert "set-stale" in found, "that it verifies says nothing of its age"
    assert "backup-damaged" not in found


def test_a_clock_that_was_moved(lab: Lab) -> None:
    ahead = lab.but(now=lambda: time.time() + 400 * 86400)
    assert ahead.plan(verify=False).kind == "full" and "clock" in ahead.findings(verify=False)
    behind = lab.but(now=lambda: time.time() - 400 * 86400)
    found = behind.findings(verify=False)
    assert "backup-from-the-future" in found and behind.plan(verify=False).kind == "full"


def test_a_read_only_repository(lab: Lab) -> None:
    repository = Path(lab.job.repository)
    subprocess.run(["chown", "-R", "root:", str(repository)], check=True)
    subprocess.run(["chmod", "-R", "a+rX,go-w", str(repository)], check=True)
    planned = lab.but(limits=Limits(full_max_age_hours=0)).plan(verify=False)
    assert "read-only" in [each["id"] for each in planned.findings] and planned.actions == []
    sets = {each["set"] for each in good_sets(Surveyor(lab.job).look(verify=False))}
    assert len(sets) == 1, "what is in it counts as before"


@pytest.mark.usefixtures("lab")
def test_a_full_disk_is_refused_before(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    full = lab.but(limits=Limits(full_max_age_hours=0, drill_max_age_days=0))
    usage = shutil.disk_usage(lab.folder)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(EngineRefused, match="has 1000 bytes free"):
        full.step("set")
    monkeypatch.setattr("ansible.module_utils.backups_scratch._free_bytes", lambda path: 1000)
    monkeypatch.setattr("ansible.module_utils.backups_work.Backups._refuse_full_disk", lambda *a: None)
    later = lab.but(now=lambda: time.time() + 9 * 86400)
    actions = later.step("drill")
    assert actions[-1]["result"] == "failed" and "1000 bytes free" in actions[-1]["detail"]


def test_a_server_that_is_down(lab: Lab) -> None:
    lab.server.stop()
    try:
        planned = lab.plan(verify=False)
        assert "server-down" in [each["id"] for each in planned.findings] and planned.actions == []
    finally:
        lab.server.start()


def test_a_standby(lab: Lab, scratch: Path) -> None:
    copy = lab.server.standby(scratch / f"standby-{lab.job.engine}")
    try:
        planned = lab.but(connection=copy.connection(DATABASE)).plan(verify=False)
        assert "standby" in [each["id"] for each in planned.findings] and planned.actions == []
    finally:
        copy.stop()


def test_a_manifest_that_promises_more_than_is_restored(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    later = lab.but(now=lambda: time.time() + 8 * 86400, limits=Limits(full_max_age_hours=9999, diff_max_age_hours=9999))
    picture = Surveyor(later.job).look(verify=False)
    picture.sets[-1]["database"]["figures"]["tables"]["public.llm_metrics"] += 1
    monkeypatch.setattr("ansible.module_utils.backups_survey.Surveyor.look", lambda *a, **k: picture)
    assert later.step("drill")[-1]["result"] == "failed"
    assert any("public.llm_metrics" in problem for problem in later.last_drill()["problems"])


# Killed with SIGKILL in each phase


@pytest.mark.parametrize("function", ["take_figures", "archive", "_capture", "_finish", "store", "keep"])
def test_a_set_that_is_killed_is_none_and_the_next_run_takes_one(lab: Lab, function: str) -> None:
    due = lab.but(now=lambda: time.time() + 25 * 3600, limits=Limits(full_max_age_hours=999, drill_max_age_days=999))
    before = {each["set"] for each in Surveyor(due.job).look(verify=False).sets}
    lab.killed(
        "import time\nfrom dataclasses import replace\nfrom ansible.module_utils.backups_planner import Limits\n"
        "lab.but(now=lambda: time.time() + 25 * 3600, limits=Limits(full_max_age_hours=999)).step('set')",
        function,
    )
    seen = {each["set"] for each in Surveyor(due.job).look(verify=False).sets}
    assert seen - before == set() if function != "keep" else len(seen - before) == 1, "kept in the repository, not beside"
    due.maintain()
    assert due.plan().actions == []
    assert scratch_folders(lab) == []


@pytest.mark.parametrize("function", ["restore", "start_and_recover", "_recovered", "_database", "amcheck", "_components", "_note"])
def test_a_drill_that_is_killed_leaves_nothing_for_long(lab: Lab, function: str) -> None:
    later = lab.but(now=lambda: time.time() + 8 * 86400, limits=Limits(full_max_age_hours=9999, diff_max_age_hours=9999))
    lab.killed(
        "import time\nfrom ansible.module_utils.backups_planner import Limits\n"
        "lab.but(now=lambda: time.time() + 8 * 86400, limits=Limits(full_max_age_hours=9999, diff_max_age_hours=9999))"
        ".step('drill')",
        function,
    )
    assert lab.sql("SELECT count(*) FROM spans") == ["3000"], "the live server did not notice"
    later.maintain()
    assert later.last_drill()["result"] == "passed", later.last_drill()["problems"]
    assert scratch_folders(lab) == [] and scratch_servers(lab) == []


def test_a_place_for_drills_near_the_data_is_refused(lab: Lab) -> None:
    near = lab.but(scratch_dir=str(lab.server.data / "scratch"), now=lambda: time.time() + 9 * 86400,
                   limits=Limits(full_max_age_hours=9999, diff_max_age_hours=9999))  # fmt: skip
    assert near.step("drill")[-1]["result"] == "failed"
    assert not (lab.server.data / "scratch").exists()
    assert ScratchRefused.__name__ in near.last_drill()["problems"][0]
