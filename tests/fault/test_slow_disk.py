"""A disk that takes half a second for a moment: the broker waits, the agent keeps its size, and nothing is lost."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Broker, Gateway, Program
    from tests.fault.conftest import Source

FSYNC_S = 0.5
COUNT = 20_000
PADDING = 10_000  # bytes: together 200 MB, of which the agent may hold a few
MOST_MB = 40.0  # of memory, above its size at rest


def test_a_slow_disk_makes_the_broker_wait_and_not_the_agent_swell(
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    until: Callable[..., None],
    start_source: type[Source],
    all_arrives: Callable[..., None],
    memory_mb: Callable[[Program], float],
    need: Callable[..., str],
) -> None:
    """Every fsync of the agent is made to wait, by strace; all else is as fast as ever."""
    gateway = make_gateway(broker.port, houses=("house1", "house2"))
    delay = f"fsync,fdatasync:delay_enter={FSYNC_S * 1e6:.0f}"
    strace = [need("strace", "strace"), "-D", "-f", "--seccomp-bpf", "-o", "/dev/null"]
    strace += ["-e", "trace=fsync,fdatasync", "-e", f"inject={delay}"]  # -D: the process is the agent, strace its child
    agent = gateway.launch(
        [*strace, sys.executable, "-m", "agent.cli", "agent", "--config", str(gateway.config)], "agent"
    )
    until(lambda: agent.code is not None or gateway.connects() > 0, "the agent has its broker", 60)
    assert agent.code is None, agent.said()
    at_rest_mb = most_mb = memory_mb(agent)
    source = start_source(gateway, broker.port, {"rate": 5_000, "count": COUNT, "padding": PADDING})
    deadline = time.monotonic() + 60
    while source.program.code is None or gateway.count("readings") < 200:
        assert time.monotonic() < deadline, source.program.said()
        most_mb = max(most_mb, memory_mb(agent))
        time.sleep(0.05)
    waiting = COUNT - gateway.count("readings")
    print(f"\n{waiting} waited in the broker; {at_rest_mb:.0f} MB at rest, {most_mb:.0f} MB at most")
    assert waiting > COUNT / 2  # else the disk was not slow
    assert most_mb - at_rest_mb < MOST_MB
    assert agent.stop(60) == 0
    assert gateway.health()["broker"]["connects"] == 1
    agent = gateway.agent()  # on a good disk, to be done with it
    source.wait()
    all_arrives(gateway, source)
    assert agent.stop() == 0
