"""What a farmer reads: the sentence, the probable causes in order, and the first thing to check. Pure.

Where a model names the causes, its word counts. Else they come from which signals leave their band together, and in
which direction, and no probability is given: only a model that was measured on faults it never saw may give one.

A probability is put into words of fixed meaning (``Likelihood``). Where nobody can say, that is said, with the reason.
All texts are messages of ``agent/languages.py``, whole sentences wherever a language may want another order.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from agent.domain import Cause, Reason, WarningState, from_ms
from agent.languages import Locale, msg
from agent.manifest import UNKNOWN_CAUSE
from agent.rules import kind_of
from agent.signals import base_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from agent.domain import Evidence, Standing


@dataclass(frozen=True, slots=True)
class Explanation:
    """The words of one warning."""

    text: str
    check_first: str


class Occasion(NamedTuple):
    """Of what and when something is told."""

    house: str  # as people call it
    flock: str | None
    day: int | None  # of the flock's age
    at: datetime
    latching: bool = False  # the rule waits to be acknowledged, also when it is back


class Likelihood(StrEnum):
    """The words for a probability, and what each means: in every text of every language the same."""

    ALMOST_CERTAINLY = "almost certainly"  # 90 % and more
    PROBABLY = "probably"  # 60 to 90 %
    PERHAPS = "perhaps"  # 30 to 60 %
    CANNOT_SAY = "cannot say"  # less than 30 %


_WORTH_NAMING = 0.1  # a second cause that is less likely only distracts
_AT_LEAST = ((0.9, Likelihood.ALMOST_CERTAINLY), (0.6, Likelihood.PROBABLY), (0.3, Likelihood.PERHAPS))

NAMES = {
    "water": msg("water intake"),
    "feed": msg("feed intake"),
    "temperature": msg("inside temperature"),
    "outside_temperature": msg("outside temperature"),
    "weight": msg("weight on the scale"),
    "weight_count": msg("number of birds on the scale"),
    "weight_sd": msg("spread of the weights on the scale"),
    "humidity": msg("relative humidity"),
    "outside_humidity": msg("outside humidity"),
    "co2": msg("CO2"),
    "ammonia": msg("ammonia"),
    "pressure": msg("house pressure"),
    "air_speed": msg("air speed"),
    "light": msg("light"),
    "ventilation": msg("ventilation"),
    "heating": msg("heating"),
    "silo": msg("feed in the silo"),
    "energy": msg("power consumption"),
    "dead": msg("mortality"),
    "culled": msg("culling"),
}
"""What a signal is called at the beginning of a sentence; one that is not here, by its own name."""

SENSORS = {
    "water": msg("water meter"),
    "feed": msg("feed meter"),
    "temperature": msg("temperature sensor"),
    "outside_temperature": msg("outside temperature sensor"),
    "weight": msg("bird scale"),
    "weight_count": msg("bird scale (count)"),
    "weight_sd": msg("bird scale (spread)"),
    "humidity": msg("humidity sensor"),
    "outside_humidity": msg("outside humidity sensor"),
    "co2": msg("CO2 sensor"),
    "ammonia": msg("ammonia sensor"),
    "pressure": msg("pressure sensor"),
    "air_speed": msg("air speed sensor"),
    "light": msg("light sensor"),
    "ventilation": msg("ventilation signal"),
    "heating": msg("heating signal"),
    "silo": msg("silo weigher"),
    "energy": msg("power meter"),
}
"""What the sensor of a signal is called; what people tell has none."""

# What usually lies behind a signal that is too low (-1) or too high (+1), the most usual first.
# Sources (docs/sources.md): Tabler and Lott on water [S48] (a two-day dip is a problem: drinker height, air lock,
# filter, pressure, sickness); house-computer manuals on feed [S22, S23] and ventilation alarms [S5]; water also rises
# in heat [S47] and in gut disturbance (Aviagen [S49]); ammonia comes out of the litter [S61]; what birds breathe out
# stays where the air is not changed. The order is our judgement.
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
    ("ammonia", 1): ("wet_litter", "ventilation_failure"),
    ("co2", 1): ("ventilation_failure",),
    ("humidity", 1): ("ventilation_failure", "wet_litter"),
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
        msg("a blocked or shut water line"),
        msg("Check the water: pressure at the regulators, the filter, drops at the nipples."),
    ),
    "water_meter_fault": (
        msg("a faulty water meter"),
        msg("Read the water meter by hand twice, ten minutes apart."),
    ),
    "water_leak": (
        msg("a leaking water line"),
        msg("Walk the water lines and look for wet litter and a running nipple."),
    ),
    "feed_outage": (
        msg("feed that does not reach the pans"),
        msg(
            "Look into the feed pans at the end of the line, at the auger motor's breaker, and knock at the silo cone."
        ),
    ),
    "feed_bridge_in_silo": (
        msg("feed that bridges in the silo"),
        msg("Knock at the silo cone: feed may have bridged."),
    ),
    "feed_spillage": (msg("feed that is spilled"), msg("Look for pans that overflow.")),
    "feed_meter_fault": (msg("a faulty feed weigher"), msg("Compare the feed weigher with the silo's weight.")),
    "heater_failure": (
        msg("heating that fails"),
        msg("Look whether the heaters burn: gas or oil, flame, thermostat."),
    ),
    "heater_stuck_on": (
        msg("a heater that does not stop"),
        msg("Look whether a heater burns that should not."),
    ),
    "over_ventilation": (
        msg("too much ventilation"),
        msg("Compare the fans that run with the step that the climate computer shows."),
    ),
    "ventilation_failure": (
        msg("ventilation that fails"),
        msg("Go to the house: listen whether the fans run, look at breakers, belts and inlets."),
    ),
    "door_open": (msg("an open door"), msg("Look for an open door or gate.")),
    "temperature_sensor_fault": (
        msg("a faulty temperature sensor"),
        msg("Hold a hand thermometer beside the sensor."),
    ),
    "heat_stress": (msg("heat stress"), msg("Look whether the birds pant; check air speed and cooling.")),
    "wet_litter": (
        msg("wet litter and ammonia"),
        msg("Feel the litter under the drinkers and along the walls; check drinkers and ventilation."),
    ),
    "disease": (
        msg("a disease"),
        msg("Walk the house: look at the droppings and the resting birds, and call the vet if you find sick ones."),
    ),
    "gut_disturbance": (msg("upset guts"), msg("Look at droppings and litter.")),
    "growth_lag": (msg("birds that grow too slowly"), msg("Weigh 100 birds by hand and compare.")),
    "scale_fault": (
        msg("a dirty or faulty bird scale"),
        msg("Clean the scale, let it read zero, and weigh a known weight."),
    ),
    "sensor_silent": (msg("a sensor that is silent"), msg("Check the sensor's plug and cable.")),
    "gateway_silent": (
        msg("a gateway or controller without power or network"),
        msg("Check the power of the gateway and the controller, and the network between them."),
    ),
    "sensor_stuck": (
        msg("a stuck sensor"),
        msg("Change what the sensor measures (a warm hand, your breath, some water): its value must move."),
    ),
    "sensor_disagrees": (
        msg("a sensor that disagrees with its twin"),
        msg("Hold a hand instrument beside the sensor and beside its twin."),
    ),
    "sensor_drift": (
        msg("a sensor that drifts, or is dirty or unsteady"),
        msg("Hold a hand instrument beside the sensor, and clean it."),
    ),
    "sensor_scale": (
        msg("a sensor with a wrong unit or factor"),
        msg("Compare the sensor with a hand instrument, then its unit and factor in the controller."),
    ),
    "unrecorded_event": (
        msg("something that was done and not told"),
        msg("Ask who was in the house: birds taken out, catching, a count; then tell it with `flockwatch flock`."),
    ),
    "clock_error": (
        msg("a wrong clock in the house computer"),
        msg("Compare the house computer's clock with your own."),
    ),
}
"""The causes that have words: what each is called in a sentence, and the first thing to check."""

_LOOK = msg("Go to the house and look.")
_NO_CHECK = msg("Nothing: it is over.")

_BY_LIKELIHOOD = {
    Likelihood.ALMOST_CERTAINLY: msg("Almost certainly {cause} ({chance})."),
    Likelihood.PROBABLY: msg("Probably {cause} ({chance})."),
    Likelihood.PERHAPS: msg("Perhaps {cause} ({chance})."),
    Likelihood.CANNOT_SAY: msg("What it is cannot be said: nothing is likelier than {chance}."),
}
_FALSE_BY_LIKELIHOOD = {
    Likelihood.ALMOST_CERTAINLY: msg("It is almost certainly a false alarm ({chance})."),
    Likelihood.PROBABLY: msg("It is probably a false alarm ({chance})."),
    Likelihood.PERHAPS: msg("It is perhaps a false alarm ({chance})."),
}
_EARLY_BY_LIKELIHOOD = {
    Likelihood.ALMOST_CERTAINLY: msg(
        "more birds die than usual, and an outbreak is almost certainly coming ({chance})"
    ),
    Likelihood.PROBABLY: msg("more birds die than usual, and an outbreak is probably coming ({chance})"),
    Likelihood.PERHAPS: msg("more birds die than usual, and an outbreak is perhaps coming ({chance})"),
    Likelihood.CANNOT_SAY: msg(
        "more birds die than usual; whether an outbreak is coming cannot be said yet ({chance})"
    ),
}

_OVER = {
    Reason.BACK_BEFORE_DELAY: msg("{name} is as expected again"),
    Reason.BACK_IN_BAND: msg("{name} is as expected again"),
    Reason.SHELF_TIME_OVER: msg("{name} is as expected again"),
    Reason.CANNOT_SAY: msg("{name} cannot be judged any more: too little is measured"),
    Reason.HOUSE_STATE: msg("{name} is watched again"),
    Reason.FLOCK_AGE: msg("{name} is watched again"),
    Reason.SERVICE: msg("{name} is watched again"),
    Reason.BAD_QUALITY: msg("{name} is watched again"),
    Reason.ROOT_CAUSE: msg("{name} is watched again"),
    Reason.RULE_REMOVED: msg("{name} is not watched any more"),
}
_OVER_OF = {  # of kinds that look at sensors, what "as expected again" is
    "missing": msg("{name} reports again"),
    "silent": msg("sensors of this house report again"),
    "stuck": msg("{name} moves again"),
    "disagree": msg("{name} agrees with the others again"),
    "range": msg("{name} shows what can be again"),
}
_AS_EXPECTED = frozenset({Reason.BACK_BEFORE_DELAY, Reason.BACK_IN_BAND, Reason.SHELF_TIME_OVER})

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
_OF_SENSORS = frozenset({"missing", "stuck", "disagree", "range"})

_PLAIN = {
    "high": msg("{name} is {actual}, above the limit of {limit}"),
    "low": msg("{name} is {actual}, below the limit of {limit}"),
    "max": msg("{name} is {actual}, above the limit of {limit}"),
    "min": msg("{name} is {actual}, below the limit of {limit}"),
    "misplaced": msg("{name} is {actual}, warmer than the {limit} inside: the sensor may hang in the sun"),
    "drop": msg("{name} {period} is {size} less than before: {actual} instead of {limit}"),
    "rise": msg("{name} {period} is {size} more than before: {actual} instead of {limit}"),
    "few": msg("{name} {period} is only {actual} with the light on; at least {limit} is usual"),
    "much": msg("{name} {period} is {actual}; more than {limit} is a leak or a fault"),
    "ratio": msg("water for each kilogram of feed {period} is {actual}, where about {limit} is usual"),
    "range": msg("{name} shows {actual}, which cannot be"),
    "unregistered": msg(
        "water flowed in {actual} of the last 24, and feed or the scale moved, but no flock is registered"
    ),
    "placement": msg("{actual} were told to be placed, where about {limit} can be"),
}
"""The sentences of the rules that look at plain figures."""

_SUPPRESSED_BY = {
    Reason.HOUSE_STATE: msg("the state of the house explains it"),
    Reason.FLOCK_AGE: msg("the flock is too young for it"),
    Reason.SERVICE: msg("the sensor is being serviced"),
    Reason.BAD_QUALITY: msg("the sensor is not believed"),
    Reason.ROOT_CAUSE: msg("it follows from another warning"),
}

_WAY = {  # by direction, and whether the size of the difference can be told
    (-1, True): msg("{name} {period} is {size} below the expected: {actual} instead of {expected}"),
    (-1, False): msg("{name} {period} is below the expected: {actual} instead of {expected}"),
    (1, True): msg("{name} {period} is {size} above the expected: {actual} instead of {expected}"),
    (1, False): msg("{name} {period} is above the expected: {actual} instead of {expected}"),
}


def likelihood_of(probability: float) -> Likelihood:
    """Return the word for a probability."""
    return next((word for limit, word in _AT_LEAST if probability >= limit), Likelihood.CANNOT_SAY)


def direction_of(evidence: Evidence) -> int:
    """Return -1 where what was measured is below what was expected, 1 where above, 0 where nothing was expected."""
    if evidence.actual is None or evidence.expected is None:
        return 0
    return -1 if evidence.actual < evidence.expected else 1


def causes_of(
    standing: Standing, also: Mapping[str, int], earlier: Mapping[str, int] | None = None
) -> tuple[Cause, ...]:
    """Return the probable causes of a warning, the likeliest first; none of one that is over.

    Args:
        standing: Where it stands, with its evidence.
        also: The other signals of the house that are out of their band now, each with its direction (-1 or 1).
        earlier: Those of ``also`` that left their band before this one, the first one first: what stopped them
            probably stopped this one, too (feed intake follows a water line that is shut within hours).
    """
    if standing.state is WarningState.NORMAL:
        return ()
    if standing.evidence is not None and standing.evidence.causes:
        return standing.evidence.causes
    kind, signal = kind_of(standing.rule), base_of(signal_of_rule(standing.rule))
    if kind in _ALONE:
        return tuple(Cause(cause) for cause in _ALONE[kind])
    if standing.evidence is None or not signal:
        return ()
    direction = direction_of(standing.evidence) or 1
    own = _CAUSES.get((signal, direction), ())
    seen = {*also.items(), (signal, direction)}
    first = [cause for pattern, cause in _TOGETHER if (signal, direction) in pattern and pattern <= seen]
    before = (earlier or {}).items()
    root = [_CAUSES[found][0] for found in before if found in _CAUSES and found[1] == direction == -1][:1]
    return tuple(Cause(cause) for cause in dict.fromkeys([*first, *root, *own]))


def signal_of_rule(rule: str) -> str:
    """Return the signal that a rule looks at; empty where it looks at a whole house."""
    return "dead" if rule == "mortality" else rule.partition("-")[2]


def explain(standing: Standing, causes: Sequence[Cause], told: Occasion, locale: Locale) -> Explanation:
    """Return the words for a warning with these causes, for whoever reads them by ``locale``."""
    where = told.house
    if told.flock is not None:
        where = locale.say(msg("{house}, flock {flock}, day {day}"), house=where, flock=told.flock, day=told.day)
    since = locale.since(standing.since or told.at, told.at)
    if standing.state is WarningState.NORMAL:  # the last word about it: nobody shall run for that
        what = _what_is_over(standing, told.at, locale)
        if standing.since is not None:
            what = locale.say(msg("{what} (warning {since})"), what=what, since=since)
        return Explanation(f"{where}: {what}.", locale.say(_NO_CHECK))
    known = CAUSES.get(causes[0].cause) if causes else None
    check_first = locale.say(known[1] if known else _LOOK)
    what = locale.say(msg("{what}, {since}."), what=_what(standing, locale), since=since)
    course = _course_of(standing, locale, is_latching=told.latching)
    parts = [what, *course, _unknown(standing, told.at, locale), *_behind_it(standing, causes, locale), check_first]
    return Explanation(f"{where}: {' '.join(part for part in parts if part)}", check_first)


def reworded(
    row: Mapping[str, Any], standing: Standing, house: str, locale: Locale, *, is_latching: bool
) -> Explanation | None:
    """Return the words of a stored transition for another reader; None where the rule stands elsewhere by now.

    Args:
        row: of the stream ``warnings``; times in integer ms.
        standing: where its rule stands, as it is stored.
        house: what people call the house.
        locale: who reads it.
        is_latching: the rule waits to be acknowledged, also when it is back.
    """
    if (standing.state.value, standing.id) != (row["state"], row["id"]):
        return None
    causes = [Cause(**cause) for cause in json.loads(row["causes"])]
    told = Occasion(house, row["flock"], row["day_number"], from_ms(row["at"]), is_latching)
    return explain(standing, causes, told, locale)


def why_of(evidence: Evidence, at: datetime, locale: Locale) -> str:
    """Return in words why nobody can say, or why it is over."""
    values: dict[str, object] = {}
    for name, value in evidence.why_values.items():
        if name == "share":
            values[name] = locale.percent(float(value))
        elif name == "sensor":
            values[name] = sensor_name(str(value), locale)
        elif name == "since_ms":
            values["since"] = locale.since(from_ms(int(value)), at)
    return locale.say(evidence.why, **values)


def sensor_name(sensor: str, locale: Locale) -> str:
    """Return what a sensor is called, with its number if it has one."""
    base = base_of(sensor)
    if not sensor:
        return locale.say(msg("a sensor"))
    if base not in SENSORS:
        return locale.say(msg("sensor {name}"), name=sensor)
    return locale.say(SENSORS[base]) + sensor.removeprefix(base).replace("-", " ")


def _course_of(standing: Standing, locale: Locale, *, is_latching: bool) -> list[str]:
    """Return what is to be known of a warning's course: it is told to nobody, comes and goes, waits, or is latched."""
    if standing.state is WarningState.SUPPRESSED:
        why = _SUPPRESSED_BY.get(standing.reason or Reason.HOUSE_STATE, msg("something known explains it"))
        return [locale.say(msg("It is told to nobody: {why}."), why=locale.say(why))]
    said = []
    if standing.chatter is not None:
        of = standing.chatter
        settings = f"off_delay_s = {of.off_delay_s}" + ("" if of.deadband is None else f" / deadband = {of.deadband:g}")
        often = msg("It comes and goes, {rises} times in {hours}: {settings} would make one warning of it.")
        hours = locale.amount(of.within_s / 3_600, "h")
        said.append(locale.say(often, rises=of.rises, hours=hours, settings=settings))
    if standing.state is WarningState.ACTIVE and standing.is_escalated:
        said.append(locale.say(msg("Nobody has acknowledged it for long.")))
    if standing.state is WarningState.ACTIVE and is_latching and standing.back_since is not None:
        said.append(locale.say(msg("It is back where it should be, and stays until somebody acknowledges it.")))
    return said


def _unknown(standing: Standing, at: datetime, locale: Locale) -> str:
    if standing.unknown_since is None or standing.evidence is None or not standing.evidence.why:
        return ""
    why = why_of(standing.evidence, at, locale)
    return locale.say(msg("Whether it still is so cannot be said: {why}."), why=why)


def _behind_it(standing: Standing, causes: Sequence[Cause], locale: Locale) -> list[str]:
    """Return what is probably behind it, and whether it may be nothing at all; nothing beyond what is known."""
    if kind_of(standing.rule) in _ALONE:
        return []  # the sentence says it
    if not causes:
        return [locale.say(msg("What is behind it cannot be said: nothing points to one cause."))]
    first, named = causes[0], [_called(cause, locale) for cause in causes if cause.cause != UNKNOWN_CAUSE]
    if first.probability is None:
        if len(named) == 1:
            return [locale.say(msg("Usually {cause}."), cause=named[0])]
        return [locale.say(msg("Usually {cause} or {other}."), cause=named[0], other=named[1])]
    doubt = _doubt(standing.evidence, locale)
    if first.cause == UNKNOWN_CAUSE:
        return [doubt, locale.say(msg("It fits no cause that is known well."))]
    word, chance = likelihood_of(first.probability), locale.chance(first.probability)
    other_share = next((cause.probability or 0.0 for cause in causes[1:] if cause.cause != UNKNOWN_CAUSE), 0.0)
    if word is Likelihood.PERHAPS and other_share >= _WORTH_NAMING:
        other, other_chance = named[1], locale.chance(other_share)
        both = msg("Perhaps {cause} ({chance}) or {other} ({other_chance}).")
        return [doubt, locale.say(both, cause=named[0], chance=chance, other=other, other_chance=other_chance)]
    return [doubt, locale.say(_BY_LIKELIHOOD[word], cause=named[0], chance=chance)]


def _doubt(evidence: Evidence | None, locale: Locale) -> str:
    """Return how likely it is to be no true departure, where that is worth a word."""
    if evidence is None or evidence.confidence is None or evidence.is_early:
        return ""
    word = _FALSE_BY_LIKELIHOOD.get(likelihood_of(1 - evidence.confidence))
    return "" if word is None else locale.say(word, chance=locale.chance(1 - evidence.confidence))


def _called(cause: Cause, locale: Locale) -> str:
    return locale.say(CAUSES[cause.cause][0]) if cause.cause in CAUSES else cause.cause.replace("_", " ")


def _name(rule: str, locale: Locale) -> str:
    """Return what a rule looks at, as the beginning of a sentence."""
    kind, signal = kind_of(rule), signal_of_rule(rule)
    if kind == "placement":
        return locale.say(msg("the number of birds"))
    if kind in _OF_SENSORS:
        return sensor_name(signal, locale)
    if not signal:
        return locale.say(msg("the house"))
    return locale.say(NAMES[base_of(signal)]) if base_of(signal) in NAMES else signal


def _what_is_over(standing: Standing, at: datetime, locale: Locale) -> str:
    reason, kind, evidence = standing.reason or Reason.BACK_IN_BAND, kind_of(standing.rule), standing.evidence
    name = _name(standing.rule, locale)
    if evidence is not None and evidence.why and reason is Reason.CANNOT_SAY:
        return locale.say(msg("{name} cannot be judged any more: {why}"), name=name, why=why_of(evidence, at, locale))
    if evidence is not None and evidence.why and reason is Reason.BACK_IN_BAND:
        return f"{name} {why_of(evidence, at, locale)}"
    if kind in _OVER_OF and reason in _AS_EXPECTED:
        return locale.say(_OVER_OF[kind], name=name)
    return locale.say(_OVER.get(reason, msg("{name} is over")), name=name)


def _what(standing: Standing, locale: Locale) -> str:
    """Return what is the matter, in one sentence without its end."""
    evidence, kind = standing.evidence, kind_of(standing.rule)
    name = _name(standing.rule, locale)
    if kind == "missing":
        return locale.say(msg("{name} has stopped reporting"), name=name)
    if kind == "silent":
        return locale.say(msg("no sensor of this house reports any more"))
    if kind == "stuck":
        if evidence is None or evidence.actual is None:
            return locale.say(msg("{name} shows the same value without a change"), name=name)
        value = locale.amount(evidence.actual, evidence.unit)
        return locale.say(msg("{name} shows the same value, {value}, without a change"), name=name, value=value)
    if kind in _PLAIN and evidence is not None and evidence.actual is not None:
        actual, limit = (locale.amount(value, evidence.unit) for value in (evidence.actual, evidence.expected))
        size = None
        if evidence.expected is not None:
            size = locale.difference(evidence.actual, evidence.expected, evidence.unit)
        period = _period(kind, evidence, locale)
        return locale.say(_PLAIN[kind], name=name, actual=actual, limit=limit, size=size, period=period)
    if evidence is None or evidence.actual is None or evidence.expected is None:
        if kind == "disagree":
            return locale.say(
                msg("{name} disagrees with the others that measure the same, and is not believed"), name=name
            )
        return locale.say(msg("{name} is outside its usual range"), name=name)
    actual, expected = (locale.amount(value, evidence.unit) for value in (evidence.actual, evidence.expected))
    if kind == "disagree":
        shows = msg("{name} shows {actual} where the others would have it show {expected}, and is not believed")
        return locale.say(shows, name=name, actual=actual, expected=expected)
    if evidence.is_early:
        return _forecast(evidence, actual, expected, locale)
    size = locale.difference(evidence.actual, evidence.expected, evidence.unit)
    way = _WAY[direction_of(evidence), size is not None]
    period = locale.say(msg("on the last day counted")) if kind == "mortality" else _period(kind, evidence, locale)
    what = locale.say(way, name=name, period=period, size=size, actual=actual, expected=expected)
    if kind == "mortality":
        return _with_outbreak(_with_course(what, evidence, locale), evidence, locale)
    if evidence.low is not None and evidence.high is not None:
        usual = locale.range(evidence.low, evidence.high, evidence.unit)
        what = locale.say(msg("{what} (usual for this flock now: {range})"), what=what, range=usual)
    return _with_course(what, evidence, locale)


def _forecast(evidence: Evidence, actual: str, expected: str, locale: Locale) -> str:
    sure = evidence.confidence
    if sure is None:
        what = locale.say(msg("more birds die than usual, and an outbreak may be coming"))
    else:
        what = locale.say(_EARLY_BY_LIKELIHOOD[likelihood_of(sure)], chance=locale.chance(sure))
    what = locale.say(
        msg("{what}: {actual} on the last day counted, {expected} would be usual"),
        what=what,
        actual=actual,
        expected=expected,
    )
    return _with_outbreak(_with_course(what, evidence, locale), evidence, locale)


def _with_course(what: str, evidence: Evidence, locale: Locale) -> str:
    if not evidence.course:
        return what
    days = ", ".join(f"{value:.0f}" for value in evidence.course)
    return locale.say(msg("{what}; the last days: {days}"), what=what, days=days)


def _with_outbreak(what: str, evidence: Evidence, locale: Locale) -> str:
    if evidence.high is None:
        return what
    limit = locale.amount(evidence.high, evidence.unit)
    return locale.say(msg("{what}; an outbreak begins at {limit} a day"), what=what, limit=limit)


def _period(kind: str, evidence: Evidence, locale: Locale) -> str:
    """Return in words over how long it was; what was stored by an older version does not say."""
    over_s = evidence.over_s or (86_400 if kind == "trend" else 3_600)
    if over_s < 3_600:
        return locale.say_many("in the last minute", "in the last {n} minutes", max(over_s // 60, 1))
    hours = over_s // 3_600
    if hours > 48:
        return locale.say_many("in the last day", "in the last {n} days", hours // 24)
    return locale.say_many("in the last hour", "in the last {n} hours", hours)
