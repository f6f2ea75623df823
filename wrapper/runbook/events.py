"""Turns ansible-runner's events into what a runbook is about: steps, findings, actions, and how it ended."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from runbook.catalog import Runbook
from runbook.errors import ExitCode
from runbook.record import Action, Finding, Record, Remedy, State, StepRun, now
from runbook.redact import strip_control
from runbook.schema import SchemaError, build

# The frame's own task files around a role's steps (roles/runbook/tasks).
FRAME_FIRST, FRAME_LAST = ("check", "open"), ("prove", "evidence", "close")
RESULT_LIMIT = 4000
_STATS = ("ok", "changed", "failures", "dark", "skipped", "rescued", "ignored")
_RESULTS = {
    "runner_on_ok": "ok",
    "runner_on_failed": "failed",
    "runner_on_unreachable": "unreachable",
    "runner_on_skipped": "skipped",
}
_NOISE = {"invocation", "ansible_facts", "stdout_lines", "stderr_lines", "runbook", "msg", "changed", "failed"}
# What ansible-playbook says when the fault is in what it was given, and what to do about it.
_INPUT_FAULTS = {
    r"Completely failed to parse inventory source (.+)": ("The inventory {0} cannot be parsed.", "Correct it."),
    r"leaves us with no hosts to target": ("No host of the inventory is left to run on.", "Check -i and -l."),
    r"no vault secrets|Decryption failed": (
        "The inventory holds vault-encrypted values and they cannot be decrypted.",
        "Set ANSIBLE_VAULT_PASSWORD_FILE to the file with the vault password.",
    ),
}


@dataclass
class Failure:
    host: str
    task: str
    message: str
    outcome: str | None = None


@dataclass
class Tally:
    """What has been seen of a run so far."""

    failures: list[Failure] = field(default_factory=list)
    unreachable: dict[str, str] = field(default_factory=dict)
    no_hosts: bool = False
    finished: bool = False
    errors: list[str] = field(default_factory=list)
    changed: int = 0


def phases(runbook: Runbook) -> list[StepRun]:
    """Given a runbook, return the steps of its run in order, the frame's included."""
    own = [StepRun(id=step.id, kind=step.kind, does=step.does) for step in runbook.steps]
    if runbook.category == "tool":
        return own
    known = {step.id for step in own}
    names = (*FRAME_FIRST, "plan") if runbook.mode == "diagnose" else FRAME_FIRST
    first = [StepRun(id=name, kind="frame") for name in names if name not in known]
    return [*first, *own, *(StepRun(id=name, kind="frame") for name in FRAME_LAST if name not in known)]


def stem(task: str) -> str | None:
    """Given a task's name, return its step's id: `database : vacuum | Read ...` -> `vacuum`.

    A part of a step has a file of its own, which is named for it: `certificates : issue_sign | Sign` -> `issue`.
    """
    head, bar, _ = task.rpartition(" : ")[2].partition(" | ")
    return head.strip().partition("_")[0] if bar else None


class Collector:
    """Feeds a run's events into its record."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.tally = Tally()
        self.current: StepRun | None = None
        self._segment: datetime | None = None

    def feed(self, raw: dict[str, Any]) -> dict[str, Any] | None:
        """Given a masked event, update the record and return the line to keep of it; None for noise."""
        kind, data = raw.get("event", ""), raw.get("event_data") or {}
        line = {"at": raw.get("created") or now().isoformat(), "event": kind}
        self.tally.no_hosts |= kind == "playbook_on_no_hosts_matched"
        if kind in _RESULTS:
            return self._result(_RESULTS[kind], data, line)
        if kind == "playbook_on_play_start":
            return {**line, "event": "play", "play": data.get("name", "")}
        if kind == "playbook_on_task_start":
            self._enter(stem(data.get("name") or ""))
            step = self.current and self.current.id
            return {**line, "event": "task", "task": data.get("name", ""), "step": step}
        if kind == "playbook_on_stats":
            return self._stats(data, line)
        words = strip_control(raw.get("stdout") or "").strip()
        if not words or kind not in ("verbose", "error", "warning", "system_warning", "deprecated"):
            return None
        self.tally.errors.append(words)
        return {**line, "event": "warning" if "warn" in kind else "output", "text": words[:RESULT_LIMIT]}

    def _enter(self, name: str | None) -> None:
        step = next((step for step in self.record.steps if step.id == name), None)
        if step is None or step is self.current:
            return
        self.leave()
        self.current, self._segment = step, now()
        step.started = step.started or self._segment
        step.state = "running"

    def leave(self, stopped: bool = False) -> None:
        """Close the current step; with several batches of hosts a step is entered more than once."""
        if self.current and self._segment:
            self.current.ended = now()
            seconds = (self.current.ended - self._segment).total_seconds()
            self.current.seconds = round((self.current.seconds or 0) + seconds, 3)
            if self.current.state == "running":
                self.current.state = "failed" if stopped else "skipped"
        self.current = self._segment = None

    def _result(self, outcome: str, data: dict[str, Any], line: dict[str, Any]) -> dict[str, Any]:
        host, task, result = data.get("host") or "", data.get("task") or "", data.get("res") or {}
        if host and host not in self.record.hosts:
            self.record.hosts.append(host)
        line |= {"event": outcome, "host": host, "task": task, "step": self.current and self.current.id}
        if data.get("duration") is not None:
            line["seconds"] = round(data["duration"], 3)
        if outcome == "skipped":
            return line
        if not result and outcome == "ok":
            # The callback drops a result beyond MAX_EVENT_RES, and says so by an empty one.
            line["truncated"] = True
            self._note(f"The result of task `{task}` on {host} was too large to be recorded; it is truncated.")
        if outcome == "ok" and str(data.get("task_action") or "").rpartition(".")[2] == "debug":
            # What a play says by debug is meant for whoever runs it.
            for words in result["msg"] if isinstance(result.get("msg"), list) else [result.get("msg") or ""]:
                self._note(strip_control(str(words))[:RESULT_LIMIT])
        counts = outcome != "ok" and not data.get("ignore_errors")
        self.tally.changed += bool(result.get("changed"))
        if self.current and stem(task) == self.current.id:
            _mark(self.current, counts, bool(result.get("changed")))
        if found := _payload(result):
            line["runbook"] = found
            self._runbook(host, found)
        if counts and outcome == "failed":
            self.tally.failures.append(_failure(host, task, result))
        elif outcome == "unreachable":
            self.tally.unreachable[host] = _message(result)
        return line | _abridged(result)

    def _runbook(self, host: str, found: dict[str, Any]) -> None:
        record, final = self.record, bool(found.get("final"))
        record.findings = _merge(record.findings, self._models(Finding, found.get("findings"), host), host, final)
        record.actions = _merge(record.actions, self._models(Action, found.get("actions"), host), host, final)
        if "told" in found:
            record.tells = bool(record.tells) or found["told"] is True
        if "plan" in found:
            record.plan, record.confirmation = self._models(Remedy, found["plan"], host), str(found.get("confirmation") or "")
        if isinstance(found.get("facts"), dict):
            record.facts.setdefault(host, {}).update(found["facts"])
        if found.get("evidence_dir"):
            record.evidence[host] = str(found["evidence_dir"])

    def _models(self, model: type[Any], items: Any, host: str) -> list[Any]:
        models = []
        for item in items if isinstance(items, list) else []:
            try:
                models.append(build(model, {**item, "host": item.get("host") or host}, lenient=True))
            except (SchemaError, TypeError, AttributeError) as error:
                what = model.__name__.lower()
                self._note(f"A {what} of {host} is not well-formed and was left out: {error}")
        return models

    def _note(self, text: str) -> None:
        if text not in self.record.notes:
            self.record.notes.append(text)

    def _stats(self, data: dict[str, Any], line: dict[str, Any]) -> dict[str, Any]:
        self.tally.finished = True
        counts = {name: data.get(name) or {} for name in _STATS}
        hosts = sorted({host for by_host in counts.values() for host in by_host})
        self.record.stats = {host: {name: by_host.get(host, 0) for name, by_host in counts.items()} for host in hosts}
        return {**line, "event": "stats", "stats": self.record.stats}


def _mark(step: StepRun, failed: bool, changed: bool) -> None:
    if failed:
        step.state = "failed"
    elif step.state in ("running", "ok", "skipped"):
        step.state = "changed" if changed else "ok"


def _abridged(result: dict[str, Any]) -> dict[str, Any]:
    """Return what a record keeps of a task's result."""
    kept: dict[str, Any] = {"changed": bool(result.get("changed"))}
    if result.get("msg"):
        kept["msg"] = strip_control(str(result["msg"]))[:RESULT_LIMIT]
    rest = {k: v for k, v in result.items() if k not in _NOISE and not k.startswith("_ansible")}
    text = json.dumps(rest, default=str)
    if len(text) > RESULT_LIMIT:
        return kept | {"result": text[:RESULT_LIMIT], "truncated": True}
    return kept | ({"result": rest} if rest else {})


def _merge(kept: list[Any], new: list[Any], host: str, final: bool) -> list[Any]:
    """Add findings or actions to those of earlier tasks; a host's final list replaces them, in the order they came."""
    fresh = {item.key: item for item in new}
    mine = {item.host for item in new} | {host} if final else set()
    merged = {item.key: fresh.get(item.key, item) for item in kept if item.host not in mine or item.key in fresh}
    return list((merged | fresh).values())


def _payload(result: dict[str, Any]) -> dict[str, Any]:
    found = result.get("runbook") or (result.get("ansible_facts") or {}).get("runbook")
    return found if isinstance(found, dict) else {}


def _message(result: dict[str, Any]) -> str:
    # Of a loop, what the first failed item said; the loop itself says only that some failed.
    items = result.get("results")
    result = (
        next((i for i in items if isinstance(i, dict) and i.get("failed")), result)
        if isinstance(items, list)
        else result
    )
    said = [result.get(name) for name in ("msg", "module_stderr", "stderr", "stdout", "censored")]
    return strip_control(": ".join([str(text).strip() for text in said if text][:2]))


def _failure(host: str, task: str, result: dict[str, Any]) -> Failure:
    payload = _payload(result)
    outcome = payload.get("outcome")
    if not outcome and (stem(task) == "check" or "Validating arguments against arg spec" in task):
        outcome = "bad_input"
    message = "; ".join(map(str, result.get("argument_errors") or [])) or str(payload.get("message") or "")
    return Failure(host, task, strip_control(message) or _message(result), outcome)


@dataclass(frozen=True)
class Verdict:
    state: State
    code: ExitCode
    message: str = ""
    remedy: str = ""


_OUTCOMES: dict[str, tuple[State, ExitCode]] = {
    "unreachable": ("unreachable", ExitCode.UNREACHABLE),
    "refused": ("refused", ExitCode.REFUSED),
    "bad_input": ("refused", ExitCode.BAD_INPUT),
}


def verdict(record: Record, tally: Tally, rc: int | None, stopped: str | None, error: str = "") -> Verdict:
    """Given what was seen, ansible-playbook's exit status and why we stopped it, return how the run ended."""
    if rc == 0 and tally.finished:
        return _good(record, tally)
    if stopped == "timed_out":
        said = f"The time limit of {record.time_limit_seconds:g} s was reached; the run was stopped."
        return Verdict("timed_out", ExitCode.TIMED_OUT, said)
    if stopped:
        return Verdict("cancelled", ExitCode.CANCELLED, "The run was cancelled and stopped.")
    if error:
        return Verdict("failed", ExitCode.FAILED, f"ansible-playbook could not be run: {error}")
    return _bad(tally, rc)


def _good(record: Record, tally: Tally) -> Verdict:
    if not record.hosts and tally.no_hosts:
        said = "No host of the inventory matches the runbook."
        return Verdict("refused", ExitCode.BAD_INPUT, said, "Check -i and -l.")
    if record.check and (tally.changed or record.count("planned")):
        return Verdict("succeeded", ExitCode.WOULD_CHANGE)
    return Verdict("succeeded", ExitCode.FINDINGS if record.open_findings else ExitCode.OK)


def _bad(tally: Tally, rc: int | None) -> Verdict:
    by_host: dict[str, Failure] = {}
    for failure in tally.failures:
        # The frame rescues, then fails again: the first failure that names an outcome tells why.
        if failure.host not in by_host or (failure.outcome and not by_host[failure.host].outcome):
            by_host[failure.host] = failure
    if plain := next((f for f in by_host.values() if f.outcome not in _OUTCOMES), None):
        said = f"Task `{plain.task}` failed on {plain.host}{': ' if plain.message else '.'}{plain.message}"
        return Verdict("failed", ExitCode.FAILED, said)
    if tally.unreachable:
        host, message = next(iter(tally.unreachable.items()))
        return Verdict("unreachable", ExitCode.UNREACHABLE, f"{host} cannot be reached: {message}")
    for outcome, (state, code) in _OUTCOMES.items():
        if first := next((f for f in by_host.values() if f.outcome == outcome), None):
            return Verdict(state, code, f"{first.host}: {first.message}")
    for pattern, (message, remedy) in _INPUT_FAULTS.items():
        if found := re.search(pattern, "\n".join(tally.errors)):
            return Verdict("refused", ExitCode.BAD_INPUT, message.format(*found.groups()), remedy)
    told = [line for line in tally.errors if "ERROR" in line] or tally.errors[-3:]
    reason = " ".join(told).replace("[ERROR]: ", "").replace("ERROR! ", "") or "it said nothing"
    return Verdict("failed", ExitCode.FAILED, f"ansible-playbook ended with status {rc}: {reason}")
