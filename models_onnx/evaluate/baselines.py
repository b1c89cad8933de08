"""The simple forecasts that a model must beat, made from the same tensors that the model gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from agent.strains import COBB_500, ROSS_308
from agent.window import curve_at, curves_of
from models_onnx.train import weight

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models_onnx.train.data import Samples

    F64 = NDArray[np.float64]

GOMPERTZ_RATES = np.linspace(0.03, 0.07, 21)  # per day; broilers lie about 0.04 to 0.05, beyond is a bad fit
GOMPERTZ_LEAST_DAYS = 8
ADULT_G = (3_000.0, 9_000.0)  # the asymptote of a broiler strain; beyond is a bad fit


def curve_of(samples: Samples, age_days: F64) -> F64:
    """Return the breed's weight at ages [n, k] (from midnight of the placement day), by each flock's strain."""
    is_cobb = samples.tensors["facts"][:, weight.COBB, None] > 0.5
    ross, cobb = (curve_at(curves_of(strain)[0], age_days - 0.5) for strain in (ROSS_308, COBB_500))
    return np.where(is_cobb, cobb, ross)


def ages_ahead(samples: Samples) -> F64:
    """Return the flock's age at each horizon, [n, horizons]: noon of the farm day in question."""
    facts = samples.tensors["facts"].astype(np.float64)
    to_noon = np.array(weight.HORIZON_DAYS) + 0.5 - facts[:, weight.FRACTION, None]
    ahead = np.concatenate((facts[:, weight.TO_SLAUGHTER, None] + 0.5, to_noon), axis=1)
    return np.asarray(facts[:, weight.AGE, None] + ahead)


def _row_ages(samples: Samples) -> F64:
    """Return the age in the middle of each row of the course, [n, rows]; today's until now."""
    facts = samples.tensors["facts"].astype(np.float64)
    age, fraction = facts[:, weight.AGE], facts[:, weight.FRACTION]
    back = np.arange(weight.LENGTH - 1, -1, -1)
    middle = (age - fraction)[:, None] - back + 0.5
    is_midnight = fraction == 0  # then the last row is the day that ended
    middle[is_midnight] -= 1
    middle[~is_midnight, -1] = (age - fraction / 2)[~is_midnight]
    return np.asarray(middle)


def scale_of(samples: Samples) -> F64:
    """Return what the scale showed on each day of the course, in g, [n, rows]; NaN where nothing."""
    ratio = np.exp(samples.tensors["course"][:, :, weight.WEIGHT].astype(np.float64))
    is_cobb = samples.tensors["facts"][:, weight.COBB, None] > 0.5
    ages = _row_ages(samples)
    # the agent's own reference counts the age from midnight, without the half day until the chicks come
    ross, cobb = (curve_at(curves_of(strain)[0], ages) for strain in (ROSS_308, COBB_500))
    return np.asarray(ratio * np.where(is_cobb, cobb, ross))


def _last(values: F64) -> tuple[F64, NDArray[np.intp]]:
    """Return the last number of each row, and where it stands."""
    where = values.shape[1] - 1 - np.isfinite(values)[:, ::-1].argmax(axis=1)
    return np.take_along_axis(values, where[:, None], axis=1)[:, 0], where


def last_weight(samples: Samples) -> F64:
    """Return the last weight that the scale showed, for every horizon: same as yesterday."""
    last, _ = _last(scale_of(samples))
    return np.repeat(last[:, None], len(weight.HORIZONS), axis=1)


def last_weight_and_gain(samples: Samples) -> F64:
    """Return the last weight and what the breed gains until then."""
    last, where = _last(scale_of(samples))
    age = np.take_along_axis(_row_ages(samples), where[:, None], axis=1)
    return np.asarray(last[:, None] + curve_of(samples, ages_ahead(samples)) - curve_of(samples, age))


def scaled_curve(samples: Samples) -> F64:
    """Return the breed's curve, scaled by the mean ratio of the last three days that the scale showed."""
    ratios = scale_of(samples) / curve_of(samples, _row_ages(samples))
    known = np.isfinite(ratios)
    newest = known & (np.cumsum(known[:, ::-1], axis=1)[:, ::-1] <= 3)
    total = np.where(newest, ratios, 0).sum(axis=1) / np.where(newest.any(axis=1), newest.sum(axis=1), np.nan)
    return np.asarray(total[:, None] * curve_of(samples, ages_ahead(samples)))


def gompertz(samples: Samples) -> F64:
    """Return a Gompertz curve, W = A exp(-b exp(-k t)), fitted to the scale's days by least squares of log W.

    For each k the fit is linear; the best k of ``GOMPERTZ_RATES`` whose A is that of a broiler is taken. NaN where
    fewer than eight days are known or no k will do.
    """
    log_weight, ages = np.log(scale_of(samples)), _row_ages(samples)
    known = np.isfinite(log_weight)
    y = np.where(known, log_weight, 0.0)
    n = known.sum(axis=1)
    best_error = np.full(len(y), np.inf)
    best = np.full((len(y), 3), np.nan)
    for k in GOMPERTZ_RATES:
        x = np.where(known, np.exp(-k * ages), 0.0)
        sx, sy, sxx, sxy = x.sum(axis=1), y.sum(axis=1), (x * x).sum(axis=1), (x * y).sum(axis=1)
        slope = (n * sxy - sx * sy) / np.where(n * sxx - sx * sx > 0, n * sxx - sx * sx, np.nan)
        level = (sy - slope * sx) / np.maximum(n, 1)
        error = np.where(known, (y - level[:, None] - slope[:, None] * x) ** 2, 0).sum(axis=1)
        adult = np.exp(np.clip(level, 0, 20))
        better = (error < best_error) & (adult > ADULT_G[0]) & (adult < ADULT_G[1]) & (n >= GOMPERTZ_LEAST_DAYS)
        best_error = np.where(better, error, best_error)
        best[better] = np.stack((level, slope, np.full(len(y), k)), axis=1)[better]
    level, slope, rate = best.T[:, :, None]
    return np.asarray(np.exp(level + slope * np.exp(-rate * ages_ahead(samples))))


WEIGHT_BASELINES = {
    "same as yesterday": last_weight,
    "last weight + breed gain": last_weight_and_gain,
    "scaled breed curve": scaled_curve,
    "Gompertz fit": gompertz,
}
