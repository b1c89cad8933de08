"""Forgetting: buckets past their time, and readings that are sealed, observed and old. Their times are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent.seen import joined
from agent.store.index import SEALED_PERIOD_MS, SLOTS_PER_PERIOD
from agent.store.rows import parts

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from agent.seen import Rows
    from agent.store.index import Index

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
PRUNE_ROWS = 500_000  # in one call: about a second of work
BUCKETS_KEPT_MS = {600: 14 * DAY_MS, 86_400: 120 * DAY_MS}  # 120 days: the longest flock twice over


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

    def prune_readings(self, newest_ms: int, up_to_seq: int, keep_hours: int, max_size_mb: int) -> int:
        """Delete whole periods up to the row ``up_to_seq``, as ``Store.prune`` says; return how many readings.

        What the index knows must be saved.
        """
        pruned = 0
        for period in self._periods():
            end_ms = (period + 1) * SEALED_PERIOD_MS
            too_large = self._size_mb() > max_size_mb and end_ms <= newest_ms
            if pruned >= PRUNE_ROWS or not (end_ms <= newest_ms - keep_hours * HOUR_MS or too_large):
                break
            pruned += self._prune_period(period, up_to_seq, PRUNE_ROWS - pruned)
        return pruned

    def _periods(self) -> Iterator[int]:
        """Yield the periods that have rows, oldest first."""
        slot: int | None = self.db.execute("SELECT min(slot) FROM slots").fetchone()[0]
        while slot is not None:
            period = slot // SLOTS_PER_PERIOD
            yield period
            end = ((period + 1) * SLOTS_PER_PERIOD,)
            slot = self.db.execute("SELECT min(slot) FROM slots WHERE slot >= ?", end).fetchone()[0]

    def _prune_period(self, period: int, up_to_seq: int, limit: int) -> int:
        first_slot, end_slot = period * SLOTS_PER_PERIOD, (period + 1) * SLOTS_PER_PERIOD
        first_ms, last_ms = period * SEALED_PERIOD_MS, (period + 1) * SEALED_PERIOD_MS - 1
        runs = self.db.execute(
            "SELECT first_seq, last_seq FROM slots WHERE slot >= ? AND slot < ?", (first_slot, end_slot)
        )
        pruned = 0
        for run_first, run_last in joined(runs):
            for first, last in parts(run_first, min(run_last, up_to_seq)):
                pruned += self._prune_rows(period, (first, last, first_ms, last_ms))
                if pruned >= limit:
                    return pruned
        with self.transaction("prune readings"):
            self.db.execute(
                "DELETE FROM slots WHERE slot >= ? AND slot < ? AND last_seq <= ?", (first_slot, end_slot, up_to_seq)
            )
        self.index.seen.forget(first_slot, end_slot)
        return pruned

    def _prune_rows(self, period: int, rows: Rows) -> int:
        """Put the times of some rows of a period with the sealed ones, and delete the rows."""
        pairs = np.array([(series, at_ms) for series, at_ms, _ in self.index.rows(rows)], np.int64).reshape(-1, 2)
        if len(pairs) == 0:
            return 0
        with self.transaction("prune readings"):
            for series in np.unique(pairs[:, 0]).tolist():
                self.index.seal_times(period, series, pairs[pairs[:, 0] == series, 1])
            self.db.execute("DELETE FROM readings WHERE seq BETWEEN ? AND ? AND at_ms BETWEEN ? AND ?", rows)
        self.index.sealed_anew()
        return len(pairs)

    def _size_mb(self) -> float:
        """Return what the database holds, in MB, pages that are free for the next rows left out."""
        pages, free, size = (
            self.db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return float((pages - free) * size / 1e6)
