# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""What is due of a host's logs, and what is wrong with them: decided over a picture, without looking at anything."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.logs_archive import Kept
from ansible.module_utils.logs_files import LogFile, live_name
from ansible.module_utils.logs_logrotate import Problem
from ansible.module_utils.logs_policy import SECONDS, Policy, covers
from ansible.module_utils.logs_survey import FileSystem, Picture, Service
from ansible.module_utils.runbook_result import action, finding, human_bytes

DAY = 86400
# A rotation that is late by this much has not happened: timers are randomised by up to an hour, and a day may have 25.
LATE = 2.0
# A writer needs a moment to see that its file was renamed.
STRAY_SECONDS = 60
DAMAGED_BYTES_PERCENT = 5
# A finding for each of thousands of files hides the others.
SHOWN_FILES = 20


@dataclass(frozen=True)
class Thresholds:
    """What is reported; names are those of the role's inputs without logs_."""

    space_warn_percent: float = 15
    inodes_warn_percent: float = 10
    forecast_warn_days: float = 14
    uncovered_warn_bytes: int = 1024 * 1024
    deleted_warn_bytes: int = 64 * 1024 * 1024


@dataclass
class Plan:
    """Actions in their order, and findings. `blocked` names policies that cannot be carried out."""

    actions: list[dict[str, Any]] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    blocked: dict[str, str] = field(default_factory=dict)
    prove: list[str] = field(default_factory=list)
    rotate: list[str] = field(default_factory=list)
    reopen: list[str] = field(default_factory=list)
    tighten: list[LogFile] = field(default_factory=list)
    archive: list[tuple[str, str]] = field(default_factory=list)
    delete: list[tuple[str, str]] = field(default_factory=list)

    def due(self, step: str) -> list[dict[str, Any]]:
        return [each for each in self.actions if each["step"] == step]


def fingerprint(service: Service) -> str:
    """Return what a proof is worth: the configuration it was made with, and the kind of writer."""
    return hashlib.sha256(service.wanted.encode()).hexdigest()[:16]


def plan(picture: Picture, thresholds: Thresholds, archive_after_days: int = 7, hourly_timer: bool = False) -> Plan:
    """Return what is due and what is wrong."""
    result = Plan()
    for program in picture.missing:
        result.actions.append(action("policies", program, "it is not on this host"))
        result.findings.append(finding("program-missing", "A program is missing", subject=program,
                                       remedy=f"apt-get install {program}, or logs_manage_packages"))  # fmt: skip
    for service in picture.services:
        if reason := _why_blocked(service):
            result.blocked[service.policy.name] = reason
            result.findings.append(finding("policy-blocked", "A policy is not carried out", subject=service.policy.name, observed=reason,
                                           remedy="Correct logs_policies"))  # fmt: skip
    _plan_policies(picture, result, hourly_timer)
    for change in picture.limits:
        seen = f"{change.before} -> {change.after}"
        result.actions.append(action("limits", change.subject, change.reason, detail=seen))
    _plan_rotations(picture, result)
    _plan_archive(picture, result, archive_after_days)
    result.findings += picture.limit_findings
    result.findings += [*_configuration(picture, result), *_schedule(picture), *_files(picture, thresholds, result), *_retention(picture, result),
                        *_space(picture, thresholds)]  # fmt: skip
    return result


def _why_blocked(service: Service) -> str:
    policy = service.policy
    if not policy.by_logrotate:
        return ""
    if service.blocked:
        return service.blocked
    if service.unknown_owner:
        return f"{service.unknown_owner} is not known on this host"
    if service.refused:
        return f"logrotate would not carry it out: {'; '.join(service.refused)}"
    if reason := rotates_itself(service):
        return f"{reason}: set rotated_by to application, or turn the application's own rotation off first"
    return ""


def rotates_itself(service: Service) -> str:
    """Return how it shows that the writer rotates its own file: app.log.1, app.log.2..., plain and of one size; "" if it does not."""
    for live in service.live:
        own = [f for f in service.rotated if re.fullmatch(re.escape(live.path) + r"\.\d+", f.path)]
        sizes = [f.size for f in own]
        if len(own) >= 2 and min(sizes) >= max(sizes) * (1 - DAMAGED_BYTES_PERCENT / 100) > 0:
            return f"{live.path} is rotated by its own application ({len(own)} files of about {human_bytes(max(sizes))})"
    return ""


# --- policies -----------------------------------------------------------------------------------------------------


def _plan_policies(picture: Picture, result: Plan, hourly_timer: bool) -> None:
    if any(s.policy.by_logrotate for s in picture.services) and picture.main_missing:
        result.actions.append(action("policies", "logrotate.conf", "there is none"))
    for service in picture.services:
        policy = service.policy
        if policy.by_logrotate and policy.name not in result.blocked and (
            service.wanted != service.installed or service.superseded or service.ignored
        ):
            reason = "the policy is new" if not service.installed else "the policy has changed"
            if service.ignored and service.wanted == service.installed:
                reason = f"logrotate ignores its file: {service.ignored}"
            if service.superseded and service.wanted == service.installed:
                reason = f"{', '.join(service.superseded)} is in force again"
            result.actions.append(action("policies", policy.name, reason, detail=f"{policy.frequency}, {policy.reopen}"))
    for path in picture.gone:
        result.actions.append(action("policies", os.path.basename(path), "the inventory has no such policy any more"))
    if hourly_timer:
        result.actions.append(action("policies", "logrotate.timer", "a policy is hourly, and logrotate is started once a day"))
    for service in picture.services:
        if service.policy.name in result.blocked:
            continue
        # The mode of a file that its writer makes is the writer's matter: it would be wide again after each rotation.
        ours = service.live if service.policy.by_logrotate and service.rendering.create else []
        for file in [*ours, *service.rotated]:
            if excess := excess_mode(service.policy, file):
                result.tighten.append(file)
                reason = f"mode {file.mode:04o} allows what {service.policy.mode} does not ({excess:04o})"
                result.actions.append(action("policies", file.path, reason))


def excess_mode(policy: Policy, file: LogFile) -> int:
    """Return what a file allows beyond its policy."""
    return file.mode & ~int(policy.mode, 8) & 0o777


# --- rotation -----------------------------------------------------------------------------------------------------


def _plan_rotations(picture: Picture, result: Plan) -> None:
    for service in picture.services:
        policy = service.policy
        if not policy.by_logrotate or policy.name in result.blocked:
            continue
        if stray := strays_of(picture, service):
            result.reopen.append(policy.name)
            who = ", ".join(sorted({f"{h.process} ({h.pid})" for h in stray}))
            result.actions.append(action("rotate", policy.name, f"{who} writes to a file that was rotated away"))
        filled = [f for f in service.live if f.size > 0]
        if late := overdue(service, picture):
            result.rotate.append(policy.name)
            result.actions.append(action("rotate", policy.name, late[0], number=late[1], threshold=late[2], unit=late[3]))
        proof = picture.proofs.get(policy.name) or {}
        if filled and proof.get("config") != fingerprint(service):
            result.prove.append(policy.name)
            if not late:
                reason = "its configuration has changed since it was proven" if proof else "it was never proven on this host"
                result.actions.append(action("rotate", policy.name, reason))


def overdue(service: Service, picture: Picture) -> tuple[str, Any, Any, str] | None:
    """Return why a rotation should have happened and has not: reason, number, threshold and unit."""
    policy = service.policy
    for file in service.live:
        if policy.max_size_bytes and file.size > policy.max_size_bytes * LATE:
            return f"{file.path} is larger than twice its limit", file.size, policy.max_size_bytes, "bytes"
        seen = picture.rotated_at.get(file.path)
        if seen and file.size and picture.now - seen > policy.interval_seconds * LATE:
            return f"{file.path} was last rotated long ago", round((picture.now - seen) / 3600), policy.interval_seconds // 3600, "hours"
    return None


def strays_of(picture: Picture, service: Service) -> list[Any]:
    """Return who still writes to a rotated or deleted file of this policy, though its live file is another."""
    lives = {f.path for f in service.live}
    rotated = {(f.device, f.inode): f for f in service.rotated}
    # One that watches its file looks with its next line: as long as it writes none, it may hold what it has.
    watches = service.policy.reopen == "watched"
    told = []
    for holder in picture.strays:
        if holder.deleted:
            if not watches and (holder.path in lives or covers(service.policy.paths, holder.path)):
                told.append(holder)
        elif (file := rotated.get((holder.device, holder.inode))) and (not watches or _written_since(file, picture)):
            told.append(holder)
    return told


def _written_since(file: LogFile, picture: Picture) -> bool:
    """Return whether a rotated file was written to after its rotation, as far as that is known by its name or logrotate's memory."""
    stamp = re.search(r"-(\d{9,11})(?:\.\w+)?$", file.path)
    moment = float(stamp[1]) if stamp else picture.rotated_at.get(live_name(file.path))
    return moment is None or file.mtime > moment + STRAY_SECONDS


# --- archive and retention ------------------------------------------------------------------------------------------


def archived_as(file: LogFile, archived: Iterable[Kept]) -> Kept | None:
    """Return the archive's entry of a rotated file, known by name and time."""
    return next((k for k in archived if k.source == file.path and k.removed_at is None and abs(k.mtime - file.mtime) < 2), None)


def _plan_archive(picture: Picture, result: Plan, after_days: int) -> None:
    for service in picture.services:
        policy = service.policy
        if not policy.by_logrotate or policy.name in result.blocked:
            continue
        held = {(h.device, h.inode) for h in service.writers}
        excess = len(service.rotated) - policy.keep
        for number, file in enumerate(service.rotated):
            age = (picture.now - file.mtime) / DAY
            if (file.device, file.inode) in held:
                continue
            if policy.archive:
                if age >= after_days or number < excess:
                    why = "it is old enough" if age >= after_days else "there are more than the policy keeps"
                    _plan_move(picture, result, policy, file, why, round(age, 1), after_days)
            elif policy.max_days and age > policy.max_days and not picture.held:
                result.delete.append((policy.name, file.path))
                result.actions.append(action("archive", file.path, "it is older than the policy allows", number=round(age, 1),
                                             threshold=policy.max_days, unit="days", measure="bytes", before=file.disk, after=0))  # fmt: skip


def _plan_move(picture: Picture, result: Plan, policy: Policy, file: LogFile, why: str, age: float, after_days: int) -> None:
    known = archived_as(file, picture.archived)
    if picture.archive_fault or (known and picture.held):
        return
    result.archive.append((policy.name, file.path))
    if not picture.held:
        why += ", and it is in the archive" if known else ""
    after = file.disk if picture.held else 0
    result.actions.append(action("archive", file.path, why, number=age, threshold=after_days, unit="days", measure="bytes",
                                 before=file.disk, after=after))  # fmt: skip


def _retention(picture: Picture, result: Plan) -> list[dict[str, Any]]:
    told = []
    going = {path for _, path in [*result.archive, *result.delete]}
    for service in picture.services:
        policy = service.policy
        kept = retention(service, picture)
        most = policy.max_days or float("inf")
        if old := [f for f in service.rotated if (picture.now - f.mtime) / DAY > most and f.path not in going]:
            why = "under a hold" if picture.held else "left by the application" if not policy.by_logrotate else "that cannot go"
            told.append(finding("retention-long", "Logs are kept longer than the policy allows", subject=policy.name,
                                observed=f"{len(old)} files {why}, the oldest of {kept['oldest_days']:.0f} days",
                                expected=f"at most {policy.max_days} days",
                                severity="info" if picture.held else "warning", remedy="Lift the hold, or delete them"))  # fmt: skip
        if kept["verdict"] == "too short":
            told.append(finding("retention-short", "Logs are gone before the policy allows", subject=policy.name,
                                observed=f"{kept['files']} rotated files reach {kept['oldest_days']:.1f} days back",
                                expected=f"at least {policy.keep_days} days", remedy=_lengthen(policy)))  # fmt: skip
    return told


def _lengthen(policy: Policy) -> str:
    if not policy.by_logrotate:
        return "Raise the number of files that the application keeps, or log to a file that logrotate rotates"
    return "Raise keep or max_size, or set archive to true"


def retention(service: Service, picture: Picture) -> dict[str, Any]:
    """Return how far a service's lines reach back, on the host and in the archive, and what the policy says to that."""
    policy = service.policy
    archived = [k.mtime for k in picture.archived if k.policy == policy.name]
    times = [f.mtime for f in [*service.rotated, *service.live]] + archived
    oldest = (picture.now - min(times)) / DAY if times else 0.0
    verdict = "as the policy says"
    # Only where files had to go to make room: a young service has no old lines.
    full = len(service.rotated) >= policy.keep and not policy.archive
    if policy.keep_days and full and oldest < policy.keep_days:
        verdict = "too short"
    elif policy.max_days and oldest > policy.max_days:
        verdict = "too long"
    return {"name": policy.name, "files": len(service.rotated), "bytes": service.bytes,
            "oldest_days": round(oldest, 1), "keep_days": policy.keep_days, "max_days": policy.max_days, "archived": len(archived),
            "classification": policy.classification, "verdict": verdict}  # fmt: skip


# --- findings -------------------------------------------------------------------------------------------------------

_TITLES = {
    "ignored": "logrotate ignores a file of its configuration",
    "hangs": "logrotate never ends",
    "size-and-time": "A size and a time exclude each other in logrotate",
    "hourly-never": "An hourly rotation never happens",
    "same-name": "A second rotation on one day fails",
    "no-compressor": "The compressor of a rotation is missing",
    "copytruncate": "A rotation may lose lines",
    "rotate-0": "A rotation deletes what it rotates",
    "protected-path": "logrotate.service cannot rotate a file",
    "container-log": "logrotate rotates the log of a container",
    "duplicate": "Two configurations rotate one file",
    "message": "logrotate complains about its configuration",
}
_SEVERITIES = {"copytruncate": "info", "hangs": "critical"}
_REMEDIES = {
    "ignored": "chown root:root, chmod 0644",
    "hangs": "Remove it",
    "copytruncate": "Let the writer open its file anew (reopen), or accept the loss",
    "duplicate": "Remove one of them; a policy takes over with replaces",
    "no-compressor": "Install it",
}


def _configuration(picture: Picture, result: Plan) -> list[dict[str, Any]]:
    told = []
    for problem in picture.problems:
        told.append(_problem(problem))
    if picture.state_fault:
        told.append(finding("logrotate-state", "logrotate's memory is not as it must be", observed=picture.state_fault,
                            remedy="See logrotate(8), STATE FILE"))  # fmt: skip
    for service in picture.services:
        policy = service.policy
        if policy.reopen == "copytruncate" and policy.by_logrotate:
            told.append(finding("copytruncate", "A rotation may lose lines", subject=policy.name, severity="info",
                                observed="lines that are written between copy and truncation are lost",
                                remedy="Let the writer open its file anew (reopen), or accept the loss"))  # fmt: skip
        if not policy.by_logrotate:
            other = next((b for b in picture.blocks for f in service.live if covers(b.patterns, f.path)), None)
            if other:
                told.append(finding("rotated-twice", "logrotate and the application rotate one file", subject=policy.name,
                                    observed=f"{other.file}:{other.line}", remedy="Take the file out of that configuration"))  # fmt: skip
            writers = {h.pid for h in service.writers}
            if len(writers) > 1:
                told.append(finding("rotated-by-many", "Several processes rotate one file, and each loses lines of the others", subject=policy.name,
                                    observed=f"{len(writers)} processes write to it", severity="info",
                                    remedy="Log to standard output, or with a handler that watches its file, and let logrotate rotate"))  # fmt: skip
    return told


def _problem(problem: Problem) -> dict[str, Any]:
    subject = f"{problem.file}:{problem.line}" if problem.line else problem.file
    return finding(f"logrotate-{problem.kind}", _TITLES.get(problem.kind, _TITLES["message"]), subject=subject, observed=problem.text,
                   severity=_SEVERITIES.get(problem.kind, "warning"),
                   remedy=_REMEDIES.get(problem.kind, "Correct that line, and look at it with logrotate --debug"))  # fmt: skip


def _schedule(picture: Picture) -> list[dict[str, Any]]:
    if not any(s.policy.by_logrotate for s in picture.services):
        return []
    if not picture.scheduler:
        return [finding("logrotate-never-runs", "Nothing starts logrotate", observed="no timer and no cron job", severity="critical",
                        remedy="systemctl enable --now logrotate.timer; in a container without systemd, logs_schedule=run")]  # fmt: skip
    days = (picture.now - picture.last_run) / DAY if picture.last_run else 0.0
    # A time that is still to come is of a run before the clock was set back.
    if picture.scheduler != "run" and (days > 2.5 or days < -1):
        seen = f"{days:.1f} days ago" if days > 0 else f"{-days:.1f} days in the future"
        return [finding("logrotate-stale", "logrotate has not run for days", observed=seen, expected="every day",
                        remedy="systemctl status logrotate.service; an error in one file makes it fail")]  # fmt: skip
    told = []
    for block in picture.blocks:
        frequency = block.value("frequency") or ""
        late = SECONDS.get(frequency, 366 * DAY) * LATE + DAY
        mine = [path for path in picture.filled if covers(block.patterns, path)]
        for path in mine:
            days = (picture.now - picture.rotated_at.get(path, picture.now)) / DAY
            if days * DAY > late:
                told.append(finding("never-fired", "A rotation has not happened", subject=path, observed=f"last one {days:.0f} days ago",
                                    expected=frequency, remedy=f"logrotate --debug {block.file}"))  # fmt: skip
    return told


def _files(picture: Picture, thresholds: Thresholds, result: Plan) -> list[dict[str, Any]]:
    told = []
    for file in picture.uncovered:
        if file.size >= thresholds.uncovered_warn_bytes:
            told.append(finding("uncovered", "No policy rotates this file", subject=file.path, observed=human_bytes(file.size),
                                remedy="Add it to logs_policies, or to logs_ignored_paths"))  # fmt: skip
    tightened = {file.path for file in result.tighten}
    for service in picture.services:
        told += _files_of(service, tightened)
    known = set(result.reopen)
    for service in picture.services:
        for holder in strays_of(picture, service):
            told.append(_stray(holder, service.policy.name, service.policy.name in known))
    seen = {(h.pid, h.inode) for s in picture.services for h in strays_of(picture, s)}
    for holder in picture.strays:
        if (holder.pid, holder.inode) not in seen and holder.deleted and holder.disk_bytes >= thresholds.deleted_warn_bytes:
            told.append(_stray(holder, "", False))
    if not picture.complete:
        told.append(finding("holders-incomplete", "Not every process could be looked into", severity="info",
                            observed="some belong to others, or may do more than this user",
                            remedy="Run it with become"))  # fmt: skip
    return told


def _files_of(service: Service, tightened: set[str]) -> list[dict[str, Any]]:
    """Return what is wrong with modes, names and kinds of a policy's files; `tightened` are put in order by this run."""
    told = []
    policy = service.policy
    wide = [f for f in service.live if excess_mode(policy, f) & 0o007 and f.path not in tightened and policy.classification != "public"]
    shown = [(f.path, f"{f.mode:04o}") for f in wide[:SHOWN_FILES]]
    if len(wide) > SHOWN_FILES:
        shown.append((policy.name, f"{len(wide) - SHOWN_FILES} more files"))
    for subject, seen in shown:
        told.append(finding("log-readable", "A log can be read by everybody", subject=subject, observed=seen,
                            expected=policy.mode, remedy="Set the umask of its writer (UMask= of the unit)"))  # fmt: skip
    for file in [*service.live, *service.rotated]:
        if not file.path.isprintable():
            told.append(finding("odd-name", "A log has a name that is no plain text", subject=file.path, severity="info",
                                observed="its lines are not scanned", remedy="Rename it"))  # fmt: skip
    for path, what in service.no_files:
        told.append(finding("no-log-file", "A policy names what is never rotated", subject=path, observed=what, expected="a regular file",
                            remedy="Let the policy name the file itself"))  # fmt: skip
    return told


def _stray(holder: Any, policy: str, will_reopen: bool) -> dict[str, Any]:
    what = "deleted" if holder.deleted else "rotated"
    remedy = "It is told to open its file anew" if will_reopen else "Let it open its file anew, or restart it"
    return finding(f"writer-on-{what}", f"A program writes to a {what} file", subject=f"{holder.process} ({holder.pid}): {holder.path}",
                   observed=f"{human_bytes(holder.disk_bytes)}{', policy ' + policy if policy else ''}",
                   expected="the live file", remedy=remedy)  # fmt: skip


def _space(picture: Picture, thresholds: Thresholds) -> list[dict[str, Any]]:
    told = []
    if picture.held:
        told.append(finding("hold", "A hold keeps everything", observed=picture.held, severity="info", remedy="Lift it when the incident is over"))
    if picture.archive_fault:
        told.append(finding("archive-unusable", "The archive cannot be used", observed=picture.archive_fault, severity="critical",
                            remedy="Nothing that has to be archived is deleted meanwhile; correct logs_archive_location"))  # fmt: skip
    for each in picture.filesystems:
        told += _space_of(each, thresholds)
    return told


def _space_of(each: FileSystem, thresholds: Thresholds) -> list[dict[str, Any]]:
    told = []
    if each.read_only:
        told.append(finding("filesystem-read-only", "A file system is read-only", subject=each.mount, severity="critical", observed="read-only",
                            remedy="Look into the kernel's log: dmesg | grep -i remount"))  # fmt: skip
    if each.free_percent < thresholds.space_warn_percent:
        more = []
        if each.deleted_open:
            more.append(f"{human_bytes(each.deleted_open)} are in deleted files that are still open")
        if each.free == 0 and each.free_root > 0:
            more.append(f"{human_bytes(each.free_root)} are reserved for root")
        seen = f"{each.free_percent:.0f} % free, {human_bytes(each.free)}{': ' if more else ''}{', '.join(more)}"
        told.append(finding("space-low", "A file system is nearly full", subject=each.mount, observed=seen,
                            expected=f"{thresholds.space_warn_percent:.0f} %",
                            severity="critical" if each.free_percent < 5 else "warning",
                            remedy="--set logs_reclaim_target_percent=20; --check shows the bytes of each rung"))  # fmt: skip
    if each.inodes_free_percent < thresholds.inodes_warn_percent:
        told.append(finding("inodes-low", "A file system runs out of names, whatever space it has", subject=each.mount,
                            observed=f"{each.inodes_free_percent:.0f} % of the inodes are free",
                            expected=f"{thresholds.inodes_warn_percent:.0f} %",
                            severity="critical" if each.inodes_free_percent < 2 else "warning",
                            remedy="Find the folder with most files"))  # fmt: skip
    left = each.forecast.days_left if each.forecast else None
    if left is not None and left < thresholds.forecast_warn_days:
        told.append(finding("fills-soon", "A file system will be full", subject=each.mount, observed=f"in {left:.1f} days",
                            expected=f"not within {thresholds.forecast_warn_days:.0f} days",
                            remedy="Archive sooner, keep less, or enlarge it"))  # fmt: skip
    return told


def facts_of(picture: Picture) -> dict[str, Any]:
    """Return what a report shows: retention of services, space of file systems, and how both have grown."""
    systems = [
        {"name": each.mount, "size": each.size, "used": each.used, "free_percent": round(each.free_percent, 1), "deleted_open": each.deleted_open}
        for each in picture.filesystems
    ]
    curves = [
        *(_curve("file system", e.mount, e.samples, e.forecast, e.used + e.free) for e in picture.filesystems),
        *(_curve("service", s.policy.name, s.history, s.forecast, 0) for s in picture.services),
    ]
    return {
        "services": [retention(service, picture) for service in picture.services],
        "filesystems": systems,
        "curves": [curve for curve in curves if curve["points"]],
        "read_at": picture.now,
        **({"held": picture.held} if picture.held else {}),
    }


def _curve(kind: str, subject: str, points: Iterable[tuple[float, float]], told: Any, capacity: int) -> dict[str, Any]:
    return {
        "of": kind,
        "subject": subject,
        "points": [[round(moment), round(value)] for moment, value in points],
        "capacity": capacity,
        "trend": told.kind if told else "unknown",
        "bytes_per_day": round(told.slope_bytes_per_day) if told else 0,
        "days_left": round(told.days_left, 1) if told and told.days_left is not None else None,
    }
