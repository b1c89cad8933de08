"""The house's memory: the only SQL on ``house.db``. The agent writes by ``Store``, all others read by ``StoreReader``.

Every write is one transaction that is on the disk when the call returns (WAL, ``synchronous=FULL``), and what is kept
in memory beside it changes only after the commit: whenever the process dies, the file alone says what is known.
"""

from __future__ import annotations

import fcntl
import secrets
import sqlite3
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib import resources
from typing import TYPE_CHECKING, Any, Self

import msgspec
import numpy as np

from agent.alerts import row as alert_row
from agent.domain import (
    Flock,
    FlockChange,
    HouseState,
    Prediction,
    Quality,
    Rejected,
    SeriesKey,
    Standing,
    TimeQuality,
    from_ms,
    to_ms,
)
from agent.errors import StoreError
from agent.readings import Readings
from agent.seen import SLOT_MS, Disk, Rows, Seen, Verdict, joined, pack_times, unpack_times

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    from agent.domain import Event, Message, WarningEvent

    Longs = NDArray[np.int64]


def _columns(text: str) -> tuple[tuple[str, str], ...]:
    """Read ``name type, name type, ...``; a name without a type is a string."""
    pairs = (column.split() for column in text.split(","))
    return tuple((name, kind[0] if kind else "string") for name, *kind in pairs)


LAKE_COLUMNS: dict[str, tuple[tuple[str, str], ...]] = {
    "readings": _columns(
        "at timestamp, received_at timestamp, house, signal, value float64, quality, time_quality, seq int64"
    ),
    "warnings": _columns(
        "at timestamp, house, flock, day_number int32, rule, about, signal, id, before, state, severity int8, reason,"
        "actual float64, expected float64, low float64, high float64, unit, deviation_pct float64,"
        "since timestamp, raised_at timestamp, confidence float64, coverage float64,"
        "causes, check_first, text, model, model_version, by, seq int64"
    ),
    "predictions": _columns(
        "at timestamp, house, flock, day_number int32, target, target_at timestamp, horizon,"
        "p10 float64, p50 float64, p90 float64, model, model_version, coverage float64, seq int64"
    ),
    "flocks": _columns(
        "at timestamp, house, flock, action, state, placed_on, birds_placed int64, strain, sex,"
        "parent_age_weeks float64, planned_end_on, ended_at timestamp, slaughter_weight_g float64,"
        "thinned_birds int64, detail, seq int64"
    ),
    "events": _columns("at timestamp, kind, house, signal, from_at timestamp, to_at timestamp, detail, seq int64"),
}
"""Name and logical type of every column that leaves the house, in order; here a time is integer milliseconds."""

STREAMS = tuple(LAKE_COLUMNS)

BucketRow = tuple[str, str, int, int, int, float, float, float, float]
"""house, signal, step_s, start_ms, n, sum, min, max, last: what a window keeps of one signal in one step."""

APPLICATION_ID = 0x666C_6F63  # "floc": in the header of the file, so that a foreign database is never written to
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
BUSY_TIMEOUT_S = 10.0  # readers never block the writer in WAL mode; a copying backup may, for a moment
WAL_LIMIT_BYTES = 16_000_000  # what is left of the WAL after a long reader has let it grow
BLOCK_ROWS = 50_000  # rows that are in memory at once: 3 MB in columns
SAVE_SEEN_ROWS = 20_000  # rows to read again at the next start (under 0.1 s), against 400 updated series at each saving
SAVE_SEEN_RUNS = 4_096
SEALED_PERIOD_MS = 6 * HOUR_MS  # pruned times are packed by so much event time: large enough to pack well
SLOTS_PER_PERIOD = SEALED_PERIOD_MS // SLOT_MS
PRUNE_ROWS = 500_000  # in one call: about a second of work
BUCKETS_KEPT_MS = {600: 14 * DAY_MS, 86_400: 120 * DAY_MS}  # 120 days: the longest flock twice over
REJECTED_KEPT = 1_000
REJECTED_BYTES = 200
TOPIC_CHARS = 500
COMMANDS_KEPT = 10_000
CONFLICTS_PER_HOUR = 100  # recorded one by one; beyond that they are only counted
LATEST_PREDICTIONS = 20_000  # rows in which the newest prediction of each target is looked for

_EventRow = tuple[int, str, str | None, str | None, int | None, int | None, str]
"""at_ms, kind, house, signal, from_ms, to_ms, detail."""

_SET_META = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
_SET_RHYTHM = "UPDATE series SET rhythm_s = ? WHERE id = ?"
_INSERT_EVENT = "INSERT INTO events (at_ms, kind, house, signal, from_ms, to_ms, detail) VALUES (?, ?, ?, ?, ?, ?, ?)"
_INSERT_WARNING = "INSERT INTO warnings (at_ms, house, rule, document) VALUES (?, ?, ?, ?)"
_INSERT_FLOCK = "INSERT INTO flocks (at_ms, house, flock, action, state, document) VALUES (?, ?, ?, ?, ?, ?)"
_INSERT_PREDICTION = (
    "INSERT INTO predictions (at_ms, house, flock, day_number, target, target_at_ms, horizon, p10, p50, p90, model,"
    " model_version, coverage) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_COMMAND = "INSERT OR IGNORE INTO commands (id, topic, answer) VALUES (?, ?, ?)"
_DROP_COMMANDS = "DELETE FROM commands WHERE seq <= (SELECT max(seq) FROM commands) - ?"
_REPLACE_STANDING = "INSERT OR REPLACE INTO warning_states VALUES (?, ?, ?)"
_REPLACE_BUCKET = (
    "INSERT OR REPLACE INTO buckets (house, signal, step_s, start_ms, n, sum, min, max, last)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_NEWER_READINGS = (
    "SELECT seq, series, at_ms, received_ms, value, quality, time_quality FROM readings"
    " WHERE seq > ? ORDER BY seq LIMIT ?"
)
_NEWER_IDENTITIES = "SELECT seq, series, at_ms, value FROM readings WHERE seq > ? ORDER BY seq LIMIT ?"
_NEWEST_OF_HOUSE = (
    "SELECT at_ms, action, house, state, document FROM flocks"
    " WHERE seq IN (SELECT max(seq) FROM flocks GROUP BY house) ORDER BY seq"
)
_NEWEST_OF_FLOCK = (
    "SELECT at_ms, action, house, state, document FROM flocks"
    " WHERE seq IN (SELECT max(seq) FROM flocks WHERE flock IS NOT NULL GROUP BY house, flock) ORDER BY seq"
)
_LATEST_PREDICTIONS = (  # SQLite takes the other columns from the row of the maximum
    "SELECT at_ms, house, flock, day_number, target, target_at_ms, horizon, p10, p50, p90, model, model_version,"
    " coverage, max(seq) FROM predictions WHERE seq > ? GROUP BY house, target, horizon ORDER BY house, target, horizon"
)
_LAKE_ROWS = {  # in the order of LAKE_COLUMNS; what stands in a document is taken from it below
    "readings": "SELECT at_ms, received_ms, series, value, quality, time_quality, seq FROM readings"
    " WHERE seq BETWEEN ? AND ? ORDER BY seq",
    "warnings": "SELECT at_ms, document, seq FROM warnings WHERE seq BETWEEN ? AND ? ORDER BY seq",
    "predictions": "SELECT at_ms, house, flock, day_number, target, target_at_ms, horizon, p10, p50, p90, model,"
    " model_version, coverage, seq FROM predictions WHERE seq BETWEEN ? AND ? ORDER BY seq",
    "flocks": "SELECT at_ms, house, action, state, document, seq FROM flocks WHERE seq BETWEEN ? AND ? ORDER BY seq",
    "events": "SELECT at_ms, kind, house, signal, from_ms, to_ms, detail, seq FROM events"
    " WHERE seq BETWEEN ? AND ? ORDER BY seq",
}

_NO_TIMES: Longs = np.empty(0, np.int64)
_QUALITIES = [quality.name.lower() for quality in Quality]
_TIME_QUALITIES = [quality.name.lower() for quality in TimeQuality]


@dataclass(slots=True)
class StoreCounters:
    """What happened to readings since the store was opened."""

    appended: int = 0
    duplicates: int = 0
    conflicts: int = 0
    late: int = 0
    commits: int = 0


@dataclass(frozen=True, slots=True)
class Restored:
    """What was known when the process last ended; the iterators read from disk as they go, once."""

    standings: tuple[Standing, ...]
    houses: dict[str, FlockChange]  # the newest change of each house: its state, and its flock where there is one
    flocks: tuple[FlockChange, ...]  # the newest change of each flock, the present ones included, oldest first
    judged_at: datetime | None
    observed_seq: int
    rhythms: dict[SeriesKey, float]  # the usual interval of each series, in seconds
    newest_ms: dict[SeriesKey, int]  # the newest time of each series
    commands: tuple[tuple[str, str, str], ...]  # (id, topic, answer) of the last 100, oldest first
    buckets: Iterator[BucketRow]  # of all houses, in the order of their time
    newer: Iterator[Readings]  # readings stored after observed_seq, in blocks of at most BLOCK_ROWS


class _FlockDocument(msgspec.Struct):
    """What the column ``flocks.document`` holds."""

    flock: Flock | None
    detail: dict[str, Any]


class Store:
    """The writer, owned by the agent's main thread; a context manager.

    Attributes:
        gateway: random name of this installation, 12 hex digits, made at the first start.
        generation: random name of this database, 8 hex digits: sequence numbers are unique within it.
        counters: what happened since it was opened.
    """

    def __init__(self, path: Path, db: sqlite3.Connection, sync_db: Path) -> None:
        self._path, self._db, self._sync_db = path, db, sync_db
        self._resources = ExitStack()
        self.counters = StoreCounters()
        meta = _meta(db)
        self.gateway, self.generation = meta["gateway"], meta["generation"]
        self._observed_seq = int(meta["observed_seq"])
        self._seen_seq = int(meta["seen_seq"])
        self._last_seq = _last_reading(db)
        series = db.execute("SELECT house, signal, id, high_ms FROM series ORDER BY id").fetchall()
        self._series = {SeriesKey(house, signal): number for house, signal, number, _ in series}
        self._seen = Seen(Disk(self._runs, self._rows, self._sealed))
        for _, _, number, high_ms in series:
            if high_ms is not None:
                self._seen.set_high(number, high_ms)
        for first_seq, numbers, at_ms, values in self._newer_than(self._seen_seq):
            self._seen.add(numbers, at_ms, values, first_seq)
        self._unacknowledged = set(db.execute("SELECT mid, digest FROM unacknowledged"))
        self._acknowledged = False
        self._conflicts_of_hour = (0, 0)  # hour, recorded in it
        self._any_sealed = bool(db.execute("SELECT EXISTS (SELECT 1 FROM sealed_times)").fetchone()[0])
        self._unpacked: tuple[tuple[int, int] | None, Longs] = (None, _NO_TIMES)  # the last sealed times asked for

    @classmethod
    def open(cls, path: Path, *, sync_db: Path | None = None) -> Self:
        """Open the database at ``path``, making it and its folder where there is none.

        Args:
            path: of ``house.db``.
            sync_db: the courier's database, read (only) by ``prune``; ``sync.db`` in the same folder by default.

        Raises:
            StoreError: it is in use, foreign, corrupt, of a newer program, or cannot be written; the message says what
                to do.
        """
        with ExitStack() as stack, _named_errors(path, "open"):
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            stack.enter_context(_locked(path))
            # SQLite gives the rights of this file to its -wal and -shm. sync, another user of our group, may make them
            # while we are down: without the right of the group to write, we could then not write ourselves
            path.touch(mode=0o660)
            db = stack.enter_context(closing(_connect(path)))
            _migrate(db, path)
            store = cls(path, db, sync_db or path.with_name("sync.db"))
            store._resources = stack.pop_all()
            return store

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database. Nothing is lost without it; the next start is quicker with it."""
        with self._resources, suppress(StoreError):  # a full disk: no row is lost, the next start reads some more
            self._save_seen()

    @property
    def last_seq(self) -> int:
        """The number of the newest reading, 0 where there was none."""
        return self._last_seq

    # --- readings -----------------------------------------------------------------------------------------------------

    def append(
        self,
        readings: Readings,
        *,
        rejected: Sequence[Rejected] = (),
        arrivals: Sequence[Message] = (),
        at_ms: int,
    ) -> Readings:
        """Store what is new of a block in one transaction; it is on the disk when this returns.

        The identity of a reading is (house, signal, at): the first value wins; the same again is counted; another value
        is counted and, up to 100 an hour, recorded as an event ``conflict``. A reading older than the newest of its
        series is marked late. A value that is no finite number is set aside as rejected.

        Args:
            readings: with their quality judged.
            rejected: what did not become a reading; the newest 1,000 are kept.
            arrivals: the messages whose readings have no time of their own: see ``is_redelivered``.
            at_ms: the farm's time, for what is recorded beside the readings.

        Returns:
            The new rows in their order of arrival. ``last_seq`` is the store's newest, whether or not there are any.

        Raises:
            StoreError: nothing of it was stored (the disk is full, say); all may be tried again.
        """
        finite = np.isfinite(readings.value)
        if not finite.all():
            rejected = [*rejected, *_not_finite(readings.take(~finite))]
            readings = readings.take(finite)
        ids, added = self._ids_of(readings)
        series = ids[readings.key]
        with _named_errors(self._path, "append readings"):
            verdict = self._seen.judge(series, readings.at_ms, readings.value)
        conflicts, recorded = self._conflict_rows(readings, verdict, at_ms)
        if not verdict.new.all():
            series, late, readings = series[verdict.new], verdict.late[verdict.new], readings.take(verdict.new)
        else:
            late = verdict.late
        readings = replace(readings, last_seq=self._last_seq + len(readings))
        if late.any():
            readings = replace(readings, time_quality=_with_late(readings.time_quality, late))
        digests = {_digest(message) for message in arrivals if message.qos > 0}
        if added or len(readings) or rejected or digests or conflicts:
            self._commit(readings, series, added, rejected, digests, conflicts)
        self._conflicts_of_hour = recorded
        self.counters.appended += len(readings)
        self.counters.late += int(late.sum())
        self.counters.duplicates += verdict.duplicates
        self.counters.conflicts += len(verdict.conflicts)
        return readings

    def _commit(
        self,
        readings: Readings,
        series: Longs,
        added: list[tuple[int, str, str]],
        rejected: Sequence[Rejected],
        digests: set[tuple[int, bytes]],
        conflicts: list[_EventRow],
    ) -> None:
        """Write what ``append`` found to be new, and only then change what is kept in memory."""
        first_seq = self._last_seq + 1
        save_seen = self._last_seq - self._seen_seq > SAVE_SEEN_ROWS or self._seen.unsaved_runs > SAVE_SEEN_RUNS
        with self._transaction("append readings"):
            if save_seen:
                self._write_seen()
            if added:
                self._db.executemany("INSERT INTO series (id, house, signal) VALUES (?, ?, ?)", added)
            self._db.executemany(
                "INSERT INTO readings VALUES (?, ?, ?, ?, ?, ?, ?)",
                zip(
                    range(first_seq, first_seq + len(readings)),
                    series.tolist(),
                    readings.at_ms.tolist(),
                    readings.received_ms.tolist(),
                    readings.value.tolist(),
                    readings.quality.tolist(),
                    readings.time_quality.tolist(),
                    strict=True,
                ),
            )
            if rejected:
                self._write_rejected(rejected)
            if conflicts:
                self._db.executemany(_INSERT_EVENT, conflicts)
            if self._acknowledged:
                self._db.execute("DELETE FROM unacknowledged")
            if digests:
                self._db.executemany("INSERT OR IGNORE INTO unacknowledged VALUES (?, ?)", digests)
        if save_seen:
            self._seen_is_saved()
        self._series.update((SeriesKey(house, signal), number) for number, house, signal in added)
        self._seen.add(series, readings.at_ms, readings.value, first_seq)
        self._last_seq = readings.last_seq
        self._unacknowledged = digests if self._acknowledged else self._unacknowledged | digests
        self._acknowledged = False

    def _ids_of(self, readings: Readings) -> tuple[Longs, list[tuple[int, str, str]]]:
        """Return the number of each key's series, and the rows (number, house, signal) of those that are not stored."""
        numbers = [self._series.get(key, 0) for key in readings.keys]
        added: list[tuple[int, str, str]] = []
        if 0 in numbers:
            used = set(readings.key.tolist())
            for i, key in enumerate(readings.keys):
                if numbers[i] == 0 and i in used:
                    numbers[i] = len(self._series) + len(added) + 1
                    added.append((numbers[i], key.house, key.signal))
        return np.array(numbers, np.int64), added

    def _conflict_rows(
        self, readings: Readings, verdict: Verdict, at_ms: int
    ) -> tuple[list[_EventRow], tuple[int, int]]:
        """Return the events to record, and (hour, conflicts recorded in it) as it will then be."""
        hour = at_ms // HOUR_MS
        recorded = self._conflicts_of_hour[1] if self._conflicts_of_hour[0] == hour else 0
        rows: list[_EventRow] = []
        for index, stored in verdict.conflicts[: CONFLICTS_PER_HOUR - recorded]:
            detail: dict[str, object] = {"stored": stored, "received": float(readings.value[index])}
            if recorded + len(rows) + 1 == CONFLICTS_PER_HOUR:
                detail["note"] = "the last one recorded this hour; further ones are only counted"
            key, time = readings.keys[int(readings.key[index])], int(readings.at_ms[index])
            rows.append((at_ms, "conflict", key.house, key.signal, time, time, _json(detail)))
        return rows, (hour, recorded + len(rows))

    def _write_rejected(self, rejected: Sequence[Rejected]) -> None:
        self._db.executemany(
            "INSERT INTO rejected (received_ms, topic, reason, first_bytes) VALUES (?, ?, ?, ?)",
            [
                (row.received_ms, row.topic[:TOPIC_CHARS], row.reason, row.first_bytes[:REJECTED_BYTES])
                for row in rejected[-REJECTED_KEPT:]
            ],
        )
        self._db.execute("DELETE FROM rejected WHERE seq <= (SELECT max(seq) FROM rejected) - ?", (REJECTED_KEPT,))

    def is_redelivered(self, message: Message) -> bool:
        """Tell whether a message is one of the committed but unacknowledged ``arrivals``, sent again by the broker.

        Only for messages whose readings have no time of their own: those that have one fall out by their identity.
        """
        return message.dup and bool(self._unacknowledged) and _digest(message) in self._unacknowledged

    def acknowledged(self) -> None:
        """Take note that all that was committed so far was acknowledged: the next commit forgets those messages."""
        self._acknowledged = bool(self._unacknowledged)

    # --- what was seen, on disk ---------------------------------------------------------------------------------------

    def _runs(self, slots: Sequence[int]) -> Iterator[tuple[int, int]]:
        for slot in slots:
            yield from self._db.execute("SELECT first_seq, last_seq FROM slots WHERE slot = ?", (slot,))

    def _rows(self, rows: Rows) -> Iterator[tuple[int, int, float]]:
        return self._db.execute(
            "SELECT series, at_ms, value FROM readings WHERE seq BETWEEN ? AND ? AND at_ms BETWEEN ? AND ?", rows
        )

    def _sealed(self, series: int, at_ms: int) -> Longs:
        if not self._any_sealed:
            return _NO_TIMES
        place = (at_ms // SEALED_PERIOD_MS, series)
        if self._unpacked[0] != place:  # asked for in order of series and time: the last one is most often it again
            found = self._db.execute("SELECT times FROM sealed_times WHERE period = ? AND series = ?", place).fetchone()
            self._unpacked = place, unpack_times(found[0]) if found else _NO_TIMES
        return self._unpacked[1]

    def _write_seen(self) -> None:
        """Write, inside a transaction, what ``Seen`` knows of the rows up to the last one."""
        runs, highs = self._seen.unsaved()
        self._db.executemany("INSERT OR REPLACE INTO slots VALUES (?, ?, ?)", runs)
        self._db.executemany("UPDATE series SET high_ms = ? WHERE id = ?", [(high, number) for number, high in highs])
        self._set_meta({"seen_seq": str(self._last_seq)})

    def _seen_is_saved(self) -> None:
        self._seen.saved()
        self._seen_seq = self._last_seq

    def _save_seen(self) -> None:
        if self._seen_seq == self._last_seq:
            return
        with self._transaction("save what was seen"):
            self._write_seen()
        self._seen_is_saved()

    # --- what was judged ----------------------------------------------------------------------------------------------

    def record(
        self,
        *,
        warnings: Sequence[WarningEvent] = (),
        standings: Sequence[Standing] = (),
        predictions: Sequence[Prediction] = (),
        flock_changes: Sequence[FlockChange] = (),
        events: Sequence[Event] = (),
        buckets: Sequence[BucketRow] = (),
        rhythms: Mapping[SeriesKey, float] | None = None,
        commands: Sequence[tuple[str, str, str]] = (),
        judged_at: datetime | None = None,
        observed_seq: int | None = None,
        health: Mapping[str, object] | None = None,
    ) -> None:
        """Store what was judged, said and asked in one transaction; it is on the disk when this returns.

        Args:
            warnings: transitions, with their words.
            standings: where rules stand now; each replaces what was stored of its house and rule.
            predictions: to keep.
            flock_changes: what happened to flocks, with the house's state and the flock as they then are.
            events: to keep.
            buckets: what windows hold; each replaces what was stored of its signal, step and start. Pass those that are
                complete: one that is still growing would be written again and again.
            rhythms: the usual interval of each series, in seconds; those that changed.
            commands: (id, topic, answer) of the commands that this did; the first answer of an id stays.
            judged_at: the grid instant up to which all is judged.
            observed_seq: the number of the last reading that is in the windows (and so in ``buckets``).
            health: what ``status`` shows.

        None leaves the last one as it was.

        Raises:
            StoreError: nothing of it was stored.
        """
        meta: dict[str, str] = {}
        if judged_at is not None:
            meta["judged_ms"] = str(to_ms(judged_at))
        if observed_seq is not None:
            meta["observed_seq"] = str(observed_seq)
        if health is not None:
            meta["health"] = _json(health)
        numbers = [(rhythm, self._series[key]) for key, rhythm in (rhythms or {}).items() if key in self._series]
        flocks = [
            (to_ms(c.at), c.house, c.flock.flock if c.flock else None, c.action, c.state.value, _flock_document(c))
            for c in flock_changes
        ]
        work: list[tuple[str, Sequence[Sequence[object]]]] = [
            (_INSERT_WARNING, [_warning_row(event) for event in warnings]),
            (_REPLACE_STANDING, [(s.house, s.rule, _json(s)) for s in standings]),
            (_INSERT_PREDICTION, [_prediction_row(prediction) for prediction in predictions]),
            (_INSERT_FLOCK, flocks),
            (_INSERT_EVENT, [_event_row(event) for event in events]),
            (_REPLACE_BUCKET, buckets),
            (_SET_RHYTHM, numbers),
            (_INSERT_COMMAND, commands),
            (_DROP_COMMANDS, [(COMMANDS_KEPT,)] if commands else []),
            (_SET_META, list(meta.items())),
        ]
        if not any(rows for _, rows in work):
            return
        with self._transaction("record what was judged"):
            for statement, rows in work:
                if rows:
                    self._db.executemany(statement, rows)
        if observed_seq is not None:
            self._observed_seq = observed_seq

    def answer_of(self, command_id: str) -> str | None:
        """Return what a command was answered, or None where it was not done.

        Raises:
            StoreError: the database cannot be read.
        """
        with _named_errors(self._path, "look up a command"):
            found = self._db.execute("SELECT answer FROM commands WHERE id = ?", (command_id,)).fetchone()
        return None if found is None else str(found[0])

    # --- after a restart ----------------------------------------------------------------------------------------------

    def restore(self) -> Restored:
        """Return what was known when the process last ended.

        Raises:
            StoreError: the database cannot be read; while an iterator is used, too.
        """
        with _named_errors(self._path, "restore"):
            meta = _meta(self._db)
            commands = self._db.execute("SELECT id, topic, answer FROM commands ORDER BY seq DESC LIMIT 100").fetchall()
            rhythms = self._db.execute("SELECT house, signal, rhythm_s FROM series WHERE rhythm_s IS NOT NULL")
            flocks = _newest_changes(self._db, _NEWEST_OF_FLOCK)
            return Restored(
                standings=_standings(self._db),
                houses={change.house: change for change in _newest_changes(self._db, _NEWEST_OF_HOUSE)},
                flocks=flocks,
                judged_at=from_ms(int(meta["judged_ms"])) if "judged_ms" in meta else None,
                observed_seq=self._observed_seq,
                rhythms={SeriesKey(house, signal): rhythm for house, signal, rhythm in rhythms},
                newest_ms={k: high for k, n in self._series.items() if (high := self._seen.high_ms(n)) is not None},
                commands=tuple(reversed(commands)),
                buckets=self._buckets(),
                newer=self._newer_readings(self._observed_seq),
            )

    def _buckets(self) -> Iterator[BucketRow]:
        with _named_errors(self._path, "read what the windows held"):
            yield from self._db.execute(
                "SELECT house, signal, step_s, start_ms, n, sum, min, max, last FROM buckets ORDER BY step_s, start_ms"
            )

    def _newer_readings(self, seq: int) -> Iterator[Readings]:
        keys = tuple(self._series)  # numbered from 1 in this order
        with _named_errors(self._path, "read what was not observed yet"):
            while rows := self._db.execute(_NEWER_READINGS, (seq, BLOCK_ROWS)).fetchall():
                seqs, series, at_ms, received_ms, value, quality, time_quality = zip(*rows, strict=True)
                seq = seqs[-1]
                yield Readings(
                    keys,
                    np.array(series, np.int32) - np.int32(1),
                    np.array(at_ms, np.int64),
                    np.array(value, np.float64),
                    np.array(quality, np.uint8),
                    np.array(time_quality, np.uint8),
                    np.array(received_ms, np.int64),
                    last_seq=seq,
                )

    def _newer_than(self, seq: int) -> Iterator[tuple[int, Longs, Longs, NDArray[np.float64]]]:
        """Yield rows after ``seq`` as (number of the first, series, at_ms, value)."""
        while rows := self._db.execute(_NEWER_IDENTITIES, (seq, BLOCK_ROWS)).fetchall():
            seqs, series, at_ms, value = zip(*rows, strict=True)
            seq = seqs[-1]
            yield seqs[0], np.array(series, np.int64), np.array(at_ms, np.int64), np.array(value, np.float64)

    # --- forgetting ---------------------------------------------------------------------------------------------------

    def prune(self, now: datetime, *, keep_hours: int = 48, max_size_mb: int = 300) -> int:
        """Delete hot readings that are sealed, observed and old, and buckets past their time; return how many readings.

        Old is what is ``keep_hours`` before the newest stored reading or ``now``, whichever is earlier: neither a clock
        nor a sensor that has jumped ahead empties the house. Beyond ``max_size_mb`` younger ones go too, oldest first,
        if they are sealed. Whole periods of six hours go at a time, and at most about 500,000 readings in one call.
        Their times are kept. Without a readable ``sync.db`` of this generation no reading is deleted.

        Raises:
            StoreError: the database failed; what was deleted until then is deleted.
        """
        if self._last_seq == 0:
            return 0
        newest_ms = min(to_ms(now), self._seen.newest_ms)
        with self._transaction("prune buckets"):
            self._db.executemany(
                "DELETE FROM buckets WHERE step_s = ? AND start_ms < ?",
                [(step_s, newest_ms - kept_ms) for step_s, kept_ms in BUCKETS_KEPT_MS.items()],
            )
        sealed_seq = min(self._sealed_seq(), self._observed_seq)
        if sealed_seq <= 0:
            return 0
        self._save_seen()
        pruned = 0
        with _named_errors(self._path, "prune readings"):
            for period in self._periods():
                end_ms = (period + 1) * SEALED_PERIOD_MS
                too_large = self._size_mb() > max_size_mb and end_ms <= newest_ms
                if pruned >= PRUNE_ROWS or not (end_ms <= newest_ms - keep_hours * HOUR_MS or too_large):
                    break
                pruned += self._prune_period(period, sealed_seq, PRUNE_ROWS - pruned)
        return pruned

    def _periods(self) -> Iterator[int]:
        """Yield the periods that have rows, oldest first."""
        slot: int | None = self._db.execute("SELECT min(slot) FROM slots").fetchone()[0]
        while slot is not None:
            period = slot // SLOTS_PER_PERIOD
            yield period
            end = ((period + 1) * SLOTS_PER_PERIOD,)
            slot = self._db.execute("SELECT min(slot) FROM slots WHERE slot >= ?", end).fetchone()[0]

    def _prune_period(self, period: int, sealed_seq: int, limit: int) -> int:
        first_slot, end_slot = period * SLOTS_PER_PERIOD, (period + 1) * SLOTS_PER_PERIOD
        first_ms, last_ms = period * SEALED_PERIOD_MS, (period + 1) * SEALED_PERIOD_MS - 1
        runs = self._db.execute(
            "SELECT first_seq, last_seq FROM slots WHERE slot >= ? AND slot < ?", (first_slot, end_slot)
        )
        pruned = 0
        for first, last in joined(runs):
            for start in range(first, min(last, sealed_seq) + 1, BLOCK_ROWS):
                rows = (start, min(start + BLOCK_ROWS - 1, last, sealed_seq), first_ms, last_ms)
                pruned += self._prune_rows(period, rows)
                if pruned >= limit:
                    return pruned
        with self._transaction("prune readings"):
            self._db.execute(
                "DELETE FROM slots WHERE slot >= ? AND slot < ? AND last_seq <= ?", (first_slot, end_slot, sealed_seq)
            )
        self._seen.forget(first_slot, end_slot)
        return pruned

    def _prune_rows(self, period: int, rows: Rows) -> int:
        """Put the times of some rows of a period with the sealed ones, and delete the rows."""
        pairs = np.array([(series, at_ms) for series, at_ms, _ in self._rows(rows)], np.int64).reshape(-1, 2)
        if len(pairs) == 0:
            return 0
        with self._transaction("prune readings"):
            for series in np.unique(pairs[:, 0]).tolist():
                times = pairs[pairs[:, 0] == series, 1]
                found = self._db.execute(
                    "SELECT times FROM sealed_times WHERE period = ? AND series = ?", (period, series)
                ).fetchone()
                times = np.union1d(times, unpack_times(found[0]) if found else _NO_TIMES)
                self._db.execute(
                    "INSERT OR REPLACE INTO sealed_times VALUES (?, ?, ?)", (period, series, pack_times(times))
                )
            self._db.execute("DELETE FROM readings WHERE seq BETWEEN ? AND ? AND at_ms BETWEEN ? AND ?", rows)
        self._any_sealed = True
        self._unpacked = None, _NO_TIMES
        return len(pairs)

    def _sealed_seq(self) -> int:
        """Return the last reading that the courier has sealed of this database; 0 where that cannot be known."""
        return (sealed_watermarks(self._sync_db, self.generation) or {}).get("readings", 0)

    def _size_mb(self) -> float:
        """Return what the database holds, in MB, pages that are free for the next rows left out."""
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return float((pages - free) * size / 1e6)

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _set_meta(self, values: Mapping[str, str]) -> None:
        self._db.executemany(_SET_META, list(values.items()))

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[None]:
        """Make what happens inside durable as one, or undo it all.

        Raises:
            StoreError: it was undone.
        """
        with _named_errors(self._path, doing):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk may have ended it already
                    self._db.execute("ROLLBACK")
                raise
            self.counters.commits += 1


class StoreReader:
    """A read-only view for console, courier and command line; it never holds up the writer. A context manager.

    Attributes:
        gateway: see ``Store``.
        generation: see ``Store``.
    """

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self._path, self._db = path, db
        meta = _meta(db)
        self.gateway, self.generation = meta["gateway"], meta["generation"]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the database at ``path`` for reading.

        Raises:
            StoreError: it is absent, unreadable, foreign, or of another version of this program.
        """
        if not path.exists():
            message = f"{path}: there is no such database; start `flockwatch agent` once, or check [data] directory"
            raise StoreError(message)
        with ExitStack() as stack, _named_errors(path, "open"):
            db = stack.enter_context(closing(_read_only(path)))
            _check_ours(db, path)
            version, newest = _version(db), len(_migrations())
            if version != newest:
                message = (
                    f"{path}: the database has version {version}, this program reads version {newest}; "
                    "start the agent of this version once, or use the program that wrote it"
                )
                raise StoreError(message)
            reader = cls(path, db)
            stack.pop_all()
            return reader

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the view."""
        self._db.close()

    def data_version(self) -> int:
        """Return a number that changes whenever the writer has committed; asking costs microseconds.

        Raises:
            StoreError: the database cannot be read.
        """
        with _named_errors(self._path, "read"):
            return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def last_seq(self, stream: str) -> int:
        """Return the number of the newest row that a stream ever had, 0 where it had none.

        Raises:
            StoreError: the database cannot be read.
        """
        with _named_errors(self._path, "read"):
            if stream == "readings":
                return _last_reading(self._db)
            found = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (stream,)).fetchone()
            return int(found[0]) if found else 0

    def rows(self, stream: str, first_seq: int, last_seq: int) -> dict[str, list[Any]]:
        """Return the rows ``first_seq`` to ``last_seq`` (inclusive) of a stream in the columns of ``LAKE_COLUMNS``.

        In order of seq; times as integer ms. Takes about 200 bytes of memory for each reading: ask in parts.

        Raises:
            StoreError: the database cannot be read.
        """
        with _named_errors(self._path, f"read {stream}"):
            cursor = self._db.execute(_LAKE_ROWS[stream], (first_seq, last_seq))
            if stream == "readings":
                return self._reading_columns(cursor)
            records: Iterable[Sequence[Any]] = cursor
            if stream == "warnings":
                records = (_lake_warning(*record) for record in cursor)
            elif stream == "flocks":
                records = (_lake_flock(*record) for record in cursor)
            names = [name for name, _ in LAKE_COLUMNS[stream]]
            columns: Iterable[Iterable[Any]] = list(zip(*records, strict=True)) or [()] * len(names)
            return {name: list(column) for name, column in zip(names, columns, strict=True)}

    def _reading_columns(self, cursor: sqlite3.Cursor) -> dict[str, list[Any]]:
        series = self._db.execute("SELECT id, house, signal FROM series").fetchall()
        houses = {
            number: house for number, house, _ in series
        }  # each name is in memory once, however many rows have it
        signals = {number: signal for number, _, signal in series}
        columns: dict[str, list[Any]] = {name: [] for name, _ in LAKE_COLUMNS["readings"]}
        while block := cursor.fetchmany(10_000):
            at_ms, received_ms, number, value, quality, time_quality, seq = zip(*block, strict=True)
            columns["at"] += at_ms
            columns["received_at"] += received_ms
            columns["house"] += map(houses.__getitem__, number)
            columns["signal"] += map(signals.__getitem__, number)
            columns["value"] += value
            columns["quality"] += map(_QUALITIES.__getitem__, quality)
            columns["time_quality"] += map(_TIME_QUALITIES.__getitem__, time_quality)
            columns["seq"] += seq
        return columns

    def standings(self) -> tuple[Standing, ...]:
        """Return where every rule that ever left normal stands, in order of house and rule.

        Raises:
            StoreError: the database cannot be read.
        """
        with _named_errors(self._path, "read the warnings"):
            return _standings(self._db)

    def warnings_latest(self) -> list[dict[str, Any]]:
        """Return the newest transition of each rule, with its words: the columns of the lake as one dict each.

        Raises:
            StoreError: the database cannot be read.
        """
        with _named_errors(self._path, "read the warnings"):
            return [
                {"at": at_ms, **msgspec.json.decode(document), "seq": seq}
                for at_ms, document, seq in self._db.execute(
                    "SELECT at_ms, document, seq FROM warnings"
                    " WHERE seq IN (SELECT max(seq) FROM warnings GROUP BY house, rule) ORDER BY seq"
                )
            ]

    def flocks(self) -> tuple[FlockChange, ...]:
        """Return the newest change of each flock, present and past, oldest first.

        Raises:
            StoreError: the database cannot be read.
        """
        with _named_errors(self._path, "read the flocks"):
            return _newest_changes(self._db, _NEWEST_OF_FLOCK)

    def houses(self) -> dict[str, FlockChange]:
        """Return the newest change of each house: its state, and its flock where there is one.

        Raises:
            StoreError: the database cannot be read.
        """
        with _named_errors(self._path, "read the flocks"):
            return {change.house: change for change in _newest_changes(self._db, _NEWEST_OF_HOUSE)}

    def predictions_latest(self) -> list[Prediction]:
        """Return the newest prediction of each house, target and horizon, in that order.

        Raises:
            StoreError: the database cannot be read.
        """
        first_seq = self.last_seq("predictions") - LATEST_PREDICTIONS
        with _named_errors(self._path, "read the predictions"):
            return [
                Prediction(house, flock, from_ms(at_ms), day_number, target, from_ms(target_at_ms), *rest)
                for at_ms, house, flock, day_number, target, target_at_ms, *rest, _ in self._db.execute(
                    _LATEST_PREDICTIONS, (first_seq,)
                )
            ]

    def rejected(self, limit: int = 20) -> list[Rejected]:
        """Return what was last rejected, the newest first.

        Raises:
            StoreError: the database cannot be read.
        """
        with _named_errors(self._path, "read what was rejected"):
            return [
                Rejected(topic, reason, first_bytes, received_ms)
                for topic, reason, first_bytes, received_ms in self._db.execute(
                    "SELECT topic, reason, first_bytes, received_ms FROM rejected ORDER BY seq DESC LIMIT ?", (limit,)
                )
            ]

    def health(self) -> dict[str, Any]:
        """Return the health that the agent last recorded; empty where it recorded none.

        Raises:
            StoreError: the database cannot be read.
        """
        with _named_errors(self._path, "read the health"):
            health: dict[str, Any] = msgspec.json.decode(_meta(self._db).get("health", "{}"))
            return health

    def counts(self) -> dict[str, int]:
        """Return the rows each stream ever had, ``series``, ``readings_hot`` (about), ``observed_seq``, ``judged_ms``.

        Raises:
            StoreError: the database cannot be read.
        """
        counts = {stream: self.last_seq(stream) for stream in STREAMS}
        with _named_errors(self._path, "count"):
            first, last, series = self._db.execute(
                "SELECT (SELECT min(seq) FROM readings), (SELECT max(seq) FROM readings), (SELECT count(*) FROM series)"
            ).fetchone()
            meta = _meta(self._db)
        hot = 0 if first is None else last - first + 1
        return counts | {
            "series": series,
            "readings_hot": hot,
            "observed_seq": int(meta["observed_seq"]),
            "judged_ms": int(meta.get("judged_ms", 0)),
        }


def sealed_watermarks(sync_db: Path, generation: str) -> dict[str, int] | None:
    """Return up to which row the courier has sealed each stream of a generation; None where there is no such record."""
    try:
        with closing(_read_only(sync_db)) as db:
            return dict(db.execute("SELECT stream, sealed_seq FROM watermarks WHERE generation = ?", (generation,)))
    except sqlite3.Error:  # absent, unreadable, half made: then nothing is known to be sealed
        return None


# --- the file ---------------------------------------------------------------------------------------------------------

_REMEDIES = {
    sqlite3.SQLITE_FULL: "free space on this disk; nothing was half written, and the broker keeps what it sent",
    sqlite3.SQLITE_IOERR: "the disk failed or is full: free space, then look for disk errors in `dmesg`",
    sqlite3.SQLITE_READONLY: "give the user of this program the right to write the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "give the user of this program the right to the file and its folder",
    sqlite3.SQLITE_PERM: "give the user of this program the right to the file and its folder",
    sqlite3.SQLITE_BUSY: "another program holds the database: end it and try again",
    sqlite3.SQLITE_NOTADB: "it is no SQLite database: move it away, and a new one is begun",
    sqlite3.SQLITE_CORRUPT: "it is damaged: move it away together with its -wal and -shm files, and a new one is begun;"
    " `sqlite3 FILE .recover` may get back what was not sealed yet",
}


@contextmanager
def _named_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn what SQLite and the file system raise into a StoreError that says what to do."""
    try:
        yield
    except sqlite3.Error as e:
        code = getattr(e, "sqlite_errorcode", 0) & 0xFF
        remedy = _REMEDIES.get(code, "if it stays, report it with this message")
        message = f"{path}: could not {doing}: {e}; {remedy}"
        raise StoreError(message) from e
    except msgspec.MsgspecError as e:
        message = f"{path}: could not {doing}: a stored document is not as this program writes it: {e}"
        raise StoreError(message) from e
    except OSError as e:
        message = f"{path}: could not {doing}: {e}; check [data] directory and its rights"
        raise StoreError(message) from e


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file beside ``path``: two agents on one database would number rows twice."""
    with path.with_name(path.name + ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            message = f"{path}: another agent has it open; end that one, or give this one its own [data] directory"
            raise StoreError(message) from e
        yield


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)  # None: transactions begin where we say
    try:
        _check_ours(db, path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
    except BaseException:
        db.close()
        raise
    return db


def _read_only(path: Path) -> sqlite3.Connection:
    uri = path.absolute().as_uri() + "?mode=ro"
    db = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    db.execute("PRAGMA query_only = ON")
    return db


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _check_ours(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a database that another program made, before anything is written to it."""
    application_id = db.execute("PRAGMA application_id").fetchone()[0]
    empty = db.execute("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)").fetchone()[0]
    if application_id != APPLICATION_ID and not empty:
        message = f"{path}: this database was not made by flockwatch; move it away, or give another [data] directory"
        raise StoreError(message)


def _migrations() -> list[str]:
    """Return the scripts that make the database, in order; the database of version n has had the first n."""
    folder = resources.files("agent") / "migrations"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return [file.read_text(encoding="utf-8") for file in files]


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring the database to this program's version, each step whole or not at all."""
    scripts, version = _migrations(), _version(db)
    if version > len(scripts):
        message = (
            f"{path}: the database has version {version}, this program knows {len(scripts)}; "
            "start the newer program that wrote it, or give another [data] directory"
        )
        raise StoreError(message)
    if version == len(scripts):
        return
    import sqlite_utils  # noqa: PLC0415 - 0.1 s and 10 MB that only a first start and an update need

    database = sqlite_utils.Database(db, recursive_triggers=False, execute_plugins=False)
    for number, script in enumerate(scripts[version:], version + 1):
        with database.atomic():
            database.executescript(script)
            if number == 1:
                names = {"gateway": secrets.token_hex(6), "generation": secrets.token_hex(4)}
                db.executemany(_SET_META, [*names.items(), ("observed_seq", "0"), ("seen_seq", "0")])
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {number}")


# --- rows -------------------------------------------------------------------------------------------------------------


def _meta(db: sqlite3.Connection) -> dict[str, str]:
    return dict(db.execute("SELECT key, value FROM meta").fetchall())


def _last_reading(db: sqlite3.Connection) -> int:
    """Return the number of the newest reading, pruned or not: the store saves what it saw before it prunes."""
    last = db.execute(
        "SELECT max(coalesce((SELECT max(seq) FROM readings), 0), CAST(value AS INTEGER))"
        " FROM meta WHERE key = 'seen_seq'"
    ).fetchone()
    return int(last[0])


def _json(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _digest(message: Message) -> tuple[int, bytes]:
    return message.mid, blake2b(message.topic.encode() + b"\0" + message.payload, digest_size=16).digest()


def _not_finite(readings: Readings) -> list[Rejected]:
    """Return values that are no numbers as rejected: they fit no column, and must not hold up the others."""
    return [
        Rejected("/".join(readings.keys[key]), "value is not a finite number", str(value).encode(), received_ms)
        for key, value, received_ms in zip(
            readings.key.tolist(), readings.value.tolist(), readings.received_ms.tolist(), strict=True
        )
    ]


def _with_late(time_quality: NDArray[np.uint8], late: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Mark what came out of order, except where the time is not the sender's own: then that is what must be known."""
    late = late & (time_quality <= TimeQuality.ASSUMED_ZONE)
    return np.where(late, np.uint8(TimeQuality.LATE), time_quality)


def _milliseconds(at: datetime | None) -> int | None:
    return None if at is None else to_ms(at)


def _event_row(event: Event) -> _EventRow:
    return (
        to_ms(event.at),
        event.kind,
        event.house,
        event.signal,
        _milliseconds(event.from_at),
        _milliseconds(event.to_at),
        _json(event.detail),
    )


def _warning_row(event: WarningEvent) -> tuple[int, str, str, str]:
    standing = event.standing
    row = alert_row(event) | {"since": _milliseconds(standing.since), "raised_at": _milliseconds(standing.raised_at)}
    document = {name: row[name] for name, _ in LAKE_COLUMNS["warnings"][1:-1]}
    return to_ms(event.at), standing.house, standing.rule, _json(document)


def _lake_warning(at_ms: int, document: str, seq: int) -> tuple[Any, ...]:
    row = msgspec.json.decode(document)
    return (at_ms, *(row.get(name) for name, _ in LAKE_COLUMNS["warnings"][1:-1]), seq)


def _prediction_row(prediction: Prediction) -> tuple[Any, ...]:
    p = prediction
    return (
        to_ms(p.made_at),
        p.house,
        p.flock,
        p.day_number,
        p.target,
        to_ms(p.target_at),
        p.horizon,
        p.p10,
        p.p50,
        p.p90,
        p.model,
        p.model_version,
        p.coverage,
    )


def _flock_document(change: FlockChange) -> str:
    return _json(_FlockDocument(change.flock, change.detail))


def _lake_flock(at_ms: int, house: str, action: str, state: str, document: str, seq: int) -> tuple[Any, ...]:
    said = msgspec.json.decode(document, type=_FlockDocument)
    flock, detail = said.flock, _json(said.detail)
    if flock is None:
        return (at_ms, house, None, action, state, *[None] * 9, detail, seq)
    return (
        at_ms,
        house,
        flock.flock,
        action,
        state,
        flock.placed_on.isoformat(),
        flock.birds_placed,
        flock.strain,
        flock.sex,
        flock.parent_age_weeks,
        flock.planned_end_on and flock.planned_end_on.isoformat(),
        _milliseconds(flock.ended_at),
        flock.slaughter_weight_g,
        flock.thinned_birds,
        detail,
        seq,
    )


def _newest_changes(db: sqlite3.Connection, query: str) -> tuple[FlockChange, ...]:
    changes = []
    for at_ms, action, house, state, document in db.execute(query):
        said = msgspec.json.decode(document, type=_FlockDocument)
        changes.append(FlockChange(from_ms(at_ms), action, house, HouseState(state), said.flock, said.detail))
    return tuple(changes)


def _standings(db: sqlite3.Connection) -> tuple[Standing, ...]:
    return tuple(
        msgspec.json.decode(document, type=Standing)
        for (document,) in db.execute("SELECT document FROM warning_states ORDER BY house, rule")
    )
