"""Every example of docs/dialects.md, run: the guide cannot lie."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.config import Source, parse_config
from agent.dialects import Decoder
from agent.domain import Message, Quality, from_ms, to_ms
from tests.sparkplug_b import metric, payload

GUIDE = Path(__file__).parents[2] / "docs" / "dialects.md"
NOW_MS = to_ms(datetime(2026, 1, 31, 12, tzinfo=UTC))


@dataclass
class Example:
    """The blocks of one example, as text."""

    source: str
    blocks: dict[str, list[str]] = field(default_factory=dict)


def examples() -> dict[str, Example]:
    """Return the examples of the guide by their dialect."""
    found: dict[str, Example] = {}
    example = Example("")
    for kind, block in re.findall(
        r"^```([a-z]+)\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        if kind == "toml":
            example = Example(block)
            found[tomllib.loads(block)["source"][0]["dialect"]] = example
        else:
            example.blocks[kind] = block.splitlines()
    return found


EXAMPLES = examples()


def messages(dialect: str, lines: list[str]) -> list[Message]:
    """Return the messages of a block: topic, two or more spaces, payload, which may go on in indented lines."""
    told: list[tuple[str, str]] = []
    for line in lines:
        if line.startswith(" "):
            topic, text = told.pop()
            told.append((topic, f"{text}\n{line}"))
        else:
            topic, text = re.split(r" {2,}", line, maxsplit=1)
            told.append((topic, text))
    return [Message(topic, wire(dialect, text), 1, 1, False, False, 1, NOW_MS, 0.0) for topic, text in told]


def wire(dialect: str, text: str) -> bytes:
    """Return a payload as it is sent."""
    if dialect != "sparkplug":
        return text.encode()
    document = json.loads(text)
    metrics = [metric(**one) for one in document.pop("metrics")]
    return payload(*metrics, **document)


def words(line: str) -> list[str]:
    return line.split()


def test_there_is_an_example_of_every_dialect() -> None:
    [dialects] = [Source.model_fields["dialect"].annotation]
    assert set(EXAMPLES) == set(dialects.__args__)  # type: ignore[union-attr]  # a Literal


@pytest.mark.parametrize("dialect", EXAMPLES)
def test_an_example_stores_and_refuses_what_the_guide_says(dialect: str) -> None:
    example = EXAMPLES[dialect]
    config = parse_config(tomllib.loads(example.source), "the guide")
    decoded = Decoder(config).decode(messages(dialect, example.blocks["mqtt"]))
    r = decoded.readings
    stored = [
        [
            *r.keys[k],
            f"{value:.6g}",
            *filter(None, [config.signal(r.keys[k]).unit]),
            from_ms(int(at)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            *([] if quality == Quality.GOOD else [Quality(int(quality)).name.lower()]),
        ]
        for k, at, value, quality in zip(r.key, r.at_ms, r.value, r.quality, strict=True)
    ]
    assert stored == [words(line) for line in example.blocks["stored"]]
    assert [rejected.reason for rejected in decoded.rejected] == example.blocks["refused"]
    assert [topic for topic, _ in decoded.requests] == example.blocks.get("published", [])
