"""The repository as data, for the policy tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if (path / "tasks").is_dir())
RUNBOOK_ROLES = [path for path in ROLES if (path / "meta" / "runbook.yml").exists()]
# One per runbook: a role may have more than one, each with an entry point of its own.
RUNBOOK_FILES = sorted(path for role in ROLES for path in (role / "meta").glob("runbook*.yml"))


class Loader(yaml.CSafeLoader):
    """Reads Ansible's own tags as the text they stand before."""


Loader.add_multi_constructor("!", lambda loader, tag, node: loader.construct_scalar(node))


@cache
def tracked() -> list[Path]:
    """Return all files of the repository that are tracked or about to be."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file())


@cache
def load(path: Path) -> Any:
    return yaml.load(path.read_text(), Loader=Loader)  # noqa: S506  derived from a safe loader


def runbook(path: Path) -> dict[str, Any]:
    """Return the data of a runbook, given its file or the folder of its role."""
    data: dict[str, Any] = load(path if path.suffix else path / "meta" / "runbook.yml")
    return data


def entry(path: Path) -> str:
    """Return the entry point of the role that a runbook's file belongs to."""
    return path.stem.removeprefix("runbook").removeprefix("_") or "main"


def tasks(items: list[dict[str, Any]] | None) -> Iterator[dict[str, Any]]:
    """Yield every task, those in blocks too, in the order in which they are written."""
    for item in items or []:
        yield item
        for part in ("block", "rescue", "always"):
            yield from tasks(item.get(part))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))
