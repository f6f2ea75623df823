"""The runbooks of a project, read from roles/<role>/meta/runbook.yml."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from runbook.errors import BadInput
from runbook.project import Project

Severity = Literal["info", "warning", "critical"]
Part = Literal["app", "database", "cache", "proxy", "collector", "monitoring", "control"]
Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$")]
EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_SLUG = re.compile(r"^slug:\s*['\"]?([\w-]+)", re.M)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Alert(_Strict):
    name: str
    labels: dict[str, str] = {}
    why: str = ""


class Schedule(_Strict):
    on_calendar: str
    max_age_hours: float


class Escalation(_Strict):
    after: str
    to: str
    how: str
    why: str = ""


class Lesson(_Strict):
    date: str
    run: str = ""
    text: str


class Bounds(_Strict):
    at_most: float | None = None
    at_least: float | None = None
    between: tuple[float, float] | None = None


class Expect(_Strict):
    rc: int | None = None
    matches: str | None = None
    equals: Any = None
    json_path: str | None = Field(None, alias="json")
    number: Bounds | None = None
    empty: bool | None = None

    def words(self) -> str:
        """Return what the output must be, as the end of a sentence."""
        told = []
        if self.rc is not None:
            told.append(f"exit status {self.rc}")
        if self.json_path is not None:
            told.append(f"JSON whose `{self.json_path}` is `{self.equals}`")
        elif self.equals is not None:
            told.append(f"exactly `{self.equals}`")
        if self.matches is not None:
            told.append(f"output that matches `{self.matches}`")
        if self.number is not None:
            low, high = self.number.between or (self.number.at_least, self.number.at_most)
            if low is not None and high is not None:
                told.append(f"a number between {low:g} and {high:g}")
            elif high is not None:
                told.append(f"a number of at most {high:g}")
            elif low is not None:
                told.append(f"a number of at least {low:g}")
        if self.empty is not None:
            told.append("no output" if self.empty else "some output")
        return " and ".join(told) or "exit status 0"


class Otherwise(_Strict):
    finding: str
    severity: Severity
    remedy: str


class Check(_Strict):
    id: Identifier
    part: Part
    section: Literal["immediate", "investigation", "verification"]
    question: str
    command: str
    timeout_seconds: float = 10
    expect: Expect
    shows: str = ""
    otherwise: Otherwise


class Step(_Strict):
    id: Identifier
    kind: Literal["read", "change", "destructive", "manual"]
    does: str
    verify: list[str] = []


class Runbook(_Strict):
    """One runbook as its authors wrote it. `role` is the name of the folder it came from."""

    role: str
    slug: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$")]
    title: str
    category: Literal["incident", "maintenance", "troubleshooting", "tool"]
    severity: Severity = "info"
    response_time: str = ""
    alerts: list[Alert] = []
    schedule: Schedule | None = None
    time_limit_seconds: float = Field(3600, gt=0)
    leases: list[str] = []
    mode: Literal["maintain", "diagnose"] = "maintain"
    overview: str = ""
    symptoms: list[str] = []
    immediate_actions: str = ""
    investigation_steps: str = ""
    resolution_steps: str = ""
    prevention: list[str] = []
    escalation: list[Escalation] = []
    lessons: list[Lesson] = []
    environment: dict[EnvironmentName, str | float | bool | None] = {}
    checks: list[Check] = []
    steps: list[Step] = []

    @model_validator(mode="after")
    def _names_resolve(self) -> Runbook:
        for what, names in (("check", [c.id for c in self.checks]), ("step", [s.id for s in self.steps])):
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"{what} ids occur twice: {', '.join(sorted(twice))}")
        known = {check.id for check in self.checks}
        for step in self.steps:
            if missing := set(step.verify) - known:
                raise ValueError(
                    f"step {step.id} is verified by unknown checks: {', '.join(sorted(missing))}"
                )
        return self

    def section(self, name: str) -> list[Check]:
        return [check for check in self.checks if check.section == name]

    def step(self, name: str) -> Step | None:
        return next((step for step in self.steps if step.id == name), None)


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
        return Runbook.model_validate({**data, "role": path.parent.parent.name})
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc'])) or 'runbook'}: {e['msg']}" for e in error.errors()]
        raise BadInput(f"{path} is not valid: {'; '.join(faults)}", "Correct the file.") from error
    except (yaml.YAMLError, TypeError) as error:
        raise BadInput(f"{path} cannot be read: {error}", "Correct the file.") from error


class Catalog:
    """The project's runbooks by slug; files are parsed when asked for."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._paths: dict[str, Path] = {}
        for path in sorted(project.roles.glob("*/meta/runbook.yml")):
            if found := _SLUG.search(path.read_text()):
                self._paths[found[1]] = path

    @property
    def slugs(self) -> list[str]:
        return sorted(self._paths)

    def get(self, slug: str) -> Runbook:
        """Given a slug, return its runbook. Raise BadInput with the nearest match when there is none."""
        if slug not in self._paths:
            raise BadInput(
                f'There is no runbook "{slug}".{nearest(slug, self.slugs)}', "`runbook list` shows them all."
            )
        return load_runbook(self._paths[slug])

    def runbooks(self, tools: bool = False) -> list[Runbook]:
        """Return all runbooks, those of category tool only when asked for."""
        found = [load_runbook(path) for path in self._paths.values()]
        kept = [runbook for runbook in found if tools or runbook.category != "tool"]
        return sorted(kept, key=lambda runbook: (runbook.category, runbook.slug))
