"""The warning state machine, as a table of courses: evidence every ten minutes in, states out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from agent import judge as judging
from agent.domain import About, Evidence, HouseState, Reason, Severity, Standing, WarningRule, WarningState

STEP = timedelta(minutes=10)
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RULE = WarningRule(
    name="deviation-water",
    about=About.BIRDS,
    signal="water",
    severity=Severity.MINOR,
    threshold=1.0,
    on_delay_s=1_200,
    off_delay_s=1_200,
    deadband=0.3,
    states=frozenset({HouseState.ACTIVE}),
)
NORMAL, PENDING, ACTIVE = WarningState.NORMAL, WarningState.PENDING, WarningState.ACTIVE
SUPPRESSED, ACKNOWLEDGED = WarningState.SUPPRESSED, WarningState.ACKNOWLEDGED


def play(
    scores: list[float | None], standing: Standing | None = None, *, applies: bool = True, rule: WarningRule = RULE
) -> tuple[list[WarningState], list[Reason], Standing]:
    """Judge one score after the other, ten minutes apart; return the states, the reasons of changes, and the last."""
    standing = standing or Standing(rule.name, "house1")
    states, reasons = [], []
    for number, score in enumerate(scores):
        standing, reason = judging.judge(rule, standing, Evidence(score), START + number * STEP, applies=applies)
        states.append(standing.state)
        if reason is not None:
            reasons.append(reason)
    return states, reasons, standing


@pytest.mark.parametrize(
    ("scores", "states", "reasons"),
    [
        # in its band: nothing
        ([0.2, 0.9, 0.5], [NORMAL] * 3, []),
        # over for the whole on-delay: active at its end, not before
        ([1.2, 1.2, 1.2], [PENDING, PENDING, ACTIVE], [Reason.LIMIT_CROSSED, Reason.ON_DELAY_OVER]),
        # back before the delay is over: never shown
        (
            [1.2, 0.5, 1.2],
            [PENDING, NORMAL, PENDING],
            [Reason.LIMIT_CROSSED, Reason.BACK_BEFORE_DELAY, Reason.LIMIT_CROSSED],
        ),
        # inside the deadband it is neither over nor back: a pending one goes on
        ([1.2, 0.8, 1.2], [PENDING, PENDING, ACTIVE], [Reason.LIMIT_CROSSED, Reason.ON_DELAY_OVER]),
        # back for the whole off-delay: cleared at its end
        (
            [1.2, 1.2, 1.2, 0.5, 0.5, 0.5],
            [PENDING, PENDING, ACTIVE, ACTIVE, ACTIVE, NORMAL],
            [Reason.LIMIT_CROSSED, Reason.ON_DELAY_OVER, Reason.BACK_IN_BAND],
        ),
        # a relapse within the off-delay begins the delay anew
        (
            [1.2, 1.2, 1.2, 0.5, 1.2, 0.5, 0.5, 0.5],
            [PENDING, PENDING, *[ACTIVE] * 5, NORMAL],
            [Reason.LIMIT_CROSSED, Reason.ON_DELAY_OVER, Reason.BACK_IN_BAND],
        ),
        # who cannot say changes nothing for a while
        (
            [1.2, 1.2, 1.2, None, None, 1.2],
            [PENDING, PENDING, *[ACTIVE] * 4],
            [Reason.LIMIT_CROSSED, Reason.ON_DELAY_OVER],
        ),
    ],
)
def test_delays_and_deadband_hold(
    scores: list[float | None], states: list[WarningState], reasons: list[Reason]
) -> None:
    found_states, found_reasons, _ = play(scores)
    assert found_states == states
    assert found_reasons == reasons


def test_a_warning_that_nobody_can_judge_any_more_is_given_up_after_six_hours_and_says_so() -> None:
    states, reasons, _ = play([1.2, 1.2, 1.2] + [None] * 40)
    assert states[2:39] == [ACTIVE] * 37  # six hours are 36 steps after the first that could not say
    assert states[39] is NORMAL
    assert reasons[-1] is Reason.CANNOT_SAY


def test_without_on_delay_a_warning_is_active_at_once_and_knows_since_when() -> None:
    rule = replace(RULE, on_delay_s=0)
    states, reasons, standing = play([1.2], rule=rule)
    assert (states, reasons) == ([ACTIVE], [Reason.ON_DELAY_OVER])
    assert standing.since == standing.raised_at == START
    assert standing.id == "house1-deviation-water-20260301T120000"


def test_evidence_that_knows_since_when_counts_from_there() -> None:
    """A sensor that has been silent for an hour has served its on-delay already."""
    evidence = Evidence(2.0, since=START - timedelta(hours=1))
    standing, reason = judging.judge(RULE, Standing(RULE.name, "house1"), evidence, START, applies=True)
    assert standing.state is ACTIVE
    assert reason is Reason.ON_DELAY_OVER
    assert standing.since == START - timedelta(hours=1)


def test_worse_evidence_raises_the_severity_and_asks_for_attention_again() -> None:
    *_, active = play([1.2, 1.2, 1.2])
    seen = judging.acknowledge(active, START + 3 * STEP, "anna")
    assert seen is not None
    assert seen[0].state is ACKNOWLEDGED
    worse = Evidence(4.0, severity=Severity.MAJOR)
    standing, reason = judging.judge(RULE, seen[0], worse, START + 4 * STEP, applies=True)
    assert (standing.state, standing.severity, reason) == (ACTIVE, Severity.MAJOR, Reason.SEVERITY_ROSE)
    again, nothing = judging.judge(RULE, standing, worse, START + 5 * STEP, applies=True)
    assert again.state is ACTIVE
    assert nothing is None


def test_the_house_state_suppresses_what_stands_and_what_would_rise_and_it_is_said() -> None:
    *_, active = play([1.2, 1.2, 1.2])
    standing, reason = judging.judge(RULE, active, Evidence(1.5), START + 3 * STEP, applies=False)
    assert (standing.state, reason) == (SUPPRESSED, Reason.HOUSE_STATE)
    states, reasons, _ = play([0.5, 1.5, 1.5], applies=False)
    assert states == [NORMAL, SUPPRESSED, SUPPRESSED]
    assert reasons == [Reason.HOUSE_STATE]


def test_after_suppression_a_rule_begins_anew_with_its_on_delay() -> None:
    *_, active = play([1.2, 1.2, 1.2])
    suppressed, _ = judging.judge(RULE, active, Evidence(1.5), START + 3 * STEP, applies=False)
    states, reasons, _ = play([1.5, 1.5, 1.5], suppressed)
    assert states == [PENDING, PENDING, ACTIVE]
    assert reasons == [Reason.LIMIT_CROSSED, Reason.ON_DELAY_OVER]


def test_a_shelved_warning_stays_away_until_its_time_is_over() -> None:
    *_, active = play([1.2, 1.2, 1.2])
    moved = judging.shelve(active, START, 1_800, "anna")
    assert moved is not None
    states, reasons, standing = play([1.5, 1.5, 1.5, 1.5], moved[0])
    assert states == [WarningState.SHELVED] * 3 + [ACTIVE]
    assert reasons == [Reason.SHELF_TIME_OVER]
    assert standing.shelved_until is None


def test_only_what_is_shown_can_be_acknowledged_or_shelved() -> None:
    *_, pending = play([1.2])
    assert judging.acknowledge(pending, START, "anna") is None
    assert judging.shelve(pending, START, 600, "anna") is None
    assert judging.unshelve(pending, START, "anna") is None
    assert judging.clear(Standing("x", "house1"), START, Reason.RULE_REMOVED) is None


def test_the_same_evidence_gives_the_same_state_however_often_it_is_told() -> None:
    """After a restart the same instant may be judged again: no double edge."""
    *_, active = play([1.2, 1.2, 1.2])
    again, reason = judging.judge(RULE, active, Evidence(1.2), START + 2 * STEP, applies=True)
    assert again.state is ACTIVE
    assert reason is None
    assert again.raised_at == active.raised_at
