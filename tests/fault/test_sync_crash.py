"""kill -9 of sync at every step: the next start finishes it, and lake and cloud are as if nothing had happened."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pytest

from agent.domain import Event, SeriesKey
from agent.readings import Readings
from agent.store import Store

if TYPE_CHECKING:
    from pathlib import Path

MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)
MIDNIGHT_MS = 1_795_305_600_000
SIGKILLED = -9

DRIVER = textwrap.dedent(
    """
    import os, signal, sys, threading
    from pathlib import Path
    from agent.clock import SystemClock
    from agent.config import parse_config
    from sync import cloud, daemon, lake, lane, outbox

    def die(*_args, **_kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    def dies(owner, name, nth, *, before):
        real, calls = getattr(owner, name), 0
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if before and calls == nth:
                die()
            result = real(*args, **kwargs)
            if not before and calls == nth:
                die()
            return result
        setattr(owner, name, call)

    point, nth = sys.argv[2], int(sys.argv[3])
    if point == "after the intent":
        dies(outbox.Outbox, "_fulfil", nth, before=True)
    elif point == "before a rename":
        dies(Path, "replace", nth, before=True)
    elif point == "after an object":
        dies(outbox, "write_durably", nth, before=False)
    elif point == "in the watermark's transaction":
        dies(outbox.Outbox, "_note_object", nth, before=False)
    elif point == "before the first push":
        dies(lane.Lane, "carry", nth, before=True)
    elif point == "before an upload":
        dies(cloud.Cloud, "_put", nth, before=True)
    elif point == "after an upload, before its mark":
        dies(outbox.Outbox, "advance", nth, before=True)
    elif point == "at an fsync":
        dies(os, "fsync", nth, before=True)

    folder = Path(sys.argv[1])
    document = {"data": {"directory": str(folder / "data")}, "sync": {"url": f"file://{folder}/cloud"}}
    daemon.run(parse_config(document, "test"), SystemClock(), threading.Event(), once=True)
    """
)


def _sync(folder: Path, point: str = "", nth: int = 0) -> int:
    command = [sys.executable, "-c", DRIVER, str(folder), point, str(nth)]
    return subprocess.run(command, check=False, timeout=60).returncode


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a data directory whose readings lie on two dates, and what an undisturbed sync makes of it."""
    folder = tmp_path_factory.mktemp("house")
    keys = tuple(SeriesKey(f"house{h}", signal) for h in (1, 2) for signal in ("water", "feed"))
    n = 200
    at_ms = MIDNIGHT_MS + (np.arange(n, dtype=np.int64) - n // 2) * 60_000
    block = Readings(
        keys,
        (np.arange(n) % len(keys)).astype(np.int32),
        at_ms,
        np.arange(n) / 10,
        np.zeros(n, np.uint8),
        np.zeros(n, np.uint8),
        at_ms + 7,
    )
    with Store.open(folder / "data" / "house.db") as store:
        assert len(store.append(block, at_ms=int(at_ms[-1]))) == n
        store.record(events=[Event(MIDNIGHT, "start")])
    shutil.copytree(folder / "data", folder / "undisturbed" / "data")
    assert _sync(folder / "undisturbed") == 0
    return folder


@pytest.mark.parametrize(
    ("point", "nth"),
    [
        ("after the intent", 1),
        ("after the intent", 2),
        ("before a rename", 1),
        ("before a rename", 3),
        ("after an object", 2),
        ("after an object", 3),
        ("in the watermark's transaction", 2),
        ("before the first push", 1),
        ("before an upload", 2),
        ("after an upload, before its mark", 1),
        ("after an upload, before its mark", 3),
        *(("at an fsync", nth) for nth in (1, 4, 7, 10, 13, 16)),
    ],
)
def test_a_sync_killed_at_any_step_is_finished_by_the_next(point: str, nth: int, house: Path, tmp_path: Path) -> None:
    shutil.copytree(house / "data", tmp_path / "data")
    assert _sync(tmp_path, point, nth) == SIGKILLED
    assert _sync(tmp_path) == 0
    for place in ("data/lake", "cloud"):
        assert _objects(tmp_path / place) == _objects(house / "undisturbed" / place)
    assert not list((tmp_path / "data" / "lake").rglob("*.part"))
    query = (
        f"SELECT seq, count(*) FROM read_parquet('{tmp_path}/cloud/readings/**/*.parquet') GROUP BY seq ORDER BY seq"
    )
    with duckdb.connect() as db:
        assert db.execute(query).fetchall() == [(seq, 1) for seq in range(1, 201)]


def test_killed_again_and_again_it_still_arrives(house: Path, tmp_path: Path) -> None:
    """At every fsync in turn, each start from what the last kill left."""
    shutil.copytree(house / "data", tmp_path / "data")
    codes = [_sync(tmp_path, "at an fsync", nth) for nth in (2, 3, 5, 4, 6)]
    assert codes[0] == SIGKILLED
    assert _sync(tmp_path) == 0
    for place in ("data/lake", "cloud"):
        assert _objects(tmp_path / place) == _objects(house / "undisturbed" / place)


def _objects(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.parquet")}
