"""What a controller does not confirm in time is seen, what it confirms is believed, and no other is blamed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from agent.config import Controller
from agent.domain import About, Reason, Severity, Standing, WarningEvent, WarningState
from agent.receipts import HEARTBEAT_S, Receipts

if TYPE_CHECKING:
    from collections.abc import Sequence

AT = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
PANEL = Controller(name="panel1", within_s=30)
SCREEN = Controller(name="panel1", within_s=30, confirms="warning")
QUIET = {"house1": 0, "house2": 0}
LATE = "The controller panel1 has not confirmed this warning within 30 s: "


def event_of(number: int = 1, severity: Severity = Severity.MINOR, house: str = "house1") -> WarningEvent:
    standing = Standing("deviation-water", house, WarningState.ACTIVE, severity, f"w{number}")
    reason = Reason.ON_DELAY_OVER
    return WarningEvent(AT, WarningState.PENDING, standing, reason, About.BIRDS, None, 24, f"Water {number}.", (), "")


class Line:
    """One controller, and time that goes on as it is looked at."""

    def __init__(self, controller: Controller) -> None:
        self.receipts = Receipts([controller], ["house1", "house2"])
        self.now = 100.0

    def look(
        self,
        seconds: float = 0.0,
        standing: Sequence[WarningEvent] = (),
        severities: dict[str, int] | None = None,
        *,
        is_connected: bool = True,
    ) -> str | None:
        self.now += seconds
        self.receipts.look(standing, severities or QUIET, self.now, is_connected=is_connected)
        missing = self.receipts.state("panel1")[1]
        if missing is None:
            return None
        words = missing.message.format(controller="panel1", house=missing.house, **missing.values)
        return f"{missing.severity.name} {words}"

    def echo(self, severity: int, house: str = "house1") -> str | None:
        return self.receipts.hear(house, "panel1", b"%d" % severity, self.now)

    def confirm(self, number: int) -> str | None:
        return self.receipts.hear("house1", "panel1", json.dumps({"id": f"w{number}"}).encode(), self.now)

    @property
    def is_proven(self) -> bool | None:
        return self.receipts.state("panel1")[0]


def test_a_severity_that_is_not_echoed_in_time_is_missed() -> None:
    line = Line(PANEL)
    line.look()
    line.echo(0), line.echo(0, "house2")
    assert line.look() is None
    assert line.is_proven
    assert line.look(10, severities={"house1": 4, "house2": 0}) is None
    assert line.look(31, severities={"house1": 4, "house2": 0}) == (
        "CRITICAL The controller panel1 has not confirmed the severity 4 of house1 within 30 s."
    )
    assert line.is_proven is False
    line.echo(3)  # an old one
    assert line.look(1, severities={"house1": 4, "house2": 0}) is not None
    line.echo(4)
    assert line.look(1, severities={"house1": 4, "house2": 0}) is None
    assert line.is_proven


def test_a_line_that_is_dead_is_noticed_on_a_quiet_day_too() -> None:
    line = Line(PANEL)
    line.look()
    for _ in range(3):
        line.echo(0), line.echo(0, "house2")
        assert line.look(HEARTBEAT_S) is None
    line.echo(0)
    assert line.look(PANEL.within_s) is None
    unheard_s = f"{HEARTBEAT_S + 30:g}"
    assert line.look(1) == f"MAJOR The controller panel1 has sent no confirmation for house2 for {unheard_s} s."


def test_a_warning_that_is_not_confirmed_in_time_is_missed_the_worst_first() -> None:
    line = Line(SCREEN)
    standing = [event_of(1), event_of(2, Severity.CRITICAL)]
    assert line.look(0, standing) is None
    assert line.is_proven is None
    assert line.look(31, standing) == f"CRITICAL {LATE}Water 2."
    assert line.confirm(2) is None
    assert line.look(0, standing) == f"MAJOR {LATE}Water 1."
    line.confirm(1)
    assert line.look(0, standing) is None
    assert line.is_proven


def test_what_was_confirmed_is_not_asked_for_again_unless_it_gets_worse() -> None:
    line = Line(SCREEN)
    line.look(0, [event_of()])
    line.confirm(1)
    assert line.look(3_600, [event_of()]) is None
    worse = event_of(severity=Severity.CRITICAL)
    line.look(0, [worse])
    assert line.look(31, [worse]) == f"CRITICAL {LATE}Water 1."
    line.confirm(1)
    assert line.look(31, [worse]) is None


def test_what_is_over_or_acknowledged_needs_no_receipt_but_proves_nothing() -> None:
    line = Line(SCREEN)
    line.look(0, [event_of()])
    assert line.look(31, [event_of()]) is not None
    seen = event_of()
    seen = replace(seen, standing=replace(seen.standing, state=WarningState.ACKNOWLEDGED))
    assert line.look(1, [seen]) is None
    assert line.is_proven is False


def test_while_the_broker_is_away_no_controller_is_to_blame() -> None:
    line = Line(PANEL)
    line.look(0, severities={"house1": 3, "house2": 0})
    assert line.look(500, severities={"house1": 3, "house2": 0}, is_connected=False) is None
    assert line.look(1, severities={"house1": 3, "house2": 0}) is None  # all is said again now
    assert line.look(31, severities={"house1": 3, "house2": 0}) is not None


def test_a_controller_answers_only_for_its_houses() -> None:
    line = Line(Controller(name="panel1", houses=("house2",), confirms="warning"))
    line.look(0, [event_of()])
    assert line.look(99, [event_of()]) is None
    assert line.receipts.hear("house1", "panel1", b"0", 0.0) == "receipt of an unknown controller"


@pytest.mark.parametrize(
    ("controller", "payload", "why"),
    [
        (PANEL, b"5", "receipt is no severity"),
        (PANEL, b'{"id": "w1"}', "receipt is no severity"),
        (PANEL, b"\xff", "receipt is no severity"),
        (SCREEN, b"0", "receipt names no warning"),
        (SCREEN, b"[" * 9_999, "receipt names no warning"),
        (SCREEN, b'{"id": 1}', "receipt names no warning"),
        (SCREEN, b'{"id": "other"}', "receipt of an unknown warning"),
    ],
)
def test_what_is_no_receipt_proves_nothing(controller: Controller, payload: bytes, why: str) -> None:
    line = Line(controller)
    line.look()
    assert line.receipts.hear("house1", "panel1", payload, line.now) == why
    assert line.receipts.hear("house1", "stranger", payload, line.now) == "receipt of an unknown controller"
    line.look()
    assert line.is_proven is None
