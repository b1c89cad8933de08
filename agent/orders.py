"""The MQTT commands: each done once, its answer stored with what it did and repeated where it is asked again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.commands import Confirm, Reject, parse_drill_command, parse_flock_command, parse_warning_command
from agent.domain import Event, from_ms
from agent.errors import InputError, StoreError
from agent.flock import day_number
from agent.signals import is_of
from agent.strains import is_known, strain_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from agent.calibration import Calibration
    from agent.config import Config
    from agent.domain import FlockChange, Message, WarningEvent
    from agent.store import Store, Unstored
    from agent.watch import HouseWatch

ASKED_BYTES = 1_000  # kept of a command as it came
REFUSED_PER_HOUR = 100  # recorded; further ones are only answered: nobody may fill the disk with nonsense
REPEATED_WITHIN_S = 60.0  # a command without id that says the same again so soon is the same


class Orders:
    """Does what commands ask of the houses."""

    def __init__(
        self,
        config: Config,
        store: Store | Unstored,
        watch_of: Mapping[str, HouseWatch],
        begin_anew: Callable[[str, str, datetime], None],
        calibration: Calibration,
        drill: Callable[[str, str | None], str],
    ) -> None:
        """Do them for the houses of ``watch_of``.

        ``begin_anew``: forget what was learnt of a sensor in a house; ``drill``: begin a drill of a house, with this
        id, and return which it then has.
        """
        self._drill = drill
        self._config = config
        self._begin_anew = begin_anew
        self._store = store
        self._calibration = calibration
        self._watch_of = watch_of
        self._refused_of_hour = (0, 0)  # hour, recorded in it
        self._last: tuple[str, bytes, float, str] | None = None  # topic, payload, when, answer

    def use(self, store: Store | Unstored) -> None:
        """Go on with another store."""
        self._store = store

    def put_off(self, message: Message, why: str) -> str:
        """Answer a command that cannot be stored, so is not done; the broker keeps it for when it can be."""
        said = f"not done yet: it cannot be stored ({why}); it waits at the broker, and is done when it can"
        return json.dumps({"id": _id_in(message.payload), "ok": False, "error": said})

    def obey(self, place: list[str], message: Message, now: datetime) -> str:
        """Do what ``message`` asks of ``place`` (see ``Topics.command``) and return the answer.

        What was done and its answer are stored together, before the command is acknowledged.

        Raises:
            StoreError: it was not stored, so it was not done; it comes again.
        """
        command_id = _id_in(message.payload)
        if command_id is not None:
            known = self._store.answer_of(command_id)
            if known is not None:
                return known
        last = self._last
        repeats = command_id is None and last is not None and last[:2] == (message.topic, message.payload)
        if repeats and last is not None and message.received_monotonic - last[2] < REPEATED_WITHIN_S:
            return last[3]
        watch = self._watch_of.get(place[0])
        before = None if watch is None else watch.told()
        try:
            done = self._do(place, message.payload, now)
            answer = {"id": command_id, "ok": True, **done.answer}
        except InputError as e:
            done = _Done({})
            answer = {"id": command_id, "ok": False, "error": str(e)}
        text = json.dumps(answer)
        audit = self._audit(place, message.payload, answer, now)
        try:
            self._store.record(
                flock_changes=done.changes,
                warnings=done.warnings,
                standings=[event.standing for event in done.warnings],
                events=[*done.events, *audit],
                commands=[] if command_id is None else [(command_id, message.topic, text)],
            )
        except StoreError:
            if watch is not None and before is not None:
                watch.take_back(before)  # not stored is not done: it comes again
            raise
        for change in done.changes:
            if change.action == "service" and change.detail["replaced"]:
                self._begin_anew(change.house, str(change.detail["signal"]), now)
        self._calibration.learn(done.changes)
        self._last = (message.topic, message.payload, message.received_monotonic, text)
        return text

    def _audit(self, place: list[str], payload: bytes, answer: dict[str, object], now: datetime) -> list[Event]:
        """Return who asked what, when, and what came of it, for the stream ``events``."""
        if not answer["ok"]:
            hour = int(now.timestamp()) // 3_600
            recorded = self._refused_of_hour[1] if self._refused_of_hour[0] == hour else 0
            if recorded >= REFUSED_PER_HOUR:
                return []
            self._refused_of_hour = hour, recorded + 1
        said = _document_in(payload)
        detail: dict[str, object] = {
            "to": "/".join(place[1:]),
            "action": _word_of(said.get("action")),
            "by": _word_of(said.get("by")),
            "id": answer["id"],
            "ok": answer["ok"],
            "asked": payload[:ASKED_BYTES].decode("utf-8", "replace"),
            "error": answer.get("error"),
        }
        house = place[0] if place[0] in self._watch_of else None
        return [Event(now, "command", house, None, None, None, detail)]

    def _do(self, place: list[str], payload: bytes, now: datetime) -> _Done:
        watch = self._watch_of.get(place[0])
        if watch is None:
            message = f"house {place[0]!r} is not in the configuration; add a [[house]] with this id to agent.toml"
            raise InputError(message)
        if place[1:] == ["flock"]:
            change = watch.apply(parse_flock_command(payload), now)
            answer = {"done": change.action, **_life(change, self._config), **_unheard(change, watch)}
            return _Done(answer, changes=(change,))
        if place[1:] == ["drill"]:
            command_id = parse_drill_command(payload).id
            return _Done({"done": "begun", "drill": self._drill(place[0], command_id)})
        command = parse_warning_command(payload)
        if isinstance(command, Confirm | Reject):
            return self._label(place[0], place[2], command, now)
        event = watch.command(place[2], command, now)
        return _Done({"done": event.reason.value, "state": event.standing.state.value}, warnings=(event,))

    def _label(self, house: str, rule: str, command: Confirm | Reject, now: datetime) -> _Done:
        """Keep whether the last warning of a rule was right; it may stand or be over."""
        raised = self._store.last_raised(house, rule)
        if raised is None:
            message = f"no warning {rule!r} was raised in {house} lately"
            raise InputError(message)
        detail: dict[str, object] = {
            "label": command.action,
            "warning": raised["id"],
            "rule": rule,
            "flock": raised["flock"],
            "by": command.by,
        }
        if isinstance(command, Confirm) and command.cause is not None:
            detail["cause"] = command.cause
        event = Event(now, "label", house, raised["signal"], from_ms(raised["raised_at"]), None, detail)
        return _Done({"done": f"{command.action}ed", "warning": raised["id"]}, events=(event,))


@dataclass(frozen=True, slots=True)
class _Done:
    """What a command did."""

    answer: dict[str, object]
    changes: tuple[FlockChange, ...] = ()
    warnings: tuple[WarningEvent, ...] = ()
    events: tuple[Event, ...] = ()


def _life(change: FlockChange, config: Config) -> dict[str, object]:
    flock = change.flock
    if flock is None:
        return {"state": change.state.value, "flock": None}
    curve = strain_of(flock.strain).name
    return {
        "state": change.state.value,
        "flock": flock.flock,
        "day_number": day_number(flock, change.at, config.site.days),
        "birds_placed": flock.birds_placed,
        **({} if is_known(flock.strain) else {"note": f"no curve of {flock.strain!r} is known: {curve}'s is used"}),
    }


def _unheard(change: FlockChange, watch: HouseWatch) -> dict[str, str]:
    """Return a note where a service is of a sensor that nobody heard of: a name may be mistyped."""
    signal = str(change.detail.get("signal"))
    if change.action != "service" or any(is_of(name, signal) for name in watch.heard_of()):
        return {}
    names = ", ".join(watch.heard_of()) or "none"
    return {"note": f"no sensor {signal!r} was heard of in {watch.house}, only {names}"}


def _document_in(payload: bytes) -> dict[str, object]:
    """Return the object in a payload; an empty one where there is none."""
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):  # a thousand brackets
        return {}
    return document if isinstance(document, dict) else {}


def _id_in(payload: bytes) -> str | None:
    """Return the ``id`` of a command, even of one that is wrong in another way, so that its answer finds its asker."""
    return _word_of(_document_in(payload).get("id"))


def _word_of(found: object) -> str | None:
    """Return what somebody called something; None where it is no such word."""
    # as long as commands allow; and half a surrogate pair, which JSON can hold, can neither be stored nor sent
    return found if isinstance(found, str) and 0 < len(found) <= 128 and found.isprintable() else None
