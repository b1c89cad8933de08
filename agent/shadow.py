"""Bundles on trial: they run beside those that speak, on the same windows; what they say is kept apart, never shown."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agent.watch import HouseWatch, Outcome, judge_instant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from agent.config import Config
    from agent.domain import Standing
    from agent.fitness import FitDay, FitFlock
    from agent.predict import Predictor

SLOW_RUNS = 20
"""So often a shadow may be slower than its max_runtime_ms before it is let go: a trial must not cost the house."""


class ShadowWatch(HouseWatch):
    """What shadows would say of a house; window, sensors and flock are those of the watch ``beside``."""

    def __init__(self, beside: HouseWatch, config: Config, predictor: Predictor) -> None:
        super().__init__(
            beside.house,
            signal=config.signal,
            days=beside.days,
            manifests=[model.manifest for model in predictor.models],
            overrides=config.overrides_of(beside.house),
            rhythm_s=lambda _: None,
            started_monotonic=0.0,
            references=predictor.references(),
            calibration=beside.calibration,
            called=beside.called,
            locale=beside.locale,
        )
        self._beside = beside
        foresees = any(model.manifest.foresight for model in predictor.models)
        self._own_rules = {*self._spans, *(["mortality"] if foresees else [])}
        self._models = {(model.manifest.name, model.manifest.version) for model in predictor.models}
        self.look_with(beside)

    def restore_shadow(self, standings: Iterable[Standing], days: Iterable[FitDay], flocks: Iterable[FitFlock]) -> None:
        """Take back what was known before a restart, of all houses and models."""
        self._restore_standings(standing for standing in standings if standing.house == self.house)
        self.fitness.restore(days, flocks)

    def follow(self, at: datetime) -> None:
        """Take what the watch beside knows of the flock."""
        beside = self._beside
        if beside.ended is not self.ended and beside.ended is not None:
            self.ended = beside.ended
            self.calibration.judge(self.fitness.end(beside.ended, at))
        self.look_with(beside)

    def own(self, outcome: Outcome) -> Outcome:
        """Return what in an outcome comes of the shadows' models: all else the watch beside says itself."""
        return replace(
            outcome,
            warnings=tuple(event for event in outcome.warnings if self._is_own(event.standing)),
            standings=tuple(standing for standing in outcome.standings if self._is_own(standing)),
            changes=(),
            events=tuple(e for e in outcome.events if e.kind != "chattering" or e.detail["rule"] in self._own_rules),
        )

    def own_standings(self) -> list[Standing]:
        """Return where the rules of the shadows' models stand."""
        return [standing for standing in self.standings.values() if self._is_own(standing)]

    def _is_own(self, standing: Standing) -> bool:
        evidence = standing.evidence
        by_model = evidence is not None and (evidence.model, evidence.model_version) in self._models
        return by_model or standing.rule in self._own_rules


class Shadows:
    """The shadows of all houses."""

    def __init__(self, config: Config, predictor: Predictor, beside: Sequence[HouseWatch]) -> None:
        self.dropped: dict[str, str] = {}  # bundle -> why it runs no more
        self._predictor = replace(predictor)  # our own: it may lose models
        self.watches = [ShadowWatch(watch, config, predictor) for watch in beside] if predictor.models else []

    def matter(self, house: str, at: datetime) -> bool:
        """Tell whether anything can have changed for a house since the last judgement."""
        return any(watch.matters(at) for watch in self.watches if watch.house == house)

    def judge(self, at: datetime, monotonic: float, houses: Iterable[str] | None = None) -> list[Outcome]:
        """Return what the shadows say at ``at``, when the watches beside have judged it; of ``houses``, or of all."""
        wanted = None if houses is None else set(houses)
        watches = [watch for watch in self.watches if wanted is None or watch.house in wanted]
        if not watches or not self._predictor.models:
            return []
        for watch in watches:
            watch.follow(at)
        outcomes = judge_instant(watches, self._predictor, at, monotonic)
        self._drop_slow()
        return [watch.own(outcome) for watch, outcome in zip(watches, outcomes, strict=True)]

    def restore(self, standings: Sequence[Standing], days: Sequence[FitDay], flocks: Sequence[FitFlock]) -> None:
        """Take back what was known before a restart."""
        for watch in self.watches:
            watch.restore_shadow(standings, days, flocks)

    def standings(self) -> list[Standing]:
        """Return where the rules of the shadows' models stand."""
        return [standing for watch in self.watches for standing in watch.own_standings()]

    def _drop_slow(self) -> None:
        for model in self._predictor.models:
            if model.counters.slow >= SLOW_RUNS:
                self.dropped[str(model)] = f"it was let go: {model.counters.last_reason}, {SLOW_RUNS} times"
        if self.dropped:
            kept = tuple(model for model in self._predictor.models if str(model) not in self.dropped)
            self._predictor.models = kept
