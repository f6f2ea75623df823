"""Pictures of logs: growth, rungs of an emergency, retention, errors."""

from __future__ import annotations

from typing import Any

import pytest
from runbook.log_pictures import curves, errors, kept, rungs

DAY = 86400


def curve(**more: Any) -> dict[str, Any]:
    told = {"of": "file system", "subject": "/var", "points": [[0, 0], [DAY, 50], [2 * DAY, 100]], "capacity": 200, "trend": "growing",
            "bytes_per_day": 50, "days_left": 2.0}  # fmt: skip
    return {**told, **more}


def test_a_curve_ends_before_the_right_side_and_goes_on_as_it_grew() -> None:
    (found,) = curves({"curves": [curve()]})
    first, *_, last = [tuple(map(float, point.split(","))) for point in found.line.split()]
    assert first == (0.0, 36.0) and last[0] == pytest.approx(100 / 1.3, abs=0.01) and last[1] == pytest.approx(18.0)
    assert found.ahead.split()[0] == found.line.split()[-1] and found.ahead.split()[1].startswith("100.00,")
    assert (found.full, found.title, found.tone) == (0.0, "file system /var", "bad")
    assert found.told == "grows by 50 B a day, full in 2 days"


def test_what_is_not_known_is_said() -> None:
    (found,) = curves({"curves": [curve(trend="unknown", days_left=None, bytes_per_day=0, capacity=0)]})
    assert found.told == "too little is known for a forecast" and found.full is None and found.tone == "calm"


@pytest.mark.parametrize("points", [[[5, 5], [5, 5]], [[0, 0], [10, 0]], [[10, 3], [0, 1]]])
def test_no_curve_divides_by_zero(points: list[list[int]]) -> None:
    (found,) = curves({"curves": [curve(points=points, capacity=0, bytes_per_day=-50)]})
    assert "nan" not in found.line and "nan" not in found.ahead


@pytest.mark.parametrize("facts", [{}, {"curves": None}, {"curves": []}, {"curves": [curve(points=[[0, 1]])]}, {"curves": ["x"]}])
def test_one_point_is_no_curve(facts: dict[str, Any]) -> None:
    assert curves(facts) == []


def test_rungs_are_in_their_order_with_what_was_free_after_them() -> None:
    rows = [("ballast", 1024, 5.0), ("compress", 2048, 20.5), ("something-new", -1, 20.5)]
    found = rungs({"reclaimed": [{"rung": name, "freed_bytes": freed, "free_percent": free} for name, freed, free in rows]})
    assert [(r.name, r.percent, r.freed, r.free) for r in found] == [
        ("ballast", 50.0, "1.0 KiB", "5 %"), ("rotated files, compressed", 100.0, "2.0 KiB", "20.5 %"), ("something-new", 0.0, "0 B", "20.5 %"),
    ]  # fmt: skip
    assert rungs({}) == [] and rungs({"reclaimed": [{"rung": "ballast", "freed_bytes": 0}]})[0].percent == 0.0


def test_retention_is_told_with_its_policy() -> None:
    row = {"name": "app", "files_after": 5, "bytes_after": 2048, "oldest_days_after": 12.5, "archived_after": 3, "verdict_after": "too short"}
    (found,) = kept({"services": [{**row, "keep_days_after": 30, "max_days_after": None}, {"name": "gone", "files_before": 1}]})
    assert (found.reach, found.policy, found.tone) == ("12.5 days", "at least 30 days", "warn")
    (good,) = kept({"services": [{**row, "verdict_after": "as the policy says", "keep_days_after": 7, "max_days_after": 30}]})
    assert (good.policy, good.tone) == ("7 to 30 days", "good")


def test_errors_have_their_rate() -> None:
    (found,) = errors({"errors": [{"sample": "boom", "count": 3, "per_hour": 1.25, "new": True, "paths": ["/a", "/b"]}]})
    assert found == {"sample": "boom", "count": "3", "rate": "1.2 an hour", "new": "new", "path": "/a, /b"}
    assert errors({"errors": None}) == []
