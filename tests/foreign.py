"""Models of other people, written with their tools, and bundles of them: a manifest, and no line of ours."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, ValueInfoProto

    Arrays = Mapping[str, NDArray[Any]]

FLOAT, DOUBLE, INT64, BOOL = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL

HEAD = """\
name = "{name}"
version = "1.0.0"
task = "custom"
licence = "MIT"
cadence_s = 600
min_coverage = 0.0
max_runtime_ms = {max_runtime_ms}
model = {{ file = "model.onnx", sha256 = "SHA256", opset = {opset} }}
"""


def head(name: str, *, max_runtime_ms: float = 500.0, opset: int = 17) -> str:
    """Return the first lines of a manifest."""
    return HEAD.format(name=name, max_runtime_ms=max_runtime_ms, opset=opset)


def tensor(name: str, kind: int, *shape: str | int | None) -> ValueInfoProto:
    """Return the description of a tensor."""
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    constants: Arrays | None = None,
    opset: int = 17,
) -> ModelProto:
    """Return a plain ONNX graph."""
    kept = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "foreign", list(inputs), list(outputs), kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def write(root: Path, manifest: str, model: ModelProto, inputs: Arrays, outputs: Arrays | None = None) -> Path:
    """Write a bundle under ``root`` and return its directory; outputs that are not given are what the model says."""
    name = manifest.partition('name = "')[2].partition('"')[0]
    directory = root / name / "1.0.0"
    directory.mkdir(parents=True)
    content = model.SerializeToString()
    (directory / "model.onnx").write_bytes(content)
    (directory / "manifest.toml").write_text(manifest.replace("SHA256", hashlib.sha256(content).hexdigest()))
    (directory / "CARD.md").write_text("# A model of somebody else\n")
    if outputs is None:
        session = ort.InferenceSession(content)
        names = [o.name for o in session.get_outputs()]
        rows = len(next(iter(inputs.values())))
        fixed = any(i.shape[0] == 1 for i in session.get_inputs())
        parts = [{n: v[i : i + 1] for n, v in inputs.items()} for i in range(rows)] if fixed else [dict(inputs)]
        said = [session.run(names, part) for part in parts]
        outputs = {
            n: np.concatenate([s[i] for s in said]) for i, n in enumerate(names) if isinstance(said[0][i], np.ndarray)
        }
    arrays = {f"in.{n}": v for n, v in inputs.items()} | {f"out.{n}": v for n, v in outputs.items()}
    np.savez(directory / "selftest.npz", **arrays)  # type: ignore[arg-type]  # numpy's stubs take the names for its own
    return directory


def air_from_sklearn(root: Path) -> Path:
    """Write a boosted regression and a classifier of scikit-learn's, on six steps of two signals laid out flat."""
    from skl2onnx import to_onnx  # noqa: PLC0415  # two seconds, which only these tests pay
    from sklearn.ensemble import GradientBoostingRegressor  # noqa: PLC0415

    rng = np.random.default_rng(0)
    x = rng.uniform(300, 3_000, (200, 12)).astype(np.float32)
    y = x[:, -2] * 0.5 + x[:, -4] * 0.3 + rng.normal(0, 10, 200)
    fitted = GradientBoostingRegressor(n_estimators=10, max_depth=2, random_state=0).fit(x, y)
    model = to_onnx(fitted, x[:1], target_opset={"": 17, "ai.onnx.ml": 3})
    manifest = (
        head("air")
        + """
[[input]]
name = "X"
shape = ["houses", 12]
grid = { step_s = 600, length = 6 }
features = [{ signal = "co2" }, { signal = "noise" }]
fill = 0.0

[[output]]
name = "variable"
meaning = "value"
target = "co2_soon"
unit = "ppm"
"""
    )
    return write(root, manifest, model, {"X": x[:4]})


def litter_from_sklearn(root: Path) -> Path:
    """Write a classifier of scikit-learn's: its labels are left out of the manifest, its probabilities are read."""
    from skl2onnx import to_onnx  # noqa: PLC0415  # as above
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    rng = np.random.default_rng(1)
    x = rng.normal(50, 20, (200, 4)).astype(np.float32)
    fitted = LogisticRegression(max_iter=500).fit(x, (x.sum(axis=1) > 200).astype(int))
    model = to_onnx(fitted, x[:1], target_opset={"": 17, "ai.onnx.ml": 3}, options={"zipmap": False})
    manifest = (
        head("litter")
        + """
[[input]]
name = "X"
shape = ["n", 4]
grid = { step_s = 1800, length = 4 }
features = [{ signal = "humidity", aggregate = "max" }]
fill = 0.0

[[output]]
name = "probabilities"
meaning = "probabilities"
target = "litter"
labels = ["dry", "wet"]
"""
    )
    return write(root, manifest, model, {"X": x[:3]})


def one_by_one(root: Path) -> Path:
    """Write a plain graph: fixed batch of 1, float64, a mask, odd windows, facts, quantiles that are not ours."""
    manifest = (
        head("eins")
        + """
[[input]]
name = "fenster"
dtype = "float64"
shape = [1, 5, 1]
grid = { step_s = 1200, length = 5 }
features = [{ signal = "co2", aggregate = "max" }]
fill = 0.0
mask = "gemessen"

[[input]]
name = "uhr"
dtype = "float64"
shape = [1, 2]
facts = ["hour_sin", "hour_cos"]

[[output]]
name = "spanne"
meaning = "quantiles"
target = "co2"
quantiles = [0.25, 0.75]
horizons = ["30min"]
unit = "ppm"
"""
    )
    nodes = [
        helper.make_node("Mul", ["fenster", "gemessen"], ["seen"]),
        helper.make_node("ReduceMax", ["seen"], ["most"], axes=[1, 2], keepdims=1),
        helper.make_node("ReduceSum", ["uhr", "axis"], ["clock"], keepdims=1),
        helper.make_node("Mul", ["clock", "zero"], ["nothing"]),
        helper.make_node("Add", ["most", "nothing"], ["middle"]),
        helper.make_node("Add", ["middle", "spread"], ["spanne"]),
    ]
    inputs = [tensor("fenster", DOUBLE, 1, 5, 1), tensor("gemessen", DOUBLE, 1, 5, 1), tensor("uhr", DOUBLE, 1, 2)]
    constants = {"axis": np.array([1]), "zero": np.zeros(1), "spread": np.array([[[-100.0, 100.0]]])}
    model = model_of(nodes, inputs, [tensor("spanne", DOUBLE, 1, 1, 2)], constants)
    given = {"fenster": np.full((2, 5, 1), 700.0), "gemessen": np.ones((2, 5, 1)), "uhr": np.zeros((2, 2))}
    return write(root, manifest, model, given)


def step_scorer(root: Path, signals: str = '["*"]') -> Path:
    """Write a model that scores single readings: how far each is from the mean of the four before it, 0 to 1."""
    manifest = (
        head("steps")
        + f"""
[[input]]
name = "last"
shape = ["readings", 5, 1]
series = {{ length = 5, columns = ["value"], signals = {signals} }}
fill = 0.0
mask = "there"

[[output]]
name = "score"
meaning = "score"
target = "readings"
"""
    )
    nodes = [
        helper.make_node("Mul", ["last", "there"], ["x"]),
        helper.make_node("Mul", ["x", "before"], ["past"]),
        helper.make_node("Mul", ["there", "before"], ["counted"]),
        helper.make_node("ReduceSum", ["past", "axes"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["counted", "axes"], ["count"], keepdims=0),
        helper.make_node("Max", ["count", "one"], ["n"]),
        helper.make_node("Div", ["sum", "n"], ["mean"]),
        helper.make_node("Mul", ["x", "newest"], ["only"]),
        helper.make_node("ReduceSum", ["only", "axes"], ["now"], keepdims=0),
        helper.make_node("Sub", ["now", "mean"], ["off"]),
        helper.make_node("Abs", ["off"], ["size"]),
        helper.make_node("Tanh", ["size"], ["squashed"]),
        helper.make_node("Min", ["count", "one"], ["known"]),
        helper.make_node("Mul", ["squashed", "known"], ["score"]),
    ]
    before = np.array([1, 1, 1, 1, 0], np.float32).reshape(1, 5, 1)
    constants = {
        "axes": np.array([1, 2]), "one": np.ones(1, np.float32), "before": before, "newest": 1 - before,
    }  # fmt: skip
    inputs = [tensor("last", FLOAT, "readings", 5, 1), tensor("there", FLOAT, "readings", 5, 1)]
    model = model_of(nodes, inputs, [tensor("score", FLOAT, "readings")], constants)
    rng = np.random.default_rng(3)
    given = {"last": rng.normal(size=(3, 5, 1)).astype(np.float32), "there": np.ones((3, 5, 1), np.float32)}
    return write(root, manifest, model, given)


CO2_NOW = """
[[input]]
name = "co2"
shape = ["houses", 1, 1]
grid = { step_s = 600, length = 1 }
features = [{ signal = "co2", aggregate = "last" }]
fill = 0.0

[[output]]
name = "said"
meaning = "value"
target = "TARGET"
"""


def slow_above(root: Path, limit: float) -> Path:
    """Write a model that counts for ever where a house has more CO2 than ``limit``."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["sum", "one"], ["more"])],
        "body",
        [tensor("i", INT64), tensor("go", BOOL), tensor("sum", FLOAT, 1)],
        [tensor("on", BOOL), tensor("more", FLOAT, 1)],
    )
    nodes = [
        helper.make_node("ReduceMax", ["co2"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "limit"], ["is_high"]),
        helper.make_node("Where", ["is_high", "ever", "once"], ["times"]),
        helper.make_node("Loop", ["times", "", "zero"], ["counted"], body=body),
        helper.make_node("Reshape", ["co2", "column"], ["flat"]),
        helper.make_node("Add", ["flat", "counted"], ["said"]),
    ]
    constants = {
        "limit": np.array(limit, np.float32), "ever": np.array(2**62), "once": np.array(1),
        "one": np.ones(1, np.float32), "zero": np.zeros(1, np.float32), "column": np.array([-1, 1]),
    }  # fmt: skip
    inputs, outputs = [tensor("co2", FLOAT, "houses", 1, 1)], [tensor("said", FLOAT, "houses", 1)]
    manifest = head("slow", max_runtime_ms=20.0) + CO2_NOW.replace("TARGET", "slow")
    given, said = {"co2": np.ones((2, 1, 1), np.float32)}, {"said": np.full((2, 1), 2, np.float32)}
    return write(root, manifest, model_of(nodes, inputs, outputs, constants), given, said)


def hog_above(root: Path, limit: float, name: str = "hog") -> Path:
    """Write a model that asks for 4 GB where a house has more CO2 than ``limit``; a limit below 0: always."""
    nodes = [
        helper.make_node("ReduceMax", ["co2"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "limit"], ["is_high"]),
        helper.make_node("Where", ["is_high", "much", "little"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["block"], value=numpy_helper.from_array(np.ones(1, np.float32))),
        helper.make_node("ReduceMax", ["block"], ["unit"], keepdims=1),
        helper.make_node("Reshape", ["co2", "column"], ["flat"]),
        helper.make_node("Mul", ["flat", "unit"], ["said"]),
    ]
    constants = {
        "limit": np.array(limit, np.float32), "much": np.array([10**9]), "little": np.array([1]),
        "column": np.array([-1, 1]),
    }  # fmt: skip
    inputs, outputs = [tensor("co2", FLOAT, "houses", 1, 1)], [tensor("said", FLOAT, "houses", 1)]
    given = {"co2": np.ones((2, 1, 1), np.float32)}
    manifest = head(name) + CO2_NOW.replace("TARGET", name)
    return write(
        root, manifest, model_of(nodes, inputs, outputs, constants), given, {"said": np.ones((2, 1), np.float32)}
    )


def nan_above(root: Path, limit: float) -> Path:
    """Write a model whose answer is no number where a house has more CO2 than ``limit``."""
    nodes = [
        helper.make_node("Reshape", ["co2", "column"], ["flat"]),
        helper.make_node("Sub", ["limit", "flat"], ["left"]),
        helper.make_node("Sqrt", ["left"], ["said"]),
    ]
    constants = {"limit": np.array([limit], np.float32), "column": np.array([-1, 1])}
    inputs, outputs = [tensor("co2", FLOAT, "houses", 1, 1)], [tensor("said", FLOAT, "houses", 1)]
    manifest = head("root") + CO2_NOW.replace("TARGET", "root")
    return write(root, manifest, model_of(nodes, inputs, outputs, constants), {"co2": np.ones((2, 1, 1), np.float32)})
