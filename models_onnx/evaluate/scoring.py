"""What counts as found, as false, as early: one set of definitions for the agent and for every baseline.

- An alarm is *right* where it rises between the fault's onset and its end (and ``GRACE_MS`` after it: what a day's sum
  or the morning's round shows comes later), about a signal that the fault moves (``MOVES``). One that stood before does
  not count. What people did not tell (``LASTING``) is there for good: a week is time enough to notice.
- *False* is every alarm in a house in which nothing is wrong, but for those that tell the truth all the same: that a
  sensor is silent which really is, or that birds die within a week of what in the counts that people tell *is* an
  outbreak (train/outbreaks.py; birds die in healthy flocks, too). Alarms of one house at most ``ONE_EPISODE_MS`` apart
  are one episode: one walk to the house.
- The *lead* is how much earlier our first right alarm rises than the house computer's. A fault that the house computer
  never sees is censored: it counts as seen when the time in which an alarm is right ends, so the lead is at least that.
  A fault that only we miss has a lead of minus infinity; one that both miss has none, and counts under "found" only.
- *By chance*: whether such an alarm rises in the equally long time before the onset. A detector that always cries finds
  everything, and this shows it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from agent.rules import kind_of
from agent.signals import base_of
from models_onnx.evaluate.baselines import daily, house_computer
from models_onnx.evaluate.baselines.alarms import Alarm
from models_onnx.evaluate.record import STEP_MS
from models_onnx.farm.farm import DAY_MS, HOUR_MS
from models_onnx.farm.faults import FAULTS
from models_onnx.train.cause import CAUSE_OF
from models_onnx.train.outbreaks import FINDS_DAYS, first_days

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from models_onnx.evaluate.play import Played, Raised
    from models_onnx.evaluate.record import HouseRecord
    from models_onnx.farm.truth import FaultTruth

OURS, RULES = "flockwatch", "house computer"
GRACE_MS = DAY_MS
LASTING, LASTING_MS = frozenset({"thin_unrecorded", "placement_wrong"}), 7 * DAY_MS
ONE_EPISODE_MS = 12 * HOUR_MS
DEAD = frozenset({"dead", "culled"})
ANY = "*"  # an alarm about the whole house
STEPS = ("mild", "medium", "severe")  # thirds of the severities of a kind

_CLIMATE = frozenset({"temperature", "humidity", "co2", "ammonia", "pressure", "ventilation", "heating"})
_BIRDS = frozenset({"water", "feed", "weight", "dead"})
_HEAT = frozenset({"temperature", "outside_temperature", "humidity", "ventilation", "water", "feed", "dead", "weight"})

MOVES: Mapping[str, frozenset[str]] = {
    "water_line_blocked": frozenset({"water", "feed", "weight"}),
    "water_leak": frozenset({"water", "humidity", "ammonia"}),
    "feed_outage": frozenset({"feed", "water", "weight"}),
    "feed_bridge": frozenset({"feed", "water", "weight"}),
    "ventilation_failure": _CLIMATE | _BIRDS,
    "fan_fouling": _CLIMATE | _BIRDS,
    "inlet_stuck": _CLIMATE | _BIRDS,
    "heater_failure": _CLIMATE | _BIRDS,
    "cooling_failure": _HEAT,
    "heat_wave": _HEAT,
    "door_open": _CLIMATE,
    "wet_litter": frozenset({"ammonia", "humidity"}),
    "disease": _BIRDS,
    "coccidiosis": _BIRDS | {"humidity", "ammonia"},
    "enteritis": _BIRDS | {"humidity", "ammonia"},
    "respiratory": _BIRDS,
    "mortality_outbreak": _BIRDS,
    "growth_lag": _BIRDS,
    "scale_dirty": frozenset({"weight", "weight_count"}),
    "clock_error": frozenset({"light", "water", "feed", "clock"}),
    "thin_unrecorded": _BIRDS | _CLIMATE | {"unrecorded"},
    "placement_wrong": _BIRDS | {"unrecorded"},
}
"""By fault the signals that it moves; a sensor fault moves its own signal."""

_SAME: Mapping[str, str] = {
    # words of agent/explain.py, where no model of the causes spoke, that send people to the same place
    "feed_bridge_in_silo": "feed_outage",
    "gut_disturbance": "disease",
    "gateway_silent": "sensor_silent",
    "sensor_disagrees": "sensor_drift",
}

FLOW_STOPS = ("water_line_blocked", "feed_outage")
SLOW = (
    "growth_lag", "disease", "coccidiosis", "enteritis", "respiratory", "water_leak", "fan_fouling", "sensor_fouled",
)  # fmt: skip
OUTBREAKS = "mortality_outbreak"


def moved_by(fault: FaultTruth) -> frozenset[str]:
    """Return the signals about which an alarm is right."""
    if fault.signal is not None:
        return frozenset({fault.signal, f"{fault.signal}_count"})
    return MOVES[fault.name]


def right_until(fault: FaultTruth) -> int:
    """Return up to when an alarm is right, if the flock lives so long."""
    end_ms = fault.to_ms + GRACE_MS
    return max(end_ms, fault.from_ms + LASTING_MS) if fault.name in LASTING else end_ms


def step_of(fault: FaultTruth) -> str:
    """Return in which third of what is drawn of its kind a fault's severity lies."""
    low, high = FAULTS[fault.name].drawn_severity
    share = (fault.severity - low) / (high - low) if high > low else 1.0
    return STEPS[min(max(int(share * len(STEPS)), 0), len(STEPS) - 1)]


def alarm_of(raised: Raised) -> Alarm:
    """Return a warning as an alarm; the signal of a rule that has none is what its kind looks at."""
    kind = kind_of(raised.rule)
    signal = base_of(raised.signal) if raised.signal else {"mortality": "dead", "silent": ANY}.get(kind, kind)
    until_ms = raised.cleared_ms if raised.cleared_ms is not None else raised.at_ms
    return Alarm(raised.rule, signal, raised.at_ms, until_ms)


def alarms_of(record: HouseRecord, played: Played) -> dict[str, list[Alarm]]:
    """Return the alarms of every detector in one house by its name."""
    ours = [alarm_of(raised) for raised in played.warnings]
    return {OURS: ours, RULES: house_computer.alarms(record), **daily.detections(record)}


def is_told_gap(record: HouseRecord, alarm: Alarm) -> bool:
    """Tell whether an alarm says that a sensor is silent, and it really is."""
    if alarm.rule != "silent" and not alarm.rule.startswith(("missing-", "sensor error")):
        return False
    at = int(np.searchsorted(record.at_ms, alarm.at_ms - STEP_MS))
    names = record.signals if alarm.signal == ANY else [alarm.signal]
    return all(name in record.signals and bool(np.isnan(record.signals[name][at : at + 2]).any()) for name in names)


def outbreaks_of(record: HouseRecord) -> list[int]:
    """Return the first instants of the days that are outbreaks in the counts that people told."""
    found = []
    for days in daily.days_of(record):
        first = np.flatnonzero(first_days(days.dead_share[None])[0])
        found += [days.begin_ms + day * DAY_MS for day in first.tolist()]
    return found


@dataclass(frozen=True, slots=True)
class Found:
    """How one fault was found: hours from its onset to the first right alarm of each detector, None = never."""

    farm: str
    fault: str
    signal: str | None
    step: str  # of STEPS
    length_h: float
    window_h: float  # the time in which an alarm is right
    detectable_h: float | None  # from the onset until anything shown betrays it; None = never
    hours: dict[str, float | None]
    chance: dict[str, bool | None]  # whether a right alarm rose in the time before; None = the flock was too young
    causes: tuple[tuple[str, float | None], ...] = ()  # as our first right warning told them

    @property
    def is_detectable(self) -> bool:
        """Whether anything that is shown betrays it."""
        return self.detectable_h is not None

    @property
    def lead_h(self) -> float | None:
        """Our lead over the house computer; see the module's words."""
        ours, rules = self.hours[OURS], self.hours[RULES]
        if ours is None:
            return None if rules is None else float("-inf")
        return (self.window_h if rules is None else rules) - ours


def found_of(record: HouseRecord, fault: FaultTruth, played: Played) -> Found:
    """Return how the fault of a house was found."""
    moved = moved_by(fault) | {ANY}
    flock = record.flock_at(fault.from_ms)
    end_ms = min(right_until(fault), record.end_ms, *([flock.end_ms] if flock is not None else []))
    before_ms = fault.from_ms - (end_ms - fault.from_ms)
    had_time = flock is not None and before_ms >= flock.placed_ms + 3 * DAY_MS
    hours: dict[str, float | None] = {}
    chance: dict[str, bool | None] = {}
    alarms = alarms_of(record, played)
    for name, of in alarms.items():
        right = [a.at_ms for a in of if a.signal in moved and fault.from_ms <= a.at_ms <= end_ms]
        hours[name] = (min(right) - fault.from_ms) / HOUR_MS if right else None
        told = any(a.signal in moved and before_ms <= a.at_ms < fault.from_ms for a in of)
        chance[name] = told if had_time else None
    ours = hours[OURS]
    causes: tuple[tuple[str, float | None], ...] = ()
    if ours is not None:
        at_ms = fault.from_ms + round(ours * HOUR_MS)
        first = next(
            raised
            for raised, alarm in zip(played.warnings, alarms[OURS], strict=True)
            if raised.at_ms == at_ms and alarm.signal in moved
        )
        causes = first.causes
    return Found(
        record.farm,
        fault.name,
        fault.signal,
        step_of(fault),
        (fault.to_ms - fault.from_ms) / HOUR_MS,
        (end_ms - fault.from_ms) / HOUR_MS,
        None if fault.detectable_ms is None else (fault.detectable_ms - fault.from_ms) / HOUR_MS,
        hours,
        chance,
        causes,
    )


def right_causes(found: Found) -> frozenset[str]:
    """Return the causes that are right: what the fault is, and for the bird scale that it is the scale."""
    right = {CAUSE_OF[found.fault]}
    if found.signal == "weight":
        right.add("scale_fault")
    return frozenset(right)


def place_of_cause(found: Found) -> int | None:
    """Return at which place, from 0, the right cause was told; None where it was not."""
    told = list(dict.fromkeys(_SAME.get(cause, cause) for cause, _ in found.causes))
    return next((place for place, cause in enumerate(told) if cause in right_causes(found)), None)


@dataclass(frozen=True, slots=True)
class Quiet:
    """What alarms rose in one house while nothing was wrong in it."""

    farm: str
    house_days: float  # with birds
    false: dict[str, Counter[str]]  # by detector and rule
    episodes: dict[str, int]
    true_all_the_same: dict[str, int] = field(default_factory=dict)  # of silent sensors, and of outbreaks


def quiet_of(record: HouseRecord, played: Played, until_ms: int | None = None) -> Quiet:
    """Return the alarms of a house in which nothing was wrong up to ``until_ms``."""
    end_ms = record.end_ms if until_ms is None else until_ms
    days = sum(max(min(f.end_ms, end_ms) - f.placed_ms, 0) for f in record.flocks) / DAY_MS
    false: dict[str, Counter[str]] = {}
    episodes: dict[str, int] = {}
    true: dict[str, int] = {}
    deaths = outbreaks_of(record)
    for name, alarms in alarms_of(record, played).items():
        early = [alarm for alarm in alarms if alarm.at_ms < end_ms]
        wrong = [alarm for alarm in early if not (is_told_gap(record, alarm) or _is_outbreak(alarm, deaths))]
        true[name] = len(early) - len(wrong)
        false[name] = Counter(alarm.rule for alarm in wrong)
        episodes[name] = episodes_of(wrong)
    return Quiet(record.farm, days, false, episodes, true)


def _is_outbreak(alarm: Alarm, deaths: Iterable[int]) -> bool:
    return alarm.signal in DEAD and any(abs(alarm.at_ms - day_ms) <= FINDS_DAYS * DAY_MS for day_ms in deaths)


def episodes_of(alarms: Iterable[Alarm]) -> int:
    """Return how many episodes the alarms of one house make."""
    count, until_ms = 0, None
    for alarm in sorted(alarms, key=lambda alarm: alarm.at_ms):
        if until_ms is None or alarm.at_ms > until_ms + ONE_EPISODE_MS:
            count += 1
        until_ms = max(until_ms or 0, alarm.until_ms)
    return count
