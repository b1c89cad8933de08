"""The figures of the README, measured on this machine beside their goals and floors: `make bench`."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from agent.clock import SimulatedClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Broker, Gateway, Mqtt

pytestmark = pytest.mark.bench

PUBLISHER = Path(__file__).parents[1] / "fault" / "test_agent_crash.py"  # 1,000 single-value messages a second
MESSAGES = 20_000
SHIPPED = ""  # no [models] of our own: both shipped bundles


class Figure(NamedTuple):
    """One line of the table."""

    what: str
    measured: str
    beside: str  # the goal, or the floor that was measured in the same run


@pytest.fixture(scope="module")
def table() -> Iterator[list[Figure]]:
    """Give the list that is printed as one table when all is measured."""
    figures: list[Figure] = []
    yield figures
    widths = [max(len(column) for column in columns) for columns in zip(*figures, strict=True)]
    print("\n")
    for figure in figures:
        print("  ".join(column.ljust(width) for column, width in zip(figure, widths, strict=True)).rstrip())


def pss_mb(pid: int) -> float:
    """Return the proportional set size of a process: its own memory, and its share of what is shared."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    [kb] = re.findall(r"^Pss:\s+(\d+) kB$", rollup, re.MULTILINE)
    return int(kb) * 1024 / 1e6


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_memory_and_disk_of_a_farm(
    broker: Broker, make_gateway: Callable[..., Gateway], until: Callable[..., None], table: list[Figure]
) -> None:
    """Four houses, every signal each minute, both bundles; half a day as fast as a day a minute."""
    houses = ("house1", "house2", "house3", "house4")
    gateway = make_gateway(broker.port, houses=houses, models=SHIPPED)
    clock = SimulatedClock(datetime(2026, 3, 1, tzinfo=UTC), time.time() + 3, 1_440.0)
    agent = gateway.agent("--simulated-clock", str(clock))
    words = [
        "--houses",
        str(len(houses)),
        "--days",
        "2",
        "--seed",
        "5",
        "--stagger",
        "--mqtt",
        f"127.0.0.1:{broker.port}",
    ]
    gateway.launch([sys.executable, "-m", "agent.cli", "simulate", *words, "--simulated-clock", str(clock)], "simulate")
    half_a_day_ms = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp() * 1000)

    def judged_ms() -> int:
        with gateway.reader() as reader:
            return reader.counts()["judged_ms"]

    until(lambda: judged_ms() >= half_a_day_ms, "half a day is judged", 120)
    assert {row["model"] for row in gateway.rows("predictions")} == {"weight"}
    table.append(
        Figure(
            "agent: PSS after 12 simulated hours, 4 houses, both bundles", f"{pss_mb(agent.pid):.1f} MB", "goal 90 MB"
        )
    )
    assert agent.stop() == 0
    gateway.sync()
    readings = gateway.count("readings")
    on_disk = sum(path.stat().st_size for path in gateway.data.glob("house.db*"))
    in_lake = sum(path.stat().st_size for path in (gateway.lake_folder / "readings").rglob("*.parquet"))
    table.append(Figure(f"house.db: bytes a reading, of {readings:,}", f"{on_disk / readings:.0f}", "goal 70"))
    table.append(Figure("lake: bytes a reading", f"{in_lake / readings:.1f}", "goal 3"))


def test_start_to_first_acknowledgement(
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    mqtt: Callable[..., Mqtt],
    until: Callable[..., None],
    table: list[Figure],
) -> None:
    """From the start of the process, with the imports and both bundles' self-tests, to the broker's log of a PUBACK."""
    gateway = make_gateway(broker.port, models=SHIPPED)
    assert gateway.agent().stop() == 0
    taken = []
    for _ in range(3):
        mqtt().say("skov/farm1/house1/water", 12)
        before = acknowledgements(broker)
        began = time.monotonic()
        agent = gateway.start("agent")
        until(lambda before=before: acknowledgements(broker) > before, "the first acknowledgement")
        taken.append(time.monotonic() - began)
        assert agent.stop() == 0
    table.append(Figure("agent: start to first acknowledgement, best of 3", f"{min(taken):.2f} s", "goal 3 s"))


def acknowledgements(broker: Broker) -> int:
    return sum("Received PUBACK from flockwatch-farm1" in line for line in broker.log)


NO_OP = textwrap.dedent(
    """
    import sys, paho.mqtt.client as paho
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
    def on_message(client, _userdata, message):
        client.ack(message.mid, message.qos)
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="no-op", protocol=paho.MQTTv5, manual_ack=True)
    client.on_message = on_message
    client.on_connect = lambda client, *_: client.subscribe("skov/#", qos=1)
    client.on_subscribe = lambda *_: print("ready", flush=True)
    properties = Properties(PacketTypes.CONNECT)
    properties.ReceiveMaximum = 2000
    client.connect("127.0.0.1", int(sys.argv[1]), properties=properties)
    client.loop_forever()
    """
)


def test_cpu_of_a_reading(
    broker: Broker, make_gateway: Callable[..., Gateway], until: Callable[..., None], table: list[Figure]
) -> None:
    """1,000 single-value messages a second to the agent, and to a client that only acknowledges them."""
    gateway = make_gateway(broker.port, houses=("house1", "house2"), models=SHIPPED)
    agent = gateway.agent()
    floor = gateway.launch([sys.executable, "-c", NO_OP, str(broker.port)], "no-op")
    until(lambda: "ready" in floor.said(), "the floor's client has subscribed")
    before = cpu_s(agent.pid), cpu_s(floor.pid)
    first_ms = int(time.time() * 1000)
    publisher = gateway.launch(
        [sys.executable, str(PUBLISHER), str(broker.port), str(first_ms), str(MESSAGES)], "publisher"
    )
    assert publisher.wait(120) == 0, publisher.said()
    until(lambda: gateway.count("readings") >= MESSAGES, "all readings are in house.db", 60)
    ours, theirs = (
        (cpu_s(pid) - was) / MESSAGES * 1e6 for pid, was in zip((agent.pid, floor.pid), before, strict=True)
    )
    table.append(
        Figure(
            "agent: CPU a single-value reading, 1,000/s",
            f"{ours:.0f} us",
            f"{ours / theirs:.2f} x a client that only acknowledges ({theirs:.0f} us)",
        )
    )


class Replayed(NamedTuple):
    """What one replay took."""

    readings: int
    rate: float  # readings a second
    cpu_rate: float  # readings a second of CPU: the same where nothing else runs
    memory_mb: float  # the most that it held


def replay(folder: Path, days: int) -> Replayed:
    """Simulate a farm, replay it, and return what that took."""
    made = folder / f"{days}-days"
    run = [sys.executable, "-m", "agent.cli"]
    simulate = ["simulate", "--houses", "2", "--days", str(days), "--seed", "3", "--stagger", "--out", str(made)]
    subprocess.run([*run, *simulate], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    files = [word for name in ("readings", "flocks", "events") for word in (f"--{name}", str(made / f"{name}.csv"))]
    with (made / "said").open("wb") as said:
        process = subprocess.Popen([*run, "replay", *files, "--out", str(made / "out")], stdout=said)
        _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    process.returncode = 0  # wait4 has taken it
    [(readings, rate)] = re.findall(r"^([\d,]+) readings in .* \(([\d,]+)/s\)", (made / "said").read_text())
    count = int(readings.replace(",", ""))
    cpu_rate = count / (usage.ru_utime + usage.ru_stime)
    return Replayed(count, float(rate.replace(",", "")), cpu_rate, usage.ru_maxrss * 1024 / 1e6)


def test_replay_of_a_farm(tmp_path: Path, table: list[Figure]) -> None:
    """Two houses, every signal each minute, both bundles; the floor is Python's csv module on the same file."""
    short, long = replay(tmp_path, 10), replay(tmp_path, 30)
    began = time.monotonic()
    with (tmp_path / "30-days" / "readings.csv").open(encoding="utf-8", newline="") as file:
        lines = sum(1 for _ in csv.reader(file)) - 1
    floor = lines / (time.monotonic() - began)
    what = f"replay: readings a second, of {long.readings:,}, both bundles"
    table.append(Figure(what, f"{long.rate:,.0f}", f"goal 50,000; csv.reader alone {floor:,.0f}"))
    table.append(Figure("replay: readings a second of CPU, start included", f"{long.cpu_rate:,.0f}", ""))
    table.append(
        Figure(f"replay: peak memory, {short.readings:,} readings of 10 days", f"{short.memory_mb:.0f} MB", "")
    )
    table.append(
        Figure(
            f"replay: peak memory, {long.readings:,} readings of 30 days", f"{long.memory_mb:.0f} MB", "goal: the same"
        )
    )
