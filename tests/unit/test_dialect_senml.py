"""RFC 8428; the samples are those of the RFC where it has one."""

from __future__ import annotations

import json

import pytest

from agent.config import Config, Source
from agent.dialects import Decoded, Decoder, Refusal
from agent.dialects.units import factor_and_offset
from agent.domain import Message, TimeQuality

NOW_S = 1_795_000_000
CONFIG = Config(
    source=(
        Source(
            topic="senml/{house}",
            dialect="senml",
            rename={"urn:dev:ow:10e2073a01080063": "temperature", "flow_sum": "water", "meter": "energy"},
        ),
        Source(topic="packs", dialect="senml", houses={"urn:dev:mac:1:": "house1", "urn:dev:mac:1:b": "house2"}),
    ),
)


def told(document: object, topic: str = "senml/house1", *, dup: bool = False) -> Message:
    wire = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Message(topic, wire, 1, 1, dup, False, 1, NOW_S * 1000, 0.0)


def decode(document: object, topic: str = "senml/house1") -> Decoded:
    return Decoder(CONFIG).decode([told(document, topic)])


def rows(decoded: Decoded) -> list[tuple[str, float, float]]:
    r = decoded.readings
    return [
        (r.keys[k].signal, round(int(at) / 1000 - NOW_S, 3), round(float(v), 6))
        for k, at, v in zip(r.key, r.at_ms, r.value, strict=True)
    ]


def reasons(decoded: Decoded) -> list[str]:
    return [rejected.reason for rejected in decoded.rejected]


def test_a_single_measurement_without_a_time_is_of_now() -> None:
    """RFC 8428, 5.1.1."""
    decoded = decode([{"n": "urn:dev:ow:10e2073a01080063", "u": "Cel", "v": 23.1}])
    assert rows(decoded) == [("temperature", 0, 23.1)]
    assert decoded.readings.time_quality.tolist() == [TimeQuality.ARRIVAL]


def test_base_fields_hold_until_they_are_said_anew() -> None:
    """RFC 8428, 5.1.2 and 5.1.3: base name, time, unit and value are added to what follows."""
    pack = [
        {"bn": "urn:dev:x:", "bt": NOW_S - 100, "bu": "Cel", "bver": 5, "n": "temperature", "v": 20.5},
        {"n": "temperature", "t": 10, "v": 20.7},
        {"n": "humidity", "u": "%RH", "t": -5, "v": 61},
        {"bn": "urn:dev:y:", "bt": NOW_S, "bv": 20, "n": "outside_temperature", "v": 1.5},
        {"n": "outside_temperature", "t": 60},
    ]
    assert rows(decode(pack)) == [
        ("temperature", -100, 20.5),
        ("temperature", -90, 20.7),
        ("humidity", -105, 61),
        ("outside_temperature", 0, 21.5),
        ("outside_temperature", 60, 20),
    ]


def test_times_below_two_to_the_28_are_relative_to_now() -> None:
    decoded = decode([{"bn": "h/", "bu": "ppm", "n": "co2", "v": 900, "t": -300}, {"n": "co2", "v": 905, "t": -0.5}])
    assert rows(decoded) == [("co2", -300, 900), ("co2", -0.5, 905)]
    assert set(decoded.readings.time_quality.tolist()) == {TimeQuality.ARRIVAL}
    assert len(decoded.arrivals) == 1
    assert reasons(decode([{"n": "co2", "v": 1, "t": 2**28 - 1}])) == ["time in the future: co2"]
    assert reasons(decode([{"n": "co2", "v": 1, "t": 2**28}])) == ["time before 2000: 268435456.0"]


def test_a_redelivered_pack_of_relative_times_falls_out() -> None:
    decoder = Decoder(CONFIG)
    pack = [{"n": "co2", "v": 900, "t": -300}, {"n": "humidity", "v": 60}]
    decoded = decoder.decode([told(pack, dup=True)], is_redelivered=lambda _: True)
    assert (len(decoded.readings), decoded.counts) == (0, {Refusal.REDELIVERED: 2})


def test_values_of_one_pack_without_times_are_of_one_time() -> None:
    decoder = Decoder(CONFIG)
    pack = [{"n": "co2", "v": 900}, {"n": "humidity", "v": 60}]
    assert [row[1] for row in rows(decoder.decode([told(pack), told(pack)]))] == [0, 0, 0.001, 0.001]


@pytest.mark.parametrize(
    ("unit", "value", "name", "expected"),
    [
        ("K", 294.65, "temperature", 21.5),
        ("/", 0.61, "humidity", 61),
        ("%", 0.09, "co2", 900),
        ("/1000", 0.9, "co2", 900),
        ("hPa", 0.2, "pressure", 20),
        ("km/h", 3.6, "air_speed", 1),
        ("kg", 1.5, "weight", 1500),
        ("g", 1500, "feed", 1.5),
        ("m3", 0.0125, "water", 12.5),
        ("J", 3.6e6, "energy", 1),
        ("Wh", 1500, "energy", 1.5),
        ("count", 3, "dead", 3),
        ("", 21.5, "temperature", 21.5),
        ("pH", 7, "litter_ph", 7),  # not in the catalogue: no unit of ours, the value as it is
    ],
)
def test_units_become_ours(unit: str, value: float, name: str, expected: float) -> None:
    assert rows(decode([{"n": name, "v": value} | ({"u": unit} if unit else {})])) == [(name, 0, expected)]


@pytest.mark.parametrize("unit", ["Pa", "C", "degC", "x" * 500])
def test_a_unit_that_does_not_measure_the_signal_is_refused(unit: str) -> None:
    assert reasons(decode([{"n": "temperature", "u": unit, "v": 1}])) == [
        f"unknown unit: {(unit + ' of temperature')[:40]}"
    ]


def test_every_unit_of_the_catalogue_is_understood() -> None:
    for ours, theirs in {"Cel": "K", "%RH": "/", "ppm": "/", "l": "m3", "kWh": "J", "birds": "count"}.items():
        factor, offset = factor_and_offset(theirs, ours) or (0, 0)
        back, back_offset = factor_and_offset(ours, theirs) or (0, 0)
        assert (20 * factor + offset) * back + back_offset == pytest.approx(20)


def test_sums_are_running_totals_of_their_unit_times_seconds() -> None:
    pack = [
        {"bs": 100, "n": "flow", "u": "l/s", "v": 0.5, "s": 25},
        {"n": "flow", "u": "m3/s", "s": 0.5},
        {"bs": 0, "n": "power", "u": "W", "s": 7.2e6},
        {"n": "light", "u": "lx", "s": 7},
        {"n": "gas", "v": 3},
    ]
    decoded = decode(pack)
    assert rows(decoded) == [
        ("flow", 0, 0.5),
        ("water", 0, 125),
        ("water", 0, 100_500),
        ("power_sum", 0, 7.2e6),
        ("gas", 0, 3),
        ("gas_sum", 0, 0),
    ]
    assert reasons(decoded) == ["unknown unit: light_sum"]


def test_the_house_may_stand_in_the_name_the_longest_beginning_counts() -> None:
    pack = [
        {"bn": "urn:dev:mac:1:", "n": "a/co2", "v": 1},
        {"n": "b/co2", "v": 2},
        {"bn": "urn:dev:mac:2:", "n": "co2", "v": 3},
    ]
    decoded = decode(pack, "packs")
    assert [decoded.readings.keys[k].house for k in decoded.readings.key] == ["house1", "house2"]
    assert reasons(decoded) == ["unknown house"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"n": "a", "vs": "on"}, "wrong type: a"),
        ({"n": "a", "vd": "AAA"}, "wrong type: a"),
        ({"n": "a", "v": "1"}, "wrong type: a"),
        ({"n": "a", "v": True}, "wrong type: a"),
        ({"n": "a", "v": None}, "wrong type: a"),
        ({"n": "a", "vb": 1}, "wrong type: a"),
        ({"n": "a", "v": 1, "vb": True}, "not understood: a"),
        ({"n": "a", "v": 10**400}, "not finite: a"),
        ({"n": "a"}, "no value: a"),
        ({"v": 1}, "bad name"),
        ({"n": "-a", "v": 1}, "bad name: -a"),
        ({"n": "a b", "v": 1}, "bad name: a b"),
        ({"n": "a/#", "v": 1}, "bad name: a/#"),
        ({"n": "a.b", "v": 1}, "bad name: a.b"),  # a name of SenML, none of ours: rename it
        ({"n": "a" * 300, "v": 1}, "bad name: " + "a" * 40),
        ({"n": 5, "v": 1}, "wrong type: n"),
        ({"n": "a", "u": 5, "v": 1}, "wrong type: u"),
        ({"n": "a", "t": "now", "v": 1}, "bad time: a"),
        ({"n": "a", "t": 1e300, "v": 1}, "time in the future: 1e+300"),
        ({"n": "a", "v": 1, "quality_": 3}, "not understood: quality_"),
        (5, "wrong type"),
    ],
)
def test_a_record_that_is_no_reading_is_refused_alone(record: object, reason: str) -> None:
    decoded = decode([{"n": "co2", "v": 900}, record, {"n": "humidity", "v": 60, "ut": 60, "x": 1}])
    assert [row[0] for row in rows(decoded)] == ["co2", "humidity"]
    assert reasons(decoded) == [reason]


@pytest.mark.parametrize(
    "base",
    [
        {"bn": 5},
        {"bt": "x"},
        {"bu": None},
        {"bv": True},
        {"bs": []},
        {"bt": 10**400},
        {"bnew_": 1},
        {"x_": 1, "bnew_": 1},
    ],
)
def test_what_stands_on_a_wrong_base_is_not_guessed(base: dict[str, object]) -> None:
    decoded = decode([{"n": "co2", "v": 900}, base, {"n": "humidity", "v": 60}])
    assert [row[0] for row in rows(decoded)] == ["co2"]
    assert len(decoded.rejected) == 1


@pytest.mark.parametrize("version", [11, 0, -1, "10", 5.5, True])
def test_a_pack_of_a_later_version_is_refused_whole(version: object) -> None:
    decoded = decode([{"n": "co2", "v": 900}, {"bver": version, "n": "humidity", "v": 60}])
    assert len(decoded.readings) == 0
    assert reasons(decoded) == [f"not understood: bver {version!r}"]


def test_true_and_false_are_1_and_0() -> None:
    assert rows(decode([{"n": "fan", "vb": True}, {"n": "lamp", "vb": False}])) == [("fan", 0, 1), ("lamp", 0, 0)]


@pytest.mark.parametrize(
    ("document", "refusal"),
    [
        (b"{}", Refusal.WRONG_TYPE),
        (b"21.5", Refusal.WRONG_TYPE),
        (b"[]", Refusal.NO_VALUE),
        (b'[{"bn": "a"}]', Refusal.NO_VALUE),
        (b"[", Refusal.NOT_JSON),
        (b"\xff", Refusal.BAD_UTF8),
        (b"[" * 30_000, Refusal.TOO_DEEP),
        ([{}] * 1001, Refusal.TOO_MANY_VALUES),
    ],
)
def test_what_is_no_pack_is_refused_with_its_reason(document: object, refusal: Refusal) -> None:
    assert decode(document).counts == {refusal: 1}


def test_numbers_that_json_does_not_know_spoil_their_record_alone() -> None:
    decoded = decode(b'[{"n": "co2", "v": NaN}, {"n": "humidity", "v": 60}]')
    assert [row[0] for row in rows(decoded)] == ["humidity"]
    assert reasons(decoded) == ["not finite: co2"]


def test_a_value_that_is_no_number_does_not_make_its_pack_one_of_another_version() -> None:
    decoded = decode(b'[{"bver": 5, "n": "co2", "v": 900}, {"n": "light", "v": NaN}]')
    assert [row[0] for row in rows(decoded)] == ["co2"]
    assert reasons(decoded) == ["not finite: light"]
