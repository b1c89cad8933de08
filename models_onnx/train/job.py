"""What every trainer is given; a trainer is ``build(job) -> Bundle``, one for each bundle (``run.TRAINERS``)."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """One training."""

    out: Path  # where <name>/<version>/ is written
    say: Callable[[str], None]  # progress, for people
    tiny: bool = False  # seconds instead of minutes, and the bundle worthless: for tests
    processes: int = 1  # how many farms are simulated at a time; the result does not depend on it


SEED = 20_261_122  # of everything drawn in training


def in_processes(processes: int, work: Callable[..., T], *columns: Iterable[Any]) -> list[T]:
    """Return what ``map(work, *columns)`` gives, in its order, worked out by so many processes at a time."""
    if processes == 1:
        return list(map(work, *columns))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:  # threads do not survive a fork
        return list(pool.map(work, *columns))
