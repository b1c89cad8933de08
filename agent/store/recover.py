"""What a damaged or replaced house.db still holds, and nobody else has, brought into the present one."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from agent.domain import Quality, SeriesKey
from agent.store.care import stopped
from agent.store.file import connect, named_errors, transaction
from agent.store.rows import (
    INSERT_COMMAND,
    INSERT_EVENT,
    INSERT_FLOCK,
    INSERT_PREDICTION,
    INSERT_ROLLUP,
    INSERT_WARNING,
    REPLACE_BUCKET,
    REPLACE_STANDING,
    as_json,
)
from agent.store.salvage import LAST_MS, LostRows, readable_readings, readable_rows, salvage
from agent.store.writer import Store

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from agent.store.salvage import Salvaged

_INSERTS = {
    "warnings": INSERT_WARNING,
    "predictions": INSERT_PREDICTION,
    "events": INSERT_EVENT,
    "flocks": INSERT_FLOCK,
}
_ROLLUPS = "readings_15min"
_TEXT, _NUMBER = str, (int, float)
_SHAPES: dict[str, tuple[Any, ...]] = {  # of a row without its seq; None where the column may be empty
    "warnings": (int, _TEXT, _TEXT, _TEXT),
    "predictions": (int, _TEXT, (str, type(None)), (int, type(None)), _TEXT, int, _TEXT, _NUMBER, _NUMBER, _NUMBER,
                    _TEXT, _TEXT, _NUMBER),
    "events": (int, _TEXT, (str, type(None)), (str, type(None)), (int, type(None)), (int, type(None)), _TEXT),
    "flocks": (int, _TEXT, (str, type(None)), _TEXT, _TEXT, _TEXT),
}  # fmt: skip
_DOCUMENTS = {"warnings", "events", "flocks"}  # whose last column is JSON


@dataclass(slots=True)
class Recovered:
    """What came out of one file."""

    path: Path
    sealed: dict[str, int] = field(default_factory=dict)  # rows up to here are in the lake already, per stream
    added: dict[str, int] = field(default_factory=dict)  # rows that are now in house.db and were not
    known: dict[str, int] = field(default_factory=dict)  # rows that were there already
    lost: dict[str, list[LostRows]] = field(default_factory=dict)  # rows that cannot be read
    unreadable: tuple[tuple[str, str], ...] = ()  # small tables, or parts of them, and why


def recover(path: Path, damaged: Path, *, sealed_up_to: Callable[[str, str | None], int], at_ms: int) -> Recovered:
    """Bring into the database at ``path`` what ``damaged`` holds beyond what is sealed; doing it again adds nothing.

    Readings go the way of all readings: what is known falls out, what is older than its series is marked late, and the
    agent observes them at its next start. Of warnings, predictions, flocks and events the rows that are not there come
    in with the time that they had; of states, buckets, rhythms and commands what is missing. What the present database
    says of a house or flock stays its newest word.

    Args:
        path: of house.db.
        damaged: the file to read; nothing is written into it.
        sealed_up_to: (stream, generation or None where it cannot be read) -> the last row that the lake holds.
        at_ms: now.

    Raises:
        StoreError: the agent runs, or house.db cannot be written; what was recovered until then is there.
    """
    with named_errors(path, "recover"):
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    with stopped(path):
        pass  # told in plain words before anything is opened
    found = salvage(damaged)
    done = Recovered(damaged, unreadable=found.unreadable)
    with Store.open(path) as store:
        done.sealed["readings"] = sealed_up_to("readings", found.generation)
        for block in readable_readings(damaged, done.sealed["readings"] + 1):
            if isinstance(block, LostRows):
                done.lost.setdefault("readings", []).append(block)
            else:
                added = len(store.append(block, at_ms=at_ms))
                _count(done, "readings", added, len(block) - added)
        with closing(connect(path)) as db:
            for stream in _INSERTS:
                done.sealed[stream] = sealed_up_to(stream, found.generation)
                _recover_stream(db, path, stream, done)
            done.sealed[_ROLLUPS] = sealed_up_to(_ROLLUPS, found.generation)
            _recover_rollups(db, path, dict(found.series), done)
            with transaction(db, path, "recover what was known"):
                _recover_states(db, found, done)
                detail = {"file": damaged.name, "added": done.added, "generation": found.generation,
                          "lost": {stream: [[one.first_seq, one.last_seq] for one in lost[:100]]
                                   for stream, lost in done.lost.items()}}  # fmt: skip
                if any(done.added.values()):
                    db.execute(INSERT_EVENT, (at_ms, "recovered", None, None, None, None, as_json(detail)))
    return done


def _count(done: Recovered, what: str, added: int, known: int) -> None:
    done.added[what] = done.added.get(what, 0) + added
    done.known[what] = done.known.get(what, 0) + known


def _recover_stream(db: sqlite3.Connection, path: Path, stream: str, done: Recovered) -> None:
    """Insert the rows of one stream that are not there; by all their columns, as they have no other identity."""
    columns = _INSERTS[stream].partition("(")[2].partition(")")[0]
    present = {_digest(row) for row in db.execute(f"SELECT {columns} FROM {stream}")}  # noqa: S608  # names of ours
    newest = _newest_words(db) if stream == "flocks" else {}
    touched: set[tuple[str, str | None]] = set()
    for block in readable_rows(done.path, stream, done.sealed[stream] + 1):
        if isinstance(block, LostRows):
            done.lost.setdefault(stream, []).append(block)
            continue
        sound = [row[1:] for row in block if _is_possible(stream, row[1:])]
        if len(sound) < len(block):
            wrong = [row[0] for row in block if not _is_possible(stream, row[1:])]
            done.lost.setdefault(stream, []).append(
                LostRows(wrong[0], wrong[-1], f"{len(wrong)} rows hold what no row of {stream} can")
            )
        fresh = [row for row in sound if _digest(row) not in present]
        present |= {_digest(row) for row in fresh}
        with transaction(db, path, f"recover {stream}"):
            db.executemany(_INSERTS[stream], fresh)
            if stream == "flocks":
                touched |= {(row[1], row[2]) for row in fresh}
        _count(done, stream, len(fresh), len(sound) - len(fresh))
    again = [row for (house, flock), row in newest.items() if (house, flock) in touched]
    houses = {house for house, _ in touched}
    again += [row for (house, flock), row in newest.items() if flock == _OF_HOUSE and house in houses]
    with transaction(db, path, "recover flocks"):
        db.executemany(INSERT_FLOCK, list(dict.fromkeys(again)))


def _recover_rollups(db: sqlite3.Connection, path: Path, names: dict[int, SeriesKey], done: Recovered) -> None:
    """Insert what was left of readings that were never sealed, under the numbers that their series have here."""
    here = {SeriesKey(house, signal): n for n, house, signal in db.execute("SELECT id, house, signal FROM series")}
    present = set(db.execute("SELECT series, at_ms, quality, n, min, max, sum FROM readings_15min"))
    for block in readable_rows(done.path, _ROLLUPS, done.sealed[_ROLLUPS] + 1):
        if isinstance(block, LostRows):
            done.lost.setdefault(_ROLLUPS, []).append(block)
            continue
        sound = [row for row in block if row[1] in names and _is_rollup(row[2:])]
        if len(sound) < len(block):
            wrong = [row[0] for row in block if row not in sound]
            done.lost.setdefault(_ROLLUPS, []).append(
                LostRows(wrong[0], wrong[-1], f"{len(wrong)} rows hold what no row of {_ROLLUPS} can")
            )
        new = list(dict.fromkeys(names[row[1]] for row in sound if names[row[1]] not in here))
        added = {key: len(here) + i for i, key in enumerate(new, 1)}
        here |= added
        fresh = [one for row in sound if (one := (here[names[row[1]]], *row[2:])) not in present]
        present.update(fresh)
        with transaction(db, path, f"recover {_ROLLUPS}"):
            db.executemany(
                "INSERT INTO series (id, house, signal) VALUES (?, ?, ?)", [(n, *key) for key, n in added.items()]
            )
            db.executemany(INSERT_ROLLUP, fresh)
        _count(done, _ROLLUPS, len(fresh), len(sound) - len(fresh))


def _is_rollup(row: Sequence[Any]) -> bool:
    """Tell whether (at_ms, quality, n, min, max, sum) can be a rollup."""
    at_ms, quality, n, *figures = row
    return (
        all(isinstance(number, int) for number in (at_ms, quality, n))
        and all(isinstance(number, float) for number in figures)
        and 0 <= at_ms <= LAST_MS
        and 0 <= quality < len(Quality)
        and n > 0
    )


_OF_HOUSE = ""  # no flock is called so


def _newest_words(db: sqlite3.Connection) -> dict[tuple[str, str | None], tuple[Any, ...]]:
    """Return the newest row of each flock, then that of each house (as flock ``_OF_HOUSE``)."""
    rows = db.execute("SELECT at_ms, house, flock, action, state, document FROM flocks ORDER BY seq").fetchall()
    flocks = {(row[1], row[2]): row for row in rows if row[2] is not None}
    return flocks | {(row[1], _OF_HOUSE): row for row in rows}


def _is_possible(stream: str, row: Sequence[Any]) -> bool:
    """Tell whether damage that SQLite does not notice has left this row alone, as far as one can see."""
    shape = _SHAPES[stream]
    if len(row) != len(shape) or not all(isinstance(value, kind) for value, kind in zip(row, shape, strict=True)):
        return False
    if not 0 <= row[0] <= LAST_MS or any("\ufffd" in value for value in row if isinstance(value, str)):
        return False
    if stream in _DOCUMENTS:
        try:
            return isinstance(json.loads(row[-1]), dict)
        except (ValueError, RecursionError):
            return False
    return True


def _digest(row: Sequence[Any]) -> bytes:
    return blake2b(repr(tuple(row)).encode(), digest_size=16).digest()


def _recover_states(db: sqlite3.Connection, found: Salvaged, done: Recovered) -> None:
    """Bring in what is missing of the small tables; what the present database knows is newer, and stays."""
    work: list[tuple[str, str, Sequence[Sequence[object]]]] = [
        ("warning_states", REPLACE_STANDING, [(s.house, s.rule, as_json(s)) for s in found.standings]),
        ("buckets", REPLACE_BUCKET, found.buckets),
        ("commands", INSERT_COMMAND, found.commands),
    ]
    for what, statement, rows in work:
        before = db.total_changes
        db.executemany(statement.replace("OR REPLACE", "OR IGNORE"), rows)
        added = db.total_changes - before
        _count(done, what, added, len(rows) - added)
    db.executemany(
        "UPDATE series SET rhythm_s = ? WHERE house = ? AND signal = ? AND rhythm_s IS NULL",
        [(rhythm_s, *key) for key, rhythm_s in found.rhythms_s],
    )
