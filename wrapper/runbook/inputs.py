"""A runbook's inputs, from meta/argument_specs.yml: described, and validated before anything starts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from runbook.catalog import load_yaml, nearest
from runbook.errors import BadInput
from runbook.redact import MASK, is_secret_name
from runbook.schema import SchemaError, build

Kind = Literal["str", "int", "float", "bool", "list", "dict", "path", "raw", "bits", "bytes", "json", "jsonarg"]
# A user who could set these could sign with another name, or break another run's lease.
SET_BY_RUN = ("runbook_run_id", "runbook_owner", "runbook_reason", "runbook_ticket", "runbook_dead_runs",
              "runbook_fix", "runbook_confirm", "runbook_resume_from")  # fmt: skip
_TRUE, _FALSE = ("true", "yes", "on", "1", "y", "t"), ("false", "no", "off", "0", "n", "f")
_WORDS = dict.fromkeys(_TRUE, True) | dict.fromkeys(_FALSE, False)


@dataclass(frozen=True)
class Option:
    """One input as Ansible's argument spec describes it."""

    type: Kind = "str"
    default: Any = None
    description: str | list[str] = ""
    choices: list[Any] | None = None
    elements: Kind | None = None
    required: bool = False
    options: dict[str, Option] | None = None
    no_log: bool = False

    @property
    def text(self) -> str:
        parts = [self.description] if isinstance(self.description, str) else self.description
        return " ".join(" ".join(parts).split())

    @property
    def kind(self) -> str:
        return f"{self.type} of {self.elements}" if self.elements else self.type


def load_options(role: Path, entry: str = "main") -> dict[str, Option]:
    """Given a role's folder and entry point, return its inputs by name; empty where it describes none."""
    path = role / "meta" / "argument_specs.yml"
    if not path.exists():
        return {}
    try:
        specs = load_yaml(path.read_text())["argument_specs"]
        found = (specs.get(entry) or {}).get("options") or {}
        return {name: build(Option, option, lenient=True) for name, option in found.items()}
    except (yaml.YAMLError, SchemaError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} is not a valid argument spec: {error}", "Correct the file.") from error


def frame_options(roles: Path) -> dict[str, Option]:
    """Given the folder of roles, return the inputs every run takes and a user may set."""
    fixed = (*SET_BY_RUN, "runbook_slug", "runbook_role", "runbook_entry")
    return {name: option for name, option in load_options(roles / "runbook").items() if name not in fixed}


def is_secret(name: str, option: Option | None) -> bool:
    return is_secret_name(name) or bool(option and option.no_log)


def parse_inputs(items: tuple[str, ...], options: dict[str, Option]) -> dict[str, Any]:
    """Given `name=value` and `@file` items, return typed values. Raise BadInput with all faults."""
    raw: dict[str, Any] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if item.startswith("@"):
            raw |= _from_file(Path(item[1:]).expanduser())
        elif equals and name:
            raw[name.strip()] = value
        else:
            raise BadInput(f'--set "{item}" is not of the form name=value.', "Or name a file: --set @file.")
    values, faults = {}, []
    for name, value in raw.items():
        option = options.get(name)
        try:
            if option is None:
                raise ValueError(f"there is no such input.{nearest(name, options)}")
            values[name] = convert(value, option)
        except ValueError as error:
            faults.append(f"{name}: {'not valid' if is_secret(name, option) else error}")
    if faults:
        raise BadInput("Wrong input. " + "; ".join(faults), "`runbook run SLUG --help` lists the inputs.")
    return values


def _from_file(path: Path) -> dict[str, Any]:
    try:
        data = load_yaml(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise BadInput(f"The input file {path} cannot be read: {error}", "Name a YAML file.") from error
    if not isinstance(data, dict):
        raise BadInput(f"The input file {path} is no mapping of names to values.", "Write `name: value`.")
    return data


def convert(value: Any, option: Option) -> Any:
    """Given a value, return it with the option's type. Raise ValueError that shows the value."""
    converted = _as_type(value, option.type)
    if converted is None:
        return None
    if option.type == "list" and (option.elements or option.options):
        element = Option(type="dict" if option.options else option.elements or "raw", options=option.options)
        converted = [convert(item, element) for item in converted]
    elif option.options:
        converted = _as_options(converted, option.options)
    for item in converted if isinstance(converted, list) else [converted]:
        if option.choices and item not in option.choices:
            known = [str(choice) for choice in option.choices]
            raise ValueError(f'"{item}" is none of: {", ".join(known)}.{nearest(str(item), known)}')
    return converted


def _as_options(item: dict[str, Any], options: dict[str, Option]) -> dict[str, Any]:
    """Names and types; Ansible's own validation of the role's arguments says the rest."""
    if unknown := [name for name in item if name not in options]:
        raise ValueError(f'"{unknown[0]}" is unknown here.{nearest(str(unknown[0]), options)}')
    if missing := [name for name, option in options.items() if option.required and name not in item]:
        raise ValueError(f"{', '.join(missing)} is missing in {json.dumps(item, default=str)}")
    return {name: convert(part, options[name]) for name, part in item.items()}


def _as_type(value: Any, kind: Kind) -> Any:
    if value is None or (value in ("null", "~") and kind != "str"):
        return None
    if kind == "bool":
        if str(value).lower() in _WORDS:
            return _WORDS[str(value).lower()]
        raise ValueError(f'"{value}" is neither true nor false')
    if kind in ("int", "float"):
        try:
            return int(str(value)) if kind == "int" else float(value)
        except (TypeError, ValueError):
            raise ValueError(f'"{value}" is no {"whole " if kind == "int" else ""}number') from None
    if kind in ("list", "dict"):
        return _as_structure(value, list if kind == "list" else dict)
    return value if kind in ("raw", "json", "jsonarg") else str(value)


def _as_structure(value: Any, wanted: type) -> Any:
    parsed = value
    if isinstance(value, str):
        try:
            parsed = load_yaml(value)
        except yaml.YAMLError as error:
            raise ValueError(f'"{value}" is neither YAML nor JSON: {str(error).splitlines()[0]}') from error
    if wanted is list and isinstance(parsed, str):
        return [part.strip() for part in parsed.split(",")]
    if not isinstance(parsed, wanted):
        word = "list" if wanted is list else "mapping"
        raise ValueError(f'"{value}" is no {word}; write it as YAML or JSON')
    return parsed


def masked(values: dict[str, Any], options: dict[str, Option]) -> dict[str, Any]:
    """Given inputs, return them fit for a record."""
    return {name: MASK if is_secret(name, options.get(name)) else value for name, value in values.items()}
