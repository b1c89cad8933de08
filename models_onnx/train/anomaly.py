"""``anomaly``: how unusual a single reading is, of any sensor at any rhythm; trained on simulated series alone.

Forty views of the last 2,048 readings (the value, its means over 1 to 144 readings against the long run and against the
time just before, its spread, its steps; with and without its usual day and week) are each held against their own past:
how many times the usual, how far above the most there was. A small network makes one figure of it. What alarmed within
the last 48 readings does not alarm again: one event, one alarm.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from agent.manifest import InputSpec, Output, Series
from models_onnx.train.alarms import corpus_score
from models_onnx.train.bundle import Head, digest_of, manifest_text, write_bundle
from models_onnx.train.graph import Graph
from models_onnx.train.job import SEED
from models_onnx.train.series import course

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from agent.bundles import Bundle
    from models_onnx.train.job import Job
    from models_onnx.train.series import Course

    F32 = NDArray[np.float32]
    F64 = NDArray[np.float64]

NAME, VERSION = "anomaly", "1.0.0"
READINGS = 2_048  # a week at one every five minutes, six at one every half hour; a power of two, for the maxima
QUIET = 48  # readings after an alarm in which the same event raises no other
THRESHOLD = 0.5  # of the score: an alarm
MEANS, SPREADS = (1, 4, 12, 48, 144), (12, 48, 144)  # readings
LATELY = {1: 32, 4: 32, 12: 64, 48: 256, 144: 512}  # what counts as just before, for a view of so many readings
DAY_HATS, WEEK_HATS = 24, 42  # what is usual at each hour of a day, at each four of a week
WARM = 5  # times its own length, until a view says anything
LEAST_READINGS = 64.0  # below that nothing is unusual
HIDDEN = 24
CADENCE_S, MAX_RUNTIME_MS = 600, 4_000.0  # for 64 readings at once
SEEN = 8.0  # columns are clipped there, in spreads

INPUT = InputSpec(
    name="readings",
    shape=("readings", READINGS, 3),
    series=Series(length=READINGS, columns=("relative", "day_fraction", "week_fraction"), signals=("*",)),
)
OUTPUT = Output(name="score", meaning="score", target="reading")


class Views:
    """Adds to a graph what the network sees of the readings, at each from those up to it: [n, rows, columns]."""

    def __init__(self, graph: Graph, readings: str) -> None:
        """Take an input [n, rows, (value, day fraction, week fraction)]; NaN where there is no reading."""
        self._g = graph
        columns = [graph.op("Gather", readings, graph.const(i, np.int64), axis=2) for i in range(3)]
        value, self._day, self._week = columns
        unknown = graph.op("IsNaN", value)
        self._known = graph.op("Cast", graph.op("Not", unknown), to=TensorProto.FLOAT)
        self._count = self._total(self._known, READINGS)
        self._value = graph.op("Where", unknown, graph.const(0.0), value)

    def columns(self, newest: int | None = None) -> str:
        """Return the columns; of the ``newest`` rows only, where that is said."""
        g = self._g
        views, lengths = self._views()
        lately = [LATELY[length] for length in lengths]
        order = sorted(range(len(views)), key=lambda i: lately[i])  # those of one memory beside each other
        stacked = g.mul(g.concat([self._row(views[i]) for i in order], axis=1), self._row(self._known))
        count = self._row(g.op("Max", self._before(self._known, READINGS), g.const(1.0)))
        mean = g.div(self._before(stacked, READINGS, rank=3), count)
        warm = g.const(np.array([[max(WARM * lengths[i], 20)] for i in order]))
        is_warm = g.op("Cast", g.op("Greater", self._row(self._count), warm), to=TensorProto.FLOAT)
        size = g.mul(g.mul(g.op("Abs", g.sub(stacked, mean)), is_warm), self._row(self._known))
        usual = g.op("Sqrt", g.add(g.div(self._before(g.mul(size, size), READINGS, rank=3), count), g.const(1e-4)))
        most, of_late, older = self._maxima(size, [lately[i] for i in order])
        known = g.op("Log", g.add(self._row(self._count), g.const(1.0)))
        if newest is not None:
            size, usual, most, of_late, older, known = (
                self._slice(a, -newest, 2**62, rank=3) for a in (size, usual, most, of_late, older, known)
            )

        def log(a: str) -> str:
            return g.op("Log", g.add(g.div(a, usual), g.const(0.05)))

        now, past = log(size), log(older)
        parts = [now, g.sub(now, log(most)), g.sub(now, past), g.sub(log(of_late), past), known]
        return g.op("Transpose", g.concat(parts, axis=1), perm=[0, 2, 1])

    def count(self) -> str:
        """Return how many readings there are up to the newest row, [n, 1]."""
        return self._slice(self._count, -1, 2**62)

    def _views(self) -> tuple[list[str], list[int]]:
        """Return the views, each [n, rows], and how many readings each one looks at."""
        g = self._g
        level = self._level()
        off_day = g.mul(g.sub(level, self._usual(level, self._day, DAY_HATS)), self._known)
        off_week = g.mul(g.sub(off_day, self._usual(off_day, self._week, WEEK_HATS)), self._known)
        views, lengths = [], []
        for a in (level, off_day, off_week):
            for k in MEANS:
                views += [self._mean(a, k), g.sub(self._mean(a, k), self._shift(self._mean(a, 4 * k), k))]
                lengths += [k, k]
        steps = g.mul(g.mul(g.sub(level, self._shift(level, 1)), self._known), self._shift(self._known, 1))
        views.append(steps)
        lengths.append(1)
        for k in SPREADS:
            mean = self._mean(level, k)
            variance = g.op("Relu", g.sub(self._mean(g.mul(level, level), k), g.mul(mean, mean)))
            spread = g.op("Log", g.add(variance, g.const(1e-3)))
            unrest = g.op("Log", g.add(self._mean(g.mul(steps, steps), k), g.const(1e-3)))
            views += [spread, g.sub(spread, self._shift(spread, k)), unrest]
            lengths += [k, k, k]
        return views, lengths

    def _level(self) -> str:
        """Return each value against the mean and spread of those before it, large ones drawn in."""
        g = self._g
        value = g.op("Cast", self._value, to=TensorProto.DOUBLE)
        largest = g.op("ReduceMax", g.op("Abs", self._value), axes=[1], keepdims=1)
        value = g.div(value, g.op("Cast", g.add(largest, g.const(1e-30)), to=TensorProto.DOUBLE))
        before = self._before(self._known, READINGS)
        count = g.op("Max", before, g.const(1.0))
        comparable = g.mul(self._known, g.op("Min", before, g.const(1.0)))  # the first has nothing before it
        known, counted = (g.op("Cast", a, to=TensorProto.DOUBLE) for a in (comparable, count))
        off = g.mul(g.sub(value, g.div(self._before(value, READINGS, keep=True), counted)), known)
        variance = g.div(self._before(g.mul(off, off), READINGS, keep=True), counted)
        variance = g.op("Max", variance, g.const(0.0, np.float64))
        spread = g.add(g.op("Sqrt", variance), g.const(1e-6, np.float64))
        level = g.op("Asinh", g.op("Cast", g.div(g.mul(off, g.const(2.0, np.float64)), spread), to=TensorProto.FLOAT))
        return g.mul(level, self._known)

    def _usual(self, level: str, fraction: str, count: int) -> str:
        """Return what is usual at each time of a day or week: the mean of those before, near 0 where they are few."""
        g = self._g
        apart = g.op("Abs", g.sub(self._row(fraction), g.const(np.arange(count)[:, None] / count)))
        nearest = g.op("Min", apart, g.sub(g.const(1.0), apart))
        hats = g.op("Relu", g.sub(g.const(1.0), g.mul(nearest, g.const(float(count)))))
        hats = g.op("Where", g.op("IsNaN", hats), g.const(0.0), hats)
        sums = self._before(g.mul(hats, self._row(level)), READINGS, rank=3)
        mean = g.div(sums, g.add(self._before(hats, READINGS, rank=3), g.const(3.0)))
        return g.op("ReduceSum", g.mul(hats, mean), g.const([1], np.int64), keepdims=0)

    def _maxima(self, size: str, lately: Sequence[int]) -> tuple[str, str, str]:
        """Return the most of each view before each row: at all, of late, and before that."""
        g = self._g
        widths = sorted(set(lately))
        window, width, of_width = self._shift(size, 1, rank=3), 1, {}
        while width < READINGS:
            window = g.op("Max", window, self._shift(window, width, rank=3))
            width *= 2
            of_width[width] = window
        groups = [(w, [i for i, of in enumerate(lately) if of == w]) for w in widths]
        late = [g.op("Gather", of_width[w], g.const(rows, np.int64), axis=1) for w, rows in groups]
        old = [self._shift(g.op("Gather", window, g.const(rows, np.int64), axis=1), w, rank=3) for w, rows in groups]
        return window, g.concat(late, axis=1), g.concat(old, axis=1)

    def _row(self, a: str) -> str:
        """Return [n, rows] as [n, 1, rows]."""
        return self._g.op("Unsqueeze", a, self._g.const([1], np.int64))

    def _slice(self, a: str, begin: int, end: int, rank: int = 2) -> str:
        ends = (self._g.const([edge], np.int64) for edge in (begin, end, rank - 1))
        return self._g.op("Slice", a, *ends)

    def _shift(self, a: str, rows: int, rank: int = 2) -> str:
        """Return what stood so many rows before, 0 where there was no row."""
        pads = [0] * (2 * rank)
        pads[rank - 1] = rows
        return self._slice(self._g.op("Pad", a, self._g.const(pads, np.int64)), 0, -rows, rank)

    def _total(self, a: str, rows: int, rank: int = 2, *, keep: bool = False) -> str:
        """Return the sum of the last so many rows, added in double; ``keep``: left so."""
        g = self._g
        sums = g.op("CumSum", g.op("Cast", a, to=TensorProto.DOUBLE), g.const(rank - 1, np.int64))
        total = g.sub(sums, self._shift(sums, rows, rank))
        return total if keep else g.op("Cast", total, to=TensorProto.FLOAT)

    def _before(self, a: str, rows: int, rank: int = 2, *, keep: bool = False) -> str:
        """Return the sum of so many rows before each row, itself left out."""
        return self._shift(self._total(a, rows, rank, keep=keep), 1, rank)

    def _mean(self, a: str, rows: int) -> str:
        """Return the mean of the last so many readings."""
        if rows == 1:
            return a
        known = self._g.op("Max", self._total(self._known, rows), self._g.const(1.0))
        return self._g.div(self._total(a, rows), known)


class Net:
    """One hidden layer, one figure: above 0 is unusual. Adam, mean cross entropy; same seed, same bits."""

    def __init__(self, columns: F32, seed: int) -> None:
        """Begin with random weights, for columns like these."""
        rng = np.random.default_rng(seed)
        self.mean = columns.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.spread = (columns.std(axis=0, dtype=np.float64) + 1e-4).astype(np.float32)
        width = columns.shape[1]
        first = rng.normal(0, (2 / width) ** 0.5, (width, HIDDEN))
        second = rng.normal(0, (1 / HIDDEN) ** 0.5, (HIDDEN, 1))
        shapes = first, np.zeros(HIDDEN), second, np.zeros(1)
        self.weights = [a.astype(np.float32) for a in shapes]

    def _hidden(self, x: F32) -> F32:
        return np.asarray(np.maximum(x @ self.weights[0] + self.weights[1], 0), np.float32)

    def seen(self, columns: F32) -> F32:
        """Return the columns as the network sees them."""
        return np.asarray(np.clip((columns - self.mean) / self.spread, -SEEN, SEEN), np.float32)

    def __call__(self, columns: F32) -> F64:
        """Return the figure of each row."""
        x = self.seen(columns)
        return np.asarray((self._hidden(x) @ self.weights[2] + self.weights[3])[:, 0], np.float64)

    def fit(self, columns: F32, is_unusual: NDArray[np.bool_], epochs: int, seed: int) -> None:
        """Fit the weights to labelled rows; the steps fall along a cosine (Kingma and Ba 2015)."""
        rng, x, y = np.random.default_rng(seed), self.seen(columns), is_unusual.astype(np.float32)[:, None]
        first = [np.zeros_like(w) for w in self.weights]
        second = [np.zeros_like(w) for w in self.weights]
        batch = 512
        steps, step = epochs * (len(x) // batch), 0
        for _ in range(epochs):
            order = rng.permutation(len(x))
            for begin in range(0, len(x) - batch + 1, batch):
                rows = order[begin : begin + batch]
                step += 1
                rate = 2e-3 * 0.5 * (1 + np.cos(np.pi * step / steps)) + 1e-5
                for i, slope in enumerate(self._slopes(x[rows], y[rows])):
                    first[i] = 0.9 * first[i] + 0.1 * slope
                    second[i] = 0.999 * second[i] + 0.001 * slope * slope
                    moved = (first[i] / (1 - 0.9**step)) / (np.sqrt(second[i] / (1 - 0.999**step)) + 1e-8)
                    self.weights[i] = (self.weights[i] - rate * (moved + 1e-3 * self.weights[i])).astype(np.float32)

    def _slopes(self, x: F32, y: F32) -> list[F32]:
        hidden = self._hidden(x)
        off = (1 / (1 + np.exp(-(hidden @ self.weights[2] + self.weights[3]))) - y) / len(y)
        back = (off @ self.weights[2].T) * (hidden > 0)
        return [x.T @ back, back.sum(axis=0), hidden.T @ off, off.sum(axis=0)]

    def emit(self, g: Graph, columns: str) -> str:
        """Add the network to a graph: [n, rows, columns] to [n, rows]."""
        scaled = g.div(g.sub(columns, g.const(self.mean)), g.const(self.spread))
        x = g.op("Clip", scaled, g.const(-SEEN), g.const(SEEN))
        hidden = g.op("Relu", g.add(g.op("MatMul", x, g.const(self.weights[0])), g.const(self.weights[1])))
        figure = g.add(g.op("MatMul", hidden, g.const(self.weights[2])), g.const(self.weights[3]))
        return g.op("Squeeze", figure, g.const([2], np.int64))


def export(net: Net, limit: float) -> ModelProto:
    """Return the model: a score above ``THRESHOLD`` where the figure is above ``limit`` and was not lately."""
    g = Graph({INPUT.name: INPUT.shape})
    views = Views(g, INPUT.name)
    figures = net.emit(g, views.columns(QUIET + 1))
    last = g.const([1], np.int64)
    now = g.op("Slice", figures, g.const([QUIET], np.int64), g.const([QUIET + 1], np.int64), last)
    lately = g.op("Slice", figures, g.const([0], np.int64), g.const([QUIET], np.int64), last)
    most = g.op("ReduceMax", lately, axes=[1], keepdims=1)
    score = g.op("Sigmoid", g.sub(now, g.const(limit)))
    is_new = g.op("Less", most, g.const(limit))
    is_known = g.op("GreaterOrEqual", views.count(), g.const(LEAST_READINGS))
    counted = g.op("Where", is_new, score, g.mul(score, g.const(THRESHOLD - 0.01)))
    score = g.op("Where", is_known, counted, g.const(0.0))
    return g.model({OUTPUT.name: (g.op("Squeeze", score, g.const([1], np.int64)), ("readings",))})


# --- training ---------------------------------------------------------------------------------------------------------


def columns_of(series: Course) -> F32:
    """Return what the network sees at each row of a series, by the very nodes that the bundle has."""
    g = Graph({INPUT.name: ("n", "rows", 3)})
    name = Views(g, INPUT.name).columns()
    relative = series.labelled.values - series.labelled.values[-1]
    rows = np.stack([relative, series.day_fraction, series.week_fraction], axis=-1)
    return np.asarray(g.values([name], {INPUT.name: rows[None].astype(np.float32)})[0][0], np.float32)


def labels_of(series: Course) -> NDArray[np.int8]:
    """Return 1 where an alarm is wanted (a third of a window from the onset on, 60 rows at most), 0, -1: either."""
    labels = np.zeros(len(series.labelled.values), np.int8)
    for first, last in series.labelled.windows:
        labels[first : last + 1] = -1
    for onset, (first, last) in zip(series.onsets, series.labelled.windows, strict=True):
        labels[onset : min(onset + max((last - first) // 3, 3), onset + 60, last + 1)] = 1
    return labels


def alarms_of(figures: F64, limit: float) -> F64:
    """Return 1 where the figure is above ``limit`` and was not within the last ``QUIET`` rows, else 0."""
    above = np.flatnonzero(figures >= limit)
    is_first = np.diff(above, prepend=-QUIET - 1) > QUIET
    found = np.zeros(len(figures))
    found[above[is_first]] = 1.0
    return found


def _rows(seeds: Sequence[int], share: float) -> tuple[F32, NDArray[np.bool_]]:
    """Return rows of many series to learn from: all that are wanted, and a share of those that are not."""
    columns, wanted = [], []
    for seed in seeds:
        series = course(seed)
        labels = labels_of(series)
        rng = np.random.default_rng(seed + 1)
        chosen = (labels == 1) | ((labels == 0) & (rng.random(len(labels)) < share))
        chosen[: series.labelled.probation] = False
        columns.append(columns_of(series)[chosen])
        wanted.append(labels[chosen] == 1)
    return np.concatenate(columns), np.concatenate(wanted)


def build(job: Job) -> Bundle:
    """Train the bundle from simulated series and write it."""
    train_count, judged_count, epochs = (6, 4, 2) if job.tiny else (160, 50, 10)
    begun = time.monotonic()
    columns, wanted = _rows(range(SEED, SEED + train_count), 0.2)
    job.say(
        f"{NAME}: {len(wanted):,} readings of {train_count} series, {wanted.mean():.0%} of them just behind an onset"
    )
    net = Net(columns, SEED)
    net.fit(columns, wanted, epochs, SEED)
    judged = [course(SEED + 100_000 + i) for i in range(judged_count)]
    figures = {series.labelled.name: net(columns_of(series)) for series in judged}
    files = [series.labelled for series in judged]

    def score_at(limit: float) -> float:
        return corpus_score(files, {name: alarms_of(f, limit) for name, f in figures.items()}, 0.5)

    limit = max(np.linspace(-2, 6, 33).tolist(), key=score_at)
    score = round(score_at(limit), 1)
    took_s = time.monotonic() - begun
    job.say(f"{NAME}: limit {limit:g} scores {score} of 100 on {judged_count} other series, after {took_s:.0f} s")
    model = export(net, limit)
    tested = {INPUT.name: _windows(course(SEED + 200_000))}
    metrics = {"simulated_series_score": score}
    head = Head(NAME, VERSION, "custom", CADENCE_S, digest_of([columns]), metrics, MAX_RUNTIME_MS)
    manifest = manifest_text(head, (INPUT,), (OUTPUT,))
    card = CARD.format(
        threshold=THRESHOLD, quiet=QUIET, train=train_count, judged=judged_count, score=score, limit=limit
    )
    return write_bundle(job.out / NAME / VERSION, model, manifest, tested, card)


def _windows(series: Course) -> F32:
    """Return windows of a series for the self-test: one that is hardly begun, one half full, and full ones."""
    values = series.labelled.values
    found = np.full((4, READINGS, 3), np.nan, np.float32)
    for i, end in enumerate((40, READINGS // 2, min(READINGS + 7, len(values)), len(values))):
        rows = slice(max(end - READINGS, 0), end)
        count = rows.stop - rows.start
        found[i, READINGS - count :, 0] = values[rows] - values[end - 1]
        found[i, READINGS - count :, 1] = series.day_fraction[rows]
        found[i, READINGS - count :, 2] = series.week_fraction[rows]
    return found


CARD = """\
# anomaly 1.0.0

How unusual a single reading is, 0 to 1, for any sensor at any rhythm: from its last 2,048 readings and the time of
day and week, nothing else. {threshold} and more is an alarm; what alarmed within the last {quiet} readings does not
alarm again. It is not among the bundles that run by default, raises no warning, and knows nothing of birds: a generic
second opinion.

- **Trained on** {train} simulated series (`models_onnx/train/series.py`): days and weeks, restless and quiet times,
  changing levels, normal peaks, with ten kinds of anomaly. No measured series was trained on.
- **Limit** {limit:g} of the network's figure, chosen on {judged} further simulated series: {score} of 100 there, by the
  rule of the Numenta Anomaly Benchmark, standard profile.
- **On seven real series of that benchmark**: docs/models.md, with how often they were looked at while this was made.
- **Limits**: it says nothing (0) before 64 readings, and little before some hundreds. What
  comes back every few days it takes for normal. A slow drift it sees late or not at all.
- **Licence** Apache-2.0.
"""
