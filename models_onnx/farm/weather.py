"""The weather outside: season, time of day, fronts and moisture, one station for each farm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models_onnx.farm.arithmetic import limit, wander

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

DAY_S = 86_400.0
WARMEST_HOUR = 14.5  # of the farm's day; common knowledge, assumed
GUST_S, GUST_CEL = 2 * 3600.0, 0.4  # short swings (clouds, sun); assumed
MOIST_S, MOIST_CEL = 2 * DAY_S, 1.5  # how the dew point wanders; assumed


def saturation_pa(temperature: Array) -> Array:
    """Return the pressure of saturated water vapour over water (Magnus, WMO coefficients)."""
    return np.asarray(611.2 * np.exp(17.62 * temperature / (243.12 + temperature)), np.float64)


def vapour_g_m3(temperature: Array, humidity: Array) -> Array:
    """Return the water vapour in air, g/m3, at a temperature (Cel) and relative humidity (%)."""
    # ideal gas: 2.1667 g K / (m3 Pa) = molar mass / gas constant
    return np.asarray(2.1667 * saturation_pa(temperature) * humidity / 100 / (temperature + 273.15), np.float64)


def humidity_pct(temperature: Array, vapour: Array) -> Array:
    """Return the relative humidity (%) of air at a temperature (Cel) holding ``vapour`` g/m3."""
    return np.asarray(100 * vapour * (temperature + 273.15) / 2.1667 / saturation_pa(temperature), np.float64)


def wet_bulb(temperature: Array, humidity: Array) -> Array:
    """Return the wet-bulb temperature of air at sea level: the coldest that water can make it (Stull 2011)."""
    t, rh = temperature, limit(humidity, 5, 99)
    first = t * np.arctan(0.151977 * np.sqrt(rh + 8.313659)) + np.arctan(t + rh) - np.arctan(rh - 1.676331)
    return np.asarray(first + 0.00391838 * rh**1.5 * np.arctan(0.023101 * rh) - 4.686035, np.float64)


class Weather:
    """Temperature and humidity outside, of ``farms`` stations at once; steps of any length, the same statistics."""

    def __init__(self, farms: Mapping[str, Array], rng: np.random.Generator) -> None:
        """Take the farms' drawn parameters (``params.FARM_RANGES``), one array entry for each farm."""
        self._p = farms
        self._rng = rng
        self._n = len(farms["mean_cel"])
        start = rng.standard_normal((3, self._n))
        self._front, self._gust, self._moist = start[0] * farms["fronts_cel"], start[1] * GUST_CEL, start[2] * MOIST_CEL
        self.temperature = np.zeros(self._n)
        self.humidity = np.zeros(self._n)

    def advance(self, dt_s: float, day_of_year: float, hour: float) -> None:
        """Move ``dt_s`` seconds on, to an hour of a day of the year."""
        p, noise = self._p, self._rng.standard_normal((3, self._n))
        self._front = wander(self._front, dt_s, p["front_days"] * DAY_S, p["fronts_cel"], noise[0])
        self._gust = wander(self._gust, dt_s, GUST_S, GUST_CEL, noise[1])
        self._moist = wander(self._moist, dt_s, MOIST_S, MOIST_CEL, noise[2])
        season = -p["season_cel"] * np.cos(2 * np.pi * (day_of_year - p["coldest_day"]) / 365.25)
        mean = p["mean_cel"] + season + self._front
        # a moist day is a cloudy one: its swing is smaller
        depression = np.maximum(p["dew_depression_cel"] + self._moist, 0.3)
        swing = p["diurnal_cel"] * np.minimum(depression / p["dew_depression_cel"], 1.5)
        self.temperature = mean + swing * np.cos(2 * np.pi * (hour - WARMEST_HOUR) / 24) + self._gust
        dew = np.minimum(mean - depression, self.temperature)
        self.humidity = limit(100 * saturation_pa(dew) / saturation_pa(self.temperature), 15, 100)
