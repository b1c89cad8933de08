"""Looking into house.db from other processes, and into sync.db for how far is sealed. Nothing here writes."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any, Self

import msgspec

from agent.domain import Prediction, Rejected, from_ms
from agent.errors import StoreError
from agent.store.file import check_ours, migrations, named_errors, read_only, version_of
from agent.store.rows import (
    LAKE_COLUMNS,
    LAKE_ROWS,
    LATEST_PREDICTIONS,
    NEWEST_OF_FLOCK,
    NEWEST_OF_HOUSE,
    QUALITIES,
    STREAMS,
    TIME_QUALITIES,
    fit_flocks,
    lake_flock,
    lake_warning,
    last_seq_of,
    meta_of,
    newest_changes,
    standings_of,
)
from agent.store.times import sealable_seq, segments_of
from agent.wear import WearMeter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from agent.domain import FlockChange, Standing
    from agent.fitness import FitFlock
    from agent.store.times import Segment

NAME_PARTS = 4  # gateway, generation, first and last number: of the name of a sealed object
PREDICTIONS_LOOKED_AT = 20_000  # rows in which the newest prediction of each target is looked for


class StoreReader:
    """A read-only view for console, courier and command line; it never holds up the writer. A context manager.

    Attributes:
        gateway: see ``Store``.
        generation: see ``Store``.
    """

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self._path, self._db = path, db
        meta = meta_of(db)
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
        with ExitStack() as stack, named_errors(path, "open"):
            db = stack.enter_context(closing(read_only(path)))
            check_ours(db, path)
            version, newest = version_of(db), len(migrations())
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
        with named_errors(self._path, "read"):
            return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def last_seq(self, stream: str) -> int:
        """Return the number of the newest row that a stream ever had, 0 where it had none.

        Raises:
            StoreError: the database cannot be read.
        """
        with named_errors(self._path, "read"):
            return last_seq_of(self._db, stream)

    def first_seq(self, stream: str) -> int:
        """Return the number of the oldest row of a stream that is still here, 1 where there is none.

        Raises:
            StoreError: the database cannot be read.
        """
        with named_errors(self._path, "read"):
            found = self._db.execute(f"SELECT min(seq) FROM {stream}").fetchone()[0]  # noqa: S608  # one of STREAMS
        return 1 if found is None else int(found)

    def sealable_seq(self, stream: str) -> int:
        """Return up to which row of a stream may be sealed: readings of untrusted time wait, for 7 days at most.

        Raises:
            StoreError: the database cannot be read.
        """
        with named_errors(self._path, "read"):
            last_seq = last_seq_of(self._db, stream)
            return sealable_seq(self._db, last_seq) if stream == "readings" else last_seq

    def clocks(self) -> list[Segment]:
        """Return by which clocks the stored readings were received, oldest first.

        Raises:
            StoreError: the database cannot be read.
        """
        with named_errors(self._path, "read"):
            return segments_of(self._db)

    def rows(self, stream: str, first_seq: int, last_seq: int) -> dict[str, list[Any]]:
        """Return the rows ``first_seq`` to ``last_seq`` (inclusive) of a stream in the columns of ``LAKE_COLUMNS``.

        In order of seq; times as integer ms. Takes about 200 bytes of memory for each reading: ask in parts.

        Raises:
            StoreError: the database cannot be read.
        """
        with named_errors(self._path, f"read {stream}"):
            cursor = self._db.execute(LAKE_ROWS[stream], (first_seq, last_seq))
            if stream == "readings":
                return self._reading_columns(cursor)
            records: Iterable[Sequence[Any]] = cursor
            if stream == "readings_15min":
                series = {number: (house, signal) for number, house, signal in self._series()}
                records = (
                    (at_ms, *series[number], *figures, QUALITIES[quality], seq)
                    for at_ms, number, *figures, quality, seq in cursor
                )
            if stream in {"warnings", "shadow_warnings"}:
                records = (lake_warning(*record) for record in cursor)
            elif stream == "flocks":
                records = (lake_flock(*record) for record in cursor)
            names = [name for name, _ in LAKE_COLUMNS[stream]]
            columns: Iterable[Iterable[Any]] = list(zip(*records, strict=True)) or [()] * len(names)
            return {name: list(column) for name, column in zip(names, columns, strict=True)}

    def _series(self) -> list[tuple[int, str, str]]:
        return self._db.execute("SELECT id, house, signal FROM series").fetchall()

    def _reading_columns(self, cursor: sqlite3.Cursor) -> dict[str, list[Any]]:
        series = self._series()
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
            columns["quality"] += map(QUALITIES.__getitem__, quality)
            columns["time_quality"] += map(TIME_QUALITIES.__getitem__, time_quality)
            columns["seq"] += seq
        return columns

    def standings(self) -> tuple[Standing, ...]:
        """Return where every rule that ever left normal stands, in order of house and rule.

        Raises:
            StoreError: the database cannot be read.
        """
        with named_errors(self._path, "read the warnings"):
            return standings_of(self._db)

    def warnings_latest(self) -> list[dict[str, Any]]:
        """Return the newest transition of each rule, with its words: the columns of the lake as one dict each.

        Raises:
            StoreError: the database cannot be read.
        """
        with named_errors(self._path, "read the warnings"):
            return [
                {"at": at_ms, **msgspec.json.decode(document), "seq": seq}
                for at_ms, document, seq in self._db.execute(
                    "SELECT at_ms, document, seq FROM warnings"
                    " WHERE seq IN (SELECT max(seq) FROM warnings GROUP BY house, rule) ORDER BY seq"
                )
            ]

    def fitness(self) -> tuple[FitFlock, ...]:
        """Return how models fit each flock, oldest first.

        Raises:
            StoreError: the database cannot be read.
        """
        with named_errors(self._path, "read how the models fit"):
            return fit_flocks(self._db)

    def flocks(self) -> tuple[FlockChange, ...]:
        """Return the newest change of each flock, present and past, oldest first.

        Raises:
            StoreError: the database cannot be read.
        """
        with named_errors(self._path, "read the flocks"):
            return newest_changes(self._db, NEWEST_OF_FLOCK)

    def houses(self) -> dict[str, FlockChange]:
        """Return the newest change of each house: its state, and its flock where there is one.

        Raises:
            StoreError: the database cannot be read.
        """
        with named_errors(self._path, "read the flocks"):
            return {change.house: change for change in newest_changes(self._db, NEWEST_OF_HOUSE)}

    def predictions_latest(self) -> list[Prediction]:
        """Return the newest prediction of each house, target and horizon, in that order.

        Raises:
            StoreError: the database cannot be read.
        """
        first_seq = self.last_seq("predictions") - PREDICTIONS_LOOKED_AT
        with named_errors(self._path, "read the predictions"):
            return [
                Prediction(house, flock, from_ms(at_ms), day_number, target, from_ms(target_at_ms), *rest)
                for at_ms, house, flock, day_number, target, target_at_ms, *rest, _ in self._db.execute(
                    LATEST_PREDICTIONS, (first_seq,)
                )
            ]

    def rejected(self, limit: int = 20) -> list[Rejected]:
        """Return what was last rejected, the newest first.

        Raises:
            StoreError: the database cannot be read.
        """
        with named_errors(self._path, "read what was rejected"):
            return [
                Rejected(topic, reason, first_bytes, received_ms)
                for topic, reason, first_bytes, received_ms in self._db.execute(
                    "SELECT topic, reason, first_bytes, received_ms FROM rejected ORDER BY seq DESC LIMIT ?", (limit,)
                )
            ]

    def births(self) -> list[tuple[str, bytes]]:
        """Return topic and payload of the births that tell how to read what Sparkplug nodes send.

        Raises:
            StoreError: the database cannot be read.
        """
        with named_errors(self._path, "read the births"):
            return list(self._db.execute("SELECT topic, payload FROM births ORDER BY topic"))

    def health(self) -> dict[str, Any]:
        """Return the health that the agent last recorded; empty where it recorded none.

        Raises:
            StoreError: the database cannot be read.
        """
        with named_errors(self._path, "read the health"):
            health: dict[str, Any] = msgspec.json.decode(meta_of(self._db).get("health", "{}"))
            return health

    def wear(self) -> float | None:
        """Return how many bytes the agent writes in a day of running, None where that is not known yet.

        Raises:
            StoreError: the database cannot be read.
        """
        with named_errors(self._path, "read the wear"):
            return WearMeter.restored(meta_of(self._db).get("wear")).bytes_per_day()

    def counts(self) -> dict[str, int]:
        """Return the rows each stream ever had, ``series``, ``readings_hot`` (about), ``observed_seq``, ``judged_ms``.

        Raises:
            StoreError: the database cannot be read.
        """
        counts = {stream: self.last_seq(stream) for stream in STREAMS}
        with named_errors(self._path, "count"):
            first, last, series = self._db.execute(
                "SELECT (SELECT min(seq) FROM readings), (SELECT max(seq) FROM readings), (SELECT count(*) FROM series)"
            ).fetchone()
            meta = meta_of(self._db)
        hot = 0 if first is None else last - first + 1
        return counts | {
            "series": series,
            "readings_hot": hot,
            "observed_seq": int(meta["observed_seq"]),
            "judged_ms": int(meta.get("judged_ms", 0)),
        }


def lake_high(lake: Path, gateway: str, generation: str) -> int:
    """Return the greatest number of a reading that stands in a name of the local lake, 0 where there is none.

    Some of the newest range may not be sealed yet; nothing beyond it is.
    """
    names = (path.stem.split("-") for path in lake.glob(f"readings/site=*/date=*/{gateway}-*.parquet"))
    return max((int(n[3]) for n in names if len(n) == NAME_PARTS and n[1] == generation and n[3].isdigit()), default=0)


@contextmanager
def sealing_held(sync_db: Path, generation: str) -> Iterator[int]:
    """Give the last reading that the courier has sealed or begun to seal, and let it begin nothing new meanwhile.

    While a reader is in a transaction, SQLite's rollback mode lets nobody else commit: the courier waits, up to ten
    seconds. 0 where there is no such record; then the names in the lake tell, see ``lake_high``.
    """
    query = (
        "SELECT max(seq) FROM (SELECT sealed_seq AS seq FROM watermarks WHERE stream = 'readings' AND generation = ?1"
        " UNION ALL SELECT last_seq FROM intents WHERE stream = 'readings' AND generation = ?1)"
    )
    with ExitStack() as stack:
        seq = 0
        try:
            db = stack.enter_context(closing(read_only(sync_db)))
            db.execute("BEGIN")
            seq = int(db.execute(query, (generation,)).fetchone()[0] or 0)
        except sqlite3.Error:  # absent, unreadable, half made
            pass
        yield seq


def sync_notes(sync_db: Path) -> dict[str, str]:
    """Return what the courier has left for others to read, such as ``full`` and ``wear``; empty where nothing is."""
    try:
        with closing(read_only(sync_db)) as db:
            return dict(db.execute("SELECT key, value FROM meta"))
    except sqlite3.Error:  # absent, unreadable, of an older courier: then there is nothing to show
        return {}


def begun_seals(sync_db: Path, generation: str) -> dict[str, int]:
    """Return up to which row the courier has begun to seal each stream of a generation; empty where nobody knows."""
    try:
        with closing(read_only(sync_db)) as db:
            return dict(db.execute("SELECT stream, last_seq FROM intents WHERE generation = ?", (generation,)))
    except sqlite3.Error:  # absent, unreadable, half made
        return {}


def sealed_watermarks(sync_db: Path, generation: str) -> dict[str, int] | None:
    """Return up to which row the courier has sealed each stream of a generation; None where there is no such record."""
    try:
        with closing(read_only(sync_db)) as db:
            return dict(db.execute("SELECT stream, sealed_seq FROM watermarks WHERE generation = ?", (generation,)))
    except sqlite3.Error:  # absent, unreadable, half made: then nothing is known to be sealed
        return None
