"""The window of one house: what comes in, what is known of its sensors, and the tensors that models look at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from agent.domain import Kind, Quality, to_ms
from agent.manifest import BUCKET_S, DAY_S, DEFAULT_MIN_COVERAGE, KEPT_BUCKETS, KEPT_DAYS, Feature, Grid, InputSpec
from agent.signals import base_of
from agent.window.buckets import BUCKET_MS, DAY_MS, NO_BUCKET, Bucket, Ring
from agent.window.context import NAN, fact_of
from agent.window.features import Look, Plan, Scale, Steps
from agent.window.meters import Meter
from agent.window.series import as_dtype

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from numpy.typing import NDArray

    from agent.clock import FarmDays
    from agent.domain import SeriesKey
    from agent.readings import Readings
    from agent.signals import Signal
    from agent.window.context import FlockContext

    Floats = NDArray[np.float32] | NDArray[np.float64]
    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]

FUTURE_MS = DAY_MS  # a reading dated later than this after its arrival has a wrong clock: it would push all others out
RHYTHM_INTERVALS = 32  # the rhythm is the median of that many intervals: adapts in half an hour at one a minute
RHYTHM_SEED = 8  # how many of them a rhythm that was restored counts for
SILENCE_RHYTHMS = 1.5  # an amount that comes after a longer time may hold what flowed in the silence
METER_RHYTHM_S = 3600.0  # above this rhythm amounts are totals of their hour or day, whatever came before
SENSOR_GONE_MS = 3 * DAY_MS  # a meter that has not spoken for so long is no part of its signal any more
GRAMS = {"kg": 1000.0, "l": 1000.0}  # what one unit is in the grams of the breed curves
PLANS_KEPT = 64  # more than all bundles of a house need

Masks = Mapping[str, Sequence[tuple[datetime, datetime]]]
"""By base signal the times in which it was out of its course."""

_NOW = timedelta(0)
LEVEL, AMOUNT, COUNTER = range(3)
KINDS = {Kind.GAUGE: LEVEL, Kind.INCREMENT: AMOUNT, Kind.COUNTER: COUNTER}


class Measured(NamedTuple):
    """A value over a stretch of time, NaN where too little of it was measured, and its coverage, 0 to 1."""

    value: float
    coverage: float


@dataclass(frozen=True, slots=True)
class TensorWindow:
    """One house's input to a model: ``values`` and ``mask`` [rows, columns] (facts: [columns], no mask).

    ``coverage`` is the share of the cells' time that was really measured, rows before the placement left out.
    """

    values: Floats
    mask: Floats | None
    coverage: float
    measured: dict[str, float] = field(
        default_factory=dict
    )  # by signal: the share of its time that was measured at all


@dataclass(frozen=True, slots=True)
class HouseInputs:
    """All tensors of a model for one house, by the model's own input names."""

    tensors: dict[str, Floats]
    coverage: float
    measured: dict[tuple[str, int], float] = field(default_factory=dict)  # by signal and step_s, masked or not

    def known_share(self, signal: str, length_s: int) -> float:
        """Return how much of a signal's recent course is known, in the coarsest steps no longer than ``length_s``.

        1 where the model looks at no such steps.
        """
        steps = [step_s for name, step_s in self.measured if name == signal and step_s <= length_s]
        return self.measured[signal, max(steps)] if steps else 1.0


@lru_cache(maxsize=64)
def _one_step(length_s: int) -> Grid:
    return Grid(step_s=length_s, length=1)


def _nothing(spec: InputSpec, grid: Grid) -> TensorWindow:
    """Return a tensor of which nothing is known."""
    shape = (grid.length, len(spec.features))
    return TensorWindow(np.full(shape, spec.fill, spec.dtype), np.zeros(shape, spec.dtype), 0.0)


_EPOCH = date(1970, 1, 1).toordinal()


class Window:
    """What one house measured lately, and features of it."""

    def __init__(self, house: str, signals: Mapping[str, Signal], days: FarmDays) -> None:
        """Watch ``signals``: base signals by name, with the kind and the range that hold in this house."""
        self.house = house
        self._signals = dict(signals)
        self._days = days
        self._names: list[str] = []  # of the sensors, by row
        self._row: dict[str, int] = {}
        self._fine = Ring(KEPT_BUCKETS, np.float32)
        self._daily = Ring(KEPT_DAYS, np.float64)
        self._high_ms = np.empty(0, np.int64)  # the newest time of each sensor
        self._meters: dict[int, Meter] = {}  # the counters, by row
        self._kinds = np.empty(0, np.uint8)
        self._intervals = np.empty((0, RHYTHM_INTERVALS), np.float32)  # seconds
        self._interval_count = np.empty(0, np.int64)
        self._rhythm_s = np.empty(0, np.float64)
        self._rhythm_is_old = False
        self._keys: tuple[SeriesKey, ...] = ()
        self._rows_of_keys = np.empty(0, np.intp)
        self._plans: dict[int, tuple[object, Plan]] = {}
        self._doubted: set[int] = set()  # rows of sensors that are not believed now
        self._day_starts: dict[int, int] = {}  # ordinal of a farm day -> its first instant

    # --- what comes in

    def add(self, readings: Readings) -> None:
        """Take what is this house's, watched and of good quality; in any order, in blocks of any size."""
        rows = self._rows(readings.keys)[readings.key]
        keep = (rows >= 0) & (readings.quality == Quality.GOOD) & np.isfinite(readings.value)
        keep &= readings.at_ms <= readings.received_ms + FUTURE_MS
        if self._doubted:
            keep &= ~np.isin(rows, list(self._doubted))
        which = np.flatnonzero(keep)
        if len(which) == 0:
            return
        which = which[np.lexsort((readings.at_ms[which], rows[which]))]
        row, at_ms, value = rows[which], readings.at_ms[which], readings.value[which]
        elapsed_s = self._note_times(row, at_ms)
        self._put(row, at_ms, self._measured(row, value, elapsed_s), value)

    def forget(self, name: str, from_ms: int) -> None:
        """Take back what a sensor measured from ``from_ms`` on: it has turned out to be untrue.

        As far as the fine steps reach, 14 days; a farm day keeps what its other hours measured.
        """
        row, head = self._row.get(name), self._fine.head
        if row is None or head is None:
            return
        for number in range(max(-(-from_ms // BUCKET_MS), head - self._fine.size + 1), head + 1):
            taken = self._fine.empty(row, number)
            if taken is not None:
                day = self._day_of(number * BUCKET_MS)
                first, last = -(-(self._start_of(day) + 1) // BUCKET_MS), self._start_of(day + 1) // BUCKET_MS
                self._daily.subtract(row, day, *taken, rest=self._fine.extremes(row, first, last))

    def doubt(self, name: str, since_ms: int) -> None:
        """Believe a sensor no more: neither what it measured since then nor what comes."""
        self.forget(name, since_ms)
        if base_of(name) in self._signals:
            self._doubted.add(self._row_of(name))

    def trust(self, name: str) -> None:
        """Believe a sensor again, from its next reading on."""
        self._doubted.discard(self._row.get(name, -1))

    def load(self, buckets: Iterable[Bucket], rhythms_s: Mapping[str, float] | None = None) -> None:
        """Take back what ``take_changed`` gave, and the rhythms that ``rhythms_s`` told, after a restart.

        Buckets of other houses are passed over; they may come in parts and in any order.
        """
        for bucket in buckets:
            if bucket.house != self.house or base_of(bucket.signal) not in self._signals:
                continue
            row = self._row_of(bucket.signal)
            ring = self._fine if bucket.step_s == BUCKET_S else self._daily
            number = self._day_of(bucket.start_ms + 1) if ring is self._daily else bucket.start_ms // BUCKET_MS + 1
            ring.advance(number)
            if ring.head is None or number <= ring.head - ring.size:
                continue
            slot = number % ring.size
            ring.n[row, slot], ring.sum[row, slot], ring.last[row, slot] = bucket.n, bucket.sum, bucket.last
            ring.min[row, slot], ring.max[row, slot] = bucket.min, bucket.max
            newest_ms = max(bucket.last_ms, bucket.start_ms)
            ring.last_ms[row, slot] = max(newest_ms - bucket.start_ms - 1, 0)
            if newest_ms > self._high_ms[row]:
                self._high_ms[row] = newest_ms
                if row in self._meters:
                    self._meters[row].total = bucket.last
        for name, rhythm_s in (rhythms_s or {}).items():
            if base_of(name) in self._signals and rhythm_s > 0:
                row = self._row_of(name)
                self._intervals[row, :RHYTHM_SEED] = rhythm_s
                self._interval_count[row] = RHYTHM_SEED
                self._rhythm_is_old = True

    def take_changed(self) -> list[Bucket]:
        """Return the buckets that changed since the last call, for the store."""
        changed = []
        for ring, step_s in ((self._fine, BUCKET_S), (self._daily, DAY_S)):
            for row, number, slot in ring.exported():
                start_ms = (number - 1) * BUCKET_MS if ring is self._fine else self._start_of(number)
                n, last = int(ring.n[row, slot]), float(ring.last[row, slot])
                total, low, high = (float(a[row, slot]) if n else 0.0 for a in (ring.sum, ring.min, ring.max))
                last_ms = start_ms + 1 + int(ring.last_ms[row, slot])
                changed.append(
                    Bucket(self.house, self._names[row], step_s, start_ms, n, total, low, high, last, last_ms)
                )
        return changed

    # --- what is known of the sensors

    def rhythms_s(self) -> dict[str, float]:
        """Return the usual interval of each sensor, in seconds; those not known yet are left out."""
        rhythms = self._rhythms().tolist()
        return {name: r for name, r in zip(self._names, rhythms, strict=True) if not math.isnan(r)}

    def newest_ms(self, signal: str) -> int | None:
        """Return the time of the newest reading of any sensor of a base signal; None where there was none."""
        rows = [row for name, row in self._row.items() if base_of(name) == signal]
        return int(self._high_ms[rows].max()) if rows else None

    def day_totals(self, signals: Collection[str], since: date) -> list[tuple[date, float]]:
        """Return what base signals added up to on each farm day from ``since`` on, days without a reading left out."""
        rows = [row for name, row in self._row.items() if base_of(name) in signals]
        ring = self._daily
        if not rows or ring.head is None:
            return []
        numbers = range(max(since.toordinal(), ring.head - ring.size + 1), ring.head + 1)
        where = np.array(rows)[:, None], np.array(numbers, np.int64) % ring.size
        counts = ring.n[where].sum(axis=0)
        totals = np.where(ring.n[where] > 0, ring.sum[where], 0.0).sum(axis=0)
        found = zip(numbers, totals.tolist(), counts.tolist(), strict=True)
        return [(date.fromordinal(number), total) for number, total, count in found if count]

    # --- features

    def inputs(
        self,
        specs: Sequence[InputSpec],
        at: datetime,
        flock: FlockContext | None,
        masked: Masks | None = None,
        *,
        ahead: timedelta | None = None,
    ) -> HouseInputs:
        """Return all tensors that a model wants, masks under their own names; see ``tensor``.

        ``ahead``: how long the horizon is that is judged in hindsight: grids that end with it are measured up to there.
        None: a forecast, where they are missing. So are those that are longer than the horizon.
        """
        tensors: dict[str, Floats] = {}
        measured: dict[tuple[str, int], float] = {}
        coverages = []
        for spec in specs:
            is_later = spec.grid is not None and spec.grid.end == "horizon"
            if is_later and spec.grid is not None and (ahead is None or spec.grid.length_s > ahead.total_seconds()):
                window = _nothing(spec, spec.grid)
            else:
                window = self.tensor(spec, at + (ahead or _NOW) if is_later else at, flock, masked)
            tensors[spec.name] = window.values.reshape(spec.row_shape)  # rows and columns, or laid out flat
            if spec.grid is not None and not is_later:
                coverages.append(window.coverage)
                measured |= {(signal, spec.grid.step_s): share for signal, share in window.measured.items()}
            if spec.mask is not None and window.mask is not None:
                tensors[spec.mask] = window.mask.reshape(spec.row_shape)
        return HouseInputs(tensors, min(coverages, default=1.0), measured)

    def tensor(
        self,
        spec: InputSpec,
        at: datetime,
        flock: FlockContext | None,
        masked: Masks | None = None,
    ) -> TensorWindow:
        """Return what ``spec`` asks for, as of ``at``: nothing later is looked at.

        ``masked``: base signal -> the times in which it was out of its course: steps that touch them are masked, so
        that an expectation does not follow a fault.
        """
        if spec.grid is None:
            facts = np.array([self._fact(name, at, flock) for name in spec.facts])
            return TensorWindow(as_dtype(spec.dtype, np.where(np.isfinite(facts), facts, spec.fill)), None, 1.0)
        plan = self._plan(id(spec), spec, spec.features)
        if not len(plan.rows):  # none of these sensors ever spoke: houses of which only the history is known
            unknown = as_dtype(spec.dtype, np.full((spec.grid.length, len(spec.features)), spec.fill))
            mask = as_dtype(spec.dtype, np.zeros(unknown.shape))
            return TensorWindow(unknown, mask, 0.0, dict.fromkeys((f.signal for f in spec.features), 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            columns = self._columns(plan, spec.grid, [to_ms(at)], flock, [masked or {}])
        values, cover, end_ms = (part[0] for part in columns)
        mask = np.isfinite(values)
        lived = int(np.searchsorted(end_ms, flock.placed_at_ms, side="right")) if flock else 0
        shares = cover[lived:].mean(axis=0).tolist() if lived < len(cover) else [0.0] * len(spec.features)
        measured = {feature.signal: share for feature, share in zip(spec.features, shares, strict=True)}
        cells = mask[lived:].size
        coverage = float((cover * mask)[lived:].sum()) / cells if cells else 0.0
        filled = np.where(mask, values, spec.fill)
        return TensorWindow(as_dtype(spec.dtype, filled), as_dtype(spec.dtype, mask), coverage, measured)

    def measure(
        self, features: tuple[Feature, ...], length_s: int, at: datetime, flock: FlockContext | None
    ) -> list[Measured]:
        """Return what each feature was in the ``length_s`` seconds up to ``at``: the actual beside an expectation."""
        plan = self._plan(id(features), features, features)
        with np.errstate(divide="ignore", invalid="ignore"):
            values, cover, _ = self._columns(plan, _one_step(length_s), [to_ms(at)], flock, [{}])
        return [Measured(float(v), float(c)) for v, c in zip(values[0, 0], cover[0, 0], strict=True)]

    def tensors(
        self, spec: InputSpec, ats: Sequence[datetime], flock: FlockContext | None, masked: Sequence[Masks]
    ) -> Floats:
        """Return what ``tensor`` gives as of each of some times, [times, …]: many at once cost a tenth of one by one.

        The times lie within some days of each other, in any order; each has its own ``masked``.
        """
        if spec.grid is None or spec.grid.align == "day":
            values = np.stack([self.tensor(spec, at, flock, m).values for at, m in zip(ats, masked, strict=True)])
            return values.astype(spec.dtype)
        plan = self._plan(id(spec), spec, spec.features)
        with np.errstate(divide="ignore", invalid="ignore"):
            values, _, _ = self._columns(plan, spec.grid, [to_ms(at) for at in ats], flock, masked)
        return as_dtype(spec.dtype, np.where(np.isfinite(values), values, spec.fill))

    def measures(
        self, features: tuple[Feature, ...], length_s: int, ats: Sequence[datetime], flock: FlockContext | None
    ) -> F64:
        """Return the values that ``measure`` gives as of each of some times, [times, features]; see ``tensors``."""
        plan = self._plan(id(features), features, features)
        with np.errstate(divide="ignore", invalid="ignore"):
            values, _, _ = self._columns(plan, _one_step(length_s), [to_ms(at) for at in ats], flock, [{} for _ in ats])
        return values[:, 0]

    # --- how it is done

    def _rows(self, keys: tuple[SeriesKey, ...]) -> NDArray[np.intp]:
        """Return the row of each key, -1 for what is not ours or not watched."""
        if keys is not self._keys:
            self._rows_of_keys = np.array(
                [
                    self._row_of(k.signal) if k.house == self.house and base_of(k.signal) in self._signals else -1
                    for k in keys
                ],
                np.intp,
            )
            self._keys = keys
        return self._rows_of_keys

    def _row_of(self, name: str) -> int:
        """Return the row of a sensor; a new one gets one."""
        row = self._row.get(name)
        if row is None:
            row = self._row[name] = len(self._names)
            self._names.append(name)
            self._fine.grow()
            self._daily.grow()
            self._high_ms = np.append(self._high_ms, np.int64(-1))
            signal = self._signals[base_of(name)]
            self._kinds = np.append(self._kinds, KINDS[signal.kind])
            if signal.kind is Kind.COUNTER:
                self._meters[row] = Meter(signal.low, signal.high)
            self._intervals = np.concatenate((self._intervals, np.full((1, RHYTHM_INTERVALS), NAN, np.float32)))
            self._interval_count = np.append(self._interval_count, 0)
            self._rhythm_s = np.append(self._rhythm_s, NAN)
        return row

    def _measured(self, row: NDArray[np.intp], value: F64, elapsed_s: F64) -> F64:
        """Return what each reading measured, NaN where that is unknown; sorted by (row, time).

        Levels are what they are; amounts too, but after a silence; a counter's totals become amounts. ``elapsed_s`` is
        the time since the reading before, NaN where there is none or the reading is late.
        """
        kinds = self._kinds[row]
        if (kinds == LEVEL).all():
            return value
        rhythm_s = self._rhythms()[row]
        is_silence = elapsed_s > SILENCE_RHYTHMS * rhythm_s
        held_back = (kinds == AMOUNT) & is_silence & (rhythm_s <= METER_RHYTHM_S)
        measured = np.where(held_back, NAN, value)
        for i in np.flatnonzero(kinds == COUNTER).tolist():
            meter = self._meters[int(row[i])]
            if math.isnan(elapsed_s[i]) and not math.isnan(meter.total):
                measured[i] = NAN  # late: the reading after it counted it already
                continue
            rise = meter.rise(float(value[i]))
            measured[i] = NAN if is_silence[i] else rise
        return measured

    def _note_times(self, row: NDArray[np.intp], at_ms: I64) -> F64:
        """Learn the intervals between readings, sorted by (row, time), and return them in s.

        NaN where there was no reading before, or a later one: a late reading teaches nothing.
        """
        begins = np.concatenate(([True], row[1:] != row[:-1]))
        high_ms = self._high_ms[row]
        before = np.concatenate(([0], at_ms[:-1]))
        before = np.maximum(np.where(begins, high_ms, before), high_ms)
        elapsed_s = np.where((before >= 0) & (at_ms > before), (at_ms - before) / 1000, NAN)
        ends = np.append(np.flatnonzero(begins)[1:], len(row)) - 1
        self._high_ms[row[ends]] = np.maximum(self._high_ms[row[ends]], at_ms[ends])
        new = np.isfinite(elapsed_s)
        if not new.any():
            return elapsed_s
        row = row[new]
        starts = np.flatnonzero(np.concatenate(([True], row[1:] != row[:-1])))
        sizes = np.diff(np.append(starts, len(row)))
        nth = np.arange(len(row)) - np.repeat(starts, sizes)
        newest = nth >= np.repeat(sizes, sizes) - RHYTHM_INTERVALS
        where = (self._interval_count[row] + nth) % RHYTHM_INTERVALS
        self._intervals[row[newest], where[newest]] = elapsed_s[new][newest]
        self._interval_count[row[starts]] += sizes
        self._rhythm_is_old = True
        return elapsed_s

    def _rhythms(self) -> F64:
        """Return the rhythm of each row in seconds, NaN where not known yet."""
        if self._rhythm_is_old:
            known = np.minimum(self._interval_count, RHYTHM_INTERVALS)
            middle = np.maximum((known - 1) // 2, 0)
            ordered = np.sort(self._intervals, axis=1)  # NaN last
            self._rhythm_s = ordered[np.arange(len(middle)), middle].astype(np.float64)
            self._rhythm_is_old = False
        return self._rhythm_s

    def _put(self, row: NDArray[np.intp], at_ms: I64, value: F64, total: F64) -> None:
        """Put what was measured into its two buckets."""
        number = -(-at_ms // BUCKET_MS)
        self._fine.add(row, number, (at_ms - 1) % BUCKET_MS, value, total)
        first, last = self._day_of(int(at_ms.min())), self._day_of(int(at_ms.max()))
        if last - first >= KEPT_DAYS:
            first = last - KEPT_DAYS + 1
        starts = np.array([self._start_of(day) for day in range(first, last + 1)], np.int64)
        day = np.searchsorted(starts, at_ms, side="left") - 1
        if first != last and day.min() < 0:  # older than what is kept
            kept = day >= 0
            row, at_ms, value, total, day = row[kept], at_ms[kept], value[kept], total[kept], day[kept]
        self._daily.add(row, first + day, at_ms - 1 - starts[day], value, total)

    def _start_of(self, ordinal: int) -> int:
        """Return the first instant of a farm day, given by its ordinal."""
        start_ms = self._day_starts.get(ordinal)
        if start_ms is None:
            if len(self._day_starts) > 4 * KEPT_DAYS:
                self._day_starts.clear()
            start_ms = self._day_starts[ordinal] = to_ms(self._days.start_of(date.fromordinal(ordinal)))
        return start_ms

    def _day_of(self, at_ms: int) -> int:
        """Return the ordinal of the farm day that holds ``at_ms``; its last instant is the next one's first."""
        ordinal = _EPOCH + (at_ms - 1) // DAY_MS
        while self._start_of(ordinal) >= at_ms:
            ordinal -= 1
        while self._start_of(ordinal + 1) < at_ms:
            ordinal += 1
        return ordinal

    def _steps(self, grid: Grid, ats_ms: Sequence[int], extra: int) -> Steps:
        """Return the steps of ``grid`` as of each time, one after the other, each with ``extra`` more before them.

        Farm days: as of one time.
        """
        length = grid.length + extra
        if grid.align == "day":
            [at_ms] = ats_ms
            today = self._day_of(at_ms)
            numbers = np.arange(today - length + 1, today + 1, dtype=np.int64)
            edges = np.array([*(self._start_of(day) for day in range(today - length + 1, today + 1)), at_ms], np.int64)
            return Steps(numbers[:, None], edges[:-1], edges[1:])
        each = grid.step_s // BUCKET_S
        last = np.array(ats_ms, np.int64) // BUCKET_MS  # the newest bucket that is over
        buckets = (last[:, None] + np.arange(1 - each * length, 1)).reshape(-1, each)
        end_ms = buckets[:, -1] * BUCKET_MS
        return Steps(buckets, end_ms - grid.step_s * 1000, end_ms)

    def _looks(self, plan: Plan, grid: Grid, steps: Steps) -> Iterator[Look]:
        """Yield what measures ``steps``: farm days, and the fine buckets where the last day is not over at its end."""
        rhythms = self._rhythms()[plan.rows]
        spoke_lately = self._high_ms[plan.rows] > steps.end_ms[-1] - SENSOR_GONE_MS
        if grid.align == "end":
            yield Look(self._fine, plan, steps, rhythms, spoke_lately)
            return
        is_over = steps.end_ms[-1] == self._start_of(int(steps.numbers[-1, 0]) + 1)
        whole = Steps(*steps) if is_over else Steps(*(part[:-1] for part in steps))
        if len(whole.end_ms):
            yield Look(self._daily, plan, whole, rhythms, spoke_lately)
        if not is_over:
            begun_ms, now_ms = int(steps.start_ms[-1]), int(steps.end_ms[-1])
            numbers = np.arange(-(-begun_ms // BUCKET_MS) + 1, now_ms // BUCKET_MS + 1, dtype=np.int64)
            numbers = numbers if len(numbers) else np.array([NO_BUCKET])
            yield Look(
                self._fine, plan, Steps(numbers[None], steps.start_ms[-1:], steps.end_ms[-1:]), rhythms, spoke_lately
            )

    def _plan(self, key: int, owner: object, features: tuple[Feature, ...]) -> Plan:
        """Return the plan for ``features``; kept by the identity of the one who asks, who is kept alive for it."""
        kept = self._plans.get(key)
        if kept is not None and kept[0] is owner and kept[1].sensors == len(self._names):
            return kept[1]
        wanted = {f.signal for f in features}
        rows = [row for row, name in enumerate(self._names) if base_of(name) in wanted]
        bases = [base_of(self._names[row]) for row in rows]
        positions = [np.array([i for i, base in enumerate(bases) if base == f.signal], np.intp) for f in features]
        is_amount = self._kinds[rows] != LEVEL
        if len(self._plans) > PLANS_KEPT:
            self._plans.clear()
        least = [DEFAULT_MIN_COVERAGE if f.min_coverage is None else f.min_coverage for f in features]
        units = [signal.unit if (signal := self._signals.get(f.signal)) else None for f in features]
        plan = Plan(
            features,
            len(self._names),
            np.array(rows, np.intp),
            positions,
            is_amount[:, None],
            np.array(least)[:, None, None],
            [GRAMS.get(unit or "", 1.0) for unit in units],
        )
        self._plans[key] = (owner, plan)
        return plan

    def _columns(
        self, plan: Plan, grid: Grid, ats_ms: Sequence[int], flock: FlockContext | None, masked: Sequence[Masks]
    ) -> tuple[F64, F64, I64]:
        """Return values (NaN where masked) and coverages [times, steps, features], and the ends [times, steps]."""
        times, extra = len(ats_ms), int(any(f.aggregate == "gain" for f in plan.features))
        steps = self._steps(grid, ats_ms, extra)
        looks = list(self._looks(plan, grid, steps))
        start_ms, end_ms = (part.reshape(times, -1)[:, extra:] for part in (steps.start_ms, steps.end_ms))
        scale = Scale(start_ms.reshape(-1), end_ms.reshape(-1), flock)
        shape = (len(plan.features), times, grid.length)
        values, covers = np.empty(shape), np.empty(shape)
        for i, feature in enumerate(plan.features):
            parts = [look.column(feature, plan.of_feature[i]) for look in looks]
            value, cover = parts[0] if len(parts) == 1 else (np.concatenate(part) for part in zip(*parts, strict=True))
            if extra:
                value, cover = value.reshape(times, -1), cover.reshape(times, -1)
                is_gain = feature.aggregate == "gain"
                value = np.diff(value) if is_gain else value[:, 1:]
                cover = np.minimum(cover[:, 1:], cover[:, :-1]) if is_gain else cover[:, 1:]
                value, cover = value.reshape(-1), cover.reshape(-1)
            values[i] = scale.applied(feature, value, plan.grams[i]).reshape(times, -1)
            covers[i] = cover.reshape(times, -1)
            for time, masks in enumerate(masked):
                for begin, end in masks.get(feature.signal, ()):
                    values[i, time, (end_ms[time] > to_ms(begin)) & (start_ms[time] < to_ms(end))] = NAN
        values[(covers < plan.least) | (covers == 0)] = NAN
        return values.transpose(1, 2, 0), covers.transpose(1, 2, 0), end_ms

    def _fact(self, name: str, at: datetime, flock: FlockContext | None) -> float:
        """Return a fact as of ``at``; NaN where it is not known."""
        if name.startswith("hour_"):
            turn = 2 * math.pi * self._days.hour_of(at) / 24
            return math.sin(turn) if name == "hour_sin" else math.cos(turn)
        if name == "day_fraction":
            day = self._day_of(to_ms(at) + 1)
            return (to_ms(at) - self._start_of(day)) / (self._start_of(day + 1) - self._start_of(day))
        if flock is None:
            return NAN
        return fact_of(flock, name, at, self._days)
