"""A damaged house.db is put aside, whole, and a new one takes over what the old one still tells.

The damaged file goes to ``<data>/quarantine/house-<UTC time>.db`` with its WAL. Nothing is deleted: `flockwatch data
recover` reads its unsealed readings from there, and what is recovered, or not wanted any more, somebody removes. Until
then the agent says that it is there.

A new database that has no readings yet takes over from the newest quarantined file, whenever that is: a crash between
the two steps costs nothing.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from agent.domain import Event, SeriesKey, to_ms
from agent.store.file import transaction
from agent.store.keepsake import read
from agent.store.reader import sealed_watermarks
from agent.store.rows import (
    INSERT_COMMAND,
    INSERT_EVENT,
    INSERT_FLOCK,
    REPLACE_BUCKET,
    REPLACE_STANDING,
    SET_META,
    as_json,
    event_row,
    flock_row,
    last_seq_of,
    meta_of,
)
from agent.store.salvage import Salvaged, salvage

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

FOLDER = "quarantine"
COPIED_BYTES = 400_000_000  # above the shipped max_size_mb; 20 s on a slow card, while the watchdog waits 60
_GATEWAY = re.compile(r"[0-9a-f]{12}")
_WAL_MAGIC = (0x377F0682, 0x377F0683)  # SQLite file format, 4.1
_WAL_HEADER, _FRAME_HEADER = 32, 24


def put_aside(database: Path, at: datetime) -> Path:
    """Move a database and its WAL into the quarantine, durably; return its new name.

    Raises:
        OSError: the file system does not take it.
    """
    aside = _name(database, at, ".db")
    for end in ("-wal", "-shm", ""):  # the database last: until then the next start finds it damaged, and goes on here
        part = database.with_name(database.name + end)
        with suppress(FileNotFoundError):
            part.replace(aside.with_name(aside.name + end))
    for folder in (aside.parent, database.parent):
        _sync_folder(folder)
    return aside


def put_wal_aside(database: Path, at: datetime, *, move: bool) -> Path:
    """Keep a WAL that holds damage, while the database itself is sound; return its new name.

    Raises:
        OSError: the file system does not take it.
    """
    aside = _name(database, at, ".wal")
    wal = database.with_name(database.name + "-wal")
    if move:
        wal.replace(aside)
        database.with_name(database.name + "-shm").unlink(missing_ok=True)
    else:
        shutil.copyfile(wal, aside)
    for folder in (aside.parent, database.parent):
        _sync_folder(folder)
    return aside


def in_quarantine(folder: Path) -> list[Path]:
    """Return the files in the quarantine of a data directory that nobody has seen to yet, oldest first."""
    return sorted(path for path in (folder / FOLDER).glob("house-*") if path.suffix in {".db", ".wal"})


def _name(database: Path, at: datetime, end: str) -> Path:
    folder = database.parent / FOLDER
    folder.mkdir(mode=0o770, exist_ok=True)  # the courier puts its own there
    stem = f"{database.stem}-{at:%Y%m%dT%H%M%S}"
    names = [f"{stem}Z{end}", *(f"{stem}Z-{n}{end}" for n in range(2, 1000))]
    return next(path for name in names if not (path := folder / name).exists())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- is it damaged? ---------------------------------------------------------------------------------------------------


def lost_content(database: Path) -> str | None:
    """Say why a database that SQLite would take for a new one is a lost one, or None."""
    wal = database.with_name(database.name + "-wal")
    if _size(database) == 0 and _size(wal) > _WAL_HEADER:
        return "it is empty, but its WAL is not"
    if database.exists() and _size(database) == 0 and read(database.parent) is not None:
        return "it is empty, though flocks were placed"
    return None


def unreadable_wal(database: Path) -> str | None:
    """Say why the WAL of a database cannot be read at all, or None: SQLite would pass over it without a word."""
    wal = database.with_name(database.name + "-wal")
    if _size(database) == 0 or _size(wal) <= _WAL_HEADER:
        return None
    with wal.open("rb") as file:
        header = file.read(_WAL_HEADER)
    if int.from_bytes(header[:4], "big") not in _WAL_MAGIC:
        return "its WAL does not begin as one"
    return None


def commits_beyond(database: Path, db: sqlite3.Connection) -> int:
    """Return how many transactions stand in the WAL behind a damaged place, where SQLite does not see them.

    One there may be after a power cut: the last, not yet durable. Each before it was durable when it ended.
    """
    wal = database.with_name(database.name + "-wal")
    size = _size(wal)
    if size <= _WAL_HEADER:
        return 0
    _, valid_frames, _ = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    with wal.open("rb") as file:
        header = file.read(_WAL_HEADER)
        frame_bytes = _FRAME_HEADER + int.from_bytes(header[8:12], "big")
        commits = 0
        for at in range(_WAL_HEADER + max(valid_frames, 0) * frame_bytes, size - frame_bytes + 1, frame_bytes):
            file.seek(at)
            frame = file.read(_FRAME_HEADER)
            if frame[8:16] == header[16:24] and frame[4:8] != bytes(4):  # of this WAL, and the end of a transaction
                commits += 1
    return max(0, commits - 1)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


# --- a new database takes over ----------------------------------------------------------------------------------------


def take_over(
    db: sqlite3.Connection,
    path: Path,
    sync_db: Path,
    at: datetime,
    *,
    why: str | None = None,
    gateway: str | None = None,
    newest_ms: Mapping[SeriesKey, int] | None = None,
) -> Event | None:
    """Let a new database take over from the newest quarantined one; return what is to be said about it.

    Args:
        db: the database, of the newest version. One that holds readings or flocks already is left as it is.
        path: of it.
        sync_db: the courier's database.
        at: when.
        why: what was wrong with the old one; None where that was found before a crash.
        gateway: our name, where it is known better than from the file.
        newest_ms: the newest time of each series, likewise.

    Raises:
        StoreError: nothing was taken over.
    """
    old = [file for file in in_quarantine(path.parent) if file.suffix == ".db"]
    if not old or last_seq_of(db, "readings") or last_seq_of(db, "flocks") or "took_over" in meta_of(db):
        return None
    found = salvage(old[-1], copy_up_to=COPIED_BYTES)
    kept = read(path.parent)
    gateway = gateway or found.gateway or (kept and kept.gateway) or gateway_in_lake(path.parent / "lake")
    if kept is not None and not found.houses:
        found = replace(found, houses=kept.houses)
    event = _event(found, sync_db, at, why)
    highs = dict(found.newest_ms) | dict(newest_ms or {})
    rhythms = dict(found.rhythms_s)
    numbers = {key: number for number, key in enumerate(dict.fromkeys([*(k for _, k in found.series), *highs]), 1)}
    changes = {(c.house, c.at, c.action, c.flock and c.flock.flock): c for c in (*found.flocks, *found.houses)}
    # the last row of a house tells its state: what names it comes after older flocks, and these after older services
    ordered = sorted(changes.values(), key=lambda change: (change in found.houses, change.at))
    ordered = [*(service for service in found.services if service not in ordered), *ordered]
    meta = {"took_over": old[-1].name} | ({"gateway": gateway} if gateway else {})
    if found.judged_at is not None:
        meta["judged_ms"] = str(to_ms(found.judged_at))
    if found.presumed_ms:
        meta |= {"presumed_ms": str(found.presumed_ms), "known_good_ms": str(found.known_good_ms)}
    with transaction(db, path, "take over from the damaged database"):
        db.executemany(SET_META, list(meta.items()))
        db.executemany(
            "INSERT INTO series (id, house, signal, high_ms, rhythm_s) VALUES (?, ?, ?, ?, ?)",
            [(number, *key, highs.get(key), rhythms.get(key)) for key, number in numbers.items()],
        )
        db.executemany(INSERT_FLOCK, [flock_row(change) for change in ordered])
        db.executemany(REPLACE_STANDING, [(s.house, s.rule, as_json(s)) for s in found.standings])
        db.executemany(REPLACE_BUCKET, found.buckets)
        db.executemany(INSERT_COMMAND, found.commands)
        db.executemany("INSERT OR REPLACE INTO births VALUES (?, ?)", found.births)
        db.executemany(
            "INSERT OR REPLACE INTO sealed_times VALUES (?, ?, ?)",
            [(period, numbers[key], times) for period, key, times in found.sealed_times],
        )
        db.execute(INSERT_EVENT, event_row(event))
    return event


def _event(found: Salvaged, sync_db: Path, at: datetime, why: str | None) -> Event:
    last = dict(found.last_seqs).get("readings")
    sealed = None
    if found.generation is not None:
        marks = sealed_watermarks(sync_db, found.generation) or {}
        lake = sync_db.with_name("lake")
        sealed = max(marks.get("readings", 0), sealed_in_lake(lake, found.generation, "readings"))
    detail: dict[str, object] = {
        "file": found.path.name,
        "why": why or "found damaged before a crash",
        "old_generation": found.generation,
        "readings_up_to_seq": last,
        "sealed_up_to_seq": sealed,
        "taken_over": {
            "houses": len(found.houses),
            "standings": len(found.standings),
            "series": len(found.series),
            "buckets": len(found.buckets),
        },
        "unreadable": dict(found.unreadable),
    }
    return Event(at, "quarantined", detail=detail)


def sealed_in_lake(lake: Path, generation: str, stream: str) -> int:
    """Return the last row of a stream that the local lake holds of a database, by the names of its objects."""
    names = (path.stem.split("-") for path in lake.glob(f"{stream}/site=*/date=*/*-{generation}-*.parquet"))
    return max((int(name[3]) for name in names if len(name) == 4 and name[3].isdecimal()), default=0)


def gateway_in_lake(lake: Path) -> str | None:
    """Return the gateway that wrote the newest object of the local lake; None where there is none."""
    newest = max(lake.glob("*/site=*/date=*/*.parquet"), key=lambda path: path.stat().st_mtime_ns, default=None)
    name = newest.name.partition("-")[0] if newest else ""
    return name if _GATEWAY.fullmatch(name) else None
