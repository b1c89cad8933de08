"""Size, start and replay of a realistic farm."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

from agent.clock import SimulatedClock
from agent.domain import SeriesKey, from_ms
from agent.readings import Readings
from agent.store import Store
from models_onnx.farm.farm import simulate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.bench.conftest import Table
    from tests.conftest import Broker, Gateway, Mqtt

pytestmark = pytest.mark.bench

SHIPPED = ""  # no [models] of our own: both shipped bundles


def test_speed_of_the_simulated_farm(table: Table) -> None:
    """In steps of ten minutes, without faults; CPU of this process."""
    before = time.process_time()
    simulate(200, 40, 1, 600)
    rate = 200 * 40 / (time.process_time() - before)
    table.add("simulated farm: a house-day of 10-minute steps", 1000 / rate, "ms", goal=1)
    table.note("simulated farm: house-days a second and core", f"{rate:,.0f}")


def test_memory_and_disk_of_a_farm(
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    until: Callable[..., None],
    pss_mb: Callable[[int], float],
    table: Table,
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
    table.add("PSS after 12 simulated hours, 4 houses, every signal a minute", pss_mb(agent.pid), "MB", goal=90)
    assert agent.stop() == 0
    gateway.sync()
    readings = gateway.count("readings")
    on_disk = sum(path.stat().st_size for path in gateway.data.glob("house.db*"))
    in_lake = sum(path.stat().st_size for path in (gateway.lake_folder / "readings").rglob("*.parquet"))
    table.add(f"house.db, a reading, of {readings:,}", on_disk / readings, "B", goal=70)
    table.add("sealed in the lake, a reading", in_lake / readings, "B", goal=3)


def test_start_to_first_acknowledgement(
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    mqtt: Callable[..., Mqtt],
    until: Callable[..., None],
    table: Table,
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
    table.add("start to first acknowledgement, best of 3", min(taken), "s", goal=3)


def test_start_with_a_database_of_a_gigabyte(
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    mqtt: Callable[..., Mqtt],
    until: Callable[..., None],
    table: Table,
) -> None:
    """No courier has sealed anything for weeks, so all is still there; and the agent was killed."""
    gateway = make_gateway(broker.port, houses=("house1", "house2"), models=SHIPPED)
    assert gateway.agent().stop() == 0  # it has its session at the broker
    fill(gateway.data / "house.db", 1_000_000_000)
    agent = gateway.start("agent")
    until(lambda: "connected to the broker" in agent.said(), "the agent has its broker")
    agent.kill()
    mqtt().say("skov/farm1/house1/water", 12)
    before = acknowledgements(broker)
    began = time.monotonic()
    agent = gateway.start("agent")
    until(lambda: acknowledgements(broker) > before, "the first acknowledgement")
    taken = time.monotonic() - began
    assert agent.stop() == 0
    megabytes = (gateway.data / "house.db").stat().st_size / 1e6
    table.add(f"start to first acknowledgement, house.db of {megabytes:,.0f} MB", taken, "s", goal=3)


def fill(house_db: Path, size: int) -> None:
    """Append readings of two houses and sixty signals, one each second, until the file has ``size`` bytes.

    All but the last eight minutes are in the windows, as far as the store knows.
    """
    keys = tuple(SeriesKey(f"house{house}", f"probe{signal}") for house in (1, 2) for signal in range(60))
    seconds, chance = 500, np.random.default_rng(1)
    n = seconds * len(keys)
    at_ms = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp() * 1000) + np.repeat(np.arange(seconds) * 1000, len(keys))
    with Store.open(house_db) as store:
        while house_db.stat().st_size < size:
            store.append(
                Readings(
                    keys,
                    np.tile(np.arange(len(keys), dtype=np.int32), seconds),
                    at_ms,
                    chance.normal(20, 1, n).round(1),
                    *(np.zeros(n, np.uint8), np.zeros(n, np.uint8), at_ms + 50),
                ),
                at_ms=int(at_ms[-1]),
            )
            at_ms = at_ms + seconds * 1000
        store.record(judged_at=from_ms(int(at_ms[0]) - seconds * 1000), observed_seq=store.last_seq - n)


def acknowledgements(broker: Broker) -> int:
    return sum("Received PUBACK from flockwatch-farm1" in line for line in broker.log)


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


def test_replay_of_a_farm(tmp_path: Path, table: Table) -> None:
    """Two houses, every signal each minute, both bundles; the floor is Python's csv module on the same file."""
    short, long = replay(tmp_path, 10), replay(tmp_path, 30)
    began = time.monotonic()
    with (tmp_path / "30-days" / "readings.csv").open(encoding="utf-8", newline="") as file:
        lines = sum(1 for _ in csv.reader(file)) - 1
    floor = lines / (time.monotonic() - began)
    what = f"replay: time a reading, of {long.readings:,}, both bundles"
    table.add(what, 1e6 / long.rate, "us", goal=20, floor=1e6 / floor)
    table.note("replay: CPU a reading, start included", f"{1e6 / long.cpu_rate:.1f} us")
    what = f"replay: peak memory of 30 days, beside {short.readings:,} readings of 10"
    table.add(what, long.memory_mb, "MB", goal=1.1, floor=short.memory_mb, in_floors=True)
