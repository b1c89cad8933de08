"""What is done to a whole house.db while no agent writes it, and a copy of it while one does."""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from agent.errors import StoreError
from agent.store.file import (
    check_ours,
    connect,
    locked,
    migrate,
    migrations,
    named_errors,
    new_generation,
    read_only,
    transaction,
    version_of,
)
from agent.store.rows import INSERT_EVENT, SET_META, as_json, meta_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LEFT_OUT = ("unacknowledged", "rejected", "clocks")
"""Tables that a snapshot does not take: what another broker will never repeat, what nobody needs again, and by which
clocks of this machine the readings came."""

STOP_IT = "stop the agent first: systemctl stop flockwatch-agent"


@contextmanager
def stopped(path: Path) -> Iterator[None]:
    """Hold the lock of the database at ``path``, as its agent does.

    Raises:
        StoreError: the agent runs, or the folder cannot be used by this user.
    """
    folder = path.parent
    with ExitStack() as stack:
        with named_errors(path, "begin"):
            if os.geteuid() == 0 and folder.exists() and folder.stat().st_uid != 0:
                message = (
                    f"{folder} belongs to the agent's own user, who could not use what root makes there; run it as "
                    "that user: runuser --user flockwatch -- flockwatch data …"
                )
                raise StoreError(message)
            try:
                stack.enter_context(locked(path))
            except StoreError as e:
                message = f"{path}: an agent is at work on it; {STOP_IT}"
                raise StoreError(message) from e
        yield


# --- a copy, while the agent works ------------------------------------------------------------------------------------


def snapshot(path: Path, target: Path, *, with_readings: bool) -> dict[str, str]:
    """Write what ``path`` held at one instant into the new database ``target``; return its ``meta``.

    The agent goes on meanwhile: a reader holds no writer up. Of the readings only those go along that the windows do
    not hold yet, unless all are wanted; rows of readings are numbered from 1 anew, which a new generation allows.

    Raises:
        StoreError: it cannot be read, or the copy cannot be written.
    """
    with named_errors(path, "copy"):
        if not path.exists():
            message = f"{path}: there is no such database; check [data] directory"
            raise StoreError(message)
        with closing(read_only(path)) as source:
            check_ours(source, path)
            if (version := version_of(source)) != len(migrations()):
                message = f"{path}: the database has version {version}, this program copies version {len(migrations())}"
                raise StoreError(message + "; start the agent of this version once")
        uri = target.absolute().as_uri()
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = OFF")  # it becomes durable with the archive that it goes into
            migrate(db, target)
            db.execute("ATTACH ? AS source", (path.absolute().as_uri() + "?mode=ro",))
            db.execute("BEGIN")
            meta = dict(db.execute("SELECT key, value FROM source.meta"))
            observed, seen = int(meta["observed_seq"]), int(meta["seen_seq"])
            oldest = db.execute("SELECT min(seq) FROM source.readings").fetchone()[0]
            before = max(observed, seen) if oldest is None else oldest - 1  # the last row that does not go along
            if not with_readings:
                before = max(before, observed)
            for table in _tables(db):
                if table not in {*LEFT_OUT, "readings", "slots", "meta"}:
                    _copy(db, table)
            _copy_readings(db, before)
            if with_readings:
                shifted = "SELECT slot, first_seq - :before, last_seq - :before FROM source.slots"
                db.execute(f"INSERT INTO main.slots {shifted}", {"before": before})
            else:
                _raise_highs(db, seen, before)
                seen = before
            meta |= {"observed_seq": str(max(0, observed - before)), "seen_seq": str(max(0, seen - before))}
            for name in ("health", "clock_correction"):
                meta.pop(name, None)
            db.executemany(SET_META, meta.items())
            db.execute("COMMIT")
            db.execute("DETACH source")
        return meta


def _tables(db: sqlite3.Connection) -> list[str]:
    found = db.execute(
        "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    return [name for (name,) in found]


def _copy(db: sqlite3.Connection, table: str) -> None:
    columns = ", ".join(name for _, name, *_ in db.execute(f"PRAGMA main.table_info({table})"))
    db.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM source.{table}")  # noqa: S608  # our schema


def _copy_readings(db: sqlite3.Connection, before: int) -> None:
    """Copy the readings after the row ``before``, which becomes row 0."""
    names = [name for _, name, *_ in db.execute("PRAGMA main.table_info(readings)") if name != "seq"]
    columns = ", ".join(names)
    db.execute(
        f"INSERT INTO main.readings (seq, {columns}) SELECT seq - ?, {columns} FROM source.readings WHERE seq > ?",  # noqa: S608  # our schema
        (before, before),
    )


def _raise_highs(db: sqlite3.Connection, seen: int, observed: int) -> None:
    """Let ``series.high_ms`` know the rows that were observed, but were only in the memory of the agent."""
    highs = db.execute(
        "SELECT max(at_ms), series FROM source.readings WHERE seq > ? AND seq <= ? GROUP BY series", (seen, observed)
    ).fetchall()
    db.executemany("UPDATE main.series SET high_ms = max(coalesce(high_ms, ?1), ?1) WHERE id = ?2", highs)


# --- a copy becomes the database of a new gateway ---------------------------------------------------------------------


def begin_anew(path: Path, at_ms: int, detail: dict[str, object]) -> tuple[str, str]:
    """Make a snapshot this gateway's own: of today's version, with a new id and generation, and an event that says so.

    The file is whole in itself afterwards, without a WAL.

    Returns:
        The new gateway and generation.

    Raises:
        StoreError: it is no sound database of ours.
    """
    with named_errors(path, "restore"):
        with closing(read_only(path)) as db:
            db.execute("PRAGMA trusted_schema = OFF")
            check_ours(db, path)
            verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            alien = db.execute("SELECT count(*) FROM sqlite_schema WHERE type NOT IN ('table', 'index')").fetchone()[0]
            if verdict != "ok" or alien or not {"meta", "readings"} <= set(_tables(db)):
                message = f"{path}: it is no sound database of flockwatch: {verdict}; use another backup"
                raise StoreError(message)
        with closing(connect(path)) as db:
            migrate(db, path)
            old = meta_of(db)
            ids = {"gateway": secrets.token_hex(6), "generation": new_generation()}
            with transaction(db, path, "restore"):
                db.executemany(SET_META, ids.items())
                said = as_json({"from_gateway": old["gateway"], "from_generation": old["generation"], **detail})
                db.execute(INSERT_EVENT, (at_ms, "restored", None, None, None, None, said))
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return ids["gateway"], ids["generation"]


# --- making it small again --------------------------------------------------------------------------------------------


def vacuum(path: Path) -> tuple[int, int]:
    """Write the database at ``path`` anew without what was deleted; return its bytes before and after.

    Raises:
        StoreError: the agent runs, the disk has too little space, or the database is damaged; it is as it was.
    """
    if not path.exists():
        message = f"{path}: there is no such database; check [data] directory"
        raise StoreError(message)
    with stopped(path), named_errors(path, "vacuum"):
        before = _bytes(path)
        free = shutil.disk_usage(path.parent).free
        if free < 2 * before:  # the new content is written twice: into a file of its own, then into the WAL
            message = (
                f"{path}: {free / 1e6:,.0f} MB are free, {2 * before / 1e6:,.0f} MB are needed to write it anew; "
                "free space, or let it be: the agent uses what is free in it for the next readings"
            )
            raise StoreError(message)
        os.environ["SQLITE_TMPDIR"] = str(path.parent)  # not /tmp, which may be memory on a gateway
        with closing(connect(path)) as db:
            migrate(db, path)
            import sqlite_utils  # noqa: PLC0415  # 0.1 s and 10 MB that only this needs

            sqlite_utils.Database(db, recursive_triggers=False, execute_plugins=False).vacuum()
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return before, _bytes(path)


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, path.with_name(path.name + "-wal")) if file.exists())
