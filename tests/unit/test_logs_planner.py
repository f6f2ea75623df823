# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""What is due and what is wrong, decided over pictures: a table for each decision, without a host."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible.module_utils.logs_archive import Kept
from ansible.module_utils.logs_files import LogFile
from ansible.module_utils.logs_forecast import Forecast, forecast
from ansible.module_utils.logs_holders import Holder
from ansible.module_utils.logs_limits import Change
from ansible.module_utils.logs_logrotate import Block, Problem
from ansible.module_utils.logs_planner import (
    DAY,
    STRAY_SECONDS,
    Plan,
    Thresholds,
    facts_of,
    fingerprint,
    overdue,
    plan,
    retention,
    rotates_itself,
    strays_of,
)  # fmt: skip
from ansible.module_utils.logs_policy import Policy, Rendering
from ansible.module_utils.logs_survey import FileSystem, Picture, Service

NOW = 2_000_000_000.0
LIVE = "/var/log/app/app.log"
MIB = 1 << 20


def file(path: str = LIVE, size: int = 100, age_days: float = 0, inode: int = 1, mode: int = 0o640) -> LogFile:
    return LogFile(path, size, size, NOW - age_days * DAY, 7, inode, 0, 0, mode)


def rotated(number: int, age_days: float, **more: Any) -> LogFile:
    return file(f"{LIVE}-2026010{number}-176722560{number}", age_days=age_days, inode=100 + number, **more)


def holder(path: str = LIVE, inode: int = 1, deleted: bool = False, disk: int = 100, pid: int = 42) -> Holder:
    return Holder(pid, "writer", 3, path, deleted, 7, inode, disk, disk, True)


def policy(**changes: Any) -> Policy:
    return Policy(
        **{"name": "app", "paths": (LIVE,), "reopen": "signal", "signal": "USR1", "pid_file": "/run/x", **changes}
    )


def service(of: Policy | None = None, **changes: Any) -> Service:
    return Service(of or policy(), **{"wanted": "text", "installed": "text", **changes})


def picture(*services: Service, **changes: Any) -> Picture:
    """A host on which nothing is due: each policy is in place and proven."""
    proofs = {s.policy.name: {"config": fingerprint(s)} for s in services}
    return Picture(
        **{
            "now": NOW,
            "services": list(services),
            "scheduler": "timer",
            "last_run": NOW - 3600,
            "proofs": proofs,
            **changes,
        }
    )


def decided(seen: Picture, days: int = 7, **limits: Any) -> Plan:
    return plan(seen, Thresholds(**limits), days)


def done(result: Plan) -> list[tuple[str, str]]:
    return [(a["step"], a["subject"]) for a in result.actions]


def told(result: Plan) -> dict[str, dict[str, Any]]:
    return {f["id"]: f for f in result.findings}


def test_nothing_is_due_and_nothing_is_wrong() -> None:
    result = decided(picture(service(live=[file()], rotated=[rotated(1, 1)])))
    assert (result.actions, result.findings) == ([], [])
    assert decided(Picture(now=NOW)).findings == [], "without policies logrotate need not run"


# --- policies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"installed": ""}, "the policy is new"),
        ({"installed": "other"}, "the policy has changed"),
        ({"superseded": ["nginx", "other"]}, "nginx, other is in force again"),
        ({"ignored": "mode 0664"}, "logrotate ignores its file: mode 0664"),
        ({"ignored": "mode 0664", "installed": "other"}, "the policy has changed"),
    ],
)
def test_configuration_is_put_in_place(changes: dict[str, Any], reason: str) -> None:
    result = decided(picture(service(**changes)))
    assert [(a["step"], a["subject"], a["reason"]) for a in result.actions] == [("policies", "app", reason)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"blocked": "x rotates it"}, "x rotates it"),
        ({"unknown_owner": "user y"}, "user y is not known on this host"),
        ({"refused": ["line 1", "line 2"]}, "would not carry it out: line 1; line 2"),
        (
            {"live": [file()], "rotated": [file(f"{LIVE}.{n}", 1000 - n) for n in (1, 2)]},
            "set rotated_by to application",
        ),
    ],
)
def test_a_blocked_policy_has_nothing_due_at_all(changes: dict[str, Any], reason: str) -> None:
    wide = {"installed": "", "live": [file(size=9 * MIB, mode=0o666)], "rotated": [rotated(1, 99, mode=0o666)]}
    one = service(policy(max_size_bytes=MIB, max_days=9), **{**wide, **changes})
    result = decided(picture(one, proofs={}, strays=[holder(inode=101)]))
    assert result.actions == [] and result.tighten == [] and reason in result.blocked["app"]
    assert told(result)["policy-blocked"]["subject"] == "app"


@pytest.mark.parametrize(
    ("sizes", "own"),
    [([1000, 990], True), ([1000, 951], True), ([1000, 900], False), ([1000], False), ([0, 0], False), ([], False)],
)
def test_an_application_that_rotates_by_itself_shows_in_its_files(sizes: list[int], own: bool) -> None:
    one = service(live=[file()], rotated=[file(f"{LIVE}.{n}", size) for n, size in enumerate(sizes, 1)])
    assert bool(rotates_itself(one)) is own


def test_the_host_itself_is_put_in_order_too() -> None:
    change = Change("journal", "journald", "no limit", "none", "1G")
    seen = picture(service(), missing=["zstd"], main_missing=True, gone={"/etc/logrotate.d/llm-x": ""}, limits=[change])
    result = plan(seen, Thresholds(), hourly_timer=True)
    assert done(result) == [("policies", s) for s in ("zstd", "logrotate.conf", "llm-x", "logrotate.timer")] + [
        ("limits", "journald")
    ]
    assert [a["subject"] for a in result.due("limits")] == ["journald"] and told(result)["program-missing"][
        "subject"
    ] == "zstd"
    own = service(policy(rotated_by="application"), installed="")
    assert decided(picture(own, main_missing=True)).actions == [], "no policy needs it"


@pytest.mark.parametrize(
    ("rotator", "create", "classification", "tightened", "readable"),
    [
        ("logrotate", True, "internal", ["live", "old"], False),
        ("logrotate", False, "internal", ["old"], True),
        ("logrotate", False, "public", ["old"], False),
        ("application", True, "internal", ["old"], True),
    ],
)
def test_modes(rotator: str, create: bool, classification: str, tightened: list[str], readable: bool) -> None:
    live, old = file(mode=0o644), rotated(1, 1, mode=0o644)
    one = service(
        policy(rotated_by=rotator, classification=classification),
        live=[live],
        rotated=[old],
        rendering=Rendering(create=create),
    )
    result = decided(picture(one))
    assert (
        result.tighten == [{"live": live, "old": old}[name] for name in tightened]
        and ("log-readable" in told(result)) is readable
    )


def test_a_group_that_may_read_is_not_everybody() -> None:
    one = service(policy(mode="0600"), live=[file(mode=0o640)], rendering=Rendering(create=False))
    assert decided(picture(one)).findings == []


# --- rotation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "rotated_days_ago", "unit"),
    [
        (2 * MIB, None, None), (2 * MIB + 1, None, "bytes"), (100, 2, None), (100, 2.1, "hours"), (0, 2.1, None), (100, None, None),
        (100, -300, None),
    ],
)  # fmt: skip
def test_what_is_overdue(size: int, rotated_days_ago: float | None, unit: str | None) -> None:
    one = service(policy(max_size_bytes=MIB), live=[file(size=size)])
    times = {} if rotated_days_ago is None else {LIVE: NOW - rotated_days_ago * DAY}
    late = overdue(one, picture(one, rotated_at=times))
    assert (late[3] if late else None) == unit
    assert decided(picture(one, rotated_at=times)).rotate == (["app"] if unit else [])


@pytest.mark.parametrize(
    ("proof", "size", "reason"),
    [
        (None, 100, "it was never proven on this host"),
        ({"config": "other"}, 100, "its configuration has changed since it was proven"),
        (None, 0, None),
    ],
)
def test_what_has_to_be_proven(proof: dict[str, Any] | None, size: int, reason: str | None) -> None:
    one = service(live=[file(size=size)])
    result = decided(picture(one, proofs={"app": proof} if proof else {}))
    assert [a["reason"] for a in result.actions] == ([reason] if reason else []) and result.prove == (
        ["app"] if reason else []
    )


def test_what_is_late_and_not_proven_is_one_action() -> None:
    one = service(live=[file()])
    result = decided(picture(one, proofs={}, rotated_at={LIVE: NOW - 9 * DAY}))
    assert (result.prove, result.rotate, len(result.actions)) == (["app"], ["app"], 1)


STAMPED, PLAIN = f"{LIVE}-20330518-{NOW - DAY:.0f}", f"{LIVE}-20330518"


@pytest.mark.parametrize(
    ("reopen", "stray", "path", "written", "found"),
    [
        ("signal", holder(inode=101), STAMPED, -5, True),
        ("signal", holder(inode=999), STAMPED, -5, False),
        ("signal", holder(deleted=True, inode=999), STAMPED, -5, True),
        ("signal", holder("/var/log/other.log", deleted=True, inode=999), STAMPED, -5, False),
        # It watches: while it is idle, it has not looked.
        ("watched", holder(inode=101), STAMPED, -3600, False),
        ("watched", holder(inode=101), STAMPED, STRAY_SECONDS, False),
        ("watched", holder(inode=101), STAMPED, STRAY_SECONDS + 1, True),
        ("watched", holder(inode=101), STAMPED, DAY, True),
        ("watched", holder(inode=101), PLAIN, -3600, False),
        ("watched", holder(inode=101), PLAIN, DAY, True),
        ("watched", holder(inode=101), f"{LIVE}.1", DAY, True),
        ("watched", holder(deleted=True, inode=999), STAMPED, -5, False),
    ],
)
def test_who_writes_to_a_file_that_is_no_more_the_live_one(
    reopen: str, stray: Holder, path: str, written: float, found: bool
) -> None:
    """`written` are seconds from the rotation, a day ago, to the last line in the rotated file."""
    old = file(path, age_days=1 - written / DAY, inode=101)
    one = service(policy(reopen=reopen), live=[file()], rotated=[old])
    seen = picture(one, strays=[stray], rotated_at={LIVE: NOW - DAY})
    assert strays_of(seen, one) == ([stray] if found else [])
    result = decided(seen)
    assert result.reopen == (["app"] if found else [])
    assert any(name.startswith("writer-on-") for name in told(result)) is found


def test_what_was_rotated_at_an_unknown_time_counts_as_written_to() -> None:
    one = service(policy(reopen="watched"), live=[file()], rotated=[file(f"{LIVE}.1", inode=101)])
    assert strays_of(picture(one, strays=[holder(inode=101)]), one)


@pytest.mark.parametrize(("disk", "found"), [(64 * MIB, True), (64 * MIB - 1, False)])
def test_a_deleted_file_of_no_policy_counts_by_its_size(disk: int, found: bool) -> None:
    seen = picture(strays=[holder("/var/log/x", deleted=True, disk=disk)], complete=False)
    assert set(told(decided(seen))) == {"holders-incomplete", *(["writer-on-deleted"] if found else [])}


# --- archive and retention ------------------------------------------------------------------------------------------

OLD = rotated(1, 10)
COPY = Kept("app", OLD.path, "0", "app/2026/x", "0", 100, OLD.mtime, NOW)
ARCHIVING = {"archive": True, "keep": 2}


@pytest.mark.parametrize(
    ("of", "ages", "changes", "moved", "deleted"),
    [
        (ARCHIVING, [10, 1], {}, [1], []),
        (ARCHIVING, [6.9, 1], {}, [], []),
        (ARCHIVING, [3, 2, 1], {}, [1], []),
        (ARCHIVING, [10, 1], {"held": "court"}, [1], []),
        (ARCHIVING, [10, 1], {"archived": [COPY]}, [1], []),
        (ARCHIVING, [10, 1], {"held": "court", "archived": [COPY]}, [], []),
        (ARCHIVING, [10, 1], {"archive_fault": "it is gone"}, [], []),
        ({"max_days": 9}, [10, 1], {}, [], [1]),
        ({"max_days": 10}, [10, 1], {}, [], []),
        ({"max_days": 9}, [10, 1], {"held": "court"}, [], []),
        ({"max_days": 9, "rotated_by": "application"}, [10, 1], {}, [], []),
        ({}, [999], {}, [], []),
    ],
)  # fmt: skip
def test_what_is_archived_and_what_is_deleted(
    of: dict[str, Any], ages: list[float], changes: dict[str, Any], moved: list[int], deleted: list[int]
) -> None:
    files = [rotated(number, age) for number, age in enumerate(ages, 1)]
    one = service(policy(**of), live=[file()], rotated=files)
    result = decided(picture(one, **changes))
    assert result.archive == [("app", files[n - 1].path) for n in moved] and result.delete == [
        ("app", files[n - 1].path) for n in deleted
    ]
    assert len(result.due("archive")) == len(moved) + len(deleted)
    # What somebody writes to stays, whatever its age.
    one.writers = [holder(f.path, f.inode) for f in files]
    still = decided(picture(one, **changes))
    assert (still.archive, still.delete) == ([], [])


@pytest.mark.parametrize(
    ("changes", "after", "words"),
    [
        ({}, 0, "it is old enough"),
        ({"archived": [COPY]}, 0, "it is in the archive"),
        ({"held": "court"}, 100, "it is old enough"),
    ],
)
def test_a_hold_frees_nothing(changes: dict[str, Any], after: int, words: str) -> None:
    (move,) = decided(picture(service(policy(**ARCHIVING), rotated=[OLD]), **changes)).due("archive")
    assert (move["before"], move["after"], move["number"], move["threshold"]) == (
        100,
        after,
        10.0,
        7,
    ) and words in move["reason"]


@pytest.mark.parametrize(
    "copy", [replace(COPY, mtime=COPY.mtime + 3), replace(COPY, removed_at=NOW), replace(COPY, source="/other")]
)
def test_a_copy_is_known_by_name_and_time(copy: Kept) -> None:
    (move,) = decided(picture(service(policy(**ARCHIVING), rotated=[OLD]), archived=[copy])).due("archive")
    assert move["reason"] == "it is old enough"


@pytest.mark.parametrize(
    ("of", "ages", "archived", "verdict"),
    [
        ({"keep": 2, "keep_days": 5}, [3, 1], [], "too short"),
        ({"keep": 3, "keep_days": 5}, [3, 1], [], "as the policy says"),  # a young service: no file had to go
        ({"keep": 2, "keep_days": 5, "archive": True}, [3, 1], [], "as the policy says"),
        ({"keep": 2, "keep_days": 5}, [3, 1], [COPY], "as the policy says"),  # the archive reaches back
        ({"max_days": 5}, [6, 1], [], "too long"),
        ({"max_days": 6}, [6, 1], [], "as the policy says"),
        ({"max_days": 5}, [1], [COPY], "too long"),
        ({"keep_days": 5}, [], [], "as the policy says"),
    ],
)
def test_how_far_lines_reach_back(of: dict[str, Any], ages: list[float], archived: list[Kept], verdict: str) -> None:
    one = service(policy(**of), rotated=[rotated(n, age) for n, age in enumerate(ages, 1)])
    seen = picture(one, archived=archived)
    assert retention(one, seen)["verdict"] == verdict
    assert ("retention-short" in told(decided(seen))) is (verdict == "too short")


@pytest.mark.parametrize(
    ("of", "held", "observed", "severity"),
    [
        ({}, "", None, None),
        ({}, "court", "under a hold", "info"),
        ({"rotated_by": "application"}, "", "left by the application", "warning"),
        ({"archive": True}, "", "that cannot go", "warning"),
    ],
)
def test_what_stays_too_long_is_told_with_its_cause(
    of: dict[str, Any], held: str, observed: str | None, severity: str | None
) -> None:
    one = service(policy(max_days=5, **of), rotated=[rotated(1, 9)])
    fault = "gone" if of.get("archive") else ""
    long = told(decided(picture(one, held=held, archive_fault=fault))).get("retention-long")
    assert (long and long["severity"]) == severity and (long is None or observed in long["observed"])


@pytest.mark.parametrize(
    ("rotator", "words"), [("logrotate", "Raise keep"), ("application", "that the application keeps")]
)
def test_how_lines_stay_longer(rotator: str, words: str) -> None:
    one = service(policy(keep=2, keep_days=5, rotated_by=rotator), rotated=[rotated(1, 2), rotated(2, 1)])
    assert words in told(decided(picture(one)))["retention-short"]["remedy"]


# --- configuration and schedule -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "line", "subject", "severity"),
    [
        ("duplicate", 3, "/x:3", "warning"),
        ("copytruncate", 3, "/x:3", "info"),
        ("hangs", 0, "/x", "critical"),
        ("message", 0, "/x", "warning"),
    ],
)
def test_problems_of_configuration_are_findings(kind: str, line: int, subject: str, severity: str) -> None:
    result = told(decided(picture(problems=[Problem(kind, "/x", line, "words")])))[f"logrotate-{kind}"]
    assert (result["subject"], result["severity"], result["observed"]) == (subject, severity, "words")


def test_what_is_told_about_services() -> None:
    truncated = service(policy(reopen="copytruncate"))
    own = service(
        policy(name="own", rotated_by="application"),
        live=[file("/srv/own.log")],
        writers=[holder(pid=1), holder(pid=2)],
    )
    block = Block("/etc/logrotate.d/x", 4, ["/srv/*.log"])
    odd = service(policy(name="odd"), no_files=[("/srv/link.log", "a link to /srv/x")])
    seen = picture(
        truncated, own, odd, blocks=[block], state_fault="damaged", limit_findings=[{"id": "given", "subject": ""}]
    )
    result = told(decided(seen))
    assert set(result) == {
        "given",
        "logrotate-state",
        "copytruncate",
        "rotated-twice",
        "rotated-by-many",
        "no-log-file",
    }
    assert (
        result["rotated-twice"]["observed"] == "/etc/logrotate.d/x:4"
        and "2 processes" in result["rotated-by-many"]["observed"]
    )


@pytest.mark.parametrize(
    ("scheduler", "days_ago", "finding"),
    [
        ("", 0, "logrotate-never-runs"), ("timer", 2.4, None), ("timer", 2.6, "logrotate-stale"), ("cron", 2.6, "logrotate-stale"), ("run", 9, None),
        ("timer", None, None), ("timer", -0.9, None), ("timer", -1.1, "logrotate-stale"),
    ],
)  # fmt: skip
def test_logrotate_has_to_run(scheduler: str, days_ago: float | None, finding: str | None) -> None:
    seen = picture(service(), scheduler=scheduler, last_run=None if days_ago is None else NOW - days_ago * DAY)
    assert set(told(decided(seen))) == ({finding} if finding else set())
    own = picture(service(policy(rotated_by="application")), scheduler="", last_run=None)
    assert decided(own).findings == []


@pytest.mark.parametrize(
    ("frequency", "days", "never"),
    [("daily", 3, False), ("daily", 3.1, True), ("weekly", 14, False), ("weekly", 15.1, True), (None, 700, False)],
)
def test_rotations_of_others_that_never_happen(frequency: str | None, days: float, never: bool) -> None:
    block = Block("/etc/logrotate.d/x", 1, ["/srv/x.log"], {"frequency": (frequency, 2)} if frequency else {})
    seen = picture(
        service(), blocks=[block], filled=["/srv/x.log", "/srv/y.log"], rotated_at={"/srv/x.log": NOW - days * DAY}
    )
    assert [f["subject"] for f in decided(seen).findings] == (["/srv/x.log"] if never else [])


@pytest.mark.parametrize(("size", "found"), [(MIB, True), (MIB - 1, False)])
def test_files_of_no_policy(size: int, found: bool) -> None:
    assert ("uncovered" in told(decided(picture(uncovered=[file("/var/log/x", size)])))) is found


# --- space ----------------------------------------------------------------------------------------------------------

DISK = FileSystem("/", 7, 100 * MIB, 50 * MIB, 55 * MIB, 1000, 900, False)


@pytest.mark.parametrize(
    ("changes", "finding", "severity", "words"),
    [
        ({}, None, None, ""),
        ({"free": 10 * MIB, "free_root": 15 * MIB}, "space-low", "warning", "11 % free, 10.0 MiB"),
        ({"free": MIB, "free_root": 6 * MIB}, "space-low", "critical", "1 % free"),
        ({"free": 0, "free_root": 5 * MIB}, "space-low", "critical", "5.0 MiB are reserved for root"),
        (
            {"free": MIB, "free_root": MIB, "deleted_open": 9 * MIB},
            "space-low",
            "critical",
            "9.0 MiB are in deleted files that are still open",
        ),
        ({"inodes_free": 50}, "inodes-low", "warning", "5 % of the inodes"),
        ({"inodes_free": 10}, "inodes-low", "critical", "1 % of the inodes"),
        ({"inodes": 0, "inodes_free": 0}, None, None, ""),
        ({"read_only": True}, "filesystem-read-only", "critical", "read-only"),
    ],
)
def test_space(changes: dict[str, Any], finding: str | None, severity: str | None, words: str) -> None:
    result = told(decided(picture(filesystems=[replace(DISK, **changes)])))
    assert set(result) == ({finding} if finding else set())
    if finding:
        assert (
            result[finding]["severity"] == severity
            and words in result[finding]["observed"]
            and result[finding]["subject"] == "/"
        )


def growing(bytes_per_day: float) -> Forecast:
    return forecast([(NOW - (30 - n) * DAY, 10 * MIB + n * bytes_per_day) for n in range(30)], 100 * MIB)


def test_a_disk_that_fills_is_told_in_time() -> None:
    told_of = growing(2 * MIB)
    assert told_of.days_left is not None
    days = told_of.days_left
    for limit, found in ((days + 1, True), (days - 1, False)):
        result = told(decided(picture(filesystems=[replace(DISK, forecast=told_of)]), forecast_warn_days=limit))
        assert ("fills-soon" in result) is found


def test_holds_and_archives_that_fail_are_told() -> None:
    result = told(decided(picture(held="court", archive_fault="it is gone")))
    assert result["hold"]["severity"] == "info" and result["archive-unusable"]["severity"] == "critical"


# --- facts ----------------------------------------------------------------------------------------------------------


def test_facts_have_what_a_report_shows() -> None:
    points = [(NOW - DAY, 1.4), (NOW, 2.6)]
    one = service(live=[file(size=5)], rotated=[rotated(1, 3)], history=points, forecast=growing(MIB))
    disk = replace(DISK, samples=tuple(points), deleted_open=3)
    facts = facts_of(picture(one, filesystems=[disk, replace(DISK, mount="/srv")], archived=[COPY], held="court"))
    (told_of,) = facts["services"]
    assert (told_of["name"], told_of["files"], told_of["bytes"], told_of["archived"], told_of["oldest_days"]) == (
        "app",
        1,
        105,
        1,
        10.0,
    )
    assert facts["filesystems"][0] == {
        "name": "/",
        "size": 100 * MIB,
        "used": 45 * MIB,
        "free_percent": 52.6,
        "deleted_open": 3,
    }
    assert [(c["of"], c["subject"], c["capacity"]) for c in facts["curves"]] == [
        ("file system", "/", 95 * MIB),
        ("service", "app", 0),
    ]
    disks, services = facts["curves"]
    assert (disks["trend"], disks["days_left"], disks["bytes_per_day"]) == ("unknown", None, 0)
    assert services["points"] == [[round(NOW - DAY), 1], [round(NOW), 3]] and services["bytes_per_day"] == MIB
    assert (facts["held"], facts["read_at"]) == ("court", NOW) and "held" not in facts_of(picture(one))
