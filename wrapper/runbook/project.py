"""Where the playbooks are: a checkout, the wheel's own copy, or a folder the caller names."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from runbook.errors import BadInput

PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Project:
    root: Path
    packaged: bool = False

    def playbook(self, slug: str) -> Path:
        return self.root / "playbooks" / f"{slug}.yml"

    @property
    def roles(self) -> Path:
        return self.root / "roles"

    @property
    def pages(self) -> Path:
        return self.root / "docs" / "runbooks"


def find_project(explicit: str | None = None) -> Project:
    """Given the value of --project, return the project to use. Raise BadInput when it holds no playbooks."""
    places = [PACKAGE.parent.parent, PACKAGE / "project"]
    if explicit:
        places = [Path(explicit).expanduser().resolve()]
    for root in places:
        if (root / "playbooks").is_dir():
            return Project(root, packaged=root == PACKAGE / "project")
    raise BadInput(
        f"There is no runbook project in {places[0]}: it has no folder playbooks/.",
        "Name a checkout with --project or RUNBOOK_PROJECT.",
    )


def state_dir() -> Path:
    """Return the folder records are kept in (not created)."""
    if named := os.environ.get("RUNBOOK_STATE_DIR"):
        return Path(named).expanduser().absolute()
    import platformdirs  # noqa: PLC0415  only needed when the environment does not name the folder

    return platformdirs.user_state_path("runbook")


def revision(root: Path) -> tuple[str | None, bool | None]:
    """Return (commit, dirty); (None, None) where the project is no git checkout."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None, None
    said = done.stdout.strip()
    return said.removesuffix("-dirty"), said.endswith("-dirty")
