"""What people read, in their language and units: catalogues of messages, and how amounts and times are written.

The English text of a message is its name in the catalogues (gettext, ``agent/locale/``). ``msg`` marks one that is put
into words later; ``Locale.say`` and ``say_many`` put it into words. docs/languages.md tells how to add a language.

What a program reads (rules, causes, reasons, units of the payload) is English everywhere and never goes through here.
"""

from __future__ import annotations

import gettext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import NamedTuple

DOMAIN = "flockwatch"
CATALOGUES = Path(__file__).parent / "locale"
ENGLISH = "en"


def msg(text: str) -> str:
    """Return ``text`` as it is: it marks a message for the catalogues, put into words when it is known for whom."""
    return text


class Language(NamedTuple):
    """How a language is called, and how it writes a decimal mark; all else is in its catalogue."""

    name: str  # its own
    decimal: str


LANGUAGES = {  # by their tags (BCP 47), as in agent.toml
    "en": Language("English", "."),
    "da": Language("Dansk", ","),
    "de": Language("Deutsch", ","),
    "pt-BR": Language("Português (Brasil)", ","),
}


class Unit(NamedTuple):
    """How an amount is written: the pattern of its number, and what makes it of the catalogue's unit."""

    pattern: str
    factor: float = 1.0
    offset: float = 0.0


_SI = {
    "Cel": Unit(msg("{n} °C")),
    "%RH": Unit(msg("{n} % RH")),
    "%": Unit(msg("{n} %")),
    "ppm": Unit(msg("{n} ppm")),
    "Pa": Unit(msg("{n} Pa")),
    "lx": Unit(msg("{n} lx")),
    "m/s": Unit(msg("{n} m/s")),
    "l": Unit(msg("{n} l")),
    "kg": Unit(msg("{n} kg")),
    "g": Unit(msg("{n} g")),
    "kWh": Unit(msg("{n} kWh")),
    "l/kg": Unit(msg("{n} l/kg")),
}
# By definition: 1 US gallon = 3.785411784 l, 1 lb = 453.59237 g, 1 ft = 0.3048 m; 1 inch of water is 249.089 Pa
_US = {
    "Cel": Unit(msg("{n} °F"), 1.8, 32.0),
    "l": Unit(msg("{n} gal"), 1 / 3.785411784),
    "kg": Unit(msg("{n} lb"), 1 / 0.45359237),
    "g": Unit(msg("{n} lb"), 1 / 453.59237),
    "l/kg": Unit(msg("{n} gal/lb"), 0.45359237 / 3.785411784),
    "m/s": Unit(msg("{n} ft/min"), 60 / 0.3048),
    "Pa": Unit(msg("{n} inches of water"), 1 / 249.089),
}
UNITS = {"metric": _SI, "us": _SI | _US}
"""The systems of units that a site may ask for, each with how it writes the catalogue's units."""

_POINTS = msg("{n} percentage points")
_OF_DIFFERENCES = frozenset({"Cel", "%", "%RH"})  # a percentage of these says little, or is taken for the unit

_MONTHS = (
    msg("January"),
    msg("February"),
    msg("March"),
    msg("April"),
    msg("May"),
    msg("June"),
    msg("July"),
    msg("August"),
    msg("September"),
    msg("October"),
    msg("November"),
    msg("December"),
)
_PLAIN_FOR = timedelta(hours=20)  # a time of the clock that is older needs its date


@lru_cache(maxsize=len(LANGUAGES))
def _catalogue(tag: str) -> gettext.NullTranslations:
    if tag == ENGLISH:
        return gettext.NullTranslations()
    return gettext.translation(DOMAIN, CATALOGUES, [tag.replace("-", "_")])


@dataclass(frozen=True, slots=True)
class Locale:
    """Who reads: the language, the units, and the time zone."""

    language: str = ENGLISH
    units: str = "metric"
    zone: tzinfo = UTC

    def say(self, message: str, /, **values: object) -> str:
        """Return a message in this language with the values in their places; one without a translation in English."""
        said = _catalogue(self.language).gettext(message) if message else ""
        return said.format_map(values) if values else said

    def say_many(self, one: str, many: str, n: int, /, **values: object) -> str:
        """Return the form of a message that ``n`` takes; ``{n}`` is its number."""
        return _catalogue(self.language).ngettext(one, many, n).format_map({"n": n, **values})

    def number(self, value: float) -> str:
        """Return a figure as people write it: whole from 100 on, one decimal from 1 on, two digits below."""
        size = abs(value)
        digits = f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 1 else f"{value:.2g}"
        return digits.replace(".", LANGUAGES[self.language].decimal)

    def amount(self, value: float | None, unit: str | None) -> str:
        """Return a value of the catalogue's ``unit`` in the reader's; without its unit where that is None."""
        if value is None or not isfinite(value):
            return self.say(msg("unknown"))
        if unit == "birds":
            return self.say_many("{n} bird", "{n} birds", round(value))
        if unit == "h":
            return self.say_many("{n} hour", "{n} hours", round(value))
        known = UNITS[self.units].get(unit or "")
        if known is None:
            return f"{self.number(value)} {unit}" if unit else self.number(value)
        return self.say(known.pattern, n=self.number(value * known.factor + known.offset))

    def range(self, low: float, high: float, unit: str | None) -> str:
        """Return from where to where something is, the unit once."""
        known = UNITS[self.units].get(unit or "", Unit(""))
        begin = f"{low:.0f}" if unit == "birds" else self.number(low * known.factor + known.offset)
        return self.say(msg("{low} to {high}"), low=begin, high=self.amount(high, unit))

    def difference(self, actual: float, expected: float, unit: str | None) -> str | None:
        """Return how far apart two values are: degrees and points as such, all else in percent; None of nothing."""
        apart = abs(actual - expected)
        if unit in _OF_DIFFERENCES:
            known = UNITS[self.units][unit]
            return self.say(known.pattern if unit == "Cel" else _POINTS, n=self.number(apart * known.factor))
        return None if abs(expected) < 1e-9 else self.percent(apart / abs(expected))

    def percent(self, share: float) -> str:
        """Return a share as whole percent."""
        return self.say(_SI["%"].pattern, n=f"{100 * share:.0f}")

    def chance(self, probability: float) -> str:
        """Return a probability as percent; nothing that was estimated is certain, so never 0 or 100."""
        return self.percent(min(max(probability, 0.01), 0.99))

    def since(self, since: datetime, now: datetime) -> str:
        """Return since when something is, in the farm's time, with the date where the time alone is not plain."""
        local = since.astimezone(self.zone)
        if now - since < _PLAIN_FOR:
            return self.say(msg("since {hour}:{minute}"), hour=f"{local:%H}", minute=f"{local:%M}")
        return self.say(
            msg("since {hour}:{minute} on {day} {month}"),
            hour=f"{local:%H}",
            minute=f"{local:%M}",
            day=local.day,
            month=self.say(_MONTHS[local.month - 1]),
        )
