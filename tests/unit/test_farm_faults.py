"""Each fault does what its name says, from its first instant on, in its house alone."""

from __future__ import annotations

import numpy as np
import pytest

from agent.domain import to_ms
from agent.errors import UsageError
from models_onnx.farm.farm import DEFAULT_START, Recording, simulate
from models_onnx.farm.faults import FAULTS, Fault, FaultPlan, parse_fault
from models_onnx.farm.sensors import SIGNALS

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


def test_a_stuck_sensor_repeats_itself_and_the_house_does_not_mind(well: Recording, ill: Recording) -> None:
    name = "sensor_stuck"
    stuck = hours(ill, name, "temperature", 0, 12)
    assert set(stuck) == {well.signals["temperature"][HOUSE[name], BEGIN - 1]}
    for signal in set(SIGNALS) - {"temperature"}:
        np.testing.assert_array_equal(ill.signals[signal][HOUSE[name]], well.signals[signal][HOUSE[name]])
    after = slice(BEGIN + 72, None)
    np.testing.assert_array_equal(
        ill.signals["temperature"][HOUSE[name], after], well.signals["temperature"][HOUSE[name], after]
    )


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
