"""Whether a bundle that was trained anew is the one that lies there: byte for byte, or which figure differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[np.generic]]


def differences(there: Path, anew: Path) -> list[str]:
    """Return in words what differs between the bundle ``there`` and the one made ``anew``; empty: not a byte."""
    if not there.is_dir():
        return [f"{there} is not there"]
    found = []
    for name in sorted({path.name for folder in (there, anew) for path in folder.iterdir()}):
        if not (there / name).is_file() or not (anew / name).is_file():
            found.append(f"{name} is only in {there if (there / name).is_file() else anew}")
        elif (there / name).read_bytes() != (anew / name).read_bytes():
            found += [f"{name}: {text}" for text in _within(there / name, anew / name)]
    return found


def _within(there: Path, anew: Path) -> list[str]:
    """Return what differs between two files of one name whose bytes do."""
    if there.suffix == ".onnx":
        arrays = [_initializers(path) for path in (there, anew)]
        return _of_arrays(*arrays) or ["the same figures in another graph"]
    if there.suffix == ".npz":
        with np.load(there) as left, np.load(anew) as right:
            return _of_arrays(left, right) or ["the same figures in other bytes"]
    lines = [path.read_text(encoding="utf-8").splitlines() for path in (there, anew)]
    pairs = [(a, b) for a, b in zip(*lines, strict=False) if a != b]
    count = f"{len(pairs)} lines differ" if len(lines[0]) == len(lines[1]) else "another number of lines"
    return [f"{count}: first {pairs[0][0]!r}, now {pairs[0][1]!r}"] if pairs else [count]


def _initializers(path: Path) -> dict[str, NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def _of_arrays(there: Arrays, anew: Arrays) -> list[str]:
    found = []
    for name in sorted({*there, *anew}):
        if name not in there or name not in anew:
            found.append(f"{name} is only in the {'old' if name in there else 'new'} one")
            continue
        a, b = there[name], anew[name]
        if a.shape != b.shape:
            found.append(f"{name} has shape {list(b.shape)}, not {list(a.shape)}")
        elif not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
            off = np.abs(a.astype(np.float64) - b.astype(np.float64))
            most = float(np.nanmax(off)) if np.isfinite(off).any() else float("nan")
            found.append(f"{name}: {int((off != 0).sum())} of {a.size} figures differ, by {most:.3g} at the most")
    return found
