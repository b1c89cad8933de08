"""A warning as it travels: the JSON of the retained MQTT alert, and the flat row of the lake's ``warnings`` stream."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from agent.domain import Evidence, WarningState

if TYPE_CHECKING:
    from datetime import datetime

    from agent.domain import WarningEvent


def iso(at: datetime | None) -> str | None:
    """Return an instant as ISO 8601 in UTC, to the second; None stays None."""
    return None if at is None else at.isoformat(timespec="seconds").replace("+00:00", "Z")


def deviation_pct(evidence: Evidence) -> float | None:
    """Return how far the measured value is from the expected one, in percent of the expected; None where unknown."""
    if evidence.actual is None or not evidence.expected or not math.isfinite(evidence.actual + evidence.expected):
        return None
    return round(100 * (evidence.actual - evidence.expected) / abs(evidence.expected), 1)


def alert(event: WarningEvent) -> dict[str, object]:
    """Return every key of the retained alert; null where unknown."""
    standing = event.standing
    evidence = standing.evidence or Evidence(score=None)
    return {
        "id": standing.id,
        "rule": standing.rule,
        "about": event.about.value,
        "severity": 0 if standing.state is WarningState.NORMAL else int(standing.severity),  # 0: nothing stands
        "state": standing.state.value,
        "house": standing.house,
        "flock": standing.flock,
        "day_number": event.day_number,
        "signal": event.signal,
        "actual": _rounded(evidence.actual),
        "expected": _rounded(evidence.expected),
        "low": _rounded(evidence.low),
        "high": _rounded(evidence.high),
        "unit": evidence.unit,
        "deviation_pct": deviation_pct(evidence),
        "since": iso(standing.since),
        "raised_at": iso(standing.raised_at),
        "updated_at": iso(event.at),
        "confidence": _rounded(evidence.confidence),
        "coverage": _rounded(evidence.coverage),
        "causes": [{"cause": cause.cause, "probability": _rounded(cause.probability)} for cause in event.causes],
        "check_first": event.check_first,
        "text": event.text,
        "model": evidence.model,
        "model_version": evidence.model_version,
        "reason": event.reason.value,
        "lang": event.lang,
    }


def row(event: WarningEvent) -> dict[str, object]:
    """Return the event as a row of the lake: the alert, what it was before, who did it, and why."""
    document = alert(event)
    document["causes"] = json.dumps(document["causes"])
    document["before"] = event.before.value
    document["by"] = event.standing.by
    document["why"] = event.standing.why
    return document


def _rounded(value: float | None) -> float | None:
    """Return a figure without the noise behind its sixth digit; None where there is none that JSON could hold."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
