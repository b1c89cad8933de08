"""The life of a house: which flock is in it, what was told of it, what goes on. Pure: a command in, a change out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from agent.commands import End, FlockCommand, Place, Record, Service, State, Thin
from agent.domain import Flock, FlockChange, HouseState
from agent.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.clock import FarmDays

LONGEST_LIFE = timedelta(days=366)
"""No broiler lives for a year: a date further away is a slip of the pen (1026 for 2026), and no calendar holds it."""

THINNED_FOR = timedelta(hours=24)
"""How long a house counts as just thinned: the birds spread out, feed and water settle within a day (our judgement)."""


_WITH_BIRDS = frozenset({HouseState.ACTIVE, HouseState.CATCHING, HouseState.THINNED})


@dataclass(frozen=True, slots=True)
class HouseLife:
    """What goes on in one house, and since when."""

    state: HouseState = HouseState.EMPTY
    since: datetime | None = None
    flock: Flock | None = None
    ended: Flock | None = None  # the last one that left: its slaughter weight may be told later

    def after(self, change: FlockChange) -> HouseLife:
        """Return the life after ``change``."""
        since = self.since if change.state is self.state and change.action != "thin" else _since(change)
        ended = change.flock is not None and change.flock.ended_at is not None
        return HouseLife(change.state, since, None if ended else change.flock, change.flock if ended else self.ended)


def restored(change: FlockChange | None, flocks: Iterable[FlockChange] = ()) -> HouseLife:
    """Return the life of a house whose newest stored change is ``change``; None where nothing was ever told of it.

    ``flocks``: the newest change of each flock, of any house, oldest first.
    """
    if change is None:
        return HouseLife()
    left = [c.flock for c in flocks if c.house == change.house and c.flock is not None and c.flock.ended_at is not None]
    flock = change.flock if change.flock is not None and change.flock.ended_at is None else None
    return HouseLife(change.state, _since(change), flock, left[-1] if left else None)


def _since(change: FlockChange) -> datetime:
    """Return since when the house is in the state that ``change`` tells: a thinning may be told, or added to, later."""
    is_thinning = change.state is HouseState.THINNED and change.action in {"thin", "record", "place", "service"}
    if is_thinning and change.flock is not None and change.flock.thinned:
        return max(when for when, _ in change.flock.thinned)
    return change.at


def day_number(flock: Flock, at: datetime, days: FarmDays) -> int:
    """Return the flock's age in farm days at ``at``; day 0 is the day of placement."""
    return (days.date_of(at) - flock.placed_on).days


def apply(house: str, life: HouseLife, command: FlockCommand, at: datetime, days: FarmDays) -> FlockChange:
    """Return what ``command`` changes, given at ``at``.

    Raises:
        InputError: it cannot be done in this state of the house; the message says why and what to do.
    """
    if isinstance(command, Place):
        return _place(house, life, command, at, days)
    flock = life.flock
    if isinstance(command, End) and flock is None and _tells_weight_of(life.ended, command):
        return _weigh(house, life, command, at)
    if command.flock is not None and (flock is None or flock.flock != command.flock):
        message = f"flock {command.flock!r} is not in {house}; " + _who_is_in(life)
        raise InputError(message)
    if isinstance(command, State):
        return FlockChange(at, "state", house, HouseState(command.state), flock, {"by": command.by})
    if isinstance(command, Service):
        detail: dict[str, object] = command.model_dump(include={"signal", "for_s", "replaced", "by"})
        return FlockChange(at, "service", house, life.state, flock, detail)
    if flock is None:
        message = f"no flock is in {house}: place one first"
        raise InputError(message)
    if isinstance(command, Record):
        return _record(house, life, flock, command, at, days)
    if isinstance(command, Thin):
        return _thin(house, flock, command, at, days)
    return _end(house, flock, command, at, days)


def settle(house: str, life: HouseLife, at: datetime) -> FlockChange | None:
    """Return the change that time alone brings at ``at``: a thinned house is an active one again after a day."""
    if life.state is HouseState.THINNED and life.since is not None and at >= life.since + THINNED_FOR:
        return FlockChange(at, "state", house, HouseState.ACTIVE, life.flock, {"reason": "thinned for a day"})
    return None


def _who_is_in(life: HouseLife) -> str:
    return f"{life.flock.flock!r} is" if life.flock else "the house is empty"


def _place(house: str, life: HouseLife, command: Place, at: datetime, days: FarmDays) -> FlockChange:
    placed_on = command.placed_on or (life.flock.placed_on if life.flock else days.date_of(at))
    name = command.flock or (life.flock.flock if life.flock else placed_on.isoformat())
    if life.flock is not None and life.flock.flock != name:
        message = f"flock {life.flock.flock!r} is still in {house}: end it before {name!r} is placed"
        raise InputError(message)
    if placed_on > days.date_of(at) + timedelta(days=1):
        message = f"placed_on {placed_on} is in the future"
        raise InputError(message)
    if placed_on < days.date_of(at) - LONGEST_LIFE:
        message = f"placed_on {placed_on} is more than a year ago; correct the date"
        raise InputError(message)
    if command.planned_end_on is not None and command.planned_end_on <= placed_on:
        message = f"planned_end_on {command.planned_end_on} is not after placed_on {placed_on}"
        raise InputError(message)
    if command.planned_end_on is not None and command.planned_end_on > placed_on + LONGEST_LIFE:
        message = f"planned_end_on {command.planned_end_on} is more than a year after placed_on; correct the date"
        raise InputError(message)
    told = command.model_dump(include={"birds_placed", "strain", "sex", "parent_age_weeks", "planned_end_on"})
    told = {fact: value for fact, value in told.items() if value is not None}
    flock = replace(life.flock or Flock(house, name, placed_on), placed_on=placed_on, **told)
    # the facts of a present flock may be set right at any time: also while it is caught
    goes_on = life.flock is not None and life.state in _WITH_BIRDS
    state = life.state if goes_on else HouseState.ACTIVE
    return FlockChange(at, "place", house, state, flock, {"by": command.by})


def _record(house: str, life: HouseLife, flock: Flock, command: Record, at: datetime, days: FarmDays) -> FlockChange:
    day = command.date or days.date_of(at)
    if not flock.placed_on <= day <= days.date_of(at):
        message = f"date {day} is outside this flock's life, {flock.placed_on} to {days.date_of(at)}"
        raise InputError(message)
    others = tuple(entry for entry in flock.recorded if entry[0] != day)
    recorded = tuple(sorted((*others, (day, command.dead, command.culled))))
    detail: dict[str, object] = {
        "date": day.isoformat(),
        "dead": command.dead,
        "culled": command.culled,
        "by": command.by,
    }
    return FlockChange(at, "record", house, life.state, replace(flock, recorded=recorded), detail)


def _when(command: Thin | End, flock: Flock, at: datetime, days: FarmDays) -> datetime:
    """Return when it happened; within the flock's life, or there is no sense in it."""
    when = command.at or at
    if not days.start_of(flock.placed_on) <= when <= at + timedelta(days=1):
        message = f"at {when.isoformat()} is outside this flock's life, {flock.placed_on} to {days.date_of(at)}"
        raise InputError(message)
    return when


def _thin(house: str, flock: Flock, command: Thin, at: datetime, days: FarmDays) -> FlockChange:
    when = _when(command, flock, at, days)
    if flock.birds_placed is not None and flock.thinned_birds + command.birds >= flock.birds_placed:
        message = (
            f"{command.birds} birds cannot be thinned: {flock.birds_placed} were placed and {flock.thinned_birds} are "
            "thinned already; if all are gone, end the flock"
        )
        raise InputError(message)
    thinned = (*flock.thinned, (when, command.birds))
    detail: dict[str, object] = {"at": when.isoformat(), "birds": command.birds, "by": command.by}
    return FlockChange(at, "thin", house, HouseState.THINNED, replace(flock, thinned=thinned), detail)


def _tells_weight_of(ended: Flock | None, command: End) -> bool:
    """Tell whether ``command`` tells the slaughter weight of the flock that has left: abattoirs tell it days later."""
    return ended is not None and command.slaughter_weight_g is not None and command.flock in {None, ended.flock}


def _weigh(house: str, life: HouseLife, command: End, at: datetime) -> FlockChange:
    weighed = life.ended and replace(life.ended, slaughter_weight_g=command.slaughter_weight_g)
    return FlockChange(at, "end", house, life.state, weighed, {"by": command.by})


def _end(house: str, flock: Flock, command: End, at: datetime, days: FarmDays) -> FlockChange:
    ended = replace(flock, ended_at=_when(command, flock, at, days), slaughter_weight_g=command.slaughter_weight_g)
    return FlockChange(at, "end", house, HouseState.EMPTY, ended, {"by": command.by})
