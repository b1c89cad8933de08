"""The rules that house computers publish, and two about what people told: plain limits on plain figures. Pure.

For houses that want them (``house_computer = true``): docs/warnings.md. The S numbers are those of docs/sources.md; the
limits themselves are in ``agent/rules.py``, and those of our models' baselines are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite, isnan, nan
from typing import TYPE_CHECKING, Protocol

from agent.domain import Evidence
from agent.languages import msg
from agent.rules import kind_of
from agent.signals import base_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.domain import WarningRule

SLIDE = ((20.0, 30.0), (8.0, 4.0))
"""In summer the inside may be so much above so warm an outside, Cel [S4, S7c]."""

WATER_SHIFT_S = 7_200
"""Water is held against the 24 hours that ended so much earlier [S22]."""

FEW_S = {"water": 1_800, "feed": 7_200}
"""Over so long a time too little flows: water [S22], feed "between check times" [S23], the time of which is assumed."""

MUCH_S = 1_800
"""Over so long a time too much flows [S24]."""

RATIO_MIDDLE = 2.0
"""Litres for a kilogram of feed that the limits of the ratio lie around: 1.4 to 2.6, assumed (median 1.90 [F1])."""

WATER_TO_FEED = 1.8
"""Litres for a kilogram: what "the day's water" is where only the day's feed is in the breeder's table [S44, S45]."""

FULL = 1.2
"""So much more than a house's capacity is no house (our judgement)."""

MOST_BIRDS_PER_M2 = 35.0
"""Placed; 42 kg/m2, the most that the law allows, at 1.2 kg (our judgement: nobody slaughters lighter ones)."""

FED_FROM_DAY, FED_TO_DAY = 3, 10
"""In these days intake tells how many birds there are: later much else can be wrong with it, too (our judgement)."""

DAY_S = 86_400
_MOST = 10.0  # a score has no use above that
_LIT_LX = 1.0  # what is darker is night


class Look(Protocol):
    """What a house measures; NaN wherever too little of it was measured."""

    def level(self, signal: str) -> float:
        """Return the mean of the last ten minutes."""

    def shown(self, signal: str) -> float:
        """Return the same, or else what a sensor shows that is not believed."""

    def darkest(self, length_s: int) -> float:
        """Return the least light of the last ``length_s`` seconds, lx."""

    def amount(self, signal: str, length_s: int, before_s: int = 0, *, each: bool = False) -> float:
        """Return what flowed in ``length_s`` seconds up to ``before_s`` ago; ``each``: for every living bird."""


@dataclass(frozen=True, slots=True)
class Known:
    """What else the rules need to know of a house and its flock; NaN where nobody knows."""

    set_point: float = nan  # Cel
    day_feed_kg: float = nan  # of all birds, by the breed's curve
    high: float = nan  # what is a high temperature here, above the set point


def set_point_at(curve: Sequence[tuple[float, float]], age_days: float) -> float:
    """Return the set point of an age, between the points of its curve; NaN where there is no curve."""
    before = [point for point in curve if point[0] <= age_days]
    after = [point for point in curve if point[0] > age_days]
    if not before or not after:
        return (before or after or [(0.0, nan)])[-1 if before else 0][1]
    (day, low), (next_day, high) = before[-1], after[0]
    return low + (high - low) * (age_days - day) / (next_day - day)


def evidence_of(rule: WarningRule, look: Look, known: Known, unit: str | None) -> Evidence:
    """Return what one of the rules of house computers sees; ``unit`` is that of its signal."""
    signal = rule.signal or ""
    kind, base = kind_of(rule.name), base_of(signal)
    if kind in {"high", "low", "max", "min", "misplaced"}:
        found = _level(kind, rule.threshold, signal, look, known)
    elif kind in {"drop", "rise"}:
        found = _day(kind, rule.threshold, signal, look)
    elif kind == "few":
        found = _few(rule.threshold, base, look)
    elif kind == "much":
        found = _much(rule.threshold, base, look, known)
    else:
        found = _ratio(rule.threshold, look)
    actual, expected, score, over_s = found
    if isnan(score):
        return Evidence(None, why=msg("too little was measured"))
    unit = "l/kg" if kind == "ratio" else unit
    return Evidence(min(score, _MOST), actual=actual, expected=expected, unit=unit, over_s=over_s)


_Found = tuple[float, float, float, int]  # actual, the limit or what was before, score, over how many seconds


def _level(kind: str, threshold: float, signal: str, look: Look, known: Known) -> _Found:
    level = look.shown(signal)
    if kind == "high":
        limit, score = known.set_point + threshold, (level - known.set_point) / threshold
        outside = look.level("outside_temperature")
        (mild, hot), (much, little) = SLIDE
        if outside >= mild:  # only what is above both is too hot
            slide = much + (little - much) * min((outside - mild) / (hot - mild), 1.0)
            limit, score = max(limit, outside + slide), min(score, (level - outside) / slide)
        return level, limit, score, 600
    if kind == "low":
        return level, known.set_point - threshold, (known.set_point - level) / threshold, 600
    if kind == "misplaced":
        inside = look.level("temperature")
        return level, inside, (level - inside) / threshold, 600
    if kind == "min":
        return level, threshold, threshold / level if level > 0 else inf if level <= 0 else nan, 600
    if base_of(signal) == "temperature" and not known.set_point + known.high < threshold:
        return level, threshold, 0.0 if isfinite(level) else nan, 600  # chicks want it as warm as that
    return level, threshold, level / threshold, 600


def _day(kind: str, threshold: float, signal: str, look: Look) -> _Found:
    """Hold 24 hours against those before, bird for bird: who was thinned drinks no less."""
    before_s = WATER_SHIFT_S if base_of(signal) == "water" else DAY_S
    now, before = look.amount(signal, DAY_S, each=True), look.amount(signal, DAY_S, before_s, each=True)
    change = (now - before) / before if before > 0 else nan
    score = (-change if kind == "drop" else change) / threshold
    whole = look.amount(signal, DAY_S)
    return whole, whole / (1 + change) if change > -1 else look.amount(signal, DAY_S, before_s), score, DAY_S


def _few(threshold: float, signal: str, look: Look) -> _Found:
    length_s = FEW_S.get(signal, MUCH_S)
    amount = look.amount(signal, length_s)
    if not look.darkest(length_s) > _LIT_LX:
        return amount, threshold, 0.0 if isfinite(amount) else nan, length_s
    return amount, threshold, threshold / amount if amount > 0 else inf if amount <= 0 else nan, length_s


def _much(threshold: float, signal: str, look: Look, known: Known) -> _Found:
    share = WATER_TO_FEED if signal == "water" else 1.0
    most = threshold * share * known.day_feed_kg * MUCH_S / DAY_S
    amount = look.amount(signal, MUCH_S)
    return amount, most, amount / most if most > 0 else nan, MUCH_S


def _ratio(threshold: float, look: Look) -> _Found:
    water, feed = look.amount("water", DAY_S), look.amount("feed", DAY_S)
    ratio = water / feed if feed > 0 else inf if feed <= 0 < water else nan
    return ratio, RATIO_MIDDLE, abs(ratio - RATIO_MIDDLE) / threshold, DAY_S


def unregistered(rule: WarningRule, water: Sequence[float], other_signs: Sequence[float]) -> Evidence:
    """Return whether birds are there that nobody told of.

    Args:
        rule: the rule as it is configured.
        water: what flowed in each of the last 24 hours, l; NaN where that is not known.
        other_signs: of the last day the feed and the birds on the scale; NaN where that is not known.
    """
    known = [amount for amount in water if isfinite(amount)]
    if len(known) < len(water) / 2:
        return Evidence(None, why=msg("too little water was measured"))
    hours = sum(amount > 0 for amount in known)
    are_there = any(sign > 0 for sign in other_signs)
    return Evidence(hours / rule.threshold if are_there else 0.0, actual=float(hours), unit="h", over_s=DAY_S)


def placement(
    rule: WarningRule, birds: int, capacity: int | None, area_m2: float | None, day: int, intake: Sequence[float]
) -> Evidence:
    """Return whether the number of birds that was told can be.

    Args:
        rule: the rule as it is configured.
        birds: how many were placed, as somebody told.
        capacity: of the house.
        area_m2: of the floor.
        day: the flock's age.
        intake: what was drunk and eaten in the last day, each in multiples of what so many birds want.
    """
    said = [(0.0, float(birds))]  # score, and how many it ought to be
    if capacity is not None:
        said.append((max(birds / (FULL * capacity), capacity / birds / rule.threshold), float(capacity)))
    if area_m2 is not None:
        said.append((birds / (MOST_BIRDS_PER_M2 * area_m2), MOST_BIRDS_PER_M2 * area_m2))
    if FED_FROM_DAY <= day <= FED_TO_DAY and intake and all(isfinite(share) and share > 0 for share in intake):
        least, most = min(intake), max(intake)  # one that is off alone is a fault of its own
        if least > 1:
            said.append((least / rule.threshold, birds * least))
        elif most < 1:
            said.append((1 / most / rule.threshold, birds * most))
    score, expected = max(said)
    return Evidence(min(score, _MOST), actual=float(birds), expected=expected, unit="birds")
