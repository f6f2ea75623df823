# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Checks: a command, the output it is expected to give, and the finding if it does not.

The command line is the one printed on the runbook's page. Values reach it through its environment only.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from ansible.module_utils.runbook_psql import PsqlUnreachable, child_identity
from ansible.module_utils.runbook_result import finding

EXPECTATIONS = ("rc", "matches", "equals", "json", "number", "empty")
DEFAULT_TIMEOUT_SECONDS = 10
OUTPUT_CAP_BYTES = 64 * 1024
EVIDENCE_CHARACTERS = 2000
# As many at once as a small server bears; each may open a connection.
CONCURRENCY = 8


@dataclass(frozen=True)
class Outcome:
    """What a command gave: exit code (None: ended at its time limit), output (capped), seconds."""

    rc: Optional[int]
    stdout: str
    stderr: str
    seconds: float
    truncated: bool = False


def run_command(
    command: str, environment: Mapping[str, str], timeout_seconds: float, os_user: Optional[str] = None,
    cap_bytes: int = OUTPUT_CAP_BYTES,
) -> Outcome:
    """Run one line with /bin/sh as `os_user`; at the time limit its whole process group is killed."""
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=dict(environment), cwd="/", start_new_session=True, **child_identity(os_user),
        )
    except (OSError, PsqlUnreachable) as error:
        return Outcome(127, "", str(error), time.monotonic() - started)
    rc: Optional[int]
    try:
        stdout, stderr = process.communicate(timeout=timeout_seconds)
        rc = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        rc = None
    return Outcome(
        rc,
        stdout[:cap_bytes].decode("utf-8", "replace"),
        stderr[:cap_bytes].decode("utf-8", "replace"),
        time.monotonic() - started,
        len(stdout) > cap_bytes or len(stderr) > cap_bytes,
    )


def unmet(expect: Mapping[str, Any], outcome: Outcome) -> Optional[str]:
    """Return why the outcome does not meet `expect`, or None if it does.

    Keys of `expect`, all of which must hold: rc; matches (regular expression found in the output); equals (the
    output, stripped); json (dotted path) with equals; number ({at_most, at_least, between}); empty (true).
    The exit code must be 0 unless `rc` says otherwise. Raise ValueError for an unknown key.
    """
    unknown = set(expect) - set(EXPECTATIONS)
    if unknown:
        raise ValueError(f"unknown expectation {', '.join(sorted(unknown))}; known: {', '.join(EXPECTATIONS)}")
    if outcome.rc is None:
        return f"no answer within {outcome.seconds:.0f} s"
    wanted_rc = int(expect.get("rc", 0))
    if outcome.rc != wanted_rc:
        said = (outcome.stderr or outcome.stdout).strip().splitlines()
        return f"exit code {outcome.rc} instead of {wanted_rc}" + (f": {said[0][:200]}" if said else "")
    text = outcome.stdout.strip()
    if expect.get("empty") and text:
        return text
    if "matches" in expect and not re.search(str(expect["matches"]), text, re.MULTILINE):
        return text or "no output"
    if "json" in expect:
        return _json_unmet(str(expect["json"]), expect.get("equals"), text)
    if "equals" in expect and text != str(expect["equals"]).strip():
        return text or "no output"
    if "number" in expect:
        return _number_unmet(expect["number"], text)
    return None


def _json_unmet(path: str, wanted: Any, text: str) -> Optional[str]:
    try:
        value = json.loads(text)
        for key in path.split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
    except (ValueError, KeyError, IndexError, TypeError):
        return f"no {path} in {text[:200]!r}"
    return None if value == wanted else f"{path} is {value!r}"


def _number_unmet(bounds: Mapping[str, Any], text: str) -> Optional[str]:
    try:
        value = float(text)
    except ValueError:
        return f"not a number: {text[:200]!r}"
    low, high = bounds.get("between", (bounds.get("at_least"), bounds.get("at_most")))
    if (low is not None and value < float(low)) or (high is not None and value > float(high)):
        return text
    return None


def expected_text(expect: Mapping[str, Any]) -> str:
    """Return the expectation in words, as reports print it."""
    words = []
    if expect.get("empty"):
        words.append("no output")
    if "rc" in expect:
        words.append(f"exit code {expect['rc']}")
    if "matches" in expect:
        words.append(f"output matching {expect['matches']}")
    if "json" in expect:
        words.append(f"{expect['json']} is {expect.get('equals')!r}")
    elif "equals" in expect:
        words.append(str(expect["equals"]).strip())
    bounds = expect.get("number", {})
    if "between" in bounds:
        words.append(f"between {bounds['between'][0]} and {bounds['between'][1]}")
    words += [f"{name.replace('_', ' ')} {bounds[name]}" for name in ("at_least", "at_most") if name in bounds]
    return ", ".join(words)


def probe(
    checks: Sequence[Mapping[str, Any]],
    environment: Mapping[str, str],
    os_user: Optional[str] = None,
    run: Callable[..., Outcome] = run_command,
) -> List[Dict[str, Any]]:
    """Run all checks at once and return one result per check, in their order.

    A result has id, met, reason, rc, stdout, seconds and finding (None where the expectation was met). A hanging
    check costs its own time limit, not the sum. A check whose `needs` were not met is not judged (met is None): its
    failure would only repeat theirs.
    """
    def one(check: Mapping[str, Any]) -> Dict[str, Any]:
        limit = float(check.get("timeout_seconds") or DEFAULT_TIMEOUT_SECONDS)
        outcome = run(check["command"], environment, limit, check.get("user") or os_user)
        reason = unmet(check["expect"], outcome)
        otherwise = check.get("otherwise") or {}
        failed = None
        if reason is not None:
            failed = finding(
                check["id"], otherwise.get("finding", check["question"]), observed=_short(reason),
                expected=expected_text(check["expect"]), severity=otherwise.get("severity", "warning"),
                remedy=otherwise.get("remedy", ""), check=check["id"], section=check.get("section", "investigation"),
                evidence=(outcome.stdout + outcome.stderr).strip()[:EVIDENCE_CHARACTERS],
            )
        return {
            "id": check["id"], "met": reason is None, "reason": reason, "rc": outcome.rc,
            "stdout": outcome.stdout[:EVIDENCE_CHARACTERS], "truncated": outcome.truncated,
            "seconds": round(outcome.seconds, 3), "finding": failed,
        }

    with ThreadPoolExecutor(max_workers=CONCURRENCY) as pool:
        results = {result["id"]: result for result in pool.map(one, checks)}
    for check in checks:  # in their order, so that a chain of needs is followed to its root
        failed = [need for need in check.get("needs") or [] if not results[need]["met"]]
        if failed:
            results[check["id"]].update(met=None, reason=f"not judged: {', '.join(failed)} failed", finding=None)
    return list(results.values())


def _short(text: str, limit: int = 200) -> str:
    lines = text.splitlines()
    first = lines[0][:limit] if lines else ""
    return f"{first} (and {len(lines) - 1} more lines)" if len(lines) > 1 else first
