"""kill -9, SIGTERM and broken brokers at every step of the agent: nothing lost, nothing doubled, nothing unsaid."""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from agent.clock import SimulatedClock
from agent.domain import to_ms

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Broker, Gateway, Mqtt, Program
    from tests.fault.conftest import Source

SIGKILLED = -9
START = datetime(2026, 1, 1, tzinfo=UTC)
HEALTH = "flockwatch/farm1/health"
STUCK_TOPIC = "flockwatch/farm1/house1/warning/stuck-temperature"
SEVERITY_TOPIC = "flockwatch/farm1/house1/severity"
FLOCK = "flockwatch/farm1/house1/flock"
STUCK_SOON = "[house.signals.temperature]\nstuck_after_s = 60\n"
PLACE = {"action": "place", "flock": "A1", "placed_on": "2025-12-20", "birds_placed": 30_000}


# --- readings ---------------------------------------------------------------------------------------------------------


def test_sigterm_finishes_the_turn_and_exits_0(
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    mqtt: Callable[..., Mqtt],
    until: Callable[..., None],
    start_source: type[Source],
    all_arrives: Callable[..., None],
) -> None:
    """In the middle of a stream; what came meanwhile is there after the next start, and both say goodbye."""
    gateway = make_gateway(broker.port, houses=("house1", "house2"))
    ear = mqtt(HEALTH)
    agent = gateway.agent()
    source = start_source(gateway, broker.port, {"count": 3_000})
    until(lambda: gateway.count("readings") > 500, "readings come in")
    assert agent.stop() == 0
    ear.hear_json(HEALTH, is_wanted=lambda value: value["state"] == "offline")
    assert gateway.health()["state"] == "stopped"
    agent = gateway.agent()
    source.wait()
    all_arrives(gateway, source)
    assert agent.stop() == 0


def test_a_second_signal_leaves_at_once(
    broker: Broker, make_gateway: Callable[..., Gateway], until: Callable[..., None]
) -> None:
    """The broker hangs, so the goodbye takes seconds; who asks twice need not wait for them."""
    gateway = make_gateway(broker.port)
    agent = gateway.agent()
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        agent.signal(signal.SIGTERM)
        until(lambda: gateway.health().get("state") == "stopped", "the first signal is taken")
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 128 + signal.SIGTERM
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    gateway.agent()  # and the next start finds all in order


def test_the_last_will_says_offline_after_kill_9(
    broker: Broker, make_gateway: Callable[..., Gateway], mqtt: Callable[..., Mqtt]
) -> None:
    gateway = make_gateway(broker.port)
    ear = mqtt(HEALTH)
    agent = gateway.agent()
    ear.hear_json(HEALTH, is_wanted=lambda value: value["state"] == "online")
    agent.kill()
    ear.hear_json(HEALTH, is_wanted=lambda value: value == {"state": "offline"})
    late = mqtt(HEALTH)
    assert json.loads(late.hear(lambda message: message.retain, "the retained health").payload) == {"state": "offline"}


# --- the crash points of one turn -------------------------------------------------------------------------------------

DRIVER = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from agent import bus, daemon, store
    from agent.clock import SimulatedClock, SystemClock
    from agent.config import load_config
    from agent.domain import WarningState
    from agent.logs import log_to_stderr

    def dies(owner, name, when):
        real = getattr(owner, name)
        def call(self, *args, **kwargs):
            if when(self, *args, **kwargs):
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, *args, **kwargs)
        setattr(owner, name, call)

    point = sys.argv[2]
    if point == "after receive, before commit":
        dies(store.Store, "append", lambda self, readings, **_: len(readings) > 0)
    elif point == "after commit, before ack":
        dies(bus.Bus, "acknowledge", lambda self, messages: len(messages) > 0)
    elif point == "after ack":
        dies(daemon.Agent, "_judge", lambda self: self.store.counters.appended > 0)
    elif point == "after record, before publish":
        dies(daemon.Agent, "_publish", lambda self: any(watch.severity() for watch in self.watches))
    else:
        sys.exit(point)

    log_to_stderr()
    clock = SimulatedClock.parse(sys.argv[3]) if len(sys.argv) > 3 else SystemClock()
    daemon.run(load_config(Path(sys.argv[1])), clock)
    """
)


def dying_agent(gateway: Gateway, point: str, *clock: str) -> Program:
    """Start an agent that kills itself at one point of its turn."""
    return gateway.launch([sys.executable, "-c", DRIVER, str(gateway.config), point, *clock], "dying")


@pytest.mark.parametrize("point", ["after receive, before commit", "after commit, before ack", "after ack"])
def test_readings_survive_a_kill_at_each_point_of_a_turn(
    point: str,
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    mqtt: Callable[..., Mqtt],
    until: Callable[..., None],
) -> None:
    """With stamps of their own and without: what the broker sends again falls out, and nothing else does."""
    gateway = make_gateway(broker.port)
    assert gateway.agent().stop() == 0  # from now on the broker keeps what comes
    now_ms = int(time.time() * 1000)
    stamped: list[tuple[str, object]] = [
        ("skov/farm1/house1/ammonia", {"value": i, "at": now_ms + i}) for i in range(60)
    ]
    bare: list[tuple[str, object]] = [("skov/farm1/house1/humidity", 20 + i) for i in range(60)]
    mqtt().say_all([message for pair in zip(stamped, bare, strict=True) for message in pair])
    dying = dying_agent(gateway, point)
    assert dying.wait() == SIGKILLED, dying.said()
    agent = gateway.agent()
    mqtt().say("skov/farm1/house1/co2", 800)
    until(lambda: any(row["signal"] == "co2" for row in gateway.rows("readings")), "the message after the crash")
    assert agent.stop() == 0
    values: dict[str, list[float]] = {}
    for row in gateway.rows("readings"):
        values.setdefault(row["signal"], []).append(row["value"])
    assert values == {"ammonia": [*range(60)], "humidity": [*range(20, 80)], "co2": [800]}


def test_windows_are_rebuilt_of_readings_that_were_acknowledged_and_not_yet_seen_by_a_model(
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    make_bundle: Callable[[], Path],
    mqtt: Callable[..., Mqtt],
    until: Callable[..., None],
) -> None:
    """Killed after the ack: the broker has forgotten them, so the model sees them from the store or never."""
    gateway = make_gateway(broker.port, models=f'directory = "{make_bundle().parents[1]}"\nuse = ["weight"]')
    clock = SimulatedClock(START, time.time() - 6, 3_600.0)  # it is six o'clock, and an hour passes in a second
    flags = ("--simulated-clock", str(clock))
    agent = gateway.agent(*flags)
    mouth = mqtt()
    mouth.say(f"{FLOCK}/command", {"id": "p", **PLACE})
    until(lambda: gateway.count("flocks") == 1, "the flock is placed")
    assert agent.stop() == 0
    litres = range(1, 61)
    mouth.say_all([("skov/farm1/house1/water", {"value": i, "at": to_ms(START) + 60_000 * i}) for i in litres])
    dying = dying_agent(gateway, "after ack", str(clock))
    assert dying.wait() == SIGKILLED, dying.said()
    assert gateway.count("readings") == len(litres)
    ear = mqtt("flockwatch/farm1/house1/prediction/weight_g")
    gateway.agent(*flags)
    said = ear.hear_json("flockwatch/farm1/house1/prediction/weight_g")
    assert said["horizons"][0]["p50"] > 0  # this model's "weight" is the water of three days: nothing, had it seen none


# --- warnings and commands --------------------------------------------------------------------------------------------


def stuck_sensor(clock: SimulatedClock, minutes: int = 60, value: float = 21.5) -> list[tuple[str, object]]:
    """Return an hour of a sensor that always says the same, from the start of the clock on."""
    return [
        ("skov/farm1/house1/temperature", {"value": value, "at": to_ms(clock.start) + 60_000 * i})
        for i in range(minutes)
    ]


def test_a_standing_alert_is_published_again_after_kill_9(
    broker: Broker, make_gateway: Callable[..., Gateway], mqtt: Callable[..., Mqtt]
) -> None:
    """Also where the broker forgot it meanwhile; and it is cleared by whoever lives then."""
    gateway = make_gateway(broker.port, settings=STUCK_SOON)
    clock = SimulatedClock(START, time.time(), 600.0)  # ten minutes, a step of the grid, are a second
    ear, severity, mouth = mqtt(STUCK_TOPIC), mqtt(SEVERITY_TOPIC), mqtt()
    agent = gateway.agent("--simulated-clock", str(clock))
    mouth.say(f"{FLOCK}/command", {"id": "place", **PLACE})
    mouth.say_all(stuck_sensor(clock))
    before = ear.hear_json(STUCK_TOPIC)
    assert (before["state"], before["house"], before["flock"]) == ("active", "house1", "A1")
    severity.hear(lambda message: message.payload == b"1", "the severity")
    agent.kill()
    for topic, listener in ((STUCK_TOPIC, ear), (SEVERITY_TOPIC, severity)):
        mouth.say(topic, b"", retain=True)
        listener.hear(lambda message: not message.payload, "the topic is empty")
    gateway.agent("--simulated-clock", str(clock))
    after = ear.hear_json(STUCK_TOPIC)
    same = ("id", "rule", "state", "severity", "since", "raised_at", "flock", "actual")
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    severity.hear(lambda message: message.payload == b"1", "the severity")

    now_ms = to_ms(clock.now())
    lively: list[tuple[str, object]] = [
        ("skov/farm1/house1/temperature", {"value": 21.5 + i % 7 / 10, "at": now_ms + 60_000 * i}) for i in range(60)
    ]
    mouth.say_all(lively)
    assert ear.hear_json(STUCK_TOPIC, is_wanted=lambda v: v["state"] != "active")["state"] == "normal"
    ear.hear(lambda message: not message.payload, "the topic is empty")


def test_a_kill_between_record_and_publish_leaves_no_alert_unsaid(
    broker: Broker, make_gateway: Callable[..., Gateway], mqtt: Callable[..., Mqtt], until: Callable[..., None]
) -> None:
    gateway = make_gateway(broker.port, settings=STUCK_SOON)
    clock = SimulatedClock(START, time.time(), 600.0)
    ear, mouth = mqtt("flockwatch/+/+/warning/#"), mqtt()
    dying = dying_agent(gateway, "after record, before publish", str(clock))
    until(gateway.connects, "the agent has its broker")
    mouth.say(f"{FLOCK}/command", {"id": "place", **PLACE})
    mouth.say_all(stuck_sensor(clock))
    assert dying.wait() == SIGKILLED, dying.said()
    assert ear.heard.empty()
    raised = [row for row in gateway.rows("warnings") if row["state"] == "active"]
    assert [row["rule"] for row in raised] == ["stuck-temperature"]
    gateway.agent("--simulated-clock", str(clock))
    assert ear.hear_json(STUCK_TOPIC)["id"] == raised[0]["id"]


def test_a_command_with_the_same_id_is_done_once_and_its_answer_repeated(
    broker: Broker, make_gateway: Callable[..., Gateway], mqtt: Callable[..., Mqtt]
) -> None:
    """Sent again at once, with other words under the same id, and after kill -9 to the next agent."""
    gateway = make_gateway(broker.port)
    desk = mqtt(f"{FLOCK}/response")
    agent = gateway.agent()
    today = datetime.now(UTC).date().isoformat()
    placed = {"id": "p-1", "action": "place", "flock": "A1", "placed_on": today, "birds_placed": 30_000}

    def ask(command: dict[str, Any]) -> dict[str, Any]:
        desk.say(f"{FLOCK}/command", command)
        return desk.hear_json(f"{FLOCK}/response", is_wanted=lambda answer: answer["id"] == command["id"])

    first = ask(placed)
    assert first == {
        "id": "p-1", "ok": True, "done": "place", "state": "active", "flock": "A1", "day_number": 0,
        "birds_placed": 30_000,
    }  # fmt: skip
    assert ask(placed) == first
    assert ask({**placed, "birds_placed": 10}) == first
    refused = ask({"id": "t-1", "action": "thin", "birds": 40_000})
    assert refused["ok"] is False
    assert "30000 were placed" in refused["error"]
    agent.kill()
    gateway.agent()
    assert ask(placed) == first
    assert ask({"id": "t-1", "action": "thin", "birds": 5}) == refused
    assert ask({"id": "t-2", "action": "thin", "birds": 5})["ok"] is True
    assert [(row["action"], row["birds_placed"]) for row in gateway.rows("flocks")] == [
        ("place", 30_000),
        ("thin", 30_000),
    ]


def test_a_command_without_id_that_repeats_the_last_one_is_done_once(
    broker: Broker, make_gateway: Callable[..., Gateway], mqtt: Callable[..., Mqtt]
) -> None:
    gateway = make_gateway(broker.port)
    desk = mqtt(f"{FLOCK}/response")
    gateway.agent()
    desk.say(f"{FLOCK}/command", {"action": "place", "flock": "A1", "birds_placed": 30_000})
    for _ in range(3):
        desk.say(f"{FLOCK}/command", {"action": "thin", "birds": 5})
    answers = [desk.hear_json(f"{FLOCK}/response")["done"] for _ in range(4)]
    assert answers == ["place", "thin", "thin", "thin"]
    assert [row["thinned_birds"] for row in gateway.rows("flocks") if row["action"] == "thin"] == [5]


def test_a_command_that_was_not_acknowledged_is_obeyed_by_the_next_agent_once(
    broker: Broker, make_gateway: Callable[..., Gateway], mqtt: Callable[..., Mqtt]
) -> None:
    """Killed after the command was recorded and before it was acknowledged: it comes again, and is not done again."""
    gateway = make_gateway(broker.port)
    assert gateway.agent().stop() == 0
    desk = mqtt(f"{FLOCK}/response")
    desk.say(f"{FLOCK}/command", {"id": "p-1", "action": "place", "flock": "A1", "birds_placed": 30_000})
    dying = dying_agent(gateway, "after commit, before ack")
    assert dying.wait() == SIGKILLED, dying.said()
    assert desk.heard.empty()
    assert gateway.count("flocks") == 1
    gateway.agent()
    assert desk.hear_json(f"{FLOCK}/response")["ok"] is True
    assert gateway.count("flocks") == 1
