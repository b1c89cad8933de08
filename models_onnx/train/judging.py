"""How far from its expectation a healthy flock strays: the limits of each output, by the agent's own rules.

Healthy flocks of the validation farms are judged as the agent judges them, every ten minutes (the day's outputs every
hour), with its deadband and delays; a limit is the smallest that raises no more false warnings than allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent.domain import Evidence, Standing, WarningState, from_ms
from agent.judge import judge
from agent.manifest import DAY_S, Judge
from agent.rules import rule_by_default
from agent.window import DAY_MS
from models_onnx.train.data import Wanted, collect, is_usual

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from agent.manifest import Feature
    from agent.predict import Model
    from models_onnx.train.data import FlockData

HOUR_S = 3600
ALLOWED = 0.003  # false warnings per house-day, for each output and side: twelve of them make 0.036
SMALLEST, LARGEST = 1.5, 30.0  # limits are sought in this range, in half bands
STEPS = 9  # of the search: to within 1 % or so


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


@dataclass(frozen=True, slots=True)
class Trace:
    """What one healthy flock did against what was expected, at instants 600 s apart; arrays [instants, heads, …]."""

    heads: tuple[Head, ...]
    judged_ms: NDArray[np.int64]  # when the agent judges: a horizon after the window's end, by head [instants, heads]
    actual: NDArray[np.float32]
    quantiles: NDArray[np.float64]
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
        houses = [{name: values[i] for name, values in samples.tensors.items()} for i in range(len(samples))]
        result = model.run(houses)
        quantiles = np.stack([result.outputs[head.name][:, 0, :] for head in heads], axis=1)
        usual = np.array([is_usual(flock, int(at), int(at) + 1) for at in samples.at_ms])
        ahead_ms = np.array([head.length_s * 1000 for head in heads])
        watched = float(usual.sum()) / 144
        found.append(
            Trace(
                heads,
                samples.at_ms[:, None] + ahead_ms,
                samples.actual,
                quantiles,
                watched,
                flock.context.placed_at_ms,
            )
        )
    return found


def deviations(trace: Trace, number: int, floor: float) -> NDArray[np.float64]:
    """Return (actual - p50) in half bands of its side, at least ``floor`` wide; NaN where nothing was measured."""
    p10, p50, p90 = trace.quantiles[:, number].T
    off = trace.actual[:, number] - p50
    return np.asarray(off / np.maximum(np.where(off < 0, p50 - p10, p90 - p50), floor))


def warnings_at(trace: Trace, number: int, scores: NDArray[np.float64]) -> list[int]:
    """Return when the agent would raise a warning for ``scores``, 1 being the limit; ms, event time."""
    head = trace.heads[number]
    is_daily = head.length_s == DAY_S
    rule = rule_by_default(f"{'trend' if is_daily else 'deviation'}-{head.signal}")
    judged_ms = trace.judged_ms[:, number]
    applies_ms = trace.placed_ms + rule.first_day * DAY_MS
    near = np.convolve(np.nan_to_num(scores, nan=1.0) >= 1 - rule.deadband, np.ones(3), "same") > 0
    standing, found = Standing(rule.name, "house"), []
    for at_ms, score, is_near in zip(judged_ms.tolist(), scores.tolist(), near.tolist(), strict=True):
        if is_daily and at_ms % (HOUR_S * 1000):
            continue
        if not is_near and standing.state is WarningState.NORMAL:
            continue  # nothing can happen: saves most of the work
        evidence = Evidence(score) if np.isfinite(score) else Evidence(None, why="not measured")
        before = standing.state
        standing, _ = judge(rule, standing, evidence, from_ms(at_ms), applies=at_ms >= applies_ms)
        if standing.state is WarningState.ACTIVE and before is not WarningState.ACTIVE:
            found.append(at_ms)
    return found


def raised(trace: Trace, number: int, scores: NDArray[np.float64]) -> int:
    """Return how many warnings the agent would raise for ``scores``."""
    return len(warnings_at(trace, number, scores))


def limit_of(traces: Sequence[Trace], number: int, floor: float, sign: int, allowed: float) -> float:
    """Return the smallest limit on one side (-1 below, 1 above) that raises at most ``allowed`` per house-day."""
    days = sum(trace.days for trace in traces)
    sided = [sign * deviations(trace, number, floor) for trace in traces]

    def rate(limit: float) -> float:
        return sum(raised(t, number, s / limit) for t, s in zip(traces, sided, strict=True)) / days

    low, high = SMALLEST, LARGEST
    if rate(low) <= allowed:
        return low
    for _ in range(STEPS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if rate(middle) <= allowed else (middle, high)
    return high


def limits_of(traces: Sequence[Trace], allowed: float = ALLOWED) -> dict[str, Judge]:
    """Return the limits of every output."""
    found = {}
    for number, head in enumerate(traces[0].heads):
        low, high = (limit_of(traces, number, head.floor, sign, allowed) for sign in (-1, 1))
        found[head.name] = Judge(low=round(low, 2), high=round(high, 2), floor=head.floor)
    return found


def rates_of(traces: Sequence[Trace], judges: dict[str, Judge]) -> dict[str, tuple[float, float]]:
    """Return the false warnings per house-day (below, above) of every output under given limits."""
    days = sum(trace.days for trace in traces)
    rates = {}
    for number, head in enumerate(traces[0].heads):
        judge_of = judges[head.name]
        below, above = 0, 0
        for trace in traces:
            off = deviations(trace, number, judge_of.floor)
            below += raised(trace, number, -off / judge_of.low)
            above += raised(trace, number, off / judge_of.high)
        rates[head.name] = (below / days, above / days)
    return rates
