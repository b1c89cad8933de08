"""Sets the quantiles of any bundle right from what came true: its middle moved, its half bands stretched.

The correction becomes a few nodes behind the model's own output, so it works for a model from whatever tool, and the
gateway runs it without a word of code. With few flocks it is held back: what one flock shows may be that flock.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from agent.bundles import INPUT_PREFIX, MANIFEST, OUTPUT_PREFIX, SELFTEST, load_bundle
from agent.manifest import version_key
from agent.predict import Model

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from agent.bundles import Bundle

    F64 = NDArray[np.float64]

RATIO_UNITS = frozenset({"g", "kg", "l"})  # amounts are wrong by a share of them, levels by a difference
CAUTION_FLOCKS = 4.0  # so many flocks' worth of evidence stand for "as it was": n flocks count for n / (n + 4)
STRETCH = (0.25, 4.0)  # beyond, a model is no model of these houses, and no band makes it one
TAIL = 0.1  # of the actual values lie below p10, and above p90


@dataclass(frozen=True, slots=True)
class Correction:
    """Of one output: middle x ``factor`` + ``shift``; the bands below and above it x ``below`` and ``above``."""

    factor: float = 1.0
    shift: float = 0.0
    below: float = 1.0
    above: float = 1.0

    def __call__(self, quantiles: F64, middle: int) -> F64:
        """Return corrected quantiles [..., quantiles]; ``middle`` is the place of p50."""
        p50 = quantiles[..., middle : middle + 1]
        off = quantiles - p50
        moved = p50 * self.factor + self.shift
        return np.asarray(moved + off * np.where(off < 0, self.below, self.above) * self.factor, np.float64)


def fitted(unit: str | None, said: F64, actual: F64, flock: NDArray[np.int64]) -> Correction:
    """Return the correction of an output that the actual values ask for.

    ``said`` [n, 3] is p10, p50 and p90, ``actual`` [n] what came true, ``flock`` [n] in which flock: each flock counts
    alike, however many instants it has.
    """
    flocks, of, counts = np.unique(flock, return_inverse=True, return_counts=True)
    weight = 1.0 / counts[of]
    trust = len(flocks) / (len(flocks) + CAUTION_FLOCKS)
    if unit in RATIO_UNITS and (said[:, 1] > 0).all():
        factor, shift = weighted_quantile(actual / said[:, 1], 0.5, weight) ** trust, 0.0
    else:
        factor, shift = 1.0, weighted_quantile(actual - said[:, 1], 0.5, weight) * trust
    low, middle, high = Correction(factor, shift)(said, 1).T
    stretches = []
    for off, half in ((middle - actual, middle - low), (actual - middle, high - middle)):
        sizes = np.divide(off, half, out=np.zeros_like(off), where=half > 0)
        wanted = float(np.clip(weighted_quantile(sizes, 1 - TAIL, weight), *STRETCH))
        stretches.append(wanted**trust)
    return Correction(factor, shift, *stretches)


def weighted_quantile(values: F64, share: float, weight: F64) -> float:
    """Return the value below which ``share`` of the weight lies."""
    order = np.argsort(values)
    reached = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(reached, share * reached[-1])])


def with_corrections(model: bytes, outputs: Mapping[str, tuple[Correction, int]]) -> onnx.ModelProto:
    """Return a model whose named outputs are corrected; beside each correction the place of p50 in the last axis."""
    proto = onnx.load_from_string(model)
    graph = proto.graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.output}
    for name, (correction, middle) in outputs.items():
        raw, prefix = f"{name}.uncorrected", f"{name}.recalibrated"
        _rename(graph, name, raw)
        dtype = helper.tensor_dtype_to_np_dtype(types[name])
        constants = {
            "middle": np.array([middle], np.int64),
            "factor": np.array(correction.factor, dtype),
            "shift": np.array(correction.shift, dtype),
            "below": np.array(correction.below * correction.factor, dtype),
            "above": np.array(correction.above * correction.factor, dtype),
            "nothing": np.array(0, dtype),
        }
        graph.initializer.extend(numpy_helper.from_array(v, f"{prefix}.{n}") for n, v in constants.items())

        steps = (
            ("Sub", "off", (raw, "p50")),
            ("Less", "is_below", ("off", "nothing")),
            ("Where", "stretch", ("is_below", "below", "above")),
            ("Mul", "band", ("off", "stretch")),
            ("Mul", "scaled", ("p50", "factor")),
            ("Add", "moved", ("scaled", "shift")),
            ("Add", name, ("moved", "band")),
        )
        graph.node.append(helper.make_node("Gather", [raw, f"{prefix}.middle"], [f"{prefix}.p50"], axis=-1))
        for kind, to, used in steps:
            inputs = [one if one == raw else f"{prefix}.{one}" for one in used]
            graph.node.append(helper.make_node(kind, inputs, [to if to == name else f"{prefix}.{to}"]))
    onnx.checker.check_model(proto)
    return proto


def _rename(graph: onnx.GraphProto, name: str, to: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for index, used in enumerate(names):
                if used == name:
                    names[index] = to


def write_recalibrated(bundle: Bundle, out: Path, corrections: Mapping[str, Correction], how: str) -> Bundle:
    """Write the next version of a bundle, with corrected outputs, under ``out``; ``how`` goes into its card.

    Its self-test is the incumbent's, corrected here and not by the new model: two ways that must come to the same.

    Raises:
        BundleError: the agent would not take it.
    """
    manifest = bundle.manifest
    places = {o.name: (corrections[o.name], o.quantiles.index(0.5)) for o in manifest.output if o.name in corrections}
    major, minor, patch = version_key(manifest.version)
    version = f"{major}.{minor}.{patch + 1}"
    directory = out / manifest.name / version
    directory.mkdir(parents=True, exist_ok=True)
    content = with_corrections(bundle.model, places).SerializeToString(deterministic=True)
    (directory / manifest.model.file).write_bytes(content)
    text = (bundle.directory / MANIFEST).read_text(encoding="utf-8")
    text = re.sub(r'(?m)^version\s*=\s*".*?"', f'version = "{version}"', text, count=1)
    text = text.replace(manifest.model.sha256, hashlib.sha256(content).hexdigest())
    (directory / MANIFEST).write_text(text, encoding="utf-8")
    for path in bundle.directory.iterdir():  # the card, and what drift is measured by
        if path.is_file() and not (directory / path.name).exists():
            shutil.copyfile(path, directory / path.name)
    arrays: dict[str, NDArray[Any]] = {INPUT_PREFIX + name: values for name, values in bundle.selftest_inputs.items()}
    for name, values in bundle.selftest_outputs.items():
        arrays[OUTPUT_PREFIX + name] = values
        if name in places:
            correction, middle = places[name]
            arrays[OUTPUT_PREFIX + name] = correction(values.astype(np.float64), middle)
    np.savez_compressed(directory / SELFTEST, **arrays)  # type: ignore[arg-type]  # numpy's stub of **arrays is wrong
    with (directory / "CARD.md").open("a", encoding="utf-8") as card:
        card.write(f"\n## Version {version}\n\n{bundle}, recalibrated by {how}\n")
    written = load_bundle(directory)
    Model(written)  # runs the self-test
    return written
