"""The simple forecasts of the live weight, from the scale's daily means alone.

All take ``age`` [n] in days (the table's: a day's mean stands for its noon), ``grams`` [n] without gaps, the breed's
``curve`` by day and the ages ``ahead`` [m] that are asked for, and return grams [m], NaN where they cannot say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from agent.window import curve_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    F64 = NDArray[np.float64]
    Forecast = Callable[[F64, F64, F64, F64], F64]

GOMPERTZ_RATES = np.linspace(0.03, 0.07, 41)  # per day; broilers lie about 0.04 to 0.05, beyond is a bad fit
GOMPERTZ_LEAST_DAYS = 8
ADULT_G = (3_000.0, 9_000.0)  # the asymptote of a broiler strain; beyond is a bad fit
LEVEL_DAYS = 3
KNOT_DAYS, TREND_LEAST_DAYS = 5.0, 5  # where the trend may bend
BEND_SD_G = 20.0  # g/day, by which a slope may well change there: Prophet's prior on bends, for broilers; assumed
HUBER, TREND_ROUNDS = 1.345, 20  # the usual robust weight; a few rounds settle it
LEAST_SCATTER_G = 2.0


def last_weight(_age: F64, grams: F64, _curve: F64, ahead: F64) -> F64:
    """Return the last weight: same as yesterday."""
    return np.full(len(ahead), grams[-1])


def last_weight_and_gain(age: F64, grams: F64, curve: F64, ahead: F64) -> F64:
    """Return the last weight and what the breed gains until then."""
    return np.asarray(grams[-1] + curve_at(curve, ahead) - curve_at(curve, age[-1:]))


def scaled_curve(age: F64, grams: F64, curve: F64, ahead: F64) -> F64:
    """Return the breed's curve, scaled by the mean ratio of the last three days."""
    ratio = grams[-LEVEL_DAYS:] / curve_at(curve, age[-LEVEL_DAYS:])
    return np.asarray(float(ratio.mean()) * curve_at(curve, ahead))


def gompertz(age: F64, grams: F64, _curve: F64, ahead: F64) -> F64:
    """Return a Gompertz curve, W = A exp(-b exp(-k t)), by least squares of log W.

    For each k the fit is linear; the best k of ``GOMPERTZ_RATES`` whose A is that of a broiler is taken.
    """
    if len(age) < GOMPERTZ_LEAST_DAYS:
        return np.full(len(ahead), np.nan)
    x, y = np.exp(-GOMPERTZ_RATES[:, None] * age), np.log(grams)
    centred = x - x.mean(axis=1, keepdims=True)
    slope = centred @ (y - y.mean()) / (centred**2).sum(axis=1)
    level = y.mean() - slope * x.mean(axis=1)
    error = ((y - level[:, None] - slope[:, None] * x) ** 2).sum(axis=1)
    adult = np.exp(np.clip(level, 0, 20))
    error[(adult < ADULT_G[0]) | (adult > ADULT_G[1])] = np.inf
    best = int(error.argmin())
    if not np.isfinite(error[best]):
        return np.full(len(ahead), np.nan)
    return np.asarray(np.exp(level[best] + slope[best] * np.exp(-GOMPERTZ_RATES[best] * ahead)))


def trend(age: F64, grams: F64, _curve: F64, ahead: F64) -> F64:
    """Return a Prophet-like trend: straight lines that may bend every five days, robustly fitted, carried on.

    Least squares with Huber's weights, and a penalty on each bend; no season, as one flock has none.
    """
    if len(age) < TREND_LEAST_DAYS:
        return np.full(len(ahead), np.nan)
    knots = np.arange(age[0] + KNOT_DAYS, age[-1] - KNOT_DAYS / 2, KNOT_DAYS)

    def columns(at: F64) -> F64:
        return np.column_stack((np.ones(len(at)), at, *(np.maximum(at - knot, 0) for knot in knots)))

    design = columns(age)
    bends = np.diag([0.0, 0.0, *np.full(len(knots), 1 / BEND_SD_G**2)])
    weights: F64 = np.ones(len(age))
    fitted: F64 = np.zeros(design.shape[1])
    scatter = LEAST_SCATTER_G
    for _ in range(TREND_ROUNDS):
        weighted = design * weights[:, None]
        fitted = np.asarray(np.linalg.solve(design.T @ weighted + scatter**2 * bends, weighted.T @ grams), np.float64)
        off = np.abs(grams - design @ fitted)
        scatter = max(1.4826 * float(np.median(off)), LEAST_SCATTER_G)
        weights = np.asarray(np.minimum(1.0, HUBER * scatter / np.maximum(off, 1e-9)))
    return np.asarray(columns(ahead) @ fitted)


FORECASTS: dict[str, Forecast] = {
    "same as yesterday": last_weight,
    "last weight + breed gain": last_weight_and_gain,
    "scaled breed curve": scaled_curve,
    "Gompertz fit": gompertz,
    "Prophet-like trend": trend,
}
