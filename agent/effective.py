"""The warning rules as they are in force: the defaults, with the configuration's word on each, by house and by age."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from agent.bundles import find_bundle, load_bundle, shipped_directory
from agent.deviation import modelled_rules
from agent.domain import SeriesKey
from agent.errors import BundleError, InputError
from agent.rules import KINDS, kind_of, rule_by_default, rule_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from agent.config import Config
    from agent.domain import WarningRule

_OF_EVERY_HOUSE = ("mortality", "missing", "silent", "stuck", "disagree", "range", "unregistered", "placement")
"""Rules of the house, and of each of its sensors: these are told by their kind."""

_MAY_CHANGE = ("severity", "threshold", "on_delay_s", "off_delay_s", "deadband", "latching", "escalate_after_s")


@dataclass(frozen=True, slots=True)
class InForce:
    """One rule of one house; of a rule that is off the defaults."""

    house: str
    rule: WarningRule
    is_on: bool
    told_in: tuple[str, ...]  # tables of the configuration that say something about it
    by_age: tuple[tuple[int, Mapping[str, object]], ...]  # from which day on what is different
    unit: str | None  # of its signal

    def value(self) -> dict[str, Any]:
        """Return it for JSON."""
        rule = self.rule
        return {
            "house": self.house,
            "enabled": self.is_on,
            **asdict(rule),
            "about": rule.about.value,
            "severity": int(rule.severity),
            "states": sorted(state.value for state in rule.states),
            "unit": self.unit,
            "what": KINDS[kind_of(rule.name)].what,
            "threshold_is": KINDS[kind_of(rule.name)].threshold_is,
            "told_in": list(self.told_in),
            "by_age": [{"from_day": day, **changes} for day, changes in self.by_age],
        }

    def words(self) -> str:
        """Return it for people, its name and house left out."""
        rule = self.rule
        if not self.is_on:
            return "off" if rule.threshold else "off: no limit is told"
        waits = "" if not rule.escalate_after_s else f", a step more severe after {_span(rule.escalate_after_s)}"
        ages = "".join(f"; from day {day} {_changes(changes)}" for day, changes in self.by_age)
        return (
            f"severity {int(rule.severity)}, threshold {rule.threshold:g}, after {_span(rule.on_delay_s)}, "
            f"over after {_span(rule.off_delay_s)}, deadband {rule.deadband:g}, from day {rule.first_day}, "
            f"{' '.join(sorted(state.value for state in rule.states))}"
            f"{', latching' if rule.latching else ''}{waits}{ages}"
            f"{' [' + ' '.join(self.told_in) + ']' if self.told_in else ''}"
        )


def rules_in_force(config: Config, houses: Iterable[str]) -> list[InForce]:
    """Return every rule of some houses, also those that are off; rules of single sensors only where they are named."""
    modelled = _modelled(config)
    return [one for house in houses for one in _of_house(config, house, modelled)]


def _modelled(config: Config) -> list[str]:
    """Return the rules that the bundles in use judge; what is wrong with a bundle is not told here."""
    names: set[str] = set()
    for wanted in config.models.use:
        try:
            bundle = load_bundle(find_bundle(config.models.directory or shipped_directory(), wanted))
        except (BundleError, InputError):
            continue
        names.update(name for name, _ in modelled_rules(bundle.manifest.output))
    return sorted(names)


def _of_house(config: Config, house: str, modelled: Sequence[str]) -> Iterator[InForce]:
    overrides, wants = config.overrides_of(house), config.facts_of(house).house_computer
    own = next((one.rules for one in config.house if one.id == house), {})
    plain = [f"{kind}-{signal}" for kind, of in KINDS.items() for signal in of.limits]
    for name in dict.fromkeys((*modelled, *_OF_EVERY_HOUSE, *plain, *(name for name in overrides if "-" in name))):
        rule = rule_of(name, overrides, house_computer=wants)
        keys = dict.fromkeys((kind_of(name), name))
        tables = [f"warnings.rules.{key}" for key in keys if key in config.warnings.rules]
        tables += [f"house.rules.{key}" for key in keys if key in own]
        days = sorted({one.from_day for key in keys if key in overrides for one in overrides[key].by_age})
        by_age = []
        if rule is not None:
            for day in days:
                of_day = rule_of(name, overrides, day, house_computer=wants) or rule
                changes = {f: getattr(of_day, f) for f in _MAY_CHANGE if getattr(of_day, f) != getattr(rule, f)}
                by_age.append((day, changes))
        unit = config.signal(SeriesKey(house, name.partition("-")[2])).unit if "-" in name else None
        yield InForce(house, rule or rule_by_default(name), rule is not None, tuple(tables), tuple(by_age), unit)


def rule_lines(rules: Iterable[InForce]) -> list[str]:
    """Return the rules for people, a line each; houses that have one in common share its line."""
    alike: dict[tuple[str, str], list[str]] = {}
    for one in rules:
        alike.setdefault((one.rule.name, one.words()), []).append(one.house)
    width = max((len(name) for name, _ in alike), default=0)
    return [f"{name:{width}}  {', '.join(houses)}: {words}" for (name, words), houses in alike.items()]


def _span(seconds: int) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _changes(changes: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value:g}" if isinstance(value, int | float) else f"{name} {value}"
                     for name, value in changes.items()) or "as by default"  # fmt: skip
