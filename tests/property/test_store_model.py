"""The store against a plain dict, whatever arrives in whatever order, through kills, restarts, seals and prunings."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.domain import Quality, SeriesKey, TimeQuality, from_ms
from agent.readings import Readings
from agent.store import Store, StoreReader
from agent.store.index import SEALED_PERIOD_MS

T = 1_795_000_000_000 // SEALED_PERIOD_MS * SEALED_PERIOD_MS
KEYS = (SeriesKey("house1", "water"), SeriesKey("house1", "co2"), SeriesKey("house2", "water"))

# Few distinct times, so that the same ones come again: in one minute, in the next, hours away, and at the seams
TIMES = st.builds(
    lambda period, minute, ms: T + period * SEALED_PERIOD_MS + minute * 60_000 + ms,
    st.integers(-2, 2),
    st.sampled_from([0, 1, 2, 359]),
    st.sampled_from([0, 1, 59_999]),
)
ROWS = st.tuples(st.sampled_from(KEYS), TIMES, st.sampled_from([0.0, 1.0, -2.5]))
IN_ORDER = st.builds(
    lambda key, first, n: [(key, T + first * 60_000 + i * 20_000, 1.0) for i in range(n)],
    st.sampled_from(KEYS),
    st.integers(0, 400),
    st.integers(1, 40),
)
BLOCKS = st.lists(ROWS, max_size=12) | IN_ORDER

Row = tuple[SeriesKey, int, float]


def readings_of(rows: list[Row]) -> Readings:
    n = len(rows)
    return Readings(
        KEYS,
        np.array([KEYS.index(key) for key, _, _ in rows], np.int32),
        np.array([at for _, at, _ in rows], np.int64),
        np.array([value for _, _, value in rows], np.float64),
        np.full(n, Quality.GOOD, np.uint8),
        np.full(n, TimeQuality.SENDER, np.uint8),
        np.full(n, T, np.int64),
    )


class StoreMachine(RuleBasedStateMachine):
    """First value wins, nothing lost, nothing doubled."""

    @initialize()
    def begin(self) -> None:
        self.patch = pytest.MonkeyPatch()  # small limits, so that short histories cross them
        self.patch.setattr("agent.seen.RUN_GAP", 3)
        self.patch.setattr("agent.seen.RUNS_KEPT", 2)
        self.patch.setattr("agent.store.index.SAVE_ROWS", 10)
        self.patch.setattr("agent.store.rows.BLOCK_ROWS", 7)
        self.folders = [Path(tempfile.mkdtemp())]
        self.store = Store.open(self.path)
        self.rows: list[Row] = []  # all that was ever new, in order: row i has the number i + 1
        self.model: dict[tuple[SeriesKey, int], float] = {}
        self.newest: dict[SeriesKey, int] = {}
        self.pruned: set[tuple[SeriesKey, int]] = set()
        self.sealed_seq = 0

    @property
    def path(self) -> Path:
        return self.folders[-1] / "house.db"

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.patch.undo()
            for folder in self.folders:
                shutil.rmtree(folder)

    @rule(rows=BLOCKS)
    def append(self, rows: list[Row]) -> None:
        self.append_rows(rows)

    def append_rows(self, rows: list[Row]) -> None:
        new: list[tuple[Row, bool]] = []
        duplicates = conflicts = 0
        for key, at, value in rows:
            if (key, at) not in self.model:
                self.model[key, at] = value
                new.append(((key, at, value), at < self.newest.get(key, at)))
            elif value == self.model[key, at] or (key, at) in self.pruned:
                duplicates += 1
            else:
                conflicts += 1
            self.newest[key] = max(at, self.newest.get(key, at))
        before = self.store.counters.duplicates, self.store.counters.conflicts
        returned = self.store.append(readings_of(rows), at_ms=T)
        after = self.store.counters.duplicates, self.store.counters.conflicts
        assert (after[0] - before[0], after[1] - before[1]) == (duplicates, conflicts)
        self.rows += [row for row, _ in new]
        assert returned.last_seq == self.store.last_seq == len(self.rows)
        got = zip(
            [returned.keys[i] for i in returned.key], returned.at_ms.tolist(), returned.value.tolist(), strict=True
        )
        assert list(got) == [row for row, _ in new]
        assert (returned.time_quality == TimeQuality.LATE).tolist() == [late for _, late in new]

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        """Most of what comes again came before: a broker or a logger that repeats its tail, or all it has."""
        first = data.draw(st.integers(0, len(self.rows) - 1))
        self.append_rows(self.rows[first:])

    @rule()
    def end_and_start_again(self) -> None:
        self.store.close()
        self.store = Store.open(self.path)

    @rule()
    def kill_and_start_again(self) -> None:
        """What a killed process leaves are its files as they are at that moment."""
        left = Path(tempfile.mkdtemp())
        for name in ("house.db", "house.db-wal", "sync.db"):
            if (self.folders[-1] / name).exists():
                shutil.copy(self.folders[-1] / name, left / name)
        self.store.close()
        self.folders.append(left)
        self.store = Store.open(self.path)

    @rule(share=st.floats(0, 1))
    def observe(self, share: float) -> None:
        seq = int(share * len(self.rows))
        self.store.record(observed_seq=seq)
        newer = [row for part in self.store.restore().newer for row in zip(part.at_ms, part.value, strict=True)]
        expected = [(at, value) for key, at, value in self.rows[seq:] if (key, at) not in self.pruned]
        assert newer == expected

    @rule(share=st.floats(0, 1))
    def seal(self, share: float) -> None:
        self.sealed_seq = max(self.sealed_seq, int(share * len(self.rows)))
        with closing(sqlite3.connect(self.path.with_name("sync.db"))) as db, db:
            db.execute(
                "CREATE TABLE IF NOT EXISTS watermarks (stream PRIMARY KEY, generation, sealed_seq, sealed_at_ms)"
            )
            row = ("readings", self.store.generation, self.sealed_seq, T)
            db.execute("INSERT OR REPLACE INTO watermarks VALUES (?, ?, ?, ?)", row)

    @rule()
    def seal_and_prune_all(self) -> None:
        self.seal(1.0)
        if self.rows:
            self.prune(0, T + 10 * SEALED_PERIOD_MS)

    @precondition(lambda self: self.rows)
    @rule(keep_hours=st.integers(0, 12), now=TIMES)
    def prune(self, keep_hours: int, now: int) -> None:
        self.store.record(observed_seq=len(self.rows))
        cutoff = min(now, max(self.newest.values())) - keep_hours * 3_600_000
        cutoff = cutoff // SEALED_PERIOD_MS * SEALED_PERIOD_MS
        gone = {(key, at) for key, at, _ in self.rows[: self.sealed_seq] if at < cutoff} - self.pruned
        assert self.store.prune(from_ms(now), keep_hours=keep_hours) == len(gone)
        self.pruned |= gone

    @invariant()
    def nothing_is_lost_and_nothing_doubled(self) -> None:
        if not hasattr(self, "store"):
            return
        with StoreReader.open(self.path) as reader:
            columns = reader.rows("readings", 1, 2**62)
            assert reader.last_seq("readings") == len(self.rows)
        stored = zip(columns["seq"], columns["house"], columns["signal"], columns["at"], columns["value"], strict=True)
        expected = [
            (i + 1, *key, at, value) for i, (key, at, value) in enumerate(self.rows) if (key, at) not in self.pruned
        ]
        assert list(stored) == expected


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
