"""The warning state machine, as a table of courses: evidence every ten minutes in, states out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from agent import judge as judging
from agent.domain import About, Evidence, HouseState, Reason, Severity, Standing, WarningRule, WarningState

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    scores: Sequence[float | None], standing: Standing | None = None, *, applies: bool = True, rule: WarningRule = RULE
) -> tuple[list[WarningState], list[Reason], Standing]:
    """Judge one score after the other, ten minutes apart; return the states, the reasons of changes, and the last."""
    standing = standing or Standing(rule.name, "house1")
    began = max(when for when in (START, standing.updated_at, standing.back_since) if when is not None)
    states, reasons = [], []
    for number, score in enumerate(scores):
        standing, reason = judging.judge(rule, standing, Evidence(score), began + number * STEP, applies=applies)
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


# --- latching, escalation, suppression by design, chatter, a clock that is set back


def test_a_latching_warning_stays_until_somebody_has_seen_it_and_it_is_back() -> None:
    rule = replace(RULE, latching=True)
    states, _, standing = play([1.2, 1.2, 1.2] + [0.2] * 10 + [None] * 50, rule=rule)
    assert states[2:] == [ACTIVE] * 61
    moved = judging.acknowledge(standing, START + 63 * STEP, "anna")
    assert moved is not None
    after, reason = judging.judge(rule, moved[0], Evidence(0.2), START + 64 * STEP, applies=True)
    assert (after.state, reason) == (NORMAL, Reason.BACK_IN_BAND)


def test_a_latching_warning_that_is_acknowledged_first_clears_as_any_other() -> None:
    rule = replace(RULE, latching=True)
    *_, active = play([1.2, 1.2, 1.2], rule=rule)
    moved = judging.acknowledge(active, START + 2 * STEP, "anna")
    assert moved is not None
    states, reasons, _ = play([1.2, 0.2, 0.2, 0.2], moved[0], rule=rule)
    assert states == [ACKNOWLEDGED] * 3 + [NORMAL]
    assert reasons == [Reason.BACK_IN_BAND]


def test_what_nobody_acknowledges_becomes_one_step_more_severe_and_only_one() -> None:
    rule = replace(RULE, severity=Severity.WARNING, escalate_after_s=3_600)
    states, reasons, standing = play([1.2] * 40, rule=rule)
    assert reasons == [Reason.LIMIT_CROSSED, Reason.ON_DELAY_OVER, Reason.ESCALATED]
    assert (states[-1], standing.severity, standing.updated_at) == (ACTIVE, Severity.MINOR, START + 8 * STEP)


def test_who_acknowledges_in_time_hears_no_more_of_it() -> None:
    rule = replace(RULE, escalate_after_s=3_600)
    *_, active = play([1.2, 1.2, 1.2], rule=rule)
    moved = judging.acknowledge(active, START + 3 * STEP, "anna")
    assert moved is not None
    assert play([1.2] * 60, moved[0], rule=rule)[1] == []


@pytest.mark.parametrize(
    ("score", "early"), [(0.8, False), (None, False), (0.2, False), (1.2, True)], ids=["inside", "?", "back", "early"]
)
def test_only_what_is_seen_to_be_over_its_limit_becomes_more_severe_by_waiting(
    score: float | None, early: bool
) -> None:
    rule = replace(RULE, escalate_after_s=3_600, off_delay_s=86_400)
    *_, standing = play([1.2, 1.2, 1.2], rule=rule)
    for number in range(3, 30):
        evidence = Evidence(score, is_early=early)
        standing, reason = judging.judge(rule, standing, evidence, START + number * STEP, applies=True)
        assert reason is None


def test_waiting_alone_makes_nothing_critical() -> None:
    rule = replace(RULE, severity=Severity.MAJOR, escalate_after_s=600)
    assert play([1.2] * 60, rule=rule)[2].severity is Severity.MAJOR


def test_what_is_suppressed_says_by_what_when_it_begins_and_when_it_ends() -> None:
    *_, active = play([1.2, 1.2, 1.2])
    suppressed, reason = judging.judge(
        RULE, active, Evidence(1.5), START + 3 * STEP, applies=False, because=Reason.ROOT_CAUSE
    )
    assert (suppressed.state, reason) == (SUPPRESSED, Reason.ROOT_CAUSE)
    after, reason = judging.judge(RULE, suppressed, Evidence(0.2), START + 4 * STEP, applies=True)
    assert (after.state, reason) == (NORMAL, Reason.ROOT_CAUSE)


COMES_AND_GOES: list[float | None] = [1.2, 1.2, 1.2, 0.5, 0.4, 0.5]  # active for three steps, clear with the sixth


def test_what_rises_for_the_third_time_is_told_once_more_and_then_stands_through_its_pauses() -> None:
    _, reasons, standing = play(COMES_AND_GOES * 6)
    assert reasons.count(Reason.ON_DELAY_OVER) == 2
    assert reasons.count(Reason.CHATTERING) == 1
    assert standing.state is ACTIVE
    assert standing.chatter is not None
    assert (standing.chatter.rises, standing.chatter.within_s) == (3, 6 * 3_600)
    states, reasons, _ = play([0.2] * 10, standing)
    assert (states[-1], reasons) == (NORMAL, [Reason.BACK_IN_BAND])


def test_the_delay_and_the_deadband_that_are_proposed_would_have_made_one_warning_of_it() -> None:
    chatter = play(COMES_AND_GOES * 3)[2].chatter
    assert chatter is not None
    assert (chatter.off_delay_s, chatter.deadband) == (2_400, 0.6)
    for better in (
        replace(RULE, off_delay_s=chatter.off_delay_s),
        replace(RULE, deadband=chatter.deadband or 0.0),
    ):
        reasons = play(COMES_AND_GOES * 6, rule=better)[1]
        assert reasons == [Reason.LIMIT_CROSSED, Reason.ON_DELAY_OVER]


def test_rises_that_are_far_apart_are_warnings_of_their_own() -> None:
    once_in_four_hours = [*COMES_AND_GOES, *[0.1] * 18]
    reasons = play(once_in_four_hours * 5)[1]
    assert reasons.count(Reason.ON_DELAY_OVER) == 5
    assert Reason.CHATTERING not in reasons


def test_after_a_clock_was_set_back_every_delay_has_run_as_far_as_it_had() -> None:
    *_, active = play([1.2, 1.2, 1.2])
    moved = judging.shelve(active, START + 3 * STEP, 3_600, "anna", "it is being mended")
    assert moved is not None
    assert moved[0].why == "it is being mended"
    year = timedelta(days=365)
    year_ago = START + 3 * STEP - year
    standing, reason = judging.judge(RULE, judging.set_back(moved[0], -year), Evidence(1.2), year_ago, applies=True)
    assert (standing.state, reason) == (WarningState.SHELVED, None)
    assert [spell.since + year for spell in standing.spells] == [spell.since for spell in active.spells]
    assert standing.shelved_until == year_ago + timedelta(hours=1)
    standing, reason = judging.judge(RULE, standing, Evidence(1.2), year_ago + timedelta(hours=1), applies=True)
    assert (standing.state, reason) == (ACTIVE, Reason.SHELF_TIME_OVER)


@pytest.mark.parametrize("score", [None, 0.0, 1.2, 4.0])
def test_an_instant_before_what_somebody_did_changes_nothing(score: float | None) -> None:
    """A backlog is judged while people answer what stands, and times are put right while it is judged."""
    *_, active = play([1.2, 1.2, 1.2])
    moved = judging.acknowledge(active, START + timedelta(hours=6), "anna")
    assert moved is not None
    for applies in (True, False):
        judged = judging.judge(RULE, moved[0], Evidence(score), START + timedelta(hours=5), applies=applies)
        assert judged == (moved[0], None)
