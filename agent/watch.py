"""HouseWatch: everything about one house, and no I/O. Readings in, outcomes out; live and in replay alike.

It advances on a fixed grid of event time. At each grid instant ``judge_instant`` asks it for the models' inputs
(``features``), runs the models for all houses together, and hands their results back (``judge``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from agent import bands, mortality, plain
from agent import flock as flock_life
from agent import judge as judging
from agent.alerts import deviation_pct
from agent.calibration import COURSE_SIGNALS, MEASURED, Calibration, measured_at_end
from agent.commands import Acknowledge, Shelve
from agent.config import HouseFacts
from agent.deviation import (
    DEFAULT_JUDGE,
    has_stopped,
    is_flow,
    is_judged,
    is_told,
    kind_of_horizon,
    modelled_rules,
    off_by,
    score_of,
)
from agent.domain import (
    PUBLISHED_STATES,
    Cause,
    Event,
    Evidence,
    Opinion,
    Prediction,
    Quality,
    Reason,
    Score,
    SeriesKey,
    Severity,
    Standing,
    WarningEvent,
    WarningState,
    from_ms,
    to_ms,
)
from agent.errors import InputError
from agent.explain import Occasion, causes_of, direction_of, explain
from agent.fitness import TARGET as WEIGHED
from agent.fitness import Fitness
from agent.flock import HouseLife, day_number
from agent.languages import Locale, msg
from agent.manifest import NO_FAULT, Feature, horizon_s
from agent.mortality import Foreseen
from agent.rules import KINDS, kind_of, plain_rules, rule_by_default, rule_of, severity_of
from agent.sensors import TOLD_BY_PEOPLE, Sensors
from agent.services import Services
from agent.signals import base_of, is_of
from agent.strains import strain_of
from agent.window import FlockContext, SeriesWindows, Window, fact_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from agent.clock import FarmDays
    from agent.commands import FlockCommand, Unshelve
    from agent.config import RuleOverride
    from agent.domain import Chatter, Doubt, Flock, FlockChange, QualityInterval, WarningRule
    from agent.fitness import FitDay, FitFlock
    from agent.manifest import InputSpec, Manifest, Output
    from agent.predict import Due, Predictor
    from agent.readings import Readings
    from agent.reference import Reference
    from agent.sensors import Why
    from agent.signals import Signal
    from agent.window import HouseInputs, Masks, Measured

GRID = timedelta(minutes=10)
"""The step of event time: fine enough to find a stopped flow within the hour, coarse enough for a small gateway."""

HOLD = {"deviation": timedelta(days=2), "trend": timedelta(days=4)}  # our judgement, as the other times here
"""How long models look at the course before a warning instead of at the fault; after that the new course is normal."""

MASKED_AFTER = timedelta(hours=12)
"""How long a fault that is over stays masked from the models, so that its recovery is no second fault. No longer: what
is masked cannot be learnt, and were the warning false, a model that is kept blind would only repeat it. Our judgement:
half a day, so that what comes every day (a night, an hour of feeding) is seen when it comes again."""

KNOWN_SHARE = 0.75
"""So much of its course so far must have been measured before a flock is held against it: two nights of three."""

OLDEST_DAY = 56
"""The breed curves end at this age, and no model is asked beyond it: a flock that nobody ended does not grow on."""

EPOCH = from_ms(0)

Told = tuple[HouseLife, dict[str, Standing], tuple["FlockChange", ...]]
"""What commands change in a house: its life, its warnings, its services."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one judgement of one house brought; everything in it is recorded in one transaction."""

    house: str
    at: datetime
    warnings: tuple[WarningEvent, ...] = ()
    standings: tuple[Standing, ...] = ()  # those that changed, as they are now
    predictions: tuple[Prediction, ...] = ()
    changes: tuple[FlockChange, ...] = ()
    fitness: tuple[FitDay | FitFlock, ...] = ()  # how the models fit the house
    events: tuple[Event, ...] = ()
    opinions: tuple[Opinion, ...] = ()  # of foreign models; shown, not recorded
    scores: tuple[Score, ...] = ()  # of single readings; shown, not recorded


@dataclass(frozen=True, slots=True)
class HouseResult:
    """What one run of one bundle said about one house.

    ``outputs``: by the output's name an array of the manifest's inner shape, for quantiles [horizons, quantiles].
    ``horizon`` is the one that the run was made for where the model expects, None where it predicts from now on.
    """

    manifest: Manifest
    horizon: str | None
    outputs: Mapping[str, NDArray[np.float64]]
    inputs: HouseInputs


class HouseWatch:
    """One house: its windows, its flock, where its warnings stand. Time is an argument; nothing waits or writes."""

    def __init__(
        self,
        house: str,
        *,
        signal: Callable[[SeriesKey], Signal],
        days: FarmDays,
        manifests: Sequence[Manifest],
        overrides: Mapping[str, RuleOverride],
        rhythm_s: Callable[[SeriesKey], float | None],
        started_monotonic: float,
        references: Mapping[str, Reference] | None = None,
        also: Collection[str] = (),
        calibration: Calibration | None = None,
        scores_each: bool = False,
        called: str = "",
        locale: Locale | None = None,
        facts: HouseFacts | None = None,
    ) -> None:
        """Watch a house with models of these manifests.

        ``also`` are base signals that others want of its window; ``scores_each``: each reading is to be scored, where
        a model does that, and not only the newest of each sensor; ``called``: what people call the house; ``locale``:
        what language and units its warnings are written in; ``facts``: what the plain rules go by.
        """
        self.house = house
        self.called = called or house
        self.locale = locale or Locale(zone=days.zone)
        self.days = days
        self.fitness = Fitness(house, days, references or {})
        self.life = HouseLife()
        self.ended: Flock | None = None  # the flock that left last, since the start
        self.standings: dict[str, Standing] = {}
        self._overrides = overrides
        self._facts = facts or HouseFacts()
        self._signal = signal
        self.calibration = calibration or Calibration(days)
        self._sensors = Sensors(house, signal, self._rule, rhythm_s, started_monotonic)
        self._spans: dict[str, timedelta] = {}  # of each rule the longest time that an output of it looks over
        for name, span in (rule for manifest in manifests for rule in modelled_rules(manifest.output)):
            self._spans[name] = max(span, self._spans.get(name, span))
        self._faults: list[tuple[str, datetime, datetime]] = []  # rule, begin and end of what is over
        modelled = (name for manifest in manifests for name in manifest.signals)
        self._plain = plain_rules(overrides, house_computer=self._facts.house_computer)
        looked_at = {signal for name in self._plain for signal in (_signal_of(name), *ALSO_LOOKED_AT)}
        needed = {*TOLD_BY_PEOPLE, *COURSE_SIGNALS, *also, *modelled, *looked_at}
        self.window = Window(house, {name: signal(SeriesKey(house, name)) for name in needed}, days)
        scorers = [(i.series.length, i.series.signals) for m in manifests for i in m.input if i.series is not None]
        scored = {name for _, signals in scorers for name in signals}
        length = max((length for length, _ in scorers), default=0)
        self.series = SeriesWindows(length, scored, scores_each=scores_each)
        self._rules: dict[str, WarningRule | None] = {}
        self._rules_day: int | None = None  # the age that they are of
        self._told_of_flock: dict[str, Evidence] = {}  # whether what people told can be, as of the last full hour
        self._judged: dict[tuple[str, str, str], _Judged] = {}
        self._losses: list[tuple[date, float]] = []  # dead and culled by farm date, as far as known
        self._lost_shares: dict[date, float] = {}  # the same, of the birds alive at each day's end
        self._removed: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None  # made when it is asked for
        self._fresh = False
        self._doubted: set[str] = set()
        self.services = Services()
        self._found: dict[str, Evidence] = {}  # by rule, when it was last looked at
        self._out: dict[str, dict[str, datetime]] = {}  # by rule and output: until when its word holds that it is out
        self._said: _Said | None = None  # by a model of the causes, of what is out of course
        self._suppressed: dict[str, Reason] = {}  # rules that something explains at this instant, and what

    # --- what comes in

    def restore(
        self,
        life: HouseLife,
        standings: Iterable[Standing],
        rhythms_s: Mapping[str, float],
        newest_ms: Mapping[str, int],
    ) -> None:
        """Take back what was known before a restart; the window takes its buckets, then what is newer is observed.

        ``newest_ms`` are the newest times of the sensors: one that was silent before the restart is silent after it.
        """
        self.life = life
        self._sensors.restore(newest_ms)
        self._restore_standings(standings)
        self.window.load((), rhythms_s)

    def _restore_standings(self, standings: Iterable[Standing]) -> None:
        # a rule of another version of this program, which nobody can judge here, would stand for ever
        self.standings = {s.rule: s for s in standings if kind_of(s.rule) in KINDS}
        said = [s.evidence for s in self._to_explain() if s.evidence is not None and s.evidence.causes]
        self._said = _Said(said[0].confidence, said[0].causes) if said else None
        self._faults = [  # of each rule the last
            (past.rule, self._began(past), past.back_since or past.updated_at or EPOCH)
            for past in self.standings.values()
            if past.state is WarningState.NORMAL and past.id is not None and past.rule in self._spans
        ]

    def look_with(self, other: HouseWatch) -> None:
        """See through the windows of another watch of this house, and know of the flock what it knows."""
        self.window, self._sensors, self.services = other.window, other._sensors, other.services
        self.life, self._removed = other.life, other._removed
        self._losses, self._lost_shares = other._losses, other._lost_shares

    def observe(self, readings: Readings, monotonic: float) -> None:
        """Take readings, all of this house; ``monotonic`` is the real time of their arrival."""
        self.window.add(self.services.believed(readings))
        self.series.add(readings)
        heard = self._sensors.hear(readings, monotonic)
        self._fresh = True
        if any(base_of(name) in TOLD_BY_PEOPLE for name in heard):
            self._removed = None

    def note(self, intervals: Iterable[QualityInterval]) -> None:
        """Take the intervals of bad quality that the readings just observed began or ended.

        A sensor that is found stuck has been so for hours: what the windows hold of it since then is forgotten.
        """
        for interval in intervals:
            if interval.key.house != self.house:
                continue
            self._sensors.note(interval)
            if interval.quality is Quality.STUCK and interval.to_ms is None:
                self.window.forget(interval.key.signal, interval.from_ms)

    def doubt(self, doubts: Mapping[SeriesKey, Doubt]) -> None:
        """Take which sensors are not believed because of their peers; all others are."""
        mine = {key.signal: doubt for key, doubt in doubts.items() if key.house == self.house}
        for name in self._doubted - mine.keys():
            self.window.trust(name)
            self._sensors.doubt(name, None)
        for name, doubt in mine.items():
            if name not in self._doubted:
                self.window.doubt(name, doubt.since_ms)
            self._sensors.doubt(name, doubt)
        self._fresh = self._fresh or self._doubted != mine.keys()
        self._doubted = set(mine)

    def apply(self, command: FlockCommand, at: datetime) -> FlockChange:
        """Do a flock command.

        Raises:
            InputError: it cannot be done now; the message says why.
        """
        change = flock_life.apply(self.house, self.life, command, at, self.days)
        if change.action == "end" and change.flock is not None:
            change = replace(change, detail={**change.detail, MEASURED: self._measured_at_end(change.flock)})
        self._take(change)
        return change

    def _measured_at_end(self, flock: Flock) -> dict[str, float]:
        """Return what the instruments showed of a flock that ended: how far off they were is known with its weight."""
        self._removed = None
        measured = measured_at_end(self.window, flock.ended_at or EPOCH, self._context(flock))
        self._removed = None
        return measured

    def told(self) -> Told:
        """Return what commands change, as it is now."""
        return self.life, dict(self.standings), self.services.told

    def take_back(self, told: Told) -> None:
        """Undo commands that could not be stored: they will be asked again."""
        self.life, self.standings, services = told
        self.services.restore(services)
        self._removed = None

    def _take(self, change: FlockChange) -> None:
        self.life = self.life.after(change)
        self._removed = None
        self._fresh = True
        if change.action == "service":
            self.services.take(change)
            self._forget_serviced(change)
        if change.action == "end" and change.flock is not None:
            self.ended = change.flock
            self.calibration.judge(self.fitness.end(change.flock, change.at))

    def retold(self, services: Iterable[FlockChange]) -> list[FlockChange]:
        """Return services as they are told once more: the newest row of a house and a flock says how they are now."""
        return [replace(told, state=self.life.state, flock=self.life.flock) for told in services]

    def _forget_serviced(self, change: FlockChange) -> None:
        """Take back what a sensor has said already of the time after somebody came to it; nothing, where it is over."""
        for name in self._sensors.names():
            if self.services.of(name, change.at) is not None and is_of(name, str(change.detail["signal"])):
                self.window.forget(name, to_ms(change.at) + 1)  # what it said up to then stays

    def heard_of(self) -> list[str]:
        """Return the sensors of this house that were heard of lately."""
        return sorted(self._sensors.names())

    def is_ready(self, at: datetime, monotonic: float) -> bool:
        """Tell whether ``at`` may be judged: readings have passed it, or there was real silence."""
        return self._sensors.newest_ms >= to_ms(at) or self._sensors.is_quiet(monotonic)

    def matters(self, at: datetime) -> bool:
        """Tell whether anything can have changed since the last judgement: a replay skips what does not matter."""
        if self._fresh or self.days.date_of(at) != self.days.date_of(at - GRID):
            return True
        if any(standing.state in _MOVING for standing in self.standings.values()):
            return True
        return self._sensors.any_overdue(at)

    def rests(self) -> bool:
        """Tell whether only a day or a command can change anything: no sensor ever spoke, and no rule is on its way."""
        is_moving = any(standing.state in _MOVING for standing in self.standings.values())
        return not self._fresh and not self._sensors.newest_ms and not is_moving

    # --- the models' inputs

    def features(self, due: Due, at: datetime) -> list[tuple[str | None, HouseInputs]]:
        """Return the inputs of a model for this house at ``at``, one for each horizon that it is judged by.

        A model that expects is run with its window ended one horizon ago, so that what was measured since can be held
        against it: nothing has to be remembered from one run to the next. Without a flock there is nothing to feed but
        a ``custom`` model: whoever looks at the air or the energy of an empty house may.
        """
        flock = self.life.flock
        if due.model.manifest.task == "custom" and due.model.manifest.foresight is None:
            context = None if flock is None else self._context(flock)
            specs = due.model.manifest.input
            return [(None, self.window.inputs(specs, at, context))]  # unmasked: a fault is what it may look for
        if flock is None or not 0 <= day_number(flock, at, self.days) <= OLDEST_DAY:
            return []
        is_judged = due.model.manifest.task == "expect"
        if is_judged and not self._sensors.newest_ms:
            return []  # nothing was ever measured that could be held against it
        context = self._context(flock)
        specs = due.model.manifest.input
        if due.model.manifest.task == "cause":
            told = self.cause_inputs(specs, at)
            return [] if told is None else [(None, told)]
        if any(fact.startswith("house.") for spec in specs for fact in spec.facts):
            context = replace(context, facts=self.calibration.facts(self.house, at))
        if not is_judged:
            return [(None, self.window.inputs(specs, at, context, self._masks(at, at)))]
        inputs: list[tuple[str | None, HouseInputs]] = []
        for horizon in dict.fromkeys(horizon for output in due.outputs for horizon in output.horizons):
            back = timedelta(seconds=horizon_s(horizon) or 0)
            masks = self._masks(at, at - back)
            inputs.append((horizon, self.window.inputs(specs, at - back, context, masks, ahead=back)))
        return inputs

    def cause_inputs(self, specs: Sequence[InputSpec], at: datetime) -> HouseInputs | None:
        """Return what a model of the causes is told as of ``at``; None where no warning stands or is about to.

        It is to see the fault: nothing is masked.
        """
        flock = self.life.flock
        if flock is None or not self._to_explain():
            return None
        facts = self._cause_facts(specs, at)
        if any(fact.startswith("house.") for spec in specs for fact in spec.facts):
            facts |= self.calibration.facts(self.house, at)
        return self.window.inputs(specs, at, replace(self._context(flock), facts=facts))

    def _cause_facts(self, specs: Iterable[InputSpec], at: datetime) -> dict[str, float]:
        """Return what a model of the causes asks of rules, sensors and state; what is not known is left out."""
        facts: dict[str, float] = {}
        for name in {name for spec in specs for name in spec.facts}:
            kind, _, rest = name.partition(".")
            found = self._found.get(rest)
            if kind == "score" and found is not None:
                facts[name] = _signed(found)
            elif kind == "deviation_pct" and found is not None:
                off = deviation_pct(found)
                facts[name] = float("nan") if off is None else off
            elif kind == "since_h":
                stands = self.standings.get(rest)
                if stands is not None and stands.since is not None and stands.state in _OUT_OF_COURSE:
                    facts[name] = (at - stands.since) / timedelta(hours=1)
            elif kind == "sensor":
                state, _, signal = rest.partition(".")
                facts[name] = self._sensors.state_of(signal, state, at)
            elif name.startswith("state:"):
                facts[name] = float(self.life.state == name.removeprefix("state:"))
        return facts

    def _to_explain(self) -> list[Standing]:
        """Return the standings whose causes a model may name: what is out of course, by a model or by the dead."""
        return [s for s in self.standings.values() if s.state in _OUT_OF_COURSE and kind_of(s.rule) in _EXPLAINED]

    def _masks(self, at: datetime, end: datetime) -> Masks:
        """Return when each signal was out of its course: the model must not learn a fault as the normal.

        ``end`` is that of the model's window. A fault that was over by then is masked for ``MASKED_AFTER`` from its
        end on and no longer, whatever else remembers it: masked for days, a night that was once told falsely would be
        hidden when the next one comes, expected of a model that never saw a night, and told falsely again.
        """
        masks: dict[str, list[tuple[datetime, datetime]]] = {}
        for standing in self.standings.values():
            hold = HOLD.get(kind_of(standing.rule))
            if hold is None or standing.since is None or standing.state not in _OUT_OF_COURSE:
                continue
            if at - standing.since <= hold:
                masks.setdefault(_signal_of(standing.rule), []).append((self._began(standing), at))
        for rule, begin, over in self._faults:
            if end - over < MASKED_AFTER:
                masks.setdefault(_signal_of(rule), []).append((begin, over))
        return masks

    def _began(self, standing: Standing) -> datetime:
        """Return the earliest that what a warning shows can have begun: one horizon before it was noticed."""
        return (standing.since or EPOCH) - self._spans.get(standing.rule, GRID)

    def _remember(self, before: Standing, after: Standing, at: datetime) -> None:
        """Keep the time of a fault that is over for a while; what outlasted its hold became the normal course."""
        outlasted = at - (before.since or at) > HOLD.get(kind_of(before.rule), timedelta(0))
        is_over = before.state in PUBLISHED_STATES and after.state is WarningState.NORMAL
        if is_over and not outlasted and before.rule in self._spans:
            self._faults.append((before.rule, self._began(before), before.back_since or at))
        longest = MASKED_AFTER + max(self._spans.values(), default=timedelta(0))
        self._faults = [fault for fault in self._faults if at - fault[2] <= longest]

    def _context(self, flock: Flock) -> FlockContext:
        """Return what the features need to know of the flock: facts, and how many birds left when."""
        if self._removed is None:
            self._removed = self._count_removed(flock)
        end = flock.planned_end_on
        return FlockContext(
            placed_at_ms=to_ms(self.days.start_of(flock.placed_on)),
            strain=strain_of(flock.strain),
            birds_placed=flock.birds_placed,
            sex=flock.sex,
            parent_age_weeks=flock.parent_age_weeks,
            slaughter_at_ms=None if end is None else to_ms(self.days.start_of(end)),
            removed_at_ms=self._removed[0],
            removed=self._removed[1],
            losses=self._lost_shares,
        )

    def _count_removed(self, flock: Flock) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return when birds died, were culled or thinned, and how many were gone by then; what people told wins."""
        told = {day: float(dead + culled) for day, dead, culled in flock.recorded}
        counted = dict(self.window.day_totals(TOLD_BY_PEOPLE, flock.placed_on))
        self._losses = sorted({**counted, **told}.items())
        gone = [(to_ms(self.days.start_of(day + timedelta(days=1))), birds) for day, birds in self._losses]
        gone += [(to_ms(at), float(birds)) for at, birds in flock.thinned]
        gone.sort()
        times = np.array([at_ms for at_ms, _ in gone], np.int64)
        removed = np.cumsum(np.array([birds for _, birds in gone], np.float64))
        ends = np.array([to_ms(self.days.start_of(day + timedelta(days=1))) for day, _ in self._losses], np.int64)
        left = (flock.birds_placed or np.nan) - removed[np.searchsorted(times, ends, side="right") - 1]
        self._lost_shares = {
            day: birds / live for (day, birds), live in zip(self._losses, left.tolist(), strict=True) if live > 0
        }
        return times, removed

    # --- the judgement

    def judge(
        self, results: Sequence[HouseResult], at: datetime, monotonic: float, turn: Collection[str] = ()
    ) -> Outcome:
        """Return what the models' results and the sensors' silence mean at ``at``.

        Args:
            results: What the models said of this house.
            at: The grid instant, event time.
            monotonic: Real time: silence must have lasted in it, too.
            turn: The rules whose models were due; those of other models are left as they are.
        """
        self._fresh = False
        changes = []
        self._suppressed = {}
        settled = flock_life.settle(self.house, self.life, at)
        if settled is not None:
            self._take(settled)
            changes.append(settled)
        if self.life.flock is None:
            self._found.clear()
            self._out.clear()
        self._look_up_rules(at)
        expected, counted = self._expectations(results, at), self._mortality(results, at)
        self._found |= counted
        worst = _worst((name, found) for name, _, found in expected)
        evidence = {**worst, **counted, **self._sensors_evidence(at, monotonic), **self._told_evidence(at)}
        evidence |= self._plain_evidence(at)
        events: list[WarningEvent] = []
        changed: list[Standing] = []
        comes_and_goes: list[Event] = []
        for name in dict.fromkeys((*evidence, *self.standings)):
            before = self.standings.get(name) or Standing(name, self.house)
            after, reason = self._judge_one(name, before, evidence.get(name), at, turn)
            if after == before:
                continue
            self.standings[name] = after
            self._remember(before, after, at)
            if reason is not None or _delays_of(after) != _delays_of(before):
                changed.append(after)
            if reason is not None:
                events.append(self._event(after, before.state, reason, at))
            if reason is Reason.CHATTERING and after.chatter is not None:
                comes_and_goes.append(_chattering(self.house, after, after.chatter, at))
        predictions = tuple(self._predictions(results, at))
        self._see_fitness(results, expected, predictions, at)
        rows, noticed = self.fitness.take()
        opinions = tuple(self._opinions(results, at))
        found = (tuple(events), tuple(changed), predictions, tuple(changes), tuple(rows))
        return Outcome(self.house, at, *found, (*noticed, *comes_and_goes), opinions)

    def _see_fitness(
        self,
        results: Sequence[HouseResult],
        expected: Iterable[tuple[str, str, Evidence]],
        predictions: Sequence[Prediction],
        at: datetime,
    ) -> None:
        """Let it be counted what the models were fed, and whether what they said holds; the bands learn from it."""
        flock = self.life.flock
        if flock is None or not results:
            return
        is_hour, seen = self.fitness.is_hour(at), set()
        for result in results:
            model = f"{result.manifest.name}/{result.manifest.version}"
            if model in seen:
                continue  # the same once more, for another horizon
            seen.add(model)
            self.fitness.turn(model, flock.flock, at)
            if is_hour:
                age = day_number(flock, at, self.days)
                self.fitness.feed(model, result.manifest.input, result.inputs.tensors, at, age)
        for name, band, evidence in expected:
            rule = self._rule(name)
            if rule is not None and evidence.over_s is not None and self._applies(rule, at):
                self.fitness.hold(band, evidence, timedelta(seconds=evidence.over_s), at)
                self._learn(name, band, evidence)
        self.fitness.predict(predictions)

    def _learn(self, name: str, band: str, evidence: Evidence) -> None:
        """Let a band learn how wide it must be here, unless a fault could be what it learns."""
        stands = self.standings.get(name)
        actual, low, middle, high = evidence.actual, evidence.low, evidence.expected, evidence.high
        if evidence.score is None or actual is None or low is None or middle is None or high is None:
            return
        if stands is None or stands.state is WarningState.NORMAL:
            model = f"{evidence.model}/{evidence.model_version}"
            before, rate = self.fitness.stretch(model, band), bands.RATE[kind_of(name)]
            stretch = bands.learnt(before, actual, low, middle, high, rate)
            self.fitness.stretch_to(model, band, (float(stretch[0]), float(stretch[1])))

    def name_causes(self, outcome: Outcome, result: HouseResult | None, *, is_due: bool) -> Outcome:
        """Return what was judged, with the probable causes that a model named.

        One answer for the house, in every warning of it: what is out of course at one time has one root more often
        than two. Until the model is due again its last word holds; where it is due and says nothing, the rules name
        the causes.
        """
        open_now = self._to_explain()
        if not open_now or is_due:
            self._said = _said_by(result) if open_now and result is not None else None
        if self._said is None:
            return outcome
        for standing in open_now:
            found = standing.evidence or Evidence(None)
            # of what is only seen coming, it is the probability that it comes
            confidence = found.confidence if found.is_early else self._said.confidence
            told = replace(found, confidence=confidence, causes=self._said.causes)
            self.standings[standing.rule] = replace(standing, evidence=told)
        named = {standing.rule: self.standings[standing.rule] for standing in open_now}
        return replace(
            outcome,
            warnings=tuple(
                self._event(named[event.standing.rule], event.before, event.reason, event.at)
                if event.standing.rule in named
                else event
                for event in outcome.warnings
            ),
            standings=tuple(named.get(standing.rule, standing) for standing in outcome.standings),
        )

    def _judge_one(
        self, name: str, before: Standing, evidence: Evidence | None, at: datetime, turn: Collection[str]
    ) -> tuple[Standing, Reason | None]:
        rule = self._rule(name)
        if rule is None:
            return judging.clear(before, at, Reason.RULE_REMOVED) or (before, None)
        because = self._why_suppressed(rule, at)
        is_later = name in self._spans and name not in turn
        if evidence is not None and self._waits(rule, evidence, at):
            evidence, is_later = None, True
        if evidence is None:
            if is_later and because is None and before.state is not WarningState.SHELVED:
                return before, None
            why = self._why_unknown(_signal_of(name), at) if name in self._spans else None
            evidence = _unknown(Evidence(None), why or (msg("nothing measured it"), {}))
        after, reason = judging.judge(
            rule, before, evidence, at, applies=because is None, because=because or Reason.HOUSE_STATE
        )
        if reason is not None and self.life.flock is not None:
            after = replace(after, flock=after.flock or self.life.flock.flock)
        return after, reason

    def _waits(self, rule: WarningRule, evidence: Evidence, at: datetime) -> bool:
        """Tell whether a rule waits for an output that last found the signal out of its course, and was not asked now.

        What one output finds is not cleared by another that is asked more often: not until its own next word.
        """
        is_out = evidence.score is not None and not judging.is_back(rule, evidence)
        return not is_out and any(until > at for until in self._out.get(rule.name, {}).values())

    def _hear_of(self, name: str, output: Output, result: HouseResult, found: Evidence, at: datetime) -> None:
        """Keep that an output finds a signal out of its course, until it is asked again."""
        rule, out = self._rule(name), self._out.setdefault(name, {})
        source = f"{found.model}/{found.model_version}/{_band_of(output, result)}"
        if rule is None or found.score is None or judging.is_back(rule, found):
            out.pop(source, None)
        else:
            out[source] = at + timedelta(seconds=output.cadence_s or result.manifest.cadence_s)

    def _applies(self, rule: WarningRule, at: datetime) -> bool:
        return self._why_suppressed(rule, at) is None

    def _why_suppressed(self, rule: WarningRule, at: datetime) -> Reason | None:
        """Return what explains whatever a rule would say now; None where nothing does."""
        if self.life.state not in rule.states:
            return Reason.HOUSE_STATE
        flock = self.life.flock
        if rule.first_day > 0 and (flock is None or day_number(flock, at, self.days) < rule.first_day):
            return Reason.FLOCK_AGE
        return self._suppressed.get(rule.name)

    def _rule(self, name: str) -> WarningRule | None:
        if name not in self._rules:
            wanted = self._facts.house_computer
            self._rules[name] = rule_of(name, self._overrides, self._rules_day, house_computer=wanted)
        return self._rules[name]

    def _look_up_rules(self, at: datetime) -> None:
        """Let the rules be those of the flock's age: what is told ``by_age`` changes with the day."""
        day = self.day_number(at)
        if day != self._rules_day:
            self._rules_day = day
            self._rules.clear()

    def _unit(self, name: str) -> str | None:
        return self._signal(SeriesKey(self.house, name)).unit

    # --- evidence

    def _expectations(self, results: Sequence[HouseResult], at: datetime) -> list[tuple[str, str, Evidence]]:
        """Return what the models expected against what was measured: of each output its rule, its band, an evidence."""
        evidence: list[tuple[str, str, Evidence]] = []
        raw: list[tuple[str, Evidence]] = []  # as found, whatever the rules make of it
        flock = self.life.flock
        if flock is None:
            return evidence
        context = self._context(flock)
        for result in results:
            if result.horizon is None:
                continue
            length_s = horizon_s(result.horizon) or 0
            for output, feature, actual in self.actuals(result.manifest, result.horizon, at):
                name = f"{kind_of_horizon(length_s)}-{feature.signal}"
                quantiles = result.outputs[output.name][output.horizons.index(result.horizon)]
                scale = self._scale(feature, context, at)
                found = self._held_against(name, output, feature, quantiles, actual, scale, result, at)
                raw.append((name, found))
                if self._has_turned(name, found):
                    found = replace(found, score=0.0)
                if self._is_told_already(name, at, length_s):
                    found = replace(found, score=None, why=msg("it would only repeat a warning of the last days"))
                self._hear_of(name, output, result, found, at)
                evidence.append((name, _band_of(output, result), found))
        for name, found in _worst(raw).items():
            rule = self._rule(name)
            if rule is None or name not in self._found or not self._waits(rule, found, at):
                self._found[name] = found
        return evidence

    def actuals(self, manifest: Manifest, horizon: str, at: datetime) -> list[tuple[Output, Feature, Measured]]:
        """Return what the outputs of a model expect over ``horizon`` up to ``at``, and what it was."""
        if self.life.flock is None:
            return []
        of = self._judged_outputs(manifest, horizon)
        measured = self.window.measure(of.features, horizon_s(horizon) or 0, at, self._context(self.life.flock))
        return list(zip(of.outputs, of.features, measured, strict=True))

    def _has_turned(self, name: str, evidence: Evidence) -> bool:
        """Tell whether what is out of course on one side is now off on the other: thirsty birds drink more afterwards.

        The one is over then; if the other lasts, it is a warning of its own.
        """
        stands = self.standings.get(name)
        if stands is None or stands.evidence is None or stands.state not in _OUT_OF_COURSE or evidence.score is None:
            return False
        return direction_of(stands.evidence) * direction_of(evidence) < 0

    def _is_told_already(self, name: str, at: datetime, length_s: int) -> bool:
        """Tell whether a trend's days hold a deviation of the same signal, and would only repeat it days later."""
        if kind_of(name) != "trend":
            return False
        told = f"deviation-{_signal_of(name)}"
        stands = self.standings.get(told)
        begin = at - timedelta(seconds=length_s)
        return (stands is not None and stands.state in PUBLISHED_STATES) or any(
            rule == told and end > begin for rule, _, end in self._faults
        )

    def _judged_outputs(self, manifest: Manifest, horizon: str) -> _Judged:
        """Return a model's outputs for ``horizon``; the same object each time, as the window's plans hang on it."""
        key = (manifest.name, manifest.version, horizon)
        judged = self._judged.get(key)
        if judged is None:
            outputs = tuple(o for o in manifest.output if is_judged(o) and horizon in o.horizons)
            judged = self._judged[key] = _Judged(outputs, tuple(o.of for o in outputs if o.of is not None))
        return judged

    def _scale(self, feature: Feature, context: FlockContext, at: datetime) -> float:
        """Return what turns a figure per bird into one of the house, for people; 1 where that is not known."""
        if feature.per == "live_bird":
            live = float(context.live_at(np.array([to_ms(at)], np.int64))[0])
            return live if np.isfinite(live) else 1.0
        return float(context.birds_placed or 1) if feature.per == "bird_placed" else 1.0

    def _held_against(
        self,
        name: str,
        output: Output,
        feature: Feature,
        quantiles: NDArray[np.float64],
        actual: Measured,
        scale: float,
        result: HouseResult,
        at: datetime,
    ) -> Evidence:
        """Return the evidence of one measured value against one expectation."""
        low, middle, high = (float(quantiles[output.quantiles.index(q)]) for q in (0.1, 0.5, 0.9))
        stretch = self.fitness.stretch(f"{result.manifest.name}/{result.manifest.version}", _band_of(output, result))
        low, high = (float(edge) for edge in bands.stretched(low, middle, high, stretch))
        rule = self._rule(name)
        common = Evidence(
            score=None,
            expected=middle * scale,
            low=low * scale,
            high=high * scale,
            unit=self._unit(feature.signal),
            coverage=min(actual.coverage, result.inputs.coverage),
            model=result.manifest.name,
            model_version=result.manifest.version,
            over_s=horizon_s(result.horizon or ""),
        )
        known = result.inputs.known_share(feature.signal, horizon_s(result.horizon or "") or 0)
        if known < KNOWN_SHARE:
            thin = msg("only {share} of its course so far was measured")
            return _unknown(common, self._why_unknown(feature.signal, at) or (thin, {"share": known}))
        if not np.isfinite(actual.value):
            thin = msg("only {share} of it was measured")
            return _unknown(common, self._why_unknown(feature.signal, at) or (thin, {"share": actual.coverage}))
        limits, threshold = output.judge or DEFAULT_JUDGE, rule.threshold if rule else 1.0
        stopped = is_flow(feature, common.over_s or 0) & has_stopped(actual.value, low, middle, limits.floor)
        off = off_by(actual.value, low, middle, high, limits.floor)
        score = float(score_of(off, limits.low * threshold, limits.high * threshold, stopped))
        return replace(
            common, score=score, actual=actual.value * scale, severity=severity_of(score, rule) if rule else None
        )

    def _why_unknown(self, signal: str, at: datetime) -> Why | None:
        """Return why a signal cannot be judged, where a sensor's fault is why."""
        service = self.services.among(signal, at)
        if service is not None:
            values: dict[str, str | float] = {"sensor": service.signal, "since_ms": to_ms(service.since)}
            return msg("{sensor} has been in service {since}"), values
        return self._sensors.why_unknown(signal, at)

    def _mortality(self, results: Sequence[HouseResult], at: datetime) -> dict[str, Evidence]:
        """Return the day's losses against the threshold and the days before, and what a model sees coming."""
        flock = self.life.flock
        rule = self._rule(mortality.RULE)
        if flock is None or rule is None or flock.birds_placed is None:
            return {}
        live = float(self._context(flock).live_at(np.array([to_ms(at)], np.int64))[0])
        found = mortality.counted(rule, self._losses, live, self.days.date_of(at))
        if found is None:
            return {}
        if found.score is not None and found.score < 1:
            stands = self.standings.get(rule.name)
            is_out = stands is not None and stands.state in _OUT_OF_COURSE
            found = mortality.foreseen(rule, found, _foreseen_by(results), stands if is_out else None, at)
        return {rule.name: found}

    def _sensors_evidence(self, at: datetime, monotonic: float) -> dict[str, Evidence]:
        """Return what the sensors show, of rules that stand or should; note what explains it."""
        evidence = self._sensors.evidence(at, monotonic)
        is_silent = (evidence["silent"].score or 0.0) >= 1
        for name in evidence:
            sensor = name.partition("-")[2]
            if kind_of(name) in _OF_SENSORS and self.services.of(sensor, at) is not None:
                self._suppressed[name] = Reason.SERVICE
            elif is_silent and kind_of(name) == "missing":
                self._suppressed[name] = Reason.ROOT_CAUSE
        return {name: found for name, found in evidence.items() if found.score or name in self.standings}

    def _plain_evidence(self, at: datetime) -> dict[str, Evidence]:
        """Return what the rules of house computers see; what a sensor shows that is not believed is told to nobody."""
        flock = self.life.flock
        if flock is None or not self._plain:
            return {}
        evidence = {}
        look = _Look(self.window, at, self._context(flock), self._sensors)
        known = self._known(flock, at)
        for name in self._plain:
            rule = self._rule(name)
            if rule is None:
                continue
            look.unbelieved = None
            found = plain.evidence_of(rule, look, known, self._unit(rule.signal or ""))
            stands = self.standings.get(name)
            if look.unbelieved is not None and stands is not None and stands.state in _OUT_OF_COURSE:
                nobody = msg("{sensor} is not believed"), {"sensor": look.unbelieved}
                why = self._why_unknown(look.unbelieved, at) or nobody  # it stands, and says why it cannot be judged
                found = _unknown(replace(found, score=None), why)
            elif look.unbelieved is not None:
                self._suppressed[name] = Reason.BAD_QUALITY
            if found.score or stands is not None:
                evidence[name] = found
        return evidence

    def _known(self, flock: Flock, at: datetime) -> plain.Known:
        context = self._context(flock)
        now = np.array([to_ms(at)], np.int64)
        live = float(context.live_at(now)[0])
        high = self._rule("high-temperature") or rule_by_default("high-temperature")
        return plain.Known(
            set_point=plain.set_point_at(self._facts.set_point, float(context.age_days(now)[0])),
            day_feed_kg=live * fact_of(context, "reference.feed_g", at, self.days) / 1000,
            high=high.threshold,
        )

    def _told_evidence(self, at: datetime) -> dict[str, Evidence]:
        """Return whether what people told of the flock can be, as of the last full hour."""
        if at.minute == 0:
            self._told_of_flock = {"unregistered": self._birds_nobody_told_of(at), "placement": self._count_told(at)}
        return {name: found for name, found in self._told_of_flock.items() if found.score or name in self.standings}

    def _count_told(self, at: datetime) -> Evidence:
        flock, rule = self.life.flock, self._rule("placement")
        if flock is None or rule is None or not flock.birds_placed:
            return Evidence(0.0)
        day, intake = day_number(flock, at, self.days), []
        if plain.FED_FROM_DAY <= day <= plain.FED_TO_DAY:
            look, feed_kg = (
                _Look(self.window, at, self._context(flock), self._sensors),
                self._known(flock, at).day_feed_kg,
            )
            intake = [
                look.amount(signal, plain.DAY_S) / (share * feed_kg) if feed_kg > 0 else float("nan")
                for signal, share in (("water", plain.WATER_TO_FEED), ("feed", 1.0))
            ]
        return plain.placement(rule, flock.birds_placed, self._facts.capacity, self._facts.area_m2, day, intake)

    def _birds_nobody_told_of(self, at: datetime) -> Evidence:
        rule, life = self._rule("unregistered"), self.life
        is_new = life.since is not None and at - life.since < timedelta(seconds=plain.DAY_S)
        if rule is None or life.flock is not None or is_new or not self._sensors.newest_ms:
            return Evidence(0.0)
        hours = [at - timedelta(hours=back) for back in range(24)]
        water = self.window.measures(_WATER, 3600, hours, None)[:, 0].tolist()
        signs = [found.value for found in self.window.measure(_SIGNS_OF_BIRDS, plain.DAY_S, at, None)]
        return plain.unregistered(rule, water, signs)

    # --- what goes out

    def _predictions(self, results: Sequence[HouseResult], at: datetime) -> list[Prediction]:
        """Return the quantiles of what is predicted, as rows."""
        flock = self.life.flock
        predictions = []
        for result in results:
            if result.horizon is not None:
                continue
            manifest = result.manifest
            for output in manifest.output:
                if not is_told(output):
                    continue
                model = f"{manifest.name}/{manifest.version}"
                stretch = self.calibration.stretch(model, self.house) if output.target == WEIGHED else 1.0
                for horizon, quantiles in zip(output.horizons, result.outputs[output.name], strict=True):
                    target_at = self._target_at(horizon, flock, at)
                    if target_at is None or not np.isfinite(quantiles).all():
                        continue
                    p10, p50, p90 = (float(quantiles[output.quantiles.index(q)]) for q in (0.1, 0.5, 0.9))
                    predictions.append(
                        Prediction(
                            house=self.house,
                            flock=None if flock is None else flock.flock,
                            made_at=at,
                            day_number=self.day_number(at),
                            target=output.target,
                            target_at=target_at,
                            horizon=horizon,
                            p10=p50 - (p50 - p10) * stretch,
                            p50=p50,
                            p90=p50 + (p90 - p50) * stretch,
                            model=manifest.name,
                            model_version=manifest.version,
                            coverage=result.inputs.coverage,
                            stretch=stretch,
                        )
                    )
        return predictions

    def _opinions(self, results: Sequence[HouseResult], at: datetime) -> Iterator[Opinion]:
        """Yield what ``custom`` models say in other words than the three quantiles; not what the rules judge."""
        flock = self.life.flock
        for result in results:
            manifest = result.manifest
            if manifest.task != "custom" or manifest.foresight is not None:
                continue
            for output in manifest.output:
                if is_told(output):
                    continue
                yield Opinion(
                    house=self.house,
                    flock=None if flock is None else flock.flock,
                    made_at=at,
                    day_number=self.day_number(at),
                    target=output.target,
                    meaning=output.meaning,
                    values=_named(output, result.outputs[output.name]),
                    unit=output.unit,
                    model=manifest.name,
                    model_version=manifest.version,
                    coverage=result.inputs.coverage,
                )

    def _target_at(self, horizon: str, flock: Flock | None, at: datetime) -> datetime | None:
        """Return when a prediction will be true; None where the slaughter day is unknown or over."""
        if horizon != "slaughter":
            return at + timedelta(seconds=horizon_s(horizon) or 0)
        if flock is None or flock.planned_end_on is None or self.days.date_of(at) > flock.planned_end_on:
            return None
        return self.days.start_of(flock.planned_end_on)

    def _event(self, standing: Standing, before: WarningState, reason: Reason, at: datetime) -> WarningEvent:
        """Return a transition with its words."""
        name = standing.rule
        rule = self._rule(name) or rule_by_default(name)
        flock = self.life.flock
        age = self.day_number(at)
        causes = causes_of(standing, self._also(name), self._also(name, before=standing.since or at))
        told = Occasion(self.called, None if flock is None else flock.flock, age, at, rule.latching)
        words = explain(standing, causes, told, self.locale)
        return WarningEvent(
            at=at,
            before=before,
            standing=standing,
            reason=reason,
            about=rule.about,
            signal=rule.signal,
            day_number=age,
            text=words.text,
            causes=causes,
            check_first=words.check_first,
            lang=self.locale.language,
        )

    def _also(self, name: str, before: datetime | None = None) -> dict[str, int]:
        """Return the other signals that are out of their course now, each with its direction, the first one first.

        ``before``: only those that left it before this.
        """
        also: dict[str, int] = {}
        for standing in sorted(self.standings.values(), key=lambda s: s.since or EPOCH):
            if standing.rule == name or standing.state not in _OUT_OF_COURSE or standing.evidence is None:
                continue
            if before is not None and (standing.since or EPOCH) >= before:
                continue
            if kind_of(standing.rule) in _MODELLED:
                also[_signal_of(standing.rule)] = direction_of(standing.evidence)
            elif standing.rule == "mortality":
                also["dead"] = 1
        return also

    def shown(self, at: datetime) -> list[WarningEvent]:
        """Return every warning that is to be seen now, with its words as of ``at``."""
        return [
            self._event(
                standing, standing.state, standing.reason or Reason.LIMIT_CROSSED, max(at, standing.updated_at or at)
            )
            for standing in self.standings.values()
            if standing.state in PUBLISHED_STATES
        ]

    def over(self) -> list[str]:
        """Return the rules that were once out of course and are not to be seen now."""
        return [rule for rule, standing in self.standings.items() if standing.state not in PUBLISHED_STATES]

    def last_word(self, rule: str, at: datetime) -> WarningEvent:
        """Return what is to be said of a rule that is over."""
        standing = self.standings[rule]
        reason = standing.reason or Reason.BACK_IN_BAND
        return self._event(standing, standing.state, reason, max(at, standing.updated_at or at))

    def day_number(self, at: datetime) -> int | None:
        """Return the flock's age in days at ``at``; None without a flock."""
        return None if self.life.flock is None else day_number(self.life.flock, at, self.days)

    def last_reading_at(self) -> datetime | None:
        """Return the time of the newest reading of any sensor since the start; None where there was none."""
        return from_ms(self._sensors.newest_ms) if self._sensors.newest_ms else None

    def severity(self) -> Severity:
        """Return the worst severity that stands and is not shelved."""
        shown = (s.severity for s in self.standings.values() if s.state in _UNSHELVED)
        return max(shown, default=Severity.NONE)

    def set_back(self, by: timedelta) -> None:
        """Go on by a clock that was set back ``by`` so much (negative)."""
        self.standings = {name: judging.set_back(standing, by) for name, standing in self.standings.items()}
        self._out.clear()  # what an output said held until a time that is far ahead now

    def command(self, rule: str, command: Acknowledge | Shelve | Unshelve, at: datetime) -> WarningEvent:
        """Do what somebody asked of one warning.

        Raises:
            InputError: there is nothing to do it to; the message says why.
        """
        before = self.standings.get(rule)
        if before is None or before.state is WarningState.NORMAL:
            message = f"no warning {rule!r} stands in {self.house}"
            raise InputError(message)
        if isinstance(command, Acknowledge):
            moved = judging.acknowledge(before, at, command.by)
        elif isinstance(command, Shelve):
            moved = judging.shelve(before, at, command.for_s, command.by, command.why)
        else:
            moved = judging.unshelve(before, at, command.by)
        if moved is None:
            message = f"{rule!r} in {self.house} is {before.state}: it cannot be {command.action}d now"
            raise InputError(message)
        after, reason = moved
        self.standings[rule] = after
        return self._event(after, before.state, reason, at)


ALSO_LOOKED_AT = ("temperature", "outside_temperature", "light")
"""What the rules of house computers look at beside their own signals, water and feed."""

_WATER = (Feature(signal="water", aggregate="sum", min_coverage=0.5),)
_SIGNS_OF_BIRDS = (
    Feature(signal="feed", aggregate="sum", min_coverage=0.5),
    Feature(signal="weight", aggregate="count", min_coverage=0.0),
)


@lru_cache(maxsize=256)
def _looked_at(signal: str, aggregate: Literal["mean", "sum", "min"], *, each: bool) -> tuple[Feature, ...]:
    """Return the feature of one signal; the same object each time, as the window's plans hang on it."""
    share = 0.9 if aggregate == "sum" else 0.5  # an amount of which a part is missing is no small amount
    return (Feature(signal=signal, aggregate=aggregate, per="live_bird" if each else None, min_coverage=share),)


class _Look:
    """What a house measures at an instant, as the plain rules ask for it."""

    def __init__(self, window: Window, at: datetime, context: FlockContext, sensors: Sensors) -> None:
        self.unbelieved: str | None = None  # a signal whose level was taken from a sensor that is not believed
        self._window, self._at, self._context, self._sensors = window, at, context, sensors

    def level(self, signal: str) -> float:
        [found] = self._window.measure(_looked_at(signal, "mean", each=False), 600, self._at, self._context)
        return found.value

    def shown(self, signal: str) -> float:
        level = self.level(signal)
        shown = None if np.isfinite(level) else self._sensors.unbelieved(signal, self._at)
        if shown is None:
            return level
        self.unbelieved = signal
        return shown

    def darkest(self, length_s: int) -> float:
        [found] = self._window.measure(_looked_at("light", "min", each=False), length_s, self._at, self._context)
        return found.value

    def amount(self, signal: str, length_s: int, before_s: int = 0, *, each: bool = False) -> float:
        at = self._at - timedelta(seconds=before_s)
        [found] = self._window.measure(_looked_at(signal, "sum", each=each), length_s, at, self._context)
        return found.value


_OF_SENSORS = frozenset({"missing", "stuck", "disagree", "range"})
_MODELLED = frozenset({"deviation", "trend"})
_EXPLAINED = _MODELLED | {"mortality"}
_MOVING = frozenset(WarningState) - {WarningState.NORMAL}
_OUT_OF_COURSE = frozenset({WarningState.PENDING, *PUBLISHED_STATES})
_UNSHELVED = frozenset({WarningState.ACTIVE, WarningState.ACKNOWLEDGED})


_MOST_CAUSES, _SMALLEST_PROBABILITY = 5, 0.02  # what is told of a cause model's answer


@dataclass(frozen=True, slots=True)
class _Said:
    """What a model of the causes said of a house."""

    confidence: float | None  # None: it does not know of false warnings
    causes: tuple[Cause, ...]


def _said_by(result: HouseResult) -> _Said:
    output = next(output for output in result.manifest.output if output.meaning == "probabilities")
    shares = {label: float(p) for label, p in zip(output.labels, result.outputs[output.name], strict=True)}
    nothing = shares.pop(NO_FAULT, None)
    ranked = sorted(shares.items(), key=lambda share: -share[1])
    told = [share for share in ranked[:_MOST_CAUSES] if share[1] >= _SMALLEST_PROBABILITY] or ranked[:1]
    return _Said(None if nothing is None else 1 - nothing, tuple(Cause(cause, p) for cause, p in told))


def _unknown(evidence: Evidence, why: Why) -> Evidence:
    message, values = why
    return replace(evidence, why=message, why_values=values)


def _chattering(house: str, standing: Standing, chatter: Chatter, at: datetime) -> Event:
    """Return that a rule comes and goes, and what would have stopped it, for the lake."""
    detail: dict[str, object] = {
        "rule": standing.rule,
        "warning": standing.id,
        "flock": standing.flock,
        **asdict(chatter),
    }
    signal = standing.rule.partition("-")[2] or None
    return Event(at, "chattering", house, signal, standing.spells[0].since, at, detail)


def _signed(evidence: Evidence) -> float:
    """Return the score with the direction of the departure; NaN where nobody can say."""
    return float("nan") if evidence.score is None else evidence.score * direction_of(evidence)


@dataclass(frozen=True, slots=True)
class _Judged:
    """The outputs of a bundle for one horizon, and the features that they expect, in the same order."""

    outputs: tuple[Output, ...]
    features: tuple[Feature, ...]


def _band_of(output: Output, result: HouseResult) -> str:
    """Return what the band of an output is known by: each horizon has its own."""
    return f"{output.name}/{result.horizon}"


def _worst(expected: Iterable[tuple[str, Evidence]]) -> dict[str, Evidence]:
    """Return one evidence for each rule.

    Where several outputs look at one signal over times of one kind (a day against yesterday, the same day against last
    week), the one that is furthest out of its course speaks; one that cannot say never does, if another can.
    """
    worst: dict[str, Evidence] = {}
    for name, found in expected:
        so_far = worst.get(name)
        if so_far is None or (found.score is not None and (so_far.score is None or found.score > so_far.score)):
            worst[name] = found
    return worst


def _named(output: Output, values: NDArray[np.float64]) -> dict[str, float]:
    """Return an output's numbers by their names."""
    numbers = values.ravel().tolist()
    if output.meaning == "probabilities":
        names = list(output.labels)
    elif output.meaning == "quantiles":
        each = [f"p{100 * q:g}" for q in output.quantiles]
        names = [f"{horizon}.{name}" for horizon in output.horizons for name in each]
    elif len(numbers) == 1:
        names = [output.meaning]
    else:
        names = [f"{output.meaning}_{number}" for number in range(1, len(numbers) + 1)]
    return dict(zip(names, numbers, strict=True))


def _delays_of(standing: Standing) -> tuple[datetime | None, datetime | None]:
    return standing.back_since, standing.unknown_since


def _foreseen_by(results: Sequence[HouseResult]) -> Foreseen | None:
    """Return what the first model that looks for outbreaks to come says; None where none does."""
    for result in results:
        sees = result.manifest.foresight
        if sees is not None:
            return Foreseen(result.manifest, float(result.outputs[sees.output][sees.column]), sees.limit)
    return None


def _signal_of(rule: str) -> str:
    return base_of(rule.partition("-")[2])


def judge_instant(watches: Sequence[HouseWatch], predictor: Predictor, at: datetime, monotonic: float) -> list[Outcome]:
    """Run the models that are due at ``at`` for all houses together, and judge every house by what they said."""
    results: dict[str, list[HouseResult]] = {watch.house: [] for watch in watches}
    due_now = predictor.due(at)
    for due in due_now:
        if due.model.manifest.task != "cause":
            for house, result in _run(due, watches, at):
                results[house].append(result)
    turn = frozenset(name for due in due_now for name, _ in modelled_rules(due.outputs))
    outcomes = [watch.judge(results[watch.house], at, monotonic, turn) for watch in watches]
    # what is behind it is asked when it is known what has left its course
    why = [due for due in due_now if due.model.manifest.task == "cause"]
    said = dict(found for due in why for found in _run(due, watches, at))
    outcomes = [
        watch.name_causes(outcome, said.get(watch.house), is_due=bool(why))
        for watch, outcome in zip(watches, outcomes, strict=True)
    ]
    scores = {watch.house: tuple(_scores(watch, predictor, at)) for watch in watches} if predictor.scorers else {}
    return [replace(o, scores=scores[o.house]) if scores.get(o.house) else o for o in outcomes]


def _run(due: Due, watches: Sequence[HouseWatch], at: datetime) -> list[tuple[str, HouseResult]]:
    """Run one model for all houses that it is wanted for; return what it said of each, results set aside left out."""
    asked = [(watch.house, horizon, inputs) for watch in watches for horizon, inputs in watch.features(due, at)]
    asked = due.model.answerable(asked)
    if not asked:
        return []
    said = due.model.run([inputs.tensors for _, _, inputs in asked])
    found = []
    for number, (house, horizon, inputs) in enumerate(asked):
        reason = said.set_aside[number]
        due.model.note(house, reason)
        if reason is None:
            outputs = {name: values[number] for name, values in said.outputs.items()}
            found.append((house, HouseResult(due.model.manifest, horizon, outputs, inputs)))
    return found


def _scores(watch: HouseWatch, predictor: Predictor, at: datetime) -> Iterator[Score]:
    """Yield how unusual the readings are that came since the last instant, to each model that scores readings."""
    for model in predictor.scorers:
        manifest, rests = model.manifest, model.rests(at)
        for signal, at_ms, tensors in watch.series.unscored(manifest.input, manifest.scored_signals, watch.days):
            values: Sequence[float | None] = [None] * len(at_ms)
            reasons: Sequence[str | None] = [rests] * len(at_ms)
            if rests is None:
                said = model.run_stacked(tensors)
                reasons = said.set_aside
                if said.outputs:
                    values = said.outputs[manifest.output[0].name].reshape(len(at_ms)).tolist()
                model.note(f"{watch.house}/{signal}", reasons[-1])
            for time_ms, value, why in zip(at_ms.tolist(), values, reasons, strict=True):
                score = value if why is None else None
                yield Score(watch.house, signal, time_ms, score, manifest.name, manifest.version, why)
    watch.series.scored()
