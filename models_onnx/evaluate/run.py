"""The figures of both bundles on farms that nothing was trained, stopped or calibrated on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from agent.manifest import DAY_S, Judge
from agent.window import DAY_MS
from models_onnx.evaluate.baselines import WEIGHT_BASELINES
from models_onnx.farm.faults import FAULTS, Fault
from models_onnx.train import expect, weight
from models_onnx.train.bundle import said_by
from models_onnx.train.data import Farms, Samples, collect, flocks_of, joined
from models_onnx.train.judging import deviations, rates_of, traces, warnings_at
from models_onnx.train.net import pinball

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from agent.predict import Model
    from models_onnx.train.data import FlockData, Wanted
    from models_onnx.train.judging import Trace

    F64 = NDArray[np.float64]

SEED = 91_000  # none of the training's, and farms that were not looked at before the bundles were final
HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Size:
    """How much to simulate."""

    farms: int
    houses: int
    days: int
    per_day: int
    judged_houses: int
    houses_per_fault: int


FULL = Size(2, 40, 52, 5, 36, 8)
TINY = Size(1, 3, 12, 2, 2, 1)


@dataclass(frozen=True, slots=True)
class Expected:
    """How one output of ``expect`` did; errors are mean absolute ones, in its unit."""

    name: str
    unit: str
    instants: int
    flocks: int
    error: float
    forecast: float  # the error where nothing is known of the hour or day that is expected
    yesterday: float
    pinball: float
    interval80: float
    below: float  # the share of actual values under p10
    above: float
    false_below: float  # false warnings per house-day
    false_above: float


@dataclass(frozen=True, slots=True)
class Weighed:
    """How ``weight`` and the simple forecasts did at one horizon; errors in % of the true weight."""

    name: str
    instants: int
    flocks: int
    error: float
    error_g: float
    interval80: float
    baselines: dict[str, float]


@dataclass(frozen=True, slots=True)
class Found:
    """How a fault was found: of so many houses, after how many hours (median), by which output first."""

    fault: str
    houses: int
    found: int
    median_h: float
    first_by: str


def expected_figures(model: Model, samples: Samples, healthy: Sequence[Trace]) -> list[Expected]:
    """Return the figures of ``expect``, each output where yesterday is known too."""
    said, forecast = said_by(model, samples), said_by(model, blinded(samples))
    rates = rates_of(healthy, judges_of(model)) if healthy else {}
    figures = []
    for i, head in enumerate(expect.HEADS):
        actual, yesterday, q = samples.actual[:, i], samples.yesterday[:, i], said[head.name][:, 0, :]
        both = np.isfinite(actual) & np.isfinite(yesterday)
        actual, yesterday, q = actual[both], yesterday[both], q[both]
        below, above = rates.get(head.name, (float("nan"), float("nan")))
        figures.append(
            Expected(
                head.name,
                head.unit,
                int(both.sum()),
                len(np.unique(samples.flock[both])),
                float(np.abs(actual - q[:, 1]).mean()),
                float(np.abs(actual - forecast[head.name][both, 0, 1]).mean()),
                float(np.abs(actual - yesterday).mean()),
                pinball(actual, q),
                float(((actual >= q[:, 0]) & (actual <= q[:, 2])).mean()),
                float((actual < q[:, 0]).mean()),
                float((actual > q[:, 2]).mean()),
                below,
                above,
            )
        )
    return figures


def blinded(samples: Samples) -> Samples:
    """Return the samples as they are before the hour or day that is expected."""
    unknown = {name: np.full_like(samples.tensors[name], np.nan) for name in expect.GIVEN}
    return replace(samples, tensors={**samples.tensors, **unknown})


def judges_of(model: Model) -> dict[str, Judge]:
    """Return the limits that a bundle ships with."""
    return {o.name: o.judge or Judge(low=1, high=1) for o in model.manifest.output}


def temperature_persistence(samples: Samples) -> float:
    """Return the error of "the next hour is as warm as the last ten minutes"."""
    now = samples.tensors["tens"][:, -1, 0]
    actual = samples.actual[:, [head.name for head in expect.HEADS].index("temperature_1h")]
    return float(np.nanmean(np.abs(now - actual)))


def weighed_figures(model: Model, samples: Samples) -> list[Weighed]:
    """Return the figures of ``weight`` at its horizons, and so many days before the slaughter."""
    said, truth = said_by(model, samples)["weight_g"], weight.truth_of(samples).astype(np.float64)
    simple = {name: forecast(samples) for name, forecast in WEIGHT_BASELINES.items()}
    to_end = samples.tensors["facts"][:, weight.TO_SLAUGHTER]
    grown = samples.tensors["facts"][:, weight.AGE] >= 10
    cases = [(f"in {days} d, from day 10 on", 1 + i, grown) for i, days in enumerate(weight.HORIZON_DAYS)]
    cases += [
        (f"slaughter, {days} d before", 0, (to_end > days - 0.75) & (to_end <= days + 0.25)) for days in (2, 5, 7, 14)
    ]
    figures = []
    for name, horizon, which in cases:
        known = which & np.isfinite(truth[:, horizon])
        for forecast in simple.values():
            known &= np.isfinite(forecast[:, horizon])
        if not known.any():
            continue
        true, q = truth[known, horizon], said[known, horizon]
        errors = {n: float(np.abs(f[known, horizon] / true - 1).mean() * 100) for n, f in simple.items()}
        figures.append(
            Weighed(
                name,
                int(known.sum()),
                len(np.unique(samples.flock[known])),
                float(np.abs(q[:, 1] / true - 1).mean() * 100),
                float(np.abs(q[:, 1] - true).mean()),
                float(((true >= q[:, 0]) & (true <= q[:, 2])).mean()),
                errors,
            )
        )
    return figures


FAULT_DAY = 20
FAULTS_TRIED = ("water_line_blocked", "feed_outage", "ventilation_failure", "heater_failure", "disease")


def faults_found(model: Model, size: Size) -> list[Found]:
    """Return how the faults of the simulator are found, each in several houses of a test farm on day 20, at 10:00."""
    start = datetime(2027, 2, 1, tzinfo=UTC)
    begin_ms = round(start.timestamp() * 1000) + FAULT_DAY * DAY_MS + 10 * HOUR_MS
    n = size.houses_per_fault
    faults = [
        Fault(name, house, begin_ms, begin_ms + round(FAULTS[name].hours * HOUR_MS), FAULTS[name].severity)
        for number, name in enumerate(FAULTS_TRIED)
        for house in range(number * n, (number + 1) * n)
    ]
    days = FAULT_DAY + 9
    flocks = list(
        flocks_of(
            "test", houses=n * len(FAULTS_TRIED), days=days, seed=SEED + 50, start=start, clean=True, faults=faults
        )
    )
    found = []
    for name in FAULTS_TRIED:
        of_kind = [f for f in faults if f.name == name]
        first = [_first_warning(model, flocks[f.house], f) for f in of_kind]
        hits = [hit for hit in first if hit is not None]
        firsts = [head for _, head in hits]
        found.append(
            Found(
                name,
                len(of_kind),
                len(hits),
                float(np.median([hours for hours, _ in hits])) if hits else float("nan"),
                max(set(firsts), key=firsts.count) if firsts else "-",
            )
        )
    return found


def _first_warning(model: Model, flock: FlockData, fault: Fault) -> tuple[float, str] | None:
    """Return after how many hours the first warning rises while the fault lasts (and an hour), and of which output."""
    judges = judges_of(model)
    [trace] = traces([flock], model, expect.HEADS, range(FAULT_DAY - 2, FAULT_DAY + 8))
    hits = []
    for number, head in enumerate(expect.HEADS):
        off = deviations(trace, number, head.floor)
        for scores in (-off / judges[head.name].low, off / judges[head.name].high):
            late = fault.to_ms + (DAY_MS if head.length_s == DAY_S else HOUR_MS)
            hits += [
                ((at_ms - fault.from_ms) / HOUR_MS, head.name)
                for at_ms in warnings_at(trace, number, scores)
                if fault.from_ms <= at_ms <= late
            ]
    return min(hits, default=None)


def farms(size: Size) -> list[list[FlockData]]:
    """Return the flocks of each test farm."""
    of = Farms("test", size.farms, size.houses, size.days, SEED, rough=False)
    return [of.flocks(number) for number in range(size.farms)]


def samples_of(farms: Sequence[Sequence[FlockData]], wanted: Wanted, per_day: int) -> Samples:
    """Return instants of all flocks of those farms."""
    return joined([collect(flocks, wanted, per_day=per_day, seed=1 + i, held=False) for i, flocks in enumerate(farms)])


def healthy_traces(flocks: Sequence[FlockData], model: Model, size: Size) -> list[Trace]:
    """Return the courses of healthy flocks, every ten minutes."""
    return traces(flocks[: size.judged_houses], model, expect.HEADS)
