"""`python -m models_onnx.train`: simulate farms, train both bundles, write them where the agent finds them."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one thread adds in one order: the same bits on every machine alike

import argparse  # after the line above: numpy reads it when it is first imported
import sys
import time
from pathlib import Path

from models_onnx.train.run import FULL, TINY, train


def main(arguments: list[str] | None = None) -> int:
    """Train both bundles and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m models_onnx.train", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1], help="where <name>/<version>/ is written"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="minutes become seconds, and the bundles worthless: for tests"
    )
    chosen = parser.parse_args(arguments)
    size = TINY if chosen.tiny else FULL
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:6.1f} s] {text}", flush=True)

    for bundle in train(chosen.out, size, say):
        say(f"wrote {bundle.directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
