"""The rules that house computers publish, and what people told held against what is seen: by a house without models."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import nan
from typing import TYPE_CHECKING

import pytest

from agent import plain
from agent.commands import parse_flock_command
from agent.config import Config, HouseFacts, RuleOverride
from agent.domain import Quality, Reason, SeriesKey, Severity, TimeQuality, WarningState, to_ms
from agent.predict import Predictor
from agent.quality import QualityJudge
from agent.readings import ReadingsBuilder
from agent.rules import rule_of
from agent.signals import signal_of
from agent.watch import GRID, HouseWatch, judge_instant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.domain import WarningEvent

DAYS = Config().site.days
START = datetime(2026, 3, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
BIRDS = 20_000
WANTED = HouseFacts(house_computer=True, set_point=((0.0, 26.0),), capacity=22_000, area_m2=1_200)
NO_MODEL = Predictor((), (), DAYS)


def usual(at: datetime) -> Mapping[str, float]:
    """A flock of three weeks every ten minutes: 2.2 t of feed and 4 m3 of water a day, by day and night the same."""
    wobble = 0.01 * (at.minute // 10 + at.hour % 5)
    return {
        "temperature": 26.0 + wobble, "outside_temperature": 8.0 + wobble, "humidity": 60 + wobble,
        "co2": 2_000 + wobble, "ammonia": 10 + wobble, "light": 20 + wobble,
        "water": 28.0 + wobble, "feed": 15.0 + wobble,
    }  # fmt: skip


class House:
    """One house with a reading of everything each ten minutes, through the real quality judge."""

    def __init__(
        self, facts: HouseFacts = WANTED, overrides: Mapping[str, RuleOverride] | None = None, *, age: int | None = 21
    ) -> None:
        self.quality = QualityJudge(lambda key: signal_of(key.signal))
        self.watch = HouseWatch(
            "house1",
            signal=lambda key: signal_of(key.signal),
            days=DAYS,
            manifests=[],
            overrides=overrides or {},
            rhythm_s=self.quality.rhythm_s,
            started_monotonic=float("-inf"),
            facts=facts,
        )
        self.now = START
        if age is not None:
            self.tell(action="place", placed_on=str((START - timedelta(days=age)).date()), birds_placed=BIRDS)

    def tell(self, **command: object) -> None:
        self.watch.apply(parse_flock_command(json.dumps(command)), self.now)

    def run(self, length: timedelta, course: Callable[[datetime], Mapping[str, float]] = usual) -> list[WarningEvent]:
        """Let time pass; return the transitions that it brought."""
        events: list[WarningEvent] = []
        end = self.now + length
        while self.now < end:
            self.now += GRID
            builder = ReadingsBuilder()
            for signal, value in course(self.now).items():
                builder.add(SeriesKey("house1", signal), to_ms(self.now), value, TimeQuality.SENDER, to_ms(self.now))
            judged, intervals = self.quality.judge(builder.build())
            self.watch.observe(judged, 0.0)
            self.watch.note(intervals)
            [outcome] = judge_instant([self.watch], NO_MODEL, self.now, float("inf"))
            events += outcome.warnings
        return events


def raised(events: list[WarningEvent]) -> dict[str, WarningEvent]:
    return {e.standing.rule: e for e in events if e.standing.state is WarningState.ACTIVE}


def other(**values: float) -> Callable[[datetime], Mapping[str, float]]:
    return lambda at: {**usual(at), **{name: value + 0.01 * (at.minute // 10) for name, value in values.items()}}


def test_a_house_that_is_well_gives_no_warning_with_all_rules_on() -> None:
    assert raised(House().run(50 * HOUR)) == {}


def test_without_the_word_of_the_farm_none_of_these_rules_judges() -> None:
    house = House(HouseFacts(set_point=WANTED.set_point))
    house.run(26 * HOUR)
    assert raised(house.run(3 * HOUR, other(temperature=33, co2=4_000, water=0))) == {}


@pytest.mark.parametrize(
    ("course", "hours", "rule", "words"),
    [
        ({"temperature": 30.5}, 1, "high-temperature", "above the limit of 30.0 °C"),
        ({"temperature": 22.5}, 1, "low-temperature", "below the limit of 23.0 °C"),
        ({"temperature": 33.0}, 1, "max-temperature", "above the limit of 32.0 °C"),
        ({"humidity": 95}, 1, "max-humidity", "above the limit of 90.0 % RH"),
        ({"humidity": 3}, 1, "range-humidity", "which cannot be"),
        ({"co2": 3_600}, 1, "max-co2", "above the limit of 3500 ppm"),
        ({"ammonia": 25}, 1, "max-ammonia", "above the limit of 20.0 ppm"),
        ({"outside_temperature": 32}, 1, "misplaced-outside_temperature", "may hang in the sun"),
        ({"water": 0}, 2, "few-water", "in the last 30 minutes is only"),
        ({"water": 0}, 3, "drop-water", "% less than before"),
        ({"water": 60}, 3, "rise-water", "% more than before"),
        ({"water": 300}, 1, "much-water", "is a leak or a fault"),
        ({"feed": 0}, 3, "few-feed", "in the last 2 hours is only"),
        ({"feed": 0}, 8, "drop-feed", "% less than before"),
        ({"feed": 200}, 1, "much-feed", "is a leak or a fault"),
        ({"water": 0}, 8, "ratio-water", "l/kg"),
    ],
)
def test_each_rule_warns_when_its_limit_is_passed_in_words(
    course: Mapping[str, float], hours: float, rule: str, words: str
) -> None:
    house = House()
    warm_up = 49 if rule == "drop-feed" else 27 if rule.startswith(("drop", "rise", "ratio")) else 4
    assert raised(house.run(warm_up * HOUR)) == {}
    found = raised(house.run(hours * HOUR, other(**course)))
    assert rule in found
    assert words in found[rule].text
    if rule.startswith(("high", "low", "max", "misplaced", "range")):
        assert Reason.BACK_IN_BAND in {e.reason for e in house.run(2 * HOUR) if e.standing.rule == rule}


def test_no_water_in_the_dark_is_no_lack_and_a_warm_summer_has_its_slide() -> None:
    house = House()
    house.run(4 * HOUR)
    assert "few-water" not in raised(house.run(2 * HOUR, lambda at: {**usual(at), "water": 0.0, "light": 0.0}))
    house = House()
    house.run(4 * HOUR)
    assert raised(house.run(2 * HOUR, other(temperature=31, outside_temperature=26))) == {}


def test_chicks_want_it_warmer_than_the_absolute_limit() -> None:
    curve = replace(WANTED, set_point=Config().warnings.set_point)
    assert raised(House(curve, age=0).run(2 * HOUR, other(temperature=33.8))) == {}


def test_what_a_sensor_shows_that_is_not_believed_is_suppressed_and_says_so() -> None:
    house = House()
    house.run(4 * HOUR)
    events = [e for e in house.run(HOUR, other(co2=40_000)) if e.standing.rule == "max-co2"]
    assert [(e.standing.state, e.reason) for e in events] == [(WarningState.SUPPRESSED, Reason.BAD_QUALITY)]
    assert "told to nobody: the sensor is not believed" in events[0].text


def test_a_broken_sensor_outside_does_not_hide_the_heat_inside() -> None:
    house = House()
    house.run(4 * HOUR)
    assert "high-temperature" in raised(house.run(HOUR, other(temperature=31, outside_temperature=99)))


def test_while_people_catch_the_rules_rest_and_it_is_recorded() -> None:
    house = House()
    house.run(4 * HOUR)
    house.tell(action="state", state="catching")
    events = house.run(HOUR, other(temperature=33))
    assert raised(events) == {}
    assert {e.reason for e in events if e.standing.rule == "high-temperature"} == {Reason.HOUSE_STATE}


def test_a_limit_of_the_farms_own_for_any_signal() -> None:
    own = {"max-pressure": RuleOverride(enabled=True, threshold=40.0, severity=Severity.MAJOR)}
    house = House(HouseFacts(), own)
    house.run(2 * HOUR, lambda at: {**usual(at), "pressure": 20.0 + at.minute / 60})
    found = raised(house.run(HOUR, lambda at: {**usual(at), "pressure": 45.0 + at.minute / 60}))
    assert found["max-pressure"].standing.severity is Severity.MAJOR


def test_a_set_point_lies_between_those_of_the_curve_and_ends_level() -> None:
    curve = ((1.0, 34.0), (7.0, 30.0), (42.0, 19.0))
    assert [plain.set_point_at(curve, age) for age in (0, 1, 4, 7, 60)] == [34, 34, 32, 30, 19]
    assert plain.set_point_at((), 3) != plain.set_point_at((), 3)  # NaN: nobody knows


# --- what people told


def test_birds_that_nobody_told_of_are_noticed_within_a_day_and_a_leak_is_no_bird() -> None:
    house = House(HouseFacts(), age=None)
    found = raised(house.run(24 * HOUR))
    assert found.keys() == {"unregistered"}
    assert found["unregistered"].about.value == "house_state"
    assert "no flock is registered" in found["unregistered"].text
    house.tell(action="place", placed_on="2026-02-20", birds_placed=BIRDS)
    over = [e for e in house.run(HOUR) if e.standing.rule == "unregistered"]
    assert [(e.standing.state, e.reason) for e in over] == [(WarningState.SUPPRESSED, Reason.HOUSE_STATE)]
    leaking = House(HouseFacts(), age=None)
    assert raised(leaking.run(30 * HOUR, lambda at: {**usual(at), "feed": 0.0})) == {}


def test_the_day_after_the_birds_have_left_is_not_taken_for_birds() -> None:
    house = House(HouseFacts())
    house.run(26 * HOUR)
    house.tell(action="end")
    assert raised(house.run(30 * HOUR, lambda at: {**usual(at), "water": 0.0, "feed": 0.0})) == {}


@pytest.mark.parametrize(
    ("birds", "capacity", "area_m2", "day", "intake", "warns"),
    [
        (20_000, 22_000, 1_200.0, 21, [], False),
        (26_000, 22_000, None, 0, [], False),
        (200_000, 22_000, None, 0, [], True),
        (2_000, 22_000, None, 0, [], True),
        (200_000, None, 1_200.0, 0, [], True),
        (2_000, None, None, 5, [10.0, 9.0], True),
        (2_000, None, None, 5, [10.0, 1.1], False),  # a leak
        (20_000, None, None, 5, [0.1, 0.9], False),  # a blocked line
        (200_000, None, None, 5, [0.1, 0.11], True),
        (200_000, None, None, 21, [0.1, 0.11], False),
        (200_000, None, None, 5, [nan, 0.11], False),
    ],
)
def test_a_count_that_cannot_be_is_told_and_a_fault_is_no_count(
    birds: int, capacity: int | None, area_m2: float | None, day: int, intake: list[float], warns: bool
) -> None:
    rule = rule_of("placement", {})
    assert rule is not None
    found = plain.placement(rule, birds, capacity, area_m2, day, intake)
    assert found.score is not None
    assert (found.score >= 1) is warns


def test_a_slip_of_the_pen_at_the_placement_is_told_the_same_day() -> None:
    house = House(age=None)
    house.tell(action="place", placed_on="2026-03-10", birds_placed=200_000)
    found = raised(house.run(3 * HOUR))
    assert "200000 birds were told to be placed, where about 22000 birds can be" in found["placement"].text
    house.tell(action="place", birds_placed=20_000)
    over = [e for e in house.run(3 * HOUR) if e.standing.rule == "placement"]
    assert [e.reason for e in over] == [Reason.BACK_IN_BAND]


# --- suppressed by design


def test_sensors_of_a_silent_house_are_suppressed_by_their_root_cause() -> None:
    house = House(HouseFacts())
    house.run(6 * HOUR)
    events = house.run(2 * HOUR, lambda _at: {})
    assert raised(events).keys() == {"silent"}
    missing = [e for e in events if e.standing.rule == "missing-co2"]
    assert [(e.standing.state, e.reason) for e in missing] == [(WarningState.SUPPRESSED, Reason.ROOT_CAUSE)]
    back = house.run(HOUR)
    assert {e.reason for e in back if e.standing.rule == "missing-co2"} == {Reason.ROOT_CAUSE}
    assert all(s.state is WarningState.NORMAL for s in house.watch.standings.values())


def test_a_sensor_that_is_serviced_is_suppressed_and_says_so() -> None:
    house = House(HouseFacts())
    house.run(6 * HOUR)
    house.tell(action="service", signal="ammonia", for_s=6 * 3600)
    events = house.run(3 * HOUR, lambda at: {k: v for k, v in usual(at).items() if k != "ammonia"})
    assert [(e.standing.rule, e.standing.state, e.reason) for e in events] == [
        ("missing-ammonia", WarningState.SUPPRESSED, Reason.SERVICE)
    ]


def test_the_quality_that_hides_a_level_is_the_quality_judges() -> None:
    """What is out of range by the catalogue never reaches the window: the rules above rest on it."""
    judge = QualityJudge(lambda key: signal_of(key.signal))
    builder = ReadingsBuilder()
    builder.add(SeriesKey("house1", "co2"), to_ms(START), 40_000.0, TimeQuality.SENDER, to_ms(START))
    assert judge.judge(builder.build())[0].quality.tolist() == [Quality.OUT_OF_RANGE]
