"""Writes a farm's life as replay files: ``readings.csv``, ``flocks.csv``, ``events.csv`` and the truth of faults."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import numpy as np

from agent.errors import UsageError
from models_onnx.farm.farm import finish, iso, still_true
from models_onnx.farm.faults import fault_name
from models_onnx.farm.sensors import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from typing import TextIO

    from models_onnx.farm.farm import Farm, FlockTruth, Step, Told
    from models_onnx.farm.faults import Fault

FLOCK_COLUMNS = (
    "house",
    "flock",
    "placed_on",
    "birds_placed",
    "strain",
    "sex",
    "parent_age_weeks",
    "ended_on",
    "slaughter_weight_g",
)
EVENTS = frozenset({"thin", "state", "end"})  # placements are in flocks.csv, the dead in readings.csv


def write_replay(
    farm: Farm,
    directory: Path,
    *,
    houses: Sequence[str],
    days: int,
    interval_s: int,
    faults: Sequence[Fault] = (),
    progress: Callable[[float], None] = lambda _share: None,
) -> int:
    """Let ``farm`` live ``days`` days from its start on and write the files into ``directory``; return the readings.

    ``houses`` are the names; ``progress`` is told the share done, now and then.

    Raises:
        UsageError: the directory cannot be written.
    """
    earlier = still_true(farm.run_to(farm.start_ms), len(houses))
    told = [one for one in earlier if one.command["action"] != "state"]
    span_ms = days * 86_400_000
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "readings.csv").open("w", encoding="utf-8", newline="") as file:
            file.write("at,house,signal,value\n")
            count = 0
            for step in farm.sent(interval_s, farm.start_ms + span_ms):
                count += _write_step(file, step, houses)
                told += step.told
                progress((step.at_ms - farm.start_ms) / span_ms)
        _write(directory / "events.csv", ("at", "house", "command"), _events(told, houses))
        _write(directory / "flocks.csv", FLOCK_COLUMNS, _flocks(finish(farm), houses))
        _write(directory / "truth.csv", ("fault", "house", "from", "to", "severity"), _truth(faults, houses))
    except OSError as e:
        message = f"--out {directory}: {e.strerror or e}; give a directory that can be written, with space left"
        raise UsageError(message) from e
    return count


def _write_step(file: TextIO, step: Step, houses: Sequence[str]) -> int:
    at = iso(step.at_ms)
    is_reading = ~np.isnan(step.values)
    lines = [
        f"{at},{house},{signal},{value:.10g}\n"
        for i, house in enumerate(houses)
        for signal, value, told in zip(SIGNALS, step.values[:, i].tolist(), is_reading[:, i].tolist(), strict=True)
        if told
    ]
    file.write("".join(lines))
    return len(lines)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _events(told: Iterable[Told], houses: Sequence[str]) -> list[tuple[str, str, str]]:
    events = sorted((one for one in told if one.command["action"] in EVENTS), key=lambda one: one.at_ms)
    return [(iso(one.at_ms), houses[one.house], json.dumps(one.command)) for one in events]


def _flocks(flocks: Iterable[FlockTruth], houses: Sequence[str]) -> list[tuple[object, ...]]:
    return [
        (
            houses[flock.house],
            flock.flock,
            flock.placed_on,
            flock.birds_told,
            flock.strain,
            flock.sex,
            flock.parent_age_weeks,
            flock.planned_end_on,
            flock.slaughter_weight_g,
        )
        for flock in flocks
    ]


def _truth(faults: Iterable[Fault], houses: Sequence[str]) -> list[tuple[object, ...]]:
    return [(fault_name(f), houses[f.house], iso(f.from_ms), iso(f.to_ms), f.severity) for f in faults]
