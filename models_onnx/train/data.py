"""Simulated farms as the agent would see them: the tensors of a model at many instants, and what came after.

Readings go through the agent's own ``Window``, so a feature means the same in training as on the gateway. Some flocks
are told by the day or the hour only, some lack a sensor, some have a wrong number of birds, and some instants look as
they do while a warning stands: real farms are like that. For training and calibration most flocks are also made
*rough*: meters and scales with larger errors than the simulator's, and noise of a size and rhythm drawn for each flock,
so that a model has to look at how restless a house has been lately, instead of learning the simulator's own noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo

import numpy as np

from agent.calibration import measured_at_end
from agent.clock import FarmDays
from agent.domain import Quality, SeriesKey, from_ms, to_ms
from agent.manifest import DAY_S
from agent.readings import Readings
from agent.signals import CATALOGUE
from agent.strains import strain_of
from agent.window import DAY_MS, FlockContext, Window
from models_onnx.farm.campaign import campaign
from models_onnx.farm.farm import simulate
from models_onnx.train.job import in_processes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from agent.manifest import Feature, InputSpec
    from models_onnx.farm.farm import FlockTruth, Recording
    from models_onnx.farm.faults import Fault
    from models_onnx.farm.params import RangeSet

    F32 = NDArray[np.float32]
    F64 = NDArray[np.float64]
    Rhythm = Literal["600 s", "1 h", "1 d"]

DAYS = FarmDays(ZoneInfo("UTC"))  # the simulated farm's
SIGNALS = (
    *("water", "feed", "temperature", "outside_temperature", "weight", "light"),
    *("humidity", "co2", "ammonia", "ventilation", "outside_humidity", "pressure"),
)
STEP_MS = 600_000
AT_ONCE = 36  # instants whose tensors are made together: they fit into a processor's cache
AFTER_THINNING = timedelta(hours=24)  # feed and water settle; the agent, too, judges nothing in that time

# what is done to training and evaluation flocks alike; shares of flocks or instants, our judgement of how farms differ
HOURLY_SHARE, DAILY_SHARE = 0.08, 0.12
SENSOR_MISSING_SHARE = 0.06  # each signal, for the flock's whole life: whole sensors are absent on real farms [F1]
POOR_SHARE, POOR_MISSING_SHARE = 0.2, 0.5  # of the flocks, and of their signals: many houses have but a few sensors
COUNT_WRONG_SHARE, COUNT_WRONG_SD = 0.3, 0.05  # the live birds are what people told
HELD_SHARE = 0.3  # of the instants: a warning stands, or stood, so one signal is masked for some time
HELD_STILL_SHARE = 0.7  # of those: it still stands
HELD_MOST_H, HELD_AFTER_H = 72.0, 12.0  # as long as a warning lasts, and as long as its time stays masked after it
HELD_OFTEN, HELD_OFTEN_SHARE = ("water", "feed", "temperature", "weight"), 0.6  # what is told most often
FORECAST_SHARE = 0.2  # of the instants: light and temperatures of the time that is expected are not known


ROUGH_SHARE = 0.7  # of the flocks, where asked for
# what a rough flock gets: the most of each, drawn evenly from nothing up to it, or between the bounds
ROUGH_FLOW_SD, ROUGH_FLOW_H = 0.25, (0.3, 12.0)  # of water and of feed, for about so many hours; longer is less
ROUGH_DAY_SD = 0.06  # the same from day to day
ROUGH_TEMPERATURE_SD, ROUGH_TEMPERATURE_H = 0.8, (0.3, 6.0)  # Cel
ROUGH_SCALE_SD, ROUGH_SCALE_H = 0.03, (12.0, 72.0)
ROUGH_WATER_GAIN, ROUGH_FEED_GAIN = (0.92, 1.08), (0.92, 1.08)  # a meter's constant error
ROUGH_GROWTH = (0.91, 1.06)  # the whole flock heavier or lighter than the simulator would have it, and eating so
ROUGH_SCALE_BIAS = (-0.06, 0.05)
# where flock follows flock: growth of all flocks of a house, and of one; the scale is hung anew after the wash
ROUGH_HOUSE_GROWTH, ROUGH_FLOCK_GROWTH = (0.93, 1.05), (0.96, 1.04)
ROUGH_SCALE_MOVED_SD = 0.012
ROUGH_DIRT_SHARE, ROUGH_DIRT, ROUGH_DIRT_DAYS = 0.15, (0.02, 0.10), (2.0, 10.0)  # litter on the scale, till cleaned
# heavy birds shun it from week 5 on: S30, docs/sources.md
ROUGH_LATE_BIAS, LATE_FROM_DAY, LATE_FULL_DAY = (-0.06, 0.02), 26.0, 40.0
# of the air: fresh-air turbulence swings a gas sensor (S14), people turn a knob, doors open
ROUGH_HUMIDITY_SD, ROUGH_HUMIDITY_BIAS = 4.0, (-4.0, 4.0)  # %RH
ROUGH_CO2_SD, ROUGH_CO2_GAIN = 0.15, (0.85, 1.15)
ROUGH_AMMONIA_SD, ROUGH_AMMONIA_GAIN, ROUGH_AMMONIA_BIAS = 0.3, (0.7, 1.3), (-1.0, 2.0)  # ppm
ROUGH_VENTILATION_SD, ROUGH_VENTILATION_GAIN = 0.25, (0.8, 1.25)
ROUGH_PRESSURE_SD, ROUGH_PRESSURE_GAIN = 0.25, (0.7, 1.3)  # wind
ROUGH_FADES = 0.35  # the power by which the most falls with how long a noise lasts, from the shortest on
ROUGH_AIR_H, ROUGH_AIR_DAY_SHARE = (0.3, 12.0), 0.3  # so much of each air noise also from day to day
ROUGH_OUTSIDE_SD, ROUGH_OUTSIDE_H = 1.0, (1.0, 12.0)  # Cel: sun and rain on the sensor


@dataclass(frozen=True, slots=True)
class FlockData:
    """One flock as the agent sees it, with the truth beside it."""

    house: int
    truth: FlockTruth
    context: FlockContext
    blocks: tuple[Readings, ...]  # one for each day
    begin_ms: int  # the first day's start
    true_weight_g: NDArray[np.float64]  # at noon of each day
    slaughter_weight_g: float
    unusual: tuple[tuple[int, int], ...]  # (from, to) in ms: catching, thinning; nothing is judged there
    rhythm: Rhythm


@dataclass(slots=True)
class Samples:
    """``n`` instants of many flocks in columns."""

    tensors: dict[str, F32] = field(default_factory=dict)  # [n, …] by input name
    at_ms: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    flock: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    actual: F32 = field(default_factory=lambda: np.empty((0, 0), np.float32))  # [n, features], NaN = not measured
    yesterday: F32 = field(default_factory=lambda: np.empty((0, 0), np.float32))  # the same, 24 h before
    weight_g: F32 = field(default_factory=lambda: np.empty((0, 0), np.float32))  # truth, [n, horizons]

    def __len__(self) -> int:
        """Return how many instants there are."""
        return len(self.at_ms)


def flocks_of(
    ranges: RangeSet,
    *,
    houses: int,
    days: int,
    seed: int,
    start: datetime,
    clean: bool = False,
    rough: bool = False,
    faults: Sequence[Fault] = (),
    restock: bool = False,
    to_slaughter: bool = True,
    step_s: int = STEP_MS // 1000,
) -> Iterator[FlockData]:
    """Yield the flocks of a simulated farm.

    ``clean``: every sensor, every 600 s, the right number of birds. ``rough``: most houses with larger errors.
    ``restock``: flock follows flock; those that are whole within ``days`` are told, and what is wrong with a house's
    meters, scale and sensors stays so. ``to_slaughter``: as for ``simulate``; where nobody asks for the weight it is
    time for nothing. ``step_s``: of the simulation, and of what is told most often.
    """
    rng = np.random.default_rng([seed, 7])
    recording = simulate(
        houses=houses,
        days=days,
        seed=seed,
        step_s=step_s,
        ranges=ranges,
        start=start,
        faults=faults,
        restock=restock,
        to_slaughter=to_slaughter and not restock,
    )
    for truth in recording.flocks:
        if restock and truth.end_ms > recording.at_ms[-1]:
            continue
        begin_ms = max(to_ms(DAYS.start_of(truth.placed_on)), to_ms(start))
        own = np.random.default_rng([seed, 13, truth.house, truth.placed_ms // DAY_MS])
        of_house = np.random.default_rng([seed, 22, truth.house]) if restock else own
        rhythm: Rhythm = "600 s"
        missing: set[str] = set()
        count_factor = 1.0
        drawn, poor, *others = (of_house if restock else rng).random(3 + len(SIGNALS))
        wrong = (own if restock else rng).normal(0, COUNT_WRONG_SD)
        if not clean:
            rhythm = "1 h" if drawn < HOURLY_SHARE else "1 d" if drawn < HOURLY_SHARE + DAILY_SHARE else "600 s"
            share = POOR_MISSING_SHARE if poor < POOR_SHARE else SENSOR_MISSING_SHARE
            missing = {name for name, u in zip(SIGNALS, others[1:], strict=True) if u < share}
            missing -= {SIGNALS[int(poor * 1000) % len(SIGNALS)]}  # something is always measured
            count_factor = float(np.exp(wrong)) if others[0] < COUNT_WRONG_SHARE else 1.0
        first, last = np.searchsorted(recording.at_ms, (begin_ms + 1, truth.end_ms)).tolist()
        span = slice(first, last)
        signals = {name: recording.signals[name][truth.house, span] for name in SIGNALS}
        growth = 1.0
        if rough and of_house.random() < ROUGH_SHARE:
            growth = float(of_house.uniform(*(ROUGH_HOUSE_GROWTH if restock else ROUGH_GROWTH)))
            growth *= float(own.uniform(*ROUGH_FLOCK_GROWTH)) if restock else 1.0
            signals = _roughened(
                signals, growth, (recording.at_ms[span] - truth.placed_ms) / DAY_MS, 3600 / step_s, of_house, own
            )
        yield _flock(recording, span, signals, truth, begin_ms, rhythm, missing, count_factor, growth)


def _roughened(
    signals: Mapping[str, F64],
    growth: float,
    age_days: F64,
    per_hour: float,
    house_rng: np.random.Generator,
    rng: np.random.Generator,
) -> dict[str, F64]:
    """Return the readings of a flock with larger errors, ``growth`` times as heavy; ``per_hour`` steps.

    ``house_rng`` draws what is the same for every flock of a house; it is ``rng`` where there is but one.
    """
    steps = len(age_days)

    def noise(most_sd: float, hours: tuple[float, float]) -> F64:
        """Return noise around 0 that lasts about so many hours: straight lines between random knots."""
        lasts = rng.uniform(*hours)
        each = lasts * per_hour
        sd = rng.uniform(0, most_sd) * (lasts / hours[0]) ** -ROUGH_FADES
        knots = rng.normal(0, sd, int(steps / each) + 2)
        return np.interp(np.arange(steps) / each, np.arange(len(knots)), knots)

    late = np.clip((age_days - LATE_FROM_DAY) / (LATE_FULL_DAY - LATE_FROM_DAY), 0, 1.4)
    # half of the feed is for maintenance, which goes with the metabolic weight, half for growth: as in farm/birds.py
    appetite = 0.5 * growth**0.75 + 0.5 * growth
    error = 1 + house_rng.uniform(*ROUGH_SCALE_BIAS) + house_rng.uniform(*ROUGH_LATE_BIAS) * late
    if house_rng is not rng:
        error = error + rng.normal(0, ROUGH_SCALE_MOVED_SD) + _dirt(age_days, rng)
    scale = growth * error
    flows = {
        name: signals[name]
        * appetite
        * house_rng.uniform(*gain)
        * np.exp(noise(ROUGH_FLOW_SD, ROUGH_FLOW_H) + noise(ROUGH_DAY_SD, (24, 24)))
        for name, gain in (("water", ROUGH_WATER_GAIN), ("feed", ROUGH_FEED_GAIN))
    }
    humidity, co2, ammonia, ventilation, pressure = (
        noise(sd, ROUGH_AIR_H) + noise(ROUGH_AIR_DAY_SHARE * sd, (24, 24))
        for sd in (ROUGH_HUMIDITY_SD, ROUGH_CO2_SD, ROUGH_AMMONIA_SD, ROUGH_VENTILATION_SD, ROUGH_PRESSURE_SD)
    )
    fans = rng.uniform(*ROUGH_VENTILATION_GAIN) * np.exp(ventilation)
    gas = np.maximum(signals["ammonia"] * rng.uniform(*ROUGH_AMMONIA_GAIN) + rng.uniform(*ROUGH_AMMONIA_BIAS), 0)
    return {
        **signals,
        **flows,
        "temperature": signals["temperature"] + noise(ROUGH_TEMPERATURE_SD, ROUGH_TEMPERATURE_H),
        "weight": signals["weight"] * (scale + noise(ROUGH_SCALE_SD, ROUGH_SCALE_H)),
        "humidity": np.clip(signals["humidity"] + rng.uniform(*ROUGH_HUMIDITY_BIAS) + humidity, 5, 100),
        "co2": np.maximum(signals["co2"] * rng.uniform(*ROUGH_CO2_GAIN) * np.exp(co2), 350),
        "ammonia": gas * np.exp(ammonia),
        "ventilation": np.clip(signals["ventilation"] * fans, 0, 100),
        "pressure": signals["pressure"] * rng.uniform(*ROUGH_PRESSURE_GAIN) * np.exp(pressure),
        "outside_temperature": signals["outside_temperature"] + noise(ROUGH_OUTSIDE_SD, ROUGH_OUTSIDE_H),
    }


def _dirt(age_days: F64, rng: np.random.Generator) -> F64:
    """Return what litter on the scale adds, as a share: mostly nothing, else a creep until somebody cleans it."""
    size, days = rng.uniform(*ROUGH_DIRT), rng.uniform(*ROUGH_DIRT_DAYS)
    begins, cleaned_after = rng.uniform(5, 40), days * rng.uniform(1, 2)
    if rng.random() >= ROUGH_DIRT_SHARE:
        return np.zeros(len(age_days))
    return np.where(age_days < begins + cleaned_after, size * np.clip((age_days - begins) / days, 0, 1), 0.0)


def _flock(
    recording: Recording,
    span: slice,
    signals: Mapping[str, F64],
    truth: FlockTruth,
    begin_ms: int,
    rhythm: Rhythm,
    missing: set[str],
    count_factor: float,
    growth: float,
) -> FlockData:
    """Return one flock of a recording as it is told."""
    at_ms = recording.at_ms[span]
    first_day = (begin_ms - int(recording.at_ms[0])) // DAY_MS + 1  # the first step ends after midnight
    days = slice(first_day, first_day + (truth.end_ms - begin_ms) // DAY_MS + 1)
    names = [name for name in signals if name not in missing]
    keys = tuple(SeriesKey("house", name) for name in names)
    columns = []
    for number, name in enumerate(names):
        times, values = _told(rhythm, name, at_ms, signals[name])
        columns.append((np.full(len(times), number, np.int32), times, values))
    key, times, values = (np.concatenate(part) for part in zip(*columns, strict=True))
    order = np.argsort(times, kind="stable")
    key, times, values = key[order], times[order], values[order]
    edges = np.searchsorted(times, begin_ms + DAY_MS * np.arange(1, (int(times[-1]) - begin_ms) // DAY_MS + 2), "right")
    blocks = []
    for a, b in zip([0, *edges.tolist()], edges.tolist(), strict=False):
        good = np.full(b - a, Quality.GOOD, np.uint8)
        blocks.append(Readings(keys, key[a:b], times[a:b], values[a:b], good, good, times[a:b]))
    return FlockData(
        truth.house,
        truth,
        context_of(recording, truth, count_factor),
        tuple(blocks),
        begin_ms,
        recording.true_weight_g[truth.house, days] * growth,
        float("nan") if truth.slaughter_weight_g is None else truth.slaughter_weight_g * growth,
        tuple(_unusual(recording, truth)),
        rhythm,
    )


def _told(
    rhythm: Rhythm, name: str, at_ms: NDArray[np.int64], values: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return what is told of a signal: every reading, or the mean or sum of each hour or day at its end."""
    if rhythm == "600 s":
        there = np.isfinite(values)
        return at_ms[there], values[there]
    each = (3_600_000 if rhythm == "1 h" else DAY_MS) // int(at_ms[1] - at_ms[0])
    whole = len(values) // each * each
    parts = values[:whole].reshape(-1, each)
    known = np.isfinite(parts)
    enough = known.mean(axis=1) > 0.5
    total = np.where(known, parts, 0).sum(axis=1)
    told = total if name in {"water", "feed"} else total / np.maximum(known.sum(axis=1), 1)
    return at_ms[each - 1 : whole : each][enough], told[enough]


def context_of(recording: Recording, truth: FlockTruth, count_factor: float = 1.0) -> FlockContext:
    """Return what the agent knows of a flock from the commands that were told: the agent's own conventions."""
    gone: list[tuple[int, float]] = []
    for told in recording.told:
        if told.house != truth.house or not truth.placed_ms <= told.at_ms <= truth.end_ms:
            continue
        if told.command["action"] == "record":
            day = datetime.fromisoformat(str(told.command["date"])).replace(tzinfo=UTC)
            gone.append((to_ms(day) + DAY_MS, float(told.command["dead"]) + float(told.command["culled"])))
        elif told.command["action"] == "thin":
            gone.append((told.at_ms, float(told.command["birds"])))
    gone.sort()
    return FlockContext(
        placed_at_ms=to_ms(DAYS.start_of(truth.placed_on)),
        strain=strain_of(truth.strain),
        birds_placed=round(truth.birds_told * count_factor),
        sex=None if truth.sex == "mixed" else truth.sex,
        parent_age_weeks=float(truth.parent_age_weeks),
        slaughter_at_ms=to_ms(DAYS.start_of(truth.planned_end_on)),
        removed_at_ms=np.array([at for at, _ in gone], np.int64),
        removed=np.cumsum(np.array([birds for _, birds in gone], np.float64)),
    )


def _unusual(recording: Recording, truth: FlockTruth) -> Iterator[tuple[int, int]]:
    """Yield the times in which people interfere: from the feed withdrawal to a day after the thinning, or the end."""
    began_ms = None
    for told in recording.told:
        if told.house != truth.house or not truth.placed_ms <= told.at_ms <= truth.end_ms:
            continue
        action = told.command["action"]
        if action == "state" and told.command["state"] == "catching":
            began_ms = told.at_ms
        elif action in {"thin", "end"} and began_ms is not None:
            yield began_ms, told.at_ms + int(AFTER_THINNING.total_seconds() * 1000)
            began_ms = None


def is_usual(flock: FlockData, from_ms: int, to_ms: int) -> bool:
    """Tell whether nobody interfered between two times."""
    return all(to_ms <= begin or from_ms >= end for begin, end in flock.unusual)


@dataclass(frozen=True, slots=True)
class Farms:
    """Farms of ``houses`` each, placed at times spread over the year."""

    ranges: RangeSet
    count: int
    houses: int
    days: int
    seed: int
    rough: bool = True
    restock: bool = False  # flock follows flock in the same houses, as long as ``days`` last
    to_slaughter: bool = True  # flocks that live longer than ``days`` have a slaughter weight
    step_s: int = STEP_MS // 1000
    fault_share: float = 0.0  # of the first flocks of the houses that have a fault

    def flocks(self, number: int) -> list[FlockData]:
        """Return the flocks of one of them."""
        start = datetime(2026, 1 + number * 12 // max(self.count, 1), 3, tzinfo=UTC)
        seed = self.seed + number
        faults = campaign(self.houses, seed, ranges=self.ranges, start=start, share=self.fault_share)
        return list(
            flocks_of(
                self.ranges,
                houses=self.houses,
                days=self.days,
                seed=seed,
                start=start,
                rough=self.rough,
                restock=self.restock,
                to_slaughter=self.to_slaughter,
                step_s=self.step_s,
                faults=faults,
            )
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to collect at each instant."""

    inputs: tuple[InputSpec, ...]
    expected: tuple[tuple[Feature, int], ...] = ()  # the actual value of each feature over so many seconds after it
    weight_days: tuple[int, ...] = ()  # the true weight at noon so many days later; then at slaughter
    yesterday: bool = False  # also what each expected feature was 24 h before

    def by_length(self) -> dict[int, tuple[list[int], tuple[Feature, ...]]]:
        """Return by length in s the columns of what is expected and their features."""
        return {
            length_s: ([i for i, (_, s) in enumerate(self.expected) if s == length_s], features)
            for length_s, features in _features_by_length(self.expected).items()
        }


@lru_cache(maxsize=16)
def _features_by_length(expected: tuple[tuple[Feature, int], ...]) -> dict[int, tuple[Feature, ...]]:
    """Return the same tuples each time: the window's plans hang on them."""
    return {length_s: tuple(f for f, s in expected if s == length_s) for _, length_s in expected}


def collect(
    flocks: Iterable[FlockData],
    wanted: Wanted,
    *,
    per_day: int | Sequence[int],
    seed: int,
    held: bool = True,
    days: range = range(1000),
    ends: list[Mapping[str, float]] | None = None,
) -> Samples:
    """Return samples of flocks: ``per_day`` random instants of each day, or those named, in steps of 600 s.

    ``held``: at some instants a signal is masked as while a warning stands, at some nothing is known of the time that
    is expected. ``days``: only those of the flock. ``ends`` takes what the instruments showed of each flock at its end.
    """
    rng = np.random.default_rng([seed, 11])
    parts: list[Samples] = []
    for number, flock in enumerate(flocks):
        window = Window("house", {name: CATALOGUE[name] for name in SIGNALS}, DAYS)
        ahead = max((-(-length_s // DAY_S) for _, length_s in wanted.expected), default=1)
        for block in flock.blocks[:ahead]:
            window.add(block)
        for day in range(len(flock.blocks)):
            if day + ahead < len(flock.blocks):
                window.add(flock.blocks[day + ahead])  # so that what came after can be measured
            if day not in days:
                continue
            instants = [flock.begin_ms + day * DAY_MS + i * STEP_MS for i in _instants(rng, per_day, flock.rhythm)]
            lived = [at_ms for at_ms in instants if flock.truth.placed_ms < at_ms < flock.truth.end_ms]
            parts += [
                _together(window, flock, number, lived[begin : begin + AT_ONCE], wanted, rng, held=held)
                for begin in range(0, len(lived), AT_ONCE)
            ]
        if ends is not None:
            ends.append(measured_at_end(window, from_ms(flock.truth.end_ms), flock.context))
    return _one_after_the_other(parts, [part.flock for part in parts])


def _together(
    window: Window,
    flock: FlockData,
    number: int,
    ats_ms: Sequence[int],
    wanted: Wanted,
    rng: np.random.Generator,
    *,
    held: bool,
) -> Samples:
    """Return the samples of one flock at some times of one day."""
    ats = [from_ms(at_ms) for at_ms in ats_ms]
    masked = [_held(rng, at) if held else {} for at in ats]
    is_forecast = [held and bool(rng.random() < FORECAST_SHARE) for _ in ats]
    tensors = {}
    for spec in wanted.inputs:
        ends = [at + _ahead(spec, is_forecast=unknown) for at, unknown in zip(ats, is_forecast, strict=True)]
        tensors[spec.name] = window.tensors(spec, ends, flock.context, masked).astype(np.float32)
    actual = _measured(window, flock, ats, wanted, timedelta(0))
    for column, (_, length_s) in enumerate(wanted.expected):
        known = [
            at_ms + length_s * 1000 <= flock.truth.end_ms and is_usual(flock, at_ms, at_ms + length_s * 1000)
            for at_ms in ats_ms
        ]
        actual[~np.array(known), column] = np.nan
    return Samples(
        tensors,
        np.array(ats_ms, np.int64),
        np.full(len(ats), number, np.int64),
        actual,
        _measured(window, flock, ats, wanted, -timedelta(days=1)) if wanted.yesterday else actual[:, :0],
        np.array([_weights(flock, at_ms, wanted.weight_days) for at_ms in ats_ms], np.float32),
    )


def _measured(window: Window, flock: FlockData, ats: Sequence[datetime], wanted: Wanted, shift: timedelta) -> F32:
    """Return what each expected feature became, [times, features]; NaN where too little of it was measured."""
    found = np.full((len(ats), len(wanted.expected)), np.nan, np.float32)
    for length_s, (columns, features) in wanted.by_length().items():
        until = [at + timedelta(seconds=length_s) + shift for at in ats]
        found[:, columns] = window.measures(features, length_s, until, flock.context)
    return found


def samples_of(farms: Farms, wanted: Wanted, *, per_day: int, held: bool, processes: int = 1) -> Samples:
    """Return samples of all flocks of some farms; see ``collect``. The number of processes changes nothing in them."""
    one = partial(_samples_of_one, farms, wanted, per_day, held)
    return joined(in_processes(processes, one, range(farms.count)))


def _samples_of_one(farms: Farms, wanted: Wanted, per_day: int, held: bool, number: int) -> Samples:  # noqa: FBT001 - mapped
    return collect(farms.flocks(number), wanted, per_day=per_day, seed=farms.seed + number, held=held)


def joined(parts: Sequence[Samples]) -> Samples:
    """Return samples one after the other; flocks are numbered through."""
    shift, flocks = 0, []
    for part in parts:
        flocks.append(part.flock + shift)
        shift += int(part.flock.max(initial=-1)) + 1
    return _one_after_the_other(parts, flocks)


def _one_after_the_other(parts: Sequence[Samples], flocks: Sequence[NDArray[np.int64]]) -> Samples:
    return Samples(
        {name: np.concatenate([part.tensors[name] for part in parts]) for name in parts[0].tensors},
        np.concatenate([part.at_ms for part in parts]),
        np.concatenate(flocks),
        np.concatenate([part.actual for part in parts]),
        np.concatenate([part.yesterday for part in parts]),
        np.concatenate([part.weight_g for part in parts]),
    )


def _instants(rng: np.random.Generator, per_day: int | Sequence[int], rhythm: Rhythm) -> Sequence[int]:
    """Return instants of a day in steps of 600 s; where only days are told, mostly their end."""
    if not isinstance(per_day, int):
        return per_day
    drawn = sorted(set(rng.integers(1, 145, per_day).tolist()))
    return [144, *drawn[:1]] if rhythm == "1 d" else drawn


def _ahead(spec: InputSpec, *, is_forecast: bool) -> timedelta:
    """Return how long after the window's end a grid ends: its own length where it is the time that is expected."""
    if spec.grid is None or spec.grid.end == "now":
        return timedelta(0)
    return timedelta(days=1000) if is_forecast else timedelta(seconds=spec.grid.step_s)


def _held(rng: np.random.Generator, at: datetime) -> dict[str, list[tuple[datetime, datetime]]]:
    """Return which signal is masked, and when, as while a warning stands or after it; mostly none."""
    share, is_often, hours, is_over, ago = rng.random(5).tolist()
    names = HELD_OFTEN if is_often < HELD_OFTEN_SHARE else SIGNALS
    signal = names[int(rng.integers(len(names)))]
    begin = at - timedelta(hours=hours * HELD_MOST_H)
    end = at if is_over < HELD_STILL_SHARE else max(at - timedelta(hours=ago * HELD_AFTER_H), begin)
    return {signal: [(begin, end)]} if share < HELD_SHARE else {}


def _weights(flock: FlockData, at_ms: int, days: Sequence[int]) -> list[float]:
    """Return the true weight at noon of the farm day so many days after that of ``at_ms``, and at slaughter."""
    if not days:
        return []
    today = (at_ms - flock.begin_ms) // DAY_MS
    last = len(flock.true_weight_g)
    then = [float(flock.true_weight_g[today + d]) if today + d < last else float("nan") for d in days]
    return [*then, flock.slaughter_weight_g]
