"""What warnings came to, as alarm engineers count it: rates and floods, what is stale, what comes and goes, and why."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agent.cli import main
from agent.domain import (
    About,
    Event,
    Evidence,
    Reason,
    Severity,
    Standing,
    WarningEvent,
    WarningState,
    to_ms,
)
from agent.judge import judge
from agent.rules import rule_by_default
from agent.tally import _rates, metrics_lines, tally, tally_lines, week_event, weeks_of
from tests.unit.test_daemon import START, Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

RULE = "deviation-water"
STEP, HOUR, DAY = timedelta(minutes=10), timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "data")
    yield site
    site.close()


def play(site: Site, begin: datetime, scores: Sequence[float | None], rule_name: str = RULE) -> Standing:
    """Let the state machine judge a rule of house1 each ten minutes; what it tells goes into the store."""
    rule, standing = rule_by_default(rule_name), Standing(rule_name, "house1")
    for number, score in enumerate(scores):
        at = begin + number * STEP
        before = standing
        standing, reason = judge(rule, before, Evidence(score), at, applies=True)
        if reason is None:
            continue
        site.store.record(
            warnings=[WarningEvent(at, before.state, standing, reason, About.BIRDS, "water", 19, "Text.", (), "Look.")]
        )
        if standing.chatter is not None and reason is Reason.CHATTERING:
            detail: dict[str, object] = {"rule": rule_name, "deadband": standing.chatter.deadband}
            site.store.record(events=[Event(at, "chattering", "house1", "water", None, None, detail)])
    return standing


COMES_AND_GOES = [1.5] * 4 + [0.5] * 6
"""Over for forty minutes, back for an hour: the usual delays make a warning of each."""


def test_what_comes_and_goes_is_named_with_what_would_have_removed_it(site: Site) -> None:
    play(site, START - DAY, COMES_AND_GOES * 6)
    site.store.record(judged_at=START)
    value = tally(site.config, 7)
    [source] = value["chattering"]
    assert (source["house"], source["rule"], source["rises"]) == ("house1", RULE, 3)
    proposals = {told["key"]: told for told in source["proposals"]}
    rule = rule_by_default(RULE)
    better = replace(rule, off_delay_s=int(proposals["off_delay_s"]["value"]))
    assert rises(better, COMES_AND_GOES * 6) == 1
    assert proposals["off_delay_s"]["would_have_removed"] == 2
    assert proposals["off_delay_s"]["of"] == 3
    assert rises(replace(rule, deadband=proposals["deadband"]["value"]), COMES_AND_GOES * 6) == 1
    assert rises(replace(rule, on_delay_s=int(proposals["on_delay_s"]["value"])), COMES_AND_GOES * 6) == 0
    assert any(f"off_delay_s = {better.off_delay_s}" in line for line in tally_lines(value))


def rises(rule: Any, scores: Sequence[float | None]) -> int:  # noqa: ANN401  # a rule, as it would be
    standing, count = Standing(rule.name, "house1"), 0
    for number, score in enumerate(scores):
        before = standing
        standing, _ = judge(rule, standing, Evidence(score), START + number * STEP, applies=True)
        count += standing.state is WarningState.ACTIVE and before.state is not WarningState.ACTIVE
    return count


def test_a_rule_that_warned_once_a_day_is_no_chatter_and_needs_no_other_delay(site: Site) -> None:
    for day in range(1, 6):
        play(site, START - day * DAY, COMES_AND_GOES)
    site.store.record(judged_at=START)
    value = tally(site.config, 7)
    assert value["all"]["warnings"] == 5
    assert value["chattering"] == []
    assert value["top"] == [{"house": "house1", "rule": RULE, "warnings": 5, "share": 1.0}]


def test_what_stands_for_more_than_a_day_is_stale_and_nobody_acknowledged_it(site: Site) -> None:
    standing = play(site, START - 3 * DAY, [1.5] * 6 * 60)
    assert standing.is_escalated
    site.store.record(judged_at=START)
    value = tally(site.config, 7)
    figures = value["all"]
    assert (figures["standing"], figures["stale"], figures["escalated"], figures["acknowledged"]) == (1, 1, 1, 0)
    assert figures["median_minutes_to_acknowledge"] is None
    [shown] = value["now_standing"]
    assert (shown["house"], shown["rule"], shown["severity"], shown["acknowledged"]) == ("house1", RULE, 3, False)


def test_how_long_people_take_to_acknowledge_is_counted(site: Site) -> None:
    for number, minutes in enumerate((10, 30, 50)):
        at = START - (number + 1) * DAY
        active = Standing(RULE, "house1", WarningState.ACTIVE, Severity.MINOR, f"w{number}", "f1", at, raised_at=at)
        seen = replace(active, state=WarningState.ACKNOWLEDGED)
        for when, standing, before, reason in (
            (at, active, WarningState.PENDING, Reason.ON_DELAY_OVER),
            (at + timedelta(minutes=minutes), seen, WarningState.ACTIVE, Reason.ACKNOWLEDGED_BY),
        ):
            event = WarningEvent(when, before, standing, reason, About.BIRDS, "water", 19, "Text.", (), "Look.")
            site.store.record(warnings=[event])
    site.store.record(judged_at=START)
    figures = tally(site.config, 7)["all"]
    assert (figures["acknowledged"], figures["median_minutes_to_acknowledge"]) == (3, 30.0)


def test_what_is_suppressed_is_counted_by_its_reason(site: Site) -> None:
    for number, reason in enumerate((Reason.HOUSE_STATE, Reason.ROOT_CAUSE, Reason.ROOT_CAUSE)):
        standing = Standing(f"missing-s{number}", "house1", WarningState.SUPPRESSED, reason=reason)
        at = START - HOUR
        site.store.record(
            warnings=[
                WarningEvent(at, WarningState.NORMAL, standing, reason, About.DATA, None, None, "Text.", (), "Look.")
            ]
        )
    site.store.record(judged_at=START)
    assert tally(site.config, 7)["suppressed"] == {"house_state": 1, "root_cause": 2}


@pytest.mark.parametrize(
    ("minutes", "most", "flooded"),
    [
        ([], 0, 0),
        ([0, 30, 60], 1, 0),
        ([0] * 10, 10, 0),
        ([0] * 11, 11, 10),
        ([*[0] * 11, *[5] * 3], 14, 15),
        ([*[0] * 11, 30, 31], 11, 10),
    ],
)
def test_a_flood_is_more_than_ten_in_ten_minutes_until_there_are_few_again(
    minutes: list[int], most: int, flooded: int
) -> None:
    assert _rates([60_000 * minute for minute in minutes]) == (most, 60_000 * flooded)


def test_the_weeks_are_the_farms_own_and_touch_each_other(site: Site) -> None:
    weeks = list(weeks_of(site.config, to_ms(START - 10 * DAY), to_ms(START)))
    assert [name for name, _, _ in weeks] == ["2026-W09", "2026-W10", "2026-W11"]
    assert weeks[0][1] == to_ms(START - 10 * DAY)
    assert weeks[-1][2] == to_ms(START)
    assert [end for _, _, end in weeks[:-1]] == [begin for _, begin, _ in weeks[1:]]


def test_a_week_that_is_over_is_kept_as_an_event_for_the_lake(site: Site) -> None:
    site.minutes(20)  # it was judged in the week that begins on Monday the 9th
    play(site, START - DAY, COMES_AND_GOES * 3)
    site.clock.wait(6 * 86_400)
    for _ in range(60):
        site.minutes(1)
    events = site.rows("events")
    [which] = [i for i, kind in enumerate(events["kind"]) if kind == "alarm_figures"]
    detail = json.loads(events["detail"][which])
    assert (detail["week"], detail["warnings"]) == ("2026-W11", 3)
    assert detail["chattering"][0]["rule"] == RULE
    assert events["from_at"][which] == to_ms(datetime(2026, 3, 9, tzinfo=UTC))
    assert events["at"][which] == events["to_at"][which] == to_ms(datetime(2026, 3, 16, tzinfo=UTC))
    again = week_event(site.config, datetime(2026, 3, 9, tzinfo=UTC).date())
    assert again.detail["warnings"] == 3


def test_what_stands_is_counted_in_the_health_message(site: Site) -> None:
    watch = site.agent.watches[0]
    old = START - 2 * DAY
    active = Standing(RULE, "house1", WarningState.ACTIVE, Severity.MINOR, "w1", None, old, raised_at=old)
    watch.standings[RULE] = active
    watch.standings["trend-feed"] = replace(active, rule="trend-feed", state=WarningState.SHELVED, raised_at=START)
    assert site.agent.health_value("online")["alarms"] == {
        "standing": 2, "unacknowledged": 1, "shelved": 1, "stale": 1, "chattering": [],
    }  # fmt: skip


def told(capsys: pytest.CaptureFixture[str], site: Site, *words: str) -> tuple[int, str, str]:
    toml = site.config.data.directory.parent / "agent.toml"
    toml.write_text(
        f'[data]\ndirectory = "{site.config.data.directory}"\n[mqtt]\nport = 9\n'
        "[[house]]\nid = 'house1'\n[house.rules.deviation-water]\nthreshold = 1.5\n"
        "by_age = [{ from_day = 28, threshold = 2.0 }]\n"
        "[[house]]\nid = 'house2'\nhouse_computer = true\n"
    )
    code = main([*words, "--config", str(toml)])
    return code, *capsys.readouterr()


def test_the_metrics_are_lines_that_a_collector_reads(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    play(site, START - DAY, COMES_AND_GOES * 3)
    site.store.record(judged_at=START)
    code, out, _ = told(capsys, site, "warning", "stats", "--metrics")
    assert code == 0
    assert 'flockwatch_alarm_warnings{site="farm1"} 3' in out.splitlines()
    assert f'flockwatch_alarm_chattering{{site="farm1",house="house1",rule="{RULE}"}} 3' in out.splitlines()
    samples = [line for line in out.splitlines() if not line.startswith("# ")]
    assert all(float(line.rpartition(" ")[2]) >= 0 for line in samples)
    assert len({line.rpartition(" ")[0] for line in samples}) == len(samples)
    assert metrics_lines(tally(site.config, 30)) == out.splitlines()


def test_the_rules_in_force_are_shown_by_house_and_by_age(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, site, "rules")
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    [own] = [line for line in lines if line.startswith("deviation-water house1:")]
    assert "threshold 1.5" in own
    assert "from day 28 threshold 2" in own
    assert "[house.rules.deviation-water]" in own
    assert any(line.startswith("deviation-water house2: severity 2, threshold 1,") for line in lines)
    assert any(line.startswith("mortality house1, house2:") for line in lines)
    assert "max-co2 house1: off" in lines
    assert any(line.startswith("max-co2 house2: severity 2, threshold 3500") for line in lines)
    code, out, _ = told(capsys, site, "rules", "--house", "house2", "--json")
    rules = {one["name"]: one for one in json.loads(out)}
    assert {one["house"] for one in rules.values()} == {"house2"}
    assert (rules["high-temperature"]["enabled"], rules["high-temperature"]["threshold"]) == (True, 4.0)
    assert rules["deviation-water"]["by_age"] == []
    code, _, err = told(capsys, site, "rules", "--house", "house9")
    assert code == 2
    assert "house1, house2" in err


@pytest.mark.parametrize(
    "words",
    [("acknowledge",), ("shelve", "--for-s", "600", "--why", "mending"), ("unshelve",), ("confirm",), ("reject",)],
)
def test_every_answer_to_a_warning_can_be_had_as_json(
    words: tuple[str, ...], site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def ask(*arguments: Any, **_: Any) -> bytes:  # noqa: ANN401  # as the door to the broker is asked
        asked.append(json.loads(arguments[3]))
        return json.dumps({"id": asked[-1]["id"], "ok": True, "done": "it", "state": "active", "warning": "w"}).encode()

    monkeypatch.setattr("agent.bus.ask", ask)
    code, out, _ = told(capsys, site, "warning", words[0], "house1", RULE, *words[1:], "--json")
    assert code == 0
    assert json.loads(out)["done"] == "it"
    assert asked[0]["action"] == words[0]
    assert ("why" in asked[0]) is (words[0] == "shelve")
    assert "json" not in asked[0]


def test_why_a_warning_was_shelved_is_kept_with_who_did_it(site: Site) -> None:
    watch = site.agent.watches[0]
    watch.standings[RULE] = Standing(
        RULE, "house1", WarningState.ACTIVE, Severity.MINOR, "w1", None, START, raised_at=START
    )
    topic = f"flockwatch/farm1/house1/warning/{RULE}/command"
    answer = site.ask({"id": "1", "action": "shelve", "for_s": 600, "by": "anna", "why": "the plumber is there"}, topic)
    assert answer["state"] == "shelved"
    rows = site.rows("warnings")
    assert (rows["by"][-1], rows["why"][-1]) == ("anna", "the plumber is there")
