"""What a restart needs to know of the time before it, read from house.db."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent.domain import SeriesKey, from_ms
from agent.readings import Readings
from agent.store.file import named_errors
from agent.store.rows import (
    NEWER_READINGS,
    NEWEST_OF_FLOCK,
    NEWEST_OF_HOUSE,
    SERVICES,
    fit_days,
    fit_flocks,
    meta_of,
    newer_than,
    newest_changes,
    standings_of,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from agent.domain import FlockChange, Standing
    from agent.fitness import FitDay, FitFlock
    from agent.store.rows import BucketRow

FITNESS_MS = 16 * 86_400_000  # as much as ``agent.fitness`` looks back, and today


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
    wear: str | None  # what ``agent.wear`` keeps
    commands: tuple[tuple[str, str, str], ...]  # (id, topic, answer) of the last 100, oldest first
    births: tuple[tuple[str, bytes], ...]  # topic and payload, as they were appended
    services: tuple[FlockChange, ...]  # of sensors, the last ones in the order in which they were told
    fitness_days: tuple[FitDay, ...]  # of the last weeks
    fitness_flocks: tuple[FitFlock, ...]
    shadow_standings: tuple[Standing, ...]
    buckets: Iterator[BucketRow]  # of all houses, in the order of their time
    newer: Iterator[Readings]  # readings stored after observed_seq (and ``again``), in blocks of at most BLOCK_ROWS


def restore(
    db: sqlite3.Connection,
    path: Path,
    newest_ms: dict[SeriesKey, int],
    keys: tuple[SeriesKey, ...],
    again: Sequence[tuple[int, int]] = (),
) -> Restored:
    """Read what was known; see ``Store.restore``.

    Args:
        db: the open database.
        path: of it, for the words of an error.
        newest_ms: the newest time of each series.
        keys: of all series, in the order of their numbers, which begin at 1.
        again: times (after the first, up to the second) whose readings are seen again, observed or not.
    """
    with named_errors(path, "restore"):
        meta = meta_of(db)
        commands = db.execute("SELECT id, topic, answer FROM commands ORDER BY seq DESC LIMIT 100").fetchall()
        rhythms = db.execute("SELECT house, signal, rhythm_s FROM series WHERE rhythm_s IS NOT NULL")
        observed_seq = int(meta["observed_seq"])
        return Restored(
            standings=standings_of(db),
            houses={change.house: change for change in newest_changes(db, NEWEST_OF_HOUSE)},
            flocks=newest_changes(db, NEWEST_OF_FLOCK),
            judged_at=from_ms(int(meta["judged_ms"])) if "judged_ms" in meta else None,
            observed_seq=observed_seq,
            rhythms={SeriesKey(house, signal): rhythm for house, signal, rhythm in rhythms},
            newest_ms=newest_ms,
            wear=meta.get("wear"),
            commands=tuple(reversed(commands)),
            births=tuple(db.execute("SELECT topic, payload FROM births ORDER BY topic")),
            services=newest_changes(db, SERVICES),
            fitness_days=fit_days(db, max(newest_ms.values(), default=0) - FITNESS_MS),
            fitness_flocks=fit_flocks(db),
            shadow_standings=standings_of(db, "shadow_states"),
            buckets=_buckets(db, path),
            newer=_newer_readings(db, path, keys, observed_seq, again),
        )


def _buckets(db: sqlite3.Connection, path: Path) -> Iterator[BucketRow]:
    with named_errors(path, "read what the windows held"):
        yield from db.execute(
            "SELECT house, signal, step_s, start_ms, n, sum, min, max, last, last_ms FROM buckets"
            " ORDER BY step_s, start_ms"
        )


def _newer_readings(
    db: sqlite3.Connection,
    path: Path,
    keys: tuple[SeriesKey, ...],
    observed_seq: int,
    again: Sequence[tuple[int, int]],
) -> Iterator[Readings]:
    query, seq = NEWER_READINGS, observed_seq
    if again:
        wanted = " OR ".join(f"(at_ms > {first:d} AND at_ms <= {last:d})" for first, last in again)
        query, seq = NEWER_READINGS.replace("seq > ?", f"seq > ? AND (seq > {observed_seq:d} OR {wanted})"), 0
    with named_errors(path, "read what was not observed yet"):
        for rows in newer_than(db, query, seq):
            seqs, series, at_ms, received_ms, value, quality, time_quality = zip(*rows, strict=True)
            yield Readings(
                keys,
                np.array(series, np.int32) - np.int32(1),
                np.array(at_ms, np.int64),
                np.array(value, np.float64),
                np.array(quality, np.uint8),
                np.array(time_quality, np.uint8),
                np.array(received_ms, np.int64),
                last_seq=seqs[-1],
            )
