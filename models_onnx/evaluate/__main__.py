"""`python -m models_onnx.evaluate`: the shipped bundles on farms they have not seen, into RESULTS.md and results/."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in training; and the processes share the cores

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from agent.bundles import versions_in
from agent.errors import FlockwatchError
from models_onnx.evaluate.campaign import FULL, MIDDLE, SHORT, jobs_of, run_all
from models_onnx.evaluate.figures import all_figures
from models_onnx.evaluate.play import predictor_of
from models_onnx.evaluate.real import sections
from models_onnx.evaluate.report import write
from models_onnx.farm.params import RANGE_SETS

if TYPE_CHECKING:
    from models_onnx.evaluate.campaign import Size

FINAL = "test"
SIZES = {"full": FULL, "middle": MIDDLE, "short": SHORT}
_WHAT = {
    "full": "",
    "middle": "**This is the middle version, with two houses for each fault: single kinds of faults may be luck.**",
    "short": "**This is the short version: so few houses that the figures only show that everything works.**",
}


def main(arguments: list[str] | None = None, *, size: Size | None = None) -> int:
    """Evaluate the bundles and return the exit code."""
    here = Path(__file__).parents[1]
    parser = argparse.ArgumentParser(prog="python -m models_onnx.evaluate", description=__doc__)
    parser.add_argument("--bundles", type=Path, default=here, help="where <name>/<version>/ lie")
    parser.add_argument("--out", type=Path, default=here, help="the folder for RESULTS.md and results/")
    parser.add_argument(
        "--ranges", choices=RANGE_SETS, default=FINAL, help="which farms; test is for the final report only"
    )
    parser.add_argument(
        "--size",
        choices=SIZES,
        default="full",
        help="how much is played; middle: half an hour; short: minutes, and figures that only show that it works",
    )
    parser.add_argument("--real", type=Path, help="the folder with the real sets; left out where it is not there")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="how many work at once")
    chosen = parser.parse_args(arguments)
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:6.1f} s] {text}", flush=True)

    size = size or SIZES[chosen.size]
    try:
        predictor = predictor_of(chosen.bundles)
        jobs = jobs_of(chosen.ranges, size)
        names = ", ".join(str(model) for model in predictor.models)
        say(f"{names}: {len(jobs)} jobs on farms of the range set {chosen.ranges}")
        outcomes = run_all(jobs, chosen.bundles, chosen.processes, say)
    except FlockwatchError as e:
        print(e, file=sys.stderr)
        return e.exit_code
    say("working out the figures")
    figures = all_figures(outcomes)
    healthy = [outcome for outcome in outcomes if outcome.job == "healthy"]
    about = {
        "what": _WHAT[next((name for name, known in SIZES.items() if known == size), "short")],
        "ranges": chosen.ranges,
        "bundles": names,
        "healthy": len(healthy),
        "flocks": "their whole lives" if size.days is not None else "two flocks each",
        "kinds": len(figures["detection"]["by_fault"]),
    }
    write(chosen.out, about, figures, sections(chosen.real, chosen.bundles, predictor), bytes_of(chosen.bundles))
    say(f"wrote {chosen.out / 'RESULTS.md'}")
    return 0


def bytes_of(bundles: Path) -> int:
    """Return how large the bundles are, all that lie there."""
    found = versions_in(bundles)
    folders = [bundles / name / version for name, versions in found.items() for version in versions]
    return sum(file.stat().st_size for folder in folders for file in folder.iterdir())


if __name__ == "__main__":
    sys.exit(main())
