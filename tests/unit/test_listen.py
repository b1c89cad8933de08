"""What ``check --listen`` makes of messages: pure, without a broker."""

from __future__ import annotations

import json
import tomllib

import pytest

from agent.config import Config, House, Source, parse_config
from agent.dialects import Decoder
from agent.domain import Message
from agent.listen import DROPS_KEPT, Listener, report_lines, report_value
from tests.sparkplug_b import metric, payload

NOW_MS = 1_795_000_000_000
CONFIG = Config(house=(House(id="house1"),))


def told(topic: str, wire: object, after_s: float = 0.0, *, retain: bool = False) -> Message:
    content = wire if isinstance(wire, bytes) else json.dumps(wire).encode()
    return Message(topic, content, 1, 1, False, retain, 1, NOW_MS + round(after_s * 1000), after_s)


def heard(*messages: Message, config: Config = CONFIG) -> Listener:
    listener = Listener(config)
    for message in messages:
        listener.hear(message)
    return listener


def suggested(listener: Listener) -> list[str]:
    return ["\n".join(suggestion.lines()) for suggestion in listener.suggestions()]


def test_what_is_read_is_shown_with_its_house_unit_value_and_rhythm() -> None:
    listener = heard(*(told("skov/farm1/house1/temperature", 21 + i, i * 60) for i in range(3)))
    (line,) = [line for line in report_lines(listener) if "house1/temperature" in line]
    assert line.split() == [
        "house1/temperature",
        "23",
        "Cel",
        "every",
        "60",
        "s",
        "<-",
        "skov/farm1/house1/temperature",
    ]
    assert report_value(listener)["series"] == [
        {
            "house": "house1",
            "signal": "temperature",
            "unit": "Cel",
            "in_catalogue": True,
            "topic": "skov/farm1/house1/temperature",
            "readings": 3,
            "value": 23.0,
            "rhythm_s": 60.0,
        }
    ]


def test_what_is_dropped_is_shown_with_its_reason_and_one_example() -> None:
    listener = heard(*(told("skov/farm1/house1/temperature", "warm") for _ in range(3)), told("skov/farm2/h/co2", 900))
    text = "\n".join(report_lines(listener))
    assert '3 x wrong type (temperature), as skov/farm1/house1/temperature  "warm"' in text
    assert "1 x other site, as skov/farm2/h/co2  900" in text


def test_each_signal_that_is_dropped_is_shown_and_not_only_the_first_of_its_reason() -> None:
    listener = heard(*(told("skov/farm1/house1", {"co2": "a", "water": "b"}) for _ in range(2)))
    lines = list(report_lines(listener))
    assert [line.partition(",")[0] for line in lines if "wrong type" in line] == [
        "  2 x wrong type (co2)",
        "  2 x wrong type (water)",
    ]
    example = {"topic": "skov/farm1/house1", "payload": '{"co2": "a", "water": "b"}'}
    assert report_value(listener)["dropped"] == [
        {"reason": "wrong type", "count": 2, "detail": signal} | example for signal in ("co2", "water")
    ]


def test_senders_cannot_fill_the_memory_with_names() -> None:
    listener = heard(*(told(f"skov/farm1/house1/s{k}", "junk") for k in range(DROPS_KEPT + 50)))
    assert len(listener.dropped) == DROPS_KEPT + 1
    assert sum(dropped.count for dropped in listener.dropped.values()) == DROPS_KEPT + 50


def test_news_are_told_once_as_they_come() -> None:
    listener = Listener(CONFIG)
    message = told("skov/farm1/house1/co2", 900)
    assert listener.hear(message) == ["reads   house1/co2  900 ppm  <- skov/farm1/house1/co2"]
    assert listener.hear(message) == []
    assert listener.hear(told("flockwatch/farm1/house1/severity", 0)) == []


def test_what_a_sparkplug_node_sends_is_read_by_the_births_that_the_agent_has_stored() -> None:
    source = Source(topic="spBv1.0/{group}/{message}/{node}/{house}", dialect="sparkplug")
    births = [
        ("spBv1.0/g/DBIRTH/n/house1", payload(metric(name="co2", alias=4, long_value=900), seq=1)),
        ("spBv1.0/g/NBIRTH/n", payload(seq=0)),
    ]
    data = told("spBv1.0/g/DDATA/n/house1", payload(metric(alias=4, long_value=901), seq=9))
    listener = Listener(Config(source=(source,)), births)
    assert listener.hear(data)[0].startswith("reads   house1/co2  901 ppm")
    assert Listener(Config(source=(source,))).hear(data)[0].startswith("drops   before its birth")


def test_houses_and_signals_that_nobody_knows_are_named() -> None:
    listener = heard(told("skov/farm1/house9", {"temp_inside": 21, "co2": 900, "magnetism": 3}))
    lines = list(report_lines(listener))
    assert lines[-2:] == ["[[house]]", 'id = "house9"']
    assert 'rename = { "temp_inside" = "temperature" }' in lines


@pytest.mark.parametrize(
    ("messages", "source"),
    [
        (
            [told("barn/3/temp", 21.5), told("barn/4/rh", {"value": 61})],
            (
                '[[source]]\ntopic = "barn/{house}/{signal}"\ndialect = "value"\n'
                'rename = { "rh" = "humidity", "temp" = "temperature" }'
            ),
        ),
        (
            [told("plant/farm1/house1/climate/temperature", 21.5), told("plant/farm1/house1/climate/co2", 900)],
            '[[source]]\ntopic = "plant/{site}/{house}/climate/{signal}"\ndialect = "value"',
        ),
        (
            [told("pv/House North/all", {"ts": NOW_MS, "Temp inside": 21, "co2": 900})],
            (
                '[[source]]\ntopic = "pv/{house}/all"\ndialect = "flat"\n'
                'rename = { "Temp inside" = "temperature" }\nhouses = { "House North" = "House_North" }'
            ),
        ),
        (
            [told("dol/data", {"deviceId": "00ab", "sensorId": "1", "type": "CO2", "value": 1, "unit": "ppm"})],
            '[[source]]\ntopic = "dol/data"\ndialect = "dol"\nhouses = { "00ab" = "house1" }',
        ),
        (
            [told("packs/house2", [{"bn": "urn:dev:1:", "n": "co2", "v": 900}])],
            '[[source]]\ntopic = "packs/{house}"\ndialect = "senml"',
        ),
        (
            [
                told("spBv1.0/Farm/NBIRTH/N1", payload(seq=0)),
                told("spBv1.0/Farm/DBIRTH/N1/house1", payload(metric(name="Climate/CO2", int_value=900), seq=1)),
            ],
            (
                '[[source]]\ntopic = "spBv1.0/Farm/{message}/{node}/{house}"\ndialect = "sparkplug"\n'
                'rename = { "Climate/CO2" = "co2" }'
            ),
        ),
    ],
)
def test_a_source_is_written_for_topics_that_nothing_reads_and_it_reads_them(
    messages: list[Message], source: str
) -> None:
    listener = heard(*messages)
    assert suggested(listener) == [source]
    decoded = Decoder(parse_config(tomllib.loads(source), "suggested")).decode(messages)
    assert len(decoded.readings) == listener.suggestions()[0].readings > 0
    assert decoded.rejected == ()


def test_what_no_dialect_reads_is_shown_and_no_source_is_made_up_for_it() -> None:
    listener = heard(told("zigbee/lamp", {"state": "on"}), told("firmware", b"\x00\xff\x1b"), told("a b/+", b"{"))
    assert listener.suggestions() == []
    assert listener.unread_topics() == [("zigbee/lamp", '{"state": "on"}'), ("firmware", ".\ufffd."), ("a b/+", "{")]


def test_a_retained_message_is_counted_and_makes_no_suggestion() -> None:
    assert heard(told("barn/3/temp", 21.5, retain=True)).suggestions() == []


@pytest.mark.parametrize(
    "wire", [b"", b"\xff", b"[" * 5000, b"[5]", b"{}", b'[{"n": 5}]', b'{"value": [], "type": 1}', b"1e999"]
)
@pytest.mark.parametrize("topic", ["x", "", "a/b/c", "spBv1.0/a", "spBv1.0/a/DDATA/n/d", "spBv1.0/{a}/x/+/#", "//"])
def test_no_junk_stops_the_listener(topic: str, wire: bytes) -> None:
    listener = heard(told(topic, wire), told("barn/1/temp", 20))
    json.dumps(report_value(listener))
    assert list(report_lines(listener))


def test_junk_among_what_a_dialect_reads_spoils_no_suggestion() -> None:
    good = {"deviceId": "d1", "sensorId": "s", "type": "CO2", "unit": "ppm", "value": 900}
    listener = heard(told("dol/data", good), told("dol/data", good, 60), told("dol/data", b"junk{", 61))
    (source,) = tomllib.loads(suggested(listener)[0])["source"]
    assert (source["dialect"], source["houses"]) == ("dol", {"d1": "house1"})
