"""The agent's composition root: everything is wired here in one line, and ``turn`` is the program at a glance."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import signal
from collections import deque
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from agent.alerts import alert, iso
from agent.bundles import find_bundle, load_bundle, shipped_directory
from agent.bus import Bus
from agent.clock import SimulatedClock
from agent.commands import parse_flock_command, parse_warning_command
from agent.dialects import Decoder, Refusal
from agent.domain import PUBLISHED_STATES, Event, SeriesKey, WarningState, from_ms, to_ms
from agent.errors import BrokerError, BundleError, InputError, StoreError
from agent.flock import day_number, restored
from agent.health import Health
from agent.notify import Notifier
from agent.predict import Predictor
from agent.quality import Known, QualityJudge
from agent.store import Store
from agent.strains import is_known, strain_of
from agent.watch import GRID, HouseWatch, judge_instant
from agent.window import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType

    from agent.bundles import Bundle
    from agent.clock import Clock
    from agent.config import Config
    from agent.domain import FlockChange, Message, Prediction, Standing, WarningEvent
    from agent.quality import QualityInterval
    from agent.readings import Readings
    from agent.watch import Outcome

log = logging.getLogger(__name__)

MESSAGES_PER_TURN = 2_000  # the window that is asked of the broker: more are never unacknowledged at once
INSTANTS_PER_TURN = 24  # four hours of backlog are judged between two acknowledgements
HEARTBEAT_S = 60.0  # real time: a reader takes a severity that is older than 180 s as unknown
PRUNE_EVERY_S = 600.0
REPEATED_WITHIN_S = 60.0  # a command without id that says the same again so soon is the same
BUCKETS_AT_ONCE = 20_000  # of what the windows held, at the start: some 5 MB
PATIENCE_S = 60.0  # real time that all wait for a house whose readings lag: its clock may be wrong for ever
LONGEST_BACKLOG = timedelta(days=14)  # as far as the fine steps of the windows reach: older instants have no course
HOLD_S = 5.0  # how long to wait before a store that failed is asked again
_GRID_MS = int(GRID / timedelta(milliseconds=1))


class Grid:
    """The instants of event time at which everything is judged, each once."""

    def __init__(self, last: datetime) -> None:
        self.last = from_ms(to_ms(last) // _GRID_MS * _GRID_MS)
        self.is_behind = False  # more is due than one turn may judge: what stands now is history
        self._lagging: set[str] = set()  # houses that are not waited for, until they are ready by themselves
        self._waiting_since: float | None = None

    def due(self, now: datetime, watches: Sequence[HouseWatch], monotonic: float) -> Iterator[datetime]:
        """Yield the instants up to ``now`` that every house is ready for, a limited number at a time."""
        self.is_behind = False
        for _ in range(INSTANTS_PER_TURN):
            at = self.last + GRID
            if at > now or not self._is_time(at, watches, monotonic):
                return
            self.last = at
            yield at
        self.is_behind = self.last + GRID <= now

    def _is_time(self, at: datetime, watches: Sequence[HouseWatch], monotonic: float) -> bool:
        """Tell whether all houses are ready for ``at``; one whose clock is wrong holds up the others only once."""
        waiting = {watch.house for watch in watches if not watch.is_ready(at, monotonic)}
        self._lagging = {w.house for w in watches if w.house in self._lagging and not w.is_ready(self.last, monotonic)}
        if waiting <= self._lagging:
            self._waiting_since = None
            return True
        if self._waiting_since is None:
            self._waiting_since = monotonic
        if monotonic - self._waiting_since < PATIENCE_S:
            return False
        self._lagging, self._waiting_since = waiting, None
        return True


class Topics:
    """The topics that the agent speaks on and listens to."""

    def __init__(self, prefix: str, site: str) -> None:
        self._root = f"{prefix}/{site}"
        self.health = f"{self._root}/health"
        self.commands = (f"{self._root}/+/flock/command", f"{self._root}/+/warning/+/command")

    def warning(self, house: str, rule: str) -> str:
        """Return where the alert of one rule stands."""
        return f"{self._root}/{house}/warning/{rule}"

    def severity(self, house: str) -> str:
        """Return where the worst severity of a house stands."""
        return f"{self._root}/{house}/severity"

    def prediction(self, house: str, target: str) -> str:
        """Return where the newest prediction of a target stands."""
        return f"{self._root}/{house}/prediction/{target}"

    def command(self, topic: str) -> list[str] | None:
        """Return what a command's topic names after the site: ``[house, "flock"]`` or ``[house, "warning", rule]``."""
        if not topic.startswith(self._root + "/") or not topic.endswith("/command"):
            return None
        place = topic[len(self._root) + 1 :].split("/")[:-1]
        return place if place[1:] == ["flock"] or (len(place) == 3 and place[1] == "warning") else None


class Agent:
    """The parts, and the loop that takes them through one turn after another."""

    def __init__(
        self, config: Config, clock: Clock, store: Store, bus: Bus, predictor: Predictor, decoder: Decoder
    ) -> None:
        self.config = config
        self.clock = clock
        self.store = store
        self.bus = bus
        self.predictor = predictor
        self.decoder = decoder
        self.topics = Topics(config.mqtt.topic_prefix, config.site.id)
        self.health = Health(clock.now())
        self.quality = QualityJudge(config.signal)
        self.watches = [
            HouseWatch(
                house.id,
                signal=config.signal,
                days=config.site.days,
                manifests=[model.manifest for model in predictor.models],
                overrides=config.warnings.rules,
                rhythm_s=self.quality.rhythm_s,
                started_monotonic=clock.monotonic(),
            )
            for house in config.house
        ]
        self._watch_of = {watch.house: watch for watch in self.watches}
        self._shown: dict[str, bytes] = {}  # our retained topics as we last published them
        self._connection = 0
        self._held: list[Message] = []  # not acknowledged, because the store failed
        self._stored = 0  # so many of them are in the store already
        self._noticed: list[Event] = []  # intervals of bad quality that are not recorded yet
        self._held_until = 0.0
        self._unrecorded: deque[_Instant] = deque()
        self._last_command: tuple[str, bytes, float, str] | None = None
        self._answers: list[tuple[str, bytes]] = []
        self._predicted: dict[str, bytes] = {}
        self._targets = {
            output.target for m in predictor.models if m.manifest.task != "expect" for output in m.manifest.output
        }
        self._heartbeat_due = self._health_due = self._prune_due = clock.monotonic()
        self._observed_seq = 0
        self.grid = self._restore()
        for refused in predictor.refused:
            self.degrade(f"model {refused.bundle}", refused.reason)

    def _restore(self) -> Grid:
        """Take back what was known before the restart, and see again what the windows had not been told of."""
        known = self.store.restore()
        for watch in self.watches:
            life = restored(known.houses.get(watch.house))
            standings = [standing for standing in known.standings if standing.house == watch.house]
            watch.restore(life, standings, _of(watch.house, known.rhythms), _of(watch.house, known.newest_ms))
        while buckets := [Bucket(*row) for row in islice(known.buckets, BUCKETS_AT_ONCE)]:
            for watch in self.watches:
                watch.window.load(buckets)
        for key in known.newest_ms:
            self.decoder.guard.admit(*key)
        self._observed_seq = known.observed_seq
        self.quality.restore(Known(known.rhythms, known.newest_ms, _stuck(known.standings)))
        for readings in known.newer:
            self._observe(readings)
        self._grid_is_set = known.judged_at is not None or self.clock.is_trusted()
        return Grid(known.judged_at or self.clock.now())

    # --- the loop

    def turn(self, messages: Sequence[Message]) -> None:
        """Take what came in through the whole program, once."""
        readings = self._append(messages)  # one transaction, on the disk when it returns; only new rows come back
        self._observe(readings)  # each house takes what is its own
        self._obey(messages)
        if self.bus.acknowledge(messages):  # only now may the broker forget them
            self.store.acknowledged()
        self._held, self._stored = [], 0  # whatever fails from here on, these need not be taken again
        self._judge()  # every grid instant since the last one, live and backlog alike
        self._record()  # predictions, transitions and windows of each instant, one transaction
        self._publish()  # retained: the final state, not history

    def _append(self, messages: Sequence[Message]) -> Readings:
        # of messages that were held, the first ones may be stored already: by the time of arrival they look new
        sensors = [message for message in messages[self._stored :] if self.topics.command(message.topic) is None]
        decoded = self.decoder.decode(
            sensors, clock_trusted=self.clock.is_trusted(), is_redelivered=self.store.is_redelivered
        )
        for refusal, count in decoded.counts.items():
            if refusal is Refusal.RETAINED:
                self.health.retained_ignored += count
            else:
                self.health.rejected[str(refusal)] += count
        now = self.clock.now()
        readings, intervals = self.quality.judge(decoded.readings)
        self._noticed += [_interval_event(interval, now) for interval in intervals]
        stored = self.store.append(readings, rejected=decoded.rejected, arrivals=decoded.arrivals, at_ms=to_ms(now))
        self._stored = len(messages)
        return stored

    def _observe(self, readings: Readings) -> None:
        if readings.last_seq:
            self._observed_seq = max(self._observed_seq, readings.last_seq)
        monotonic = self.clock.monotonic()
        for watch in self.watches:
            watch.observe(readings, monotonic)

    def _judge(self) -> None:
        if not self.clock.is_trusted():
            return  # nobody knows what time it is; what comes in is stored, and judged when somebody does
        now = self.clock.now()
        if not self._grid_is_set:  # the first start was in 1970: nothing to judge between then and now
            self.grid, self._grid_is_set = Grid(now), True
        elif self.grid.last > now + GRID:
            self._restart_grid(now, "was ahead of the clock, which has been set back")
        elif now - self.grid.last > LONGEST_BACKLOG:
            self._restart_grid(now - LONGEST_BACKLOG, "was further behind than the windows reach")
        monotonic = self.clock.monotonic()
        for at in self.grid.due(self.clock.now(), self.watches, monotonic):
            outcomes = judge_instant(self.watches, self.predictor, at, monotonic)
            self.health.instants_judged += 1
            self._unrecorded.append(_Instant(at, outcomes, self._changed_buckets(), self._observed_seq))
            for outcome in outcomes:
                self._predicted.update(self._prediction_payloads(outcome))
                _log(outcome)

    def _restart_grid(self, at: datetime, why: str) -> None:
        """Judge on from another instant; nothing is deleted, and what is skipped is said."""
        detail: dict[str, object] = {"reason": f"the judgement {why}"}
        self._noticed.append(Event(self.clock.now(), "grid_restarted", None, None, self.grid.last, at, detail))
        log.warning("judging on from %s: it %s (judged up to %s)", iso(at), why, iso(self.grid.last))
        self.grid = Grid(at)

    def _changed_buckets(self) -> list[Bucket]:
        return [bucket for watch in self.watches for bucket in watch.window.take_changed()]

    def _record(self) -> None:
        """Store what was judged; what the store refuses is kept and tried again with the next turn."""
        if self._noticed:
            self.store.record(events=self._noticed)
            self._noticed = []
        while self._unrecorded:
            judged = self._unrecorded[0]
            self.store.record(
                warnings=[event for outcome in judged.outcomes for event in outcome.warnings],
                standings=[standing for outcome in judged.outcomes for standing in outcome.standings],
                predictions=[prediction for outcome in judged.outcomes for prediction in outcome.predictions],
                flock_changes=[change for outcome in judged.outcomes for change in outcome.changes],
                buckets=judged.buckets,
                rhythms=self.quality.rhythms_s(),  # also of sensors that no model reads: their silence is judged
                judged_at=judged.at,
                observed_seq=judged.observed_seq,
                health=self.health_value("online") if len(self._unrecorded) == 1 else None,
            )
            self._unrecorded.popleft()

    def turn_or_hold(self, messages: Sequence[Message]) -> None:
        """Take a turn; where the store fails, hold the messages unacknowledged: the broker keeps the rest."""
        room = MESSAGES_PER_TURN - len(self._held)  # of what needs no acknowledgement, nobody else bounds what is held
        kept = [message for number, message in enumerate(messages) if message.qos > 0 or number < room]
        self.health.dropped_qos0 += len(messages) - len(kept)
        self._held += kept
        self.degrade("broker", None if self.bus.is_connected else self.bus.last_error)
        if self.clock.monotonic() < self._held_until:
            return
        try:
            self.turn(self._held)
        except StoreError as e:
            self._held_until = self.clock.monotonic() + HOLD_S
            self.degrade("store", str(e))
        else:
            self._held = []
            self.degrade("store", None)
        self.health.turns += 1

    def farewell(self) -> None:
        """Leave word in the store that the agent was ended, and did not die."""
        self.store.record(health=self.health_value("stopped"))

    # --- commands

    def _obey(self, messages: Sequence[Message]) -> None:
        """Do what was asked; what was done and its answer are stored together before the command is acknowledged."""
        for message in messages:
            place = self.topics.command(message.topic)
            if place is None:
                continue
            if message.retain:  # an old command that somebody left at the broker
                self.health.retained_ignored += 1
                continue
            answer = self._answer(place, message)
            self._answers.append((message.topic.removesuffix("command") + "response", answer.encode()))

    def _answer(self, place: list[str], message: Message) -> str:
        command_id = _id_in(message.payload)
        if command_id is not None:
            known = self.store.answer_of(command_id)
            if known is not None:
                return known
        last = self._last_command
        repeats = command_id is None and last is not None and last[:2] == (message.topic, message.payload)
        if repeats and last is not None and message.received_monotonic - last[2] < REPEATED_WITHIN_S:
            return last[3]
        watch = self._watch_of.get(place[0])
        before = None if watch is None else watch.told()
        try:
            done = self._do(place, message.payload)
            answer = {"id": command_id, "ok": True, **done.answer}
        except InputError as e:
            done = _Done({})
            answer = {"id": command_id, "ok": False, "error": str(e)}
        text = json.dumps(answer)
        try:
            self.store.record(
                flock_changes=done.changes,
                warnings=done.warnings,
                standings=[event.standing for event in done.warnings],
                commands=[] if command_id is None else [(command_id, message.topic, text)],
            )
        except StoreError:
            if watch is not None and before is not None:
                watch.take_back(before)  # not stored is not done: it comes again
            raise
        self._last_command = (message.topic, message.payload, message.received_monotonic, text)
        return text

    def _do(self, place: list[str], payload: bytes) -> _Done:
        watch = self._watch_of.get(place[0])
        if watch is None:
            message = f"house {place[0]!r} is not in the configuration; add a [[house]] with this id to agent.toml"
            raise InputError(message)
        now = self.clock.now()
        if place[1:] == ["flock"]:
            change = watch.apply(parse_flock_command(payload), now)
            return _Done({"done": change.action, **_life(change, self.config)}, changes=(change,))
        event = watch.command(place[2], parse_warning_command(payload), now)
        return _Done({"done": event.reason.value, "state": event.standing.state.value}, warnings=(event,))

    # --- what others see

    def _publish(self) -> None:
        """Publish what changed; after a new connection everything, as the broker may have forgotten."""
        monotonic = self.clock.monotonic()
        anew = self.bus.connection != self._connection
        if self.bus.is_connected:  # commands may reach us before our subscriptions are confirmed: their answers wait
            for topic, payload in self._answers:
                self.bus.publish(topic, payload, retain=False)
            self._answers.clear()
        if not self.grid.is_behind:  # else what stands is history, and history raises no stale alert
            self._connection = self.bus.connection
            self._show(monotonic, anew=anew)
        if anew or monotonic >= self._health_due:
            self._health_due = monotonic + HEARTBEAT_S
            value = self.health_value("online")
            self.bus.publish(self.topics.health, json.dumps(value).encode(), retain=True)
            self.store.record(health=value)
        if monotonic >= self._prune_due:
            self._prune_due = monotonic + PRUNE_EVERY_S
            settings = self.config.store
            self.store.prune(self.clock.now(), keep_hours=settings.keep_hours, max_size_mb=settings.max_size_mb)

    def _show(self, monotonic: float, *, anew: bool) -> None:
        """Bring the retained topics to what stands now."""
        for topic, payload in self._wanted().items():
            if anew or self._shown.get(topic) != payload:
                self.bus.publish(topic, payload, retain=True)
                self._shown[topic] = payload
        self._clear(anew=anew)
        if monotonic >= self._heartbeat_due:
            self._heartbeat_due = monotonic + HEARTBEAT_S
            for watch in self.watches:
                self.bus.publish(self.topics.severity(watch.house), b"%d" % watch.severity(), retain=True)

    def _wanted(self) -> dict[str, bytes]:
        """Return every retained topic that should stand now, with its payload."""
        wanted = dict(self._predicted)
        at = self.grid.last
        for watch in self.watches:
            if watch.life.flock is None:
                for target in self._targets:  # of birds that are gone nothing is to be expected
                    wanted[self.topics.prediction(watch.house, target)] = b""
            wanted[self.topics.severity(watch.house)] = b"%d" % watch.severity()
            for event in watch.shown(at):
                wanted[self.topics.warning(watch.house, event.standing.rule)] = json.dumps(alert(event)).encode()
        return wanted

    def _clear(self, *, anew: bool) -> None:
        """Say once that a warning is over, then empty its topic; after a new connection, empty all that should be."""
        for watch in self.watches:
            for rule in watch.over():
                topic = self.topics.warning(watch.house, rule)
                if self._shown.pop(topic, None) is not None:
                    last_word = json.dumps(alert(watch.last_word(rule, self.grid.last))).encode()
                    self.bus.publish(topic, last_word, retain=True)
                    self.bus.publish(topic, b"", retain=True)
                elif anew:
                    self.bus.publish(topic, b"", retain=True)

    def _prediction_payloads(self, outcome: Outcome) -> dict[str, bytes]:
        """Return the newest predictions of a house, one payload for each target."""
        by_target: dict[str, list[Prediction]] = {}
        for prediction in outcome.predictions:
            by_target.setdefault(prediction.target, []).append(prediction)
        return {
            self.topics.prediction(outcome.house, target): json.dumps(_prediction_value(made)).encode()
            for target, made in by_target.items()
        }

    def degrade(self, what: str, why: str | None) -> None:
        """Set or lift a degraded state, and say so once."""
        if self.health.degrade(what, why):
            if why is None:
                log.info("%s: well again", what)
            else:
                log.warning("%s: %s", what, why)

    def health_value(self, state: str) -> dict[str, object]:
        """Return how the agent is, for the health topic, the store and ``status``."""
        now = self.clock.now()
        self.health.unknown_houses = set(self.decoder.guard.unconfigured_houses)
        self.health.unknown_signals = {f"{key.house}/{key.signal}" for key in self.decoder.guard.unknown_signals}
        counters = self.store.counters
        houses = {
            watch.house: {
                "state": watch.life.state.value,
                "flock": None if watch.life.flock is None else watch.life.flock.flock,
                "day_number": watch.day_number(now),
                "severity": int(watch.severity()),
                "last_reading_at": iso(watch.last_reading_at()),
            }
            for watch in self.watches
        }
        gaps = [
            {"house": i.key.house, "signal": i.key.signal, "since": iso(from_ms(i.from_ms)), "what": i.reason}
            for i in self.quality.open_intervals(to_ms(now))
        ]
        return self.health.value(
            at=now,
            state=state,
            gaps=gaps,
            parts={
                "version": importlib.metadata.version("flockwatch"),
                "gateway": self.store.gateway,
                "clock_trusted": self.clock.is_trusted(),
                "judged_at": iso(self.grid.last),
                "readings": asdict(counters),
                "broker": {
                    "connected": self.bus.is_connected,
                    "last_error": self.bus.last_error,
                    **asdict(self.bus.counters),
                },
                "houses": houses,
                "models": {str(model): asdict(model.counters) for model in self.predictor.models},
            },
        )


@dataclass(frozen=True, slots=True)
class _Instant:
    """What one grid instant brought, and the windows as they then were."""

    at: datetime
    outcomes: list[Outcome]
    buckets: list[Bucket]
    observed_seq: int


_T = TypeVar("_T")


def _of(house: str, series: Mapping[SeriesKey, _T]) -> dict[str, _T]:
    return {key.signal: value for key, value in series.items() if key.house == house}


def _stuck(standings: Sequence[Standing]) -> dict[SeriesKey, tuple[int, float]]:
    """Return the sensors that were stuck, since when and at which value: a restart does not free them."""
    return {
        SeriesKey(standing.house, standing.rule.partition("-")[2]): (to_ms(standing.since), standing.evidence.actual)
        for standing in standings
        if standing.rule.startswith("stuck-") and standing.state is not WarningState.NORMAL
        if standing.since is not None and standing.evidence is not None and standing.evidence.actual is not None
    }


def _log(outcome: Outcome) -> None:
    for event in outcome.warnings:
        if event.standing.state in PUBLISHED_STATES or event.before in PUBLISHED_STATES:
            log.info("%s %s: %s; %s", event.standing.house, event.standing.rule, event.standing.state, event.text)


@dataclass(frozen=True, slots=True)
class _Done:
    """What a command did."""

    answer: dict[str, object]
    changes: tuple[FlockChange, ...] = ()
    warnings: tuple[WarningEvent, ...] = ()


def _life(change: FlockChange, config: Config) -> dict[str, object]:
    flock = change.flock
    if flock is None:
        return {"state": change.state.value, "flock": None}
    curve = strain_of(flock.strain).name
    return {
        "state": change.state.value,
        "flock": flock.flock,
        "day_number": day_number(flock, change.at, config.site.days),
        "birds_placed": flock.birds_placed,
        **({} if is_known(flock.strain) else {"note": f"no curve of {flock.strain!r} is known: {curve}'s is used"}),
    }


def _id_in(payload: bytes) -> str | None:
    """Return the ``id`` of a command, even of one that is wrong in another way, so that its answer finds its asker."""
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):  # a thousand brackets
        return None
    found = document.get("id") if isinstance(document, dict) else None
    # as long as commands allow; and half a surrogate pair, which JSON can hold, can neither be stored nor sent
    return found if isinstance(found, str) and 0 < len(found) <= 128 and found.isprintable() else None


def _prediction_value(made: Sequence[Prediction]) -> dict[str, object]:
    first = made[0]
    return {
        "target": first.target,
        "house": first.house,
        "flock": first.flock,
        "day_number": first.day_number,
        "made_at": iso(first.made_at),
        "model": first.model,
        "model_version": first.model_version,
        "coverage": round(first.coverage, 3),
        "horizons": [
            {
                "horizon": p.horizon,
                "target_at": iso(p.target_at),
                "p10": round(p.p10, 1),
                "p50": round(p.p50, 1),
                "p90": round(p.p90, 1),
            }
            for p in made
        ],
    }


def _interval_event(interval: QualityInterval, at: datetime) -> Event:
    return Event(
        at,
        "quality",
        interval.key.house,
        interval.key.signal,
        from_ms(interval.from_ms),
        None if interval.to_ms is None else from_ms(interval.to_ms),
        {"quality": interval.quality.name.lower(), "reason": interval.reason},
    )


def run(config: Config, clock: Clock) -> int:
    """Run the agent until it is told to stop; return its exit code."""
    stop = Stop()
    with ExitStack() as stack:
        notifier = Notifier(os.environ)
        store = stack.enter_context(Store.open(config.data.house_db, sync_db=config.data.sync_db))
        days = config.site.days
        bundles, missing = _bundles(config)
        predictor = Predictor.load(bundles, days, config.models.threads)
        decoder = Decoder(config)
        topics = Topics(config.mqtt.topic_prefix, config.site.id)
        subscriptions = [*decoder.subscriptions, *((topic, 1) for topic in topics.commands)]
        bus = Bus(config.mqtt, config.client_id, subscriptions, health_topic=topics.health, clock=clock)
        agent = Agent(config, clock, store, bus, predictor, decoder)
        for wanted, why in missing.items():
            agent.degrade(f"model {wanted}", why)
        if isinstance(clock, SimulatedClock):
            agent.degrade("clock", f"simulated ({clock}); remove {config.data.clock_file} to run in real time")
        start: dict[str, object] = {
            "version": importlib.metadata.version("flockwatch"),
            "clock_trusted": clock.is_trusted(),
        }
        store.record(events=[Event(clock.now(), "start", detail=start)])
        stop.listen(bus.wake)
        stack.callback(bus.close)
        bus.connect()
        notifier.ready()
        log.info("watching %d houses of %s", len(agent.watches), config.site.id)
        while not stop.asked:
            agent.turn_or_hold(bus.receive(config.store.commit_interval_s, MESSAGES_PER_TURN))
            notifier.watchdog()
            if (deaf := bus.unhealthy()) is not None:
                message = f"{deaf}; the agent ends, so that it is started again"
                raise BrokerError(message)
        notifier.stopping()
        agent.farewell()
    return 0


def _bundles(config: Config) -> tuple[list[Bundle], dict[str, str]]:
    """Return the bundles that are complete, and why the others are not: a bad model stops nothing else."""
    bundles, missing = [], {}
    for wanted in config.models.use:
        try:
            root = config.models.directory or shipped_directory()
            bundles.append(load_bundle(find_bundle(root, wanted)))
        except BundleError as e:
            missing[wanted] = str(e)
    return bundles, missing


class Stop:
    """SIGTERM and SIGINT: the first finishes the turn, the second leaves at once."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self, wake: Callable[[], None]) -> None:
        """Take the signals; ``wake`` ends the wait of the loop."""

        def ask(number: int, _frame: FrameType | None) -> None:
            if self.asked:
                os._exit(128 + number)
            self.asked = True
            wake()

        signal.signal(signal.SIGTERM, ask)
        signal.signal(signal.SIGINT, ask)
