"""What can still be read of a damaged house.db: the small tables at once, the rows of a stream bit by bit.

Nothing is written into the damaged file, and no damage raises: what cannot be read is left out and named. A bad page
of SQLite hides the rows that stand on it (about a hundred readings), or, high up in a tree, thousands; the rest can be
read. Where the first page itself is gone, which says what stands where, a copy is read that got the first page of a new
database: the tables of all databases of one version begin at the same pages.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from agent.domain import Quality, SeriesKey, Standing, TimeQuality, from_ms
from agent.errors import StoreError
from agent.readings import Readings
from agent.store.file import migrate
from agent.store.rows import BLOCK_ROWS, SERVICES_KEPT, STREAMS, as_change

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from agent.domain import FlockChange
    from agent.store.rows import BucketRow

PAGE = 4096  # SQLite's default page size, which all our databases have
SMALLEST_PART = 256  # rows, two pages of readings: a part that cannot be read is halved down to this
UNSAVED_ROWS = 1_000_000  # where the newest row cannot be found: so many may have come after the last saved number
LAST_MS = 253_402_300_799_000  # the end of the calendar; what claims to be later is damage

_COLUMNS = {
    "readings": "seq, series, at_ms, received_ms, value, quality, time_quality",
    "warnings": "seq, at_ms, house, rule, document",
    "predictions": "seq, at_ms, house, flock, day_number, target, target_at_ms, horizon, p10, p50, p90, model,"
    " model_version, coverage",
    "flocks": "seq, at_ms, house, flock, action, state, document",
    "events": "seq, at_ms, kind, house, signal, from_ms, to_ms, detail",
    "readings_15min": "seq, series, at_ms, quality, n, min, max, sum",
}


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What could be read of the small tables; what could not is empty, and named in ``unreadable``."""

    path: Path
    gateway: str | None = None
    generation: str | None = None
    judged_at: datetime | None = None
    presumed_ms: int = 0  # what was known of the time: see ``KnownTime``
    known_good_ms: int = 0
    series: tuple[tuple[int, SeriesKey], ...] = ()  # number and name
    standings: tuple[Standing, ...] = ()
    houses: tuple[FlockChange, ...] = ()  # the newest change of each house
    flocks: tuple[FlockChange, ...] = ()  # the newest change of each flock, oldest first
    services: tuple[FlockChange, ...] = ()  # of sensors, the last ones in the order in which they were told
    rhythms_s: tuple[tuple[SeriesKey, float], ...] = ()
    newest_ms: tuple[tuple[SeriesKey, int], ...] = ()
    buckets: tuple[BucketRow, ...] = ()
    sealed_times: tuple[tuple[int, SeriesKey, bytes], ...] = ()  # period, series, packed times of pruned readings
    commands: tuple[tuple[str, str, str], ...] = ()  # id, topic, answer; oldest first
    births: tuple[tuple[str, bytes], ...] = ()  # topic and payload
    last_seqs: tuple[tuple[str, int], ...] = ()  # of each stream, the newest row that is known of
    unreadable: tuple[tuple[str, str], ...] = ()  # table and reason


@dataclass(frozen=True, slots=True)
class LostRows:
    """Rows that cannot be read, by number, both ends included; there may have been fewer."""

    first_seq: int
    last_seq: int
    why: str


def salvage(damaged: Path, *, copy_up_to: int | None = None) -> Salvaged:
    """Return what can be read of everything but the readings; never raises.

    Args:
        damaged: the file.
        copy_up_to: do without a copy, where a lost first page needs one, if the file has more bytes than this: copying
            a gigabyte takes minutes on a card.
    """
    with _opened(damaged, copy_up_to) as (db, why):
        if db is None:
            return Salvaged(damaged, unreadable=(("everything", why),))
        return _Look(db, damaged).all()


def readable_rows(
    damaged: Path, stream: str, first_seq: int = 1, last_seq: int | None = None
) -> Iterator[list[tuple[Any, ...]] | LostRows]:
    """Yield what can be read of a stream in blocks of raw rows (``seq`` first), and what is lost in between.

    Args:
        damaged: the file.
        stream: its name.
        first_seq: begin here: what was sealed before it is in the lake.
        last_seq: end here; by default at the newest row that is known of.
    """
    with _opened(damaged) as (db, why):
        if db is None:
            yield LostRows(first_seq, last_seq or first_seq, why)
            return
        if last_seq is None:
            last_seq = _Look(db, damaged).last_seq(stream)
        for start in range(first_seq, last_seq + 1, BLOCK_ROWS):
            yield from _sifted(db, stream, start, min(start + BLOCK_ROWS - 1, last_seq))


def readable_readings(damaged: Path, first_seq: int = 1, last_seq: int | None = None) -> Iterator[Readings | LostRows]:
    """Yield the readings that can be read, in blocks of at most ``BLOCK_ROWS``, and what is lost in between.

    What a row holds must be possible: damage that SQLite does not notice is told by a series that there is not, or a
    time outside the calendar.
    """
    series = dict(salvage(damaged).series)
    keys = tuple(series.values())
    place = {number: index for index, number in enumerate(series)}
    for block in _without_edges(_with_gaps(readable_rows(damaged, "readings", first_seq, last_seq))):
        if isinstance(block, LostRows):
            yield block
            continue
        possible = [row[1] in place and _is_possible(row) for row in block]
        trusted = [all(possible[max(0, i - 1) : i + 2]) for i in range(len(block))]  # with both neighbours
        sound = [row for row, is_trusted in zip(block, trusted, strict=True) if is_trusted]
        if len(sound) < len(block):
            wrong = [row[0] for row, is_trusted in zip(block, trusted, strict=True) if not is_trusted]
            yield LostRows(wrong[0], wrong[-1], f"{len(wrong)} rows hold what no reading can, or stand beside one")
        if sound:
            seqs, number, at_ms, received_ms, value, quality, time_quality = zip(*sound, strict=True)
            yield Readings(
                keys,
                np.array([place[n] for n in number], np.int32),
                np.array(at_ms, np.int64),
                np.array(value, np.float64),
                np.array(quality, np.uint8),
                np.array(time_quality, np.uint8),
                np.array(received_ms, np.int64),
                last_seq=seqs[-1],
            )


def _with_gaps(
    blocks: Iterator[list[tuple[Any, ...]] | LostRows],
) -> Iterator[list[tuple[Any, ...]] | LostRows]:
    """Name the rows that are missing between others: damage that SQLite passes over, or rows that were pruned."""
    last: int | None = None
    for block in blocks:
        if isinstance(block, LostRows):
            yield block
            last = block.last_seq
            continue
        start = 0
        for i, (seq, *_) in enumerate(block):
            if last is not None and seq > last + 1:
                if block[start:i]:
                    yield block[start:i]
                yield LostRows(last + 1, seq - 1, "they are not there: damaged, or pruned")
                start = i
            last = seq
        yield block[start:]


def _without_edges(
    blocks: Iterator[list[tuple[Any, ...]] | LostRows],
) -> Iterator[list[tuple[Any, ...]] | LostRows]:
    """Take the rows next to lost ones away: where damage begins in the middle of a value, nobody can see it."""
    held: list[tuple[Any, ...]] = []
    lost: LostRows | None = None
    for block in blocks:
        if isinstance(block, LostRows):
            lost = replace(block, first_seq=held[-1][0]) if held else block
            rows, held = held[:-1], []
        else:
            rows, held = held, block[1:] if lost else block
            if lost:
                yield replace(lost, first_seq=block[0][0], last_seq=block[0][0])
            lost = None
        if rows:
            yield rows
        if lost:
            yield lost
    if held:
        yield held


def _is_possible(row: tuple[Any, ...]) -> bool:
    _seq, _series, at_ms, received_ms, value, quality, time_quality = row
    return (
        all(isinstance(number, int) for number in (at_ms, received_ms, quality, time_quality))
        and isinstance(value, float)
        and 0 <= at_ms <= LAST_MS
        and 0 <= received_ms <= LAST_MS
        and 0 <= quality < len(Quality)
        and 0 <= time_quality < len(TimeQuality)
    )


def _sifted(db: sqlite3.Connection, stream: str, first: int, last: int) -> Iterator[list[tuple[Any, ...]] | LostRows]:
    """Yield the rows of a range; where some cannot be read, those before and after them, found by halving."""
    select = f"SELECT {_COLUMNS[stream]} FROM {stream} WHERE seq BETWEEN ? AND ? ORDER BY seq"  # noqa: S608  # ours
    found, why = _fetched(db, select, (first, last))
    rows = [row for row in found if first <= row[0] <= last]  # a damaged page may point to others, far from here
    if rows:
        yield rows
    if why is None:
        return
    first = max(row[0] for row in rows) + 1 if rows else first
    if (edge := _edge(db, select, first, last)) and first <= edge[0][0] <= last:
        yield edge
        first = edge[0][0] + 1
    if last - first >= SMALLEST_PART:
        middle = (first + last) // 2
        yield from _sifted(db, stream, first, middle)
        yield from _sifted(db, stream, middle + 1, last)
        return
    after, _ = _fetched(db, select + " DESC", (first, last))
    after += _edge(db, select + " DESC", first, after[-1][0] - 1 if after else last)
    yield LostRows(first, after[-1][0] - 1 if after else last, why)
    if after:
        yield after[::-1]


def _edge(db: sqlite3.Connection, select: str, first: int, last: int) -> list[tuple[Any, ...]]:
    """Return the row next to damage: Python hands a row out once it has the next one, and so loses it to that."""
    return _fetched(db, select + " LIMIT 1", (first, last))[0]


def _fetched(
    db: sqlite3.Connection, query: str, values: tuple[object, ...] = ()
) -> tuple[list[tuple[Any, ...]], str | None]:
    """Return the rows up to the first that cannot be read, and why that one cannot; None where all can."""
    rows: list[tuple[Any, ...]] = []
    try:
        rows.extend(db.execute(query, values))
    except (sqlite3.Error, OverflowError) as e:  # OverflowError: a length field that is garbage
        return rows, str(e)
    return rows, None


class _Look:
    """Reads one table after another, and keeps what could not be read."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path
        self._unreadable: dict[str, str] = {}

    def all(self) -> Salvaged:
        meta = {key: value for key, value in self._table("meta", "key, value", "key") if isinstance(value, str)}
        series = self._series()
        names = {number: SeriesKey(house, signal) for number, house, signal, _, _ in series}
        houses, flocks, services = self._changes()
        sealed = self._table("sealed_times", "period, series, times", "period, series")
        return Salvaged(
            path=self._path,
            gateway=meta.get("gateway"),
            generation=meta.get("generation"),
            judged_at=from_ms(judged_ms) if (judged_ms := _time_in(meta, "judged_ms")) else None,
            presumed_ms=_time_in(meta, "presumed_ms"),
            known_good_ms=_time_in(meta, "known_good_ms"),
            series=tuple(names.items()),
            standings=self._decoded(
                "warning_states",
                [row[2:] for row in self._table("warning_states", "house, rule, document", "house, rule")],
                lambda document: msgspec.json.decode(document, type=Standing),
            ),
            houses=houses,
            flocks=flocks,
            services=services,
            rhythms_s=tuple((names[n], rhythm) for n, _, _, _, rhythm in series if isinstance(rhythm, float)),
            newest_ms=tuple((names[n], high) for n, _, _, high, _ in series if isinstance(high, int)),
            buckets=self._buckets(),
            sealed_times=tuple(
                (period, names[number], bytes(times))
                for period, number, times in sealed
                if number in names and isinstance(times, bytes)
            ),
            commands=tuple(self._table("commands", "id, topic, answer", "seq")),
            births=self._births(),
            last_seqs=tuple((stream, self.last_seq(stream)) for stream in STREAMS),
            unreadable=tuple(self._unreadable.items()),
        )

    def last_seq(self, stream: str) -> int:
        """Return the newest row of a stream that is known of; beyond what can be read rather too far than too near."""
        found, why = _fetched(self._db, f"SELECT max(seq) FROM {stream}")  # noqa: S608  # a name of ours
        newest = int(found[0][0] or 0) if found else 0
        if stream != "readings":
            counted, _ = _fetched(self._db, "SELECT seq FROM sqlite_sequence WHERE name = ?", (stream,))
            return max([newest, *(int(row[0]) for row in counted if isinstance(row[0], int))])
        meta, _ = _fetched(self._db, "SELECT value FROM meta WHERE key = 'seen_seq'")
        saved = int(meta[0][0]) if meta and str(meta[0][0]).isdigit() else 0
        return max(newest, saved) if why is None else max(newest, saved + UNSAVED_ROWS)

    def _table(self, table: str, columns: str, order: str) -> list[tuple[Any, ...]]:
        """Return the rows of a small table; from both ends where there is damage in the middle."""
        select = f"SELECT {columns} FROM {table} ORDER BY "  # noqa: S608  # names of ours
        rows, why = _fetched(self._db, select + order)
        if why is None:
            return rows
        self._unreadable[table] = why
        back, _ = _fetched(self._db, select + ", ".join(f"{name} DESC" for name in order.split(", ")))
        known = set(rows)
        return rows + [row for row in reversed(back) if row not in known]

    def _series(self) -> list[tuple[Any, ...]]:
        rows = self._table("series", "id, house, signal, high_ms, rhythm_s", "id")
        return [row for row in rows if isinstance(row[1], str) and isinstance(row[2], str)]

    def _changes(self) -> tuple[tuple[FlockChange, ...], tuple[FlockChange, ...], tuple[FlockChange, ...]]:
        """Return the newest change of each house, and of each flock, and the services."""
        rows = self._table("flocks", "house, flock, at_ms, action, state, document", "seq")
        of_house = {row[0]: row for row in rows}
        of_flock = {row[:2]: row for row in rows if row[1] is not None}
        services = [row for row in rows if row[3] == "service"][-SERVICES_KEPT:]

        def change(house: str, _flock: str, at_ms: int, action: str, state: str, document: str) -> FlockChange:
            return as_change(at_ms, action, house, state, document)

        return (
            self._decoded("flocks", list(of_house.values()), change),
            self._decoded("flocks", list(of_flock.values()), change),
            self._decoded("flocks", services, change),
        )

    def _buckets(self) -> tuple[BucketRow, ...]:
        columns, _ = _fetched(self._db, "SELECT name FROM pragma_table_info('buckets')")
        last_ms = "last_ms" if ("last_ms",) in columns else "0"  # version 1 has none
        rows = self._table(
            "buckets",
            f"house, signal, step_s, start_ms, n, sum, min, max, last, {last_ms}",
            "step_s, start_ms, house, signal",
        )
        return tuple(
            row
            for row in rows
            if isinstance(row[0], str) and isinstance(row[1], str) and all(isinstance(v, (int, float)) for v in row[2:])
        )

    def _births(self) -> tuple[tuple[str, bytes], ...]:
        found, _ = _fetched(self._db, "SELECT name FROM sqlite_schema WHERE name = 'births'")  # version 1 has none
        rows = self._table("births", "topic, payload", "topic") if found else []
        return tuple(
            (topic, payload) for topic, payload in rows if isinstance(topic, str) and isinstance(payload, bytes)
        )

    def _decoded(self, table: str, rows: list[tuple[Any, ...]], decode: Callable[..., Any]) -> tuple[Any, ...]:
        """Return what rows mean; one that means nothing is left out and named."""
        decoded = []
        for row in rows:
            try:
                decoded.append(decode(*row))
            except (msgspec.MsgspecError, ValueError, TypeError, OverflowError) as e:
                self._unreadable.setdefault(table, f"a row is not as this program writes it: {e}")
        return tuple(decoded)


def _time_in(meta: Mapping[str, str], key: str) -> int:
    """Return a time of ``meta`` in ms, 0 where there is none that can be."""
    text = meta.get(key, "")
    return int(text) if text.isdecimal() and int(text) <= LAST_MS else 0


@contextmanager
def _opened(damaged: Path, copy_up_to: int | None = None) -> Iterator[tuple[sqlite3.Connection | None, str]]:
    """Give a view of the file, or None and why there can be none; nothing is written into it."""
    with ExitStack() as stack:
        db, why = _view(stack, damaged)
        if db is None and damaged.is_file() and (copy_up_to is None or damaged.stat().st_size <= copy_up_to):
            mended = damaged.with_name(f".{damaged.name}.mended")
            stack.callback(_remove, mended)
            try:
                _mend(damaged, mended)
                db, _ = _view(stack, mended)
            except OSError as e:
                why = f"{why}; no copy of it could be made: {e}"
        yield db, why


def _view(stack: ExitStack, path: Path) -> tuple[sqlite3.Connection | None, str]:
    """Open a file with its WAL; without it where the folder takes no -shm."""
    why = ""
    for how in ("mode=ro", "mode=ro&immutable=1"):
        with suppress(sqlite3.Error):
            db = stack.enter_context(closing(sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True)))
            db.text_factory = _as_text
            db.execute("PRAGMA cell_size_check = ON")  # finds damage that a plain look takes for rows
            found, said = _fetched(db, "SELECT name FROM sqlite_schema WHERE name = 'readings'")
            if found:
                return db, ""
            why = said or "it holds none of our tables"
    return None, why or "it cannot be opened"


def _as_text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _mend(damaged: Path, mended: Path) -> None:
    """Copy a file and its WAL, and give the copy the first page of a new database."""
    shutil.copyfile(damaged, mended)
    wal = damaged.with_name(damaged.name + "-wal")
    if wal.is_file():
        shutil.copyfile(wal, mended.with_name(mended.name + "-wal"))
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh, suppress(StoreError):
        migrate(fresh, mended)
        page = bytearray(fresh.serialize()[:PAGE])
        page[18:20] = b"\x02\x02"  # it is in WAL mode (SQLite file format, 1.3.3)
        page[28:32] = bytes(4)  # its size in pages: not known here, so that of the file holds
        with mended.open("r+b") as file:
            file.write(page)


def _remove(mended: Path) -> None:
    for path in mended.parent.glob(mended.name + "*"):
        with suppress(OSError):  # on a disk that has become read-only
            path.unlink(missing_ok=True)
