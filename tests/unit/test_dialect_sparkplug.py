"""Sparkplug B 3.0; the payloads are written by an encoder of the tests' own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agent.config import Config, House, Source
from agent.dialects import Decoded, Decoder, Refusal
from agent.dialects.sparkplug import ASK_EVERY_S, MOST_BIRTHS
from agent.domain import Message, TimeQuality
from tests.sparkplug_b import (
    BOOLEAN,
    DATE_TIME,
    DOUBLE,
    FLOAT,
    INT8,
    INT64,
    STRING,
    UINT64,
    metric,
    payload,
    with_length,
)

NOW_MS = 1_795_000_000_000
SOURCE = Source(
    topic="spBv1.0/{group}/{message}/{node}/{house}",
    dialect="sparkplug",
    rename={"Climate/Temperature": "temperature", "house2/Climate/Temperature": "temperature-2", "Water": "water"},
    houses={"PLC 1": "house1"},
)
CONFIG = Config(source=(SOURCE,), house=(House(id="house1"),))
T = metric(name="Climate/Temperature", alias=1, datatype=FLOAT, float_value=21.5, timestamp=NOW_MS)
CO2 = metric(name="co2", alias=2, datatype=INT64, long_value=900)
BD_SEQ = metric(name="bdSeq", datatype=UINT64, long_value=7)


def told(
    message: str, wire: bytes, device: str = "house1", node: str = "N1", monotonic: float = 0.0, qos: int = 0
) -> Message:
    topic = f"spBv1.0/Farm/{message}/{node}" + (f"/{device}" if message.startswith("D") else "")
    return Message(topic, wire, qos, 1, False, False, 1, NOW_MS, monotonic)  # the order is its own


NBIRTH = told("NBIRTH", payload(BD_SEQ, metric(name="Node Control/Rebirth", boolean_value=False), seq=0))
DBIRTH = told("DBIRTH", payload(T, CO2, seq=1, timestamp=NOW_MS - 5))


def data(seq: int, *metrics: bytes, monotonic: float = 0.0, device: str = "house1") -> Message:
    return told("DDATA", payload(*metrics, seq=seq, timestamp=NOW_MS + seq), device, monotonic=monotonic)


def born() -> Decoder:
    decoder = Decoder(CONFIG)
    decoder.decode([NBIRTH, DBIRTH])
    return decoder


def rows(decoded: Decoded) -> list[tuple[str, str, int, float]]:
    r = decoded.readings
    return [(*r.keys[k], int(at), float(v)) for k, at, v in zip(r.key, r.at_ms, r.value, strict=True)]


def asked(decoded: Decoded) -> list[str]:
    return [topic for topic, _ in decoded.requests]


def test_a_birth_s_values_are_readings_and_say_what_aliases_mean() -> None:
    decoder = Decoder(CONFIG)
    decoded = decoder.decode([NBIRTH, DBIRTH])
    assert rows(decoded) == [("house1", "temperature", NOW_MS, 21.5), ("house1", "co2", NOW_MS - 5, 900.0)]
    assert decoded.births == ((NBIRTH.topic, NBIRTH.payload), (DBIRTH.topic, DBIRTH.payload))
    assert decoded.requests == ()
    decoded = decoder.decode([data(2, metric(alias=1, float_value=22), metric(alias=2, long_value=2**64 - 5))])
    assert rows(decoded) == [("house1", "temperature", NOW_MS + 2, 22.0), ("house1", "co2", NOW_MS + 2, -5.0)]
    assert (decoded.rejected, decoded.births, decoded.requests) == ((), (), ())


def test_only_nodes_and_devices_are_subscribed_to_and_no_command_comes_back_to_us() -> None:
    assert Decoder(CONFIG).subscriptions == [
        *[(f"spBv1.0/+/{message}/+", 1) for message in ("NBIRTH", "NDATA", "NDEATH")],
        *[(f"spBv1.0/+/{message}/+/+", 1) for message in ("DBIRTH", "DDATA", "DDEATH")],
    ]
    decoded = born().decode([told("NCMD", payload(seq=0)), told("DCMD", payload(seq=0))])
    assert decoded.counts == {Refusal.STATUS: 2}


@pytest.mark.parametrize("message", [data(2, metric(alias=1, float_value=22)), told("NDATA", payload(CO2, seq=3))])
def test_data_before_a_birth_are_recorded_and_the_node_is_asked_to_be_born_again(message: Message) -> None:
    decoded = Decoder(CONFIG).decode([message])
    assert [r.reason for r in decoded.rejected] == [str(Refusal.BEFORE_BIRTH)]
    assert decoded.rejected[0].first_bytes == message.payload[:64]
    ((topic, command),) = decoded.requests
    assert topic == "spBv1.0/Farm/NCMD/N1"
    wanted = metric(name="Node Control/Rebirth", timestamp=NOW_MS, datatype=BOOLEAN, boolean_value=True)
    assert command == payload(wanted, timestamp=NOW_MS)


def test_a_node_is_asked_once_a_minute_until_its_birth_has_come() -> None:
    decoder = Decoder(CONFIG)
    message = [data(2, CO2, monotonic=at) for at in (5.0, 30.0, 5.0 + ASK_EVERY_S, 6.0 + ASK_EVERY_S)]
    assert [len(decoder.decode([m]).requests) for m in message] == [1, 0, 1, 0]
    decoder.decode([NBIRTH, DBIRTH])
    assert [len(decoder.decode([data(2, CO2, monotonic=at)]).requests) for at in (1000.0, 2000.0)] == [0, 1]


def test_an_unknown_alias_takes_no_other_metric_with_it_and_is_asked_about() -> None:
    decoded = born().decode([data(2, metric(alias=9, float_value=1), metric(alias=2, long_value=800))])
    assert rows(decoded) == [("house1", "co2", NOW_MS + 2, 800.0)]
    assert [r.reason for r in decoded.rejected] == ["unknown alias: 9"]
    assert asked(decoded) == ["spBv1.0/Farm/NCMD/N1"]


def test_a_gap_in_the_numbers_is_asked_about_and_what_follows_is_kept() -> None:
    decoder = born()
    decoded = decoder.decode([data(2, CO2), data(4, metric(alias=2, long_value=801))])
    assert [row[3] for row in rows(decoded)] == [900.0, 801.0]
    assert asked(decoded) == ["spBv1.0/Farm/NCMD/N1"]


def test_the_numbers_begin_again_after_255() -> None:
    decoder = born()
    decoded = decoder.decode([data(seq % 256, metric(alias=2, long_value=seq)) for seq in range(2, 600)])
    assert len(decoded.readings) == 598
    assert decoded.requests == ()


def test_nothing_is_read_after_a_death_until_the_next_birth() -> None:
    decoder = born()
    gone = decoder.decode([told("DDEATH", payload(seq=2))])
    assert gone.births == ((DBIRTH.topic, b""),)
    assert decoder.decode([data(3, CO2)]).counts == {Refusal.BEFORE_BIRTH: 1}
    gone = decoder.decode([told("NDEATH", payload(BD_SEQ))])
    assert gone.births == ((NBIRTH.topic, b""),)
    assert decoder.decode([data(4, CO2)]).counts == {Refusal.BEFORE_BIRTH: 1}


def test_the_death_of_an_earlier_birth_that_comes_late_ends_nothing() -> None:
    decoder = born()
    late = metric(name="bdSeq", datatype=UINT64, long_value=6)
    decoded = decoder.decode([told("NDEATH", payload(late)), data(2, CO2)])
    assert (len(decoded.readings), decoded.births) == (1, ())


def test_a_node_s_new_birth_ends_those_of_its_devices() -> None:
    decoder = born()
    decoded = decoder.decode([NBIRTH, data(1, CO2)])
    assert set(decoded.births) == {(DBIRTH.topic, b""), (NBIRTH.topic, NBIRTH.payload)}
    assert decoded.counts[Refusal.BEFORE_BIRTH] == 1


def test_births_survive_a_restart_and_are_asked_for_anew() -> None:
    """The broker held data for us: they are acknowledged, so they must be readable."""
    kept = dict(Decoder(CONFIG).decode([NBIRTH, DBIRTH]).births)
    decoder = Decoder(CONFIG)
    decoder.restore(kept.items())
    decoded = decoder.decode([data(77, metric(alias=1, float_value=20)), data(78, metric(alias=1, float_value=19))])
    assert [row[3] for row in rows(decoded)] == [20.0, 19.0]
    assert (asked(decoded), decoded.births) == (["spBv1.0/Farm/NCMD/N1"], ())


def test_an_amount_that_a_birth_repeats_is_not_counted_again() -> None:
    decoder = Decoder(CONFIG)
    water = metric(name="Water", alias=3, datatype=DOUBLE, double_value=12.5)
    decoded = decoder.decode([NBIRTH, told("DBIRTH", payload(water, seq=1, timestamp=NOW_MS))])
    assert (len(decoded.readings), decoded.counts[Refusal.REPEATED]) == (0, 1)
    decoded = decoder.decode([data(2, metric(alias=3, double_value=4))])
    assert [row[3] for row in rows(decoded)] == [4.0]


def test_one_name_may_stand_for_two_signals_in_two_houses() -> None:
    decoder = born()
    decoded = decoder.decode([told("DBIRTH", payload(T, seq=2), "house2")])
    assert [row[:2] for row in rows(decoded)] == [("house2", "temperature-2")]


def test_a_node_s_own_metrics_need_a_house() -> None:
    birth = payload(BD_SEQ, T, CO2, seq=0, timestamp=NOW_MS)
    decoded = Decoder(CONFIG).decode([told("NBIRTH", birth, node="N1"), told("NBIRTH", birth, node="PLC 1")])
    assert [row[:2] for row in rows(decoded)] == [("house1", "temperature"), ("house1", "co2")]
    assert [r.reason for r in decoded.rejected] == ["unknown house: N1"]


def test_the_node_may_be_the_house() -> None:
    config = Config(source=(Source(topic="spBv1.0/{site}/{message}/{house}/{device}", dialect="sparkplug"),))
    messages = [
        Message(topic, wire, 0, 1, False, False, 1, NOW_MS, 0.0)
        for topic, wire in (
            ("spBv1.0/farm1/NBIRTH/house3", payload(CO2, seq=0, timestamp=NOW_MS)),
            (
                "spBv1.0/farm1/DBIRTH/house3/scale",
                payload(metric(name="weight", float_value=900, timestamp=NOW_MS), seq=1),
            ),
        )
    ]
    decoded = Decoder(config).decode(messages)
    assert [row[:2] for row in rows(decoded)] == [("house3", "co2"), ("house3", "weight")]


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (metric(alias=2, is_null=True), None),
        (metric(alias=2), "no value: co2"),
        (metric(name="text", datatype=STRING, string_value="on"), "wrong type: text"),
        (metric(name="file", bytes_value=b"\x00"), "wrong type: file"),
        (metric(name="table", dataset_value=b"\x08\x01"), "wrong type: table"),
        (metric(name="kind", template_value=b""), "wrong type: kind"),
        (metric(name="since", datatype=DATE_TIME, long_value=NOW_MS), "wrong type: since"),
        (metric(name="a", double_value=float("nan")), "not finite: a"),
        (metric(name="a", float_value=float("inf")), "not finite: a"),
        (metric(name="a/b", float_value=1), "bad name: a/b"),
        (metric(name="a+", float_value=1), "bad name: a+"),
        (metric(name=b"\xff\xfe", float_value=1), "bad UTF-8"),
        (metric(float_value=1), "bad name"),
        (metric(name="a", datatype=INT8, int_value=300), "wrong type: a"),
        (metric(name="a", float_value=1, timestamp=0), "time before 2000: 0"),
        (metric(name="a", float_value=1, timestamp=2**64 - 1), "time in the future: 18446744073709551615"),
    ],
)
def test_a_metric_that_is_no_reading_is_refused_alone(one: bytes, reason: str | None) -> None:
    decoded = born().decode([data(2, one, CO2)])
    assert [row[1] for row in rows(decoded)] == ["co2"]
    assert [r.reason for r in decoded.rejected] == ([] if reason is None else [reason])


@pytest.mark.parametrize(
    ("data_type", "wire", "expected"),
    [
        (INT8, 0xFB, -5),
        (INT8, 0xFFFFFFFB, -5),
        (INT8, 5, 5),
        (2, 0xFFFB, -5),
        (3, 0xFFFFFFFB, -5),
        (7, 2**32 - 5, 2**32 - 5),
    ],
)
def test_negative_numbers_are_read_as_senders_write_them(data_type: int, wire: int, expected: int) -> None:
    decoded = born().decode([data(2, metric(name="a", datatype=data_type, int_value=wire))])
    assert [row[3] for row in rows(decoded)] == [expected]


def test_true_and_false_are_1_and_0() -> None:
    decoded = born().decode([data(2, metric(name="fan", boolean_value=True), metric(name="lamp", boolean_value=False))])
    assert [row[3] for row in rows(decoded)] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("wire", "refusal"),
    [
        (b"\xff", Refusal.NOT_PROTOBUF),
        (b"21.5", Refusal.NOT_PROTOBUF),
        (b"\x0b" * 60_000, Refusal.NOT_PROTOBUF),  # groups in groups
        (with_length(2, b"") * 1001, Refusal.TOO_MANY_VALUES),
        (b"\x00" * 65_537, Refusal.TOO_LARGE),
        (b"", Refusal.EMPTY),
    ],
)
def test_what_is_no_payload_is_refused_with_its_reason(wire: bytes, refusal: Refusal) -> None:
    assert born().decode([told("DDATA", wire)]).counts == {refusal: 1}


def test_strangers_fill_no_memory_with_births() -> None:
    decoder = Decoder(CONFIG)
    births = [told("NBIRTH", payload(seq=0), node=f"N{i}") for i in range(MOST_BIRTHS + 2)]
    assert decoder.decode(births).counts[Refusal.TOO_MANY_BIRTHS] == 2


def test_strangers_keep_no_node_from_being_asked() -> None:
    decoder = Decoder(CONFIG)
    strangers = [told("NDATA", payload(CO2, seq=5), node=f"N{i}") for i in range(2 * MOST_BIRTHS)]
    assert len(decoder.decode(strangers).requests) == MOST_BIRTHS
    assert asked(decoder.decode([told("NDATA", payload(CO2, seq=5), node="ours")])) == ["spBv1.0/Farm/NCMD/ours"]


def test_an_agent_without_a_sparkplug_source_does_not_load_protobuf() -> None:
    code = "import sys, agent.dialects as d, agent.config as c; d.Decoder(c.Config()); print('google' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.strip() == "False"


def test_readings_are_timed_by_their_sender() -> None:
    assert set(Decoder(CONFIG).decode([NBIRTH, DBIRTH]).readings.time_quality.tolist()) == {TimeQuality.SENDER}
