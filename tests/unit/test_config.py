"""agent.toml says what the models say, and a wrong file is refused with one message that names file, key and remedy."""

from __future__ import annotations

import re
import tomllib
import typing
from datetime import UTC, datetime, time
from pathlib import Path

import pytest
from pydantic import BaseModel

from agent.config import Config, Section, load_config
from agent.domain import HouseState, Kind, Severity
from agent.errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "agent.toml"
EXAMPLE = re.compile(r"(?m)^#: ?")


def _sections(model: type[BaseModel]) -> set[type[BaseModel]]:
    """Return a model with every model that its fields hold, however deep."""
    found = {model}
    waiting = [field.annotation for field in model.model_fields.values()]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= _sections(kind)
        waiting.extend(typing.get_args(kind))
    return found


def test_the_shipped_file_is_the_defaults() -> None:
    assert load_config(SHIPPED) == Config()


def test_the_shipped_file_writes_every_default_out() -> None:
    """What is not an example stands in the file with its value, so a reader need not know the code."""
    said = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    plain = {
        f"{name}.{key}"
        for name, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        for key, default in field.annotation.model_fields.items()
        if default.default is not None
    }
    written = {f"{name}.{key}" for name, table in said.items() if isinstance(table, dict) for key in table}
    assert plain == written
    assert [set(source) for source in said["source"]] == [{"topic", "dialect", "qos", "rename", "houses"}] * 2


def test_every_key_of_the_models_is_shown_in_the_shipped_file() -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    keys = {key for section in _sections(Config) for key in section.model_fields} - set(Config.model_fields)
    missing = {key for key in keys if not re.search(rf"(?m)^(#: )?(\[.*\b)?{key}\b(\]| = |\.)", text)}
    assert not missing


def test_the_examples_in_the_shipped_file_are_a_valid_configuration(tmp_path: Path) -> None:
    """Taking the example marks away gives a farm that loads, with every optional key set."""
    file = tmp_path / "agent.toml"
    file.write_text(EXAMPLE.sub("", SHIPPED.read_text(encoding="utf-8")), encoding="utf-8")
    config = load_config(file)
    assert config.house[0].signals["water"].kind is Kind.COUNTER
    assert config.warnings.rules["mortality"].severity is Severity.CRITICAL
    assert config.warnings.rules["mortality"].states == (HouseState.ACTIVE, HouseState.THINNED)
    sections = (config.mqtt, config.models, config.house[0], config.house[0].signals["water"])
    assert {(type(section).__name__, key) for section in sections for key, value in section if value is None} == set()


def test_a_file_with_only_the_changed_keys_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('[site]\nid = "north"\nday_starts_at = 06:00:00\n', encoding="utf-8")
    config = load_config(file)
    assert config.site.id == "north"
    assert config.site.day_starts_at == time(6)
    assert config.client_id == "flockwatch-north"
    assert config.model_copy(update={"site": Config().site}) == Config()


def test_no_file_stands_for_the_defaults() -> None:
    assert load_config(None) == Config()


def test_farm_days_begin_at_the_set_hour_of_the_farms_own_zone(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('[site]\ntimezone = "Europe/Copenhagen"\nday_starts_at = 06:00:00\n', encoding="utf-8")
    days = load_config(file).site.days
    # 05:59 and 06:00 there
    before, after = (
        datetime(2026, 7, 2, 3, 59, tzinfo=UTC),
        datetime(2026, 7, 2, 4, 0, tzinfo=UTC),
    )
    assert (days.date_of(before).day, days.date_of(after).day) == (1, 2)


def test_a_configuration_cannot_be_changed_after_it_was_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().site.id = "other"  # type: ignore[misc]  # what the test is about


HOUSE = '[[house]]\nid = "house1"\n'
VALUE = '[[source]]\ndialect = "value"\n'

BAD = {
    # text of the file: what the message says after the file's name
    "[sync]\nurll = 's3://lake'": r"sync\.urll: no such key; agent\.toml",
    "[site]\ntimezone = 'Mars/Olympus'": r"site\.timezone: 'Mars/Olympus' is no time zone; .* Europe/Copenhagen",
    "[site]\ntimezone = '../etc/passwd'": r"site\.timezone: .* is no time zone",
    "[site]\nid = 'my farm'": r"site\.id: a name has 1 to 64 letters.*\(it says 'my farm'\)",
    "[site]\nid = ''": r"site\.id: a name has 1 to 64 letters",
    "[site]\nday_starts_at = 'dawn'": r"site\.day_starts_at: .*\(it says 'dawn'\)",
    "[mqtt]\nport = 'many'": r"mqtt\.port: must be a valid integer.*\(it says 'many'\)",
    "[mqtt]\nport = 70000": r"mqtt\.port: must be less than or equal to 65535 \(it says 70000\)",
    "[mqtt]\npassword = 'secret'": r"mqtt\.password: no such key",
    "[mqtt]\ncert_file = '/c.pem'": r"mqtt: cert_file and key_file belong together",
    "[mqtt]\nkey_file = '/c.key'": r"mqtt: cert_file and key_file belong together",
    "[mqtt]\ntopic_prefix = 'a/#'": r"mqtt\.topic_prefix: must be plain topic levels",
    "[mqtt]\ntopic_prefix = 'a//b'": r"mqtt\.topic_prefix: must be plain topic levels",
    "mqtt = 'localhost'": r"mqtt: must be a table",
    VALUE: r"source\[1\]\.topic: must be given",
    VALUE + "topic = 'skov/+/{house}/{signal}'": r"source\[1\]\.topic: .*wildcards are not written here",
    VALUE + "topic = 'skov/{House}/{signal}'": r"source\[1\]\.topic: .*\{House\} is no \{name\} of small letters",
    VALUE + "topic = 'skov/x{house}/{signal}'": r"source\[1\]\.topic: .*whole \{name\}",
    VALUE + "topic = 'skov/{site}/{signal}'": r"source\[1\]: .*\{house\}, or nobody knows whose",
    VALUE + "topic = 'skov/{house}/{house}/{signal}'": r"source\[1\]\.topic: .*only once",
    VALUE + "topic = 'skov/{house}'": r"source\[1\]: topic 'skov/\{house\}': dialect 'value' .* must hold \{signal\}",
    "[[source]]\ndialect = 'flat'\ntopic = '{house}/{signal}'": r"source\[1\]: .*'flat' names its signals in the",
    "[[source]]\ndialect = 'dol'\ntopic = '{house}/{signal}'": r"source\[1\]: .*'dol' names its signals in the",
    "[[source]]\ndialect = 'senml'\ntopic = 'packs'": r"source\[1\]: .*nobody knows.*name the houses of devices",
    "[[source]]\ndialect = 'dol'\ntopic = 'a'\nhouses = { x = '_y' }": r"source\[1\]\.houses\.x: names that begin",
    "[[source]]\ndialect = 'sparkplug'\ntopic = 'spBv1.0/{house}'": r"source\[1\]: .*needs spBv1\.0/\{group\}/\{mess",
    "[[source]]\ndialect = 'sparkplug'\ntopic = 'spBv1.0/g/{message}/n/d'": r"source\[1\]: .*'sparkplug' needs",
    "[[source]]\ndialect = 'xml'\ntopic = '{house}'": r"source\[1\]\.dialect: must be 'value'.*\(it says 'xml'\)",
    "[[source]]\ndialect = 'flat'\ntopic = '{house}'\nqos = 2": r"source\[1\]\.qos: must be 0 or 1 \(it says 2\)",
    VALUE + "topic = '{house}/{signal}'\nrename = { T = 'in side' }": r"source\[1\]\.rename\.T: a name has",
    "[source]\ntopic = 'a'": r"source: must be a list; .*\[\[source\]\]",
    HOUSE + HOUSE: r"house: house id 'house1' stands twice",
    "[[house]]\nid = '_site'": r"house\[1\]\.id: names that begin with _ are flockwatch's own",
    "[[house]]\nname = 'North'": r"house\[1\]\.id: must be given",
    HOUSE + "area_m2 = -5": r"house\[1\]\.area_m2: must be greater than 0 \(it says -5\)",
    HOUSE + "capacity = 1.5": r"house\[1\]\.capacity: must be a valid integer",
    HOUSE + "[house.signals.water]\nkind = 'sum'": r"house\[1\]\.signals\.water\.kind: must be 'gauge', 'increment' or",
    HOUSE + "[house.signals.water]\nlow = nan": r"house\[1\]\.signals\.water\.low: must be a finite number",
    HOUSE + "[house.signals.co2]\nlow = 9\nhigh = 2": r"house\[1\]\.signals\.co2: low = 9\.0 is not below high = 2\.0",
    "[store]\ncommit_interval_s = 0": r"store\.commit_interval_s: must be greater than 0",
    "[store]\nmax_size_mb = 1": r"store\.max_size_mb: must be greater than or equal to 20",
    "[models]\nuse = 'weight'": r"models\.use: must be a list",
    "[models]\nthreads = 64": r"models\.threads: must be less than or equal to 4",
    "[warnings.rules.mortality]\nseverity = 9": r"warnings\.rules\.mortality\.severity: must be 0, 1, 2, 3 or 4",
    "[warnings.rules.mortality]\ndeadband = 1": r"warnings\.rules\.mortality\.deadband: must be less than 1",
    "[warnings.rules.mortality]\nstates = ['asleep']": r"warnings\.rules\.mortality\.states\[1\]: must be 'empty'",
    "[sync]\nurl = 'http://lake'": r"sync\.url: must be \"s3://bucket/prefix\".*\(it says 'http://lake'\)",
    "[sync]\ninterval_s = 1": r"sync\.interval_s: must be greater than or equal to 10",
    "[sync.options]\nregion = 7": r"sync\.options\.region: must be a valid string \(it says 7\)",
    "[site\nid = 1": r"is no valid TOML: .*line 1",
    "[site]\nid = 'a'\nid = 'b'": r"is no valid TOML: Cannot overwrite a value",
}


@pytest.mark.parametrize("text", BAD)
def test_a_wrong_file_is_refused_with_file_key_and_what_is_wrong(text: str, tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_config(file)
    message = str(refused.value)
    assert re.match(rf"{re.escape(str(file))}: {BAD[text]}", message)
    assert "\n" not in message
    assert "secret" not in message
    assert refused.value.exit_code == 2


def test_every_mistake_of_a_file_is_named_at_once(tmp_path: Path) -> None:
    """Nobody likes to mend a file error by error."""
    file = tmp_path / "agent.toml"
    file.write_text("[site]\nid = 'my farm'\n[mqtt]\nport = 0\n", encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_config(file)
    assert [line.removeprefix(f"{file}: ").partition(":")[0] for line in str(refused.value).splitlines()] == [
        "site.id",
        "mqtt.port",
    ]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: there is no such file; give --config the path"):
        load_config(tmp_path / "nowhere.toml")


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{re.escape(str(tmp_path))}: cannot be read: Is a directory"):
        load_config(tmp_path)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_bytes(b"[site]\nid = '\xff\xfe'\n")
    with pytest.raises(ConfigError, match=r"agent\.toml: cannot be read: it is no UTF-8 text"):
        load_config(file)
