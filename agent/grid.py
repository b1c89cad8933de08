"""The grid of event time: which instants are due to be judged, each once, live and backlog alike."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from agent.domain import from_ms, to_ms
from agent.watch import GRID

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from agent.watch import HouseWatch

INSTANTS_PER_TURN = 24  # four hours of backlog are judged between two acknowledgements
PATIENCE_S = 60.0  # real time that all wait for a house whose readings lag: its clock may be wrong for ever
_GRID_MS = int(GRID / timedelta(milliseconds=1))


class Grid:
    """The instants of event time at which everything is judged, each once."""

    def __init__(self, last: datetime) -> None:
        self.last = from_ms(to_ms(last) // _GRID_MS * _GRID_MS)
        self.is_behind = False  # more is due than one turn may judge: what stands now is history
        self._lagging: set[str] = set()  # houses that are not waited for, until they are ready by themselves
        self._waiting_since: float | None = None

    def due(self, now: datetime, watches: Sequence[HouseWatch], monotonic: float) -> Iterator[datetime]:
        """Yield the instants up to ``now`` that every house is ready for, a limited number at a time."""
        self.is_behind = False
        for _ in range(INSTANTS_PER_TURN):
            at = self.last + GRID
            if at > now or not self._is_time(at, watches, monotonic):
                return
            self.last = at
            yield at
        self.is_behind = self.last + GRID <= now

    def pause(self, now: datetime) -> None:
        """Leave the rest of what is due at ``now`` for the next turn."""
        self.is_behind = self.last + GRID <= now

    def _is_time(self, at: datetime, watches: Sequence[HouseWatch], monotonic: float) -> bool:
        """Tell whether all houses are ready for ``at``; one whose clock is wrong holds up the others only once."""
        waiting = {watch.house for watch in watches if not watch.is_ready(at, monotonic)}
        self._lagging = {w.house for w in watches if w.house in self._lagging and not w.is_ready(self.last, monotonic)}
        if waiting <= self._lagging:
            self._waiting_since = None
            return True
        if self._waiting_since is None:
            self._waiting_since = monotonic
        if monotonic - self._waiting_since < PATIENCE_S:
            return False
        self._lagging, self._waiting_since = waiting, None
        return True
