from __future__ import annotations

import json
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from agent.config import Config, House, Site, Source
from agent.dialects import MOST_HOUSES, MOST_SIGNALS, REJECTED_KEPT, Decoded, Decoder, Refusal, TopicTemplate
from agent.domain import Message, SeriesKey, TimeQuality, to_ms

NOW = datetime(2026, 11, 18, 10, 0, tzinfo=UTC)
NOW_MS = to_ms(NOW)


def message(
    topic: str,
    payload: bytes | str | dict[str, object],
    *,
    received_ms: int = NOW_MS,
    dup: bool = False,
    retain: bool = False,
    mid: int = 1,
) -> Message:
    if isinstance(payload, dict):
        payload = json.dumps(payload)
    if isinstance(payload, str):
        payload = payload.encode()
    return Message(topic, payload, 1, mid, dup, retain, 1, received_ms, 0.0)


def value_message(payload: bytes | str | dict[str, object], signal: str = "temperature") -> Message:
    return message(f"skov/farm1/house1/{signal}", payload)


def flat_message(payload: bytes | str | dict[str, object], house: str = "house1") -> Message:
    return message(f"skov/farm1/{house}", payload)


def decode(*messages: Message, config: Config | None = None) -> Decoded:
    return Decoder(config or Config()).decode(messages)


def rows(decoded: Decoded) -> list[tuple[str, str, int, float, TimeQuality]]:
    r = decoded.readings
    return [
        (*r.keys[k], int(at), float(value), TimeQuality(int(quality)))
        for k, at, value, quality in zip(r.key, r.at_ms, r.value, r.time_quality, strict=True)
    ]


def reasons(decoded: Decoded) -> list[str]:
    return [rejected.reason for rejected in decoded.rejected]


# values


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("21.5", 21.5),
        (" 21.5\n", 21.5),
        ("-3", -3.0),
        ("1e2", 100.0),
        ("0", 0.0),
        ("+5", 5.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("007", 7.0),
        ("true", 1.0),
        ("false", 0.0),
        ('{"value": 21.5}', 21.5),
        ('{"value": 21, "unit": "Cel", "extra": [1, {"a": null}]}', 21.0),
        ('{"value": true}', 1.0),
        ("3000000000000000000", 3e18),  # a silo really showed this: it is a reading, its quality is another matter
    ],
)
def test_a_value_is_read(payload: str, expected: float) -> None:
    decoded = decode(value_message(payload))
    assert rows(decoded) == [("house1", "temperature", NOW_MS, expected, TimeQuality.ARRIVAL)]
    assert decoded.rejected == ()
    assert decoded.counts == {}


@pytest.mark.parametrize(
    ("payload", "refusal"),
    [
        (b"", Refusal.EMPTY),
        (b"   ", Refusal.NOT_JSON),
        (b"twenty", Refusal.NOT_JSON),
        (b"21,5", Refusal.NOT_JSON),
        (b"1_0", Refusal.NOT_JSON),
        (b"0x10", Refusal.NOT_JSON),
        ("٣".encode(), Refusal.NOT_JSON),  # a digit to Python, no number to us
        (b"NaN", Refusal.NOT_FINITE),
        (b"nan", Refusal.NOT_FINITE),
        (b"-Infinity", Refusal.NOT_FINITE),
        (b"inf", Refusal.NOT_FINITE),
        (b"1e999", Refusal.NOT_FINITE),
        (b"9" * 5000, Refusal.NOT_FINITE),
        (b'{"value": NaN}', Refusal.NOT_FINITE),
        (b'{"value": 1e999}', Refusal.NOT_FINITE),
        (b'{"value": -1e999}', Refusal.NOT_FINITE),
        (b'"21.5"', Refusal.WRONG_TYPE),
        (b'{"value": "21.5"}', Refusal.WRONG_TYPE),
        (b'{"value": [21.5]}', Refusal.WRONG_TYPE),
        (b"[21.5]", Refusal.WRONG_TYPE),
        (b'{"temperature": 21.5}', Refusal.NO_VALUE),
        (b"{}", Refusal.NO_VALUE),
        (b"\xff\xfe", Refusal.BAD_UTF8),
        (b'{"value": 21.5', Refusal.NOT_JSON),
        (b"[" * 60_000, Refusal.TOO_DEEP),
        (b'{"value":1,"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}", Refusal.TOO_DEEP),
        (b" " * 65_537, Refusal.TOO_LARGE),
    ],
)
def test_what_is_no_value_is_refused_with_its_reason(payload: bytes, refusal: Refusal) -> None:
    decoded = decode(value_message(payload))
    assert len(decoded.readings) == 0
    assert decoded.counts == {refusal: 1}
    (rejected,) = decoded.rejected
    assert rejected.reason.split(":")[0] == refusal
    assert rejected.first_bytes == payload[:64]
    assert (rejected.topic, rejected.received_ms) == ("skov/farm1/house1/temperature", NOW_MS)


def test_null_is_no_data_and_counted_not_rejected() -> None:
    decoded = decode(value_message("null"), value_message('{"value": null}'), flat_message({"temperature": None}))
    assert len(decoded.readings) == 0
    assert decoded.rejected == ()
    assert decoded.counts == {Refusal.NO_DATA: 3}


# flat


def test_flat_carries_many_signals_of_one_time() -> None:
    decoded = decode(flat_message({"at": NOW_MS - 5000, "temperature": 21.4, "humidity": 61, "heating": True}))
    assert rows(decoded) == [
        ("house1", "temperature", NOW_MS - 5000, 21.4, TimeQuality.SENDER),
        ("house1", "humidity", NOW_MS - 5000, 61.0, TimeQuality.SENDER),
        ("house1", "heating", NOW_MS - 5000, 1.0, TimeQuality.SENDER),
    ]
    assert decoded.readings.received_ms.tolist() == [NOW_MS] * 3


def test_flat_keeps_the_good_values_beside_bad_ones() -> None:
    payload = """{"at": "2026-11-18T10:00:00Z", "temperature": 21.4, "co2": NaN, "light": 1e999, "state": "on",
               "nested": {"a": 1}, "list": [], "bad name": 3, "": 4, "water": null, "humidity": 61}"""
    decoded = decode(flat_message(payload))
    assert [(signal, value) for _, signal, _, value, _ in rows(decoded)] == [("temperature", 21.4), ("humidity", 61.0)]
    assert reasons(decoded) == [
        "not finite: co2",
        "not finite: light",
        "wrong type: state",
        "wrong type: nested",
        "wrong type: list",
        "bad name: bad name",
        "bad name",
    ]
    assert decoded.counts[Refusal.NO_DATA] == 1


@pytest.mark.parametrize(
    ("payload", "refusal"),
    [
        (b"21.5", Refusal.WRONG_TYPE),
        (b"[]", Refusal.WRONG_TYPE),
        (b"{}", Refusal.NO_VALUE),
        (b'{"at": 1}', Refusal.NO_VALUE),
        (b'{"temperature": 21.5', Refusal.NOT_JSON),
        (b'{"temperature": 21.5, "a": "\xff"}', Refusal.BAD_UTF8),
        (b'{"a": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", Refusal.TOO_DEEP),
    ],
)
def test_what_is_no_flat_object_is_refused_with_its_reason(payload: bytes, refusal: Refusal) -> None:
    decoded = decode(flat_message(payload))
    assert len(decoded.readings) == 0
    assert decoded.counts == {refusal: 1}


def test_the_sender_s_names_become_ours_by_rename() -> None:
    config = Config(
        source=(
            Source(topic="pv/{house}", dialect="flat", rename={"Temp inside": "temperature-1"}),
            Source(topic="pv/{house}/{signal}", dialect="value", rename={"T": "temperature-2"}),
        )
    )
    decoded = decode(message("pv/h/T", "20"), message("pv/h", {"Temp inside": 21, "co2": 700}), config=config)
    assert [row[1] for row in rows(decoded)] == ["temperature-2", "temperature-1", "co2"]


# times


@pytest.mark.parametrize(
    ("raw", "expected_ms"),
    [
        (NOW_MS, NOW_MS),
        (NOW_MS / 1000, NOW_MS),
        (NOW_MS // 1000, NOW_MS),
        (NOW_MS / 1000 - 0.25, NOW_MS - 250),
        ("2026-11-18T10:00:00Z", NOW_MS),
        ("2026-11-18T10:00:00.250Z", NOW_MS + 250),
        ("2026-11-18T12:00:00+02:00", NOW_MS),
        ("2026-11-18 10:00:00+00:00", NOW_MS),
        ("20261118T100000Z", NOW_MS),
        ("2026-11-18T10:00:00.123456789Z", NOW_MS + 123),
    ],
)
@pytest.mark.parametrize("name", ["at", "ts", "timestamp"])
def test_a_time_with_its_zone_is_the_sender_s(raw: object, expected_ms: int, name: str) -> None:
    for told in (value_message({"value": 1, name: raw}), flat_message({name: raw, "temperature": 1})):
        (row,) = rows(decode(told))
        assert row == ("house1", "temperature", expected_ms, 1.0, TimeQuality.SENDER)


def test_of_several_times_at_wins_and_null_stands_for_none() -> None:
    times: dict[str, object] = {"timestamp": 1_700_000_000, "ts": None, "at": NOW_MS}
    assert rows(decode(value_message({"value": 1} | times)))[0][2] == NOW_MS
    assert rows(decode(flat_message({"temperature": 1} | times)))[0][2] == NOW_MS
    times["at"] = None
    assert rows(decode(value_message({"value": 1} | times)))[0][2] == 1_700_000_000_000
    assert rows(decode(flat_message({"temperature": 1} | times)))[0][2] == 1_700_000_000_000


def test_a_time_without_zone_is_the_site_s_and_marked_so() -> None:
    config = Config(site=Site(timezone="Europe/Copenhagen"))
    (row,) = rows(decode(value_message({"value": 1, "at": "2026-11-18T11:00:00"}), config=config))
    assert row[2:] == (NOW_MS, 1.0, TimeQuality.ASSUMED_ZONE)


def test_the_hour_that_comes_twice_in_autumn_is_told_apart_by_the_arrival() -> None:
    zone = ZoneInfo("Europe/Copenhagen")
    config = Config(site=Site(timezone="Europe/Copenhagen"))
    for fold in (0, 1):
        real_ms = to_ms(datetime(2026, 10, 25, 2, 30, tzinfo=zone, fold=fold))
        told = message("skov/farm1/house1/co2", {"value": 1, "at": "2026-10-25T02:30:00"}, received_ms=real_ms + 2000)
        assert rows(decode(told, config=config))[0][2] == real_ms


@pytest.mark.parametrize(
    ("raw", "refusal"),
    [
        ("yesterday", Refusal.BAD_TIME),
        ("", Refusal.BAD_TIME),
        ("2026-13-01T00:00:00Z", Refusal.BAD_TIME),
        ("2" * 1000, Refusal.BAD_TIME),
        (True, Refusal.BAD_TIME),
        ([NOW_MS], Refusal.BAD_TIME),
        ({"s": 1}, Refusal.BAD_TIME),
        (0, Refusal.PAST),
        (-5, Refusal.PAST),
        (10**300, Refusal.FUTURE),
        ("0001-01-01T00:00:00", Refusal.PAST),
        ("1999-12-31T23:59:59Z", Refusal.PAST),
        ("9999-12-31T23:59:59Z", Refusal.FUTURE),
        (NOW_MS + 86_400_001, Refusal.FUTURE),
        (NOW_MS * 1000, Refusal.FUTURE),  # microseconds
    ],
)
def test_a_time_that_cannot_be_is_refused(raw: object, refusal: Refusal) -> None:
    for told in (value_message({"value": 1, "at": raw}), flat_message({"at": raw, "temperature": 1, "co2": 2})):
        decoded = decode(told)
        assert len(decoded.readings) == 0
        assert decoded.counts == {refusal: 1}


def test_a_day_ahead_is_still_a_reading() -> None:
    assert rows(decode(value_message({"value": 1, "at": NOW_MS + 86_400_000})))[0][2] == NOW_MS + 86_400_000


def test_a_gateway_that_woke_up_in_1970_still_believes_its_senders() -> None:
    """Without a trusted clock of our own, the sender's time is kept and our own is marked."""
    told = [
        message("skov/farm1/house1/co2", {"value": 1, "at": NOW_MS}, received_ms=60_000),
        message("skov/farm1/house1/light", "2", received_ms=60_000),
    ]
    decoded = Decoder(Config()).decode(told, clock_trusted=False)
    assert rows(decoded) == [
        ("house1", "co2", NOW_MS, 1.0, TimeQuality.SENDER),
        ("house1", "light", 60_000, 2.0, TimeQuality.UNTRUSTED),
    ]


def test_values_without_a_time_that_arrive_together_are_all_kept_apart() -> None:
    """(house, signal, at) tells readings apart: two amounts of water in one millisecond are two readings."""
    decoder = Decoder(Config())
    first = decoder.decode([value_message(str(i), "water") for i in range(5)])
    assert [row[2] for row in rows(first)] == [NOW_MS + i for i in range(5)]
    second = decoder.decode([value_message("9", "water"), value_message("9", "feed")])
    assert [row[2] for row in rows(second)] == [NOW_MS + 5, NOW_MS]
    assert [m.payload for m in first.arrivals] == [b"0", b"1", b"2", b"3", b"4"]


def test_a_clock_that_went_back_does_not_stamp_readings_in_the_future() -> None:
    decoder = Decoder(Config())
    decoder.decode([value_message("1")])
    hour_ago = message("skov/farm1/house1/temperature", "2", received_ms=NOW_MS - 3_600_000)
    assert rows(decoder.decode([hour_ago]))[0][2] == NOW_MS - 3_600_000


def test_a_redelivered_value_without_a_time_falls_out() -> None:
    """Only a DUP whose readings have no time of their own is asked about."""
    asked: list[bytes] = []

    def is_redelivered(told: Message) -> bool:
        asked.append(told.payload)
        return told.payload == b"1"

    told = [
        message("skov/farm1/house1/water", "1", dup=True),
        message("skov/farm1/house1/water", "2", dup=True),
        message("skov/farm1/house1/water", "1"),
        message("skov/farm1/house1/water", {"value": 1, "at": NOW_MS}, dup=True),
    ]
    decoded = Decoder(Config()).decode(told, is_redelivered=is_redelivered)
    assert asked == [b"1", b"2"]
    assert [row[3] for row in rows(decoded)] == [2.0, 1.0, 1.0]
    assert decoded.counts == {Refusal.REDELIVERED: 1}
    assert len(decoded.arrivals) == 2


# topics, sites, houses, signals


@pytest.mark.parametrize(
    ("template", "subscription", "topic", "fields"),
    [
        ("skov/{site}/{house}", "skov/+/+", "skov/a/b", {"site": "a", "house": "b"}),
        ("skov/{site}/{house}", "skov/+/+", "skov/a/b/c", None),
        ("a.b/{house}", "a.b/+", "aXb/h", None),
        ("{house}/x", "+/x", "h/x", {"house": "h"}),
        ("{house}/x", "+/x", "h/y", None),
        ("x/{house}", "x/+", "x/", {"house": ""}),
        ("x/{house}", "x/+", "x/h\n", {"house": "h\n"}),
    ],
)
def test_a_template_matches_whole_levels(
    template: str, subscription: str, topic: str, fields: dict[str, str] | None
) -> None:
    parsed = TopicTemplate.parse(template)
    assert parsed.subscription == subscription
    assert parsed.match(topic) == fields


@pytest.mark.parametrize(
    ("topic", "refusal"),
    [
        ("skov/farm2/house1/temperature", Refusal.OTHER_SITE),
        ("skov/farm2/house1", Refusal.OTHER_SITE),
        ("other/farm1/house1", Refusal.UNKNOWN_TOPIC),
        ("", Refusal.UNKNOWN_TOPIC),
        ("skov/farm1/house 1/temperature", Refusal.BAD_NAME),
        ("skov/farm1//temperature", Refusal.BAD_NAME),
        ("skov/farm1/house1/température", Refusal.BAD_NAME),
        ("skov/farm1/house1/a+b", Refusal.BAD_NAME),
        ("skov/farm1/house1/#", Refusal.BAD_NAME),
        ("skov/farm1/house1/" + "x" * 65, Refusal.BAD_NAME),
        ("skov/farm1/house1/co2\n", Refusal.BAD_NAME),
        ("skov/farm1/../co2", Refusal.BAD_NAME),
        ("skov/farm1/_site/co2", Refusal.BAD_NAME),  # ours
    ],
)
def test_a_topic_that_is_not_ours_is_refused_with_its_reason(topic: str, refusal: Refusal) -> None:
    decoded = decode(message(topic, "1" if topic.count("/") == 3 else '{"co2": 1}'))
    assert len(decoded.readings) == 0
    assert decoded.counts == {refusal: 1}


def test_the_first_source_that_fits_decides() -> None:
    config = Config(
        source=(
            Source(topic="a/{house}/{signal}", dialect="value", rename={"x": "first"}, qos=0),
            Source(topic="{any}/{house}/{signal}", dialect="value", rename={"x": "second"}),
        )
    )
    decoder = Decoder(config)
    decoded = decoder.decode([message("a/h/x", "1"), message("b/h/x", "2")])
    assert [row[1] for row in rows(decoded)] == ["first", "second"]
    assert decoder.subscriptions == [("a/+/+", 0), ("+/+/+", 1)]


def test_a_filter_that_two_sources_share_is_subscribed_once_with_the_better_qos() -> None:
    config = Config(
        source=(
            Source(topic="{site}/{house}/{signal}", dialect="value", qos=0),
            Source(topic="{a}/{house}/{signal}", dialect="value", qos=1),
        )
    )
    assert Decoder(config).subscriptions == [("+/+/+", 1)]


def test_retained_messages_are_ignored_and_counted() -> None:
    decoded = decode(message("skov/farm1/house1/co2", "900", retain=True))
    assert len(decoded.readings) == 0
    assert decoded.rejected == ()
    assert decoded.counts == {Refusal.RETAINED: 1}


def test_unconfigured_houses_and_unknown_signals_are_taken_in_and_shown() -> None:
    decoder = Decoder(Config(house=(House(id="house1"),)))
    decoder.decode([flat_message({"temperature-2": 1, "magnetism": 2}), flat_message({"co2": 3}, house="house9")])
    assert decoder.guard.unconfigured_houses == {"house9"}
    assert decoder.guard.unknown_signals == {SeriesKey("house1", "magnetism")}


def test_at_most_64_unconfigured_houses_get_in_and_configured_ones_always() -> None:
    decoder = Decoder(Config(house=(House(id="late"),)))
    decoded = decoder.decode([flat_message({"co2": 1}, house=f"h{i}") for i in range(MOST_HOUSES + 3)])
    assert len(decoded.readings) == MOST_HOUSES
    assert decoded.counts == {Refusal.TOO_MANY_HOUSES: 3}
    again = decoder.decode([flat_message({"co2": 1}, house=house) for house in ("h0", "stranger", "late")])
    assert [row[0] for row in rows(again)] == ["h0", "late"]


def test_at_most_256_signals_of_a_house_get_in() -> None:
    decoder = Decoder(Config(), known=[SeriesKey("house1", "known-before")])
    decoded = decoder.decode([flat_message({f"s{i}x": i for i in range(MOST_SIGNALS + 2)})])
    assert len(decoded.readings) == MOST_SIGNALS - 1
    assert decoded.counts == {Refusal.TOO_MANY_SIGNALS: 3}
    again = decoder.decode([flat_message({"s0x": 1, "new": 2, "known-before": 3})])
    assert [row[1] for row in rows(again)] == ["s0x", "known-before"]


def test_junk_takes_no_seat_of_a_house_or_a_signal() -> None:
    """A house enters by its first good reading; garbage on a thousand topics keeps nobody out."""
    decoder = Decoder(Config())
    junk = [message(f"skov/farm1/h{i}/s", "junk") for i in range(1000)]
    decoded = decoder.decode(junk)
    assert decoded.counts == {Refusal.NOT_JSON: 1000}
    assert len(decoded.rejected) == REJECTED_KEPT
    assert decoder.guard.signals == {}
    assert len(decoder.decode([value_message("1")]).readings) == 1


def test_readings_travel_in_order_of_arrival_with_one_key_per_series() -> None:
    told = [value_message({"value": i, "at": NOW_MS + i}, "co2" if i % 2 else "light") for i in range(6)]
    readings = decode(*told).readings
    assert readings.keys == (SeriesKey("house1", "light"), SeriesKey("house1", "co2"))
    assert readings.value.tolist() == [0, 1, 2, 3, 4, 5]
    assert readings.key.tolist() == [0, 1, 0, 1, 0, 1]
    assert [column.dtype for column in (readings.key, readings.at_ms)] == [np.dtype(np.int32), np.dtype(np.int64)]
