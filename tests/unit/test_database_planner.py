"""What is due: every threshold just below, at and just above; no server."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from ansible.module_utils import database_planner as planner
from ansible.module_utils import database_retention as retention
from ansible.module_utils.database_planner import Limits
from ansible.module_utils.database_retention import Rule, RuleError
from ansible.module_utils.database_work import _levels
from ansible.module_utils.runbook_psql import LOCK_NOT_AVAILABLE, PsqlError

NOW = 1_773_570_605.0  # 2026-03-15 10:30:05 UTC
DAY = 86400
LIMITS = Limits()
SERVER: dict[str, Any] = {
    "version_num": 150000,
    "version": "15.0",
    "superuser": True,
    "monitor": True,
    "database_owner": True,
    "user": "maint",
    "user_ident": "maint",
    "inherits": True,
    "block_size": 8192,
    "stats_seconds": 40 * DAY,
    "vacuum_threshold": 50,
    "vacuum_scale_factor": 0.2,
    "insert_threshold": 1000,
    "insert_scale_factor": 0.2,
    "analyze_threshold": 50,
    "analyze_scale_factor": 0.1,
    "freeze_max_age": 200_000_000,
    "multixact_freeze_max_age": 400_000_000,
}


def limits(**fields: Any) -> Limits:
    return dataclasses.replace(LIMITS, **fields)


def server(**fields: Any) -> dict[str, Any]:
    return {**SERVER, **fields}


def table(**fields: Any) -> dict[str, Any]:
    return {
        "oid": 1,
        "ident": "public.t",
        "kind": "r",
        "reltuples": 1000.0,
        "heap_bytes": 8192,
        "total_bytes": 16384,
        "has_children": False,
        "dead_rows": 0,
        "inserted_rows": 0,
        "changed_rows": 0,
        "xid_age": 0,
        "mxid_age": 0,
        "options": {},
        "missing_statistics": None,
        "may_maintain": True,
        "owner_ident": '"the owner"',
        **fields,
    }


def column(**fields: Any) -> dict[str, Any]:
    return {
        "name": "id",
        "width": 8,
        "nulls": 0.0,
        "distinct": -1.0,
        "length": 8,
        "align": "d",
        "deduplicates": True,
        **fields,
    }


def index(**fields: Any) -> dict[str, Any]:
    return {
        "oid": 10,
        "table_oid": 1,
        "schema": "public",
        "name": "t_id",
        "ident": "public.t_id",
        "table_ident": "public.t",
        "method": "btree",
        "reltuples": 100_000.0,
        "bytes": 20_000_000,
        "valid": True,
        "building": False,
        "locked": False,
        "is_unique": True,
        "is_exclusion": False,
        "backs_constraint": False,
        "may_deduplicate": True,
        "fillfactor": 90,
        "columns": [column()],
        "definition": "d1",
        "owner": True,
        "owner_ident": '"the owner"',
        "scans": 5,
        **fields,
    }


def ids(findings: list[dict[str, Any]]) -> list[str]:
    return [f["id"] for f in findings]


def subjects(items: list[dict[str, Any]]) -> list[str]:
    return [item["subject"] for item in items]


# --- guards -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "client", "says"),
    [
        (140003, 15, "REINDEX CONCURRENTLY of 14.0 to 14.3"),
        (130014, 15, "too old"),
        (140004, 15, None),
        (180000, 15, None),
        (150000, 12, "psql 12 is too old"),
        (150000, 13, None),
    ],
)
def test_versions(version: int, client: int, says: str | None) -> None:
    refused = planner.guard(server(version_num=version, version="14.x"), client)
    assert (refused is None) is (says is None)
    if refused and says:
        assert refused[0] == "refused" and says in refused[1]


@pytest.mark.parametrize(
    ("seconds", "xids", "blocks"),
    [
        (299.9, 10**9, False),
        (300, 10**9, False),
        (300.1, 0, True),
        (None, 49_999, False),
        (None, 50_000, False),
        (None, 50_001, True),
        (None, None, False),
        (0.0, 10**9, False),
    ],
)
def test_who_holds_the_horizon_for_too_long(seconds: float | None, xids: int | None, blocks: bool) -> None:
    holder = {"holder": "session 7", "kind": "session", "pid": 7, "age_seconds": seconds, "age_xids": xids}
    assert bool(planner.blockers([holder], LIMITS)) is blocks


def test_holders_are_told_oldest_first_with_their_own_remedy() -> None:
    holders = [
        {"holder": "session 7 of app", "kind": "session", "pid": 7, "age_seconds": 400.0, "age_xids": 5},
        {"holder": "prepared p", "kind": "prepared", "pid": None, "age_seconds": 900.0, "age_xids": 5},
        {"holder": "slot s", "kind": "slot", "pid": None, "age_seconds": None, "age_xids": 60_000},
        {"holder": "standby x", "kind": "standby", "pid": 9, "age_seconds": None, "age_xids": 70_000},
    ]
    blocking = planner.blockers(holders, LIMITS)
    assert [h["holder"] for h in blocking] == ["standby x", "slot s", "prepared p", "session 7 of app"]
    found = planner.blocker_findings(blocking, LIMITS)
    assert {f["id"] for f in found} == {"horizon-held"}
    assert [f["observed"] for f in found] == ["70000 transactions", "60000 transactions", "900 s", "400 s"]
    assert [f["expected"] for f in found] == ["at most 50000 transactions"] * 2 + ["at most 300 s"] * 2
    for found_one, word in zip(
        found, ("hot_standby_feedback", "drop the slot", "ROLLBACK PREPARED", "pg_terminate_backend(7)"), strict=True
    ):
        assert word in found_one["remedy"]
    assert planner.blocker_findings([], LIMITS) == []


# --- vacuum, analyze, freeze ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "wanted", "reason"),
    [
        ({"dead_rows": 250}, {}, None),  # 50 + 0.2 * 1000
        ({"dead_rows": 251}, {}, "dead rows"),
        ({"dead_rows": 51, "reltuples": 0}, {}, "dead rows"),
        ({"dead_rows": 50, "reltuples": -1}, {}, None),  # never analyzed counts as empty
        ({"dead_rows": 51, "reltuples": -1}, {}, "dead rows"),
        ({"dead_rows": 10**9, "kind": "p"}, {}, None),  # a partitioned table has no rows of its own
        ({"dead_rows": 251, "kind": "m"}, {}, "dead rows"),
        # the input replaces the server's setting, one number at a time
        ({"dead_rows": 300}, {"vacuum_threshold_rows": 100}, None),
        ({"dead_rows": 301}, {"vacuum_threshold_rows": 100}, "dead rows"),
        ({"dead_rows": 60}, {"vacuum_scale_factor": 0.01}, None),
        ({"dead_rows": 61}, {"vacuum_scale_factor": 0.01}, "dead rows"),
        ({"dead_rows": 1}, {"vacuum_scale_factor": 0.0, "vacuum_threshold_rows": 0}, "dead rows"),
        ({"dead_rows": 0}, {"vacuum_scale_factor": 0.0, "vacuum_threshold_rows": 0}, None),
        # and the table's own option replaces both
        ({"dead_rows": 205, "options": {"autovacuum_vacuum_threshold": "5"}}, {"vacuum_threshold_rows": 100}, None),
        (
            {"dead_rows": 206, "options": {"autovacuum_vacuum_threshold": "5"}},
            {"vacuum_threshold_rows": 100},
            "dead rows",
        ),
        ({"dead_rows": 50, "options": {"autovacuum_vacuum_scale_factor": "0"}}, {"vacuum_scale_factor": 0.5}, None),
        (
            {"dead_rows": 51, "options": {"autovacuum_vacuum_scale_factor": "0"}},
            {"vacuum_scale_factor": 0.5},
            "dead rows",
        ),
        # insert-only tables
        ({"inserted_rows": 1200}, {}, None),  # 1000 + 0.2 * 1000
        ({"inserted_rows": 1201}, {}, "rows inserted since the last vacuum"),
        ({"inserted_rows": 301}, {"vacuum_insert_threshold_rows": 100}, "rows inserted since the last vacuum"),
        ({"inserted_rows": 300}, {"vacuum_insert_threshold_rows": 100}, None),
        ({"inserted_rows": 1001}, {"vacuum_insert_scale_factor": 0.0}, "rows inserted since the last vacuum"),
        ({"inserted_rows": 10**9}, {"vacuum_insert_threshold_rows": -1}, None),
        ({"inserted_rows": 10**9, "options": {"autovacuum_vacuum_insert_threshold": "-1"}}, {}, None),
        ({"inserted_rows": 201}, {"vacuum_insert_threshold_rows": 0}, "rows inserted since the last vacuum"),
        (
            {"inserted_rows": 206, "options": {"autovacuum_vacuum_insert_threshold": "5"}},
            {},
            "rows inserted since the last vacuum",
        ),
        (
            {"inserted_rows": 1001, "options": {"autovacuum_vacuum_insert_scale_factor": "0"}},
            {},
            "rows inserted since the last vacuum",
        ),
        # transaction numbers: half of 200 million
        ({"xid_age": 100_000_000}, {}, None),
        ({"xid_age": 100_000_001}, {}, "freeze: transaction age"),
        ({"xid_age": 20_000_001}, {"freeze_percent": 10}, "freeze: transaction age"),
        ({"xid_age": 20_000_000}, {"freeze_percent": 10}, None),
        ({"xid_age": 50_001, "options": {"autovacuum_freeze_max_age": "100000"}}, {}, "freeze: transaction age"),
        ({"xid_age": 50_000, "options": {"autovacuum_freeze_max_age": "100000"}}, {}, None),
        (
            {"xid_age": 100_000_001, "options": {"autovacuum_freeze_max_age": "2000000000"}},
            {},
            "freeze: transaction age",
        ),
        ({"mxid_age": 200_000_000}, {}, None),
        ({"mxid_age": 200_000_001}, {}, "freeze: multixact age"),
        (
            {"mxid_age": 50_001, "options": {"autovacuum_multixact_freeze_max_age": "100000"}},
            {},
            "freeze: multixact age",
        ),
        # age comes first: it is the one that cannot wait
        ({"dead_rows": 10**6, "mxid_age": 200_000_001}, {}, "freeze: multixact age"),
    ],
)
def test_when_a_table_is_vacuumed(fields: dict[str, Any], wanted: dict[str, Any], reason: str | None) -> None:
    due = planner.vacuum_due(table(**fields), SERVER, limits(**wanted))
    assert (due[0] if due else None) == reason
    if due:
        assert due[1] > due[2], "the number that is shown passes the threshold that is shown"


@pytest.mark.parametrize(
    ("fields", "wanted", "reason"),
    [
        ({"changed_rows": 150}, {}, None),  # 50 + 0.1 * 1000
        ({"changed_rows": 151}, {}, "rows changed since the last analyze"),
        ({"changed_rows": 110}, {"analyze_threshold_rows": 10}, None),
        ({"changed_rows": 111}, {"analyze_threshold_rows": 10}, "rows changed since the last analyze"),
        ({"changed_rows": 51}, {"analyze_scale_factor": 0.0}, "rows changed since the last analyze"),
        (
            {"changed_rows": 106, "options": {"autovacuum_analyze_threshold": "5"}},
            {"analyze_threshold_rows": 500},
            "rows changed since the last analyze",
        ),
        ({"changed_rows": 50, "options": {"autovacuum_analyze_scale_factor": "0"}}, {}, None),
        ({"missing_statistics": ["a", "b"]}, {}, "columns without statistics"),
        ({"missing_statistics": ["a"], "heap_bytes": 0}, {}, None),  # an empty table has none
        (
            {"missing_statistics": ["a"], "heap_bytes": 0, "kind": "p", "has_children": True},
            {},
            "columns without statistics",
        ),
        ({"missing_statistics": ["a"], "heap_bytes": 0, "kind": "p", "has_children": False}, {}, None),
        ({"missing_statistics": [], "changed_rows": 10**9, "kind": "p", "has_children": True}, {}, None),
    ],
)
def test_when_a_table_is_analyzed(fields: dict[str, Any], wanted: dict[str, Any], reason: str | None) -> None:
    due = planner.analyze_due(table(**fields), SERVER, limits(**wanted), {})
    assert (due[0] if due else None) == reason
    if due:
        assert due[1] > due[2]


def test_columns_that_analyze_did_not_help_are_not_tried_again() -> None:
    memory = {"without_statistics": {"public.t": ["a"]}}
    assert planner.analyze_due(table(missing_statistics=["a"]), SERVER, LIMITS, memory) is None
    due = planner.analyze_due(table(missing_statistics=["a", "b"]), SERVER, LIMITS, memory)
    assert due and due[:2] == ("columns without statistics", 1)
    assert planner.analyze_due(table(ident="public.u", missing_statistics=["a"]), SERVER, LIMITS, memory)


def test_the_plan_joins_what_one_statement_can_do() -> None:
    tables = [
        table(ident="both", dead_rows=300, changed_rows=200),
        table(ident="vacuum", dead_rows=300),
        table(ident="analyze", changed_rows=200),
        table(ident="freeze", xid_age=150_000_000),
        table(ident="nothing"),
    ]
    planned = planner.plan_vacuum(tables, SERVER, LIMITS, {}, blocked=False)
    assert [(a["subject"], a["options"]) for a in planned] == [
        ("both", ["VACUUM", "ANALYZE"]),
        ("vacuum", ["VACUUM"]),
        ("analyze", ["ANALYZE"]),
        ("freeze", ["VACUUM", "FREEZE"]),
    ]
    assert planned[0]["reason"] == "dead rows; rows changed since the last analyze"
    assert (planned[1]["number"], planned[1]["threshold"], planned[1]["before"], planned[1]["unit"]) == (
        300,
        250,
        300,
        "rows",
    )


def test_while_the_horizon_is_held_only_analyze_is_of_use() -> None:
    tables = [table(ident="both", dead_rows=300, changed_rows=200), table(ident="vacuum", dead_rows=300)]
    planned = planner.plan_vacuum(tables, SERVER, LIMITS, {}, blocked=True)
    assert [(a["subject"], a["options"], a["reason"]) for a in planned] == [
        ("both", ["ANALYZE"], "rows changed since the last analyze")
    ]


@pytest.mark.parametrize(
    ("owner", "may", "planned"), [(True, False, 1), (False, True, 1), (False, False, 0), (True, True, 1)]
)
def test_only_what_the_role_may_do_is_planned(owner: bool, may: bool, planned: int) -> None:
    tables = [table(dead_rows=300, may_maintain=may)]
    assert len(planner.plan_vacuum(tables, server(database_owner=owner), LIMITS, {}, False)) == planned


# --- indexes ----------------------------------------------------------------------------------------------------


def test_the_size_of_a_unique_index_is_that_of_its_tuples() -> None:
    # bigint: 8 header + 8 data + 4 pointer = 20 bytes; a page of 8152 bytes filled to 90 % holds 366.
    leaves = math.ceil(100_000 * 20 / (8152 * 0.9))
    inner = math.ceil(leaves * 20 / (8152 * 0.9))
    assert planner.expected_index_bytes(index(), 8192, {}) == (leaves + inner + 2) * 8192


# One row: 8 bytes of header, the data with its alignment, all rounded up to 8, and 4 bytes of pointer.
@pytest.mark.parametrize(
    ("columns", "bytes_per_row"),
    [
        ([column()], 8 + 8 + 4),
        ([column(length=4, align="i")], 8 + 8 + 4),  # 12 rounds up to 16
        ([column(length=4, align="i"), column(length=4, align="i")], 8 + 8 + 4),
        ([column(length=4, align="i"), column()], 8 + 16 + 4),  # the second begins at 8
        ([column(length=2, align="s"), column(length=4, align="i"), column(length=1, align="c")], 8 + 16 + 4),
        ([column(length=1, align="c"), column(length=2, align="s")], 8 + 8 + 4),
        ([column(length=1, align="c"), column(length=4, align="i"), column(length=4, align="i")], 8 + 16 + 4),
        ([column(length=-1, align="i", width=21)], 8 + 24 + 4),
        ([column(length=-1, align="i", width=1)], 8 + 8 + 4),
        ([column(length=-1, align="i", width=40, nulls=0.5)], 16 + 24 + 4),  # a bitmap of NULLs, and half the values
        ([column(nulls=0.25)], 16 + 8 + 4),
    ],
)
def test_bytes_of_one_row(columns: list[dict[str, Any]], bytes_per_row: int) -> None:
    usable = 8152 * 0.9
    leaves = math.ceil(1_000_000 * bytes_per_row / usable)
    expected = (leaves + math.ceil(leaves * bytes_per_row / usable) + 2) * 8192
    assert planner.expected_index_bytes(index(columns=columns, reltuples=1e6), 8192, {}) == expected


@pytest.mark.parametrize(
    ("distinct", "rows_per_list"),
    [
        (500_000.0, 2),
        (250_000.0, 4),
        (1000.0, (819.2 - 4 - 20) / 6),  # a list takes at most a tenth of a page
        (-0.25, 4),
        (-0.000001, (819.2 - 4 - 20) / 6),
        (0.5, (819.2 - 4 - 20) / 6),
    ],
)
def test_equal_keys_share_a_list_of_pointers(distinct: float, rows_per_list: float) -> None:
    usable = 8152 * 0.9
    leaves = math.ceil(1_000_000 * (6 + 20 / rows_per_list) / usable)
    expected = (leaves + math.ceil(leaves * 20 / usable) + 2) * 8192
    columns = [column(distinct=distinct)]
    assert size(is_unique=False, columns=columns, reltuples=1e6) == pytest.approx(expected, abs=8192)


def size(**fields: Any) -> float:
    expected = planner.expected_index_bytes(index(**fields), 8192, {})
    assert expected is not None
    return expected


def test_what_makes_an_index_larger_or_smaller() -> None:
    plain = size()
    assert size(reltuples=200_000.0) > 1.9 * plain
    assert size(reltuples=0.0) == 2 * 8192
    assert size(fillfactor=50) > 1.7 * plain
    assert size(columns=[column(width=100, length=-1, align="i")]) > 4 * plain
    assert size(columns=[column(nulls=0.5)]) > plain, "a bitmap of NULLs costs more than half the values save here"
    # 4 + 8 bytes are aligned to 16
    assert (
        size(columns=[column(length=4, align="i"), column()])
        > size(columns=[column(), column(length=4, align="i")]) - 1
    )
    twice = {"is_unique": False, "columns": [column(distinct=100.0)]}
    assert size(**twice) < 0.5 * plain, "equal keys are stored once"
    assert size(**{**twice, "is_unique": True}) == plain
    assert size(**{**twice, "may_deduplicate": False}) == plain
    assert size(is_unique=False, columns=[column(distinct=100.0, deduplicates=False)]) == plain
    assert size(is_unique=False, columns=[column(distinct=-0.6)]) == plain, (
        "fewer than two rows a key are no duplicates"
    )
    assert size(is_unique=False, columns=[column(distinct=-0.5)]) < plain
    assert size(is_unique=False, columns=[column(distinct=100.0), column(distinct=1000.0)]) > 1.3 * plain, (
        "together they are distinct"
    )


@pytest.mark.parametrize(
    "fields",
    [{"reltuples": -1.0}, {"method": "gin"}, {"columns": None}, {"columns": [column(width=None)]}, {"columns": []}],
)
def test_sizes_that_cannot_be_told(fields: dict[str, Any]) -> None:
    assert planner.expected_index_bytes(index(**fields), 8192, {}) is None
    assert planner.bloat_percent(index(**fields), 8192, {}) is None


def test_what_a_rebuild_of_ours_measured_is_used_instead_of_the_estimate() -> None:
    memory = {"indexes": {"public.t_id": {"definition": "d1", "bytes_per_row": 150.0}}}
    assert planner.expected_index_bytes(index(), 8192, memory) == 15_000_000
    assert planner.bloat_percent(index(), 8192, memory) == pytest.approx(25)
    assert planner.expected_index_bytes(index(method="gin"), 8192, memory) == 15_000_000, "for any method"
    assert planner.expected_index_bytes(index(reltuples=1.0), 8192, memory) == 2 * 8192
    assert planner.expected_index_bytes(index(reltuples=-1.0), 8192, memory) is None
    assert planner.expected_index_bytes(index(definition="d2"), 8192, memory) == size(), "another index by that name"


def with_bloat(percent: float, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an index of 16 MB and the memory by which so many percent of it are bloat, without an error of rounding."""
    per_row = 128 * (1 - percent / 100)
    return index(reltuples=2.0**17, bytes=2**24, **fields), {
        "indexes": {"public.t_id": {"definition": "d1", "bytes_per_row": per_row}}
    }


@pytest.mark.parametrize(("percent", "due"), [(24, False), (25, False), (26, True), (90, True), (-50, False)])
def test_how_much_bloat_is_worth_a_rebuild(percent: float, due: bool) -> None:
    item, memory = with_bloat(percent)
    planned = planner.plan_indexes([item], SERVER, limits(index_bloat_percent=25), memory, False, NOW)
    assert bool(planned) is due
    if due:
        action = planned[0]
        assert (action["verb"], action["reason"], action["threshold"], action["unit"], action["before"]) == (
            "REINDEX",
            "bloat",
            25,
            "percent",
            2**24,
        )
        assert action["number"] == round(percent, 1)


@pytest.mark.parametrize(("size", "due"), [(10 * 1024 * 1024 - 1, False), (10 * 1024 * 1024, True)])
def test_small_indexes_are_left_alone(size: int, due: bool) -> None:
    memory = {"indexes": {"public.t_id": {"definition": "d1", "bytes_per_row": 1.0}}}
    assert bool(planner.plan_indexes([index(bytes=size)], SERVER, LIMITS, memory, False, NOW)) is due


@pytest.mark.parametrize(
    ("fields", "rights", "due"),
    [
        ({}, {}, True),
        ({"is_exclusion": True}, {}, False),
        ({"owner": False}, {"superuser": False}, False),
        ({"owner": False}, {"superuser": True}, True),
        ({"owner": True}, {"superuser": False}, True),
        ({"method": "gin"}, {}, True),
    ],
)
def test_which_indexes_are_rebuilt_for_bloat(fields: dict[str, Any], rights: dict[str, Any], due: bool) -> None:
    item, memory = with_bloat(60, **fields)
    assert bool(planner.plan_indexes([item], server(**rights), LIMITS, memory, False, NOW)) is due


def test_nothing_is_built_while_old_transactions_run() -> None:
    item, memory = with_bloat(60)
    assert planner.plan_indexes([item, index(valid=False)], SERVER, LIMITS, memory, True, NOW) == []


def test_a_rebuilt_index_is_not_due_at_once() -> None:
    """Hysteresis: what the rebuild measured is the new ground, whatever the estimate says."""
    item = index(bytes=20_000_000)
    assert planner.plan_indexes([item], SERVER, LIMITS, {}, False, NOW), "by the estimate it is bloated"
    memory = {"indexes": {"public.t_id": {"definition": "d1", "bytes_per_row": 200.0}}}
    assert planner.plan_indexes([item], SERVER, LIMITS, memory, False, NOW) == []
    assert planner.plan_indexes([{**item, "bytes": 28_500_000}], SERVER, LIMITS, memory, False, NOW) == []
    assert planner.plan_indexes([{**item, "bytes": 29_000_000}], SERVER, LIMITS, memory, False, NOW)


@pytest.mark.parametrize(
    ("fields", "verb"),
    [
        ({}, "REINDEX"),
        ({"building": True}, None),
        ({"locked": True}, None),
        ({"bytes": 0}, "REINDEX"),
        ({"name": "base_ccnew"}, "DROP"),
        ({"name": "base_ccnew", "building": True}, None),
        ({"name": "base_ccold", "locked": True}, None),
    ],
)
def test_invalid_indexes(fields: dict[str, Any], verb: str | None) -> None:
    item = index(valid=False, **fields)
    base = index(oid=11, name="base", ident="public.base", definition="other", bytes=8192)
    planned = planner.plan_indexes([item, base], SERVER, LIMITS, {}, False, NOW)
    assert [a["verb"] for a in planned] == ([verb] if verb else [])


@pytest.mark.parametrize(
    ("name", "other", "leftover"),
    [
        ("i_ccnew", {"name": "i"}, True),
        ("i_ccold", {"name": "i"}, True),
        ("i_ccnew1", {"name": "i"}, True),
        ("i_ccold12", {"name": "i"}, True),
        ("i_ccnew_ccnew", {"name": "i_ccnew"}, True),
        ("renamed_ccnew", {"name": "cut off by its length", "definition": "d1"}, True),
        ("i_ccnew", {"name": "i", "table_oid": 2}, False),
        ("i_ccnew", {"name": "j"}, False),
        ("i_ccnew", None, False),
        ("i_ccnewer", {"name": "i"}, False),
        ("i_ccnew_x", {"name": "i"}, False),
        ("_ccnew", {"name": ""}, False),
        ("i", {"name": "i", "definition": "d1"}, False),
    ],
)
def test_what_a_cancelled_rebuild_leaves_is_known_by_name_and_twin(
    name: str, other: dict[str, Any] | None, leftover: bool
) -> None:
    item = index(name=name, valid=False)
    others = [] if other is None else [index(oid=11, **{"definition": "d2", **other})]
    assert planner.is_leftover(item, [item, *others]) is leftover


def test_leftovers_of_toast_need_no_twin() -> None:
    assert planner.is_leftover(index(schema="pg_toast", name="pg_toast_1_index_ccnew", valid=False), [])
    assert not planner.is_leftover(index(schema="pg_toast", name="pg_toast_1_index", valid=False), [])


@pytest.mark.parametrize(("hours", "again"), [(0, False), (167.9, False), (168, True), (500, True)])
def test_a_failure_is_tried_again_after_its_time(hours: float, again: bool) -> None:
    memory = {"failures": {"indexes:public.t_id": {"at": NOW - hours * 3600, "error": "could not create unique index"}}}
    planned = planner.plan_indexes([index(valid=False)], SERVER, LIMITS, memory, False, NOW)
    found = planner.failure_findings(LIMITS, memory, NOW)
    assert bool(planned) is again and bool(found) is not again
    if found:
        assert (found[0]["subject"], found[0]["observed"]) == ("public.t_id", "could not create unique index")
    assert planner.plan_indexes([index(ident="public.other", valid=False)], SERVER, LIMITS, memory, False, NOW)
    assert not planner.failed_lately("vacuum", "public.t_id", LIMITS, memory, NOW), "another step is another matter"


def test_duplicate_indexes_are_told_but_never_the_one_that_backs_a_constraint() -> None:
    key = index(oid=20, ident="public.key", backs_constraint=True)
    twin = index(oid=10, ident="public.twin", is_unique=False)
    other = index(oid=11, ident="public.other", definition="d2")
    found = planner.index_findings([twin, key, other], [], SERVER, LIMITS)
    assert [(f["id"], f["subject"], f["title"]) for f in found] == [
        ("index-duplicate", "public.twin", "Same columns as public.key")
    ]
    second_key = index(oid=21, ident="public.key2", backs_constraint=True)
    assert planner.index_findings([key, second_key], [], SERVER, LIMITS) == []
    assert planner.index_findings([key, {**twin, "valid": False}], [], SERVER, LIMITS) == []


def test_of_two_equal_indexes_the_unique_and_then_the_older_one_stays() -> None:
    plain, unique, older = (
        index(oid=1, ident="plain", is_unique=False),
        index(oid=9, ident="unique"),
        index(oid=8, ident="older"),
    )
    assert subjects(planner.index_findings([plain, unique], [], SERVER, LIMITS)) == ["plain"]
    assert subjects(planner.index_findings([unique, older], [], SERVER, LIMITS)) == ["unique"]


@pytest.mark.parametrize(
    ("days", "fields", "told"),
    [
        (30, {}, True),
        (29.9, {}, False),
        (30, {"scans": 1}, False),
        (30, {"bytes": 1024 * 1024 - 1}, False),
        (30, {"bytes": 1024 * 1024}, True),
        (30, {"is_unique": True}, False),
        (30, {"backs_constraint": True}, False),
        (30, {"valid": False}, False),
        (None, {}, False),
    ],
)
def test_unused_indexes(days: float | None, fields: dict[str, Any], told: bool) -> None:
    item = index(**{"scans": 0, "is_unique": False, **fields})
    seconds = None if days is None else days * DAY
    assert ids(planner.index_findings([item], [], server(stats_seconds=seconds), LIMITS)) == (
        ["index-unused"] if told else []
    )


def test_foreign_keys_without_index_and_builds_that_go_on() -> None:
    key = {
        "name": "fk",
        "parent_ident": "public.p",
        "child_ident": "public.c",
        "child_columns": ['"P id"'],
        "indexed": False,
    }
    found = planner.index_findings(
        [index(valid=False, building=True)], [key, {**key, "name": "fine", "indexed": True}], SERVER, LIMITS
    )
    assert [(f["id"], f["subject"]) for f in found] == [
        ("index-in-build", "public.t_id"),
        ("foreign-key-without-index", "public.c.fk"),
    ]
    assert found[1]["remedy"] == 'CREATE INDEX CONCURRENTLY ON public.c ("P id");'


# --- materialized views -----------------------------------------------------------------------------------------


def view(**fields: Any) -> dict[str, Any]:
    return {
        "oid": 30,
        "ident": "public.v",
        "populated": True,
        "unique_index": True,
        "nullable_keys": None,
        "views_below": None,
        "writes": 7,
        "foreign_source": False,
        "may_maintain": True,
        "bytes": 8192,
        **fields,
    }


def refreshed(hours_ago: float, **fields: Any) -> dict[str, Any]:
    return {"views": {"public.v": {"refreshed_at": NOW - hours_ago * 3600, "writes": 7, "oid": 30, **fields}}}


@pytest.mark.parametrize(
    ("fields", "memory", "reason"),
    [
        ({}, {}, "no refresh on record"),
        ({}, refreshed(500), None),  # nothing changed
        ({"writes": 8}, refreshed(23.9), None),
        ({"writes": 8}, refreshed(24), "source changed"),
        ({"oid": 31}, refreshed(24), "source changed"),  # made anew
        ({"foreign_source": True}, refreshed(24), "reads a foreign table"),
        ({"foreign_source": True}, refreshed(23.9), None),
        ({"populated": False}, refreshed(0), "never filled"),
        ({"populated": False, "unique_index": False}, {}, "never filled"),
        ({"may_maintain": False}, {}, None),
        ({}, {"failures": {"views:public.v": {"at": NOW, "error": "x"}}}, None),
    ],
)
def test_when_a_view_is_refreshed(fields: dict[str, Any], memory: dict[str, Any], reason: str | None) -> None:
    planned, found = planner.plan_views([view(**fields)], LIMITS, memory, False, NOW)
    assert [a["reason"] for a in planned] == ([reason] if reason else []) and found == []
    if planned:
        assert planned[0]["concurrently"] is (reason != "never filled")


@pytest.mark.parametrize(
    ("fields", "allowed", "planned", "found", "detail"),
    [
        ({"unique_index": False}, False, 0, ["view-blocks-readers"], ""),
        ({"unique_index": False}, True, 1, [], "REFRESH"),
        ({"unique_index": False, "populated": False}, False, 1, [], "REFRESH"),  # nobody reads an empty shell
        ({}, False, 1, [], "REFRESH CONCURRENTLY"),
        ({"nullable_keys": ["day"]}, False, 1, ["view-key-with-nulls"], "REFRESH CONCURRENTLY"),
    ],
)
def test_readers_are_not_blocked_unless_allowed(
    fields: dict[str, Any], allowed: bool, planned: int, found: list[str], detail: str
) -> None:
    got, told = planner.plan_views([view(**fields)], limits(views_blocking_allowed=allowed), {}, False, NOW)
    assert (len(got), ids(told)) == (planned, found)
    if got:
        assert (got[0]["detail"], got[0]["concurrently"]) == (detail, detail.endswith("CONCURRENTLY"))


def test_no_refresh_while_the_horizon_is_held_but_its_obstacles_are_told() -> None:
    views = [view(), view(oid=31, ident="public.w", unique_index=False)]
    planned, found = planner.plan_views(views, LIMITS, {}, True, NOW)
    assert planned == [] and subjects(found) == ["public.w"]


def test_sources_come_before_their_readers_and_make_them_due() -> None:
    top = view(oid=31, ident="public.top", views_below=[30])
    beside = view(oid=32, ident="public.beside")
    memory = {
        "views": {
            "public.v": {"refreshed_at": NOW - DAY, "writes": 1, "oid": 30},
            "public.top": {"refreshed_at": NOW - DAY, "writes": 7, "oid": 31},
            "public.beside": {"refreshed_at": NOW - DAY, "writes": 7, "oid": 32},
        }
    }
    planned, _ = planner.plan_views([top, beside, view()], LIMITS, memory, False, NOW)
    assert subjects(planned) == ["public.v", "public.top"]
    memory["views"]["public.v"]["writes"] = 7
    assert planner.plan_views([top, beside, view()], LIMITS, memory, False, NOW)[0] == []


def test_levels_hold_what_can_run_at_the_same_time() -> None:
    items = [{"oid": oid} for oid in (1, 2, 3, 4, 5)]
    below = {2: [1], 3: [2, 99], 4: [4], 5: [1]}
    assert [[i["oid"] for i in level] for level in _levels(items, below)] == [[1, 4], [2, 5], [3]]
    assert _levels([], {}) == []
    assert [[i["oid"] for i in level] for level in _levels(items[:2], {1: [2], 2: [1]})] == [[1, 2]], (
        "a circle ends all the same"
    )


# --- disk, rights, sequences, growth, settings ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "free", "jobs", "required", "finding"),
    [
        (1000, 1200, 1, True, None),
        (1000, 1199, 1, True, "disk-short"),
        (1000, 2400, 2, True, None),
        (1000, 2399, 2, True, "disk-short"),
        (1000, 1200, 0, True, None),
        (1000, None, 1, True, "disk-unknown"),
        (1000, None, 1, False, None),
        (1000, 1199, 1, False, "disk-short"),
        (0, 0, 1, True, None),
    ],
)
def test_rewrites_need_free_disk_space(
    size: int, free: int | None, jobs: int, required: bool, finding: str | None
) -> None:
    items = [
        {"step": "indexes", "subject": "public.i", "bytes": size, "verb": "REINDEX"},
        {"step": "indexes", "subject": "public.d", "bytes": size, "verb": "DROP"},
    ]
    fits, found = planner.within_disk(items, free, limits(disk_check_required=required), jobs)
    assert subjects(fits) == ([] if finding else ["public.i"]) + ["public.d"], "dropping needs no space"
    assert ids(found) == ([finding] if finding else [])


@pytest.mark.parametrize(
    ("superuser", "monitor", "owner", "may", "due", "found"),
    [
        (True, False, False, True, True, []),
        (False, True, False, True, True, []),
        (False, False, False, True, True, ["pg_monitor"]),
        (False, True, False, False, True, ["maintain"]),
        (False, True, True, False, True, []),
        (False, True, False, False, False, []),
        (False, False, False, False, True, ["pg_monitor", "maintain"]),
    ],
)
def test_missing_rights_are_named(
    superuser: bool, monitor: bool, owner: bool, may: bool, due: bool, found: list[str]
) -> None:
    role = server(superuser=superuser, monitor=monitor, database_owner=owner)
    told = planner.rights_findings(role, [table(may_maintain=may, dead_rows=300 if due else 0)], LIMITS, {})
    assert subjects(told) == found and set(ids(told)) <= {"grant-missing"}


def test_grants_are_those_that_the_version_has_and_long_lists_are_cut() -> None:
    tables = [table(ident=f"public.t{n}", may_maintain=False, dead_rows=300) for n in range(12)]
    old, new = (
        planner.rights_findings(server(superuser=False, database_owner=False, version_num=v), tables, LIMITS, {})
        for v in (160009, 170000)
    )
    assert old[0]["remedy"] == 'GRANT "the owner" TO maint;' and new[0]["remedy"] == "GRANT pg_maintain TO maint;"
    assert old[0]["observed"].startswith("public.t0, public.t1") and old[0]["observed"].endswith("public.t9 and 2 more")


@pytest.mark.parametrize(
    ("version", "inherits", "remedy"),
    [
        (150000, True, 'GRANT "the owner" TO maint;'),
        (150000, False, 'GRANT "the owner" TO maint; ALTER ROLE maint INHERIT;'),
        (160000, False, 'GRANT "the owner" TO maint WITH INHERIT TRUE;'),
    ],
)
def test_indexes_and_views_of_others_are_told_with_the_grant(version: int, inherits: bool, remedy: str) -> None:
    role = server(superuser=False, version_num=version, inherits=inherits)
    broken = index(valid=False, owner=False)
    assert planner.plan_indexes([broken], role, LIMITS, {}, False, NOW) == []
    found = planner.owner_findings(role, [broken, index(owner=False, bytes=8192)], [], LIMITS, {})
    assert [(f["subject"], f["observed"], f["remedy"]) for f in found] == [("indexes", "public.t_id", remedy)]
    shell = view(may_maintain=False, owner_ident='"the owner"')
    assert [(f["subject"], f["remedy"]) for f in planner.owner_findings(role, [], [shell], LIMITS, {})] == [
        ("views", remedy)
    ]
    assert planner.owner_findings(role, [index(valid=False)], [view()], LIMITS, {}) == []
    assert planner.owner_findings(server(), [broken], [], LIMITS, {}) == [], "a superuser may"


def sequence(last: int, limit: int = 1000, **fields: Any) -> dict[str, Any]:
    return {
        "ident": "public.s",
        "column_ident": "public.t.id",
        "last_value": last,
        "limit_value": limit,
        "cycle": False,
        **fields,
    }


@pytest.mark.parametrize(
    ("last", "severity"), [(699, None), (700, "warning"), (849, "warning"), (850, "critical"), (1000, "critical")]
)
def test_sequences_near_their_end(last: int, severity: str | None) -> None:
    found = planner.sequence_findings([sequence(last)], LIMITS, {}, NOW)
    assert [f["severity"] for f in found] == ([severity] if severity else [])
    assert planner.sequence_findings([sequence(last, cycle=True)], LIMITS, {}, NOW) == []


def test_what_to_do_about_a_sequence_depends_on_its_type() -> None:
    small = planner.sequence_findings([sequence(2**31 - 2, 2**31 - 1)], LIMITS, {}, NOW)[0]
    big = planner.sequence_findings([sequence(2**63 - 2, 2**63 - 1, column_ident=None)], LIMITS, {}, NOW)[0]
    assert small["remedy"] == "Widen public.t.id to bigint" and small["observed"] == "100.0 % used"
    assert big["remedy"] == "Raise MAXVALUE" and big["title"] == "public.s runs out of numbers"


@pytest.mark.parametrize(
    ("seconds_ago", "then", "days"),
    [
        (3599, 100, None),  # too short to tell a rate
        (3600, 100, 500 / 400 / 24),
        (DAY, 490, 50.0),  # 10 a day, 500 left
        (DAY, 500, None),  # stands still
        (DAY, 600, None),  # was set back
    ],
)
def test_days_left_at_the_measured_rate(seconds_ago: float, then: int, days: float | None) -> None:
    memory = {"sequences": {"public.s": {"at": NOW - seconds_ago, "last_value": then}}}
    left = planner.days_left(sequence(500), memory, NOW)
    assert left == (None if days is None else pytest.approx(days))
    assert planner.days_left(sequence(500), {}, NOW) is None


@pytest.mark.parametrize(("then", "told"), [(490, False), (489, True), (100, True), (499, False), (500, False)])
def test_a_sequence_that_ends_soon_is_told_however_empty(then: int, told: bool) -> None:
    memory = {"sequences": {"public.s": {"at": NOW - DAY, "last_value": then}}}
    # 500 left at 10 a day are 50 days: not less than the limit
    found = planner.sequence_findings([sequence(500)], limits(sequence_warn_days=50), memory, NOW)
    assert bool(found) is told
    if found:
        assert found[0]["severity"] == "warning" and "days left" in found[0]["observed"]


def test_growth_is_told_by_its_largest_table_unless_something_limits_it() -> None:
    tables = [
        table(ident="public.small", total_bytes=1),
        table(ident="public.large", total_bytes=9),
        table(ident="public.v", kind="m", total_bytes=99),
    ]
    found = planner.growth_finding(tables, has_retention=False)
    assert (ids(found), subjects(found)) == (["growth-unlimited"], ["public.large"])
    assert planner.growth_finding(tables, has_retention=True) == []
    assert planner.growth_finding([tables[2]], False) == [] == planner.growth_finding([], False)


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [(name, told[0], "on" if told[0] == "off" else "none") for name, told in planner.SETTINGS.items()],
)
def test_settings_that_bite(name: str, bad: str, good: str) -> None:
    quiet = {"timed": 0, "requested": 0}
    found = planner.settings_findings({name: bad}, quiet, LIMITS)
    assert [(f["id"], f["subject"], f["observed"]) for f in found] == [("setting", name, bad)]
    assert planner.settings_findings({name: good}, quiet, LIMITS) == []


@pytest.mark.parametrize(
    ("timed", "requested", "told"),
    [(5, 5, False), (4, 5, False), (4, 6, True), (0, 9, False), (0, 10, True), (0, 0, False), (500, 499, False)],
)
def test_checkpoints_forced_too_often(timed: int, requested: int, told: bool) -> None:
    found = planner.settings_findings({"max_wal_size": "1024"}, {"timed": timed, "requested": requested}, LIMITS)
    assert subjects(found) == (["max_wal_size"] if told else [])


# --- retention and redaction ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "days", "cutoff"),
    [
        (NOW, 1, "2026-03-14 00:00:00+00"),
        (NOW, 90, "2025-12-15 00:00:00+00"),
        (1_773_532_800.0, 1, "2026-03-14 00:00:00+00"),  # midnight itself belongs to the new day
        (1_773_532_799.0, 1, "2026-03-13 00:00:00+00"),
        (1_772_452_800.0, 2, "2026-02-28 00:00:00+00"),
    ],
)
def test_the_cutoff_is_the_start_of_a_utc_day(now: float, days: int, cutoff: str) -> None:
    assert retention.cutoff_day(now, days) == cutoff


@pytest.mark.parametrize(
    ("rows", "seconds", "following"),
    [
        (5000, 0.5, 5000),
        (5000, 0.75, 5000),
        (5000, 1.0, 5000),
        (5000, 0.49, 7653),  # aims at 0.75 s
        (5000, 0.001, 10_000),  # at most doubles
        (5000, 0.0, 10_000),
        (5000, 1.01, 3712),
        (5000, 7.5, 500),
        (5000, 1000.0, 100),  # never smaller
        (80_000, 0.1, 100_000),  # never larger
        (100, 9.0, 100),
    ],
)
def test_batches_adapt_to_the_time_they_take(rows: int, seconds: float, following: int) -> None:
    assert retention.next_batch_rows(rows, seconds) == following


def rule(oid: int, ident: str = "public.t", **fields: Any) -> Rule:
    return Rule(
        {"oid": oid, "ident": ident, "has_children": False},
        "at",
        "timestamp with time zone",
        90,
        "2025-12-15 00:00:00+00",
        **fields,
    )


def refers(child: int, ident: str = "public.c", name: str = "fk") -> dict[str, Any]:
    return {"child_oid": child, "child_ident": ident, "name": name, "child_columns": ["p_id"], "parent_columns": ["id"]}


EXPIRED = "at < '2025-12-15 00:00:00+00'::timestamp with time zone"


def linked(*rules: Rule) -> None:
    for one in rules:
        one.rules = {r.table["oid"]: r for r in rules if not r.columns}


def test_what_a_delete_rule_takes() -> None:
    plain = rule(1)
    assert (plain.step, plain.due(), plain.due(ahead=True)) == ("retention", f"t.{EXPIRED}", f"t.{EXPIRED}")


def test_a_row_that_another_refers_to_stays() -> None:
    parent = rule(1, references=[refers(2)])
    exists = "EXISTS (SELECT FROM public.c child WHERE child.p_id = t.id"
    assert parent.due() == f"t.{EXPIRED} AND NOT {exists})"
    assert parent.kept() == f"t.{EXPIRED} AND ({exists}))"


def test_a_plan_knows_that_the_child_will_be_gone() -> None:
    parent, child = rule(1, references=[refers(2)]), rule(2, "public.c")
    linked(parent, child)
    exists = "EXISTS (SELECT FROM public.c child WHERE child.p_id = t.id"
    assert parent.due(ahead=True) == f"t.{EXPIRED} AND NOT {exists} AND NOT child.{EXPIRED})"
    assert parent.due() == f"t.{EXPIRED} AND NOT {exists})", "what is done looks at what is there"
    assert parent.kept() == f"t.{EXPIRED} AND ({exists} AND NOT child.{EXPIRED}))", "kept is what stays in the end"
    child.partitioned = True  # its partitions go as a whole, later than the row's day
    assert parent.due(ahead=True) == parent.due()


def test_what_a_redaction_takes() -> None:
    redact = rule(1, columns=[("prompt", "NULL"), ('"Te xt"', "''")])
    filled = "(t.prompt IS DISTINCT FROM NULL OR t.\"Te xt\" IS DISTINCT FROM '')"
    assert (redact.step, redact.due()) == ("redact", f"t.{EXPIRED} AND {filled}")
    deletes = rule(1)
    linked(deletes, redact)
    assert redact.due(ahead=True) == f"t.{EXPIRED} AND {filled} AND NOT t.{EXPIRED}", (
        "what is deleted need not be emptied"
    )
    assert redact.due() == f"t.{EXPIRED} AND {filled}"
    deletes.references = [refers(2)]
    assert redact.due(ahead=True) == redact.due(), "some of it may stay"
    deletes.references, deletes.partitioned = [], True
    assert redact.due(ahead=True) == redact.due()


def test_one_statement_picks_acts_and_counts() -> None:
    statement = retention.batch_statement(rule(1), 500, None)
    assert (
        "DELETE FROM public.t t WHERE t.ctid = ANY" in statement
        and "ORDER BY t.at LIMIT 500 FOR UPDATE SKIP LOCKED" in statement
    )
    assert "t.at >=" not in statement
    parent = rule(1)
    parent.table["has_children"] = True
    assert "t.tableoid = picked.part" in retention.batch_statement(parent, 500, None)
    later = retention.batch_statement(rule(1, columns=[("prompt", "NULL")]), 500, "2025-01-01 00:00:00+00")
    assert "UPDATE public.t t SET prompt = NULL WHERE" in later
    assert "t.at >= '2025-01-01 00:00:00+00'::timestamp with time zone" in later


def test_children_come_first() -> None:
    a, b, c, d = (
        rule(1, "a", references=[refers(2)]),
        rule(2, "b", references=[refers(3)]),
        rule(3, "c"),
        rule(4, "d", references=[refers(99)]),
    )
    order = [r.table["ident"] for r in retention.children_first([a, b, c, d])]
    assert order == ["c", "d", "b", "a"]
    assert retention.children_first([]) == []


def test_a_circle_is_refused_by_its_names() -> None:
    a, b, c = rule(1, "a", references=[refers(2)]), rule(2, "b", references=[refers(1)]), rule(3, "c")
    with pytest.raises(RuleError, match="a, b refer to each other in a circle"):
        retention.children_first([a, b, c])


def test_how_a_rule_is_told() -> None:
    told = retention.rule_action(rule(1), 12)
    assert (told["reason"], told["number"], told["unit"], told["detail"]) == (
        "rows past their day",
        12,
        "rows",
        "older than 90 days, before 2025-12-15",
    )
    assert retention.rule_action(rule(1, columns=[("x", "NULL")]), None)["step"] == "redact"


class Locked:
    """Fails as a statement that gets no lock, so many times."""

    def __init__(self, failures: int, sqlstate: str = LOCK_NOT_AVAILABLE) -> None:
        self.failures, self.sqlstate, self.calls = failures, sqlstate, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise PsqlError(self.sqlstate, "no")
        return "done"


@pytest.mark.parametrize(
    ("failures", "result", "pauses"),
    [(0, "done", []), (1, "done", [0.1]), (4, "done", [0.1, 0.2, 0.4, 0.8]), (5, None, [0.1, 0.2, 0.4, 0.8])],
)
def test_a_lock_is_asked_for_again_with_growing_pauses(failures: int, result: str | None, pauses: list[float]) -> None:
    attempt, waited = Locked(failures), []
    assert retention.with_lock_retries(attempt, waited.append) == result
    assert waited == pytest.approx(pauses) and attempt.calls == min(failures + 1, retention.LOCK_TRIES)


def test_other_errors_are_not_tried_again() -> None:
    attempt = Locked(1, "42P01")
    with pytest.raises(PsqlError):
        retention.with_lock_retries(attempt, lambda seconds: pytest.fail("it waited"))
    assert attempt.calls == 1
