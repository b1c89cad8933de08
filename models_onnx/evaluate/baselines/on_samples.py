"""The simple weight forecasts at the instants of samples: the scale's days are read from the tensors."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from agent.strains import COBB_500, ROSS_308
from agent.window import curve_at, curves_of
from models_onnx.evaluate.baselines.weight import FORECASTS
from models_onnx.train import weight

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from models_onnx.evaluate.baselines.weight import Forecast
    from models_onnx.train.data import Samples

    F64 = NDArray[np.float64]


def at_samples(samples: Samples, forecast: Forecast) -> F64:
    """Return what a forecast says at each instant for each horizon of ``weight``, g [n, horizons]."""
    facts = samples.tensors["facts"].astype(np.float64)
    is_cobb = facts[:, weight.COBB] > 0.5
    curves = [curves_of(strain)[0] for strain in (ROSS_308, COBB_500)]
    ages = _row_ages(facts)
    # the agent's own reference counts the age from midnight, without the half day until the chicks come
    ratio = np.exp(samples.tensors["course"][:, :, weight.WEIGHT].astype(np.float64))
    ahead = _ages_ahead(facts) - 0.5  # a table's day is the noon
    found = np.full(ahead.shape, np.nan)
    for row in range(len(facts)):
        curve = curves[int(is_cobb[row])]
        grams = ratio[row] * curve_at(curve, ages[row])
        known = np.isfinite(grams)
        if known.any():
            found[row] = forecast(ages[row][known] - 0.5, grams[known], curve, ahead[row])
    return found


def _ages_ahead(facts: F64) -> F64:
    """Return the flock's age at each horizon, [n, horizons]: noon of the farm day in question."""
    to_noon = np.array(weight.HORIZON_DAYS) + 0.5 - facts[:, weight.FRACTION, None]
    ahead = np.concatenate((facts[:, weight.TO_SLAUGHTER, None] + 0.5, to_noon), axis=1)
    return np.asarray(facts[:, weight.AGE, None] + ahead)


def _row_ages(facts: F64) -> F64:
    """Return the age in the middle of each row of the course, [n, rows]; today's until now."""
    age, fraction = facts[:, weight.AGE], facts[:, weight.FRACTION]
    back = np.arange(weight.LENGTH - 1, -1, -1)
    middle = (age - fraction)[:, None] - back + 0.5
    is_midnight = fraction == 0  # then the last row is the day that ended
    middle[is_midnight] -= 1
    middle[~is_midnight, -1] = (age - fraction / 2)[~is_midnight]
    return np.asarray(middle)


WEIGHT_BASELINES: dict[str, Callable[[Samples], F64]] = {
    name: partial(at_samples, forecast=forecast) for name, forecast in FORECASTS.items()
}
