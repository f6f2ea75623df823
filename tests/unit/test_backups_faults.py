"""One fault each: it is caught by the next look, nothing is lost, and the next run heals what can be healed."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.backups_engine import EngineRefused
from ansible.module_utils.backups_planner import Limits, good_sets
from ansible.module_utils.backups_scratch import ScratchRefused, TargetNotReached
from ansible.module_utils.backups_survey import Surveyor
from ansible.module_utils.backups_tools import ToolError
from ansible.module_utils.runbook_psql import Session
from support.backups import DATABASE, Lab, copied, flip
from support.postgres import Server, wait_until

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


# Restores


def restored(lab: Lab, **request: Any) -> Lab:
    lab.server.stop()
    lab.restore(**request).run()
    return lab


@pytest.fixture
def lost(scratch: Path, bin_dirs: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[tuple[Lab, str]]:
    """A host whose table was dropped, and the moment before that."""
    name = "".join(c for c in request.node.name if c.isalnum())[-24:]
    engine = "basebackup" if "basebackup" in request.node.name else "pgbackrest"
    lab = Lab(scratch / name, bin_dirs["system15"], engine, limits=Limits(drill_max_age_days=9999)).start()
    lab.step("repositories")
    lab.step("set")
    lab.sql("INSERT INTO spans VALUES ('new', now())")
    moment = lab.sql("SELECT clock_timestamp()::text")[0]
    wait_until(lambda: lab.sql("SELECT clock_timestamp()::text")[0] > moment, "the clock went on")
    lab.sql("DROP TABLE llm_metrics CASCADE")
    switched = lab.sql("SELECT pg_walfile_name(pg_switch_wal())")[0]
    wait_until(lambda: switched in Surveyor(lab.job).engine().read(None).archive.names, "the WAL is archived")
    yield lab, moment
    lab.stop()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_moment_before_a_mistake_comes_back(lost: tuple[Lab, str], engine: str) -> None:
    lab, moment = lost
    assert lab.job.engine == engine
    lab.sql("SELECT pg_create_physical_replication_slot('standby1', true)")
    lab.server.stop()
    old = lab.data_sum()
    work = lab.restore(time=moment)
    work.run()
    assert ("replication-slot", "standby1") in [(each["id"], each["subject"]) for each in work.backups.findings]
    assert lab.sql("SELECT count(*), sum(total_cost_usd) FROM llm_metrics") == ["3000|750.000000"]
    assert lab.sql("SELECT count(*) FROM spans") == ["3001"]
    assert lab.sql("SELECT nextval('llm_metrics_id_seq') > 3000") == ["t"]
    (aside,) = lab.server.folder.glob("data.before-*")
    lab.server.stop()
    data, lab.server.data = lab.server.data, aside
    try:
        assert lab.data_sum() == old, "the old data is what it was"
        lab.server.start()
        assert lab.sql("SELECT to_regclass('llm_metrics') IS NULL") == ["t"]
    finally:
        lab.server.stop()
        lab.server.data = data


# Before the recovery, in it, at its end, before the renames, between them, before the start.
PLACES = [
    ("_restore_into", 1, "call"),
    ("start_and_recover", 1, "call"),
    ("_recovered", 1, "return"),
    ("settle_auto_conf", 1, "call"),
    ("_swap", 1, "call"),
    ("_move", 1, "call"),
    ("_move", 1, "return"),
    ("_start", 2, "call"),
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place[0]}-{place[2]}")
def test_a_restore_that_is_killed_is_finished_by_the_same_command(lost: tuple[Lab, str], place: tuple[str, int, str]) -> None:
    lab, moment = lost
    lab.server.stop()
    function, times, event = place
    lab.killed(f"lab.restore(time={moment!r}).run()", function, times, event)
    lab.restore(time=moment).run()
    assert lab.sql("SELECT count(*) FROM llm_metrics") == ["3000"]
    assert len(list(lab.server.folder.glob("data.before-*"))) == 1
    assert not (lab.server.folder / ".runbooks-restore").exists()
    lab.restore(time=moment).backup_again()
    assert lab.plan().kind == ""


def test_what_cannot_work_is_refused_before_anything_is_touched(lost: tuple[Lab, str]) -> None:
    lab, moment = lost
    with pytest.raises(EngineRefused, match="the server runs"):
        lab.restore(time=moment).run()
    lab.server.stop()
    old = lab.data_sum()
    with pytest.raises(EngineRefused, match=rf"--confirm lab/{DATABASE}"):
        lab.restore(time=moment, confirm=()).run()
    with pytest.raises(EngineRefused, match=r"cannot be reached: what is there reaches from 20"):
        lab.restore(time="2020-01-01 00:00:00+00").run()
    with pytest.raises((EngineRefused, TargetNotReached), match=r"cannot be reached|after the end of the WAL"):
        lab.restore(time="2099-01-01 00:00:00+00").run()
    with pytest.raises(EngineRefused, match="without a zone"):
        lab.restore(time="2026-01-01 00:00:00").run()
    with pytest.raises(EngineRefused, match="there is no whole set 'none-such'"):
        lab.restore(target="none-such").run()
    assert lab.data_sum() == old
    control = lab.server.data / "global" / "pg_control"
    kept = control.read_bytes()
    control.unlink()
    shutil.move(lab.server.data / "PG_VERSION", lab.folder / "PG_VERSION")
    with pytest.raises(EngineRefused, match="is no data directory"):
        lab.restore(time=moment).run()
    shutil.move(lab.folder / "PG_VERSION", lab.server.data / "PG_VERSION")
    control.write_bytes(kept)
    shutil.chown(control, lab.server.user or os.geteuid())


def test_a_lost_data_directory_comes_back_whole(lost: tuple[Lab, str]) -> None:
    lab, moment = lost
    lab.server.stop()
    shutil.rmtree(lab.server.data)
    lab.restore(time=moment).run()
    assert lab.sql("SELECT count(*) FROM llm_metrics") == ["3000"]


def test_a_table_comes_back_in_its_place_and_beside_one_that_is_there(lost: tuple[Lab, str]) -> None:
    lab, moment = lost
    lab.restore(scope="table", table="public.llm_metrics", time=moment).run()
    assert lab.sql("SELECT count(*), sum(total_cost_usd) FROM llm_metrics") == ["3000|750.000000"]
    assert lab.sql("SELECT count(*) FROM pg_indexes WHERE tablename = 'llm_metrics'") == ["2"]
    lab.sql("DELETE FROM spans WHERE span_id = 'new'")
    work = lab.restore(scope="table", table="public.spans", time=moment)
    work.run()
    (place,) = lab.sql("SELECT table_schema FROM information_schema.tables WHERE table_name = 'spans' AND table_schema <> 'public'")
    assert lab.sql(f"SELECT count(*) FROM {place}.spans") == ["3001"]
    assert lab.sql("SELECT count(*) FROM spans") == ["3000"], "the one that is there is as it was"
    with pytest.raises(EngineRefused, match="there was no table"):
        lab.restore(scope="table", table="public.none", time=moment).run()


def test_files_come_back_with_owner_and_mode_and_the_old_ones_are_kept(lost: tuple[Lab, str]) -> None:
    lab, _ = lost
    path = lab.files / "app.env"
    path.write_text("SECRET=wrong\n")
    path.chmod(0o600)
    (lab.files / "budget.yml").unlink()
    lab.restore(scope="files", paths=(str(path), str(lab.files / "budget.yml"))).run()
    assert path.read_text() == "SECRET=1\n" and path.stat().st_mode & 0o777 == 0o640
    assert (lab.files / "budget.yml").read_text() == "limit: 100\n"
    (kept,) = lab.files.glob("app.env.before-*")
    assert kept.read_text() == "SECRET=wrong\n"
    with pytest.raises(EngineRefused, match="is not in the set"):
        lab.restore(scope="files", paths=("/etc/hostname",)).run()


# Versions


def test_a_server_that_is_newer_than_the_tool(scratch: Path, bin_dirs: dict[str, Path]) -> None:
    lab = Lab(scratch / "newer", bin_dirs["wheel18"], "pgbackrest").start()
    try:
        with pytest.raises(EngineRefused, match="newer than what this pgbackrest knows"):
            lab.step("repositories")
    finally:
        lab.stop()


@pytest.mark.parametrize("name", ["wheel16", "wheel18"])
def test_the_servers_own_tools_of_newer_versions(name: str, scratch: Path, bin_dirs: dict[str, Path]) -> None:
    lab = Lab(scratch / f"own-{name}", bin_dirs[name], "basebackup", settings="summarize_wal = on" if name == "wheel18" else "").start()
    try:
        lab.maintain()
        assert lab.last_drill()["result"] == "passed", lab.last_drill()["problems"]
        lab.sql("INSERT INTO spans SELECT 'n' || n, now() FROM generate_series(1, 100) n")
        later = lab.but(now=lambda: time.time() + 25 * 3600, limits=Limits(full_max_age_hours=999, drill_max_age_days=1))
        assert later.plan().kind == ("diff" if name == "wheel18" else "wal"), "what the version can do"
        later.maintain()
        assert later.last_drill()["result"] == "passed", later.last_drill()["problems"]
        assert later.plan().actions == []
    finally:
        lab.stop()


def test_wal_that_is_fetched_through_a_slot(scratch: Path, bin_dirs: dict[str, Path]) -> None:
    lab = Lab(scratch / "receive", bin_dirs["system15"], "basebackup", wal_method="receive").start()
    try:
        lab.maintain()
        assert lab.last_drill()["result"] == "passed", lab.last_drill()["problems"]
        assert lab.plan().actions == []
        with Session(lab.job.connection) as session:
            assert session.value("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'llmct_backups'") == 1
    finally:
        lab.stop()


def test_a_place_for_drills_near_the_data_is_refused(lab: Lab) -> None:
    near = lab.but(scratch_dir=str(lab.server.data / "scratch"), now=lambda: time.time() + 9 * 86400,
                   limits=Limits(full_max_age_hours=9999, diff_max_age_hours=9999))  # fmt: skip
    assert near.step("drill")[-1]["result"] == "failed"
    assert not (lab.server.data / "scratch").exists()
    assert ScratchRefused.__name__ in near.last_drill()["problems"][0]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_disk_that_is_full_in_the_middle_of_a_set(
    engine: str, scratch: Path, bin_dirs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(scratch / f"full-{engine}", bin_dirs["system15"], engine)
    (lab.folder / "repo").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(lab.folder / "repo")], check=True)
    try:
        lab.start().maintain()
        before = [each["set"] for each in good_sets(Surveyor(lab.job).look(verify=False))]
        ballast = lab.folder / "repo" / "ballast"
        # All but half a MiB: the backup begins, and does not end.
        ballast.write_bytes(b"0" * (shutil.disk_usage(ballast.parent).free - 512 * 1024))
        due = lab.but(limits=Limits(full_max_age_hours=0), now=lambda: time.time() + 7200)
        monkeypatch.setattr("ansible.module_utils.backups_work.Backups._refuse_full_disk", lambda *a: None)
        with pytest.raises((ToolError, EngineRefused), match=r"[Nn]o space left"):
            due.step("set")
        assert "repository-full" in lab.findings(verify=False)
        assert [each["set"] for each in good_sets(Surveyor(lab.job).look(verify=False))] == before
        assert lab.sql("SELECT count(*) FROM spans") == ["3000"]
        ballast.unlink()
        due = lab.but(now=lambda: time.time() + 25 * 3600, limits=Limits(full_max_age_hours=999, drill_max_age_days=1))
        due.maintain()
        assert due.last_drill()["result"] == "passed", due.last_drill()["problems"]
    finally:
        lab.stop()
        subprocess.run(["umount", "-l", str(lab.folder / "repo")], check=True)
