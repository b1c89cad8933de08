"""The one writer of house.db."""

from __future__ import annotations

import logging
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from agent.domain import Event, SeriesKey, to_ms
from agent.errors import StoreDamaged, StoreError
from agent.fitness import FitDay, FitFlock
from agent.seen import BEFORE_ALL
from agent.store import times
from agent.store.file import check_whole, connect, locked, migrate, named_errors, new_generation, transaction
from agent.store.index import Index
from agent.store.keepsake import keep, read
from agent.store.prune import DAY_MS, Pruner, Span
from agent.store.quarantine import (
    commits_beyond,
    in_quarantine,
    lost_content,
    put_aside,
    put_wal_aside,
    sealed_in_lake,
    take_over,
    unreadable_wal,
)
from agent.store.reader import begun_seals, lake_high, sealed_watermarks, sealing_held
from agent.store.reserve import Reserve
from agent.store.restore import restore
from agent.store.rows import (
    DROP_COMMANDS,
    INSERT_COMMAND,
    INSERT_EVENT,
    INSERT_FLOCK,
    INSERT_PREDICTION,
    INSERT_SHADOW_PREDICTION,
    INSERT_SHADOW_WARNING,
    INSERT_WARNING,
    LAKE_COLUMNS,
    LAKE_ROWS,
    NEWEST_OF_HOUSE,
    REPLACE_BUCKET,
    REPLACE_FIT_DAY,
    REPLACE_FIT_FLOCK,
    REPLACE_SHADOW_STANDING,
    REPLACE_STANDING,
    SET_META,
    SET_RHYTHM,
    STREAMS,
    as_json,
    digest,
    event_row,
    fit_day_row,
    fit_flock_row,
    flock_row,
    lake_warning,
    last_raised,
    last_seq_of,
    meta_of,
    newest_changes,
    prediction_row,
    unwanted,
    warning_row,
    with_late,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from agent.domain import FlockChange, Message, Prediction, Rejected, Standing, WarningEvent
    from agent.readings import Readings
    from agent.seen import Longs, Verdict
    from agent.store.restore import Restored
    from agent.store.rows import BucketRow, EventRow

log = logging.getLogger(__name__)

HOUR_MS = 3_600_000
REJECTED_KEPT = 1_000
REJECTED_BYTES = 200
TOPIC_CHARS = 500
COMMANDS_KEPT = 10_000
SEAL_LATE_S = 2 * 3_600.0  # with nothing sealed for so long, or
SEAL_LATE_ROWS = 1_500_000  # with so many rows waiting, sync is not helping: it seals hourly, or at a million rows
DEGRADE_ROWS = 100_000  # in one call: the courier waits that long
UNSEALED_S = 7 * 86_400.0 + SEAL_LATE_S  # of running time; rows of a doubtful time wait for seven days to be sealed
CONFLICTS_PER_HOUR = 100  # recorded one by one; beyond that they are only counted


class KnownTime(NamedTuple):
    """What a restart needs to know of the time; 0 where it was never known."""

    presumed_ms: int  # the last one, trusted or not
    known_good_ms: int  # the last one that was trusted


@dataclass(slots=True)
class StoreCounters:
    """What happened to readings since the store was opened."""

    appended: int = 0
    duplicates: int = 0
    conflicts: int = 0
    late: int = 0
    too_old: int = 0  # older than what is remembered: rejected
    commits: int = 0


class Store:
    """The writer, owned by the agent's main thread; a context manager.

    Attributes:
        gateway: random name of this installation, 12 hex digits, made at the first start.
        generation: random name of this database, 8 hex digits: sequence numbers are unique within it.
        counters: what happened since it was opened.
        reserve: space on the disk for when it is full.
        said: what was found when it was opened, and is not recorded yet.
        is_aside: the damaged file is in the quarantine, and the new one is not whole yet: ``begin_anew`` is to be tried
            again.
    """

    is_lasting = True  # what it took is on the disk; see ``Unstored``

    def __init__(self, path: Path, sync_db: Path) -> None:
        self._path, self._sync_db = path, sync_db
        self._resources = ExitStack()
        self._file = ExitStack()  # the connection, which a new database replaces
        self.reserve = Reserve(path.parent)
        self.is_aside = False  # the damaged file is in the quarantine, and the new one is not whole yet
        self.counters = StoreCounters()
        self.said: list[Event] = []

    @classmethod
    def open(cls, path: Path, *, sync_db: Path | None = None, at: datetime | None = None) -> Self:
        """Open the database at ``path``, making it and its folder where there is none.

        One that is damaged is put into the quarantine, and a new one takes over what it still tells: see ``said``.

        Args:
            path: of ``house.db``.
            sync_db: the courier's database, which says how far is sealed; read only. ``sync.db`` in the same folder by
                default.
            at: now, for what is said of a damaged one; the machine's own time by default.

        Raises:
            StoreError: it is in use, foreign, of a newer program, or cannot be written; the message says what to do.
        """
        at = at or datetime.now(UTC)
        with ExitStack() as stack, named_errors(path, "open"):
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            stack.enter_context(locked(path))
            store = cls(path, sync_db or path.with_name("sync.db"))
            stack.callback(store._file.close)
            try:
                store._begin(at, lost_content(path))
            except StoreDamaged as e:
                store._replace(str(e), at)
            store._resources = stack.pop_all()
            return store

    def begin_anew(self, why: str, at: datetime) -> None:
        """Put the damaged database into the quarantine and go on with a new one that takes over what can be read.

        The caller stores anew what he knows himself: where rules stand, what goes on in the houses.

        Raises:
            StoreError: there is no new database; it may be tried again.
        """
        with named_errors(self._path, "begin anew"):
            self._replace(why, at, gateway=self.gateway, newest_ms=self.newest_ms())

    def newest_ms(self) -> dict[SeriesKey, int]:
        """Return the newest time of each series."""
        seen = self._index.seen
        return {key: high for key, n in self._series.items() if (high := seen.high_ms(n)) is not None}

    def quarantined(self) -> list[Path]:
        """Return the damaged files that nobody has seen to yet, oldest first."""
        return in_quarantine(self._path.parent)

    def _replace(
        self,
        why: str,
        at: datetime,
        *,
        gateway: str | None = None,
        newest_ms: Mapping[SeriesKey, int] | None = None,
    ) -> None:
        self._file.close()
        if not self.is_aside:  # an earlier try may have come so far
            log.error("%s; it is now %s, and a new one is begun", why, put_aside(self._path, at))
            self.is_aside = True
        self._begin(at, None, why=why, gateway=gateway, newest_ms=newest_ms)
        self.is_aside = False

    def _begin(
        self,
        at: datetime,
        lost: str | None,
        *,
        why: str | None = None,
        gateway: str | None = None,
        newest_ms: Mapping[SeriesKey, int] | None = None,
    ) -> None:
        """Open the file, bring it to this version, and take its content up into memory.

        Raises:
            StoreDamaged: it holds no sound database; ``lost`` says why, where that is known already.
        """
        path = self._path
        if lost is not None:
            message = f"{path}: {lost}"
            raise StoreDamaged(message)
        with named_errors(path, "open"):
            bad_wal = unreadable_wal(path)
            if bad_wal is not None:
                self.said.append(_wal_event(put_wal_aside(path, at, move=True), bad_wal, at))
            # SQLite gives the rights of this file to its -wal and -shm. sync, another user of our group, may make them
            # while we are down: without the right of the group to write, we could then not write ourselves
            path.touch(mode=0o660)
            self._db = self._file.enter_context(closing(connect(path)))
            check_whole(self._db, path)
            if behind := commits_beyond(path, self._db):
                bad_wal = f"{behind} or more transactions stand behind a damaged place of its WAL"
                self.said.append(_wal_event(put_wal_aside(path, at, move=False), bad_wal, at))
            migrate(self._db, path)
            said = take_over(self._db, path, self._sync_db, at, why=why, gateway=gateway, newest_ms=newest_ms)
            _leave_what_was_sealed(self._db, path, self._sync_db)
            try:
                self._load()
            except (KeyError, ValueError) as e:
                message = f"{path}: what it must hold is missing or garbled: {e!r}"
                raise StoreDamaged(message) from e
        kept = read(path.parent)
        if (kept is None or kept.gateway != self.gateway) and last_seq_of(self._db, "flocks"):
            self._keep()  # an earlier version kept nothing; and a backup that was restored is another gateway
        if said is not None:
            log.warning("%s: took over from the damaged one: %s", path, as_json(said.detail))

    def _load(self) -> None:
        """Take up into memory what is kept there beside the file."""
        db = self._db
        meta = meta_of(db)
        self.gateway, self.generation = meta["gateway"], meta["generation"]
        self._observed_seq = int(meta["observed_seq"])
        self._last_seq = last_seq_of(db, "readings")
        series = db.execute("SELECT house, signal, id FROM series ORDER BY id")
        self._series = {SeriesKey(house, signal): number for house, signal, number in series}
        self._index = Index(db)
        self._pruner = Pruner(db, self._index, self._transaction)
        self._known_keys: tuple[SeriesKey, ...] | None = None  # all of which are stored series, of these numbers
        self._known_ids: Longs = np.empty(0, np.int64)
        self._unacknowledged = set(db.execute("SELECT mid, digest FROM unacknowledged"))
        self._acknowledged = False
        self._conflicts_of_hour = (0, 0)  # hour, recorded in it
        self._forgotten_before_ms = int(meta.get("forgotten_before_ms", BEFORE_ALL))
        self._waited = int(meta.get("waited_seq", -1)), float(meta.get("waited_s", 0.0))
        self._waited_at: float | None = None  # monotonic

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database. Nothing is lost without it; the next start is quicker with it."""
        with self._resources, suppress(StoreError):  # a full disk: no row is lost, the next start reads some more
            self._save_index()

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
        births: Sequence[tuple[str, bytes]] = (),
        at_ms: int,
    ) -> Readings:
        """Store what is new of a block in one transaction; it is on the disk when this returns.

        The identity of a reading is (house, signal, at): the first value wins; the same again is counted; another value
        is counted and, up to 100 an hour, recorded as an event ``conflict``. A reading older than the newest of its
        series is marked late. A value that is no finite number is set aside as rejected, and so is a reading that is
        older than what ``forget`` let go of.

        Args:
            readings: with their quality judged.
            rejected: what did not become a reading; the newest 1,000 are kept.
            arrivals: the messages whose readings have no time of their own: see ``is_redelivered``.
            births: topic and payload of what tells how to read later messages; replaces what was stored of the topic,
                an empty payload removes it.
            at_ms: the farm's time, for what is recorded beside the readings.

        Returns:
            The new rows in their order of arrival. ``last_seq`` is the store's newest, whether or not there are any.

        Raises:
            StoreError: nothing of it was stored (the disk is full, say); all may be tried again.
        """
        finite = np.isfinite(readings.value)
        if not finite.all():
            rejected = [*rejected, *unwanted(readings.take(~finite), "value is not a finite number")]
            readings = readings.take(finite)
        old = readings.at_ms < self._forgotten_before_ms
        if old.any():  # it may be stored already, and nobody can tell any more
            rejected = [*rejected, *unwanted(readings.take(old), "older than what is remembered")]
            self.counters.too_old += int(old.sum())
            readings = readings.take(~old)
        ids, added = self._ids_of(readings)
        series = ids[readings.key]
        with named_errors(self._path, "append readings"):
            verdict = self._index.seen.judge(series, readings.at_ms, readings.value)
        conflicts, recorded = self._conflict_rows(readings, verdict, at_ms)
        if not verdict.new.all():
            series, late, readings = series[verdict.new], verdict.late[verdict.new], readings.take(verdict.new)
        else:
            late = verdict.late
        readings = replace(readings, last_seq=self._last_seq + len(readings))
        if late.any():
            readings = replace(readings, time_quality=with_late(readings.time_quality, late))
        digests = {digest(message) for message in arrivals if message.qos > 0}
        if added or len(readings) or rejected or digests or conflicts or births:
            self._commit(readings, series, added, rejected, digests, conflicts, births)
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
        conflicts: list[EventRow],
        births: Sequence[tuple[str, bytes]],
    ) -> None:
        """Write what ``append`` found to be new, and only then change what is kept in memory."""
        first_seq = self._last_seq + 1
        save_index = self._index.is_due(self._last_seq)
        with self._transaction("append readings"):
            if save_index:
                self._index.write(self._last_seq)
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
                self._db.executemany(INSERT_EVENT, conflicts)
            if births:
                self._db.executemany("DELETE FROM births WHERE topic = ?", [(topic,) for topic, _ in births])
                self._db.executemany("INSERT INTO births VALUES (?, ?)", [birth for birth in births if birth[1]])
            if self._acknowledged:
                self._db.execute("DELETE FROM unacknowledged")
            if digests:
                self._db.executemany("INSERT OR IGNORE INTO unacknowledged VALUES (?, ?)", digests)
        if save_index:
            self._index.saved(self._last_seq)
        self._series.update((SeriesKey(house, signal), number) for number, house, signal in added)
        self._index.seen.add(series, readings.at_ms, readings.value, first_seq)
        self._last_seq = readings.last_seq
        self._unacknowledged = digests if self._acknowledged else self._unacknowledged | digests
        self._acknowledged = False

    def _ids_of(self, readings: Readings) -> tuple[Longs, list[tuple[int, str, str]]]:
        """Return the number of each key's series, and the rows (number, house, signal) of those that are not stored."""
        if readings.keys is self._known_keys:
            return self._known_ids, []
        numbers = [self._series.get(key, 0) for key in readings.keys]
        added: list[tuple[int, str, str]] = []
        if 0 in numbers:
            used = set(readings.key.tolist())
            for i, key in enumerate(readings.keys):
                if numbers[i] == 0 and i in used:
                    numbers[i] = len(self._series) + len(added) + 1
                    added.append((numbers[i], key.house, key.signal))
        ids = np.array(numbers, np.int64)
        if not added and ids.all():
            self._known_keys, self._known_ids = readings.keys, ids
        return ids, added

    def _conflict_rows(
        self, readings: Readings, verdict: Verdict, at_ms: int
    ) -> tuple[list[EventRow], tuple[int, int]]:
        """Return the events to record, and (hour, conflicts recorded in it) as it will then be."""
        hour = at_ms // HOUR_MS
        recorded = self._conflicts_of_hour[1] if self._conflicts_of_hour[0] == hour else 0
        rows: list[EventRow] = []
        for index, stored in verdict.conflicts[: CONFLICTS_PER_HOUR - recorded]:
            detail: dict[str, object] = {"stored": stored, "received": float(readings.value[index])}
            if recorded + len(rows) + 1 == CONFLICTS_PER_HOUR:
                detail["note"] = "the last one recorded this hour; further ones are only counted"
            key, time = readings.keys[int(readings.key[index])], int(readings.at_ms[index])
            rows.append((at_ms, "conflict", key.house, key.signal, time, time, as_json(detail)))
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
        return message.dup and bool(self._unacknowledged) and digest(message) in self._unacknowledged

    def acknowledged(self) -> None:
        """Take note that all that was committed so far was acknowledged: the next commit forgets those messages."""
        self._acknowledged = bool(self._unacknowledged)

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
        time: KnownTime | None = None,
        windows_rebuilt: bool = False,
        wear: str | None = None,
        kept: Mapping[str, str] | None = None,
        fitness: Sequence[FitDay | FitFlock] = (),
        shadow_warnings: Sequence[WarningEvent] = (),
        shadow_standings: Sequence[Standing] = (),
        shadow_predictions: Sequence[Prediction] = (),
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
            time: what is known of the time, for the next start.
            windows_rebuilt: ``buckets`` and ``observed_seq`` finish a correction of the time: see ``forget_windows``.
            wear: what ``agent.wear`` keeps.
            kept: words to find again after a restart, by name: see ``kept``.
            fitness: how models fit houses; each replaces what was stored of its day or flock.
            shadow_warnings: the transitions that shadow bundles would have brought.
            shadow_standings: where rules would stand by them.
            shadow_predictions: theirs.

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
            meta["health"] = as_json(health)
        if time is not None:
            meta |= {"presumed_ms": str(time.presumed_ms), "known_good_ms": str(time.known_good_ms)}
        if wear is not None:
            meta["wear"] = wear
        meta |= {f"kept {name}": text for name, text in (kept or {}).items()}
        numbers = [(rhythm, self._series[key]) for key, rhythm in (rhythms or {}).items() if key in self._series]
        work: list[tuple[str, Sequence[Sequence[object]]]] = [
            (INSERT_WARNING, [warning_row(event) for event in warnings]),
            (REPLACE_STANDING, [(s.house, s.rule, as_json(s)) for s in standings]),
            (INSERT_PREDICTION, [prediction_row(prediction) for prediction in predictions]),
            (INSERT_SHADOW_WARNING, [warning_row(event) for event in shadow_warnings]),
            (REPLACE_SHADOW_STANDING, [(s.house, s.rule, as_json(s)) for s in shadow_standings]),
            (INSERT_SHADOW_PREDICTION, [prediction_row(prediction) for prediction in shadow_predictions]),
            (REPLACE_FIT_DAY, [fit_day_row(fit) for fit in fitness if isinstance(fit, FitDay)]),
            (REPLACE_FIT_FLOCK, [fit_flock_row(fit) for fit in fitness if isinstance(fit, FitFlock)]),
            (INSERT_FLOCK, [flock_row(change) for change in flock_changes]),
            (INSERT_EVENT, [event_row(event) for event in events]),
            (REPLACE_BUCKET, buckets),
            (SET_RHYTHM, numbers),
            (INSERT_COMMAND, commands),
            (DROP_COMMANDS, [(COMMANDS_KEPT,)] if commands else []),
            (SET_META, list(meta.items())),
        ]
        if not any(rows for _, rows in work) and not windows_rebuilt:
            return
        with self._transaction("record what was judged"):
            for statement, rows in work:
                if rows:
                    self._db.executemany(statement, rows)
            if windows_rebuilt:
                times.drop(self._db)
        if observed_seq is not None:
            self._observed_seq = observed_seq
        if flock_changes:
            self._keep()

    def _keep(self) -> None:
        """Keep beside the database what must survive it."""
        try:
            keep(self._path.parent, self.gateway, newest_changes(self._db, NEWEST_OF_HOUSE))
        except OSError as e:  # the database has it; what is kept is of an earlier change
            log.warning("%s: not kept beside the database: %s", self._path, e)

    def answer_of(self, command_id: str) -> str | None:
        """Return what a command was answered, or None where it was not done.

        Raises:
            StoreError: the database cannot be read.
        """
        with named_errors(self._path, "look up a command"):
            found = self._db.execute("SELECT answer FROM commands WHERE id = ?", (command_id,)).fetchone()
        return None if found is None else str(found[0])

    def kept(self, name: str) -> str | None:
        """Return what was recorded to be kept under this name; None where nothing was.

        Raises:
            StoreError: the database cannot be read.
        """
        with named_errors(self._path, "look up what was kept"):
            found = self._db.execute("SELECT value FROM meta WHERE key = ?", (f"kept {name}",)).fetchone()
        return None if found is None else str(found[0])

    def changes_after(self, seq: int, limit: int) -> list[dict[str, Any]]:
        """Return up to ``limit`` rows of ``warnings`` after ``seq``, in the columns of the lake, times as integer ms.

        Raises:
            StoreError: the database cannot be read.
        """
        names = [name for name, _ in LAKE_COLUMNS["warnings"]]
        with named_errors(self._path, "read warnings"):
            found = self._db.execute(LAKE_ROWS["warnings"] + " LIMIT ?", (seq + 1, 2**62, limit)).fetchall()
        return [dict(zip(names, lake_warning(*row), strict=True)) for row in found]

    def last_raised(self, house: str, rule: str) -> dict[str, Any] | None:
        """Return the newest row of the last warning that a rule raised, over or not; None where none is here any more.

        Its keys are columns of the lake's ``warnings``, times as integer ms.

        Raises:
            StoreError: the database cannot be read.
        """
        with named_errors(self._path, "look up a warning"):
            return last_raised(self._db, house, rule)

    # --- after a restart ----------------------------------------------------------------------------------------------

    def restore(self, again: Sequence[tuple[int, int]] = ()) -> Restored:
        """Return what was known when the process last ended.

        Args:
            again: times (after the first, up to the second) of which ``newer`` has all readings: of ``forget_windows``.

        Raises:
            StoreError: the database cannot be read; while an iterator is used, too.
        """
        return restore(self._db, self._path, self.newest_ms(), tuple(self._series), again)

    # --- the time: see agent.store.times ------------------------------------------------------------------------------

    def known_time(self) -> KnownTime:
        """Return what was known of the time when it was last recorded."""
        meta = meta_of(self._db)
        return KnownTime(int(meta.get("presumed_ms", 0)), int(meta.get("known_good_ms", 0)))

    def last_segment(self) -> times.Segment | None:
        """Return by which clock the newest readings were received; None where none was ever noted."""
        segments = times.segments_of(self._db)
        return segments[-1] if segments else None

    def note_clock(self, segment: times.Segment, *, delta_ms: int, why: str) -> None:
        """Store that readings are received by another clock from now on, and what is to be corrected because of it.

        Args:
            segment: the clock; its ``first_seq`` is set here.
            delta_ms: by how much its time is ahead of what was presumed before in the same boot.
            why: what happened, for people.

        Raises:
            StoreError: nothing of it was stored; or a correction before this one cannot be finished now.
        """
        while not self.correct():
            pass
        segment = segment._replace(first_seq=self._last_seq + 1)
        now_ms = segment.began_ms
        with self._transaction("note the clock"):
            earlier = times.correction_of(self._db)
            pending = times.correction_for(self._db, segment, delta_ms, why, earlier=earlier)
            times.note_segment(self._db, segment)
            detail = {**segment.value(), "delta_ms": delta_ms, "why": why}
            self._db.execute(INSERT_EVENT, (now_ms, "clock", None, None, None, None, as_json(detail)))
            if pending is not None:
                self._index.write(self._last_seq)
                times.save(self._db, pending)
        if pending is not None:
            self._index.saved(self._last_seq)

    def correct(self) -> bool:
        """Move the next block of readings whose time is to be corrected; return whether none is left.

        Raises:
            StoreError: the database failed, or how far is sealed cannot be read; it goes on with the next call.
        """
        with named_errors(self._path, "correct the time of readings"):
            pending = times.correction_of(self._db)
            if pending is None or pending.moved:
                return True
            if pending.sealed_seq is None:
                sealed = times.sealed_or_about_to_be(self._sync_db, self.generation)
                pending.sealed_seq, pending.about_to_be = sealed
            self._save_index()
            times.Corrector(self._db, self._index, self._transaction).move_block(pending)
            if pending.moved:
                self._index = Index(self._db)
                self._pruner = Pruner(self._db, self._index, self._transaction)
            return pending.moved

    def forget_windows(self, day_of: Callable[[int], tuple[int, int]]) -> list[tuple[int, int]] | None:
        """Delete the buckets of the days on which readings were moved; return those times, or None where none were.

        The windows are then to be built anew: by ``restore`` with these times, until ``record`` is told that they are.

        Args:
            day_of: the beginning and the end of the farm day of a time, all in ms.

        Raises:
            StoreError: nothing was deleted.
        """
        pending = times.correction_of(self._db)
        if pending is None or not pending.moved:
            return None
        spans = times.joined_spans([(day_of(first)[0], day_of(last)[1]) for first, last in pending.spans])
        with self._transaction("forget what the windows held"):
            self._db.executemany("DELETE FROM buckets WHERE start_ms >= ? AND start_ms < ?", spans)
        return spans

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
        newest_ms = self._newest_ms(now)
        self._pruner.prune_buckets(newest_ms)
        span = Span(0, min(self._sealed_seq(), self._observed_seq))
        if span.rows == 0:
            return 0
        self._save_index()
        end_ms = newest_ms - keep_hours * HOUR_MS
        with named_errors(self._path, "prune readings"):
            return self._pruner.prune_readings(span, end_ms, newest_ms, max_size_mb, to_ms(now))

    def degrade(
        self,
        now: datetime,
        monotonic_s: float,
        *,
        keep_hours: int = 48,
        max_size_mb: int = 1_000,
        is_short: bool = False,
    ) -> str | None:
        """Let old readings that nobody seals leave rollups; return why, None where there is no need.

        Where nothing was sealed for seven days of running, those older than ``keep_hours`` (as ``prune`` sees it).
        Where the disk ``is_short``, or the database is larger than ``max_size_mb``, and sync does not help, younger
        ones, too. What may be in the local lake already is not touched: it is there.

        Args:
            now: the farm's time.
            monotonic_s: real time, by which the waiting is measured: no clock that jumps brings it on.
            keep_hours: see ``prune``.
            max_size_mb: of this database.
            is_short: the disk has little room.

        Raises:
            StoreError: the database failed; what was degraded until then is.
        """
        with sealing_held(self._sync_db, self.generation) as sealed_seq:
            waited_s = self._waited_s(sealed_seq, monotonic_s)
            if self._last_seq == sealed_seq or (
                waited_s < SEAL_LATE_S and self._last_seq - sealed_seq < SEAL_LATE_ROWS
            ):
                return None
            newest_ms = self._newest_ms(now)
            end_ms = newest_ms - keep_hours * HOUR_MS
            if waited_s >= UNSEALED_S:
                because = "nothing was sealed for 7 days"
            elif self._pruner.size_mb() > max_size_mb:
                because = f"nothing is sealed, and house.db is larger than {max_size_mb} MB"
                end_ms = BEFORE_ALL
            elif is_short:
                because = "nothing is sealed, and the disk is nearly full"
                end_ms = newest_ms
            else:
                return None
            self._save_index()
            named_seq = lake_high(self._sync_db.with_name("lake"), self.gateway, self.generation)
            span = Span(max(sealed_seq, named_seq), self._observed_seq, because)
            with named_errors(self._path, "degrade readings"):
                self._pruner.prune_readings(span, end_ms, newest_ms, max_size_mb, to_ms(now), DEGRADE_ROWS)
            return because

    def forget(self, now: datetime, *, keep_days: int = 400) -> None:
        """Let go of times of readings from before ``keep_days``, and of old rows of other streams that are in the lake.

        Days are before the newest stored reading or ``now``, whichever is earlier. Call it once an hour.

        Raises:
            StoreError: the database failed.
        """
        if self._last_seq == 0:
            return
        newest_ms = self._newest_ms(now)
        sealed = sealed_watermarks(self._sync_db, self.generation) or {}
        before_ms = newest_ms - keep_days * DAY_MS
        with named_errors(self._path, "forget"):
            self._pruner.forget_times(before_ms)
            self._pruner.prune_judged(newest_ms, before_ms, sealed)
            self._forgotten_before_ms = int(meta_of(self._db).get("forgotten_before_ms", BEFORE_ALL))

    def _newest_ms(self, now: datetime) -> int:
        """Return the farm's time, or that of the newest reading where the clock is ahead of it."""
        return min(to_ms(now), self._index.seen.newest_ms)

    def _waited_s(self, sealed_seq: int, monotonic_s: float) -> float:
        """Return for how long of running time nothing was sealed, over restarts; it is saved once an hour."""
        since, self._waited_at = self._waited_at, monotonic_s
        seq, waited_s = self._waited
        if sealed_seq != seq or sealed_seq == self._last_seq:
            after = (sealed_seq, 0.0)
        else:
            after = (seq, waited_s + max(0.0, monotonic_s - (monotonic_s if since is None else since)))
        if seq != after[0] or waited_s // 3_600 != after[1] // 3_600:
            with self._transaction("note what is not sealed"):
                self._db.executemany(SET_META, [("waited_seq", str(after[0])), ("waited_s", str(after[1]))])
        self._waited = after
        return after[1]

    def _sealed_seq(self) -> int:
        """Return the last reading that the courier has sealed of this database; 0 where that cannot be known."""
        return (sealed_watermarks(self._sync_db, self.generation) or {}).get("readings", 0)

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _save_index(self) -> None:
        if self._index.is_saved(self._last_seq):
            return
        with self._transaction("save what was seen"):
            self._index.write(self._last_seq)
        self._index.saved(self._last_seq)

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[None]:
        with transaction(self._db, self._path, doing):
            yield
        self.counters.commits += 1


def _wal_event(aside: Path, why: str, at: datetime) -> Event:
    log.error("%s; it is kept as %s; what stood in it is lost, the database before it is sound", why, aside)
    return Event(at, "quarantined", detail={"file": aside.name, "why": why})


def _leave_what_was_sealed(db: sqlite3.Connection, path: Path, sync_db: Path) -> None:
    """Begin a new generation where more rows are sealed than there ever were: an older copy of the file was put back.

    The next rows take numbers that are sealed already. Under the old name they would be taken for sealed: never carried
    to the lake, and soon pruned. Under a new one all that the copy holds is sealed once more.
    """
    generation = meta_of(db)["generation"]
    marks, begun = sealed_watermarks(sync_db, generation) or {}, begun_seals(sync_db, generation)
    lake = sync_db.with_name("lake")  # sync.db knows only the last generation; the lake's names know all
    sealed = {
        stream: max(marks.get(stream, 0), begun.get(stream, 0), sealed_in_lake(lake, generation, stream))
        for stream in STREAMS
    }
    beyond = {stream: seq for stream in STREAMS if (seq := sealed.get(stream, 0)) > last_seq_of(db, stream)}
    if not beyond:
        return
    fresh = new_generation()
    with transaction(db, path, "begin a new generation"):
        db.execute(SET_META, ("generation", fresh))
    log.warning(
        "%s: an older copy was put back: %s; generation %s ends, %s begins, and what the copy holds is sealed again",
        path,
        ", ".join(f"{stream} {last_seq_of(db, stream)} of {seq} that are sealed" for stream, seq in beyond.items()),
        generation,
        fresh,
    )
