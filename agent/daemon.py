"""The agent's composition root: everything is wired here in one line, and ``turn`` is the program at a glance."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import signal
from collections import deque
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from agent.alerts import iso
from agent.board import Board
from agent.bundles import find_bundle, load_bundle, shipped_directory
from agent.bus import Bus
from agent.calibration import Calibration
from agent.clock import SimulatedClock
from agent.dialects import Decoder, Refusal
from agent.domain import (
    PUBLISHED_STATES,
    About,
    Doubt,
    Event,
    FlockChange,
    SeriesKey,
    Severity,
    WarningState,
    from_ms,
    to_ms,
)
from agent.drill import Drills
from agent.errors import BrokerError, BundleError, StoreDamaged, StoreError, StoreFull
from agent.flock import restored
from agent.grid import Grid
from agent.health import Health
from agent.home import Home
from agent.judge import STALE
from agent.keeper import Keeper, opened
from agent.languages import msg
from agent.notify import Notifier
from agent.orders import Orders
from agent.peers import Peers
from agent.predict import Predictor
from agent.probe import WITHIN_S, rehearse
from agent.quality import Known, QualityJudge
from agent.readings import EMPTY, HouseSplitter, joined
from agent.receipts import Receipts
from agent.shadow import Shadows
from agent.site import RECEIPT, SITE, STORE, SiteWarnings, Trouble
from agent.store import PRUNE_ROWS, RESERVE_BYTES, is_nearly_full, sync_notes
from agent.telling import Telling
from agent.timekeeper import Timekeeper, steady
from agent.topics import Topics
from agent.watch import GRID, HouseWatch, judge_instant
from agent.wear import WearMeter, written_bytes
from agent.window import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import FrameType

    from agent.bundles import Bundle
    from agent.clock import Clock
    from agent.config import Config
    from agent.domain import Message, QualityInterval, Standing, WarningEvent
    from agent.readings import Readings
    from agent.store import Restored, Store, Unstored
    from agent.watch import Outcome

log = logging.getLogger(__name__)

MESSAGES_PER_TURN = 2_000  # the window that is asked of the broker: more are never unacknowledged at once
HEALTH_EVERY_S = 60.0
PRUNE_EVERY_S = 600.0
DEGRADE_EVERY_S = 30.0  # while there is detail to let go of: a little at a time, readings come in between
PRUNE_ON_S = 5.0  # where there is more to prune: half a second of work each time
FORGET_EVERY_S = 3_600.0
BUCKETS_AT_ONCE = 20_000  # of what the windows held, at the start: some 5 MB
AHEAD_MS = 86_400_000  # what is dated further ahead of its arrival is stored, and not observed
OBSERVE_AT_ONCE = 5_000  # readings that wait for the houses to observe them, and for how long
OBSERVE_WITHIN_S = 5.0
JUDGE_WITHIN_S = 10.0  # of real time; then the next turn goes on with a backlog: the watchdog waits for 60
LONGEST_BACKLOG = timedelta(days=14)  # as far as the fine steps of the windows reach: older instants have no course
START_LONGER_S = 2 * WITHIN_S + 60.0  # for each foreign bundle: it is tried, then loaded; then the rest of the start
DRILLS = "drills"  # how the last drill of each house went
SHOWN, HOME = "shown", "home"  # what the store keeps of our retained topics, and of Home Assistant's
HOLD_S = 5.0  # how long to wait before a store that failed is asked again
SHOWN_TROUBLES = 5  # of models in houses, in health; `flockwatch model list` shows all
_SAID_ONCE = {"session_lost", "disk_full"}  # events of the gateway, which nothing that comes later would bring again
_NO_RESERVE = f"the disk is full, or nearly: the reserve of {RESERVE_BYTES // 1_000_000} MB is not held; free space"


class Agent:
    """The parts, and the loop that takes them through one turn after another."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        store: Store | Unstored,
        bus: Bus,
        predictor: Predictor,
        decoder: Decoder,
        shadow: Predictor | None = None,
    ) -> None:
        self.config = config
        self.clock = clock
        self.store = store
        self.bus = bus
        self.predictor = predictor
        self.shadow = shadow or Predictor((), (), config.site.days)
        self.decoder = decoder
        self.topics = Topics(config.mqtt.topic_prefix, config.site.id)
        self.health = Health(clock.now())
        self.time = Timekeeper(clock, store, config.site.days)
        self._watch_of: dict[str, HouseWatch] = {}
        self.calibration = Calibration(config.site.days, {house.id: house.facts for house in config.house})
        of_flocks = [m.manifest for m in predictor.models if m.manifest.task not in {"expect", "custom", "cause"}]
        targets = {output.target for manifest in of_flocks for output in manifest.output}
        self.board = Board(bus, self.topics, targets, clock.monotonic())
        self.drills = Drills(config, self.topics, store.kept(DRILLS))
        self.orders = Orders(config, store, self._watch_of, self._begin_sensor_anew, self.calibration, self.drills.ask)
        self.receipts = Receipts(config.controller, [house.id for house in config.house])
        self.telling = Telling(config)
        self.home = Home(config, self.topics, store.kept(HOME), clock.monotonic())
        self._kept = {HOME: "", SHOWN: ""}  # as they were last recorded
        houses = {*(house.id for house in config.house), SITE}
        self.board.know(json.loads(store.kept(SHOWN) or "[]"), houses)
        self._splitter = HouseSplitter()
        self._connection = 0
        self._lost_sessions = 0
        self._held: list[Message] = []  # not acknowledged, because the store failed
        self._stored = 0  # so many of them are in the store already
        self._unobserved: list[Readings] = []  # stored, and all of the same keys
        self._observe_by = 0.0
        self._found: list[QualityInterval] = []  # intervals that the houses have not been told of yet
        self._noticed: list[Event] = []  # intervals of bad quality that are not recorded yet
        self._held_until = 0.0
        self._failing_since: float | None = None  # real time; None while the store serves
        self._damage: str | None = None  # what is wrong with a database that is to be replaced
        self._is_told = True  # the store holds where rules stand and what goes on in the houses
        self._said: list[WarningEvent] = []  # about the gateway, not recorded yet
        self._unrecorded: deque[_Instant] = deque()
        self._answers: list[tuple[str, bytes]] = []
        self._requests: dict[str, bytes] = {}  # of the decoder, to senders: the last one on each topic
        self._is_corrected = False  # readings were dated anew, and the windows do not know it yet
        self._quarantined: list[Path] = []
        self._site_connection = 0
        self._health_due = self._prune_due = self._forget_due = clock.monotonic()
        self._observed_seq = 0
        known = self._begin(self.time.spans_to_rebuild())
        self._wear = WearMeter.restored(known.wear)
        self.decoder.restore(known.births)
        self.site = SiteWarnings(known.standings, self.config.locale())
        self._week = config.site.days.week_of(self.grid.last)  # of the farm, the last that was judged in
        for refused in predictor.refused:
            self.degrade(f"model {refused.bundle}", refused.reason)
        for refused in self.shadow.refused:
            self.degrade(f"shadow {refused.bundle}", refused.reason)

    def _begin(self, again: Sequence[tuple[int, int]] | None) -> Restored:
        """Make what watches the houses, and let it know the past; ``again``: of these times from the readings anew.

        In mid-run, too, when the time was corrected: what else goes on (Sparkplug's numbers, what is said of the
        gateway, what was written to the card) is not touched.
        """
        self._unobserved = []  # they come from the store
        self.quality = QualityJudge(self.config.signal)
        self.peers = Peers(self.config.signal)
        self.watches = [
            HouseWatch(
                house.id,
                signal=self.config.signal,
                days=self.config.site.days,
                manifests=[model.manifest for model in self.predictor.models],
                overrides=self.config.overrides_of(house.id),
                facts=self.config.facts_of(house.id),
                rhythm_s=self.quality.rhythm_s,
                started_monotonic=self.clock.monotonic(),
                references=self.predictor.references(),
                also=[*self.shadow.signals, *self.home.wants],
                calibration=self.calibration,
                called=house.name,
                locale=self.config.locale(house.id),
            )
            for house in self.config.house
        ]
        self.shadows = Shadows(self.config, self.shadow, self.watches)
        self._watch_of.update({watch.house: watch for watch in self.watches})
        known = self.store.restore(again or ())
        self._restore(known)
        if again is not None:
            buckets, observed_seq = self._changed_buckets(), self._observed_seq
            self.store.record(buckets=buckets, observed_seq=observed_seq, windows_rebuilt=True)
        return known

    def _restore(self, known: Restored) -> None:
        """Let the houses know what was known, and see again what the windows had not been told of."""
        self.calibration.learn(known.flocks)
        self.calibration.judge(known.fitness_flocks)
        for watch in self.watches:
            life = restored(known.houses.get(watch.house), known.flocks)
            standings = [standing for standing in known.standings if standing.house == watch.house]
            watch.restore(life, standings, _of(watch.house, known.rhythms), _of(watch.house, known.newest_ms))
            watch.fitness.restore(known.fitness_days, known.fitness_flocks)
            for change in known.services:
                if change.house == watch.house:
                    watch.services.take(change)
        self.shadows.restore(known.shadow_standings, known.fitness_days, known.fitness_flocks)
        while buckets := [Bucket(*row) for row in islice(known.buckets, BUCKETS_AT_ONCE)]:
            for watch in self.watches:
                watch.window.load(buckets)
        for key in known.newest_ms:
            self.decoder.guard.admit(*key)
        self._observed_seq = known.observed_seq
        self.quality.restore(Known(known.rhythms, known.newest_ms, _stuck(known.standings)))
        self.peers.restore(_doubted(known.standings))
        for watch in self.watches:
            watch.doubt(self.peers.doubts())
        for readings in known.newer:
            self._observe(readings)
        self._grid_is_set = known.judged_at is not None or self.clock.is_trusted()
        self.grid = Grid(known.judged_at or self.clock.now())

    # --- the loop

    def turn(self, messages: Sequence[Message]) -> None:
        """Take what came in through the whole program, once."""
        self._keep_time()  # a clock that stepped: what it dated wrongly is dated anew
        readings = self._append(messages)  # one transaction, on the disk when it returns; only new rows come back
        self._wait_or_observe(readings)  # each house takes what is its own, at the latest before it is judged
        self._obey(messages)
        self._hear_answers(messages)
        if self.bus.acknowledge(messages):  # only now may the broker forget them
            self.store.acknowledged()
        self._held, self._stored = [], 0  # whatever fails from here on, these need not be taken again
        self._judge()  # every grid instant since the last one, live and backlog alike
        self._record()  # predictions, transitions and windows of each instant, one transaction
        self._publish()  # retained: the final state, not history

    def _keep_time(self) -> None:
        self.time.turn()
        self._is_corrected = self.time.correct() or self._is_corrected
        if self._is_corrected:
            self._record()
            again = self.time.spans_to_rebuild()
            if again is not None:
                shifts = self.time.take_shifts()
                self.store.record(
                    standings=[shifts.standing(s) for watch in self.watches for s in watch.standings.values()],
                    shadow_standings=[shifts.standing(s) for s in self.shadows.standings()],
                    flock_changes=[
                        told for watch in self.watches for told in watch.retold(watch.services.dated_anew(shifts.of))
                    ],
                )
                self._begin(again)
            self._is_corrected = False
        if not isinstance(self.clock, SimulatedClock):
            self.degrade("clock", self.time.why_degraded())

    def _append(self, messages: Sequence[Message]) -> Readings:
        # of messages that were held, the first ones may be stored already: by the time of arrival they look new
        sensors = [message for message in messages[self._stored :] if not self.topics.is_ours(message.topic)]
        decoded = self.decoder.decode(
            self.time.restamped(sensors),
            clock_trusted=self.clock.is_trusted(),
            clock_sure=self.time.is_sure,
            is_redelivered=self.store.is_redelivered,
        )
        self.time.hear(decoded.readings)
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

    def _wait_or_observe(self, readings: Readings) -> None:
        """Let the houses observe what was stored, that of some turns together.

        What a turn costs each house is more than what its few readings cost. Whoever looks at the windows, an
        instant that is due or a command, lets them observe first; what a crash takes from here is read from the store.
        """
        monotonic = self.clock.monotonic()
        if self._unobserved and readings.keys is not self._unobserved[0].keys:
            self._observe_all()
        if not self._unobserved:
            self._observe_by = monotonic + OBSERVE_WITHIN_S
        if len(readings):
            self._unobserved.append(readings)
        is_many = sum(map(len, self._unobserved)) >= OBSERVE_AT_ONCE
        if is_many or self._found or monotonic >= self._observe_by:
            self._observe_all()

    def _observe_all(self) -> None:
        if self._unobserved or self._found:
            waiting, self._unobserved = self._unobserved, []
            self._observe(joined(waiting) if waiting else EMPTY)

    def _observe(self, readings: Readings) -> None:
        if readings.last_seq:
            self._observed_seq = max(self._observed_seq, readings.last_seq)
        ahead = readings.at_ms > readings.received_ms + AHEAD_MS
        if ahead.any():  # who is wrong is not known yet: seen again when our own clock is corrected
            readings = readings.take(~ahead)
        monotonic = self.clock.monotonic()
        self.peers.hear(readings)
        self.home.hear(readings)
        shares = self._splitter.split(readings)
        for watch in self.watches:
            if watch.house in shares:
                watch.observe(shares[watch.house], monotonic)
            watch.note(self._found)
        self._found = []

    def _judge(self) -> None:
        if not self.time.may_judge():
            return  # nobody knows what time it is; what comes in is stored, and judged when somebody does
        now = self.clock.now()
        if not self._grid_is_set:  # the first start was in 1970: nothing to judge between then and now
            self.grid, self._grid_is_set = Grid(now), True
        elif self.grid.last > now + GRID:
            self._restart_grid(now, "was ahead of the clock, which has been set back")
        elif now - self.grid.last > LONGEST_BACKLOG:
            self._restart_grid(now - LONGEST_BACKLOG, "was further behind than the windows reach")
        if self.grid.last + GRID <= now:
            self._observe_all()
        monotonic = self.clock.monotonic()
        for at in self.grid.due(now, self.watches, monotonic):
            self._compare(at)
            outcomes = judge_instant(self.watches, self.predictor, at, monotonic)
            self.health.instants_judged += 1
            apart = self.shadows.judge(at, monotonic)  # of bundles on trial; nobody is told
            self._unrecorded.append(_Instant(at, outcomes, apart, self._changed_buckets(), self._observed_seq))
            for outcome in outcomes:
                self.board.note(outcome)
                _log(outcome)
            self._see_models()
            if self.clock.monotonic() - monotonic >= JUDGE_WITHIN_S:
                self.grid.pause(now)
                break

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
        before, self.grid = self.grid.last, Grid(at)
        if self.grid.last < before:
            self._set_back(self.grid.last - before)

    def _set_back(self, by: timedelta) -> None:
        """Date what stands by a clock that was set back: until it is as late again, nothing of it would be judged."""
        self._record()
        for watch in (*self.watches, *self.shadows.watches):
            watch.set_back(by)
        self.store.record(
            standings=[standing for watch in self.watches for standing in watch.standings.values()],
            shadow_standings=self.shadows.standings(),
            judged_at=self.grid.last,
        )

    def _changed_buckets(self) -> list[Bucket]:
        return [bucket for watch in self.watches for bucket in watch.window.take_changed()]

    def _record(self) -> None:
        """Store what was judged; what the store refuses is kept and tried again with the next turn."""
        if not self.store.is_lasting:  # what the broker keeps will tell it again, but for what it does not know
            self._noticed = [event for event in self._noticed if event.kind in _SAID_ONCE]
        elif self._noticed or self._said:
            standings = [event.standing for event in self._said]
            self.store.record(events=self._noticed, warnings=self._said, standings=standings)
            self._noticed, self._said = [], []
        while self._unrecorded:
            judged = self._unrecorded[0]
            self.store.record(
                warnings=[event for outcome in judged.outcomes for event in outcome.warnings],
                standings=[standing for outcome in judged.outcomes for standing in outcome.standings],
                predictions=[prediction for outcome in judged.outcomes for prediction in outcome.predictions],
                flock_changes=[change for outcome in judged.outcomes for change in outcome.changes],
                events=[event for outcome in judged.all for event in outcome.events],
                fitness=[fit for outcome in judged.all for fit in outcome.fitness],
                shadow_warnings=[event for outcome in judged.apart for event in outcome.warnings],
                shadow_standings=[standing for outcome in judged.apart for standing in outcome.standings],
                shadow_predictions=[prediction for outcome in judged.apart for prediction in outcome.predictions],
                buckets=judged.buckets,
                rhythms=self.quality.rhythms_s(),  # also of sensors that no model reads: their silence is judged
                judged_at=judged.at,
                observed_seq=judged.observed_seq,
                health=self.health_value("online") if len(self._unrecorded) == 1 else None,
            )
            self._unrecorded.popleft()
        self._sum_up_week()

    def _sum_up_week(self) -> None:
        """Keep what the warnings of a week of the farm came to, once the next one has begun.

        Where a crash comes between, that week has no such event; `flockwatch warning stats` still knows it.
        """
        week = self.config.site.days.week_of(self.grid.last)
        if week == self._week or not self.store.is_lasting:
            return
        before, self._week = self._week, week
        if week > before:
            from agent.tally import week_event  # noqa: PLC0415  # once a week: what it loads is not for every day

            self.store.record(events=[week_event(self.config, before)])

    def turn_or_hold(self, messages: Sequence[Message]) -> None:
        """Take a turn; where the store fails, hold the messages unacknowledged: the broker keeps the rest."""
        kept = self.hold(messages)
        self.health.dropped_qos0 += len(messages) - kept
        self.degrade("broker", self.bus.last_error)
        self._note_lost_sessions()
        if self.clock.monotonic() < self._held_until:
            return
        try:
            if self._damage is not None:
                self._begin_anew(self._damage)
            if self._failing_since is not None:  # a turn that has nothing to store would prove nothing
                self.store.record(health=self.health_value("online"))
            self.turn(self._held)
        except StoreError as e:
            if isinstance(e, StoreDamaged):
                self._damage = str(e)
            if not (isinstance(e, StoreFull) and self._give_up_reserve()):  # else the next turn finds room
                self._fail(str(e))
        else:
            self._held, self._failing_since = [], None
            if self.store.is_lasting:
                self.degrade("store", None)
        self._look_after_site()
        self.health.turns += 1

    def _note_lost_sessions(self) -> None:
        """Record it for good where the broker has lost what it held for us: readings that are missing have a cause."""
        lost = self.bus.counters.lost_sessions
        if lost > self._lost_sessions and not any(event.kind == "session_lost" for event in self._noticed):
            detail: dict[str, object] = {"reason": "the broker has lost what it took for us while we were away"}
            self._noticed.append(Event(self.clock.now(), "session_lost", detail=detail))
        self._lost_sessions = lost

    def hold(self, messages: Sequence[Message]) -> int:
        """Hold messages until they can be stored; return how many of them there was room for.

        What came by an older connection is let go: the broker sends it again by the new one.
        """
        newest = max((message.connection for message in messages if message.qos > 0), default=0)
        is_old = [message.qos > 0 and message.connection < newest for message in self._held]
        self._stored -= sum(is_old[: self._stored])
        self._held = [message for message, old in zip(self._held, is_old, strict=True) if not old]
        room = MESSAGES_PER_TURN - len(self._held)  # of what needs no acknowledgement, nobody else bounds what is held
        kept = [message for number, message in enumerate(messages) if message.qos > 0 or number < room]
        self._held += kept
        return len(kept)

    def _give_up_reserve(self) -> bool:
        """Free the space that is kept for this; tell whether there was any."""
        if self.store.reserve is None or not self.store.reserve.give_up():
            return False
        self._noticed.append(Event(self.clock.now(), "disk_full", detail={"given_up_mb": RESERVE_BYTES // 1_000_000}))
        self.degrade("disk", _NO_RESERVE)
        return True

    def _see_disk(self) -> None:
        """Keep the reserve, where there is room for it; say where there is none."""
        reserve = self.store.reserve
        if reserve is None:
            return
        self.degrade("disk", None if reserve.hold() else _NO_RESERVE)

    def _fail(self, why: str) -> None:
        """Wait before the store is asked again; one that is damaged is replaced at once, if that can be done."""
        now = self.clock.monotonic()
        if self._failing_since is None:
            self._failing_since = now
            self._held_until = now if self._damage is not None else now + HOLD_S
        else:
            self._held_until = now + HOLD_S
        self.degrade("store", why)

    def _begin_anew(self, why: str) -> None:
        """Replace a damaged database, and tell the new one what is known here.

        Raises:
            StoreError: it is not done yet.
        """
        if self._is_told:
            self._observe_all()  # by the numbers of the old one
            self.store.begin_anew(why, self.clock.now())
            self._is_told = False
            self.time.use(self.store)
            self._stored, self._observed_seq = 0, 0
            self._unrecorded = deque(replace(instant, observed_seq=0) for instant in self._unrecorded)
        self.tell(self.store)
        self._is_told, self._damage = True, None
        self._health_due = self.clock.monotonic()  # it is said at once

    def tell(self, store: Store | Unstored) -> None:
        """Store where rules stand and what goes on in the houses, as it is known here.

        Raises:
            StoreError: nothing of it was stored.
        """
        store.record(
            flock_changes=[  # the last row of a house tells its state
                *(told for w in self.watches for told in w.retold(w.services.open_at(self.clock.now()))),
                *(
                    FlockChange(watch.life.since or self.clock.now(), "state", watch.house, watch.life.state, flock)
                    for watch in self.watches
                    if (flock := watch.life.flock) is not None or watch.life.since is not None
                ),
            ],
            standings=[standing for watch in self.watches for standing in watch.standings.values()],
            rhythms=self.quality.rhythms_s(),
            judged_at=self.grid.last,
        )

    # --- while the store fails (see ``agent.keeper``)

    @property
    def is_told(self) -> bool:
        """Whether the store holds where rules stand and what goes on; not after a new one was begun half."""
        return self._is_told

    @property
    def failing_s(self) -> float:
        """For how long the store has failed, in real seconds; 0 while it serves."""
        return 0.0 if self._failing_since is None else self.clock.monotonic() - self._failing_since

    def use(self, store: Store | Unstored) -> list[Message]:
        """Go on with another store; return the messages that are held for the one before, and are not its business."""
        self.store = store
        self.orders.use(store)
        self.time.use(store)
        held, self._held, self._stored, self._held_until = self._held, [], 0, 0.0
        self._failing_since, self._damage = None, None
        return held

    def take_over(self, before: Agent, held: Sequence[Message]) -> None:
        """Take the place of an agent that could not store: its counters, what it has shown, and the held messages."""
        self.health, self.site = before.health, before.site
        self.board.take_over(before.board)
        self.home.take_over(before.home)
        self.time.take_over(before.time)
        self._answers, self._said, self._noticed = before._answers, before._said, before._noticed
        self._lost_sessions = before._lost_sessions
        self.hold(held)

    def _look_after_site(self) -> None:
        """Say, as a warning of the whole site, that what comes in is not kept, or that a damaged file waits."""
        event = self.site.judge(STORE, self._trouble(), self.clock.now())
        if event is not None:
            self._said.append(event)
            log.warning("%s: %s; %s", STORE, event.standing.state, event.text)
        self.site.show(self.bus, self.topics, anew=self.bus.connection != self._site_connection)
        self._site_connection = self.bus.connection

    def _keep_shown(self) -> None:
        """Record what is retained at the broker, so that what is not wanted any more can be emptied later."""
        kept = {SHOWN: json.dumps(sorted(self.board.topics())), HOME: self.home.kept()}
        changed = {name: text for name, text in kept.items() if self._kept[name] != text}
        if changed:
            self.store.record(kept=changed)
            self._kept |= changed

    def _look_for_receipts(self, monotonic: float) -> None:
        """Say, as a warning of the whole site, which controller does not confirm what it is told."""
        severities = {watch.house: int(watch.severity()) for watch in self.watches}
        self.receipts.look(self.board.standing, severities, monotonic, is_connected=self.bus.is_connected)
        for controller in self.config.controller:
            is_proven, missing = self.receipts.state(controller.name)
            if is_proven is None:
                continue
            trouble = (
                None
                if missing is None
                else Trouble(
                    missing.severity,
                    "a controller does not hear warnings",
                    missing.message,
                    msg("See whether the controller runs and is connected to the broker."),
                    {**missing.values, "controller": controller.name, "house": self.config.called(missing.house)},
                )
            )
            if trouble is None and not is_proven:
                continue  # what it missed is over, and nothing says that it would hear the next one
            event = self.site.judge(
                f"{RECEIPT}-{controller.name}",
                trouble,
                self.clock.now(),
                about=About.EQUIPMENT,
                over=msg("The controller {controller} confirms what it is told again."),
                controller=controller.name,
            )
            if event is not None:
                self._said.append(event)
                log.warning("%s: %s; %s", event.standing.rule, event.standing.state, event.text)

    def _trouble(self) -> Trouble | None:
        if not self.store.is_lasting or self.failing_s >= HOLD_S:
            return Trouble(
                Severity.CRITICAL,
                "the gateway's disk takes nothing",
                msg(
                    "Nothing that comes in can be kept: {error}. "
                    "The houses are watched on, and the broker keeps the readings."
                ),
                msg("Free space on the gateway's disk, or replace its card (docs/faults.md)."),
                {"error": self.health.degraded.get("store", "the database fails")},
            )
        if full := self.health.degraded.get("disk"):
            return Trouble(
                Severity.MAJOR,
                "the gateway's disk is full",
                msg("The gateway soon cannot keep what comes in: {error}."),
                msg("Free space on the gateway's disk (docs/faults.md)."),
                {"error": full},
            )
        if aside := self._quarantined:
            return Trouble(
                Severity.MAJOR,
                "a damaged database was put aside",
                msg(
                    "A damaged database was put aside as {files}; "
                    "what it held and was not sealed is missing until it is recovered."
                ),
                msg("Run `flockwatch data recover`, and look for disk errors in `dmesg` (docs/faults.md)."),
                {"files": ", ".join(path.name for path in aside)},
            )
        return None

    def hail(self) -> None:
        """Leave word in the store that the agent was started, and what was found then.

        Raises:
            StoreError: it was not stored.
        """
        start: dict[str, object] = {
            "version": importlib.metadata.version("flockwatch"),
            "clock_trusted": self.clock.is_trusted(),
        }
        self.store.record(events=[*self.store.said, Event(self.clock.now(), "start", detail=start)])
        self.store.said.clear()

    def farewell(self) -> None:
        """Leave word in the store, if it serves, that the agent was ended, and did not die."""
        try:
            self.store.record(
                health=self.health_value("stopped"),
                time=self.time.known(),
                warnings=self._said,
                standings=[event.standing for event in self._said],
            )
        except StoreError as e:
            log.warning("ended without a word in the store: %s", e)

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
            self._observe_all()  # what was measured before somebody came to a sensor
            if not self.store.is_lasting:
                answer = self.orders.put_off(message, self.health.degraded.get("store", ""))
            else:
                answer = self.orders.obey(place, message, self.clock.now())
            self._answers.append((message.topic.removesuffix("command") + "response", answer.encode()))

    def _hear_answers(self, messages: Sequence[Message]) -> None:
        """Take what controllers confirm, and what a drill hears; what somebody left at the broker proves nothing."""
        for message in messages:
            if self.topics.drill_of(message.topic) is not None and not message.retain:
                self.drills.hear(message.topic, message.payload, message.received_monotonic, self.clock.now())
                continue
            place = self.topics.receipt(message.topic)
            if place is None:
                continue
            if message.retain:
                self.health.retained_ignored += 1
            elif (why := self.receipts.hear(*place, message.payload, message.received_monotonic)) is not None:
                self.health.rejected[why] += 1

    def _begin_sensor_anew(self, house: str, signal: str, at: datetime) -> None:
        """Forget what was learnt of a sensor that was replaced."""
        ended = [*self.quality.begin_anew(house, signal, at), *self.peers.begin_anew(house, signal, at)]
        self._found += ended
        self._noticed += [_interval_event(interval, at) for interval in ended]

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
            self._look_for_receipts(monotonic)
            shown = [*self.board.standing, *self.site.standing()]
            self.home.show(self.bus, self.watches, shown, self.board.predicted, self.clock.now(), monotonic, anew=anew)
            self._keep_shown()
            self.telling.turn(self.store, self.bus, self.clock.now())
        self._drill(monotonic)
        if anew or monotonic >= self._health_due:
            self._health_due = monotonic + HEALTH_EVERY_S
            self._see_quarantine()
            self._see_disk()
            self._see_models()
            self.degrade("post", self.telling.trouble())
            self.degrade("drill", self.drills.trouble())
            value = self.health_value("online")
            self.bus.publish(self.topics.health, json.dumps(value).encode(), retain=True)
            self.store.record(health=value, time=self.time.known(), wear=self._wear.kept())
        if monotonic >= self._prune_due and self.time.may_prune():
            self._tidy(monotonic)

    def _drill(self, monotonic: float) -> None:
        """Let the drill go on; how it went is stored before it is told."""
        is_able = self.bus.is_connected and self.store.is_lasting and self.clock.is_trusted()
        out, events = self.drills.turn(monotonic, self.clock.now(), is_able=is_able)
        if events:
            self.store.record(events=events, kept={DRILLS: self.drills.kept()})
            self._health_due = monotonic
        for topic, payload in out:
            self.bus.publish(topic, payload, retain=False)

    def _tidy(self, monotonic: float) -> None:
        """Let go of what is sealed and old; where nobody seals, and it must be, of detail."""
        now, settings, data = self.clock.now(), self.config.store, self.config.data
        pruned = self.store.prune(now, keep_hours=settings.keep_hours, max_size_mb=settings.hot_size_mb)
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
        is_done = (
            because is None and pruned < PRUNE_ROWS
        )  # a farm of 1,200 readings a second has more of them each time
        soon_s = DEGRADE_EVERY_S if because is not None else PRUNE_ON_S
        self._prune_due = monotonic + (PRUNE_EVERY_S if is_done else soon_s)
        self.degrade("history", because and f"{because}: old readings are kept by the quarter of an hour only")
        self.degrade("lake", sync_notes(data.sync_db).get("full"))
        self._wear.note(written_bytes(), monotonic, now.date())

    def _see_quarantine(self) -> None:
        self._quarantined = self.store.quarantined()
        names = ", ".join(path.name for path in self._quarantined)
        why = f"{names} in the quarantine; run `flockwatch data recover`, or remove it" if names else None
        self.degrade("quarantine", why)

    def _see_models(self) -> None:
        """Say which models are set aside, fed what their training never saw, or out of their bands."""
        for model, why in self.predictor.troubles():
            self.degrade(f"model {model}", why)
        troubles: dict[str, list[str]] = {"drift": [], "coverage": []}
        for watch in self.watches:
            for what, found in watch.fitness.troubles().items():
                troubles[what] += found
        self.degrade("series", "; ".join(self._left_out()) or None)
        for what, found in troubles.items():
            more = f"; and {len(found) - SHOWN_TROUBLES} more" if len(found) > SHOWN_TROUBLES else ""
            self.degrade(what, "; ".join(found[:SHOWN_TROUBLES]) + more if found else None)
        for model, why in self.shadow.troubles():
            self.degrade(f"shadow {model}", self.shadows.dropped.get(model, why))

    def _left_out(self) -> Iterator[str]:
        """Yield of each house the sensors that a model would score, were there room for their readings."""
        for watch in self.watches:
            names, most = sorted(watch.series.left_out), watch.series.most
            if names:
                told = ", ".join(names[:SHOWN_TROUBLES]) + (" …" if len(names) > SHOWN_TROUBLES else "")
                yield f"{watch.house}: there is room to score {most} sensors, and none for {len(names)} more: {told}"

    def degrade(self, what: str, why: str | None) -> None:
        """Set or lift a degraded state, and say so once."""
        if self.health.degrade(what, why):
            self._health_due = self.clock.monotonic()  # whoever watches our health hears it with the next turn
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
                "clock": self.time.value(),
                "judged_at": iso(self.grid.last),
                "readings": asdict(counters),
                "wear": {"bytes_per_day": self._wear.bytes_per_day()},
                "broker": {
                    "connected": self.bus.is_connected,
                    "last_error": self.bus.last_error,
                    **asdict(self.bus.counters),
                },
                "houses": houses,
                "drills": {
                    house: {name: last[name] for name in ("at", "passed", "passed_at", "reason")}
                    for house, last in sorted(self.drills.last.items())
                },
                "alarms": _alarms(self.watches, self.grid.last),
                "models": {str(model): asdict(model.counters) for model in self.predictor.models},
                "shadow": {str(model): asdict(model.counters) for model in self.shadow.models},
            },
        )


@dataclass(frozen=True, slots=True)
class _Instant:
    """What one grid instant brought, and the windows as they then were."""

    at: datetime
    outcomes: list[Outcome]
    apart: list[Outcome]  # of bundles on trial
    buckets: list[Bucket]
    observed_seq: int

    @property
    def all(self) -> list[Outcome]:
        """What was judged, by whomever."""
        return [*self.outcomes, *self.apart]


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


def _alarms(watches: Sequence[HouseWatch], at: datetime) -> dict[str, object]:
    """Return what stands in all houses, as alarm engineers count it."""
    shown = [s for watch in watches for s in watch.standings.values() if s.state in PUBLISHED_STATES]
    return {
        "standing": len(shown),
        "unacknowledged": sum(s.state is WarningState.ACTIVE for s in shown),
        "shelved": sum(s.state is WarningState.SHELVED for s in shown),
        "stale": sum(s.raised_at is not None and at - s.raised_at > STALE for s in shown),
        "chattering": [f"{s.house}/{s.rule}" for s in shown if s.chatter is not None],
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
        store = opened(config, clock.now())
        stack.callback(store.close)
        clock = steady(clock, store)
        days = config.site.days
        bundles, missing = _bundles(config, config.models.use, notifier)
        predictor = Predictor.load(bundles, days, config.models.threads)
        shadow, missing_shadow = shadow_of(config, bundles, notifier)
        decoder = Decoder(config)
        topics = Topics(config.mqtt.topic_prefix, config.site.id)
        subscriptions = [*decoder.subscriptions, *((topic, 1) for topic in topics.commands)]
        if config.controller:
            subscriptions.append((topics.receipts, 1))
        subscriptions += [(topic, 1) for topic in Drills(config, topics, None).subscriptions]
        bus = Bus(config.mqtt, config.client_id, subscriptions, health_topic=topics.health, clock=clock)

        def make_agent(store: Store | Unstored) -> Agent:
            agent = Agent(config, clock, store, bus, predictor, decoder, shadow)
            for wanted, why in missing.items():
                agent.degrade(f"model {wanted}", why)
            for wanted, why in missing_shadow.items():
                agent.degrade(f"shadow {wanted}", why)
            if isinstance(clock, SimulatedClock):
                agent.degrade("clock", f"simulated ({clock}); remove {config.data.clock_file} to run in real time")
            return agent

        keeper = stack.enter_context(Keeper(config, clock, bus, make_agent, subscriptions, store))
        bus.was_here = store.last_seq > 0
        stop.listen(bus.wake)
        stack.callback(bus.close)
        bus.connect()
        notifier.ready()
        log.info("watching %d houses of %s", len(config.house), config.site.id)
        while not stop.asked:
            keeper.turn(bus.receive(config.store.commit_interval_s, MESSAGES_PER_TURN))
            notifier.watchdog()
            if (deaf := bus.unhealthy() or keeper.unhealthy()) is not None:
                message = f"{deaf}; the agent ends, so that it is started again"
                raise BrokerError(message)
        notifier.stopping()
        keeper.agent.farewell()
    return 0


def shadow_of(
    config: Config, used: Sequence[Bundle], notifier: Notifier | None = None
) -> tuple[Predictor, dict[str, str]]:
    """Return the bundles on trial, and why others are not: one of each task, none that is in use or scores readings."""
    bundles, missing = _bundles(config, config.models.shadow, notifier)
    chosen: dict[str, Bundle] = {}
    for bundle in bundles:
        if str(bundle) in {str(one) for one in used}:
            missing[str(bundle)] = 'it is in use: pin what is, such as use = ["weight/1.0.0"]'
        elif bundle.manifest.scored_signals:
            missing[str(bundle)] = "it scores single readings, of which nothing is kept: try it by flockwatch replay"
        elif bundle.manifest.task in chosen:
            missing[str(bundle)] = f"{chosen[bundle.manifest.task]} is on trial for the same task; one at a time"
        else:
            chosen[bundle.manifest.task] = bundle
    return Predictor.load(list(chosen.values()), config.site.days, config.models.threads), missing


def _bundles(config: Config, names: Sequence[str], notifier: Notifier | None) -> tuple[list[Bundle], dict[str, str]]:
    """Return the bundles that are complete, and why the others are not: a bad model stops nothing else."""
    bundles, missing = [], {}
    for wanted in names:
        try:
            root = config.models.directory or shipped_directory()
            directory = find_bundle(root, wanted)
            if config.models.directory is not None:
                if notifier is not None:  # a few that hang would use up the time that a start may take
                    notifier.starting(START_LONGER_S)
                rehearse(directory, len(config.house))
            bundles.append(load_bundle(directory))
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
