from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import FarmDays
from agent.domain import Kind, SeriesKey, from_ms, to_ms
from agent.manifest import Feature, Grid, InputSpec
from agent.readings import Readings
from agent.signals import CATALOGUE
from agent.window import Bucket, Window

if TYPE_CHECKING:
    from random import Random

START = datetime(2026, 3, 20, tzinfo=UTC)
START_MS = to_ms(START)
NAMES = ("temperature", "humidity-1", "humidity-2", "co2")
KEYS = tuple(SeriesKey("house1", name) for name in NAMES)
SIGNALS = {name: CATALOGUE[name] for name in ("temperature", "humidity", "co2")}
DAYS = FarmDays(ZoneInfo("Europe/Copenhagen"))  # the clocks change within the fortnight

a_reading = st.tuples(st.integers(0, len(NAMES) - 1), st.integers(1, 16 * 86_400), st.integers(-50, 500))
some_readings = st.lists(a_reading, min_size=1, max_size=60, unique_by=lambda r: (r[0], r[1]))


def block(readings: list[tuple[int, int, int]]) -> Readings:
    """Return readings (series, seconds since the start, value) in columns."""
    n = len(readings)
    at_ms = np.array([START_MS + 1000 * r[1] for r in readings], np.int64)
    values = np.array([float(r[2]) for r in readings])
    zeros = np.zeros(n, np.uint8)
    return Readings(
        KEYS, np.array([r[0] for r in readings], np.int32), at_ms, values, zeros, zeros, at_ms + 20 * 86_400_000
    )


def buckets_of(window: Window) -> dict[tuple[str, int, int], Bucket]:
    """Return the window's buckets by their place."""
    return {(b.signal, b.step_s, b.start_ms): b for b in window.take_changed()}


@settings(max_examples=150, deadline=None)
@given(some_readings, st.randoms(use_true_random=False), st.integers(1, 20))
def test_any_order_and_any_split_give_the_same_buckets(
    readings: list[tuple[int, int, int]], random: Random, size: int
) -> None:
    """Late, shuffled or in pieces: what is kept depends on the readings only."""
    whole, parts = Window("house1", SIGNALS, DAYS), Window("house1", SIGNALS, DAYS)
    whole.add(block(sorted(readings, key=lambda r: r[1])))
    shuffled = list(readings)
    random.shuffle(shuffled)
    for i in range(0, len(shuffled), size):
        parts.add(block(shuffled[i : i + size]))
    expected, got = buckets_of(whole), buckets_of(parts)
    assert expected.keys() == got.keys()
    for place, bucket in expected.items():
        assert (got[place].n, got[place].min, got[place].max, got[place].last) == (
            bucket.n,
            bucket.min,
            bucket.max,
            bucket.last,
        )
        assert got[place].sum == bucket.sum  # whole numbers: exact in any order


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=300), st.integers(1, 40), st.booleans())
def test_a_meter_in_any_split_gives_the_same_buckets(gaps: list[int], size: int, is_counter: bool) -> None:
    """Amounts and totals come in the order of time, in blocks of any size, with silences of any length."""
    signals = {"water": replace(CATALOGUE["water"], kind=Kind.COUNTER if is_counter else Kind.INCREMENT)}
    at_ms = START_MS + 1000 * np.cumsum(np.array(gaps, np.int64))
    values = np.cumsum(np.array(gaps, np.float64) % 17) if is_counter else np.array(gaps, np.float64) % 17
    zeros = np.zeros(len(gaps), np.uint8)
    readings = Readings((SeriesKey("house1", "water"),), zeros.astype(np.int32), at_ms, values, zeros, zeros, at_ms)
    one_by_one, parts = Window("house1", signals, DAYS), Window("house1", signals, DAYS)
    for i in range(len(gaps)):
        one_by_one.add(readings.take(np.array([i])))
    for i in range(0, len(gaps), size):
        parts.add(readings.take(np.arange(i, min(i + size, len(gaps)))))
    total = sum(b.sum for b in parts.take_changed() if b.step_s == 600)
    assert 0 <= total <= (values[-1] if is_counter else values.sum())
    assert one_by_one.rhythms_s() == parts.rhythms_s()
    assert one_by_one.newest_ms("water") == parts.newest_ms("water")


@settings(max_examples=150, deadline=None)
@given(some_readings)
def test_buckets_hold_what_plain_python_says(readings: list[tuple[int, int, int]]) -> None:
    """An oracle in plain dictionaries, by (series, ten minutes) and (series, farm day)."""
    window = Window("house1", SIGNALS, DAYS)
    window.add(block(readings))
    head = max(-(-(START_MS + 1000 * second) // 600_000) for _, second, _ in readings)
    wanted: dict[tuple[str, int, int], list[tuple[int, int]]] = {}
    for series, second, value in readings:
        at_ms = START_MS + 1000 * second
        number = -(-at_ms // 600_000)
        if number > head - 2016:
            wanted.setdefault((NAMES[series], 600, (number - 1) * 600_000), []).append((second, value))
        day = DAYS.date_of(from_ms(at_ms) - timedelta(milliseconds=1))
        wanted.setdefault((NAMES[series], 86_400, to_ms(DAYS.start_of(day))), []).append((second, value))
    got = buckets_of(window)
    assert got.keys() == wanted.keys()
    for place, entries in wanted.items():
        values = [value for _, value in entries]
        newest_s, last = max(entries)
        assert got[place][4:8] == (float(len(values)), float(sum(values)), float(min(values)), float(max(values)))
        assert got[place][8:] == (float(last), START_MS + 1000 * newest_s)


@settings(max_examples=150, deadline=None)
@given(some_readings, st.sampled_from([600, 1800, 3600, 7200]), st.integers(0, 16 * 144))
def test_a_gap_is_never_zero(readings: list[tuple[int, int, int]], step_s: int, ends: int) -> None:
    """A step without a reading is masked in every aggregate, whatever stood in its place before."""
    window = Window("house1", SIGNALS, DAYS)
    for reading in readings:
        window.add(block([reading]))
    end = START + timedelta(seconds=600 * ends)
    aggregates = ("sum", "mean", "min", "max", "last", "median")
    features = tuple(Feature.model_validate({"signal": "co2", "aggregate": a, "min_coverage": 0.0}) for a in aggregates)
    length = 12
    spec = InputSpec(
        name="x",
        shape=("houses", length, len(features)),
        grid=Grid(step_s=step_s, length=length),
        features=features,
        mask="m",
    )
    found = window.tensor(spec, end, None)
    assert found.mask is not None
    head = max(-(-(START_MS + 1000 * second) // 600_000) for _, second, _ in readings)
    for row in range(length):
        right = to_ms(end) - (length - 1 - row) * step_s * 1000
        there = [
            value
            for series, second, value in readings
            if series == NAMES.index("co2") and right - step_s * 1000 < START_MS + 1000 * second <= right
            if -(-(START_MS + 1000 * second) // 600_000) > head - 2016
        ]
        if not there:
            assert not found.mask[row].any()
            assert np.isnan(found.values[row]).all()
        elif found.mask[row, 1]:
            assert min(there) <= found.values[row, 1] <= max(there)
