"""The clocks by which readings were received, and the correction of readings that were received by a wrong one.

A **segment** is a run of rows that were received by one clock: the same boot, the same offset to the time since boot,
the same trust. So boot and monotonic time of every row are known, at no cost for the row.

A **correction** moves the rows of this boot that were received while nothing kept the clock right. Its intent is
committed together with the segment that begins (``meta.clock_correction``); then blocks of rows are moved, each with
the place that was reached, so a crash goes on where it stopped; then the windows are built anew. ``received_ms`` is
moved always, ``at_ms`` where it is the time of arrival, a sender's own time never. What the courier has sealed stays as
it is in the lake: an event says by how much it is wrong.

The courier and we never disagree about which rows those are. We commit the intent, then read how far it is sealed or
about to be; it commits its own intent, then asks ``sealable_seq`` again: whoever comes second sees the other.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from agent.domain import TimeQuality
from agent.errors import StoreError
from agent.seen import RUN_GAP, SLOT_MS, joined
from agent.store.file import read_only
from agent.store.rows import BLOCK_ROWS, INSERT_EVENT, SET_META, as_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from agent.seen import Longs
    from agent.store.index import Index

DAY_MS = 86_400_000
UNTRUSTED_KEPT_MS = 7 * DAY_MS  # so long rows of untrusted time wait to be corrected before they are sealed
CORRECTED_FROM_MS = 60_000  # less is drift, which grew slowly: the same for all rows it would be wrong for most
CROWD_MS = 1_000  # arrivals of one millisecond are spread over so much: see agent.dialects
AHEAD_MS = DAY_MS  # what is further ahead of its arrival was not observed
_PENDING = "clock_correction"

_MOVES = (
    f"(time_quality = {TimeQuality.ARRIVAL:d}"
    f" OR (time_quality = {TimeQuality.UNTRUSTED:d} AND at_ms <= received_ms + {CROWD_MS}))"
)


class Segment(NamedTuple):
    """By which clock the readings from ``first_seq`` on were received; times in ms."""

    first_seq: int
    boot_id: str
    offset_ms: int
    trusted: bool
    synchronised: bool | None
    began_ms: int

    def value(self) -> dict[str, object]:
        """Return it as plain values, for events and ``status``."""
        return {
            "boot_id": self.boot_id,
            "offset_ms": self.offset_ms,
            "trusted": self.trusted,
            "synchronised": self.synchronised,
        }


class Correction(msgspec.Struct):
    """What is being corrected; a document of ``meta``."""

    first_seq: int
    last_seq: int
    next_seq: int  # the rows before it are moved
    delta_ms: int
    trusted: bool  # the new time is
    why: str
    boot_id: str
    from_ms: int  # the wrong time: from when ...
    to_ms: int  # ... to when
    at_ms: int  # the right time of its beginning
    sealed_seq: int | None = None  # up to here the lake holds the wrong times; None: not asked yet
    about_to_be: tuple[int, int] = (0, -1)  # rows of a seal that has begun: they stay
    spans: list[tuple[int, int]] = []  # msgspec copies it: first and last time of what windows held wrongly, or lack
    moved: bool = False  # all rows are; the windows are to be built anew


def segments_of(db: sqlite3.Connection) -> list[Segment]:
    """Return the clocks of the stored readings, oldest first."""
    return [
        Segment(first_seq, boot_id, offset_ms, bool(trusted), None if sync is None else bool(sync), began_ms)
        for first_seq, boot_id, offset_ms, trusted, sync, began_ms in db.execute(
            "SELECT first_seq, boot_id, offset_ms, trusted, synchronised, began_ms FROM clocks ORDER BY first_seq"
        )
    ]


def correction_of(db: sqlite3.Connection) -> Correction | None:
    """Return the correction that is not finished; None where there is none."""
    found = db.execute("SELECT value FROM meta WHERE key = ?", (_PENDING,)).fetchone()
    return None if found is None else msgspec.json.decode(found[0], type=Correction)


def sealable_seq(db: sqlite3.Connection, last_seq: int) -> int:
    """Return up to which reading the courier may seal: rows of untrusted time wait to be corrected, 7 days at most.

    Their age is told by the newest row, not by a clock: the courier's may be as wrong as ours. Rows of more than a day
    after it are of an earlier boot, whose clock was ahead: nothing will correct them, and they hold up no others.
    """
    pending = correction_of(db)
    if pending is not None and not pending.moved:
        last_seq = min(last_seq, pending.first_seq - 1)
    newest = db.execute("SELECT received_ms FROM readings ORDER BY seq DESC LIMIT 1").fetchone()
    if newest is None:
        return last_seq
    segments = segments_of(db)
    ends = [segment.first_seq - 1 for segment in segments[1:]] + [last_seq]
    for segment, end in zip(segments, ends, strict=False):  # without a segment, a clock that never steps
        if segment.trusted:
            continue
        young = db.execute(
            "SELECT seq FROM readings WHERE seq BETWEEN ? AND ? AND received_ms > ? AND received_ms < ?"
            " ORDER BY seq LIMIT 1",
            (segment.first_seq, end, newest[0] - UNTRUSTED_KEPT_MS, newest[0] + DAY_MS),
        ).fetchone()
        if young is not None:
            return min(last_seq, int(young[0]) - 1)
    return last_seq


def note_segment(db: sqlite3.Connection, segment: Segment) -> None:
    """Begin a segment, and forget those whose rows were pruned."""
    db.execute("INSERT OR REPLACE INTO clocks VALUES (?, ?, ?, ?, ?, ?)", segment)
    db.execute(
        "DELETE FROM clocks WHERE first_seq < (SELECT max(first_seq) FROM clocks WHERE first_seq <="
        " coalesce((SELECT min(seq) FROM readings), ?))",
        (segment.first_seq,),
    )


def correction_for(
    db: sqlite3.Connection, segment: Segment, delta_ms: int, why: str, *, earlier: Correction | None
) -> Correction | None:
    """Return what is to be corrected now that ``segment`` begins and its time is believed; None where nothing is.

    That are the readings of this boot since its clock was last synchronised. ``earlier`` is a correction whose windows
    are not built anew yet.
    """
    wrong: list[Segment] = []
    for before in reversed(segments_of(db)):
        if before.boot_id != segment.boot_id or before.synchronised:
            break
        if before.first_seq < segment.first_seq:
            wrong.append(before)
    gains_trust = segment.trusted and not all(before.trusted for before in wrong)
    if not wrong or not (abs(delta_ms) >= CORRECTED_FROM_MS or gains_trust):
        return None
    first = wrong[-1]
    return Correction(
        *(first.first_seq, segment.first_seq - 1, first.first_seq, delta_ms, segment.trusted, why, segment.boot_id),
        *(first.began_ms, segment.began_ms - delta_ms, segment.began_ms),
        spans=[] if earlier is None else earlier.spans,
    )


def save(db: sqlite3.Connection, correction: Correction) -> None:
    """Write how far a correction is."""
    db.execute(SET_META, (_PENDING, as_json(correction)))


def drop(db: sqlite3.Connection) -> None:
    """Write that no correction is under way."""
    db.execute("DELETE FROM meta WHERE key = ?", (_PENDING,))


def sealed_or_about_to_be(sync_db: Path, generation: str) -> tuple[int, tuple[int, int]]:
    """Return the last reading that the courier has sealed, and the range that it has begun to seal.

    Raises:
        StoreError: it cannot be known now.
    """
    if not sync_db.exists():
        return 0, (0, -1)
    try:
        with closing(read_only(sync_db)) as db:
            wanted = (generation,)
            mark = db.execute(
                "SELECT sealed_seq FROM watermarks WHERE stream = 'readings' AND generation = ?", wanted
            ).fetchone()
            intent = db.execute(
                "SELECT first_seq, last_seq FROM intents WHERE stream = 'readings' AND generation = ?", wanted
            ).fetchone()
    except sqlite3.Error as e:
        message = f"{sync_db}: could not read how far is sealed: {e}; readings wait to be corrected until it can"
        raise StoreError(message) from e
    return (0 if mark is None else int(mark[0])), ((0, -1) if intent is None else (int(intent[0]), int(intent[1])))


@dataclass(frozen=True, slots=True)
class Corrector:
    """Moves the rows of a correction, block by block, each in a transaction of the store's."""

    db: sqlite3.Connection
    index: Index
    transaction: Callable[[str], AbstractContextManager[None]]

    def move_block(self, correction: Correction) -> None:
        """Move the next rows and note how far it is; after the last ones, say so in an event.

        What the index knows must be saved, and read anew when ``correction.moved`` is set.
        """
        first, last = correction.next_seq, min(correction.next_seq + BLOCK_ROWS - 1, correction.last_seq)
        skip_first, skip_last = correction.about_to_be
        if skip_first <= first <= skip_last:
            first = skip_last + 1
        elif first < skip_first <= last:
            last = skip_first - 1
        after = msgspec.structs.replace(correction, next_seq=max(last, first - 1) + 1, spans=list(correction.spans))
        with self.transaction("correct the time of readings"):
            if first <= last:
                self._move(first, last, after)
            if after.next_seq > after.last_seq:
                self._finish(after)
            save(self.db, after)
        correction.next_seq, correction.spans, correction.moved = after.next_seq, after.spans, after.moved

    def _move(self, first: int, last: int, correction: Correction) -> None:
        rows = self.db.execute(
            "SELECT seq, series, at_ms, received_ms, time_quality FROM readings WHERE seq BETWEEN ? AND ? ORDER BY seq",
            (first, last),
        ).fetchall()
        if not rows:
            return
        seq, series, at_ms, received_ms, time_quality = (
            np.array(column, np.int64) for column in zip(*rows, strict=True)
        )
        delta_ms = correction.delta_ms
        untrusted = time_quality == TimeQuality.UNTRUSTED
        moves = (time_quality == TimeQuality.ARRIVAL) | (untrusted & (at_ms <= received_ms + CROWD_MS))
        found = (at_ms > received_ms + AHEAD_MS) & (at_ms <= received_ms + delta_ms + AHEAD_MS)
        moved_ms = np.where(moves, at_ms + delta_ms, at_ms)
        moved_ms[moves] = self._free(series[moves], moved_ms[moves], correction, first)
        if correction.trusted:
            time_quality[moves & untrusted] = TimeQuality.ARRIVAL
            time_quality[found & untrusted] = TimeQuality.SENDER
        columns = moved_ms, received_ms + delta_ms, time_quality, seq
        self.db.executemany(
            "UPDATE readings SET at_ms = ?, received_ms = ?, time_quality = ? WHERE seq = ?",
            zip(*(column.tolist() for column in columns), strict=True),
        )
        self._note_runs(moved_ms[moves] // SLOT_MS, seq[moves])
        for times in (at_ms[moves], np.concatenate((moved_ms[moves], at_ms[found]))):
            if len(times):
                correction.spans.append((int(times.min()), int(times.max())))
        correction.spans[:] = joined_spans(correction.spans)

    def _free(self, series: Longs, at_ms: Longs, correction: Correction, first_seq: int) -> Longs:
        """Return times of arrival that no other reading of their series has: a millisecond later where one is taken."""
        taken = self._taken(at_ms, correction, first_seq)
        free = at_ms.copy()
        ours = set(zip(series.tolist(), at_ms.tolist(), strict=True))
        for number, (s, a) in enumerate(zip(series.tolist(), at_ms.tolist(), strict=True)):
            if (s, a) not in taken and not self.index.is_sealed_time(s, a):
                continue
            later = a + 1
            while (s, later) in taken or (s, later) in ours or self.index.is_sealed_time(s, later):
                later += 1
            ours.add((s, later))
            free[number] = later
        return free

    def _taken(self, at_ms: Longs, correction: Correction, first_seq: int) -> set[tuple[int, int]]:
        """Return (series, at) of the readings around some times, but for those that are still to be moved."""
        runs: list[tuple[int, int]] = []
        for slot in np.unique(at_ms // SLOT_MS).tolist():
            runs += self.db.execute("SELECT first_seq, last_seq FROM slots WHERE slot = ?", (slot,)).fetchall()
        taken: set[tuple[int, int]] = set()
        for run_first, run_last in joined(runs):
            taken.update(
                self.db.execute(
                    "SELECT series, at_ms FROM readings WHERE seq BETWEEN ? AND ? AND at_ms BETWEEN ? AND ?"  # noqa: S608
                    f" AND NOT (seq BETWEEN ? AND ? AND {_MOVES})",
                    (
                        run_first,
                        run_last,
                        int(at_ms.min()),
                        int(at_ms.max()) + CROWD_MS,
                        first_seq,
                        correction.last_seq,
                    ),
                )
            )
        return taken

    def _note_runs(self, slots: Longs, seq: Longs) -> None:
        """Note where the readings of each minute now are; what is noted of the old times does no harm."""
        if len(seq) == 0:
            return
        order = np.argsort(slots, kind="stable")
        breaks = np.flatnonzero((np.diff(slots[order]) != 0) | (np.diff(seq[order]) > RUN_GAP)) + 1
        firsts, lasts = order[np.r_[0, breaks]], order[np.r_[breaks - 1, len(order) - 1]]
        self.db.executemany(
            "INSERT INTO slots VALUES (?, ?, ?) ON CONFLICT (slot, first_seq)"
            " DO UPDATE SET last_seq = max(last_seq, excluded.last_seq)",
            zip(slots[firsts].tolist(), seq[firsts].tolist(), seq[lasts].tolist(), strict=True),
        )

    def _finish(self, correction: Correction) -> None:
        """Set right what is told of all rows: the newest time of each series, the clocks; and leave word of it."""
        self.index.write_highs()
        self.db.execute(
            "UPDATE clocks SET offset_ms = offset_ms + ?, began_ms = began_ms + ?, trusted = max(trusted, ?)"
            " WHERE first_seq BETWEEN ? AND ?",
            (
                *(correction.delta_ms, correction.delta_ms, correction.trusted),
                *(correction.first_seq, correction.last_seq),
            ),
        )
        sealed_seq = max(correction.sealed_seq or 0, correction.about_to_be[1])
        detail = {
            "boot_id": correction.boot_id,
            "delta_ms": correction.delta_ms,
            "first_seq": correction.first_seq,
            "last_seq": correction.last_seq,
            "sealed_to_seq": sealed_seq if sealed_seq >= correction.first_seq else None,
            "why": correction.why,
        }
        row = (correction.at_ms, "clock_corrected", None, None, correction.from_ms, correction.to_ms, as_json(detail))
        self.db.execute(INSERT_EVENT, row)
        correction.moved = True


def joined_spans(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans of time in order, those that are less than a day apart joined to one."""
    result: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if result and first <= result[-1][1] + DAY_MS:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return result
