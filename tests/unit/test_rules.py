"""The rules' defaults, and the configuration's word on them."""

from __future__ import annotations

import pytest

from agent.check import _rules as check_rules
from agent.config import Config, RuleOverride, parse_config
from agent.domain import RULE_KINDS, About, HouseState, Severity
from agent.errors import ConfigError
from agent.rules import KINDS, kind_of, rule_by_default, rule_of


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_makes_a_rule_that_can_rise_and_clear(kind: str) -> None:
    rule = rule_of(kind, {})
    assert rule is not None
    assert rule.severity > Severity.NONE
    assert rule.threshold > 0
    assert 0 <= rule.deadband < 1
    assert rule.states
    assert HouseState.EMPTY not in rule.states
    assert HouseState.WASHING not in rule.states


@pytest.mark.parametrize(
    ("name", "about", "signal"),
    [
        ("deviation-water", About.BIRDS, "water"),
        ("trend-feed", About.BIRDS, "feed"),
        ("trend-weight", About.BIRDS, "weight"),
        ("deviation-temperature", About.CLIMATE, "temperature"),
        ("deviation-water-2", About.BIRDS, "water-2"),
        ("mortality", About.BIRDS, "dead"),
        ("missing-temperature-1", About.DATA, "temperature-1"),
        ("silent", About.DATA, None),
    ],
)
def test_a_rules_name_says_what_it_is_about(name: str, about: About, signal: str | None) -> None:
    rule = rule_of(name, {})
    assert rule is not None
    assert (rule.name, rule.about, rule.signal) == (name, about, signal)


def test_the_one_rule_wins_over_its_kind_field_by_field() -> None:
    overrides = {
        "deviation": RuleOverride(threshold=2.0, on_delay_s=60, states=(HouseState.ACTIVE, HouseState.THINNED)),
        "deviation-water": RuleOverride(threshold=3.0, severity=Severity.CRITICAL),
    }
    water, feed = rule_of("deviation-water", overrides), rule_of("deviation-feed", overrides)
    assert water is not None
    assert feed is not None
    assert (water.threshold, water.on_delay_s, water.severity) == (3.0, 60, Severity.CRITICAL)
    assert (feed.threshold, feed.on_delay_s, feed.severity) == (2.0, 60, Severity.MINOR)
    assert water.states == {HouseState.ACTIVE, HouseState.THINNED}
    assert water.off_delay_s == KINDS["deviation"].off_delay_s


def test_every_field_of_an_override_is_a_field_of_a_rule() -> None:
    told = RuleOverride(
        severity=Severity.MAJOR,
        threshold=0.5,
        on_delay_s=1,
        off_delay_s=2,
        deadband=0.1,
        first_day=3,
        states=(HouseState.ACTIVE,),
    )
    rule = rule_of("mortality", {"mortality": told})
    assert rule is not None
    for field in set(RuleOverride.model_fields) - {"enabled", "states"}:
        assert getattr(rule, field) == getattr(told, field)
    assert rule.states == {HouseState.ACTIVE}


def test_zero_is_a_word_and_not_the_lack_of_one() -> None:
    rule = rule_of("deviation-water", {"deviation": RuleOverride(on_delay_s=0, first_day=0, deadband=0.0)})
    assert rule is not None
    assert (rule.on_delay_s, rule.first_day, rule.deadband) == (0, 0, 0.0)


def test_a_rule_or_a_whole_kind_can_be_switched_off() -> None:
    assert rule_of("deviation-water", {"deviation-water": RuleOverride(enabled=False)}) is None
    assert rule_of("deviation-feed", {"deviation-water": RuleOverride(enabled=False)}) is not None
    assert rule_of("deviation-feed", {"deviation": RuleOverride(enabled=False)}) is None
    assert rule_by_default("deviation-feed").name == "deviation-feed"


def test_what_the_file_says_reaches_the_rule() -> None:
    config = parse_config(
        {"warnings": {"rules": {"deviation-water": {"severity": 4, "states": ["active", "thinned"]}}}}, "agent.toml"
    )
    rule = rule_of("deviation-water", config.warnings.rules)
    assert rule is not None
    assert rule.severity is Severity.CRITICAL
    assert rule.states == {HouseState.ACTIVE, HouseState.THINNED}


@pytest.mark.parametrize("name", ["deviaton-water", "heat", "-water", ""])
def test_a_rule_of_no_kind_is_refused_with_the_kinds_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match=r"warnings\.rules.*there are deviation, trend"):
        parse_config({"warnings": {"rules": {name: {"enabled": False}}}}, "agent.toml")
    with pytest.raises(KeyError):
        rule_of(name, {})


def test_the_kinds_that_the_configuration_knows_are_those_that_there_are() -> None:
    assert tuple(KINDS) == RULE_KINDS


def test_a_rule_or_an_override_of_an_unknown_signal_is_noted_but_not_refused() -> None:
    document = {
        "warnings": {"rules": {"missing-watr": {}}},
        "house": [{"id": "house1", "signals": {"watr": {"low": 0}}}],
    }
    findings = list(check_rules(Config.model_validate(document)))
    assert [finding.what for finding in findings] == ["rules", "signals"]
    assert all("'watr'" in finding.said and not finding.is_bad for finding in findings)


def test_a_rule_that_is_right_is_no_finding() -> None:
    config = Config.model_validate({"warnings": {"rules": {"missing-temperature-1": {}, "mortality": {}}}})
    assert list(check_rules(config)) == []
    assert kind_of("missing-temperature-1") == "missing"
