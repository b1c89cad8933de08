"""Draws what goes wrong on many farms: at most one fault a flock, of any kind, anywhere in its life, of any size.

F1 is that of docs/sources.md.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from agent.domain import to_ms
from models_onnx.farm.farm import DEFAULT_START
from models_onnx.farm.faults import DAY_MS, FAULTS, HOUR_MS, Fault
from models_onnx.farm.flocks import plan_flock
from models_onnx.farm.params import HELD_OUT_FAULTS, SHAPES, Range, generator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from models_onnx.farm.flocks import FlockPlan
    from models_onnx.farm.params import RangeSet

OUTBREAK_RATE = 19 / 48  # real flocks [F1]; there, some had two
END_MARGIN_H = 24  # nothing begins on the last day, with the feed withdrawn
ANY_SHAPE = Range(0.0, 1.0)


def kinds_of(ranges: RangeSet) -> tuple[str, ...]:
    """Return the faults that farms of a range set may have."""
    return tuple(name for name in FAULTS if ranges == "test" or name not in HELD_OUT_FAULTS)


def campaign(
    houses: int,
    seed: int,
    *,
    ranges: RangeSet = "train",
    start: datetime = DEFAULT_START,
    ages: Sequence[int] | None = None,
    days: int | None = None,
    share: float = 0.7,
    kinds: Sequence[str] | Mapping[str, float] | None = None,
    outbreaks: float = 0.0,
    houses_per_farm: int | None = 4,
) -> list[Fault]:
    """Return faults for the first flock of each house of the farm that ``simulate`` makes of the same arguments.

    ``share`` of the flocks have one, of ``kinds`` (by default all of the range set, each as often as the others; a
    mapping gives weights). Of the rest, ``outbreaks`` have an outbreak of mortality: ``OUTBREAK_RATE`` is that of real
    flocks. With ``days``, none begins after the end of a run of so many days. A heat wave comes to all houses of the
    farm, which have nothing else then. Houses draw for themselves: more houses do not change the first ones.
    """
    weights = kinds if kinds is not None else kinds_of(ranges)
    table = dict(weights.items()) if hasattr(weights, "items") else dict.fromkeys(weights, 1.0)
    end_ms = None if days is None else to_ms(start) + days * DAY_MS
    found: list[Fault | None] = []
    for house in range(houses):
        rng = generator(seed, ranges, 9, house)
        age = 0 if ages is None else ages[house]
        placed_on = start.date() - timedelta(days=age)
        plan = plan_flock(seed, ranges, house=house, number=0, placed_on=placed_on, capacity=1.0)
        has, outbreak = rng.random(2)
        name = str(rng.choice(list(table), p=np.array(list(table.values())) / sum(table.values())))
        if has >= share:
            name = "mortality_outbreak" if outbreak < outbreaks else ""
        fault = draw_fault(name, plan, rng, ranges, to_ms(start), end_ms) if name else None
        found.append(fault)
    return _with_weather(found, houses_per_farm or houses)


def draw_fault(
    name: str, plan: FlockPlan, rng: np.random.Generator, ranges: RangeSet, start_ms: int, end_ms: int | None = None
) -> Fault | None:
    """Return a fault of this name in the life of a flock after ``start_ms``; None where there is no room for it."""
    kind = FAULTS[name]
    hours, severity = rng.uniform(*kind.drawn_hours), rng.uniform(*kind.drawn_severity)
    shape = rng.uniform(*SHAPES.get(name, ANY_SHAPE).of(ranges))
    age, signal = rng.uniform(0, 1), kind.signals[int(rng.integers(len(kind.signals)))] if kind.signals else None
    first = max(plan.placed_ms + round(kind.drawn_age[0] * DAY_MS), start_ms)
    last = min(plan.placed_ms + round(kind.drawn_age[1] * DAY_MS), plan.catch_ms - END_MARGIN_H * HOUR_MS)
    if end_ms is not None:
        last = min(last, end_ms - HOUR_MS)
    if last <= first:
        return None
    from_ms = first + round(age * (last - first))
    to = from_ms + max(round(hours * HOUR_MS), 1)
    return Fault(name, plan.house, from_ms, to, round(float(severity), 3), signal, round(float(shape), 3))


def _with_weather(found: Sequence[Fault | None], per_farm: int) -> list[Fault]:
    """Return the faults, with the first heat wave of a farm instead of all else on it."""
    faults: list[Fault] = []
    for first in range(0, len(found), per_farm):
        farm = found[first : first + per_farm]
        wave = next((fault for fault in farm if fault is not None and fault.name == "heat_wave"), None)
        if wave is None:
            faults += [fault for fault in farm if fault is not None]
        else:
            faults += [
                Fault(wave.name, first + i, wave.from_ms, wave.to_ms, wave.severity, None, wave.shape)
                for i in range(len(farm))
            ]
    return faults
