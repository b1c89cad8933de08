"""What stands in for the store while the disk takes nothing: the houses are watched on, and nothing is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.store.restore import Restored
from agent.store.writer import KnownTime, StoreCounters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from agent.domain import Event, Message, SeriesKey
    from agent.readings import Readings
    from agent.store.reserve import Reserve
    from agent.store.salvage import Salvaged
    from agent.store.times import Segment


class Unstored:
    """A store that keeps nothing. What it takes is not durable: nothing may be acknowledged because of it.

    Of each series only what is newer than all before passes: the rest is at the broker, and told apart when it can be
    stored.
    """

    is_lasting = False

    def __init__(
        self, gateway: str, newest_ms: Mapping[SeriesKey, int], known: Salvaged | None = None, why: str = ""
    ) -> None:
        """Go on from what is known: the newest time of each series, and what ``restore`` shall give.

        ``why`` there is no store.
        """
        self.why = why
        self.gateway = gateway
        self.counters = StoreCounters()
        self.said: list[Event] = []
        self.reserve: Reserve | None = None
        self._newest_ms = dict(newest_ms)
        self._known = known

    @classmethod
    def after(cls, known: Salvaged, why: str) -> Unstored:
        """Return one that goes on from what can be read of a database that cannot be written."""
        return cls(known.gateway or "unknown", dict(known.newest_ms), known, why)

    def close(self) -> None:
        """Let go of nothing."""

    @property
    def last_seq(self) -> int:
        """The number of the newest reading that is known to be stored, 0 where there is none."""
        return dict(self._known.last_seqs).get("readings", 0) if self._known else 0

    def append(self, readings: Readings, **_kept: object) -> Readings:
        """Return the readings that are newer than all before of their series; nothing is stored."""
        new = np.zeros(len(readings), np.bool_)
        newest = [self._newest_ms.get(key, -(2**62)) for key in readings.keys]
        for row, (key, at_ms) in enumerate(zip(readings.key.tolist(), readings.at_ms.tolist(), strict=True)):
            if at_ms > newest[key]:
                newest[key], new[row] = at_ms, True
        self._newest_ms.update(zip(readings.keys, newest, strict=True))
        finite = np.isfinite(readings.value)
        return replace(readings.take(new & finite), last_seq=0)

    def record(self, **_kept: object) -> None:
        """Keep nothing."""

    def restore(self, _again: Sequence[tuple[int, int]] = ()) -> Restored:
        """Return what is known; what the readings were lately is not."""
        known = self._known
        return Restored(
            standings=known.standings if known else (),
            houses={change.house: change for change in known.houses} if known else {},
            flocks=known.flocks if known else (),
            judged_at=None,  # from now on: nobody can say what came in before
            observed_seq=0,
            rhythms=dict(known.rhythms_s) if known else {},
            newest_ms=self._newest_ms,
            commands=(),
            births=known.births if known else (),
            services=known.services if known else (),
            fitness_days=(),
            fitness_flocks=(),
            shadow_standings=(),
            buckets=iter(known.buckets if known else ()),
            newer=iter(()),
            wear=None,
        )

    def is_redelivered(self, _message: Message) -> bool:
        """Tell that nothing that comes now was ever stored."""
        return False

    def acknowledged(self) -> None:
        """Take note of nothing."""

    def answer_of(self, _command_id: str) -> str | None:
        """Know no answers."""
        return None

    def kept(self, _name: str) -> str | None:
        """Have kept nothing."""
        return None

    def changes_after(self, _seq: int, _limit: int) -> list[dict[str, Any]]:
        """Know no warnings."""
        return []

    def last_raised(self, _house: str, _rule: str) -> dict[str, Any] | None:
        """Know no warnings."""
        return None

    def prune(self, _now: datetime, **_limits: object) -> int:
        """Delete nothing."""
        return 0

    def degrade(self, _now: datetime, _monotonic_s: float, **_limits: object) -> str | None:
        """Have no history to let go of."""
        return None

    def forget(self, _now: datetime, **_limits: object) -> None:
        """Forget nothing."""

    def quarantined(self) -> list[Path]:
        """Know of no quarantine."""
        return []

    def known_time(self) -> KnownTime:
        """Return what can be read of it."""
        return KnownTime(self._known.presumed_ms, self._known.known_good_ms) if self._known else KnownTime(0, 0)

    def last_segment(self) -> Segment | None:
        """Know no clock."""
        return None

    def note_clock(self, segment: Segment, *, delta_ms: int, why: str) -> None:
        """Take note of nothing."""

    def correct(self) -> bool:
        """Have nothing that could be dated wrongly."""
        return True

    def forget_windows(self, _day_of: object) -> list[tuple[int, int]] | None:
        """Have no windows."""
        return None

    def begin_anew(self, why: str, at: datetime) -> None:
        """Have nothing that could be damaged."""
