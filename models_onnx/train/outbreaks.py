"""What an outbreak of deaths is, when it is found, what is a false alarm: the definitions are F1 of docs/sources.md.

An outbreak is a day from age 8 on with at least 0.30 % dead and at least three times the median of the seven days
before; such days at most 5 apart are one outbreak, whose first day counts. An alarm in the 7 days up to and including
that day finds it; alarms not within 7 days of any outbreak's first day are false, and one episode where at most 3 days
apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    F64 = NDArray[np.float64]
    Bools = NDArray[np.bool_]

FIRST_AGE = 8
LEAST_SHARE = 0.003
LEAST_FACTOR = 3.0
ONE_OUTBREAK_DAYS = 5
FINDS_DAYS = 7
ONE_EPISODE_DAYS = 3
MEDIAN_DAYS = 7
MEDIAN_LEAST = 3  # known days; fewer are no course, as in the agent


@dataclass(frozen=True, slots=True)
class Score:
    """How good alarms are."""

    flocks: int
    outbreaks: int
    found: int
    leads: NDArray[np.int64]  # days, of those found
    false_episodes: int

    @property
    def false_per_flock(self) -> float:
        """False episodes per flock."""
        return self.false_episodes / max(self.flocks, 1)

    @property
    def lead_days(self) -> float:
        """Median lead of the outbreaks that were found, in days; NaN where there was none."""
        return float(np.median(self.leads)) if len(self.leads) else float("nan")

    def share_ahead(self, days: int) -> float:
        """Return the share of all outbreaks that were found at least so many days ahead."""
        return float((self.leads >= days).sum()) / max(self.outbreaks, 1)

    def __str__(self) -> str:
        """Return the figures on one line."""
        return f"{self.found}/{self.outbreaks} found, lead {self.lead_days:g} d, {self.false_per_flock:.2f} false"


def trailing_median(share: F64) -> F64:
    """Return the median of the seven days before each day, [flocks, days]; NaN where fewer than three are known."""
    n, days = share.shape
    padded = np.concatenate((np.full((n, MEDIAN_DAYS), np.nan), share), axis=1)
    before = np.lib.stride_tricks.sliding_window_view(padded, MEDIAN_DAYS, axis=1)[:, :days]
    ordered = np.sort(before, axis=2)  # NaN last
    known = np.isfinite(before).sum(axis=2)
    low = np.take_along_axis(ordered, np.maximum((known - 1) // 2, 0)[..., None], axis=2)[..., 0]
    high = np.take_along_axis(ordered, np.minimum(known // 2, MEDIAN_DAYS - 1)[..., None], axis=2)[..., 0]
    return np.where(known >= MEDIAN_LEAST, (low + high) / 2, np.nan)


def rule(share: F64, least_share: float, factor: float) -> Bools:
    """Return the days from age 8 on with at least that share and that factor on the trailing median."""
    with np.errstate(invalid="ignore"):
        found = (share >= least_share) & ((share >= factor * trailing_median(share)) if factor > 0 else True)
    found[:, :FIRST_AGE] = False
    return np.asarray(found)


def first_days(share: F64) -> Bools:
    """Return the first days of the outbreaks, [flocks, days]."""
    return _starts(rule(share, LEAST_SHARE, LEAST_FACTOR), ONE_OUTBREAK_DAYS)


def judged(alarms: Bools, firsts: Bools) -> Score:
    """Return how good ``alarms`` [flocks, days] are against the outbreaks' first days."""
    flock, day = np.nonzero(firsts)
    lead = np.full(len(flock), -1)
    for back in range(FINDS_DAYS + 1):
        lead[(day >= back) & alarms[flock, np.maximum(day - back, 0)]] = back
    found = lead >= 0
    episodes = _starts(alarms & ~near(firsts), ONE_EPISODE_DAYS)
    return Score(len(firsts), len(flock), int(found.sum()), lead[found], int(episodes.sum()))


def near(firsts: Bools) -> Bools:
    """Return the days within 7 days of an outbreak's first day: an alarm there is not false."""
    days = firsts.shape[1]
    found = np.zeros_like(firsts)
    for off in range(FINDS_DAYS + 1):
        found[:, : days - off] |= firsts[:, off:]
        found[:, off:] |= firsts[:, : days - off]
    return found


def joined(scores: Iterable[Score]) -> Score:
    """Return the score of all flocks together."""
    every = list(scores)
    return Score(
        sum(s.flocks for s in every),
        sum(s.outbreaks for s in every),
        sum(s.found for s in every),
        np.concatenate([s.leads for s in every]),
        sum(s.false_episodes for s in every),
    )


def _starts(days: Bools, apart: int) -> Bools:
    """Return those of the days before which there is none within ``apart`` days."""
    recent = np.zeros_like(days)
    for back in range(1, apart + 1):
        recent[:, back:] |= days[:, :-back]
    return np.asarray(days & ~recent)
