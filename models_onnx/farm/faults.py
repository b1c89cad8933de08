"""Faults by name: how they are written, what they do, and the ground truth of when and where they were.

Effects are sizes between 0 (nothing) and 1 (all of it); ``FaultPlan.size_at`` gives them for all houses at an instant,
and the physics takes them from there. To add a fault, add a row to ``FAULTS`` and use its size where it acts. S71 is
Poultry Science 2023, 102(11):103021 (docs/sources.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True, slots=True)
class FaultKind:
    """What a fault of this name does when nobody says how long or how hard."""

    name: str
    does: str
    hours: float = 12.0
    severity: float = 1.0


FAULTS = {
    kind.name: kind
    for kind in (
        # our judgement, here and where nothing is said: a step that leaves little; no source has figures
        FaultKind("water_line_blocked", "severity is the share of the water that does not come", severity=0.85),
        FaultKind("feed_outage", "severity is the share of the feed that the augers do not bring"),
        FaultKind("ventilation_failure", "severity is the share of the fans' capacity that is lost", severity=0.97),
        FaultKind("heater_failure", "severity is the share of the heat that is lost"),
        # the course of [S71]: intake -19 %, gain -40 % at its worst, five thirteenths of the way through
        FaultKind("disease", "severity scales the course of a coccidiosis challenge", hours=7 * 24),
        FaultKind("sensor_stuck", "the sensor repeats its last value"),
    )
}

STUCK_BY_DEFAULT = "temperature"
STICKABLE = (
    "temperature", "humidity", "co2", "ammonia", "ventilation", "heating", "water", "feed", "weight", "light",
    "outside_temperature", "outside_humidity", "silo",
)  # fmt: skip

DISEASE_PEAK = 5 / 13  # of the course: worst 5 days after infection, over after 13 [S71]

_FORM = re.compile(r"(?P<name>[a-z_]+)(?:-(?P<signal>[a-z0-9_]+))?@(?P<house>[^:]+):(?P<day>[^+]+)(?:\+(?P<hours>.+))?")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault in one house: ``from_ms`` is its first instant, ``to_ms`` the first after it.

    ``signal`` is what a ``sensor_stuck`` sticks; it means nothing to the others.
    """

    name: str
    house: int
    from_ms: int
    to_ms: int
    severity: float
    signal: str | None = None


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
    if name == "sensor_stuck":
        signal = signal or STUCK_BY_DEFAULT
        if signal not in STICKABLE:
            message = f"--fault {text!r}: no sensor {signal!r} can stick; there are {', '.join(STICKABLE)}"
            raise UsageError(message)
    elif signal is not None:
        message = f"--fault {text!r}: only sensor_stuck takes a signal, write {name}@{house}:{match['day']}"
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


class FaultPlan:
    """All faults of a farm, and how hard each kind hits each house at an instant."""

    def __init__(self, faults: Iterable[Fault], houses: int) -> None:
        """Take the faults of a farm of ``houses`` houses.

        Raises:
            UsageError: a fault names a house that is not there, or no fault there is.
        """
        self.faults = tuple(sorted(faults, key=lambda fault: (fault.from_ms, fault.house, fault.name)))
        for fault in self.faults:
            if fault.name not in FAULTS or not 0 <= fault.house < houses:
                message = (
                    f"fault {fault.name!r} in house {fault.house}: there are {houses} houses and {', '.join(FAULTS)}"
                )
                raise UsageError(message)
        self._from_ms = np.array([fault.from_ms for fault in self.faults], np.int64)
        self._to_ms = np.array([fault.to_ms for fault in self.faults], np.int64)
        self._none = np.zeros(houses)
        self._none.flags.writeable = False

    def size_at(self, at_ms: int) -> dict[str, NDArray[np.float64]]:
        """Return for every kind of fault its size in every house at ``at_ms``: 0 where there is none."""
        sizes = dict.fromkeys(FAULTS, self._none)
        for fault in self._active(at_ms):
            if fault.name == "sensor_stuck":
                continue
            if sizes[fault.name] is self._none:
                sizes[fault.name] = self._none.copy()
            size = fault.severity * (_course(fault, at_ms) if fault.name == "disease" else 1.0)
            sizes[fault.name][fault.house] = max(sizes[fault.name][fault.house], size)
        return sizes

    def stuck_at(self, at_ms: int) -> list[tuple[str, int]]:
        """Return the sensors, as (signal, house), that are stuck at ``at_ms``."""
        return [
            (fault.signal or STUCK_BY_DEFAULT, fault.house)
            for fault in self._active(at_ms)
            if fault.name == "sensor_stuck"
        ]

    def _active(self, at_ms: int) -> list[Fault]:
        return [self.faults[i] for i in np.flatnonzero((self._from_ms <= at_ms) & (at_ms < self._to_ms))]


def _course(fault: Fault, at_ms: int) -> float:
    """Return how far a disease has come, 0 to 1: up to its worst, then back, in straight lines [S71]."""
    share = (at_ms - fault.from_ms) / (fault.to_ms - fault.from_ms)
    return min(share / DISEASE_PEAK, (1 - share) / (1 - DISEASE_PEAK))
