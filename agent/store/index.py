"""What stands in for an index over (series, at): ``Seen``, and the tables that keep it.

``slots`` holds the runs of rows of each minute, ``series.high_ms`` the newest time of each series, ``sealed_times`` the
times of rows that were pruned. What is written here is part of its caller's transaction, and errors are his to name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from agent.seen import SLOT_MS, Disk, Seen, pack_times, unpack_times
from agent.store.rows import NEWER_IDENTITIES, SET_META, meta_of, newer_than

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from agent.seen import Longs, Rows

SEALED_PERIOD_MS = 6 * 3_600_000  # pruned times are packed by so much event time: large enough to pack well
SLOTS_PER_PERIOD = SEALED_PERIOD_MS // SLOT_MS
SAVE_ROWS = 20_000  # rows to read again at the next start (under 0.1 s), against 400 updated series at each saving
SAVE_RUNS = 4_096
IDENTITIES_AT_ONCE = 10_000  # rows that are tuples of Python's at a time: 1.5 MB
NO_TIMES: Longs = np.empty(0, np.int64)


class Index:
    """Which readings the database holds or ever held.

    Attributes:
        seen: judges what is new; it must be told what was committed.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._saved_seq = int(meta_of(db)["seen_seq"])
        self._any_sealed = bool(db.execute("SELECT EXISTS (SELECT 1 FROM sealed_times)").fetchone()[0])
        self._unpacked: tuple[tuple[int, int] | None, Longs] = (None, NO_TIMES)  # the last sealed times asked for
        self.seen = Seen(Disk(self._runs, self.rows, self._sealed))
        for number, high_ms in db.execute("SELECT id, high_ms FROM series WHERE high_ms IS NOT NULL"):
            self.seen.set_high(number, high_ms)
        for rows in newer_than(db, NEWER_IDENTITIES, self._saved_seq):
            seqs, series, at_ms, value = zip(*rows, strict=True)
            columns = np.array(series, np.int64), np.array(at_ms, np.int64), np.array(value, np.float64)
            self.seen.add(*columns, first_seq=seqs[0])

    # --- what ``Seen`` asks the disk for ------------------------------------------------------------------------------

    def _runs(self, slots: Sequence[int]) -> Iterator[tuple[int, int]]:
        for slot in slots:
            yield from self._db.execute("SELECT first_seq, last_seq FROM slots WHERE slot = ?", (slot,))

    def rows(self, rows: Rows) -> Iterator[tuple[int, int, float]]:
        """Return the (series, at_ms, value) of some rows."""
        return self._db.execute(
            "SELECT series, at_ms, value FROM readings WHERE seq BETWEEN ? AND ? AND at_ms BETWEEN ? AND ?", rows
        )

    def identities(self, rows: Rows) -> tuple[Longs, Longs]:
        """Return the series and the at_ms of some rows, in their order; as tuples they took ten times the room."""
        found = self._db.execute(
            "SELECT series, at_ms FROM readings WHERE seq BETWEEN ? AND ? AND at_ms BETWEEN ? AND ?", rows
        )
        blocks = []
        while block := found.fetchmany(IDENTITIES_AT_ONCE):
            blocks.append(np.array(block, np.int64))
        whole = np.concatenate(blocks) if blocks else np.empty((0, 2), np.int64)
        return whole[:, 0], whole[:, 1]

    def _sealed(self, series: int, at_ms: int) -> Longs:
        if not self._any_sealed:
            return NO_TIMES
        place = (at_ms // SEALED_PERIOD_MS, series)
        if self._unpacked[0] != place:  # asked for in order of series and time: the last one is most often it again
            self._unpacked = place, self._times(*place)
        return self._unpacked[1]

    def _times(self, period: int, series: int) -> Longs:
        query = "SELECT times FROM sealed_times WHERE period = ? AND series = ?"
        found = self._db.execute(query, (period, series)).fetchone()
        return unpack_times(found[0]) if found else NO_TIMES

    def is_sealed_time(self, series: int, at_ms: int) -> bool:
        """Tell whether a reading of this time was pruned."""
        times = self._sealed(series, at_ms)
        at = int(np.searchsorted(times, at_ms))
        return at < len(times) and int(times[at]) == at_ms

    # --- keeping it ---------------------------------------------------------------------------------------------------

    def is_due(self, last_seq: int) -> bool:
        """Tell whether so much is only in memory that it should be written with the next rows."""
        return last_seq - self._saved_seq > SAVE_ROWS or self.seen.unsaved_runs > SAVE_RUNS

    def is_saved(self, last_seq: int) -> bool:
        """Tell whether all is on disk."""
        return self._saved_seq == last_seq

    def write(self, last_seq: int) -> None:
        """Write what is known of the rows up to the last one; call ``saved`` once it is committed."""
        runs, highs = self.seen.unsaved()
        self._db.executemany("INSERT OR REPLACE INTO slots VALUES (?, ?, ?)", runs)
        self._db.executemany("UPDATE series SET high_ms = ? WHERE id = ?", [(high, number) for number, high in highs])
        self._db.execute(SET_META, ("seen_seq", str(last_seq)))

    def saved(self, last_seq: int) -> None:
        """Take note that what ``write`` wrote is committed."""
        self.seen.saved()
        self._saved_seq = last_seq

    def write_highs(self) -> None:
        """Write the newest time of each series anew, after rows were moved in time.

        Reads all rows, and some packed times. What is in memory is wrong from then on: make a new index.
        """
        newest = dict(self._db.execute("SELECT series, max(at_ms) FROM readings GROUP BY series"))
        for series, period in self._db.execute(
            "SELECT series, max(period) FROM sealed_times GROUP BY series"
        ).fetchall():
            newest[series] = max(newest.get(series, 0), int(self._times(period, series)[-1]))
        self._db.executemany("UPDATE series SET high_ms = ? WHERE id = ?", [(high, n) for n, high in newest.items()])

    # --- pruned rows --------------------------------------------------------------------------------------------------

    def seal_times(self, period: int, series: int, times: Longs) -> None:
        """Keep times of rows of one period that are about to be deleted; call ``sealed_anew`` once it is committed."""
        times = np.concatenate((times, self._times(period, series)))
        times.sort()
        times = times[np.diff(times, prepend=times[0] - 1) > 0]  # np.unique would load numpy.ma: 3 MB
        self._db.execute("INSERT OR REPLACE INTO sealed_times VALUES (?, ?, ?)", (period, series, pack_times(times)))

    def sealed_anew(self) -> None:
        """Take note that what ``seal_times`` wrote is committed."""
        self._any_sealed = True
        self._unpacked = None, NO_TIMES
