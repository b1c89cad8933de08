"""`python -m models_onnx.train`: simulate farms, train both bundles, write them where the agent finds them."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one thread adds in one order: the same bits on every machine alike

import argparse  # after the line above: numpy reads it when it is first imported
import sys
import time
from pathlib import Path

from models_onnx.train.run import FULL, TINY, train_expect, train_weight


def main(arguments: list[str] | None = None) -> int:
    """Train what is asked for and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m models_onnx.train", description=__doc__)
    parser.add_argument("--only", choices=["expect", "weight"], help="train one bundle; without it, both")
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

    if chosen.only != "weight":
        say(f"wrote {train_expect(chosen.out, size, say)}")
    if chosen.only != "expect":
        say(f"wrote {train_weight(chosen.out, size, say)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
