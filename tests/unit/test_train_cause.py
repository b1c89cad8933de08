"""The training of `cause`: it learns and is honest, its graph sees what it should, its truth covers every fault."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest

from agent.bundles import find_bundle, load_bundle, shipped_directory
from agent.explain import CAUSES
from agent.manifest import NO_FAULT, UNKNOWN_CAUSE
from agent.predict import Model
from models_onnx.farm.faults import FAULTS
from models_onnx.train import cause
from models_onnx.train.bundle import said_by
from models_onnx.train.classes import calibration_error, softmax, temperature_of
from models_onnx.train.graph import Graph
from models_onnx.train.played import HEALTHY, ODD, Instants, raises
from models_onnx.train.trees import NEVER, Trees

if TYPE_CHECKING:
    from collections.abc import Sequence

RULES = ("deviation-water", "trend-water")
STEP = 1.5 / cause.STEPS  # columns are rounded, and what was nearly nothing with them


def test_every_simulated_fault_is_a_cause_that_has_words() -> None:
    assert {cause.cause_of(name) for name in FAULTS} <= {*CAUSES, UNKNOWN_CAUSE}
    assert cause.cause_of("sensor_drift-weight") == "scale_fault"
    assert cause.cause_of("sensor_drift-ammonia") == "sensor_drift"
    assert (cause.cause_of(HEALTHY), cause.cause_of(ODD)) == (NO_FAULT, UNKNOWN_CAUSE)
    assert {*cause.LABELS} - {NO_FAULT, UNKNOWN_CAUSE} <= {*CAUSES}
    assert cause.LABELS[-2:] == (UNKNOWN_CAUSE, NO_FAULT)  # what is told as a cause stands before them


def test_trees_on_the_gateway_say_what_the_trained_ones_say_and_the_same_seed_gives_the_same() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3000, 4)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    label = (np.nan_to_num(x[:, 0]) > 0).astype(np.int64) + 2 * (np.nan_to_num(x[:, 1]) > 0)
    ones = np.ones(3000, np.float32)
    first, again = (Trees(5, seed=5).fit(x[:2000], label[:2000], ones[:2000]) for _ in range(2))
    said = first.logits(x[2000:])
    np.testing.assert_array_equal(said, again.logits(x[2000:]))
    assert (said.argmax(axis=1) == label[2000:]).mean() > 0.9
    assert (said[:, 4] == NEVER).all()  # of a class that was never seen
    models = []
    for trees in (first, again):
        graph = Graph({"x": ("houses", 4)})
        models.append(graph.model({"said": (trees.emit(graph, "x"), ("houses", 5))}).SerializeToString())
    assert models[0] == models[1]
    [on_gateway] = onnxruntime.InferenceSession(models[0]).run(None, {"x": x[2000:]})
    np.testing.assert_allclose(on_gateway, said, atol=1e-4)


def test_a_temperature_makes_what_is_said_come_true_as_often() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2, (20_000, 3)).astype(np.float32)
    label = np.array([rng.choice(3, p=p / p.sum()) for p in softmax(logits).astype(np.float64)])
    ones = np.ones(len(label), np.float32)
    bold = 2.5 * logits
    honest = softmax((bold / temperature_of(bold, label, ones)).astype(np.float32))
    errors = [calibration_error(p.max(axis=1), p.argmax(axis=1) == label, ones) for p in (softmax(bold), honest)]
    assert errors[0] > 0.1
    assert errors[1] < 0.02


def instants(faults: list[str], hours: Sequence[float]) -> Instants:
    inputs = cause.inputs_of(RULES)
    rng = np.random.default_rng(4)
    tensors = {
        spec.name: rng.uniform(0.1, 1, (len(faults), *(int(n) for n in spec.shape[1:]))).astype(np.float32)
        for spec in inputs
    }
    episode = np.array([sorted(set(faults)).index(fault) for fault in faults])
    return Instants(tensors, faults, episode, np.array(hours, np.float32))


def test_the_graph_holds_the_last_hours_against_the_same_ones_before() -> None:
    inputs, two = cause.inputs_of(RULES), instants(["", "disease"], [0, 0])
    hours, told = two.tensors["hours"], two.tensors["facts"]
    facts = inputs[-1].facts
    scores = [facts.index(f"score.{rule}") for rule in (*RULES, "mortality")]
    told[:, scores] = 0
    told[0, facts.index("score.deviation-water")] = -4  # the first house: water alone, and its meter stands
    told[0, facts.index("sensor.stuck.water")] = 1
    told[1, [facts.index(f"sensor.stuck.{name}") for name in cause.SENSORS]] = np.nan
    hours[1, -3:, 0] = np.nan
    graph = cause.new_graph(inputs)
    [seen] = graph.values([cause.columns_of(graph, inputs)], two.tensors)
    plain, rules = len(cause.PLAIN), 2 * len(scores)
    assert seen[0, :plain] == pytest.approx(told[0, [facts.index(fact) for fact in cause.PLAIN]], abs=STEP)
    assert seen[0, plain] == pytest.approx(-np.log1p(4), abs=STEP)
    tenth = told[0, facts.index("deviation_pct.deviation-water")] / 10
    assert seen[0, plain + rules] == pytest.approx(np.log1p(tenth), abs=STEP)
    begin = plain + rules + len(scores)
    three = slice(begin, begin + 3 * len(scores), len(scores))  # water: not above, below, and beyond all doubt
    assert seen[0, three] == pytest.approx([0, np.tanh(3.7), np.log1p(1)], abs=STEP)
    begin += 3 * len(scores)  # stuck: any, then the signal that is off
    assert seen[0, begin : begin + 2] == pytest.approx([1, 1], abs=STEP)
    assert seen[1, begin : begin + 2].tolist() == [0, 0]
    begin += 2 * len(cause.STATES)  # what is off is water: its own columns, but for the thousandth that nothing has
    assert seen[0, begin] == pytest.approx(hours[0, -1, 0] - hours[0, -25, 0], abs=STEP)
    begin += len(cause.HOUR_LESS) + len(cause.UNREST_LESS)
    n = hours.shape[2]
    three = hours[0, -3:].mean(axis=0) - hours[0, -27:-24].mean(axis=0)
    assert seen[0, begin : begin + n] == pytest.approx(three, abs=STEP)
    assert np.isnan(seen[1, begin])
    assert np.isfinite(seen[1, begin + 1 : begin + n]).all()


def test_each_fault_counts_alike_however_long_it_was_watched() -> None:
    many = instants([""] * 6 + ["water_leak"] * 5 + ["disease", "coccidiosis"], [0] * 6 + [0, 1, 1, 7, 30] + [0, 0])
    weight = cause.weights_of(many)
    names = np.array(many.fault)
    assert weight.sum() == pytest.approx(len(many), rel=1e-5)
    assert weight[names == ""].sum() / len(many) == pytest.approx(cause.NONE_SHARE, rel=1e-5)
    each = [weight[names == name].sum() for name in ("water_leak", "disease", "coccidiosis")]
    assert each == pytest.approx([each[0]] * 3)
    assert weight[7] + weight[8] == pytest.approx(weight[6])  # two instants of one phase


def test_right_first_counts_each_fault_alike_and_leaves_false_warnings_out() -> None:
    told = instants(["water_leak", "water_leak", "disease", ""], [0, 30, 0, 0])
    said = np.full((4, len(cause.LABELS)), 0.01, np.float32)
    said[0, cause.LABELS.index("water_leak")] = 0.9
    said[1, cause.LABELS.index("disease")] = 0.9
    for i, label in enumerate(("growth_lag", "clock_error", "disease")):
        said[2, cause.LABELS.index(label)] = 0.3 - 0.05 * i
    rights = cause.rights_of(said, told)
    assert rights["all, at the raise"] == cause.Right(2, 0.5, 1.0)
    assert (rights["all, 24 h later"].warnings, rights["all, 24 h later"].first) == (1, 0.0)
    assert raises(told, (0.0, 24.0)).tolist() == [0, 1, 2, 3]


def test_training_asks_a_model_of_thousands_of_instants_at_once_however_little_time_it_has_on_a_gateway() -> None:
    bundle = load_bundle(find_bundle(shipped_directory(), "mortality"))
    hasty = replace(bundle, manifest=bundle.manifest.model_copy(update={"max_runtime_ms": 0.001}))
    tensors = {name: np.repeat(values, 3000, axis=0) for name, values in bundle.selftest_inputs.items()}
    count = len(next(iter(tensors.values())))
    many = Instants(tensors, [""] * count, np.zeros(count, np.int64), np.zeros(count, np.float32))
    assert Model(hasty).run_stacked(tensors).outputs == {}
    assert said_by(Model(hasty), many)["outbreak"].shape == (count, 2)
