"""The simulated farm: houses, flocks, weather, climate, sensors and faults put together, deterministic by seed.

For training and tests, everything in memory at once::

    recording = simulate(houses=200, days=45, seed=1, ranges="train", faults=[Fault("disease", 3, from_ms, to_ms, 1.0)])
    recording.at_ms                  # [steps] int64, the end of each step; the first is START + step_s
    recording.signals["water"]       # [houses, steps] float64, NaN = no reading; amounts since the last reading
    recording.flocks                 # a FlockTruth for every flock, by house and time
    recording.true_weight_g          # [houses, days], at noon (the day of the breed's tables), NaN = empty
    recording.live_birds             # [houses, days], the same
    recording.true_weight_sd_g       # [houses, days], the spread of the birds' weights
    recording.faults                 # what went wrong; ``truth.truths_of`` says from when on it showed

As a stream with flat memory, for MQTT and files::

    farm = Farm(houses=3, seed=1, start=start, ages=[10, 22, 34])
    farm.run_to(farm.start_ms)                      # the past that nobody sees, in coarse steps
    for step in farm.steps(60, until_ms): ...       # step.values [signals, houses] in the order of SIGNALS

Time is UTC and so is the farm's day, from midnight to midnight. Day 0 of a flock is the day it was placed, at noon; so
at noon of day d its weight is the table's of day d. Steps may have any length: the same physics, other noise.
Faults change no random number: the farm with a fault is the same farm without it until the fault begins.
Sources: docs/sources.md.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from agent.domain import from_ms, to_ms
from agent.errors import UsageError
from models_onnx.farm.birds import Birds
from models_onnx.farm.climate import Climate
from models_onnx.farm.deaths import Rounds
from models_onnx.farm.faults import FaultPlan
from models_onnx.farm.flocks import PLACED_AT, happenings, plan_flock
from models_onnx.farm.params import (
    COOLED,
    HOT_FANS,
    HOUSE_RANGES,
    RangeSet,
    climate_of,
    columns,
    draw,
    draw_weather,
    generator,
)
from models_onnx.farm.sensors import SIGNALS, Sensors
from models_onnx.farm.supply import Supply
from models_onnx.farm.weather import Weather, humidity_pct, vapour_g_m3

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from models_onnx.farm.faults import Fault
    from models_onnx.farm.flocks import FlockPlan, Happening

    Array = NDArray[np.float64]

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
UNSEEN_S = 1800  # the step of everything that nobody looks at
BEFORE = timedelta(days=2)  # how long before the first placement the farm begins: it pre-heats
DEFAULT_START = datetime(2026, 1, 1, tzinfo=UTC)
FIRST_WEEK_LUX = 1.6  # chicks get more light; common practice, assumed
# in the field, of the readings those that are told twice, and how often a day a gateway sends its last hour once more;
# assumed: real files have duplicate stamps [F1]
TWICE_SHARE, AGAIN_A_DAY = 0.005, 0.5
WASH_LUX = 50.0  # our judgement: people work in it


@dataclass(frozen=True, slots=True)
class Told:
    """What people tell about a house: a flock command of the contract, without an id."""

    at_ms: int
    house: int
    command: Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: readings at its end, [signals, houses] in the order of ``SIGNALS``, and what people told in it."""

    at_ms: int
    values: Array
    told: tuple[Told, ...]


@dataclass(frozen=True, slots=True)
class FlockTruth:
    """A flock as it really was; ``slaughter_weight_g`` is the true mean live weight, None before it has ended."""

    house: int
    flock: str
    placed_on: date
    placed_ms: int
    birds_placed: int
    birds_told: int  # as people tell it: the same, unless they are wrong
    strain: str
    sex: str
    parent_age_weeks: int
    planned_end_on: date
    thinned_ms: int | None
    end_ms: int  # planned, or real if it has ended
    slaughter_weight_g: float | None


@dataclass(frozen=True, slots=True)
class Run:
    """What ``simulate`` was asked for, to do it again with other faults."""

    houses: int
    days: int
    seed: int
    step_s: int
    ranges: RangeSet
    ages: tuple[int, ...] | None
    start: datetime
    houses_per_farm: int | None
    gaps: bool
    restock: bool
    field: bool


@dataclass(frozen=True, slots=True)
class Recording:
    """A farm's readings and truth in memory; see the module's docstring for the shapes."""

    at_ms: NDArray[np.int64]
    signals: dict[str, Array]
    farm_of: NDArray[np.intp]  # [houses]: which farm each house belongs to
    flocks: tuple[FlockTruth, ...]
    true_weight_g: Array
    true_weight_sd_g: Array
    live_birds: Array
    faults: tuple[Fault, ...]
    told: tuple[Told, ...]
    run: Run


class Farm:
    """Houses with flocks that follow each other; ``advance`` is one step of everything.

    ``start`` is day 0 of the run. Each house holds a flock of ``ages[i]`` days at ``start`` (default: all are placed on
    that day), and the next after it when it is caught, unless ``restock`` is False. Every ``houses_per_farm`` houses
    (default: all) share a weather. In the ``field`` some sensors are absent and meters jump (``sensors``), and readings
    come twice (``sent``). ``at_once`` lets the day-old come at ``start`` itself instead of at noon. ``begin`` moves the
    beginning of it all further back than two days before the first placement.
    """

    def __init__(
        self,
        houses: int,
        seed: int,
        start: datetime = DEFAULT_START,
        *,
        ranges: RangeSet = "train",
        faults: Sequence[Fault] = (),
        ages: Sequence[int] | None = None,
        houses_per_farm: int | None = None,
        gaps: bool = True,
        field: bool = False,
        restock: bool = True,
        at_once: bool = False,
        begin: datetime | None = None,
    ) -> None:
        """Build the farm as it is some days before ``start``.

        Raises:
            UsageError: no houses, an age that no flock has, more or fewer ages than houses, or no such fault.
        """
        if houses < 1:
            message = f"a farm needs at least one house, not {houses}"
            raise UsageError(message)
        ages = [0] * houses if ages is None else list(ages)
        if len(ages) != houses or min(ages) < 0 or max(ages) > 30:
            message = f"{houses} houses need as many ages, each from 0 to 30 days, not {ages}"
            raise UsageError(message)
        start = start.astimezone(UTC)
        self.start_ms = to_ms(start)
        self.farm_of = np.arange(houses) // (houses_per_farm or houses)
        self._seed, self._ranges, self._restock = seed, ranges, restock
        self._houses = columns([draw(HOUSE_RANGES, ranges, generator(seed, ranges, 1, i)) for i in range(houses)])
        count = int(self.farm_of[-1]) + 1
        farms = columns([draw_weather(seed, ranges, i) for i in range(count)])
        self.climates = tuple(climate_of(seed, ranges, i) for i in range(count))  # of each farm, by name
        cooled = np.array([COOLED[name] for name in self.climates])[self.farm_of]
        fans = np.array([HOT_FANS.get(name, 1.0) for name in self.climates])[self.farm_of]
        self._houses["is_cooled"] = np.where(self._houses["cooling"] < cooled, 1.0, 0.0)
        self._houses["max_vent_m3h_bird"] = self._houses["max_vent_m3h_bird"] * fans
        self._plan = FaultPlan(faults, self.farm_of)

        self._weather = Weather(farms, generator(seed, ranges, 3))
        self.birds = Birds(self._houses, generator(seed, ranges, 4))
        self._sensors = Sensors(self._houses, generator(seed, ranges, 6), gaps=gaps, field=field)
        self._line_rng = generator(seed, ranges, 10) if field else None
        self._supply = Supply(self._houses)
        self._rounds = Rounds(self._houses, generator(seed, ranges, 7))

        self._flocks: list[FlockPlan | None] = [None] * houses  # present
        self._ended: list[FlockTruth] = []
        self._removed: list[int | None] = [None] * houses  # when the present flock was thinned
        self._agenda: list[tuple[int, int, int, Happening]] = []
        at_start = at_once or start.time() >= PLACED_AT
        for house, age in enumerate(ages):
            placed_ms = self.start_ms if age == 0 and at_start else None
            self._expect(house, 0, start.date() - timedelta(days=age), placed_ms)
        self._warm, self._washing = np.zeros(houses, bool), np.zeros(houses, bool)

        earliest = min(start - timedelta(days=max(ages)), begin or start) - BEFORE
        self.at_ms = to_ms(earliest)
        self._weather.advance(0, self.at_ms / DAY_MS % 365.25, self._hour(0))
        self.climate = Climate(self._houses, self._weather.temperature[self.farm_of], generator(seed, ranges, 5))

    def run_to(self, until_ms: int, step_s: int = UNSEEN_S) -> list[Told]:
        """Move on to ``until_ms`` unseen; return what people told on the way."""
        return [told for step in self.steps(step_s, until_ms) for told in step.told]

    def steps(self, step_s: int, until_ms: int) -> Iterator[Step]:
        """Yield step after step up to ``until_ms``; the last one may be shorter."""
        while self.at_ms < until_ms:
            yield self.advance(min(step_s * 1000, until_ms - self.at_ms))

    def sent(self, step_s: int, until_ms: int) -> Iterator[Step]:
        """Yield the steps as they come over the line: in the field, now and then one or the last hour once more."""
        lately: deque[Step] = deque(maxlen=max(3600 // step_s, 1))
        for step in self.steps(step_s, until_ms):
            yield step
            if self._line_rng is None:
                continue
            lately.append(replace(step, told=()))
            chance = self._line_rng.random()
            if chance < TWICE_SHARE:
                yield lately[-1]
            elif chance > 1 - AGAIN_A_DAY * step_s / 86_400:
                yield from tuple(lately)

    def flocks(self) -> tuple[FlockTruth, ...]:
        """Return every flock that has been placed so far, by house and time."""
        present = [self._truth(plan, None) for plan in self._flocks if plan is not None]
        return tuple(sorted(self._ended + present, key=lambda flock: (flock.house, flock.placed_ms)))

    def advance(self, dt_ms: int) -> Step:
        """Move ``dt_ms`` milliseconds on and return what the sensors show and the people tell."""
        dt_s = dt_ms / 1000
        self.at_ms += dt_ms
        told = self._happen()
        for fault in self._plan.thinned_between(self.at_ms - dt_ms, self.at_ms):
            self.birds.remove(fault.house, fault.severity)
        self._weather.advance(dt_s, self.at_ms / DAY_MS % 365.25, self._hour(dt_ms / 2))
        truth = self._live(dt_s, self._plan.effects_at(self.at_ms - dt_ms))
        truth["dead"], truth["culled"], counts = self._rounds.make(self.at_ms, self.birds)
        values = self._sensors.read(dt_s, self.at_ms, truth, self._plan.of_sensors_at(self.at_ms - dt_ms))
        self.climate.misread = self._sensors.misread
        day = from_ms(self.at_ms).date().isoformat()
        records = [
            Told(self.at_ms, one.house, {"action": "record", "date": day, "dead": one.dead, "culled": one.culled})
            for one in counts
        ]
        return Step(self.at_ms, values, (*told, *records))

    def _live(self, dt_s: float, effects: Mapping[str, Array]) -> dict[str, Array]:
        """Let birds, supply and air pass one step; return the truth that the sensors are shown."""
        birds, climate = self.birds, self.climate
        hour = self._hour(dt_s * 500)
        outside = self._weather.temperature[self.farm_of]
        outside_humidity = self._weather.humidity[self.farm_of]
        if effects["warmer_k"].any():  # the same vapour in warmer air
            vapour = vapour_g_m3(outside, outside_humidity)
            outside = outside + effects["warmer_k"]
            warmed = humidity_pct(outside, vapour)
            outside_humidity = np.where(effects["warmer_k"] > 0, warmed, outside_humidity)
        felt = climate.felt
        did = birds.behave(dt_s, self.at_ms, hour + effects["clock_h"], felt, climate.set_point, effects)
        present = birds.alive > 0
        mass = birds.alive * (dt_s / 86_400 / 1000)  # g (ml) per bird and day -> kg (l) per house and step
        supplied = self._supply.advance(
            dt_s,
            self._hour(0),
            wanted_kg=did.feed * mass,
            wanted_l=did.water * mass,
            offered=present & ~birds.fasting,
            effects=effects,
        )
        per_bird = np.divide(1.0, mass, out=np.zeros_like(mass), where=present)
        eaten, drunk = supplied.eaten_kg * per_bird, supplied.water_l * per_bird
        birds.live(dt_s, did, feed=eaten, water=drunk, felt=felt, ammonia=climate.ammonia, effects=effects)
        climate.advance(
            dt_s,
            age=birds.age,
            weight_g=birds.weight,
            alive=birds.alive,
            activity=did.activity,
            warm=self._warm,
            washing=self._washing,
            outside=outside,
            outside_humidity=outside_humidity,
            effects=effects,
        )
        lux = self._houses["lux"] * did.lit * np.where(birds.age < 7, FIRST_WEEK_LUX, 1.0)
        return {
            "temperature": climate.temperature,
            "humidity": climate.humidity,
            "co2": climate.co2,
            "ammonia": climate.ammonia,
            "ventilation": climate.ventilation,
            "heating": climate.heating,
            "water": supplied.metered_l,
            "feed": supplied.augered_kg,
            "silo": self._supply.silo,
            "light": np.where(present, lux, np.where(self._washing, WASH_LUX, 0.0)),
            "pressure": climate.pressure,
            "outside_temperature": outside,
            "outside_humidity": outside_humidity,
            "age": birds.age,
            "true_weight": birds.weight,
            "spread": birds.weight_sd,
            "dirt": effects["dirt_g"],
            "alive": birds.alive,
            "activity": did.activity,
        }

    def _happen(self) -> list[Told]:
        """Let the agenda's happenings up to now take place; return what people tell of them."""
        told = []
        while self._agenda and self._agenda[0][0] <= self.at_ms:
            happening = heapq.heappop(self._agenda)[3]
            told += [
                Told(happening.at_ms, happening.plan.house, command)
                for command in self._take_place(happening.kind, happening.plan, happening.at_ms)
            ]
        return told

    def _take_place(self, kind: str, plan: FlockPlan, at_ms: int) -> list[dict[str, str | int | float]]:
        house = plan.house
        match kind:
            case "preheat":
                self._warm[house], self._washing[house] = True, False
                return [{"action": "state", "state": "preheat"}]
            case "place":
                self._flocks[house], self._removed[house], self._warm[house] = plan, None, True
                self.birds.place(plan)
                self._rounds.begin(house, at_ms)
                return [place_command(self._truth(plan, None))]
            case "fast":
                self.birds.fasting[house] = True
                return [{"action": "state", "state": "catching"}]
            case "thin":
                self.birds.fasting[house], self._removed[house] = False, at_ms
                birds = self.birds.remove(house, plan.traits["thin_share"])
                return [{"action": "thin", "at": iso(at_ms), "birds": birds}]
            case "end":
                return [self._end(plan, at_ms)]
            case "wash":
                self._washing[house] = True
                return [{"action": "state", "state": "washing"}]
            case _:  # dry
                self._washing[house] = False
                return [{"action": "state", "state": "empty"}]

    def _end(self, plan: FlockPlan, at_ms: int) -> dict[str, str | int | float]:
        house = plan.house
        weight = round(float(self.birds.weight[house]), 1)
        self._ended.append(self._truth(plan, weight))
        self.birds.remove(house, 1.0)
        self.birds.fasting[house] = False
        self._flocks[house], self._warm[house] = None, False
        self._rounds.end(house)
        if self._restock:
            self._expect(house, plan.number + 1, plan.next_placed_on)
        return {"action": "end", "at": iso(at_ms), "slaughter_weight_g": weight}

    def _expect(self, house: int, number: int, placed_on: date, placed_ms: int | None = None) -> None:
        plan = plan_flock(
            self._seed,
            self._ranges,
            house=house,
            number=number,
            placed_on=placed_on,
            capacity=float(self._houses["capacity"][house]),
            placed_ms=placed_ms,
        )
        for n, happening in enumerate(happenings(plan)):
            heapq.heappush(self._agenda, (happening.at_ms, house, n, happening))

    def _truth(self, plan: FlockPlan, slaughter_weight_g: float | None) -> FlockTruth:
        return FlockTruth(
            plan.house,
            plan.name,
            plan.placed_on,
            plan.placed_ms,
            plan.birds_placed,
            self._plan.count_told(plan.house, plan.birds_placed, plan.placed_ms, plan.end_ms),
            plan.strain,
            plan.sex,
            plan.parent_age_weeks,
            plan.planned_end_on,
            self._removed[plan.house],
            plan.end_ms,
            slaughter_weight_g,
        )

    def _hour(self, ago_ms: float) -> float:
        return (self.at_ms - ago_ms) % DAY_MS / HOUR_MS


def place_command(flock: FlockTruth) -> dict[str, str | int | float]:
    """Return the flock command that tells of a placement."""
    return {
        "action": "place",
        "flock": flock.flock,
        "placed_on": flock.placed_on.isoformat(),
        "birds_placed": flock.birds_told,
        "strain": flock.strain,
        "sex": flock.sex,
        "parent_age_weeks": flock.parent_age_weeks,
        "planned_end_on": flock.planned_end_on.isoformat(),
    }


def still_true(told: Sequence[Told], houses: int) -> list[Told]:
    """Return what was told of the flocks present after ``told``; of an empty house, the last word on its state."""
    of_house: list[list[Told]] = [[] for _ in range(houses)]
    for one in told:
        action = one.command["action"]
        if action in {"place", "end"} or (action == "state" and of_house[one.house][:1] == of_house[one.house][-1:]):
            of_house[one.house].clear()
        if action != "end":
            of_house[one.house].append(one)
    return [one for words in of_house for one in words]


def iso(at_ms: int) -> str:
    """Return an instant as ISO 8601 in UTC, ending in Z."""
    return from_ms(at_ms).isoformat().replace("+00:00", "Z")


def simulate(
    houses: int,
    days: int,
    seed: int,
    step_s: int = 600,
    ranges: RangeSet = "train",
    faults: Sequence[Fault] = (),
    ages: Sequence[int] | None = None,
    *,
    start: datetime = DEFAULT_START,
    houses_per_farm: int | None = 4,
    gaps: bool = True,
    field: bool = False,
    restock: bool = False,
    to_slaughter: bool = True,
) -> Recording:
    """Return ``days`` days of a farm from ``start`` on, in memory; shapes are in the module's docstring.

    Flocks that have not ended by then live on unseen ``to_slaughter``, so that their ``slaughter_weight_g`` is known.

    Raises:
        UsageError: as for ``Farm``, or ``step_s`` does not divide an hour.
    """
    if step_s < 1 or 3600 % step_s:
        message = f"step_s must divide an hour, {step_s} does not"
        raise UsageError(message)
    farm = Farm(
        houses,
        seed,
        start,
        ranges=ranges,
        faults=faults,
        ages=ages,
        houses_per_farm=houses_per_farm,
        gaps=gaps,
        field=field,
        restock=restock,
    )
    told = farm.run_to(farm.start_ms)
    count = days * 86_400 // step_s
    at_ms = farm.start_ms + (np.arange(count, dtype=np.int64) + 1) * step_s * 1000
    values = np.empty((count, len(SIGNALS), houses))
    weight, live = np.full((2, houses, days), np.nan), np.zeros((houses, days))
    per_day = 86_400 // step_s
    for n, step in enumerate(farm.steps(step_s, int(at_ms[-1]))):
        values[n] = step.values
        told += step.told
        if n % per_day == per_day // 2:
            here = farm.birds.alive > 0
            weight[0, :, n // per_day] = np.where(here, farm.birds.weight, np.nan)
            weight[1, :, n // per_day] = np.where(here, farm.birds.weight_sd, np.nan)
            live[:, n // per_day] = farm.birds.alive
    signals = {name: np.ascontiguousarray(values[:, i].T) for i, name in enumerate(SIGNALS)}
    flocks = finish(farm) if to_slaughter else farm.flocks()
    run = Run(
        houses,
        days,
        seed,
        step_s,
        ranges,
        None if ages is None else tuple(ages),
        start,
        houses_per_farm,
        gaps,
        restock,
        field,
    )
    mean, spread = weight
    return Recording(at_ms, signals, farm.farm_of, flocks, mean, spread, live, tuple(faults), tuple(told), run)


def finish(farm: Farm) -> tuple[FlockTruth, ...]:
    """Live on, unseen, until every flock that has been placed by now has ended; return those flocks."""
    placed = farm.flocks()
    farm.run_to(max((flock.end_ms for flock in placed), default=farm.at_ms))
    known = {(flock.house, flock.flock) for flock in placed}
    return tuple(flock for flock in farm.flocks() if (flock.house, flock.flock) in known)
