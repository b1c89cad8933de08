"""Single sensors at their own rhythm: their last readings, for models that score each reading as it comes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent.domain import from_ms
from agent.signals import base_of
from agent.window.buckets import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from agent.clock import FarmDays
    from agent.manifest import InputSpec
    from agent.readings import Readings

    Floats = NDArray[np.float32] | NDArray[np.float64]
    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]

KEPT_OF_A_HOUSE = 65_536
"""Readings of all its sensors together, as many as the models want: some 70 bytes each with the room made for more, so
4.5 MB at the most. 32 sensors of the shipped bundle's 2,048 readings."""

GONE_MS = 3 * DAY_MS  # a sensor that has not spoken for so long makes room for another
SCORED_AT_ONCE = 64  # windows in one run: of 4,032 readings and two columns, 2 MB
WEEK_DAYS = 7
MONDAY_MS = 4 * DAY_MS  # 1970 began on a Thursday
EVERY = "*"


@dataclass(slots=True)
class _Series:
    """The readings of one sensor in the order of their times; room is made for many at a time."""

    at_ms: I64
    value: F64
    is_new: NDArray[np.bool_]  # not scored yet
    count: int = 0
    begin: int = 0  # of what is kept

    @property
    def newest_ms(self) -> int:
        """The time of its newest reading; a series that is kept has one."""
        return int(self.at_ms[self.count - 1])

    def add(self, at_ms: I64, value: F64, length: int) -> None:
        """Take readings, sorted by time; ``length`` readings before the oldest unscored one are kept."""
        if self.count + len(at_ms) > len(self.at_ms):
            self._make_room(len(at_ms), length)
        end = self.count + len(at_ms)
        self.at_ms[self.count : end], self.value[self.count : end] = at_ms, value
        self.is_new[self.count : end] = True
        is_late = self.count > self.begin and at_ms[0] <= self.at_ms[self.count - 1]
        self.count = end
        if is_late:
            order = np.argsort(self.at_ms[self.begin : end], kind="stable") + self.begin
            for column in (self.at_ms, self.value, self.is_new):
                column[self.begin : end] = column[order]

    def _make_room(self, more: int, length: int) -> None:
        kept = slice(self._needed_from(length), self.count)
        size = 2 * (kept.stop - kept.start + more + length)
        for name in ("at_ms", "value", "is_new"):
            old = getattr(self, name)
            new = np.zeros(size, old.dtype)
            new[: kept.stop - kept.start] = old[kept]
            setattr(self, name, new)
        self.begin, self.count = 0, kept.stop - kept.start

    def _needed_from(self, length: int) -> int:
        unscored = np.flatnonzero(self.is_new[self.begin : self.count])
        first = self.begin + int(unscored[0]) if len(unscored) else self.count
        return max(self.begin, first - length + 1)


class SeriesWindows:
    """The last readings of each sensor of a house that a model scores, whatever their quality: that is what it says."""

    def __init__(self, length: int, signals: Collection[str], *, scores_each: bool = True) -> None:
        """Keep ``length`` readings of each sensor that ``signals`` name, or whose base signal they do; ``*``: all.

        Without ``scores_each`` only the newest reading is to be scored: a backlog costs no more than a quiet hour.
        """
        self._length, self._signals, self._scores_each = length, frozenset(signals), scores_each
        self._series: dict[str, _Series] = {}
        self.most = max(KEPT_OF_A_HOUSE // length, 1) if length else 0  # sensors
        self.left_out: set[str] = set()  # sensors for which there was no room

    def add(self, readings: Readings) -> None:
        """Take readings, all of one house; what is no number is passed over."""
        if not self._length:
            return
        finite = np.isfinite(readings.value)
        for number in np.unique(readings.key[finite]).tolist():
            name = readings.keys[number].signal
            if not is_among(self._signals, name):
                continue
            mine = np.flatnonzero(finite & (readings.key == number))
            mine = mine[np.argsort(readings.at_ms[mine], kind="stable")]
            series = self._series.get(name) or self._begin(name, int(readings.at_ms[mine[-1]]))
            if series is None:
                continue
            series.add(readings.at_ms[mine], readings.value[mine], self._length)
            if not self._scores_each:
                series.is_new[series.begin : series.count - 1] = False

    def _begin(self, name: str, at_ms: int) -> _Series | None:
        """Return room for a sensor that speaks at ``at_ms``; None where the others need all there is."""
        if len(self._series) >= self.most:
            gone = min(self._series, key=lambda other: self._series[other].newest_ms)
            if self._series[gone].newest_ms > at_ms - GONE_MS:
                self.left_out.add(name)
                return None
            del self._series[gone]
        self.left_out.discard(name)
        series = self._series[name] = _Series(np.empty(0, np.int64), np.empty(0, np.float64), np.empty(0, np.bool_))
        return series

    def unscored(
        self, specs: Sequence[InputSpec], signals: Collection[str], days: FarmDays
    ) -> Iterator[tuple[str, I64, dict[str, Floats]]]:
        """Yield sensor, times and tensors [readings, rows, columns] of what was not scored yet, some at a time."""
        for name, series in sorted(self._series.items()):
            if not is_among(signals, name):
                continue
            new = np.flatnonzero(series.is_new[: series.count])
            for first in range(0, len(new), SCORED_AT_ONCE):
                ends = new[first : first + SCORED_AT_ONCE]
                tensors: dict[str, Floats] = {}
                for spec in specs:
                    tensors |= _tensors(spec, series, ends, days)
                yield name, series.at_ms[ends], tensors

    def scored(self) -> None:
        """Note that every model has scored what there is."""
        for series in self._series.values():
            series.is_new[: series.count] = False


def is_among(signals: Collection[str], name: str) -> bool:
    """Tell whether a sensor is one of ``signals``, by its own name, its base signal's, or ``*``."""
    return EVERY in signals or name in signals or base_of(name) in signals


def _tensors(spec: InputSpec, series: _Series, ends: I64, days: FarmDays) -> Mapping[str, Floats]:
    """Return the windows that end with the readings ``ends``, and their mask where the model wants one."""
    assert spec.series is not None  # noqa: S101  # the manifest of a scorer has no other inputs
    rows = ends[:, None] - np.arange(spec.series.length - 1, -1, -1)
    is_there = rows >= series.begin
    rows = np.maximum(rows, series.begin)
    at_ms, value = series.at_ms[rows], series.value[rows]
    columns = []
    for column in spec.series.columns:
        match column:
            case "value":
                found = value
            case "relative":
                found = value - value[:, -1:]
            case "age_s":
                found = (at_ms[:, -1:] - at_ms) / 1000
            case _:
                found = _fraction(at_ms, days, 1 if column == "day_fraction" else WEEK_DAYS)
        columns.append(np.where(is_there, found, spec.fill))
    shape = len(ends), *spec.row_shape
    tensors = {spec.name: as_dtype(spec.dtype, np.stack(columns, axis=-1).reshape(shape))}
    if spec.mask is not None:
        tensors[spec.mask] = as_dtype(spec.dtype, np.repeat(is_there[..., None], len(columns), axis=-1).reshape(shape))
    return tensors


def as_dtype(dtype: str, values: F64 | NDArray[np.bool_]) -> Floats:
    """Return ``values`` in the type that a model wants."""
    return values.astype(np.float32) if dtype == "float32" else values.astype(np.float64)


def _fraction(at_ms: I64, days: FarmDays, period_days: int) -> F64:
    """Return where in the day or week of the farm's clock each time lies, 0 to 1; one offset from UTC for a window."""
    offsets = [from_ms(newest).astimezone(days.zone).utcoffset() for newest in at_ms[:, -1].tolist()]
    offset_ms = np.array([round(offset.total_seconds() * 1000) for offset in offsets if offset is not None], np.int64)
    period_ms = period_days * DAY_MS
    return np.asarray(((at_ms + offset_ms[:, None] - MONDAY_MS) % period_ms) / period_ms, np.float64)
