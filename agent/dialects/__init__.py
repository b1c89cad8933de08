"""MQTT messages to readings: topics by template, payloads by dialect, one file per dialect.

A new dialect is a module with ``parse(payload, signal) -> groups of values | Refusal`` and a line in ``DIALECTS``.
Whatever bytes come in, the answer is readings or a reason, never an exception.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.dialects import flat, value
from agent.dialects.topics import TopicTemplate, is_name
from agent.dialects.values import Arrival, Refusal, number_of
from agent.domain import Rejected, SeriesKey
from agent.readings import ReadingsBuilder
from agent.signals import CATALOGUE, base_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from agent.config import Config
    from agent.dialects.values import Group, Parse
    from agent.domain import Message
    from agent.readings import Readings

__all__ = ["Decoded", "Decoder", "Refusal", "SeriesGuard", "TopicTemplate"]

DIALECTS: dict[str, Parse] = {"value": value.parse, "flat": flat.parse}

LARGEST_PAYLOAD = 65_536  # bytes: a flat object of 256 signals has about 8,000
FIRST_BYTES = 64  # of a rejected payload that are kept to look at
REJECTED_KEPT = 100  # of one call: a flood of junk fills counters, not memory
PLACES_KEPT = 20_000  # topics remembered; 64 houses of 256 signals are 16,384
MOST_HOUSES = 64
MOST_SIGNALS = 256  # of one house
_DETAIL = 40  # characters of a sender's word that may stand in a reason
_CROWD_MS = 1000  # messages without a time that arrive within the same millisecond are spread over at most this


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a list of messages became."""

    readings: Readings  # in order of arrival
    rejected: tuple[Rejected, ...]  # the first REJECTED_KEPT; ``counts`` has them all
    counts: dict[Refusal, int]
    arrivals: tuple[Message, ...]  # those whose readings have no other identity than their arrival


@dataclass(slots=True)
class SeriesGuard:
    """Bounds what strangers may fill: houses, and signals of each. Houses of the configuration always enter."""

    configured: frozenset[str] = frozenset()
    signals: dict[str, set[str]] = field(default_factory=dict)  # by house, over the life of the process

    def admit(self, house: str, signal: str) -> Refusal | None:
        """Note a series, or say why it is one too many."""
        known = self.signals.get(house)
        if known is None:
            strangers = sum(1 for name in self.signals if name not in self.configured)
            if house not in self.configured and strangers >= MOST_HOUSES:
                return Refusal.TOO_MANY_HOUSES
            known = self.signals[house] = set()
        if signal not in known and len(known) >= MOST_SIGNALS:
            return Refusal.TOO_MANY_SIGNALS
        known.add(signal)
        return None

    @property
    def unconfigured_houses(self) -> frozenset[str]:
        """The houses that send but are not in the configuration."""
        return frozenset(self.signals) - self.configured

    @property
    def unknown_signals(self) -> frozenset[SeriesKey]:
        """The series whose signal is not in the catalogue: plain gauges without a unit."""
        return frozenset(
            SeriesKey(house, signal)
            for house, names in self.signals.items()
            for signal in names
            if base_of(signal) not in CATALOGUE
        )


@dataclass(slots=True)
class _Place:
    """What a topic stands for, worked out once per topic."""

    parse: Parse
    house: str
    signal: str
    rename: dict[str, str]
    keys: dict[str, SeriesKey] = field(default_factory=dict)  # by the sender's name; only series that were admitted
    last_arrival_ms: int = 0


@dataclass(slots=True)
class _Batch:
    """What one call collects."""

    arrival: Arrival
    is_redelivered: Callable[[Message], bool]
    builder: ReadingsBuilder = field(default_factory=ReadingsBuilder)
    rejected: list[Rejected] = field(default_factory=list)
    counts: Counter[Refusal] = field(default_factory=Counter)
    arrivals: list[Message] = field(default_factory=list)

    def reject(self, message: Message, refusal: Refusal, detail: str = "") -> None:
        self.counts[refusal] += 1
        if refusal is Refusal.NO_DATA:  # the sender says so itself: nothing is wrong
            return
        if len(self.rejected) < REJECTED_KEPT:
            reason = f"{refusal}: {detail[:_DETAIL]}" if detail else str(refusal)
            self.rejected.append(Rejected(message.topic, reason, message.payload[:FIRST_BYTES], message.received_ms))


class Decoder:
    """Turns messages into readings; remembers topics and which series there are."""

    def __init__(self, config: Config, known: Iterable[SeriesKey] = ()) -> None:
        """Take sources, site and houses from ``config``; ``known`` are series seen before (they count as admitted)."""
        self._site = config.site.id
        self._zone = config.site.days.zone
        self._sources = [(TopicTemplate.parse(source.topic), source) for source in config.source]
        self._places: dict[str, _Place] = {}
        self.guard = SeriesGuard(frozenset(house.id for house in config.house))
        for key in known:
            self.guard.admit(*key)

    @property
    def subscriptions(self) -> list[tuple[str, int]]:
        """The MQTT filters and their QoS that bring all sources; a filter that two sources share stands once."""
        wanted: dict[str, int] = {}
        for template, source in self._sources:
            wanted[template.subscription] = max(source.qos, wanted.get(template.subscription, 0))
        return list(wanted.items())

    def decode(
        self,
        messages: Sequence[Message],
        *,
        clock_trusted: bool = True,
        is_redelivered: Callable[[Message], bool] = lambda _message: False,
    ) -> Decoded:
        """Return the readings in ``messages``, and why the rest is none.

        ``is_redelivered`` is asked about a repeated message (DUP) whose readings have no time of their own: True drops
        it, as its readings are in the store already. Values of one topic without a time that arrive within one
        millisecond are spread over the following ones, since (house, signal, at) is what tells readings apart.
        """
        batch = _Batch(Arrival(self._zone, clock_trusted), is_redelivered)
        for message in messages:
            if message.retain:
                batch.counts[Refusal.RETAINED] += 1
                continue
            refusal = self._take(batch, message)
            if refusal is not None:
                batch.reject(message, refusal)
        counts = dict(batch.counts)
        return Decoded(batch.builder.build(), tuple(batch.rejected), counts, tuple(batch.arrivals))

    def _take(self, batch: _Batch, message: Message) -> Refusal | None:
        """Add the readings of one message, or say why it has none."""
        place = self._places.get(message.topic) or self._locate(message.topic)
        if isinstance(place, Refusal):
            return place
        if not message.payload:
            return Refusal.EMPTY
        if len(message.payload) > LARGEST_PAYLOAD:
            return Refusal.TOO_LARGE
        groups = place.parse(message.payload, place.signal)
        if isinstance(groups, Refusal):
            return groups
        for group in groups:
            self._add(batch, message, place, group)
        return None

    def _locate(self, topic: str) -> _Place | Refusal:
        """Return what ``topic`` stands for: the first source that fits, in the order of the configuration."""
        for template, source in self._sources:
            fields = template.match(topic)
            if fields is None:
                continue
            if fields.get("site", self._site) != self._site:
                return Refusal.OTHER_SITE
            house, signal = fields["house"], fields.get("signal", "")
            # a leading underscore is ours: _site stands for the whole site
            if not is_name(house) or house.startswith("_"):
                return Refusal.BAD_NAME
            if len(self._places) >= PLACES_KEPT:
                self._places.clear()
            place = self._places[topic] = _Place(DIALECTS[source.dialect], house, signal, source.rename)
            return place
        return Refusal.UNKNOWN_TOPIC

    def _add(self, batch: _Batch, message: Message, place: _Place, group: Group) -> None:
        """Add the values of one group that are numbers, and refuse the others one by one."""
        if group.at is None and message.dup and batch.is_redelivered(message):
            batch.counts[Refusal.REDELIVERED] += 1
            return
        time = batch.arrival.time_of(group.at, message.received_ms)
        if isinstance(time, Refusal):
            batch.reject(message, time, str(group.at) if isinstance(group.at, (str, int, float)) else "")
            return
        at_ms, time_quality = time
        if group.at is None:
            at_ms = _spread(place, at_ms)
            batch.arrivals.append(message)
        known = place.keys
        keys: list[SeriesKey] = []
        numbers: list[float] = []
        for name, said in group.values.items():
            # nearly all are finite floats of a known series, and need no further call
            number = said if type(said) is float and said - said == 0 else number_of(said)
            if isinstance(number, Refusal):
                batch.reject(message, number, name)
                continue
            key = known.get(name) or self._admit(place, name)
            if isinstance(key, Refusal):
                batch.reject(message, key, name)
                continue
            keys.append(key)
            numbers.append(number)
        batch.builder.add_all(keys, at_ms, numbers, time_quality, message.received_ms)

    def _admit(self, place: _Place, name: str) -> SeriesKey | Refusal:
        """Return the series that a sender's ``name`` stands for, once the guard has let it in."""
        signal = place.rename.get(name, name)
        if not is_name(signal):
            return Refusal.BAD_NAME
        refusal = self.guard.admit(place.house, signal)
        if refusal is not None:
            return refusal
        key = place.keys[name] = SeriesKey(place.house, signal)
        return key


def _spread(place: _Place, at_ms: int) -> int:
    """Return a time of arrival that the topic has not had yet, unless the clock went back or a flood runs."""
    if 0 <= place.last_arrival_ms - at_ms < _CROWD_MS:
        at_ms = place.last_arrival_ms + 1
    place.last_arrival_ms = at_ms
    return at_ms
