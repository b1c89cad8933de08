"""How wide a band must be in this house: each side of it learns that from what is measured. Pure.

A model's p10 and p90 are those of the farms of its training. Where birds, buildings or meters differ, they hold less
than eight of ten, or more, and every limit counted in half bands is off by as much. So each side's half band (p50 less
p10, p90 less p50) of each output is stretched by a factor of the house, which starts at 1. At each instant at which the
output is judged, the logarithm of the factor moves by ``rate * (outside - 0.1)``: outside is 1 where the measurement
lies beyond the side as it was stretched so far, else 0. It rests where a tenth lies beyond, whatever the measurements
do (a little below, for what is far out is left aside), and that is all that p10 and p90 promise: adaptive conformal
inference (Gibbs and Candès, arXiv:2106.00170), as quantile tracking (Angelopoulos and others, arXiv:2307.16895), here
on the factor's logarithm, as the half bands of one output differ tenfold from chick to broiler, and from noon to night.

Our judgement are the rates, the bounds and what is far. A fault must not be learnt away before it is told:

- what lies ``FAR`` half bands out or more, as they are by then, teaches nothing: it may be on its way to a warning, and
  a house that cools by half a half band an hour would else widen its band as fast as it cools, and never be told;
- nothing is learnt while a warning of the rule is on its way or stands, nor where the rule does not apply, nor where
  nobody can say (``HouseWatch`` sees to that);
- a deviation is judged every ten minutes: an hour that lies wholly outside moves its side by 8 %, and a band that must
  be half as wide again is found within a few days;
- a trend is judged every hour, and what it looks for creeps in over days: a day wholly outside moves its side by 9 %;
- no side becomes narrower than ``NARROWEST`` or wider than ``WIDEST`` times the model's own: what lies three times its
  limit out of that is told in any house.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]

BEYOND = 0.1  # of what is measured, on each side of p10 to p90
RATE = {"deviation": 0.014, "trend": 0.004}
"""By kind of rule, for each instant at which it is judged: ten minutes, an hour."""
NARROWEST, WIDEST = 0.6, 3.0
FAR = 2.5


def stretched(
    low: float | F64, middle: float | F64, high: float | F64, stretch: tuple[float | F64, float | F64]
) -> tuple[F64, F64]:
    """Return p10 and p90 as they are in this house; ``stretch`` are the factors below and above p50.

    What the model does not hold for negative, as an amount, does not become so.
    """
    below, above = stretch
    lowest = np.where(np.asarray(low) >= 0, 0.0, -np.inf)
    return np.maximum(middle - below * (middle - low), lowest), np.asarray(middle + above * (high - middle))


def learnt(
    stretch: tuple[float | F64, float | F64],
    actual: float | F64,
    low: float | F64,
    middle: float | F64,
    high: float | F64,
    rate: float | F64,
) -> tuple[F64, F64]:
    """Return the factors after ``actual`` was held against a band that they had stretched to ``low`` and ``high``."""
    below, above = stretch
    off = np.asarray(actual - middle)
    taught = np.where((off > FAR * (low - middle)) & (off < FAR * (high - middle)), rate, 0.0)
    return _moved(below, np.asarray(actual < low), taught), _moved(above, np.asarray(actual > high), taught)


def _moved(factor: float | F64, is_outside: NDArray[np.bool_], rate: F64) -> F64:
    step = rate * (is_outside - BEYOND)
    return np.asarray(np.minimum(np.maximum(factor * np.exp(step), NARROWEST), WIDEST))
