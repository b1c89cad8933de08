"""A small builder of ONNX graphs: names for intermediate results, constants stored once, columns of features.

What a model reads is prepared inside its graph, so training and gateway cannot differ: training runs the very same
nodes, with ONNX's reference implementation, and fits the network behind them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from models_onnx.train.mlp import FARTHEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray
    from onnx import ModelProto, NodeProto

OPSET, ML_DOMAIN, ML_OPSET = 17, "ai.onnx.ml", 3
IR_VERSION = 8  # of that opset's time: older runtimes take it
PRODUCER = "flockwatch"


class Graph:
    """A graph under construction; every method that adds a node returns the name of its result."""

    def __init__(self, inputs: Mapping[str, Sequence[str | int]]) -> None:
        """Begin a graph with float32 inputs of these shapes."""
        self.inputs = {name: tuple(shape) for name, shape in inputs.items()}
        self._nodes: list[NodeProto] = []
        self._known: dict[tuple[str, tuple[str, ...], str], str] = {}
        self._constants: dict[bytes, TensorProto] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401 - ONNX attributes are of any type
        """Add a node of one output; the same node twice is one."""
        key = (kind, inputs, repr(sorted(attributes.items())))
        if key not in self._known:
            name = self._known[key] = f"{kind.lower()}_{len(self._nodes)}"
            self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return self._known[key]

    def const(self, values: ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        """Return a constant."""
        array = np.asarray(values, dtype)
        key = array.dtype.str.encode() + repr(array.shape).encode() + array.tobytes()
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, f"const_{len(self._constants)}")
        return self._constants[key].name

    def add(self, a: str, b: str) -> str:
        """Return a + b."""
        return self.op("Add", a, b)

    def sub(self, a: str, b: str) -> str:
        """Return a - b."""
        return self.op("Sub", a, b)

    def mul(self, a: str, b: str) -> str:
        """Return a x b."""
        return self.op("Mul", a, b)

    def div(self, a: str, b: str) -> str:
        """Return a / b."""
        return self.op("Div", a, b)

    def concat(self, parts: Sequence[str], axis: int = -1) -> str:
        """Return the parts side by side."""
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=axis)

    def reshape(self, a: str, shape: Sequence[int]) -> str:
        """Return ``a`` in another shape."""
        return self.op("Reshape", a, self.const(shape, np.int64))

    def columns(self, a: str, indices: Sequence[int]) -> str:
        """Return some columns (last axis) of ``a``."""
        return self.op("Gather", a, self.const(indices, np.int64), axis=-1)

    def rows(self, a: str, indices: Sequence[int], column: int) -> str:
        """Return one column of some rows of an input [houses, rows, columns], as [houses, len(indices)]."""
        _, rows, columns = self.inputs[a]
        flat = self.reshape(a, [-1, int(rows) * int(columns)])
        return self.columns(flat, [row * int(columns) + column for row in indices])

    def first_known(self, a: str) -> str:
        """Return the first number in each row of ``a`` [houses, n], as [houses, 1]; NaN where there is none."""
        known = self.op("Cast", self.op("Not", self.op("IsNaN", a)), to=TensorProto.FLOAT)
        return self.op("GatherElements", a, self.op("ArgMax", known, axis=1, keepdims=1), axis=1)

    def split(self, a: str, names: Sequence[str], axis: int) -> None:
        """Name the parts of ``a``, of one each along ``axis``."""
        sizes = self.const([1] * len(names), np.int64)
        self._nodes.append(helper.make_node("Split", [a, sizes], list(names), axis=axis))

    def mean_known(self, a: str) -> str:
        """Return the mean of the numbers in each row of ``a`` [houses, n], as [houses, 1]; NaN where there is none."""
        unknown = self.op("IsNaN", a)
        axis = self.const([-1], np.int64)
        total = self.op("ReduceSum", self.op("Where", unknown, self.const(0.0), a), axis, keepdims=1)
        known = self.op("ReduceSum", self.op("Where", unknown, self.const(0.0), self.const(1.0)), axis, keepdims=1)
        return self.div(total, known)  # 0 / 0 is NaN

    def median_known(self, a: str, count: int) -> str:
        """Return the median of the numbers in each row of ``a`` [houses, count], as [houses, 1]; NaN without one."""
        unknown = self.op("IsNaN", a)
        ordered = f"ordered_{len(self._nodes)}"  # rising, what is unknown last
        filled = self.op("Where", unknown, self.const(1e30), a)
        ends = [ordered, f"{ordered}_from"]
        size = self.const([count], np.int64)
        self._nodes.append(helper.make_node("TopK", [filled, size], ends, axis=1, largest=0, sorted=1))
        each = self.op("Where", unknown, self.const(0.0), self.const(1.0))
        known = self.op("ReduceSum", each, self.const([-1], np.int64), keepdims=1)
        sides = []
        for back in (-0.5, 0.0):  # the two in the middle, or twice the one
            place = self.op("Floor", self.add(self.mul(known, self.const(0.5)), self.const(back)))
            place = self.op("Clip", place, self.const(0.0), self.const(float(count - 1)))
            sides.append(self.op("GatherElements", ordered, self.op("Cast", place, to=TensorProto.INT64), axis=1))
        middle = self.mul(self.add(*sides), self.const(0.5))
        return self.op("Where", self.op("Greater", known, self.const(0.5)), middle, self.const(np.nan))

    def unrest(self, a: str, b: str) -> str:
        """Return the mean size of a - b by row: how far apart what should be alike has been lately."""
        return self.mean_known(self.op("Abs", self.sub(a, b)))

    def prepared(
        self,
        a: str,
        mean: NDArray[np.float32],
        spread: NDArray[np.float32],
        gaps: Sequence[int],
        within: float = FARTHEST,
    ) -> str:
        """Return what the network sees of the columns of ``a``.

        Each column less its mean, by its spread, at most ``within``, 0 where it is no number; then for the columns
        ``gaps`` whether it is none.
        """
        unknown = self.op("IsNaN", a)
        scaled = self.div(self.sub(a, self.const(mean)), self.const(spread))
        seen = self.op(
            "Where", unknown, self.const(0.0), self.op("Clip", scaled, self.const(-within), self.const(within))
        )
        if not gaps:
            return seen
        return self.concat([seen, self.columns(self.op("Cast", unknown, to=TensorProto.FLOAT), gaps)])

    def model(self, outputs: Mapping[str, tuple[str, Sequence[str | int]]]) -> ModelProto:
        """Return the finished model: output name -> (the result it shows, its shape)."""
        shown = [(value, name) for name, (value, _) in outputs.items() if value != name]
        nodes = [*self._nodes, *(helper.make_node("Identity", [value], [name]) for value, name in shown)]

        def described(shapes: Iterable[tuple[str, Sequence[str | int]]]) -> list[Any]:
            return [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in shapes]

        graph = helper.make_graph(
            nodes,
            PRODUCER,
            described(self.inputs.items()),
            described((name, shape) for name, (_, shape) in outputs.items()),
            list(self._constants.values()),
        )
        versions = {"": OPSET, ML_DOMAIN: ML_OPSET}
        opsets = [helper.make_opsetid(domain, versions[domain]) for domain in sorted({"", *(n.domain for n in nodes)})]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name=PRODUCER)
        checker.check_model(model, full_check=True)
        return model

    def values(self, wanted: Sequence[str], inputs: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Return intermediate results as they are for ``inputs``, in pieces that do not fill the memory."""
        outputs = {f"seen_{i}": (name, ("houses", None)) for i, name in enumerate(wanted)}
        nodes = [*self._nodes, *(helper.make_node("Identity", [value], [name]) for name, (value, _) in outputs.items())]
        graph = helper.make_graph(
            nodes,
            PRODUCER,
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in self.inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
            list(self._constants.values()),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        evaluator = ReferenceEvaluator(model)
        count = len(next(iter(inputs.values())))
        pieces: list[list[Any]] = []
        with np.errstate(all="ignore"):  # what is not measured is NaN all the way, that is the point
            for begin in range(0, count, PIECE):
                feed = {name: values[begin : begin + PIECE] for name, values in inputs.items()}
                pieces.append(list(evaluator.run(list(outputs), feed)))
        return [np.concatenate([np.asarray(piece[i], np.float32) for piece in pieces]) for i in range(len(wanted))]


PIECE = 20_000  # rows at a time
