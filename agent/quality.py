"""The trust in each reading, judged by its own series: out of range, jump, stuck, suspect; and gaps between readings.

What it takes several series to see is in ``agent/peers.py``; what each flag means to people, in docs/quality.md. The
S and F numbers are those of docs/sources.md.

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
from typing import TYPE_CHECKING

import numpy as np

from agent.domain import Kind, Quality, QualityInterval, to_ms
from agent.signals import base_of, is_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from agent.domain import SeriesKey
    from agent.readings import Readings
    from agent.signals import Mistake, Signal

RECOVERED_AFTER = 3  # good readings in a row that end an interval; and readings at a new level that make it believed
STUCK_READINGS = 20  # so many times the same value, besides ``stuck_after_s``: two readings a day apart prove nothing
STILL_TIMES = 6  # our judgement: stuck is what stands so many times longer than it ever did in the last weeks ...
SHORTEST_STILL_MS = 3 * 3_600_000  # ... and for three hours: the longest of a real 0.1 Cel sensor was 2.2 h in 26 days
STILL_FROM_MS = 24 * 3_600_000  # our judgement: a night and a day are needed to know how long a value usually stands
STILL_REVIEWED_MS = 3_600_000
SMALL_STEP = 0.05  # our judgement: of what two sensors may be apart; 0.25 K, 1 %RH, 50 ppm CO2
STILL_KEPT_MS = 7 * 24 * 3_600_000  # the longest standstill of this week and the last counts
SHORTEST_STEP_MS = 10_000  # jumps are judged over at least this: between two readings a second apart, noise is steep
RHYTHM_INTERVALS = 15  # the rhythm is the median of so many
RHYTHM_SEED = 8  # how many of them a rhythm from before the restart counts for
RHYTHM_FROM = 3  # intervals that make a rhythm
# Twice the sample time is a sensor maker's own mark of an inactive sensor [S9], but sampling wobbles, 332 s +- 30 s
# [F1], so that one reading that is missing shows as a silence now above twice, now below. Half an interval more, and it
# takes two. Where the intervals differ from each other, twice the longest but two of the last fifteen.
GAP_RHYTHMS = 2.5
GAP_LONGEST = 2
LONGEST_BUT = 3
SHORTEST_GAP_MS = 120_000  # our judgement: sensors that report every few seconds may well pause
SCALE_RISE_G = 250  # a day's mean that rises by more is an error of the scale [F1]; birds gain at most 110 g a day
SCALE_FALL = 0.05  # birds do not shrink; the day-to-day noise of real scales is 3.3 % [F1], and they grow meanwhile
SCALE_FALL_G = 15  # our judgement: chicks of 40 g and few weighings
SCALE_STEP_MS = 3 * 3_600_000  # so often a believed weight is kept to be compared with
SCALE_DAY_MS = 24 * 3_600_000
SCALE_FORGETS_MS = 3 * SCALE_DAY_MS  # after a silence of this length a new flock may be on it
SCALE_BELIEVED_MS = 36 * 3_600_000  # our judgement: what stays for a day and a half was no dirt and no visitor
NEW_FLOCK_G, NEW_FLOCK_SHARE = 500, 1 / 3  # a fall to so little and to this share is a new flock's


@dataclass(slots=True)
class _Series:
    """What must be remembered of one series to judge its next reading."""

    key: SeriesKey
    unit: str | None
    low: float
    high: float
    jump_per_ms: float
    stuck_after_ms: float  # as its own past says; the catalogue's is the bound
    longest_stuck_after_ms: float
    mistakes: tuple[Mistake, ...] = ()
    why_low: str = ""
    small_step: float = 0.0
    judges_jumps: bool = True
    first_ms: int | None = None  # since when it is known how long its values stand
    still_ms: int = 0  # the longest that a value stood lately ...
    still_before_ms: int = 0  # ... and in the week before
    still_until_ms: int = 0  # when this week is over
    reviewed_ms: int = 0
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
            self.run_value = None  # nor is what repeats after it
            quality, reason = self._beyond(value)
            self._note_bad(at_ms, quality, reason, intervals)
            return quality
        if value != self.run_value:
            if at_ms - self.run_ms > self.still_ms or at_ms - self.reviewed_ms > STILL_REVIEWED_MS:
                self._learn_still(at_ms, value)
            self.run_ms, self.run_value, self.run_readings = at_ms, value, 1
        else:
            self.run_readings += 1
            if self.run_readings >= STUCK_READINGS and self._is_stuck(at_ms, value):
                self.good_ms, self.good_value = at_ms, value
                self._note_bad(self.run_ms, Quality.STUCK, f"always {value:g}", intervals)
                return Quality.STUCK
        if self.judges_jumps and self._is_jump(at_ms, value):
            self._note_bad(at_ms, Quality.JUMP, self._how_it_jumped(value), intervals)
            return Quality.JUMP
        self.good_ms, self.good_value = at_ms, value
        if self.bad is not None:
            self._note_good(at_ms, intervals)
        return Quality.GOOD

    def _beyond(self, value: float) -> tuple[Quality, str]:
        """Return what a value outside its range is: impossible, or right in another unit."""
        shown = f"{value:g} {self.unit or ''}".rstrip()
        for mistake in self.mistakes:
            if mistake.low < value <= mistake.high:
                return Quality.SUSPECT, f"{shown} looks like {mistake.looks_like}"
        if value < self.low:
            why = f": {self.why_low}" if self.why_low else ""
            return Quality.OUT_OF_RANGE, f"{shown} is below {self.low:g}{why}"
        return Quality.OUT_OF_RANGE, f"{shown} is above {self.high:g}"

    def _learn_still(self, at_ms: int, value: float) -> None:
        """Learn how long a value stood, now that ``value`` follows.

        What stands at an end of the range (100 %RH in fog) tells nothing. What was called stuck and then moved on by a
        small step only stood: that is learnt, so that it is called so once. A sensor that was frozen catches up.
        """
        self.reviewed_ms = at_ms
        if self.first_ms is None:
            self.first_ms, self.still_until_ms = at_ms, at_ms + STILL_KEPT_MS
        if at_ms >= self.still_until_ms:
            self.still_before_ms, self.still_ms, self.still_until_ms = self.still_ms, 0, at_ms + STILL_KEPT_MS
        stood = self.run_value is not None and self.low < self.run_value < self.high  # not so after a gap
        if self.bad is not None:
            moved_on = self.run_value is not None and abs(value - self.run_value) <= self.small_step
            stood = stood and moved_on and self.bad.quality is Quality.STUCK
        if stood:
            self.still_ms = max(self.still_ms, at_ms - self.run_ms)
        self.stuck_after_ms = self.longest_stuck_after_ms
        if at_ms - self.first_ms >= STILL_FROM_MS and self.longest_stuck_after_ms < inf:
            learnt_ms = max(STILL_TIMES * max(self.still_ms, self.still_before_ms), SHORTEST_STILL_MS)
            self.stuck_after_ms = min(learnt_ms, self.longest_stuck_after_ms)

    def _is_stuck(self, at_ms: int, value: float) -> bool:
        is_edge = not self.low < value < self.high
        return at_ms - self.run_ms >= (self.longest_stuck_after_ms if is_edge else self.stuck_after_ms)

    def _how_it_jumped(self, value: float) -> str:
        return f"from {self.good_value:g} to {value:g}"

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
        n = len(self.intervals_ms)
        if silence_ms <= SHORTEST_GAP_MS or n < RHYTHM_FROM:
            return False
        ordered = sorted(self.intervals_ms)
        return silence_ms > max(GAP_RHYTHMS * ordered[n // 2], GAP_LONGEST * ordered[max(n // 2, n - LONGEST_BUT)])


@dataclass(slots=True)
class _Total(_Series):
    """A counter: its total may be anything and may fall, but it rises by no more than one reading can hold."""

    longest_rise: float = inf

    def _is_near(self, then_ms: int, then_value: float, at_ms: int, value: float) -> bool:  # noqa: ARG002  # of no account here
        return value - then_value <= self.longest_rise


@dataclass(slots=True)
class _Scale(_Series):
    """An automatic scale: held against what it showed in the last day, as it drifts off rather than jumps."""

    past: deque[tuple[int, float]] = field(default_factory=deque)  # believed weights of the last day, and their times
    odd_ms: int | None = None  # since when it shows what is not believed
    odd_value: float = 0.0
    odd_readings: int = 0
    odd_from: float = 0.0  # the believed weight that it is held against

    def _is_jump(self, at_ms: int, value: float) -> bool:
        past = self.past
        while past and at_ms - past[0][0] > (SCALE_DAY_MS if len(past) > 1 else SCALE_FORGETS_MS):
            past.popleft()
        against = self._off_course(at_ms, value)
        if against is None or (value < NEW_FLOCK_G and value < NEW_FLOCK_SHARE * against) or self._stays(at_ms, value):
            if against is not None:
                past.clear()
            self.odd_ms = None
            if not past or at_ms - past[-1][0] >= SCALE_STEP_MS:
                past.append((at_ms, value))
            return False
        self.odd_from = against
        return True

    def _off_course(self, at_ms: int, value: float) -> float | None:
        """Return the weight that this one cannot follow; None where it can."""
        if not self.past:
            return None
        then_ms, then = self.past[0]
        if value - then > SCALE_RISE_G * max(1.0, (at_ms - then_ms) / SCALE_DAY_MS):
            return then
        highest = max(weight for _, weight in self.past)
        return highest if highest - value > max(SCALE_FALL * highest, SCALE_FALL_G) else None

    def _stays(self, at_ms: int, value: float) -> bool:
        """Tell whether an unbelieved weight has been there for so long that it is what the birds weigh."""
        near = abs(value - self.odd_value) <= max(2 * SCALE_FALL * value, SCALE_RISE_G)
        if self.odd_ms is None or not near:
            self.odd_ms, self.odd_value, self.odd_readings = at_ms, value, 0
        self.odd_readings += 1
        return self.odd_readings >= RECOVERED_AFTER and at_ms - self.odd_ms >= SCALE_BELIEVED_MS

    def _how_it_jumped(self, value: float) -> str:
        way = "birds do not shrink" if value < self.odd_from else f"birds do not gain {SCALE_RISE_G} g a day"
        return f"from {self.odd_from:g} to {value:g} g: {way}"


def _series_of(key: SeriesKey, signal: Signal) -> _Series:
    """Return what will be remembered of a series."""
    low, high = -inf if signal.low is None else signal.low, inf if signal.high is None else signal.high
    stuck_after_ms = inf if signal.stuck_after_s is None else signal.stuck_after_s * 1000
    jump_per_ms = inf if signal.jump_per_s is None else signal.jump_per_s / 1000
    small_step = SMALL_STEP * (signal.agree_within or 0.0)
    told = (jump_per_ms, stuck_after_ms, stuck_after_ms, signal.mistakes, signal.why_low, small_step)
    if signal.kind is Kind.COUNTER:  # its range is of what flows between two readings
        return _Total(key, signal.unit, min(low, 0.0), inf, *told, judges_jumps=high < inf, longest_rise=high)
    if base_of(key.signal) == "weight" and jump_per_ms == inf:
        return _Scale(key, signal.unit, low, high, *told)
    return _Series(key, signal.unit, low, high, *told, judges_jumps=jump_per_ms < inf)


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
            series.stuck_after_ms = 0  # it is so until it moves, whatever its past, which is forgotten, would say
            since_ms, value = self.stuck[key]
            series.bad = QualityInterval(key, since_ms, None, Quality.STUCK, f"always {value:g}")


class QualityJudge:
    """Judges readings as they come; remembers the last values of each series, and begins anew after a restart."""

    def __init__(self, signal: Callable[[SeriesKey], Signal]) -> None:
        """Take the limits of each series from ``signal``: the catalogue with what the house says otherwise."""
        self._signal = signal
        self._series: dict[SeriesKey, _Series] = {}
        self._keys: tuple[SeriesKey, ...] | None = None  # of the last block, and what is remembered of each
        self._of_keys: list[_Series] = []
        self._known = Known()

    def judge(self, readings: Readings) -> tuple[Readings, list[QualityInterval]]:
        """Return the readings with their quality, and the intervals that began (without end) or ended with them.

        The readings of each series are taken in their order; one that is older than the newest is judged by its range
        alone.
        """
        if not len(readings):
            return readings, []
        if readings.keys is not self._keys:
            self._keys, self._of_keys = readings.keys, list(map(self._of, readings.keys))
        series = self._of_keys
        intervals: list[QualityInterval] = []
        columns = (readings.key.tolist(), readings.at_ms.tolist(), readings.value.tolist(), repeat(intervals))
        judged = [series[key].judge(at_ms, value, into) for key, at_ms, value, into in zip(*columns, strict=False)]
        quality = np.array(judged, np.uint8)
        # what its sender doubts is never good, whatever it looks like
        quality = np.where(quality == Quality.GOOD, readings.quality, quality)
        return replace(readings, quality=quality), intervals

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

    def begin_anew(self, house: str, signal: str, at: datetime) -> list[QualityInterval]:
        """Forget what was learnt of a sensor, or of all of a kind: it was replaced; return the intervals that end."""
        known, ended = self._known, []
        gone = {key for key in (*self._series, *known.newest_ms) if key.house == house and is_of(key.signal, signal)}
        for key in gone & self._series.keys():
            bad = self._series.pop(key).bad
            ended += [] if bad is None else [bad._replace(to_ms=to_ms(at))]
        self._keys = None
        rhythms_s = {key: value for key, value in known.rhythms_s.items() if key not in gone}
        newest_ms = {key: value for key, value in known.newest_ms.items() if key not in gone}
        self._known = Known(rhythms_s, newest_ms, {key: value for key, value in known.stuck.items() if key not in gone})
        return ended

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
            series = self._series[key] = _series_of(key, self._signal(key))
            self._known.seed(series)
        return series
