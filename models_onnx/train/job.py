"""What every trainer is given; a trainer is ``build(job) -> Bundle``, one for each bundle (``run.TRAINERS``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Job:
    """One training."""

    out: Path  # where <name>/<version>/ is written
    say: Callable[[str], None]  # progress, for people
    tiny: bool = False  # seconds instead of minutes, and the bundle worthless: for tests
    processes: int = 1  # how many farms are simulated at a time; the result does not depend on it


SEED = 20_261_122  # of everything drawn in training
