"""The only onnxruntime: sessions, their self-test, and runs over all houses at once.

A model that does not fit its manifest, or whose self-test differs, is refused with the reason, and the others keep
running. A result with NaN is set aside for that house. A run that takes more processor time than the manifest allows is
ended, one that wants more memory than all models share fails; a model that fails three times in a row is set aside for
six hours. All of it is told, and none is ever in the way of the others.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from agent.errors import BundleError
from agent.manifest import BUCKET_S, DAY_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from agent.bundles import Bundle
    from agent.clock import FarmDays
    from agent.manifest import Manifest, Output
    from agent.reference import Reference
    from agent.window import HouseInputs

    Asked = tuple[str, str | None, HouseInputs]  # house, horizon, tensors
    Tensor = NDArray[np.generic]

RTOL, ATOL = 1e-3, 1e-5  # of the self-test: processors add in another order; a wrong model differs by far more
LOG_FATAL_ONLY = 4  # what goes wrong comes as an exception, with a reason; nothing else belongs on the console
MEMORY_MB = 128  # of weights and intermediate results of all models together; ours take 3, the gateway has 1,000
ARENA_GROWS_AS_ASKED = 1  # onnxruntime's kSameAsRequested; by powers of two a gateway would waste half of it
STRIKES = 3  # so many failed runs in a row, and a model is set aside
REST = timedelta(hours=6)  # for so long; then one more failure is enough
SELFTEST_RUNS, SELFTEST_MS = 10, 1_000.0  # a self-test may take so many runs' time, and this: a first run is slow
NUMBERS = {
    f"tensor({kind})" for kind in ("float", "double", "float16", "int8", "int16", "int32", "int64", "uint8", "bool")
}
TYPES = {"float32": "tensor(float)", "float64": "tensor(double)"}

# onnxruntime's exceptions have no common base; those it has live in this module
ORT_ERRORS: tuple[type[Exception], ...] = (
    *(e for e in vars(ort_state).values() if isinstance(e, type) and issubclass(e, Exception)),
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Result:
    """What one run gave: each output [houses, …], and for each house why it is set aside, or None."""

    outputs: dict[str, NDArray[np.float64]]
    set_aside: tuple[str | None, ...]


@dataclass(slots=True)
class RunCounters:
    """How a model has run so far."""

    runs: int = 0
    slow: int = 0  # took longer than max_runtime_ms
    failed: int = 0
    set_aside: int = 0  # results of single houses
    last_ms: float = 0.0
    slowest_ms: float = 0.0
    strikes: int = 0  # failed or slow runs in a row
    last_reason: str | None = None  # of the last result set aside, failed or slow run
    resting: str | None = None  # why it is not run at present
    houses: dict[str, str] = field(default_factory=dict)  # whose last result was set aside, and why


@dataclass(frozen=True, slots=True)
class Refused:
    """A bundle that does not run, and why."""

    bundle: str
    reason: str


class Model:
    """A bundle whose self-test passed."""

    def __init__(self, bundle: Bundle, threads: int = 1, *, is_bounded: bool = False) -> None:
        """Load the model, check it against its manifest, run its self-test.

        ``is_bounded``: as the agent runs it, within ``MEMORY_MB`` that it shares with all others; training and
        evaluation give it thousands of houses at once.

        Raises:
            BundleError: it does not fit, or its self-test differs.
        """
        self.bundle = bundle
        self.manifest: Manifest = bundle.manifest
        self.counters = RunCounters()
        self._output_names = [o.name for o in self.manifest.output]
        self._quantiles = [o.name for o in self.manifest.output if o.meaning == "quantiles"]
        self._probabilities = {o.name for o in self.manifest.output if o.meaning == "probabilities"}
        self._one_by_one = any(i.shape[0] == 1 for i in self.manifest.input)
        self._rests_until: datetime | None = None
        where = f"{bundle.directory / self.manifest.model.file}"
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = LOG_FATAL_ONLY
        if is_bounded:
            _share_memory()
            options.add_session_config_entry("session.use_env_allocators", "1")
        else:
            options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(bundle.model, options, providers=["CPUExecutionProvider"])
        except ORT_ERRORS as e:
            message = f"{where}: onnxruntime does not load it ({_why(e)}); export it again"
            raise BundleError(message) from e
        self._check_names(where)
        self._check_inputs(where)
        self._check_outputs(where)
        self._selftest()

    def __str__(self) -> str:
        """Return ``name/version``."""
        return str(self.bundle)

    def run(self, houses: Sequence[Mapping[str, Tensor]]) -> Result:
        """Return what the model says of each house, given its tensors by input name, without the axis of the houses."""
        return self.run_stacked({name: np.stack([house[name] for house in houses]) for name in houses[0]})

    def run_stacked(self, feed: Mapping[str, Tensor]) -> Result:
        """Return what the model says of each house, given its tensors with the axis of the houses in front.

        Quantiles come in rising order. A house whose result holds NaN or infinity, and every house of a failed run, is
        set aside with the reason.
        """
        houses = len(next(iter(feed.values())))
        begun = time.thread_time()
        try:
            raw = self._outputs_of(feed, self.manifest.max_runtime_ms)
            self._check_came(raw, houses)
        except ORT_ERRORS as e:
            took_ms = (time.thread_time() - begun) * 1000
            reason = f"the run failed: {_why(e)}"
            if took_ms > self.manifest.max_runtime_ms:
                self.counters.slow += 1
                reason = f"a run was ended after {took_ms:.0f} ms, max_runtime_ms is {self.manifest.max_runtime_ms:g}"
            else:
                self.counters.failed += 1
            self.counters.strikes += 1
            self.counters.last_reason = reason
            return Result({}, (reason,) * houses)
        self._note_runtime((time.thread_time() - begun) * 1000)
        outputs = {name: np.asarray(values, np.float64) for name, values in raw.items()}
        for name in self._quantiles:
            outputs[name] = np.sort(outputs[name], axis=-1)  # quantiles that cross are rearranged
        reasons = [self._reason(outputs, house) for house in range(houses)]
        return Result(outputs, tuple(reasons))

    def answerable(self, asked: Sequence[Asked]) -> list[Asked]:
        """Return those houses that a model can say something of; a foreign one nothing, where nothing was measured.

        Ours do with facts alone. What stands in ``fill`` is no measurement, whatever a model makes of it.
        """
        if self.manifest.task != "custom" or not self.manifest.signals:
            return list(asked)
        fed = []
        for house, horizon, inputs in asked:
            if inputs.coverage > 0:
                fed.append((house, horizon, inputs))
            else:
                self.note(house, f"none of what it looks at was measured: {', '.join(sorted(self.manifest.signals))}")
        return fed

    def note(self, house: str, reason: str | None) -> None:
        """Keep why the last result of a house was set aside; None where it was not."""
        if reason is None:
            self.counters.houses.pop(house, None)
        else:
            self.counters.houses[house] = reason

    def rests(self, at: datetime) -> str | None:
        """Return why the model is not to be run at ``at``; None where it is."""
        counters, until = self.counters, self._rests_until
        if until is None and counters.strikes >= STRIKES:
            until = self._rests_until = at + REST
            failed = f"{counters.strikes} runs in a row failed, {counters.last_reason}"
            counters.resting = f"set aside until {until:%Y-%m-%dT%H:%MZ}: {failed}"
        elif until is not None and not until - REST <= at < until:
            self._rests_until = counters.resting = None
            counters.strikes = STRIKES - 1
        return counters.resting

    def rehearse(self, houses: int) -> float:
        """Run the self-test for so many houses, as the agent will; return the processor time of the best of three, ms.

        Raises:
            BundleError: it fails, is too slow, or gives another number of results.
        """
        rows = np.arange(houses) % len(next(iter(self.bundle.selftest_inputs.values())))
        feed = {name: values[rows] for name, values in self.bundle.selftest_inputs.items()}
        took = []
        for _ in range(3):
            self.run_stacked(feed)
            took.append(self.counters.last_ms)
        if self.counters.strikes:
            message = f"{self.bundle.directory}: run for {houses} houses at once: {self.counters.last_reason}; "
            message += "make the model smaller, or raise max_runtime_ms"
            raise BundleError(message)
        return min(took)

    def _outputs_of(self, feed: Mapping[str, Tensor], within_ms: float) -> dict[str, Tensor]:
        """Return the outputs by name; one run, or one for each house where the first axis is fixed."""
        options = ort.RunOptions()
        with _BRAKE.over(options, within_ms / 1000):
            if not self._one_by_one:
                found = self._session.run(self._output_names, dict(feed), options)
                return dict(zip(self._output_names, found, strict=True))
            houses = len(next(iter(feed.values())))
            each = ({name: values[i : i + 1] for name, values in feed.items()} for i in range(houses))
            parts = [self._session.run(self._output_names, one, options) for one in each]
        return {name: np.concatenate(of) for name, of in zip(self._output_names, zip(*parts, strict=True), strict=True)}

    def _check_came(self, raw: Mapping[str, Tensor], houses: int) -> None:
        """Refuse results of another shape than the manifest's; a graph need not say its own.

        Raises:
            ValueError: an output has no row for each house.
        """
        for output in self.manifest.output:
            shape, inner = raw[output.name].shape, output.inner_shape
            if shape[:1] != (houses,) or (inner is not None and shape[1:] != inner):
                message = f"output {output.name!r} came as {shape} for {houses} houses"
                raise ValueError(message)

    def _note_runtime(self, took_ms: float) -> None:
        counters = self.counters
        counters.runs += 1
        counters.last_ms = took_ms
        counters.slowest_ms = max(counters.slowest_ms, took_ms)
        counters.strikes = 0
        if took_ms > self.manifest.max_runtime_ms:  # ended by itself before the brake did
            counters.slow += 1
            counters.strikes += 1
            counters.last_reason = f"a run took {took_ms:.0f} ms, max_runtime_ms is {self.manifest.max_runtime_ms:g}"

    def _reason(self, outputs: Mapping[str, NDArray[np.float64]], house: int) -> str | None:
        """Return why the result of a house is set aside, or None."""
        for name, values in outputs.items():
            reason = None
            if not np.isfinite(values[house]).all():
                reason = f"output {name!r} holds NaN or infinity"
            elif name in self._probabilities and not _are_shares(values[house]):
                reason = f"output {name!r} holds probabilities below 0 or above 1"
            if reason is not None:
                self.counters.set_aside += 1
                self.counters.last_reason = reason
                return reason
            if self.manifest.scored_signals and not ((values[house] >= 0) & (values[house] <= 1)).all():
                self.counters.set_aside += 1
                self.counters.last_reason = reason = f"output {name!r} is no score of 0 to 1"
                return reason
        return None

    def _check_names(self, where: str) -> None:
        """Refuse a graph whose tensors have other names than the manifest's."""
        described = {i.name for i in self.manifest.input} | {i.mask for i in self.manifest.input if i.mask}
        there = {i.name for i in self._session.get_inputs()}
        if there != described:
            differ = ", ".join(sorted(there ^ described))
            message = (
                f"{where}: its inputs are {sorted(there)}, the manifest's are {sorted(described)}; "
                f"they differ in {differ}; correct [[input]]"
            )
            raise BundleError(message)
        there = {o.name for o in self._session.get_outputs()}
        if missing := [name for name in self._output_names if name not in there]:
            message = f"{where}: has no output {missing[0]!r}, only {sorted(there)}; correct [[output]]"
            raise BundleError(message)

    def _check_inputs(self, where: str) -> None:
        """Refuse a graph whose inputs have another type or shape than the manifest's."""
        graph = {i.name: i for i in self._session.get_inputs()}
        for spec in self.manifest.input:
            for name in (spec.name, spec.mask):
                if name is None:
                    continue
                if graph[name].type != TYPES[spec.dtype]:
                    message = (
                        f"{where}: input {name!r} is {graph[name].type}, the manifest says {spec.dtype}; correct dtype"
                    )
                    raise BundleError(message)
                if not _fits(graph[name].shape, spec.shape):
                    message = (
                        f"{where}: input {name!r} has shape {graph[name].shape}, the manifest says {list(spec.shape)}; "
                        "correct shape (a name in the first place: all houses at once; a fixed 1: one by one)"
                    )
                    raise BundleError(message)

    def _check_outputs(self, where: str) -> None:
        """Refuse a graph whose outputs have another shape than the manifest's."""
        graph = {o.name: o for o in self._session.get_outputs()}
        for output in self.manifest.output:
            kind = graph[output.name].type
            if kind not in NUMBERS:
                message = (
                    f"{where}: output {output.name!r} is {kind}, and only tensors of numbers are read; "
                    "leave it out of [[output]], or export it as a tensor (scikit-learn: zipmap=False)"
                )
                raise BundleError(message)
            inner = output.inner_shape
            shape = graph[output.name].shape
            if inner is not None and shape is not None and not _fits(shape, ("houses", *inner), is_output=True):
                said = "[houses, horizons, quantiles]" if output.meaning == "quantiles" else "[houses, labels]"
                message = (
                    f"{where}: output {output.name!r} has shape {shape}, the manifest makes it "
                    f"{['houses', *inner]}, {said}; correct [[output]] or the model"
                )
                raise BundleError(message)

    def _selftest(self) -> None:
        """Refuse a model that does not give what its self-test holds."""
        where = f"{self.bundle.directory / 'selftest.npz'}"
        try:
            within_ms = SELFTEST_RUNS * self.manifest.max_runtime_ms + SELFTEST_MS
            got = self._outputs_of(self.bundle.selftest_inputs, within_ms)
        except ORT_ERRORS as e:
            message = f"{where}: the model does not run on it ({_why(e)}); write the self-test from this model"
            raise BundleError(message) from e
        for output in self.manifest.output:
            values, wanted = got[output.name], self.bundle.selftest_outputs[output.name]
            inner = output.inner_shape
            if inner is not None and values.shape[1:] != inner:
                message = f"{where}: output {output.name!r} came as {values.shape[1:]}, not {inner}; correct [[output]]"
                raise BundleError(message)
            if values.shape != wanted.shape:
                message = f"{where}: output {output.name!r} came as {values.shape}, not {wanted.shape} as written there"
                raise BundleError(message)
            if not np.allclose(_float(values), _float(wanted), RTOL, ATOL, equal_nan=True):
                worst = float(np.nanmax(np.abs(_float(values) - _float(wanted))))
                message = (
                    f"{where}: output {output.name!r} differs by up to {worst:.3g}: this is not the model, or not the "
                    "processor, that the self-test was written with; export the bundle again"
                )
                raise BundleError(message)


@dataclass(frozen=True, slots=True)
class Due:
    """A model to run now, and those of its outputs that are wanted now."""

    model: Model
    outputs: tuple[Output, ...]


@dataclass(slots=True)
class Predictor:
    """All models of the agent; ``refused`` are the bundles that do not run, with the reason."""

    models: tuple[Model, ...]
    refused: tuple[Refused, ...]
    days: FarmDays

    @classmethod
    def load(cls, bundles: Sequence[Bundle], days: FarmDays, threads: int = 1) -> Predictor:
        """Return a predictor of those bundles that pass their self-test; the others are in ``refused``."""
        models, refused = [], []
        for bundle in bundles:
            try:
                models.append(Model(bundle, threads, is_bounded=True))
            except BundleError as e:
                refused.append(Refused(str(bundle), str(e)))
        return cls(tuple(models), tuple(refused), days)

    @property
    def signals(self) -> frozenset[str]:
        """The base signals that the models need."""
        return frozenset().union(*(model.manifest.signals for model in self.models))

    def references(self) -> dict[str, Reference]:
        """Return what the models were fed in training, by name/version, of those whose bundles say so."""
        return {str(m): m.bundle.reference for m in self.models if m.bundle.reference is not None}

    @property
    def scorers(self) -> list[Model]:
        """The models that score single readings, of those that came since the last instant."""
        return [model for model in self.models if model.manifest.scored_signals]

    def troubles(self) -> Iterable[tuple[str, str | None]]:
        """Yield each model with why it is not as it should be; None where it is."""
        for model in self.models:
            counters = model.counters
            aside = "; ".join(f"{house}: {why}" for house, why in sorted(counters.houses.items()))
            yield str(model), counters.resting or (aside or None)

    def due(self, at: datetime, *, grid_s: int = BUCKET_S) -> list[Due]:
        """Return what is to run at ``at``, one of a grid of ``grid_s``; cadences count from the farm day's start."""
        day = self.days.date_of(at)
        second = day.toordinal() * DAY_S + (at - self.days.start_of(day)).total_seconds()
        found = []
        for model in self.models:
            if model.manifest.scored_signals or model.rests(at) is not None:
                continue
            outputs = tuple(
                o for o in model.manifest.output if second % (o.cadence_s or model.manifest.cadence_s) < grid_s
            )
            if outputs:
                found.append(Due(model, outputs))
        return found


def _fits(graph: Sequence[int | str | None], described: Sequence[int | str], *, is_output: bool = False) -> bool:
    """Tell whether a graph's shape, where it says one, is what a manifest describes; a name or None is any size."""
    if len(graph) != len(described):
        return False
    first_fits = is_output or not isinstance(graph[0], int) or graph[0] == described[0]
    return first_fits and all(not isinstance(g, int) or g == d for g, d in zip(graph[1:], described[1:], strict=True))


def _are_shares(values: NDArray[np.float64]) -> bool:
    return bool((values >= -ATOL).all() and (values <= 1 + ATOL).all())


def _float(values: Tensor) -> NDArray[np.float64]:
    return values.astype(np.float64)


def _why(error: Exception) -> str:
    """Return what onnxruntime says was wrong, in one line."""
    said = str(error).strip()
    if "bfc_arena" in said or "bad_alloc" in said or "bad allocation" in said:
        return f"it wants more memory than the {MEMORY_MB} MB that all models share"
    return said.splitlines()[0].removeprefix("[ONNXRuntimeError] : ") if said else repr(error)


@cache
def _share_memory() -> None:
    """Give all models of this process one arena to allocate from; what does not fit into it is an error, not a swap."""
    arena = ort.OrtArenaCfg(MEMORY_MB * 1024 * 1024, ARENA_GROWS_AS_ASKED, -1, -1)
    kind = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    ort.create_and_register_allocator(ort.OrtMemoryInfo("Cpu", kind, 0, ort.OrtMemType.DEFAULT), arena)


class _Brake:
    """Ends a run that takes too long: a thread that sleeps while a model runs, and does nothing else.

    What counts is the processor time of the thread that runs the model: a gateway that is busy elsewhere ends nothing.
    onnxruntime looks whether it is to end between two nodes of a graph, also within a loop.
    """

    def __init__(self) -> None:
        self._run: _Run | None = None
        self._begun = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def over(self, options: ort.RunOptions, within_s: float) -> _Run:
        """Return the context of a run that is ended after so much processor time."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="brake", daemon=True)
            self._thread.start()
        clock = time.pthread_getcpuclockid(threading.get_ident())
        return _Run(self, options, clock, time.clock_gettime(clock) + within_s)

    def begin(self, run: _Run) -> None:
        """Watch a run."""
        self._run = run
        self._ended.clear()
        self._begun.set()

    def end(self) -> None:
        """Watch no more."""
        self._run = None
        self._ended.set()

    def _watch(self) -> None:
        while True:
            self._begun.wait()
            self._begun.clear()
            while (run := self._run) is not None:
                left_s = run.until - time.clock_gettime(run.clock)
                if left_s <= 0:
                    run.options.terminate = True
                    break
                self._ended.wait(max(left_s, 0.001))  # a run that waits for its helpers uses up nothing


@dataclass(slots=True)
class _Run:
    """A run under way; a context manager."""

    brake: _Brake
    options: ort.RunOptions
    clock: int  # of the processor time of its thread
    until: float

    def __enter__(self) -> None:
        self.brake.begin(self)

    def __exit__(self, *_: object) -> None:
        self.brake.end()


_BRAKE = _Brake()
