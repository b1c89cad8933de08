"""The anomaly bundle: simulated series, what the network sees of them, and what the shipped model says."""

from __future__ import annotations

import numpy as np
import pytest

from agent.bundles import find_bundle, load_bundle, shipped_directory
from agent.predict import Model
from models_onnx.train.anomaly import QUIET, READINGS, THRESHOLD, alarms_of, columns_of, labels_of
from models_onnx.train.series import WINDOW_SHARE, course


def test_a_seed_gives_the_same_series_and_its_anomalies_lie_in_their_windows() -> None:
    for seed in range(12):
        series, again = course(seed), course(seed)
        assert np.array_equal(series.labelled.values, again.labelled.values)
        assert np.isfinite(series.labelled.values).all()
        for onset, (first, last) in zip(series.onsets, series.labelled.windows, strict=True):
            assert first <= onset <= last
        inside = sum(last - first + 1 for first, last in series.labelled.windows)
        assert inside <= (WINDOW_SHARE + 0.01) * len(series.labelled.values)
        labels = labels_of(series)
        assert all(labels[onset] == 1 for onset in series.onsets)
        assert set(np.unique(labels)) == {-1, 0, 1}


def test_what_the_network_sees_of_a_reading_does_not_hang_on_later_ones() -> None:
    series = course(3)
    whole = columns_of(series)
    cut = series._replace(
        labelled=type(series.labelled)("cut", (), series.labelled.values[:1500], ()),
        day_fraction=series.day_fraction[:1500],
        week_fraction=series.week_fraction[:1500],
    )
    off = np.abs(columns_of(cut) - whole[:1500])[64:]
    assert np.quantile(off, 0.5) < 0.01  # float32 of another zero and scale
    assert np.quantile(off, 0.99) < 0.1


def test_one_event_is_one_alarm() -> None:
    figures = np.full(300, -3.0)
    figures[[100, 101, 120, 160, 250]] = 3.0
    assert np.flatnonzero(alarms_of(figures, 1.0)).tolist() == [100, 250]
    assert QUIET == 48


def test_the_shipped_model_alarms_at_a_shift_and_hardly_before() -> None:
    model = Model(load_bundle(find_bundle(shipped_directory(), "anomaly")))
    values = np.random.default_rng(2).normal(size=1_100)
    values[1_000:] += 15
    scores = []
    for end in range(900, 1_040):
        window = np.full((READINGS, 3), np.nan, np.float32)
        window[READINGS - end :, 0] = values[:end] - values[end - 1]
        window[READINGS - end :, 1] = np.arange(end) / 288 % 1
        window[READINGS - end :, 2] = np.arange(end) / 2016 % 1
        scores.append(window)
    said = model.run_stacked({"readings": np.stack(scores)}).outputs["score"]
    alarms = np.flatnonzero(said >= THRESHOLD) + 899  # the row that is scored
    assert [row for row in alarms.tolist() if row >= 1_000] == [pytest.approx(1_001, abs=2)]
    assert len(alarms) <= 3
