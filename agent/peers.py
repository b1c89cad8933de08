"""Sensors that measure the same are held against each other: twins in a house, and outside sensors of all houses. Pure.

A sensor that is wrong but alive passes every check of its own series: it is in range, it moves, it does not jump. Only
its peers show it. They are compared at the grid instants, by their means of ten minutes, never reading by reading.

Peers differ for good reasons, one hangs by the inlet, so each has its *usual difference* from the others, learnt over
days and never more than half of what would be a disagreement. A disagreement is more than ``agree_within`` of the
catalogue beyond that, for half an hour. Of three or more the one that is alone is wrong. Of two it is, in this order,
the one that stands still while the other moves; the one that left its own course when the disagreement began; the one
that is further from the houses with birds of the same age. If none of that tells, both are suspect: the models do
without them, and somebody looks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from agent.domain import Doubt, Quality, QualityInterval, to_ms
from agent.signals import base_of, is_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from agent.domain import SeriesKey
    from agent.readings import Readings
    from agent.signals import Signal

BUCKET_MS = 600_000
FRESH_BUCKETS = 3  # a sensor that reports every half an hour can still be compared
LASTS_MS = 1_800_000  # our judgement: three comparisons; before a deviation of what both measure together would warn
BACK_SHARE = 0.7  # of the limit: below, for as long, they agree again
LEARNT_MS = 2 * 86_400_000  # the usual difference follows over two days: a day and a night have their own
COURSE_MS = 6 * 3_600_000  # the own course: what a sensor showed in the hours before
FORGOTTEN_MS = 86_400_000  # a sensor that has had no peer for a day is believed again: nobody contradicts it
SAME_AGE_DAYS = 2


@dataclass(slots=True)
class _Bucket:
    """What one sensor showed in ten minutes."""

    n: int
    sum: float
    low: float
    high: float


@dataclass(slots=True)
class _Peer:
    """What must be remembered of one sensor."""

    key: SeriesKey
    within: float  # so far from the others it may be beyond its usual difference
    buckets: dict[int, _Bucket] = field(default_factory=dict)
    usual: float | None = None  # the difference from the others
    course: float | None = None
    still_since_ms: int = 0  # since when its value has been the same
    still_value: float | None = None
    off_since_ms: int | None = None  # since when it differs by more than the limit
    back_since_ms: int | None = None
    compared_ms: int = 0
    doubt: Doubt | None = None

    def at(self, number: int) -> float | None:
        """Return its mean at the bucket ``number``, or just before; None where it is silent."""
        for back in range(FRESH_BUCKETS):
            found = self.buckets.get(number - back)
            if found is not None:
                return found.sum / found.n
        return None


@dataclass(slots=True)
class _Group:
    """Sensors that should show the same."""

    unit: str
    peers: dict[SeriesKey, _Peer] = field(default_factory=dict)


class Peers:
    """All sensors that have a peer, of all houses."""

    def __init__(self, signal: Callable[[SeriesKey], Signal]) -> None:
        """Take what peers must agree within from ``signal``: the catalogue with what the house says otherwise."""
        self._signal = signal
        self._groups: dict[tuple[str, str], _Group] = {}
        self._peer_of: dict[SeriesKey, _Peer] = {}
        self._compared_bases: set[str] = set()  # whatever measures them is heard: neighbours are asked, too
        self._from_number = 0  # older buckets are never looked at: a replay of weeks does not fill the memory
        self._keys: tuple[SeriesKey, ...] = ()
        self._is_compared = np.empty(0, np.bool_)

    def restore(self, doubts: Mapping[SeriesKey, Doubt]) -> None:
        """Take back the doubts of before a restart; everything else is learnt anew."""
        for key, doubt in doubts.items():
            peer = self._join(key)
            if peer is not None:
                peer.doubt, peer.off_since_ms, peer.compared_ms = doubt, doubt.since_ms, doubt.since_ms

    def hear(self, readings: Readings) -> None:
        """Take the good readings of sensors that have peers."""
        if readings.keys is not self._keys:
            self._keys = readings.keys
            # all join before any is asked; one house may say what its own must agree within, another nothing at all
            peers = [self._join(key) for key in readings.keys]
            self._is_compared = np.array(
                [p is not None and base_of(p.key.signal) in self._compared_bases for p in peers], bool
            )
        if not len(readings) or not self._is_compared.any():
            return
        numbers = -(-readings.at_ms // BUCKET_MS)
        wanted = self._is_compared[readings.key] & (readings.quality == Quality.GOOD) & (numbers >= self._from_number)
        which = np.flatnonzero(wanted)
        columns = (readings.key[which], numbers[which], readings.value[which])
        for key, number, value in zip(*(column.tolist() for column in columns), strict=True):
            buckets = self._peer_of[readings.keys[key]].buckets
            bucket = buckets.get(number)
            if bucket is None:
                buckets[number] = _Bucket(1, value, value, value)
                continue
            bucket.n += 1
            bucket.sum += value
            bucket.low, bucket.high = min(bucket.low, value), max(bucket.high, value)

    def _join(self, key: SeriesKey) -> _Peer | None:
        """Return the place of a series among its peers; None where nothing is said of what they must agree within."""
        known = self._peer_of.get(key)
        if known is not None:
            return known
        signal = self._signal(key)
        if signal.agree_within is None:
            return None
        base = base_of(key.signal)
        place = ("" if base.startswith("outside_") else key.house, base)
        group = self._groups.setdefault(place, _Group(signal.unit or ""))
        peer = self._peer_of[key] = group.peers[key] = _Peer(key, signal.agree_within)
        if len(group.peers) > 1:
            self._compared_bases.add(base)
        return peer

    def compare(self, at: datetime, ages: Mapping[str, int | None]) -> list[QualityInterval]:
        """Return the intervals of distrust that began (without end) or ended at ``at``, a grid instant.

        ``ages`` is the age of each house's flock in days, None without one. What lasts is in ``doubts``.
        """
        at_ms = to_ms(at)
        number = at_ms // BUCKET_MS
        levels = {key: value for key, peer in self._peer_of.items() if (value := peer.at(number)) is not None}
        changed: list[QualityInterval] = []
        for (house, base), group in self._groups.items():
            if len(group.peers) > 1:
                near = self._neighbours(house, base, levels, ages) if house else None
                changed += _compared(group, at_ms, number, near)
        self._from_number = number - FRESH_BUCKETS + 1
        for peer in self._peer_of.values():
            for old in [bucket for bucket in peer.buckets if bucket < self._from_number]:
                del peer.buckets[old]
        return changed

    def begin_anew(self, house: str, signal: str, at: datetime) -> list[QualityInterval]:
        """Forget how a sensor usually differs from its peers: it was replaced; return the intervals that end."""
        ended = []
        for key, peer in self._peer_of.items():
            if key.house == house and is_of(key.signal, signal):
                if peer.doubt is not None:
                    ended.append(_interval(key, peer.doubt, to_ms(at)))
                peer.buckets.clear()
                peer.usual = peer.course = peer.doubt = peer.off_since_ms = peer.back_since_ms = None
        return ended

    def doubts(self) -> dict[SeriesKey, Doubt]:
        """Return which sensors are not believed now, and why."""
        return {key: peer.doubt for key, peer in self._peer_of.items() if peer.doubt is not None}

    def close(self, at: datetime) -> list[QualityInterval]:
        """Return what lasts at ``at``, the end of a recording, ended there."""
        return [_interval(key, doubt, to_ms(at)) for key, doubt in self.doubts().items()]

    def _neighbours(
        self, house: str, base: str, levels: Mapping[SeriesKey, float], ages: Mapping[str, int | None]
    ) -> float | None:
        """Return what the same sensors show in the houses with birds of the same age; None where there is none."""
        age = ages.get(house)
        if age is None:
            return None
        found = [
            value
            for key, value in levels.items()
            if key.house != house and base_of(key.signal) == base and self._peer_of[key].doubt is None
            if (other := ages.get(key.house)) is not None and abs(other - age) <= SAME_AGE_DAYS
        ]
        return median(found) if found else None


def _compared(group: _Group, at_ms: int, number: int, near: float | None) -> list[QualityInterval]:
    """Compare the peers of one group at one instant."""
    heard = {key: value for key, peer in group.peers.items() if (value := peer.at(number)) is not None}
    for key in heard:
        _note_still(group.peers[key], at_ms, number)
    changed: list[QualityInterval] = []
    if len(heard) < 2:
        return _given_up(group, at_ms)
    middle = median(heard.values())
    apart: dict[SeriesKey, float] = {}
    for key, value in heard.items():
        peer = group.peers[key]
        shown = middle if len(heard) > 2 else next(v for k, v in heard.items() if k != key)
        peer.compared_ms = at_ms
        apart[key] = _excess(peer, value - shown)
        _note_off(peer, apart[key] / peer.within, at_ms)
        if peer.off_since_ms is None and peer.doubt is None:
            _learn(peer, value, value - shown)
    lasting = [key for key in heard if _lasts(group.peers[key].off_since_ms, at_ms)]
    wrong = _wrong(group, heard, lasting, near)
    for key in wrong:
        peer = group.peers[key]
        others = [k.signal if k.house == key.house else f"{k.house}'s" for k in heard if k != key]
        reason = f"{apart[key]:+.3g} {group.unit} off its usual difference from {', '.join(others[:3])}"
        if len(wrong) == len(heard):
            reason += ", and nobody can tell which of them is wrong"
        if peer.doubt is None:
            peer.doubt = Doubt(peer.off_since_ms or at_ms, reason)
            changed.append(_interval(key, peer.doubt, None))
    for key, off in apart.items():
        peer = group.peers[key]
        if peer.doubt is not None:
            score, expected = abs(off) / peer.within, heard[key] - off
            peer.doubt = peer.doubt._replace(score=score, actual=heard[key], expected=expected)
            if _lasts(peer.back_since_ms, at_ms):
                changed.append(_interval(key, peer.doubt, peer.back_since_ms))
                peer.doubt = None
    return changed


def _given_up(group: _Group, at_ms: int) -> list[QualityInterval]:
    ended = []
    for key, peer in group.peers.items():
        if peer.doubt is not None and at_ms - peer.compared_ms >= FORGOTTEN_MS:
            ended.append(_interval(key, peer.doubt, at_ms))
            peer.doubt = peer.off_since_ms = peer.back_since_ms = None
    return ended


def _excess(peer: _Peer, difference: float) -> float:
    """Return how far the difference is from the usual one."""
    if peer.usual is None:
        peer.usual = max(-peer.within / 2, min(difference, peer.within / 2))
    return difference - peer.usual


def _learn(peer: _Peer, value: float, difference: float) -> None:
    usual = (peer.usual or 0.0) + (difference - (peer.usual or 0.0)) * BUCKET_MS / LEARNT_MS
    peer.usual = max(-peer.within / 2, min(usual, peer.within / 2))
    peer.course = value if peer.course is None else peer.course + (value - peer.course) * BUCKET_MS / COURSE_MS


def _note_off(peer: _Peer, size: float, at_ms: int) -> None:
    if abs(size) >= 1:
        peer.off_since_ms = peer.off_since_ms or at_ms - BUCKET_MS
        peer.back_since_ms = None
    elif peer.doubt is None:
        peer.off_since_ms = None
    elif abs(size) <= BACK_SHARE:
        peer.back_since_ms = peer.back_since_ms or at_ms
        if _lasts(peer.back_since_ms, at_ms):
            peer.off_since_ms = None
    else:
        peer.back_since_ms = None


def _note_still(peer: _Peer, at_ms: int, number: int) -> None:
    bucket = peer.buckets.get(number)
    if bucket is None:
        return
    if bucket.low != bucket.high or bucket.low != peer.still_value:
        peer.still_since_ms = at_ms - BUCKET_MS
        peer.still_value = bucket.low if bucket.low == bucket.high else None


def _lasts(since_ms: int | None, at_ms: int) -> bool:
    return since_ms is not None and at_ms - since_ms >= LASTS_MS


def _wrong(
    group: _Group, heard: Mapping[SeriesKey, float], lasting: Iterable[SeriesKey], near: float | None
) -> list[SeriesKey]:
    """Return which of those that differ are wrong; of two both, where it cannot be told."""
    found = list(lasting)
    if len(heard) > 2 or len(found) < 2:
        return found
    first, second = (group.peers[key] for key in found)
    if any(peer.doubt is not None for peer in (first, second)):  # once decided it stays so, or they would take turns
        return [peer.key for peer in (first, second) if peer.doubt is not None]
    began_ms, clear = first.off_since_ms or 0, max(first.within, second.within) / 2
    stands = [peer for peer in (first, second) if peer.still_value is not None and peer.still_since_ms <= began_ms]
    if len(stands) == 1:
        return [stands[0].key]
    courses = [abs(heard[p.key] - p.course) for p in (first, second) if p.course is not None]
    if len(courses) == 2 and abs(courses[0] - courses[1]) > clear:
        return [first.key if courses[0] > courses[1] else second.key]
    if near is not None:
        away = [abs(heard[peer.key] - near) for peer in (first, second)]
        if abs(away[0] - away[1]) > clear:
            return [first.key if away[0] > away[1] else second.key]
    return found


def _interval(key: SeriesKey, doubt: Doubt, to_ms_: int | None) -> QualityInterval:
    return QualityInterval(key, doubt.since_ms, to_ms_, Quality.SUSPECT, doubt.reason)
