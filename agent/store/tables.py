"""What lies in the databases, for people: each table with its size, and rows in words. Read only, beside the writers.

It knows tables by their names and columns alone, so it serves house.db of any version, and sync.db.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from agent.domain import from_ms
from agent.errors import StoreError, UsageError
from agent.seen import SLOT_MS
from agent.store.file import named_errors, read_only
from agent.store.index import SEALED_PERIOD_MS
from agent.store.rows import QUALITIES, TIME_QUALITIES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import sqlite_utils
    from sqlite_utils.db import Table as AnyTable

PURPOSES = {
    "meta": "who this gateway is, and how far it has come",
    "series": "the signals of each house, and how often they usually come",
    "readings": "the readings of the last days, as they came",
    "readings_15min": "what is left of older readings that were never sealed",
    "slots": "which rows hold the readings of a minute",
    "sealed_times": "the times of readings that are no longer here, packed",
    "clocks": "by which clock the readings were received",
    "unacknowledged": "messages that the broker may send again",
    "births": "what Sparkplug nodes said of their metrics: what they send later is read by it",
    "buckets": "what the models look at: sums of ten minutes and of days",
    "warnings": "each change of a warning, with its words",
    "warning_states": "where each warning rule stands",
    "predictions": "what the models expect",
    "fitness_days": "what was counted of the models by day: what they were fed, whether their bands held",
    "fitness_flocks": "how the models fit each flock: drift, bands, error against the slaughter weight",
    "shadow_warnings": "what shadow bundles would have warned of",
    "shadow_states": "where warning rules would stand by shadow bundles",
    "shadow_predictions": "what shadow bundles expect",
    "flocks": "what was told of flocks and houses",
    "events": "gaps, conflicts, sensors that failed, starts",
    "commands": "commands that were done, and their answers",
    "rejected": "messages that were no readings, and why",
    "watermarks": "how far each stream is sealed",
    "intents": "a seal that is being made",
    "objects": "the files of the lake, and which of them the cloud has",
    "sync_events": "what sync did to the history, not sealed yet",
    "replacing": "a file of lower resolution that is being made",
    "doomed": "files that are about to go",
    "set_aside": "rows that no file could hold",
}

_TIMES = {"at_ms": 1, "start_ms": 1, "received_ms": 1, "sealed_at_ms": 1, "high_ms": 1, "updated_ms": 1,
          "slot": SLOT_MS, "period": SEALED_PERIOD_MS}  # fmt: skip
"""The columns that can stand for the time of a row, best first, and how many milliseconds one of it is."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TableFacts:
    """One table of a database."""

    database: str
    name: str
    purpose: str
    rows: int
    bytes: int | None  # with its indexes; None where this SQLite cannot tell
    oldest_ms: int | None
    newest_ms: int | None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows are wanted; None stands for all. ``since_ms`` is inclusive, ``until_ms`` is not."""

    since_ms: int | None = None
    until_ms: int | None = None
    house: str | None = None
    signal: str | None = None


def tables_of(path: Path) -> list[TableFacts]:
    """Return every table of the database at ``path`` with its size.

    Raises:
        StoreError: it cannot be read.
    """
    with named_errors(path, "look at"), closing(_open(path)) as db:
        database = _tools(db)
        sizes = _sizes(db)
        facts = []
        for name in _names(database):
            time = _time_of(database.table(name))
            column, unit_ms = time or ("NULL", 1)
            rows, oldest, newest = next(
                database.query(f"SELECT count(*) AS n, min({column}) AS a, max({column}) AS b FROM [{name}]")  # noqa: S608  # names that the database itself gave
            ).values()
            facts.append(
                TableFacts(
                    path.name,
                    name,
                    PURPOSES.get(name, ""),
                    rows,
                    sizes.get(name),
                    None if oldest is None else oldest * unit_ms,
                    None if newest is None else newest * unit_ms,
                )
            )
        return facts


def names_of(path: Path) -> list[str]:
    """Return the names of the tables of the database at ``path``.

    Raises:
        StoreError: it cannot be read.
    """
    with named_errors(path, "look at"), closing(_open(path)) as db:
        return _names(_tools(db))


def rows_of(path: Path, table: str, selection: Selection, limit: int) -> list[Row]:
    """Return rows of one table in words, the newest first, at most ``limit``.

    Times are ISO 8601 under a name without ``_ms``, a series is its house and signal, JSON is what it says.

    Raises:
        StoreError: the database cannot be read.
        UsageError: there is no such table, or it has no column to select by.
    """
    with named_errors(path, f"read {table}"), closing(_open(path)) as db:
        database = _tools(db)
        if table not in _names(database):
            message = f"{path}: there is no table {table!r}; there are {', '.join(_names(database))}"
            raise UsageError(message)
        source = database.table(table)
        where, values = _condition(source, selection)
        order = ", ".join(f"[{name}] DESC" for name in source.pks)
        found = source.rows_where(where or None, values, order_by=order, limit=limit)
        series = {row["id"]: row for row in database.table("series").rows} if "series" in _names(database) else {}
        return [dict(_in_words(row, series)) for row in found]


def _open(path: Path) -> sqlite3.Connection:
    if not path.exists():
        message = f"{path}: there is no such database; start the agent once, or check [data] directory"
        raise StoreError(message)
    return read_only(path)


def _tools(db: sqlite3.Connection) -> sqlite_utils.Database:
    import sqlite_utils  # noqa: PLC0415  # 0.1 s and 10 MB that only who looks at tables needs

    return sqlite_utils.Database(db, recursive_triggers=False, execute_plugins=False)


def _names(database: sqlite_utils.Database) -> list[str]:
    return [name for name in database.table_names() if not name.startswith("sqlite_")]


def _sizes(db: sqlite3.Connection) -> dict[str, int]:
    """Return the bytes of each table with its indexes; empty where SQLite was built without ``dbstat``."""
    try:
        return dict(
            db.execute(
                "SELECT s.tbl_name, sum(d.pgsize) FROM dbstat d JOIN sqlite_schema s ON s.name = d.name"
                " WHERE d.aggregate = TRUE GROUP BY s.tbl_name"
            ).fetchall()
        )
    except db.OperationalError as e:
        if "no such table" in str(e):
            return {}
        raise


def _time_of(table: AnyTable) -> tuple[str, int] | None:
    columns = {column.name for column in table.columns}
    return next(((name, unit_ms) for name, unit_ms in _TIMES.items() if name in columns), None)


def _condition(table: AnyTable, selection: Selection) -> tuple[str, Row]:
    """Return what SQL is to look for, and the values in it."""
    columns = {column.name for column in table.columns}
    time = _time_of(table)
    parts: list[str] = []
    values: Row = {}
    for bound_ms, sign, flag in ((selection.since_ms, ">=", "since"), (selection.until_ms, "<", "until")):
        if bound_ms is None:
            continue
        if time is None:
            message = f"table {table.name} has no times: leave --{flag} out"
            raise UsageError(message)
        column, unit_ms = time
        parts.append(f"[{column}] * {unit_ms} {sign} :{flag}")
        values[flag] = bound_ms
    for name, value in (("house", selection.house), ("signal", selection.signal)):
        if value is None:
            continue
        if name in columns:
            parts.append(f"[{name}] = :{name}")
        elif "series" in columns:
            parts.append(f"series IN (SELECT id FROM series WHERE {name} = :{name})")  # noqa: S608  # house or signal
        else:
            message = f"table {table.name} has no column {name}: leave --{name} out"
            raise UsageError(message)
        values[name] = value
    return " AND ".join(parts), values


def _in_words(row: Mapping[str, Any], series: Mapping[int, Row]) -> Iterator[tuple[str, Any]]:
    """Yield the columns of a row as a person reads them."""
    for name, value in row.items():
        if name == "series" and value in series:
            yield "house", series[value]["house"]
            yield "signal", series[value]["signal"]
        elif isinstance(value, int) and name in _INSTANTS:
            yield _INSTANTS[name][0], _iso(value * _INSTANTS[name][1])
        elif isinstance(value, int) and name.endswith("_ms"):
            yield name.removesuffix("_ms"), _iso(value)
        elif name in _CODES and isinstance(value, int):
            yield name, _CODES[name](value)
        elif isinstance(value, str) and name in {"document", "detail", "answer", "row"}:
            yield name, _decoded(value)
        elif isinstance(value, bytes):
            yield name, value.decode("utf-8", "replace") if name == "first_bytes" else f"{len(value)} bytes"
        else:
            yield name.removesuffix("_ms"), value


_INSTANTS = {"slot": ("minute", SLOT_MS), "period": ("period", SEALED_PERIOD_MS)}
_CODES: dict[str, Callable[[int], str | int]] = {
    "quality": lambda code: QUALITIES[code] if 0 <= code < len(QUALITIES) else code,
    "time_quality": lambda code: TIME_QUALITIES[code] if 0 <= code < len(TIME_QUALITIES) else code,
}


def _iso(at_ms: int) -> str | int:
    try:
        return from_ms(at_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):  # a number that no calendar holds is shown as it is
        return at_ms


def _decoded(text: str) -> object:
    try:
        decoded: object = msgspec.json.decode(text)
    except msgspec.MsgspecError:  # not ours, or damaged: as it stands
        return text
    return decoded
