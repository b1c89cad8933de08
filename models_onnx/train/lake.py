"""The one door to Ibis: what a lake holds, as expressions; DuckDB runs them on one machine, Spark on many.

The expressions only select, correct and order rows. What a model is shown of them is made by the agent's own windows
(``models_onnx.train.course``), so that a feature means the same in training as on the gateway.

On Spark, give the same tables from a Spark connection, with the name of each row's object beside its columns::

    rows = session.read.parquet(f"{url}/readings").withColumn("object", input_file_name())
    tables = Tables(*(connection.table(name) for name in ("readings", "flocks", "events")))
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import ibis
import numpy as np
import pyarrow as pa

from agent.domain import Quality, SeriesKey, TimeQuality, to_ms
from agent.errors import InputError
from agent.readings import Readings
from agent.window import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ibis.expr.types import IntegerValue, Table, TimestampValue

STREAMS = ("readings", "flocks", "events")
_OBJECT = r"([0-9a-z]+)-([0-9a-z]+)-\d+-\d+\.parquet$"  # gateway and generation: DESIGN of the names, docs/lake.md
_OWN_TIME = ("arrival", "untrusted")  # times of these readings are the gateway's: they move when it is corrected
_QUALITY = {quality.name.lower(): int(quality) for quality in Quality}
_TIME_QUALITY = {quality.name.lower(): int(quality) for quality in TimeQuality}


@dataclass(frozen=True, slots=True)
class Tables:
    """The streams of a lake (docs/lake.md), each with the columns ``site`` and ``object``, its row's file name."""

    readings: Table
    flocks: Table
    events: Table


def open_folder(lake: Path, scratch: Path) -> Tables:
    """Return the tables of a lake in a folder, read by DuckDB, which keeps what it works out in a file, ``scratch``.

    Raises:
        InputError: it holds no readings or no flocks; the message says what to do.
    """
    connection = ibis.duckdb.connect(scratch)
    tables = []
    for stream in STREAMS:
        if not any((lake / stream).glob("site=*/date=*/*.parquet")):
            if stream == "events":  # nothing ever happened to its readings
                tables.append(_no_events())
                continue
            message = f"{lake}: holds no {stream}; give the folder or URL that holds readings/, flocks/ and events/"
            raise InputError(message)
        found = connection.read_parquet(
            str(lake / stream / "*/*/*.parquet"), hive_partitioning=True, hive_types_autocast=False, filename="object"
        )
        tables.append(found)
    return Tables(*tables)


def _no_events() -> Table:
    names = ("site", "object", "kind", "detail")
    return ibis.memtable(pa.table({name: pa.array([], pa.string()) for name in names}))


def _ms(at: TimestampValue) -> IntegerValue:
    """Return milliseconds since 1970: what identifies a reading, and what every engine can count with."""
    return at.epoch_seconds() * 1000 + at.millisecond()


def sites_of(tables: Tables) -> list[str]:
    """Return the sites that have had flocks, in order."""
    return sorted(row["site"] for row in tables.flocks.select("site").distinct().to_pyarrow().to_pylist())


def true_readings(tables: Tables, site: str) -> Table:
    """Return a site's readings at their true times, each once: ``at_ms, received_ms, house, signal, value, …``.

    What two generations hold both (an older copy of a database was put back) is there once, the first to arrive. Times
    that the gateway itself gave and corrected later are corrected; those that nobody could ever trust are left out.
    """
    rows = tables.readings.filter(tables.readings.site == site)
    rows = rows.mutate(at_ms=_ms(rows.at), received_ms=_ms(rows.received_at))
    rows = rows.select("at_ms", "received_ms", "house", "signal", "value", "quality", "time_quality", "object", "seq")
    shifts = corrections_of(tables, site)
    if shifts is not None:
        rows = _corrected(rows, shifts)
    rows = rows.filter(rows.time_quality != "untrusted")
    first = ibis.row_number().over(
        group_by=[rows.house, rows.signal, rows.at_ms], order_by=[rows.received_ms, rows.object, rows.seq]
    )
    rows = rows.mutate(copy=first)
    return rows.filter(rows.copy == 0).drop("copy")


def corrections_of(tables: Tables, site: str) -> Table | None:
    """Return by how much sealed readings were wrong in time: ``gateway, generation, first_seq, last_seq, delta_ms``."""
    events = tables.events.filter((tables.events.site == site) & (tables.events.kind == "clock_corrected"))
    found = []
    for row in events.select("object", "detail").to_pyarrow().to_pylist():
        detail = json.loads(row["detail"])
        if detail.get("sealed_to_seq") is None or detail["sealed_to_seq"] < detail["first_seq"]:
            continue
        name = row["object"].rpartition("/")[2].split("-")
        found.append(
            {
                "gateway": name[0],
                "generation": name[1],
                "first_seq": int(detail["first_seq"]),
                "last_seq": int(detail["sealed_to_seq"]),
                "delta_ms": int(detail["delta_ms"]),
            }
        )
    return ibis.memtable(pa.Table.from_pylist(found)) if found else None


def _corrected(rows: Table, shifts: Table) -> Table:
    """Return the rows with what was found out about their times: a row may have been moved more than once."""
    rows = rows.mutate(gateway=rows.object.re_extract(_OBJECT, 1), generation=rows.object.re_extract(_OBJECT, 2))
    own = rows.filter(rows.time_quality.isin(_OWN_TIME))
    met = own.inner_join(
        shifts,
        [
            own.gateway == shifts.gateway,
            own.generation == shifts.generation,
            own.seq >= shifts.first_seq,
            own.seq <= shifts.last_seq,
        ],
    )
    moved = met.group_by([met.object, met.seq]).aggregate(by_ms=met.delta_ms.sum())
    moved = moved.rename(moved_object="object", moved_seq="seq")
    found = rows.left_join(moved, [rows.object == moved.moved_object, rows.seq == moved.moved_seq])
    by_ms = ibis.coalesce(found.by_ms, 0)
    return found.mutate(
        at_ms=found.at_ms + by_ms,
        received_ms=found.received_ms + by_ms,
        time_quality=ibis.ifelse(found.by_ms.notnull(), "arrival", found.time_quality),
    ).drop("moved_object", "moved_seq", "by_ms", "gateway", "generation")


@dataclass(frozen=True, slots=True)
class LakeRecording:
    """The readings of one site in order of time, as a replay takes them (``agent.replay.Replay.run``)."""

    rows: Table
    keys: tuple[SeriesKey, ...]
    days: tuple[int, ...]  # the first and the last UTC day that hold readings, since 1970

    @classmethod
    def of(cls, tables: Tables, site: str, since: datetime | None = None) -> LakeRecording:
        """Return what a site measured, from ``since`` on."""
        rows = true_readings(tables, site)
        if since is not None:
            rows = rows.filter(rows.at_ms >= to_ms(since))
        backend = rows.get_backend()  # worked out once: each day is then read by itself
        rows = backend.create_table(ibis.util.gen_name("readings"), rows.order_by("at_ms"))
        series = rows.select("house", "signal").distinct().order_by(["house", "signal"]).to_pyarrow().to_pylist()
        keys = tuple(SeriesKey(row["house"], row["signal"]) for row in series)
        ends = rows.aggregate(first=rows.at_ms.min(), last=rows.at_ms.max()).to_pyarrow().to_pylist()[0]
        days = () if ends["first"] is None else tuple(int(ends[end]) // DAY_MS for end in ("first", "last"))
        return cls(rows, keys, days)

    @property
    def until(self) -> datetime:
        """The end of the last day that holds readings."""
        return (
            datetime.fromtimestamp((self.days[-1] + 1) * 86_400, UTC) if self.days else datetime(1970, 1, 1, tzinfo=UTC)
        )

    def blocks(self) -> Iterator[Readings]:
        """Yield the readings of each UTC day in order of time, all with the same tuple of keys."""
        number = {key: index for index, key in enumerate(self.keys)}
        for day in range(self.days[0], self.days[-1] + 1) if self.days else ():
            rows = self.rows.filter((self.rows.at_ms >= day * DAY_MS) & (self.rows.at_ms < (day + 1) * DAY_MS))
            of_day = rows.order_by(["at_ms", "house", "signal"]).to_pyarrow()
            if not len(of_day):
                continue
            words = {name: of_day.column(name).to_pylist() for name in ("house", "signal", "quality", "time_quality")}
            series = zip(words["house"], words["signal"], strict=True)
            yield Readings(
                self.keys,
                np.array([number[SeriesKey(house, signal)] for house, signal in series], np.int32),
                of_day.column("at_ms").to_numpy().astype(np.int64),
                of_day.column("value").to_numpy().astype(np.float64),
                np.array([_QUALITY[word] for word in words["quality"]], np.uint8),
                np.array([_TIME_QUALITY[word] for word in words["time_quality"]], np.uint8),
                of_day.column("received_ms").to_numpy().astype(np.int64),
            )


def changes_of(tables: Tables, site: str) -> list[dict[str, Any]]:
    """Return what was told of a site's flocks, in order, each once; the columns of docs/lake.md, times aware UTC."""
    flocks = tables.flocks.filter(tables.flocks.site == site)
    told, seen = [], set()
    for row in flocks.order_by(["at", "seq"]).to_pyarrow().to_pylist():
        same = tuple(row[name] for name in ("at", "house", "flock", "action", "state", "detail"))
        if same not in seen:  # an older copy of the database that was put back tells it again
            seen.add(same)
            told.append(row)
    return told
