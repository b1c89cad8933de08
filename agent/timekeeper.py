"""What the clock means for the rest of the agent: looked at once in a while, its steps stored, its errors corrected.

Where the clock never steps (a simulated one) there is nothing to keep, and all of this does nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from agent.alerts import iso
from agent.clock import SystemClock
from agent.domain import from_ms, to_ms
from agent.senders import AGREE_MS, Senders
from agent.steadyclock import LONGEST_ABSENCE_MS, Kernel, SteadyClock, shown
from agent.store import KnownTime, Segment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from agent.clock import Clock, FarmDays
    from agent.domain import Message, Standing
    from agent.readings import Readings
    from agent.steadyclock import ClockStep, Machine
    from agent.store import Store, Unstored

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0  # so a clock that flaps makes a few hundred segments an hour, and not one for every message
BLOCKS_PER_TURN = 20  # of rows that are corrected between two turns: some seconds
CALM_S = 86_400.0  # after a step of more than a day nothing is pruned for so long: it may have been a mistake
LONG_STEP_MS = 86_400_000
STEPS_KEPT = 16


def steady(clock: Clock, store: Store | Unstored, machine: Machine | None = None) -> Clock:
    """Return the clock to go by: in place of the machine's own one, a clock that keeps its head."""
    if not isinstance(clock, SystemClock):
        return clock
    machine = machine or Kernel()
    known, last = store.known_time(), store.last_segment()
    presumed_ms = known.presumed_ms
    if last is not None and last.boot_id == machine.boot_id:  # not only restored: it went on
        presumed_ms = machine.boot_ms() + last.offset_ms
    return SteadyClock(machine, known.known_good_ms or None, presumed_ms)


class Shift(NamedTuple):
    """The times that were wrong, and by how much."""

    first: datetime
    last: datetime
    by: timedelta


@dataclass(frozen=True, slots=True)
class Shifts:
    """The steps of a clock by which what it dated is to be dated anew, in their order."""

    each: tuple[Shift, ...] = ()

    def of(self, at: datetime) -> datetime:
        """Return what time it really was."""
        for shift in self.each:
            if shift.first <= at <= shift.last:
                at += shift.by
        return at

    def standing(self, standing: Standing) -> Standing:
        """Return a standing as if the clock had been right: its delays and shelf times run on as they were."""
        names = ("since", "back_since", "unknown_since", "raised_at", "updated_at", "asked_at")
        known = {name: at for name in names if (at := getattr(standing, name)) is not None}
        times: dict[str, Any] = {name: self.of(at) for name, at in known.items()}
        if standing.shelved_until is not None and standing.updated_at is not None:
            times["shelved_until"] = standing.shelved_until + (times["updated_at"] - standing.updated_at)
        times["spells"] = tuple(
            replace(spell, since=self.of(spell.since), back_since=spell.back_since and self.of(spell.back_since))
            for spell in standing.spells
        )
        return replace(standing, **times)


class Timekeeper:
    """Stands between a clock that may step and a store whose rows it has dated."""

    def __init__(self, clock: Clock, store: Store | Unstored, days: FarmDays) -> None:
        """Take note in ``store`` by which clock readings are received from now on.

        Raises:
            StoreError: the store did not take it.
        """
        self._clock = clock if isinstance(clock, SteadyClock) else None
        self._any_clock = clock
        self._store = store
        self._days = days
        self._senders = Senders()
        self._steps: deque[ClockStep] = deque(maxlen=STEPS_KEPT)  # those of this run
        self._shifts: list[Shift] = []  # of which nobody was told yet
        self._unstored: list[tuple[Segment, int, str]] = []
        self._look_due = clock.monotonic() + LOOK_EVERY_S
        self._calm_until = float("-inf")
        self.is_correcting = False
        if self._clock is not None:
            self._began_boot_ms = self._clock.machine.boot_ms()
            segment, last = self._segment(self._clock), store.last_segment()
            same_boot = last is not None and last.boot_id == segment.boot_id
            delta_ms = segment.offset_ms - last.offset_ms if last is not None and same_boot else 0
            store.note_clock(segment, delta_ms=delta_ms, why="the agent was started")

    def use(self, store: Store | Unstored) -> None:
        """Go on with another store, or a new database, which knows no clock yet.

        Raises:
            StoreError: it did not take note of it.
        """
        self._store = store
        if self._clock is not None:
            store.note_clock(self._segment(self._clock), delta_ms=0, why="the database is another one")

    def take_over(self, before: Timekeeper) -> None:
        """Know what ``before`` knew of this clock: messages that it held are dated by it, and its rest goes on."""
        self._steps = before._steps
        self._calm_until = before._calm_until

    # --- once a turn

    def turn(self) -> ClockStep | None:
        """Look at the clock where that is due; return a step of it that is stored now.

        Raises:
            StoreError: it is not stored; the next turn tries again.
        """
        clock = self._clock
        if clock is None:
            return None
        step = None
        if not self._unstored and clock.monotonic() >= self._look_due:
            self._look_due = clock.monotonic() + LOOK_EVERY_S
            step = clock.look() or self._ask_senders(clock)
            if step is not None:
                self._take(clock, step)
        while self._unstored:
            segment, delta_ms, why = self._unstored[0]
            self._store.note_clock(segment, delta_ms=delta_ms, why=why)
            self._unstored.pop(0)
            self.is_correcting = True
        return step

    def correct(self) -> bool:
        """Correct some of what was dated wrongly; return True once, when the windows are to be built anew.

        Raises:
            StoreError: it goes on with the next turn.
        """
        if not self.is_correcting:
            return False
        for _ in range(BLOCKS_PER_TURN):
            if self._store.correct():
                self.is_correcting = False
                return True
        return False

    def spans_to_rebuild(self) -> list[tuple[int, int]] | None:
        """Finish what a crash left of a correction; return the times of which the windows must see all again, or None.

        The windows' buckets of these times are deleted: they are built anew from what is stored.
        """
        while not self._store.correct():
            pass
        return self._store.forget_windows(self._day_of)

    def _take(self, clock: SteadyClock, step: ClockStep) -> None:
        log.warning("the time is now %s (%+d s): %s", iso(clock.now()), round(step.delta_ms / 1000), step.why)
        if step.delta_ms:
            self._steps.append(step)
            self._senders.forget()
            if not step.before.synchronised:  # else it was right until now, and what is stored of it stays
                first, last = (from_ms(step.before.now_ms(boot_ms)) for boot_ms in (self._began_boot_ms, step.boot_ms))
                self._shifts.append(Shift(first, last, timedelta(milliseconds=step.delta_ms)))
        if abs(step.delta_ms) > LONG_STEP_MS:
            self._calm_until = step.monotonic + CALM_S
        self._unstored.append((self._segment(clock), step.delta_ms, step.why))

    def _ask_senders(self, clock: SteadyClock) -> ClockStep | None:
        lead = None if clock.is_sure else self._senders.verdict(clock.monotonic())
        if lead is None or not -AGREE_MS <= lead.lead_ms <= LONGEST_ABSENCE_MS:
            return None
        trusted = lead.houses > 1  # one house computer may be wrong by itself; two are not wrong by the same
        if lead.lead_ms <= AGREE_MS and (clock.state.trusted or not trusted):
            return None
        move_ms = lead.lead_ms if lead.lead_ms > AGREE_MS else 0
        return clock.move(move_ms, f"{lead.houses} house computers agree on it", trusted=trusted)

    def _segment(self, clock: SteadyClock) -> Segment:
        state = clock.state
        return Segment(
            0, clock.machine.boot_id, state.offset_ms, state.trusted, state.synchronised, began_ms=clock.now_ms()
        )

    def _day_of(self, at_ms: int) -> tuple[int, int]:
        """Return the first and the last ms of the farm day; its first ms belongs to the day before, as in windows."""
        day = self._days.date_of(from_ms(at_ms - 1))
        return to_ms(self._days.start_of(day)), to_ms(self._days.start_of(day + timedelta(days=1)))

    def take_shifts(self) -> Shifts:
        """Return by how much what houses know was dated wrongly, once."""
        shifts, self._shifts = Shifts(tuple(self._shifts)), []
        return shifts

    # --- for whom the time matters

    def hear(self, readings: Readings) -> None:
        """Take the times of senders: evidence where nothing else keeps the clock."""
        if self._clock is not None and not self._clock.is_sure:
            self._senders.hear(readings, self._clock.monotonic())

    def restamped(self, messages: Sequence[Message]) -> list[Message]:
        """Return messages that came before a step of the clock and are taken after it, dated by the new time."""
        if not self._steps:
            return list(messages)
        return [
            replace(message, received_ms=message.received_ms + moved_ms)
            if (moved_ms := sum(s.delta_ms for s in self._steps if s.monotonic >= message.received_monotonic))
            else message
            for message in messages
        ]

    @property
    def is_sure(self) -> bool:
        """Whether a sender that is more than a day ahead of us must be wrong, and not we."""
        return self._any_clock.is_trusted() if self._clock is None else self._clock.is_sure

    def may_judge(self) -> bool:
        """Tell whether birds may be judged by this time."""
        if self.is_correcting:
            return False
        return self._any_clock.is_trusted() if self._clock is None else self._clock.may_judge()

    def may_prune(self) -> bool:
        """Tell whether the past may be forgotten: not soon after a long step, which may have been a mistake."""
        return self._any_clock.monotonic() >= self._calm_until and not self.is_correcting

    def why_degraded(self) -> str | None:
        """Return what is wrong with the time, for people; None where nothing is."""
        return None if self._clock is None else self._clock.doubt

    def known(self) -> KnownTime | None:
        """Return what the next start must know of the time."""
        clock = self._clock
        if clock is None:
            return None
        now_ms = clock.now_ms()
        known_good_ms = now_ms if clock.is_trusted() else self._store.known_time().known_good_ms
        return KnownTime(now_ms, known_good_ms)

    def value(self) -> dict[str, object]:
        """Return how the clock is, for health and ``status``."""
        clock = self._clock
        if clock is None:
            return {"trusted": self._any_clock.is_trusted(), "presumed": iso(self._any_clock.now())}
        step = clock.last_step
        return {
            "trusted": clock.is_trusted(),
            "synchronised": clock.state.synchronised,
            "presumed": iso(clock.now()),
            "machine": shown(clock.machine.wall_ms()),
            "boot_id": clock.machine.boot_id,
            "offset_ms": clock.state.offset_ms,
            "correcting": self.is_correcting,
            "last_step": None
            if step is None
            else {"at": iso(from_ms(step.after.now_ms(step.boot_ms))), "delta_ms": step.delta_ms, "why": step.why},
        }
