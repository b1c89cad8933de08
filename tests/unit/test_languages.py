"""Every text is there in every language, says the same with the same figures, and writes them as people there do."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from string import Formatter
from zoneinfo import ZoneInfo

import pytest

from agent.config import parse_config
from agent.domain import RULE_KINDS, Reason
from agent.explain import CAUSES, NAMES, SENSORS
from agent.languages import ENGLISH, LANGUAGES, UNITS, Locale
from agent.signals import CATALOGUE
from tests.catalogues import ROOT, files, messages_of, translated
from tests.texts import EXAMPLES, MEASURED, REVIEW, WHYS, Example, examples, review

OTHERS = sorted(LANGUAGES.keys() - {ENGLISH})
AT = datetime(2026, 3, 3, 13, 5, tzinfo=UTC)
DENMARK = ZoneInfo("Europe/Copenhagen")
ALL = tuple(examples())


def places(text: str) -> list[str]:
    return sorted(field for _, field, _, _ in Formatter().parse(text) if field is not None)


def test_the_catalogues_hold_what_the_program_says_and_are_compiled() -> None:
    """Where this fails, `make languages` was forgotten."""
    assert [str(path.relative_to(ROOT)) for path, made in files().items() if path.read_bytes() != made] == []
    assert REVIEW.read_text(encoding="utf-8") == review()


@pytest.mark.parametrize("tag", OTHERS)
def test_no_message_is_missing_in_a_language_and_each_has_the_same_places(tag: str) -> None:
    catalogue, english, other = translated(tag), messages_of(ENGLISH), messages_of(tag)
    assert list(other) == list(english)
    assert len(english) > 150
    assert not [message.id for message in catalogue if message.id and message.fuzzy]
    for name, forms in english.items():
        assert all(other[name]), name
        assert len(other[name]) == (catalogue.num_plurals if len(forms) == 2 else 1), name
        wanted = [forms[0], *[forms[-1]] * (len(other[name]) - 1)]
        assert [places(form) for form in other[name]] == [places(form) for form in wanted], name


def test_no_message_of_a_language_is_another_ones() -> None:
    """Where a catalogue was filled from another, or a message was left as it is in English."""
    catalogues = [messages_of(tag) for tag in LANGUAGES]
    for name in catalogues[0]:
        said = [catalogue[name][0] for catalogue in catalogues]
        letters = len(re.sub(r"\{[a-z_]+\}|[^a-zA-Z]", "", said[0]))
        assert len(set(said)) == len(said) or letters < 13, said


@pytest.mark.parametrize("tag", OTHERS)
@pytest.mark.parametrize("text", ["Go to the house and look.", "a disease", "{name} has stopped reporting", "March"])
def test_what_is_compiled_is_what_is_read(tag: str, text: str) -> None:
    assert [Locale(tag).say(text)] == messages_of(tag)[text] != [text]


@pytest.mark.parametrize("tag", LANGUAGES)
def test_one_is_one_and_more_are_more(tag: str) -> None:
    said = Locale(tag)
    assert [said.amount(n, "birds").split()[0] for n in (0, 1, 2)] == ["0", "1", "2"]
    words = {tag: (said.amount(1, "birds"), said.amount(2, "birds"))}
    assert (
        words[tag]
        == {
            "en": ("1 bird", "2 birds"),
            "da": ("1 dyr", "2 dyr"),
            "de": ("1 Tier", "2 Tiere"),
            "pt-BR": ("1 ave", "2 aves"),
        }[tag]
    )


def test_there_are_examples_of_all_that_can_be_said() -> None:
    assert set(EXAMPLES) == set(RULE_KINDS)
    assert set(MEASURED) == set(SENSORS) == set(CATALOGUE) - {"dead", "culled"}
    assert set(NAMES) == set(CATALOGUE)
    assert {cause.cause for example in ALL for cause in example.causes} >= {*CAUSES, "unknown"}
    written = "".join(
        (ROOT / "agent" / f"{name}.py").read_text() for name in ("watch", "sensors", "mortality", "plain")
    )
    said = set(re.findall(r'msg\(\s*"([^"]+)"', written))
    shown = {evidence.why for example in ALL if (evidence := example.standing.evidence) is not None}
    assert said <= shown, "a reason why nobody can say is in no example of tests/texts.py"
    assert not re.findall(r"why=f?\"", written), "a reason that is no message stays English"


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("tag", LANGUAGES)
def test_every_warning_reads_well_in_every_language(tag: str, units: str) -> None:
    locale = Locale(tag, units)
    for example in ALL:
        text = example.text(locale)
        assert not re.search(r"[{}]|None|nan\b|  |\.\.| ,|\( ", text), text
        assert text.startswith("North house, ")
        assert text.endswith("."), text
        if tag != ENGLISH:
            assert text != example.text(Locale(units=units))
            clock = re.sub(r"kl\. \d\d\.\d\d|deadband = [0-9.]+", "", text)  # Danish hours have a dot, settings too
            assert not re.search(r"\d\.\d", clock), text


@pytest.mark.parametrize("tag", LANGUAGES)
def test_every_language_tells_the_same_figures(tag: str) -> None:
    """Numbers are what a reader acts on: none may be lost, added or changed by a translation."""
    for example in ALL:
        assert figures(example, tag) == figures(example, ENGLISH), example.text(Locale(tag))


def figures(example: Example, tag: str) -> list[str]:
    text = example.text(Locale(tag)).replace("kl. 14.20", "14:20").replace("CO2", "")
    return sorted(re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", ".").replace(". ", " ")))


@pytest.mark.parametrize(
    ("tag", "half", "share"),
    [("en", "26.5 °C", "40 %"), ("da", "26,5 °C", "40 %"), ("de", "26,5 °C", "40 %"), ("pt-BR", "26,5 °C", "40%")],
)
def test_decimals_and_percent_are_written_as_people_there_write_them(tag: str, half: str, share: str) -> None:
    assert Locale(tag).amount(26.5, "Cel") == half
    assert Locale(tag).percent(0.4) == share


def test_figures_have_as_many_digits_as_people_use() -> None:
    said = Locale("da")
    assert [said.amount(v, "kg") for v in (1234.5, 99.44, 0.1234)] == ["1234 kg", "99,4 kg", "0,12 kg"]
    assert [said.amount(v, None) for v in (None, float("nan"), 3.0)] == ["ukendt", "ukendt", "3,0"]
    assert said.amount(81.5, "dB") == "81,5 dB"


@pytest.mark.parametrize(
    ("unit", "value", "shown"),
    [
        ("Cel", 20.0, "68.0 °F"),
        ("l", 1000.0, "264 gal"),
        ("kg", 100.0, "220 lb"),
        ("g", 2000.0, "4.4 lb"),
        ("m/s", 1.0, "197 ft/min"),
        ("Pa", 25.0, "0.1 inches of water"),
        ("ppm", 3000.0, "3000 ppm"),
    ],
)
def test_a_site_in_the_united_states_reads_its_own_units(unit: str, value: float, shown: str) -> None:
    assert Locale(units="us").amount(value, unit) == shown


def test_a_difference_of_degrees_has_no_zero_point() -> None:
    assert Locale(units="us").difference(26.5, 22.0, "Cel") == "8.1 °F"
    assert Locale(units="us").range(20.0, 25.0, "Cel") == "68.0 to 77.0 °F"


@pytest.mark.parametrize(
    ("tag", "today", "before"),
    [
        ("en", "since 14:05", "since 14:05 on 3 March"),
        ("da", "siden kl. 14.05", "siden 3. marts kl. 14.05"),
        ("de", "seit 14:05 Uhr", "seit dem 3. März, 14:05 Uhr"),
        ("pt-BR", "desde as 14:05", "desde 3 de março às 14:05"),
    ],
)
def test_times_are_the_farms_and_dated_where_that_is_not_plain(tag: str, today: str, before: str) -> None:
    locale = Locale(tag, zone=DENMARK)
    assert locale.since(AT, AT + timedelta(hours=2)) == today
    assert locale.since(AT, AT + timedelta(hours=20)) == before


def test_a_farm_says_its_language_and_a_house_may_say_another() -> None:
    site = {"language": "da", "units": "us", "timezone": "Europe/Copenhagen"}
    houses = [{"id": "h1", "name": "North house"}, {"id": "h2", "language": "pt-BR"}]
    config = parse_config({"site": site, "house": houses}, "agent.toml")
    assert config.locale() == config.locale("h1") == Locale("da", "us", DENMARK)
    assert config.locale("h2") == Locale("pt-BR", "us", DENMARK)
    assert config.locale("h2", "de").language == "de"
    assert [config.called(house) for house in ("h1", "h2", "elsewhere")] == ["North house", "h2", "elsewhere"]


@pytest.mark.parametrize(
    ("site", "said"),
    [
        ({"language": "fr"}, "site.language: there is no catalogue of 'fr'; there are en, da, de, pt-BR"),
        ({"units": "imperial"}, "site.units: must be one of metric, us"),
    ],
)
def test_a_language_that_is_not_there_is_refused_with_those_that_are(site: dict[str, str], said: str) -> None:
    with pytest.raises(Exception, match=r"agent\.toml") as refused:
        parse_config({"site": site}, "agent.toml")
    assert said in str(refused.value)


def test_every_end_of_a_warning_that_is_told_has_an_example() -> None:
    ends = {example.standing.reason for example in ALL} - {None}
    assert ends >= {Reason.BACK_IN_BAND, Reason.CANNOT_SAY, Reason.HOUSE_STATE, Reason.RULE_REMOVED}
    assert WHYS
