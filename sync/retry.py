"""Trying again: the only place that waits for a cloud or a mail server, and the only one that decides how long.

A try that fails because the other side does not answer, or refuses, is repeated for ever with exponential waits and
full jitter (a thousand gateways do not come back in the same second); what happened is said once per change, not per
try.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_when_event_set, wait_random_exponential

from agent.errors import CloudError, CloudRefused, FlockwatchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenacity import RetryCallState

LONGEST_WAIT_S = 60.0  # also the longest that a link may be back unnoticed; one try costs less than 1 kB

T = TypeVar("T")
E = TypeVar("E", bound=FlockwatchError)


@dataclass(frozen=True, slots=True)
class Nudge:
    """Cuts a wait short: ``now`` makes the next try come at once, ``stop`` makes it the last."""

    _now: threading.Event = field(default_factory=threading.Event)
    _stop: threading.Event = field(default_factory=threading.Event)

    def now(self) -> None:
        """Let the next try come at once."""
        self._now.set()

    def stop(self) -> None:
        """Let there be no further try."""
        self._stop.set()
        self._now.set()

    def wait(self, seconds: float) -> None:
        """Wait ``seconds``, or until somebody nudges."""
        self._now.wait(seconds)
        if not self._stop.is_set():
            self._now.clear()


def persist(attempt: Callable[[], T], nudge: Nudge, failed: Callable[[E], None], on: type[E]) -> T:
    """Call ``attempt`` until it no longer raises ``on``; call ``failed`` after each time that it did.

    Raises:
        FlockwatchError: it still failed, by ``on``, when the nudge said stop.
    """

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, on):
            failed(error)

    retrying = Retrying(
        retry=retry_if_exception_type(on),
        wait=wait_random_exponential(multiplier=1, max=LONGEST_WAIT_S),
        stop=stop_when_event_set(nudge._stop),  # noqa: SLF001  # the two halves of one mechanism
        sleep=nudge.wait,
        after=tell,
        reraise=True,
    )
    return retrying(attempt)


@dataclass(slots=True)
class Link:
    """Whether the cloud can be used; says so once per change. Times are real monotonic seconds."""

    attempts: int = 0  # failed ones since it was last reached
    since: float = 0.0  # the first of them
    error: CloudError | None = None  # of the last one

    def failed(self, error: CloudError, now: float) -> str | None:
        """Take note of a failed try; return what is worth a line in the log, if anything is."""
        if self.attempts == 0:
            self.since = now
        self.attempts += 1
        known, self.error = self.error, error
        if type(known) is type(error):
            return None
        word = "refuses" if isinstance(error, CloudRefused) else "unreachable"
        return f"cloud {word}: {error}"

    def reached(self, now: float) -> str | None:
        """Take note of a try that succeeded; return what is worth a line in the log, if anything is."""
        if self.attempts == 0:
            return None
        said = f"cloud reached again after {duration(now - self.since)}, {self.attempts} attempts"
        self.attempts, self.error = 0, None
        return said


def duration(seconds: float) -> str:
    """Return ``seconds`` as a person says them: ``3 h 12 min``, ``4 min``, ``9 s``."""
    minutes = int(seconds) // 60
    if minutes == 0:
        return f"{int(seconds)} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
