"""Whatever evidence, house states and commands come, a warning's course makes sense."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

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
from agent.judge import CANNOT_SAY_AFTER

START = datetime(2026, 3, 1, tzinfo=UTC)
GRID = timedelta(minutes=10)
NORMAL, PENDING, SUPPRESSED = WarningState.NORMAL, WarningState.PENDING, WarningState.SUPPRESSED
ACTIVE, ACKNOWLEDGED, SHELVED = WarningState.ACTIVE, WarningState.ACKNOWLEDGED, WarningState.SHELVED

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
)
scores = st.one_of(st.none(), st.sampled_from([0.0, 0.5, 0.69, 0.75, 0.99, 1.0, 1.5, 2.5, 4.0]))
severities = st.one_of(st.none(), st.sampled_from([Severity.MAJOR, Severity.CRITICAL]))
commands = st.sampled_from(["acknowledge", "shelve", "unshelve"])
# (how many grid steps, score, severity, whether the rule applies, a command after it)
steps = st.lists(
    st.tuples(st.integers(1, 40), scores, severities, st.booleans() | st.just(value=True), commands | st.none()),
    max_size=40,
)

NEXT = {
    NORMAL: {PENDING, ACTIVE, SUPPRESSED},
    PENDING: {NORMAL, ACTIVE, SUPPRESSED},
    ACTIVE: {ACTIVE, NORMAL, SUPPRESSED},
    ACKNOWLEDGED: {ACTIVE, NORMAL, SUPPRESSED},
    SHELVED: {ACTIVE, NORMAL, SUPPRESSED},
    SUPPRESSED: {NORMAL, PENDING, ACTIVE},
}


def check_move(rule: WarningRule, before: Standing, after: Standing, reason: Reason | None, at: datetime) -> None:
    """Hold one judgement to what a farmer may rely on."""
    if reason is None:
        assert (after.state, after.severity, after.id) == (before.state, before.severity, before.id)
        assert (after.reason, after.updated_at) == (before.reason, before.updated_at)
    else:
        assert after.state in NEXT[before.state]
        assert after.state is not before.state or after.severity > before.severity
        assert (after.reason, after.updated_at) == (reason, at)


def check_standing(rule: WarningRule, standing: Standing) -> None:
    """Hold what stands to itself."""
    if standing.state in PUBLISHED_STATES:
        assert standing.id is not None
        assert standing.raised_at is not None
        assert standing.since is not None
        assert standing.since <= standing.raised_at
        assert standing.raised_at - standing.since >= timedelta(seconds=rule.on_delay_s)
        assert standing.severity >= rule.severity
    if standing.state is PENDING:
        assert (standing.id, standing.raised_at, standing.severity) == (None, None, Severity.NONE)
        assert standing.since is not None
    assert (standing.id is None) == (standing.raised_at is None)
    assert (standing.state is SHELVED) <= (standing.shelved_until is not None)


def obey(command: str, standing: Standing, at: datetime) -> tuple[Standing, Reason] | None:
    if command == "acknowledge":
        return judging.acknowledge(standing, at, "anna")
    if command == "shelve":
        return judging.shelve(standing, at, 3_600, "anna")
    return judging.unshelve(standing, at, "anna")


@settings(max_examples=300, deadline=None)
@given(rules, steps)
def test_every_course_makes_sense(
    rule: WarningRule, history: list[tuple[int, float | None, Severity | None, bool, str | None]]
) -> None:
    standing, at = Standing(rule.name, "house1"), START
    over_since: datetime | None = None  # all evidence since then was over the limit, inside the deadband, or none
    heard = False
    for count, score, severity, applies, command in history:
        for _ in range(count):
            at += GRID
            before = standing
            evidence = Evidence(score, severity=severity)
            standing, reason = judging.judge(rule, before, evidence, at, applies=applies)
            check_move(rule, before, standing, reason, at)
            check_standing(rule, standing)
            if score is not None and score < 1 - rule.deadband:
                over_since = None
            elif score is not None and score >= 1 and over_since is None and applies:
                over_since = at
            if not applies:
                over_since = None
            rises = standing.state is ACTIVE and before.state in {NORMAL, PENDING, SUPPRESSED}
            if rises:  # never without its on-delay, nor at an instant at which it is not over
                assert reason is Reason.ON_DELAY_OVER
                assert score is not None
                assert score >= 1
                assert over_since is not None
                assert at - over_since >= timedelta(seconds=rule.on_delay_s)
                assert standing.id != before.id
            if before.state in {ACTIVE, ACKNOWLEDGED} and standing.state is NORMAL:
                assert reason in {Reason.BACK_IN_BAND, Reason.CANNOT_SAY}
                assert (reason is Reason.CANNOT_SAY) == (score is None)
            if not applies:
                assert standing.state in {NORMAL, SUPPRESSED, SHELVED}
            heard = heard or reason is not None
        if command is not None:
            moved = obey(command, standing, at)
            if moved is not None:
                assert moved[0].state is not standing.state
                assert moved[0].reason is moved[1]
                standing = moved[0]
            check_standing(rule, standing)
    if not heard:
        assert standing.state is NORMAL


@settings(max_examples=200, deadline=None)
@given(rules, st.lists(st.tuples(st.integers(1, 20), st.sampled_from([None, 0.0, 0.8, 1.5])), max_size=20))
def test_a_warning_clears_only_after_its_whole_off_delay_or_after_hours_without_evidence(
    rule: WarningRule, history: list[tuple[int, float | None]]
) -> None:
    standing = Standing(
        rule.name, "house1", ACTIVE, rule.severity, "id", since=START - timedelta(days=1), raised_at=START
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
    rule: WarningRule, history: list[tuple[int, float | None, Severity | None, bool, str | None]]
) -> None:
    """After a crash between judging and recording, the last instant is judged again from what was stored."""
    standing, at = Standing(rule.name, "house1"), START
    for count, score, severity, applies, _ in history:
        for _ in range(count):
            at += GRID
            evidence = Evidence(score, severity=severity)
            standing, _reason = judging.judge(rule, standing, evidence, at, applies=applies)
            again, reason = judging.judge(rule, standing, evidence, at, applies=applies)
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
