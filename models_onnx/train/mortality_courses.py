"""Simulated courses of daily losses: what farmers write down of flocks that are well, sick, or counted carelessly.

Only the counts, and fast: what the ``mortality`` model learns from. A *population* is what a set of flocks has in
common: their usual level, how it wanders, how often disease comes and how bad, how the rounds are kept. Populations
are drawn from ``WIDE`` ranges, because the noise of a farm is not known beforehand, and from ``COMMERCIAL`` ones: the
part of the wide ranges in which the simple rules of [F1] find about as many outbreaks, as early and with as many false
alarms as they did on 48 commercial flocks. Those published figures, never the flocks, chose these ranges. The range
set ``test`` is wider, and its diseases have another shape.

Sources, with the numbers of docs/sources.md: the pattern by age [S64], its sum [S42, S63], outbreaks [F1]. All other
ranges of ``WIDE`` are assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from models_onnx.farm.params import Range, draw, generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from models_onnx.farm.params import RangeSet

    F64 = NDArray[np.float64]
    Bools = NDArray[np.bool_]

DAYS = 62
"""Farm days of a course; row d is the day on which the flock is d days old, NaN after its end."""

# against the plateau of days 10 to 30: peak on days 3 to 4, low from day 9, slowly up from 30, then faster [S64]
_PATTERN_DAYS = (0, 1, 2, 3, 4, 5, 6, 7, 9.5, 30, 45, 56, 70)
_PATTERN = (2.0, 3.0, 4.0, 5.0, 4.8, 3.4, 2.4, 1.8, 1.0, 1.0, 2.2, 4.0, 7.0)

WIDE: Mapping[str, Range] = {
    "level": Range(-7.9, -6.7, (-8.2, -6.5)),  # log of the plateau, 0.04 to 0.12 % a day: 2 to 6 % in all [S42]
    "level_sd": Range(0.3, 0.8, (0.2, 0.9)),  # between flocks
    "late": Range(0.2, 1.3, (0.0, 1.6)),  # power of the rise after day 30
    "late_sd": Range(0.1, 0.8),
    "first_week_sd": Range(0.2, 0.6),
    "wander_sd": Range(0.05, 0.5, (0.0, 0.6)),  # slow, of days to weeks
    "wander_days": Range(2.0, 10.0, (1.5, 14.0)),
    "uneven": Range(0.02, 0.5, (0.0, 0.65)),  # spread of single days beyond chance
    "differ": Range(0.2, 1.0, (0.0, 1.2)),  # log sd between flocks of wander, unevenness, sickness and care of rounds
    "rounds": Range(0.0, 0.4, (0.0, 0.5)),  # share of a day's dead found only next day: the hour of the round varies
    "skipped": Range(0.0, 0.08, (0.0, 0.12)),  # rounds left out, their dead counted next day
    "weekends": Range(0.0, 0.5, (0.0, 0.7)),  # flocks whose Sunday's round is quick, or left out
    "blank": Range(0.0, 0.05, (0.0, 0.1)),  # days of which nothing is told though the round was made
    "culling": Range(0.0, 0.3, (0.0, 0.5)),  # flocks culled every two to seven days
    "corrected": Range(0.0, 0.01, (0.0, 0.02)),  # typing errors, put right by a negative count next day
    "placed_wrong": Range(0.0, 0.15),  # sd of the log of the count of birds placed, in a third of the flocks
    "sick": Range(0.2, 2.5, (0.1, 3.0)),  # diseases a flock
    "peak": Range(-7.0, -5.3, (-7.2, -5.0)),  # log of the middle peak, 0.09 to 0.5 % a day
    "peak_sd": Range(0.4, 1.1, (0.3, 1.3)),
    "sudden": Range(0.2, 0.9, (0.1, 1.0)),  # share of them that peak within four days, the others within two weeks
    "spikes": Range(0.0, 0.5, (0.0, 0.8)),  # single bad days a flock: heat, smothering, a fan
    "spike": Range(-6.8, -5.0),  # log of their middle size
    "chronic": Range(0.0, 0.35, (0.0, 0.45)),  # flocks whose level rises and stays
}

# [F1]: 19 outbreaks in 48 flocks; at least 0.15 % found them 2 days ahead with 1.10 false episodes a flock, 0.30 % on
# the day with 0.69, twice the median 2 days with 1.19; the best two-parameter rules 1 day with 0.46, 2 days with 1.04.
# The ranges span the solutions that a random search found for these figures.
COMMERCIAL: Mapping[str, Range] = {
    **WIDE,
    "level": Range(-7.7, -7.35),
    "level_sd": Range(0.5, 0.76),
    "late": Range(0.25, 0.75),
    "late_sd": Range(0.15, 0.6),
    "first_week_sd": Range(0.3, 0.55),
    "wander_sd": Range(0.05, 0.3),
    "wander_days": Range(4.0, 10.0),
    "uneven": Range(0.02, 0.1),
    "differ": Range(0.55, 1.0),
    "rounds": Range(0.0, 0.15),
    "skipped": Range(0.0, 0.005),
    "weekends": Range(0.0, 0.25),
    "blank": Range(0.0, 0.05),
    "culling": Range(0.0, 0.05),
    "corrected": Range(0.0, 0.003),
    "placed_wrong": Range(0.0, 0.12),
    "sick": Range(0.8, 1.5),
    "peak": Range(-6.3, -5.6),
    "peak_sd": Range(0.7, 1.0),
    "sudden": Range(0.2, 0.5),
    "spikes": Range(0.0, 0.15),
    "spike": Range(-6.6, -5.2),
    "chronic": Range(0.0, 0.18),
}


class Shape(NamedTuple):
    """The physics that differ between range sets: how a disease rises and goes."""

    power: tuple[float, float]  # of the rise: 1 is straight, more begins slowly
    half_life_days: tuple[float, float]
    stays_days: tuple[float, float]
    is_logistic: bool  # else a power


SHAPES: Mapping[RangeSet, Shape] = {
    "train": Shape((0.8, 2.5), (0.7, 5.0), (0.0, 3.0), is_logistic=False),
    "validation": Shape((0.8, 2.5), (0.7, 5.0), (0.0, 3.0), is_logistic=False),
    "test": Shape((1.0, 1.0), (0.5, 8.0), (0.0, 5.0), is_logistic=True),
}


@dataclass(frozen=True, slots=True, eq=False)
class Courses:
    """What was written down of many flocks: arrays [flocks, DAYS] or [flocks]."""

    dead: F64  # told for each farm day; NaN: nothing, or the flock is gone; negative: a correction
    placed: F64  # as told
    length_days: NDArray[np.int64]

    @property
    def live(self) -> F64:
        """Birds alive at each day's end by the farmer's own count, [flocks, DAYS]."""
        return np.asarray(self.placed[:, None] - np.cumsum(np.nan_to_num(self.dead), axis=1))

    @property
    def share(self) -> F64:
        """Share of the living birds lost on each day, NaN where not told."""
        return self.dead / np.maximum(self.live, 1)


@dataclass(frozen=True, slots=True)
class Sample:
    """Flocks of so many populations."""

    table: Mapping[str, Range]
    ranges: RangeSet
    populations: int
    flocks: int  # of each
    seed: int

    def __iter__(self) -> Iterator[Courses]:
        """Yield the courses of one population after the other."""
        for number in range(self.populations):
            rng = generator(self.seed, self.ranges, number)
            yield courses(draw(self.table, self.ranges, rng), self.ranges, self.flocks, rng)


def courses(people: Mapping[str, float], ranges: RangeSet, flocks: int, rng: np.random.Generator) -> Courses:
    """Return the courses of ``flocks`` flocks of a population with the parameters ``people``."""
    n, day = flocks, np.arange(DAYS)
    length = rng.integers(31, DAYS, n)
    placed = np.exp(rng.uniform(np.log(5_000), np.log(50_000), n)).round()
    rate = _usual(people, n, rng) + _diseases(people, SHAPES[ranges], length, rng)
    variance = np.minimum(people["uneven"] * _differing(people, n, rng), 1.0) ** 2 + 1e-4
    rate = rate * rng.gamma(1 / variance, variance, (n, DAYS)) + _spikes(people, n, rng)
    alive, dead = placed.copy(), np.zeros((n, DAYS))
    for d in range(DAYS):
        dead[:, d] = rng.binomial(alive.astype(np.int64), -np.expm1(-rate[:, d]))
        alive -= dead[:, d]
    dead = _written(people, dead, placed, rng)
    dead[day >= length[:, None]] = np.nan
    wrong = np.exp(people["placed_wrong"] * rng.standard_normal(n) * (rng.random(n) < 1 / 3))
    return Courses(dead, np.maximum((placed * wrong).round(), placed * 0.7), length)


def _differing(people: Mapping[str, float], n: int, rng: np.random.Generator) -> F64:
    """Return a factor for each flock with mean 1, [flocks, 1]."""
    return np.exp(people["differ"] * rng.standard_normal((n, 1)) - people["differ"] ** 2 / 2)


def _usual(people: Mapping[str, float], n: int, rng: np.random.Generator) -> F64:
    """Return the daily rate of flocks without disease."""
    day = np.arange(DAYS)
    pattern = np.log(np.interp(day + 0.5, _PATTERN_DAYS, _PATTERN))
    late = np.maximum(people["late"] + people["late_sd"] * rng.standard_normal((n, 1)), -0.5)
    first = 1 + people["first_week_sd"] * rng.standard_normal((n, 1))
    level = people["level"] + people["level_sd"] * rng.standard_normal((n, 1))
    keep = np.exp(-1 / people["wander_days"])
    steps = rng.standard_normal((n, DAYS)) * people["wander_sd"]
    steps *= np.minimum(_differing(people, n, rng), 3.0)
    wander = np.empty((n, DAYS))
    wander[:, 0] = steps[:, 0]
    for d in range(1, DAYS):
        wander[:, d] = keep * wander[:, d - 1] + np.sqrt(1 - keep**2) * steps[:, d]
    rise = np.where(day > 20, late, first) * pattern
    begins = rng.integers(10, 45, (n, 1))
    top = np.log(rng.uniform(2, 8, (n, 1))) * (rng.random((n, 1)) < people["chronic"])
    chronic = top * np.clip((day - begins) / rng.uniform(4, 20, (n, 1)), 0, 1)
    return np.asarray(np.exp(level + rise + wander + chronic))


def _diseases(people: Mapping[str, float], shape: Shape, length: NDArray[np.int64], rng: np.random.Generator) -> F64:
    """Return what diseases add to the daily rate."""
    n, day = len(length), np.arange(DAYS)
    added = np.zeros((n, DAYS))
    count = rng.poisson(people["sick"] * _differing(people, n, rng)[:, 0])
    for nth in range(int(count.max(initial=0))):
        has = count > nth
        begins = rng.uniform(5, length)[:, None]
        peak = np.exp(people["peak"] + people["peak_sd"] * rng.standard_normal((n, 1)))
        is_sudden = rng.random((n, 1)) < people["sudden"]
        rise = np.where(is_sudden, rng.uniform(0.5, 4, (n, 1)), rng.uniform(4, 14, (n, 1)))
        stays = rng.uniform(*shape.stays_days, (n, 1))
        half = rng.uniform(*shape.half_life_days, (n, 1))
        since = day + 0.5 - begins
        if shape.is_logistic:
            up = 1 / (1 + np.exp(-np.clip(8 * (since / rise - 0.5), -30, 30)))
        else:
            up = np.clip(since / rise, 0, 1) ** rng.uniform(*shape.power, (n, 1))
        down = 0.5 ** (np.maximum(since - rise - stays, 0) / half)
        added += has[:, None] * peak * up * down
    return added


def _spikes(people: Mapping[str, float], n: int, rng: np.random.Generator) -> F64:
    """Return single bad days."""
    hit = rng.random((n, DAYS)) < people["spikes"] / 40 * _differing(people, n, rng)
    return np.where(hit, np.exp(people["spike"] + 0.7 * rng.standard_normal((n, DAYS))), 0.0)


def _written(people: Mapping[str, float], dead: F64, placed: F64, rng: np.random.Generator) -> F64:
    """Return what is told of the dead: by rounds that vary, left out, culled on set days, mistyped, corrected."""
    n = len(dead)
    care = _differing(people, n, rng)
    later = np.floor(dead * rng.uniform(0, np.minimum(people["rounds"] * care, 1.0), (n, DAYS)))
    found = dead - later
    found[:, 1:] += later[:, :-1]
    weekday = (np.arange(DAYS) + rng.integers(0, 7, (n, 1))) % 7
    between = rng.integers(2, 8, (n, 1))
    is_culling = (np.arange(DAYS) + rng.integers(0, 7, (n, 1))) % between == 0
    culls = (rng.random((n, 1)) < people["culling"]) * rng.uniform(0.0, 0.0003, (n, 1)) * between * placed[:, None]
    found += rng.poisson(culls * is_culling)
    left_out = rng.random((n, DAYS)) < people["skipped"] * care
    quick = (weekday == 0) & (rng.random((n, 1)) < people["weekends"]) & (rng.random((n, DAYS)) < 0.8)
    lying = np.where(quick, rng.uniform(0, 1.3, (n, 1)), 0.0)
    left_out |= lying >= 1
    lying = np.where(left_out, 1.0, lying)
    lying[:, -1], left_out[:, -1] = 0.0, False
    for d in range(DAYS - 1):
        moved = np.floor(found[:, d] * lying[:, d])
        found[:, d] -= moved
        found[:, d + 1] += moved
    is_zero = rng.random((n, 1)) < 0.5  # who leaves a round out tells nothing, or nought
    told = np.where(left_out & ~is_zero, np.nan, found)
    told[rng.random((n, DAYS)) < people["blank"] * care] = np.nan
    mistyped = (rng.random((n, DAYS)) < people["corrected"]) * rng.uniform(0.001, 0.004, (n, DAYS)) * placed[:, None]
    mistyped = mistyped.round()
    told += mistyped
    told[:, 1:] -= mistyped[:, :-1]
    return told
