"""How much a program writes to its card, and how long that one will last. Pure, but for the kernel's own count."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from datetime import date

DAYS_KEPT = 7
LEAST_S = 600.0  # before so long, a daily figure would be a guess
DAY_S, DAYS_A_YEAR = 86_400.0, 365.25


class _Day(msgspec.Struct):
    bytes: int = 0
    seconds: float = 0.0


def written_bytes() -> int | None:
    """Return how many bytes this process has sent to its disks since it began, None where the kernel does not tell."""
    try:
        with open("/proc/self/io", encoding="ascii") as file:  # noqa: PTH123  # a kernel file, not a path of ours
            counts = dict(line.split(": ") for line in file.read().splitlines())
        return int(counts["write_bytes"])
    except (OSError, ValueError, KeyError):  # no such count in this kernel, or in this container
        return None


@dataclass(slots=True)
class WearMeter:
    """Bytes written, and the running time in which they were, of the last seven days on which the program ran.

    A day without the program counts as none; the kernel's count begins anew with every process.
    """

    _days: dict[str, _Day] = field(default_factory=dict)  # ISO date -> what was written on it, the oldest first
    _last: tuple[int, float] | None = None  # the count, and when it was taken

    @classmethod
    def restored(cls, text: str | None) -> WearMeter:
        """Return the meter that ``text`` keeps; a new one where that is nothing of ours."""
        try:
            return cls(msgspec.json.decode(text or "{}", type=dict[str, _Day]))
        except msgspec.MsgspecError:  # a figure for people: not worth a failure
            return cls()

    def kept(self) -> str:
        """Return what ``restored`` takes."""
        return msgspec.json.encode(self._days).decode()

    def note(self, written: int | None, monotonic_s: float, today: date) -> None:
        """Take note of the kernel's count (``written_bytes``) at some real time of the farm's ``today``."""
        if written is None:
            return
        if self._last is not None:
            day = self._days.setdefault(today.isoformat(), _Day())
            day.bytes += max(0, written - self._last[0])
            day.seconds += max(0.0, monotonic_s - self._last[1])
            for old in list(self._days)[:-DAYS_KEPT]:
                del self._days[old]
        self._last = written, monotonic_s

    def bytes_per_day(self) -> float | None:
        """Return what a day of running writes, None before there is enough to tell."""
        seconds = sum(day.seconds for day in self._days.values())
        return sum(day.bytes for day in self._days.values()) / seconds * DAY_S if seconds >= LEAST_S else None


def card_years(bytes_per_day: float, card_tbw: float) -> float:
    """Return how many years a card lasts that may be written with ``card_tbw`` terabytes (10^12 bytes).

    What the file system and the card itself write for each byte of ours is not in it: take half of it as a promise.
    """
    return card_tbw * 1e12 / max(bytes_per_day, 1.0) / DAYS_A_YEAR
