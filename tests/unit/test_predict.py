from __future__ import annotations

import hashlib
import re
import time
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.bundles import load_bundle
from agent.clock import FarmDays
from agent.domain import SeriesKey, to_ms
from agent.errors import BundleError
from agent.predict import Model, Predictor
from agent.readings import Readings
from agent.signals import CATALOGUE, Signal
from agent.strains import COBB_500
from agent.window import FlockContext, Window
from tests import foreign

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

DAYS = FarmDays(ZoneInfo("UTC"))
START = datetime(2026, 5, 1, tzinfo=UTC)

FOREIGN = """
name = "barn-air"
version = "0.3.1"
task = "custom"
licence = "MIT"
cadence_s = 1800
model = { file = "net.onnx", sha256 = "SHA256", opset = 17 }

[[input]]
name = "luft"
dtype = "float64"
shape = ["batch", 5, 3]
grid = { step_s = 1200, length = 5 }
features = [
  { signal = "co2", aggregate = "max" },
  { signal = "noise", aggregate = "median" },
  { signal = "energy", aggregate = "sum", per = "live_bird" },
]
fill = 0.0
mask = "gemessen"

[[input]]
name = "wer"
shape = ["batch", 3]
facts = ["age_days", "strain:cobb500", "house.orientation"]
fill = 0.0

[[output]]
name = "klasse"
meaning = "probabilities"
target = "litter"
labels = ["dry", "wet"]

[[output]]
name = "spanne"
meaning = "quantiles"
target = "co2"
quantiles = [0.25, 0.5, 0.75]
horizons = ["2h", "6h"]
"""


def foreign_model(houses: str | int = "batch", *, crossed: bool = False) -> onnx.ModelProto:
    """Return a model of somebody else: masked means of the window and two facts, then a softmax and six quantiles."""

    def value(name: str, kind: int, *shape: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    rng = np.random.default_rng(0)
    spread = np.array([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0]], np.float32)
    weights: dict[str, NDArray[Any]] = {
        "axes": np.array([1], np.int64),
        "w": rng.normal(0, 0.1, (6, 2)).astype(np.float32),
        "u": rng.normal(0, 0.1, (6, 1)).astype(np.float32),
        "spread": (-spread if crossed else spread)[None],
        "shape": np.array([-1, 1, 1], np.int64),
    }
    nodes = [
        helper.make_node("Mul", ["luft", "gemessen"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "axes"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["total32"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["total32", "wer"], ["x"], axis=1),
        helper.make_node("MatMul", ["x", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["klasse"], axis=1),
        helper.make_node("MatMul", ["x", "u"], ["middle"]),
        helper.make_node("Reshape", ["middle", "shape"], ["middle3"]),
        helper.make_node("Add", ["middle3", "spread"], ["spanne"]),
    ]
    inputs = [
        value("luft", TensorProto.DOUBLE, houses, 5, 3),
        value("gemessen", TensorProto.DOUBLE, houses, 5, 3),
        value("wer", TensorProto.FLOAT, houses, 3),
    ]
    outputs = [value("klasse", TensorProto.FLOAT, houses, 2), value("spanne", TensorProto.FLOAT, houses, 2, 3)]
    initializers = [numpy_helper.from_array(v, n) for n, v in weights.items()]
    graph = helper.make_graph(nodes, "foreign", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def selftest_of(model: onnx.ModelProto, rows: int = 2) -> dict[str, NDArray[Any]]:
    """Return inputs and the outputs that the reference implementation of ONNX gives for them."""
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - takes half a second, and only here

    rng = np.random.default_rng(7)
    inputs: dict[str, NDArray[Any]] = {
        "luft": rng.normal(size=(rows, 5, 3)),
        "gemessen": np.ones((rows, 5, 3)),
        "wer": rng.normal(size=(rows, 3)).astype(np.float32),
    }
    values = ReferenceEvaluator(model).run(["klasse", "spanne"], inputs)
    assert isinstance(values, list)
    outputs = dict(zip(["klasse", "spanne"], values, strict=True))
    return {f"in.{n}": v for n, v in inputs.items()} | {f"out.{n}": np.asarray(v) for n, v in outputs.items()}


def write(
    directory: Path,
    manifest: str = FOREIGN,
    model: onnx.ModelProto | None = None,
    selftest: dict[str, NDArray[Any]] | None = None,
) -> Path:
    """Write a bundle of a foreign model."""
    directory.mkdir(parents=True, exist_ok=True)
    model = foreign_model() if model is None else model
    content = model.SerializeToString()
    (directory / "net.onnx").write_bytes(content)
    (directory / "manifest.toml").write_text(manifest.replace("SHA256", hashlib.sha256(content).hexdigest()))
    np.savez(directory / "selftest.npz", **(selftest_of(foreign_model()) if selftest is None else selftest))  # type: ignore[arg-type]  # numpy's stubs take the names for its own
    return directory


def a_window(house: str) -> Window:
    """Return a window with six hours of what the foreign model looks at."""
    names = ("co2", "noise", "energy")
    window = Window(house, {n: CATALOGUE.get(n, Signal(n)) for n in names}, DAYS)
    times = np.array([to_ms(START + timedelta(minutes=10 * i)) for i in range(1, 37)], np.int64)
    key = np.repeat(np.arange(3, dtype=np.int32), 36)
    value = np.random.default_rng(len(house)).uniform(400, 900, 108)
    zeros = np.zeros(108, np.uint8)
    keys = tuple(SeriesKey(house, n) for n in names)
    window.add(Readings(keys, key, np.tile(times, 3), value, zeros, zeros, np.tile(times, 3)))
    return window


def test_a_foreign_model_runs_by_its_manifest_alone(tmp_path: Path) -> None:
    """Other windows, names, types, signals and outputs than ours: from readings to probabilities, no line of code."""
    predictor = Predictor.load([load_bundle(write(tmp_path / "barn-air" / "0.3.1"))], DAYS)
    assert predictor.refused == ()
    [model] = predictor.models
    at = START + timedelta(hours=6)
    flock = FlockContext(to_ms(START), COBB_500, birds_placed=20_000)
    windows = [a_window("house1"), a_window("house22"), a_window("house333")]
    inputs = [w.inputs(model.manifest.input, at, flock) for w in windows]
    assert [i.coverage for i in inputs] == [1, 1, 1]
    result = model.run([i.tensors for i in inputs])
    assert result.set_aside == (None, None, None)
    assert result.outputs["klasse"].shape == (3, 2)
    assert result.outputs["klasse"].sum(axis=1) == pytest.approx(np.ones(3))
    assert result.outputs["spanne"].shape == (3, 2, 3)
    alone = model.run([inputs[1].tensors])
    assert alone.outputs["spanne"][0] == pytest.approx(result.outputs["spanne"][1])


def test_a_model_for_one_house_at_a_time_is_run_house_by_house(tmp_path: Path) -> None:
    manifest = FOREIGN.replace('["batch", 5, 3]', "[1, 5, 3]").replace('["batch", 3]', "[1, 3]")
    one = Model(load_bundle(write(tmp_path / "one", manifest, foreign_model(1))))
    many = Model(load_bundle(write(tmp_path / "many")))
    rng = np.random.default_rng(2)
    houses: list[dict[str, NDArray[Any]]] = [
        {"luft": rng.normal(size=(5, 3)), "gemessen": np.ones((5, 3)), "wer": rng.normal(size=3).astype(np.float32)}
        for _ in range(4)
    ]
    assert one.run(houses).outputs["spanne"] == pytest.approx(many.run(houses).outputs["spanne"], rel=1e-5)


def changed(selftest: dict[str, NDArray[Any]], name: str, by: float) -> dict[str, NDArray[Any]]:
    """Return a self-test with one output moved."""
    return selftest | {name: selftest[name] + by}


def manifest_with(old: str, new: str) -> dict[str, Any]:
    """Return a case whose manifest says something else."""
    assert old in FOREIGN
    return {"manifest": FOREIGN.replace(old, new)}


def selftest_with(name: str, values: NDArray[Any], rows: int = 2) -> dict[str, Any]:
    """Return a case whose self-test holds another array."""
    return {"selftest": selftest_of(foreign_model(), rows) | {name: values}}


SPANS = selftest_of(foreign_model())["out.spanne"]
LONGER = FOREIGN.replace("5, 3]", "6, 3]").replace("length = 5", "length = 6")

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("self-test differs", selftest_with("out.spanne", SPANS + 0.05), r"'spanne' differs by up to 0\.05"),
    ("an input missing", manifest_with('mask = "gemessen"', ""), r"differ in gemessen; correct \[\[input\]\]"),
    ("other input name", manifest_with('"wer"', '"who"'), r"differ in wer, who"),
    ("no such output", manifest_with('"klasse"', '"class"'), r"has no output 'class', only \['klasse', 'spanne'\]"),
    ("other type", manifest_with('dtype = "float64"', ""), r"'luft' is tensor\(double\), the manifest says float32"),
    ("other shape", {"manifest": LONGER}, r"'luft' has shape \['batch', 5, 3\], the manifest says \['batch', 6, 3\]"),
    ("fixed houses", {"model": foreign_model(1)}, r"input 'luft' has shape \[1, 5, 3\].*one by one"),
    ("other output shape", manifest_with('["dry", "wet"]', '["dry"]'), r"'klasse' has shape .*\['houses', 1\]"),
    ("fewer rows", selftest_with("out.spanne", SPANS, rows=3), r"came as \(3, 2, 3\), not \(2, 2, 3\)"),
    ("does not run", selftest_with("in.wer", np.zeros((2, 9), np.float32)), r"the model does not run on it"),
]


@pytest.mark.parametrize(("kind", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_model_that_does_not_fit_is_refused_and_the_others_run(
    tmp_path: Path, kind: dict[str, Any], message: str
) -> None:
    def renamed(arrays: dict[str, NDArray[Any]], manifest: str) -> dict[str, NDArray[Any]]:
        for old, new in (("in.wer", "in.who"), ("out.klasse", "out.class")):
            if f'"{new[new.index(".") + 1 :]}"' in manifest:
                arrays = {new if n == old else n: v for n, v in arrays.items()}
        return arrays

    manifest = kind.get("manifest", FOREIGN)
    selftest = renamed(kind.get("selftest", selftest_of(foreign_model())), manifest)
    bad = load_bundle(write(tmp_path / "bad", manifest, kind.get("model"), selftest))
    with pytest.raises(BundleError, match=message) as raised:
        Model(bad)
    assert str(tmp_path / "bad") in str(raised.value)
    good = load_bundle(write(tmp_path / "good"))
    predictor = Predictor.load([bad, good], DAYS)
    assert [str(m) for m in predictor.models] == ["barn-air/0.3.1"]
    assert [r.reason for r in predictor.refused] == [str(raised.value)]


def test_a_graph_that_onnxruntime_does_not_take_is_refused(tmp_path: Path) -> None:
    model = foreign_model()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(BundleError, match=r"net\.onnx: onnxruntime does not load it .*export it again"):
        Model(load_bundle(write(tmp_path / "bad", model=model)))


def a_house(fill: float = 1.0) -> dict[str, NDArray[Any]]:
    """Return one house's tensors for the foreign model."""
    return {"luft": np.full((5, 3), fill), "gemessen": np.ones((5, 3)), "wer": np.zeros(3, np.float32)}


def test_a_result_with_nan_is_set_aside_for_its_house_only(tmp_path: Path) -> None:
    model = Model(load_bundle(write(tmp_path / "b")))
    result = model.run([a_house(), a_house(float("nan")), a_house()])
    assert result.set_aside == (None, "output 'klasse' holds NaN or infinity", None)
    assert model.counters.set_aside == 1
    assert model.counters.runs == 1


def test_quantiles_that_cross_are_put_in_order(tmp_path: Path) -> None:
    crossed = foreign_model(crossed=True)
    model = Model(load_bundle(write(tmp_path / "b", model=crossed, selftest=selftest_of(crossed))))
    spans = model.run([a_house()]).outputs["spanne"][0]
    assert (np.diff(spans, axis=-1) > 0).all()


def test_a_run_is_ended_at_its_limit_and_told(tmp_path: Path) -> None:
    """A loop without end costs the processor time that the manifest allows, and no more."""
    bundle = load_bundle(foreign.slow_above(tmp_path, 10.0))
    model = Model(bundle, is_bounded=True)
    assert model.run([co2(1.0)]).set_aside == (None,)
    begun = time.thread_time()
    result = model.run([co2(1.0), co2(99.0)])
    assert time.thread_time() - begun < 2.0
    assert result.outputs == {}
    assert all(re.match(r"a run was ended after \d+ ms, max_runtime_ms is 20", str(why)) for why in result.set_aside)
    assert (model.counters.slow, model.counters.failed, model.counters.strikes) == (1, 0, 1)
    assert model.run([co2(2.0)]).set_aside == (None,)
    assert model.counters.strikes == 0


def test_memory_beyond_the_limit_is_a_failed_run_and_the_next_one_works(tmp_path: Path) -> None:
    model = Model(load_bundle(foreign.hog_above(tmp_path, 10.0)), is_bounded=True)
    reason = "the run failed: it wants more memory than the 128 MB that all models share"
    assert model.run([co2(99.0)]).set_aside == (reason,)
    assert model.run([co2(1.0)]).set_aside == (None,)


def test_a_model_that_fails_three_times_rests_and_is_tried_again(tmp_path: Path) -> None:
    """The others run on; after the rest one more failure is enough, and a run that works clears all."""
    bundles = [load_bundle(foreign.hog_above(tmp_path, 10.0)), load_bundle(foreign.nan_above(tmp_path, 5.0))]
    predictor = Predictor.load(bundles, DAYS)
    hog = predictor.models[0]

    def due(hours: float) -> list[str]:
        return [str(d.model) for d in predictor.due(START + timedelta(hours=hours))]

    for _ in range(2):
        hog.run([co2(99.0)])
    assert due(1) == ["hog/1.0.0", "root/1.0.0"]
    hog.run([co2(99.0)])
    assert due(2) == due(7.9) == ["root/1.0.0"]
    [(_, why), (_, fine)] = predictor.troubles()
    assert why == (
        "set aside until 2026-05-01T08:00Z: 3 runs in a row failed, the run failed: it wants more memory than the "
        "128 MB that all models share"
    )
    assert fine is None
    assert due(8.5) == ["hog/1.0.0", "root/1.0.0"]
    hog.run([co2(99.0)])
    assert due(9) == ["root/1.0.0"]
    assert due(15) == ["hog/1.0.0", "root/1.0.0"]
    hog.run([co2(1.0)])
    assert hog.counters.strikes == 0
    assert [why for _, why in predictor.troubles()] == [None, None]


def test_an_output_that_is_no_tensor_of_numbers_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["co2", "column"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["said"], to=TensorProto.STRING),
    ]
    inputs = [foreign.tensor("co2", foreign.FLOAT, "houses", 1, 1)]
    outputs = [foreign.tensor("said", TensorProto.STRING, "houses", 1)]
    model = foreign.model_of(nodes, inputs, outputs, {"column": np.array([-1, 1])})
    manifest = foreign.head("words") + foreign.CO2_NOW.replace("TARGET", "words")
    given = {"co2": np.ones((2, 1, 1), np.float32)}
    directory = foreign.write(tmp_path, manifest, model, given, {"said": np.ones((2, 1))})
    with pytest.raises(BundleError, match=r"'said' is tensor\(string\), and only tensors of numbers are read"):
        Model(load_bundle(directory))


def test_a_score_beyond_0_to_1_is_set_aside(tmp_path: Path) -> None:
    model = Model(load_bundle(foreign.step_scorer(tmp_path)))
    assert model.run_stacked(steps(2.0)).set_aside == (None,)
    model.counters.set_aside = 0
    wild = model.run_stacked(steps(float("inf")))
    assert wild.set_aside == ("output 'score' holds NaN or infinity",)


def steps(newest: float) -> dict[str, NDArray[Any]]:
    """Return one window of the model that scores readings."""
    last = np.array([1, 1, 1, 1, newest], np.float32).reshape(1, 5, 1)
    return {"last": last, "there": np.ones((1, 5, 1), np.float32)}


def co2(value: float) -> dict[str, NDArray[Any]]:
    """Return one house's tensors for the models that look at CO2 now."""
    return {"co2": np.full((1, 1), value, np.float32)}


def test_a_failed_run_is_set_aside_for_all_and_the_next_one_works(tmp_path: Path) -> None:
    model = Model(load_bundle(write(tmp_path / "b")))
    wrong = a_house() | {"wer": np.zeros(9, np.float32)}
    result = model.run([wrong, wrong])
    assert all(reason is not None and reason.startswith("the run failed:") for reason in result.set_aside)
    assert model.counters.failed == 1
    assert model.run([a_house()]).set_aside == (None,)


def test_a_bundle_is_due_by_its_cadence_and_an_output_by_its_own(tmp_path: Path) -> None:
    """Counted from the farm day's start, also where that is no full ten minutes."""
    manifest = FOREIGN.replace('horizons = ["2h", "6h"]', 'horizons = ["2h", "6h"]\ncadence_s = 86400')
    days = FarmDays(ZoneInfo("Europe/Copenhagen"), time_of_day(6, 5))
    predictor = Predictor.load([load_bundle(write(tmp_path / "b", manifest))], days)
    grid = [START + timedelta(minutes=10 * i) for i in range(144)]
    due = {at: [o.name for o in d.outputs] for at in grid for d in predictor.due(at)}
    assert len(due) == 48
    assert [at for at, outputs in due.items() if "spanne" in outputs] == [START.replace(hour=4, minute=10)]
    assert predictor.due(START.replace(hour=4, minute=20)) == []
