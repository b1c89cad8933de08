"""How far from its expectation a healthy flock strays: the limits of each output, by the agent's own rules.

Healthy flocks of validation farms are judged as the agent judges them, every ten minutes (the day's outputs every
hour), with its deadband and delays, the outputs that share a rule together, and their bands stretched as the house has
taught them by then (``agent.bands``). The limits are the smallest that raise no more false warnings than allowed, each
side of each output its equal part.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from agent.bands import RATE, learnt, stretched
from agent.bundles import load_bundle
from agent.deviation import has_stopped, is_flow, off_by, score_of
from agent.domain import Evidence, Standing, WarningState, from_ms
from agent.judge import judge
from agent.manifest import Judge
from agent.predict import Model
from agent.rules import kind_of, rule_by_default
from agent.window import DAY_MS
from models_onnx.train.bundle import said_by
from models_onnx.train.data import Wanted, collect, is_usual
from models_onnx.train.job import in_processes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from agent.manifest import Feature
    from models_onnx.train.data import Farms, FlockData

    F64 = NDArray[np.float64]

HOUR_S = 3600
# Limits are sought between these, in half bands. Our judgement: not nearer, however rare that is on farms like those of
# the training; other farms stray further. A flow that stops in a grown flock is about a dozen below
SMALLEST_OF_HOURS, SMALLEST_OF_DAYS, LARGEST = 4.0, 3.0, 12.0
STEPS = 8  # of each search: to within 1 % or so


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

    @property
    def rule(self) -> str:
        """The rule that the agent judges it by."""
        return f"{'trend' if self.length_s > HOUR_S else 'deviation'}-{self.signal}"


@dataclass(frozen=True, slots=True)
class Trace:
    """What one healthy flock did against what was expected, at instants 600 s apart; arrays [instants, heads, …]."""

    judged_ms: NDArray[np.int64]  # when the agent judges: a horizon after the window's end, by head [instants, heads]
    actual: NDArray[np.float32]
    quantiles: NDArray[np.float64]  # p10, p50 and p90 as the agent would show them
    days: float  # how long the agent watched, in house-days
    placed_ms: int


def traces(
    flocks: Iterable[FlockData], model: Model, heads: tuple[Head, ...], days: range = range(1000)
) -> list[Trace]:
    """Return the traces of those flocks that are told every 600 s, on some days of the recording."""
    found = []
    wanted = Wanted(model.manifest.input, tuple((head.of, head.length_s) for head in heads))
    for flock in flocks:
        if flock.rhythm != "600 s":
            continue
        samples = collect([flock], wanted, per_day=range(1, 145), seed=0, held=False, days=days)
        said = said_by(model, samples)
        quantiles = np.stack([said[head.name][:, 0, :] for head in heads], axis=1)
        usual = np.array([is_usual(flock, int(at), int(at) + 1) for at in samples.at_ms])
        ahead_ms = np.array([head.length_s * 1000 for head in heads])
        watched = float(usual.sum()) / 144
        judged_ms, placed_ms = samples.at_ms[:, None] + ahead_ms, flock.context.placed_at_ms
        shown = as_shown(heads, judged_ms, samples.actual, quantiles, placed_ms)
        found.append(Trace(judged_ms, samples.actual, shown, watched, placed_ms))
    return found


def as_shown(
    heads: Sequence[Head], judged_ms: NDArray[np.int64], actual: NDArray[np.float32], quantiles: F64, placed_ms: int
) -> F64:
    """Return what a model said as the agent would show it: each band as its past in this house has stretched it.

    All arrays [instants, heads, …], a house's first flock in the order of time. A band rests where the agent's does:
    before the rule's first day, between the hours of an output of days, where nothing was measured, and where a warning
    would be on its way by the smallest limit that an output may get.
    """
    is_daily = np.array([head.length_s > HOUR_S for head in heads])
    first_ms = np.array([placed_ms + rule_by_default(head.rule).first_day * DAY_MS for head in heads])
    learns = (judged_ms >= first_ms) & (~is_daily | (judged_ms % (HOUR_S * 1000) == 0))
    rates = np.array([RATE[kind_of(head.rule)] for head in heads])
    floors = np.array([head.floor for head in heads])
    flows = np.array([is_flow(head.of, head.length_s) for head in heads])
    limits = np.where(is_daily, SMALLEST_OF_DAYS, SMALLEST_OF_HOURS)
    shown = quantiles.copy()
    below, above = np.ones(len(heads)), np.ones(len(heads))
    for now, (p10, p50, p90), is_judged, bands in zip(
        actual.astype(np.float64), quantiles.transpose(0, 2, 1), learns, shown, strict=True
    ):
        low, high = stretched(p10, p50, p90, (below, above))
        bands[:, 0], bands[:, 2] = low, high
        stopped = flows & has_stopped(now, low, p50, floors)
        score = score_of(off_by(now, low, p50, high, floors), limits, limits, stopped)
        is_learnt = is_judged & (score < 1)
        after = learnt((below, above), now, low, p50, high, rates)
        below, above = np.where(is_learnt, after[0], below), np.where(is_learnt, after[1], above)
    return shown


def traces_of(farms: Farms, directory: Path, heads: tuple[Head, ...], processes: int) -> list[Trace]:
    """Return the traces of all flocks of some farms, judged by the bundle in ``directory``."""
    one = partial(_traces_of_one, farms, directory, heads)
    return [trace for found in in_processes(processes, one, range(farms.count)) for trace in found]


def _traces_of_one(farms: Farms, directory: Path, heads: tuple[Head, ...], number: int) -> list[Trace]:
    return traces(farms.flocks(number), Model(load_bundle(directory)), heads)


def held_by(traces: Sequence[Trace], number: int) -> float:
    """Return the share of actual values within p10 to p90 of one output."""
    known, inside = 0, 0
    for trace in traces:
        actual, q = trace.actual[:, number], trace.quantiles[:, number]
        known += int(np.isfinite(actual).sum())
        inside += int(((actual >= q[:, 0]) & (actual <= q[:, 2])).sum())
    return round(inside / known, 3) if known else float("nan")


def deviations(trace: Trace, number: int, floor: float) -> F64:
    """Return (actual - p50) in half bands of its side, at least ``floor`` wide; NaN where nothing was measured."""
    p10, p50, p90 = trace.quantiles[:, number].T
    return off_by(trace.actual[:, number].astype(np.float64), p10, p50, p90, floor)


def scores_of(trace: Trace, number: int, limits: Judge, *, is_flow: bool = False) -> F64:
    """Return the score of one output at each instant, 1 being the limit of its side; at least 1 where a flow stops."""
    low, middle = trace.quantiles[:, number, 0], trace.quantiles[:, number, 1]
    stopped = is_flow & has_stopped(trace.actual[:, number].astype(np.float64), low, middle, limits.floor)
    return score_of(deviations(trace, number, limits.floor), limits.low, limits.high, stopped)


def worst(scores: Sequence[F64]) -> F64:
    """Return the highest score at each instant, NaN only where none is known: as the agent takes a rule's outputs."""
    return np.asarray(np.fmax.reduce(np.stack(scores), axis=0))


def warnings_at(trace: Trace, head: Head, number: int, scores: F64) -> list[int]:
    """Return when the agent would raise a warning of the rule of ``head``, the ``number``-th; ms, event time."""
    is_daily = head.length_s > HOUR_S
    rule = rule_by_default(head.rule)
    judged_ms = trace.judged_ms[:, number]
    applies_ms = trace.placed_ms + rule.first_day * DAY_MS
    near = np.nan_to_num(scores, nan=1.0) >= 1 - rule.deadband
    looked = near | np.roll(near, 1) | np.roll(near, -1)
    if is_daily:
        due = judged_ms % (HOUR_S * 1000) == 0
        judged_ms, scores, looked = judged_ms[due], scores[due], looked[due]
    if not (scores[looked] >= 1).any():
        return []
    standing, found = Standing(rule.name, "house"), []
    for at_ms, score, is_near in zip(judged_ms.tolist(), scores.tolist(), looked.tolist(), strict=True):
        if not is_near and standing.state is WarningState.NORMAL:
            continue  # nothing can happen: saves most of the work
        evidence = Evidence(score) if np.isfinite(score) else Evidence(None, why="not measured")
        before = standing.state
        standing, _ = judge(rule, standing, evidence, from_ms(at_ms), applies=at_ms >= applies_ms)
        if standing.state is WarningState.ACTIVE and before is not WarningState.ACTIVE:
            found.append(at_ms)
    return found


def limit_of(traces: Sequence[Trace], head: Head, number: int, sign: int, allowed: float) -> float:
    """Return the smallest limit on one side (-1 below, 1 above) that raises at most ``allowed`` per house-day."""
    days = sum(trace.days for trace in traces)
    sided = [sign * deviations(trace, number, head.floor) for trace in traces]

    def rate(limit: float) -> float:
        each = (len(warnings_at(t, head, number, s / limit)) for t, s in zip(traces, sided, strict=True))
        return sum(each) / days

    low, high = SMALLEST_OF_DAYS if head.length_s > HOUR_S else SMALLEST_OF_HOURS, LARGEST
    if rate(low) <= allowed:
        return low
    for _ in range(STEPS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if rate(middle) <= allowed else (middle, high)
    return high


def limits_of(traces: Sequence[Trace], heads: Sequence[Head], allowed: float) -> dict[str, Judge]:
    """Return the limits of every output; ``allowed`` is the false warnings per house-day of each side of each."""
    found = {}
    for number, head in enumerate(heads):
        low, high = (limit_of(traces, head, number, sign, allowed) for sign in (-1, 1))
        low, high = (math.ceil(limit * 100) / 100 for limit in (low, high))  # not below what was found
        found[head.name] = Judge(low=low, high=high, floor=head.floor)
    return found


def rates_of(traces: Sequence[Trace], heads: Sequence[Head], judges: Mapping[str, Judge]) -> dict[str, float]:
    """Return the false warnings per house-day of every rule under given limits."""
    days = sum(trace.days for trace in traces)
    by_rule: dict[str, list[int]] = defaultdict(list)
    for number, head in enumerate(heads):
        by_rule[head.rule].append(number)
    rates = {}
    for rule, numbers in by_rule.items():
        head, raised = heads[numbers[0]], 0
        for trace in traces:
            scores = worst(
                [
                    scores_of(trace, n, judges[heads[n].name], is_flow=is_flow(heads[n].of, heads[n].length_s))
                    for n in numbers
                ]
            )
            raised += len(warnings_at(trace, head, numbers[0], scores))
        rates[rule] = raised / days
    return rates
