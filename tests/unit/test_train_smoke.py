from __future__ import annotations

import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from agent.bundles import find_bundle, load_bundle, shipped_directory
from agent.predict import Model
from models_onnx.evaluate.baselines import WEIGHT_BASELINES
from models_onnx.train import expect, mortality, weight
from models_onnx.train.__main__ import main as train
from models_onnx.train.bundle import said_by
from models_onnx.train.compare import differences
from models_onnx.train.data import collect, flocks_of
from models_onnx.train.graph import Graph
from models_onnx.train.net import Net, Scaling, calibrated, fit, pinball
from models_onnx.train.run import TRAINERS
from models_onnx.train.terms import Terms

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from models_onnx.train.data import FlockData

LARGEST_BUNDLE = 1_000_000  # bytes


@pytest.fixture(scope="module")
def flocks() -> list[FlockData]:
    """Return a few flocks of a farm that no model was made with."""
    start = datetime(2027, 5, 1, tzinfo=UTC)
    return list(flocks_of("test", houses=6, days=24, seed=424_242, start=start, clean=True))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all bundles, trained for seconds."""
    folder = tmp_path_factory.mktemp("bundles")
    assert train(["--tiny", "--out", str(folder)]) == 0
    return folder


def test_training_writes_bundles_that_the_agent_takes(tiny: Path) -> None:
    for name in TRAINERS:
        directory = find_bundle(tiny, name)
        Model(load_bundle(directory, agent_version="0.1.0"))
        files = {"model.onnx", "manifest.toml", "selftest.npz", "CARD.md"}
        if name in {expect.NAME, mortality.NAME, weight.NAME}:
            files.add("reference.npz")  # the others see single series, and houses in trouble for some hours
        assert {f.name for f in directory.iterdir()} == files


def test_the_same_training_gives_the_same_bytes_and_a_changed_figure_is_named(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bundles"
    shutil.copytree(tiny, folder)
    assert train(["--tiny", "--check", "--out", str(folder), "expect"]) == 0
    assert f"expect/{expect.VERSION}: the same, byte for byte" in capsys.readouterr().out

    path = find_bundle(folder, "expect") / "model.onnx"
    model = onnx.load(path)
    figures = next(tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT)
    changed = numpy_helper.to_array(figures) + np.float32(0.5)
    figures.CopyFrom(numpy_helper.from_array(changed, figures.name))
    onnx.save(model, path)
    assert [text for text in differences(path.parent, find_bundle(tiny, "expect")) if figures.name in text] == [
        f"model.onnx: {figures.name}: {changed.size} of {changed.size} figures differ, by 0.5 at the most"
    ]
    reference = path.parent / "reference.npz"
    with np.load(reference) as known:
        arrays = dict(known)
    arrays["age_days"] = arrays["age_days"] + np.float32(1)
    count = len(arrays["age_days"])
    np.savez_compressed(reference, **arrays)
    told = [text for text in differences(path.parent, find_bundle(tiny, "expect")) if "age_days" in text]
    assert told == [f"reference.npz: age_days: {count} of {count} figures differ, by 1 at the most"]
    (path.parent / "CARD.md").unlink()
    assert any("CARD.md is only in" in text for text in differences(path.parent, find_bundle(tiny, "expect")))


def test_a_bundle_that_nobody_trains_is_a_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train(["wieght"])
    assert ended.value.code == 2
    assert "there is no bundle 'wieght'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cause", "expect", "mortality", "weight"])
def test_a_shipped_bundle_is_small_and_passes_its_self_test(name: str) -> None:
    directory = find_bundle(shipped_directory(), name)
    Model(load_bundle(directory))
    assert sum(f.stat().st_size for f in directory.iterdir()) < LARGEST_BUNDLE


@pytest.mark.parametrize("name", ["cause", "expect", "mortality", "weight"])
def test_a_shipped_model_answers_where_nothing_was_measured(name: str) -> None:
    """A house without a sensor and a flock of which little is known: wide, but numbers."""
    model = Model(load_bundle(find_bundle(shipped_directory(), name)))
    for age in (0.5, 10.0, 45.0, 60.0):
        known = {"age_days": age, "hour_sin": 0.0, "hour_cos": 1.0, "day_fraction": 0.5}
        known |= {"reference.weight_g": 40 + 50 * age, "reference.feed_g": 12 + 4 * age}
        house = {}
        for spec in model.manifest.input:
            rows = spec.grid.length if spec.grid else 0
            facts = [known.get(fact, np.nan) for fact in spec.facts]
            unknown = np.full((rows, len(spec.features)), np.nan, np.float32)
            house[spec.name] = np.array(facts, np.float32) if spec.facts else unknown
        result = model.run([house])
        assert result.set_aside == (None,)
        assert name != "weight" or (result.outputs["weight_g"] > 0).all()


def test_shipped_expectations_beat_same_as_yesterday_on_an_unseen_farm(flocks: Sequence[FlockData]) -> None:
    model = Model(load_bundle(find_bundle(shipped_directory(), "expect")))
    samples = collect(flocks, expect.WANTED, per_day=8, seed=5, held=False, days=range(4, 24))
    said = said_by(model, samples)
    for number, head in enumerate(expect.HEADS):
        actual, yesterday = samples.actual[:, number], samples.yesterday[:, number]
        known = np.isfinite(actual) & np.isfinite(yesterday)
        assert known.sum() > 100
        if "slow" in head.name or "since" in head.name:
            continue  # they look away from yesterday on purpose
        off = np.abs(actual - said[head.name][:, 0, 1])[known].mean()
        assert off < np.abs(actual - yesterday)[known].mean(), head.name


def test_shipped_weights_beat_simple_forecasts_on_an_unseen_farm(flocks: Sequence[FlockData]) -> None:
    model = Model(load_bundle(find_bundle(shipped_directory(), "weight")))
    samples = collect(flocks, weight.WANTED, per_day=4, seed=5, held=False, days=range(10, 24))
    said, truth = said_by(model, samples)["weight_g"][:, :, 1], weight.truth_of(samples)
    for name in ("same as yesterday", "Gompertz fit"):
        simple = WEIGHT_BASELINES[name](samples)
        for number, horizon in enumerate(weight.HORIZONS):
            both = np.isfinite(simple[:, number]) & np.isfinite(truth[:, number])
            assert both.sum() > 50
            ours, theirs = (np.abs(of[both, number] / truth[both, number] - 1).mean() for of in (said, simple))
            assert ours < theirs, (name, horizon)


def test_an_exported_network_gives_what_the_trained_one_gives() -> None:
    """Columns prepared in the graph and in numpy, the network in both: the same numbers, gaps included."""
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(50, 5)).astype(np.float32)
    columns[rng.random((50, 5)) < 0.2] = np.nan
    columns[:, 0] = 1.0
    scaling = Scaling.of(columns, np.ones(50, np.float32))
    assert 0 not in scaling.gaps
    net = Net(5 + len(scaling.gaps), seed=3)
    graph = Graph({"x": ("houses", 5)})
    out = net.emit(graph, graph.prepared("x", scaling.mean, scaling.spread, scaling.gaps))
    [got] = graph.values([out], {"x": columns})
    assert got == pytest.approx(net.forward(scaling.prepared(columns))[-1], abs=1e-5)


def test_terms_are_the_cells_that_they_name() -> None:
    """Cells counted back from the last row, roots, differences, means of what is known, and facts."""
    graph = expect.new_graph()
    terms = Terms(graph, expect.INPUTS)
    now, coming = terms.at("hours", 0, expect.H_FEED), terms.at("hours", 23, expect.H_FEED)
    warm = [terms.at("days", back, expect.D_TEMPERATURE) for back in range(3)]
    asked = [
        terms.root(coming),
        terms.less(terms.root(now), terms.root(coming)),
        terms.mean(warm),
        terms.unrest(warm[:2], warm[1:]),
        terms.log(terms.fact(expect.CURVE_WEIGHT)),
        terms.mean([terms.at("tens", 0, 1), terms.at("tens", 1, 1)]),
    ]
    row, place = terms.gathered()
    rng = np.random.default_rng(4)
    tensors = {s.name: rng.uniform(1, 2, (3, *(int(n) for n in s.shape[1:]))).astype(np.float32) for s in expect.INPUTS}
    tensors["days"][1, -2, expect.D_TEMPERATURE] = np.nan
    tensors["tens"][2, -2:, 1] = np.nan
    got = graph.values([graph.columns(row, [place[term] for term in asked])], tensors)[0]
    flow, days = np.sqrt(tensors["hours"][:, :, expect.H_FEED]), tensors["days"][:, :, expect.D_TEMPERATURE]
    assert got[:, 0] == pytest.approx(flow[:, -24])
    assert got[:, 1] == pytest.approx(flow[:, -1] - flow[:, -24], abs=1e-6)
    assert got[:, 2] == pytest.approx(np.nanmean(days[:, -3:], axis=1))
    assert got[[0, 2], 3] == pytest.approx(np.abs(np.diff(days[[0, 2], -3:])).mean(axis=1), abs=1e-6)
    assert np.isnan(got[1, 3])
    assert got[:, 4] == pytest.approx(np.log(tensors["facts"][:, expect.CURVE_WEIGHT]))
    assert np.isnan(got[:, 5]).tolist() == [False, False, True]


def test_what_is_alike_counts_most_and_what_is_not_hardly() -> None:
    """Three lit hours at 2, two dark ones at 0.1, and a lit one that was not measured."""
    graph = expect.new_graph()
    terms = Terms(graph, expect.INPUTS)
    hours, light = (terms.column("hours", column, range(6)) for column in (expect.H_WATER, expect.H_LIGHT))
    asked = terms.alike(hours, light, terms.at("coming_hour", 0, expect.C_LIGHT), 0.5)
    terms.mean([terms.less(hours[0], hours[1])])
    row, place = terms.gathered()
    tensors = {s.name: np.ones((4, *(int(n) for n in s.shape[1:])), np.float32) for s in expect.INPUTS}
    tensors["hours"][:, -6:, expect.H_WATER] = (0.1, 0.1, 2, 2, 2, np.nan)
    tensors["hours"][:, -6:, expect.H_LIGHT] = (0, 0, 3.2, 3.2, 3.2, 3.2)
    tensors["coming_hour"][:, 0, expect.C_LIGHT] = (0, 3.2, 1.6, np.nan)
    dark, lit, between, untold = graph.values([graph.columns(row, [place[asked]])], tensors)[0][:, 0]
    assert dark == pytest.approx(0.1, abs=1e-3)
    assert lit == pytest.approx(2, abs=1e-3)
    assert np.isnan(between)  # nothing is as light as that
    assert np.isnan(untold)


def test_gradients_are_those_of_the_pinball_loss() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(64, 4)).astype(np.float32), rng.normal(size=64).astype(np.float32)
    net = Net(4, seed=1)
    gradients = net.gradients(x, y)
    for parameter, gradient in zip([*net.weights, *net.biases], gradients, strict=True):
        where = np.unravel_index(int(np.abs(gradient).argmax()), gradient.shape)
        kept, losses = parameter[where], []
        for step in (1e-2, -1e-2):
            parameter[where] = kept + step
            losses.append(3 * pinball(y, net.quantiles(x)))  # the mean over rows of the sum over three quantiles
        parameter[where] = kept
        assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(gradient[where], rel=0.1, abs=2e-3)


def test_the_same_seed_gives_the_same_network_and_it_learns() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4000, 3)).astype(np.float32)
    y = (2 * x[:, 0] + rng.normal(size=4000) * (1 + (x[:, 1] > 0))).astype(np.float32)
    first, again = (fit(x[:3000], y[:3000], x[3000:], y[3000:], seed=5, epochs=60) for _ in range(2))
    for a, b in zip(first.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    q = first.quantiles(x[3000:])
    assert (np.diff(q, axis=1) >= 0).all()
    assert np.corrcoef(q[:, 1], x[3000:, 0])[0, 1] > 0.95
    below, above = calibrated(first, x[3000:], y[3000:])
    assert 0.7 < below < 1.4
    assert 0.7 < above < 1.4
    noisy = x[3000:, 1] > 0
    assert (q[noisy, 2] - q[noisy, 0]).mean() > 1.4 * (q[~noisy, 2] - q[~noisy, 0]).mean()
