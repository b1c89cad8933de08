"""The outbox: rows sealed into the local lake, and the objects the cloud has not confirmed. The only SQL on sync.db.

A seal commits the range of ``seq`` that it means to take (the intent), writes one object per UTC date of ``at`` durably
into the local lake, and then, in one transaction, notes the objects, moves the watermark and forgets the intent. After
a crash the intent is finished first: the same rows, so the same names and bytes. The lake alone can bring back a lost
sync.db. That stays in SQLite's rollback mode: a reader then needs no right to write, as it would in WAL mode.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import secrets
import sqlite3
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, Self

from agent.errors import OutboxDamaged, StoreDamaged, StoreError, StoreUnwritable
from agent.store import LAKE_COLUMNS
from sync.lake import ObjectName, UnsealableRows, encode, make_folder, remove_parts, sync_folder, write_durably

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)

RANGE_ROWS = 100_000  # of one seal; bounds the memory at work, and a cloud object to some 250 kB
PUSH_ORDER = (
    *("warnings", "predictions", "flocks", "events", "sync_events", "shadow_warnings", "shadow_predictions"),
    *("readings", "readings_15min", "readings_1min"),
)
"""The streams as they are pushed: what somebody waits for first, the bulk last."""
SEALED_STREAMS = tuple(stream for stream in PUSH_ORDER if stream != "readings_1min")
"""Those that are made of rows; ``readings_1min`` is made of other objects, by the ladder."""
OWN_STREAM = "sync_events"  # the rows are our own, in sync.db
COLUMNS = LAKE_COLUMNS | {
    "readings_1min": LAKE_COLUMNS["readings_15min"],
    OWN_STREAM: (
        *(("at", "timestamp"), ("kind", "string"), ("from_at", "timestamp"), ("to_at", "timestamp")),
        *(("detail", "string"), ("seq", "int64")),
    ),
}
"""Name and type of the columns of every stream of the lake."""
URGENT = PUSH_ORDER[0]  # sealed and pushed at once

_SCHEMA = """
CREATE TABLE watermarks (
    stream TEXT PRIMARY KEY,
    generation TEXT NOT NULL,      -- of the house.db that the seqs are of
    sealed_seq INTEGER NOT NULL,   -- everything up to here is in the local lake, or set aside
    sealed_at_ms INTEGER NOT NULL
);
CREATE TABLE intents (
    stream TEXT PRIMARY KEY,
    generation TEXT NOT NULL,
    site TEXT NOT NULL,            -- as it was when the seal began: it is part of the objects' names
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    from_lake INTEGER NOT NULL     -- 1: taken from the lake's names; objects that are there stay as they are
);
CREATE TABLE objects (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    stream TEXT NOT NULL,
    priority INTEGER NOT NULL,     -- the smallest is pushed first
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    sealed_at_ms INTEGER NOT NULL,
    pushed_at_ms INTEGER,          -- the cloud has confirmed it
    refused TEXT                   -- why it will never be pushed
);
CREATE INDEX objects_waiting ON objects (priority, id) WHERE pushed_at_ms IS NULL AND refused IS NULL;
CREATE TABLE set_aside (
    stream TEXT NOT NULL,
    generation TEXT NOT NULL,
    seq INTEGER NOT NULL,
    reason TEXT NOT NULL,
    row TEXT,                      -- JSON, where the row could be read at all
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (stream, generation, seq)
);
PRAGMA user_version = 1;
"""
_UPGRADE = """
-- carried 1: it was given to a lane, so the cloud may hold it
ALTER TABLE objects ADD COLUMN carried INTEGER NOT NULL DEFAULT 0;
-- gone 1: the cloud has confirmed it, and it is no longer in the local lake
ALTER TABLE objects ADD COLUMN gone INTEGER NOT NULL DEFAULT 0;
-- generation (of this sync.db), and notes for others to read
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE sync_events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    from_ms INTEGER,
    to_ms INTEGER,
    detail TEXT NOT NULL           -- JSON
);
-- an object that is made of others: until it is noted it does not count
CREATE TABLE replacing (key TEXT PRIMARY KEY);
-- files that may still be there, and are to go
CREATE TABLE doomed (key TEXT PRIMARY KEY);
-- an older sync did not say what it began to push
UPDATE objects SET carried = 1 WHERE pushed_at_ms IS NULL AND refused IS NULL;
PRAGMA user_version = 2;
"""
_VERSION = 2

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
"""What SQLite says of a broken file. SQLITE_ERROR: a table is not there, as in a file that was cut off to nothing."""

_UNSOUND = (UnsealableRows, IndexError, KeyError, TypeError, ValueError)
"""What reading or encoding raises when a row itself is at fault."""


class Rows(Protocol):
    """What the outbox needs of the agent's store; ``agent.store.StoreReader`` is one."""

    @property
    def gateway(self) -> str:
        """The random id of this gateway."""

    @property
    def generation(self) -> str:
        """The id of this house.db."""

    def last_seq(self, stream: str) -> int:
        """Return the ``seq`` of the newest row there ever was, 0 where there was none."""

    def sealable_seq(self, stream: str) -> int:
        """Return the ``seq`` up to which rows may be sealed now."""

    def rows(self, stream: str, first_seq: int, last_seq: int) -> Mapping[str, Sequence[Any]]:
        """Return the columns of the rows in the range, both ends included, ``seq`` ascending."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far a stream is sealed."""

    stream: str
    generation: str
    sealed_seq: int
    sealed_at_ms: int


@dataclass(frozen=True, slots=True)
class Parcel:
    """An object that waits to be pushed: its key, the file that holds it, and the hash that the file must have."""

    key: str
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Held:
    """An object that was sealed, whether it is still in the local lake, and whether the cloud has it."""

    key: str
    name: ObjectName
    bytes: int
    is_confirmed: bool  # by the cloud
    may_be_in_cloud: bool
    is_gone: bool  # from the local lake


@dataclass(frozen=True, slots=True)
class SyncEvent:
    """What became of history, for the stream ``sync_events``."""

    at_ms: int
    kind: str
    detail: Mapping[str, object]
    from_ms: int | None = None
    to_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """What the outbox holds."""

    objects: int
    bytes: int
    waiting_objects: int
    waiting_bytes: int
    set_aside_objects: int
    set_aside_rows: int


@dataclass(frozen=True, slots=True)
class _Intent:
    stream: str
    generation: str
    site: str
    first_seq: int
    last_seq: int
    at_ms: int
    from_lake: bool


class Outbox:
    """What of the store is sealed, and what of that is pushed; the one writer of sync.db."""

    def __init__(self, db: sqlite3.Connection, lake: Path, store: Rows, site: str) -> None:
        self._resources = ExitStack()
        self._db = db
        self._lake = lake
        self._store = store
        self._site = site

    @classmethod
    def open(cls, database: Path, lake: Path, store: Rows, site: str) -> Self:
        """Open or make the outbox; one that is lost or broken is rebuilt from the names in the local lake.

        Raises:
            StoreError: another sync runs on this directory.
            StoreUnwritable: it cannot be written, now.
        """
        with ExitStack() as stack:
            stack.enter_context(_locked(database.with_suffix(".lock")))
            try:
                make_folder(lake)
                remove_parts(lake)
                db = stack.enter_context(closing(_connect(database)))
                outbox = cls(db, lake, store, site)
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version < _VERSION:
                    outbox._create(version)
                outbox._clear_away()
                outbox._resources = stack.pop_all()
            except (OSError, sqlite3.Error) as e:
                message = f"{database} cannot be used: {e}; the directory must be writable for sync, and have space"
                raise StoreUnwritable(message) from e
        return outbox

    @classmethod
    def view(cls, database: Path, lake: Path, store: Rows) -> Self:
        """Open the outbox only to look at it, beside the sync that runs.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            db = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=10, isolation_level=None)
        except sqlite3.Error as e:
            message = f"{database} cannot be read: {e}; run `flockwatch sync --once` to make it"
            raise StoreError(message) from e
        outbox = cls(db, lake, store, "")
        outbox._resources.callback(db.close)
        return outbox

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of sync.db; nothing needs finishing."""
        self._resources.close()

    # Sealing

    def unsealed(self, stream: str) -> int:
        """Return the number of rows of ``stream`` that wait to be sealed."""
        return self.last_seq(stream) - self._sealed_seq(stream)

    def last_seq(self, stream: str) -> int:
        """Return the number of the newest row that ``stream`` ever had, 0 where it had none."""
        if stream != OWN_STREAM:
            return self._store.last_seq(stream)
        found = self._fetch("SELECT seq FROM sqlite_sequence WHERE name = ?", OWN_STREAM)
        return int(found[0][0]) if found else 0

    def sealable_seq(self, stream: str) -> int:
        """Return up to which number rows may be sealed now: readings of untrusted time wait to be corrected."""
        return self.last_seq(stream) if stream == OWN_STREAM else self._store.sealable_seq(stream)

    def sealable(self, stream: str) -> int:
        """Return the number of rows that may be sealed now."""
        return max(0, self.sealable_seq(stream) - self._sealed_seq(stream))

    def watermarks(self) -> list[Watermark]:
        """Return how far each stream of this house.db is sealed."""
        found = self._fetch("SELECT stream, generation, sealed_seq, sealed_at_ms FROM watermarks ORDER BY stream")
        return [mark for row in found if (mark := Watermark(*row)).generation == self._store.generation]

    def seal_next(self, stream: str, up_to: int, at_ms: int) -> int:
        """Seal the next range of ``stream``, but nothing after ``up_to``; return how far it is now sealed.

        An intent that a crash left is finished first, whatever ``up_to`` says.

        Raises:
            StoreError: the store or sync.db cannot serve now; the next call goes on where this one stopped.
            OSError: the local lake takes no object, for instance because the disk is full; the same.
        """
        intent = self._open_intent(stream)
        if intent is None:
            first = self._sealed_seq(stream) + 1
            last = min(up_to, self.sealable_seq(stream), first + RANGE_ROWS - 1)
            if last < first:
                return first - 1
            generation = self._generation(stream)
            intent = _Intent(stream, generation, self._site, first, last, at_ms, from_lake=False)
            self._commit_intent(intent)
            if self.sealable_seq(stream) < last:  # the agent begins to correct them, and may not have seen us
                self._withdraw(stream)
                return first - 1
        self._fulfil(intent)
        return intent.last_seq

    def _sealed_seq(self, stream: str) -> int:
        query = "SELECT sealed_seq FROM watermarks WHERE stream = ? AND generation = ?"
        found = self._fetch(query, stream, self._generation(stream))
        return int(found[0][0]) if found else 0

    def _generation(self, stream: str) -> str:
        """Return the name of the database that numbers the rows of ``stream``."""
        if stream != OWN_STREAM:
            return self._store.generation
        return str(self._fetch("SELECT value FROM meta WHERE key = 'generation'")[0][0])

    def _open_intent(self, stream: str) -> _Intent | None:
        query = "SELECT stream, generation, site, first_seq, last_seq, at_ms, from_lake FROM intents WHERE stream = ?"
        found = self._fetch(query, stream)
        if not found:
            return None
        intent = _Intent(*found[0])
        if intent.generation != self._generation(stream):
            log.error(
                "%s %d to %d were to be sealed, but the house.db that held them was replaced; where it is in the"
                " quarantine, `flockwatch data recover` brings back what can be read of them",
                *(stream, intent.first_seq, intent.last_seq),
            )
            self._withdraw(stream)
            return None
        return intent

    def _withdraw(self, stream: str) -> None:
        with self._transaction():
            self._db.execute("DELETE FROM intents WHERE stream = ?", (stream,))

    def _commit_intent(self, intent: _Intent) -> None:
        with self._transaction():
            self._db.execute(
                "INSERT INTO intents VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(intent.stream, intent.generation, intent.site, intent.first_seq, intent.last_seq),
                    *(intent.at_ms, intent.from_lake),
                ),
            )

    def _fulfil(self, intent: _Intent) -> None:
        """Write the objects of ``intent`` that are missing, then note them and move the watermark."""
        encoded, broken = self._encode(intent)
        noted = []
        for day, (_n, data) in encoded.items():
            name = ObjectName(
                *(intent.stream, intent.site, day, self._store.gateway),
                *(intent.generation, intent.first_seq, intent.last_seq),
            )
            noted.append((name, self._write(name, data, keep=intent.from_lake)))
        with self._transaction():
            for name, data in noted:
                self._note_object(name, data, intent.at_ms)
            for seq, reason, row in broken:
                self._db.execute(
                    "INSERT OR IGNORE INTO set_aside VALUES (?, ?, ?, ?, ?, ?)",
                    (intent.stream, intent.generation, seq, reason, row, intent.at_ms),
                )
            self._db.execute(
                "INSERT OR REPLACE INTO watermarks VALUES (?, ?, ?, ?)",
                (intent.stream, intent.generation, intent.last_seq, intent.at_ms),
            )
            self._db.execute("DELETE FROM intents WHERE stream = ?", (intent.stream,))
            if intent.stream == OWN_STREAM:
                self._db.execute("DELETE FROM sync_events WHERE seq <= ?", (intent.last_seq,))

    def _write(self, name: ObjectName, data: bytes, *, keep: bool) -> bytes:
        """Let the local lake hold the object; return what it holds.

        Nothing was pushed before its intent was forgotten, so an object of an earlier try may be written anew. One that
        the lake had before a lost sync.db may have been pushed, and its rows since pruned: it stays.
        """
        path = self._lake / name.key
        there = path.read_bytes() if path.exists() else None
        if there is not None and (keep or there == data):
            return there
        write_durably(path, data)
        return data

    def _note_object(self, name: ObjectName, data: bytes, at_ms: int) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO objects (key, stream, priority, bytes, sha256, sealed_at_ms)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (name.key, name.stream, _priority(name.stream), len(data), hashlib.sha256(data).hexdigest(), at_ms),
        )

    def _encode(self, intent: _Intent) -> tuple[dict[Any, tuple[int, bytes]], list[tuple[int, str, str | None]]]:
        """Return the objects of ``intent`` by date, and the rows that no object can hold: (seq, reason, row)."""
        stream, first, last = intent.stream, intent.first_seq, intent.last_seq
        try:
            return encode(stream, COLUMNS[stream], self._rows(stream, first, last)), []
        except _UNSOUND as e:
            log.warning("%s %d to %d hold a row that cannot be sealed: %s; it is set aside", stream, first, last, e)
        rows, broken = self._sift(stream, first, last)
        return encode(stream, COLUMNS[stream], rows) if rows else {}, broken

    def _rows(self, stream: str, first: int, last: int) -> Mapping[str, Sequence[Any]]:
        """Return rows of the store; what is wrong with the rows themselves is told from a disk that fails."""
        if stream == OWN_STREAM:
            query = "SELECT at_ms, kind, from_ms, to_ms, detail, seq FROM sync_events WHERE seq BETWEEN ? AND ?"
            found = self._fetch(query + " ORDER BY seq", first, last)
            names = [name for name, _ in COLUMNS[stream]]
            return {name: [row[i] for row in found] for i, name in enumerate(names)}
        try:
            return self._store.rows(stream, first, last)
        except StoreDamaged as e:
            self._store.last_seq(stream)  # where not even this can be read it is no row's fault: the agent replaces it
            raise UnsealableRows(str(e)) from e

    def _sift(
        self, stream: str, first: int, last: int
    ) -> tuple[Mapping[str, Sequence[Any]], list[tuple[int, str, str | None]]]:
        """Return the sound rows of a range, and the others, found by halving it."""
        rows: Mapping[str, Sequence[Any]] = {}
        try:
            rows = self._rows(stream, first, last)
            encode(stream, COLUMNS[stream], rows)
        except _UNSOUND as e:
            if first == last:
                text = json.dumps({name: values[0] for name, values in rows.items()}, default=repr) if rows else None
                return {}, [(first, str(e), text)]
        else:
            return rows, []
        middle = (first + last) // 2
        left, left_broken = self._sift(stream, first, middle)
        right, right_broken = self._sift(stream, middle + 1, last)
        joined = {name: [*left.get(name, ()), *right.get(name, ())] for name in left or right}
        return joined, left_broken + right_broken

    # Pushing

    def next_parcel(self, *, urgent: bool) -> Parcel | None:
        """Return the object that is to be pushed next: of the urgent stream, or of the others."""
        query = (
            "SELECT key, sha256 FROM objects WHERE pushed_at_ms IS NULL AND refused IS NULL AND (priority = 0) = ?"
            " ORDER BY priority, id LIMIT 1"
        )
        found = self._fetch(query, urgent)
        return Parcel(found[0][0], self._lake / found[0][0], found[0][1]) if found else None

    def carry(self, key: str) -> None:
        """Note that the object ``key`` is about to be pushed: from now on the cloud may hold it, and it must stay."""
        with self._transaction():
            self._db.execute("UPDATE objects SET carried = 1 WHERE key = ? AND carried = 0", (key,))

    def advance(self, key: str, at_ms: int) -> None:
        """Note that the cloud has confirmed the object ``key``."""
        with self._transaction():
            self._db.execute("UPDATE objects SET pushed_at_ms = ? WHERE key = ?", (at_ms, key))

    def set_aside(self, key: str, reason: str) -> None:
        """Note that the object ``key`` can never be pushed, and why; the others go on."""
        with self._transaction():
            self._db.execute("UPDATE objects SET refused = ? WHERE key = ?", (reason, key))

    def totals(self) -> Totals:
        """Return what the outbox holds."""
        found = self._fetch(
            "SELECT count(*), coalesce(sum(bytes), 0), coalesce(sum(waits), 0), coalesce(sum(bytes * waits), 0),"
            " count(refused), (SELECT count(*) FROM set_aside)"
            " FROM (SELECT bytes, refused, pushed_at_ms IS NULL AND refused IS NULL AS waits FROM objects"
            " WHERE gone = 0)"
        )
        return Totals(*found[0])

    # Making room: ``sync.ladder`` decides, this keeps the books

    def lake_bytes(self, block_bytes: int) -> int:
        """Return what the objects of the local lake take on a disk that is given out in blocks."""
        query = "SELECT coalesce(sum((bytes + ?1 - 1) / ?1 * ?1), 0) FROM objects WHERE gone = 0"
        return int(self._fetch(query, block_bytes)[0][0])

    def held(self) -> list[Held]:
        """Return every object that is noted, in the order in which they were sealed."""
        found = self._fetch("SELECT key, bytes, pushed_at_ms IS NOT NULL, carried, gone FROM objects ORDER BY id")
        return [
            Held(key, name, size, bool(confirmed), bool(confirmed or carried), bool(gone))
            for key, size, confirmed, carried, gone in found
            if (name := ObjectName.parse(key)) is not None
        ]

    def content(self, key: str) -> bytes:
        """Return an object of the local lake, as it was sealed.

        Raises:
            UnsealableRows: the file is not what was sealed.
            OSError: it cannot be read.
        """
        data = (self._lake / key).read_bytes()
        if self._fetch("SELECT sha256 FROM objects WHERE key = ?", key) != [(hashlib.sha256(data).hexdigest(),)]:
            message = "the local object was altered after it was sealed"
            raise UnsealableRows(message)
        return data

    def replace(self, keys: Sequence[str], name: ObjectName, data: bytes, event: SyncEvent) -> None:
        """Let one object take the place of others; whenever the process dies, one or the others count, never both.

        The new one is durable before the old ones go. Until it is noted, a crash undoes it (``replacing``); from then
        on, it is the old ones that a crash only delays (``doomed``).

        Raises:
            StoreError: sync.db cannot be written.
            OSError: the local lake takes no object.
        """
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO replacing VALUES (?)", (name.key,))
        write_durably(self._lake / name.key, data)
        with self._transaction():
            self._db.executemany("DELETE FROM objects WHERE key = ?", [(key,) for key in keys])
            self._note_object(name, data, event.at_ms)
            self._doom(keys)
            self._db.execute("DELETE FROM replacing")
            self._insert_event(event)
        self._clear_away()

    def drop(self, keys: Sequence[str], *, forget: bool = False) -> None:
        """Take objects that the cloud has confirmed out of the local lake; ``forget`` them altogether, too.

        Raises:
            StoreError: sync.db cannot be written.
            OSError: the local lake cannot be written.
        """
        change = "DELETE FROM objects" if forget else "UPDATE objects SET gone = 1"
        with self._transaction():
            self._doom(keys)
            self._db.executemany(f"{change} WHERE key = ? AND pushed_at_ms IS NOT NULL", [(key,) for key in keys])
        self._clear_away()

    def record(self, event: SyncEvent) -> None:
        """Keep what happened, to be sealed like any row."""
        with self._transaction():
            self._insert_event(event)

    def note(self, key: str, text: str | None) -> None:
        """Leave word for the agent and for ``status``, or (None) take it back."""
        known = self._fetch("SELECT value FROM meta WHERE key = ?", key)
        if known == ([] if text is None else [(text,)]):
            return
        with self._transaction():
            if text is None:
                self._db.execute("DELETE FROM meta WHERE key = ?", (key,))
            else:
                self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, text))

    def noted(self, key: str) -> str | None:
        """Return what ``note`` left, None where that is nothing."""
        found = self._fetch("SELECT value FROM meta WHERE key = ?", key)
        return str(found[0][0]) if found else None

    def _insert_event(self, event: SyncEvent) -> None:
        detail = json.dumps(event.detail, sort_keys=True)
        self._db.execute(
            "INSERT INTO sync_events (at_ms, kind, from_ms, to_ms, detail) VALUES (?, ?, ?, ?, ?)",
            (event.at_ms, event.kind, event.from_ms, event.to_ms, detail),
        )

    def _doom(self, keys: Sequence[str]) -> None:
        self._db.executemany("INSERT OR IGNORE INTO doomed VALUES (?)", [(key,) for key in keys])

    def _clear_away(self) -> None:
        """Delete the files that are not to be there any more, durably, and then forget that they were to go."""
        keys = [key for (key,) in self._fetch("SELECT key FROM doomed UNION SELECT key FROM replacing")]
        if not keys:
            return
        for key in keys:
            (self._lake / key).unlink(missing_ok=True)
        for folder in {(self._lake / key).parent for key in keys}:
            if folder.is_dir():
                sync_folder(folder)
        with self._transaction():
            self._db.execute("DELETE FROM doomed")
            self._db.execute("DELETE FROM replacing")

    # Coming back

    def _create(self, version: int) -> None:
        """Make the tables that ``version`` lacks; what the lake's names tell is entered with new ones."""
        newest: dict[str, ObjectName] = {}
        with self._transaction():
            for statement in (_UPGRADE if version else _SCHEMA + _UPGRADE).split(";\n"):
                self._db.execute(statement)
            self._db.execute("INSERT INTO meta VALUES ('generation', ?)", (secrets.token_hex(4),))
            if version:
                return
            found = list(_objects_in(self._lake))
            made = [name for name, _ in found if name.is_rolled_up]
            for name, path in found:
                if any(other.replaces(name) for other in made):  # a crash came before it could go
                    self._doom([name.key])
                    continue
                self._note_object(name, path.read_bytes(), round(path.stat().st_mtime * 1000))
                ours = (name.gateway, name.generation) == (self._store.gateway, self._store.generation)
                if ours and (name.stream not in newest or newest[name.stream].last_seq < name.last_seq):
                    newest[name.stream] = name
            self._db.execute("UPDATE objects SET carried = 1")  # nobody knows what of it the cloud holds
            # The crash that lost sync.db may have come between two objects of the newest range: finish it again.
            for name in newest.values():
                if name.stream in LAKE_COLUMNS:
                    self._db.execute(
                        "INSERT INTO intents VALUES (?, ?, ?, ?, ?, ?, 1)",
                        (name.stream, name.generation, name.site, name.first_seq, name.last_seq, 0),
                    )
                    self._db.execute(
                        "INSERT INTO watermarks VALUES (?, ?, ?, 0)", (name.stream, name.generation, name.first_seq - 1)
                    )
        if newest:
            log.warning("sync.db was lost; rebuilt from the local lake: %d objects", self.totals().objects)

    def _fetch(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows that ``query`` finds."""
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as e:
            raise _named(e, "read") from e

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Make what is done within it durable together, or not at all."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._db.in_transaction:  # a full disk may have ended it already
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as e:
            raise _named(e, "written") from e


def _named(error: sqlite3.Error, done: str) -> StoreError:
    """Return what ``error`` means: a broken file, or a disk that does not serve."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
        return OutboxDamaged(f"sync.db cannot be {done}: {error}; it is rebuilt from the local lake")
    return StoreError(f"sync.db cannot be {done}: {error}; is the disk full, or read-only?")


def _priority(stream: str) -> int:
    """Return the turn in which objects of ``stream`` are pushed; one that is not known waits for all others."""
    return PUSH_ORDER.index(stream) if stream in PUSH_ORDER else len(PUSH_ORDER)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock that keeps a second sync off this directory; it goes with the process, however that ends."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as e:
        message = f"{path} cannot be made: {e.strerror}; the directory must be there and writable for sync"
        raise StoreUnwritable(message) from e
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            message = f"{path}: another sync runs on this directory; stop it first (systemctl stop flockwatch-sync)"
            raise StoreError(message) from e
        yield
    finally:
        os.close(descriptor)


def _connect(database: Path) -> sqlite3.Connection:
    """Open sync.db; one that is no sound database is put out of the way: the lake brings it back."""
    try:
        db = _open_database(database)
    except sqlite3.DatabaseError as e:
        if isinstance(e, sqlite3.OperationalError):  # locked, full, not allowed: nothing is wrong with the file itself
            raise
        aside = database.parent / "quarantine" / f"{database.stem}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.db"
        make_folder(aside.parent)
        log.error("%s is broken (%s); kept as %s", database, e, aside)  # noqa: TRY400  # no trace is needed
        database.replace(aside)
        database.with_name(database.name + "-journal").unlink(missing_ok=True)
        sync_folder(aside.parent)
        sync_folder(database.parent)
        db = _open_database(database)
    return db


def _open_database(database: Path) -> sqlite3.Connection:
    db = sqlite3.connect(database, timeout=10, isolation_level=None)
    try:
        db.execute("PRAGMA synchronous = FULL")
        verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error:
        db.close()
        raise
    if verdict != "ok":
        db.close()
        raise sqlite3.DatabaseError(verdict)
    return db


def _objects_in(lake: Path) -> Iterator[tuple[ObjectName, Path]]:
    """Yield every sealed object of the local lake, in the order of its range."""
    found = []
    for path in lake.glob("*/site=*/date=*/*.parquet"):
        name = ObjectName.parse(path.relative_to(lake).as_posix())
        if name is not None:
            found.append((name, path))
    yield from sorted(found, key=lambda pair: (pair[0].generation, pair[0].first_seq, pair[0].key))
