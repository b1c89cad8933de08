"""Probabilities of classes: how wrong they are, and the one temperature that makes them honest.

It is found on data that the model was not fitted to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]
    Ints = NDArray[np.int64]

TEMPERATURES = np.geomspace(0.4, 4.0, 73)


def softmax(logits: F32) -> F32:
    """Return the probabilities of logits, [rows, classes]."""
    size = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(size / size.sum(axis=1, keepdims=True), np.float32)


def cross_entropy(probabilities: F32, label: Ints, weight: F32) -> float:
    """Return the weighted mean of -log p(label)."""
    there = np.take_along_axis(probabilities, label[:, None], axis=1)[:, 0]
    return float((-np.log(np.maximum(there, 1e-9)) * weight).sum() / weight.sum())


def temperature_of(logits: F32, label: Ints, weight: F32) -> float:
    """Return what logits are to be divided by, so that their probabilities are right on average."""
    losses = [cross_entropy(softmax((logits / t).astype(np.float32)), label, weight) for t in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])


def calibration_error(probability: NDArray[np.floating], hit: NDArray[np.bool_], weight: F32, bins: int = 10) -> float:
    """Return the mean gap between what was said and how often it came true, in bins of what was said (ECE)."""
    which = np.minimum((probability * bins).astype(np.int64), bins - 1)
    gaps = [abs(float(((probability - hit) * weight)[which == b].sum())) for b in range(bins)]
    return sum(gaps) / float(weight.sum())
