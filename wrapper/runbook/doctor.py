"""Tells whether runbooks can be carried out from here; every fault comes with its remedy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from runbook import inventory
from runbook.catalog import Catalog
from runbook.errors import RunbookError
from runbook.events import Collector
from runbook.project import Project, state_dir
from runbook.record import Record, Source, Store, new_id
from runbook.redact import shared
from runbook.render import consoles, plain
from runbook.runner import Job, private_root
from runbook.runs import ask

_TESTED_CORE = (2, 19)


@dataclass(frozen=True)
class Result:
    name: str
    ok: bool
    detail: str
    remedy: str = ""


def examine(project: Project, inventories: tuple[str, ...], limit: str | None) -> list[Result]:
    """Return what was examined, in the order in which faults should be cured."""
    results = [_python(), _package("ansible-core"), _package("ansible-runner"), _playbook_command()]
    results += [_catalog(project), _state(), _private(), _terminal()]
    if inventories:
        results += _inventory(project, inventories, limit)
    else:
        results.append(
            Result("inventory", True, "not examined; name one with -i to have its hosts examined too")
        )
    return results


def _python() -> Result:
    have = ".".join(map(str, sys.version_info[:3]))
    return Result(
        "python", sys.version_info >= (3, 11), f"{have} at {sys.executable}", "Install Python 3.11 or newer."
    )


def _package(name: str) -> Result:
    try:
        have = version(name)
    except PackageNotFoundError:
        return Result(name, False, "not installed", f"{sys.executable} -m pip install {name}")
    if name == "ansible-core" and tuple(map(int, have.split(".")[:2])) != _TESTED_CORE:
        wanted = ".".join(map(str, _TESTED_CORE))
        return Result(name, False, f"{have}, tested is {wanted}", f"Install {name}~={wanted}.0.")
    return Result(name, True, have)


def _playbook_command() -> Result:
    beside = Path(sys.executable).parent / "ansible-playbook"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("ansible-playbook")
    if found is None:
        return Result("ansible-playbook", False, "not found", f"{sys.executable} -m pip install ansible-core")
    try:
        done = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Result("ansible-playbook", False, f"{found}: {error}", "Reinstall ansible-core.")
    said = (done.stdout or done.stderr).strip().splitlines()
    remedy = "Set LC_ALL to a UTF-8 locale such as C.UTF-8, or reinstall ansible-core."
    return Result(
        "ansible-playbook", done.returncode == 0, f"{found}: {said[0] if said else 'silent'}", remedy
    )


def _catalog(project: Project) -> Result:
    try:
        runbooks = Catalog(project).runbooks(tools=True)
    except RunbookError as error:
        return Result("runbooks", False, str(error), error.remedy)
    missing = [runbook.slug for runbook in runbooks if not project.playbook(runbook.slug).exists()]
    if missing:
        return Result("runbooks", False, f"without a playbook: {', '.join(missing)}", "Restore the project.")
    return Result(
        "runbooks", bool(runbooks), f"{len(runbooks)} in {project.root}", "Name a project with --project."
    )


def _state() -> Result:
    root = state_dir()
    try:
        Store(root).prepare()
    except RunbookError as error:
        return Result("records", False, str(error), error.remedy)
    return Result("records", True, f"{root} is writable, {len(Store(root).ids())} runs")


def _private() -> Result:
    place = private_root()
    try:
        kind = subprocess.run(
            ["stat", "-f", "-c", "%T", str(place)], capture_output=True, text=True, check=False
        )
        in_memory = kind.stdout.strip() in ("tmpfs", "ramfs")
    except OSError:
        in_memory = False
    remedy = "Set XDG_RUNTIME_DIR to a folder on tmpfs; inputs touch a disk for a moment until then."
    return Result(
        "private folder", in_memory, f"{place} is {'in memory' if in_memory else 'on a disk'}", remedy
    )


def _terminal() -> Result:
    color = "no colour (NO_COLOR)" if os.environ.get("NO_COLOR") else "colour"
    kind = f"a terminal, {color}" if sys.stderr.isatty() else "none: plain lines, and nothing is ever asked"
    return Result("terminal", True, kind)


def _inventory(project: Project, names: tuple[str, ...], limit: str | None) -> list[Result]:
    try:
        paths = inventory.resolve(names, project)
        inventory.inspect(paths, shared())
    except RunbookError as error:
        return [Result("inventory", False, str(error), error.remedy)]
    play = {"hosts": "all", "gather_facts": False, "tasks": [{"name": "Reach", "ansible.builtin.ping": {}}]}
    collector = Collector(Record(runbook="doctor", title="Doctor", project=Source(root=str(project.root))))
    job = Job(new_id(), project, Path("play.json"), paths, limit=limit)
    for event in ask(project, job, files={"play.json": [play]}):
        collector.feed(shared().data(event))
    hosts, tally = collector.record.hosts, collector.tally
    shown = ", ".join(map(str, paths))
    if not hosts:
        said = [line for line in tally.errors if "ERROR" in line] or tally.errors[-2:] or ["no hosts"]
        return [
            Result("inventory", False, f"{shown}: {' '.join(said)}", "Correct the inventory, or check -l.")
        ]
    results = [Result("inventory", True, f"{shown}: {len(hosts)} host{'s' if len(hosts) != 1 else ''}")]
    failed = {failure.host: failure.message for failure in tally.failures} | tally.unreachable
    for host in sorted(hosts):
        remedy = f"Try: ansible {host} -i {paths[0]} -m ping -vvv (address, key, user, Python on the host)"
        results.append(Result(f"host {host}", host not in failed, failed.get(host, "answers"), remedy))
    return results


def show_results(results: list[Result]) -> None:
    out, _ = consoles()
    for result in results:
        mark = plain("ok  ", "green") if result.ok else plain("FAIL", "bold red")
        out.print(mark, plain(f"{result.name:<18}"), plain(result.detail), soft_wrap=True)
        if not result.ok and result.remedy:
            out.print(plain(f"     {'':<18}{result.remedy}", "yellow"), soft_wrap=True)
