"""docs/models.md: its worked example, as it stands there, from training to what the agent says."""

from __future__ import annotations

import csv
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli import main
from agent.manifest import parse_manifest
from tests import foreign

if TYPE_CHECKING:
    import pytest

GUIDE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
FLOCKS = "house,flock,placed_on,birds_placed,strain,sex,parent_age_weeks,ended_on,slaughter_weight_g\n"


def test_the_worked_example_is_checked_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [example] = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/models.md", "exec"), {})  # noqa: S102  # that is the promise
    assert main(["model", "check", "models/co2-soon/1.0.0"]) == 0
    assert capsys.readouterr().out.startswith("co2-soon/1.0.0: fine; hash, shapes and self-test are right; ")
    lines = ["at,house,signal,value"]
    for n in range(1, 13):
        at = (datetime(2026, 3, 2, tzinfo=UTC) + n * timedelta(minutes=10)).isoformat()
        lines += [f"{at},house1,co2,{1000 + 10 * n}", f"{at},house1,ventilation,40"]
    Path("R.csv").write_text("\n".join(lines) + "\n")
    Path("F.csv").write_text(FLOCKS)
    assert main([*["replay", "--readings", "R.csv", "--flocks", "F.csv", "--bundles", "models", "--out", "out"]]) == 0
    with Path("out/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["house"], row["target"], row["model"]) for row in rows} == {("house1", "co2_in_30min", "co2-soon")}
    assert abs(float(rows[-1]["p50"]) - (0.9 * 1120 - 4 * 40 + 300)) < 5


def test_the_scorer_of_the_guide_is_a_manifest() -> None:
    [part] = [block for block in re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL) if "series =" in block]
    manifest = parse_manifest(foreign.head("mine").replace("SHA256", "0" * 64) + part, "docs/models.md")
    assert manifest.scored_signals == ("temperature", "co2")
    assert manifest.input[0].inner_shape == (288, 2)
