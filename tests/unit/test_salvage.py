"""What is read back from a damaged house.db: everything that does not stand on a damaged page."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.domain import (
    Flock,
    FlockChange,
    HouseState,
    SeriesKey,
    Severity,
    Standing,
    WarningState,
    to_ms,
)
from agent.readings import Readings
from agent.store import LostRows, Store, readable_readings, salvage

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)
WATER, CO2 = SeriesKey("house1", "water"), SeriesKey("house1", "co2")
COUNT = 30_000
PAGE = 4096
PLACED = FlockChange(NOW, "place", "house1", HouseState.ACTIVE, Flock("house1", "A1", date(2026, 11, 1), 30_000))
STANDING = Standing("deviation-water", "house1", WarningState.ACTIVE, Severity.MAJOR, id="x", raised_at=NOW)
BUCKET = ("house1", "water", 600, to_ms(NOW), 3, 6.0, 1.0, 3.0, 3.0, to_ms(NOW) + 60_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a database with readings, a flock and a warning, closed in order."""
    path = tmp_path / "house.db"
    fill(path)
    return path


def fill(path: Path, count: int = COUNT) -> None:
    at_ms = to_ms(NOW) + np.arange(count, dtype=np.int64) * 1_000
    zeros = np.zeros(count, np.uint8)
    key = (np.arange(count) % 2).astype(np.int32)
    with Store.open(path) as store:
        store.append(Readings((WATER, CO2), key, at_ms, np.arange(count) / 2, zeros, zeros, at_ms), at_ms=to_ms(NOW))
        store.record(
            flock_changes=[PLACED],
            standings=[STANDING],
            buckets=[BUCKET],
            rhythms={WATER: 60.0},
            judged_at=NOW,
            commands=[("c1", "topic", "{}")],
        )


def pages_of(path: Path, table: str) -> list[int]:
    """Return the leaves of a table, in order."""
    with closing(sqlite3.connect(path)) as db:
        query = "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path"
        return [row[0] for row in db.execute(query, (table,))]


def spoil(path: Path, *pages: int, by: bytes = b"\xa5") -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * PAGE)
            file.write(by * PAGE)


def read(path: Path) -> tuple[set[float], list[LostRows]]:
    blocks = list(readable_readings(path))
    values = {value for block in blocks if isinstance(block, Readings) for value in block.value.tolist()}
    return values, [block for block in blocks if isinstance(block, LostRows)]


def test_a_sound_database_gives_everything(path: Path) -> None:
    found = salvage(path)
    assert found.unreadable == ()
    assert found.houses == found.flocks == (PLACED,)
    assert (found.standings, found.buckets, found.judged_at) == ((STANDING,), (BUCKET,), NOW)
    assert dict(found.rhythms_s) == {WATER: 60.0}
    assert found.commands == (("c1", "topic", "{}"),)
    assert dict(found.last_seqs)["readings"] == COUNT
    assert found.gateway
    assert found.generation
    values, lost = read(path)
    assert values == set((np.arange(COUNT) / 2).tolist())
    assert lost == []


def test_bad_pages_cost_only_the_rows_that_stand_on_them(path: Path) -> None:
    leaves = pages_of(path, "readings")
    spoil(path, leaves[3], leaves[len(leaves) // 2], leaves[-1])
    before = path.read_bytes()
    values, lost = read(path)
    per_leaf = COUNT / len(leaves)
    assert COUNT - 3 * 1.2 * per_leaf < len(values) < COUNT
    missing = {seq for seq in range(1, COUNT + 1) if (seq - 1) / 2 not in values}
    assert missing <= {seq for gap in lost for seq in range(gap.first_seq, gap.last_seq + 1)}
    assert path.read_bytes() == before  # nothing is written into what may be the last evidence
    assert sorted(file.name for file in path.parent.iterdir() if "mended" in file.name) == []


def test_a_bad_page_of_one_table_leaves_the_others(path: Path) -> None:
    spoil(path, *pages_of(path, "flocks"))
    found = salvage(path)
    assert found.houses == ()
    assert [table for table, _ in found.unreadable] == ["flocks"]
    assert (found.standings, found.buckets) == ((STANDING,), (BUCKET,))


@pytest.mark.parametrize("by", [b"\0", b"\xa5"])
def test_without_its_first_page_all_other_pages_are_read(path: Path, by: bytes) -> None:
    spoil(path, 1, by=by)
    found = salvage(path)
    assert found.houses == (PLACED,)
    assert found.standings == (STANDING,)
    values, lost = read(path)
    assert len(values) == COUNT
    assert lost == []
    assert [file.name for file in path.parent.iterdir() if "mended" in file.name] == []


def test_what_stands_only_in_the_wal_is_read_too(tmp_path: Path) -> None:
    """As a power cut leaves it: nobody closed the database."""
    live, cut = tmp_path / "live.db", tmp_path / "cut.db"
    fill(live)
    with Store.open(live) as store:
        later = PLACED.__class__(NOW, "state", "house1", HouseState.CATCHING, PLACED.flock)
        store.record(flock_changes=[later])
        for end in ("", "-wal"):
            cut.with_name(cut.name + end).write_bytes(live.with_name(live.name + end).read_bytes())
    assert salvage(cut).houses == (later,)


@pytest.mark.parametrize("content", [b"", b"\0" * 100_000, b"house.db"], ids=["empty", "zeroed", "text"])
def test_a_file_of_nothing_gives_nothing_and_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "house.db"
    path.write_bytes(content)
    found = salvage(path)
    assert (found.gateway, found.houses, found.standings) == (None, (), ())
    assert found.unreadable
    values, _lost = read(path)
    assert values == set()


def test_damage_anywhere_never_raises(path: Path) -> None:
    sound = path.read_bytes()
    chance = np.random.default_rng(7)
    for _ in range(40):
        spoiled = np.frombuffer(sound, np.uint8).copy()
        for _ in range(int(chance.integers(1, 6))):
            at = int(chance.integers(0, len(spoiled) - 600))
            spoiled[at : at + 600] = chance.integers(0, 256, 600)
        path.write_bytes(spoiled.tobytes())
        salvage(path)
        read(path)
