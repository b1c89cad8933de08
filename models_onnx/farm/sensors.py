"""What the sensors make of the truth: lag, bias, noise, resolution, gaps, faults; meters, silo and bird scale.

The house computer goes by the temperature and the humidity inside: by means over a few sensors, of which one is told. A
fault there misleads it by that part (``misread``), and the house goes the other way. All other faults deceive only who
reads.

Sources, with the numbers of docs/sources.md: S11 DOL 114 (temperature T63 6 min, +-0.5 Cel, +-2 %RH), S14 DOL 53 (NH3:
0.5 ppm steps, T50 < 30 s, 10 %), S30/S33/S68 bird scales. "Real" figures were measured on commercial flocks [F1].
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from models_onnx.farm.arithmetic import limit, wander
from models_onnx.farm.faults import Misread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from models_onnx.farm.faults import SensorFault

    Array = NDArray[np.float64]

DAY_S = 86_400.0

# order is the order of the columns in a step, in messages and in files
SIGNALS = (
    "temperature", "humidity", "co2", "ammonia", "ventilation", "heating", "water", "feed", "silo", "weight",
    "weight_count", "weight_sd", "dead", "culled", "light", "pressure", "outside_temperature", "outside_humidity",
)  # fmt: skip
BY_PEOPLE = frozenset({"dead", "culled"})  # told on rounds, not measured
AMOUNTS = frozenset({"water", "feed"})  # increments: what a gap swallowed comes with the next reading

# what the house computer goes by, and from where to where it takes a sensor's word; beyond, and where there is none, it
# keeps the last value [S7b]; assumed: what such a sensor can measure
CONTROLS = {"temperature": (-40.0, 60.0), "humidity": (0.0, 100.0)}

TEMPERATURE_LAG_S = 360.0  # DOL 114, T63 [S11]
GAP_MEDIAN_S, GAP_SPREAD = 2400.0, 1.2  # dropouts: median 40 min, a few over 10 h; real: 26 over 2 h in one bad flock
GATEWAY_GAPS = 0.15  # of the rate of one sensor: all sensors of the house at once; a real one lasted 26 h
FRESH_AIR_PPM = 400.0  # a sensor set right never shows less
POOR_ZERO_SHARE, COARSE_SHARE = 0.08, 0.15  # of the houses; one real house showed less in 58 % of its readings [F1]
# sensors that a house does not have, as shares of the houses; sizes assumed: real flocks lack whole sensors [F1]
ABSENT = {
    "ammonia": 0.6, "co2": 0.4, "light": 0.5, "outside_humidity": 0.4, "pressure": 0.3, "weight": 0.3, "silo": 0.2,
    "heating": 0.2, "ventilation": 0.1, "feed": 0.1, "humidity": 0.05, "outside_temperature": 0.05, "water": 0.02,
}  # fmt: skip
OF_SCALE = ("weight", "weight_count", "weight_sd")
# troubles of a meter, a day: in half of them it tells an absurd amount, of so many powers of ten, in half it begins at
# 0 again, and what came since the last reading is never told; assumed. Real: a day of 35 l/kg, one of 10^7 kWh [F1]
METER_TROUBLES, SPIKE_POWERS = 0.01, (2.0, 7.0)
DRAUGHT_S = 1800.0  # how long a draught lasts at the temperature sensor; assumed

# what a fault of severity 1 does; our judgement: S14 promises much less, and sensors are kept for longer than promised
DRIFT = {"temperature": 6.0, "humidity": 30.0, "co2": 1500.0, "ammonia": 20.0, "pressure": 15.0}
DRIFT_SHARE = 0.4  # of the reading, for all others
NOISE = {"temperature": 2.5, "humidity": 10.0, "co2": 500.0, "ammonia": 6.0, "pressure": 10.0}
NOISE_SHARE = 0.15
FOULED_SLOW_S, FOULED_DULL = 3 * 3600.0, 0.6  # how slow it becomes, and how much of the reading is lost

SCALE_MEMORY_S = 12 * 3600.0  # a running mean over a day lags half a day
SCALE_DAYS = 1.1  # how long the scale's daily error lasts: real sd of the day-to-day change is that of the level
SCALE_OUTLIER, SCALE_OUTLIER_SD = 0.03, 0.27  # share of days, and jump of their mean; real: > 250 g on 1.4 % of days
LATE_NARROW = 0.15  # without the heavy birds the spread that it shows is smaller; assumed
LATE_FROM_DAY, LATE_FULL_DAY = 28.0, 40.0  # heavy birds stay away [S30]; days assumed from S68
SHY_FROM_DAY = 28.0  # and the visits themselves become fewer; assumed


class Gaps:
    """Sensors that say nothing for a while: each for itself, or all of a house with its gateway."""

    def __init__(self, rate: Array, signals: int, rng: np.random.Generator) -> None:
        """Make them for ``signals`` sensors in each house; ``rate`` is dropouts per sensor and day."""
        self._rate = np.tile(rate, (signals + 1, 1))
        self._rate[-1] *= GATEWAY_GAPS
        self._rng = rng
        self._until = np.zeros((signals + 1, len(rate)), np.int64)  # the last row is the gateway

    def advance(self, dt_s: float, at_ms: int) -> NDArray[np.bool_]:
        """Return which sensors are silent at ``at_ms``, as [signals, houses]."""
        begins = self._rng.random(self._until.shape) < self._rate * (dt_s / DAY_S)
        if begins.any():
            lasts = GAP_MEDIAN_S * np.exp(GAP_SPREAD * self._rng.standard_normal(int(begins.sum())))
            self._until[begins] = at_ms + (lasts * 1000).astype(np.int64)
        silent = self._until > at_ms
        return np.asarray(silent[:-1] | silent[-1], np.bool_)


class Scale:
    """The automatic bird scale: a running mean of the birds that step on it, not of the birds."""

    def __init__(self, houses: Mapping[str, Array], rng: np.random.Generator) -> None:
        """Take the houses' parameters (``params.HOUSE_RANGES``)."""
        n = len(houses["scale_bias"])
        self._p = houses
        self._rng = rng
        self._error = np.zeros(n)
        self._odd, self._odd_until = np.zeros(n), np.zeros(n)
        self._sum, self._n = np.zeros(n), np.zeros(n)
        self._dirt = np.zeros(n)  # g, litter on it

    def advance(
        self, dt_s: float, *, age: Array, weight: Array, spread: Array, alive: Array, activity: Array, dirt: Array
    ) -> tuple[Array, Array, Array]:
        """Return mean and spread of the last day, g, and the number of weighings; NaN where nothing was weighed.

        ``spread`` is that of the true weights, ``dirt`` what lies on the scale beside the usual, g.
        """
        p = self._p
        normal, (uniform, wipe) = self._rng.standard_normal((4, len(age))), self._rng.random((2, len(age)))
        wiped = (wipe < dt_s / DAY_S / p["scale_wiped_days"]) | (alive <= 0)
        self._dirt = np.where(wiped, 0.0, self._dirt + p["scale_dirt_g_day"] * (dt_s / DAY_S))
        self._error = wander(self._error, dt_s, SCALE_DAYS * DAY_S, p["scale_noise"], normal[0])
        self._odd_until = np.maximum(self._odd_until - dt_s, 0)
        begins = uniform < SCALE_OUTLIER * dt_s / DAY_S
        self._odd_until = np.where(begins, DAY_S, self._odd_until)
        self._odd = np.where(begins, SCALE_OUTLIER_SD * normal[1], np.where(self._odd_until > 0, self._odd, 0.0))
        late = limit((age - LATE_FROM_DAY) / (LATE_FULL_DAY - LATE_FROM_DAY), 0, 1.3)
        shown = weight * (
            1 + p["scale_bias"] + self._error + self._odd - p["scale_late_bias"] * late + p["scale_pairs"]
        )
        shown = shown + self._dirt + dirt
        # chicks learn to jump on it in the first days, heavy birds stop; assumed
        eager = limit(age / 4, 0.1, 1) * limit(1 - 0.05 * np.maximum(age - SHY_FROM_DAY, 0), 0.25, 1)
        visits = np.where(activity > 1, p["scale_visits"] * 3, p["scale_visits"] * 0.3) / 2
        weighed = alive * visits * eager * dt_s / DAY_S / 10  # one scale serves about a tenth of the house; assumed
        weighed = np.maximum(weighed + np.sqrt(weighed) * normal[2], 0)
        keep = np.where(alive > 0, math.exp(-dt_s / SCALE_MEMORY_S), 0.0)
        self._sum = self._sum * keep + shown * weighed
        self._n = self._n * keep + weighed
        count = np.floor(self._n * DAY_S / SCALE_MEMORY_S)
        mean = np.divide(self._sum, self._n, out=np.full(len(age), np.nan), where=(count > 0) & (self._n > 0))
        none = np.isnan(mean)
        sd = np.sqrt((spread * (1 - LATE_NARROW * late)) ** 2 + p["scale_pairs"] * weight * weight)
        sd = sd * (1 + 0.04 * normal[3])
        return np.rint(mean), np.where(none, np.nan, np.rint(sd)), np.where(none, np.nan, count)


class Sensors:
    """All sensors of all houses: truth in, readings out, NaN where there is none."""

    def __init__(
        self, houses: Mapping[str, Array], rng: np.random.Generator, *, gaps: bool, field: bool = False
    ) -> None:
        """Take the houses' parameters (``params.HOUSE_RANGES``).

        Without ``gaps`` no sensor is ever silent that is there; in the ``field`` some are not (``ABSENT``), and meters
        jump.
        """
        n = len(houses["capacity"])
        self._p = houses
        self._rng = rng
        rate = houses["gap_rate"] if gaps else np.zeros(n)
        gap_rng, scale_rng, fault_rng, self._field_rng = rng.spawn(4)
        self._field, self._absent = field, np.zeros((len(SIGNALS), n), np.bool_)
        if field:
            for name, chance in zip(ABSENT, self._field_rng.random((len(ABSENT), n)), strict=True):
                for one in OF_SCALE if name == "weight" else (name,):
                    self._absent[SIGNALS.index(one)] = chance < ABSENT[name]
        self._gaps = Gaps(rate, len(SIGNALS), gap_rng)
        self._scale = Scale(houses, scale_rng)
        self._draught = np.zeros(n)
        self._shown = np.full(n, np.nan)  # the temperature that the lagging sensor has reached
        self._pulse = np.where(houses["litres_per_pulse"] < 0.5, 1.0, 10.0)
        self._batch = np.rint(houses["feed_batch_kg"])
        self._meter = {"water": np.zeros(n), "feed": np.zeros(n)}  # what went through and was not told yet
        self._last = np.full((len(SIGNALS), n), np.nan)
        self._slow: dict[tuple[int, int], float] = {}  # what a fouled sensor has reached, by signal and house
        self.misread: dict[str, Misread] = {}  # what the last readings make the house computers believe, where not true
        self._kept: dict[tuple[int, int], float] = {}  # what they last took from a faulty sensor, by signal and house
        self._fault_rng = fault_rng
        coarse = houses["coarse"] < COARSE_SHARE
        self._cel_steps, self._nh3_steps = np.where(coarse, 1.0, 10.0), np.where(coarse, 1.0, 2.0)  # of one unit
        self._co2_zero = np.where(houses["co2_zero_poor"] < POOR_ZERO_SHARE, houses["co2_zero"], 0.0)
        self._co2_least = np.where(self._co2_zero < 0, 0.0, FRESH_AIR_PPM)

    def read(
        self, dt_s: float, at_ms: int, truth: Mapping[str, Array], faults: Iterable[SensorFault]
    ) -> NDArray[np.float64]:
        """Return the readings at ``at_ms``, ``dt_s`` seconds after the last ones, as [signals, houses].

        ``truth`` holds every signal of ``SIGNALS`` but the scale's, the amounts ``water`` and ``feed`` since the last
        step, and ``age``, ``true_weight``, ``spread``, ``alive``, ``activity`` and ``dirt`` for the scale.
        """
        p, n = self._p, len(self._shown)
        noise = self._rng.standard_normal((9, n))
        truth_cel = truth["temperature"]
        keep = math.exp(-dt_s / TEMPERATURE_LAG_S)
        self._shown = np.where(np.isnan(self._shown), truth_cel, truth_cel + (self._shown - truth_cel) * keep)
        self._draught = wander(self._draught, dt_s, DRAUGHT_S, p["draught_cel"], noise[8])
        weight, weight_sd, count = self._scale.advance(
            dt_s,
            age=truth["age"],
            weight=truth["true_weight"],
            spread=truth["spread"],
            alive=truth["alive"],
            activity=truth["activity"],
            dirt=truth["dirt"],
        )
        co2 = truth["co2"] * p["co2_gain"] + self._co2_zero + p["co2_noise"] * noise[2]
        co2 = np.maximum(co2, self._co2_least)
        nh3 = np.maximum(truth["ammonia"] * p["nh3_gain"] + p["nh3_bias"] + 0.4 * noise[3], 0)
        light = np.where(truth["light"] > 0.5, truth["light"] * (1 + 0.02 * noise[4]), truth["light"])
        outside = truth["outside_temperature"]
        readings = {
            "temperature": _in_steps(
                self._shown + self._draught + p["temperature_bias"] + 0.08 * noise[0], self._cel_steps
            ),
            "humidity": np.rint(limit(truth["humidity"] + p["humidity_bias"] + 0.7 * noise[1], 1, 100)),
            "co2": np.rint(co2 / 10) * 10,
            "ammonia": _in_steps(nh3, self._nh3_steps),
            "ventilation": np.rint(truth["ventilation"] * 100),
            "heating": np.rint(truth["heating"] * 100),
            "water": self._amount("water", truth["water"] * p["water_gain"], self._pulse),
            "feed": self._amount("feed", truth["feed"] * p["feed_gain"], self._batch),
            "silo": np.rint((truth["silo"] + 15 * noise[5]) / 10) * 10,
            "weight": weight,
            "weight_count": count,
            "weight_sd": weight_sd,
            "dead": truth["dead"],
            "culled": truth["culled"],
            "light": _tenths(light),
            "pressure": _tenths(truth["pressure"] + p["pressure_noise_pa"] * noise[7]),
            "outside_temperature": _tenths(outside + 0.1 * noise[6]),
            "outside_humidity": np.rint(truth["outside_humidity"]),
        }
        silent = self._gaps.advance(dt_s, at_ms)
        for name in BY_PEOPLE:
            silent[SIGNALS.index(name)] = False
        for name in OF_SCALE[1:]:
            silent[SIGNALS.index(name)] = silent[SIGNALS.index("weight")]
        for name in AMOUNTS:
            self._meter[name] -= np.where(silent[SIGNALS.index(name)], 0.0, readings[name])
        if self._field:
            self._trouble(dt_s, readings)
        values = np.array([readings[name] for name in SIGNALS])
        chance = self._fault_rng.random((2, n))  # at every step, whether there is a fault or not
        kept: dict[tuple[int, int], float] = {}
        self.misread = {}
        for fault in faults:
            i, house = SIGNALS.index(fault.signal), fault.house
            if self._absent[i, house]:
                continue
            usual = float(values[i, house])
            values[i, house] = shown = self._faulty(fault, i, usual, dt_s, chance[:, house])
            if fault.signal in CONTROLS:
                kept[i, house] = self._mislead(fault, i, usual, shown)
        self._kept = kept
        told = np.where(silent | self._absent, np.nan, values)
        self._last = np.where(np.isnan(told), self._last, told)
        return told

    def _mislead(self, fault: SensorFault, signal: int, usual: float, shown: float) -> float:
        """Add to ``misread`` what ``shown`` instead of ``usual`` does; return what the computer takes of it."""
        house, share = fault.house, self._p["sensor_rules"][fault.house]
        ones, zeros = np.ones(len(self._shown)), np.zeros(len(self._shown))
        misread = self.misread.setdefault(fault.signal, Misread(ones, zeros))
        low, high = CONTROLS[fault.signal]
        if low <= shown <= high and fault.name != "sensor_stuck":
            misread.adds[house] += share * (shown - usual)
            return shown
        kept = self._kept.get((signal, house), float(self._last[signal, house]))
        if not math.isnan(kept):
            misread.keeps[house] = 1 - share
            misread.adds[house] = share * (kept - self._p[f"{fault.signal}_bias"][house])
        return kept

    def _faulty(self, fault: SensorFault, signal: int, value: float, dt_s: float, chance: Array) -> float:
        """Return what a faulty sensor shows instead of ``value``; NaN where it shows nothing."""
        match fault.name:
            case "sensor_stuck":
                return float(self._last[signal, fault.house])
            case "sensor_dropout":
                return math.nan if chance[0] < fault.size else value
            case "sensor_scale":
                return value * 10 if fault.shape < 0.5 else round(value / 10, 2)
            case "sensor_drift":
                way = 1 if fault.shape < 0.5 else -1
                most = DRIFT.get(fault.signal, DRIFT_SHARE * value)
                return _shown(fault.signal, value + way * fault.size * most)
            case "sensor_noise":
                most = NOISE.get(fault.signal, NOISE_SHARE * value)
                # of the same spread as a normal one, from one number between 0 and 1
                return _shown(fault.signal, value + fault.size * most * (chance[1] - 0.5) * 12**0.5)
            case _:  # sensor_fouled
                key = signal, fault.house
                keep = math.exp(-dt_s / max(FOULED_SLOW_S * fault.size, 1.0))
                before = self._slow.get(key, value)
                if math.isnan(before):
                    before = value
                self._slow[key] = value + (before - value) * keep
                return _shown(fault.signal, self._slow[key] * (1 - FOULED_DULL * fault.size))

    def _trouble(self, dt_s: float, readings: dict[str, Array]) -> None:
        """Let meters jump or begin at 0 again."""
        chance = self._field_rng.random((len(AMOUNTS), 2, len(self._shown)))
        low, high = SPIKE_POWERS
        for name, (begins, size) in zip(sorted(AMOUNTS), chance, strict=True):
            absurd = readings[name] + np.rint(10 ** (low + (high - low) * 2 * size))
            told = np.where(size < 0.5, absurd, np.nan)
            readings[name] = np.where(begins < METER_TROUBLES * dt_s / DAY_S, told, readings[name])

    def _amount(self, name: str, flow: Array, unit: Array) -> Array:
        """Return whole pulses or batches of what has gone through since the last reading told."""
        self._meter[name] = self._meter[name] + flow
        return np.asarray(np.floor(self._meter[name] / unit) * unit, np.float64)


def _shown(signal: str, value: float) -> float:
    """Return a value as the sensor would show it: in its steps, and only what it can show."""
    if signal == "pressure":
        return round(value, 1)
    if signal == "humidity":
        return float(min(max(round(value), 1), 100))
    return max(round(value, 1), 0.0)


def _in_steps(value: Array, steps: Array) -> Array:
    return np.asarray(np.rint(value * steps) / steps, np.float64)


def _tenths(value: Array) -> Array:
    return np.asarray(np.rint(value * 10) / 10, np.float64)
