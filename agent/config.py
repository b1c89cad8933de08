"""The configuration: pydantic models of ``agent.toml``, frozen, every default once.

The shipped ``agent.toml`` says the same defaults in words; a test holds the two together. A file with only the keys one
wants to change is complete. Bad input raises one ``ConfigError`` that names file, key and remedy.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from datetime import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from agent.clock import FarmDays
from agent.domain import RULE_KINDS, About, HouseState, Kind, SeriesKey, Severity
from agent.errors import ConfigError
from agent.languages import ENGLISH, LANGUAGES, UNITS, Locale
from agent.signals import Signal, base_of, signal_of

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

NAME_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
"""What a site, house, signal or flock may be called: it becomes one level of an MQTT topic and of a path."""


def _checked_name(name: str) -> str:
    if not re.fullmatch(NAME_PATTERN, name):
        message = "a name has 1 to 64 letters (a to z), digits, - and _, for it becomes a level of topics and paths"
        raise ValueError(message)
    return name


def _not_ours(name: str) -> str:
    if name.startswith("_"):
        message = "names that begin with _ are flockwatch's own"
        raise ValueError(message)
    return name


def _plain_topic(topic: str) -> str:
    if not re.fullmatch(r"[^+#/\s$][^+#/\s]*(/[^+#/\s]+)*", topic):
        message = "must be plain topic levels such as flockwatch or farm/flockwatch, without +, # or spaces"
        raise ValueError(message)
    return topic


PlainTopic = Annotated[str, AfterValidator(_plain_topic)]
Name = Annotated[str, AfterValidator(_checked_name)]


def _known_language(tag: str) -> str:
    if tag not in LANGUAGES:
        message = f"there is no catalogue of {tag!r}; there are {', '.join(LANGUAGES)} (docs/languages.md)"
        raise ValueError(message)
    return tag


def _known_units(units: str) -> str:
    if units not in UNITS:
        message = f"must be one of {', '.join(UNITS)}"
        raise ValueError(message)
    return units


HouseName = Annotated[Name, AfterValidator(_not_ours)]
LanguageTag = Annotated[str, AfterValidator(_known_language)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A part of the file: frozen, and a key it does not know is an error, not a silence."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Site(Section):
    """The farm."""

    id: Name = "farm1"
    timezone: str = "UTC"
    day_starts_at: time = time(0, 0)
    language: LanguageTag = ENGLISH
    units: Annotated[str, AfterValidator(_known_units)] = "metric"

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as e:
            message = f"{name!r} is no time zone; use a name such as Europe/Copenhagen"
            raise ValueError(message) from e
        return name

    @property
    def days(self) -> FarmDays:
        """The farm's own days."""
        return FarmDays(ZoneInfo(self.timezone), self.day_starts_at)


class Data(Section):
    """Where everything is kept."""

    directory: Path = Path("/var/lib/flockwatch")

    @property
    def house_db(self) -> Path:
        """The agent's database."""
        return self.directory / "house.db"

    @property
    def sync_db(self) -> Path:
        """The courier's database."""
        return self.directory / "sync.db"

    @property
    def post_db(self) -> Path:
        """What the courier has to tell people, and has told."""
        return self.directory / "post.db"

    @property
    def lake(self) -> Path:
        """The local lake: sealed Parquet objects."""
        return self.directory / "lake"

    @property
    def clock_file(self) -> Path:
        """Where the simulated clock of this directory is remembered, for the other verbs."""
        return self.directory / "simulated-clock"


class Mqtt(Section):
    """The broker on the farm."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65_535)] = 1883
    client_id: Annotated[str, Field(max_length=64)] = ""  # "": flockwatch-<site id>; stable: the session hangs on it
    username: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    topic_prefix: PlainTopic = "flockwatch"
    home_assistant: PlainTopic | Literal[""] = ""  # the discovery prefix of Home Assistant; "": it is told nothing

    @model_validator(mode="after")
    def _pairs(self) -> Mqtt:
        if (self.cert_file is None) != (self.key_file is None):
            message = "cert_file and key_file belong together: give both, or neither"
            raise ValueError(message)
        return self


class Source(Section):
    """One family of topics that carries readings."""

    topic: str
    dialect: Literal["value", "flat", "dol", "senml", "sparkplug"]
    qos: Literal[0, 1] = 1
    rename: dict[str, Name] = {}  # the sender's name of a signal -> ours
    houses: dict[str, HouseName] = {}  # the sender's name of a house, device or sensor -> the house it is in

    @field_validator("topic")
    @classmethod
    def _is_template(cls, topic: str) -> str:
        levels = topic.split("/")
        fields = [level for level in levels if level.startswith("{")]
        if any(re.search(r"[{}+#\s]", level) for level in levels if level not in fields):
            message = f"{topic!r}: a level is either plain text or one whole {{name}}; wildcards are not written here"
            raise ValueError(message)
        if wrong := [level for level in fields if not re.fullmatch(r"\{[a-z_]+\}", level)]:
            message = f"{topic!r}: {wrong[0]} is no {{name}} of small letters"
            raise ValueError(message)
        if len(set(fields)) != len(fields):
            message = f"{topic!r}: each {{name}} may stand only once"
            raise ValueError(message)
        return topic

    @model_validator(mode="after")
    def _names_what_it_must(self) -> Source:
        levels = self.topic.split("/")
        if self.dialect == "value" and "{signal}" not in levels:
            message = f"topic {self.topic!r}: dialect 'value' carries one bare value, so the topic must hold {{signal}}"
            raise ValueError(message)
        if self.dialect != "value" and "{signal}" in levels:
            message = (
                f"topic {self.topic!r}: dialect {self.dialect!r} names its signals in the payload; take {{signal}} out"
            )
            raise ValueError(message)
        if self.dialect == "sparkplug":
            self._is_sparkplug(levels)
        elif "{house}" not in levels and (not self.houses or self.dialect in {"value", "flat"}):
            message = f"topic {self.topic!r}: one level must be {{house}}, or nobody knows whose reading it is"
            if self.dialect not in {"value", "flat"}:
                message += "; or name the houses of devices and sensors in houses = { ... }"
            raise ValueError(message)
        return self

    def _is_sparkplug(self, levels: list[str]) -> None:
        right = len(levels) == 5 and levels[0] == "spBv1.0" and levels[2] == "{message}" and "{house}" in levels[3:]
        if not right:
            message = (
                f"topic {self.topic!r}: dialect 'sparkplug' needs spBv1.0/{{group}}/{{message}}/{{node}}/{{house}}, or "
                "{house}/{device} in place of the last two; a level that is always the same may be written as it is"
            )
            raise ValueError(message)


class SignalOverride(Section):
    """What is different about one signal of one house; None keeps the catalogue's word."""

    unit: str | None = None
    kind: Kind | None = None
    low: float | None = None
    high: float | None = None
    jump_per_s: Positive | None = None
    stuck_after_s: Annotated[int, Field(gt=0)] | None = None
    agree_within: Positive | None = None

    @model_validator(mode="after")
    def _has_room(self) -> SignalOverride:
        if self.low is not None and self.high is not None and self.low >= self.high:
            message = f"low = {self.low} is not below high = {self.high}: no value would be believed"
            raise ValueError(message)
        return self


class RuleFields(Section):
    """What may be different about a warning rule; None keeps what was said before it."""

    severity: Severity | None = None
    threshold: Positive | None = None
    on_delay_s: Annotated[int, Field(ge=0)] | None = None
    off_delay_s: Annotated[int, Field(ge=0)] | None = None
    deadband: Annotated[float, Field(ge=0, lt=1)] | None = None
    latching: bool | None = None
    escalate_after_s: Annotated[int, Field(ge=0)] | None = None  # 0: never

    def told(self) -> dict[str, object]:
        """Return what is said, by field; what applies and when it does left out."""
        said = self.model_dump(exclude={"from_day", "enabled", "by_age"})
        return {name: value for name, value in said.items() if value is not None}


class AgeOverride(RuleFields):
    """What is different about a rule from an age of the flock on, until the next of its kind."""

    from_day: Annotated[int, Field(ge=0)]


class RuleOverride(RuleFields):
    """What is different about one warning rule."""

    enabled: bool | None = None  # None: as it is by default
    first_day: Annotated[int, Field(ge=0)] | None = None
    states: tuple[HouseState, ...] | None = None
    by_age: tuple[AgeOverride, ...] = ()

    def at(self, day: int | None) -> dict[str, object]:
        """Return what is said for a flock of so many days; None: there is none."""
        told = self.told()
        for of_age in sorted(self.by_age, key=lambda one: one.from_day):
            if day is not None and day >= of_age.from_day:
                told |= of_age.told()
        return told

    def under(self, own: RuleOverride) -> RuleOverride:
        """Return this with the word of ``own`` over it, field by field: a house's over its site's, at any age."""
        said = own.told()
        of_age = dict.fromkeys(said.keys() & AgeOverride.model_fields.keys())
        kept = own.by_age or tuple(one.model_copy(update=of_age) for one in self.by_age)
        enabled = self.enabled if own.enabled is None else own.enabled
        return self.model_copy(update={**said, "enabled": enabled, "by_age": kept})


Rules = dict[str, RuleOverride]
SetPoint = tuple[tuple[Annotated[float, Field(ge=0)], float], ...]


def _are_kinds(rules: Rules) -> Rules:
    for name in rules:
        if name.partition("-")[0] not in RULE_KINDS:
            message = f"no kind of rule is called {name.partition('-')[0]!r}; there are {', '.join(RULE_KINDS)}"
            raise ValueError(message)
    return rules


def _rises_with_age(curve: SetPoint | None) -> SetPoint | None:
    if curve is not None and (not curve or [day for day, _ in curve] != sorted({day for day, _ in curve})):
        message = "must be pairs of a day and its set point, the days rising, such as [[1, 34.0], [21, 26.0]]"
        raise ValueError(message)
    return curve


class House(Section):
    """One building."""

    id: HouseName
    name: str = ""
    area_m2: Positive | None = None
    volume_m3: Positive | None = None
    capacity: Annotated[int, Field(gt=0)] | None = None
    language: LanguageTag | None = None  # None: the site's
    signals: dict[Name, SignalOverride] = {}
    facts: dict[Name, float] = {}  # of the house, for models that ask for house.<name>
    rules: Annotated[Rules, AfterValidator(_are_kinds)] = {}  # over those of [warnings]
    house_computer: bool | None = None  # None: as [warnings] says
    set_point: Annotated[SetPoint | None, AfterValidator(_rises_with_age)] = None  # None: as [warnings] says


class StoreSettings(Section):
    """What is kept on this disk."""

    commit_interval_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    max_size_mb: Annotated[int, Field(ge=20)] = 2_000
    keep_hours: Annotated[int, Field(ge=1)] = 48
    keep_days: Annotated[int, Field(ge=30, le=36_500)] = 400
    card_tbw: Positive = 30.0

    @property
    def hot_size_mb(self) -> int:
        """Beyond it, sealed readings leave house.db before ``keep_hours``."""
        return min(300, self.max_size_mb // 3)  # 300: DESIGN, section 3, rule 5

    @property
    def unsealed_size_mb(self) -> int:
        """Beyond it, readings that nobody seals give way: half of all, so that the lake still has its share."""
        return self.max_size_mb // 2


class Models(Section):
    """Which bundles run."""

    directory: Path | None = None  # None: the bundles that are shipped with the program
    # a name takes its newest version, name/version exactly that one
    use: tuple[str, ...] = ("expect", "mortality", "weight")
    shadow: Annotated[tuple[str, ...], Field(max_length=2)] = ()  # beside them, for trial: never shown
    threads: Annotated[int, Field(ge=1, le=4)] = 1


class Warnings(Section):
    """When warnings rise."""

    rules: Annotated[Rules, AfterValidator(_are_kinds)] = {}
    house_computer: bool = False  # the rules that house computers publish
    # SKOV's default curve of the inside temperature, Cel by day of age (docs/sources.md, S32)
    set_point: Annotated[SetPoint, AfterValidator(_rises_with_age)] = (
        *((1.0, 34.0), (7.0, 30.0), (14.0, 28.0), (21.0, 26.0), (28.0, 23.0), (35.0, 21.0), (42.0, 19.0)),
    )


@dataclass(frozen=True, slots=True)
class HouseFacts:
    """What the plain rules of one house go by, beside the overrides."""

    house_computer: bool = False  # whether the rules that house computers publish are wanted
    set_point: SetPoint = ()  # (day of age, Cel), the days rising; (): not known
    capacity: int | None = None  # birds
    area_m2: float | None = None


class Controller(Section):
    """A controller that confirms what it is told; that it does not is a warning itself."""

    name: HouseName
    houses: tuple[HouseName, ...] = ()  # (): it confirms for all
    confirms: Literal["severity", "warning"] = "severity"
    within_s: Annotated[int, Field(ge=2, le=3_600)] = 30
    drill: bool = False  # it also confirms drills


class Notify(Section):
    """Somebody, or something, that is told of warnings besides the retained topics."""

    name: HouseName
    by: Literal["email", "webhook", "topic"]
    to: Annotated[str, Field(min_length=1, max_length=500)]  # an address, a URL, or a topic
    min_severity: Annotated[Severity, Field(ge=Severity.WARNING)] = Severity.WARNING
    houses: tuple[HouseName, ...] = ()  # (): all, and the site's own
    about: tuple[About, ...] = ()  # (): all
    when: Literal["raised", "unconfirmed"] = "raised"
    ends: bool = True
    quiet_from: time | None = None
    quiet_until: time | None = None
    body: dict[str, str] = {}  # of a webhook
    form: bool = False
    token_file: Path | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Notify:
        if (self.quiet_from is None) != (self.quiet_until is None):
            message = "quiet_from and quiet_until belong together: give both, or neither"
            raise ValueError(message)
        if self.by == "topic" and self.quiet_from is not None:
            message = "quiet hours are for people; a topic is told at once: take quiet_from and quiet_until out"
            raise ValueError(message)
        if self.by != "webhook" and (self.body or self.form or self.token_file):
            message = f'body, form and token_file are for by = "webhook", this is {self.by!r}'
            raise ValueError(message)
        wrong = {
            "email": not re.fullmatch(r"[^@\s,;<>]+@[^@\s,;<>]+", self.to),
            "webhook": not re.match(r"https?://[^/\s]", self.to),
            "topic": not re.fullmatch(r"[^+#\s$][^+#\s]*", self.to),
        }
        if wrong[self.by]:
            is_to = {"email": "one address", "webhook": "an http:// or https:// address", "topic": "one plain topic"}
            message = f"to must be {is_to[self.by]} (it says {self.to!r})"
            raise ValueError(message)
        return self


class Email(Section):
    """The mail server that letters go by."""

    host: str | None = None
    port: Annotated[int, Field(ge=1, le=65_535)] = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None
    sender: str = ""  # "": flockwatch@<site id>


class Drills(Section):
    """When the way of a warning is tried by itself."""

    every_days: Annotated[int, Field(ge=0, le=90)] = 0  # 0: only when somebody asks
    at: time = time(10, 0)
    within_s: Annotated[int, Field(ge=5, le=600)] = 30


class SyncSettings(Section):
    """The courier."""

    url: str = ""  # "": seal locally, push nowhere
    interval_s: Annotated[int, Field(ge=10)] = 3600
    options: dict[str, str] = {}

    @field_validator("url")
    @classmethod
    def _is_served(cls, url: str) -> str:
        if url and not re.match(r"(file:///|s3://)[^/]", url):
            message = 'must be "s3://bucket/prefix", "file:///folder", or "" to keep the lake here'
            raise ValueError(message)
        return url


class Config(Section):
    """The whole of ``agent.toml``."""

    site: Site = Site()
    data: Data = Data()
    mqtt: Mqtt = Mqtt()
    source: tuple[Source, ...] = (
        Source(topic="skov/{site}/{house}/{signal}", dialect="value"),
        Source(topic="skov/{site}/{house}", dialect="flat"),
    )
    house: tuple[House, ...] = ()
    store: StoreSettings = StoreSettings()
    models: Models = Models()
    warnings: Warnings = Warnings()
    controller: Annotated[tuple[Controller, ...], Field(max_length=64)] = ()
    notify: Annotated[tuple[Notify, ...], Field(max_length=32)] = ()
    email: Email = Email()
    drill: Drills = Drills()
    sync: SyncSettings = SyncSettings()

    @field_validator("house")
    @classmethod
    def _distinct(cls, houses: tuple[House, ...]) -> tuple[House, ...]:
        ids = [house.id for house in houses]
        if doubled := {i for i in ids if ids.count(i) > 1}:
            message = f"house id {min(doubled)!r} stands twice"
            raise ValueError(message)
        return houses

    @model_validator(mode="after")
    def _can_tell(self) -> Config:
        for what, named in (("controller", self.controller), ("notify", self.notify)):
            names = [one.name for one in named]
            if doubled := {name for name in names if names.count(name) > 1}:
                message = f"{what} name {min(doubled)!r} stands twice"
                raise ValueError(message)
            if unknown := {house for one in named for house in one.houses} - {house.id for house in self.house}:
                message = f"{what} names house {min(unknown)!r}, of which there is no [[house]]"
                raise ValueError(message)
        if self.email.host is None and any(one.by == "email" for one in self.notify):
            message = "notify by email needs [email] host, the mail server"
            raise ValueError(message)
        return self

    def signal(self, key: SeriesKey) -> Signal:
        """Return what is known of a signal in its house: the catalogue's entry with the house's word on it."""
        known = signal_of(key.signal)
        for house in self.house:
            if house.id == key.house:
                told = house.signals.get(key.signal) or house.signals.get(base_of(key.signal))
                return known if told is None else replace(known, **told.model_dump(exclude_none=True))
        return known

    def called(self, house: str) -> str:
        """Return what people call a house: its name, or its id where it has none."""
        return next((known.name for known in self.house if known.id == house and known.name), house)

    def locale(self, house: str | None = None, language: str | None = None) -> Locale:
        """Return for whom warnings are written: of a house or the site, or in a ``language`` that is asked for."""
        told = next((known.language for known in self.house if known.id == house), None)
        return Locale(language or told or self.site.language, self.site.units, ZoneInfo(self.site.timezone))

    def overrides_of(self, house_id: str) -> Rules:
        """Return what is said of the warning rules of a house: its own word over its site's, field by field."""
        own_rules = next((house.rules for house in self.house if house.id == house_id), {})
        merged = {name: said.under(own_rules.get(name, _NOTHING_SAID)) for name, said in self.warnings.rules.items()}
        for name, own in own_rules.items():
            merged.setdefault(name, own)
            for one, said in merged.items():  # what a house says of a kind is over what its site says of one rule
                if one.startswith(f"{name}-"):
                    merged[one] = said.under(own).under(own_rules.get(one, _NOTHING_SAID))
        return merged

    def facts_of(self, house_id: str) -> HouseFacts:
        """Return what else the warning rules of a house go by."""
        site = self.warnings
        for house in self.house:
            if house.id == house_id:
                wants = site.house_computer if house.house_computer is None else house.house_computer
                return HouseFacts(wants, house.set_point or site.set_point, house.capacity, house.area_m2)
        return HouseFacts(site.house_computer, site.set_point)

    @property
    def client_id(self) -> str:
        """The stable MQTT client id, which the broker's persistent session hangs on."""
        return self.mqtt.client_id or f"flockwatch-{self.site.id}"


_NOTHING_SAID = RuleOverride()


def _key_of(location: tuple[int | str, ...]) -> str:
    """Return where in the file an error is, as a person would write it: ``source[1].topic``."""
    key = ""
    for part in location:
        key += f"[{part + 1}]" if isinstance(part, int) else f".{part}"
    return key.lstrip(".")


def _what_is_wrong(error: ErrorDetails) -> str:
    """Return one of pydantic's errors in the words of somebody who edits a TOML file."""
    kind = error["type"]
    if kind == "extra_forbidden":
        return "no such key; agent.toml, which comes with flockwatch, shows those there are"
    if kind == "missing":
        return "must be given"
    if kind == "tuple_type":
        return "must be a list; tables of a list are written with two brackets, [[source]] or [[house]]"
    if kind in {"model_type", "dict_type"}:
        return "must be a table, written [like.this]"
    said = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return said if isinstance(error["input"], (dict, list)) else f"{said} (it says {error['input']!r:.80})"


def parse_config(document: dict[str, object], where: str) -> Config:
    """Return the configuration that a parsed TOML document says.

    Raises:
        ConfigError: a key or value is wrong; ``where`` names the file in the message.
    """
    try:
        return Config.model_validate(document)
    except ValidationError as e:
        problems = [f"{where}: {_key_of(error['loc'])}: {_what_is_wrong(error)}" for error in e.errors()]
        raise ConfigError("\n".join(problems)) from e


def load_config(path: Path | None) -> Config:
    """Return the configuration in the file at ``path``; None stands for the defaults.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or says something wrong.
    """
    if path is None:
        return Config()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        message = f"{path}: there is no such file; give --config the path of your agent.toml"
        raise ConfigError(message) from e
    except (OSError, UnicodeDecodeError) as e:
        message = f"{path}: cannot be read: {e.strerror if isinstance(e, OSError) else 'it is no UTF-8 text'}"
        raise ConfigError(message) from e
    except tomllib.TOMLDecodeError as e:
        message = f"{path}: is no valid TOML: {e}"
        raise ConfigError(message) from e
    return parse_config(document, str(path))
