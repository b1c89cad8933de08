"""The bundle ``weight``: the mean live weight of the flock in the days to come and at slaughter.

It reads the flock's days so far: the automatic scale, feed and water against the breed's curve, age, strain, sex and
the parents' age, and learns what the scale misses when heavy birds no longer step on it. One network answers for every
horizon; what it says is the ratio of the weight to the breed's curve at the age in question.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from agent.manifest import DAY_S, Feature, Grid, InputSpec, Output
from agent.predict import Model
from agent.strains import COBB_500, ROSS_308
from agent.window import curves_of
from models_onnx.train.bundle import Head, digest_of, for_selftest, manifest_text, reference_of, said_by, write_bundle
from models_onnx.train.card import weight_card
from models_onnx.train.data import Farms, Wanted, samples_of
from models_onnx.train.graph import Graph
from models_onnx.train.job import SEED
from models_onnx.train.net import QUANTILES, Net, Scaling, calibrated, fit, pinball

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from onnx import ModelProto

    from agent.bundles import Bundle
    from models_onnx.train.data import Samples
    from models_onnx.train.job import Job

    F32 = NDArray[np.float32]

NAME, VERSION = "weight", "1.0.0"
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
)
WEIGHT, FEED, WATER, TEMPERATURE = range(len(COURSE))
FACTS = (
    "age_days",
    "day_fraction",
    "days_to_slaughter",
    "parent_age_weeks",
    "strain:cobb500",
    "sex:male",
    "sex:female",
)
AGE, FRACTION, TO_SLAUGHTER, PARENTS, COBB, MALE, FEMALE = range(len(FACTS))
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


@dataclass(frozen=True, slots=True)
class Columns:
    """The nodes before the network: columns and base [houses, horizons, …], and the curve's weight then, in g."""

    columns: str
    base: str
    curve: str


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


def columns_of(g: Graph) -> Columns:
    """Return the columns: of the course, the same for every horizon, then those of the horizon itself."""
    parts: list[str] = []
    base = ""
    for column, own in ((WEIGHT, 7), (FEED, 4), (WATER, 4)):
        recent = g.rows("course", _rows(*range(own)), column)
        means = [
            g.mean_known(g.rows("course", _rows(*range(a, b)), column))
            for a, b in ((0, 3), (3, 7), (7, 14), (0, LENGTH))
        ]
        fortnight = g.rows("course", _rows(*range(15)), column)
        steps = g.sub(g.columns(fortnight, range(14)), g.columns(fortnight, range(1, 15)))
        unrest = g.unrest(g.columns(steps, range(13)), g.columns(steps, range(1, 14)))
        parts += [recent, *means, g.sub(means[0], means[1]), g.sub(means[1], means[2]), unrest]
        if column == WEIGHT:
            base = g.first_known(
                g.concat([*means, g.add(g.mul(g.columns("facts", [AGE]), g.const(0.0)), g.const(-0.05))])
            )
            parts.append(base)
    parts += [g.mean_known(g.rows("course", _rows(*range(3)), TEMPERATURE))]
    parts += [g.columns("facts", [AGE, FRACTION, PARENTS, COBB, MALE, FEMALE])]
    course = g.concat(parts)

    fraction, age = g.columns("facts", [FRACTION]), g.columns("facts", [AGE])
    # "so many days on" means noon of that farm day; the planned slaughter day is told by its beginning
    to_noon = g.sub(g.const([[d + 0.5 for d in HORIZON_DAYS]]), fraction)
    planned = g.columns("facts", [TO_SLAUGHTER])
    to_end = g.op("Where", g.op("IsNaN", planned), g.const([[UNKNOWN_END_DAYS]]), planned)
    ahead = g.concat([g.op("Clip", g.add(to_end, g.const(0.5)), g.const(0.0), g.const(60.0)), to_noon])
    age_then = g.add(age, ahead)
    is_cobb = g.op("Where", g.op("IsNaN", g.columns("facts", [COBB])), g.const(0.0), g.columns("facts", [COBB]))
    curve = _curve_at(g, g.sub(age_then, g.const(0.5)), is_cobb)  # chicks come at noon, the age counts from midnight
    axis = g.const([2], np.int64)
    of_horizon = [g.op("Unsqueeze", x, axis) for x in (ahead, age_then)]
    count = len(HORIZONS)

    def spread(a: str) -> str:
        """Repeat [houses, n] for every horizon."""
        return g.op("Tile", g.op("Unsqueeze", a, g.const([1], np.int64)), g.const([1, count, 1], np.int64))

    columns = g.concat([*of_horizon, g.mul(of_horizon[0], of_horizon[1]), spread(course)])
    return Columns(columns, spread(base), g.op("Unsqueeze", curve, axis))


def new_graph() -> Graph:
    """Return an empty graph with the bundle's inputs."""
    return Graph({spec.name: spec.shape for spec in INPUTS})


@dataclass(frozen=True, slots=True)
class Trained:
    """The network with its scaling; the half bands are stretched by ``stretch`` (below, above)."""

    net: Net
    scaling: Scaling
    stretch: tuple[float, float]


def truth_of(samples: Samples) -> F32:
    """Return the true weights in the order of ``HORIZONS``, [n, horizons]; NaN where the flock had left."""
    return np.concatenate((samples.weight_g[:, -1:], samples.weight_g[:, :-1]), axis=1)


def train(
    samples: Samples, validation: Samples, *, epochs: int, seed: int, say: Callable[[str], None] = lambda _: None
) -> Trained:
    """Return the network, fitted on ``samples``, stopped and calibrated on ``validation``."""
    graph = new_graph()
    nodes = columns_of(graph)

    def flat(of: Samples) -> tuple[F32, F32]:
        columns, base, curve = graph.values([nodes.columns, nodes.base, nodes.curve], of.tensors)
        y = np.log(truth_of(of) / curve[:, :, 0]) - base[:, :, 0]
        known = np.isfinite(y)
        return columns[known], y[known].astype(np.float32)

    columns, y = flat(samples)
    columns_validation, y_validation = flat(validation)
    scaling = Scaling.of(columns, y)
    x, x_validation = scaling.prepared(columns), scaling.prepared(columns_validation)
    y, y_validation = y / np.float32(scaling.target), y_validation / np.float32(scaling.target)
    net = fit(x, y, x_validation, y_validation, seed=seed, epochs=epochs)
    trained = Trained(net, scaling, calibrated(net, x_validation, y_validation))
    say(
        f"weight: {len(y):,} samples, {x.shape[1]} columns, pinball "
        f"{pinball(y_validation, net.quantiles(x_validation)):.4f} on validation farms, "
        f"bands stretched by {trained.stretch[0]:.2f} and {trained.stretch[1]:.2f}"
    )
    return trained


def export(trained: Trained) -> ModelProto:
    """Return the model: quantiles of the weight in g, [houses, horizons, quantiles]."""
    g = new_graph()
    nodes = columns_of(g)
    x = g.prepared(nodes.columns, trained.scaling.mean, trained.scaling.spread, trained.scaling.gaps)
    out = trained.net.emit(g, x)
    spread, (below, above) = trained.scaling.target, trained.stretch
    p50 = g.add(nodes.base, g.mul(g.columns(out, [0]), g.const(spread)))
    p10 = g.sub(p50, g.mul(g.op("Softplus", g.columns(out, [1])), g.const(spread * below)))
    p90 = g.add(p50, g.mul(g.op("Softplus", g.columns(out, [2])), g.const(spread * above)))
    weight = g.mul(g.op("Exp", g.concat([p10, p50, p90])), nodes.curve)
    return g.model({"weight_g": (weight, ("houses", len(HORIZONS), len(QUANTILES)))})


OUTPUTS = (
    Output(name="weight_g", meaning="quantiles", target="weight_g", quantiles=QUANTILES, horizons=HORIZONS, unit="g"),
)


def build(job: Job) -> Bundle:
    """Train the bundle from simulated farms and write it."""
    farms = Farms("train", 1, 3, 12, SEED) if job.tiny else Farms("train", 5, 56, 46, SEED)
    by = Farms("validation", 1, 3, 12, SEED) if job.tiny else Farms("validation", 1, 56, 46, SEED)
    per_day, epochs = (2, 2) if job.tiny else (4, 40)
    job.say(f"{NAME}: simulating {farms.count} farms of {farms.houses} houses to train on, {by.count} to validate")
    samples = samples_of(farms, WANTED, per_day=per_day, held=True, processes=job.processes)
    validation = samples_of(by, WANTED, per_day=per_day, held=False)
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
