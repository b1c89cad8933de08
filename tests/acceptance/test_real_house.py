"""A real house's 26 days through broker, agent and sync: every distinct reading once in the lake, every gap named."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import time
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from agent.clock import SimulatedClock
from agent.domain import to_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Broker, Gateway, Mqtt

RECORDING = Path(__file__).parents[2].parent / "shared" / "data" / "house_nh3" / "nh3_temp_rh.csv"
FARM_TIME = timezone(timedelta(hours=-3))  # the recording's times have no zone; its farm is in the south of Brazil
HOUSE = "H0162"
COLUMNS = {"nh3_ppm": "ammonia", "temp_c": "temperature", "rh_pct": "humidity"}  # of the file: our signals
PLAYED_WITHIN_S = 8.0
GAP = timedelta(hours=1)


class Row(NamedTuple):
    """One line of a recording."""

    at: datetime
    values: dict[str, float]  # by the sender's name


def recorded() -> list[Row]:
    """Return the real house's lines; an equally dirty house where the file is not at hand, which CI must have."""
    if not RECORDING.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{RECORDING} is missing, and CI must not do without")
        return list(dirty_house())
    with RECORDING.open(encoding="utf-8", newline="") as file:
        return [
            Row(
                datetime.fromisoformat(line["time"]).replace(tzinfo=FARM_TIME),
                {name: float(line[name]) for name in COLUMNS},
            )
            for line in csv.DictReader(file)
        ]


def dirty_house() -> Iterator[Row]:
    """Yield 26 days every 3 minutes with jitter, a dozen gaps, whole numbers, and stamps that come twice."""
    chance = random.Random(162)
    at = datetime(2025, 5, 12, 14, 40, tzinfo=FARM_TIME)
    for number in range(10_000):
        level = math.sin(number / 76)
        row = Row(
            at,
            {
                "nh3_ppm": float(round(8 + 4 * level + chance.random())),
                "temp_c": round(26 + 3 * level + chance.gauss(0, 0.2), 1),
                "rh_pct": float(round(62 + 12 * level + chance.gauss(0, 1))),
            },
        )
        yield row
        if number % 2_500 == 1_000:
            yield Row(at, row.values | {"temp_c": row.values["temp_c"] + 0.1})  # the same stamp again, another value
        if number % 2_500 == 2_000:
            yield row  # the same again
        minutes = chance.choices((3, 6, 2, 9), (970, 15, 10, 5))[0]
        at += timedelta(minutes=minutes, seconds=0 if number % 800 != 799 else chance.randrange(4_000, 80_000))


def play(rows: list[Row], clock: SimulatedClock, mqtt: Mqtt) -> None:
    """Send each row when the farm's clock shows its time, as the house computer did."""
    sent = 0
    while sent < len(rows):
        now = clock.now()
        due = sent
        while due < len(rows) and rows[due].at <= now:
            due += 1
        mqtt.say_all(
            [(f"skov/farm1/{HOUSE}", {"timestamp": row.at.isoformat(), **row.values}) for row in rows[sent:due]]
        )
        sent = due


def test_every_distinct_reading_of_a_real_house_is_once_in_the_lake(
    broker: Broker, make_gateway: Callable[..., Gateway], mqtt: Callable[..., Mqtt], until: Callable[..., None]
) -> None:
    """Gaps and duplicate stamps included: of two values with one stamp the first is kept, the other one is told."""
    rows = recorded()
    first: dict[tuple[str, int], float] = {}
    equal, conflicts = 0, []
    for row in rows:
        for name, signal in COLUMNS.items():
            key = (signal, to_ms(row.at))
            if key not in first:
                first[key] = row.values[name]
            elif first[key] == row.values[name]:
                equal += 1
            else:
                conflicts.append((*key, first[key], row.values[name]))
    assert equal or conflicts  # else this recording proves less than it should

    renamed = ", ".join(f"{name} = '{signal}'" for name, signal in COLUMNS.items())
    source = f'[[source]]\ntopic = "skov/{{site}}/{{house}}"\ndialect = "flat"\nrename = {{ {renamed} }}\n'
    gateway = make_gateway(broker.port, houses=(HOUSE,), settings=source)
    span = (rows[-1].at - rows[0].at).total_seconds()
    clock = SimulatedClock(rows[0].at.astimezone(UTC), time.time() + 1, span / PLAYED_WITHIN_S)
    agent = gateway.agent("--simulated-clock", str(clock))
    play(rows, clock, mqtt())
    until(lambda: gateway.count("readings") >= len(first), "all readings are in house.db")
    assert agent.stop() == 0
    gateway.sync()

    in_lake = gateway.lake('SELECT house, signal, epoch_ms("at"), value, seq FROM {readings} ORDER BY seq')
    assert [row[4] for row in in_lake] == list(range(1, len(in_lake) + 1))
    assert {row[0] for row in in_lake} == {HOUSE}
    assert len(in_lake) == len(first)
    assert {(signal, at): value for _, signal, at, value, _ in in_lake} == first

    counted = gateway.health()["readings"]
    told = gateway.lake("SELECT signal, epoch_ms(from_at), detail FROM {events} WHERE kind = 'conflict'")
    assert (counted["appended"], counted["duplicates"], counted["conflicts"]) == (len(first), equal, len(conflicts))
    assert sorted(conflicts) == sorted(
        (signal, at, *(json.loads(detail)[name] for name in ("stored", "received"))) for signal, at, detail in told
    )

    # The gaps over an hour, each of them for each sensor, and what is silent at the end
    stamps = sorted({row.at for row in rows})
    gaps = {(to_ms(a), to_ms(b)) for a, b in pairwise(stamps) if b - a > GAP}
    assert len(gaps) >= 10
    named = gateway.lake(
        "SELECT signal, epoch_ms(from_at), epoch_ms(to_at) FROM {events} WHERE kind = 'quality'"
        " AND (detail->>'quality') = 'stale' AND (detail->>'reason') = 'no readings'"
    )
    assert len(named) == len(set(named))
    for signal in COLUMNS.values():
        assert gaps <= {(begin, end) for found, begin, end in named if found == signal}


def test_sensors_that_are_silent_now_are_named_in_the_health(
    broker: Broker, make_gateway: Callable[..., Gateway], mqtt: Callable[..., Mqtt], until: Callable[..., None]
) -> None:
    """The recording stops in its longest gap: health, `status` and MQTT say which sensors, and since when."""
    rows = recorded()
    before, _ = max(pairwise(rows), key=lambda pair: pair[1].at - pair[0].at)
    part = [row for row in rows if before.at - timedelta(hours=3) < row.at <= before.at]
    gateway = make_gateway(broker.port, houses=(HOUSE,))
    speed = 7_200.0  # two hours a second
    clock = SimulatedClock(part[0].at.astimezone(UTC), time.time() + 1, speed)
    agent = gateway.agent("--simulated-clock", str(clock))
    play(part, clock, mqtt())
    distinct = len({row.at for row in part}) * len(COLUMNS)
    until(lambda: gateway.count("readings") >= distinct, "all readings are in house.db")
    until(lambda: clock.now() > before.at + timedelta(hours=1), "the gap has begun")
    assert agent.stop() == 0
    silent = {(gap["house"], gap["signal"], gap["what"]) for gap in gateway.health()["gaps"]}
    assert silent == {(HOUSE, name, "no readings") for name in COLUMNS}
    since = {datetime.fromisoformat(gap["since"]) for gap in gateway.health()["gaps"]}
    assert since == {before.at}
    assert "silent   3 sensors" in gateway.run("status").stdout
