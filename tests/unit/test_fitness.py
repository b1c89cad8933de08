"""How models fit their houses: drift, bands that do not hold, errors at slaughter; told once, over restarts too."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest

from agent.clock import FarmDays
from agent.domain import Event, Evidence, Flock, Prediction
from agent.errors import BundleError
from agent.fitness import DAY_COUNTS, LEAST_COUNTS, NOMINAL, FitDay, FitFlock, Fitness, tail_of
from agent.manifest import Feature, Grid, InputSpec
from agent.reference import LEAST_DAYS, LEAST_VALUES, reference_from
from agent.status import fitness_lines
from models_onnx.train.bundle import reference_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.reference import Reference

DAYS = FarmDays(ZoneInfo("Europe/Copenhagen"))
START = DAYS.start_of(date(2026, 3, 1))
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MODEL = "usual/1.0.0"
SPECS = (
    InputSpec(
        name="x",
        shape=("houses", 3, 2),
        grid=Grid(step_s=3600, length=3),
        features=(Feature(signal="temperature"), Feature(signal="water", aggregate="sum")),
    ),
    InputSpec(name="flock", shape=("houses", 2), facts=("age_days", "parent_age_weeks")),
)


def course(rng: np.random.Generator, age_days: float) -> tuple[float, float]:
    """Return temperature and water at an age, as flocks have them."""
    return 33 - 0.4 * age_days + rng.normal(0, 0.5), 2 + 3 * age_days + rng.normal(0, 1 + 0.1 * age_days)


def training(flocks: int = 30, per_day: int = 5) -> tuple[dict[str, Any], Any]:
    rng = np.random.default_rng(4)
    rows, facts, flock = [], [], []
    for number in range(flocks):
        off, parents = rng.normal(0, 0.5), rng.uniform(28, 60)
        for day in range(40):
            for _ in range(per_day):
                age = day + rng.random()
                temperature, water = course(rng, age)
                rows.append([[np.nan, np.nan], [np.nan, np.nan], [temperature + off, water]])
                facts.append([age, parents])
                flock.append(number)
    tensors = {"x": np.array(rows, np.float32), "flock": np.array(facts, np.float32)}
    return tensors, np.array(flock, np.int64)


@pytest.fixture(scope="module")
def reference() -> Reference:
    tensors, flock = training()
    return reference_from(reference_of(SPECS, tensors, flock), SPECS, "reference.npz")


def live(
    fitness: Fitness,
    reference_days: int,
    *,
    flock: str = "A1",
    first_day: int = 0,
    shift: Callable[[int], float] = lambda _: 0.0,
    inside: Callable[[datetime], bool] | None = None,
) -> tuple[list[Event], list[FitDay | FitFlock]]:
    """Let a model run each hour over some days; return what was told and stored."""
    rng, events, stored = np.random.default_rng(7), [], []
    for hour in range(24 * first_day, 24 * (first_day + reference_days)):
        at = START + hour * HOUR
        age = hour / 24
        temperature, water = course(rng, age)
        fitness.turn(MODEL, flock, at)
        x = np.array([[np.nan, np.nan], [np.nan, np.nan], [temperature + shift(hour // 24), water]], np.float32)
        fitness.feed(MODEL, SPECS, {"x": x, "flock": np.array([age, 40.0], np.float32)}, at, int(age))
        if inside is not None:
            fitness.hold("deviation-water", evidence(inside=inside(at)), HOUR, at)
        rows, told = fitness.take()
        events += told
        stored += rows
    return events, stored


def evidence(*, inside: bool) -> Evidence:
    return Evidence(0.1, actual=1.0 if inside else 3.0, low=0.0, high=2.0, model="usual", model_version="1.0.0")


def test_a_flock_as_training_had_them_does_not_drift(reference: Reference) -> None:
    fitness = Fitness("house1", DAYS, {MODEL: reference})
    events, _ = live(fitness, 35)
    assert events == []
    assert fitness.troubles() == {}


def test_a_clock_that_was_ahead_does_not_end_the_counting(reference: Reference) -> None:
    fitness = Fitness("house1", DAYS, {MODEL: reference})
    live(fitness, 1, first_day=300)
    _, stored = live(fitness, 3)
    days = [row for row in stored if isinstance(row, FitDay)]
    assert {row.start_ms for row in days} >= {round((START + n * DAY).timestamp() * 1000) for n in range(3)}


def test_what_training_never_saw_is_drift_told_once_and_it_ends_when_it_is_back(reference: Reference) -> None:
    fitness = Fitness("house1", DAYS, {MODEL: reference})
    events, _ = live(fitness, 20, shift=lambda day: 6.0 if day >= 8 else 0.0)
    assert [event.kind for event in events] == ["drift"]
    assert START + 9 * DAY <= events[0].at <= START + 14 * DAY
    assert events[0].detail["model"] == MODEL
    assert "x.temperature mean" in str(events[0].detail["columns"])
    assert "x.temperature mean" in fitness.troubles()["drift"][0]
    again, _ = live(fitness, 14, first_day=20)  # a week later nothing of it is left
    assert again == []
    assert fitness.troubles() == {}
    once_more, _ = live(fitness, 6, first_day=34, shift=lambda _: 9.0)
    assert "drift" in fitness.troubles()
    assert once_more == []  # one event for each flock


def test_a_restart_goes_on_with_what_was_counted(reference: Reference) -> None:
    whole = Fitness("house1", DAYS, {MODEL: reference})
    events, _ = live(whole, 18, shift=lambda day: 6.0 if day >= 8 else 0.0, inside=lambda at: at.hour % 2 == 0)
    stored: dict[object, FitDay | FitFlock] = {}
    told: list[Event] = []
    for day in range(18):  # a process for each day
        fitness = Fitness("house1", DAYS, {MODEL: reference})
        flocks = [fit for fit in stored.values() if isinstance(fit, FitFlock)]
        days = [fit for fit in stored.values() if isinstance(fit, FitDay)]
        fitness.restore(sorted(days, key=lambda fit: fit.start_ms)[-16:], flocks)
        found, rows = live(
            fitness, 1, first_day=day, shift=lambda day: 6.0 if day >= 8 else 0.0, inside=lambda at: at.hour % 2 == 0
        )
        told += found
        for fit in rows:
            stored[fit.start_ms if isinstance(fit, FitDay) else fit.flock] = fit
    assert [event.kind for event in told] == [event.kind for event in events]
    counted = next(fit for fit in stored.values() if isinstance(fit, FitFlock))
    assert counted.held["deviation-water"][0] >= 17 * 12  # each restart may cost six hours


def test_bands_that_hold_are_silent_and_those_that_do_not_are_told_once(reference: Reference) -> None:
    chance = random.Random(2)
    holds = Fitness("house1", DAYS, {MODEL: reference})
    events, _ = live(holds, 40, inside=lambda _: chance.random() < NOMINAL)
    assert events == []
    wide = Fitness("house1", DAYS, {MODEL: reference})
    events, _ = live(wide, 40, inside=lambda _: chance.random() < 0.91)
    assert events == []  # beyond chance, and no matter
    narrow = Fitness("house1", DAYS, {MODEL: reference})
    events, _ = live(narrow, 40, inside=lambda _: chance.random() < 0.5)
    assert [event.kind for event in events] == ["coverage"]
    assert events[0].at >= START + LEAST_COUNTS // DAY_COUNTS * DAY
    assert "deviation-water" in narrow.troubles()["coverage"][0]


def test_an_hour_is_counted_once_however_often_the_model_runs(reference: Reference) -> None:
    fitness = Fitness("house1", DAYS, {MODEL: reference})
    for minute in range(0, 24 * 60 + 10, 10):
        at = START + timedelta(minutes=minute)
        fitness.turn(MODEL, "A1", at)
        fitness.hold("deviation-water", evidence(inside=True), HOUR, at)
        fitness.hold("trend-water", evidence(inside=True), DAY, at)
    rows, _ = fitness.take()
    [flock] = [fit for fit in rows if isinstance(fit, FitFlock)]
    assert flock.held["deviation-water"][:2] == (24, 24)
    assert flock.held["trend-water"][:2] == (1, 1)


def test_three_days_are_counted_once_in_three_days_and_each_output_by_itself(reference: Reference) -> None:
    fitness = Fitness("house1", DAYS, {MODEL: reference})
    for hour in range(12 * 24 + 1):
        at = START + hour * HOUR
        fitness.turn(MODEL, "A1", at)
        fitness.hold("slow/3d", evidence(inside=True), 3 * DAY, at)
        fitness.hold("fast/1d", evidence(inside=False), DAY, at)
    [flock] = [fit for fit in fitness.take()[0] if isinstance(fit, FitFlock)]
    assert flock.held["slow/3d"][:2] == (4, 4)
    assert flock.held["fast/1d"][:2] == (12, 0)


def predicted(at: datetime, horizon: str, target_at: datetime, p50: float) -> Prediction:
    version = MODEL.partition("/")[2]
    return Prediction("house1", "A1", at, 30, "weight_g", target_at, horizon, p50 - 50, p50, p50 + 50, "usual", version,
                      0.9)  # fmt: skip


def ended(flock: str, at: datetime, weight_g: float | None) -> Flock:
    return Flock("house1", flock, date(2026, 1, 25), 20_000, ended_at=at, slaughter_weight_g=weight_g)


def test_a_slaughter_weight_is_held_against_what_was_predicted_of_that_day(reference: Reference) -> None:
    fitness = Fitness("house1", DAYS, {})
    for day in range(20):
        for hour in (0, 6):
            at = START + day * DAY + hour * HOUR
            fitness.turn(MODEL, "A1", at)
            made = [predicted(at, f"{n}d", at + n * DAY, 2000.0 + day + hour) for n in (1, 2, 5, 7)]
            fitness.predict([*made, predicted(at, "slaughter", START + 25 * DAY, 9999.0)])  # another day was planned
    fitness.take()
    fitness.end(ended("A1", START + 20 * DAY, 2020.0), START + 20 * DAY)  # midnight: day 19 was its last
    rows, [event] = fitness.take()
    assert event.kind == "scored"
    assert [(p["lead_days"], p["p50"]) for p in event.detail["predicted"]] == [  # type: ignore[attr-defined]  # a list
        (7, 2012.0), (5, 2014.0), (2, 2017.0), (1, 2018.0)
    ]  # fmt: skip
    [known] = [fit for fit in rows if isinstance(fit, FitFlock)]
    assert known.truth_g == 2020.0
    fitness.end(ended("A1", START + 20 * DAY, 2020.0), START + 20 * DAY)  # the command came twice
    assert fitness.take() == ([], [])


def test_a_score_says_by_how_much_its_band_was_stretched_also_after_a_restart() -> None:
    before, after = Fitness("house1", DAYS, {}), Fitness("house1", DAYS, {})
    for day in range(3):
        at = START + day * DAY
        before.turn(MODEL, "A1", at)
        before.predict([replace(predicted(at, "2d", at + 2 * DAY, 2000.0), stretch=1.5)])
    rows, _ = before.take()
    after.restore([row for row in rows if isinstance(row, FitDay)], [row for row in rows if isinstance(row, FitFlock)])
    for fitness in (before, after):
        [scored] = fitness.end(ended("A1", START + 3 * DAY + HOUR, 2020.0), START + 3 * DAY + HOUR)
        assert [score.stretch for score in scored.scores] == [1.5]


def test_a_flock_without_a_weight_scores_nothing() -> None:
    fitness = Fitness("house1", DAYS, {})
    fitness.turn(MODEL, "A1", START)
    fitness.predict([predicted(START, "1d", START + DAY, 2000.0)])
    fitness.end(ended("A1", START + DAY + HOUR, None), START + DAY + HOUR)
    assert fitness.take() == ([], [])


def test_weights_that_lie_outside_again_and_again_are_told() -> None:
    fitness = Fitness("house1", DAYS, {})
    told = []
    for number in range(8):
        start = START + number * 50 * DAY
        fitness.turn(MODEL, f"A{number}", start)
        fitness.predict([predicted(start, "1d", start + DAY, 2000.0)])
        fitness.turn(MODEL, f"A{number}", start + DAY)
        fitness.end(ended(f"A{number}", start + DAY + HOUR, 2200.0), start + DAY + HOUR)
        told += fitness.take()[1]
    assert "coverage" in {event.kind for event in told}
    assert "weight_g" in fitness.troubles()["coverage"][0]


def test_chance_is_counted_to_both_sides() -> None:
    assert tail_of(10, 8) == 1.0
    assert tail_of(100, 60) < 0.001
    assert tail_of(100, 95) < 0.001
    assert tail_of(100, 78) > 0.5


def test_too_few_values_are_no_histogram(reference: Reference) -> None:
    x = reference.inputs["x"]
    counts = np.zeros((2, x.share.shape[2]), np.int64)
    counts[0, 0], counts[1, 0] = LEAST_VALUES // LEAST_DAYS - 1, LEAST_VALUES // LEAST_DAYS
    index = x.index_of([(0, counts)] * LEAST_DAYS)
    assert np.isnan(index[0])
    assert index[1] > 3
    assert np.isnan(x.index_of([(0, 10 * counts)] * (LEAST_DAYS - 1))).all()


def test_age_and_clock_are_not_compared(reference: Reference) -> None:
    assert np.isnan(reference.inputs["flock"].edges[:, 0]).all()
    assert np.isfinite(reference.inputs["flock"].edges[:, 1]).all()


def test_a_reference_of_another_shape_is_refused_with_the_reason() -> None:
    tensors, flock = training(flocks=2)
    arrays = reference_of(SPECS, tensors, flock)
    arrays["edges.x"] = arrays["edges.x"][:, :1]
    with pytest.raises(BundleError, match=r"reference.npz: the arrays of input 'x' have shapes"):
        reference_from(arrays, SPECS, "reference.npz")


def test_a_new_flock_begins_anew(reference: Reference) -> None:
    fitness = Fitness("house1", DAYS, {MODEL: reference})
    live(fitness, 14, shift=lambda day: 6.0 if day >= 3 else 0.0)
    assert fitness.troubles()
    live(fitness, 1, flock="A2")
    assert fitness.troubles() == {}


def test_counts_by_a_reference_of_another_shape_are_passed_over(reference: Reference) -> None:
    fitness = Fitness("house1", DAYS, {MODEL: reference})
    days = [
        FitDay("house1", MODEL, int((START + day * DAY).timestamp() * 1000), "A1", counts={"x": [[50, 0, 0]]})
        for day in range(7)
    ]
    fitness.restore(days, [FitFlock("house1", MODEL, "A1", 0)])
    events, _ = live(fitness, 3, first_day=6)
    assert events == []


def test_what_a_band_has_learnt_outlives_restarts_and_goes_over_to_the_next_flock_of_the_same_model() -> None:
    fitness = Fitness("house1", DAYS, {})
    assert fitness.stretch(MODEL, "water/1h") == (1.0, 1.0)
    fitness.turn(MODEL, "A1", START)
    fitness.stretch_to(MODEL, "water/1h", (1.23456, 0.8))
    fitness.feed(MODEL, (), {}, START, 3)  # midnight: what was counted is stored
    rows, _ = fitness.take()
    later = Fitness("house1", DAYS, {})
    later.restore([fit for fit in rows if isinstance(fit, FitDay)], [fit for fit in rows if isinstance(fit, FitFlock)])
    later.turn(MODEL, "A2", START + 20 * DAY)
    assert later.stretch(MODEL, "water/1h") == pytest.approx((1.235, 0.8))
    later.feed(MODEL, (), {}, START + 20 * DAY, 0)
    rows, _ = later.take()
    assert [fit.bands for fit in rows if isinstance(fit, FitFlock)] == [{"water/1h": (1.235, 0.8)}]
    assert later.stretch("usual/1.1.0", "water/1h") == (1.0, 1.0)


def test_bands_that_are_much_wider_here_are_named_beside_their_coverage() -> None:
    value = {"house": "house1", "flock": "A1", "drift": {}, "drifted": {}, "coverage": {}, "off": {}, "slaughter": []}
    lines = fitness_lines([{**value, "stretch": {"water_1h/1h": [1.84, 1.1], "feed_1h/1h": [1.4, 0.6]}}])
    assert "water_1h 1.8 times below" in lines[1]
    assert "feed_1h" not in "".join(lines)


def test_a_flock_stored_by_a_version_without_stretched_bands_is_read() -> None:
    stored = b'{"house":"house1","model":"usual/1.0.0","flock":"A1","updated_ms":0,"off":{"deviation-water":0.5}}'
    fitness = Fitness("house1", DAYS, {})
    fitness.restore([], [msgspec.json.decode(stored, type=FitFlock)])
    assert fitness.stretch(MODEL, "water/1h") == (1.0, 1.0)
    assert fitness.troubles() != {}


def test_what_is_stored_of_another_house_is_passed_over() -> None:
    fit = FitFlock("house2", MODEL, "A1", 0, drifted={"x": 0.3}, drift={"x": 1.0})
    fitness = Fitness("house1", DAYS, {})
    fitness.restore([], [fit])
    assert fitness.troubles() == {}
    fitness.restore([], [replace(fit, house="house1")])
    assert fitness.troubles() != {}


def test_start_is_at_midnight_of_the_farm() -> None:
    assert datetime(2026, 2, 28, 23, tzinfo=UTC) == START
