"""Junk for every dialect: the corpus, mutated, between good messages. ``make fuzz`` tries ten million.

The corpus is ``tests/property/corpus/<dialect>/``: one payload a file, of every kind that a dialect reads or refuses.
Whatever made a dialect fail is added there. What must hold: no exception; every message is a reading or is counted;
every value is finite and of a possible time; and of the good messages in between not one reading is missing or changed.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agent.config import Config, House, Source
from agent.dialects import Decoder
from agent.domain import Message
from tests.sparkplug_b import metric, payload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.dialects import Decoded
    from tests.sparkplug_b import Metric

CORPUS = Path(__file__).with_name("corpus")
NOW_MS = 1_795_000_000_000
JUNK_OF_BATCH = 200
BATCHES_OF_DECODER = 500  # then a new one begins: also what it remembers is fuzzed, without end it would be full
CRASHES_SHOWN = 5

SPARKPLUG = ("NBIRTH", "NDATA", "NDEATH", "DBIRTH", "DDATA", "DDEATH")
TOPICS = {
    "value": ["v/junk/temperature", "v/junk/water"],
    "flat": ["f/junk"],
    "dol": ["d/junk"],
    "senml": ["s/junk"],
    "sparkplug": [f"spBv1.0/g/{m}/junk" + ("/junk" if m.startswith("D") else "") for m in SPARKPLUG],
}
CONFIG = Config(
    source=(
        Source(topic="v/{house}/{signal}", dialect="value"),
        Source(topic="f/{house}", dialect="flat"),
        Source(topic="d/{house}", dialect="dol"),
        Source(topic="s/{house}", dialect="senml"),
        Source(topic="spBv1.0/{group}/{message}/{node}/{house}", dialect="sparkplug", houses={"junk": "junk"}),
    ),
    house=(House(id="good"),),
)
_CO2 = metric(name="co2", alias=1, long_value=900, timestamp=NOW_MS)
GOOD = {
    "value": [("v/good/temperature", b'{"value": 21.5, "at": 1795000000}'), ("v/good/co2", b"900")],
    "flat": [("f/good", b'{"at": 1795000000, "temperature": 21.5, "co2": 900}')],
    "dol": [
        ("d/good", b'{"sensorId": "a", "type": "CO2", "unit": "ppm", "value": 900, "timestamp": 1795000000}'),
        (
            "d/good",
            b'[{"sensorId": "b", "type": "Temperature", "unit": "K", "value": 294.65, "timestamp": 1795000000}]',
        ),
    ],
    "senml": [("s/good", b'[{"bt": 1795000000, "n": "co2", "u": "ppm", "v": 900}, {"n": "temperature", "v": 21.5}]')],
    "sparkplug": [
        ("spBv1.0/g/NBIRTH/good", payload(seq=0)),
        ("spBv1.0/g/DBIRTH/good/good", payload(_CO2, seq=1)),
        ("spBv1.0/g/DDATA/good/good", payload(metric(name="temperature", float_value=21.5, timestamp=NOW_MS), seq=2)),
    ],
}
"""Of each dialect: one reading of 900 and one of 21.5."""

BORN = {
    "sparkplug": [
        ("spBv1.0/g/NBIRTH/junk", (CORPUS / "sparkplug" / "nbirth").read_bytes()),
        ("spBv1.0/g/DBIRTH/junk/junk", (CORPUS / "sparkplug" / "dbirth").read_bytes()),
    ]
}
"""What comes now and then between the junk, so that not all of it comes before a birth."""

_SCALAR = re.compile(rb'("(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null|NaN)')

TOKENS = [
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
    *(b"NaN", b"Infinity", b"-1e999", b"1e308", b"1e-400", b"-0", b"0", b"null", b"true", b"[]", b"{}", b'""'),
    *(b"9" * 400, b"[" * 40, b'{"a":' * 20, b'"\\ud800"', b'"\\u0000"', b'"+"', b'"a/#"', b'"_site"', b"1795000000"),
    *(b'"at":', b'"value":', b'"n":', b'"v":', b'"bn":', b'"bver":', b'"s":', b'"x_":', b'"unit":', b'"count":0,'),
    *(b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80", b"\x7f", b"\x12\x00", b"\x08\xff\xff\xff\xff\x0f", b"\x18\x00"),
]
SCALARS = [
    *(b"0", b"-0.0", b"1", b"21.5", b"900", b"1e308", b"-1e308", b"1e999", b"-1e999", b"NaN", b"Infinity", b"5e-324"),
    *(
        b"null",
        b"true",
        b"false",
        b"[]",
        b"{}",
        b"[1]",
        b'{"a":1}',
        b'""',
        b'"x"',
        b'"on"',
        b'"+"',
        b'"a/#"',
        b'"_site"',
    ),
    *(
        b"9" * 30,
        b"9" * 400,
        b"-1",
        b"268435455",
        b"268435456",
        b"1795000000",
        b"1795000000000",
        b"99999999999",
        b"1e11",
    ),
    *(b'"2026-11-18T10:00:00Z"', b'"2026-11-18"', b'"0001-01-01T00:00:00"', b'"9999-12-31T23:59:59.999999+14:00"'),
    *(b'"Cel"', b'"K"', b'"%"', b'"l/s"', b'"W"', b'"Weight"', b'"CO2"', b'"\\ud800"', b'"\\u0000"', b'"urn:a/b:c"'),
    *(b'"' + b"x" * 300 + b'"', b"10", b"11"),
]
NAMES = [
    *(
        b'"at"',
        b'"ts"',
        b'"timestamp"',
        b'"value"',
        b'"n"',
        b'"bn"',
        b'"u"',
        b'"bu"',
        b'"v"',
        b'"vb"',
        b'"vs"',
        b'"vd"',
    ),
    *(
        b'"t"',
        b'"bt"',
        b'"bv"',
        b'"s"',
        b'"bs"',
        b'"bver"',
        b'"new_"',
        b'"bnew_"',
        b'"count"',
        b'"sd"',
        b'"unit"',
        b'"type"',
    ),
    *(
        b'"sensorId"',
        b'"sensorName"',
        b'"deviceId"',
        b'"withinSpec"',
        b'"state"',
        b'""',
        b'"a b"',
        b'"\\ud800"',
        b'"co2"',
    ),
]
DEEP = [b"[" * 3000, b'{"a":' * 3000, b"\x0b" * 3000, b"9" * 6000]


@dataclass(slots=True)
class Tally:
    """What came of one dialect's junk."""

    tries: int = 0
    crashes: list[str] = field(default_factory=list)
    lost: int = 0  # good readings that did not come, or not as they were sent
    unsaid: int = 0  # batches with a message that was neither a reading nor counted
    impossible: int = 0  # readings that are not finite, or of no possible time
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        """Whether all that must hold did."""
        return not (self.crashes or self.lost or self.unsaid or self.impossible)


def seeds(dialect: str) -> list[bytes]:
    """Return the payloads of a dialect's corpus."""
    return [file.read_bytes() for file in sorted((CORPUS / dialect).iterdir())]


def mutations(corpus: list[bytes], chance: random.Random) -> Iterator[bytes]:
    """Yield payloads of the corpus without end, half with bytes changed, half with values and fields changed."""
    texts = [_SCALAR.split(seed) for seed in corpus if seed[:1] in b"[{"]
    while True:
        yield bytes_changed(corpus, chance)
        yield fields_changed(texts, chance) if texts else strange_payload(chance)


def bytes_changed(corpus: list[bytes], chance: random.Random) -> bytes:
    """Return a payload of the corpus with one to four things changed that know nothing of its form."""
    draw, below = chance.random, chance.randrange
    junk = bytearray(corpus[int(draw() * len(corpus))])
    for _ in range(1 + int(draw() * draw() * 4)):
        at, kind = int(draw() * (len(junk) + 1)), draw()
        if kind < 0.3 and at < len(junk):
            junk[at] ^= 1 << below(8)
        elif kind < 0.5:
            junk[at:at] = TOKENS[int(draw() * len(TOKENS))]
        elif kind < 0.65:
            junk[at : at + int(draw() * 12)] = TOKENS[int(draw() * len(TOKENS))]
        elif kind < 0.75:
            del junk[at : at + 1 + int(draw() * 8)]
        elif kind < 0.8:
            del junk[at:]
        elif kind < 0.9:
            other = corpus[int(draw() * len(corpus))]
            junk[at:] = other[int(draw() * len(other)) :]
        elif kind < 0.95:
            junk[at:at] = junk[at : at + int(draw() * 40)]
        elif kind < 0.999 and at < len(junk):
            junk[at] = below(256)
        else:
            junk[at:at] = DEEP[int(draw() * len(DEEP))]
    return bytes(junk)


def fields_changed(texts: list[list[bytes]], chance: random.Random) -> bytes:
    """Return a JSON payload with one to four of its values and names replaced; it is JSON still."""
    draw = chance.random
    parts = texts[int(draw() * len(texts))].copy()
    for _ in range(1 + int(draw() * 4)):
        at = 1 + 2 * int(draw() * (len(parts) // 2))  # every second part is a scalar
        if at < len(parts):
            is_name = parts[at + 1].lstrip()[:1] == b":"
            words = NAMES if is_name else SCALARS
            parts[at] = words[int(draw() * len(words))]
    return b"".join(parts)


def strange_payload(chance: random.Random) -> bytes:
    """Return a Sparkplug payload of up to four metrics whose fields are right in form and strange in content."""
    metrics = []
    for _ in range(int(chance.random() * 5)):
        fields: Metric = {}
        if chance.random() < 0.6:
            fields["name"] = chance.choice(
                [b"co2", b"a", b"", b"bdSeq", b"Node Control/Rebirth", b"a/b", b"\xff", b"x" * 300]
            )
        if chance.random() < 0.6:
            fields["alias"] = chance.choice([0, 1, 2, 3, 99, 2**63, 2**64 - 1])
        if chance.random() < 0.5:
            fields["timestamp"] = chance.choice([0, 1, NOW_MS, NOW_MS * 1000, 1_795_000_000, 2**64 - 1])
        if chance.random() < 0.5:
            fields["datatype"] = chance.choice([*range(35), 2**32 - 1])
        if chance.random() < 0.1:
            fields["is_null"] = True
        match int(chance.random() * 8):
            case 0:
                fields["int_value"] = chance.choice([0, 1, 127, 128, 255, 65_535, 2**31, 2**32 - 1])
            case 1:
                fields["long_value"] = chance.choice([0, 1, 2**53 + 1, 2**63, 2**64 - 1])
            case 2:
                fields["float_value"] = chance.choice([0.0, 1.5, math.nan, math.inf, -math.inf, 3e38])
            case 3:
                fields["double_value"] = chance.choice([-0.0, 21.5, math.nan, math.inf, 1.7e308, 5e-324])
            case 4:
                fields["boolean_value"] = chance.random() < 0.5
            case 5:
                fields["bytes_value"] = b"\xff\x00"
            case 6:
                fields["template_value"] = b"\x12\x02\x12\x00"
        metrics.append(metric(**fields))
    seq = chance.choice([None, 0, 1, 2, 3, 255, 256, 2**64 - 1])
    return payload(*metrics, seq=seq, timestamp=chance.choice([None, 0, NOW_MS, 2**64 - 1]))


def message(topic: str, wire: bytes, at: int) -> Message:
    """Return a message that arrives as the ``at``-th."""
    return Message(topic, wire, 1, at % 65_536, at % 7 == 0, retain=False, connection=1, received_ms=NOW_MS,
                   received_monotonic=at / 1000)  # fmt: skip


def fuzz(dialect: str, count: int, seed: int) -> Tally:
    """Try ``count`` mutations of a dialect's corpus, good messages between them."""
    chance = random.Random(f"{dialect} {seed}")  # the same junk for the same seed
    tally, topics, junk = Tally(), TOPICS[dialect], mutations(seeds(dialect), chance)
    began, batch, decoder = time.monotonic(), 0, Decoder(CONFIG)
    while tally.tries < count:
        if batch % BATCHES_OF_DECODER == 0:
            decoder = Decoder(CONFIG)
        batch += 1
        messages = [
            message(topics[int(chance.random() * len(topics))], next(junk), tally.tries + i)
            for i in range(min(JUNK_OF_BATCH, count - tally.tries))
        ]
        tally.tries += len(messages)
        for at in range(0, len(messages), len(messages) // 4 + 1):
            messages[at:at] = [message(topic, wire, 1) for topic, wire in BORN.get(dialect, [])]
        for i, (topic, wire) in enumerate(GOOD[dialect]):  # the last one stands behind all the junk
            messages.insert(len(messages) * (i + 1) // len(GOOD[dialect]), message(topic, wire, 1))
        trusted = batch % 5 != 0
        try:
            decoded = decoder.decode(messages, clock_trusted=trusted)
        except Exception as e:  # noqa: BLE001  # what is looked for
            tally.crashes.append(f"{type(e).__name__}: {e}: {_culprit(messages, trusted=trusted)}")
            decoder = Decoder(CONFIG)
        else:
            _judge(decoded, len(messages), tally)
    tally.seconds = time.monotonic() - began
    return tally


def _culprit(messages: list[Message], *, trusted: bool) -> str:
    """Return which of the messages makes a new decoder fail that has had those before it."""
    decoder = Decoder(CONFIG)
    for one in messages:
        try:
            decoder.decode([one], clock_trusted=trusted)
        except Exception:  # noqa: BLE001  # as above
            return f"{one.topic} {one.payload[:2000]!r}"
    return "by what the decoder remembered of earlier batches"


def _judge(decoded: Decoded, messages: int, tally: Tally) -> None:
    readings = decoded.readings
    good = [i for i, key in enumerate(readings.keys) if key.house == "good"]
    values = sorted(
        round(v, 6) for k, v in zip(readings.key.tolist(), readings.value.tolist(), strict=True) if k in good
    )
    tally.lost += values != [21.5, 900.0]
    tally.unsaid += len(readings) + sum(decoded.counts.values()) < messages
    tally.impossible += sum(1 for value in readings.value.tolist() if not math.isfinite(value))
    tally.impossible += sum(1 for at in readings.at_ms.tolist() if not 0 <= at <= 4_102_444_800_000)


def main() -> int:
    """Fuzz every dialect, and print one table; 1 where anything failed."""
    parser = argparse.ArgumentParser(description="Try mutated payloads on every dialect.")
    parser.add_argument("--count", type=int, default=10_000_000, help="how many in all")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    tallies = {}
    print("dialect          tries  crashes  good lost  unsaid  impossible      rate")
    for dialect in TOPICS:
        tally = tallies[dialect] = fuzz(dialect, arguments.count // len(TOPICS), arguments.seed)
        print(
            f"{dialect:10} {tally.tries:11,} {len(tally.crashes):8} {tally.lost:10} {tally.unsaid:7} "
            f"{tally.impossible:11} {tally.tries / tally.seconds:7,.0f}/s",
            flush=True,
        )
        for crash in tally.crashes[:CRASHES_SHOWN]:
            print(f"    {crash}")
    return 0 if all(tally.is_clean for tally in tallies.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
