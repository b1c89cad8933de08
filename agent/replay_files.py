"""The files of a recording: readings, flocks and events; read once, in constant memory, whatever their order.

Readings are spooled to one temporary file per UTC day, so a recording that is sorted by house, or not at all, replays
in time order without ever being held in memory.
"""

from __future__ import annotations

import csv
import math
import re
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from agent.commands import parse_recorded_command
from agent.config import NAME_PATTERN
from agent.domain import Flock, Quality, SeriesKey, TimeQuality, to_ms
from agent.errors import InputError, ReplayFileError
from agent.readings import Readings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from zoneinfo import ZoneInfo

    from numpy.typing import NDArray

    from agent.commands import FlockCommand

READINGS_HEADER = ("at", "house", "signal", "value")
FLOCKS_HEADER = (
    "house", "flock", "placed_on", "birds_placed", "strain", "sex", "parent_age_weeks", "ended_on",
    "slaughter_weight_g",
)  # fmt: skip
EVENTS_HEADER = ("at", "house", "command")

_DAY_MS = 86_400_000
_SPOOL_ROWS = 200_000  # held in memory before they are written out: about 20 MB as Python numbers
_ROW = np.dtype([("at_ms", "<i8"), ("value", "<f8"), ("key", "<i4"), ("time_quality", "u1")])
_YEAR_2200_MS = 7_258_118_400_000
_LONGEST_LIFE = timedelta(days=366)  # no broiler lives for a year: the date is a slip of the pen
_is_name = re.compile(NAME_PATTERN).match
_is_number = re.compile(r"\d{9,}(\.\d*)?").fullmatch  # of nine digits or more: 20260301 is a date
_SPREADSHEET_BOM = "utf-8-sig"  # spreadsheets put a byte order mark in front


@contextmanager
def _rows(path: Path, header: tuple[str, ...], *, optional: int = 0) -> Iterator[Iterator[list[str]]]:
    """Give the rows of a CSV file whose header is checked; its last ``optional`` columns may be absent."""
    try:
        file = path.open(encoding=_SPREADSHEET_BOM, newline="")
    except OSError as e:
        message = f"{path}: cannot be read: {e.strerror or e}"
        raise ReplayFileError(message) from e
    with file:
        rows = csv.reader(file)
        try:
            found = tuple(name.strip() for name in next(rows, []))
            if found != header and found != header[: len(header) - optional]:
                message = f"{path}: the first line must be {','.join(header)!r}, it is {','.join(found)!r:.120}"
                raise ReplayFileError(message)
            yield rows
        except (csv.Error, UnicodeDecodeError) as e:
            message = f"{path}: line {rows.line_num}: is no CSV text: {e}"
            raise ReplayFileError(message) from e


def _instant(text: str, zone: ZoneInfo) -> tuple[int, TimeQuality]:
    """Return the milliseconds and time quality of an ISO 8601 time, or of seconds or milliseconds since 1970.

    Raises:
        ValueError: it is none of these, or no time within 1970 to 2200.
    """
    time_quality = TimeQuality.SENDER
    if _is_number(text):  # before ISO 8601, whose basic form takes 1712011200000 for a day in the year 1712
        number = float(text)
        at_ms = round(number if number >= 1e11 else number * 1000)  # 1e11 s is the year 5138
    else:
        try:
            at = datetime.fromisoformat(text)
        except ValueError as e:
            message = f"at {text!r} is no time: write ISO 8601, or seconds or milliseconds since 1970"
            raise ValueError(message) from e
        if at.tzinfo is None:
            at, time_quality = at.replace(tzinfo=zone), TimeQuality.ASSUMED_ZONE
        at_ms = to_ms(at)
    if not 0 <= at_ms < _YEAR_2200_MS:
        message = f"at {text!r} is not within 1970 to 2200"
        raise ValueError(message)
    return at_ms, time_quality


@dataclass(slots=True)
class Recording:
    """Readings spooled by UTC day in ``folder``."""

    folder: Path
    keys: list[SeriesKey] = field(default_factory=list)
    days: list[int] = field(default_factory=list)  # UTC days since 1970 that hold readings, in order
    count: int = 0
    skipped_blank: int = 0

    def blocks(self) -> Iterator[Readings]:
        """Yield the readings of each UTC day, sorted by time; of one series at one time only the first in the file.

        So it is live, too: (house, signal, at) is the identity of a reading, and the first value wins.
        """
        keys = tuple(self.keys)
        for day in self.days:
            rows = np.fromfile(self.folder / str(day), _ROW)
            rows = rows[np.lexsort((rows["key"], rows["at_ms"]))]
            is_new = np.ones(len(rows), np.bool_)
            is_new[1:] = (np.diff(rows["at_ms"]) != 0) | (np.diff(rows["key"]) != 0)
            rows = rows[is_new]
            at_ms: NDArray[np.int64] = rows["at_ms"].copy()
            yield Readings(
                keys,
                rows["key"].copy(),
                at_ms,
                rows["value"].copy(),
                np.full(len(rows), Quality.GOOD, np.uint8),
                rows["time_quality"].copy(),
                at_ms,
            )


def spool_readings(path: Path, folder: Path, zone: ZoneInfo) -> Recording:
    """Read ``readings.csv`` into day files below ``folder``; a row without a value (blank, NaN) is counted.

    Raises:
        ReplayFileError: a line is wrong; the message names it.
    """
    recording = Recording(folder)
    index: dict[tuple[str, str], int] = {}
    instants: dict[str, tuple[int, TimeQuality]] = {}
    buffers: defaultdict[int, list[tuple[int, float, int, int]]] = defaultdict(list)
    buffered = 0
    isnan, isinf = math.isnan, math.isinf
    with _rows(path, READINGS_HEADER) as rows:
        for row in rows:
            if not row:
                continue
            try:
                if len(row) != len(READINGS_HEADER):
                    message = f"{len(row)} columns instead of {len(READINGS_HEADER)}"
                    raise ValueError(message)  # noqa: TRY301  # one place says file and line
                at_text, house, signal, value_text = row
                known = instants.get(at_text)
                if known is None:
                    if len(instants) > 10_000:  # stamps repeat across series, not for ever
                        instants.clear()
                    known = instants[at_text] = _instant(at_text, zone)
                key = index.get((house, signal))
                if key is None:
                    key = _new_key(index, recording, house, signal)
                if not value_text.strip():
                    recording.skipped_blank += 1
                    continue
                value = float(value_text)
                if isnan(value):  # how many programs write a missing value
                    recording.skipped_blank += 1
                    continue
                if isinf(value):
                    message = f"value {value_text!r} is no finite number"
                    raise ValueError(message)  # noqa: TRY301  # one place says file and line
            except ValueError as e:
                line = rows.line_num  # type: ignore[attr-defined]  # csv.reader has it, Iterator does not say so
                message = f"{path}: line {line}: {e}; a line is at,house,signal,value"
                raise ReplayFileError(message) from e
            at_ms, time_quality = known
            buffers[at_ms // _DAY_MS].append((at_ms, value, key, time_quality))
            buffered += 1
            if buffered >= _SPOOL_ROWS:
                _flush(recording, buffers)
                buffered = 0
    _flush(recording, buffers)
    recording.days.sort()
    return recording


def _new_key(index: dict[tuple[str, str], int], recording: Recording, house: str, signal: str) -> int:
    for name, what in ((house, "house"), (signal, "signal")):
        if not _is_name(name):
            message = f"{what} {name!r} is no name: use letters, digits, '-' and '_'"
            raise ValueError(message)
    key = index[house, signal] = len(recording.keys)
    recording.keys.append(SeriesKey(house, signal))
    return key


def _flush(recording: Recording, buffers: defaultdict[int, list[tuple[int, float, int, int]]]) -> None:
    for day, rows in buffers.items():
        path = recording.folder / str(day)
        if not path.exists():
            recording.days.append(day)
        with path.open("ab") as file:
            np.array(rows, _ROW).tofile(file)
        recording.count += len(rows)
    buffers.clear()


@dataclass(frozen=True, slots=True)
class RecordedFlock:
    """A line of ``flocks.csv``: the flock, its planned or real slaughter day, and the truth where it is known."""

    flock: Flock
    ended_on: date | None
    slaughter_weight_g: float | None


def read_flocks(path: Path) -> list[RecordedFlock]:
    """Return the flocks in ``flocks.csv``, by house and placement.

    Raises:
        ReplayFileError: a line is wrong, or two flocks share a house at the same time.
    """
    flocks = []
    with _rows(path, FLOCKS_HEADER) as rows:
        for row in rows:
            if not any(row):
                continue
            try:
                flocks.append(_flock(row))
            except (ValueError, IndexError) as e:
                line = rows.line_num  # type: ignore[attr-defined]  # csv.reader has it, Iterator does not say so
                message = f"{path}: line {line}: {e}; a line is {','.join(FLOCKS_HEADER)}"
                raise ReplayFileError(message) from e
    flocks.sort(key=lambda f: (f.flock.house, f.flock.placed_on))
    for earlier, later in pairwise(flocks):
        if earlier.flock.house != later.flock.house:
            continue
        if earlier.ended_on is not None and earlier.ended_on > later.flock.placed_on:
            message = (
                f"{path}: flock {later.flock.flock!r} is placed in {later.flock.house} on {later.flock.placed_on} "
                f"while {earlier.flock.flock!r} is there until {earlier.ended_on}"
            )
            raise ReplayFileError(message)
    return flocks


def _flock(row: list[str]) -> RecordedFlock:
    if len(row) != len(FLOCKS_HEADER):
        message = f"{len(row)} columns instead of {len(FLOCKS_HEADER)}"
        raise ValueError(message)
    cells = dict(zip(FLOCKS_HEADER, (cell.strip() for cell in row), strict=True))
    for name in ("house", "flock"):
        if not _is_name(cells[name]):
            message = f"{name} {cells[name]!r} is no name: use letters, digits, '-' and '_'"
            raise ValueError(message)
    placed_on = _date(cells, "placed_on")
    ended_on = _date(cells, "ended_on") if cells["ended_on"] else None
    if ended_on is not None and ended_on <= placed_on:
        message = f"ended_on {ended_on} is not after placed_on {placed_on}"
        raise ValueError(message)
    if ended_on is not None and ended_on > placed_on + _LONGEST_LIFE:
        message = f"ended_on {ended_on} is more than a year after placed_on {placed_on}"
        raise ValueError(message)
    return RecordedFlock(
        Flock(
            house=cells["house"],
            flock=cells["flock"],
            placed_on=placed_on,
            birds_placed=round(_within(cells, "birds_placed", 1, 1_000_000)) if cells["birds_placed"] else None,
            strain=cells["strain"][:64] or None,
            sex=cells["sex"] or None,
            parent_age_weeks=_within(cells, "parent_age_weeks", 15, 120) if cells["parent_age_weeks"] else None,
            planned_end_on=ended_on,
        ),
        ended_on,
        _within(cells, "slaughter_weight_g", 1, 10_000) if cells["slaughter_weight_g"] else None,
    )


def _date(cells: dict[str, str], name: str) -> date:
    try:
        day = date.fromisoformat(cells[name])
    except ValueError as e:
        message = f"{name} {cells[name]!r} is no date; write it as 2026-11-22"
        raise ValueError(message) from e
    if not 1970 < day.year < 2200:  # as for readings: every day in between would be played
        message = f"{name} {day} is not within 1970 to 2200"
        raise ValueError(message)
    return day


def _within(cells: dict[str, str], name: str, low: float, high: float) -> float:
    """Return a number between the limits that the commands of agent/commands.py have, too."""
    try:
        number = float(cells[name])
    except ValueError as e:
        message = f"{name} {cells[name]!r} is no number"
        raise ValueError(message) from e
    if not low <= number <= high:
        message = f"{name} {cells[name]!r} is not within {low:,} to {high:,}"
        raise ValueError(message)
    return number


def read_events(path: Path, zone: ZoneInfo) -> list[tuple[datetime, str, FlockCommand]]:
    """Return the flock commands in ``events.csv`` as (instant, house, command), in time order.

    What people said of warnings may stand there too, and is passed over.

    Raises:
        ReplayFileError: a line is wrong.
    """
    events = []
    with _rows(path, EVENTS_HEADER) as rows:
        for row in rows:
            if not any(row):
                continue
            try:
                if len(row) != len(EVENTS_HEADER):
                    message = f"{len(row)} columns instead of {len(EVENTS_HEADER)} (quote the JSON, double its quotes)"
                    raise ValueError(message)  # noqa: TRY301  # one place says file and line
                at_text, house, command = row
                at_ms, _ = _instant(at_text, zone)
                told = parse_recorded_command(command)
                if told is not None:
                    events.append((datetime.fromtimestamp(at_ms / 1000, UTC), house, told))
            except (ValueError, InputError) as e:
                line = rows.line_num  # type: ignore[attr-defined]  # csv.reader has it, Iterator does not say so
                message = f"{path}: line {line}: {e}; a line is at,house,command"
                raise ReplayFileError(message) from e
    events.sort(key=lambda event: event[0])
    return events
