"""Which readings the store already holds, without an index over them. Pure: what is on disk is asked for by callables.

Nearly every reading is newer than all others of its series, and that one comparison, made for a whole block at once,
proves it new. Only the rest is looked up: by the runs of row numbers that hold its minute of event time, and, where
rows were pruned after sealing, among the times kept of them. A unique index would write 1,200 to 2,500 bytes for each
reading (its pages lie far apart, and every commit rewrites them); this writes a few rows a minute.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    Longs = NDArray[np.int64]

SLOT_MS = 60_000  # one minute of event time: a house computer sends every signal about once in it
RUN_GAP = (
    4_096  # rows between two rows of one slot that still make one run: reading them over costs under a millisecond
)
RUNS_KEPT = 256  # slots whose last run stays in memory, to be lengthened rather than begun anew
BEFORE_ALL = np.iinfo(np.int64).min


class Run(NamedTuple):
    """Rows ``first_seq`` to ``last_seq`` (inclusive) hold readings of ``slot``, and maybe others."""

    slot: int
    first_seq: int
    last_seq: int


Rows = tuple[int, int, int, int]
"""What to load: first and last row number, first and last time in ms, all inclusive."""


@dataclass(frozen=True, slots=True)
class Disk:
    """How the store looks into itself for the readings that are not newer than all others of their series."""

    runs: Callable[
        [Sequence[int]], Iterable[tuple[int, int]]
    ]  # slots -> the (first, last) row numbers written for them
    rows: Callable[[Rows], Iterable[tuple[int, int, float]]]  # -> (series, at_ms, value)
    sealed: Callable[[int, int], Longs]  # series, at_ms -> the times kept of pruned rows around it, ascending


@dataclass(frozen=True, slots=True)
class Verdict:
    """What of a block is new; masks are in its order of arrival."""

    new: NDArray[np.bool_]
    late: NDArray[np.bool_]  # older than the newest of its series that came before it; meaningful where new
    duplicates: int  # the same reading again
    conflicts: tuple[tuple[int, float], ...]  # (index, the value that came first): same time, another value


@dataclass(slots=True)
class Seen:
    """The newest time of every series, and where on disk to look for what is older.

    ``judge`` asks and changes nothing; ``add`` is told what was committed. Series are small integers.
    """

    disk: Disk
    _high_ms: Longs = field(default_factory=lambda: np.full(64, BEFORE_ALL, np.int64))
    _high_value: NDArray[np.float64] = field(default_factory=lambda: np.full(64, np.nan))  # nan: not known
    _runs: dict[int, Run] = field(default_factory=dict)  # the last run of each recent slot, by time of its last change
    _unsaved: set[int] = field(default_factory=set)  # slots whose run in _runs is not on disk, or shorter there
    _closed: list[Run] = field(default_factory=list)  # unsaved runs that will not grow any more
    _changed: set[int] = field(default_factory=set)  # series whose newest time is not on disk

    @property
    def newest_ms(self) -> int:
        """The newest time of all series; far in the past where there is none."""
        return int(self._high_ms.max())

    def high_ms(self, series: int) -> int | None:
        """Return the newest time of a series; None where it has none."""
        high_ms = int(self._high_ms[series]) if series < len(self._high_ms) else BEFORE_ALL
        return None if high_ms == BEFORE_ALL else high_ms

    def set_high(self, series: int, high_ms: int) -> None:
        """Take over from disk the newest time of a series."""
        self._make_room(series)
        self._high_ms[series] = high_ms

    def judge(self, series: Longs, at_ms: Longs, value: NDArray[np.float64]) -> Verdict:
        """Return what of a block (columns of one length) the store does not hold yet."""
        n = len(series)
        if n == 0:
            return Verdict(np.zeros(0, np.bool_), np.zeros(0, np.bool_), 0, ())
        self._make_room(int(series.max()))
        order = np.argsort(series, kind="stable")
        s, a = series[order], at_ms[order]
        begins = np.empty(n, np.bool_)
        begins[0] = True
        np.not_equal(s[1:], s[:-1], out=begins[1:])
        before = np.empty(n, np.int64)
        before[1:] = a[:-1]
        before[begins] = self._high_ms[s[begins]]
        if bool((a > before).all()):  # each newer than the one before it: the common case
            return Verdict(np.ones(n, np.bool_), np.zeros(n, np.bool_), 0, ())
        late = np.empty(n, np.bool_)
        late[order] = a < self._newest_before(s, a, begins)
        return self._judge_each(series, at_ms, value, late)

    def _newest_before(self, s: Longs, a: Longs, begins: NDArray[np.bool_]) -> Longs:
        """Return, for rows sorted by series, the newest time of the series before each."""
        newest = np.empty_like(a)
        starts = np.flatnonzero(begins).tolist()
        for first, end in zip(starts, [*starts[1:], len(a)], strict=True):
            newest[first] = self._high_ms[s[first]]
            newest[first + 1 : end] = np.maximum.accumulate(np.maximum(a[first : end - 1], newest[first]))
        return newest

    def _judge_each(self, series: Longs, at_ms: Longs, value: NDArray[np.float64], late: NDArray[np.bool_]) -> Verdict:
        """Judge a block in which some are not newer than all before them."""
        n = len(series)
        order = np.lexsort((at_ms, series))  # stable: among equal (series, at) the first to arrive leads
        leads = np.empty(n, np.bool_)
        leads[0] = True
        leads[1:] = (np.diff(series[order]) != 0) | (np.diff(at_ms[order]) != 0)
        leader = order[np.flatnonzero(leads)[np.cumsum(leads) - 1]]  # for each row of `order`
        doubtful = order[leads & (at_ms[order] <= self._high_ms[series[order]])]
        held = self._held(series[doubtful].tolist(), at_ms[doubtful].tolist())
        new = np.zeros(n, np.bool_)
        new[order[leads]] = True
        first_value = value.copy()  # of a leading row: the value that came first, here or on disk
        for index in doubtful.tolist():
            key = int(series[index]), int(at_ms[index])
            if key in held:
                new[index] = False
                stored = held[key]
                first_value[index] = np.nan if stored is None else stored
        again = ~new[order]
        # nan: the row was sealed and pruned, its value is in the lake; the same time is the same reading
        stands = first_value[leader]
        differs = again & (value[order] != stands) & ~np.isnan(stands)
        conflicts = sorted(zip(order[differs].tolist(), stands[differs].tolist(), strict=True))
        return Verdict(new, late, int(again.sum()) - len(conflicts), tuple(conflicts))

    def _held(self, series: list[int], at_ms: list[int]) -> dict[tuple[int, int], float | None]:
        """Return those of some (series, at) that are stored, with the value, or None where only the time was kept."""
        held: dict[tuple[int, int], float | None] = {}
        wanted: set[tuple[int, int]] = set()
        for s, a in zip(series, at_ms, strict=True):
            newest = float(self._high_value[s])
            if a == self._high_ms[s] and not math.isnan(newest):
                held[s, a] = newest
            else:
                wanted.add((s, a))
        for rows in self._where(wanted):
            for s, a, v in self.disk.rows(rows):
                if (s, a) in wanted:
                    held[s, a] = v
        for s, a in sorted(wanted - held.keys()):
            times = self.disk.sealed(s, a)
            at = int(np.searchsorted(times, a))
            if at < len(times) and times[at] == a:
                held[s, a] = None
        return held

    def _where(self, wanted: set[tuple[int, int]]) -> Iterable[Rows]:
        """Return the rows to load for some (series, at): the runs of their slots, joined where they touch."""
        if not wanted:
            return []
        times = [a for _, a in wanted]
        first_ms, last_ms = min(times), max(times)
        slots = sorted({a // SLOT_MS for a in times})
        runs = [*self.disk.runs(slots)]
        runs += [(run.first_seq, run.last_seq) for slot in slots if (run := self._runs.get(slot))]
        if self._closed:
            asked = set(slots)
            runs += [(run.first_seq, run.last_seq) for run in self._closed if run.slot in asked]
        return [(first, last, first_ms, last_ms) for first, last in joined(runs)]

    def add(self, series: Longs, at_ms: Longs, value: NDArray[np.float64], first_seq: int) -> None:
        """Take note of committed rows; row ``i`` has the number ``first_seq + i``."""
        if len(series) == 0:
            return
        self._make_room(int(series.max()))
        np.maximum.at(self._high_ms, series, at_ms)
        newest = at_ms == self._high_ms[series]
        self._high_value[series[newest]] = value[newest]
        self._changed.update(series[newest].tolist())
        slots = at_ms // SLOT_MS
        if slots.min() == slots.max():  # live: all of the present minute
            self._lengthen(Run(int(slots[0]), first_seq, first_seq + len(slots) - 1))
            return
        order = np.argsort(slots, kind="stable")
        breaks = np.flatnonzero((np.diff(slots[order]) != 0) | (np.diff(order) > RUN_GAP)) + 1
        firsts, lasts = order[np.r_[0, breaks]], order[np.r_[breaks - 1, len(order) - 1]]
        for slot, first, last in zip(slots[firsts].tolist(), firsts.tolist(), lasts.tolist(), strict=True):
            self._lengthen(Run(slot, first_seq + first, first_seq + last))

    def _lengthen(self, run: Run) -> None:
        """Join a run to the last one of its slot, or begin a new one."""
        last = self._runs.pop(run.slot, None)
        if last is not None and run.first_seq - last.last_seq <= RUN_GAP:
            run = Run(run.slot, last.first_seq, run.last_seq)
        elif last is not None and run.slot in self._unsaved:
            self._closed.append(last)
        self._runs[run.slot] = run
        self._unsaved.add(run.slot)

    def unsaved(self) -> tuple[list[Run], list[tuple[int, int]]]:
        """Return what the disk should learn: runs, each replacing that of its slot and first_seq; (series, high_ms)."""
        runs = [*self._closed, *(self._runs[slot] for slot in sorted(self._unsaved))]
        return runs, [(series, int(self._high_ms[series])) for series in sorted(self._changed)]

    def saved(self) -> None:
        """Take note that what ``unsaved`` returned is committed."""
        self._closed.clear()
        self._unsaved.clear()
        self._changed.clear()
        for slot in list(self._runs)[:-RUNS_KEPT]:
            del self._runs[slot]

    @property
    def unsaved_runs(self) -> int:
        """How many runs are only in memory."""
        return len(self._closed) + len(self._unsaved)

    def forget(self, first_slot: int, end_slot: int) -> None:
        """Take note that the rows of these slots (end exclusive) were pruned; their runs must have been saved."""
        for slot in [slot for slot in self._runs if first_slot <= slot < end_slot]:
            del self._runs[slot]

    def _make_room(self, series: int) -> None:
        if series < len(self._high_ms):
            return
        more = max(series + 1, 2 * len(self._high_ms)) - len(self._high_ms)
        self._high_ms = np.concatenate([self._high_ms, np.full(more, BEFORE_ALL, np.int64)])
        self._high_value = np.concatenate([self._high_value, np.full(more, np.nan)])


def joined(runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return inclusive ranges in order, those that touch or overlap joined to one."""
    result: list[tuple[int, int]] = []
    for first, last in sorted(runs):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return result


def pack_times(times: Longs) -> bytes:
    """Pack ascending times in ms that span less than 49 days: their distances, like bytes together, deflated.

    A series sampled each minute to the second takes a few bytes a day, one with jitter about 1.5 bytes a reading.
    """
    distances = np.diff(times).astype("<u4").view(np.uint8).reshape(-1, 4)
    return int(times[0]).to_bytes(8, "little", signed=True) + zlib.compress(distances.T.tobytes())


def unpack_times(packed: bytes) -> Longs:
    """Return the times that ``pack_times`` packed."""
    planes = np.frombuffer(zlib.decompress(packed[8:]), np.uint8).reshape(4, -1)
    distances = np.ascontiguousarray(planes.T).view("<u4").reshape(-1)
    return np.cumsum(np.concatenate([np.frombuffer(packed[:8], "<i8"), distances.astype(np.int64)]))
