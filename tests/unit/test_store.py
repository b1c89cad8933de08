"""The store's promises, on real SQLite files."""

from __future__ import annotations

import json
import resource
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

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
    Quality,
    Reason,
    Rejected,
    SeriesKey,
    Severity,
    Standing,
    TimeQuality,
    WarningEvent,
    WarningState,
    from_ms,
    to_ms,
)
from agent.errors import StoreError
from agent.readings import EMPTY, Readings
from agent.store import LAKE_COLUMNS, STREAMS, Store, StoreReader
from agent.store.rows import BLOCK_ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)
T = to_ms(NOW)
HOUR_MS = 3_600_000
WATER = SeriesKey("house1", "water")
CO2 = SeriesKey("house2", "co2")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "house.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as store:
        yield store


def block(*rows: tuple[SeriesKey, int, float], time_quality: TimeQuality = TimeQuality.SENDER) -> Readings:
    """Return readings of (series, at_ms, value), received a second later."""
    keys = tuple(dict.fromkeys(row[0] for row in rows))
    n = len(rows)
    at_ms = np.array([row[1] for row in rows], np.int64)
    return Readings(
        keys,
        np.array([keys.index(row[0]) for row in rows], np.int32),
        at_ms,
        np.array([row[2] for row in rows], np.float64),
        np.full(n, Quality.GOOD, np.uint8),
        np.full(n, time_quality, np.uint8),
        at_ms + 1000,
    )


def many(n: int, first_ms: int = T, step_ms: int = 1000, key: SeriesKey = WATER) -> Readings:
    return block(*((key, first_ms + i * step_ms, float(i)) for i in range(n)))


def stored(path: Path) -> list[tuple[str, str, int, float]]:
    with StoreReader.open(path) as reader:
        rows = reader.rows("readings", 1, 2**62)
    return list(zip(rows["house"], rows["signal"], rows["at"], rows["value"], strict=True))


def records(path: Path, stream: str) -> list[dict[str, Any]]:
    with StoreReader.open(path) as reader:
        columns = reader.rows(stream, 1, 2**62)
    assert list(columns) == [name for name, _ in LAKE_COLUMNS[stream]]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def seal(path: Path, generation: str, sealed_seq: int, stream: str = "readings") -> None:
    """Write what the courier writes when it has sealed."""
    with closing(sqlite3.connect(path.with_name("sync.db"))) as db, db:
        db.execute(
            "CREATE TABLE IF NOT EXISTS watermarks (stream TEXT PRIMARY KEY, generation TEXT NOT NULL,"
            " sealed_seq INTEGER NOT NULL, sealed_at_ms INTEGER NOT NULL)"
        )
        db.execute("INSERT OR REPLACE INTO watermarks VALUES (?, ?, ?, 0)", (stream, generation, sealed_seq))


# --- append -----------------------------------------------------------------------------------------------------------


def test_what_is_appended_is_there_for_others_at_once(store: Store, path: Path) -> None:
    returned = store.append(block((WATER, T, 1.5), (CO2, T + 7, 800.0)), at_ms=T)
    assert (len(returned), returned.last_seq, store.last_seq) == (2, 2, 2)
    assert records(path, "readings") == [
        {
            "at": T,
            "received_at": T + 1000,
            "house": "house1",
            "signal": "water",
            "value": 1.5,
            "quality": "good",
            "time_quality": "sender",
            "seq": 1,
        },
        {
            "at": T + 7,
            "received_at": T + 1007,
            "house": "house2",
            "signal": "co2",
            "value": 800.0,
            "quality": "good",
            "time_quality": "sender",
            "seq": 2,
        },
    ]


def test_the_newest_birth_of_each_topic_is_given_back_until_it_is_over(store: Store, path: Path) -> None:
    store.append(EMPTY, births=[("a", b"1"), ("b", b"2")], at_ms=T)
    store.append(many(1), births=[("a", b"3"), ("c", b"4"), ("b", b"")], at_ms=T)
    store.close()
    with Store.open(path) as again:
        assert again.restore().births == (("a", b"3"), ("c", b"4"))
    with StoreReader.open(path) as reader:
        assert reader.births() == [("a", b"3"), ("c", b"4")]


def test_only_new_rows_come_back(store: Store) -> None:
    store.append(many(5), at_ms=T)
    returned = store.append(many(7), at_ms=T)
    assert returned.at_ms.tolist() == [T + 5000, T + 6000]
    assert returned.last_seq == 7
    assert (store.counters.appended, store.counters.duplicates, store.counters.conflicts) == (7, 5, 0)


def test_an_empty_block_says_where_the_store_is_and_writes_nothing(store: Store) -> None:
    store.append(many(3), at_ms=T)
    commits = store.counters.commits
    assert store.append(EMPTY, at_ms=T).last_seq == 3
    assert store.append(many(3), at_ms=T).last_seq == 3
    assert store.counters.commits == commits


def test_the_first_value_wins_and_the_other_is_an_event(store: Store, path: Path) -> None:
    store.append(block((WATER, T, 1.0)), at_ms=T)
    assert len(store.append(block((WATER, T, 2.0)), at_ms=T + 5)) == 0
    assert stored(path) == [("house1", "water", T, 1.0)]
    (event,) = records(path, "events")
    assert (event["at"], event["kind"], event["house"], event["signal"]) == (T + 5, "conflict", "house1", "water")
    assert (event["from_at"], json.loads(event["detail"])) == (T, {"received": 2.0, "stored": 1.0})


def test_conflicts_are_recorded_up_to_a_hundred_an_hour_and_the_last_says_so(store: Store, path: Path) -> None:
    store.append(many(250), at_ms=T)
    other = many(250)
    other = Readings(
        other.keys, other.key, other.at_ms, other.value + 1, other.quality, other.time_quality, other.received_ms
    )
    store.append(other, at_ms=T)
    store.append(other, at_ms=T + 1)
    events = records(path, "events")
    assert len(events) == 100
    assert [i for i, event in enumerate(events) if "note" in event["detail"]] == [99]
    assert store.counters.conflicts == 500
    store.append(other, at_ms=T + HOUR_MS)
    assert len(records(path, "events")) == 200


def test_a_reading_out_of_order_is_stored_and_marked_late(store: Store, path: Path) -> None:
    store.append(block((WATER, T, 1.0)), at_ms=T)
    returned = store.append(block((WATER, T - 5000, 2.0), (WATER, T + 1, 3.0), (CO2, T - 5000, 4.0)), at_ms=T)
    assert returned.time_quality.tolist() == [TimeQuality.LATE, TimeQuality.SENDER, TimeQuality.SENDER]
    assert [row["time_quality"] for row in records(path, "readings")] == ["sender", "late", "sender", "sender"]
    assert store.counters.late == 1


def test_a_time_that_is_not_the_senders_keeps_its_mark(store: Store) -> None:
    """That our own clock could not be trusted matters more than the order."""
    store.append(block((WATER, T, 1.0)), at_ms=T)
    late = block((WATER, T - 1, 1.0), time_quality=TimeQuality.UNTRUSTED)
    assert store.append(late, at_ms=T).time_quality.tolist() == [TimeQuality.UNTRUSTED]


def test_keys_that_no_reading_uses_make_no_series(store: Store, path: Path) -> None:
    store.append(block((WATER, T, 1.0), (CO2, T, 1.0)).take(np.array([1])), at_ms=T)
    with StoreReader.open(path) as reader:
        assert reader.counts()["series"] == 1


def test_a_value_that_is_no_number_is_set_aside_and_holds_up_nothing(store: Store, path: Path) -> None:
    returned = store.append(block((WATER, T, float("nan")), (CO2, T, float("inf")), (CO2, T + 1, 1.0)), at_ms=T)
    assert len(returned) == 1
    with StoreReader.open(path) as reader:
        assert [(row.topic, row.first_bytes) for row in reader.rejected()] == [
            ("house2/co2", b"inf"),
            ("house1/water", b"nan"),
        ]


def test_rejected_messages_are_kept_newest_first_and_bounded(store: Store, path: Path) -> None:
    for i in range(3):
        rejected = [Rejected("skov/farm1/x", f"{i}.{j}", b"z" * 500, T) for j in range(400)]
        store.append(EMPTY, rejected=rejected, at_ms=T)
    with StoreReader.open(path) as reader:
        kept = reader.rejected(5000)
        assert reader.rejected(2) == kept[:2]
    assert len(kept) == 1000
    assert (kept[0].reason, kept[-1].reason) == ("2.399", "0.200")
    assert {len(row.first_bytes) for row in kept} == {200}


# --- messages without a time of their own -----------------------------------------------------------------------------


def message(mid: int, payload: bytes = b"21.5", *, dup: bool = False, qos: int = 1) -> Message:
    return Message("skov/farm1/house1/temperature", payload, qos, mid, dup, False, 1, T, 0.0)


def test_a_committed_message_that_was_not_acknowledged_is_known_again_even_after_a_restart(path: Path) -> None:
    with Store.open(path) as store:
        store.append(many(1), arrivals=[message(1)], at_ms=T)
        assert store.is_redelivered(message(1, dup=True))
    with Store.open(path) as store:
        assert store.is_redelivered(message(1, dup=True))
        assert not store.is_redelivered(message(1))
        assert not store.is_redelivered(message(2, dup=True))
        assert not store.is_redelivered(message(1, b"22.0", dup=True))


def test_an_acknowledged_message_is_forgotten_at_the_next_commit(path: Path) -> None:
    """Until then it is known, for an acknowledgement that was lost on its way."""
    with Store.open(path) as store:
        store.append(many(1), arrivals=[message(1)], at_ms=T)
        store.acknowledged()
        assert store.is_redelivered(message(1, dup=True))
        store.append(many(2), arrivals=[message(2)], at_ms=T)
        assert not store.is_redelivered(message(1, dup=True))
        assert store.is_redelivered(message(2, dup=True))
    with Store.open(path) as store:
        assert not store.is_redelivered(message(1, dup=True))
        assert store.is_redelivered(message(2, dup=True))


def test_messages_that_no_broker_sends_again_are_not_remembered(store: Store) -> None:
    store.append(many(1), arrivals=[message(0, qos=0)], at_ms=T)
    assert not store.is_redelivered(message(0, dup=True, qos=0))


# --- record and restore -----------------------------------------------------------------------------------------------

EVIDENCE = Evidence(
    1.5,
    actual=100.0,
    expected=200.0,
    low=150.0,
    high=250.0,
    unit="l",
    confidence=0.9,
    coverage=1.0,
    model="expect",
    causes=(Cause("water_line_blocked", 0.8), Cause("unknown", 0.1)),
)
STANDING = Standing(
    "water",
    "house1",
    WarningState.ACTIVE,
    Severity.MINOR,
    id="w1",
    flock="f1",
    since=NOW - timedelta(minutes=20),
    raised_at=NOW,
    updated_at=NOW,
    reason=Reason.ON_DELAY_OVER,
    evidence=EVIDENCE,
)
WARNING = WarningEvent(
    NOW,
    WarningState.PENDING,
    STANDING,
    Reason.ON_DELAY_OVER,
    About.BIRDS,
    "water",
    21,
    "Too little water.",
    (Cause("water_line_blocked"),),
    "Look at the line.",
)
FLOCK = Flock("house1", "f1", date(2026, 10, 28), 30_000, "ross308", recorded=((date(2026, 11, 1), 12, 3),))
PREDICTION = Prediction("house1", "f1", NOW, 21, "weight_g", NOW, "slaughter", 1.0, 2.0, 3.0, "weight", "1.0.0", 0.9)


def test_what_was_recorded_is_restored(path: Path) -> None:
    placed = FlockChange(NOW - timedelta(days=21), "place", "house1", HouseState.ACTIVE, FLOCK, {"by": "anna"})
    emptied = FlockChange(NOW, "state", "house2", HouseState.EMPTY, None)
    bucket = ("house1", "water", 600, T - 600_000, 10, 55.0, 5.0, 6.0, 5.5, T - 1_000)
    with Store.open(path) as store:
        store.append(many(3), at_ms=T)
        store.record(
            standings=[STANDING],
            flock_changes=[placed, emptied],
            buckets=[bucket],
            rhythms={WATER: 60.0, CO2: 30.0},
            commands=[("c1", "a/topic", '{"ok":true}')],
            judged_at=NOW,
            observed_seq=2,
            health={"state": "online"},
        )
    with Store.open(path) as store:
        restored = store.restore()
        assert restored.standings == (STANDING,)
        assert restored.houses == {"house1": placed, "house2": emptied}
        assert restored.flocks == (placed,)
        assert (restored.judged_at, restored.observed_seq) == (NOW, 2)
        assert restored.rhythms == {WATER: 60.0}
        assert restored.commands == (("c1", "a/topic", '{"ok":true}'),)
        assert list(restored.buckets) == [bucket]
        (newer,) = restored.newer
        assert (newer.at_ms.tolist(), newer.value.tolist(), newer.last_seq) == ([T + 2000], [2.0], 3)
        assert [newer.keys[i] for i in newer.key] == [WATER]


def test_a_new_store_has_nothing_to_restore(store: Store) -> None:
    restored = store.restore()
    assert (restored.standings, restored.houses, restored.judged_at, restored.observed_seq) == ((), {}, None, 0)
    assert list(restored.newer) == []
    assert list(restored.buckets) == []


def test_rows_to_observe_again_come_in_blocks(path: Path) -> None:
    n = 2 * BLOCK_ROWS + 1
    with Store.open(path) as store:
        store.append(many(n), at_ms=T)
        blocks = list(store.restore().newer)
    assert [len(part) for part in blocks] == [BLOCK_ROWS, BLOCK_ROWS, 1]
    assert np.array_equal(np.concatenate([part.at_ms for part in blocks]), many(n).at_ms)


def test_what_is_recorded_replaces_what_was_of_its_key(store: Store) -> None:
    buckets = [("house1", "water", 600, T, n, 1.0, 1.0, 1.0, float(n), T) for n in (1, 2)]
    for bucket in buckets:
        store.record(buckets=[bucket])
    store.record(standings=[STANDING])
    store.record(standings=[Standing("water", "house1")], judged_at=NOW)
    store.record(health={"state": "online"})
    restored = store.restore()
    assert list(restored.buckets) == [buckets[1]]
    assert restored.standings == (Standing("water", "house1"),)
    assert restored.judged_at == NOW  # None leaves it as it was


def test_a_command_keeps_its_first_answer(store: Store) -> None:
    assert store.answer_of("c1") is None
    store.record(commands=[("c1", "t", "done")])
    store.record(commands=[("c1", "t", "again")])
    assert store.answer_of("c1") == "done"


def test_every_stream_reads_back_in_the_columns_of_the_lake(store: Store, path: Path) -> None:
    change = FlockChange(NOW, "place", "house1", HouseState.ACTIVE, FLOCK, {"by": "anna"})
    event = Event(NOW, "gap", "house1", "water", NOW - timedelta(hours=1), NOW, {"minutes": 60})
    store.record(warnings=[WARNING], predictions=[PREDICTION], flock_changes=[change], events=[event])
    (warning,) = records(path, "warnings")
    expected = {
        "at": T,
        "house": "house1",
        "flock": "f1",
        "day_number": 21,
        "rule": "water",
        "about": "birds",
        "seq": 1,
    }
    expected |= {"before": "pending", "state": "active", "severity": 2, "reason": "on_delay_over", "id": "w1"}
    expected |= {"since": T - 1_200_000, "raised_at": T, "deviation_pct": -50.0, "actual": 100.0, "by": None}
    expected |= {"text": "Too little water.", "check_first": "Look at the line.", "signal": "water"}
    assert {name: warning[name] for name in expected} == expected
    assert json.loads(warning["causes"]) == [{"cause": "water_line_blocked", "probability": None}]
    (prediction,) = records(path, "predictions")
    assert (prediction["target_at"], prediction["p50"], prediction["horizon"]) == (T, 2.0, "slaughter")
    (flock,) = records(path, "flocks")
    expected = {"placed_on": "2026-10-28", "birds_placed": 30_000, "strain": "ross308", "ended_at": None, "seq": 1}
    expected |= {"detail": '{"by":"anna"}', "planned_end_on": None, "thinned_birds": 0, "state": "active"}
    assert {name: flock[name] for name in expected} == expected
    (gap,) = records(path, "events")
    assert (gap["from_at"], gap["to_at"], gap["detail"]) == (T - HOUR_MS, T, '{"minutes":60}')


def test_a_range_without_rows_has_every_column(store: Store, path: Path) -> None:
    for stream in STREAMS:
        assert records(path, stream) == []


def test_a_range_is_inclusive_and_in_order(store: Store, path: Path) -> None:
    store.append(many(10), at_ms=T)
    with StoreReader.open(path) as reader:
        assert reader.rows("readings", 3, 5)["seq"] == [3, 4, 5]


# --- the reader -------------------------------------------------------------------------------------------------------


def test_the_reader_notices_a_commit(store: Store, path: Path) -> None:
    with StoreReader.open(path) as reader:
        before = reader.data_version()
        assert reader.data_version() == before
        store.record(warnings=[WARNING])
        assert reader.data_version() != before
        assert [reader.last_seq(stream) for stream in STREAMS] == [0, 1, 0, 0, 0, 0, 0, 0]


def test_the_reader_shows_what_the_command_line_shows(store: Store, path: Path) -> None:
    placed = FlockChange(NOW, "place", "house1", HouseState.ACTIVE, FLOCK)
    ended = FlockChange(NOW, "end", "house1", HouseState.EMPTY, None)
    newer = Prediction(
        "house1", "f1", NOW + timedelta(hours=1), 21, "weight_g", NOW, "slaughter", 4, 5, 6, "weight", "1.0.0", 0.9
    )
    store.append(many(4), at_ms=T)
    store.record(warnings=[WARNING], standings=[STANDING], flock_changes=[placed, ended], health={"state": "online"})
    store.record(predictions=[PREDICTION, newer], judged_at=NOW, observed_seq=4)
    with StoreReader.open(path) as reader:
        assert (reader.gateway, reader.generation) == (store.gateway, store.generation)
        assert reader.standings() == (STANDING,)
        assert [row["text"] for row in reader.warnings_latest()] == ["Too little water."]
        assert reader.flocks() == (placed,)
        assert reader.houses() == {"house1": ended}
        assert reader.predictions_latest() == [newer]
        assert reader.health() == {"state": "online"}
        counts = reader.counts()
    assert counts == {
        "readings": 4,
        "warnings": 1,
        "predictions": 2,
        "flocks": 2,
        "events": 0,
        "shadow_warnings": 0,
        "shadow_predictions": 0,
        "readings_15min": 0,
        "series": 1,
        "readings_hot": 4,
        "observed_seq": 4,
        "judged_ms": T,
    }


def test_the_reader_cannot_write(store: Store, path: Path) -> None:
    with StoreReader.open(path) as reader, pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._db.execute("DELETE FROM meta")


def test_the_reader_says_what_to_do_where_there_is_nothing(path: Path) -> None:
    with pytest.raises(StoreError, match=r"house\.db: there is no such database; start `flockwatch agent`"):
        StoreReader.open(path)


# --- prune ------------------------------------------------------------------------------------------------------------


def fill(store: Store, hours: int) -> Readings:
    """Store one reading a minute up to NOW."""
    readings = many(hours * 60, T - hours * HOUR_MS, 60_000)
    store.append(readings, at_ms=T)
    store.record(observed_seq=store.last_seq)
    return readings


def test_old_readings_go_once_they_are_sealed_and_are_still_known(store: Store, path: Path) -> None:
    readings = fill(store, 100)
    seal(path, store.generation, store.last_seq)
    pruned = store.prune(NOW)
    kept = stored(path)
    assert pruned + len(kept) == 6000
    assert 48 * 60 <= len(kept) <= 54 * 60  # whole periods of six hours
    assert len(store.append(readings, at_ms=T)) == 0
    assert store.prune(NOW) == 0
    new = store.append(block((WATER, T - 90 * HOUR_MS + 1, 1.0)), at_ms=T)
    assert (new.last_seq, new.time_quality.tolist()) == (6001, [TimeQuality.LATE])


def test_pruned_readings_are_known_after_a_restart_and_numbers_go_on(path: Path) -> None:
    with Store.open(path) as store:
        readings = fill(store, 100)
        seal(path, store.generation, store.last_seq)
        store.prune(NOW, keep_hours=0)
        store.prune(NOW + timedelta(hours=24), keep_hours=0)
    with Store.open(path) as store:
        assert store.last_seq == 6000
        assert len(store.append(readings, at_ms=T)) == 0
        assert store.counters.duplicates == 6000


def test_a_late_reading_that_is_pruned_joins_the_times_of_its_period(store: Store, path: Path) -> None:
    readings = fill(store, 100)
    seal(path, store.generation, store.last_seq)
    store.prune(NOW)
    late = block((WATER, T - 99 * HOUR_MS + 1, 1.0))
    store.append(late, at_ms=T)
    store.record(observed_seq=store.last_seq)
    assert store.prune(NOW) == 0  # not sealed
    seal(path, store.generation, store.last_seq)
    assert store.prune(NOW) == 1
    assert len(store.append(late, at_ms=T)) == 0
    assert len(store.append(readings, at_ms=T)) == 0


@pytest.mark.parametrize("courier", ["absent", "empty", "of another database", "no database"])
def test_without_the_couriers_word_nothing_is_pruned(store: Store, path: Path, courier: str) -> None:
    fill(store, 100)
    if courier == "empty":
        sqlite3.connect(path.with_name("sync.db")).close()
        path.with_name("sync.db").touch()
    elif courier == "of another database":
        seal(path, "00000000", 6000)
    elif courier == "no database":
        path.with_name("sync.db").write_text("no database, but long enough to be taken for the header of one" * 20)
    assert store.prune(NOW) == 0
    assert len(stored(path)) == 6000


def test_what_is_not_sealed_or_not_observed_stays(store: Store, path: Path) -> None:
    fill(store, 100)
    seal(path, store.generation, 500)
    assert store.prune(NOW) == 500
    seal(path, store.generation, 6000)
    store.record(observed_seq=700)
    assert store.prune(NOW) == 200
    assert [row[3] for row in stored(path)] == list(range(700, 6000))


@pytest.mark.parametrize("jump", ["clock ahead", "clock behind", "sensor ahead"])
def test_a_jump_of_the_clock_or_of_a_sensor_prunes_nothing_young(store: Store, path: Path, jump: str) -> None:
    fill(store, 40)
    now = NOW
    if jump == "clock ahead":
        now = NOW + timedelta(days=4000)
    elif jump == "clock behind":
        now = datetime(1970, 1, 1, tzinfo=UTC)
    else:
        store.append(block((CO2, T + 4000 * 24 * HOUR_MS, 1.0)), at_ms=T)
    seal(path, store.generation, store.last_seq)
    assert store.prune(now) == 0


def test_a_database_that_is_too_large_gives_up_younger_rows_if_they_are_sealed(store: Store, path: Path) -> None:
    fill(store, 40)
    seal(path, store.generation, store.last_seq)
    assert store.prune(NOW, max_size_mb=1) == 0
    pruned = store.prune(NOW, max_size_mb=0)
    assert 33 * 60 <= pruned <= 40 * 60


def test_buckets_go_with_their_time(store: Store) -> None:
    fill(store, 1)
    old, young = T - 15 * 24 * HOUR_MS, T - 13 * 24 * HOUR_MS
    rows = [
        ("house1", "water", step, start, 1, 1.0, 1.0, 1.0, 1.0, T) for step in (600, 86_400) for start in (old, young)
    ]
    store.record(buckets=rows)
    store.prune(NOW)
    assert [(row[2], row[3]) for row in store.restore().buckets] == [
        (600, young),
        (86_400, old),
        (86_400, young),
    ]


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_first_start_makes_names_that_stay(path: Path) -> None:
    with Store.open(path) as store:
        first = (store.gateway, store.generation)
    with Store.open(path) as store:
        assert (store.gateway, store.generation) == first
    assert (len(first[0]), len(first[1])) == (12, 8)
    int(first[0] + first[1], 16)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750


def test_an_older_copy_that_is_put_back_begins_a_new_generation(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its next rows take numbers that are sealed already: they must be sealed all the same, and not pruned before."""
    with Store.open(path) as store:
        fill(store, 50)
        before = store.gateway, store.generation
    copy = path.read_bytes()
    with Store.open(path) as store:
        store.append(many(100, T + 1, 60_000), at_ms=T)
        seal(path, store.generation, store.last_seq)
    path.write_bytes(copy)
    assert not caplog.records
    with Store.open(path) as store:
        after = store.gateway, store.generation
        assert (after[0] == before[0], after[1] == before[1]) == (True, False)
        store.append(many(50, T + HOUR_MS, 60_000), at_ms=T)
        store.record(observed_seq=store.last_seq)
        assert store.prune(NOW, keep_hours=0) == 0
        seal(path, store.generation, store.last_seq)
        assert store.prune(NOW, keep_hours=0) > 0
    (warning,) = caplog.records
    assert f"{path}: an older copy was put back: readings 3000 of 3100 that are sealed" in warning.getMessage()
    with Store.open(path) as store:
        assert (store.gateway, store.generation) == after


def test_a_copy_that_is_put_back_twice_begins_a_new_generation_each_time(path: Path) -> None:
    """sync.db knows only the last generation; what the first one sealed stands in the names of the lake."""
    with Store.open(path) as store:
        fill(store, 50)
        first = store.generation
    copy = path.read_bytes()
    folder = path.parent / "lake" / "readings" / "site=farm1" / "date=2026-03-01"
    folder.mkdir(parents=True)
    (folder / f"{store.gateway}-{first}-1-3100.parquet").touch()
    seal(path, first, 3100)
    generations = {first}
    for _ in range(2):
        path.write_bytes(copy)
        with Store.open(path) as store:
            generations.add(store.generation)
        seal(path, store.generation, 3000)
    assert len(generations) == 3


def test_a_seal_that_was_begun_counts_as_sealed(path: Path) -> None:
    with Store.open(path) as store:
        store.append(many(3), at_ms=T)
        generation = store.generation
    seal(path, generation, 2)
    with closing(sqlite3.connect(path.with_name("sync.db"))) as db, db:
        db.execute("CREATE TABLE intents (stream, generation, last_seq)")
        db.execute("INSERT INTO intents VALUES ('readings', ?, 5)", (generation,))
    with Store.open(path) as store:
        assert store.generation != generation


@pytest.mark.parametrize(
    ("stream", "sealed_seq", "is_kept"),
    [
        ("readings", 3, True),
        ("readings", 4, False),
        ("warnings", 1, True),
        ("warnings", 2, False),
        ("of another program", 9, True),
    ],
)
def test_a_generation_goes_on_while_no_more_is_sealed_than_there_is(
    path: Path, stream: str, sealed_seq: int, is_kept: bool
) -> None:
    with Store.open(path) as store:
        store.append(many(3), at_ms=T)
        store.record(warnings=[WARNING])
        generation = store.generation
    seal(path, generation, sealed_seq, stream)
    with Store.open(path) as store:
        assert (store.generation == generation) == is_kept


def test_two_agents_never_share_a_database(store: Store, path: Path) -> None:
    with pytest.raises(StoreError, match="another agent has it open; end that one"):
        Store.open(path)


def test_after_a_failed_start_the_lock_is_free_again(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")
    for _ in range(2):
        with pytest.raises(StoreError, match="move it away"):
            Store.open(path)
    path.unlink()
    Store.open(path).close()


def test_the_database_of_another_program_is_never_written_to(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not made by flockwatch"):
        Store.open(path)
    with pytest.raises(StoreError, match="not made by flockwatch"):
        StoreReader.open(path)
    assert path.read_bytes() == before


def test_a_database_of_a_newer_program_is_refused(path: Path) -> None:
    Store.open(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match=r"version 99.*start the newer program"):
        Store.open(path)
    with pytest.raises(StoreError, match="version 99"):
        StoreReader.open(path)


@contextmanager
def full_disk(limit_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_on_a_full_disk_nothing_is_half_written_and_the_same_block_goes_in_later(path: Path) -> None:
    """What is kept in memory stays as the file is: no number is skipped, no series known that is not stored."""
    first, second = many(100), block(*((CO2, T + i, float(i)) for i in range(5000)), (WATER, T + 900_000, 9.0))
    with Store.open(path) as store:
        store.append(first, at_ms=T)
        size = path.with_name("house.db-wal").stat().st_size
        with full_disk(size + 20_000):
            for _ in range(2):
                with pytest.raises(StoreError, match="free space"):
                    store.append(second, arrivals=[message(1)], at_ms=T)
            assert len(store.append(first, at_ms=T)) == 0
        assert not store.is_redelivered(message(1, dup=True))
        assert len(stored(path)) == 100
        returned = store.append(second, at_ms=T)
        assert (len(returned), returned.last_seq) == (5001, 5101)
    rows = stored(path)
    assert (len(rows), len({row[:3] for row in rows})) == (5101, 5101)


def test_a_record_that_fails_leaves_nothing_behind(store: Store, path: Path) -> None:
    broken = (
        "house1",
        "water",
        600,
        T,
        1,
        float("nan"),
        1.0,
        1.0,
        1.0,
        T,
    )  # nan is NULL to SQLite, which the column refuses
    with pytest.raises(StoreError, match="could not record"):
        store.record(warnings=[WARNING], buckets=[broken], observed_seq=5)
    assert records(path, "warnings") == []
    assert store.restore().observed_seq == 0
    store.record(warnings=[WARNING])
    assert len(records(path, "warnings")) == 1


def test_no_start_loads_the_tools_of_the_data_verbs(path: Path) -> None:
    """sqlite-utils takes 0.1 s and 10 MB, which would stay in the agent; not even a first start pays for it."""
    code = "import sys, pathlib; from agent.store import Store; Store.open(pathlib.Path(sys.argv[1])).close();"
    code += "print('sqlite_utils' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_times_keep_their_milliseconds(store: Store) -> None:
    at = from_ms(T + 123)
    store.record(standings=[Standing("water", "house1", since=at)])
    assert store.restore().standings[0].since == at
