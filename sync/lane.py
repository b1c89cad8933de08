"""A lane: one thread that carries one thing at a time to one place, and tries until it is there.

The main thread never waits for a network: it gives a parcel to a free lane and reads the reports of all lanes from one
queue. Warnings have a lane of their own, so that no bulk upload over a slow link stands before them, and so has each
recipient of letters (``postman``).
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

from agent.errors import FlockwatchError
from sync.cloud import Put
from sync.retry import Nudge, persist

if TYPE_CHECKING:
    from collections.abc import Callable

    from sync.cloud import Cloud
    from sync.outbox import Parcel

W = TypeVar("W")
E = TypeVar("E", bound=FlockwatchError)
_THREAD_NAME = "lane-"
_REFUSED = {
    Put.CREATED: None,
    Put.SAME: None,
    Put.CONFLICT: "the cloud holds another object of this name",
    Put.UNREADABLE: "the cloud holds an object of this name, and our keys may not read it to compare; allow them to",
}
"""Why an object is set aside, by what became of it."""


@dataclass(frozen=True, slots=True)
class Note:
    """An object to be written over: small, and never part of the record."""

    key: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Carried(Generic[W, E]):
    """The parcel is there, or never will be: then ``refused`` says why."""

    lane: Lane[W, E]
    what: W
    refused: str | None


@dataclass(frozen=True, slots=True)
class Failed(Generic[W, E]):
    """One try failed; the lane goes on trying."""

    lane: Lane[W, E]
    error: E


class Lane(Generic[W, E]):
    """One thread with one parcel at a time; a daemon thread, so a dead link never keeps the process."""

    def __init__(
        self,
        name: str,
        attempt: Callable[[W], str | None],
        reports: SimpleQueue[Carried[W, E] | Failed[W, E]],
        on: type[E],
    ) -> None:
        """Begin to carry.

        Args:
            name: of the thread.
            attempt: brings one thing there; returns why that can never be, None where it is there. It is called again
                where it raises ``on``.
            reports: where the reports go.
            on: the errors that are worth another try.
        """
        self.name = name
        self.is_free = True
        self._attempt = attempt
        self._reports = reports
        self._on = on
        self._nudge = Nudge()
        self._inbox: SimpleQueue[W | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"{_THREAD_NAME}{name}", daemon=True)
        self._thread.start()

    def carry(self, what: W) -> None:
        """Give a free lane something to carry; its reports follow, the last of them a ``Carried``."""
        self.is_free = False
        self._inbox.put(what)

    def done(self) -> None:
        """Take note that the ``Carried`` of this lane was read."""
        self.is_free = True

    def try_now(self) -> None:
        """Cut short the wait before the next try: the link is back, or something more urgent is there."""
        self._nudge.now()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs; one that died of a bug would leave its parcels lying unseen."""
        return self._thread.is_alive()

    def close(self, timeout_s: float) -> bool:
        """Let the lane finish its try within ``timeout_s``; return whether it did."""
        self._nudge.stop()
        self._inbox.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (what := self._inbox.get()) is not None:
            try:
                refused = persist(partial(self._attempt, what), self._nudge, self._tell_failed, self._on)
            except self._on:  # stopped while it failed: told already, and tried again at the next start
                return
            self._reports.put(Carried(self, what, refused))

    def _tell_failed(self, error: E) -> None:
        self._reports.put(Failed(self, error))


def bring(cloud: Cloud, what: Parcel | Note) -> str | None:
    """Bring ``what`` to the cloud; return why that can never be, or None where it is there.

    Raises:
        CloudError: it is not there, and may be after another try.
    """
    if isinstance(what, Note):
        cloud.put_over(what.key, what.data)
        return None
    try:
        data = what.path.read_bytes()
    except OSError as e:
        return f"the local object cannot be read: {e.strerror}"
    if hashlib.sha256(data).hexdigest() != what.sha256:
        return "the local object was altered after it was sealed"
    return _REFUSED[cloud.put_new(what.key, data)]


def any_alive() -> bool:
    """Tell whether a lane still hangs on its try."""
    return any(thread.name.startswith(_THREAD_NAME) for thread in threading.enumerate())
