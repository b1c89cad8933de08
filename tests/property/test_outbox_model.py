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
from sync.lake import ObjectName, part_of, write_durably
from sync.outbox import Outbox

MIDNIGHT_MS = 1_795_305_600_000  # 2026-11-22T00:00:00Z
STREAMS = ("warnings", "readings")
BROKEN = 10**17  # a time outside the calendar: no object can hold it

ats = st.lists(
    st.sampled_from([MIDNIGHT_MS - 1, MIDNIGHT_MS, MIDNIGHT_MS + 86_400_000, BROKEN]), min_size=1, max_size=6
)
streams = st.sampled_from(STREAMS)
crashes = st.sampled_from(["before", "in", "after"])  # of the writing of an object


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
        self.past: list[tuple[House, dict[str, int]]] = []  # those before, and how far each stream was sealed
        self.site = "farm1"
        self.cloud: dict[str, bytes] = {}
        self.range_patch = mock.patch.object(outbox_module, "RANGE_ROWS", 4)
        self.range_patch.start()
        self.outbox = self.opened()

    def opened(self) -> Outbox:
        return Outbox.open(self.folder / "sync.db", self.folder / "lake", self.house, self.site)

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

    @rule(stream=streams, share=st.sampled_from([0.5, 1.0]))
    def seal(self, stream: str, share: float) -> None:
        """Of what waits, all or a part: what is due was counted a while ago."""
        before = self.sealed_seq(stream)
        up_to = before + round(share * self.outbox.unsealed(stream))
        sealed_seq = self.outbox.seal_next(stream, up_to, 1)
        assert sealed_seq == self.sealed_seq(stream)
        assert sealed_seq > before or up_to == before  # it never stands still

    @rule(stream=streams, objects=st.integers(0, 3), crash=crashes, is_process=st.booleans())
    def fail_in_a_seal(self, stream: str, objects: int, crash: str, is_process: bool) -> None:
        """After so many objects the process dies, or only the disk fails and the same process tries again."""
        n = 0

        def write(path: Path, data: bytes) -> None:
            nonlocal n
            if n == objects and crash == "before":
                raise OSError(errno.EIO, "crash")
            if n == objects and crash == "in":
                path.parent.mkdir(parents=True, exist_ok=True)
                part_of(path).write_bytes(data[: len(data) // 2])
                raise OSError(errno.EIO, "crash")
            write_durably(path, data)
            if n == objects:
                raise OSError(errno.EIO, "crash")
            n += 1

        with mock.patch.object(outbox_module, "write_durably", write):
            try:
                self.seal(stream, 1.0)
            except OSError:
                if is_process:
                    self.reopen()

    @rule(stream=streams, noted=st.integers(0, 2))
    def die_between_objects_and_watermark(self, stream: str, noted: int) -> None:
        """All objects are written; of the transaction that notes them, nothing or a part is done."""
        real, n = Outbox._note_object, 0

        def note(outbox: Outbox, name: ObjectName, data: bytes, at_ms: int) -> None:
            nonlocal n
            if n == noted:
                raise KeyboardInterrupt
            n += 1
            real(outbox, name, data, at_ms)

        with mock.patch.object(Outbox, "_note_object", note):
            try:
                self.seal(stream, 1.0)
            except KeyboardInterrupt:
                self.reopen()

    @rule(site=st.sampled_from(["farm1", "farm2"]))
    def rename_the_site(self, site: str) -> None:
        """It is part of an object's name: an intent keeps that of its own time."""
        self.site = site
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
    @rule(kept=st.sampled_from([0.0, 0.5]))
    def replace_house_db(self, kept: float) -> None:
        """The card died, or an older copy was put back: another generation, with none or some of the same rows."""
        self.past.append((self.house, {stream: self.sealed_seq(stream) for stream in STREAMS}))
        copy = House(f"{len(self.past) + 1:08x}")
        for stream, ats_of in self.house.ats.items():
            copy.ats[stream] = ats_of[: round(kept * len(ats_of))]
        self.house = copy
        self.reopen()

    def sealed_seq(self, stream: str) -> int:
        return self.house.last_seq(stream) - self.outbox.unsealed(stream)

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
        for house, sealed in [*self.past, (self.house, {stream: self.sealed_seq(stream) for stream in STREAMS})]:
            for stream in STREAMS:
                here = found.get((stream, house.generation), Counter())
                sound = {seq for seq, at in enumerate(house.ats[stream], 1) if at != BROKEN}
                assert set(here) <= sound
                assert max(here.values(), default=1) == 1
                assert {seq for seq in sound if seq <= sealed[stream]} <= set(here)


OutboxModel.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestOutbox = OutboxModel.TestCase
