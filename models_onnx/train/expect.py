"""The bundle ``expect``: what water, feed, temperature and weight should do next, from the flock's own recent course.

The quantiles of three things over the next hour (water, feed, inside temperature) and of three over the next day
(water, feed, weight gain). Each has a network of its own behind columns that compare: the last hours with the same
hours of the days before, the last days with the breed's curve. Its base is the simplest forecast there is (the same
hour yesterday; the day before; the temperature now), and the network says how far off that will be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent.manifest import BUCKET_S, DAY_S, Feature, Grid, InputSpec, Judge, Output
from models_onnx.train.graph import Graph
from models_onnx.train.net import QUANTILES, Net, Scaling, calibrated, fit, pinball

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from models_onnx.train.data import Samples

    F32 = NDArray[np.float32]

NAME, VERSION = "expect", "1.0.0"
HOUR_S = 3600
HOURS, DAYS_LONG, TENS = 76, 8, 6  # rows of the three grids: three days and four hours, eight days, the last hour

WATER = Feature(signal="water", aggregate="sum", per="live_bird")
FEED = Feature(signal="feed", aggregate="sum", per="live_bird")
TEMPERATURE = Feature(signal="temperature", aggregate="mean")
GAIN = Feature(signal="weight", aggregate="gain")
OUTSIDE = Feature(signal="outside_temperature", aggregate="mean")
WATER_RATE = Feature(signal="water", aggregate="sum", per="live_bird", reference="strain.feed_g")  # ml per g of curve
FEED_RATE = Feature(signal="feed", aggregate="sum", per="live_bird", reference="strain.feed_g")
WEIGHT_RATIO = Feature(signal="weight", aggregate="mean", reference="strain.weight_g")

FACTS = ("age_days", "hour_sin", "hour_cos", "reference.weight_g", "reference.feed_g", "strain:cobb500")
AGE, HOUR_SIN, HOUR_COS, CURVE_WEIGHT, CURVE_FEED, COBB = range(len(FACTS))


def _grid(name: str, step_s: int, length: int, *features: Feature) -> InputSpec:
    grid = Grid(step_s=step_s, length=length)
    return InputSpec(name=name, shape=("houses", length, len(features)), grid=grid, features=features)


INPUTS = (
    _grid("hours", HOUR_S, HOURS, WATER_RATE, FEED_RATE, TEMPERATURE, OUTSIDE),
    _grid("days", DAY_S, DAYS_LONG, WATER_RATE, FEED_RATE, TEMPERATURE, WEIGHT_RATIO),
    _grid("tens", BUCKET_S, TENS, TEMPERATURE, OUTSIDE),
    InputSpec(name="facts", shape=("houses", len(FACTS)), facts=FACTS),
)
H_WATER, H_FEED, H_TEMPERATURE, H_OUTSIDE = range(4)
D_WATER, D_FEED, D_TEMPERATURE, D_WEIGHT = range(4)


@dataclass(frozen=True, slots=True)
class Head:
    """One expectation: what of, over how long, in which unit; ``floor`` is the least half band that means something."""

    name: str
    of: Feature
    horizon: str
    length_s: int
    unit: str
    floor: float

    @property
    def signal(self) -> str:
        """The signal it is about."""
        return self.of.signal


# The floors: one pulse of 10 l among 20,000 birds is 0.0005 l a bird; one auger batch of 15 kg is 0.00075 kg; the
# sensor's accuracy is 0.5 Cel, its noise a fifth of that (S11, DOL 114 manual)
HEADS = (
    Head("water_1h", WATER, "1h", HOUR_S, "l", 0.0005),
    Head("feed_1h", FEED, "1h", HOUR_S, "kg", 0.00075),
    Head("temperature_1h", TEMPERATURE, "1h", HOUR_S, "Cel", 0.1),
    Head("water_1d", WATER, "1d", DAY_S, "l", 0.002),
    Head("feed_1d", FEED, "1d", DAY_S, "kg", 0.001),
    Head("weight_gain_1d", GAIN, "1d", DAY_S, "g", 2.0),
)
EXPECTED = tuple((head.of, head.length_s) for head in HEADS)


@dataclass(frozen=True, slots=True)
class Columns:
    """The nodes of one head before its network: what it looks at, its base, and what a unit of its output is.

    The network works in a space where noise is about even: the root of a rate (``root``), or the value itself. Then
    value = (base + residual)^2 x unit, or (base + residual) x unit.
    """

    columns: str
    base: str
    unit: str
    root: bool


def _last(length: int, *back: int) -> list[int]:
    """Return row indices counted from the end: 0 is the last row."""
    return [length - 1 - b for b in back]


def _for_each(g: Graph, value: float) -> str:
    """Return one value for each house, [houses, 1]."""
    return g.add(g.mul(g.columns("facts", [HOUR_SIN]), g.const(0.0)), g.const(value))


def _facts(g: Graph) -> list[str]:
    return [g.columns("facts", [AGE, HOUR_SIN, HOUR_COS, COBB]), g.op("Log", g.columns("facts", [CURVE_WEIGHT]))]


def _daily(g: Graph) -> list[str]:
    """Return what every head knows of the last days: rates, ratio to the curve, temperature."""
    parts = []
    for column in (D_WATER, D_FEED):
        rate = g.op("Sqrt", g.rows("days", _last(DAYS_LONG, *range(8)), column))
        jumps = g.unrest(g.columns(rate, range(7)), g.columns(rate, range(1, 8)))
        parts += [g.columns(rate, [0, 1, 2, 3]), g.mean_known(rate), jumps]
    weight = g.rows("days", _last(DAYS_LONG, *range(8)), D_WEIGHT)
    steps = g.sub(g.columns(weight, range(7)), g.columns(weight, range(1, 8)))
    jumps = g.unrest(g.columns(steps, range(6)), g.columns(steps, range(1, 7)))
    warm = g.rows("days", _last(DAYS_LONG, 0, 1), D_TEMPERATURE)
    return [*parts, g.columns(weight, [0, 1, 2, 4, 7]), g.mean_known(weight), jumps, warm]


def _hourly_flow(g: Graph, column: int, day_column: int, usual: float) -> Columns:
    """Return the columns for a flow over the next hour; ``usual`` is its rate where nothing is known."""
    root = {
        day: g.op("Sqrt", g.rows("hours", _last(HOURS, *range(24 * day - 2, 24 * day + 3)), column))
        for day in (1, 2, 3)
    }
    now = g.op("Sqrt", g.rows("hours", _last(HOURS, 0, 1, 2, 3), column))
    other = g.op("Sqrt", g.rows("hours", _last(HOURS, 0, 1, 23, 24), H_FEED + H_WATER - column))
    # of yesterday: the hour to come is 23 rows back, the hour now 24, and so on
    coming = {day: g.columns(r, [1]) for day, r in root.items()}
    then = {day: g.columns(r, [2, 3, 4]) for day, r in root.items()}
    today = g.columns(now, [0, 1, 2])
    day, day_before, third = (
        g.op("Sqrt", g.rows("hours", _last(HOURS, *range(24 * back, 24 * back + 24)), column)) for back in (0, 1, 2)
    )
    level = g.mean_known(day)
    days = g.op("Sqrt", g.rows("days", _last(DAYS_LONG, 0), day_column))
    base = g.first_known([coming[1], coming[2], coming[3], level, days, g.const([[usual**0.5]])])
    against = [g.sub(today, then[d]) for d in (1, 2, 3)]
    parts = [
        base,
        now,
        other,
        level,
        *(g.columns(root[d], [0, 1, 2]) for d in (1, 2, 3)),
        *against,
        g.mean_known(g.concat(against)),
        g.unrest(day, day_before),
        g.unrest(day_before, third),
        g.unrest(g.columns(day, range(6)), g.columns(day_before, range(6))),
        g.sub(coming[2], coming[1]),
        g.sub(coming[3], coming[1]),
        g.rows("tens", _last(TENS, 0), 0),
        *_facts(g),
        *_daily(g),
    ]
    unit = g.mul(g.columns("facts", [CURVE_FEED]), g.const(1 / 1000 / 24))  # of g a day: kg (l) in an hour
    return Columns(g.concat(parts), base, unit, root=True)


def _hourly_temperature(g: Graph) -> Columns:
    """Return the columns for the mean temperature of the next hour; the base is the temperature now."""
    ten = g.rows("tens", _last(TENS, *range(6)), 0)
    hours = g.rows("hours", _last(HOURS, 0, 1, 2, 3), H_TEMPERATURE)
    yesterday = g.rows("hours", _last(HOURS, 22, 23, 24, 25), H_TEMPERATURE)
    before = g.rows("hours", _last(HOURS, 46, 47, 48), H_TEMPERATURE)
    days = g.rows("days", _last(DAYS_LONG, 0), D_TEMPERATURE)
    long = g.rows("hours", _last(HOURS, *range(48)), H_TEMPERATURE)
    now = g.first_known([g.columns(ten, [i]) for i in range(6)])
    base = g.first_known(
        [now, g.columns(hours, [0]), g.columns(hours, [1]), g.columns(yesterday, [1]), days, g.const([[21.0]])]
    )
    outside = g.rows("hours", _last(HOURS, 0, 1, 2, 23, 24), H_OUTSIDE)
    outside_now = g.rows("tens", _last(TENS, 0, 3), 1)
    parts = [
        base,
        g.sub(ten, base),
        g.sub(hours, base),
        g.sub(yesterday, base),
        g.sub(g.columns(yesterday, [1]), g.columns(yesterday, [2])),  # what the same hour did yesterday
        g.sub(g.columns(before, [1]), g.columns(before, [2])),
        g.sub(days, base),
        g.unrest(g.columns(ten, range(5)), g.columns(ten, range(1, 6))),
        g.unrest(g.columns(long, range(24)), g.columns(long, range(1, 25))),
        g.unrest(g.columns(long, range(24)), g.columns(long, range(24, 48))),
        outside_now,
        g.sub(outside, g.columns(outside_now, [0])),
        *_facts(g),
    ]
    return Columns(g.concat(parts), base, _for_each(g, 1.0), root=False)


def _daily_flow(g: Graph, column: int, hour_column: int, usual: float) -> Columns:
    """Return the columns for a flow over the next day; the base is the last day."""
    rate = g.op("Sqrt", g.rows("days", _last(DAYS_LONG, *range(8)), column))
    base = g.first_known([*(g.columns(rate, [i]) for i in range(4)), g.const([[usual**0.5]])])
    hours = g.op("Sqrt", g.rows("hours", _last(HOURS, *range(6)), hour_column))
    same = g.op("Sqrt", g.rows("hours", _last(HOURS, *range(24, 30)), hour_column))
    gone_up = g.sub(hours, same)
    parts = [
        base,
        g.sub(rate, base),
        g.columns(gone_up, [0, 1, 2]),
        g.mean_known(gone_up),
        *_facts(g),
        *_daily(g),
    ]
    return Columns(g.concat(parts), base, g.mul(g.columns("facts", [CURVE_FEED]), g.const(1 / 1000)), root=True)


def _daily_gain(g: Graph) -> Columns:
    """Return the columns for the scale's gain over the next day, in units of the curve's intake of a day."""
    weight = g.rows("days", _last(DAYS_LONG, *range(8)), D_WEIGHT)
    steps = g.sub(g.columns(weight, range(7)), g.columns(weight, range(1, 8)))
    base = _for_each(g, 0.6)  # about what the curve gains for what it eats
    parts = [steps, g.mean_known(steps), *_facts(g), *_daily(g)]
    return Columns(g.concat(parts), base, g.columns("facts", [CURVE_FEED]), root=False)


def columns_of(g: Graph) -> dict[str, Columns]:
    """Return the columns of every head. Rates are ml of water or g of feed for a g of the curve's intake."""
    return {
        "water_1h": _hourly_flow(g, H_WATER, D_WATER, 1.8),
        "feed_1h": _hourly_flow(g, H_FEED, D_FEED, 1.0),
        "temperature_1h": _hourly_temperature(g),
        "water_1d": _daily_flow(g, D_WATER, H_WATER, 1.8),
        "feed_1d": _daily_flow(g, D_FEED, H_FEED, 1.0),
        "weight_gain_1d": _daily_gain(g),
    }


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
    outputs: dict[str, tuple[str, Sequence[str | int]]] = {}
    for name, nodes in columns_of(g).items():
        head = trained[name]
        x = g.prepared(nodes.columns, head.scaling.mean, head.scaling.spread, head.scaling.gaps)
        middle, below, above = head.net.emit(g, x)
        spread = head.scaling.target
        p50 = g.add(nodes.base, g.mul(middle, g.const(spread)))
        p10 = g.sub(p50, g.mul(below, g.const(spread * head.stretch[0])))
        p90 = g.add(p50, g.mul(above, g.const(spread * head.stretch[1])))
        quantiles = g.concat([p10, p50, p90])
        if nodes.root:
            quantiles = g.op("Max", quantiles, g.const(0.0))
            quantiles = g.mul(quantiles, quantiles)
        outputs[name] = (g.reshape(g.mul(quantiles, nodes.unit), [-1, 1, 3]), ("houses", 1, 3))
    return g.model(outputs)


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
