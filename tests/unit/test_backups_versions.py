"""Servers of other versions, WAL that is fetched, and a disk that fills while a set is taken."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest
from ansible.module_utils.backups_engine import EngineRefused
from ansible.module_utils.backups_planner import Limits, good_sets
from ansible.module_utils.backups_survey import Surveyor
from ansible.module_utils.runbook_psql import Session
from ansible.module_utils.runbook_tools import ToolError
from support.backups import Lab

ENGINES = ["pgbackrest", "basebackup"]


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
