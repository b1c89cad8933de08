"""A real process that appends is killed at random moments, again and again, on one database."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np

import agent
from agent.domain import SeriesKey
from agent.readings import Readings
from agent.store import Store, StoreReader

BLOCK = 20
KILLS = 8


def block(number: int) -> Readings:
    """Return the readings of one block, always the same ones.

    Every fifth is ten minutes older than its neighbours, so that late rows and their bookkeeping are in it, too.
    """
    i = np.arange(BLOCK * number, BLOCK * (number + 1), dtype=np.int64)
    keys = tuple(SeriesKey("house1", f"signal-{k}") for k in range(7))
    at_ms = 1_795_000_000_000 + 250 * i - np.where(i % 5 == 0, 600_001, 0)
    zeros = np.zeros(BLOCK, np.uint8)
    return Readings(keys, (i % 7).astype(np.int32), at_ms, i / 8, zeros, zeros, at_ms)


def write(path: Path) -> None:
    """Append block after block from where the database is, and say what is committed, until killed."""
    with Store.open(path) as store:
        print(store.last_seq, flush=True)
        while True:
            last_seq = store.append(block(store.last_seq // BLOCK), at_ms=0).last_seq
            print(last_seq, flush=True)
            if last_seq % 100 == 0:
                store.record(observed_seq=last_seq)


def run_until_killed(path: Path, chance: random.Random) -> int:
    """Start the writer, kill it after a random number of its lines, and return the last number it printed."""
    command = [sys.executable, __file__, str(path)]
    environment = os.environ | {"PYTHONPATH": str(Path(agent.__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(chance.randrange(1, 150))]
        writer.kill()
        lines += writer.stdout.read().splitlines(keepends=True)
    assert writer.returncode == -9
    return max(int(line) for line in lines if line.endswith("\n"))


def test_what_was_committed_before_a_kill_is_there_exactly_once(tmp_path: Path) -> None:
    """And sending its tail again adds nothing, as a broker does that was not acknowledged."""
    path = tmp_path / "house.db"
    chance = random.Random(7)
    for _ in range(KILLS):
        committed = run_until_killed(path, chance)
        with StoreReader.open(path) as reader:
            rows = reader.rows("readings", 1, 2**62)
        stored = list(zip(rows["house"], rows["signal"], rows["at"], rows["value"], strict=True))
        assert rows["seq"] == list(range(1, len(stored) + 1))
        assert len(stored) >= committed
        assert len(stored) % BLOCK == 0  # a block is stored whole or not at all
        assert set(Counter(row[:3] for row in stored).values()) == {1}
        for number in range(len(stored) // BLOCK):
            expected = block(number)
            names = [expected.keys[k] for k in expected.key]
            values = zip(names, expected.at_ms.tolist(), expected.value.tolist(), strict=True)
            part = stored[BLOCK * number : BLOCK * (number + 1)]
            assert part == [(key.house, key.signal, at, value) for key, at, value in values]
        with Store.open(path) as store:
            for number in range(max(0, len(stored) // BLOCK - 30), len(stored) // BLOCK):
                assert len(store.append(block(number), at_ms=0)) == 0
            assert store.last_seq == len(stored)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
