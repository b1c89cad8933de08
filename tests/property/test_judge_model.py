"""Whatever evidence, house states and commands come, a warning's course makes sense."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import judge as judging
from agent.domain import (
    PUBLISHED_STATES,
    About,
    Evidence,
    HouseState,
    Reason,
    Severity,
    Standing,
    WarningRule,
    WarningState,
)
from agent.judge import CANNOT_SAY_AFTER, CHATTER_RISES

START = datetime(2026, 3, 1, tzinfo=UTC)
GRID = timedelta(minutes=10)
NORMAL, PENDING, SUPPRESSED = WarningState.NORMAL, WarningState.PENDING, WarningState.SUPPRESSED
ACTIVE, ACKNOWLEDGED, SHELVED = WarningState.ACTIVE, WarningState.ACKNOWLEDGED, WarningState.SHELVED

HISTORIES = int(os.environ.get("HISTORIES", "300"))
"""How many random courses the main test plays; `make model-check` plays 100,000."""

rules = st.builds(
    WarningRule,
    name=st.just("deviation-water"),
    about=st.just(About.BIRDS),
    signal=st.just("water"),
    severity=st.sampled_from([Severity.WARNING, Severity.MINOR, Severity.MAJOR]),
    threshold=st.just(1.0),
    on_delay_s=st.sampled_from([0, 600, 1_500, 7_200]),
    off_delay_s=st.sampled_from([0, 600, 1_500, 43_200]),
    deadband=st.sampled_from([0.0, 0.3]),
    states=st.just(frozenset({HouseState.ACTIVE})),
    latching=st.booleans(),
    escalate_after_s=st.sampled_from([0, 0, 3_600, 43_200]),
)
scores = st.one_of(st.none(), st.sampled_from([0.0, 0.5, 0.69, 0.75, 0.99, 1.0, 1.5, 2.5, 4.0]))
severities = st.one_of(st.none(), st.sampled_from([Severity.MAJOR, Severity.CRITICAL]))
DESIGNED = [Reason.HOUSE_STATE, Reason.FLOCK_AGE, Reason.SERVICE, Reason.BAD_QUALITY, Reason.ROOT_CAUSE]
whys = st.sampled_from(DESIGNED) | st.none() | st.none()  # why it is suppressed by design; mostly it is not
commands = st.sampled_from(["acknowledge", "shelve", "unshelve"])
events = st.sampled_from(["acknowledge", "shelve", "unshelve", "restart", "set back", "set ahead"])
# (how many grid steps, score, severity, why the rule does not apply, what happens after it)
steps = st.lists(st.tuples(st.integers(1, 40), scores, severities, whys, commands | st.none()), max_size=40)
courses = st.lists(st.tuples(st.integers(1, 40), scores, severities, whys, events | st.none()), max_size=30)

NEXT = {
    NORMAL: {PENDING, ACTIVE, SUPPRESSED},
    PENDING: {NORMAL, ACTIVE, SUPPRESSED},
    ACTIVE: {ACTIVE, NORMAL, SUPPRESSED},
    ACKNOWLEDGED: {ACTIVE, NORMAL, SUPPRESSED},
    SHELVED: {ACTIVE, NORMAL, SUPPRESSED},
    SUPPRESSED: {NORMAL, PENDING, ACTIVE},
}
WHY = {  # every reason that a judgement may give, by where it leads from and to
    (NORMAL, PENDING): {Reason.LIMIT_CROSSED},
    (NORMAL, ACTIVE): {Reason.ON_DELAY_OVER, Reason.CHATTERING},
    (PENDING, NORMAL): {Reason.BACK_BEFORE_DELAY, Reason.CANNOT_SAY},
    (PENDING, ACTIVE): {Reason.ON_DELAY_OVER, Reason.CHATTERING},
    (ACTIVE, ACTIVE): {Reason.SEVERITY_ROSE, Reason.ESCALATED},
    (ACTIVE, NORMAL): {Reason.BACK_IN_BAND, Reason.CANNOT_SAY},
    (ACKNOWLEDGED, ACTIVE): {Reason.SEVERITY_ROSE},
    (ACKNOWLEDGED, NORMAL): {Reason.BACK_IN_BAND, Reason.CANNOT_SAY},
    (SHELVED, ACTIVE): {Reason.SHELF_TIME_OVER},
    (SHELVED, NORMAL): {Reason.SHELF_TIME_OVER},
    (SUPPRESSED, NORMAL): set(DESIGNED),
    (SUPPRESSED, PENDING): {Reason.LIMIT_CROSSED},
    (SUPPRESSED, ACTIVE): {Reason.ON_DELAY_OVER},
}


def check_move(rule: WarningRule, before: Standing, after: Standing, reason: Reason | None, at: datetime) -> None:
    """Hold one judgement to what a farmer may rely on."""
    if reason is None:
        assert (after.state, after.severity, after.id) == (before.state, before.severity, before.id)
        assert (after.reason, after.updated_at) == (before.reason, before.updated_at)
        return
    assert after.state in NEXT[before.state]
    assert after.state is not before.state or after.severity > before.severity
    assert (after.reason, after.updated_at) == (reason, at)
    assert after.state is SUPPRESSED or reason in WHY[before.state, after.state]
    if reason is Reason.ESCALATED:
        assert not before.is_escalated
        assert after.is_escalated
        assert after.severity == before.severity + 1 <= Severity.MAJOR
    if rule.latching and before.state is ACTIVE:
        assert after.state is not NORMAL


def check_standing(rule: WarningRule, standing: Standing) -> None:
    """Hold what stands to itself, and to what a restart makes of it."""
    if standing.state in PUBLISHED_STATES:
        assert standing.id is not None
        assert standing.raised_at is not None
        assert standing.asked_at is not None
        assert standing.since is not None
        assert standing.since <= standing.raised_at
        assert standing.raised_at - standing.since >= timedelta(seconds=rule.on_delay_s)
        assert standing.severity >= rule.severity
        if standing.chatter is not None:
            assert standing.chatter.rises >= CHATTER_RISES
            assert 0 < standing.chatter.off_delay_s <= standing.chatter.within_s
    if standing.state is PENDING:
        assert (standing.id, standing.raised_at, standing.severity) == (None, None, Severity.NONE)
        assert standing.since is not None
        assert not standing.is_escalated
    assert (standing.id is None) == (standing.raised_at is None)
    assert (standing.state is SHELVED) <= (standing.shelved_until is not None)


def stored(standing: Standing) -> Standing:
    """Return what comes back from the store."""
    return msgspec.json.decode(msgspec.json.encode(standing), type=Standing)


def obey(command: str, standing: Standing, at: datetime) -> tuple[Standing, Reason] | None:
    if command == "acknowledge":
        return judging.acknowledge(standing, at, "anna")
    if command == "shelve":
        return judging.shelve(standing, at, 3_600, "anna", "the plumber comes at noon")
    return judging.unshelve(standing, at, "anna")


def applying(why: Reason | None) -> dict[str, Any]:
    return {"applies": why is None, "because": why or Reason.HOUSE_STATE}


@settings(max_examples=HISTORIES, deadline=None)
@given(rules, courses)
def test_every_course_makes_sense(
    rule: WarningRule, history: list[tuple[int, float | None, Severity | None, Reason | None, str | None]]
) -> None:
    """Evidence, commands, restarts and a clock that is set: no forbidden transition, no edge without its delay."""
    standing, at = Standing(rule.name, "house1"), START
    nothing = timedelta(0)
    over_for: timedelta | None = None  # so long all evidence was over the limit, inside the deadband, or none
    back_for: timedelta | None = None  # so long all evidence was back in the band
    asked_for: timedelta | None = None  # so long it has been active without a change
    heard = False
    for count, score, severity, why, event in history:
        for _ in range(count):
            at += GRID
            over_for, back_for, asked_for = (None if t is None else t + GRID for t in (over_for, back_for, asked_for))
            before = standing
            evidence = Evidence(score, severity=severity)
            standing, reason = judging.judge(rule, before, evidence, at, **applying(why))
            check_move(rule, before, standing, reason, at)
            check_standing(rule, standing)
            is_back = score is not None and score < 1 - rule.deadband
            if is_back or why is not None:
                over_for = None
            elif score is not None and score >= 1 and over_for is None:
                over_for = nothing
            if score is not None:
                back_for = (nothing if back_for is None else back_for) if is_back else None
            if standing.state is ACTIVE and before.state in {NORMAL, PENDING, SUPPRESSED}:
                # never without its on-delay, nor at an instant at which it is not over
                assert score is not None
                assert score >= 1
                assert over_for is not None
                assert over_for >= timedelta(seconds=rule.on_delay_s)
                assert standing.id != before.id
            if before.state in {ACTIVE, ACKNOWLEDGED} and standing.state is NORMAL:
                assert (reason is Reason.CANNOT_SAY) == (score is None)
                if reason is Reason.BACK_IN_BAND:
                    assert back_for is not None
                    assert back_for >= timedelta(seconds=rule.off_delay_s)
            if reason is Reason.ESCALATED:
                assert score is not None
                assert score >= 1
                assert asked_for is not None
                assert asked_for >= timedelta(seconds=rule.escalate_after_s) > nothing
            if reason is not None:
                asked_for = nothing if standing.state is ACTIVE else None
            if why is not None:
                assert standing.state in {NORMAL, SUPPRESSED, SHELVED}
                assert reason in {None, why}
            heard = heard or reason is not None
        if event == "restart":
            assert stored(standing) == standing
        elif event == "set back":
            at -= timedelta(hours=30)
            standing = judging.set_back(standing, -timedelta(hours=30))
        elif event == "set ahead":
            ahead = timedelta(hours=30)
            at += ahead
            over_for, back_for, asked_for = (None if t is None else t + ahead for t in (over_for, back_for, asked_for))
        elif event is not None:
            moved = obey(event, standing, at)
            if moved is not None:
                assert moved[0].state is not standing.state
                assert moved[0].reason is moved[1]
                standing = moved[0]
                asked_for = nothing if standing.state is ACTIVE else None
            check_standing(rule, standing)
    if not heard:
        assert standing.state is NORMAL


@settings(max_examples=200, deadline=None)
@given(rules, st.lists(st.tuples(st.integers(1, 20), st.sampled_from([None, 0.0, 0.8, 1.5])), max_size=20))
def test_a_warning_clears_only_after_its_whole_off_delay_or_after_hours_without_evidence(
    rule: WarningRule, history: list[tuple[int, float | None]]
) -> None:
    standing = Standing(
        rule.name,
        "house1",
        ACTIVE,
        rule.severity,
        "id",
        since=START - timedelta(days=1),
        raised_at=START,
        asked_at=START,
    )
    at = START
    back_since: datetime | None = None
    unknown_since: datetime | None = None
    for count, score in history:
        for _ in range(count):
            at += GRID
            if score is None:
                unknown_since = unknown_since or at
            else:
                unknown_since = None
                back_since = (back_since or at) if score < 1 - rule.deadband else None
            standing, reason = judging.judge(rule, standing, Evidence(score), at, applies=True)
            if rule.latching:
                assert standing.state is ACTIVE
            if standing.state is not ACTIVE:
                if reason is Reason.BACK_IN_BAND:
                    assert back_since is not None
                    assert at - back_since >= timedelta(seconds=rule.off_delay_s)
                else:
                    assert reason is Reason.CANNOT_SAY
                    assert unknown_since is not None
                    assert at - unknown_since >= CANNOT_SAY_AFTER
                return


@settings(max_examples=100, deadline=None)
@given(rules, steps)
def test_the_same_instant_judged_twice_makes_no_second_edge(
    rule: WarningRule, history: list[tuple[int, float | None, Severity | None, Reason | None, str | None]]
) -> None:
    """After a crash between judging and recording, the last instant is judged again from what was stored."""
    standing, at = Standing(rule.name, "house1"), START
    for count, score, severity, why, _ in history:
        for _ in range(count):
            at += GRID
            evidence = Evidence(score, severity=severity)
            standing, _reason = judging.judge(rule, standing, evidence, at, **applying(why))
            again, reason = judging.judge(rule, standing, evidence, at, **applying(why))
            assert reason is None or standing.state is SUPPRESSED or again.state is not standing.state
            assert (again.state, again.id) == (standing.state, standing.id)


@settings(max_examples=100, deadline=None)
@given(rules, st.integers(1, 100))
def test_a_switched_off_rule_is_cleared_with_its_reason(rule: WarningRule, minutes: int) -> None:
    for state in WarningState:
        standing = replace(Standing(rule.name, "house1"), state=state)
        cleared = judging.clear(standing, START + timedelta(minutes=minutes), Reason.RULE_REMOVED)
        assert (cleared is None) == (state is NORMAL)
        if cleared is not None:
            assert (cleared[0].state, cleared[1]) == (NORMAL, Reason.RULE_REMOVED)
