"""The benchmark's scoring rule: cases worked by hand, the anchors that the paper gives, known detectors."""

from __future__ import annotations

import csv
import json
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from models_onnx.evaluate.nab import main, null, random, read_files, windowed_gaussian
from models_onnx.train.alarms import (
    Labelled,
    best_threshold,
    corpus_score,
    normalised,
    score_of,
    weight_at,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

COUNT = 1_000
FILE = Labelled("one", (), np.zeros(COUNT), ((400, 499), (800, 899)))


def alarms(*rows: int) -> NDArray[np.float64]:
    """Return scores of 1 at some rows."""
    scores = np.zeros(COUNT)
    scores[list(rows)] = 1.0
    return scores


def sigmoid(position: float) -> float:
    return 2 / (1 + math.exp(5 * position)) - 1


def test_an_alarm_is_worth_most_at_a_windows_begin_nothing_at_its_end_and_least_far_behind() -> None:
    assert weight_at(-1.0) == pytest.approx(0.98661, abs=1e-5)
    assert weight_at(0.0) == 0.0
    assert weight_at(1.0) == pytest.approx(-0.98661, abs=1e-5)
    assert weight_at(3.1) == -1.0


HAND_WORKED = {
    "nothing": ((), -2.0, 0, 0),
    "both at once": ((400, 800), 2.0, 2, 0),
    "the middle of the first": ((450,), sigmoid(-0.5) / sigmoid(-1) - 1, 1, 0),
    "its last row": ((499,), sigmoid(-0.01) / sigmoid(-1) - 1, 1, 0),
    "only the earliest counts": ((400, 410, 480), 1 - 1, 1, 0),
    "false before any window": ((300,), -2 - 0.11, 0, 1),
    "false just behind one": ((500,), -2 + 0.11 * sigmoid(1 / 99), 0, 1),
    "false far behind one": ((799,), -2 - 0.11, 0, 1),
    "three false ones": ((200, 201, 202), -2 - 0.33, 0, 3),
    "in the time for learning": ((0, 149), -2.0, 0, 0),
    "right after it": ((150,), -2.11, 0, 1),
}


@pytest.mark.parametrize("case", HAND_WORKED)
def test_alarms_are_worth_what_was_worked_out_by_hand(case: str) -> None:
    rows, score, hits, false = HAND_WORKED[case]
    found = score_of(FILE, alarms(*rows), 0.5)
    assert found.score == pytest.approx(score, abs=1e-9)
    assert (found.hits, found.windows, found.false) == (hits, 2, false)


def test_the_time_for_learning_is_750_rows_at_most() -> None:
    assert Labelled("", (), np.zeros(1_000), ()).probation == 150
    assert Labelled("", (), np.zeros(1_882), ()).probation == 282
    assert Labelled("", (), np.zeros(22_695), ()).probation == 750


def test_silence_scores_0_and_perfection_100() -> None:
    assert corpus_score([FILE], {"one": null(FILE.values)}, 0.6) == 0.0
    assert corpus_score([FILE], {"one": alarms(400, 800)}, 0.5) == 100.0
    assert normalised(0.0, 2) == 50.0


def test_the_best_threshold_is_the_one_that_scores_best() -> None:
    scores = alarms(400, 800) * 0.9 + alarms(200, 201, 202, 203) * 0.8 + alarms(600) * 0.95
    threshold = best_threshold([FILE], {"one": scores})
    assert threshold == 0.9
    assert corpus_score([FILE], {"one": scores}, threshold) == pytest.approx(normalised(2 - 0.11 * 0.987, 2), abs=0.1)


def a_series() -> NDArray[np.float64]:
    """Return noise with a peak of twenty spreads in each window."""
    values = np.random.default_rng(7).normal(size=COUNT)
    values[[405, 810]] += 20
    return values


def test_the_windowed_gaussian_finds_what_lies_outside_its_normal_distribution() -> None:
    scores = windowed_gaussian(a_series())
    assert scores[0] == 0.0
    assert scores[405] == scores[810] == 1.0
    assert 0.5 < np.median(scores) < 0.9  # one minus a tail of both sides, halved
    found = score_of(FILE, scores, 1.0)
    assert (found.hits, found.false) == (2, 0)
    assert found.score > 1.9


def test_dice_are_worth_less_than_a_detector() -> None:
    files = [Labelled("one", (), a_series(), FILE.windows)]
    dice, gauss = ({"one": f(files[0].values)} for f in (random, windowed_gaussian))
    of_dice, of_gauss = (corpus_score(files, s, best_threshold(files, s)) for s in (dice, gauss))
    assert 0 <= of_dice < of_gauss > 95


def test_a_folder_of_the_benchmark_is_scored_through_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From CSV files and windows to a table: known detectors, the shipped bundle by its scores.csv, the published."""
    (tmp_path / "data").mkdir()
    hours = [f"2026-01-{1 + n // 288:02d} {n % 288 // 12:02d}:{n % 12 * 5:02d}:00" for n in range(700)]
    values = np.random.default_rng(7).normal(size=700)
    values[410:] += 12
    with (tmp_path / "data" / "shift.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("timestamp", "value"), *zip(hours, values.tolist(), strict=True)])
    spans = [[f"{hours[380]}.000000", f"{hours[449]}.000000"]]
    (tmp_path / "windows.json").write_text(json.dumps({"some/shift.csv": spans}))
    (tmp_path / "published_per_file_standard_scores.csv").write_text("detector,Score\nold,-1.0\n")
    [file_] = read_files(tmp_path)
    assert file_.windows == ((380, 449),)
    assert main(["--data", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "null: 0.0 at its best threshold" in said
    assert "| shift | " in said
    assert "1 of 1" in said
    assert "published, old: 0.0" in said
