"""The real sets as parts of the report; each is left out, and that is said, where its data are not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models_onnx.evaluate import nab, real_slaughter
from models_onnx.evaluate.real_ammonia import forecasts
from models_onnx.evaluate.report import Goal, Section, ammonia_section, table
from models_onnx.train.alarms import corpus_score, score_of
from models_onnx.train.anomaly import NAME as ANOMALY
from models_onnx.train.anomaly import THRESHOLD

if TYPE_CHECKING:
    from pathlib import Path

    from agent.predict import Predictor

SLAUGHTER_GOAL_G = 139.8  # age, level and house, on the flocks of a later year
GONE = "Left out: no folder was named by `--real`, or it does not hold the data.\n"


def sections(real: Path | None, bundles: Path, predictor: Predictor) -> list[Section]:
    """Return the parts about real sets; ``real`` is the folder that holds them, ``bundles`` that of the models."""
    found = [ammonia_section(forecasts(real, predictor) if real is not None else [])]
    return [*found, slaughter_section(real, bundles), nab_section(real, bundles)]


def slaughter_section(real: Path | None, bundles: Path) -> Section:
    """Return the part about the slaughter weights of real flocks, of which nothing but the history is known."""
    title = "Real slaughter weights from history alone"
    path = None if real is None else real / "slaughter" / "slaughter.csv"
    if path is None or not path.exists():
        return Section(title, GONE)
    flocks = real_slaughter.without_overlap(real_slaughter.read(path))
    scores = real_slaughter.scores(flocks, "weight", bundles)
    names = list(scores[0].anchors)
    rows = [
        (
            f"{s.lead} d before",
            f"{s.flocks:,}",
            f"**{s.error_g:.1f} g**",
            f"{s.error_pct:.2f} %",
            f"{s.interval80:.0%}",
            *(f"{s.anchors[name]:.1f} g" for name in names),
        )
        for s in scores
    ]
    year = real_slaughter.HELD_OUT_FROM.year
    text = f"""{len(flocks):,} flocks through `flockwatch replay`, those of {year} scored; mean absolute
error. The simple forecasts are made on the slaughter day, and fitted to the years before.

{table(("", "flocks", "weight", "in %", "within p10 to p90", *names), rows)}"""
    first = min(scores, key=lambda score: score.lead)
    goal = Goal(
        f"slaughter weight from history only, real flocks of {year}, {first.lead} d before",
        f"< {SLAUGHTER_GOAL_G} g",
        f"{first.error_g:.1f} g",
        first.error_g < SLAUGHTER_GOAL_G,
        ", ".join(f"{name} {error:.1f} g" for name, error in first.anchors.items()),
    )
    return Section(title, text, (goal,), scores)


def nab_section(real: Path | None, bundles: Path) -> Section:
    """Return the part about the Numenta Anomaly Benchmark's seven real series."""
    title = "Numenta Anomaly Benchmark, seven real series"
    folder = None if real is None else real / "nab"
    if folder is None or not (folder / "windows.json").exists():
        return Section(title, GONE)
    files = nab.read_files(folder)
    scores = nab.replayed(files, bundles, ANOMALY)
    whole = corpus_score(files, scores, THRESHOLD)
    each = [(labelled.name, score_of(labelled, scores[labelled.name], THRESHOLD)) for labelled in files]
    known = sorted(nab.published(folder).items(), key=lambda item: -item[1])
    rows = [(name, f"{s.score:.2f}", f"{s.hits} of {s.windows}", str(s.false)) for name, s in each]
    beside = [(name, f"{score:.1f}") for name, score in known]
    text = f"""The bundle `{ANOMALY}` through `flockwatch replay`, standard profile, one threshold
({THRESHOLD:g}, chosen on simulated series): **{whole:.1f}** of 100.

{table(("file", "score", "windows hit", "false alarms"), rows)}
Published, on the same files:

{table(("detector", "score"), beside)}"""
    theirs = max((score for name, score in known if name.startswith("numenta")), default=float("nan"))
    goal = Goal(
        "NAB, seven series, standard profile, one threshold", f"> {theirs:.1f} (Numenta HTM)", f"{whole:.1f}",
        whole > theirs, ", ".join(f"{name} {score:.1f}" for name, score in known[:4]),
    )  # fmt: skip
    return Section(title, text, (goal,), {"score": whole, "published": dict(known)})
