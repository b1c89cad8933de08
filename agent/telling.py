"""Telling others than the retained topics: ``[[notify]]`` by topic, at once; and whether the courier tells the rest."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from agent.alerts import iso
from agent.domain import from_ms
from agent.routing import decide
from agent.store import sync_notes

if TYPE_CHECKING:
    from datetime import datetime

    from agent.bus import Bus
    from agent.config import Config
    from agent.store import Store, Unstored

ROWS_AT_ONCE = 100
TOLD = "told_seq"  # up to which row of ``warnings`` the topics were told
LOOKED_AFTER_S = 600.0  # the courier touches its box once a minute


class Telling:
    """Brings each change of a warning once to the topics of ``[[notify]]``: how far is kept in the store."""

    def __init__(self, config: Config) -> None:
        """Tell those whom the configuration names."""
        self._config = config
        self._topics = [to for to in config.notify if to.by == "topic"]
        self._has_post = any(to.by != "topic" for to in config.notify)

    def turn(self, store: Store | Unstored, bus: Bus, now: datetime) -> None:
        """Publish what is new, then keep how far that is: a crash in between says it twice, with the same id.

        Raises:
            StoreError: the database cannot be read, or not be written.
        """
        if not (self._topics and bus.is_connected):
            return
        told_seq = int(store.kept(TOLD) or 0)
        rows = store.changes_after(told_seq, ROWS_AT_ONCE)
        for row in rows:
            for to in self._topics:
                # a topic costs nothing: it hears each end, also of what was too small for it
                decision = decide(row, to, self._config.site.days.zone, now, told_text="", stands=False)
                if row["id"] is not None and decision.tell:
                    times = {name: iso(from_ms(row[name])) for name in ("at", "since", "raised_at") if row[name]}
                    value = {key: value for key, value in row.items() if key != "seq"} | times
                    value["causes"] = json.loads(row["causes"])
                    bus.publish(to.to, json.dumps(value).encode(), retain=False)
            told_seq = row["seq"]
        if rows:
            store.record(kept={TOLD: str(told_seq)})

    def trouble(self) -> str | None:
        """Return why people are not told, as the courier has it; None where all is well or nobody is to be told."""
        if not self._has_post:
            return None
        box = self._config.data.post_db
        try:
            silent_s = time.time() - box.stat().st_mtime
        except OSError:
            return "the courier has not begun to tell people: is flockwatch-sync running?"
        if silent_s > LOOKED_AFTER_S:
            return f"the courier has not looked after the post for {silent_s / 60:.0f} min: is flockwatch-sync running?"
        troubles = json.loads(sync_notes(box).get("trouble", "{}"))
        return "; ".join(f"{name} since {one['since']}: {one['why']}" for name, one in sorted(troubles.items())) or None
