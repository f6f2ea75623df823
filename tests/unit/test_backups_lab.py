"""Backups as they are taken, proven and restored, on real servers with both engines; and what happens to each fault."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.backups import Lab


@pytest.fixture(scope="module", params=["pgbackrest", "basebackup"])
def base(request: pytest.FixtureRequest, scratch: Path, bin_dirs: dict[str, Path]) -> Iterator[Lab]:
    lab = Lab(scratch / f"lab-{request.param}", bin_dirs["system15"], request.param).start()
    assert [(each["step"], each["result"]) for each in lab.maintain() if each["result"] != "done"] == []
    yield lab
    lab.stop()


def test_the_first_run_takes_a_set_and_proves_it(base: Lab) -> None:
    drill = base.last_drill()
    assert drill["result"] == "passed", drill["problems"]
    assert drill["rto_seconds"] > 0 and drill["rpo_seconds"] >= 60
    assert {"files", "restore", "recovery", "figures", "amcheck", "components"} <= set(drill["phases"])
    assert any("recovery stopping at restore point" in line for line in drill["proved"])
    assert not list(Path(base.job.scratch_dir).glob("2*")), "nothing of the drill is left"


def test_the_second_run_has_nothing_to_do(base: Lab) -> None:
    assert base.plan().actions == []
    assert shutil.which("restic")
