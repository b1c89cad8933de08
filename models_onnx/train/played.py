"""Simulated farms with faults, played through the agent's own ``HouseWatch``: what a model of the causes is told.

Each house is fed its readings and commands as a gateway would be, judged by the shipped expectations, and wherever a
warning stands its inputs are kept with the truth beside them. So what a number means here it means on a gateway.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from agent.bundles import load_bundle
from agent.commands import parse_flock_command
from agent.config import RuleOverride
from agent.domain import PUBLISHED_STATES, Quality, SeriesKey, from_ms, to_ms
from agent.predict import Predictor
from agent.quality import QualityJudge
from agent.readings import Readings
from agent.signals import signal_of
from agent.watch import HouseWatch, judge_instant
from agent.window import DAY_MS
from models_onnx.farm.campaign import campaign
from models_onnx.farm.farm import simulate
from models_onnx.farm.faults import Fault
from models_onnx.train.data import DAYS
from models_onnx.train.job import in_processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from agent.manifest import Manifest
    from models_onnx.farm.farm import Recording
    from models_onnx.farm.params import RangeSet

HOUR_MS = 3_600_000
AFTER_MS = 30 * HOUR_MS  # a day's sum shows a fault for a day after it
LONGEST_MS = 10 * DAY_MS  # of a fault that is played
# so long after the beginning of a fault a house is judged each hour, then every third, then every sixth: slow is slow
HOURLY_MS, THIRD_MS = DAY_MS, 4 * DAY_MS
HEALTHY_DAYS = 8  # so many are watched of a flock without a fault
LEARN_MS, TRUST_MS = 9 * DAY_MS, 2 * DAY_MS  # before it is judged it is fed so long; at last through the quality judge
DONE_H = 30.0  # after a raise no more is kept
AT_ONCE = RuleOverride(on_delay_s=0)  # on a grid of an hour, what is out of its course has been so for half of one
STRICTER = {  # a healthy house is watched by a stricter agent: it raises the same false warnings, but more of them
    "deviation": RuleOverride(threshold=0.7, on_delay_s=0),
    "trend": RuleOverride(threshold=0.7),
    "mortality": RuleOverride(threshold=0.002),
}
ODD_SHARE = 0.07  # of the flocks: some sensors part from their course together in a way that fits nothing
ODD, HEALTHY = "odd", ""  # in the place of a fault's name
ODD_SIGNALS = {  # how far they go, drawn up to this: a share of what is measured, or in the signal's unit
    "water": 0.6, "feed": 0.6, "temperature": 4.0, "humidity": 20.0, "co2": 1500.0, "ammonia": 15.0, "weight": 0.2,
    "ventilation": 40.0, "heating": 60.0,
}  # fmt: skip
ODD_RATIOS = frozenset({"water", "feed", "weight"})
ODD_H = (6.0, 96.0)
MISSING_SHARE, POOR_SHARE, POOR_MISSING_SHARE = 0.05, 0.2, 0.4  # of sensors; of houses, and of their sensors
TOLD = frozenset({"dead", "culled"})


@dataclass(frozen=True, slots=True)
class Campaign:
    """Farms to play: ``count`` of ``houses`` each, at times spread over the year, most flocks with a fault."""

    ranges: RangeSet
    count: int
    houses: int
    seed: int
    kinds: Mapping[str, float]  # of faults, each with how often it comes
    days: int = 45
    healthy: float = 0.18  # the share of the flocks without a fault: watched for false warnings, some with an oddity


@dataclass(slots=True)
class Instants:
    """``n`` instants at which a warning stood, in columns; a fault is "" where there was none."""

    tensors: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # [n, …] by input name
    fault: list[str] = field(default_factory=list)  # its name, with the signal that it strikes: sensor_drift-weight
    episode: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # one for each house
    since_raise_h: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def __len__(self) -> int:
        """Return how many instants there are."""
        return len(self.fault)


@dataclass(frozen=True, slots=True)
class Kept:
    """One instant at which a warning stood."""

    tensors: dict[str, NDArray[np.floating]]
    fault: str
    episode: int
    since_raise_h: float


def instants_of(farms: Campaign, expect: Path, asks: Manifest, processes: int = 1) -> Instants:
    """Return the instants of all farms; ``expect`` is the bundle that judges, ``asks`` says what the causes' one reads.

    The number of processes changes nothing in them.
    """
    one = partial(_kept_of, farms, expect, asks)
    return joined([row for part in in_processes(processes, one, range(farms.count)) for row in part])


def joined(kept: Sequence[Kept]) -> Instants:
    """Return what was kept in columns."""
    return Instants(
        {name: np.stack([row.tensors[name] for row in kept]).astype(np.float32) for name in kept[0].tensors},
        [row.fault for row in kept],
        np.array([row.episode for row in kept], np.int64),
        np.array([row.since_raise_h for row in kept], np.float32),
    )


def _kept_of(farms: Campaign, expect: Path, asks: Manifest, number: int) -> list[Kept]:
    """Return what was kept of one farm."""
    start = datetime(2026, 1, 3, tzinfo=UTC) + timedelta(days=365 * number / max(farms.count, 1))
    seed = farms.seed + number
    share, days = 1 - farms.healthy, farms.days
    faults = campaign(farms.houses, seed, ranges=farms.ranges, start=start, days=days, share=share, kinds=farms.kinds)
    recording = simulate(farms.houses, days, seed, ranges=farms.ranges, faults=faults, start=start, to_slaughter=False)
    predictor = Predictor.load([load_bundle(expect)], DAYS)
    struck = {fault.house: fault for fault in faults}
    struck |= _oddities(recording, [house for house in range(farms.houses) if house not in struck], seed)
    kept: list[Kept] = []
    for house in range(farms.houses):
        episode = number * farms.houses + house
        rng = np.random.default_rng([seed, 17, house])
        kept += _House(recording, house, predictor, asks, struck.get(house), rng).play(episode)
    return kept


def _oddities(recording: Recording, houses: Sequence[int], seed: int) -> dict[int, Fault]:
    """Bend two or three unrelated signals of some houses for a while; return where and when, as if it were a fault.

    A share of all flocks, taken from those without a fault: what a model learns to call unknown.
    """
    found = {}
    rng = np.random.default_rng([seed, 23])
    share = ODD_SHARE * len(recording.farm_of) / max(len(houses), 1)
    for house in houses:
        flock = next(flock for flock in recording.flocks if flock.house == house)
        begin = flock.placed_ms + round(rng.uniform(6, 30) * DAY_MS)
        end = begin + round(rng.uniform(*ODD_H) * HOUR_MS)
        names = rng.choice(list(ODD_SIGNALS), int(rng.integers(2, 4)), replace=False).tolist()
        sizes, up_h = rng.uniform(0.3, 1.0, len(names)) * rng.choice([-1, 1], len(names)), rng.uniform(0, 24)
        if rng.random() >= share:
            continue
        course = np.clip((recording.at_ms - begin) / max(up_h * HOUR_MS, 1), 0, 1) * (recording.at_ms < end)
        for name, size in zip(names, sizes.tolist(), strict=True):
            values, by = recording.signals[name], size * ODD_SIGNALS[name] * course
            values[house] = np.maximum(values[house] * (1 + by) if name in ODD_RATIOS else values[house] + by, 0)
        found[house] = Fault(ODD, house, begin, end, 1.0)
    return found


class _House:
    """One house of a recording, before the agent."""

    def __init__(
        self,
        recording: Recording,
        house: int,
        predictor: Predictor,
        asks: Manifest,
        fault: Fault | None,
        rng: np.random.Generator,
    ) -> None:
        self._predictor, self._asks, self._fault = predictor, asks, fault
        self._at_ms = recording.at_ms
        share = POOR_MISSING_SHARE if rng.random() < POOR_SHARE else MISSING_SHARE
        spared = TOLD if fault is None else TOLD | {fault.signal}  # a sensor that is to be struck is there
        names = [name for name in recording.signals if rng.random() >= share or name in spared]
        self._keys = tuple(SeriesKey("house", name) for name in names)
        self._values = np.stack([recording.signals[name][house] for name in names])
        self._told = sorted((t for t in recording.told if t.house == house), key=lambda t: t.at_ms)
        self._flock = next(flock for flock in recording.flocks if flock.house == house)
        self._quality = QualityJudge(lambda key: signal_of(key.signal))
        self._watch = HouseWatch(
            "house",
            signal=lambda key: signal_of(key.signal),
            days=DAYS,
            manifests=[*(model.manifest for model in predictor.models), asks],
            overrides=STRICTER if fault is None else {"deviation": AT_ONCE},
            rhythm_s=self._quality.rhythm_s,
            started_monotonic=float("-inf"),
        )
        self._when, self._said = rng.random(), 0
        self._first_ms = next(self._instants(), int(self._at_ms[-1]))
        self._fed = int(np.searchsorted(self._at_ms, self._first_ms - LEARN_MS, "right"))

    def play(self, episode: int) -> list[Kept]:
        """Let the house live, and keep what a model of the causes is told wherever a warning stands."""
        kept = []
        for at_ms in self._instants():
            self._feed(at_ms)
            at = from_ms(at_ms)
            judge_instant([self._watch], self._predictor, at, float("inf"))
            raised = [
                s.raised_at
                for s in self._watch.standings.values()
                if s.state in PUBLISHED_STATES and s.rule.partition("-")[0] in {"deviation", "trend", "mortality"}
                if s.raised_at is not None and s.since is not None and self._belongs(to_ms(s.since))
            ]
            if not raised:
                continue
            since_h = (at - min(raised)) / timedelta(hours=1)
            if since_h > DONE_H and self._fault is not None:
                break
            inputs = self._watch.cause_inputs(self._asks.input, at)
            if inputs is not None:
                name = HEALTHY if self._fault is None else _called(self._fault)
                kept.append(Kept(dict(inputs.tensors), name, episode, since_h))
        return kept

    def _belongs(self, since_ms: int) -> bool:
        """Tell whether what left its course then did so for the fault: not before it, not long after it."""
        fault = self._fault
        return fault is None or fault.from_ms - HOUR_MS <= since_ms <= fault.to_ms + AFTER_MS

    def _instants(self) -> Iterator[int]:
        """Yield when the house is judged."""
        first = self._flock.placed_ms + 2 * DAY_MS
        last = min(self._flock.end_ms, int(self._at_ms[-1]))
        if self._fault is None:
            first += round(self._when * max(last - first - HEALTHY_DAYS * DAY_MS, 0))
            last = min(last, first + HEALTHY_DAYS * DAY_MS)
        else:
            first = max(first, self._fault.from_ms)
            last = min(last, self._fault.to_ms + AFTER_MS, first + LONGEST_MS)
        at_ms = -(-first // HOUR_MS) * HOUR_MS
        while at_ms < last:
            yield at_ms
            since = 0 if self._fault is None else at_ms - first
            at_ms += HOUR_MS * (1 if since < HOURLY_MS else 3 if since < THIRD_MS else 6)

    def _feed(self, until_ms: int) -> None:
        """Give the agent what was read and said since the last time, a day at a time."""
        until = int(np.searchsorted(self._at_ms, until_ms, "right"))
        while self._fed < until:
            stop = min(until, self._fed + 144)
            while self._said < len(self._told) and self._told[self._said].at_ms <= self._at_ms[stop - 1]:
                told = self._told[self._said]
                self._said += 1
                self._watch.apply(parse_flock_command(json.dumps(dict(told.command))), from_ms(told.at_ms))
            part = self._values[:, self._fed : stop].T
            step, key = np.nonzero(np.isfinite(part))
            at_ms = self._at_ms[self._fed : stop][step]
            good = np.full(len(key), Quality.GOOD, np.uint8)
            readings = Readings(self._keys, key.astype(np.int32), at_ms, part[step, key], good, good, at_ms)
            self._fed = stop
            if int(self._at_ms[stop - 1]) < self._first_ms - TRUST_MS:
                self._watch.observe(readings, 0.0)
                continue
            judged, intervals = self._quality.judge(readings)
            self._watch.observe(judged, 0.0)
            self._watch.note(intervals)


def _called(fault: Fault) -> str:
    return fault.name if fault.signal is None else f"{fault.name}-{fault.signal}"


def raises(instants: Instants, hours: Sequence[float]) -> NDArray[np.intp]:
    """Return for each episode and each of ``hours`` the first instant that is at least so long after the raise."""
    found = []
    for episode in np.unique(instants.episode).tolist():
        rows = np.flatnonzero(instants.episode == episode)
        for hour in hours:
            later = rows[instants.since_raise_h[rows] >= hour]
            if len(later):
                found.append(int(later[0]))
    return np.unique(np.array(found, np.intp))
