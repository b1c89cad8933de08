"""What comes to the birds: the water line, the feed pans with their augers, the silo.

[S24] is that of docs/sources.md; "assumed" is our judgement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

DAY_S = 86_400.0
PANS_KG_BIRD = 0.010  # what stands in the pans: about 0.7 kg in one for 65 birds; assumed
AUGER_KG_BIRD_DAY = 0.6  # the most the augers bring: two and a half times the largest daily intake [S24]
SILO_KG_BIRD = 0.8  # about four days of late feed; assumed
REFILL_BELOW, REFILLED_TO = 0.35, 0.95  # of the silo; assumed
LORRY_HOUR = 10.0  # when the feed lorry comes; assumed


@dataclass(frozen=True, slots=True)
class Supplied:
    """What came in one step, per house."""

    water_l: Array  # drunk
    metered_l: Array  # gone through the meter: drunk, or run away
    eaten_kg: Array
    augered_kg: Array  # brought into the pans, as the feed weigher counts it


class Supply:
    """Pans, augers, silos and water lines of all houses."""

    def __init__(self, houses: Mapping[str, Array]) -> None:
        """Take the houses' parameters (``params.HOUSE_RANGES``); silos are full, pans empty."""
        self._birds = houses["capacity"]
        self._pans = np.zeros(len(self._birds))
        self._silo_kg = SILO_KG_BIRD * self._birds
        self.silo = self._silo_kg * REFILLED_TO

    def advance(
        self,
        dt_s: float,
        hour: float,
        *,
        wanted_kg: Array,
        wanted_l: Array,
        offered: NDArray[np.bool_],
        effects: Mapping[str, Array],
    ) -> Supplied:
        """Move ``dt_s`` seconds on, to an ``hour`` of the day.

        Where nothing is ``offered`` the pans are lifted; ``effects`` are those of ``faults``.
        """
        most = np.where(offered, AUGER_KG_BIRD_DAY * self._birds * dt_s / DAY_S * (1 - effects["feed_lost"]), 0.0)
        room = np.maximum(PANS_KG_BIRD * self._birds - self._pans, 0) + wanted_kg
        augered = np.minimum(np.minimum(most, room), self.silo)
        # where the feed bridges, less comes than is wanted, and the pans run down
        bridge = effects["bridge"]
        augered = np.where(bridge > 0, np.minimum(augered, (1 - bridge) * wanted_kg), augered)
        eaten = np.where(offered, np.minimum(wanted_kg, self._pans + augered), 0.0)
        self._pans = np.where(offered, self._pans + augered - eaten, 0.0)
        self.silo = self.silo - augered
        if LORRY_HOUR <= hour < LORRY_HOUR + dt_s / 3600:
            self.silo = np.where(self.silo < REFILL_BELOW * self._silo_kg, REFILLED_TO * self._silo_kg, self.silo)
        flows = 1 - effects["blocked"]
        drunk = wanted_l * flows
        leaked = np.where(offered | (wanted_l > 0), effects["leak_l_h_bird"] * self._birds * dt_s / 3600 * flows, 0.0)
        return Supplied(drunk, drunk + leaked, eaten, augered)
