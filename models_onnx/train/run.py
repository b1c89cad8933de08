"""The training of both bundles from simulated farms to files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from agent.predict import Model
from models_onnx.train import expect, weight
from models_onnx.train.bundle import SELFTEST_ROWS, Head, digest_of, manifest_text, write_bundle
from models_onnx.train.card import expect_card, weight_card
from models_onnx.train.data import Samples, Wanted, collect, flocks_of
from models_onnx.train.judging import limits_of, rates_of, traces
from models_onnx.train.net import pinball

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from agent.bundles import Bundle
    from models_onnx.farm.params import RangeSet
    from models_onnx.train.data import FlockData

SEED = 20_261_122
EXPECT_CADENCE_S, WEIGHT_CADENCE_S = 600, 3600


@dataclass(frozen=True, slots=True)
class Size:
    """How much to simulate: farms of ``houses`` each, placed in different seasons."""

    train_farms: int
    validation_farms: int
    houses: int
    days: int
    expect_per_day: int
    weight_per_day: int
    epochs: int
    judged_houses: int


FULL = Size(5, 1, 56, 46, 6, 4, 40, 44)
TINY = Size(1, 1, 3, 12, 2, 2, 2, 2)


@dataclass(frozen=True, slots=True)
class Gathered:
    """Instants of the same farms for both bundles."""

    expect: Samples
    weight: Samples


EXPECT_WANTED = Wanted(expect.INPUTS, expect.EXPECTED, yesterday=True)
WEIGHT_WANTED = Wanted(weight.INPUTS, (), weight.HORIZON_DAYS)


def farms_of(
    ranges: RangeSet, count: int, houses: int, days: int, *, seed: int, rough: bool = True
) -> Iterator[list[FlockData]]:
    """Yield the flocks of farm after farm, placed at times spread over the year."""
    for number in range(count):
        start = datetime(2026, 1 + number * 12 // max(count, 1), 3, tzinfo=UTC)
        yield list(flocks_of(ranges, houses=houses, days=days, seed=seed + number, start=start, rough=rough))


def gathered(farms: Iterable[list[FlockData]], *, per_day: tuple[int, int], seed: int, held: bool = False) -> Gathered:
    """Return instants of all flocks of some farms, so many of a day for expect and for weight.

    ``held``: some of them look as they do while a warning stands.
    """
    of_expect, of_weight = [], []
    for number, flocks in enumerate(farms):
        of_expect.append(collect(flocks, EXPECT_WANTED, per_day=per_day[0], seed=seed + number, held=held))
        of_weight.append(collect(flocks, WEIGHT_WANTED, per_day=per_day[1], seed=seed + 100 + number, held=held))
    return Gathered(joined(of_expect), joined(of_weight))


def joined(parts: Sequence[Samples]) -> Samples:
    """Return samples one after the other; flocks are numbered through."""
    shift, flocks = 0, []
    for part in parts:
        flocks.append(part.flock + shift)
        shift += int(part.flock.max(initial=-1)) + 1
    return Samples(
        {name: np.concatenate([part.tensors[name] for part in parts]) for name in parts[0].tensors},
        np.concatenate([part.at_ms for part in parts]),
        np.concatenate(flocks),
        np.concatenate([part.actual for part in parts]),
        np.concatenate([part.yesterday for part in parts]),
        np.concatenate([part.weight_g for part in parts]),
    )


def said_by(model: Model, samples: Samples) -> dict[str, NDArray[np.float64]]:
    """Return what a model says at each instant, by output."""
    houses = [{name: values[i] for name, values in samples.tensors.items()} for i in range(len(samples))]
    return model.run(houses).outputs


def for_selftest(samples: Samples) -> dict[str, NDArray[np.float32]]:
    """Return a few instants of different flocks, ages and sensors."""
    rows = np.linspace(0, len(samples) - 1, SELFTEST_ROWS).astype(np.intp)
    return {name: values[rows] for name, values in samples.tensors.items()}


def train(out: Path, size: Size, say: Callable[[str], None]) -> tuple[Bundle, Bundle]:
    """Train both bundles and write them under ``out``."""
    say(f"simulating {size.train_farms} farms of {size.houses} houses to train on, {size.validation_farms} to validate")
    per_day = size.expect_per_day, size.weight_per_day
    farms = farms_of("train", size.train_farms, size.houses, size.days, seed=SEED)
    samples = gathered(farms, per_day=per_day, seed=SEED, held=True)
    farms = farms_of("validation", size.validation_farms, size.houses, size.days, seed=SEED)
    validation = gathered(farms, per_day=per_day, seed=SEED)
    for name, of, by in (("expect", samples.expect, validation.expect), ("weight", samples.weight, validation.weight)):
        say(f"{name}: {len(of):,} instants to train on, {len(by):,} to stop and to calibrate by")
    return (
        train_expect(out, size, samples.expect, validation.expect, say),
        train_weight(out, size, samples.weight, validation.weight, say),
    )


def train_expect(out: Path, size: Size, samples: Samples, validation: Samples, say: Callable[[str], None]) -> Bundle:
    """Train ``expect`` and write it under ``out``."""
    model = expect.export(expect.train(samples, validation, epochs=size.epochs, seed=SEED % 1000, say=say))

    directory, tested = out / expect.NAME / expect.VERSION, for_selftest(samples)
    head = Head(expect.NAME, expect.VERSION, "expect", EXPECT_CADENCE_S, digest_of(samples.tensors.values()), {})
    bundle = write_bundle(directory, model, manifest_text(head, expect.INPUTS, expect.outputs_of({})), tested, "")
    runnable = Model(bundle)
    said = said_by(runnable, validation)
    losses = [pinball(validation.actual[:, i], said[head.name][:, 0]) for i, head in enumerate(expect.HEADS)]
    metrics = {head.name: float(f"{loss:.3g}") for head, loss in zip(expect.HEADS, losses, strict=True)}

    say("expect: judging healthy flocks of another validation farm, for the limits")
    flocks = next(farms_of("validation", 1, size.judged_houses, size.days, seed=SEED + 500))
    found = traces(flocks, runnable)
    limits = limits_of(found)
    for name, (below, above) in rates_of(found, limits).items():
        limit = limits[name]
        say(f"expect {name}: limits {limit.low} and {limit.high}, false per house-day {below:.4f} and {above:.4f}")
    manifest = manifest_text(replace(head, metrics=metrics), expect.INPUTS, expect.outputs_of(limits))
    return write_bundle(directory, model, manifest, tested, expect_card(len(samples), size, metrics, limits))


def train_weight(out: Path, size: Size, samples: Samples, validation: Samples, say: Callable[[str], None]) -> Bundle:
    """Train ``weight`` and write it under ``out``."""
    model = weight.export(weight.train(samples, validation, epochs=size.epochs, seed=SEED % 1000, say=say))

    directory, tested = out / weight.NAME / weight.VERSION, for_selftest(samples)
    head = Head(weight.NAME, weight.VERSION, "weight", WEIGHT_CADENCE_S, digest_of(samples.tensors.values()), {})
    bundle = write_bundle(directory, model, manifest_text(head, weight.INPUTS, weight.OUTPUTS), tested, "")
    said, truth = said_by(Model(bundle), validation)["weight_g"], weight.truth_of(validation)
    off = np.abs(said[:, :, 1] / truth - 1) * 100
    metrics = {f"mae_pct_{name}": round(float(np.nanmean(off[:, i])), 2) for i, name in enumerate(weight.HORIZONS)}
    inside = (truth >= said[:, :, 0]) & (truth <= said[:, :, 2])
    metrics["interval80"] = round(float(inside[np.isfinite(truth)].mean()), 3)
    manifest = manifest_text(replace(head, metrics=metrics), weight.INPUTS, weight.OUTPUTS)
    return write_bundle(directory, model, manifest, tested, weight_card(len(samples), size, metrics))
