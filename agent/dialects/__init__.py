"""MQTT messages to readings: topics by template, payloads by dialect, one file per dialect.

A new dialect is a module with ``parse(payload, signal) -> groups and samples | Refusal`` and a line in ``DIALECTS``.
Whatever bytes come in, the answer is readings or a reason, never an exception.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from agent.dialects import flat, value
from agent.dialects.dol import Sensors
from agent.dialects.senml import Packs
from agent.dialects.sparkplug import Nodes, subscriptions
from agent.dialects.topics import TopicTemplate, is_name
from agent.dialects.units import factor_and_offset
from agent.dialects.values import (
    AHEAD_MS,
    COUNTED_ONLY,
    EARLIEST_MS,
    MOST_VALUES,
    Arrival,
    Group,
    Refusal,
    Sample,
    number_of,
)
from agent.domain import Kind, Rejected, SeriesKey
from agent.readings import ReadingsBuilder
from agent.signals import CATALOGUE, base_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from agent.config import Config, Source
    from agent.dialects.values import Parse
    from agent.domain import Message
    from agent.readings import Readings

    ParserOf = Callable[[str, Mapping[str, str]], Parse]
    """A dialect of one source: topic and the fields of its template to how its payloads are read."""

__all__ = ["COUNTED_ONLY", "Decoded", "Decoder", "Refusal", "SeriesGuard", "TopicTemplate"]

DIALECTS: dict[str, Callable[[Source], ParserOf]] = {
    "value": lambda _source: lambda _topic, _fields: value.parse,
    "flat": lambda _source: lambda _topic, _fields: flat.parse,
    "dol": lambda source: Sensors(source).parser,
    "senml": lambda source: Packs(source).parser,
}
"""All but ``sparkplug``, of which the decoder must know more: births, and requests to nodes."""

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
    births: tuple[tuple[str, bytes], ...] = ()  # to keep: topic and payload, the newest of each; b"" = forget it
    requests: tuple[tuple[str, bytes], ...] = ()  # to publish: topic and payload


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
    house: str  # "" where only the payload names it
    signal: str
    rename: dict[str, str]
    keys: dict[str, SeriesKey] = field(default_factory=dict)  # by the sender's name; only series that were admitted
    last_arrival_ms: int = 0


class _Measure(NamedTuple):
    """How a sender's number becomes one in the unit of its signal."""

    factor: float
    offset: float
    is_amount: bool  # kind increment: each counts


@dataclass(slots=True)
class _Batch:
    """What one call collects."""

    arrival: Arrival
    is_redelivered: Callable[[Message], bool]
    builder: ReadingsBuilder
    rejected: list[Rejected] = field(default_factory=list)
    counts: Counter[Refusal] = field(default_factory=Counter)
    arrivals: list[Message] = field(default_factory=list)
    arrived_ms: int = 0  # of the last of ``arrivals``

    def reject(self, message: Message, refusal: Refusal, detail: str = "") -> None:
        self.counts[refusal] += 1
        if refusal in COUNTED_ONLY:
            return
        if len(self.rejected) < REJECTED_KEPT:
            # half a surrogate pair, which JSON can hold, can neither be stored nor shown
            detail = detail[:_DETAIL].encode(errors="replace").decode()
            reason = f"{refusal}: {detail}" if detail else str(refusal)
            self.rejected.append(Rejected(message.topic, reason, message.payload[:FIRST_BYTES], message.received_ms))


class Decoder:
    """Turns messages into readings; remembers topics and which series there are."""

    def __init__(self, config: Config, known: Iterable[SeriesKey] = ()) -> None:
        """Take sources, site and houses from ``config``; ``known`` are series seen before (they count as admitted)."""
        self._site = config.site.id
        self._zone = config.site.days.zone
        self._signal = config.signal
        self._sources: list[tuple[TopicTemplate, Source, ParserOf]] = []
        self._nodes: list[Nodes] = []  # of each Sparkplug source
        self._subscriptions: dict[str, int] = {}
        for source in config.source:
            self._add_source(source)
        self._places: dict[str, _Place] = {}
        self._builder = ReadingsBuilder()
        self._measures: dict[tuple[SeriesKey, str], _Measure] = {}
        self.guard = SeriesGuard(frozenset(house.id for house in config.house))
        for key in known:
            self.guard.admit(*key)

    def _add_source(self, source: Source) -> None:
        template = TopicTemplate.parse(source.topic)
        filters = [template.subscription]
        if source.dialect == "sparkplug":
            nodes = Nodes(source)
            self._nodes.append(nodes)
            of_node = TopicTemplate.parse(source.topic.rpartition("/")[0])  # a node's own messages name no device
            self._sources += [(template, source, nodes.parser), (of_node, source, nodes.parser)]
            filters = subscriptions(source.topic)
        else:
            self._sources.append((template, source, DIALECTS[source.dialect](source)))
        for wanted in filters:
            self._subscriptions[wanted] = max(source.qos, self._subscriptions.get(wanted, 0))

    @property
    def subscriptions(self) -> list[tuple[str, int]]:
        """The MQTT filters and their QoS that bring all sources; a filter that two sources share stands once."""
        return list(self._subscriptions.items())

    def restore(self, births: Iterable[tuple[str, bytes]]) -> None:
        """Take back the ``births`` of earlier ``Decoded``: data are read by them until newer ones come."""
        told = list(births)
        for nodes in self._nodes:
            nodes.restore([birth for birth in told if self._reads(birth[0]) == nodes.parser])

    def _reads(self, topic: str) -> ParserOf | None:
        """Return what reads a topic: the first source whose template fits."""
        return next((parser_of for template, _, parser_of in self._sources if template.match(topic) is not None), None)

    def decode(
        self,
        messages: Sequence[Message],
        *,
        clock_trusted: bool = True,
        clock_sure: bool = True,
        is_redelivered: Callable[[Message], bool] = lambda _message: False,
    ) -> Decoded:
        """Return the readings in ``messages``, and why the rest is none.

        ``clock_trusted`` and ``clock_sure`` say how far our own clock is to be believed: see ``Arrival``.
        ``is_redelivered`` is asked about a repeated message (DUP) whose readings have no time of their own: True drops
        it, as its readings are in the store already. Values of one topic without a time that arrive within one
        millisecond are spread over the following ones, since (house, signal, at) is what tells readings apart.
        """
        batch = _Batch(Arrival(self._zone, clock_trusted, clock_sure), is_redelivered, self._builder)
        for message in messages:
            if message.retain:
                batch.counts[Refusal.RETAINED] += 1
                continue
            refusal = self._take(batch, message)
            if refusal is not None:
                batch.reject(message, refusal)
        births, requests = self._of_nodes(messages) if self._nodes and messages else ((), ())
        counts = dict(batch.counts)
        return Decoded(batch.builder.build(), tuple(batch.rejected), counts, tuple(batch.arrivals), births, requests)

    def _of_nodes(self, messages: Sequence[Message]) -> tuple[tuple[tuple[str, bytes], ...], ...]:
        """Return the births to keep and the requests to publish."""
        last = messages[-1]
        births = [birth for nodes in self._nodes for birth in nodes.births()]
        requests = [r for nodes in self._nodes for r in nodes.requests(last.received_monotonic, last.received_ms)]
        return tuple(births), tuple(requests)

    def _take(self, batch: _Batch, message: Message) -> Refusal | None:
        """Add the readings of one message, or say why it has none."""
        place = self._places.get(message.topic) or self._locate(message.topic)
        if isinstance(place, Refusal):
            return place
        if not message.payload:
            return Refusal.EMPTY
        if len(message.payload) > LARGEST_PAYLOAD:
            return Refusal.TOO_LARGE
        parts = place.parse(message.payload, place.signal)
        if isinstance(parts, Refusal):
            return parts
        for part in parts:
            if isinstance(part, Group):
                self._add(batch, message, place, part)
            elif isinstance(part, Sample):
                self._add_sample(batch, message, place, part)
            else:
                batch.reject(message, part.refusal, part.detail)
        return None

    def _locate(self, topic: str) -> _Place | Refusal:
        """Return what ``topic`` stands for: the first source that fits, in the order of the configuration."""
        for template, source, parser_of in self._sources:
            fields = template.match(topic)
            if fields is None:
                continue
            if fields.get("site", self._site) != self._site:
                return Refusal.OTHER_SITE
            house, signal = fields.get("house"), fields.get("signal", "")
            if house is not None:
                house = fields["house"] = source.houses.get(house, house)
                # a leading underscore is ours: _site stands for the whole site
                if not is_name(house) or house.startswith("_"):
                    return Refusal.BAD_NAME
            if len(self._places) >= PLACES_KEPT:
                self._places.clear()
            place = self._places[topic] = _Place(parser_of(topic, fields), house or "", signal, source.rename)
            return place
        return Refusal.UNKNOWN_TOPIC

    def _add(self, batch: _Batch, message: Message, place: _Place, group: Group) -> None:
        """Add the values of one group that are numbers, and refuse the others one by one."""
        if len(group.values) > MOST_VALUES:
            batch.reject(message, Refusal.TOO_MANY_VALUES)
            return
        if group.at is None and message.dup and batch.is_redelivered(message):
            batch.counts[Refusal.REDELIVERED] += 1
            return
        time = batch.arrival.time_of(group.at, message.received_ms)
        if isinstance(time, Refusal):
            batch.reject(message, time, _shown(group.at))
            return
        at_ms, time_quality = time
        if group.at is None:
            at_ms = _arrived(batch, message, place)
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

    def _add_sample(self, batch: _Batch, message: Message, place: _Place, sample: Sample) -> None:
        """Add one value in the unit of its signal, or refuse it."""
        if sample.at is None and message.dup and batch.is_redelivered(message):
            batch.counts[Refusal.REDELIVERED] += 1
            return
        time = batch.arrival.time_of(sample.at, message.received_ms)
        if isinstance(time, Refusal):
            batch.reject(message, time, _shown(sample.at))
            return
        at_ms, time_quality = time
        house = sample.house or place.house
        measure = self._measure_of(house, sample.signal, sample.unit)
        if isinstance(measure, Refusal):
            named = {Refusal.UNKNOWN_UNIT: f"{sample.unit} of {sample.signal}", Refusal.UNKNOWN_HOUSE: ""}
            batch.reject(message, measure, named.get(measure, sample.signal))
            return
        if sample.is_repeat and measure.is_amount:
            batch.reject(message, Refusal.REPEATED, sample.signal)
            return
        number = number_of(sample.value)
        if not isinstance(number, Refusal):
            number = number_of(number * measure.factor + measure.offset)  # a very large one is none in our unit
        if isinstance(number, Refusal):
            batch.reject(message, number, sample.signal)
            return
        if sample.at is None:
            after_ms = round(sample.after_s * 1000)
            at_ms = _arrived(batch, message, place) + after_ms
            if after_ms > AHEAD_MS or at_ms < (EARLIEST_MS if batch.arrival.clock_trusted else 0):
                batch.reject(message, Refusal.FUTURE if after_ms > 0 else Refusal.PAST, sample.signal)
                return
        refusal = self.guard.admit(house, sample.signal)
        if refusal is not None:
            batch.reject(message, refusal, sample.signal)
            return
        key = SeriesKey(house, sample.signal)
        batch.builder.add(key, at_ms, number, time_quality, message.received_ms, sample.quality)

    def _measure_of(self, house: str, signal: str, unit: str) -> _Measure | Refusal:
        """Return what makes a sender's number one of ours."""
        key = SeriesKey(house, signal)
        known = self._measures.get((key, unit))
        if known is not None:
            return known
        if not house:
            return Refusal.UNKNOWN_HOUSE
        if not is_name(signal):
            return Refusal.BAD_NAME
        ours = self._signal(key)
        made = factor_and_offset(unit, ours.unit) if unit else (1.0, 0.0)
        if made is None:
            return Refusal.UNKNOWN_UNIT
        if len(self._measures) >= PLACES_KEPT:
            self._measures.clear()
        measure = self._measures[key, unit] = _Measure(*made, ours.kind is Kind.INCREMENT)
        return measure

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


def _shown(at: object) -> str:
    """Return a sender's time for a reason: what is no time at all is not shown."""
    return str(at) if isinstance(at, (str, float)) or (isinstance(at, int) and abs(at) < 10**30) else ""


def _arrived(batch: _Batch, message: Message, place: _Place) -> int:
    """Return the time of arrival that stands for all values of a message without one, and note the message."""
    if not batch.arrivals or batch.arrivals[-1] is not message:
        batch.arrived_ms = _spread(place, message.received_ms)
        batch.arrivals.append(message)
    return batch.arrived_ms


def _spread(place: _Place, at_ms: int) -> int:
    """Return a time of arrival that the topic has not had yet, unless the clock went back or a flood runs."""
    if 0 <= place.last_arrival_ms - at_ms < _CROWD_MS:
        at_ms = place.last_arrival_ms + 1
    place.last_arrival_ms = at_ms
    return at_ms
