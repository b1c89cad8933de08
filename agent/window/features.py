"""From buckets to features: steps of a grid, aggregates with their coverage, per bird and against the curve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from agent.manifest import BUCKET_S, KEPT_DAYS
from agent.window.buckets import NO_BUCKET
from agent.window.context import NAN, curve_at, curves_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agent.manifest import Feature
    from agent.window.buckets import Ring
    from agent.window.context import FlockContext

    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]
    AnyNumber = TypeVar("AnyNumber", bound=np.generic)


class Steps(NamedTuple):
    """The steps of a grid: numbers of the buckets [steps, buckets per step], and the times of each step."""

    numbers: I64
    start_ms: I64
    end_ms: I64

    @property
    def length_s(self) -> F64:
        """How long each step lasts: today's, until now."""
        return np.asarray((self.end_ms - self.start_ms) / 1000, np.float64)


@dataclass(slots=True)
class Plan:
    """A grid and its columns, with the rows of the rings that they need: made once, until a new sensor appears."""

    features: tuple[Feature, ...]
    sensors: int  # how many the window had when this was made
    rows: NDArray[np.intp]
    of_feature: list[NDArray[np.intp]]  # for each feature the positions of its sensors within ``rows``
    is_amount: NDArray[np.bool_]  # [rows, 1]
    least: F64  # the coverage that each feature needs, [features, 1, 1]
    grams: list[float]  # what one unit of each feature's signal is in the curves' grams


class Look:
    """Some steps as some sensors measured them, in the buckets of one ring; arrays are [sensor, step]."""

    def __init__(self, ring: Ring, plan: Plan, steps: Steps, rhythm_s: F64, spoke_lately: NDArray[np.bool_]) -> None:
        self._ring, self._rows, self._numbers, self._spoke_lately = ring, plan.rows, steps.numbers, spoke_lately
        first, last = int(steps.numbers.min()), int(steps.numbers.max())
        head = NO_BUCKET if ring.head is None else ring.head
        self._each = self._picked(ring.n)
        if last > head or first <= head - ring.size:
            is_kept = (steps.numbers <= head) & (steps.numbers > head - ring.size)
            self._each = self._each * is_kept
        self._n = self._each.sum(axis=2)
        self._all_sums: F64 | None = None
        rhythm = np.where(np.isnan(rhythm_s), BUCKET_S, rhythm_s)[:, None]
        length_s = steps.length_s
        if ring.size == KEPT_DAYS:
            ratio = self._n * (rhythm / length_s)
        else:
            each = (rhythm / BUCKET_S)[:, :, None]
            ratio = np.minimum(self._each * each, 1 + each).sum(axis=2) / steps.numbers.shape[1]
        self._share = np.minimum(ratio, 1 + rhythm / length_s)  # what a sum is divided by
        self._cover = np.minimum(ratio, 1.0)
        self._cover[plan.is_amount & (rhythm > 2 * length_s)] = 0

    def column(self, feature: Feature, sensors: NDArray[np.intp]) -> tuple[F64, F64]:
        """Return a feature's aggregate and its coverage, by step, joined over its sensors."""
        if len(sensors) == 1:
            values, cover = self._aggregates(feature.aggregate, int(sensors[0]))
            return values, cover
        if len(sensors) == 0:
            return np.full(len(self._numbers), NAN), np.zeros(len(self._numbers))
        each = [self._aggregates(feature.aggregate, int(sensor)) for sensor in sensors]
        values, cover = np.stack([values for values, _ in each]), np.stack([cover for _, cover in each])
        if feature.aggregate == "count":
            return values.sum(axis=0), cover.max(axis=0)
        if feature.aggregate == "sum":
            if (speaks := self._spoke_lately[sensors]).any():
                values, cover = values[speaks], cover[speaks]
            return values.sum(axis=0), cover.min(axis=0)
        if feature.aggregate in {"min", "max"}:
            worst = np.inf if feature.aggregate == "min" else -np.inf
            found = np.where(np.isnan(values), worst, values)
            return found.min(axis=0) if feature.aggregate == "min" else found.max(axis=0), cover.max(axis=0)
        weight = np.where(np.isnan(values), 0.0, cover)
        return (np.where(weight > 0, values, 0.0) * weight).sum(axis=0) / weight.sum(axis=0), cover.max(axis=0)

    def _aggregates(self, aggregate: str, sensor: int) -> tuple[F64, F64]:
        """Return one aggregate of one sensor and its coverage, by step; NaN: nothing was measured."""
        n, cover = self._n[sensor], self._cover[sensor]
        match aggregate:
            case "sum":
                return self._sums()[sensor] / self._share[sensor], cover
            case "mean" | "gain":  # a gain is told from the means of two steps
                return self._sums()[sensor] / n, cover
            case "count":
                return n.astype(np.float64), np.ones_like(cover)
        each = self._each[sensor]
        match aggregate:
            case "median":
                means = np.where(each > 0, self._picked(self._ring.sum)[sensor], NAN) / each
                return middle(means.astype(np.float64)), cover
            case "min":
                found = np.where(each > 0, self._picked(self._ring.min)[sensor], np.inf).min(axis=1)
            case "max":
                found = np.where(each > 0, self._picked(self._ring.max)[sensor], -np.inf).max(axis=1)
            case _:
                newest = each.shape[1] - 1 - (each[:, ::-1] > 0).argmax(axis=1)
                last = self._picked(self._ring.last)[sensor]
                found = np.take_along_axis(last, newest[:, None], axis=1)[:, 0]
        return np.where(n > 0, found.astype(np.float64), NAN), cover

    def _sums(self) -> F64:
        if self._all_sums is None:
            each = np.where(self._each > 0, self._picked(self._ring.sum), 0.0)
            self._all_sums = each.sum(axis=2, dtype=np.float64)
        return self._all_sums

    def _picked(self, kept: NDArray[AnyNumber]) -> NDArray[AnyNumber]:
        """Return the buckets of the steps, [sensor, step, bucket].

        As of one time their numbers follow each other: a slice, or two.
        """
        begin, count, size = int(self._numbers[0, 0]) % self._ring.size, self._numbers.size, self._ring.size
        if int(self._numbers[-1, -1]) - int(self._numbers[0, 0]) + 1 != count:
            return kept[self._rows[:, None, None], self._numbers % size]
        rows = kept[self._rows]
        if begin + count <= size:
            found = rows[:, begin : begin + count]
        else:
            found = np.concatenate((rows[:, begin:], rows[:, : begin + count - size]), axis=1)
        return found.reshape(len(self._rows), *self._numbers.shape)


class Scale:
    """What turns an aggregate into a feature: birds, breed curve, logarithm; each worked out once for a grid.

    A step that began before the birds came has neither birds nor a curve.
    """

    def __init__(self, start_ms: I64, end_ms: I64, flock: FlockContext | None) -> None:
        self._start_ms, self._end_ms, self._flock = start_ms, end_ms, flock
        self._known: dict[tuple[str | None, str | None], F64] = {}

    def applied(self, feature: Feature, value: F64, grams: float) -> F64:
        """Return ``value`` per bird, as a ratio to the curve, transformed: what of it the feature wants.

        ``grams`` is what one unit of the signal is in the curve's grams.
        """
        if feature.reference is not None:
            value = value * (self._factor(feature.per, feature.reference) * grams)
        elif feature.per is not None:
            value = value * self._factor(feature.per, None)
        if feature.transform == "log":
            return np.log(value)
        if feature.transform == "log1p":
            return np.log1p(value)
        return value

    def _factor(self, per: str | None, reference: str | None) -> F64:
        """Return one over what to divide by, by step; NaN where unknown or nothing."""
        known = self._known.get((per, reference))
        if known is not None:
            return known
        start_ms, flock = self._start_ms, self._flock
        if flock is None:
            divisor = np.full(len(start_ms), NAN)
        elif per is not None and reference is not None:
            divisor = 1 / (self._factor(per, None) * self._factor(None, reference))
        else:
            divisor = self._worked_out(per or reference, flock)
            divisor = np.where((divisor > 0) & (start_ms >= flock.placed_at_ms), divisor, NAN)
        factor = self._known[per, reference] = 1 / divisor
        return factor

    def _worked_out(self, name: str | None, flock: FlockContext) -> F64:
        middle_ms = (self._start_ms + self._end_ms) // 2
        if name == "live_bird":
            return flock.live_at(middle_ms)
        if name == "bird_placed":
            return np.full(len(middle_ms), NAN if flock.birds_placed is None else float(flock.birds_placed))
        weight, eaten = curves_of(flock.strain)
        if name == "strain.weight_g":
            return curve_at(weight, flock.age_days(middle_ms))
        curve = eaten if name == "strain.feed_g" else weight
        return curve_at(curve, flock.age_days(self._end_ms)) - curve_at(curve, flock.age_days(self._start_ms))


def middle(values: F64) -> F64:
    """Return the median over the last axis, NaN left out; NaN where there is nothing else."""
    ordered = np.sort(values, axis=-1)  # NaN last
    count = np.isfinite(values).sum(axis=-1)
    low = np.take_along_axis(ordered, np.maximum((count - 1) // 2, 0)[..., None], axis=-1)[..., 0]
    high = np.take_along_axis(ordered, np.minimum(count // 2, values.shape[-1] - 1)[..., None], axis=-1)[..., 0]
    return np.asarray((low + high) / 2)
