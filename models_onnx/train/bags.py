"""A small network that learns from bags of rows, on numpy alone: one row of a good bag must be found, no row of a bad.

An outbreak is found by one alarm in the week before it, and several false alarms in a row are one; so what counts of a
bag is its highest row (multiple-instance learning: Dietterich et al. 1997). Taking always the highest would never try
another, so a row is drawn, the likelier the higher. Cross-entropy of the drawn rows, Adam; same seed, same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models_onnx.train.mlp import Adam, Mlp
from models_onnx.train.net import BATCH, DECAY, HIDDEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    F32 = NDArray[np.float32]
    Ints = NDArray[np.int64]


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


class Scorer(Mlp):
    """Two hidden layers, one logit."""

    def __init__(self, inputs: int, seed: int) -> None:
        """Begin with random weights."""
        super().__init__((inputs, *HIDDEN, 1), seed)

    def logit(self, x: F32) -> F32:
        """Return the logit of each row."""
        return np.asarray(self.forward(x)[-1][:, 0])

    def gradients(self, x: F32, is_good: NDArray[np.bool_]) -> list[F32]:
        """Return the gradients of the mean cross-entropy, weights then biases."""
        layers = self.forward(x)
        d = ((_sigmoid(layers[-1][:, 0]) - is_good) / len(x)).astype(np.float32)[:, None]
        return self.backward(layers, d)


def fit(x: F32, bags: Bags, *, seed: int, epochs: int, say: Callable[[str], None] = lambda _: None) -> Scorer:
    """Return a network that tells the good bags from the bad by their highest rows."""
    net = Scorer(x.shape[1], seed)
    rng = np.random.default_rng(seed + 1)
    parameters = net.parameters
    each = max(len(bags.begins) // BATCH, 1)
    adam = Adam(parameters, epochs * each, pulls=[DECAY] * len(parameters))
    for epoch in range(epochs):
        drawn = bags.draw(net.logit(x), rng)
        order = rng.permutation(len(drawn))
        for begin in range(0, each * BATCH, BATCH):
            some = order[begin : begin + BATCH]
            adam.step(net.gradients(x[drawn[some]], bags.is_good[some]))
        if epoch % 4 == 3:
            say(f"epoch {epoch + 1}: cross-entropy {_cross_entropy(bags.highest(net.logit(x)), bags.is_good):.4f}")
    return net


def _cross_entropy(logit: F32, is_good: NDArray[np.bool_]) -> float:
    return float(np.logaddexp(0, np.where(is_good, -logit, logit)).mean())


def _sigmoid(z: F32) -> F32:
    return np.asarray(1 / (1 + np.exp(-np.clip(z, -30, 30))), np.float32)
