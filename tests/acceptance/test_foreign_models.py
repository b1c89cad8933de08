"""Models of other people, run by their manifests alone: by the agent with a real broker, and in replay."""

from __future__ import annotations

import csv
import json
import math
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agent.cli import main
from agent.clock import SimulatedClock
from tests import foreign

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Broker, Gateway, Mqtt

START = datetime(2026, 3, 2, tzinfo=UTC)
FLOCKS = "house,flock,placed_on,birds_placed,strain,sex,parent_age_weeks,ended_on,slaughter_weight_g\n"
LIMIT = 2_000.0  # of CO2: above it a bad model does its worst


def replayed(
    folder: Path, bundles: Path, values: dict[tuple[str, str], list[float]], step: timedelta
) -> dict[str, list[dict[str, str]]]:
    """Replay series, given by house and signal, with all bundles of a folder; return the rows of each file."""
    lines = ["at,house,signal,value"]
    for (house, signal), series in values.items():
        lines += [f"{(START + n * step).isoformat()},{house},{signal},{value!r}" for n, value in enumerate(series, 1)]
    (folder / "readings.csv").write_text("\n".join(lines) + "\n")
    (folder / "flocks.csv").write_text(FLOCKS)
    words = ["--readings", folder / "readings.csv", "--flocks", folder / "flocks.csv", "--out", folder / "out"]
    assert main(["replay", *map(str, words), "--bundles", str(bundles)]) == 0
    found = {}
    for path in (folder / "out").glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            found[path.stem] = list(csv.DictReader(file))
    return found


def test_models_of_scikit_learn_and_plain_graphs_run_side_by_side_in_replay(tmp_path: Path) -> None:
    """A regression on a flat table, a classifier, a graph of fixed batch 1 in float64 with a mask: no line of code."""
    bundles = tmp_path / "models"
    for write in (foreign.air_from_sklearn, foreign.litter_from_sklearn, foreign.one_by_one):
        write(bundles)
    co2 = [600.0 + 50 * n for n in range(24)]
    values = {(house, "co2"): co2 for house in ("h1", "h2")}
    values |= {(house, "noise"): [400.0] * 24 for house in ("h1", "h2")}
    values |= {
        ("h1", "humidity"): [20.0 + 0.1 * n for n in range(24)],
        ("h2", "humidity"): [90.0 - 0.1 * n for n in range(24)],
    }
    rows = replayed(tmp_path, bundles, values, timedelta(minutes=10))["predictions"]
    last = {(row["house"], row["target"]): float(row["p50"]) for row in rows}
    assert {target for _, target in last} == {"co2_soon", "litter.dry", "litter.wet", "co2.30min.p25", "co2.30min.p75"}
    assert last["h1", "litter.wet"] < 0.2
    assert last["h2", "litter.wet"] > 0.8
    assert last["h1", "litter.dry"] + last["h1", "litter.wet"] == pytest.approx(1, abs=1e-5)
    assert (last["h1", "co2.30min.p25"], last["h1", "co2.30min.p75"]) == (co2[-1] - 100, co2[-1] + 100)
    assert {row["model"] for row in rows} == {"air", "litter", "eins"}
    assert {row["p10"] + row["p90"] for row in rows} == {""}


def test_every_reading_of_any_series_gets_a_score_from_the_past_and_itself(tmp_path: Path) -> None:
    """One row each, whatever the rhythm; what comes later changes nothing."""
    foreign.step_scorer(tmp_path / "models")
    five = [1.0] * 50 + [9.0] + [1.0] * 20
    rows = replayed(tmp_path, tmp_path / "models", {("nab", "value"): five}, timedelta(minutes=5))["scores"]
    assert [row["at"] for row in rows] == [
        (START + timedelta(minutes=5 * n)).isoformat().replace("+00:00", "Z") for n in range(1, 72)
    ]
    assert {(row["house"], row["signal"], row["model"]) for row in rows} == {("nab", "value", "steps")}
    scores = [float(row["score"]) for row in rows]
    assert scores[50] > 0.99
    assert scores[:50] == [0.0] * 50
    assert scores[51] == pytest.approx(math.tanh(2.0), abs=1e-5)
    (tmp_path / "short").mkdir()
    short = replayed(tmp_path / "short", tmp_path / "models", {("nab", "value"): five[:55]}, timedelta(minutes=5))
    assert short["scores"] == rows[:55]
    (tmp_path / "hourly").mkdir()
    hourly = replayed(tmp_path / "hourly", tmp_path / "models", {("nab", "value"): five}, timedelta(hours=1))["scores"]
    assert [row["score"] for row in hourly] == [row["score"] for row in rows]


def test_no_scores_file_is_written_where_nothing_scores(tmp_path: Path) -> None:
    foreign.one_by_one(tmp_path / "models")
    assert "scores" not in replayed(tmp_path, tmp_path / "models", {("h", "co2"): [700.0] * 9}, timedelta(minutes=10))


def test_a_bad_model_never_blinds_the_others_in_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One counts for ever, one wants 4 GB, one answers NaN for one house: each is set aside and named, no more."""
    bundles = tmp_path / "models"
    foreign.one_by_one(bundles)
    for write in (foreign.slow_above, foreign.hog_above, foreign.nan_above):
        write(bundles, LIMIT)
    high = [600.0] * 6 + [3_000.0] * 12
    values = {("h1", "co2"): [600.0] * 18, ("h2", "co2"): high}
    found = replayed(tmp_path, bundles, values, timedelta(minutes=10))
    rows = found["predictions"]
    made = {
        (row["model"], row["house"]): sum(r["model"] == row["model"] and r["house"] == row["house"] for r in rows)
        for row in rows
    }
    assert made["eins", "h1"] == made["eins", "h2"] >= 34
    assert made["root", "h1"] == 18
    assert made["root", "h2"] == 6
    assert made["slow", "h1"] == made["hog", "h1"] == 6
    said = capsys.readouterr().out
    assert "model root/1.0.0: h2: output 'said' holds NaN or infinity" in said
    assert "model slow/1.0.0: set aside until 2026-03-02T07:" in said
    assert "max_runtime_ms is 20" in said
    assert "model hog/1.0.0: set aside until" in said
    assert "it wants more memory than the 128 MB that all models share" in said


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    """Give a folder of good and bad bundles."""
    folder = tmp_path / "models"
    foreign.air_from_sklearn(folder)
    foreign.one_by_one(folder)
    foreign.step_scorer(folder)
    foreign.nan_above(folder, LIMIT)
    foreign.slow_above(folder, LIMIT)
    foreign.hog_above(folder, -1.0)
    return folder


def test_the_agent_runs_foreign_models_and_says_which_it_does_not(
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    bundles: Path,
    mqtt: Callable[..., Mqtt],
    until: Callable[..., None],
) -> None:
    """With a real broker: answers and scores as retained messages; a bad model is named in health, status and list."""
    models = f'directory = "{bundles}"\nuse = ["air", "eins", "steps", "root", "slow", "hog"]'
    gateway = make_gateway(broker.port, houses=("house1", "house2"), models=models)
    clock = SimulatedClock(START, time.time(), 1_200.0)  # twenty minutes a second
    ear, mouth = mqtt("flockwatch/farm1/+/prediction/#", "flockwatch/farm1/health"), mqtt()
    agent = gateway.agent("--simulated-clock", str(clock))
    times = [clock.now() + timedelta(minutes=5 * n) for n in range(1, 72)]
    for house, level in (("house1", 700.0), ("house2", 3_000.0)):
        for signal, value in (("co2", level), ("noise", 400.0)):
            topic = f"skov/farm1/{house}/{signal}"
            mouth.say_all([(topic, {"value": value, "at": at.isoformat()}) for at in times])
    heard: dict[str, Any] = {}

    def has_heard(*wanted: str) -> bool:
        while not ear.heard.empty():
            message = ear.heard.get()
            heard[message.topic.removeprefix("flockwatch/farm1/")] = json.loads(message.payload or b"null")
        return all(topic in heard for topic in wanted) and "model slow/1.0.0" in heard["health"]["degraded"]

    def rests() -> bool:
        return "set aside" in heard["health"]["degraded"]["model slow/1.0.0"]

    wanted = ("health", "house1/prediction/co2_soon", "house2/prediction/steps")
    until(lambda: has_heard(*wanted) and rests(), "foreign answers, and that one model is set aside", 60)

    answer = heard["house1/prediction/co2_soon"]
    assert (answer["meaning"], answer["unit"], answer["model"]) == ("value", "ppm", "air")
    assert 300 < answer["values"]["value"] < 3_000
    assert heard["house2/prediction/co2"]["values"] == {"30min.p25": 2_900.0, "30min.p75": 3_100.0}
    scores = heard["house2/prediction/steps"]["scores"]
    assert set(scores) == {"co2", "noise"}
    assert scores["co2"]["score"] == 0.0
    assert "house1/prediction/root" in heard
    assert "house2/prediction/root" not in heard
    degraded = heard["health"]["degraded"]
    assert degraded["model root/1.0.0"] == "house2: output 'said' holds NaN or infinity"
    assert "max_runtime_ms is 20" in degraded["model slow/1.0.0"]
    assert "128 MB" in degraded["model hog"]
    assert "air" not in str(degraded)
    status = gateway.run("status").stdout
    assert "degraded model hog: " in status
    assert "degraded model slow/1.0.0: " in status
    listed = json.loads(gateway.run("model", "list", "--json").stdout)
    assert {value["bundle"]: value["state"] for value in listed} == {
        "air/1.0.0": "ok", "eins/1.0.0": "ok", "steps/1.0.0": "ok", "root/1.0.0": "set_aside",
        "slow/1.0.0": "set_aside", "hog/1.0.0": "refused",
    }  # fmt: skip
    assert agent.stop() == 0
    assert "Traceback" not in agent.said()
