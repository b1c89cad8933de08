"""House.db where nobody seals, and after years: what gives way, what stays, and how it is said."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.domain import Event, Prediction, Quality, SeriesKey, from_ms, to_ms
from agent.readings import Readings
from agent.store import Store, StoreReader, sync_notes
from agent.store.recover import recover

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START = datetime(2026, 11, 18, tzinfo=UTC)
T = to_ms(START)
DAY_MS, HOUR_MS = 86_400_000, 3_600_000
KEYS = tuple(SeriesKey(f"house{house}", signal) for house in range(1, 5) for signal in ("water", "feed", "co2"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "house.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as store:
        yield store


def _block(first_ms: int, hours: float, step_s: int = 60, keys: tuple[SeriesKey, ...] = KEYS) -> Readings:
    n = round(hours * 3600 / step_s)
    key = np.tile(np.arange(len(keys), dtype=np.int32), n)
    at_ms = np.repeat(first_ms + np.arange(n, dtype=np.int64) * step_s * 1000, len(keys))
    value = ((at_ms // 1000 * 7919 + key) % 4001) / 8  # eighths: every sum of them is exact
    zeros = np.zeros(len(key), np.uint8)
    return Readings(keys, key, at_ms, value, zeros, zeros, at_ms + 500)


def _append(store: Store, readings: Readings) -> None:
    now_ms = int(readings.at_ms[-1])
    store.append(readings, at_ms=now_ms)
    store.record(observed_seq=store.last_seq)


def _sealed(path: Path, store: Store, seq: int, intent: int | None = None, **others: int) -> None:
    with closing(sqlite3.connect(path.with_name("sync.db"))) as db, db:
        db.execute("CREATE TABLE IF NOT EXISTS watermarks (stream PRIMARY KEY, generation, sealed_seq, sealed_at_ms)")
        db.execute("CREATE TABLE IF NOT EXISTS intents (stream PRIMARY KEY, generation, last_seq)")
        for stream, last in {"readings": seq, **others}.items():
            db.execute("INSERT OR REPLACE INTO watermarks VALUES (?, ?, ?, 0)", (stream, store.generation, last))
        if intent is not None:
            db.execute("INSERT OR REPLACE INTO intents VALUES ('readings', ?, ?)", (store.generation, intent))


def _sums(path: Path) -> dict[tuple[str, str], tuple[int, float]]:
    """Return (readings, sum) of each series, over raw rows and rollups."""
    found: dict[tuple[str, str], tuple[int, float]] = {}
    with StoreReader.open(path) as reader:
        raw, rolled = reader.rows("readings", 1, 2**62), reader.rows("readings_15min", 1, 2**62)
    for house, signal, n, total in [
        *zip(raw["house"], raw["signal"], [1] * len(raw["seq"]), raw["value"], strict=True),
        *zip(rolled["house"], rolled["signal"], rolled["n"], rolled["sum"], strict=True),
    ]:
        count, so_far = found.get((house, signal), (0, 0.0))
        found[house, signal] = count + n, so_far + total
    return found


def _hot(path: Path) -> int:
    with StoreReader.open(path) as reader:
        return len(reader.rows("readings", 1, 2**62)["seq"])


def _degrade_all(store: Store, now: datetime, monotonic_s: float, **limits: int | bool) -> str | None:
    because = None
    for _ in range(20):
        because = store.degrade(now, monotonic_s, **limits)  # type: ignore[arg-type]  # of each its own
    return because


def test_with_no_seal_for_seven_days_old_readings_leave_quarters_and_every_sum(store: Store, path: Path) -> None:
    _append(store, _block(T, 72, step_s=300))
    now = START + timedelta(hours=72)
    before = _sums(path)
    assert store.degrade(now, 1_000.0) is None
    assert store.degrade(now, 1_000.0 + 6.9 * 86_400) is None
    assert _sums(path) == before
    assert store.degrade(now, 1_000.0 + 7.1 * 86_400) == "nothing was sealed for 7 days"
    assert _sums(path) == before
    assert _hot(path) == 12 * 54 * len(KEYS)  # keep_hours, and the rest of a period of six hours, are as they were
    with StoreReader.open(path) as reader:
        rolled, events = reader.rows("readings_15min", 1, 2**62), reader.rows("events", 1, 2**62)
    assert set(rolled["at"]) == {T + step * 900_000 for step in range(18 * 4)}
    assert set(rolled["n"]) == {3}
    assert set(rolled["quality"]) == {"good"}
    assert set(events["kind"]) == {"degraded"}
    said = [json.loads(detail) for detail in events["detail"]]
    assert sum(detail["readings"] for detail in said) == 18 * 12 * len(KEYS)
    assert {detail["reason"] for detail in said} == {"nothing was sealed for 7 days"}


def test_waiting_is_measured_in_running_time_over_restarts_and_no_clock_brings_it_on(path: Path) -> None:
    with Store.open(path) as store:
        _append(store, _block(T, 24))
        store.degrade(START, 0.0)
        assert store.degrade(START + timedelta(days=3650), 4 * 86_400.0) is None  # the clock has jumped ten years
    with Store.open(path) as store:
        now = START + timedelta(hours=24)
        assert store.degrade(now, 50.0, keep_hours=1) is None
        assert store.degrade(now, 50.0 + 2.9 * 86_400, keep_hours=1) is None
        assert store.degrade(now, 50.0 + 3.1 * 86_400, keep_hours=1) is not None


def test_a_seal_ends_the_waiting(store: Store, path: Path) -> None:
    _append(store, _block(T, 24))
    now = START + timedelta(hours=24)
    store.degrade(now, 0.0)
    store.degrade(now, 6 * 86_400.0)
    _sealed(path, store, 1_000)
    assert store.degrade(now, 8 * 86_400.0, keep_hours=1) is None
    assert store.degrade(now, 14 * 86_400.0, keep_hours=1) is None
    assert store.degrade(now, 15.1 * 86_400.0, keep_hours=1) is not None


def test_what_may_be_in_the_lake_already_is_not_touched(store: Store, path: Path) -> None:
    """Rows that are sealed, or in a seal that is under way, or in a name of the lake: a rollup would double them."""
    _append(store, _block(T, 24))
    now = START + timedelta(hours=25)
    _sealed(path, store, 1_000, intent=2_000)
    lake = path.parent / "lake" / "readings" / "site=farm1" / "date=2026-11-18"
    lake.mkdir(parents=True)
    (lake / f"{store.gateway}-{store.generation}-2001-3000.parquet").touch()
    (lake / f"{store.gateway}-89abcdef-1-9000.parquet").touch()  # of another house.db
    store.degrade(now, 0.0)
    assert _degrade_all(store, now, 8 * 86_400.0, keep_hours=1) is not None
    with StoreReader.open(path) as reader:
        seqs = reader.rows("readings", 1, 2**62)["seq"]
    assert seqs[:3_000] == list(range(1, 3_001))
    assert len(seqs) < 17_280


def test_the_courier_begins_no_seal_while_readings_give_way(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _append(store, _block(T, 24))
    _sealed(path, store, 10)
    tried: list[str] = []
    real = store._pruner.__class__._roll_up

    def begin(*arguments: object) -> None:
        with closing(sqlite3.connect(path.with_name("sync.db"), timeout=0)) as db:
            try:
                with db:
                    db.execute("INSERT OR REPLACE INTO intents VALUES ('readings', ?, 500)", (store.generation,))
            except sqlite3.OperationalError as e:
                tried.append(str(e))
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store._pruner.__class__, "_roll_up", begin)
    store.degrade(START, 0.0)
    assert store.degrade(START + timedelta(hours=24), 8 * 86_400.0, keep_hours=1) is not None
    assert set(tried) == {"database is locked"}


def test_a_reading_that_gave_way_is_known_when_it_comes_again(store: Store) -> None:
    block = _block(T, 24)
    _append(store, block)
    now = START + timedelta(hours=24)
    store.degrade(now, 0.0)
    store.degrade(now, 8 * 86_400.0, keep_hours=1)
    assert len(store.append(block, at_ms=to_ms(now))) == 0
    assert store.counters.duplicates == len(block)


def test_qualities_are_kept_apart(store: Store, path: Path) -> None:
    block = _block(T, 24, step_s=300)
    quality = np.where(np.arange(len(block)) % 2 == 0, np.uint8(Quality.GOOD), np.uint8(Quality.STUCK))
    _append(store, Readings(block.keys, block.key, block.at_ms, block.value, quality, quality * 0, block.received_ms))
    before = _sums(path)
    store.degrade(START, 0.0)
    store.degrade(START + timedelta(hours=24), 8 * 86_400.0, keep_hours=1)
    assert _sums(path) == before
    with StoreReader.open(path) as reader:
        assert set(reader.rows("readings_15min", 1, 2**62)["quality"]) == {"good", "stuck"}


def test_on_a_short_disk_nothing_gives_way_while_sync_helps(store: Store, path: Path) -> None:
    _append(store, _block(T, 24))
    now = START + timedelta(hours=24)
    store.degrade(now, 0.0)
    assert store.degrade(now, 3_600.0, is_short=True) is None
    assert store.degrade(now, 3 * 3_600.0, is_short=True) == "nothing is sealed, and the disk is nearly full"
    assert _hot(path) < 17_280


def test_beyond_its_size_the_oldest_give_way_until_it_fits(store: Store, path: Path) -> None:
    _append(store, _block(T, 30, step_s=10))
    now = START + timedelta(hours=30)
    before = _sums(path)
    store.degrade(now, 0.0)
    assert store.degrade(now, 3 * 3_600.0, max_size_mb=4) is not None
    _degrade_all(store, now, 3 * 3_600.0, max_size_mb=4)
    assert _sums(path) == before
    assert store._pruner.size_mb() < 4.1
    assert store.degrade(now, 3 * 3_600.0, max_size_mb=5) is None


def test_two_months_of_four_houses_without_sync_stay_bounded(path: Path) -> None:
    """At the smallest max_size_mb that may be set (20: a third for hot rows, half before detail goes)."""
    sizes = []
    with Store.open(path) as store:
        for day in range(60):
            _append(store, _block(T + day * DAY_MS, 24))
            now = START + timedelta(days=day + 1)
            for _ in range(2):
                store.prune(now, max_size_mb=6)
                store.degrade(now, day * 86_400.0, max_size_mb=10)
            store.forget(now)
            sizes.append(path.stat().st_size / 1e6)
        expected = 60 * 1_440
        assert {n for n, _ in _sums(path).values()} == {expected}
    assert max(sizes) < 14, sizes
    assert sizes[-1] - sizes[29] < 6, sizes


# What years leave behind


def test_times_are_forgotten_after_keep_days_and_what_is_older_is_rejected_with_a_reason(
    store: Store, path: Path
) -> None:
    old = _block(T, 12)
    _append(store, old)
    _append(store, _block(T + 40 * DAY_MS, 1))
    _sealed(path, store, store.last_seq)
    now = START + timedelta(days=41)
    store.prune(now)
    for _ in range(5):
        store.forget(now, keep_days=30)
    assert len(store.append(old, at_ms=to_ms(now))) == 0
    assert store.counters.too_old == len(old)
    with StoreReader.open(path) as reader:
        assert {row.reason for row in reader.rejected()} == {"older than what is remembered"}
    assert len(store.append(_block(T + 12 * HOUR_MS, 1), at_ms=to_ms(now))) == 60 * len(KEYS)  # not forgotten


def test_a_clock_that_has_jumped_ahead_forgets_little_and_rejects_nothing_of_now(store: Store, path: Path) -> None:
    for day in range(4):
        _append(store, _block(T + day * DAY_MS, 24, step_s=600))
    jumped = T + 3650 * DAY_MS
    _append(store, _block(jumped, 1, step_s=600))  # stamped by our clock on arrival
    _sealed(path, store, store.last_seq)
    store.prune(from_ms(jumped + HOUR_MS))
    store.forget(from_ms(jumped + HOUR_MS))
    back = _block(T + 4 * DAY_MS, 1)
    assert len(store.append(back, at_ms=T + 4 * DAY_MS)) == len(back)
    assert len(store.append(_block(T + DAY_MS, 1, step_s=601), at_ms=T + 4 * DAY_MS)) > 0
    assert store.counters.too_old == 0


def test_what_was_judged_leaves_when_it_is_sealed_and_a_month_old(store: Store, path: Path) -> None:
    def made(at: datetime) -> Prediction:
        return Prediction("house1", "f1", at, 20, "weight_g", at, "1d", 1.0, 2.0, 3.0, "weight", "1.0.0", 1.0)

    now = START + timedelta(days=40)
    times = [START, START + timedelta(days=5), now]
    store.record(predictions=[made(at) for at in times], events=[Event(at, "start") for at in times])
    _append(store, _block(to_ms(now), 1))
    store.forget(now)
    with StoreReader.open(path) as reader:
        assert len(reader.rows("predictions", 1, 9)["seq"]) == 3  # nothing of it is sealed
    _sealed(path, store, 0, predictions=3, events=1)
    store.forget(now)
    with StoreReader.open(path) as reader:
        assert reader.rows("predictions", 1, 9)["seq"] == [3]
        assert reader.rows("events", 1, 9)["seq"] == [2, 3]
        assert reader.last_seq("predictions") == 3


def test_notes_of_a_courier_that_never_ran_are_none(tmp_path: Path) -> None:
    assert sync_notes(tmp_path / "sync.db") == {}


def test_what_is_left_of_old_readings_is_recovered_from_a_damaged_file_once(path: Path, tmp_path: Path) -> None:
    with Store.open(path) as store:
        _append(store, _block(T, 24))
        store.degrade(START, 0.0)
        store.degrade(START + timedelta(hours=24), 8 * 86_400.0, keep_hours=1)
    before = _sums(path)
    damaged = tmp_path / "house.db.damaged"
    path.replace(damaged)
    with Store.open(path) as store:
        _append(store, _block(T + DAY_MS, 1 / 60, keys=KEYS[5:7]))  # so that series have other numbers here
    for added in (True, False):
        done = recover(path, damaged, sealed_up_to=lambda _stream, _generation: 0, at_ms=T + DAY_MS)
        assert (done.added["readings_15min"] > 0) is added
        found = _sums(path)
        assert {key: found[key] for key in before.keys() - set(KEYS[5:7])} == {
            key: before[key] for key in before.keys() - set(KEYS[5:7])
        }
    with Store.open(path) as store:
        assert store.append(_block(T + 2 * DAY_MS, 1 / 60), at_ms=T).last_seq == store.last_seq
