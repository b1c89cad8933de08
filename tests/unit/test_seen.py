"""Dedupe by time, runs and sealed times, against rows in a plain list."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.seen import RUN_GAP, RUNS_KEPT, SLOT_MS, Disk, Rows, Run, Seen, joined, pack_times, unpack_times

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

T = 1_795_000_000_000 // SLOT_MS * SLOT_MS


@dataclass
class RowsInMemory:
    """Stands in for the tables: rows numbered from 1, runs as saved, and what was asked for."""

    stored: list[tuple[int, int, float]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    times: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    asked: list[Rows] = field(default_factory=list)

    def disk(self) -> Disk:
        return Disk(self.runs_of, self.rows, lambda series, _: self.times.get(series, np.empty(0, np.int64)))

    def runs_of(self, slots: Sequence[int]) -> Iterable[tuple[int, int]]:
        return [(run.first_seq, run.last_seq) for run in self.runs if run.slot in slots]

    def rows(self, rows: Rows) -> Iterable[tuple[int, int, float]]:
        self.asked.append(rows)
        first, last, first_ms, last_ms = rows
        return [row for row in self.stored[first - 1 : last] if first_ms <= row[1] <= last_ms]


@dataclass
class Bench:
    """A ``Seen`` with its rows, fed by plain tuples (series, at_ms, value)."""

    memory: RowsInMemory = field(default_factory=RowsInMemory)
    seen: Seen = field(init=False)

    def __post_init__(self) -> None:
        self.seen = Seen(self.memory.disk())

    def feed(self, *rows: tuple[int, int, float]) -> tuple[list[int], list[int], int, tuple[tuple[int, float], ...]]:
        """Return the indices of new and of late rows, the duplicates, and the conflicts."""
        series, at_ms, value = _columns(rows)
        verdict = self.seen.judge(series, at_ms, value)
        first_seq = len(self.memory.stored) + 1
        self.memory.stored += [row for row, new in zip(rows, verdict.new, strict=True) if new]
        self.seen.add(series[verdict.new], at_ms[verdict.new], value[verdict.new], first_seq)
        late = np.flatnonzero(verdict.late & verdict.new).tolist()
        return np.flatnonzero(verdict.new).tolist(), late, verdict.duplicates, verdict.conflicts

    def save(self) -> None:
        runs, _ = self.seen.unsaved()
        kept = {(run.slot, run.first_seq): run for run in self.memory.runs}
        kept |= {(run.slot, run.first_seq): run for run in runs}
        self.memory.runs = list(kept.values())
        self.seen.saved()


def _columns(
    rows: Sequence[tuple[int, int, float]],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    return (
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.float64),
    )


def test_readings_newer_than_their_series_are_new_without_a_look_at_the_disk() -> None:
    bench = Bench()
    assert bench.feed((1, T, 20.0), (2, T, 50.0), (1, T + 1, 20.0)) == ([0, 1, 2], [], 0, ())
    assert bench.feed((2, T + 1, 51.0), (1, T + 2, 20.0)) == ([0, 1], [], 0, ())
    assert bench.memory.asked == []


def test_an_empty_block_is_nothing() -> None:
    assert Bench().feed() == ([], [], 0, ())


def test_the_newest_reading_again_is_a_duplicate_without_a_look_at_the_disk() -> None:
    bench = Bench()
    bench.feed((1, T, 20.0))
    assert bench.feed((1, T, 20.0)) == ([], [], 1, ())
    assert bench.memory.asked == []


def test_another_value_at_the_same_time_is_a_conflict_and_the_first_value_stays() -> None:
    bench = Bench()
    bench.feed((1, T, 20.0))
    assert bench.feed((1, T, 21.0)) == ([], [], 0, ((0, 20.0),))
    assert bench.feed((1, T, 20.0)) == ([], [], 1, ())


def test_within_one_block_the_first_to_arrive_wins() -> None:
    assert Bench().feed((1, T, 20.0), (1, T, 21.0), (1, T, 20.0)) == ([0], [], 1, ((1, 20.0),))


def test_a_duplicate_in_a_block_is_held_against_the_stored_value_not_against_its_neighbour() -> None:
    bench = Bench()
    bench.feed((1, T, 20.0), (1, T + 5, 30.0))
    assert bench.feed((1, T, 21.0), (1, T, 21.0), (1, T, 20.0)) == ([], [], 1, ((0, 20.0), (1, 20.0)))


def test_an_older_reading_that_never_came_is_new_and_late() -> None:
    bench = Bench()
    bench.feed((1, T, 20.0), (1, T + 10 * SLOT_MS, 21.0))
    assert bench.feed((1, T + SLOT_MS, 22.0), (1, T + 11 * SLOT_MS, 23.0)) == ([0, 1], [0], 0, ())
    assert bench.feed((1, T + SLOT_MS, 22.0)) == ([], [], 1, ())


def test_late_is_said_against_what_came_before_in_the_same_block_too() -> None:
    assert Bench().feed((1, T + 2, 1.0), (1, T, 1.0), (1, T + 1, 1.0), (2, T, 1.0)) == ([0, 1, 2, 3], [1, 2], 0, ())


@pytest.mark.parametrize("saved", [False, True], ids=["runs in memory", "runs on disk"])
def test_an_old_reading_again_is_found_in_its_minute_alone(saved: bool) -> None:
    """Only the rows of its run are loaded, however many there are."""
    bench = Bench()
    for minute in range(2 * RUNS_KEPT):
        bench.feed(*((series, T + minute * SLOT_MS, float(minute)) for series in (1, 2, 3)))
    if saved:
        bench.save()
    assert bench.feed((2, T + SLOT_MS, 1.0)) == ([], [], 1, ())
    assert bench.memory.asked == [(4, 6, T + SLOT_MS, T + SLOT_MS)]


def test_runs_of_one_minute_that_lie_far_apart_are_kept_apart() -> None:
    """A minute that grows again after many other rows gets a second run, on disk as in memory."""
    bench = Bench()
    bench.feed((1, T, 1.0))
    bench.feed(*((2, T + SLOT_MS + i, 1.0) for i in range(RUN_GAP + 1)))
    bench.feed((3, T, 3.0))
    runs, _ = bench.seen.unsaved()
    assert [run for run in runs if run.slot == T // SLOT_MS] == [
        Run(T // SLOT_MS, 1, 1),
        Run(T // SLOT_MS, RUN_GAP + 3, RUN_GAP + 3),
    ]
    assert bench.feed((1, T, 1.0), (3, T, 3.0), (2, T, 2.0)) == ([2], [2], 2, ())


def test_a_run_that_grows_after_it_was_saved_replaces_itself() -> None:
    bench = Bench()
    bench.feed((1, T, 1.0))
    bench.save()
    bench.feed((2, T, 1.0))
    bench.save()
    assert bench.memory.runs == [Run(T // SLOT_MS, 1, 2)]


def test_memory_is_bounded_once_saved() -> None:
    bench = Bench()
    bench.feed(*((1, T + i * SLOT_MS, 1.0) for i in range(10 * RUNS_KEPT)))
    assert bench.seen.unsaved_runs == 10 * RUNS_KEPT
    bench.save()
    assert bench.seen.unsaved_runs == 0
    assert len(bench.seen._runs) == RUNS_KEPT
    assert bench.feed((1, T, 1.0)) == ([], [], 1, ())


def test_a_reading_that_was_sealed_and_pruned_is_still_known() -> None:
    """Its value is in the lake, so another value cannot be told from the same one: neither is stored."""
    bench = Bench()
    bench.seen.set_high(1, T)
    bench.memory.times[1] = np.array([T - 60_000, T - 30_000, T])
    assert bench.feed((1, T - 30_000, 5.0), (1, T, 6.0), (1, T - 1, 7.0)) == ([2], [2], 2, ())


def test_the_newest_time_taken_from_disk_makes_older_ones_late() -> None:
    bench = Bench()
    bench.seen.set_high(500, T)
    assert bench.feed((500, T - 1, 1.0), (500, T + 1, 1.0)) == ([0, 1], [0], 0, ())
    assert bench.seen.newest_ms == T + 1


def test_only_series_that_have_something_newer_are_to_be_saved() -> None:
    bench = Bench()
    bench.feed((1, T, 1.0), (2, T, 1.0))
    bench.save()
    bench.feed((2, T + 1, 1.0), (1, T - 1, 1.0))
    assert bench.seen.unsaved()[1] == [(2, T + 1)]


def test_times_before_1970_are_times_like_others() -> None:
    bench = Bench()
    assert bench.feed((1, -5, 1.0), (1, -70_000, 1.0)) == ([0, 1], [1], 0, ())
    assert bench.feed((1, -70_000, 1.0)) == ([], [], 1, ())


@pytest.mark.parametrize("times", [[T], [T, T + 1], [0, 60_000, 120_000, 2**32 - 1 + 120_000], [-5, 0, 7]])
def test_packed_times_come_back(times: list[int]) -> None:
    assert unpack_times(pack_times(np.array(times, np.int64))).tolist() == times


def test_packed_times_are_small() -> None:
    """A day at one reading a minute: a few dozen bytes where the stamps are regular, 2 bytes each where they jitter."""
    regular = T + 60_000 * np.arange(1440, dtype=np.int64)
    jitter = np.random.default_rng(1).integers(-2_000, 2_000, 1440)
    assert len(pack_times(regular)) < 60
    assert len(pack_times(regular + jitter)) < 2 * 1440


def test_ranges_that_touch_are_joined() -> None:
    assert joined([(7, 9), (1, 3), (4, 5), (8, 12), (20, 20)]) == [(1, 5), (7, 12), (20, 20)]
