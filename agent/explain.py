"""What a farmer reads: the sentence, the probable causes in order, and the first thing to check. Pure.

Where a model names the causes, its word counts. Else they come from which signals leave their band together, and in
which direction, and no probability is given: only a model that was measured on faults it never saw may give one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.domain import Cause, Reason, WarningState
from agent.manifest import UNKNOWN_CAUSE
from agent.rules import kind_of
from agent.signals import base_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.domain import Evidence, Standing, WarningRule


@dataclass(frozen=True, slots=True)
class Explanation:
    """The words of one warning."""

    text: str
    causes: tuple[Cause, ...]
    check_first: str


_NAMES = {
    "water": "water intake",
    "feed": "feed intake",
    "temperature": "inside temperature",
    "weight": "weight on the scale",
    "humidity": "relative humidity",
    "co2": "CO2",
    "ammonia": "ammonia",
    "dead": "mortality",
}

# What usually lies behind a signal that is too low (-1) or too high (+1), the most usual first.
# Sources (docs/sources.md): Tabler and Lott on water [S48] (a two-day dip is a problem: drinker height, air lock,
# filter, pressure, sickness); house-computer manuals on feed [S22, S23] and ventilation alarms [S5]; water also rises
# in heat [S47] and in gut disturbance (Aviagen [S49]). The order is our judgement.
_CAUSES: dict[tuple[str, int], tuple[str, ...]] = {
    ("water", -1): ("water_line_blocked", "water_meter_fault", "disease", "feed_outage"),
    ("water", 1): ("water_leak", "heat_stress", "gut_disturbance", "water_meter_fault"),
    ("feed", -1): ("feed_outage", "feed_bridge_in_silo", "disease", "heat_stress"),
    ("feed", 1): ("feed_spillage", "feed_meter_fault"),
    ("temperature", -1): ("heater_failure", "over_ventilation", "door_open", "temperature_sensor_fault"),
    ("temperature", 1): ("ventilation_failure", "heat_stress", "heater_stuck_on", "temperature_sensor_fault"),
    ("weight", -1): ("disease", "feed_outage", "scale_fault", "growth_lag"),
    ("weight", 1): ("scale_fault",),
    ("dead", 1): ("disease", "ventilation_failure", "heat_stress"),
}

# Signals that leave their bands together name the cause better than the first alone; the first that fits is first.
_TOGETHER: tuple[tuple[frozenset[tuple[str, int]], str], ...] = (
    (frozenset({("water", -1), ("feed", -1), ("dead", 1)}), "disease"),
    (frozenset({("feed", -1), ("dead", 1)}), "disease"),
    (frozenset({("temperature", 1), ("feed", -1), ("water", 1)}), "heat_stress"),
    (frozenset({("temperature", 1), ("water", 1)}), "heat_stress"),
)

CAUSES: dict[str, tuple[str, str]] = {
    "water_line_blocked": (
        "a blocked or shut water line",
        "Check the water: pressure at the regulators, the filter, drops at the nipples.",
    ),
    "water_meter_fault": ("a faulty water meter", "Read the water meter by hand twice, ten minutes apart."),
    "water_leak": ("a leaking water line", "Walk the water lines and look for wet litter and a running nipple."),
    "feed_outage": (
        "feed that does not reach the pans",
        "Look into the feed pans at the end of the line, at the auger motor's breaker, and knock at the silo cone.",
    ),
    "feed_bridge_in_silo": ("feed that bridges in the silo", "Knock at the silo cone: feed may have bridged."),
    "feed_spillage": ("feed that is spilled", "Look for pans that overflow."),
    "feed_meter_fault": ("a faulty feed weigher", "Compare the feed weigher with the silo's weight."),
    "heater_failure": ("heating that fails", "Look whether the heaters burn: gas or oil, flame, thermostat."),
    "heater_stuck_on": ("a heater that does not stop", "Look whether a heater burns that should not."),
    "over_ventilation": (
        "too much ventilation",
        "Compare the fans that run with the step that the climate computer shows.",
    ),
    "ventilation_failure": (
        "ventilation that fails",
        "Go to the house: listen whether the fans run, look at breakers, belts and inlets.",
    ),
    "door_open": ("an open door", "Look for an open door or gate."),
    "temperature_sensor_fault": ("a faulty temperature sensor", "Hold a hand thermometer beside the sensor."),
    "heat_stress": ("heat stress", "Look whether the birds pant; check air speed and cooling."),
    "wet_litter": (
        "wet litter and ammonia",
        "Feel the litter under the drinkers and along the walls; check drinkers and ventilation.",
    ),
    "disease": (
        "a disease",
        "Walk the house: look at the droppings and the resting birds, and call the vet if you find sick ones.",
    ),
    "gut_disturbance": ("upset guts", "Look at droppings and litter."),
    "growth_lag": ("birds that grow too slowly", "Weigh 100 birds by hand and compare."),
    "scale_fault": ("a dirty or faulty bird scale", "Clean the scale, let it read zero, and weigh a known weight."),
    "sensor_silent": ("a sensor that is silent", "Check the sensor's plug and cable."),
    "gateway_silent": (
        "a gateway or controller without power or network",
        "Check the power of the gateway and the controller, and the network between them.",
    ),
    "sensor_stuck": ("a stuck sensor", "Warm the sensor with your hand: its value must move."),
    "sensor_disagrees": (
        "a sensor that disagrees with its twin",
        "Hold a hand instrument beside the sensor and beside its twin.",
    ),
    "sensor_drift": (
        "a sensor that drifts, or is dirty or unsteady",
        "Hold a hand instrument beside the sensor, and clean it.",
    ),
    "sensor_scale": (
        "a sensor with a wrong unit or factor",
        "Compare the sensor with a hand instrument, then its unit and factor in the controller.",
    ),
    "unrecorded_event": (
        "something that was done and not told",
        "Ask who was in the house: birds taken out, catching, a count; then tell it with `flockwatch flock`.",
    ),
    "clock_error": ("a wrong clock in the house computer", "Compare the house computer's clock with your own."),
}
"""The causes that have words: what each is called in a sentence, and the first thing to check."""

_SURE = 0.5  # a cause that is likelier than everything else together is called probable
_LOOK = "Go to the house and look."
_NO_CHECK = "Nothing: it is over."

_OVER = {
    Reason.BACK_BEFORE_DELAY: "is as expected again",
    Reason.BACK_IN_BAND: "is as expected again",
    Reason.SHELF_TIME_OVER: "is as expected again",
    Reason.CANNOT_SAY: "cannot be judged any more: too little is measured",
    Reason.HOUSE_STATE: "is watched again",
    Reason.FLOCK_AGE: "is watched again",
    Reason.SERVICE: "is watched again",
    Reason.BAD_QUALITY: "is watched again",
    Reason.ROOT_CAUSE: "is watched again",
    Reason.RULE_REMOVED: "is not watched any more",
}

_ALONE = {
    "missing": ("sensor_silent",),
    "silent": ("gateway_silent",),
    "stuck": ("sensor_stuck",),
    "disagree": ("sensor_disagrees",),
    "range": ("sensor_drift",),
    "misplaced": ("temperature_sensor_fault",),
    "unregistered": ("unrecorded_event",),
    "placement": ("unrecorded_event",),
}

_PLAIN = {
    "high": "{name} is {actual}, above the limit of {expected}",
    "low": "{name} is {actual}, below the limit of {expected}",
    "max": "{name} is {actual}, above the limit of {expected}",
    "min": "{name} is {actual}, below the limit of {expected}",
    "misplaced": "{name} is {actual}, warmer than the {expected} inside: its sensor may hang in the sun",
    "drop": "{name} {over} is {size}below what it was before: {actual} instead of {expected}",
    "rise": "{name} {over} is {size}above what it was before: {actual} instead of {expected}",
    "few": "{name} {over} is only {actual} with the light on; at least {expected} is usual",
    "much": "{name} {over} is {actual}; more than {expected} is a leak or a fault",
    "ratio": "birds drink {actual} in the last 24 hours, where about {expected} is usual",
    "range": "{name} shows {actual}, which cannot be",
    "unregistered": "water flowed in {actual} of the last 24, and feed or the scale moved, but no flock was told",
    "placement": "{actual} were told to be placed, where about {expected} can be",
}
"""The sentences of the rules that look at plain figures."""

_SUPPRESSED_BY = {
    Reason.HOUSE_STATE: "the state of the house explains it",
    Reason.FLOCK_AGE: "the flock is too young for it",
    Reason.SERVICE: "the sensor is being serviced",
    Reason.BAD_QUALITY: "the sensor is not believed",
    Reason.ROOT_CAUSE: "it follows from another warning",
}


def direction_of(evidence: Evidence) -> int:
    """Return -1 where what was measured is below what was expected, 1 where above, 0 where nothing was expected."""
    if evidence.actual is None or evidence.expected is None:
        return 0
    return -1 if evidence.actual < evidence.expected else 1


def explain(
    rule: WarningRule,
    standing: Standing,
    also: Mapping[str, int],
    where: str,
    when: str,
    earlier: Mapping[str, int] | None = None,
) -> Explanation:
    """Return the words for a warning.

    Args:
        rule: The rule that stands.
        standing: Where it stands, with its evidence.
        also: The other signals of the house that are out of their band now, each with its direction (-1 or 1).
        where: The house, flock and day in words.
        when: Since when it stands or stood, in the farm's own time.
        earlier: Those of ``also`` that left their band before this one, the first one first: what stopped them
            probably stopped this one, too (feed intake follows a water line that is shut within hours).
    """
    if standing.state is WarningState.NORMAL:  # the last word about it: nobody shall run for that
        over = _OVER.get(standing.reason or Reason.BACK_IN_BAND, "is over")
        if standing.reason is Reason.CANNOT_SAY and standing.evidence is not None and standing.evidence.why:
            over = f"cannot be judged any more: {standing.evidence.why}"
        elif standing.reason is Reason.BACK_IN_BAND and standing.evidence is not None and standing.evidence.why:
            over = standing.evidence.why
        began = f" (out of course since {when})" if standing.since is not None else ""
        return Explanation(f"{where}: {_subject(rule)} {over}{began}.", (), _NO_CHECK)
    modelled = standing.evidence.causes if standing.evidence is not None else ()
    causes = modelled or _causes(rule, standing, also, earlier or {})
    check_first = CAUSES[causes[0].cause][1] if causes and causes[0].cause in CAUSES else _LOOK
    unknown = ""
    if standing.unknown_since is not None and standing.evidence is not None and standing.evidence.why:
        unknown = f"Whether it still is so cannot be said: {standing.evidence.why}. "
    because = _because(modelled, standing.evidence.confidence) if modelled and standing.evidence is not None else ""
    course = _course_of(rule, standing)
    text = f"{where}: {_sentence(rule, standing)}, since {when}. {course}{unknown}{because}{check_first}"
    return Explanation(text, causes, check_first)


def _course_of(rule: WarningRule, standing: Standing) -> str:
    """Return what is to be known of a warning's course: it is told to nobody, comes and goes, waits, or is latched."""
    if standing.state is WarningState.SUPPRESSED:
        why = _SUPPRESSED_BY.get(standing.reason or Reason.HOUSE_STATE, "something known explains it")
        return f"It is told to nobody: {why}. "
    said = ""
    if standing.chatter is not None:
        of = standing.chatter
        deadband = "" if of.deadband is None else f", or deadband = {of.deadband:g},"
        said = (
            f"It comes and goes, {of.rises} times in {of.within_s / 3600:g} hours: off_delay_s = {of.off_delay_s}"
            f"{deadband} would make one warning of it. "
        )
    if standing.state is not WarningState.ACTIVE:
        return said
    if standing.is_escalated:
        said += "Nobody has acknowledged it for long. "
    if rule.latching and standing.back_since is not None:
        said += "It is back where it should be, and stays until somebody acknowledges it. "
    return said


def _because(causes: Sequence[Cause], confidence: float | None) -> str:
    """Return what a model takes for the cause, and whether it may be nothing at all."""
    doubt = "It may be a false alarm. " if confidence is not None and confidence < _SURE else ""
    first = causes[0]
    if first.cause == UNKNOWN_CAUSE:
        return f"{doubt}It fits no cause that is known well. "
    if first.probability is not None and first.probability >= _SURE:
        return f"{doubt}Probably {_called(first)}. "
    named = [_called(cause) for cause in causes if cause.cause != UNKNOWN_CAUSE][:2]
    return f"{doubt}Perhaps {' or '.join(named)}. "


def _called(cause: Cause) -> str:
    words = CAUSES[cause.cause][0] if cause.cause in CAUSES else cause.cause.replace("_", " ")
    return words if cause.probability is None else f"{words} ({100 * cause.probability:.0f} %)"


def _causes(
    rule: WarningRule, standing: Standing, also: Mapping[str, int], earlier: Mapping[str, int]
) -> tuple[Cause, ...]:
    kind = kind_of(rule.name)
    if kind in _ALONE:
        return tuple(Cause(cause) for cause in _ALONE[kind])
    if standing.evidence is None or rule.signal is None:
        return ()
    signal = base_of(rule.signal)
    direction = direction_of(standing.evidence) or 1
    own = _CAUSES.get((signal, direction), ())
    seen = {*also.items(), (signal, direction)}
    first = [cause for pattern, cause in _TOGETHER if (signal, direction) in pattern and pattern <= seen]
    root = [_CAUSES[found][0] for found in earlier.items() if found in _CAUSES and found[1] == direction == -1][:1]
    return tuple(Cause(cause) for cause in _distinct([*first, *root, *own]))


def _distinct(causes: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(causes))


def _subject(rule: WarningRule) -> str:
    kind = kind_of(rule.name)
    if kind == "placement":
        return "the number of birds"
    if kind in {"missing", "stuck", "disagree", "range"}:
        return f"sensor {rule.signal}" if rule.signal else "a sensor"
    return "the house" if kind in {"silent", "unregistered"} else _name(rule)


def _name(rule: WarningRule) -> str:
    return _NAMES.get(base_of(rule.signal or ""), rule.signal or "")


def _sentence(rule: WarningRule, standing: Standing) -> str:
    evidence = standing.evidence
    kind = kind_of(rule.name)
    name = _name(rule) or _subject(rule) or "a signal"
    if kind == "missing":
        return f"{rule.signal} has stopped reporting"
    if kind == "silent":
        return "no sensor of this house reports any more"
    if kind == "stuck":
        value = "" if evidence is None else f" {_number(evidence.actual, evidence.unit)}"
        return f"{rule.signal} shows the same value{value} without a change"
    if kind == "disagree":
        return _disagreement(rule, evidence)
    if kind in _PLAIN and evidence is not None and evidence.actual is not None:
        actual, expected = (_number(value, evidence.unit) for value in (evidence.actual, evidence.expected))
        over, size = _over(kind, evidence), _size(evidence)
        return _PLAIN[kind].format(name=name, actual=actual, expected=expected, over=over, size=size)
    if evidence is None or evidence.actual is None or evidence.expected is None:
        return f"{name} is out of its band"
    actual, expected = (_number(value, evidence.unit) for value in (evidence.actual, evidence.expected))
    if evidence.is_early:
        return _forecast(name, evidence, actual, expected)
    way = "below" if direction_of(evidence) < 0 else "above"
    over = "of the last day told" if kind == "mortality" else _over(kind, evidence)
    size = _size(evidence)
    band = ""
    if evidence.low is not None and evidence.high is not None:
        band = (
            f" ({_number(evidence.low, None)} to {_number(evidence.high, evidence.unit)} is usual for this flock now)"
        )
    days = f"; the last days: {_course(evidence)}" if evidence.course else ""
    return f"{name} {over} is {size}{way} the expected: {actual} instead of {expected}{band}{days}"


def _forecast(name: str, evidence: Evidence, actual: str, expected: str) -> str:
    chance = "" if evidence.confidence is None else f" (probability {evidence.confidence:.0%})"
    return (
        f"{name} may be about to become an outbreak{chance}: {actual} on the last day told, {expected} are usual; "
        f"the last days: {_course(evidence)}; an outbreak begins at {_number(evidence.high, evidence.unit)} a day"
    )


def _course(evidence: Evidence) -> str:
    return ", ".join(f"{value:.0f}" for value in evidence.course)


def _over(kind: str, evidence: Evidence) -> str:
    """Return in words over how long it was; what was stored by an older version does not say."""
    hours = 24 if kind == "trend" else 1
    if evidence.over_s is not None:
        hours = evidence.over_s // 3600
        if hours < 1:
            return f"in the last {evidence.over_s // 60} minutes"
    if hours > 48:
        return f"in the last {hours // 24} days"
    return "in the last hour" if hours <= 1 else f"in the last {hours} hours"


def _disagreement(rule: WarningRule, evidence: Evidence | None) -> str:
    if evidence is None or evidence.actual is None or evidence.expected is None:
        return f"{_subject(rule)} disagrees with the others that measure the same, and is not believed"
    actual, expected = (_number(value, evidence.unit) for value in (evidence.actual, evidence.expected))
    return f"{_subject(rule)} shows {actual} where the others would have it show {expected}, and is not believed"


def _size(evidence: Evidence) -> str:
    """Return how far off it is in words; for temperatures the difference, for everything else percent."""
    if evidence.actual is None or evidence.expected is None:
        return ""
    difference = abs(evidence.actual - evidence.expected)
    if evidence.unit == "Cel":
        return f"{difference:.1f} K "
    if abs(evidence.expected) < 1e-9:
        return ""
    return f"{100 * difference / abs(evidence.expected):.0f} % "


def _number(value: float | None, unit: str | None) -> str:
    if value is None:
        return "unknown"
    digits = (
        f"{value:.0f}"
        if abs(value) >= 100 or unit == "birds"
        else f"{value:.1f}"
        if abs(value) >= 1
        else f"{value:.2g}"
    )
    return digits if unit is None else f"{digits} {'°C' if unit == 'Cel' else unit}"
