# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""Carries out one remedy on its host, behind all its guards.

In this order: is it still called for, do its gates hold now, is there budget left, is evidence kept. Then it acts, and its
verify checks decide: fixed, or taken back and left to people. There is no second remedy on the same signal.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils import runbook_good, runbook_reclaim
from ansible.module_utils.runbook_checks import CONCURRENCY, command_environment, probe_all, run_command
from ansible.module_utils.runbook_components import Component, ComponentError
from ansible.module_utils.runbook_evidence import keep, transcript
from ansible.module_utils.runbook_remedies import Budget
from ansible.module_utils.runbook_result import action, finding
from ansible.module_utils.runbook_state import StateError, read_json, write_json

COMMAND_TIMEOUT_SECONDS = 60
EVIDENCE_TIMEOUT_SECONDS = 20
POLL_SECONDS = 1
RESTARTS = ("started", "restarted")


class ActFailed(Exception):
    """Something the remedy wanted to do could not be done; the text says what and why."""


@dataclass
class Order:
    """What one remedy is to be carried out with. `step` is that of meta/runbook.yml, `checks` those of the runbook."""

    step: Mapping[str, Any]
    checks: Sequence[Mapping[str, Any]]
    components: Mapping[str, Mapping[str, Any]]
    environment: Mapping[str, Any]
    secrets: Mapping[str, Any]
    os_user: str | None
    because: str
    follower: bool
    targets: list[str]
    state_dir: Path
    run_id: str
    owner: str
    refused: str = ""
    log_lines: int = 200
    patience_seconds: float = 15
    budget: Budget = field(default_factory=Budget)


@dataclass
class Result:
    """What came of it: the action for the report, findings that are left, where evidence is, whether anything changed."""

    action: dict[str, Any]
    findings: list[dict[str, Any]] = field(default_factory=list)
    evidence_dir: str = ""
    changed: bool = False
    cured: bool = False


def _status(component: Component) -> str:
    try:
        return f"{component.status()}\n"
    except ComponentError as error:
        return f"{error}\n"


class Engine:
    """One remedy at work. Clock and waiting can be replaced by tests."""

    def __init__(
        self,
        order: Order,
        clock: Callable[[], float] = time.time,
        wait: Callable[[float], None] = time.sleep,
        probe: Callable[..., Any] = probe_all,
    ) -> None:
        self.order, self.step = order, order.step
        self.clock, self.wait, self._probe = clock, wait, probe
        self.replaced: list[Path] = []
        self.did: list[str] = []
        self.printed: dict[str, tuple[str, int | None]] = {}  # what checks gave when they were carried out last

    # What holds

    def open_findings(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Carry out the named checks now, those they need included, and return the findings of the named ones."""
        wanted = set(names)
        for check in reversed(self.order.checks):
            if check["id"] in wanted:
                wanted.update(check.get("needs") or [])
        chosen = [check for check in self.order.checks if check["id"] in wanted]
        if not chosen:
            return []
        results, found = self._probe(chosen, self.order.environment, self.order.secrets, self.order.os_user)
        printed = {one["id"]: one["evidence"] for one in found}
        self.printed.update({r["id"]: (printed.get(r["id"]) or r["stdout"], r["rc"]) for r in results})
        unjudged = [r for r in results if r["met"] is None and r["id"] in names]
        told = [one for one in found if one["id"] in wanted]
        return told or [finding(r["id"], r["reason"], severity="critical", observed=r["reason"]) for r in unjudged]

    def settled(self, names: Sequence[str], seconds: float) -> list[dict[str, Any]]:
        """Wait until the checks hold, for so many seconds at most; return what is still open."""
        limit = self.clock() + seconds
        left = self.open_findings(names)
        while left and self.clock() < limit:
            self.wait(POLL_SECONDS)
            left = self.open_findings(names)
        return left

    # Guards

    def refusal(self, blocked: Sequence[Mapping[str, Any]]) -> str:
        """Given the findings of its gates, return why the remedy may not act now, or an empty text."""
        if self.order.refused:
            return f"{self.order.refused}: it would act in vain"
        if blocked:
            return f"{blocked[0]['title']} ({blocked[0]['observed']}): it would act in vain"
        now = self.clock()
        for name in self._restarted():
            if refused := self.order.budget.refusal(name, self._restarts().get(name, []), now):
                return refused
        return ""

    def _restarted(self) -> list[str]:
        return [str(act["component"]) for act in self.step["acts"] if act.get("state") in RESTARTS]

    def _restarts(self) -> dict[str, list[float]]:
        known = read_json(self._budget_file, {})
        return {name: [float(at) for at in times] for name, times in known.items()} if isinstance(known, dict) else {}

    @property
    def _budget_file(self) -> Path:
        return self.order.state_dir / "memory" / "restarts.json"

    def _count(self, name: str) -> None:
        """Written before the restart: one that was killed half way counts."""
        known, now = self._restarts(), self.clock()
        known[name] = [at for at in known.get(name, []) if now - at < self.order.budget.hour_seconds] + [now]
        write_json(self._budget_file, known)

    # Evidence

    def look(self) -> dict[str, str]:
        """Return status and logs of the components it touches and its own evidence, by file."""
        order = self.order
        environment = command_environment({**order.environment, **order.secrets})
        prelude = environment.pop("RUNBOOK_PRELUDE", "")

        def carried_out(command: str) -> str:
            line = f"{prelude}\n{command}".strip()
            outcome = run_command(line, environment, EVIDENCE_TIMEOUT_SECONDS, order.os_user)
            return transcript(command, outcome.stdout + outcome.stderr, outcome.rc)

        sources: dict[str, Callable[[], str]] = {}
        for name in dict.fromkeys([*self._touched(), str(self.step.get("part") or "")]):
            with contextlib.suppress(ComponentError, KeyError):
                component = Component(name, order.components[name])
                sources[f"{name}-status.txt"] = partial(_status, component)
                sources[f"{name}-log.txt"] = partial(component.logs, order.log_lines)
        commands = self.step.get("evidence") or {}
        sources.update({f"{name}.txt": partial(carried_out, command) for name, command in commands.items()})
        with ThreadPoolExecutor(max_workers=CONCURRENCY) as pool:
            items = dict(zip(sources, pool.map(lambda read: read(), sources.values())))
        if order.targets:
            items["targets.txt"] = "\n".join(order.targets) + "\n"
        return items

    def keep_evidence(self, items: Mapping[str, str]) -> str:
        """Keep what was seen, with what the checks gave that call for it, and return the folder."""
        order, kept = self.order, dict(items)
        for check in order.checks:
            if check["id"] in self.step["cures"] and check["id"] in self.printed:
                text, rc = self.printed[check["id"]]
                kept.setdefault(f"{check['id']}.txt", transcript(check["command"], text, rc))
        folder = order.state_dir / "evidence" / order.run_id / str(self.step["id"])
        return str(keep(folder, kept, order.owner, datetime.datetime.now(datetime.timezone.utc)))

    def _touched(self) -> list[str]:
        return [
            str(act.get("component") or act["restore"])
            for act in self.step["acts"]
            if "component" in act or "restore" in act
        ]

    # Acts

    def act(self, acts: Sequence[Mapping[str, Any]]) -> None:
        """Carry out acts in their order. Raise ActFailed at the first that fails."""
        for act in acts:
            kind = next((k for k in ("component", "command", "restore", "reclaim") if k in act), None)
            if kind is None:
                raise ActFailed(f"step {self.step['id']} has an act that is none: {act!r}")
            try:
                getattr(self, f"_{kind}")(act)
            except (ComponentError, StateError, OSError, ValueError) as error:
                raise ActFailed(str(error)) from error

    def _component(self, act: Mapping[str, Any]) -> None:
        name = str(act["component"])
        component = Component(name, self._description(name))
        if act["state"] in RESTARTS:
            self._count(name)
        component.ensure(str(act["state"]))
        self.did.append(f"{name} {act['state']}")

    def _description(self, name: str) -> Mapping[str, Any]:
        if name not in self.order.components:
            raise ComponentError(f"tracker_components does not say how {name} is controlled")
        return self.order.components[name]

    def _command(self, act: Mapping[str, Any]) -> None:
        environment = command_environment({**self.order.environment, **self.order.secrets})
        prelude = environment.pop("RUNBOOK_PRELUDE", "")
        environment["RUNBOOK_TARGETS"] = "\n".join(self.order.targets)
        seconds = float(act.get("timeout_seconds") or COMMAND_TIMEOUT_SECONDS)
        user = act.get("user", self.order.os_user)
        outcome = run_command(f"{prelude}\n{act['command']}".strip(), environment, seconds, user)
        if outcome.rc != 0:
            said = (outcome.stderr or outcome.stdout).strip().splitlines()
            ended = "no end within its time limit" if outcome.rc is None else f"exit code {outcome.rc}"
            raise ActFailed(
                f"{str(act['command']).splitlines()[0][:120]}: {ended}{': ' + said[0][:300] if said else ''}"
            )
        self.did.append((outcome.stdout.strip().splitlines() or [str(act["command"]).splitlines()[0]])[0][:200])

    def _restore(self, act: Mapping[str, Any]) -> None:
        name = str(act["restore"])
        description = self._description(name)
        paths = list(description.get("config_files") or [])
        good = runbook_good.last_good(self._good_folder(name), paths)
        if good is None:
            raise ActFailed(f"no other configuration of {name} was seen to work: give it back from your own source")
        kept = runbook_good.keep_good(self._replaced_folder(name), paths, self.clock())
        if kept:
            self.replaced.append(self._replaced_folder(name) / kept)
        changed = runbook_good.give_back(good)
        self.did.append(f"gave back {', '.join(changed)}")
        self._validate(name, description)

    def _validate(self, name: str, description: Mapping[str, Any]) -> None:
        if not description.get("validate"):
            return
        outcome = run_command(str(description["validate"]), command_environment({}), COMMAND_TIMEOUT_SECONDS)
        if outcome.rc != 0:
            said = (outcome.stderr or outcome.stdout).strip()[:300]
            raise ActFailed(f"the last good configuration of {name} does not pass its validator either: {said}")

    def _good_folder(self, name: str) -> Path:
        return self.order.state_dir / "memory" / "good" / name

    def _replaced_folder(self, name: str) -> Path:
        return self.order.state_dir / "evidence" / self.order.run_id / f"replaced-{name}"

    def _reclaim(self, act: Mapping[str, Any]) -> None:
        wanted = act["reclaim"]
        for filesystem in self.order.targets:
            done = runbook_reclaim.reclaim(
                filesystem, float(wanted["target_percent"]), wanted.get("ballast"), list(wanted.get("caches") or [])
            )
            self.did.append(f"{filesystem}: {runbook_reclaim.told(done)}")

    # The whole

    def run(self) -> Result:
        """Carry the remedy out, and say what came of it."""
        started = self.clock()
        result = self._run()
        result.action["seconds"] = round(self.clock() - started, 2)
        return result

    def _run(self) -> Result:
        on = list(self.step["cures"])
        patience, gates = self.order.patience_seconds if self.order.follower else 0, self.step.get("gates") or []
        with ThreadPoolExecutor(max_workers=2) as beside:
            # Evidence is read while the guards are asked, and kept before anything is done.
            looked, gated = beside.submit(self.look), beside.submit(self.open_findings, [] if patience else gates)
            if not self.settled(on, patience):
                return Result(self._told("skipped", "what called for it has cleared by itself"), cured=True)
            items, blocked = looked.result(), gated.result()
        try:
            if refused := self.refusal(self.open_findings(gates) if patience else blocked):
                return self._given_up("skipped", "remedy-refused", refused, "")
            evidence = self.keep_evidence(items)
            self.act(self.step["acts"])
        except StateError as error:
            return self._given_up("skipped", "remedy-refused", f"no evidence or budget can be kept: {error}", "")
        except ActFailed as error:
            return self._revert(str(error), evidence)
        left = self.settled(self.step.get("verify") or on, float(self.step.get("within_seconds") or 30))
        if left:
            return self._revert(f"afterwards: {left[0]['title']} ({left[0]['observed']})", evidence)
        return Result(self._told("done", ", ".join(self.did)), [], evidence, changed=True, cured=True)

    def _revert(self, why: str, evidence: str) -> Result:
        taken_back = ""
        try:
            for place in reversed(self.replaced):
                runbook_good.give_back(place)
                taken_back = "; the configuration is as it was before"
            if self.did and self.step.get("revert"):
                self.act(self.step["revert"])
                taken_back = "; it was taken back"
        except (ActFailed, StateError) as error:
            taken_back = f"; it could not be taken back: {error}"
        return self._given_up("failed", "remedy-failed", why + taken_back, evidence, changed=bool(self.did))

    def _given_up(self, result: str, id: str, why: str, evidence: str, changed: bool = False) -> Result:
        title = "A remedy did not help" if id == "remedy-failed" else "A remedy was not allowed"
        left = finding(
            id,
            f"{title}: {self.step['id']}",
            subject=str(self.step["id"]),
            observed=why,
            expected=str(self.step["does"]),
            severity="critical",
            remedy="Escalate: this is for a person now. The evidence and the log say what was tried",
        )
        return Result(self._told(result, why), [left], evidence, changed=changed)

    def _told(self, result: str, detail: str) -> dict[str, Any]:
        order = self.order
        subject = ", ".join(order.targets[:3]) + (
            f" and {len(order.targets) - 3} more" if len(order.targets) > 3 else ""
        )
        return action(
            str(self.step["id"]),
            subject or str(self.step.get("part") or "host"),
            f"finding {order.because}",
            kind=str(self.step["kind"]),
            result=result,
            detail=detail,
        )
