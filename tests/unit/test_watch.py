"""One house by a small foreign bundle: deviations rise and clear, and what would make it cry wolf does not."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent import judge as judging
from agent.bundles import load_bundle
from agent.clock import FarmDays
from agent.commands import Acknowledge, Shelve, Unshelve, parse_flock_command
from agent.config import RuleOverride
from agent.deviation import has_stopped
from agent.domain import (
    Doubt,
    HouseState,
    Quality,
    Reason,
    SeriesKey,
    Severity,
    Standing,
    TimeQuality,
    WarningEvent,
    WarningState,
    to_ms,
)
from agent.errors import InputError
from agent.explain import direction_of, why_of
from agent.languages import Locale
from agent.manifest import Feature
from agent.predict import Predictor
from agent.quality import QualityJudge
from agent.readings import ReadingsBuilder
from agent.signals import signal_of
from agent.watch import GRID, HouseWatch, Outcome, judge_instant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path


DAYS = FarmDays(ZoneInfo("UTC"))
START = datetime(2026, 3, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
MANIFEST = """
name = "usual"
version = "1.0.0"
task = "expect"
licence = "MIT"
cadence_s = 600
model = { file = "model.onnx", sha256 = "SHA256", opset = 17 }

[[input]]
name = "x"
shape = ["houses", 96, 2]
grid = { step_s = 3600, length = 96 }
features = [{ signal = "water", aggregate = "sum" }, { signal = "temperature" }]
fill = 0.0
mask = "m"

[[output]]
name = "water"
meaning = "quantiles"
target = "water"
of = { signal = "water", aggregate = "sum" }
quantiles = [0.1, 0.5, 0.9]
horizons = ["1h"]
judge = { low = 3.0, high = 3.0 }

[[output]]
name = "temperature"
meaning = "quantiles"
target = "temperature"
of = { signal = "temperature" }
quantiles = [0.1, 0.5, 0.9]
horizons = ["1h"]
judge = { low = 3.0, high = 3.0 }

[[output]]
name = "water_day"
meaning = "quantiles"
target = "water"
of = { signal = "water", aggregate = "sum" }
quantiles = [0.1, 0.5, 0.9]
horizons = ["1d"]
cadence_s = 21600
judge = { low = 3.0, high = 3.0 }
"""


def write_bundle(directory: Path, manifest: str = MANIFEST, days: int = 1) -> Path:
    """Write a model that expects the mean of the measured hours: water within 5 %, temperature within half a degree.

    ``days``: over how many of them its slow output looks.
    """

    def value(name: str, *shape: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    weights: dict[str, Any] = {
        "axes": np.array([1], np.int64),
        "one": np.array([1], np.float32),
        "first": np.array([0], np.int64),
        "second": np.array([1], np.int64),
        "shape": np.array([-1, 1, 1], np.int64),
        "band": np.array([[[0.95, 1.0, 1.05]]], np.float32),
        "day_band": np.array([[[23.0, 24.0, 25.0]]], np.float32) * days,
        "degrees": np.array([[[-0.5, 0.0, 0.5]]], np.float32),
    }
    nodes = [
        helper.make_node("Mul", ["x", "m"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "axes"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["m", "axes"], ["count"], keepdims=0),
        helper.make_node("Max", ["count", "one"], ["hours"]),
        helper.make_node("Div", ["total", "hours"], ["mean"]),
        helper.make_node("Gather", ["mean", "first"], ["w2"], axis=1),
        helper.make_node("Gather", ["mean", "second"], ["t2"], axis=1),
        helper.make_node("Reshape", ["w2", "shape"], ["w"]),
        helper.make_node("Reshape", ["t2", "shape"], ["t"]),
        helper.make_node("Mul", ["w", "band"], ["water"]),
        helper.make_node("Mul", ["w", "day_band"], ["water_day"]),
        helper.make_node("Add", ["t", "degrees"], ["temperature"]),
    ]
    outputs = ["water", "temperature", "water_day"]
    graph = helper.make_graph(
        nodes,
        "usual",
        [value("x", "houses", 96, 2), value("m", "houses", 96, 2)],
        [value(name, "houses", 1, 3) for name in outputs],
        [numpy_helper.from_array(v, n) for n, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content = model.SerializeToString()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(content)
    (directory / "manifest.toml").write_text(manifest.replace("SHA256", hashlib.sha256(content).hexdigest()))
    band, day_band, degrees = (weights[name] for name in ("band", "day_band", "degrees"))
    selftest = {
        "in.x": np.full((1, 96, 2), 10, np.float32),
        "in.m": np.ones((1, 96, 2), np.float32),
        "out.water": 10 * band,
        "out.water_day": 10 * day_band,
        "out.temperature": 10 + degrees,
    }
    np.savez(directory / "selftest.npz", **selftest)
    return directory


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    bundle = load_bundle(write_bundle(tmp_path_factory.mktemp("models") / "usual" / "1.0.0"))
    predictor = Predictor.load([bundle], DAYS)
    assert predictor.refused == ()
    return predictor


NO_MODEL = Predictor((), (), DAYS)


def wobbling(at: datetime) -> Mapping[str, float]:
    """Levels that move as real ones do, so that nothing is stuck; water stays what it is."""
    return {"water": 10.0, "temperature": 21.0 + 0.01 * (at.minute % 7)}


class Farm:
    """One house, its readings each minute through the real quality judge, judged on the grid; time is ours."""

    def __init__(
        self,
        predictor: Predictor = NO_MODEL,
        overrides: Mapping[str, RuleOverride] | None = None,
        start: datetime = START,
    ) -> None:
        self.predictor = predictor
        self.quality = QualityJudge(lambda key: signal_of(key.signal))
        self.overrides = overrides or {}
        self.watch = self.new_watch()
        self.now = start
        self.outcomes: list[Outcome] = []

    def new_watch(self) -> HouseWatch:
        return HouseWatch(
            "house1",
            signal=lambda key: signal_of(key.signal),
            days=DAYS,
            manifests=[model.manifest for model in self.predictor.models],
            overrides=self.overrides,
            rhythm_s=self.quality.rhythm_s,
            started_monotonic=float("-inf"),
        )

    def place(self, **facts: object) -> None:
        command = {"action": "place", "flock": "f1", "placed_on": "2026-03-01", "birds_placed": 10_000, **facts}
        self.watch.apply(parse_flock_command(json.dumps(command)), self.now)

    def tell(self, command: str) -> None:
        self.watch.apply(parse_flock_command(command), self.now)

    def observe(self, values: Iterable[tuple[datetime, str, float]], monotonic: float = 0.0) -> None:
        builder = ReadingsBuilder()
        for at, signal, value in values:
            builder.add(SeriesKey("house1", signal), to_ms(at), value, TimeQuality.SENDER, to_ms(self.now))
        judged, intervals = self.quality.judge(builder.build())
        self.watch.observe(judged, monotonic)
        self.watch.note(intervals)

    def run(
        self, length: timedelta, course: Callable[[datetime], Mapping[str, float]] = wobbling
    ) -> list[WarningEvent]:
        """Let time pass; return the transitions that it brought."""
        events: list[WarningEvent] = []
        end = self.now + length
        while self.now < end:
            minutes = [self.now + timedelta(minutes=m) for m in range(1, 11)]
            self.now += GRID
            values = [(at, signal, value) for at in minutes for signal, value in course(at).items()]
            if values:
                self.observe(values)
            events += self.judge()
        return events

    def judge(self, monotonic: float = float("inf")) -> list[WarningEvent]:
        [outcome] = judge_instant([self.watch], self.predictor, self.now, monotonic)
        self.outcomes.append(outcome)
        return list(outcome.warnings)

    def standing(self, rule: str) -> Standing:
        return self.watch.standings.get(rule) or Standing(rule, "house1")


def half(at: datetime) -> Mapping[str, float]:
    return {**wobbling(at), "water": 5.0}


def dry(at: datetime) -> Mapping[str, float]:
    return {**wobbling(at), "water": 0.1}


def moves(events: list[WarningEvent], rule: str) -> list[tuple[WarningState, Reason]]:
    return [(event.standing.state, event.reason) for event in events if event.standing.rule == rule]


def healthy(predictor: Predictor, **overrides: RuleOverride) -> Farm:
    farm = Farm(predictor, overrides)
    farm.place(placed_on="2026-03-10")
    assert farm.run(60 * HOUR) == []
    return farm


@pytest.fixture
def farm(predictor: Predictor) -> Farm:
    """Give a house with a flock of two days and a half, healthy and measured from its first hour."""
    return healthy(predictor)


# --- sensors that their peers contradict


def test_a_doubted_twin_is_left_out_of_the_models_and_told_after_two_hours(predictor: Predictor) -> None:
    """The other twin goes on; what the doubted one showed since it left is taken back."""
    farm = Farm(predictor)
    farm.place(placed_on="2026-03-10")

    def twins(at: datetime) -> Mapping[str, float]:
        level = wobbling(at)["temperature"]
        return {"water": 10.0, "temperature-1": level, "temperature-2": level + 0.1}

    def parted(at: datetime) -> Mapping[str, float]:
        return {**twins(at), "temperature-2": 31.0 + 0.01 * (at.minute % 7)}

    assert farm.run(60 * HOUR, twins) == []
    began = farm.now
    farm.run(HOUR, parted)
    key = SeriesKey("house1", "temperature-2")
    farm.watch.doubt({key: Doubt(to_ms(began), "+9.9 Cel off", 1.98, 31.0, 21.1)})
    events = farm.run(2 * HOUR, parted)
    [event] = [e for e in events if e.standing.state is WarningState.ACTIVE]
    assert (event.standing.rule, event.about.value, event.standing.since) == (
        "disagree-temperature-2",
        "equipment",
        began,
    )
    assert "temperature sensor 2 shows 31.0 °C where the others would have it show 21.1 °C" in event.text
    assert event.causes[0].cause == "sensor_disagrees"
    [measured] = farm.watch.window.measure((Feature(signal="temperature"),), 3600, farm.now, None)
    assert measured.value == pytest.approx(21.03, abs=0.05)
    farm.watch.doubt({})
    assert moves(farm.run(HOUR, twins), "disagree-temperature-2") == [(WarningState.NORMAL, Reason.BACK_IN_BAND)]
    [measured] = farm.watch.window.measure((Feature(signal="temperature"),), 1800, farm.now, None)
    assert measured.value == pytest.approx(21.08, abs=0.05)


# --- expectations


def test_thirst_after_a_blocked_line_does_not_keep_its_warning_standing(farm: Farm) -> None:
    def thirsty(at: datetime) -> Mapping[str, float]:
        return {**wobbling(at), "water": 14.0}

    farm.run(2 * HOUR, dry)
    assert farm.standing("deviation-water").state is WarningState.ACTIVE
    cleared = [e for e in farm.run(3 * HOUR, thirsty) if e.standing.state is WarningState.NORMAL]
    assert [event.reason for event in cleared] == [Reason.BACK_IN_BAND]


def test_a_blocked_line_raises_within_the_hour_says_below_and_clears_after_it_is_open(farm: Farm) -> None:
    began = farm.now
    events = farm.run(HOUR, dry)
    assert moves(events, "deviation-water") == [
        (WarningState.PENDING, Reason.LIMIT_CROSSED),
        (WarningState.ACTIVE, Reason.ON_DELAY_OVER),
    ]
    raised = events[-1]
    assert raised.at - began <= HOUR
    assert raised.standing.flock == "f1"
    assert raised.day_number == 2
    assert raised.standing.evidence is not None
    assert direction_of(raised.standing.evidence) == -1
    assert raised.standing.evidence.expected == pytest.approx(600, rel=0.01)
    assert raised.standing.evidence.model == "usual"
    assert raised.standing.evidence.unit == "l"
    assert raised.causes[0].cause == "water_line_blocked"
    assert "house1, flock f1, day 2" in raised.text
    assert farm.watch.severity() >= Severity.MINOR
    over = farm.run(3 * HOUR)
    assert moves(over, "deviation-water")[-1] == (WarningState.NORMAL, Reason.BACK_IN_BAND)
    assert farm.watch.severity() is Severity.NONE
    assert farm.watch.shown(farm.now) == []


@pytest.mark.parametrize("first", ["usual", "lenient"])
def test_of_two_expectations_of_one_signal_the_one_further_out_speaks(tmp_path: Path, first: str) -> None:
    lenient = MANIFEST.replace('name = "usual"', 'name = "lenient"').replace("low = 3.0", "low = 300.0")
    texts = {"usual": MANIFEST, "lenient": lenient}
    bundles = [
        load_bundle(write_bundle(tmp_path / name / "1.0.0", texts[name]))
        for name in sorted(texts, key=lambda n: n != first)
    ]
    farm = healthy(Predictor.load(bundles, DAYS))
    farm.run(HOUR, dry)
    evidence = farm.standing("deviation-water").evidence
    assert farm.standing("deviation-water").state is WarningState.ACTIVE
    assert evidence is not None
    assert evidence.model == "usual"


def test_a_flow_that_stops_is_told_whatever_the_limits_and_a_low_one_is_not(tmp_path: Path) -> None:
    """Of young flocks a half band is a large share of what flows: no limit in half bands would tell a stop."""
    text = MANIFEST.replace("low = 3.0", "low = 300.0")
    farm = healthy(Predictor.load([load_bundle(write_bundle(tmp_path / "usual" / "1.0.0", text))], DAYS))
    farm.run(2 * HOUR, lambda at: {**wobbling(at), "water": 5.0})
    assert farm.standing("deviation-water").state is WarningState.NORMAL
    farm.run(HOUR, dry)
    assert farm.standing("deviation-water").state is WarningState.ACTIVE


@pytest.mark.parametrize(
    ("actual", "low", "stopped"), [(4.4, 7.0, True), (4.6, 7.0, False), (4.4, 6.9, False), (0.0, 0.0, False)]
)
def test_a_flow_has_stopped_where_most_of_it_was_certain(actual: float, low: float, stopped: bool) -> None:
    assert has_stopped(actual, low, 10.0, 1.0) == stopped
    assert not has_stopped(actual, low, 10.0, 10.0)  # a meter whose step is as large as that


def test_too_much_is_a_deviation_above_and_far_too_much_is_worse(farm: Farm) -> None:
    events = farm.run(3 * HOUR, lambda at: {**wobbling(at), "water": 40.0})
    raised = [event for event in events if event.reason in {Reason.ON_DELAY_OVER, Reason.SEVERITY_ROSE}]
    assert raised[0].standing.evidence is not None
    assert direction_of(raised[0].standing.evidence) == 1
    assert raised[0].causes[0].cause == "water_leak"
    assert farm.standing("deviation-water").severity is Severity.MAJOR  # many thresholds; never critical by itself


def test_the_expectation_does_not_follow_the_fault_while_its_warning_stands(farm: Farm) -> None:
    farm.run(20 * HOUR, dry)
    standing = farm.standing("deviation-water")
    assert standing.state is WarningState.ACTIVE
    assert standing.evidence is not None
    assert standing.evidence.expected == pytest.approx(600, rel=0.02)


def test_after_two_days_the_new_course_becomes_the_normal_one(predictor: Predictor) -> None:
    """A house that drinks less for good must not be warned of for ever."""
    farm = healthy(predictor, trend=RuleOverride(enabled=False))
    farm.run(timedelta(days=2), half)
    assert farm.standing("deviation-water").state is WarningState.ACTIVE
    farm.run(timedelta(days=4), half)
    assert farm.standing("deviation-water").state is WarningState.NORMAL


@pytest.mark.parametrize(("hours", "is_masked"), [(2, True), (14, False)])
def test_what_was_out_of_course_is_hidden_from_the_model_for_half_a_day_and_no_longer(
    farm: Farm, hours: int, is_masked: bool
) -> None:
    """What comes at the same hour of every day, and was once told, is not told every day."""
    farm.run(3 * HOUR, half)
    farm.run(hours * HOUR)
    assert farm.standing("deviation-water").state is WarningState.NORMAL
    [due] = farm.predictor.due(farm.now)
    tensors = next(inputs for horizon, inputs in farm.watch.features(due, farm.now) if horizon == "1h").tensors
    water = tensors["m"][:, 0]
    fault = slice(-hours - 1, -hours + 1 or None)  # the window ends an hour ago
    assert (water[fault] == 0).all() == is_masked


def test_a_band_learns_the_house_and_not_its_faults(farm: Farm) -> None:
    def learnt(band: str) -> tuple[float, float]:
        return farm.watch.fitness.stretch("usual/1.0.0", band)

    assert learnt("water_day/1d") == (1.0, 1.0)  # a trend applies from the third day on
    assert max(learnt("water/1h")) < 1  # water has always come as expected
    farm.run(HOUR, half)
    assert farm.standing("deviation-water").state is WarningState.ACTIVE
    told = learnt("water/1h")
    farm.run(3 * HOUR, half)
    assert learnt("water/1h") == told
    evidence = farm.standing("deviation-water").evidence
    assert evidence is not None
    assert evidence.expected is not None
    assert evidence.low == pytest.approx(evidence.expected * (1 - 0.05 * told[0]))
    farm.tell('{"action":"state","state":"catching"}')
    farm.run(HOUR)
    assert learnt("water/1h") == told


def test_one_signal_out_of_course_leaves_the_others_alone(farm: Farm) -> None:
    events = farm.run(4 * HOUR, dry)
    assert {event.standing.rule for event in events} == {"deviation-water"}


def test_the_trend_is_judged_when_its_model_is_due_and_left_as_it_is_between(predictor: Predictor) -> None:
    farm = healthy(predictor, deviation=RuleOverride(enabled=False))
    events = farm.run(48 * HOUR, half)
    times = [event.at for event in events if event.standing.rule == "trend-water"]
    assert times
    assert all(at.hour % 6 == 0 for at in times)


@pytest.mark.parametrize("slow", ["the sharp one", "the blind one"])
def test_what_one_of_two_bundles_finds_stands_until_that_one_finds_it_over(tmp_path: Path, slow: str) -> None:
    """One sees the half flow, the other nothing, and one of them is asked once an hour only."""
    hourly = ("cadence_s = 600", "cadence_s = 3600")
    blind = MANIFEST.replace("low = 3.0, high = 3.0", "low = 1000.0, high = 1000.0").replace('"usual"', '"blind"')
    texts = [
        text.replace(*hourly) if (text is blind) == (slow == "the blind one") else text for text in (MANIFEST, blind)
    ]
    bundles = [load_bundle(write_bundle(tmp_path / str(n) / "1.0.0", text)) for n, text in enumerate(texts)]
    farm = healthy(Predictor.load(bundles, DAYS))
    (first, _), *raised = moves(farm.run(3 * HOUR, half), "deviation-water")
    assert first is WarningState.PENDING
    assert {state for state, _ in raised} == {WarningState.ACTIVE}
    evidence = farm.standing("deviation-water").evidence
    assert evidence is not None
    assert evidence.model == "usual"
    assert moves(farm.run(6 * HOUR), "deviation-water") == [(WarningState.NORMAL, Reason.BACK_IN_BAND)]


def test_a_house_state_suppresses_a_trend_at_once_and_not_when_its_model_is_due_again(predictor: Predictor) -> None:
    farm = healthy(predictor, deviation=RuleOverride(enabled=False))
    farm.run(48 * HOUR, half)
    assert farm.standing("trend-water").state is WarningState.ACTIVE
    while farm.now.hour % 6 != 1:
        farm.run(GRID, half)
    farm.tell('{"action":"state","state":"catching"}')
    events = farm.run(GRID, half)
    assert (WarningState.SUPPRESSED, Reason.HOUSE_STATE) in moves(events, "trend-water")
    assert farm.watch.shown(farm.now) == []


def test_a_deviation_that_was_told_is_not_told_again_as_a_trend(farm: Farm) -> None:
    farm.run(20 * HOUR)
    farm.run(6 * HOUR, dry)
    assert active(farm.run(30 * HOUR)) == set()


def test_a_deviation_that_was_told_is_not_told_again_while_a_trend_of_three_days_holds_it(tmp_path: Path) -> None:
    """Eight dry hours of 72 are 11 %, the slow limit is 8 %."""
    head, _, last = MANIFEST.replace('horizons = ["1d"]', 'horizons = ["3d"]').rpartition("low = 3.0")
    bundle = load_bundle(write_bundle(tmp_path / "usual" / "1.0.0", f"{head}low = 2.0{last}", days=3))
    farm = healthy(Predictor.load([bundle], DAYS))
    farm.run(40 * HOUR)
    assert active(farm.run(8 * HOUR, dry)) == {"deviation-water"}
    farm.run(HOUR)
    assert active(farm.run(80 * HOUR)) == set()


def test_without_a_flock_nothing_is_expected(predictor: Predictor) -> None:
    farm = Farm(predictor)
    assert farm.run(84 * HOUR) == []
    assert farm.run(6 * HOUR, dry) == []
    assert farm.watch.features(predictor.due(START)[0], farm.now) == []


def test_young_chicks_are_not_judged(predictor: Predictor) -> None:
    farm = Farm(predictor)
    farm.place(placed_on="2026-03-10")
    events = farm.run(36 * HOUR) + farm.run(6 * HOUR, dry)
    assert [event for event in events if event.standing.state is WarningState.ACTIVE] == []


def test_catching_suppresses_what_stands_and_the_rule_begins_anew_afterwards(farm: Farm) -> None:
    farm.run(2 * HOUR, dry)
    farm.tell('{"action":"state","state":"catching"}')
    assert moves(farm.run(GRID, dry), "deviation-water") == [(WarningState.SUPPRESSED, Reason.HOUSE_STATE)]
    farm.tell('{"action":"state","state":"active"}')
    farm.run(3 * HOUR)
    assert farm.standing("deviation-water").state is WarningState.NORMAL


def test_a_gap_is_no_deviation_and_a_standing_warning_survives_it(farm: Farm) -> None:
    farm.run(2 * HOUR, dry)
    events = farm.run(3 * HOUR, lambda at: {"temperature": wobbling(at)["temperature"]})
    assert moves(events, "deviation-water") == []
    assert farm.standing("deviation-water").state is WarningState.ACTIVE
    for event in farm.run(4 * HOUR, lambda at: {"temperature": wobbling(at)["temperature"]}):
        if event.standing.rule == "deviation-water":
            assert event.reason is Reason.CANNOT_SAY
    assert farm.standing("deviation-water").state is WarningState.NORMAL


def test_a_stuck_sensor_feeds_no_expectation(farm: Farm) -> None:
    """What is stuck is masked: it can neither deviate nor teach."""
    events = farm.run(timedelta(hours=30), lambda _at: {"water": 10.0, "temperature": 21.0})
    [stuck] = [event for event in events if event.standing.rule == "stuck-temperature"]
    assert (stuck.standing.state, stuck.about.value) == (WarningState.ACTIVE, "data")
    assert stuck.standing.since is not None
    assert stuck.at - stuck.standing.since >= 2.9 * HOUR  # since the value began, not since it was noticed
    assert stuck.at - stuck.standing.since <= 3.5 * HOUR  # a sensor that used to move each minute
    assert moves(events, "deviation-temperature") == []
    events = farm.run(HOUR)
    assert moves(events, "stuck-temperature") == [(WarningState.NORMAL, Reason.BACK_IN_BAND)]


def test_what_a_stuck_sensor_showed_before_it_was_noticed_is_taken_back(farm: Farm) -> None:
    begins = farm.now
    farm.run(timedelta(hours=6), lambda at: {**wobbling(at), "temperature": 21.005})
    temperature = Feature(signal="temperature")
    [before] = farm.watch.window.measure((temperature,), 3600, begins, None)
    [stuck] = farm.watch.window.measure((temperature,), 3 * 3600, begins + timedelta(hours=4), None)
    assert before.coverage == 1
    assert stuck.coverage == 0
    assert np.isnan(stuck.value)


def test_a_warning_that_cannot_be_judged_says_which_sensor_is_why(farm: Farm) -> None:
    """It stands for hours with the reason in its words, and goes with the same reason."""
    hot = farm.run(2 * HOUR, lambda at: {**wobbling(at), "temperature": wobbling(at)["temperature"] + 4})
    assert (WarningState.ACTIVE, Reason.ON_DELAY_OVER) in moves(hot, "deviation-temperature")
    freezes_at = farm.now + timedelta(minutes=1)
    events = farm.run(timedelta(hours=5), lambda _at: {"water": 10.0, "temperature": 25.005})
    assert moves(events, "deviation-temperature") == []
    [shown] = [e for e in farm.watch.shown(farm.now) if e.standing.rule == "deviation-temperature"]
    why = f"temperature sensor has been stuck since {freezes_at:%H:%M}"
    assert f"Whether it still is so cannot be said: {why}." in shown.text
    events = farm.run(timedelta(hours=8), lambda _at: {"water": 10.0, "temperature": 25.005})
    [gone] = [e for e in events if e.standing.rule == "deviation-temperature"]
    assert gone.reason is Reason.CANNOT_SAY
    assert f"cannot be judged any more: {why}" in gone.text


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        (99.0, "temperature sensor has shown what cannot be"),
        (None, "temperature sensor has been silent"),
        (215.0, "another unit"),
    ],
)
def test_the_evidence_names_the_fault_that_keeps_it_from_saying(
    farm: Farm, shown: float | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    real = judging.judge

    def listening(rule: Any, standing: Any, evidence: Any, at: Any, **gates: Any) -> Any:  # noqa: ANN401  # passed on
        if rule.name == "deviation-temperature" and evidence.score is None:
            said.append(why_of(evidence, at, Locale()))
        return real(rule, standing, evidence, at, **gates)

    monkeypatch.setattr(judging, "judge", listening)
    farm.run(2 * HOUR, lambda _at: {"water": 10.0} if shown is None else {"water": 10.0, "temperature": shown})
    assert said
    assert why in said[-1]
    assert "since 12:" in said[-1] or "since 11:5" in said[-1]


def test_a_gap_that_ends_while_a_sensor_is_at_fault_does_not_hide_the_fault(farm: Farm) -> None:
    """Nonsense, then half an hour of silence, then nonsense: the fault began before the silence."""

    def nonsense(_at: datetime) -> Mapping[str, float]:
        return {"water": 10.0, "temperature": 99.0}

    begins = farm.now + timedelta(minutes=1)
    farm.run(HOUR, nonsense)
    farm.run(HOUR / 2, lambda _at: {"water": 10.0})
    farm.run(HOUR / 2, nonsense)
    assert farm.watch._sensors.why_unknown("temperature", farm.now) == (
        "{sensor} has shown what cannot be {since}",
        {"sensor": "temperature", "since_ms": to_ms(begins)},
    )


def test_two_signals_out_of_course_name_their_common_cause(farm: Farm) -> None:
    events = farm.run(3 * HOUR, lambda at: {"water": 14.0, "temperature": wobbling(at)["temperature"] + 4})
    raised = {event.standing.rule: event for event in events if event.standing.state is WarningState.ACTIVE}
    last = max(raised.values(), key=lambda event: event.at)
    assert last.causes[0].cause == "heat_stress"


# --- a bundle that says something else


@pytest.mark.parametrize(
    ("old", "new"),
    [('task = "expect"', 'task = "custom"'), ("quantiles = [0.1, 0.5, 0.9]", "quantiles = [0.25, 0.5, 0.75]")],
)
def test_a_custom_bundle_with_other_quantiles_runs_and_is_told_of_as_far_as_it_goes(
    tmp_path: Path, old: str, new: str
) -> None:
    manifest = MANIFEST.replace('task = "expect"', 'task = "custom"').replace(old, new)
    farm = Farm(Predictor.load([load_bundle(write_bundle(tmp_path / "b", manifest))], DAYS))
    farm.place()
    farm.run(26 * HOUR)
    made = [prediction for outcome in farm.outcomes for prediction in outcome.predictions]
    assert bool(made) == ("0.25" not in new)


def test_weights_that_were_far_off_widen_the_bands_of_the_next_flock_of_any_bundle(tmp_path: Path) -> None:
    daily = 'name = "water_day"\nmeaning = "quantiles"\ntarget = '
    manifest = MANIFEST.replace('task = "expect"', 'task = "custom"')
    manifest = manifest.replace(f'{daily}"water"', f'{daily}"weight_g"')
    farm = Farm(Predictor.load([load_bundle(write_bundle(tmp_path / "b", manifest))], DAYS))
    widths = []
    for flock, weight_g in (("f1", 4_000), ("f2", 2_880)):
        farm.place(flock=flock, placed_on=farm.now.date().isoformat())
        farm.run(50 * HOUR, lambda at: {**wobbling(at), "water": 2.0})
        made = [one for outcome in farm.outcomes for one in outcome.predictions if one.target == "weight_g"]
        last = made[-1]
        assert last.p90 - last.p50 == pytest.approx(120 * last.stretch, rel=0.01)  # the model's own: 120 g
        widths.append(last.stretch)
        command = {"action": "end", "slaughter_weight_g": weight_g}
        farm.watch.calibration.learn([farm.watch.apply(parse_flock_command(json.dumps(command)), farm.now)])
    assert widths[0] == 1.0
    assert 1.2 < widths[1] < 2.0
    model = str(farm.predictor.models[0])
    assert 1.0 < farm.watch.calibration.stretch(model, "house1") < widths[1]  # the second was right


# --- mortality


def told(farm: Farm, day: date, dead: int) -> None:
    farm.tell(f'{{"action":"record","date":"{day}","dead":{dead}}}')


def weeks_of_records(dead: int = 8) -> Farm:
    farm = Farm(start=datetime(2026, 3, 20, tzinfo=UTC))
    farm.place()
    for back in range(10, 0, -1):
        told(farm, date(2026, 3, 20) - timedelta(days=back), dead)
    assert farm.run(12 * HOUR, lambda _at: {}) == []
    return farm


def test_an_outbreak_is_three_in_a_thousand_and_three_times_the_usual() -> None:
    farm = weeks_of_records()
    told(farm, date(2026, 3, 20), 45)
    events = farm.run(GRID, lambda _at: {})
    assert moves(events, "mortality")[-1] == (WarningState.ACTIVE, Reason.ON_DELAY_OVER)
    assert events[-1].standing.severity is Severity.MAJOR
    assert events[-1].standing.evidence is not None
    assert (events[-1].standing.evidence.actual, events[-1].standing.evidence.expected) == (45, 8)
    assert events[-1].about.value == "birds"


@pytest.mark.parametrize(("usual", "today"), [(8, 29), (20, 55)])
def test_neither_mark_alone_is_an_outbreak(usual: int, today: int) -> None:
    farm = weeks_of_records(usual)
    told(farm, date(2026, 3, 20), today)
    assert farm.run(HOUR, lambda _at: {}) == []


def test_thinning_is_no_mortality() -> None:
    farm = weeks_of_records()
    farm.tell('{"action":"thin","birds":3000}')
    assert farm.run(2 * 24 * HOUR, lambda _at: {}) == []
    assert farm.watch.life.state is HouseState.ACTIVE  # again, after a day


def test_what_people_told_wins_over_readings() -> None:
    farm = weeks_of_records()
    farm.observe([(farm.now, "dead", 60.0)])
    told(farm, date(2026, 3, 20), 9)
    assert farm.run(HOUR, lambda _at: {}) == []


def test_readings_count_where_nobody_told() -> None:
    farm = weeks_of_records()
    farm.observe([(farm.now, "dead", 25.0), (farm.now, "culled", 25.0)])
    assert moves(farm.run(GRID, lambda _at: {}), "mortality")[-1][0] is WarningState.ACTIVE


def test_an_outbreak_that_nobody_records_on_is_given_up_with_the_reason() -> None:
    farm = weeks_of_records()
    told(farm, date(2026, 3, 20), 45)
    events = farm.run(4 * 24 * HOUR, lambda _at: {})
    assert moves(events, "mortality")[-1] == (WarningState.NORMAL, Reason.CANNOT_SAY)


# --- sensors


def active(events: list[WarningEvent]) -> set[str]:
    return {event.standing.rule for event in events if event.standing.state is WarningState.ACTIVE}


@pytest.fixture
def quiet() -> Farm:
    """Give a house with a flock and no model, a few hours in."""
    farm = Farm()
    farm.place()
    assert farm.run(3 * HOUR) == []
    return farm


def test_one_silent_sensor_is_missing_since_it_was_last_heard(quiet: Farm) -> None:
    last = quiet.now
    events = quiet.run(HOUR, lambda at: {"water": 10.0})
    assert active(events) == {"missing-temperature"}
    standing = quiet.standing("missing-temperature")
    assert standing.since == last
    assert standing.raised_at is not None
    assert standing.raised_at - last <= timedelta(minutes=40)
    assert moves(quiet.run(GRID), "missing-temperature") == [(WarningState.NORMAL, Reason.BACK_IN_BAND)]


def test_a_silent_house_is_one_warning(quiet: Farm) -> None:
    events = quiet.run(2 * HOUR, lambda _at: {})
    assert active(events) == {"silent"}
    others = [event for event in events if event.standing.rule != "silent"]
    assert {(event.standing.state, event.reason) for event in others} == {
        (WarningState.SUPPRESSED, Reason.ROOT_CAUSE)  # kept, and told to nobody
    }
    assert sorted(event.standing.rule for event in others) == ["missing-temperature", "missing-water"]
    assert [event.standing.rule for event in quiet.watch.shown(quiet.now)] == ["silent"]
    assert quiet.watch.severity() is Severity.MINOR


def test_a_house_that_stays_silent_for_a_week_is_never_said_to_be_well(quiet: Farm) -> None:
    quiet.run(7 * 24 * HOUR, lambda _at: {})
    assert quiet.standing("silent").state is WarningState.ACTIVE


def test_silence_counts_only_if_it_lasted_five_seconds_of_real_time(quiet: Farm) -> None:
    """On an accelerated farm ten minutes are a blink: the readings are under way."""
    quiet.observe([(quiet.now + GRID, "water", 10.0), (quiet.now + GRID, "temperature", 21.0)], monotonic=100.0)
    quiet.now += 2 * HOUR
    assert quiet.judge(monotonic=104.9) == []
    assert active(quiet.judge(monotonic=105.0)) == {"silent"}


def test_an_instant_is_ready_when_readings_have_passed_it_or_after_real_silence(quiet: Farm) -> None:
    quiet.observe([(quiet.now, "water", 10.0)], monotonic=100.0)
    assert quiet.watch.is_ready(quiet.now, 100.0)
    assert not quiet.watch.is_ready(quiet.now + GRID, 104.0)
    assert quiet.watch.is_ready(quiet.now + GRID, 105.0)


def test_what_people_tell_once_a_day_is_no_sensor(quiet: Farm) -> None:
    for minutes in range(10):
        quiet.observe([(quiet.now - timedelta(minutes=10 - minutes), "dead", 1.0)])
    assert quiet.run(6 * HOUR) == []


def test_an_empty_house_has_no_missing_sensors(quiet: Farm) -> None:
    quiet.tell('{"action":"end"}')
    assert active(quiet.run(6 * HOUR, lambda _at: {})) == set()


def test_late_readings_neither_move_the_clock_back_nor_say_that_a_sensor_is_silent(quiet: Farm) -> None:
    newest = quiet.watch.last_reading_at()
    quiet.observe([(quiet.now - 2 * HOUR, "water", 3.0), (quiet.now - 2 * HOUR, "temperature", 20.0)])
    assert quiet.watch.last_reading_at() == newest
    assert quiet.judge() == []


def test_a_late_block_fills_its_own_hours(predictor: Predictor) -> None:
    """A gateway that was cut off sends what it kept: the course is whole again, and nothing is raised."""
    farm = Farm(predictor)
    farm.place()
    farm.run(26 * HOUR)
    gone = farm.now
    farm.run(GRID, lambda _at: {})
    farm.now += 3 * HOUR
    late = [gone + timedelta(minutes=m) for m in range(1, 191)]
    farm.observe([(at, signal, value) for at in late for signal, value in wobbling(at).items()])
    assert active(farm.judge() + farm.run(3 * HOUR)) == set()


def test_a_rule_that_is_switched_off_never_rises_and_one_that_stands_says_why_it_goes() -> None:
    off = {"missing-temperature": RuleOverride(enabled=False)}
    farm = Farm(overrides=off)
    farm.place()
    farm.run(2 * HOUR)
    assert active(farm.run(2 * HOUR, lambda at: {"water": 10.0})) == set()
    standing = Standing("missing-temperature", "house1", WarningState.ACTIVE, Severity.WARNING, "x")
    farm.watch.standings["missing-temperature"] = standing
    [event] = farm.run(GRID)
    assert (event.standing.state, event.reason) == (WarningState.NORMAL, Reason.RULE_REMOVED)


# --- restart


def restarted(farm: Farm, standings: Iterable[Standing]) -> Farm:
    """Return the farm as after a restart: from what was recorded, and nothing else."""
    again = Farm(farm.predictor, farm.overrides)
    again.now = farm.now
    again.quality = farm.quality  # restored by itself; see test_quality.py
    again.watch = again.new_watch()
    newest = {name: to_ms(farm.now) for name in ("water", "temperature")}
    again.watch.restore(farm.watch.life, standings, farm.watch.window.rhythms_s(), newest)
    again.watch.window.load(farm.watch.window.take_changed())
    return again


def recorded(farm: Farm) -> list[Standing]:
    stored = {standing.rule: standing for outcome in farm.outcomes for standing in outcome.standings}
    return list(stored.values())


@pytest.mark.parametrize("hours", [0.5, 1, 3])
def test_after_a_restart_the_same_warnings_stand_and_go_the_same_way(farm: Farm, hours: float) -> None:
    farm.run(hours * HOUR, dry)
    again = restarted(farm, recorded(farm))
    for rule, standing in farm.watch.standings.items():
        other = again.standing(rule)
        assert (other.state, other.id, other.since, other.raised_at) == (
            standing.state,
            standing.id,
            standing.since,
            standing.raised_at,
        )
    ends = [[(e.at, e.standing.rule, e.standing.state, e.reason) for e in each.run(4 * HOUR)] for each in (farm, again)]
    assert ends[0] == ends[1]


def test_an_off_delay_that_runs_goes_on_after_a_restart(farm: Farm) -> None:
    farm.run(2 * HOUR, dry)
    for _ in range(6):  # an hour: as long as the fault is in the measured hour
        if farm.standing("deviation-water").back_since is None:
            farm.run(GRID)
    assert restarted(farm, recorded(farm)).standing("deviation-water").back_since is not None


def test_a_sensor_that_was_missing_before_a_restart_is_missing_after_it(quiet: Farm) -> None:
    last = quiet.now
    quiet.run(HOUR, lambda at: {"water": 10.0})
    again = restarted(quiet, recorded(quiet))
    again.watch.restore(
        quiet.watch.life,
        recorded(quiet),
        quiet.watch.window.rhythms_s(),
        {"water": to_ms(quiet.now), "temperature": to_ms(last)},
    )
    assert again.run(8 * HOUR, lambda at: {"water": 10.0}) == []
    assert again.standing("missing-temperature").state is WarningState.ACTIVE


def test_a_missing_sensor_is_not_well_because_the_agent_was_started_a_moment_ago(quiet: Farm) -> None:
    last = quiet.now
    quiet.run(HOUR, lambda at: {"water": 10.0})
    again = restarted(quiet, ())
    again.watch = HouseWatch(
        "house1",
        signal=lambda key: signal_of(key.signal),
        days=DAYS,
        manifests=[],
        overrides={},
        rhythm_s=quiet.quality.rhythm_s,
        started_monotonic=50.0,
    )
    again.watch.restore(quiet.watch.life, recorded(quiet), {}, {"water": to_ms(quiet.now), "temperature": to_ms(last)})
    again.now += GRID
    again.observe([(again.now, "water", 10.0)], monotonic=51.0)
    assert again.judge(monotonic=51.0) == []
    assert again.standing("missing-temperature").state is WarningState.ACTIVE


def test_a_standing_rule_of_another_version_is_dropped_and_stops_nobody(quiet: Farm) -> None:
    again = restarted(quiet, [Standing("earthquake-water", "house1", WarningState.ACTIVE)])
    assert again.watch.standings == {}
    assert again.run(HOUR) == []


# --- commands


def test_what_somebody_asks_of_a_warning_is_done_and_told(quiet: Farm) -> None:
    quiet.run(2 * HOUR, lambda _at: {})
    seen = quiet.watch.command("silent", Acknowledge(action="acknowledge", by="anna"), quiet.now)
    assert (seen.standing.state, seen.reason, seen.standing.by) == (
        WarningState.ACKNOWLEDGED,
        Reason.ACKNOWLEDGED_BY,
        "anna",
    )
    assert quiet.watch.severity() is Severity.MINOR
    quiet.watch.command("silent", Shelve(action="shelve", for_s=3600), quiet.now)
    assert quiet.watch.severity() is Severity.NONE
    assert [event.standing.state for event in quiet.watch.shown(quiet.now)] == [WarningState.SHELVED]
    with pytest.raises(InputError, match="is shelved: it cannot be acknowledged now"):
        quiet.watch.command("silent", Acknowledge(action="acknowledge"), quiet.now)
    with pytest.raises(InputError, match="no warning 'stuck-water' stands in house1"):
        quiet.watch.command("stuck-water", Unshelve(action="unshelve"), quiet.now)


def test_a_shelf_whose_time_is_over_in_an_empty_house_raises_nothing(farm: Farm) -> None:
    farm.run(2 * HOUR, dry)
    farm.watch.command("deviation-water", Shelve(action="shelve", for_s=3600), farm.now)
    farm.tell('{"action":"end"}')
    events = farm.run(3 * HOUR, lambda _at: {})
    assert moves(events, "deviation-water") == [(WarningState.SUPPRESSED, Reason.HOUSE_STATE)]


def test_commands_that_could_not_be_stored_are_taken_back(quiet: Farm) -> None:
    quiet.run(2 * HOUR, lambda _at: {})
    before = quiet.watch.told()
    quiet.tell('{"action":"thin","birds":100}')
    quiet.watch.command("silent", Acknowledge(action="acknowledge"), quiet.now)
    quiet.watch.take_back(before)
    assert quiet.watch.told() == before
    assert quiet.watch.life.state is HouseState.ACTIVE


def test_what_is_shown_is_never_older_than_what_happened_to_it(quiet: Farm) -> None:
    """A command comes between two grid instants."""
    quiet.run(2 * HOUR, lambda _at: {})
    told_at = quiet.now + timedelta(minutes=3)
    quiet.watch.command("silent", Acknowledge(action="acknowledge"), told_at)
    [shown] = quiet.watch.shown(quiet.now)
    assert shown.at == told_at


# --- the skipping of a replay


def test_a_replay_judges_what_matters_and_skips_the_rest(quiet: Farm) -> None:
    quiet.tell('{"action":"end"}')
    quiet.run(3 * 24 * HOUR, lambda _at: {})
    quiet.watch.standings.clear()
    noon = quiet.now.replace(hour=12, minute=0)
    assert not quiet.watch.matters(noon)
    assert quiet.watch.matters(noon.replace(hour=0))  # a new farm day
    quiet.observe([(noon, "water", 10.0)])
    assert quiet.watch.matters(noon)


def test_readings_that_are_not_good_do_not_enter_the_window(farm: Farm) -> None:
    before = farm.watch.window.take_changed()
    assert before
    builder = ReadingsBuilder()
    builder.add(SeriesKey("house1", "water"), to_ms(farm.now), 1e9, TimeQuality.SENDER, to_ms(farm.now))
    bad = replace(builder.build(), quality=np.array([Quality.OUT_OF_RANGE], np.uint8))
    farm.watch.observe(bad, 0.0)
    assert farm.watch.window.take_changed() == []


def test_the_severity_of_a_house_is_the_worst_that_is_not_shelved(quiet: Farm) -> None:
    rules = {"missing-water": Severity.WARNING, "mortality": Severity.MAJOR}
    for rule, severity in rules.items():
        quiet.watch.standings[rule] = Standing(rule, "house1", WarningState.ACTIVE, severity, "x")
    assert quiet.watch.severity() is Severity.MAJOR
    shelved = judging.shelve(quiet.watch.standings["mortality"], quiet.now, 600, None)
    assert shelved is not None
    quiet.watch.standings["mortality"] = shelved[0]
    assert quiet.watch.severity() is Severity.WARNING
