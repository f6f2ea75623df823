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
    if explicit:
        root = Path(explicit).expanduser().resolve()
        if not (root / "playbooks").is_dir():
            raise BadInput(
                f"{root} is no runbook project: it has no folder playbooks/.",
                "Name a checkout with --project or RUNBOOK_PROJECT.",
            )
        return Project(root)
    checkout = PACKAGE.parent.parent
    if (checkout / "playbooks").is_dir():
        return Project(checkout)
    if (PACKAGE / "project" / "playbooks").is_dir():
        return Project(PACKAGE / "project", packaged=True)
    raise BadInput(
        "No playbooks were found beside the wrapper.", "Name a checkout with --project or RUNBOOK_PROJECT."
    )


def state_dir() -> Path:
    """Return the folder records are kept in (not created)."""
    if named := os.environ.get("RUNBOOK_STATE_DIR"):
        return Path(named).expanduser().absolute()
    import platformdirs  # noqa: PLC0415  only needed when the environment does not name the folder

    return platformdirs.user_state_path("runbook")


class Revision:
    """Asks git in the background, so that a run does not wait for it."""

    def __init__(self, root: Path) -> None:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            self._process: subprocess.Popen[str] | None = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError:
            self._process = None

    def read(self) -> tuple[str | None, bool | None]:
        """Return (commit, dirty); (None, None) where the project is no git checkout."""
        if self._process is None:
            return None, None
        try:
            answer = self._process.communicate(timeout=5)[0].strip()
        except subprocess.TimeoutExpired:
            self._process.kill()
            return None, None
        if self._process.returncode or not answer:
            return None, None
        return answer.removesuffix("-dirty"), answer.endswith("-dirty")
