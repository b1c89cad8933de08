"""What a daily look finds: breed curves, yesterday, EWMA and CUSUM charts, thresholds on the dead.

They see each farm day's totals (water, feed, dead) and the scale's mean when the day is over; the dead stand under the
day on which people tell them. Limits are assumed unless a source is named. S and F numbers: docs/sources.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent.strains import strain_of
from agent.window import curves_of
from models_onnx.evaluate.baselines.alarms import Alarm
from models_onnx.evaluate.record import STEPS_A_DAY, interfered, live_birds
from models_onnx.farm.farm import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from models_onnx.evaluate.record import HouseRecord

    F64 = NDArray[np.float64]
    Bools = NDArray[np.bool_]

FROM_DAY, DEAD_FROM_DAY = 4, 8  # chicks settle in; the first week's dead are no outbreak
KNOWN_SHARE = 0.8  # of a day's readings
CURVE_LIMITS = {"water": (0.75, 1.35), "feed": (0.82, 1.18), "weight": (0.85, 1.12)}  # of the breed's curve
YESTERDAY_LIMIT = {"water": 0.15, "feed": 0.15, "weight": 0.06}  # log of the change beyond the curve's own
EWMA_SHARE, EWMA_LIMIT = 0.3, 3.0  # the usual chart: lambda, and limits in sigma (common practice)
CUSUM_SLACK, CUSUM_LIMIT = 0.5, 5.0  # the usual chart: k and h in sigma (common practice)
LEAST_SD = {"water": 0.03, "feed": 0.03, "weight": 0.02}
LEVEL_DAYS = 4  # so many days make a flock's own level
WATER_TO_FEED = 1.8  # l/kg [S44, S45]
APART_DAYS = 1  # alarms on days next to each other are one


@dataclass(frozen=True, slots=True)
class Days:
    """A flock by farm day, day 0 first; NaN where not wholly measured, or people interfered."""

    begin_ms: int  # of day 0
    water: F64  # l per living bird
    feed: F64  # kg per living bird
    weight: F64  # g
    dead_share: F64  # told on that day, of the living
    curve: dict[str, F64]  # what the breed's curves say of each


def days_of(record: HouseRecord) -> Iterator[Days]:
    """Yield each flock by day."""
    live = live_birds(record)
    usual = np.ones(len(record.at_ms), np.bool_)
    for begin, end in interfered(record):
        usual &= (record.at_ms < begin) | (record.at_ms > end)
    for flock in record.flocks:
        begin_ms = flock.placed_ms // DAY_MS * DAY_MS
        first = int(np.searchsorted(record.at_ms, begin_ms, side="right"))
        last = int(np.searchsorted(record.at_ms, min(flock.end_ms, record.end_ms), side="right"))
        count = (last - first) // STEPS_A_DAY
        if count < 1 or record.at_ms[first] - begin_ms > DAY_MS // STEPS_A_DAY:
            continue
        rows = slice(first, first + count * STEPS_A_DAY)

        def by_day(values: F64, rows: slice = rows) -> F64:
            return values[rows].reshape(-1, STEPS_A_DAY)

        alive = np.nanmean(np.nan_to_num(by_day(live), nan=float(flock.birds_placed)), axis=1)
        whole = by_day(usual.astype(np.float64)).min(axis=1) > 0
        eaten = curves_of(strain_of(flock.strain))
        table = np.clip(np.arange(count), 0, len(eaten[0]) - 2)
        feed_curve = np.maximum(np.diff(eaten[1])[table], 1.0) / 1000
        weight = by_day(record.signals["weight"])
        known = np.isfinite(weight)
        mean = np.where(known, weight, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        yield Days(
            begin_ms,
            _total(by_day(record.signals["water"]), whole) / alive,
            _total(by_day(record.signals["feed"]), whole) / alive,
            np.where(known.any(axis=1) & whole, mean, np.nan),
            np.nansum(by_day(record.signals["dead"]), axis=1) / alive,
            {"water": feed_curve * WATER_TO_FEED, "feed": feed_curve, "weight": eaten[0][table]},
        )


def _total(values: F64, whole: Bools) -> F64:
    known = np.isfinite(values).mean(axis=1)
    return np.where((known >= KNOWN_SHARE) & whole, np.nansum(values, axis=1), np.nan)


def detections(record: HouseRecord) -> dict[str, list[Alarm]]:
    """Return the alarms of every daily detector by its name."""
    found: dict[str, list[Alarm]] = {name: [] for name in DETECTORS}
    for days in days_of(record):
        for name, detector in DETECTORS.items():
            for signal, condition in detector(days):
                found[name] += _alarms(name, signal, days.begin_ms, condition)
    return found


def _alarms(rule: str, signal: str, begin_ms: int, condition: Bools) -> Iterator[Alarm]:
    """Yield one alarm for each run of days, known when its first day is over."""
    which = np.flatnonzero(condition)
    for run in np.split(which, np.flatnonzero(np.diff(which) > APART_DAYS) + 1):
        if len(run):
            yield Alarm(rule, signal, begin_ms + (int(run[0]) + 1) * DAY_MS, begin_ms + (int(run[-1]) + 1) * DAY_MS)


def _from(day: int, condition: Bools) -> Bools:
    return np.asarray(condition & (np.arange(len(condition)) >= day))


def _logs(days: Days) -> Iterable[tuple[str, F64]]:
    """Yield each signal as the log of its ratio to the breed's curve."""
    with np.errstate(divide="ignore", invalid="ignore"):
        for signal, values in (("water", days.water), ("feed", days.feed), ("weight", days.weight)):
            yield signal, np.where(values > 0, np.log(values / days.curve[signal]), np.nan)


def breed_curve(days: Days) -> Iterator[tuple[str, Bools]]:
    """Alarm outside fixed limits around the breed's curve."""
    with np.errstate(invalid="ignore"):
        for signal, ratio in _logs(days):
            low, high = np.log(CURVE_LIMITS[signal])
            yield signal, _from(FROM_DAY, (ratio < low) | (ratio > high))


def same_as_yesterday(days: Days) -> Iterator[tuple[str, Bools]]:
    """Alarm where a day differs from the day before by more than the curve does, and a bit."""
    with np.errstate(invalid="ignore"):
        for signal, ratio in _logs(days):
            change = np.diff(ratio, prepend=np.nan)
            yield signal, _from(FROM_DAY, np.abs(change) > YESTERDAY_LIMIT[signal])


def _standardized(signal: str, ratio: F64) -> Iterator[tuple[int, float]]:
    """Yield (day, how far from the flock's own level so far in sigma); both from the days before only."""
    known: list[float] = []
    for day, value in enumerate(ratio.tolist()):
        if not np.isfinite(value) or day < FROM_DAY - 1:
            continue
        if len(known) >= LEVEL_DAYS:
            level, steps = float(np.median(known[-7:])), np.abs(np.diff(known))
            sd = max(1.4826 * float(np.median(steps)) / 2**0.5, LEAST_SD[signal])
            yield day, (value - level) / sd
        known.append(value)


def ewma(days: Days) -> Iterator[tuple[str, Bools]]:
    """Alarm by an EWMA chart of each signal against the flock's own level; begun anew after an alarm."""
    limit = EWMA_LIMIT * (EWMA_SHARE / (2 - EWMA_SHARE)) ** 0.5
    for signal, ratio in _logs(days):
        condition, mean = np.zeros(len(ratio), np.bool_), 0.0
        for day, off in _standardized(signal, ratio):
            mean += EWMA_SHARE * (off - mean)
            if abs(mean) > limit:
                condition[day], mean = True, 0.0
        yield signal, condition


def cusum(days: Days) -> Iterator[tuple[str, Bools]]:
    """Alarm by a two-sided CUSUM chart of each signal against the flock's own level; begun anew after an alarm."""
    for signal, ratio in _logs(days):
        condition, low, high = np.zeros(len(ratio), np.bool_), 0.0, 0.0
        for day, off in _standardized(signal, ratio):
            low, high = max(low - off - CUSUM_SLACK, 0.0), max(high + off - CUSUM_SLACK, 0.0)
            if max(low, high) > CUSUM_LIMIT:
                condition[day], low, high = True, 0.0, 0.0
        yield signal, condition


def dead_above(share: float) -> Detector:
    """Return a plain threshold on the day's dead."""

    def detector(days: Days) -> Iterator[tuple[str, Bools]]:
        yield "dead", _from(DEAD_FROM_DAY, days.dead_share >= share)

    return detector


def dead_twice(days: Days) -> Iterator[tuple[str, Bools]]:
    """Alarm where more than twice as many are dead as in the median of the seven days before."""
    condition = np.zeros(len(days.dead_share), np.bool_)
    for day in range(DEAD_FROM_DAY, len(condition)):
        usual = float(np.median(days.dead_share[day - 7 : day]))
        condition[day] = days.dead_share[day] >= 2 * max(usual, 1e-4)
    yield "dead", condition


if TYPE_CHECKING:
    from collections.abc import Callable

    Detector = Callable[[Days], Iterator[tuple[str, Bools]]]

DETECTORS: dict[str, Detector] = {
    "breed curve": breed_curve,
    "same as yesterday": same_as_yesterday,
    "EWMA": ewma,
    "CUSUM": cusum,
    "0.15 % dead in a day": dead_above(0.0015),
    "0.30 % dead in a day": dead_above(0.0030),
    "twice the usual dead": dead_twice,
}
