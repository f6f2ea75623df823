"""Tells whether runbooks can be carried out from here; every fault comes with its remedy."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from runbook import inventory
from runbook.catalog import Catalog
from runbook.errors import RunbookError
from runbook.project import Project, state_dir
from runbook.record import Store
from runbook.render import consoles, plain, table
from runbook.runner import private_root
from runbook.runs import ask
from runbook.units import counted

_TESTED_CORE = "2.19"


@dataclass(frozen=True)
class Result:
    name: str
    ok: bool
    detail: str
    remedy: str = ""


def examine(project: Project, inventories: tuple[str, ...], limit: str | None) -> list[Result]:
    """Return what was examined, in the order in which faults should be cured."""
    results = [Result("python", True, f"{platform.python_version()} at {sys.executable}")]
    results += [_package("ansible-core"), _package("ansible-runner"), _playbook_command()]
    looks: dict[str, Callable[[], Result]] = {"runbooks": lambda: _catalog(project), "records": _records}
    for name, look in looks.items():
        try:
            results.append(look())
        except RunbookError as error:
            results.append(Result(name, False, str(error), error.remedy))
    results += [_private(), _terminal()]
    if not inventories:
        return [*results, Result("inventory", True, "not examined; name one with -i to examine its hosts")]
    try:
        return [*results, *_inventory(project, inventories, limit)]
    except RunbookError as error:
        return [*results, Result("inventory", False, str(error), error.remedy)]


def _package(name: str) -> Result:
    try:
        have = version(name)
    except PackageNotFoundError:
        return Result(name, False, "not installed", f"{sys.executable} -m pip install {name}")
    if name == "ansible-core" and not have.startswith(f"{_TESTED_CORE}."):
        return Result(name, False, f"{have}, tested is {_TESTED_CORE}", f"Install {name}~={_TESTED_CORE}.0.")
    return Result(name, True, have)


def _playbook_command() -> Result:
    name = "ansible-playbook"
    beside = Path(sys.executable).parent / name
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(name)
    if found is None:
        return Result(name, False, "not found", f"{sys.executable} -m pip install ansible-core")
    try:
        done = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Result(name, False, f"{found}: {error}", "Reinstall ansible-core.")
    said = "" if done.returncode == 0 else f": {(done.stderr or done.stdout).strip()}"
    remedy = "Set LC_ALL to a UTF-8 locale such as C.UTF-8, or reinstall ansible-core."
    return Result(name, done.returncode == 0, f"{found}{said}", remedy)


def _catalog(project: Project) -> Result:
    runbooks = Catalog(project).runbooks(tools=True)
    missing = [runbook.slug for runbook in runbooks if not project.playbook(runbook.slug).exists()]
    if missing:
        return Result("runbooks", False, f"without a playbook: {', '.join(missing)}", "Restore the project.")
    said = f"{len(runbooks)} in {project.root}"
    return Result("runbooks", bool(runbooks), said, "Name a project with --project.")


def _records() -> Result:
    store = Store(state_dir())
    store.prepare()
    return Result("records", True, f"{store.root} is writable, {counted(len(store.ids()), 'run')}")


def _private() -> Result:
    place = private_root()
    command = ["stat", "-f", "-c", "%T", str(place)]
    try:
        kind = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        kind = "unknown"
    in_memory = kind in ("tmpfs", "ramfs")
    said = f"{place} is {'in memory' if in_memory else 'on a disk'}"
    remedy = "Set XDG_RUNTIME_DIR to a folder on tmpfs; inputs touch a disk for a moment until then."
    return Result("private folder", in_memory, said, remedy)


def _terminal() -> Result:
    if not sys.stderr.isatty():
        return Result("terminal", True, "none: plain lines, and nothing is ever asked")
    return Result("terminal", True, "no colour (NO_COLOR)" if os.environ.get("NO_COLOR") else "colour")


def _inventory(project: Project, names: tuple[str, ...], limit: str | None) -> list[Result]:
    paths = inventory.resolve(names, project)
    play = {"hosts": "all", "gather_facts": False, "tasks": [{"name": "Reach", "ansible.builtin.ping": {}}]}
    answer = ask(project, paths, limit, play, {})
    hosts, shown = sorted(answer.record.hosts), ", ".join(map(str, paths))
    if not hosts:
        return [Result("inventory", False, f"{shown}: {answer.end.message}", answer.end.remedy)]
    results = [Result("inventory", True, f"{shown}: {counted(len(hosts), 'host')}")]
    failed = {failure.host: failure.message for failure in answer.tally.failures} | answer.tally.unreachable
    for host in hosts:
        remedy = f"Try: ansible {host} -i {paths[0]} -m ping -vvv (address, key, user, Python on the host)"
        results.append(Result(f"host {host}", host not in failed, failed.get(host, "answers"), remedy))
    return results


def show_examined(results: list[Result]) -> None:
    rows = []
    for result in results:
        mark = plain("ok", "green") if result.ok else plain("FAIL", "bold red")
        told = plain(result.detail)
        if not result.ok and result.remedy:
            told.append("\n").append_text(plain(result.remedy, "yellow"))
        rows.append((mark, result.name, told))
    consoles()[0].print(table(("", "", ""), rows))
