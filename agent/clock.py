"""Time: the wall clock (aware UTC), the monotonic one, the simulated one, and the farm's own days."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from typing import TYPE_CHECKING, Protocol

from agent.errors import UsageError

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

EARLIEST_PLAUSIBLE = datetime(2026, 1, 1, tzinfo=UTC)  # before this program existed: a gateway without a clock battery


class Clock(Protocol):
    """Where the program gets its time from; everything else takes time as an argument."""

    def now(self) -> datetime:
        """Return the time of the farm, aware, UTC."""

    def monotonic(self) -> float:
        """Return real seconds that never jump: for time-outs, keep-alives and commit intervals."""

    def is_trusted(self) -> bool:
        """Tell whether ``now`` may be believed."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the machine's time, aware, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return the machine's monotonic seconds."""
        return time.monotonic()

    def is_trusted(self) -> bool:
        """Tell whether the machine's clock has been set since 1970."""
        return self.now() >= EARLIEST_PLAUSIBLE


@dataclass(frozen=True, slots=True)
class SimulatedClock:
    """An accelerated clock that is the same in every process: now = start + (wall clock - real_epoch) x speed.

    Before ``real_epoch`` it stands at ``start``.
    """

    start: datetime
    real_epoch: float  # seconds since 1970, wall clock
    speed: float

    def now(self) -> datetime:
        """Return the simulated time, aware, UTC."""
        return self.start + timedelta(seconds=max(0.0, time.time() - self.real_epoch) * self.speed)

    def monotonic(self) -> float:
        """Return the machine's real monotonic seconds: an accelerated farm does not accelerate a time-out."""
        return time.monotonic()

    def is_trusted(self) -> bool:
        """Tell that a simulated clock is always believed."""
        return True

    def __str__(self) -> str:
        """Return the form that ``--simulated-clock`` takes."""
        return f"{self.start.isoformat().replace('+00:00', 'Z')},{self.real_epoch!r},{self.speed!r}"

    @classmethod
    def parse(cls, text: str) -> SimulatedClock:
        """Read ``START,REAL_EPOCH,SPEED``, as in ``2026-01-01T00:00:00Z,1795000000.0,2000``.

        Raises:
            UsageError: the text has another form.
        """
        parts = text.split(",")
        try:
            start_text, epoch_text, speed_text = parts
            start, real_epoch, speed = datetime.fromisoformat(start_text), float(epoch_text), float(speed_text)
        except ValueError as e:
            message = (
                f"--simulated-clock {text!r} is not START,REAL_EPOCH,SPEED; "
                "for example 2026-01-01T00:00:00Z,1795000000.0,2000"
            )
            raise UsageError(message) from e
        if start.tzinfo is None or not speed > 0:
            message = f"--simulated-clock {text!r}: START needs a zone (end it in Z) and SPEED must be above 0"
            raise UsageError(message)
        return cls(start.astimezone(UTC), real_epoch, speed)


@dataclass(frozen=True, slots=True)
class FarmDays:
    """The farm's own days: local, beginning at a farm-set hour, 23 or 25 hours long when the clocks change."""

    zone: ZoneInfo
    starts_at: time_of_day = time_of_day(0, 0)

    def date_of(self, at: datetime) -> date:
        """Return the farm date that ``at`` belongs to."""
        local = at.astimezone(self.zone)
        return local.date() if local.time() >= self.starts_at else local.date() - timedelta(days=1)

    def week_of(self, at: datetime) -> date:
        """Return the Monday of the farm's week that ``at`` belongs to."""
        day = self.date_of(at)
        return day - timedelta(days=day.weekday())

    def start_of(self, day: date) -> datetime:
        """Return the first instant of farm date ``day``, in UTC."""
        return datetime.combine(day, self.starts_at, self.zone).astimezone(UTC)

    def hour_of(self, at: datetime) -> float:
        """Return the local clock hour of ``at``, 0 up to 24, as the lights and the birds know it."""
        local = at.astimezone(self.zone)
        return local.hour + local.minute / 60 + local.second / 3600
