"""Readings at a lower resolution: what is left of them where there is no room for all. Pure.

One row for each series, step of time and quality holds their number, mean, least, greatest and sum. The qualities are
kept apart, so that what a broken sensor said never mixes with what may be believed, and nothing that was counted is
lost: the sums of an increment over its rollups are the sum over its readings (to the precision of a double). Rows of
one step may be made at several times, of readings that came late: who wants the step adds ``n`` and ``sum``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Longs = NDArray[np.int64]
    Doubles = NDArray[np.float64]

STEPS_MS = {"readings_1min": 60_000, "readings_15min": 900_000}
"""The streams of rollups, the finer first, and how long their steps are."""


@dataclass(frozen=True, slots=True)
class Rollup:
    """``n`` rows in columns of length ``n``; ``series`` and ``quality`` are whatever numbers the caller uses."""

    series: Longs
    quality: Longs
    at_ms: Longs  # the start of the step
    n: Longs
    min: Doubles
    max: Doubles
    sum: Doubles
    seq: Longs  # the greatest row number of what went into it

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.at_ms)

    @property
    def mean(self) -> Doubles:
        """The mean of each row."""
        return self.sum / self.n


def of_readings(series: Longs, quality: Longs, at_ms: Longs, value: Doubles, seq: Longs) -> Rollup:
    """Return readings as if each were a step of its own; ``coarser`` makes true steps of them."""
    return Rollup(series, quality, at_ms, np.ones(len(at_ms), np.int64), value, value, value, seq)


def joined(parts: list[Rollup]) -> Rollup:
    """Return the rows of some rollups as one; their series must be numbered alike."""
    return Rollup(*(np.concatenate([getattr(part, name) for part in parts]) for name in Rollup.__slots__))


def coarser(rollup: Rollup, step_ms: int) -> Rollup:
    """Return the rows put together into steps of ``step_ms``, in order of series, quality and time."""
    if len(rollup) == 0:
        return rollup
    step = rollup.at_ms // step_ms
    order = np.lexsort((step, rollup.quality, rollup.series))
    series, quality, step = rollup.series[order], rollup.quality[order], step[order]
    begins = np.flatnonzero(np.r_[True, (np.diff(series) != 0) | (np.diff(quality) != 0) | (np.diff(step) != 0)])
    return Rollup(
        series[begins],
        quality[begins],
        step[begins] * step_ms,
        np.add.reduceat(rollup.n[order], begins),
        np.minimum.reduceat(rollup.min[order], begins),
        np.maximum.reduceat(rollup.max[order], begins),
        np.add.reduceat(rollup.sum[order], begins),
        np.maximum.reduceat(rollup.seq[order], begins),
    )
