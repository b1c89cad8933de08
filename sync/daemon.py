"""The composition root of sync: what is due is sealed, what is sealed is pushed; the main thread waits for no network.

One turn of the loop, at most a second apart: read what the lanes report, seal the next range that is due, give every
free lane its next object. Sealing goes by the farm's clock; polls, waits and deadlines by real time.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from agent.domain import from_ms, to_ms
from agent.errors import CloudError, CloudRefused, OutboxDamaged, StoreError, StoreUnwritable
from agent.notify import Notifier
from agent.store import StoreReader
from agent.wear import WearMeter, written_bytes
from sync.cloud import open_cloud, status_key
from sync.ladder import Ladder, room_on_disk
from sync.lane import Carried, Failed, Lane, Note, bring
from sync.outbox import SEALED_STREAMS, URGENT, Outbox
from sync.postbox import Postbox
from sync.postman import Postman
from sync.retry import Link
from sync.wire import GatewayStatus, LakeStatus, StreamStatus

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    from agent.clock import Clock
    from agent.config import Config
    from sync.cloud import Cloud
    from sync.outbox import Parcel, Watermark

    Load = Parcel | Note

log = logging.getLogger(__name__)

ROOM_EVERY_S = 60.0  # how often to see whether there is room on the disk
POLL_S = 1.0  # how often urgent rows are looked for
SEAL_ROWS = 1_000_000  # unsealed readings that are sealed before the interval is over
PAUSE_S = 30.0  # after the disk or the store could not serve
STOP_S = 5.0  # from the first signal to the end: what is under way may arrive, nothing new is begun but warnings
ONCE_ATTEMPTS = 3  # failed tries after which --once gives up; a minute at the most
BULK = tuple(stream for stream in SEALED_STREAMS if stream != URGENT)


class Courier:
    """Everything about one house.db: what is due, what is under way."""

    def __init__(self, config: Config, clock: Clock, store: StoreReader, outbox: Outbox, cloud: Cloud | None) -> None:
        self._config = config
        self._clock = clock
        self._store = store
        self._outbox = outbox
        self._reports: SimpleQueue[Carried[Load, CloudError] | Failed[Load, CloudError]] = SimpleQueue()
        self._lanes: dict[bool, Lane[Load, CloudError]] = {}
        if cloud is not None:
            for urgent, name in ((True, "urgent"), (False, "bulk")):
                self._lanes[urgent] = Lane(name, partial(bring, cloud), self._reports, CloudError)
        self.link = Link()
        self._interval = timedelta(seconds=config.sync.interval_s)
        bulk = [mark.sealed_at_ms for mark in outbox.watermarks() if mark.stream in BULK]
        self._sealed_at = from_ms(max(bulk, default=0))
        self._targets: dict[str, int] = {}  # stream -> the seq up to which it is due
        self._ladder = Ladder(
            outbox,
            partial(
                room_on_disk, config.data.directory, config.data.lake, limit_bytes=config.store.max_size_mb * 1_000_000
            ),
            has_cloud=cloud is not None,
        )
        self._wear = WearMeter.restored(outbox.noted("wear"))
        self._room_due = float("-inf")
        self._note: Note | None = None
        self._polled_at = float("-inf")
        self._data_version = -1
        self._paused_until = float("-inf")
        self._pause_reason = ""

    # The turn

    def turn(self) -> None:
        """Do what is due; wait up to ``POLL_S`` for a report where nothing is.

        Raises:
            CloudError: a lane died, which only a mistake of ours can bring about.
            OutboxDamaged: sync.db is broken, and is to be opened anew.
        """
        if not all(lane.is_alive for lane in self._lanes.values()):
            message = "a lane to the cloud died; the lines above say why, please report them"
            raise CloudError(message)
        is_paused = self._clock.monotonic() < self._paused_until
        is_short = False
        try:
            if not is_paused:
                is_short = self._make_room()  # before anything is written: sealing needs room, too
                self._look()
                if self._targets:
                    self._seal_range()
                self._push()
            next_look_s = max(0.0, self._polled_at + POLL_S - self._clock.monotonic())
            self._read_reports(POLL_S if is_paused else 0 if self._targets or is_short else next_look_s)
        except OutboxDamaged:
            raise  # waiting would not help
        except (StoreError, OSError) as e:
            self._pause(str(e))

    def seal_all(self) -> None:
        """Seal all rows that there are now.

        Raises:
            StoreError: the store, sync.db or the local lake cannot serve.
        """
        self._set_due()
        while self._targets:
            try:
                while self._make_room():
                    pass
                self._seal_range()
            except OSError as e:
                message = f"{self._config.data.lake}: the local lake takes no object: {e}; is the disk full?"
                raise StoreError(message) from e

    @property
    def is_idle(self) -> bool:
        """Whether everything that is sealed was carried."""
        return all(lane.is_free for lane in self._lanes.values()) and not any(
            self._next(urgent=urgent) for urgent in self._lanes
        )

    def finish(self) -> None:
        """Seal and send standing warnings, let the lanes finish what they carry; all within ``STOP_S``."""
        deadline = self._clock.monotonic() + STOP_S
        try:
            if self._outbox.unsealed(URGENT) > 0:
                self._outbox.seal_next(URGENT, self._store.last_seq(URGENT), to_ms(self._clock.now()))
        except (StoreError, OSError) as e:
            log.warning("not sealed before the end: %s", e)
        self._push(only_urgent=True)
        while self.link.attempts == 0 and not all(lane.is_free for lane in self._lanes.values()):
            if (left_s := deadline - self._clock.monotonic()) <= 0:
                break
            self._read_reports(left_s)
            self._push(only_urgent=True)
        for lane in self._lanes.values():
            lane.close(max(0.0, deadline - self._clock.monotonic()))
        self._read_reports(0)

    # Sealing

    def _look(self) -> None:
        """Once a second: see whether urgent rows came in, and whether the rest is due."""
        if self._clock.monotonic() - self._polled_at < POLL_S:
            return
        self._polled_at = self._clock.monotonic()
        version = self._store.data_version()
        if version != self._data_version:
            self._data_version = version
            if self._outbox.unsealed(URGENT) > 0:
                self._targets[URGENT] = self._store.last_seq(URGENT)
            if self._outbox.unsealed("readings") >= SEAL_ROWS and self._outbox.sealable("readings") >= SEAL_ROWS:
                self._set_due()
        if (
            not timedelta(0) <= self._clock.now() - self._sealed_at < self._interval
        ):  # past it, or the clock was set back
            self._set_due()

    def _make_room(self) -> bool:
        """Once a minute, and again where it was not enough, take a step of the ladder; return whether to go on."""
        if self._clock.monotonic() < self._room_due:
            return False
        now = self._clock.now()
        is_short = self._ladder.step(to_ms(now))
        if not is_short:
            self._room_due = self._clock.monotonic() + ROOM_EVERY_S
            self._wear.note(written_bytes(), self._clock.monotonic(), now.date())
        return is_short

    def _set_due(self) -> None:
        """Let all rows that there are now be due, as far as they may be sealed."""
        self._targets |= {stream: self._outbox.sealable_seq(stream) for stream in SEALED_STREAMS}
        self._sealed_at = self._clock.now()
        self._note = None

    def _seal_range(self) -> None:
        stream = min(self._targets, key=SEALED_STREAMS.index)
        target = self._targets[stream]
        sealed_seq = self._outbox.seal_next(stream, target, to_ms(self._clock.now()))
        self._pause_reason = ""
        if sealed_seq < min(target, self._store.sealable_seq(stream)):
            return
        del self._targets[stream]
        if stream == URGENT and True in self._lanes:
            self._lanes[True].try_now()  # the link may be back since the last try, and this one matters
        if not self._targets and stream != URGENT:
            if self._clock.is_trusted():
                self._ladder.forget(self._config.store.keep_days, self._clock.now().date())
            self._outbox.note("wear", self._wear.kept())
            self._note = self._status()

    def _pause(self, reason: str) -> None:
        """Leave disk and store alone for a while; say why, once per change."""
        self._paused_until = self._clock.monotonic() + PAUSE_S
        if reason != self._pause_reason:
            log.error("sealing waits: %s", reason)
            self._pause_reason = reason

    # Pushing

    def _next(self, *, urgent: bool) -> object:
        return (None if urgent else self._note) or self._outbox.next_parcel(urgent=urgent)

    def _push(self, *, only_urgent: bool = False) -> None:
        """Give every free lane what is next."""
        for urgent, lane in self._lanes.items():
            if not lane.is_free or (only_urgent and not urgent):
                continue
            if not urgent and self._note is not None:
                lane.carry(self._note)
                self._note = None
            elif parcel := self._outbox.next_parcel(urgent=urgent):
                self._outbox.carry(parcel.key)
                lane.carry(parcel)

    def _read_reports(self, wait_s: float) -> None:
        """Wait up to ``wait_s`` for a report, then take note of all that there are."""
        try:
            report = self._reports.get(timeout=wait_s) if wait_s > 0 else self._reports.get_nowait()
            while True:
                self._take_note(report)
                report = self._reports.get_nowait()
        except Empty:
            return

    def _take_note(self, report: Carried[Load, CloudError] | Failed[Load, CloudError]) -> None:
        now = self._clock.monotonic()
        if isinstance(report, Failed):
            if said := self.link.failed(report.error, now):
                log.warning("%s", said)
            return
        report.lane.done()
        if said := self.link.reached(now):
            log.warning("%s", said)
            for lane in self._lanes.values():
                lane.try_now()
        if isinstance(report.what, Note):
            return
        if report.refused is None:
            self._outbox.advance(report.what.key, to_ms(self._clock.now()))
        else:
            log.error("%s is set aside: %s", report.what.key, report.refused)
            self._outbox.set_aside(report.what.key, report.refused)

    def _status(self) -> Note | None:
        """Return what the fleet's operator may know of this gateway now."""
        if not self._lanes:
            return None
        status = status_of(self._config, self._store, self._outbox, self._clock.now())
        return Note(status_key(self._store.gateway), status)


def status_of(config: Config, store: StoreReader, outbox: Outbox, now: datetime) -> bytes:
    """Return the document ``status/<gateway>/latest.json``."""
    totals = outbox.totals()

    def stream(mark: Watermark) -> StreamStatus:
        return StreamStatus(sealed_seq=mark.sealed_seq, sealed_at=from_ms(mark.sealed_at_ms))

    status = GatewayStatus(
        gateway=store.gateway,
        generation=store.generation,
        site=config.site.id,
        at=now.astimezone(UTC),
        flockwatch=importlib.metadata.version("flockwatch"),
        streams={mark.stream: stream(mark) for mark in outbox.watermarks()},
        lake=LakeStatus(
            objects=totals.objects,
            bytes=totals.bytes,
            waiting_objects=totals.waiting_objects,
            waiting_bytes=totals.waiting_bytes,
            set_aside_objects=totals.set_aside_objects,
            set_aside_rows=totals.set_aside_rows,
        ),
    )
    return status.model_dump_json(indent=1).encode()


def run(config: Config, clock: Clock, stop: threading.Event, *, once: bool = False) -> int:
    """Carry until ``stop`` is set, or (``once``) until all that there is now was carried; return the exit code.

    Raises:
        ConfigError: ``[sync]`` names no usable place.
        StoreError: with ``once``, or where another sync runs: the store or the directory cannot serve.
        CloudError: with ``once``: not everything arrived.
    """
    notifier = Notifier(os.environ)
    cloud = open_cloud(config.sync.url, config.sync.options) if config.sync.url else None
    notifier.ready()
    try:
        if once:
            _carry_once(config, clock, cloud, stop)
        else:
            said = ""
            while not stop.is_set():
                try:
                    _carry_on(config, clock, cloud, stop, notifier)
                except (OutboxDamaged, StoreUnwritable) as e:  # rebuilt by the next try; in time, the disk may serve
                    if str(e) != said:
                        log.error("sealing waits: %s", e)  # noqa: TRY400  # no trace is needed
                        said = str(e)
                    _pause(stop, notifier)
    finally:
        notifier.stopping()
    return 0


def _pause(stop: threading.Event, notifier: Notifier) -> None:
    """Wait before the next try; the watchdog knows that it is on purpose."""
    notifier.watchdog()
    stop.wait(PAUSE_S)


def _carry_once(config: Config, clock: Clock, cloud: Cloud | None, stop: threading.Event) -> None:
    with ExitStack() as stack:
        store = stack.enter_context(StoreReader.open(config.data.house_db))
        outbox = stack.enter_context(Outbox.open(config.data.sync_db, config.data.lake, store, config.site.id))
        courier = Courier(config, clock, store, outbox, cloud)
        try:
            courier.seal_all()
            while not courier.is_idle and not stop.is_set():
                courier.turn()
                error = courier.link.error
                if isinstance(error, CloudRefused) or courier.link.attempts >= ONCE_ATTEMPTS:
                    message = f"all is sealed, but {outbox.totals().waiting_objects} objects wait: {error}"
                    raise CloudError(message) from error
        finally:
            courier.finish()
        totals = outbox.totals()
        log.info("%d objects, %d bytes in %s", totals.objects, totals.bytes, config.data.lake)


def _carry_on(config: Config, clock: Clock, cloud: Cloud | None, stop: threading.Event, notifier: Notifier) -> None:
    """Carry from one house.db until ``stop``, or until another file takes its place."""
    store = _wait_for_store(config, stop, notifier)
    if store is None:
        return
    with ExitStack() as stack:
        stack.enter_context(closing(store))
        opened = _files_of(config.data.house_db)
        outbox = stack.enter_context(Outbox.open(config.data.sync_db, config.data.lake, store, config.site.id))
        courier = Courier(config, clock, store, outbox, cloud)
        stack.callback(courier.finish)
        postman = _postman(config, clock, store, outbox, stack)
        log.info("carrying for %s to %s", store.gateway, config.sync.url or "the local lake only")
        while not stop.is_set():
            courier.turn()
            if postman is not None:
                postman.turn()
            notifier.watchdog()
            if _files_of(config.data.house_db) != opened:
                log.warning("%s was replaced; going on with the new one", config.data.house_db)
                return


def _postman(config: Config, clock: Clock, store: StoreReader, outbox: Outbox, stack: ExitStack) -> Postman | None:
    """Return who tells people; None where nobody is to be told."""
    if all(to.by == "topic" for to in config.notify):
        return None
    box = stack.enter_context(Postbox.open(config.data.post_db))
    postman = Postman(config, clock, store, box, outbox.record)
    stack.callback(postman.close, STOP_S)
    return postman


def _wait_for_store(config: Config, stop: threading.Event, notifier: Notifier) -> StoreReader | None:
    """Return the agent's store, however long the agent takes to make it; None where ``stop`` came first."""
    said = ""
    while not stop.is_set():
        try:
            return StoreReader.open(config.data.house_db)
        except StoreError as e:
            if str(e) != said:
                log.warning("waiting: %s", e)
                said = str(e)
        notifier.watchdog()
        stop.wait(POLL_S)
    return None


def _files_of(house_db: Path) -> tuple[int, ...]:
    """Return by which files a database is known to be the one that was opened: itself, and the index of its WAL.

    The agent removes that index with a WAL that was damaged; who goes on with the old one reads old pages for ever.
    """
    with suppress(FileNotFoundError):
        return tuple(path.stat().st_ino for path in (house_db, house_db.with_name(house_db.name + "-shm")))
    return ()
