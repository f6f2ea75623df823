"""What was lost comes back, whatever happens meanwhile; what cannot work is refused before anything is touched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.backups_engine import EngineRefused
from ansible.module_utils.backups_planner import Limits
from ansible.module_utils.backups_scratch import TargetNotReached
from ansible.module_utils.backups_survey import Surveyor
from support.backups import DATABASE, Lab
from support.postgres import wait_until

ENGINES = ["pgbackrest", "basebackup"]


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
