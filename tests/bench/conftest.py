"""What the benches share: the table that they fill, and what the kernel says of a process."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RESULTS = Path(__file__).parent / "results"
HEAD = ("what", "measured", "floor", "ratio", "goal", "")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process has used so far."""

    cpu_s: float
    written: int  # bytes that it made the kernel send to the disk

    def __sub__(self, before: Cost) -> Cost:
        """Return what it used since ``before``."""
        return Cost(self.cpu_s - before.cpu_s, self.written - before.written)


def cost_of(pid: int) -> Cost:
    """Return what a process has used since it began."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    [written] = re.findall(r"^write_bytes: (\d+)$", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)
    return Cost((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(written))


def pss_of(pid: int) -> float:
    """Return the proportional set size of a process in MB: its own memory, and its share of what is shared."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    [kb] = re.findall(r"^Pss:\s+(\d+) kB$", rollup, re.MULTILINE)
    return int(kb) * 1024 / 1e6


class Table:
    """The figures of one run, each beside its goal and the floor that was measured in the same run."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, ...]] = [HEAD]

    def add(
        self, what: str, measured: float, unit: str, *, floor: float | None = None, goal: float, in_floors: bool = False
    ) -> None:
        """Take a figure; less is better. ``in_floors``: the goal is a multiple of the floor."""
        ratio = None if floor is None else measured / floor
        met = (ratio if in_floors and ratio is not None else measured) <= goal
        self._rows.append(
            (
                what,
                f"{measured:,.3g} {unit}" if measured < 100 else f"{measured:,.0f} {unit}",
                "" if floor is None else f"{floor:,.3g} {unit}" if floor < 100 else f"{floor:,.0f} {unit}",
                "" if ratio is None else f"{ratio:.2f}",
                f"<= {goal:g} x floor" if in_floors else f"<= {goal:g} {unit}",
                "" if met else "missed",
            )
        )

    def note(self, what: str, measured: str, floor: str = "") -> None:
        """Take a figure that has no goal of its own."""
        self._rows.append((what, measured, floor, "", "", ""))

    def __str__(self) -> str:
        """Return the table, and on what it was measured."""
        widths = [max(len(column) for column in columns) for columns in zip(*self._rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in self._rows]
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        return "\n".join([f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine}", *(line.rstrip() for line in lines)])

    def __len__(self) -> int:
        """Return how many figures it holds."""
        return len(self._rows) - 1


@pytest.fixture(scope="session")
def table() -> Iterator[Table]:
    """Give the table that is printed, and kept under today's date, when all is measured."""
    figures = Table()
    yield figures
    if len(figures):
        print(f"\n\n{figures}")
        RESULTS.mkdir(exist_ok=True)
        with (RESULTS / f"{datetime.now(UTC):%Y-%m-%d}.txt").open("a", encoding="utf-8") as file:
            file.write(f"{figures}\n\n")


@pytest.fixture(scope="session")
def cost() -> Callable[[int], Cost]:
    """Give ``cost_of``."""
    return cost_of


@pytest.fixture(scope="session")
def pss_mb() -> Callable[[int], float]:
    """Give ``pss_of``."""
    return pss_of
