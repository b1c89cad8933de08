"""A bundle is tried in a process of its own before the agent loads it: what crashes or hoards memory dies alone.

The child loads the bundle, runs its self-test, then runs it for as many houses as there are, under limits of memory and
time. Shipped bundles are part of the program and are not tried again at every start.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from agent.errors import BundleError
from agent.health import resident_mb

WITHIN_S = 60.0  # to load and to run; ours take one, on a small gateway ten
SPARE_MB = 384  # beyond what the runtime itself takes: the arena that all models share, and the model's own file twice
LEAST_HOUSES = 20  # a bundle that is tried by hand is tried for a large farm


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """How a bundle did: processor time of one run for so many houses, and the memory that loading and running took."""

    bundle: str
    houses: int
    run_ms: float
    memory_mb: float


def rehearse(directory: Path, houses: int = LEAST_HOUSES) -> Rehearsal:
    """Try a bundle in a process of its own.

    Raises:
        BundleError: it does not load or run there; the message says what, where, and what to do.
    """
    words = [sys.executable, "-m", "agent.probe", str(directory), str(max(houses, 1))]
    try:
        done = subprocess.run(words, capture_output=True, check=False, timeout=WITHIN_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as e:
        message = f"{directory}: did not load and run its self-test within {WITHIN_S:g} s; make the model smaller"
        raise BundleError(message) from e
    except OSError as e:
        message = f"{directory}: could not be tried in a process of its own: {e.strerror or e}; free memory"
        raise BundleError(message) from e
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        message = (
            f"{directory}: the model ended the process that tried it ({name}): it crashes, or wants more than the "
            f"{SPARE_MB} MB that a model may take; export it again, smaller"
        )
        raise BundleError(message)
    try:
        said = json.loads(done.stdout)
    except ValueError as e:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no word"]
        message = f"{directory}: the process that tried the model failed: {last[0]:.200}; export it again"
        raise BundleError(message) from e
    if "error" in said:
        raise BundleError(said["error"])
    return Rehearsal(**said)


def _try(directory: Path, houses: int) -> Rehearsal:
    """Load and run a bundle in this process, which is given limits that nobody can take back."""
    from agent.bundles import load_bundle  # noqa: PLC0415  # the parent needs neither them nor onnxruntime
    from agent.predict import Model  # noqa: PLC0415

    before_mb = resident_mb()
    most = (_data_mb() + SPARE_MB) * 1_000_000
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    model = Model(load_bundle(directory), is_bounded=True)
    run_ms = model.rehearse(houses)
    return Rehearsal(str(model), houses, round(run_ms, 2), round(max(resident_mb() - before_mb, 0.0), 1))


def _data_mb() -> int:
    """Return what this process has of the memory that RLIMIT_DATA counts: pages of its own that it may write."""
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123  # a kernel file, not a path of ours
        pages = int(statm.read().split()[5])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000


def main(arguments: list[str]) -> int:
    """Try the bundle in a directory for a number of houses; print what came of it as JSON."""
    try:
        said = asdict(_try(Path(arguments[0]), int(arguments[1])))
    except BundleError as e:
        said = {"error": str(e)}
    except MemoryError:
        said = {"error": f"{arguments[0]}: wants more than the {SPARE_MB} MB that a model may take; make it smaller"}
    sys.stdout.write(json.dumps(said))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
