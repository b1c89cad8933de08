"""The catalogue of signals: unit, kind, plausible range, and the limits of stuck and jump, each with its source.

To add a signal, add a row here; the window, the quality checks, the dialects and the documentation follow. A house may
override any field in ``[house.signals.<signal>]``. An unknown signal is a gauge without unit and without limits.

Sources: the S and F numbers are those of docs/sources.md; "our judgement" marks what has no source. So are all limits
of stuck: a house with birds in it moves every climate signal within hours, and a value that stands still for half a day
(inside temperature, CO2) or a day and more (what is slower, coarser, or outside) is no house's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from agent.domain import Kind

SENSOR_NUMBER = re.compile(r"-\d+$")


class Mistake(NamedTuple):
    """Values above ``low`` and up to ``high`` that are in no range, but would be in another unit."""

    low: float
    high: float
    looks_like: str


@dataclass(frozen=True, slots=True)
class Signal:
    """What is known about a signal before any of its readings is seen."""

    name: str
    unit: str | None = None
    kind: Kind = Kind.GAUGE
    low: float | None = None  # below is impossible or beyond the sensor's range
    high: float | None = None
    jump_per_s: float | None = None  # a faster change than this, either way, is no house
    stuck_after_s: int | None = None  # the same value for this long is a frozen sensor; None: may well be constant
    agree_within: float | None = None  # sensors of it in one house, or outside at all, differ by no more
    mistakes: tuple[Mistake, ...] = ()
    why_low: str = ""  # what it means that no value can be lower


_GAUGE, _INCREMENT = Kind.GAUGE, Kind.INCREMENT
_HOUR = 3600
_RH = (Mistake(100, 1_000, "tenths of a percent"), Mistake(0, 1, "a fraction, not percent"))  # the former: seen [F1]
_TENTHS_CEL = (Mistake(99.9, 450, "tenths of a degree"),)  # our judgement: 10 to 45 Cel; what is hotter is a wire

# How far sensors of one kind may be apart beyond their usual difference (agent/peers.py). Our judgement throughout: ten
# times what the makers promise (0.5 Cel, 2 %RH [S11]; 1.5 ppm NH3 [S14]), as a long house has places; outside more, for
# a wall in the sun and a yard in the shade.
CATALOGUE = {
    signal.name: signal
    for signal in (
        # DOL 114 measures -40..60 Cel with T63 = 6 min [S11]: a step of 20 K shows as at most 0.06 K/s. Our judgement:
        # 0.2, for probes that are three times as quick; -20..55 inside and -45..60 outside, wider than any house or
        # weather, narrower than what a broken wire shows
        Signal(
            "temperature",
            "Cel",
            _GAUGE,
            -20,
            55,
            jump_per_s=0.2,
            stuck_after_s=12 * _HOUR,
            agree_within=5,
            mistakes=_TENTHS_CEL,
        ),
        Signal(
            "outside_temperature",
            "Cel",
            _GAUGE,
            -45,
            60,
            jump_per_s=0.2,
            stuck_after_s=24 * _HOUR,
            agree_within=8,
            mistakes=_TENTHS_CEL,
        ),
        # below 5 %RH is the mark of a broken sensor in the house computers' logic [S5]; with T63 = 20 s (DOL 114 [S11])
        # 3 %RH/s is a step of 60 %RH (our judgement: none is larger)
        Signal(
            "humidity", "%RH", _GAUGE, 5, 100, jump_per_s=3, stuck_after_s=24 * _HOUR, agree_within=20, mistakes=_RH
        ),
        Signal(
            "outside_humidity",
            "%RH",
            _GAUGE,
            5,
            100,
            jump_per_s=3,
            stuck_after_s=36 * _HOUR,
            agree_within=30,
            mistakes=_RH,
        ),
        # fresh air has about 420 ppm; houses often show less [F1]: wrong zero. Asphyxia begins above 30,000 ppm [S74].
        # Without any fan it rises by 5 ppm/s (docs/sources.md); our judgement: 350, for small errors of the zero, and
        # 100 ppm/s, for breath or a burner's gas at the sensor
        Signal(
            "co2",
            "ppm",
            _GAUGE,
            350,
            30_000,
            jump_per_s=100,
            stuck_after_s=12 * _HOUR,
            agree_within=1_000,
            mistakes=(Mistake(0.03, 3, "percent"),),  # the same range in percent
            why_low="fresh air has more, its zero is wrong",
        ),
        # DOL 53: 0 to 100 ppm, T50 < 30 s [S14]: even a step over the whole range shows as 2.3 ppm/s (our judgement:
        # twice that). Zero for days is normal on new litter [S61], so a constant proves nothing
        Signal("ammonia", "ppm", _GAUGE, 0, 100, jump_per_s=5, agree_within=15),
        # our judgement: several times what the fans of a house bring about; no manual of a sensor was found
        Signal("pressure", "Pa", _GAUGE, -100, 200, stuck_after_s=24 * _HOUR),
        # our judgement: far above the 4 m/s of tunnel ventilation [S32]
        Signal("air_speed", "m/s", _GAUGE, 0, 15),
        # our judgement: full sun has about 100,000 lx
        Signal("light", "lx", _GAUGE, 0, 120_000),
        # shares, by definition
        Signal("ventilation", "%", _GAUGE, 0, 100),
        Signal("heating", "%", _GAUGE, 0, 100),
        # One reading may hold a whole day: 50,000 birds drink 18,500 l [S47] and eat 11,700 kg (Aviagen 2022 [S35]) on
        # their last. Our judgement: more than two and a half such days at once is no bird
        Signal("water", "l", _INCREMENT, 0, 50_000),
        Signal("feed", "kg", _INCREMENT, 0, 30_000),
        # silo load cells have shown 3e18 kg [F1]; our judgement: no house has 100 t
        Signal("silo", "kg", _GAUGE, 0, 100_000),
        # one meter showed 10^7 kWh for a day [F1]; our judgement: a hundredth of that is still no farm's day
        Signal("energy", "kWh", _INCREMENT, 0, 100_000),
        # day-old chicks have about 40 g, birds of 56 days 4.3 to 4.6 kg (the breeders' tables, agent/strains.py); our
        # judgement: 25 and 7,000, for what is much smaller or older than theirs
        Signal(
            "weight",
            "g",
            _GAUGE,
            25,
            7_000,
            mistakes=(Mistake(0.025, 7, "kilograms"), Mistake(7_000, 70_000, "tenths of a gram")),
        ),
        # our judgement: every bird of a large house twenty times a day; and a spread as large as the birds themselves
        Signal("weight_count", None, _GAUGE, 0, 1_000_000),
        Signal("weight_sd", "g", _GAUGE, 0, 3_000),
        # negative = a correction of an earlier count. Our judgement: at most twice what the largest houses hold, and no
        # correction of more than a tenth of a house
        Signal("dead", "birds", _INCREMENT, -5_000, 100_000),
        Signal("culled", "birds", _INCREMENT, -5_000, 100_000),
    )
}


@lru_cache(
    maxsize=20_000
)  # 64 houses of 256 signals are 16,384; the pattern alone costs more than all else per reading
def base_of(name: str) -> str:
    """Return the signal that a numbered sensor measures: ``temperature-2`` is a ``temperature``."""
    return SENSOR_NUMBER.sub("", name)


def signal_of(name: str) -> Signal:
    """Return the catalogue's entry for a signal or a numbered sensor of it; an unknown one is a plain gauge."""
    return CATALOGUE.get(base_of(name)) or Signal(name)


def is_of(name: str, signal: str) -> bool:
    """Tell whether a sensor is the one that ``signal`` names, or one of its kind."""
    return signal in {name, base_of(name)}
