"""Warnings about the gateway itself: of the house ``_site``, kept and shown like those of the houses."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from agent.alerts import alert
from agent.domain import About, Cause, Evidence, Reason, Severity, Standing, WarningEvent, WarningState
from agent.languages import Locale, msg

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from agent.bus import Bus
    from agent.topics import Topics

SITE = "_site"
STORE = "store"  # the rule: is what comes in kept?
RECEIPT = "receipt"  # the kind of the rules receipt-<controller>: does it confirm what it is told?


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with the gateway: messages of agent/languages.py, and what stands in the places of the text."""

    severity: Severity
    cause: str
    text: str
    check_first: str
    values: dict[str, object] = field(default_factory=dict)


class SiteWarnings:
    """Where the warnings about the gateway stand; they rise and clear at once: what they look at is certain."""

    def __init__(self, known: Iterable[Standing], locale: Locale | None = None) -> None:
        """Take where they stood, and for whom they are written."""
        self._locale = locale or Locale()
        self._standings = {standing.rule: standing for standing in known if standing.house == SITE}
        self._events: dict[str, WarningEvent] = {}
        self._shown: dict[str, bytes] = {}

    def judge(
        self,
        rule: str,
        trouble: Trouble | None,
        at: datetime,
        *,
        about: About = About.DATA,
        over: str = msg("What comes in is kept again."),
        **over_values: object,
    ) -> WarningEvent | None:
        """Return the transition where ``trouble`` is news, to be recorded; None where it is not.

        ``over`` is said when there is no trouble any more, with ``over_values`` in its places.
        """
        before = self._standings.get(rule) or Standing(rule, SITE)
        is_active = before.state is WarningState.ACTIVE
        no_causes: tuple[Cause, ...] = ()
        if trouble is None:
            if not is_active:
                return None
            after = replace(before, state=WarningState.NORMAL, updated_at=at, reason=Reason.BACK_IN_BAND)
            text, causes, check_first = self._locale.say(over, **over_values), no_causes, ""
        else:
            text = self._locale.say(trouble.text, **trouble.values)
            told = self._events.get(rule)
            if is_active and told is not None and told.text == text:
                return None
            reason = Reason.SEVERITY_ROSE if is_active and trouble.severity > before.severity else Reason.LIMIT_CROSSED
            after = Standing(
                rule,
                SITE,
                WarningState.ACTIVE,
                trouble.severity,
                id=before.id if is_active else f"{SITE}-{rule}-{at:%Y%m%dT%H%M%S}",
                since=before.since if is_active else at,
                raised_at=before.raised_at if is_active else at,
                updated_at=at,
                reason=reason,
                evidence=Evidence(score=1.0, confidence=1.0),
            )
            causes, check_first = (Cause(trouble.cause),), self._locale.say(trouble.check_first)
        reason = after.reason or Reason.LIMIT_CROSSED
        words = (text, causes, check_first, self._locale.language)
        event = WarningEvent(at, before.state, after, reason, about, None, None, *words)
        self._standings[rule], self._events[rule] = after, event
        return event

    def standing(self) -> list[WarningEvent]:
        """Return what stands, in words, as far as it was judged since the start."""
        return [event for event in self._events.values() if event.standing.state is not WarningState.NORMAL]

    def show(self, bus: Bus, topics: Topics, *, anew: bool) -> None:
        """Bring the retained topics to what stands; ``anew`` after a new connection: the broker may have forgotten."""
        for rule, event in self._events.items():
            topic, payload = topics.warning(SITE, rule), json.dumps(alert(event)).encode()
            if not anew and self._shown.get(topic) == payload:
                continue
            self._shown[topic] = payload
            bus.publish(topic, payload, retain=True)
            if event.standing.state is WarningState.NORMAL:
                bus.publish(topic, b"", retain=True)
