"""What people and programs may ask of the agent over MQTT: the shapes of the commands, and nothing of what they do."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from agent.config import Name
from agent.errors import InputError

Birds = Annotated[int, Field(ge=0, le=1_000_000)]


class Command(BaseModel):
    """What every command carries; the same ``id`` is done once and its answer repeated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    by: Annotated[str, Field(max_length=128)] | None = None


class Place(Command):
    """Birds were placed, or the facts of the present flock are set right."""

    action: Literal["place"]
    flock: Name | None = None  # None: named after the day it was placed on
    placed_on: dt.date | None = None  # None: today
    birds_placed: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    strain: Annotated[str, Field(max_length=64)] | None = None
    sex: Literal["mixed", "male", "female"] | None = None
    parent_age_weeks: Annotated[float, Field(ge=15, le=120)] | None = None
    planned_end_on: dt.date | None = None


class Record(Command):
    """The birds found dead and culled on a farm date, told by people; sets that date's totals."""

    action: Literal["record"]
    flock: Name | None = None
    date: dt.date | None = None  # None: today
    dead: Birds = 0
    culled: Birds = 0


class Thin(Command):
    """Birds were taken out alive; the rest stay."""

    action: Literal["thin"]
    flock: Name | None = None
    at: AwareDatetime | None = None  # None: now
    birds: Annotated[int, Field(ge=1, le=1_000_000)]


class State(Command):
    """What goes on in the house."""

    action: Literal["state"]
    flock: Name | None = None
    state: Literal["empty", "preheat", "active", "catching", "thinned", "washing"]


class End(Command):
    """The birds are gone."""

    action: Literal["end"]
    flock: Name | None = None
    at: AwareDatetime | None = None  # None: now
    slaughter_weight_g: Annotated[float, Field(gt=0, le=10_000)] | None = None


class Service(Command):
    """Somebody is at a sensor: what it says meanwhile is not believed."""

    action: Literal["service"]
    flock: Name | None = None
    signal: Name  # a sensor, or all of its kind
    for_s: Annotated[int, Field(ge=0, le=7 * 86_400)]
    replaced: bool = False  # by a new one, whose usual values and differences are learnt anew


FlockCommand = Annotated[Place | Record | Thin | State | End | Service, Field(discriminator="action")]
_FLOCK_COMMAND: TypeAdapter[FlockCommand] = TypeAdapter(FlockCommand)


class Acknowledge(Command):
    """Somebody has seen the warning."""

    action: Literal["acknowledge"]


class Shelve(Command):
    """Somebody puts the warning aside for a time."""

    action: Literal["shelve"]
    for_s: Annotated[int, Field(ge=60, le=7 * 86_400)]
    why: Annotated[str, Field(max_length=256)] | None = None


class Unshelve(Command):
    """Somebody takes the warning off its shelf."""

    action: Literal["unshelve"]


class Confirm(Command):
    """It was right: what it warned of was there. A label, from which models learn; also of a warning that is over."""

    action: Literal["confirm"]
    cause: Annotated[str, Field(min_length=1, max_length=64)] | None = None  # what it was
    rule: Annotated[str, Field(max_length=128)] | None = None  # only in a recording: over MQTT the topic says it


class Reject(Command):
    """It was wrong: nothing was the matter. A label, as ``Confirm``."""

    action: Literal["reject"]
    rule: Annotated[str, Field(max_length=128)] | None = None


WarningCommand = Annotated[Acknowledge | Shelve | Unshelve | Confirm | Reject, Field(discriminator="action")]
_WARNING_COMMAND: TypeAdapter[WarningCommand] = TypeAdapter(WarningCommand)


_T = TypeVar("_T")


def _parse(adapter: TypeAdapter[_T], payload: bytes | str) -> _T:
    try:
        return adapter.validate_json(payload)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in _ACTIONS)
        said = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        if not isinstance(first["input"], (dict, list, bytes)):
            said += f" (it says {first['input']!r:.80})"
        message = f"{where}: {said}" if where else said
        raise InputError(message) from e


_ACTIONS = {"place", "record", "thin", "state", "end", "service"} | {
    "acknowledge", "shelve", "unshelve", "confirm", "reject"
}  # fmt: skip


def parse_flock_command(payload: bytes | str) -> FlockCommand:
    """Return the flock command in a JSON payload.

    Raises:
        InputError: it is none; the message names the field and what is wrong with it.
    """
    return _parse(_FLOCK_COMMAND, payload)


def parse_warning_command(payload: bytes | str) -> WarningCommand:
    """Return the warning command in a JSON payload.

    Raises:
        InputError: it is none; the message names the field and what is wrong with it.
    """
    return _parse(_WARNING_COMMAND, payload)


class Drill(Command):
    """Try the way of a warning in this house with a made-up fault."""

    action: Literal["drill"]


_DRILL_COMMAND: TypeAdapter[Drill] = TypeAdapter(Drill)


def parse_drill_command(payload: bytes | str) -> Drill:
    """Return the drill command in a JSON payload.

    Raises:
        InputError: it is none; the message names the field and what is wrong with it.
    """
    return _parse(_DRILL_COMMAND, payload)


RecordedCommand = Annotated[
    Place | Record | Thin | State | End | Service | Confirm | Reject, Field(discriminator="action")
]
_RECORDED_COMMAND: TypeAdapter[RecordedCommand] = TypeAdapter(RecordedCommand)


def parse_recorded_command(payload: bytes | str) -> FlockCommand | None:
    """Return the flock command in the JSON of a recording; None for a label, by which nothing is judged.

    Raises:
        InputError: it is neither; the message names the field and what is wrong with it.
    """
    command = _parse(_RECORDED_COMMAND, payload)
    if not isinstance(command, Confirm | Reject):
        return command
    if command.rule is None:
        message = "rule: say which warning it was, such as deviation-water"
        raise InputError(message)
    return None
