"""From outcomes to figures: each with its interval over farms, in one nested table that JSON can hold."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from models_onnx.evaluate.baselines.daily import DETECTORS
from models_onnx.evaluate.baselines.weight import FORECASTS
from models_onnx.evaluate.bootstrap import Figure, figure, median_of, ratio_of
from models_onnx.evaluate.mortality import frontier, scores
from models_onnx.evaluate.scenarios import SCENARIOS
from models_onnx.evaluate.scoring import FLOW_STOPS, OURS, RULES, SLOW, STEPS, place_of_cause
from models_onnx.evaluate.weights import BEFORE_SLAUGHTER

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from models_onnx.evaluate.campaign import Outcome
    from models_onnx.evaluate.expected import Expected
    from models_onnx.evaluate.mortality import Deaths
    from models_onnx.evaluate.scoring import Found, Quiet
    from models_onnx.evaluate.weights import Weighed
    from models_onnx.train.outbreaks import Score

DETECTED_BY = (OURS, RULES, *DETECTORS)
IN_DAYS = (1, 2, 5, 7)
SURE_BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
STOP_GOAL_H = 1.0
WITHIN_H = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 24.0, 48.0, 96.0, 192.0, 384.0)


@dataclass(frozen=True, slots=True)
class FaultFigures:
    """One kind of fault; hours are from its onset."""

    houses: int
    detectable: int
    found: dict[str, Figure]  # by detector, the share of those that anything betrays
    chance: dict[str, float]  # what the same alarms would have found before the onset
    hours: dict[str, float]  # the median of those found
    detectable_h: float  # the median time until anything betrays it
    lead_h: Figure  # censored, see scoring.py
    lead_both_h: Figure  # of those that both found
    by_step: dict[str, str]  # of the severities: found of how many, by us
    cause_first: float
    cause_three: float


@dataclass(frozen=True, slots=True)
class WeightFigures:
    """One case; mean absolute errors in % of the true weight."""

    ours: Figure
    ours_g: float
    inside: Figure
    pinball: float
    simple: dict[str, float]
    best_simple: str


def share_of(rows: Iterable[bool | None]) -> float:
    """Return the share of what is true, of what is known."""
    known = [row for row in rows if row is not None]
    return ratio_of(sum(known), len(known))


# --- faults


def found_figure(found: Sequence[Found], detector: str) -> Figure:
    """Return the share of faults that a detector found."""
    return figure(found, lambda rows: share_of(row.hours[detector] is not None for row in rows))


def lead_figure(found: Sequence[Found]) -> Figure:
    """Return our median lead over the house computer, in hours."""
    return figure(found, lambda rows: median_of([row.lead_h for row in rows if row.lead_h is not None]))


def seen_by_both(found: Sequence[Found]) -> list[Found]:
    """Return the faults that we and the house computer found: their leads are measured, not censored."""
    return [row for row in found if row.hours[OURS] is not None and row.hours[RULES] is not None]


def fault_figures(found: Sequence[Found]) -> FaultFigures:
    """Return the figures of one kind of fault, or of several."""
    seen = [row for row in found if row.is_detectable]
    told = [row for row in seen if row.hours[OURS] is not None]
    places = [place_of_cause(row) for row in told]
    steps = {}
    for step in STEPS:
        of = [row for row in seen if row.step == step]
        steps[step] = f"{sum(row.hours[OURS] is not None for row in of)}/{len(of)}" if of else "-"
    return FaultFigures(
        len(found),
        len(seen),
        {name: found_figure(seen, name) for name in DETECTED_BY},
        {name: share_of(row.chance[name] for row in seen) for name in DETECTED_BY},
        {name: median_of([h for row in seen if (h := row.hours[name]) is not None]) for name in DETECTED_BY},
        median_of([row.detectable_h for row in seen if row.detectable_h is not None]),
        lead_figure(seen),
        lead_figure(seen_by_both(seen)),
        steps,
        share_of(place == 0 for place in places),
        share_of(place is not None and place < 3 for place in places),
    )


def stops_figures(found: Sequence[Found]) -> dict[str, Any]:
    """Return how quickly stopped flows are found; what is never found counts as for ever."""
    stops = [row for row in found if row.fault in FLOW_STOPS and row.is_detectable]

    def hours(rows: Sequence[Found]) -> list[float]:
        return [math.inf if (h := row.hours[OURS]) is None else h for row in rows]

    by_kind = {
        name: figure([row for row in stops if row.fault == name], lambda rows: median_of(hours(rows)))
        for name in FLOW_STOPS
    }
    return {
        "median_h": figure(stops, lambda rows: median_of(hours(rows))),
        "within_1_h": figure(stops, lambda rows: share_of(h <= STOP_GOAL_H for h in hours(rows))),
        "since_detectable_h": figure(
            stops,
            lambda rows: median_of([h - (row.detectable_h or 0) for h, row in zip(hours(rows), rows, strict=True)]),
        ),
        "by_kind": by_kind,
    }


def within_figures(found: Sequence[Found]) -> dict[str, Any]:
    """Return the share found within so many hours, by us and by the house computer."""

    def share(detector: str, most: float) -> float:
        return share_of((h := row.hours[detector]) is not None and h <= most for row in found)

    return {"hours": WITHIN_H, "share": {name: [share(name, h) for h in WITHIN_H] for name in (OURS, RULES)}}


def cause_figures(found: Sequence[Found]) -> dict[str, Any]:
    """Return how often the right cause was told, and how true the probabilities are."""
    told = [row for row in found if row.hours[OURS] is not None]
    likely = [(row.causes[0][1], place_of_cause(row) == 0) for row in told if row.causes]
    sure = [(p, right) for p, right in likely if p is not None]
    bins = []
    for low, high in pairwise(SURE_BINS):
        of = [(p, right) for p, right in sure if low < p <= high]
        if of:
            bins.append({"said": float(np.mean([p for p, _ in of])), "right": share_of(r for _, r in of), "n": len(of)})
    error = sum(b["n"] * abs(b["said"] - b["right"]) for b in bins) / len(sure) if sure else math.nan
    return {
        "first": figure(told, lambda rows: share_of(place_of_cause(row) == 0 for row in rows)),
        "first_three": figure(
            told, lambda rows: share_of((p := place_of_cause(row)) is not None and p < 3 for row in rows)
        ),
        "with_probability": len(sure),
        "calibration": bins,
        "calibration_error": error,
    }


# --- false warnings


def false_rate(quiet: Sequence[Quiet], detector: str) -> Figure:
    """Return a detector's false warnings per house-day."""
    return figure(
        quiet, lambda rows: ratio_of(sum(r.false[detector].total() for r in rows), sum(r.house_days for r in rows))
    )


def false_figures(quiet: Sequence[Quiet]) -> dict[str, Any]:
    """Return false warnings per house-day, by detector, and ours by rule."""
    days = sum(row.house_days for row in quiet)

    def episodes(detector: str) -> Figure:
        return figure(
            quiet, lambda rows: ratio_of(sum(r.episodes[detector] for r in rows), sum(r.house_days for r in rows))
        )

    def by_rule(detector: str) -> dict[str, float]:
        total: Counter[str] = Counter()
        for row in quiet:
            total += row.false[detector]
        return {rule: count / days for rule, count in sorted(total.items(), key=lambda item: (-item[1], item[0]))}

    return {
        "house_days": days,
        "houses": len(quiet),
        "rate": {name: false_rate(quiet, name) for name in DETECTED_BY},
        "episodes": {name: episodes(name) for name in DETECTED_BY},
        "by_rule": {name: by_rule(name) for name in (OURS, RULES)},
        "true_all_the_same": ratio_of(sum(row.true_all_the_same[OURS] for row in quiet), days),
    }


# --- weight


def weight_figures(weighed: Sequence[Weighed], *, compared: bool = True) -> WeightFigures | None:
    """Return the figures of one case; ``compared``: only where every simple forecast can be made."""
    rows = [row for row in weighed if not compared or all(math.isfinite(error) for error in row.simple.values())]
    if not rows:
        return None
    simple = {name: float(np.mean([row.simple[name] for row in rows])) for name in FORECASTS}
    return WeightFigures(
        figure(rows, lambda of: float(np.mean([row.error for row in of])) if of else math.nan),
        float(np.mean([row.error * row.truth_g / 100 for row in rows])),
        figure(rows, lambda of: share_of(row.inside for row in of)),
        float(np.mean([row.pinball for row in rows])),
        simple,
        min(simple, key=lambda name: (math.isnan(simple[name]), simple[name])),
    )


def weight_cases() -> list[str]:
    """Return the cases that are scored."""
    return [f"slaughter, {days} d before" for days in BEFORE_SLAUGHTER] + [f"in {days} d" for days in IN_DAYS]


def all_weights(weighed: Sequence[Weighed]) -> dict[str, Any]:
    """Return every case: of all flocks, and of slaughter weights by what the house had told before."""
    found: dict[str, Any] = {"cases": {}, "first_flock": {}, "later_flocks": {}}
    for case in weight_cases():
        rows = [row for row in weighed if row.case == case]
        found["cases"][case] = weight_figures(rows)
        if case.startswith("slaughter"):
            found["first_flock"][case] = weight_figures([row for row in rows if row.flock_number == 0])
            found["later_flocks"][case] = weight_figures([row for row in rows if row.flock_number > 0])
    return found


# --- expectations


def expected_figures(expected: Sequence[Expected]) -> dict[str, Any]:
    """Return coverage and error of each output's expectation."""
    found: dict[str, Any] = {}
    for output in sorted({row.output for row in expected}):
        rows = [row for row in expected if row.output == output]
        instants = sum(row.instants for row in rows)
        if not instants:
            continue
        found[output] = {
            "instants": instants,
            "unsaid": ratio_of(sum(r.unsaid for r in rows), instants + sum(r.unsaid for r in rows)),
            "inside": figure(rows, lambda of: ratio_of(sum(r.inside for r in of), sum(r.instants for r in of))),
            "below": ratio_of(sum(r.below for r in rows), instants),
            "above": ratio_of(sum(r.above for r in rows), instants),
            "pinball": ratio_of(sum(r.pinball for r in rows), instants),
            "error": ratio_of(sum(r.error for r in rows), sum(r.compared for r in rows)),
            "yesterday": ratio_of(sum(r.yesterday for r in rows), sum(r.compared for r in rows)),
            "of_yesterday": figure(rows, lambda of: ratio_of(sum(r.error for r in of), sum(r.yesterday for r in of))),
        }
    return found


def coverage_of(expected: Sequence[Expected]) -> Figure:
    """Return the share of actual values within p10 to p90, every output counting alike."""

    def mean(rows: Sequence[Expected]) -> float:
        shares = []
        for output in {row.output for row in rows}:
            of = [row for row in rows if row.output == output and row.instants]
            if of:
                shares.append(sum(r.inside for r in of) / sum(r.instants for r in of))
        return float(np.mean(shares)) if shares else math.nan

    return figure(expected, mean, rounds=100)


# --- mortality


def outbreak_figures(deaths: Sequence[Deaths], found: Sequence[Found]) -> dict[str, Any]:
    """Return the outbreaks by the definitions of commercial flocks, and our lead on the simulated ones."""

    def told(score: Score) -> dict[str, Any]:
        return {
            "found": score.found,
            "outbreaks": score.outbreaks,
            "lead_days": score.lead_days,
            "false_per_flock": score.false_per_flock,
        }

    of = scores(deaths)
    outbreaks = [row for row in found if row.fault == "mortality_outbreak" and row.is_detectable]
    return {
        "flocks": len(deaths),
        "detectors": {name: told(score) for name, score in of.items()},
        "lead_days": figure(deaths, lambda rows: scores(rows)[OURS].lead_days, rounds=100),
        "false_per_flock": figure(deaths, lambda rows: scores(rows)[OURS].false_per_flock, rounds=100),
        "frontier": [told(score) for score in frontier(deaths)],
        "lead_h_over_rules": lead_figure(outbreaks),
    }


# --- everything


def all_figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return every figure of the simulated farms."""
    usual = [o for o in outcomes if o.job != "robustness"]
    found = [o.found for o in usual if o.found is not None]
    seen = [row for row in found if row.is_detectable]
    healthy = [o for o in usual if o.job == "healthy"]
    slow = [row for row in seen if row.fault in SLOW]
    deaths = [row for o in usual for row in o.deaths]
    return {
        "counts": counts_of(outcomes),
        "detection": {
            "all": {name: found_figure(found, name) for name in DETECTED_BY},
            "detectable": {name: found_figure(seen, name) for name in DETECTED_BY},
            "chance": {name: share_of(row.chance[name] for row in seen) for name in DETECTED_BY},
            "by_fault": {name: fault_figures([r for r in found if r.fault == name]) for name in kinds_in(found)},
        },
        "lead": {
            "slow": lead_figure(slow),
            "all": lead_figure(seen),
            "slow_both": lead_figure(seen_by_both(slow)),
            "all_both": lead_figure(seen_by_both(seen)),
            "slow_faults": sorted({row.fault for row in slow}),
            "rules_never": share_of(row.hours[RULES] is None for row in slow),
            "we_never": share_of(row.hours[OURS] is None for row in slow),
        },
        "stops": stops_figures(found),
        "within": within_figures(seen),
        "false": false_figures([o.quiet for o in healthy]),
        "false_before_faults": false_figures([o.quiet for o in usual if o.found is not None]),
        "causes": cause_figures(seen),
        "weight": all_weights([row for o in healthy for row in o.weighed]),
        "expected": expected_figures([row for o in healthy for row in o.expected]),
        "coverage": coverage_of([row for o in healthy for row in o.expected]),
        "outbreaks": outbreak_figures(deaths, found),
        "robustness": {
            name: scenario_figures([o for o in outcomes if o.job == "robustness" and o.scenario == name])
            for name in SCENARIOS
        },
    }


def kinds_in(found: Iterable[Found]) -> list[str]:
    """Return the kinds of faults there are."""
    return sorted({row.fault for row in found})


def counts_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return how much was played."""
    return {
        "farms": len({o.farm for o in outcomes}),
        "houses": len(outcomes),
        "house_days": sum(o.house_days for o in outcomes),
        "healthy_house_days": sum(o.quiet.house_days for o in outcomes if o.job == "healthy"),
        "faults": sum(o.found is not None for o in outcomes if o.job != "robustness"),
        "detectable": sum(o.found is not None and o.found.is_detectable for o in outcomes if o.job != "robustness"),
    }


def scenario_figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the same figures of one scenario."""
    found = [o.found for o in outcomes if o.found is not None and o.found.is_detectable]
    weighed = [row for o in outcomes for row in o.weighed]
    days = [row for row in weighed if row.case == "in 7 d"]
    last = [row for row in weighed if row.case == "slaughter, 7 d before"]
    return {
        "houses": len(outcomes),
        "faults": len(found),
        "found": found_figure(found, OURS),
        "found_by_rules": found_figure(found, RULES),
        "false": false_rate([o.quiet for o in outcomes], OURS),
        "coverage": coverage_of([row for o in outcomes for row in o.expected]),
        "weight_7d": weight_figures(days, compared=False),
        "slaughter_7d": weight_figures(last, compared=False),
    }


def plain(value: object) -> Any:  # noqa: ANN401  # JSON has no better name
    """Return figures as JSON can hold them: NaN and infinity become null and words, floats keep five digits."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        number = float(value)
        if math.isnan(number):
            return None
        return ("never" if number > 0 else "missed") if math.isinf(number) else float(f"{number:.5g}")
    return int(value) if isinstance(value, np.integer) else value
