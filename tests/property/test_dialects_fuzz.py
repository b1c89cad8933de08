from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.config import Config, Site, Source
from agent.dialects import COUNTED_ONLY, FIRST_BYTES, Decoded, Decoder
from agent.domain import Message
from tests.sparkplug_b import metric, payload

if TYPE_CHECKING:
    from random import Random

SPARKPLUG = ("NBIRTH", "NDATA", "NDEATH", "DBIRTH", "DDATA", "DDEATH")
NOW_MS = 1_795_000_000_000
CONFIG = Config(
    site=Site(timezone="Europe/Copenhagen"),
    source=(
        *Config().source,
        Source(topic="dol/{house}", dialect="dol"),
        Source(topic="senml/{house}", dialect="senml"),
        Source(topic="spBv1.0/{group}/{message}/{node}/{house}", dialect="sparkplug"),
    ),
)

json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
FIELDS = ["value", "at", "ts", "timestamp", "temperature", "co2", "bad name"]
FIELDS_OF_DOL = [
    "value",
    "type",
    "unit",
    "sensorId",
    "sensorName",
    "deviceId",
    "timestamp",
    "count",
    "sd",
    "withinSpec",
]
FIELDS_OF_SENML = ["bn", "bt", "bu", "bv", "bs", "bver", "n", "u", "v", "vs", "vb", "vd", "s", "t", "ut", "x_", "bx_"]
members = st.dictionaries(
    st.sampled_from(FIELDS + FIELDS_OF_DOL + FIELDS_OF_SENML) | st.text(max_size=8),
    json_like | st.datetimes().map(str),
    max_size=6,
)
payloads = (
    st.binary(max_size=200)
    | members.map(lambda d: json.dumps(d).encode())
    | st.lists(members, max_size=4).map(lambda d: json.dumps(d).encode())
    | json_like.map(lambda d: json.dumps(d).encode())
)
topics = (
    st.sampled_from(["skov/farm1/house1/temperature", "skov/farm1/house1", "skov/farm2/h/co2", "skov/farm1/_site/x"])
    | st.sampled_from(["dol/house1", "senml/house1", "senml/_site", "spBv1.0/g/NBIRTH/n", "spBv1.0/g/DDATA/n/house1"])
    | st.text(max_size=40)
    | st.lists(st.text(max_size=8), min_size=2, max_size=4).map(lambda levels: "/".join(["skov", "farm1", *levels]))
)


@settings(max_examples=500, deadline=None)
@given(topic=topics, payload=payloads, dup=st.booleans(), trusted=st.booleans())
@example("skov/farm1/house1", b'{"at":"0001-01-01T00:00:00", "a":1}', False, False)
@example("skov/farm1/house1", b'{"at":"9999-12-31T23:59:59.9999999", "a":1}', False, False)
@example("skov/farm1/house1", b'{"at":-0.0, "a":1e308}', False, False)
@example("skov/farm1/house1", b'{"at":NaN, "a":1}', False, False)
@example("skov/farm1/house1", b'{"at":' + b"[" * 900 + b"]" * 900 + b', "a":1}', False, True)
@example("skov/farm1/house1/temperature", b'{"value":1,"at":' + b"9" * 4000 + b"}", False, True)
@example("skov/farm1/house1/temperature", b'"\\ud800"', False, True)
@example("skov/farm1/house1", b'{"\\ud800": 1, "at": 1795000000}', False, True)
@example("skov/farm1/house1", b'{"at": "\\ud800", "co2": 900}', False, True)
@example("dol/house1", b'{"value": 1, "sensorId": "\\ud800", "type": "x", "timestamp": "\\ud800"}', False, True)
@example("senml/house1", b'[{"\\ud800_": 1, "v": 1}]', False, True)
@example("skov/farm1/house1/temperature", b'\xef\xbb\xbf{"value": 1}', False, True)
def test_whatever_bytes_come_in_the_answer_is_readings_or_a_reason(
    topic: str, payload: bytes, dup: bool, trusted: bool
) -> None:
    told = Message(topic, payload, 1, 1, dup, retain=False, connection=1, received_ms=NOW_MS, received_monotonic=0.0)
    decoded = Decoder(CONFIG).decode([told], clock_trusted=trusted)
    assert len(decoded.readings) > 0 or sum(decoded.counts.values()) > 0
    refused = sum(count for refusal, count in decoded.counts.items() if refusal not in COUNTED_ONLY)
    assert refused == len(decoded.rejected)
    assert all(len(rejected.first_bytes) <= FIRST_BYTES and rejected.reason for rejected in decoded.rejected)
    assert all(rejected.reason.encode() for rejected in decoded.rejected)  # else the store would not take it
    assert all(math.isfinite(value) for value in decoded.readings.value)
    assert all(946_684_800_000 <= at <= 4_102_444_800_000 for at in decoded.readings.at_ms)


@settings(max_examples=200, deadline=None)
@given(
    good=st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True).filter(lambda n: n not in {"at", "ts", "timestamp"}),
        st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**60), 2**60),
        max_size=20,
    ),
    bad=st.dictionaries(
        st.text(max_size=10).filter(lambda n: n not in {"at", "ts", "timestamp"}),
        st.sampled_from([math.nan, math.inf, "text", [1], {"a": 1}]),
        max_size=5,
    ),
)
def test_no_bad_member_takes_a_good_one_with_it(good: dict[str, float], bad: dict[str, object]) -> None:
    payload = json.dumps({**bad, **good}).encode()
    told = Message("skov/farm1/house1", payload, 1, 1, dup=False, retain=False, connection=1, received_ms=NOW_MS,
                   received_monotonic=0.0)  # fmt: skip
    readings = Decoder(CONFIG).decode([told]).readings
    read = {readings.keys[k].signal: value for k, value in zip(readings.key, readings.value.tolist(), strict=True)}
    assert read == {name: float(value) for name, value in good.items()}


GOOD_VALUES = st.lists(st.floats(-1e9, 1e9), max_size=8)


def told(topic: str, payload: bytes, *, dup: bool = False) -> Message:
    return Message(topic, payload, 1, 1, dup, retain=False, connection=1, received_ms=NOW_MS, received_monotonic=0.0)


def decode(*messages: tuple[str, bytes]) -> Decoded:
    return Decoder(CONFIG).decode([told(topic, wire) for topic, wire in messages])


def values_of(decoded: Decoded) -> dict[str, float]:
    readings = decoded.readings
    return {readings.keys[k].signal: v for k, v in zip(readings.key, readings.value.tolist(), strict=True)}


@settings(max_examples=200, deadline=None)
@given(good=GOOD_VALUES, bad=st.lists(json_like | members, max_size=6), order=st.randoms())
def test_no_bad_object_of_dol_takes_a_good_one_with_it(good: list[float], bad: list[object], order: Random) -> None:
    records: list[object] = [
        {"type": f"good{i}", "sensorId": f"sensor of {i}", "value": value, "timestamp": NOW_MS // 1000}
        for i, value in enumerate(good)
    ]
    records += bad
    order.shuffle(records)
    read = values_of(decode(("dol/house1", json.dumps(records).encode())))
    assert {f"good{i}": value for i, value in enumerate(good)}.items() <= read.items()


@settings(max_examples=200, deadline=None)
@given(good=GOOD_VALUES, bad=st.lists(json_like | members, max_size=6), order=st.randoms())
def test_no_bad_record_of_senml_takes_a_good_one_with_it(good: list[float], bad: list[object], order: Random) -> None:
    """A base field is no mere record of its own: what is wrong there is told by another test."""
    records: list[object] = [{"n": f"good{i}x", "v": value} for i, value in enumerate(good)]
    records += [
        {label: value for label, value in one.items() if not label.startswith("b")} if isinstance(one, dict) else one
        for one in bad
    ]
    order.shuffle(records)
    read = values_of(decode(("senml/house1", json.dumps(records).encode())))
    assert {f"good{i}x": value for i, value in enumerate(good)}.items() <= read.items()


@settings(max_examples=200, deadline=None)
@given(
    good=GOOD_VALUES,
    bad=st.lists(st.tuples(st.binary(max_size=9), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)), max_size=6),
    order=st.randoms(),
)
def test_no_bad_metric_of_sparkplug_takes_a_good_one_with_it(
    good: list[float], bad: list[tuple[bytes, int, int]], order: Random
) -> None:
    metrics = [metric(name=f"good{i}x", double_value=value, timestamp=NOW_MS) for i, value in enumerate(good)]
    metrics += [metric(name=b"bad" + name, alias=n, datatype=kind, timestamp=n) for name, n, kind in bad]
    metrics += [metric(alias=n, long_value=n) for _, n, _ in bad]
    order.shuffle(metrics)
    born = [("spBv1.0/g/NBIRTH/n", payload(seq=0)), ("spBv1.0/g/DBIRTH/n/house1", payload(seq=1))]
    read = values_of(decode(*born, ("spBv1.0/g/DDATA/n/house1", payload(*metrics, seq=2))))
    assert {f"good{i}x": value for i, value in enumerate(good)}.items() <= read.items()


@settings(max_examples=300, deadline=None)
@given(wire=st.lists(st.tuples(st.sampled_from(SPARKPLUG), st.binary(max_size=120)), max_size=6))
def test_whatever_a_sparkplug_node_sends_the_answer_is_readings_or_a_reason(wire: list[tuple[str, bytes]]) -> None:
    told = [(f"spBv1.0/g/{m}/n" + ("/house1" if m.startswith("D") else ""), payload_) for m, payload_ in wire]
    decoded = decode(*told)
    assert len(decoded.readings) + sum(decoded.counts.values()) >= len(told)
