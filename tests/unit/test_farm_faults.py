"""Each fault does what its name says, from its first instant on, in its house alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.domain import to_ms
from agent.errors import UsageError
from models_onnx.farm.campaign import OUTBREAK_RATE, campaign
from models_onnx.farm.farm import DEFAULT_START, Farm, Recording, simulate
from models_onnx.farm.faults import FAULTS, Fault, FaultPlan, parse_fault
from models_onnx.farm.params import HELD_OUT_FAULTS
from models_onnx.farm.sensors import SIGNALS
from models_onnx.farm.truth import detectable_ms, truths_of

if TYPE_CHECKING:
    from models_onnx.farm.params import RangeSet

NAMES = tuple(FAULTS)
HOUSE = {name: i for i, name in enumerate(NAMES)}
HEALTHY = len(NAMES)  # one house more, without a fault
BEGIN_DAY, DAYS, PER_DAY = 2, 12, 144
START_MS = to_ms(DEFAULT_START)
HOUR_MS = 3_600_000
FROM_MS = START_MS + (BEGIN_DAY * 24 + 6) * HOUR_MS  # in the morning: most houses are awake
BEGIN = BEGIN_DAY * PER_DAY + 36  # the first step that the fault sees


def fault(name: str, **changes: object) -> Fault:
    kind = FAULTS[name]
    to = FROM_MS + round(kind.hours * HOUR_MS)
    return Fault(name, HOUSE[name], FROM_MS, to, kind.severity, next(iter(kind.signals), None))


def run(faults: tuple[Fault, ...]) -> Recording:
    return simulate(
        HEALTHY + 1,
        DAYS,
        seed=5,
        faults=faults,
        ages=[22] * (HEALTHY + 1),
        houses_per_farm=1,
        gaps=False,
        to_slaughter=False,
    )


@pytest.fixture(scope="module")
def well() -> Recording:
    """Give the farm without faults."""
    return run(())


@pytest.fixture(scope="module")
def ill() -> Recording:
    """Give the same farm with one fault of each kind, each in its own house, all from the same instant."""
    return run(tuple(fault(name) for name in NAMES))


def hours(recording: Recording, name: str, signal: str, first: float, last: float) -> np.ndarray:
    """Return a signal of the fault's house between two hours after the fault began."""
    return recording.signals[signal][HOUSE[name], BEGIN + round(first * 6) : BEGIN + round(last * 6)]


def test_nothing_changes_before_a_fault_begins_and_nothing_ever_in_other_houses(
    well: Recording, ill: Recording
) -> None:
    for signal in SIGNALS:
        before = slice(0, BEGIN)
        np.testing.assert_array_equal(ill.signals[signal][:, before], well.signals[signal][:, before])
        np.testing.assert_array_equal(ill.signals[signal][HEALTHY], well.signals[signal][HEALTHY])


def test_a_blocked_water_line_stops_the_water_at_once_and_the_feed_within_hours(
    well: Recording, ill: Recording
) -> None:
    name = "water_line_blocked"
    assert hours(ill, name, "water", 0, 2).sum() < 0.25 * hours(well, name, "water", 0, 2).sum()
    assert hours(ill, name, "feed", 3, 12).sum() < 0.7 * hours(well, name, "feed", 3, 12).sum()
    assert hours(ill, name, "water", 12, 24).sum() > 1.05 * hours(well, name, "water", 12, 24).sum()  # thirst
    after = ill.true_weight_g[HOUSE[name], 4], well.true_weight_g[HOUSE[name], 4]
    assert after[0] < after[1]


def test_a_feed_outage_stops_the_augers_and_slows_growth(well: Recording, ill: Recording) -> None:
    name = "feed_outage"
    assert hours(ill, name, "feed", 0, 12).sum() == 0
    water = hours(ill, name, "water", 3, 12).sum() / hours(well, name, "water", 3, 12).sum()
    assert 0.4 < water < 0.95
    assert hours(ill, name, "feed", 12, 24).sum() > 1.1 * hours(well, name, "feed", 12, 24).sum()  # hunger, empty pans
    assert ill.true_weight_g[HOUSE[name], 4] < well.true_weight_g[HOUSE[name], 4] - 5
    assert np.nanmax(np.abs(np.diff(hours(ill, name, "silo", 0, 12)))) <= 120  # nothing but noise and the lorry


def test_a_ventilation_failure_fouls_the_air_and_the_computer_asks_for_more(well: Recording, ill: Recording) -> None:
    name = "ventilation_failure"
    assert hours(ill, name, "co2", 1, 10).mean() > 1.5 * hours(well, name, "co2", 1, 10).mean()
    assert hours(ill, name, "ammonia", 1, 10).mean() > 1.5 * hours(well, name, "ammonia", 1, 10).mean()
    assert hours(ill, name, "temperature", 1, 10).max() > hours(well, name, "temperature", 1, 10).max() + 1
    assert hours(ill, name, "ventilation", 1, 10).mean() > hours(well, name, "ventilation", 1, 10).mean() + 20


def test_a_heater_failure_cools_the_house_while_the_computer_asks_for_heat(well: Recording, ill: Recording) -> None:
    name = "heater_failure"
    assert hours(ill, name, "temperature", 2, 12).min() < hours(well, name, "temperature", 2, 12).min() - 0.5
    assert hours(ill, name, "heating", 2, 12).mean() > hours(well, name, "heating", 2, 12).mean() + 10


def test_a_disease_costs_appetite_then_weight_then_lives(well: Recording, ill: Recording) -> None:
    """Coccidiosis: intake down by 19 % and gain by 40 % at the worst; the dead come after."""
    name = "disease"
    worst = FAULTS[name].hours * 5 / 13
    ratio = [hours(r, name, "feed", worst - 12, worst + 12).sum() for r in (ill, well)]
    assert ratio[0] / ratio[1] == pytest.approx(0.81, abs=0.05)
    gain = [np.diff(r.true_weight_g[HOUSE[name]])[4] for r in (ill, well)]  # day 2 + 2.7
    assert 0.45 < gain[0] / gain[1] < 0.8
    dead = [np.nan_to_num(r.signals["dead"][HOUSE[name]]).reshape(DAYS, PER_DAY).sum(axis=1) for r in (ill, well)]
    assert dead[0][:3].sum() == dead[1][:3].sum()
    assert dead[0][5:9].sum() > 4 * dead[1][5:9].sum()
    assert dead[0].max() > 0.003 * ill.live_birds[HOUSE[name], 5]  # an outbreak as the real flocks' definition has it


def test_a_stuck_sensor_repeats_itself_and_the_house_settles_again_after_it(well: Recording, ill: Recording) -> None:
    name = "sensor_stuck"
    stuck = hours(ill, name, "temperature", 0, 12)
    assert set(stuck) == {well.signals["temperature"][HOUSE[name], BEGIN - 1]}
    after = slice(BEGIN + 72 + 12, None)
    apart = ill.signals["temperature"][HOUSE[name], after] - well.signals["temperature"][HOUSE[name], after]
    assert np.abs(apart).max() < 1


def test_the_ground_truth_holds_every_fault(ill: Recording) -> None:
    assert {f.name for f in ill.faults} == set(NAMES)


def test_a_fault_is_as_hard_as_its_severity() -> None:
    half = Fault("water_line_blocked", 0, 1000, 2000, 0.5)
    plan = FaultPlan([half], np.arange(2))
    assert plan.effects_at(999)["blocked"].tolist() == [0, 0]
    assert plan.effects_at(1000)["blocked"].tolist() == [0.5, 0]
    assert plan.effects_at(2000)["blocked"].tolist() == [0, 0]


def test_the_form_of_a_fault_is_read() -> None:
    houses = ["house1", "house2"]
    wanted = parse_fault("water_line_blocked@house2:3+6", houses, 10)
    made = wanted.at(START_MS, 1)
    assert (made.from_ms, made.to_ms) == (START_MS + 72 * HOUR_MS, START_MS + 78 * HOUR_MS)
    assert parse_fault("feed_outage@house1:0.5", houses, 10).hours == 12
    assert parse_fault("disease@house1:1", houses, 10).hours == 7 * 24
    assert parse_fault("sensor_stuck@house1:1", houses, 10).signal == "temperature"
    assert parse_fault("sensor_stuck-humidity@house1:1", houses, 10).signal == "humidity"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("earthquake@house1:3", "there are water_line_blocked, water_leak"),
        ("disease@house9:3", "there are house1, house2"),
        ("disease@house1:10", "outside this farm's 10 days"),
        ("disease@house1:-1", "outside this farm's 10 days"),
        ("disease@house1:x", "DAY and HOURS are numbers"),
        ("disease@house1:3+0", "HOURS must be above 0"),
        ("disease@house1:3+nan", "HOURS must be above 0"),
        ("disease@house1", "is not NAME@HOUSE:DAY"),
        ("disease-water@house1:1", "only sensor_stuck, sensor_drift"),
        ("sensor_stuck-dead@house1:1", "there are temperature, humidity"),
    ],
)
def test_a_wrong_fault_names_what_there_is(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_fault(text, ["house1", "house2"], 10)


def test_a_fault_of_no_such_house_is_refused() -> None:
    with pytest.raises(UsageError, match="house 7"):
        FaultPlan([Fault("disease", 7, 0, 1, 1.0)], np.arange(2))


# --- what each kind moves, which way, and in which order --------------------------------------------------------------


def change(well: Recording, ill: Recording, name: str, signal: str, first: float, last: float) -> float:
    """Return the mean of a signal in some hours of a fault, against the same farm without it."""
    return float(np.nanmean(hours(ill, name, signal, first, last)) / np.nanmean(hours(well, name, signal, first, last)))


def told_dead(recording: Recording, name: str) -> np.ndarray:
    """Return how many a day were told dead or culled."""
    both = recording.signals["dead"][HOUSE[name]] + recording.signals["culled"][HOUSE[name]]
    days: np.ndarray = np.nan_to_num(both).reshape(DAYS, PER_DAY).sum(axis=1)
    return days


def test_a_leak_runs_by_night_and_wets_the_air(well: Recording, ill: Recording) -> None:
    name = "water_leak"
    flow = hours(ill, name, "water", 0, 48) - hours(well, name, "water", 0, 48)
    dark = hours(well, name, "light", 0, 48) < 1
    assert flow[dark].mean() == pytest.approx(flow[~dark].mean(), rel=0.35)  # birds drink by day, a line runs always
    assert flow.mean() > 20
    assert change(well, ill, name, "humidity", 12, 48) > 1.01
    assert change(well, ill, name, "feed", 0, 48) == pytest.approx(1, abs=0.02)


def test_a_bridge_in_the_silo_brings_a_share_of_the_feed(well: Recording, ill: Recording) -> None:
    assert 0.45 < change(well, ill, "feed_bridge", "feed", 3, 36) < 0.85
    assert change(well, ill, "feed_bridge", "feed", 36, 50) > 1.1


def test_fans_that_foul_lose_pressure_and_are_asked_for_more(well: Recording, ill: Recording) -> None:
    name = "fan_fouling"
    late = change(well, ill, name, "pressure", 8 * 24, 9.5 * 24)
    assert change(well, ill, name, "pressure", 0, 24) > late + 0.15
    assert late < 0.75
    assert change(well, ill, name, "co2", 8 * 24, 9.5 * 24) > 1.05


def test_inlets_that_stay_shut_raise_the_pressure_and_starve_the_house_of_air(well: Recording, ill: Recording) -> None:
    assert change(well, ill, "inlet_stuck", "pressure", 0, 24) > 2
    assert change(well, ill, "inlet_stuck", "co2", 3, 24) > 1.1
    assert change(well, ill, "ventilation_failure", "pressure", 1, 10) < 0.2  # a failing fan shows the other way


def test_an_open_gate_lets_pressure_and_warmth_out_for_an_hour(well: Recording, ill: Recording) -> None:
    assert change(well, ill, "door_open", "pressure", 0, 1) < 0.4
    assert change(well, ill, "door_open", "co2", 0.3, 1) < 0.95
    assert change(well, ill, "door_open", "co2", 4, 12) == pytest.approx(1, abs=0.02)


def test_a_heat_wave_comes_to_all_houses_of_the_farm() -> None:
    wave = Fault("heat_wave", 0, START_MS, START_MS + 96 * HOUR_MS, 1.0)
    plain, hot = (
        simulate(3, 3, 5, 3600, faults=faults, houses_per_farm=2, to_slaughter=False) for faults in ((), (wave,))
    )
    warmer = (hot.signals["outside_temperature"] - plain.signals["outside_temperature"])[:, -24:].mean(axis=1)
    assert warmer[:2] == pytest.approx([12, 12], abs=1)
    assert warmer[2] == 0
    drier = hot.signals["outside_humidity"][0, -24:] < plain.signals["outside_humidity"][0, -24:]
    assert drier.mean() > 0.9


def test_wet_litter_gives_more_ammonia_day_by_day(well: Recording, ill: Recording) -> None:
    name = "wet_litter"
    assert change(well, ill, name, "ammonia", 0, 12) < 1.25
    assert change(well, ill, name, "ammonia", 4 * 24, 6 * 24) > 1.5


def test_coccidiosis_costs_a_fifth_of_the_feed_from_day_five_and_is_over_on_day_thirteen(
    well: Recording, ill: Recording
) -> None:
    name = "coccidiosis"
    assert change(well, ill, name, "feed", 0, 24) > 0.94
    assert change(well, ill, name, "feed", 5 * 24, 8 * 24) == pytest.approx(0.81, abs=0.05)
    gain = [np.diff(r.true_weight_g[HOUSE[name]])[BEGIN_DAY + 5] for r in (ill, well)]
    assert gain[0] / gain[1] == pytest.approx(0.60, abs=0.12)


def test_enteritis_shows_in_water_to_feed_before_the_feed_and_in_the_dead_last(well: Recording, ill: Recording) -> None:
    name = "enteritis"
    assert change(well, ill, name, "water", 18, 36) > 1.06
    assert change(well, ill, name, "feed", 0, 24) > 0.98
    assert change(well, ill, name, "feed", 80, 110) < 0.93
    extra = told_dead(ill, name) - told_dead(well, name)
    assert abs(extra[BEGIN_DAY : BEGIN_DAY + 3].sum()) < 0.3 * extra[BEGIN_DAY + 3 :].sum()


def test_a_respiratory_disease_takes_feed_and_water_together(well: Recording, ill: Recording) -> None:
    name = "respiratory"
    feed, water = (change(well, ill, name, signal, 72, 144) for signal in ("feed", "water"))
    assert feed == pytest.approx(0.86, abs=0.05)
    assert water == pytest.approx(feed, abs=0.05)


def test_an_outbreak_of_deaths_is_one_by_the_definition_and_hardly_shows_elsewhere(
    well: Recording, ill: Recording
) -> None:
    """The first day with 0.30 % dead and three times the median of the seven before (F1 of docs/sources.md)."""
    name = "mortality_outbreak"
    dead, live = told_dead(ill, name), ill.live_birds[HOUSE[name]]
    share = dead / live
    days = [d for d in range(5, DAYS) if share[d] >= 0.003 and share[d] >= 3 * np.median(share[max(d - 7, 1) : d])]
    assert days
    assert BEGIN_DAY + 1 <= days[0] <= BEGIN_DAY + 5
    for signal in ("feed", "water"):
        assert change(well, ill, name, signal, 0, 144) > 0.95


def test_a_growth_lag_leaves_the_flock_behind_and_feed_follows(well: Recording, ill: Recording) -> None:
    name = "growth_lag"
    gain = [np.diff(r.true_weight_g[HOUSE[name]])[BEGIN_DAY + 4 :].mean() for r in (ill, well)]
    assert 0.78 < gain[0] / gain[1] < 0.95
    assert 0.85 < change(well, ill, name, "feed", 96, 230) < 0.98


STRUCK = ("sensor_stuck", "sensor_drift", "sensor_noise", "sensor_dropout", "sensor_scale", "sensor_fouled")


def struck(signal: str) -> tuple[Recording, Recording]:
    """Return a farm well and with every fault of one sensor, each in its own house."""
    kinds = [FAULTS[name] for name in STRUCK if signal in FAULTS[name].signals]
    faults = [Fault(kind.name, i, FROM_MS, FROM_MS + 96 * HOUR_MS, 1.0, signal) for i, kind in enumerate(kinds)]
    well, ill = (
        simulate(len(kinds), 7, 5, faults=given, ages=[22] * len(kinds), gaps=False, to_slaughter=False)
        for given in ((), faults)
    )
    return well, ill


@pytest.fixture(scope="module")
def gas() -> tuple[Recording, Recording]:
    """Give a farm well and with faults of a sensor that nothing is controlled by."""
    return struck("co2")


def test_faults_of_sensors_show_what_their_names_say(gas: tuple[Recording, Recording]) -> None:
    well, ill = gas
    usual, shown = (r.signals["co2"][:, BEGIN : BEGIN + 96 * 6] for r in (well, ill))
    assert np.ptp(shown[0]) == 0
    drift = shown[1] - usual[1]
    assert drift[:18].mean() < 100
    assert drift[-18:].mean() == pytest.approx(1500, abs=60)
    assert np.std(shown[2] - usual[2]) == pytest.approx(500, rel=0.15)
    assert np.isnan(shown[3]).all()
    np.testing.assert_array_equal(shown[4], 10 * usual[4])
    assert shown[5, -18:].mean() < 0.6 * usual[5, -18:].mean()


def test_faults_of_sensors_that_nothing_is_controlled_by_leave_the_house_alone(
    gas: tuple[Recording, Recording],
) -> None:
    well, ill = gas
    for signal in set(SIGNALS) - {"co2"}:
        np.testing.assert_array_equal(ill.signals[signal], well.signals[signal])


def true_and_shown(faults: tuple[Fault, ...], days: int, step_s: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Return the true temperature of two houses, [steps, houses], and their readings, [steps, signals, houses]."""
    farm = Farm(2, 5, DEFAULT_START, faults=faults, ages=[20, 20], gaps=False)
    farm.run_to(farm.start_ms)
    steps = [(farm.climate.temperature, step.values) for step in farm.steps(step_s, START_MS + days * 24 * HOUR_MS)]
    return np.array([true for true, _ in steps]), np.array([shown for _, shown in steps])


def test_a_drifting_temperature_sensor_misleads_the_house_computer_and_the_birds_feel_it() -> None:
    """A sensor that shows too much cools the house: it shows the set point, and heat and appetite tell the truth."""
    up, down = (
        Fault("sensor_drift", house, FROM_MS, FROM_MS + 96 * HOUR_MS, 1.0, None, shape)
        for house, shape in ((0, 0.25), (1, 0.75))
    )
    last = slice(BEGIN + 72 * 6, BEGIN + 96 * 6)
    (true, shown), (misled, told) = (true_and_shown(faults, 7) for faults in ((), (up, down)))
    warmer = (misled - true)[last].mean(axis=0)
    assert -5.2 < warmer[0] < -1  # at 5 K people hold the house by hand
    assert 1 < warmer[1] < 5.2
    apart = {name: (told - shown)[last, SIGNALS.index(name)].mean(axis=0) for name in ("temperature", "heating")}
    assert np.abs(apart["temperature"]).max() < 3.5  # though the sensors are wrong by 5.25 K
    assert apart["heating"][0] < 0 < apart["heating"][1]
    feed = (told - shown)[last, SIGNALS.index("feed")].sum(axis=0)
    assert feed[1] < feed[0]


def test_a_temperature_sensor_that_is_silent_or_shows_what_cannot_be_is_held_at_its_last_value() -> None:
    """As a house computer does (S7b of docs/sources.md): so it is misled as by a sensor that is stuck."""
    well, stuck, silent, tenfold = (
        true_and_shown(faults, 4, 1800)[0][:, 0]
        for faults in (
            (),
            *((Fault(name, 0, FROM_MS, FROM_MS + 24 * HOUR_MS, 1.0, "temperature"),)
            for name in ("sensor_stuck", "sensor_dropout", "sensor_scale")),
        )
    )  # fmt: skip
    np.testing.assert_array_equal(silent, stuck)
    np.testing.assert_array_equal(tenfold, stuck)
    assert np.abs(stuck - well).max() > 0.3


def test_a_humidity_sensor_that_shows_too_much_has_the_house_aired() -> None:
    well, ill = struck("humidity")
    ends = slice(BEGIN + 72 * 6, BEGIN + 96 * 6)
    assert ill.signals["co2"][1, ends].mean() < 0.97 * well.signals["co2"][1, ends].mean()


def test_litter_on_the_scale_grows_and_is_wiped(well: Recording, ill: Recording) -> None:
    name = "scale_dirty"
    more = [np.nanmean(r.signals["weight"][HOUSE[name]].reshape(DAYS, PER_DAY), axis=1) for r in (ill, well)]
    extra = more[0] - more[1]
    assert 0 <= extra[BEGIN_DAY] < extra[BEGIN_DAY + 4]
    assert extra[BEGIN_DAY + 4] > 60
    assert extra[-1] < 15
    np.testing.assert_array_equal(ill.true_weight_g[HOUSE[name]], well.true_weight_g[HOUSE[name]])


def test_a_wrong_clock_shifts_the_light_and_the_meals(well: Recording, ill: Recording) -> None:
    name = "clock_error"
    lit = [hours(r, name, "light", 24, 48) > 1 for r in (ill, well)]
    assert (lit[0] != lit[1]).mean() > 0.15
    assert lit[0].sum() == lit[1].sum()


def test_birds_that_left_untold_are_missing_at_the_feeder(well: Recording, ill: Recording) -> None:
    name = "thin_unrecorded"
    assert change(well, ill, name, "feed", 0, 48) == pytest.approx(0.7, abs=0.03)
    assert not [t for t in ill.told if t.house == HOUSE[name] and t.command["action"] == "thin"]


def test_a_wrong_count_of_chicks_is_told_and_nothing_else_is_wrong(well: Recording, ill: Recording) -> None:
    house = HOUSE["placement_wrong"]
    [flock] = [f for f in ill.flocks if f.house == house]
    assert flock.birds_told == round(flock.birds_placed * 1.1)
    [told] = [t.command for t in ill.told if t.house == house and t.command["action"] == "place"]
    assert told["birds_placed"] == flock.birds_told
    for signal in SIGNALS:
        np.testing.assert_array_equal(ill.signals[signal][house], well.signals[signal][house])


# --- truth and campaigns ----------------------------------------------------------------------------------------------


def test_against_its_twin_a_fault_shows_when_it_can_be_seen_and_not_before(well: Recording, ill: Recording) -> None:
    shown = {f.name: detectable_ms(ill, well, f) for f in ill.faults}
    after_h = {name: (at_ms - FROM_MS) / HOUR_MS for name, at_ms in shown.items() if at_ms is not None}
    assert 0 < after_h["water_line_blocked"] <= 2
    assert 2 < after_h["fan_fouling"] < 96
    assert 0 < after_h["sensor_scale"] <= 1 / 3
    assert shown["placement_wrong"] is None  # no sensor can show it
    assert min(after_h.values()) > 0


def test_the_truth_of_a_farm_takes_each_fault_away_by_itself_also_two_of_one_house() -> None:
    faults = (
        Fault("water_line_blocked", 0, FROM_MS, FROM_MS + 12 * HOUR_MS, 0.9),
        Fault("placement_wrong", 2, FROM_MS, FROM_MS + HOUR_MS, 0.1),
        Fault("sensor_scale", 0, FROM_MS + 12 * HOUR_MS, FROM_MS + 24 * HOUR_MS, 1.0, "co2"),
        Fault("heat_wave", 3, FROM_MS, FROM_MS + 48 * HOUR_MS, 1.0),
    )
    run = simulate(4, 5, seed=5, faults=faults, ages=[8] * 4, houses_per_farm=3, gaps=False, to_slaughter=False)
    blocked, count, scale, wave = truths_of(run)
    assert [t.name for t in (blocked, count, scale, wave)] == [f.name for f in faults]
    assert blocked.detectable_ms is not None
    awake_ms = run.at_ms[(run.at_ms > FROM_MS) & (run.signals["light"][0] > 1)][0]
    assert FROM_MS < blocked.detectable_ms <= awake_ms + 2 * HOUR_MS
    assert count.detectable_ms is None
    assert scale.detectable_ms is not None
    assert 0 < scale.detectable_ms - scale.from_ms <= HOUR_MS // 3
    assert wave.detectable_ms is not None
    assert wave.from_ms < wave.detectable_ms < wave.to_ms


def test_a_campaign_is_the_same_for_the_same_seed_and_keeps_the_test_faults_for_the_test() -> None:
    train = campaign(300, 3, ranges="train", share=0.8, outbreaks=OUTBREAK_RATE)
    assert train == campaign(300, 3, ranges="train", share=0.8, outbreaks=OUTBREAK_RATE)
    assert not {f.name for f in train} & HELD_OUT_FAULTS
    assert {f.name for f in campaign(300, 3, ranges="test", share=1.0)} > HELD_OUT_FAULTS
    assert max(f.shape for f in train if f.name == "fan_fouling") <= 0.5
    houses = [f.house for f in train]
    assert len(houses) == len(set(houses))
    assert 220 < len(houses) < 290
    for f in train:
        low, high = FAULTS[f.name].drawn_severity
        assert low <= round(f.severity, 2) <= high + 0.01
        assert f.from_ms < f.to_ms
    only = campaign(50, 3, kinds={"water_leak": 1.0}, share=1.0, days=20)
    assert {f.name for f in only} == {"water_leak"}
    assert max(f.from_ms for f in only) < START_MS + 20 * 24 * HOUR_MS


@pytest.mark.parametrize("ranges", ["train", "test"])
def test_a_campaign_in_summer_touches_only_the_houses_that_it_names_and_nothing_before(ranges: RangeSet) -> None:
    """In the heat houses cool by water, stages switch, emergency openings move: each for itself."""
    start = datetime(2026, 6, 25, tzinfo=UTC)
    houses, days, ages = 40, 7, [10] * 40
    drawn = campaign(houses, 8, ranges=ranges, start=start, ages=ages, days=days, share=1.0, houses_per_farm=1)
    faults = [fault for fault in drawn if fault.house % 2 == 0]
    assert len({fault.name for fault in faults}) > 8
    plain, hit = (
        simulate(houses, days, 8, 1800, ranges, given, ages, start=start, houses_per_farm=1, to_slaughter=False)
        for given in ((), faults)
    )
    for signal in SIGNALS:
        np.testing.assert_array_equal(hit.signals[signal][1::2], plain.signals[signal][1::2])
        for fault in faults:
            before = slice(0, int(np.searchsorted(plain.at_ms, fault.from_ms, "right")))
            np.testing.assert_array_equal(
                hit.signals[signal][fault.house, before], plain.signals[signal][fault.house, before]
            )
