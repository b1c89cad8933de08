"""What controllers confirm: whether what was told has arrived, and whether the way to a controller still works.

A controller that confirms the severity sends the number back, at each change and each heartbeat, so that a dead line is
noticed on a quiet day, too. One that confirms warnings sends the id of each. Pure: time is an argument.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.domain import Severity, WarningState
from agent.languages import msg

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agent.config import Controller
    from agent.domain import WarningEvent

HEARTBEAT_S = 60.0  # how often a severity is said

_SEVERITY = msg("The controller {controller} has not confirmed the severity {severity} of {house} within {seconds} s.")
_NOTHING = msg("The controller {controller} has sent no confirmation for {house} for {seconds} s.")
_WARNING = msg("The controller {controller} has not confirmed this warning within {seconds} s: {text}")


@dataclass(frozen=True, slots=True)
class Missing:
    """What a controller did not confirm in time, the worst of it; in words a message of agent/languages.py."""

    severity: Severity  # of what it did not confirm; at least major: an alarm that is not heard is no small matter
    house: str
    message: str  # with places for ``controller``, ``house`` and ``values``
    values: Mapping[str, object]


@dataclass(slots=True)
class _Line:
    """What is known of one controller. Times are real monotonic seconds."""

    controller: Controller
    heard: dict[str, float] = field(default_factory=dict)  # by house: the last valid receipt
    echoes: dict[str, int] = field(default_factory=dict)  # by house: the severity that it said last
    changed: dict[str, tuple[int, float]] = field(default_factory=dict)  # by house: the severity, and since when
    waiting: dict[tuple[str, Severity], tuple[WarningEvent, float]] = field(default_factory=dict)
    confirmed: set[tuple[str, Severity]] = field(default_factory=set)
    proven: bool | None = None  # the way works; None: nothing is known since the start
    missing: Missing | None = None


class Receipts:
    """What every configured controller was told, and what it confirmed."""

    def __init__(self, controllers: Iterable[Controller], houses: Sequence[str]) -> None:
        """Expect receipts of ``controllers`` about ``houses``, each of its own or of all."""
        self._lines = {controller.name: _Line(controller) for controller in controllers}
        self._houses = tuple(houses)
        self._up_since: float | None = None  # the broker is there

    def hear(self, house: str, name: str, payload: bytes, monotonic: float) -> str | None:
        """Take a receipt; return why it is none, None where it is one."""
        line = self._lines.get(name)
        if line is None or house not in self._houses_of(line):
            return "receipt of an unknown controller"
        if line.controller.confirms == "severity":
            if payload.strip() not in {b"0", b"1", b"2", b"3", b"4"}:
                return "receipt is no severity"
            line.echoes[house] = int(payload)
        else:
            confirmed = _id_in(payload)
            if confirmed is None:
                return "receipt names no warning"
            keys = {key for key in (*line.waiting, *line.confirmed) if key[0] == confirmed}
            if not keys:
                return "receipt of an unknown warning"
            line.confirmed |= keys
            line.waiting = {key: value for key, value in line.waiting.items() if key not in keys}
        line.heard[house] = monotonic
        return None

    def look(
        self, standing: Sequence[WarningEvent], severities: Mapping[str, int], monotonic: float, *, is_connected: bool
    ) -> None:
        """See what is overdue, given what stands; while the broker is away, no controller is to blame."""
        if not is_connected:
            self._up_since = None
            return
        if self._up_since is None:  # all is said again now
            self._up_since = monotonic
            for line in self._lines.values():
                line.changed.clear()
                line.waiting.clear()
                line.confirmed.clear()
        for line in self._lines.values():
            if line.controller.confirms == "severity":
                line.missing = self._severity_missing(line, severities, monotonic)
                is_good = all(house in line.heard for house in self._houses_of(line))
            else:
                line.missing = self._warning_missing(line, standing, monotonic)
                is_good = bool(line.confirmed)
            if line.missing is not None:
                line.proven = False
            elif is_good and not line.waiting:
                line.proven = True

    def state(self, name: str) -> tuple[bool | None, Missing | None]:
        """Return whether the way to a controller works (None: nobody knows yet), and what it did not confirm."""
        line = self._lines[name]
        return line.proven, line.missing

    def _houses_of(self, line: _Line) -> tuple[str, ...]:
        return line.controller.houses or self._houses

    def _severity_missing(self, line: _Line, severities: Mapping[str, int], monotonic: float) -> Missing | None:
        up_since, within_s = self._up_since or monotonic, line.controller.within_s
        found: list[Missing] = []
        for house in self._houses_of(line):
            severity = severities[house]
            if line.changed.get(house, (None, 0.0))[0] != severity:
                line.changed[house] = severity, monotonic
            changed_at = line.changed[house][1]
            if line.echoes.get(house) != severity and monotonic - changed_at > within_s:
                found.append(_missing(severity, house, _SEVERITY, severity=severity, seconds=within_s))
            elif monotonic - max(line.heard.get(house, up_since), up_since) > HEARTBEAT_S + within_s:
                found.append(_missing(severity, house, _NOTHING, seconds=f"{HEARTBEAT_S + within_s:g}"))
        return max(found, key=lambda missing: missing.severity, default=None)

    def _warning_missing(self, line: _Line, standing: Sequence[WarningEvent], monotonic: float) -> Missing | None:
        active = {
            (event.standing.id or "", event.standing.severity): event
            for event in standing
            if event.standing.state is WarningState.ACTIVE and event.standing.house in self._houses_of(line)
        }
        line.confirmed &= active.keys()
        line.waiting = {key: value for key, value in line.waiting.items() if key in active}
        for key, event in active.items():
            if key not in line.waiting and key not in line.confirmed:
                line.waiting[key] = event, monotonic
        overdue = [event for event, since in line.waiting.values() if monotonic - since > line.controller.within_s]
        worst = max(overdue, key=lambda event: event.standing.severity, default=None)
        if worst is None:
            return None
        told = worst.standing
        return _missing(told.severity, told.house, _WARNING, seconds=line.controller.within_s, text=worst.text)


def _missing(severity: int, house: str, message: str, /, **values: object) -> Missing:
    return Missing(Severity(max(severity, Severity.MAJOR)), house, message, values)


def _id_in(payload: bytes) -> str | None:
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    found = document.get("id") if isinstance(document, dict) else None
    return found if isinstance(found, str) else None
