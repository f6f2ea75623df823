"""Pictures of certificates: where bars begin and end, what is due, what is served, from ten minutes to ten years."""

from __future__ import annotations

from typing import Any

import pytest
from runbook.certificate_pictures import LEFT, RIGHT, timeline

MINUTE, DAY, YEAR = 60.0, 86400.0, 365 * 86400.0
NOW = 1_795_823_217.0


def look(begin: float, end: float, **more: Any) -> dict[str, Any]:
    """A certificate that is valid from `begin` to `end`, seconds from now, and renewed with a third left."""
    return {"issuer": "private_ca", "serial": f"{begin:.0f}/{end:.0f}", "not_before": NOW + begin, "not_after": NOW + end,
            "renew_at": NOW + end - (end - begin) / 3, "served": 1, "served_matches": 1, "last_deployed_at": None,
            "orders_left": None, **more}  # fmt: skip


def one(name: str, before: dict[str, Any] | None, after: dict[str, Any] | None = None) -> dict[str, Any]:
    """A certificate as the frame tells it, with what was before the run and after it."""
    after = before if after is None else after
    parts = {f"{key}_{when}": value for when, each in (("before", before), ("after", after)) for key, value in (each or {}).items()}
    return {"name": name, **parts}


def facts(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"certificates": list(rows), "unmanaged_certificates": [], "certificates_at": NOW, **more}


def test_bars_are_where_their_time_is() -> None:
    picture = timeline(facts(one("app", look(-50 * DAY, 50 * DAY))))
    assert picture is not None and picture.even
    (row,) = picture.rows
    assert row.bar is not None and row.before is None and row.renew is not None
    middle = (LEFT + RIGHT) / 2
    assert (row.bar.begin, row.bar.now, row.bar.end) == (LEFT, pytest.approx(middle), RIGHT) and picture.now == pytest.approx(middle)
    assert row.renew == pytest.approx(LEFT + (RIGHT - LEFT) * 2 / 3, abs=0.1)
    assert (row.state, row.left, row.served, row.changed, picture.told) == ("good", "50 days", "yes", "", "1 good")


def test_a_renewal_is_shown_with_what_was_before_it() -> None:
    picture = timeline(facts(one("app", look(-90 * DAY, 0.25 * DAY), look(0, 90 * DAY))))
    assert picture is not None
    (row,) = picture.rows
    assert row.before is not None and row.bar is not None
    assert row.before.begin == LEFT and row.before.end < row.bar.end == RIGHT and row.bar.begin == picture.now
    assert (row.state, row.changed) == ("good", "due → good")


@pytest.mark.parametrize(("given", "state", "tone"), [
    (look(-90 * DAY, -DAY), "expired", "bad"),
    (look(-90 * DAY, 0), "expired", "bad"),
    (look(-80 * DAY, 10 * DAY), "due", "warn"),
    (look(-10 * DAY, 80 * DAY), "good", "good"),
    (look(-10 * DAY, 80 * DAY, renew_at=None), "good", "good"),
    (look(DAY, 80 * DAY), "not valid yet", "bad"),
    ({"issuer": "acme", "serial": None, "not_before": None, "not_after": None}, "unreadable", "bad"),
    (None, "unreadable", "bad"),
])  # fmt: skip
def test_colours_say_how_it_stands(given: dict[str, Any] | None, state: str, tone: str) -> None:
    picture = timeline(facts(one("app", given)))
    assert picture is not None and [(row.state, row.tone) for row in picture.rows] == [(state, tone)]
    assert (picture.rows[0].bar is None) == (state == "unreadable")


@pytest.mark.parametrize(("asked", "right", "told"), [
    (0, 0, ("not asked", "calm")), (1, 1, ("yes", "good")), (1, 0, ("no", "bad")), (3, 3, ("yes, 3", "good")), (3, 2, ("no, 2 of 3", "bad")),
])  # fmt: skip
def test_what_is_served_is_said(asked: int, right: int, told: tuple[str, str]) -> None:
    picture = timeline(facts(one("app", look(-DAY, DAY, served=asked, served_matches=right))))
    assert picture is not None and (picture.rows[0].served, picture.rows[0].served_tone) == told


def test_ten_minutes_are_to_be_seen_beside_ten_years() -> None:
    lifetimes = [10 * MINUTE, 3600.0, 6 * DAY, 90 * DAY, YEAR, 10 * YEAR]
    picture = timeline(facts(*(one(f"c{n}", look(-life / 2, life / 2)) for n, life in enumerate(lifetimes))))
    assert picture is not None and not picture.even
    widths = [row.bar.end - row.bar.begin for row in picture.rows if row.bar]
    assert widths == sorted(widths) and widths[0] > 40 and len(widths) == len(lifetimes)
    assert [row.name for row in picture.rows] == [f"c{n}" for n in range(6)], "what ends first is first"
    units = {tick.label.split()[1] for tick in picture.ticks if tick.label.startswith("+")}
    assert units >= {"min", "h", "d", "mo"}


@pytest.mark.parametrize("lifetime", [10 * MINUTE, 6 * DAY, 90 * DAY, YEAR, 10 * YEAR])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.999, 1.2, 40.0])
@pytest.mark.parametrize("count", [1, 60])
def test_all_stays_within_the_picture_and_marks_do_not_touch(lifetime: float, part: float, count: int) -> None:
    rows = [one(f"c{n}", look(-lifetime * (part + n / 100), lifetime * (1 - part - n / 100))) for n in range(count)]
    picture = timeline(facts(*rows))
    assert picture is not None and len(picture.rows) == count
    places = [x for row in picture.rows if row.bar for x in (row.bar.begin, row.bar.now, row.bar.end, row.renew or LEFT)]
    assert all(LEFT <= x <= RIGHT for x in [*places, picture.now])
    marks = [tick.x for tick in picture.ticks]
    assert marks and all(b - a >= 60 for a, b in zip(marks, marks[1:], strict=False))
    tops = [row.y for row in picture.rows]
    assert all(b - a >= 25 for a, b in zip(tops, tops[1:], strict=False)) and tops[-1] + 30 <= picture.height


def test_what_is_in_no_inventory_is_below_and_limited() -> None:
    others = [one(f"/etc/ssl/{n:02}.crt", {"not_before": NOW - DAY, "not_after": NOW + (n + 1) * DAY, "subject": "CN=old"}) for n in range(25)]
    picture = timeline(facts(one("app", look(-DAY, 90 * DAY)), unmanaged_certificates=others))
    assert picture is not None and (len(picture.rows), picture.more) == (21, 5)
    assert (picture.rows[0].name, picture.rows[1].state, picture.rows[1].issuer, picture.rows[1].served) == ("app", "not managed", "CN=old", "")


def test_long_names_keep_what_tells_them_apart() -> None:
    names = ["certificate-of-the-service-number-1", "certificate-of-the-service-number-2", "/a/very/long/path/that/ends/with/the-name.crt"]
    picture = timeline(facts(*(one(name, look(-DAY, DAY)) for name in names)))
    assert picture is not None
    labels = [row.label for row in picture.rows]
    assert len(set(labels)) == 3 and all(len(label) <= 28 for label in labels) and labels[0].endswith("the-name.crt")


@pytest.mark.parametrize("given", [
    {}, {"certificates": None}, facts(), {"certificates": ["x"], "certificates_at": NOW}, {"certificates": [one("app", None)]},
    facts(one("app", look(-DAY, DAY)), certificates_at=float("nan")),
])  # fmt: skip
def test_nothing_is_no_picture(given: dict[str, Any]) -> None:
    assert timeline(given) is None


@pytest.mark.parametrize("given", [look(0, 0), look(5, -5), look(-1e12, 1e12), look(-DAY, float("inf")), look(-DAY, DAY, renew_at=1e300)])
def test_odd_moments_stop_nothing(given: dict[str, Any]) -> None:
    picture = timeline(facts(one("odd", given), one("app", look(-DAY, DAY))))
    assert picture is not None and len(picture.rows) == 2
    assert all(LEFT <= x <= RIGHT for row in picture.rows if row.bar for x in (row.bar.begin, row.bar.now, row.bar.end))
