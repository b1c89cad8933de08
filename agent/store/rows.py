"""What stands in house.db: the columns that leave it, the SQL texts, and how a domain object becomes a row and back."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from agent.alerts import row as alert_row
from agent.domain import (
    Flock,
    FlockChange,
    HouseState,
    Quality,
    Rejected,
    Standing,
    TimeQuality,
    from_ms,
    to_ms,
)
from agent.fitness import FitDay, FitFlock

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from datetime import datetime

    from numpy.typing import NDArray

    from agent.domain import Event, Message, Prediction, WarningEvent
    from agent.readings import Readings


def _columns(text: str) -> tuple[tuple[str, str], ...]:
    """Read ``name type, name type, ...``; a name without a type is a string."""
    pairs = (column.split() for column in text.split(","))
    return tuple((name, kind[0] if kind else "string") for name, *kind in pairs)


LAKE_COLUMNS: dict[str, tuple[tuple[str, str], ...]] = {
    "readings": _columns(
        "at timestamp, received_at timestamp, house, signal, value float64, quality, time_quality, seq int64"
    ),
    "warnings": _columns(
        "at timestamp, house, flock, day_number int32, rule, about, signal, id, before, state, severity int8, reason,"
        "actual float64, expected float64, low float64, high float64, unit, deviation_pct float64,"
        "since timestamp, raised_at timestamp, confidence float64, coverage float64,"
        "causes, check_first, text, model, model_version, by, lang, why, seq int64"
    ),
    "predictions": _columns(
        "at timestamp, house, flock, day_number int32, target, target_at timestamp, horizon,"
        "p10 float64, p50 float64, p90 float64, model, model_version, coverage float64, seq int64"
    ),
    "flocks": _columns(
        "at timestamp, house, flock, action, state, placed_on, birds_placed int64, strain, sex,"
        "parent_age_weeks float64, planned_end_on, ended_at timestamp, slaughter_weight_g float64,"
        "thinned_birds int64, detail, seq int64"
    ),
    "events": _columns("at timestamp, kind, house, signal, from_at timestamp, to_at timestamp, detail, seq int64"),
    "readings_15min": _columns(
        "at timestamp, house, signal, n int64, mean float64, min float64, max float64, sum float64, quality, seq int64"
    ),
}
LAKE_COLUMNS |= {f"shadow_{stream}": LAKE_COLUMNS[stream] for stream in ("warnings", "predictions")}
"""Name and logical type of every column that leaves the house, in order; here a time is integer milliseconds."""

STREAMS = tuple(LAKE_COLUMNS)

BucketRow = tuple[str, str, int, int, int, float, float, float, float, int]
"""house, signal, step_s, start_ms, n, sum, min, max, last, last_ms: what a window keeps of one signal in one step."""

EventRow = tuple[int, str, str | None, str | None, int | None, int | None, str]
"""at_ms, kind, house, signal, from_ms, to_ms, detail."""

BLOCK_ROWS = 50_000  # rows that are in memory at once: 3 MB in columns

INSERT_ROLLUP = "INSERT INTO readings_15min (series, at_ms, quality, n, min, max, sum) VALUES (?, ?, ?, ?, ?, ?, ?)"
SET_META = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
SET_RHYTHM = "UPDATE series SET rhythm_s = ? WHERE id = ?"
INSERT_EVENT = "INSERT INTO events (at_ms, kind, house, signal, from_ms, to_ms, detail) VALUES (?, ?, ?, ?, ?, ?, ?)"
INSERT_WARNING = "INSERT INTO warnings (at_ms, house, rule, document) VALUES (?, ?, ?, ?)"
INSERT_FLOCK = "INSERT INTO flocks (at_ms, house, flock, action, state, document) VALUES (?, ?, ?, ?, ?, ?)"
INSERT_PREDICTION = (
    "INSERT INTO predictions (at_ms, house, flock, day_number, target, target_at_ms, horizon, p10, p50, p90, model,"
    " model_version, coverage) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
INSERT_SHADOW_WARNING = INSERT_WARNING.replace("warnings", "shadow_warnings")
INSERT_SHADOW_PREDICTION = INSERT_PREDICTION.replace("predictions", "shadow_predictions")
REPLACE_FIT_DAY = "INSERT OR REPLACE INTO fitness_days (house, model, start_ms, document) VALUES (?, ?, ?, ?)"
REPLACE_FIT_FLOCK = (
    "INSERT OR REPLACE INTO fitness_flocks (house, model, flock, updated_ms, document) VALUES (?, ?, ?, ?, ?)"
)
INSERT_COMMAND = "INSERT OR IGNORE INTO commands (id, topic, answer) VALUES (?, ?, ?)"
DROP_COMMANDS = "DELETE FROM commands WHERE seq <= (SELECT max(seq) FROM commands) - ?"
REPLACE_STANDING = "INSERT OR REPLACE INTO warning_states VALUES (?, ?, ?)"
REPLACE_SHADOW_STANDING = REPLACE_STANDING.replace("warning_states", "shadow_states")
REPLACE_BUCKET = (
    "INSERT OR REPLACE INTO buckets (house, signal, step_s, start_ms, n, sum, min, max, last, last_ms)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
NEWER_READINGS = (
    "SELECT seq, series, at_ms, received_ms, value, quality, time_quality FROM readings"
    " WHERE seq > ? ORDER BY seq LIMIT ?"
)
NEWER_IDENTITIES = "SELECT seq, series, at_ms, value FROM readings WHERE seq > ? ORDER BY seq LIMIT ?"
NEWEST_OF_HOUSE = (
    "SELECT at_ms, action, house, state, document FROM flocks"
    " WHERE seq IN (SELECT max(seq) FROM flocks GROUP BY house) ORDER BY seq"
)
NEWEST_OF_FLOCK = (
    "SELECT at_ms, action, house, state, document FROM flocks"
    " WHERE seq IN (SELECT max(seq) FROM flocks WHERE flock IS NOT NULL GROUP BY house, flock) ORDER BY seq"
)
SERVICES_KEPT = 256  # of all houses: by number, as the clock that dated them may have been wrong
SERVICES = (
    "SELECT at_ms, action, house, state, document FROM flocks WHERE seq IN"  # noqa: S608  # a number of ours
    f" (SELECT seq FROM flocks WHERE action = 'service' ORDER BY seq DESC LIMIT {SERVICES_KEPT}) ORDER BY seq"
)
LATEST_PREDICTIONS = (  # SQLite takes the other columns from the row of the maximum
    "SELECT at_ms, house, flock, day_number, target, target_at_ms, horizon, p10, p50, p90, model, model_version,"
    " coverage, max(seq) FROM predictions WHERE seq > ? GROUP BY house, target, horizon ORDER BY house, target, horizon"
)
LAKE_ROWS = {  # in the order of LAKE_COLUMNS; what stands in a document is taken from it below
    "readings": "SELECT at_ms, received_ms, series, value, quality, time_quality, seq FROM readings"
    " WHERE seq BETWEEN ? AND ? ORDER BY seq",
    "warnings": "SELECT at_ms, document, seq FROM warnings WHERE seq BETWEEN ? AND ? ORDER BY seq",
    "predictions": "SELECT at_ms, house, flock, day_number, target, target_at_ms, horizon, p10, p50, p90, model,"
    " model_version, coverage, seq FROM predictions WHERE seq BETWEEN ? AND ? ORDER BY seq",
    "flocks": "SELECT at_ms, house, action, state, document, seq FROM flocks WHERE seq BETWEEN ? AND ? ORDER BY seq",
    "events": "SELECT at_ms, kind, house, signal, from_ms, to_ms, detail, seq FROM events"
    " WHERE seq BETWEEN ? AND ? ORDER BY seq",
    "readings_15min": "SELECT at_ms, series, n, sum / n, min, max, sum, quality, seq FROM readings_15min"
    " WHERE seq BETWEEN ? AND ? ORDER BY seq",
}
LAKE_ROWS |= {
    f"shadow_{stream}": LAKE_ROWS[stream].replace(f"FROM {stream}", f"FROM shadow_{stream}")
    for stream in ("warnings", "predictions")
}

QUALITIES = [quality.name.lower() for quality in Quality]
TIME_QUALITIES = [quality.name.lower() for quality in TimeQuality]


class _FlockDocument(msgspec.Struct):
    """What the column ``flocks.document`` holds."""

    flock: Flock | None
    detail: dict[str, Any]


def meta_of(db: sqlite3.Connection) -> dict[str, str]:
    """Return what the table ``meta`` holds."""
    return dict(db.execute("SELECT key, value FROM meta").fetchall())


def last_seq_of(db: sqlite3.Connection, stream: str) -> int:
    """Return the number of the newest row that a stream ever had, 0 where it had none."""
    if stream != "readings":
        found = db.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (stream,)).fetchone()
        return int(found[0]) if found else 0
    last = db.execute(  # pruned or not: the store saves what it saw before it prunes
        "SELECT max(coalesce((SELECT max(seq) FROM readings), 0), CAST(value AS INTEGER))"
        " FROM meta WHERE key = 'seen_seq'"
    ).fetchone()
    return int(last[0])


def newer_than(db: sqlite3.Connection, query: str, seq: int) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows after ``seq``, which stands first in each, in blocks of at most ``BLOCK_ROWS``."""
    while rows := db.execute(query, (seq, BLOCK_ROWS)).fetchall():
        yield rows
        seq = rows[-1][0]


def parts(first: int, last: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield a range of row numbers in parts of at most ``size``; all ends are inclusive."""
    for start in range(first, last + 1, size):
        yield start, min(start + size - 1, last)


def as_json(value: object) -> str:
    """Return the JSON of a value, the same for the same value."""
    return msgspec.json.encode(value, order="sorted").decode()


def digest(message: Message) -> tuple[int, bytes]:
    """Return by what a message is known again when the broker sends it again."""
    return message.mid, blake2b(message.topic.encode() + b"\0" + message.payload, digest_size=16).digest()


def unwanted(readings: Readings, reason: str) -> list[Rejected]:
    """Return readings that cannot be stored as rejected: they must not hold up the others."""
    return [
        Rejected("/".join(readings.keys[key]), reason, str(value).encode(), received_ms)
        for key, value, received_ms in zip(
            readings.key.tolist(), readings.value.tolist(), readings.received_ms.tolist(), strict=True
        )
    ]


def with_late(time_quality: NDArray[np.uint8], late: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Mark what came out of order, except where the time is not the sender's own: then that is what must be known."""
    late = late & (time_quality <= TimeQuality.ASSUMED_ZONE)
    return np.where(late, np.uint8(TimeQuality.LATE), time_quality)


def _milliseconds(at: datetime | None) -> int | None:
    return None if at is None else to_ms(at)


def event_row(event: Event) -> EventRow:
    """Return an event as ``INSERT_EVENT`` takes it."""
    return (
        to_ms(event.at),
        event.kind,
        event.house,
        event.signal,
        _milliseconds(event.from_at),
        _milliseconds(event.to_at),
        as_json(event.detail),
    )


def warning_row(event: WarningEvent) -> tuple[int, str, str, str]:
    """Return a transition as ``INSERT_WARNING`` takes it."""
    standing = event.standing
    row = alert_row(event) | {"since": _milliseconds(standing.since), "raised_at": _milliseconds(standing.raised_at)}
    document = {name: row[name] for name, _ in LAKE_COLUMNS["warnings"][1:-1]}
    return to_ms(event.at), standing.house, standing.rule, as_json(document)


def lake_warning(at_ms: int, document: str, seq: int) -> tuple[Any, ...]:
    """Return what ``LAKE_ROWS`` found of a warning, in the columns of the lake."""
    row = msgspec.json.decode(document)
    return (at_ms, *(row.get(name) for name, _ in LAKE_COLUMNS["warnings"][1:-1]), seq)


def prediction_row(prediction: Prediction) -> tuple[Any, ...]:
    """Return a prediction as ``INSERT_PREDICTION`` takes it."""
    p = prediction
    return (
        to_ms(p.made_at),
        p.house,
        p.flock,
        p.day_number,
        p.target,
        to_ms(p.target_at),
        p.horizon,
        p.p10,
        p.p50,
        p.p90,
        p.model,
        p.model_version,
        p.coverage,
    )


def flock_row(change: FlockChange) -> tuple[int, str, str | None, str, str, str]:
    """Return what happened to a flock as ``INSERT_FLOCK`` takes it."""
    flock = change.flock.flock if change.flock else None
    document = as_json(_FlockDocument(change.flock, change.detail))
    return to_ms(change.at), change.house, flock, change.action, change.state.value, document


def lake_flock(at_ms: int, house: str, action: str, state: str, document: str, seq: int) -> tuple[Any, ...]:
    """Return what ``LAKE_ROWS`` found of a flock, in the columns of the lake."""
    said = msgspec.json.decode(document, type=_FlockDocument)
    flock, detail = said.flock, as_json(said.detail)
    if flock is None:
        return (at_ms, house, None, action, state, *[None] * 9, detail, seq)
    return (
        at_ms,
        house,
        flock.flock,
        action,
        state,
        flock.placed_on.isoformat(),
        flock.birds_placed,
        flock.strain,
        flock.sex,
        flock.parent_age_weeks,
        flock.planned_end_on and flock.planned_end_on.isoformat(),
        _milliseconds(flock.ended_at),
        flock.slaughter_weight_g,
        flock.thinned_birds,
        detail,
        seq,
    )


def newest_changes(db: sqlite3.Connection, query: str) -> tuple[FlockChange, ...]:
    """Return the changes of flocks that ``NEWEST_OF_HOUSE`` or ``NEWEST_OF_FLOCK`` finds."""
    changes = []
    for at_ms, action, house, state, document in db.execute(query):
        changes.append(as_change(at_ms, action, house, state, document))
    return tuple(changes)


def as_change(at_ms: int, action: str, house: str, state: str, document: str) -> FlockChange:
    """Return what a row of ``flocks`` says."""
    said = msgspec.json.decode(document, type=_FlockDocument)
    return FlockChange(from_ms(at_ms), action, house, HouseState(state), said.flock, said.detail)


def standings_of(db: sqlite3.Connection, table: str = "warning_states") -> tuple[Standing, ...]:
    """Return where every rule that ever left normal stands, in order of house and rule."""
    return tuple(
        msgspec.json.decode(document, type=Standing)
        for (document,) in db.execute(f"SELECT document FROM {table} ORDER BY house, rule")  # noqa: S608  # one of two
    )


def last_raised(db: sqlite3.Connection, house: str, rule: str) -> dict[str, Any] | None:
    """Return the newest row of the last warning that a rule raised; None where there is none."""
    found = db.execute(
        "SELECT document FROM warnings WHERE house = ? AND rule = ? AND json_extract(document, '$.id') IS NOT NULL"
        " ORDER BY seq DESC LIMIT 1",
        (house, rule),
    ).fetchone()
    return None if found is None else dict(msgspec.json.decode(found[0]))


def fit_day_row(fit: FitDay) -> tuple[str, str, int, str]:
    """Return what was counted of a model on a day as ``REPLACE_FIT_DAY`` takes it."""
    return fit.house, fit.model, fit.start_ms, as_json(fit)


def fit_flock_row(fit: FitFlock) -> tuple[str, str, str, int, str]:
    """Return how a model fits a flock as ``REPLACE_FIT_FLOCK`` takes it."""
    return fit.house, fit.model, fit.flock, fit.updated_ms, as_json(fit)


def fit_days(db: sqlite3.Connection, since_ms: int) -> tuple[FitDay, ...]:
    """Return what was counted of models from ``since_ms`` on, oldest first."""
    query = "SELECT document FROM fitness_days WHERE start_ms >= ? ORDER BY start_ms, house, model"
    return tuple(msgspec.json.decode(document, type=FitDay) for (document,) in db.execute(query, (since_ms,)))


def fit_flocks(db: sqlite3.Connection) -> tuple[FitFlock, ...]:
    """Return how models fit each flock, oldest first."""
    query = "SELECT document FROM fitness_flocks ORDER BY updated_ms, house, model"
    return tuple(msgspec.json.decode(document, type=FitFlock) for (document,) in db.execute(query))
