"""What the models cost: one cycle of all shipped bundles for twenty houses on one core, and their size."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import onnxruntime as ort
import pytest

from agent.bundles import load_bundle, shipped_directory, versions_in
from agent.clock import FarmDays
from agent.predict import Predictor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agent.bundles import Bundle
    from agent.predict import Model
    from tests.bench.conftest import Table

pytestmark = pytest.mark.bench

HOUSES, CYCLES = 20, 200


def fed(model: Model) -> list[dict[str, NDArray[Any]]]:
    """Return inputs of a full cycle: the self-test's, for every house and every horizon that is judged in hindsight."""
    inputs = model.bundle.selftest_inputs
    horizons = {horizon for output in model.manifest.output for horizon in output.horizons}
    runs = HOUSES * (len(horizons) if model.manifest.task == "expect" else 1)
    rows = len(next(iter(inputs.values())))
    return [{name: values[i % rows] for name, values in inputs.items()} for i in range(runs)]


def bare(bundle: Bundle, houses: list[dict[str, NDArray[Any]]]) -> float:
    """Return the milliseconds of onnxruntime alone, as it comes, on the same tensors."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(bundle.model, options)
    feed = {name: np.stack([house[name] for house in houses]) for name in houses[0]}
    took = []
    for _ in range(CYCLES):
        begun = time.thread_time()
        session.run(None, feed)
        took.append(time.thread_time() - begun)
    return float(np.median(took)) * 1000


def test_all_models_for_twenty_houses(table: Table) -> None:
    """All bundles that run by default, each output due; the floor is onnxruntime alone on stacked tensors."""
    root = shipped_directory()
    paths = [root / name / versions[-1] for name, versions in versions_in(root).items()]
    bundles = [bundle for bundle in map(load_bundle, paths) if not bundle.manifest.scored_signals]
    predictor = Predictor.load(bundles, FarmDays(ZoneInfo("UTC")))
    assert predictor.refused == ()
    work = [(model, fed(model)) for model in predictor.models]
    took = []
    for _ in range(CYCLES):
        begun = time.thread_time()
        for model, houses in work:
            assert not any(model.run(houses).set_aside)
        took.append(time.thread_time() - begun)
    floor = sum(bare(model.bundle, houses) for model, houses in work)
    names = ", ".join(str(model) for model, _ in work)
    table.add(
        f"inference, {HOUSES} houses, one core: {names}", float(np.median(took)) * 1000, "ms", floor=floor, goal=20
    )
    size = sum(file.stat().st_size for path in paths for file in path.iterdir())
    table.add(f"all {len(paths)} bundles on the disk", size / 1e6, "MB", goal=5)
    for path in paths:
        [model] = Predictor.load([load_bundle(path)], FarmDays(ZoneInfo("UTC"))).models
        if model.manifest.scored_signals:
            tensors = {name: np.repeat(v[-1:], HOUSES, axis=0) for name, v in model.bundle.selftest_inputs.items()}
            begun = time.thread_time()
            model.run_stacked(tensors)
            table.note(f"{model}: one reading", f"{(time.thread_time() - begun) / HOUSES * 1000:.2f} ms")
