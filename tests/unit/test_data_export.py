"""What lies in the databases can be seen and taken home, once each, beside a running agent."""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from arro3.io import read_parquet

from agent.cli import main
from agent.config import Config, Data
from agent.domain import (
    About,
    Flock,
    FlockChange,
    HouseState,
    Prediction,
    Reason,
    SeriesKey,
    WarningEvent,
    WarningState,
    to_ms,
)
from agent.errors import InputError, StoreError, UsageError
from agent.export import export, export_replay
from agent.fitness import FitDay, FitFlock
from agent.history import lake_objects, read_object, sealed_up_to
from agent.readings import Readings
from agent.replay_files import read_events, read_flocks, spool_readings
from agent.store import LAKE_COLUMNS, STREAMS, Segment, Store, StoreReader
from agent.store.tables import PURPOSES, Selection, rows_of, tables_of
from sync.lake import encode
from sync.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)
T = to_ms(NOW)
MINUTE_MS = 60_000
KEYS = tuple(SeriesKey(house, signal) for house in ("house1", "house2") for signal in ("water", "temperature"))
EVERYTHING = Selection()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Give the configuration of a data directory with a row of everything in it, of which nothing is sealed."""
    data = tmp_path / "data"
    data.mkdir()
    copies = sorted((Path(__file__).parents[1] / "data").glob("house-v*.db"))
    shutil.copyfile(copies[-1], data / "house.db")
    with Store.open(data / "house.db") as store:
        clock = Segment(0, "boot", to_ms(NOW), trusted=True, synchronised=True, began_ms=to_ms(NOW))
        store.note_clock(clock, delta_ms=0, why="the agent was started")
        known = store.restore()
        made = Prediction("house1", "A1", NOW, 19, "weight_g", NOW, "7d", 1.0, 2.0, 3.0, "weight", "1.1.0", 0.9)
        said = WarningEvent(NOW, WarningState.PENDING, known.standings[0], Reason.ON_DELAY_OVER, About.BIRDS, "water",
                            19, "house1 drinks too little", (), "the drinker lines")  # fmt: skip
        fits: list[FitDay | FitFlock] = [
            FitDay("house1", "weight/1.0.0", T, "A1"),
            FitFlock("house1", "weight/1.0.0", "A1", T),
        ]
        store.record(shadow_warnings=[said], shadow_standings=known.standings, shadow_predictions=[made], fitness=fits)
    with closing(sqlite3.connect(data / "house.db")) as db, db:  # the oldest copies have no rollups
        db.execute("INSERT INTO readings_15min VALUES (NULL, 1, ?, 0, 2, 1.0, 2.0, 3.0)", (T - T % 900_000,))
    return Config(data=Data(directory=data))


def minutes(first: int, n: int) -> Readings:
    """Return a reading a minute of each series, from minute ``first`` on."""
    minute = np.repeat(np.arange(first, first + n, dtype=np.int64), len(KEYS))
    key = np.tile(np.arange(len(KEYS), dtype=np.int32), n)
    zeros = np.zeros(len(key), np.uint8)
    return Readings(KEYS, key, T + minute * MINUTE_MS, minute / 8 + key, zeros, zeros, T + minute * MINUTE_MS + 7)


def seal(config: Config, at: datetime = NOW) -> None:
    """Seal all that there is, as the courier does."""
    data = config.data
    with (
        StoreReader.open(data.house_db) as store,
        Outbox.open(data.sync_db, data.lake, store, config.site.id) as outbox,
    ):
        for stream in STREAMS:
            while outbox.unsealed(stream):
                outbox.seal_next(stream, store.last_seq(stream), to_ms(at))


def identities(rows: list[dict[str, Any]]) -> list[tuple[str, str, str, float]]:
    return sorted((row["at"], row["house"], row["signal"], float(row["value"])) for row in rows)


def of_csv(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- tables and rows --------------------------------------------------------------------------------------------------


def test_every_table_is_listed_with_its_size_and_what_it_is_for(config: Config) -> None:
    seal(config)
    facts = tables_of(config.data.house_db) + tables_of(config.data.sync_db)
    assert {one.name for one in facts} == set(PURPOSES), "a new table needs a line in PURPOSES, agent/store/tables.py"
    assert all(one.purpose for one in facts)
    assert all(one.bytes is not None and one.bytes >= 4096 for one in facts)
    readings = next(one for one in facts if one.name == "readings")
    with closing(sqlite3.connect(config.data.house_db)) as db:
        wanted = db.execute("SELECT count(*), min(at_ms), max(at_ms) FROM readings").fetchone()
    assert (readings.rows, readings.oldest_ms, readings.newest_ms) == wanted


@pytest.mark.parametrize("table", sorted(PURPOSES))
def test_every_table_shows_its_rows_in_words(config: Config, table: str) -> None:
    seal(config)
    at_rest = {"intents", "set_aside", "sync_events", "replacing", "doomed"}  # of sync, with nothing under way or wrong
    is_of_sync = table in {"watermarks", "objects", *at_rest}
    rows = rows_of(config.data.sync_db if is_of_sync else config.data.house_db, table, EVERYTHING, 5)
    assert rows or table in {"births", *at_rest}  # no Sparkplug node
    json.dumps(rows)
    assert not [name for row in rows for name in row if name.endswith("_ms")]


def test_rows_come_newest_first_with_names_for_numbers_and_times_for_milliseconds(config: Config) -> None:
    newest = rows_of(config.data.house_db, "readings", EVERYTHING, 1)[0]
    assert (newest["house"], newest["signal"], newest["quality"], newest["time_quality"]) == (
        "house2", "temperature", "good", "late",
    )  # fmt: skip
    assert newest["at"] == "2026-11-18T09:30:00.000Z"
    assert "series" not in newest


def test_rows_are_selected_by_time_house_and_signal(config: Config) -> None:
    since = T - 10 * 3_600_000
    chosen = rows_of(config.data.house_db, "readings", Selection(since, None, "house2", "water"), 1000)
    with closing(sqlite3.connect(config.data.house_db)) as db:
        number = db.execute("SELECT id FROM series WHERE house = 'house2' AND signal = 'water'").fetchone()[0]
        wanted = "SELECT seq FROM readings WHERE series = ? AND at_ms >= ? ORDER BY seq DESC"
        assert [row["seq"] for row in chosen] == [seq for (seq,) in db.execute(wanted, (number, since))]
    assert len(rows_of(config.data.house_db, "slots", Selection(since_ms=since), 1000)) < 54


@pytest.mark.parametrize("hostile", ["readings; DROP TABLE readings", "readings]--", "sqlite_schema", "", "READINGS "])
def test_what_is_no_table_is_refused_with_those_that_there_are(config: Config, hostile: str) -> None:
    with pytest.raises(UsageError, match=r"there are .*readings"):
        rows_of(config.data.house_db, hostile, EVERYTHING, 5)


def test_a_hostile_house_or_signal_is_a_name_and_nothing_else(config: Config) -> None:
    for hostile in ("' OR 1=1 --", "x'; DELETE FROM readings; --", '"'):
        assert rows_of(config.data.house_db, "readings", Selection(house=hostile), 5) == []
        assert rows_of(config.data.house_db, "events", Selection(signal=hostile), 5) == []
    assert len(rows_of(config.data.house_db, "readings", EVERYTHING, 1000)) == 216


def test_a_selection_that_a_table_cannot_make_is_an_error_and_no_silence(config: Config) -> None:
    with pytest.raises(UsageError, match="--since"):
        rows_of(config.data.house_db, "meta", Selection(since_ms=1), 5)
    with pytest.raises(UsageError, match="--signal"):
        rows_of(config.data.house_db, "flocks", Selection(signal="water"), 5)


def test_looking_changes_no_byte_and_needs_no_pause_of_the_writer(config: Config) -> None:
    path = config.data.house_db
    before = path.read_bytes()
    tables_of(path)
    rows_of(path, "readings", EVERYTHING, 5)
    assert path.read_bytes() == before
    with Store.open(path) as store:
        store.append(minutes(0, 1), at_ms=T)
        assert tables_of(path)[2].rows == 220
        assert rows_of(path, "readings", EVERYTHING, 1)[0]["seq"] == store.last_seq
        with closing(sqlite3.connect(path, isolation_level=None)) as other:  # even in the middle of its transaction
            other.execute("BEGIN IMMEDIATE")
            other.execute("DELETE FROM readings")
            assert tables_of(path)[2].rows == 220
            other.execute("ROLLBACK")


def test_no_database_is_one_clear_error(tmp_path: Path) -> None:
    for look in (
        lambda: tables_of(tmp_path / "house.db"),
        lambda: rows_of(tmp_path / "house.db", "meta", EVERYTHING, 1),
    ):
        with pytest.raises(StoreError, match="no such database"):
            look()
    assert not list(tmp_path.iterdir())


# --- export -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def half_sealed(config: Config) -> Config:
    """Give a house of which 100 minutes are sealed and pruned, 100 sealed and still there, 100 not sealed."""
    with Store.open(config.data.house_db) as store:
        for first in (0, 5000):
            seq = store.append(minutes(first, 100), at_ms=T).last_seq
            store.record(observed_seq=seq)
        seal(config)
        assert store.prune(NOW + timedelta(minutes=5100), keep_hours=48) > 400
        store.append(minutes(5100, 100), at_ms=T)
    return config


def _rows(readings: Readings) -> Iterator[tuple[str, str, str, float]]:
    for key, at_ms, value in zip(readings.key, readings.at_ms, readings.value, strict=True):
        at = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat().replace("+00:00", "Z")
        yield at, *readings.keys[key], float(value)


def test_each_reading_is_exported_once_whether_it_is_pruned_sealed_or_new(half_sealed: Config, tmp_path: Path) -> None:
    done = export(half_sealed, "readings", "csv", tmp_path / "r.csv", EVERYTHING)
    rows = identities(of_csv(tmp_path / "r.csv"))
    assert done.rows == len(rows) == len({row[:3] for row in rows})
    assert set(_all_minutes()) <= set(rows)
    assert len(rows) == len(_all_minutes()) + 216
    assert done.left_out == []


def _all_minutes() -> list[tuple[str, str, str, float]]:
    return [row for first, n in ((0, 100), (5000, 200)) for row in _rows(minutes(first, n))]


def test_all_formats_say_the_same(half_sealed: Config, tmp_path: Path) -> None:
    for form in ("csv", "json", "parquet"):
        export(half_sealed, "readings", form, tmp_path / f"r.{form}", EVERYTHING)
    from_json = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    with (tmp_path / "r.parquet").open("rb") as file:
        batches = list(read_parquet(file))
    names = [name for name, _ in LAKE_COLUMNS["readings"]]
    columns = {name: [v for batch in batches for v in batch.column(name).to_pylist()] for name in names}
    from_parquet = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for row in from_parquet:
        row["at"] = row["at"].isoformat().replace("+00:00", "Z")
    assert list(from_json[0]) == names
    assert identities(from_json) == identities(of_csv(tmp_path / "r.csv")) == identities(from_parquet)


@pytest.mark.parametrize("stream", STREAMS)
def test_an_exported_parquet_file_has_the_columns_of_the_lake(config: Config, tmp_path: Path, stream: str) -> None:
    with StoreReader.open(config.data.house_db) as store:
        _, sealed = next(iter(encode(stream, LAKE_COLUMNS[stream], store.rows(stream, 1, 1000)).values()))
    (tmp_path / "sealed.parquet").write_bytes(sealed)
    export(config, stream, "parquet", tmp_path / "x.parquet", EVERYTHING)
    schemas = []
    for name in ("sealed.parquet", "x.parquet"):
        with (tmp_path / name).open("rb") as file:
            schemas.append(repr(read_parquet(file).schema))
    assert schemas[0] == schemas[1]


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("form", ["csv", "json"])
def test_every_stream_exports_whole(config: Config, tmp_path: Path, stream: str, form: str) -> None:
    done = export(config, stream, form, tmp_path / "x", EVERYTHING)
    with StoreReader.open(config.data.house_db) as store:
        assert done.rows == len(store.rows(stream, 1, 2**62)["seq"]) > 0


def test_a_selection_bounds_what_is_exported_in_the_lake_and_beyond(half_sealed: Config, tmp_path: Path) -> None:
    since, until = T + 50 * MINUTE_MS, T + 5150 * MINUTE_MS
    export(half_sealed, "readings", "csv", tmp_path / "r.csv", Selection(since, until, "house1", "water"))
    first, last = (datetime.fromtimestamp(at / 1000, UTC).isoformat().replace("+00:00", "Z") for at in (since, until))
    wanted = [row for row in _all_minutes() if row[1:3] == ("house1", "water") and first <= row[0] < last]
    assert identities(of_csv(tmp_path / "r.csv")) == sorted(wanted)
    assert len(wanted) == 200


def test_without_sync_db_no_reading_is_lost_or_doubled(half_sealed: Config, tmp_path: Path) -> None:
    half_sealed.data.sync_db.unlink()
    export(half_sealed, "readings", "csv", tmp_path / "r.csv", EVERYTHING)
    rows = identities(of_csv(tmp_path / "r.csv"))
    assert len(rows) == len({row[:3] for row in rows}) == len(_all_minutes()) + 216


def test_a_seal_that_is_under_way_doubles_nothing(half_sealed: Config, tmp_path: Path) -> None:
    """Objects of an intent lie in the lake before the watermark moves."""
    with closing(sqlite3.connect(half_sealed.data.sync_db)) as db, db:
        before = db.execute("SELECT sealed_seq FROM watermarks WHERE stream = 'readings'").fetchone()[0]
    seal(half_sealed)
    with closing(sqlite3.connect(half_sealed.data.sync_db)) as db, db:
        db.execute("UPDATE watermarks SET sealed_seq = ? WHERE stream = 'readings'", (before,))
    export(half_sealed, "readings", "csv", tmp_path / "r.csv", EVERYTHING)
    rows = identities(of_csv(tmp_path / "r.csv"))
    assert len(rows) == len({row[:3] for row in rows}) == len(_all_minutes()) + 216


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "a garbled page"])
def test_a_damaged_object_is_left_out_and_named_and_all_else_is_there(
    half_sealed: Config, tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    victim = lake_objects(half_sealed.data.lake, "readings")[0].path
    content = victim.read_bytes()
    victim.write_bytes(
        {
            "truncated": content[:-9],
            "empty": b"",
            "garbage": b"PAR1" + b"\xff" * 200 + (1 << 30).to_bytes(4, "little") + b"PAR1",
            "a garbled page": content[:4] + b"\xff" * 60 + content[64:],
        }[damage]
    )
    toml = tmp_path / "agent.toml"
    toml.write_text(f'[data]\ndirectory = "{half_sealed.data.directory}"\n')
    code = main(["data", "export", "readings", "--config", str(toml), "--out", str(tmp_path / "r.csv")])
    assert code == 1
    assert f"left out: {victim}" in capfd.readouterr().err
    assert set(_rows(minutes(5000, 200))) <= set(identities(of_csv(tmp_path / "r.csv")))


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing_behind(config: Config, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--out .*nowhere"):
        export(config, "readings", "csv", tmp_path / "nowhere" / "r.csv", EVERYTHING)
    with pytest.raises(UsageError, match="flocks have no signal"):
        export(config, "flocks", "csv", tmp_path / "f.csv", Selection(signal="water"))
    (tmp_path / "r.csv").mkdir()
    with pytest.raises(UsageError, match=r"r\.csv"):
        export(config, "readings", "csv", tmp_path / "r.csv", EVERYTHING)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


BOUNDED = """
import resource, sys
from pathlib import Path
from agent.config import Config, Data
from agent.export import export
from agent.store.tables import Selection
config = Config(data=Data(directory=Path(sys.argv[1])))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
done = export(config, "readings", sys.argv[2], Path(sys.argv[1]) / "out", Selection())
print(done.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_an_export_of_many_readings_needs_no_memory_for_them(config: Config, form: str) -> None:
    """200,000 readings as Python objects would be over 80 MB."""
    with closing(sqlite3.connect(config.data.house_db)) as db, db:
        db.execute("DELETE FROM readings")
        db.execute(
            "INSERT INTO readings WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 200000)"
            " SELECT n + 1000, 1 + n % 4, ? + n, ? + n, n / 7.0, 0, 0 FROM c",
            (T, T),
        )
        db.execute("UPDATE meta SET value = '201000' WHERE key = 'seen_seq'")
    command = [sys.executable, "-c", BOUNDED, str(config.data.directory), form]
    rows, kilobytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert int(rows) == 200_000
    assert int(kilobytes) < 50_000


def test_the_lake_is_sealed_up_to_the_last_whole_range(half_sealed: Config) -> None:
    lake = half_sealed.data.lake
    seal(half_sealed)
    objects = lake_objects(lake, "readings")
    newest = max(one.first_seq for one in objects)
    last = max(one.last_seq for one in objects)
    assert sealed_up_to(lake, "readings", objects[0].generation) == last
    assert sealed_up_to(lake, "readings", "0000") == sealed_up_to(lake, "readings", None) == 0
    one = next(one for one in objects if one.first_seq == newest)
    columns = LAKE_COLUMNS["readings"]
    block = next(read_object(one.path, [name for name, _ in columns]))
    part = {name: values[1:] for name, values in block.items()}  # a crash between two objects of a seal leaves a part
    one.path.write_bytes(next(iter(encode("readings", columns, part).values()))[1])
    assert sealed_up_to(lake, "readings", one.generation) == newest - 1
    one.path.write_bytes(b"damaged")
    assert sealed_up_to(lake, "readings", one.generation) == newest - 1


def test_a_column_that_an_older_object_lacks_is_empty(half_sealed: Config) -> None:
    one = lake_objects(half_sealed.data.lake, "readings")[0]
    block = next(read_object(one.path, ("at", "seq", "later")))
    assert set(block["later"]) == {None}
    assert isinstance(block["at"][0], int)
    with pytest.raises(InputError, match="cannot be read"):
        next(read_object(one.path.with_name("none.parquet"), ("at",)))


# --- replay -----------------------------------------------------------------------------------------------------------


def test_a_farms_life_is_exported_as_the_commands_that_were_given(config: Config, tmp_path: Path) -> None:
    days = config.site.days
    a = Flock("house2", "B1", date(2026, 9, 1), 20_000, "cobb500", "male", 40.0, date(2026, 10, 10))
    b = Flock("house2", "B2", date(2026, 10, 20), 21_000)
    ended = datetime(2026, 10, 9, 22, 0, tzinfo=UTC)
    a_ended = replace(a, ended_at=ended, slaughter_weight_g=2480.0)

    def at(day: date, hour: int) -> datetime:
        return days.start_of(day) + timedelta(hours=hour)

    changes = [
        FlockChange(at(date(2026, 8, 30), 9), "state", "house2", HouseState.PREHEAT, None, {"by": None}),
        FlockChange(at(date(2026, 9, 1), 9), "place", "house2", HouseState.ACTIVE, a, {"by": None}),
        FlockChange(at(date(2026, 9, 3), 9), "record", "house2", HouseState.ACTIVE, a,
                    {"date": "2026-09-02", "dead": 12, "culled": 3, "by": "Anna"}),
        FlockChange(at(date(2026, 10, 2), 9), "state", "house2", HouseState.CATCHING, a, {"by": None}),
        FlockChange(at(date(2026, 10, 3), 9), "state", "house2", HouseState.ACTIVE, a, {"reason": "thinned for a day"}),
        FlockChange(at(date(2026, 10, 11), 9), "end", "house2", HouseState.EMPTY, a_ended, {"by": None}),
        FlockChange(at(date(2026, 10, 20), 9), "place", "house2", HouseState.ACTIVE, b, {"by": None}),
    ]  # fmt: skip
    with Store.open(config.data.house_db) as store:
        store.record(flock_changes=changes)
    export_replay(config, tmp_path / "out", EVERYTHING)
    flocks = {(f.flock.house, f.flock.flock): f for f in read_flocks(tmp_path / "out" / "flocks.csv")}
    assert set(flocks) == {("house1", "A1"), ("house2", "B1"), ("house2", "B2")}
    first = flocks["house2", "B1"]
    assert (first.ended_on, first.slaughter_weight_g) == (date(2026, 10, 9), 2480.0)
    assert (first.flock.strain, first.flock.sex, first.flock.parent_age_weeks) == ("cobb500", "male", 40.0)
    assert flocks["house2", "B2"].ended_on is None
    events = read_events(tmp_path / "out" / "events.csv", days.zone)
    told = [(command.action, moment) for moment, house, command in events if house == "house2"]
    assert told == [
        ("state", at(date(2026, 8, 30), 9)),
        ("record", at(date(2026, 9, 3), 9)),
        ("state", at(date(2026, 10, 2), 9)),
        ("end", at(date(2026, 10, 11), 9)),
    ]
    thinned = next(command for _, house, command in events if house == "house1")
    assert thinned.model_dump(exclude_none=True) == {
        "action": "thin", "flock": "A1", "at": NOW, "birds": 4000, "by": "Anna",
    }  # fmt: skip
    recording = spool_readings(tmp_path / "out" / "readings.csv", tmp_path, days.zone)
    assert recording.count == 216
