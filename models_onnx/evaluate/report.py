"""RESULTS.md, results.json and the plots: the figures as people and programs read them, never written by hand."""

from __future__ import annotations

import json
import math
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models_onnx.evaluate.baselines.weight import FORECASTS
from models_onnx.evaluate.bootstrap import MIDDLE, Figure
from models_onnx.evaluate.figures import DETECTED_BY, plain, weight_cases
from models_onnx.evaluate.plots import bars, lines, scatter
from models_onnx.evaluate.scoring import OURS, RULES, STEPS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from models_onnx.evaluate.figures import FaultFigures, WeightFigures
    from models_onnx.evaluate.real_ammonia import Forecast

MOST_RULES = 14  # of the rules that warn falsely: the others are told together
COVERAGE = (0.75, 0.85)  # of a calibrated 80 % interval


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the goals: what is wanted, what is reached."""

    what: str
    goal: str
    reached: str
    met: bool | None  # None: cannot be said here
    beside: str  # what there is without us


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report that something else makes: a real data set."""

    title: str
    text: str
    goals: tuple[Goal, ...] = ()
    data: object = None


def write(
    folder: Path, about: Mapping[str, Any], figures: Mapping[str, Any], sections: Sequence[Section], bundle_bytes: int
) -> None:
    """Write ``RESULTS.md`` and ``results/`` into ``folder``."""
    results = folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    goals = [*goals_of(figures, bundle_bytes), *(goal for section in sections for goal in section.goals)]
    (folder / "RESULTS.md").write_text(report(about, figures, sections, goals), encoding="utf-8")
    document = {
        "about": about,
        "goals": goals,
        "figures": figures,
        **{section.title: section.data for section in sections if section.data is not None},
    }
    text = json.dumps(plain(document), indent=1, sort_keys=True, ensure_ascii=False)
    (results / "results.json").write_text(text + "\n", encoding="utf-8")
    for name, svg in plots(figures).items():
        (results / f"{name}.svg").write_text(svg, encoding="utf-8")


# --- goals


def goals_of(figures: Mapping[str, Any], bundle_bytes: int) -> list[Goal]:
    """Return the goals of the simulated farms."""
    detection, lead, stops = figures["detection"], figures["lead"], figures["stops"]
    false, causes, outbreaks = figures["false"], figures["causes"], figures["outbreaks"]
    found, by_rules = detection["detectable"][OURS], detection["detectable"][RULES]
    rate, rules_rate = false["rate"][OURS], false["rate"][RULES]
    return [
        Goal(
            "faults and outbreaks detected, of those that any reading betrays",
            "≥ 95 %",
            found.text(".0%"),
            _at_least(found, 0.95),
            f"house computer {by_rules.text('.0%')}",
        ),
        Goal(
            "false warnings per house-day",
            "≤ 0.05",
            rate.text(".3f"),
            _at_most(rate, 0.05),
            f"house computer {rules_rate.text('.2f')}",
        ),
        Goal(
            "lead over the house computer, slow faults (median)",
            "≥ 24 h",
            lead["slow"].text(".0f", " h"),
            _at_least(lead["slow"], 24),
            "0",
        ),
        Goal(
            "flow stops found within (median)",
            "≤ 60 min",
            stops["median_h"].text(".0f", " min", 60),
            _at_most(stops["median_h"], 1.0),
            "-",
        ),
        _outbreak_goal(outbreaks),
        Goal(
            "simulated outbreaks before the house computer (median)",
            "≥ 24 h",
            outbreaks["lead_h_over_rules"].text(".0f", " h"),
            _at_least(outbreaks["lead_h_over_rules"], 24),
            "0",
        ),
        Goal("right cause first", "≥ 80 %", causes["first"].text(".0%"), _at_least(causes["first"], 0.8), "-"),
        Goal(
            "right cause in the first three",
            "≥ 95 %",
            causes["first_three"].text(".0%"),
            _at_least(causes["first_three"], 0.95),
            "-",
        ),
        *_weight_goals(figures["weight"]),
        _coverage_goal(figures),
        Goal("bundles", "≤ 5 MB", f"{bundle_bytes / 1e6:.2f} MB", bundle_bytes <= 5_000_000, "-"),
    ]


def _outbreak_goal(outbreaks: Mapping[str, Any]) -> Goal:
    ours = outbreaks["detectors"][OURS]
    lead, false = ours["lead_days"], ours["false_per_flock"]
    met = ours["found"] == ours["outbreaks"] and ((lead >= 1 and false <= 0.3) or (lead >= 2 and false <= 0.8))
    return Goal(
        "mortality outbreaks in what people tell",
        "all; ≥ 1 d at ≤ 0.3 false episodes a flock, or ≥ 2 d at ≤ 0.8",
        f"{ours['found']} of {ours['outbreaks']}; {_number(lead, 'g', ' d')} at {false:.2f}",
        met if ours["outbreaks"] else None,
        "; ".join(
            f"{name} {of['found']}, {_number(of['lead_days'], 'g', ' d')} at {of['false_per_flock']:.2f}"
            for name, of in outbreaks["detectors"].items()
            if name != OURS
        ),
    )


def _coverage_goal(figures: Mapping[str, Any]) -> Goal:
    shares = [of["inside"].value for of in figures["expected"].values()]
    right = sum(COVERAGE[0] <= share <= COVERAGE[1] for share in shares)
    return Goal(
        "80 % intervals of the expectations hold, each of them",
        "75 to 85 %",
        f"{figures['coverage'].text('.0%')} on average; {right} of {len(shares)}",
        right == len(shares) if shares else None,
        "-",
    )


def _weight_goals(weight: Mapping[str, Any]) -> Iterable[Goal]:
    for days, goal in ((2, 2.0), (5, 3.0), (7, 4.0), (14, 5.0)):
        of = weight["cases"][f"slaughter, {days} d before"]
        if of is None:
            continue
        simple = ", ".join(
            f"{name} {of.simple[name]:.1f} %" for name in ("Gompertz fit", "last weight + breed gain", of.best_simple)
        )
        yield Goal(
            f"slaughter weight, {days} d before (mean absolute error)",
            f"≤ {goal:g} %",
            of.ours.text(".2f", " %"),
            _at_most(of.ours, goal),
            simple,
        )


def _at_least(figure: Figure, goal: float) -> bool | None:
    return None if math.isnan(figure.value) else figure.value >= goal


def _at_most(figure: Figure, goal: float) -> bool | None:
    return None if math.isnan(figure.value) else figure.value <= goal


# --- the words


_HEAD = """# Results of the shipped bundles

Written by `make evaluate` (`python -m models_onnx.evaluate`), never by hand; the same figures for programs are in
[results/results.json](results/results.json). {what} Everything below went through the agent's own code as
`flockwatch replay` runs it: quality, windows, masks, states, delays and limits are those of the product.

Played: {houses:,} houses of {farms} simulated farms of the range set `{ranges}`, {house_days:,.0f} house-days with
birds, of
which {healthy_house_days:,.0f} in {healthy} houses that stayed healthy for {flocks}; {faults} faults of {kinds} kinds,
one in a
flock, of every severity. Anything shown betrays {detectable} of them (by a twin run without the fault); shares are of
those
where nothing else is said. In brackets is the interval in which a figure lies nine times of ten when other farms of the
kind are drawn (bootstrap over farms). Bundles: {bundles}.

**What this does not show:** how the models do on real farms. These birds, sensors and faults are simulated, and the
sizes
of many faults are our judgement. The real sets at the end are the only witnesses from outside.

How found, false and lead are counted is in `models_onnx/evaluate/scoring.py`, the baselines with their sources in
`models_onnx/evaluate/baselines/`.
"""


def report(
    about: Mapping[str, Any], figures: Mapping[str, Any], sections: Sequence[Section], goals: Sequence[Goal]
) -> str:
    """Return the report."""
    assert MIDDLE == (0.05, 0.95)  # noqa: S101  # "nine times of ten" stands in the text
    parts = [
        _HEAD.format(**about, **figures["counts"]),
        _goals(goals),
        _detection(figures),
        _false(figures),
        _lead(figures),
        _causes(figures["causes"]),
        _outbreaks(figures["outbreaks"]),
        _weight(figures["weight"]),
        _expected(figures),
        _robustness(figures["robustness"]),
        *(f"## {section.title}\n\n{section.text}" for section in sections),
    ]
    return "\n".join(_filled(part.rstrip()) + "\n" for part in parts)


def _filled(text: str) -> str:
    """Return the text with its paragraphs in lines of one length; tables, headings and plots stay as they are."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        plain_text = not paragraph.startswith(("|", "#", "!"))
        paragraphs.append(
            textwrap.fill(" ".join(paragraph.split()), 120, break_long_words=False, break_on_hyphens=False)
            if plain_text
            else paragraph
        )
    return "\n\n".join(paragraphs)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines_ = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines_) + "\n"


def _goals(goals: Sequence[Goal]) -> str:
    said = {True: "met", False: "**missed**", None: "-"}
    rows = [(g.what, g.goal, g.reached, said[g.met], g.beside) for g in goals]
    return "## Goals\n\n" + table(("what", "goal", "reached", "", "beside it"), rows)


def _detection(figures: Mapping[str, Any]) -> str:
    detection = figures["detection"]
    overall = table(
        ("detector", "found", "of all, seen or not", "by chance", "false per house-day", "episodes per house-day"),
        [
            (
                name,
                detection["detectable"][name].text(".0%"),
                _share(detection["all"][name].value),
                _share(detection["chance"][name]),
                figures["false"]["rate"][name].text(".3f"),
                _number(figures["false"]["episodes"][name].value, ".3f"),
            )
            for name in DETECTED_BY
        ],
    )
    by_fault = table(
        ("fault", "houses", "shown", "found", "house computer", "by chance", "after, h", "shown after, h",
         "house computer after, h", "lead, h", "lead where both found it, h", *STEPS, "cause first", "in three"),
        [_fault_row(name, of) for name, of in detection["by_fault"].items()],
    )  # fmt: skip
    return f"""## Faults found

By chance: how many of the faults an alarm of the same kind, in the equally long time before the onset, would have
"found".

{overall}
![share of the faults found, by kind](results/detection.svg)

"Shown": any reading betrays it. Times are medians from the onset, of those found. Severities are thirds of what is
drawn
of a kind: found of how many.

{by_fault}
![share found within so many hours](results/found_within.svg)
"""


def _fault_row(name: str, of: FaultFigures) -> Sequence[str]:
    return (
        name,
        str(of.houses),
        str(of.detectable),
        _share(of.found[OURS].value),
        _share(of.found[RULES].value),
        _share(of.chance[OURS]),
        _number(of.hours[OURS], ".1f"),
        _number(of.detectable_h, ".1f"),
        _number(of.hours[RULES], ".1f"),
        _number(of.lead_h.value, ".0f"),
        f"{_number(of.lead_both_h.value, '.0f')} ({of.lead_both_h.n})",
        *(of.by_step[step] for step in STEPS),
        _share(of.cause_first),
        _share(of.cause_three),
    )


def _false(figures: Mapping[str, Any]) -> str:
    false, before = figures["false"], figures["false_before_faults"]
    rules = list(false["by_rule"][OURS].items())
    rest = sum(rate for _, rate in rules[MOST_RULES:])
    rows = [(rule, f"{rate:.4f}") for rule, rate in rules[:MOST_RULES]]
    rows += [("all others", f"{rest:.4f}")] if rest else []
    theirs = [(rule, f"{rate:.3f}") for rule, rate in list(false["by_rule"][RULES].items())[:MOST_RULES]]
    return f"""## False warnings

On {false["house_days"]:,.0f} house-days of healthy flocks: {false["rate"][OURS].text(".3f")} warnings and
{false["episodes"][OURS].text(".3f")} episodes per house-day (warnings of a house at most 12 h apart are one episode).
On the
{before["house_days"]:,.0f} house-days before the faults of the others: {before["rate"][OURS].text(".3f")} and
{before["episodes"][OURS].text(".3f")}. Besides,
{_number(false["true_all_the_same"], ".3f")} per house-day tell the truth
all the same: that a sensor is silent which really is, or of what in the counts of the dead is an outbreak.

{table(("rule", "false per house-day"), rows)}
The house computer's, on the same house-days:

{table(("alarm", "false per house-day"), theirs)}
![false warnings per house-day, by detector](results/false.svg)
"""


def _lead(figures: Mapping[str, Any]) -> str:
    lead, stops = figures["lead"], figures["stops"]
    by_kind = "; ".join(f"{name} {of.text('.2f', ' h')}" for name, of in stops["by_kind"].items())
    return f"""## Time

Lead over the house computer, slow faults ({", ".join(lead["slow_faults"])}): median {lead["slow"].text(".0f", " h")}.
The house
computer never sees {_share(lead["rules_never"])} of them: those count as seen when the time in which an alarm is right
ends, a day
after the fault, so the lead is at least that. We never see {_share(lead["we_never"])}; where the house computer does,
that counts
as a lead of minus infinity. Over all faults: median {lead["all"].text(".0f", " h")}.

Only of the faults that both found, where nothing is censored: median {lead["slow_both"].text(".0f", " h")} of
{lead["slow_both"].n} slow faults, {lead["all_both"].text(".0f", " h")} of all {lead["all_both"].n}.

Stopped flows (water line, feed): median {stops["median_h"].text(".2f", " h")} after the onset, {by_kind};
{stops["within_1_h"].text(".0%")} within an hour, never found counted as never. Since the first reading that shows it:
median
{stops["since_detectable_h"].text(".2f", " h")}.
"""


def _causes(causes: Mapping[str, Any]) -> str:
    text = f"""## Causes

Of the faults found, the first right warning names the right cause first in {causes["first"].text(".0%")}, among the
first three in
{causes["first_three"].text(".0%")}.
"""
    if not causes["calibration"]:
        return text + "No probabilities were given: no model of the causes is among the bundles.\n"
    rows = [(f"{b['said']:.2f}", f"{b['right']:.2f}", str(b["n"])) for b in causes["calibration"]]
    return (
        text + f"\nThe probability of the first cause against how often it is right (mean difference "
        f"{causes['calibration_error']:.2f}):\n\n{table(('said', 'right', 'n'), rows)}"
    )


def _outbreaks(outbreaks: Mapping[str, Any]) -> str:
    rows = [
        (name, f"{of['found']} of {of['outbreaks']}", _number(of["lead_days"], "g"), f"{of['false_per_flock']:.2f}")
        for name, of in outbreaks["detectors"].items()
    ]
    rows += [
        ("two parameters, fitted here", f"{of['found']} of {of['outbreaks']}", _number(of["lead_days"], "g"),
         f"{of['false_per_flock']:.2f}")
        for of in outbreaks["frontier"]
    ]  # fmt: skip
    return f"""## Mortality outbreaks

By the definition used on commercial flocks (`models_onnx/train/outbreaks.py`), in what people told of
{outbreaks["flocks"]} flocks.
The two-parameter rules are those that find all, fitted to these very flocks.

{table(("detector", "found", "median lead, d", "false episodes per flock"), rows)}
![lead against false episodes](results/outbreaks.svg)
"""


def _weight(weight: Mapping[str, Any]) -> str:
    names = list(FORECASTS)
    rows = [_weight_row(case, of, names) for case, of in weight["cases"].items() if of is not None]
    later = [
        (case, _or_dash(weight["first_flock"].get(case)), _or_dash(of))
        for case, of in weight["later_flocks"].items()
        if of is not None
    ]
    calibrated = (
        "\nThe house's own earlier slaughter weight teaches: first flock of a house, and the one after it.\n\n"
        + table(("what", "first flock", "second flock"), later)
        if later
        else ""
    )
    return f"""## Live weight

Mean absolute error in % of the true mean weight of each morning's predictions (08:00), where every simple forecast can
be
made; from day 10 on. The simple ones take the scale as it is.

{table(("what", "weight", "in g", "within p10 to p90", "pinball, %", *names), rows)}{calibrated}
![error by days before the slaughter](results/weight.svg)
"""


def _weight_row(case: str, of: WeightFigures, names: Sequence[str]) -> Sequence[str]:
    return (
        case,
        f"**{of.ours.text('.2f', ' %')}**",
        f"{of.ours_g:.0f}",
        of.inside.text(".0%"),
        f"{of.pinball:.2f}",
        *(_number(of.simple[name], ".2f", " %") for name in names),
    )


def _or_dash(of: WeightFigures | None) -> str:
    return "-" if of is None else of.ours.text(".2f", " %")


def _expected(figures: Mapping[str, Any]) -> str:
    rows = [
        (
            output,
            f"{of['instants']:,}",
            of["inside"].text(".0%"),
            f"{of['below']:.0%} / {of['above']:.0%}",
            of["of_yesterday"].text(".2f"),
            f"{of['error']:.3g}",
            f"{of['pinball']:.3g}",
            f"{of['unsaid']:.0%}",
        )
        for output, of in figures["expected"].items()
    ]
    return f"""## Expectations

What the agent held each measurement against, in healthy flocks: the share within p10 to p90 (80 % is right), below and
above
(10 % each); the error of p50 as a share of "as at the same hour (on the day) before"; error and pinball loss in the
house's
units; how often it could not say.

{table(("what", "instants", "within", "below / above", "of yesterday's error", "error", "pinball", "unsaid"), rows)}
![share within p10 to p90](results/coverage.svg)
"""


def _robustness(robustness: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            str(of["houses"]),
            f"{of['found'].value:.0%} of {of['faults']}" if of["faults"] else "-",
            _share(of["found_by_rules"].value),
            of["false"].text(".3f"),
            of["coverage"].text(".0%"),
            _or_dash(of["weight_7d"]),
            _or_dash(of["slaughter_7d"]),
        )
        for name, of in robustness.items()
    ]
    header = (
        "what is wrong", "houses", "faults found", "by the house computer", "false per house-day",
        "expectations within", "weight in 7 d", "slaughter weight, 7 d before",
    )  # fmt: skip
    return f"""## With less to go by

The same farms, half of the houses with a fault, again and again: `models_onnx/evaluate/scenarios.py`.

{table(header, rows)}"""


def _share(value: float) -> str:
    return _number(value, ".0%")


def _number(value: float, form: str, unit: str = "") -> str:
    if math.isnan(value):
        return "-"
    return ("never" if value > 0 else "-∞") if math.isinf(value) else format(value, form) + unit


# --- plots


def plots(figures: Mapping[str, Any]) -> dict[str, str]:
    """Return the plots by name."""
    by_fault: dict[str, FaultFigures] = figures["detection"]["by_fault"]
    weight = {case: of for case, of in figures["weight"]["cases"].items() if of is not None}
    before = [case for case in weight_cases() if case in weight and case.startswith("slaughter")][::-1]
    detectors = figures["outbreaks"]["detectors"]
    return {
        "detection": bars(
            "Faults found, of those that any reading betrays",
            {name: {fault: of.found[name] for fault, of in by_fault.items()} for name in (OURS, RULES)},
            top=1.0,
        ),
        "found_within": lines(
            "Share of those faults found within so many hours",
            [f"{hours:g}" for hours in figures["within"]["hours"]],
            figures["within"]["share"],
            x_title="hours from the onset",
            top=1.0,
        ),
        "false": bars(
            "False warnings per house-day in healthy flocks", {"warnings": figures["false"]["rate"]}, form=".2f"
        ),
        "coverage": bars(
            "Measured values within p10 to p90 of what was expected",
            {"within": {rule: of["inside"] for rule, of in figures["expected"].items()}},
            top=1.0,
            band=COVERAGE,
        ),
        "weight": lines(
            "Slaughter weight: mean absolute error, %",
            [case.split()[1] for case in before],
            {OURS: [weight[case].ours.value for case in before]}
            | {
                name: [weight[case].simple[name] for case in before]
                for name in FORECASTS
                if name != "same as yesterday"
            },
            x_title="days before the slaughter",
            form=".0f",
        ),
        "outbreaks": scatter(
            "Mortality outbreaks: lead against false episodes",
            {name: [(of["false_per_flock"], of["lead_days"])] for name, of in detectors.items()}
            | {"fitted here": [(of["false_per_flock"], of["lead_days"]) for of in figures["outbreaks"]["frontier"]]},
            x_title="false episodes per flock",
            y_title="median lead, days",
        ),
    }


def ammonia_section(found: Sequence[Forecast]) -> Section:
    """Return the part about the real house's air."""
    title = "A real house's air, one hour ahead"
    if not found:
        text = "Left out: no data were named by `--real`, or no bundle expects any of its signals.\n"
        return Section(title, text)
    rows = [
        (
            f"{f.signal}, {f.unit}",
            f"{f.hours:,}",
            f"**{f.hour:.3f}**",
            f"{f.hour_persistence:.3f}",
            f"{f.inside:.0%}",
            f"**{f.ahead:.3f}**",
            f"{f.ahead_persistence:.3f}",
            f"{f.anchor:g}",
        )
        for f in found
    ]
    header = (
        "signal", "instants", "mean of the hour", "persistence", "within p10 to p90", "ten minutes an hour ahead",
        "persistence", "published",
    )  # fmt: skip
    text = f"""26 days of one house with ammonia, temperature and humidity sensors alone, every ten minutes a forecast
    of the coming
hour from what was known then; mean absolute errors. Nothing was trained or tuned on it.

{table(header, rows)}"""
    goals = tuple(
        Goal(
            f"real house, {f.signal} an hour ahead (mean absolute error)",
            f"< {f.ahead_persistence:.2f} {f.unit}",
            f"{f.ahead:.3f} {f.unit}",
            f.ahead < f.ahead_persistence,
            f"persistence {f.ahead_persistence:.3f}, published {f.anchor:g}",
        )
        for f in found
    )
    return Section(title, text, goals, list(found))
