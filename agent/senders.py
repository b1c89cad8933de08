"""What the house computers say about the time: the evidence where nothing else keeps the gateway's clock. Pure.

They have clocks of their own, with a battery. If, for minutes, most of them are ahead of us by the same time, it is we
who are behind: by a power cut, most often. The *lead* of a house is how far its readings are dated ahead of their
arrival: the third largest distance that was seen, since those that waited somewhere are dated behind, and one or two
may be mistakes. Senders that are behind us prove nothing, and neither does one whose lead no majority shares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agent.domain import TimeQuality

if TYPE_CHECKING:
    from agent.readings import Readings

HEARD_FOR_S = 180.0  # real time over which they must agree: longer than a burst after a reconnect
HEARD_OFTEN = 3  # blocks of readings that make a house a witness, and that its lead must be seen in
AHEAD_MS = 86_400_000  # a sender's time that is marked as untrusted is more than this ahead
AGREE_MS = 60_000  # clocks of house computers are set by hand, to the minute


class Lead(NamedTuple):
    """By how much most houses are ahead of us, and how many say so."""

    lead_ms: int
    houses: int


class Senders:
    """Hears the times of senders for a few minutes, gives a verdict, and begins anew."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._leads: dict[str, list[int]] = {}  # house -> the largest leads of its blocks in ms, ascending

    def hear(self, readings: Readings, monotonic: float) -> None:
        """Take the times that senders gave with their zone; a late reading's is only known not to be of now."""
        leads_ms = readings.at_ms - readings.received_ms
        quality = readings.time_quality
        given = (quality == TimeQuality.SENDER) | ((quality == TimeQuality.UNTRUSTED) & (leads_ms > AHEAD_MS))
        if not given.any():
            return
        if self._since is None:
            self._since = monotonic
        key, lead_ms = readings.key[given], leads_ms[given]
        block: dict[str, int] = {}
        for number in sorted(set(key.tolist())):
            house, lead = readings.keys[number].house, int(lead_ms[key == number].max())
            block[house] = max(lead, block.get(house, lead))
        for house, lead in block.items():
            self._leads[house] = sorted([*self._leads.get(house, ()), lead])[-HEARD_OFTEN:]

    def verdict(self, monotonic: float) -> Lead | None:
        """Return what most houses agree on once they were heard for long enough; None before, or where they do not."""
        if self._since is None or monotonic - self._since < HEARD_FOR_S:
            return None
        leads = sorted(largest[0] for largest in self._leads.values() if len(largest) == HEARD_OFTEN)
        self.forget()
        if not leads:
            return None
        middle = leads[(len(leads) - 1) // 2]
        agreeing = sum(abs(lead - middle) <= AGREE_MS for lead in leads)
        return Lead(middle, agreeing) if 2 * agreeing > len(leads) else None

    def forget(self) -> None:
        """Begin anew: what was heard was measured by another clock."""
        self._since = None
        self._leads.clear()
