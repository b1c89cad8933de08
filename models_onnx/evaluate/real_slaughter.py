"""`python -m models_onnx.evaluate.real_slaughter`: slaughter weights of real flocks from history alone, by replay.

The flocks have no readings: only house, age and slaughter weight of each are known, the latter from the day after.
They go through ``flockwatch replay`` with the shipped bundle, year after year, and those of the last year are scored.
Nothing was trained or tuned on them; what is known of a house is what its earlier flocks taught within the replay.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent.bundles import find_bundle, load_bundle, shipped_directory
from agent.config import Config
from agent.predict import Predictor
from agent.replay import replay
from agent.replay_files import FLOCKS_HEADER, READINGS_HEADER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    F64 = NDArray[np.float64]

AGES, WEIGHTS_G = (42, 60), (1_800.0, 4_800.0)  # beyond: no broiler's slaughter, data/README
HELD_OUT_FROM = date(2025, 1, 1)
LEADS = (1, 2, 5, 7, 14)  # days before the slaughter day at which a prediction is scored
LEVEL_DAYS, LEVEL_SHRINK = 30, 4.0  # of the anchor: the mean of the last days, and how many flocks shrink a house


@dataclass(frozen=True, slots=True)
class Slaughtered:
    """A real flock."""

    house: str
    slaughtered_on: date
    age: int
    weight_g: float


@dataclass(frozen=True, slots=True)
class Score:
    """How predictions so many days before the slaughter did on the flocks of the last year."""

    lead: int
    flocks: int
    error_g: float
    error_pct: float
    interval80: float
    anchors: dict[str, float]  # mean absolute errors, g, of the same flocks


def read(path: Path) -> list[Slaughtered]:
    """Return the flocks of ``slaughter.csv``: ``lot_hash`` is house-flock; implausible rows are left out."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [
            Slaughtered(
                row["lot_hash"].partition("-")[0],
                date.fromisoformat(row["slaughter_date"]),
                round(float(row["age_d"])),
                float(row["weight_kg"]) * 1000,
            )
            for row in csv.DictReader(file)
        ]
    plausible = [f for f in rows if AGES[0] <= f.age <= AGES[1] and WEIGHTS_G[0] <= f.weight_g <= WEIGHTS_G[1]]
    return sorted(plausible, key=lambda flock: (flock.house, flock.slaughtered_on))


def without_overlap(flocks: Sequence[Slaughtered]) -> list[Slaughtered]:
    """Return the flocks whose house was free when they were placed: two at once are a slip of the record."""
    kept: list[Slaughtered] = []
    for flock in flocks:
        before = kept[-1] if kept and kept[-1].house == flock.house else None
        if before is None or before.slaughtered_on <= flock.slaughtered_on - timedelta(days=flock.age):
            kept.append(flock)
    return kept


def predicted(
    flocks: Sequence[Slaughtered], bundle: str, bundles: Path
) -> dict[tuple[str, date], dict[int, tuple[float, ...]]]:
    """Return what the replay said of each flock's slaughter weight, (p10, p50, p90) by the days before it."""
    config = Config()
    predictor = Predictor.load([load_bundle(find_bundle(bundles, bundle))], config.site.days)
    if predictor.refused:
        message = f"{bundle} is refused: {predictor.refused[0].reason}"
        raise SystemExit(message)
    with tempfile.TemporaryDirectory(prefix="flockwatch-slaughter-") as name:
        folder = Path(name)
        _write(folder / "readings.csv", READINGS_HEADER, ())
        lines = []
        for f in flocks:
            placed_on = f.slaughtered_on - timedelta(days=f.age)
            lines.append((f.house, f.slaughtered_on, placed_on, "", "", "", "", f.slaughtered_on, f.weight_g))
        _write(folder / "flocks.csv", FLOCKS_HEADER, lines)
        replay(config, predictor, folder / "readings.csv", folder / "flocks.csv", None, folder / "out")
        found: defaultdict[tuple[str, date], dict[int, tuple[float, ...]]] = defaultdict(dict)
        with (folder / "out" / "predictions.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                target = date.fromisoformat(row["target_at"])
                if row["target"] != "weight_g" or row["flock"] != row["target_at"]:
                    continue  # of another day than the slaughter's
                lead = (target - date.fromisoformat(row["made_at"][:10])).days
                found[row["house"], target].setdefault(lead, (float(row["p10"]), float(row["p50"]), float(row["p90"])))
    return found


def _write(path: Path, header: Sequence[str], rows: object) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)  # type: ignore[arg-type]


def anchors(flocks: Sequence[Slaughtered]) -> dict[str, F64]:
    """Return what simple rules say of each flock on the day of its slaughter, g, in the order of ``flocks``.

    Fitted on the flocks before the held-out year: a line in age. Then, from what was slaughtered before the day: the
    mean of the last 30 days around that line, and each house's own mean around both, shrunken.
    """
    age = np.array([f.age for f in flocks], np.float64)
    truth = np.array([f.weight_g for f in flocks])
    on = np.array([f.slaughtered_on.toordinal() for f in flocks])
    known = on < HELD_OUT_FROM.toordinal()
    line = np.polyval(np.polyfit(age[known], truth[known], 1), age)
    order = np.argsort(on, kind="stable")
    days, off = on[order], (truth - line)[order]
    total = np.concatenate(([0.0], np.cumsum(off)))
    first, last = np.searchsorted(days, on - LEVEL_DAYS), np.searchsorted(days, on)
    level = (total[last] - total[first]) / np.maximum(last - first, 1)
    own = truth - line - level
    house = np.zeros(len(flocks))
    past: defaultdict[str, list[float]] = defaultdict(list)
    for i in order.tolist():  # a house's flocks follow each other, so what is in the list was slaughtered before
        before = past[flocks[i].house]
        house[i] = sum(before) / (len(before) + LEVEL_SHRINK)
        before.append(float(own[i]))
    return {
        "mean of all": np.full(len(flocks), truth[known].mean()),
        "age": line,
        "age + level": line + level,
        "age + level + house": line + level + house,
    }


def scores(flocks: Sequence[Slaughtered], bundle: str, bundles: Path) -> list[Score]:
    """Return how a bundle in ``bundles`` did on the flocks of the last year, by the days before their slaughter."""
    said, simple = predicted(flocks, bundle, bundles), anchors(flocks)
    found = []
    for lead in LEADS:
        which = [
            i
            for i, f in enumerate(flocks)
            if f.slaughtered_on >= HELD_OUT_FROM and lead in said.get((f.house, f.slaughtered_on), {})
        ]
        truth = np.array([flocks[i].weight_g for i in which])
        low, middle, high = np.array([said[flocks[i].house, flocks[i].slaughtered_on][lead] for i in which]).T
        found.append(
            Score(
                lead,
                len(which),
                float(np.abs(middle - truth).mean()),
                float(np.abs(middle / truth - 1).mean() * 100),
                float(((truth >= low) & (truth <= high)).mean()),
                {name: float(np.abs(of[which] - truth).mean()) for name, of in simple.items()},
            )
        )
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print the scores and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m models_onnx.evaluate.real_slaughter", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder with slaughter/")
    parser.add_argument("--bundle", default="weight", help="a shipped bundle, name or name/version")
    parser.add_argument("--houses", type=int, help="only the first so many houses: quicker, for a look")
    chosen = parser.parse_args(arguments)
    path = chosen.data / "slaughter" / "slaughter.csv"
    if not path.exists():
        print(f"{path} is not there: name the folder of the real data by --data", file=sys.stderr)
        return 1
    begun = time.monotonic()
    flocks = read(path)
    if chosen.houses is not None:
        houses = set(sorted({f.house for f in flocks})[: chosen.houses])
        flocks = [f for f in flocks if f.house in houses]
    kept = without_overlap(flocks)
    print(f"{len(flocks):,} flocks, {len(flocks) - len(kept):,} of them left out that were placed in a full house")
    for score in scores(kept, chosen.bundle, shipped_directory()):
        anchor = ", ".join(f"{name} {error:.1f}" for name, error in score.anchors.items())
        print(
            f"{score.lead:2d} d before: {score.flocks:,} flocks of {HELD_OUT_FROM.year}, {score.error_g:.1f} g "
            f"({score.error_pct:.2f} %), {score.interval80:.0%} within p10 to p90; on the slaughter day: {anchor}"
        )
    print(f"in {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
