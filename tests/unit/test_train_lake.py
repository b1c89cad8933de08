"""Training from a lake: what is read of it, what a correction does, and when no bundle is written."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from agent.bundles import find_bundle, load_bundle, shipped_directory
from agent.domain import to_ms
from agent.predict import Model
from agent.store import LAKE_COLUMNS
from agent.strains import STRAINS
from models_onnx.train import cli
from models_onnx.train.hindsight import Hindsight, commands_of
from models_onnx.train.lake import LakeRecording, changes_of, open_folder, sites_of
from models_onnx.train.recalibrate import Correction, fitted, with_corrections
from models_onnx.train.tune import SURE, main, retrain, split, sureness
from sync.lake import encode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agent.bundles import Bundle

START = datetime(2026, 1, 5, tzinfo=UTC)
DAY = timedelta(days=1)
Row = dict[str, Any]


class Lake:
    """A lake in the making: rows of streams, sealed by the courier's own hand into one object a date."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def seal(
        self, stream: str, rows: list[Row], *, site: str = "farm1", gateway: str = "g1", generation: str = "a"
    ) -> None:
        """Write rows; columns that they lack are empty, and their numbers go on from 1."""
        columns = LAKE_COLUMNS[stream]
        whole = [{"seq": number, **row} for number, row in enumerate(rows, 1)]
        table = {name: [row.get(name) for row in whole] for name, _ in columns}
        for date, (_, data) in encode(stream, columns, table).items():
            path = (
                self.folder / stream / f"site={site}" / f"date={date}" / f"{gateway}-{generation}-1-{len(rows)}.parquet"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def reading(at: datetime, signal: str, value: float, **changes: Any) -> Row:  # noqa: ANN401  # whatever a column holds
    row = {"at": to_ms(at), "received_at": to_ms(at) + 500, "house": "house1", "signal": signal, "value": value}
    return {**row, "quality": "good", "time_quality": "sender", **changes}


def flock_row(at: datetime, house: str, flock: str, action: str, state: str, detail: Row, **facts: Any) -> Row:  # noqa: ANN401
    row = {"at": to_ms(at), "house": house, "flock": flock, "action": action, "state": state}
    return {**row, "thinned_birds": 0, "detail": json.dumps(detail), **facts}


def flock(house: str, placed: datetime, days: int, factor: float) -> tuple[list[Row], list[Row]]:
    """Return what a lake holds of a flock that is told once a day and weighs ``factor`` times what its scale says."""
    name, curve = f"{placed:%Y-%m-%d}", STRAINS["ross308"]
    end = placed + days * DAY
    facts = {
        "placed_on": f"{placed:%Y-%m-%d}",
        "birds_placed": 30_000,
        "strain": "ross308",
        "planned_end_on": f"{end:%Y-%m-%d}",
    }
    weight = 0.95 * curve.weight_g[days] * factor
    told = [
        flock_row(placed, house, name, "place", "active", {}, **facts),
        flock_row(
            end + DAY / 2,
            house,
            name,
            "end",
            "empty",
            {},
            **facts,
            ended_at=to_ms(end + DAY / 2),
            slaughter_weight_g=weight,
        ),
    ]
    readings = []
    for day in range(1, days + 1):
        at = placed + day * DAY
        feed = 0.95 * curve.feed_g[day] * 30
        values = {"weight": 0.95 * curve.weight_g[day], "feed": feed, "water": 1.8 * feed}
        readings += [reading(at, signal, value, house=house) for signal, value in values.items()]
    return told, readings


def lake_of(folder: Path, factors: list[float]) -> Path:
    """Write a lake of flocks that end one after the other, each in a house of its own."""
    told, readings = [], []
    for number, factor in enumerate(factors, 1):
        rows = flock(f"house{number}", START + number * DAY, 34, factor)
        told += rows[0]
        readings += rows[1]
    lake = Lake(folder)
    lake.seal("flocks", sorted(told, key=lambda row: row["at"]))
    lake.seal("readings", sorted(readings, key=lambda row: row["at"]))
    return folder


# --- what is read


def test_every_reading_of_a_lake_is_read_once_and_at_its_true_time(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    rows = [
        reading(START, "co2", 700.0),
        reading(START + DAY, "co2", 710.0, time_quality="arrival"),  # an hour early, as was found out after the seal
        reading(datetime(1970, 1, 2, tzinfo=UTC), "co2", 1.0, time_quality="untrusted"),  # that nobody ever knew better
    ]
    lake.seal("readings", rows)
    lake.seal("readings", [*rows[:1], reading(START, "ammonia", 5.0)], generation="b")  # an older copy was put back
    lake.seal("flocks", [flock_row(START, "house1", "f", "place", "active", {}, placed_on="2026-01-05")])
    detail = {"delta_ms": 3_600_000, "first_seq": 2, "last_seq": 2, "sealed_to_seq": 2}
    event = {"at": to_ms(START), "kind": "clock_corrected", "detail": json.dumps(detail)}
    lake.seal("events", [event])
    tables = open_folder(lake.folder, tmp_path / "work.duckdb")
    recording = LakeRecording.of(tables, "farm1")
    seen = [
        (recording.keys[key].signal, at_ms, value)
        for block in recording.blocks()
        for key, at_ms, value in zip(block.key.tolist(), block.at_ms.tolist(), block.value.tolist(), strict=True)
    ]
    later = START + DAY + timedelta(hours=1)
    assert seen == [("ammonia", to_ms(START), 5.0), ("co2", to_ms(START), 700.0), ("co2", to_ms(later), 710.0)]
    assert sites_of(tables) == ["farm1"]


def test_the_changes_of_flocks_become_the_commands_that_made_them_even_from_the_midst_of_a_life(tmp_path: Path) -> None:
    facts = {"placed_on": "2026-01-05", "birds_placed": 30_000, "planned_end_on": "2026-02-10"}
    lake = Lake(tmp_path / "lake")
    rows = [
        flock_row(
            START + 5 * DAY, "house1", "f", "record", "active", {"date": "2026-01-09", "dead": 7, "culled": 1}, **facts
        ),
        flock_row(
            START + 30 * DAY, "house1", "f", "thin", "thinned", {"at": "2026-02-04T06:00:00Z", "birds": 9_000}, **facts
        ),
        flock_row(START + 31 * DAY, "house1", "f", "state", "active", {"reason": "thinned for a day"}, **facts),
        flock_row(START + 36 * DAY, "house1", "f", "end", "empty", {}, **facts, ended_at=to_ms(START + 36 * DAY)),
    ]
    lake.seal("flocks", rows)
    lake.seal("flocks", rows[:2], generation="b")
    lake.seal("readings", [reading(START, "co2", 700.0)])
    told = commands_of(changes_of(open_folder(lake.folder, tmp_path / "work.duckdb"), "farm1"))
    assert [command.action for _, _, command in told] == ["place", "record", "thin", "end"]
    assert told[0][2].model_dump()["birds_placed"] == 30_000
    assert told[1][2].model_dump()["dead"] == 7
    assert told[2][2].model_dump()["birds"] == 9_000


# --- the correction


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_a_corrected_model_says_what_the_correction_makes_of_what_it_said(dtype: int) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["q"]), helper.make_node("Neg", ["q"], ["other"])],
        "any",
        [helper.make_tensor_value_info("x", dtype, ["houses", 2, 3])],
        [helper.make_tensor_value_info(name, dtype, ["houses", 2, 3]) for name in ("q", "other")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    correction = Correction(1.1, 3.0, 2.0, 0.5)
    corrected = with_corrections(model.SerializeToString(), {"q": (correction, 1)})
    said = np.array([[[1.0, 2.0, 4.0], [10.0, 20.0, 21.0]]], helper.tensor_dtype_to_np_dtype(dtype))
    session = ort.InferenceSession(corrected.SerializeToString(), providers=["CPUExecutionProvider"])
    q, other = session.run(["q", "other"], {"x": said})
    assert q == pytest.approx(correction(said.astype(float), 1), rel=1e-6)
    assert q[0, 0].tolist() == pytest.approx([2 * 1.1 + 3 - 2.2, 2 * 1.1 + 3, 2 * 1.1 + 3 + 1.1])
    assert (other == -said).all()  # what is fed by a corrected output inside the model is fed by what it was
    assert [o.name for o in onnx.load_from_string(corrected.SerializeToString()).graph.output] == ["q", "other"]


def test_a_correction_finds_bias_and_width_and_is_cautious_with_few_flocks() -> None:
    rng = np.random.default_rng(1)
    n = 40_000
    said = np.tile([90.0, 100.0, 110.0], (n, 1))
    actual = 105 * np.exp(rng.normal(0, 0.2, n))

    def over(flocks: int) -> Correction:
        return fitted("g", said, actual, np.arange(n) % flocks)

    sure, unsure = over(2_000), over(4)
    assert sure.factor == pytest.approx(1.05, abs=0.01)
    inside = (actual >= sure(said, 1)[:, 0]) & (actual <= sure(said, 1)[:, 2])
    assert inside.mean() == pytest.approx(0.8, abs=0.01)
    assert unsure.factor == pytest.approx(1.05**0.5, abs=0.01)
    assert fitted("Cel", said, actual, np.arange(n) % 2_000).factor == 1


# --- the whole


def test_a_bundle_that_later_flocks_prove_right_is_written_and_runs_in_the_agent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = lake_of(tmp_path / "lake", [1.3, 1.28, 1.31, 1.3, 1.29, 1.3, 1.28, 1.31, 1.3, 1.29, 1.3, 1.3])
    assert main(["weight", "--lake", str(lake), "--out", str(tmp_path / "out"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    (verdict,) = said["outputs"]
    assert verdict["flocks"] == 4
    assert verdict["pinball"][1] < verdict["pinball"][0]
    incumbent = load_bundle(find_bundle(shipped_directory(), "weight"))
    written = load_bundle(find_bundle(tmp_path / "out", "weight"))
    assert f"{written}" == said["written"] != f"{incumbent}"
    before, after = (Model(bundle).run([_row(bundle, 2)]).outputs["weight_g"] for bundle in (incumbent, written))
    assert (after > before).all()
    assert "recalibrated by 8 flocks" in (written.directory / "CARD.md").read_text()


def test_a_correction_that_later_flocks_refute_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = lake_of(tmp_path / "lake", [1.3] * 8 + [0.8] * 4)
    assert main(["weight", "--lake", str(lake), "--out", str(tmp_path / "out")]) == 1
    assert "nothing written" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def a_past(rng: np.random.Generator, middles: Sequence[float], late: Sequence[float]) -> Hindsight:
    """Return 24 flocks of ten values of each output, told 100 ± 10; the last ones come true by ``late``."""
    hindsight = Hindsight()
    for number in range(24):
        flock = ("farm1", "house1", f"f{number:02d}")
        hindsight.ended[flock] = START + number * DAY
        for output, middle in enumerate(middles if number < 17 else late):
            off = rng.normal(0, 3)  # of the flock
            for actual in middle + off + rng.normal(0, 7.2, 10):
                hindsight.add(f"out{output}", flock, (90.0, 100.0, 110.0), actual)
    return hindsight


TWENTY = cast("Bundle", SimpleNamespace(manifest=SimpleNamespace(
    output=[SimpleNamespace(name=f"out{number}", unit="Cel") for number in range(20)])))  # fmt: skip


def test_of_twenty_outputs_that_are_right_already_luck_writes_no_bundle() -> None:
    rng = np.random.default_rng(3)
    written = [bool(retrain(TWENTY, a_past(rng, [100.0] * 20, [100.0] * 20)).taken) for _ in range(20)]
    assert sum(written) <= 2


def test_of_twenty_outputs_that_are_off_one_that_is_refuted_does_not_hold_up_the_others() -> None:
    past = a_past(np.random.default_rng(3), [106.0] * 20, [94.0] + [106.0] * 19)
    decision = retrain(TWENTY, past)
    assert "out0" not in decision.taken
    assert len(decision.taken) > 15  # of some the bands are no better, by luck
    assert decision.sure >= SURE


def test_so_few_flocks_prove_something_only_if_none_says_otherwise() -> None:
    assert sureness(np.array([0.1, 0.2, 0.1, 0.3])) == pytest.approx(15 / 16)
    assert sureness(np.array([0.1, 0.2, -0.1, 0.3])) < SURE
    assert sureness(np.zeros(4)) == 0
    many = np.random.default_rng(0).normal(0.5, 1, 60)
    assert sureness(many) > 0.99
    assert sureness(-many) < 0.01


def test_flocks_that_ended_last_judge_and_never_correct() -> None:
    ended = {("farm1", "house1", f"f{number}"): START + number * DAY for number in range(20)}
    early, late = split(ended)
    assert len(late) == 6
    assert max(ended[flock] for flock in early) < min(ended[flock] for flock in late)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["weight", "--lake", "nowhere"], 1, "nowhere: holds no readings"),
        (["weigth", "--lake", "nowhere"], 1, "no bundle 'weigth'"),
        (["weight", "--lake", "ftp://host/lake"], 2, "ftp"),
    ],
)
def test_what_cannot_be_done_is_said_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "out")]) == code
    assert words in capsys.readouterr().err


def test_without_what_it_stands_on_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("tune", "lake", "hindsight"):
        monkeypatch.delitem(sys.modules, f"models_onnx.train.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "ibis", None)
    assert cli.main() == 2
    assert "ibis is not installed here: pip install 'flockwatch[train]'" in capsys.readouterr().err


def test_too_few_flocks_say_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake = lake_of(tmp_path / "lake", [1.1, 1.1])
    assert main(["weight", "--lake", str(lake), "--out", str(tmp_path / "out")]) == 1
    assert "2 whole flocks" in capsys.readouterr().err


def _row(bundle: Any, number: int) -> dict[str, Any]:  # noqa: ANN401  # a Bundle
    return {name: values[number] for name, values in bundle.selftest_inputs.items()}
