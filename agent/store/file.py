"""The file itself: opened, locked, migrated, and its errors named with what to do about them."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import sqlite3
from contextlib import contextmanager
from importlib import resources
from typing import TYPE_CHECKING

import msgspec

from agent.errors import StoreDamaged, StoreError, StoreFull, StoreUnwritable
from agent.store.rows import SET_META

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

APPLICATION_ID = 0x666C_6F63  # "floc": in the header of the file, so that a foreign database is never written to
BUSY_TIMEOUT_S = 10.0  # readers never block the writer in WAL mode; a copying backup may, for a moment
WAL_LIMIT_BYTES = 16_000_000  # what is left of the WAL after a long reader has let it grow

_REMEDIES = {
    sqlite3.SQLITE_FULL: "free space on this disk; nothing was half written, and the broker keeps what it sent",
    sqlite3.SQLITE_IOERR: "the disk failed or is full: free space, then look for disk errors in `dmesg`",
    sqlite3.SQLITE_READONLY: "give the user of this program the right to write the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "give the user of this program the right to the file and its folder",
    sqlite3.SQLITE_PERM: "give the user of this program the right to the file and its folder",
    sqlite3.SQLITE_BUSY: "another program holds the database: end it and try again",
    sqlite3.SQLITE_NOTADB: "it is no SQLite database; the agent puts it aside and begins a new one",
    sqlite3.SQLITE_CORRUPT: "it is damaged; the agent puts it aside and begins a new one",
}
_KINDS: dict[int, type[StoreError]] = {
    sqlite3.SQLITE_NOTADB: StoreDamaged,
    sqlite3.SQLITE_CORRUPT: StoreDamaged,
    sqlite3.SQLITE_FULL: StoreFull,
    sqlite3.SQLITE_IOERR: StoreUnwritable,
    sqlite3.SQLITE_READONLY: StoreUnwritable,
    sqlite3.SQLITE_CANTOPEN: StoreUnwritable,
    sqlite3.SQLITE_PERM: StoreUnwritable,
}


@contextmanager
def named_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn what SQLite and the file system raise into a StoreError that says what to do.

    Raises:
        StoreDamaged: the content is broken.
        StoreUnwritable: the disk takes nothing (StoreFull: because it is full).
        StoreError: all else.
    """
    try:
        yield
    except sqlite3.Error as e:
        code = getattr(e, "sqlite_errorcode", 0) & 0xFF
        remedy = _REMEDIES.get(code, "if it stays, report it with this message")
        message = f"{path}: could not {doing}: {e}; {remedy}"
        raise _KINDS.get(code, StoreError)(message) from e
    except msgspec.MsgspecError as e:
        message = f"{path}: could not {doing}: a stored document is not as this program writes it: {e}"
        raise StoreDamaged(message) from e
    except OSError as e:
        message = f"{path}: could not {doing}: {e}; check [data] directory and its rights"
        if e.errno in {errno.EEXIST, errno.ENOTDIR, errno.EISDIR}:  # no disk that fails: the path is wrong
            raise StoreError(message) from e
        raise (StoreFull if e.errno in {errno.ENOSPC, errno.EDQUOT} else StoreUnwritable)(message) from e


@contextmanager
def transaction(db: sqlite3.Connection, path: Path, doing: str) -> Iterator[None]:
    """Make what happens inside durable as one, or undo it all.

    Raises:
        StoreError: it was undone.
    """
    with named_errors(path, doing):
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # a full disk may have ended it already
                db.execute("ROLLBACK")
            raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file beside ``path``: two agents on one database would number rows twice."""
    with path.with_name(path.name + ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            message = f"{path}: another agent has it open; end that one, or give this one its own [data] directory"
            raise StoreError(message) from e
        yield


def connect(path: Path) -> sqlite3.Connection:
    """Open the database to write it: what a transaction wrote is on the disk when it ends."""
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)  # None: transactions begin where we say
    try:
        check_ours(db, path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
    except BaseException:
        db.close()
        raise
    return db


def read_only(path: Path) -> sqlite3.Connection:
    """Open a database of ours to look at it; it is not made where there is none."""
    uri = path.absolute().as_uri() + "?mode=ro"
    if path.parent.is_dir() and os.statvfs(path.parent).f_flag & os.ST_RDONLY:
        uri += "&immutable=1"  # nobody can write it, and its -shm cannot be made either
    db = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    db.execute("PRAGMA query_only = ON")
    return db


def version_of(db: sqlite3.Connection) -> int:
    """Return how many of the migrations the database has had."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def check_ours(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a database that another program made, before anything is written to it."""
    application_id = db.execute("PRAGMA application_id").fetchone()[0]
    empty = db.execute("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)").fetchone()[0]
    if application_id != APPLICATION_ID and not empty:
        message = f"{path}: this database was not made by flockwatch; move it away, or give another [data] directory"
        raise StoreError(message)


def check_whole(db: sqlite3.Connection, path: Path) -> None:
    """Tell a database of ours that lacks tables of its version.

    Raises:
        StoreDamaged: it does.
    """
    scripts = "\n".join(migrations()[: version_of(db)])
    wanted = set(re.findall(r"^CREATE TABLE (\w+)", scripts, re.MULTILINE))
    wanted -= set(re.findall(r"^DROP TABLE (\w+)", scripts, re.MULTILINE))
    missing = wanted - {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if missing:
        message = f"{path}: it lacks the tables {', '.join(sorted(missing))}"
        raise StoreDamaged(message)


def migrations() -> list[str]:
    """Return the scripts that make the database, in order; the database of version n has had the first n."""
    folder = resources.files("agent") / "migrations"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return [file.read_text(encoding="utf-8") for file in files]


def statements(script: str) -> Iterator[str]:
    """Yield the statements of a script one by one: ``executescript`` would end the transaction around them."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


KEPT_FREE_SHARE, KEPT_FREE_BYTES = 0.05, 200_000_000
"""What stays free on the disk: this share of it, but no more than so many bytes. Our judgement: it holds the journals
of both databases, an hour's seal of a large farm and what else the machine writes, and is no great part of a card.
The file ``reserve`` (``agent.store.reserve``) is another thing: space that is taken, to be given up."""


def kept_free_bytes(disk_bytes: int) -> int:
    """Return how much of a disk is to stay free."""
    return min(round(disk_bytes * KEPT_FREE_SHARE), KEPT_FREE_BYTES)


def is_nearly_full(directory: Path) -> bool:
    """Tell whether the disk that holds ``directory`` has less free than is to stay free."""
    try:
        disk = shutil.disk_usage(directory)
    except OSError:  # not there, or out of order: whoever writes next says so
        return False
    return disk.free < kept_free_bytes(disk.total)


def new_generation() -> str:
    """Return a random name for a database, 8 hex digits."""
    return secrets.token_hex(4)


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring the database to this program's version, each step whole or not at all."""
    scripts, version = migrations(), version_of(db)
    if version > len(scripts):
        message = (
            f"{path}: the database has version {version}, this program knows {len(scripts)}; "
            "start the newer program that wrote it, or give another [data] directory"
        )
        raise StoreError(message)
    # not by sqlite-utils, which the data verbs use: its 10 MB would stay as long as the first agent of a gateway runs
    for number, script in enumerate(scripts[version:], version + 1):
        with transaction(db, path, f"bring it to version {number}"):
            for statement in statements(script):
                db.execute(statement)
            if number == 1:
                names = {"gateway": secrets.token_hex(6), "generation": new_generation()}
                db.executemany(SET_META, [*names.items(), ("observed_seq", "0"), ("seen_seq", "0")])
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {number}")
