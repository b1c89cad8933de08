"""What one house of a simulated farm told, and what is true of it: what agent and baselines are judged on alike.

Times are ms since 1970, UTC, as is the simulated farm's day. A *farm* here is a group of houses that share weather and
range set: figures are resampled by it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from agent.domain import to_ms
from agent.strains import strain_of
from agent.window import curves_of
from models_onnx.farm.climate import SET_CEL, SET_DAYS
from models_onnx.farm.farm import DAY_MS, HOUR_MS, simulate
from models_onnx.farm.params import HOUSE_RANGES, draw, generator
from models_onnx.farm.truth import truths_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from agent.strains import Strain
    from models_onnx.farm.farm import FlockTruth, Told
    from models_onnx.farm.faults import Fault
    from models_onnx.farm.params import RangeSet
    from models_onnx.farm.truth import FaultTruth

    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]
    Bools = NDArray[np.bool_]

STEP_MS = 600_000
STEPS_A_DAY = DAY_MS // STEP_MS
AFTER_THINNING_MS = 24 * HOUR_MS  # feed and water settle; the agent, too, judges nothing in that time
COMMANDS = frozenset({"place", "thin", "state", "end"})  # the dead are among the readings


@dataclass(frozen=True, slots=True)
class HouseRecord:
    """One house: ``signals`` [steps] by name, NaN = no reading, amounts since the last reading; steps of 600 s."""

    farm: str
    house: str
    at_ms: I64
    signals: Mapping[str, F64]
    told: tuple[Told, ...]
    flocks: tuple[FlockTruth, ...]
    true_weight_g: F64  # at noon of each day from ``begin_ms`` on, NaN = empty
    begin_ms: int
    set_point: F64  # [steps]: what its climate computer aims at, Cel
    set_pressure: float  # the same, Pa
    fault: FaultTruth | None = None

    @property
    def end_ms(self) -> int:
        """The last instant that is played."""
        return int(self.at_ms[-1])

    def flock_at(self, at_ms: int) -> FlockTruth | None:
        """Return the flock that is in the house at an instant."""
        return next((f for f in self.flocks if f.placed_ms <= at_ms < f.end_ms), None)

    def until(self, end_ms: int) -> HouseRecord:
        """Return the record up to an instant; nobody looks at the house after it."""
        last = max(int(np.searchsorted(self.at_ms, end_ms, side="right")), 1)
        return replace(
            self,
            at_ms=self.at_ms[:last],
            signals={name: values[:last] for name, values in self.signals.items()},
            set_point=self.set_point[:last],
            told=tuple(told for told in self.told if told.at_ms <= self.at_ms[last - 1]),
        )


def records_of(
    ranges: RangeSet,
    *,
    houses: int,
    houses_per_farm: int,
    days: int,
    seed: int,
    start: datetime,
    faults: Sequence[Fault] = (),
    restock: bool = False,
    field: bool = False,
) -> list[HouseRecord]:
    """Return the houses of simulated farms; of ``faults`` at most one in each house, by its number.

    ``field``: some sensors are absent, and meters jump, as on real farms.
    """
    recording = simulate(
        houses=houses,
        days=days,
        seed=seed,
        ranges=ranges,
        start=start,
        faults=faults,
        houses_per_farm=houses_per_farm,
        restock=restock,
        field=field,
    )
    of_house = {truth.house: truth for truth in truths_of(recording)} if faults else {}
    records = []
    for house in range(houses):
        flocks = tuple(flock for flock in recording.flocks if flock.house == house)
        records.append(
            HouseRecord(
                farm=f"{seed}-{house // houses_per_farm}",
                house=f"house{house}",
                at_ms=recording.at_ms,
                signals={name: values[house] for name, values in recording.signals.items()},
                told=tuple(told for told in recording.told if told.house == house),
                flocks=flocks,
                true_weight_g=recording.true_weight_g[house],
                begin_ms=to_ms(start),
                set_point=set_point_of(ranges, seed, house, recording.at_ms, flocks),
                set_pressure=draw(HOUSE_RANGES, ranges, generator(seed, ranges, 1, house))["pressure_pa"],
                fault=of_house.get(house),
            )
        )
    return records


def set_point_of(ranges: RangeSet, seed: int, house: int, at_ms: I64, flocks: Sequence[FlockTruth]) -> F64:
    """Return the set point of a house's climate computer, which knows it; NaN where no birds are."""
    drawn = draw(HOUSE_RANGES, ranges, generator(seed, ranges, 1, house))
    set_point = np.full(len(at_ms), np.nan)
    for flock in flocks:
        here = (at_ms > flock.placed_ms) & (at_ms <= flock.end_ms)
        age = (at_ms[here] - flock.placed_ms) / DAY_MS
        low, high = (np.interp(age, SET_DAYS, curve) for curve in SET_CEL)
        set_point[here] = low + drawn["set_point_mix"] * (high - low) + drawn["set_point_offset"]
    return set_point


def interfered(record: HouseRecord) -> Iterator[tuple[int, int]]:
    """Yield the times in which people interfere: from the feed withdrawal to a day after the thinning, or the end."""
    began_ms = None
    for told in record.told:
        action = told.command["action"]
        if action == "state" and told.command["state"] == "catching":
            began_ms = told.at_ms
        elif action in {"thin", "end"} and began_ms is not None:
            yield began_ms, told.at_ms + (AFTER_THINNING_MS if action == "thin" else 0)
            began_ms = None


def usual(record: HouseRecord, more_ms: int = 0) -> Bools:
    """Return at which steps birds are in the house and nobody interferes, nor did within ``more_ms`` before."""
    found = np.zeros(len(record.at_ms), np.bool_)
    for flock in record.flocks:
        found |= (record.at_ms > flock.placed_ms) & (record.at_ms < flock.end_ms)
    for begin, end in interfered(record):
        found &= (record.at_ms < begin) | (record.at_ms > end + more_ms)
    return found


def ages(record: HouseRecord) -> F64:
    """Return the age at each step in days, from midnight of the placement day; NaN where no birds are."""
    age = np.full(len(record.at_ms), np.nan)
    for flock in record.flocks:
        here = (record.at_ms > flock.placed_ms) & (record.at_ms <= flock.end_ms)
        age[here] = (record.at_ms[here] - flock.placed_ms // DAY_MS * DAY_MS) / DAY_MS
    return age


def live_birds(record: HouseRecord) -> F64:
    """Return the living birds at each step as people know them: placed, less what they told; NaN without a flock."""
    dead = np.nancumsum(record.signals["dead"])
    live = np.full(len(record.at_ms), np.nan)
    for told in record.told:
        after = record.at_ms > told.at_ms
        match told.command["action"]:
            case "place":
                before = dead[after][0] if after.any() else 0.0
                live[after] = float(told.command["birds_placed"]) - (dead[after] - before)
            case "thin":
                live[after] -= float(told.command["birds"])
            case "end":
                live[after] = np.nan
            case _:
                pass
    return live


def strain_at(record: HouseRecord, at_ms: int) -> Strain:
    """Return the strain of the flock that is in the house."""
    flock = record.flock_at(at_ms)
    return strain_of(flock.strain if flock is not None else None)


def breed_day_feed_kg(record: HouseRecord) -> F64:
    """Return what the breed's curve would have one bird eat on the day of each step, kg; NaN without a flock."""
    age = ages(record)
    feed = np.full(len(age), np.nan)
    for flock in record.flocks:
        here = (record.at_ms > flock.placed_ms) & (record.at_ms <= flock.end_ms)
        eaten = curves_of(strain_of(flock.strain))[1]
        day = np.clip(np.floor(age[here]).astype(np.intp), 0, len(eaten) - 2)
        feed[here] = np.maximum(eaten[day + 1] - eaten[day], 1.0) / 1000
    return feed
