"""When a warning rises and clears: deadband, delays, latching, escalation, shelving, suppression, chatter. Pure.

The states bear the names of ISA-18.2 / IEC 62682, which we read second-hand (docs/sources.md).

::

    normal ──limit crossed──> pending ──on-delay over──> active <──worse── acknowledged
      ^  ^────back before────────┘                        │  └──somebody saw it──> ┘
      └────────── back in band for the off-delay, or nobody can say for hours ──────┘
    any of them ──by design──> suppressed;   active, acknowledged ──somebody──> shelved ──time over──> active | normal

A latching one goes back to normal only from acknowledged. An active one that nobody acknowledges for long becomes a
step more severe, once. One that is over and rises again is a new occurrence and told anew; whatever rises for the third
time in a while comes and goes: it is told once more, and then stands until it has been calm for longer than its
longest pause so far.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from agent.domain import Chatter, Reason, Severity, Spell, Standing, WarningState

if TYPE_CHECKING:
    from agent.domain import Evidence, WarningRule

STALE = timedelta(days=1)
"""A warning that stands for longer is stale [S41]."""

CANNOT_SAY_AFTER = timedelta(hours=6)
"""A warning whose evidence ran out stands this long before it is given up (our judgement: longer than an outage)."""

CHATTER_RISES = 3
"""So many rises in the window are chatter ([S41]: three transitions or more in a window)."""

CHATTER_WITHIN = timedelta(hours=6)
"""The window; for rules with long delays, four times those. Our judgement: a visit to the house is in between."""

ESCALATES_TO = Severity.MAJOR
"""No warning becomes more severe than this by waiting alone."""

_STEP_S = 600  # delays that are proposed are whole steps of the grid
_SHOWN = (WarningState.ACTIVE, WarningState.ACKNOWLEDGED)


def judge(
    rule: WarningRule,
    standing: Standing,
    evidence: Evidence,
    at: datetime,
    *,
    applies: bool,
    because: Reason = Reason.HOUSE_STATE,
) -> tuple[Standing, Reason | None]:
    """Return where ``rule`` stands after ``evidence`` at ``at``, and the reason if its state or severity changed.

    ``applies`` is False where something known explains what the rule would say, ``because`` says what: the house state,
    the flock's age, a service, a sensor that is not believed, another warning. ``at`` is event time; what was
    judged or told of a later instant already stays as it is: a backlog is judged, or times were put right meanwhile.
    """
    known = (standing.updated_at, standing.back_since, standing.unknown_since)
    if any(when is not None and when > at for when in known):
        return standing, None
    if standing.state is WarningState.SHELVED and standing.shelved_until is not None and at < standing.shelved_until:
        return standing, None
    if not applies:
        return _suppress(standing, evidence, at, because)
    if standing.state is WarningState.SHELVED:
        return _off_the_shelf(rule, standing, evidence, at)
    if standing.state is WarningState.SUPPRESSED:
        fresh = Standing(standing.rule, standing.house)
        after, reason = _normal(rule, fresh, evidence, at)
        over = standing.reason or Reason.HOUSE_STATE
        return (after, reason) if reason else _moved(fresh, WarningState.NORMAL, over, at)
    if standing.state is WarningState.NORMAL:
        return _normal(rule, standing, evidence, at)
    if standing.state is WarningState.PENDING:
        return _pending(rule, standing, evidence, at)
    return _shown(rule, standing, evidence, at)


def acknowledge(standing: Standing, at: datetime, by: str | None) -> tuple[Standing, Reason] | None:
    """Return the acknowledged standing; None where nothing active stands."""
    if standing.state is not WarningState.ACTIVE:
        return None
    return _moved(standing, WarningState.ACKNOWLEDGED, Reason.ACKNOWLEDGED_BY, at, by=by)


def shelve(
    standing: Standing, at: datetime, for_s: int, by: str | None, why: str | None = None
) -> tuple[Standing, Reason] | None:
    """Return the shelved standing; None where nothing is shown that could be put aside."""
    if standing.state not in _SHOWN:
        return None
    until = at + timedelta(seconds=for_s)
    changes = {"by": by, "why": why, "shelved_until": until, "back_since": None, "unknown_since": None}  # delays anew
    return _moved(standing, WarningState.SHELVED, Reason.SHELVED_BY, at, **changes)


def unshelve(standing: Standing, at: datetime, by: str | None) -> tuple[Standing, Reason] | None:
    """Return the standing taken off its shelf, active again; None where it is not shelved."""
    if standing.state is not WarningState.SHELVED:
        return None
    return _moved(standing, WarningState.ACTIVE, Reason.UNSHELVED_BY, at, by=by, shelved_until=None, asked_at=at)


def set_back(standing: Standing, by: timedelta) -> Standing:
    """Return the standing by a clock that was set back ``by`` (negative): every delay has run as far as it had."""
    times = ("since", "back_since", "unknown_since", "raised_at", "updated_at", "shelved_until", "asked_at")
    moved = {name: when + by for name in times if (when := getattr(standing, name)) is not None}
    spells = tuple(
        replace(spell, since=spell.since + by, back_since=spell.back_since and spell.back_since + by)
        for spell in standing.spells
    )
    return replace(standing, **moved, spells=spells)


def clear(standing: Standing, at: datetime, reason: Reason) -> tuple[Standing, Reason] | None:
    """Return the standing back at normal for a reason from outside; None where nothing stood."""
    if standing.state is WarningState.NORMAL:
        return None
    return _moved(standing, WarningState.NORMAL, reason, at)


def _moved(
    standing: Standing, state: WarningState, reason: Reason, at: datetime, **changes: object
) -> tuple[Standing, Reason]:
    return replace(standing, state=state, reason=reason, updated_at=at, **changes), reason  # type: ignore[arg-type]  # the callers' keywords are fields


def _is_over(evidence: Evidence) -> bool:
    return evidence.score is not None and evidence.score >= 1


def is_back(rule: WarningRule, evidence: Evidence) -> bool:
    """Tell whether what is measured is well within its limit: what stood is over, once that lasts."""
    return evidence.score is not None and evidence.score < 1 - rule.deadband


def _severity(rule: WarningRule, evidence: Evidence) -> Severity:
    if evidence.is_early:  # one step below what it may become: when it does, that is told anew
        return Severity(max(rule.severity - 1, Severity.WARNING))
    return max(rule.severity, evidence.severity or rule.severity)


def _normal(rule: WarningRule, standing: Standing, evidence: Evidence, at: datetime) -> tuple[Standing, Reason | None]:
    if not _is_over(evidence):
        return _calm(rule, standing, evidence, at), None
    pending = replace(
        Standing(rule.name, standing.house, spells=standing.spells),
        state=WarningState.PENDING,
        since=evidence.since or at,
        updated_at=at,
        reason=Reason.LIMIT_CROSSED,
        evidence=evidence,
    )
    raised, reason = _pending(rule, pending, evidence, at)
    return raised, reason or Reason.LIMIT_CROSSED


def _pending(rule: WarningRule, standing: Standing, evidence: Evidence, at: datetime) -> tuple[Standing, Reason | None]:
    since = standing.since or at
    if is_back(rule, evidence):
        return _moved(standing, WarningState.NORMAL, Reason.BACK_BEFORE_DELAY, at)
    if evidence.score is None:
        return _cannot_say(standing, evidence, at, CANNOT_SAY_AFTER)
    if at - since < timedelta(seconds=rule.on_delay_s) or not _is_over(evidence):
        return replace(standing, evidence=evidence, unknown_since=None), None
    spells = (*_recent(rule, standing.spells, since), Spell(since))
    chatter = _chatter(rule, spells)
    return _moved(
        standing,
        WarningState.ACTIVE,
        Reason.CHATTERING if chatter is not None else Reason.ON_DELAY_OVER,
        at,
        id=f"{standing.house}-{rule.name}-{since:%Y%m%dT%H%M%S}",
        since=since,
        raised_at=at,
        asked_at=at,
        severity=_severity(rule, evidence),
        unknown_since=None,
        evidence=evidence,
        spells=spells,
        chatter=chatter,
    )


def _shown(rule: WarningRule, standing: Standing, evidence: Evidence, at: datetime) -> tuple[Standing, Reason | None]:
    off_delay = timedelta(seconds=max(rule.off_delay_s, standing.chatter.off_delay_s if standing.chatter else 0))
    is_latched = rule.latching and standing.state is WarningState.ACTIVE
    if evidence.score is None:
        patience = timedelta.max if is_latched else max(CANNOT_SAY_AFTER, off_delay)
        return _cannot_say(standing, evidence, at, patience)
    standing = replace(standing, unknown_since=None)
    if is_back(rule, evidence):
        back_since, spells = standing.back_since or at, _lowered(standing.spells, evidence)
        if at - back_since >= off_delay and not is_latched:
            *others, last = spells or (None,)
            spells = () if last is None else (*others, replace(last, back_since=back_since))
            return _moved(standing, WarningState.NORMAL, Reason.BACK_IN_BAND, at, evidence=evidence, spells=spells)
        return replace(standing, back_since=back_since, spells=spells), None
    severity = _severity(rule, evidence)
    if severity > standing.severity:
        return _moved(
            standing,
            WarningState.ACTIVE,
            Reason.SEVERITY_ROSE,
            at,
            severity=severity,
            evidence=evidence,
            back_since=None,
            asked_at=at,
            spells=_risen(standing.spells),
        )
    standing = replace(standing, evidence=evidence, back_since=None, spells=_risen(standing.spells))
    if _has_waited(rule, standing, evidence, at):
        severity = Severity(standing.severity + 1)
        return _moved(standing, WarningState.ACTIVE, Reason.ESCALATED, at, severity=severity, is_escalated=True)
    return standing, None


def _has_waited(rule: WarningRule, standing: Standing, evidence: Evidence, at: datetime) -> bool:
    """Tell whether nobody has acknowledged it for too long; only while it is seen to be over its limit.

    What a model sees coming does not get worse by waiting: when it is there, that is told by itself.
    """
    waits = rule.escalate_after_s and standing.state is WarningState.ACTIVE and not standing.is_escalated
    if not waits or not _is_over(evidence) or evidence.is_early or standing.severity >= ESCALATES_TO:
        return False
    asked_at = standing.asked_at or standing.raised_at or at
    return at - asked_at >= timedelta(seconds=rule.escalate_after_s)


def _cannot_say(
    standing: Standing, evidence: Evidence, at: datetime, patience: timedelta
) -> tuple[Standing, Reason | None]:
    unknown_since = standing.unknown_since or at
    if (
        standing.unknown_since is None and standing.evidence is not None
    ):  # what was last measured stays, and why it ends
        told = replace(standing.evidence, why=evidence.why, why_values=evidence.why_values)
        standing = replace(standing, evidence=told)
    if at - unknown_since >= patience:
        return _moved(standing, WarningState.NORMAL, Reason.CANNOT_SAY, at)
    return replace(standing, unknown_since=unknown_since), None


def _off_the_shelf(rule: WarningRule, standing: Standing, evidence: Evidence, at: datetime) -> tuple[Standing, Reason]:
    stands = evidence.score is None or _is_over(evidence) or rule.latching
    state = WarningState.ACTIVE if stands else WarningState.NORMAL
    return _moved(standing, state, Reason.SHELF_TIME_OVER, at, shelved_until=None, asked_at=at if stands else None)


def _suppress(standing: Standing, evidence: Evidence, at: datetime, because: Reason) -> tuple[Standing, Reason | None]:
    if standing.state is WarningState.SUPPRESSED:
        return standing, None
    if standing.state is WarningState.NORMAL:
        if not _is_over(evidence):
            return standing, None
        standing = Standing(standing.rule, standing.house, since=evidence.since or at)  # nothing of the last time
    return _moved(standing, WarningState.SUPPRESSED, because, at, evidence=evidence)


# --- what comes and goes


def chatter_window(rule: WarningRule) -> timedelta:
    """Return the time in which the rises of a rule are counted."""
    return max(CHATTER_WITHIN, 4 * timedelta(seconds=rule.on_delay_s + rule.off_delay_s))


def _recent(rule: WarningRule, spells: tuple[Spell, ...], at: datetime) -> tuple[Spell, ...]:
    return tuple(spell for spell in spells if spell.since >= at - chatter_window(rule))


def _lowered(spells: tuple[Spell, ...], evidence: Evidence) -> tuple[Spell, ...]:
    """Return the spells with what the pause after the last of them shows: how large a deadband would bridge it."""
    if not spells or evidence.score is None:
        return spells
    *others, last = spells
    return (*others, replace(last, lowest=evidence.score if last.lowest is None else min(last.lowest, evidence.score)))


def _risen(spells: tuple[Spell, ...]) -> tuple[Spell, ...]:
    """Return the spells where it is over again before it had cleared: that was no pause."""
    return (*spells[:-1], replace(spells[-1], lowest=None)) if spells and spells[-1].lowest is not None else spells


def _calm(rule: WarningRule, standing: Standing, evidence: Evidence, at: datetime) -> Standing:
    if not standing.spells:
        return standing
    return replace(standing, spells=_lowered(_recent(rule, standing.spells, at), evidence))


def _chatter(rule: WarningRule, spells: tuple[Spell, ...]) -> Chatter | None:
    """Return what would have made one warning of these rises; None where they are too few.

    A spell that ended because nobody could say any more is no pause of the house's.
    """
    pauses = [
        (after.since - before.back_since, before.lowest)
        for before, after in pairwise(spells)
        if before.back_since is not None
    ]
    if len(pauses) + 1 < CHATTER_RISES:
        return None
    longest_s = max(pause.total_seconds() for pause, _ in pauses)
    lowest = min(score for _, score in pauses if score is not None)
    deadband = math.ceil(20 * (1 - lowest)) / 20  # in steps of 0.05
    return Chatter(
        rises=len(pauses) + 1,
        within_s=int(chatter_window(rule).total_seconds()),
        off_delay_s=int(min(longest_s // _STEP_S + 1, chatter_window(rule).total_seconds() // _STEP_S)) * _STEP_S,
        deadband=round(deadband, 2) if lowest > 0 and deadband < 1 else None,
    )
