"""Rows into Parquet objects: types, names, bytes."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from agent.store import LAKE_COLUMNS
from sync.lake import ObjectName, UnsealableRows, encode, part_of, write_durably

if TYPE_CHECKING:
    from pathlib import Path

MIDNIGHT_MS = 1_795_305_600_000  # 2026-11-22T00:00:00Z
DUCKDB_TYPES = {
    "timestamp": "TIMESTAMP WITH TIME ZONE",
    "string": "VARCHAR",
    "float64": "DOUBLE",
    "int64": "BIGINT",
    "int32": "INTEGER",
    "int8": "TINYINT",
}


def _query(query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as db:
        return list(db.execute(query).fetchall())


def _readings(n: int, first_ms: int = MIDNIGHT_MS, step_ms: int = 1_000) -> dict[str, list[Any]]:
    return {
        "at": [first_ms + i * step_ms for i in range(n)],
        "received_at": [first_ms + i * step_ms + 7 for i in range(n)],
        "house": [f"house{i % 2 + 1}" for i in range(n)],
        "signal": ["water"] * n,
        "value": [i / 10 for i in range(n)],
        "quality": ["good"] * n,
        "time_quality": ["sender"] * n,
        "seq": list(range(1, n + 1)),
    }


def _one_row(stream: str) -> dict[str, list[Any]]:
    values = {"timestamp": MIDNIGHT_MS, "string": "text", "float64": 1.5, "int64": 2**40, "int32": 70_000, "int8": 4}
    return {name: [values[kind]] for name, kind in LAKE_COLUMNS[stream]}


@pytest.mark.parametrize("stream", LAKE_COLUMNS)
def test_every_stream_reads_back_with_its_types_in_its_order(stream: str, tmp_path: Path) -> None:
    rows = _one_row(stream)
    ((day, (n, data)),) = encode(stream, LAKE_COLUMNS[stream], rows).items()
    (tmp_path / "x.parquet").write_bytes(data)
    assert (day, n) == (date(2026, 11, 22), 1)
    source = f"FROM read_parquet('{tmp_path}/x.parquet')"
    found = [(name, kind) for name, kind, *_ in _query(f"DESCRIBE {source}")]
    assert found == [(name, DUCKDB_TYPES[kind]) for name, kind in LAKE_COLUMNS[stream]]
    wanted = [f'epoch_ms("{name}")' if kind == "timestamp" else f'"{name}"' for name, kind in LAKE_COLUMNS[stream]]
    assert _query(f"SELECT {', '.join(wanted)} {source}") == [tuple(value[0] for value in rows.values())]


@pytest.mark.parametrize("stream", LAKE_COLUMNS)
def test_everything_but_time_and_number_may_be_unknown(stream: str, tmp_path: Path) -> None:
    rows = {name: (value if name in {"at", "seq"} else [None]) for name, value in _one_row(stream).items()}
    if stream == "readings":
        rows["house"] = ["house1"]  # they stand in its order
    ((_, (_, data)),) = encode(stream, LAKE_COLUMNS[stream], rows).items()
    (tmp_path / "x.parquet").write_bytes(data)
    unknown = [name for name in rows if name not in {"at", "seq", "house"}]
    columns = '"' + '", "'.join(unknown) + '"'
    assert _query(f"SELECT {columns} FROM read_parquet('{tmp_path}/x.parquet')") == [(None,) * len(unknown)]


def test_one_object_for_each_utc_date() -> None:
    rows = _readings(6, MIDNIGHT_MS - 3_000)
    found = encode("readings", LAKE_COLUMNS["readings"], rows)
    assert {day: n for day, (n, _) in found.items()} == {date(2026, 11, 21): 3, date(2026, 11, 22): 3}


def test_times_before_1970_have_their_date() -> None:
    found = encode("readings", LAKE_COLUMNS["readings"], _readings(1, -1))
    assert list(found) == [date(1969, 12, 31)]


def test_the_same_rows_give_the_same_bytes() -> None:
    """Many times over: what the writer takes from a hash table comes in another order now and then."""
    first, *others = [encode("readings", LAKE_COLUMNS["readings"], _readings(500)) for _ in range(50)]
    assert all(other == first for other in others)


def test_an_object_says_its_stream_and_schema_and_no_version_of_its_writer(tmp_path: Path) -> None:
    ((_, (_, data)),) = encode("readings", LAKE_COLUMNS["readings"], _readings(10)).items()
    (tmp_path / "x.parquet").write_bytes(data)
    metadata = _query(f"SELECT key, value FROM parquet_kv_metadata('{tmp_path}/x.parquet')")
    assert metadata == [(b"flockwatch.schema", b"readings/1")]
    writer = _query(f"SELECT created_by FROM parquet_file_metadata('{tmp_path}/x.parquet')")
    assert writer == [("flockwatch",)]


def test_readings_stand_by_house_and_in_their_order_of_arrival(tmp_path: Path) -> None:
    ((_, (_, data)),) = encode("readings", LAKE_COLUMNS["readings"], _readings(6)).items()
    (tmp_path / "x.parquet").write_bytes(data)
    found = _query(f"SELECT house, seq FROM read_parquet('{tmp_path}/x.parquet')")
    assert found == [(f"house{h}", seq) for h, seqs in ((1, (1, 3, 5)), (2, (2, 4, 6))) for seq in seqs]


def test_no_rows_give_no_object() -> None:
    assert encode("readings", LAKE_COLUMNS["readings"], _readings(0)) == {}


@pytest.mark.parametrize(
    ("column", "value"),
    [("value", "12"), ("house", 3), ("at", 10**17), ("at", None), ("seq", None), ("seq", 2**70), ("signal", "\ud800")],
)
def test_a_value_that_does_not_fit_is_named(column: str, value: object) -> None:
    rows = _readings(3)
    rows[column][1] = value
    with pytest.raises(UnsealableRows, match="readings: a value does not fit"):
        encode("readings", LAKE_COLUMNS["readings"], rows)


def test_an_hour_of_a_real_farm_costs_at_most_two_bytes_a_reading() -> None:
    """20 houses x 60 signals, one message a house and minute, stamps some ms off the minute; the goal of the lake."""
    rows: dict[str, list[Any]] = {name: [] for name, _ in LAKE_COLUMNS["readings"]}
    for minute in range(60):
        for house in range(20):
            at = MIDNIGHT_MS + minute * 60_000 + house * 977 + (minute * 7_919 + house * 104_729) % 900
            for signal in range(60):
                level = 10 + signal + (minute * 31 * (house + 3) * (signal + 5)) % 17 / 10
                values = (at, at + 3 + minute % 20, f"house{house}", f"signal-{signal}", level, "good", "sender")
                for name, value in zip(rows, values, strict=False):
                    rows[name].append(value)
    rows["seq"] = list(range(1, len(rows["at"]) + 1))
    ((_, (n, data)),) = encode("readings", LAKE_COLUMNS["readings"], rows).items()
    assert n == 72_000
    assert len(data) / n < 2.0


def test_a_name_is_read_back() -> None:
    name = ObjectName("warnings", "farm-1_a", date(2026, 11, 22), "0a1b2c3d4e5f", "01234567", 17, 1_000_000)
    assert name.key == "warnings/site=farm-1_a/date=2026-11-22/0a1b2c3d4e5f-01234567-17-1000000.parquet"
    assert ObjectName.parse(name.key) == name


@pytest.mark.parametrize(
    "key",
    [
        "status/0a1b/latest.json",
        "warnings/site=a/date=2026-11-22/0a-01-1-2.parquet.part",
        "warnings/site=a/date=2026-13-22/0a-01-1-2.parquet",
        "warnings/site=a/date=2026-11-22/daily.parquet",
    ],
)
def test_another_name_is_no_object(key: str) -> None:
    assert ObjectName.parse(key) is None


def test_a_durable_file_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.parquet"
    write_durably(path, b"one")
    write_durably(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["x.parquet"]


def test_a_half_written_file_is_seen_by_no_reader_of_the_lake(tmp_path: Path) -> None:
    part = part_of(tmp_path / "site=a" / "x.parquet")
    assert part.name.startswith(".")
    assert part.suffix != ".parquet"


def test_midnight_is_midnight() -> None:
    """The number on which the dates above hang."""
    assert datetime.fromtimestamp(MIDNIGHT_MS / 1000, UTC) == datetime(2026, 11, 22, tzinfo=UTC)
