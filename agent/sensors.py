"""The sensors of one house, as far as they are silent or stuck; where all are silent, that is one thing, not forty."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from math import isnan
from typing import TYPE_CHECKING, TypeAlias

from agent.domain import Evidence, Quality, SeriesKey, from_ms, to_ms
from agent.languages import msg
from agent.signals import base_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from agent.domain import Doubt, QualityInterval, WarningRule
    from agent.readings import Readings
    from agent.signals import Signal

SILENCE_S = 5.0
"""Silence counts only if it has also lasted this long in real time: on an accelerated farm ten minutes are a blink."""

SEEN_WITHIN = timedelta(days=2)
"""A sensor that has been silent for longer is gone, not missing: its warning has stood for two days."""

SHORTEST_INTERVAL_S = 100.0
"""Sensors that report every second may well pause for a few minutes: they are taken as slower ones here."""

TOLD_BY_PEOPLE = frozenset({"dead", "culled"})
"""What people tell, once or twice a day, is no sensor that could be missing."""

NOTHING = Evidence(0.0)
_QUALITIES = tuple(Quality)  # by number: an index costs a tenth of a call of the enum

_FAULTS = {
    Quality.STUCK: msg("{sensor} has been stuck {since}"),
    Quality.OUT_OF_RANGE: msg("{sensor} has shown what cannot be {since}"),
    Quality.JUMP: msg("{sensor} has jumped about {since}"),
    Quality.SUSPECT: msg("{sensor} seems to have sent another unit {since}"),
}
_STILL_DOUBTED = 0.8  # within the deadband of its rule: it is over when its peers say so


Why: TypeAlias = tuple[str, dict[str, str | float]]
"""Why nobody can say: a message of agent/languages.py, and what stands in its places (``Evidence.why_values``)."""


@dataclass(slots=True)
class _Sensor:
    """The last that was heard of one sensor."""

    last_ms: int
    monotonic: float
    quality: Quality | None = None  # None: not since the restart
    value: float = float("nan")
    bad_since_ms: int | None = None  # since when its quality has been what it is now, where that is not good
    fault: QualityInterval | None = None  # what lasts, as its own series shows it
    doubt: Doubt | None = None  # what lasts, as its peers show it


class Sensors:
    """What was last heard of each sensor of a house, in event time and in real time."""

    def __init__(
        self,
        house: str,
        signal: Callable[[SeriesKey], Signal],
        rule: Callable[[str], WarningRule | None],
        rhythm_s: Callable[[SeriesKey], float | None],
        started_monotonic: float,
    ) -> None:
        self.newest_ms = 0  # of all sensors
        self._house = house
        self._signal = signal
        self._rule = rule
        self._rhythm_s = rhythm_s
        self._heard_monotonic = started_monotonic
        self._sensors: dict[str, _Sensor] = {}

    def restore(self, newest_ms: Mapping[str, int]) -> None:
        """Take back the newest times from before a restart: a sensor that was silent then is silent now."""
        self._sensors = {name: _Sensor(at_ms, self._heard_monotonic) for name, at_ms in newest_ms.items()}
        self.newest_ms = max(newest_ms.values(), default=0)

    def hear(self, readings: Readings, monotonic: float) -> set[str]:
        """Take readings of this house; return the names of the sensors that they are of."""
        self._heard_monotonic = monotonic
        at_ms = readings.at_ms.tolist()
        newest: dict[int, int] = {}  # key -> the first of its newest readings
        for number, key in enumerate(readings.key.tolist()):
            if key not in newest or at_ms[number] > at_ms[newest[key]]:
                newest[key] = number
        which = list(newest.values())
        heard = [readings.keys[key].signal for key in newest]
        columns = readings.quality[which].tolist(), readings.value[which].tolist()
        for name, number, quality, value in zip(heard, which, *columns, strict=True):
            self._hear(name, at_ms[number], _QUALITIES[quality], value, monotonic)
        return set(heard)

    def _hear(self, name: str, at_ms: int, quality: Quality, value: float, monotonic: float) -> None:
        self.newest_ms = max(self.newest_ms, at_ms)
        sensor = self._sensors.get(name)
        if sensor is None:
            sensor = self._sensors[name] = _Sensor(at_ms, monotonic)
        sensor.monotonic = monotonic
        if at_ms < sensor.last_ms:
            return
        if quality is not sensor.quality:
            sensor.bad_since_ms = None if quality is Quality.GOOD else at_ms
        sensor.last_ms, sensor.quality, sensor.value = at_ms, quality, value

    def note(self, interval: QualityInterval) -> None:
        """Take note of an interval of bad quality that began or ended in one of the sensors."""
        sensor = self._sensors.get(interval.key.signal)
        if sensor is None:
            return
        if interval.to_ms is None:
            sensor.fault = interval
        elif sensor.fault is not None and sensor.fault.quality is interval.quality:  # a gap may end while another lasts
            sensor.fault = None

    def doubt(self, name: str, doubt: Doubt | None) -> None:
        """Take note that a sensor's peers show something else; None: no more."""
        sensor = self._sensors.get(name)
        if sensor is not None:
            sensor.doubt = doubt

    def why_unknown(self, signal: str, at: datetime) -> Why | None:
        """Return why a base signal is not known at ``at``, and since when; None where its sensors are well."""
        for name, sensor in self._sensors.items():
            if base_of(name) != signal:
                continue
            if sensor.doubt is not None:
                return _why(msg("{sensor} has disagreed with the others {since}"), name, sensor.doubt.since_ms)
            quality, since_ms = sensor.quality, sensor.bad_since_ms
            if sensor.fault is not None:  # it was noticed late, or one good reading is not enough to believe it
                quality, since_ms = sensor.fault.quality, sensor.fault.from_ms
            if quality in _FAULTS and since_ms is not None:
                return _why(_FAULTS[quality], name, since_ms)
            if self._silence(f"missing-{name}", sensor.last_ms, (name,), at):
                return _why(msg("{sensor} has been silent {since}"), name, sensor.last_ms)
        return None

    def names(self) -> list[str]:
        """Return the sensors that were heard of lately."""
        return list(self._sensors)

    def state_of(self, signal: str, state: str, at: datetime) -> float:
        """Return 1 where a sensor of a base signal is in ``state`` at ``at``, else 0; NaN where there is none.

        The states are those of ``manifest.SENSOR_STATES``.
        """
        mine = [(name, sensor) for name, sensor in self._sensors.items() if base_of(name) == signal]
        return float(any(self._is(state, *known, at) for known in mine)) if mine else float("nan")

    def _is(self, state: str, name: str, sensor: _Sensor, at: datetime) -> bool:
        if state == "silent":
            return self._silence(f"missing-{name}", sensor.last_ms, (name,), at) is not None
        if state == "disagree":
            return sensor.doubt is not None
        quality = Quality[state.upper()]
        return sensor.quality is quality or (sensor.fault is not None and sensor.fault.quality is quality)

    def is_quiet(self, monotonic: float) -> bool:
        """Tell whether nothing has come from this house for a while of real time."""
        return monotonic - self._heard_monotonic >= SILENCE_S

    def any_overdue(self, at: datetime) -> bool:
        """Tell whether any sensor is silent for so long that somebody may want to hear of it."""
        oldest_ms = to_ms(at - SEEN_WITHIN)
        return any(
            s.last_ms >= oldest_ms and self._silence(f"missing-{name}", s.last_ms, (name,), at)
            for name, s in self._sensors.items()
        )

    def evidence(self, at: datetime, monotonic: float) -> dict[str, Evidence]:
        """Return by rule how silent and how stuck the sensors are at ``at``."""
        house = NOTHING
        if self.is_quiet(monotonic):
            house = self._silence("silent", self.newest_ms, self._sensors, at) or NOTHING
        if house is NOTHING:  # while the whole house is silent, nobody is gone
            oldest_ms = to_ms(at - SEEN_WITHIN)
            self._sensors = {name: sensor for name, sensor in self._sensors.items() if sensor.last_ms >= oldest_ms}
        evidence = {"silent": house}
        for name, sensor in self._sensors.items():
            silence: Evidence | None = NOTHING
            if monotonic - sensor.monotonic >= SILENCE_S:
                silence = self._silence(f"missing-{name}", sensor.last_ms, (name,), at)
            elif sensor.quality is None:
                silence = Evidence(None, why=msg("no reading since the start"))
            evidence[f"missing-{name}"] = silence or NOTHING
            evidence[f"stuck-{name}"] = self._stuck(name, sensor)
            evidence[f"disagree-{name}"] = self._disagreement(name, sensor.doubt)
            if self._rule(f"range-{name}") is not None:
                is_beyond = sensor.quality is Quality.OUT_OF_RANGE
                evidence[f"range-{name}"] = self._beyond(name, sensor) if is_beyond else NOTHING
        return evidence

    def unbelieved(self, signal: str, at: datetime) -> float | None:
        """Return what a sensor of a base signal shows that is heard of and not believed; None where there is none."""
        for name, sensor in self._sensors.items():
            if base_of(name) != signal or sensor.quality in {None, Quality.GOOD} or isnan(sensor.value):
                continue
            if self._silence(f"missing-{name}", sensor.last_ms, (name,), at) is None:
                return sensor.value
        return None

    def _interval_s(self, name: str) -> float | None:
        """Return the seconds after which a sensor's next reading is due; None where that is not known."""
        rhythm_s = None if base_of(name) in TOLD_BY_PEOPLE else self._rhythm_s(SeriesKey(self._house, name))
        return None if rhythm_s is None else max(rhythm_s, SHORTEST_INTERVAL_S)

    def _silence(self, rule_name: str, last_ms: int, names: Iterable[str], at: datetime) -> Evidence | None:
        """Return a silence of the named sensors in multiples of the rule's threshold; None short of it."""
        rule = self._rule(rule_name)
        silent_s = (to_ms(at) - last_ms) / 1000
        if (
            rule is None or silent_s < SHORTEST_INTERVAL_S * rule.threshold
        ):  # nearly always: then nobody's rhythm matters
            return None
        usual = [interval_s for name in names if (interval_s := self._interval_s(name)) is not None]
        if not usual:
            return None
        score = silent_s / (min(usual) * rule.threshold)
        return Evidence(score, actual=silent_s, unit="s", since=from_ms(last_ms)) if score >= 1 else None

    def _stuck(self, name: str, sensor: _Sensor) -> Evidence:
        if sensor.quality is None:
            return Evidence(None, why=msg("no reading since the start"))
        if sensor.quality is not Quality.STUCK or sensor.bad_since_ms is None:
            return NOTHING
        signal = self._signal(SeriesKey(self._house, name))
        since_ms = sensor.bad_since_ms
        if sensor.fault is not None and sensor.fault.quality is Quality.STUCK:  # it was noticed late
            since_ms = sensor.fault.from_ms
        return Evidence(1.0, actual=sensor.value, unit=signal.unit, since=from_ms(since_ms))

    def _beyond(self, name: str, sensor: _Sensor) -> Evidence:
        signal = self._signal(SeriesKey(self._house, name))
        since = None if sensor.bad_since_ms is None else from_ms(sensor.bad_since_ms)
        return Evidence(1.0, actual=sensor.value, low=signal.low, high=signal.high, unit=signal.unit, since=since)

    def _disagreement(self, name: str, doubt: Doubt | None) -> Evidence:
        if doubt is None:
            return NOTHING
        unit = self._signal(SeriesKey(self._house, name)).unit
        return Evidence(
            max(doubt.score, _STILL_DOUBTED),
            doubt.reason,
            actual=doubt.actual,
            expected=doubt.expected,
            unit=unit,
            since=from_ms(doubt.since_ms),
        )


def _why(message: str, sensor: str, since_ms: int) -> Why:
    return message, {"sensor": sensor, "since_ms": since_ms}
