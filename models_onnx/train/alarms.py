"""How good alarms on a labelled series are: the rule of the Numenta Anomaly Benchmark, standard profile [S90].

What [S90] is: docs/sources.md.

An alarm within a window counts by how early it is, a false one by how far behind the last window it lies, along one
sigmoid. The first 15 % of a series (of 5,000 rows at most) are for learning, and alarms there count for nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    F64 = NDArray[np.float64]

PROBATION, PROBATION_ROWS = 0.15, 5_000  # the share of a file that is for learning, of so many rows at most
FALSE_WEIGHT = 0.11  # the standard profile: a hit 1, a miss -1, a false alarm at most -0.11
STEEPNESS = 5.0
FAR = 3.0  # window lengths behind a window, from where on a false alarm costs all it can


@dataclass(frozen=True, slots=True)
class Labelled:
    """A file of the benchmark: its rows in their order, and the windows as (first, last) row."""

    name: str
    at: tuple[str, ...]
    values: F64
    windows: tuple[tuple[int, int], ...]

    @property
    def probation(self) -> int:
        """How many rows are for learning only."""
        return min(math.floor(PROBATION * len(self.values)), int(PROBATION * PROBATION_ROWS))


@dataclass(frozen=True, slots=True)
class FileScore:
    """What a detector's alarms in one file are worth: the raw score, windows that were hit, rows of false alarm."""

    score: float
    hits: int
    windows: int
    false: int


def weight_at(position: float) -> float:
    """Return what an alarm is worth: -1 is a window's begin, 0 its end, beyond it is false; 1 down to -1."""
    return -1.0 if position > FAR else 2 / (1 + math.exp(STEEPNESS * position)) - 1


def score_of(labelled: Labelled, scores: F64, threshold: float) -> FileScore:
    """Return what the alarms (scores of at least ``threshold``) are worth in the standard profile."""
    alarms = np.flatnonzero(scores >= threshold)
    alarms = alarms[alarms >= labelled.probation]
    total, hits = 0.0, 0
    is_false = np.ones(len(alarms), np.bool_)
    for first, last in labelled.windows:
        inside = (alarms >= first) & (alarms <= last)
        is_false &= ~inside
        if not inside.any():
            total -= 1.0
            continue
        hits += 1
        earliest = int(alarms[inside][0])
        total += weight_at(-(last - earliest + 1) / (last - first + 1)) / weight_at(-1.0)
    for alarm in alarms[is_false].tolist():
        before = [window for window in labelled.windows if window[1] < alarm]
        if not before:
            total -= FALSE_WEIGHT
            continue
        first, last = before[-1]
        total += FALSE_WEIGHT * weight_at((alarm - last) / max(last - first, 1))
    return FileScore(total, hits, len(labelled.windows), int(is_false.sum()))


def normalised(raw: float, windows: int) -> float:
    """Return a corpus's score: 0 for the detector that never says a word, 100 for the one that is always right."""
    return 100 * (raw + windows) / (2 * windows)


def corpus_score(files: Sequence[Labelled], scores: Mapping[str, F64], threshold: float) -> float:
    """Return the normalised score of a detector with one threshold for all files."""
    raw = sum(score_of(labelled, scores[labelled.name], threshold).score for labelled in files)
    return normalised(raw, sum(len(labelled.windows) for labelled in files))


def best_threshold(files: Sequence[Labelled], scores: Mapping[str, F64]) -> float:
    """Return the one threshold that scores best on these files: how the benchmark itself sets a detector's."""
    counted = np.concatenate([scores[labelled.name][labelled.probation :] for labelled in files])
    highest = np.unique(np.sort(counted)[-max(len(counted) // 20, 1) :])  # nobody alarms at more than 5 % of the rows
    tried = highest if len(highest) <= 400 else np.quantile(highest, np.linspace(0, 1, 400), method="nearest")
    return float(max([math.inf, *tried.tolist()], key=lambda threshold: corpus_score(files, scores, threshold)))
