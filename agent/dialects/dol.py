"""Dialect ``dol``: the messages of dol-sensors' gateways (iDOL 63, 64, 65), one JSON object or a list of them.

Their shape is public (github.com/dol-sensors-A-S/dol.IoT.Models, ``DataMessage``)::

    {"id": "54b2…", "deviceId": "00abcd1234ef", "sensorId": "70b3…", "sensorName": "dol53 north",
     "value": 2.2, "type": "Ammonia", "unit": "ppm", "timestamp": 1700572959}

Weights also carry ``count`` and ``sd`` (of the last 24 hours), and ``withinSpec``, which is false below 300 weighed
animals: such a value is kept, and marked as suspect. ``value`` 0 with ``count`` 0 is no data, not zero kilograms.
What a device says of itself (connection, inactive sensors, batteries, camera) is recognised as no reading.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from agent.dialects.values import MOST_VALUES, SECONDS_BELOW, Refusal, Refused, Sample, document_of
from agent.domain import Quality
from agent.signals import base_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.config import Source
    from agent.dialects.values import Parse

HOLDS_S = 3600  # a sensor keeps its name so long after its last reading: six times the usual sample time of 600 s
SENSORS_KEPT = 20_000  # as many as there may be series
LONGEST_WORD = 200  # characters of an id, a name or a unit

_STATUS = frozenset({"state", "inactiveSensors", "visionStatus", "batteryUpdates"})
"""Members that tell the four kinds of status message; none of them has a ``value``."""

_SIGNALS = {
    "temperature": "temperature",
    "humidity": "humidity",
    "co2": "co2",
    "carbondioxide": "co2",
    "ammonia": "ammonia",
    "nh3": "ammonia",
    "pressure": "pressure",
    "airspeed": "air_speed",
    "light": "light",
    "lux": "light",
    "water": "water",
    "weight": "weight",
}
"""Our signal for a ``type``, written small and without signs."""

_UNITS = {
    "°C": "Cel",
    "ºC": "Cel",
    "C": "Cel",
    "Celsius": "Cel",
    "celsius": "Cel",
    "% RH": "%RH",
    "RH%": "%RH",
    "Pascal": "Pa",
    "Lux": "lx",
    "lux": "lx",
    "L": "l",
    "liter": "l",
    "Liter": "l",
    "litre": "l",
    "m³": "m3",
    "Kg": "kg",
    "PPM": "ppm",
}
"""SenML's word for a unit: the vendor's are free texts."""


class Sensors:
    """The sensors of one source: what each measures, and in which house."""

    def __init__(self, source: Source) -> None:
        """Take names of sensors, and the houses of sensors and devices, from ``source``."""
        self._rename = source.rename
        self._houses = source.houses
        self._holders: dict[tuple[str, str], tuple[str, float]] = {}  # (house, signal) -> the sensor, its last time

    def parser(self, _topic: str, fields: Mapping[str, str]) -> Parse:
        """Return how to read the payloads of one topic."""
        return partial(self._parse, fields.get("house", ""))

    def _parse(self, house: str, payload: bytes, _signal: str) -> Sequence[Sample | Refused] | Refusal:
        document = document_of(payload)
        if isinstance(document, Refusal):
            return document
        records = document if isinstance(document, list) else [document]
        if len(records) > MOST_VALUES:
            return Refusal.TOO_MANY_VALUES
        taken: list[Sample | Refused] = []
        for record in records:
            if isinstance(record, dict):
                self._take(record, house, taken)
            else:
                taken.append(Refused(Refusal.WRONG_TYPE))
        return taken or Refusal.NO_VALUE

    def _take(self, record: dict[str, object], house: str, taken: list[Sample | Refused]) -> None:
        """Add what one object says."""
        if "value" not in record:
            taken.append(Refused(Refusal.NO_VALUE if _STATUS.isdisjoint(record) else Refusal.STATUS))
            return
        value, count, at = record["value"], record.get("count"), record.get("timestamp")
        if value == 0 and count == 0:
            taken.append(Refused(Refusal.NO_DATA))
            return
        device, sensor, name, kind, unit = (
            _text(record.get(key)) for key in ("deviceId", "sensorId", "sensorName", "type", "unit")
        )
        house = self._houses.get(sensor) or self._houses.get(device) or house
        if not house:
            taken.append(Refused(Refusal.UNKNOWN_HOUSE, device or sensor))
            return
        signal = self._signal_of(sensor, name, kind)
        if not self._holds(house, signal, sensor or name, at):
            taken.append(Refused(Refusal.SECOND_SENSOR, f"{signal} of {sensor or name}"))
            return
        unit = _UNITS.get(unit, unit)
        quality = Quality.SUSPECT if record.get("withinSpec") is False else Quality.GOOD
        taken.append(Sample(signal, value, at, house=house, unit=unit, quality=quality))
        if base_of(signal) == "weight":
            number = signal.removeprefix("weight")  # "", or "-2" of the second scale
            if count is not None:
                taken.append(Sample(f"weight_count{number}", count, at, house=house, quality=quality))
            if (sd := record.get("sd")) is not None:
                taken.append(Sample(f"weight_sd{number}", sd, at, house=house, unit=unit, quality=quality))

    def _signal_of(self, sensor: str, name: str, kind: str) -> str:
        """Return our name of what a sensor measures: the configuration's word for it, else its type's."""
        for word in (sensor, name, kind):
            if word in self._rename:
                return self._rename[word]
        plain = "".join(letter for letter in kind.lower() if letter.isalnum())
        return _SIGNALS.get(plain, plain)

    def _holds(self, house: str, signal: str, sensor: str, at: object) -> bool:
        """Tell whether a signal of a house is this sensor's: two sensors under one name would pass for one that jumps.

        A sensor that replaces another has its name once the other has been silent for an hour.
        """
        at_s = _seconds(at)
        holder, last_s = self._holders.get((house, signal), (sensor, at_s))
        if holder != sensor and at_s - last_s < HOLDS_S:
            return False
        if len(self._holders) >= SENSORS_KEPT:
            self._holders.clear()
        self._holders[house, signal] = (sensor, max(at_s, last_s) if holder == sensor else at_s)
        return True


def _seconds(at: object) -> float:
    """Return a sender's time in seconds, near enough to tell an hour of silence.

    0 for what is refused later, or told by the arrival: then the first sensor keeps its name.
    """
    if isinstance(at, str):
        with suppress(ValueError, OverflowError):
            return datetime.fromisoformat(at[:LONGEST_WORD]).timestamp()
    if isinstance(at, (int, float)) and 0 <= at < SECONDS_BELOW * 1000:
        return float(at) if at < SECONDS_BELOW else at / 1000
    return 0.0


def _text(word: object) -> str:
    """Return a word of the sender, "" where it is none."""
    return word[:LONGEST_WORD] if isinstance(word, str) else ""
