"""From MQTT to the commit, windows included: CPU, disk and memory, beside a client that only acknowledges."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.clock import SimulatedClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.conftest import Cost, Table
    from tests.conftest import Broker, Gateway, Program

pytestmark = pytest.mark.bench

HOUSE_COMPUTER = Path(__file__).parents[1] / "fault" / "house_computer.py"
SHIPPED = ""  # no [models] of our own: both shipped bundles
NO_OP = textwrap.dedent(
    """
    import sys, paho.mqtt.client as paho
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
    left = int(sys.argv[2])
    def on_message(client, _userdata, message):
        global left
        client.ack(message.mid, message.qos)
        left -= 1
        if left == 0:
            print("done", flush=True)
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="no-op", protocol=paho.MQTTv5, manual_ack=True)
    client.on_message = on_message
    client.on_connect = lambda client, *_: client.subscribe("skov/#", qos=1)
    client.on_subscribe = lambda *_: print("ready", flush=True)
    properties = Properties(PacketTypes.CONNECT)
    properties.ReceiveMaximum = 2000
    properties.SessionExpiryInterval = 3600
    client.connect("127.0.0.1", int(sys.argv[1]), clean_start=False, properties=properties)
    client.loop_forever()
    """
)


@dataclass(frozen=True, slots=True)
class Used:
    """What the agent and the floor used for the same messages."""

    ours: Cost
    theirs: Cost
    memory_mb: float  # of the agent, at the end


@dataclass(frozen=True, slots=True)
class Bench:
    """An agent, its floor, and a house computer at one broker."""

    broker: Broker
    make_gateway: Callable[..., Gateway]
    until: Callable[..., None]
    cost: Callable[[int], Cost]
    pss_mb: Callable[[int], float]

    def gateway(self, houses: int, settings: str = "") -> Gateway:
        """Make an installation of so many houses, with both shipped bundles and further lines of agent.toml."""
        names = tuple(f"house{i + 1}" for i in range(houses))
        return self.make_gateway(self.broker.port, houses=names, models=SHIPPED, settings=settings)

    def floor(self, gateway: Gateway, messages: int) -> Program:
        """Start a client that acknowledges in its callback, does nothing else, and says "done" after ``messages``."""
        floor = gateway.launch([sys.executable, "-c", NO_OP, str(self.broker.port), str(messages)], "no-op")
        self.until(lambda: "ready" in floor.said(), "the floor's client has subscribed")
        return floor

    def send(self, gateway: Gateway, **orders: object) -> Program:
        """Start a house computer; see its ``Orders``."""
        said = json.dumps({"port": self.broker.port, "first_ms": int(time.time() * 1000), **orders})
        return gateway.launch([sys.executable, str(HOUSE_COMPUTER), said], "house-computer")

    def ingest(self, houses: int, signals: int, *, messages: int, rate: int, flat: bool) -> Used:
        """Let the agent and the floor take ``messages`` at ``rate`` a second; return what each used."""
        gateway = self.gateway(houses)
        readings = messages * (signals if flat else 1)
        agent, floor = gateway.agent(), self.floor(gateway, messages)
        before = self.cost(agent.pid), self.cost(floor.pid)
        step_ms = 1_000 * houses // rate if flat else 1
        orders = {"houses": houses, "signals": signals, "flat": flat, "rate": rate, "step_ms": step_ms}
        publisher = self.send(gateway, count=messages, **orders)
        self.until(lambda: gateway.count("readings") >= readings, "all readings are in house.db", 300)
        self.until(lambda: "done" in floor.said(), "the floor has them all", 60)
        assert publisher.wait(60) == 0, publisher.said()
        used = Used(self.cost(agent.pid) - before[0], self.cost(floor.pid) - before[1], self.pss_mb(agent.pid))
        assert agent.stop() == 0
        floor.kill()
        return used


@pytest.fixture
def bench(
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    until: Callable[..., None],
    cost: Callable[[int], Cost],
    pss_mb: Callable[[int], float],
) -> Bench:
    """Give what all of these need."""
    return Bench(broker, make_gateway, until, cost, pss_mb)


def test_single_values(bench: Bench, table: Table) -> None:
    n = 30_000
    used = bench.ingest(houses=2, signals=5, messages=n, rate=1_000, flat=False)
    floor_us = used.theirs.cpu_s / n * 1e6
    what = "CPU a reading, single values, 1,000/s"
    table.add(what, used.ours.cpu_s / n * 1e6, "us", goal=1.5, floor=floor_us, in_floors=True)
    table.add("bytes to disk a reading, single values, 1,000/s", used.ours.written / n, "B", goal=100)


def test_single_values_at_leisure(bench: Bench, table: Table) -> None:
    n = 3_600
    used = bench.ingest(houses=1, signals=60, messages=n, rate=60, flat=False)
    table.add("bytes to disk a reading, single values, 60/s", used.ours.written / n, "B", goal=250)
    floor_us = used.theirs.cpu_s / n * 1e6
    table.note("CPU a reading, single values, 60/s", f"{used.ours.cpu_s / n * 1e6:.0f} us", f"{floor_us:.0f} us")


def test_flat_messages_of_sixty(bench: Bench, table: Table) -> None:
    """Twenty houses of sixty signals each second."""
    n = 2_400
    used = bench.ingest(houses=20, signals=60, messages=n, rate=20, flat=True)
    us, floor_us = (cost.cpu_s / n / 60 * 1e6 for cost in (used.ours, used.theirs))
    table.add("CPU a reading, flat messages of 60, 20 houses at 1/s", us, "us", goal=8, floor=floor_us)
    table.add("bytes to disk a reading, the same", used.ours.written / n / 60, "B", goal=100)
    table.note("PSS after two minutes of it", f"{used.memory_mb:.1f} MB")


def test_flat_messages_of_sixty_at_speed(bench: Bench, table: Table) -> None:
    """The same farm's backlog, or 500 messages a second: what a reading costs where a turn has many of them."""
    n = 15_000
    used = bench.ingest(houses=20, signals=60, messages=n, rate=500, flat=True)
    us, floor_us = (cost.cpu_s / n / 60 * 1e6 for cost in (used.ours, used.theirs))
    table.add("CPU a reading, flat messages of 60, 500/s", us, "us", goal=8, floor=floor_us)


def test_a_wide_site(bench: Bench, table: Table) -> None:
    """Fifty houses of a hundred signals, each second."""
    seconds = 60
    used = bench.ingest(houses=50, signals=100, messages=50 * seconds, rate=50, flat=True)
    what = "50 houses x 100 signals at 1/s"
    table.note(f"{what}: CPU a reading", f"{used.ours.cpu_s / seconds / 5_000 * 1e6:.1f} us")
    table.note(f"{what}: share of one core", f"{used.ours.cpu_s / seconds:.1%}")
    table.note(f"{what}: PSS", f"{used.memory_mb:.1f} MB")


def test_memory_over_a_day(bench: Bench, table: Table) -> None:
    """Twenty houses of sixty signals each second, sixty times as fast as on a farm, with sync beside the agent.

    BENCH_HOURS (1) are simulated; the whole day that the goal speaks of takes 24 minutes.
    """
    hours, speed = float(os.environ.get("BENCH_HOURS", "1")), 60
    gateway = bench.gateway(20, settings="[store]\ncommit_interval_s = 0.05\n")  # 3 s of the farm
    start = datetime(2026, 11, 1, tzinfo=UTC)
    epoch = time.time() + 5
    clock = ("--simulated-clock", str(SimulatedClock(start, epoch, speed)))
    agent, sync = gateway.agent(*clock), gateway.start("sync", *clock)
    time.sleep(max(0.0, epoch - time.time()))
    orders = {"houses": 20, "signals": 60, "flat": True, "rate": 20 * speed, "step_ms": 1_000}
    count = int(hours * 3_600) * 20
    publisher = bench.send(gateway, count=count, first_ms=int(start.timestamp() * 1_000), **orders)
    early_mb = 0.0
    while publisher.code is None:
        time.sleep(1)
        if not early_mb and time.time() > epoch + hours * 3_600 / speed / 4:
            early_mb = bench.pss_mb(agent.pid)
    bench.until(lambda: gateway.count("readings") >= count * 60, "all readings are in house.db", 120)
    what = f"PSS, 20 houses x 60 signals at 1/s, after {hours:g} simulated hours"
    table.add(what, bench.pss_mb(agent.pid), "MB", goal=90)
    table.add(
        f"{what}, beside a quarter of them", bench.pss_mb(agent.pid), "MB", goal=1.05, floor=early_mb, in_floors=True
    )
    table.note("PSS of sync beside it", f"{bench.pss_mb(sync.pid):.1f} MB")
    assert (agent.stop(), sync.stop()) == (0, 0)


def test_the_backlog_of_an_outage(bench: Bench, table: Table) -> None:
    """The agent was down while 100,000 single values came in; the floor had the same outage."""
    n = 100_000
    gateway = bench.gateway(2)
    assert gateway.agent().stop() == 0
    bench.floor(gateway, n).kill()
    assert bench.send(gateway, count=n, rate=10_000).wait(120) == 0
    began = time.monotonic()
    floor = bench.floor(gateway, n)
    bench.until(lambda: "done" in floor.said(), "the floor has them all", 120)
    floor_s = time.monotonic() - began
    floor.kill()
    began = time.monotonic()
    agent = gateway.start("agent")
    bench.until(lambda: gateway.count("readings") >= n, "all readings are in house.db", 120)
    ours_s = time.monotonic() - began
    assert agent.stop() == 0
    what = "drain of 100,000 single values after an outage, start included"
    table.add(what, ours_s, "s", goal=2, floor=floor_s, in_floors=True)
