from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, BinaryIO

import pytest

from agent.bus import (
    CERTAIN_TURNS,
    INBOX_BYTES,
    INBOX_MESSAGES,
    OFFLINE,
    ONLINE,
    QOS0_SHARE,
    RECEIVE_MAXIMUM,
    BrokerWindow,
    Bus,
    ask,
    probe,
)
from agent.clock import SystemClock
from agent.config import Mqtt
from agent.errors import BrokerError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agent.domain import Message
    from tests.conftest import Broker

pytestmark = pytest.mark.filterwarnings(
    # paho leaves the socket of a TLS handshake that failed to the garbage collector
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)

PATIENCE_S = 20.0  # generous: only a broken bus ever waits this long
HEALTH = "flockwatch/farm1/health"


@pytest.fixture(autouse=True)
def no_socket_left_behind() -> Iterator[None]:
    """Let an unclosed socket show in the test that left it."""
    yield
    gc.collect()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def make_bus(broker: Broker, stack: ExitStack) -> Callable[..., Bus]:
    """Give a function that connects a bus to the broker and closes it at the end."""

    def make(*filters: str, client_id: str = "flockwatch-farm1", qos: int = 1, health: str | None = None) -> Bus:
        bus = Bus(
            Mqtt(host=broker.host, port=broker.port),
            client_id,
            [(topic, qos) for topic in filters],
            health_topic=health,
            clock=SystemClock(),
        )
        stack.enter_context(closing(bus))
        bus.connect()
        until(bus, lambda: bus.is_connected)
        return bus

    return make


def awake(bus: Bus) -> Bus:
    """Let the bus tell about its new connection, by which it wakes."""
    assert bus.receive(PATIENCE_S, 10) == []
    return bus


def until(bus: Bus, condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds, and leave the inbox as it is."""
    deadline = time.monotonic() + PATIENCE_S
    never = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"waited too long; the bus says {bus.last_error!r}"
        never.wait(0.02)


def collect(bus: Bus, n: int) -> list[Message]:
    """Return the next ``n`` messages."""
    deadline = time.monotonic() + PATIENCE_S
    messages: list[Message] = []
    while len(messages) < n:
        assert time.monotonic() < deadline, f"{len(messages)} of {n} messages came"
        messages += bus.receive(1.0, n - len(messages))
    return messages


def acks_heard(broker: Broker) -> int:
    """Return how many acknowledgements the broker has read from the agent's client."""
    return sum("Received PUBACK from flockwatch-farm1" in line for line in broker.log)


def payloads(messages: list[Message]) -> list[bytes]:
    return [message.payload for message in messages]


def say(sender: Bus, topic: str, *texts: str, retain: bool = False) -> None:
    for text in texts:
        assert sender.publish(topic, text.encode(), retain=retain)


# receiving and acknowledging


def test_messages_come_in_order_with_all_that_is_known_of_them(make_bus: Callable[..., Bus]) -> None:
    bus, sender = make_bus("skov/#"), make_bus(client_id="sender")
    before_ms = time.time() * 1000
    say(sender, "skov/farm1/house1/co2", "700", "710")
    first, second = collect(bus, 2)
    assert (first.topic, first.payload, second.payload) == ("skov/farm1/house1/co2", b"700", b"710")
    assert (first.qos, first.dup, first.retain, first.connection) == (1, False, False, 1)
    assert 0 < first.mid != second.mid
    assert before_ms - 1 <= first.received_ms <= time.time() * 1000 + 1
    assert first.received_monotonic <= time.monotonic()


def test_what_was_not_acknowledged_comes_again_after_a_restart_of_the_agent(
    make_bus: Callable[..., Bus], broker: Broker
) -> None:
    bus, sender = make_bus("skov/#"), make_bus(client_id="sender")
    say(sender, "skov/a", "1", "2", "3")
    messages = collect(bus, 3)
    bus.acknowledge(messages[:1])
    bus.close()
    say(sender, "skov/a", "4")  # while the agent is away
    again = make_bus("skov/#")
    assert again.connection == 1
    redelivered = collect(again, 3)
    assert payloads(redelivered) == [b"2", b"3", b"4"]
    assert [message.dup for message in redelivered][:2] == [True, True]
    assert again.counters.lost_sessions == 0


def test_what_was_acknowledged_does_not_come_again(make_bus: Callable[..., Bus]) -> None:
    bus, sender = make_bus("skov/#"), make_bus(client_id="sender")
    say(sender, "skov/a", "1", "2")
    bus.acknowledge(collect(bus, 2))
    assert bus.counters.acked == 2
    bus.close()
    again = make_bus("skov/#")
    say(sender, "skov/a", "3")
    assert payloads(collect(again, 1)) == [b"3"]


def test_acknowledgements_of_an_older_connection_are_discarded(make_bus: Callable[..., Bus], broker: Broker) -> None:
    """After a reconnect a packet id may mean another message: a late ack must not make the broker forget that one."""
    bus, sender = make_bus("skov/#"), make_bus(client_id="sender")
    say(sender, "skov/a", "old")
    (old,) = collect(bus, 1)
    sender.close()  # or it would say again what the broker had no time to confirm
    broker.stop()
    broker.forget()  # packet ids begin anew
    broker.start()
    until(bus, lambda: bus.connection == 2)
    say(make_bus(client_id="another"), "skov/a", "new")
    (new,) = collect(bus, 1)
    assert (new.mid, new.connection) == (old.mid, 2)
    bus.acknowledge([old])
    assert (bus.counters.stale_acks, bus.counters.acked) == (1, 0)
    bus.close()
    assert payloads(collect(make_bus("skov/#"), 1)) == [b"new"]


class StrictBroker(threading.Thread):
    """As much of a broker as it takes to send one client QoS 1 messages, never more than ``window`` unacknowledged.

    mosquitto 2.0.11 cannot stand in for it: what it calls its limit does not bind MQTT 5 clients.
    """

    def __init__(self, window: int, messages: int) -> None:
        super().__init__(daemon=True)
        self.window, self.left, self.most = window, messages, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def run(self) -> None:
        with self._listener, self._listener.accept()[0] as client, client.makefile("rb") as stream:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            unacknowledged = mid = 0
            subscribed = False
            while first := stream.read(1):
                body = stream.read(self._length(stream))
                match first[0] >> 4:
                    case 1:  # CONNECT -> CONNACK: no session, success, no properties
                        client.sendall(b"\x20\x03\x00\x00\x00")
                    case 8:  # SUBSCRIBE -> SUBACK of the same id: QoS 1 granted
                        client.sendall(b"\x90\x04" + body[:2] + b"\x00\x01")
                        subscribed = True
                    case 4:  # PUBACK
                        unacknowledged -= 1
                    case 12:  # PINGREQ -> PINGRESP
                        client.sendall(b"\xd0\x00")
                    case 14:  # DISCONNECT
                        return
                while subscribed and self.left and unacknowledged < self.window:
                    mid = mid % 65_535 + 1
                    client.sendall(b"\x32\x0b\x00\x05skov/" + mid.to_bytes(2, "big") + b"\x00" + b"1")
                    self.left -= 1
                    unacknowledged += 1
                    self.most = max(self.most, unacknowledged)

    @staticmethod
    def _length(stream: BinaryIO) -> int:
        length = shift = 0
        while True:
            byte = stream.read(1)[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return length


def test_a_broker_that_sends_few_ahead_is_not_waited_for(stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    """It sends 20 and waits: to idle through the rest of each second would make 20 messages a second of any stream."""
    broker = StrictBroker(window=20, messages=2_000)
    broker.start()
    bus = Bus(Mqtt(port=broker.port), "x", [("skov/#", 1)], health_topic=None, clock=SystemClock())
    stack.enter_context(closing(bus))
    bus.connect()
    counts: list[int] = []
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        while sum(counts) < 2_000:
            assert time.monotonic() - began < PATIENCE_S
            messages = bus.receive(0.3, 2_000)
            counts.append(len(messages))
            bus.acknowledge(messages)
    assert (broker.most, max(counts)) == (20, 20)
    assert time.monotonic() - began < 0.5 * 100 * 0.3  # of the hundred turns that idle through
    assert bus.counters.window == 20
    assert "sends only 20 messages ahead" in caplog.text


def test_a_broker_that_does_not_wait_is_made_to(stack: ExitStack) -> None:
    """What nobody takes stays at the broker: the inbox is bounded whatever the broker thinks of our window."""
    broker = StrictBroker(window=60_000, messages=3 * INBOX_MESSAGES)
    broker.start()
    bus = Bus(Mqtt(port=broker.port), "x", [("skov/#", 1)], health_topic=None, clock=SystemClock())
    stack.enter_context(closing(bus))
    bus.connect()
    until(bus, lambda: bus.counters.received >= INBOX_MESSAGES)
    time.sleep(0.5)
    assert bus.counters.received == INBOX_MESSAGES
    taken = 0
    while taken < 3 * INBOX_MESSAGES:
        messages = bus.receive(1.0, 2_000)
        taken += len(messages)
        bus.acknowledge(messages)
        assert bus.counters.received - taken <= INBOX_MESSAGES


def test_an_inbox_of_large_messages_is_bounded_too(make_bus: Callable[..., Bus]) -> None:
    bus, sender = make_bus("skov/#"), make_bus(client_id="sender")
    large, count = "x" * 60_000, INBOX_BYTES // 60_000 + 30
    say(sender, "skov/a", *[large] * count)
    until(bus, lambda: bus.counters.received > INBOX_BYTES // 60_000)
    time.sleep(0.3)
    assert bus.counters.received == INBOX_BYTES // 60_000 + 1
    assert [message.payload for message in collect(bus, count)] == [large.encode()] * count


def test_the_window_of_a_broker_is_believed_only_where_it_must_be() -> None:
    window = BrokerWindow()
    for count in (20, 0, 20, 0, 20, 0, 20):  # a farm that sends twenty each other second
        window.learn(count, slept_share=1.0, quiet_share=0.9)
    assert window.size == RECEIVE_MAXIMUM
    for _ in range(10):  # twenty, spread over each turn
        window.learn(20, slept_share=1.0, quiet_share=0.05)
    assert window.size == RECEIVE_MAXIMUM
    for _ in range(CERTAIN_TURNS):  # twenty and no more, turn after turn
        assert not window.learn(20, slept_share=1.0, quiet_share=0.9)
    assert (window.size, window.is_certain) == (20, False)
    for _ in range(10):  # as a farm does that sends twenty each second: nothing to complain of
        assert not window.learn(20, slept_share=0.9, quiet_share=0.0)
    for _ in range(CERTAIN_TURNS):
        assert not window.learn(20, slept_share=0.0, quiet_share=0.0)
    assert (window.size, window.is_certain) == (RECEIVE_MAXIMUM, False)  # put to the test: do more come if we wait?
    assert not window.learn(7, slept_share=0.4, quiet_share=0.0)  # a command came in
    assert window.learn(20, slept_share=1.0, quiet_share=0.9)
    assert (window.size, window.is_certain) == (20, True)
    assert window.learn(21, slept_share=0.0, quiet_share=0.0)  # it was no limit, then
    assert (window.size, window.is_certain) == (RECEIVE_MAXIMUM, False)


def test_a_farm_that_grows_does_not_pass_for_a_broker_with_a_small_window() -> None:
    window = BrokerWindow()
    for _ in range(CERTAIN_TURNS):  # one house, once a second
        assert not window.learn(1, slept_share=1.0, quiet_share=0.8)
    commits = seconds = 0.0
    while seconds < 60:  # eight houses, each once a second, evenly: of a wider window each turn would take eight
        count = min(window.size, 8)
        assert not window.learn(count, slept_share=count / 8, quiet_share=0.0)
        commits, seconds = commits + 1, seconds + count / 8
    assert not window.is_certain
    assert commits < 70


def test_retained_messages_are_marked_and_live_ones_are_not(make_bus: Callable[..., Bus]) -> None:
    sender = make_bus(client_id="sender")
    say(sender, "skov/a", "kept", retain=True)
    until(sender, lambda: probe_retained(make_bus, "skov/a") == b"kept")
    bus = make_bus("skov/#")
    (message,) = collect(bus, 1)
    assert message.retain
    say(sender, "skov/a", "live", retain=True)
    (message,) = collect(bus, 1)
    assert (message.payload, message.retain) == (b"live", False)


def probe_retained(make_bus: Callable[..., Bus], topic: str) -> bytes | None:
    """Return what the broker keeps on ``topic``."""
    with closing(make_bus(topic, client_id=f"observer-{time.monotonic_ns()}")) as observer:
        observer.receive(0, 0)
        return next((message.payload for message in observer.receive(0.3, 1) if message.retain), None)


def test_qos_0_has_a_bounded_share_and_says_what_it_dropped(make_bus: Callable[..., Bus]) -> None:
    bus, sender = make_bus("skov/#", qos=0), make_bus(client_id="sender")
    extra = 10
    for i in range(QOS0_SHARE + extra):
        while not sender.publish("skov/a", str(i).encode(), retain=False):
            sender.receive(0.01, 1)
    deadline = time.monotonic() + PATIENCE_S
    while bus.counters.received < QOS0_SHARE + extra and time.monotonic() < deadline:
        sender.receive(0.05, 1)  # waits; the bus itself does not drain
    assert bus.counters.dropped_qos0 == extra
    messages = bus.receive(0, 5000)
    assert payloads(messages) == [str(i).encode() for i in range(QOS0_SHARE)]
    bus.acknowledge(messages)
    assert bus.counters.acked == 0
    say(sender, "skov/a", "room again")
    assert payloads(collect(bus, 1)) == [b"room again"]


def test_a_payload_too_large_for_any_dialect_is_cut_short(make_bus: Callable[..., Bus]) -> None:
    bus, sender = make_bus("skov/#"), make_bus(client_id="sender")
    say(sender, "skov/a", "x" * 500_000)
    assert len(collect(bus, 1)[0].payload) == 65_537


# waking up


def test_receive_sleeps_through_the_interval_and_returns_what_came(make_bus: Callable[..., Bus]) -> None:
    bus, sender = awake(make_bus("skov/#")), make_bus(client_id="sender")
    say(sender, "skov/a", "1", "2")
    began = time.monotonic()
    messages = bus.receive(0.5, 100)
    assert time.monotonic() - began >= 0.5
    assert payloads(messages) == [b"1", b"2"]


def test_receive_returns_early_when_the_limit_is_there(make_bus: Callable[..., Bus]) -> None:
    bus, sender = awake(make_bus("skov/#")), make_bus(client_id="sender")
    say(sender, "skov/a", *"123")
    assert payloads(bus.receive(PATIENCE_S, 2)) == [b"1", b"2"]
    assert payloads(bus.receive(PATIENCE_S, 1)) == [b"3"]


def test_receive_returns_early_when_the_broker_s_window_is_full(make_bus: Callable[..., Bus]) -> None:
    bus, sender = awake(make_bus("skov/#")), make_bus(client_id="sender")
    flood = threading.Thread(target=publish_all, args=(sender, RECEIVE_MAXIMUM + 500), daemon=True)
    flood.start()
    began = time.monotonic()
    messages = bus.receive(PATIENCE_S * 3, 1_000_000)
    assert time.monotonic() - began < PATIENCE_S * 3
    assert len(messages) == RECEIVE_MAXIMUM
    flood.join()
    assert bus.receive(0.3, 10) == []  # back-pressure: the rest waits in the broker
    bus.acknowledge(messages)
    assert len(collect(bus, 500)) == 500


def publish_all(sender: Bus, n: int) -> None:
    for i in range(n):
        while not sender.publish("skov/a", str(i).encode(), retain=False):
            sender.receive(0.01, 1)


def test_a_command_wakes_at_once(make_bus: Callable[..., Bus]) -> None:
    bus, sender = awake(make_bus("skov/#", "flockwatch/+/+/+/command")), make_bus(client_id="sender")
    say(sender, "skov/a", "1")
    say(sender, "flockwatch/farm1/house1/flock/command", "{}")
    assert payloads(bus.receive(PATIENCE_S, 100)) == [b"1", b"{}"]


def test_a_signal_handler_may_wake(make_bus: Callable[..., Bus]) -> None:
    bus = awake(make_bus("skov/#"))
    before = signal.signal(signal.SIGUSR1, lambda *_: bus.wake())
    try:
        began = time.monotonic()
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        assert bus.receive(PATIENCE_S, 10) == []
        assert time.monotonic() - began < PATIENCE_S
        timer.join()
        bus.wake()  # before the wait begins: it counts too
        assert bus.receive(PATIENCE_S, 10) == []
    finally:
        signal.signal(signal.SIGUSR1, before)


# connection


def test_a_broker_that_comes_late_is_found(broker: Broker, stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    broker.stop()
    bus = Bus(
        Mqtt(host=broker.host, port=broker.port), "late", [("skov/#", 1)], health_topic=HEALTH, clock=SystemClock()
    )
    stack.enter_context(closing(bus))
    with caplog.at_level(logging.INFO, "agent.bus"):
        bus.connect()
        until(bus, lambda: bus._attempts >= 2)
        assert bus.last_error == "Connection refused"
        assert not bus.is_connected
        assert bus.connection == 0
        broker.start()
        until(bus, lambda: bus.is_connected)
    assert bus.last_error is None
    assert bus.unhealthy() is None
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "Connection refused" in said[0]
    assert "failed attempts" in said[1]


def test_a_restarted_broker_keeps_the_session_and_the_loss_is_said_once(
    make_bus: Callable[..., Bus], broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    bus, sender = make_bus("skov/#"), make_bus(client_id="sender")
    say(sender, "skov/a", "unacknowledged")
    collect(bus, 1)
    sender.close()  # or it would say again what the broker had no time to confirm
    with caplog.at_level(logging.WARNING, "agent.bus"):
        broker.stop()
        until(bus, lambda: not bus.is_connected)
        assert bus.last_error is not None
        broker.start()
        until_connected_again = time.monotonic() + PATIENCE_S
        redelivered: list[Message] = []
        while not redelivered and time.monotonic() < until_connected_again:
            redelivered = bus.receive(1, 10)
    assert [(message.payload, message.dup, message.connection) for message in redelivered] == [
        (b"unacknowledged", True, 2)
    ]
    until(bus, lambda: bus.connection == 2)  # usable a moment after the first message
    assert bus.counters.lost_sessions == 0
    assert len([r for r in caplog.records if "is away" in r.getMessage()]) == 1


def test_a_broker_that_lost_our_session_is_noticed(make_bus: Callable[..., Bus], broker: Broker) -> None:
    bus = make_bus("skov/#")
    broker.kill()
    broker.forget()
    broker.start()
    until(bus, lambda: bus.connection == 2)
    assert bus.counters.lost_sessions == 1


def test_an_ack_that_is_under_way_when_the_session_is_lost_forgets_no_other_message(
    make_bus: Callable[..., Bus], broker: Broker
) -> None:
    """The broker without memory counts its packet ids from 1 again: ours of before mean other messages now."""
    bus, sender = make_bus("skov/#"), make_bus(client_id="sender")
    say(sender, "skov/a", "1", "2", "3")
    old = collect(bus, 3)
    broker.kill()
    broker.forget()
    broker.start()
    until(bus, lambda: bus.connection == 2)
    until(sender, lambda: sender.connection == 2)
    say(sender, "skov/a", "4", "5", "6")
    new = collect(bus, 3)
    assert [message.mid for message in new] == [message.mid for message in old]
    assert not bus.acknowledge(old)
    assert (bus.counters.stale_acks, bus.counters.acked) == (3, 0)
    acks = acks_heard(broker)
    assert bus.acknowledge(new[:1])
    until(bus, lambda: acks_heard(broker) > acks)
    sender.close()
    broker.stop()
    broker.start()
    assert payloads(collect(bus, 2)) == [b"5", b"6"]


def test_a_rival_that_the_broker_names_is_named(stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    """As newer brokers do, by the reason 0x8E of MQTT 5; those before mosquitto 2.0.15 only close the connection."""
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

    def throw_out() -> None:
        for _ in range(2):
            connection, _address = server.accept()
            with connection:
                connection.recv(1_000)
                connection.sendall(b"\x20\x03\x00\x00\x00")  # CONNACK: welcome
                connection.recv(1_000)
                connection.sendall(b"\xe0\x01\x8e")  # DISCONNECT: session taken over

    broker = threading.Thread(target=throw_out, daemon=True)
    broker.start()
    bus = Bus(Mqtt(port=server.getsockname()[1]), "farm1", [("skov/#", 1)], health_topic=None, clock=SystemClock())
    stack.enter_context(closing(bus))
    with caplog.at_level(logging.WARNING, "agent.bus"):
        bus.connect()
        broker.join(PATIENCE_S)
        until(bus, lambda: bus.counters.taken_over == 2)
    assert "another client uses our client id 'farm1'" in (bus.last_error or "")
    assert "[mqtt] client_id" in (bus.last_error or "")
    assert len([r for r in caplog.records if "another client" in r.getMessage()]) == 2


def test_health_is_online_while_connected_and_offline_after_a_farewell(make_bus: Callable[..., Bus]) -> None:
    bus = make_bus("skov/#", health=HEALTH)
    assert probe_retained(make_bus, HEALTH) == ONLINE
    bus.close()
    assert probe_retained(make_bus, HEALTH) == OFFLINE
    assert bus.unhealthy() is None


def test_the_last_will_says_offline_when_the_agent_is_killed(make_bus: Callable[..., Bus], broker: Broker) -> None:
    script = (
        "import sys; from agent.bus import Bus; from agent.clock import SystemClock; from agent.config import Mqtt\n"
        f"bus = Bus(Mqtt(port={broker.port}), 'victim', [('a/#', 1)], health_topic={HEALTH!r}, clock=SystemClock())\n"
        "bus.connect()\n"
        "while not bus.is_connected: bus.receive(0.1, 1)\n"
        "print('up', flush=True); sys.stdin.read()\n"
    )
    observer = make_bus(HEALTH, client_id="observer")
    victim = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"up\n"
        assert payloads(collect(observer, 1)) == [ONLINE]
        victim.kill()
        assert payloads(collect(observer, 1)) == [OFFLINE]


def test_while_away_only_the_latest_retained_state_is_kept_and_sent_later(
    make_bus: Callable[..., Bus], broker: Broker
) -> None:
    bus = make_bus("skov/#")
    broker.stop()
    until(bus, lambda: not bus.is_connected)
    say(bus, "flockwatch/farm1/house1/severity", "1", "3", "2", retain=True)
    say(bus, "flockwatch/farm1/house2/severity", "4", retain=True)
    assert not bus.publish("flockwatch/farm1/house1/flock/response", b"{}", retain=False)
    assert bus.counters.dropped_publications == 1
    broker.start()
    until(bus, lambda: bus.is_connected)
    bus.receive(0, 1)
    observer = make_bus("flockwatch/#", client_id="observer")
    seen = {message.topic: message.payload for message in collect(observer, 2)}
    assert seen == {"flockwatch/farm1/house1/severity": b"2", "flockwatch/farm1/house2/severity": b"4"}
    assert bus.counters.published == 2


def test_a_dead_network_thread_is_told(make_bus: Callable[..., Bus], monkeypatch: pytest.MonkeyPatch) -> None:
    bus, sender = make_bus("skov/#"), make_bus(client_id="sender")
    assert bus.unhealthy() is None
    monkeypatch.setattr(threading, "excepthook", lambda _args: None)
    monkeypatch.setattr(bus, "_clock", None)  # the callback cannot know the time: it raises
    say(sender, "skov/a", "1")
    assert bus._thread is not None
    bus._thread.join(PATIENCE_S)
    assert "thread has ended" in (bus.unhealthy() or "")


# refusals


def test_a_refused_login_is_said_with_its_reason_and_tried_again(
    make_broker: Callable[[str], Broker], stack: ExitStack, tmp_path: Path, need: Callable[..., str]
) -> None:
    passwords = tmp_path / "passwords"
    tool = need("mosquitto_passwd", "mosquitto")
    subprocess.run([tool, "-b", "-c", str(passwords), "agent", "right"], check=True)
    broker = make_broker(f"allow_anonymous false\npassword_file {passwords}\n")
    secret = tmp_path / "secret"
    secret.write_text("wrong\n")
    mqtt = Mqtt(host=broker.host, port=broker.port, username="agent", password_file=secret)
    assert "Not authorized" in (probe(mqtt, "x", PATIENCE_S) or "")
    bus = Bus(mqtt, "x", [("skov/#", 1)], health_topic=HEALTH, clock=SystemClock())
    stack.enter_context(closing(bus))
    bus.connect()
    until(bus, lambda: bus._attempts >= 2)
    assert bus.last_error == "the broker refused us: Not authorized"
    secret.write_text("right\n")
    right = Mqtt(host=broker.host, port=broker.port, username="agent", password_file=secret)
    assert probe(right, "x", PATIENCE_S) is None


@pytest.fixture
def certificates(tmp_path: Path, need: Callable[..., str]) -> Path:
    """Give a folder with a CA and a certificate for localhost and 127.0.0.1."""
    tool = need("openssl", "openssl")
    folder = tmp_path / "certificates"
    folder.mkdir()
    # Python 3.13 verifies strictly (RFC 5280): an authority says that it may sign, and a certificate who signed it
    signs = "-addext keyUsage=critical,keyCertSign,cRLSign"
    for command in (
        f"req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=TestCA {signs}",
        "req -newkey rsa:2048 -nodes -keyout broker.key -out broker.csr -subj /CN=localhost",
        "x509 -req -in broker.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out broker.pem -days 2 -extfile san",
        f"req -x509 -newkey rsa:2048 -nodes -keyout other.key -out other.pem -days 2 -subj /CN=OtherCA {signs}",
    ):
        (folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
        subprocess.run([tool, *command.split()], check=True, capture_output=True, cwd=folder)
    return folder


def test_tls_works_and_a_wrong_authority_is_said(make_broker: Callable[[str], Broker], certificates: Path) -> None:
    broker = make_broker(
        f"allow_anonymous true\ncafile {certificates}/ca.pem\ncertfile {certificates}/broker.pem\n"
        f"keyfile {certificates}/broker.key\nrequire_certificate true\n"
    )
    ours = {"cert_file": certificates / "broker.pem", "key_file": certificates / "broker.key"}
    mqtt = Mqtt(host=broker.host, port=broker.port, ca_file=certificates / "ca.pem", **ours)
    assert probe(mqtt, "x", PATIENCE_S) is None
    strange = Mqtt(host=broker.host, port=broker.port, ca_file=certificates / "other.pem", **ours)
    assert "certificate does not verify" in (probe(strange, "x", PATIENCE_S) or "")
    assert probe(Mqtt(host=broker.host, port=broker.port), "x", PATIENCE_S) is not None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"host": ""}, "[mqtt] host"),
        ({"host": "a..b"}, "[mqtt] host"),
        ({"username": "a", "password_file": "/no/such/file"}, "[mqtt] password_file: /no/such/file"),
        ({"password_file": "/etc/hostname"}, "[mqtt] username"),
        ({"ca_file": "/no/such/file"}, "[mqtt] ca_file: /no/such/file"),
        ({"ca_file": "/etc/hostname"}, "[mqtt] ca_file"),
        ({"cert_file": "/no/such/file", "key_file": "/no/such/key"}, "[mqtt] cert_file, key_file: /no/such/file"),
    ],
)
def test_a_setting_that_cannot_be_used_names_its_key(settings: dict[str, str], said: str) -> None:
    mqtt = Mqtt.model_validate(settings)
    with pytest.raises(ConfigError) as e:
        Bus(mqtt, "x", [], health_topic=None, clock=SystemClock())
    assert said in str(e.value)


def test_a_probe_names_what_is_wrong_and_disturbs_nobody(make_bus: Callable[..., Bus], broker: Broker) -> None:
    bus = make_bus("skov/#", client_id="flockwatch-farm1")
    mqtt = Mqtt(host=broker.host, port=broker.port)
    assert probe(mqtt, "flockwatch-farm1", PATIENCE_S) is None
    assert bus.connection == 1
    broker.stop()
    assert "Connection refused" in (probe(mqtt, "x", PATIENCE_S) or "")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        silent = Mqtt(host="127.0.0.1", port=mute.getsockname()[1])
        assert "no answer within 0.3 s" in (probe(silent, "x", 0.3) or "")


def test_a_command_is_asked_and_its_answer_comes_back(make_bus: Callable[..., Bus], broker: Broker) -> None:
    topic = "flockwatch/farm1/house1/flock/command"
    answer_topic = "flockwatch/farm1/house1/flock/response"
    agent = make_bus("flockwatch/+/+/+/command")

    def answer() -> None:
        (command,) = collect(agent, 1)
        agent.publish(answer_topic, b"another's", retain=False)
        agent.publish(answer_topic, b"done: " + command.payload, retain=False)

    helper = threading.Thread(target=answer, daemon=True)
    helper.start()
    mqtt = Mqtt(host=broker.host, port=broker.port)
    said = ask(
        mqtt, "cli", topic, b"place", answer_topic=answer_topic,
        is_answer=lambda payload: payload.startswith(b"done"), timeout_s=PATIENCE_S,
    )  # fmt: skip
    helper.join()
    assert said == b"done: place"
    assert ask(mqtt, "cli", topic, b"x", answer_topic="y", is_answer=bool, timeout_s=0.3) is None
    broker.stop()
    with pytest.raises(BrokerError, match="Connection refused"):
        ask(mqtt, "cli", topic, b"x", answer_topic="y", is_answer=bool, timeout_s=PATIENCE_S)
