"""The catalogue of signals: unit, kind, plausible range, and the limits of stuck and jump, each with its source.

To add a signal, add a row here; the window, the quality checks, the dialects and the documentation follow. A house may
override any field in ``[house.signals.<signal>]``. An unknown signal is a gauge without unit and without limits.

Sources: [dossier] is the project's collection of public figures on broiler houses and their sensors; S11 = DOL 114
manual, S14 = DOL 53 manual, S5 = DOL 534/539 manual, S35/S47 = breeder tables of intake and water.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.domain import Kind

SENSOR_NUMBER = re.compile(r"-\d+$")


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


_GAUGE, _INCREMENT = Kind.GAUGE, Kind.INCREMENT
_HOUR = 3600

CATALOGUE = {
    signal.name: signal
    for signal in (
        # DOL 114 measures -40..60 Cel with T63 = 6 min (S11): a step of 20 K shows as at most 0.06 K/s
        Signal("temperature", "Cel", _GAUGE, -20, 55, jump_per_s=0.2, stuck_after_s=12 * _HOUR),
        Signal("outside_temperature", "Cel", _GAUGE, -45, 60, jump_per_s=0.2, stuck_after_s=24 * _HOUR),
        # below 5 %RH is the mark of a broken sensor in the house computers' logic (S5)
        Signal("humidity", "%RH", _GAUGE, 5, 100, jump_per_s=3, stuck_after_s=24 * _HOUR),
        Signal("outside_humidity", "%RH", _GAUGE, 5, 100, jump_per_s=3, stuck_after_s=36 * _HOUR),
        # fresh air has about 420 ppm; real houses often show less: wrong zero. Asphyxia begins above 30,000 ppm
        Signal("co2", "ppm", _GAUGE, 350, 30_000, jump_per_s=100, stuck_after_s=12 * _HOUR),
        # DOL 53: 0 to 100 ppm (S14); zero for days is normal on new litter, so a constant proves nothing
        Signal("ammonia", "ppm", _GAUGE, 0, 100, jump_per_s=5),
        Signal("pressure", "Pa", _GAUGE, -100, 200, stuck_after_s=24 * _HOUR),
        Signal("air_speed", "m/s", _GAUGE, 0, 15),
        Signal("light", "lx", _GAUGE, 0, 120_000),
        Signal("ventilation", "%", _GAUGE, 0, 100),
        Signal("heating", "%", _GAUGE, 0, 100),
        # 50,000 birds x 0.37 l a day (S47) is 0.8 m3/h; ten times that between two readings is no bird
        Signal("water", "l", _INCREMENT, 0, 50_000),
        Signal("feed", "kg", _INCREMENT, 0, 30_000),
        # silo load cells have shown 3e18 kg on real farms
        Signal("silo", "kg", _GAUGE, 0, 100_000),
        Signal("energy", "kWh", _INCREMENT, 0, 100_000),
        # day-old chicks have 40 g, no broiler reaches 7 kg
        Signal("weight", "g", _GAUGE, 25, 7_000),
        Signal("weight_count", None, _GAUGE, 0, 1_000_000),
        Signal("weight_sd", "g", _GAUGE, 0, 3_000),
        # negative = a correction of an earlier count
        Signal("dead", "birds", _INCREMENT, -5_000, 100_000),
        Signal("culled", "birds", _INCREMENT, -5_000, 100_000),
    )
}


def base_of(name: str) -> str:
    """Return the signal that a numbered sensor measures: ``temperature-2`` is a ``temperature``."""
    return SENSOR_NUMBER.sub("", name)


def signal_of(name: str) -> Signal:
    """Return the catalogue's entry for a signal or a numbered sensor of it; an unknown one is a plain gauge."""
    return CATALOGUE.get(base_of(name)) or Signal(name)
