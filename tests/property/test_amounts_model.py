"""Amounts against plain Python: whatever the order, the cuts, the resets and the restarts, nothing is counted twice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np
import pytest
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

START_MS = to_ms(datetime(2026, 3, 28, 20, tzinfo=UTC))  # the clocks go forward in the following night
DAYS = FarmDays(ZoneInfo("Europe/Copenhagen"), time(6, 0))
INCREMENT = CATALOGUE["water"]
COUNTER = replace(INCREMENT, kind=Kind.COUNTER)
MINUTE_MS = 60_000
HELD_BACK_MS = 90_000  # one and a half rhythms of a minute


def block(at_ms: list[int], values: list[float]) -> Readings:
    """Return readings of the water meter."""
    zeros = np.zeros(len(at_ms), np.uint8)
    at = np.array(at_ms, np.int64)
    return Readings(
        (SeriesKey("house1", "water"),), zeros.astype(np.int32), at, np.array(values, float), zeros, zeros, at
    )


@dataclass
class House:
    """A window that is saved, lost and loaded again as the agent does it."""

    kind: Kind
    rhythm_s: float = 60.0

    def __post_init__(self) -> None:
        self.stored: dict[tuple[int, int], Bucket] = {}
        self.window = self._begun()

    def _begun(self) -> Window:
        window = Window("house1", {"water": replace(INCREMENT, kind=self.kind)}, DAYS)
        window.load(self.stored.values(), {"water": self.rhythm_s})
        return window

    def save(self) -> None:
        self.stored |= {(bucket.step_s, bucket.start_ms): bucket for bucket in self.window.take_changed()}

    def restart(self) -> None:
        self.save()
        self.window = self._begun()

    def sums(self, step_s: int) -> dict[int, float]:
        """Return what each bucket adds up to, those that hold nothing left out."""
        self.save()
        return {start: b.sum for (step, start), b in self.stored.items() if step == step_s and b.n}


def day_start(at_ms: int) -> int:
    """Return the first instant of the farm day of a reading; its last instant is the next one's first."""
    return to_ms(DAYS.start_of(DAYS.date_of(from_ms(at_ms - 1))))


def added(entries: list[tuple[int, float]]) -> tuple[dict[int, float], dict[int, float]]:
    """Return the sums by ten minutes and by farm day of what was measured when."""
    fine: dict[int, float] = {}
    daily: dict[int, float] = {}
    for at_ms, amount in entries:
        ten = (-(-at_ms // 600_000) - 1) * 600_000
        fine[ten] = fine.get(ten, 0.0) + amount
        daily[day_start(at_ms)] = daily.get(day_start(at_ms), 0.0) + amount
    return fine, daily


def is_as(house: House, entries: list[tuple[int, float]]) -> bool:
    fine, daily = added(entries)
    return house.sums(600) == fine and house.sums(86_400) == daily


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=400),
    st.sets(st.integers(0, 399), max_size=6),
    st.sets(st.integers(0, 399), max_size=5),
    st.sets(st.integers(1, 399), max_size=8),
    st.booleans(),
)
def test_increments_add_up_over_gaps_late_ones_cuts_and_restarts(
    amounts: list[int], late: set[int], lost: set[int], cuts: set[int], restarts: bool
) -> None:
    """An amount counts once, at its own time; one that comes after a silence is unknown, never zero, never double."""
    order = [i for i in range(len(amounts)) if i not in lost | late] + [i for i in late - lost if i < len(amounts)]
    parts = sorted({0, len(order), *(cut for cut in cuts if cut < len(order))})
    at_ms = [START_MS + (i + 1) * MINUTE_MS for i in range(len(amounts))]
    house = House(Kind.INCREMENT)
    known: list[tuple[int, float]] = []
    newest: int | None = None
    in_blocks = [i for first, last in pairwise(parts) for i in sorted(order[first:last])]  # each is put in order
    for i in in_blocks:
        if newest is None or at_ms[i] < newest or at_ms[i] - newest <= HELD_BACK_MS:
            known.append((at_ms[i], float(amounts[i])))
        newest = at_ms[i] if newest is None else max(newest, at_ms[i])
    for first, last in pairwise(parts):
        house.window.add(block([at_ms[i] for i in order[first:last]], [float(amounts[i]) for i in order[first:last]]))
        if restarts:
            house.restart()
    assert is_as(house, known)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 72), st.integers(0, 500)), min_size=1, max_size=40, unique_by=lambda r: r[0]),
    st.randoms(use_true_random=False),
    st.integers(1, 9),
)
def test_totals_of_hours_add_up_in_any_order(rows: list[tuple[int, int]], random: Random, size: int) -> None:
    """Slow meters tell what an hour or two held: late by days or not, each total counts once."""
    entries = [(START_MS + 2 * hour * 60 * MINUTE_MS, float(amount)) for hour, amount in rows]
    house = House(Kind.INCREMENT, rhythm_s=7_200.0)
    shuffled = list(entries)
    random.shuffle(shuffled)
    for i in range(0, len(shuffled), size):
        house.window.add(block(*map(list, zip(*shuffled[i : i + size], strict=True))))
        if random.random() < 0.3:
            house.restart()
    assert is_as(house, entries)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.integers(5, 10), min_size=2, max_size=300),
    st.sampled_from([(0, 0), (500, 0), (8e6, 0), (65_000, 2**16), (99_500, 10**5), (2**32 - 300, 2**32)]),
    st.sets(st.integers(5, 299), max_size=3),
    st.sets(st.integers(0, 299), max_size=10),
    st.sets(st.integers(1, 299), max_size=8),
    st.booleans(),
)
def test_a_counter_adds_up_over_resets_rollovers_repetitions_cuts_and_restarts(
    flows: list[int],
    meter: tuple[int, int],
    resets: set[int],
    repeated: set[int],
    cuts: set[int],
    restarts: bool,
) -> None:
    begins_at, modulus = meter
    resets = set() if modulus else {i for i in resets if not any(i - 10 < other < i for other in resets)}
    total, totals = begins_at, []
    for i, flow in enumerate(flows):
        total = flow if i in resets else total + flow
        total = total % modulus if modulus else total
        totals.append(float(total))
    at_ms = [START_MS + (i + 1) * MINUTE_MS for i in range(len(flows))]
    house = House(Kind.COUNTER)
    parts = sorted({0, len(flows), *(cut for cut in cuts if cut < len(flows))})
    for first, last in pairwise(parts):
        house.window.add(block(at_ms[first:last], totals[first:last]))
        again = [i for i in repeated if i < last]  # what the gateway sends once more, late
        house.window.add(block([at_ms[i] for i in again], [totals[i] for i in again]))
        if restarts:
            house.restart()
    assert is_as(house, [(at, float(flow)) for at, flow in zip(at_ms[1:], flows[1:], strict=True)])


@pytest.mark.parametrize(("first", "hours"), [((2026, 3, 28), 23), ((2026, 10, 24), 25), ((2026, 6, 1), 24)])
@pytest.mark.parametrize("kind", [Kind.INCREMENT, Kind.COUNTER])
def test_a_farm_day_has_the_hours_that_it_has(first: tuple[int, int, int], hours: int, kind: Kind) -> None:
    """A steady flow: 23, 24 or 25 hours of it, fully covered; and with four hours missing still the rate of a day."""
    begin = DAYS.start_of(datetime(*first, tzinfo=UTC).date())
    end = DAYS.start_of(datetime(*first, tzinfo=UTC).date() + timedelta(days=1))
    assert end - begin == timedelta(hours=hours)
    at_ms = list(range(to_ms(begin) - 5 * MINUTE_MS, to_ms(end) + 1, MINUTE_MS))
    values = [2.0 * i for i in range(len(at_ms))] if kind is Kind.COUNTER else [2.0] * len(at_ms)
    feature = Feature(signal="water", aggregate="sum")
    grid = Grid(step_s=86_400, length=1, align="day")
    spec = InputSpec(name="x", shape=("houses", 1, 1), grid=grid, features=(feature,), mask="m")
    for missing_h in (0, 4):
        house = House(kind)
        kept = [i for i, at in enumerate(at_ms) if not 0 < at - to_ms(begin) - 5 * 3_600_000 <= missing_h * 3_600_000]
        house.window.add(block([at_ms[i] for i in kept], [values[i] for i in kept]))
        found = house.window.tensor(spec, end, None)
        assert found.values[0, 0] == pytest.approx(2.0 * 60 * hours, rel=0.002)
        assert found.coverage == pytest.approx(1 - missing_h / hours, abs=0.002)
