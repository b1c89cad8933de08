"""A foreign model of the causes in the agent: what it is told, when it is asked, and what becomes of its answer."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.bundles import load_bundle
from agent.domain import Cause, WarningState
from agent.errors import BundleError
from agent.explain import Occasion, causes_of, explain
from agent.languages import Locale
from agent.manifest import parse_manifest
from agent.predict import Due, Predictor, Result
from tests.unit.test_watch import DAYS, HOUR, Farm, dry, healthy, write_bundle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

MANIFEST = """
name = "why"
version = "2.1.0"
task = "cause"
licence = "MIT"
cadence_s = 600
model = { file = "why.onnx", sha256 = "SHA256", opset = 17 }

[[input]]
name = "known"
shape = [1, 8]
facts = ["score.deviation-water", "since_h.deviation-water", "score.deviation-temperature", "score.mortality",
         "sensor.stuck.temperature", "sensor.silent.feed", "state:active", "age_days"]
fill = -99.0

[[input]]
name = "hours"
shape = [1, 2, 1]
grid = { step_s = 3600, length = 2 }
features = [{ signal = "water", aggregate = "sum" }]

[[output]]
name = "why"
meaning = "probabilities"
target = "root"
labels = ["dry_line", "none"]
"""
LIKELY = Cause("dry_line", 0.75)  # what the model below says, unless it is told to say something else
LABELS = '["dry_line", "none"]'


def write_why(directory: Path, answer: Sequence[float], manifest: str = MANIFEST) -> Path:
    """Write a model that always gives ``answer``, whatever it is told."""

    def value(name: str, *shape: str | int) -> Any:  # noqa: ANN401 - onnx has no types for it
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [
        helper.make_node("ReduceMax", ["known"], ["most"], axes=[1], keepdims=1),
        helper.make_node("ReduceMax", ["hours"], ["wet"], axes=[1], keepdims=0),
        helper.make_node("Add", ["most", "wet"], ["both"]),
        helper.make_node("Mul", ["both", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "answer"], ["why"]),
    ]
    weights = {"zero": np.zeros((1, 1), np.float32), "answer": np.array([answer], np.float32)}
    initializers = [numpy_helper.from_array(v, n) for n, v in weights.items()]
    inputs = [value("known", 1, 8), value("hours", 1, 2, 1)]
    graph = helper.make_graph(nodes, "why", inputs, [value("why", 1, len(answer))], initializers)
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    directory.mkdir(parents=True)
    (directory / "why.onnx").write_bytes(content)
    (directory / "manifest.toml").write_text(manifest.replace("SHA256", hashlib.sha256(content).hexdigest()))
    selftest = {"in.known": np.zeros((1, 8), np.float32), "in.hours": np.zeros((1, 2, 1), np.float32)}
    np.savez(directory / "selftest.npz", allow_pickle=False, **selftest, **{"out.why": weights["answer"]})
    return directory


def predictor_of(folder: Path, answer: Sequence[float] = (0.75, 0.25), manifest: str = MANIFEST) -> Predictor:
    usual, why = write_bundle(folder / "usual" / "1.0.0"), write_why(folder / "why" / "2.1.0", answer, manifest)
    predictor = Predictor.load([load_bundle(why), load_bundle(usual)], DAYS)  # the order does not matter
    assert predictor.refused == ()
    return predictor


def asked_of(farm: Farm) -> dict[str, float]:
    """Return the facts that the model of the causes is told now, by name."""
    why = next(model for model in farm.predictor.models if model.manifest.task == "cause")
    [(_, inputs)] = farm.watch.features(Due(why, why.manifest.output), farm.now)
    return dict(zip(why.manifest.input[0].facts, inputs.tensors["known"].tolist(), strict=True))


def hot_and_dry(at: datetime) -> Mapping[str, float]:
    return {**dry(at), "temperature": 30.0 + 0.01 * (at.minute % 7)}


def test_a_foreign_model_of_two_labels_names_the_cause_with_its_probability(tmp_path: Path) -> None:
    farm = healthy(predictor_of(tmp_path))
    [raised] = [event for event in farm.run(HOUR, dry) if event.standing.state is WarningState.ACTIVE]
    assert raised.causes == (LIKELY,)
    assert raised.standing.evidence is not None
    assert raised.standing.evidence.confidence == pytest.approx(0.75)  # that it is no false alarm
    assert "Probably dry line (75 %). " in raised.text
    assert raised.check_first == "Go to the house and look."  # nobody told us what to do about a dry line
    [shown] = farm.watch.shown(farm.now)
    assert shown.causes == raised.causes


def test_without_such_a_model_causes_are_named_without_probability(tmp_path: Path) -> None:
    usual = load_bundle(write_bundle(tmp_path / "usual" / "1.0.0"))
    farm = healthy(Predictor.load([usual], DAYS))
    [raised] = [event for event in farm.run(HOUR, dry) if event.standing.state is WarningState.ACTIVE]
    assert raised.causes[0] == Cause("water_line_blocked", None)
    assert raised.standing.evidence is not None
    assert raised.standing.evidence.confidence is None


def test_a_house_where_all_is_well_costs_no_run(tmp_path: Path) -> None:
    farm = healthy(predictor_of(tmp_path))
    why = next(model for model in farm.predictor.models if model.manifest.task == "cause")
    assert why.counters.runs == 0
    farm.run(HOUR, dry)
    assert why.counters.runs > 0
    farm.run(4 * HOUR)
    runs = why.counters.runs
    farm.run(4 * HOUR)
    assert why.counters.runs == runs  # it is over


def test_it_is_told_scores_with_their_sign_how_long_and_what_the_sensors_are(tmp_path: Path) -> None:
    farm = healthy(predictor_of(tmp_path))
    farm.run(2 * HOUR, dry)
    told = asked_of(farm)
    assert told["score.deviation-water"] < -1
    since = farm.standing("deviation-water").since
    assert since is not None
    assert told["since_h.deviation-water"] == pytest.approx((farm.now - since) / HOUR)
    assert abs(told["score.deviation-temperature"]) < 1
    assert told["score.mortality"] == -99.0  # nobody told of dead birds
    assert (told["sensor.stuck.temperature"], told["state:active"]) == (0, 1)
    assert told["sensor.silent.feed"] == -99.0  # there is no such sensor
    assert 2 < told["age_days"] < 3
    farm.run(2 * HOUR, hot_and_dry)
    assert asked_of(farm)["score.deviation-temperature"] > 1
    farm.run(12 * HOUR, lambda _: {"water": 0.1, "temperature": 21.0})
    assert asked_of(farm)["sensor.stuck.temperature"] == 1


def test_it_sees_the_fault_that_is_masked_from_the_other_models(tmp_path: Path) -> None:
    farm = healthy(predictor_of(tmp_path))
    farm.run(3 * HOUR, dry)
    why = next(model for model in farm.predictor.models if model.manifest.task == "cause")
    [(_, inputs)] = farm.watch.features(Due(why, why.manifest.output), farm.now)
    assert inputs.tensors["hours"][:, 0] == pytest.approx([6.0, 6.0])


def test_warnings_of_one_house_name_the_same_root_and_a_silent_sensor_its_own(tmp_path: Path) -> None:
    farm = healthy(predictor_of(tmp_path))
    farm.run(2 * HOUR, lambda at: {**hot_and_dry(at), "humidity": 60 + 0.1 * (at.minute % 7)})
    farm.run(2 * HOUR, hot_and_dry)
    first = {event.standing.rule: event.causes[0] for event in farm.watch.shown(farm.now)}
    assert first["deviation-water"] == first["deviation-temperature"] == LIKELY
    assert first["missing-humidity"] == Cause("sensor_silent", None)


def test_causes_outlast_a_restart(tmp_path: Path) -> None:
    farm = healthy(predictor_of(tmp_path))
    farm.run(HOUR, dry)
    life, standings, _ = farm.watch.told()
    farm.watch = farm.new_watch()
    farm.watch.restore(life, standings.values(), {}, {})
    [shown] = farm.watch.shown(farm.now)
    assert shown.causes == (LIKELY,)


def test_an_answer_that_is_no_probability_is_set_aside_and_the_rules_name_the_cause(tmp_path: Path) -> None:
    predictor = predictor_of(tmp_path, (1.75, -0.75))
    farm = healthy(predictor)
    [raised] = [event for event in farm.run(HOUR, dry) if event.standing.state is WarningState.ACTIVE]
    assert raised.causes[0] == Cause("water_line_blocked", None)
    why = next(model for model in predictor.models if model.manifest.task == "cause")
    assert why.counters.last_reason == "output 'why' holds probabilities below 0 or above 1"


@pytest.mark.parametrize(
    ("answer", "labels", "words", "confidence"),
    [
        ((0.3, 0.7), '["water_line_blocked", "none"]', "It is probably a false alarm (70 %). Perhaps a blocked", 0.3),
        ((0.9, 0.1), '["unknown", "disease"]', "It fits no cause that is known well. ", None),
        ((0.45, 0.4), '["disease", "wet_litter"]', "Perhaps a disease (45 %) or wet litter and ammonia (40 %). ", None),
        (
            (0.96, 0.01),
            '["heater_failure", "disease"]',
            "Almost certainly heating that fails (96 %). Look whether",
            None,
        ),
    ],
)
def test_the_words_follow_the_first_cause_and_how_sure_it_is(
    answer: Sequence[float], labels: str, words: str, confidence: float | None, tmp_path: Path
) -> None:
    farm = healthy(predictor_of(tmp_path, answer, MANIFEST.replace(LABELS, labels)))
    farm.run(HOUR, dry)
    [shown] = farm.watch.shown(farm.now)
    assert words in shown.text
    assert shown.standing.evidence is not None
    assert shown.standing.evidence.confidence == (None if confidence is None else pytest.approx(confidence))
    told = [cause.probability or 0 for cause in shown.causes]
    assert told == sorted(told, reverse=True)
    assert all(cause.cause != "none" and p >= 0.02 for cause, p in zip(shown.causes, told, strict=True))


def test_between_two_runs_the_last_word_of_the_model_holds(tmp_path: Path) -> None:
    farm = healthy(predictor_of(tmp_path, manifest=MANIFEST.replace("cadence_s = 600", "cadence_s = 7200")))
    farm.run(2 * HOUR, dry)
    assert farm.now.hour % 2 == 0
    why = next(model for model in farm.predictor.models if model.manifest.task == "cause")
    runs = why.counters.runs
    farm.run(timedelta(minutes=50), dry)
    assert why.counters.runs == runs
    [shown] = farm.watch.shown(farm.now)
    assert shown.causes == (LIKELY,)


def test_a_model_that_falls_silent_leaves_the_word_to_the_rules(tmp_path: Path) -> None:
    farm = healthy(predictor_of(tmp_path))
    farm.run(HOUR, dry)
    why = next(model for model in farm.predictor.models if model.manifest.task == "cause")
    why.run = lambda houses: Result({}, ("the run failed",) * len(houses))  # type: ignore[method-assign]
    farm.run(HOUR, dry)
    [shown] = farm.watch.shown(farm.now)
    assert shown.causes[0] == Cause("water_line_blocked", None)


def test_of_a_warning_that_is_over_no_cause_is_told(tmp_path: Path) -> None:
    farm = healthy(predictor_of(tmp_path))
    farm.run(HOUR, dry)
    stood = farm.standing("deviation-water")
    over = replace(stood, state=WarningState.NORMAL)
    assert causes_of(over, {}) == ()
    assert "dry line" not in explain(over, (), Occasion("house1", None, None, farm.now), Locale()).text


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('task = "cause"', 'task = "custom"', "only task 'cause' may ask for it"),
        ("score.mortality", "score.weather", "'score.weather' is no fact"),
        ("sensor.stuck.temperature", "sensor.tired.temperature", "'sensor.tired.temperature' is no fact"),
        ("state:active", "state:asleep", "'state:asleep' is no fact"),
        (LABELS, '["dry_line", "dry_line"]', "name their labels, each once"),
        ('meaning = "probabilities"', 'meaning = "score"', "task 'cause' needs an [[output]] that holds probabilities"),
    ],
)
def test_a_manifest_that_asks_what_nobody_knows_is_refused_with_the_reason(old: str, new: str, said: str) -> None:
    text = MANIFEST.replace("SHA256", "0" * 64)
    assert old in text
    with pytest.raises(BundleError, match=r"manifest\.toml") as refused:
        parse_manifest(text.replace(old, new), "manifest.toml")
    assert said in str(refused.value)
