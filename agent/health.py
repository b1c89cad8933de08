"""How the agent is: counters and degraded states, as one value that others publish, store and show."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.alerts import iso

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

SHOWN_NAMES = 20
"""How many unknown houses, signals or gaps are named before the rest is only counted."""


def resident_mb() -> float:
    """Return the memory that this process holds now, in MB (Linux's resident set)."""
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123  # a kernel file, not a path of ours
        pages = int(statm.read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass(slots=True)
class Health:
    """What was counted since the start, and what is not as it should be."""

    started_at: datetime
    rejected: Counter[str] = field(default_factory=Counter)  # reason -> messages or values
    retained_ignored: int = 0
    dropped_qos0: int = 0  # while the store failed
    unknown_houses: set[str] = field(default_factory=set)
    unknown_signals: set[str] = field(default_factory=set)
    turns: int = 0
    instants_judged: int = 0
    degraded: dict[str, str] = field(default_factory=dict)  # what -> why; empty = all is well

    def degrade(self, what: str, why: str | None) -> bool:
        """Set or lift (``why`` None) a degraded state; return True where that is news, to be logged once."""
        if why is None:
            return self.degraded.pop(what, None) is not None
        changed = self.degraded.get(what) != why
        self.degraded[what] = why
        return changed

    def value(
        self, *, at: datetime, state: str, parts: Mapping[str, object], gaps: Iterable[Mapping[str, object]] = ()
    ) -> dict[str, object]:
        """Return the health value: this object's own figures, with ``parts`` of others beside them."""
        gap_list = list(gaps)
        return {
            "state": state,
            "at": iso(at),
            "started_at": iso(self.started_at),
            "degraded": dict(sorted(self.degraded.items())),
            "rejected": dict(self.rejected),
            "retained_ignored": self.retained_ignored,
            "dropped_qos0": self.dropped_qos0,
            "unknown_houses": sorted(self.unknown_houses)[:SHOWN_NAMES],
            "unknown_signals": sorted(self.unknown_signals)[:SHOWN_NAMES],
            "gaps": gap_list[:SHOWN_NAMES],
            "gap_count": len(gap_list),
            "turns": self.turns,
            "instants_judged": self.instants_judged,
            "memory_mb": round(resident_mb(), 1),
            **parts,
        }
