# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""One look through log files: what was found, as findings and facts. No value of a secret is in any of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils.logs_patterns import CREDENTIAL, PERSONAL, TITLES
from ansible.module_utils.logs_scanner import FileScan, Found, Limits, Scan, scan
from ansible.module_utils.logs_summary import MOST_TOLD, Summary
from ansible.module_utils.runbook_result import finding, human_bytes
from ansible.module_utils.runbook_state import read_json, write_json

MEMORY = "logs-scan.json"
REVOKE = (
    "Revoke it first: whoever reads logs has it. Then find who writes it and set its log level or formatter, and archive"
    " with logs_archive_redact"
)
NO_STATEMENTS = "Set log_statement=none: statements hold what users wrote. Archive with logs_archive_redact"
LESS_PERSONAL = "Log an identifier in its place, or accept this finding; archive with logs_archive_redact"


@dataclass(frozen=True)
class LogFile:
    """A file to look through, the policy that it belongs to, and how what is in it is classified."""

    path: str
    policy: str = ""
    classification: str = "internal"


@dataclass(frozen=True)
class Look:
    """What one look gives: findings, facts for the report, and what the next look has to know."""

    findings: list[dict[str, Any]]
    facts: dict[str, Any]
    memory: dict[str, Any]


def remembered(state_dir: str) -> dict[str, Any]:
    """Return what the last look left. Raise StateError where it is damaged."""
    kept = read_json(Path(state_dir) / "memory" / MEMORY, {})
    return kept if isinstance(kept, dict) else {}


def remember(state_dir: str, memory: Mapping[str, Any]) -> None:
    write_json(Path(state_dir) / "memory" / MEMORY, dict(memory))


def look(
    files: Sequence[LogFile],
    memory: Mapping[str, Any],
    limits: Limits,
    error_rate: float,
    cpu: Callable[[], float],
    now: float,
) -> Look:
    """Read on in the files and judge all that is known of them. `error_rate` is how many of a new error an hour warn."""
    summary = Summary(memory.get("errors", {}), now)
    result = scan([file.path for file in files], memory.get("scan", {}), limits, cpu, now, summary)
    errors, errors_memory = summary.done()
    given = {file.path: file for file in files}
    found = [each for file in result.files for each in _about_file(file, given.get(file.path))]
    found += [*_about_errors(errors, error_rate), *_about_rest(result)]
    facts = {
        "errors": [{**one, "first_seen": _moment(one["first_seen"]), "last_seen": _moment(one["last_seen"])} for one in errors[:MOST_TOLD]],
        "scanned_bytes": result.scanned_bytes,
        "unscanned_bytes": result.unscanned_bytes,
        "secrets": _by_kind(result),
    }  # fmt: skip
    return Look(found, facts, {"scan": result.memory, "errors": errors_memory})


def _by_kind(result: Scan) -> dict[str, int]:
    lines: dict[str, int] = {}
    for file in result.files:
        for one in file.found:
            lines[one.kind] = lines.get(one.kind, 0) + one.count
    return dict(sorted(lines.items()))


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _about_file(file: FileScan, given: LogFile | None) -> list[dict[str, Any]]:
    told = [_about_hit(file.path, one, given) for one in file.found]
    if file.vanished:
        told.append(finding("log-unreadable", "A log file went away before it was read", subject=file.path, observed=file.problem,
                            severity="info", remedy="Where it was rotated, the next run finds it by its new name"))  # fmt: skip
    elif file.problem:
        told.append(finding("log-unreadable", "A log file cannot be read, nobody knows what is in it", subject=file.path,
                            observed=file.problem, remedy="Make it a regular file that root can read, or take it out of its policy"))  # fmt: skip
    return told


def _about_hit(path: str, one: Found, given: LogFile | None) -> dict[str, Any]:
    kind = TITLES[one.kind]
    lines = "1 line" if one.count == 1 else f"{one.count} lines"
    where = f"classification {given.classification}" if given else "rotated from a file that is looked through"
    if kind.group == CREDENTIAL:
        id, title, remedy = "secret-in-log", "A secret is in a log", REVOKE
    elif kind.group == PERSONAL:
        id, title, remedy = "personal-data-in-log", "Personal data is in a log", LESS_PERSONAL
    else:
        id, title, remedy = "prompts-in-log", "What users ask models is in a log", NO_STATEMENTS
    return finding(
        id, title, subject=f"{path}: {kind.title}", observed=f"{lines}, first line {one.line}: {one.excerpt}",
        expected=f"none ({where})", severity=kind.severity, remedy=remedy,
    )  # fmt: skip


def _about_errors(errors: Sequence[dict[str, Any]], error_rate: float) -> list[dict[str, Any]]:
    new = [one for one in errors if one["new"]]
    loud = [one for one in new if one["per_hour"] is not None and one["per_hour"] > error_rate][:MOST_TOLD]
    told = [
        finding(
            "new-errors", "An error that was never seen before comes often", subject=f"{one['paths'][0]}: {one['fingerprint']}",
            observed=f"{one['count']} times, {one['per_hour']:g} an hour: {one['level']} {one['sample']}",
            expected=f"{error_rate:g} an hour", remedy="Look at what changed when it was first seen",
        )
        for one in loud
    ]  # fmt: skip
    quiet = [one for one in new if one not in loud]
    if quiet:
        messages = "1 message" if len(quiet) == 1 else f"{len(quiet)} messages"
        told.append(finding("new-errors", "Errors that were never seen before", severity="info",
                            observed=f"{messages}, the most frequent {quiet[0]['count']} times: {quiet[0]['level']} {quiet[0]['sample']}",
                            remedy="The report lists the most frequent ones"))  # fmt: skip
    return told


def _about_rest(result: Scan) -> list[dict[str, Any]]:
    if not result.unscanned_bytes:
        return []
    waiting = [file for file in result.files if file.unscanned_bytes]
    most = max(waiting, key=lambda file: file.unscanned_bytes)
    return [
        finding("scan-behind", "Not all of the logs was looked through", severity="info",
                observed=f"{human_bytes(result.unscanned_bytes)} in {len(waiting)} files are left, most of it in {most.path}",
                expected="nothing is left", remedy="The next run goes on; raise logs_scan_max_bytes or logs_scan_max_seconds where it stays")
    ]  # fmt: skip
