"""The evaluation: what is played is the product, and every figure moves when what it measures does."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.bundles import shipped_directory
from agent.config import parse_config
from agent.domain import from_ms, to_ms
from agent.replay import replay
from agent.replay_files import FLOCKS_HEADER
from agent.strains import ROSS_308
from agent.window import curve_at, curves_of
from models_onnx.evaluate.__main__ import main
from models_onnx.evaluate.baselines import house_computer, weight
from models_onnx.evaluate.baselines.daily import detections
from models_onnx.evaluate.bootstrap import figure, median_of
from models_onnx.evaluate.campaign import FULL, Job, Size, faults_of, jobs_of, outcomes_of
from models_onnx.evaluate.expected import expected_of
from models_onnx.evaluate.figures import all_figures, coverage_of, false_figures, fault_figures, plain
from models_onnx.evaluate.play import Held, Played, Predicted, Raised, play, predictor_of
from models_onnx.evaluate.record import STEPS_A_DAY, HouseRecord, records_of, set_point_of
from models_onnx.evaluate.report import write
from models_onnx.evaluate.scenarios import SCENARIOS
from models_onnx.evaluate.scoring import OURS, RULES, episodes_of, found_of, moved_by, quiet_of, right_causes
from models_onnx.evaluate.weights import weighed_of
from models_onnx.farm.farm import DAY_MS, HOUR_MS, Farm, FlockTruth, Told, iso
from models_onnx.farm.faults import FAULTS, Fault
from models_onnx.farm.sensors import SIGNALS
from models_onnx.farm.truth import FaultTruth

if TYPE_CHECKING:
    from pathlib import Path

    from models_onnx.farm.params import RangeSet

START = datetime(2027, 5, 1, tzinfo=UTC)
FAULT_FROM_MS = to_ms(START) + 4 * DAY_MS + 10 * HOUR_MS
LITTLE = Size(1, 1, 0, 1, 1, ("water_line_blocked",), days=5)
TWO = Job("healthy", "validation", 7, START, 6, 2, ("", "water_line_blocked"))


@pytest.fixture(scope="module")
def houses() -> list[HouseRecord]:
    """Return two simulated houses, the second with its water shut on day 4."""
    fault = Fault("water_line_blocked", 1, FAULT_FROM_MS, FAULT_FROM_MS + 12 * HOUR_MS, 1.0)
    return records_of("validation", houses=2, houses_per_farm=2, days=6, seed=7, start=START, faults=[fault])


def plain_house(days: int = 30) -> HouseRecord:
    """Return a house made by hand: 30,000 birds that eat and drink what the tables say, evenly, in light."""
    steps = days * STEPS_A_DAY
    begin_ms = to_ms(START)
    at_ms = begin_ms + (np.arange(steps, dtype=np.int64) + 1) * 600_000
    curve, eaten = curves_of(ROSS_308)
    feed = np.maximum(np.diff(eaten)[np.arange(steps) // STEPS_A_DAY], 1.0) * 30_000 / 1000 / STEPS_A_DAY
    dead = np.full(steps, np.nan)
    dead[STEPS_A_DAY // 3 :: STEPS_A_DAY] = 10.0
    signals = {
        "temperature": np.full(steps, 24.0),
        "humidity": np.full(steps, 60.0),
        "co2": np.full(steps, 2000.0),
        "ammonia": np.full(steps, 5.0),
        "pressure": np.full(steps, 14.0),
        "outside_temperature": np.full(steps, 10.0),
        "light": np.full(steps, 20.0),
        "water": 1.8 * feed,
        "feed": feed,
        "weight": curve_at(curve, (at_ms - begin_ms) / DAY_MS - 0.5),
        "dead": dead,
    }
    end_ms = begin_ms + 40 * DAY_MS
    flock = FlockTruth(
        house=0,
        flock="f",
        placed_on=START.date(),
        placed_ms=begin_ms,
        birds_placed=30_000,
        birds_told=30_000,
        strain="Ross 308",
        sex="mixed",
        parent_age_weeks=30,
        planned_end_on=from_ms(end_ms).date(),
        thinned_ms=None,
        end_ms=end_ms,
        slaughter_weight_g=2800.0,
    )
    told = (Told(begin_ms, 0, {"action": "place", "birds_placed": 30_000}),)
    weights = curve_at(curve, np.arange(days, dtype=np.float64))
    return HouseRecord("f0", "house0", at_ms, signals, told, (flock,), weights, begin_ms, np.full(steps, 24.0), 15.0)


def changed(record: HouseRecord, signal: str, day: float, hours: float, value: float) -> HouseRecord:
    """Return the house with a signal that shows ``value`` for a while."""
    values = record.signals[signal].copy()
    first = round(day * STEPS_A_DAY)
    values[first : first + round(hours * 6)] = value
    return replace(record, signals={**record.signals, signal: values})


def warned(record: HouseRecord, every_h: float, signal: str = "water") -> Played:
    """Return an agent that warns again and again."""
    at = range(record.begin_ms + DAY_MS, record.end_ms, round(every_h * HOUR_MS))
    return Played([Raised(f"deviation-{signal}", signal, ms, -1, (("water_leak", 0.9),), ms + 600_000) for ms in at])


def a_fault(
    name: str = "water_line_blocked", day: int = 20, hours: float = 12, known_h: float | None = 0.5
) -> FaultTruth:
    from_ms_ = to_ms(START) + day * DAY_MS
    to = from_ms_ + round(hours * HOUR_MS)
    known = None if known_h is None else from_ms_ + round(known_h * HOUR_MS)
    return FaultTruth(name, 0, from_ms_, to, 0.8, None, 0.2, known)


# --- what is played


def test_what_is_played_in_memory_is_what_replay_says_of_the_same_files(
    houses: list[HouseRecord], tmp_path: Path
) -> None:
    record = houses[1]
    [played] = play([record], predictor_of(shipped_directory()))
    with (tmp_path / "readings.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("at", "house", "signal", "value"))
        for name, values in record.signals.items():
            for at_ms, value in zip(record.at_ms.tolist(), values.tolist(), strict=True):
                if not math.isnan(value):
                    rows.writerow((iso(at_ms), record.house, name, repr(value)))
    (tmp_path / "flocks.csv").write_text(",".join(FLOCKS_HEADER) + "\n", encoding="utf-8")
    with (tmp_path / "events.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("at", "house", "command"))
        for told in record.told:
            if told.command["action"] != "record":
                rows.writerow((iso(told.at_ms), record.house, json.dumps(told.command)))
    config = parse_config({"site": {"id": "x", "timezone": "UTC"}}, "test")
    replay(
        config, predictor_of(shipped_directory()), tmp_path / "readings.csv", tmp_path / "flocks.csv",
        tmp_path / "events.csv", tmp_path / "out",
    )  # fmt: skip
    with (tmp_path / "out" / "warnings.csv").open(encoding="utf-8", newline="") as file:
        said = [(row["rule"], row["raised_at"]) for row in csv.DictReader(file)]
    ours = sorted((iso(w.at_ms), w.rule) for w in played.warnings if w.at_ms < record.end_ms)
    assert [(rule, at) for at, rule in ours] == [line for line in said if line[1] < iso(record.end_ms)]
    assert any(rule == "deviation-water" for _, rule in ours), ours
    with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        theirs = {(row["made_at"], row["target_at"]): float(row["p50"]) for row in csv.DictReader(file)}
    assert len(played.predictions) >= 5 * 4
    for made in played.predictions:
        if made.horizon == "1d":
            key = iso(made.made_ms), from_ms(made.target_ms).date().isoformat()
            assert theirs[key] == pytest.approx(made.p50, rel=1e-5)


def test_the_tap_changes_nothing_and_holds_what_was_expected(houses: list[HouseRecord]) -> None:
    [played] = play(houses[:1], predictor_of(shipped_directory()))
    rows = list(expected_of(houses[0], played))
    assert {row.output for row in rows} >= {"water_1h", "feed_1h", "water_1d"}
    [water] = [row for row in rows if row.output == "water_1h"]
    assert water.instants + water.unsaid > 4 * STEPS_A_DAY
    assert water.inside + water.below + water.above == water.instants


# --- faults and false warnings


def test_who_never_warns_finds_nothing_and_who_always_warns_is_seen_through() -> None:
    record, fault = plain_house(), a_fault()
    silent, loud = (found_of(record, fault, played) for played in (Played(), warned(record, 1)))
    assert silent.hours[OURS] is None
    hours = loud.hours[OURS]
    assert hours is not None
    assert hours <= 1
    assert loud.chance[OURS]
    assert not silent.chance[OURS]
    rates = [false_figures([quiet_of(record, played)])["rate"][OURS].value for played in (Played(), warned(record, 1))]
    assert rates[0] == 0
    assert rates[1] > 20


def test_a_warning_about_another_signal_or_after_the_fault_finds_nothing() -> None:
    record, fault = plain_house(), a_fault(hours=6)
    assert found_of(record, fault, warned(record, 1, "ammonia")).hours[OURS] is None
    late = Played([Raised("deviation-water", "water", fault.to_ms + 25 * HOUR_MS, -1, ())])
    assert found_of(record, fault, late).hours[OURS] is None


def test_the_lead_is_censored_where_the_house_computer_never_sees_the_fault() -> None:
    record, fault = plain_house(), a_fault("growth_lag", hours=48)
    assert fault.detectable_ms is not None
    found = found_of(record, fault, Played([Raised("trend-weight", "weight", fault.from_ms + 10 * HOUR_MS, -1, ())]))
    assert found.hours[RULES] is None
    assert found.lead_h == pytest.approx(48 + 24 - 10)
    missed = replace(found, hours={**found.hours, OURS: None})
    assert missed.lead_h is None
    only_they = replace(found, hours={**found.hours, OURS: None, RULES: 3.0})
    assert only_they.lead_h == -math.inf
    assert fault_figures([found, only_they, only_they]).lead_h.value == -math.inf


def test_beside_the_censored_lead_stands_that_of_the_faults_which_both_saw() -> None:
    record, fault = plain_house(), a_fault("growth_lag", hours=48)
    found = found_of(record, fault, Played([Raised("trend-weight", "weight", fault.from_ms + 10 * HOUR_MS, -1, ())]))
    both, neither = (replace(found, hours={**found.hours, OURS: ours, RULES: 14.0}) for ours in (10.0, None))
    of = fault_figures([found, found, found, neither, both])
    assert of.lead_both_h.value == pytest.approx(4.0)
    assert of.lead_both_h.n == 1
    assert of.lead_h.value > 4
    assert math.isnan(fault_figures([found, neither]).lead_both_h.value)


def test_a_fault_that_nothing_shows_counts_apart() -> None:
    record = plain_house()
    found = found_of(record, a_fault(known_h=None), Played())
    assert fault_figures([found]).detectable == 0
    assert fault_figures([found]).houses == 1


def test_a_sensor_that_really_is_silent_is_no_false_warning() -> None:
    record = changed(plain_house(), "co2", 12, 5, math.nan)
    at_ms = record.begin_ms + 12 * DAY_MS + HOUR_MS
    told = Played([Raised("missing-co2", "co2", at_ms, 0, ()), Raised("missing-light", "light", at_ms, 0, ())])
    quiet = quiet_of(record, told)
    assert quiet.false[OURS] == {"missing-light": 1}
    assert quiet.true_all_the_same[OURS] == 1


def test_a_warning_of_deaths_beside_an_outbreak_is_not_false_in_a_healthy_house() -> None:
    record = changed(plain_house(), "dead", 20 + 1 / 3, 0.17, 120.0)
    near, far = record.begin_ms + 17 * DAY_MS, record.begin_ms + 10 * DAY_MS
    told = Played([Raised("mortality", "dead", near, 1, ()), Raised("mortality", "dead", far, 1, ())])
    assert quiet_of(record, told).false[OURS] == {"mortality": 1}


@pytest.mark.parametrize("name", list(FAULTS))
def test_every_fault_moves_signals_that_there_are_and_has_a_cause(name: str) -> None:
    record = plain_house()
    for signal in FAULTS[name].signals or (None,):
        fault = replace(a_fault(name), signal=signal)
        found = found_of(record, fault, Played())
        assert moved_by(fault)
        assert right_causes(found)
        assert moved_by(fault) & {*SIGNALS, "clock"}


@pytest.mark.parametrize("ranges", ["validation", "test"])
def test_the_house_computer_knows_its_set_point(ranges: RangeSet) -> None:
    farm = Farm(4, 5, START, ranges=ranges)
    farm.run_to(farm.start_ms + 3 * DAY_MS)
    for house, flock in enumerate(farm.flocks()):
        told = set_point_of(ranges, 5, house, np.array([farm.at_ms]), [flock])
        assert told[0] == pytest.approx(farm.climate.set_point[house], abs=0.05)


def test_warnings_close_together_are_one_episode() -> None:
    record = plain_house()
    quiet = quiet_of(record, warned(record, 1))
    assert quiet.episodes[OURS] == 1
    assert quiet_of(record, warned(record, 48)).episodes[OURS] == len(warned(record, 48).warnings)
    assert episodes_of([]) == 0


def test_the_first_right_warning_answers_for_the_cause() -> None:
    record, fault = plain_house(), a_fault()
    causes = (("water_leak", 0.6), ("water_line_blocked", 0.3))
    first = Raised("deviation-water", "water", fault.from_ms + HOUR_MS, -1, causes)
    later = Raised("deviation-feed", "feed", fault.from_ms + 2 * HOUR_MS, -1, (("water_line_blocked", 0.9),))
    figures = fault_figures([found_of(record, fault, Played([first, later]))])
    assert (figures.cause_first, figures.cause_three) == (0, 1)


# --- the house computer, daily checks


def rules_of(record: HouseRecord) -> set[str]:
    return {alarm.rule for alarm in house_computer.alarms(record)}


def test_a_plain_house_gives_no_alarm() -> None:
    assert rules_of(plain_house()) == set()
    assert [alarm for of in detections(plain_house()).values() for alarm in of] == []


@pytest.mark.parametrize(
    ("signal", "value", "hours", "rule"),
    [
        ("temperature", 28.2, 0.5, "high temperature"),
        ("temperature", 20.8, 0.5, "low temperature"),
        ("temperature", 33.0, 0.5, "absolute high temperature"),
        ("humidity", 95.0, 1, "high humidity"),
        ("humidity", 3.0, 1, "humidity sensor"),
        ("co2", 3600.0, 1, "CO2"),
        ("ammonia", 25.0, 1, "NH3"),
        ("pressure", 34.0, 1, "pressure"),
        ("pressure", -1.0, 1, "pressure"),
        ("outside_temperature", 30.0, 1, "outside sensor misplaced"),
        ("water", 0.0, 1, "not enough water"),
        ("water", 0.0, 3, "water below normal"),
        ("water", 300.0, 1, "too much water"),
        ("feed", 0.0, 8, "feed reduced"),
        ("feed", 0.0, 3, "not enough feed"),
        ("feed", 200.0, 1, "too much feed"),
        ("water", 0.0, 8, "water to feed"),
        ("temperature", math.nan, 1, "sensor error temperature"),
    ],
)
def test_each_rule_of_the_house_computer_speaks_when_its_limit_is_passed(
    signal: str, value: float, hours: float, rule: str
) -> None:
    record = changed(plain_house(), signal, 20.5, hours, value)
    alarms = [alarm for alarm in house_computer.alarms(record) if alarm.rule == rule]
    assert alarms, rules_of(record)
    assert 0 <= alarms[0].at_ms - (record.begin_ms + 20.5 * DAY_MS) <= (hours + 0.2) * HOUR_MS


def test_a_gap_is_not_taken_for_no_water_and_warm_summers_have_their_slide() -> None:
    gap = changed(plain_house(), "water", 20.5, 2, math.nan)
    assert "not enough water" not in rules_of(gap)
    warm = changed(changed(plain_house(), "temperature", 20, 6, 29.0), "outside_temperature", 20, 6, 26.0)
    assert "high temperature" not in rules_of(warm)


def test_nothing_is_said_while_people_catch() -> None:
    record = changed(plain_house(), "feed", 20.5, 8, 0.0)
    at_ms = record.begin_ms + round(20.4 * DAY_MS)
    told = (
        *record.told,
        Told(at_ms, 0, {"action": "state", "state": "catching"}),
        Told(at_ms + 10 * HOUR_MS, 0, {"action": "thin", "birds": 5000}),
    )
    assert "not enough feed" not in rules_of(replace(record, told=told))


@pytest.mark.parametrize("name", ["same as yesterday", "EWMA", "CUSUM", "breed curve"])
def test_daily_checks_find_a_week_of_little_water(name: str) -> None:
    record = plain_house()
    low = record.signals["water"].copy()
    low[20 * STEPS_A_DAY : 27 * STEPS_A_DAY] *= 0.7
    alarms = detections(replace(record, signals={**record.signals, "water": low}))[name]
    assert alarms
    assert record.begin_ms + 21 * DAY_MS <= alarms[0].at_ms <= record.begin_ms + 24 * DAY_MS


def test_plain_thresholds_on_the_dead_say_when_they_are_passed() -> None:
    record = changed(plain_house(), "dead", 20 + 1 / 3, 0.17, 100.0)
    found = detections(record)
    assert found["0.30 % dead in a day"]
    assert found["twice the usual dead"]
    assert detections(changed(plain_house(), "dead", 20 + 1 / 3, 0.17, 50.0))["0.30 % dead in a day"] == []


# --- weights


AGES = np.arange(8.0, 31.0)
CURVE = curves_of(ROSS_308)[0]


def test_simple_forecasts_are_right_where_their_assumption_holds() -> None:
    ahead = np.array([33.0, 37.0])
    grams = 0.9 * curve_at(CURVE, AGES)
    assert weight.scaled_curve(AGES, grams, CURVE, ahead) == pytest.approx(0.9 * curve_at(CURVE, ahead))
    assert weight.last_weight_and_gain(AGES, curve_at(CURVE, AGES), CURVE, ahead) == pytest.approx(
        curve_at(CURVE, ahead)
    )
    assert weight.last_weight(AGES, grams, CURVE, ahead).tolist() == [grams[-1]] * 2

    def gompertz(age: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.asarray(5000 * np.exp(-4.7 * np.exp(-0.045 * age)))

    assert weight.gompertz(AGES, gompertz(AGES), CURVE, ahead) == pytest.approx(gompertz(ahead), rel=1e-6)
    assert np.isnan(weight.gompertz(AGES[:5], grams[:5], CURVE, ahead)).all()


def test_the_trend_follows_its_last_slope_and_shrugs_off_an_outlier() -> None:
    grams = np.where(AGES < 20, 100 + 20 * AGES, 500 + 60 * (AGES - 20))
    odd = grams.copy()
    odd[15] += 400
    for values in (grams, odd):
        assert weight.trend(AGES, values, CURVE, np.array([33.0]))[0] == pytest.approx(500 + 60 * 13, rel=0.03)


def test_a_perfect_prediction_has_no_error_and_a_shifted_one_has_its_shift() -> None:
    record = plain_house()
    for shift in (0.0, 0.05):
        made = [
            Predicted(at, at + 2 * DAY_MS, "2d", truth * (0.98 + shift), truth * (1 + shift), truth * (1.02 + shift))
            for day in range(10, 27)
            for at in [record.begin_ms + day * DAY_MS + 8 * HOUR_MS]
            for truth in [float(record.true_weight_g[day + 2])]
        ]
        rows = list(weighed_of(record, Played(predictions=made)))
        assert {row.case for row in rows} == {"in 2 d"}
        assert [row.error for row in rows] == pytest.approx([100 * shift] * len(rows))
        assert {row.inside for row in rows} == {shift == 0}
        assert all(row.simple["scaled breed curve"] < 1 for row in rows)


# --- expectations


def test_a_shifted_expectation_covers_less_and_costs_more() -> None:
    rng = np.random.default_rng(1)
    record = plain_house()
    actual = rng.normal(100, 10, 2000)
    shares, losses = [], []
    for shift in (0.0, 10.0):
        rows = [
            (record.begin_ms + i * 600_000, value, 87.2 + shift, 100.0 + shift, 112.8 + shift)
            for i, value in enumerate(actual.tolist())
        ]
        [sums] = expected_of(record, Played(held={"deviation-water": Held(rows)}))
        shares.append(coverage_of([sums]).value)
        losses.append(sums.pinball)
        assert sums.compared == 2000 - STEPS_A_DAY
    assert shares[0] == pytest.approx(0.8, abs=0.03)
    assert shares[1] < shares[0] - 0.1
    assert losses[1] > losses[0]


# --- the interval


@dataclass(frozen=True)
class Row:
    farm: str
    value: float


def mean(rows: object) -> float:
    return float(np.mean([row.value for row in rows]))  # type: ignore[attr-defined]


def test_the_interval_is_over_farms_not_over_rows() -> None:
    alike = [Row(f"farm{i}", float(i % 2)) for i in range(10) for _ in range(100)]
    apart = [Row(f"farm{i}", float(i % 2)) for i in range(1000)]
    wide, narrow = figure(alike, mean), figure(apart, mean)
    assert wide.value == narrow.value == 0.5
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)
    assert figure(alike, mean) == wide
    assert figure(alike[::-1], mean) == wide


def test_a_median_among_the_never_seen_is_told_as_never() -> None:
    assert median_of([1.0, math.inf, math.inf]) == math.inf
    assert plain({"hours": math.inf, "lead": -math.inf, "none": math.nan}) == {
        "hours": "never", "lead": "missed", "none": None,
    }  # fmt: skip
    assert figure([Row("a", math.inf), Row("b", math.inf)], mean).text() == "never (never to never)"


# --- scenarios and the campaign


def test_scenarios_do_what_they_say() -> None:
    record, rng = plain_house(), np.random.default_rng
    missing = SCENARIOS["30 % of sensors missing"](record, rng(3))
    gone = [name for name, values in missing.signals.items() if np.isnan(values).all()]
    assert len(gone) == round(0.3 * (len(record.signals) - 1))
    assert "dead" not in gone
    dirty = SCENARIOS["dirty scale"](record, rng(1)).signals["weight"] - record.signals["weight"]
    assert 60 <= dirty[-1] <= 251
    assert (np.diff(dirty) > -1e-9).all()
    birds = SCENARIOS["wrong count of birds"](record, rng(1)).told[0].command["birds_placed"]
    assert 0.05 <= abs(float(birds) / 30_000 - 1) <= 0.15
    assert np.isnan(SCENARIOS["no scale"](record, rng(1)).signals["weight"]).all()


def test_a_wrong_clock_moves_readings_and_not_what_people_tell() -> None:
    record = plain_house()
    counted = replace(record, signals={**record.signals, "light": np.arange(float(len(record.at_ms)))})
    for seed in range(4):
        moved = SCENARIOS["wrong clock"](counted, np.random.default_rng(seed)).signals
        shift = np.nanmedian(moved["light"][-1000:] - counted.signals["light"][-1000:])
        assert 6 <= abs(shift) <= 36
        assert (np.diff(moved["light"][np.isfinite(moved["light"])]) > 0).all()
        assert np.array_equal(moved["dead"], counted.signals["dead"], equal_nan=True)


def test_the_campaign_is_the_same_each_time_and_half_of_it_is_healthy() -> None:
    jobs = jobs_of("validation", FULL)
    assert jobs == jobs_of("validation", FULL)
    assert len({(job.seed, job.scenario) for job in jobs}) == len(jobs)
    healthy = sum(2 * len(job.kinds) for job in jobs if job.name == "healthy")  # two flocks each
    faults = [fault for job in jobs if job.name == "faults" for fault in faults_of(job)]
    assert healthy > 40
    assert len({fault.name for fault in faults}) >= 20
    waves = [job for job in jobs if "heat_wave" in job.kinds]
    assert all(len({(f.from_ms, f.severity) for f in faults_of(job)}) <= len(job.kinds) / 4 for job in waves)


def test_the_harness_runs_from_end_to_end(tmp_path: Path) -> None:
    assert main(["--ranges", "validation", "--out", str(tmp_path), "--processes", "1"], size=LITTLE) == 0
    assert "| water_line_blocked | 1 |" in (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    document = json.loads((tmp_path / "results" / "results.json").read_text(encoding="utf-8"))
    assert document["figures"]["counts"]["faults"] == 1
    assert {goal["what"] for goal in document["goals"]} >= {"false warnings per house-day", "right cause first"}
    plots = {path.stem for path in (tmp_path / "results").glob("*.svg")}
    assert plots == {"detection", "found_within", "false", "coverage", "weight", "outbreaks"}


def test_the_same_outcomes_make_the_same_report(houses: list[HouseRecord], tmp_path: Path) -> None:
    outcomes = outcomes_of(TWO, houses, [warned(house, 5) for house in houses])
    about = dict.fromkeys(("what", "ranges", "bundles", "flocks"), "x") | {"healthy": 1, "kinds": 1}
    texts = []
    for name in ("a", "b"):
        write(tmp_path / name, about, all_figures(outcomes), [], 1000)
        texts.append([path.read_bytes() for path in sorted((tmp_path / name).rglob("*.*"))])
    assert texts[0] == texts[1]
    assert len(texts[0]) == 8


def test_evaluation_without_bundles_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundles", str(tmp_path)]) == 1
    assert "there is no bundle 'cause' (there are: none)" in capsys.readouterr().err


def test_outcomes_of_a_healthy_house_hold_no_fault(houses: list[HouseRecord]) -> None:
    healthy, faulty = outcomes_of(TWO, houses, [Played(), Played()])
    assert healthy.is_healthy
    assert not faulty.is_healthy
    assert faulty.quiet.house_days < healthy.quiet.house_days
