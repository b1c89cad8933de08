"""Whatever becomes of the broker or the way to it: the agent says so and goes on; what the broker kept arrives once."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.clock import SimulatedClock
from agent.domain import to_ms

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Broker, Gateway, Mqtt, Program
    from tests.fault.conftest import Link, Source

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUSES = ("house1", "house2")
SEVERITY_TOPIC = "flockwatch/farm1/house1/severity"
MINUTE_MS = 60_000
IMPATIENT = """
import sys
from agent import bus, cli
bus.KEEP_ALIVE_S = 2
sys.exit(cli.main(sys.argv[1:]))
"""


def impatient_agent(gateway: Gateway, until: Callable[..., None]) -> Program:
    """Start an agent that waits 2 s where others wait 30, and return when it hears its broker."""
    agent = gateway.launch([sys.executable, "-c", IMPATIENT, "agent", "--config", str(gateway.config)], "agent")
    until(lambda: gateway.connects() > 0, "the agent has its broker")
    return agent


# --- the broker -------------------------------------------------------------------------------------------------------


def test_a_broker_restarted_in_the_middle_loses_and_doubles_nothing(
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    until: Callable[..., None],
    start_source: type[Source],
    all_arrives: Callable[..., None],
) -> None:
    gateway = make_gateway(broker.port, houses=HOUSES)
    agent = gateway.agent()
    source = start_source(gateway, broker.port, {"count": 3_000})
    until(lambda: gateway.count("readings") > 500, "readings come in")
    broker.stop()
    broker.start()
    source.wait()
    all_arrives(gateway, source)
    assert agent.stop() == 0
    assert gateway.connects() == 2
    assert gateway.health()["broker"]["lost_sessions"] == 0


@pytest.mark.parametrize("what", ["killed, and its file lost", "replaced by another"])
def test_a_broker_without_memory_is_told_of_and_gets_all_that_stands(
    what: str,
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    mqtt: Callable[..., Mqtt],
    until: Callable[..., None],
    start_source: type[Source],
    all_arrives: Callable[..., None],
    tmp_path: Path,
) -> None:
    gateway = make_gateway(broker.port, houses=HOUSES)
    agent = gateway.agent()
    mqtt(SEVERITY_TOPIC).hear(lambda message: message.payload == b"0", "the severity")
    broker.kill()
    other = broker
    if what == "replaced by another":
        (tmp_path / "other").mkdir()
        other = type(broker)(tmp_path / "other")
        other.port = broker.port
    else:
        broker.forget()
    other.start()
    try:
        until(lambda: gateway.connects() == 2, "the agent is back")
        mqtt(SEVERITY_TOPIC).hear(lambda message: message.payload == b"0", "the severity at the new broker")
        source = start_source(gateway, other.port, {"count": 500})
        source.wait()
        all_arrives(gateway, source)
        assert agent.stop() == 0
    finally:
        other.kill()
    assert gateway.health()["broker"]["lost_sessions"] == 1
    assert [row["kind"] for row in gateway.rows("events")].count("session_lost") == 1


def test_what_a_broker_lost_while_the_agent_was_away_is_recorded_as_a_lost_session_and_a_gap(
    broker: Broker, make_gateway: Callable[..., Gateway], mqtt: Callable[..., Mqtt], until: Callable[..., None]
) -> None:
    """The readings are gone, as the broker had promised them to us alone; not gone is that they are missing."""
    gateway = make_gateway(broker.port)
    clock = SimulatedClock(
        START, time.time() - 12, 600.0
    )  # it is two o'clock, and a minute passes in a tenth of a second
    flags = ("--simulated-clock", str(clock))
    agent = gateway.agent(*flags)
    first_ms = to_ms(START)

    def say(minutes: range) -> None:
        """One reading a minute, all sent now."""
        mqtt().say_all(
            [
                ("skov/farm1/house1/humidity", {"value": 60 + minute % 7, "at": first_ms + minute * MINUTE_MS})
                for minute in minutes
            ]
        )

    say(range(20))
    until(lambda: gateway.count("readings") == 20, "the readings of the first 20 minutes")
    judged = gateway.health()["instants_judged"]
    until(lambda: gateway.health()["instants_judged"] > judged, "the rhythm of the sensor is recorded")
    assert agent.stop() == 0
    say(range(20, 40))
    broker.kill()
    broker.forget()
    broker.start()
    agent = gateway.agent(*flags)
    say(range(40, 60))
    until(lambda: gateway.count("readings") == 40, "the readings of the last 20 minutes")
    assert agent.stop() == 0
    assert gateway.health()["broker"]["lost_sessions"] == 1
    events = gateway.rows("events")
    assert [row["kind"] for row in events].count("session_lost") == 1
    gaps = [
        ((row["from_at"] - first_ms) / MINUTE_MS, (row["to_at"] - first_ms) / MINUTE_MS)
        for row in events
        if row["kind"] == "quality" and json.loads(row["detail"])["quality"] == "stale"
    ]
    assert gaps == [(19, 40)]


def test_a_broker_that_pauses_again_and_again_slows_us_down_and_no_more(
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    start_source: type[Source],
    all_arrives: Callable[..., None],
) -> None:
    gateway = make_gateway(broker.port, houses=HOUSES)
    agent = gateway.agent()
    source = start_source(gateway, broker.port, {"count": 6_000})
    for _ in range(4):
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            time.sleep(1.0)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        time.sleep(0.3)
    source.wait()
    all_arrives(gateway, source)
    assert gateway.connects() == 1
    assert agent.stop() == 0


# --- a rival for our name ---------------------------------------------------------------------------------------------


def test_a_rival_with_our_client_id_is_named_and_not_fought_in_a_tight_loop(
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    until: Callable[..., None],
    start_source: type[Source],
    all_arrives: Callable[..., None],
) -> None:
    """The rival comes back a second after each time that we took our name back; we wait longer each time."""
    gateway = make_gateway(broker.port, houses=HOUSES)
    agent = gateway.agent()
    began = time.monotonic()
    rival = paho.Client(CallbackAPIVersion.VERSION2, client_id="flockwatch-farm1", protocol=MQTTProtocolVersion.MQTTv5)
    rival.reconnect_delay_set(1, 1)
    rival.connect("127.0.0.1", broker.port, clean_start=False)
    rival.loop_start()
    try:
        until(lambda: "If another client uses our client id 'flockwatch-farm1'" in agent.said(), "the third fight")
    finally:
        rival.disconnect()
        rival.loop_stop()
    until(lambda: gateway.connects() == 4, "the agent is back")
    assert time.monotonic() - began > 1 + 2 + 4  # each time it waited longer
    source = start_source(gateway, broker.port, {"count": 200})
    source.wait()
    all_arrives(gateway, source)
    until(lambda: gateway.health()["broker"]["connects"] == 4, "the health of the fourth connection")
    health = gateway.health()
    assert health["broker"]["connected"]
    assert "client id" in health["broker"]["last_error"]
    assert "[mqtt] client_id" in health["degraded"]["broker"]  # still told: the rival may be back at any moment
    assert agent.stop() == 0


# --- the way to the broker --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stalled", "stalled for new connections too", "half open"])
def test_a_link_that_swallows_everything_is_left_and_nothing_is_lost(
    how: str,
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    make_link: Callable[[int], Link],
    until: Callable[..., None],
    start_source: type[Source],
    all_arrives: Callable[..., None],
) -> None:
    """No end of it is closed towards us, so only the keep-alive can tell: twice 30 s, here twice 2 s."""
    link = make_link(broker.port)
    gateway = make_gateway(link.port, houses=HOUSES)
    agent = impatient_agent(gateway, until)
    source = start_source(gateway, broker.port, {})
    until(lambda: gateway.count("readings") > 500, "readings come in")
    if how == "half open":
        link.half_open()
    else:
        link.is_mute = how == "stalled for new connections too"
        link.stall()
    began = time.monotonic()
    if link.is_mute:
        until(lambda: link.accepted == 2, "the agent tries anew")
        link.is_mute = False
        began = time.monotonic()
    until(lambda: gateway.connects() == 2, "the agent has left the dead link")
    assert time.monotonic() - began < 8
    source.stop()
    all_arrives(gateway, source)
    assert agent.stop() == 0
    assert "Keep alive timeout" in agent.said()
