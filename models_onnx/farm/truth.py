"""When a fault could first be seen: the farm is run again without it, by the same random numbers, and compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models_onnx.farm.farm import simulate
from models_onnx.farm.sensors import AMOUNTS, BY_PEOPLE, SIGNALS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from models_onnx.farm.farm import Recording
    from models_onnx.farm.faults import Fault

    Array = NDArray[np.float64]

HOUR_MS = 3_600_000
# The difference that is more than the sensor's steps and noise (sensors.py): a step, and three times the noise.
SEEN = {
    "temperature": 0.8,
    "humidity": 3.5,
    "co2": 80.0,
    "ammonia": 2.0,
    "ventilation": 3.0,
    "heating": 3.0,
    "silo": 60.0,
    "light": 5.0,
    "pressure": 10.0,
    "outside_temperature": 0.5,
    "outside_humidity": 3.0,
}
SEEN_SHARE = {"weight": 0.04, "weight_sd": 0.12, "weight_count": 0.3}  # of the reading without the fault
# Amounts: a share of what went through within so many hours, our judgement: the restlessness of an hour, and of a day
SEEN_OF_AMOUNT = ((1, 0.30), (24, 0.05))
LEAST_AMOUNT = 30.0  # litres, kg: a few pulses
DEAD_SD = 3.0  # beyond chance
MISSING_H = 1  # a sensor that is silent for so long


@dataclass(frozen=True, slots=True)
class FaultTruth:
    """A fault as it really was; ``detectable_ms`` is the first instant at which any reading shows it, None if none."""

    name: str
    house: int
    from_ms: int
    to_ms: int
    severity: float
    signal: str | None
    shape: float
    detectable_ms: int | None


def truths_of(recording: Recording) -> list[FaultTruth]:
    """Return the truth of every fault of a recording, in the order of ``recording.faults``.

    Each fault of a house is taken away in a run of its own, so this takes as long as the recording once for every fault
    of the house that has the most; and once more where there were heat waves, which are taken away everywhere at once.
    """
    rank: dict[int, int] = {}
    runs: list[list[Fault]] = []  # the faults that each run goes without
    waves = [fault for fault in recording.faults if fault.name == "heat_wave"]
    for fault in recording.faults:
        if fault.name == "heat_wave":
            continue
        n = rank[fault.house] = rank.get(fault.house, -1) + 1
        runs[n : n + 1] = [[*(runs[n] if n < len(runs) else []), fault]]
    seen: dict[int, int | None] = {}
    for without in [*runs, waves] if waves else runs:
        twin = _twin(recording, without)
        for fault in without:
            seen[id(fault)] = detectable_ms(recording, twin, fault)
    return [
        FaultTruth(f.name, f.house, f.from_ms, f.to_ms, f.severity, f.signal, f.shape, seen[id(f)])
        for f in recording.faults
    ]


def _twin(recording: Recording, without: Sequence[Fault]) -> Recording:
    run = recording.run
    gone = {id(fault) for fault in without}
    return simulate(
        run.houses,
        run.days,
        run.seed,
        run.step_s,
        run.ranges,
        [fault for fault in recording.faults if id(fault) not in gone],
        run.ages,
        start=run.start,
        houses_per_farm=run.houses_per_farm,
        gaps=run.gaps,
        field=run.field,
        restock=run.restock,
        to_slaughter=False,
    )


def detectable_ms(recording: Recording, twin: Recording, fault: Fault) -> int | None:
    """Return the first instant at which a reading of the fault's house differs visibly from that of its twin."""
    begin = int(np.searchsorted(recording.at_ms, fault.from_ms, "right"))
    per_hour = 3600 // recording.run.step_s
    firsts = []
    for name in SIGNALS:
        shown, usual = (r.signals[name][fault.house] for r in (recording, twin))
        if np.array_equal(shown[begin:], usual[begin:], equal_nan=True):
            continue
        differs = _differs(name, shown, usual, per_hour)
        differs[:begin] = False
        if differs.any():
            firsts.append(int(np.argmax(differs)))
    return int(recording.at_ms[min(firsts)]) if firsts else None


def _differs(name: str, shown: Array, usual: Array, per_hour: int) -> NDArray[np.bool_]:
    """Return at which steps the two are visibly apart."""
    if name in BY_PEOPLE:
        a, b = np.nan_to_num(shown).cumsum(), np.nan_to_num(usual).cumsum()
        day = 24 * per_hour
        a, b = (_within(total, day) for total in (a, b))
        return np.asarray(np.abs(a - b) > DEAD_SD * np.sqrt(np.maximum(b, 4)), np.bool_)
    silent = np.isnan(shown) & ~np.isnan(usual)
    missing = _within(silent.astype(np.float64).cumsum(), MISSING_H * per_hour) >= MISSING_H * per_hour
    if name in AMOUNTS:
        a, b = np.nan_to_num(shown).cumsum(), np.nan_to_num(usual).cumsum()
        apart = np.zeros(len(a), bool)
        for hours, share in SEEN_OF_AMOUNT:
            here, there = (_within(total, hours * per_hour) for total in (a, b))
            apart |= np.abs(here - there) > np.maximum(share * there, LEAST_AMOUNT)
        return np.asarray(apart & ~silent | missing, np.bool_)
    least = SEEN[name] if name in SEEN else SEEN_SHARE[name] * usual
    with np.errstate(invalid="ignore"):
        return np.asarray((np.abs(shown - usual) > least) | missing, np.bool_)


def _within(total: Array, steps: int) -> Array:
    """Return what of a running total came within so many steps."""
    before = np.concatenate([np.zeros(min(steps, len(total))), total[:-steps]])[: len(total)]
    return np.asarray(total - before, np.float64)
