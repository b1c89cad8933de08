"""The store against a plain dict, whatever arrives in whatever order.

Through kills, restarts, full disks, seals and prunings, and through an older copy that somebody puts back.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.domain import Message, Quality, SeriesKey, TimeQuality, from_ms
from agent.errors import StoreError
from agent.readings import Readings
from agent.store import Store, StoreReader
from agent.store.file import transaction
from agent.store.index import SEALED_PERIOD_MS
from agent.store.writer import CONFLICTS_PER_HOUR

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@contextmanager
def full_disk(db: sqlite3.Connection, path: Path, doing: str) -> Iterator[None]:
    """Stand in for the store's transaction: all goes well until the commit."""
    with transaction(db, path, doing):
        yield
        message = "database or disk is full"
        raise sqlite3.OperationalError(message)


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
        self.unacknowledged: set[int] = set()  # mids of the arrivals that the broker may send again
        self.is_acknowledged = False  # they are forgotten with the next commit
        self.conflicts = 0  # recorded since the start of the store

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

    def append_rows(self, rows: list[Row], arrivals: tuple[Message, ...] = ()) -> None:
        new: list[tuple[Row, bool]] = []
        duplicates = conflicts = either = 0
        for key, at, value in rows:
            if (key, at) not in self.model:
                self.model[key, at] = value
                new.append(((key, at, value), at < self.newest.get(key, at)))
            elif value == self.model[key, at]:
                duplicates += 1
            elif (key, at) in self.pruned:
                either += 1  # only the time is kept, but the newest value of a series stays known until a restart
            else:
                conflicts += 1
            self.newest[key] = max(at, self.newest.get(key, at))
        before = self.store.counters.duplicates, self.store.counters.conflicts
        returned = self.store.append(readings_of(rows), arrivals=arrivals, at_ms=T)
        after = self.store.counters.duplicates, self.store.counters.conflicts
        assert sum(after) - sum(before) == duplicates + conflicts + either
        assert duplicates <= after[0] - before[0] <= duplicates + either
        self.rows += [row for row, _ in new]
        recorded = min(conflicts, CONFLICTS_PER_HOUR - self.conflicts)
        self.conflicts += recorded
        if new or recorded or arrivals:
            fresh = {message.mid for message in arrivals}
            self.unacknowledged = fresh | (set() if self.is_acknowledged else self.unacknowledged)
            self.is_acknowledged = False
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

    @rule(rows=BLOCKS)
    def append_to_a_full_disk(self, rows: list[Row]) -> None:
        """What fails at its commit has not happened, on the disk or in memory: tried again, it is as new."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("agent.store.writer.transaction", full_disk)
            if any((key, at) not in self.model for key, at, _ in rows):
                with pytest.raises(StoreError):
                    self.store.append(readings_of(rows), at_ms=T)
        self.nothing_is_lost_and_nothing_doubled()
        self.append_rows(rows)

    @rule(key=st.sampled_from(KEYS), at=TIMES, mid=st.integers(1, 2), acknowledged=st.sampled_from([True, False]))
    def arrive(self, key: SeriesKey, at: int, mid: int, acknowledged: bool) -> None:
        """A message without a time of its own: all that tells it from its repetition is that it is marked as one."""
        if acknowledged:  # those before it
            self.store.acknowledged()
            self.is_acknowledged = bool(self.unacknowledged)
        message = Message("skov/farm1/house1/co2", b"1", 1, mid, False, False, 1, T, 0.0)
        assert not self.store.is_redelivered(message)
        again = self.store.is_redelivered(replace(message, dup=True))
        assert again == (mid in self.unacknowledged)
        if not again:
            self.append_rows([(key, at, 1.0)], (message,))

    def open_again(self) -> None:
        self.store = Store.open(self.path)
        self.is_acknowledged = False  # known in memory only: what was acknowledged is kept until it is so again
        self.conflicts = 0

    @rule()
    def end_and_start_again(self) -> None:
        self.store.close()
        self.open_again()

    @rule()
    def kill_and_start_again(self) -> None:
        """What a killed process leaves are its files as they are at that moment."""
        left = self.copied("house.db", "house.db-wal", "sync.db")
        self.store.close()
        self.folders.append(left)
        self.open_again()

    def copied(self, *names: str) -> Path:
        """Return a folder with the files of that name that there are, as they are at this moment."""
        folder = Path(tempfile.mkdtemp())
        for name in names:
            if (self.folders[-1] / name).exists():
                shutil.copy(self.folders[-1] / name, folder / name)
        return folder

    @precondition(lambda self: self.rows)
    @rule(rows=IN_ORDER, then=st.sampled_from(["sealed", "sealed and pruned", "nothing"]))
    def put_an_older_copy_back(self, rows: list[Row], then: str) -> None:
        """What came after the copy is gone from here, sealed or not; numbers that are sealed are not used again."""
        copy = self.copied("house.db", "house.db-wal")
        self.folders.insert(0, copy)
        known = list(self.rows), dict(self.model), dict(self.newest), set(self.pruned), set(self.unacknowledged)
        self.append_rows(rows)
        if then != "nothing":
            self.seal(1.0)
        if then == "sealed and pruned":
            self.prune(0, T + 10 * SEALED_PERIOD_MS)
        self.store.close()
        for path in self.folders[-1].glob("house.db*"):
            path.unlink()
        for path in copy.iterdir():
            shutil.copy(path, self.folders[-1] / path.name)
        self.rows, self.model, self.newest, self.pruned, self.unacknowledged = known
        generation, is_used = self.store.generation, self.sealed_seq > len(self.rows)
        self.open_again()
        assert (self.store.generation != generation) == is_used
        if is_used:
            self.sealed_seq = 0

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
