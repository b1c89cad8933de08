"""A warning as it travels: every key of the contract, and nothing that JSON cannot hold."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from math import inf, nan

import pytest

from agent.alerts import alert, deviation_pct, iso, row
from agent.domain import (
    About,
    Cause,
    Evidence,
    Reason,
    Severity,
    Standing,
    WarningEvent,
    WarningState,
)
from agent.store import LAKE_COLUMNS

KEYS = [  # as in docs/mqtt.md
    "id", "rule", "about", "severity", "state", "house", "flock", "day_number", "signal", "actual", "expected",
    "low", "high", "unit", "deviation_pct", "since", "raised_at", "updated_at", "confidence", "coverage", "causes",
    "check_first", "text", "model", "model_version", "reason", "lang",
]  # fmt: skip
AT = datetime(2026, 3, 10, 14, 20, tzinfo=UTC)
FULL = Evidence(
    4.0,
    actual=123.456789,
    expected=200.0,
    low=180.0,
    high=220.0,
    unit="l",
    confidence=0.9,
    coverage=1 / 3,
    model="expect",
    model_version="1.0.0",
)


def event_of(evidence: Evidence | None, state: WarningState = WarningState.ACTIVE) -> WarningEvent:
    standing = Standing("deviation-water", "house1", state, Severity.MINOR, "id1", "f1", AT, raised_at=AT, by="anna")
    return WarningEvent(
        at=AT + timedelta(hours=1),
        before=WarningState.PENDING,
        standing=replace(standing, evidence=evidence),
        reason=Reason.ON_DELAY_OVER,
        about=About.BIRDS,
        signal="water",
        day_number=24,
        text="text",
        causes=(Cause("disease", 0.25), Cause("water_leak")),
        check_first="look",
        lang="da",
    )


def strict(value: object) -> str:
    return json.dumps(value, allow_nan=False)


@pytest.mark.parametrize("evidence", [None, Evidence(None), Evidence(0.0), FULL])
@pytest.mark.parametrize("state", WarningState)
def test_every_key_is_there_whatever_is_known(evidence: Evidence | None, state: WarningState) -> None:
    shown = alert(event_of(evidence, state))
    assert list(shown) == KEYS
    assert json.loads(strict(shown)) == shown


def test_a_bare_standing_still_has_every_key() -> None:
    event = replace(event_of(None), standing=Standing("silent", "house1"), signal=None, day_number=None, causes=())
    shown = alert(event)
    assert list(shown) == KEYS
    assert shown["id"] is shown["flock"] is shown["since"] is shown["raised_at"] is shown["day_number"] is None
    assert (shown["severity"], shown["causes"]) == (0, [])


def test_what_is_known_is_in_the_words_of_the_contract() -> None:
    shown = alert(event_of(FULL))
    assert shown == {
        "id": "id1",
        "rule": "deviation-water",
        "about": "birds",
        "severity": 2,
        "state": "active",
        "house": "house1",
        "flock": "f1",
        "day_number": 24,
        "signal": "water",
        "actual": 123.457,
        "expected": 200.0,
        "low": 180.0,
        "high": 220.0,
        "unit": "l",
        "deviation_pct": -38.3,
        "since": "2026-03-10T14:20:00Z",
        "raised_at": "2026-03-10T14:20:00Z",
        "updated_at": "2026-03-10T15:20:00Z",
        "confidence": 0.9,
        "coverage": 0.333333,
        "causes": [{"cause": "disease", "probability": 0.25}, {"cause": "water_leak", "probability": None}],
        "check_first": "look",
        "text": "text",
        "model": "expect",
        "model_version": "1.0.0",
        "reason": "on_delay_over",
        "lang": "da",
    }


@pytest.mark.parametrize(("actual", "expected"), [*product((nan, inf, -inf, 1.0), (nan, inf, 0.0, 1.0))])
def test_no_figure_that_json_cannot_hold_gets_out(actual: float, expected: float) -> None:
    evidence = replace(FULL, actual=actual, expected=expected, low=nan, high=inf, confidence=nan, coverage=nan)
    strict(alert(event_of(evidence)))
    strict(row(event_of(evidence)))


@pytest.mark.parametrize(
    ("actual", "expected", "percent"),
    [(150, 200, -25), (1, -2, 150), (5, 0, None), (None, 2, None), (2, None, None), (nan, 2, None)],
)
def test_a_deviation_is_in_percent_of_what_was_expected(
    actual: float | None, expected: float | None, percent: float | None
) -> None:
    assert deviation_pct(Evidence(1.0, actual=actual, expected=expected)) == percent


def test_the_row_of_the_lake_holds_its_columns_and_no_others() -> None:
    columns = {name for name, _ in LAKE_COLUMNS["warnings"]} - {"at", "seq"}
    flat = row(event_of(FULL))
    assert set(flat) - columns <= {"updated_at"}  # it is the row's own `at`
    assert columns <= set(flat)
    assert (flat["before"], flat["by"]) == ("pending", "anna")
    assert isinstance(flat["causes"], str)
    assert json.loads(flat["causes"])[0]["cause"] == "disease"


def test_times_are_utc_to_the_second() -> None:
    assert iso(None) is None
    assert iso(datetime(2026, 3, 10, 14, 20, 30, 999_999, tzinfo=UTC)) == "2026-03-10T14:20:30Z"
    copenhagen = timezone(timedelta(hours=1))
    assert iso(datetime(2026, 3, 10, 15, 20, tzinfo=copenhagen)) in {
        "2026-03-10T14:20:00Z",
        "2026-03-10T15:20:00+01:00",
    }
