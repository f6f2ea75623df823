# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""New configuration tried out beside the old one: what logrotate would say to it, before any of it is put in place."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.logs_logrotate import Problem, debug_run, lint, messages, parse
from ansible.module_utils.runbook_tools import Tools

# What logrotate takes without a word, and what is no rotation as anybody means it.
SILENT = ("size-and-time", "same-name", "no-compressor", "protected-path", "container-log", "rotate-0")


@dataclass(frozen=True)
class Change:
    """A configuration as it is going to be: `new` texts by file name, and names of files that go."""

    config: str
    config_dir: str
    new: Mapping[str, str]
    gone: frozenset[str]


def refused(change: Change, tools: Tools) -> dict[str, list[str]]:
    """Return what is wrong with the new files, by their name: each with its line and the words of that line."""
    problems: list[Problem] = []
    if tools.has("logrotate"):
        with scratch() as folder:
            main = _staged(folder, change)
            said = debug_run(tools, tools.path("logrotate"), str(main), str(folder / "state"))
            problems += messages(said, [str(folder / "conf.d" / name) for name in change.new])
    for name, text in change.new.items():
        blocks, _, _ = parse(text, name)
        problems += [p for block in blocks for p in lint(block, "hourly") if p.kind in SILENT]
    told: dict[str, list[str]] = {}
    for problem in problems:
        name = os.path.basename(problem.file)
        if name in change.new:
            told.setdefault(name, []).append(with_line(problem, change.new[name]))
    return told


def _staged(folder: Path, change: Change) -> Path:
    """Make a copy of logrotate's configuration as it will be, and return its main file."""
    place = folder / "conf.d"
    place.mkdir(mode=0o755)
    source = change.config_dir
    for name in sorted(os.listdir(source)) if os.path.isdir(source) else []:
        if os.path.isfile(os.path.join(source, name)) and name not in change.gone:
            with contextlib.suppress(PermissionError):  # logrotate, as this user, does not read it either
                shutil.copy(os.path.join(source, name), place / name)
    for name, text in change.new.items():
        _write(place / name, text)
    try:
        main_text = Path(change.config).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        main_text = f"include {source}\n"
    pattern = rf"^(\s*include\s+){re.escape(source.rstrip('/'))}/?\s*$"
    main = folder / "logrotate.conf"
    _write(main, re.sub(pattern, lambda m: f"{m[1]}{place}", main_text, flags=re.M))
    return main


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)


def with_line(problem: Problem, text: str) -> str:
    """Return a problem with the line that it is about."""
    lines: Sequence[str] = text.splitlines()
    line = lines[problem.line - 1].strip() if 0 < problem.line <= len(lines) else ""
    return f"line {problem.line} ({line}): {problem.text}" if line else problem.text


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder that other users get through, for what logrotate is tried out on."""
    with tempfile.TemporaryDirectory(prefix="logs-proof-") as name:
        os.chmod(name, 0o711)  # noqa: S103  logrotate changes to the user of the files, who has to get through
        yield Path(name)
