"""`flockwatch-train`: set a bundle right by what a lake of real flocks shows, if that makes it better on later ones.

The incumbent is played through the lake as on the gateways. What it said is held against what came true, in the flocks
that ended first; the corrections that follow are then judged on the flocks that ended last, which they have not seen.
A bundle that is no better there is not written.

One decision is made, of all outputs together: of twenty that are judged one by one, two seem better at 90 % by luck.
What each flock gained is averaged over the outputs, each in shares of the incumbent's loss, and that over the flocks is
held against chance by the signs of the gains (``sureness``). Flocks, not values, are drawn: those of one flock are no
witnesses of their own, and neither are the outputs.
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
DRAWS = 4_096  # of signs; of up to twelve flocks these are all there are
SURE = 0.9  # that a gain is no chance
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

    @property
    def is_worse(self) -> bool:
        """Whether the candidate's loss or its bands are worse, by luck or not: such an output stays as it is."""
        miss = [abs(share - COVERED) for share in self.covered]
        return self.pinball[1] >= self.pinball[0] or miss[1] > miss[0] + WORSE_COVERAGE


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a bundle."""

    sure: float  # that the candidate is better
    taken: dict[str, Correction]  # by output; empty: the incumbent stays
    verdicts: tuple[Verdict, ...]


def sureness(gains: F64) -> float:
    """Return how sure it is that the mean of some flocks' gains [flocks] is above 0 and no chance.

    1 less the share of all signs which the gains could have had by chance that give a mean as high. Four flocks that
    all gained are sure to 15/16; a bootstrap of so few is surer than it may be.
    """
    if len(gains) <= np.log2(DRAWS):
        signs = 1.0 - 2 * ((np.arange(2 ** len(gains))[:, None] >> np.arange(len(gains))) & 1)
    else:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (DRAWS, len(gains)))
    chance = signs @ gains >= gains.sum() - 1e-12 * np.abs(gains).sum()
    return 1 - float(chance.mean())


def judged(
    output: str, rows: F64, flock: NDArray[np.int64], correction: Correction
) -> tuple[Verdict, dict[int, float]]:
    """Return how a correction does on rows [n, 4] (p10, p50, p90, actual) that it was not made of.

    And by the flock's number what it gained, in shares of the incumbent's mean loss.
    """
    said, actual = rows[:, :3], rows[:, 3]
    answers = said, correction(said, 1)
    flocks, of, counts = np.unique(flock, return_inverse=True, return_counts=True)
    losses = np.array([[pinball(actual[of == i], a[of == i]) for i in range(len(flocks))] for a in answers])
    inside = [((actual >= a[:, 0]) & (actual <= a[:, 2])).astype(np.float64) for a in answers]
    covered = [float(np.mean(np.bincount(of, share) / counts)) for share in inside]
    means = losses.mean(axis=1)
    gains = (losses[0] - losses[1]) / means[0] if means[0] > 0 else np.zeros(len(flocks))
    verdict = Verdict(output, len(flocks), len(rows), (float(means[0]), float(means[1])), (covered[0], covered[1]))
    return verdict, dict(zip(flocks.tolist(), gains.tolist(), strict=True))


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


def retrain(bundle: Bundle, hindsight: Hindsight) -> Decision:
    """Return whether the corrections are better on later flocks, which are taken, and the verdict on every output.

    Raises:
        InputError: too few flocks have ended.
    """
    early, late = split(hindsight.ended)
    corrections: dict[str, Correction] = {}
    verdicts: list[Verdict] = []
    gained: dict[int, list[float]] = {}  # by flock, of each output
    for output in bundle.manifest.output:
        rows, flock = hindsight.of(output.name, early)
        later, later_flock = hindsight.of(output.name, late)
        if min(len(np.unique(flock)), len(np.unique(later_flock))) < FEWEST_FLOCKS:
            continue
        correction = fitted(output.unit, rows[:, :3], rows[:, 3], flock)
        verdict, gains = judged(output.name, later, later_flock, correction)
        verdicts.append(verdict)
        corrections[output.name] = correction
        for number, gain in gains.items():
            gained.setdefault(number, []).append(gain)
    sure = sureness(np.array([np.mean(gains) for gains in gained.values()])) if gained else 0.0
    kept = {v.output: corrections[v.output] for v in verdicts if not v.is_worse} if sure >= SURE else {}
    return Decision(sure, kept, tuple(verdicts))


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
    decision = retrain(bundle, hindsight)
    report = table(decision)
    written = None
    if decision.taken:
        early, late = split(hindsight.ended)
        told = f"{len(early)} flocks of a lake, judged on {len(late)} that ended later"
        written = write_recalibrated(bundle, chosen.out, decision.taken, f"{told}\n\n{report}")
    if chosen.json:
        values = [{**asdict(verdict), "taken": verdict.output in decision.taken} for verdict in decision.verdicts]
        print(json.dumps({"written": str(written) if written else None, "sure": decision.sure, "outputs": values}))
    else:
        print(report)
        print(f"wrote {written.directory}" if written else f"it is not surely better: {bundle} stays, nothing written")
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


def table(decision: Decision) -> str:
    """Return the decision, and the verdicts as a table, in Markdown."""
    lines = [
        f"Better over all outputs together: {decision.sure:.0%} sure ({SURE:.0%} are asked for).",
        "",
        "| output | flocks | values | pinball loss | candidate's | in p10 to p90 | candidate's | taken |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in decision.verdicts:
        figures = (f"{one.pinball[0]:.4g}", f"{one.pinball[1]:.4g}", f"{one.covered[0]:.0%}", f"{one.covered[1]:.0%}")
        cells = (one.output, one.flocks, f"{one.values:,}", *figures, "yes" if one.output in decision.taken else "no")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
