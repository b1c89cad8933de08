"""Forgetting: what is sealed, observed and old, and the least of what never was sealed and finds no room.

Of readings that go the times are kept, for ``keep_days``. Those that were never sealed leave rollups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent.rollup import STEPS_MS, coarser, of_readings
from agent.seen import joined
from agent.store.index import SEALED_PERIOD_MS, SLOTS_PER_PERIOD
from agent.store.rows import BLOCK_ROWS, INSERT_EVENT, INSERT_ROLLUP, SET_META, as_json, meta_of, parts

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from agent.seen import Rows
    from agent.store.index import Index

ROLLUPS = "readings_15min"
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
PRUNE_ROWS = 200_000  # in one call: half a second of work, in which no reading is taken
JUDGED_KEPT_MS = 30 * DAY_MS  # of what is in the lake: a flock's life, nearly; the newest of each rule stays
FITNESS_KEPT_MS = 60 * DAY_MS  # what was counted of models by day: what a flock adds up to stays
BUCKETS_KEPT_MS = {600: 14 * DAY_MS, 86_400: 120 * DAY_MS}  # 120 days: the longest flock twice over


@dataclass(frozen=True, slots=True)
class Span:
    """Which readings may go."""

    after_seq: int
    up_to_seq: int
    because: str | None = None  # they were never sealed: why they leave rollups

    @property
    def rows(self) -> int:
        """How many numbers it has."""
        return max(0, self.up_to_seq - self.after_seq)


@dataclass(frozen=True, slots=True)
class Pruner:
    """Deletes in small transactions of the store's, each of them whole in itself."""

    db: sqlite3.Connection
    index: Index
    transaction: Callable[[str], AbstractContextManager[None]]

    def prune_buckets(self, newest_ms: int) -> None:
        """Delete what the windows no longer need when the newest reading is of ``newest_ms``."""
        with self.transaction("prune buckets"):
            self.db.executemany(
                "DELETE FROM buckets WHERE step_s = ? AND start_ms < ?",
                [(step_s, newest_ms - kept_ms) for step_s, kept_ms in BUCKETS_KEPT_MS.items()],
            )
            self.db.execute("DELETE FROM fitness_days WHERE start_ms < ?", (newest_ms - FITNESS_KEPT_MS,))

    def prune_readings(
        self, span: Span, end_ms: int, large_end_ms: int, max_size_mb: int, at_ms: int, limit: int = PRUNE_ROWS
    ) -> int:
        """Delete whole periods of a span of readings, oldest first; return how many readings.

        What the index knows must be saved.

        Args:
            span: of rows.
            end_ms: periods that end before it go.
            large_end_ms: those that end before it, too, while the database is larger than ``max_size_mb``.
            max_size_mb: of the database.
            at_ms: the farm's time.
            limit: of readings, about.
        """
        pruned = 0
        for period in self._periods():
            period_end_ms = (period + 1) * SEALED_PERIOD_MS
            too_large = period_end_ms <= large_end_ms and self.size_mb() > max_size_mb
            if pruned >= limit or not (period_end_ms <= end_ms or too_large):
                break
            pruned += self._prune_period(period, span, limit - pruned, at_ms)
        return pruned

    def _periods(self) -> Iterator[int]:
        """Yield the periods that have rows, oldest first."""
        slot: int | None = self.db.execute("SELECT min(slot) FROM slots").fetchone()[0]
        while slot is not None:
            period = slot // SLOTS_PER_PERIOD
            yield period
            end = ((period + 1) * SLOTS_PER_PERIOD,)
            slot = self.db.execute("SELECT min(slot) FROM slots WHERE slot >= ?", end).fetchone()[0]

    def _prune_period(self, period: int, span: Span, limit: int, at_ms: int) -> int:
        first_slot, end_slot = period * SLOTS_PER_PERIOD, (period + 1) * SLOTS_PER_PERIOD
        first_ms, last_ms = period * SEALED_PERIOD_MS, (period + 1) * SEALED_PERIOD_MS - 1
        runs = self.db.execute(
            "SELECT first_seq, last_seq FROM slots WHERE slot >= ? AND slot < ?", (first_slot, end_slot)
        )
        pruned = 0
        for run_first, run_last in joined(runs):
            # the times of each series are packed anew for each part: large parts, as far as memory allows
            size = PRUNE_ROWS if span.because is None else BLOCK_ROWS
            for first, last in parts(max(run_first, span.after_seq + 1), min(run_last, span.up_to_seq), size):
                pruned += self._prune_rows(period, (first, last, first_ms, last_ms), span.because, at_ms)
                if pruned >= limit:
                    return pruned
        with self.transaction("prune readings"):
            self.db.execute(
                "DELETE FROM slots WHERE slot >= ? AND slot < ? AND first_seq > ? AND last_seq <= ?",
                (first_slot, end_slot, span.after_seq, span.up_to_seq),
            )
        self.index.seen.forget(first_slot, end_slot)
        return pruned

    def _prune_rows(self, period: int, rows: Rows, because: str | None, at_ms: int) -> int:
        """Put the times of some rows of a period with the sealed ones, and delete the rows."""
        series, at = self.index.identities(rows)
        if len(series) == 0:
            return 0
        order = np.lexsort((at, series))
        series, at = series[order], at[order]
        begins = np.flatnonzero(np.diff(series, prepend=-1)).tolist()
        with self.transaction("prune readings"):
            if because is not None:
                self._roll_up(rows, because, at_ms)
            for begin, end in zip(begins, [*begins[1:], len(series)], strict=True):
                self.index.seal_times(period, int(series[begin]), at[begin:end])
            self.db.execute("DELETE FROM readings WHERE seq BETWEEN ? AND ? AND at_ms BETWEEN ? AND ?", rows)
        self.index.sealed_anew()
        return len(series)

    def _roll_up(self, rows: Rows, because: str, at_ms: int) -> None:
        """Leave rollups of some rows, and an event that says so."""
        series, quality, at, value, seq = zip(
            *self.db.execute(
                "SELECT series, quality, at_ms, value, seq FROM readings"
                " WHERE seq BETWEEN ? AND ? AND at_ms BETWEEN ? AND ?",
                rows,
            ),
            strict=True,
        )
        figures = np.array(series, np.int64), np.array(quality, np.int64), np.array(at, np.int64)
        raw = of_readings(*figures, np.array(value, np.float64), np.array(seq, np.int64))
        left = coarser(raw, STEPS_MS[ROLLUPS])
        columns = (left.series, left.at_ms, left.quality, left.n, left.min, left.max, left.sum)
        self.db.executemany(INSERT_ROLLUP, zip(*(column.tolist() for column in columns), strict=True))
        detail = {"to": ROLLUPS, "readings": len(raw), "rows": len(left), "reason": because}
        self.db.execute(INSERT_EVENT, (at_ms, "degraded", None, None, min(at), max(at), as_json(detail)))

    def forget_times(self, before_ms: int) -> None:
        """Forget the oldest period of times that were kept, if it ends before ``before_ms``.

        One in a call: a clock that has jumped ahead takes few before somebody sees it. What is older than the last that
        went can no longer be told from what was stored, and is not taken again: see ``Store.append``.
        """
        period = self.db.execute("SELECT min(period) FROM sealed_times").fetchone()[0]
        if period is None or (end_ms := (period + 1) * SEALED_PERIOD_MS) > before_ms:
            return
        with self.transaction("forget times"):
            self.db.execute("DELETE FROM sealed_times WHERE period = ?", (period,))
            known = int(meta_of(self.db).get("forgotten_before_ms", end_ms))
            self.db.execute(SET_META, ("forgotten_before_ms", str(max(known, end_ms))))
        self.index.sealed_anew()

    def prune_judged(self, newest_ms: int, flocks_before_ms: int, sealed: Mapping[str, int]) -> None:
        """Delete what is in the lake and was judged or said long ago; what still counts stays."""
        old_ms = newest_ms - JUDGED_KEPT_MS
        with self.transaction("prune what was judged"):
            for stream in ("predictions", "events", ROLLUPS, "shadow_warnings", "shadow_predictions"):
                self.db.execute(
                    f"DELETE FROM {stream} WHERE seq <= ? AND at_ms < ?",  # noqa: S608  # a name of ours
                    (sealed.get(stream, 0), old_ms),
                )
            self.db.execute(
                "DELETE FROM warnings WHERE seq <= ? AND at_ms < ?"
                " AND seq NOT IN (SELECT max(seq) FROM warnings GROUP BY house, rule)",
                (sealed.get("warnings", 0), old_ms),
            )
            self.db.execute("DELETE FROM fitness_flocks WHERE updated_ms < ?", (flocks_before_ms,))
            self.db.execute(
                "DELETE FROM flocks WHERE seq <= ? AND at_ms < ?"
                " AND seq NOT IN (SELECT max(seq) FROM flocks GROUP BY house)",
                (sealed.get("flocks", 0), flocks_before_ms),
            )

    def size_mb(self) -> float:
        """Return what the database holds, in MB, pages that are free for the next rows left out."""
        pages, free, size = (
            self.db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return float((pages - free) * size / 1e6)
