"""What gives way where there is no room, in which order, and that no crash on the way loses or doubles a reading."""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from agent.store import LAKE_COLUMNS
from sync import lake as lake_module
from sync import outbox as outbox_module
from sync.ladder import Ladder, Room, room_on_disk
from sync.lake import ObjectName, write_durably
from sync.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Callable

MIDNIGHT_MS = 1_795_305_600_000  # 2026-11-22T00:00:00Z
DAY_MS = 86_400_000
NOISE = random.Random(3)
AMPLE, SHORT = Room(0, 1, 2, 1), Room(2, 1, 2, 1)


@dataclass
class House:
    """Readings in a plain list: what the agent's store is to the outbox."""

    gateway: str = "0a1b2c3d4e5f"
    generation: str = "01234567"
    readings: list[tuple[int, str, float, str]] = field(default_factory=list)  # at, signal, value, quality
    warnings: int = 0

    def add_hour(self, hour: int, step_s: int = 60, quality: str = "good") -> None:
        at_ms = MIDNIGHT_MS + hour * 3_600_000
        for second in range(0, 3_600, step_s):
            for n, signal in enumerate(("water", "temperature", "feed")):
                value = NOISE.randrange(400) / 4 + n  # quarters: every sum of them is exact
                self.readings.append((at_ms + second * 1000, signal, value, quality))

    def last_seq(self, stream: str) -> int:
        return {"readings": len(self.readings), "warnings": self.warnings}.get(stream, 0)

    def sealable_seq(self, stream: str) -> int:
        return self.last_seq(stream)

    def rows(self, stream: str, first_seq: int, last_seq: int) -> dict[str, list[Any]]:
        seqs = list(range(first_seq, last_seq + 1))
        columns: dict[str, list[Any]] = {name: [None] * len(seqs) for name, _ in LAKE_COLUMNS[stream]}
        if stream == "warnings":
            return columns | {"at": [MIDNIGHT_MS] * len(seqs), "seq": seqs}
        chosen = [self.readings[seq - 1] for seq in seqs]
        names = ("at", "signal", "value", "quality")
        columns |= {name: [row[i] for row in chosen] for i, name in enumerate(names)}
        return columns | {"received_at": columns["at"], "house": ["house1"] * len(seqs), "seq": seqs}

    def sealed_by_the_hour(self, outbox: Outbox, hours: int, first: int = 0, step_s: int = 60) -> None:
        for hour in range(first, first + hours):
            self.add_hour(hour, step_s)
            outbox.seal_next("readings", len(self.readings), MIDNIGHT_MS + (hour + 1) * 3_600_000)


def _open(tmp_path: Path, house: House) -> Outbox:
    return Outbox.open(tmp_path / "sync.db", tmp_path / "lake", house, "farm1")


def _ladder(outbox: Outbox, room: Room = SHORT, *, has_cloud: bool = True) -> Ladder:
    return Ladder(outbox, lambda _lake_bytes: room, has_cloud=has_cloud)


def _to_the_end(ladder: Ladder) -> int:
    steps = 0
    while ladder.step(MIDNIGHT_MS):
        steps += 1
    return steps


def _names(tmp_path: Path) -> list[ObjectName]:
    lake = tmp_path / "lake"
    found = [ObjectName.parse(path.relative_to(lake).as_posix()) for path in lake.rglob("*.parquet")]
    return sorted((name for name in found if name), key=lambda name: (name.stream, name.first_seq))


def _counted(tmp_path: Path) -> dict[tuple[str, str], tuple[int, float]]:
    """Return (readings, sum of their values) of each signal and quality, over raw readings and rollups."""
    parts = {"readings": "1 AS n, value AS sum", "readings_1min": "n, sum", "readings_15min": "n, sum"}
    queries = [
        f"SELECT signal, quality, {figures} FROM read_parquet('{tmp_path}/lake/{stream}/*/*/*.parquet')"
        for stream, figures in parts.items()
        if (tmp_path / "lake" / stream).exists() and any((tmp_path / "lake" / stream).rglob("*.parquet"))
    ]
    with duckdb.connect() as db:
        query = f"SELECT signal, quality, sum(n), sum(sum) FROM ({' UNION ALL '.join(queries)}) GROUP BY ALL"
        return {(signal, quality): (int(n), total) for signal, quality, n, total in db.execute(query).fetchall()}


def _of(house: House) -> dict[tuple[str, str], tuple[int, float]]:
    found: dict[tuple[str, str], tuple[int, float]] = {}
    for _, signal, value, quality in house.readings:
        n, total = found.get((signal, quality), (0, 0.0))
        found[signal, quality] = n + 1, total + value
    return found


def _confirm(outbox: Outbox, n: int) -> list[str]:
    keys = []
    for _ in range(n):
        parcel = outbox.next_parcel(urgent=False)
        assert parcel is not None
        outbox.carry(parcel.key)
        outbox.advance(parcel.key, MIDNIGHT_MS)
        keys.append(parcel.key)
    return keys


def test_where_there_is_room_nothing_gives_way(tmp_path: Path) -> None:
    house = House()
    with _open(tmp_path, house) as outbox:
        house.sealed_by_the_hour(outbox, 4)
        before = _names(tmp_path)
        assert _to_the_end(_ladder(outbox, AMPLE)) == 0
        assert outbox.noted("full") is None
    assert _names(tmp_path) == before


def test_what_the_cloud_has_confirmed_goes_first_and_the_rest_stays_whole(tmp_path: Path) -> None:
    house = House()
    with _open(tmp_path, house) as outbox:
        house.sealed_by_the_hour(outbox, 4)
        confirmed = _confirm(outbox, 2)
        assert _ladder(outbox).step(MIDNIGHT_MS)
        left = _names(tmp_path)
        assert [name.key for name in left if name.key in confirmed] == []
        assert {name.stream for name in left} == {"readings"}
        assert len(left) == 2


def test_the_oldest_date_gives_way_first_and_every_sum_is_kept(tmp_path: Path) -> None:
    house = House()
    with _open(tmp_path, house) as outbox:
        house.sealed_by_the_hour(outbox, 3)
        house.sealed_by_the_hour(outbox, 3, first=24)
        assert _ladder(outbox).step(MIDNIGHT_MS)
        rolled = [name for name in _names(tmp_path) if name.is_rolled_up]
        assert {name.day for name in rolled} == {date(2026, 11, 22)}
        assert _counted(tmp_path) == _of(house)
        _to_the_end(_ladder(outbox))
        assert _counted(tmp_path) == _of(house)
    assert [(n.stream, n.day.day, n.first_seq, n.last_seq) for n in _names(tmp_path)] == [
        ("readings", 23, 901, 1080),  # of the newest seal: its name says how far is sealed
        ("readings_15min", 22, 1, 540),
        ("readings_15min", 23, 541, 900),
    ]


def test_readings_of_every_second_become_minutes_and_then_quarters(tmp_path: Path) -> None:
    house = House()
    with _open(tmp_path, house) as outbox:
        house.sealed_by_the_hour(outbox, 2, step_s=1)
        ladder = _ladder(outbox)
        assert ladder.step(MIDNIGHT_MS)
        assert [name.stream for name in _names(tmp_path)] == ["readings", "readings_1min"]
        assert _counted(tmp_path) == _of(house)
        assert ladder.step(MIDNIGHT_MS)
        assert [name.stream for name in _names(tmp_path)] == ["readings", "readings_15min"]
        assert _counted(tmp_path) == _of(house)


def test_qualities_are_kept_apart(tmp_path: Path) -> None:
    house = House()
    with _open(tmp_path, house) as outbox:
        house.add_hour(0)
        house.add_hour(0, quality="stuck")
        house.add_hour(1)
        outbox.seal_next("readings", 360, MIDNIGHT_MS)
        outbox.seal_next("readings", 540, MIDNIGHT_MS)
        _to_the_end(_ladder(outbox))
        assert _counted(tmp_path) == _of(house)


def test_warnings_never_give_way(tmp_path: Path) -> None:
    house = House(warnings=5)
    with _open(tmp_path, house) as outbox:
        outbox.seal_next("warnings", 3, MIDNIGHT_MS)
        outbox.seal_next("warnings", 5, MIDNIGHT_MS)
        while parcel := outbox.next_parcel(urgent=True):
            outbox.advance(parcel.key, MIDNIGHT_MS)
        _to_the_end(_ladder(outbox))
    assert [name.last_seq for name in _names(tmp_path)] == [3, 5]


def test_when_nothing_can_give_way_it_is_said_and_nothing_is_deleted(tmp_path: Path) -> None:
    house = House()
    with _open(tmp_path, house) as outbox:
        house.sealed_by_the_hour(outbox, 4)
        _to_the_end(_ladder(outbox))
        before = _names(tmp_path)
        _to_the_end(_ladder(outbox))
        assert _names(tmp_path) == before
        said = outbox.noted("full")
        assert said is not None
        assert "max_size_mb" in said
        n = outbox.last_seq("sync_events")
        _ladder(outbox).step(MIDNIGHT_MS)
        assert outbox.last_seq("sync_events") == n  # said once
        _ladder(outbox, AMPLE).step(MIDNIGHT_MS)
        assert outbox.noted("full") is None
        outbox.seal_next("sync_events", outbox.last_seq("sync_events"), MIDNIGHT_MS)
    with duckdb.connect() as db:
        query = f"SELECT kind FROM read_parquet('{tmp_path}/lake/sync_events/*/*/*.parquet') ORDER BY seq"
        assert [kind for (kind,) in db.execute(query).fetchall()] == ["degraded", "full", "room again"]


def test_what_a_lane_was_given_stays_as_the_cloud_may_hold_it(tmp_path: Path) -> None:
    house = House()
    with _open(tmp_path, house) as outbox:
        house.sealed_by_the_hour(outbox, 5)
        parcel = outbox.next_parcel(urgent=False)
        assert parcel is not None
        outbox.carry(parcel.key)
        _to_the_end(_ladder(outbox))
        assert parcel.path.exists()
        assert [(n.first_seq, n.last_seq) for n in _names(tmp_path) if n.is_rolled_up] == [(181, 720)]
        _confirm(outbox, 1)
        _ladder(outbox).step(MIDNIGHT_MS)
        assert not parcel.path.exists()


def test_without_a_cloud_all_may_give_way(tmp_path: Path) -> None:
    house = House()
    with _open(tmp_path, house) as outbox:
        house.sealed_by_the_hour(outbox, 3)
    (tmp_path / "sync.db").unlink()
    with _open(tmp_path, house) as outbox:  # rebuilt: of no object is it known whether it was pushed
        assert not _ladder(outbox).step(MIDNIGHT_MS)
        assert _ladder(outbox, has_cloud=False).step(MIDNIGHT_MS)


def test_rollups_are_pushed_after_all_else_and_what_they_replaced_never(tmp_path: Path) -> None:
    house = House()
    with _open(tmp_path, house) as outbox:
        house.sealed_by_the_hour(outbox, 3)
        _ladder(outbox).step(MIDNIGHT_MS)
        assert [key.split("/")[0] for key in _confirm(outbox, 2)] == ["readings", "readings_15min"]
        assert outbox.next_parcel(urgent=False) is None


def test_an_object_that_was_altered_is_left_and_spans_nothing(tmp_path: Path) -> None:
    house = House()
    with _open(tmp_path, house) as outbox:
        house.sealed_by_the_hour(outbox, 5)
        broken = tmp_path / "lake" / _names(tmp_path)[1].key
        broken.write_bytes(b"no Parquet")
        _to_the_end(_ladder(outbox))
        assert broken.read_bytes() == b"no Parquet"
        ranges = [(n.first_seq, n.last_seq) for n in _names(tmp_path) if n.is_rolled_up]
    assert all(last < 181 or first > 360 for first, last in ranges)
    assert (361, 720) in ranges


# Crashes


class Crash(BaseException):
    """The process ends here."""


def _crashing(real: Callable[..., object], *, after: bool) -> Callable[..., object]:
    def call(*args: object, **kwargs: object) -> object:
        if after:
            real(*args, **kwargs)
        raise Crash

    return call


CRASHES: dict[str, tuple[object, str, Callable[..., object], bool]] = {
    "before the new object": (outbox_module, "write_durably", write_durably, False),
    "after the new object": (outbox_module, "write_durably", write_durably, True),
    "before the note": (Outbox, "_note_object", Outbox._note_object, False),
    "in the note's transaction": (Outbox, "_insert_event", Outbox._insert_event, True),
    "before anything is deleted": (Outbox, "_clear_away", Outbox._clear_away, False),
    "before the first is deleted": (Path, "unlink", Path.unlink, False),
    "between two that are deleted": (Path, "unlink", Path.unlink, True),
    "after all were deleted": (outbox_module, "sync_folder", lake_module.sync_folder, False),
}


@pytest.mark.parametrize("is_lost", [False, True], ids=["restart", "sync.db lost"])
@pytest.mark.parametrize("point", CRASHES)
def test_a_crash_on_the_way_loses_and_doubles_nothing(
    point: str, is_lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, real, after = CRASHES[point]
    house = House()
    with _open(tmp_path, house) as outbox, monkeypatch.context() as patch:
        house.sealed_by_the_hour(outbox, 4)
        patch.setattr(owner, name, _crashing(real, after=after))
        with pytest.raises(Crash):
            _ladder(outbox).step(MIDNIGHT_MS)
    if is_lost:
        (tmp_path / "sync.db").unlink()
    with _open(tmp_path, house) as outbox:
        assert _counted(tmp_path) == _of(house)
        assert outbox.seal_next("readings", 0, MIDNIGHT_MS) in {0, 720}  # finishes what a rebuild has begun
        assert outbox.unsealed("readings") == 0
        assert {o.key for o in outbox.held()} == {n.key for n in _names(tmp_path)}
        _to_the_end(_ladder(outbox, has_cloud=False))
        assert _counted(tmp_path) == _of(house)
        assert sum(name.is_rolled_up for name in _names(tmp_path)) == 1


def test_a_full_disk_in_the_middle_leaves_the_raw_readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: Path, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    house = House()
    with _open(tmp_path, house) as outbox:
        house.sealed_by_the_hour(outbox, 3)
        ladder = _ladder(outbox)
        with monkeypatch.context() as patch:
            patch.setattr(outbox_module, "write_durably", fail)
            with pytest.raises(OSError, match="No space"):
                ladder.step(MIDNIGHT_MS)
        assert _counted(tmp_path) == _of(house)
        assert ladder.step(MIDNIGHT_MS)
        assert _counted(tmp_path) == _of(house)


def test_a_lost_sync_db_after_all_gave_way_seals_no_row_again(tmp_path: Path) -> None:
    house = House()
    with _open(tmp_path, house) as outbox:
        house.sealed_by_the_hour(outbox, 6)
        _confirm(outbox, 3)
        _to_the_end(_ladder(outbox))
    (tmp_path / "sync.db").unlink()
    before = _names(tmp_path)
    with _open(tmp_path, house) as outbox:
        outbox.seal_next("readings", len(house.readings), MIDNIGHT_MS)
        assert outbox.unsealed("readings") == 0
    assert _names(tmp_path) == before


# Retention


def test_confirmed_objects_leave_after_keep_days_one_date_at_a_time(tmp_path: Path) -> None:
    house = House()
    with _open(tmp_path, house) as outbox:
        for day in range(4):
            house.sealed_by_the_hour(outbox, 1, first=24 * day)
        _confirm(outbox, 4)
        ladder = _ladder(outbox, AMPLE)
        today = date(2036, 1, 1)  # a clock that has jumped: what counts is the newest date there is
        ladder.forget(2, today)
        assert [name.day.day for name in _names(tmp_path)] == [23, 24, 25]
        assert len(outbox.held()) == 3
        ladder.forget(2, today)
        assert [name.day.day for name in _names(tmp_path)] == [23, 24, 25]
        ladder.forget(0, today)
        ladder.forget(0, today)
        ladder.forget(0, today)
        assert [name.day.day for name in _names(tmp_path)] == [25]  # the newest seal stays


def test_what_the_cloud_has_not_confirmed_stays_whatever_its_age(tmp_path: Path) -> None:
    house = House()
    with _open(tmp_path, house) as outbox:
        for day in range(3):
            house.sealed_by_the_hour(outbox, 1, first=24 * day)
        _ladder(outbox, AMPLE).forget(0, date(2036, 1, 1))
    assert len(_names(tmp_path)) == 3


# Room


def test_all_that_is_kept_counts_and_a_nearly_full_disk_too(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "known.parquet").write_bytes(b"x" * 50_000)
    (tmp_path / "quarantine").mkdir()
    (tmp_path / "quarantine" / "house.db").write_bytes(b"x" * 40_000)
    (tmp_path / "house.db").write_bytes(b"x" * 40_000)
    room = room_on_disk(tmp_path, tmp_path / "lake", 10_000, limit_bytes=1_000_000)
    assert 90_000 <= room.used <= 130_000
    assert room.kept_free <= 200_000_000
    assert Room(5, 10, 100, 50).lack is None
    assert "max_size_mb" in (Room(11, 10, 100, 50).lack or "")
    assert "free" in (Room(5, 10, 40, 50).lack or "")
