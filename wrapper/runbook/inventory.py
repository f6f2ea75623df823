"""Looks at the inventory before Ansible does: does it exist, is it YAML, which secrets are in it?"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from runbook.errors import BadInput
from runbook.project import Project
from runbook.redact import shared

_YAML = {".yml", ".yaml", ".json"}
_ASSIGNMENT = re.compile(r"([A-Za-z_][\w.-]*)\s*[=:]\s*(\"[^\"]*\"|'[^']*'|[^\s#]+)")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads Ansible's own tags (!vault, !unsafe) as plain data."""


def _plain(loader: Any, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return None if suffix.startswith("vault") else node.value
    return None


_Loader.add_multi_constructor("!", _plain)


def resolve(names: Iterable[str], project: Project) -> list[Path]:
    """Given -i values, return absolute paths. Raise BadInput when one is missing, unreadable or malformed.

    A value is a path, or the name of one of the project's own inventories.
    """
    own = project.root / "inventories"
    shipped = ", ".join(sorted(path.name for path in own.glob("*"))) or "none"
    found = []
    for name in names:
        places = [Path(name).expanduser(), project.root / name, own / name]
        path = next((place.absolute() for place in places if place.exists()), None)
        if path is None:
            where = f'There is no inventory "{name}" in {Path.cwd()} or {own}.'
            raise BadInput(where, f"Name a file or folder with -i, or one of this project's: {shipped}.")
        if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
            raise BadInput(f"The inventory {path} cannot be read.", "Change its permissions.")
        found.append(path)
    if not found:
        said = "No inventory was named, so there is nothing to run on."
        raise BadInput(said, f"Add -i INVENTORY; this project has: {shipped}.")
    inspect(found)
    return found


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """Given inventory paths, yield the files Ansible will read from them and from the folders beside them."""
    for path in paths:
        beside = [path.parent / name for name in ("group_vars", "host_vars")]
        if path.is_file():
            yield path
        for folder in [path] if path.is_dir() else beside:
            yield from (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.startswith("."))


def inspect(paths: Iterable[Path]) -> None:
    """Given inventory paths, teach the redactor their secrets. Raise BadInput when YAML is malformed."""
    for path in files(paths):
        if os.access(path, os.X_OK) and path.suffix not in _YAML:
            continue  # a dynamic inventory; only Ansible may run it
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError):
            continue  # Ansible will say more about it than we could
        if text.startswith("$ANSIBLE_VAULT"):
            continue
        if path.suffix in _YAML or "_vars" in path.parent.name:
            _learn_yaml(path, text)
        for name, value in _ASSIGNMENT.findall(text):
            shared().learn_named({name: value.strip("\"'")})


def _learn_yaml(path: Path, text: str) -> None:
    try:
        pending = [yaml.load(text, Loader=_Loader)]  # noqa: S506  derived from a safe loader
    except yaml.YAMLError as error:
        raise BadInput(f"The inventory file {path} is malformed: {error}", "Correct it.") from error
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            shared().learn_named(item)
        if isinstance(item, dict | list):
            pending.extend(item.values() if isinstance(item, dict) else item)
