"""Figures with their uncertainty: farms are drawn anew, not rows, as houses of one farm and weather are alike."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

ROUNDS = 500
SEED = 20_261_126
MIDDLE = (0.05, 0.95)  # of the draws: a 90 % interval


class OfAFarm(Protocol):
    """Something that one farm gave."""

    @property
    def farm(self) -> str:
        """Return which farm."""


Row = TypeVar("Row", bound=OfAFarm)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure and the interval in which it lies nine times of ten when other farms of the kind are drawn.

    NaN where there is nothing to say; infinite where a median lies among what was never seen.
    """

    value: float
    low: float
    high: float
    n: int  # rows
    farms: int

    def text(self, form: str = ".3g", unit: str = "", scale: float = 1.0) -> str:
        """Return it as people read it."""
        if math.isnan(self.value):
            return "-"
        low, value, high = (_number(x * scale, form) for x in (self.low, self.value, self.high))
        return f"{value}{unit}" if math.isnan(self.low) else f"{value}{unit} ({low} to {high})"


def _number(value: float, form: str) -> str:
    if math.isinf(value):
        return "never" if value > 0 else "-∞"
    return "-" if math.isnan(value) else format(value, form)


def figure(rows: Iterable[Row], of: Callable[[Sequence[Row]], float], *, rounds: int = ROUNDS) -> Figure:
    """Return ``of`` over the rows, with its interval over farms."""
    by_farm: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_farm[row.farm].append(row)
    farms = [by_farm[name] for name in sorted(by_farm)]
    everything = [row for farm in farms for row in farm]
    if not everything:
        return Figure(float("nan"), float("nan"), float("nan"), 0, 0)
    rng = np.random.default_rng(SEED)
    drawn = []
    for _ in range(rounds if len(farms) > 1 else 0):
        chosen = rng.integers(0, len(farms), len(farms)).tolist()
        drawn.append(of([row for i in chosen for row in farms[i]]))
    known = np.array([value for value in drawn if not math.isnan(value)])
    # "lower" and "higher" interpolate nothing, so infinities stay what they are
    low, high = (
        (float(np.quantile(known, MIDDLE[0], method="lower")), float(np.quantile(known, MIDDLE[1], method="higher")))
        if len(known)
        else (float("nan"), float("nan"))
    )
    return Figure(of(everything), low, high, len(everything), len(farms))


def median_of(values: Sequence[float]) -> float:
    """Return the median, in which infinities have their rank; NaN of nothing."""
    return float(np.quantile(values, 0.5, method="lower")) if len(values) else float("nan")


def ratio_of(above: float, below: float) -> float:
    """Return a ratio, NaN where there is nothing to divide by."""
    return above / below if below else float("nan")
