"""The day's losses against the threshold and the days before, and what a model sees coming. Pure.

The threshold and the median are the floor: a model can only be earlier.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from math import isfinite
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from agent.domain import Evidence
from agent.languages import msg
from agent.rules import KINDS, severity_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, datetime

    from agent.domain import Standing, WarningRule
    from agent.manifest import Manifest

RULE = "mortality"

OUTBREAK_FACTOR = 3.0
"""An outbreak is at least so many times the median of the seven days before it (docs/sources.md, outbreaks)."""

FORESEEN_FOR = timedelta(days=6)
"""An outbreak that was seen coming and is not there after this is not waited for: what goes on is told anew."""

CHANCE_SDS = 1.0
"""A day with so many standard deviations of a count above the usual loss is chance (Poisson: the root of the count)."""

_MEDIAN_DAYS = timedelta(days=7)
_DAYS_FOR_A_MEDIAN = 3
_DAYS_TOLD = 7  # of the course, in the words of a warning
_SMALLEST_USUAL_LOSS = 0.0002  # of the living birds a day: below that a single bird would be a multiple


class Foreseen(NamedTuple):
    """What a model says of an outbreak to come."""

    manifest: Manifest
    probability: float
    limit: float  # from which on it is a warning


def counted(rule: WarningRule, losses: Sequence[tuple[date, float]], live: float, today: date) -> Evidence | None:
    """Return what the last day's losses show; None where nobody ever told any.

    Args:
        rule: the rule as it is configured.
        losses: dead and culled by farm date, as far as known, in order.
        live: the living birds; NaN where unknown.
        today: the farm date.
    """
    known = [(day, birds) for day, birds in losses if day <= today]
    if not known:
        return None
    last, birds = known[-1]
    if last < today - timedelta(days=1):
        return Evidence(None, why=msg("nobody told of dead birds"))
    before = [lost for day, lost in known[:-1] if day >= last - _MEDIAN_DAYS]
    if len(before) < _DAYS_FOR_A_MEDIAN or not isfinite(live):
        return Evidence(None, why=msg("too few days to compare with"))
    usual = max(median(before), _SMALLEST_USUAL_LOSS * live)
    score = min(birds / (rule.threshold * live), birds / (OUTBREAK_FACTOR * usual))
    return Evidence(
        score,
        actual=birds,
        expected=usual,
        high=max(rule.threshold * live, OUTBREAK_FACTOR * usual),
        low=0.0,
        unit="birds",
        severity=severity_of(score, rule),
        course=tuple(lost for _, lost in known[-_DAYS_TOLD:]),
    )


def foreseen(
    rule: WarningRule, found: Evidence, said: Foreseen | None, stands: Standing | None, at: datetime
) -> Evidence:
    """Return the evidence with what a model says of an outbreak to come, where that weighs more.

    A day no worse than chance makes a usual one is no sign, whatever a model says. Beside the model's own limit stands
    the rule's threshold: at twice the default it takes twice the odds.

    Args:
        rule: the rule as it is configured.
        found: what the losses show; no outbreak yet.
        said: what the model says; None where none does.
        stands: where the rule stands, if it is out of course.
        at: the grid instant.
    """
    usual = found.expected or 0.0
    if (found.actual or 0.0) <= usual + CHANCE_SDS * usual**0.5:
        return found
    shown = None if stands is None else stands.evidence
    was_early = shown is not None and shown.is_early
    if said is None:
        return replace(found, score=None, why=msg("the model that saw it coming says nothing")) if was_early else found
    score = _odds(said.probability) / _odds(said.limit) / (rule.threshold / KINDS[RULE].threshold)
    if score <= (found.score or 0.0):
        return found
    if was_early and stands is not None and at - (stands.raised_at or at) >= FORESEEN_FOR:
        return replace(found, why=msg("has not become the outbreak that seemed near"))
    if shown is not None and not was_early:  # an outbreak that is there is none to come
        return replace(found, score=score)
    return replace(
        found,
        score=score,
        is_early=True,
        severity=None,
        confidence=said.probability,
        model=said.manifest.name,
        model_version=said.manifest.version,
    )


def _odds(probability: float) -> float:
    return probability / max(1 - probability, 1e-6)
