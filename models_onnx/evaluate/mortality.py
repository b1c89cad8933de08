"""Outbreaks of deaths: the agent and simple rules by the definitions of commercial flocks (train/outbreaks.py) [F1].

What people tell of the dead decides what an outbreak is, as on those flocks (F1 of docs/sources.md): not what the
simulator did. An alarm counts on the farm day on which it rises. The two-parameter rules are fitted to the very flocks
that they are judged on, which ours is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models_onnx.evaluate.baselines.daily import days_of
from models_onnx.evaluate.scoring import DEAD, OURS, alarm_of
from models_onnx.farm.farm import DAY_MS
from models_onnx.train.outbreaks import first_days, judged, rule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from models_onnx.evaluate.play import Played
    from models_onnx.evaluate.record import HouseRecord
    from models_onnx.train.outbreaks import Score

LONGEST = 60  # days: all flocks in one table
SHARES = (0.0006, 0.0008, 0.001, 0.0012, 0.0015, 0.002, 0.0025, 0.003)
FACTORS = (0.0, 1.5, 2.0, 2.5, 3.0, 4.0)
PLAIN = {"0.15 % dead": (0.0015, 0.0), "0.30 % dead": (0.003, 0.0), "twice the usual": (0.0, 2.0)}


@dataclass(frozen=True, slots=True)
class Deaths:
    """One flock by day: the share that people told dead, and the days on which we warned of it."""

    farm: str
    share: tuple[float, ...]
    warned: tuple[int, ...]


def deaths_of(record: HouseRecord, played: Played) -> Iterator[Deaths]:
    """Yield each flock of a house."""
    warned_ms = [alarm.at_ms for alarm in map(alarm_of, played.warnings) if alarm.signal in DEAD]
    for days in days_of(record):
        count = len(days.dead_share)
        at = [(ms - days.begin_ms) // DAY_MS for ms in warned_ms]
        warned = tuple(sorted({day for day in at if 0 <= day < count}))
        yield Deaths(record.farm, tuple(days.dead_share.tolist()), warned)


def tables(flocks: Sequence[Deaths]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return shares and our alarms as [flocks, days]; days that a flock did not live are NaN."""
    share = np.full((len(flocks), LONGEST), np.nan)
    warned = np.zeros((len(flocks), LONGEST), np.bool_)
    for row, flock in enumerate(flocks):
        share[row, : len(flock.share)] = flock.share[:LONGEST]
        warned[row, [day for day in flock.warned if day < LONGEST]] = True
    return share, warned


def scores(flocks: Sequence[Deaths]) -> dict[str, Score]:
    """Return how we and the plain rules do."""
    share, warned = tables(flocks)
    firsts = first_days(share)
    return {OURS: judged(warned, firsts)} | {
        name: judged(rule(share, least, factor), firsts) for name, (least, factor) in PLAIN.items()
    }


def frontier(flocks: Sequence[Deaths]) -> list[Score]:
    """Return the two-parameter rules, fitted to these flocks, that find all: by false episodes, the best lead each."""
    share, _ = tables(flocks)
    firsts = first_days(share)
    found = [judged(rule(share, least, factor), firsts) for least in SHARES for factor in FACTORS]
    whole = sorted((s for s in found if s.found == s.outbreaks), key=lambda s: (s.false_per_flock, -s.lead_days))
    best: list[Score] = []
    for score in whole:
        if not best or score.lead_days > best[-1].lead_days:
            best.append(score)
    return best
