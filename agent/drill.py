"""The drill: a made-up fault that tries the way from a reading to the controllers and back, on topics of its own.

A reading beyond its limit is published as a sensor would, comes back through the broker, is decoded and judged by the
parts that judge the house, becomes an alert, and is confirmed by the controllers that take part; then it is over, and
that is told, too. Nothing of it can be taken for the truth: every topic has the level ``drill``, every document says
``"drill": true``, its rule is no rule of the house, and of all that only the outcome is kept, as an event.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from agent import judge as judging
from agent.alerts import alert, iso
from agent.dialects import value as value_dialect
from agent.dialects.values import Refusal
from agent.domain import About, Event, Evidence, HouseState, Severity, Standing, WarningEvent, WarningRule

if TYPE_CHECKING:
    from agent.config import Config
    from agent.topics import Topics

RULE: Final = WarningRule(
    "drill", About.EQUIPMENT, None, Severity.WARNING, 1.0, 0, 0, 0.0, frozenset(HouseState), first_day=0
)
BEYOND, INSIDE = 2.0, 0.0  # of the limit, 1
TEXT = "DRILL: nothing is wrong. This tries the way of a warning."
SIGNAL = "drill"

Step = tuple[str, int]
"""What was reached, and after how many ms of real time."""


@dataclass(slots=True)
class _Running:
    """One drill under way. Times are real monotonic seconds."""

    id: str
    house: str
    began: float
    began_at: datetime
    awaited: set[str]  # controllers
    confirmed: set[str] = field(default_factory=set)
    standing: Standing | None = None  # where its rule stands; None until its reading came back
    warning: str | None = None  # the id of the alert
    alert_heard: bool = False
    is_over: bool = False  # the second reading was published
    steps: list[Step] = field(default_factory=list)

    def reached(self, what: str, monotonic: float) -> None:
        self.steps.append((what, round(1_000 * (monotonic - self.began))))


class Drills:
    """The drills of all houses, one at a time; the last outcome of each is kept."""

    def __init__(self, config: Config, topics: Topics, kept: str | None) -> None:
        """Go on from the outcomes that were ``kept``."""
        self._settings, self._days, self._topics = config.drill, config.site.days, topics
        self._houses = [house.id for house in config.house]
        self._controllers = [controller for controller in config.controller if controller.drill]
        known: dict[str, dict[str, Any]] = json.loads(kept or "{}")
        self.last = {house: outcome for house, outcome in known.items() if house in self._houses}
        self._running: _Running | None = None
        self._queue: list[tuple[str, str]] = []  # id and house of those that wait their turn
        self._out: list[tuple[str, bytes]] = []
        self._ended: list[Event] = []

    def kept(self) -> str:
        """Return what is to be kept for a restart."""
        return json.dumps(self.last, sort_keys=True)

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """What is to be heard for it, beside the commands."""
        return tuple(self._topics.drill("+", what) for what in ("reading", "warning", "receipt/+"))

    def ask(self, house: str, drill_id: str | None) -> str:
        """Begin a drill of a house as soon as no other runs; return its id."""
        drill_id = drill_id or f"drill-{secrets.token_hex(4)}"
        self._queue.append((drill_id, house))
        return drill_id

    def hear(self, topic: str, payload: bytes, monotonic: float, now: datetime) -> None:
        """Take what came in below a house's ``drill``; what belongs to no drill that runs is passed over."""
        running = self._running
        place = self._topics.drill_of(topic)
        if running is None or place is None or place[0] != running.house:
            return
        what = place[1]
        if what == "reading":
            self._read(running, payload, monotonic, now)
        elif what == "warning":
            document = _object_in(payload)
            if document.get("id") == running.warning and document.get("state") == "active" and not running.alert_heard:
                running.alert_heard = True
                running.reached("the alert came back from the broker", monotonic)
            elif document.get("id") == running.warning and document.get("state") == "normal" and running.is_over:
                running.reached("its end came back from the broker", monotonic)
                self._finish(running, now, None)
        elif what.startswith("receipt/"):
            name = what.removeprefix("receipt/")
            is_right = payload.strip() == b"1" or _object_in(payload).get("id") == running.warning
            if name in running.awaited - running.confirmed and running.warning is not None and is_right:
                running.confirmed.add(name)
                running.reached(f"{name} confirmed it", monotonic)

    def turn(self, monotonic: float, now: datetime, *, is_able: bool) -> tuple[list[tuple[str, bytes]], list[Event]]:
        """Go on; return what is to be published, and the outcomes to be recorded.

        ``is_able``: there is a broker, a store, and a time that is trusted.
        """
        if is_able:
            self._schedule(now)
        running = self._running
        if running is None and self._queue and is_able:
            running = self._begin(*self._queue.pop(0), monotonic, now)
        if running is not None:
            if running.alert_heard and running.confirmed == running.awaited and not running.is_over:
                running.is_over = True
                self._publish_reading(running, INSIDE, now)
            if self._running is not None and monotonic - running.began > self._settings.within_s:
                self._finish(running, now, self._why_not(running))
        out, self._out = self._out, []
        ended, self._ended = self._ended, []
        return out, ended

    def trouble(self) -> str | None:
        """Return which houses failed their last drill, and why; None where all is well."""
        failed = [f"{house}: {one['reason']}" for house, one in sorted(self.last.items()) if not one["passed"]]
        return "; ".join(failed) or None

    # --- the steps

    def _schedule(self, now: datetime) -> None:
        every = self._settings.every_days
        if not every or self._running is not None or self._queue:
            return
        local = now.astimezone(self._days.zone)
        for house in self._houses:
            last = self.last.get(house)
            day = (
                local.date()
                if last is None
                else datetime.fromisoformat(last["at"]).astimezone(self._days.zone).date() + timedelta(days=every)
            )
            if now >= datetime.combine(day, self._settings.at, self._days.zone):
                self.ask(house, None)
                return  # one house after the other

    def _begin(self, drill_id: str, house: str, monotonic: float, now: datetime) -> _Running:
        awaited = {one.name for one in self._controllers if not one.houses or house in one.houses}
        running = self._running = _Running(drill_id, house, monotonic, now, awaited)
        self._publish_reading(running, BEYOND, now)
        return running

    def _publish_reading(self, running: _Running, value: float, now: datetime) -> None:
        document = {"value": value, "at": iso(now), "drill": True, "id": running.id}
        self._out.append((self._topics.drill(running.house, "reading"), json.dumps(document).encode()))

    def _read(self, running: _Running, payload: bytes, monotonic: float, now: datetime) -> None:
        """Decode a reading and judge it, by the parts that decode and judge those of the house."""
        if _object_in(payload).get("id") != running.id:
            return
        groups = value_dialect.parse(payload, SIGNAL)
        value = None if isinstance(groups, Refusal) else groups[0].values[SIGNAL]
        if not isinstance(value, float):
            return
        before = running.standing or Standing(RULE.name, running.house)
        evidence = Evidence(value / RULE.threshold, actual=value, expected=0.0, low=0.0, high=RULE.threshold)
        running.reached("a reading came back from the broker" if value else "a good reading came back", monotonic)
        after, reason = judging.judge(RULE, before, evidence, now, applies=True)
        running.standing = after
        if reason is None:
            return
        event = WarningEvent(now, before.state, after, reason, RULE.about, None, None, TEXT, (), "")
        running.warning = after.id or running.warning
        self._publish_alert(running, event)

    def _publish_alert(self, running: _Running, event: WarningEvent) -> None:
        document = alert(event) | {"drill": True}
        self._out.append((self._topics.drill(running.house, "warning"), json.dumps(document).encode()))
        self._out.append((self._topics.drill(running.house, "severity"), b"%d" % int(str(document["severity"]))))

    def _why_not(self, running: _Running) -> str:
        within = f"within {self._settings.within_s} s"
        if running.standing is None:
            return f"the reading did not come back from the broker {within}"
        if not running.alert_heard:
            return f"the alert did not come back from the broker {within}"
        missing = sorted(running.awaited - running.confirmed)
        if missing:
            return f"{', '.join(missing)} did not confirm it {within}"
        return f"its end did not come back from the broker {within}"

    def _finish(self, running: _Running, now: datetime, reason: str | None) -> None:
        self._running = None
        previous = self.last.get(running.house, {})
        outcome: dict[str, Any] = {
            "id": running.id,
            "drill": True,
            "house": running.house,
            "at": iso(running.began_at),
            "passed": reason is None,
            "reason": reason,
            "steps": [{"step": step, "ms": ms} for step, ms in running.steps],
            "passed_at": iso(now) if reason is None else previous.get("passed_at"),
        }
        self.last[running.house] = outcome
        self._ended.append(Event(running.began_at, "drill", running.house, detail=dict(outcome)))
        self._out.append((self._topics.drill(running.house, "result"), json.dumps(outcome).encode()))
        if reason is not None:  # whoever shows the drill's alert is told that it is over
            self._out.append((self._topics.drill(running.house, "severity"), b"0"))


def _object_in(payload: bytes) -> dict[str, Any]:
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
