"""What every small network here is made of, on numpy alone: layers, their gradients, their ONNX nodes, and Adam.

``net`` (quantiles) and ``bags`` differ in what they ask of the last layer, and in nothing else.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from models_onnx.train.graph import Graph

    F32 = NDArray[np.float32]

RATE = 2e-3  # Adam's first step size; it falls to nothing along a cosine
FARTHEST = 8.0  # spreads of a column, beyond which a network sees no difference
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Kingma and Ba 2015


class Mlp:
    """Layers with a rectifier behind each but the last."""

    def __init__(self, sizes: Sequence[int], seed: int) -> None:
        """Begin with random weights (He et al. 2015), those of the last layer small; ``sizes``: columns … outputs."""
        rng = np.random.default_rng(seed)
        self.weights = [rng.normal(0, (2 / a) ** 0.5, (a, b)).astype(np.float32) for a, b in pairwise(sizes)]
        self.weights[-1] *= 0.1
        self.biases = [np.zeros(b, np.float32) for b in sizes[1:]]

    @property
    def parameters(self) -> list[F32]:
        """The weights, then the biases: the arrays themselves."""
        return [*self.weights, *self.biases]

    def forward(self, x: F32) -> list[F32]:
        """Return the activations of each layer, [rows, …]; the first is ``x``, the last are the outputs."""
        layers = [x]
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            z = layers[-1] @ w + b
            layers.append(np.maximum(z, 0) if i < len(self.weights) - 1 else z)
        return layers

    def backward(self, layers: Sequence[F32], d: F32) -> list[F32]:
        """Return the gradients of all parameters; ``d`` are those of the outputs, [rows, outputs]."""
        of_weights: list[F32] = []
        of_biases: list[F32] = []
        for i in range(len(self.weights) - 1, -1, -1):
            of_weights.insert(0, layers[i].T @ d)
            of_biases.insert(0, d.sum(axis=0))
            if i:
                d = (d @ self.weights[i].T) * (layers[i] > 0)
        return of_weights + of_biases

    def emit(self, graph: Graph, x: str) -> str:
        """Add the network to a graph; return its outputs."""
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = graph.add(graph.op("MatMul", x, graph.const(w)), graph.const(b))
            x = graph.op("Relu", x) if i < len(self.weights) - 1 else x
        return x


class Adam:
    """Adam (Kingma and Ba 2015), its step size falling along a cosine, with a pull of the weights to 0."""

    def __init__(self, parameters: list[F32], steps: int, *, pulls: Sequence[float]) -> None:
        """Move ``parameters`` in place, in so many steps in all; ``pulls`` is the pull of each."""
        self._parameters, self._pulls = parameters, pulls
        self._steps, self._step = steps, 0
        self._first = [np.zeros_like(p) for p in parameters]
        self._second = [np.zeros_like(p) for p in parameters]

    def step(self, gradients: Sequence[F32]) -> None:
        """Take one step against the gradients."""
        self._step += 1
        rate = RATE * 0.5 * (1 + math.cos(math.pi * self._step / self._steps))
        shrink = rate * (1 - BETA_2**self._step) ** 0.5 / (1 - BETA_1**self._step)
        for i, (parameter, g) in enumerate(zip(self._parameters, gradients, strict=True)):
            self._first[i] += (1 - BETA_1) * (g - self._first[i])
            self._second[i] += (1 - BETA_2) * (g * g - self._second[i])
            moved = shrink * self._first[i] / (np.sqrt(self._second[i]) + EPSILON)
            parameter -= moved + rate * self._pulls[i] * parameter  # noqa: PLW2901 - in place, as promised
