"""Keeps the houses watched while their store fails: nothing is acknowledged that is not durable, and warnings go on.

::

                     the store has failed for 10 s, or cannot be opened
      ┌─────────┐ ───────────────────────────────────────────────────────> ┌──────────┐
      │ stored  │                                                          │ unstored │
      └─────────┘ <─────────────────────────────────────────────────────── └──────────┘
                     a small durable write succeeds: all is restored from
                     the store, and what the broker kept is taken from there

**Stored**: the messages of our session at the broker are stored, then acknowledged, then judged.

**Unstored**: those of the session are held, so the broker keeps all that follow. What comes in from now on is heard a
second time, by a connection of its own that asks for no acknowledgement and leaves no session: it goes through the same
turn, with ``Unstored`` in the place of the store. Afterwards that judgement is forgotten, and made again from what was
kept: in the lake and in the history nothing is missing.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Self, TypeVar

from agent.bus import RECEIVE_MAXIMUM, Bus
from agent.errors import StoreDamaged, StoreError, StoreFull, StoreUnwritable
from agent.store import Reserve, Store, Unstored, salvage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path
    from types import TracebackType

    from agent.clock import Clock
    from agent.config import Config
    from agent.daemon import Agent
    from agent.domain import Message

log = logging.getLogger(__name__)

PATIENCE_S = 10.0  # a slow card recovers within it; birds can wait so long
TRY_EVERY_S = 5.0

_T = TypeVar("_T")


def opened(config: Config, at: datetime) -> Store | Unstored:
    """Return the store, or what stands in for it where its disk does not serve; to be closed.

    Raises:
        StoreError: it is none of ours, of a newer program, or in use: waiting would not help.
    """
    try:
        return _with_reserve(
            config.data.directory, lambda: Store.open(config.data.house_db, sync_db=config.data.sync_db, at=at)
        )
    except StoreUnwritable as e:
        return _without(config, e)


def _with_reserve(folder: Path, begin: Callable[[], _T]) -> _T:
    """Return what ``begin`` does; on a full disk it is tried once more with the reserve given up."""
    try:
        return begin()
    except StoreFull as e:
        if not Reserve(folder).give_up():
            raise
        log.warning("%s; the reserve is given up", e)
        return begin()


def _without(config: Config, error: StoreUnwritable) -> Unstored:
    log.error("%s; watching on without it", error)
    return Unstored.after(salvage(config.data.house_db), str(error))


class Keeper:
    """Owns the store and the agent that stands on it; a context manager.

    Attributes:
        agent: the one that judges now.
    """

    agent: Agent

    def __init__(
        self,
        config: Config,
        clock: Clock,
        bus: Bus,
        make_agent: Callable[[Store | Unstored], Agent],
        subscriptions: Sequence[tuple[str, int]],
        store: Store | Unstored,
    ) -> None:
        """Take what an agent is made with; ``subscriptions`` are those of ``bus``, ``store`` is what was ``opened``."""
        self._found = store
        self._config = config
        self._clock = clock
        self._bus = bus
        self._make_agent = make_agent
        self._subscriptions = [(topic, 0) for topic, _ in subscriptions]
        self._resources = ExitStack()
        self._store: Store | None = None
        self._ear: Bus | None = None
        self._held: list[Message] = []  # of our session, while nothing can be stored
        self._try_at = 0.0
        self._is_told = True  # else a new database was begun, and is to learn what the agent knows

    def __enter__(self) -> Self:
        """Begin with the store as it is found.

        Raises:
            StoreError: it is none of ours, or of a newer program: waiting would not help.
        """
        if isinstance(self._found, Unstored):
            self.agent = self._make_agent(self._found)
            self._listen(self._found.why)
            return self
        self._store = self._found
        try:
            self.agent = _with_reserve(self._config.data.directory, self._begin)
        except StoreUnwritable as e:
            self.agent = self._make_agent(_without(self._config, e))
            self._listen(str(e))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ear is not None:
            self._ear.close()
        self._resources.close()

    def turn(self, messages: Sequence[Message]) -> None:
        """Take what came in by our session through the whole program, or hold it."""
        if self._ear is None:
            self.agent.turn_or_hold(messages)
            if self.agent.failing_s >= PATIENCE_S:
                self._let_go()
            return
        self._hold(messages)
        self.agent.turn_or_hold(self._ear.receive(0.0, RECEIVE_MAXIMUM))
        if self._clock.monotonic() >= self._try_at:
            self._try_again()

    def unhealthy(self) -> str | None:
        """Say why the second connection can never work again in this process, or None."""
        return None if self._ear is None else self._ear.unhealthy()

    def _begin(self) -> Agent:
        """Return an agent on the store; opens it where that is not done yet.

        Raises:
            StoreError: it cannot be.
        """
        if self._store is None:
            data = self._config.data
            self._store = self._resources.enter_context(
                Store.open(data.house_db, sync_db=data.sync_db, at=self._clock.now())
            )
        try:
            agent = self._make_agent(self._store)
        except StoreDamaged as e:  # what a start reads, an earlier one may never have looked at
            self._store.begin_anew(str(e), self._clock.now())
            agent = self._make_agent(self._store)
        agent.hail()
        return agent

    def _let_go(self) -> None:
        """Go on without the store."""
        if self._store is None:
            return
        why = self.agent.health.degraded.get("store", "")
        self._is_told = self.agent.is_told
        held = self.agent.use(Unstored(self._store.gateway, self._store.newest_ms()))
        self._listen(why)
        self._hold(held)
        self.agent.turn_or_hold([replace(message, qos=0) for message in held])  # seen, and not acknowledged

    def _listen(self, why: str) -> None:
        client_id = f"{self._config.client_id}-live"
        self._ear = Bus(
            self._config.mqtt, client_id, self._subscriptions, health_topic=None, clock=self._clock, session_expiry_s=0
        )
        self._ear.connect()
        self._try_at = self._clock.monotonic() + TRY_EVERY_S
        self.agent.degrade("store", why)

    def _hold(self, messages: Sequence[Message]) -> None:
        """Hold what our session brings; what came by an older connection the broker sends again."""
        newest = max((message.connection for message in messages), default=0)
        self._held = [message for message in self._held if message.connection >= newest]
        self._held += [message for message in messages if message.qos > 0]

    def _revive(self, store: Store) -> None:
        """Let the store take something durably; one that is damaged is replaced.

        Raises:
            StoreError: it does not serve yet.
        """
        damage = "it was damaged" if store.is_aside else None
        if damage is None:
            try:
                store.record(health=self.agent.health_value("online"))
            except StoreDamaged as e:
                damage = str(e)
        if damage is not None:
            self._is_told = False
            store.begin_anew(damage, self._clock.now())
        if not self._is_told:
            self.agent.tell(store)
            self._is_told = True

    def _come_back(self) -> Agent:
        """Return an agent on a store that takes something durably.

        Raises:
            StoreError: it does not yet.
        """
        if self._store is not None:
            self._revive(self._store)
        return self._begin()

    def _try_again(self) -> None:
        """Go back to the store, if it takes something durably."""
        before = self.agent
        try:
            agent = _with_reserve(self._config.data.directory, self._come_back)
        except StoreError as e:
            self._try_at = self._clock.monotonic() + TRY_EVERY_S
            before.degrade("store", str(e))
            return
        log.warning("store: it takes what comes in again; what the broker kept is taken from there")
        agent.take_over(before, self._held)
        agent.degrade("store", None)
        if self._ear is not None:
            self._ear.close()
        self.agent, self._ear, self._held = agent, None, []
