"""A meter's running total becomes amounts: resets, rollovers, slips and corrections. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

NAN = float("nan")
MODULI = (
    *(10.0**digits for digits in range(4, 13)),  # a display of so many digits
    *(2.0**16 * 10.0**scale for scale in range(-1, 4)),  # a register, in any decimal unit
    *(2.0**32 * 10.0**scale for scale in range(-3, 4)),
)
"""Where a meter begins again at zero because it can count no further."""
RISES_OVER = 10  # our judgement: what flowed over a rollover or since a reset is at most so many usual rises
NEAR_SHARE = 0.01  # our judgement: where those are not known, a fall from so near a modulus, as its share, is its end
NEAR_AT_MOST = 0.05  # and never from further: everything falls from below some modulus
USUAL_KEPT = 0.999  # of the usual rise from one reading to the next: at one a minute half of it is left after a night


@dataclass(slots=True)
class Meter:
    """One counter. ``low`` and ``high`` are what one rise may be: below 0 where people correct their count."""

    low: float | None
    high: float | None
    total: float = NAN  # the newest one
    fell_from: float = NAN  # what it showed before it fell, if it did at its newest reading
    rose_from: float = NAN  # what it showed before it rose by more than can be, if it did at its newest reading
    usual: float = NAN  # the largest rise of late

    def rise(self, total: float) -> float:
        """Return the amount since the last reading, given the next total; NaN where nobody knows it."""
        before, fell_from, rose_from = self.total, self.fell_from, self.rose_from
        self.total, self.fell_from, self.rose_from = total, NAN, NAN
        if math.isnan(before):
            return NAN
        # one low reading between two high ones is a slip of the reader, no new beginning; so is one far too high
        if total >= fell_from:
            rise = total - fell_from
        elif rose_from <= total < before:
            rise = total - rose_from
        elif total >= before:
            rise = total - before
        else:
            rise = self._after_fall(before, total)
        if self.high is not None and rise > self.high:
            self.rose_from = before
            return NAN
        if not math.isnan(rise):
            self.usual = rise if math.isnan(self.usual) else max(rise, USUAL_KEPT * self.usual)
        return rise

    def _after_fall(self, before: float, total: float) -> float:
        over = RISES_OVER * self.usual if self.usual > 0 else None  # None: not known yet
        for modulus in MODULI:
            near = NEAR_SHARE * modulus if over is None else min(over, NEAR_AT_MOST * modulus)
            if 0 <= modulus - before <= modulus - before + total <= near:
                return modulus - before + total
        if self.low is not None and self.low < 0 and total - before >= self.low and total > before / 2:
            return total - before  # somebody set a count right
        self.fell_from = before
        is_reset = total <= (before / 2 if over is None else over)
        return total if is_reset else NAN  # a little lower, or another meter: what flowed is not known
