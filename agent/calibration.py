"""What the slaughter weights of earlier flocks teach: how heavy birds get here, and what each instrument misses.

A scale that reads 5 % low and birds that are 5 % light look the same until the flock is weighed at slaughter. So each
flock that ends with a slaughter weight is held against the breed's curve, against what the scale showed in its last
days and a fortnight before, and against what it ate and drank. Of each, a house keeps a running estimate with its
variance (a scalar Kalman filter: what is old counts less, one odd flock moves little), which models read as facts
``house.<name>``. How far single flocks lie around it is learnt, too: a scale that wanders from flock to flock says so.
All are logarithms of ratios. Nothing is kept but what the ``end`` of a flock says in house.db.

What a flock weighed also tells how far off its predictions were: where truths lie outside of a model's bands more often
than it says, those of its next weights are stretched. That is done to the quantiles of any bundle, after it has spoken,
and not by one more fact: a fact helps only a model that was trained with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from agent.domain import to_ms
from agent.manifest import DAY_S, Feature, Grid, InputSpec
from agent.strains import strain_of
from agent.window import DAY_MS, curve_at, curves_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import date, datetime

    from numpy.typing import NDArray

    from agent.clock import FarmDays
    from agent.domain import FlockChange
    from agent.fitness import FitFlock
    from agent.window import FlockContext, Window

MEASURED = "measured"  # where the detail of an ``end`` holds what the instruments showed

COURSE_DAYS = 50
COURSE = InputSpec(
    name="course",
    shape=("houses", COURSE_DAYS, 3),
    grid=Grid(step_s=DAY_S, length=COURSE_DAYS, align="day"),
    features=(
        Feature(signal="weight", aggregate="mean", reference="strain.weight_g", transform="log", min_coverage=0.5),
        Feature(
            signal="feed",
            aggregate="sum",
            per="live_bird",
            reference="strain.feed_g",
            transform="log",
            min_coverage=0.5,
        ),
        Feature(
            signal="water",
            aggregate="sum",
            per="live_bird",
            reference="strain.feed_g",
            transform="log",
            min_coverage=0.5,
        ),
    ),
)
"""The course of a flock: what it weighed on the scale, ate and drank each day, as log ratios to the breed's curve."""

COURSE_SIGNALS = tuple(feature.signal for feature in COURSE.features)
LAST_DAYS, FORTNIGHT_DAYS = (1, 8), (11, 18)  # farm days before that of the slaughter, when feed is withdrawn
LEAST_SHARE = 0.5  # of a flock's days, weighed by age, must be known for its feed or water to tell anything


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed before any flock was weighed, and how that may change."""

    mean: float
    sd: float
    walk: float  # sd of its change in a day, growing with the root of time
    noise: float  # sd of one flock around it, to begin with


# our judgement, from docs/sources.md: field flocks lie 4 +- 5 % below the objectives, and 4 % around the level of
# their own house [F1]; scales and meters are off by some percent for good [S68]; FCR varies by 2 to 3 % [S42], and
# what a bird ate hangs on their number, which is told wrong by some percent in one flock of three (assumed)
SITE = Prior(mean=-0.04, sd=0.05, walk=0.0012, noise=0.04)
HOUSE = Prior(mean=0.0, sd=0.03, walk=0.0005, noise=0.04)
INSTRUMENTS = {
    # scales read 3 % lower against the curve than flocks are [F1], more so at the end, when heavy birds stay away [S30]
    "scale_error": Prior(mean=0.04, sd=0.05, walk=0.0012, noise=0.02),
    "scale_error_14d": Prior(mean=0.03, sd=0.05, walk=0.0012, noise=0.025),
    "feed_error": Prior(mean=-0.04, sd=0.06, walk=0.0006, noise=0.035),  # FCR above the table [S42]
    "water_error": Prior(mean=-0.04 - math.log(1.9), sd=0.10, walk=0.0006, noise=0.04),  # 1.9 l/kg [F1]
}
TOLD_SD = 0.02  # of a level that the fleet sends down
NOISE_FLOCKS = 10.0  # how many flocks the prior noise counts for, when it is learnt from those that were weighed
NOISE_OWN_FLOCKS = 4.0  # how many of its own a house takes to count as much as its site does
NOISE_MEMORY = 200.0  # and how many flocks back it is remembered
OUTLIER = 3.0  # a flock further off than so many sd counts as if it were so far
NORMAL_90 = 1.2816  # the half band of p10 to p90, in sd of a normal distribution


@dataclass(slots=True)
class Estimate:
    """A value that wanders slowly, and how sure it is."""

    prior: Prior
    value: float
    variance: float
    at_ms: int | None = None
    count: int = 0

    @classmethod
    def of(cls, prior: Prior) -> Estimate:
        """Return what is believed before anything was seen."""
        return cls(prior, prior.mean, prior.sd**2)

    def variance_at(self, at_ms: int) -> float:
        """Return the variance at a later time; never above that of the prior, to which what is forgotten returns."""
        if self.at_ms is None or at_ms <= self.at_ms:
            return self.variance
        days = (at_ms - self.at_ms) / DAY_MS
        return min(self.variance + self.prior.walk**2 * days, self.prior.sd**2)

    def move(self, innovation: float, spread: float, at_ms: int) -> None:
        """Take in that something lay ``innovation`` off, where ``spread`` is the variance of all that it hangs on."""
        before = self.variance_at(at_ms)
        gain = before / spread
        self.value += gain * innovation
        self.variance = before * (1 - gain)
        self.at_ms = max(at_ms, self.at_ms or at_ms)
        self.count += 1


@dataclass(slots=True)
class Noise:
    """The variance of single flocks around what is known of them, as it is learnt from how far they lay off."""

    total: float = 0.0
    count: float = 0.0

    def learn(self, square: float) -> None:
        """Take in one flock's share of it."""
        keep = min(1.0, NOISE_MEMORY / (self.count + 1))
        self.total = (self.total + square) * keep
        self.count = (self.count + 1) * keep

    def variance(self, before: float, flocks: float) -> float:
        """Return it, where ``before`` was believed as if ``flocks`` flocks had shown so."""
        return (flocks * before + self.total) / (flocks + self.count)


def noise_in(innovation: float, known: float, noise: float) -> float:
    """Return the expected square of what one flock adds, if it lay ``innovation`` off all that is known.

    ``known`` and ``noise`` are the variances of both: of the first, surprising flock in a house most is put down to
    what is not known of the house yet (as in a variational Kalman filter: Sarkka and Nummenmaa 2009).
    """
    share = noise / (known + noise)
    return (share * innovation) ** 2 + share * known


@dataclass(frozen=True, slots=True)
class Weighing:
    """An ended flock: when, how heavy against the curve, and what the instruments showed, all as log ratios."""

    house: str
    at_ms: int
    level: float
    measured: Mapping[str, float]


@dataclass(slots=True)
class _HouseKnown:
    """What is known of one house."""

    level: Estimate = field(default_factory=lambda: Estimate.of(HOUSE))
    instruments: dict[str, Estimate] = field(
        default_factory=lambda: {name: Estimate.of(prior) for name, prior in INSTRUMENTS.items()}
    )
    noises: dict[str, Noise] = field(default_factory=lambda: {name: Noise() for name in INSTRUMENTS})


class Calibration:
    """What all houses of a site have taught so far. Pure: slaughter weights in, facts out.

    ``told``: facts of each house that the configuration sends down; ``weight_bias`` is the level to begin with.
    """

    def __init__(self, days: FarmDays, told: Mapping[str, Mapping[str, float]] | None = None) -> None:
        self._days = days
        self._told = dict(told or {})
        self._weighings: dict[tuple[str, str], Weighing] = {}
        self._off: dict[tuple[str, str, str], float] = {}  # by model, house and flock: see ``off_of``
        self._begin()

    def _begin(self) -> None:
        self._site = Estimate.of(SITE)
        self._houses: dict[str, _HouseKnown] = {}
        self._noise = Noise()
        self._noises = {name: Noise() for name in INSTRUMENTS}

    def learn(self, changes: Iterable[FlockChange]) -> None:
        """Take in the flocks that ended with a slaughter weight; one that is told again replaces what it said."""
        for change in changes:
            weighing = weighing_of(change, self._days)
            if weighing is None or change.flock is None:
                continue
            key = change.house, change.flock.flock
            known = self._weighings.get(key)
            if known == weighing:
                continue
            self._weighings[key] = weighing
            if known is None:
                self.take(weighing)
            else:
                self._begin()
                for each in sorted(self._weighings.values(), key=lambda w: w.at_ms):
                    self.take(each)

    def take(self, weighing: Weighing) -> None:
        """Take in one flock."""
        house, at_ms = self._house(weighing.house), weighing.at_ms
        known = self._site.variance_at(at_ms) + house.level.variance_at(at_ms)
        spread = known + self.noise**2
        innovation = _within(weighing.level - self._site.value - house.level.value, OUTLIER * math.sqrt(spread))
        self._noise.learn(noise_in(innovation, known, self.noise**2))
        self._site.move(innovation, spread, at_ms)
        house.level.move(innovation, spread, at_ms)
        for name, shown in weighing.measured.items():
            estimate = house.instruments.get(name)
            if estimate is not None and math.isfinite(shown):
                known, noise = estimate.variance_at(at_ms), self._noise_of(house, name)
                spread = known + noise
                error = _within(weighing.level - shown - estimate.value, OUTLIER * math.sqrt(spread))
                for learnt in (self._noises[name], house.noises[name]):
                    learnt.learn(noise_in(error, known, noise))
                estimate.move(error, spread, at_ms)

    @property
    def noise(self) -> float:
        """The sd of one flock's weight around the level of its house."""
        return math.sqrt(self._noise.variance(SITE.noise**2, NOISE_FLOCKS))

    def _noise_of(self, house: _HouseKnown, name: str) -> float:
        """Return the variance of one flock around an instrument's error: of this house, and of the site's others."""
        of_site = self._noises[name].variance(INSTRUMENTS[name].noise ** 2, NOISE_FLOCKS)
        return house.noises[name].variance(of_site, NOISE_OWN_FLOCKS)

    def facts(self, house: str, at: datetime) -> dict[str, float]:
        """Return what is known of a house at ``at``: ``house.<name>``, and the next flock's sd of what is estimated."""
        at_ms, known = to_ms(at), self._house(house)
        variance = self._site.variance_at(at_ms) + known.level.variance_at(at_ms) + self.noise**2
        facts = {f"house.{name}": value for name, value in self._told.get(house, {}).items()}
        facts |= {
            "house.flocks": float(known.level.count),
            "house.weight_bias": self._site.value + known.level.value,
            "house.weight_bias_sd": math.sqrt(variance),
        }
        for name, estimate in known.instruments.items():
            facts[f"house.{name}"] = estimate.value
            facts[f"house.{name}_sd"] = math.sqrt(estimate.variance_at(at_ms) + self._noise_of(known, name))
        return facts

    def judge(self, fits: Iterable[FitFlock]) -> None:
        """Take in what models had predicted of flocks whose weight was told."""
        for fit in fits:
            off = off_of(fit)
            if off is not None:
                self._off[fit.model, fit.house, fit.flock] = off

    def stretch(self, model: str, house: str) -> float:
        """Return by what the half bands of a model's weights are to be stretched here; 1 where nothing is known.

        Of the flocks of this house, and of its site's: a model whose bands are honest on the whole may be too sure of
        one house. Only flocks that ``learn`` was told of count, so nothing is known before its time.
        """
        known = [(key[1], off) for key, off in self._off.items() if key[0] == model and key[1:] in self._weighings]
        site, own = [off for _, off in known], [off for of, off in known if of == house]
        of_site = Noise(math.fsum(site), len(site)).variance(1.0, NOISE_FLOCKS)
        return math.sqrt(Noise(math.fsum(own), len(own)).variance(of_site, NOISE_OWN_FLOCKS))

    def _house(self, house: str) -> _HouseKnown:
        known = self._houses.get(house)
        if known is None:
            known = self._houses[house] = _HouseKnown()
            level = self._told.get(house, {}).get("weight_bias")
            if level is not None:
                known.level.value, known.level.variance = level - SITE.mean, TOLD_SD**2
        return known


def off_of(fit: FitFlock) -> float | None:
    """Return the mean square of a flock's errors in the sd that the model's own bands stand for; None if none is known.

    It is 1 where bands hold what they say. The days before one slaughter are one witness, not many.
    """
    if fit.truth_g is None or not fit.scores:
        return None
    squares = []
    for score in fit.scores:
        off = fit.truth_g - score.p50
        half = (score.p90 - score.p50 if off > 0 else score.p50 - score.p10) / score.stretch
        squares.append(min(NORMAL_90 * abs(off) / half, OUTLIER) ** 2 if half > 0 else OUTLIER**2)
    return math.fsum(squares) / len(squares)


def weighing_of(change: FlockChange, days: FarmDays) -> Weighing | None:
    """Return what the end of a flock teaches; None where it says no slaughter weight, or one of no use."""
    flock = change.flock
    if change.action != "end" or flock is None or flock.ended_at is None or not flock.slaughter_weight_g:
        return None
    age = (last_day_of(flock.ended_at, days) - flock.placed_on).days
    if age < 1:
        return None
    curve = float(curve_at(curves_of(strain_of(flock.strain))[0], np.array([float(age)]))[0])
    found = change.detail.get(MEASURED)
    measured = {str(k): float(v) for k, v in found.items()} if isinstance(found, dict) else {}
    return Weighing(change.house, to_ms(flock.ended_at), math.log(flock.slaughter_weight_g / curve), measured)


def last_day_of(ended_at: datetime, days: FarmDays) -> date:
    """Return the farm date on which a flock left; midnight belongs to the day that ended."""
    return days.date_of(ended_at - timedelta(milliseconds=1))


def measured_at_end(window: Window, ended_at: datetime, context: FlockContext) -> dict[str, float]:
    """Return what the instruments showed of a flock that ended, as log ratios to the curve; unknown ones left out."""
    course = window.tensor(COURSE, ended_at, context).values.astype(np.float64)[::-1]  # the day of slaughter first
    weight, feed, water = course.T
    ages = np.clip(context.age_days(np.array([to_ms(ended_at)]))[0] - np.arange(COURSE_DAYS), 0, None)
    found = {
        "scale_error": _middle(weight[slice(*LAST_DAYS)]),
        "scale_error_14d": _middle(weight[slice(*FORTNIGHT_DAYS)]),
        "feed_error": _by_age(feed[1:], ages[1:]),
        "water_error": _by_age(water[1:], ages[1:]),
    }
    return {name: round(value, 5) for name, value in found.items() if math.isfinite(value)}


def _middle(values: NDArray[np.float64]) -> float:
    """Return the median: on some days a scale is far off."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else math.nan


def _by_age(values: NDArray[np.float64], ages: NDArray[np.float64]) -> float:
    """Return the mean weighed by age: a bird eats about in proportion to it, so this is its feed so far."""
    known = np.isfinite(values)
    weights = np.where(known, ages, 0.0)
    if weights.sum() < LEAST_SHARE * ages.sum() or not weights.any():
        return math.nan
    return float((np.where(known, values, 0.0) * weights).sum() / weights.sum())


def _within(value: float, limit: float) -> float:
    return max(-limit, min(value, limit))
