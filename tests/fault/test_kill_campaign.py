"""kill -9 of agent and sync at random moments, under 1,000 readings a second: in the lake is each of them once."""

from __future__ import annotations

import os
import random
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from agent.clock import SimulatedClock
from agent.domain import to_ms

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Broker, Gateway
    from tests.fault.conftest import Account, Source

RATE = 1_000
SPEED = 3_600.0  # an hour in a second, so that a campaign of half a minute sees rows sealed and pruned, too
KILLS = int(os.environ.get("KILLS", "200"))
SEED = int(os.environ.get("SEED", "0")) or time.time_ns() % 1_000_000


@pytest.mark.parametrize("kills", [10, pytest.param(KILLS, marks=pytest.mark.long, id="KILLS")])
def test_kills_at_random_moments_lose_and_double_nothing_in_the_lake(
    kills: int, broker: Broker, make_gateway: Callable[..., Gateway], start_source: type[Source]
) -> None:
    """Half of the readings have a stamp, the others the time of their arrival; both are there once.

    ``make chaos KILLS=200`` runs the long one; SEED=… repeats one as far as chance allows.
    """
    chance = random.Random(SEED)
    clock = SimulatedClock(datetime(2026, 1, 1, tzinfo=UTC), time.time(), SPEED)
    gateway = make_gateway(
        broker.port,
        houses=("house1", "house2"),
        settings="[store]\nkeep_hours = 1\n[sync]\ninterval_s = 7200\n",
    )
    flags = ("--simulated-clock", str(clock))
    programs = {
        "agent": gateway.agent(*flags),
        "sync": gateway.start("sync", *flags),
    }  # the broker knows us from now on
    source = start_source(
        gateway, broker.port, {"rate": RATE, "bare": True, "first_ms": to_ms(clock.start), "step_ms": int(SPEED)}
    )
    killed = dict.fromkeys(programs, 0)
    while sum(killed.values()) < kills:
        time.sleep(chance.uniform(0.2, 4.0))
        victims = chance.choice((["agent"], ["agent"], ["sync"], ["agent", "sync"]))
        for name in victims:
            assert programs[name].code is None, programs[name].said()
            programs[name].kill()
            killed[name] += 1
        for name in victims:
            programs[name] = gateway.start(name, *flags)
    sent = source.stop()
    _wait_until_quiet(gateway, sent)
    assert [programs[name].stop() for name in ("agent", "sync")] == [0, 0]
    gateway.sync()
    account = source.account()
    print(f"\nseed {SEED}: {killed} killed; {account}")
    assert account.is_clean, _story(gateway, account)


def _wait_until_quiet(gateway: Gateway, sent: int) -> None:
    """Wait until all is there, or nothing more comes: what is missing then is to be told, not waited for."""
    seen, since = -1, time.monotonic()
    while (now := gateway.count("readings")) < sent and time.monotonic() - since < 15:
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(0.2)


def _story(gateway: Gateway, account: Account) -> str:
    """Return what is wrong with the first readings that are, for whoever looks for the reason."""
    rows = gateway.lake(
        "WITH sent AS (SELECT CAST(value AS BIGINT) AS i, * FROM {readings} WHERE signal LIKE 'probe%')"
        ' SELECT i, house, signal, "at", received_at, time_quality, seq FROM sent'
        " WHERE i IN (SELECT i FROM sent GROUP BY i HAVING count(*) > 1) ORDER BY i, seq LIMIT 20"
    )
    missing = gateway.lake(
        f"SELECT i FROM range({account.sent}) AS t(i) WHERE i NOT IN"
        " (SELECT CAST(value AS BIGINT) FROM {readings} WHERE signal LIKE 'probe%') ORDER BY i LIMIT 20"
    )
    doubled = "\n".join(map(str, rows))
    return f"{account}\ndoubled:\n{doubled}\nmissing: {[i for (i,) in missing]}"
