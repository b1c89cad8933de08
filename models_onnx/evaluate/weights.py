"""How far predictions of the live weight are off, ours and the simple ones, at the same instants of the same flocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent.strains import strain_of
from agent.window import curves_of
from models_onnx.evaluate.baselines.daily import days_of
from models_onnx.evaluate.baselines.weight import FORECASTS
from models_onnx.farm.farm import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from models_onnx.evaluate.baselines.daily import Days
    from models_onnx.evaluate.play import Played, Predicted
    from models_onnx.evaluate.record import HouseRecord
    from models_onnx.farm.farm import FlockTruth

FROM_AGE = 10  # days; before, nobody asks for a weight
BEFORE_SLAUGHTER = (2, 5, 7, 14)  # days at which the slaughter weight is scored


@dataclass(frozen=True, slots=True)
class Weighed:
    """One prediction; errors in % of the true weight."""

    farm: str
    case: str  # "in 2 d", or "slaughter, 2 d before"
    flock_number: int  # in its house: the first one knows no earlier ones
    error: float
    truth_g: float
    inside: bool  # between p10 and p90
    pinball: float  # mean over the three quantiles, % of the truth
    simple: dict[str, float]  # the absolute errors of the simple forecasts; NaN where one cannot say


def weighed_of(record: HouseRecord, played: Played) -> Iterator[Weighed]:
    """Yield what is scored of one house: each morning's predictions, held against the truth."""
    by_flock = {days.begin_ms: days for days in days_of(record)}
    for number, flock in enumerate(sorted(record.flocks, key=lambda flock: flock.placed_ms)):
        begin_ms = flock.placed_ms // DAY_MS * DAY_MS
        days = by_flock.get(begin_ms)
        if days is None:
            continue
        for made in played.predictions:
            if not flock.placed_ms < made.made_ms < flock.end_ms:
                continue
            age = (made.made_ms - begin_ms) // DAY_MS
            found = _case(record, flock, made, age)
            if found is None:
                continue
            case, truth_g, target = found
            off = np.array((made.p10, made.p50, made.p90)) - truth_g
            yield Weighed(
                record.farm,
                case,
                number,
                abs(float(off[1])) / truth_g * 100,
                truth_g,
                made.p10 <= truth_g <= made.p90,
                float(np.mean(np.maximum(np.array((0.9, 0.5, 0.1)) * off, np.array((-0.1, -0.5, -0.9)) * off)))
                / truth_g
                * 100,
                {name: abs(g / truth_g - 1) * 100 for name, g in _simple(days, flock, age, target).items()},
            )


def _case(record: HouseRecord, flock: FlockTruth, made: Predicted, age: int) -> tuple[str, float, int] | None:
    """Return the case, the truth and the age at which it is true; None where it is not scored."""
    if made.horizon == "slaughter":
        before = (flock.planned_end_on - flock.placed_on).days - age
        if before not in BEFORE_SLAUGHTER or flock.slaughter_weight_g is None:
            return None
        return f"slaughter, {before} d before", flock.slaughter_weight_g, age + before
    ahead = round((made.target_ms - made.made_ms) / DAY_MS)
    then = (made.target_ms - record.begin_ms) // DAY_MS
    if age < FROM_AGE or then >= len(record.true_weight_g) or made.target_ms >= flock.end_ms:
        return None
    truth_g = float(record.true_weight_g[then])
    return (f"in {ahead} d", truth_g, age + ahead) if np.isfinite(truth_g) else None


def _simple(days: Days, flock: FlockTruth, age: int, target: int) -> dict[str, float]:
    """Return what the simple forecasts say on the morning of day ``age`` of the weight on day ``target``."""
    grams = days.weight[:age]
    known = np.flatnonzero(np.isfinite(grams) & (grams > 0))
    if not len(known):
        return dict.fromkeys(FORECASTS, float("nan"))
    curve = curves_of(strain_of(flock.strain))[0]
    at, weights, ahead = known.astype(np.float64), grams[known], np.array([float(target)])
    return {name: float(forecast(at, weights, curve, ahead)[0]) for name, forecast in FORECASTS.items()}
