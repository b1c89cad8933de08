"""The warning rules: what each kind is about, when it applies, and its delays. To add a kind, add a row here.

A rule is called ``<kind>`` or ``<kind>-<signal>``; ``[warnings.rules.<name>]`` of the configuration overrides single
fields, ``[house.rules.<name>]`` those of one house. What a kind looks at is in ``agent/watch.py``,
``agent/sensors.py``, ``agent/mortality.py`` and ``agent/plain.py``, its words are in ``agent/explain.py``.

The S and F numbers are those of docs/sources.md; "our judgement" marks what has no source.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from agent.domain import About, HouseState, Severity, WarningRule
from agent.signals import base_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config import RuleOverride

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_A_ROUND = 12 * _HOUR
"""Our judgement: houses are walked twice a day at the least, so somebody was there in the meantime."""
_WITH_BIRDS = frozenset({HouseState.ACTIVE})
_OCCUPIED = frozenset({HouseState.PREHEAT, HouseState.ACTIVE, HouseState.CATCHING, HouseState.THINNED})
_BIRD_SIGNALS = frozenset({"water", "feed", "weight", "dead", "culled"})

SEVERITY_STEPS = ((3.0, 2), (2.0, 1))
"""A score of 2 thresholds is one step worse than the rule's own severity, 3 two steps."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The defaults of one kind of rule."""

    what: str  # in plain words, for `flockwatch rules` and the documentation
    threshold_is: str
    about: About | None  # None: by the signal, birds or climate
    severity: Severity
    threshold: float  # 0: each signal has its own, in ``limits``
    on_delay_s: int
    off_delay_s: int
    deadband: float
    states: frozenset[HouseState]
    first_day: int = 0
    escalate_after_s: int = 0
    limits: Mapping[str, float] = field(default_factory=dict)  # by signal; of others the configuration must tell one
    first_days: Mapping[str, int] = field(default_factory=dict)  # by signal, where it is another one
    of_house_computers: bool = False  # off, but where somebody wants the rules that house computers publish


def _of_house_computers(
    what: str,
    threshold_is: str,
    about: About | None,
    severity: Severity,
    limits: Mapping[str, float],
    deadband: float,
    first_day: int = 0,
    first_days: Mapping[str, int] | None = None,
) -> Kind:
    """Return a kind of rule with the delays that all of these have, for houses with birds in them."""
    delays = (10 * _MINUTE, 30 * _MINUTE)
    return Kind(
        what,
        threshold_is,
        about,
        severity,
        0.0,
        *delays,
        deadband,
        _WITH_BIRDS,
        first_day,
        limits=limits,
        first_days=first_days or {},
        of_house_computers=True,
    )


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
        escalate_after_s=_A_ROUND,
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
        escalate_after_s=2 * _A_ROUND,
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
        escalate_after_s=_A_ROUND,
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
    # Our judgement: chicks of a day drink around the clock, grown birds in all hours but six of dark [S55]; feed that
    # moves or birds on a scale tell them from a line that leaks
    "unregistered": Kind(
        "water flows, and feed or a scale moves, in so many hours of the last day, and no flock was told",
        "hours of the last 24 in which water flowed",
        About.HOUSE_STATE,
        Severity.MINOR,
        12.0,
        _HOUR,
        6 * _HOUR,
        0.3,
        frozenset({HouseState.EMPTY, HouseState.PREHEAT, HouseState.WASHING}),
    ),
    # Our judgement: a slip of the pen is a factor of ten; a house half full and a flock that eats little are none
    "placement": Kind(
        "the number of birds that was told is so many times more or fewer than the house holds, or than eat and drink",
        "times too many or too few",
        About.HOUSE_STATE,
        Severity.MINOR,
        3.0,
        2 * _HOUR,
        2 * _HOUR,
        0.1,
        _WITH_BIRDS,
    ),
    # What house computers do by their published rules: the figures are SKOV's, or the user's there and ours here
    # ("assumed", on the keen side: these are also what our models are measured against). Levels hold ten minutes before
    # they count. Assumed throughout: the off-delays and deadbands, as our warnings are told to people; the severities.
    "high": _of_house_computers(
        "the level is so far above its set point; in summer also so far above the outside",
        "degrees above the set point",
        About.CLIMATE,
        Severity.MINOR,
        {"temperature": 4.0},  # [S4, S7c]
        0.125,
    ),
    "low": _of_house_computers(
        "the level is so far below its set point",
        "degrees below the set point",
        About.CLIMATE,
        Severity.MINOR,
        {"temperature": 3.0},  # [S4, S7c]
        0.125,
    ),
    # 32 Cel [S4]; user's limits [S5]: 90 %RH, as 77 to 85 late are normal [S32], so above that; 3,500 ppm harms, 3,000
    # is the law's at the birds' height [S50]; 20 ppm is the law's [S53]
    "max": _of_house_computers(
        "the level is above an absolute limit; of the temperature only where its set point is well below that",
        "the limit, in the unit of the signal",
        None,
        Severity.MINOR,
        {"temperature": 32.0, "humidity": 90.0, "co2": 3_500.0, "ammonia": 20.0},
        0.03,
    ),
    "min": _of_house_computers(
        "the level is below an absolute limit, which is to be told",
        "the limit, in the unit of the signal",
        None,
        Severity.MINOR,
        {},
        0.03,
    ),
    "misplaced": _of_house_computers(
        "it is colder inside than outside by so much: the outside sensor hangs in the sun",
        "degrees",
        About.EQUIPMENT,
        Severity.WARNING,
        {"outside_temperature": 5.0},  # [S5]
        0.1,
    ),
    # Water against the 24 h that ended two hours earlier [S22], feed against the 24 h before [S23]; both in % of
    # normal, how many is the user's: assumed. Production alarms are mute until a start day [S22 to S24]: assumed, 3
    "drop": _of_house_computers(
        "what was eaten or drunk in 24 hours is less than before by such a share",
        "share of what it was before",
        None,
        Severity.MINOR,
        {"water": 0.06, "feed": 0.15},
        0.2,
        first_day=4,
    ),
    "rise": _of_house_computers(
        "what was drunk in 24 hours is more than before by such a share",
        "share of what it was before",
        None,
        Severity.MINOR,
        {"water": 0.06},
        0.2,
        first_day=4,
    ),
    "few": _of_house_computers(
        "with the light on, so little flowed: water in half an hour, feed in two hours",
        "litres or kilograms",
        None,
        Severity.MINOR,
        {"water": 30.0, "feed": 10.0},  # 1.0 l/min over 30 min [S22]; 10 kg between two check times [S23]
        0.0,
        first_day=3,
        first_days={"water": 10},  # younger ones drink less than that; assumed
    ),
    "much": _of_house_computers(
        "in half an hour flowed so many times the mean rate of a day by the breed's curve",
        "times the mean rate of the day",
        None,
        Severity.MINOR,
        {"water": 2.5, "feed": 2.5},  # feed [S24]; water assumed to be the same
        0.1,
        first_day=3,
    ),
    "ratio": _of_house_computers(
        "the litres drunk for each kilogram eaten in 24 hours are so far from 2.0",
        "litres per kilogram",
        None,
        Severity.WARNING,
        {"water": 0.6},  # a limit exists [S23]; its size is assumed: median 1.90 on real farms [F1]
        0.1,
        first_day=7,  # chicks drink three times what they eat [S46]
    ),
    # "humidity sensor error: below 5 %RH or disconnected" [S5], for every signal that has a plausible range
    "range": Kind(
        "a sensor shows what cannot be, for so long that it is no slip",
        "1 where it does",
        About.EQUIPMENT,
        Severity.WARNING,
        1.0,
        10 * _MINUTE,
        10 * _MINUTE,
        0.0,
        _OCCUPIED,
        of_house_computers=True,
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
    kind, base = KINDS[kind_name], base_of(signal)
    return WarningRule(
        name=name,
        about=kind.about or (About.BIRDS if base in _BIRD_SIGNALS else About.CLIMATE),
        signal=signal or ("dead" if kind_name == "mortality" else None),
        severity=kind.severity,
        threshold=kind.limits.get(base, kind.threshold),
        on_delay_s=kind.on_delay_s,
        off_delay_s=kind.off_delay_s,
        deadband=kind.deadband,
        states=kind.states,
        first_day=kind.first_days.get(base, kind.first_day),
        escalate_after_s=kind.escalate_after_s,
    )


def rule_of(
    name: str, overrides: Mapping[str, RuleOverride], day: int | None = None, *, house_computer: bool = False
) -> WarningRule | None:
    """Return the rule called ``name`` with the configuration's word on it; None where it is switched off.

    Args:
        name: the rule's.
        overrides: by rule and by kind; a kind's word counts first, then the one rule's.
        day: the flock's age in days; None where there is none.
        house_computer: whether the rules that house computers publish are wanted.

    Raises:
        KeyError: no kind of rule is called so.
    """
    rule = rule_by_default(name)
    is_on = house_computer or not KINDS[kind_of(name)].of_house_computers
    for key in (kind_of(name), name):
        override = overrides.get(key)
        if override is None:
            continue
        is_on = is_on if override.enabled is None else override.enabled
        told = override.at(day)
        if "states" in told:
            told["states"] = frozenset(override.states or ())
        rule = replace(rule, **told)  # type: ignore[arg-type]  # the fields of an override are fields of a rule
    return rule if is_on and rule.threshold > 0 else None  # a limit that nobody told is none


def plain_rules(overrides: Mapping[str, RuleOverride], *, house_computer: bool) -> list[str]:
    """Return the names of the rules of house computers that are on in a house, whatever its flock's age."""
    known = {f"{kind}-{signal}" for kind, of in KINDS.items() if of.of_house_computers for signal in of.limits}
    told = {name for name in overrides if KINDS[kind_of(name)].of_house_computers and "-" in name}
    return [
        name
        for name in sorted(known | told)
        if kind_of(name) != "range" and rule_of(name, overrides, house_computer=house_computer) is not None
    ]


def severity_of(score: float, rule: WarningRule) -> Severity:
    """Return how severe it is to be so many thresholds out of course; never above MAJOR by itself."""
    worse = next((steps for limit, steps in SEVERITY_STEPS if score >= limit), 0)
    return max(rule.severity, Severity(min(rule.severity + worse, Severity.MAJOR)))
