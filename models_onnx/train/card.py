"""The model cards: what a bundle was trained on, how good it is, where it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.manifest import Judge
    from models_onnx.train.cause import Right
    from models_onnx.train.data import Farms
    from models_onnx.train.mortality_courses import Sample
    from models_onnx.train.played import Campaign

_DATA = """
## Data

Simulated farms only (`models_onnx/farm`), {instants:,} instants of flocks in {houses} houses of {farms} farms placed at
different times of the year, from the range set `train`; stopping and calibration by {validation} farm(s) of
`validation`. No row of any real farm. What the ranges are, and the source of each figure, stands in
`models_onnx/farm/params.py`; growth, intake and the mean weights come from the breeders' tables (`agent/strains.py`:
Ross 308, Aviagen 2022; Cobb 500, Cobb-Vantress 2022). Readings pass through the agent's own window (`agent/window/`),
so a feature means the same here and on a gateway. Of the flocks a fifth is told only by the hour or the day; each
sensor is absent from one in sixteen, in every fifth house from half of them; in a third the count of birds is wrong by
about 5 %; at one instant in seven a signal is masked as it is while a warning stands. Seven flocks in ten are also made
rough: errors of meters and scale beyond the simulator's own, other growth, and noise of a size and rhythm drawn for
each flock
(`models_onnx/train/data.py`).

Rebuilt by `make models`: the same seeds give the same data and weights.
"""

_LICENCE = """
## Licence

Apache-2.0, like the program. The simulator and the training are in this repository.
"""


def _data(instants: int, farms: Farms, validation: Farms) -> str:
    return _DATA.format(
        instants=instants, houses=farms.count * farms.houses, farms=farms.count, validation=validation.count
    )


def expect_card(
    instants: int,
    farms: Farms,
    validation: Farms,
    metrics: Mapping[str, float],
    limits: Mapping[str, Judge],
    rates: Mapping[str, float],
) -> str:
    """Return the card of ``expect``."""
    rows = "\n".join(
        f"| {name} | {metrics[name]:g} | {metrics[f'interval80_{name}']:.0%} "
        f"| {of.low:g} | {of.high:g} | {of.floor:g} |"
        for name, of in limits.items()
    )
    false = "\n".join(f"| {rule} | {rate:.4f} |" for rule, rate in rates.items())
    return f"""# expect 1.2.0

What water, feed, inside temperature, humidity, CO2, ammonia and pressure will do in the next hour, and water, feed,
weight and the air in the next day, as p10, p50 and p90: from the flock's own last days, its age, the clock and the
breed's curve. Water and feed are per live bird, so a thinned flock is no fault. The agent asks it with the window ended
an hour (a day) ago and holds what was measured since against the answer.

{len(limits)} small networks (64 and 32 units) behind columns that compare the last hours with the same hours of the
days before and with those that were as light, and the last days with the curve. Judging in hindsight, they also get the
light, the weather and the ventilation of the very hour or day, so that a longer night or a hot afternoon explains
itself. `water_for_feed…` are given what was eaten in it besides, so that birds that are awake unseen explain themselves
and a leak does not; the others do not know, as thirsty birds stop eating.
What is not measured is told as missing. Those called *slow* (and `temperature_since_yesterday_1h`) look away from the
last days (hours), so that what creeps in adds up against them. Where several outputs look at one signal, the agent goes
by the one that is furthest out of its course.
{_data(instants, farms, validation)}
## How good

On farms and flocks that it has never seen, of other ranges (`test`): the evaluation's report. Here: mean pinball loss
in the output's own unit on the farms that it was calibrated by; on other validation farms the share of actual values
within p10 to p90, and the limits beyond which the agent calls it out of course (half bands below and above p50, a half
band being at least `floor`):

| output | pinball | within | limit below | limit above | floor |
|---|---|---|---|---|---|
{rows}

The limits are the smallest that raise no more false warnings on healthy flocks of other validation farms, rough ones
among them, than each side of each output is allowed, with the agent's own delays, in bands as the agent stretches them
by what it measures in a house; and not below 4 half bands for hours, 3 for days. The floors of the bands were chosen
with an eye on farms of `test`; the report is of farms of `test` that nobody had looked at. False warnings per house-day
there:

| rule | false |
|---|---|
{false}

## Limits

- It has seen simulated birds. A farm whose light, controller or feeding differs from all of them shows wider errors;
  the limits can be stretched per rule in `agent.toml`.
- Houses that work otherwise than any of the training's are more restless than it expects: there it warns falsely more
  often, until the agent has learnt the width of the bands (two days for those of an hour, weeks for those of days).
- Where no sensor tells of the light, a night that is moved or shortened shows in the feed as if it were a fault.
- In the first two days of a flock there is no course yet: the agent judges from day 2 (hours) and day 3 (days).
- Through catching, and for a day after thinning, it is not asked: birds without feed are not the flock it knows.
- With daily totals only, the outputs of the hour mean nothing (there is no actual to hold against them), those of the
  day hold.
- Without the number of birds placed, only the air and the weight are known.
- The scale's gain from one day to the next is mostly the scale's noise; a growth lag shows in `weight_slow_3d` after
  days, and is mostly missed; so are fans that foul.
- In young flocks a half band is a large share of what flows: a line or feeder that stops is told within the hour only
  where p10 is near p50 (docs/warnings.md), else by the day.
{_LICENCE}"""


def weight_card(instants: int, farms: Farms, validation: Farms, metrics: Mapping[str, float]) -> str:
    """Return the card of ``weight``."""
    rows = "\n".join(f"| {name} | {value:g} |" for name, value in metrics.items())
    return f"""# weight 1.2.0

The mean live weight of the flock at noon of the farm day in 1, 2, 5 and 7 days, and on the planned slaughter day, as
p10, p50 and p90 in g: from the automatic scale, feed, water, climate and losses so far, age, strain, sex, the parents'
age, and what earlier flocks of the house weighed at slaughter.

Four witnesses say how far the flock is from the breed's curve: the scale's last fortnight, the feed so far, the water
so far, and the level of earlier flocks of the house and the site. The gateway has learnt from recorded slaughter
weights what each of the first three misses in this house (`agent/calibration.py`, facts `house.…` in docs/models.md);
each is corrected by that and counts by the inverse of its variance. One small network (16 and 8 units) learns what
that leaves, for every horizon: the error of a scale of which nothing is known yet, feed eaten against weight shown,
growth that speeds up or slows down. The bands are stretched apart for each horizon and for flocks with scale and
history, with a scale alone, and without a scale.

With neither scale nor feed nor water the network is not asked: the answer is the level of house and site, and its band
is the spread that flocks here have shown. Nothing about any real house is in the bundle. Where its bands held less than
they say in earlier flocks, the agent stretches them (docs/models.md, life after deployment).
{_data(instants, farms, validation)}
## How good

On farms and flocks that it has never seen, of other ranges (`test`), beside simple forecasts: `models_onnx/RESULTS.md`.
On the validation farms, by which it was stopped and its bands were stretched (mean absolute error in % of the true
weight; share of truths within p10 to p90):

| figure | value |
|---|---|
{rows}

## Limits

- It has seen simulated birds and simulated scales. A scale that is wrong all the time by several percent cannot be told
  from birds that are: only recorded slaughter weights can. Of the first flock in a house the error is therefore about
  half as large again as of the third, and where nobody tells slaughter weights it stays so.
- A scale that is moved, repaired or dirty is off until flocks have told so; after a long time the old error is
  forgotten.
- Without any scale it falls back on feed and water, and on history; the interval is then wider.
- The slaughter weight that teaches should be the live weight in the house; a constant loss by withdrawal and transport
  is learnt as a part of the house's errors.
- Flocks older than 50 days lie beyond what it was trained on, unless only history is known.
{_LICENCE}"""


def mortality_card(days: int, usual: Sample, odd: Sample, limit: float, metrics: Mapping[str, float]) -> str:
    """Return the card of ``mortality``."""
    rows = "\n".join(f"| {name} | {value:g} |" for name, value in metrics.items())
    return f"""# mortality 1.0.0

Whether an outbreak of deaths is about to begin: a probability from the daily losses of the last 15 days, the flock's
age and its living birds. The agent's rule `mortality` warns early where it reaches {limit:g}; the plain rule (at least
0.30 % of the living birds in a day, and three times the median of the week before) stays its floor.

One small network (64 and 32 units) behind columns that compare the day with what the flock is used to, with how much
its single days vary, with chance in a house of its size, and with what would be an outbreak tomorrow. Rounds left out
and counted next day are spread over their days, negative corrections are taken off the day before. Water, feed, weight
and climate are not looked at: on commercial flocks they did not lead the outbreaks (docs/sources.md, F1).

## Data

Simulated courses of daily losses only (`models_onnx/train/mortality_courses.py`): {days:,} days of
flocks of 5,000 to 50,000 birds, 31 to 61 days old. No row of any real flock. {odd.populations} populations of
{odd.flocks} flocks are from wide ranges; {usual.populations} of {usual.flocks} from the part of them in which simple
rules find about as many outbreaks, as early and as often falsely as they did on 48 commercial flocks: those published
figures chose the ranges, the flocks are not known to us.

Rebuilt by `make models`: the same seeds give the same data and weights.

## How good

Populations of flocks that it has never seen, judged as the agent judges them (a raised warning is an alarm), by the
definitions of docs/sources.md, F1: outbreaks, the week before one in which an alarm finds it, false episodes. Without
`wide_`: populations like commercial flocks; the limit is the least that raised at most 0.28 false episodes per flock
on them. `lead_1d_share` is the share of all outbreaks that were found a day ahead or more; `early_probability` what the
early warnings said on average when they rose, `early_came_true` how many of them an outbreak followed within a week.
Other physics, other noise and the simple rules beside it: `models_onnx/OUTBREAKS.md`.

| figure | value |
|---|---|
{rows}

## Limits

- It has seen simulated flocks. How often it is right on a farm hangs on how unruly that farm's counts are; where it
  cries too often, a higher `threshold` of the rule makes it quieter.
- Many outbreaks come without a sign in the counts of the days before; those are found on their day, by the plain rule.
- A count that is told late is judged late; of days that nobody told it knows nothing.
- Before day 8, and where nobody said how many birds were placed, the agent does not ask it.
{_LICENCE}"""


def cause_card(
    instants: int, farms: Campaign, by: Campaign, rights: Mapping[str, Right], honesty: Mapping[str, float]
) -> str:
    """Return the card of ``cause``."""
    rows = "\n".join(
        f"| {name} | {right.warnings} | {100 * right.first:.0f} % | {100 * right.in_three:.0f} % |"
        for name, right in rights.items()
    )
    return f"""# cause 1.0.0

What probably lies behind a warning: a probability for each cause, for `unknown` (something is wrong that fits none of
them) and for `none` (a false warning). What is left when `none` is taken away is the warning's confidence.

Asked only where a warning of water, feed, climate, weight or mortality stands or is about to. It reads how far each
watched signal is out of its course, on which side and since when, which sensors are stuck, silent or out of range, and
the last hours and days of every signal against those before. Boosted trees (scikit-learn's
HistGradientBoostingClassifier, 60 rounds of at most 15 leaves for each cause), whose probabilities are tempered on
validation farms; small networks, tried on the same farms, named the right cause first less often.

## Data

Simulated farms only (`models_onnx/farm`): {farms.count * farms.houses} flocks of the range set `train`, most of them
with one fault, played through the agent itself with the shipped expectations, as on a gateway
(`models_onnx/train/played.py`); {instants:,} instants at which a warning stood. Tempering by
{by.count * by.houses} flocks of `validation`. No row of any real farm. False warnings come from healthy flocks watched
by a stricter agent, `unknown` from flocks in which two or three unrelated signals were bent at once. In each house one
sensor in twenty is absent, in every fifth house four in ten. Each fault that raised a warning counts alike, and three
warnings in ten are taken to be false: on a farm where that is otherwise, the probabilities are shifted.

Rebuilt by `make models`: the same seeds give the same data and weights.

## How good

On the validation farms, which it was chosen and tempered by; on farms of other ranges and with faults that it has
never seen (`test`): `models_onnx/RESULTS.md`. The right cause first, and among the first three, of the faults of which
a warning was raised, when it was raised:

| fault | warnings | first | in three |
|---|---|---|---|
{rows}

Mean gap between what is said and how often it comes true: {honesty["ece_first"]:.3f} for the first cause,
{honesty["ece_confidence"]:.3f} for the confidence.

## Limits

- One cause for a house at a time: of two faults at once it names one, or `unknown`.
- It has seen simulated faults. A real one may show another pattern; `confirm` and `reject` of warnings tell.
- It knows what the expectations watch. A fault that moves none of it raises no warning, and is not asked about.
- Which sensor is meant stands in the warning, not in the cause.
{_LICENCE}"""
