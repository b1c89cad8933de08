"""What the shipped ``weight`` makes of a house's history, and how it is scored on real and simulated flocks."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.bundles import find_bundle, load_bundle, shipped_directory
from agent.errors import BundleError
from agent.predict import Model
from agent.strains import ROSS_308
from models_onnx.evaluate.by_history import main as by_history
from models_onnx.evaluate.real import slaughter_section
from models_onnx.evaluate.real_slaughter import Slaughtered, anchors, without_overlap
from models_onnx.evaluate.real_slaughter import main as real_slaughter
from models_onnx.train import weight

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SLAUGHTER, P10, P50, P90 = 0, 0, 1, 2


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(load_bundle(find_bundle(shipped_directory(), "weight")))


def said(model: Model, course: NDArray[np.float32], **facts: float) -> NDArray[np.float64]:
    """Return the quantiles of the slaughter weight at day 35, two days before the end."""
    known = {"age_days": 35.0, "day_fraction": 0.0, "days_to_slaughter": 2.0, "strain:cobb500": 0.0}
    known |= {"birds_placed": 30_000.0, "live_birds": 29_000.0}
    known |= {f"house.{name}": value for name, value in facts.items()}
    tensor = np.array([known.get(fact, np.nan) for fact in weight.FACTS], np.float32)
    result = model.run([{"course": course, "facts": tensor}])
    assert result.set_aside == (None,)
    return np.asarray(result.outputs["weight_g"][0, SLAUGHTER], np.float64)


def unmeasured() -> NDArray[np.float32]:
    return np.full((weight.LENGTH, len(weight.COURSE)), np.nan, np.float32)


def on_the_scale(ratio: float) -> NDArray[np.float32]:
    """Return a course on which the scale shows ``ratio`` of the breed's curve each day, and nothing else is known."""
    course = unmeasured()
    course[-36:, weight.WEIGHT] = math.log(ratio)
    return course


def test_where_only_history_is_known_it_is_the_answer(model: Model) -> None:
    quantiles = said(model, unmeasured(), flocks=5.0, weight_bias=-0.05, weight_bias_sd=0.04)
    curve = ROSS_308.weight_g[37]
    assert quantiles[P50] == pytest.approx(curve * math.exp(-0.05), rel=1e-4)
    assert quantiles[P10] == pytest.approx(curve * math.exp(-0.05 - 1.2816 * 0.04), rel=1e-4)
    assert quantiles[P90] == pytest.approx(curve * math.exp(-0.05 + 1.2816 * 0.04), rel=1e-4)


def test_a_scale_that_is_known_to_read_low_is_believed_to(model: Model) -> None:
    history = {"flocks": 3.0, "weight_bias": 0.0, "weight_bias_sd": 0.05}
    sure = {"scale_error_sd": 0.01, "scale_error_14d_sd": 0.012}
    right = said(model, on_the_scale(0.92), **history, scale_error=0.0, scale_error_14d=0.0, **sure)
    low = said(model, on_the_scale(0.92), **history, scale_error=0.08, scale_error_14d=0.08, **sure)
    assert 1.04 < low[P50] / right[P50] < 1.12
    assert low[P50] == pytest.approx(ROSS_308.weight_g[37], rel=0.03)


def test_a_house_with_history_is_told_more_narrowly(model: Model) -> None:
    new = said(model, on_the_scale(0.95))
    known = said(
        model,
        on_the_scale(0.95),
        flocks=4.0,
        weight_bias=-0.02,
        weight_bias_sd=0.045,
        scale_error=0.03,
        scale_error_14d=0.02,
        scale_error_sd=0.01,
        scale_error_14d_sd=0.012,
    )
    assert math.log(known[P90] / known[P10]) < math.log(new[P90] / new[P10])


def test_simulated_houses_are_scored_by_their_history(capsys: pytest.CaptureFixture[str]) -> None:
    assert by_history(["--houses", "2", "--flocks", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Gompertz fit" in lines[0]
    assert any(line.startswith("| 14 | any |") for line in lines)
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_without_the_real_data_it_says_where_they_are_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert real_slaughter(["--data", str(tmp_path)]) == 1
    assert f"{tmp_path / 'slaughter' / 'slaughter.csv'} is not there" in capsys.readouterr().err


def test_real_flocks_are_scored_by_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two houses that differ by 10 %: what the bundle knows of them in 2025 it has from the flocks before."""
    (tmp_path / "slaughter").mkdir()
    with (tmp_path / "slaughter" / "slaughter.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("lot_hash", "age_d", "slaughter_date", "weight_kg", "adg_g"))
        for house, share in (("AAAA", 1.05), ("BBBB", 0.95)):
            for number in range(8):
                on = date(2024, 3, 1) + timedelta(days=60 * number)
                writer.writerow((f"{house}-{number:04d}", 45 + number % 2, on, f"{3.2 * share:.3f}", 70))
    assert real_slaughter(["--data", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "16 flocks, 0 of them left out" in out
    assert " 5 d before: 4 flocks of 2025" in out


def test_an_anchor_knows_nothing_of_the_flock_that_it_forecasts() -> None:
    flocks = [
        Slaughtered(house, date(2024, 6, 1) + timedelta(days=60 * n), 44 + n % 3, 3_000.0 + 100 * n)
        for house in ("A", "B")
        for n in range(6)
    ]
    changed = [*flocks[:5], replace(flocks[5], weight_g=4_500.0), *flocks[6:]]
    for name, forecast in anchors(flocks).items():
        assert forecast[5] == pytest.approx(anchors(changed)[name][5]), name


def test_a_flock_that_was_placed_in_a_full_house_is_left_out() -> None:
    first = Slaughtered("A", date(2024, 6, 1), 45, 3_000.0)
    too_soon = Slaughtered("A", date(2024, 6, 20), 45, 3_000.0)
    later = Slaughtered("A", date(2024, 8, 1), 45, 3_000.0)
    assert without_overlap([first, too_soon, later]) == [first, later]


def test_the_report_weighs_the_bundles_that_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "slaughter").mkdir()
    row = "A-1,48,2025-03-01,3.3,68\n"
    (tmp_path / "slaughter" / "slaughter.csv").write_text(
        "lot_hash,age_d,slaughter_date,weight_kg,adg_g\n" + row, encoding="utf-8"
    )
    with pytest.raises(BundleError, match="there is no bundle 'weight'"):
        slaughter_section(tmp_path, tmp_path / "bundles")
