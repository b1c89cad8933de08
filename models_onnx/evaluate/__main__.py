"""`python -m models_onnx.evaluate`: the shipped bundles on test farms, into RESULTS.md."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in training

import argparse
import sys
import time
from pathlib import Path

from agent.bundles import find_bundle, load_bundle
from agent.errors import FlockwatchError
from agent.predict import Model
from models_onnx.evaluate.report import report
from models_onnx.evaluate.run import (
    FULL,
    TINY,
    expected_figures,
    farms,
    faults_found,
    healthy_traces,
    samples_of,
    temperature_persistence,
    weighed_figures,
)
from models_onnx.train import expect as expect_training
from models_onnx.train import weight as weight_training


def main(arguments: list[str] | None = None) -> int:
    """Evaluate both bundles and return the exit code."""
    here = Path(__file__).parents[1]
    parser = argparse.ArgumentParser(prog="python -m models_onnx.evaluate", description=__doc__)
    parser.add_argument("--bundles", type=Path, default=here, help="where <name>/<version>/ lie")
    parser.add_argument("--out", type=Path, default=here / "RESULTS.md", help="the file to write")
    parser.add_argument(
        "--tiny", action="store_true", help="minutes become seconds, and the figures worthless: for tests"
    )
    chosen = parser.parse_args(arguments)
    size = TINY if chosen.tiny else FULL
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:6.1f} s] {text}", flush=True)

    try:
        expect, weight = (Model(load_bundle(find_bundle(chosen.bundles, name))) for name in ("expect", "weight"))
    except FlockwatchError as e:
        print(e, file=sys.stderr)
        return e.exit_code
    say(f"{expect} and {weight}: simulating {size.farms} test farms of {size.houses} houses")
    kept = farms(size)
    expect_samples = samples_of(kept, expect_training.WANTED, size.per_day)
    weight_samples = samples_of(kept, weight_training.WANTED, size.per_day)
    healthy = healthy_traces(kept[-1], expect, size)
    expected = expected_figures(expect, expect_samples, healthy)
    for x in expected:
        say(f"{x.name}: error {x.error:.4g} {x.unit}, yesterday {x.yesterday:.4g}, within p10..p90 {x.interval80:.0%}")
    found = faults_found(expect, size)
    for f in found:
        say(f"{f.fault}: {f.found} of {f.houses} found, median after {f.median_h:.1f} h")
    weighed = weighed_figures(weight, weight_samples)
    for w in weighed:
        say(f"weight {w.name}: error {w.error:.2f} %, within p10..p90 {w.interval80:.0%}")
    persistence = temperature_persistence(expect_samples)
    house_days = sum(trace.days for trace in healthy)
    chosen.out.write_text(report(size, expected, persistence, weighed, found, house_days), encoding="utf-8")
    say(f"wrote {chosen.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
