"""Buckets of what the sensors measured: a ring of the newest ones, and the row of each in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from agent.manifest import BUCKET_S, DAY_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]

BUCKET_MS = BUCKET_S * 1000
DAY_MS = DAY_S * 1000
NO_BUCKET = -1  # a number that is never kept


class Bucket(NamedTuple):
    """What is kept of one sensor in one step: the store's row, and how a window is rebuilt after a restart.

    ``step_s`` is 600, or 86400 for a farm day; ``last`` is the newest value, a counter's own total, and ``last_ms`` its
    time (0: not known).
    """

    house: str
    signal: str
    step_s: int
    start_ms: int
    n: int
    sum: float
    min: float
    max: float
    last: float
    last_ms: int = 0


class Ring:
    """Buckets of several sensors by number, the newest ``size`` numbers of them; arrays are [sensor, slot]."""

    def __init__(self, size: int, sum_dtype: type[np.float32 | np.float64]) -> None:
        self.size = size
        self.head: int | None = None  # the newest number
        self.n = np.zeros((0, size), np.uint32)
        self.sum = np.zeros((0, size), sum_dtype)
        self.min = np.zeros((0, size), np.float32)
        self.max = np.zeros((0, size), np.float32)
        self.last = np.zeros((0, size), np.float64)  # a meter's total has more digits than a float32
        self.last_ms = np.zeros((0, size), np.int32)  # within its bucket
        self.dirty = np.zeros((0, size), np.bool_)

    def grow(self) -> None:
        """Make room for one more sensor."""
        for name in ("n", "sum", "min", "max", "last", "last_ms", "dirty"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate((old, np.zeros((1, self.size), old.dtype))))

    def advance(self, number: int) -> int:
        """Return the newest number, now at least ``number``; slots taken over are emptied of what was older."""
        if self.head is None:
            self.head = number
        if number <= self.head:
            return self.head
        new = np.arange(max(self.head + 1, number - self.size + 1), number + 1) % self.size
        self.n[:, new] = 0
        self.last_ms[:, new] = -1
        self.dirty[:, new] = False
        self.head = number
        return number

    def add(self, row: NDArray[np.intp], number: I64, offset_ms: I64, value: F64, total: F64) -> None:
        """Put values into their buckets; sorted by (row, time), ``offset_ms`` being the time within the bucket.

        ``total`` is what ``last`` keeps. A NaN value is no measurement: it moves ``last`` only.
        """
        if len(row) == 0:
            return
        head = self.advance(int(number.max()))
        kept = number > head - self.size
        if not kept.all():
            row, number, offset_ms = row[kept], number[kept], offset_ms[kept]
            value, total = value[kept], total[kept]
            if len(row) == 0:
                return
        begins = np.concatenate(([True], (row[1:] != row[:-1]) | (number[1:] != number[:-1])))
        starts = np.flatnonzero(begins)
        ends = np.append(starts[1:], len(row)) - 1
        measured = np.isfinite(value)
        plain = bool(measured.all())
        count = ends - starts + 1 if plain else np.add.reduceat(measured.astype(np.int64), starts)
        where = row[starts], number[starts] % self.size
        n_before = self.n[where]
        fresh = n_before == 0
        low = np.minimum.reduceat(value if plain else np.where(measured, value, np.inf), starts)
        high = np.maximum.reduceat(value if plain else np.where(measured, value, -np.inf), starts)
        amount = np.add.reduceat(value if plain else np.where(measured, value, 0.0), starts)
        newest = offset_ms[ends]
        self.n[where] = n_before + count.astype(np.uint32)
        self.sum[where] = np.where(fresh, amount, self.sum[where] + amount)
        self.min[where] = np.where(fresh, low, np.minimum(self.min[where], low))
        self.max[where] = np.where(fresh, high, np.maximum(self.max[where], high))
        later = newest >= self.last_ms[where]
        self.last[where] = np.where(later, total[ends], self.last[where])
        self.last_ms[where] = np.where(later, newest, self.last_ms[where])
        self.dirty[where] = True

    def empty(self, row: int, number: int) -> tuple[int, float] | None:
        """Take out what a bucket holds, and return how many values that were, and their sum; None: none."""
        slot = number % self.size
        n = int(self.n[row, slot])
        if n == 0:
            return None
        self.n[row, slot] = 0
        self.dirty[row, slot] = True
        return n, float(self.sum[row, slot])

    def subtract(self, row: int, number: int, n: int, amount: float, *, rest: tuple[float, float] | None) -> None:
        """Take ``n`` values that add up to ``amount`` out of a bucket; ``rest``: least and most of those that stay."""
        if self.head is None or not self.head - self.size < number <= self.head:
            return
        slot = number % self.size
        left = int(self.n[row, slot]) - n
        self.dirty[row, slot] = True
        self.n[row, slot] = max(left, 0)
        self.sum[row, slot] -= amount
        if rest is not None:
            self.min[row, slot], self.max[row, slot] = rest

    def extremes(self, row: int, first: int, last: int) -> tuple[float, float] | None:
        """Return the least and the most of some buckets, both ends included; None unless all are kept and some hold."""
        if self.head is None or first <= self.head - self.size:
            return None
        slots = np.arange(first, min(last, self.head) + 1) % self.size
        slots = slots[self.n[row, slots] > 0]
        return (float(self.min[row, slots].min()), float(self.max[row, slots].max())) if len(slots) else None

    def exported(self) -> Iterator[tuple[int, int, int]]:
        """Yield (row, number, slot) of what changed since the last time, and forget that it did."""
        if self.head is None:
            return
        rows, slots = np.nonzero(self.dirty)
        for row, slot in zip(rows.tolist(), slots.tolist(), strict=True):
            yield row, self.head - (self.head - slot) % self.size, slot
        self.dirty[:] = False
