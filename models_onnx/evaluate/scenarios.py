"""What real farms do to readings, done to a whole record: the same farms again, with less to go by.

The figures are our judgement of what happens, with the rates of commercial flocks [F1] (docs/sources.md) in mind.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from models_onnx.farm.farm import DAY_MS, HOUR_MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from models_onnx.evaluate.record import HouseRecord

    Change = Callable[[HouseRecord, np.random.Generator], HouseRecord]

MISSING_SHARE = 0.3
BY_PEOPLE = frozenset({"dead", "culled"})
DIRT_G, DIRT_FROM_DAY, DIRT_DAYS = (60.0, 250.0), (5.0, 15.0), 10.0
WRONG_COUNT = (0.05, 0.15)
CLOCK_H, CLOCK_FROM_DAY = (1.0, 6.0), (3.0, 20.0)


def as_it_is(record: HouseRecord, _rng: np.random.Generator) -> HouseRecord:
    """Return the record: what the others are compared with."""
    return record


def sensors_missing(record: HouseRecord, rng: np.random.Generator) -> HouseRecord:
    """Return it without 30 % of its sensors, for the whole time; people still tell of the dead."""
    names = [name for name in record.signals if name not in BY_PEOPLE]
    gone = set(rng.choice(names, round(MISSING_SHARE * len(names)), replace=False).tolist())
    signals = {
        name: np.full_like(values, np.nan) if name in gone else values for name, values in record.signals.items()
    }
    return replace(record, signals=signals)


def scale_dirty(record: HouseRecord, rng: np.random.Generator) -> HouseRecord:
    """Return it with litter on the scale that grows for ten days in each flock, and stays."""
    weight = record.signals["weight"].copy()
    for flock in record.flocks:
        age = (record.at_ms - flock.placed_ms) / DAY_MS
        here = (age > 0) & (record.at_ms <= flock.end_ms)
        grown = np.clip((age - rng.uniform(*DIRT_FROM_DAY)) / DIRT_DAYS, 0, 1) * rng.uniform(*DIRT_G)
        weight[here] += np.rint(grown[here])
    return replace(record, signals={**record.signals, "weight": weight})


def scale_absent(record: HouseRecord, _rng: np.random.Generator) -> HouseRecord:
    """Return it without a bird scale."""
    gone = {name: np.full_like(v, np.nan) for name, v in record.signals.items() if name.startswith("weight")}
    return replace(record, signals={**record.signals, **gone})


def count_wrong(record: HouseRecord, rng: np.random.Generator) -> HouseRecord:
    """Return it with a number of placed birds that is 5 to 15 % too high or too low."""
    factor = 1 + float(rng.uniform(*WRONG_COUNT)) * (1 if rng.random() < 0.5 else -1)
    told = tuple(
        replace(one, command={**one.command, "birds_placed": round(float(one.command["birds_placed"]) * factor)})
        if one.command["action"] == "place"
        else one
        for one in record.told
    )
    return replace(record, told=told)


def clock_wrong(record: HouseRecord, rng: np.random.Generator) -> HouseRecord:
    """Return it with a house computer whose clock goes 1 to 6 hours wrong one day, and stays so.

    What people tell keeps its time. Where the clock goes back, its second passing of the same hours is lost: the first
    value of a time wins.
    """
    since_ms = record.begin_ms + round(rng.uniform(*CLOCK_FROM_DAY) * DAY_MS)
    step_ms = int(np.diff(record.at_ms).min())
    ahead_ms = round(rng.uniform(*CLOCK_H) * HOUR_MS) // step_ms * step_ms * (1 if rng.random() < 0.5 else -1)
    at_ms = np.where(record.at_ms >= since_ms, record.at_ms + ahead_ms, record.at_ms)
    newest = np.concatenate(([at_ms[0] - 1], np.maximum.accumulate(at_ms)[:-1]))
    # the grid of times stays as it is: readings move on it
    place = (at_ms - record.at_ms[0]) // step_ms
    keep = (at_ms > newest) & (place < len(at_ms))
    signals = {}
    for name, values in record.signals.items():
        if name in BY_PEOPLE:
            signals[name] = values
            continue
        moved = np.full_like(values, np.nan)
        moved[place[keep]] = values[keep]
        signals[name] = moved
    return replace(record, signals=signals)


IN_THE_FIELD = "as in the field"  # the farm itself lacks sensors, and its meters jump: ``simulate(field=True)``
SCENARIOS: dict[str, Change] = {
    "as it is": as_it_is,
    IN_THE_FIELD: as_it_is,
    "30 % of sensors missing": sensors_missing,
    "dirty scale": scale_dirty,
    "no scale": scale_absent,
    "wrong count of birds": count_wrong,
    "wrong clock": clock_wrong,
}
