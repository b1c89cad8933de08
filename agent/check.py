"""``flockwatch check``: what is right and wrong with an installation, one finding a line."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from agent.bundles import find_bundle, load_bundle, shipped_directory
from agent.bus import probe
from agent.config import Config, load_config
from agent.effective import rule_lines, rules_in_force
from agent.errors import ConfigError, FlockwatchError, InputError, StoreError
from agent.probe import rehearse
from agent.signals import CATALOGUE, base_of
from agent.store import StoreReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agent.clock import Clock
    from agent.probe import Rehearsal

BROKER_WITHIN_S = 5.0
CHECK_GROUP = "flockwatch.checks"
"""Entry points of other packages: functions that take configuration and clock,
return what is fine in one line, and raise what is not."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: str  # ok | note | bad
    what: str
    said: str

    @property
    def is_bad(self) -> bool:
        """Whether this keeps the installation from working."""
        return self.level == "bad"

    def __str__(self) -> str:
        """Return the line for people."""
        return f"{self.level:4} {self.what}: {self.said}"

    def value(self) -> dict[str, str]:
        """Return the finding for JSON."""
        return {"level": self.level, "what": self.what, "said": self.said}


def check(path: Path | None, clock_for: Callable[[Config], Clock]) -> list[Finding]:
    """Look at everything that can be looked at without disturbing a running agent.

    Raises:
        ConfigError: the configuration does not load; nothing else can be looked at then.
    """
    config = load_config(path)
    findings = [Finding("ok", "config", f"{path or 'built-in defaults'}: site {config.site.id!r}")]
    for look in (_houses, _rules, _in_force, _data, _models, _broker):
        findings += look(config)
    return [*findings, *_others(config, clock_for(config))]


def _houses(config: Config) -> Iterator[Finding]:
    if not config.house:
        yield Finding("note", "houses", "none is configured: readings are stored, but judged by nothing; add [[house]]")
    else:
        yield Finding("ok", "houses", ", ".join(house.id for house in config.house))
    try:
        with StoreReader.open(config.data.house_db) as reader:
            unknown = reader.health().get("unknown_houses", [])
    except StoreError:
        return
    for house in unknown:
        yield Finding(
            "note",
            "houses",
            f'readings come from {house!r}, which is not configured; add [[house]] with id = "{house}"',
        )


def _rules(config: Config) -> Iterator[Finding]:
    """Note what is named but in no catalogue: perhaps a sensor of the farm's own, perhaps a slip of the pen."""
    named = [(f"[warnings.rules.{name}]", name) for name in config.warnings.rules]
    named += [(f"[house.rules.{name}] of {house.id}", name) for house in config.house for name in house.rules]
    for where, name in named:
        signal = name.partition("-")[2]
        if signal and base_of(signal) not in CATALOGUE:
            yield Finding("note", "rules", f"{where}: {signal!r} is not in the catalogue of signals")
    for house in config.house:
        for signal in house.signals:
            if base_of(signal) not in CATALOGUE:
                where = f"[house.signals.{signal}] of {house.id}"
                yield Finding("note", "signals", f"{where}: {signal!r} is not in the catalogue of signals")


def _in_force(config: Config) -> Iterator[Finding]:
    """Show the rules that judge; those that are off are in `flockwatch rules`."""
    rules = rules_in_force(config, [house.id for house in config.house])
    yield from (Finding("ok", "rule", line) for line in rule_lines(one for one in rules if one.is_on))
    yield from (
        Finding("note", "rule", f"{one.rule.name} of {one.house} is off: no threshold is told")
        for one in rules
        if not one.is_on and one.told_in and not one.rule.threshold
    )


def _data(config: Config) -> Iterator[Finding]:
    directory = config.data.directory
    try:
        if not directory.exists():
            yield Finding("note", "data", f"{directory} is not there yet: the agent makes it at its first start")
            return
        probe_file = directory / ".check"
        probe_file.write_bytes(b"")
        probe_file.unlink()
    except OSError as e:
        yield Finding(
            "bad", "data", f"{directory} cannot be written: {e.strerror}; correct [data] directory or its rights"
        )
        return
    if not config.data.house_db.exists():
        yield Finding("note", "data", f"{config.data.house_db} is not there yet: the agent makes it at its first start")
        return
    yield _tried("data", f"{config.data.house_db} opens", lambda: StoreReader.open(config.data.house_db).close())


def _models(config: Config) -> Iterator[Finding]:
    try:
        root = config.models.directory or shipped_directory()
    except InputError as e:
        yield Finding("bad", "models", str(e))
        return
    for wanted in (*config.models.use, *config.models.shadow):
        look = partial(_load, root, wanted, len(config.house))
        yield _tried("models", f"{wanted} loads and passes its self-test, within its limits", look)


def _load(root: Path, wanted: str, houses: int) -> Rehearsal:
    directory = find_bundle(root, wanted)
    load_bundle(directory)  # what is wrong with the files is said by name
    return rehearse(directory, houses)


def _broker(config: Config) -> Iterator[Finding]:
    where = f"{config.mqtt.host}:{config.mqtt.port}"
    try:
        why = probe(config.mqtt, config.client_id, BROKER_WITHIN_S)
    except ConfigError as e:
        why = str(e)
    yield Finding("ok", "broker", f"{where} answers") if why is None else Finding("bad", "broker", why)


def _others(config: Config, clock: Clock) -> Iterator[Finding]:
    """Let other packages look at their own part: sync looks at the cloud."""
    for entry_point in importlib.metadata.entry_points(group=CHECK_GROUP):
        look: Callable[[Config, Clock], str] = entry_point.load()
        try:
            yield Finding("ok", entry_point.name, look(config, clock))
        except FlockwatchError as e:
            yield Finding("bad", entry_point.name, str(e))


def _tried(what: str, fine: str, look: Callable[[], object]) -> Finding:
    try:
        look()
    except FlockwatchError as e:
        return Finding("bad", what, str(e))
    return Finding("ok", what, fine)
