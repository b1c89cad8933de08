"""Writes a bundle: model, manifest, self-test and card, so that the agent takes it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from onnx.reference import ReferenceEvaluator

from agent.bundles import INPUT_PREFIX, MANIFEST, OUTPUT_PREFIX, SELFTEST, load_bundle
from agent.manifest import DEFAULT_MIN_COVERAGE
from agent.predict import Model
from agent.reference import AGES, EDGES, SHARE, USUAL, WEEK_DAYS, Histograms, columns_of
from models_onnx.train.graph import OPSET

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from agent.bundles import Bundle
    from agent.manifest import Feature, InputSpec, Output
    from models_onnx.train.data import Samples

REFERENCE = "reference.npz"
BANDS_END = (7, 14, 21, 28, 35)  # days of age: what a week of a flock's life is fed is compared with that week's
BIN_EDGES = (0.005, *(tenth / 10 for tenth in range(1, 10)), 0.995)  # shares of the training's values below each edge
LEAST_TO_BIN = 200  # values of one column in one band: of fewer, a share of 0.5 % is none at all
NOT_COMPARED = frozenset(  # age, clock, and curves of the age do not drift
    {"age_days", "day_number", "hour_sin", "hour_cos", "day_fraction", "reference.weight_g", "reference.feed_g"}
)

SELFTEST_ROWS = 6
UNHURRIED_MS = 600_000.0
MAX_RUNTIME_MS = 200.0  # under 1 ms for 20 houses on a desktop core, and a small gateway is ten times slower


def write_bundle(
    directory: Path,
    model: ModelProto,
    manifest: str,
    inputs: Mapping[str, NDArray[np.float32]],
    card: str,
    reference: Mapping[str, NDArray[np.float32]] | None = None,
) -> Bundle:
    """Write a bundle and return it as the agent loads it; ``SHA256`` in the manifest becomes the model's.

    The self-test is what ONNX's own reference implementation makes of ``inputs``. ``reference`` (of ``reference_of``)
    is what the model was fed in training: with it, the gateway sees drift.

    Raises:
        BundleError: the agent would not take it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    content = model.SerializeToString(deterministic=True)
    (directory / "model.onnx").write_bytes(content)
    manifest = manifest.replace("SHA256", hashlib.sha256(content).hexdigest())
    (directory / REFERENCE).unlink(missing_ok=True)
    if reference is not None:
        manifest = manifest.replace("\n[reference]\n", f'\n[reference]\nfeatures = "{REFERENCE}"\n')
        np.savez_compressed(directory / REFERENCE, allow_pickle=False, **reference)
    (directory / MANIFEST).write_text(manifest, encoding="utf-8")
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


class Rows(Protocol):
    """Many instants in columns."""

    @property
    def tensors(self) -> Mapping[str, NDArray[np.float32]]:
        """Return what a model is given, [n, …] by input name."""

    def __len__(self) -> int: ...


def said_by(model: Model, samples: Rows) -> dict[str, NDArray[np.float64]]:
    """Return what a model says at each instant, by output; thousands at once, so it may take its time."""
    manifest = model.manifest.model_copy(update={"max_runtime_ms": UNHURRIED_MS})
    houses = [{name: values[i] for name, values in samples.tensors.items()} for i in range(len(samples))]
    return Model(replace(model.bundle, manifest=manifest)).run(houses).outputs


@dataclass(frozen=True, slots=True)
class Head:
    """The words at the top of a manifest."""

    name: str
    version: str
    task: str
    cadence_s: int
    data: str  # sha256 of what it was trained on
    metrics: Mapping[str, float]
    max_runtime_ms: float = MAX_RUNTIME_MS


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
        f"max_runtime_ms = {head.max_runtime_ms}",
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
        elif spec.series is not None:
            lines += [f"series = {_toml(spec.series.model_dump())}"]
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


def reference_of(
    specs: Sequence[InputSpec],
    tensors: Mapping[str, NDArray[np.float32]],
    flock: NDArray[np.int64],
    age_days: NDArray[np.floating] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of ``reference.npz`` (agent/reference.py) of what a model is trained on.

    Args:
        specs: The model's inputs.
        tensors: What it is trained on, [n, …] by input.
        flock: Of each instant the number of its flock, [n].
        age_days: Of each instant the age of its flock, [n]; left out where a fact of the inputs says it.
    """
    age = _ages(specs, tensors) if age_days is None else np.asarray(age_days, np.float64)
    day = np.maximum(np.nan_to_num(age), 0).astype(np.int64)
    band = np.searchsorted(BANDS_END, age, side="right")
    arrays: dict[str, NDArray[np.float32]] = {AGES: np.array(BANDS_END, np.float32)}
    for spec in specs:
        if spec.grid is not None and spec.grid.end == "horizon":
            continue  # what it holds depends on the horizon that is run
        values = np.asarray(tensors[spec.name][:, -1] if spec.grid else tensors[spec.name], np.float64)
        compared = [name not in NOT_COMPARED for name in columns_of(spec)]
        ageless = np.array([name.startswith("outside_") for name in columns_of(spec)])  # the weather has no age
        found = _histograms(np.where(compared, values, np.nan), band, day, flock, ageless)
        for name, array in ((EDGES, found.edges), (SHARE, found.share), (USUAL, found.usual)):
            arrays[name + spec.name] = array.astype(np.float32)
    return arrays


def _ages(specs: Sequence[InputSpec], tensors: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    for spec in specs:
        for name in ("age_days", "day_number"):
            if name in spec.facts:
                return tensors[spec.name][:, spec.facts.index(name)].astype(np.float64)
    message = "no fact of the inputs is the age: give reference_of the age_days of the instants"
    raise ValueError(message)


def _histograms(
    values: NDArray[np.float64],
    band: NDArray[np.intp],
    day: NDArray[np.int64],
    flock: NDArray[np.int64],
    ageless: NDArray[np.bool_],
) -> Histograms:
    """Return the histograms of some columns, [n, columns], and what single flocks make of them within a week.

    ``ageless`` columns have the same one in every band.
    """
    bands, columns, bins = len(BANDS_END) + 1, values.shape[1], len(BIN_EDGES) + 1
    edges = np.full((bands, columns, bins - 1), np.nan)
    for b in range(bands):
        for c in range(columns):
            known = values[:, c] if ageless[c] else values[band == b, c]
            known = known[np.isfinite(known)]
            if len(known) >= LEAST_TO_BIN:
                # as the file holds them: what lies on an edge must fall on the same side there
                edges[b, c] = np.quantile(known, BIN_EDGES).astype(np.float32)
    flocks, flock = np.unique(flock, return_inverse=True)
    counts = np.zeros((len(flocks), int(day.max(initial=0)) + 1, columns, bins), np.int64)
    blank = Histograms(edges, np.zeros((bands, columns, bins)), np.full(columns, np.nan))
    for b in range(bands):
        of_band = np.flatnonzero(band == b)
        found = blank.bins_of(b, values[of_band])
        row, column = np.nonzero(found >= 0)
        np.add.at(counts, (flock[of_band][row], day[of_band][row], column, found[row, column]), 1)
    band_of_day = np.searchsorted(BANDS_END, np.arange(counts.shape[1]), side="right")
    whole = np.stack([counts[:, band_of_day == b].sum(axis=(0, 1)) for b in range(bands)])
    whole[:, ageless] = whole[:, ageless].sum(axis=0)
    share = (whole / np.maximum(whole.sum(axis=2, keepdims=True), 1)).astype(np.float32).astype(np.float64)
    known_share = Histograms(edges, share, blank.usual)
    usual = blank.usual
    for of_flock in counts:
        for last in range(len(of_flock)):
            week = range(max(0, last - WEEK_DAYS + 1), last + 1)
            usual = np.fmax(usual, known_share.index_of((int(band_of_day[d]), of_flock[d]) for d in week))
    edges[:, np.isnan(usual)] = np.nan  # a week of training had too few values to say what is usual
    return Histograms(edges, share, usual)


def digest_of(arrays: Iterable[NDArray[np.generic]]) -> str:
    """Return the sha256 of training data, rounded to what a float's last bits cannot change."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.round(array.astype(np.float64), 3).tobytes())
    return digest.hexdigest()
