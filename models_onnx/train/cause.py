"""The bundle ``cause``: what probably lies behind a warning, or that nothing does.

It is asked where a warning stands. It reads what the rules found (how far each watched signal is out of its course, on
which side, since when), what the sensors are (stuck, silent, out of range), and the last days of all signals against
the days before. Boosted trees give a probability for each cause, for ``unknown`` (a departure that fits none) and for
``none`` (a false warning).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from agent.bundles import find_bundle, load_bundle, shipped_directory
from agent.deviation import modelled_rules
from agent.errors import BundleError
from agent.manifest import DAY_S, NO_FAULT, UNKNOWN_CAUSE, Feature, Grid, InputSpec, Output, parse_manifest
from agent.predict import Model
from models_onnx.farm.params import HELD_OUT_FAULTS
from models_onnx.train.bundle import SELFTEST_ROWS, Head, digest_of, manifest_text, said_by, write_bundle
from models_onnx.train.card import cause_card
from models_onnx.train.classes import calibration_error, temperature_of
from models_onnx.train.graph import Graph
from models_onnx.train.job import SEED
from models_onnx.train.played import HEALTHY, ODD, Campaign, instants_of, raises
from models_onnx.train.trees import Trees

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from agent.bundles import Bundle
    from agent.manifest import Manifest
    from models_onnx.train.job import Job
    from models_onnx.train.played import Instants

    F32 = NDArray[np.float32]

NAME, VERSION = "cause", "1.0.0"
CADENCE_S = 600
HOUR_S = 3600

# --- the truth: which cause a simulated fault is, in the words of agent/explain.py

CAUSE_OF = {
    "water_line_blocked": "water_line_blocked",
    "water_leak": "water_leak",
    "feed_outage": "feed_outage",
    "feed_bridge": "feed_outage",
    "ventilation_failure": "ventilation_failure",
    "fan_fouling": "ventilation_failure",
    "inlet_stuck": "ventilation_failure",
    "heater_failure": "heater_failure",
    "cooling_failure": "heat_stress",
    "heat_wave": "heat_stress",
    "wet_litter": "wet_litter",
    "disease": "disease",
    "coccidiosis": "disease",
    "enteritis": "disease",
    "respiratory": "disease",
    "mortality_outbreak": "disease",
    "growth_lag": "growth_lag",
    "scale_dirty": "scale_fault",
    "sensor_stuck": "sensor_stuck",
    "sensor_drift": "sensor_drift",
    "sensor_noise": "sensor_drift",
    "sensor_fouled": "sensor_drift",
    "sensor_scale": "sensor_scale",
    "sensor_dropout": "sensor_silent",
    "clock_error": "clock_error",
    "thin_unrecorded": "unrecorded_event",
    "placement_wrong": "unrecorded_event",
    "door_open": UNKNOWN_CAUSE,
    ODD: UNKNOWN_CAUSE,
}
# how often each comes in training: those that hardly ever show, or come to several houses at once, less often
KINDS = {name: 1.0 for name in CAUSE_OF if name not in {*HELD_OUT_FAULTS, ODD, "placement_wrong", "sensor_dropout"}} | {
    "heat_wave": 0.3,
    "cooling_failure": 0.5,
    "sensor_stuck": 2.0,
    "sensor_drift": 2.0,
    "sensor_scale": 2.0,
}
SCALE_FAULTS = frozenset({"sensor_stuck-weight", "sensor_drift-weight", "sensor_noise-weight"})


def cause_of(fault: str) -> str:
    """Return the cause that a fault is (``sensor_drift-weight``: its name, with the sensor); none where there is none.

    A bird scale that is not right is one thing, whatever ails it.
    """
    if fault == HEALTHY:
        return NO_FAULT
    return "scale_fault" if fault in SCALE_FAULTS else CAUSE_OF[fault.partition("-")[0]]


LABELS = (*sorted({*CAUSE_OF.values()} - {UNKNOWN_CAUSE}), UNKNOWN_CAUSE, NO_FAULT)

# --- what it reads

FLOW = ("water", "feed")
CLIMATE = ("temperature", "humidity", "co2", "ammonia", "pressure")
CONTROL = ("ventilation", "heating", "light")
OUTSIDE = ("outside_temperature",)
LOGS = frozenset({"co2", "ammonia", "light"})


def _feature(signal: str) -> Feature:
    if signal in FLOW:
        return Feature(signal=signal, aggregate="sum", per="live_bird", reference="strain.feed_g", transform="log1p")
    if signal == "weight":
        return Feature(signal=signal, reference="strain.weight_g", transform="log")
    if signal == "dead":
        return Feature(signal=signal, aggregate="sum", per="live_bird")
    return Feature(signal=signal, transform="log1p" if signal in LOGS else None)


HOURS = tuple(_feature(name) for name in (*FLOW, *CLIMATE, *CONTROL, *OUTSIDE, "weight"))
ALL_DAYS = tuple(
    _feature(name) for name in (*FLOW, "weight", "weight_sd", "dead", "humidity", "ammonia", "ventilation")
)
HOUR_ROWS, DAY_ROWS = 73, 8
SENSORS = (*FLOW, *CLIMATE, "ventilation", "heating", "light", "weight", "outside_temperature", "silo")
STATES = ("stuck", "silent", "out_of_range")
PLAIN = ("age_days", "hour_sin", "hour_cos", "reference.weight_g", "state:thinned")


def inputs_of(rules: Sequence[str]) -> tuple[InputSpec, ...]:
    """Return what the model reads, where ``rules`` are what the expectations judge."""
    scores = tuple(f"score.{rule}" for rule in (*rules, "mortality"))
    percent = tuple(f"deviation_pct.{rule}" for rule in (*rules, "mortality"))
    since = tuple(f"since_h.{rule}" for rule in (*rules, "mortality"))
    sensors = tuple(f"sensor.{state}.{name}" for state in STATES for name in SENSORS)
    facts = (*PLAIN, *scores, *percent, *since, *sensors)

    def grid(name: str, step_s: int, length: int, features: tuple[Feature, ...]) -> InputSpec:
        shape = ("houses", length, len(features))
        return InputSpec(name=name, shape=shape, grid=Grid(step_s=step_s, length=length), features=features)

    return (
        grid("hours", HOUR_S, HOUR_ROWS, HOURS),
        grid("days", DAY_S, DAY_ROWS, ALL_DAYS),
        InputSpec(name="facts", shape=("houses", len(facts)), facts=facts),
    )


OUTPUTS = (Output(name="causes", meaning="probabilities", target="cause", labels=LABELS),)


def draft(expect: Manifest) -> Manifest:
    """Return the manifest before there is a model: what it will read, beside these expectations."""
    rules = dict.fromkeys(name for name, _ in modelled_rules(expect.output))
    text = manifest_text(Head(NAME, VERSION, "cause", CADENCE_S, "", {}), inputs_of(tuple(rules)), OUTPUTS)
    return parse_manifest(text.replace("SHA256", "0" * 64), "draft")


# --- columns: made inside the graph, so that training and gateway cannot differ

# (from, to): hours or days back from now, over which the mean is taken
HOUR_SPANS = ((0, 1), (0, 3), (0, 6), (0, 24), (24, 25), (24, 27), (24, 30), (24, 48), (48, 72), (1, 25))
HOUR_LESS = ((0, 4), (1, 5), (2, 6), (3, 7), (3, 8), (0, 9))  # each less the same hours before, or the day before
OF_ALL = ((1, 5), (3, 7))  # of these every signal's own
UNREST_SPANS = ((0, 3), (0, 12), (12, 72))
UNREST_LESS = ((0, 2), (1, 2))
DAY_SPANS = ((0, 1), (1, 3), (3, 7))
DAY_LESS = ((0, 1), (0, 2))
STEPS = 1024.0  # of one unit of a column: smaller ones are not seen
LEAST_UNREST = 1e-3  # in the units of the columns: below it a signal stands still
MOST_SCORE = 10.0  # beyond it a departure is no further than far
NEAR, FAR = 0.3, 3.0  # scores below the one are nothing, beyond the other more than a limit that was set too near


def _known(graph: Graph, a: str) -> str:
    """Return ``a`` with 0 where it is no number."""
    return graph.op("Where", graph.op("IsNaN", a), graph.const(0.0), a)


def _spans(graph: Graph, a: str, rows: int, spans: Sequence[tuple[int, int]]) -> str:
    """Return the mean of what is known over each span, [houses, spans, columns]; NaN where nothing is."""
    weights = np.zeros((len(spans), rows), np.float32)
    for i, (first, last) in enumerate(spans):
        weights[i, rows - last : rows - first] = 1
    total = graph.op("MatMul", graph.const(weights), _known(graph, a))
    there = graph.op("Where", graph.op("IsNaN", a), graph.const(0.0), graph.const(1.0))
    return graph.div(total, graph.op("MatMul", graph.const(weights), there))  # 0 / 0 is NaN


def _picked(graph: Graph, means: str, which: Sequence[int]) -> str:
    """Return some of the spans, [houses, which, columns]."""
    return graph.op("Gather", means, graph.const(which, np.int64), axis=1)


def _differences(graph: Graph, means: str, pairs: Sequence[tuple[int, int]]) -> str:
    return graph.sub(*(_picked(graph, means, [pair[i] for pair in pairs]) for i in (0, 1)))


def _squeezed(graph: Graph, a: str) -> str:
    """Return sign(a) log(1 + |a|): a score of ten says little more than one of five."""
    size = graph.op("Log", graph.add(graph.op("Abs", a), graph.const(1.0)))
    return graph.mul(graph.op("Sign", a), size)


def _sides(graph: Graph, scores: str) -> str:
    """Return for each rule whether it is above its course, whether it is below it, and how far beyond all doubt."""
    score = _known(graph, scores)
    near = graph.const(NEAR)
    above, below = (
        graph.op("Tanh", graph.op("Relu", graph.sub(side, near)))
        for side in (score, graph.mul(score, graph.const(-1.0)))
    )
    beyond = graph.op("Relu", graph.sub(graph.op("Abs", score), graph.const(FAR)))
    return graph.concat([above, below, _squeezed(graph, beyond)])


def _unrest(graph: Graph) -> str:
    """Return how much more, or less, each signal moves from hour to hour than it did, as a logarithm."""
    later, before = (
        graph.op("Gather", "hours", graph.const(range(first, HOUR_ROWS - 1 + first), np.int64), axis=1)
        for first in (1, 0)
    )
    moved = _spans(graph, graph.op("Abs", graph.sub(later, before)), HOUR_ROWS - 1, UNREST_SPANS)
    return _differences(graph, graph.op("Log", graph.add(moved, graph.const(LEAST_UNREST))), UNREST_LESS)


def _attention(graph: Graph, facts: Sequence[str]) -> str:
    """Return how much of the departure is each hourly signal's, [houses, signals]; they add up to 1."""
    scores = [i for i, fact in enumerate(facts) if fact.startswith("score.")]
    signals = [feature.signal for feature in HOURS]
    whose = np.zeros((len(scores), len(signals)), np.float32)
    for i, number in enumerate(scores):
        signal = facts[number].rpartition("-")[2]
        if signal in signals:
            whose[i, signals.index(signal)] = 1
    size = graph.op(
        "Clip", _known(graph, graph.columns("facts", scores)), graph.const(-MOST_SCORE), graph.const(MOST_SCORE)
    )
    each = graph.op("MatMul", graph.mul(size, size), graph.const(whose))
    total = graph.op("ReduceSum", each, graph.const([1], np.int64), keepdims=1)
    return graph.div(each, graph.add(total, graph.const(1e-3)))


def _sensors(graph: Graph, facts: Sequence[str], attention: str) -> str:
    """Return for each state of sensors whether the signal furthest out of its course has it, and whether any has."""
    signals = [feature.signal for feature in HOURS]
    parts = []
    for state in STATES:
        named = [f"sensor.{state}.{name}" for name in SENSORS]
        every = _known(graph, graph.columns("facts", [facts.index(name) for name in named]))
        parts.append(graph.op("ReduceMax", every, axes=[1], keepdims=1))
        own = _known(graph, graph.columns("facts", [facts.index(f"sensor.{state}.{name}") for name in signals]))
        parts.append(graph.op("ReduceSum", graph.mul(own, attention), graph.const([1], np.int64), keepdims=1))
    return graph.concat(parts)


def columns_of(graph: Graph, inputs: Sequence[InputSpec]) -> str:
    """Add what the network looks at to a graph; return it, [houses, columns].

    Few columns, as there are few faults to learn from. Much is told of the signal that is furthest out of its course,
    whichever it is: what a stuck or a drifting sensor looks like is the same for all of them.
    """
    facts = inputs[-1].facts
    n, m = len(HOURS), len(ALL_DAYS)
    rules = [i for i, fact in enumerate(facts) if fact.partition(".")[0] in {"score", "since_h"}]
    percent = [i for i, fact in enumerate(facts) if fact.startswith("deviation_pct.")]
    hours, days = _spans(graph, "hours", HOUR_ROWS, HOUR_SPANS), _spans(graph, "days", DAY_ROWS, DAY_SPANS)
    of_signals = graph.concat([_differences(graph, hours, HOUR_LESS), _unrest(graph)], axis=1)
    attention = _attention(graph, facts)
    of_one = graph.op(
        "ReduceSum",
        graph.mul(_known(graph, of_signals), graph.reshape(attention, [-1, 1, n])),
        graph.const([2], np.int64),
        keepdims=0,
    )
    tenths = graph.mul(_known(graph, graph.columns("facts", percent)), graph.const(0.1))
    columns = graph.concat(
        [
            graph.columns("facts", [facts.index(fact) for fact in PLAIN]),
            _squeezed(graph, graph.columns("facts", rules)),
            _squeezed(graph, tenths),
            _sides(graph, graph.columns("facts", [i for i in rules if facts[i].startswith("score.")])),
            _sensors(graph, facts, attention),
            of_one,
            graph.reshape(_differences(graph, hours, OF_ALL), [-1, len(OF_ALL) * n]),
            graph.reshape(_differences(graph, days, DAY_LESS), [-1, len(DAY_LESS) * m]),
        ]
    )
    # what stands still differs by nothing, on every processor: a split must not hang on the last bit
    return graph.mul(graph.op("Round", graph.mul(columns, graph.const(STEPS))), graph.const(1 / STEPS))


# --- training

FARMS, BY_FARMS = (12, 130), (4, 110)  # farms, and houses on each
TINY_KINDS = {"water_line_blocked": 1.0, "feed_outage": 1.0}
NONE_SHARE = 0.3  # of the weight in training: three in ten warnings are taken to be false (assumed)
PHASES_H = (0.0, 1.0, 6.0, 24.0, 72.0)  # after the raise: each is worth the same, however many instants are in it


@dataclass(frozen=True, slots=True)
class Trained:
    """What makes the model."""

    inputs: tuple[InputSpec, ...]
    trees: Trees
    temperature: float


def weights_of(instants: Instants) -> F32:
    """Return what each instant counts for.

    False warnings have ``NONE_SHARE`` of it. The rest is the faults': each that raised a warning counts alike, and in
    it each of the ``PHASES_H``, however many instants are in them.
    """
    is_false = np.array([fault == HEALTHY for fault in instants.fault])
    phase = np.searchsorted(np.array(PHASES_H), instants.since_raise_h, "right")
    parts = np.stack((instants.episode, phase), axis=1)
    _, part, sizes = np.unique(parts, axis=0, return_inverse=True, return_counts=True)
    phases = {e: len(np.unique(phase[instants.episode == e])) for e in np.unique(instants.episode).tolist()}
    weight = 1 / sizes[part.ravel()] / np.array([phases[e] for e in instants.episode.tolist()])
    weight = np.where(
        is_false, NONE_SHARE / max(is_false.sum(), 1), (1 - NONE_SHARE) * weight / weight[~is_false].sum()
    )
    return np.asarray(weight * len(instants) / weight.sum(), np.float32)


def labels_of(instants: Instants) -> NDArray[np.int64]:
    """Return the number of each instant's cause in ``LABELS``."""
    return np.array([LABELS.index(cause_of(fault)) for fault in instants.fault], np.int64)


def new_graph(inputs: Sequence[InputSpec]) -> Graph:
    """Return a graph that reads the inputs."""
    return Graph({spec.name: spec.shape for spec in inputs})


def train(inputs: tuple[InputSpec, ...], samples: Instants, validation: Instants, *, seed: int) -> Trained:
    """Train on ``samples``; make the probabilities honest by ``validation``."""
    graph = new_graph(inputs)
    name = columns_of(graph, inputs)
    [seen], [by] = graph.values([name], samples.tensors), graph.values([name], validation.tensors)
    seen, by = (np.where(np.isfinite(a), a, np.nan).astype(np.float32) for a in (seen, by))
    trees = Trees(len(LABELS), seed).fit(seen, labels_of(samples), weights_of(samples))
    temperature = temperature_of(trees.logits(by), labels_of(validation), weights_of(validation))
    return Trained(inputs, trees, temperature)


def export(trained: Trained) -> ModelProto:
    """Return the model as ONNX."""
    graph = new_graph(trained.inputs)
    seen = columns_of(graph, trained.inputs)
    beyond = graph.op("IsInf", seen)  # as in training: what is no number is not known
    seen = graph.op("Where", beyond, graph.const(np.nan), seen)
    logits = trained.trees.emit(graph, seen)
    scaled = graph.mul(logits, graph.const(1 / trained.temperature))
    return graph.model({"causes": (graph.op("Softmax", scaled, axis=-1), ("houses", len(LABELS)))})


# --- how good it is

HOURS_AFTER = (0.0, 1.0, 6.0, 24.0)


@dataclass(frozen=True, slots=True)
class Right:
    """How often the right cause came first, and among the first three, in so many warnings."""

    warnings: int
    first: float
    in_three: float


def said_of(model: Model, instants: Instants) -> F32:
    """Return the probabilities that a model gives, [n, labels]."""
    return np.asarray(said_by(model, instants)[OUTPUTS[0].name], np.float32)


def rank_of(said: F32, instants: Instants) -> NDArray[np.int64]:
    """Return how many causes stand before the right one in what is told; a false warning is none of them."""
    causes = said[:, :-1]
    label = np.minimum(labels_of(instants), len(LABELS) - 2)
    return np.asarray((causes > np.take_along_axis(causes, label[:, None], axis=1)).sum(axis=1), np.int64)


def rights_of(said: F32, instants: Instants) -> dict[str, Right]:
    """Return how often it was right: at the raise and some hours later, and at the raise for each fault.

    A fault of which no warning was raised is not in it. "all" weighs each fault alike.
    """
    rank = rank_of(said, instants)
    names = np.array([fault.partition("-")[0] for fault in instants.fault])
    found: dict[str, Right] = {}
    by_fault: dict[str, Right] = {}
    for hour in HOURS_AFTER:
        rows = raises(instants, (hour,))
        rows = rows[(names[rows] != HEALTHY) & (names[rows] != ODD)]
        each = {name: rank[rows[names[rows] == name]] for name in sorted({*names[rows].tolist()})}
        if not each:
            continue
        first, three = (float(np.mean([(ranks < n).mean() for ranks in each.values()])) for n in (1, 3))
        found["all, at the raise" if hour == 0 else f"all, {hour:g} h later"] = Right(len(rows), first, three)
        if hour == 0:
            by_fault = {
                name: Right(len(ranks), float((ranks < 1).mean()), float((ranks < 3).mean()))
                for name, ranks in each.items()
            }
    return found | by_fault


def honesty_of(said: F32, instants: Instants) -> dict[str, float]:
    """Return how far what was said is from how often it came true: of the first cause, and of the confidence."""
    weight, label = weights_of(instants), labels_of(instants)
    nothing = LABELS.index(NO_FAULT)
    first = said.argmax(axis=1)
    confidence = 1 - said[:, nothing]
    return {
        "ece_first": calibration_error(said.max(axis=1), first == label, weight),
        "ece_confidence": calibration_error(confidence, label != nothing, weight),
    }


# --- the whole of it


def build(job: Job) -> Bundle:
    """Play farms with faults before the agent, train on what it is told, and write the bundle."""
    judged_by = _expectations(job)
    expect = load_bundle(judged_by).manifest
    farms, by = Campaign("train", *FARMS, SEED, KINDS), Campaign("validation", *BY_FARMS, SEED + 900, KINDS)
    if job.tiny:
        farms, by = (replace(one, count=1, houses=6, kinds=TINY_KINDS, days=11, healthy=0.0) for one in (farms, by))
    asks = draft(expect)
    job.say(f"{NAME}: playing {farms.count} farms of {farms.houses} houses with faults, and {by.count} to validate")
    samples = instants_of(farms, judged_by, asks, job.processes)
    validation = instants_of(by, judged_by, asks, job.processes)
    return finish(job, asks, (farms, by), (samples, validation))


def finish(job: Job, asks: Manifest, farms: tuple[Campaign, Campaign], played: tuple[Instants, Instants]) -> Bundle:
    """Train on what was played, the farms of training first, then those of validation, and write the bundle."""
    samples, validation = played
    job.say(f"{NAME}: {len(samples):,} instants to train on, {len(validation):,} to stop and to calibrate by")
    trained = train(asks.input, samples, validation, seed=SEED % 1000)
    model = export(trained)
    rows = np.linspace(0, len(samples) - 1, SELFTEST_ROWS).astype(np.intp)
    tested = {name: values[rows] for name, values in samples.tensors.items()}
    head = Head(NAME, VERSION, "cause", CADENCE_S, digest_of(samples.tensors.values()), {})
    directory = job.out / NAME / VERSION
    runnable = Model(write_bundle(directory, model, manifest_text(head, asks.input, OUTPUTS), tested, ""))
    said = said_of(runnable, validation)
    rights, honesty = rights_of(said, validation), honesty_of(said, validation)
    for name, right in rights.items():
        job.say(f"{NAME}: {name}: first {right.first:.2f}, in three {right.in_three:.2f} of {right.warnings}")
    metrics = {name: float(f"{value:.3g}") for name, value in _metrics(rights, honesty).items()}
    job.say(f"{NAME}: {metrics}")
    manifest = manifest_text(replace(head, metrics=metrics), asks.input, OUTPUTS)
    card = cause_card(len(samples), *farms, rights, honesty)
    return write_bundle(directory, model, manifest, tested, card)


def _metrics(rights: Mapping[str, Right], honesty: Mapping[str, float]) -> dict[str, float]:
    total = rights.get("all, at the raise", Right(0, float("nan"), float("nan")))
    return {"first": total.first, "in_three": total.in_three, **honesty}


def _expectations(job: Job) -> Path:
    """Return the expectations that judge: those trained beside it, or the shipped ones."""
    try:
        return find_bundle(shipped_directory() if job.tiny else job.out, "expect")
    except BundleError:
        return find_bundle(shipped_directory(), "expect")
