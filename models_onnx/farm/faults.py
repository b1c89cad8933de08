"""Faults by name: how they are written, what they do, and when and where they are.

A kind's ``acts`` says what it does to a house at one moment of its course, as effects (``EFFECTS``); ``FaultPlan``
gathers them for all houses, and the physics takes them from there. Faults of sensors have no effects: ``sensors`` does
them, and says what the house computers then believe (``Misread``).
To add a fault, add a row to ``FAULTS``, and use its effect where it acts.

Sources, with the numbers of docs/sources.md: S71 coccidiosis, S49 water in gut disturbance, S14 ammonia sensors, F1
commercial flocks. All other sizes and times are our judgement: no source has figures.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from agent.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

# What a fault does to a house; each 0 where there is none.
EFFECTS = (
    "blocked",  # share of the water that does not come
    "leak_l_h_bird",  # water that runs away, l/h for each bird the house holds
    "feed_lost",  # share of what the augers could bring
    "bridge",  # share of the feed that is wanted and does not come
    "fans_lost",  # share of the fans' flow
    "inlets_shut",  # share of the opening that the inlets lack
    "heat_lost",  # share of the heaters' power
    "cooling_lost",  # share of the water cooling
    "warmer_k",  # outside
    "wet",  # litter: 1 is sodden
    "door",  # 1 is a wide open gate
    "intake",  # share of the appetite that is lost
    "thirst",  # change of the water they want, as a share: below 0 is less
    "gain",  # share of the growth that is lost beyond what is eaten less
    "lag",  # share of the growth that the birds are not able to, and eat less for
    "ill",  # die of it, a day, after some days
    "deaths",  # die of it, a day, at once
    "clock_h",  # how far the house computer's clock is ahead
    "dirt_g",  # on the bird scale
)
LEAK_L_H_BIRD = 0.015  # a burst line: at 28 days the birds drink 0.011 (260 ml a day)
HEAT_WAVE_K = 12.0
OUTBREAK_DEATHS = 0.015  # a day: real outbreaks begin at 0.30 % [F1]
SMOULDER = 0.15  # of it from the first hour on: 0.15 % a day led the real ones by two days [F1]
CLOCK_H = 6.0
DIRT_G = 250.0


class Moment(NamedTuple):
    """Where in its course a fault is."""

    hours: float  # since it began
    share: float  # of its whole length, 0 to 1
    shape: float  # which of its courses, 0 to 1

    def ramp(self, hours: float) -> float:
        """Return how far it has come of so many hours: 0 to 1."""
        return min(self.hours / hours, 1.0) if hours > 0 else 1.0

    def trapeze(self, up: float, down: float) -> float:
        """Return 0 to 1 and back, in straight lines: 1 between the shares ``up`` and ``down`` of the course."""
        return max(min(self.share / up, 1.0, (1 - self.share) / (1 - down)), 0.0)


Effect = dict[str, float]


def _all(effect: str, most: float = 1.0) -> Callable[[Moment], Effect]:
    """Return what a fault does that is there from its first instant on."""
    return lambda _at: {effect: most}


def _leak(at: Moment) -> Effect:
    return {"leak_l_h_bird": LEAK_L_H_BIRD * (1.0 if at.shape < 0.5 else at.ramp(48))}


def _bridge(at: Moment) -> Effect:
    """Steady, or one that falls in and forms again every eight hours."""
    return {"bridge": 1.0 if at.shape < 0.5 or at.hours % 8 < 5 else 0.0}


def _fouling(at: Moment) -> Effect:
    """Dust, day by day, or belts, one after the other."""
    return {"fans_lost": at.share if at.shape < 0.5 else math.ceil(4 * at.share) / 4}


def _cold_disease(at: Moment) -> Effect:
    """Coccidiosis in short: worst five thirteenths of the way through, then better at once."""
    size = at.trapeze(5 / 13, 5 / 13)
    return {"intake": 0.19 * size, "thirst": -0.10 * size, "ill": 0.006 * size}


def _coccidiosis(at: Moment) -> Effect:
    """Intake -19 %, gain -40 % from day 5 after infection on, over on day 13 [S71]; wet litter, the dead behind."""
    size = at.trapeze(5 / 13, 8 / 13)
    return {"intake": 0.19 * size, "thirst": -0.10 * size, "ill": 0.005 * size, "wet": 0.25 * size}


def _enteritis(at: Moment) -> Effect:
    """More water first [S49] and wet litter, a day later less feed, another day later the dead."""
    first, then, late = at.trapeze(0.12, 0.7), _shifted(at, 0.15), _shifted(at, 0.3)
    return {"thirst": 0.15 * first, "wet": 0.7 * first, "intake": 0.12 * then, "gain": 0.1 * then, "ill": 0.006 * late}


def _respiratory(at: Moment) -> Effect:
    """Feed and water down together within three days; the dead late."""
    size = at.trapeze(0.25, 0.5)
    return {"intake": 0.15 * size, "thirst": -0.15 * size, "gain": 0.05 * size, "ill": 0.005 * _shifted(at, 0.35)}


def _shifted(at: Moment, by: float) -> float:
    """Return a course that begins at the share ``by``."""
    if at.share <= by:
        return 0.0
    return Moment(at.hours, (at.share - by) / (1 - by), at.shape).trapeze(0.3, 0.55)


def _outbreak(at: Moment) -> Effect:
    """Deaths rise within 1 to 6 days, stay, and fall; feed and water hardly move, as in the real ones [F1]."""
    rise_h = 24 * (1 + 5 * at.shape)
    size = (SMOULDER + (1 - SMOULDER) * at.ramp(rise_h) ** 2) * min((1 - at.share) / 0.4, 1.0)
    return {"deaths": OUTBREAK_DEATHS * size, "intake": 0.03 * size, "thirst": -0.02 * size}


def _lag(at: Moment) -> Effect:
    return {"lag": 1.0 if at.shape >= 0.8 else at.ramp(24 + 120 * at.shape)}


def _clock(at: Moment) -> Effect:
    return {"clock_h": CLOCK_H if at.shape < 0.5 else -CLOCK_H}


def _dirt(at: Moment) -> Effect:
    return {"dirt_g": DIRT_G * (1.0 if at.shape < 0.5 else at.share)}


@dataclass(frozen=True, slots=True)
class FaultKind:
    """What a fault of this name does when nobody says how long or how hard, and how it is drawn (``campaign``)."""

    name: str
    does: str
    acts: Callable[[Moment], Effect] = lambda _at: {}
    hours: float = 12.0
    severity: float = 1.0
    drawn_hours: tuple[float, float] = (6.0, 24.0)
    drawn_severity: tuple[float, float] = (0.4, 1.0)
    drawn_age: tuple[float, float] = (3.0, 38.0)  # of the flock when it begins, days
    signals: tuple[str, ...] = ()  # the sensors it may strike, the first one where none is named


CLIMATE = ("temperature", "humidity", "co2", "ammonia", "pressure")
STICKABLE = (
    "temperature", "humidity", "co2", "ammonia", "ventilation", "heating", "water", "feed", "weight", "light",
    "outside_temperature", "outside_humidity", "silo", "pressure",
)  # fmt: skip
_DAYS = 24.0

FAULTS: Mapping[str, FaultKind] = {
    kind.name: kind
    for kind in (
        FaultKind(
            "water_line_blocked",
            "severity is the share of the water that does not come",
            _all("blocked"),
            severity=0.85,
            drawn_hours=(2, 24),
            drawn_severity=(0.2, 1.0),
        ),
        FaultKind(
            "water_leak",
            "a burst or dripping line; at 1 it loses more than birds of four weeks drink",
            _leak,
            hours=2 * _DAYS,
            severity=0.4,
            drawn_hours=(12, 6 * _DAYS),
            drawn_severity=(0.05, 1.0),
        ),
        FaultKind(
            "feed_outage", "severity is the share of the feed that the augers do not bring", _all("feed_lost"),
            drawn_hours=(3, 18), drawn_severity=(0.95, 1.0),
        ),
        FaultKind(
            "feed_bridge",
            "severity is the share of the wanted feed that does not come",
            _bridge,
            hours=1.5 * _DAYS,
            severity=0.5,
            drawn_hours=(12, 4 * _DAYS),
            drawn_severity=(0.15, 0.9),
        ),
        FaultKind(
            "ventilation_failure",
            "severity is the share of the fans' capacity that is lost",
            _all("fans_lost"),
            severity=0.97,
            drawn_hours=(1, 24),
            drawn_severity=(0.25, 0.97),
        ),
        FaultKind(
            "fan_fouling",
            "severity is the share of the fans' flow that is lost in the end",
            _fouling,
            hours=12 * _DAYS,
            severity=0.45,
            drawn_hours=(6 * _DAYS, 16 * _DAYS),
            drawn_severity=(0.2, 0.6),
            drawn_age=(8, 28),
        ),
        FaultKind(
            "inlet_stuck",
            "severity is the share of the air inlets' opening that is missing",
            _all("inlets_shut"),
            hours=_DAYS,
            severity=0.7,
            drawn_hours=(6, 3 * _DAYS),
        ),
        FaultKind(
            "heater_failure", "severity is the share of the heat that is lost", _all("heat_lost"),
            drawn_hours=(4, 36), drawn_age=(0.5, 16),
        ),
        FaultKind(
            "cooling_failure",
            "severity is the share of the water cooling that is lost; shows only in heat, in houses that have it",
            _all("cooling_lost"),
            hours=3 * _DAYS,
            drawn_hours=(_DAYS, 4 * _DAYS),
            drawn_age=(15, 36),
        ),
        FaultKind(
            "heat_wave",
            f"the whole farm's weather is up to {HEAT_WAVE_K:g} K warmer",
            lambda at: {"warmer_k": HEAT_WAVE_K * at.trapeze(0.3, 0.7)},
            hours=4 * _DAYS,
            severity=0.8,
            drawn_hours=(3 * _DAYS, 7 * _DAYS),
            drawn_age=(15, 36),
        ),
        FaultKind(
            "door_open", "a gate stands open; at 1, wide", _all("door"),
            hours=1, drawn_hours=(0.3, 2),
        ),
        FaultKind(
            "wet_litter",
            "litter becomes wet, and ammonia follows within days; at 1, sodden",
            _all("wet"),
            hours=6 * _DAYS,
            severity=0.7,
            drawn_hours=(4 * _DAYS, 10 * _DAYS),
            drawn_severity=(0.3, 1.0),
            drawn_age=(10, 32),
        ),
        FaultKind(
            "disease",
            "severity scales the course of a coccidiosis challenge, in a week",
            _cold_disease,
            hours=7 * _DAYS,
            drawn_hours=(6 * _DAYS, 10 * _DAYS),
            drawn_age=(12, 32),
        ),
        FaultKind(
            "coccidiosis",
            "less feed, growth and water from day 2 to 13; the dead and wet litter after it",
            _coccidiosis,
            hours=13 * _DAYS,
            drawn_hours=(11 * _DAYS, 15 * _DAYS),
            drawn_age=(12, 28),
        ),
        FaultKind(
            "enteritis",
            "more water and wet litter first, then less feed, then deaths",
            _enteritis,
            hours=8 * _DAYS,
            drawn_hours=(6 * _DAYS, 10 * _DAYS),
            drawn_age=(14, 32),
        ),
        FaultKind(
            "respiratory",
            "less feed and water together, deaths later",
            _respiratory,
            hours=12 * _DAYS,
            drawn_hours=(9 * _DAYS, 14 * _DAYS),
            drawn_age=(12, 30),
        ),
        FaultKind(
            "mortality_outbreak",
            f"deaths rise within 1 to 6 days, at 1 to {100 * OUTBREAK_DEATHS:g} % a day; little else moves",
            _outbreak,
            hours=7 * _DAYS,
            severity=0.6,
            drawn_hours=(4 * _DAYS, 12 * _DAYS),
            drawn_severity=(0.2, 0.8),
            drawn_age=(8, 36),
        ),
        FaultKind(
            "growth_lag",
            "severity is the share of the growth that is missing",
            _lag,
            hours=12 * _DAYS,
            severity=0.15,
            drawn_hours=(7 * _DAYS, 20 * _DAYS),
            drawn_severity=(0.05, 0.25),
            drawn_age=(5, 25),
        ),
        FaultKind(
            "sensor_stuck", "the sensor repeats its last value",
            hours=12, drawn_hours=(12, 4 * _DAYS), signals=STICKABLE,
        ),
        FaultKind(
            "sensor_drift",
            "the sensor shows ever more, or ever less",
            hours=8 * _DAYS,
            drawn_hours=(5 * _DAYS, 14 * _DAYS),
            signals=(*CLIMATE, "water", "feed", "weight"),
        ),
        FaultKind(
            "sensor_noise",
            "the sensor jumps about",
            hours=2 * _DAYS,
            drawn_hours=(_DAYS, 5 * _DAYS),
            signals=(*CLIMATE, "weight"),
        ),
        FaultKind(
            "sensor_dropout",
            "severity is the share of the readings that are missing",
            hours=6,
            drawn_hours=(4, 4 * _DAYS),
            drawn_severity=(0.5, 1.0),
            signals=STICKABLE,
        ),
        FaultKind(
            "sensor_scale",
            "the sensor shows ten times as much, or a tenth",
            hours=_DAYS,
            drawn_hours=(12, 5 * _DAYS),
            drawn_severity=(1.0, 1.0),
            signals=("temperature", "humidity", "co2", "ammonia", "water", "feed", "weight", "silo", "pressure"),
        ),
        FaultKind(
            "sensor_fouled",
            "dirt makes the sensor slow and dull over days",
            hours=10 * _DAYS,
            drawn_hours=(6 * _DAYS, 16 * _DAYS),
            drawn_severity=(0.5, 1.0),
            drawn_age=(10, 28),
            signals=("ammonia", "co2", "humidity"),
        ),
        FaultKind(
            "scale_dirty",
            f"litter on the bird scale, at 1 {DIRT_G:g} g: all at once, or growing",
            _dirt,
            hours=5 * _DAYS,
            severity=0.5,
            drawn_hours=(2 * _DAYS, 10 * _DAYS),
            drawn_severity=(0.2, 1.0),
            drawn_age=(7, 32),
        ),
        FaultKind(
            "clock_error",
            f"the house computer's clock, and with it the light, is wrong by up to {CLOCK_H:g} hours",
            _clock,
            hours=3 * _DAYS,
            severity=0.5,
            drawn_hours=(_DAYS, 6 * _DAYS),
            drawn_severity=(0.2, 1.0),
            drawn_age=(8, 34),
        ),
        FaultKind(
            "thin_unrecorded",
            "severity is the share of the birds that people take out and do not tell",
            hours=1,
            severity=0.3,
            drawn_hours=(1, 1),
            drawn_severity=(0.15, 0.4),
            drawn_age=(26, 36),
        ),
        FaultKind(
            "placement_wrong",
            "severity is the share by which people tell a wrong number of chicks, of the flock that is there then",
            hours=_DAYS,
            severity=0.1,
            drawn_hours=(_DAYS, _DAYS),
            drawn_severity=(0.05, 0.15),
            drawn_age=(0, 0.5),
        ),
    )
}  # fmt: skip

_FORM = re.compile(r"(?P<name>[a-z_]+)(?:-(?P<signal>[a-z0-9_]+))?@(?P<house>[^:]+):(?P<day>[^+]+)(?:\+(?P<hours>.+))?")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault in one house: ``from_ms`` is its first instant, ``to_ms`` the first after it.

    ``signal`` is the sensor that it strikes, None where it strikes none. ``shape``, 0 to 1, says which of its courses
    it takes: how fast an outbreak rises, whether a drift goes up (below 0.5) or down.
    """

    name: str
    house: int
    from_ms: int
    to_ms: int
    severity: float
    signal: str | None = None
    shape: float = 0.25


@dataclass(frozen=True, slots=True)
class WantedFault:
    """A fault as the command line names it, relative to the start of the farm."""

    name: str
    house: str
    day: float
    hours: float
    signal: str | None = None

    def at(self, start_ms: int, house: int) -> Fault:
        """Return the fault in house number ``house`` of a farm that starts at ``start_ms``."""
        from_ms = start_ms + round(self.day * DAY_MS)
        to_ms = from_ms + round(self.hours * HOUR_MS)
        return Fault(self.name, house, from_ms, to_ms, FAULTS[self.name].severity, self.signal)


def fault_name(fault: Fault) -> str:
    """Return a fault's name as the command line takes it: with the signal, where it is not the usual one."""
    usual = FAULTS[fault.name].signals[:1]
    return fault.name if fault.signal is None or fault.signal in usual else f"{fault.name}-{fault.signal}"


def parse_fault(text: str, houses: Sequence[str], days: float) -> WantedFault:
    """Read ``NAME@HOUSE:DAY[+HOURS]``; ``sensor_stuck-humidity@house1:3`` sticks another sensor than the temperature.

    Raises:
        UsageError: the form, the name, the house or the day is wrong; the message names what there is.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        message = f"--fault {text!r} is not NAME@HOUSE:DAY[+HOURS]; for example water_line_blocked@house1:3+12"
        raise UsageError(message)
    name, signal, house = match["name"], match["signal"], match["house"]
    if name not in FAULTS:
        message = f"--fault {text!r}: there is no fault {name!r}; there are {', '.join(FAULTS)}"
        raise UsageError(message)
    if house not in houses:
        message = f"--fault {text!r}: there is no house {house!r}; there are {_some(houses)}"
        raise UsageError(message)
    signals = FAULTS[name].signals
    if signals:
        signal = signal or signals[0]
        if signal not in signals:
            message = f"--fault {text!r}: {name} does not strike {signal!r}; there are {', '.join(signals)}"
            raise UsageError(message)
    elif signal is not None:
        takers = ", ".join(kind.name for kind in FAULTS.values() if kind.signals)
        message = f"--fault {text!r}: only {takers} take a signal, write {name}@{house}:{match['day']}"
        raise UsageError(message)
    try:
        day, hours = float(match["day"]), float(match["hours"] or FAULTS[name].hours)
    except ValueError as e:
        message = f"--fault {text!r}: DAY and HOURS are numbers, as in {name}@{house}:3+12"
        raise UsageError(message) from e
    if not 0 <= day < days:
        message = f"--fault {text!r}: day {match['day']} is outside this farm's {days:g} days (0 up to {days:g})"
        raise UsageError(message)
    if not 0 < hours < float("inf"):
        message = f"--fault {text!r}: HOURS must be above 0"
        raise UsageError(message)
    return WantedFault(name, house, day, hours, signal)


def _some(houses: Sequence[str]) -> str:
    return ", ".join(houses) if len(houses) <= 8 else f"{houses[0]} … {houses[-1]}"


class SensorFault(NamedTuple):
    """What is wrong with one sensor at an instant."""

    name: str
    signal: str
    house: int
    size: float  # severity, by how far it has come
    shape: float


class Misread(NamedTuple):
    """What the house computers take for the truth, [houses] each: ``keeps`` times the truth, and ``adds``."""

    keeps: NDArray[np.float64]
    adds: NDArray[np.float64]


class FaultPlan:
    """All faults of a farm, and what they do to each house at an instant."""

    def __init__(self, faults: Iterable[Fault], farm_of: NDArray[np.intp]) -> None:
        """Take the faults of a farm; ``farm_of`` says which farm each house belongs to, and so which weather.

        Raises:
            UsageError: a fault names a house that is not there, or no fault there is.
        """
        houses = len(farm_of)
        self.faults = tuple(sorted(faults, key=lambda fault: (fault.from_ms, fault.house, fault.name)))
        for fault in self.faults:
            if fault.name not in FAULTS or not 0 <= fault.house < houses:
                message = (
                    f"fault {fault.name!r} in house {fault.house}: there are {houses} houses and {', '.join(FAULTS)}"
                )
                raise UsageError(message)
        self._from_ms = np.array([fault.from_ms for fault in self.faults], np.int64)
        self._to_ms = np.array([fault.to_ms for fault in self.faults], np.int64)
        self._farm_of = farm_of
        self._none = np.zeros(houses)
        self._none.flags.writeable = False

    def effects_at(self, at_ms: int) -> dict[str, NDArray[np.float64]]:
        """Return every effect in every house at ``at_ms``; of two faults with one effect, the larger counts."""
        effects = dict.fromkeys(EFFECTS, self._none)
        for fault in self._active(at_ms):
            for name, size in FAULTS[fault.name].acts(_moment(fault, at_ms)).items():
                if effects[name] is self._none:
                    effects[name] = self._none.copy()
                here = self._farm_of == self._farm_of[fault.house] if name == "warmer_k" else fault.house
                before = effects[name][fault.house]
                value = fault.severity * size
                effects[name][here] = value if abs(value) > abs(before) else before
        return effects

    def of_sensors_at(self, at_ms: int) -> list[SensorFault]:
        """Return what is wrong with sensors at ``at_ms``."""
        return [
            SensorFault(fault.name, fault.signal or FAULTS[fault.name].signals[0], fault.house, size, fault.shape)
            for fault in self._active(at_ms)
            if FAULTS[fault.name].signals
            for size in [fault.severity * (_moment(fault, at_ms).share if fault.name in _GROWING else 1.0)]
        ]

    def thinned_between(self, from_ms: int, to_ms: int) -> list[Fault]:
        """Return the thinnings that nobody tells, in a step."""
        begun = np.flatnonzero((self._from_ms >= from_ms) & (self._from_ms < to_ms))
        return [self.faults[i] for i in begun if self.faults[i].name == "thin_unrecorded"]

    def count_told(self, house: int, birds: int, placed_ms: int, end_ms: int) -> int:
        """Return how many chicks people say were placed."""
        for fault in self.faults:
            if (
                fault.name == "placement_wrong"
                and fault.house == house
                and fault.from_ms < end_ms
                and fault.to_ms > placed_ms
            ):
                up = fault.shape < 0.5
                return round(birds * (1 + fault.severity if up else 1 - fault.severity))
        return birds

    def _active(self, at_ms: int) -> list[Fault]:
        return [self.faults[i] for i in np.flatnonzero((self._from_ms <= at_ms) & (at_ms < self._to_ms))]


_GROWING = frozenset({"sensor_drift", "sensor_fouled"})


def _moment(fault: Fault, at_ms: int) -> Moment:
    since = at_ms - fault.from_ms
    return Moment(since / HOUR_MS, since / (fault.to_ms - fault.from_ms), fault.shape)
