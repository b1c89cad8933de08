"""Houses over several flocks, as `weight` learns from them: each flock with what the ones before it have taught.

Flocks are simulated one after the other in the same houses, whose scales and meters keep their errors. When a flock
ends, what its instruments showed and (mostly) its slaughter weight go through the agent's own ``Calibration``, in the
order of time and for the houses of one site together; so the facts of a sample hold what a gateway would know then.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from agent.calibration import Calibration, Weighing
from agent.domain import from_ms
from agent.window import curve_at, curves_of
from models_onnx.train.data import DAYS, collect, joined
from models_onnx.train.job import in_processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from models_onnx.train.data import Farms, FlockData, Samples, Wanted

CYCLE_DAYS = 58  # the longest flock of the training ranges, and the time until the next one comes
SITE_HOUSES = (1, 2, 4, 8)  # houses of one site, in turn
NOT_WEIGHED_SHARE = 0.15  # of the flocks: nobody tells their slaughter weight; assumed
ABATTOIR_SD = 0.007  # of what the abattoir tells against the birds in the house: transport, its own scales; assumed


def samples_with_history(farms: Farms, wanted: Wanted, *, per_day: int, held: bool, processes: int = 1) -> Samples:
    """Return samples of all flocks of some farms, as ``data.samples_of``, with the facts of their houses."""
    one = partial(_of_one_farm, farms, wanted, per_day, held)
    return joined(in_processes(processes, one, range(farms.count)))


def _of_one_farm(farms: Farms, wanted: Wanted, per_day: int, held: bool, number: int) -> Samples:  # noqa: FBT001 - mapped
    return with_history(farms.flocks(number), wanted, per_day=per_day, seed=farms.seed + number, held=held)


def with_history(flocks: Sequence[FlockData], wanted: Wanted, *, per_day: int, seed: int, held: bool) -> Samples:
    """Return samples of flocks, each with the facts of its house as they were known then."""
    ends: list[Mapping[str, float]] = []
    samples = collect(flocks, wanted, per_day=per_day, seed=seed, held=held, ends=ends)
    known = {flock.house: Calibration(DAYS) for flock in flocks}
    for houses in _sites(sorted(known)):
        site = known[houses[0]]
        known.update(dict.fromkeys(houses, site))
    rng = np.random.default_rng([seed, 19])
    taught = []
    for flock, measured in zip(flocks, ends, strict=True):
        error, is_told = rng.normal(0, ABATTOIR_SD), rng.random() >= NOT_WEIGHED_SHARE
        if is_told:
            taught.append(_weighing(flock, measured, error))
    taught.sort(key=lambda weighing: weighing.at_ms, reverse=True)
    told = [
        (spec.name, i, fact) for spec in wanted.inputs for i, fact in enumerate(spec.facts) if fact.startswith("house.")
    ]
    for row in np.argsort(samples.at_ms, kind="stable").tolist():
        at_ms = int(samples.at_ms[row])
        while taught and taught[-1].at_ms < at_ms:
            weighing = taught.pop()
            known[int(weighing.house)].take(weighing)
        house = flocks[int(samples.flock[row])].house
        found = known[house].facts(str(house), from_ms(at_ms))
        for name, i, fact in told:
            samples.tensors[name][row, i] = found[fact]
    return samples


def _sites(houses: Sequence[int]) -> Iterator[Sequence[int]]:
    begin, turn = 0, 0
    while begin < len(houses):
        size = SITE_HOUSES[turn % len(SITE_HOUSES)]
        yield houses[begin : begin + size]
        begin, turn = begin + size, turn + 1


def _weighing(flock: FlockData, measured: Mapping[str, float], error: float) -> Weighing:
    truth = flock.truth
    age = (DAYS.date_of(from_ms(truth.end_ms - 1)) - truth.placed_on).days
    curve = float(curve_at(curves_of(flock.context.strain)[0], np.array([float(age)]))[0])
    level = math.log(flock.slaughter_weight_g / curve) + error
    return Weighing(str(truth.house), truth.end_ms, level, measured)
