"""The bundle ``mortality``: is an outbreak of deaths about to begin?

It reads nothing but the flock's own daily losses: against what the flock is used to, against what single days of it
vary by, against chance in a house of this size, and against what would be an outbreak tomorrow. Water, feed and weight
are left out on purpose: on commercial flocks they did not lead the outbreaks (F1 of docs/sources.md), so a model could
only learn the simulator's idea of it. A round left out and counted next day, and a figure put right by a negative one,
are mended before anything is compared.

What it says is the probability that these days are such as come before an outbreak: where a warning rises by it, about
that share of the simulated flocks had one within a week.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from agent.manifest import OUTBREAK, InputSpec, Output
from agent.mortality import CHANCE_SDS, FORESEEN_FOR
from models_onnx.train import outbreaks
from models_onnx.train.bags import Bags, Scorer, fit
from models_onnx.train.bundle import SELFTEST_ROWS, Head, digest_of, manifest_text, reference_of, write_bundle
from models_onnx.train.card import mortality_card
from models_onnx.train.graph import Graph
from models_onnx.train.job import SEED
from models_onnx.train.mortality_courses import COMMERCIAL, DAYS, WIDE, Sample
from models_onnx.train.net import Scaling

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from onnx import ModelProto

    from agent.bundles import Bundle
    from models_onnx.train.job import Job
    from models_onnx.train.mortality_courses import Courses
    from models_onnx.train.outbreaks import Score

    F32 = NDArray[np.float32]
    F64 = NDArray[np.float64]
    Bools = NDArray[np.bool_]

NAME, VERSION = "mortality", "1.0.0"
CADENCE_S = 600  # a count is told at any time, and the warning shall not wait for the hour
LENGTH = 15  # farm days that are compared: the day itself and two weeks
FACTS = ("age_days", "day_fraction", "live_birds", *(f"losses.{back}" for back in range(LENGTH, -1, -1)))
"""One day more than is compared: while the farm day is not over, both it and the day before it are looked at."""
AGE, FRACTION, LIVE, COURSE = range(4)
INPUTS = (InputSpec(name="facts", shape=("houses", len(FACTS)), facts=FACTS),)

SMALLEST = 0.0002  # a usual loss below that share is taken for it: a single bird would be a multiple (agent/watch.py)
NOT_NOUGHT = 4.0  # a nought where so many birds are usual is a round that was left out: by chance in 2 % at the most
ALLOWED_FALSE = 0.28  # episodes per flock of the validation's commercial populations: the limit is the least that holds
BACK = 0.8  # share of the limit, in odds, below which an alarm is over: the rule's own deadband (agent/rules.py)
FED_SHARE, FED_LEAST = 80, 5  # one flock of so many shows what is usual; at least so many of each population
FED_A_DAY = 4  # times: as a gateway, a week is more than its seven figures to the reference
BLOCK_DAYS = 4  # false alarms within so many days are one episode


def columns(g: Graph, course: str, age: str, live: str) -> str:
    """Add what the network looks at; return it side by side.

    Args:
        g: The graph.
        course: Losses per living bird of ``LENGTH`` farm days [n, LENGTH], the last one the day in question.
        age: The age on that day in days [n, 1].
        live: The living birds [n, 1].
    """
    first, last = 0, LENGTH - 1

    def days(a: str, begin: int, end: int) -> str:
        """Return the days from ``begin`` to ``end`` days ago."""
        return g.columns(a, range(last - begin, last - end + 1))

    def later(a: str) -> str:
        """Return each day's value on the day after it; nothing on the first."""
        nothing = g.mul(g.columns(a, [first]), g.const(0.0))
        return g.concat([nothing, g.columns(a, range(last))])

    unknown = g.op("IsNaN", course)
    told = g.op("Where", unknown, g.const(0.0), course)
    # what was told too much is taken back by a negative figure, mostly on the next day
    back = g.op("Min", told, g.const(0.0))
    taken = g.concat([g.columns(back, range(1, LENGTH)), g.mul(g.columns(back, [last]), g.const(0.0))])
    mended = g.op("Max", g.add(told, taken), g.const(0.0))
    share = g.op("Where", unknown, g.const(np.nan), mended)
    # a day without a round is in the count of the day after it
    many = g.op("Greater", g.mul(g.median_known(share, LENGTH), live), g.const(NOT_NOUGHT))
    nought = g.op("Not", g.op("Greater", mended, g.const(0.0)))
    missing = g.op("Or", unknown, g.op("And", nought, many))
    gap = g.op("Cast", missing, to=TensorProto.FLOAT)
    after = later(gap)
    over = g.add(g.const(1.0), g.add(after, g.mul(after, later(after))))
    each = g.op("Where", missing, g.const(np.nan), g.div(mended, over))

    half_a_bird = g.div(g.const(0.5), live)
    outbreak = math.log(outbreaks.LEAST_SHARE)

    def log(a: str) -> str:
        """Return the log of a loss, against an outbreak's."""
        return g.sub(g.op("Log", g.add(a, half_a_bird)), g.const(outbreak))

    def log_usual(a: str) -> str:
        """Return the log of a usual loss, against an outbreak's."""
        return g.sub(g.op("Log", g.op("Max", a, g.const(SMALLEST))), g.const(outbreak))

    today, two, three = days(each, 0, 0), g.mean_known(days(each, 1, 0)), g.mean_known(days(each, 2, 0))
    week = log_usual(g.median_known(days(share, 7, 1), 7))
    next_week = log_usual(g.median_known(days(share, 6, 0), 7))  # what tomorrow will be held against
    needed = g.op("Max", g.add(next_week, g.const(math.log(outbreaks.LEAST_FACTOR))), g.const(0.0))

    before = days(each, 12, 2)
    usual = g.mean_known(before)
    off = g.sub(before, usual)
    birds = g.mul(usual, live)
    variance = g.mul(g.mean_known(g.mul(off, off)), g.mul(live, live))

    def surprise(a: str, days: int) -> str:
        """Return how far a mean of some days is above the usual, by what chance and this flock's own days vary."""
        spread = g.op("Sqrt", g.mul(g.add(g.add(variance, birds), g.const(1.0)), g.const(1 / days)))
        return g.op("Asinh", g.div(g.sub(g.mul(a, live), birds), spread))

    recent = g.op("Where", g.op("IsNaN", each), g.const(0.0), each)
    highest = log(g.op("ReduceMax", days(recent, 13, 1), axes=[1], keepdims=1))
    return g.concat(
        [
            *(log(days(each, n, n)) for n in range(9)),
            log(two),
            log(three),
            log(g.mean_known(days(each, 7, 3))),
            log(g.mean_known(days(each, 14, 8))),
            week,
            g.sub(log(today), week),
            g.sub(log(today), next_week),
            g.sub(log(today), needed),
            g.sub(log(two), needed),
            g.op("Log", g.div(g.op("Sqrt", g.add(variance, g.const(1.0))), g.add(birds, g.const(1.0)))),
            surprise(today, 1),
            surprise(two, 2),
            surprise(three, 3),
            surprise(days(each, 1, 1), 1),
            highest,
            g.sub(log(today), highest),
            days(after, 0, 0),
            g.op("ReduceMean", days(gap, 6, 0), axes=[1], keepdims=1),
            g.mul(age, g.const(1 / 40)),
            g.op("Log", g.mul(live, g.const(1 / 20_000))),
        ]
    )


@dataclass(frozen=True, slots=True, eq=False)
class Days:
    """Days of many flocks as the network sees them; arrays [flocks x DAYS, …]."""

    columns: F32
    bag: NDArray[np.int64]  # of an outbreak above 0, of a possible false episode below 0, 0: neither


def seen(courses: Courses) -> F32:
    """Return what the network sees at the end of each day, [flocks x DAYS, columns]."""
    n = len(courses.dead)
    share = np.concatenate((np.full((n, LENGTH - 1), np.nan), courses.share), axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(share, LENGTH, axis=1)[:, :DAYS]
    age = np.broadcast_to(np.arange(DAYS, dtype=np.float32), (n, DAYS))
    g = Graph({"course": ("days", LENGTH), "age": ("days", 1), "live": ("days", 1)})
    wanted = columns(g, "course", "age", "live")
    inputs = {
        "course": windows.reshape(-1, LENGTH).astype(np.float32),
        "age": age.reshape(-1, 1).astype(np.float32),
        "live": np.maximum(courses.live, 1).reshape(-1, 1).astype(np.float32),
    }
    return g.values([wanted], inputs)[0]


def days_of(sample: Iterable[Courses]) -> Days:
    """Return the days of all flocks of a sample that may or must not be warned of."""
    parts, bags, number = [], [], 0
    for courses in sample:
        bag = bags_of(courses)
        used = bag.ravel() != 0
        parts.append(seen(courses)[used])
        of_these = bag.ravel()[used]
        bags.append(of_these + np.sign(of_these) * number)
        number += int(np.abs(bag).max(initial=0))
    return Days(np.concatenate(parts), np.concatenate(bags))


def bags_of(courses: Courses) -> NDArray[np.int64]:
    """Return the bag of each day, [flocks, DAYS]: the week before an outbreak, or four days far from any.

    Days that are an outbreak themselves, and those in the week after one began, are in none: the plain rule has them.
    """
    share = courses.share
    firsts = outbreaks.first_days(share)
    asked = np.isfinite(share) & ~outbreaks.rule(share, outbreaks.LEAST_SHARE, outbreaks.LEAST_FACTOR)
    asked[:, : outbreaks.FIRST_AGE] = False
    n, day = len(share), np.arange(DAYS)
    bag = -(1 + np.arange(n)[:, None] * DAYS + day // BLOCK_DAYS)
    bag[outbreaks.near(firsts)] = 0
    flock, first = np.nonzero(firsts)
    for back in range(outbreaks.FINDS_DAYS, 0, -1):  # a day before two outbreaks is of the nearer
        there = first >= back
        bag[flock[there], first[there] - back] = (1 + flock * DAYS + first)[there]
    return np.where(asked, bag, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A fitted network and the scaling before it."""

    scaling: Scaling
    net: Scorer

    def probability(self, courses: Courses) -> F64:
        """Return what it says at the end of each day, [flocks, DAYS]."""
        logit = self.net.logit(self.scaling.prepared(seen(courses))).astype(np.float64)
        return np.asarray(1 / (1 + np.exp(-logit))).reshape(len(courses.dead), DAYS)


def train(days: Days, *, epochs: int, seed: int, job: Job) -> Trained:
    """Fit the network."""
    scaling = Scaling.of(days.columns, np.zeros(1, np.float32))
    net = fit(scaling.prepared(days.columns), Bags.of(days.bag), seed=seed, epochs=epochs, say=job.say)
    return Trained(scaling, net)


def odds(probability: F64) -> F64:
    """Return the odds of a probability."""
    return np.asarray(probability / np.maximum(1 - probability, 1e-9))


def raised(probability: F64, limit: float, courses: Courses, threshold: float = outbreaks.LEAST_SHARE) -> Bools:
    """Return the days on which the agent's rule ``mortality`` raises, with the plain rule as its floor.

    As in the agent: raised at the limit, over when the odds are below ``BACK`` of the limit's on a later day that was
    told, or worse than usual by no more than chance, or when what was seen coming has not come in six days; then it may
    rise anew.
    """
    share = courses.share
    plain = outbreaks.rule(share, threshold, outbreaks.LEAST_FACTOR)
    usual = np.fmax(outbreaks.trailing_median(share), SMALLEST)
    with np.errstate(invalid="ignore"):
        is_worse = share > usual + CHANCE_SDS * np.sqrt(usual / np.maximum(courses.live, 1))
    score = np.where(is_worse, odds(probability) / float(odds(np.array(limit))), 0.0)
    stands, raises = np.zeros(len(share), np.bool_), np.zeros_like(plain)
    is_there = np.zeros(len(share), np.bool_)
    waited = np.zeros(len(share), np.int64)  # days for the outbreak that was seen coming
    for d in range(outbreaks.FIRST_AGE, DAYS):
        told = np.isfinite(share[:, d])
        rises = told & ~stands & (plain[:, d] | (score[:, d] >= 1))
        raises[:, d] = rises
        waited = np.where(rises, 0, waited + 1)
        is_there |= plain[:, d]
        is_there &= stands | rises
        goes_on = (score[:, d] >= BACK) & ((waited < FORESEEN_FOR.days) | is_there)
        stands = rises | (stands & (~told | plain[:, d] | goes_on))
    return raises


def scores_at(limits: Iterable[float], said: Iterable[tuple[F64, Courses]]) -> list[Score]:
    """Return how good the raised warnings are at each limit, over all populations together."""
    known = [(probability, courses, outbreaks.first_days(courses.share)) for probability, courses in said]
    return [
        outbreaks.joined(outbreaks.judged(raised(p, limit, courses), firsts) for p, courses, firsts in known)
        for limit in limits
    ]


LIMITS = tuple(np.round(np.arange(0.05, 0.96, 0.01), 2).tolist())


def limit_of(said: Iterable[tuple[F64, Courses]], allowed: float = ALLOWED_FALSE) -> tuple[float, Score]:
    """Return the least limit that raises no more than the allowed false episodes, with how good it is."""
    found = list(zip(LIMITS, scores_at(LIMITS, said), strict=True))
    return next(((limit, score) for limit, score in found if score.false_per_flock <= allowed), found[-1])


def came_true(said: Iterable[tuple[F64, Courses]], limit: float) -> tuple[float, float]:
    """Return the mean probability with which early warnings rose, and the share of them that an outbreak followed."""
    told, hits = [], []
    for probability, courses in said:
        firsts = outbreaks.first_days(courses.share)
        early = raised(probability, limit, courses) & (probability >= limit) & ~firsts
        soon = np.zeros_like(firsts)
        for days in range(1, outbreaks.FINDS_DAYS + 1):
            soon[:, :-days] |= firsts[:, days:]
        told.append(probability[early])
        hits.append(soon[early])
    return float(np.concatenate(told).mean()), float(np.concatenate(hits).mean())


def export(trained: Trained) -> ModelProto:
    """Return the model: columns, network and what it means while the farm day is not over."""
    g = Graph({spec.name: spec.shape for spec in INPUTS})
    age, fraction, live = (g.columns("facts", [n]) for n in (AGE, FRACTION, LIVE))
    day = g.sub(g.op("Ceil", age), g.const(1.0))  # of the last row: at midnight the day that is just over
    rows = g.concat([g.columns("facts", range(COURSE + begin, COURSE + begin + LENGTH)) for begin in (1, 0)], axis=0)
    looked = columns(g, rows, g.concat([day, g.sub(day, g.const(1.0))], axis=0), g.concat([live, live], axis=0))
    scaling = trained.scaling
    logit = trained.net.emit(g, g.prepared(looked, scaling.mean, scaling.spread, scaling.gaps))
    both = g.reshape(g.op("Sigmoid", logit), [2, -1, 1])
    so_far, before = (g.op("Gather", both, g.const(n, np.int64), axis=0) for n in (0, 1))
    # a day that is not over can only get worse, and what its day before said stands until then
    is_over = g.op("Not", g.op("Greater", fraction, g.const(0.0)))
    known = g.op("Where", is_over, so_far, g.op("Max", so_far, before))
    probability = g.op("Where", g.op("IsNaN", g.columns("facts", [COURSE + LENGTH])), before, known)
    usual = g.sub(g.const(1.0), probability)
    return g.model({"outbreak": (g.concat([usual, probability]), ("houses", 2))})


def output_of(limit: float) -> Output:
    """Return the output with the probability from which on it is a warning."""
    return Output(
        name="outbreak",
        meaning="probabilities",
        target="mortality",
        labels=("usual", OUTBREAK),
        limit=limit,
    )


def for_selftest(courses: Courses) -> dict[str, F32]:
    """Return a few instants of different flocks and ages, some of them in the middle of a day."""
    flock = np.linspace(0, len(courses.dead) - 1, SELFTEST_ROWS).astype(np.intp)
    day = np.linspace(outbreaks.FIRST_AGE, 30, SELFTEST_ROWS).astype(np.intp)
    share = np.concatenate((np.full((len(courses.dead), LENGTH), np.nan), courses.share), axis=1)
    course = np.array([share[f, d : d + LENGTH + 1] for f, d in zip(flock, day, strict=True)])
    fraction = np.where(np.arange(SELFTEST_ROWS) % 2, 0.5, 0.0)
    facts = np.stack((day + np.where(fraction > 0, fraction, 1.0), fraction, courses.live[flock, day]), axis=1)
    return {"facts": np.concatenate((facts, course), axis=1).astype(np.float32)}


def fed(sample: Iterable[Courses]) -> tuple[F32, NDArray[np.int64]]:
    """Return what a gateway feeds in the midst of each day, of some flocks of each population: facts [n, FACTS].

    And of each row the number of its flock. What the day has lost so far is left out: it is no figure of a day.
    """
    facts, flocks, count = [], [], 0
    for courses in sample:
        n = max(len(courses.dead) // FED_SHARE, FED_LEAST)
        before = np.concatenate((np.full((n, LENGTH), np.nan), courses.share[:n]), axis=1)
        course = np.lib.stride_tricks.sliding_window_view(before, LENGTH + 1, axis=1)  # that of each day, it included
        flock, day = np.nonzero(np.arange(1, DAYS) < courses.length_days[:n, None])
        day += 1
        told = np.stack((day + 0.5, np.full(len(day), 0.5), courses.live[flock, day - 1]), axis=1)
        so_far = np.full((len(day), 1), np.nan)
        facts.append(np.concatenate((told, course[flock, day, :-1], so_far), axis=1).astype(np.float32))
        flocks.append(count + flock)
        count += n
    return np.concatenate(facts), np.concatenate(flocks)


def reference(sample: Iterable[Courses]) -> dict[str, F32]:
    """Return what drift is told by."""
    facts, flock = fed(sample)
    return reference_of(INPUTS, {"facts": np.repeat(facts, FED_A_DAY, axis=0)}, np.repeat(flock, FED_A_DAY))


def build(job: Job) -> Bundle:
    """Train the bundle from simulated courses and write it."""
    populations, flocks, epochs = (2, 60, 2) if job.tiny else (40, 800, 24)
    usual = Sample(COMMERCIAL, "train", populations, flocks, SEED)
    odd = Sample(WIDE, "train", populations, flocks // 6, SEED + 1)
    job.say(f"{NAME}: simulating the losses of {2 * populations} populations of flocks")
    trained_by = (*usual, *odd)
    days = days_of(trained_by)
    job.say(f"{NAME}: {len(days.columns):,} days to train on")
    trained = train(days, epochs=epochs, seed=SEED % 1000, job=job)

    by = [Sample(table, "validation", populations, flocks // 3, SEED + 2) for table in (COMMERCIAL, WIDE)]
    said = [[(trained.probability(courses), courses) for courses in sample] for sample in by]
    limit, score = limit_of(said[0])
    (odd_score,) = scores_at([limit], said[1])
    job.say(f"{NAME}: limit {limit}: {score} (commercial), {odd_score} (wide)")
    probability, share = came_true(said[0], limit)
    metrics = {
        "found": round(score.found / max(score.outbreaks, 1), 3),
        "lead_days": score.lead_days,
        "lead_1d_share": round(score.share_ahead(1), 3),
        "false_per_flock": round(score.false_per_flock, 3),
        "early_probability": round(probability, 3),
        "early_came_true": round(share, 3),
        "wide_lead_1d_share": round(odd_score.share_ahead(1), 3),
        "wide_false_per_flock": round(odd_score.false_per_flock, 3),
    }
    head = Head(NAME, VERSION, "custom", CADENCE_S, digest_of([days.columns]), {})
    manifest = manifest_text(replace(head, metrics=metrics), INPUTS, (output_of(limit),))
    directory = job.out / NAME / VERSION
    card = mortality_card(len(days.columns), usual, odd, limit, metrics)
    tested = for_selftest(said[0][0][1])
    return write_bundle(directory, export(trained), manifest, tested, card, reference(trained_by))
