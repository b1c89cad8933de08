"""Makes ``house-v<N>.db``: a small database of this program's schema version, with a row in every table.

A copy of each version stays here for ever: tests/unit/test_migrations.py opens it with the program of today. Run this
before you add a migration, or when you have just added one, and commit what it writes::

    python tests/data/make_house_copy.py
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np

from agent.domain import (
    About,
    Cause,
    Event,
    Evidence,
    Flock,
    FlockChange,
    HouseState,
    Message,
    Prediction,
    Reason,
    Rejected,
    SeriesKey,
    Severity,
    Standing,
    WarningEvent,
    WarningState,
    to_ms,
)
from agent.fitness import FitDay, FitFlock
from agent.readings import Readings
from agent.store import Segment, Store
from agent.store.file import migrations

NOW = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)
KEYS = tuple(SeriesKey(house, signal) for house in ("house1", "house2") for signal in ("water", "temperature"))
HOURS = 72


def readings() -> Readings:
    """Return a reading an hour of each series; the last one of each is late."""
    hours = np.repeat(np.arange(HOURS, dtype=np.int64), len(KEYS))
    at_ms = to_ms(NOW) - (HOURS - hours) * 3_600_000
    at_ms[-len(KEYS) :] -= 90 * 60_000
    zeros = np.zeros(len(hours), np.uint8)
    key = np.tile(np.arange(len(KEYS), dtype=np.int32), HOURS)
    return Readings(KEYS, key, at_ms, 20.0 + hours / 8, zeros, zeros, at_ms + 500)


def fill(store: Store) -> None:
    """Give the store something of everything that it keeps."""
    store.note_clock(Segment(0, "boot1", 1_790_000_000_000, True, None, to_ms(NOW)), delta_ms=0, why="start")
    water = Message("skov/farm1/house1/water", b"12", 1, 7, dup=False, retain=False, connection=1, received_ms=1,
                    received_monotonic=1.0)  # fmt: skip
    refused = Rejected("skov/farm1/house1/water", "no number", b"much", to_ms(NOW))
    appended = store.append(
        readings(),
        rejected=[refused],
        arrivals=[water],
        births=[("spBv1.0/farm1/NBIRTH/house1", b"\x01")],
        at_ms=to_ms(NOW),
    )
    flock = Flock("house1", "A1", date(2026, 10, 30), 20_000, "ross308", "mixed", 35.0, date(2026, 12, 9))
    thinned = replace(flock, thinned=((NOW, 4000),), recorded=((date(2026, 11, 2), 12, 3),))
    evidence = Evidence(1.7, actual=88.0, expected=120.0, low=101.0, high=139.0, unit="l", coverage=0.98,
                        model="expect", model_version="1.0.0", since=NOW)  # fmt: skip
    standing = Standing("deviation-water", "house1", WarningState.ACTIVE, Severity.MAJOR, "w1", "A1", since=NOW,
                        raised_at=NOW, updated_at=NOW, reason=Reason.ON_DELAY_OVER, evidence=evidence)  # fmt: skip
    event = WarningEvent(NOW, WarningState.PENDING, standing, Reason.ON_DELAY_OVER, About.BIRDS, "water", 19,
                         "house1 drinks too little", (Cause("a blocked line", 0.6),), "the drinker lines")  # fmt: skip
    made = Prediction("house1", "A1", NOW, 19, "weight_g", NOW + timedelta(days=7), "7d", 1400.0, 1450.0, 1500.0,
                      "weight", "1.0.0", 0.9)  # fmt: skip
    start_ms = to_ms(NOW) // 600_000 * 600_000
    store.record(
        warnings=[event],
        standings=[standing],
        predictions=[made],
        shadow_warnings=[event],
        shadow_standings=[standing],
        shadow_predictions=[replace(made, model_version="1.1.0")],
        fitness=[
            FitDay("house1", "weight/1.0.0", to_ms(NOW) // 86_400_000 * 86_400_000, "A1"),
            FitFlock("house1", "weight/1.0.0", "A1", to_ms(NOW)),
        ],
        flock_changes=[
            FlockChange(NOW - timedelta(days=19), "place", "house1", HouseState.ACTIVE, flock, {"by": None}),
            FlockChange(
                NOW, "thin", "house1", HouseState.THINNED, thinned, {"at": NOW.isoformat(), "birds": 4000, "by": "Anna"}
            ),
        ],
        events=[Event(NOW, "quality", "house2", "temperature", NOW, None, {"quality": "stuck", "reason": "flat"})],
        buckets=[
            (*key, step_s, start_ms, 3, 60.0, 19.0, 21.0, 20.0, start_ms) for key in KEYS for step_s in (600, 86_400)
        ],
        rhythms=dict.fromkeys(KEYS, 3600.0),
        commands=[("c1", "flockwatch/farm1/house1/flock/command", '{"ok": true}')],
        judged_at=NOW,
        observed_seq=appended.last_seq,
        health={"state": "online"},
    )


def make(folder: Path) -> Path:
    """Make the copy of this program's version in ``folder``; return it."""
    copy = folder / f"house-v{len(migrations())}.db"
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "house.db"
        with Store.open(path) as store:
            fill(store)
            with closing(sqlite3.connect(path.with_name("sync.db"))) as db, db:  # half is sealed, and pruned below
                db.execute("CREATE TABLE watermarks (stream, generation, sealed_seq, sealed_at_ms)")
                half = HOURS * len(KEYS) // 2
                db.execute("INSERT INTO watermarks VALUES ('readings', ?, ?, 0)", (store.generation, half))
            store.prune(NOW, keep_hours=48)
        with closing(sqlite3.connect(path)) as db, db:  # what a week in which nobody sealed would have left
            db.execute(
                "INSERT INTO readings_15min VALUES (NULL, 1, ?, 0, 2, 19.0, 21.0, 40.0)",
                (to_ms(NOW) // 900_000 * 900_000,),
            )
        shutil.copyfile(path, copy)  # closed, so nothing is in a WAL
    return copy


if __name__ == "__main__":
    print(make(Path(__file__).parent))
    sys.exit()
