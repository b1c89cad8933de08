"""The MQTT side of the house, and the only paho: inbox, acknowledgements, retained states, last will.

Two threads meet here. paho's network thread runs the ``_on_…`` callbacks: it puts messages into the inbox and notes how
the connection stands. It waits for nothing but room in the inbox, and then the broker waits, too (TCP). The main thread
runs everything else. They share a queue, a queue of wake-ups, and plain numbers of which each has one writer, so there
are no locks.

Nothing is acknowledged before the caller says so, and only on the connection by which it came: after a reconnect the
broker sends what was not acknowledged again, and its packet ids may mean other messages.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import ssl
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.clock import SystemClock
from agent.domain import Message, to_ms
from agent.errors import BrokerError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from paho.mqtt.reasoncodes import ReasonCode

    from agent.clock import Clock
    from agent.config import Mqtt

logger = logging.getLogger(__name__)

RECEIVE_MAXIMUM: Final = 2_000
"""QoS 1 messages that the broker may send ahead of our acknowledgements: 2 s of 1,000 a second. It bounds the inbox."""
CERTAIN_TURNS: Final = 3  # turns in a row that went the same way, before the size of the broker's window is believed
QUIET_SHARE: Final = 0.5  # of a turn's interval: if nothing came for so long, the broker had nothing more to send
BYTES_AT_ONCE: Final = (
    500_000  # of payload in one turn: some 30,000 readings of a backlog, and 10 MB while they are taken
)
INBOX_MESSAGES: Final = 2 * RECEIVE_MAXIMUM  # in the inbox, at the most; and
INBOX_BYTES: Final = 4_000_000  # of payload
ROOM_LOOKED_FOR_S: Final = 1.0  # by a network thread that waits for room: it may be closing time
QOS0_SHARE: Final = 1_000  # QoS 0 messages in the inbox; nothing else bounds those, so what comes on top is dropped
LARGEST_PACKET: Final = 1_048_576  # bytes; the broker keeps larger ones to itself
LARGEST_PAYLOAD: Final = (
    65_537  # bytes kept of a payload: one more than any dialect reads, so that it is seen as too large
)
KEEP_ALIVE_S: Final = 30  # a dead link is noticed within twice this
SHORTEST_BACKOFF_S: Final = 1
LONGEST_BACKOFF_S: Final = 60
STEADY_S: Final = 60.0  # a connection that lasts so long was a good one; after a shorter one the wait is doubled
SHORT_LIVED: Final = 3  # so many short ones in a row are no accident
RIVAL_TOLD_S: Final = 600.0  # how long after its last appearance a rival is told of
SESSION_TAKEN_OVER: Final = 0x8E  # MQTT 5, 3.14.2.1
NEVER_EXPIRES: Final = 0xFFFF_FFFF  # MQTT 5, 3.1.2.11.2
PUBLISHING_AT_ONCE: Final = 100  # publications that wait for the broker's word
PUBLISHING_AHEAD: Final = 1_000  # publications that wait for their turn
STATES_KEPT: Final = 10_000  # retained states that wait for the broker: 50 houses of 200 topics
GOODBYE_S: Final = 2.0
EVERYTHING: Final = "#"

ONLINE: Final = json.dumps({"state": "online"}).encode()
OFFLINE: Final = json.dumps({"state": "offline"}).encode()


@dataclass(slots=True)
class BusCounters:
    """What has passed since the start; each number has one writer."""

    received: int = 0
    dropped_qos0: int = 0
    acked: int = 0
    stale_acks: int = 0  # of an older connection: the broker sends those messages again
    published: int = 0
    dropped_publications: int = 0  # not retained, or over a limit, while the broker was away
    connects: int = 0
    lost_sessions: int = 0  # the broker has nothing of what it held for us
    taken_over: int = 0  # another client came with our client id
    window: int = 0  # messages that the broker sends ahead of our acknowledgements; 0: as many as we ask for


class Bus:
    """A client that stays: connects for ever, keeps its session at the broker, and loses nothing that it has not said.

    All methods are the main thread's, but for ``wake``, which a signal handler may call too.
    """

    def __init__(
        self,
        mqtt: Mqtt,
        client_id: str,
        subscriptions: Sequence[tuple[str, int]],
        *,
        health_topic: str | None,
        clock: Clock,
        session_expiry_s: int = NEVER_EXPIRES,
    ) -> None:
        """Prepare; nothing is sent before ``connect``.

        ``subscriptions`` are filters and their QoS. ``health_topic`` carries "online", and "offline" as the last will.

        Raises:
            ConfigError: a file or name in the ``[mqtt]`` section cannot be used.
        """
        self.counters = BusCounters()
        self._trouble: str | None = None  # see ``last_error``
        self._mqtt = mqtt
        self._where = f"{mqtt.host}:{mqtt.port}"
        self._client_id = client_id
        self._clock = clock
        self.was_here = False  # this client id was used before, so the broker should hold a session for it
        self._health_topic = health_topic
        self._session_expiry_s = session_expiry_s
        self._subscriptions = [
            # 1: retained messages come only with a new subscription, not at every reconnect
            (topic, SubscribeOptions(qos=qos, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB))
            for topic, qos in subscriptions
        ]
        self._urgent_prefix = mqtt.topic_prefix + "/"  # only commands come in below our own prefix
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._put = self._put_qos0 = self._put_bytes = 0  # network thread's
        self._taken = self._taken_qos0 = self._taken_bytes = 0  # main thread's
        self._room = threading.Event()  # set when messages were taken
        self._full = 0  # main thread's: the number in the inbox at which it wants to be woken; 0 while it is awake
        self._window = BrokerWindow()  # main thread's
        self._window_of = 0  # the connection that it was learnt on
        self._connection = 0  # network thread's, as the following
        self._link = 0  # the present connection; 0 while there is none
        self._ready = False  # connected, subscribed, and what was under way before is sent again
        self._answered = True
        self._attempts = 0
        self._up_since = 0.0
        self._short_lived = 0  # connections in a row that did not last
        self._rival = ""  # who seems to throw us out
        self._rival_until = float("-inf")  # until when that is told
        self._down_since: float | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        self._waiting: dict[str, bytes] = {}  # main thread's: the latest retained state per topic, not yet sent

        client = self._client = _client(mqtt, client_id)
        client.max_inflight_messages_set(PUBLISHING_AT_ONCE)
        client.max_queued_messages_set(PUBLISHING_AHEAD)
        client.reconnect_delay_set(SHORTEST_BACKOFF_S, LONGEST_BACKOFF_S)
        if health_topic is not None:
            client.will_set(health_topic, OFFLINE, qos=1, retain=True)
        client.on_pre_connect = self._on_pre_connect
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message

    # the main thread's side

    def connect(self) -> None:
        """Start the network thread; a broker that is away is tried for ever, with waits of 1 to 60 s."""
        self._down_since = self._clock.monotonic()
        properties = _connect_properties(self._session_expiry_s)
        self._client.connect_async(
            self._mqtt.host, self._mqtt.port, KEEP_ALIVE_S, clean_start=False, properties=properties
        )
        self._client.loop_start()

    def receive(self, timeout_s: float, limit: int) -> list[Message]:
        """Sleep for ``timeout_s``, then return up to ``limit`` messages, or half a megabyte, in order of arrival.

        Wakes early when ``limit`` messages wait, when the broker's window is full (it sends no more until we
        acknowledge), when a command comes in, at a new connection, and by ``wake``. It does not wake for each message:
        that costs as much CPU as all the rest, and one commit a second writes a twentieth of what one per message does.
        """
        self._send_waiting()
        if self._window_of != self.counters.connects:
            self._window_of, self._window = self.counters.connects, BrokerWindow()
        full = self._full = min(limit, self._window.size)
        slept_s = 0.0
        if self._put - self._taken < full:
            began = self._clock.monotonic()
            with suppress(queue.Empty):
                self._wakes.get(timeout=max(0.0, timeout_s))
            slept_s = self._clock.monotonic() - began
        with suppress(queue.Empty):
            while True:  # several reasons to wake are one
                self._wakes.get_nowait()
        self._full = 0
        messages: list[Message] = []
        size = 0
        for _ in range(min(limit, self._put - self._taken)):
            messages.append(self._inbox.get_nowait())
            size += len(messages[-1].payload)
            if size >= BYTES_AT_ONCE:
                break
        self._taken += len(messages)
        self._taken_bytes += size
        self._room.set()
        acknowledgeable = [message for message in messages if message.qos > 0]
        self._taken_qos0 += len(messages) - len(acknowledgeable)
        if timeout_s > 0:
            last = acknowledgeable[-1].received_monotonic if acknowledgeable else 0.0
            quiet_s = self._clock.monotonic() - last
            if self._window.learn(len(acknowledgeable), slept_s / timeout_s, quiet_s / timeout_s):
                self._say_window()
        return messages

    def _say_window(self) -> None:
        """Note the size of the broker's window; where it is small, say what that costs and what helps."""
        self.counters.window = self._window.size if self._window.is_certain else 0
        if self._window.is_certain:
            logger.warning(
                "the broker at %s sends only %d messages ahead of our acknowledgements: they become durable in blocks "
                "of %d, which wears the disk; let it send more (mosquitto: max_inflight_messages 0)",
                *(self._where, self._window.size, self._window.size),
            )

    def wake(self) -> None:
        """End the present ``receive``, or the next one; may be called from a signal handler."""
        self._wakes.put(None)  # SimpleQueue.put is reentrant (Python documentation, "queue")

    def acknowledge(self, messages: Sequence[Message]) -> bool:
        """Let the broker forget these messages; tell whether it will forget all of them.

        Those of an older connection it will send again.
        """
        stale_before = self.counters.stale_acks
        for message in messages:
            if message.qos == 0:
                continue
            if message.connection != self._link:
                self.counters.stale_acks += 1
                continue
            self._client.ack(message.mid, 1)
            self.counters.acked += 1
        return self.counters.stale_acks == stale_before

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> bool:
        """Publish at QoS 1; tell whether it was taken.

        While there is no connection, of retained states the latest per topic is kept and sent with the next one;
        others are dropped and counted.
        """
        if self._ready:
            sent = self._client.publish(topic, payload, qos=1, retain=retain)
            # any other answer means that paho keeps it, and sends it again after a reconnect
            if sent.rc != MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
                self._waiting.pop(topic, None)
                self.counters.published += 1
                return True
        self._waiting.pop(topic, None)  # what it said is out of date
        if not retain or len(self._waiting) >= STATES_KEPT:
            self.counters.dropped_publications += 1
            return False
        self._waiting[topic] = payload
        return True

    @property
    def is_connected(self) -> bool:
        """Whether messages can come and go at this moment."""
        return self._ready

    @property
    def last_error(self) -> str | None:
        """Why there is no connection, or what is wrong with it; None if all is well."""
        if self._trouble is None and self._clock.monotonic() < self._rival_until:
            return self._rival
        return self._trouble

    @property
    def connection(self) -> int:
        """The number of the present or last usable connection: when it rises, retained states want publishing again."""
        return self.counters.connects

    def unhealthy(self) -> str | None:
        """Say why the bus can never work again in this process, or None."""
        if self._thread is not None and not self._thread.is_alive() and not self._closing:
            return "the MQTT network thread has ended; its traceback is in the log"
        return None

    def close(self) -> None:
        """Say "offline" and leave; the broker keeps the session and what comes in meanwhile."""
        self._send_waiting()
        self._closing = True
        self._room.set()
        if self._ready and self._health_topic is not None:
            goodbye = self._client.publish(self._health_topic, OFFLINE, qos=1, retain=True)
            # paho raises where it could not even queue it: then the last will says the same
            with suppress(ValueError, RuntimeError):
                goodbye.wait_for_publish(GOODBYE_S)
        self._client.disconnect()
        if self._thread is not None:
            self._thread.join(GOODBYE_S)  # it may hang in a connection attempt; as a daemon it ends with the process
        client = self._client  # paho closes its wake-up sockets when it is dropped: no circle of ours may hold it
        client.on_pre_connect = client.on_connect = client.on_connect_fail = None
        client.on_disconnect = client.on_subscribe = client.on_message = None

    def _send_waiting(self) -> None:
        """Publish what had to wait for the broker, oldest topic first."""
        if not (self._ready and self._waiting):
            return
        waiting, self._waiting = self._waiting, {}
        for topic, payload in waiting.items():
            self.publish(topic, payload, retain=True)

    # the network thread's side: never blocks, never raises

    def _on_pre_connect(self, _client: paho.Client, _userdata: object) -> None:
        self._thread = threading.current_thread()
        self._answered = False

    def _on_connect(
        self,
        client: paho.Client,
        _userdata: object,
        flags: paho.ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._answered = True
        if reason.is_failure:
            self._failed(f"the broker refused us: {reason}")
            return
        if (self._connection or self.was_here) and not flags.session_present:
            self.counters.lost_sessions += 1
            logger.warning(
                "the broker at %s has lost our session: what it took for us while we were away is gone", self._where
            )
        self._connection += 1
        self._link = self._connection
        self._up_since = self._clock.monotonic()
        if self._health_topic is not None:
            client.publish(self._health_topic, ONLINE, qos=1, retain=True)
        if self._subscriptions:
            client.subscribe(self._subscriptions)
        else:
            self._now_ready()

    def _on_subscribe(
        self,
        _client: paho.Client,
        _userdata: object,
        _mid: int,
        reasons: Sequence[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        # not before this answer are we ready: it comes after paho has sent again what was under way when the last
        # connection broke, so no older state of a topic can overtake a newer one
        self._now_ready()
        refused = [
            f"{topic} ({reason})"
            for (topic, _options), reason in zip(self._subscriptions, reasons, strict=False)
            if reason.is_failure
        ]
        if refused:
            self._trouble = f"the broker refused a subscription: {', '.join(refused)}; see its access list"
            logger.error("%s", self._trouble)

    def _now_ready(self) -> None:
        down_s = self._clock.monotonic() - (self._down_since or 0.0)
        logger.info(
            "connected to the broker at %s after %s and %d failed attempts",
            self._where,
            _spoken(down_s),
            self._attempts,
        )
        self._trouble = None
        self._attempts = 0
        self._ready = True
        self.counters.connects += 1
        self._wakes.put(None)

    def _on_connect_fail(self, _client: paho.Client, _userdata: object) -> None:
        self._failed(_reason_of(sys.exception()))

    def _on_disconnect(
        self,
        _client: paho.Client,
        _userdata: object,
        _flags: paho.DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        was_up, self._link, self._ready = self._link > 0, 0, False
        if self._closing:
            return
        if was_up:
            self._down_since = self._clock.monotonic()
            self._give_way()
            if self._is_rival(reason):
                return
            self._trouble = f"connection lost: {reason}"
            logger.warning("the broker at %s is away (%s); trying again until it is back", self._where, reason)
        elif not self._answered:
            self._answered = True
            self._failed(
                f"the connection closed before the broker answered ({reason}); is it MQTT, and TLS on both ends?"
            )

    def _give_way(self) -> None:
        """Wait longer after each connection that did not last: two of one name would throw each other out for ever.

        Connection attempts that fail are paho's to space out; it begins anew with each that succeeds.
        """
        is_short = self._clock.monotonic() - self._up_since < STEADY_S
        self._short_lived = self._short_lived + 1 if is_short else 0
        wait_s = min(SHORTEST_BACKOFF_S * 2 ** max(0, self._short_lived - 1), LONGEST_BACKOFF_S)
        self._client.reconnect_delay_set(wait_s, LONGEST_BACKOFF_S)

    def _is_rival(self, reason: ReasonCode) -> bool:
        """Tell, and say, whether another client took our place; before 2.0.15 mosquitto does not say so itself."""
        certain = reason.value == SESSION_TAKEN_OVER
        if not certain and self._short_lived < SHORT_LIVED:
            return False
        self.counters.taken_over += certain
        about = f"our client id {self._client_id!r} at the broker at {self._where}"
        remedy = "end it, or give one of the two another [mqtt] client_id"
        self._trouble = self._rival = (
            f"another client uses {about} and gets what is meant for us: {remedy}"
            if certain
            else f"the broker lets us in and soon drops us, {self._short_lived} times in a row; its log says why. "
            f"If another client uses {about}: {remedy}"
        )
        self._rival_until = self._clock.monotonic() + RIVAL_TOLD_S
        logger.warning("%s", self._trouble)
        return True

    def _failed(self, why: str) -> None:
        """Note a failed attempt; said once per reason."""
        self._attempts += 1
        if why != self._trouble:
            self._trouble = why
            logger.warning("no connection to the broker at %s: %s; trying on", self._where, why)

    def _on_message(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        qos = message.qos
        self.counters.received += 1
        if qos == 0:
            if self._put_qos0 - self._taken_qos0 >= QOS0_SHARE:
                self.counters.dropped_qos0 += 1
                return
            self._put_qos0 += 1
        try:
            topic = message.topic
        except UnicodeDecodeError:  # no broker should let it pass; the decoder refuses it as an unknown topic
            topic = ""
        payload = bytes(message.payload[:LARGEST_PAYLOAD])
        self._inbox.put(
            Message(
                topic,
                payload,
                qos,
                message.mid,
                message.dup,
                message.retain,
                self._link,
                to_ms(self._clock.now()),
                self._clock.monotonic(),
            )
        )
        self._put += 1
        self._put_bytes += len(payload)
        if self._put - self._taken == self._full or topic.startswith(self._urgent_prefix):
            self._wakes.put(None)
        if self._is_full():
            self._await_room()

    def _is_full(self) -> bool:
        """Tell whether the inbox holds as much as it may."""
        return self._put - self._taken >= INBOX_MESSAGES or self._put_bytes - self._taken_bytes >= INBOX_BYTES

    def _await_room(self) -> None:
        """Let the broker wait, by reading nothing more, until messages were taken.

        mosquitto 2.0.11 does not keep to what we ask for: once a backlog flows, each acknowledgement lets it send
        several messages ahead, and the inbox would grow with the backlog.
        """
        self._wakes.put(None)
        while self._is_full() and not self._closing:
            self._room.clear()
            if self._is_full():  # else it was emptied just before we cleared
                self._room.wait(ROOM_LOOKED_FOR_S)


@dataclass(slots=True)
class BrokerWindow:
    """How many unacknowledged messages the broker allows, as far as can be seen from here.

    We ask for RECEIVE_MAXIMUM; brokers may allow fewer without a word (EMQX 32, mosquitto 20 before MQTT 5). Then each
    turn ends with the same number waiting and nothing more coming. From then on a turn ends as soon as so many wait,
    instead of idling through its interval. A farm that just sends so many at a time loses nothing by it, and as soon as
    more than that wait, it was no limit. Where the next ones come soon after we acknowledge, turn after turn, one turn
    waits through its interval: if no more come, it is a limit, and told; if more do, it is a farm that sends more than
    it did.
    """

    size: int = RECEIVE_MAXIMUM
    is_certain: bool = False
    _count: int = 0
    _turns: int = 0
    _tried: int = 0  # the size that is put to the test in this turn; 0: none is

    def learn(self, count: int, slept_share: float, quiet_share: float) -> bool:
        """Take how a turn went; tell whether it is news what the window is.

        Args:
            count: the messages that waited at its end.
            slept_share: how much of its interval it waited for them.
            quiet_share: how much of its interval passed since the last of them came.
        """
        stalled = count > 0 and slept_share >= 1 and quiet_share >= QUIET_SHARE
        if self._tried:
            if count <= self._tried and slept_share < 1:
                return False  # something else ended the turn: the next one is the test
            self.is_certain = stalled and count == self._tried
            self.size, self._tried = self._tried if self.is_certain else RECEIVE_MAXIMUM, 0
            return self.is_certain
        if count > self.size:
            was_certain = self.is_certain
            self.size, self.is_certain, self._turns = RECEIVE_MAXIMUM, False, 0
            return was_certain
        if self.size == RECEIVE_MAXIMUM:
            self._turns = 0 if not stalled else self._turns + 1 if count == self._count else 1
            self._count = count
            if self._turns == CERTAIN_TURNS:
                self.size, self._turns = count, 0
            return False
        self._turns = self._turns + 1 if count == self.size and slept_share < 1 - QUIET_SHARE else 0
        if not self.is_certain and self._turns == CERTAIN_TURNS:
            self.size, self._tried, self._turns = RECEIVE_MAXIMUM, self.size, 0
        return False


def probe(mqtt: Mqtt, client_id: str, timeout_s: float) -> str | None:
    """Try the broker for ``timeout_s`` and return why it cannot be used, or None if all is well.

    Comes by another client id, so that a running agent keeps its own session.

    Raises:
        ConfigError: a file or name in the ``[mqtt]`` section cannot be used.
    """
    try:
        with _Visit(mqtt, f"{client_id}-{os.getpid()}", timeout_s):
            return None
    except BrokerError as e:
        return str(e)


def ask(
    mqtt: Mqtt,
    client_id: str,
    topic: str,
    payload: bytes,
    *,
    answer_topic: str,
    is_answer: Callable[[bytes], bool],
    timeout_s: float,
) -> bytes | None:
    """Publish a command and return the answer to it, or None if none came within ``timeout_s``.

    With None the broker keeps the command for the agent. Comes by a client id of its own, as ``probe`` does.

    Raises:
        BrokerError: the broker was not reached, so nothing was done.
        ConfigError: a file or name in the ``[mqtt]`` section cannot be used.
    """
    with _Visit(mqtt, f"{client_id}-{os.getpid()}", timeout_s, (answer_topic,)) as visit:
        deadline = time.monotonic() + timeout_s
        sent = visit.client.publish(topic, payload, qos=1)
        with suppress(ValueError, RuntimeError):  # paho's words for "could not send"; judged below
            sent.wait_for_publish(timeout_s)
        if sent.rc != MQTTErrorCode.MQTT_ERR_SUCCESS or not sent.is_published():
            message = f"the broker at {mqtt.host}:{mqtt.port} did not take the command; nothing was done, try again"
            raise BrokerError(message)
        while (left_s := deadline - time.monotonic()) > 0:
            with suppress(queue.Empty):
                answer = visit.heard.get(timeout=left_s)
                if not answer.retain and is_answer(answer.payload):
                    return answer.payload
    return None


def listen(
    mqtt: Mqtt,
    client_id: str,
    filters: Sequence[str],
    clock: Clock,
    *,
    seconds: float,
    timeout_s: float,
    hear: Callable[[Message], None],
) -> str | None:
    """Give ``hear`` every message that the broker lets us see for ``seconds``, of all topics if it may be.

    Comes by a client id of its own, as ``probe`` does: the agent's session stays as it is.

    Returns:
        None where all topics were subscribed to, else why not: then only ``filters`` were.

    Raises:
        BrokerError: the broker was not reached, or refused ``filters`` too.
        ConfigError: a file or name in the ``[mqtt]`` section cannot be used.
    """
    name, refused = f"{client_id}-{os.getpid()}", None
    with ExitStack() as stack:
        try:
            visit = stack.enter_context(_Visit(mqtt, name, timeout_s, (EVERYTHING,), clock))
        except BrokerError as e:
            refused = str(e)
            visit = stack.enter_context(_Visit(mqtt, name, timeout_s, filters, clock))
        deadline = time.monotonic() + seconds
        while (left_s := deadline - time.monotonic()) > 0:
            with suppress(queue.Empty):
                hear(visit.heard.get(timeout=left_s))
    return refused


class _Visit:
    """A short connection of a command line verb: a clean session that leaves nothing behind."""

    def __init__(
        self,
        mqtt: Mqtt,
        client_id: str,
        timeout_s: float,
        subscriptions: Sequence[str] = (),
        clock: Clock | None = None,
    ) -> None:
        self.heard: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._clock = clock or SystemClock()
        self.client = _client(mqtt, client_id)
        self._where = f"{mqtt.host}:{mqtt.port}"
        self._mqtt = mqtt
        self._timeout_s = timeout_s
        self._subscriptions = [(topic, 1) for topic in subscriptions]
        self._outcome: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        client = self.client
        client.on_connect = self._on_connect
        client.on_connect_fail = lambda _client, _userdata: self._outcome.put(_reason_of(sys.exception()))
        client.on_disconnect = lambda _c, _u, _f, reason, _p: self._outcome.put(f"the connection closed ({reason})")
        client.on_subscribe = lambda _c, _u, _m, reasons, _p: self._outcome.put(
            f"subscription refused ({reasons[0]})" if all(reason.is_failure for reason in reasons) else None
        )
        client.on_message = self._on_message
        client.connect_async(
            self._mqtt.host, self._mqtt.port, KEEP_ALIVE_S, clean_start=True, properties=_connect_properties(0)
        )
        client.loop_start()
        why: str | None = f"no answer within {self._timeout_s:g} s"
        with suppress(queue.Empty):
            why = self._outcome.get(timeout=self._timeout_s)
        if why is not None:
            self.__exit__()
            message = f"the broker at {self._where} cannot be used: {why}"
            raise BrokerError(message)
        return self

    def __exit__(self, *_exception: object) -> None:
        self.client.disconnect()

    def _on_connect(
        self,
        client: paho.Client,
        _userdata: object,
        _flags: paho.ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._outcome.put(f"it refused us: {reason}")
        elif not self._subscriptions:
            self._outcome.put(None)
        else:
            client.subscribe(self._subscriptions)

    def _on_message(self, client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        client.ack(message.mid, message.qos)
        with suppress(UnicodeDecodeError):  # no broker should let such a topic pass
            self.heard.put(
                Message(
                    message.topic,
                    bytes(message.payload[:LARGEST_PAYLOAD]),
                    message.qos,
                    message.mid,
                    message.dup,
                    message.retain,
                    1,
                    to_ms(self._clock.now()),
                    self._clock.monotonic(),
                )
            )


def _client(mqtt: Mqtt, client_id: str) -> paho.Client:
    """Return a client set up as the ``[mqtt]`` section says, not yet connected.

    Raises:
        ConfigError: a file or name in it cannot be used; the message names the key.
    """
    if not _is_host(mqtt.host):
        message = f"[mqtt] host: {mqtt.host!r} is no host name; give a name such as broker.local or an address"
        raise ConfigError(message)
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=paho.MQTTv5,
        manual_ack=True,
        reconnect_on_failure=True,
    )
    if mqtt.password_file is not None and not mqtt.username:
        message = "[mqtt] username: is missing; password_file alone does not say who we are"
        raise ConfigError(message)
    if mqtt.username:
        client.username_pw_set(mqtt.username, _password(mqtt.password_file))
    if mqtt.ca_file is not None or mqtt.cert_file is not None:
        client.tls_set_context(_tls_context(mqtt))
    return client


def _is_host(name: str) -> bool:
    """Tell whether the resolver takes ``name``; what it does not would end the network thread."""
    try:
        return bool(name.encode("idna"))
    except UnicodeError:
        return False


def _password(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as e:
        message = (
            f"[mqtt] password_file: {path} cannot be read ({e}); it holds the password alone, readable by this user"
        )
        raise ConfigError(message) from e


def _tls_context(mqtt: Mqtt) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=mqtt.ca_file)
    except (OSError, ssl.SSLError) as e:
        message = f"[mqtt] ca_file: {mqtt.ca_file} cannot be used ({_reason_of(e)}); it holds the broker's CA in PEM"
        raise ConfigError(message) from e
    if mqtt.cert_file is not None and mqtt.key_file is not None:
        try:
            context.load_cert_chain(mqtt.cert_file, mqtt.key_file, password=_no_passphrase)
        except (OSError, ssl.SSLError) as e:
            message = (
                f"[mqtt] cert_file, key_file: {mqtt.cert_file} and {mqtt.key_file} cannot be used ({_reason_of(e)}); "
                "they hold our certificate and its key without a passphrase, both in PEM"
            )
            raise ConfigError(message) from e
    return context


def _no_passphrase() -> str:
    """Answer OpenSSL's question for a passphrase, which would otherwise be put to a terminal that nobody watches."""
    return ""


def _connect_properties(session_expiry_s: int) -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho has not typed this one
    settings: dict[str, Any] = {
        "SessionExpiryInterval": session_expiry_s,
        "ReceiveMaximum": RECEIVE_MAXIMUM,
        "MaximumPacketSize": LARGEST_PACKET,
    }
    for name, value in settings.items():
        setattr(properties, name, value)
    return properties


def _reason_of(error: BaseException | None) -> str:
    """Return what went wrong in the words of the operating system or OpenSSL, without numbers of theirs."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not verify: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _spoken(seconds: float) -> str:
    """Return a duration as people say it: ``3 h 12 min``."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {s} s" if minutes else f"{s} s"
