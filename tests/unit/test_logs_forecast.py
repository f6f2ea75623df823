"""Forecasts over made-up growth whose end is known."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from ansible.module_utils.logs_forecast import DAY, HOUR, Forecast, forecast, history, keep_sample
from hypothesis import given, settings
from hypothesis import strategies as st

GB = 1e9
CAPACITY = 100 * GB
START = 1_790_000_000.0
Shape = Callable[[float], float]


def sampled(shape: Shape, days: float = 10, every: float = HOUR) -> list[tuple[float, float]]:
    return [(START + i * every, shape(i * every / DAY)) for i in range(int(days * DAY / every) + 1)]


def repeatable(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311  noise that is the same in each run


def linear(day: float) -> float:
    return 40 * GB + 2 * GB * day


def saw(day: float) -> float:
    return 50 * GB + 8 * GB * (day % 1)


def rising_saw(day: float) -> float:
    return saw(day) + 1 * GB * (day // 1)


def weekly_saw(day: float) -> float:
    return 20 * GB + 3 * GB * (day % 7)


def step(day: float) -> float:
    return (30 if day < 6 else 60) * GB + 1e6 * day


def step_and_growth(day: float) -> float:
    return linear(day) + (20 * GB if day > 4.3 else 0)


def cleaned_once(day: float) -> float:
    return linear(day) - (25 * GB if day > 6.1 else 0)


def staircase(day: float) -> float:
    return 40 * GB + 3 * GB * (day // 1)


def shrinking(day: float) -> float:
    return 80 * GB - 1 * GB * day


# kind, slope in GB a day, days left (None: no alarm)
SHAPES = [
    ("linear", sampled(linear), "growing", 2, 20),
    ("linear, once a day", sampled(linear, days=30, every=DAY), "growing", 2, 0),
    ("linear, years ahead", sampled(lambda day: 10 * GB + 0.05 * GB * day), "growing", 0.05, 1790),
    ("constant", sampled(lambda _day: 70 * GB), "steady", 0, None),
    ("full and constant", sampled(lambda _day: CAPACITY), "steady", 0, 0),
    ("daily cleanup", sampled(saw), "saw-tooth", 0, None),
    ("daily cleanup that leaves more each day", sampled(rising_saw, days=14), "saw-tooth", 1, (100 - 71) / 1),
    ("weekly rotation, once a day", sampled(weekly_saw, days=50, every=DAY), "saw-tooth", 0, None),
    ("one big file", sampled(step), "steady", 0, None),
    ("growth and one big file", sampled(step_and_growth), "growing", 2, 10),
    ("growth and one cleanup", sampled(cleaned_once), "growing", 2, 32.5),
    ("a big file each night", sampled(staircase, days=12), "growing", 3, 8),
    ("a big file in each of a few nights", sampled(staircase, days=6), "growing", 3, 14),
    ("shrinking", sampled(shrinking), "shrinking", -1, None),
    ("with a gap", [s for s in sampled(linear) if not 3 < (s[0] - START) / DAY < 7], "growing", 2, 20),
]  # fmt: skip


@pytest.mark.parametrize(
    ("samples", "kind", "slope", "days"), [case[1:] for case in SHAPES], ids=[c[0] for c in SHAPES]
)
def test_shapes_of_growth(samples: list[tuple[float, float]], kind: str, slope: float, days: float | None) -> None:
    told = forecast(samples, CAPACITY)
    assert told.kind == kind
    assert told.slope_bytes_per_day / GB == pytest.approx(slope, rel=0.1, abs=0.02)
    assert told.days_left == (None if days is None else pytest.approx(days, rel=0.1, abs=0.6))
    assert told.points == len(samples) and told.reason == ""


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", [linear, step_and_growth], ids=["linear", "step"])
def test_noise_moves_the_end_by_a_tenth_at_most(shape: Shape, seed: int) -> None:
    noise = repeatable(seed)
    told = forecast([(at, used + noise.gauss(0, 0.3 * GB)) for at, used in sampled(shape)], CAPACITY)
    assert told.kind == "growing"
    assert told.days_left == pytest.approx((CAPACITY - shape(10)) / GB / 2, rel=0.1)


@pytest.mark.parametrize("seed", range(8))
def test_what_grew_in_a_gap_between_samples_counts(seed: int) -> None:
    noise = repeatable(seed)
    samples = [s for s in sampled(linear) if not 0.5 < (s[0] - START) / DAY < 9.5]
    told = forecast([(at, used + noise.gauss(0, 0.3 * GB)) for at, used in samples], CAPACITY)
    assert told.kind == "growing" and told.days_left == pytest.approx(20, rel=0.1)


@pytest.mark.parametrize("seed", range(8))
def test_noise_alone_is_no_growth_and_no_saw_tooth(seed: int) -> None:
    noise = repeatable(seed)
    told = forecast(sampled(lambda _day: 50 * GB + noise.gauss(0, 2 * GB)), CAPACITY)
    assert (told.kind, told.days_left) == ("steady", None)


@pytest.mark.parametrize("seed", range(8))
def test_a_noisy_saw_tooth_is_not_alarmed(seed: int) -> None:
    noise = repeatable(seed)
    told = forecast([(at, used + noise.gauss(0, 0.1 * GB)) for at, used in sampled(saw)], CAPACITY)
    assert (told.kind, told.days_left) == ("saw-tooth", None)


def test_the_rise_of_the_last_tooth_is_not_alarmed() -> None:
    """Seen since the last rotation alone it would be full tomorrow."""
    told = forecast(sampled(lambda day: 10 * GB + 80 * GB * (day % 1), days=5.9), CAPACITY)
    assert (told.kind, told.days_left) == ("saw-tooth", None)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ([], "0 samples"),
        (sampled(linear, days=5, every=DAY)[:5], "5 samples"),
        (sampled(linear, days=0.9), "samples of 21.0 hours"),
        ([(START, 1.0)] * 50, "1 samples"),
        ([*sampled(linear), (START - DAY, 5.0)], "1 samples"),
    ],
)
def test_too_little_is_no_forecast(samples: list[tuple[float, float]], reason: str) -> None:
    told = forecast(samples, CAPACITY)
    assert (told.kind, told.days_left, told.slope_bytes_per_day) == ("unknown", None, 0)
    assert reason in told.reason


def test_samples_of_a_clock_that_was_ahead_do_not_count() -> None:
    ahead = [(START + 3 * 365 * DAY + i * HOUR, linear(2)) for i in range(20)]
    samples = sampled(linear)
    told = forecast([*samples[:48], *ahead, *samples[48:]], CAPACITY)
    assert told == forecast(samples, CAPACITY)


def test_without_a_capacity_there_is_a_trend_alone() -> None:
    assert forecast(sampled(linear), 0) == Forecast(pytest.approx(2 * GB), None, "growing", 241)
    assert forecast(sampled(rising_saw), 0).days_left is None
    assert forecast(sampled(lambda _day: 5.0), 0).days_left is None


def test_more_samples_than_are_paired_are_thinned_evenly() -> None:
    told = forecast(sampled(linear, days=25, every=HOUR / 4), CAPACITY)
    assert told.points == pytest.approx(301, abs=1) and told.days_left == pytest.approx(5, rel=0.1)


@given(
    slope=st.floats(0.2, 20),
    level=st.floats(1, 50),
    days=st.integers(2, 30),
    outliers=st.lists(st.integers(0, 47), max_size=8),
)
def test_growth_is_told_whatever_its_measure_and_its_outliers(
    slope: float, level: float, days: int, outliers: list[int]
) -> None:
    samples = sampled(lambda day: (level + slope * day) * GB, days=days, every=days * DAY / 48)
    spoiled = [(at, 0.0) if i in outliers else (at, used) for i, (at, used) in enumerate(samples)]
    told = forecast(spoiled, 2000 * GB)
    expected = (2000 - level - slope * days) / slope
    if told.kind == "growing":  # what outliers make of it may be no trend, but is never a wrong one
        assert told.days_left == pytest.approx(expected, rel=0.15, abs=1)
    else:
        assert (outliers and told.days_left is None) or slope * days < 3


@given(st.lists(st.tuples(st.floats(0, 4e9), st.floats(0, 1e15)), max_size=60), st.floats(0, 1e15))
@settings(deadline=None)
def test_no_samples_break_it(samples: list[tuple[float, float]], capacity: float) -> None:
    told = forecast(samples, capacity)
    assert told.days_left is None or told.days_left >= 0
    assert told.kind != "unknown" or told.reason


def test_history_adds_up_what_was_written() -> None:
    files = [(START + 3 * DAY, 30.0), (START + DAY, 10.0), (START + 2 * DAY, 20.0), (START + 99 * DAY, 1e9)]
    assert history(files, START + 4 * DAY) == [(START + DAY, 10), (START + 2 * DAY, 30), (START + 3 * DAY, 60)]
    daily = history([(START + day * DAY, 5 * GB) for day in range(10)], START + 10 * DAY)
    assert forecast(daily, 0).slope_bytes_per_day == pytest.approx(5 * GB)


def test_samples_are_kept_no_closer_than_the_gap() -> None:
    samples = keep_sample([], START, 1)
    assert samples == [(START, 1)]
    assert keep_sample(samples, START + 3599, 2) == samples
    assert keep_sample(samples, START - 10, 2) == samples, "a clock that is set is no reason for another sample"
    assert keep_sample(samples, START + 3600, 2) == [(START, 1), (START + 3600, 2)]
    assert keep_sample(samples, START - DAY, 2)[-1] == (START - DAY, 2), "a clock that was set back goes on"


def test_old_samples_are_thinned_and_the_newest_and_the_span_stay() -> None:
    samples: list[tuple[float, float]] = []
    for at, used in sampled(linear, days=60):
        samples = keep_sample(samples, at, used)
    assert 200 <= len(samples) <= 400
    assert samples[-1][0] == START + 60 * DAY and samples[0][0] < START + 40 * DAY
    newest = [at for at, _used in samples[-150:]]
    assert newest == [START + 60 * DAY - i * HOUR for i in range(149, -1, -1)]
    told = forecast(samples, 200 * GB)
    assert told.kind == "growing" and told.days_left == pytest.approx(20, rel=0.05)
    assert keep_sample([list(s) for s in samples[:2]], START + 99 * DAY, 3)[0] == samples[0], "JSON gives lists"  # type: ignore[misc]
