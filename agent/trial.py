"""A trial: the history of this farm played through a bundle, beside the one that is in use, and the two held together.

Readings come from the local lake, a day at a time, and from house.db what is not sealed yet; what people told comes
from ``flocks``. So it works on the gateway, without a network, in the memory of one day. The candidate runs as a shadow
does live: on the same windows, with warnings of its own. The first ``WARM_UP`` only fills the windows.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.alerts import iso
from agent.bundles import find_bundle, load_bundle, shipped_directory
from agent.commands import Place, parse_flock_command
from agent.domain import PUBLISHED_STATES, Quality, SeriesKey, TimeQuality, from_ms, to_ms
from agent.errors import BundleError, InputError, UsageError
from agent.export import Exported, blocks_of, command_of, records_of
from agent.history import lake_objects, read_readings
from agent.predict import Predictor
from agent.readings import Readings
from agent.replay import Replay
from agent.store import StoreReader
from agent.store.tables import Selection
from agent.tally import DAY_MS, Raised, raised_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from agent.bundles import Bundle
    from agent.commands import FlockCommand
    from agent.config import Config
    from agent.domain import QualityInterval
    from agent.fitness import FitFlock
    from agent.history import LakeObject
    from agent.predict import Model
    from agent.watch import Outcome

WARM_UP = timedelta(days=14)  # as far as the fine steps of the windows reach
SAME_WITHIN = timedelta(hours=24)  # our judgement: what both warned of within a day is one thing
CHANGED_BY = timedelta(minutes=10)  # a step of the grid
UNSEALED_ROWS = 50_000  # that are taken from house.db at once: about 10 MB
_ROW = np.dtype([("at_ms", "<i8"), ("value", "<f8"), ("key", "<i4")])


@dataclass(slots=True)
class History:
    """The readings of some houses over some UTC days; read as it is played."""

    objects: dict[int, list[LakeObject]]  # by UTC day since 1970
    folder: Path  # what is not sealed yet, a file for each day
    houses: frozenset[str]
    say: Callable[[str], None]
    keys: dict[SeriesKey, int] = field(default_factory=dict)
    count: int = 0
    heard: Counter[tuple[str, int]] = field(default_factory=Counter)  # readings by house and day
    left_out: list[str] = field(default_factory=list)

    @property
    def days(self) -> list[int]:
        """The UTC days that hold readings."""
        return sorted({*self.objects, *(int(path.name) for path in self.folder.iterdir())})

    def blocks(self) -> Iterator[Readings]:
        """Yield the readings of each day in the order of their time; of two of one time the first that was stored."""
        days = self.days
        for number, day in enumerate(days, 1):
            rows = self._rows_of(day)
            rows = rows[np.lexsort((rows["key"], rows["at_ms"]))]
            is_new = np.ones(len(rows), np.bool_)
            is_new[1:] = (np.diff(rows["at_ms"]) != 0) | (np.diff(rows["key"]) != 0)
            rows = rows[is_new]
            self._note(rows, day)
            if number % 7 == 0 or number == len(days):
                self.say(f"day {number} of {len(days)}: {_day(day)}")
            at_ms = rows["at_ms"].astype(np.int64)
            yield Readings(
                tuple(self.keys),
                rows["key"].astype(np.int32),
                at_ms,
                rows["value"].astype(np.float64),
                np.full(len(rows), Quality.GOOD, np.uint8),
                np.full(len(rows), TimeQuality.SENDER, np.uint8),
                at_ms,
            )

    def keep_unsealed(self, blocks: Iterable[Mapping[str, Sequence[Any]]]) -> None:
        """Put what is not sealed yet into files by day."""
        for block in blocks:
            rows = np.empty(len(block["seq"]), _ROW)
            rows["at_ms"], rows["value"] = block["at"], block["value"]
            names = zip(block["house"], block["signal"], strict=True)
            rows["key"] = [self._number(house, signal) for house, signal in names]
            rows = rows[rows["key"] >= 0]
            days = rows["at_ms"] // DAY_MS
            for day in np.unique(days).tolist():
                with (self.folder / str(day)).open("ab") as file:
                    rows[days == day].tofile(file)

    def _rows_of(self, day: int) -> NDArray[np.void]:
        parts = []
        for one in self.objects.get(day, []):
            try:
                for names, number, at_ms, value in read_readings(one.path):
                    numbers = np.array([self._number(*name) for name in names], np.int32)
                    rows = np.empty(len(at_ms), _ROW)
                    rows["at_ms"], rows["value"], rows["key"] = at_ms, value, numbers[number]
                    parts.append(rows[rows["key"] >= 0])
            except InputError as e:
                self.left_out.append(str(e))
        unsealed = self.folder / str(day)
        if unsealed.exists():
            parts.append(np.fromfile(unsealed, _ROW))
        return np.concatenate(parts) if parts else np.empty(0, _ROW)

    def _number(self, house: str, signal: str) -> int:
        if house not in self.houses:
            return -1
        return self.keys.setdefault(SeriesKey(house, signal), len(self.keys))

    def _note(self, rows: NDArray[np.void], day: int) -> None:
        self.count += len(rows)
        counts = np.bincount(rows["key"].astype(np.int64), minlength=len(self.keys))
        for key, number in self.keys.items():
            if counts[number]:
                self.heard[key.house, day] += int(counts[number])


@dataclass(slots=True)
class _Warning:
    house: str
    rule: str
    flock: str | None
    raised_at: datetime
    text: str
    model: str | None
    over_at: datetime | None = None


@dataclass(slots=True)
class _Kept:
    """The warnings that rose in a replay."""

    raised: list[_Warning] = field(default_factory=list)
    standing: dict[tuple[str, str], _Warning] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Take what one house's judgement brought."""
        for event in outcome.warnings:
            key = (event.standing.house, event.standing.rule)
            shown = event.standing.state in PUBLISHED_STATES
            known = self.standing.get(key)
            if known is None and shown:
                by = event.standing.evidence
                model = f"{by.model}/{by.model_version}" if by is not None and by.model else None
                self.standing[key] = new = _Warning(*key, event.standing.flock, event.at, event.text, model)
                self.raised.append(new)
            elif known is not None and not shown:
                known.over_at = event.at
                del self.standing[key]

    def add_quality(self, intervals: Iterable[QualityInterval]) -> None:
        """Take no interest in it: it is the same for both."""


class _TrialReplay(Replay):
    """A replay of what was done once: what cannot be done again is noted, and passed over."""

    noted: list[str]

    def _cannot(self, what: str, error: InputError) -> None:  # noqa: ARG002  # the words hold it already
        self.noted.append(what)


def trial(
    config: Config, directory: Path, *, days: int, houses: Sequence[str], say: Callable[[str], None]
) -> dict[str, Any]:
    """Return how the bundle in ``directory`` does on the last ``days`` of history beside the one in use.

    Raises:
        BundleError: the bundle does not load, or its self-test differs.
        InputError: there is no history.
        StoreError: house.db cannot be read.
        UsageError: a house is not in the configuration.
    """
    candidate, incumbent = load_bundle(directory), None
    if candidate.manifest.scored_signals:
        message = f"{directory}: {candidate} scores single readings and warns of nothing; see what it says by "
        message += "flockwatch replay --bundles"
        raise BundleError(message)
    for name in config.models.use:
        used = load_bundle(find_bundle(config.models.directory or shipped_directory(), name))
        if used.manifest.name == candidate.manifest.name:
            incumbent = used
            break
        incumbent = incumbent or (used if used.manifest.task == candidate.manifest.task else None)
    if incumbent is not None and str(incumbent) == str(candidate):
        message = f"{directory}: {candidate} is in use already; give the candidate a version of its own"
        raise BundleError(message)
    beside, tried = (_predictor(config, bundle) for bundle in (incumbent, candidate))
    known = [house.id for house in config.house]
    if unknown := [house for house in houses if house not in known]:
        message = f"--houses: {unknown[0]!r} is not in the configuration; there are {', '.join(known) or 'none'}"
        raise UsageError(message)
    chosen = list(houses) or known
    with tempfile.TemporaryDirectory(prefix="flockwatch-trial-") as folder:
        told = Exported()
        with StoreReader.open(config.data.house_db) as reader:
            until = from_ms(reader.counts()["judged_ms"])
        since = until - timedelta(days=days)
        begin = since - WARM_UP
        history = _history(config, chosen, begin, until, Path(folder), say)
        first = history.days[:1]
        replay = _TrialReplay(config, beside, chosen, tried)
        replay.noted = []
        before, after = _Kept(), _Kept()
        commands = _commands(config, chosen, begin, told)
        _, instants = replay.run(history, commands, before, until, begin=begin, apart=after)
    if not history.count:
        message = f"{config.data.lake}: holds no readings of {', '.join(chosen) or 'any house'} since {iso(begin)}"
        raise InputError(message)
    labels = raised_of(config, to_ms(since), to_ms(until) + 1, told)
    rolled = _rolled_up(config, begin, until)
    return {
        "candidate": str(candidate),
        "incumbent": None if incumbent is None else str(incumbent),
        "houses": chosen,
        "since": iso(since),
        "until": iso(until),
        "warmed_up_from": iso(max(begin, *(from_ms(day * DAY_MS) for day in first))),
        "readings": history.count,
        "instants": instants,
        "gaps": [*_gaps(history, chosen, since, until), *rolled],
        "left_out": [*history.left_out, *told.left_out, *replay.noted],
        "warnings": _compared(before.raised, after.raised, labels, str(incumbent), since),
        "weight": _weights(replay, incumbent, candidate, since),
        "runs": {str(model): _runs(model) for model in (*beside.models, *tried.models)},
        "failed": replay.shadows.dropped.get(str(candidate)) or _failed(tried.models[0]),
    }


def _predictor(config: Config, bundle: Bundle | None) -> Predictor:
    predictor = Predictor.load([bundle] if bundle else [], config.site.days, config.models.threads)
    if predictor.refused:
        raise BundleError(predictor.refused[0].reason)
    return predictor


def _runs(model: Model) -> dict[str, Any]:
    counters = model.counters
    return {
        "runs": counters.runs,
        "slow": counters.slow,
        "failed": counters.failed,
        "set_aside": counters.set_aside,
        "slowest_ms": round(counters.slowest_ms, 1),
        "last_reason": counters.last_reason,
    }


def _failed(model: Model) -> str | None:
    """Return why a candidate said nothing, None where it spoke."""
    counters = model.counters
    if not counters.runs:
        return counters.last_reason or "it never ran: no flock was in a house at its times"
    return None


# --- the history ------------------------------------------------------------------------------------------------------


def _history(
    config: Config, houses: Sequence[str], begin: datetime, until: datetime, folder: Path, say: Callable[[str], None]
) -> History:
    first, last = to_ms(begin) // DAY_MS, to_ms(until) // DAY_MS
    objects: dict[int, list[LakeObject]] = defaultdict(list)
    every = lake_objects(config.data.lake, "readings")
    for one in every:
        day = (one.day - date(1970, 1, 1)).days
        if first <= day <= last:
            objects[day].append(one)
    history = History(dict(objects), folder, frozenset(houses), say)
    with StoreReader.open(config.data.house_db) as store:
        ours = [one for one in every if (one.gateway, one.generation) == (store.gateway, store.generation)]
        newest = max((one.first_seq for one in ours), default=store.first_seq("readings"))
        last_seq = store.last_seq("readings")
        # of the newest seal some rows may be in both: the same reading counts once, whatever it is read from
        starts = range(max(newest, store.first_seq("readings")), last_seq + 1, UNSEALED_ROWS)
        history.keep_unsealed(store.rows("readings", n, min(n + UNSEALED_ROWS - 1, last_seq)) for n in starts)
    for path in folder.iterdir():
        if not first <= int(path.name) <= last:
            path.unlink()
    return history


def _commands(
    config: Config, houses: Sequence[str], begin: datetime, told: Exported
) -> list[tuple[datetime, str, FlockCommand]]:
    """Return what was told of flocks since ``begin``, and before it of those that were then there."""
    lives: dict[str, list[dict[str, Any]]] = {house: [] for house in houses}
    seen = set()
    for block in blocks_of(config, "flocks", Selection(), told):
        for row in records_of(block):
            key = (row["at"], row["house"], row["action"], row["detail"])  # two generations may both hold it
            if row["house"] in lives and key not in seen:
                seen.add(key)
                lives[row["house"]].append(row)
    commands = []
    for house, rows in lives.items():
        rows.sort(key=lambda row: row["at"])
        flocks = [row["flock"] for row in rows]
        placed = [i for i, row in enumerate(rows) if row["action"] == "place" and row["flock"] not in flocks[:i]]
        start = max((i for i in placed if rows[i]["at"] <= to_ms(begin)), default=0)
        for row in rows[start:]:
            command = _command(row)
            if command is not None:
                commands.append((from_ms(row["at"]), house, command))
    return sorted(commands, key=lambda command: command[0])


def _command(row: Mapping[str, Any]) -> FlockCommand | None:
    """Return the command that a change came from; None for what time alone brought."""
    if row["action"] == "place":
        facts = {name: row[name] for name in ("flock", "birds_placed", "strain", "sex", "parent_age_weeks")}
        dates = {n: date.fromisoformat(row[n]) for n in ("placed_on", "planned_end_on") if row[n]}
        return Place(action="place", **facts, **dates)
    ended_at = None if row["ended_at"] is None else from_ms(row["ended_at"])
    said = command_of(row, ended_at)
    return None if said is None else parse_flock_command(json.dumps(said))


def _gaps(history: History, houses: Iterable[str], since: datetime, until: datetime) -> list[str]:
    """Return for which days there are no readings, in words."""
    days = range(to_ms(since) // DAY_MS, to_ms(until) // DAY_MS + 1)
    told = []
    for house in houses:
        silent = [day for day in days if not history.heard[house, day]]
        if silent:
            told.append(f"{house}: no readings on {len(silent)} of {len(days)} days ({_spans(silent)})")
    return told


def _rolled_up(config: Config, begin: datetime, until: datetime) -> list[str]:
    """Return for which days the lake holds means only: they are not played."""
    days = {
        (one.day - date(1970, 1, 1)).days
        for stream in ("readings_1min", "readings_15min")
        for one in lake_objects(config.data.lake, stream)
        if begin.date() <= one.day <= until.date()
    }
    return [f"of {_spans(sorted(days))} some readings are kept as means only, and are not played"] if days else []


def _spans(days: Sequence[int]) -> str:
    spans: list[list[int]] = []
    for day in days:
        if spans and day == spans[-1][1] + 1:
            spans[-1][1] = day
        else:
            spans.append([day, day])
    words = [_day(a) if a == b else f"{_day(a)} to {_day(b)}" for a, b in spans[:5]]
    return ", ".join(words) + (f" and {len(spans) - 5} more times" if len(spans) > 5 else "")


def _day(day: int) -> str:
    return datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()


# --- the two held together --------------------------------------------------------------------------------------------


def _compared(
    before: Sequence[_Warning], after: Sequence[_Warning], labels: Sequence[Raised], incumbent: str, since: datetime
) -> dict[str, Any]:
    """Return the warnings that the candidate gained, lost and changed; those of no model are the same for both.

    What rose before ``since``, while the windows filled, counts only beside what rose after it.
    """
    rules = {one.rule for one in after} | {one.rule for one in before if one.model == incumbent}
    old, left = ([one for one in each if one.rule in rules] for each in (before, after))
    counts = {"incumbent": _since(old, since), "candidate": _since(left, since), "same": 0}
    lost, changed = [], []
    for one in old:
        near = [
            (abs(other.raised_at - one.raised_at), number)
            for number, other in enumerate(left)
            if (other.house, other.rule) == (one.house, one.rule)
        ]
        distance, nearest = min(near, default=(SAME_WITHIN * 2, -1))
        if distance > SAME_WITHIN:
            lost += [_row(one, labels)] if one.raised_at >= since else []
            continue
        other = left.pop(nearest)
        if max(one.raised_at, other.raised_at) < since:
            continue
        if distance < CHANGED_BY:
            counts["same"] += 1
        else:
            later_s = (other.raised_at - one.raised_at).total_seconds()
            changed.append({**_row(other, labels), "was_raised_at": iso(one.raised_at), "later_by_s": later_s})
    gained = [_row(one, labels) for one in left if one.raised_at >= since]
    return {**counts, "gained": gained, "lost": lost, "changed": changed}


def _since(warnings: Iterable[_Warning], since: datetime) -> int:
    return sum(one.raised_at >= since for one in warnings)


def _row(one: _Warning, labels: Sequence[Raised]) -> dict[str, Any]:
    said = [
        label.label
        for label in labels
        if label.label
        and (label.house, label.rule) == (one.house, one.rule)
        and abs(label.raised_ms - to_ms(one.raised_at)) <= SAME_WITHIN / timedelta(milliseconds=1)
    ]
    return {
        "house": one.house,
        "flock": one.flock,
        "rule": one.rule,
        "raised_at": iso(one.raised_at),
        "over_at": iso(one.over_at),
        "label": said[-1] if said else None,
        "text": one.text,
    }


def _weights(replay: Replay, incumbent: Bundle | None, candidate: Bundle, since: datetime) -> dict[str, Any]:
    """Return by how much each was off known slaughter weights, by days before."""
    errors: dict[str, dict[int, list[float]]] = {}
    flocks = set()
    shadows = {watch.house: watch for watch in replay.shadows.watches}
    for name, bundle in (("incumbent", incumbent), ("candidate", candidate)):
        errors[name] = defaultdict(list)
        watches = shadows if name == "candidate" else replay.watches
        for house, watch in watches.items():
            for fit in watch.fitness.scored(str(bundle)):
                if fit.updated_ms >= to_ms(since):
                    flocks.add((house, fit.flock))
                    _add_errors(errors[name], fit)
    leads = sorted({lead for each in errors.values() for lead in each})
    return {
        "flocks": len(flocks),
        "leads": {
            str(lead): {
                name: {"mae_pct": round(float(np.mean(np.abs(each[lead]))), 2), "flocks": len(each[lead])}
                for name, each in errors.items()
                if lead in each
            }
            for lead in leads
        },
    }


def _add_errors(errors: dict[int, list[float]], fit: FitFlock) -> None:
    for score in fit.scores:
        if fit.truth_g:
            errors[score.lead_days].append(100 * (score.p50 / fit.truth_g - 1))


def trial_lines(value: Mapping[str, Any]) -> list[str]:
    """Return a trial for people."""
    beside = f"beside {value['incumbent']}" if value["incumbent"] else "alone: none in use does its task"
    warnings, weight = value["warnings"], value["weight"]
    moved = ", ".join(f"{len(warnings[what])} {what}" for what in ("gained", "lost", "changed"))
    moved += f", {warnings['same']} the same"
    lines = [
        f"{value['candidate']} {beside}, in {', '.join(value['houses'])}",
        f"history  {value['since']} to {value['until']}, warmed up from {value['warmed_up_from']}",
        f"played   {value['readings']:,} readings, {value['instants']:,} instants",
        *(f"gap      {gap}" for gap in value["gaps"]),
        *(f"left out {why}" for why in value["left_out"]),
        f"warnings {warnings['incumbent']} of the incumbent, {warnings['candidate']} of the candidate: {moved}",
    ]
    for what in ("gained", "lost", "changed"):
        for one in warnings[what]:
            later_s = one.get("later_by_s", 0.0)
            by = f", {_span(abs(later_s))} {'later' if later_s > 0 else 'earlier'}" if later_s else ""
            label = {"confirm": "; people confirmed it", "reject": "; people rejected it"}.get(one["label"] or "", "")
            lines.append(f"{what:8} {one['raised_at']} {one['house']} {one['rule']}{by}{label}: {one['text']}")
    if weight["flocks"]:
        for lead, of in weight["leads"].items():
            words = ", ".join(f"{name} {of[name]['mae_pct']:g} % ({of[name]['flocks']} flocks)" for name in of)
            lines.append(f"weight   {lead} days before slaughter, mean error: {words}")
    else:
        lines.append("weight   no slaughter weight is known of this time: flockwatch flock end … --slaughter-weight-g")
    lines += [
        f"runs     {model}: {of['runs']:,}, slowest {of['slowest_ms']:g} ms"
        + "".join(f", {of[what]} {what.replace('_', ' ')}" for what in ("slow", "failed", "set_aside") if of[what])
        for model, of in value["runs"].items()
    ]
    if value["failed"]:
        lines.append(f"failed   {value['failed']}")
    return lines


def _span(seconds: float) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds / 60:g} min"
