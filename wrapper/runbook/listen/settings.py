"""The listener's configuration. What it names has to exist, or the listener does not start."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import yaml

from runbook import inventory
from runbook.alerts import Alert
from runbook.catalog import Catalog, load_yaml
from runbook.errors import BadInput, RunbookError
from runbook.identify import Router, fits_labels
from runbook.project import Project
from runbook.redact import shared
from runbook.schema import SchemaError, build

MIN_TOKEN = 16  # characters; what is shorter can be tried out


@dataclass(frozen=True)
class Token:
    """Where a bearer token is kept; several are for the days in which one takes over from another."""

    file: str | None = None
    env: str | None = None


@dataclass(frozen=True)
class Tls:
    certificate: str
    key: str


@dataclass(frozen=True)
class Route:
    """What is done about alerts that have all labels of `match`. Without `fix` it only looks."""

    runbook: str
    match: dict[str, str] = field(default_factory=dict)
    name: str = ""
    fix: Literal["change"] | None = None
    limit: str | None = None
    cooldown_minutes: float = 30
    max_runs_per_hour: int = 4
    acts: bool = False  # set by `load`: the runbook acts by itself, so that looking means --check

    def __post_init__(self) -> None:
        if self.cooldown_minutes < 0:
            raise ValueError(f"cooldown_minutes is {self.cooldown_minutes}; it must not be below 0")
        if self.max_runs_per_hour < 1:
            raise ValueError(f"max_runs_per_hour is {self.max_runs_per_hour}; it must be at least 1")


@dataclass(frozen=True)
class Settings:
    inventory: list[str]
    tokens: list[Token]
    routes: list[Route] = field(default_factory=list)
    others: Literal["diagnose", "ignore"] = "diagnose"  # alerts that no route names, but the catalogue knows
    address: str = "127.0.0.1"
    port: int = 9095
    tls: Tls | None = None
    workers: int = 2
    escalate_after_minutes: float | None = 15
    max_body_bytes: int = 2**20
    stop_seconds: float = 60

    def __post_init__(self) -> None:
        for name, low, high in (("port", 0, 65535), ("workers", 1, 32), ("max_body_bytes", 1024, 2**23)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between {low} and {high}")
        if (self.escalate_after_minutes or 0) < 0 or self.stop_seconds < 0:
            raise ValueError("escalate_after_minutes and stop_seconds must not be below 0")
        if not self.tokens:
            raise ValueError("tokens: at least one is needed")


class Routes:
    """Which route an alert takes: the first of the configuration that fits, else what the catalogue says."""

    def __init__(self, settings: Settings, router: Router) -> None:
        self._settings, self._router = settings, router

    def find(self, alert: Alert) -> Route | None:
        """Given an alert, return its route; None where nobody knows what to do, or nobody wants it done."""
        for route in self._settings.routes:
            if fits_labels(route.match, alert.labels):
                return route
        if self._settings.others == "ignore":
            return None
        answer = self._router.alert(alert)
        if not (answer.certain and answer.exists):
            return None
        acts = self._router.own[answer.runbook].mode == "maintain"
        return Route(answer.runbook, name=f"identify:{answer.runbook}", acts=acts)


@dataclass(frozen=True)
class Loaded:
    """A configuration that holds: its routes, with inventories as paths and tokens as they are."""

    settings: Settings
    routes: Routes
    inventory: list[str]
    tokens: list[str]


def load(path: Path, project: Project) -> Loaded:
    """Given a configuration file, return what it says. Raise BadInput when it names what does not exist."""
    settings = _read(path)
    router = Router(project)
    try:
        checked = replace(settings, routes=[_checked(route, router, project) for route in settings.routes])
        names = Counter(route.name for route in checked.routes)
        if twice := [name for name, count in names.items() if count > 1]:
            raise BadInput(f"Two routes have the name {twice[0]}.", "Give each a `name` of its own.")
        paths = [str(found) for found in inventory.resolve(settings.inventory, project)]
        tokens = [_token(token) for token in settings.tokens]
        if settings.tls:
            _try_out(settings.tls)
        _try_policy(project, paths)
    except BadInput as error:
        raise BadInput(f"{path}: {error}", error.remedy) from error
    return Loaded(checked, Routes(checked, router), paths, tokens)


def _read(path: Path) -> Settings:
    try:
        return build(Settings, load_yaml(path.read_text()))
    except OSError as error:
        raise BadInput(
            f"The configuration {path} cannot be read: {error.strerror}.", "Name it with --config."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"The configuration {path} is malformed: {error}", "Correct it.") from error
    except SchemaError as error:
        raise BadInput(f"{path} is not valid: {error}", "docs/alerts.md lists all keys.") from error


def _checked(route: Route, router: Router, project: Project) -> Route:
    runbook = router.own.get(route.runbook) or Catalog(project).get(route.runbook)
    if runbook.category == "tool":
        raise BadInput(f"The runbook {runbook.slug} is a tool; no alert calls for it.", "Name another one.")
    if not project.playbook(runbook.slug).exists():
        raise BadInput(f"The runbook {runbook.slug} has no playbook.", "Name another one.")
    if not route.match:
        raise BadInput(f"The route to {runbook.slug} matches every alert.", "Say which labels it is for, in `match`.")
    return replace(route, name=route.name or runbook.slug, acts=runbook.mode == "maintain")


def _try_out(tls: Tls) -> None:
    import ssl  # noqa: PLC0415  slow to import, and not needed without

    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(tls.certificate, tls.key)
    except OSError as error:
        said = f"The certificate {tls.certificate} and key {tls.key} cannot be used: {error.strerror or error}"
        raise BadInput(said, "Both have to be PEM files that belong together.") from error


def _try_policy(project: Project, paths: list[str]) -> None:
    """A listener whose alerts nobody could be told of must not be found out at night."""
    from runbook.escalation import read_policy  # noqa: PLC0415  only a whole configuration is worth asking Ansible

    try:
        read_policy(project, [Path(path) for path in paths], None)
    except RunbookError as error:
        raise BadInput(str(error), error.remedy or "Correct the inventory.") from error


def _token(token: Token) -> str:
    if (token.file is None) == (token.env is None):
        raise BadInput("A token is told by either `file` or `env`.", "Give one of the two.")
    where = f"the file {token.file}" if token.file else f"the variable {token.env}"
    try:
        found = Path(token.file).expanduser().read_text().strip() if token.file else os.environ.get(token.env or "", "")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"No token can be read from {where}: {error}", "Correct its name or permissions.") from error
    if len(found) < MIN_TOKEN or not found.isascii() or not found.isprintable():
        said = f"The token in {where} has {len(found)} characters or some that no header can hold"
        raise BadInput(f"{said}; {MIN_TOKEN} printable ASCII ones are the least.", "Make one: openssl rand -hex 32")
    shared().learn(found)
    return found
