"""Simulated series of single sensors, with anomalies that are known: what the ``anomaly`` bundle is trained on.

Nothing of a farm, and nothing of any public data set: days and weeks, restless and quiet times, levels that change for
good reason, peaks that are normal; then a few times that are not. All ranges are our judgement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from models_onnx.train.alarms import Labelled

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]

DAY_S = 86_400
STEPS_S = (300, 300, 300, 600, 1800, 3600)
LENGTHS = (2000, 4000, 8000, 12_000, 18_000)
KINDS, SHARES = ("daily", "weekly", "memory", "wandering", "bursts", "quiet"), (0.25, 0.2, 0.2, 0.1, 0.15, 0.1)
ANOMALIES = ("shift", "spike", "spikes", "drift", "season", "wild", "flat", "noise", "drop", "pulse")
WINDOW_SHARE = 0.1  # of a series lies within windows, as in the benchmark
FIRST, LAST = 0.18, 0.97  # the shares of a series between which anomalies begin


class Course(NamedTuple):
    """A simulated series: rows, windows around its anomalies, where in day and week each row lies, the onsets."""

    labelled: Labelled
    day_fraction: F64
    week_fraction: F64
    onsets: tuple[int, ...]


def course(seed: int) -> Course:
    """Return the series of a seed."""
    rng = np.random.default_rng(seed)
    step_s, count = int(rng.choice(STEPS_S)), int(rng.choice(LENGTHS))
    days = (np.arange(count) * step_s + rng.integers(0, 7 * DAY_S)) / DAY_S
    kind = str(rng.choice(KINDS, p=SHARES))
    values = _restless(rng, _plain(rng, kind, days), days, has_days=kind in {"daily", "weekly"})
    onsets = _onsets(rng, count)
    half = int(WINDOW_SHARE * count / len(onsets)) // 2
    for onset in onsets:
        _disturb(rng, values, onset, half, max(DAY_S // step_s, 8), has_days=kind not in {"bursts", "quiet"})
    values = values * 10 ** rng.uniform(-2, 4) + rng.normal() * 10 ** rng.uniform(-1, 3)
    if rng.random() < 0.2:  # a coarse sensor
        grain = values.std() / rng.choice([4, 10, 30]) or 1.0
        values = np.round(values / grain) * grain
    windows = tuple((max(onset - half, 0), min(onset + half, count - 1)) for onset in onsets)
    return Course(Labelled(f"seed {seed}", (), values, windows), days % 1, days / 7 % 1, onsets)


def _onsets(rng: Generator, count: int) -> tuple[int, ...]:
    """Return where anomalies begin: one to five, their windows apart."""
    wanted = int(rng.choice([1, 1, 2, 2, 3, 4, 5]))
    onsets: list[int] = []
    for onset in np.sort(rng.integers(int(FIRST * count), int(LAST * count), wanted)).tolist():
        if not onsets or onset - onsets[-1] > 1.05 * WINDOW_SHARE * count:
            onsets.append(onset)
    return tuple(onsets)


def _remembering(noise: F64, share: float) -> F64:
    """Return noise in which each value keeps a share of the one before, its spread 1."""
    found: F64 = np.empty_like(noise)
    kept = 0.0
    for i, value in enumerate(noise.tolist()):
        kept = share * kept + value
        found[i] = kept
    return np.asarray(found / (found.std() + 1e-9))


def _plain(rng: Generator, kind: str, days: F64) -> F64:
    """Return a course without any disturbance."""
    count = len(days)
    noise = rng.standard_t(rng.choice([3, 4, 6]), size=count) if rng.random() < 0.4 else rng.normal(size=count)
    if kind in {"daily", "weekly"}:
        season = np.zeros(count)
        for wave in range(1, int(rng.integers(2, 7))):
            season += rng.normal() / wave**0.7 * np.cos(2 * np.pi * wave * days + rng.uniform(0, 2 * np.pi))
        season /= season.std() + 1e-9
        if kind == "weekly":
            season = np.where(np.floor(days) % 7 >= 5, season * rng.uniform(0.3, 0.9) + rng.normal() * 0.4, season)
        found = season + rng.uniform(0.05, 0.5) * _remembering(noise, float(rng.choice([0, 0.3, 0.7, 0.9, 0.97])))
        if rng.random() < 0.4:
            wander = np.cumsum(rng.normal(size=count))
            found = found + rng.uniform(0.1, 0.8) * wander / (wander.std() + 1e-9)
        return np.asarray(found)
    if kind == "memory":
        return _remembering(noise, float(rng.choice([0, 0.3, 0.7, 0.9, 0.97])))
    if kind == "wandering":
        return _remembering(rng.normal(size=count), 1 - rng.uniform(0.001, 0.01)) + 0.1 * noise
    if kind == "quiet":
        peaks = np.where(rng.random(count) < rng.uniform(0, 0.01), rng.gamma(2, 1, size=count), 0)
        return np.asarray(rng.uniform(0.02, 0.1) * noise + peaks)
    at, often = 0, rng.uniform(0.005, 0.05)
    found = np.asarray(rng.uniform(0, 0.2) + 0.05 * noise)
    while at < count:
        at += int(rng.exponential(1 / often)) + 1
        length = int(rng.integers(1, 8))
        found[at : at + length] += rng.gamma(2, 0.6)
        at += length
    if rng.random() < 0.5:
        found = found * np.where((days % 1 > 0.3) & (days % 1 < 0.75), 1, rng.uniform(0.1, 0.6))
    return np.asarray(found)


def _restless(rng: Generator, values: F64, days: F64, *, has_days: bool) -> F64:
    """Return a course with what is no anomaly, though it looks like one to a simple rule."""
    count, spread = len(values), float(values.std()) + 1e-9
    if rng.random() < 0.35:  # levels that change for good reason, all the time
        at, size, usual = 0, spread * rng.uniform(0.1, 1.2), rng.uniform(40, 400)
        while at < count:
            length = int(rng.exponential(usual)) + 5
            values[at : at + length] += rng.normal() * size
            at += length
    if rng.random() < 0.4:  # restless times and quiet ones
        mood = _remembering(rng.normal(size=count), rng.uniform(0.98, 0.999))
        values = values + spread * rng.uniform(0.05, 0.5) * np.exp(rng.uniform(0.4, 1.2) * mood) * rng.normal(
            size=count
        )
    if rng.random() < 0.35:  # short peaks
        peaks = rng.choice([1, 1, -1]) * spread * rng.gamma(1.5, rng.uniform(0.3, 2), size=count)
        values = values + np.where(rng.random(count) < rng.uniform(0.001, 0.03), peaks, 0)
    if rng.random() < 0.15:  # switched on and off
        share, at = np.ones(count), 0
        long, short = rng.uniform(20, 300), rng.uniform(5, 150)
        while at < count:
            begin = at + int(rng.exponential(long)) + 2
            at = begin + int(rng.exponential(short)) + 1
            share[begin:at] = rng.uniform(0, 0.2)
        values = values.min() + (values - values.min()) * share
    if has_days and rng.random() < 0.3:  # no day is like the other
        of_day = np.exp(0.25 * rng.normal(size=int(days[-1] - days[0]) + 2))
        values = values.mean() + (values - values.mean()) * of_day[(days - days[0]).astype(np.int64)]
    spread = float(values.std()) + 1e-9
    for at in rng.integers(0, count, rng.integers(0, 6)).tolist():
        values[at] += rng.choice([-1, 1]) * spread * rng.uniform(0.5, 2.5)
    return np.asarray(values)


def _disturb(rng: Generator, values: F64, onset: int, half: int, day: int, *, has_days: bool) -> None:
    """Put an anomaly into a course, from ``onset`` on."""
    kind = str(rng.choice(ANOMALIES))
    if kind == "season" and not has_days:
        kind = "shift"
    count, spread, sign = len(values), float(values.std()) + 1e-9, float(rng.choice([-1, 1]))
    end = min(onset + int(rng.integers(half // 2 + 2, half + 4)), count)
    length = end - onset
    told: Any
    match kind:
        case "shift":
            values[onset : end if rng.random() < 0.6 else count] += sign * spread * rng.uniform(1.2, 4)
        case "spike":
            values[onset : onset + int(rng.integers(1, 4))] += sign * spread * rng.uniform(4, 10)
        case "spikes":
            for told in rng.integers(onset, end, 5).tolist():
                values[told : told + 2] += sign * spread * rng.uniform(3, 7)
        case "drift":
            values[onset:end] += sign * spread * rng.uniform(2, 5) * np.linspace(0, 1, length)
        case "season":  # a day that goes like no other: at another time, or hardly at all
            told = values[onset : onset + day].copy()
            if rng.random() < 0.5:
                values[onset : onset + day] = np.roll(told, len(told) // 2)
            else:
                mean = told.mean()
                values[onset : onset + day] = (told - mean) * rng.uniform(0, 0.4) + mean - spread * rng.uniform(0, 1)
        case "wild":
            mean = values[onset:end].mean()
            values[onset:end] = mean + (values[onset:end] - mean) * rng.uniform(2, 4)
        case "flat":
            values[onset:end] = values[onset]
        case "noise":
            values[onset:end] += spread * rng.uniform(0.6, 2) * rng.normal(size=length)
        case "drop":
            values[onset:end] = values.min() - spread * rng.uniform(0, 3)
        case _:
            values[onset : onset + max(length // 4, 2)] += sign * spread * rng.uniform(2, 6)
