"""10,000 messages a second, ten times what the agent is made for: it keeps its size, its pace and every reading."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from agent.clock import SimulatedClock
from agent.domain import to_ms

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Broker, Gateway, Mqtt, Program
    from tests.fault.conftest import Source

RATE = 10_000
SPEED = 600.0  # ten minutes, a step of the grid, in a second
START = datetime(2026, 1, 1, tzinfo=UTC)
FLOCK = "flockwatch/farm1/house1/flock"
STUCK_TOPIC = "flockwatch/farm1/house1/warning/stuck-temperature"
WARNED_WITHIN_S = 5.0
MOST_MB = 25.0  # above its size at rest: an inbox of 2,000 messages, a turn of them in columns, what identity needs


@pytest.mark.parametrize("seconds", [10, pytest.param(60, marks=pytest.mark.long)])
def test_a_flood_neither_loses_nor_swells_nor_delays_a_warning(
    seconds: int,
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    mqtt: Callable[..., Mqtt],
    until: Callable[..., None],
    start_source: type[Source],
    memory_mb: Callable[[Program], float],
) -> None:
    """What the agent cannot take yet waits in the broker; from its own receipt a warning takes less than 5 s."""
    gateway = make_gateway(
        broker.port,
        houses=("house2", "house1"),  # the settings are of the last one
        settings="[house.signals.temperature]\nstuck_after_s = 60\n",
    )
    clock = SimulatedClock(START, time.time(), SPEED)
    agent = gateway.agent("--simulated-clock", str(clock))
    ear, mouth = mqtt(STUCK_TOPIC), mqtt()
    mouth.say(f"{FLOCK}/command", {"id": "p", "action": "place", "flock": "A1", "placed_on": "2025-12-20"})
    until(lambda: gateway.count("flocks") == 1, "the flock is placed")
    at_rest_mb = memory_mb(agent)
    source = start_source(
        gateway,
        broker.port,
        {"rate": RATE, "count": RATE * seconds, "first_ms": to_ms(clock.now()), "step_ms": int(SPEED * 1000 / RATE)},
    )
    until(lambda: gateway.count("readings") > RATE, "the flood is there")
    now_ms = to_ms(clock.now())
    stuck: list[tuple[str, object]] = [
        ("skov/farm1/house1/temperature", {"value": 21.5, "at": now_ms - 20_000 * i}) for i in reversed(range(60))
    ]
    mouth.say_all(stuck)
    most_mb, heard_at, behind = at_rest_mb, 0.0, 0
    deadline = time.monotonic() + seconds * 6
    while gateway.count("readings") < RATE * seconds + len(stuck) or not heard_at:
        assert time.monotonic() < deadline, f"{gateway.count('readings')} readings are there"
        most_mb = max(most_mb, memory_mb(agent))
        if source.program.code is not None and not behind:
            behind = RATE * seconds - gateway.count("readings")
        if not heard_at and not ear.heard.empty():
            heard_at = time.time()
        time.sleep(0.05)
    drained_s = time.time() - clock.real_epoch
    assert source.wait() == RATE * seconds
    assert agent.stop() == 0
    gateway.sync()
    assert source.account().is_clean
    ((received,),) = gateway.lake("SELECT epoch_ms(max(received_at)) FROM {readings} WHERE signal = 'temperature'")
    received_at = clock.real_epoch + (received - to_ms(START)) / 1000 / SPEED
    print(
        f"\n{source.account()} at {source.program.said().strip()}; the broker still held {behind} at the end of the "
        f"flood, all were there after {drained_s:.0f} s; the agent had {at_rest_mb:.0f} MB at rest, "
        f"{most_mb:.0f} MB at most; warned {heard_at - received_at:.1f} s after receipt"
    )
    assert most_mb - at_rest_mb < MOST_MB
    assert timedelta(seconds=heard_at - received_at) < timedelta(seconds=WARNED_WITHIN_S)
    assert gateway.health()["dropped_qos0"] == 0
