"""A house.db of every version that was ever released comes forward whole, whatever happens on the way."""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

import agent
from agent.domain import HouseState, SeriesKey, WarningState
from agent.store import STREAMS, Store, StoreReader
from agent.store.file import migrations

COPIES = Path(__file__).parents[1] / "data"
VERSIONS = sorted(int(re.findall(r"\d+", path.name)[0]) for path in COPIES.glob("house-v*.db"))
SCRIPTS = Path(agent.__file__).parent / "migrations"


def old_copy(folder: Path, version: int) -> Path:
    path = folder / "house.db"
    shutil.copyfile(COPIES / f"house-v{version}.db", path)
    return path


def content(path: Path, table: str, columns: str = "*") -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(f"SELECT {columns} FROM {table}").fetchall()


def test_every_version_that_a_migration_leaves_behind_has_its_stored_copy() -> None:
    """Else nobody will ever know again whether the farms that have it come forward."""
    missing = set(range(1, len(migrations()))) - set(VERSIONS)
    assert not missing, "run tests/data/make_house_copy.py in a checkout from before the migration, and commit the file"


def test_migrations_are_numbered_without_a_gap_and_say_what_they_are_for() -> None:
    files = sorted(SCRIPTS.glob("*.sql"))
    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))
    for file in files:
        assert file.read_text(encoding="utf-8").startswith(f"-- {file.name[:4]}: "), file.name


@pytest.mark.parametrize("version", VERSIONS)
def test_a_stored_copy_is_of_the_version_that_it_says(version: int) -> None:
    assert (COPIES / f"house-v{version}.db").stat().st_size > 0
    with closing(sqlite3.connect(f"file:{COPIES}/house-v{version}.db?mode=ro&immutable=1", uri=True)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (version,)
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        assert all(db.execute(f"SELECT EXISTS (SELECT 1 FROM {table})").fetchone() == (1,) for table in tables)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_program_of_today_brings_an_old_database_forward_with_all_that_is_in_it(
    version: int, tmp_path: Path
) -> None:
    path = old_copy(tmp_path, version)
    there = {name for (name,) in content(path, "sqlite_schema", "name")}
    tables = {"readings", "slots", "sealed_times", "series", *STREAMS} & there  # an old one has no streams of later
    before = {table: content(path, table) for table in tables}
    with Store.open(path) as store:
        known = store.restore()
        assert next(known.newer, None) is None
        assert len(list(known.buckets)) == 8
    assert known.houses["house1"].state is HouseState.THINNED
    assert known.flocks[-1].flock is not None
    assert known.flocks[-1].flock.thinned_birds == 4000
    assert [(s.rule, s.state) for s in known.standings] == [("deviation-water", WarningState.ACTIVE)]
    assert known.rhythms[SeriesKey("house2", "temperature")] == 3600.0
    assert known.commands == (("c1", "flockwatch/farm1/house1/flock/command", '{"ok": true}'),)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (len(migrations()),)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    after = {table: content(path, table) for table in before}
    assert {table: [row[: len(before[table][0])] for row in rows] for table, rows in after.items()} == before
    with StoreReader.open(path) as reader:
        for stream in set(STREAMS) & tables:
            rows = reader.rows(stream, 1, 2**62)
            assert len(rows["seq"]) == len(before[stream])


SLOW = """
CREATE TABLE later (n INTEGER PRIMARY KEY, text TEXT);
INSERT INTO later
  WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 200000) SELECT n, hex(n) FROM c;
ALTER TABLE series ADD COLUMN unit TEXT;
UPDATE series SET unit = 'l';
"""


def migrate_slowly(path: Path) -> None:
    """Open a database with a program that knows one migration more, which takes a while."""
    scripts = [*migrations(), SLOW]
    agent.store.file.migrations = lambda: scripts
    print("begun", flush=True)
    Store.open(path).close()


def test_a_migration_that_is_killed_leaves_the_old_database_or_the_new_one(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(agent.__file__).parents[1])}
    chance = random.Random(11)
    path = old_copy(tmp_path, VERSIONS[-1])
    Store.open(path).close()
    newest = path.read_bytes()
    series, readings = content(path, "series"), content(path, "readings")
    ended: list[int] = []
    whole_s = 30.0  # as long as it takes, the first time; then it is killed within that
    for _ in range(8):
        for leftover in tmp_path.glob("house.db*"):
            leftover.unlink()
        path.write_bytes(newest)
        command = [sys.executable, __file__, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == "begun\n"
            began = time.monotonic()
            try:
                program.wait(whole_s if not ended else whole_s * chance.uniform(0.1, 1.0))
            except subprocess.TimeoutExpired:
                program.kill()
            program.wait()
        whole_s = time.monotonic() - began if not ended else whole_s
        with closing(sqlite3.connect(path)) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            later = db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'later'").fetchone()[0]
            assert later == version - len(migrations())
            if later:
                assert db.execute("SELECT count(*) FROM later").fetchone() == (200_000,)
        ended.append(later)
        assert [row[: len(series[0])] for row in content(path, "series")] == series
        assert content(path, "readings") == readings
    assert ended[0] == 1
    assert 0 in ended


if __name__ == "__main__":
    migrate_slowly(Path(sys.argv[1]))
