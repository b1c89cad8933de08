"""The postman: reads each change of a warning from house.db, decides who is told, and sees that the letters arrive.

A lane for each recipient, so that a mail server that hangs does not hold up the gateway that sends the text messages.
The main thread reads, decides and notes; it waits for no network.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from agent.domain import PUBLISHED_STATES, Severity, from_ms, to_ms
from agent.errors import PostError, StoreError
from agent.routing import TELL_WITHIN, decide, words
from sync.lane import Carried, Failed, Lane
from sync.outbox import SyncEvent
from sync.post import Letter, deliver
from sync.postbox import Notice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.clock import Clock
    from agent.config import Config, Notify
    from agent.store import StoreReader
    from sync.postbox import Bundle, Postbox

log = logging.getLogger(__name__)

POLL_S = 1.0
PAUSE_S = 10.0  # after a disk or a database failed
NOTE_S = 60.0  # how often others are told that the post is looked after
ROWS_AT_ONCE = 500
STREAM = "warnings"
TROUBLE = "trouble"  # the note that says which letters wait, and why


@dataclass(frozen=True, slots=True)
class _Load:
    """A letter on its way."""

    bundle: Bundle
    letter: Letter
    to: Notify
    why: list[str] = field(default_factory=list)  # the last try failed; the lane's own


class Postman:
    """Everything about telling people."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        store: StoreReader,
        box: Postbox,
        tell: Callable[[SyncEvent], None],
    ) -> None:
        """Begin where the box says; ``tell`` keeps what was told, for the lake."""
        self._config, self._clock, self._store, self._box, self._tell = config, clock, store, box, tell
        self._recipients = {to.name: to for to in config.notify if to.by != "topic"}
        self._reports: SimpleQueue[Carried[_Load, PostError] | Failed[_Load, PostError]] = SimpleQueue()
        self._lanes: dict[str, Lane[_Load, PostError]] = {}
        self._troubles: dict[str, dict[str, object]] = {}
        self._data_version = -1
        self._said = ""
        self._looked_at = self._noted_at = float("-inf")

    def turn(self) -> None:
        """Do what is due; returns at once. Where house.db or post.db cannot serve, it is said, and tried again."""
        now_s = self._clock.monotonic()
        try:
            self._read_reports()
            if now_s - self._looked_at >= POLL_S:
                self._looked_at = now_s
                self._look(now_s)
        except (StoreError, OSError) as e:
            self._looked_at = now_s + PAUSE_S
            if str(e) != self._said:
                log.error("nobody is told: %s", e)  # noqa: TRY400  # no trace is needed
                self._said = str(e)
        else:
            self._said = ""

    def _look(self, now_s: float) -> None:
        version = self._store.data_version()
        if version != self._data_version:
            self._take()
            self._data_version = version
        self._send()
        if now_s - self._noted_at >= NOTE_S:
            self._noted_at = now_s
            self._note()

    def close(self, timeout_s: float) -> None:
        """Let the lanes finish their tries; what does not arrive by then goes again at the next start."""
        for lane in self._lanes.values():
            lane.close(timeout_s)
        self._read_reports()

    # --- in

    def _take(self) -> None:
        """Decide about each change since the last one."""
        generation = self._store.generation
        first, last = self._box.position(generation) + 1, self._store.last_seq(STREAM)
        shown = {state.value for state in PUBLISHED_STATES}
        for start in range(first, last + 1, ROWS_AT_ONCE):
            end = min(start + ROWS_AT_ONCE - 1, last)
            standing = {row["id"] for row in self._store.warnings_latest() if row["state"] in shown}
            columns = self._store.rows(STREAM, start, end)
            rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            notices: list[Notice] = []
            for row in rows:
                if row["id"] is not None:  # else it never rose
                    notices += self._notices_of(row, standing, notices)
            self._box.take(generation, end, notices)

    def _notices_of(self, row: Mapping[str, Any], standing: set[str], taken: list[Notice]) -> list[Notice]:
        now, zone = self._clock.now(), self._config.site.days.zone
        found = []
        for name, to in self._recipients.items():
            taken_up = (n.row["text"] for n in reversed(taken) if (n.recipient, n.row["id"]) == (name, row["id"]))
            told_text = next(taken_up, None) or self._box.told_text(name, row["id"])
            decision = decide(row, to, zone, now, told_text=told_text, stands=row["id"] in standing)
            if decision.tell and decision.due is not None:
                is_critical = row["severity"] >= Severity.CRITICAL
                found.append(Notice(name, row, to_ms(decision.due), is_critical, decision.reason))
        return found

    # --- out

    def _send(self) -> None:
        now_ms = to_ms(self._clock.now())
        for name, to in self._recipients.items():
            lane = self._lanes.get(name)
            if lane is not None and not lane.is_free:
                continue
            bundle = self._box.next_letter(name, now_ms)
            if bundle is None:
                continue
            if lane is None:  # a thread only for whom there is a letter
                lane = self._lanes[name] = Lane(name, self._attempt, self._reports, PostError)
            lane.carry(_Load(bundle, self._letter(bundle), to))

    def _letter(self, bundle: Bundle) -> Letter:
        subject, text = words(bundle.rows, self._config.site.id)
        return Letter(
            id=f"{self._store.gateway}-{self._store.generation}-{bundle.recipient}-{bundle.number}",
            at=self._clock.now(),
            subject=subject,
            text=text,
            is_critical=bundle.is_critical,
            warnings=tuple({key: value for key, value in row.items() if key != "seq"} for row in bundle.rows),
        )

    def _attempt(self, load: _Load) -> str | None:
        """Try once; runs in the lane's thread."""
        if self._clock.now() - from_ms(load.bundle.due_ms) > TELL_WITHIN and load.why:
            return f"it did not arrive within a day: {load.why[-1]}"
        try:
            return deliver(load.letter, load.to, self._config.email, self._config.site.id)
        except PostError as e:
            load.why[:] = [str(e)]
            raise

    def _read_reports(self) -> None:
        while True:
            try:
                report = self._reports.get_nowait()
            except Empty:
                return
            name, now = report.lane.name, self._clock.now()
            if isinstance(report, Failed):
                if name not in self._troubles:
                    log.warning("not told yet: %s: %s", name, report.error)
                since = self._troubles.get(name, {}).get("since", now.isoformat(timespec="seconds"))
                self._troubles[name] = {"since": since, "why": str(report.error)}
                self._noted_at = float("-inf")
                continue
            load, refused = report.what, report.refused
            if self._troubles.pop(name, None) is not None and refused is None:
                log.warning("told again: %s", name)
            if refused is not None:
                log.error("never told: %s: %s", name, refused)
                self._troubles[name] = {"since": now.isoformat(timespec="seconds"), "why": refused}
            self._noted_at = float("-inf")
            self._box.done(load.bundle, to_ms(now), refused)
            report.lane.done()
            detail = {
                "recipient": name,
                "by": load.to.by,
                "letter": load.letter.id,
                "warnings": [row["id"] for row in load.bundle.rows],
                "refused": refused,
            }
            self._tell(SyncEvent(to_ms(now), "told" if refused is None else "not told", detail))

    def _note(self) -> None:
        """Leave word how it goes: what fails, and (by the time of the file) that somebody looks."""
        now_ms = to_ms(self._clock.now())
        waiting = self._box.waiting(now_ms)
        troubles = {name: {**trouble, "waiting": waiting.get(name, 0)} for name, trouble in self._troubles.items()}
        self._box.note(TROUBLE, json.dumps(troubles, sort_keys=True))
        self._box.forget(now_ms)
        os.utime(self._config.data.post_db)
