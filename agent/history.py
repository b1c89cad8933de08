"""The agent's one door to Parquet: reads the local lake that the courier seals, and writes exports.

arro3 is imported when something is read or written, so the agent itself never pays for it.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from agent.errors import FlockwatchError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

Series = tuple[list[tuple[str, str]], "NDArray[np.int64]", "NDArray[np.int64]", "NDArray[np.float64]"]
"""Readings in arrays: (house, signal) of each series, and by reading its number among them, time in ms, and value."""

Columns = dict[str, list[Any]]
"""Rows in columns of equal length; times are integer milliseconds since 1970, UTC."""

_MAGIC = b"PAR1"  # at both ends of a Parquet file; before the last one, the length of its footer in four bytes

_NAME = re.compile(
    r"date=(?P<day>\d{4}-\d\d-\d\d)/"
    r"(?P<gateway>[0-9a-z]+)-(?P<generation>[0-9a-z]+)-(?P<first>\d+)-(?P<last>\d+)\.parquet"
)


@dataclass(frozen=True, slots=True)
class LakeObject:
    """A sealed object of the local lake, as its name says; all objects of a seal carry the range of the seal."""

    path: Path
    day: date  # the UTC date of ``at``
    gateway: str
    generation: str
    first_seq: int
    last_seq: int


def lake_objects(lake: Path, stream: str) -> list[LakeObject]:
    """Return the objects of a stream in the local lake, by date and range; none where there is no lake."""
    objects = []
    for path in (lake / stream).glob("site=*/date=*/*.parquet"):
        found = _NAME.fullmatch(f"{path.parent.name}/{path.name}")
        if found is None:
            continue
        try:
            day = date.fromisoformat(found["day"])
        except ValueError:
            continue
        ids = found["gateway"], found["generation"]
        objects.append(LakeObject(path, day, *ids, int(found["first"]), int(found["last"])))
    return sorted(objects, key=lambda one: (one.day, one.gateway, one.generation, one.first_seq))


def sealed_up_to(lake: Path, stream: str, generation: str | None) -> int:
    """Return the last row of a generation that the local lake holds for certain, 0 where it holds none.

    A crash may have come between the objects of the newest range, so its rows are looked at.
    """
    ours = [one for one in lake_objects(lake, stream) if one.generation == generation]
    newest = max((one.first_seq for one in ours), default=0)
    if newest == 0:
        return 0
    last_seq = next(one.last_seq for one in ours if one.first_seq == newest)
    seqs: set[int] = set()
    try:
        for one in ours:
            if one.first_seq == newest:
                for block in read_object(one.path, ("seq",)):
                    seqs.update(block["seq"])
    except InputError:  # damaged: then its rows are not there for certain
        return newest - 1
    return last_seq if len(seqs) == last_seq - newest + 1 else newest - 1


def read_object(path: Path, names: Sequence[str]) -> Iterator[Columns]:
    """Yield the rows of a Parquet object in blocks; a column that it lacks is all None.

    Raises:
        InputError: it cannot be read as Parquet.
    """
    from arro3.core import DataType  # noqa: PLC0415  # only who reads the lake needs it
    from arro3.io import read_parquet  # noqa: PLC0415

    time = DataType.timestamp("ms", tz="UTC")
    with _readable(path) as file:
        for batch in read_parquet(file):
            there = set(batch.schema.names)
            columns: Columns = {}
            for name in names:
                if name not in there:
                    columns[name] = [None] * batch.num_rows
                    continue
                column = batch.column(name)
                if column.type == time:
                    column = column.cast(DataType.int64())
                columns[name] = list(column.to_pylist())
            yield columns


@contextmanager
def _readable(path: Path) -> Iterator[BinaryIO]:
    """Give an object's file to read; whatever arro3 finds wrong with it is an ``InputError``."""
    try:
        with path.open("rb") as file:
            _check_ends(file)
            yield file
    except BaseException as e:
        # arro3 has no exceptions of its own: it raises a bare Exception, and its Rust code "panics" beside that tree
        if type(e) is Exception or isinstance(e, (OSError, ValueError)) or type(e).__name__ == "PanicException":
            message = f"{path}: cannot be read: {e}; the object is damaged, or is none of ours"
            raise InputError(message) from e
        raise


def read_readings(path: Path) -> Iterator[Series]:
    """Yield the readings of a Parquet object in blocks.

    In arrays throughout: a day of a large farm has half a million readings, and a gateway little memory.

    Raises:
        InputError: it cannot be read as Parquet.
    """
    from arro3.core import DataType, dictionary_dictionary, dictionary_indices  # noqa: PLC0415  # as above
    from arro3.io import read_parquet  # noqa: PLC0415

    words = DataType.dictionary(DataType.int32(), DataType.string())
    with _readable(path) as file:
        for batch in read_parquet(file):
            at_ms = batch.column("at").cast(DataType.int64()).to_numpy()
            parts = [batch.column(name).cast(words) for name in ("house", "signal")]
            names = [dictionary_dictionary(part).to_pylist() for part in parts]
            house, signal = (dictionary_indices(part).to_numpy().astype(np.int64) for part in parts)
            pairs, number = np.unique(house * len(names[1]) + signal, return_inverse=True)
            keys = [(names[0][pair // len(names[1])], names[1][pair % len(names[1])]) for pair in pairs.tolist()]
            yield keys, number, at_ms, batch.column("value").to_numpy()


def _check_ends(file: BinaryIO) -> None:
    """Refuse what is no whole Parquet file before arro3 sees it, which prints a page for each."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    tail = file.read(8)
    file.seek(0)
    if size < 12 or file.read(4) != _MAGIC or tail[4:] != _MAGIC or int.from_bytes(tail[:4], "little") > size - 12:
        message = "it does not begin and end as a Parquet file does"
        raise ValueError(message)
    file.seek(0)


def write_objects(path: Path, columns: Sequence[tuple[str, str]], blocks: Iterable[Mapping[str, Sequence[Any]]]) -> int:
    """Write blocks of rows as one Parquet file, with the columns that the lake has; return how many rows.

    Raises:
        OSError: the file cannot be written.
    """
    from arro3.core import Array, DataType, Field, RecordBatch, RecordBatchReader, Schema  # noqa: PLC0415
    from arro3.io import write_parquet  # noqa: PLC0415

    count, time = DataType.int64(), DataType.timestamp("ms", tz="UTC")
    types = {"timestamp": time, "string": DataType.string(), "float64": DataType.float64(), "int64": count,
             "int32": DataType.int32(), "int8": DataType.int8()}  # fmt: skip
    schema = Schema([Field(name, types[kind], nullable=name not in {"at", "seq"}) for name, kind in columns])
    rows = 0
    failed: list[FlockwatchError] = []

    def batches() -> Iterator[RecordBatch]:
        nonlocal rows
        try:
            for block in blocks:
                rows += len(block["seq"])
                arrays = [
                    Array(block[name], count).cast(time) if kind == "timestamp" else Array(block[name], types[kind])
                    for name, kind in columns
                ]
                yield RecordBatch.from_arrays(arrays, schema=schema)
        except FlockwatchError as e:
            failed.append(e)
            raise

    with path.open("wb") as file:
        try:
            write_parquet(RecordBatchReader.from_batches(schema, batches()), file, compression="zstd(3)")
        except Exception as e:  # arro3 turns whatever goes wrong into a bare Exception, our own errors too
            if failed:
                raise failed[0] from e
            raise OSError(errno.EIO, f"cannot be written: {e}") from e
    return rows
