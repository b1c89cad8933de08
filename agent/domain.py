"""What the whole program talks about: plain values, no behaviour beyond themselves, standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import IntEnum, StrEnum
from typing import NamedTuple


def to_ms(at: datetime) -> int:
    """Return an aware instant as integer milliseconds since 1970 (UTC).

    Raises:
        ValueError: ``at`` has no time zone.
    """
    if at.tzinfo is None:
        message = f"a time without a zone reached the store: {at!r}"
        raise ValueError(message)
    return round(at.timestamp() * 1000)


def from_ms(at_ms: int) -> datetime:
    """Return the aware UTC instant of ``at_ms`` milliseconds since 1970."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)


class Kind(StrEnum):
    """How the values of a signal add up."""

    GAUGE = "gauge"  # a level
    INCREMENT = "increment"  # the amount since the last reading
    COUNTER = "counter"  # a running total that may reset


class Quality(IntEnum):
    """The judged trust in a reading; everything but GOOD is masked from the models."""

    GOOD = 0
    STUCK = 1
    OUT_OF_RANGE = 2
    JUMP = 3
    STALE = 4
    SUSPECT = 5


class TimeQuality(IntEnum):
    """Where a reading's time comes from."""

    SENDER = 0  # the sender gave it, with its zone
    ASSUMED_ZONE = 1  # the sender gave local time without a zone: taken as the site's
    ARRIVAL = 2  # the sender gave none: the time of arrival
    LATE = 3  # the sender's, but it reached us out of order
    UNTRUSTED = 4  # our own clock could not be trusted


RULE_KINDS = (
    *("deviation", "trend", "mortality", "missing", "silent", "stuck", "disagree", "unregistered", "placement"),
    *("high", "low", "max", "min", "misplaced", "drop", "rise", "few", "much", "ratio", "range"),
)
"""The kinds of warning rules: a rule is called ``<kind>`` or ``<kind>-<signal>`` (what each is: agent/rules.py)."""


class Severity(IntEnum):
    """How bad a warning is; 0 means that nothing stands."""

    NONE = 0
    WARNING = 1
    MINOR = 2
    MAJOR = 3
    CRITICAL = 4


class About(StrEnum):
    """What a warning is about."""

    BIRDS = "birds"
    CLIMATE = "climate"
    EQUIPMENT = "equipment"
    DATA = "data"
    HOUSE_STATE = "house_state"


class HouseState(StrEnum):
    """What goes on in the house; it gates every rule."""

    EMPTY = "empty"
    PREHEAT = "preheat"
    ACTIVE = "active"
    CATCHING = "catching"
    THINNED = "thinned"
    WASHING = "washing"


class WarningState(StrEnum):
    """Where a warning rule stands (ISA-18.2 / IEC 62682 words)."""

    NORMAL = "normal"
    PENDING = "pending"  # the limit is crossed, the on-delay runs
    ACTIVE = "active"
    ACKNOWLEDGED = "acknowledged"
    SHELVED = "shelved"
    SUPPRESSED = "suppressed"  # by design: the house state or a bad sensor explains it


PUBLISHED_STATES = frozenset({WarningState.ACTIVE, WarningState.ACKNOWLEDGED, WarningState.SHELVED})
"""The states that are shown on MQTT; pending and suppressed stay in the store."""


class Reason(StrEnum):
    """Why a warning changed its state: the same word in log, store, MQTT and lake."""

    LIMIT_CROSSED = "limit_crossed"  # normal -> pending
    ON_DELAY_OVER = "on_delay_over"  # pending -> active
    BACK_BEFORE_DELAY = "back_before_delay"  # pending -> normal
    BACK_IN_BAND = "back_in_band"  # active -> normal, off-delay over
    CHATTERING = "chattering"  # pending -> active, and not for the first time: it comes and goes
    SEVERITY_ROSE = "severity_rose"  # active -> active, worse
    ESCALATED = "escalated"  # active -> active, a step more severe: nobody has acknowledged it for long
    CANNOT_SAY = "cannot_say"  # evidence ran out: coverage or quality
    HOUSE_STATE = "house_state"  # the house state gates the rule
    FLOCK_AGE = "flock_age"  # the flock is too young for the rule
    SERVICE = "service"  # somebody is at the sensor
    BAD_QUALITY = "bad_quality"  # the sensor that shows it is not believed
    ROOT_CAUSE = "root_cause"  # it follows from another warning, which stands
    RULE_REMOVED = "rule_removed"  # the rule is not configured any more
    ACKNOWLEDGED_BY = "acknowledged_by"
    SHELVED_BY = "shelved_by"
    UNSHELVED_BY = "unshelved_by"
    SHELF_TIME_OVER = "shelf_time_over"


class SeriesKey(NamedTuple):
    """Names one series of readings."""

    house: str
    signal: str


class QualityInterval(NamedTuple):
    """A time in which a series was not good: [from_ms, to_ms); None while it lasts."""

    key: SeriesKey
    from_ms: int
    to_ms: int | None
    quality: Quality
    reason: str


class Doubt(NamedTuple):
    """Why a sensor is not believed although it passes every check of its own series: its peers show something else."""

    since_ms: int
    reason: str
    score: float = 1.0  # how far it is off, in units of what is allowed
    actual: float | None = None
    expected: float | None = None  # by what its peers show


@dataclass(frozen=True, slots=True)
class Message:
    """One MQTT message as it came in."""

    topic: str
    payload: bytes
    qos: int
    mid: int
    dup: bool
    retain: bool
    connection: int  # the number of the connection it came by: an ack of an older one is discarded
    received_ms: int
    received_monotonic: float


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message, or one value of it, that did not become a reading."""

    topic: str
    reason: str
    first_bytes: bytes
    received_ms: int


@dataclass(frozen=True, slots=True)
class Flock:
    """The birds placed in a house ("batch" in SKOV's words); ``flock`` is unique in its house."""

    house: str
    flock: str
    placed_on: date
    birds_placed: int | None = None
    strain: str | None = None
    sex: str | None = None
    parent_age_weeks: float | None = None
    planned_end_on: date | None = None
    ended_at: datetime | None = None
    slaughter_weight_g: float | None = None
    thinned: tuple[tuple[datetime, int], ...] = ()  # (when, birds taken out alive)
    recorded: tuple[tuple[date, int, int], ...] = ()  # (farm date, dead, culled) told by people; wins over readings

    @property
    def thinned_birds(self) -> int:
        """The birds taken out alive so far."""
        return sum(birds for _, birds in self.thinned)


@dataclass(frozen=True, slots=True)
class FlockChange:
    """What happened to a flock, with the flock as it then was; a row of the ``flocks`` stream."""

    at: datetime
    action: str  # place | record | thin | state | end | service
    house: str
    state: HouseState  # of the house, after it
    flock: Flock | None  # after it; an ended flock is told once more, with its end
    detail: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Quantiles of one target at one time, by one bundle."""

    house: str
    flock: str | None
    made_at: datetime
    day_number: int | None
    target: str
    target_at: datetime
    horizon: str  # slaughter | 1d | 1h ...
    p10: float
    p50: float
    p90: float
    model: str
    model_version: str
    coverage: float
    stretch: float = 1.0  # by which its half bands are wider than the model's own


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a ``custom`` model says of a house in other words than the three quantiles; shown, and not kept.

    ``values`` by their names: the labels of probabilities, ``p25`` and the like of quantiles, else ``score`` or
    ``value`` (with a number, where there are several).
    """

    house: str
    flock: str | None
    made_at: datetime
    day_number: int | None
    target: str
    meaning: str  # probabilities | score | value | quantiles
    values: dict[str, float]
    unit: str | None
    model: str
    model_version: str
    coverage: float


@dataclass(frozen=True, slots=True)
class Score:
    """How unusual one reading is to a model, 0 to 1; None where it could not say, and ``why``."""

    house: str
    signal: str
    at_ms: int
    score: float | None
    model: str
    model_version: str
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Cause:
    """A probable cause; ``probability`` is None where no model gave one."""

    cause: str
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class WarningRule:
    """When one kind of warning rises and clears (deadband, on-delay, off-delay: ISA-18.2)."""

    name: str  # <kind> or <kind>-<signal>: the last word of the topic
    about: About
    signal: str | None
    severity: Severity
    threshold: float  # what the evidence is measured in, see agent/rules.py: a score of 1 is one threshold
    on_delay_s: int
    off_delay_s: int
    deadband: float  # the share of the threshold by which the score must fall before it counts as back
    states: frozenset[HouseState]  # where the rule applies
    first_day: int = 0  # the youngest age, in days, at which it applies
    latching: bool = False  # stays until it is acknowledged, also when it is back in its band
    escalate_after_s: int = 0  # unacknowledged for so long it is a step more severe; 0: never


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a rule is given to judge at one instant.

    ``score`` is the size of the deviation in units of the rule's own threshold: 1 is the limit, more is worse; None
    means "cannot say", and ``why`` says why: a message of agent/languages.py, with places for ``why_values``.
    """

    score: float | None
    why: str = ""
    actual: float | None = None
    expected: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str | None = None
    severity: Severity | None = None  # worse than the rule's own, where the evidence says so
    confidence: float | None = None  # the probability that it is a true departure, by the model of the causes
    coverage: float | None = None
    model: str | None = None
    model_version: str | None = None
    since: datetime | None = None  # when what is seen began, where the evidence knows it (a silent sensor)
    over_s: int | None = None  # over how long what was measured was expected
    is_early: bool = False  # a model sees coming what the rule is about; it is not there yet
    course: tuple[float, ...] = ()  # what it was on the last days, the newest last, where that says more than a figure
    causes: tuple[Cause, ...] = ()  # probable causes by a model, the likeliest first; none: no model was asked
    why_values: dict[str, str | float] = field(
        default_factory=dict
    )  # of the places in ``why``: sensor, share, since_ms


@dataclass(frozen=True, slots=True)
class Spell:
    """One rise of a rule that was shown, for as long as it counts for whether the rule comes and goes."""

    since: datetime  # the limit was crossed
    back_since: datetime | None = None  # it was back in its band, and cleared; None where it ended in another way
    lowest: float | None = None  # the lowest score from then until the next rise


@dataclass(frozen=True, slots=True)
class Chatter:
    """That a rule comes and goes, and what would have made one warning of it."""

    rises: int  # of them, this one among them
    within_s: int
    off_delay_s: int  # so long an off-delay; it is in force until the rule is calm
    deadband: float | None  # or so large a deadband; None where none would have


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one rule of one house stands; kept in the store, survives restarts."""

    rule: str
    house: str
    state: WarningState = WarningState.NORMAL
    severity: Severity = Severity.NONE
    id: str | None = None  # of the occurrence; set when it becomes active
    flock: str | None = None
    since: datetime | None = None  # the limit was crossed
    back_since: datetime | None = None  # it is back in its band, the off-delay runs
    unknown_since: datetime | None = None  # the evidence ran out: nobody can say
    raised_at: datetime | None = None
    updated_at: datetime | None = None
    shelved_until: datetime | None = None
    asked_at: datetime | None = None  # since when it waits to be acknowledged
    is_escalated: bool = False  # it became more severe by waiting; once for each occurrence
    spells: tuple[Spell, ...] = ()  # when it was shown lately, the newest last
    chatter: Chatter | None = None  # it comes and goes
    by: str | None = None  # who acknowledged or shelved it
    why: str | None = None  # what they said about it
    reason: Reason | None = None
    evidence: Evidence | None = None  # at the last transition or update


@dataclass(frozen=True, slots=True)
class WarningEvent:
    """A transition of one rule, with its reason; a row of the ``warnings`` stream."""

    at: datetime
    before: WarningState
    standing: Standing  # after it
    reason: Reason
    about: About
    signal: str | None
    day_number: int | None
    text: str
    causes: tuple[Cause, ...]
    check_first: str
    lang: str = "en"  # of text and check_first


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth keeping that is no reading: a gap, a conflict, an interval of bad quality, a start."""

    at: datetime
    kind: str
    house: str | None = None
    signal: str | None = None
    from_at: datetime | None = None
    to_at: datetime | None = None
    detail: dict[str, object] = field(default_factory=dict)
