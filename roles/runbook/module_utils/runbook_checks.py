# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Checks: a command, the output it is expected to give, and the finding if it does not.

The command line is the one printed on the runbook's page. Values reach it through its environment only.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Callable

from ansible.module_utils.runbook_psql import PsqlUnreachable, child_identity
from ansible.module_utils.runbook_result import finding

EXPECTATIONS = ("rc", "matches", "equals", "json", "number", "empty")
DEFAULT_TIMEOUT_SECONDS = 10
OUTPUT_CAP_BYTES = 64 * 1024
EVIDENCE_CHARACTERS = 2000
# As many at once as a small server bears; each may open a connection.
CONCURRENCY = 8
KILLED_WAIT_SECONDS = 1


@dataclass(frozen=True)
class Outcome:
    """What a command gave: exit code (None: ended at its time limit), output (capped), seconds."""

    rc: int | None
    stdout: str
    stderr: str
    seconds: float
    truncated: bool = False


class _Reader(threading.Thread):
    """Keeps the first `cap_bytes` of a stream and reads the rest away, so that memory stays small whatever comes."""

    def __init__(self, stream: Any, cap_bytes: int) -> None:
        super().__init__(daemon=True)
        self._stream, self._cap_bytes = stream, cap_bytes
        self.data, self.truncated = b"", False
        self.start()

    def run(self) -> None:
        with self._stream:
            while True:
                chunk = os.read(self._stream.fileno(), 65536)
                if not chunk:
                    return
                room = self._cap_bytes - len(self.data)
                self.data += chunk[:room]
                self.truncated = self.truncated or len(chunk) > room

    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


def run_command(
    command: str,
    environment: Mapping[str, str],
    timeout_seconds: float,
    os_user: str | None = None,
    cap_bytes: int = OUTPUT_CAP_BYTES,
) -> Outcome:
    """Run one line with /bin/sh as `os_user`; at the time limit its whole process group is killed."""
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
            **child_identity(os_user),
        )
    except (OSError, PsqlUnreachable) as error:
        return Outcome(127, "", str(error), time.monotonic() - started)
    readers = [_Reader(process.stdout, cap_bytes), _Reader(process.stderr, cap_bytes)]
    # The end is that of the output, which a child in the background may hold open; the shell is waited for last, so
    # that the number of its process group cannot have become another's.
    for reader in readers:
        reader.join(max(0.0, started + timeout_seconds - time.monotonic()))
    rc: int | None = None
    if not any(reader.is_alive() for reader in readers):
        with contextlib.suppress(subprocess.TimeoutExpired):
            rc = process.wait(max(0.0, started + timeout_seconds - time.monotonic()))
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for reader in readers:  # a child that left the group may hold the output open for ever: it is not waited for
            reader.join(KILLED_WAIT_SECONDS)
    out, err = readers
    return Outcome(rc, out.text(), err.text(), time.monotonic() - started, out.truncated or err.truncated)


def unmet(expect: Mapping[str, Any], outcome: Outcome) -> str | None:
    """Return why the outcome does not meet `expect`, or None if it does.

    Keys of `expect`, all of which must hold: rc; matches (regular expression found in the output); equals (the
    output, stripped); json (dotted path) with equals; number ({at_most, at_least, between}); empty (true, or false for
    some output).
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
    judged = (
        _empty_unmet(expect["empty"], text) if "empty" in expect else None,
        _text_unmet(re.search(str(expect["matches"]), text, re.MULTILINE), text) if "matches" in expect else None,
        _json_unmet(str(expect["json"]), expect.get("equals"), text) if "json" in expect else None,
        _text_unmet(text == str(expect["equals"]).strip(), text)
        if "equals" in expect and "json" not in expect
        else None,
        _number_unmet(expect["number"], text) if "number" in expect else None,
    )
    return next((why for why in judged if why is not None), None)


def _empty_unmet(wanted: bool, text: str) -> str | None:
    if wanted:
        return text or None
    return None if text else "no output"


def _text_unmet(met: Any, text: str) -> str | None:
    return None if met else text or "no output"


def _json_unmet(path: str, wanted: Any, text: str) -> str | None:
    try:
        value = json.loads(text)
        for key in path.split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
    except (ValueError, KeyError, IndexError, TypeError):
        return f"no {path} in {text[:200]!r}"
    return None if value == wanted else f"{path} is {value!r}"


def _number_unmet(bounds: Mapping[str, Any], text: str) -> str | None:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        return f"not a number: {text[:200]!r}"
    low, high = bounds.get("between", (bounds.get("at_least"), bounds.get("at_most")))
    if (low is not None and value < float(low)) or (high is not None and value > float(high)):
        return text
    return None


def expected_text(expect: Mapping[str, Any]) -> str:
    """Return the expectation in words, as reports print it."""
    words = []
    if "empty" in expect:
        words.append("no output" if expect["empty"] else "some output")
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
    os_user: str | None = None,
    run: Callable[..., Outcome] = run_command,
) -> list[dict[str, Any]]:
    """Run all checks at once and return one result per check, in their order.

    A result has id, met, reason, rc, stdout, seconds and finding (None where the expectation was met). A hanging
    check costs its own time limit, not the sum. A check begins when its `needs` on this host have ended; where one of
    them was not met it is not carried out and not judged (met is None): its failure would only repeat theirs. Raise
    ValueError where checks need each other.
    """
    known = {check["id"] for check in checks}
    waiting = {check["id"]: [need for need in check.get("needs") or [] if need in known] for check in checks}
    by_id = {check["id"]: check for check in checks}
    results: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(max_workers=CONCURRENCY) as pool:
        running: dict[Future[dict[str, Any]], str] = {}
        while waiting or running:
            for name in [name for name, needs in waiting.items() if results.keys() >= set(needs)]:
                failed = [need for need in waiting.pop(name) if not results[need]["met"]]
                if failed:
                    results[name] = _not_judged(name, failed)
                else:
                    running[pool.submit(_judge, by_id[name], environment, os_user, run)] = name
            if waiting and not running and not any(results.keys() >= set(needs) for needs in waiting.values()):
                raise ValueError(f"checks need each other: {', '.join(waiting)}")
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                results[running.pop(ended)] = ended.result()
    return [results[check["id"]] for check in checks]


def _not_judged(name: str, failed: Sequence[str]) -> dict[str, Any]:
    reason = f"not judged: {', '.join(failed)} failed"
    return {"id": name, "met": None, "reason": reason, "rc": None, "stdout": "", "truncated": False, "seconds": 0.0,
            "finding": None}  # fmt: skip


def _judge(
    check: Mapping[str, Any], environment: Mapping[str, str], os_user: str | None, run: Callable[..., Outcome]
) -> dict[str, Any]:
    limit = float(check.get("timeout_seconds") or DEFAULT_TIMEOUT_SECONDS)
    outcome = run(check["command"], environment, limit, check.get("user") or os_user)
    reason = unmet(check["expect"], outcome)
    otherwise = check.get("otherwise") or {}
    failed = None
    if reason is not None:
        failed = finding(
            check["id"],
            otherwise.get("finding", check["question"]),
            observed=_short(reason),
            expected=expected_text(check["expect"]),
            severity=otherwise.get("severity", "warning"),
            remedy=otherwise.get("remedy", ""),
            check=check["id"],
            section=check.get("section", "investigation"),
            evidence=(outcome.stdout + outcome.stderr).strip()[:EVIDENCE_CHARACTERS],
        )
    return {
        "id": check["id"],
        "met": reason is None,
        "reason": reason,
        "rc": outcome.rc,
        "stdout": outcome.stdout[:EVIDENCE_CHARACTERS],
        "truncated": outcome.truncated,
        "seconds": round(outcome.seconds, 3),
        "finding": failed,
    }


def command_environment(given: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment of a command: PATH, a fixed locale, and the given values.

    An unset value is left out: an empty PGPORT is not the same as none. RUNBOOK_PATH goes in front of PATH.
    """
    known = {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LC_ALL": "C.UTF-8"}
    known.update({str(k): str(v) for k, v in given.items() if v not in (None, "")})
    if known.get("RUNBOOK_PATH"):
        known["PATH"] = known.pop("RUNBOOK_PATH") + os.pathsep + known["PATH"]
    return known


def probe_all(
    checks: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any],
    secrets: Mapping[str, Any],
    os_user: str | None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run all checks in an environment made from inputs; return their results and the findings among them.

    RUNBOOK_PRELUDE (shell functions that stand for programs) goes before each command. Raise ValueError if a check
    is written wrongly.
    """
    known = command_environment({**environment, **secrets})
    prelude = known.pop("RUNBOOK_PRELUDE", "")
    try:
        results = probe([{**c, "command": f"{prelude}\n{c['command']}".strip()} for c in checks], known, os_user)
    except (ValueError, KeyError) as error:
        raise ValueError(f"a check in meta/runbook.yml is written wrongly: {error}") from error
    found = [result.pop("finding") for result in results]
    return results, [finding for finding in found if finding]


def list_targets(
    steps: Sequence[Mapping[str, Any]], environment: Mapping[str, Any], secrets: Mapping[str, Any], os_user: str | None
) -> dict[str, list[str]]:
    """Return, per step with a `targets` command, the objects it lists, one a line; none where it fails."""
    known = command_environment({**environment, **secrets})
    prelude = known.pop("RUNBOOK_PRELUDE", "")

    def one(step: Mapping[str, Any]) -> list[str]:
        user = step.get("user") or os_user
        outcome = run_command(f"{prelude}\n{step['targets']}".strip(), known, DEFAULT_TIMEOUT_SECONDS, user)
        return [line for line in outcome.stdout.splitlines() if line.strip()] if outcome.rc == 0 else []

    with ThreadPoolExecutor(max_workers=CONCURRENCY) as pool:
        return dict(zip([str(step["id"]) for step in steps], pool.map(one, steps)))


def look(
    given: Mapping[str, Any], targets: Sequence[Mapping[str, Any]] = ()
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, list[str]]]:
    """Given a module's arguments, carry out checks and lists of targets at once: results, findings, targets."""
    arguments = given["environment"], given["secrets"], given["os_user"]
    with ThreadPoolExecutor(max_workers=1) as beside:
        listed = beside.submit(list_targets, targets, *arguments) if targets else None
        results, findings = probe_all(given["checks"], *arguments)
        return results, findings, listed.result() if listed else {}


def _short(text: str, limit: int = 200) -> str:
    lines = text.splitlines()
    first = lines[0][:limit] if lines else ""
    more = len(lines) - 1
    return f"{first} (and {more} more line{'s' if more > 1 else ''})" if more > 0 else first
