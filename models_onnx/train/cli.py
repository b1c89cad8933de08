"""`flockwatch-train`, also where what it stands on is not installed: on a gateway it says what to do."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command and return its exit code."""
    try:
        from models_onnx.train.tune import main as train  # noqa: PLC0415  # a gateway has neither onnx nor Ibis
    except ModuleNotFoundError as e:
        print(f"flockwatch-train: {e.name} is not installed here: pip install 'flockwatch[train]'", file=sys.stderr)
        return 2
    return train()
