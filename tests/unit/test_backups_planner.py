"""What is due and what is wrong, decided from pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible.module_utils.backups_engine import DIFF, FULL, WAL, Archive, Backup, Repository, wal_gaps
from ansible.module_utils.backups_planner import (
    Archiving,
    Files,
    Limits,
    Live,
    Picture,
    Space,
    good_backups,
    good_sets,
    plan,
)

NOW = 1_800_000_000.0
HOUR, DAY = 3600.0, 86400.0
MIB16 = 16 * 1024 * 1024
LIMITS = Limits()


def wal(number: int, timeline: int = 1) -> str:
    return f"{timeline:08X}{0:08X}{number:08X}"


def backup(label: str, age_hours: float, kind: str = FULL, needs: tuple[str, ...] = (), first: int = 1) -> Backup:
    stopped = NOW - age_hours * HOUR
    return Backup(label, kind, stopped - 60, stopped, "0/1", "0/2", wal(first), wal(first), 1000, 500, "7", 15, needs)


def manifest(set_id: str, label: str, age_hours: float, point: int = 9, snapshot: str = "s") -> dict[str, Any]:
    return {
        "set": set_id,
        "finished": NOW - age_hours * HOUR,
        "kind": FULL,
        "snapshot": snapshot,
        "database": {"label": label, "figures": {"wal_file": wal(point)}},
    }


def drill(age_days: float, result: str = "passed", **more: Any) -> dict[str, Any]:
    return {"at": NOW - age_days * DAY, "set": "one", "result": result, "problems": ["rows differ"] if result != "passed" else [],
            "rto_seconds": 10.0, "rpo_seconds": 1.0, **more}  # fmt: skip


HEALTHY = Picture(
    now=NOW,
    live=Live(now=NOW),
    repository=Repository("ready", backups=(backup("F1", 20),), archive=Archive(tuple(map(wal, range(1, 10)))), encrypted=True),
    engine="pgbackrest",
    verified_at=NOW - HOUR,
    files=Files("ready", snapshots=frozenset({"s"}), append_only=True),
    sets=(manifest("one", "F1", 20),),
    drills=(drill(2),),
    passphrase_kept_at="vault",
)


def steps(picture: Picture, limits: Limits = LIMITS) -> list[tuple[str, str]]:
    return [(each["step"], each["subject"]) for each in plan(picture, limits).actions]


def ids(picture: Picture, limits: Limits = LIMITS) -> list[str]:
    return sorted({each["id"] for each in plan(picture, limits).findings})


def test_nothing_is_due_and_nothing_wrong_where_all_is_well() -> None:
    assert steps(HEALTHY) == []
    assert ids(HEALTHY) == []


def repository(**more: Any) -> Repository:
    return replace(HEALTHY.repository, **more)


@pytest.mark.parametrize(
    ("picture", "kind"),
    [
        (replace(HEALTHY, repository=repository(backups=()), sets=()), FULL),
        (replace(HEALTHY, repository=repository(backups=(backup("F1", 169),))), FULL),
        (replace(HEALTHY, problems={"F1": ["checksum invalid"]}), FULL),
        (replace(HEALTHY, problems={"": ["no usable backup.info"]}), FULL),
        (replace(HEALTHY, repository=repository(backups=(replace(backup("F1", 20), error=True),))), FULL),
        (replace(HEALTHY, sets=(manifest("one", "F1", 25),)), DIFF),
        (replace(HEALTHY, sets=(manifest("one", "F1", 25),), kinds=(FULL,)), WAL),
        (replace(HEALTHY, sets=()), DIFF),
        (replace(HEALTHY, files=replace(HEALTHY.files, snapshots=frozenset())), DIFF),
        (replace(HEALTHY, repository=repository(archive=Archive((wal(1), wal(3), wal(9)), (wal(2),)))), DIFF),
        # A clock that was a year ahead made a backup that would hide that there is none.
        (replace(HEALTHY, repository=repository(backups=(backup("F1", -8760),))), FULL),
    ],
    ids=["none", "old", "damaged", "repository damaged", "bad pages", "old set", "no differences", "no set", "no files",
         "wal gap", "from the future"],
)  # fmt: skip
def test_a_set_is_due(picture: Picture, kind: str) -> None:
    planned = plan(picture, LIMITS)
    assert planned.kind == kind
    assert [each["step"] for each in planned.actions][:1] == ["set"]


def test_a_difference_counts_only_with_what_it_needs() -> None:
    chain = (backup("F1", 30), backup("F1_D1", 2, DIFF, ("F1",)))
    picture = replace(HEALTHY, repository=repository(backups=chain), problems={"F1": ["invalid"]})
    assert good_backups(picture) == []


def test_a_set_counts_only_if_its_wal_is_there() -> None:
    gap = repository(archive=Archive((), (wal(5),)))
    assert good_sets(replace(HEALTHY, repository=gap)) == []
    behind = repository(archive=Archive((), (wal(11),)))
    assert [each["set"] for each in good_sets(replace(HEALTHY, repository=behind))] == ["one"]


@pytest.mark.parametrize(
    ("ages_days", "gone"),
    [
        ((40, 33, 20, 6), ["F0"]),  # the one of day 33 covers day 30
        ((40, 29, 20, 6), []),  # nobody could go back 30 days without the first
        ((90, 80, 70), ["F0"]),  # two are kept, however old
        ((5, 4, 3, 2, 1), []),
    ],
)
def test_what_covers_the_days_to_keep_stays(ages_days: tuple[float, ...], gone: list[str]) -> None:
    backups = tuple(backup(f"F{n}", age * 24) for n, age in enumerate(ages_days))
    picture = replace(HEALTHY, repository=repository(backups=backups), sets=())
    assert [each.label for each in plan(picture, LIMITS).expire] == gone


def test_nothing_leaves_while_newer_ones_are_damaged_or_nothing_can_be_deleted() -> None:
    backups = tuple(backup(f"F{n}", age * 24) for n, age in enumerate((40, 33, 20, 6)))
    picture = replace(HEALTHY, repository=repository(backups=backups), sets=())
    assert plan(replace(picture, problems={"F1": ["x"], "F2": ["x"]}), LIMITS).expire == []
    assert plan(replace(picture, append_only=True), LIMITS).expire == []


def test_what_depends_on_a_full_backup_and_its_sets_leave_with_it() -> None:
    backups = (backup("F0", 40 * 24), backup("F0_D", 39 * 24, DIFF, ("F0",)), *(backup(f"F{n}", 24 * a) for n, a in ((1, 33), (2, 2))))
    sets = (manifest("old", "F0_D", 39 * 24), manifest("one", "F2", 20))
    planned = plan(replace(HEALTHY, repository=repository(backups=backups), sets=sets), LIMITS)
    assert [each.label for each in planned.expire] == ["F0", "F0_D"]
    assert planned.drop_sets == ["old"]


@pytest.mark.parametrize(
    ("drills", "due"),
    [((), True), ((drill(8),), True), ((drill(3), drill(1, "failed")), True), ((drill(3, "failed"), drill(1)), False)],
)
def test_a_drill_is_due(drills: tuple[dict[str, Any], ...], due: bool) -> None:
    assert ("drill" in [step for step, _ in steps(replace(HEALTHY, drills=drills))]) == due


def test_the_proof_of_a_set_that_was_damaged_since_proves_nothing() -> None:
    damaged = replace(HEALTHY, problems={"F1": ["checksum invalid: 1"]})
    assert steps(damaged) == [("set", "full set"), ("drill", "the new set")]
    assert "drill-overdue" in ids(damaged)


def test_damaged_files_are_moved_aside_and_saved_and_proven_anew() -> None:
    damaged = replace(HEALTHY, files=replace(HEALTHY.files, damaged=("data/00/aa",), mended_at=NOW))
    assert steps(damaged) == [("repositories", "data/00/aa"), ("set", "differential set"), ("drill", "the new set")]
    # The steps after it look anew, when nothing is damaged any more.
    mended = replace(HEALTHY, files=replace(HEALTHY.files, mended_at=NOW))
    assert steps(mended) == [("set", "differential set"), ("drill", "the new set")]
    assert "drill-overdue" in ids(mended)


def test_what_was_saved_and_proven_since_is_enough() -> None:
    assert steps(replace(HEALTHY, files=replace(HEALTHY.files, mended_at=NOW - 3 * DAY))) == []


def test_the_proof_of_a_set_that_was_expired_since_counts() -> None:
    assert steps(replace(HEALTHY, drills=(drill(2, set="expired"),))) == []


def test_no_drill_without_a_set() -> None:
    blocked = replace(HEALTHY, live=Live("down", "refused"), sets=(), drills=())
    assert steps(blocked) == []


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        (replace(HEALTHY, live=Live("down", "connection refused")), "server-down"),
        (replace(HEALTHY, live=replace(HEALTHY.live, state="standby")), "standby"),
        (replace(HEALTHY, live=replace(HEALTHY.live, archiving=Archiving(oldest_ready_at=NOW - 400))), "wal-lag"),
        (replace(HEALTHY, live=replace(HEALTHY.live, now=NOW - 900)), "clock"),
        (replace(HEALTHY, repository=repository(state="mismatch", message="system 8")), "wrong-system"),
        (replace(HEALTHY, repository=repository(state="error", message="passphrase")), "repository-unusable"),
        (replace(HEALTHY, problems={"F1": ["checksum invalid"]}), "backup-damaged"),
        (replace(HEALTHY, repository=repository(backups=(replace(backup("F1", 20), error=True),))), "page-checksums"),
        (replace(HEALTHY, repository=repository(backups=(replace(backup("F1", 20), started=0.0),))), "backup-slow"),
        (replace(HEALTHY, repository=repository(backups=(backup("F1", -8760),))), "backup-from-the-future"),
        (replace(HEALTHY, repository=repository(archive=Archive((), (wal(5),)))), "wal-gap"),
        (replace(HEALTHY, repository=repository(encrypted=False)), "unencrypted"),
        (replace(HEALTHY, missing=("restic",), may_install=False), "program-missing"),
        (replace(HEALTHY, queue_limit="1GB"), "queue-max"),
        (replace(HEALTHY, unwritable="/b cannot be written"), "read-only"),
        (replace(HEALTHY, files=Files("error", "wrong password", append_only=True)), "files-unusable"),
        (replace(HEALTHY, files=replace(HEALTHY.files, problems=("pack ab: changed",))), "files-damaged"),
        (replace(HEALTHY, files=replace(HEALTHY.files, held_locks=("lock 1",))), "files-locked"),
        (replace(HEALTHY, files=replace(HEALTHY.files, append_only=None)), "no-object-lock"),
        (replace(HEALTHY, damaged_sets={"one": "was changed"}), "manifest-damaged"),
        (replace(HEALTHY, spaces=(Space("/b", 100, 10, False),)), "repository-full"),
        (replace(HEALTHY, spaces=(Space("/b", 1000, 500, False, 100.0),)), "repository-full"),
        (replace(HEALTHY, spaces=(Space("/b", 1000, 900, True),)), "same-disk"),
        (replace(HEALTHY, passphrase_beside=("/b/key",)), "passphrase-beside"),
        (replace(HEALTHY, passphrase_kept_at=""), "passphrase-place"),
        (replace(HEALTHY, uncovered=(("cache", "part"),)), "uncovered"),
        (replace(HEALTHY, repository=repository(backups=())), "backup-missing"),
        (replace(HEALTHY, repository=repository(backups=(backup("F1", 200),))), "backup-stale"),
        (replace(HEALTHY, sets=()), "set-missing"),
        (replace(HEALTHY, sets=(manifest("one", "F1", 30),)), "set-stale"),
        (replace(HEALTHY, verified_at=None), "unverified"),
        (replace(HEALTHY, verified_at=NOW - 30 * HOUR), "unverified"),
        (replace(HEALTHY, drills=()), "drill-overdue"),
        (replace(HEALTHY, drills=(drill(1, "failed"),)), "drill-failed"),
        (replace(HEALTHY, drills=(drill(1, rto_seconds=4000.0),)), "rto-missed"),
        (replace(HEALTHY, drills=(drill(1, rpo_seconds=400.0),)), "rpo-missed"),
        (replace(HEALTHY, restart_needed="archive_mode is off"), "archive-mode"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_found(picture: Picture, found: str) -> None:
    assert found in ids(picture)


@pytest.mark.parametrize(
    "picture",
    [
        replace(HEALTHY, live=Live("down", "refused"), sets=()),
        replace(HEALTHY, repository=repository(state="mismatch", message="system 8"), sets=()),
        replace(HEALTHY, files=Files("error", "wrong password"), sets=()),
        replace(HEALTHY, restart_needed="archive_mode is off", sets=()),
        replace(HEALTHY, missing=("restic",), may_install=False, sets=()),
    ],
)
def test_nothing_is_planned_where_nothing_can_be_done(picture: Picture) -> None:
    planned = plan(picture, LIMITS)
    assert planned.blocked and planned.actions == []


def test_missing_programs_are_installed_first() -> None:
    picture = replace(HEALTHY, missing=("restic",), repository=Repository("error", "no pgbackrest"), sets=())
    assert [step for step, _ in steps(picture)][:2] == ["repositories", "set"]


@pytest.mark.parametrize(
    ("numbers", "oldest", "gaps"),
    [
        ([1, 2, 3], wal(1), []),
        ([1, 2, 4], wal(1), [3]),
        ([1, 4], wal(3), [3]),
        ([], "", []),
        ([0xFE, 0xFF], wal(0xFE), []),
    ],
)
def test_missing_wal_is_missed(numbers: list[int], oldest: str, gaps: list[int]) -> None:
    assert wal_gaps(map(wal, numbers), MIB16, oldest) == tuple(map(wal, gaps))


def test_wal_goes_on_in_the_next_log_after_ff() -> None:
    names = [wal(0xFF), f"{1:08X}{1:08X}{0:08X}"]
    assert wal_gaps(names, MIB16) == ()
    assert wal_gaps(names[1:], MIB16, names[0]) == (names[0],)


def test_each_timeline_is_looked_at_by_itself() -> None:
    names = [wal(1), wal(2), wal(5, 2), wal(7, 2)]
    assert wal_gaps(names, MIB16, wal(1)) == (wal(6, 2),)
