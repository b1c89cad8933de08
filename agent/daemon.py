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

from agent.alerts import iso
from agent.board import Board
from agent.bundles import find_bundle, load_bundle, shipped_directory
from agent.bus import Bus
from agent.clock import SimulatedClock
from agent.dialects import Decoder, Refusal
from agent.domain import PUBLISHED_STATES, Doubt, Event, SeriesKey, WarningState, from_ms, to_ms
from agent.errors import BrokerError, BundleError, StoreError
from agent.flock import restored
from agent.grid import Grid
from agent.health import Health
from agent.notify import Notifier
from agent.orders import Orders
from agent.peers import Peers
from agent.predict import Predictor
from agent.quality import Known, QualityJudge
from agent.readings import HouseSplitter
from agent.store import Store, is_nearly_full, sync_notes
from agent.topics import Topics
from agent.watch import GRID, HouseWatch, judge_instant
from agent.wear import WearMeter, written_bytes
from agent.window import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType

    from agent.bundles import Bundle
    from agent.clock import Clock
    from agent.config import Config
    from agent.domain import Message, QualityInterval, Standing
    from agent.readings import Readings
    from agent.watch import Outcome

log = logging.getLogger(__name__)

MESSAGES_PER_TURN = 2_000  # the window that is asked of the broker: more are never unacknowledged at once
HEALTH_EVERY_S = 60.0
PRUNE_EVERY_S = 600.0
DEGRADE_EVERY_S = 30.0  # while there is detail to let go of: a little at a time, readings come in between
FORGET_EVERY_S = 3_600.0
BUCKETS_AT_ONCE = 20_000  # of what the windows held, at the start: some 5 MB
LONGEST_BACKLOG = timedelta(days=14)  # as far as the fine steps of the windows reach: older instants have no course
HOLD_S = 5.0  # how long to wait before a store that failed is asked again


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
        self.peers = Peers(config.signal)
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
        targets = {o.target for m in predictor.models if m.manifest.task != "expect" for o in m.manifest.output}
        self.board = Board(bus, self.topics, targets, clock.monotonic())
        self.orders = Orders(config, store, {watch.house: watch for watch in self.watches})
        self._splitter = HouseSplitter()
        self._connection = 0
        self._lost_sessions = 0
        self._held: list[Message] = []  # not acknowledged, because the store failed
        self._stored = 0  # so many of them are in the store already
        self._found: list[QualityInterval] = []  # intervals that the houses have not been told of yet
        self._noticed: list[Event] = []  # intervals of bad quality that are not recorded yet
        self._held_until = 0.0
        self._unrecorded: deque[_Instant] = deque()
        self._answers: list[tuple[str, bytes]] = []
        self._requests: dict[str, bytes] = {}  # of the decoder, to senders: the last one on each topic
        self._health_due = self._prune_due = self._forget_due = clock.monotonic()
        self._wear = WearMeter()
        self._observed_seq = 0
        self.grid = self._restore()
        for refused in predictor.refused:
            self.degrade(f"model {refused.bundle}", refused.reason)

    def _restore(self) -> Grid:
        """Take back what was known before the restart, and see again what the windows had not been told of."""
        known = self.store.restore()
        self._wear = WearMeter.restored(known.wear)
        for watch in self.watches:
            life = restored(known.houses.get(watch.house))
            standings = [standing for standing in known.standings if standing.house == watch.house]
            watch.restore(life, standings, _of(watch.house, known.rhythms), _of(watch.house, known.newest_ms))
        while buckets := [Bucket(*row) for row in islice(known.buckets, BUCKETS_AT_ONCE)]:
            for watch in self.watches:
                watch.window.load(buckets)
        for key in known.newest_ms:
            self.decoder.guard.admit(*key)
        self.decoder.restore(known.births)
        self._observed_seq = known.observed_seq
        self.quality.restore(Known(known.rhythms, known.newest_ms, _stuck(known.standings)))
        self.peers.restore(_doubted(known.standings))
        for watch in self.watches:
            watch.doubt(self.peers.doubts())
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
        self._found += intervals
        self._noticed += [_interval_event(interval, now) for interval in intervals]
        stored = self.store.append(
            readings, rejected=decoded.rejected, arrivals=decoded.arrivals, births=decoded.births, at_ms=to_ms(now)
        )
        self._requests.update(decoded.requests)
        self._stored = len(messages)
        return stored

    def _observe(self, readings: Readings) -> None:
        if readings.last_seq:
            self._observed_seq = max(self._observed_seq, readings.last_seq)
        monotonic = self.clock.monotonic()
        self.peers.hear(readings)
        shares = self._splitter.split(readings)
        for watch in self.watches:
            if watch.house in shares:
                watch.observe(shares[watch.house], monotonic)
            watch.note(self._found)
        self._found = []

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
            self._compare(at)
            outcomes = judge_instant(self.watches, self.predictor, at, monotonic)
            self.health.instants_judged += 1
            self._unrecorded.append(_Instant(at, outcomes, self._changed_buckets(), self._observed_seq))
            for outcome in outcomes:
                self.board.note(outcome)
                _log(outcome)

    def _compare(self, at: datetime) -> None:
        """Hold sensors against their peers; the houses' models do without those that are not believed."""
        ages = {watch.house: watch.day_number(at) for watch in self.watches}
        self._noticed += [_interval_event(interval, at) for interval in self.peers.compare(at, ages)]
        doubts = self.peers.doubts()
        for watch in self.watches:
            watch.doubt(doubts)

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
        self.degrade("broker", self.bus.last_error)
        self._note_lost_sessions()
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

    def _note_lost_sessions(self) -> None:
        """Record it for good where the broker has lost what it held for us: readings that are missing have a cause."""
        lost = self.bus.counters.lost_sessions
        if lost > self._lost_sessions:
            detail: dict[str, object] = {"reason": "the broker has lost what it took for us while we were away"}
            self._noticed.append(Event(self.clock.now(), "session_lost", detail=detail))
        self._lost_sessions = lost

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
            answer = self.orders.obey(place, message, self.clock.now())
            self._answers.append((message.topic.removesuffix("command") + "response", answer.encode()))

    # --- what others see

    def _publish(self) -> None:
        """Publish what changed; after a new connection everything, as the broker may have forgotten."""
        monotonic = self.clock.monotonic()
        anew = self.bus.connection != self._connection
        if self.bus.is_connected:  # commands may reach us before our subscriptions are confirmed: their answers wait
            for topic, payload in (*self._answers, *self._requests.items()):
                self.bus.publish(topic, payload, retain=False)
            self._answers.clear()
            self._requests.clear()
        if not self.grid.is_behind:  # else what stands is history, and history raises no stale alert
            self._connection = self.bus.connection
            self.board.show(self.watches, self.grid.last, monotonic, anew=anew)
        if anew or monotonic >= self._health_due:
            self._health_due = monotonic + HEALTH_EVERY_S
            value = self.health_value("online")
            self.bus.publish(self.topics.health, json.dumps(value).encode(), retain=True)
            self.store.record(health=value, wear=self._wear.kept())
        if monotonic >= self._prune_due:
            self._tidy(monotonic)

    def _tidy(self, monotonic: float) -> None:
        """Let go of what is sealed and old; where nobody seals, and it must be, of detail."""
        now, settings, data = self.clock.now(), self.config.store, self.config.data
        self.store.prune(now, keep_hours=settings.keep_hours, max_size_mb=settings.hot_size_mb)
        because = self.store.degrade(
            now,
            monotonic,
            keep_hours=settings.keep_hours,
            max_size_mb=settings.unsealed_size_mb,
            is_short=is_nearly_full(data.directory),
        )
        if monotonic >= self._forget_due and self.clock.is_trusted():
            self.store.forget(now, keep_days=settings.keep_days)
            self._forget_due = monotonic + FORGET_EVERY_S
        self._prune_due = monotonic + (PRUNE_EVERY_S if because is None else DEGRADE_EVERY_S)
        self.degrade("history", because and f"{because}: old readings are kept by the quarter of an hour only")
        self.degrade("disk", sync_notes(data.sync_db).get("full"))
        self._wear.note(written_bytes(), monotonic, now.date())

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
                "wear": {"bytes_per_day": self._wear.bytes_per_day()},
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


def _doubted(standings: Sequence[Standing]) -> dict[SeriesKey, Doubt]:
    """Return the sensors that were not believed because of their peers."""
    return {
        SeriesKey(standing.house, standing.rule.partition("-")[2]): Doubt(to_ms(standing.since), standing.evidence.why)
        for standing in standings
        if standing.rule.startswith("disagree-") and standing.state is not WarningState.NORMAL
        if standing.since is not None and standing.evidence is not None
    }


def _log(outcome: Outcome) -> None:
    for event in outcome.warnings:
        if event.standing.state in PUBLISHED_STATES or event.before in PUBLISHED_STATES:
            log.info("%s %s: %s; %s", event.standing.house, event.standing.rule, event.standing.state, event.text)


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
        bus = Bus(
            *(config.mqtt, config.client_id, subscriptions),
            health_topic=topics.health,
            clock=clock,
            was_here=store.last_seq > 0,
        )
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
