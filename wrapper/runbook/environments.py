"""The variables a runbook's checks use, for a person who pastes the page's commands."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from runbook import inventory
from runbook.catalog import Catalog, load_yaml
from runbook.errors import BadInput, RunbookError
from runbook.events import Collector, verdict
from runbook.project import Project
from runbook.record import Record, Source, new_id
from runbook.redact import is_secret_name, shared
from runbook.runner import Job
from runbook.runs import ask

_TASK = "env | Read the environment of the checks"


def exports(values: dict[str, str], secrets: bool) -> str:
    """Given variables, return shell lines that set them; secret ones are comments unless asked for."""
    lines = []
    for name, value in values.items():
        if value == "":
            # The run leaves it out, and the shell's own would lead elsewhere; a password is the shell's.
            lines.extend([] if is_secret_name(name) else [f"unset {name}"])
        elif name == "RUNBOOK_PATH":
            lines.append(f'export PATH={shlex.quote(value)}:"$PATH"')
        elif is_secret_name(name) and not secrets:
            lines.append(f"# {name} is secret and left out; --secrets prints it.")
        else:
            lines.append(f"export {name}={shlex.quote(value)}")
    return "".join(f"{line}\n" for line in lines)


def check_environment(
    project: Project, slug: str, inventories: tuple[str, ...], limit: str | None
) -> dict[str, str]:
    """Given a runbook and one host, return its checks' environment. Raise BadInput when several hosts fit."""
    runbook = Catalog(project).get(slug)
    paths = inventory.resolve(inventories, project)
    inventory.inspect(paths, shared())
    wanted = runbook.environment | runbook.secrets
    if not wanted:
        return {}
    play = {
        "name": "Environment of the checks",
        "hosts": _hosts(project.playbook(slug)),
        "gather_facts": False,
        "vars_files": [str(path) for path in (project.roles / runbook.role / "vars").glob("main.yml")],
        "tasks": [{"name": _TASK, "ansible.builtin.debug": {"msg": wanted}}],
    }
    job = Job(new_id(), project, Path("play.json"), paths, limit=limit)
    found = _ask(project, job, play, _defaults(project, runbook.role))
    if len(found) > 1:
        raise BadInput(f"{len(found)} hosts fit: {', '.join(sorted(found))}.", "Name one of them with -l.")
    (values,) = found.values()
    return {name: _text(value) for name, value in values.items()}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _hosts(playbook: Path) -> str:
    plays = load_yaml(playbook.read_text()) if playbook.exists() else None
    return str(plays[0].get("hosts", "all")) if plays else "all"


def _defaults(project: Project, role: str) -> dict[str, Any]:
    """Return the role's defaults as an inventory; read first, it ranks below everything else."""
    values: dict[str, Any] = {}
    for name in ("runbook", role):
        path = project.roles / name / "defaults" / "main.yml"
        if path.exists():
            values |= load_yaml(path.read_text()) or {}
    return {"all": {"vars": values}}


def _ask(
    project: Project, job: Job, play: dict[str, Any], defaults: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    record = Record(runbook="env", title="Environment", project=Source(root=str(project.root)))
    collector, found = Collector(record), {}
    rc = None
    for event in ask(project, job, files={"play.json": [play], "defaults.json": defaults}):
        collector.feed(event)
        data = event.get("event_data") or {}
        if event.get("event") == "runner_on_ok" and data.get("task") == _TASK:
            found[str(data["host"])] = json.loads(json.dumps(data["res"]["msg"]))
        if event.get("event") == "playbook_on_stats":
            rc = 0 if not collector.tally.failures else 2
    if not found:
        end = verdict(record, collector.tally, rc, None)
        error = BadInput if end.code == BadInput.code else RunbookError
        raise error(end.message or "No host answered.", end.remedy or "Check -i and -l.")
    return found
