"""How right the expectations are that the agent holds measurements against, output by output, as it does so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models_onnx.farm.farm import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from models_onnx.evaluate.play import Held, Played
    from models_onnx.evaluate.record import HouseRecord

LEVELS = np.array((0.1, 0.5, 0.9))


@dataclass(frozen=True, slots=True)
class Expected:
    """Sums over the instants of one output in one house; water and feed are the house's, in l and kg."""

    farm: str
    output: str
    instants: int
    unsaid: int
    inside: int  # between p10 and p90
    below: int
    above: int
    pinball: float  # mean over the three quantiles
    compared: int  # instants at which what was measured a day before is known, too
    error: float  # of p50, at those
    yesterday: float  # of the same hour (day) one day before, at those


def expected_of(record: HouseRecord, played: Played) -> Iterator[Expected]:
    """Yield the sums of every output."""
    for output, held in sorted(played.held.items()):
        yield _sums(record.farm, output, held)


def _sums(farm: str, output: str, held: Held) -> Expected:
    if not held.rows:
        return Expected(farm, output, 0, held.unsaid, 0, 0, 0, 0.0, 0, 0.0, 0.0)
    at_ms = np.array([row[0] for row in held.rows], np.int64)
    actual, low, middle, high = np.array([row[1:] for row in held.rows]).T
    off = actual[:, None] - np.column_stack((low, middle, high))
    pinball = np.maximum(LEVELS * off, (LEVELS - 1) * off).mean(axis=1)
    before = np.searchsorted(at_ms, at_ms - DAY_MS)  # rows come in the order of time
    both = at_ms[np.minimum(before, len(at_ms) - 1)] == at_ms - DAY_MS
    yesterday = actual[before[both]]
    return Expected(
        farm,
        output,
        len(at_ms),
        held.unsaid,
        int(((actual >= low) & (actual <= high)).sum()),
        int((actual < low).sum()),
        int((actual > high).sum()),
        float(pinball.sum()),
        int(both.sum()),
        float(np.abs(actual - middle)[both].sum()),
        float(np.abs(actual[both] - yesterday).sum()),
    )
