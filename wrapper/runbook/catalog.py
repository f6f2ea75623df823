"""The runbooks of a project, read from roles/<role>/meta/runbook.yml, and runbook_<entry>.yml where a role has more."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from runbook.errors import BadInput
from runbook.project import Project
from runbook.schema import SchemaError, build

Severity = Literal["info", "warning", "critical"]
Part = Literal["host", "app", "database", "cache", "proxy", "collector", "monitoring", "control"]
_ID, _SLUG, _VARIABLE = "[a-z][a-z0-9_-]*", "[a-z][a-z0-9-]*", "[A-Za-z_][A-Za-z0-9_]*"
_SLUG_LINE = re.compile(r"^slug:\s*['\"]?([\w-]+)", re.M)


@dataclass(frozen=True)
class Alert:
    name: str
    labels: dict[str, str] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True)
class Schedule:
    on_calendar: str
    max_age_hours: float


@dataclass(frozen=True)
class Escalation:
    after: str
    to: str
    how: str
    why: str = ""


@dataclass(frozen=True)
class Lesson:
    date: str
    text: str
    run: str = ""


@dataclass(frozen=True)
class Bounds:
    """Limits are numbers, or templates over the role's inputs."""

    at_most: float | str | None = None
    at_least: float | str | None = None
    between: list[float | str] | None = None

    def words(self) -> str:
        low, high = self.between or (self.at_least, self.at_most)
        below, above = (f"{x:g}" if isinstance(x, float) else str(x) for x in (low, high))
        if low is not None and high is not None:
            return f"a number between {below} and {above}"
        return f"a number of at most {above}" if high is not None else f"a number of at least {below}"


@dataclass(frozen=True)
class Expect:
    rc: int | None = None
    matches: str | None = None
    equals: Any = None
    json: str | None = None
    number: Bounds | None = None
    empty: bool | None = None

    def words(self) -> str:
        """Return what the output must be, as the end of a sentence."""
        told = [f"exit status {self.rc}"] if self.rc is not None else []
        if self.json is not None:
            told.append(f"JSON whose `{self.json}` is `{self.equals}`")
        elif self.equals is not None:
            told.append(f"exactly `{self.equals}`")
        if self.matches is not None:
            told.append(f"output that matches `{self.matches}`")
        if self.number is not None:
            told.append(self.number.words())
        if self.empty is not None:
            told.append("no output" if self.empty else "some output")
        return " and ".join(told) or "exit status 0"


@dataclass(frozen=True)
class Otherwise:
    finding: str
    severity: Severity
    remedy: str


@dataclass(frozen=True)
class Check:
    id: str
    part: Part
    section: Literal["immediate", "investigation", "verification"]
    question: str
    command: str
    expect: Expect
    otherwise: Otherwise
    needs: list[str] = field(default_factory=list)
    timeout_seconds: float = 10
    user: str | None = None
    shows: str = ""
    follows: list[str] = field(default_factory=list)
    writes: bool = False


@dataclass(frozen=True)
class Step:
    id: str
    kind: Literal["read", "change", "destructive", "manual"]
    does: str
    verify: list[str] = field(default_factory=list)
    # What a remedy has beside that; see roles/runbook/module_utils/runbook_remedies.py.
    part: Part | None = None
    cures: list[str] = field(default_factory=list)
    unless: list[str] = field(default_factory=list)
    gates: list[str] = field(default_factory=list)
    targets: str = ""
    acts: list[dict[str, Any]] = field(default_factory=list)
    revert: list[dict[str, Any]] = field(default_factory=list)
    evidence: dict[str, str] = field(default_factory=dict)
    user: str | None = None
    within_seconds: float | str = 30


@dataclass(frozen=True)
class Runbook:
    """One runbook as its authors wrote it. `role` is the name of the folder it came from, `entry` the role's entry point."""

    role: str
    slug: str
    title: str
    category: Literal["incident", "maintenance", "troubleshooting", "tool"]
    severity: Severity = "info"
    response_time: str = ""
    alerts: list[Alert] = field(default_factory=list)
    schedule: Schedule | None = None
    time_limit_seconds: float = 3600
    leases: list[str] = field(default_factory=list)
    mode: Literal["maintain", "diagnose"] = "maintain"
    overview: str = ""
    symptoms: list[str] = field(default_factory=list)
    immediate_actions: str = ""
    investigation_steps: str = ""
    resolution_steps: str = ""
    prevention: list[str] = field(default_factory=list)
    escalation: list[Escalation] = field(default_factory=list)
    lessons: list[Lesson] = field(default_factory=list)
    environment: dict[str, str | float | bool | None] = field(default_factory=dict)
    secrets: dict[str, str | float | bool | None] = field(default_factory=dict)
    os_user: str | None = None
    checks: list[Check] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    entry: str = "main"

    def __post_init__(self) -> None:
        _must_match(_SLUG, self.slug)
        _must_match(_VARIABLE, *self.environment, *self.secrets)
        if self.time_limit_seconds <= 0:
            raise ValueError(f"time_limit_seconds is {self.time_limit_seconds}; it must be above 0")
        checks, steps = [check.id for check in self.checks], [step.id for step in self.steps]
        for what, names in (("check", checks), ("step", steps)):
            _must_match(_ID, *names)
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"{what} ids occur twice: {', '.join(sorted(twice))}")
        wanted = [(f"step {step.id}", step.verify + step.cures + step.unless + step.gates) for step in self.steps]
        wanted += [(f"check {check.id}", check.follows) for check in self.checks]
        wanted += [(f"check {check.id}", check.needs) for check in self.checks]
        for who, names in wanted:
            if missing := set(names) - set(checks):
                raise ValueError(f"{who} names checks that do not exist: {', '.join(sorted(missing))}")

    def section(self, name: str) -> list[Check]:
        return [check for check in self.checks if check.section == name]

    def step(self, name: str) -> Step | None:
        return next((step for step in self.steps if step.id == name), None)


def _must_match(pattern: str, *names: str) -> None:
    for name in names:
        if not re.fullmatch(pattern, name):
            raise ValueError(f"the name {name!r} is not of the form {pattern}")


def load_yaml(text: str) -> Any:
    """Given YAML, return its data; the C parser where there is one, it is ten times as fast."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  both are safe loaders


def nearest(word: str, known: Iterable[str]) -> str:
    """Given an unknown word, return ` Did you mean "x"?` or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f' Did you mean "{close[0]}"?' if close else ""


def load_runbook(path: Path) -> Runbook:
    """Given a meta/runbook.yml, return the runbook. Raise BadInput that names file, place and fault."""
    try:
        data = load_yaml(path.read_text())
        entry = path.stem.removeprefix("runbook").removeprefix("_") or "main"
        return build(Runbook, {**data, "role": path.parent.parent.name, "entry": entry})
    except SchemaError as error:
        raise BadInput(f"{path} is not valid: {error}", "Correct the file.") from error
    except (yaml.YAMLError, TypeError) as error:
        raise BadInput(f"{path} cannot be read: {error}", "Correct the file.") from error


class Catalog:
    """The project's runbooks by slug; files are parsed when asked for."""

    def __init__(self, project: Project) -> None:
        self._paths: dict[str, Path] = {}
        for path in sorted(project.roles.glob("*/meta/runbook*.yml")):
            if found := _SLUG_LINE.search(path.read_text()):
                self._paths[found[1]] = path

    @property
    def slugs(self) -> list[str]:
        return sorted(self._paths)

    def path(self, slug: str) -> Path:
        """Given the slug of a runbook, return its file."""
        return self._paths[slug]

    def get(self, slug: str) -> Runbook:
        """Given a slug, return its runbook. Raise BadInput with the nearest match when there is none."""
        if slug not in self._paths:
            guess = nearest(slug, self.slugs)
            raise BadInput(f'There is no runbook "{slug}".{guess}', "`runbook list` shows them all.")
        return load_runbook(self._paths[slug])

    def runbooks(self, tools: bool = False) -> list[Runbook]:
        """Return all runbooks, those of category tool only when asked for."""
        found = [load_runbook(path) for path in self._paths.values()]
        kept = [runbook for runbook in found if tools or runbook.category != "tool"]
        return sorted(kept, key=lambda runbook: (runbook.category, runbook.slug))
