from __future__ import annotations

import math
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from agent.clock import FarmDays
from agent.domain import Kind, Quality, SeriesKey, to_ms
from agent.manifest import Feature, Grid, InputSpec
from agent.readings import Readings
from agent.signals import CATALOGUE, Signal
from agent.strains import ROSS_308
from agent.window import Bucket, FlockContext, Measured, Window, curve_at, curves_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

UTC_DAYS = FarmDays(ZoneInfo("UTC"))
START = datetime(2026, 3, 1, tzinfo=UTC)
FLOCK = FlockContext(to_ms(START), ROSS_308, birds_placed=20_000)

WATER = Feature(signal="water", aggregate="sum")
TEMPERATURE = Feature(signal="temperature")


def block(
    signal: str,
    at: Sequence[datetime] | NDArray[np.int64],
    values: Sequence[float] | NDArray[np.floating | np.integer],
    *,
    house: str = "house1",
    quality: Quality = Quality.GOOD,
    received: datetime | None = None,
) -> Readings:
    """Return readings of one series."""
    at_ms = np.array([to_ms(t) if isinstance(t, datetime) else t for t in at], np.int64)
    n = len(at_ms)
    received_ms = at_ms if received is None else np.full(n, to_ms(received))
    key = np.zeros(n, np.int32)
    marks = np.full(n, quality, np.uint8)
    return Readings(
        (SeriesKey(house, signal),),
        key,
        at_ms,
        np.asarray(values, np.float64),
        marks,
        key.astype(np.uint8),
        received_ms,
    )


def every(minutes: float, hours: float, begin: datetime = START) -> list[datetime]:
    """Return the times of readings, the first one step after ``begin``."""
    return [begin + timedelta(minutes=minutes * i) for i in range(1, round(hours * 60 / minutes) + 1)]


def a_window(*names: str, days: FarmDays = UTC_DAYS, **overrides: Signal) -> Window:
    """Return a window on signals of the catalogue."""
    signals: Mapping[str, Signal] = {name: CATALOGUE.get(name, Signal(name)) for name in names} | overrides
    return Window("house1", signals, days)


def spec_of(
    *features: Feature, step_s: int = 3600, length: int = 4, align: str = "end", mask: str | None = "mask"
) -> InputSpec:
    """Return an input with those columns."""
    grid = Grid.model_validate({"step_s": step_s, "length": length, "align": align})
    return InputSpec(name="course", shape=("houses", length, len(features)), grid=grid, features=features, mask=mask)


def column(window: Window, feature: Feature, at: datetime, **kind: int | str) -> list[float]:
    """Return one column of a tensor."""
    spec = spec_of(feature, **kind)  # type: ignore[arg-type]  # the same keywords
    return [float(v) for v in window.tensor(spec, at, FLOCK).values[:, 0]]


def test_a_value_at_the_full_ten_minutes_belongs_to_the_ten_minutes_that_end_there() -> None:
    window = a_window("temperature")
    window.add(block("temperature", [START + timedelta(minutes=m) for m in (10, 20, 30)], [20.0, 30.0, 40.0]))
    assert column(window, TEMPERATURE, START + timedelta(minutes=20), step_s=600, length=2) == [20.0, 30.0]


def test_a_days_total_stamped_at_midnight_belongs_to_the_day_that_ended() -> None:
    window = a_window("water")
    midnights = [START + timedelta(days=d) for d in (1, 2, 3)]
    window.add(block("water", midnights, [1000.0, 2000.0, 3000.0]))
    assert column(window, WATER, midnights[-1], step_s=86_400, length=3, align="day") == [1000, 2000, 3000]


def test_the_day_so_far_is_unmeasured_where_only_daily_totals_come() -> None:
    window = a_window("water")
    window.add(block("water", [START + timedelta(days=d) for d in (1, 2)], [1000.0, 2000.0]))
    values = column(window, WATER, START + timedelta(days=2, hours=15), step_s=86_400, length=3, align="day")
    assert values[:2] == [1000, 2000]
    assert math.isnan(values[2])


def test_the_last_row_of_a_day_grid_is_the_farm_day_so_far() -> None:
    """The farm day begins at 06:00 in Copenhagen: the sum since then, and no reading before it."""
    days = FarmDays(ZoneInfo("Europe/Copenhagen"), time(6, 0))
    window = a_window("water", days=days)
    window.add(block("water", every(10, 48), [7.0] * 288))
    at = START + timedelta(days=1, hours=8)  # 09:00 there: three hours since 06:00
    assert column(window, WATER, at, step_s=86_400, length=2, align="day")[-1] == pytest.approx(7 * 6 * 3)


def test_a_day_of_23_hours_counts_as_fully_covered() -> None:
    """The clocks go forward on 29 March 2026."""
    days = FarmDays(ZoneInfo("Europe/Copenhagen"))
    window = a_window("water", days=days)
    begin = datetime(2026, 3, 28, 23, tzinfo=UTC)
    window.add(block("water", every(10, 47, begin), [1.0] * 282))
    spec = spec_of(WATER, step_s=86_400, length=2, align="day")
    found = window.tensor(spec, begin + timedelta(hours=47), None)
    assert found.values[:, 0].tolist() == [138, 144]
    assert found.coverage == pytest.approx(1, abs=0.01)


def test_a_gap_is_masked_and_never_zero() -> None:
    window = a_window("water")
    times = [t for t in every(1, 4) if not START + timedelta(hours=1) < t <= START + timedelta(hours=2)]
    window.add(block("water", times, [5.0] * len(times)))
    found = window.tensor(spec_of(WATER), START + timedelta(hours=4), FLOCK)
    assert found.mask is not None
    assert found.mask[:, 0].tolist() == [1, 0, 1, 1]
    assert math.isnan(found.values[1, 0])
    assert found.coverage == pytest.approx(0.75, abs=0.02)


def test_a_sum_over_a_half_measured_hour_is_the_rate_of_the_measured_half() -> None:
    window = a_window("water")
    times = [t for t in every(1, 1) if t <= START + timedelta(minutes=40)]
    window.add(block("water", times, [5.0] * len(times)))
    assert column(window, WATER, START + timedelta(hours=1), length=1) == [pytest.approx(300)]


def test_a_burst_does_not_make_up_for_a_gap() -> None:
    window = a_window("temperature")
    window.add(block("temperature", every(1, 1), [20.0] * 60))
    burst = [START + timedelta(hours=1, seconds=s) for s in range(1, 301)]
    window.add(block("temperature", burst, [20.0] * 300))
    window.load([], {"temperature": 60.0})
    [measured] = window.measure((TEMPERATURE,), 3600, START + timedelta(hours=2), FLOCK)
    assert measured.coverage < 0.25
    assert math.isnan(measured.value)


def test_a_wobbling_timer_of_332_seconds_gives_full_coverage_and_the_right_rate() -> None:
    rng = np.random.default_rng(1)
    gaps = rng.normal(332, 15, 600)
    at_ms = to_ms(START) + np.cumsum(gaps * 1000).astype(np.int64)
    window = a_window("water")
    window.add(block("water", at_ms, gaps / 60))  # one litre a minute
    values = np.array(column(window, WATER, START + timedelta(hours=48), length=24))
    assert values.mean() == pytest.approx(60, rel=0.02)
    assert values.std() < 3


def test_a_step_much_shorter_than_the_rhythm_says_nothing_about_amounts() -> None:
    """Hourly totals: an hour is known, ten minutes are not; a level holds for ten minutes."""
    window = a_window("water", "temperature")
    times = every(60, 12)
    window.add(block("water", times, [60.0] * 12))
    window.add(block("temperature", times, [21.0] * 12))
    at = START + timedelta(hours=12)
    assert column(window, WATER, at, length=3) == [60, 60, 60]
    assert all(math.isnan(v) for v in column(window, WATER, at, step_s=600, length=6))
    assert column(window, TEMPERATURE, at, step_s=600, length=6)[-1] == 21


def test_a_late_reading_goes_where_its_own_time_says() -> None:
    window = a_window("temperature")
    window.add(block("temperature", every(10, 6), [20.0] * 36))
    window.add(block("temperature", [START + timedelta(minutes=65)], [50.0], received=START + timedelta(hours=6)))
    values = column(window, TEMPERATURE, START + timedelta(hours=6), step_s=600, length=36)
    assert values[6] == pytest.approx(35)
    assert values[35] == 20


def test_what_is_older_than_fourteen_days_is_forgotten_in_buckets_and_known_by_the_day() -> None:
    window = a_window("temperature")
    window.add(block("temperature", every(60, 24 * 20), [20.0] * 480))
    window.add(
        block("temperature", [START + timedelta(hours=1, seconds=1)], [99.0], received=START + timedelta(days=20))
    )
    at = START + timedelta(days=20)
    assert column(window, TEMPERATURE, at, step_s=86_400, length=20, align="day")[0] > 20
    assert not np.isin(99, np.array(column(window, TEMPERATURE, at, step_s=600, length=2016)))
    [before] = window.measure((TEMPERATURE,), 3600, START + timedelta(days=3), FLOCK)
    assert math.isnan(before.value)


def test_a_reading_from_the_future_does_not_push_the_others_out() -> None:
    window = a_window("temperature")
    window.add(block("temperature", every(10, 1), [20.0] * 6))
    window.add(block("temperature", [START + timedelta(days=900)], [20.0], received=START + timedelta(hours=1)))
    assert column(window, TEMPERATURE, START + timedelta(hours=1), length=1) == [20]


def test_only_good_readings_of_the_own_house_and_watched_signals_enter() -> None:
    window = a_window("temperature")
    times = every(10, 1)
    window.add(block("temperature", times, [20.0] * 6))
    window.add(block("temperature", times, [90.0] * 6, house="house2"))
    window.add(block("temperature", times, [90.0] * 6, quality=Quality.STUCK))
    window.add(block("co2", times, [900.0] * 6))
    assert column(window, TEMPERATURE, START + timedelta(hours=1), length=1) == [20]
    assert window.rhythms_s() == {"temperature": 600}


METER = Signal("water", "l", Kind.COUNTER, 0, 50_000)


def test_a_counter_becomes_increments_and_its_first_reading_is_unknown() -> None:
    window = a_window(water=METER)
    times = every(1, 2)
    window.add(block("water", times, 1000 + 5.0 * np.arange(120)))
    assert column(window, WATER, START + timedelta(hours=2), length=2) == [pytest.approx(300), pytest.approx(300)]


def test_a_counter_that_begins_again_at_zero_goes_on_from_there() -> None:
    window = a_window(water=METER)
    totals = np.concatenate((9000 + 5.0 * np.arange(30), 5.0 * np.arange(1, 31)))
    window.add(block("water", every(1, 1), totals))
    assert column(window, WATER, START + timedelta(hours=1), length=1) == [pytest.approx(300)]


def test_a_fall_to_an_implausible_total_is_no_amount() -> None:
    """A meter was exchanged for one that shows 8,000,000: what flowed meanwhile is unknown, not eight million."""
    window = a_window(water=METER)
    totals = np.concatenate((9e6 + 5.0 * np.arange(30), 8e6 + 5.0 * np.arange(30)))
    window.add(block("water", every(1, 1), totals))
    assert column(window, WATER, START + timedelta(hours=1), length=1) == [pytest.approx(300)]


def test_one_slip_of_a_meter_to_zero_adds_nothing() -> None:
    window = a_window(water=METER)
    totals = 9000 + 5.0 * np.arange(60)
    totals[30] = 0
    window.add(block("water", every(1, 1), totals))
    assert column(window, WATER, START + timedelta(hours=1), length=1) == [pytest.approx(300, rel=0.02)]


@pytest.mark.parametrize("modulus", [1e5, 2.0**16, 2.0**32, 6553.6])
def test_a_meter_that_can_count_no_further_goes_on_over_its_end(modulus: float) -> None:
    window = a_window(water=METER)
    totals = (modulus - 100 + 5.0 * np.arange(60)) % modulus
    window.add(block("water", every(1, 1), totals))
    [bucket] = [b for b in window.take_changed() if b.step_s == 86_400]
    assert bucket.sum == pytest.approx(5 * 59)


def test_a_meter_that_falls_back_a_little_adds_nothing_that_did_not_flow() -> None:
    """A litre of backflow is no reset with 8,999 l after it."""
    window = a_window(water=METER)
    window.add(block("water", every(1, 1)[:6], [8990.0, 8995, 9000, 8999, 9005, 9010]))
    [bucket] = [b for b in window.take_changed() if b.step_s == 86_400]
    assert bucket.sum == 20


def test_a_count_of_the_dead_that_is_set_right_takes_them_back() -> None:
    window = a_window(dead=Signal("dead", "birds", Kind.COUNTER, -5_000, 100_000))
    window.add(block("dead", every(60, 4), [100.0, 120, 118, 121]))
    [bucket] = [b for b in window.take_changed() if b.step_s == 86_400]
    assert bucket.sum == 21


def test_a_reset_with_a_huge_day_is_no_amount() -> None:
    """An electricity meter that showed 10^7 kWh for a day; what flowed before and after counts."""
    window = a_window(energy=Signal("energy", "kWh", Kind.COUNTER, 0, 100_000))
    window.add(block("energy", [START + timedelta(days=d) for d in range(1, 7)], [100.0, 350, 1e7, 600, 850, 1100]))
    assert sum(b.sum for b in window.take_changed() if b.step_s == 86_400) == 250 + 250 + 250 + 250


def test_a_total_that_arrives_late_is_not_counted_twice() -> None:
    window = a_window(water=METER)
    times, totals = every(1, 1), 1000 + 5.0 * np.arange(60)
    is_late = np.isin(np.arange(60), [20, 40])
    window.add(block("water", times, totals).take(~is_late))
    window.add(block("water", times, totals).take(is_late))
    [bucket] = [b for b in window.take_changed() if b.step_s == 86_400]
    assert bucket.sum <= 5 * 59


def test_what_a_meter_counted_through_a_silence_is_unknown() -> None:
    window = a_window(water=METER)
    times = [t for t in every(1, 8) if not START + timedelta(hours=2) < t <= START + timedelta(hours=6)]
    totals = [5.0 * (t - START).total_seconds() / 60 for t in times]
    window.add(block("water", times, totals))
    values = column(window, WATER, START + timedelta(hours=8), length=8)
    assert [math.isnan(v) for v in values] == [False, False, True, True, True, True, False, False]
    assert values[6] == pytest.approx(300, rel=0.02)


@pytest.mark.parametrize("swallowed", [True, False], ids=["the next reading holds it", "it is lost"])
def test_an_amount_after_a_silence_does_not_show_as_a_surge_or_a_stop(swallowed: bool) -> None:
    """Twenty minutes without a message: whether the sender adds them to the next reading or not, the rate holds."""
    window = a_window("water")
    times = [t for t in every(10, 6) if t not in {START + timedelta(hours=4, minutes=m) for m in (20, 30)}]
    amounts = [10.0] * len(times)
    if swallowed:
        amounts[times.index(START + timedelta(hours=4, minutes=40))] = 30.0
    window.add(block("water", times, amounts))
    assert column(window, WATER, START + timedelta(hours=6), length=3) == [60, 60, 60]


def test_a_counters_split_into_blocks_changes_nothing() -> None:
    times, totals = every(1, 3), 1000 + 5.0 * np.arange(180)
    whole, parts = a_window(water=METER), a_window(water=METER)
    whole.add(block("water", times, totals))
    for i in range(0, 180, 7):
        parts.add(block("water", times[i : i + 7], totals[i : i + 7]))
    assert parts.take_changed() == whole.take_changed()


def test_numbered_meters_are_added_and_numbered_thermometers_averaged() -> None:
    window = a_window("water", "temperature")
    times = every(10, 2)
    for name, value in (("water-1", 6.0), ("water-2", 4.0), ("temperature-1", 20.0), ("temperature-2", 24.0)):
        window.add(block(name, times, [value] * 12))
    at = START + timedelta(hours=2)
    assert column(window, WATER, at, length=1) == [60]
    assert column(window, TEMPERATURE, at, length=1) == [22]


def test_one_silent_meter_of_two_makes_the_amount_unknown_not_half() -> None:
    window = a_window("water", "temperature")
    times = every(10, 4)
    window.add(block("water-1", times, [6.0] * 24))
    window.add(block("water-2", times[:12], [4.0] * 12))
    window.add(block("temperature-1", times, [20.0] * 24))
    window.add(block("temperature-2", times[:12], [24.0] * 12))
    at = START + timedelta(hours=4)
    values = column(window, WATER, at)
    assert values[:2] == [60, 60]
    assert math.isnan(values[3])
    assert column(window, TEMPERATURE, at)[-1] == 20


def test_a_meter_that_was_taken_away_is_no_part_of_the_sum_after_three_days() -> None:
    window = a_window("water")
    window.add(block("water-1", every(10, 24 * 5), [6.0] * 720))
    window.add(block("water-2", every(10, 4), [4.0] * 24))
    assert column(window, WATER, START + timedelta(days=5), length=1) == [36]


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        ("mean", 3.5),
        ("sum", 21.0),
        ("min", 1.0),
        ("max", 6.0),
        ("last", 6.0),
        ("median", 3.5),
        ("count", 6.0),
        ("gain", 6.0),
    ],
)
def test_an_aggregate_is_what_its_name_says(aggregate: str, expected: float) -> None:
    window = a_window(level=Signal("level"))
    window.add(block("level", every(10, 2), [-5.0, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6]))
    feature = Feature.model_validate({"signal": "level", "aggregate": aggregate})
    assert column(window, feature, START + timedelta(hours=2), length=1) == [pytest.approx(expected)]


def test_per_bird_uses_the_birds_alive_in_the_middle_of_the_step() -> None:
    flock = FlockContext(
        to_ms(START),
        ROSS_308,
        birds_placed=1000,
        removed_at_ms=np.array([to_ms(START + timedelta(hours=1))]),
        removed=np.array([500.0]),
    )
    window = a_window("water")
    window.add(block("water", every(10, 2), [10.0] * 12))
    spec = spec_of(
        Feature(signal="water", aggregate="sum", per="live_bird"),
        Feature(signal="water", aggregate="sum", per="bird_placed"),
        length=2,
    )
    assert window.tensor(spec, START + timedelta(hours=2), flock).values == pytest.approx(
        np.array([[0.06, 0.06], [0.12, 0.06]])
    )


def test_a_reference_is_the_breed_curve_at_the_rows_own_age() -> None:
    """Weight against the curve's weight in the middle of the day, feed in kg against its intake of the day, in g."""
    window = a_window("weight", "feed")
    days = [START + timedelta(days=d) for d in range(1, 11)]
    window.add(block("weight", days, [float(w) for w in ROSS_308.weight_g[1:11]]))
    window.add(block("feed", days, [20_000 * f / 1000 for f in ROSS_308.feed_g[1:11]]))
    spec = spec_of(
        Feature(signal="weight", reference="strain.weight_g", transform="log"),
        Feature(signal="feed", aggregate="sum", per="live_bird", reference="strain.feed_g"),
        step_s=86_400,
        length=10,
        align="day",
    )
    values = window.tensor(spec, days[-1], FLOCK).values
    assert values[:, 1] == pytest.approx(np.ones(10))
    assert values[-1, 0] == pytest.approx(math.log(330 / ((288 + 330) / 2)))


def test_without_a_flock_or_a_count_what_is_per_bird_is_unknown() -> None:
    window = a_window("water")
    window.add(block("water", every(10, 1), [10.0] * 6))
    spec = spec_of(Feature(signal="water", aggregate="sum", per="live_bird"), length=1)
    at = START + timedelta(hours=1)
    assert math.isnan(window.tensor(spec, at, None).values[0, 0])
    assert math.isnan(window.tensor(spec, at, FlockContext(to_ms(START), ROSS_308)).values[0, 0])


def test_before_the_birds_came_nothing_is_per_bird() -> None:
    window = a_window("water")
    window.add(block("water", every(10, 4), [10.0] * 24))
    flock = FlockContext(to_ms(START + timedelta(hours=2, minutes=30)), ROSS_308, birds_placed=1000)
    spec = spec_of(Feature(signal="water", aggregate="sum", per="live_bird"))
    values = window.tensor(spec, START + timedelta(hours=4), flock).values[:, 0]
    assert np.isnan(values).tolist() == [True, True, True, False]


def test_the_times_in_which_a_signal_was_out_of_its_course_are_masked() -> None:
    """Every step that touches them, of that signal only: a warning that stands, and one that is over."""
    window = a_window("water", "temperature")
    window.add(block("water", every(10, 6), [10.0] * 36))
    window.add(block("temperature", every(10, 6), [20.0] * 36))
    at = START + timedelta(hours=6)
    stood = (START + timedelta(minutes=30), START + timedelta(hours=1, minutes=30))
    stands = (START + timedelta(hours=4, minutes=30), at)
    found = window.tensor(spec_of(WATER, TEMPERATURE, length=6), at, FLOCK, {"water": [stood, stands]})
    assert found.mask is not None
    assert found.mask[:, 0].tolist() == [0, 0, 1, 1, 0, 0]
    assert found.mask[:, 1].tolist() == [1] * 6


def test_the_fill_stands_where_nothing_was_measured() -> None:
    spec = InputSpec(
        name="x",
        shape=("houses", 2, 1),
        grid=Grid(step_s=600, length=2),
        features=(TEMPERATURE,),
        fill=-1.0,
        dtype="float64",
    )
    found = a_window("temperature").tensor(spec, START, None)
    assert found.values.tolist() == [[-1], [-1]]
    assert found.values.dtype == np.float64
    assert found.coverage == 0


def test_facts_are_as_of_the_window_end_and_unknown_ones_are_nan() -> None:
    flock = FlockContext(
        to_ms(START),
        ROSS_308,
        birds_placed=1000,
        sex="male",
        slaughter_at_ms=to_ms(START + timedelta(days=36)),
        facts={"house.weight_bias": 0.02},
    )
    names = (
        "age_days", "day_number", "birds_placed", "live_birds", "parent_age_weeks", "hour_sin", "hour_cos",
        "day_fraction",
        "days_to_slaughter", "strain:ross308", "strain:cobb500", "sex:male", "house.weight_bias", "house.other",
        "reference.weight_g", "reference.feed_g",
    )  # fmt: skip
    spec = InputSpec(name="facts", shape=("houses", len(names)), facts=names)
    at = START + timedelta(days=10, hours=6)
    values = dict(zip(names, a_window().tensor(spec, at, flock).values.tolist(), strict=True))
    assert values["age_days"] == 10.25
    assert values["day_number"] == 10
    assert values["live_birds"] == 1000
    assert math.isnan(values["parent_age_weeks"])
    assert (values["hour_sin"], values["hour_cos"]) == (pytest.approx(1), pytest.approx(0, abs=1e-7))
    assert values["day_fraction"] == 0.25
    assert values["days_to_slaughter"] == 25.75
    assert (values["strain:ross308"], values["strain:cobb500"], values["sex:male"]) == (1, 0, 1)
    assert values["house.weight_bias"] == pytest.approx(0.02)
    assert math.isnan(values["house.other"])
    assert values["reference.weight_g"] == pytest.approx(330 + 0.25 * 46)
    assert 48 < values["reference.feed_g"] < 52
    assert math.isnan(a_window().tensor(spec, at, None).values[0])


def test_a_grid_that_ends_with_the_horizon_is_known_in_hindsight_only() -> None:
    """What an expectation may take as given: measured when the agent looks back, missing in a forecast."""
    grid = Grid(step_s=3600, length=1, end="horizon")
    light = InputSpec(name="light", shape=("houses", 1, 1), grid=grid, features=(Feature(signal="light"),), mask="lit")
    course = spec_of(Feature(signal="light"), length=1, mask=None)
    window = a_window("light")
    window.add(block("light", every(10, 2), [0.0] * 6 + [20.0] * 6))
    at = START + timedelta(hours=1)
    back = window.inputs((course, light), at, FLOCK, ahead=timedelta(hours=1))
    assert (back.tensors["course"].item(), back.tensors["light"].item(), back.tensors["lit"].item()) == (0, 20, 1)
    forecast = window.inputs((course, light), at, FLOCK)
    assert math.isnan(forecast.tensors["light"].item())
    assert forecast.tensors["lit"].item() == 0
    assert forecast.coverage == back.coverage == 1


def test_a_curve_goes_on_beyond_the_breeders_last_day() -> None:
    weight, eaten = curves_of(ROSS_308)
    assert curve_at(weight, np.array([-1.0, 0.5, 56, 58]))[[0, 1, 2]].tolist() == [44, 53, 4318]
    assert curve_at(weight, np.array([58.0]))[0] == 4318 + 2 * 88
    assert eaten[57] - eaten[56] == 234


def test_a_window_that_is_loaded_again_gives_the_same_features() -> None:
    """What the store keeps is enough: buckets and rhythms; a counter goes on where it was."""
    first = a_window("temperature", "weight", water=METER)
    times = every(1, 24 * 3)
    rng = np.random.default_rng(3)
    totals = 1000 + np.cumsum(rng.integers(0, 9, len(times)))
    first.add(block("water", times[:-60], totals[:-60]))
    first.add(block("temperature", times[:-60], rng.normal(20, 1, len(times) - 60)))
    first.add(block("weight", [START + timedelta(days=d) for d in (1, 2)], [62.0, 81.0]))
    again = a_window("temperature", "weight", water=METER)
    again.load([Bucket(*b) for b in first.take_changed()], first.rhythms_s())
    for window in (first, again):
        window.add(block("water", times[-60:], totals[-60:]))
    features = (
        WATER,
        TEMPERATURE,
        Feature(signal="temperature", aggregate="median"),
        Feature(signal="water", aggregate="max"),
    )
    at = START + timedelta(days=3)
    for kind in (spec_of(*features, length=48), spec_of(*features, step_s=86_400, length=3, align="day")):
        wanted = first.tensor(kind, at, FLOCK).values
        got = again.tensor(kind, at, FLOCK).values
        assert got == pytest.approx(wanted, rel=1e-5, nan_ok=True)
    daily = Feature(signal="weight")
    assert column(again, daily, at, step_s=86_400, length=3, align="day")[:2] == [62, 81]
    assert again.rhythms_s()["weight"] == 86_400


def test_take_changed_gives_each_change_once() -> None:
    window = a_window("temperature")
    window.add(block("temperature", every(10, 1), [20.0] * 6))
    assert len(window.take_changed()) == 7
    assert window.take_changed() == []
    window.add(block("temperature", [START + timedelta(minutes=5)], [30.0]))
    changed = window.take_changed()
    fine, daily = changed
    ten, sixty = (to_ms(START + timedelta(minutes=m)) for m in (10, 60))
    assert fine[2:] == (600, to_ms(START), 2, 50, 20, 30, 20, ten)
    assert daily[2:] == (86_400, to_ms(START), 7, 150, 20, 30, 20, sixty)


def test_nothing_later_than_the_window_end_is_looked_at() -> None:
    """The same readings with and without a future: equal features at every instant before it."""
    names = ("water", "temperature")
    known, all_known = a_window(*names), a_window(*names)
    now = START + timedelta(days=2, hours=7)
    for name in names:
        times = every(5, 24 * 4)
        readings = block(name, times, np.random.default_rng(5).uniform(1, 2, len(times)))
        all_known.add(readings)
        known.add(readings.take(readings.at_ms <= to_ms(now)))
    gain = Feature(signal="temperature", aggregate="gain")
    for kind in (spec_of(WATER, gain, length=24), spec_of(WATER, gain, step_s=86_400, length=3, align="day")):
        found, wanted = (window.tensor(kind, now, FLOCK).values for window in (all_known, known))
        np.testing.assert_array_equal(found, wanted)


def test_features_of_many_times_at_once_are_those_of_each_time() -> None:
    """Training asks for many instants together, the agent for one: bit for bit the same, masks and gaps included."""
    window = a_window("water", "temperature")
    rng = np.random.default_rng(8)
    for name in ("water", "temperature"):
        times = [t for t in every(10, 24 * 5) if rng.random() < 0.9]
        window.add(block(name, times, rng.uniform(1, 2, len(times))))
    ats = [START + timedelta(hours=h) for h in (90, 30, 61.5, 2)]
    masks = [
        {"water": [(at - timedelta(hours=9), at - timedelta(hours=3))]} if i % 2 else {} for i, at in enumerate(ats)
    ]
    features = (WATER, TEMPERATURE, Feature(signal="temperature", aggregate="gain"))
    for spec in (spec_of(*features, length=24), spec_of(*features, step_s=86_400, length=3, align="day")):
        together = window.tensors(spec, ats, FLOCK, masks)
        alone = [window.tensor(spec, at, FLOCK, mask).values for at, mask in zip(ats, masks, strict=True)]
        np.testing.assert_array_equal(together, alone)
    measured = window.measures(features, 7200, ats, FLOCK)
    np.testing.assert_array_equal(
        measured, [[m.value for m in window.measure(features, 7200, at, FLOCK)] for at in ats]
    )


def test_the_actual_of_an_expectation_comes_with_its_coverage() -> None:
    window = a_window("weight")
    window.add(block("weight", [START + timedelta(days=d) for d in (1, 2, 3)], [62.0, 81.0, 102.0]))
    gain = Feature(signal="weight", aggregate="gain")
    [measured] = window.measure((gain,), 86_400, START + timedelta(days=3), FLOCK)
    assert measured == Measured(21, 1)
    assert window.measure((gain,), 86_400, START + timedelta(days=1), FLOCK)[0].coverage == 0


def test_newest_and_rhythm_are_known_per_signal() -> None:
    window = a_window("temperature")
    assert window.newest_ms("temperature") is None
    window.add(block("temperature-1", every(5, 1), [20.0] * 12))
    window.add(block("temperature-2", every(5, 2), [20.0] * 24))
    assert window.newest_ms("temperature") == to_ms(START + timedelta(hours=2))
    assert window.rhythms_s() == {"temperature-1": 300, "temperature-2": 300}


# --- what turns out to be untrue


def test_what_is_forgotten_is_gone_from_both_kinds_of_steps_and_stays_gone_after_a_restart() -> None:
    window, again = a_window("temperature"), a_window("temperature")
    window.add(block("temperature", every(10, 24), [20.0 + i // 72 for i in range(144)]))  # 20 until noon, then 21
    window.add(block("temperature", [START + timedelta(hours=24, minutes=10)], [50.0]))
    window.forget("temperature", to_ms(START + timedelta(hours=18)))
    midnight = START + timedelta(hours=24)
    again.load(window.take_changed())
    for found in (window, again):
        whole = [float(v) for v in column(found, TEMPERATURE, midnight, length=24)]
        assert whole[:17] == [20.0] * 12 + [21.0] * 5
        assert all(math.isnan(v) for v in whole[18:])
        kept = [
            (
                f,
                column(
                    found,
                    Feature.model_validate({"signal": "temperature", "aggregate": f, "min_coverage": 0.0}),
                    midnight,
                    step_s=86_400,
                    length=1,
                    align="day",
                )[0],
            )
            for f in ("mean", "min", "max", "count")
        ]
        assert dict(kept) == {"mean": pytest.approx((72 * 20 + 35 * 21) / 107), "min": 20, "max": 21, "count": 107}


def test_a_sensor_in_doubt_is_not_listened_to_until_it_is_trusted() -> None:
    window = a_window("temperature")
    for name, value in (("temperature-1", 20.0), ("temperature-2", 24.0)):
        window.add(block(name, every(10, 2), [value] * 12))
    window.doubt("temperature-2", to_ms(START + timedelta(hours=1, minutes=10)))
    at = START + timedelta(hours=3)
    for name, value in (("temperature-1", 20.0), ("temperature-2", 24.0)):
        window.add(block(name, every(10, 1, START + timedelta(hours=2)), [value] * 6))
    assert column(window, TEMPERATURE, at, length=3) == [22, 20, 20]
    window.trust("temperature-2")
    window.add(block("temperature-2", every(10, 1, at), [24.0] * 6))
    assert column(window, TEMPERATURE, at + timedelta(hours=1), length=1) == [24]
    window.doubt("co2", 0)  # of no interest here
    window.forget("co2", 0)
    window.trust("co2")
