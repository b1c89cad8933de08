"""A clock that keeps its head: the time as it is *presumed*, whatever the machine's own clock shows.

A gateway has no battery clock. After a power cut it begins in 1970, or where it was last saved; once there is a
network, NTP sets it right, hours later perhaps, and sometimes somebody sets it wrong. So the wall clock is a witness
here, and no more. ``now()`` is the time since boot, which never jumps, plus an offset that is believed; ``look``
compares the two now and then and decides, with its reason, whether the offset changes.

Who is believed: the kernel, where it says that its clock is synchronised (NTP, GPS: adjtimex(2)), in both directions
and however far. Otherwise a step of at most a day; from a clock that was not trusted, any time that is plausible: not
before the last time that was known to be good, and not more than 400 days after it.

Nothing here reads or writes files but ``Kernel``, and a test brings a ``Machine`` of its own.
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from agent.clock import EARLIEST_PLAUSIBLE

STEP_MS = 1_000  # less is slewing: the offset follows silently
BELIEVED_STEP_MS = (
    86_400_000  # a day: what a power cut or a hand may set; more is believed of a synchronised clock only
)
LONGEST_ABSENCE_MS = 400 * 86_400_000  # a gateway out of a year's storage; further ahead is a clock that is wrong
PATIENCE_S = 600.0  # what is not trusted is not judged by for so long: NTP needs a minute after boot, a modem some more
EARLIEST_MS = round(EARLIEST_PLAUSIBLE.timestamp() * 1000)

_STA_UNSYNC = 0x0040  # include/uapi/linux/timex.h
_TIME_ERROR = 5  # what adjtimex returns while the clock is not synchronised
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Machine(Protocol):
    """What the machine itself says about the time."""

    @property
    def boot_id(self) -> str:
        """Random name of this boot."""

    def wall_ms(self) -> int:
        """Return what the machine's clock shows, in ms since 1970."""

    def boot_ms(self) -> int:
        """Return the ms since boot; they never jump."""

    def monotonic(self) -> float:
        """Return real seconds that never jump."""

    def synchronised(self) -> bool | None:
        """Tell whether something outside (NTP, GPS) keeps the machine's clock right; None where that is not known."""


class Kernel:
    """The real machine: Linux."""

    def __init__(self) -> None:
        self.boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

    def wall_ms(self) -> int:
        """Return what the machine's clock shows, in ms since 1970."""
        return time.time_ns() // 1_000_000

    def boot_ms(self) -> int:
        """Return the ms since boot; they never jump."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    def monotonic(self) -> float:
        """Return real seconds that never jump."""
        return time.monotonic()

    def synchronised(self) -> bool | None:
        """Tell whether the kernel's clock is synchronised; None where it does not tell."""
        return kernel_synchronised()


class _Timex(ctypes.Structure):
    """The head of ``struct timex``; the kernel fills it up to 208 bytes."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 512),
    )


def kernel_synchronised() -> bool | None:
    """Return what adjtimex(2) says, which asks without changing anything (modes = 0) and needs no right."""
    timex = _Timex()
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):  # no such call in this libc
        return None
    if state < 0:  # forbidden, as in some sandboxes
        return None
    return state != _TIME_ERROR and not timex.status & _STA_UNSYNC


@dataclass(frozen=True, slots=True)
class ClockState:
    """What is believed of the clock: presumed time = time since boot + ``offset_ms``."""

    offset_ms: int
    trusted: bool
    synchronised: bool | None

    def now_ms(self, boot_ms: int) -> int:
        """Return the presumed time at ``boot_ms`` after boot."""
        return boot_ms + self.offset_ms


@dataclass(frozen=True, slots=True)
class ClockStep:
    """A change of what is believed, and why. ``delta_ms`` 0: the time goes on, the trust in it has changed."""

    before: ClockState
    after: ClockState
    boot_ms: int  # when it was noticed
    monotonic: float
    why: str

    @property
    def delta_ms(self) -> int:
        """How far the presumed time has moved; positive: forward."""
        return self.after.offset_ms - self.before.offset_ms


class SteadyClock:
    """Presumed time. ``now`` may be asked by any thread; all else belongs to the main one.

    Attributes:
        state: what is believed.
        is_sure: the kernel's clock was synchronised at some time since the start, and can only have drifted from there.
        doubt: what the machine's clock shows and why that is not believed, for people; None where it agrees.
        last_step: the last change since the start.
    """

    def __init__(self, machine: Machine, known_good_ms: int | None = None, presumed_ms: int | None = None) -> None:
        """Begin with what the machine shows or, where that cannot be, where the time before the restart ended.

        Args:
            machine: what is looked at.
            known_good_ms: the last time that was trusted; None where there was none.
            presumed_ms: the last time that was presumed, trusted or not: time does not begin again with each start.
        """
        self.machine = machine
        self.doubt: str | None = None
        self.last_step: ClockStep | None = None
        self._earliest_ms = max(EARLIEST_MS, known_good_ms or 0)
        self._latest_ms = None if known_good_ms is None else self._earliest_ms + LONGEST_ABSENCE_MS
        boot_ms, wall_ms = machine.boot_ms(), machine.wall_ms()
        self._wall_offset_ms = wall_ms - boot_ms
        self._started_monotonic = machine.monotonic()
        synchronised = machine.synchronised()
        if (synchronised and wall_ms >= EARLIEST_MS) or self._is_plausible(wall_ms):
            self.state = ClockState(self._wall_offset_ms, trusted=True, synchronised=synchronised)
        else:
            begin_ms = max(self._earliest_ms, presumed_ms or 0)
            self.state = ClockState(begin_ms - boot_ms, trusted=False, synchronised=synchronised)
            self.doubt = self._doubt(wall_ms)
        self.is_sure = synchronised is True

    # --- what everything else asks

    def now(self) -> datetime:
        """Return the presumed time, aware, UTC."""
        return _EPOCH + timedelta(milliseconds=self.now_ms())

    def now_ms(self) -> int:
        """Return the presumed time in ms since 1970."""
        return self.state.now_ms(self.machine.boot_ms())

    def monotonic(self) -> float:
        """Return real seconds that never jump."""
        return self.machine.monotonic()

    def is_trusted(self) -> bool:
        """Tell whether the presumed time is more than the last good one counted on."""
        return self.state.trusted

    def may_judge(self) -> bool:
        """Tell whether birds may be judged by it: it is trusted, or nothing better came for ten minutes."""
        return self.state.trusted or self.machine.monotonic() - self._started_monotonic >= PATIENCE_S

    # --- what changes it

    def look(self) -> ClockStep | None:
        """Compare with the machine's clock; return what changed, None where nothing did that matters."""
        boot_ms, wall_ms = self.machine.boot_ms(), self.machine.wall_ms()
        synchronised = self.machine.synchronised()
        before = self.state
        moved_ms = wall_ms - boot_ms - self._wall_offset_ms
        self._wall_offset_ms += moved_ms
        ahead_ms = wall_ms - before.now_ms(boot_ms)
        if synchronised and wall_ms >= EARLIEST_MS:
            self.is_sure = True
            self.doubt = None
            why = "the machine's clock is synchronised"
            return self._take(ClockState(self._wall_offset_ms, trusted=True, synchronised=True), boot_ms, why)
        if abs(moved_ms) <= STEP_MS:  # slewed, or not touched at all
            after = ClockState(before.offset_ms + moved_ms, before.trusted, synchronised)
            return self._take(after, boot_ms, "the machine's clock is not synchronised any more")
        if self._is_plausible(wall_ms) if not before.trusted else abs(ahead_ms) <= BELIEVED_STEP_MS:
            self.doubt = None
            after = ClockState(self._wall_offset_ms, trusted=True, synchronised=synchronised)
            return self._take(after, boot_ms, "the machine's clock was set")
        self.doubt = self._doubt(wall_ms)
        after = ClockState(before.offset_ms, before.trusted, synchronised)
        return self._take(after, boot_ms, "the machine's clock was set to a time that is not believed")

    def move(self, lead_ms: int, why: str, *, trusted: bool) -> ClockStep | None:
        """Go ``lead_ms`` on, because others know better; ``trusted``: they are to be trusted, too."""
        before = self.state
        after = ClockState(before.offset_ms + lead_ms, before.trusted or trusted, before.synchronised)
        boot_ms, wall_ms = self.machine.boot_ms(), self.machine.wall_ms()
        step = self._take(after, boot_ms, why)
        is_near = abs(wall_ms - after.now_ms(boot_ms)) <= BELIEVED_STEP_MS
        self.doubt = None if is_near and after.trusted else self._doubt(wall_ms)
        return step

    def _take(self, after: ClockState, boot_ms: int, why: str) -> ClockStep | None:
        before, self.state = self.state, after
        is_slew = abs(after.offset_ms - before.offset_ms) <= STEP_MS
        if is_slew and (after.trusted, after.synchronised) == (before.trusted, before.synchronised):
            return None
        self.last_step = ClockStep(before, after, boot_ms, self.machine.monotonic(), why)
        return self.last_step

    def _is_plausible(self, wall_ms: int) -> bool:
        return wall_ms >= self._earliest_ms and (self._latest_ms is None or wall_ms <= self._latest_ms)

    def _doubt(self, wall_ms: int) -> str:
        return (
            f"the machine's clock says {shown(wall_ms)}, which is not believed: it is not synchronised, and more than "
            f"a day from what it was, or impossible after {shown(self._earliest_ms)}; going on from "
            f"{shown(self.now_ms())}. Set it by NTP; if it was set by hand and is right, restart the agent"
        )


def shown(ms: int) -> str:
    """Return a time for people, to the minute, whatever a broken clock shows."""
    try:
        return (_EPOCH + timedelta(milliseconds=ms)).strftime("%Y-%m-%dT%H:%MZ")
    except OverflowError:
        return f"{ms} ms since 1970"
