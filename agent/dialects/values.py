"""What all dialects share: why something is refused, what a number is, and what a time is.

Times are numbers (seconds or milliseconds since 1970, told apart by their size) or ISO 8601 texts. A time without a
zone is the site's local time. Milliseconds before March 1973 would pass for seconds; nothing here is that old.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from math import isfinite
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agent.domain import Quality, TimeQuality

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from zoneinfo import ZoneInfo

    Parse = Callable[[bytes, str], "Sequence[Group | Sample | Refused] | Refusal"]
    """A dialect: payload and the signal that the topic names ("" where it names none) to what it holds."""

SECONDS_BELOW = 1e11  # as seconds the year 5138, as milliseconds March 1973
EARLIEST_MS = 946_684_800_000  # 2000-01-01T00:00:00Z: older is a clock that was never set
LATEST_MS = 4_102_444_800_000  # 2100-01-01T00:00:00Z: the bound where our own clock cannot give one
AHEAD_MS = 86_400_000  # a day: a wrong zone is up to 14 h ahead and is worth keeping, a wrong date is not
LONGEST_TIME = 64  # characters; ISO 8601 with nanoseconds and offset has 35
MOST_VALUES = 1_000  # of one message: four times the signals that a house may have
LONGEST_NUMBER = 64  # characters of a bare number that JSON does not know, such as "+5" or ".5"

_PLAIN_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_ANY: msgspec.json.Decoder[object] = msgspec.json.Decoder(object)
_NOT_FINITE_WORDS = frozenset({"nan", "inf", "infinity"})


class Refusal(StrEnum):
    """Why something did not become a reading: the same words in counters, store and console."""

    UNKNOWN_TOPIC = "unknown topic"
    OTHER_SITE = "other site"
    BAD_NAME = "bad name"
    EMPTY = "empty"
    TOO_LARGE = "too large"
    TOO_DEEP = "too deep"
    BAD_UTF8 = "bad UTF-8"
    NOT_JSON = "not JSON"
    WRONG_TYPE = "wrong type"
    NO_VALUE = "no value"
    NOT_FINITE = "not finite"
    BAD_TIME = "bad time"
    FUTURE = "time in the future"
    PAST = "time before 2000"
    TOO_MANY_HOUSES = "too many houses"
    TOO_MANY_SIGNALS = "too many signals"
    TOO_MANY_VALUES = "too many values"
    TOO_MANY_BIRTHS = "too many births"
    UNKNOWN_HOUSE = "unknown house"
    SECOND_SENSOR = "second sensor of one name"
    UNKNOWN_UNIT = "unknown unit"
    NOT_UNDERSTOOD = "not understood"
    NOT_PROTOBUF = "not protobuf"
    BEFORE_BIRTH = "before its birth"
    UNKNOWN_ALIAS = "unknown alias"
    # counted, not rejected: nothing is wrong with these
    RETAINED = "retained"
    REDELIVERED = "redelivered"
    NO_DATA = "no data"
    STATUS = "status, no reading"
    REPEATED = "amount told before"


COUNTED_ONLY = frozenset({Refusal.RETAINED, Refusal.REDELIVERED, Refusal.NO_DATA, Refusal.STATUS, Refusal.REPEATED})
"""Refusals of what a sender rightly sends: they are counted, and no bytes of them are kept."""


class Group(NamedTuple):
    """Values of one time, as the sender wrote them: not yet checked."""

    at: object  # None: the sender gave no time
    values: Mapping[str, object]  # by the sender's name of the signal


class Sample(NamedTuple):
    """One value that says more of itself than a topic can; not yet checked."""

    signal: str  # our name: the dialect has renamed it
    value: object
    at: object = None  # as in a Group
    after_s: float = 0.0  # where ``at`` is None: so long after the arrival (negative: before it)
    house: str = ""  # "": the topic's
    unit: str = ""  # in SenML's words; "": ours
    quality: Quality = Quality.GOOD  # the sender's own word
    is_repeat: bool = False  # the sender may have said it before: an amount must not count again


class Refused(NamedTuple):
    """A part of a message that is no reading, and why."""

    refusal: Refusal
    detail: str = ""


def number_of(value: object) -> float | Refusal:
    """Return a finite number for what JSON holds; true and false are 1 and 0, null is no data."""
    if value is None:
        return Refusal.NO_DATA
    if not isinstance(value, (int, float)):
        return Refusal.WRONG_TYPE
    try:
        number = float(value)
    except OverflowError:  # an int beyond 1.8e308
        return Refusal.NOT_FINITE
    return number if isfinite(number) else Refusal.NOT_FINITE


def loose(payload: bytes) -> object:
    """Return what a payload says that strict JSON refused, or the reason why nothing can be made of it.

    Takes what senders really write: NaN and numbers too large inside an object whose other values are good, and bare
    numbers such as ``+5`` or ``.5``. Slow, and only the bad payloads pay for it.
    """
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return Refusal.BAD_UTF8
    try:
        # as floats, since Python refuses ints of more than 4,300 digits
        document: object = json.loads(text, parse_int=float)
    except RecursionError:
        return Refusal.TOO_DEEP
    except ValueError:
        return _bare(text.strip())
    return document


def document_of(payload: bytes) -> object:
    """Return what a JSON payload holds, leniently as ``loose``, or the reason why nothing can be made of it."""
    try:
        return _ANY.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return loose(payload)


def _bare(text: str) -> float | Refusal:
    if len(text) <= LONGEST_NUMBER and _PLAIN_NUMBER.fullmatch(text):
        return float(text)
    if text.lower().lstrip("+-") in _NOT_FINITE_WORDS:
        return Refusal.NOT_FINITE
    return Refusal.NOT_JSON


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is known about the time when a message came in: the measure for the time that its sender claims."""

    zone: ZoneInfo
    clock_trusted: bool
    clock_sure: bool = True  # something outside has set it right: a sender that is a day ahead of it is wrong

    def time_of(self, raw: object, received_ms: int) -> tuple[int, TimeQuality] | Refusal:
        """Return milliseconds since 1970 and where they come from, for what a sender gave as the time.

        None is the time of arrival. Without a trusted clock of our own, the future begins in 2100. Where our clock may
        be behind, for all we know, a sender a day ahead of it is taken at its word and marked: nobody knows who is
        right, and a good reading that is refused would be lost.
        """
        if raw is None:
            return received_ms, TimeQuality.ARRIVAL if self.clock_trusted else TimeQuality.UNTRUSTED
        time_quality = TimeQuality.SENDER
        if isinstance(raw, bool):
            return Refusal.BAD_TIME
        if isinstance(raw, (int, float)):
            if isinstance(raw, float) and not isfinite(raw):
                return Refusal.BAD_TIME
            at_ms = round(raw * 1000 if abs(raw) < SECONDS_BELOW else raw)
        elif isinstance(raw, str):
            parsed = self._iso(raw, received_ms)
            if parsed is None:
                return Refusal.BAD_TIME
            at_ms, time_quality = parsed
        else:
            return Refusal.BAD_TIME
        if at_ms < EARLIEST_MS:
            return Refusal.PAST
        if self.clock_trusted and at_ms > received_ms + AHEAD_MS:
            if self.clock_sure or at_ms > LATEST_MS:
                return Refusal.FUTURE
            return at_ms, TimeQuality.UNTRUSTED
        if at_ms > LATEST_MS:
            return Refusal.FUTURE
        return at_ms, time_quality

    def _iso(self, text: str, received_ms: int) -> tuple[int, TimeQuality] | None:
        if len(text) > LONGEST_TIME:
            return None
        try:
            at = datetime.fromisoformat(text)
            if at.tzinfo is not None:
                return round(at.timestamp() * 1000), TimeQuality.SENDER
            # in autumn an hour comes twice: of the two, the one nearer to the arrival is meant
            first, second = (round(at.replace(tzinfo=self.zone, fold=fold).timestamp() * 1000) for fold in (0, 1))
        except (ValueError, OverflowError):  # no time; or one at the very edge of the calendar
            return None
        nearer = first if abs(first - received_ms) <= abs(second - received_ms) else second
        return nearer, TimeQuality.ASSUMED_ZONE
