"""`python -m models_onnx.evaluate.outbreaks`: how early outbreaks of deaths are seen, at how many false alarms.

Flocks of the range set ``test`` (``models_onnx/train/mortality_courses.py``), which no training saw: other populations,
diseases of another shape. What the counts of a real farm are like is not known beforehand, so each row assumes
something else of them. The shipped bundle stands beside the simple rules of [F1] (docs/sources.md), the best
two-parameter rule being sought on the very flocks of its row, which flatters it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent.bundles import find_bundle, load_bundle
from agent.errors import BundleError
from agent.predict import Model
from models_onnx.farm.params import Range
from models_onnx.train import mortality, outbreaks
from models_onnx.train.mortality_courses import COMMERCIAL, DAYS, WIDE, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from agent.manifest import Foresight
    from models_onnx.train.mortality_courses import Courses
    from models_onnx.train.outbreaks import Score

    F64 = NDArray[np.float64]
    Bools = NDArray[np.bool_]

SEED = 990_000
ROWS = 20_000  # days in one run of the model


def _but(**changes: Range) -> Mapping[str, Range]:
    return {**COMMERCIAL, **changes}


ASSUMED: Mapping[str, Mapping[str, Range]] = {
    "like commercial flocks": COMMERCIAL,
    "calm: days vary by chance alone": _but(uneven=Range(0, 0.01), wander_sd=Range(0, 0.1), rounds=Range(0, 0.02)),
    "days vary by 20 to 40 % beyond chance": _but(uneven=Range(0.2, 0.4)),
    "levels wander by 40 to 60 %": _but(wander_sd=Range(0.4, 0.6)),
    "rounds of any hour": _but(rounds=Range(0.3, 0.5)),
    "a tenth of the rounds left out": _but(skipped=Range(0.08, 0.12)),
    "quick or no rounds on Sundays in two of three flocks": _but(weekends=Range(0.6, 0.7)),
    "one day in ten not told": _but(blank=Range(0.08, 0.12)),
    "culling days in half of the flocks": _but(culling=Range(0.4, 0.6)),
    "single bad days, one in two flocks": _but(spikes=Range(0.4, 0.6)),
    "disease is rare": _but(sick=Range(0.2, 0.5)),
    "disease is frequent": _but(sick=Range(2.0, 3.0)),
    "outbreaks are sudden": _but(sudden=Range(0.8, 1.0)),
    "levels that rise and stay": _but(chronic=Range(0.3, 0.45)),
    "all of it, wide": WIDE,
}
RULES: Mapping[str, tuple[float, float]] = {
    "at least 0.15 %": (0.0015, 0.0),
    "at least 0.30 %": (0.003, 0.0),
    "twice the median": (0.0, 2.0),
    "outbreak itself": (outbreaks.LEAST_SHARE, outbreaks.LEAST_FACTOR),
}
TWO_PARAMETERS = [(t / 1e5, k / 4) for t in range(50, 301, 50) for k in range(4, 13)]


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Flocks, what the model says of each day [flocks, DAYS], and when their outbreaks began."""

    courses: Courses
    probability: F64
    firsts: Bools


def said_of(model: Model, sees: Foresight, courses: Courses) -> F64:
    """Return the probability of an outbreak to come at the end of each day, [flocks, DAYS]; 0 before day 8."""
    n = len(courses.dead)
    share = np.concatenate((np.full((n, mortality.LENGTH), np.nan), courses.share), axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(share, mortality.LENGTH + 1, axis=1)
    day = np.broadcast_to(np.arange(DAYS) + 1.0, (n, DAYS))
    heads = np.stack((day, np.zeros((n, DAYS)), np.maximum(courses.live, 1)), axis=2)
    facts = np.concatenate((heads, windows), axis=2)[:, outbreaks.FIRST_AGE :].reshape(-1, len(mortality.FACTS))
    parts = []
    for begin in range(0, len(facts), ROWS):
        some = facts[begin : begin + ROWS].astype(np.float32)
        parts.append(model.run([{"facts": row} for row in some]).outputs[sees.output][:, sees.column])
    found = np.zeros((n, DAYS))
    found[:, outbreaks.FIRST_AGE :] = np.concatenate(parts).reshape(n, -1)
    return found


def score(flocks: Sequence[Known], alarms: Callable[[Known], Bools]) -> Score:
    """Return how good alarms are over all populations."""
    return outbreaks.joined(outbreaks.judged(alarms(known), known.firsts) for known in flocks)


def by_rule(flocks: Sequence[Known], share: float, factor: float) -> Score:
    """Return how good a rule of two parameters is."""
    return score(flocks, lambda known: outbreaks.rule(known.courses.share, share, factor))


def by_model(flocks: Sequence[Known], limit: float) -> Score:
    """Return how good the model is at a limit, with the plain rule as its floor."""
    return score(flocks, lambda known: mortality.raised(known.probability, limit, known.courses))


def frontier(scores: Sequence[Score], days: int) -> float:
    """Return the fewest false episodes per flock at which half of the outbreaks are found so many days ahead."""
    return min((s.false_per_flock for s in scores if s.share_ahead(days) >= 0.5), default=float("nan"))


def report(model: Model, sees: Foresight, populations: int, flocks: int, say: Callable[[str], None]) -> str:
    """Return the report."""
    at_limit, ahead, rules = [], [], []
    curve = ""
    for name, table in ASSUMED.items():
        known = [
            Known(courses, said_of(model, sees, courses), outbreaks.first_days(courses.share))
            for courses in Sample(table, "test", populations, flocks, SEED)
        ]
        ours = by_model(known, sees.limit)
        at_limit.append(
            f"| {name} | {ours.outbreaks / ours.flocks:.2f} | {ours.found / max(ours.outbreaks, 1):.1%} | "
            f"{ours.lead_days:g} | {ours.share_ahead(1):.0%} | {ours.share_ahead(2):.0%} | {ours.false_per_flock:.2f} |"
        )
        every = [by_model(known, limit) for limit in mortality.LIMITS[:45:3]]
        simple = [by_rule(known, *pair) for pair in TWO_PARAMETERS]
        cells = " | ".join(f"{frontier(s, d):.2f}" for d in (1, 2) for s in (every, simple))
        ahead.append(f"| {name} | {cells} |")
        cells = " | ".join(
            f"{found.lead_days:g} d, {found.false_per_flock:.2f}"
            for found in (by_rule(known, *pair) for pair in RULES.values())
        )
        rules.append(f"| {name} | {cells} |")
        if not curve:
            curve = "\n".join(_thresholds(known, sees.limit))
        say(at_limit[-1])
    at_limit_rows, ahead_rows, rule_rows = ("\n".join(rows) for rows in (at_limit, ahead, rules))
    return f"""# Outbreaks of deaths: how early, and how many false alarms

Written by `python -m models_onnx.evaluate.outbreaks`: the bundle {model}, {populations} populations of {flocks}
simulated flocks for each row, of the range set `test`. Definitions: docs/sources.md, F1; `false` is false episodes per
flock. No real flock is in it.

## As shipped

The rule `mortality` with its defaults: early from a probability of {sees.limit:g} on, with the plain rule as its floor.

| the counts are assumed | outbreaks per flock | found | median lead, d | 1 d ahead | 2 d ahead | false |
|---|---|---|---|---|---|---|
{at_limit_rows}

## Other thresholds

The first row's flocks, by `[warnings.rules.mortality] threshold`: the odds of the limit go with it, and the plain rule;
outbreaks are still those of 0.30 %.

| threshold | found | median lead, d | 1 d ahead | 2 d ahead | false |
|---|---|---|---|---|---|
{curve}

## The frontier

Fewest false episodes per flock at which half of all outbreaks are found 1 or 2 days ahead; nan: never. The rule of two
parameters (at least t, and k times the median of the week before) is the best for each row, sought on that very row.

| the counts are assumed | 1 d: model | 1 d: two parameters | 2 d: model | 2 d: two parameters |
|---|---|---|---|---|
{ahead_rows}

## The simple rules

Median lead, and false episodes per flock. On 48 commercial flocks with 19 outbreaks [F1] the first three had 2 d and
1.10, 0 d and 0.69, 2 d and 1.19; the best rules of two parameters 1 d at 0.46 and 2 d at 1.04.

| the counts are assumed | {" | ".join(RULES)} |
|---|{"---|" * len(RULES)}
{rule_rows}
"""


def _thresholds(flocks: Sequence[Known], limit: float) -> list[str]:
    """Return rows of how good the rule is by its threshold."""
    rows = []
    odds = limit / (1 - limit)
    for threshold in (0.0015, 0.002, 0.0025, 0.003, 0.004, 0.006):
        at = odds * threshold / outbreaks.LEAST_SHARE
        found = score(
            flocks,
            lambda known, limit=at / (1 + at), threshold=threshold: mortality.raised(  # type: ignore[misc]
                known.probability, limit, known.courses, threshold
            ),
        )
        rows.append(
            f"| {threshold:g} | {found.found / max(found.outbreaks, 1):.1%} | {found.lead_days:g} | "
            f"{found.share_ahead(1):.0%} | {found.share_ahead(2):.0%} | {found.false_per_flock:.2f} |"
        )
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Evaluate and return the exit code."""
    here = Path(__file__).parents[1]
    parser = argparse.ArgumentParser(prog="python -m models_onnx.evaluate.outbreaks", description=__doc__)
    parser.add_argument("--bundles", type=Path, default=here, help="where mortality/<version>/ lies")
    parser.add_argument("--out", type=Path, default=here / "OUTBREAKS.md", help="the report")
    parser.add_argument("--tiny", action="store_true", help="a few flocks, for tests")
    chosen = parser.parse_args(arguments)
    model = Model(load_bundle(find_bundle(chosen.bundles, mortality.NAME)))
    sees = model.manifest.foresight
    if sees is None:
        message = f"{model}: has no output of target 'mortality' with the label 'outbreak' and a limit"
        raise BundleError(message)
    populations, flocks = (1, 40) if chosen.tiny else (8, 250)
    chosen.out.write_text(report(model, sees, populations, flocks, print), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
