"""What a farmer reads: complete, in his units, and with something to do first."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from agent import explain as words
from agent.domain import Cause, Evidence, Reason, Standing, WarningState
from agent.explain import Likelihood, Occasion, causes_of, direction_of, explain, likelihood_of
from agent.languages import Locale
from agent.rules import KINDS

WHERE, WHEN = "house1, flock f1, day 24", "14:20"
SINCE = datetime(2026, 3, 10, 14, 20, tzinfo=UTC)
LOW_WATER = Evidence(4.0, actual=120.0, expected=200.0, low=180.0, high=220.0, unit="l")
SIGNALS = ("water", "feed", "temperature", "weight", "humidity", "co2", "ammonia", "noise", "temperature-2")
NAMES = sorted({f"{kind}-{signal}" for kind in ("deviation", "trend", "missing", "stuck") for signal in SIGNALS})


TOLD = Occasion("house1", "f1", 24, SINCE + timedelta(hours=1))


def standing_of(rule: str, evidence: Evidence | None) -> Standing:
    return Standing(rule, "house1", WarningState.ACTIVE, since=SINCE, evidence=evidence)


def causes(rule: str, evidence: Evidence | None, also: dict[str, int] | None = None) -> tuple[Cause, ...]:
    return causes_of(standing_of(rule, evidence), also or {})


def said(rule: str, evidence: Evidence | None) -> words.Explanation:
    return explain(standing_of(rule, evidence), causes(rule, evidence), TOLD, Locale())


def test_the_text_says_where_what_how_much_against_what_since_when_and_what_to_do() -> None:
    words = said("deviation-water", LOW_WATER)
    for part in (
        WHERE,
        "water intake",
        "40 % below",
        "120 l",
        "200 l",
        "180 to 220 l",
        f"since {WHEN}",
        "Usually a blocked",
    ):
        assert part in words.text
    assert words.text.endswith(words.check_first)
    assert causes("deviation-water", LOW_WATER)[0].cause == "water_line_blocked"


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


def test_temperatures_differ_in_degrees_and_shares_in_points_not_in_percent() -> None:
    text = said("deviation-temperature", Evidence(3.0, actual=26.5, expected=22.0, unit="Cel")).text
    assert "4.5 °C above the expected: 26.5 °C instead of 22.0 °C" in text
    text = said("deviation-humidity", Evidence(3.0, actual=72, expected=60, unit="%RH")).text
    assert "12.0 percentage points above the expected: 72.0 % RH instead of 60.0 % RH" in text


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
    named = {cause for causes in words._CAUSES.values() for cause in causes}
    named |= {cause for _, cause in words._TOGETHER}
    named |= {cause for causes in words._ALONE.values() for cause in causes}
    assert named <= set(words.CAUSES)
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
    found = [cause.cause for cause in causes(rule, Evidence(3.0, actual=actual, expected=200.0), also)]
    assert found[0] == first
    assert len(found) == len(set(found))
    assert all(cause.probability is None for cause in causes(rule, LOW_WATER))  # no model was measured on it


def test_a_signal_without_known_causes_sends_somebody_to_look() -> None:
    loud = Evidence(3.0, actual=80.0, expected=40.0)
    assert causes("deviation-noise", loud) == ()
    words = said("deviation-noise", loud)
    assert "What is behind it cannot be said: nothing points to one cause." in words.text
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
    assert causes_of(standing, {}) == ()
    over = explain(standing, (), TOLD, Locale())
    assert over.text.startswith(f"{WHERE}: water intake ")
    assert WHEN in over.text
    assert "below the expected" not in over.text
    assert over.check_first == "Nothing: it is over."


@pytest.mark.parametrize(
    ("probability", "word"),
    [
        (1.0, Likelihood.ALMOST_CERTAINLY),
        (0.9, Likelihood.ALMOST_CERTAINLY),
        (0.89, Likelihood.PROBABLY),
        (0.6, Likelihood.PROBABLY),
        (0.59, Likelihood.PERHAPS),
        (0.3, Likelihood.PERHAPS),
        (0.29, Likelihood.CANNOT_SAY),
        (0.0, Likelihood.CANNOT_SAY),
    ],
)
def test_a_word_for_a_probability_means_always_the_same(probability: float, word: Likelihood) -> None:
    assert likelihood_of(probability) is word


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((("disease", 0.995),), "Almost certainly a disease (99 %). "),  # nothing that is estimated is certain
        ((("disease", 0.6), ("wet_litter", 0.3)), "Probably a disease (60 %). "),
        ((("disease", 0.4), ("wet_litter", 0.09)), "Perhaps a disease (40 %). "),
        ((("disease", 0.4), ("unknown", 0.3), ("wet_litter", 0.1)), "Perhaps a disease (40 %) or wet litter and amm"),
        ((("disease", 0.2), ("wet_litter", 0.2)), "What it is cannot be said: nothing is likelier than 20 %. "),
        ((("unknown", 0.7), ("wet_litter", 0.2)), "It fits no cause that is known well. "),
    ],
)
def test_no_word_claims_more_than_the_model_of_the_causes(answer: tuple[tuple[str, float], ...], text: str) -> None:
    told = tuple(Cause(cause, probability) for cause, probability in answer)
    assert text in said("deviation-water", replace(LOW_WATER, causes=told)).text


@pytest.mark.parametrize(
    ("confidence", "doubt"),
    [
        (0.05, "almost certainly a false"),
        (0.3, "probably a false"),
        (0.6, "perhaps a false"),
        (0.75, None),
        (None, None),
    ],
)
def test_what_may_be_a_false_alarm_is_called_one(confidence: float | None, doubt: str | None) -> None:
    told = replace(LOW_WATER, causes=(Cause("water_line_blocked", 0.05),), confidence=confidence)
    text = said("deviation-water", told).text
    assert ("false alarm" in text) == (doubt is not None)
    assert (doubt or "") in text


def test_a_probability_of_what_is_to_come_is_no_doubt_about_what_is() -> None:
    early = Evidence(1.2, actual=24, expected=13, high=58, low=0, unit="birds", confidence=0.4, is_early=True)
    text = said("mortality", replace(early, course=(11, 14, 24), causes=(Cause("disease", 0.7),))).text
    assert (
        "more birds die than usual, and an outbreak is perhaps coming (40 %): 24 birds on the last day counted, "
        "13 birds would be usual; the last days: 11, 14, 24; an outbreak begins at 58 birds a day, since" in text
    )
    assert "false alarm" not in text


def test_what_an_older_version_stored_is_told_as_it_was() -> None:
    standing = replace(
        standing_of("deviation-water", replace(LOW_WATER, why="co2 is stuck since 03:10 {")), unknown_since=SINCE
    )
    text = explain(standing, (), TOLD, Locale("da")).text
    assert "Om det stadig er sådan, kan ikke siges: co2 is stuck since 03:10 {." in text
