"""Who is told of a change of a warning, and when: a decision about one row of ``warnings`` and one recipient.

Pure: the row and the farm's clock are arguments. Nothing critical waits; what is held back in quiet hours is due at
their end, all of it as one message.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from agent.domain import PUBLISHED_STATES, Reason, Severity, WarningState, from_ms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import time
    from zoneinfo import ZoneInfo

    from agent.config import Notify

SITE = "_site"
UNCONFIRMED = "receipt"
"""The kind of the rules that a missing confirmation raises: ``receipt-<controller>``."""
_WORSE = {Reason.SEVERITY_ROSE.value, Reason.ESCALATED.value}  # of what stands already
TELL_WITHIN = timedelta(hours=24)
"""A change that nobody could be told of for so long is not told any more, unless its warning still stands."""

Row = dict[str, Any]
"""A row of the stream ``warnings``: the columns of the lake, times in integer ms."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a recipient is told, when, and by which word: ``reason`` stands in the outbox and in the log."""

    tell: bool
    reason: str
    due: datetime | None = None
    held: bool = False  # back until the end of the quiet hours


def decide(
    row: Mapping[str, Any], to: Notify, zone: ZoneInfo, now: datetime, *, told_text: str | None, stands: bool
) -> Decision:
    """Decide about one change and one recipient.

    Args:
        row: of the stream ``warnings``.
        to: the recipient.
        zone: the farm's time zone, of its quiet hours.
        now: the farm's time.
        told_text: what the recipient was told of this warning (its ``id``) last, or is to be; None: nothing.
        stands: the warning stands now: then it is told however long nobody could be.
    """
    if row["state"] == WarningState.NORMAL.value:
        is_end = row["before"] in {state.value for state in PUBLISHED_STATES}
        if not is_end or told_text is None:
            return Decision(tell=False, reason="not_told_before" if is_end else "never_raised")
        if not to.ends:
            return Decision(tell=False, reason="ends_not_wanted")
    elif (why := _why_not_raised(row, to, told_text)) is not None:
        return Decision(tell=False, reason=why)
    if now - from_ms(row["at"]) > TELL_WITHIN and not stands:
        return Decision(tell=False, reason="too_old")
    if row["severity"] >= Severity.CRITICAL:
        return Decision(tell=True, reason="critical", due=now)
    until = quiet_until(to.quiet_from, to.quiet_until, zone, now)
    if until is not None:
        return Decision(tell=True, reason="quiet_hours", due=until, held=True)
    return Decision(tell=True, reason="at_once", due=now)


def _why_not_raised(row: Mapping[str, Any], to: Notify, told_text: str | None) -> str | None:
    """Return why a change is no rise of a warning that concerns the recipient; None where it is one."""
    if row["state"] != WarningState.ACTIVE.value:
        return "not_active"
    is_news = row["reason"] in _WORSE or (row["house"] == SITE and row["text"] != told_text)
    if row["before"] == WarningState.ACTIVE.value and not is_news:
        return "told_already"
    is_unconfirmed = row["rule"].partition("-")[0] == UNCONFIRMED
    if to.when == "unconfirmed" and not is_unconfirmed:
        return "only_unconfirmed"
    if to.houses and row["house"] not in to.houses:
        return "other_house"
    if to.about and row["about"] not in {about.value for about in to.about}:
        return "other_subject"
    if row["severity"] < to.min_severity:
        return "below_severity"
    return None


def quiet_until(begins: time | None, ends: time | None, zone: ZoneInfo, now: datetime) -> datetime | None:
    """Return when the present quiet hours end, None where it is none; a day that begins and ends alike is all quiet."""
    if begins is None or ends is None:
        return None
    local = now.astimezone(zone)
    clock = local.time()
    is_over_midnight = begins >= ends
    if not (clock >= begins or clock < ends if is_over_midnight else begins <= clock < ends):
        return None
    day = local.date() if clock < ends else local.date() + timedelta(days=1)
    return datetime.combine(day, ends, zone).astimezone(now.tzinfo)


def words(rows: Sequence[Mapping[str, Any]], site: str) -> tuple[str, str]:
    """Return the subject and the text of a message about these changes, in their order; both for people."""
    raised = [row for row in rows if row["state"] != WarningState.NORMAL.value]
    lines = [_line(row) for row in rows]
    if len(rows) == 1:
        subject = f"{_word(rows[0])}: {_about(rows[0])}"
    elif raised:
        worst = max(raised, key=lambda row: int(row["severity"]))
        subject = f"{len(rows)} changes, the worst {_word(worst)}: {_about(worst)}"
    else:
        subject = f"{len(rows)} warnings are over"
    return f"{site}: {subject}", "\n".join(lines)


def _about(row: Mapping[str, Any]) -> str:
    return f"{'the gateway' if row['house'] == SITE else row['house']}, {row['rule']}"


def _word(row: Mapping[str, Any]) -> str:
    return "over" if row["state"] == WarningState.NORMAL.value else Severity(row["severity"]).name.lower()


def _line(row: Mapping[str, Any]) -> str:
    at = from_ms(row["at"]).strftime("%Y-%m-%d %H:%M UTC")
    said = f"{_word(row).upper()} {at} {row['text']}"
    if row["state"] == WarningState.NORMAL.value or not row["check_first"]:
        return said
    return f"{said} First: {row['check_first']}"
