"""Renders docs/runbooks/ from meta/runbook.yml and meta/argument_specs.yml."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from runbook.catalog import Catalog, Check, Runbook
from runbook.errors import ExitCode
from runbook.inputs import Option, frame_options, load_options
from runbook.project import Project
from runbook.units import duration

_SHAPES = {"read": '(["{}"])', "change": '["{}"]', "destructive": '{{{{"{}"}}}}', "manual": '[/"{}"/]'}
KINDS = {
    "read": "reads only",
    "change": "changes, can be repeated",
    "destructive": "can lose data, asks first",
    "manual": "a person does it",
}


def template(name: str, **filters: Any) -> Template:
    """Return one of the wrapper's templates; what goes into HTML is escaped, all of it."""
    env = Environment(
        loader=PackageLoader("runbook", "templates"),
        autoescape=name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"duration": duration, "cell": cell, **filters}
    return env.get_template(name)


def cell(text: object) -> str:
    """Given text, return it fit for a cell of a Markdown table."""
    return " ".join(str(text).replace("|", "\\|").split())


def fence(text: str, language: str) -> str:
    """Given text, return it as a code block that no backtick inside can end."""
    ticks = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


def flat_options(options: dict[str, Option], prefix: str = "") -> Iterator[tuple[str, Option]]:
    """Yield every input with its nested ones, named `outer[].inner` or `outer.inner`."""
    for name, option in options.items():
        yield prefix + name, option
        if option.options:
            joint = "[]." if option.type == "list" else "."
            yield from flat_options(option.options, f"{prefix}{name}{joint}")


def resolved(text: str, options: dict[str, Option]) -> str:
    """Given text with templates over inputs, return it with their defaults and names in their places."""

    def show(found: re.Match[str]) -> str:
        option = options.get(found[1])
        known = option is not None and option.default is not None
        return f"{option.default} (`{found[1]}`)" if option and known else f"`{found[1]}`"

    return re.sub(r"`?\{\{ *(\w+) *\}\}`?", show, text)


def default_text(option: Option) -> str:
    if option.required or option.default is None:
        return "required" if option.required else ""
    text = option.default if isinstance(option.default, str) else json.dumps(option.default, default=str)
    return f"`{text}`" if text else "empty"


def remedy(runbook: Runbook, check: Check) -> str:
    """Return what to do when a check fails: the step that does it, or the text."""
    step = runbook.step(check.otherwise.remedy)
    if step is None:
        return check.otherwise.remedy
    return f"step `{step.id}`: {step.does[0].lower()}{step.does[1:].rstrip('.')}"


def act_words(act: dict[str, Any]) -> str:
    """Return one act of a remedy in words; commands are shown as they are."""
    if "component" in act:
        return (
            f"The {act['component']} is {act['state']} by whatever manages it; starts count against the restart budget."
        )
    if "restore" in act:
        return f"The `config_files` of the {act['restore']} are those of the last look at which all was well; what is there now is kept."
    return "Space is freed rung by rung, ballast first, until the target is reached."


def _label(text: str) -> str:
    return "<br/>".join(textwrap.wrap(text.replace('"', "#quot;"), 33, break_long_words=False, break_on_hyphens=False))


def flowchart(runbook: Runbook) -> str:
    """Return the run as a Mermaid flowchart: the frame around the steps, and how it can end."""
    lines = ["flowchart TD", '  open(["open: take the lease, carry out the checks"])']
    previous = "open"
    if runbook.mode == "diagnose":
        lines = ["flowchart TD", '  open(["open: carry out all checks at once"])', "  open --> plan"]
        lines.append('  plan{{"plan: rank the findings,<br/>root cause first"}}'.replace("{{", "{").replace("}}", "}"))
        lines += ['  plan -->|"without --fix"| left', "  plan -->|healthy| done"]
        previous = "plan"
    for step in runbook.steps:
        node = f"step_{step.id.replace('-', '_')}"
        lines.append(f"  {previous} --> {node}")
        lines.append(f"  {node}{_SHAPES[step.kind].format(_label(f'{step.id}: {step.does}'))}")
        lines.extend([f"  class {node} {step.kind}"] if step.kind != "read" else [])
        previous = node
    lines += [
        f'  {previous} --> verify{{"checks again: all as expected?"}}',
        '  verify -- yes --> done(["exit 0"])',
        '  verify -- no --> left(["exit 1: findings left open, escalate"])',
        "  classDef change stroke-width:2px",
        "  classDef destructive stroke-width:3px,stroke-dasharray:4",
        "  classDef manual stroke-dasharray:2",
    ]
    return "\n".join(lines)


def page(project: Project, runbook: Runbook, diagram: bool = True) -> str:
    """Given a runbook, return its page in Markdown."""
    options = load_options(project.roles / runbook.role, runbook.entry)
    return _render(
        "page.md.j2",
        book=runbook,
        diagram=flowchart(runbook) if diagram else "",
        options=list(flat_options(options)),
        frame_options=list(flat_options(frame_options(project.roles))),
        exit_codes=[(int(code), code.meaning) for code in ExitCode],
        expected=lambda check: resolved(check.expect.words(), options),
        remedy=lambda check: remedy(runbook, check),
        acts=act_words,
    )


def _render(name: str, **values: Any) -> str:
    text = template(name, default_text=default_text).render(values, fence=fence, kinds=KINDS)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text)).strip() + "\n"


def pages(project: Project) -> dict[Path, str]:
    """Return what every file of docs/runbooks/ should hold."""
    runbooks = Catalog(project).runbooks()
    found = {project.pages / f"{runbook.slug}.md": page(project, runbook) for runbook in runbooks}
    found[project.pages / "index.md"] = _render("index.md.j2", runbooks=runbooks)
    return found


def write_pages(project: Project, check: bool) -> list[Path]:
    """Bring docs/runbooks/ up to date, or with `check` only compare. Return the files that differed."""
    wanted = pages(project)
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    orphans = [path for path in project.pages.glob("*.md") if path not in wanted]
    if not check:
        project.pages.mkdir(parents=True, exist_ok=True)
        for path in stale:
            path.write_text(wanted[path])
        for path in orphans:
            path.unlink()
    return sorted([*stale, *orphans])
