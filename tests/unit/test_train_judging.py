"""The limits that a bundle ships with: the smallest that healthy flocks do not cross more often than allowed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agent.bands import NARROWEST, RATE, learnt, stretched
from agent.manifest import DAY_S, Feature, Judge
from models_onnx.train.judging import (
    HOUR_S,
    SMALLEST_OF_HOURS,
    Head,
    Trace,
    as_shown,
    held_by,
    limits_of,
    rates_of,
    scores_of,
    warnings_at,
    worst,
)

WATER = Feature(signal="water", aggregate="sum")
HOURLY = Head("water_1h", WATER, "1h", HOUR_S, "l", 0.5)
DAILY = Head("water_1d", WATER, "1d", DAY_S, "l", 0.5)
SLOW = Head("water_slow_3d", WATER, "3d", 3 * DAY_S, "l", 0.5)
DAYS = 20
STEPS = DAYS * 144


def trace_of(*actual: np.ndarray) -> Trace:
    """Return a flock that was expected at 10, within 9 to 12, by as many outputs as there are courses."""
    at_ms = np.arange(1, STEPS + 1, dtype=np.int64) * 600_000
    quantiles = np.tile([9.0, 10.0, 12.0], (STEPS, len(actual), 1))
    judged = np.repeat(at_ms[:, None], len(actual), axis=1)
    return Trace(judged, np.stack(actual, axis=1).astype(np.float32), quantiles, float(DAYS), 0)


def course(*bumps: tuple[float, float, float]) -> np.ndarray:
    """Return a course at 10 with bumps: from day, hours long, value."""
    values = np.full(STEPS, 10.0)
    for day, hours, value in bumps:
        values[round(day * 144) : round(day * 144 + hours * 6)] = value
    return values


def test_scores_count_half_bands_of_their_own_side_with_a_floor() -> None:
    trace = trace_of(course((5, 1, 7.0), (6, 1, 16.0)))
    scores = scores_of(trace, 0, Judge(low=3.0, high=1.5, floor=0.5))
    assert scores[5 * 144] == pytest.approx(1.0)  # 3 below, the half band is 1
    assert scores[6 * 144] == pytest.approx(2.0)  # 6 above, the half band is 2
    assert scores_of(trace, 0, Judge(low=3.0, high=3.0, floor=3.0))[6 * 144] == pytest.approx(6 / 3 / 3)


def test_a_flow_that_stops_reaches_the_limit_whatever_it_is() -> None:
    trace = trace_of(course((5, 1, 4.0)))
    limits = Judge(low=30.0, high=30.0)
    assert scores_of(trace, 0, limits)[5 * 144] == pytest.approx(6 / 30)
    assert scores_of(trace, 0, limits, is_flow=True)[5 * 144] == 1
    assert scores_of(trace, 0, limits, is_flow=True)[6 * 144] == scores_of(trace, 0, limits)[6 * 144]


def test_of_the_outputs_of_one_rule_the_worst_counts_and_what_cannot_say_is_left_out() -> None:
    found = worst([np.array([0.2, np.nan, np.nan]), np.array([0.5, 0.1, np.nan])])
    assert found == pytest.approx([0.5, 0.1, np.nan], nan_ok=True)


def test_a_warning_needs_its_delay_and_no_chicks_of_the_first_days() -> None:
    limits = Judge(low=3.0, high=3.0)
    short, long = trace_of(course((5, 0.15, 5.0))), trace_of(course((5, 1, 5.0)))
    assert warnings_at(short, HOURLY, 0, scores_of(short, 0, limits)) == []
    assert len(warnings_at(long, HOURLY, 0, scores_of(long, 0, limits))) == 1
    early = trace_of(course((0.5, 3, 5.0)))
    assert warnings_at(early, HOURLY, 0, scores_of(early, 0, limits)) == []
    dip = trace_of(course((5, 1, 5.0)))
    assert warnings_at(dip, DAILY, 0, scores_of(dip, 0, limits)) == []  # a day's output is judged by the hour


def test_the_limit_is_the_smallest_that_raises_no_more_than_allowed() -> None:
    """Four dips of 6.5, 6, 5 and 4.5 half bands in twenty days: two are allowed, so the limit lies above 5."""
    dips = [(5.0 + 2 * i, 2.0, 10 - size) for i, size in enumerate((6.5, 6, 5, 4.5))]
    trace = trace_of(course(*dips))
    limits = limits_of([trace], [HOURLY], 2 / DAYS)
    assert limits["water_1h"].low == pytest.approx(5.0, abs=0.05)
    assert limits["water_1h"].high == SMALLEST_OF_HOURS
    assert rates_of([trace], [HOURLY], limits) == {"deviation-water": 2 / DAYS}


def test_outputs_that_share_a_rule_raise_one_warning_between_them() -> None:
    trace = trace_of(course((8, 40, 5.0)), course((8, 60, 5.0)))
    limits = {"water_1d": Judge(low=3.0, high=3.0), "water_slow_3d": Judge(low=3.0, high=3.0)}
    assert rates_of([trace], [DAILY, SLOW], limits) == {"trend-water": 1 / DAYS}


def test_how_much_the_interval_holds_is_counted_where_something_was_measured() -> None:
    values = course((5, 24, 20.0))
    values[:144] = np.nan
    assert held_by([trace_of(values)], 0) == pytest.approx(18 / 19, abs=1e-3)


def shown(*actual: np.ndarray, heads: tuple[Head, ...]) -> np.ndarray:
    trace = trace_of(*actual)
    return as_shown(heads, trace.judged_ms, trace.actual, trace.quantiles, trace.placed_ms)


def test_a_trace_shows_the_bands_as_the_agent_would_have_stretched_them() -> None:
    rng = np.random.default_rng(3)
    values = 10 + 2.5 * rng.normal(size=STEPS)
    found = shown(values, values, heads=(HOURLY, DAILY))
    stretch, expected = (1.0, 1.0), []
    for step, value in enumerate(values.astype(np.float32).tolist()):
        low, high = (float(edge) for edge in stretched(9.0, 10.0, 12.0, stretch))
        expected.append((low, 10.0, high))
        has_stopped = value <= 4.5 and low >= 7
        if (step + 1) * 600 >= 2 * DAY_S and not has_stopped:
            below, above = learnt(stretch, value, low, 10.0, high, RATE["deviation"])
            stretch = float(below), float(above)
    assert found[:, 0] == pytest.approx(np.array(expected))
    daily = found[:, 1, 0]
    assert (daily[: 3 * 144] == 9).all()  # days 0 to 2 teach a trend nothing
    changes = np.flatnonzero(np.diff(daily)) + 1  # shown from the instant after it was learnt
    assert set(changes % 6) == {0}


def test_what_a_flock_does_in_a_fault_teaches_its_band_nothing() -> None:
    found = shown(course((6, 24, 4.0)), heads=(HOURLY,))[:, 0, 0]
    fault = slice(6 * 144 + 1, 7 * 144)
    assert len(set(found[fault])) == 1
    assert found[-1] == pytest.approx(10 - NARROWEST)


def test_bands_that_were_too_narrow_hold_eight_of_ten_as_they_are_shown() -> None:
    rng = np.random.default_rng(4)
    noise = rng.normal(size=STEPS)
    values = 10 + np.where(noise < 0, 1.56, 3.12) * noise
    trace = trace_of(values)
    assert held_by([trace], 0) == pytest.approx(0.48, abs=0.03)
    learnt_from = replace(trace, quantiles=shown(values, heads=(HOURLY,)))
    assert held_by([learnt_from], 0) > 0.7  # two days of twenty are as trained, and five are on the way
    settled = replace(trace, actual=trace.actual[10 * 144 :], quantiles=learnt_from.quantiles[10 * 144 :])
    assert held_by([settled], 0) == pytest.approx(0.78, abs=0.03)
