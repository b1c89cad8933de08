"""The courier is dead for most of a week: the agent goes on within its bounds, and later everything arrives, once."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from agent.clock import SimulatedClock
from agent.domain import to_ms

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Broker, Gateway, Program
    from tests.fault.conftest import Source

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 6.5  # after seven without a seal the agent may make room by itself
SPEED = 30_000.0
STEP_S = 6  # ten signals, each once a minute
COUNT = int(DAYS * 86_400 / STEP_S)
MOST_MB = 25.0  # of memory, above its size at rest
MOST_DISK_MB = 10.0  # 100 bytes a reading, the windows, and the write-ahead log
KEPT = (48 + 6) * 3_600 // STEP_S  # readings of keep_hours, and of the six hours that are pruned as one


def test_all_of_a_week_without_sync_arrives_once_and_in_order(
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    until: Callable[..., None],
    start_source: type[Source],
    memory_mb: Callable[[Program], float],
) -> None:
    gateway = make_gateway(broker.port, houses=("house1", "house2"))
    cloud = gateway.folder / "cloud"
    gateway.configure(broker.port, ("house1", "house2"), f'[sync]\nurl = "file://{cloud}"\n', "use = []")
    clock = SimulatedClock(START, time.time(), SPEED)
    agent = gateway.agent("--simulated-clock", str(clock))
    at_rest_mb = most_mb = memory_mb(agent)
    source = start_source(
        gateway,
        broker.port,
        {"rate": int(SPEED / STEP_S), "count": COUNT, "first_ms": to_ms(START), "step_ms": STEP_S * 1000},
    )
    deadline = time.monotonic() + 90
    while (stored := gateway.count("readings")) < COUNT:
        assert time.monotonic() < deadline, f"{stored} readings are there"
        most_mb = max(most_mb, memory_mb(agent))
        time.sleep(0.05)
    assert agent.stop() == 0
    assert source.wait() == COUNT
    disk_mb = sum(path.stat().st_size for path in gateway.data.glob("house.db*")) / 1e6
    print(f"\n{COUNT} readings: {disk_mb:.1f} MB on disk; {at_rest_mb:.0f} MB of memory at rest, {most_mb:.0f} at most")
    assert most_mb - at_rest_mb < MOST_MB
    assert disk_mb < MOST_DISK_MB
    assert len(gateway.rows("readings")) == COUNT  # nothing that is sealed nowhere is pruned
    gateway.sync()
    assert source.account().is_clean
    ((disordered,),) = gateway.lake(
        "SELECT count(*) FROM (SELECT value - lag(value) OVER (ORDER BY seq) AS step FROM {readings}) WHERE step <> 1"
    )
    assert disordered == 0
    here, there = (
        {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.parquet")}
        for root in (gateway.lake_folder, cloud)
    )
    assert here == there
    assert gateway.agent("--simulated-clock", str(clock)).code is None
    until(lambda: len(gateway.rows("readings")) <= KEPT, "what is sealed and old is pruned")
    assert source.account().is_clean
