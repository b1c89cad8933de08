from __future__ import annotations

import math
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from agent.config import Config, House, SignalOverride
from agent.domain import Doubt, Quality, QualityInterval, SeriesKey, TimeQuality, to_ms
from agent.peers import Peers
from agent.readings import ReadingsBuilder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

START = datetime(2026, 3, 1, tzinfo=UTC)
ONE, TWO, THREE = (SeriesKey("house1", f"temperature-{n}") for n in (1, 2, 3))
OTHER = SeriesKey("house2", "temperature")
OUTSIDE = tuple(SeriesKey(f"house{n}", "outside_temperature") for n in (1, 2, 3))
AGES = {"house1": 20, "house2": 20, "house3": 21}


def day(hours: float) -> float:
    """Return a house's temperature in the course of a day."""
    return 25 + 2 * math.sin(2 * math.pi * hours / 24)


def play(
    courses: Mapping[SeriesKey, Callable[[float], float | None]],
    hours: float,
    *,
    peers: Peers | None = None,
    ages: Mapping[str, int | None] | None = None,
    quality: Quality = Quality.GOOD,
) -> tuple[Peers, list[QualityInterval]]:
    """Send what each sensor shows, by the hours since the start, every five minutes; compare every ten."""
    peers = peers or Peers(Config().signal)
    found: list[QualityInterval] = []
    for step in range(1, round(hours * 12) + 1):
        at = START + timedelta(minutes=5 * step)
        builder = ReadingsBuilder()
        for key, course in courses.items():
            value = course(step / 12)
            if value is not None:
                wobble = 0.1 * ((step * (3 + len(key.signal))) % 5)
                builder.add(key, to_ms(at), value + (wobble if value != 22.2 else 0), TimeQuality.SENDER, to_ms(at))
        readings = builder.build()
        readings.quality[:] = quality
        peers.hear(readings)
        if step % 2 == 0:
            found += peers.compare(at, AGES if ages is None else ages)
    return peers, found


def since(hours: float) -> int:
    return to_ms(START + timedelta(hours=hours))


def off(from_h: float, by: float, to_h: float = math.inf) -> Callable[[float], float]:
    return lambda hours: day(hours) + (by if from_h <= hours < to_h else 0)


def test_sensors_that_agree_are_believed_whatever_their_place() -> None:
    """Three degrees apart all day: one hangs by the inlet."""
    peers, found = play({ONE: day, TWO: lambda hours: day(hours) + 3, OTHER: lambda hours: day(hours) - 8}, 72)
    assert found == []
    assert peers.doubts() == {}


def test_the_twin_that_left_its_own_course_is_not_believed_from_then_on_until_it_is_back() -> None:
    _, found = play({ONE: day, TWO: off(30, 8, 40)}, 48)
    began, ended = found
    assert (began.key, began.quality, began.to_ms) == (TWO, Quality.SUSPECT, None)
    assert since(29.5) <= began.from_ms <= since(30.2)
    assert "temperature-1" in began.reason
    assert "nobody can tell" not in began.reason
    assert (ended.key, ended.from_ms) == (TWO, began.from_ms)
    assert ended.to_ms is not None
    assert since(39.8) <= ended.to_ms <= since(40.4)


def test_what_lasts_less_than_half_an_hour_is_no_disagreement() -> None:
    assert play({ONE: day, TWO: off(30, 9, 30.4)}, 36)[1] == []


def test_the_twin_that_stands_still_is_the_wrong_one_even_if_the_other_moved_further() -> None:
    """A probe froze; hours later the house warms by eight degrees."""
    _, found = play({ONE: lambda _hours: 22.2, TWO: lambda hours: 22 if hours < 30 else 30}, 33)
    assert [interval.key for interval in found] == [ONE]


def test_of_twins_that_drifted_apart_the_neighbour_of_the_same_age_tells_which() -> None:
    drift = {ONE: day, TWO: lambda hours: day(hours) + 0.25 * hours, OTHER: day}
    assert {interval.key for interval in play(drift, 72)[1]} == {TWO}
    _, found = play(drift, 72, ages={"house1": 20, "house2": 35})
    assert {interval.key for interval in found} == {ONE, TWO}
    assert all("nobody can tell" in interval.reason for interval in found if interval.to_ms is None)


def test_of_three_the_one_that_is_alone_is_wrong() -> None:
    _, found = play({ONE: day, TWO: off(30, -7), THREE: day}, 36)
    assert [interval.key for interval in found] == [TWO]


def test_outside_sensors_are_compared_between_houses_and_inside_ones_are_not() -> None:
    courses = {key: off(30, 12 if key is OUTSIDE[2] else 0) for key in OUTSIDE}
    inside = {SeriesKey("house1", "temperature"): day, OTHER: off(30, 12)}
    _, found = play({**courses, **inside}, 36)
    assert [interval.key for interval in found] == [OUTSIDE[2]]
    assert "house1's" in found[0].reason


def test_a_sensor_without_a_peer_is_believed_again_after_a_day() -> None:
    _, found = play({ONE: lambda hours: day(hours) if hours < 34 else None, TWO: off(30, 9)}, 60)
    assert [(interval.key, interval.to_ms is None) for interval in found] == [(TWO, True), (TWO, False)]
    assert found[1].to_ms is not None
    assert since(34 + 24) <= found[1].to_ms <= since(34 + 25)


def test_readings_that_are_not_good_are_no_ones_peers() -> None:
    assert play({ONE: day, TWO: off(2, 9)}, 6, quality=Quality.STUCK)[1] == []


def test_a_doubt_outlasts_a_restart_and_ends_when_they_agree() -> None:
    again = Peers(Config().signal)
    again.restore({TWO: Doubt(since(-5), "told before")})
    assert again.doubts()[TWO].since_ms == since(-5)
    _, found = play({ONE: day, TWO: day}, 3, peers=again)
    assert [(interval.key, interval.from_ms, interval.to_ms is None) for interval in found] == [(TWO, since(-5), False)]


def test_a_house_may_say_how_far_its_sensors_may_be_apart() -> None:
    wide = Config(house=(House(id="house1", signals={"temperature-2": SignalOverride(agree_within=20)}),))
    assert TWO not in {interval.key for interval in play({ONE: day, TWO: off(30, 8)}, 36, peers=Peers(wide.signal))[1]}


def test_what_lasts_at_the_end_of_a_recording_ends_there() -> None:
    peers, found = play({ONE: day, TWO: off(30, 8)}, 36)
    end = START + timedelta(hours=36)
    assert peers.close(end) == [found[0]._replace(to_ms=to_ms(end))]
    assert peers.doubts()[TWO].score == pytest.approx(8 / 5, abs=0.1)


def test_a_house_that_says_nothing_of_a_signal_that_another_compares_is_no_peer() -> None:
    house = House(id="house1", signals={"dust": SignalOverride(agree_within=3)})
    peers = Peers(Config(house=(house, House(id="house2"))).signal)
    courses = {SeriesKey("house1", "dust-1"): day, SeriesKey("house1", "dust-2"): day, SeriesKey("house2", "dust"): day}
    assert play(courses, 2, peers=peers)[1] == []


def test_a_replay_of_weeks_does_not_fill_the_memory() -> None:
    peers, _ = play({ONE: day, TWO: day}, 1)
    builder = ReadingsBuilder()
    for hour in range(24 * 30):
        builder.add(ONE, to_ms(START - timedelta(hours=hour)), 25.0, TimeQuality.SENDER, to_ms(START))
    tracemalloc.start()
    peers.hear(builder.build())
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 10_000
