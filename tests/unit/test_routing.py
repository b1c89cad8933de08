"""Who is told of what and when: a table of decisions, and quiet hours in farm time."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from agent.config import Notify
from agent.domain import to_ms
from agent.routing import decide, quiet_until, words

FARM = ZoneInfo("Europe/Copenhagen")
NOON = datetime(2026, 3, 10, 11, 0, tzinfo=UTC)  # 12:00 at the farm
NIGHT = datetime(2026, 3, 10, 22, 0, tzinfo=UTC)  # 23:00 at the farm
MORNING = datetime(2026, 3, 11, 5, 0, tzinfo=UTC)  # 06:00 at the farm


def row_of(at: datetime = NOON, **changes: object) -> dict[str, Any]:
    return {
        "at": to_ms(at), "house": "house1", "rule": "deviation-water", "about": "birds", "id": "w1",
        "before": "pending", "state": "active", "severity": 2, "reason": "on_delay_over",
        "text": "Water is low.", "check_first": "Look.",
    } | changes  # fmt: skip


def anna(**changes: object) -> Notify:
    known = {"name": "anna", "by": "email", "to": "anna@farm.example"}
    return Notify.model_validate(known | changes)


def asleep(**changes: object) -> Notify:
    return anna(quiet_from=time(21, 30), quiet_until=time(6), **changes)


END: dict[str, Any] = {"state": "normal", "before": "active", "severity": 0, "reason": "back_in_band"}
RISE = {"before": "active", "severity": 4, "reason": "severity_rose"}
MISSED = {"house": "_site", "rule": "receipt-panel1", "about": "equipment", "severity": 3}
TABLE: list[tuple[dict[str, Any], Notify, bool, str]] = [
    ({}, anna(), False, "at_once"),
    ({"severity": 4}, asleep(), False, "critical"),
    (RISE, asleep(), True, "critical"),
    ({}, asleep(), False, "quiet_hours"),
    (END, asleep(), True, "quiet_hours"),
    (END, anna(), True, "at_once"),
    (END, anna(), False, "not_told_before"),
    (END, anna(ends=False), True, "ends_not_wanted"),
    ({**END, "before": "pending"}, anna(), True, "never_raised"),
    ({"state": "pending", "before": "normal"}, anna(), False, "not_active"),
    ({"state": "acknowledged", "before": "active"}, anna(), True, "not_active"),
    ({"state": "shelved", "before": "active"}, anna(), True, "not_active"),
    ({"before": "active"}, anna(), True, "told_already"),
    ({"before": "shelved", "reason": "shelf_time_over"}, anna(), True, "at_once"),
    ({}, anna(min_severity=3), False, "below_severity"),
    ({}, anna(houses=("house2",)), False, "other_house"),
    (MISSED, anna(houses=("house2",)), False, "other_house"),
    ({}, anna(about=("climate", "equipment")), False, "other_subject"),
    ({}, anna(when="unconfirmed"), False, "only_unconfirmed"),
    (MISSED, anna(when="unconfirmed"), False, "at_once"),
    ({**MISSED, "before": "active", "reason": "limit_crossed"}, anna(when="unconfirmed"), True, "at_once"),
    ({**MISSED, "before": "active", "reason": "limit_crossed", "text": "Told."}, anna(), True, "told_already"),
]


@pytest.mark.parametrize(("changes", "to", "was_told", "reason"), TABLE)
def test_each_change_finds_those_whom_it_concerns_when_they_want_it(
    changes: dict[str, Any], to: Notify, was_told: bool, reason: str
) -> None:
    decision = decide(row_of(NIGHT, **changes), to, FARM, NIGHT, told_text="Told." if was_told else None, stands=True)
    assert decision.reason == reason
    assert decision.tell == (reason in {"at_once", "critical", "quiet_hours"})
    assert decision.due == ({"quiet_hours": MORNING}.get(reason, NIGHT) if decision.tell else None)


@pytest.mark.parametrize("hour", range(24))
def test_nothing_critical_is_ever_held_back(hour: int) -> None:
    now = NOON.replace(hour=hour)
    to = anna(quiet_from=time(0), quiet_until=time(0), min_severity=4)
    decision = decide(row_of(now, severity=4), to, FARM, now, told_text=None, stands=True)
    assert (decision.tell, decision.due, decision.held) == (True, now, False)


def test_what_is_over_for_a_day_is_not_told_and_what_stands_is() -> None:
    later = NOON + timedelta(hours=25)
    for severity in (2, 4):
        row = row_of(severity=severity)
        assert decide(row, anna(), FARM, later, told_text=None, stands=False).reason == "too_old"
        assert decide(row, anna(), FARM, later, told_text=None, stands=True).tell


@pytest.mark.parametrize(
    ("begins", "ends", "at", "until"),
    [
        (time(21, 30), time(6), "2026-03-10T20:29:00Z", None),
        (time(21, 30), time(6), "2026-03-10T20:30:00Z", "2026-03-11T05:00:00Z"),
        (time(21, 30), time(6), "2026-03-11T04:59:00Z", "2026-03-11T05:00:00Z"),
        (time(21, 30), time(6), "2026-03-11T05:00:00Z", None),
        (time(12), time(13), "2026-03-10T11:30:00Z", "2026-03-10T12:00:00Z"),
        (time(6), time(6), "2026-03-10T05:00:00Z", "2026-03-11T05:00:00Z"),  # all day: once a day
        (time(21, 30), time(6), "2026-03-28T21:00:00Z", "2026-03-29T04:00:00Z"),  # the clocks go forward that night
        (time(21, 30), time(6), "2026-10-24T20:00:00Z", "2026-10-25T05:00:00Z"),  # and back
    ],
)
def test_quiet_hours_are_the_farms_own(begins: time, ends: time, at: str, until: str | None) -> None:
    found = quiet_until(begins, ends, FARM, datetime.fromisoformat(at))
    assert found == (None if until is None else datetime.fromisoformat(until))


def test_a_message_names_the_worst_first_and_says_all() -> None:
    rows = [row_of(), row_of(severity=3, house="house2", text="Deaths."), row_of(NOON, **END, text="Water is back.")]
    subject, text = words(rows, "farm1")
    assert subject == "farm1: 3 changes, the worst major: house2, deviation-water"
    assert text.splitlines() == [
        "MINOR 2026-03-10 11:00 UTC Water is low. First: Look.",
        "MAJOR 2026-03-10 11:00 UTC Deaths. First: Look.",
        "OVER 2026-03-10 11:00 UTC Water is back.",
    ]
    assert words(rows[:1], "farm1")[0] == "farm1: minor: house1, deviation-water"
    assert words([rows[2]] * 2, "farm1")[0] == "farm1: 2 warnings are over"
