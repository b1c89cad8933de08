"""The alarms that house computers have, by SKOV's published rules, on the same readings.

The limits are those of the agent's own rules of house computers, with their sources (``agent/rules.py``,
``agent/plain.py``): they have one home. The S numbers here are those of docs/sources.md. Where a manual leaves a limit
to the user, ours is marked "assumed" and on the keen side: the earlier these rules speak, the smaller our lead, so that
nobody beats a straw man. They know what the agent knows: the living birds that people tell, the state of the house
(alarms are muted from the feed withdrawal until a day after a thinning: SKOV's catching function does so [S6]), and,
unlike the agent without its curve, the set point. Levels hold ten minutes before they count, as the readings come every
ten minutes.

Left out for want of the signal: flap and inlet positions, light against the programme, emergency opening, battery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from agent.plain import FEW_S, RATIO_MIDDLE, SLIDE, WATER_SHIFT_S, WATER_TO_FEED
from agent.rules import KINDS
from models_onnx.evaluate.baselines.alarms import risen
from models_onnx.evaluate.record import STEP_MS, STEPS_A_DAY, ages, breed_day_feed_kg, live_birds, usual
from models_onnx.farm.farm import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from models_onnx.evaluate.baselines.alarms import Alarm
    from models_onnx.evaluate.record import HouseRecord

    F64 = NDArray[np.float64]
    Bools = NDArray[np.bool_]

_HIGH, _LOW, _MAX = (KINDS[kind].limits for kind in ("high", "low", "max"))
HIGH_K, LOW_K = _HIGH["temperature"], -_LOW["temperature"]  # against the set point
ABSOLUTE_CEL = _MAX["temperature"]  # where the set point is low enough that it means anything, assumed
HUMIDITY_HIGH = _MAX["humidity"]
HUMIDITY_BROKEN = 5.0  # [S5]
CO2_PPM = (300.0, _MAX["co2"])  # user's limits [S5]
NH3_PPM = _MAX["ammonia"]
PRESSURE_PA, PRESSURE_STEPS = 15.0, 3  # user's limits around what it holds, with the sensor alarm delay [S5]; assumed
MISPLACED_K = KINDS["misplaced"].limits["outside_temperature"]
WATER_SHIFT = 1000 * WATER_SHIFT_S // STEP_MS
WATER_SHARE, FEED_SHARE = (KINDS["drop"].limits[name] for name in ("water", "feed"))  # 6 %: it sees 2 h of a full stop
FEW_LITRES, FEW_STEPS = KINDS["few"].limits["water"], 1000 * FEW_S["water"] // STEP_MS  # while lights are on
BURST = KINDS["much"].limits["feed"]  # times the day's mean rate over 30 min
LITTLE_FEED_KG, LITTLE_STEPS = KINDS["few"].limits["feed"], 1000 * FEW_S["feed"] // STEP_MS
RATIO = (RATIO_MIDDLE - KINDS["ratio"].limits["water"], RATIO_MIDDLE + KINDS["ratio"].limits["water"])  # l/kg in 24 h
RATIO_FROM_DAY = float(KINDS["ratio"].first_day)
FROM_DAY = float(KINDS["few"].first_day)  # production alarms are mute until a start day
FEW_FROM_DAY = float(KINDS["few"].first_days["water"])
SILENT_STEPS = 3  # a sensor that is cut off for half an hour; house computers see it at once
CLIMATE_SENSORS = ("temperature", "humidity", "co2", "ammonia", "pressure", "outside_temperature")


def alarms(record: HouseRecord) -> list[Alarm]:
    """Return every alarm of a house computer over the whole record."""
    at_ms, birds = record.at_ms, usual(record)
    found = []
    for rule, signal, condition, muted in (*_climate(record), *_production(record), *_sensors(record)):
        found += risen(rule, signal, at_ms, condition & birds & ~muted)
    return sorted(found, key=lambda alarm: alarm.at_ms)


Condition = tuple[str, str, "Bools", "Bools"]  # rule, signal, where it holds, where it is muted


def _climate(record: HouseRecord) -> Iterator[Condition]:
    signals, never = record.signals, np.zeros(len(record.at_ms), np.bool_)
    inside, outside, set_point = signals["temperature"], signals["outside_temperature"], record.set_point
    with np.errstate(invalid="ignore"):
        over = inside > set_point + HIGH_K
        slide = outside + np.interp(np.nan_to_num(outside), *SLIDE)
        summer = np.where(outside >= SLIDE[0][0], inside > slide, True)  # noqa: FBT003  # else: no limit from outside
        yield "high temperature", "temperature", over & summer, never
        yield "low temperature", "temperature", inside < set_point + LOW_K, never
        absolute = (inside > ABSOLUTE_CEL) & (set_point + HIGH_K < ABSOLUTE_CEL)
        yield "absolute high temperature", "temperature", absolute, never
        yield "high humidity", "humidity", signals["humidity"] > HUMIDITY_HIGH, never
        yield "humidity sensor", "humidity", signals["humidity"] < HUMIDITY_BROKEN, never
        yield "CO2", "co2", (signals["co2"] > CO2_PPM[1]) | (signals["co2"] < CO2_PPM[0]), never
        yield "NH3", "ammonia", signals["ammonia"] > NH3_PPM, never
        if "pressure" in signals:
            off = np.abs(signals["pressure"] - record.set_pressure) > PRESSURE_PA
            yield "pressure", "pressure", _all_of(off, PRESSURE_STEPS), never
        yield "outside sensor misplaced", "outside_temperature", inside < outside - MISPLACED_K, never


def _production(record: HouseRecord) -> Iterator[Condition]:
    age, live = ages(record), live_birds(record)
    with np.errstate(invalid="ignore", divide="ignore"):
        young = ~(age >= FROM_DAY)
        lit = _all_of(np.nan_to_num(record.signals["light"]) > 1, FEW_STEPS + 1)
        whole = ~(age >= FROM_DAY + 1) | ~usual(record, DAY_MS)  # the 24 h before hold no other number of birds
        water, feed = (np.nan_to_num(record.signals[name]) for name in ("water", "feed"))  # a gap's comes after it
        has_water, has_feed = (np.isfinite(record.signals[name]).any() for name in ("water", "feed"))
        day_water, day_feed = _sum_of(water, STEPS_A_DAY), _sum_of(feed, STEPS_A_DAY)
        breed_kg = breed_day_feed_kg(record) * live
        if has_water:
            normal = _before(day_water, WATER_SHIFT)
            yield "water below normal", "water", day_water < (1 - WATER_SHARE) * normal, whole
            yield "water above normal", "water", day_water > (1 + WATER_SHARE) * normal, whole
            few = (_sum_of(water, FEW_STEPS) < FEW_LITRES) & lit & ~_gap_in(record.signals["water"], FEW_STEPS)
            yield "not enough water", "water", few, ~(age >= FEW_FROM_DAY)
            most = BURST * WATER_TO_FEED * breed_kg * FEW_STEPS / STEPS_A_DAY
            much = (_sum_of(water, FEW_STEPS) > most) & ~_gap_in(record.signals["water"], FEW_STEPS)
            yield "too much water", "water", much, young
        if has_feed:
            yield "feed reduced", "feed", day_feed < (1 - FEED_SHARE) * _before(day_feed, STEPS_A_DAY), whole
            most = BURST * breed_kg * FEW_STEPS / STEPS_A_DAY
            much = (_sum_of(feed, FEW_STEPS) > most) & ~_gap_in(record.signals["feed"], FEW_STEPS)
            yield "too much feed", "feed", much, young
            little = (_sum_of(feed, LITTLE_STEPS) < LITTLE_FEED_KG) & ~_gap_in(record.signals["feed"], LITTLE_STEPS)
            yield "not enough feed", "feed", little & _all_of(lit, LITTLE_STEPS), young
        if has_water and has_feed:
            ratio = day_water / day_feed
            yield "water to feed", "water", (ratio < RATIO[0]) | (ratio > RATIO[1]), ~(age >= RATIO_FROM_DAY)


def _sensors(record: HouseRecord) -> Iterator[Condition]:
    never = np.zeros(len(record.at_ms), np.bool_)
    for name in CLIMATE_SENSORS:
        values = record.signals.get(name)
        if values is not None and np.isfinite(values).any():
            yield f"sensor error {name}", name, _all_of(~np.isfinite(values), SILENT_STEPS), never


def _sum_of(values: F64, steps: int) -> F64:
    """Return the sum of the last ``steps`` values at each; NaN where there are not so many."""
    total = np.concatenate(([0.0], np.cumsum(values)))
    found = np.full(len(values), np.nan)
    found[steps - 1 :] = total[steps:] - total[:-steps]
    return found


def _before(values: F64, steps: int) -> F64:
    return np.concatenate((np.full(steps, np.nan), values[:-steps]))


def _all_of(condition: Bools, steps: int) -> Bools:
    """Return where a condition has held for the last ``steps`` steps."""
    return np.asarray(_sum_of(condition.astype(np.float64), steps) >= steps - 0.5)


def _gap_in(values: F64, steps: int) -> Bools:
    """Return where one of the last ``steps`` readings, or the one before them, is missing."""
    return np.asarray(~(_sum_of(np.isfinite(values).astype(np.float64), steps + 1) > steps + 0.5))
