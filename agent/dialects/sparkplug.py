"""Dialect ``sparkplug``: Sparkplug B 3.0, protobuf on ``spBv1.0/<group>/<message>/<node>[/<device>]``.

A node says in its *birth* which metrics it and its devices have, and may then name them by numbers, *aliases*. So
births are kept, also in the store: after a restart, data that the broker held for us could not be read without them.
Each message of a node carries a number that counts from 0 to 255 and begins again. Where one is missing, an alias is
unknown, or data come before a birth, the node is asked to tell all once more (``Node Control/Rebirth``), at most once a
minute.

A birth tells the present value of everything: of a level that is one more reading, an amount (kind increment) would be
counted twice and is passed over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Protocol

from agent.dialects.values import MOST_VALUES, Refusal, Refused, Sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from agent.config import Source
    from agent.dialects.values import Parse

MESSAGES = ("NBIRTH", "NDATA", "NDEATH", "DBIRTH", "DDATA", "DDEATH")
MOST_BIRTHS = 256  # nodes and devices: at 64 kB each, 16 MB in the store
ASK_EVERY_S = 60.0  # for a rebirth, of one node: it may take a while to tell all it has
REBIRTH = "Node Control/Rebirth"  # Sparkplug 3.0, 6.4.12
_BD_SEQ = "bdSeq"  # tells which birth a death ends (6.4.7)
_CONTROLS = ("Node Control/", "Device Control/")
_SIGNED_BITS = {1: 8, 2: 16, 3: 32, 4: 64}  # Int8 to Int64 travel as unsigned numbers (6.4.16)
_BOOLEAN, _DATE_TIME = 11, 13  # data types (6.4.16)

_Key = tuple[str, str]  # group and node


class _Metric(Protocol):
    """A metric as protobuf gives it (6.4.5)."""

    name: bytes
    alias: int
    timestamp: int
    datatype: int
    is_null: bool
    int_value: int
    long_value: int

    def HasField(self, name: str) -> bool: ...  # noqa: N802  # protobuf's names

    def WhichOneof(self, name: str) -> str | None: ...  # noqa: N802


class _Metrics(Protocol):
    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[_Metric]: ...

    def add(self, **fields: object) -> _Metric: ...


class _Payload(Protocol):
    """A payload as protobuf gives it (6.4.1)."""

    timestamp: int
    metrics: _Metrics
    seq: int

    def __init__(self, *, timestamp: int) -> None: ...

    def HasField(self, name: str) -> bool: ...  # noqa: N802

    def SerializeToString(self) -> bytes: ...  # noqa: N802

    @classmethod
    def FromString(cls, payload: bytes) -> _Payload: ...  # noqa: N802


@cache
def _payload_class() -> type[_Payload]:
    """Return the class of payloads; protobuf is loaded here: 10 MB and 0.07 s, only where there is a Sparkplug source.

    The fields are those of the specification (6.4.1, 6.4.5), as far as we read them; others are skipped. Texts are read
    as bytes, so that wrong UTF-8 spoils its own metric only, and so are nested messages, which are no readings.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # noqa: PLC0415

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="sparkplug_b.proto", package="sparkplug", syntax="proto2")
    payload, metric = file.message_type.add(name="Payload"), file.message_type.add(name="Metric")
    once, many = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED
    payload.field.add(name="timestamp", number=1, type=kinds.TYPE_UINT64, label=once)
    payload.field.add(name="metrics", number=2, type=kinds.TYPE_MESSAGE, type_name=".sparkplug.Metric", label=many)
    payload.field.add(name="seq", number=3, type=kinds.TYPE_UINT64, label=once)
    for number, (name, kind) in enumerate(
        (
            ("name", kinds.TYPE_BYTES),
            ("alias", kinds.TYPE_UINT64),
            ("timestamp", kinds.TYPE_UINT64),
            ("datatype", kinds.TYPE_UINT32),
            ("is_historical", kinds.TYPE_BOOL),
            ("is_transient", kinds.TYPE_BOOL),
            ("is_null", kinds.TYPE_BOOL),
        ),
        start=1,
    ):
        metric.field.add(name=name, number=number, type=kind, label=once)
    metric.oneof_decl.add(name="value")
    for number, (name, kind) in enumerate(
        (
            ("int_value", kinds.TYPE_UINT32),
            ("long_value", kinds.TYPE_UINT64),
            ("float_value", kinds.TYPE_FLOAT),
            ("double_value", kinds.TYPE_DOUBLE),
            ("boolean_value", kinds.TYPE_BOOL),
            ("string_value", kinds.TYPE_BYTES),
            ("bytes_value", kinds.TYPE_BYTES),
            ("dataset_value", kinds.TYPE_BYTES),
            ("template_value", kinds.TYPE_BYTES),
        ),
        start=10,
    ):
        metric.field.add(name=name, number=number, type=kind, label=once, oneof_index=0)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made: type[_Payload] = message_factory.GetMessageClass(pool.FindMessageTypeByName("sparkplug.Payload"))
    return made


def subscriptions(topic: str) -> list[str]:
    """Return the MQTT filters of a source's ``topic``: every message of nodes and devices, but no command."""
    levels = ["+" if level.startswith("{") else level for level in topic.split("/")]
    return [
        "/".join([*levels[:2], message, *(levels[3:4] if message.startswith("N") else levels[3:])])
        for message in MESSAGES
    ]


@dataclass(slots=True)
class _Born:
    """What a birth told: name and data type of each metric, by its alias and by its name."""

    metrics: dict[int | str, tuple[str, int]] = field(default_factory=dict)


@dataclass(slots=True)
class _Node:
    """A node that lives."""

    born: _Born
    bd_seq: int | None
    seq: int | None  # of its last message; None after a restart
    devices: dict[str, _Born] = field(default_factory=dict)


class Nodes:
    """The nodes of one source, with their births."""

    def __init__(self, source: Source) -> None:
        """Take names of metrics, and houses of nodes and devices, from ``source``."""
        self._rename = source.rename
        self._houses = source.houses
        self._nodes: dict[_Key, _Node] = {}
        self._births: dict[str, bytes] = {}  # that are new since they were last taken; b"" = it is over
        self._wanted: dict[_Key, float | None] = {}  # nodes to ask for a rebirth -> when they were last asked

    # what the decoder takes and gives

    def parser(self, topic: str, fields: Mapping[str, str]) -> Parse:
        """Return how to read the payloads of one topic."""
        return partial(self._parse, topic, fields.get("house", ""))

    def births(self) -> list[tuple[str, bytes]]:
        """Return the births since the last call, the newest of each topic; an empty payload: that one is over."""
        births, self._births = self._births, {}
        return list(births.items())

    def restore(self, births: Sequence[tuple[str, bytes]]) -> None:
        """Take back the births from before a restart; a node is asked for a new one when it first speaks."""
        for topic, payload in sorted(births, key=lambda birth: "/NBIRTH/" not in birth[0]):  # nodes before devices
            self._parse(topic, "", payload, "")
        for node in self._nodes.values():
            node.seq = None
        self._births.clear()
        self._wanted.clear()

    def requests(self, monotonic: float, now_ms: int) -> list[tuple[str, bytes]]:
        """Return the commands, topic and payload, to nodes that shall be born again; each at most once a minute."""
        commands = []
        for key, asked in self._wanted.items():
            if asked is None or monotonic - asked >= ASK_EVERY_S:
                self._wanted[key] = monotonic
                group, node = key
                commands.append((f"spBv1.0/{group}/NCMD/{node}", _rebirth(now_ms)))
        return commands

    # the six messages

    def _parse(self, topic: str, house: str, payload: bytes, _signal: str) -> Sequence[Sample | Refused] | Refusal:
        from google.protobuf.message import DecodeError  # noqa: PLC0415  # loaded with the payload's class

        _, group, message, node, *rest = topic.split("/")
        device = rest[0] if rest else ""
        if message not in MESSAGES or message.startswith("D") != bool(rest):
            return Refusal.STATUS  # commands, and what later versions may add
        try:
            said = _payload_class().FromString(payload)
        except DecodeError:
            return Refusal.NOT_PROTOBUF
        if len(said.metrics) > MOST_VALUES:
            return Refusal.TOO_MANY_VALUES
        key = (group, node)
        if message == "NDEATH":
            self._node_died(key, _bd_seq(said))
            return Refusal.STATUS
        if message == "NBIRTH":
            refusal = self._node_was_born(key, topic, payload, said)
        else:
            refusal = self._follows(key, said) or self._device_message(key, message, device, topic, payload, said)
        if refusal is not None:
            return refusal
        alive = self._nodes[key]
        born = alive.devices[device] if device else alive.born
        house = house or self._houses.get(device or node, "")
        taken = list(self._samples(said, born, house, device or node, is_birth=message.endswith("BIRTH")))
        if any(part.refusal is Refusal.UNKNOWN_ALIAS for part in taken if isinstance(part, Refused)):
            self._want(key)
        return taken or Refusal.STATUS

    def _node_was_born(self, key: _Key, topic: str, payload: bytes, said: _Payload) -> Refusal | None:
        before = self._nodes.get(key)
        if before is None and self._is_full():
            return Refusal.TOO_MANY_BIRTHS
        if before is not None:
            self._forget_devices(key, before)  # they follow with births of their own
        self._nodes[key] = _Node(_born(said), _bd_seq(said), _seq(said))
        self._births[topic] = payload
        self._wanted.pop(key, None)
        return None

    def _device_message(
        self,
        key: _Key,
        message: str,
        device: str,
        topic: str,
        payload: bytes,
        said: _Payload,
    ) -> Refusal | None:
        """Take note of a device's birth or death; refuse what cannot be read for want of a birth."""
        node = self._nodes[key]
        if message == "DDEATH":
            if node.devices.pop(device, None) is not None:
                self._births[topic.replace("/DDEATH/", "/DBIRTH/", 1)] = b""
            return Refusal.STATUS
        if message == "DBIRTH":
            if device not in node.devices and self._is_full():
                return Refusal.TOO_MANY_BIRTHS
            node.devices[device] = _born(said)
            self._births[topic] = payload
        elif device and device not in node.devices:
            self._want(key)
            return Refusal.BEFORE_BIRTH
        return None

    def _follows(self, key: _Key, said: _Payload) -> Refusal | None:
        """Refuse what comes from a node before its birth; ask for a new one where a message before this is missing.

        What follows a gap is still read: had the node been born anew meanwhile, its death would have come first, which
        the broker itself sends.
        """
        node = self._nodes.get(key)
        if node is None:
            self._want(key)
            return Refusal.BEFORE_BIRTH
        seq = _seq(said)
        if seq is not None:  # a node that does not count cannot be followed
            if node.seq is None or seq != (node.seq + 1) % 256:
                self._want(key)
            node.seq = seq
        return None

    def _node_died(self, key: _Key, bd_seq: int | None) -> None:
        node = self._nodes.get(key)
        if node is None or (None not in {bd_seq, node.bd_seq} and bd_seq != node.bd_seq):
            return  # the death of an earlier birth, which came late
        self._forget_devices(key, node)
        del self._nodes[key]
        group, name = key
        self._births[f"spBv1.0/{group}/NBIRTH/{name}"] = b""

    def _forget_devices(self, key: _Key, node: _Node) -> None:
        group, name = key
        self._births.update({f"spBv1.0/{group}/DBIRTH/{name}/{device}": b"" for device in node.devices})
        node.devices.clear()

    def _want(self, key: _Key) -> None:
        if key not in self._wanted and len(self._wanted) >= MOST_BIRTHS:
            del self._wanted[next(iter(self._wanted))]  # the one that has waited longest: strangers keep nobody out
        self._wanted.setdefault(key, None)

    def _is_full(self) -> bool:
        return sum(1 + len(node.devices) for node in self._nodes.values()) >= MOST_BIRTHS

    # metrics

    def _samples(
        self,
        said: _Payload,
        born: _Born,
        house: str,
        sender: str,
        *,
        is_birth: bool,
    ) -> Iterator[Sample | Refused]:
        """Yield the metrics of a message that are about the house, or why they are no readings."""
        sent_at = said.timestamp if said.HasField("timestamp") else None
        for metric in said.metrics:
            known = _known(metric, born)
            if isinstance(known, Refused):
                yield known
                continue
            name, data_type = known
            if name == _BD_SEQ or name.startswith(_CONTROLS):
                continue
            if not house:
                yield Refused(Refusal.UNKNOWN_HOUSE, sender)
                return
            if metric.is_null:
                yield Refused(Refusal.NO_DATA, name)
                continue
            value = _value(metric, data_type)
            if isinstance(value, Refusal):
                yield Refused(value, name)
                continue
            signal = self._rename.get(f"{sender}/{name}") or self._rename.get(name, name)
            at = metric.timestamp if metric.HasField("timestamp") else sent_at
            yield Sample(signal, value, at, house=house, is_repeat=is_birth)


def _rebirth(now_ms: int) -> bytes:
    """Return the payload that asks a node to be born again."""
    payload = _payload_class()(timestamp=now_ms)
    payload.metrics.add(name=REBIRTH.encode(), timestamp=now_ms, datatype=_BOOLEAN, boolean_value=True)
    return payload.SerializeToString()


def _seq(said: _Payload) -> int | None:
    return int(said.seq) if said.HasField("seq") else None


def _bd_seq(said: _Payload) -> int | None:
    for metric in said.metrics:
        if metric.name == _BD_SEQ.encode():
            return int(metric.long_value or metric.int_value)
    return None


def _born(said: _Payload) -> _Born:
    """Return what the metrics of a birth say of themselves."""
    born = _Born()
    for metric in said.metrics:
        try:
            name = metric.name.decode()
        except UnicodeDecodeError:  # refused by its name when it is read
            continue
        if name:
            known = born.metrics[name] = (name, int(metric.datatype))
            if metric.HasField("alias"):
                born.metrics[int(metric.alias)] = known
    return born


def _known(metric: _Metric, born: _Born) -> tuple[str, int] | Refused:
    """Return name and data type of a metric; its birth knows what it does not say itself."""
    if not metric.name:
        if not metric.HasField("alias"):
            return Refused(Refusal.BAD_NAME)
        return born.metrics.get(metric.alias) or Refused(Refusal.UNKNOWN_ALIAS, str(metric.alias))
    try:
        name = metric.name.decode()
    except UnicodeDecodeError:
        return Refused(Refusal.BAD_UTF8)
    return name, metric.datatype or born.metrics.get(name, (name, 0))[1]


def _value(metric: _Metric, data_type: int) -> object:
    """Return a metric's value as what it means, or why it has none; texts and structures are refused as no number."""
    which = metric.WhichOneof("value")
    if which is None:
        return Refusal.NO_VALUE
    value = getattr(metric, which)
    if data_type == _DATE_TIME:
        return Refusal.WRONG_TYPE
    bits = _SIGNED_BITS.get(data_type)
    if bits is None or which not in {"int_value", "long_value"}:
        return value
    wire_bits = 32 if which == "int_value" else 64
    # senders write a negative Int8 as 8 bits or as all 32
    if value >> wire_bits - 1 and value >= (1 << wire_bits) - (1 << bits - 1):
        return value - (1 << wire_bits)
    if value >> bits:
        return Refusal.WRONG_TYPE
    return value - (1 << bits) if value >> bits - 1 else value
