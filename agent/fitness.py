"""How well the models fit one house: what they are fed, whether their bands hold, how far off their weights were.

Counted on what runs anyway, by farm day, in event time: the same in replay. Of each model:

- **drift**: once an hour the newest row of its inputs is counted into the bins of its reference. When a farm day is
  over, the last seven are held against what training was fed at these ages (``agent.reference``).
- **coverage**: whether what was measured lay within p10 to p90, by output, once in each horizon, so that no stretch of
  time is counted twice: of three days once in three. Over the flock so far; the hours of a day are no independent
  witnesses, so a day counts as ``DAY_COUNTS`` at most. What is told is far off, and chance alone would bring it less
  than once in a thousand.
- **stretch**: how wide the bands must be in this house (``agent.bands``). It goes over to the next flock.
- **error**: when a flock has left and its slaughter weight was told, what was predicted for that day before.

Each kind is told once for each flock; a state that has begun ends only well inside its limit.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from math import ceil, comb, isfinite
from typing import TYPE_CHECKING

import numpy as np

from agent.domain import Event, from_ms, to_ms
from agent.manifest import BUCKET_S, DAY_S
from agent.reference import WEEK_DAYS, newest_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from agent.clock import FarmDays
    from agent.domain import Evidence, Flock, Prediction
    from agent.manifest import InputSpec
    from agent.reference import Reference

    I64 = NDArray[np.int64]

COUNTED_EVERY_S = 3_600
STORED_EVERY_S = 6 * 3_600
"""So much of the counts a crash may cost."""
EPOCH = from_ms(0)
KEPT_DAYS = 15  # the longest lead of a prediction that is scored, and today
NOMINAL = 0.8  # of what lies between p10 and p90
DAY_COUNTS = 4
"""Our judgement: a house that is off in the morning is off at noon; a day is worth four independent looks at most."""
LEAST_COUNTS = 7 * DAY_COUNTS  # our judgement: a week
LEAST_FLOCKS = 5  # our judgement: of fewer flocks a share says nothing
UNLIKELY, LIKELY_AGAIN = 0.001, 0.01  # our judgement: judged daily for 40 days, and few flocks are told of by chance
FAR_OFF, NEAR_AGAIN = 0.15, 0.10  # our judgement: a band that holds 90 % in one house is no use to tell
DRIFT_OVER = 0.8  # of the limit: what drifted has come back
SCORED_LEADS = (1, 2, 5, 7, 14)  # days before slaughter
TARGET = "weight_g"
AS_TRAINED = (1.0, 1.0)  # a band that is not stretched
LONGEST_TOLD = 5  # columns or outputs that a reason names


@dataclass(frozen=True, slots=True)
class FitDay:
    """What was counted of one model in one house on one farm day."""

    house: str
    model: str  # name/version
    start_ms: int  # of the farm day
    flock: str
    band: int = 0  # of age
    counts: dict[str, list[list[int]]] = field(default_factory=dict)  # by input: [columns][bins]
    held: dict[str, tuple[int, int]] = field(default_factory=dict)  # by output/horizon: counted, within p10 to p90
    made: dict[str, tuple[str, float, float, float]] = field(default_factory=dict)  # by horizon: for when, p10, 50, 90
    stretch: float = 1.0  # of the half bands of what was made


@dataclass(frozen=True, slots=True)
class Score:
    """What was predicted of a slaughter weight so many days before."""

    lead_days: int
    p10: float
    p50: float
    p90: float
    stretch: float = 1.0  # by which the half bands were wider than the model's own


@dataclass(frozen=True, slots=True)
class FitFlock:
    """What one model made of one flock so far."""

    house: str
    model: str
    flock: str
    updated_ms: int
    held: dict[str, tuple[int, int, float, float]] = field(default_factory=dict)  # + of them, that count, and within
    drift: dict[str, float] = field(default_factory=dict)  # by column: the stability index, of the last week
    drifted: dict[str, float] = field(default_factory=dict)  # those that have drifted, with their limit
    off: dict[str, float] = field(default_factory=dict)  # by output/horizon: those that do not hold, with their share
    told: tuple[str, ...] = ()  # kinds of events
    truth_g: float | None = None  # at slaughter
    scores: tuple[Score, ...] = ()
    bands: dict[str, tuple[float, float]] = field(default_factory=dict)  # by output/horizon: stretched below, above


@dataclass(slots=True)
class _Today:
    """The farm day that is being counted."""

    day: date
    flock: str
    band: int
    counts: dict[str, I64] = field(default_factory=dict)
    held: dict[str, tuple[int, int]] = field(default_factory=dict)
    made: dict[str, tuple[str, float, float, float]] = field(default_factory=dict)
    stretch: float = 1.0


@dataclass(slots=True)
class _Life:
    """What is known of one model in this house."""

    today: _Today | None = None
    days: deque[FitDay] = field(default_factory=lambda: deque(maxlen=KEPT_DAYS))  # of the flock, those that are over
    flock: FitFlock | None = None
    past: dict[str, FitFlock] = field(default_factory=dict)  # by flock: those whose weight was told
    bands: dict[str, tuple[float, float]] = field(default_factory=dict)  # of the house, flock after flock


class Fitness:
    """Of the models of one house; pure. What is to be stored and told waits for ``take``."""

    def __init__(self, house: str, days: FarmDays, references: Mapping[str, Reference]) -> None:
        """Watch a house; ``references`` are what the models were fed in training, by name/version."""
        self._house, self._days, self._references = house, days, references
        self._lives: dict[str, _Life] = {}
        self._changed: set[str] = set()
        self._events: list[Event] = []
        self._at, self._since_s = EPOCH, 0.0  # the last instant that was asked for, and how late in its day it was

    def restore(self, days: Iterable[FitDay], flocks: Iterable[FitFlock]) -> None:
        """Take back what was stored of this house, days in their order; others' are passed over."""
        for known in flocks:
            if known.house == self._house:
                life = self._lives.setdefault(known.model, _Life())
                if known.truth_g is not None:
                    life.past[known.flock] = known
                if life.flock is None or known.updated_ms > life.flock.updated_ms:
                    life.flock, life.bands = known, dict(known.bands)
        for day in days:
            life = self._lives.get(day.model, _Life())
            if day.house == self._house and life.flock is not None and life.flock.flock == day.flock:
                life.days.append(day)
        for life in self._lives.values():
            if life.days:  # the last one may not be over
                last = life.days.pop()
                life.today = _Today(
                    self._days.date_of(from_ms(last.start_ms)), last.flock, last.band,
                    {name: np.array(counts, np.int64) for name, counts in last.counts.items()},
                    dict(last.held), dict(last.made), last.stretch,
                )  # fmt: skip

    # --- what is counted

    def is_hour(self, at: datetime) -> bool:
        """Tell whether inputs are counted at ``at``: the first instant of each hour of the farm day."""
        return self._since(at) % COUNTED_EVERY_S < BUCKET_S

    def feed(
        self, model: str, specs: Iterable[InputSpec], tensors: Mapping[str, NDArray[np.generic]], at: datetime, age: int
    ) -> None:
        """Count what a model was fed at ``at``, of a flock ``age`` days old."""
        if self._since(at) % STORED_EVERY_S < COUNTED_EVERY_S:
            self._changed.add(model)
        reference, life = self._references.get(model), self._lives.get(model)
        today = life.today if life else None
        if reference is None or today is None:
            return
        today.band = reference.band(age)
        for spec in specs:
            known = reference.inputs.get(spec.name)
            if known is None:
                continue
            found = known.bins_of(today.band, newest_row(tensors[spec.name], spec))
            shape = known.share.shape[1:]
            if spec.name not in today.counts or today.counts[spec.name].shape != shape:  # of a reference since replaced
                today.counts[spec.name] = np.zeros(shape, np.int64)
            which = np.flatnonzero(found >= 0)
            today.counts[spec.name][which, found[which]] += 1

    def hold(self, band: str, evidence: Evidence, horizon: timedelta, at: datetime) -> None:
        """Count whether what was measured lay in its band (output/horizon), once in each ``horizon``."""
        low, high, actual = evidence.low, evidence.high, evidence.actual
        if actual is None or low is None or high is None or not self._is_end_of(horizon, at):
            return
        life = self._lives.get(f"{evidence.model}/{evidence.model_version}")
        if life is not None and life.today is not None:
            n, inside = life.today.held.get(band, (0, 0))
            life.today.held[band] = n + 1, inside + (low <= actual <= high)

    def stretch(self, model: str, band: str) -> tuple[float, float]:
        """Return how far a model's band is stretched in this house, below and above p50."""
        life = self._lives.get(model)
        return life.bands.get(band, AS_TRAINED) if life else AS_TRAINED

    def stretch_to(self, model: str, band: str, stretch: tuple[float, float]) -> None:
        """Keep what a band has learnt; stored with the counts."""
        self._lives.setdefault(model, _Life()).bands[band] = stretch

    def predict(self, made: Iterable[Prediction]) -> None:
        """Keep the first prediction of each farm day, for when its truth is known."""
        for one in made:
            life = self._lives.get(f"{one.model}/{one.model_version}")
            if one.target == TARGET and life is not None and life.today is not None:
                if not life.today.made:
                    life.today.stretch = one.stretch
                target_on = self._days.date_of(one.target_at).isoformat()
                life.today.made.setdefault(one.horizon, (target_on, one.p10, one.p50, one.p90))

    # --- what time and people bring

    def turn(self, model: str, flock: str, at: datetime) -> None:
        """Go on to ``at`` with a model that runs; a farm day that is over is judged."""
        life = self._lives.setdefault(model, _Life())
        day = self._days.date_of(at)
        if life.flock is None or life.flock.flock != flock:
            off = {name: share for name, share in (life.flock.off if life.flock else {}).items() if name == TARGET}
            life.flock, life.today = FitFlock(self._house, model, flock, to_ms(at), off=off), None
            life.days.clear()
        if life.today is not None and life.today.day != day:
            if life.today.day < day:  # else the clock was ahead, and there was no such day yet
                self._close(model, life, life.today, at)
            life.today = None
        if life.today is None:
            life.today = _Today(day, flock, 0)

    def end(self, flock: Flock, at: datetime) -> list[FitFlock]:
        """Hold what was predicted of a flock that has left against its weight, where that was told; return it."""
        if flock.ended_at is None:
            return []
        scored = []
        last_on = self._days.date_of(flock.ended_at - timedelta(milliseconds=1))  # midnight ends the day before
        for model, life in self._lives.items():
            known = life.flock
            if known is None or known.flock != flock.flock or life.today is None:
                continue
            days = [*life.days, self._as_row(model, life.today)]
            scores = [score for day in days if (score := self._score(day, last_on)) is not None]
            truth_g = flock.slaughter_weight_g
            if truth_g is None or not scores or known.truth_g == truth_g:
                continue
            life.flock = known = replace(known, updated_ms=to_ms(at), truth_g=truth_g, scores=tuple(scores))
            life.past[flock.flock] = known
            scored.append(known)
            self._changed.add(model)
            errors = [{**_value(s), "error_pct": round(100 * (s.p50 / truth_g - 1), 2)} for s in scores]
            detail = {"model": model, "flock": flock.flock, "slaughter_weight_g": truth_g, "predicted": errors}
            self._events.append(Event(at, "scored", self._house, "weight", flock.ended_at, None, detail))
            self._judge_weights(model, life, at)
        return scored

    def take(self) -> tuple[list[FitDay | FitFlock], list[Event]]:
        """Return what is to be stored and told since the last call."""
        rows: list[FitDay | FitFlock] = []
        for model in sorted(self._changed):
            life = self._lives[model]
            rows += [life.days[-1]] if life.days else []
            rows += [self._as_row(model, life.today)] if life.today else []
            if life.flock:
                stretched = {band: (round(below, 3), round(above, 3)) for band, (below, above) in life.bands.items()}
                rows.append(replace(life.flock, bands=stretched))
        events, self._events = self._events, []
        self._changed.clear()
        return rows, events

    def scored(self, model: str) -> list[FitFlock]:
        """Return the flocks whose slaughter weight a model is known to have predicted."""
        life = self._lives.get(model)
        return list(life.past.values()) if life else []

    def troubles(self) -> dict[str, list[str]]:
        """Return what lasts, for health: ``drift`` and ``coverage``, in words that stay the same while it does."""
        found: dict[str, list[str]] = {}
        for model, life in self._lives.items():
            if life.flock is None:
                continue
            where = f"{model} in {self._house}"
            if life.flock.drifted:
                found.setdefault("drift", []).append(
                    f"{where} is fed what its training never saw: {_named(life.flock.drifted)}"
                )
            if life.flock.off:
                found.setdefault("coverage", []).append(f"{where}: its bands do not hold: {_named(life.flock.off)}")
        return found

    # --- how it is judged

    def _close(self, model: str, life: _Life, today: _Today, at: datetime) -> None:
        row = self._as_row(model, today)
        life.days.append(row)
        self._changed.add(model)
        known = life.flock
        if known is None:
            return
        held = dict(known.held)
        for band, (n, inside) in today.held.items():
            before = held.get(band, (0, 0, 0.0, 0.0))
            counts = min(n, DAY_COUNTS)
            held[band] = before[0] + n, before[1] + inside, before[2] + counts, before[3] + counts * inside / n
        drift, limits = self._drift(model, life, today.day)
        drifted = {
            c: limits[c] for c, index in drift.items() if index > limits[c] * (DRIFT_OVER if c in known.drifted else 1)
        }
        off = {band: round(figures[1] / figures[0], 3) for band, figures in held.items()
               if _is_off(figures[2], figures[3], LEAST_COUNTS, was=band in known.off)}  # fmt: skip
        off |= {name: share for name, share in known.off.items() if name == TARGET}  # as the last flocks left it
        life.flock = replace(known, updated_ms=to_ms(at), held=held, drift=drift, drifted=drifted, off=off)
        if drifted:
            detail = {"columns": {c: {"index": drift[c], "limit": limit} for c, limit in drifted.items()}}
            self._tell("drift", model, life, at, timedelta(days=WEEK_DAYS), _drift_words(life.flock), detail)
        if any(name != TARGET for name in off):
            detail = {
                "outputs": {
                    band: {"share": share, "counted": held[band][0]} for band, share in off.items() if band in held
                }
            }
            self._tell("coverage", model, life, at, timedelta(days=len(life.days)), _off_words(off), detail)

    def _tell(
        self, kind: str, model: str, life: _Life, at: datetime, span: timedelta, why: str, detail: Mapping[str, object]
    ) -> None:
        """Tell it, once for each flock."""
        if life.flock is None or kind in life.flock.told:
            return
        life.flock = replace(life.flock, told=(*life.flock.told, kind))
        told = {"model": model, "flock": life.flock.flock, "reason": why, **detail}
        self._events.append(Event(at, kind, self._house, None, at - span, None, told))

    def _drift(self, model: str, life: _Life, today: date) -> tuple[dict[str, float], dict[str, float]]:
        """Return the stability index of the last week and its limit, by input and column."""
        reference = self._references.get(model)
        index: dict[str, float] = {}
        limits: dict[str, float] = {}
        since_ms = to_ms(self._days.start_of(today - timedelta(days=WEEK_DAYS - 1)))
        week = [day for day in life.days if day.start_ms >= since_ms]
        for name, known in (reference.inputs if reference else {}).items():
            counts = [(day.band, np.array(day.counts[name], np.int64)) for day in week if name in day.counts]
            counted = [(band, of) for band, of in counts if of.shape == known.share.shape[1:]]
            if not counted:
                continue
            found = known.index_of(counted).tolist()
            for column, value, limit in zip(
                reference.columns[name] if reference else (), found, known.limits().tolist(), strict=True
            ):
                if isfinite(value):
                    index[f"{name}.{column}"], limits[f"{name}.{column}"] = round(value, 3), round(limit, 3)
        return index, limits

    def _judge_weights(self, model: str, life: _Life, at: datetime) -> None:
        """Judge the bands of slaughter weights over the flocks of this house; the leads of one flock are one look."""
        shares = [np.mean([s.p10 <= flock.truth_g <= s.p90 for s in flock.scores])
                  for flock in life.past.values() if flock.truth_g is not None]  # fmt: skip
        if life.flock is None:
            return
        off = {name: share for name, share in life.flock.off.items() if name != TARGET}
        if _is_off(len(shares), float(np.sum(shares)), LEAST_FLOCKS, was=TARGET in life.flock.off):
            off[TARGET] = round(float(np.mean(shares)), 3)
        life.flock = replace(life.flock, off=off)
        life.past[life.flock.flock] = life.flock
        if TARGET in off:
            detail = {"outputs": {TARGET: {"share": off[TARGET], "counted": len(shares)}}}
            self._tell("coverage", model, life, at, timedelta(0), _off_words(off), detail)

    def _score(self, day: FitDay, last_on: date) -> Score | None:
        """Return what a day's prediction said of the day on which the flock left; None where it said nothing of it."""
        made_on = self._days.date_of(from_ms(day.start_ms))
        lead = (last_on - made_on).days
        if lead not in SCORED_LEADS:
            return None
        for horizon in ("slaughter", f"{lead}d"):
            made = day.made.get(horizon)
            if made is not None and made[0] == last_on.isoformat():
                return Score(lead, *made[1:], day.stretch)
        return None

    def _as_row(self, model: str, today: _Today) -> FitDay:
        counts = {name: found.tolist() for name, found in today.counts.items()}
        start_ms = to_ms(self._days.start_of(today.day))
        held, made = dict(today.held), dict(today.made)
        return FitDay(self._house, model, start_ms, today.flock, today.band, counts, held, made, today.stretch)

    def _is_end_of(self, horizon: timedelta, at: datetime) -> bool:
        """Tell whether ``at`` ends one of the horizons into which the farm's time is cut; none lies over another."""
        days = ceil(horizon / timedelta(days=1))
        if days > 1 and self._days.date_of(at).toordinal() % days:
            return False
        return self._since(at) % min(horizon.total_seconds(), DAY_S) < BUCKET_S

    def _since(self, at: datetime) -> float:
        """Return the seconds of the farm day so far."""
        if at != self._at:
            self._at, self._since_s = at, (at - self._days.start_of(self._days.date_of(at))).total_seconds()
        return self._since_s


def _is_off(counts: float, inside: float, least: int, *, was: bool) -> bool:
    """Tell whether a share is far off, and chance hardly brings it; once it was, until it is near again."""
    n, k = round(counts), round(inside)
    if n < least or abs(inside / counts - NOMINAL) < (NEAR_AGAIN if was else FAR_OFF):
        return False
    return tail_of(n, k) < (LIKELY_AGAIN if was else UNLIKELY)


def tail_of(n: int, k: int, p: float = NOMINAL) -> float:
    """Return how probable a count at least as far out as ``k`` of ``n`` is, to both sides (twice the smaller tail)."""
    below = sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))
    above = sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))
    return min(1.0, 2 * min(below, above))


def _value(score: Score) -> dict[str, object]:
    return {
        "lead_days": score.lead_days,
        "p10": round(score.p10, 1),
        "p50": round(score.p50, 1),
        "p90": round(score.p90, 1),
    }


def _named(those: Iterable[str]) -> str:
    names = sorted(those)
    return ", ".join(names[:LONGEST_TOLD]) + (" …" if len(names) > LONGEST_TOLD else "")


def _drift_words(flock: FitFlock) -> str:
    """Return which columns are fed what training never saw, the furthest first."""
    worst = sorted(flock.drifted, key=lambda c: flock.drifted[c] - flock.drift[c])
    named = ", ".join(f"{c} ({flock.drift[c]:g}, limit {flock.drifted[c]:g})" for c in worst[:LONGEST_TOLD])
    return f"what it is fed has drifted from its training: {named}"


def _off_words(off: Mapping[str, float]) -> str:
    named = ", ".join(f"{band} {share:.0%}" for band, share in list(off.items())[:LONGEST_TOLD])
    return f"not {NOMINAL:.0%} of what was measured lay between p10 and p90: {named}"
