"""What is sealed, what is pushed, and how the outbox comes back."""

from __future__ import annotations

import errno
import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import duckdb
import msgspec
import pytest

from agent.errors import OutboxDamaged, StoreDamaged, StoreError
from agent.store import LAKE_COLUMNS
from sync import lake as lake_module
from sync import outbox as outbox_module
from sync.lake import ObjectName
from sync.outbox import PUSH_ORDER, URGENT, Outbox

if TYPE_CHECKING:
    from pathlib import Path

DAY_MS = 86_400_000
MIDNIGHT_MS = 1_795_305_600_000  # 2026-11-22T00:00:00Z


@dataclass
class Recorded:
    """Rows of the streams in plain lists: what the agent's store is to the outbox."""

    gateway: str = "0a1b2c3d4e5f"
    generation: str = "01234567"
    events: dict[str, list[tuple[int, object]]] = field(default_factory=lambda: {stream: [] for stream in PUSH_ORDER})
    pruned: int = 0
    unreadable: set[int] = field(default_factory=set)
    waiting: int = 0  # the newest readings that are not to be sealed yet

    def add(self, stream: str, *ats_ms: int, text: object = "text") -> None:
        self.events[stream] += [(at_ms, text) for at_ms in ats_ms]

    def last_seq(self, stream: str) -> int:
        return len(self.events[stream])

    def sealable_seq(self, stream: str) -> int:
        return self.last_seq(stream) - (self.waiting if stream == "readings" else 0)

    def rows(self, stream: str, first_seq: int, last_seq: int) -> dict[str, list[Any]]:
        seqs = [seq for seq in range(first_seq, min(last_seq, self.last_seq(stream)) + 1) if seq > self.pruned]
        if self.unreadable & set(seqs):
            message = "could not read"
            raise StoreDamaged(message) from msgspec.DecodeError("a broken document")
        columns: dict[str, list[Any]] = {name: [None] * len(seqs) for name, _ in LAKE_COLUMNS[stream]}
        columns["at"] = [self.events[stream][seq - 1][0] for seq in seqs]
        columns["house"] = [self.events[stream][seq - 1][1] for seq in seqs]
        return columns | {"seq": seqs}


def _open(tmp_path: Path, store: Recorded) -> Outbox:
    return Outbox.open(tmp_path / "sync.db", tmp_path / "lake", store, "farm1")


def _seal(outbox: Outbox, store: Recorded, stream: str = "readings") -> None:
    while outbox.seal_next(stream, store.last_seq(stream), MIDNIGHT_MS) < store.last_seq(stream):
        pass


def _objects(tmp_path: Path) -> dict[str, bytes]:
    lake = tmp_path / "lake"
    return {p.relative_to(lake).as_posix(): p.read_bytes() for p in lake.rglob("*") if p.is_file()}


def _seqs(tmp_path: Path, stream: str = "readings") -> list[int]:
    query = f"SELECT seq FROM read_parquet('{tmp_path}/lake/{stream}/**/*.parquet', hive_partitioning = true)"
    with duckdb.connect() as db:
        return sorted(seq for (seq,) in db.execute(query).fetchall())


def test_rows_are_sealed_into_one_object_a_date_and_the_watermark_moves(tmp_path: Path) -> None:
    store = Recorded()
    store.add("readings", MIDNIGHT_MS - 1, MIDNIGHT_MS, MIDNIGHT_MS + 1)
    with _open(tmp_path, store) as outbox:
        assert outbox.unsealed("readings") == 3
        assert outbox.seal_next("readings", 3, MIDNIGHT_MS + 9) == 3
        assert outbox.unsealed("readings") == 0
        assert [(m.stream, m.sealed_seq, m.sealed_at_ms) for m in outbox.watermarks()] == [
            ("readings", 3, MIDNIGHT_MS + 9)
        ]
    assert sorted(_objects(tmp_path)) == [
        "readings/site=farm1/date=2026-11-21/0a1b2c3d4e5f-01234567-1-3.parquet",
        "readings/site=farm1/date=2026-11-22/0a1b2c3d4e5f-01234567-1-3.parquet",
    ]
    assert _seqs(tmp_path) == [1, 2, 3]


def test_the_agent_reads_the_watermark_while_sync_has_the_database_open(tmp_path: Path) -> None:
    store = Recorded()
    store.add("readings", MIDNIGHT_MS)
    with _open(tmp_path, store) as outbox:
        _seal(outbox, store)
        with sqlite3.connect(f"file:{tmp_path}/sync.db?mode=ro", uri=True) as reader:
            found = reader.execute("SELECT generation, sealed_seq FROM watermarks WHERE stream = 'readings'").fetchall()
        reader.close()
    assert found == [("01234567", 1)]


def test_nothing_new_seals_nothing(tmp_path: Path) -> None:
    store = Recorded()
    with _open(tmp_path, store) as outbox:
        assert outbox.seal_next("readings", 0, 0) == 0
        store.add("readings", MIDNIGHT_MS)
        _seal(outbox, store)
        before = _objects(tmp_path)
        assert outbox.seal_next("readings", 1, 0) == 1
    assert _objects(tmp_path) == before


def test_a_long_backlog_is_sealed_in_ranges_that_memory_bears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "RANGE_ROWS", 10)
    store = Recorded()
    store.add("readings", *range(MIDNIGHT_MS, MIDNIGHT_MS + 25))
    with _open(tmp_path, store) as outbox:
        assert [outbox.seal_next("readings", 25, 0) for _ in range(3)] == [10, 20, 25]
    assert _seqs(tmp_path) == list(range(1, 26))


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_disk_that_is_full_in_the_middle_loses_and_doubles_nothing(
    fails_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The intent stands; the next call finishes it with the same names and bytes, even if more rows came."""
    store = Recorded()
    store.add("readings", MIDNIGHT_MS - 1, MIDNIGHT_MS)
    writes = 0

    def write(path: Path, data: bytes) -> None:
        nonlocal writes
        writes += 1
        if writes == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        lake_module.write_durably(path, data)

    with _open(tmp_path, store) as outbox, monkeypatch.context() as patch:
        patch.setattr(outbox_module, "write_durably", write)
        with pytest.raises(OSError, match="No space"):
            outbox.seal_next("readings", 2, 0)
    store.add("readings", MIDNIGHT_MS + 1)
    with _open(tmp_path, store) as outbox:
        assert outbox.watermarks() == []
        assert outbox.seal_next("readings", 3, 0) == 2
        assert outbox.seal_next("readings", 3, 0) == 3
    assert _seqs(tmp_path) == [1, 2, 3]


def test_an_intent_keeps_the_site_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The site is part of the names; a new name in agent.toml between a crash and its repair changes no object."""
    store = Recorded()
    store.add("readings", MIDNIGHT_MS)

    def fail(_path: Path, _data: bytes) -> None:
        raise OSError(errno.EIO, "crash")

    with _open(tmp_path, store) as outbox, monkeypatch.context() as patch:
        patch.setattr(outbox_module, "write_durably", fail)
        with pytest.raises(OSError, match="crash"):
            outbox.seal_next("readings", 1, 0)
    with Outbox.open(tmp_path / "sync.db", tmp_path / "lake", store, "renamed") as outbox:
        outbox.seal_next("readings", 1, 0)
    assert [key.split("/")[1] for key in _objects(tmp_path)] == ["site=farm1"]


def test_two_syncs_never_share_a_directory(tmp_path: Path) -> None:
    store = Recorded()
    with _open(tmp_path, store):
        with pytest.raises(StoreError, match="another sync runs"):
            _open(tmp_path, store)
        Outbox.view(tmp_path / "sync.db", tmp_path / "lake", store).close()  # looking is allowed
    _open(tmp_path, store).close()


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="absent"):
        Outbox.open(tmp_path / "absent" / "sync.db", tmp_path / "absent" / "lake", Recorded(), "farm1")


# Rows at fault


def test_a_broken_row_is_set_aside_with_its_reason_and_blocks_nothing(tmp_path: Path) -> None:
    store = Recorded()
    store.add("readings", *[MIDNIGHT_MS] * 20)
    store.add("readings", MIDNIGHT_MS, text=42)  # a house that is no text
    store.add("readings", 10**17)  # a time outside the calendar
    store.add("readings", *[MIDNIGHT_MS] * 20)
    with _open(tmp_path, store) as outbox:
        _seal(outbox, store)
        assert outbox.totals().set_aside_rows == 2
    assert _seqs(tmp_path) == [seq for seq in range(1, 43) if seq not in {21, 22}]
    with sqlite3.connect(tmp_path / "sync.db") as db:
        found = db.execute(
            "SELECT seq, reason, json_extract(\"row\", '$.house') FROM set_aside ORDER BY seq"
        ).fetchall()
    db.close()
    assert [(seq, house) for seq, _, house in found] == [(21, 42), (22, "text")]
    assert all("readings: a value does not fit" in reason for _, reason, _ in found)


def test_a_row_that_cannot_even_be_read_is_set_aside(tmp_path: Path) -> None:
    store = Recorded(unreadable={2})
    store.add(URGENT, MIDNIGHT_MS, MIDNIGHT_MS, MIDNIGHT_MS)
    with _open(tmp_path, store) as outbox:
        _seal(outbox, store, URGENT)
        assert outbox.totals().set_aside_rows == 1
    assert _seqs(tmp_path, URGENT) == [1, 3]


def test_where_nothing_of_a_stream_can_be_read_nothing_is_set_aside(tmp_path: Path) -> None:
    """It is no row's fault: the agent will replace the database, and what can be read is recovered from it."""

    class Dead(Recorded):
        dead = False

        def last_seq(self, stream: str) -> int:
            if self.dead:
                message = "file is not a database"
                raise StoreDamaged(message)
            return super().last_seq(stream)

    store = Dead(unreadable={1, 2, 3})
    store.add("readings", MIDNIGHT_MS, MIDNIGHT_MS, MIDNIGHT_MS)
    with _open(tmp_path, store) as outbox:
        store.dead = True
        with pytest.raises(StoreDamaged):
            outbox.seal_next("readings", 3, MIDNIGHT_MS)
        assert outbox.totals().set_aside_rows == 0


@pytest.mark.parametrize("is_cut", [False, True], ids=["zeroed", "cut off"])
def test_a_sync_db_that_breaks_while_it_is_open_is_told_from_a_full_disk(is_cut: bool, tmp_path: Path) -> None:
    store = Recorded()
    store.add("readings", MIDNIGHT_MS)
    with _open(tmp_path, store) as outbox:
        _seal(outbox, store)
        content = (tmp_path / "sync.db").read_bytes()
        (tmp_path / "sync.db").write_bytes(b"" if is_cut else bytes(len(content)))
        with pytest.raises(OutboxDamaged, match="rebuilt from the local lake"):
            outbox.totals()
    with _open(tmp_path, store) as outbox:
        assert outbox.totals().objects == 1


def test_what_a_crash_left_half_written_is_removed_at_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "lake" / "readings" / "site=farm1" / "date=2026-11-22"
    folder.mkdir(parents=True)
    (folder / ".0a1b2c3d4e5f-01234567-1-9.parquet.part").write_bytes(b"half")
    with _open(tmp_path, Recorded()):
        assert list(folder.iterdir()) == []


def test_a_full_disk_keeps_no_half_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Recorded()
    store.add("readings", MIDNIGHT_MS)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with _open(tmp_path, store) as outbox:
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            with pytest.raises(OSError, match="No space"):
                _seal(outbox, store)
        assert [path for path in (tmp_path / "lake").rglob("*") if path.is_file()] == []
        _seal(outbox, store)
        assert outbox.unsealed("readings") == 0


def test_a_database_that_cannot_serve_sets_nothing_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Recorded()
    store.add("readings", MIDNIGHT_MS)

    def fail(*_: object) -> dict[str, list[Any]]:
        message = "disk I/O error"
        raise StoreError(message) from sqlite3.OperationalError(message)

    with _open(tmp_path, store) as outbox:
        with monkeypatch.context() as patch:
            patch.setattr(store, "rows", fail)
            with pytest.raises(StoreError, match="disk"):
                outbox.seal_next("readings", 1, 0)
        assert outbox.totals().set_aside_rows == 0
        _seal(outbox, store)
    assert _seqs(tmp_path) == [1]


# Pushing


def test_warnings_go_first_and_bulk_last_whatever_was_sealed_first(tmp_path: Path) -> None:
    store = Recorded()
    order = [stream for stream in PUSH_ORDER if stream in LAKE_COLUMNS]
    with _open(tmp_path, store) as outbox:
        for stream in reversed(order):
            store.add(stream, MIDNIGHT_MS)
            _seal(outbox, store, stream)
        carried = []
        for urgent in (True, False):
            while parcel := outbox.next_parcel(urgent=urgent):
                carried.append(parcel.key.split("/")[0])
                outbox.advance(parcel.key, 1)
        assert carried == order
        assert outbox.totals().waiting_objects == 0


def test_objects_of_a_stream_go_in_the_order_they_were_sealed(tmp_path: Path) -> None:
    store = Recorded()
    keys = []
    with _open(tmp_path, store) as outbox:
        for day in (3, 1, 2):
            store.add("readings", MIDNIGHT_MS + day * DAY_MS)
            _seal(outbox, store)
        while parcel := outbox.next_parcel(urgent=False):
            keys.append(parcel.key)
            outbox.advance(parcel.key, 1)
    assert [key.rsplit("/", 1)[1] for key in keys] == [f"0a1b2c3d4e5f-01234567-{n}-{n}.parquet" for n in (1, 2, 3)]


def test_an_object_that_can_never_be_pushed_blocks_no_other(tmp_path: Path) -> None:
    store = Recorded()
    with _open(tmp_path, store) as outbox:
        for _ in range(2):
            store.add("readings", MIDNIGHT_MS)
            _seal(outbox, store)
        first = outbox.next_parcel(urgent=False)
        assert first is not None
        outbox.set_aside(first.key, "conflict")
        second = outbox.next_parcel(urgent=False)
        assert second is not None
        assert second.key != first.key
        assert outbox.totals().set_aside_objects == 1


# Coming back


def test_a_lost_sync_db_is_rebuilt_from_the_lake(tmp_path: Path) -> None:
    store = Recorded()
    for at_ms in (MIDNIGHT_MS - 1, MIDNIGHT_MS, MIDNIGHT_MS + 1):
        store.add("readings", at_ms)
        store.add(URGENT, at_ms)
        with _open(tmp_path, store) as outbox:
            _seal(outbox, store)
            _seal(outbox, store, URGENT)
    before = _objects(tmp_path)
    (tmp_path / "sync.db").unlink()
    store.add("readings", MIDNIGHT_MS + 2)
    with _open(tmp_path, store) as outbox:
        assert outbox.totals().waiting_objects == 6
        _seal(outbox, store)
        _seal(outbox, store, URGENT)
        assert outbox.unsealed("readings") == 0
    after = _objects(tmp_path)
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + 1
    assert _seqs(tmp_path) == [1, 2, 3, 4]


def test_a_seal_that_was_half_done_when_sync_db_was_lost_is_finished(tmp_path: Path) -> None:
    """The lake's names alone cannot tell that the second date of the newest range is missing; the rows can."""
    store = Recorded()
    store.add("readings", MIDNIGHT_MS - 1, MIDNIGHT_MS)
    with _open(tmp_path, store) as outbox:
        _seal(outbox, store)
    before = _objects(tmp_path)
    (tmp_path / "sync.db").unlink()
    (tmp_path / "lake" / max(before)).unlink()
    with _open(tmp_path, store) as outbox:
        _seal(outbox, store)
    assert _objects(tmp_path) == before


def test_a_rebuild_writes_no_object_anew_whose_rows_are_pruned(tmp_path: Path) -> None:
    store = Recorded()
    store.add("readings", *[MIDNIGHT_MS] * 4)
    with _open(tmp_path, store) as outbox:
        _seal(outbox, store)
    before = _objects(tmp_path)
    (tmp_path / "sync.db").unlink()
    store.pruned = 2
    with _open(tmp_path, store) as outbox:
        _seal(outbox, store)
    assert _objects(tmp_path) == before


@pytest.mark.parametrize("rubbish", [b"no database at all" * 100, b"SQLite format 3\0" + bytes(4000)])
def test_a_broken_sync_db_is_kept_aside_and_rebuilt(rubbish: bytes, tmp_path: Path) -> None:
    store = Recorded()
    store.add("readings", MIDNIGHT_MS)
    with _open(tmp_path, store) as outbox:
        _seal(outbox, store)
    (tmp_path / "sync.db").write_bytes(rubbish)
    with _open(tmp_path, store) as outbox:
        _seal(outbox, store)
        assert outbox.totals().objects == 1
    aside = list((tmp_path / "quarantine").glob("sync-*.db"))
    assert [file.read_bytes() for file in aside] == [rubbish]


def test_a_new_house_db_begins_a_new_generation_and_hides_no_older_object(tmp_path: Path) -> None:
    store = Recorded()
    store.add("readings", MIDNIGHT_MS, MIDNIGHT_MS)
    with _open(tmp_path, store) as outbox:
        _seal(outbox, store)
    fresh = Recorded(generation="89abcdef")
    fresh.add("readings", MIDNIGHT_MS)
    with _open(tmp_path, fresh) as outbox:
        assert outbox.watermarks() == []
        _seal(outbox, fresh)
        assert outbox.totals().waiting_objects == 2
    names = [ObjectName.parse(key) for key in _objects(tmp_path)]
    assert {name.generation: name.last_seq for name in names if name} == {"01234567": 2, "89abcdef": 1}


def test_files_in_the_lake_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "lake" / "readings" / "site=farm1" / "date=2026-11-22" / "notes.parquet"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    with _open(tmp_path, Recorded()) as outbox:
        assert outbox.totals().objects == 0
    assert foreign.read_text() == "mine"


def test_readings_of_untrusted_time_wait_and_the_others_do_not(tmp_path: Path) -> None:
    store = Recorded(waiting=2)
    store.add("readings", *[MIDNIGHT_MS] * 5)
    store.add("events", MIDNIGHT_MS)
    with _open(tmp_path, store) as outbox:
        assert outbox.seal_next("readings", 5, MIDNIGHT_MS) == 3
        assert (outbox.unsealed("readings"), outbox.sealable("readings")) == (2, 0)
        assert outbox.seal_next("readings", 5, MIDNIGHT_MS) == 3
        assert outbox.seal_next("events", 1, MIDNIGHT_MS) == 1
        store.waiting = 0
        assert outbox.seal_next("readings", 5, MIDNIGHT_MS) == 5
    assert _seqs(tmp_path) == [1, 2, 3, 4, 5]


def test_a_seal_that_begins_as_the_agent_begins_to_correct_its_rows_is_withdrawn(tmp_path: Path) -> None:
    """The agent has not seen our intent, so it corrects the rows: they must not be sealed as they were."""

    class Racing(Recorded):
        asked = 0

        def sealable_seq(self, stream: str) -> int:
            self.asked += 1
            return 5 if self.asked == 1 else 1

    store = Racing()
    store.add("readings", *[MIDNIGHT_MS] * 5)
    with _open(tmp_path, store) as outbox:
        assert outbox.seal_next("readings", 5, MIDNIGHT_MS) == 0
        assert _objects(tmp_path) == {}
        assert outbox.seal_next("readings", 5, MIDNIGHT_MS) == 1
    assert _seqs(tmp_path) == [1]
