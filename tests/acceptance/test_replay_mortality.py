"""Replay of daily losses: an outbreak is told before it is there, noise is not; without the model, the plain rule."""

from __future__ import annotations

import csv
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.bundles import shipped_directory
from agent.cli import main

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PLACED, BIRDS, DAYS = date(2026, 3, 1), 20_000, 34
Row = dict[str, str]


def usual(seed: int = 1, a_day: float = 14.0) -> list[float]:
    """Return the dead of each day of a flock that is well."""
    rng = np.random.default_rng(seed)
    first_week = [30, 40, 45, 50, 45, 35, 25]
    return [float(n) for n in (*first_week, *rng.poisson(a_day, DAYS - len(first_week)))]


def raised(folder: Path, dead: Sequence[float | None], *words: str, birds: int = BIRDS) -> list[Row]:
    """Replay daily counts, None being a day that nobody told, and return the warnings about mortality."""
    with (folder / "readings.csv").open("w", encoding="utf-8") as file:
        file.write("at,house,signal,value\n")
        for day, n in enumerate(dead):
            if n is not None:
                file.write(f"{PLACED + timedelta(days=day + 1)}T00:00:00Z,h1,dead,{n:g}\n")
    (folder / "flocks.csv").write_text(
        "house,flock,placed_on,birds_placed,strain,sex,parent_age_weeks,ended_on,slaughter_weight_g\n"
        f"h1,A,{PLACED},{birds},ross308,,,{PLACED + timedelta(days=len(dead))},\n",
        encoding="utf-8",
    )
    out = folder / "out"
    given = ["--readings", str(folder / "readings.csv"), "--flocks", str(folder / "flocks.csv"), "--out", str(out)]
    assert main(["replay", *given, *words]) == 0
    with (out / "warnings.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["rule"] == "mortality"]


def day_of(row: Row) -> int:
    """Return the farm day, from placement, whose count raised a warning: it was told at that day's end."""
    return (date.fromisoformat(row["raised_at"][:10]) - PLACED).days - 1


OUTBREAK = [*usual()[:20], 24.0, 35.0, 52.0, 88.0, 150.0, 190.0, 160.0, 110.0, 60.0, 30.0, 18.0, 15.0, 14.0, 13.0]
FIRST_DAY = 23  # 88 of about 19,400 are more than 0.30 %, and more than three times the usual


@pytest.fixture
def without_model(tmp_path: Path) -> tuple[str, ...]:
    """Give the words of a replay whose only bundle is another."""
    config = tmp_path / "agent.toml"
    config.write_text('[site]\nid = "farm1"\ntimezone = "UTC"\n[models]\nuse = ["weight"]\n', encoding="utf-8")
    return ("--config", str(config))


def test_an_outbreak_is_told_a_day_before_it_is_there(tmp_path: Path) -> None:
    [row] = raised(tmp_path, OUTBREAK)
    assert FIRST_DAY - 7 <= day_of(row) <= FIRST_DAY - 1
    assert "an outbreak is" in row["text"]
    assert row["severity"] == "2"
    assert 0 < float(row["confidence"]) < 1
    assert float(row["actual"]) > float(row["expected"])
    assert (
        f"the last days: {', '.join(f'{n:.0f}' for n in OUTBREAK[day_of(row) - 6 : day_of(row) + 1])};" in row["text"]
    )


def test_without_the_model_the_plain_rule_finds_it_on_its_day(tmp_path: Path, without_model: tuple[str, ...]) -> None:
    [row] = raised(tmp_path, OUTBREAK, *without_model)
    assert day_of(row) == FIRST_DAY
    assert row["severity"] == "3"
    assert "become" not in row["text"]
    assert row["confidence"] == ""


def test_an_outbreak_without_a_sign_before_it_is_found_on_its_day(tmp_path: Path) -> None:
    [row] = raised(tmp_path, [*usual()[:20], 150.0, 200.0, 120.0, 60.0, 20.0, 14.0])
    assert day_of(row) == 20
    assert row["severity"] == "3"


@pytest.mark.parametrize("seed", range(3))
def test_chance_is_no_sign(tmp_path: Path, seed: int) -> None:
    assert raised(tmp_path, usual(seed)) == []


@pytest.mark.parametrize("untold", [0.0, None])
def test_a_round_left_out_and_counted_next_day_is_no_sign(tmp_path: Path, untold: float | None) -> None:
    dead: list[float | None] = [*usual(a_day=20)]
    for day in (14, 21, 28):
        counted = dead[day]
        assert counted is not None
        dead[day], dead[day + 1] = untold, (dead[day + 1] or 0.0) + counted
    assert raised(tmp_path, dead) == []


def test_a_figure_that_was_put_right_ends_its_warning(tmp_path: Path) -> None:
    dead = usual()
    dead[20] += 300  # a slip of the pen: 0.30 %, and the plain rule may say so
    dead[21] -= 300
    rows = raised(tmp_path, dead)
    assert [day_of(row) for row in rows] == [20]
    assert rows[0]["cleared_at"] < f"{PLACED + timedelta(days=25)}"


def test_corrections_of_single_birds_change_nothing(tmp_path: Path) -> None:
    dead = usual()
    for day in range(10, DAYS, 5):
        dead[day] = -3.0
    assert raised(tmp_path, dead) == []


def test_a_higher_threshold_is_told_later_and_a_lower_one_no_later(tmp_path: Path) -> None:
    days = []
    for threshold in (0.0015, 0.003, 0.006):
        config = tmp_path / "agent.toml"
        text = f'[site]\nid = "farm1"\ntimezone = "UTC"\n[warnings.rules.mortality]\nthreshold = {threshold}\n'
        config.write_text(text, encoding="utf-8")
        days.append(day_of(raised(tmp_path, OUTBREAK, "--config", str(config))[0]))
    assert days == sorted(days)
    assert days[2] > days[0]


def test_one_outbreak_is_one_warning_that_grows_worse(tmp_path: Path) -> None:
    """The early warning becomes the outbreak's: one row, and it stands until the losses are usual again."""
    [row] = raised(tmp_path, OUTBREAK)
    assert f"{PLACED + timedelta(days=27)}" < row["cleared_at"] < f"{PLACED + timedelta(days=34)}"


def test_the_shipped_bundle_is_there() -> None:
    assert (shipped_directory() / "mortality" / "1.0.0" / "model.onnx").is_file()
