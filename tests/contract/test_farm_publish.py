"""The simulated farm over a real broker: every reading once, flocks told until answered, paced by the clock."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.clock import SimulatedClock
from agent.commands import Place, Record, parse_flock_command
from agent.domain import to_ms
from agent.errors import BrokerError
from models_onnx.farm import publish as publish_module
from models_onnx.farm.farm import Farm, Told
from models_onnx.farm.publish import Address, Dialect, Publisher, publish
from models_onnx.farm.sensors import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Broker

START = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE_S = 20.0
FAST = 1e9  # times real time: nothing waits


class Listener:
    """A client that keeps what it hears, and answers flock commands when told to."""

    def __init__(self, broker: Broker) -> None:
        self.messages: queue.SimpleQueue[MQTTMessage] = queue.SimpleQueue()
        self.answers = True
        self._ready = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2, "listener", protocol=MQTTProtocolVersion.MQTTv5)
        self.client.on_message = self._on_message
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.on_connect = self._on_connect
        self.client.reconnect_delay_set(1, 1)
        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho has not typed it
        # kept by the broker while it restarts, so that nothing passes us by; mosquitto forgets one begun clean
        session.SessionExpiryInterval = 3600
        self.client.connect(broker.host, broker.port, clean_start=False, properties=session)
        self.client.loop_start()
        assert self._ready.wait(PATIENCE_S)

    def _on_connect(self, client: Client, *_: object) -> None:
        client.subscribe([("skov/#", 1), ("flockwatch/+/+/flock/+", 1)])

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        self.messages.put(message)
        if self.answers and message.topic.endswith("/command"):
            self.answer(message)

    def answer(self, command: MQTTMessage) -> None:
        """Answer a flock command as the agent does."""
        payload = json.dumps({"id": json.loads(command.payload)["id"], "ok": True})
        self.client.publish(command.topic.replace("command", "response"), payload, qos=1)

    def next(self, is_wanted: Callable[[MQTTMessage], bool] = lambda _: True) -> MQTTMessage:
        """Return the next message that is wanted."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            message = self.messages.get(timeout=max(deadline - time.monotonic(), 0.001))
            if is_wanted(message):
                return message

    def drain(self) -> list[MQTTMessage]:
        """Return everything heard by now."""
        return [self.messages.get() for _ in range(self.messages.qsize())]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def listener(broker: Broker) -> Iterator[Listener]:
    """Give a listener on the running broker."""
    listener = Listener(broker)
    yield listener
    listener.close()


def run(
    broker: Broker,
    *,
    clock: SimulatedClock | None = None,
    stop: threading.Event | None = None,
    days: int = 1,
    past_days: int = 0,
    dialect: Dialect = "flat",
) -> int:
    """Publish a small farm; returns the number of messages."""
    return publish(
        Farm(2, 1, START, ages=[10, 12], gaps=False),
        Address(broker.host, broker.port, dialect=dialect),
        houses=["house1", "house2"],
        clock=clock or SimulatedClock(START, time.time(), FAST),
        days=days,
        past_days=past_days,
        interval_s=3600,
        stop=stop or threading.Event(),
    )


def is_reading(message: MQTTMessage) -> bool:
    return message.topic.startswith("skov/")


def body_of(message: MQTTMessage) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(message.payload)
    return body


def placement_of(house: str) -> Callable[[MQTTMessage], bool]:
    def is_placement(message: MQTTMessage) -> bool:
        return message.topic == f"flockwatch/farm1/{house}/flock/command" and body_of(message)["action"] == "place"

    return is_placement


def test_every_reading_arrives_once_in_order_and_is_not_retained(broker: Broker, listener: Listener) -> None:
    run(broker)
    readings = [listener.next(is_reading) for _ in range(2 * 25)]
    for house in ("house1", "house2"):
        bodies = [body_of(message) for message in readings if message.topic == f"skov/farm1/{house}"]
        assert [body["ts"] for body in bodies] == [to_ms(START) + n * 3_600_000 for n in range(25)]
        assert all(set(body) - {"ts"} <= set(SIGNALS) - {"dead"} for body in bodies)
        assert all({"temperature", "water", "feed", "weight"} <= set(body) for body in bodies)
    assert all(message.qos == 1 and not message.retain for message in readings)
    assert not [message for message in listener.drain() if is_reading(message)]


def test_in_the_value_dialect_each_signal_has_its_topic(broker: Broker, listener: Listener) -> None:
    run(broker, dialect="value")
    message = listener.next(lambda m: m.topic == "skov/farm1/house2/temperature")
    body = body_of(message)
    assert set(body) == {"value", "ts"}
    assert 15 < body["value"] < 35


def test_flocks_are_told_in_commands_that_the_agent_reads(broker: Broker, listener: Listener) -> None:
    """The dead of each day by `record`, also those of the days before; no `dead` readings."""
    run(broker)
    rounds = 10 + 12  # one a day since each flock came, the last of them today
    heard = [listener.next(lambda message: message.topic.endswith("/command")) for _ in range(2 + rounds)]
    commands = [parse_flock_command(bytes(message.payload)) for message in heard]
    assert sum(isinstance(command, Place) for command in commands) == 2
    assert sum(isinstance(command, Record) for command in commands) == rounds
    assert all(command.id for command in commands)
    assert len({command.id for command in commands}) == len(commands)


def test_a_placement_is_repeated_until_it_is_answered_and_readings_flow_meanwhile(
    broker: Broker, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_module, "REPEAT_S", 0.3)
    listener.answers = False
    stop = threading.Event()
    clock = SimulatedClock(START, time.time(), 36_000)  # ten hours a second
    runner = threading.Thread(target=run, args=(broker,), kwargs={"clock": clock, "stop": stop, "days": 300})
    runner.start()
    try:
        is_placement = placement_of("house1")
        first = listener.next(is_placement)
        assert listener.next(is_placement).payload == first.payload
        listener.next(is_reading)
        assert listener.next(is_placement).payload == first.payload
        listener.answer(first)
        listener.next(lambda message: message.topic.endswith("house1/flock/response"))
        listener.drain()
        heard = [listener.next(lambda message: message.topic.endswith("/command")) for _ in range(40)]
        assert not [message for message in heard if message.payload == first.payload]
    finally:
        stop.set()
        runner.join(PATIENCE_S)
    assert not runner.is_alive()


def test_the_past_goes_out_before_the_epoch_and_the_present_waits_for_it(broker: Broker, listener: Listener) -> None:
    stop = threading.Event()
    clock = SimulatedClock(START, time.time() + 3600, 1000)
    runner = threading.Thread(target=run, args=(broker,), kwargs={"clock": clock, "stop": stop, "past_days": 2})
    runner.start()
    try:
        past = [body_of(listener.next(is_reading))["ts"] for _ in range(2 * 2 * 24)]
        assert past[0] == to_ms(START) - 2 * 86_400_000
        assert past[-1] == to_ms(START) - 3_600_000
    finally:
        stop.set()
        runner.join(PATIENCE_S)
    assert not runner.is_alive()
    assert not [message for message in listener.drain() if is_reading(message)]


def test_a_broker_that_restarts_is_found_again_and_nothing_is_left_out(
    broker: Broker, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least once: what was under way when the broker died is sent again."""
    monkeypatch.setattr(publish_module, "IN_FLIGHT", 20)
    stop = threading.Event()
    clock = SimulatedClock(START, time.time(), 3600 * 50)  # fifty samples a second
    runner = threading.Thread(target=run, args=(broker,), kwargs={"clock": clock, "stop": stop, "days": 30})
    runner.start()
    try:
        listener.next(is_reading)
        broker.stop()
        broker.start()
        seen: set[int] = set()
        wanted = time.time() + 1.0  # a second after the restart
        while max(seen, default=0) < to_ms(clock.start) + (wanted - clock.real_epoch) * clock.speed * 1000:
            seen.add(body_of(listener.next(lambda m: m.topic == "skov/farm1/house1"))["ts"])
        assert {later - earlier for earlier, later in pairwise(sorted(seen))} == {3_600_000}
        assert min(seen) <= to_ms(START) + 3_600_000
    finally:
        stop.set()
        runner.join(PATIENCE_S)
    assert not runner.is_alive()


def test_no_broker_is_one_clear_message(broker: Broker) -> None:
    broker.stop()
    with pytest.raises(
        BrokerError, match=f"no MQTT broker answers at 127.0.0.1:{broker.port}.*give another --mqtt"
    ) as e:
        run(broker)
    assert e.value.exit_code == 1


def test_a_broker_that_wants_nobody_is_said(make_broker: Callable[[str], Broker]) -> None:
    strict = make_broker("allow_anonymous false\n")
    with pytest.raises(BrokerError, match="did not accept us: Not authorized"):
        run(strict)


def test_commands_that_nobody_answers_do_not_pile_up(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Placements are never given up."""
    monkeypatch.setattr(publish_module, "REPEAT_MOST", 5)
    with Publisher(Address(broker.host, broker.port), ["house1"], threading.Event()) as publisher:
        publisher.tell([Told(0, 0, {"action": "place", "flock": "a"})])
        for day in range(20):
            publisher.tell([Told(day, 0, {"action": "record", "dead": day})])
        assert publisher.unanswered == 6


def test_the_verb_ends_clean_when_it_is_told_to(broker: Broker, listener: Listener) -> None:
    """SIGTERM and Ctrl-C: the last messages are acknowledged, the exit code is 0."""
    program = (
        "import argparse, sys; from models_onnx.farm.cli import add_simulate; p = argparse.ArgumentParser();"
        "add_simulate(p.add_subparsers()); a = p.parse_args(); sys.exit(a.run(a))"
    )
    args = ["--houses", "1", "--days", "9", "--seed", "1", "--mqtt", f"{broker.host}:{broker.port}", "--speed", "3600"]
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            [sys.executable, "-c", program, "simulate", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        listener.next(placement_of("house1"))  # the day-old come at once, not at the next noon
        listener.next(is_reading)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, err
        assert SimulatedClock.parse(out.splitlines()[0].removeprefix("--simulated-clock ")).speed == 3600
        assert "Traceback" not in err
        listener.drain()
