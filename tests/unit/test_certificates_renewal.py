# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""When renewal is due, for lifetimes from ten minutes to thirteen months."""

from __future__ import annotations

import math

import pytest
from ansible.module_utils.certificates_renewal import Decision, Window, decide, part_of, too_late
from hypothesis import given
from hypothesis import strategies as st

DAY = 86400.0
BEGIN = 1_790_000_000.0
LIFETIMES = (600.0, 6 * DAY, 45 * DAY, 90 * DAY, 398 * DAY)

lifetimes = st.one_of(st.sampled_from(LIFETIMES), st.floats(60, 400 * DAY))
fractions = st.one_of(st.none(), st.floats(0.01, 0.99))
windows = st.one_of(
    st.none(),
    st.builds(lambda start, length: Window(BEGIN + start, BEGIN + start + length), st.floats(-10 * DAY, 500 * DAY), st.floats(1, 9 * DAY)),
)


def at(now: float, lifetime: float, fraction: float | None = None, ari: Window | None = None, seed: str = "web") -> Decision:
    return decide(BEGIN + now, BEGIN, BEGIN + lifetime, fraction=fraction, ari=ari, seed=seed)


@pytest.mark.parametrize(("lifetime", "left"), list(zip(LIFETIMES, (1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3), strict=True)))
def test_a_third_is_left_and_a_half_of_a_short_one(lifetime: float, left: float) -> None:
    due = lifetime - lifetime * left
    assert at(0, lifetime).due_at == pytest.approx(BEGIN + due)
    assert not at(due - 1, lifetime).due
    assert at(due + 0.001, lifetime).due


def test_ten_days_are_not_short() -> None:
    assert at(0, 10 * DAY).due_at == pytest.approx(BEGIN + 10 * DAY * 2 / 3)
    assert at(0, 10 * DAY - 1).due_at == pytest.approx(BEGIN + (10 * DAY - 1) / 2)


def test_a_given_fraction_counts_and_nonsense_does_not() -> None:
    assert at(0, 90 * DAY, fraction=0.1).due_at == pytest.approx(BEGIN + 81 * DAY)
    for nonsense in (0.0, 1.0, -1.0, 7.0, math.nan):
        assert at(0, 90 * DAY, fraction=nonsense).due_at == at(0, 90 * DAY).due_at


def test_the_window_overrides_and_is_told() -> None:
    ari = Window(BEGIN + 10 * DAY, BEGIN + 12 * DAY, "https://ca.example.test/why")
    told = at(0, 90 * DAY, ari=ari)
    assert BEGIN + 10 * DAY <= told.due_at < BEGIN + 12 * DAY
    assert (told.due, "the authority wants it" in told.why, "https://ca.example.test/why" in told.why) == (False, True, True)
    assert at(12 * DAY, 90 * DAY, ari=ari).due


def test_a_window_that_is_past_is_due_at_once() -> None:
    """How an authority says that it is going to revoke."""
    assert at(1, 90 * DAY, ari=Window(BEGIN - 2 * DAY, BEGIN - DAY)).due


def test_a_window_later_than_the_backstop_does_not_delay() -> None:
    assert at(0, 90 * DAY, ari=Window(BEGIN + 80 * DAY, BEGIN + 89 * DAY)).due_at == at(0, 90 * DAY).due_at


@pytest.mark.parametrize(("start", "end"), [(5.0, 5.0), (6.0, 5.0), (math.nan, 5.0), (0.0, math.inf)])
def test_a_window_that_is_none_is_left_aside(start: float, end: float) -> None:
    assert at(0, 600, ari=Window(start, end)) == at(0, 600)


def test_different_seeds_spread_over_the_window_and_one_is_always_the_same() -> None:
    ari = Window(BEGIN, BEGIN + 1000)
    moments = [at(0, 90 * DAY, ari=ari, seed=f"host{number}").due_at - BEGIN for number in range(400)]
    assert all(0 <= moment < 1000 for moment in moments)
    assert [sum(low <= moment < low + 250 for moment in moments) > 60 for low in (0, 250, 500, 750)] == [True] * 4
    assert at(0, 90 * DAY, ari=ari).due_at == at(500, 90 * DAY, ari=ari).due_at
    assert part_of("odd\udcff name") == part_of("odd\udcff name")


def test_dates_the_wrong_way_round_and_expired_ones_are_due() -> None:
    assert decide(BEGIN, BEGIN, BEGIN, fraction=None, ari=None, seed="").due
    assert decide(BEGIN - 9, BEGIN, BEGIN - 5, fraction=None, ari=None, seed="").due
    assert "expired at" in at(91 * DAY, 90 * DAY).why
    assert decide(BEGIN, 0.0, 253402300799.0 * 9, fraction=None, ari=None, seed="").due is False


@given(st.floats(-DAY, 500 * DAY), st.floats(0, 100 * DAY), lifetimes, fractions, windows, st.text(max_size=9))
def test_what_is_due_stays_due_and_is_so_before_expiry(
    now: float, later: float, lifetime: float, fraction: float | None, ari: Window | None, seed: str
) -> None:
    first, second = at(now, lifetime, fraction, ari, seed), at(now + later, lifetime, fraction, ari, seed)
    assert first.due_at == second.due_at
    assert second.due >= first.due
    assert first.due == (BEGIN + now >= first.due_at)
    assert first.due_at < BEGIN + lifetime
    assert at(lifetime, lifetime, fraction, ari, seed).due


@given(lifetimes, fractions, windows, st.text(max_size=9))
def test_a_window_never_makes_it_later(lifetime: float, fraction: float | None, ari: Window | None, seed: str) -> None:
    with_window, without = at(0, lifetime, fraction, ari, seed), at(0, lifetime, fraction, None, seed)
    assert with_window.due_at <= without.due_at
    if ari is not None and ari.end <= without.due_at:
        assert ari.start <= with_window.due_at <= ari.end


@pytest.mark.parametrize(("left", "expected"), [(43201, False), (43200, True), (10, True), (-5, True)])
def test_too_late_where_the_next_run_comes_after_expiry(left: float, expected: bool) -> None:
    assert too_late(BEGIN, BEGIN + left, 43200) is expected
