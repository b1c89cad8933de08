"""Publishes a farm over MQTT, paced by a clock, as its house computers and its farmer would.

A device of its own, not part of the agent: nothing is shared with the agent's connection. Readings go out at QoS 1, not
retained; at most ``IN_FLIGHT`` messages are unacknowledged at a time, so a slow broker slows the farm down instead of
filling its memory. Flock commands are repeated until the agent answers them.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.domain import to_ms
from agent.errors import BrokerError
from models_onnx.farm.farm import still_true
from models_onnx.farm.sensors import BY_PEOPLE, SIGNALS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Self

    from paho.mqtt.client import ConnectFlags, DisconnectFlags
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

    from agent.clock import SimulatedClock
    from models_onnx.farm.farm import Farm, Step, Told

log = logging.getLogger(__name__)

Dialect = Literal["flat", "value"]

IN_FLIGHT = 500  # messages; at 3,000 a second from a local broker that is a sixth of a second
REPEAT_S = 5.0  # real seconds after which an unanswered command is sent again
REPEAT_MOST = 300  # unanswered commands that are remembered; beyond, the oldest that is no placement is given up
ANSWER_S = 10.0  # how long the broker may take to accept the first connection
DRAIN_S = 30.0  # how long the last acknowledgements may take
LEAVE_S = 2.0  # the same when somebody wants to leave
TICK_S = 0.5
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Address:
    """Where to publish, and how."""

    host: str
    port: int
    site: str = "farm1"
    prefix: str = "flockwatch"
    dialect: Dialect = "flat"


class Publisher:
    """One MQTT connection that publishes readings and repeats commands until they are answered; a context manager."""

    def __init__(self, address: Address, houses: Sequence[str], stop: threading.Event) -> None:
        """Take the names of the houses; ``stop`` ends every wait."""
        self._address, self._houses, self._stop = address, houses, stop
        self._run = uuid.uuid4().hex[:8]  # ids of this run: the same id is done only once, whoever sends it
        self._unanswered: dict[str, tuple[str, bytes, float]] = {}  # id -> topic, payload, sent at (monotonic)
        self._answered = 0
        self._count = 0  # of commands, for their ids
        self._in_flight = 0
        self._changed = threading.Condition()  # guards what paho's thread changes: the line below, and in-flight
        self._refused: str | None = None
        self._connected = False
        self.published = 0
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.max_inflight_messages_set(100)
        self._client.reconnect_delay_set(1, 10)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish
        self._client.on_message = self._on_message

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            BrokerError: nobody answers there, or the broker does not want us.
        """
        a = self._address
        try:
            self._client.connect(a.host, a.port, keepalive=30)
        except OSError as e:
            message = (
                f"no MQTT broker answers at {a.host}:{a.port} ({e}); start one there, or give another --mqtt HOST:PORT"
            )
            raise BrokerError(message) from e
        self._client.loop_start()
        with self._changed:
            self._changed.wait_for(lambda: self._connected or self._refused is not None, ANSWER_S)
        if not self._connected:
            self._client.loop_stop()
            why = self._refused or f"no answer within {ANSWER_S:g} s"
            message = f"the MQTT broker at {a.host}:{a.port} did not accept us: {why}; look at its log and rights"
            raise BrokerError(message)
        return self

    def __exit__(self, *_exc: object) -> None:
        """Wait for the last acknowledgements, then disconnect."""
        with self._changed:
            wait_s = LEAVE_S if self._stop.is_set() else DRAIN_S
            if not self._changed.wait_for(lambda: self._in_flight == 0, wait_s):
                log.warning("%d messages were not acknowledged by the broker", self._in_flight)
        self._client.disconnect()
        self._client.loop_stop()

    def readings(self, step: Step) -> None:
        """Publish one step of all houses; the dead are told by command, as people tell them."""
        a = self._address
        by_house = step.values.T.tolist()
        for house, values in zip(self._houses, by_house, strict=True):
            told = {
                name: int(value) if value.is_integer() else value
                for name, value in zip(SIGNALS, values, strict=True)
                if value == value and name not in BY_PEOPLE  # noqa: PLR0124 - NaN, which is no reading, does not equal itself
            }
            if not told:
                continue
            if a.dialect == "flat":
                self._publish(f"skov/{a.site}/{house}", msgspec.json.encode({"ts": step.at_ms, **told}))
            else:
                for name, value in told.items():
                    payload = msgspec.json.encode({"value": value, "ts": step.at_ms})
                    self._publish(f"skov/{a.site}/{house}/{name}", payload)

    def tell(self, told: Iterable[Told]) -> None:
        """Send flock commands; each is repeated until it is answered."""
        a = self._address
        for one in told:
            self._count += 1
            command_id = f"simulate-{self._run}-{self._count}"
            topic = f"{a.prefix}/{a.site}/{self._houses[one.house]}/flock/command"
            payload = json.dumps({"id": command_id, "by": "simulate", **one.command}).encode()
            with self._changed:
                self._unanswered[command_id] = (topic, payload, time.monotonic())
            self._publish(topic, payload)
        self._forget()

    def repeat(self) -> None:
        """Send again, in their order, the commands that nobody has answered for a while."""
        now = time.monotonic()
        with self._changed:
            late = [(i, topic, payload) for i, (topic, payload, at) in self._unanswered.items() if now - at > REPEAT_S]
            for command_id, topic, payload in late:
                self._unanswered[command_id] = (topic, payload, now)
        for _, topic, payload in late:
            self._publish(topic, payload)

    @property
    def unanswered(self) -> int:
        """How many commands still wait for an answer."""
        with self._changed:
            return len(self._unanswered)

    def _forget(self) -> None:
        with self._changed:
            others = [i for i, (_, payload, _) in self._unanswered.items() if b'"action": "place"' not in payload]
            for command_id in others[: max(len(others) - REPEAT_MOST, 0)]:
                del self._unanswered[command_id]

    def _publish(self, topic: str, payload: bytes) -> None:
        """Hand one message to paho, waiting while too many are under way (or the broker is away)."""
        with self._changed:
            while self._in_flight >= IN_FLIGHT and not self._stop.is_set():
                self._changed.wait(TICK_S)
            if self._stop.is_set():
                return
            self._in_flight += 1
        self._client.publish(topic, payload, qos=1)
        self.published += 1

    def _on_connect(
        self,
        client: Client,
        _userdata: object,
        _flags: ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        with self._changed:
            if reason.is_failure:
                self._refused = str(reason)
            else:
                client.subscribe(f"{self._address.prefix}/{self._address.site}/+/flock/response", qos=1)
                self._connected = True
            self._changed.notify_all()
        if not reason.is_failure:
            log.info("connected to the broker at %s:%d", self._address.host, self._address.port)

    def _on_disconnect(
        self, _client: Client, _userdata: object, _flags: DisconnectFlags, reason: ReasonCode, _p: Properties | None
    ) -> None:
        if reason.is_failure:
            log.warning("the connection to the broker is lost (%s); trying again", reason)

    def _on_publish(
        self, _client: Client, _userdata: object, _mid: int, _reason: ReasonCode, _properties: Properties | None
    ) -> None:
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        try:
            answer = msgspec.json.decode(message.payload, type=_Answer)
        except msgspec.DecodeError:
            return  # not an answer to anything of ours
        with self._changed:
            self._unanswered.pop(answer.id or "", None)


class _Answer(msgspec.Struct):
    """The part of an answer that matters here; everything else in it is ignored."""

    id: str | None = None


def publish(
    farm: Farm,
    address: Address,
    *,
    houses: Sequence[str],
    clock: SimulatedClock,
    days: float,
    past_days: float,
    interval_s: int,
    stop: threading.Event,
) -> int:
    """Publish the ``past_days`` days before the clock's start at full speed, then ``days`` days as the clock goes.

    Ends early, and cleanly, when ``stop`` is set. Returns the number of messages.

    Raises:
        BrokerError: there is no broker, or it does not accept us. A connection lost later is made again, for ever.
    """
    start_ms = to_ms(clock.start)
    first_ms = start_ms - round(past_days * DAY_MS)
    earlier = farm.run_to(first_ms - interval_s * 1000)  # so that the first sample is of the first instant
    with Publisher(address, houses, stop) as publisher:
        publisher.tell(still_true(earlier, len(houses)))
        for step in farm.sent(interval_s, start_ms + round(days * DAY_MS)):
            _wait(publisher, clock, step.at_ms - start_ms, stop)
            if stop.is_set():
                break
            publisher.tell(step.told)
            publisher.readings(step)
    return publisher.published


def _wait(publisher: Publisher, clock: SimulatedClock, since_start_ms: int, stop: threading.Event) -> None:
    """Wait until the clock shows this instant, repeating commands meanwhile; the past does not wait."""
    publisher.repeat()
    if since_start_ms < 0:
        return
    due = clock.real_epoch + since_start_ms / 1000 / clock.speed
    while (left := due - time.time()) > 0 and not stop.wait(min(left, TICK_S)):
        publisher.repeat()
