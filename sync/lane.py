"""A lane to the cloud: one thread that carries one object at a time, and tries until it is there.

The main thread never waits for a network: it gives a parcel to a free lane and reads the reports of all lanes from one
queue. Warnings have a lane of their own, so that no bulk upload over a slow link stands before them.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from agent.errors import CloudError
from sync.cloud import Put
from sync.retry import Nudge, persist

if TYPE_CHECKING:
    from sync.cloud import Cloud
    from sync.outbox import Parcel

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
class Carried:
    """The parcel is there, or never will be: then ``refused`` says why."""

    lane: Lane
    what: Parcel | Note
    refused: str | None


@dataclass(frozen=True, slots=True)
class Failed:
    """One try failed; the lane goes on trying."""

    lane: Lane
    error: CloudError


class Lane:
    """One thread with one parcel at a time; a daemon thread, so a dead link never keeps the process."""

    def __init__(self, name: str, cloud: Cloud, reports: SimpleQueue[Carried | Failed]) -> None:
        self.is_free = True
        self._cloud = cloud
        self._reports = reports
        self._nudge = Nudge()
        self._inbox: SimpleQueue[Parcel | Note | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"{_THREAD_NAME}{name}", daemon=True)
        self._thread.start()

    def carry(self, what: Parcel | Note) -> None:
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
                refused = persist(partial(self._try, what), self._nudge, self._tell_failed)
            except CloudError:  # stopped while it failed: told already, and tried again at the next start
                return
            self._reports.put(Carried(self, what, refused))

    def _tell_failed(self, error: CloudError) -> None:
        self._reports.put(Failed(self, error))

    def _try(self, what: Parcel | Note) -> str | None:
        """Bring ``what`` to the cloud; return why that can never be, or None where it is there."""
        if isinstance(what, Note):
            self._cloud.put_over(what.key, what.data)
            return None
        try:
            data = what.path.read_bytes()
        except OSError as e:
            return f"the local object cannot be read: {e.strerror}"
        if hashlib.sha256(data).hexdigest() != what.sha256:
            return "the local object was altered after it was sealed"
        return _REFUSED[self._cloud.put_new(what.key, data)]


def any_alive() -> bool:
    """Tell whether a lane still hangs on its try."""
    return any(thread.name.startswith(_THREAD_NAME) for thread in threading.enumerate())
