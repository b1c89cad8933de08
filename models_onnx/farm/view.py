"""What the demo shows: a page that redraws itself on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Any, TextIO

from agent.domain import Severity

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from agent.clock import SimulatedClock

PLAIN_EVERY_S = 5.0  # between two lines of figures where nothing redraws
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_BOLD, _RED, _YELLOW, _GREEN, _PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[0m"
_ALTERNATE, _BACK = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


class View:
    """Shows the state again and again."""

    def __init__(self, out: TextIO, *, houses: int, directory: Path, port: int) -> None:
        self._out = out
        self._directory = directory
        self._port = port
        self._houses = houses
        self._is_terminal = out.isatty()
        self._is_open = False
        self._said: dict[str, str] = {}  # warnings that were told as plain lines: id -> text
        self._next_line = 0.0
        self._seen: list[tuple[float, int]] = []
        self._raised = self._cleared = 0
        self._line(f"flockwatch demo: {houses} houses, broker on 127.0.0.1:{port}, everything in {directory}")
        self._line("starting; three weeks of past come first, then a day passes in about a minute. Ctrl-C ends it.")

    def show(self, status: Mapping[str, Any], now: datetime) -> None:
        """Show the state as it is at the farm's time ``now``."""
        if not status or not status["counts"]["readings"]:
            return
        self._note(status["counts"]["readings"])
        warnings = {w["id"]: w for w in status["warnings"]}
        for identity, warning in warnings.items():
            if identity not in self._said:
                self._raised += 1
                self._tell(f"WARNING RAISED   {warning['text']}")
            self._said[identity] = warning["text"]
        for identity in [known for known in self._said if known not in warnings]:
            self._cleared += 1
            self._tell(f"WARNING CLEARED  {self._said.pop(identity)}")
        if self._is_terminal:
            self._draw(status, now)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + PLAIN_EVERY_S
            self._line(self._figures(status, now))
            for prediction in _slaughter(status):
                self._line("  " + prediction)

    def close(self) -> None:
        """Give the terminal back."""
        if self._is_open:
            self._out.write(_BACK)
            self._out.flush()
            self._is_open = False

    def summary(self, status: Mapping[str, Any], clock: SimulatedClock) -> None:
        """Say what happened and where everything lies."""
        counts = status.get("counts", {})
        self._line(
            f"\nfarm time {clock.now():%Y-%m-%d %H:%M}: {counts.get('readings', 0):,} readings, "
            f"{counts.get('warnings', 0)} warning transitions "
            f"({self._raised} raised, {self._cleared} cleared while you watched), "
            f"{counts.get('predictions', 0)} predictions"
        )
        for line in _slaughter(status):
            self._line("  " + line)
        self._line(f"lake      {self._directory / 'data' / 'lake'}  ({status.get('lake_objects', 0)} Parquet objects)")
        self._line(f"cloud     {self._directory / 'cloud'}  (the same objects, pushed)")
        self._line(f"database  {self._directory / 'data' / 'house.db'}")
        self._line(f"logs      {self._directory}/agent.log, sync.log, farm.log")
        self._line(f"look      flockwatch status --config {self._directory / 'agent.toml'}")
        self._line(f"read      duckdb -c \"FROM '{self._directory}/cloud/readings/**/*.parquet' LIMIT 10\"")

    def _note(self, readings: int) -> None:
        now = time.monotonic()
        self._seen = [(at, n) for at, n in self._seen if now - at < PLAIN_EVERY_S] + [(now, readings)]

    def _rate(self) -> float:
        """Return the readings per real second over the last few seconds."""
        (first_at, first), (last_at, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else 0.0

    def _figures(self, status: Mapping[str, Any], now: datetime) -> str:
        readings = status["counts"]["readings"]
        return (
            f"{now:%Y-%m-%d %H:%M} farm time  {readings:,} readings ({self._rate():,.0f}/s)  "
            f"{len(status['warnings'])} warnings stand  lake {status['lake_objects']} objects, {status['lake_mb']} MB"
        )

    def _draw(self, status: Mapping[str, Any], now: datetime) -> None:
        width, height = shutil.get_terminal_size()
        lines = [f"{_BOLD}flockwatch demo{_PLAIN}   {self._figures(status, now)}", ""]
        shown = status["health"].get("houses", {})
        for house, state in shown.items():
            flock = f"flock {state['flock']}, day {state['day_number']}" if state["flock"] else "no flock"
            colour = _GREEN if not state["severity"] else _YELLOW if state["severity"] <= Severity.MINOR else _RED
            lines.append(f"{colour}■{_PLAIN} {_BOLD}{house}{_PLAIN}  {state['state']}, {flock}")
        lines += ["", f"{_BOLD}Warnings{_PLAIN} ({self._raised} raised, {self._cleared} cleared so far)"]
        for warning in status["warnings"]:
            colour = _YELLOW if warning["severity"] <= Severity.MINOR else _RED
            lines += [
                f"{colour}● {line}{_PLAIN}" if i == 0 else f"  {line}"
                for i, line in enumerate(_wrap(warning["text"], width - 4))
            ]
        if not status["warnings"]:
            lines.append("  none stands")
        lines += ["", f"{_BOLD}Slaughter weight{_PLAIN}", *(f"  {line}" for line in _slaughter(status))]
        lines += [
            "",
            f"broker 127.0.0.1:{self._port}, topics flockwatch/# and skov/#;  data in {self._directory};  Ctrl-C ends",
        ]
        if not self._is_open:
            self._out.write(_ALTERNATE)
            self._is_open = True
        self._out.write(_HOME + "".join(f"{line}{_CLEAR_LINE}\r\n" for line in lines[: height - 1]) + _CLEAR_BELOW)
        self._out.flush()

    def _tell(self, text: str) -> None:
        if not self._is_terminal:
            self._line(text)

    def _line(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()


def _slaughter(status: Mapping[str, Any]) -> list[str]:
    """Return what each flock will weigh on its slaughter day, one line a house."""
    return [
        f"{p['house']}: {p['p50']:,.0f} g on {p['target_at'][:10]} (8 of 10 times {p['p10']:,.0f} to {p['p90']:,.0f} g)"
        for p in sorted(status.get("predictions", ()), key=lambda p: str(p["house"]))
        if p["horizon"] == "slaughter"
    ]


def _wrap(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > max(width, 20):
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return lines
