"""A small network for three quantiles, on numpy alone: pinball loss, Adam, early stopping; same seed, same bits.

The network gives (m, a, b) for each row; with s the spread of the target the quantiles are p50 = base + s m,
p10 = p50 - s softplus(a), p90 = p50 + s softplus(b): they can never cross.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models_onnx.train.mlp import FARTHEST, Adam, Mlp

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    F32 = NDArray[np.float32]

QUANTILES = (0.1, 0.5, 0.9)
HIDDEN = (64, 32)
BATCH = 512
DECAY = 1e-4  # the pull of weights to 0
TAUS = np.array(QUANTILES, np.float32)


@dataclass(frozen=True, slots=True)
class Scaling:
    """What columns and target are scaled by, from the training data."""

    mean: F32
    spread: F32
    gaps: tuple[int, ...]  # columns that are not always known: the network is told where they are not
    target: float
    within: float = FARTHEST  # spreads: what lies further out counts as if it lay there

    @classmethod
    def of(cls, columns: F32, residual: F32, within: float = FARTHEST) -> Scaling:
        """Return the scaling that suits these columns and residuals (NaN = unknown)."""
        known = np.isfinite(columns)
        count = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, columns, 0).sum(axis=0, dtype=np.float64) / count
        spread = np.sqrt(np.where(known, (columns - mean) ** 2, 0).sum(axis=0, dtype=np.float64) / count)
        gaps = np.flatnonzero(~known.all(axis=0)).tolist()
        middle = residual[np.isfinite(residual)]
        target = float(np.mean(np.abs(middle - np.median(middle)))) or 1.0
        return cls(mean.astype(np.float32), np.maximum(spread, 1e-4).astype(np.float32), tuple(gaps), target, within)

    def prepared(self, columns: F32) -> F32:
        """Return what the network sees: the twin of ``Graph.prepared``."""
        unknown = ~np.isfinite(columns)
        scaled = np.clip((columns - self.mean) / self.spread, -self.within, self.within)
        seen = np.where(unknown, 0, scaled).astype(np.float32)
        return np.concatenate((seen, unknown[:, list(self.gaps)].astype(np.float32)), axis=1)


class Net(Mlp):
    """Two hidden layers, three outputs: m, a and b."""

    def __init__(self, inputs: int, seed: int, hidden: tuple[int, int] = HIDDEN) -> None:
        """Begin with the spreads at about one."""
        super().__init__((inputs, *hidden, 3), seed)
        self.biases[-1][1:] = 0.5

    def quantiles(self, x: F32) -> F32:
        """Return the three quantiles of the scaled residual, [rows, 3]."""
        return _quantiles(self.forward(x)[-1])

    def gradients(self, x: F32, y: F32) -> list[F32]:
        """Return the gradients of the mean pinball loss, weights then biases."""
        layers = self.forward(x)
        z = layers[-1]
        slope = (np.where(y[:, None] < _quantiles(z), 1, 0) - TAUS).astype(np.float32) / len(y)
        d = np.empty_like(z)
        d[:, 0] = slope.sum(axis=1)
        d[:, 1] = -slope[:, 0] * _sigmoid(z[:, 1])
        d[:, 2] = slope[:, 2] * _sigmoid(z[:, 2])
        return self.backward(layers, d)


def pinball(y: NDArray[np.floating], quantiles: NDArray[np.floating]) -> float:
    """Return the mean pinball loss of p10, p50, p90 [rows, 3]; rows whose ``y`` is NaN do not count."""
    known = np.isfinite(y)
    off = y[known, None] - quantiles[known]
    return float(np.maximum(TAUS * off, (TAUS - 1) * off).mean())


def fit(
    x: F32,
    y: F32,
    x_validation: F32,
    y_validation: F32,
    *,
    seed: int,
    epochs: int,
    hidden: tuple[int, int] = HIDDEN,
    say: Callable[[str], None] = lambda _: None,
) -> Net:
    """Return the network that was best on the validation data; ``y`` is the scaled residual."""
    net = Net(x.shape[1], seed, hidden)
    rng = np.random.default_rng(seed + 1)
    parameters = net.parameters
    best, best_loss = [p.copy() for p in parameters], np.inf
    each = max(len(y) // BATCH, 1)
    adam = Adam(parameters, epochs * each, pulls=[DECAY] * len(parameters))
    for epoch in range(epochs):
        order = rng.permutation(len(y))
        for begin in range(0, each * BATCH, BATCH):
            rows = order[begin : begin + BATCH]
            adam.step(net.gradients(x[rows], y[rows]))
        loss = pinball(y_validation, net.quantiles(x_validation))
        say(f"epoch {epoch + 1}: pinball {loss:.4f} on validation farms")
        if loss < best_loss:
            best, best_loss = [p.copy() for p in parameters], loss
    for p, b in zip(parameters, best, strict=True):
        p[...] = b
    return net


def calibrated(net: Net, x: F32, y: F32) -> tuple[float, float]:
    """Return by what the half bands must be stretched so that a tenth of ``y`` lies below, and a tenth above."""
    q = net.quantiles(x)
    below = (q[:, 1] - y) / np.maximum(q[:, 1] - q[:, 0], 1e-6)
    above = (y - q[:, 1]) / np.maximum(q[:, 2] - q[:, 1], 1e-6)
    return max(float(np.quantile(below, 0.9)), 0.1), max(float(np.quantile(above, 0.9)), 0.1)


def _quantiles(z: F32) -> F32:
    return np.stack((z[:, 0] - _softplus(z[:, 1]), z[:, 0], z[:, 0] + _softplus(z[:, 2])), axis=1)


def _softplus(z: F32) -> F32:
    return np.logaddexp(np.float32(0), z)


def _sigmoid(z: F32) -> F32:
    return (1 / (1 + np.exp(-np.clip(z, -30, 30)))).astype(np.float32)
