"""Small plots as SVG text: the same figures give the same bytes, and no plotting library is needed."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from models_onnx.evaluate.bootstrap import Figure

COLOURS = ("#0b6e4f", "#c44536", "#4a6fa5", "#b08900", "#7a5195", "#888888", "#2f2f2f", "#bc5090")
WIDTH, MARGIN, LABELS = 760, 16, 190  # px; LABELS is the room for the words on the left
ROW, GAP, TICKS = 11, 7, 5
FONT = 'font-family="sans-serif" font-size="11"'


class Canvas:
    """SVG elements, top to bottom."""

    def __init__(self, title: str, height: float) -> None:
        self._height = height
        self._parts: list[str] = []
        self.text(MARGIN, 20, title, size=13)

    def text(
        self, x: float, y: float, words: str, *, anchor: str = "start", size: int = 11, colour: str = "#222"
    ) -> None:
        """Write words."""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">'
            f"{escape(words)}</text>"
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str = "#ddd", width: float = 1) -> None:
        """Draw a line."""
        self._parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'
        )

    def box(self, x: float, y: float, width: float, height: float, colour: str, opacity: float = 1.0) -> None:
        """Fill a box."""
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" fill="{colour}" '
            f'fill-opacity="{opacity}"/>'
        )

    def dot(self, x: float, y: float, colour: str, radius: float = 3.5) -> None:
        """Draw a dot."""
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>')

    def path(self, points: Iterable[tuple[float, float]], colour: str) -> None:
        """Draw a line through points."""
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="1.8"/>')

    def legend(self, names: Sequence[str], y: float, x: float = LABELS) -> None:
        """Name the colours."""
        for number, name in enumerate(names):
            colour = COLOURS[number % len(COLOURS)]
            self.box(x, y - 9, 10, 10, colour)
            self.text(x + 14, y, name)
            x += 28 + 6.2 * len(name)

    def svg(self) -> str:
        """Return the whole."""
        size = f'width="{WIDTH}" height="{self._height:.0f}" viewBox="0 0 {WIDTH} {self._height:.0f}"'
        body = "\n".join(self._parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {FONT}>\n'
            f'<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
        )


def _nice(top: float) -> float:
    """Return a round number not below ``top``."""
    if not top > 0 or math.isinf(top):
        return 1.0
    scale = 10 ** math.floor(math.log10(top))
    return float(next(step * scale for step in (1, 2, 2.5, 5, 10) if step * scale >= top * (1 - 1e-9)))


def bars(
    title: str,
    series: Mapping[str, Mapping[str, Figure]],
    *,
    form: str = ".0%",
    top: float | None = None,
    band: tuple[float, float] | None = None,
) -> str:
    """Return horizontal bars: for each label one of each series, with its interval.

    ``series``: name -> label -> figure. ``band`` is where the figures should lie.
    """
    names = list(series)
    labels = list(dict.fromkeys(label for of in series.values() for label in of))
    values = [f.value for of in series.values() for f in of.values() if math.isfinite(f.value)]
    most = top if top is not None else _nice(max(values, default=1.0))
    each = ROW * len(names) + GAP
    height = 64 + each * len(labels) + 24
    canvas = Canvas(title, height)
    span = WIDTH - LABELS - 2 * MARGIN - 40
    canvas.legend(names, 42)
    bottom = 54 + each * len(labels)
    if band is not None:
        canvas.box(LABELS + band[0] / most * span, 52, (band[1] - band[0]) / most * span, bottom - 52, "#0b6e4f", 0.12)
    for tick in range(TICKS + 1):
        x = LABELS + span * tick / TICKS
        canvas.line(x, 52, x, bottom)
        canvas.text(x, bottom + 14, format(most * tick / TICKS, form), anchor="middle")
    for row, label in enumerate(labels):
        y = 56 + each * row
        canvas.text(LABELS - 6, y + ROW * len(names) / 2 + 4, label, anchor="end")
        for number, name in enumerate(names):
            of = series[name].get(label)
            if of is None or not math.isfinite(of.value):
                continue
            at = y + ROW * number
            canvas.box(LABELS, at, min(of.value / most, 1) * span, ROW - 2, COLOURS[number % len(COLOURS)])
            ends = [min(max(v, 0) / most, 1) * span for v in (of.low, of.high) if math.isfinite(v)]
            if len(ends) == 2:
                canvas.line(LABELS + ends[0], at + ROW / 2 - 1, LABELS + ends[1], at + ROW / 2 - 1, "#111")
            canvas.text(LABELS + span + 8, at + ROW - 2, format(of.value, form), size=9)
    return canvas.svg()


def lines(
    title: str,
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    x_title: str,
    form: str = ".0%",
    top: float | None = None,
) -> str:
    """Return lines over evenly spaced labels; NaN breaks nothing, it is left out."""
    height, left, bottom, up = 330, 60, 270, 60
    values = [v for of in series.values() for v in of if math.isfinite(v)]
    most = top if top is not None else _nice(max(values, default=1.0))
    canvas = Canvas(title, height)
    canvas.legend(list(series), 42, left)
    span = WIDTH - left - 2 * MARGIN
    for tick in range(TICKS + 1):
        y = bottom - (bottom - up) * tick / TICKS
        canvas.line(left, y, left + span, y)
        canvas.text(left - 6, y + 4, format(most * tick / TICKS, form), anchor="end")
    step = span / max(len(labels) - 1, 1)
    for number, label in enumerate(labels):
        canvas.text(left + step * number, bottom + 16, label, anchor="middle")
    canvas.text(left + span / 2, bottom + 36, x_title, anchor="middle")
    for number, of in enumerate(series.values()):
        colour = COLOURS[number % len(COLOURS)]
        points = [
            (left + step * i, bottom - (bottom - up) * min(v / most, 1)) for i, v in enumerate(of) if math.isfinite(v)
        ]
        canvas.path(points, colour)
        for x, y in points:
            canvas.dot(x, y, colour, 2.5)
    return canvas.svg()


def scatter(title: str, points: Mapping[str, Sequence[tuple[float, float]]], *, x_title: str, y_title: str) -> str:
    """Return dots; a series of more than one is joined."""
    height, left, bottom, up = 330, 60, 270, 60
    known = [p for of in points.values() for p in of if all(math.isfinite(v) for v in p)]
    most_x, most_y = (_nice(max((p[axis] for p in known), default=1.0) * 1.05) for axis in (0, 1))
    canvas = Canvas(title, height)
    canvas.legend(list(points), 42, left)
    span = WIDTH - left - 2 * MARGIN
    for tick in range(TICKS + 1):
        x, y = left + span * tick / TICKS, bottom - (bottom - up) * tick / TICKS
        canvas.line(left, y, left + span, y)
        canvas.line(x, up, x, bottom)
        canvas.text(left - 6, y + 4, f"{most_y * tick / TICKS:.2g}", anchor="end")
        canvas.text(x, bottom + 16, f"{most_x * tick / TICKS:.2g}", anchor="middle")
    canvas.text(left + span / 2, bottom + 36, x_title, anchor="middle")
    canvas.text(left - 44, up - 8, y_title)
    for number, of in enumerate(points.values()):
        colour = COLOURS[number % len(COLOURS)]
        placed = [
            (left + span * x / most_x, bottom - (bottom - up) * y / most_y)
            for x, y in of
            if math.isfinite(x) and math.isfinite(y)
        ]
        if len(placed) > 1:
            canvas.path(placed, colour)
        for x, y in placed:
            canvas.dot(x, y, colour)
    return canvas.svg()
