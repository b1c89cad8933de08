"""A store whose clock was wrong and was corrected is the store whose clock was always right."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.domain import Quality, SeriesKey, TimeQuality
from agent.errors import StoreError
from agent.readings import Readings
from agent.store import Segment, Store, StoreReader

T = 1_795_000_000_000
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
ARRIVING = SeriesKey("house1", "water")
SENDING = SeriesKey("house1", "co2")
KEYS = (ARRIVING, SENDING)

# (ms since the block before, rows of the block: (series, ms before its arrival that the sender gives))
BLOCKS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 700, 59_999, 60_000, 5 * HOUR_MS, 7 * HOUR_MS]),
        st.lists(st.tuples(st.sampled_from([0, 1]), st.sampled_from([0, 1, 60_000, HOUR_MS])), min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=12,
)
DELTAS = st.sampled_from([-10 * 365 * DAY_MS, -HOUR_MS, -61_000, 61_000, 6 * HOUR_MS, 25 * 365 * DAY_MS])


def segment(offset_ms: int, *, trusted: bool, began_ms: int, boot_id: str = "boot", sync: bool = False) -> Segment:
    return Segment(0, boot_id, offset_ms, trusted, sync, began_ms)


def fill(store: Store, blocks: Any, *, error_ms: int, untrusted: bool) -> None:  # noqa: ANN401  # of BLOCKS
    """Append blocks as by a clock that is ``error_ms`` ahead; senders give the right time, whatever ours is."""
    now, arrived = T, 0
    for wait_ms, rows in blocks:
        now += wait_ms
        at, quality = [], []
        for number, before_ms in rows:
            if number == 0:
                arrived = max(now, arrived + 1)
                at.append(arrived + error_ms)
                quality.append(TimeQuality.UNTRUSTED if untrusted else TimeQuality.ARRIVAL)
            else:
                at.append(now - before_ms)
                quality.append(TimeQuality.SENDER)
        n = len(rows)
        store.append(
            Readings(
                KEYS,
                np.array([number for number, _ in rows], np.int32),
                np.array(at, np.int64),
                np.arange(n, dtype=np.float64),
                np.full(n, Quality.GOOD, np.uint8),
                np.array(quality, np.uint8),
                np.full(n, now + error_ms, np.int64),
            ),
            at_ms=now,
        )


def content(path: Path) -> dict[str, list[Any]]:
    with StoreReader.open(path) as reader:
        return reader.rows("readings", 1, 2**62)


def killed(folder: Path) -> Path:
    """Return a copy of the files as they are now: what a killed process leaves."""
    left = Path(tempfile.mkdtemp(dir=folder.parent))
    for name in ("house.db", "house.db-wal"):
        if (folder / name).exists():
            shutil.copy(folder / name, left / name)
    return left


@given(
    blocks=BLOCKS,
    delta_ms=DELTAS,
    untrusted=st.booleans(),
    crash=st.sampled_from([None, 0, 1, 2]),
    earlier=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_corrected_it_is_the_store_that_was_never_wrong(
    blocks: Any,  # noqa: ANN401  # of BLOCKS
    delta_ms: int,
    untrusted: bool,
    crash: int | None,
    earlier: bool,
) -> None:
    """Whenever it is killed amid the correction, and whatever an earlier boot has left."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr("agent.store.times.BLOCK_ROWS", 5)
        patch.setattr("agent.seen.RUN_GAP", 3)
        patch.setattr("agent.store.index.SAVE_ROWS", 10)
        wrong, right = Path(name, "wrong"), Path(name, "right")
        for folder, error_ms, mark in ((wrong, -delta_ms, untrusted), (right, 0, False)):
            with Store.open(folder / "house.db") as store:
                if earlier:
                    store.note_clock(segment(7, trusted=True, began_ms=T, boot_id="before"), delta_ms=0, why="start")
                    early = [(0, [(0, 0), (1, 0)])]
                    with pytest.MonkeyPatch.context() as past:
                        past.setattr(f"{__name__}.T", T - 90 * DAY_MS)
                        fill(store, early, error_ms=0, untrusted=False)
                now = segment(error_ms, trusted=not mark, began_ms=T + error_ms)
                store.note_clock(now, delta_ms=0, why="start")
                fill(store, blocks, error_ms=error_ms, untrusted=mark)
        store = Store.open(wrong / "house.db")
        try:
            store.note_clock(segment(0, trusted=True, began_ms=T, sync=True), delta_ms=delta_ms, why="NTP")
            for _ in range(crash or 0):
                store.correct()
            if crash is not None:
                left = killed(wrong)
                store.close()
                store, wrong = Store.open(left / "house.db"), left
            while not store.correct():
                pass
            with Store.open(right / "house.db") as never_wrong:
                assert content(wrong / "house.db") == content(right / "house.db")
                assert store.restore().newest_ms == never_wrong.restore().newest_ms
                before = store.last_seq
                fill(store, blocks, error_ms=0, untrusted=False)
                assert store.last_seq == before  # what comes again is known
            with StoreReader.open(wrong / "house.db") as reader:
                assert reader.sealable_seq("readings") == before
        finally:
            store.close()


def test_a_clock_once_corrected_is_the_clock_of_its_rows(tmp_path: Path) -> None:
    with Store.open(tmp_path / "house.db") as store:
        store.note_clock(segment(-5_000_000, trusted=False, began_ms=T), delta_ms=0, why="start")
        fill(store, [(0, [(0, 0)])], error_ms=-9 * HOUR_MS, untrusted=True)
        store.note_clock(segment(1_000, trusted=True, began_ms=T, sync=True), delta_ms=9 * HOUR_MS, why="NTP")
        assert store.correct()
        with StoreReader.open(tmp_path / "house.db") as reader:
            first, second = reader.clocks()
            assert (first.first_seq, first.offset_ms, first.trusted) == (1, -5_000_000 + 9 * HOUR_MS, True)
            assert (second.first_seq, second.synchronised) == (2, True)
            kinds = reader.rows("events", 1, 99)["kind"]
    assert kinds == ["clock", "clock", "clock_corrected"]


def test_where_a_corrected_time_is_taken_the_reading_moves_by_a_millisecond_and_none_is_lost(tmp_path: Path) -> None:
    with Store.open(tmp_path / "house.db") as store:
        fill(store, [(0, [(0, 0)] * 3)], error_ms=0, untrusted=False)  # an earlier boot had these three times
        store.note_clock(segment(0, trusted=True, began_ms=T), delta_ms=0, why="start")
        fill(store, [(1, [(0, 0)] * 3)], error_ms=HOUR_MS, untrusted=False)
        store.note_clock(segment(0, trusted=True, began_ms=T, sync=True), delta_ms=-HOUR_MS, why="NTP")
        assert store.correct()
    times = content(tmp_path / "house.db")["at"]
    assert times[:3] == [T, T + 1, T + 2]
    assert sorted(times) == [T + i for i in range(6)]


def test_rows_of_a_synchronised_clock_or_of_another_boot_are_not_touched(tmp_path: Path) -> None:
    with Store.open(tmp_path / "house.db") as store:
        offsets: list[tuple[str, bool]] = [("boot-0", False), ("boot-1", False), ("boot-1", True), ("boot-1", False)]
        for number, (boot, sync) in enumerate(offsets):
            now = segment(0, trusted=True, began_ms=T, boot_id=boot, sync=sync)
            store.note_clock(now, delta_ms=0, why="noted")
            fill(store, [(number * HOUR_MS, [(0, 0)])], error_ms=0, untrusted=False)
        store.note_clock(segment(0, trusted=True, began_ms=T, boot_id="boot-1", sync=True), delta_ms=HOUR_MS, why="NTP")
        assert store.correct()
    hours = [(at - T) // HOUR_MS for at in content(tmp_path / "house.db")["at"]]
    assert hours == [0, 1, 2, 4]


def test_drift_is_not_taken_for_a_wrong_time_of_all_that_was_received(tmp_path: Path) -> None:
    with Store.open(tmp_path / "house.db") as store:
        store.note_clock(segment(0, trusted=True, began_ms=T), delta_ms=0, why="start")
        fill(store, [(0, [(0, 0)])], error_ms=0, untrusted=False)
        store.note_clock(segment(0, trusted=True, began_ms=T, sync=True), delta_ms=20_000, why="NTP")
        assert store.correct()
    assert content(tmp_path / "house.db")["at"] == [T]


# --- what is sealed


def sync_db(folder: Path, generation: str, sealed_seq: int, intent: tuple[int, int] | None = None) -> None:
    with closing(sqlite3.connect(folder / "sync.db")) as db, db:
        db.execute("CREATE TABLE watermarks (stream, generation, sealed_seq)")
        db.execute("CREATE TABLE intents (stream, generation, first_seq, last_seq)")
        db.execute("INSERT INTO watermarks VALUES ('readings', ?, ?)", (generation, sealed_seq))
        if intent is not None:
            db.execute("INSERT INTO intents VALUES ('readings', ?, ?, ?)", (generation, *intent))


def corrected(folder: Path, *sealed: Any) -> tuple[list[int], dict[str, Any]]:  # noqa: ANN401  # of ``sync_db``
    """Correct nine readings by an hour; return by how many hours each was moved, and what the event says."""
    with Store.open(folder / "house.db") as store:
        store.note_clock(segment(0, trusted=True, began_ms=T), delta_ms=0, why="start")
        fill(store, [(1, [(0, 0)])] * 9, error_ms=-HOUR_MS, untrusted=False)
        sync_db(folder, store.generation, *sealed)
        store.note_clock(segment(0, trusted=True, began_ms=T, sync=True), delta_ms=HOUR_MS, why="NTP")
        while not store.correct():
            pass
        with StoreReader.open(folder / "house.db") as reader:
            events = reader.rows("events", 1, 99)
            event = {name: column[-1] for name, column in events.items()}
    times = content(folder / "house.db")["at"]
    return [(at - (T - HOUR_MS)) // HOUR_MS for at in times], event


def test_of_sealed_rows_an_event_says_by_how_much_the_lake_is_wrong(tmp_path: Path) -> None:
    moved, event = corrected(tmp_path, 4)
    assert moved == [1] * 9  # the windows are built from them
    assert (event["kind"], event["from_at"], event["to_at"]) == ("clock_corrected", T, T - HOUR_MS)
    detail = event["detail"]
    assert '"delta_ms":3600000' in detail
    assert '"first_seq":1' in detail
    assert '"sealed_to_seq":4' in detail


@pytest.mark.parametrize("block_rows", [2, 5, 50])
def test_rows_of_a_seal_that_has_begun_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_rows: int
) -> None:
    """It may be finished after a crash, and the same rows must give the same bytes."""
    monkeypatch.setattr("agent.store.times.BLOCK_ROWS", block_rows)
    moved, event = corrected(tmp_path, 2, (3, 6))
    assert moved == [1, 1, 0, 0, 0, 0, 1, 1, 1]
    assert '"sealed_to_seq":6' in event["detail"]


def test_while_nobody_can_say_what_is_sealed_the_correction_waits_and_nothing_is_sealed(tmp_path: Path) -> None:
    with Store.open(tmp_path / "house.db") as store:
        store.note_clock(segment(0, trusted=True, began_ms=T), delta_ms=0, why="start")
        fill(store, [(0, [(0, 0)])], error_ms=0, untrusted=False)
        (tmp_path / "sync.db").write_bytes(b"no database")
        store.note_clock(segment(0, trusted=True, began_ms=T, sync=True), delta_ms=HOUR_MS, why="NTP")
        with pytest.raises(StoreError, match="wait to be corrected"):
            store.correct()
        with StoreReader.open(tmp_path / "house.db") as reader:
            assert reader.sealable_seq("readings") == 0
        (tmp_path / "sync.db").unlink()
        assert store.correct()
        with StoreReader.open(tmp_path / "house.db") as reader:
            assert reader.sealable_seq("readings") == 1


def test_rows_of_untrusted_time_are_not_sealed_until_corrected_or_7_days_old(tmp_path: Path) -> None:
    with Store.open(tmp_path / "house.db") as store, StoreReader.open(tmp_path / "house.db") as reader:
        fill(store, [(0, [(0, 0)])], error_ms=0, untrusted=False)
        assert reader.sealable_seq("readings") == 1
        store.note_clock(segment(0, trusted=False, began_ms=T), delta_ms=0, why="start")
        fill(store, [(DAY_MS, [(0, 0)]), (0, [(1, 0)])], error_ms=0, untrusted=True)
        assert reader.sealable_seq("readings") == 1
        fill(store, [(8 * DAY_MS - 1, [(1, 0)])], error_ms=0, untrusted=True)
        assert reader.sealable_seq("readings") == 1
        fill(store, [(8 * DAY_MS, [(1, 0)])], error_ms=0, untrusted=True)
        assert reader.sealable_seq("readings") == 3  # seven days of the readings' own time, whatever clocks show now
        assert reader.sealable_seq("events") == reader.last_seq("events")
