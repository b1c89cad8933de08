"""The Numenta Anomaly Benchmark's scoring rule, three known detectors, and the shipped ``anomaly`` bundle under it.

    python -m models_onnx.evaluate.nab --data DIR

``DIR`` holds ``data/*.csv`` (timestamp, value), ``windows.json`` (for each file the windows that hold an anomaly, both
ends included) and, where they are to be compared with, ``published_per_file_standard_scores.csv``; no part of this
repository. The rule is that of [S90] (docs/sources.md), in models_onnx/train/alarms.py: with it the windowed Gaussian
gets its published rows, all seven of them.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent.bundles import load_bundles
from agent.config import Config
from agent.predict import Predictor
from agent.replay import replay
from models_onnx.train.alarms import Labelled, best_threshold, corpus_score, normalised, score_of
from models_onnx.train.anomaly import THRESHOLD

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    F64 = NDArray[np.float64]
    Detector = Callable[[F64], F64]  # values of a file -> a score of 0 to 1 for each

# --- known detectors --------------------------------------------------------------------------------------------------

GAUSS_ROWS, GAUSS_STEP = 6_400, 100
GAUSS_DECIMALS = 12  # as the published runs keep them: what is closer to 1 is 1, their threshold


def null(values: F64) -> F64:
    """Return the scores of a detector that never alarms."""
    return np.full(len(values), 0.5)


def random(values: F64, seed: int = 42) -> F64:
    """Return the scores of a detector that throws dice."""
    return np.random.default_rng(seed).random(len(values))


def windowed_gaussian(values: F64) -> F64:
    """Return how far in the tail of a normal distribution each value lies, that of the last 6,400 rows."""
    window: deque[float] = deque(maxlen=GAUSS_ROWS)
    waiting: list[float] = []
    mean, spread, scores = 0.0, 1.0, np.zeros(len(values))
    for row, value in enumerate(values.tolist()):
        if window:
            scores[row] = 1 - 0.5 * math.erfc(abs(value - mean) / spread / math.sqrt(2))
        if len(window) < GAUSS_ROWS:
            window.append(value)
        else:
            waiting.append(value)
            if len(waiting) < GAUSS_STEP:
                continue
            window.extend(waiting)
            waiting = []
        mean, spread = float(np.mean(window)), float(np.std(window)) or 1e-6
    return np.round(scores, GAUSS_DECIMALS)


# --- files ------------------------------------------------------------------------------------------------------------


def read_files(folder: Path) -> list[Labelled]:
    """Return the files of a folder that holds ``data/*.csv`` and ``windows.json``."""
    told = json.loads((folder / "windows.json").read_text(encoding="utf-8"))
    files = []
    for path in sorted((folder / "data").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows = [(row["timestamp"], float(row["value"])) for row in csv.DictReader(file)]
        at = tuple(stamp for stamp, _ in rows)
        spans = next(spans for name, spans in told.items() if Path(name).name == path.name)
        windows = tuple((at.index(first[:19]), len(at) - 1 - at[::-1].index(last[:19])) for first, last in spans)
        files.append(Labelled(path.stem, at, np.array([value for _, value in rows]), windows))
    return files


def replayed(files: Sequence[Labelled], bundles: Path, model: str) -> dict[str, F64]:
    """Return what a bundle scores through ``replay`` and its scores.csv, each file a sensor of one house."""
    config = Config()
    with tempfile.TemporaryDirectory(prefix="flockwatch-nab-") as folder:
        place = Path(folder)
        flocks = place / "flocks.csv"
        flocks.write_text(
            "house,flock,placed_on,birds_placed,strain,sex,parent_age_weeks,ended_on,slaughter_weight_g\n"
        )
        scores = {}
        for labelled in files:
            readings = place / "readings.csv"
            with readings.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(("at", "house", "signal", "value"))
                rows = zip(labelled.at, labelled.values.tolist(), strict=True)
                writer.writerows((at, "nab", "value", repr(value)) for at, value in rows)
            predictor = Predictor.load(load_bundles(bundles, [model]), config.site.days)
            replay(config, predictor, readings, flocks, None, place / "out")
            with (place / "out" / "scores.csv").open(encoding="utf-8", newline="") as file:
                told = {row["at"][:19].replace("T", " "): float(row["score"] or 0) for row in csv.DictReader(file)}
            scores[labelled.name] = np.array([told[at] for at in labelled.at])
    return scores


def published(folder: Path) -> dict[str, float]:
    """Return the published detectors' scores on the files of a folder, normalised; only those with a row for each."""
    path = folder / "published_per_file_standard_scores.csv"
    if not path.exists():
        return {}
    raw: dict[str, list[float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            raw.setdefault(row["detector"], []).append(float(row["Score"]))
    files = read_files(folder)
    windows = sum(len(labelled.windows) for labelled in files)
    return {name: normalised(sum(scores), windows) for name, scores in raw.items() if len(scores) == len(files)}


def report(files: Sequence[Labelled], scores: Mapping[str, F64], threshold: float) -> list[str]:
    """Return a table: each file, and all of them."""
    lines = ["| file | score | windows hit | false alarms |", "|---|---|---|---|"]
    for labelled in files:
        found = score_of(labelled, scores[labelled.name], threshold)
        lines.append(f"| {labelled.name} | {found.score:.2f} | {found.hits} of {found.windows} | {found.false} |")
    return [*lines, f"| **all** | **{corpus_score(files, scores, threshold):.1f}** of 100 | | |"]


def main(arguments: list[str] | None = None) -> int:
    """Score the shipped bundle and the known detectors on a folder of the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m models_onnx.evaluate.nab", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--bundles", type=Path, default=Path(__file__).parents[1])
    chosen = parser.parse_args(arguments)
    files = read_files(chosen.data)
    known: dict[str, Detector] = {"null": null, "random": random, "windowed Gaussian": windowed_gaussian}
    for name, detector in known.items():
        scores = {labelled.name: detector(labelled.values) for labelled in files}
        threshold = best_threshold(files, scores)
        print(f"{name}: {corpus_score(files, scores, threshold):.1f} at its best threshold, {threshold:g}")
    scores = replayed(files, chosen.bundles, "anomaly")
    threshold = best_threshold(files, scores)
    print(f"anomaly, threshold {THRESHOLD:g} as chosen on simulated series:")
    print("\n".join(report(files, scores, THRESHOLD)))
    print(f"anomaly at its best threshold, {threshold:g}: {corpus_score(files, scores, threshold):.1f}")
    for name, score in sorted(published(chosen.data).items(), key=lambda item: -item[1]):
        print(f"published, {name}: {score:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
