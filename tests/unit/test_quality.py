from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.config import Config, House, SignalOverride
from agent.domain import Kind, Quality, QualityInterval, SeriesKey, TimeQuality, from_ms
from agent.quality import Known, QualityJudge
from agent.readings import EMPTY, Readings, ReadingsBuilder

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY = SeriesKey("house1", "temperature")
START_MS = 1_795_000_000_000
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
GOOD, STUCK, BEYOND, JUMP, STALE, SUSPECT = Quality


def block(
    values: Iterable[float], *, key: SeriesKey = KEY, start_ms: int = START_MS, step_ms: int = MINUTE_MS
) -> Readings:
    builder = ReadingsBuilder()
    for i, value in enumerate(values):
        builder.add(key, start_ms + i * step_ms, value, TimeQuality.SENDER, START_MS)
    return builder.build()


def judge_of(*houses: House) -> QualityJudge:
    return QualityJudge(Config(house=houses).signal)


def qualities(judge: QualityJudge, readings: Readings) -> list[Quality]:
    return [Quality(int(q)) for q in judge.judge(readings)[0].quality]


def test_ordinary_values_are_good_and_open_nothing() -> None:
    judge = judge_of()
    judged, intervals = judge.judge(block([21.0 + 0.1 * (i % 7) for i in range(200)]))
    assert set(judged.quality.tolist()) == {GOOD}
    assert intervals == []
    assert judge.open_intervals(START_MS + 200 * MINUTE_MS) == []
    assert judged.quality.dtype == np.uint8


def test_nothing_comes_of_nothing() -> None:
    assert judge_of().judge(EMPTY) == (EMPTY, [])


@pytest.mark.parametrize(
    ("signal", "value", "quality"),
    [
        ("temperature", -20, GOOD),
        ("temperature", -20.1, BEYOND),
        ("temperature-3", 85, BEYOND),
        ("silo", 3e18, BEYOND),
        ("co2", 349, BEYOND),  # outside air has more
        ("humidity", 0, BEYOND),
        ("humidity", 553, SUSPECT),  # tenths of a percent
        ("humidity", 0.61, SUSPECT),  # a fraction
        ("humidity", 1001, BEYOND),
        ("dead", -20, GOOD),  # a correction
        ("something-else", 1e300, GOOD),
        ("something-else", float("nan"), BEYOND),
    ],
)
def test_a_value_beyond_its_range_is_marked(signal: str, value: float, quality: Quality) -> None:
    assert qualities(judge_of(), block([value], key=SeriesKey("house1", signal))) == [quality]


def test_a_house_may_have_ranges_of_its_own() -> None:
    judge = judge_of(House(id="house1", signals={"temperature": SignalOverride(high=30)}))
    assert qualities(judge, block([31], key=SeriesKey("house1", "temperature-2"))) == [BEYOND]
    assert qualities(judge, block([31], key=SeriesKey("house2", "temperature"))) == [GOOD]


def test_an_interval_tells_from_when_to_when_and_why() -> None:
    """It ends where good readings began, once three of them came: a flicker is one interval, not a hundred."""
    judge = judge_of()
    _, intervals = judge.judge(block([21, 99, 99, 21, 99, 21, 21, 21, 21]))
    began = QualityInterval(KEY, START_MS + MINUTE_MS, None, BEYOND, "99 Cel is above 55")
    assert intervals == [began, began._replace(to_ms=START_MS + 5 * MINUTE_MS)]


def test_an_interval_that_lasts_is_shown_and_ended_with_the_recording() -> None:
    judge = judge_of()
    judge.judge(block([99, 99]))
    (lasting,) = judge.open_intervals(START_MS + MINUTE_MS)
    assert (lasting.from_ms, lasting.to_ms) == (START_MS, None)
    assert judge.close(from_ms(START_MS + MINUTE_MS)) == [lasting._replace(to_ms=START_MS + MINUTE_MS)]


def test_one_fault_that_turns_into_another_makes_two_intervals() -> None:
    _, intervals = judge_of().judge(block([21, 99, 50, 21, 21, 21]))
    assert [(i.quality, i.from_ms - START_MS, i.to_ms) for i in intervals] == [
        (BEYOND, MINUTE_MS, None),
        (BEYOND, MINUTE_MS, START_MS + 2 * MINUTE_MS),
        (JUMP, 2 * MINUTE_MS, None),
        (JUMP, 2 * MINUTE_MS, START_MS + 3 * MINUTE_MS),
    ]


def test_a_spike_is_a_jump_and_the_value_after_it_is_good() -> None:
    judge = judge_of()
    assert qualities(judge, block([21, 21.2, 45, 21.1, 21])) == [GOOD, GOOD, JUMP, GOOD, GOOD]


def test_a_level_that_stays_is_believed_with_its_third_reading() -> None:
    """12 K in a minute is no house; a replaced or moved sensor stays there."""
    judge = judge_of()
    assert qualities(judge, block([10, 40, 40.1, 40, 40.2, 39.9])) == [GOOD, JUMP, JUMP, GOOD, GOOD, GOOD]


def test_values_that_jump_about_stay_marked() -> None:
    judge = judge_of()
    assert qualities(judge, block([0, 50, 25, 54])) == [GOOD, JUMP, JUMP, JUMP]


def test_the_same_change_over_a_longer_time_is_no_jump() -> None:
    assert qualities(judge_of(), block([10, 40], step_ms=10 * MINUTE_MS)) == [GOOD, GOOD]


def test_noise_between_readings_a_second_apart_is_no_jump() -> None:
    assert qualities(judge_of(), block([21, 22, 20.5, 22], step_ms=1000)) == [GOOD] * 4


def test_a_stuck_sensor_is_marked_from_its_time_on_and_the_interval_says_since_when() -> None:
    judge = judge_of()
    values = [20.0, 20.5, *[21.4] * 800, 21.5, 21.6, 21.7]
    judged, intervals = judge.judge(block(values))
    run_ms = START_MS + 2 * MINUTE_MS
    first_stuck = judged.quality.tolist().index(STUCK)
    assert judged.at_ms[first_stuck] == run_ms + 12 * HOUR_MS
    assert set(judged.quality[first_stuck:802].tolist()) == {STUCK}
    assert set(judged.quality[802:].tolist()) == {GOOD}
    assert intervals == [
        QualityInterval(KEY, run_ms, None, STUCK, "always 21.4"),
        QualityInterval(KEY, run_ms, START_MS + 802 * MINUTE_MS, STUCK, "always 21.4"),
    ]


def test_a_restart_makes_no_stuck_sensor_good_and_hides_no_gap() -> None:
    judge = judge_of()
    light = SeriesKey("house1", "light")
    since_ms, heard_ms = START_MS - 13 * HOUR_MS, START_MS - MINUTE_MS
    judge.restore(
        Known(
            rhythms_s={KEY: 60.0, light: 60.0},
            newest_ms={KEY: heard_ms, light: START_MS - HOUR_MS},
            stuck={KEY: (since_ms, 21.4)},
        )
    )
    assert qualities(judge, block([21.4])) == [STUCK]
    _, intervals = judge.judge(block([30], key=light))
    assert intervals == [QualityInterval(light, START_MS - HOUR_MS, START_MS, STALE, "no readings")]
    assert judge.open_intervals(START_MS) == [QualityInterval(KEY, since_ms, None, STUCK, "always 21.4")]


def test_few_readings_of_the_same_value_prove_nothing() -> None:
    assert set(qualities(judge_of(), block([21.4] * 19, step_ms=24 * HOUR_MS))) == {GOOD}


def test_a_signal_that_may_be_constant_is_never_stuck() -> None:
    key = SeriesKey("house1", "ammonia")
    assert set(qualities(judge_of(), block([0.0] * 5000, key=key))) == {GOOD}


def test_a_gap_is_an_interval_and_what_repeats_across_it_is_not_stuck() -> None:
    judge = judge_of()
    judge.judge(block([21.4] * 30))
    later_ms = START_MS + 13 * HOUR_MS
    judged, intervals = judge.judge(block([21.4] * 3, start_ms=later_ms))
    assert judged.quality.tolist() == [GOOD] * 3
    assert intervals == [QualityInterval(KEY, START_MS + 29 * MINUTE_MS, later_ms, STALE, "no readings")]


def test_silence_is_shown_while_it_lasts_by_the_series_own_rhythm() -> None:
    judge = judge_of()
    daily = SeriesKey("house1", "weight")
    judge.judge(block([21.0 + i for i in range(5)]))
    judge.judge(block([1000, 1080, 1160, 1240], key=daily, step_ms=24 * HOUR_MS, start_ms=START_MS - 72 * HOUR_MS))
    assert judge.open_intervals(START_MS + 4 * MINUTE_MS + 150_000) == []
    (silent,) = judge.open_intervals(START_MS + 4 * MINUTE_MS + 151_000)
    assert silent == QualityInterval(KEY, START_MS + 4 * MINUTE_MS, None, STALE, "no readings")
    assert len(judge.open_intervals(START_MS + 73 * HOUR_MS)) == 2


def test_the_rhythm_is_the_median_interval_and_survives_a_restart() -> None:
    judge = judge_of()
    assert judge.rhythm_s(KEY) is None
    judge.judge(block([21, 22, 21]))
    assert judge.rhythm_s(KEY) is None
    judge.judge(block([21, 22, 21], start_ms=START_MS + HOUR_MS))
    assert judge.rhythm_s(KEY) == 60.0
    again = judge_of()
    again.restore(Known(rhythms_s={KEY: 60.0}))
    assert again.rhythm_s(KEY) == 60.0
    again.judge(block([21, 22]))
    assert again.rhythm_s(KEY) == 60.0
    assert again.open_intervals(START_MS + HOUR_MS)[0].quality is STALE


def test_a_late_reading_is_judged_by_its_range_alone_and_changes_nothing() -> None:
    judge = judge_of()
    judge.judge(block([21, 21.1, 21.2]))
    late = block([50, 99], start_ms=START_MS - HOUR_MS)
    judged, intervals = judge.judge(late)
    assert judged.quality.tolist() == [GOOD, BEYOND]
    assert intervals == []
    assert qualities(judge, block([21.1], start_ms=START_MS + 3 * MINUTE_MS)) == [GOOD]


def test_how_readings_are_cut_into_blocks_changes_nothing() -> None:
    values = [21, 22, 99, 21, *[21.4] * 900, 45, 21, 21, 50, 50, 50, 50]
    whole, whole_intervals = judge_of().judge(block(values))
    judge = judge_of()
    parts = [judge.judge(whole.take(np.arange(i, min(i + 7, len(values))))) for i in range(0, len(values), 7)]
    assert np.concatenate([part.quality for part, _ in parts]).tolist() == whole.quality.tolist()
    assert [interval for _, intervals in parts for interval in intervals] == whole_intervals


# --- stuck by its own past


def moving(minutes: int, every: int = 1) -> list[float]:
    """Return values in tenths that move each ``every`` minutes."""
    return [21 + 0.1 * ((i // every) % 9) for i in range(minutes)]


@pytest.mark.parametrize(
    ("every", "hours"),
    [(1, 3), (40, 4), (180, 12)],
    ids=["moves each minute", "stands for 40 min", "stands for three hours"],
)
def test_stuck_is_what_stands_six_times_longer_than_ever_before(every: int, hours: float) -> None:
    """Three hours at least, and the catalogue's twelve at most."""
    judge = judge_of()
    past = moving(2880 // every * every, every)
    judge.judge(block(past))
    begins = START_MS + len(past) * MINUTE_MS
    judged, intervals = judge.judge(block([25.0] * 14 * 60, start_ms=begins))
    first = judged.quality.tolist().index(STUCK)
    assert first / 60 == pytest.approx(hours, abs=0.05)
    assert intervals[-1] == QualityInterval(KEY, begins, None, STUCK, "always 25")


def test_a_value_that_only_stood_is_called_stuck_once_and_a_frozen_one_each_time() -> None:
    for step, times in ((0.1, 1), (2.0, 3)):
        judge, at_ms, found = judge_of(), START_MS, 0
        for _ in range(3):
            past = [*moving(2880), *[22.0] * 240]
            found += sum(i.to_ms is None for i in judge.judge(block(past, start_ms=at_ms))[1])
            at_ms += len(past) * MINUTE_MS
            found += sum(i.to_ms is None for i in judge.judge(block([22.0 + step] * 5, start_ms=at_ms))[1])
            at_ms += 5 * MINUTE_MS
        assert found == times


def test_in_the_first_day_and_after_a_gap_nobody_knows_how_long_a_value_stands() -> None:
    judge = judge_of()
    judged, _ = judge.judge(block([*moving(600), *[25.0] * 11 * 60]))
    assert STUCK not in judged.quality.tolist()


def test_what_repeats_after_hours_of_nonsense_was_not_seen_to_stand() -> None:
    judge = judge_of()
    judge.judge(block(moving(2880)))
    values = [25.0] * 5 + [99.0] * 240 + [25.0] * 30
    judged, _ = judge.judge(block(values, start_ms=START_MS + 2880 * MINUTE_MS))
    assert set(judged.quality[245:].tolist()) == {GOOD}


def test_what_stands_at_an_end_of_its_range_is_fog_and_no_fault() -> None:
    key = SeriesKey("house1", "outside_humidity")
    judge = judge_of()
    judge.judge(block([80.0 + i % 7 for i in range(2880)], key=key))
    judged, _ = judge.judge(block([100.0] * 20 * 60, key=key, start_ms=START_MS + 2880 * MINUTE_MS))
    assert set(judged.quality.tolist()) == {GOOD}


def test_whole_numbers_that_stand_for_hours_are_good() -> None:
    """A real ammonia sensor: 12 ppm for hours, 0 for days on new litter."""
    key = SeriesKey("house1", "ammonia")
    values = [float(i % 3) for i in range(3000)] + [12.0] * 600 + [0.0] * 5000
    assert set(qualities(judge_of(), block(values, key=key))) == {GOOD}


# --- silence


def test_one_missing_reading_of_a_wobbling_timer_is_no_gap_and_two_are() -> None:
    rng = np.random.default_rng(3)
    for missing in (1, 2):
        judge, at_ms, gaps = judge_of(), float(START_MS), 0
        for i in range(2000):
            at_ms += 1000 * rng.normal(332, 30, 1 + missing if i % 50 == 49 else 1).sum()
            _, intervals = judge.judge(block([21 + 0.1 * (i % 7)], start_ms=round(at_ms)))
            gaps += len(intervals)
        assert gaps == (0 if missing == 1 else 40)


def test_a_sender_of_uneven_pace_has_no_gap_each_time_it_is_slow() -> None:
    """Three minutes and five, as a real house sends."""
    judge, at_ms, found = judge_of(), START_MS, []
    for i in range(500):
        at_ms += (3 if i % 5 else 5) * MINUTE_MS
        found += judge.judge(block([21 + 0.1 * (i % 7)], start_ms=at_ms))[1]
    assert found == []


# --- scales, units, meters

WEIGHT = SeriesKey("house1", "weight")
GROWING = [float(42 + round(1.5 * n * n)) for n in range(1, 35)]  # g, once a day


def scale(values: Iterable[float], hours: float = 24) -> list[Quality]:
    return qualities(judge_of(), block(values, key=WEIGHT, step_ms=round(hours * HOUR_MS)))


def test_growing_birds_are_good_on_any_scale() -> None:
    """Once a day, or each five minutes with the noise of its weighings; and the next flock on it, too."""
    assert set(scale([*GROWING, *GROWING])) == {GOOD}
    rng = np.random.default_rng(1)
    fine = np.interp(np.arange(0, 33, 1 / 288), np.arange(34), GROWING) * (1 + 0.005 * rng.standard_normal(33 * 288))
    assert set(scale(np.rint(fine).tolist(), 1 / 12)) == {GOOD}


@pytest.mark.parametrize("factor", [0.88, 1.4], ids=["steps back", "jumps"])
def test_a_days_mean_that_no_bird_can_follow_is_marked_and_the_next_is_good(factor: float) -> None:
    values = list(GROWING)
    values[27] = round(values[27] * factor)
    found = scale(values)
    assert found[27] is JUMP
    assert found.count(JUMP) == 1


def test_a_scale_that_drifts_off_within_a_day_is_marked_although_no_reading_jumps() -> None:
    """Litter builds up on the platform: 500 g in ten hours, 4 g at a time."""
    values = [1500.0] * 288 + [1500.0 + 4.2 * i for i in range(120)] + [2000.0] * 100
    found = scale(values, 1 / 12)
    assert set(found[: 288 + 55]) == {GOOD}
    assert set(found[288 + 65 :]) == {JUMP}
    _, intervals = judge_of().judge(block(values, key=WEIGHT, step_ms=5 * MINUTE_MS))
    assert "birds do not gain 250 g a day" in intervals[0].reason


def test_a_weight_that_stays_for_a_day_and_a_half_is_what_the_birds_weigh() -> None:
    found = scale([1500.0] * 288 + [1300.0] * 3 * 288, 1 / 12)
    assert set(found[288 : 288 + 36 * 12]) == {JUMP}
    assert set(found[288 + 37 * 12 :]) == {GOOD}


@pytest.mark.parametrize(
    ("signal", "value", "reason"),
    [
        ("weight", 2.31, "2.31 g looks like kilograms"),
        ("weight", 23_100, "23100 g looks like tenths of a gram"),
        ("temperature", 215, "215 Cel looks like tenths of a degree"),
        ("humidity", 553, "553 %RH looks like tenths of a percent"),
        ("co2", 0.15, "0.15 ppm looks like percent"),
        ("co2", 310, "310 ppm is below 350: fresh air has more, its zero is wrong"),
        ("silo", 3e18, "3e+18 kg is above 100000"),
    ],
)
def test_a_reason_says_what_it_looks_like(signal: str, value: float, reason: str) -> None:
    _, intervals = judge_of().judge(block([value], key=SeriesKey("house1", signal)))
    assert [interval.reason for interval in intervals] == [reason]


def test_a_counter_may_show_anything_and_rise_by_what_one_reading_can_hold() -> None:
    key = SeriesKey("house1", "water")
    judge = judge_of(House(id="house1", signals={"water": SignalOverride(kind=Kind.COUNTER)}))
    assert qualities(judge, block([9e6, 9e6 + 10, 0, 12, 1e7, 30, -1], key=key)) == [
        GOOD, GOOD, GOOD, GOOD, JUMP, GOOD, BEYOND,
    ]  # fmt: skip


def test_a_stuck_sensor_that_was_known_before_a_restart_is_stuck_until_it_moves() -> None:
    """Its own past, which found it after three hours, is forgotten: the fault is not."""
    judge = judge_of()
    judge.restore(Known(rhythms_s={KEY: 60.0}, newest_ms={KEY: START_MS}, stuck={KEY: (START_MS - 4 * HOUR_MS, 21.4)}))
    judged, intervals = judge.judge(block([21.4, 21.4, 21.5, 21.6, 21.7], start_ms=START_MS + MINUTE_MS))
    assert judged.quality.tolist() == [STUCK, STUCK, GOOD, GOOD, GOOD]
    [ended] = intervals
    assert (ended.from_ms, ended.to_ms) == (START_MS - 4 * HOUR_MS, START_MS + 3 * MINUTE_MS)
