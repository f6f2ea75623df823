"""The variables a runbook's checks use, for a person who pastes the page's commands."""

from __future__ import annotations

import shlex
from typing import Any

from runbook import inventory
from runbook.catalog import Catalog, load_yaml
from runbook.errors import BadInput, RunbookError
from runbook.project import Project
from runbook.redact import is_secret_name
from runbook.runs import ask


def exports(values: dict[str, str], secrets: bool) -> str:
    """Given variables, return shell lines that set them; secret ones are comments unless asked for."""
    lines = []
    for name, value in values.items():
        if value == "":
            # The run leaves it out, and the shell's own would lead elsewhere; a password is the shell's.
            lines.extend([] if is_secret_name(name) else [f"unset {name}"])
        elif name == "RUNBOOK_PRELUDE":
            lines.append(value.strip())  # shell functions that stand for programs
        elif name == "RUNBOOK_PATH":
            lines.append(f'export PATH={shlex.quote(value)}:"$PATH"')
        elif is_secret_name(name) and not secrets:
            lines.append(f"# {name} is secret and left out; --secrets prints it.")
        else:
            lines.append(f"export {name}={shlex.quote(value)}")
    return "".join(f"{line}\n" for line in lines)


def check_environment(project: Project, slug: str, inventories: tuple[str, ...], limit: str | None) -> dict[str, str]:
    """Given a runbook and one host, return its checks' environment. Raise BadInput when several hosts fit."""
    runbook = Catalog(project).get(slug)
    paths = inventory.resolve(inventories, project)
    wanted = runbook.environment | runbook.secrets
    if not wanted:
        return {}
    role = project.roles / runbook.role
    playbook = project.playbook(slug)
    hosts = load_yaml(playbook.read_text())[0]["hosts"] if playbook.exists() else "all"
    play = {
        "hosts": hosts,
        "gather_facts": False,
        "vars_files": [str(path) for path in role.glob("vars/main.yml")],
        "tasks": [{"name": "Read the environment of the checks", "ansible.builtin.debug": {"msg": wanted}}],
    }
    defaults: dict[str, Any] = {"__runbook_folder": str(project.roles / "runbook")}
    for path in (project.roles / "runbook" / "defaults" / "main.yml", role / "defaults" / "main.yml"):
        defaults |= (load_yaml(path.read_text()) or {}) if path.exists() else {}
    answer = ask(project, paths, limit, play, defaults)
    if not answer.results:
        error = BadInput if answer.end.code == BadInput.code else RunbookError
        raise error(answer.end.message or "No host answered.", answer.end.remedy or "Check -i and -l.")
    if len(answer.results) > 1:
        fit = ", ".join(sorted(answer.results))
        raise BadInput(f"{len(answer.results)} hosts fit: {fit}.", "Name one of them with -l.")
    (result,) = answer.results.values()
    return {name: _text(value) for name, value in result["msg"].items()}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
