"""The bundle ``weight``: the mean live weight of the flock in the days to come and at slaughter.

Four witnesses tell how far the flock is from the breed's curve: the automatic scale, the feed so far, the water so far,
and what earlier flocks of the house and the site weighed. Each is corrected by what the house's own slaughter weights
have shown it to miss (``agent/calibration.py``) and counts by the inverse of its variance; one network learns what that
leaves, for every horizon. Where nothing was measured, history alone speaks, and the network is not asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from agent.calibration import HOUSE, INSTRUMENTS, SITE
from agent.manifest import DAY_S, Feature, Grid, InputSpec, Output
from agent.predict import Model
from agent.strains import COBB_500, ROSS_308
from agent.window import curves_of
from models_onnx.train.bundle import Head, digest_of, for_selftest, manifest_text, reference_of, said_by, write_bundle
from models_onnx.train.card import weight_card
from models_onnx.train.data import Farms, Wanted
from models_onnx.train.graph import Graph
from models_onnx.train.job import SEED
from models_onnx.train.net import QUANTILES, Net, Scaling, calibrated, fit, pinball
from models_onnx.train.sequences import CYCLE_DAYS, samples_with_history

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from agent.bundles import Bundle
    from models_onnx.train.data import Samples
    from models_onnx.train.job import Job

    F32 = NDArray[np.float32]

NAME, VERSION = "weight", "1.2.0"
CADENCE_S = 3600
LENGTH = 50  # farm days: the oldest flock is not much older
HORIZON_DAYS = (1, 2, 5, 7)
HORIZONS = ("slaughter", *(f"{d}d" for d in HORIZON_DAYS))
UNKNOWN_END_DAYS = 7.0  # what stands for the days to slaughter where nobody planned one; the agent then shows none

COURSE = (
    Feature(signal="weight", aggregate="mean", reference="strain.weight_g", transform="log"),
    Feature(signal="feed", aggregate="sum", per="live_bird", reference="strain.feed_g", transform="log"),
    Feature(signal="water", aggregate="sum", per="live_bird", reference="strain.feed_g", transform="log"),
    Feature(signal="temperature", aggregate="mean"),
    Feature(signal="humidity", aggregate="mean"),
    Feature(signal="ammonia", aggregate="mean"),
)
WEIGHT, FEED, WATER, TEMPERATURE, HUMIDITY, AMMONIA = range(len(COURSE))
CALIBRATED = ("scale_error", "scale_error_14d", "feed_error", "water_error")
FACTS = (
    "age_days",
    "day_fraction",
    "days_to_slaughter",
    "parent_age_weeks",
    "strain:cobb500",
    "sex:male",
    "sex:female",
    "birds_placed",
    "live_birds",
    "house.flocks",
    "house.weight_bias",
    "house.weight_bias_sd",
    *(f"house.{name}{part}" for name in CALIBRATED for part in ("", "_sd")),
)
AGE, FRACTION, TO_SLAUGHTER, PARENTS, COBB, MALE, FEMALE, PLACED, LIVE, FLOCKS, BIAS, BIAS_SD = range(12)
ERROR = {name: FACTS.index(f"house.{name}") for name in CALIBRATED}
INPUTS = (
    InputSpec(
        name="course",
        shape=("houses", LENGTH, len(COURSE)),
        grid=Grid(step_s=DAY_S, length=LENGTH, align="day"),
        features=COURSE,
    ),
    InputSpec(name="facts", shape=("houses", len(FACTS)), facts=FACTS),
)

WANTED = Wanted(INPUTS, (), HORIZON_DAYS)

LATE_FROM_DAY, LATE_DAYS = 26.0, 14.0  # the scale's error goes from its early to its late one: S30, docs/sources.md
# of the lesser variance of feed and water, what they share: how well a flock converts, and birds that were miscounted;
# on simulated validation farms their errors of one flock correlate by 0.87 to 0.91
INTAKE_SHARED = 0.8
SCALE_DAYS, SCALE_MEMORY_DAYS = 14, 8.0  # of the scale these days are taken, the newest count most
SILENT = 1e3  # the variance of a witness who says nothing
SCALE_ODD, SCALE_ROUNDS = 0.03, 4  # a day further off than this counts as if it were so far (Huber 1964)
NORMAL_90 = 1.2816  # so many sd above the mean lie nine tenths of a normal distribution
STEP_S = 1800  # of the simulation: days are looked at, and it takes a third of the time
PER_DAY = 1  # instants of each day of each flock
FAULT_SHARE = 0.3  # of the first flocks of the houses
# a flock weighs what it weighs at all its instants, so few houses teach: a larger network learns them by heart (pinball
# loss of 0.181 on those it was fitted to, 0.260 on validation farms; such a one 0.208 and 0.242, from 180 houses)
HIDDEN = (16, 8)
LEAST_TO_CALIBRATE = 200  # samples of a situation (scale and earlier flocks, scale alone, no scale) and horizon


@dataclass(frozen=True, slots=True)
class Columns:
    """The nodes before the network.

    ``columns`` and ``base`` are [houses, horizons, ...]; ``curve`` is the breed's weight then, in g; ``history`` tells
    where nothing was measured, ``history_half`` is half of the band there; ``situation`` is one column for each, of
    which one is 1.
    """

    columns: str
    base: str
    curve: str
    history: str
    history_half: str
    situation: str


def _rows(*back: int) -> list[int]:
    return [LENGTH - 1 - b for b in back]


def _curve_at(g: Graph, age: str, is_cobb: str) -> str:
    """Return the breed's weight at fractional ages [houses, horizons]."""
    tables = np.stack([curves_of(strain)[0] for strain in (ROSS_308, COBB_500)])
    whole = g.op("Floor", g.op("Clip", age, g.const(0.0), g.const(float(tables.shape[1] - 2))))
    share = g.sub(g.op("Clip", age, g.const(0.0), g.const(float(tables.shape[1] - 1))), whole)
    day = g.op("Cast", whole, to=7)  # int64
    next_day = g.add(day, g.const(1, np.int64))
    found = []
    for table in tables:
        left, right = (g.op("Gather", g.const(table), index, axis=0) for index in (day, next_day))
        found.append(g.add(left, g.mul(share, g.sub(right, left))))
    return g.add(found[0], g.mul(is_cobb, g.sub(found[1], found[0])))


def _known(g: Graph, a: str) -> str:
    """Return 1 where ``a`` is a number, else 0."""
    return g.op("Cast", g.op("Not", g.op("IsNaN", a)), to=TensorProto.FLOAT)


def _or_zero(g: Graph, a: str) -> str:
    return g.op("Where", g.op("IsNaN", a), g.const(0.0), a)


def _by_age(g: Graph, column: int, age: str) -> str:
    """Return the mean of a column of the course, yesterday and before, each day weighed by the flock's age then."""
    back = np.arange(1, LENGTH)
    values = g.rows("course", _rows(*back.tolist()), column)
    ages = g.op("Clip", g.sub(age, g.const(back[None].astype(np.float32))), g.const(0.0), g.const(100.0))
    axis = g.const([-1], np.int64)
    weights = g.mul(ages, _known(g, values))
    total = g.op("ReduceSum", g.mul(_or_zero(g, values), weights), axis, keepdims=1)
    return g.div(total, g.op("ReduceSum", weights, axis, keepdims=1))  # 0 / 0 is NaN


def _scale(g: Graph, age: str, early_error: str, drift: str) -> str:
    """Return what the scale tells of the last fortnight, each day less its error then, odd days held back."""
    back = np.arange(SCALE_DAYS)
    values = g.rows("course", _rows(*back.tolist()), WEIGHT)
    ages = g.sub(age, g.const(back[None]))
    late = g.op("Clip", g.div(g.sub(ages, g.const(LATE_FROM_DAY)), g.const(LATE_DAYS)), g.const(0.0), g.const(1.2))
    corrected = g.add(values, g.add(early_error, g.mul(late, drift)))
    weights = g.mul(g.const(np.exp(-back[None] / SCALE_MEMORY_DAYS)), _known(g, values))
    axis = g.const([-1], np.int64)
    count = g.op("ReduceSum", weights, axis, keepdims=1)
    level = g.div(g.op("ReduceSum", g.mul(_or_zero(g, corrected), weights), axis, keepdims=1), count)  # 0 / 0 is NaN
    for _ in range(SCALE_ROUNDS):
        off = g.op("Clip", g.sub(_or_zero(g, corrected), level), g.const(-SCALE_ODD), g.const(SCALE_ODD))
        level = g.add(level, g.div(g.op("ReduceSum", g.mul(off, weights), axis, keepdims=1), count))
    return level


def columns_of(g: Graph) -> Columns:
    """Return the columns: of the course, the same for every horizon, then those of the horizon itself."""

    def fact(index: int) -> str:
        return g.columns("facts", [index])

    def told(index: int, otherwise: float) -> str:
        """Return a fact, or what is believed of a house of which nothing is known."""
        return g.op("Where", g.op("IsNaN", fact(index)), g.const(otherwise), fact(index))

    age = fact(AGE)
    error = {name: told(ERROR[name], INSTRUMENTS[name].mean) for name in CALIBRATED}
    error_sd = {
        name: told(ERROR[name] + 1, math.hypot(INSTRUMENTS[name].sd, INSTRUMENTS[name].noise)) for name in CALIBRATED
    }
    early_error, late_error = error["scale_error_14d"], error["scale_error"]
    parts: list[str] = []
    means: dict[int, list[str]] = {}
    for column, own in ((WEIGHT, 7), (FEED, 4), (WATER, 4)):
        recent = g.rows("course", _rows(*range(own)), column)
        means[column] = [
            g.mean_known(g.rows("course", _rows(*range(a, b)), column))
            for a, b in ((0, 3), (3, 7), (7, 14), (0, LENGTH))
        ]
        fortnight = g.rows("course", _rows(*range(15)), column)
        steps = g.sub(g.columns(fortnight, range(14)), g.columns(fortnight, range(1, 15)))
        unrest = g.unrest(g.columns(steps, range(13)), g.columns(steps, range(1, 14)))
        newest, before, earlier, _ = means[column]
        parts += [recent, *means[column], g.sub(newest, before), g.sub(before, earlier), unrest]
    scale = _scale(g, age, early_error, g.sub(late_error, early_error))
    feed = g.add(_by_age(g, FEED, age), error["feed_error"])
    water = g.add(_by_age(g, WATER, age), error["water_error"])
    history, history_sd = told(BIAS, SITE.mean), told(BIAS_SD, math.hypot(SITE.sd, HOUSE.sd, SITE.noise))

    def variance(known_by: str, sd: str) -> str:
        """Return the variance of what a witness says; that of one who says nothing is beyond all others."""
        return g.op("Where", g.op("IsNaN", known_by), g.const(SILENT), g.mul(sd, sd))

    def precision(known_by: str, of: str) -> str:
        return g.div(_known(g, known_by), of)

    def fused(said: Sequence[tuple[str, str]]) -> tuple[str, str]:
        """Return the mean of what witnesses say, each by its precision, and its own; NaN and 0 where none does."""
        total = weights = ""
        for value, weight in said:
            counted = g.mul(_or_zero(g, value), weight)
            total, weights = (g.add(total, counted), g.add(weights, weight)) if total else (counted, weight)
        return g.div(total, weights), weights

    of_feed, of_water = variance(feed, error_sd["feed_error"]), variance(water, error_sd["water_error"])
    shared = g.mul(g.op("Min", of_feed, of_water), g.const(INTAKE_SHARED))
    intake, certain = fused(
        [(feed, precision(feed, g.sub(of_feed, shared))), (water, precision(water, g.sub(of_water, shared)))]
    )
    of_intake = g.add(g.div(g.const(1.0), certain), shared)
    of_scale = variance(scale, error_sd["scale_error"])
    by_others = [
        (intake, g.div(_known(g, intake), of_intake)),
        (history, g.div(_known(g, history), g.mul(history_sd, history_sd))),
    ]
    others, others_weights = fused(by_others)
    base, weights = fused([(scale, precision(scale, of_scale)), *by_others])
    # how far apart witnesses are, in sd: which of two that contradict each other is wrong hangs on that
    apart = [
        g.div(g.sub(one, other), g.op("Sqrt", g.add(of_one, of_other)))
        for one, of_one, other, of_other in (
            (scale, of_scale, others, g.div(g.const(1.0), others_weights)),
            (scale, of_scale, intake, of_intake),
            (intake, of_intake, history, g.mul(history_sd, history_sd)),
        )
    ]
    sd = g.op("Sqrt", g.div(g.const(1.0), weights))

    flocks = told(FLOCKS, 0.0)
    parts += [base, sd, *(g.sub(value, base) for value in (scale, feed, water, history)), *apart]
    parts += [*error_sd.values(), history_sd, g.sub(late_error, early_error)]
    parts += [g.op("Clip", flocks, g.const(0.0), g.const(5.0))]
    for column in (TEMPERATURE, HUMIDITY, AMMONIA):
        parts += [g.mean_known(g.rows("course", _rows(*range(a, b)), column)) for a, b in ((0, 3), (3, 14))]
    parts += [g.mean_known(g.rows("course", _rows(*range(LENGTH)), AMMONIA))]
    parts += [g.op("Log", g.div(fact(LIVE), fact(PLACED)))]
    parts += [g.columns("facts", [AGE, FRACTION, PARENTS, COBB, MALE, FEMALE])]
    course = g.concat(parts)

    # "so many days on" means noon of that farm day; the planned slaughter day is told by its beginning
    to_noon = g.sub(g.const([[d + 0.5 for d in HORIZON_DAYS]]), fact(FRACTION))
    planned = fact(TO_SLAUGHTER)
    to_end = g.op("Where", g.op("IsNaN", planned), g.const([[UNKNOWN_END_DAYS]]), planned)
    ahead = g.concat([g.op("Clip", g.add(to_end, g.const(0.5)), g.const(0.0), g.const(60.0)), to_noon])
    age_then = g.add(age, ahead)
    curve = _curve_at(g, g.sub(age_then, g.const(0.5)), _or_zero(g, fact(COBB)))  # the age counts from midnight
    axis = g.const([2], np.int64)
    of_horizon = [g.op("Unsqueeze", x, axis) for x in (ahead, age_then)]
    count = len(HORIZONS)

    def spread(a: str) -> str:
        """Repeat [houses, n] for every horizon."""
        return g.op("Tile", g.op("Unsqueeze", a, g.const([1], np.int64)), g.const([1, count, 1], np.int64))

    # chicks begin at the curve's own weight whatever the house; a level comes with age
    columns = g.concat([*of_horizon, g.mul(of_horizon[0], of_horizon[1]), spread(course)])
    has_scale, has_flocks = _known(g, scale), g.op("Clip", flocks, g.const(0.0), g.const(1.0))
    one = g.const(1.0)
    situation = [g.mul(has_scale, has_flocks), g.mul(has_scale, g.sub(one, has_flocks)), g.sub(one, has_scale)]
    any_measured = g.op("Max", has_scale, _known(g, feed), _known(g, water))
    return Columns(
        columns,
        spread(base),
        g.op("Unsqueeze", curve, axis),
        g.op("Equal", spread(any_measured), g.const(0.0)),
        spread(g.mul(history_sd, g.const(NORMAL_90))),
        g.concat(situation),
    )


def new_graph() -> Graph:
    """Return an empty graph with the bundle's inputs."""
    return Graph({spec.name: spec.shape for spec in INPUTS})


@dataclass(frozen=True, slots=True)
class Trained:
    """The network with its scaling; ``stretch`` [situations, horizons, (below, above)] is that of the half bands."""

    net: Net
    scaling: Scaling
    stretch: F32


def truth_of(samples: Samples) -> F32:
    """Return the true weights in the order of ``HORIZONS``, [n, horizons]; NaN where the flock had left."""
    return np.concatenate((samples.weight_g[:, -1:], samples.weight_g[:, :-1]), axis=1)


def train(
    samples: Samples, validation: Samples, *, epochs: int, seed: int, say: Callable[[str], None] = lambda _: None
) -> Trained:
    """Return the network, fitted on ``samples``, stopped and calibrated on ``validation``."""
    graph = new_graph()
    nodes = columns_of(graph)

    def flat(of: Samples) -> tuple[F32, F32, NDArray[np.intp], NDArray[np.intp]]:
        columns, base, curve, situation = graph.values(
            [nodes.columns, nodes.base, nodes.curve, nodes.situation], of.tensors
        )
        y = np.log(truth_of(of) / curve[:, :, 0]) - base[:, :, 0]
        known = np.isfinite(y)
        rows, horizons = np.nonzero(known)
        return columns[known], y[known].astype(np.float32), situation[rows].argmax(axis=1), horizons

    columns, y, _, _ = flat(samples)
    columns_validation, y_validation, situations, horizons = flat(validation)
    scaling = Scaling.of(columns, y)
    x, x_validation = scaling.prepared(columns), scaling.prepared(columns_validation)
    y, y_validation = y / np.float32(scaling.target), y_validation / np.float32(scaling.target)
    net = fit(x, y, x_validation, y_validation, seed=seed, epochs=epochs, hidden=HIDDEN)
    stretch = np.ones((3, len(HORIZONS), 2), np.float32)
    for situation in range(3):
        for horizon in range(len(HORIZONS)):
            which = (situations == situation) & (horizons == horizon)
            if which.sum() >= LEAST_TO_CALIBRATE:
                stretch[situation, horizon] = calibrated(net, x_validation[which], y_validation[which])
    trained = Trained(net, scaling, stretch)
    say(
        f"weight: {len(y):,} samples, {x.shape[1]} columns, pinball "
        f"{pinball(y_validation, net.quantiles(x_validation)):.4f} on validation farms, "
        f"bands stretched by {stretch.min():.2f} to {stretch.max():.2f}"
    )
    return trained


def export(trained: Trained) -> ModelProto:
    """Return the model: quantiles of the weight in g, [houses, horizons, quantiles]."""
    g = new_graph()
    nodes = columns_of(g)
    x = g.prepared(nodes.columns, trained.scaling.mean, trained.scaling.spread, trained.scaling.gaps)
    out = trained.net.emit(g, x)
    spread = trained.scaling.target

    def by_history(history: str, network: str) -> str:
        return g.op("Where", nodes.history, history, network)

    def half(column: int, side: int) -> str:
        """Return half of the band on one side, stretched as the situation asks."""
        table = g.const(trained.stretch[:, :, side] * spread)
        stretch = g.op("Unsqueeze", g.op("MatMul", nodes.situation, table), g.const([2], np.int64))
        return by_history(nodes.history_half, g.mul(g.op("Softplus", g.columns(out, [column])), stretch))

    p50 = by_history(nodes.base, g.add(nodes.base, g.mul(g.columns(out, [0]), g.const(spread))))
    p10, p90 = g.sub(p50, half(1, 0)), g.add(p50, half(2, 1))
    weight = g.mul(g.op("Exp", g.concat([p10, p50, p90])), nodes.curve)
    return g.model({"weight_g": (weight, ("houses", len(HORIZONS), len(QUANTILES)))})


OUTPUTS = (
    Output(name="weight_g", meaning="quantiles", target="weight_g", quantiles=QUANTILES, horizons=HORIZONS, unit="g"),
)


def farms_for(*, tiny: bool) -> tuple[Farms, Farms]:
    """Return the farms to train on and those to stop and calibrate by: many small ones, for their weather."""
    trained, by, houses, flocks = (1, 1, 3, 2) if tiny else (6, 2, 60, 4)
    farms = Farms(
        "train",
        trained,
        houses,
        flocks * CYCLE_DAYS,
        SEED,
        restock=True,
        step_s=3600 if tiny else STEP_S,
        fault_share=FAULT_SHARE,
    )
    return farms, replace(farms, ranges="validation", count=by)


def build(job: Job) -> Bundle:
    """Train the bundle from simulated farms and write it."""
    farms, by = farms_for(tiny=job.tiny)
    epochs = 2 if job.tiny else 20
    job.say(f"{NAME}: simulating {farms.count} farms of {farms.houses} houses to train on, {by.count} to validate")
    samples = samples_with_history(farms, WANTED, per_day=PER_DAY, held=True, processes=job.processes)
    validation = samples_with_history(by, WANTED, per_day=PER_DAY, held=False, processes=job.processes)
    job.say(f"{NAME}: {len(samples):,} instants to train on, {len(validation):,} to stop and to calibrate by")
    model = export(train(samples, validation, epochs=epochs, seed=SEED % 1000, say=job.say))

    directory, tested = job.out / NAME / VERSION, for_selftest(samples)
    head = Head(NAME, VERSION, "weight", CADENCE_S, digest_of(samples.tensors.values()), {})
    bundle = write_bundle(directory, model, manifest_text(head, INPUTS, OUTPUTS), tested, "")
    said, truth = said_by(Model(bundle), validation)["weight_g"], truth_of(validation)
    off = np.abs(said[:, :, 1] / truth - 1) * 100
    metrics = {f"mae_pct_{name}": round(float(np.nanmean(off[:, i])), 2) for i, name in enumerate(HORIZONS)}
    inside = (truth >= said[:, :, 0]) & (truth <= said[:, :, 2])
    metrics["interval80"] = round(float(inside[np.isfinite(truth)].mean()), 3)
    manifest = manifest_text(replace(head, metrics=metrics), INPUTS, OUTPUTS)
    card = weight_card(len(samples), farms, by, metrics)
    return write_bundle(directory, model, manifest, tested, card, reference_of(INPUTS, samples.tensors, samples.flock))
