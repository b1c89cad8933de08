"""Run by the Python of a real Home Assistant: would it take these discovery documents, and what would it show?

Standard input: ``{"documents": {topic: discovery}, "states": {topic: payload}}``. Standard output: ``version``,
``is_whole`` (it knows device-based discovery, of 2024.12 and later; an older one is asked about each entity as the
newer ones hand it to the same platforms), ``problems``, and by unique id what each entity shows.
"""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import sys
import tempfile
from typing import Any

import homeassistant.const
from homeassistant.components.mqtt import binary_sensor, discovery, sensor
from homeassistant.components.sensor.const import DEVICE_CLASS_STATE_CLASSES, DEVICE_CLASS_UNITS
from homeassistant.core import HomeAssistant

try:
    from homeassistant.components.mqtt.schemas import (
        DEVICE_DISCOVERY_SCHEMA,
        MQTT_ENTITY_DEVICE_INFO_SCHEMA,
        MQTT_ORIGIN_INFO_SCHEMA,
    )
except ImportError:
    from homeassistant.components.mqtt.mixins import MQTT_ENTITY_DEVICE_INFO_SCHEMA, MQTT_ORIGIN_INFO_SCHEMA

    DEVICE_DISCOVERY_SCHEMA = None

PLATFORMS = {"sensor": sensor.DISCOVERY_SCHEMA, "binary_sensor": binary_sensor.DISCOVERY_SCHEMA}
SHARED = ("availability", "state_topic", "qos")


class Problems(logging.Handler):
    """What Home Assistant itself complains of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage())


def shown(hass: Any, topic: str, document: dict[str, Any], states: dict[str, str], found: list[str]) -> dict[str, str]:  # noqa: ANN401
    """Check one document as Home Assistant does; return what its entities show."""
    if discovery.TOPIC_MATCHER.match(topic.split("/", 1)[1]) is None:
        found.append(f"{topic}: no topic of a discovery")
    if DEVICE_DISCOVERY_SCHEMA is not None:
        DEVICE_DISCOVERY_SCHEMA(copy.deepcopy(document))
    MQTT_ENTITY_DEVICE_INFO_SCHEMA(document["device"])
    MQTT_ORIGIN_INFO_SCHEMA(document["origin"])
    states_of = {}
    for name, component in document["components"].items():
        config = {key: document[key] for key in SHARED} | component
        config |= {"device": document["device"], "origin": document["origin"]}
        platform = config.pop("platform")
        taken = PLATFORMS[platform](config)
        device_class, unit, state_class = (
            taken.get(key) for key in ("device_class", "unit_of_measurement", "state_class")
        )
        if platform == "sensor" and device_class is not None:
            if unit not in DEVICE_CLASS_UNITS.get(device_class, {unit}):
                found.append(f"{name}: {device_class} has no unit {unit}")
            if state_class is not None and state_class not in DEVICE_CLASS_STATE_CLASSES[device_class]:
                found.append(f"{name}: {device_class} has no {state_class}")
        for key in ("value_template", "json_attributes_template", "last_reset_value_template"):
            if (template := taken.get(key)) is not None:
                template.hass = hass
                says = template.async_render_with_possible_json_value(states[taken["state_topic"]], "ERROR")
                if says == "ERROR" or (len(str(says)) > 255 and key == "value_template"):
                    found.append(f"{name}: {key} fails")
                states_of[f"{taken['unique_id']} {key}"] = str(says)
    return states_of


async def main() -> None:
    asked = json.load(sys.stdin)
    problems = Problems()
    logging.getLogger("homeassistant").addHandler(problems)
    says: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        hass = HomeAssistant(folder)
        for topic, document in asked["documents"].items():
            try:
                says |= shown(hass, topic, document, asked["states"], problems.found)
            except Exception as e:  # noqa: BLE001  # whatever its schemas raise is an answer
                problems.found.append(f"{topic}: {type(e).__name__}: {e}")
    version = homeassistant.const.__version__
    is_whole = DEVICE_DISCOVERY_SCHEMA is not None
    print(json.dumps({"version": version, "is_whole": is_whole, "problems": problems.found, "says": says}))


asyncio.run(main())
