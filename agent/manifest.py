"""A model bundle's own description: pydantic models of ``manifest.toml``, frozen, every default once.

A manifest says what a model reads (tensors on a time grid, and facts), what it writes, how often it runs and how it is
checked. Nothing about a model stands anywhere else, so a foreign model needs a manifest and no code.
"""

from __future__ import annotations

import math
import re
import tomllib
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from agent.domain import RULE_KINDS, HouseState
from agent.errors import BundleError

BUCKET_S = 600
"""The finest step of a grid, in seconds: what a window keeps is in buckets of this length."""
KEPT_BUCKETS = 14 * 24 * 6
"""How many buckets a window keeps: 14 days."""
DAY_S = 86_400
DEFAULT_MIN_COVERAGE = 0.5
"""The share of a step that must be measured for it to count, where nobody says."""
KEPT_DAYS = 80
"""How many farm days a window keeps: the longest flock is out before."""
LONGEST_RUN_MS = 10_000.0
"""No model may hold up the agent for longer: its watchdog waits for a minute."""

KEPT_READINGS = 8_192
"""The longest window of single readings that a model may ask for: 28 days at one every five minutes."""

PLAIN_FACTS = (
    "day_number",
    "age_days",
    "birds_placed",
    "live_birds",
    "parent_age_weeks",
    "hour_sin",
    "hour_cos",
    "day_fraction",
    "days_to_slaughter",
    "reference.weight_g",
    "reference.feed_g",
)
FACT_PREFIXES = ("strain:", "sex:", "house.", "losses.")

OUTBREAK = "outbreak"
"""The label, of probabilities about mortality, that is an outbreak to come."""

SENSOR_STATES = ("silent", "disagree", "stuck", "out_of_range", "jump", "suspect")
"""What can be wrong with a sensor: the last four are qualities of its readings."""
CAUSE_FACTS = (
    "score.<rule>",
    "deviation_pct.<rule>",
    "since_h.<rule>",
    f"sensor.<{'|'.join(SENSOR_STATES)}>.<signal>",
    "state:<house state>",
)
"""The facts that only a model of task ``cause`` may ask for: they are known when the rules have been judged."""
NO_FAULT, UNKNOWN_CAUSE = "none", "unknown"
"""The labels of a cause model for a false warning, and for a departure that fits no cause that it knows."""

_DURATION = re.compile(r"^([1-9]\d*)(min|h|d)$")
_UNIT_S = {"min": 60, "h": 3600, "d": DAY_S}
_CAUSE_FACT = re.compile(
    rf"^(score|deviation_pct|since_h)\.({'|'.join(RULE_KINDS)})(-[A-Za-z0-9_-]+)?$"
    rf"|^sensor\.({'|'.join(SENSOR_STATES)})\.[A-Za-z0-9_-]+$|^state:({'|'.join(HouseState)})$"
)
_VERSION = re.compile(r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$")

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


def horizon_s(horizon: str) -> int | None:
    """Return how far ahead ``30min``, ``1h`` or ``2d`` is, in seconds; None for ``slaughter``: the flock knows."""
    found = _DURATION.match(horizon)
    return int(found[1]) * _UNIT_S[found[2]] if found else None


def version_key(version: str) -> tuple[int, int, int]:
    """Return what versions are ordered by: ``1.10.0`` is newer than ``1.9.0``.

    Raises:
        ValueError: it is not of the form 1.2.3.
    """
    found = _VERSION.match(version)
    if found is None:
        message = f"{version!r} is no version; write it as 1.2.3"
        raise ValueError(message)
    return int(found[1]), int(found[2]), int(found[3])


class Part(BaseModel):
    """A part of the file: frozen, and a key it does not know is an error, not a silence."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelFile(Part):
    """The ONNX file beside the manifest."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+\.onnx$")] = "model.onnx"
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    opset: Positive


class Grid(Part):
    """The rows of a tensor: ``length`` steps of ``step_s``, oldest first.

    ``align``: ``end`` = steps that end at the window's end; ``day`` = farm days, the last row the farm day so far.
    ``end``: ``now`` = nothing later than the window's end; ``horizon`` = the window ends with the horizon that is
    expected: what an expectation may take as given, such as light and weather. That is known when the agent looks back
    to judge, and missing in a forecast.
    """

    step_s: Positive
    length: Positive
    align: Literal["end", "day"] = "end"
    end: Literal["now", "horizon"] = "now"

    @property
    def length_s(self) -> int:
        """The time from its first row to its last."""
        return self.step_s * self.length

    @model_validator(mode="after")
    def _is_kept(self) -> Self:
        if self.end == "horizon" and self.align == "day":
            message = "end = 'horizon' goes with align = 'end': a horizon is no farm day"
            raise ValueError(message)
        if self.align == "day":
            if self.step_s != DAY_S:
                message = f"align = 'day' means farm days: step_s is {DAY_S}, not {self.step_s}"
                raise ValueError(message)
            if self.length > KEPT_DAYS:
                message = f"length {self.length} farm days; {KEPT_DAYS} are kept"
                raise ValueError(message)
            return self
        if self.step_s % BUCKET_S:
            message = f"step_s {self.step_s} is no multiple of {BUCKET_S} s, the finest step that is kept"
            raise ValueError(message)
        if self.step_s // BUCKET_S * self.length > KEPT_BUCKETS:
            message = f"{self.length} x {self.step_s} s is longer than the 14 days that are kept in fine steps"
            raise ValueError(message)
        return self


class Series(Part):
    """The rows of a tensor: the last ``length`` readings of one sensor, at its own rhythm, oldest first.

    The last row is the reading that is scored, so a score hangs on the past and on itself alone. Columns: ``value``;
    ``relative``, the value less the scored one's (a float32 keeps small changes of large values that way); ``age_s``,
    the seconds before the scored reading; ``day_fraction`` and ``week_fraction``, the farm's clock and its week from
    Monday on, 0 to 1. ``signals``: the sensors or base signals that are scored, ``*`` = every one that comes. Rows
    before the first reading hold ``fill``.
    """

    length: Annotated[int, Field(gt=0, le=KEPT_READINGS)]
    columns: Annotated[
        tuple[Literal["value", "relative", "age_s", "day_fraction", "week_fraction"], ...], Field(min_length=1)
    ] = ("value",)
    signals: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)


class Feature(Part):
    """One column: aggregate, then ``per``, then the ratio to ``reference``, then ``transform``.

    ``reference`` divides by the breed curve at the row's own age (``strain.weight_g``: the weight at the middle of the
    step; ``strain.feed_g`` and ``strain.gain_g``: what the curve eats and gains within the step). The curve is in
    grams: values in kg or l count as 1,000 g. A step whose coverage is below ``min_coverage`` is masked.
    """

    signal: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    aggregate: Literal["mean", "sum", "min", "max", "last", "median", "count", "gain"] = "mean"
    per: Literal["live_bird", "bird_placed"] | None = None
    reference: Literal["strain.weight_g", "strain.feed_g", "strain.gain_g"] | None = None
    transform: Literal["log", "log1p"] | None = None
    min_coverage: Share | None = None  # None: the manifest's


class InputSpec(Part):
    """One input of the model: features on a grid, facts about flock and clock, or the readings of single series.

    A grid's rows may be laid out flat, ``["houses", rows x columns]``, as models of tables want them.
    """

    name: str
    dtype: Literal["float32", "float64"] = "float32"
    shape: tuple[str | int, ...]
    grid: Grid | None = None
    features: tuple[Feature, ...] = ()
    facts: tuple[str, ...] = ()
    series: Series | None = None
    fill: float = Field(default=float("nan"), allow_inf_nan=True)  # stands where nothing was measured or known
    mask: str | None = None

    @field_validator("facts")
    @classmethod
    def _known(cls, facts: tuple[str, ...]) -> tuple[str, ...]:
        for fact in facts:
            if fact not in PLAIN_FACTS and not fact.startswith(FACT_PREFIXES) and not _CAUSE_FACT.match(fact):
                message = (
                    f"{fact!r} is no fact; there are {', '.join(PLAIN_FACTS)}, {'…, '.join(FACT_PREFIXES)}…, "
                    f"and for task 'cause' {', '.join(CAUSE_FACTS)}"
                )
                raise ValueError(message)
        return facts

    @field_validator("facts")
    @classmethod
    def _days_back(cls, facts: tuple[str, ...]) -> tuple[str, ...]:
        for fact in facts:
            back = fact.removeprefix("losses.")
            if back != fact and not (back.isdecimal() and int(back) < KEPT_DAYS):
                message = f"{fact!r} is no fact: losses.<days back>, 0 (the last farm day) to {KEPT_DAYS - 1}"
                raise ValueError(message)
        return facts

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if bool(self.features) + bool(self.facts) + (self.series is not None) != 1:
            message = f"input {self.name!r} needs either features (with a grid), or facts, or series"
            raise ValueError(message)
        if self.series is not None and self.grid is not None:
            message = f"input {self.name!r} takes the readings of series as they come: it has no grid"
            raise ValueError(message)
        if self.features and self.grid is None:
            message = f"input {self.name!r} has features but no grid: say step_s and length"
            raise ValueError(message)
        if self.facts and (self.grid is not None or self.mask is not None):
            message = f"input {self.name!r} holds facts: they have neither grid nor mask (an unknown fact is `fill`)"
            raise ValueError(message)
        inner = self.inner_shape
        if self.shape[1:] not in {inner, (math.prod(inner),)} or not (
            isinstance(self.shape[0], str) or self.shape[0] == 1
        ):
            rest = ", ".join(str(n) for n in inner)
            message = f"input {self.name!r} has shape {list(self.shape)}; grid and columns make it ['houses', {rest}]"
            raise ValueError(message)
        return self

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape behind the axis of the houses as the model wants it: rows and columns, or both in one."""
        return tuple(int(n) for n in self.shape[1:])

    @property
    def inner_shape(self) -> tuple[int, ...]:
        """The shape behind the axis of the houses, rows and columns apart."""
        if self.series is not None:
            return self.series.length, len(self.series.columns)
        return (self.grid.length, len(self.features)) if self.grid else (len(self.facts),)


class Judge(Part):
    """How far an actual value may lie outside an expectation: the result of a calibration on healthy flocks.

    The deviation is (actual - p50) / max(half band on that side, ``floor``), the half band being p50 - p10 below and
    p90 - p50 above; ``low`` and ``high`` are the sizes at which it counts as out of course.
    """

    low: Annotated[float, Field(gt=0)]
    high: Annotated[float, Field(gt=0)]
    floor: Annotated[float, Field(ge=0)] = 0.0


class Output(Part):
    """One output of the model; ``target`` names what it is about."""

    name: str
    meaning: Literal["quantiles", "probabilities", "score", "value"]
    target: str
    quantiles: tuple[float, ...] = ()
    horizons: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()  # of probabilities, in the order of the last axis
    limit: Annotated[float, Field(gt=0, lt=1)] | None = None  # the probability from which on it is a warning
    unit: str | None = None
    of: Feature | None = None  # what is expected, over the horizon that follows the window's end
    cadence_s: Positive | None = None  # where an output is wanted less often than its bundle runs
    judge: Judge | None = None

    @model_validator(mode="after")
    def _says_enough(self) -> Self:
        if self.meaning == "quantiles":
            if not self.quantiles or not self.horizons:
                message = f"output {self.name!r} holds quantiles: say which, and for which horizons"
                raise ValueError(message)
            if list(self.quantiles) != sorted(set(self.quantiles)) or not all(0 < q < 1 for q in self.quantiles):
                message = f"output {self.name!r}: quantiles must rise, and lie between 0 and 1"
                raise ValueError(message)
        if self.meaning == "probabilities" and (not self.labels or len({*self.labels}) < len(self.labels)):
            message = f"output {self.name!r} holds probabilities: name their labels, each once"
            raise ValueError(message)
        if self.limit is not None and self.meaning != "probabilities":
            message = f"output {self.name!r}: a limit is of probabilities; quantiles are judged by `judge`"
            raise ValueError(message)
        if wrong := [h for h in self.horizons if h != "slaughter" and horizon_s(h) is None]:
            message = f"output {self.name!r}: {wrong[0]!r} is no horizon; write 30min, 1h, 2d or slaughter"
            raise ValueError(message)
        if self.of is not None:
            for horizon in self.horizons:
                seconds = horizon_s(horizon)
                if seconds is None or seconds % BUCKET_S:
                    message = (
                        f"output {self.name!r}: `of` needs horizons that are multiples of {BUCKET_S} s, not {horizon!r}"
                    )
                    raise ValueError(message)
        return self

    @property
    def inner_shape(self) -> tuple[int, ...] | None:
        """The shape after the axis of the houses; None where the manifest does not say."""
        if self.meaning == "quantiles":
            return len(self.horizons), len(self.quantiles)
        return (len(self.labels),) if self.meaning == "probabilities" else None


class Foresight(NamedTuple):
    """Where a model says how probable an outbreak of deaths is, and from which probability on the rule warns early."""

    output: str
    column: int
    limit: float


class Reference(Part):
    """What the model was trained on and how good it was there: for drift."""

    data: str = ""
    features: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+\.npz$")] | None = None  # beside it: agent/reference.py
    metrics: dict[str, float] = {}


class Manifest(Part):
    """The whole of ``manifest.toml``."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
    version: str
    task: Literal["expect", "weight", "cause", "custom", "image"]
    licence: str
    min_agent_version: str = "0.1.0"
    model: ModelFile
    cadence_s: Positive
    min_coverage: Share = DEFAULT_MIN_COVERAGE
    max_runtime_ms: Annotated[float, Field(gt=0, le=LONGEST_RUN_MS)] = 200.0
    input: tuple[InputSpec, ...]
    output: tuple[Output, ...]
    reference: Reference | None = None

    @field_validator("version", "min_agent_version")
    @classmethod
    def _ordered(cls, version: str) -> str:
        version_key(version)
        return version

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        if not self.input or not self.output:
            message = "a model needs at least one [[input]] and one [[output]]"
            raise ValueError(message)
        names = [i.name for i in self.input] + [i.mask for i in self.input if i.mask] + [o.name for o in self.output]
        if doubled := {n for n in names if names.count(n) > 1}:
            message = f"the tensor name {min(doubled)!r} stands twice"
            raise ValueError(message)
        self._scores_series()
        late = [i.name for i in self.input if i.grid is not None and i.grid.end == "horizon"]
        if late and self.task != "expect":
            message = f"input {late[0]!r} ends with the horizon, and only task 'expect' is judged in hindsight"
            raise ValueError(message)
        asked = [fact for i in self.input for fact in i.facts if _CAUSE_FACT.match(fact)]
        if asked and self.task != "cause":
            message = (
                f"the fact {asked[0]!r} is known when the rules have been judged: only task 'cause' may ask for it"
            )
            raise ValueError(message)
        if self.task == "cause" and not any(o.meaning == "probabilities" for o in self.output):
            message = "task 'cause' needs an [[output]] that holds probabilities, one for each cause in its labels"
            raise ValueError(message)
        if self.task == "expect" and (
            bare := [o.name for o in self.output if o.meaning == "quantiles" and o.of is None]
        ):
            message = f"task 'expect': output {bare[0]!r} needs `of`, the feature that it expects"
            raise ValueError(message)
        if self.task in {"expect", "weight"} and (
            mute := [o.name for o in self.output if o.meaning == "quantiles" and not {0.1, 0.5, 0.9} <= {*o.quantiles}]
        ):
            message = f"task {self.task!r}: output {mute[0]!r} needs the quantiles 0.1, 0.5 and 0.9 among its own"
            raise ValueError(message)
        return self

    def _scores_series(self) -> None:
        """Refuse what is half a scorer of single series."""
        series = {i.series.signals for i in self.input if i.series is not None}
        if not series:
            return
        if len(series) > 1 or any(i.series is None for i in self.input):
            message = "a model that scores single series has inputs of `series` only, all of the same signals"
            raise ValueError(message)
        if self.task != "custom" or [o.meaning for o in self.output] != ["score"]:
            message = "a model that scores single series has task 'custom' and one output, of meaning 'score'"
            raise ValueError(message)

    @property
    def scored_signals(self) -> tuple[str, ...]:
        """The sensors or base signals whose single readings are scored, ``*`` = all; empty for every other model."""
        return next((i.series.signals for i in self.input if i.series is not None), ())

    def resolved(self) -> Manifest:
        """Return the manifest with its ``min_coverage`` written into every feature that says none of its own."""

        def full(feature: Feature) -> Feature:
            if feature.min_coverage is not None:
                return feature
            return feature.model_copy(update={"min_coverage": self.min_coverage})

        inputs = tuple(i.model_copy(update={"features": tuple(full(f) for f in i.features)}) for i in self.input)
        outputs = tuple(o.model_copy(update={"of": full(o.of)}) if o.of else o for o in self.output)
        return self.model_copy(update={"input": inputs, "output": outputs})

    @property
    def signals(self) -> frozenset[str]:
        """The base signals that the bundle needs."""
        features = [f for i in self.input for f in i.features] + [o.of for o in self.output if o.of]
        return frozenset(f.signal for f in features)

    @property
    def foresight(self) -> Foresight | None:
        """Where the model sees outbreaks of deaths coming; None: it does not."""
        for output in self.output:
            if output.meaning == "probabilities" and output.target == "mortality" and OUTBREAK in output.labels:
                return (
                    None
                    if output.limit is None
                    else Foresight(output.name, output.labels.index(OUTBREAK), output.limit)
                )
        return None


def parse_manifest(text: str, where: str) -> Manifest:
    """Return the manifest that ``text`` says, every feature with its ``min_coverage``.

    Raises:
        BundleError: no TOML, or a key or value is wrong; ``where`` names the file in the message.
    """
    try:
        return Manifest.model_validate(tomllib.loads(text)).resolved()
    except tomllib.TOMLDecodeError as e:
        message = f"{where}: is no valid TOML: {e}"
        raise BundleError(message) from e
    except ValidationError as e:
        problems = []
        for error in e.errors():
            key = "".join(f"[{p + 1}]" if isinstance(p, int) else f".{p}" for p in error["loc"]).lstrip(".")
            match error["type"]:
                case "extra_forbidden":
                    said = "no such key in a manifest; remove it or correct its name"
                case "missing":
                    said = "is missing; add it"
                case _:
                    said = error["msg"].removeprefix("Value error, ")
            problems.append(f"{where}: {key + ': ' if key else ''}{said}")
        raise BundleError("\n".join(problems)) from e
