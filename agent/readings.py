"""A block of readings in columns: how readings travel through the program, live and in replay alike."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from agent.domain import Quality, SeriesKey, TimeQuality

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Readings:
    """``n`` readings of a few series, in columns of length ``n``.

    ``key`` indexes ``keys``, as in an Arrow dictionary array; times are milliseconds since 1970, UTC; ``value`` is in
    the catalogue's unit of its signal. Never changed once made.
    """

    keys: tuple[SeriesKey, ...]
    key: NDArray[np.int32]
    at_ms: NDArray[np.int64]
    value: NDArray[np.float64]
    quality: NDArray[np.uint8]
    time_quality: NDArray[np.uint8]
    received_ms: NDArray[np.int64]
    last_seq: int = 0  # of the stored rows; 0 where they were never stored

    def __len__(self) -> int:
        """Return the number of readings."""
        return len(self.at_ms)

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Readings:
        """Return the readings that ``which`` (a mask, or indices in the wanted order) selects."""
        return Readings(
            self.keys,
            self.key[which],
            self.at_ms[which],
            self.value[which],
            self.quality[which],
            self.time_quality[which],
            self.received_ms[which],
            self.last_seq,
        )


class HouseSplitter:
    """Splits blocks of readings by house.

    What follows from keys is worked out once, as long as they stay the same; and a house whose own keys stay the same
    gets one and the same tuple, so that others can do so too.
    """

    def __init__(self) -> None:
        self._keys: tuple[SeriesKey, ...] = ()
        self._house = self._within = np.empty(0, np.int32)  # of each key: its house, and its place among that one's
        self._shares: dict[str, tuple[SeriesKey, ...]] = {}

    def split(self, readings: Readings) -> dict[str, Readings]:
        """Return the readings of each house that occurs, in their order of arrival."""
        if readings.keys is not self._keys:
            self._learn(readings.keys)
        house = self._house[readings.key]
        order = np.argsort(house, kind="stable")
        ends = np.searchsorted(house[order], np.arange(len(self._shares)), side="right").tolist()
        split, begin = {}, 0
        for (name, keys), end in zip(self._shares.items(), ends, strict=True):
            if end > begin:
                share = readings.take(order[begin:end])
                split[name] = replace(share, keys=keys, key=self._within[share.key])
            begin = end
        return split

    def _learn(self, keys: tuple[SeriesKey, ...]) -> None:
        shares: dict[str, list[SeriesKey]] = {}
        within = []
        for key in keys:
            share = shares.setdefault(key.house, [])
            within.append(len(share))
            share.append(key)
        numbers = {name: number for number, name in enumerate(shares)}
        self._house = np.array([numbers[key.house] for key in keys], np.int32)
        self._within = np.array(within, np.int32)
        before, self._shares = self._shares, {name: tuple(share) for name, share in shares.items()}
        for name, share_keys in self._shares.items():
            if before.get(name) == share_keys:
                self._shares[name] = before[name]
        self._keys = keys


def joined(blocks: Sequence[Readings]) -> Readings:
    """Return blocks that share one and the same ``keys`` as one block, in their order; at least one block."""
    if len(blocks) == 1:
        return blocks[0]
    return Readings(
        blocks[0].keys,
        np.concatenate([block.key for block in blocks]),
        np.concatenate([block.at_ms for block in blocks]),
        np.concatenate([block.value for block in blocks]),
        np.concatenate([block.quality for block in blocks]),
        np.concatenate([block.time_quality for block in blocks]),
        np.concatenate([block.received_ms for block in blocks]),
        max(block.last_seq for block in blocks),
    )


EMPTY = Readings(
    (),
    np.empty(0, np.int32),
    np.empty(0, np.int64),
    np.empty(0, np.float64),
    np.empty(0, np.uint8),
    np.empty(0, np.uint8),
    np.empty(0, np.int64),
)


@dataclass(slots=True)
class ReadingsBuilder:
    """Collects readings one by one; appending to lists costs a tenth of making small arrays.

    The blocks of one builder number their series alike, and have one and the same ``keys`` as long as no new series
    comes: what follows from keys alone need not be worked out for each block.
    """

    _keys: tuple[SeriesKey, ...] = ()
    _index: dict[SeriesKey, int] = field(default_factory=dict)
    _key: list[int] = field(default_factory=list)
    _value: list[float] = field(default_factory=list)
    # once for all readings that were added together
    _count: list[int] = field(default_factory=list)
    _at_ms: list[int] = field(default_factory=list)
    _time_quality: list[int] = field(default_factory=list)
    _received_ms: list[int] = field(default_factory=list)
    _doubted: list[tuple[int, Quality]] = field(default_factory=list)  # readings that their sender itself doubts

    def __len__(self) -> int:
        """Return the number of readings collected."""
        return len(self._key)

    def add(
        self,
        key: SeriesKey,
        at_ms: int,
        value: float,
        time_quality: TimeQuality,
        received_ms: int,
        quality: Quality = Quality.GOOD,
    ) -> None:
        """Collect one reading; ``quality`` is its sender's word, ours is judged later."""
        if quality is not Quality.GOOD:
            self._doubted.append((len(self._key), quality))
        self.add_all((key,), at_ms, (value,), time_quality, received_ms)

    def add_all(
        self,
        keys: Sequence[SeriesKey],
        at_ms: int,
        values: Sequence[float],
        time_quality: TimeQuality,
        received_ms: int,
    ) -> None:
        """Collect one reading each of ``keys``, all of one time; cheaper than one by one."""
        index = self._index
        self._key += [index.setdefault(key, len(index)) for key in keys]
        self._value += values
        self._count.append(len(keys))
        self._at_ms.append(at_ms)
        self._time_quality.append(time_quality)
        self._received_ms.append(received_ms)

    def build(self) -> Readings:
        """Return what was collected, every quality GOOD until judged but for what its sender doubts; begin anew."""
        quality = np.full(len(self._key), Quality.GOOD, np.uint8)
        for index, doubt in self._doubted:
            quality[index] = doubt
        if len(self._keys) < len(self._index):
            self._keys = tuple(self._index)
        readings = Readings(
            self._keys,
            np.array(self._key, np.int32),
            np.repeat(np.array(self._at_ms, np.int64), self._count),
            np.array(self._value, np.float64),
            quality,
            np.repeat(np.array(self._time_quality, np.uint8), self._count),
            np.repeat(np.array(self._received_ms, np.int64), self._count),
        )
        for column in (self._key, self._value, self._count, self._at_ms, self._time_quality, self._received_ms):
            column.clear()
        self._doubted.clear()
        return readings
