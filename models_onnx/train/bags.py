"""A small network that learns from bags of rows, on numpy alone: one row of a good bag must be found, no row of a bad.

An outbreak is found by one alarm in the week before it, and several false alarms in a row are one; so what counts of a
bag is its highest row (multiple-instance learning: Dietterich et al. 1997). Taking always the highest would never try
another, so a row is drawn, the likelier the higher. Cross-entropy of the drawn rows, Adam; same seed, same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from models_onnx.train.net import BETA_1, BETA_2, DECAY, EPSILON, RATE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from models_onnx.train.graph import Graph

    F32 = NDArray[np.float32]
    Ints = NDArray[np.int64]

HIDDEN = (64, 32)
BATCH = 512


@dataclass(frozen=True, slots=True, eq=False)
class Bags:
    """Rows and the bags they are in."""

    rows: Ints  # row numbers, those of a bag together
    begins: Ints  # where each bag begins in ``rows``
    is_good: NDArray[np.bool_]  # of each bag: one row of it is to be found

    @classmethod
    def of(cls, number: Ints) -> Bags:
        """Return the bags of rows with these numbers: above 0 is good, below 0 bad, 0 is in none."""
        rows = np.argsort(number, kind="stable")
        rows = rows[number[rows] != 0]
        ordered = number[rows]
        begins = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        return cls(rows, begins, ordered[begins] > 0)

    def draw(self, logit: F32, rng: np.random.Generator) -> Ints:
        """Return one row of each bag, with probabilities proportional to the odds."""
        chance = logit[self.rows] + rng.gumbel(size=len(self.rows))
        highest = np.maximum.reduceat(chance, self.begins)
        sizes = np.diff(np.append(self.begins, len(chance)))
        is_it = chance == np.repeat(highest, sizes)
        return self.rows[np.flatnonzero(is_it)]

    def highest(self, logit: F32) -> F32:
        """Return the highest logit of each bag."""
        return np.asarray(np.maximum.reduceat(logit[self.rows], self.begins))


class Scorer:
    """Two hidden layers, one logit."""

    def __init__(self, inputs: int, seed: int) -> None:
        """Begin with random weights (He et al. 2015)."""
        rng = np.random.default_rng(seed)
        sizes = (inputs, *HIDDEN, 1)
        self.weights = [rng.normal(0, (2 / a) ** 0.5, (a, b)).astype(np.float32) for a, b in pairwise(sizes)]
        self.weights[-1] *= 0.1
        self.biases = [np.zeros(b, np.float32) for b in sizes[1:]]

    def forward(self, x: F32) -> list[F32]:
        """Return the activations of each layer; the last is the logit."""
        layers = [x]
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            z = layers[-1] @ w + b
            layers.append(np.maximum(z, 0) if i < len(self.weights) - 1 else z)
        return layers

    def logit(self, x: F32) -> F32:
        """Return the logit of each row."""
        return np.asarray(self.forward(x)[-1][:, 0])

    def gradients(self, x: F32, is_good: NDArray[np.bool_]) -> list[F32]:
        """Return the gradients of the mean cross-entropy, weights then biases."""
        layers = self.forward(x)
        d = ((_sigmoid(layers[-1][:, 0]) - is_good) / len(x)).astype(np.float32)[:, None]
        of_weights: list[F32] = []
        of_biases: list[F32] = []
        for i in range(len(self.weights) - 1, -1, -1):
            of_weights.insert(0, layers[i].T @ d)
            of_biases.insert(0, d.sum(axis=0))
            if i:
                d = (d @ self.weights[i].T) * (layers[i] > 0)
        return of_weights + of_biases

    def emit(self, graph: Graph, x: str) -> str:
        """Add the network to a graph; return its logit."""
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = graph.add(graph.op("MatMul", x, graph.const(w)), graph.const(b))
            x = graph.op("Relu", x) if i < len(self.weights) - 1 else x
        return x


def fit(x: F32, bags: Bags, *, seed: int, epochs: int, say: Callable[[str], None] = lambda _: None) -> Scorer:
    """Return a network that tells the good bags from the bad by their highest rows."""
    net = Scorer(x.shape[1], seed)
    rng = np.random.default_rng(seed + 1)
    parameters = [*net.weights, *net.biases]
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    each = max(len(bags.begins) // BATCH, 1)
    steps, step = epochs * each, 0
    for epoch in range(epochs):
        drawn = bags.draw(net.logit(x), rng)
        order = rng.permutation(len(drawn))
        for begin in range(0, each * BATCH, BATCH):
            some = order[begin : begin + BATCH]
            step += 1
            rate = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
            shrink = rate * (1 - BETA_2**step) ** 0.5 / (1 - BETA_1**step)
            for i, g in enumerate(net.gradients(x[drawn[some]], bags.is_good[some])):
                first[i] += (1 - BETA_1) * (g - first[i])
                second[i] += (1 - BETA_2) * (g * g - second[i])
                parameters[i] -= shrink * first[i] / (np.sqrt(second[i]) + EPSILON) + rate * DECAY * parameters[i]
        if epoch % 4 == 3:
            say(f"epoch {epoch + 1}: cross-entropy {_cross_entropy(bags.highest(net.logit(x)), bags.is_good):.4f}")
    return net


def _cross_entropy(logit: F32, is_good: NDArray[np.bool_]) -> float:
    return float(np.logaddexp(0, np.where(is_good, -logit, logit)).mean())


def _sigmoid(z: F32) -> F32:
    return np.asarray(1 / (1 + np.exp(-np.clip(z, -30, 30))), np.float32)
