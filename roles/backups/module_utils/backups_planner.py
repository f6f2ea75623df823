# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""What is due, and what is wrong: pure decisions over what was read of server, repositories, sets and drills.

Times are seconds since 1970, sizes bytes. Nothing here reads a clock, a file or a server.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.backups_engine import DIFF, FULL, WAL, Backup, Repository, by_label, sound
from ansible.module_utils.runbook_result import action, finding

HOUR, DAY = 3600.0, 86400.0


@dataclass(frozen=True)
class Limits:
    """What must be true; the names and defaults are those of the role's inputs."""

    full_max_age_hours: int = 168
    diff_max_age_hours: int = 24
    keep_full: int = 2
    keep_days: int = 30
    drill_max_age_days: int = 7
    wal_max_lag_seconds: int = 300
    verify_max_age_hours: int = 20
    rto_seconds: int = 3600
    rpo_seconds: int = 300
    repository_warn_percent: int = 85
    repository_warn_days: int = 14
    backup_warn_seconds: int = 14400
    clock_skew_warn_seconds: int = 300


@dataclass(frozen=True)
class Archiving:
    """How the live server gets rid of its WAL, and since when the oldest file waits for that."""

    mode: str = "on"
    oldest_ready_at: float | None = None


@dataclass(frozen=True)
class Live:
    """The live server. `state` is primary, standby or down."""

    state: str = "primary"
    message: str = ""
    archiving: Archiving = field(default_factory=Archiving)
    now: float | None = None


@dataclass(frozen=True)
class Files:
    """The repository of files. `state` is ready, absent, error, or off where a set has none.

    `damaged` are files of it that can be moved aside, `mended_at` when that was done last: what was saved before may not
    be whole.
    """

    state: str = "off"
    message: str = ""
    snapshots: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()
    held_locks: tuple[str, ...] = ()
    stale_locks: tuple[str, ...] = ()
    append_only: bool | None = None
    encrypted: bool = True
    damaged: tuple[str, ...] = ()
    mended_at: float | None = None


@dataclass(frozen=True)
class Space:
    """The file system of a local repository."""

    path: str
    total_bytes: int
    free_bytes: int
    same_as_data: bool
    growth_bytes_per_day: float | None = None


@dataclass(frozen=True)
class Picture:
    """All that was read. `problems` are of verification, by label; `settings` what has to be configured, and why."""

    now: float
    live: Live
    repository: Repository
    engine: str
    kinds: tuple[str, ...] = (FULL, DIFF)
    problems: dict[str, list[str]] = field(default_factory=dict)
    verified_at: float | None = None
    files: Files = field(default_factory=Files)
    sets: tuple[dict[str, Any], ...] = ()
    damaged_sets: dict[str, str] = field(default_factory=dict)
    drills: tuple[dict[str, Any], ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    restart_needed: str = ""
    spaces: tuple[Space, ...] = ()
    uncovered: tuple[tuple[str, str], ...] = ()
    passphrase_kept_at: str = ""
    passphrase_beside: tuple[str, ...] = ()
    queue_limit: str = ""
    append_only: bool = False
    unwritable: str = ""
    missing: tuple[str, ...] = ()
    may_install: bool = True
    leftovers: tuple[str, ...] = ()


@dataclass
class Plan:
    """Actions in their order and findings; `kind` is that of the set to take, empty where none is due."""

    actions: list[dict[str, Any]] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    kind: str = ""
    expire: list[Backup] = field(default_factory=list)
    drop_sets: list[str] = field(default_factory=list)
    drill_set: str = ""
    blocked: str = ""


def good_backups(picture: Picture) -> list[Backup]:
    """Return the backups that verify and whose own WAL is there, oldest first. What does not verify counts as none."""
    archive = picture.repository.archive
    return sorted(
        (
            backup
            for backup in picture.repository.backups
            if sound(backup, picture.problems)
            and not [gap for gap in archive.gaps if backup.wal_start <= gap <= backup.wal_stop]
        ),
        key=lambda backup: backup.stopped,
    )


def good_sets(picture: Picture) -> list[dict[str, Any]]:
    """Return the sets all of whose parts are there and sound, oldest first."""
    labels = by_label(good_backups(picture))
    archive = picture.repository.archive
    found = []
    for each in picture.sets:
        backup = labels.get(each["database"]["label"])
        if backup is None:
            continue
        point = str(each["database"]["figures"].get("wal_file", ""))
        if any(backup.wal_start <= gap <= point for gap in archive.gaps if gap[:8] == point[:8]):
            continue
        files = picture.files
        if each["snapshot"] and files.state == "ready" and each["snapshot"] not in files.snapshots:
            continue
        found.append(each)
    return sorted(found, key=lambda each: float(each["finished"]))


def proofs(picture: Picture) -> list[dict[str, Any]]:
    """Return the drills that passed and still prove something, oldest first: not those of what was damaged since."""
    good = {each["set"] for each in good_sets(picture)}
    damaged = {each["set"] for each in picture.sets} - good
    since = picture.files.mended_at or 0.0
    passed = [d for d in picture.drills if d["result"] == "passed" and d["set"] not in damaged and d["at"] >= since]
    return sorted(passed, key=lambda drill: float(drill["at"]))


def plan(picture: Picture, limits: Limits) -> Plan:
    """Return what is due and what is wrong."""
    result = Plan()
    result.findings += _about_server(picture, limits)
    result.findings += _about_repository(picture, limits)
    result.findings += _about_files(picture)
    result.findings += _about_surroundings(picture, limits)
    result.blocked = _blocked(picture)
    if not result.blocked:
        _due(picture, limits, result)
    result.findings += _about_age(picture, limits, result)
    result.findings += _about_drills(picture, limits)
    return result


def _blocked(picture: Picture) -> str:
    """Return why nothing can be taken now; empty if all is ready."""
    live, repository, files = picture.live, picture.repository, picture.files
    if picture.missing and picture.may_install:
        repository, files = Repository("absent"), Files()
    why = {
        live.message or "the server does not answer": live.state == "down",
        "the server is a standby; sets are taken where its primary is": live.state == "standby",
        f"missing programs: apt-get install {' '.join(picture.missing)}": picture.missing and not picture.may_install,
        repository.message: repository.state in ("mismatch", "error"),
        files.message: files.state == "error",
        picture.restart_needed: picture.restart_needed,
        picture.unwritable: picture.unwritable,
    }
    return next((text for text, holds in why.items() if holds), "")


def _due(picture: Picture, limits: Limits, result: Plan) -> None:
    for program in picture.missing:
        result.actions.append(action("repositories", program, "it is not on this host"))
    for subject, why in picture.settings:
        result.actions.append(action("repositories", subject, why))
    for lock in picture.files.stale_locks:
        result.actions.append(action("repositories", lock, "its process is gone"))
    for name in picture.files.damaged:
        result.actions.append(action("repositories", name, "it is moved aside, and what it held saved anew"))
    for left in picture.leftovers:
        result.actions.append(action("repositories", left, "left by a run that was killed"))
    _due_set(picture, limits, result)
    _due_expiry(picture, limits, result)
    _due_drill(picture, limits, result)


def _due_set(picture: Picture, limits: Limits, result: Plan) -> None:
    good = good_backups(picture)
    sets = good_sets(picture)
    full = max((b.stopped for b in good if b.kind == FULL), default=None)
    newest = max((float(each["finished"]) for each in sets), default=None)
    hours = _hours(picture.now, full)
    if hours is None or hours > limits.full_max_age_hours:
        why = "no full backup that verifies" if hours is None else "the newest full backup is too old"
        result.kind = FULL
        number, limit = hours, limits.full_max_age_hours
    else:
        hours = _hours(picture.now, newest)
        broken = newest is not None and newest < (picture.files.mended_at or 0.0)
        if hours is not None and hours <= limits.diff_max_age_hours and not broken:
            return
        why = "no whole set" if hours is None else "the newest set is too old"
        why = "files of sets were damaged" if broken else why
        # An engine that cannot take differences of this server goes on from the full one by its WAL.
        result.kind = DIFF if DIFF in picture.kinds else WAL
        newest_good = good[-1] if good else None
        if result.kind == WAL and newest_good and picture.repository.archive.gap_after(newest_good.wal_start):
            result.kind, why = FULL, "WAL is missing since the newest backup"
        number, limit = hours, limits.diff_max_age_hours
    subject = {FULL: "full set", DIFF: "differential set", WAL: "set of WAL and files"}[result.kind]
    result.actions.append(
        action("set", subject, why, number=None if number is None else round(number, 1), threshold=limit, unit="hours")
    )


def _hours(now: float, then: float | None) -> float | None:
    # A backup from the future is one of a clock that was wrong; it is as old as nothing is.
    return None if then is None or then > now + HOUR else (now - then) / HOUR


def _due_expiry(picture: Picture, limits: Limits, result: Plan) -> None:
    if picture.append_only:
        return
    good = [backup for backup in good_backups(picture) if backup.kind == FULL]
    dated = sorted((b for b in picture.repository.backups if b.kind == FULL), key=lambda b: b.stopped)
    gone: list[Backup] = []
    for full in dated[:-1]:
        newer = [each for each in good if each.stopped > full.stopped and each.stopped <= picture.now]
        # Whoever wants to go back keep_days needs the last full backup before that day.
        covered = any(each.stopped <= picture.now - limits.keep_days * DAY for each in newer)
        if len(newer) < limits.keep_full or not covered:
            break
        gone.append(full)
    names = {full.label for full in gone}
    gone += [b for b in picture.repository.backups if names & set(b.needs) and b.label not in names]
    result.expire = gone
    for backup in gone:
        age = round((picture.now - backup.stopped) / DAY)
        result.actions.append(
            action("expire", backup.label, "newer backups cover the days to keep", number=age,
                   threshold=limits.keep_days, unit="days", before=backup.repository_bytes, after=0, measure="bytes")
        )  # fmt: skip
    left = {b.label for b in picture.repository.backups} - {b.label for b in gone}
    if picture.repository.state == "ready":
        result.drop_sets = [each["set"] for each in picture.sets if each["database"]["label"] not in left]
    for set_id in result.drop_sets:
        result.actions.append(action("expire", set_id, "its database backup is gone"))


def _due_drill(picture: Picture, limits: Limits, result: Plan) -> None:
    proved = [drill for drill in proofs(picture) if drill["at"] <= picture.now + HOUR]
    newest = max((float(drill["at"]) for drill in proved), default=None)
    days = None if newest is None else (picture.now - newest) / DAY
    last = max(picture.drills, key=lambda drill: float(drill["at"]), default=None)
    failed = last is not None and last["result"] != "passed"
    if days is not None and days <= limits.drill_max_age_days and not failed:
        return
    sets = good_sets(picture)
    if not sets and not result.kind:
        return
    result.drill_set = "new" if result.kind else str(sets[-1]["set"])
    why = "no set that is whole was proven by restoring it" if days is None else "the last proof is too old"
    why = "the last drill failed" if failed else why
    subject = "the new set" if result.kind else result.drill_set
    result.actions.append(
        action("drill", subject, why, number=None if days is None else round(days, 1),
               threshold=limits.drill_max_age_days, unit="days")
    )  # fmt: skip


def _about_server(picture: Picture, limits: Limits) -> list[dict[str, Any]]:
    live, found = picture.live, []
    if live.state == "down":
        return [finding("server-down", "The server cannot be asked, no set can be taken", observed=live.message,
                        severity="critical", remedy="Start it: runbook run service-down")]  # fmt: skip
    if live.state == "standby":
        return [finding("standby", "This server is a standby", observed="in recovery", severity="info",
                        remedy="Run this where the primary is; pgbackrest can read from here with backup-standby")]  # fmt: skip
    arch = live.archiving
    if picture.restart_needed:
        found.append(finding("archive-mode", "WAL is not archived", observed=f"archive_mode={arch.mode}",
                             expected="archive_mode=on", severity="critical", remedy=picture.restart_needed))  # fmt: skip
    lag = None if arch.oldest_ready_at is None else picture.now - arch.oldest_ready_at
    if lag is not None and lag > limits.wal_max_lag_seconds:
        found.append(
            finding("wal-lag", "WAL waits too long for the archive", observed=f"{lag:.0f} s",
                    expected=f"{limits.wal_max_lag_seconds} s", remedy="What is not archived is lost with this disk")
        )  # fmt: skip
    if live.now is not None and abs(live.now - picture.now) > limits.clock_skew_warn_seconds:
        found.append(
            finding("clock", "The clocks of host and server differ", observed=f"{live.now - picture.now:.0f} s",
                    expected=f"{limits.clock_skew_warn_seconds} s", remedy="Set the clock; ages of backups cannot be trusted")
        )  # fmt: skip
    return found


def _about_repository(picture: Picture, limits: Limits) -> list[dict[str, Any]]:
    seen, found = picture.repository, []
    if seen.state == "mismatch":
        found.append(finding("wrong-system", "The repository belongs to another system", observed=seen.message,
                             severity="critical", remedy="Nothing was changed; see what was observed"))  # fmt: skip
    if seen.state == "error" and not picture.missing:
        found.append(finding("repository-unusable", "The repository of the database cannot be used", observed=seen.message,
                             severity="critical", remedy="See what was observed; nothing was changed"))  # fmt: skip
    for label, problems in sorted(picture.problems.items()):
        found.append(
            finding("backup-damaged", "A backup does not verify, it counts as none", subject=label or "repository",
                    observed="; ".join(problems)[:500], severity="critical",
                    remedy="A new full backup is taken by this run; find out what damages files here")
        )  # fmt: skip
    for backup in seen.backups:
        if backup.error:
            found.append(finding("page-checksums", "The server's own pages were damaged when this backup was taken",
                                 subject=backup.label, severity="critical",
                                 remedy="Check memory and disk of the server; keep older backups"))  # fmt: skip
        if backup.stopped - backup.started > limits.backup_warn_seconds:
            found.append(finding("backup-slow", "A backup ran too long", subject=backup.label,
                                 observed=f"{backup.stopped - backup.started:.0f} s", expected=f"{limits.backup_warn_seconds} s",
                                 remedy="Raise backups_process_max, or look at disk and network"))  # fmt: skip
        if backup.stopped > picture.now + HOUR:
            found.append(finding("backup-from-the-future", "A backup is newer than now", subject=backup.label,
                                 observed=f"{(backup.stopped - picture.now) / HOUR:.1f} h", remedy="A clock was or is wrong"))  # fmt: skip
    found += _about_gaps(picture)
    if picture.unwritable:
        found.append(finding("read-only", "The repository cannot be written", observed=picture.unwritable, severity="critical",
                             remedy="Mount it writable, or give it to its user; what is in it can be restored all the same"))  # fmt: skip
    if seen.state == "ready" and not seen.encrypted:
        found.append(finding("unencrypted", "The repository of the database is not encrypted", subject=seen.local_path,
                             remedy="Use backups_engine=pgbackrest, or an encrypted file system and accept this finding"))  # fmt: skip
    if picture.queue_limit:
        found.append(finding("queue-max", "archive-push-queue-max is set: WAL is dropped when it piles up",
                             observed=picture.queue_limit, remedy="Remove it; a gap needs a new full backup, and none tells you"))  # fmt: skip
    return found


def _about_gaps(picture: Picture) -> list[dict[str, Any]]:
    gaps = picture.repository.archive.gaps
    if not gaps:
        return []
    shown = ", ".join(gaps[:3]) + (f" and {len(gaps) - 3} more" if len(gaps) > 3 else "")
    return [
        finding("wal-gap", "WAL is missing in the archive", subject=gaps[0], observed=shown, severity="critical",
                remedy="Points in time after it are lost until the next backup; archive-push-queue-max or a deleted file")
    ]  # fmt: skip


def _about_files(picture: Picture) -> list[dict[str, Any]]:
    files, found = picture.files, []
    if files.state == "error" and not picture.missing:
        found.append(finding("files-unusable", "The repository of files cannot be used", observed=files.message,
                             severity="critical", remedy="See what was observed; nothing was changed"))  # fmt: skip
    for problem in files.problems:
        found.append(finding("files-damaged", "The repository of files is damaged", subject=problem.split(":")[0],
                             observed=problem, severity="critical",
                             remedy="A pack or index is moved aside and its content saved anew by this run; what restic"
                             " still misses then is lost from older sets, and leaves with them"))  # fmt: skip
    for lock in files.held_locks:
        found.append(finding("files-locked", "A lock in the repository of files is not ours to remove", subject=lock,
                             remedy="See whether that process lives; if not, restic unlock"))  # fmt: skip
    for set_id, problem in sorted(picture.damaged_sets.items()):
        found.append(finding("manifest-damaged", "The manifest of a set is damaged", subject=set_id, observed=problem,
                             severity="critical", remedy="Its copy is made anew from the repository; find out who wrote it"))  # fmt: skip
    return found


def _about_surroundings(picture: Picture, limits: Limits) -> list[dict[str, Any]]:
    found = []
    for program in () if picture.may_install else picture.missing:
        found.append(finding("program-missing", "A program is not on this host, no set can be taken", subject=program,
                             severity="critical", remedy=f"Install it: apt-get install {program}"))  # fmt: skip
    for space in picture.spaces:
        used = round(100 * (1 - space.free_bytes / max(space.total_bytes, 1)))
        days = space.free_bytes / space.growth_bytes_per_day if space.growth_bytes_per_day else None
        if used >= limits.repository_warn_percent or (days is not None and days < limits.repository_warn_days):
            left = f", full in {days:.0f} days" if days is not None else ""
            found.append(finding("repository-full", "The repository is nearly full", subject=space.path,
                                 observed=f"{used} %{left}", expected=f"{limits.repository_warn_percent} %",
                                 severity="critical" if used >= 95 else "warning",
                                 remedy="Enlarge it, or lower backups_keep_days"))  # fmt: skip
        if space.same_as_data:
            found.append(finding("same-disk", "The repository is on the disk of the data", subject=space.path,
                                 remedy="Whatever ends the disk ends both: use another disk, SFTP or S3"))  # fmt: skip
    for where in picture.passphrase_beside:
        found.append(finding("passphrase-beside", "The passphrase lies beside the repository", subject=where,
                             severity="critical", remedy="Who takes the one has the other: move it into the vault"))  # fmt: skip
    if picture.repository.encrypted and not picture.passphrase_kept_at:
        found.append(finding("passphrase-place", "Nobody has said where else the passphrase is kept",
                             remedy="Without it no backup can be read: keep it apart, and say where in backups_passphrase_kept_at"))  # fmt: skip
    for name, path in picture.uncovered:
        found.append(finding("uncovered", "A component of this host is in no set", subject=name, observed=path,
                             remedy="Add it to backups_files, backups_redis or backups_grafana_database, or accept this finding"))  # fmt: skip
    if picture.files.append_only is not True:
        found.append(finding("no-object-lock", "Whoever owns this host can delete its backups", severity="info",
                             remedy="Use object lock on the bucket, or an append-only REST server, and say so in"
                             " backups_append_only"))  # fmt: skip
    return found


def _about_age(picture: Picture, limits: Limits, result: Plan) -> list[dict[str, Any]]:
    """Return findings about sets that are missing or stale; a run that takes one has the next look find none."""
    good = good_backups(picture)
    full = _hours(picture.now, max((b.stopped for b in good if b.kind == FULL), default=None))
    newest = _hours(picture.now, max((float(each["finished"]) for each in good_sets(picture)), default=None))
    found = []
    remedy = f"Not taken: {result.blocked}" if result.blocked else "set"
    if full is None:
        found.append(finding("backup-missing", "There is no full backup that verifies", severity="critical", remedy=remedy))
    elif full > limits.full_max_age_hours:
        found.append(finding("backup-stale", "The newest full backup is too old", observed=f"{full:.1f} h",
                             expected=f"{limits.full_max_age_hours} h", severity="critical", remedy=remedy))  # fmt: skip
    if full is not None and newest is None:
        found.append(finding("set-missing", "There is no whole set", severity="critical", remedy=remedy))
    elif newest is not None and newest > limits.diff_max_age_hours:
        found.append(finding("set-stale", "The newest set is too old", observed=f"{newest:.1f} h",
                             expected=f"{limits.diff_max_age_hours} h", severity="critical", remedy=remedy))  # fmt: skip
    verified = _hours(picture.now, picture.verified_at)
    if picture.repository.backups and (verified is None or verified > limits.verify_max_age_hours):
        found.append(finding("unverified", "The backups were not verified lately", severity="warning", remedy="verify",
                             observed="never" if verified is None else f"{verified:.1f} h",
                             expected=f"{limits.verify_max_age_hours} h"))  # fmt: skip
    return found


def _about_drills(picture: Picture, limits: Limits) -> list[dict[str, Any]]:
    drills = sorted(picture.drills, key=lambda drill: float(drill["at"]))
    found = []
    last = drills[-1] if drills else None
    passed = proofs(picture)
    days = (picture.now - float(passed[-1]["at"])) / DAY if passed else None
    if days is None or days > limits.drill_max_age_days:
        found.append(finding("drill-overdue", "No set was proven by restoring it lately", severity="critical",
                             observed="never" if days is None else f"{days:.1f} days",
                             expected=f"{limits.drill_max_age_days} days", remedy="drill"))  # fmt: skip
    if last is None:
        return found
    if last["result"] != "passed":
        found.append(finding("drill-failed", "The last restore drill failed", subject=str(last["set"]),
                             observed="; ".join(last["problems"])[:500], severity="critical",
                             remedy="This set cannot be trusted; see its evidence"))  # fmt: skip
        return found
    if last["rto_seconds"] > limits.rto_seconds:
        found.append(finding("rto-missed", "A restore takes longer than is allowed", subject=str(last["set"]),
                             observed=f"{last['rto_seconds']:.0f} s", expected=f"{limits.rto_seconds} s",
                             remedy="Take full backups more often, raise backups_process_max, or use faster disks"))  # fmt: skip
    if last["rpo_seconds"] > limits.rpo_seconds:
        found.append(finding("rpo-missed", "More of the newest data would be lost than is allowed", subject=str(last["set"]),
                             observed=f"{last['rpo_seconds']:.0f} s", expected=f"{limits.rpo_seconds} s",
                             remedy="Lower archive_timeout, or look at archiving"))  # fmt: skip
    return found
