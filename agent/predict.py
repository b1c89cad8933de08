"""The only onnxruntime: sessions, their self-test, and runs over all houses at once.

A model that does not fit its manifest, or whose self-test differs, is refused with the reason, and the others keep
running. A result with NaN is set aside for that house, a slow or failed run is counted: told, and never in the way.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from agent.errors import BundleError
from agent.manifest import BUCKET_S, DAY_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from agent.bundles import Bundle
    from agent.clock import FarmDays
    from agent.manifest import Manifest, Output
    from agent.reference import Reference

    Tensor = NDArray[np.generic]

RTOL, ATOL = 1e-3, 1e-5  # of the self-test: processors add in another order; a wrong model differs by far more
LOG_FATAL_ONLY = 4  # what goes wrong comes as an exception, with a reason; nothing else belongs on the console
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
    last_reason: str | None = None  # of the last result set aside, failed or slow run


@dataclass(frozen=True, slots=True)
class Refused:
    """A bundle that does not run, and why."""

    bundle: str
    reason: str


class Model:
    """A bundle whose self-test passed."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        """Load the model, check it against its manifest, run its self-test.

        Raises:
            BundleError: it does not fit, or its self-test differs.
        """
        self.bundle = bundle
        self.manifest: Manifest = bundle.manifest
        self.counters = RunCounters()
        self._output_names = [o.name for o in self.manifest.output]
        self._quantiles = [o.name for o in self.manifest.output if o.meaning == "quantiles"]
        self._one_by_one = any(i.shape[0] == 1 for i in self.manifest.input)
        where = f"{bundle.directory / self.manifest.model.file}"
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = LOG_FATAL_ONLY
        options.enable_cpu_mem_arena = False  # a small model gains nothing from an arena, a small gateway its memory
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(bundle.model, options, providers=["CPUExecutionProvider"])
        except ORT_ERRORS as e:
            message = f"{where}: onnxruntime does not load it ({_first_line(e)}); export it again"
            raise BundleError(message) from e
        self._check_names(where)
        self._check_inputs(where)
        self._check_outputs(where)
        self._selftest()

    def __str__(self) -> str:
        """Return ``name/version``."""
        return str(self.bundle)

    def run(self, houses: Sequence[Mapping[str, Tensor]]) -> Result:
        """Return what the model says of each house, given its tensors by input name, without the axis of the houses.

        Quantiles come in rising order. A house whose result holds NaN or infinity, and every house of a failed run, is
        set aside with the reason.
        """
        feed = {name: np.stack([house[name] for house in houses]) for name in houses[0]}
        begun = time.perf_counter()
        try:
            raw = self._outputs_of(feed)
        except ORT_ERRORS as e:
            self.counters.failed += 1
            self.counters.last_reason = reason = f"the run failed: {_first_line(e)}"
            return Result({}, (reason,) * len(houses))
        self._note_runtime((time.perf_counter() - begun) * 1000)
        outputs = {name: np.asarray(values, np.float64) for name, values in raw.items()}
        for name in self._quantiles:
            outputs[name] = np.sort(outputs[name], axis=-1)  # quantiles that cross are rearranged
        reasons = [self._reason(outputs, house) for house in range(len(houses))]
        return Result(outputs, tuple(reasons))

    def _outputs_of(self, feed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs by name; one run, or one for each house where the first axis is fixed."""
        if not self._one_by_one:
            return dict(zip(self._output_names, self._session.run(self._output_names, dict(feed)), strict=True))
        houses = len(next(iter(feed.values())))
        parts = [
            self._session.run(self._output_names, {name: values[i : i + 1] for name, values in feed.items()})
            for i in range(houses)
        ]
        return {name: np.concatenate(of) for name, of in zip(self._output_names, zip(*parts, strict=True), strict=True)}

    def _note_runtime(self, took_ms: float) -> None:
        counters = self.counters
        counters.runs += 1
        counters.last_ms = took_ms
        counters.slowest_ms = max(counters.slowest_ms, took_ms)
        if took_ms > self.manifest.max_runtime_ms:
            counters.slow += 1
            counters.last_reason = f"a run took {took_ms:.0f} ms, max_runtime_ms is {self.manifest.max_runtime_ms:g}"

    def _reason(self, outputs: Mapping[str, NDArray[np.float64]], house: int) -> str | None:
        """Return why the result of a house is set aside, or None."""
        for name, values in outputs.items():
            if not np.isfinite(values[house]).all():
                self.counters.set_aside += 1
                self.counters.last_reason = reason = f"output {name!r} holds NaN or infinity"
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
            got = self._outputs_of(self.bundle.selftest_inputs)
        except ORT_ERRORS as e:
            message = f"{where}: the model does not run on it ({_first_line(e)}); write the self-test from this model"
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
                models.append(Model(bundle, threads))
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

    def due(self, at: datetime, *, grid_s: int = BUCKET_S) -> list[Due]:
        """Return what is to run at ``at``, one of a grid of ``grid_s``; cadences count from the farm day's start."""
        day = self.days.date_of(at)
        second = day.toordinal() * DAY_S + (at - self.days.start_of(day)).total_seconds()
        found = []
        for model in self.models:
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


def _float(values: Tensor) -> NDArray[np.float64]:
    return values.astype(np.float64)


def _first_line(error: Exception) -> str:
    return (
        str(error).strip().splitlines()[0].removeprefix("[ONNXRuntimeError] : ") if str(error).strip() else repr(error)
    )
