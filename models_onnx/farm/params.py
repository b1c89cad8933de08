"""What differs between farms, houses and flocks, drawn from documented ranges.

Three sets of ranges: farms of ``train`` and ``validation`` come from the same ranges but are never the same farms;
those of ``test`` are partly another physics (other constants, another controller, another weigher, a climate more), and
have faults and courses of faults (``HELD_OUT_FAULTS``, ``SHAPES``), and nights in two parts, that no other set has, so
that a model which only learnt this simulator's habits shows it.

Sources: the S and F numbers are those of docs/sources.md (S32 SKOV Viper curves, S42 European flocks, S44/S45 water to
feed, S51 Aviagen 2018 minimum ventilation, S55 lighting law 2007/43/EC, S56/S57 house sizes, S60 CIGR 2002 and its
bias, S61 ammonia, S63 first week, S66 spread within a sex, S68 weigher correction, F1 commercial flocks and houses).
"assumed" is our judgement: no source gave it. A source is that of ``low`` and ``high``; how far ``test`` goes beyond is
assumed throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from agent.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Array = np.ndarray[tuple[int], np.dtype[np.float64]]
RangeSet = Literal["train", "validation", "test"]
RANGE_SETS: tuple[RangeSet, ...] = get_args(RangeSet)


@dataclass(frozen=True, slots=True)
class Range:
    """A uniform range; ``test`` replaces it for the farms of the final test, where it differs."""

    low: float
    high: float
    test: tuple[float, float] | None = None

    def of(self, ranges: RangeSet) -> tuple[float, float]:
        """Return the bounds in a range set."""
        return self.test if ranges == "test" and self.test is not None else (self.low, self.high)


HOUSE_RANGES: Mapping[str, Range] = {
    # the shell
    "capacity": Range(20_000, 50_000),  # birds [S56]
    "birds_per_m2": Range(16, 21, (14, 22)),  # about 33 to 42 kg/m2 at slaughter, 2007/43/EC [S53, S54]
    "height_m": Range(2.5, 3.5, (2.5, 4.5)),  # 3 m [S57]; spread assumed
    "u_w_m2k": Range(0.35, 0.9, (0.3, 1.4)),  # walls and roof together; assumed
    "mass_kj_m2k": Range(60, 160, (30, 200)),  # litter and floor that swing along, per m2; assumed
    "mass_w_m2k": Range(4, 9),  # between air and that mass; assumed
    # climate control
    "max_vent_m3h_bird": Range(5.0, 9.0, (4.0, 12.0)),  # about 2 to 4 m3/h per kg; assumed
    "min_vent_factor": Range(0.75, 1.25, (0.65, 1.5)),  # on Aviagen 2018 [S51]: farmers' settings, assumed
    "vent_integral_s": Range(360, 1080, (240, 1800)),  # how quickly the controller follows; assumed
    "humidity_gain": Range(0.0, 0.04, (0.0, 0.08)),  # more minimum ventilation per %RH above the set point; assumed
    "heater_w_m2": Range(80, 150, (60, 200)),  # assumed
    "direct_heating": Range(0, 1),  # below 0.35 the burners' gas goes into the house; assumed
    "set_point_mix": Range(0, 1),  # 0 = SKOV's curve [S32], 1 = a real house's [F2]
    "set_point_offset": Range(-1.0, 1.0, (-2.0, 2.0)),  # Cel; assumed
    # what the birds and the litter give off
    "heat_factor": Range(0.86, 1.02, (0.80, 1.08)),  # on CIGR 2002, which is 11.3 % above modern birds [S60]
    "co2_factor": Range(0.95, 1.05, (0.9, 1.15)),  # on Pedersen 2008 [S60]; CIGR's older 0.185 is 1.03
    "nh3_factor": Range(0.15, 0.8, (0.1, 1.3)),  # on [S61] (US litter): European litter is new each flock; assumed
    # light and behaviour
    "lights_on_h": Range(0.0, 24.0),  # hour of the day: people put the night where they like; assumed
    "dark_h": Range(6.0, 8.0, (4.0, 8.0)),  # from day 7: at least 6 h in all, 4 h at a stretch [S55]
    "last_dark_h": Range(1.0, 6.0),  # in the last 3 days the rule does not hold [S55]
    "lux": Range(20, 45, (20, 80)),  # at least 20 lux [S55]
    "morning_peak": Range(0.3, 1.0, (0.1, 1.6)),  # a sharp peak after lights-on, above the mean rate; assumed
    "evening_peak": Range(0.1, 0.6, (0.0, 1.0)),  # our judgement: a lower one before lights-off
    "night_feed": Range(0.02, 0.08),  # of the mean rate; assumed
    "night_water": Range(0.04, 0.15),  # our judgement: twice as much, a thirsty bird finds the nipple in the dark
    # l/kg after week 3: 1.6 to 1.8 [S44, S45], median of 56 flocks 1.90 [F1]
    "water_ratio": Range(1.65, 2.0, (1.55, 2.2)),
    "restlessness": Range(0.05, 0.12, (0.03, 0.2)),  # slow noise of intake within the day; assumed
    # level of the house, part of the flocks' growth (see FLOCK_RANGES)
    "house_growth": Range(0.93, 0.99, (0.90, 1.0)),  # our judgement: field flocks are below the objectives
    # meters, scale and sensors
    "litres_per_pulse": Range(0, 1),  # below 0.5: 1 l, else 10 l; assumed
    "feed_batch_kg": Range(1, 15),  # the auger's batch; assumed
    "water_gain": Range(0.97, 1.03),  # assumed
    "feed_gain": Range(0.97, 1.03, (0.92, 1.08)),  # our judgement: as the water meter; in test, scales never calibrated
    "scale_bias": Range(-0.04, 0.02, (-0.08, 0.05)),  # field scales read 0.93 +- 0.10 of the curve, with flocks [F1]
    "scale_noise": Range(0.015, 0.04, (0.01, 0.06)),  # of one day's mean; real day-to-day change 3.3 % [F1]
    "scale_late_bias": Range(0.03, 0.05, (0.01, 0.09)),  # by day 40: heavy birds stay away [S30, S33, S68]
    "scale_visits": Range(0.02, 0.12),  # weighings per bird and day in week 2; assumed
    "temperature_bias": Range(-0.4, 0.4),  # DOL 114: within 0.5 Cel [S11]
    "humidity_bias": Range(-2.0, 2.0),  # DOL 114: within 2 %RH [S11]
    "co2_gain": Range(0.97, 1.03, (0.93, 1.07)),  # assumed
    "co2_noise": Range(8, 25),  # ppm; assumed
    "nh3_gain": Range(0.9, 1.1),  # DOL 53: 10 % of reading [S14]
    "nh3_bias": Range(-0.7, 0.7),  # DOL 53: within 1.5 ppm [S14]; the worst are rare, assumed
    "round_h": Range(7.5, 8.6),  # our judgement: when the farmer tells yesterday's dead, after the morning round
    "gap_rate": Range(0.0, 0.02, (0.0, 0.06)),  # dropouts per sensor and day; assumed: real farms vary widely [F1]
    # air and cooling
    "pressure_pa": Range(8, 22, (5, 35)),  # below outside, as the computer holds it with the inlets; assumed
    "fouling": Range(0.0, 0.08, (0.0, 0.2)),  # of the fans' flow by day 42: dust, until the wash; assumed
    "cooling": Range(0, 1),  # cooled by water where below its climate's share (``COOLED``)
    "cooling_effect": Range(0.55, 0.8, (0.4, 0.9)),  # of what the air could take up: fogging to pads; assumed
    "cooling_from_k": Range(3.0, 5.0, (2.0, 6.0)),  # above the set point; assumed
    # who counts the dead, and how (``deaths``); our judgement but for what they were fitted to, [F1]
    "deaths_uneven": Range(0.08, 0.22, (0.08, 0.35)),  # log sd of one day's mortality around its pattern
    "weekend_found": Range(0.8, 1.0, (0.5, 1.0)),  # of the dead on a quicker Sunday round; the rest on Monday
    "late_rate": Range(0.0, 0.015, (0.0, 0.05)),  # of the days that are told one day late, with the next
    "cull_share": Range(0.0, 0.2, (0.0, 0.4)),  # of the losses that people cull, below 0.1 none: told as dead
    "cull_days": Range(1, 4, (1, 7)),  # between culling rounds
    # the scale and the sensors
    "scale_pairs": Range(0.0, 0.004, (0.0, 0.01)),  # weighings of two birds at once that its filter lets through
    "scale_dirt_g_day": Range(0.0, 2.0, (0.0, 5.0)),  # litter that stays on it, until wiped; assumed
    "scale_wiped_days": Range(4, 15),  # how often that is, in the mean; assumed
    # real: 0.65 K [F1] and 4.1 to 4.6 Pa [F1] from one hour to the next, of which the house's own swings are a part
    "draught_cel": Range(0.03, 0.3, (0.03, 0.6)),  # at the temperature sensor; assumed
    "pressure_noise_pa": Range(1.0, 4.5, (1.0, 6.0)),  # wind on the walls; assumed
    # part of the told sensor in what the house computer goes by, the mean of one to two (three) sensors
    "sensor_rules": Range(0.5, 1.0, (0.3, 1.0)),  # assumed
    "co2_zero_poor": Range(0, 1),  # below 0.08 the zero is wrong: below 400 ppm, in one real house in 58 % of readings
    "co2_zero": Range(-300, -60),  # ppm, there; size assumed
    "stages": Range(0, 1),  # below 0.3 fans go in stages and heaters on and off: another house computer; assumed
    "coarse": Range(0, 1),  # below 0.15 temperature and NH3 come in whole numbers, as from a real house [F1]
    "fan_stages": Range(6, 16, (3, 24)),  # of that other house computer; assumed
    "heater_band_k": Range(0.2, 0.8, (0.1, 1.5)),  # above and below, where its heaters go off and on; assumed
    # below 0.3 the night comes in two parts: at least 4 of the 6 h must be at a stretch [S55], not the others
    "night_split": Range(1.0, 1.0, (0, 1)),
}

FLOCK_RANGES: Mapping[str, Range] = {
    # genetics and management: growth = house_growth + flock_growth, 0.88 to 1.04 of the breed's curve; our judgement:
    # objectives are reached "under good management", field scales show 0.93 +- 0.10 of the curve [F1]
    "flock_growth": Range(-0.05, 0.05, (-0.07, 0.06)),
    "growth_slope": Range(-0.02, 0.02, (-0.04, 0.04)),  # change of that level in three weeks; assumed
    "growth_wander": Range(0.01, 0.03),  # sd of the gain's slow variation; assumed
    "feed_excess": Range(1.0, 1.08, (0.98, 1.14)),  # eaten above the table for the same gain: FCR 1.33 to 1.43 [S42]
    "mortality": Range(-0.5, 0.5, (-0.9, 0.9)),  # log of the factor on the age pattern: 2.0 to 6.2 % in all [S42]
    "length_days": Range(34, 43, (31, 50)),  # European cycles 36 to 42 d [S57], 31 to 32 d [S42]
    "fill": Range(0.94, 1.0),  # our judgement: of the house's capacity; houses are filled, less what a hatch lacks
    "parent_age_weeks": Range(26, 60),  # our judgement: about when hens of broiler breeders lay
    "strain": Range(0, 1),  # below 0.7 Ross 308, else Cobb 500; assumed
    "sex": Range(0, 1),  # below 0.86 mixed, then male, then female; assumed
    "thinned": Range(0, 1),  # below 0.4: thinned once; assumed
    "thin_share": Range(0.2, 0.4, (0.15, 0.5)),  # [S54]
    "thin_before_end_days": Range(5, 9),  # thinning at about 30 to 35 d; assumed
    "catch_hour": Range(3, 16),  # when the catchers begin; assumed
    "downtime_days": Range(7, 15),  # until the next placement: up to 7 flocks a year [S56]; spread assumed
    "cv_first": Range(0.07, 0.09),  # spread of bird weights at placement; about 8 % is the aim [S39b]
    "cv_last": Range(0.07, 0.11, (0.05, 0.13)),  # within one sex at day 35: 5 % even, 10 % uneven [S66]
    # deaths that are no outbreak; our judgement
    "chicks": Range(-0.5, 0.5, (-0.8, 0.9)),  # log of the factor on the first week: 1.3 to 1.42 % in all [S63]
    "bad_day": Range(0, 1),  # below 0.2 there is one
    "bad_day_age": Range(8, 40),
    "bad_day_deaths": Range(0.0005, 0.002, (0.0005, 0.003)),  # that died of it
    "slow_rise": Range(0, 1),  # below 0.25 they rise slowly
    "slow_rise_age": Range(12, 32),
    "slow_rise_times": Range(1.0, 4.0, (1.0, 6.0)),  # more than usual, after ten days
}

# the weather of a maritime climate, Denmark to northern France; the others change some of it (``CLIMATES``)
FARM_RANGES: Mapping[str, Range] = {  # our judgement, all of them: no station's record, only weather that is plausible
    "mean_cel": Range(7, 13, (3, 13)),  # yearly mean outside
    "season_cel": Range(7, 11, (4, 12)),  # amplitude of the year
    "diurnal_cel": Range(2.5, 5.5, (2, 6.5)),  # amplitude of a clear day
    "fronts_cel": Range(2.5, 4.0, (2, 4.5)),  # sd of what fronts bring
    "front_days": Range(2.0, 4.0),  # how long they last
    "dew_depression_cel": Range(2.0, 5.0, (1, 9)),  # day's mean temperature above the dew point
    "coldest_day": Range(15, 35, (15, 220)),  # day of the year; test also has the southern hemisphere
}

# what other climates change in it; our judgement, by the look of climate charts
CLIMATES: Mapping[str, Mapping[str, Range]] = {
    "maritime": {},
    "continental": {  # Poland to the Corn Belt
        "mean_cel": Range(7, 12),
        "season_cel": Range(11, 14, (11, 16)),
        "diurnal_cel": Range(4, 7),
        "fronts_cel": Range(3.0, 5.0),
        "dew_depression_cel": Range(3, 6),
    },
    "mediterranean": {
        "mean_cel": Range(14, 18),
        "season_cel": Range(7, 9),
        "diurnal_cel": Range(5, 8),
        "fronts_cel": Range(2.0, 3.0),
        "dew_depression_cel": Range(5, 9),
    },
    "humid_subtropical": {  # the south-east of the USA, southern Brazil
        "mean_cel": Range(15, 20),
        "season_cel": Range(7, 10),
        "diurnal_cel": Range(4, 6),
        "fronts_cel": Range(2.5, 4.0),
        "dew_depression_cel": Range(2, 5),
    },
    "semi_arid": {  # only in ``test``
        "mean_cel": Range(16, 22),
        "season_cel": Range(8, 11),
        "diurnal_cel": Range(7, 9),
        "fronts_cel": Range(2.0, 3.0),
        "dew_depression_cel": Range(10, 16),
    },
}
CLIMATE_SHARES: Mapping[RangeSet, Mapping[str, float]] = {
    "train": {"maritime": 0.55, "continental": 0.2, "mediterranean": 0.15, "humid_subtropical": 0.1},
    "validation": {"maritime": 0.55, "continental": 0.2, "mediterranean": 0.15, "humid_subtropical": 0.1},
    "test": {
        "maritime": 0.45,
        "continental": 0.2,
        "mediterranean": 0.1,
        "humid_subtropical": 0.15,
        "semi_arid": 0.1,
    },
}
# of the houses, those that are cooled by water, and how much more the fans of all houses there can do; our judgement
COOLED: Mapping[str, float] = {
    "maritime": 0.15,
    "continental": 0.5,
    "mediterranean": 0.95,
    "humid_subtropical": 0.95,
    "semi_arid": 1.0,
}
HOT_FANS: Mapping[str, float] = {"continental": 1.2, "mediterranean": 1.5, "humid_subtropical": 1.6, "semi_arid": 1.6}

# Only farms of ``test`` have these faults, and these courses of a fault: a model meets something it has never seen.
HELD_OUT_FAULTS = frozenset({"inlet_stuck", "door_open", "enteritis"})
SHAPES: Mapping[str, Range] = {  # of the faults that are not named: 0 to 1
    "fan_fouling": Range(0.0, 0.5, (0.0, 1.0)),  # beyond 0.5 in stairs: belts
    "mortality_outbreak": Range(0.0, 0.8, (0.0, 1.0)),  # beyond 0.8 it takes more than five days to rise
    "growth_lag": Range(0.0, 0.8, (0.0, 1.0)),  # beyond 0.8 it comes at once
}


def climate_of(seed: int, ranges: RangeSet, farm: int) -> str:
    """Return the climate in which a farm lies."""
    drawn, names = float(generator(seed, ranges, 8, farm).random()), CLIMATE_SHARES[ranges]
    edges = np.cumsum(list(names.values()))
    return list(names)[min(int(np.searchsorted(edges, drawn, "right")), len(names) - 1)]


def draw_weather(seed: int, ranges: RangeSet, farm: int) -> dict[str, float]:
    """Return one value for every parameter of a farm's weather."""
    return draw({**FARM_RANGES, **CLIMATES[climate_of(seed, ranges, farm)]}, ranges, generator(seed, ranges, 0, farm))


def generator(seed: int, ranges: RangeSet, *path: int) -> np.random.Generator:
    """Return the random generator of one farm, house or flock: the same for the same path, whatever else is drawn.

    Raises:
        UsageError: there is no such range set.
    """
    if ranges not in RANGE_SETS:
        message = f"there is no range set {ranges!r}; there are {', '.join(RANGE_SETS)}"
        raise UsageError(message)
    return np.random.default_rng([seed, RANGE_SETS.index(ranges), *path])


def draw(table: Mapping[str, Range], ranges: RangeSet, rng: np.random.Generator) -> dict[str, float]:
    """Return one value for every parameter of a table."""
    return {name: float(rng.uniform(*bounds.of(ranges))) for name, bounds in table.items()}


def columns(rows: list[dict[str, float]]) -> dict[str, NDArray[np.float64]]:
    """Return drawn parameters as one array per name, in the order of ``rows``."""
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
