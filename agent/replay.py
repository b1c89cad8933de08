"""Replay: a recording through the same HouseWatch as live, as fast as it goes; nothing looks ahead."""

from __future__ import annotations

import csv
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from agent.alerts import alert, iso
from agent.calibration import Calibration, last_day_of
from agent.commands import End, Place, Service
from agent.domain import PUBLISHED_STATES, from_ms, to_ms
from agent.errors import InputError, ReplayFileError
from agent.peers import Peers
from agent.predict import Predictor
from agent.quality import QualityJudge
from agent.readings import EMPTY, HouseSplitter
from agent.replay_files import read_events, read_flocks, spool_readings
from agent.shadow import Shadows
from agent.watch import GRID, HouseWatch, judge_instant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from agent.commands import FlockCommand
    from agent.config import Config
    from agent.domain import FlockChange, Opinion, QualityInterval, Score, WarningEvent, WarningState
    from agent.readings import Readings
    from agent.replay_files import RecordedFlock, Recording
    from agent.watch import Outcome

WARNINGS_HEADER = (
    "house", "flock", "rule", "about", "signal", "severity", "state", "raised_at", "cleared_at", "day_number", "actual",
    "expected", "deviation_pct", "confidence", "cause", "text",
)  # fmt: skip
PREDICTIONS_HEADER = (
    "house", "flock", "made_at", "day_number", "target", "target_at", "p10", "p50", "p90", "model", "model_version",
)  # fmt: skip
SCORES_HEADER = ("house", "signal", "at", "score", "model")
QUALITY_HEADER = ("house", "signal", "from", "to", "quality", "reason")

_GRID_MS = int(GRID / timedelta(milliseconds=1))
_LONG_AGO, _MUCH_LATER = (
    float("-inf"),
    float("inf"),
)  # real time does not count here: silence is judged by event time alone


class _Writer(Protocol):
    """What ``csv.writer`` returns."""

    def writerow(self, row: Iterable[object], /) -> object:
        """Write one line."""


@dataclass(slots=True)
class Summary:
    """What a replay did."""

    readings: int = 0
    instants: int = 0
    warnings: int = 0
    predictions: int = 0
    seconds: float = 0.0
    blank: int = 0  # rows without a value
    noticed: Sequence[str] = ()  # of the models: drift, bands that do not hold
    scores: int = 0  # of single readings
    troubles: dict[str, str] = field(default_factory=dict)  # models that are set aside, or for some house, and why

    def __str__(self) -> str:
        """Return the figures on one line, and what was noticed on others."""
        rate = self.readings / self.seconds if self.seconds else 0.0
        return (
            f"{self.readings:,} readings in {self.seconds:.1f} s ({rate:,.0f}/s), {self.instants:,} instants judged: "
            f"{self.warnings:,} warnings, {self.predictions:,} predictions"
            + (f", {self.scores:,} scores" if self.scores else "")
            + (f"; {self.blank:,} rows without a value" if self.blank else "")
            + "".join(f"\n{line}" for line in self.noticed)
            + "".join(f"\nmodel {model}: {why}" for model, why in self.troubles.items())
        )


@dataclass(slots=True)
class _Raised:
    """One row of warnings.csv: from its rise to its clearing."""

    event: WarningEvent
    state: WarningState
    cleared_at: datetime | None = None


class Results(Protocol):
    """What takes the results of a replay."""

    def add(self, outcome: Outcome) -> None:
        """Take what one house's judgement brought."""

    def add_quality(self, intervals: Iterable[QualityInterval]) -> None:
        """Take intervals of bad quality and gaps."""


class Played(Protocol):
    """A recording: its days since 1970, and its readings in order of time."""

    @property
    def days(self) -> Sequence[int]:
        """The UTC days that hold readings; the first and the last are enough."""

    def blocks(self) -> Iterator[Readings]:
        """Yield the readings in order of time."""


class _Results:
    """Writes what comes out; only warnings are held back, until it is known when they cleared."""

    def __init__(self, folder: Path, stack: ExitStack, config: Config, *, with_scores: bool) -> None:
        self._config = config
        self._raised: list[_Raised] = []
        self._standing: dict[tuple[str, str], _Raised] = {}
        self.prediction_count = self.score_count = 0
        self.noticed: list[str] = []
        self._warnings = self._table(folder / "warnings.csv", WARNINGS_HEADER, stack)
        self._predictions = self._table(folder / "predictions.csv", PREDICTIONS_HEADER, stack)
        self._quality = self._table(folder / "quality.csv", QUALITY_HEADER, stack)
        self._scores = self._table(folder / "scores.csv", SCORES_HEADER, stack) if with_scores else None

    @staticmethod
    def _table(path: Path, header: Sequence[str], stack: ExitStack) -> _Writer:
        file = stack.enter_context(path.open("w", encoding="utf-8", newline=""))
        writer: _Writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        return writer

    def add(self, outcome: Outcome) -> None:
        """Take what one house's judgement brought."""
        for event in outcome.warnings:
            self._warning(event)
        for noticed in outcome.events:
            if noticed.kind in {"drift", "coverage"}:
                self.noticed.append(
                    f"{iso(noticed.at)} {noticed.house} {noticed.detail['model']}: {noticed.detail['reason']}"
                )
        told: set[tuple[str, date]] = set()  # the slaughter day may be in two days: that is said once
        for made in outcome.predictions:
            target_on = self._config.site.days.date_of(made.target_at)
            if (made.target, target_on) in told:
                continue
            told.add((made.target, target_on))
            self.prediction_count += 1
            figures = (f"{figure:.6g}" for figure in (made.p10, made.p50, made.p90))
            self._predictions.writerow(
                (
                    made.house,
                    made.flock,
                    iso(made.made_at),
                    made.day_number,
                    made.target,
                    target_on,
                    *figures,
                    made.model,
                    made.model_version,
                )
            )

        for opinion in outcome.opinions:
            self._opinion(opinion)
        if self._scores is not None:
            self.score_count += len(outcome.scores)
            for score in outcome.scores:
                self._scores.writerow(_score_row(score))

    def _opinion(self, opinion: Opinion) -> None:
        """Write each number as a prediction of its instant's farm date, with a p50 alone."""
        on = self._config.site.days.date_of(opinion.made_at)
        about = (opinion.house, opinion.flock, iso(opinion.made_at), opinion.day_number)
        for name, value in opinion.values.items():
            target = opinion.target if name == opinion.meaning else f"{opinion.target}.{name}"
            figures = ("", f"{value:.6g}", "")
            self.prediction_count += 1
            self._predictions.writerow((*about, target, on, *figures, opinion.model, opinion.model_version))

    def _warning(self, event: WarningEvent) -> None:
        key = (event.standing.house, event.standing.rule)
        shown = event.standing.state in PUBLISHED_STATES
        known = self._standing.get(key)
        if known is None and shown:
            self._standing[key] = raised = _Raised(event, event.standing.state)
            self._raised.append(raised)
        elif known is not None:
            known.state = event.standing.state
            if not shown:
                known.cleared_at = event.at
                del self._standing[key]

    def add_quality(self, intervals: Iterable[QualityInterval]) -> None:
        """Take intervals of bad quality and gaps; those that only began are written when they end."""
        for interval in intervals:
            if interval.to_ms is None:
                continue
            self._quality.writerow(
                (
                    interval.key.house,
                    interval.key.signal,
                    iso(from_ms(interval.from_ms)),
                    iso(from_ms(interval.to_ms)),
                    interval.quality.name.lower(),
                    interval.reason,
                )
            )

    def finish(self) -> int:
        """Write the warnings in the order in which they rose; return how many there were."""
        for raised in sorted(self._raised, key=lambda r: (r.event.at, r.event.standing.house, r.event.standing.rule)):
            self._warnings.writerow(_warning_row(raised))
        return len(self._raised)


def _score_row(score: Score) -> tuple[object, ...]:
    at = from_ms(score.at_ms).isoformat(timespec="milliseconds" if score.at_ms % 1000 else "seconds")
    figure = "" if score.score is None else f"{score.score:.6g}"
    return score.house, score.signal, at.replace("+00:00", "Z"), figure, score.model


def _warning_row(raised: _Raised) -> tuple[object, ...]:
    event = raised.event
    shown = alert(event)
    cause = event.causes[0].cause if event.causes else ""
    return (
        shown["house"], shown["flock"], shown["rule"], shown["about"], shown["signal"], shown["severity"],
        raised.state.value, shown["raised_at"], iso(raised.cleared_at), shown["day_number"], shown["actual"],
        shown["expected"], shown["deviation_pct"], shown["confidence"], cause, shown["text"],
    )  # fmt: skip


class Replay:
    """One recording, played through the houses that are in it; bundles on trial beside them, where there are any.

    ``watch`` is what watches each house.
    """

    def __init__(
        self,
        config: Config,
        predictor: Predictor,
        houses: Sequence[str],
        shadow: Predictor | None = None,
        watch: type[HouseWatch] = HouseWatch,
    ) -> None:
        self._days = config.site.days
        self._predictor = predictor
        self.quality = QualityJudge(config.signal)
        self._splitter = HouseSplitter()
        self.peers = Peers(config.signal)
        self._calibration = Calibration(self._days, {house.id: house.facts for house in config.house})
        self._weighed: list[tuple[datetime, FlockChange]] = []  # flocks that ended, until their weight is known
        self.watches = {
            house: watch(
                house,
                signal=config.signal,
                days=self._days,
                manifests=[model.manifest for model in predictor.models],
                overrides=config.overrides_of(house),
                facts=config.facts_of(house),
                rhythm_s=self.quality.rhythm_s,
                started_monotonic=_LONG_AGO,
                references=predictor.references(),
                also=shadow.signals if shadow else (),
                calibration=self._calibration,
                scores_each=True,
                called=config.called(house),
                locale=config.locale(house),
            )
            for house in houses
        }
        nobody = Predictor((), (), config.site.days)
        self.shadows = Shadows(config, shadow or nobody, list(self.watches.values()))

    def run(
        self,
        recording: Played,
        commands: Sequence[tuple[datetime, str, FlockCommand]],
        results: Results,
        until: datetime,
        see: Callable[[datetime], None] = lambda _: None,
        *,
        begin: datetime | None = None,
        apart: Results | None = None,
    ) -> tuple[int, int]:
        """Play the recording up to ``until``; return how many readings were observed and instants judged.

        Args:
            recording: what was measured.
            commands: what was told, in order of time.
            results: takes what comes out.
            until: the end.
            see: called at each instant, before it is judged: ``watches`` are as the models see them.
            begin: commands from before it are done then; else it begins with the first.
            apart: takes what the bundles on trial say.
        """
        begins = [begin] if begin else [commands[0][0]] if commands else []
        if recording.days and begin is None:
            begins.append(datetime.fromtimestamp(recording.days[0] * 86_400, UTC))
        if not begins:
            return 0, 0
        at_ms = to_ms(min(begins)) // _GRID_MS * _GRID_MS - _GRID_MS  # the first instant is judged, too
        end_ms = -(-to_ms(until) // _GRID_MS) * _GRID_MS
        waiting = list(reversed(commands))
        blocks = recording.blocks()
        block, position = next(blocks, EMPTY), 0
        observed = judged = 0
        while at_ms < end_ms:
            at_ms += _GRID_MS
            at = from_ms(at_ms)
            while waiting and waiting[-1][0] <= at:
                results.add_quality(self._command(*waiting.pop()))
            if self._weighed:
                self._learn(at)
            while True:
                stop = int(np.searchsorted(block.at_ms, at_ms, side="right"))
                if stop > position:
                    self._observe(block.take(np.arange(position, stop)), results)
                    observed += stop - position
                if stop < len(block) or not len(block):
                    position = stop
                    break
                block, position = next(blocks, EMPTY), 0
            self._compare(at, results)
            see(at)
            due = [
                watch for watch in self.watches.values() if watch.matters(at) or self.shadows.matter(watch.house, at)
            ]
            if due:
                judged += 1
                for outcome in judge_instant(due, self._predictor, at, _MUCH_LATER):
                    results.add(outcome)
                for outcome in self.shadows.judge(at, _MUCH_LATER, {watch.house for watch in due}):
                    if apart is not None:
                        apart.add(outcome)
            if not len(block) and all(watch.rests() for watch in self.watches.values()):
                at_ms = self._skipped(at, waiting[-1][0] if waiting else None)
        results.add_quality((*self.quality.close(from_ms(end_ms)), *self.peers.close(from_ms(end_ms))))
        return observed, judged

    def _skipped(self, at: datetime, commanded_at: datetime | None) -> int:
        """Return the last instant before the next one that matters where nothing is measured: a day, or a command."""
        next_at = self._days.start_of(self._days.date_of(at) + timedelta(days=1))
        if commanded_at is not None:
            next_at = min(next_at, commanded_at)
        return max(-(-to_ms(next_at) // _GRID_MS) * _GRID_MS - _GRID_MS, to_ms(at))

    def _observe(self, readings: Readings, results: Results) -> None:
        judged, intervals = self.quality.judge(readings)
        results.add_quality(intervals)
        self.peers.hear(judged)
        shares = self._splitter.split(judged)
        for house, watch in self.watches.items():
            if house in shares:
                watch.observe(shares[house], 0.0)
            watch.note(intervals)

    def _compare(self, at: datetime, results: Results) -> None:
        results.add_quality(
            self.peers.compare(at, {watch.house: watch.day_number(at) for watch in self.watches.values()})
        )
        doubts = self.peers.doubts()
        for watch in self.watches.values():
            watch.doubt(doubts)

    def _command(self, at: datetime, house: str, command: FlockCommand) -> list[QualityInterval]:
        """Do what was told; return the intervals of bad quality that end by it."""
        watch = self.watches.get(house)
        if watch is None:
            message = f"events.csv: {house!r} is in neither readings.csv nor flocks.csv"
            raise ReplayFileError(message)
        try:
            change = watch.apply(command, at)
        except InputError as e:
            self._cannot(f"{iso(at)}: {house}: {command.action}: {e}", e)
            return []
        if change.action == "end" and change.flock is not None and change.flock.ended_at is not None:
            last_day = max(last_day_of(change.flock.ended_at, self._days), change.flock.planned_end_on or date.min)
            self._weighed.append((self._days.start_of(last_day + timedelta(days=1)), change))
        if not isinstance(command, Service) or not command.replaced:
            return []
        parts = (self.quality, self.peers)
        ended = [interval for part in parts for interval in part.begin_anew(house, command.signal, at)]
        watch.note(ended)
        return ended

    def _cannot(self, what: str, error: InputError) -> None:
        message = f"{what}; correct events.csv or flocks.csv"
        raise ReplayFileError(message) from error

    def _learn(self, at: datetime) -> None:
        """Let the houses know the slaughter weights that are known by now: from the end of the slaughter day on."""
        self._calibration.learn(change for known_at, change in self._weighed if known_at <= at)
        self._weighed = [(known_at, change) for known_at, change in self._weighed if known_at > at]


def replay(
    config: Config, predictor: Predictor, readings: Path, flocks: Path, events: Path | None, out: Path
) -> Summary:
    """Play recorded files; write warnings.csv, predictions.csv, quality.csv (and scores.csv) into ``out``.

    Raises:
        ReplayFileError: a file is wrong; the message names file, line and what to do.
    """
    began = time.monotonic()
    zone = config.site.days.zone
    recorded = read_flocks(flocks)
    told = read_events(events, zone) if events else []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flockwatch-replay-")))
        recording = spool_readings(readings, folder, zone)
        houses = sorted({key.house for key in recording.keys} | {flock.flock.house for flock in recorded})
        # at one instant the flock that ends leaves before the next one comes
        ours = sorted(_commands(recorded, told, config), key=lambda command: command[2].action != "end")
        commands = sorted((*ours, *told), key=lambda command: command[0])
        try:
            out.mkdir(parents=True, exist_ok=True)
            results = _Results(out, stack, config, with_scores=bool(predictor.scorers))
        except OSError as e:
            message = f"--out {out}: cannot be written: {e.strerror or e}"
            raise InputError(message) from e
        measured = {key.house for key in recording.keys}
        last = [at for at, house, _ in commands if house not in measured]  # who has readings is judged to their end
        if recording.days:
            last.append(from_ms(int(_last_block(recording).at_ms[-1])))
        played = Replay(config, predictor, houses)
        observed, judged = played.run(recording, commands, results, max(last, default=datetime.fromtimestamp(0, UTC)))
        warnings = results.finish()
    took = time.monotonic() - began
    return Summary(
        observed,
        judged,
        warnings,
        results.prediction_count,
        took,
        recording.skipped_blank,
        results.noticed,
        results.score_count,
        {model: why for model, why in predictor.troubles() if why is not None},
    )


def _commands(
    recorded: Sequence[RecordedFlock], told: Sequence[tuple[datetime, str, FlockCommand]], config: Config
) -> Iterator[tuple[datetime, str, FlockCommand]]:
    """Yield the placements and ends that ``flocks.csv`` tells, unless ``events.csv`` tells of the same."""
    days = config.site.days
    for line, following in zip(recorded, (*recorded[1:], None), strict=False):  # not strict: there may be no flock
        flock = line.flock
        facts = {
            name: getattr(flock, name) for name in ("birds_placed", "strain", "parent_age_weeks", "planned_end_on")
        }
        sex = flock.sex if flock.sex in {"male", "female", "mixed"} else None
        place = Place(action="place", flock=flock.flock, placed_on=flock.placed_on, sex=sex, **facts)
        yield days.start_of(flock.placed_on), flock.house, place
        begins = days.start_of(flock.placed_on)
        next_at = None
        if following is not None and following.flock.house == flock.house:
            next_at = days.start_of(following.flock.placed_on)
        ends = [next_at] if next_at is not None else []
        if line.ended_on is not None:
            ends.append(days.start_of(line.ended_on + timedelta(days=1)))
        if not ends:
            continue
        end_at = min(ends)
        if any(
            house == flock.house and command.action == "end" and begins <= at and (next_at is None or at <= next_at)
            for at, house, command in told
        ):
            continue
        yield end_at, flock.house, End(action="end", slaughter_weight_g=line.slaughter_weight_g)


def _last_block(recording: Recording) -> Readings:
    return next(replace(recording, days=recording.days[-1:]).blocks())
