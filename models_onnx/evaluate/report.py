"""RESULTS.md: the figures as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models_onnx.evaluate.baselines import WEIGHT_BASELINES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models_onnx.evaluate.run import Expected, Found, Size, Weighed

_HEAD = """# Results of the shipped bundles

Written by `make evaluate` (`python -m models_onnx.evaluate`), never by hand. {farms} simulated farms of the range set
`test` with {houses} houses each, placed in different seasons: farms that nothing was trained, stopped or calibrated on,
with partly different physics (other controllers, light, weighers, breeds' growth; `models_onnx/farm/params.py`). Some
flocks are told by the hour or day only, some lack sensors, some have a wrong count of birds. "Same as yesterday" is the
same hour (day) one day before.

**What this does not show:** how the models do on real farms. These birds, sensors and faults are simulated.
"""


def report(
    size: Size,
    expected: Sequence[Expected],
    persistence: float,
    weighed: Sequence[Weighed],
    found: Sequence[Found],
    house_days: float,
) -> str:
    """Return the report."""
    parts = [_HEAD.format(farms=size.farms, houses=size.houses), _expect(expected, persistence, house_days)]
    if found:
        parts.append(_faults(found))
    return "\n".join([*parts, _weight(weighed)])


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _expect(expected: Sequence[Expected], persistence: float, house_days: float) -> str:
    rows = "\n".join(
        _row(
            e.name,
            e.unit,
            f"{e.instants:,}",
            f"{e.yesterday:.3g}",
            f"{e.forecast:.3g}",
            f"{e.error:.3g}",
            f"**{1 - e.forecast / e.yesterday:.0%}, {1 - e.error / e.yesterday:.0%}**",
            f"{e.pinball:.3g}",
            f"{e.interval80:.0%}",
            f"{e.below:.0%} / {e.above:.0%}",
        )
        for e in expected
    )
    false = "\n".join(f"| {e.name} | {e.false_below:.4f} | {e.false_above:.4f} |" for e in expected)
    total = sum(e.false_below + e.false_above for e in expected)
    return f"""## expect

Mean absolute error in the output's unit (water and feed per live bird) of "same as yesterday", of `expect` as a
forecast, and of `expect` in hindsight, when the light and the temperatures of the hour or day are known: so the agent
judges. "Better by" is against yesterday, as a forecast and in hindsight; then, in hindsight, the share of actual values
within p10 to p90 (80 % is right), below and above it (10 % is right).

| output | unit | instants | yesterday | forecast | hindsight | better by | pinball | within | below / above |
|---|---|---|---|---|---|---|---|---|---|
{rows}

"As warm as in the last ten minutes" misses the next hour by {persistence:.3g} Cel.

False warnings per house-day with the shipped limits and the agent's own delays, on {house_days:,.0f} house-days of
healthy flocks, by the side of the expectation ({total:.3f} in all; an expectation that is wrong for a whole afternoon
counts once for each output):

| output | below | above |
|---|---|---|
{false}
"""


def _faults(found: Sequence[Found]) -> str:
    rows = "\n".join(f"| {f.fault} | {f.found} of {f.houses} | {f.median_h:.1f} h | {f.first_by} |" for f in found)
    return f"""Faults on day 20, 10:00, as long and hard as the simulator makes them by default; found by an output of
`expect` before the fault is over (and its horizon), with limits and delays as shipped:

| fault | found | median after | mostly first by |
|---|---|---|---|
{rows}
"""


def _weight(weighed: Sequence[Weighed]) -> str:
    names = list(WEIGHT_BASELINES)
    rows = "\n".join(
        _row(
            w.name,
            f"{w.instants:,} of {w.flocks}",
            f"**{w.error:.2f} %** ({w.error_g:.0f} g)",
            f"{w.interval80:.0%}",
            *(f"{w.baselines[name]:.2f} %" for name in names),
        )
        for w in weighed
    )
    return f"""## weight

Mean absolute error in % of the true mean live weight, at instants where all forecasts can be made; share of truths
within p10 to p90 (80 % is right).

| what | instants, flocks | weight | within | {" | ".join(names)} |
|---|---|---|---|{"---|" * len(names)}
{rows}
"""
