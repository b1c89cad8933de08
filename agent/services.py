"""Somebody is at a sensor: what it says meanwhile is not believed, and nobody misses it. Pure, and in event time.

A service is a span of time, so it does not matter when a reading comes: after a long downtime, late, or once more when
the windows are built anew.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from agent.domain import from_ms, to_ms
from agent.manifest import KEPT_DAYS
from agent.signals import is_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.domain import FlockChange
    from agent.readings import Readings

KEPT = timedelta(days=KEPT_DAYS)  # as far as the windows reach: what was said then may be seen again


class Service(NamedTuple):
    """From when to when a sensor, or all of a kind, is not believed: after ``since``, and up to ``until``."""

    signal: str
    since: datetime
    until: datetime


class Services:
    """The services of one house, as they were told."""

    def __init__(self) -> None:
        self._told: tuple[FlockChange, ...] = ()
        self._spans: tuple[Service, ...] = ()

    @property
    def told(self) -> tuple[FlockChange, ...]:
        """The changes that told of them, in the order in which they were told."""
        return self._told

    def restore(self, told: tuple[FlockChange, ...]) -> None:
        """Know of these, and no others."""
        self._told, self._spans = told, _spans_of(told)

    def take(self, change: FlockChange) -> None:
        """Take a service that was told; the next one of the same signal ends it.

        One that was dated anew (``told_at`` in its detail) stands in the place of the one that it was.
        """
        dates = {_date(change.at), change.detail.get("told_at")}
        told = [one for one in self._told if one.at + _length(one) > change.at - KEPT]
        for number, one in enumerate(told):
            if one.detail["signal"] == change.detail["signal"] and _date(one.at) in dates:
                told[number] = change
                break
        else:
            told.append(change)
        self.restore(tuple(told))

    def dated_anew(self, moved: Callable[[datetime], datetime]) -> list[FlockChange]:
        """Return those that were told by a clock that was wrong, by the right one."""
        return [
            replace(one, at=at, detail={**one.detail, "replaced": False, "told_at": _date(one.at)})
            for one in self._told
            if (at := moved(one.at)) != one.at
        ]

    def open_at(self, at: datetime) -> list[FlockChange]:
        """Return those that are not over at ``at``."""
        return [one for one, span in zip(self._told, self._spans, strict=True) if span.until > at]

    def of(self, name: str, at: datetime) -> Service | None:
        """Return the service of a sensor that goes on at ``at``."""
        return next((s for s in self._spans if is_of(name, s.signal) and s.since <= at < s.until), None)

    def among(self, signal: str, at: datetime) -> Service | None:
        """Return a service that goes on at ``at``, of any sensor of a base signal."""
        return next((s for s in self._spans if is_of(s.signal, signal) and s.since <= at < s.until), None)

    def believed(self, readings: Readings) -> Readings:
        """Return the readings without those that were said during a service."""
        if not self._spans or not len(readings):
            return readings
        first, said = int(readings.at_ms.min()), np.zeros(len(readings), np.bool_)
        for signal, since, until in self._spans:
            if first <= to_ms(until):
                mine = np.array([is_of(key.signal, signal) for key in readings.keys])
                during = (readings.at_ms > to_ms(since)) & (readings.at_ms <= to_ms(until))
                said |= mine[readings.key] & during
        return readings.take(~said) if said.any() else readings


def _date(at: datetime) -> str:
    return from_ms(to_ms(at)).isoformat()  # as the store gives it back


def _length(told: FlockChange) -> timedelta:
    return timedelta(seconds=int(str(told.detail["for_s"])))


def _spans_of(told: tuple[FlockChange, ...]) -> tuple[Service, ...]:
    ends: dict[str, datetime] = {}  # by signal: when the next one was told
    spans = []
    for one in reversed(told):
        signal = str(one.detail["signal"])
        until = one.at + _length(one)
        spans.append(Service(signal, one.at, min(until, ends.get(signal, until))))
        ends[signal] = one.at
    return tuple(reversed(spans))
