"""Writes a bundle: model, manifest, self-test and card, so that the agent takes it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from onnx.reference import ReferenceEvaluator

from agent.bundles import INPUT_PREFIX, MANIFEST, OUTPUT_PREFIX, SELFTEST, load_bundle
from agent.predict import Model

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from agent.bundles import Bundle

SELFTEST_ROWS = 4


def write_bundle(
    directory: Path,
    model: ModelProto,
    manifest: str,
    inputs: Mapping[str, NDArray[np.float32]],
    card: str,
) -> Bundle:
    """Write a bundle and return it as the agent loads it; ``SHA256`` in the manifest becomes the model's.

    The self-test is what ONNX's own reference implementation makes of the first rows of ``inputs``.

    Raises:
        BundleError: the agent would not take it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    content = model.SerializeToString(deterministic=True)
    (directory / "model.onnx").write_bytes(content)
    (directory / MANIFEST).write_text(manifest.replace("SHA256", hashlib.sha256(content).hexdigest()), encoding="utf-8")
    (directory / "CARD.md").write_text(card, encoding="utf-8")
    feed = {name: values[:SELFTEST_ROWS] for name, values in inputs.items()}
    names = [output.name for output in model.graph.output]
    with np.errstate(all="ignore"):  # NaN stands for what is not measured
        values = ReferenceEvaluator(model).run(names, feed)
    outputs = {name: np.asarray(value) for name, value in zip(names, values, strict=True)}
    arrays = {INPUT_PREFIX + n: v for n, v in feed.items()} | {OUTPUT_PREFIX + n: v for n, v in outputs.items()}
    np.savez_compressed(directory / SELFTEST, **arrays)
    bundle = load_bundle(directory)
    Model(bundle)  # runs the self-test
    return bundle
