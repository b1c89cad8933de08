"""What people say of warnings is kept, also of those that are over; the command line answers and counts them."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agent.cli import main
from agent.commands import parse_recorded_command
from agent.domain import (
    About,
    Evidence,
    Flock,
    FlockChange,
    HouseState,
    Reason,
    Severity,
    Standing,
    WarningEvent,
    WarningState,
    to_ms,
)
from agent.errors import InputError
from agent.export import export_replay
from agent.replay_files import read_events
from agent.status import warning_value
from agent.store.tables import Selection
from agent.tally import tally
from tests.unit.test_daemon import ROOT, START, Site, silent_site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RULE = "deviation-water"
TOPIC = f"{ROOT}/house1/warning/{RULE}/command"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "data")
    yield site
    site.close()


def warn(site: Site, number: int, *, hours: float | None = 2.0, house: str = "house1") -> None:
    """Let a warning rise, and, unless it is still there, be over."""
    raised_at = START - 10 * DAY + number * DAY
    evidence = Evidence(2.0, actual=5.0, expected=10.0, low=9.0, high=11.0, unit="l", coverage=1.0, model="expect",
                        model_version="1.0.0")  # fmt: skip
    active = Standing(RULE, house, WarningState.ACTIVE, Severity.MINOR, f"{house}-{RULE}-{number}", "A1", raised_at,
                      raised_at=raised_at, updated_at=raised_at, evidence=evidence)  # fmt: skip
    moves = [(raised_at, active, WarningState.PENDING, Reason.ON_DELAY_OVER)]
    if hours is not None:
        over_at = raised_at + hours * HOUR
        over = Standing(RULE, house, WarningState.NORMAL, Severity.MINOR, active.id, "A1", raised_at,
                        raised_at=raised_at, updated_at=over_at)  # fmt: skip
        moves.append((over_at, over, WarningState.ACTIVE, Reason.BACK_IN_BAND))
    site.store.record(
        warnings=[
            WarningEvent(at, before, standing, reason, About.BIRDS, "water", 19, "Too little water.", (), "the lines")
            for at, standing, before, reason in moves
        ]
    )


def labels(site: Site) -> list[dict[str, Any]]:
    rows = site.rows("events")
    return [json.loads(detail) for kind, detail in zip(rows["kind"], rows["detail"], strict=True) if kind == "label"]


def test_a_warning_that_is_over_can_be_confirmed_and_the_label_names_its_occurrence(site: Site) -> None:
    warn(site, 1)
    warn(site, 2)
    answer = site.ask({"id": "1", "action": "confirm", "by": "Anna", "cause": "a blocked line"}, TOPIC)
    assert answer == {"id": "1", "ok": True, "done": "confirmed", "warning": f"house1-{RULE}-2"}
    assert labels(site) == [
        {"label": "confirm", "warning": f"house1-{RULE}-2", "rule": RULE, "flock": "A1", "by": "Anna",
         "cause": "a blocked line"}
    ]  # fmt: skip
    rows = site.rows("events")
    which = rows["kind"].index("label")
    assert (rows["house"][which], rows["signal"][which]) == ("house1", "water")
    assert rows["from_at"][which] == to_ms(START - 8 * DAY)


def test_the_same_command_twice_is_one_label_and_its_answer_is_repeated(site: Site) -> None:
    warn(site, 1)
    first = site.ask({"id": "1", "action": "reject"}, TOPIC)
    assert site.ask({"id": "1", "action": "reject"}, TOPIC) == first
    assert first["done"] == "rejected"
    assert len(labels(site)) == 1


def test_what_never_rose_has_no_label(site: Site) -> None:
    answer = site.ask({"id": "1", "action": "confirm"}, TOPIC)
    assert (answer["ok"], answer["error"]) == (False, f"no warning {RULE!r} was raised in house1 lately")
    elsewhere = site.ask({"id": "2", "action": "confirm"}, TOPIC.replace("house1", "house9"))
    assert "not in the configuration" in elsewhere["error"]
    assert labels(site) == []


def test_a_label_that_could_not_be_stored_is_not_answered_and_comes_again(site: Site) -> None:
    warn(site, 1)
    site.store.failing = "record"
    site.turn(site.message(TOPIC, {"id": "1", "action": "confirm"}))
    assert site.bus.on(TOPIC.replace("command", "response")) == []
    site.store.failing = None
    site.clock.wait(6)
    site.turn()
    assert [answer["ok"] for answer in site.bus.on(TOPIC.replace("command", "response"))] == [True]
    assert len(labels(site)) == 1


def test_a_recording_may_hold_labels_and_an_export_brings_them(site: Site, tmp_path: Path) -> None:
    warn(site, 1)
    site.ask({"id": "1", "action": "confirm", "by": "Anna"}, TOPIC)
    export_replay(site.config, tmp_path / "out", Selection())
    text = (tmp_path / "out" / "events.csv").read_text(encoding="utf-8")
    assert '""action"": ""confirm"", ""rule"": ""deviation-water"", ""by"": ""Anna""' in text
    assert read_events(tmp_path / "out" / "events.csv", site.config.site.days.zone) == []
    with pytest.raises(InputError, match="say which warning it was"):
        parse_recorded_command('{"action":"confirm"}')


def told(capsys: pytest.CaptureFixture[str], site: Site, *words: str) -> tuple[int, str, str]:
    toml = site.config.data.directory.parent / "agent.toml"
    toml.write_text(f'[data]\ndirectory = "{site.config.data.directory}"\n[mqtt]\nport = 9\n')
    code = main([*words, "--config", str(toml)])
    return code, *capsys.readouterr()


def test_stats_count_warnings_by_rule_house_day_and_label(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    flock = Flock("house1", "A1", date(2026, 2, 28), 10_000)
    site.store.record(
        flock_changes=[FlockChange(START - 8 * DAY, "place", "house1", HouseState.ACTIVE, flock, {"by": None})],
        judged_at=START,
    )
    for number, hours in ((1, 1.0), (2, 3.0), (3, 8.0), (4, None)):
        warn(site, number, hours=hours)
        if number in {1, 2}:
            site.ask({"id": f"c{number}", "action": "reject" if number == 1 else "confirm"}, TOPIC)
    site.ask({"id": "again", "action": "reject"}, TOPIC)
    site.ask({"id": "last", "action": "confirm"}, TOPIC)  # the last word counts
    value = tally(site.config, 9)
    assert value["house_days"] == 8.0
    figures = value["rules"][RULE]
    assert figures == value["all"]
    assert figures.items() >= {
        "warnings": 4, "per_house_day": 0.5, "confirmed": 2, "rejected": 1, "median_hours": 3.0, "standing": 1,
    }.items()  # fmt: skip
    assert tally(site.config, 7)["all"]["warnings"] == 2
    code, out, _ = told(capsys, site, "warning", "stats", "--days", "9")
    assert code == 0
    assert "4 warnings (0.5 a house-day), 2 confirmed, 1 rejected, half of them over within 3 h, 1 not over" in out


def test_a_warning_is_shown_with_all_that_is_known_of_it(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    warn(site, 1, hours=None)
    code, out, _ = told(capsys, site, "warning", "show", "house1", RULE)
    assert code == 0
    assert "measured 5 l, expected 10 (9 to 11) l" in out
    assert "model    expect/1.0.0, coverage 100%" in out
    code, out, _ = told(capsys, site, "warning", "show", "house1", RULE, "--json")
    assert json.loads(out)["raised_at"] == "2026-03-01T12:00:00Z"
    code, _, err = told(capsys, site, "warning", "show", "house2", RULE)
    assert code == 1
    assert "ever rose here" in err


def test_a_house_is_warned_of_by_its_name_in_its_language_and_can_be_read_in_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    houses = [{"id": "house1", "name": "Nordstald", "language": "da"}, {"id": "house2"}]
    site = Site(tmp_path / "farm", {"site": {"language": "de"}, "house": houses})
    shown = json.loads(site.bus.retained[silent_site(site)])
    since = f"{shown['since'][11:13]}.{shown['since'][14:16]}"
    assert shown["text"] == (
        f"Nordstald, hold 2026-03-10, dag 0: ingen føler i denne stald melder længere, siden kl. {since}. "
        "Tjek strømmen til gatewayen og styringen og netværket mellem dem."
    )
    words_of_programs = {"lang": "da", "rule": "silent", "about": "data", "state": "active", "reason": "on_delay_over"}
    assert words_of_programs.items() <= shown.items()
    assert shown["causes"][0]["cause"] == "gateway_silent"
    assert (site.rows("warnings")["lang"][-1], site.rows("warnings")["text"][-1]) == ("da", shown["text"])
    code, out, _ = told(capsys, site, "warning", "show", "house1", "silent", "--lang", "pt-BR", "--json")
    value = json.loads(out)
    assert (code, value["lang"]) == (0, "pt-BR")
    assert value["text"].startswith("house1, lote 2026-03-10, dia 0: nenhum sensor deste aviário envia dados, desde as")
    assert value["text"].endswith(value["check_first"])
    code, out, _ = told(capsys, site, "warning", "show", "house1", "silent")
    assert shown["text"] in out
    site.close()


def test_a_latched_warning_says_so_in_every_language_and_one_about_the_gateway_stays_as_it_was_told(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path / "data", {"warnings": {"rules": {RULE: {"latching": True}}}})
    for house, rule in (("house1", RULE), ("_site", "store")):
        standing = Standing(rule, house, WarningState.ACTIVE, Severity.MINOR, "w1", "A1", START, back_since=START)
        event = WarningEvent(
            START, WarningState.PENDING, standing, Reason.ON_DELAY_OVER, About.BIRDS, None, 1, "As told.", (), "Look."
        )
        site.store.record(warnings=[event], standings=[standing])
    latched, about_gateway = (
        warning_value(site.config, house, rule, "da") for house, rule in (("house1", RULE), ("_site", "store"))
    )
    assert latched is not None
    assert "advarslen bliver stående, indtil nogen kvitterer" in latched["text"]
    assert about_gateway is not None
    assert (about_gateway["text"], about_gateway["lang"]) == ("As told.", "en")
    site.close()


def test_what_stands_otherwise_by_now_is_shown_as_it_was_told(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    warn(site, 1)
    site.store.record(standings=[Standing(RULE, "house1", WarningState.PENDING)])
    code, out, _ = told(capsys, site, "warning", "show", "house1", RULE, "--lang", "de")
    assert code == 0
    assert "Too little water." in out


@pytest.mark.parametrize(
    "words", [("acknowledge",), ("shelve", "--for-s", "600"), ("unshelve",), ("confirm", "--by", "Anna"), ("reject",)]
)
def test_without_a_broker_the_command_line_says_that_nothing_was_done(
    words: tuple[str, ...], site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = told(capsys, site, "warning", words[0], "house1", RULE, *words[1:])
    assert (code, out) == (1, "")
    assert "no broker, nothing done" in err


def test_wrong_words_about_a_warning_are_named(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    for words, wanted in (
        (("acknowledge", "house1", "fire"), "is no rule"),
        (("shelve", "house1", RULE), "--for-s"),
        (("confirm", "house 1", RULE), "is no house"),
        (("stats", "--days", "0"), "no number of days"),
    ):
        with pytest.raises(SystemExit) as left:
            told(capsys, site, "warning", *words)
        assert left.value.code == 2
        assert wanted in capsys.readouterr().err
    code, _, err = told(capsys, site, "warning", "shelve", "house1", RULE, "--for-s", "5")
    assert code == 2
    assert "for_s" in err
