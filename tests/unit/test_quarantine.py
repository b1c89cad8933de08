"""A damaged house.db is put aside, whole; a new one takes over what it still tells, under the same gateway."""

from __future__ import annotations

import errno
import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.domain import Flock, FlockChange, HouseState, SeriesKey, Severity, Standing, WarningState, to_ms
from agent.errors import StoreDamaged, StoreError
from agent.readings import Readings
from agent.store import Store, StoreReader, readable_readings
from agent.store.quarantine import in_quarantine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)
WATER = SeriesKey("house1", "water")
PLACED = FlockChange(NOW, "place", "house1", HouseState.ACTIVE, Flock("house1", "A1", date(2026, 11, 1), 30_000))
STANDING = Standing("deviation-water", "house1", WarningState.ACTIVE, Severity.MAJOR, id="x", raised_at=NOW)
BUCKET = ("house1", "water", 600, to_ms(NOW), 3, 6.0, 1.0, 3.0, 3.0, 0)
PAGE = 4096
GATEWAY = "0123456789ab"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "house.db"


def many(count: int, at: datetime = NOW) -> Readings:
    at_ms = to_ms(at) + np.arange(count, dtype=np.int64) * 1_000
    zeros = np.zeros(count, np.uint8)
    return Readings((WATER,), np.zeros(count, np.int32), at_ms, np.arange(count) / 2, zeros, zeros, at_ms)


def fill(store: Store, count: int = 5_000) -> None:
    store.append(many(count), at_ms=to_ms(NOW))
    store.record(flock_changes=[PLACED], standings=[STANDING], buckets=[BUCKET], rhythms={WATER: 60.0}, judged_at=NOW)


def spoil(path: Path, first: int, last: int | None = None, by: bytes = b"\xa5") -> None:
    """Overwrite the pages ``first`` to ``last``, numbered from 1."""
    content = bytearray(path.read_bytes())
    end = len(content) if last is None else last * PAGE
    content[(first - 1) * PAGE : end] = by * (end - (first - 1) * PAGE)
    path.write_bytes(content)


def roots(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as db:
        return dict(db.execute("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0"))


def drop_series(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE sealed_times")


def forget_meta(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DELETE FROM meta WHERE key = 'gateway'")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "text": lambda path: path.write_text("hello " * 1000),
    "without its first page": lambda path: spoil(path, 1, 1, b"\0"),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: 10 * PAGE]),
    "half garbage": lambda path: spoil(path, 5),
    "a table is missing": drop_series,
    "what it must hold is missing": forget_meta,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_database_is_put_aside_whole_and_a_new_one_serves(
    damage: Callable[[Path], object], path: Path
) -> None:
    with Store.open(path) as store:
        fill(store)
        generation = store.generation
    damage(path)
    content = path.read_bytes()
    with Store.open(path, at=NOW) as store:
        assert store.generation != generation
        assert len(store.append(many(3, NOW + timedelta(hours=9)), at_ms=to_ms(NOW))) == 3
        assert [file.name for file in store.quarantined()] == ["house-20261118T120000Z.db"]
    assert (path.parent / "quarantine" / "house-20261118T120000Z.db").read_bytes() == content
    with StoreReader.open(path) as reader:
        events = reader.rows("events", 1, 99)
    assert events["kind"] == ["quarantined"]
    assert "house-20261118T120000Z.db" in events["detail"][0]
    with Store.open(path) as store:  # and once only
        assert len(store.quarantined()) == 1


@pytest.mark.parametrize("damage", ["without its first page", "a table is missing"])
def test_what_can_be_read_is_taken_over(damage: str, path: Path) -> None:
    with Store.open(path) as store:
        fill(store)
        gateway = store.gateway
    DAMAGES[damage](path)
    with Store.open(path) as store:
        assert store.gateway == gateway
        known = store.restore()
        assert known.houses == {"house1": PLACED}
        assert known.standings == (STANDING,)
        assert list(known.buckets) == [BUCKET]
        assert known.rhythms == {WATER: 60.0}
        assert known.judged_at == NOW
        aside = store.quarantined()[0]
    assert sum(len(block) for block in readable_readings(aside) if isinstance(block, Readings)) == 5_000


@pytest.mark.parametrize("content", [b"", bytes(100_000)], ids=["empty", "zeroed"])
def test_of_a_database_of_which_nothing_is_left_gateway_and_flocks_are_kept(path: Path, content: bytes) -> None:
    with Store.open(path) as store:
        fill(store)
        gateway = store.gateway
    path.write_bytes(content)
    with Store.open(path) as store:
        assert store.gateway == gateway
        assert store.restore().houses == {"house1": PLACED}
        assert len(store.quarantined()) == 1


def test_a_start_does_not_wait_for_the_copy_of_a_very_large_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.store.quarantine.COPIED_BYTES", 50_000)
    with Store.open(path) as store:
        fill(store)
    DAMAGES["without its first page"](path)
    with Store.open(path) as store:
        known = store.restore()
        assert known.houses == {"house1": PLACED}  # kept beside it
        assert list(known.buckets) == []  # it takes `data recover` to bring these back


def test_a_disk_that_takes_no_keepsake_loses_nothing_by_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("agent.store.writer.keep", full)
    with Store.open(path) as store:
        fill(store)
        assert store.restore().houses == {"house1": PLACED}


def test_the_gateway_keeps_its_name_from_the_lake_where_nothing_else_tells_it(path: Path) -> None:
    Store.open(path).close()
    path.write_bytes(bytes(8192))
    folder = path.parent / "lake" / "readings" / "site=farm1" / "date=2026-11-18"
    folder.mkdir(parents=True)
    (folder / f"{GATEWAY}-89abcdef-1-9.parquet").touch()
    with Store.open(path) as store:
        assert store.gateway == GATEWAY


def test_damage_found_in_mid_run_is_told_from_a_disk_that_fails_and_a_new_database_goes_on(path: Path) -> None:
    with Store.open(path) as store:
        fill(store, 100_000)
    page = roots(path)["sqlite_autoindex_commands_1"]
    spoil(path, page, page)
    with Store.open(path) as store:
        gateway, generation = store.gateway, store.generation
        with pytest.raises(StoreDamaged):
            store.answer_of("some id")
        store.append(many(10, NOW + timedelta(days=3)), at_ms=to_ms(NOW))
        store.begin_anew("a page is damaged", NOW)
        assert (store.gateway, store.generation == generation) == (gateway, False)
        assert store.last_seq == 0
        assert store.restore().houses == {"house1": PLACED}
        # the newest time was known only in memory
        late = store.append(many(1, NOW + timedelta(days=2)), at_ms=to_ms(NOW))
        assert late.time_quality.tolist() == [3]


def test_a_crash_between_putting_aside_and_taking_over_costs_nothing(path: Path) -> None:
    with Store.open(path) as store:
        fill(store)
    (path.parent / "quarantine").mkdir()
    path.rename(path.parent / "quarantine" / "house-20261118T120000Z.db")
    Store.open(path.with_name("other.db")).close()
    path.with_name("other.db").rename(path)  # a new one that came only so far
    with Store.open(path) as store:
        assert store.restore().houses == {"house1": PLACED}


def test_a_try_that_failed_half_way_is_finished_by_the_next(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(path) as store:
        fill(store)

        def fails(*_: object, **__: object) -> None:
            message = "house.db: the disk is full"
            raise StoreError(message)

        with monkeypatch.context() as patch:
            patch.setattr("agent.store.writer.take_over", fails)
            with pytest.raises(StoreError, match="full"):
                store.begin_anew("damaged", NOW)
        assert store.is_aside
        store.begin_anew("damaged", NOW)
        assert not store.is_aside
        assert store.restore().houses == {"house1": PLACED}
        assert len(store.quarantined()) == 1


# --- the WAL ----------------------------------------------------------------------------------------------------------


def cut(path: Path, to: Path, blocks: int = 5) -> None:
    """Make the files as a power cut leaves them, with ``blocks`` transactions in the WAL."""
    Store.open(path).close()
    with Store.open(path) as store:
        for number in range(blocks):
            store.append(many(10, NOW + timedelta(hours=number)), at_ms=to_ms(NOW))
        to.parent.mkdir(exist_ok=True)
        for end in ("", "-wal"):
            to.with_name(to.name + end).write_bytes(path.with_name(path.name + end).read_bytes())


def wal_events(path: Path) -> tuple[int, list[str]]:
    """Return the rows that the store finds, and what it says of its WAL."""
    with Store.open(path) as store:
        assert all(file.suffix == ".wal" for file in in_quarantine(path.parent))
        return store.last_seq, [str(event.detail["why"]) for event in store.said]


def test_a_sound_wal_is_read_without_a_word(path: Path, tmp_path: Path) -> None:
    cut(path, tmp_path / "cut" / "house.db")
    assert wal_events(tmp_path / "cut" / "house.db") == (50, [])


def test_the_last_transaction_may_be_torn_by_a_power_cut(path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "cut" / "house.db"
    cut(path, victim)
    wal = victim.with_name("house.db-wal")
    wal.write_bytes(wal.read_bytes()[:-2000] + b"\xa5" * 2000)
    assert wal_events(victim) == (40, [])


def test_a_wal_that_is_damaged_in_its_middle_is_kept_and_said(path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "cut" / "house.db"
    cut(path, victim)
    wal = victim.with_name("house.db-wal")
    content = bytearray(wal.read_bytes())
    content[200:210] = b"\xa5" * 10
    wal.write_bytes(content)
    rows, said = wal_events(victim)
    assert rows == 0
    assert len(said) == 1
    assert "transactions stand behind a damaged place" in said[0]


@pytest.mark.parametrize("garbage", [bytes(100_000), b"\xa5" * 100_000], ids=["zeroed", "garbage"])
def test_a_wal_of_garbage_is_put_aside_and_the_database_before_it_serves(path: Path, garbage: bytes) -> None:
    with Store.open(path) as store:
        fill(store)
    path.with_name("house.db-wal").write_bytes(garbage)
    rows, said = wal_events(path)
    assert rows == 5_000
    assert said == ["its WAL does not begin as one"]


def test_an_empty_database_beside_a_wal_is_no_first_start(path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "cut" / "house.db"
    cut(path, victim)
    victim.write_bytes(b"")
    with Store.open(victim) as store:
        assert [file.suffix for file in store.quarantined()] == [".db"]
