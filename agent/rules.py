"""The warning rules: what each kind is about, when it applies, and its delays. To add a kind, add a row here.

A rule is called ``<kind>`` or ``<kind>-<signal>``; ``[warnings.rules.<name>]`` of the configuration overrides single
fields. What a kind looks at is in ``agent/watch.py``, ``agent/sensors.py`` and ``agent/mortality.py``, its words are in
``agent/explain.py``.

The S and F numbers are those of docs/sources.md; "our judgement" marks what has no source.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agent.domain import About, HouseState, Severity, WarningRule
from agent.signals import base_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config import RuleOverride

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_WITH_BIRDS = frozenset({HouseState.ACTIVE})
_OCCUPIED = frozenset({HouseState.PREHEAT, HouseState.ACTIVE, HouseState.CATCHING, HouseState.THINNED})
_BIRD_SIGNALS = frozenset({"water", "feed", "weight", "dead", "culled"})

SEVERITY_STEPS = ((3.0, 2), (2.0, 1))
"""A score of 2 thresholds is one step worse than the rule's own severity, 3 two steps."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The defaults of one kind of rule."""

    what: str  # in plain words, for `flockwatch check` and the documentation
    threshold_is: str
    about: About | None  # None: by the signal, birds or climate
    severity: Severity
    threshold: float
    on_delay_s: int
    off_delay_s: int
    deadband: float
    states: frozenset[HouseState]
    first_day: int = 0


KINDS = {
    # The threshold multiplies the model's own (its manifest). Our judgement: the delays (what a deviation says is of a
    # whole hour, in which a line that is shut for a quarter of it hardly shows, so it need be said but twice; what a
    # trend says is of a day, and can wait two hours); the deadband (back is what is well inside the band, or a value at
    # its edge would come and go); the first days (chicks that are settling in, and a day's sum that needs whole days
    # behind it).
    "deviation": Kind(
        "the last hour of a signal leaves the band that the model expects of this flock, at this age and hour",
        "multiples of the model's own threshold",
        None,
        Severity.MINOR,
        1.0,
        10 * _MINUTE,
        30 * _MINUTE,
        0.3,
        _WITH_BIRDS,
        first_day=2,
    ),
    "trend": Kind(
        "the last day or days of a signal leave the band that the model expects of this flock at this age",
        "multiples of the model's own threshold",
        None,
        Severity.WARNING,
        1.0,
        2 * _HOUR,
        4 * _HOUR,
        0.3,
        _WITH_BIRDS,
        first_day=3,
    ),
    # The definition of an outbreak used on commercial flocks: at least 0.30 % dead in a day and at least three times
    # the trailing 7-day median, from day 8 on [F1]. Our judgement: no on-delay (a day's dead are counted, not
    # measured); half a day until it is over (the next count is a day later); the deadband, a fifth of the threshold.
    "mortality": Kind(
        "the day's dead and culled reach the threshold and three times the median of the last seven days, "
        "or a model sees that coming",
        "share of the living birds per day",
        About.BIRDS,
        Severity.MAJOR,
        0.003,
        0,
        _DAY // 2,
        0.2,
        _WITH_BIRDS | {HouseState.THINNED},
        first_day=8,  # the first week's dead chicks are no outbreak
    ),
    # Twice the sample time is a sensor maker's own mark of an inactive sensor [S9]. Our judgement: three times, and
    # half an hour more, because a warning calls somebody; one reading ends it at once. The same for a whole house.
    "missing": Kind(
        "a sensor that reported is silent",
        "multiples of its own usual interval",
        About.DATA,
        Severity.WARNING,
        3.0,
        30 * _MINUTE,
        0,
        0.0,
        _OCCUPIED,
    ),
    "silent": Kind(
        "every sensor of the house is silent: gateway, cable or broker",
        "multiples of the house's usual interval",
        About.DATA,
        Severity.MINOR,
        3.0,
        30 * _MINUTE,
        0,
        0.0,
        _OCCUPIED,
    ),
    # The time is the catalogue's, agent/signals.py; our judgement: it is long enough, so nothing is added to it
    "stuck": Kind(
        "a sensor repeats one value for longer than a living house can",
        "share of the time after which the catalogue calls it stuck",
        About.DATA,
        Severity.WARNING,
        1.0,
        0,
        0,
        0.0,
        _OCCUPIED,
    ),
    # What peers may differ by is the catalogue's, agent/signals.py; a disagreement has lasted half an hour before it is
    # one (agent/peers.py). Our judgement: two hours, as the models already do without the sensor
    "disagree": Kind(
        "a sensor has left the others that measure the same: its twins in the house, or the outside sensors",
        "multiples of what the catalogue allows",
        About.EQUIPMENT,
        Severity.WARNING,
        1.0,
        2 * _HOUR,
        0,
        0.3,
        _OCCUPIED,
    ),
}


def kind_of(name: str) -> str:
    """Return the kind of the rule called ``name``."""
    return name.partition("-")[0]


def rule_by_default(name: str) -> WarningRule:
    """Return the rule called ``name`` as it is without a word from the configuration.

    Raises:
        KeyError: no kind of rule is called so.
    """
    kind_name, _, signal = name.partition("-")
    kind = KINDS[kind_name]
    return WarningRule(
        name=name,
        about=kind.about or (About.BIRDS if base_of(signal) in _BIRD_SIGNALS else About.CLIMATE),
        signal=signal or ("dead" if kind_name == "mortality" else None),
        severity=kind.severity,
        threshold=kind.threshold,
        on_delay_s=kind.on_delay_s,
        off_delay_s=kind.off_delay_s,
        deadband=kind.deadband,
        states=kind.states,
        first_day=kind.first_day,
    )


def rule_of(name: str, overrides: Mapping[str, RuleOverride]) -> WarningRule | None:
    """Return the rule called ``name`` with the configuration's word on it; None where it is switched off.

    Raises:
        KeyError: no kind of rule is called so.
    """
    rule = rule_by_default(name)
    for key in (kind_of(name), name):  # the whole kind first, then the one rule
        override = overrides.get(key)
        if override is None:
            continue
        if not override.enabled:
            return None
        told = {field: value for field, value in override.model_dump(exclude={"enabled"}).items() if value is not None}
        if "states" in told:
            told["states"] = frozenset(told["states"])
        rule = replace(rule, **told)
    return rule


def severity_of(score: float, rule: WarningRule) -> Severity:
    """Return how severe it is to be so many thresholds out of course; never above MAJOR by itself."""
    worse = next((steps for limit, steps in SEVERITY_STEPS if score >= limit), 0)
    return max(rule.severity, Severity(min(rule.severity + worse, Severity.MAJOR)))
