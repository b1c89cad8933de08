"""Disks that are full, read-only or damaged: the houses are watched on, nothing acknowledged is lost, all is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from agent.clock import SimulatedClock
from agent.domain import to_ms
from agent.store import RESERVE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Broker, Gateway, Mqtt

START = datetime(2026, 1, 1, tzinfo=UTC)
SPEED = 600.0  # ten minutes, a step of the grid, are a second
HEALTH = "flockwatch/farm1/health"
SITE_TOPIC = "flockwatch/farm1/_site/warning/store"
STUCK_TOPIC = "flockwatch/farm1/house1/warning/stuck-temperature"
FLOCK = "flockwatch/farm1/house1/flock"
STUCK_SOON = "[house.signals.temperature]\nstuck_after_s = 60\n"
PLACE = {"id": "place", "action": "place", "flock": "A1", "placed_on": "2025-12-20", "birds_placed": 30_000}
PAGE = 4096


# --- a disk of our own ------------------------------------------------------------------------------------------------


def as_root(*words: str) -> None:
    """Run a command that needs root's rights."""
    before = [] if os.geteuid() == 0 else ["sudo", "-n"]
    done = subprocess.run([*before, *words], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        why = f"{' '.join(words)}: {done.stderr.strip()}"
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must be able to mount a small disk: {why}")
        pytest.skip(f"only who may mount can try a full disk: {why}")


class Disk:
    """A small file system in memory, where a data directory is."""

    def __init__(self, place: Path, size_mb: int) -> None:
        self.place = place
        place.mkdir()
        owner = f"uid={os.getuid()},gid={os.getgid()}"
        as_root("mount", "-t", "tmpfs", "-o", f"size={size_mb}m,{owner}", "tmpfs", str(place))

    def fill(self) -> None:
        """Leave no byte free."""
        with (self.place / "ballast").open("ab", buffering=0) as file:
            for size in (1 << 20, PAGE, 1):
                with suppress(OSError):  # full, for blocks of this size
                    while True:
                        file.write(bytes(size))

    def empty(self) -> None:
        (self.place / "ballast").unlink()

    def remount(self, how: str) -> None:
        as_root("mount", "-o", f"remount,{how}", str(self.place))

    def close(self) -> None:
        as_root("umount", "--lazy", str(self.place))


@pytest.fixture
def disks() -> Iterator[list[Disk]]:
    """Give a list of disks that go when the test, and the programs on them, have ended."""
    made: list[Disk] = []
    yield made
    for disk in made:
        disk.close()


@pytest.fixture
def make_small(disks: list[Disk], broker: Broker, make_gateway: Callable[..., Gateway]) -> Callable[[int], Gateway]:
    """Give a function that makes an installation with a small disk."""

    def make(size_mb: int) -> Gateway:
        gateway = make_gateway(broker.port, settings=STUCK_SOON)
        disks.append(Disk(gateway.data, size_mb))
        return gateway

    return make


def stuck(clock: SimulatedClock, count: int = 60, value: float = 21.5) -> list[tuple[str, object]]:
    """Return readings of a sensor that always says the same, a minute apart, the last of them now."""
    now_ms = to_ms(clock.now())
    return [
        ("skov/farm1/house1/temperature", {"value": value, "at": now_ms - 60_000 * i}) for i in reversed(range(count))
    ]


def temperatures(gateway: Gateway) -> list[int]:
    """Return the times of the stored readings, in order."""
    return sorted(row["at"] for row in gateway.rows("readings") if row["signal"] == "temperature")


def times(*blocks: list[tuple[str, object]]) -> list[int]:
    return sorted(reading["at"] for block in blocks for _, reading in block if isinstance(reading, dict))


# --- full -------------------------------------------------------------------------------------------------------------


def test_a_full_disk_costs_the_reserve_then_the_houses_are_watched_without_the_store(
    make_small: Callable[[int], Gateway],
    disks: list[Disk],
    mqtt: Callable[..., Mqtt],
    until: Callable[..., None],
) -> None:
    gateway = make_small(80)
    clock = SimulatedClock(START, time.time(), SPEED)
    site, warnings, mouth, answers = mqtt(SITE_TOPIC), mqtt(STUCK_TOPIC), mqtt(), mqtt(f"{FLOCK}/response")
    agent = gateway.agent("--simulated-clock", str(clock))
    mouth.say(f"{FLOCK}/command", PLACE)
    answers.hear_json(f"{FLOCK}/response")
    reserve = gateway.data / "reserve"
    until(lambda: reserve.exists() and reserve.stat().st_size == RESERVE_BYTES, "the reserve is held")

    disks[0].fill()
    first: list[tuple[str, object]] = [
        (topic, {"value": 20 + i % 7 / 10, "at": to_ms(clock.now()) + i}) for i, (topic, _) in enumerate(stuck(clock))
    ]
    mouth.say_all(first)
    until(lambda: not reserve.exists(), "the reserve is given up")
    until(lambda: len(temperatures(gateway)) == len(first), "what came with the full disk is stored")
    told = site.hear_json(SITE_TOPIC)
    assert (told["state"], told["severity"], told["house"], told["about"]) == ("active", 3, "_site", "data")

    disks[0].fill()
    held = stuck(clock)
    mouth.say_all(held)
    told = site.hear_json(SITE_TOPIC, is_wanted=lambda value: value["severity"] == 4)
    assert "free space" in told["text"]
    until(lambda: gateway.connects() == 2, "the agent listens on without the store")
    mouth.say(f"{FLOCK}/command", {"id": "late", "action": "record", "date": "2026-01-01", "dead": 3, "culled": 0})
    answer = answers.hear_json(f"{FLOCK}/response", is_wanted=lambda value: value["id"] == "late")
    assert not answer["ok"]
    assert "waits at the broker" in answer["error"]
    live = stuck(clock)
    mouth.say_all(live)
    raised = warnings.hear_json(STUCK_TOPIC)
    assert (raised["state"], raised["flock"]) == ("active", "A1")
    late = mqtt(HEALTH)
    degraded = late.hear_json(HEALTH, is_wanted=lambda value: "store" in value.get("degraded", {}))["degraded"]
    assert "full" in degraded["store"]
    assert agent.code is None

    disks[0].empty()
    site.hear_json(SITE_TOPIC, is_wanted=lambda value: value["state"] == "normal")
    answer = answers.hear_json(f"{FLOCK}/response", is_wanted=lambda value: value["id"] == "late")
    assert answer["ok"]
    until(lambda: temperatures(gateway) == times(first, held, live), "all is stored, once each")
    assert agent.stop() == 0
    assert gateway.health()["degraded"].keys() <= {"clock"}
    assert reserve.stat().st_size == RESERVE_BYTES
    states = [(row["rule"], row["state"]) for row in gateway.rows("warnings") if row["house"] == "_site"]
    assert states[-1] == ("store", "normal")
    assert "Traceback" not in agent.said()


# --- read-only --------------------------------------------------------------------------------------------------------


def test_on_a_read_only_disk_the_agent_starts_and_warns_and_later_stores_what_the_broker_kept(
    make_small: Callable[[int], Gateway],
    disks: list[Disk],
    mqtt: Callable[..., Mqtt],
    until: Callable[..., None],
) -> None:
    gateway = make_small(80)
    clock = SimulatedClock(START, time.time(), SPEED)
    site, warnings, mouth, answers = mqtt(SITE_TOPIC), mqtt(STUCK_TOPIC), mqtt(), mqtt(f"{FLOCK}/response")
    agent = gateway.agent("--simulated-clock", str(clock))
    mouth.say(f"{FLOCK}/command", PLACE)
    answers.hear_json(f"{FLOCK}/response")
    assert agent.stop() == 0

    disks[0].remount("ro")
    agent = gateway.start("agent", "--simulated-clock", str(clock), log="readonly")
    assert site.hear_json(SITE_TOPIC, is_wanted=lambda value: value["severity"] == 4)["state"] == "active"
    until(lambda: agent.said().count("connected to the broker") == 2, "the agent listens")
    held = stuck(clock)
    mouth.say_all(held)
    raised = warnings.hear_json(STUCK_TOPIC)
    assert (raised["state"], raised["flock"]) == ("active", "A1")
    assert agent.code is None
    assert temperatures(gateway) == []

    disks[0].remount("rw")
    until(lambda: temperatures(gateway) == times(held), "what the broker kept is stored, once each")
    site.hear_json(SITE_TOPIC, is_wanted=lambda value: value["state"] == "normal")
    assert agent.stop() == 0
    assert "Traceback" not in agent.said()


# --- damaged ----------------------------------------------------------------------------------------------------------


def zero_first_page(database: Path) -> None:
    with database.open("r+b") as file:
        file.write(bytes(PAGE))


def test_a_database_that_lost_its_first_page_is_replaced_and_flock_and_warning_stay(
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    mqtt: Callable[..., Mqtt],
    until: Callable[..., None],
) -> None:
    gateway = make_gateway(broker.port, settings=STUCK_SOON)
    clock = SimulatedClock(START, time.time(), SPEED)
    site, warnings, mouth, answers = mqtt(SITE_TOPIC), mqtt(STUCK_TOPIC), mqtt(), mqtt(f"{FLOCK}/response")
    agent = gateway.agent("--simulated-clock", str(clock))
    mouth.say(f"{FLOCK}/command", PLACE)
    answers.hear_json(f"{FLOCK}/response")
    before = stuck(clock)
    mouth.say_all(before)
    raised = warnings.hear_json(STUCK_TOPIC)
    with gateway.reader() as reader:
        gateway_id, generation = reader.gateway, reader.generation
    gateway.sync()
    assert agent.stop() == 0
    zero_first_page(gateway.data / "house.db")

    agent = gateway.agent("--simulated-clock", str(clock))
    told = site.hear_json(SITE_TOPIC)
    assert (told["state"], told["severity"]) == ("active", 3)
    assert "quarantine" in json.dumps(gateway.health()["degraded"])
    again = warnings.hear_json(STUCK_TOPIC, is_wanted=lambda value: value["state"] == "active")
    assert (again["id"], again["flock"]) == (raised["id"], "A1")
    after = stuck(clock, 5)
    mouth.say_all(after)
    until(lambda: temperatures(gateway) == times(after), "the new database takes what comes")
    with gateway.reader() as reader:
        assert reader.gateway == gateway_id
        assert reader.generation != generation
    gateway.sync()
    in_lake = gateway.lake('SELECT epoch_ms("at") FROM {readings}')
    assert sorted(at for (at,) in in_lake) == times(before, after)
    assert "quarantine" in gateway.run("status").stdout
    assert agent.stop() == 0

    shutil.rmtree(gateway.data / "quarantine")  # somebody has seen to it
    agent = gateway.agent("--simulated-clock", str(clock))
    site.hear_json(SITE_TOPIC, is_wanted=lambda value: value["state"] == "normal")
    assert agent.stop() == 0
    assert "Traceback" not in agent.said()
