"""What a farmer reads: complete, in his units, and with something to do first."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from agent import explain as words
from agent.domain import Evidence, Reason, Standing, WarningState
from agent.explain import direction_of, explain
from agent.rules import KINDS, rule_by_default

WHERE, WHEN = "house1, flock f1, day 24", "14:20"
SINCE = datetime(2026, 3, 10, 14, 20, tzinfo=UTC)
LOW_WATER = Evidence(4.0, actual=120.0, expected=200.0, low=180.0, high=220.0, unit="l")
SIGNALS = ("water", "feed", "temperature", "weight", "humidity", "co2", "ammonia", "noise", "temperature-2")
NAMES = sorted({f"{kind}-{signal}" for kind in ("deviation", "trend", "missing", "stuck") for signal in SIGNALS})


def said(rule: str, evidence: Evidence | None, also: dict[str, int] | None = None) -> words.Explanation:
    standing = Standing(rule, "house1", WarningState.ACTIVE, since=SINCE, evidence=evidence)
    return explain(rule_by_default(rule), standing, also or {}, WHERE, WHEN)


def test_the_text_says_where_what_how_much_against_what_since_when_and_what_to_do() -> None:
    words = said("deviation-water", LOW_WATER)
    for part in (WHERE, "water intake", "40 % below", "120 l", "200 l", "180 to 220 l", f"since {WHEN}"):
        assert part in words.text
    assert words.text.endswith(words.check_first)
    assert words.causes[0].cause == "water_line_blocked"


@pytest.mark.parametrize(
    ("rule", "over_s", "over"),
    [
        ("deviation-water", 3600, "in the last hour"),
        ("trend-water", 86_400, "in the last 24 hours"),
        ("trend-water", 3 * 86_400, "in the last 3 days"),
        ("trend-water", None, "in the last 24 hours"),  # as older versions stored it
    ],
)
def test_the_text_says_over_how_long_it_was(rule: str, over_s: int | None, over: str) -> None:
    assert f"water intake {over} is 40 % below" in said(rule, replace(LOW_WATER, over_s=over_s)).text


def test_temperatures_differ_in_kelvin_and_are_read_in_degrees() -> None:
    text = said("deviation-temperature", Evidence(3.0, actual=26.5, expected=22.0, unit="Cel")).text
    assert "4.5 K above the expected: 26.5 °C instead of 22.0 °C" in text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("evidence", [None, Evidence(None), Evidence(2.0), LOW_WATER])
def test_every_kind_has_a_sentence_and_something_to_check_whatever_is_known(
    kind: str, evidence: Evidence | None
) -> None:
    for rule in [name for name in NAMES if name.startswith(kind + "-")] or [kind]:
        words = said(rule, evidence)
        assert words.text.startswith(f"{WHERE}: ")
        assert f", since {WHEN}. " in words.text
        assert words.check_first
        assert "None" not in words.text
        assert "nan" not in words.text
        assert "  " not in words.text


def test_every_cause_that_can_be_named_has_plain_words_and_a_first_thing_to_check() -> None:
    causes = {cause for causes in words._CAUSES.values() for cause in causes}
    causes |= {cause for _, cause in words._TOGETHER}
    causes |= {cause for causes in words._ALONE.values() for cause in causes}
    assert causes <= set(words.CAUSES)
    assert all(called and check.endswith(".") for called, check in words.CAUSES.values())


def test_kinds_that_no_model_judges_name_their_own_cause() -> None:
    of_signals = {kind for kind, of in KINDS.items() if of.limits} - {"misplaced"} | {"min"}  # by signal and direction
    assert set(words._ALONE) == set(KINDS) - {"deviation", "trend", "mortality"} - of_signals


@pytest.mark.parametrize(
    ("rule", "actual", "also", "first"),
    [
        ("deviation-water", 120.0, {}, "water_line_blocked"),
        ("deviation-water", 300.0, {}, "water_leak"),
        ("deviation-water", 300.0, {"temperature": 1}, "heat_stress"),
        ("deviation-temperature", 300.0, {"water": 1}, "heat_stress"),
        ("deviation-temperature", 300.0, {"water": -1}, "ventilation_failure"),
        ("deviation-feed", 120.0, {}, "feed_outage"),
        ("deviation-feed", 120.0, {"dead": 1}, "disease"),
        ("trend-water", 120.0, {"feed": -1, "dead": 1}, "disease"),
        ("mortality", 300.0, {}, "disease"),
    ],
)
def test_what_leaves_its_band_together_names_the_cause(
    rule: str, actual: float, also: dict[str, int], first: str
) -> None:
    causes = [cause.cause for cause in said(rule, Evidence(3.0, actual=actual, expected=200.0), also).causes]
    assert causes[0] == first
    assert len(causes) == len(set(causes))
    assert all(cause.probability is None for cause in said(rule, LOW_WATER).causes)  # no model was measured on it


def test_a_signal_without_known_causes_sends_somebody_to_look() -> None:
    words = said("deviation-noise", Evidence(3.0, actual=80.0, expected=40.0))
    assert words.causes == ()
    assert words.check_first == "Go to the house and look."


def test_a_percentage_of_nothing_is_left_out() -> None:
    text = said("deviation-feed", Evidence(3.0, actual=5.0, expected=0.0, unit="kg")).text
    assert "%" not in text
    assert "is above the expected: 5.0 kg instead of 0 kg" in text


@pytest.mark.parametrize(
    ("actual", "expected", "direction"), [(1, 2, -1), (2, 1, 1), (1, 1, 1), (None, 1, 0), (1, None, 0)]
)
def test_the_direction_is_that_of_what_was_measured(
    actual: float | None, expected: float | None, direction: int
) -> None:
    assert direction_of(Evidence(1.0, actual=actual, expected=expected)) == direction


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason in words._OVER])
def test_the_last_word_about_a_warning_sends_nobody_running(reason: Reason) -> None:
    standing = Standing(
        "deviation-water", "house1", WarningState.NORMAL, since=SINCE, reason=reason, evidence=LOW_WATER
    )
    over = explain(rule_by_default("deviation-water"), standing, {}, WHERE, WHEN)
    assert over.text.startswith(f"{WHERE}: water intake ")
    assert WHEN in over.text
    assert "below the expected" not in over.text
    assert over.causes == ()
    assert over.check_first == "Nothing: it is over."
