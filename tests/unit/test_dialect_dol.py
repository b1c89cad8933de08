"""The messages of dol-sensors' gateways; the samples are those of its public models and documentation."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from agent.config import Config, House, SignalOverride, Source
from agent.dialects import Decoded, Decoder, Refusal
from agent.dialects.dol import HOLDS_S
from agent.domain import Message, Quality, TimeQuality
from agent.quality import QualityJudge

if TYPE_CHECKING:
    from collections.abc import Callable

AT_S = 1_724_918_340
NOW_MS = (AT_S + 60) * 1000
BY_TOPIC = Config(
    source=(
        Source(
            topic="dol/{site}/{house}",
            dialect="dol",
            rename={"70b3-2": "temperature-2", "scale 2": "weight-2", "Methane": "ch4"},
        ),
    ),
)
BY_DEVICE = Config(
    source=(Source(topic="dol/data", dialect="dol", houses={"00abcd1234ef": "house1", "70b3-9": "house2"}),)
)
AMMONIA: dict[str, object] = {
    "id": "54b28108",
    "deviceId": "00abcd1234ef",
    "sensorId": "70b3-1",
    "sensorName": "dol53 outside",
    "value": 2.2,
    "type": "Ammonia",
    "unit": "ppm",
    "timestamp": AT_S,
}
WEIGHT: dict[str, object] = {
    "id": "2fbdaec1",
    "deviceId": "000ecd02c137",
    "sensorId": "000ecd02c137_Camera01_kg",
    "sensorName": "Camera01",
    "value": 1.985,
    "type": "Weight",
    "unit": "kg",
    "timestamp": AT_S,
    "withinSpec": True,
    "count": 412,
    "minWeight": 1.531,
    "maxWeight": 2.316,
    "timespan": 60,
    "sd": 0.25,
    "countDelta": 30,
}


def decode(document: object, config: Config = BY_TOPIC, topic: str = "dol/farm1/house1") -> Decoded:
    return Decoder(config).decode([told(document, topic)])


def told(document: object, topic: str = "dol/farm1/house1") -> Message:
    wire = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Message(topic, wire, 1, 1, False, False, 1, NOW_MS, 0.0)


def rows(decoded: Decoded) -> list[tuple[str, str, int, float]]:
    r = decoded.readings
    return [(*r.keys[k], int(at) // 1000, round(float(v), 6)) for k, at, v in zip(r.key, r.at_ms, r.value, strict=True)]


def test_a_message_is_a_reading_of_its_type_at_its_time() -> None:
    decoded = decode(AMMONIA)
    assert rows(decoded) == [("house1", "ammonia", AT_S, 2.2)]
    assert decoded.readings.time_quality.tolist() == [TimeQuality.SENDER]
    assert decoded.counts == {}


@pytest.mark.parametrize(
    ("kind", "unit", "value", "signal", "expected"),
    [
        ("Temperature", "°C", 21.5, "temperature", 21.5),
        ("Temperature", "K", 294.65, "temperature", 21.5),
        ("Humidity", "%", 61, "humidity", 61),
        ("CO2", "ppm", 900, "co2", 900),
        ("CO2", "%", 0.09, "co2", 900),
        ("Pressure", "hPa", 0.2, "pressure", 20),
        ("Light", "Lux", 40, "light", 40),
        ("Water", "m³", 0.0125, "water", 12.5),
        ("Weight", "kg", 1.5, "weight", 1500),
        ("Methane", "ppm", 3, "ch4", 3),  # renamed: not in the catalogue, so without a unit
        ("Sound_Level", "dB", 50, "soundlevel", 50),
    ],
)
def test_types_become_our_signals_and_units_ours(
    kind: str, unit: str, value: float, signal: str, expected: float
) -> None:
    assert rows(decode(AMMONIA | {"type": kind, "unit": unit, "value": value})) == [("house1", signal, AT_S, expected)]


def test_a_unit_that_a_house_says_otherwise_is_heeded() -> None:
    house = House(id="house1", signals={"weight": SignalOverride(unit="kg")})
    config = Config(source=BY_TOPIC.source, house=(house,))
    assert rows(decode(WEIGHT, config))[0] == ("house1", "weight", AT_S, 1.985)


def test_weights_bring_their_number_and_their_spread() -> None:
    assert rows(decode(WEIGHT)) == [
        ("house1", "weight", AT_S, 1985.0),
        ("house1", "weight_count", AT_S, 412.0),
        ("house1", "weight_sd", AT_S, 250.0),
    ]
    numbered = decode(WEIGHT | {"sensorName": "scale 2"})
    assert [row[1] for row in rows(numbered)] == ["weight-2", "weight_count-2", "weight_sd-2"]


def test_a_weight_of_few_animals_is_kept_and_stays_suspect() -> None:
    """``withinSpec`` is false below 300 weighed animals."""
    readings = decode(WEIGHT | {"withinSpec": False, "count": 212}).readings
    assert readings.quality.tolist() == [Quality.SUSPECT] * 3
    judged, _ = QualityJudge(Config().signal).judge(readings)
    assert judged.quality.tolist() == [Quality.SUSPECT] * 3


def test_zero_of_no_animals_is_no_data_and_no_weight() -> None:
    empty = {key: value for key, value in WEIGHT.items() if key != "sd"} | {
        "value": 0.0,
        "count": 0,
        "withinSpec": False,
    }
    assert decode(empty).counts == {Refusal.NO_DATA: 1}


def test_a_list_carries_many_and_a_bad_one_takes_none_with_it() -> None:
    decoded = decode([AMMONIA, 5, AMMONIA | {"value": "high"}, AMMONIA | {"unit": "mg"}, {}, WEIGHT])
    assert [row[1] for row in rows(decoded)] == ["ammonia", "weight", "weight_count", "weight_sd"]
    assert [r.reason for r in decoded.rejected] == [
        "wrong type",
        "wrong type: ammonia",
        "unknown unit: mg of ammonia",
        "no value",
    ]


def test_where_the_topic_names_no_house_the_device_or_the_sensor_does() -> None:
    told = [AMMONIA, AMMONIA | {"sensorId": "70b3-9"}, AMMONIA | {"deviceId": "ffff"}]
    decoded = decode(told, BY_DEVICE, "dol/data")
    assert [row[0] for row in rows(decoded)] == ["house1", "house2"]
    assert [r.reason for r in decoded.rejected] == ["unknown house: ffff"]


def test_two_sensors_of_one_type_do_not_pass_for_one() -> None:
    first = AMMONIA | {"type": "Temperature", "unit": "°C"}
    decoded = decode([first, first | {"sensorId": "70b3-2"}, first | {"sensorId": "70b3-3"}])
    assert [row[1] for row in rows(decoded)] == ["temperature", "temperature-2"]
    assert [r.reason for r in decoded.rejected] == ["second sensor of one name: temperature of 70b3-3"]


@pytest.mark.parametrize(
    "written", [int, lambda at_s: at_s * 1000, lambda at_s: datetime.fromtimestamp(at_s, UTC).isoformat()]
)
def test_a_new_sensor_takes_over_from_one_that_has_been_silent(written: Callable[[float], object]) -> None:
    decoder = Decoder(BY_TOPIC)
    old = AMMONIA | {"timestamp": written(AT_S)}
    new = AMMONIA | {"sensorId": "70b3-7", "timestamp": written(AT_S + HOLDS_S - 3600 + 1)}
    assert [len(decoder.decode([told(m)]).readings) for m in (old, new)] == [1, 0]
    new["timestamp"] = written(AT_S + HOLDS_S)
    assert [len(decoder.decode([told(m)]).readings) for m in (new, old)] == [1, 0]


@pytest.mark.parametrize("at", [10**400, float("inf"), float("nan"), -1e308, "soon", None, [1], True])
def test_a_time_that_is_none_takes_no_name_from_a_sensor(at: object) -> None:
    decoded = decode([AMMONIA, AMMONIA | {"sensorId": "70b3-7", "timestamp": at}, AMMONIA | {"timestamp": AT_S + 1}])
    assert [row[2] for row in rows(decoded)] == [AT_S, AT_S + 1]


@pytest.mark.parametrize(
    "status",
    [
        {"deviceId": "000ecd02c137", "state": "deviceDisconnected", "timestamp": AT_S},
        {"deviceId": "d", "inactiveSensors": [{"name": "a", "devEui": "b", "lastSeenAt": "c"}], "timestamp": AT_S},
        {"deviceId": "d", "visionStatus": {"isDirty": "Clean"}, "timestamp": AT_S},
        {"deviceId": "d", "batteryUpdates": [{"devEui": "a", "code": 1, "batteryStatus": "Low"}], "timestamp": AT_S},
    ],
)
def test_what_a_device_says_of_itself_is_counted_and_no_rubbish(status: object) -> None:
    decoded = decode(status)
    assert (decoded.counts, decoded.rejected) == ({Refusal.STATUS: 1}, ())


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"{", "not JSON"),
        (b"\xff", "bad UTF-8"),
        (b"[]", "no value"),
        (b"5", "wrong type"),
        (b"[" * 30_000, "too deep"),
        ([{}] * 1001, "too many values"),
        (AMMONIA | {"value": 10**400}, "not finite: ammonia"),
        (AMMONIA | {"value": 1.7e308, "unit": "%"}, "not finite: ammonia"),
        (AMMONIA | {"timestamp": "soon"}, "bad time: soon"),
        (AMMONIA | {"timestamp": AT_S + 90_000}, f"time in the future: {AT_S + 90_000}"),
        (AMMONIA | {"type": "+"}, "bad name"),
        (AMMONIA | {"type": ["Ammonia"], "sensorName": 5}, "bad name"),
        (AMMONIA | {"type": "x" * 100}, "bad name: " + "x" * 40),
        (b'{"value": NaN, "type": "CO2"}', "not finite: co2"),
        (b'{"value": null, "type": "CO2"}', None),
    ],
)
def test_what_is_no_reading_is_refused_with_its_reason(document: object, reason: str | None) -> None:
    decoded = decode(document)
    assert len(decoded.readings) == 0
    assert [r.reason for r in decoded.rejected] == ([] if reason is None else [reason])
