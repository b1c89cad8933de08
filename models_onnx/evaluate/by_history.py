"""`python -m models_onnx.evaluate.by_history`: the slaughter weight by how many earlier flocks the house has had.

Flocks follow each other in the houses of simulated farms that nothing was trained on; the first is predicted without
any history, the fourth with three slaughter weights. The simple forecasts get the same days of the same flocks.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in training

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent.bundles import find_bundle, load_bundle, shipped_directory
from agent.predict import Model
from models_onnx.evaluate.baselines import WEIGHT_BASELINES
from models_onnx.farm.params import RANGE_SETS
from models_onnx.train import weight
from models_onnx.train.bundle import said_by
from models_onnx.train.data import Farms
from models_onnx.train.sequences import CYCLE_DAYS, samples_with_history

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models_onnx.train.data import Samples

LEADS = (2, 5, 7, 14)  # days before the slaughter
SEED = 92_000  # none of the training's
MOST = 3  # so many earlier flocks, and more, are one group


@dataclass(frozen=True, slots=True)
class ByHistory:
    """How the slaughter weight was predicted; errors are mean absolute ones, in % of the true weight."""

    lead: int
    earlier: str  # how many flocks of the house had a slaughter weight before; "no scale": with any number
    instants: int
    error: float
    interval80: float
    baselines: dict[str, float]


def figures(model: Model, samples: Samples) -> list[ByHistory]:
    """Return the figures for each lead: of all, by earlier flocks, and of flocks without a scale."""
    said, truth = said_by(model, samples)["weight_g"][:, 0], weight.truth_of(samples)[:, 0].astype(np.float64)
    simple = {name: forecast(samples)[:, 0] for name, forecast in WEIGHT_BASELINES.items()}
    facts = samples.tensors["facts"]
    to_end, earlier = facts[:, weight.TO_SLAUGHTER], np.minimum(facts[:, weight.FLOCKS], MOST)
    has_scale = np.isfinite(samples.tensors["course"][:, :, weight.WEIGHT]).any(axis=1)
    groups = {"any": np.ones(len(samples), np.bool_)}
    groups |= {_named(n): np.asarray(earlier == n, np.bool_) for n in range(MOST + 1)}
    groups["no scale"] = np.logical_not(has_scale)
    found = []
    for lead in LEADS:
        in_time = (to_end > lead - 0.75) & (to_end <= lead + 0.25) & np.isfinite(truth)
        for name, group in groups.items():
            which = in_time & group
            if not which.any():
                continue
            true, (low, middle, high) = truth[which], said[which].T
            found.append(
                ByHistory(
                    lead,
                    name,
                    int(which.sum()),
                    _off(middle, true),
                    float(((true >= low) & (true <= high)).mean()),
                    {n: _off(of[which], true) for n, of in simple.items()},
                )
            )
    return found


def _named(earlier: int) -> str:
    return f"{earlier}" if earlier < MOST else f"{earlier} or more"


def _off(forecast: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Return the mean absolute error in %, of those that there are."""
    off = np.abs(forecast / true - 1)
    return float(off[np.isfinite(off)].mean() * 100) if np.isfinite(off).any() else float("nan")


def main(arguments: list[str] | None = None) -> int:
    """Print the figures as a table and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m models_onnx.evaluate.by_history", description=__doc__)
    parser.add_argument("--ranges", choices=RANGE_SETS, default="validation")
    parser.add_argument("--rough", action="store_true", help="larger errors of scale and meters than the simulator's")
    parser.add_argument("--houses", type=int, default=80)
    parser.add_argument("--flocks", type=int, default=4, help="in each house, one after the other")
    parser.add_argument("--bundle", default="weight", help="a shipped bundle, name or name/version")
    chosen = parser.parse_args(arguments)
    model = Model(load_bundle(find_bundle(shipped_directory(), chosen.bundle)))
    days = chosen.flocks * CYCLE_DAYS
    farms = Farms(
        chosen.ranges,
        1,
        chosen.houses,
        days,
        SEED,
        rough=chosen.rough,
        restock=True,
        step_s=weight.STEP_S,
    )
    samples = samples_with_history(farms, weight.WANTED, per_day=1, held=False)
    names = list(WEIGHT_BASELINES)
    print(f"| days before | earlier flocks | instants | {model} | within p10 to p90 | {' | '.join(names)} |")
    print("|---" * (5 + len(names)) + "|")
    for f in figures(model, samples):
        simple = " | ".join(f"{f.baselines[name]:.2f} %" for name in names)
        print(f"| {f.lead} | {f.earlier} | {f.instants:,} | **{f.error:.2f} %** | {f.interval80:.0%} | {simple} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
