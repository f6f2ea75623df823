"""The wheel carries the playbooks and roles: installed on its own, the command works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

from .conftest import REPO


def run(*command: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(word) for word in command],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return the bin folder of a scratch environment with the wheel in it."""
    source = tmp_path / "source"
    listed = run("git", "-C", REPO, "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout
    for name in filter(None, listed.split("\0")):
        if (REPO / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, source / name)
    isolated = ["--no-build-isolation"] if find_spec("hatchling") else []
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *isolated, "-w", tmp_path / "dist", source)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    # The dependencies are those of this environment; under test is what the wheel holds.
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    (Path(purelib) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--ignore-installed", wheel)
    return home / "bin"


def test_an_installed_wheel_lists_and_shows_its_runbooks(installed: Path, tmp_path: Path) -> None:
    env = {"RUNBOOK_STATE_DIR": str(tmp_path / "state"), "PYTHONPATH": "", "RUNBOOK_PROJECT": ""}
    listed = run(installed / "runbook", "list", "--json", **env)
    assert '"database-maintenance"' in listed.stdout
    shown = run(installed / "runbook", "show", "database-maintenance", **env)
    assert "## Immediate Actions" in shown.stdout
    where = run(installed / "python", "-c", "import runbook; print(runbook.__file__)", **env).stdout
    assert where.startswith(str(installed.parent))
    project = Path(where.strip()).parent / "project"
    assert (project / "inventories" / "sandbox").is_dir()
    assert (project / "ansible.cfg").is_file()
