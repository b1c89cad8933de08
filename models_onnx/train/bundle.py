"""Writes a bundle: model, manifest, self-test and card, so that the agent takes it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx.reference import ReferenceEvaluator

from agent.bundles import INPUT_PREFIX, MANIFEST, OUTPUT_PREFIX, SELFTEST, load_bundle
from agent.manifest import DEFAULT_MIN_COVERAGE
from agent.predict import Model
from models_onnx.train.graph import OPSET

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from agent.bundles import Bundle
    from agent.manifest import Feature, InputSpec, Output
    from models_onnx.train.data import Samples

SELFTEST_ROWS = 6
MAX_RUNTIME_MS = 200.0  # under 1 ms for 20 houses on a desktop core, and a small gateway is ten times slower


def write_bundle(
    directory: Path,
    model: ModelProto,
    manifest: str,
    inputs: Mapping[str, NDArray[np.float32]],
    card: str,
) -> Bundle:
    """Write a bundle and return it as the agent loads it; ``SHA256`` in the manifest becomes the model's.

    The self-test is what ONNX's own reference implementation makes of ``inputs``.

    Raises:
        BundleError: the agent would not take it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    content = model.SerializeToString(deterministic=True)
    (directory / "model.onnx").write_bytes(content)
    (directory / MANIFEST).write_text(manifest.replace("SHA256", hashlib.sha256(content).hexdigest()), encoding="utf-8")
    (directory / "CARD.md").write_text(card, encoding="utf-8")
    feed = dict(inputs)
    names = [output.name for output in model.graph.output]
    with np.errstate(all="ignore"):  # NaN stands for what is not measured
        values = ReferenceEvaluator(model).run(names, feed)
    outputs = {name: np.asarray(value) for name, value in zip(names, values, strict=True)}
    arrays = {INPUT_PREFIX + n: v for n, v in feed.items()} | {OUTPUT_PREFIX + n: v for n, v in outputs.items()}
    np.savez_compressed(directory / SELFTEST, **arrays)
    bundle = load_bundle(directory)
    Model(bundle)  # runs the self-test
    return bundle


def for_selftest(samples: Samples) -> dict[str, NDArray[np.float32]]:
    """Return a few instants of different flocks, ages and sensors."""
    rows = np.linspace(0, len(samples) - 1, SELFTEST_ROWS).astype(np.intp)
    return {name: values[rows] for name, values in samples.tensors.items()}


def said_by(model: Model, samples: Samples) -> dict[str, NDArray[np.float64]]:
    """Return what a model says at each instant, by output."""
    houses = [{name: values[i] for name, values in samples.tensors.items()} for i in range(len(samples))]
    return model.run(houses).outputs


@dataclass(frozen=True, slots=True)
class Head:
    """The words at the top of a manifest."""

    name: str
    version: str
    task: str
    cadence_s: int
    data: str  # sha256 of what it was trained on
    metrics: Mapping[str, float]


def manifest_text(head: Head, inputs: Sequence[InputSpec], outputs: Sequence[Output]) -> str:
    """Return a manifest, its model's hash still to be filled in."""
    lines = [
        "# Written by `python -m models_onnx.train`; how good it is: CARD.md and ../../RESULTS.md",
        f"name = {_toml(head.name)}",
        f"version = {_toml(head.version)}",
        f"task = {_toml(head.task)}",
        'licence = "Apache-2.0"',
        'min_agent_version = "0.1.0"',
        f'model = {{ file = "model.onnx", sha256 = "SHA256", opset = {OPSET} }}',
        f"cadence_s = {head.cadence_s}",
        f"min_coverage = {DEFAULT_MIN_COVERAGE}",
        f"max_runtime_ms = {MAX_RUNTIME_MS}",
    ]
    for spec in inputs:
        lines += [
            "",
            "[[input]]",
            f"name = {_toml(spec.name)}",
            f"dtype = {_toml(spec.dtype)}",
            f"shape = {_toml(list(spec.shape))}",
        ]
        if spec.grid is not None:
            lines += [f"grid = {_toml(spec.grid.model_dump())}", "features = ["]
            lines += [f"  {_toml(_said(feature))}," for feature in spec.features]
            lines += ["]"]
        else:
            lines += [f"facts = {_toml(list(spec.facts))}"]
        lines += ['fill = "nan"']
    for output in outputs:
        said = {
            name: value for name, value in output.model_dump(exclude={"of", "judge"}).items() if value not in (None, ())
        }
        lines += ["", "[[output]]", *(f"{name} = {_toml(value)}" for name, value in said.items())]
        if output.of is not None:
            lines += [f"of = {_toml(_said(output.of))}"]
        if output.judge is not None:
            lines += [f"judge = {_toml(output.judge.model_dump())}"]
    lines += ["", "[reference]", f"data = {_toml(head.data)}", f"metrics = {_toml(dict(head.metrics))}", ""]
    return "\n".join(lines)


def _said(feature: Feature) -> dict[str, object]:
    return {name: value for name, value in feature.model_dump().items() if value is not None}


def _toml(value: object) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)


def digest_of(arrays: Iterable[NDArray[np.generic]]) -> str:
    """Return the sha256 of training data, rounded to what a float's last bits cannot change."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.round(array.astype(np.float64), 3).tobytes())
    return digest.hexdigest()
