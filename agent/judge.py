"""When a warning rises and clears: deadband, on-delay, off-delay, shelving, suppression (ISA-18.2 / IEC 62682). Pure.

The states bear the standards' names, which we read second-hand (docs/sources.md).

::

    normal ──limit crossed──> pending ──on-delay over──> active <──worse── acknowledged
      ^  ^────back before────────┘                        │  └──somebody saw it──> ┘
      └────────── back in band for the off-delay, or nobody can say for hours ──────┘
    any of them ──house state──> suppressed;   active, acknowledged ──somebody──> shelved ──time over──> active | normal
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from agent.domain import Reason, Severity, Standing, WarningState

if TYPE_CHECKING:
    from agent.domain import Evidence, WarningRule

CANNOT_SAY_AFTER = timedelta(hours=6)
"""A warning whose evidence ran out stands this long before it is given up (our judgement: longer than an outage)."""

_SHOWN = (WarningState.ACTIVE, WarningState.ACKNOWLEDGED)


def judge(
    rule: WarningRule, standing: Standing, evidence: Evidence, at: datetime, *, applies: bool
) -> tuple[Standing, Reason | None]:
    """Return where ``rule`` stands after ``evidence`` at ``at``, and the reason if its state or severity changed.

    ``applies`` is False where the house state or the flock's age gates the rule. ``at`` is event time and never goes
    back from one call to the next.
    """
    if standing.state is WarningState.SHELVED and standing.shelved_until is not None and at < standing.shelved_until:
        return standing, None
    if not applies:
        return _suppress(standing, evidence, at)
    if standing.state is WarningState.SHELVED:
        return _off_the_shelf(standing, evidence, at)
    if standing.state is WarningState.SUPPRESSED:
        fresh = Standing(standing.rule, standing.house)
        after, reason = _normal(rule, fresh, evidence, at)
        return (after, reason) if reason else _moved(fresh, WarningState.NORMAL, Reason.HOUSE_STATE, at)
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


def shelve(standing: Standing, at: datetime, for_s: int, by: str | None) -> tuple[Standing, Reason] | None:
    """Return the shelved standing; None where nothing is shown that could be put aside."""
    if standing.state not in _SHOWN:
        return None
    until = at + timedelta(seconds=for_s)
    changes = {"by": by, "shelved_until": until, "back_since": None, "unknown_since": None}  # delays begin anew
    return _moved(standing, WarningState.SHELVED, Reason.SHELVED_BY, at, **changes)


def unshelve(standing: Standing, at: datetime, by: str | None) -> tuple[Standing, Reason] | None:
    """Return the standing taken off its shelf, active again; None where it is not shelved."""
    if standing.state is not WarningState.SHELVED:
        return None
    return _moved(standing, WarningState.ACTIVE, Reason.UNSHELVED_BY, at, by=by, shelved_until=None)


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
        return standing, None
    pending = replace(
        Standing(rule.name, standing.house),
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
    return _moved(
        standing,
        WarningState.ACTIVE,
        Reason.ON_DELAY_OVER,
        at,
        id=f"{standing.house}-{rule.name}-{since:%Y%m%dT%H%M%S}",
        since=since,
        raised_at=at,
        severity=_severity(rule, evidence),
        unknown_since=None,
        evidence=evidence,
    )


def _shown(rule: WarningRule, standing: Standing, evidence: Evidence, at: datetime) -> tuple[Standing, Reason | None]:
    off_delay = timedelta(seconds=rule.off_delay_s)
    if evidence.score is None:
        return _cannot_say(standing, evidence, at, max(CANNOT_SAY_AFTER, off_delay))
    standing = replace(standing, unknown_since=None)
    if is_back(rule, evidence):
        back_since = standing.back_since or at
        if at - back_since >= off_delay:
            return _moved(standing, WarningState.NORMAL, Reason.BACK_IN_BAND, at, evidence=evidence)
        return replace(standing, back_since=back_since), None
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
        )
    return replace(standing, evidence=evidence, back_since=None), None


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


def _off_the_shelf(standing: Standing, evidence: Evidence, at: datetime) -> tuple[Standing, Reason]:
    state = WarningState.ACTIVE if evidence.score is None or _is_over(evidence) else WarningState.NORMAL
    return _moved(standing, state, Reason.SHELF_TIME_OVER, at, shelved_until=None)


def _suppress(standing: Standing, evidence: Evidence, at: datetime) -> tuple[Standing, Reason | None]:
    if standing.state is WarningState.SUPPRESSED:
        return standing, None
    if standing.state is WarningState.NORMAL:
        if not _is_over(evidence):
            return standing, None
        standing = Standing(standing.rule, standing.house, since=evidence.since or at)  # nothing of the last time
    return _moved(standing, WarningState.SUPPRESSED, Reason.HOUSE_STATE, at, evidence=evidence)
