"""Taking a farm's data home: any stream as CSV, JSON or Parquet, or a whole farm as the files that ``replay`` reads.

What is sealed is read from the local lake, the rest from house.db, in blocks, so that years need no memory.
"""

from __future__ import annotations

import csv
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from agent.domain import HouseState, from_ms, to_ms
from agent.errors import InputError, UsageError
from agent.history import Columns, lake_objects, read_object, write_objects
from agent.replay_files import EVENTS_HEADER, FLOCKS_HEADER, READINGS_HEADER
from agent.store import LAKE_COLUMNS, StoreReader
from agent.store.tables import Selection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from agent.clock import FarmDays
    from agent.config import Config

BLOCK_SEQS = 50_000  # row numbers that are asked of house.db at once: about 10 MB


@dataclass(slots=True)
class Exported:
    """What an export wrote, and what it had to leave out."""

    rows: int = 0
    oldest_ms: int | None = None
    newest_ms: int | None = None
    left_out: list[str] = field(default_factory=list)  # why, one sentence each
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the figures on one line."""
        if self.oldest_ms is None or self.newest_ms is None:
            return f"{self.rows:,} rows"
        return f"{self.rows:,} rows, from {_iso(self.oldest_ms)} to {_iso(self.newest_ms)}"


def export(config: Config, stream: str, form: str, out: Path, selection: Selection) -> Exported:
    """Write a stream into the file ``out``: CSV with a header, a JSON array, or Parquet with the columns of the lake.

    Readings as CSV have the four columns that ``replay`` takes.

    Raises:
        StoreError: house.db cannot be read.
        UsageError: the stream has no such column to select by, or ``out`` cannot be written.
    """
    done = Exported()
    columns = LAKE_COLUMNS[stream]
    if selection.signal is not None and "signal" not in dict(columns):
        message = f"{stream} have no signal: leave --signal out"
        raise UsageError(message)
    blocks = _counted(blocks_of(config, stream, selection, done), done)
    with _written(out) as part:
        if form == "parquet":
            write_objects(part, columns, blocks)
        elif form == "json":
            _write_json(part, columns, blocks)
        else:
            names = READINGS_HEADER if stream == "readings" else tuple(name for name, _ in columns)
            _write_csv(part, names, columns, blocks)
    return done


def export_replay(config: Config, out: Path, selection: Selection) -> Exported:
    """Write ``readings.csv``, ``flocks.csv`` and ``events.csv`` into the folder ``out``, as ``replay`` takes them.

    Raises:
        StoreError: house.db cannot be read.
        UsageError: ``out`` cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        message = f"--out {out}: {e.strerror or e}; give a folder"
        raise UsageError(message) from e
    done = export(config, "readings", "csv", out / "readings.csv", selection)
    told = Exported()
    changes = [
        change
        for block in blocks_of(config, "flocks", Selection(house=selection.house), told)
        for change in records_of(block)
    ]
    flocks, events, notes = _lives(changes, config.site.days)
    said = {
        _label(event)
        for block in blocks_of(config, "events", Selection(house=selection.house), told)
        for event in records_of(block)
        if event["kind"] == "label"
    }
    events += sorted(said, key=str)
    done.left_out += told.left_out
    done.notes += notes
    for name, header, rows in (("flocks.csv", FLOCKS_HEADER, flocks), ("events.csv", EVENTS_HEADER, events)):
        with _written(out / name) as part, part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)
    return done


# --- where rows come from ---------------------------------------------------------------------------------------------


def blocks_of(config: Config, stream: str, selection: Selection, done: Exported) -> Iterator[Columns]:
    """Yield the wanted rows of a stream: what is sealed from the local lake, by date, then the rest from house.db.

    Sealed ranges follow each other without a gap, and all but the newest are whole. Of the newest some objects may be
    missing (a seal is under way, or a crash came between them): house.db still has the rows that are in none.
    """
    with StoreReader.open(config.data.house_db) as store:
        objects = lake_objects(config.data.lake, stream)
        ours = [one for one in objects if (one.gateway, one.generation) == (store.gateway, store.generation)]
        newest_seq = max((one.first_seq for one in ours), default=store.first_seq(stream))
        names = [name for name, _ in LAKE_COLUMNS[stream]]
        days = _days(selection)
        in_newest: set[int] = set()
        for one in objects:
            if not days[0] <= one.day <= days[1]:
                continue
            try:
                for block in read_object(one.path, names):
                    yield _selected(block, selection)
                    if one in ours and one.first_seq == newest_seq:
                        in_newest.update(block["seq"])
            except InputError as e:
                done.left_out.append(str(e))
        last_seq = store.last_seq(stream)
        for first in range(max(newest_seq, store.first_seq(stream)), last_seq + 1, BLOCK_SEQS):
            block = store.rows(stream, first, min(first + BLOCK_SEQS - 1, last_seq))
            if not in_newest.isdisjoint(block["seq"]):
                block = _taken(block, [i for i, seq in enumerate(block["seq"]) if seq not in in_newest])
            yield _selected(block, selection)


def _days(selection: Selection) -> tuple[date, date]:
    """Return the first and last UTC date that can hold wanted rows."""
    first = date.min if selection.since_ms is None else from_ms(selection.since_ms).date()
    return first, date.max if selection.until_ms is None else from_ms(selection.until_ms).date()


def _selected(block: Columns, selection: Selection) -> Columns:
    """Return the wanted rows of a block."""
    if selection == Selection():
        return block
    which = range(len(block["seq"]))
    at_ms = block["at"]
    if selection.since_ms is not None or selection.until_ms is not None:
        since_ms = selection.since_ms if selection.since_ms is not None else -(2**63)
        until_ms = selection.until_ms if selection.until_ms is not None else 2**63
        chosen: Iterable[int] = [i for i in which if since_ms <= at_ms[i] < until_ms]
    else:
        chosen = which
    for name, value in (("house", selection.house), ("signal", selection.signal)):
        if value is not None:
            column = block[name]
            chosen = [i for i in chosen if column[i] == value]
    chosen = list(chosen)
    if len(chosen) == len(at_ms):
        return block
    return _taken(block, chosen)


def _taken(block: Columns, which: Sequence[int]) -> Columns:
    return {name: [column[i] for i in which] for name, column in block.items()}


def _counted(blocks: Iterable[Columns], done: Exported) -> Iterator[Columns]:
    """Pass blocks on, and keep in ``done`` what went by."""
    for block in blocks:
        if not block["seq"]:
            continue
        done.rows += len(block["seq"])
        oldest, newest = min(block["at"]), max(block["at"])
        done.oldest_ms = oldest if done.oldest_ms is None else min(done.oldest_ms, oldest)
        done.newest_ms = newest if done.newest_ms is None else max(done.newest_ms, newest)
        yield block


def records_of(block: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a block, each by the names of its columns."""
    names = list(block)
    for row in zip(*block.values(), strict=True):
        yield dict(zip(names, row, strict=True))


# --- how they are written ---------------------------------------------------------------------------------------------


@contextmanager
def _written(out: Path) -> Iterator[Path]:
    """Give a file beside ``out`` to write; it becomes ``out`` when it is whole, and is gone where that fails."""
    part = out.with_name(f".{out.name}.part")
    try:
        try:
            yield part
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)
    except OSError as e:
        message = f"--out {out}: {e.strerror or e}; give a place that can be written, with space left"
        raise UsageError(message) from e


def _write_csv(path: Path, names: Sequence[str], columns: Sequence[tuple[str, str]], blocks: Iterable[Columns]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for block in blocks:
            shown = _in_iso(columns, block)
            writer.writerows(zip(*(shown[name] for name in names), strict=True))


def _write_json(path: Path, columns: Sequence[tuple[str, str]], blocks: Iterable[Columns]) -> None:
    """Write one array, one object a line: a JSON parser takes it whole, a stream reader line by line."""
    with path.open("w", encoding="utf-8") as file:
        between = "[\n"
        for block in blocks:
            for record in records_of(_in_iso(columns, block)):
                file.write(between + json.dumps(record, ensure_ascii=False))
                between = ",\n"
        file.write("[]\n" if between == "[\n" else "\n]\n")


def _in_iso(columns: Sequence[tuple[str, str]], block: Columns) -> Columns:
    """Return a block whose times are ISO 8601 in UTC; stamps repeat, so each is written once."""
    shown = dict(block)
    for name, kind in columns:
        if kind == "timestamp":
            words = {at_ms: None if at_ms is None else _iso(at_ms) for at_ms in set(block[name])}
            shown[name] = [words[at_ms] for at_ms in block[name]]
    return shown


def _iso(at_ms: int) -> str:
    timespec = "milliseconds" if at_ms % 1000 else "seconds"
    return from_ms(at_ms).isoformat(timespec=timespec).replace("+00:00", "Z")


# --- flocks as replay takes them --------------------------------------------------------------------------------------

_Line = tuple[object, ...]


def _lives(changes: Sequence[dict[str, Any]], days: FarmDays) -> tuple[list[_Line], list[_Line], list[str]]:
    """Return the lines of flocks.csv and events.csv, and notes on what replay could not take.

    Each flock stands in flocks.csv with its facts as they were known last; its placement is that line. All else that
    was told is an event. A replay begins a flock at the start of its farm day, so the one before ends no later.
    """
    notes: list[str] = []
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for change in sorted(changes, key=lambda one: one["at"]):
        if change["flock"] is not None:
            newest[change["house"], change["flock"]] = change
    in_order = sorted(newest.values(), key=lambda one: (one["house"], one["placed_on"], one["at"]))
    lines: list[_Line] = []
    ends: dict[tuple[str, str], datetime | None] = {}
    closes: dict[tuple[str, str], datetime] = {}  # a second before the next flock comes in
    for one, following in zip(in_order, [*in_order[1:], None], strict=False):  # not strict: there may be no flock
        placed_on = date.fromisoformat(one["placed_on"])
        ended_at = None if one["ended_at"] is None else from_ms(one["ended_at"])
        ended_on = days.date_of(ended_at) if ended_at else None
        planned_on = date.fromisoformat(one["planned_end_on"]) if one["planned_end_on"] else None
        next_on = None
        if following is not None and following["house"] == one["house"]:
            next_on = date.fromisoformat(following["placed_on"])
            closes[one["house"], one["flock"]] = closed = days.start_of(next_on) - timedelta(seconds=1)
            ended_on = min(ended_on or next_on, next_on)
            ended_at = min(ended_at or closed, closed)
        last_on = ended_on or planned_on
        if last_on is not None and last_on <= placed_on:
            notes.append(f"flock {one['flock']} of {one['house']} was there for less than a day: it is left out")
            continue
        ends[one["house"], one["flock"]] = ended_at
        facts = (one["birds_placed"], one["strain"], one["sex"], one["parent_age_weeks"])
        lines.append((one["house"], one["flock"], placed_on, *facts, last_on, one["slaughter_weight_g"]))
    events: dict[_Line, datetime] = {}
    for change in changes:
        key = (change["house"], change["flock"])
        if change["flock"] is not None and key not in ends:
            continue
        at = from_ms(change["at"])
        try:
            command = command_of(change, ends.get(key))
        except (KeyError, ValueError) as e:  # written by no version of ours, or damaged
            notes.append(
                f"{change['action']} of {change['house']} at {_iso(change['at'])} is not whole: {e!r}; left out"
            )
            continue
        if command is None:
            continue
        if command["action"] == "end":
            at = min(at, closes.get(key, at))
        elif at > closes.get(key, at):
            continue
        events[_iso(to_ms(at)), change["house"], json.dumps(command)] = at  # two generations may both hold it
    return lines, sorted(events, key=lambda event: (events[event], str(event[1]))), notes


def _label(event: Mapping[str, Any]) -> _Line:
    """Return what somebody said of a warning as a line of events.csv."""
    detail = json.loads(event["detail"])
    said = {"action": detail["label"], **{name: detail[name] for name in ("rule", "cause", "by") if detail.get(name)}}
    return _iso(event["at"]), event["house"], json.dumps(said)


def command_of(change: Mapping[str, Any], ended_at: datetime | None) -> dict[str, Any] | None:
    """Return the command that a change came from; None for a placement, and for what time alone brought."""
    detail = json.loads(change["detail"])
    action = change["action"]
    who = {"by": detail["by"]} if detail.get("by") else {}
    flock = {"flock": change["flock"]} if change["flock"] is not None else {}
    if action == "record":
        return {"action": action, **flock, **{name: detail[name] for name in ("date", "dead", "culled")}, **who}
    if action == "thin":
        return {"action": action, **flock, "at": detail["at"], "birds": detail["birds"], **who}
    if action == "service":
        return {"action": action, **{name: detail[name] for name in ("signal", "for_s", "replaced")}, **who}
    if action == "state" and "reason" not in detail and change["state"] in set(HouseState):
        return {"action": action, **flock, "state": change["state"], **who}
    if action == "end" and ended_at is not None:
        weight = {"slaughter_weight_g": change["slaughter_weight_g"]} if change["slaughter_weight_g"] else {}
        return {"action": action, **flock, "at": ended_at.isoformat(), **weight, **who}
    return None
