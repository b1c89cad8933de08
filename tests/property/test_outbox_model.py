"""The outbox against a plain list: whatever crashes, is lost or is pruned, every row is in the lake exactly once."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

from arro3.io import read_parquet
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.store import LAKE_COLUMNS
from sync import outbox as outbox_module
from sync.lake import ObjectName, write_durably
from sync.outbox import Outbox

MIDNIGHT_MS = 1_795_305_600_000  # 2026-11-22T00:00:00Z
STREAMS = ("warnings", "readings")
BROKEN = 10**17  # a time outside the calendar: no object can hold it

ats = st.lists(
    st.sampled_from([MIDNIGHT_MS - 1, MIDNIGHT_MS, MIDNIGHT_MS + 86_400_000, BROKEN]), min_size=1, max_size=6
)
streams = st.sampled_from(STREAMS)


class House:
    """The agent's store, as plain lists."""

    gateway = "0a1b2c3d4e5f"

    def __init__(self, generation: str) -> None:
        self.generation = generation
        self.ats: dict[str, list[int]] = {stream: [] for stream in STREAMS}
        self.pruned = dict.fromkeys(STREAMS, 0)

    def last_seq(self, stream: str) -> int:
        return len(self.ats[stream])

    def sealable_seq(self, stream: str) -> int:
        return self.last_seq(stream)

    def rows(self, stream: str, first_seq: int, last_seq: int) -> dict[str, list[Any]]:
        seqs = list(range(max(first_seq, self.pruned[stream] + 1), min(last_seq, self.last_seq(stream)) + 1))
        columns: dict[str, list[Any]] = {name: [None] * len(seqs) for name, _ in LAKE_COLUMNS[stream]}
        return columns | {
            "at": [self.ats[stream][seq - 1] for seq in seqs],
            "house": ["house1"] * len(seqs),
            "seq": seqs,
        }


class OutboxModel(RuleBasedStateMachine):
    """Adds, seals, crashes, loses, prunes, pushes; ``house.ats`` is the plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="outbox-model-"))
        self.house = House("00000001")
        self.past: list[House] = []
        self.cloud: dict[str, bytes] = {}
        self.range_patch = mock.patch.object(outbox_module, "RANGE_ROWS", 4)
        self.range_patch.start()
        self.outbox = self.opened()

    def opened(self) -> Outbox:
        return Outbox.open(self.folder / "sync.db", self.folder / "lake", self.house, "farm1")

    def reopen(self) -> None:
        self.outbox.close()
        self.outbox = self.opened()

    def teardown(self) -> None:
        self.outbox.close()
        self.range_patch.stop()
        shutil.rmtree(self.folder)

    @initialize(stream=streams, rows=ats)
    def begin(self, stream: str, rows: list[int]) -> None:
        self.add(stream, rows)

    @rule(stream=streams, rows=ats)
    def add(self, stream: str, rows: list[int]) -> None:
        self.house.ats[stream] += rows

    @rule(stream=streams)
    def seal(self, stream: str) -> None:
        self.outbox.seal_next(stream, self.house.last_seq(stream), 1)

    @rule(stream=streams, after=st.integers(0, 3), written=st.booleans())
    def crash_in_a_seal(self, stream: str, after: int, written: bool) -> None:
        """Stop in the middle of the seal, before or after the object number ``after`` is written."""
        n = 0

        def write(path: Path, data: bytes) -> None:
            nonlocal n
            if n == after and not written:
                raise OSError(errno.EIO, "crash")
            write_durably(path, data)
            if n == after:
                raise OSError(errno.EIO, "crash")
            n += 1

        with mock.patch.object(outbox_module, "write_durably", write):
            try:
                self.seal(stream)
            except OSError:
                self.reopen()

    @rule()
    def restart(self) -> None:
        self.reopen()

    @rule()
    def lose_sync_db(self) -> None:
        self.outbox.close()
        (self.folder / "sync.db").unlink()
        self.outbox = self.opened()

    @rule(stream=streams)
    def prune(self, stream: str) -> None:
        """The agent drops rows that are sealed."""
        for mark in self.outbox.watermarks():
            if mark.stream == stream:
                self.house.pruned[stream] = max(self.house.pruned[stream], mark.sealed_seq)

    @rule(urgent=st.booleans(), marked=st.booleans())
    def push(self, urgent: bool, marked: bool) -> None:
        """Carry one object; now and then the process dies before the mark."""
        parcel = self.outbox.next_parcel(urgent=urgent)
        if parcel is None:
            return
        data = parcel.path.read_bytes()
        assert self.cloud.setdefault(parcel.key, data) == data  # create-only: there already means equal
        if marked:
            self.outbox.advance(parcel.key, 1)
        else:
            self.reopen()

    @precondition(lambda self: len(self.past) < 2)
    @rule()
    def replace_house_db(self) -> None:
        """The SD card died: a new house.db, a new generation; all that was sealed stays."""
        for stream in STREAMS:
            while self.outbox.unsealed(stream) > 0:
                self.seal(stream)
        self.past.append(self.house)
        self.house = House(f"{len(self.past) + 1:08x}")
        self.reopen()

    @invariant()
    def what_is_in_the_cloud_is_in_the_lake(self) -> None:
        for key, data in self.cloud.items():
            assert (self.folder / "lake" / key).read_bytes() == data

    @invariant()
    def every_row_is_in_the_lake_once_or_unsealed(self) -> None:
        """Rows above the watermark may be in the lake already, where a crash left an intent: never twice."""
        found: dict[tuple[str, str], Counter[int]] = {}
        lake = self.folder / "lake"
        for path in lake.rglob("*.parquet"):
            name = ObjectName.parse(path.relative_to(lake).as_posix())
            assert name is not None
            seqs = found.setdefault((name.stream, name.generation), Counter())
            seqs.update(read_parquet(path).read_all()["seq"].to_pylist())
        for house in [*self.past, self.house]:
            for stream in STREAMS:
                here = found.get((stream, house.generation), Counter())
                sound = {seq for seq, at in enumerate(house.ats[stream], 1) if at != BROKEN}
                unsealed = self.outbox.unsealed(stream) if house is self.house else 0
                sealed_seq = house.last_seq(stream) - unsealed
                assert set(here) <= sound
                assert max(here.values(), default=1) == 1
                assert {seq for seq in sound if seq <= sealed_seq} <= set(here)


OutboxModel.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestOutbox = OutboxModel.TestCase
