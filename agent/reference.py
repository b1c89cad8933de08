"""What a model was fed in training, and how far from it a house is: ``reference.npz`` of a bundle.

For each input the newest row of its grid (or its facts), by column and by the flock's age, in bins of about a tenth of
the training's values, with narrow ones at both ends for what training hardly saw. The arrays of the file::

    age_days        [bands - 1]                 where one band of age ends and the next begins, rising
    edges.<input>   [bands, columns, bins - 1]  between the bins, rising; NaN: too few values, or not to be compared
    share.<input>   [bands, columns, bins]      of the training's values in each bin
    usual.<input>   [columns]                   the largest index that one flock of training had in a week; NaN: unknown

Drift is the population stability index, the sum over the bins of (actual - expected) ln(actual / expected). Above 0.25
it is commonly called a major shift [PSI]. That is a rule for populations: one flock is none, and differs from all
flocks together by far more. So what is called drift is beyond both 0.25 and what any flock of training showed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from agent.manifest import InputSpec

    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]

EDGES, SHARE, USUAL, AGES = "edges.", "share.", "usual.", "age_days"
MAJOR_SHIFT = 0.25  # [PSI], docs/sources.md
SMALLEST_SHARE = 0.01
"""Our judgement: a bin counts as at least so full, or an empty one would be infinitely far from any other."""
LEAST_VALUES = 20
"""Our judgement: of fewer values a histogram says nothing."""
LEAST_DAYS = 5
"""Our judgement: so many days of a week must have values: a day or two of it are not what a week is compared with."""
WEEK_DAYS = 7  # what is compared at a time


@dataclass(frozen=True, slots=True, eq=False)
class Histograms:
    """Of one input, as in the file."""

    edges: F64
    share: F64
    usual: F64

    def bins_of(self, band: int, values: NDArray[np.floating]) -> I64:
        """Return the bin of each value, [..., columns]; -1 where it is missing or the column is not compared."""
        edges = self.edges[band]
        found = (values[..., None] > edges).sum(axis=-1)
        return np.where(np.isfinite(values) & np.isfinite(edges).all(axis=1), found, -1)

    def index_of(self, counted: Iterable[tuple[int, I64]]) -> F64:
        """Return the stability index of each column, NaN where too little was counted.

        Args:
            counted: of each day the band of age, and how many values were in each bin, [columns, bins].
        """
        actual, expected = np.zeros(self.share.shape[1:]), np.zeros(self.share.shape[1:])
        days = np.zeros(len(actual))
        for band, counts in counted:
            actual += counts
            days += counts.any(axis=1)
            expected += np.nan_to_num(self.share[band]) * counts.sum(axis=1, keepdims=True)
        n = actual.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            actual, expected = (np.maximum(part / n, SMALLEST_SHARE) for part in (actual, expected))
            index = ((actual - expected) * np.log(actual / expected)).sum(axis=1)
        return np.where((n[:, 0] >= LEAST_VALUES) & (days >= LEAST_DAYS), index, np.nan)

    def limits(self) -> F64:
        """Return the index above which each column has drifted."""
        return np.fmax(self.usual, MAJOR_SHIFT)


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What a bundle's inputs were in training, by the name of the input, and the names of its columns."""

    age_days: F64
    inputs: dict[str, Histograms]
    columns: dict[str, tuple[str, ...]]

    def band(self, age_days: float) -> int:
        """Return the band of an age."""
        return int(np.searchsorted(self.age_days, age_days, side="right"))


def columns_of(spec: InputSpec) -> tuple[str, ...]:
    """Return what an input's columns are called."""
    return spec.facts or tuple(f"{feature.signal} {feature.aggregate}" for feature in spec.features)


def newest_row(values: NDArray[np.generic], spec: InputSpec) -> NDArray[np.floating]:
    """Return the part of a tensor that is compared: of a grid its newest row."""
    return np.asarray(values[-1] if spec.grid is not None else values, np.float64)


def reference_from(arrays: Mapping[str, NDArray[np.generic]], specs: Sequence[InputSpec], where: str) -> Reference:
    """Return what the arrays of a ``reference.npz`` say; inputs that they do not name are not compared.

    Raises:
        BundleError: they do not fit the inputs; ``where`` names the file in the message.
    """
    ages = np.asarray(arrays.get(AGES, np.empty(0)), np.float64)
    inputs: dict[str, Histograms] = {}
    for spec in specs:
        if EDGES + spec.name not in arrays:
            continue
        parts = [np.asarray(arrays.get(name + spec.name, np.nan), np.float64) for name in (EDGES, SHARE, USUAL)]
        edges, share, usual = parts
        columns = len(columns_of(spec))
        if usual.ndim == 0:  # not given: then the limit is the common one
            usual = np.full(columns, np.nan)
        bins = edges.shape[-1] + 1 if edges.ndim else 0
        if (
            edges.shape[:2] != (len(ages) + 1, columns)
            or share.shape != (*edges.shape[:2], bins)
            or (usual.shape != (columns,))
        ):
            message = (
                f"{where}: the arrays of input {spec.name!r} have shapes {edges.shape}, {share.shape} and "
                f"{usual.shape}; {len(ages) + 1} bands of age and {columns} columns make them "
                f"[bands, columns, bins - 1], [bands, columns, bins] and [columns]"
            )
            raise BundleError(message)
        inputs[spec.name] = Histograms(edges, share, usual)
    return Reference(ages, inputs, {spec.name: columns_of(spec) for spec in specs})
