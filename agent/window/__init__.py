"""What a model looks at: the readings of one house in buckets, and features of them on a time grid. Pure numpy.

A reading goes into two buckets of its sensor, by its own time, whenever it arrives: one of 600 s (kept 14 days) and one
of its farm day (kept 80). Buckets are half-open (start, end]: what is stamped 10:00:00 belongs to 09:50-10:00, and a
day's total stamped at midnight to the day that ended.

**A gap is never zero.** Every sensor has a rhythm, the median interval of its readings. A reading credits that much
time, a bucket at most 600 s and one rhythm (timers wobble over the edges; a burst does not make up for a gap), and the
*coverage* of a step is the share of it that is credited. A sum is divided by that share: it is a rate over the time
measured. Below the feature's ``min_coverage`` the step is masked. A step less than half as long as the rhythm says
nothing about increments. Until a second reading comes, the rhythm is taken as 600 s.

**Amounts** that come after a silence are unknown: they may hold what flowed meanwhile, or not, and nobody knows when.
Totals of an hour or a day are what they say.

**Counters** become amounts, sensor by sensor, in the order of time (``meters``). A fall near the end of the meter's
digits or register is a rollover; else a fall to little means that it began again at 0, and the new value is the amount;
else what flowed is unknown. A counter's reading that arrives late changes nothing, since the later one already counted
it. ``last`` of a counter is the meter's total.

**Numbered sensors** (``temperature-1``) are kept apart and joined when asked: levels are averaged over the sensors that
measured the step, amounts are added, and an amount is only known where every meter that spoke in the last three days
did.

| file | what is in it |
|---|---|
| ``window`` | ``Window``: readings in, tensors out |
| ``features`` | steps of a grid, aggregates with their coverage, per bird and against the curve |
| ``context`` | ``FlockContext``: birds, age, breed curves |
| ``buckets`` | rings of buckets, and the row of each in the store |
| ``meters`` | running totals to amounts |
| ``series`` | ``SeriesWindows``: single sensors at their own rhythm, for models that score each reading |
"""

from agent.window.buckets import DAY_MS, Bucket
from agent.window.context import FlockContext, curve_at, curves_of, fact_of
from agent.window.series import SeriesWindows
from agent.window.window import HouseInputs, Masks, Measured, TensorWindow, Window

__all__ = [
    "DAY_MS",
    "Bucket",
    "FlockContext",
    "HouseInputs",
    "Masks",
    "Measured",
    "SeriesWindows",
    "TensorWindow",
    "Window",
    "curve_at",
    "curves_of",
    "fact_of",
]
