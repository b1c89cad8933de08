"""What the networks of ``expect`` look at: cells, roots, differences and means of what was measured, as few nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agent.manifest import InputSpec
    from models_onnx.train.graph import Graph

# where the numbers of differences, of their sizes, and of means begin: above those of any row
_PAIRS, _SIZES, _MEANS, _ALIKE = 100_000, 100_000, 300_000, 400_000
_LEAST_ALIKE = 0.05  # of one row that is quite alike: less is nothing to go by


class Terms:
    """What the networks look at, in as few nodes as there are kinds of it: a small gateway pays for every node.

    Everything measured lies side by side, as it is and as its root; then come the differences of two of those, then
    means over some of either. A term is a place in that row. NaN, for what was not measured, goes all the way through.
    """

    def __init__(self, g: Graph, inputs: Sequence[InputSpec]) -> None:
        """Lay out the inputs."""
        self._g = g
        self._inputs = {spec.name: spec for spec in inputs}
        self._begin: dict[str, int] = {}
        parts, width = [], 0
        for spec in inputs:
            size = int(np.prod([int(n) for n in spec.shape[1:]]))
            self._begin[spec.name] = width
            parts.append(g.reshape(spec.name, [-1, size]))
            width += size
        self._width = width
        measured = g.concat(parts)
        nothing = g.add(g.mul(g.columns(measured, [0]), g.const(0.0)), g.const(np.nan))
        self._row = g.concat([measured, g.op("Sqrt", measured), g.op("Log", measured), nothing])
        self._nothing = 3 * width
        self._pairs: dict[tuple[int, int], int] = {}
        self._means: dict[tuple[int, ...], int] = {}
        self._alike: dict[tuple[tuple[int, ...], tuple[int, ...], int, float], int] = {}

    def at(self, name: str, back: int, column: int) -> int:
        """Return one cell of a grid, counted from the last row."""
        rows, columns = (int(n) for n in self._inputs[name].shape[1:])
        return self._begin[name] + (rows - 1 - back) * columns + column

    def fact(self, number: int) -> int:
        """Return a fact."""
        return self._begin["facts"] + number

    def column(self, name: str, column: int, backs: Iterable[int]) -> list[int]:
        """Return some cells of a column."""
        return [self.at(name, back, column) for back in backs]

    def roots(self, name: str, column: int, backs: Iterable[int]) -> list[int]:
        """Return the roots of some cells of a column."""
        return [self.root(self.at(name, back, column)) for back in backs]

    def root(self, term: int) -> int:
        """Return the root of a cell or fact."""
        return term + self._width

    def log(self, term: int) -> int:
        """Return the logarithm of a cell or fact."""
        return term + 2 * self._width

    def less(self, a: int, b: int) -> int:
        """Return a - b, both cells, facts or roots."""
        return _PAIRS + self._pairs.setdefault((a, b), len(self._pairs))

    def mean(self, terms: Sequence[int]) -> int:
        """Return the mean of what is known of some cells or differences."""
        return _MEANS + self._means.setdefault(tuple(terms), len(self._means))

    def unrest(self, a: Sequence[int], b: Sequence[int]) -> int:
        """Return the mean size of the differences a - b that are known."""
        return self.mean([self.less(x, y) + _SIZES for x, y in zip(a, b, strict=True)])

    def alike(self, terms: Sequence[int], marks: Sequence[int], mark: int, width: float) -> int:
        """Return the mean of those cells whose mark is as ``mark``, weighed by exp(-(difference / ``width``)^2).

        NaN where no mark comes near. ``marks`` are cells, one for each of ``terms``.
        """
        return _ALIKE + self._alike.setdefault((tuple(terms), tuple(marks), mark, width), len(self._alike))

    def gathered(self) -> tuple[str, dict[int, int]]:
        """Return the row of everything that was asked for, and the place of each term in it."""
        g, pairs, row = self._g, len(self._pairs), self._nothing + 1
        left, right = (g.columns(self._row, [pair[i] for pair in self._pairs]) for i in (0, 1))
        differences = g.sub(left, right)
        values = g.concat([self._row, differences, g.op("Abs", differences)])
        place = {term: term for term in range(row)}
        place |= {_PAIRS + i: row + i for i in range(pairs)}
        place |= {_PAIRS + _SIZES + i: row + pairs + i for i in range(pairs)}
        longest = max(len(terms) for terms in self._means)
        padded = [[place[t] for t in terms] + [self._nothing] * (longest - len(terms)) for terms in self._means]
        place |= {_MEANS + i: row + 2 * pairs + i for i in range(len(self._means))}
        of_means = g.reshape(g.columns(values, [i for terms in padded for i in terms]), [-1, len(padded), longest])
        means = g.reshape(g.mean_known(of_means), [-1, len(padded)])
        place |= {_ALIKE + i: row + 2 * pairs + len(self._means) + i for i in range(len(self._alike))}
        return g.concat([values, means, *(self._mean_alike(*alike) for alike in self._alike)]), place

    def _mean_alike(self, terms: Sequence[int], marks: Sequence[int], mark: int, width: float) -> str:
        g, nothing = self._g, self._g.const(0.0)
        cells, far = (
            g.columns(self._row, list(terms)),
            g.sub(g.columns(self._row, list(marks)), g.columns(self._row, [mark])),
        )
        far = g.mul(far, g.const(1 / width))
        weight = g.op("Exp", g.op("Neg", g.mul(far, far)))
        unknown = g.op("IsNaN", g.add(cells, weight))
        weight = g.op("Where", unknown, nothing, weight)
        axis = g.const([-1], np.int64)
        total = g.op("ReduceSum", g.mul(weight, g.op("Where", unknown, nothing, cells)), axis, keepdims=1)
        of = g.op("ReduceSum", weight, axis, keepdims=1)
        enough = g.op("Greater", of, g.const(_LEAST_ALIKE))
        return g.op("Where", enough, g.div(total, of), g.const(np.nan))
