"""Recorded houses through the agent's own code, in memory: what is measured is the product.

Quality, windows, models, masks, states, delays and words are those of ``flockwatch replay``; only the files are left
out. What the models expected is tapped where the agent holds it against what was measured.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np

from agent.bundles import load_bundles
from agent.clock import FarmDays
from agent.commands import parse_flock_command
from agent.config import parse_config
from agent.domain import PUBLISHED_STATES, HouseState, Quality, SeriesKey, from_ms, to_ms
from agent.errors import BundleError
from agent.explain import direction_of
from agent.predict import Predictor
from agent.readings import Readings
from agent.replay import Replay
from agent.watch import HouseWatch
from models_onnx.evaluate.record import COMMANDS
from models_onnx.farm.farm import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from numpy.typing import NDArray

    from agent.commands import FlockCommand
    from agent.domain import Evidence, QualityInterval, WarningEvent
    from agent.manifest import Feature, Output
    from agent.watch import HouseResult, Outcome
    from agent.window import Measured
    from models_onnx.evaluate.record import HouseRecord

# all that watch a house: `cause` is not asked by default, and this shows whether it should be
USE = ["cause", "expect", "mortality", "weight"]
CONFIG = parse_config({"site": {"id": "evaluation", "timezone": "UTC"}, "models": {"use": USE}}, "evaluation")
DAYS = FarmDays(ZoneInfo("UTC"))
PREDICTED_AT_H = 8  # of the farm day: predictions are scored once a day, as a farmer would read them


@dataclass(slots=True)
class Raised:
    """A warning, from its rise to its clearing (None: it stood at the end)."""

    rule: str
    signal: str | None
    at_ms: int
    direction: int
    causes: tuple[tuple[str, float | None], ...]
    cleared_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Predicted:
    """A prediction of the mean live weight, g."""

    made_ms: int
    target_ms: int
    horizon: str
    p10: float
    p50: float
    p90: float


@dataclass(slots=True)
class Held:
    """What was held against one output of a model; columns at, actual, p10, p50, p90."""

    rows: list[tuple[int, float, float, float, float]] = field(default_factory=list)
    unsaid: int = 0  # times at which it could not say


@dataclass(slots=True)
class Played:
    """What the agent made of one house."""

    warnings: list[Raised] = field(default_factory=list)
    predictions: list[Predicted] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)


class _Tapped(HouseWatch):
    """A house as the agent watches it, with what it held against what kept for us."""

    tap: dict[str, defaultdict[str, Held]]  # by house; set for each play

    def _held_against(
        self,
        name: str,
        output: Output,
        feature: Feature,
        quantiles: NDArray[np.float64],
        actual: Measured,
        scale: float,
        result: HouseResult,
        at: datetime,
    ) -> Evidence:
        found = super()._held_against(name, output, feature, quantiles, actual, scale, result, at)
        if self.life.state is HouseState.ACTIVE:
            held = self.tap[self.house][output.name]
            if found.actual is None or found.low is None or found.expected is None or found.high is None:
                held.unsaid += 1
            else:
                held.rows.append((to_ms(at), found.actual, found.low, found.expected, found.high))
        return found


class _Collected:
    """Takes what comes out of a replay."""

    def __init__(self, played: dict[str, Played]) -> None:
        self._played = played
        self._standing: dict[tuple[str, str], Raised] = {}

    def add(self, outcome: Outcome) -> None:
        for event in outcome.warnings:
            self._warning(outcome.house, event)
        if outcome.at.hour == PREDICTED_AT_H and outcome.at.minute == 0:
            self._played[outcome.house].predictions += [
                Predicted(to_ms(p.made_at), to_ms(p.target_at), p.horizon, p.p10, p.p50, p.p90)
                for p in outcome.predictions
                if p.target == "weight_g"
            ]

    def _warning(self, house: str, event: WarningEvent) -> None:
        key = (house, event.standing.rule)
        shown = event.standing.state in PUBLISHED_STATES
        known = self._standing.get(key)
        if known is None and shown:
            direction = direction_of(event.standing.evidence) if event.standing.evidence is not None else 0
            causes = tuple((cause.cause, cause.probability) for cause in event.causes)
            raised = Raised(event.standing.rule, event.signal, to_ms(event.at), direction, causes)
            self._standing[key] = raised
            self._played[house].warnings.append(raised)
        elif known is not None and not shown:
            known.cleared_ms = to_ms(event.at)
            del self._standing[key]

    def add_quality(self, intervals: Iterable[QualityInterval]) -> None:
        """Leave them: warnings tell of sensors."""


class _Memory:
    """Houses of one time grid as blocks of readings."""

    def __init__(self, records: Sequence[HouseRecord]) -> None:
        self._keys = tuple(SeriesKey(record.house, name) for record in records for name in record.signals)
        parts = []
        number = 0
        for record in records:
            for values in record.signals.values():
                there = np.flatnonzero(np.isfinite(values))
                parts.append((record.at_ms[there], np.full(len(there), number, np.int32), values[there]))
                number += 1
        at_ms, key, value = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((key, at_ms))
        self._at_ms, self._key, self._value = at_ms[order], key[order], value[order]
        self.days: list[int] = np.unique(self._at_ms // DAY_MS).tolist()

    def blocks(self) -> Iterator[Readings]:
        for day in self.days:
            a, b = np.searchsorted(self._at_ms, (day * DAY_MS, (day + 1) * DAY_MS)).tolist()
            good = np.full(b - a, Quality.GOOD, np.uint8)
            at_ms = self._at_ms[a:b]
            yield Readings(self._keys, self._key[a:b], at_ms, self._value[a:b], good, np.zeros(b - a, np.uint8), at_ms)


def predictor_of(bundles: Path) -> Predictor:
    """Return the models that the agent runs by default, as they lie in ``bundles``.

    Raises:
        BundleError: one is not there, or does not load.
    """
    predictor = Predictor.load(load_bundles(bundles, CONFIG.models.use), DAYS)
    if predictor.refused:
        raise BundleError("\n".join(f"{refused.bundle}: {refused.reason}" for refused in predictor.refused))
    return predictor


def commands_of(records: Iterable[HouseRecord]) -> list[tuple[datetime, str, FlockCommand]]:
    """Return what people told, in order; a flock whose record stops leaves with it."""
    told = []
    for record in records:
        for one in record.told:
            if one.command["action"] in COMMANDS and one.at_ms <= record.end_ms:
                command = parse_flock_command(json.dumps(dict(one.command)))
                told.append((from_ms(one.at_ms), record.house, command))
        if record.flock_at(record.end_ms) is not None:
            told.append((from_ms(record.end_ms), record.house, parse_flock_command('{"action": "end"}')))
    told.sort(key=lambda command: command[0])
    return told


def play(records: Sequence[HouseRecord], predictor: Predictor) -> list[Played]:
    """Return what the agent makes of each house."""
    played = {record.house: Played() for record in records}
    tap: dict[str, defaultdict[str, Held]] = {record.house: defaultdict(Held) for record in records}
    watch = type("Tapped", (_Tapped,), {"tap": tap})
    replay = Replay(CONFIG, predictor, list(played), watch=watch)
    replay.run(_Memory(records), commands_of(records), _Collected(played), from_ms(max(r.end_ms for r in records)))
    for house, held in tap.items():
        played[house].held = dict(held)
    return list(played.values())
