"""Single readings that models score: windows at a sensor's own rhythm, each from the past and itself alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from agent.clock import FarmDays
from agent.domain import SeriesKey, to_ms
from agent.manifest import InputSpec, Series
from agent.readings import Readings
from agent.window import SeriesWindows
from agent.window.series import KEPT_OF_A_HOUSE
from tests.unit.test_daemon import Site

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

START = datetime(2026, 5, 4, tzinfo=UTC)  # a Monday
DAYS = FarmDays(ZoneInfo("UTC"))
SPEC = InputSpec(name="x", shape=("n", 4, 1), series=Series(length=4), fill=-1.0, mask="seen")


def readings(signal: str, rows: Sequence[tuple[float, float]]) -> Readings:
    """Return readings of one sensor of house1, each (minutes from the start, value), in the order of their arrival."""
    at_ms = np.array([to_ms(START + timedelta(minutes=minute)) for minute, _ in rows], np.int64)
    zeros = np.zeros(len(rows), np.uint8)
    key = np.zeros(len(rows), np.int32)
    values = np.array([value for _, value in rows], np.float64)
    return Readings((SeriesKey("house1", signal),), key, at_ms, values, zeros, zeros, at_ms)


def unscored(
    windows: SeriesWindows, spec: InputSpec = SPEC, days: FarmDays = DAYS
) -> dict[str, dict[str, NDArray[Any]]]:
    """Return by sensor what is to be scored, and note that it was."""
    found = {name: tensors for name, _, tensors in windows.unscored([spec], ["*"], days)}
    windows.scored()
    return {name: dict(tensors) for name, tensors in found.items()}


def test_a_window_ends_with_its_reading_and_holds_those_before_it() -> None:
    windows = SeriesWindows(4, ["*"])
    windows.add(readings("value", [(0, 1), (5, 2), (10, 3)]))
    found = unscored(windows)["value"]
    assert found["x"][:, :, 0].tolist() == [[-1, -1, -1, 1], [-1, -1, 1, 2], [-1, 1, 2, 3]]
    assert found["seen"][:, :, 0].tolist() == [[0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1]]
    windows.add(readings("value", [(15, 4), (20, 5)]))
    assert unscored(windows)["value"]["x"][:, :, 0].tolist() == [[1, 2, 3, 4], [2, 3, 4, 5]]
    assert unscored(windows) == {}


def test_readings_in_any_blocks_give_the_same_windows() -> None:
    rows = [(5.0 * n, float(n)) for n in range(300)]
    whole, parts = SeriesWindows(4, ["*"]), SeriesWindows(4, ["*"])
    whole.add(readings("value", rows))
    at_once = np.concatenate([t["x"] for _, _, t in whole.unscored([SPEC], ["*"], DAYS)])
    one_by_one = []
    for row in rows:
        parts.add(readings("value", [row]))
        one_by_one.append(unscored(parts)["value"]["x"])
    assert np.array_equal(at_once, np.concatenate(one_by_one))
    assert at_once[-1, :, 0].tolist() == [296, 297, 298, 299]


def test_a_late_reading_is_scored_by_what_was_before_it() -> None:
    windows = SeriesWindows(4, ["*"])
    windows.add(readings("value", [(0, 1), (10, 3)]))
    unscored(windows)
    windows.add(readings("value", [(5, 2)]))
    assert unscored(windows)["value"]["x"][:, :, 0].tolist() == [[-1, -1, 1, 2]]
    windows.add(readings("value", [(15, 4)]))
    assert unscored(windows)["value"]["x"][:, :, 0].tolist() == [[1, 2, 3, 4]]


def test_columns_say_value_change_age_and_the_farms_clock() -> None:
    """Large values keep their small changes in ``relative``; the clock is the farm's own, its week begins on Monday."""
    series = Series(length=2, columns=("value", "relative", "age_s", "day_fraction", "week_fraction"))
    spec = InputSpec(name="x", shape=("n", 2, 5), series=series)
    windows = SeriesWindows(2, ["*"])
    windows.add(readings("value", [(0, 1e9), (360, 1e9 + 1)]))
    days = FarmDays(ZoneInfo("Europe/Copenhagen"))  # two hours ahead in May
    rows = unscored(windows, spec, days)["value"]["x"][1].tolist()
    assert rows[0][1:3] == [-1.0, 360 * 60]
    assert rows[1][1:3] == [0.0, 0.0]
    assert [row[3] for row in rows] == pytest.approx([2 / 24, 8 / 24])
    assert [row[4] for row in rows] == pytest.approx([2 / 168, 8 / 168])


def test_only_the_wanted_sensors_are_kept_and_a_base_signal_means_all_of_its_sensors() -> None:
    windows = SeriesWindows(4, ["temperature", "co2-2"])
    for name in ("temperature-1", "temperature", "co2-1", "co2-2", "noise"):
        windows.add(readings(name, [(0, 1)]))
    assert sorted(unscored(windows)) == ["co2-2", "temperature", "temperature-1"]


def test_more_sensors_than_there_is_room_for_are_left_out_and_named_until_another_is_gone() -> None:
    windows = SeriesWindows(KEPT_OF_A_HOUSE // 3, ["*"])
    for number in range(300):
        windows.add(readings(f"noise-{number}", [(0, 1)]))
    assert sorted(unscored(windows)) == ["noise-0", "noise-1", "noise-2"]
    assert windows.left_out == {f"noise-{number}" for number in range(3, 300)}
    days_later = 4 * 24 * 60
    for number in (0, 1, 7, 8):
        windows.add(readings(f"noise-{number}", [(days_later, 2)]))
    assert sorted(unscored(windows)) == ["noise-0", "noise-1", "noise-7"]
    assert "noise-7" not in windows.left_out
    assert "noise-8" in windows.left_out


def test_health_names_the_sensors_that_are_not_scored(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.agent.watches[0].series = SeriesWindows(KEPT_OF_A_HOUSE // 2, ["*"])
    for _ in range(2):
        site.clock.wait(600)
        site.turn(site.message("skov/farm1/house1", {"temperature": 21.0, "co2": 900.0, "humidity": 60.0}))
    site.close()
    told = site.agent.health.degraded["series"]
    assert told == "house1: there is room to score 2 sensors, and none for 1 more: humidity"


def test_of_a_backlog_only_the_newest_reading_is_scored_where_no_others_are_shown() -> None:
    windows = SeriesWindows(4, ["*"], scores_each=False)
    for first in range(0, 3_000, 50):
        windows.add(readings("value", [(5.0 * n, float(n)) for n in range(first, first + 50)]))
    assert unscored(windows)["value"]["x"][:, :, 0].tolist() == [[2996, 2997, 2998, 2999]]
    assert len(windows._series["value"].at_ms) < 400  # and what waits for a time to be judged by takes no more room
    windows.add(readings("value", [(7.5, -1.0)]))
    assert unscored(windows) == {}  # it came late


def test_a_value_that_is_no_number_is_no_reading() -> None:
    windows = SeriesWindows(4, ["*"])
    windows.add(readings("value", [(0, 1), (5, float("nan")), (10, 3)]))
    assert unscored(windows)["value"]["x"][-1, :, 0].tolist() == [-1, -1, 1, 3]


def test_a_flat_layout_holds_the_same_numbers() -> None:
    series = Series(length=3, columns=("value", "relative"))
    flat = InputSpec(name="x", shape=("n", 6), series=series)
    table = InputSpec(name="x", shape=("n", 3, 2), series=series)
    for spec in (flat, table):
        windows = SeriesWindows(3, ["*"])
        windows.add(readings("value", [(0, 1), (5, 2), (10, 4)]))
        assert unscored(windows, spec)["value"]["x"][-1].ravel().tolist() == [1, -3, 2, -2, 4, 0]
