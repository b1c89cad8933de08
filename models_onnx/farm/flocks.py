"""The life of each house on paper: which flock comes when, what it is like, when it is thinned and caught."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Literal

from agent.domain import to_ms
from agent.strains import COBB_500, ROSS_308
from models_onnx.farm.params import FLOCK_RANGES, draw, generator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models_onnx.farm.params import RangeSet

Kind = Literal["preheat", "place", "fast", "thin", "end", "wash", "dry"]

HOUR_MS = 3_600_000

PREHEAT_H = 36  # heating before the chicks come; common practice, assumed
WITHDRAWAL_H = 8  # without feed before the catch, so that the gut is empty; common practice, assumed
THIN_WITHDRAWAL_H = 6  # our judgement: shorter, because those that stay want to eat
CATCH_H = 4  # what a catch takes; assumed
WASH_AFTER_H = 24  # our judgement: a day to take the litter out
WASH_H = 48  # our judgement: two days of washing and disinfection
PLACED_AT = time(12)  # chicks come by lorry around noon; assumed


@dataclass(frozen=True, slots=True)
class FlockPlan:
    """A flock as drawn: ``traits`` are its values of ``params.FLOCK_RANGES``."""

    house: int
    number: int  # 0 = the first in its house
    placed_ms: int
    birds_placed: int
    strain: str
    sex: str
    parent_age_weeks: int
    catch_ms: int
    thin_ms: int | None
    traits: Mapping[str, float]

    @property
    def placed_on(self) -> date:
        """The farm date of placement: day 0."""
        return _date(self.placed_ms)

    @property
    def planned_end_on(self) -> date:
        """The farm date of slaughter."""
        return _date(self.catch_ms)

    @property
    def name(self) -> str:
        """The flock's id, unique in its house."""
        return self.placed_on.isoformat()

    @property
    def end_ms(self) -> int:
        """When the last bird has left."""
        return self.catch_ms + CATCH_H * HOUR_MS

    @property
    def next_placed_on(self) -> date:
        """The farm date on which the next flock comes."""
        return self.planned_end_on + timedelta(days=round(self.traits["downtime_days"]))


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that changes what goes on in a house."""

    at_ms: int
    kind: Kind
    plan: FlockPlan


def plan_flock(
    seed: int,
    ranges: RangeSet,
    *,
    house: int,
    number: int,
    placed_on: date,
    capacity: float,
    placed_ms: int | None = None,
) -> FlockPlan:
    """Return flock ``number`` of a house, the same for the same seed whatever else the farm does.

    ``capacity`` is the house's, in birds; the chicks come at noon of ``placed_on``, or at ``placed_ms`` of that day.
    """
    traits = draw(FLOCK_RANGES, ranges, generator(seed, ranges, 2, house, number))
    noon_ms = to_ms(datetime.combine(placed_on, PLACED_AT, UTC))
    midnight_ms = to_ms(datetime.combine(placed_on, time(0), UTC))
    length = round(traits["length_days"])
    catch_ms = midnight_ms + length * 24 * HOUR_MS + round(traits["catch_hour"] * 60) * 60_000
    thin_ms = catch_ms - round(traits["thin_before_end_days"]) * 24 * HOUR_MS
    return FlockPlan(
        house=house,
        number=number,
        placed_ms=noon_ms if placed_ms is None else placed_ms,
        birds_placed=round(capacity * traits["fill"] / 100) * 100,
        strain=ROSS_308.name if traits["strain"] < 0.7 else COBB_500.name,
        sex="mixed" if traits["sex"] < 0.86 else "male" if traits["sex"] < 0.93 else "female",
        parent_age_weeks=round(traits["parent_age_weeks"]),
        catch_ms=catch_ms,
        thin_ms=thin_ms if traits["thinned"] < 0.4 else None,
        traits=traits,
    )


def happenings(plan: FlockPlan) -> list[Happening]:
    """Return what happens to a house around one flock, in order of time."""
    moments: list[tuple[int, Kind]] = [
        (plan.placed_ms - PREHEAT_H * HOUR_MS, "preheat"),
        (plan.placed_ms, "place"),
        (plan.catch_ms - WITHDRAWAL_H * HOUR_MS, "fast"),
        (plan.end_ms, "end"),
        (plan.end_ms + WASH_AFTER_H * HOUR_MS, "wash"),
        (plan.end_ms + (WASH_AFTER_H + WASH_H) * HOUR_MS, "dry"),
    ]
    if plan.thin_ms is not None:
        moments += [(plan.thin_ms - THIN_WITHDRAWAL_H * HOUR_MS, "fast"), (plan.thin_ms, "thin")]
    return [Happening(at_ms, kind, plan) for at_ms, kind in sorted(moments)]


def _date(at_ms: int) -> date:
    return datetime.fromtimestamp(at_ms / 1000, UTC).date()
