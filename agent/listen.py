"""``flockwatch check --listen``: what arrives at the broker, what becomes of it, and what to write into agent.toml.

No I/O: messages go in, lines and a report come out. What no source reads is looked at with every dialect, and a
``[[source]]`` is written for it, which is tried on what was heard before it is shown.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, cast

from agent.config import NAME_PATTERN, Config, parse_config
from agent.dialects import COUNTED_ONLY, Decoder, Refusal
from agent.errors import ConfigError
from agent.signals import CATALOGUE, base_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from agent.dialects import Decoded
    from agent.domain import Message, SeriesKey

SAMPLES_KEPT = 20  # payloads of an unknown topic: a Sparkplug node has told its births by then
TOPICS_KEPT = 1_000  # unknown topics looked at; more are counted
DROPS_KEPT = 500  # reasons with what they are about; more are counted by the bare reason
SHOWN = 60  # characters of a payload

_WORDS = {
    "temp": "temperature",
    "t": "temperature",
    "inside": "temperature",
    "outside": "outside_temperature",
    "rh": "humidity",
    "hum": "humidity",
    "moisture": "humidity",
    "nh3": "ammonia",
    "carbondioxide": "co2",
    "lux": "light",
    "press": "pressure",
    "wind": "air_speed",
    "fan": "ventilation",
    "vent": "ventilation",
    "heat": "heating",
    "drink": "water",
    "feeding": "feed",
    "power": "energy",
    "bird": "weight",
    "mortality": "dead",
    "deaths": "dead",
}
"""Words that senders use for our signals; a hint, to be looked at by a person."""

_HOUSE = re.compile(r"(house|barn|shed|hall|stall|hus|room)[ _-]?.+|h?\d{1,3}", re.IGNORECASE)
_TIMES = frozenset({"at", "ts", "timestamp"})


@dataclass(slots=True)
class Series:
    """A series that the configuration reads."""

    topic: str
    unit: str | None
    is_known: bool  # its signal is in the catalogue
    count: int = 0
    value: float = 0.0  # the last one
    first_ms: int = 0
    last_ms: int = 0

    def note(self, value: float, at_ms: int) -> None:
        """Take note of a reading."""
        self.first_ms = min(self.first_ms, at_ms) if self.count else at_ms
        self.last_ms = max(self.last_ms, at_ms)
        self.count += 1
        self.value = value

    @property
    def rhythm_s(self) -> float | None:
        """The mean seconds between readings; None before the second."""
        return (self.last_ms - self.first_ms) / 1000 / (self.count - 1) if self.count > 1 else None


@dataclass(slots=True)
class Dropped:
    """What was refused for one reason, and about one name where the reason has one."""

    count: int = 0
    topic: str = ""  # of one example
    payload: str = ""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A ``[[source]]`` for topics that nothing reads yet."""

    topic: str
    dialect: str
    rename: dict[str, str]
    houses: dict[str, str]
    topics: int  # how many it reads
    readings: int  # that it made of what was heard

    def lines(self) -> list[str]:
        """Return it as it is written in agent.toml."""
        return [
            "[[source]]",
            f"topic = {json.dumps(self.topic)}",
            f"dialect = {json.dumps(self.dialect)}",
            *([f"rename = {_inline(self.rename)}"] if self.rename else []),
            *([f"houses = {_inline(self.houses)}"] if self.houses else []),
        ]


@dataclass(slots=True)
class _Topic:
    """An unknown topic."""

    messages: list[Message] = field(default_factory=list)
    count: int = 0


class Listener:
    """Takes messages one after the other, and remembers what became of them."""

    def __init__(self, config: Config, births: Iterable[tuple[str, bytes]] = ()) -> None:
        """Take the sources of ``config`` as they are, and the births that the agent has stored."""
        self._config = config
        self._decoder = Decoder(config)
        self._decoder.restore(births)
        self.messages = 0
        self.series: dict[SeriesKey, Series] = {}
        self.dropped: dict[tuple[str, str], Dropped] = {}  # by reason and what it is about
        self._unknown: dict[str, _Topic] = {}

    def hear(self, message: Message, *, clock_trusted: bool = True) -> list[str]:
        """Take a message; return what is new with it, in lines for people."""
        if message.topic.startswith(self._config.mqtt.topic_prefix + "/"):
            return []  # what we say ourselves, and commands to us
        self.messages += 1
        decoded = self._decoder.decode([message], clock_trusted=clock_trusted)
        news = []
        readings = decoded.readings
        for k, at_ms, value in zip(
            readings.key.tolist(), readings.at_ms.tolist(), readings.value.tolist(), strict=True
        ):
            key = readings.keys[k]
            series = self.series.get(key)
            if series is None:
                is_known = base_of(key.signal) in CATALOGUE
                series = self.series[key] = Series(message.topic, self._config.signal(key).unit, is_known)
                news.append(f"reads   {_series_words(key, value, series)}  <- {message.topic}")
            series.note(value, at_ms)
        for (reason, detail), count in _drops(decoded).items():
            about = (reason, detail if len(self.dropped) < DROPS_KEPT or (reason, detail) in self.dropped else "")
            dropped = self.dropped.setdefault(about, Dropped(0, message.topic, _shown(message.payload)))
            if not dropped.count:
                verb = "passes " if reason in COUNTED_ONLY else "drops  "
                news.append(f"{verb} {reason}{_in_brackets(about[1])}  <- {message.topic}  {dropped.payload}")
            dropped.count += count
        if Refusal.UNKNOWN_TOPIC in decoded.counts and not message.retain:
            self._note_unknown(message)
        return news

    def _note_unknown(self, message: Message) -> None:
        topic = self._unknown.get(message.topic)
        if topic is None:
            if len(self._unknown) >= TOPICS_KEPT:
                return
            topic = self._unknown[message.topic] = _Topic()
        topic.count += 1
        if len(topic.messages) < SAMPLES_KEPT:
            topic.messages.append(message)

    @property
    def unknown_houses(self) -> list[str]:
        """The houses whose readings are stored, but judged by nothing."""
        configured = {house.id for house in self._config.house}
        return sorted({key.house for key in self.series} - configured)

    def hints(self) -> dict[str, str]:
        """Return which of our signals those that are read, but in no catalogue, may be."""
        return _hints({key.signal for key, series in self.series.items() if not series.is_known})

    def suggestions(self) -> list[Suggestion]:
        """Return a ``[[source]]`` for each family of unknown topics that a dialect reads, each tried."""
        families: dict[tuple[str, int, str], dict[str, _Topic]] = {}
        for name, topic in self._unknown.items():
            dialect = _dialect_of(name, [message.payload for message in topic.messages])
            if dialect is not None:
                levels = name.split("/")
                depth = 0 if dialect == "sparkplug" else len(levels)
                families.setdefault((dialect, depth, levels[0]), {})[name] = topic
        made = (self._suggest(dialect, topics) for (dialect, _, _), topics in sorted(families.items()))
        return [suggestion for suggestion in made if suggestion is not None]

    def _suggest(self, dialect: str, topics: dict[str, _Topic]) -> Suggestion | None:
        template = _template(dialect, list(topics), {house.id for house in self._config.house}, self._config.site.id)
        messages = [message for topic in topics.values() for message in topic.messages]
        payloads = [message.payload for message in messages]
        if "{house}" in template:
            at = template.split("/").index("{house}")
            found = {levels[at] for topic in topics if len(levels := topic.split("/")) > at}
        else:
            found = _senders(dialect, payloads)
        houses = {
            sender: _as_name(sender) if "{house}" in template else "house1"
            for sender in sorted(found)
            if "{house}" not in template or not re.fullmatch(NAME_PATTERN, sender)
        }
        plain = self._tried(template, dialect, {}, houses, messages)  # to see which names are none of ours
        if plain is None:
            return None
        rename = _hints(plain[1])
        readings, _ = self._tried(template, dialect, rename, houses, messages) or plain
        return Suggestion(template, dialect, rename, houses, len(topics), readings)

    def _tried(
        self,
        topic: str,
        dialect: str,
        rename: dict[str, str],
        houses: dict[str, str],
        messages: Sequence[Message],
    ) -> tuple[int, set[str]] | None:
        """Return how many readings a source makes of messages, and which names in them are none of ours."""
        source = {"topic": topic, "dialect": dialect, "rename": rename, "houses": houses}
        try:
            config = parse_config({"site": {"id": self._config.site.id}, "source": [source]}, "suggestion")
        except ConfigError:  # a topic with a level that no template can write
            return None
        decoded = Decoder(config).decode(messages)
        strange = {key.signal for key in decoded.readings.keys if base_of(key.signal) not in CATALOGUE}
        for rejected in decoded.rejected:
            reason, _, detail = rejected.reason.partition(": ")
            if reason == Refusal.BAD_NAME and detail:
                strange.add(detail)
        return len(decoded.readings), strange

    def unread_topics(self) -> list[tuple[str, str]]:
        """Return the unknown topics that no dialect reads, each with an example."""
        return [
            (name, _shown(topic.messages[0].payload))
            for name, topic in self._unknown.items()
            if _dialect_of(name, [message.payload for message in topic.messages]) is None
        ]


def _drops(decoded: Decoded) -> Counter[tuple[str, str]]:
    """Count what was refused by reason and detail; details are kept of the first ones only."""
    counts: Counter[tuple[str, str]] = Counter()
    for rejected in decoded.rejected:
        reason, _, detail = rejected.reason.partition(": ")
        counts[reason, detail] += 1
    for refusal, count in decoded.counts.items():
        told = sum(n for (reason, _), n in counts.items() if reason == refusal)
        if count > told:
            counts[str(refusal), ""] += count - told
    return counts


def report_lines(heard: Listener) -> Iterator[str]:
    """Yield what was heard, dropped, and what to add to agent.toml, for people."""
    readings = sum(series.count for series in heard.series.values())
    yield f"heard {heard.messages} messages: {readings} readings of {len(heard.series)} series"
    if not heard.messages:
        yield "does anybody send? and may this user of the broker read it? an access list hides topics without a word"
    for key, series in sorted(heard.series.items()):
        rhythm = f"every {series.rhythm_s:.3g} s" if series.rhythm_s else "once"
        strange = "" if series.is_known else "  (not in the catalogue of signals)"
        yield f"  {_series_words(key, series.value, series)}  {rhythm}  <- {series.topic}{strange}"
    if heard.dropped:
        yield "no readings:"
    for (reason, detail), dropped in sorted(heard.dropped.items(), key=lambda item: -item[1].count):
        yield f"  {dropped.count} x {reason}{_in_brackets(detail)}, as {dropped.topic}  {dropped.payload}"
    if unread := heard.unread_topics():
        yield "no dialect reads:"
        yield from (f"  {topic}  {example}" for topic, example in unread[:SAMPLES_KEPT])
    if hints := heard.hints():
        yield "names that may be signals of ours; add to the [[source]] that brings them:"
        yield f"rename = {_inline(hints)}"
    suggestions, houses = heard.suggestions(), heard.unknown_houses
    if suggestions or houses:
        yield "to add to agent.toml (a [[source]] in it replaces the built-in ones; look at every line):"
    for suggestion in suggestions:
        topics = "1 topic" if suggestion.topics == 1 else f"{suggestion.topics} topics"
        yield f"# {topics}; {suggestion.readings} readings of what was heard"
        yield from suggestion.lines()
    for house in houses:
        yield from ("[[house]]", f'id = "{house}"')


def report_value(heard: Listener) -> dict[str, object]:
    """Return the same for JSON."""
    return {
        "messages": heard.messages,
        "series": [
            {
                "house": key.house,
                "signal": key.signal,
                "unit": series.unit,
                "in_catalogue": series.is_known,
                "topic": series.topic,
                "readings": series.count,
                "value": series.value,
                "rhythm_s": series.rhythm_s,
            }
            for key, series in sorted(heard.series.items())
        ],
        "dropped": [
            {"reason": reason, "count": d.count, "topic": d.topic, "detail": detail, "payload": d.payload}
            for (reason, detail), d in heard.dropped.items()
        ],
        "unread_topics": [{"topic": topic, "payload": payload} for topic, payload in heard.unread_topics()],
        "rename": heard.hints(),
        "sources": [
            {
                "topic": s.topic,
                "dialect": s.dialect,
                "rename": s.rename,
                "houses": s.houses,
                "topics": s.topics,
                "readings": s.readings,
                "toml": "\n".join(s.lines()),
            }
            for s in heard.suggestions()
        ],
        "houses": heard.unknown_houses,
    }


# --- guesses ----------------------------------------------------------------------------------------------------------


def _dialect_of(topic: str, payloads: Sequence[bytes]) -> str | None:
    """Return the dialect that most of the payloads seem to speak."""
    votes = Counter(filter(None, (_guess(topic, payload) for payload in payloads)))
    return votes.most_common(1)[0][0] if votes else None


def _guess(topic: str, payload: bytes) -> str | None:
    if topic.startswith("spBv1.0/"):
        return "sparkplug" if len(topic.split("/")) in {4, 5} else None
    document = _document(payload)
    if isinstance(document, (int, float)):
        return "value"
    first = document[0] if isinstance(document, list) and document else document
    if not isinstance(first, dict):
        return None
    if "value" in first:
        return "dol" if {"sensorId", "deviceId"} & first.keys() and "type" in first else "value"
    if isinstance(document, list):
        return "senml" if {"n", "bn"} & first.keys() else None
    numbers = {name for name, value in first.items() if isinstance(value, (int, float)) and name not in _TIMES}
    return "flat" if numbers else None


def _document(payload: bytes) -> object:
    """Return what a payload in JSON holds; None where it is none."""
    try:
        return cast("object", json.loads(payload))
    except (ValueError, RecursionError):
        return None


def _template(dialect: str, topics: list[str], houses: set[str], site: str) -> str:
    """Return a template for topics of one family: what differs becomes a field, as does what looks like a house."""
    if dialect == "sparkplug":
        group = {topic.split("/")[1] for topic in topics}
        one = next(iter(group))
        is_plain = len(group) == 1 and not re.search(r"[{}+#\s]", one)
        return f"spBv1.0/{one if is_plain else '{group}'}/{{message}}/{{node}}/{{house}}"
    columns = [set(column) for column in zip(*(topic.split("/") for topic in topics), strict=True)]
    signal = _signal_column(columns) if dialect == "value" else None
    house = _house_column(columns, houses, signal, is_needed=dialect in {"value", "flat"})
    levels = []
    for at, words in enumerate(columns):
        word = next(iter(words))
        if at == signal:
            levels.append("{signal}")
        elif at == house:
            levels.append("{house}")
        elif words == {site}:
            levels.append("{site}")
        elif len(words) == 1 and not re.search(r"[{}+#\s]", word):
            levels.append(word)
        else:
            levels.append("{level_" + "abcdefghijklmnopqrstuvwxyz"[at % 26] + "}")
    return "/".join(levels)


def _signal_column(columns: Sequence[set[str]]) -> int:
    """Return which level of a topic names the signal: the one with most words that we know, else the last."""
    known = [sum(1 for word in words if _signal_for(word)) / len(words) for words in columns]
    return max(range(len(columns)), key=lambda at: (known[at], at))


def _house_column(columns: Sequence[set[str]], houses: set[str], signal: int | None, *, is_needed: bool) -> int | None:
    """Return which level names the house: one that we know, or that is called so, else the last that is left."""

    def score(at: int) -> tuple[int, int, int]:
        words = columns[at]
        called = sum(1 for word in words if word in houses) * 2 + all(_HOUSE.fullmatch(word) for word in words)
        return called, len(words) > 1, at

    left = [at for at in range(len(columns)) if at != signal]
    best = max(left, key=score, default=None)
    if best is None or (not is_needed and score(best)[:2] == (0, 0)):
        return None
    return best


def _senders(dialect: str, payloads: Sequence[bytes]) -> set[str]:
    """Return the devices, or beginnings of names, that payloads come from."""
    found = set()
    for payload in payloads:
        document = _document(payload)  # the others of its topic may be junk
        for record in document if isinstance(document, list) else [document]:
            word = record.get("deviceId" if dialect == "dol" else "bn") if isinstance(record, dict) else None
            if isinstance(word, str) and word:
                found.add(word)
    return found


def _hints(names: set[str]) -> dict[str, str]:
    """Return for names that are none of ours the signals that they may be; two of one signal are numbered."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        if (signal := _signal_for(name)) is not None:
            found.setdefault(signal, []).append(name)
    return {
        name: signal if len(several) == 1 else f"{signal}-{number}"
        for signal, several in found.items()
        for number, name in enumerate(several, 1)
    }


def _signal_for(name: str) -> str | None:
    """Return the signal that a sender's word may mean."""
    if base_of(name) in CATALOGUE:
        return base_of(name)
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    for signal in sorted(CATALOGUE, key=len, reverse=True):
        if signal in plain:
            return signal
    for word in plain.split("_"):
        letters = word.rstrip("0123456789")
        if letters in _WORDS:
            return _WORDS[letters]
        if close := get_close_matches(letters, CATALOGUE, 1, 0.8):
            return close[0]
    return None


def _as_name(word: str) -> str:
    """Return a house's id for a word that is none."""
    return re.sub(r"[^A-Za-z0-9-]+", "_", word).strip("_")[:64] or "house1"


def _series_words(key: SeriesKey, value: float, series: Series) -> str:
    return f"{key.house}/{key.signal}  {value:g}{' ' + series.unit if series.unit else ''}"


def _in_brackets(detail: str) -> str:
    return f" ({detail})" if detail else ""


def _shown(payload: bytes) -> str:
    text = payload[:SHOWN].decode("utf-8", "replace")
    text = "".join(letter if letter.isprintable() else "." for letter in text)
    return text + ("..." if len(payload) > SHOWN else "")


def _inline(table: Mapping[str, str]) -> str:
    """Return an inline table of TOML; its strings are written as JSON's are."""
    return "{ " + ", ".join(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in table.items()) + " }"
