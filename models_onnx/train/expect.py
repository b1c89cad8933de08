"""The bundle ``expect``: what every monitored signal should do next, from the flock's own recent course.

The quantiles of water, feed and the house's air over the next hour, and of water, feed, weight and air over the next
day. Each has a network of its own behind columns that compare: the last hours with the same hours of the days before,
the last days with the breed's curve; and, as the agent judges in hindsight, the light, the weather and the ventilation
of the very hour or day: a longer night or a heat wave explains itself. Its base is the simplest forecast there is (what
flowed when it was as light; the day before; the temperature now), and the network says how far off that will be.

The *slow* ones look away from the last two to four days, and one for temperature from the last hours: against them a
fault that creeps in adds up, where an expectation that looks at yesterday would follow it.
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
from models_onnx.train.job import SEED, in_processes
from models_onnx.train.judging import HOUR_S, Head, held_by, limits_of, rates_of, traces_of
from models_onnx.train.net import QUANTILES, Net, Scaling, calibrated, fit, pinball
from models_onnx.train.terms import Terms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto

    from agent.bundles import Bundle
    from models_onnx.train.data import Samples
    from models_onnx.train.job import Job

    F32 = NDArray[np.float32]

NAME, VERSION = "expect", "1.2.0"
CADENCE_S = 600
ALLOWED = 0.0006  # false warnings per house-day, for each side of each output
SEEN_WITHIN = 4.0  # spreads: on a farm of another kind a network is not to run away from what it learnt
ALIKE_HOURS, ALIKE_LIGHT = 48, 0.5  # hours as lit as the coming one; of log(1 + lux): dawn is neither day nor night
HOURS, AIR_HOURS, DAYS_LONG, TENS = 76, 28, 10, 6  # rows of the grids: three days and four hours of flows, a day of air

WATER = Feature(signal="water", aggregate="sum", per="live_bird")
FEED = Feature(signal="feed", aggregate="sum", per="live_bird")
WEIGHT = Feature(signal="weight", aggregate="median")  # of three days: one day's error of the scale does not move it
WATER_RATE = Feature(signal="water", aggregate="sum", per="live_bird", reference="strain.feed_g")  # ml per g of curve
FEED_RATE = Feature(signal="feed", aggregate="sum", per="live_bird", reference="strain.feed_g")
WEIGHT_RATIO = Feature(signal="weight", aggregate="mean", reference="strain.weight_g")
LIGHT = Feature(signal="light", aggregate="mean", transform="log1p")
TEMPERATURE, OUTSIDE, HUMIDITY, CO2, AMMONIA, VENTILATION, OUTSIDE_HUMIDITY, PRESSURE = (
    Feature(signal=signal, aggregate="mean")
    for signal in (
        "temperature",
        "outside_temperature",
        "humidity",
        "co2",
        "ammonia",
        "ventilation",
        "outside_humidity",
        "pressure",
    )
)

FACTS = (
    *("age_days", "hour_sin", "hour_cos", "reference.weight_g", "reference.feed_g", "strain:cobb500"),
    "days_to_slaughter",  # the nights change in the last days (law 2007/43/EC: S55, docs/sources.md)
)
AGE, HOUR_SIN, HOUR_COS, CURVE_WEIGHT, CURVE_FEED, COBB, TO_SLAUGHTER = range(len(FACTS))


def _grid(name: str, step_s: int, length: int, *features: Feature, end: Literal["now", "horizon"] = "now") -> InputSpec:
    grid = Grid(step_s=step_s, length=length, end=end)
    return InputSpec(name=name, shape=("houses", length, len(features)), grid=grid, features=features)


_AIR = (HUMIDITY, CO2, AMMONIA, VENTILATION, OUTSIDE_HUMIDITY, PRESSURE)
_GIVEN = (TEMPERATURE, OUTSIDE, LIGHT, OUTSIDE_HUMIDITY, VENTILATION)
INPUTS = (
    _grid("hours", HOUR_S, HOURS, WATER_RATE, FEED_RATE, TEMPERATURE, OUTSIDE, LIGHT),
    _grid("air", HOUR_S, AIR_HOURS, *_AIR),
    _grid("days", DAY_S, DAYS_LONG, WATER_RATE, FEED_RATE, TEMPERATURE, WEIGHT_RATIO, OUTSIDE, LIGHT, *_AIR),
    _grid("tens", BUCKET_S, TENS, TEMPERATURE, OUTSIDE),
    # what is given: light, weather and ventilation of the very hour or day that is expected; and what was eaten in it,
    # for water alone: birds that eat less drink less, and where no sensor tells of the light, birds that eat are awake;
    # a line that leaks does not know (one that is shut for long does: thirsty birds stop eating)
    _grid("coming_hour", HOUR_S, 1, *_GIVEN, FEED_RATE, end="horizon"),
    _grid("coming_day", DAY_S, 1, *_GIVEN, FEED_RATE, end="horizon"),
    _grid("coming_days", 3 * DAY_S, 1, *_GIVEN, FEED_RATE, end="horizon"),
    InputSpec(name="facts", shape=("houses", len(FACTS)), facts=FACTS),
)
GIVEN = tuple(spec.name for spec in INPUTS if spec.grid and spec.grid.end == "horizon")
H_WATER, H_FEED, H_TEMPERATURE, H_OUTSIDE, H_LIGHT = range(5)
A_HUMIDITY, A_CO2, A_AMMONIA, A_VENTILATION, A_OUTSIDE_HUMIDITY, A_PRESSURE = range(6)
D_WATER, D_FEED, D_TEMPERATURE, D_WEIGHT, D_OUTSIDE, D_LIGHT = range(6)
D_HUMIDITY, D_CO2, D_AMMONIA, D_VENTILATION, D_OUTSIDE_HUMIDITY, D_PRESSURE = range(6, 12)
C_TEMPERATURE, C_OUTSIDE, C_LIGHT, C_OUTSIDE_HUMIDITY, C_VENTILATION, C_FEED = range(6)


# The floors: one pulse of 10 l among 20,000 birds is 0.0005 l a bird; one auger batch of 15 kg is 0.00075 kg; the
# sensors' accuracy is 0.5 Cel, 2 %RH and 1.5 ppm (DOL 114, DOL 53: S11, S14, docs/sources.md), half a band is about
# that. Our judgement: all else, a few percent of a day; less means nothing to a farmer, however calm a house was so far
HEADS = (
    Head("water_1h", WATER, "1h", HOUR_S, "l", 0.0005),
    Head("water_for_feed_1h", WATER, "1h", HOUR_S, "l", 0.0005),
    Head("feed_1h", FEED, "1h", HOUR_S, "kg", 0.00075),
    Head("temperature_1h", TEMPERATURE, "1h", HOUR_S, "Cel", 0.5),
    Head("temperature_since_yesterday_1h", TEMPERATURE, "1h", HOUR_S, "Cel", 0.8),
    Head("humidity_1h", HUMIDITY, "1h", HOUR_S, "%RH", 3.0),
    Head("co2_1h", CO2, "1h", HOUR_S, "ppm", 100.0),
    Head("ammonia_1h", AMMONIA, "1h", HOUR_S, "ppm", 1.0),
    Head("pressure_1h", PRESSURE, "1h", HOUR_S, "Pa", 3.0),
    Head("water_1d", WATER, "1d", DAY_S, "l", 0.005),
    Head("feed_1d", FEED, "1d", DAY_S, "kg", 0.003),
    Head("water_for_feed_1d", WATER, "1d", DAY_S, "l", 0.005),
    Head("temperature_slow_1d", TEMPERATURE, "1d", DAY_S, "Cel", 0.5),
    # slow ones look away from the last days: what creeps in over days cannot teach them that it is normal
    Head("water_slow_3d", WATER, "3d", 3 * DAY_S, "l", 0.012),
    Head("feed_slow_3d", FEED, "3d", 3 * DAY_S, "kg", 0.007),
    Head("water_for_feed_3d", WATER, "3d", 3 * DAY_S, "l", 0.012),
    Head("weight_slow_3d", WEIGHT, "3d", 3 * DAY_S, "g", 20.0),
    Head("humidity_slow_3d", HUMIDITY, "3d", 3 * DAY_S, "%RH", 3.0),
    Head("co2_slow_3d", CO2, "3d", 3 * DAY_S, "ppm", 100.0),
    Head("ammonia_slow_3d", AMMONIA, "3d", 3 * DAY_S, "ppm", 1.0),
    Head("ventilation_slow_3d", VENTILATION, "3d", 3 * DAY_S, "%", 2.0),
)
WANTED = Wanted(INPUTS, tuple((head.of, head.length_s) for head in HEADS), yesterday=True)


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
    root: bool
    unit: float = 1.0  # of the output
    per: int | None = None  # a fact that the unit is multiplied by: the curve's intake of a day, or its weight


def _facts(t: Terms) -> list[int]:
    return [*(t.fact(i) for i in (AGE, HOUR_SIN, HOUR_COS, COBB, TO_SLAUGHTER)), t.log(t.fact(CURVE_WEIGHT))]


def _daily(t: Terms, lag: int = 0) -> list[int]:
    """Return what heads know of the days up to ``lag`` days ago: rates, ratio to the curve, temperature, unrest."""
    found = []
    backs = range(lag, lag + 8)
    for column in (D_WATER, D_FEED):
        rate = t.roots("days", column, backs)
        found += [*rate[:4], t.mean(rate), t.unrest(rate[:-1], rate[1:])]
    weight = t.column("days", D_WEIGHT, backs)
    found += [weight[0], weight[1], weight[2], weight[4], weight[7], t.mean(weight), t.unrest(weight[:-1], weight[1:])]
    return [*found, *t.column("days", D_TEMPERATURE, (lag, lag + 1))]


def _given_hour(t: Terms, *pairs: tuple[int, str, int]) -> list[int]:
    """Return what is given of the hour that is expected, and how it differs from the last and from yesterday's."""
    found = []
    for given, name, column in pairs:
        coming = t.at("coming_hour", 0, given)
        found += [coming, *(t.less(coming, t.at(name, back, column)) for back in (0, 23))]
    return found


_G_TEMPERATURE = (C_TEMPERATURE, "hours", H_TEMPERATURE)
_G_OUTSIDE = (C_OUTSIDE, "hours", H_OUTSIDE)
_G_LIGHT = (C_LIGHT, "hours", H_LIGHT)
_G_OUTSIDE_HUMIDITY = (C_OUTSIDE_HUMIDITY, "air", A_OUTSIDE_HUMIDITY)
_G_VENTILATION = (C_VENTILATION, "air", A_VENTILATION)
_DAY_TEMPERATURE, _DAY_OUTSIDE, _DAY_LIGHT = (C_TEMPERATURE, D_TEMPERATURE), (C_OUTSIDE, D_OUTSIDE), (C_LIGHT, D_LIGHT)
_DAY_OUTSIDE_HUMIDITY, _DAY_VENTILATION = (C_OUTSIDE_HUMIDITY, D_OUTSIDE_HUMIDITY), (C_VENTILATION, D_VENTILATION)
_DAY_FEED = (C_FEED, D_FEED)


def _given_days(t: Terms, name: str, lag: int, *pairs: tuple[int, int]) -> list[int]:
    """Return what is given of the days that are expected, and how it differs from the days ``lag`` days ago."""
    found = []
    for given, column in pairs:
        coming = t.at(name, 0, given)
        before = t.column("days", column, range(lag, lag + 4))
        found += [coming, t.less(coming, before[0]), t.mean([t.less(coming, day) for day in before])]
    return found


_OF_A_DAY = (_DAY_TEMPERATURE, _DAY_OUTSIDE, _DAY_LIGHT)


def _hourly_flow(t: Terms, column: int, day_column: int, usual: float, *, fed: bool = False) -> Look:
    """Return the look for a flow over the next hour; ``usual`` is its rate where nothing is known.

    ``fed``: it is given what is eaten in that hour.
    """

    def hour(back: int, of: int = column) -> int:
        return t.root(t.at("hours", back, of))

    other = H_FEED + H_WATER - column
    days = [[hour(24 * back + i) for i in range(24)] for back in range(3)]
    level = t.mean(days[0])
    light = t.column("hours", H_LIGHT, range(ALIKE_HOURS))
    # what flowed when it was as light: people move the night, and no clock tells of it
    alike = t.alike([hour(i) for i in range(ALIKE_HOURS)], light, t.at("coming_hour", 0, C_LIGHT), ALIKE_LIGHT)
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
        *_given_hour(t, _G_TEMPERATURE, _G_LIGHT),
        t.less(t.at("hours", 0, H_LIGHT), t.at("hours", 24, H_LIGHT)),
        *(t.less(light[i], light[i + 1]) for i in range(3)),
        *_facts(t),
        *_daily(t),
    ]
    if fed:
        eaten = t.root(t.at("coming_hour", 0, C_FEED))
        terms += [eaten, *(t.less(eaten, hour(back, H_FEED)) for back in (0, 1, 23, 47))]
    against_base = (*coming, hour(0), hour(1), level)
    bases = (alike, *coming, level, t.root(t.at("days", 0, day_column)))
    return Look(tuple(terms), against_base, bases, usual**0.5, root=True, unit=1 / 1000 / 24, per=CURVE_FEED)


def _hourly_temperature(t: Terms) -> Look:
    """Return the look for the mean temperature of the next hour; the base is the temperature now."""
    tens = t.column("tens", 0, range(TENS))
    hours = t.column("hours", H_TEMPERATURE, range(49))
    outside_now = t.at("tens", 0, 1)
    terms = [
        t.less(hours[23], hours[24]),  # what the same hour did yesterday
        t.less(hours[47], hours[48]),
        t.unrest(tens[:-1], tens[1:]),
        t.unrest(hours[:24], hours[1:25]),
        t.unrest(hours[:24], hours[24:48]),
        outside_now,
        t.at("tens", 3, 1),
        *(t.less(o, outside_now) for o in t.column("hours", H_OUTSIDE, (0, 1, 2, 23, 24))),
        t.less(t.at("coming_hour", 0, C_OUTSIDE), outside_now),
        *_given_hour(t, _G_OUTSIDE, _G_LIGHT),
        *_facts(t),
    ]
    against = (*tens, *hours[:4], *hours[22:26], t.at("days", 0, D_TEMPERATURE))
    bases = (*tens, hours[0], hours[1], hours[23], t.at("days", 0, D_TEMPERATURE))
    return Look(tuple(terms), against, bases, 21.0, root=False)


def _temperature_since_yesterday(t: Terms) -> Look:
    """Return the look for the same, from yesterday and before only: a slow fall of hours does not teach it."""
    hours = {back: t.at("hours", back, H_TEMPERATURE) for back in range(20, 76)}
    yesterday = [hours[back] for back in range(24, 48)]
    days = t.column("days", D_TEMPERATURE, range(1, 6))
    coming = t.at("coming_hour", 0, C_OUTSIDE)
    terms = [
        t.less(hours[23], hours[47]),
        t.less(hours[47], hours[71]),
        t.unrest(yesterday[:-1], yesterday[1:]),
        t.unrest(yesterday, [hours[back] for back in range(48, 72)]),
        *(t.less(coming, t.at("hours", back, H_OUTSIDE)) for back in (23, 26, 47)),
        *_given_hour(t, _G_OUTSIDE, _G_LIGHT),
        *(t.less(t.at("coming_hour", 0, C_OUTSIDE), outside) for outside in t.column("days", D_OUTSIDE, (1, 2, 3))),
        *_facts(t),
    ]
    against = (*(hours[back] for back in (20, 21, 22, 23, 24, 25, 46, 47, 48, 71)), t.mean(yesterday), *days)
    bases = (hours[23], hours[24], hours[47], t.mean(yesterday), *days)
    return Look(tuple(terms), against, bases, 21.0, root=False)


def _hourly_air(t: Terms, column: int, usual: float, *, root: bool) -> Look:
    """Return the look for humidity or a gas over the next hour: from the last hours, weather and ventilation."""
    hours = t.roots("air", column, range(AIR_HOURS)) if root else t.column("air", column, range(AIR_HOURS))
    day = t.roots("days", D_HUMIDITY + column, range(4)) if root else t.column("days", D_HUMIDITY + column, range(4))
    terms = [
        t.less(hours[23], hours[24]),
        t.unrest(hours[:12], hours[1:13]),
        t.unrest(hours[:4], hours[24:]),
        t.less(hours[0], hours[24]),
        *_given_hour(t, _G_TEMPERATURE, _G_OUTSIDE, _G_LIGHT, _G_OUTSIDE_HUMIDITY, _G_VENTILATION),
        t.at("coming_hour", 0, C_VENTILATION),
        *_facts(t),
    ]
    against = (*hours[:6], *hours[22:26], t.mean(hours[:24]), *day)
    bases = (*hours[:4], hours[23], *day)
    return Look(tuple(terms), against, bases, usual**0.5 if root else usual, root=root)


def _daily_flow(t: Terms, column: int, hour_column: int, usual: float) -> Look:
    """Return the look for a flow over the next day; the base is the last day."""
    rate = t.roots("days", column, range(8))
    hours = t.roots("hours", hour_column, range(30))
    gone_up = [t.less(hours[i], hours[24 + i]) for i in range(6)]
    terms = [*gone_up[:3], t.mean(gone_up), *_given_days(t, "coming_day", 0, *_OF_A_DAY), *_facts(t), *_daily(t)]
    return Look(tuple(terms), tuple(rate), tuple(rate[:4]), usual**0.5, root=True, unit=1 / 1000, per=CURVE_FEED)


def _slow_flow(t: Terms, column: int, usual: float, *given: tuple[int, int], days: int) -> Look:
    """Return the look for a flow over some days as the days up to the one before them would have it."""
    rate = t.roots("days", column, range(1, 9))
    coming = "coming_day" if days == 1 else "coming_days"
    terms = [*_given_days(t, coming, 1, *_OF_A_DAY, *given), *_facts(t), *_daily(t, 1)]
    return Look(tuple(terms), tuple(rate), tuple(rate[:6]), usual**0.5, root=True, unit=days / 1000, per=CURVE_FEED)


def _slow_weight(t: Terms) -> Look:
    """Return the look for the weight of three days as the days up to two days before them would have it."""
    weight = t.column("days", D_WEIGHT, range(2, DAYS_LONG))
    steps = [t.less(a, b) for a, b in pairwise(weight)]
    terms = (*steps, t.mean(steps), t.unrest(weight[:-1], weight[1:]), *_facts(t), *_daily(t, 2))
    return Look(terms, (*weight, t.mean(weight)), tuple(weight), 0.97, root=False, per=CURVE_WEIGHT)


def _slow_air(
    t: Terms, column: int, usual: float, *given: tuple[int, int], root: bool, lag: int = 1, days: int = 3
) -> Look:
    """Return the look for some days of the house's air as the days up to ``lag`` before them, and weather, have it."""
    backs = range(lag, DAYS_LONG)
    past = t.roots("days", column, backs) if root else t.column("days", column, backs)
    coming = "coming_day" if days == 1 else "coming_days"
    terms = [*_given_days(t, coming, lag, *given), t.unrest(past[:-1], past[1:]), *_facts(t)]
    terms += [t.less(past[0], past[1]), t.less(past[0], past[3]), t.less(past[1], past[5])]
    against = (*past[:6], t.mean(past[:3]), t.mean(past))
    return Look(tuple(terms), against, tuple(past), usual**0.5 if root else usual, root=root)


def _looks(t: Terms) -> dict[str, Look]:
    """Return what each head looks at, in the order of ``HEADS``."""
    air = (_DAY_OUTSIDE, _DAY_OUTSIDE_HUMIDITY, _DAY_LIGHT)
    return {
        "water_1h": _hourly_flow(t, H_WATER, D_WATER, 1.8),
        "water_for_feed_1h": _hourly_flow(t, H_WATER, D_WATER, 1.8, fed=True),
        "feed_1h": _hourly_flow(t, H_FEED, D_FEED, 1.0),
        "temperature_1h": _hourly_temperature(t),
        "temperature_since_yesterday_1h": _temperature_since_yesterday(t),
        "humidity_1h": _hourly_air(t, A_HUMIDITY, 60.0, root=False),
        "co2_1h": _hourly_air(t, A_CO2, 1_800.0, root=True),
        "ammonia_1h": _hourly_air(t, A_AMMONIA, 4.0, root=True),
        "pressure_1h": _hourly_air(t, A_PRESSURE, 15.0, root=False),
        "water_1d": _daily_flow(t, D_WATER, H_WATER, 1.8),
        "feed_1d": _daily_flow(t, D_FEED, H_FEED, 1.0),
        "water_for_feed_1d": _slow_flow(t, D_WATER, 1.8, _DAY_FEED, days=1),
        "temperature_slow_1d": _slow_air(t, D_TEMPERATURE, 21.0, *air, root=False, lag=2, days=1),
        "water_slow_3d": _slow_flow(t, D_WATER, 1.8, days=3),
        "feed_slow_3d": _slow_flow(t, D_FEED, 1.0, days=3),
        "water_for_feed_3d": _slow_flow(t, D_WATER, 1.8, _DAY_FEED, days=3),
        "weight_slow_3d": _slow_weight(t),
        "humidity_slow_3d": _slow_air(t, D_HUMIDITY, 60.0, *air, _DAY_TEMPERATURE, _DAY_VENTILATION, root=False),
        "co2_slow_3d": _slow_air(t, D_CO2, 1_800.0, *air, _DAY_TEMPERATURE, _DAY_VENTILATION, root=True),
        "ammonia_slow_3d": _slow_air(t, D_AMMONIA, 4.0, *air, _DAY_TEMPERATURE, _DAY_VENTILATION, root=True),
        "ventilation_slow_3d": _slow_air(t, D_VENTILATION, 15.0, *air, root=True),
    }


@dataclass(frozen=True, slots=True)
class Columns:
    """The nodes of one head before its network, [houses, columns], [houses, 1] and [houses, 1]."""

    columns: str
    base: str
    unit: str
    root: bool


def columns_of(g: Graph) -> dict[str, Columns]:
    """Return the columns of every head. Rates are ml of water or g of feed for a g of the curve's intake."""
    t = Terms(g, INPUTS)
    looks = _looks(t)
    row, place = t.gathered()
    zero = g.mul(g.columns("facts", [HOUR_SIN]), g.const(0.0))
    found = {}
    for name, look in looks.items():
        usual = g.add(zero, g.const(look.usual))
        bases = [g.columns(row, [place[term] for term in look.bases])] if look.bases else []
        base = g.first_known(g.concat([*bases, usual])) if bases else usual
        parts = [g.columns(row, [place[term] for term in look.terms]), base]
        if look.against_base:
            parts.append(g.sub(g.columns(row, [place[term] for term in look.against_base]), base))
        per = g.add(zero, g.const(1.0)) if look.per is None else g.columns("facts", [look.per])
        unit = g.mul(per, g.const(look.unit))
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


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one head's network learns from: rows of the columns it looks at and scaled residuals."""

    scaling: Scaling
    x: F32
    y: F32
    x_validation: F32
    y_validation: F32

    def learnt(self, seed: int, epochs: int) -> Trained:
        """Return the network, fitted, stopped and calibrated."""
        net = fit(self.x, self.y, self.x_validation, self.y_validation, seed=seed, epochs=epochs)
        return Trained(net, self.scaling, calibrated(net, self.x_validation, self.y_validation))


def lessons(samples: Samples, validation: Samples) -> list[Lesson]:
    """Return what every head learns from, in the order of ``HEADS``."""
    graph = new_graph()
    nodes = list(columns_of(graph).values())
    wanted = [name for of in nodes for name in (of.columns, of.base, of.unit)]
    seen, by = graph.values(wanted, samples.tensors), graph.values(wanted, validation.tensors)
    found = []
    for i, of in enumerate(nodes):
        y = _residual(samples.actual[:, i], seen[3 * i + 1], seen[3 * i + 2], root=of.root)
        y_validation = _residual(validation.actual[:, i], by[3 * i + 1], by[3 * i + 2], root=of.root)
        known, known_validation = np.isfinite(y), np.isfinite(y_validation)
        scaling = Scaling.of(seen[3 * i][known], y[known], SEEN_WITHIN)
        target = np.float32(scaling.target)
        found.append(
            Lesson(
                scaling,
                scaling.prepared(seen[3 * i][known]),
                y[known] / target,
                scaling.prepared(by[3 * i][known_validation]),
                y_validation[known_validation] / target,
            )
        )
    return found


def train(
    samples: Samples,
    validation: Samples,
    *,
    epochs: int,
    seed: int,
    processes: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Trained]:
    """Return a network for every head, fitted on ``samples``, stopped and calibrated on ``validation``."""
    taught = lessons(samples, validation)
    seeds, times = [seed + number for number in range(len(HEADS))], [epochs] * len(HEADS)
    trained = in_processes(processes, Lesson.learnt, taught, seeds, times)
    for head, lesson, of in zip(HEADS, taught, trained, strict=True):
        say(
            f"expect {head.name}: {len(lesson.y):,} samples, {lesson.x.shape[1]} columns, pinball "
            f"{pinball(lesson.y_validation, of.net.quantiles(lesson.x_validation)):.4f} on validation farms, "
            f"bands stretched by {of.stretch[0]:.2f} and {of.stretch[1]:.2f}"
        )
    return {head.name: of for head, of in zip(HEADS, trained, strict=True)}


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
    seen = g.prepared(g.concat([c.columns for c in nodes.values()]), mean, spread, gaps, SEEN_WITHIN)
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
            target=head.signal,
            quantiles=QUANTILES,
            horizons=(head.horizon,),
            unit=head.unit,
            of=head.of,
            cadence_s=HOUR_S if head.length_s > HOUR_S else None,
            judge=judges.get(head.name),
        )
        for head in HEADS
    )


def build(job: Job) -> Bundle:
    """Train the bundle from simulated farms and write it."""
    lived = Farms("train", 12, 40, 44, SEED, to_slaughter=False)
    farms = replace(lived, count=1, houses=3, days=10) if job.tiny else lived
    by = replace(farms, ranges="validation") if job.tiny else replace(lived, ranges="validation", count=6, houses=8)
    judged = replace(by, seed=SEED + 500, count=1 if job.tiny else 8, houses=1 if job.tiny else by.houses)
    per_day, epochs = (2, 2) if job.tiny else (3, 40)
    job.say(f"{NAME}: simulating {farms.count} farms of {farms.houses} houses to train on, {by.count} to validate")
    samples = samples_of(farms, WANTED, per_day=per_day, held=True, processes=job.processes)
    validation = samples_of(by, WANTED, per_day=per_day, held=False, processes=job.processes)
    job.say(f"{NAME}: {len(samples):,} instants to train on, {len(validation):,} to stop and to calibrate by")
    trained = train(samples, validation, epochs=epochs, seed=SEED % 1000, processes=job.processes, say=job.say)
    model = export(trained)

    directory, tested = job.out / NAME / VERSION, for_selftest(samples)
    top = ManifestHead(NAME, VERSION, "expect", CADENCE_S, digest_of(samples.tensors.values()), {})
    runnable = Model(write_bundle(directory, model, manifest_text(top, INPUTS, outputs_of({})), tested, ""))
    said = said_by(runnable, validation)
    losses = [pinball(validation.actual[:, i], said[head.name][:, 0]) for i, head in enumerate(HEADS)]
    metrics = {head.name: float(f"{loss:.3g}") for head, loss in zip(HEADS, losses, strict=True)}

    job.say(f"{NAME}: judging healthy flocks of {judged.count} more validation farms, for the limits")
    found = traces_of(judged, directory, HEADS, job.processes)
    metrics |= {f"interval80_{head.name}": held_by(found, i) for i, head in enumerate(HEADS)}
    limits = limits_of(found, HEADS, ALLOWED)
    for head in HEADS:
        job.say(f"{NAME} {head.name}: limits {limits[head.name].low} and {limits[head.name].high}")
    rates = rates_of(found, HEADS, limits)
    for rule, rate in rates.items():
        job.say(f"{NAME} {rule}: {rate:.4f} false warnings per house-day")
    metrics["false_per_house_day"] = round(sum(rates.values()), 4)
    manifest = manifest_text(replace(top, metrics=metrics), INPUTS, outputs_of(limits))
    card = expect_card(len(samples), farms, by, metrics, limits, rates)
    return write_bundle(directory, model, manifest, tested, card, reference_of(INPUTS, samples.tensors, samples.flock))
