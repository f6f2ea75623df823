# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""What the steps of log management do, each after reading anew what is due."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils.logs_archive import ArchiveError, Redact, archive_and_remove, expire, opened, writers
from ansible.module_utils.logs_files import LogFile, live_files, rotated_files
from ansible.module_utils.logs_limits import Limiter, LimitRefused
from ansible.module_utils.logs_logrotate import rotate
from ansible.module_utils.logs_planner import Plan, Thresholds, excess_mode, fingerprint, plan, strays_of
from ansible.module_utils.logs_policy import DISABLED, MARK, Policy, replaced_by
from ansible.module_utils.logs_proof import Proof
from ansible.module_utils.logs_staging import scratch
from ansible.module_utils.logs_survey import Picture, Service, Surveyor
from ansible.module_utils.runbook_result import action, finding, human_bytes
from ansible.module_utils.runbook_state import replace_text, sync_folder
from ansible.module_utils.runbook_tools import ToolError

TIMER_DROP_IN = "/etc/systemd/system/logrotate.timer.d/60-llm-cost-tracker.conf"
# Debian's timer may be up to half a day late, which is no hour.
TIMER_TEXT = MARK + "\n[Timer]\nOnCalendar=\nOnCalendar=hourly\nAccuracySec=1m\nRandomizedDelaySec=0\n"


class Refused(Exception):
    """A step is not carried out; the text says why and what to do."""


class Logs:
    """Carries out steps; `actions` and `findings` say what was done and what could not be."""

    def __init__(self, surveyor: Surveyor, thresholds: Thresholds, redact: Redact | None = None) -> None:
        self.surveyor, self.thresholds, self.redact = surveyor, thresholds, redact
        self.given, self.tools = surveyor.given, surveyor.tools
        self.actions: list[dict[str, Any]] = []
        self.findings: list[dict[str, Any]] = []

    def due(self) -> tuple[Picture, Plan]:
        picture = self.surveyor.look(write=False)
        return picture, plan(picture, self.thresholds, self.given.archive_after_days, hourly_timer_due(self.surveyor, picture))

    @contextlib.contextmanager
    def acting(self, step: str, subject: str, reason: str, **told: Any) -> Iterator[dict[str, Any]]:
        """Note an action around the work that carries it out. What fails is noted, and told as a finding; the rest goes on."""
        entry = action(step, subject, reason, **told)
        began = time.monotonic()
        self.actions.append(entry)
        try:
            yield entry
        except (ToolError, Refused, LimitRefused, ArchiveError, OSError) as error:
            entry.update(result="failed", detail=str(error)[:600])
            self.findings.append(finding(f"{step}-failed", "A step could not do its work", subject=subject, observed=str(error)[:600],
                                         severity="critical", remedy="See what was observed; nothing was lost"))  # fmt: skip
        else:
            entry["result"] = "done"
        finally:
            entry["seconds"] = round(time.monotonic() - began, 2)

    # --- policies -----------------------------------------------------------------------------------------------

    def policies(self) -> None:
        """Bring logrotate's configuration in order."""
        picture, planned = self.due()
        reasons = {a["subject"]: a["reason"] for a in planned.due("policies")}
        if picture.main_missing:
            with self.acting("policies", self.given.config, "there is none"):
                Path(self.given.config_dir).mkdir(mode=0o755, parents=True, exist_ok=True)
                replace_text(Path(self.given.config), f"{MARK}\ninclude {self.given.config_dir}\n", mode=0o644)
        for service in [s for s in picture.services if s.policy.name in reasons]:
            with self.acting("policies", service.policy.name, reasons[service.policy.name]) as entry:
                entry["detail"] = f"{service.policy.frequency}, {service.policy.reopen}"
                self._install(service)
        for path, text in picture.gone.items():
            with self.acting("policies", os.path.basename(path), "the inventory has no such policy any more"):
                self._remove(path, text)
        if "logrotate.timer" in reasons:
            with self.acting("policies", "logrotate.timer", reasons["logrotate.timer"]):
                self._set_timer(picture)
        policies = {file.path: s.policy for s in picture.services for file in [*s.live, *s.rotated]}
        for file in planned.tighten:
            policy = policies[file.path]
            mode = file.mode & int(policy.mode, 8)
            with self.acting("policies", file.path, reasons.get(file.path, ""), before=f"{file.mode:04o}", after=f"{mode:04o}"):
                _tighten(file, policy)
        if "readable by all" in picture.state_fault:
            with self.acting("policies", self.given.state_file, picture.state_fault):
                os.chmod(self.given.state_file, 0o640)

    def _install(self, service: Service) -> None:
        folder = Path(self.given.config_dir)
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name in service.policy.replaces:
            old = folder / name
            if old.is_file():
                # dpkg leaves a configuration file alone that is not where it put it.
                os.replace(old, folder / (name + DISABLED))
        replace_text(folder / service.policy.file_name, service.wanted, mode=0o644)

    def _remove(self, path: str, text: str) -> None:
        """Remove a policy that is gone, and give back what it had taken the place of."""
        still = {os.path.join(self.given.config_dir, name) for policy in self.given.policies for name in policy.replaces}
        for original in (os.path.join(self.given.config_dir, name) for name in replaced_by(text)):
            if original not in still and os.path.isfile(original + DISABLED) and not os.path.lexists(original):
                os.replace(original + DISABLED, original)
        # Last, as its text is all that says what has to be given back.
        os.unlink(path)
        sync_folder(Path(self.given.config_dir))

    def _set_timer(self, picture: Picture) -> None:
        path = Path(TIMER_DROP_IN)
        if any(s.policy.frequency == "hourly" for s in picture.services):
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            replace_text(path, TIMER_TEXT, mode=0o644)
        else:
            path.unlink(missing_ok=True)
        self.tools.run(["systemctl", "daemon-reload"], limit_seconds=60)
        self.tools.run(["systemctl", "restart", "logrotate.timer"], limit_seconds=60)

    # --- limits -------------------------------------------------------------------------------------------------

    def limits(self) -> None:
        """Bring journal, containers, PostgreSQL's log and temporary files in order."""
        limiter = Limiter(self.given.limits, self.tools)
        due, _ = limiter.look()
        for part in dict.fromkeys(change.part for change in due):
            mine = [change for change in due if change.part == part]
            with self.acting("limits", ", ".join(c.subject for c in mine), mine[0].reason, before=mine[0].before, after=mine[0].after):
                limiter.apply(part)

    # --- rotation -----------------------------------------------------------------------------------------------

    def rotate(self) -> None:
        """Carry out what is overdue, prove what was never proven, and bring writers back to their live files."""
        picture, planned = self.due()
        reasons = {a["subject"]: a for a in planned.due("rotate")}
        for service in picture.services:
            name = service.policy.name
            if name in planned.reopen:
                self._reopen(service, picture, reasons[name]["reason"])
            if name in planned.prove or name in planned.rotate:
                told = {k: reasons[name][k] for k in ("number", "threshold", "unit")}
                with self.acting("rotate", name, reasons[name]["reason"], **told) as entry:
                    self._rotate(service, entry, prove=name in planned.prove)
        if picture.scheduler == "timer" and (planned.prove or planned.rotate):
            self._run_service()

    def _rotate(self, service: Service, entry: dict[str, Any], prove: bool) -> None:
        if service.wanted != service.installed:
            raise Refused("its configuration is not in place; see the step policies")
        proof = Proof(service, self.tools, self.given.reopen_wait_seconds)
        if prove:
            with scratch() as folder:
                proof.in_scratch(folder)
        lives = [file for file in service.live if file.size]
        before = sum(file.size for file in lives)
        self._force(service)
        seen = proof.of_live(lives)
        entry.update(measure="bytes", before=before, after=sum(f.size for f in live_files(service.policy.paths)), detail=seen.detail)
        for file in rotated_files(service.policy.paths):
            if excess_mode(service.policy, file):
                _tighten(file, service.policy)
        self.findings += seen.findings
        if seen.fault:
            raise Refused(seen.fault)
        if prove or service.policy.name in self.surveyor.memory.get("proofs", {}):
            proven = {"config": fingerprint(service), "at": self.surveyor.now, "writers": seen.writers}
            self.surveyor.memory.setdefault("proofs", {})[service.policy.name] = proven
            self.surveyor.remember()

    def _force(self, service: Service) -> None:
        """Rotate the files of one policy now, with logrotate's own memory, so that the schedule knows of it."""
        config = os.path.join(self.given.config_dir, service.policy.file_name)
        Path(self.given.state_file).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        rotate(self.tools, config, self.given.state_file, force=True)

    def _reopen(self, service: Service, picture: Picture, reason: str) -> None:
        """Have the writers open their live files, and wait until they have."""
        argv = service.policy.reopen_argv(self.given.server)
        with self.acting("rotate", f"{service.policy.name}, reopen", reason):
            if argv is None:
                raise Refused("this policy has no way to tell its writers (reopen): restart them")
            self.tools.run(argv, limit_seconds=60)
            wait_until(lambda: not strays_of(self.surveyor.look_at_holders(picture), service), self.given.reopen_wait_seconds,
                       "they still write to the rotated file; restart them")  # fmt: skip

    def _run_service(self) -> None:
        """Start logrotate as its timer does: what works by hand may fail in the service (ProtectSystem, PrivateTmp)."""
        with self.acting("rotate", "logrotate.service", "a rotation by the timer has to work too"):
            done = self.tools.run(["systemctl", "start", "logrotate.service"], ok=range(256), limit_seconds=3600)
            if done.rc:
                log = self.tools.run(["journalctl", "--unit=logrotate.service", "--lines=20", "--output=cat", "--no-pager"],
                                     ok=range(256), limit_seconds=30).out  # fmt: skip
                said = [line for line in log.splitlines() if re.match(r"error:|warning:", line)]
                raise Refused(f"the service fails: {'; '.join(said[-5:]) or done.err.strip()}")

    # --- archive ------------------------------------------------------------------------------------------------

    def archive(self) -> None:
        """Archive what is old, and delete what is archived or past its retention."""
        picture, planned = self.due()
        told = {a["subject"]: a for a in planned.due("archive")}
        if planned.archive and self.given.archive is None:
            raise Refused("policies have archive=true, and logs_archive_location is not set")
        for policy, path in planned.archive:
            with self._moving(told[path]) as entry:
                self._archive_one(policy, path, picture.held, entry)
        for _, path in planned.delete:
            with self._moving(told[path]):
                self._delete(path)
        if self.given.archive is not None and not picture.archive_fault:
            for service in picture.services:
                self._expire(service, picture)

    @contextlib.contextmanager
    def _moving(self, planned: dict[str, Any]) -> Iterator[dict[str, Any]]:
        told = {k: planned[k] for k in ("number", "threshold", "unit", "measure", "before", "after")}
        with self.acting("archive", planned["subject"], planned["reason"], **told) as entry:
            yield entry

    def _archive_one(self, policy: str, path: str, held: str, entry: dict[str, Any]) -> None:
        assert self.given.archive is not None  # noqa: S101  archive() has refused
        outcome = archive_and_remove(path, policy, self.given.archive, self.redact, held)
        self.findings += outcome.findings
        if outcome.kept:
            masked = f", {outcome.kept.redacted} values masked" if outcome.kept.redacted else ""
            entry["detail"] = f"{outcome.kept.name}, sha256 {outcome.kept.sha256[:16]}, {human_bytes(outcome.kept.bytes)}{masked}"
        if outcome.refused and not (held and outcome.kept):
            raise Refused(outcome.refused)

    def _delete(self, path: str) -> None:
        with opened(path) as file:
            if who := writers(file.fileno()):
                raise Refused(f"{who} writes to it")
            if not os.path.samestat(os.fstat(file.fileno()), os.lstat(path)):
                raise Refused("it was replaced just now")
            os.unlink(path)

    def _expire(self, service: Service, picture: Picture) -> None:
        assert self.given.archive is not None  # noqa: S101  archive() has looked
        policy = service.policy
        most = policy.max_days or self.given.archive_max_days
        for kept in expire(self.given.archive, policy.name, most, picture.held, picture.now):
            age = round((picture.now - kept.mtime) / 86400, 1)
            self.actions.append(action("archive", kept.name, "the archived copy is older than the policy allows", number=age, threshold=most,
                                       unit="days", measure="bytes", before=kept.bytes, after=0, result="done"))  # fmt: skip


def _tighten(file: LogFile, policy: Policy) -> None:
    """Take away what the mode of a file allows beyond its policy. One that was rotated on meanwhile has its turn in the next run."""
    try:
        with opened(file.path) as handle:
            if os.fstat(handle.fileno()).st_ino == file.inode:
                os.fchmod(handle.fileno(), file.mode & int(policy.mode, 8))
    except ArchiveError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise


def hourly_timer_due(surveyor: Surveyor, picture: Picture) -> bool:
    """Return whether logrotate's timer has to become hourly, or daily again."""
    if surveyor.given.schedule != "system" or picture.scheduler != "timer":
        return False
    hourly = any(s.policy.by_logrotate and s.policy.frequency == "hourly" for s in picture.services)
    return hourly != os.path.exists(TIMER_DROP_IN)


def wait_until(holds: Callable[[], bool], limit_seconds: float, otherwise: str) -> None:
    """Wait until something holds. Raise Refused after the limit."""
    until = time.monotonic() + limit_seconds
    while not holds():
        if time.monotonic() > until:
            raise Refused(otherwise)
        time.sleep(0.1)
