"""The bundle ``expect``: what water, feed, temperature and weight should do next, from the flock's own recent course.

The quantiles of three things over the next hour (water, feed, inside temperature) and of three over the next day
(water, feed, weight gain). Each has a network of its own behind columns that compare: the last hours with the same
hours of the days before, the last days with the breed's curve; and, as the agent judges in hindsight, the light and
the temperatures of the very hour or day: a longer night or a heat wave explains itself. Its base is the simplest
forecast there is (the same hour yesterday; the day before; the temperature now), and the network says how far off that
will be.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from agent.manifest import BUCKET_S, DAY_S, Feature, Grid, InputSpec, Judge, Output
from agent.predict import Model
from models_onnx.train.bundle import Head as ManifestHead
from models_onnx.train.bundle import digest_of, for_selftest, manifest_text, reference_of, said_by, write_bundle
from models_onnx.train.card import expect_card
from models_onnx.train.data import Farms, Wanted, samples_of
from models_onnx.train.graph import Graph
from models_onnx.train.job import SEED
from models_onnx.train.judging import HOUR_S, Head, limits_of, rates_of, traces
from models_onnx.train.net import QUANTILES, Net, Scaling, calibrated, fit, pinball

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from agent.bundles import Bundle
    from models_onnx.train.data import Samples
    from models_onnx.train.job import Job

    F32 = NDArray[np.float32]

NAME, VERSION = "expect", "1.0.0"
CADENCE_S = 600
HOURS, DAYS_LONG, TENS = 76, 8, 6  # rows of the three grids: three days and four hours, eight days, the last hour

WATER = Feature(signal="water", aggregate="sum", per="live_bird")
FEED = Feature(signal="feed", aggregate="sum", per="live_bird")
TEMPERATURE = Feature(signal="temperature", aggregate="mean")
GAIN = Feature(signal="weight", aggregate="gain")
OUTSIDE = Feature(signal="outside_temperature", aggregate="mean")
LIGHT = Feature(signal="light", aggregate="mean", transform="log1p")
WATER_RATE = Feature(signal="water", aggregate="sum", per="live_bird", reference="strain.feed_g")  # ml per g of curve
FEED_RATE = Feature(signal="feed", aggregate="sum", per="live_bird", reference="strain.feed_g")
WEIGHT_RATIO = Feature(signal="weight", aggregate="mean", reference="strain.weight_g")

FACTS = ("age_days", "hour_sin", "hour_cos", "reference.weight_g", "reference.feed_g", "strain:cobb500")
AGE, HOUR_SIN, HOUR_COS, CURVE_WEIGHT, CURVE_FEED, COBB = range(len(FACTS))


def _grid(name: str, step_s: int, length: int, *features: Feature, end: Literal["now", "horizon"] = "now") -> InputSpec:
    grid = Grid(step_s=step_s, length=length, end=end)
    return InputSpec(name=name, shape=("houses", length, len(features)), grid=grid, features=features)


INPUTS = (
    _grid("hours", HOUR_S, HOURS, WATER_RATE, FEED_RATE, TEMPERATURE, OUTSIDE, LIGHT),
    _grid("days", DAY_S, DAYS_LONG, WATER_RATE, FEED_RATE, TEMPERATURE, WEIGHT_RATIO, OUTSIDE, LIGHT),
    _grid("tens", BUCKET_S, TENS, TEMPERATURE, OUTSIDE),
    # what is given: the light and the temperatures of the very hour or day that is expected
    _grid("coming_hour", HOUR_S, 1, TEMPERATURE, OUTSIDE, LIGHT, end="horizon"),
    _grid("coming_day", DAY_S, 1, TEMPERATURE, OUTSIDE, LIGHT, end="horizon"),
    InputSpec(name="facts", shape=("houses", len(FACTS)), facts=FACTS),
)
GIVEN = tuple(spec.name for spec in INPUTS if spec.grid and spec.grid.end == "horizon")
H_WATER, H_FEED, H_TEMPERATURE, H_OUTSIDE, H_LIGHT = range(5)
D_WATER, D_FEED, D_TEMPERATURE, D_WEIGHT, D_OUTSIDE, D_LIGHT = range(6)
C_TEMPERATURE, C_OUTSIDE, C_LIGHT = range(3)


# The floors: one pulse of 10 l among 20,000 birds is 0.0005 l a bird; one auger batch of 15 kg is 0.00075 kg; the
# sensor's accuracy is 0.5 Cel (DOL 114 manual: S11, docs/sources.md), its noise a fifth of that (our judgement)
HEADS = (
    Head("water_1h", WATER, "1h", HOUR_S, "l", 0.0005),
    Head("feed_1h", FEED, "1h", HOUR_S, "kg", 0.00075),
    Head("temperature_1h", TEMPERATURE, "1h", HOUR_S, "Cel", 0.1),
    Head("water_1d", WATER, "1d", DAY_S, "l", 0.002),
    Head("feed_1d", FEED, "1d", DAY_S, "kg", 0.001),
    Head("weight_gain_1d", GAIN, "1d", DAY_S, "g", 2.0),
)
WANTED = Wanted(INPUTS, tuple((head.of, head.length_s) for head in HEADS), yesterday=True)


class Terms:
    """What the networks look at, in as few nodes as there are kinds of it: a small gateway pays for every node.

    Everything measured lies side by side, as it is and as its root; then come the differences of two of those, then
    means over some of either. A term is a place in that row. NaN, for what was not measured, goes all the way through.
    """

    def __init__(self, g: Graph) -> None:
        """Lay out the inputs."""
        self._g = g
        self._begin: dict[str, int] = {}
        parts, width = [], 0
        for spec in INPUTS:
            size = int(np.prod([int(n) for n in spec.shape[1:]]))
            self._begin[spec.name] = width
            parts.append(g.reshape(spec.name, [-1, size]))
            width += size
        self._width = width
        measured = g.concat(parts)
        nothing = g.add(g.mul(g.columns("facts", [HOUR_SIN]), g.const(0.0)), g.const(np.nan))
        self._row = g.concat([measured, g.op("Sqrt", measured), g.op("Log", measured), nothing])
        self._nothing = 3 * width
        self._pairs: dict[tuple[int, int], int] = {}
        self._means: dict[tuple[int, ...], int] = {}

    def at(self, name: str, back: int, column: int) -> int:
        """Return one cell of a grid, counted from the last row."""
        spec = next(s for s in INPUTS if s.name == name)
        rows, columns = int(spec.shape[1]), int(spec.shape[2])
        return self._begin[name] + (rows - 1 - back) * columns + column

    def fact(self, number: int) -> int:
        """Return a fact."""
        return self._begin["facts"] + number

    def root(self, term: int) -> int:
        """Return the root of a cell or fact."""
        return term + self._width

    def log(self, term: int) -> int:
        """Return the logarithm of a cell or fact."""
        return term + 2 * self._width

    def less(self, a: int, b: int) -> int:
        """Return a - b, both cells, facts or roots."""
        return _PAIRS + self._pairs.setdefault((a, b), len(self._pairs))

    def mean(self, terms: Sequence[int]) -> int:
        """Return the mean of what is known of some cells or differences."""
        return _MEANS + self._means.setdefault(tuple(terms), len(self._means))

    def unrest(self, a: Sequence[int], b: Sequence[int]) -> int:
        """Return the mean size of the differences a - b that are known."""
        return self.mean([self.less(x, y) + _SIZES for x, y in zip(a, b, strict=True)])

    def gathered(self) -> tuple[str, dict[int, int]]:
        """Return the row of everything that was asked for, and the place of each term in it."""
        g, pairs, row = self._g, len(self._pairs), self._nothing + 1
        left, right = (g.columns(self._row, [pair[i] for pair in self._pairs]) for i in (0, 1))
        differences = g.sub(left, right)
        values = g.concat([self._row, differences, g.op("Abs", differences)])
        place = {term: term for term in range(row)}
        place |= {_PAIRS + i: row + i for i in range(pairs)}
        place |= {_PAIRS + _SIZES + i: row + pairs + i for i in range(pairs)}
        longest = max(len(terms) for terms in self._means)
        padded = [[place[t] for t in terms] + [self._nothing] * (longest - len(terms)) for terms in self._means]
        place |= {_MEANS + i: row + 2 * pairs + i for i in range(len(self._means))}
        of_means = g.reshape(g.columns(values, [i for terms in padded for i in terms]), [-1, len(padded), longest])
        means = g.reshape(g.mean_known(of_means), [-1, len(padded)])
        return g.concat([values, means]), place


# where the numbers of differences, of their sizes, and of means begin: above those of any row
_PAIRS, _SIZES, _MEANS = 10_000, 10_000, 30_000


@dataclass(frozen=True, slots=True)
class Look:
    """What one head's network looks at; terms, see ``Terms``.

    The network works in a space where noise is about even: the root of a rate (``root``), or the value itself. With
    the base (the first of ``bases`` that is known, at last ``usual``), value = (base + residual)^2 x unit, or without
    the square.
    """

    terms: tuple[int, ...]
    against_base: tuple[int, ...]  # shown as their difference from the base
    bases: tuple[int, ...]
    usual: float
    unit: float  # of the output, for each g of the curve's intake of a day if ``per_feed``
    per_feed: bool
    root: bool


def _facts(t: Terms) -> list[int]:
    return [*(t.fact(i) for i in (AGE, HOUR_SIN, HOUR_COS, COBB)), t.log(t.fact(CURVE_WEIGHT))]


def _daily(t: Terms) -> list[int]:
    """Return what every head knows of the last days: rates, ratio to the curve, temperature, and their unrest."""
    found = []
    for column in (D_WATER, D_FEED):
        rate = [t.root(t.at("days", back, column)) for back in range(DAYS_LONG)]
        found += [*rate[:4], t.mean(rate), t.unrest(rate[:-1], rate[1:])]
    weight = [t.at("days", back, D_WEIGHT) for back in range(DAYS_LONG)]
    found += [weight[0], weight[1], weight[2], weight[4], weight[7], t.mean(weight), t.unrest(weight[:-1], weight[1:])]
    return [*found, t.at("days", 0, D_TEMPERATURE), t.at("days", 1, D_TEMPERATURE)]


def _given_hour(t: Terms, *pairs: tuple[int, int]) -> list[int]:
    """Return what is given of the hour that is expected, and how it differs from the last and from yesterday's."""
    found = []
    for given, hours in pairs:
        coming = t.at("coming_hour", 0, given)
        found += [coming, t.less(coming, t.at("hours", 0, hours)), t.less(coming, t.at("hours", 23, hours))]
    return found


def _given_day(t: Terms) -> list[int]:
    """Return how the day that is expected differs from the day before in light and temperature."""
    pairs = ((C_TEMPERATURE, D_TEMPERATURE), (C_OUTSIDE, D_OUTSIDE), (C_LIGHT, D_LIGHT))
    coming = t.at("coming_day", 0, C_OUTSIDE)
    return [coming, *(t.less(t.at("coming_day", 0, c), t.at("days", 0, d)) for c, d in pairs)]


def _hourly_flow(t: Terms, column: int, day_column: int, usual: float) -> Look:
    """Return the look for a flow over the next hour; ``usual`` is its rate where nothing is known."""

    def hour(back: int, of: int = column) -> int:
        return t.root(t.at("hours", back, of))

    other = H_FEED + H_WATER - column
    days = [[hour(24 * back + i) for i in range(24)] for back in range(3)]
    level = t.mean(days[0])
    coming = [hour(24 * day - 1) for day in (1, 2, 3)]  # the hour to come is 23 rows back on the day before
    against = [[t.less(hour(i), hour(24 * day + i)) for i in range(3)] for day in (1, 2, 3)]
    terms = [
        *(hour(i) for i in range(4)),
        *(hour(i, other) for i in (0, 1, 23, 24)),
        level,
        *(hour(24 * day - i) for day in (1, 2, 3) for i in (2, 1, 0)),
        *(term for day in against for term in day),
        t.mean([term for day in against for term in day]),
        t.less(coming[1], coming[0]),
        t.less(coming[2], coming[0]),
        t.unrest(days[0], days[1]),
        t.unrest(days[1], days[2]),
        t.unrest(days[0][:6], days[1][:6]),
        t.at("tens", 0, 0),
        *_given_hour(t, (C_TEMPERATURE, H_TEMPERATURE), (C_LIGHT, H_LIGHT)),
        t.less(t.at("hours", 0, H_LIGHT), t.at("hours", 24, H_LIGHT)),
        *_facts(t),
        *_daily(t),
    ]
    bases = (*coming, level, t.root(t.at("days", 0, day_column)))
    return Look(tuple(terms), (), bases, usual**0.5, 1 / 1000 / 24, per_feed=True, root=True)


def _hourly_temperature(t: Terms) -> Look:
    """Return the look for the mean temperature of the next hour; the base is the temperature now."""
    tens = [t.at("tens", back, 0) for back in range(TENS)]
    hours = [t.at("hours", back, H_TEMPERATURE) for back in range(49)]
    outside = [t.at("hours", back, H_OUTSIDE) for back in (0, 1, 2, 23, 24)]
    outside_now = t.at("tens", 0, 1)
    terms = [
        t.less(hours[23], hours[24]),  # what the same hour did yesterday
        t.less(hours[47], hours[48]),
        t.unrest(tens[:-1], tens[1:]),
        t.unrest(hours[:24], hours[1:25]),
        t.unrest(hours[:24], hours[24:48]),
        outside_now,
        t.at("tens", 3, 1),
        *(t.less(o, outside_now) for o in outside),
        t.less(t.at("coming_hour", 0, C_OUTSIDE), outside_now),
        *_given_hour(t, (C_OUTSIDE, H_OUTSIDE), (C_LIGHT, H_LIGHT)),
        *_facts(t),
    ]
    against = (*tens, *hours[:4], *hours[22:26], t.at("days", 0, D_TEMPERATURE))
    bases = (*tens, hours[0], hours[1], hours[23], t.at("days", 0, D_TEMPERATURE))
    return Look(tuple(terms), against, bases, 21.0, 1.0, per_feed=False, root=False)


def _daily_flow(t: Terms, column: int, hour_column: int, usual: float) -> Look:
    """Return the look for a flow over the next day; the base is the last day."""
    rate = [t.root(t.at("days", back, column)) for back in range(DAYS_LONG)]
    hours = [t.root(t.at("hours", back, hour_column)) for back in range(30)]
    gone_up = [t.less(hours[i], hours[24 + i]) for i in range(6)]
    terms = [*gone_up[:3], t.mean(gone_up), *_given_day(t), *_facts(t), *_daily(t)]
    return Look(tuple(terms), tuple(rate), tuple(rate[:4]), usual**0.5, 1 / 1000, per_feed=True, root=True)


def _daily_gain(t: Terms) -> Look:
    """Return the look for the scale's gain over the next day, in units of the curve's intake of a day."""
    weight = [t.at("days", back, D_WEIGHT) for back in range(DAYS_LONG)]
    steps = [t.less(a, b) for a, b in pairwise(weight)]
    # 0.6 is about what the curve gains for what it eats
    terms = (*steps, t.mean(steps), *_given_day(t), *_facts(t), *_daily(t))
    return Look(terms, (), (), 0.6, 1.0, per_feed=True, root=False)


@dataclass(frozen=True, slots=True)
class Columns:
    """The nodes of one head before its network, [houses, columns], [houses, 1] and [houses, 1]."""

    columns: str
    base: str
    unit: str
    root: bool


def columns_of(g: Graph) -> dict[str, Columns]:
    """Return the columns of every head. Rates are ml of water or g of feed for a g of the curve's intake."""
    t = Terms(g)
    looks = {
        "water_1h": _hourly_flow(t, H_WATER, D_WATER, 1.8),
        "feed_1h": _hourly_flow(t, H_FEED, D_FEED, 1.0),
        "temperature_1h": _hourly_temperature(t),
        "water_1d": _daily_flow(t, D_WATER, H_WATER, 1.8),
        "feed_1d": _daily_flow(t, D_FEED, H_FEED, 1.0),
        "weight_gain_1d": _daily_gain(t),
    }
    row, place = t.gathered()
    zero = g.mul(g.columns("facts", [HOUR_SIN]), g.const(0.0))
    feed = g.columns("facts", [CURVE_FEED])
    found = {}
    for name, look in looks.items():
        usual = g.add(zero, g.const(look.usual))
        bases = [g.columns(row, [place[term] for term in look.bases])] if look.bases else []
        base = g.first_known(g.concat([*bases, usual])) if bases else usual
        parts = [g.columns(row, [place[term] for term in look.terms]), base]
        if look.against_base:
            parts.append(g.sub(g.columns(row, [place[term] for term in look.against_base]), base))
        unit = g.mul(feed, g.const(look.unit)) if look.per_feed else g.add(zero, g.const(look.unit))
        found[name] = Columns(g.concat(parts), base, unit, look.root)
    return found


@dataclass(frozen=True, slots=True)
class Trained:
    """A head's network with its scaling; the half bands are stretched by ``stretch`` (below, above)."""

    net: Net
    scaling: Scaling
    stretch: tuple[float, float]


def _residual(actual: F32, base: F32, unit: F32, *, root: bool) -> F32:
    """Return what the network is to say: how far the actual value is from the base."""
    with np.errstate(invalid="ignore"):
        rate = actual / unit[:, 0]
        return (np.sqrt(np.maximum(rate, 0)) if root else rate) - base[:, 0]


def train(
    samples: Samples, validation: Samples, *, epochs: int, seed: int, say: Callable[[str], None] = lambda _: None
) -> dict[str, Trained]:
    """Return a network for every head, fitted on ``samples``, stopped and calibrated on ``validation``."""
    trained = {}
    graph = new_graph()
    columns = columns_of(graph)
    for number, head in enumerate(HEADS):
        nodes = columns[head.name]
        seen = graph.values([nodes.columns, nodes.base, nodes.unit], samples.tensors)
        seen_validation = graph.values([nodes.columns, nodes.base, nodes.unit], validation.tensors)
        y = _residual(samples.actual[:, number], seen[1], seen[2], root=nodes.root)
        y_validation = _residual(validation.actual[:, number], seen_validation[1], seen_validation[2], root=nodes.root)
        known, known_validation = np.isfinite(y), np.isfinite(y_validation)
        scaling = Scaling.of(seen[0][known], y[known])
        x = scaling.prepared(seen[0][known])
        x_validation = scaling.prepared(seen_validation[0][known_validation])
        y, y_validation = y[known] / scaling.target, y_validation[known_validation] / scaling.target
        net = fit(x, y, x_validation, y_validation, seed=seed + number, epochs=epochs)
        trained[head.name] = Trained(net, scaling, calibrated(net, x_validation, y_validation))
        say(
            f"expect {head.name}: {len(y):,} samples, {x.shape[1]} columns, pinball "
            f"{pinball(y_validation, net.quantiles(x_validation)):.4f} on validation farms, "
            f"bands stretched by {trained[head.name].stretch[0]:.2f} and {trained[head.name].stretch[1]:.2f}"
        )
    return trained


def new_graph() -> Graph:
    """Return an empty graph with the bundle's inputs."""
    return Graph({spec.name: spec.shape for spec in INPUTS})


def export(trained: Mapping[str, Trained]) -> ModelProto:
    """Return the model: columns and network of every head, and the quantiles in the head's own unit."""
    g = new_graph()
    nodes = columns_of(g)
    heads = [trained[name] for name in nodes]
    widths = [len(head.scaling.mean) for head in heads]
    begins = [sum(widths[:i]) for i in range(len(widths))]
    gaps = [begin + gap for begin, head in zip(begins, heads, strict=True) for gap in head.scaling.gaps]
    mean, spread = (
        np.concatenate(part) for part in ([h.scaling.mean for h in heads], [h.scaling.spread for h in heads])
    )
    seen = g.prepared(g.concat([c.columns for c in nodes.values()]), mean, spread, gaps)
    outs, at = [], sum(widths)
    for head, begin, width in zip(heads, begins, widths, strict=True):
        mine = [*range(begin, begin + width), *range(at, at + len(head.scaling.gaps))]
        at += len(head.scaling.gaps)
        outs.append(head.net.emit(g, g.columns(seen, mine)))
    out = g.reshape(g.concat(outs), [-1, len(heads), 3])
    size = np.array([head.scaling.target for head in heads])[:, None]
    stretch = np.array([head.stretch for head in heads])
    base, unit = (
        g.reshape(g.concat(part), [-1, len(heads), 1])
        for part in ([c.base for c in nodes.values()], [c.unit for c in nodes.values()])
    )
    p50 = g.add(base, g.mul(g.columns(out, [0]), g.const(size)))
    halves = g.mul(g.op("Softplus", g.columns(out, [1, 2])), g.const(size * stretch * [-1, 1]))
    outer = g.add(p50, halves)
    values = g.concat([g.columns(outer, [0]), p50, g.columns(outer, [1])])
    positive = g.op("Max", values, g.const(0.0))
    is_root = g.const(np.array([c.root for c in nodes.values()])[:, None], np.bool_)
    g.split(g.mul(g.op("Where", is_root, g.mul(positive, positive), values), unit), list(nodes), axis=1)
    return g.model({name: (name, ("houses", 1, 3)) for name in nodes})


def outputs_of(judges: Mapping[str, Judge]) -> tuple[Output, ...]:
    """Return the manifest's outputs, each with the limits found for it."""
    return tuple(
        Output(
            name=head.name,
            meaning="quantiles",
            target=head.name.rpartition("_")[0],
            quantiles=QUANTILES,
            horizons=(head.horizon,),
            unit=head.unit,
            of=head.of,
            cadence_s=HOUR_S if head.length_s == DAY_S else None,
            judge=judges.get(head.name),
        )
        for head in HEADS
    )


def build(job: Job) -> Bundle:
    """Train the bundle from simulated farms and write it."""
    farms = Farms("train", 1, 3, 12, SEED) if job.tiny else Farms("train", 5, 56, 46, SEED)
    by = Farms("validation", 1, 3, 12, SEED) if job.tiny else Farms("validation", 1, 56, 46, SEED)
    judged = Farms("validation", 1, 2 if job.tiny else 44, by.days, SEED + 500)
    per_day, epochs = (2, 2) if job.tiny else (6, 40)
    job.say(f"{NAME}: simulating {farms.count} farms of {farms.houses} houses to train on, {by.count} to validate")
    samples = samples_of(farms, WANTED, per_day=per_day, held=True, processes=job.processes)
    validation = samples_of(by, WANTED, per_day=per_day, held=False)
    job.say(f"{NAME}: {len(samples):,} instants to train on, {len(validation):,} to stop and to calibrate by")
    model = export(train(samples, validation, epochs=epochs, seed=SEED % 1000, say=job.say))

    directory, tested = job.out / NAME / VERSION, for_selftest(samples)
    head = ManifestHead(NAME, VERSION, "expect", CADENCE_S, digest_of(samples.tensors.values()), {})
    runnable = Model(write_bundle(directory, model, manifest_text(head, INPUTS, outputs_of({})), tested, ""))
    said = said_by(runnable, validation)
    losses = [pinball(validation.actual[:, i], said[head.name][:, 0]) for i, head in enumerate(HEADS)]
    metrics = {head.name: float(f"{loss:.3g}") for head, loss in zip(HEADS, losses, strict=True)}

    job.say(f"{NAME}: judging healthy flocks of another validation farm, for the limits")
    found = traces(judged.flocks(0), runnable, HEADS)
    limits = limits_of(found)
    for name, (below, above) in rates_of(found, limits).items():
        limit = limits[name]
        job.say(f"{NAME} {name}: limits {limit.low} and {limit.high}, false per house-day {below:.4f} and {above:.4f}")
    manifest = manifest_text(replace(head, metrics=metrics), INPUTS, outputs_of(limits))
    card = expect_card(len(samples), farms, by, metrics, limits)
    return write_bundle(directory, model, manifest, tested, card, reference_of(INPUTS, samples.tensors, samples.flock))
