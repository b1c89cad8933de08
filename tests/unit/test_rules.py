"""The rules' defaults, and the configuration's word on them."""

from __future__ import annotations

import pytest

from agent.check import _rules as check_rules
from agent.config import Config, RuleOverride, parse_config
from agent.domain import RULE_KINDS, About, HouseState, Severity
from agent.errors import ConfigError
from agent.rules import KINDS, kind_of, plain_rules, rule_by_default, rule_of


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_makes_a_rule_that_can_rise_and_clear(kind: str) -> None:
    signals = [f"-{signal}" for signal in KINDS[kind].limits] or [""]
    for name in [f"{kind}{signal}" for signal in signals]:
        rule = rule_of(name, {kind: RuleOverride(threshold=1.0)} if kind == "min" else {}, house_computer=True)
        assert rule is not None
        assert rule.severity > Severity.NONE
        assert rule.threshold > 0
        assert 0 <= rule.deadband < 1
        assert rule.states
        if kind != "unregistered":  # which is about what nobody told: a house that stands for empty
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
        latching=True,
        escalate_after_s=4,
    )
    rule = rule_of("mortality", {"mortality": told})
    assert rule is not None
    for field in set(RuleOverride.model_fields) - {"enabled", "states", "by_age"}:
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


@pytest.mark.parametrize("name", ["deviaton-water", "heat-water", "-water", ""])
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


# --- by house and by age


def house_rules(document: dict[str, object], house: str = "house2") -> Config:
    return Config.model_validate({"house": [{"id": "house1"}, {"id": house, **document}], **SITE_SAYS})


ON_DELAY_S = KINDS["deviation"].on_delay_s
SITE_SAYS = {
    "warnings": {
        "rules": {
            "deviation": {"off_delay_s": 600},
            "deviation-water": {"threshold": 1.5, "by_age": [{"from_day": 28, "threshold": 2.0, "on_delay_s": 60}]},
        }
    }
}


@pytest.mark.parametrize(
    ("says", "day", "threshold", "on_delay_s"),
    [
        ({}, 10, 1.5, ON_DELAY_S),
        ({}, 27, 1.5, ON_DELAY_S),
        ({}, 28, 2.0, 60),
        ({}, None, 1.5, ON_DELAY_S),
        ({"deviation-water": {"threshold": 3.0}}, 10, 3.0, ON_DELAY_S),
        ({"deviation-water": {"threshold": 3.0}}, 30, 3.0, 60),  # the house over the site, at any age
        ({"deviation": {"threshold": 4.0}}, 30, 4.0, 60),  # of the whole kind, too
        ({"deviation-water": {"by_age": [{"from_day": 14, "threshold": 5.0}]}}, 30, 5.0, ON_DELAY_S),
        ({"deviation": {"threshold": 4.0}, "deviation-water": {"threshold": 6.0}}, 3, 6.0, ON_DELAY_S),
    ],
)
def test_a_rule_may_differ_by_house_and_by_age(
    says: dict[str, object], day: int | None, threshold: float, on_delay_s: int
) -> None:
    config = house_rules({"rules": says})
    rule = rule_of("deviation-water", config.overrides_of("house2"), day)
    assert rule is not None
    assert (rule.threshold, rule.on_delay_s, rule.off_delay_s) == (threshold, on_delay_s, 600)
    other = rule_of("deviation-water", config.overrides_of("house1"), day)
    assert other is not None
    assert other.threshold == (2.0 if day is not None and day >= 28 else 1.5)


def test_a_house_may_have_a_rule_that_its_site_has_not_and_the_other_way_round() -> None:
    config = house_rules({"rules": {"deviation-water": {"enabled": False}, "mortality": {"severity": 4}}})
    assert rule_of("deviation-water", config.overrides_of("house2")) is None
    assert rule_of("deviation-water", config.overrides_of("house1")) is not None
    mortality = rule_of("mortality", config.overrides_of("house2"))
    assert mortality is not None
    assert mortality.severity is Severity.CRITICAL


def test_the_last_word_on_whether_a_rule_is_on_counts() -> None:
    off = {"deviation": RuleOverride(enabled=False), "deviation-water": RuleOverride(enabled=True)}
    assert rule_of("deviation-water", off) is not None
    assert rule_of("deviation-feed", off) is None


def test_the_rules_of_house_computers_are_off_but_where_they_are_wanted() -> None:
    assert plain_rules({}, house_computer=False) == []
    assert {"high-temperature", "max-co2", "drop-water", "ratio-water"} <= set(plain_rules({}, house_computer=True))
    one = {"low-temperature": RuleOverride(enabled=True), "max-pressure": RuleOverride(enabled=True, threshold=40.0)}
    assert plain_rules(one, house_computer=False) == ["low-temperature", "max-pressure"]
    off = {"max": RuleOverride(enabled=False)}
    assert not [name for name in plain_rules(off, house_computer=True) if name.startswith("max")]


def test_a_limit_that_nobody_told_is_no_rule() -> None:
    assert rule_of("max-pressure", {"max-pressure": RuleOverride(enabled=True)}) is None
    assert rule_of("min-pressure", {}, house_computer=True) is None


@pytest.mark.parametrize("curve", [[], [[7, 30.0], [1, 34.0]], [[1, 34.0], [1, 30.0]]])
def test_a_set_point_curve_rises_with_age(curve: list[list[float]]) -> None:
    with pytest.raises(ConfigError, match=r"warnings\.set_point: .*days rising"):
        parse_config({"warnings": {"set_point": curve}}, "agent.toml")


def test_a_house_has_its_own_set_points_and_its_own_word_on_the_house_computers_rules() -> None:
    config = Config.model_validate(
        {
            "warnings": {"house_computer": True},
            "house": [
                {"id": "house1"},
                {"id": "house2", "house_computer": False, "set_point": [[0, 33.0], [30, 20.0]]},
            ],
        }
    )
    assert config.facts_of("house1").house_computer
    assert config.facts_of("house1").set_point == Config().warnings.set_point
    assert not config.facts_of("house2").house_computer
    assert config.facts_of("house2").set_point == ((0, 33.0), (30, 20.0))
