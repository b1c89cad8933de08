"""`flockwatch-train`: set a bundle right by what a lake of real flocks shows, if that makes it better on later ones.

The incumbent is played through the lake as on the gateways. What it said is held against what came true, in the flocks
that ended first; the correction that follows is then judged on the flocks that ended last, which it has not seen. A
bundle that is no better there is not written.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent.bundles import find_bundle, load_bundle, shipped_directory
from agent.config import load_config
from agent.errors import ConfigError, FlockwatchError, InputError, UsageError
from agent.predict import Model
from models_onnx.train.hindsight import Hindsight, look_back
from models_onnx.train.lake import STREAMS, open_folder, sites_of
from models_onnx.train.net import QUANTILES, pinball
from models_onnx.train.recalibrate import Correction, fitted, write_recalibrated
from sync.cloud import open_cloud

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from agent.bundles import Bundle
    from models_onnx.train.hindsight import FlockName

    F64 = NDArray[np.float64]

FEWEST_FLOCKS = 4  # to correct by, and to judge by: of fewer, chance says more than the flocks do
HELD_OUT = 0.3  # of the flocks, those that ended last, judge
DRAWS = 2_000  # of the bootstrap over flocks
SURE = 0.9  # of the draws must find the candidate better
COVERED = 0.8  # of the actual values belong between p10 and p90
WORSE_COVERAGE = 0.03  # by which the candidate's share may miss that by more than the incumbent's


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one output does on the flocks that judge: incumbent, then candidate."""

    output: str
    flocks: int
    values: int
    pinball: tuple[float, float]
    covered: tuple[float, float]
    better: float  # share of bootstrap draws over flocks in which the candidate's pinball loss is the lower

    @property
    def is_good(self) -> bool:
        """Whether the candidate is surely better, and its bands are no worse."""
        miss = [abs(share - COVERED) for share in self.covered]
        return self.better >= SURE and miss[1] <= miss[0] + WORSE_COVERAGE


def judged(output: str, rows: F64, flock: NDArray[np.int64], correction: Correction) -> Verdict:
    """Return how a correction does on rows [n, 4] (p10, p50, p90, actual) that it was not made of."""
    said, actual = rows[:, :3], rows[:, 3]
    answers = said, correction(said, 1)
    flocks, of, counts = np.unique(flock, return_inverse=True, return_counts=True)
    losses = np.array([[pinball(actual[of == i], a[of == i]) for i in range(len(flocks))] for a in answers])
    inside = [((actual >= a[:, 0]) & (actual <= a[:, 2])).astype(np.float64) for a in answers]
    covered = [float(np.mean(np.bincount(of, share) / counts)) for share in inside]
    drawn = np.random.default_rng(0).integers(0, len(flocks), (DRAWS, len(flocks)))
    better = float((losses[1][drawn].mean(axis=1) < losses[0][drawn].mean(axis=1)).mean())
    means = losses.mean(axis=1)
    return Verdict(output, len(flocks), len(rows), (float(means[0]), float(means[1])), (covered[0], covered[1]), better)


def split(ended: dict[FlockName, datetime]) -> tuple[set[FlockName], set[FlockName]]:
    """Return the flocks to correct by, and those that ended last, to judge by.

    Raises:
        InputError: too few flocks have ended.
    """
    order = sorted(ended, key=lambda flock: (ended[flock], flock))
    last = max(round(len(order) * HELD_OUT), FEWEST_FLOCKS)
    if len(order) - last < FEWEST_FLOCKS:
        message = f"{len(order)} whole flocks are in the lake, and {2 * FEWEST_FLOCKS} are the fewest that say anything"
        raise InputError(message)
    return set(order[:-last]), set(order[-last:])


def retrain(bundle: Bundle, hindsight: Hindsight) -> tuple[dict[str, Correction], list[Verdict]]:
    """Return the corrections that are better on later flocks, by output, and the verdict on every output.

    Raises:
        InputError: too few flocks have ended.
    """
    early, late = split(hindsight.ended)
    good: dict[str, Correction] = {}
    verdicts = []
    for output in bundle.manifest.output:
        rows, flock = hindsight.of(output.name, early)
        later, later_flock = hindsight.of(output.name, late)
        if min(len(np.unique(flock)), len(np.unique(later_flock))) < FEWEST_FLOCKS:
            continue
        correction = fitted(output.unit, rows[:, :3], rows[:, 3], flock)
        verdicts.append(judged(output.name, later, later_flock, correction))
        if verdicts[-1].is_good:
            good[output.name] = correction
    return good, verdicts


def main(arguments: Sequence[str] | None = None) -> int:
    """Do it, and return the exit code: 0 a bundle was written, 1 none is better, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="flockwatch-train", description=(__doc__ or "").replace("`", ""))
    parser.add_argument("name", metavar="BUNDLE", help="name or name/version of the incumbent, such as weight")
    parser.add_argument("--lake", required=True, metavar="URL", help="folder, file:///folder or s3://bucket/prefix")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where <name>/<version>/ is written")
    parser.add_argument("--bundles", type=Path, metavar="DIR", help="where the incumbent lies (default: those shipped)")
    parser.add_argument("--site", action="append", metavar="SITE", help="only this site; may be repeated")
    parser.add_argument("--config", type=Path, help="an agent.toml: time zone, kinds of signals, [sync.options]")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep what is read from a bucket here, for next time")
    parser.add_argument("--json", action="store_true", help="the verdict for programs")
    chosen = parser.parse_args(arguments)
    try:
        return _train(chosen)
    except (UsageError, ConfigError) as e:
        print(f"flockwatch-train: {e}", file=sys.stderr)
        return 2
    except FlockwatchError as e:
        print(f"flockwatch-train: {e}", file=sys.stderr)
        return 1


def _train(chosen: argparse.Namespace) -> int:
    config = load_config(chosen.config)
    bundle = load_bundle(find_bundle(chosen.bundles or shipped_directory(), chosen.name))
    if not any(set(output.quantiles) >= set(QUANTILES) for output in bundle.manifest.output):
        message = f"{bundle}: no output of it says p10, p50 and p90: there is nothing that could be set right"
        raise UsageError(message)
    model, hindsight = Model(bundle), Hindsight()
    with tempfile.TemporaryDirectory(prefix="flockwatch-train-") as scratch:
        folder = local(chosen.lake, config.sync.options, chosen.cache or Path(scratch) / "lake")
        tables = open_folder(folder, Path(scratch) / "work.duckdb")
        sites = sites_of(tables)
        if unknown := set(chosen.site or ()) - set(sites):
            message = f"--site {min(unknown)}: {chosen.lake} holds the sites {', '.join(sites)}"
            raise UsageError(message)
        for site in chosen.site or sites:
            look_back(tables, site, config, model, hindsight)
            print(f"{site}: played, {len(hindsight.ended)} whole flocks by now", file=sys.stderr, flush=True)
    corrections, verdicts = retrain(bundle, hindsight)
    report = table(verdicts)
    written = None
    if corrections:
        early, late = split(hindsight.ended)
        told = f"{len(early)} flocks of a lake, judged on {len(late)} that ended later"
        written = write_recalibrated(bundle, chosen.out, corrections, f"{told}\n\n{report}")
    if chosen.json:
        values = [{**asdict(verdict), "better_for_sure": verdict.is_good} for verdict in verdicts]
        print(json.dumps({"written": str(written) if written else None, "outputs": values}))
    else:
        print(report)
        print(f"wrote {written.directory}" if written else f"nothing is surely better: {bundle} stays, nothing written")
    return 0 if written else 1


def local(url: str, options: Mapping[str, str], cache: Path) -> Path:
    """Return a folder that holds what is needed of a lake; what ``cache`` has is not read again: objects never change.

    Raises:
        CloudError: the store does not answer, or refuses.
        ConfigError: the URL or its options are wrong.
    """
    if "://" not in url:
        return Path(url)
    cloud = open_cloud(url, options)
    if cloud.folder is not None:
        return cloud.folder
    for stream in STREAMS:
        for key in cloud.keys(f"{stream}/"):
            path = cache / key
            if key.endswith(".parquet") and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_suffix(".part")
                part.write_bytes(cloud.get(key))
                part.replace(path)
    return cache


def table(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts as a table in Markdown."""
    lines = [
        "| output | flocks | values | pinball loss | candidate's | in p10 to p90 | candidate's | better in | taken |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in verdicts:
        figures = (f"{one.pinball[0]:.4g}", f"{one.pinball[1]:.4g}", f"{one.covered[0]:.0%}", f"{one.covered[1]:.0%}")
        sure = f"{one.better:.0%} of draws"
        cells = (one.output, one.flocks, f"{one.values:,}", *figures, sure, "yes" if one.is_good else "no")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
