"""What is simulated and played: many farms, half of the flocks healthy for their whole life, half with one fault each.

Jobs run in processes of their own; what each returns is small, and the same for the same seed.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from agent.domain import to_ms
from models_onnx.evaluate.expected import expected_of
from models_onnx.evaluate.mortality import deaths_of
from models_onnx.evaluate.play import play, predictor_of
from models_onnx.evaluate.record import records_of
from models_onnx.evaluate.scenarios import IN_THE_FIELD, SCENARIOS
from models_onnx.evaluate.scoring import LASTING, SLOW, found_of, quiet_of, right_until
from models_onnx.evaluate.weights import weighed_of
from models_onnx.farm.campaign import draw_fault, kinds_of
from models_onnx.farm.farm import DAY_MS, HOUR_MS
from models_onnx.farm.faults import FAULTS
from models_onnx.farm.flocks import plan_flock
from models_onnx.farm.params import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from models_onnx.evaluate.expected import Expected
    from models_onnx.evaluate.mortality import Deaths
    from models_onnx.evaluate.play import Played
    from models_onnx.evaluate.record import HouseRecord
    from models_onnx.evaluate.scoring import Found, Quiet
    from models_onnx.evaluate.weights import Weighed
    from models_onnx.farm.faults import Fault
    from models_onnx.farm.params import RangeSet

SEED = 137_000  # none of the training's; those from 91,000 on were looked at while the models were made
PLAIN = "as it is"
ONLY_IN_HEAT = ("cooling_failure", "heat_wave")  # their farms begin in summer, or they would show nothing
OF_THE_FARM = "heat_wave"  # one weather: all houses of its farm have it
LEAST_H = 96.0  # of a slow fault, before the flock leaves
SUMMER = 6  # the month
SCENARIO_FAULTS = ("water_line_blocked", "coccidiosis", "feed_outage", "growth_lag", "ventilation_failure", *SLOW[3:6])
FAULT_DAYS, SCENARIO_DAYS, TWO_FLOCKS = 52, 44, 104


@dataclass(frozen=True, slots=True)
class Size:
    """How much is played."""

    healthy_farms: int  # two flocks in each house, one after the other
    per_kind: int  # houses for each kind of fault
    scenario_farms: int  # of each scenario
    houses_per_farm: int
    farms_per_job: int
    kinds: tuple[str, ...] | None = None  # None: all that the range set has
    days: int | None = None  # stops earlier: for tests


FULL = Size(healthy_farms=6, per_kind=6, scenario_farms=2, houses_per_farm=4, farms_per_job=4)
MIDDLE = Size(healthy_farms=4, per_kind=2, scenario_farms=1, houses_per_farm=2, farms_per_job=2)
SHORT = Size(
    healthy_farms=2,
    per_kind=1,
    scenario_farms=1,
    houses_per_farm=2,
    farms_per_job=2,
    kinds=("water_line_blocked", "feed_outage", "mortality_outbreak", "growth_lag"),
    days=24,
)


@dataclass(frozen=True, slots=True)
class Job:
    """Some farms that are simulated and played together; ``kinds`` holds one fault for each house, "" = none."""

    name: str
    ranges: RangeSet
    seed: int
    start: datetime
    days: int
    houses_per_farm: int
    kinds: tuple[str, ...]
    scenario: str = PLAIN
    restock: bool = False


@dataclass(slots=True)
class Outcome:
    """What one house gave."""

    job: str
    scenario: str
    farm: str
    house_days: float  # played
    found: Found | None
    quiet: Quiet
    weighed: list[Weighed] = field(default_factory=list)
    expected: list[Expected] = field(default_factory=list)
    deaths: list[Deaths] = field(default_factory=list)

    @property
    def is_healthy(self) -> bool:
        """Whether nothing was wrong in its whole life."""
        return self.found is None


def jobs_of(ranges: RangeSet, size: Size) -> list[Job]:
    """Return everything that is to be played."""
    return [*_healthy(ranges, size), *_faulty(ranges, size), *_scenarios(ranges, size)]


def _start(number: int, of: int) -> datetime:
    """Return the start of job ``number``: over the whole year."""
    return datetime(2027, 1 + number * 12 // max(of, 1) % 12, 3, tzinfo=UTC)


def _healthy(ranges: RangeSet, size: Size) -> Iterator[Job]:
    per_job = max(size.farms_per_job // 2, 1)  # they live twice as long
    jobs = -(-size.healthy_farms // per_job)
    for number in range(jobs):
        farms = min(per_job, size.healthy_farms - number * per_job)
        kinds = ("",) * (farms * size.houses_per_farm)
        days = size.days or TWO_FLOCKS
        start = _start(number, jobs)
        yield Job("healthy", ranges, SEED + number, start, days, size.houses_per_farm, kinds, restock=True)


def _faulty(ranges: RangeSet, size: Size) -> Iterator[Job]:
    """Yield farms with one fault in each house, every kind as often as the others."""
    kinds = size.kinds or kinds_of(ranges)
    anywhen = [kind for kind in kinds if kind not in ONLY_IN_HEAT] * size.per_kind
    in_heat = [kind for kind in kinds if kind in ONLY_IN_HEAT and kind != OF_THE_FARM] * size.per_kind
    waves = -(-size.per_kind // size.houses_per_farm) if OF_THE_FARM in kinds else 0
    rng = np.random.default_rng(SEED)
    for number, (month, wanted) in enumerate(
        [(None, part) for part in _parts([anywhen[i] for i in rng.permutation(len(anywhen))], size)]
        + [(SUMMER, part) for part in _parts(in_heat, size)]
        + [(SUMMER, part) for part in _parts([OF_THE_FARM] * waves * size.houses_per_farm, size)]
    ):
        start = _start(number * 5, 12) if month is None else datetime(2027, month, 3, tzinfo=UTC)
        days = size.days or FAULT_DAYS
        yield Job("faults", ranges, SEED + 100 + number, start, days, size.houses_per_farm, tuple(wanted))


def _parts(kinds: Sequence[str], size: Size) -> list[list[str]]:
    """Return the kinds in parts of whole farms, one for each job; the last farm is filled with healthy houses."""
    per_job = size.farms_per_job * size.houses_per_farm
    parts = [list(kinds[i : i + per_job]) for i in range(0, len(kinds), per_job)]
    return [part + [""] * (-len(part) % size.houses_per_farm) for part in parts]


def _scenarios(ranges: RangeSet, size: Size) -> Iterator[Job]:
    """Yield the same farms in every scenario, every second house with a fault."""
    houses = size.scenario_farms * size.houses_per_farm
    if not houses:
        return
    kinds = tuple(SCENARIO_FAULTS[i // 2 % len(SCENARIO_FAULTS)] if i % 2 else "" for i in range(houses))
    days = min(size.days or SCENARIO_DAYS, SCENARIO_DAYS)
    for scenario in SCENARIOS:
        yield Job(
            "robustness", ranges, SEED + 200, datetime(2027, 4, 3, tzinfo=UTC), days, size.houses_per_farm, kinds,
            scenario,
        )  # fmt: skip


def faults_of(job: Job) -> list[Fault]:
    """Return the faults of a job; a house whose flock has no room for its own has none."""
    found = []
    start_ms = to_ms(job.start)
    for house, kind in enumerate(job.kinds):
        if not kind:
            continue
        first = house // job.houses_per_farm * job.houses_per_farm if kind == OF_THE_FARM else house
        plan = plan_flock(
            job.seed, job.ranges, house=first, number=0, placed_on=job.start.date(), capacity=1.0
        )  # the flock that the farm will place
        rng = generator(job.seed, job.ranges, 9, first)
        shows_h = LEAST_H if kind in LASTING else min(FAULTS[kind].drawn_hours[0], LEAST_H)
        room_ms = round(shows_h * HOUR_MS)  # or the flock's end hides what it does
        last_ms = min(start_ms + job.days * DAY_MS, plan.catch_ms) - room_ms
        fault = draw_fault(kind, plan, rng, job.ranges, start_ms, last_ms)
        if fault is not None:
            found.append(replace(fault, house=house))
    return found


def played_of(job: Job, bundles: Path) -> tuple[list[HouseRecord], list[Played]]:
    """Return the houses of a job and what the agent makes of them; a faulty one stops a while after its fault."""
    records = records_of(
        job.ranges,
        houses=len(job.kinds),
        houses_per_farm=job.houses_per_farm,
        days=job.days,
        seed=job.seed,
        start=job.start,
        faults=faults_of(job),
        restock=job.restock,
        field=job.scenario == IN_THE_FIELD,
    )
    records = [
        record if record.fault is None else record.until(right_until(record.fault) + DAY_MS) for record in records
    ]
    change = SCENARIOS[job.scenario]
    records = [change(record, generator(job.seed, job.ranges, 11, house)) for house, record in enumerate(records)]
    return records, play(records, predictor_of(bundles))


def run(job: Job, bundles: Path) -> list[Outcome]:
    """Simulate, play and score one job."""
    return outcomes_of(job, *played_of(job, bundles))


def outcomes_of(job: Job, records: Sequence[HouseRecord], played: Sequence[Played]) -> list[Outcome]:
    """Return what each house gave."""
    outcomes = []
    for record, of in zip(records, played, strict=True):
        fault = record.fault
        days = sum(max(min(f.end_ms, record.end_ms) - f.placed_ms, 0) for f in record.flocks) / DAY_MS
        outcome = Outcome(
            job.name,
            job.scenario,
            record.farm,
            days,
            None if fault is None else found_of(record, fault, of),
            quiet_of(record, of, None if fault is None else fault.from_ms),
            deaths=list(deaths_of(record, of)),
        )
        if fault is None:
            outcome.weighed = list(weighed_of(record, of))
            outcome.expected = list(expected_of(record, of))
        outcomes.append(outcome)
    return outcomes


def run_all(jobs: Sequence[Job], bundles: Path, processes: int, say: Callable[[str], None]) -> list[Outcome]:
    """Return the outcomes of all jobs, in their order, whoever is ready first."""
    done: dict[int, list[Outcome]] = {}
    if processes == 1:
        for number, job in enumerate(jobs):
            done[number] = run(job, bundles)
            say(_told(job, done[number], len(done), len(jobs)))
        return [outcome for number in sorted(done) for outcome in done[number]]
    context = multiprocessing.get_context("spawn")  # onnxruntime's threads do not survive a fork
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = {pool.submit(run, job, bundles): number for number, job in enumerate(jobs)}
        for future in as_completed(futures):
            number = futures[future]
            done[number] = future.result()
            say(_told(jobs[number], done[number], len(done), len(jobs)))
    return [outcome for number in sorted(done) for outcome in done[number]]


def _told(job: Job, outcomes: Sequence[Outcome], done: int, of: int) -> str:
    days = sum(outcome.house_days for outcome in outcomes)
    scenario = "" if job.scenario == PLAIN else f", {job.scenario}"
    return f"{done} of {of}: {job.name}{scenario}, {len(outcomes)} houses, {days:,.0f} house-days"
