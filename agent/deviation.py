"""How one measurement is held against one expectation. Pure; the same for the agent and for training.

Where it counts, it takes numbers or arrays that broadcast, and returns arrays (of no dimension for numbers).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from agent.manifest import Judge, horizon_s

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from agent.manifest import Feature, Output

    F64 = NDArray[np.float64]
    Flags = NDArray[np.bool_]

FAST = timedelta(hours=6)
"""An expectation over less than this is judged as a deviation, over more as a trend."""

STOPPED, CERTAIN = 0.45, 0.7
"""A flow has stopped if less than this share of p50 flows where p10 is at least that share of it. Our judgement, tried
on simulated flocks (validation, rough ones among them): a water line shut by 70 to 100 % was told 50 to 70 minutes
after, on day 4 too, where it had taken 80 or was not told; three false warnings more in 292 house-days, of water and
feed together."""

DEFAULT_JUDGE = Judge(low=3.0, high=3.0)
"""In half bands; a manifest that was calibrated says its own."""

_SMALLEST_HALF_BAND = 1e-9
_TOLD = {0.1, 0.5, 0.9}  # the quantiles that expectations and predictions are told by


def is_told(output: Output) -> bool:
    """Tell whether an output is told as a prediction or an expectation: by these three quantiles."""
    return output.meaning == "quantiles" and set(output.quantiles) >= _TOLD


def is_judged(output: Output) -> bool:
    """Tell whether something measured is held against an output."""
    return output.of is not None and is_told(output)


def kind_of_horizon(length_s: int) -> str:
    """Return the kind of the rule that judges an expectation over so long."""
    return "deviation" if timedelta(seconds=length_s) <= FAST else "trend"


def modelled_rules(outputs: Iterable[Output]) -> Iterator[tuple[str, timedelta]]:
    """Yield the rules that the outputs of a model judge, each with the time that it looks over."""
    for output in outputs:
        if output.of is not None and is_judged(output):
            for horizon in output.horizons:
                length_s = horizon_s(horizon) or 0
                yield f"{kind_of_horizon(length_s)}-{output.of.signal}", timedelta(seconds=length_s)


def is_flow(feature: Feature, length_s: int) -> bool:
    """Tell whether an expectation is of an amount over so short a time that its stop shows."""
    return feature.aggregate == "sum" and timedelta(seconds=length_s) <= FAST


def has_stopped(actual: float | F64, low: float | F64, middle: float | F64, floor: float | F64) -> Flags:
    """Tell whether a flow has stopped: far below p50 (``middle``), where p10 (``low``) says that most of it is certain.

    A limit in half bands cannot say so of young flocks, where a half band is a large share of what flows. What was not
    measured has not stopped; nor has what lacks no more than ``floor``, the least half band that means anything: at
    night a meter may tell nothing for an hour, because its step is not full.
    """
    is_certain = (np.asarray(low) > 0) & (low >= CERTAIN * middle)
    return np.asarray(is_certain & (actual <= STOPPED * middle) & (low - actual >= floor))


def off_by(actual: float | F64, low: float | F64, middle: float | F64, high: float | F64, floor: float | F64) -> F64:
    """Return (actual - p50) in half bands of its side, at least ``floor`` wide; NaN where nothing was measured."""
    off = np.asarray(actual - middle)
    half = np.where(off < 0, middle - low, high - middle)
    return np.asarray(off / np.maximum(half, np.maximum(floor, _SMALLEST_HALF_BAND)))


def score_of(off: F64, limit_low: float | F64, limit_high: float | F64, stopped: Flags) -> F64:
    """Return how far out of course it is, 1 being the limit of its side; at least 1 where a flow has ``stopped``."""
    score = np.maximum(off / limit_high, -off / limit_low)
    return np.asarray(np.where(stopped, np.maximum(score, 1.0), score))
