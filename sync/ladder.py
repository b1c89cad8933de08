"""The ladder: what becomes of history where there is no room for all of it.

Beyond ``[store] max_size_mb``, or on a disk that is nearly full, one step at a time until there is room:

1. Readings that the cloud has confirmed leave the local lake, the oldest date first: nothing is lost, the cloud has
   them at full resolution, so they are not rolled up here.
2. Raw readings that it has not confirmed are replaced by ``readings_1min``, the oldest date first; where that would
   save less than half (readings that come once a minute are no smaller by the minute), by ``readings_15min`` at once.
3. ``readings_1min`` are replaced by ``readings_15min``.

Then nothing is left to be done: it is said, and nothing is deleted. Warnings, predictions, flocks and events stay.

Three kinds of object are never touched, because that would lose or double rows: those of a stream's newest seal, whose
name says how far is sealed if sync.db is lost; those that a lane was given, as the cloud may hold them already; and
those that others refused. A step takes objects of one date that follow each other, so that what was replaced can be
told from the name of what replaced it (``ObjectName.replaces``).
"""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from agent.rollup import STEPS_MS, Rollup, coarser, joined, of_readings
from agent.store import kept_free_bytes
from sync.lake import ROLLED_UP, ObjectName, UnsealableRows, decode, encode
from sync.outbox import COLUMNS, SyncEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sync.outbox import Held, Outbox

log = logging.getLogger(__name__)

MINUTE, QUARTER = STEPS_MS
LADDER = ("readings", *STEPS_MS)
STEP_BYTES = 500_000  # of objects that one step takes: some 300,000 readings, 40 MB of memory
BLOCK_BYTES = 4_096  # a file takes whole blocks of the file system
SAVES = 0.5  # a rollup by the minute must be smaller than this share of what it replaces


@dataclass(frozen=True, slots=True)
class Room:
    """What flockwatch takes on its disk, and what it may take; bytes."""

    used: int
    limit: int
    free: int
    kept_free: int

    @property
    def lack(self) -> str | None:
        """Why history must give way, None where there is room."""
        if self.used > self.limit:
            return f"more is kept than max_size_mb = {self.limit / 1e6:.0f} allows"
        if self.free < self.kept_free:
            return f"the disk has less than {self.kept_free / 1e6:.0f} MB free"
        return None


def room_on_disk(directory: Path, lake: Path, lake_bytes: int, *, limit_bytes: int) -> Room:
    """Return how much room there is.

    Args:
        directory: of everything that is kept.
        lake: the folder in it that is not looked through, since its objects are known.
        lake_bytes: what these take.
        limit_bytes: that all may take.

    Raises:
        OSError: the disk cannot be looked at.
    """
    used = lake_bytes
    for folder, subfolders, files in os.walk(directory):
        if folder == str(directory):
            subfolders[:] = [name for name in subfolders if name != lake.name]
        for name in files:
            try:
                used += os.stat(os.path.join(folder, name)).st_blocks * 512  # noqa: PTH116, PTH118  # os.walk gives text
            except FileNotFoundError:  # a journal comes and goes
                continue
    disk = shutil.disk_usage(directory)
    return Room(used, limit_bytes, disk.free, kept_free_bytes(disk.total))


def on_disk(size: int) -> int:
    """Return how many bytes of disk a file of ``size`` takes."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


class Ladder:
    """Makes room in the local lake, one short step after another."""

    def __init__(self, outbox: Outbox, look: Callable[[int], Room], *, has_cloud: bool) -> None:
        """Make it.

        Args:
            outbox: keeps the books.
            look: returns the room there is, told what the objects of the lake take.
            has_cloud: without one, no object can be there.
        """
        self._outbox = outbox
        self._look = look
        self._has_cloud = has_cloud
        self._hopeless: set[str] = set()  # objects that cannot be read, or that a rollup makes no smaller

    def step(self, at_ms: int) -> bool:
        """Make some room if there is need; return whether there is more to do.

        Raises:
            StoreError: sync.db cannot serve.
            OSError: the disk cannot; nothing is lost, the next call goes on.
        """
        room = self._look(self._outbox.lake_bytes(BLOCK_BYTES))
        if room.lack is None:
            self._say(None, at_ms)
            return False
        held = self._outbox.held()
        free = _untouched(held)
        if confirmed := _oldest_date([o for o in free if o.is_confirmed and o.name.stream in LADDER]):
            self._outbox.drop([o.key for o in confirmed])
            log.warning("%s; %d objects left the local lake, the cloud has them", room.lack, len(confirmed))
            return True
        can_go = {
            o.key for o in free if not o.is_confirmed and not (self._has_cloud and o.may_be_in_cloud)
        } - self._hopeless
        for stream in LADDER[:-1]:
            if run := _oldest_run([o for o in held if o.name.stream == stream], can_go):
                self._roll_up(run, room.lack, at_ms)
                return True
        self._say(f"{room.lack}; all that could give way did, and nothing is deleted: give it more room", at_ms)
        return False

    def forget(self, keep_days: int, today: date) -> None:
        """Let the oldest confirmed date go, if it is ``keep_days`` before the newest there is, and before today.

        One date in a call: a clock that has jumped ahead empties no lake before somebody sees it.

        Raises:
            StoreError: sync.db cannot serve.
            OSError: the disk cannot.
        """
        held = self._outbox.held()
        newest = min(today, max((o.name.day for o in held), default=today))
        old = [o for o in held if o.is_confirmed and o.name.day < newest - timedelta(days=min(keep_days, 40_000))]
        kept = {o.key for o in _untouched(held)}
        if gone := _oldest_date([o for o in old if o.is_gone or o.key in kept]):
            self._outbox.drop([o.key for o in gone], forget=True)

    def _roll_up(self, run: Sequence[Held], why: str, at_ms: int) -> None:
        """Replace some objects of one stream and date by one of lower resolution."""
        read: list[Held] = []
        parts: list[Rollup] = []
        names: dict[tuple[str, str], int] = {}
        qualities: dict[str, int] = {}
        for held in run:
            try:
                parts.append(_read(self._outbox.content(held.key), held.name.stream, names, qualities))
            except (UnsealableRows, OSError) as e:
                log.error("%s is left as it is: %s", held.key, e)  # noqa: TRY400  # no trace is needed
                self._hopeless.add(held.key)
                break  # what follows it is for a later step: a rollup spans no object that it does not hold
            read.append(held)
        if not read:
            return
        whole = joined(parts)
        name, data, rows = _encoded(read, whole, list(names), list(qualities))
        before = sum(on_disk(held.bytes) for held in read)
        if on_disk(len(data)) >= before:
            self._hopeless.update(held.key for held in read)
            return
        source = read[0].name.stream
        detail = {
            "from": source,
            "to": name.stream,
            "date": name.day.isoformat(),
            "objects": len(read),
            "readings": int(whole.n.sum()),
            "rows": rows,
            "reason": why,
        }
        span = int(whole.at_ms.min()), int(whole.at_ms.max())
        self._outbox.replace([held.key for held in read], name, data, SyncEvent(at_ms, "degraded", detail, *span))
        log.warning("%s; %d %s of %s became %d %s", why, detail["readings"], source, name.day, rows, name.stream)

    def _say(self, full: str | None, at_ms: int) -> None:
        """Say that there is no room left, or that there is again: to the log, the lake, the agent and ``status``."""
        before = self._outbox.noted("full")
        if (before is None) != (full is None):
            self._outbox.record(SyncEvent(at_ms, "full" if full else "room again", {"reason": full} if full else {}))
            if full:
                log.error("%s", full)
            else:
                log.warning("there is room again")
        self._outbox.note("full", full)


def _encoded(
    read: Sequence[Held], whole: Rollup, series: Sequence[tuple[str, str]], qualities: Sequence[str]
) -> tuple[ObjectName, bytes, int]:
    """Return name and bytes of the object that replaces ``read``, and how many rows it has."""
    before = sum(held.bytes for held in read)
    first, last = read[0].name, read[-1].name
    generation = first.generation.removesuffix(ROLLED_UP) + ROLLED_UP
    stream, data, rows = "", b"", 0
    for stream in LADDER[LADDER.index(first.stream) + 1 :]:
        rollup = coarser(whole, STEPS_MS[stream])
        rows = len(rollup)
        ((_, data),) = encode(stream, COLUMNS[stream], _columns(rollup, series, qualities)).values()  # all of one date
        if len(data) <= SAVES * before:
            break
    name = ObjectName(
        *(stream, first.site, first.day, first.gateway, generation),
        *(min(o.name.first_seq for o in read), max(last.last_seq, *(o.name.last_seq for o in read))),
    )
    return name, data, rows


def _untouched(held: Sequence[Held]) -> list[Held]:
    """Return what is in the lake, but for the newest seal of each stream and generation."""
    newest: dict[tuple[str, str, str], int] = {}
    for o in held:
        place = o.name.stream, o.name.gateway, o.name.generation
        newest[place] = max(newest.get(place, 0), o.name.last_seq)
    return [
        o
        for o in held
        if not o.is_gone
        and (o.name.is_rolled_up or o.name.last_seq < newest[o.name.stream, o.name.gateway, o.name.generation])
    ]


def _oldest_date(held: Sequence[Held]) -> list[Held]:
    """Return those of the oldest date."""
    oldest = min((o.name.day for o in held), default=None)
    return [o for o in held if o.name.day == oldest]


def _oldest_run(held: Sequence[Held], can_go: set[str]) -> list[Held]:
    """Return objects of the oldest date that follow each other and can all go, up to ``STEP_BYTES`` of them."""

    def place(o: Held) -> tuple[date, str, str, str]:
        return o.name.day, o.name.site, o.name.gateway, o.name.generation

    for _, together in groupby(sorted(held, key=lambda o: (*place(o), o.name.first_seq)), place):
        run: list[Held] = []
        size = 0
        for o in together:
            if o.key not in can_go or (run and size + o.bytes > STEP_BYTES):
                if run:
                    break
                continue
            run.append(o)
            size += o.bytes
        if run:
            return run
    return []


def _read(data: bytes, stream: str, names: dict[tuple[str, str], int], qualities: dict[str, int]) -> Rollup:
    """Return the rows of an object; ``names`` and ``qualities`` number its series and qualities, and are added to."""
    columns = decode(data)
    series = np.array(
        [names.setdefault(pair, len(names)) for pair in zip(columns["house"], columns["signal"], strict=True)], np.int64
    )
    quality = np.array([qualities.setdefault(word, len(qualities)) for word in columns["quality"]], np.int64)
    if stream == "readings":
        return of_readings(series, quality, columns["at"], columns["value"], columns["seq"])
    figures = (columns[name] for name in ("at", "n", "min", "max", "sum", "seq"))
    return Rollup(series, quality, *figures)


def _columns(rollup: Rollup, series: Sequence[tuple[str, str]], qualities: Sequence[str]) -> dict[str, list[object]]:
    """Return the columns of the lake."""
    pairs = [series[number] for number in rollup.series.tolist()]
    return {
        "at": rollup.at_ms.tolist(),
        "house": [house for house, _ in pairs],
        "signal": [signal for _, signal in pairs],
        "n": rollup.n.tolist(),
        "mean": rollup.mean.tolist(),
        "min": rollup.min.tolist(),
        "max": rollup.max.tolist(),
        "sum": rollup.sum.tolist(),
        "quality": [qualities[number] for number in rollup.quality.tolist()],
        "seq": rollup.seq.tolist(),
    }
