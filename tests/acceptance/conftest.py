"""What the acceptance tests share: a small model bundle that is in order."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

MANIFEST = """\
name = "weight"
version = "1.0.0"
task = "weight"
licence = "Apache-2.0"
cadence_s = 3600
min_coverage = 0.0
model = { file = "model.onnx", sha256 = "SHA256", opset = 17 }

[[input]]
name = "course"
shape = ["houses", 3, 1]
grid = { step_s = 86400, length = 3, align = "day" }
features = [{ signal = "water", aggregate = "sum" }]
fill = 0.0

[[output]]
name = "weight"
meaning = "quantiles"
target = "weight_g"
quantiles = [0.1, 0.5, 0.9]
horizons = ["1d"]
"""


def write_bundle(directory: Path) -> Path:
    """Write a bundle that "predicts" the water of three days, give or take a hundred; return its directory."""
    weights: dict[str, NDArray[Any]] = {
        "axes": np.array([1, 2], np.int64),
        "shape": np.array([-1, 1, 1], np.int64),
        "spread": np.array([[[-100, 0, 100]]], np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["course", "axes"], ["total"], keepdims=0),
            helper.make_node("Reshape", ["total", "shape"], ["column"]),
            helper.make_node("Add", ["column", "spread"], ["weight"]),
        ],
        "small",
        [helper.make_tensor_value_info("course", TensorProto.FLOAT, ["houses", 3, 1])],
        [helper.make_tensor_value_info("weight", TensorProto.FLOAT, ["houses", 1, 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content = model.SerializeToString()
    directory.mkdir(parents=True)
    (directory / "model.onnx").write_bytes(content)
    (directory / "manifest.toml").write_text(MANIFEST.replace("SHA256", hashlib.sha256(content).hexdigest()))
    (directory / "CARD.md").write_text("# A model for tests\n")
    course = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    outputs = course.sum(axis=(1, 2))[:, None, None] + weights["spread"]
    np.savez(directory / "selftest.npz", **{"in.course": course, "out.weight": outputs.astype(np.float32)})
    return directory


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[[], Path]:
    """Give a function that writes a good bundle, ``<tmp_path>/models/weight/1.0.0``, and returns its directory."""
    return lambda: write_bundle(tmp_path / "models" / "weight" / "1.0.0")
