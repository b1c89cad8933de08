"""Units of senders to ours, in one place for all dialects.

The words are those of SenML: the registry of RFC 8428 and its secondary units (RFC 8798). A dialect that spells them
otherwise translates its words first (``dol``).
"""

from __future__ import annotations

from typing import NamedTuple


class _Unit(NamedTuple):
    """A unit as ``factor`` times the base unit of what it measures, plus ``offset``."""

    measures: str
    factor: float
    offset: float = 0.0


# 1 bar = 100,000 Pa, 1 Wh = 3,600 J, 0 Cel = 273.15 K: the SI brochure
_UNITS = {
    "K": _Unit("temperature", 1),
    "Cel": _Unit("temperature", 1, 273.15),
    # %RH is in the same group as the shares, so that a humidity in "/" or "%" is understood
    "/": _Unit("share", 1),
    "%": _Unit("share", 1e-2),
    "/100": _Unit("share", 1e-2),
    "%RH": _Unit("share", 1e-2),
    "/1000": _Unit("share", 1e-3),
    "ppm": _Unit("share", 1e-6),
    "Pa": _Unit("pressure", 1),
    "hPa": _Unit("pressure", 100),
    "kPa": _Unit("pressure", 1_000),
    "bar": _Unit("pressure", 100_000),
    "lx": _Unit("illuminance", 1),
    "m/s": _Unit("speed", 1),
    "km/h": _Unit("speed", 1 / 3.6),
    "kg": _Unit("mass", 1_000),
    "g": _Unit("mass", 1),
    "m3": _Unit("volume", 1_000),
    "l": _Unit("volume", 1),
    "J": _Unit("energy", 1),
    "Wh": _Unit("energy", 3_600),
    "kWh": _Unit("energy", 3_600_000),
    "count": _Unit("number", 1),
    "birds": _Unit("number", 1),
}

_OVER_TIME = {
    "W": ("J", 1.0),
    "kW": ("J", 1_000.0),
    "m3/s": ("m3", 1.0),
    "l/s": ("l", 1.0),
    "kg/s": ("kg", 1.0),
    "1/s": ("count", 1.0),
    "1/min": ("count", 1 / 60),
}
"""What a unit becomes when it is summed up over seconds, and how many of it: 1 W for 1 s is 1 J."""


def factor_and_offset(theirs: str, ours: str | None) -> tuple[float, float] | None:
    """Return (factor, offset) that make a value in ``theirs`` one in ``ours``; None where they measure something else.

    Where ``ours`` is None, a signal without a unit, any value is taken as it is.
    """
    if ours is None or theirs == ours:
        return 1.0, 0.0
    of, to = _UNITS.get(theirs), _UNITS.get(ours)
    if of is None or to is None or of.measures != to.measures:
        return None
    return of.factor / to.factor, (of.offset - to.offset) / to.factor


def over_time(unit: str) -> tuple[str, float] | None:
    """Return the unit of a sum over seconds of values in ``unit``, and the factor to it; None where there is none."""
    return _OVER_TIME.get(unit)
