"""The trust in each reading, judged by its own series: out of range, jump, stuck, suspect; and gaps between readings.

A reading is judged once, in the order of event time, before it is stored. What concerns more than one reading is an
interval: since when a sensor is stuck, from when to when its values were out of range, when it was silent.

One reading after the other in plain Python: about a microsecond each, wherever they come from. Arrays pay only with
dozens of readings of a series at a time, which neither a live turn nor a grid step of a replay has.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from itertools import repeat
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from agent.domain import Quality, to_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from agent.domain import SeriesKey
    from agent.readings import Readings
    from agent.signals import Signal

RECOVERED_AFTER = 3  # good readings in a row that end an interval; and readings at a new level that make it believed
STUCK_READINGS = 20  # so many times the same value, besides ``stuck_after_s``: two readings a day apart prove nothing
SHORTEST_STEP_MS = 10_000  # jumps are judged over at least this: between two readings a second apart, noise is steep
RHYTHM_INTERVALS = 15  # the rhythm is the median of so many
RHYTHM_SEED = 8  # how many of them a rhythm from before the restart counts for
RHYTHM_FROM = 3  # intervals that make a rhythm
GAP_RHYTHMS = 3  # a silence longer than so many usual intervals is a gap ...
SHORTEST_GAP_MS = 300_000  # ... and longer than this: fast sensors may well pause


class QualityInterval(NamedTuple):
    """A time in which a series was not good: [from_ms, to_ms); None while it lasts."""

    key: SeriesKey
    from_ms: int
    to_ms: int | None
    quality: Quality
    reason: str


@dataclass(slots=True)
class _Series:
    """What must be remembered of one series to judge its next reading."""

    key: SeriesKey
    unit: str | None
    low: float
    high: float
    jump_per_ms: float
    stuck_after_ms: float
    last_ms: int | None = None  # the newest reading
    intervals_ms: deque[int] = field(default_factory=lambda: deque(maxlen=RHYTHM_INTERVALS))
    good_ms: int | None = None  # the last value that was believed
    good_value: float = 0.0
    level_ms: int = 0  # the level to which it has jumped, believed after RECOVERED_AFTER readings
    level_value: float = 0.0
    level_readings: int = 0
    run_ms: int = 0  # the value that it repeats
    run_value: float | None = None
    run_readings: int = 0
    bad: QualityInterval | None = None  # what lasts
    back_ms: int = 0  # since when it looks good again
    back_readings: int = 0

    def judge(self, at_ms: int, value: float, intervals: list[QualityInterval]) -> Quality:
        """Return the quality of the next reading; intervals that begin or end with it are added to ``intervals``."""
        last_ms = self.last_ms
        in_range = self.low <= value <= self.high  # not so for NaN
        if last_ms is not None:
            if at_ms <= last_ms:  # late, or a repetition: judged alone, as its neighbours are gone
                return Quality.GOOD if in_range else self._beyond(value)[0]
            interval_ms = at_ms - last_ms
            if interval_ms > SHORTEST_GAP_MS and self.is_gap(interval_ms):
                intervals.append(QualityInterval(self.key, last_ms, at_ms, Quality.STALE, "no readings"))
                self.run_value = None  # what repeats across a gap was not seen to repeat
            self.intervals_ms.append(interval_ms)
        self.last_ms = at_ms
        if not in_range:
            quality, reason = self._beyond(value)
            self._note_bad(at_ms, quality, reason, intervals)
            return quality
        if value != self.run_value:
            self.run_ms, self.run_value, self.run_readings = at_ms, value, 1
        else:
            self.run_readings += 1
            if self.run_readings >= STUCK_READINGS and at_ms - self.run_ms >= self.stuck_after_ms:
                self.good_ms, self.good_value = at_ms, value
                self._note_bad(self.run_ms, Quality.STUCK, f"always {value:g}", intervals)
                return Quality.STUCK
        if self.jump_per_ms < inf and self._is_jump(at_ms, value):
            self._note_bad(at_ms, Quality.JUMP, f"from {self.good_value:g} to {value:g}", intervals)
            return Quality.JUMP
        self.good_ms, self.good_value = at_ms, value
        if self.bad is not None:
            self._note_good(at_ms, intervals)
        return Quality.GOOD

    def _beyond(self, value: float) -> tuple[Quality, str]:
        """Return what a value outside its range is: impossible, or right in another unit."""
        unit = self.unit or ""
        if unit == "%RH" and self.high < value <= 10 * self.high:
            return Quality.SUSPECT, f"{value:g} {unit} looks like tenths of a percent"
        if unit == "%RH" and 0 < value <= 1:
            return Quality.SUSPECT, f"{value:g} {unit} looks like a fraction, not percent"
        side, limit = ("below", self.low) if value < self.low else ("above", self.high)
        return Quality.OUT_OF_RANGE, f"{value:g} {unit} is {side} {limit:g}".replace("  ", " ")

    def _is_jump(self, at_ms: int, value: float) -> bool:
        """Tell whether ``value`` is further from the last believed one than can be; a level that stays is believed."""
        if self.good_ms is None or self._is_near(self.good_ms, self.good_value, at_ms, value):
            self.level_readings = 0
            return False
        stays = self.level_readings > 0 and self._is_near(self.level_ms, self.level_value, at_ms, value)
        self.level_readings = self.level_readings + 1 if stays else 1
        self.level_ms, self.level_value = at_ms, value
        if self.level_readings < RECOVERED_AFTER:
            return True
        self.level_readings = 0
        return False

    def _is_near(self, then_ms: int, then_value: float, at_ms: int, value: float) -> bool:
        return abs(value - then_value) <= self.jump_per_ms * max(at_ms - then_ms, SHORTEST_STEP_MS)

    def _note_bad(self, from_ms: int, quality: Quality, reason: str, intervals: list[QualityInterval]) -> None:
        if self.bad is not None and self.bad.quality is not quality:
            intervals.append(self.bad._replace(to_ms=self.back_ms if self.back_readings else self.last_ms))
            self.bad = None
        self.back_readings = 0
        if self.bad is None:
            self.bad = QualityInterval(self.key, from_ms, None, quality, reason)
            intervals.append(self.bad)

    def _note_good(self, at_ms: int, intervals: list[QualityInterval]) -> None:
        """End the interval once enough good readings came: a value that flickers makes one interval, not a hundred."""
        if self.back_readings == 0:
            self.back_ms = at_ms
        self.back_readings += 1
        if self.bad is not None and self.back_readings >= RECOVERED_AFTER:
            intervals.append(self.bad._replace(to_ms=self.back_ms))
            self.bad = None
            self.back_readings = 0

    def rhythm_ms(self) -> int | None:
        """Return the median interval between readings."""
        n = len(self.intervals_ms)
        return sorted(self.intervals_ms)[n // 2] if n >= RHYTHM_FROM else None

    def is_gap(self, silence_ms: int) -> bool:
        """Tell whether a silence is longer than the series' own rhythm explains."""
        rhythm_ms = self.rhythm_ms()
        return rhythm_ms is not None and silence_ms > max(GAP_RHYTHMS * rhythm_ms, SHORTEST_GAP_MS)


@dataclass(frozen=True, slots=True)
class Known:
    """What was known of the series before a restart."""

    rhythms_s: Mapping[SeriesKey, float] = field(default_factory=dict)
    newest_ms: Mapping[SeriesKey, int] = field(default_factory=dict)  # so that a gap across the restart is told
    stuck: Mapping[SeriesKey, tuple[int, float]] = field(default_factory=dict)  # since when, at which value

    def seed(self, series: _Series) -> None:
        """Write into a series that begins what is known of it."""
        key = series.key
        if key in self.rhythms_s:
            series.intervals_ms.extend([round(self.rhythms_s[key] * 1000)] * RHYTHM_SEED)
        series.last_ms = self.newest_ms.get(key)
        if key in self.stuck:
            series.run_ms, series.run_value = self.stuck[key]
            series.run_readings = STUCK_READINGS


class QualityJudge:
    """Judges readings as they come; remembers the last values of each series, and begins anew after a restart."""

    def __init__(self, signal: Callable[[SeriesKey], Signal]) -> None:
        """Take the limits of each series from ``signal``: the catalogue with what the house says otherwise."""
        self._signal = signal
        self._series: dict[SeriesKey, _Series] = {}
        self._known = Known()

    def judge(self, readings: Readings) -> tuple[Readings, list[QualityInterval]]:
        """Return the readings with their quality, and the intervals that began (without end) or ended with them.

        The readings of each series are taken in their order; one that is older than the newest is judged by its range
        alone.
        """
        if not len(readings):
            return readings, []
        series = list(map(self._of, readings.keys))
        intervals: list[QualityInterval] = []
        columns = (readings.key.tolist(), readings.at_ms.tolist(), readings.value.tolist(), repeat(intervals))
        judged = [series[key].judge(at_ms, value, into) for key, at_ms, value, into in zip(*columns, strict=False)]
        return replace(readings, quality=np.array(judged, np.uint8)), intervals

    def rhythm_s(self, key: SeriesKey) -> float | None:
        """Return the usual seconds between two readings of a series; None before the fourth."""
        series = self._series.get(key)
        rhythm_ms = None if series is None else series.rhythm_ms()
        return self._known.rhythms_s.get(key) if rhythm_ms is None else rhythm_ms / 1000

    def rhythms_s(self) -> dict[SeriesKey, float]:
        """Return the usual seconds between two readings of every series for which they are known."""
        return {key: rhythm_s for key in self._series if (rhythm_s := self.rhythm_s(key)) is not None}

    def restore(self, known: Known) -> None:
        """Take back what was known before a restart; all else is learnt again within a few readings."""
        self._known = known

    def open_intervals(self, now_ms: int) -> list[QualityInterval]:
        """Return what is not good at ``now_ms``: intervals that last, and series that are silent."""
        lasting = []
        for series in self._series.values():
            if series.bad is not None:
                lasting.append(series.bad)
            if series.last_ms is not None and series.is_gap(now_ms - series.last_ms):
                lasting.append(QualityInterval(series.key, series.last_ms, None, Quality.STALE, "no readings"))
        return lasting

    def close(self, at: datetime) -> list[QualityInterval]:
        """Return what lasts at ``at``, the end of a recording, ended there."""
        return [interval._replace(to_ms=to_ms(at)) for interval in self.open_intervals(to_ms(at))]

    def _of(self, key: SeriesKey) -> _Series:
        series = self._series.get(key)
        if series is None:
            signal = self._signal(key)
            series = self._series[key] = _Series(
                key,
                signal.unit,
                -inf if signal.low is None else signal.low,
                inf if signal.high is None else signal.high,
                inf if signal.jump_per_s is None else signal.jump_per_s / 1000,
                inf if signal.stuck_after_s is None else signal.stuck_after_s * 1000,
            )
            self._known.seed(series)
        return series
