"""The birds: light and behaviour, intake, growth and death, of all houses at once.

Rates are per bird and day unless they say otherwise; every array has one entry for each house. A house without
birds has ``alive`` 0 and nothing flows.

What ails them comes as the effects of ``faults`` (``effects`` below: intake, thirst, gain, lag, ill, deaths).

Sources, with the numbers of docs/sources.md: see ``params``; [S71] coccidiosis, [S47]/[S48] water and heat, [S64]
mortality by age, [S16b] ammonia, [S72]/[S74] heat, [S66] the spread of weights. "assumed" is our judgement, as there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent.strains import STRAINS
from models_onnx.farm.arithmetic import limit, wander

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models_onnx.farm.flocks import FlockPlan

    Array = NDArray[np.float64]

DAY_S = 86_400.0
HOUR_S = 3_600.0

STRAIN_NAMES = tuple(STRAINS)
AGE_LIMIT_DAYS = 70  # the tables end at day 56; beyond, a flock grows on as on its last day
SEX_GROWTH = {
    "mixed": 1.0,
    "male": 1.08,
    "female": 0.92,
}  # males 17 % above females at 42 d in breeders' tables; assumed

BAD_DAY_SHARE, SLOW_RISE_SHARE = 0.2, 0.25  # of the flocks; assumed

FIRST_NIGHTS_H = 1.0  # dark hours in the first week: common practice, the law allows it [S55]
NIGHT_FROM_DAY = 7  # from then on at least 6 h of dark [S55]
DAWN_MIN = 15  # dimming; assumed
# a night in two parts, of houses below that share: 4 h at a stretch are the law [S55], so of 6 h two thirds; assumed
SPLIT_SHARE, SPLIT_FROM_H, SPLIT_AFTER, SPLIT_H = 0.3, 5.0, 2 / 3, 2.0
MORNING_H, EVENING_H = 0.8, 1.2  # how long the meals after lights-on and before lights-off last; assumed
DARK_ACTIVITY = 0.75  # heat in the dark as a share of that in the light; CIGR gives a day's wave; size assumed

INTAKE_TO_GAIN = (
    2.1  # 5 days after infection intake is 19.0 % and gain 39.8 % down [S71]: a point of intake, 2.1 of gain
)
DEATHS_LAG_S = 1.5 * DAY_S  # the dead follow the sick; assumed
HEAT_DEATHS, HEAT_DEATHS_K = 2.74, 6.0  # odds of 3.74 under heat stress [S72]; in full at so many K too warm, assumed
CATCH_UP_S = 6 * HOUR_S  # how quickly a missed meal is made up: "dips rebound the next day" [S48]
CATCH_UP_MOST = 0.5  # but at most this much faster than usual; assumed
FORGET_S = DAY_S  # what was missed longer ago is not made up; assumed
CROP_S = 12 * HOUR_S  # growth follows the intake of about half a day; assumed

DIMORPHISM, DIMORPHISM_DAY = 0.08, 42.0  # half the distance of the sexes in mixed flocks, grown by then, as below
CV_DAY = 35.0  # the spread goes from its first to its last value by then; assumed
RAGGED = 0.03  # what ten days of a disease that costs a fifth of the intake add to the spread; assumed
_MORTALITY_DAYS = (0, 1, 2, 3, 4, 5, 6, 7, 9.5, 30, 45, 56, 70)
# % a day: peak on days 3 to 4, low from day 9, flat to 30, slowly up to 45, then faster [S64, shape]; the first week
# sums to 1.2 % (1.30 to 1.42 % in Taiwan [S63]) and 35 days to 2.6 % (2.0 to 6.2 % in European flocks [S42])
_MORTALITY_PCT = (0.10, 0.15, 0.20, 0.25, 0.24, 0.17, 0.12, 0.09, 0.05, 0.05, 0.11, 0.20, 0.35)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the birds want and do in one step, before anything is short; per bird and day, at this moment."""

    lit: Array  # 0 in the dark, 1 in the light, between at dawn and dusk
    activity: Array  # of the heat given off: mean 1 over the day
    usual: Array  # feed that the breed, the size and the hour ask for, g
    feed: Array  # feed wanted: usual, by climate, health, thirst and what was missed, g
    water: Array  # wanted, ml
    rebound: Array  # what of the feed makes up for missed meals, g
    make_up: Array  # and of the water, ml
    gain: Array  # g, if nothing is short
    cold: Array  # degrees below comfort
    hot: Array  # and above


class Tables:
    """The breed curves by the hour, one row for each strain."""

    def __init__(self) -> None:
        """Make them from ``agent.strains``."""
        hours = np.arange(AGE_LIMIT_DAYS * 24) / 24 + 0.5 / 24
        self.weight = np.array([_weight(STRAINS[name].weight_g, hours) for name in STRAIN_NAMES])
        self.gain = np.array([_rate(np.diff(STRAINS[name].weight_g), hours) for name in STRAIN_NAMES])
        self.feed = np.array([_rate(np.array(STRAINS[name].feed_g[1:]), hours) for name in STRAIN_NAMES])
        self.first_weight = np.array([STRAINS[name].weight_g[0] for name in STRAIN_NAMES], np.float64)
        self.mortality = np.interp(hours, _MORTALITY_DAYS, _MORTALITY_PCT) / 100


def _rate(of_day: NDArray[np.int64], days: Array) -> Array:
    """Return a daily rate at each moment: entry i is the amount between day i and i + 1, so its middle is i + 0.5."""
    return np.asarray(np.interp(days, np.arange(len(of_day)) + 0.5, of_day), np.float64)


def _weight(weight_g: tuple[int, ...], days: Array) -> Array:
    table = np.array(weight_g, np.float64)
    beyond = np.maximum(days - (len(table) - 1), 0) * (table[-1] - table[-2])
    return np.asarray(np.interp(days, np.arange(len(table)), table) + beyond, np.float64)


class Birds:
    """The flocks in the houses; ``p`` below are the houses' drawn parameters (``params.HOUSE_RANGES``)."""

    def __init__(self, houses: Mapping[str, Array], rng: np.random.Generator) -> None:
        """Make ``n`` empty houses."""
        n = len(houses["capacity"])
        self._p = houses
        self._rng = rng
        self._tables = Tables()
        # what the flocks are like
        self.placed_ms = np.zeros(n, np.int64)
        self._end_ms = np.zeros(n, np.int64)
        self._strain = np.zeros(n, np.intp)
        self._growth, self._slope, self._wander_sd = np.ones(n), np.zeros(n), np.zeros(n)
        self._excess, self._mortality, self._chicks = np.ones(n), np.ones(n), np.zeros(n)
        self._bad_age, self._bad_deaths = np.full(n, np.inf), np.zeros(n)  # the one bad day of the flock
        self._rise_age, self._rise = np.full(n, np.inf), np.zeros(n)  # the slow rise of its deaths
        self._cv_first, self._cv_last, self._mixed = np.full(n, 0.08), np.full(n, 0.08), np.ones(n)
        # how they are
        self.alive = np.zeros(n)  # birds, in expectation: not whole
        self.weight = np.full(n, 44.0)  # g, the true mean
        self.age = np.zeros(n)  # days since placement
        self.fasting = np.zeros(n, bool)  # the feed was withdrawn by people
        self.unreported = np.zeros(n)  # died since the farmer's last round, in expectation
        self._hunger, self._thirst = np.zeros(n), np.zeros(n)  # missed and not yet made up: g, ml
        self._eaten, self._due = np.zeros(n), np.zeros(n)  # of about half a day, g a day: what growth follows
        self._watered = np.ones(n)  # share of the wanted water of the last hours
        self._fed = np.ones(n)  # the same for feed
        self._dying = np.zeros(n)  # die of a disease, a day, behind it
        self._ragged = np.zeros(n)  # what diseases have added to the spread
        # how they vary
        self._wander, self._mood, self._water_mood, self._uneven = (np.zeros(n) for _ in range(4))

    def place(self, plan: FlockPlan) -> None:
        """Put a flock into its house."""
        i, traits = plan.house, plan.traits
        self.placed_ms[i], self._end_ms[i] = plan.placed_ms, plan.catch_ms
        self._strain[i] = STRAIN_NAMES.index(plan.strain)
        self._growth[i] = (self._p["house_growth"][i] + traits["flock_growth"]) * SEX_GROWTH[plan.sex]
        self._slope[i], self._wander_sd[i] = traits["growth_slope"], traits["growth_wander"]
        self._excess[i], self._mortality[i] = traits["feed_excess"], np.exp(traits["mortality"])
        self._chicks[i] = traits["chicks"]
        self._bad_age[i] = traits["bad_day_age"] if traits["bad_day"] < BAD_DAY_SHARE else np.inf
        self._bad_deaths[i] = traits["bad_day_deaths"]
        self._rise_age[i] = traits["slow_rise_age"] if traits["slow_rise"] < SLOW_RISE_SHARE else np.inf
        self._rise[i] = traits["slow_rise_times"]
        self._cv_first[i], self._cv_last[i] = traits["cv_first"], traits["cv_last"]
        self._mixed[i], self._ragged[i] = float(plan.sex == "mixed"), 0.0
        self.alive[i] = plan.birds_placed
        first = self._tables.first_weight[self._strain[i]]
        self.weight[i] = first * chick_size(plan.parent_age_weeks)
        self.age[i], self.fasting[i], self.unreported[i] = 0.0, False, 0.0
        self._hunger[i] = self._thirst[i] = self._dying[i] = 0.0
        self._watered[i] = self._fed[i] = 1.0
        self._eaten[i] = self._due[i] = self._tables.feed[self._strain[i], 0]

    def remove(self, house: int, share: float) -> int:
        """Take ``share`` of the living birds out of a house; return how many."""
        birds = round(float(self.alive[house]) * share)
        self.alive[house] = 0.0 if share >= 1 else self.alive[house] - birds
        return birds

    @property
    def weight_sd(self) -> Array:
        """The spread of the birds' true weights, g: within a sex, and in mixed flocks between the two [S66]."""
        within = self._cv_first + (self._cv_last - self._cv_first) * np.minimum(self.age / CV_DAY, 1) + self._ragged
        between = DIMORPHISM * self._mixed * np.minimum(self.age / DIMORPHISM_DAY, 1)
        return np.asarray(self.weight * np.sqrt(within**2 + between**2), np.float64)

    def behave(
        self, dt_s: float, at_ms: int, hour: Array, felt: Array, set_point: Array, effects: Mapping[str, Array]
    ) -> Behaviour:
        """Return what the birds want in the ``dt_s`` seconds up to ``at_ms``.

        ``hour`` is that of the house computer's clock, ``felt`` the temperature as they feel it.
        """
        p = self._p
        self.age = np.where(self.alive > 0, np.maximum(at_ms - self.placed_ms, 0) / (DAY_S * 1000), 0.0)
        noise = self._rng.standard_normal((5, len(self.age)))
        self._wander = wander(self._wander, dt_s, 5 * DAY_S, self._wander_sd, noise[0])
        self._mood = wander(self._mood, dt_s, 2400.0, p["restlessness"], noise[1])
        self._water_mood = wander(self._water_mood, dt_s, 1800.0, p["restlessness"] / 2, noise[2])
        self._uneven = wander(self._uneven, dt_s, DAY_S, p["deaths_uneven"], noise[3])
        meal = 1 + self._mood + 0.05 * noise[4]

        lit, activity, feeding, drinking = self._daily_shape(at_ms, hour)
        at = self._row()
        heavy = self.weight / self._tables.weight[at]  # against the breed's curve
        level = self._growth + self._slope * (self.age - 21) / 21 + self._wander
        # birds behind their own curve grow a little faster, by the root of the lag; assumed
        level = level * np.sqrt(limit(level / heavy, 0.8, 1.25)) * (1 - effects["lag"])
        # half of the feed is for maintenance, which goes with the metabolic weight, half for growth; assumed
        usual = self._tables.feed[at] * (0.5 * heavy**0.75 + 0.5 * level) * self._excess

        hot, cold = np.maximum(felt - set_point - 3, 0), np.maximum(set_point - 2 - felt, 0)
        # 1.5 % less for every degree too warm, twice that from 5 K on, 1 % more for one too cold; common rule, assumed
        climate = np.maximum(1 - 0.015 * hot - 0.015 * np.maximum(hot - 5, 0), 0.3) * (1 + 0.01 * np.minimum(cold, 10))
        # without water they stop eating within hours (r = .98 [S48]; size assumed)
        appetite = climate * (1 - effects["intake"]) * (0.2 + 0.8 * self._watered)
        rebound = np.minimum(self._hunger * (DAY_S / CATCH_UP_S), CATCH_UP_MOST * usual) * lit
        # 4 % more water for every degree too warm makes the 30 to 50 % of [S47] at 32 Cel; little before day 18 [S48]
        warm = 1 + 0.04 * limit((self.age - 10) / 8, 0.33, 1) * np.maximum(felt - set_point - 1, 0)
        ratio = p["water_ratio"] + 1.7 * np.exp(
            -self.age / 4
        )  # 3 l/kg at first, 2.3 over week 1 [S46], flat from week 3
        thirst = usual * climate * ratio * warm * (1 + effects["thirst"]) * (0.5 + 0.5 * self._fed)
        make_up = np.minimum(self._thirst * (DAY_S / CATCH_UP_S), CATCH_UP_MOST * usual * ratio) * lit
        return Behaviour(
            lit,
            activity,
            usual * feeding,
            np.maximum(usual * appetite * feeding * meal + rebound, 0),
            np.maximum(thirst * drinking * (meal + self._water_mood) + make_up, 0),
            rebound,
            make_up,
            self._tables.gain[at] * level,
            cold,
            hot,
        )

    def live(
        self,
        dt_s: float,
        did: Behaviour,
        *,
        feed: Array,
        water: Array,
        felt: Array,
        ammonia: Array,
        effects: Mapping[str, Array],
    ) -> None:
        """Let ``dt_s`` seconds pass in which they got ``feed`` (g per bird and day) and ``water`` (ml)."""
        step = dt_s / DAY_S
        forget = math.exp(-dt_s / FORGET_S)
        self._hunger = np.maximum(self._hunger + (did.feed - did.rebound - feed) * step, 0) * forget
        self._thirst = np.maximum(self._thirst + (did.water - did.make_up - water) * step, 0) * forget
        keep = math.exp(-dt_s / CROP_S)
        self._eaten = self._eaten * keep + feed * (1 - keep)
        self._due = self._due * keep + did.usual * (1 - keep)
        keep = math.exp(-dt_s / (3 * HOUR_S))
        self._watered = self._watered * keep + _share(water, did.water) * (1 - keep)
        self._fed = self._fed * keep + _share(feed, did.feed) * (1 - keep)
        keep = math.exp(-dt_s / DEATHS_LAG_S)
        self._dying = self._dying * keep + effects["ill"] * (1 - keep)
        self._ragged = self._ragged + RAGGED / 10 / 0.2 * step * effects["intake"]

        share = _share(self._eaten, self._due, 1.2)
        poison = np.maximum(1 - 0.0048 * np.maximum(ammonia - 14, 0), 0)  # 25 ppm: -5 %, 50 ppm: -17 % [S16b]
        chill = 1 - 0.015 * np.minimum(did.cold, 20)  # warmth instead of growth; assumed
        gain = did.gain * np.maximum(1 - INTAKE_TO_GAIN * (1 - share), -1) * poison * chill * (1 - effects["gain"])
        self.weight += np.where(self.alive > 0, gain * step, 0.0)
        self._die(step, did, felt, effects["deaths"])

    def _die(self, step: float, did: Behaviour, felt: Array, outbreak: Array) -> None:
        row = self._row()[1]
        age, uneven = self.age, self._p["deaths_uneven"]
        week = self._chicks * np.maximum(1 - age / 8, 0)
        usual = self._tables.mortality[row] * self._mortality * np.exp(self._uneven - uneven * uneven / 2 + week)
        usual = usual * (1 + 0.3 * np.where(age < 7, did.cold, 0))  # chilled chicks; assumed
        usual = usual * (1 + HEAT_DEATHS * np.minimum(did.hot / HEAT_DEATHS_K, 1))
        usual = usual * (1 + self._rise * limit((age - self._rise_age) / 10, 0, 1))
        bad = np.where((age >= self._bad_age) & (age < self._bad_age + 1), self._bad_deaths, 0.0)
        ill = self._dying + outbreak + bad
        dry = 0.01 * np.maximum(0.4 - self._watered, 0)  # a shut line costs up to 0.4 % a day; assumed
        # 20 to 30 min above 36 Cel in still air kill [S74]: from 35.5 on, 5 % an hour at 37, half of all at 39
        heat = 24 * 0.015 * limit(felt - 35.5, 0, 6) ** 3
        dead = self.alive * -np.expm1(-(usual + ill + dry + heat) * step)
        self.alive -= dead
        self.unreported += dead

    def _daily_shape(self, at_ms: int, hour: Array) -> tuple[Array, Array, Array, Array]:
        """Return light, activity, feeding and drinking at an hour; the last three have a mean of 1 over the day."""
        p = self._p
        last_days = (self._end_ms - at_ms) < 3 * DAY_S * 1000
        dark = np.where(self.age < NIGHT_FROM_DAY, FIRST_NIGHTS_H, np.where(last_days, p["last_dark_h"], p["dark_h"]))
        day = 24 - dark
        since_on = np.mod(hour - p["lights_on_h"], 24)
        # a night in two parts: an hour or two of its light comes in the dark, after two thirds of it
        woken = np.where((p["night_split"] < SPLIT_SHARE) & (dark >= SPLIT_FROM_H), SPLIT_H, 0.0)
        to_off = day - woken - since_on
        since_woken = -to_off - dark * SPLIT_AFTER
        to_sleep = woken - since_woken
        is_day = (to_off > 0) | ((since_woken > 0) & (to_sleep > 0))
        dawn = DAWN_MIN / 60
        edge = np.where(to_off > 0, np.minimum(since_on, to_off), np.minimum(since_woken, to_sleep))
        lit = np.where(is_day, np.minimum(edge / dawn, 1), 0)
        activity = np.where(is_day, 1.0, DARK_ACTIVITY) * 24 / (day + DARK_ACTIVITY * dark)
        # the peaks grow with the length of the night: chicks in almost constant light have none
        morning, evening = p["morning_peak"] * dark / 6, p["evening_peak"] * dark / 6
        peaks = morning * np.exp(-since_on / MORNING_H) + evening * np.exp(-np.maximum(to_off, 0) / EVENING_H)
        awake = np.where(is_day, 1 + np.where(to_off > 0, peaks, 0), 0)
        total = day + morning * MORNING_H + evening * EVENING_H  # the peaks are over long before the day is
        feeding = (awake + np.where(is_day, 0, p["night_feed"])) * 24 / (total + p["night_feed"] * dark)
        drinking = (awake + np.where(is_day, 0, p["night_water"])) * 24 / (total + p["night_water"] * dark)
        return lit, activity, feeding, drinking

    def _row(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return self._strain, np.minimum((self.age * 24).astype(np.intp), AGE_LIMIT_DAYS * 24 - 1)


def chick_size(parent_age_weeks: float) -> float:
    """Return a chick's weight against the table's: young hens lay small eggs (37 g at 26 weeks, 45 at 55; assumed)."""
    return min(0.84 + (parent_age_weeks - 26) * 0.0063, 1.05)


def _share(part: Array, whole: Array, most: float = 1.0) -> Array:
    """Return ``part / whole``, at most ``most``; 1 where there is no whole."""
    return np.minimum(np.divide(part, whole, out=np.ones_like(whole), where=whole > 0), most)
