"""What slaughter weights teach: levels and errors of instruments, shrunken, forgotten slowly, and never too early."""

from __future__ import annotations

import json
import math
from datetime import date, datetime, timedelta
from statistics import NormalDist
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from agent.calibration import HOUSE, INSTRUMENTS, MEASURED, SITE, Calibration, measured_at_end
from agent.clock import FarmDays
from agent.commands import parse_flock_command
from agent.domain import Flock, FlockChange, HouseState, Quality, SeriesKey, to_ms
from agent.errors import InputError
from agent.fitness import FitFlock, Score
from agent.flock import HouseLife, apply, restored
from agent.readings import Readings
from agent.signals import CATALOGUE
from agent.store import Store
from agent.strains import ROSS_308
from agent.window import FlockContext, Window

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from agent.commands import FlockCommand

DAYS = FarmDays(ZoneInfo("UTC"))
FIRST = date(2026, 1, 1)
AGE = 40
CYCLE = timedelta(days=50)
UNKNOWN_SCALE_SD = math.hypot(INSTRUMENTS["scale_error"].sd, INSTRUMENTS["scale_error"].noise)
MODEL = "theirs/1.0.0"


def ended(
    house: str, number: int, level: float, measured: dict[str, float] | None = None, *, weight_g: float | None = None
) -> FlockChange:
    """Return the end of flock ``number`` of a house, which weighs exp(``level``) of the curve."""
    placed_on = FIRST + number * CYCLE
    at = DAYS.start_of(placed_on) + timedelta(days=AGE, hours=12)
    weight = ROSS_308.weight_g[AGE] * math.exp(level) if weight_g is None else weight_g
    flock = Flock(house, str(number), placed_on, ended_at=at, slaughter_weight_g=weight)
    return FlockChange(at, "end", house, HouseState.EMPTY, flock, {MEASURED: measured or {}})


def after(number: int) -> datetime:
    return DAYS.start_of(FIRST + number * CYCLE) + timedelta(days=AGE + 1)


def test_a_house_of_which_nothing_is_known_has_the_level_of_the_field() -> None:
    facts = Calibration(DAYS).facts("house1", after(0))
    assert facts["house.flocks"] == 0
    assert facts["house.weight_bias"] == SITE.mean + HOUSE.mean
    assert facts["house.scale_error"] == INSTRUMENTS["scale_error"].mean
    assert facts["house.scale_error_sd"] == pytest.approx(UNKNOWN_SCALE_SD)


def test_each_flock_brings_the_level_nearer_and_makes_it_surer() -> None:
    calibration = Calibration(DAYS)
    levels, sds = [], []
    for number in range(5):
        facts = calibration.facts("house1", after(number) - timedelta(days=30))
        levels.append(facts["house.weight_bias"])
        sds.append(facts["house.scale_error_sd"])
        calibration.learn([ended("house1", number, 0.03, {"scale_error": -0.02})])
    assert levels == sorted(levels)
    assert levels[0] < levels[1] < levels[-1] < 0.03
    assert sds == sorted(sds, reverse=True)
    assert calibration.facts("house1", after(5))["house.scale_error"] == pytest.approx(0.05, abs=0.005)


def test_a_new_house_takes_the_level_of_its_site_and_not_the_errors_of_other_scales() -> None:
    calibration = Calibration(DAYS)
    calibration.learn(ended(f"house{i}", 0, 0.04, {"scale_error": -0.03}) for i in range(2, 9))
    facts = calibration.facts("house1", after(0))
    assert facts["house.weight_bias"] > 0
    assert facts["house.scale_error"] == INSTRUMENTS["scale_error"].mean


def test_what_a_house_was_years_ago_counts_less() -> None:
    calibration = Calibration(DAYS)
    calibration.learn([ended("house1", 0, 0.04, {"scale_error": -0.03})])
    soon, late = (calibration.facts("house1", after(0) + timedelta(days=days)) for days in (1, 900))
    for name in ("house.weight_bias_sd", "house.scale_error_sd"):
        assert soon[name] < late[name]
    assert late["house.scale_error_sd"] <= UNKNOWN_SCALE_SD


def test_one_odd_flock_moves_little() -> None:
    calm, odd = Calibration(DAYS), Calibration(DAYS)
    flocks = [ended("house1", number, -0.02, {"scale_error": -0.05}) for number in range(6)]
    calm.learn(flocks)
    odd.learn([*flocks, ended("house1", 6, 0.5, {"scale_error": -0.05})])
    before, now = (c.facts("house1", after(6)) for c in (calm, odd))
    assert abs(now["house.scale_error"] - before["house.scale_error"]) < 0.03
    assert abs(now["house.weight_bias"] - before["house.weight_bias"]) < 0.1


def test_a_weight_that_is_told_again_replaces_the_first() -> None:
    right, corrected = Calibration(DAYS), Calibration(DAYS)
    right.learn([ended("house1", 0, -0.02)])
    corrected.learn([ended("house1", 0, 0.5), ended("house1", 0, -0.02), ended("house1", 0, -0.02)])
    assert corrected.facts("house1", after(0)) == right.facts("house1", after(0))


def test_a_flock_without_a_slaughter_weight_teaches_nothing() -> None:
    calibration = Calibration(DAYS)
    calibration.learn([ended("house1", 0, 0.0, {"scale_error": 0.1}, weight_g=0.0)])
    assert calibration.facts("house1", after(0))["house.flocks"] == 0


def test_a_level_that_the_fleet_sends_down_is_what_a_house_begins_with() -> None:
    calibration = Calibration(DAYS, {"house1": {"weight_bias": 0.02, "own": 7.0}})
    facts = calibration.facts("house1", after(0))
    assert facts["house.weight_bias"] == pytest.approx(0.02)
    assert facts["house.own"] == 7.0
    calibration.learn(ended("house1", number, -0.06) for number in range(8))
    assert calibration.facts("house1", after(8))["house.weight_bias"] < -0.03


def wandering(house: str, sd: float, flocks: int = 8) -> list[FlockChange]:
    """Return flocks whose scale is off by ``sd`` more and ``sd`` less in turn."""
    return [ended(house, n, 0.0, {"scale_error": sd if n % 2 else -sd}) for n in range(flocks)]


def test_a_scale_that_wanders_from_flock_to_flock_says_so() -> None:
    calm, restless = Calibration(DAYS), Calibration(DAYS)
    calm.learn(wandering("house1", 0.005))
    restless.learn(wandering("house1", 0.06))
    calm_sd, restless_sd = (c.facts("house1", after(8))["house.scale_error_sd"] for c in (calm, restless))
    assert calm_sd < 0.022
    assert 0.045 < restless_sd < 0.075


def test_a_house_with_few_flocks_learns_from_the_site_how_far_scales_wander() -> None:
    alone, among = Calibration(DAYS), Calibration(DAYS)
    others = [change for house in ("house2", "house3", "house4") for change in wandering(house, 0.06)]
    among.learn(sorted(others, key=lambda change: change.at))
    for calibration in (alone, among):
        calibration.learn([ended("house1", 8, 0.0, {"scale_error": 0.0})])
    alone_sd, among_sd = (c.facts("house1", after(8))["house.scale_error_sd"] for c in (alone, among))
    assert among_sd > 1.3 * alone_sd


def test_a_scale_that_is_off_for_good_is_not_taken_for_one_that_wanders() -> None:
    calibration = Calibration(DAYS)
    calibration.learn(ended("house1", n, 0.0, {"scale_error": -0.09}) for n in range(5))
    facts = calibration.facts("house1", after(5))
    assert facts["house.scale_error"] == pytest.approx(0.09, abs=0.01)
    assert facts["house.scale_error_sd"] < 0.03


def predicted(house: str, number: int, off: float, *, stretch: float = 1.0) -> FitFlock:
    """Return what was said of a flock of 2,000 g: ``off`` half bands too little, the model's own being 100 g."""
    p50, half = 2000.0 - 100 * off, 100 * stretch
    scores = tuple(Score(lead, p50 - half, p50, p50 + half, stretch) for lead in (2, 7))
    return FitFlock(house, MODEL, str(number), to_ms(after(number)), truth_g=2000.0, scores=scores)


def taught(offs: Iterable[float], house: str = "house1") -> Calibration:
    calibration = Calibration(DAYS)
    for number, off in enumerate(offs):
        calibration.judge([predicted(house, number, off, stretch=calibration.stretch(MODEL, house))])
        calibration.learn([ended(house, number, 0.0, weight_g=2000.0)])
    return calibration


def test_bands_that_hold_what_they_say_are_left_as_they_are() -> None:
    normal = [NormalDist().inv_cdf((i + 0.5) / 12) / 1.2816 for i in range(12)]
    assert taught(normal).stretch(MODEL, "house1") == pytest.approx(1.0, abs=0.08)
    assert Calibration(DAYS).stretch(MODEL, "house1") == 1.0


def test_bands_that_held_too_little_are_stretched_until_they_hold() -> None:
    """Predictions twice as far off as their bands say: after a dozen flocks these are nearly twice as wide."""
    normal = [2 * NormalDist().inv_cdf((i + 0.5) / 12) / 1.2816 for i in (6, 0, 10, 3, 8, 1, 11, 5, 2, 9, 4, 7)]
    first, last = taught(normal[:1]), taught(normal)
    assert 1.5 < last.stretch(MODEL, "house1") < 2.1
    assert last.stretch(MODEL, "house1") > first.stretch(MODEL, "house1")


def test_one_flock_far_off_widens_no_band_beyond_measure() -> None:
    calibration = taught([0.5, -0.5, 0.5, 40.0])
    assert 1 < calibration.stretch(MODEL, "house1") < 1.7


def test_what_one_house_showed_of_a_model_widens_the_bands_of_its_site_a_little_and_of_no_other_model() -> None:
    calibration = taught([2.0, -2.0, 2.0])
    assert 1 < calibration.stretch(MODEL, "house2") < calibration.stretch(MODEL, "house1")
    assert calibration.stretch("ours/1.0.0", "house1") == 1.0


def test_how_far_off_predictions_were_counts_only_when_the_weight_is_known_to_all() -> None:
    calibration = Calibration(DAYS)
    calibration.judge([predicted("house1", 0, 3.0)])
    assert calibration.stretch(MODEL, "house1") == 1.0
    calibration.learn([ended("house1", 0, 0.0, weight_g=2000.0)])
    assert calibration.stretch(MODEL, "house1") > 1.1


def test_what_was_learnt_is_known_after_a_restart(tmp_path: Path) -> None:
    changes = [
        ended("house1", number, 0.01 * number, {"scale_error": -0.03, "feed_error": 0.02}) for number in range(4)
    ]
    learnt, again = Calibration(DAYS), Calibration(DAYS)
    with Store.open(tmp_path / "house.db", at=after(4)) as store:
        for change in changes:
            learnt.learn([change])
            fit = predicted("house1", int(change.flock.flock) if change.flock else 0, 2.0, stretch=1.1)
            learnt.judge([fit])
            store.record(
                flock_changes=[change, FlockChange(change.at, "state", "house1", HouseState.WASHING, None)],
                fitness=[fit],
            )
    with Store.open(tmp_path / "house.db", at=after(4)) as store:
        again.learn(store.restore().flocks)
        again.judge(store.restore().fitness_flocks)
    assert again.facts("house1", after(4)) == learnt.facts("house1", after(4))
    assert again.stretch(MODEL, "house1") == learnt.stretch(MODEL, "house1") > 1


def test_what_scale_and_meters_showed_of_a_flock_is_measured_at_its_end() -> None:
    """Daily figures: a scale that reads 4 % low at first and 8 % in the last week, birds that eat 5 % more."""
    placed_at = DAYS.start_of(FIRST)
    window = Window("house1", {name: CATALOGUE[name] for name in ("weight", "feed", "water")}, DAYS)
    rows = []
    for day in range(AGE):
        at_ms = to_ms(placed_at + timedelta(days=day + 1))
        middle = (ROSS_308.weight_g[day] + ROSS_308.weight_g[day + 1]) / 2
        rows.append((0, at_ms, middle * (0.92 if day >= AGE - 7 else 0.96)))
        rows.append((1, at_ms, 10.0 * ROSS_308.feed_g[day + 1] * 1.05))  # kg of 10,000 birds
    key, times, value = (np.array(column) for column in zip(*rows, strict=True))
    good = np.zeros(len(rows), np.uint8) + Quality.GOOD
    keys = (SeriesKey("house1", "weight"), SeriesKey("house1", "feed"))
    window.add(Readings(keys, key.astype(np.int32), times, value, good, good, times))
    context = FlockContext(to_ms(placed_at), ROSS_308, birds_placed=10_000)
    measured = measured_at_end(window, placed_at + timedelta(days=AGE, hours=10), context)
    assert measured["scale_error"] == pytest.approx(math.log(0.92), abs=0.002)
    assert measured["scale_error_14d"] == pytest.approx(math.log(0.96), abs=0.002)
    assert measured["feed_error"] == pytest.approx(math.log(1.05), abs=0.002)
    assert "water_error" not in measured


def test_the_abattoir_may_tell_the_weight_after_the_birds_have_left() -> None:
    gone = apply("house1", HouseLife(flock=Flock("house1", "f1", FIRST)), told("end"), after(0), DAYS)
    life = HouseLife(flock=Flock("house1", "f1", FIRST)).after(gone)
    washing = life.after(FlockChange(after(0), "state", "house1", HouseState.WASHING, None))
    later = after(0) + timedelta(days=2)
    change = apply("house1", washing, told("end", slaughter_weight_g=2345), later, DAYS)
    assert (change.action, change.state) == ("end", HouseState.WASHING)
    assert change.flock is not None
    assert (change.flock.flock, change.flock.ended_at, change.flock.slaughter_weight_g) == ("f1", after(0), 2345)
    assert washing.after(change).state is HouseState.WASHING

    again = restored(FlockChange(later, "state", "house1", HouseState.WASHING, None), [gone])
    assert apply("house1", again, told("end", flock="f1", slaughter_weight_g=2345), later, DAYS).flock == change.flock
    with pytest.raises(InputError, match="flock 'f0' is not in house1"):
        apply("house1", again, told("end", flock="f0", slaughter_weight_g=2345), later, DAYS)


def told(action: str, **words: object) -> FlockCommand:
    return parse_flock_command(json.dumps({"action": action, **words}))
