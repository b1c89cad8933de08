"""The farmer's rounds: whole birds found dead or culled, told in the morning, as people do it.

Nothing is lost: what chance, a quick Sunday round or a forgotten day leaves is told later. How much of it there is in a
house are its parameters (``params.HOUSE_RANGES``).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models_onnx.farm.birds import Birds

    Array = NDArray[np.float64]

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
CULL_SHARE_LEAST = 0.1  # below, people tell what they cull as dead
MANY = 50.0  # expected, from where on chance is normal
SUNDAY = 6
_NORMAL = NormalDist()


class Count(NamedTuple):
    """What was told of one house."""

    house: int
    dead: int
    culled: int


class Rounds:
    """The rounds in all houses."""

    def __init__(self, houses: Mapping[str, Array], rng: np.random.Generator) -> None:
        """Take the houses' parameters."""
        n = len(houses["round_h"])
        self._p = houses
        self._rng = rng
        self._next_ms = np.full(n, np.iinfo(np.int64).max)
        self._lying = np.zeros(n, np.int64)  # dead, and not found yet
        self._ailing = np.zeros(n, np.int64)  # to be culled on the next round for it

    def begin(self, house: int, placed_ms: int) -> None:
        """Make rounds from the morning after the placement on."""
        hour_ms = round(self._p["round_h"][house] * HOUR_MS)
        self._next_ms[house] = (placed_ms - hour_ms) // DAY_MS * DAY_MS + DAY_MS + hour_ms
        self._lying[house] = self._ailing[house] = 0

    def end(self, house: int) -> None:
        """Make no more rounds."""
        self._next_ms[house] = np.iinfo(np.int64).max

    def make(self, at_ms: int, birds: Birds) -> tuple[Array, Array, list[Count]]:
        """Return the dead and the culled that are told at ``at_ms``, NaN where nothing is, and the same as a list.

        From a round on, ``birds.alive`` is a whole number less what has died: chance is drawn here.
        """
        chance = self._rng.random((2, len(self._next_ms)))  # whether or not a round is due: the same for any fault
        dead, culled = np.full((2, len(self._next_ms)), np.nan)
        told = []
        for i in np.flatnonzero(self._next_ms <= at_ms):
            house = int(i)
            self._next_ms[house] += DAY_MS
            count = self._round(house, at_ms, birds, float(chance[0, house]), float(chance[1, house]))
            if count is not None:
                dead[house], culled[house] = count.dead, count.culled
                told.append(count)
        return dead, culled, told

    def _round(self, house: int, at_ms: int, birds: Birds, chance: float, late: float) -> Count | None:
        p = self._p
        expected = float(birds.unreported[house])
        died = min(whole(expected, chance), int(birds.alive[house] + expected))
        birds.alive[house] += expected - died
        birds.unreported[house] = 0.0
        culls = p["cull_share"][house] if p["cull_share"][house] >= CULL_SHARE_LEAST else 0.0
        ailing = round(died * culls)
        self._ailing[house] += ailing
        self._lying[house] += died - ailing
        if late < p["late_rate"][house]:
            return None
        day = at_ms // DAY_MS
        is_sunday = (day + 3) % 7 == SUNDAY  # 1970 began on a Thursday
        dead = round(self._lying[house] * (p["weekend_found"][house] if is_sunday else 1.0))
        culled = int(self._ailing[house]) if day % round(p["cull_days"][house]) == 0 else 0
        self._lying[house] -= dead
        self._ailing[house] -= culled
        return Count(house, dead, culled)


def whole(expected: float, chance: float) -> int:
    """Return a number of birds, Poisson around ``expected``, at the quantile ``chance``: more expected, never less."""
    if expected >= MANY:
        return max(round(expected + math.sqrt(expected) * _NORMAL.inv_cdf(min(max(chance, 1e-9), 1 - 1e-9))), 0)
    birds, term = 0, math.exp(-expected)
    total = term
    while total < chance and birds < 2 * MANY + 50:
        birds += 1
        term *= expected / birds
        total += term
    return birds
