from __future__ import annotations

import json
import math

from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.config import Config, Site
from agent.dialects import FIRST_BYTES, Decoder, Refusal
from agent.domain import Message

NOW_MS = 1_795_000_000_000
CONFIG = Config(site=Site(timezone="Europe/Copenhagen"))

json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
members = st.dictionaries(
    st.sampled_from(["value", "at", "ts", "timestamp", "temperature", "co2", "bad name"]) | st.text(max_size=8),
    json_like | st.datetimes().map(str),
    max_size=6,
)
payloads = (
    st.binary(max_size=200)
    | members.map(lambda d: json.dumps(d).encode())
    | json_like.map(lambda d: json.dumps(d).encode())
)
topics = (
    st.sampled_from(["skov/farm1/house1/temperature", "skov/farm1/house1", "skov/farm2/h/co2", "skov/farm1/_site/x"])
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
@example("skov/farm1/house1/temperature", b'\xef\xbb\xbf{"value": 1}', False, True)
def test_whatever_bytes_come_in_the_answer_is_readings_or_a_reason(
    topic: str, payload: bytes, dup: bool, trusted: bool
) -> None:
    told = Message(topic, payload, 1, 1, dup, retain=False, connection=1, received_ms=NOW_MS, received_monotonic=0.0)
    decoded = Decoder(CONFIG).decode([told], clock_trusted=trusted)
    assert len(decoded.readings) > 0 or sum(decoded.counts.values()) > 0
    assert sum(decoded.counts.values()) - decoded.counts.get(Refusal.NO_DATA, 0) == len(decoded.rejected)
    assert all(len(rejected.first_bytes) <= FIRST_BYTES and rejected.reason for rejected in decoded.rejected)
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
