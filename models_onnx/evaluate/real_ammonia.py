"""A real house's ammonia, temperature and humidity an hour ahead: the shipped expectations against persistence.

26 days of one house (data: brunocorisco86/diatex_analysis, GPL-3.0, not in this repository), every 3 to 5 minutes with
gaps. Nothing was trained or tuned on them. Every ten minutes the model forecasts the coming hour from what the agent
would know then, without what it is given when it judges in hindsight. Nothing is known of the flock but its age.

Two questions, as a model that expects the mean of an hour is asked for both: that mean (against "as in the last ten
minutes"), and the ten minutes that lie an hour ahead (the published anchor, against the same).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np

from agent.clock import FarmDays
from agent.domain import Quality, SeriesKey, from_ms, to_ms
from agent.manifest import Feature
from agent.quality import QualityJudge
from agent.readings import Readings
from agent.signals import CATALOGUE
from agent.strains import DEFAULT_STRAIN
from agent.window import FlockContext, Window
from models_onnx.evaluate.play import CONFIG
from models_onnx.farm.farm import DAY_MS, HOUR_MS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from agent.manifest import Output
    from agent.predict import Model, Predictor

    F64 = NDArray[np.float64]

FILE = "house_nh3/nh3_temp_rh.csv"
DAYS = FarmDays(ZoneInfo("America/Sao_Paulo"))  # the times have no zone; the farm is in the south of Brazil
COLUMNS = {"nh3_ppm": "ammonia", "temp_c": "temperature", "rh_pct": "humidity"}
ANCHORS = {"ammonia": 0.55, "temperature": 0.65, "humidity": 1.8}  # persistence, published beside the data
STEP_MS, HOUR_S = 600_000, 3600
CHUNK = 500  # instants a run


@dataclass(frozen=True, slots=True)
class Forecast:
    """How one signal was forecast; mean absolute errors in its unit."""

    signal: str
    unit: str
    hours: int  # instants with a whole hour to compare
    hour: float  # of the hour's mean
    hour_persistence: float
    inside: float  # share of the hours' means between p10 and p90
    ahead: float  # of the ten minutes an hour ahead
    ahead_persistence: float
    anchor: float


def forecasts(real: Path, predictor: Predictor) -> list[Forecast]:
    """Return how the signals are forecast that a model expects for one hour; none without the file."""
    path = real / FILE
    if not path.exists():
        return []
    placed_on, readings = _read(path)
    found = []
    for model in predictor.models:
        if model.manifest.task == "expect":
            found += _of_model(model, placed_on, readings)
    return found


def _read(path: Path) -> tuple[date, Readings]:
    """Return the day of placement and the readings, of each time the first."""
    keys = tuple(SeriesKey("house", name) for name in COLUMNS.values())
    rows: dict[tuple[int, int], float] = {}
    placed_on = None
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            at = datetime.fromisoformat(line["time"]).replace(tzinfo=DAYS.zone)
            placed_on = placed_on or date.fromordinal(at.date().toordinal() - int(line["age"]))
            for number, column in enumerate(COLUMNS):
                if line[column]:
                    rows.setdefault((to_ms(at), number), float(line[column]))
    if placed_on is None:
        message = f"{path} holds no line"
        raise ValueError(message)
    ordered = sorted(rows.items())
    at_ms = np.array([key[0] for key, _ in ordered], np.int64)
    good = np.full(len(ordered), Quality.GOOD, np.uint8)
    values = np.array([value for _, value in ordered])
    key = np.array([key[1] for key, _ in ordered], np.int32)
    return placed_on, Readings(keys, key, at_ms, values, good, np.zeros(len(ordered), np.uint8), at_ms)


def _of_model(model: Model, placed_on: date, readings: Readings) -> list[Forecast]:
    asked = [
        output
        for output in model.manifest.output
        if output.of is not None
        and output.of.signal in ANCHORS
        and output.of.aggregate == "mean"
        and "1h" in output.horizons
    ]
    if not asked:
        return []
    window = Window("house", {name: CATALOGUE[name] for name in model.manifest.signals}, DAYS)
    judge = QualityJudge(CONFIG.signal)
    context = FlockContext(to_ms(DAYS.start_of(placed_on)), DEFAULT_STRAIN)
    first = int(readings.at_ms[0]) // STEP_MS * STEP_MS + DAY_MS  # a day of course first
    last = int(readings.at_ms[-1]) // STEP_MS * STEP_MS
    features = tuple(Feature(signal=o.of.signal, aggregate="mean") for o in asked if o.of is not None)
    tensors, now, position = [], [], 0
    # readings up to an hour later are needed only to know what came; the window never looks beyond the instant asked
    # for
    for at_ms in range(first, last + 1, STEP_MS):
        stop = int(np.searchsorted(readings.at_ms, at_ms, side="right"))
        if stop > position:
            window.add(judge.judge(readings.take(np.arange(position, stop)))[0])
            position = stop
        at = from_ms(at_ms)
        now.append([m.value for m in window.measure(features, STEP_MS // 1000, at, context)])
        tensors.append(window.inputs(model.manifest.input, at, context).tensors)
    parts = [model.run(tensors[i : i + CHUNK]).outputs for i in range(0, len(tensors), CHUNK)]
    said = {o.name: np.concatenate([part[o.name] for part in parts]) for o in asked}
    tens = np.array(now)  # [instants, signals]: the mean of the ten minutes before each
    return [_scored(output, said[output.name], tens[:, number]) for number, output in enumerate(asked)]


def _scored(output: Output, said: F64, tens: F64) -> Forecast:
    assert output.of is not None  # noqa: S101  # asked for above
    quantiles = said[:, output.horizons.index("1h")]
    low, middle, high = (quantiles[:, output.quantiles.index(q)] for q in (0.1, 0.5, 0.9))
    steps = HOUR_MS // STEP_MS
    coming = np.lib.stride_tricks.sliding_window_view(tens[1:], steps)  # the six tens of the hour after each instant
    hour, ahead = coming.mean(axis=1), coming[:, -1]
    n = len(hour)
    known = np.isfinite(hour) & np.isfinite(tens[:n])
    off = np.abs(middle[:n] - hour)[known]
    return Forecast(
        output.of.signal,
        CATALOGUE[output.of.signal].unit or "",
        int(known.sum()),
        float(off.mean()),
        float(np.abs(tens[:n] - hour)[known].mean()),
        float(((hour >= low[:n]) & (hour <= high[:n]))[known].mean()),
        float(np.abs(middle[:n] - ahead)[known].mean()),
        float(np.abs(tens[:n] - ahead)[known].mean()),
        ANCHORS[output.of.signal],
    )
