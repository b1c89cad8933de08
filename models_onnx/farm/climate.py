"""The air in the houses: heat, moisture, carbon dioxide and ammonia balances, and the computer that controls it.

One well-mixed volume of air, one mass (litter, floor) and the litter's moisture per house; inlets that hold a pressure
below outside; in some houses evaporative cooling of the air that comes in. Within a sub-step ventilation and heating
stand still, so every balance is linear and is solved exactly: it cannot blow up, whatever the step.

Sources, with the numbers of docs/sources.md: [S60] CIGR 2002 heat and moisture, Pedersen 2008 carbon dioxide; [S61]
ammonia; [S51] Aviagen 2018 minimum ventilation; [S32] SKOV Viper set points and heat offset. "derived" are the figures
so called there, "assumed" is our judgement.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from models_onnx.farm.arithmetic import limit, wander
from models_onnx.farm.faults import LEAK_L_H_BIRD
from models_onnx.farm.weather import humidity_pct, saturation_pa, vapour_g_m3, wet_bulb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models_onnx.farm.faults import Misread

    Array = NDArray[np.float64]

SUBSTEP_S = 200.0  # the controller looks about as often as the air of a full house is changed; derived
OUTSIDE_CO2_PPM = 420.0  # fresh air of these years; common knowledge
AIR_J_M3K = 1_206.0  # 1.2 kg/m3 x 1005 J/(kg K) (physics)
MIN_VENT_M3H_KG = 0.864  # x kg^0.75 per bird [S51]
HEAT_W_KG = 10.62  # x kg^0.75 per bird [S60]
EVAPORATION_KJ_KG = 2_501.0  # [S60]
NH3_NEW_LITTER_G = 0.024  # per bird and day for every day of age, from day 6 on [S61]
NH3_FIRST_DAY = 6.0  # [S61]
NH3_G_M3_PPM = 0.70e-3  # of 1 ppm at 20 Cel: 17.03 g/mol in 24.05 l/mol (ideal gas)
BURNER_CO2_M3_J = 0.118 / 3.6e6  # propane: 0.233 kg of CO2 per kWh, 1.98 kg/m3 (chemistry)
BURNER_WATER_G_J = 140 / 3.6e6  # propane: 1.63 kg of water per kg, 11.6 kWh/kg at full heat (chemistry)

SET_DAYS = (0, 1, 7, 14, 21, 28, 35, 42, 49)
SET_CEL = np.array(
    [
        (34.0, 34.0, 30.0, 28.0, 26.0, 23.0, 21.0, 19.0, 19.0),  # SKOV Viper [S32]
        (31.0, 30.6, 28.0, 27.0, 25.0, 24.0, 23.0, 22.0, 21.0),  # targets of a real house [F2]
    ]
)
HEAT_OFFSET_CEL = (0.1, 0.1, 0.2, 0.5, 1.0, 1.0, 1.5, 2.0, 2.0)  # heating begins this much below [S32]
SET_HUMIDITY = (50.0, 50.0, 50.0, 60.0, 65.0, 70.0, 77.0, 85.0, 85.0)  # [S32]
# the curves by the hour of age: looked up, which is quicker than interpolating at each step
_HOURS = np.arange(70 * 24) / 24 + 0.5 / 24
SET_BY_HOUR = np.array([np.interp(_HOURS, SET_DAYS, curve) for curve in SET_CEL])
HEAT_OFFSET_BY_HOUR = np.interp(_HOURS, SET_DAYS, HEAT_OFFSET_CEL)
SET_HUMIDITY_BY_HOUR = np.interp(_HOURS, SET_DAYS, SET_HUMIDITY)
EMPTY_CEL = 8.0  # frost guard of an empty house; assumed
EMPTY_VENT_SHARE = 0.03  # doors and leaks of an empty house, of all fans; assumed
WASH_VENT_SHARE = 0.3  # our judgement: fans run to dry a washed house, far below their most
LEAK_AIR_CHANGES_H = 0.15  # what comes in with every fan off; assumed
# emergency openings, above the set point: beyond the hard alarm at 4 K [S4]; assumed
EMERGENCY_FROM_K, EMERGENCY_FULL_K = 5.0, 11.0
EMERGENCY_S = 300.0  # how slowly they move; assumed
EMERGENCY_AIR_CHANGES_H = 6.0  # through them at 10 K between in and out, with the root of the difference; assumed
EMERGENCY_FROM_LOST = 0.3  # of the fans, or of the inlets; assumed
MISLED_MOST_K = 5.0  # people come at the hard alarm at 4 K, of a thermostat of its own [S4], and hold it there; assumed
FAN_PA = 90.0  # at which axial fans move nothing any more; assumed
DOOR_AIR_CHANGES_H, DOOR_OPENING = 6.0, 4.0  # an open gate: through it at 10 K, and beside the inlets; assumed
STAGED_SHARE = 0.3  # of the houses: common computers, assumed
HEATER_S = 300.0  # how slowly a heater that is switched warms the air; assumed
FOULED_DAY = 42.0  # by which ``fouling`` is reached; assumed
COOLING_LAG_S = 900.0  # how slowly pads or fog set in; assumed
COOLING_OVER_K = 2.0  # from none to all; assumed
COOLING_G_M3K = 1206 / 2501  # water that cools 1 m3 of air by 1 K: 1.2 kg/m3 x 1005 J/(kg K) / 2501 J/g (physics)
LITTER_NEW, LITTER_S = 0.22, 2 * 86_400.0  # moisture of fresh litter, and how slowly it follows; assumed
# moisture where the air has 65 %RH, more for each %RH, sodden by a fault, under a burst line; assumed
LITTER_USUAL, LITTER_PER_RH, LITTER_WET, LITTER_LEAK = 0.27, 0.0035, 0.22, 0.20
LITTER_NH3 = 5.7  # ammonia goes with exp of this x moisture: a tenth more for 5 %RH; assumed
LEAK_EVAPORATES = 0.5  # of the water that runs away; assumed

CHILL_CEL = 4.0  # how much cooler full ventilation feels: chill factor of 2.5 to 8 [S32] at 1 to 1.5 m/s; assumed


def minimum_ventilation(weight_kg: Array) -> Array:
    """Return the minimum ventilation, m3/h per bird [S51]."""
    return np.asarray(MIN_VENT_M3H_KG * weight_kg**0.75, np.float64)


def heat_w(weight_kg: Array) -> Array:
    """Return the total heat of one bird, W [S60]."""
    return np.asarray(HEAT_W_KG * weight_kg**0.75, np.float64)


def sensible_share(temperature: Array) -> Array:
    """Return the part of that heat which warms the air; the rest evaporates water, in birds and litter [S60]."""
    share = 0.61 * (1000 + 20 * (20 - temperature) - 0.228 * temperature**2) / 1000
    return limit(share, 0.05, 0.9)


def carbon_dioxide_m3h(heat: Array, weight_kg: Array) -> Array:
    """Return the carbon dioxide of ``heat`` watts of birds with their litter, m3/h [S60]."""
    return np.asarray(heat / 1000 * np.where(weight_kg < 0.5, 0.170, 0.180), np.float64)


class Climate:
    """The air of all houses; ``p`` are their drawn parameters (``params.HOUSE_RANGES``)."""

    def __init__(self, houses: Mapping[str, Array], outside: Array, rng: np.random.Generator) -> None:
        """Make empty houses as cold as ``outside``."""
        p = houses
        n = len(outside)
        self._p = p
        self._rng = rng
        self.area_m2 = p["capacity"] / p["birds_per_m2"]
        self.volume_m3 = self.area_m2 * p["height_m"]
        # roof and walls of a long house are about 1.5 x its floor; assumed
        self._shell_w_k = p["u_w_m2k"] * 1.5 * self.area_m2
        self._mass_w_k = p["mass_w_m2k"] * self.area_m2
        self._mass_j_k = p["mass_kj_m2k"] * 1000 * self.area_m2
        self._air_j_k = AIR_J_M3K * self.volume_m3
        self._heater_w = p["heater_w_m2"] * self.area_m2
        self._burner = np.where(p["direct_heating"] < 0.35, 1.0, 0.0)
        self._max_vent = p["max_vent_m3h_bird"] * p["capacity"]  # m3/h
        self.temperature = outside + 1.0
        self._mass_cel = outside + 1.0
        self.vapour = vapour_g_m3(outside, np.full(n, 75.0))
        self.co2 = np.full(n, OUTSIDE_CO2_PPM)
        self.ammonia = np.zeros(n)
        self.set_point = np.full(n, EMPTY_CEL)
        self.ventilation = np.full(n, EMPTY_VENT_SHARE)  # of all fans, as the computer asks for
        self._asked = self.ventilation  # before stages
        self.heating = np.zeros(n)  # of all heaters, as asked for
        self._staged = p["stages"] < STAGED_SHARE
        self._any_staged, self._stages = bool(self._staged.any()), np.rint(p["fan_stages"])
        self._heat_integral = np.zeros(n)
        self._burns = np.zeros(n)  # of heaters that go on and off
        self._opening = np.zeros(n)  # of the emergency openings
        self._wind = np.zeros(n)
        self.misread: Mapping[str, Misread] = {}  # where the computer's own sensors deceive it (``sensors``)
        self.pressure = np.zeros(n)  # Pa below outside
        self.litter = np.full(n, LITTER_NEW)  # moisture, kg/kg
        self.cooling = np.zeros(n)  # of the water cooling
        self._fans_lost = np.zeros(n)
        self._drawn = np.ones(n)  # what the fans move against the pressure, of what they should
        self._set_by_hour = SET_BY_HOUR[0] + p["set_point_mix"][:, None] * (SET_BY_HOUR[1] - SET_BY_HOUR[0])

    @property
    def humidity(self) -> Array:
        """The relative humidity inside, %."""
        return limit(humidity_pct(self.temperature, self.vapour), 0, 100)

    @property
    def felt(self) -> Array:
        """The temperature as the birds feel it in moving air."""
        return np.asarray(self.temperature - CHILL_CEL * self.ventilation, np.float64)

    def advance(
        self,
        dt_s: float,
        *,
        age: Array,
        weight_g: Array,
        alive: Array,
        activity: Array,
        warm: NDArray[np.bool_],
        washing: NDArray[np.bool_],
        outside: Array,
        outside_humidity: Array,
        effects: Mapping[str, Array],
    ) -> None:
        """Move ``dt_s`` seconds on.

        ``warm`` marks houses that are heated (birds, or pre-heating), ``activity`` the birds' heat against its mean of
        the day; ``effects`` are those of ``faults``.
        """
        p = self._p
        kg = weight_g / 1000
        heat = heat_w(kg) * alive * activity * p["heat_factor"]
        co2_m3_s = carbon_dioxide_m3h(heat, kg) * p["co2_factor"] / 3600
        humidity = self.humidity
        leak_g_s = LEAK_EVAPORATES * effects["leak_l_h_bird"] * p["capacity"] * (1000 / 3600)
        leak_g_s = np.where(alive > 0, leak_g_s, 0.0)
        self._wet(dt_s, alive, humidity, effects)
        nh3_g_s = self._ammonia_g_s(age, alive)
        hour = np.minimum((age * 24).astype(np.intp), len(_HOURS) - 1)
        moist = self.misread.get("humidity")
        believed = humidity if moist is None else moist.keeps * humidity + moist.adds
        minimum = self._set(hour, kg, alive, believed, warm=warm, washing=washing)
        heat_set = self.set_point - HEAT_OFFSET_BY_HOUR[hour]
        fresh = vapour_g_m3(outside, outside_humidity)
        incoming, fresh = self._cool(dt_s, outside, fresh, outside_humidity, warm, effects["cooling_lost"])
        fouled = np.where(alive > 0, p["fouling"] * np.minimum(age / FOULED_DAY, 1.3), 0.0)
        self._fans_lost = 1 - (1 - effects["fans_lost"]) * (1 - fouled)
        failing = (effects["fans_lost"] > EMERGENCY_FROM_LOST) | (effects["inlets_shut"] > EMERGENCY_FROM_LOST)
        self._wind = wander(self._wind, dt_s, 1200.0, 0.04, self._rng.standard_normal(len(age)))
        self._draw(effects)
        steps = max(1, math.ceil(dt_s / SUBSTEP_S))
        heater_w, any_failing = self._heater_w * (1 - effects["heat_lost"]), bool(failing.any() or self._opening.any())
        any_open = any_failing or bool(effects["door"].any())
        keep = np.exp(-self._mass_w_k / self._mass_j_k * (dt_s / steps))
        follow = -np.expm1(-2 * dt_s / steps / p["vent_integral_s"])
        fans_m3_s = np.maximum(1 + self._wind, 0) * (1 - self._fans_lost) * self._drawn * self._max_vent / 3600
        leaks_m3_s = LEAK_AIR_CHANGES_H / 3600 * self.volume_m3
        for _ in range(steps):
            self._control(dt_s / steps, follow, minimum, heat_set, outside, warm=warm)
            if any_failing:
                self._open(dt_s / steps, failing)
            air = self.ventilation * fans_m3_s + leaks_m3_s
            if any_open:
                air = air + self._through_openings(outside, effects["door"])
            self._balance(
                dt_s / steps, air, heat, co2_m3_s, nh3_g_s, fresh, leak_g_s, outside, incoming, heater_w, keep
            )
        self.vapour = np.minimum(self.vapour, 2.1667 * saturation_pa(self.temperature) / (self.temperature + 273.15))

    def _wet(self, dt_s: float, alive: Array, humidity: Array, effects: Mapping[str, Array]) -> None:
        """Let the litter take up and give off moisture."""
        leak = np.minimum(effects["leak_l_h_bird"] / LEAK_L_H_BIRD, 1)
        ends = LITTER_USUAL + LITTER_PER_RH * (humidity - 65) + LITTER_WET * effects["wet"] + LITTER_LEAK * leak
        self.litter = np.where(alive > 0, _mixed(self.litter, ends, math.exp(-dt_s / LITTER_S)), LITTER_NEW)

    def _cool(
        self, dt_s: float, outside: Array, fresh: Array, outside_humidity: Array, warm: NDArray[np.bool_], lost: Array
    ) -> tuple[Array, Array]:
        """Return the temperature and the vapour (g/m3) of the air that comes in, cooled where it is too warm inside."""
        p = self._p
        too_warm = self._believed_cel() - self.set_point - p["cooling_from_k"]
        wanted = limit(too_warm / COOLING_OVER_K, 0, 1) * p["is_cooled"] * warm * (1 - lost)
        self.cooling = _mixed(self.cooling, wanted, math.exp(-dt_s / COOLING_LAG_S))
        cooling = np.where(self.cooling > 0.01, self.cooling, 0.0)
        if not cooling.any():  # most of the year, on most farms
            return outside, fresh
        by_k = cooling * p["cooling_effect"] * np.maximum(outside - wet_bulb(outside, outside_humidity), 0)
        return outside - by_k, fresh + COOLING_G_M3K * by_k

    def _draw(self, effects: Mapping[str, Array]) -> None:
        """Work out how the fans draw against the inlets, and the pressure that comes of it.

        Inlets that open as they should hold the wanted pressure; it goes with the flow squared and the opening to the
        power of -2. The fans' flow falls with the root of what is left of ``FAN_PA``.
        """
        share = self._p["pressure_pa"] / FAN_PA
        resists = 1 / (1 - 0.98 * effects["inlets_shut"] + DOOR_OPENING * effects["door"]) ** 2
        self._drawn = 1 / np.sqrt(1 - share + share * resists)
        flow = (1 - self._fans_lost) * self._drawn * (1 + self._wind)
        runs = np.minimum(self.ventilation / 0.01, 1)  # with no fan there is no pressure
        self.pressure = self._p["pressure_pa"] * resists * flow * flow * runs

    def _ammonia_g_s(self, age: Array, alive: Array) -> Array:
        litter = NH3_NEW_LITTER_G * np.maximum(age - NH3_FIRST_DAY, 0) * self._p["nh3_factor"]
        # wet litter gives more, full air takes less: none at 150 ppm; both assumed
        litter = litter * np.maximum(1 - self.ammonia / 150, 0)
        return np.asarray(litter * alive / 86_400 * np.exp(LITTER_NH3 * (self.litter - LITTER_USUAL)), np.float64)

    def _set(
        self,
        hour: NDArray[np.intp],
        kg: Array,
        alive: Array,
        humidity: Array,
        *,
        warm: NDArray[np.bool_],
        washing: NDArray[np.bool_],
    ) -> Array:
        """Set the point and return the minimum ventilation as a share of all fans."""
        p = self._p
        mixed = self._set_by_hour[np.arange(len(hour)), hour] + p["set_point_offset"]
        self.set_point = np.where(warm, mixed, EMPTY_CEL)
        moist = limit(humidity - SET_HUMIDITY_BY_HOUR[hour], 0, 30)
        birds = minimum_ventilation(kg) * alive * p["min_vent_factor"] * (1 + p["humidity_gain"] * moist)
        empty = np.where(washing, WASH_VENT_SHARE, np.where(warm, 0.0, EMPTY_VENT_SHARE))
        return limit(np.where(alive > 0, birds / self._max_vent, empty), 0, 1)

    def _control(
        self,
        dt_s: float,
        follow: Array,
        minimum: Array,
        heat_set: Array,
        outside: Array,
        *,
        warm: NDArray[np.bool_],
    ) -> None:
        """Let the house computer turn fans and heaters.

        Ventilation goes up or down by a share of itself, less so the colder it is outside (adaptive controllers do
        that): stable from minimum ventilation in winter to all fans in summer. Heating is proportional-integral.
        Where the computer is of the other kind, fans go in stages, the first ones small, and heaters on and off; what
        glows warms for some minutes more.
        """
        believed = self._believed_cel()
        too_warm = believed - self.set_point
        difference = np.maximum(self.temperature - outside, 3.0)
        turn = limit(follow * too_warm / difference, -0.4, 0.4)
        asked = np.maximum(self._asked, 1e-3) * np.exp(turn)
        self._asked = self.ventilation = np.where(warm, limit(asked, minimum, 1.0), minimum)
        too_cold = heat_set - believed
        self._heat_integral = limit(self._heat_integral + dt_s / 1500 * too_cold / 6, 0, 1)
        heating = np.where(warm, limit(self._heat_integral + too_cold / 6, 0, 1), 0.0)
        if self._any_staged:
            stage = np.rint(np.sqrt(self._asked) * self._stages) / self._stages
            self.ventilation = np.where(self._staged, np.maximum(stage * stage, minimum), self._asked)
            within = np.abs(too_cold) < self._p["heater_band_k"]
            self._burns = np.where(within, self._burns, too_cold > 0) * warm
            glows = _mixed(self.heating, self._burns, math.exp(-dt_s / HEATER_S))
            heating = np.where(self._staged, glows, heating)
        self.heating = heating

    def _believed_cel(self) -> Array:
        """Return the temperature inside as the house computer takes it to be."""
        misread = self.misread.get("temperature")
        if misread is None:
            return self.temperature
        error = misread.keeps * self.temperature + misread.adds - self.temperature
        return np.asarray(self.temperature + limit(error, -MISLED_MOST_K, MISLED_MOST_K), np.float64)

    def _open(self, dt_s: float, failing: NDArray[np.bool_]) -> None:
        """Let the emergency openings move: they are there for failing fans, not for hot days."""
        too_warm = self.temperature - self.set_point - EMERGENCY_FROM_K
        wanted = np.where(failing, limit(too_warm / (EMERGENCY_FULL_K - EMERGENCY_FROM_K), 0, 1), 0.0)
        self._opening = _mixed(self._opening, wanted, math.exp(-dt_s / EMERGENCY_S))

    def _balance(
        self,
        dt_s: float,
        air: Array,
        heat: Array,
        co2_m3_s: Array,
        nh3_g_s: Array,
        fresh: Array,
        leak_g_s: Array,
        outside: Array,
        incoming: Array,
        heater_w: Array,
        mass_keep: Array,
    ) -> None:
        heater = self.heating * heater_w
        sensible = heat * sensible_share(self.temperature)
        air_w_k = AIR_J_M3K * air
        total_w_k = air_w_k + self._shell_w_k + self._mass_w_k
        gained = sensible + heater - leak_g_s * EVAPORATION_KJ_KG
        through = air_w_k * incoming + self._shell_w_k * outside + self._mass_w_k * self._mass_cel
        settled = (gained + through) / total_w_k
        before = self.temperature
        self.temperature = settled + (before - settled) * np.exp(-total_w_k / self._air_j_k * dt_s)
        self._mass_cel = self.temperature + (self._mass_cel - self.temperature) * mass_keep

        keep = np.exp(-air / self.volume_m3 * dt_s)
        burner = heater * self._burner
        water = (heat - sensible) / EVAPORATION_KJ_KG + burner * BURNER_WATER_G_J + leak_g_s  # g/s: W / (kJ/kg) = g/s
        self.vapour = _mixed(self.vapour, fresh + water / air, keep)
        co2 = (co2_m3_s + burner * BURNER_CO2_M3_J) / air * 1e6
        self.co2 = _mixed(self.co2, OUTSIDE_CO2_PPM + co2, keep)
        self.ammonia = _mixed(self.ammonia, nh3_g_s / air / NH3_G_M3_PPM, keep)

    def _through_openings(self, outside: Array, door: Array) -> Array:
        """Return what goes through emergency openings and a gate, m3/s."""
        chimney = np.sqrt(np.maximum(self.temperature - outside, 0) / 10)
        openings = self._opening * EMERGENCY_AIR_CHANGES_H + door * DOOR_AIR_CHANGES_H
        return np.asarray(openings * chimney * self.volume_m3 / 3600, np.float64)


def _mixed(now: Array, settled: Array, keep: Array | float) -> Array:
    return np.asarray(settled + (now - settled) * keep, np.float64)
