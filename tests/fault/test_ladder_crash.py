"""kill -9 of sync while history gives way: the next start ends where an undisturbed one does, and every sum is kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pytest

from agent.domain import SeriesKey
from agent.readings import Readings
from agent.store import Store

if TYPE_CHECKING:
    from pathlib import Path

MIDNIGHT_MS = 1_795_305_600_000  # 2026-11-22T00:00:00Z
SIGKILLED = -9
N = 24_000

DRIVER = textwrap.dedent(
    """
    import os, signal, sys, threading
    from pathlib import Path
    from agent.clock import SystemClock
    from agent.config import parse_config
    from sync import daemon, outbox

    def dies(owner, name, nth):
        real, calls = getattr(owner, name), 0
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        setattr(owner, name, call)

    folder, point, nth = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    outbox.RANGE_ROWS = 2_000
    document = {"data": {"directory": str(folder)}, "store": {"max_size_mb": 20}}
    config = parse_config(document, "test")
    daemon.run(config, SystemClock(), threading.Event(), once=True)  # all is sealed, and there is room
    (folder / "too-much").write_bytes(b"x" * 21_000_000)
    if point:
        dies({"fsync": os, "replace": Path, "unlink": Path}.get(point, outbox.Outbox), point, nth)
    daemon.run(config, SystemClock(), threading.Event(), once=True)
    """
)


def _sync(folder: Path, point: str = "", nth: int = 0) -> int:
    (folder / "too-much").unlink(missing_ok=True)
    return subprocess.run(
        [sys.executable, "-c", DRIVER, str(folder), point, str(nth)], check=False, timeout=60
    ).returncode


def _sums(folder: Path) -> list[tuple[object, ...]]:
    parts = {"readings": "1 AS n, value AS sum", "readings_1min": "n, sum", "readings_15min": "n, sum"}
    queries = [
        f"SELECT house, signal, {figures} FROM read_parquet('{folder}/lake/{stream}/*/*/*.parquet')"
        for stream, figures in parts.items()
        if any(folder.glob(f"lake/{stream}/*/*/*.parquet"))
    ]
    with duckdb.connect() as db:
        query = f"SELECT house, signal, sum(n), sum(sum) FROM ({' UNION ALL '.join(queries)}) GROUP BY ALL ORDER BY ALL"
        return db.execute(query).fetchall()


def _objects(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("lake/readings*/*/*/*.parquet"))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a data directory with readings of two dates, and what an undisturbed sync makes of it."""
    folder = tmp_path_factory.mktemp("house")
    keys = tuple(SeriesKey(f"house{h}", signal) for h in (1, 2) for signal in ("water", "feed"))
    at_ms = MIDNIGHT_MS + (np.arange(N, dtype=np.int64) - N // 2) * 5_000
    value = np.random.default_rng(7).integers(0, 4_000, N) / 8  # eighths: every sum of them is exact
    zeros = np.zeros(N, np.uint8)
    block = Readings(keys, (np.arange(N) % len(keys)).astype(np.int32), at_ms, value, zeros, zeros, at_ms + 7)
    with Store.open(folder / "data" / "house.db") as store:
        assert len(store.append(block, at_ms=int(at_ms[-1]))) == N
    shutil.copytree(folder / "data", folder / "undisturbed")
    assert _sync(folder / "undisturbed") == 0
    assert any("readings_1" in name for name in _objects(folder / "undisturbed"))
    return folder


@pytest.mark.parametrize(
    ("point", "nth"),
    [
        *(("replace", nth) for nth in (1, 2)),
        *(("_note_object", nth) for nth in (1, 2)),
        *(("_clear_away", nth) for nth in (2, 3)),  # the first is of the opening
        *(("unlink", nth) for nth in (1, 2, 5)),
        *(("fsync", nth) for nth in (1, 3, 5, 7)),
    ],
)
def test_whenever_sync_dies_no_reading_is_lost_or_doubled(point: str, nth: int, house: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(house / "data", folder)
    assert _sync(folder, point, nth) == SIGKILLED
    assert _sync(folder) == 0
    assert _sums(folder) == _sums(house / "undisturbed")
    assert _objects(folder) == _objects(house / "undisturbed")
