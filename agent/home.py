"""Home Assistant: each house as a device that appears by itself, with its sensors, warnings and predictions.

Opt-in by ``[mqtt] home_assistant``. Two retained messages of each house: the discovery, by which Home Assistant makes
the device and its entities (device-based MQTT discovery, Home Assistant 2024.12 and later), and the summary that they
all read: one JSON of what is known of the house now, whatever dialect its sensors speak. What was ever told of a house
is remembered, so that an entity does not go with a restart, and goes with its house.
"""

from __future__ import annotations

import importlib.metadata
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.alerts import alert, iso
from agent.domain import Kind, Quality, SeriesKey, Severity, WarningState
from agent.signals import CATALOGUE, base_of
from agent.site import SITE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from agent.bus import Bus
    from agent.config import Config
    from agent.domain import WarningEvent
    from agent.readings import Readings
    from agent.topics import Topics
    from agent.watch import HouseWatch

SAID_EVERY_S = 60.0
UNKNOWN_AFTER_S = 180  # Home Assistant shows nothing that is older
STATE_CHARS = 255  # the longest state that Home Assistant takes
CLASSES: dict[str, tuple[str | None, str | None]] = {
    "temperature": ("temperature", "°C"),
    "outside_temperature": ("temperature", "°C"),
    "humidity": ("humidity", "%"),
    "outside_humidity": ("humidity", "%"),
    "co2": ("carbon_dioxide", "ppm"),
    "pressure": ("pressure", "Pa"),
    "air_speed": ("speed", "m/s"),
    "light": ("illuminance", "lx"),
    "silo": ("weight", "kg"),
    "weight": ("weight", "g"),
    "weight_sd": ("weight", "g"),
    "water": ("water", "L"),
    "energy": ("energy", "kWh"),
}
"""Of each signal the class and unit that Home Assistant has for it; all else has its own unit, and no class."""
_SEVERITIES = [severity.name.lower() for severity in Severity]
_UNSHELVED = (WarningState.ACTIVE.value, WarningState.ACKNOWLEDGED.value)

Known = dict[str, list[str]]
"""What was ever told of a house: the names of its ``sensors``, ``rules`` and ``predictions`` (target/horizon)."""


class Home:
    """What Home Assistant is told of the houses, and of the site."""

    def __init__(self, config: Config, topics: Topics, kept: str | None, monotonic: float) -> None:
        """Go on from what was ``kept``."""
        self._config, self._topics = config, topics
        self._prefix = config.mqtt.home_assistant
        document = json.loads(kept or "{}")
        houses = {house.id for house in config.house}
        known: dict[str, Known] = document.get("houses", {})
        self._known = {house: of_house for house, of_house in known.items() if house in houses}
        self._gone: set[str] = set(document.get("topics", ()))  # said by one before us; what we do not say is to go
        self._newest: dict[SeriesKey, tuple[int, float | None]] = {}
        self._shown: dict[str, bytes] = {}
        self._said: dict[str, object] = {}  # by house: what brings the next summary at once
        self._due = monotonic

    @property
    def is_on(self) -> bool:
        """Whether Home Assistant is to be told anything."""
        return bool(self._prefix)

    @property
    def wants(self) -> tuple[str, ...]:
        """The base signals whose amounts of the day are to be known."""
        return tuple(name for name, signal in CATALOGUE.items() if signal.kind is Kind.INCREMENT) if self.is_on else ()

    def take_over(self, before: Home) -> None:
        """Take the place of one that knows more, for nothing could be kept."""
        self._known, self._newest, self._shown = before._known, before._newest, before._shown

    def kept(self) -> str:
        """Return what is to be kept for a restart."""
        return json.dumps({"houses": self._known, "topics": sorted(self._shown)}, sort_keys=True)

    def hear(self, readings: Readings) -> None:
        """Take the newest value of each sensor; one that is not good is not known."""
        if not (self._prefix and len(readings)):
            return
        used, from_end = np.unique(readings.key[::-1], return_index=True)
        for key, back in zip(used.tolist(), from_end.tolist(), strict=True):
            row = len(readings) - 1 - back
            at_ms = int(readings.at_ms[row])
            if at_ms >= self._newest.get(readings.keys[key], (0, None))[0]:
                is_good = readings.quality[row] == Quality.GOOD
                self._newest[readings.keys[key]] = at_ms, float(readings.value[row]) if is_good else None

    def show(
        self,
        bus: Bus,
        watches: Sequence[HouseWatch],
        standing: Iterable[WarningEvent],
        predicted: Callable[[], Mapping[str, Mapping[str, Any]]],
        now: datetime,
        monotonic: float,
        *,
        anew: bool,
    ) -> None:
        """Bring the retained topics to what is known now: at once where a warning changed, else once a minute."""
        if self._prefix:
            is_due = anew or monotonic >= self._due
            if is_due:
                self._due = monotonic + SAID_EVERY_S
            events = list(standing)
            for watch in watches:
                of_house = [event for event in events if event.standing.house == watch.house]
                key = [(e.standing.rule, e.standing.state, e.standing.severity) for e in of_house], watch.life.state
                if is_due or self._said.get(watch.house) != key:
                    self._said[watch.house] = key
                    summary = self._summary(watch, of_house, predicted(), now)
                    self._say(bus, self._topics.summary(watch.house), summary, anew=True)
                    self._discover(bus, watch, anew=anew)
            on_site = [event for event in events if event.standing.house == SITE]
            if is_due:
                summary = {"at": iso(now), **_warnings_value(on_site), "readings": {}, "today": {}, "predictions": {}}
                self._say(bus, self._topics.summary(SITE), summary, anew=True)
                self._say(bus, self._discovery(SITE), self._site_device(), anew=anew)
        for topic in self._gone - self._shown.keys():
            bus.publish(topic, b"", retain=True)
        self._gone.clear()

    def _say(self, bus: Bus, topic: str, value: Mapping[str, object], *, anew: bool) -> None:
        payload = json.dumps(value).encode()
        if anew or self._shown.get(topic) != payload:
            bus.publish(topic, payload, retain=True)
            self._shown[topic] = payload

    # --- the summary

    def _summary(
        self,
        watch: HouseWatch,
        events: Sequence[WarningEvent],
        predicted: Mapping[str, Mapping[str, Any]],
        now: datetime,
    ) -> dict[str, object]:
        """Return what is known of a house now, and remember what there is of it."""
        known = self._known.setdefault(watch.house, {"sensors": [], "rules": [], "predictions": []})
        heard = watch.heard_of()
        readings: dict[str, float | None] = {}
        for name in heard:
            key = SeriesKey(watch.house, name)
            if self._config.signal(key).kind is Kind.GAUGE:
                readings[name] = _short(self._newest.get(key, (0, None))[1])
        days = self._config.site.days
        date = days.date_of(now)
        today: dict[str, float | None] = {}
        for name in sorted({base_of(name) for name in heard} & set(self.wants)):
            totals = dict(watch.window.day_totals([name], date))
            today[name] = _short(totals.get(date, 0.0))
        predictions: dict[str, dict[str, object]] = {}
        for topic, document in predicted.items():
            if topic.startswith(self._topics.prediction(watch.house, "")) and watch.life.flock is not None:
                for horizon in document.get("horizons", ()):
                    predictions[f"{document['target']}/{horizon['horizon']}"] = horizon
        _remember(known["sensors"], [*readings, *today])
        _remember(known["rules"], watch.standings)
        _remember(known["predictions"], predictions)
        flock = watch.life.flock
        newest = watch.last_reading_at()
        return {
            "at": iso(now),
            "house": watch.house,
            "state": watch.life.state.value,
            "flock": None if flock is None else flock.flock,
            "day_number": watch.day_number(now),
            "last_reading_at": iso(newest),
            "readings": readings,
            "today": today,
            "day_began_at": iso(days.start_of(date)),
            "predictions": predictions,
            **_warnings_value(events),
        }

    # --- the discovery

    def _discovery(self, house: str) -> str:
        return f"{self._prefix}/device/{self._id(house)}/config"

    def _id(self, house: str) -> str:
        return f"flockwatch_{self._config.site.id}" + ("" if house == SITE else f"_{house}")

    def _discover(self, bus: Bus, watch: HouseWatch, *, anew: bool) -> None:
        known = self._known[watch.house]
        components = {
            **_common(),
            "house_state": _sensor("State of the house", "{{ value_json.state }}"),
            "day_number": _sensor("Age of the flock", "{{ value_json.day_number }}", unit="d"),
            "last_reading": _sensor(
                "Last reading",
                "{{ value_json.last_reading_at }}",
                device_class="timestamp",
                entity_category="diagnostic",
            ),
        }
        for name in known["sensors"]:
            components[f"sensor_{name}"] = self._signal(watch.house, name)
        for rule in known["rules"]:
            components[f"warning_{rule}"] = _warning(rule)
        for name in known["predictions"]:
            target, _, horizon = name.partition("/")
            unit = "g" if target.endswith("_g") else None
            components[f"prediction_{target}_{horizon}"] = _sensor(
                f"Predicted {target.removesuffix('_g')}, {horizon}",
                f"{{{{ (value_json.predictions.get('{name}') or {{}}).get('p50') }}}}",
                unit=unit,
                device_class="weight" if target == "weight_g" else None,
                attributes=f"value_json.predictions.get('{name}')",
            )
        name = next((house.name for house in self._config.house if house.id == watch.house and house.name), watch.house)
        device = {"name": name, "model": "broiler house", "suggested_area": name, "via_device": self._id(SITE)}
        self._say(bus, self._discovery(watch.house), self._device(watch.house, device, components), anew=anew)

    def _site_device(self) -> dict[str, object]:
        components = _common() | {"clock": _sensor("Last heard", "{{ value_json.at }}", device_class="timestamp")}
        device: dict[str, object] = {"name": f"flockwatch {self._config.site.id}", "model": "gateway"}
        return self._device(SITE, device, components)

    def _device(
        self, house: str, device: Mapping[str, object], components: Mapping[str, Mapping[str, object]]
    ) -> dict[str, object]:
        """Return a discovery document, with what its entities have in common."""
        own = self._id(house)
        version = importlib.metadata.version("flockwatch")
        return {
            "device": {"identifiers": [own], "manufacturer": "flockwatch", "sw_version": version, **device},
            "origin": {"name": "flockwatch", "sw_version": version},
            "state_topic": self._topics.summary(house),
            "availability": [
                {
                    "topic": self._topics.health,
                    "value_template": "{{ value_json.state }}",
                    "payload_available": "online",
                    "payload_not_available": "offline",
                }
            ],
            "qos": 1,
            "components": {
                name: {
                    "unique_id": f"{own}_{name}",
                    **component,
                    **(
                        {"json_attributes_topic": self._topics.summary(house)}
                        if "json_attributes_template" in component
                        else {}
                    ),
                }
                for name, component in components.items()
            },
        }

    def _signal(self, house: str, name: str) -> dict[str, object]:
        """Return the entity of a sensor, or of the day's amount of a signal."""
        base = base_of(name)
        signal = self._config.signal(SeriesKey(house, name))
        device_class, unit = CLASSES.get(base, (None, signal.unit))
        if base in CATALOGUE and signal.unit != CATALOGUE[base].unit:  # the house measures it in another unit
            device_class, unit = None, signal.unit
        if unit == "%RH":
            unit = "%"
        spoken = name.replace("_", " ").capitalize()
        if signal.kind is Kind.GAUGE:
            template = f"{{{{ value_json.readings.get('{name}') }}}}"
            return _sensor(spoken, template, unit=unit, device_class=device_class, state_class="measurement")
        entity = _sensor(
            f"{spoken} today",
            f"{{{{ value_json.today.get('{name}') }}}}",
            unit=unit,
            device_class=device_class,
            state_class="total",
        )
        return entity | {"last_reset_value_template": "{{ value_json.day_began_at }}"}


def _warnings_value(events: Collection[WarningEvent]) -> dict[str, object]:
    """Return what stands, the worst of it in words."""
    shown = {event.standing.rule: alert(event) for event in events}
    unshelved = [w for w in shown.values() if w["state"] in _UNSHELVED]
    worst = max(unshelved, key=lambda w: int(str(w["severity"])), default=None)
    severity = 0 if worst is None else int(str(worst["severity"]))
    return {
        "severity": severity,
        "severity_word": _SEVERITIES[severity],
        "text": "none stands" if worst is None else worst["text"],
        "warnings": shown,
    }


def _common() -> dict[str, dict[str, object]]:
    return {
        "problem": {
            "platform": "binary_sensor",
            "name": "Warning",
            "device_class": "problem",
            "value_template": "{{ 'ON' if value_json.severity > 0 else 'OFF' }}",
            "expire_after": UNKNOWN_AFTER_S,
        },
        "severity": _sensor("Severity", "{{ value_json.severity_word }}", device_class="enum")
        | {"options": _SEVERITIES},
        "text": _sensor("Worst warning", f"{{{{ value_json.text[:{STATE_CHARS}] }}}}"),
    }


def _warning(rule: str) -> dict[str, object]:
    found = f"value_json.warnings.get('{rule}')"
    return {
        "platform": "binary_sensor",
        "name": rule.replace("-", " ", 1).replace("_", " ").capitalize(),
        "device_class": "problem",
        "value_template": f"{{{{ 'ON' if ({found} or {{}}).get('state') in {_UNSHELVED} else 'OFF' }}}}",
        "json_attributes_template": f"{{{{ ({found} or {{}}) | tojson }}}}",
        "expire_after": UNKNOWN_AFTER_S,
    }


def _sensor(
    name: str,
    template: str,
    *,
    unit: str | None = None,
    device_class: str | None = None,
    state_class: str | None = None,
    entity_category: str | None = None,
    attributes: str | None = None,
) -> dict[str, object]:
    entity = {
        "platform": "sensor",
        "name": name,
        "value_template": template,
        "unit_of_measurement": unit,
        "device_class": device_class,
        "state_class": state_class,
        "entity_category": entity_category,
        "json_attributes_template": attributes and f"{{{{ ({attributes} or {{}}) | tojson }}}}",
        "expire_after": UNKNOWN_AFTER_S,
    }
    return {key: value for key, value in entity.items() if value is not None}


def _remember(known: list[str], names: Iterable[str]) -> None:
    known += sorted(set(names) - set(known))


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
