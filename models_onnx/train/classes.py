"""A small network that tells classes apart, on numpy alone: softmax, cross-entropy, Adam; same seed, same bits.

Its probabilities are made honest afterwards by one temperature, found on data that it was not fitted to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models_onnx.train.mlp import Adam, Mlp
from models_onnx.train.net import BATCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    F32 = NDArray[np.float32]
    Ints = NDArray[np.int64]

HIDDEN = (160, 64)
DECAY = 0.3  # the pull of weights to 0
LEFT_OUT = 0.35  # share of the columns that a row is shown without, so that no single one decides
SMOOTH = 0.03  # of the probability goes to all classes alike: no label is quite certain
TEMPERATURES = np.geomspace(0.4, 4.0, 73)


class Classifier(Mlp):
    """Two hidden layers, one logit for each class."""

    def __init__(self, inputs: int, classes: int, seed: int) -> None:
        """Begin with random weights."""
        super().__init__((inputs, *HIDDEN, classes), seed)

    def logits(self, x: F32) -> F32:
        """Return the logits, [rows, classes]."""
        return self.forward(x)[-1]

    def gradients(self, x: F32, target: F32, weight: F32) -> list[F32]:
        """Return the gradients of the weighted mean cross-entropy, weights then biases."""
        layers = self.forward(x)
        d = (softmax(layers[-1]) - target) * (weight / weight.sum())[:, None]
        return self.backward(layers, d)


def softmax(logits: F32) -> F32:
    """Return the probabilities of logits, [rows, classes]."""
    size = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(size / size.sum(axis=1, keepdims=True), np.float32)


def cross_entropy(probabilities: F32, label: Ints, weight: F32) -> float:
    """Return the weighted mean of -log p(label)."""
    there = np.take_along_axis(probabilities, label[:, None], axis=1)[:, 0]
    return float((-np.log(np.maximum(there, 1e-9)) * weight).sum() / weight.sum())


def fit(
    x: F32,
    label: Ints,
    weight: F32,
    validation: tuple[F32, Ints, F32],
    *,
    classes: int,
    seed: int,
    epochs: int,
    say: Callable[[str], None] = lambda _: None,
) -> Classifier:
    """Return the network that was best on the validation data (columns, labels, weights)."""
    net = Classifier(x.shape[1], classes, seed)
    rng = np.random.default_rng(seed + 1)
    parameters = net.parameters
    target = np.full((len(label), classes), SMOOTH / classes, np.float32)
    target[np.arange(len(label)), label] += 1 - SMOOTH
    best, best_loss = [p.copy() for p in parameters], np.inf
    each = max(len(label) // BATCH, 1)
    adam = Adam(parameters, epochs * each, pulls=[DECAY if p.ndim > 1 else 0.0 for p in parameters])
    for epoch in range(epochs):
        order = rng.permutation(len(label))
        for begin in range(0, each * BATCH, BATCH):
            rows = order[begin : begin + BATCH]
            shown = x[rows] * (rng.random((len(rows), x.shape[1])) >= LEFT_OUT)
            adam.step(net.gradients(shown.astype(np.float32), target[rows], weight[rows]))
        known, wanted, counts = validation
        loss = cross_entropy(softmax(net.logits(known)), wanted, counts)
        if loss < best_loss:
            best, best_loss = [p.copy() for p in parameters], loss
        if epoch % 10 == 9:
            say(f"epoch {epoch + 1}: cross-entropy {loss:.4f} on validation farms, at best {best_loss:.4f}")
    for p, b in zip(parameters, best, strict=True):
        p[...] = b
    return net


def temperature_of(logits: F32, label: Ints, weight: F32) -> float:
    """Return what logits are to be divided by, so that their probabilities are right on average."""
    losses = [cross_entropy(softmax((logits / t).astype(np.float32)), label, weight) for t in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])


def calibration_error(probability: NDArray[np.floating], hit: NDArray[np.bool_], weight: F32, bins: int = 10) -> float:
    """Return the mean gap between what was said and how often it came true, in bins of what was said (ECE)."""
    which = np.minimum((probability * bins).astype(np.int64), bins - 1)
    gaps = [abs(float(((probability - hit) * weight)[which == b].sum())) for b in range(bins)]
    return sum(gaps) / float(weight.sum())
