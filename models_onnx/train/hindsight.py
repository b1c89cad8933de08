"""What a bundle says of the flocks of a lake, and what came true, as the agent's own replay has it: no look ahead."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.commands import End, parse_flock_command
from agent.domain import HouseState, WarningState
from agent.export import command_of
from agent.manifest import horizon_s
from agent.predict import Due, Predictor
from agent.replay import Replay
from agent.signals import base_of
from agent.watch import KNOWN_SHARE
from models_onnx.train.lake import LakeRecording, changes_of
from models_onnx.train.net import QUANTILES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from agent.commands import FlockCommand
    from agent.config import Config
    from agent.domain import QualityInterval
    from agent.predict import Model
    from agent.watch import HouseWatch, Outcome
    from models_onnx.train.lake import Tables

    Told = tuple[datetime, str, FlockCommand]

FlockName = tuple[str, str, str]
"""Site, house, flock."""

PREDICTED_WITHIN = timedelta(days=14)  # of the end: what was said earlier is not what anybody acts on
FACTS = ("placed_on", "birds_placed", "strain", "sex", "parent_age_weeks", "planned_end_on")


@dataclass(slots=True)
class Hindsight:
    """By output rows of p10, p50, p90 and what came true, and the flock of each row; and when each flock ended."""

    rows: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)
    flocks: dict[str, list[FlockName]] = field(default_factory=dict)
    ended: dict[FlockName, datetime] = field(default_factory=dict)

    def add(self, output: str, flock: FlockName, said: Iterable[float], actual: float) -> None:
        """Take one value that came true."""
        self.rows.setdefault(output, []).append((*map(float, said), float(actual)))
        self.flocks.setdefault(output, []).append(flock)

    def of(self, output: str, wanted: set[FlockName]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the rows [n, 4] of some flocks, and the number of each row's flock [n]."""
        number = {flock: i for i, flock in enumerate(sorted(wanted))}
        flocks = self.flocks.get(output, [])
        chosen = [i for i, flock in enumerate(flocks) if flock in number]
        rows = np.array([self.rows[output][i] for i in chosen], np.float64).reshape(-1, len(QUANTILES) + 1)
        return rows, np.array([number[flocks[i]] for i in chosen], np.int64)


def look_back(tables: Tables, site: str, config: Config, model: Model, hindsight: Hindsight) -> None:
    """Play a site's history through ``model`` as its only one, and add what it said and what came true."""
    told = commands_of(changes_of(tables, site))
    if not told:
        return
    recording = LakeRecording.of(tables, site, since=told[0][0] - timedelta(days=1))
    houses = sorted({house for _, house, _ in told} | {key.house for key in recording.keys})
    replay = Replay(config, Predictor((model,), (), config.site.days), houses)
    looker = _Looker(site, model, replay, hindsight)
    until = max(told[-1][0], recording.until if recording.days else told[-1][0])
    replay.run(recording, told, looker, until, looker.see)
    for at, house, command in told:
        if isinstance(command, End) and command.flock is not None:
            looker.ended(house, command.flock, command.at or at, command.slaughter_weight_g)


def commands_of(changes: Iterable[dict[str, Any]]) -> list[Told]:
    """Return the flock commands that made the changes of a site's ``flocks`` stream, in order.

    A lake may begin in the midst of a flock: its facts stand in each of its rows, so it is placed by the first one.
    """
    found: list[Told] = []
    placed: set[tuple[str, str]] = set()
    for row in changes:
        house, flock = row["house"], row["flock"]
        if (flock is not None and (house, flock) not in placed) or row["action"] == "place":
            placed.add((house, flock))
            facts = {name: row[name] for name in FACTS}
            found.append((row["at"], house, _command({"action": "place", "flock": flock, **facts})))
        said = command_of(row, row["ended_at"])
        if said is not None:
            found.append((row["at"], house, _command(said)))
    return found


def _command(said: dict[str, Any]) -> FlockCommand:
    return parse_flock_command(json.dumps({name: value for name, value in said.items() if value is not None}))


class _Looker:
    """Looks on while one site is replayed."""

    def __init__(self, site: str, model: Model, replay: Replay, hindsight: Hindsight) -> None:
        self._site = site
        self._model = model
        self._replay = replay
        self._hindsight = hindsight
        self._predicted: dict[FlockName, list[tuple[str, datetime, datetime, tuple[float, ...]]]] = {}

    def see(self, at: datetime) -> None:
        """Hold what the model expects against what was measured, each full hour."""
        manifest = self._model.manifest
        if manifest.task != "expect" or at.minute:
            return
        due = Due(self._model, tuple(manifest.output))
        watches = [watch for watch in self._replay.watches.values() if watch.life.state is HouseState.ACTIVE]
        asked = [(watch, horizon, inputs) for watch in watches for horizon, inputs in watch.features(due, at)]
        if not asked:
            return
        said = self._model.run([inputs.tensors for _, _, inputs in asked])
        for row, (watch, horizon, inputs) in enumerate(asked):
            if horizon is None or said.set_aside[row] is not None or watch.life.flock is None:
                continue
            flock = (self._site, watch.house, watch.life.flock.flock)
            for output, feature, actual in watch.actuals(manifest, horizon, at):
                known = inputs.known_share(feature.signal, horizon_s(horizon) or 0)
                if not np.isfinite(actual.value) or known < KNOWN_SHARE or _stands(watch, feature.signal):
                    continue  # what the agent could not judge, and what it warned of: a fault is not the usual
                quantiles = said.outputs[output.name][row, output.horizons.index(horizon)]
                told = (quantiles[output.quantiles.index(q)] for q in QUANTILES)
                self._hindsight.add(output.name, flock, told, actual.value)

    def add(self, outcome: Outcome) -> None:
        """Keep what the model predicted, its bands as they were its own, until it is known what came true."""
        outputs = {output.target: output.name for output in self._model.manifest.output}
        for one in outcome.predictions:
            flock = (self._site, one.house, one.flock or "")
            own = tuple(one.p50 + (p - one.p50) / one.stretch for p in (one.p10, one.p50, one.p90))
            said = (outputs[one.target], one.made_at, one.target_at, own)
            self._predicted.setdefault(flock, []).append(said)

    def add_quality(self, intervals: Iterable[QualityInterval]) -> None:
        """Pass over the quality of readings."""

    def ended(self, house: str, flock: str, at: datetime, weight_g: float | None) -> None:
        """Hold what was predicted of a flock's last day against what the slaughterhouse weighed."""
        name = (self._site, house, flock)
        self._hindsight.ended[name] = at
        days = self._replay.watches[house].days
        for output, made_at, target_at, told in self._predicted.pop(name, ()):
            is_last_day = days.date_of(target_at) == days.date_of(at)
            if weight_g is not None and is_last_day and at - made_at <= PREDICTED_WITHIN:
                self._hindsight.add(output, name, told, weight_g)


def _stands(watch: HouseWatch, signal: str) -> bool:
    """Tell whether a warning about a signal stands, or may soon."""
    return any(
        standing.state is not WarningState.NORMAL and base_of(rule.partition("-")[2]) == signal
        for rule, standing in watch.standings.items()
    )
