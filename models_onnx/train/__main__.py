"""`python -m models_onnx.train [NAME …]`: simulate farms, train bundles, write them where the agent finds them."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one thread adds in one order: the same bits on every machine alike

import argparse  # after the line above: numpy reads it when it is first imported
import sys
import tempfile
import time
from pathlib import Path

from models_onnx.train.compare import differences
from models_onnx.train.job import Job
from models_onnx.train.run import TRAINERS


def main(arguments: list[str] | None = None) -> int:
    """Train bundles and return the exit code: 1 where ``--check`` finds that one came out otherwise."""
    parser = argparse.ArgumentParser(prog="python -m models_onnx.train", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TRAINERS)}; default: all")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1], help="where <name>/<version>/ is written"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="farms simulated at a time")
    parser.add_argument(
        "--tiny", action="store_true", help="minutes become seconds, and the bundles worthless: for tests"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing: train anew, and say what differs from what lies in --out"
    )
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.names if name not in TRAINERS]:
        parser.error(f"there is no bundle {unknown[0]!r}; there are {', '.join(TRAINERS)}")
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:6.1f} s] {text}", flush=True)

    names = chosen.names or list(TRAINERS)
    if not chosen.check:
        for name in names:
            say(f"wrote {TRAINERS[name](Job(chosen.out, say, chosen.tiny, chosen.processes)).directory}")
        return 0
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            bundle = TRAINERS[name](Job(Path(folder), say, chosen.tiny, chosen.processes))
            differ = differences(chosen.out / bundle.directory.relative_to(folder), bundle.directory)
            found += len(differ)
            for text in differ or ["the same, byte for byte"]:
                say(f"{bundle}: {text}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
