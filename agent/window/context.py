"""What the features need to know of the flock: its birds, its age, its breed's curves."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from agent.domain import from_ms, to_ms
from agent.manifest import KEPT_DAYS
from agent.window.buckets import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date, datetime

    from numpy.typing import NDArray

    from agent.clock import FarmDays
    from agent.strains import Strain

    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]

NAN = float("nan")

_NO_TIMES: I64 = np.empty(0, np.int64)
_NO_BIRDS: F64 = np.empty(0, np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class FlockContext:
    """What the features need to know of the flock in the house."""

    placed_at_ms: int
    strain: Strain
    birds_placed: int | None = None
    sex: str | None = None  # "male", "female"; None: as hatched
    parent_age_weeks: float | None = None
    slaughter_at_ms: int | None = None  # planned
    removed_at_ms: I64 = field(default_factory=lambda: _NO_TIMES)  # ascending: deaths, culls, thinnings
    removed: F64 = field(default_factory=lambda: _NO_BIRDS)  # birds removed up to and including each of them
    losses: Mapping[date, float] = field(default_factory=dict)  # share of the living lost, by farm date, where told
    facts: Mapping[str, float] = field(default_factory=dict)  # what else a manifest may ask for: "house.weight_bias"

    def live_at(self, at_ms: I64) -> F64:
        """Return the live birds at each time; NaN where nobody said how many were placed, or none is left."""
        if self.birds_placed is None:
            return np.full(len(at_ms), NAN)
        if len(self.removed) == 0:
            return np.full(len(at_ms), float(self.birds_placed))
        which = np.searchsorted(self.removed_at_ms, at_ms, side="right")
        live = self.birds_placed - np.concatenate(([0.0], self.removed))[which]
        return np.where(live > 0, live, NAN)

    def age_days(self, at_ms: I64) -> F64:
        """Return the age at each time in days since placement, with its fraction; negative before."""
        return (at_ms - self.placed_at_ms) / DAY_MS


_CURVE_DAYS = KEPT_DAYS  # beyond the breeder's last day (56) the curve goes on with its last gain and intake


@lru_cache(maxsize=16)
def curves_of(strain: Strain) -> tuple[F64, F64]:
    """Return the weight and the feed eaten so far, in g per bird, at ages 0, 1, 2 … 80 days."""
    weight, feed = np.array(strain.weight_g, np.float64), np.array(strain.feed_g, np.float64)
    more = np.arange(1, _CURVE_DAYS + 2 - len(weight))
    weight = np.concatenate((weight, weight[-1] + more * (weight[-1] - weight[-2])))
    return weight, np.cumsum(np.concatenate((feed, np.full(len(more), feed[-1]))))


def curve_at(curve: F64, age_days: F64) -> F64:
    """Return a curve of ``curves_of`` at fractional ages; before placement it stands at its beginning."""
    return np.interp(age_days, np.arange(len(curve)), curve)


def fact_of(flock: FlockContext, name: str, at: datetime, days: FarmDays) -> float:
    """Return a fact about the flock as of ``at``; NaN where it is not known."""
    at_ms = to_ms(at)
    if name.startswith("losses."):
        day = days.date_of(from_ms(at_ms - 1))  # the last instant of a day is its own
        return flock.losses.get(day - timedelta(days=int(name[7:])), NAN)
    now = np.array([at_ms])
    kind, _, which = name.partition(":")
    match kind:
        case "age_days":
            return (at_ms - flock.placed_at_ms) / DAY_MS
        case "day_number":
            return float((days.date_of(at) - days.date_of(from_ms(flock.placed_at_ms))).days)
        case "birds_placed":
            return NAN if flock.birds_placed is None else float(flock.birds_placed)
        case "live_birds":
            return float(flock.live_at(now)[0])
        case "parent_age_weeks":
            return NAN if flock.parent_age_weeks is None else flock.parent_age_weeks
        case "days_to_slaughter":
            return NAN if flock.slaughter_at_ms is None else (flock.slaughter_at_ms - at_ms) / DAY_MS
        case "strain":
            return float(flock.strain.name == which)
        case "sex":
            return NAN if flock.sex is None else float(flock.sex == which)
        case "reference.weight_g":
            return float(curve_at(curves_of(flock.strain)[0], flock.age_days(now))[0])
        case "reference.feed_g":  # what the curve eats in the day around now
            around = flock.age_days(np.array([at_ms - DAY_MS // 2, at_ms + DAY_MS // 2]))
            return float(np.diff(curve_at(curves_of(flock.strain)[1], around))[0])
    return flock.facts.get(name, NAN)
