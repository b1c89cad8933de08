"""What the warnings of some time came to: how many, of which rules, how long, and what people said of them."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from agent.alerts import iso
from agent.domain import HouseState, WarningState, from_ms
from agent.export import Exported, blocks_of, records_of
from agent.store import StoreReader
from agent.store.tables import Selection

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agent.config import Config

DAY_MS = 86_400_000
_OVER = {WarningState.NORMAL.value, WarningState.SUPPRESSED.value}


@dataclass(slots=True)
class Raised:
    """One warning that rose, as far as it is known."""

    house: str
    rule: str
    raised_ms: int
    over_ms: int | None = None
    label: str | None = None  # confirm, reject: what was said of it last


def raised_of(config: Config, since_ms: int, until_ms: int, told: Exported) -> list[Raised]:
    """Return the warnings that rose from ``since_ms`` up to ``until_ms``, with what people said of them.

    Raises:
        StoreError: house.db cannot be read.
    """
    found: dict[tuple[str, str], Raised] = {}
    for block in blocks_of(config, "warnings", Selection(since_ms=since_ms), told):
        for row in records_of(block):
            at_ms, raised_ms = row["at"], row["raised_at"]
            if row["id"] is None or raised_ms is None or not since_ms <= raised_ms < until_ms:
                continue
            one = found.setdefault((row["house"], row["id"]), Raised(row["house"], row["rule"], raised_ms))
            if row["state"] in _OVER and one.over_ms is None:
                one.over_ms = at_ms
    labels: dict[tuple[str, str], tuple[int, int, str]] = {}  # the last word counts
    for block in blocks_of(config, "events", Selection(since_ms=since_ms), told):
        for event in records_of(block):
            if event["kind"] != "label":
                continue
            detail = json.loads(event["detail"])
            key = event["house"], detail["warning"]
            labels[key] = max(labels.get(key, (0, 0, "")), (event["at"], event["seq"], detail["label"]))
    for key, (_, _, label) in labels.items():
        if key in found:
            found[key].label = label
    return sorted(found.values(), key=lambda one: (one.raised_ms, one.house, one.rule))


def tally(config: Config, days: int) -> dict[str, Any]:
    """Return what the warnings of the last ``days`` came to, ready for JSON; the end is what was judged last.

    Raises:
        StoreError: there is no readable database.
    """
    with StoreReader.open(config.data.house_db) as reader:
        until_ms = reader.counts()["judged_ms"]
    since_ms = until_ms - days * DAY_MS
    told = Exported()
    raised = raised_of(config, since_ms, until_ms + 1, told)
    house_days = _house_days(config, since_ms, until_ms, told)
    rules = sorted({one.rule for one in raised}, key=lambda rule: (-sum(one.rule == rule for one in raised), rule))
    return {
        "since": iso(from_ms(since_ms)),
        "until": iso(from_ms(until_ms)),
        "house_days": round(house_days, 1),
        "all": _figures(raised, house_days),
        "rules": {rule: _figures([one for one in raised if one.rule == rule], house_days) for rule in rules},
        "left_out": told.left_out,
    }


def _figures(raised: Iterable[Raised], house_days: float) -> dict[str, Any]:
    found = list(raised)
    hours = [(one.over_ms - one.raised_ms) / 3_600_000 for one in found if one.over_ms is not None]
    labels = [one.label for one in found]
    return {
        "warnings": len(found),
        "per_house_day": round(len(found) / house_days, 4) if house_days else None,
        "confirmed": labels.count("confirm"),
        "rejected": labels.count("reject"),
        "median_hours": round(median(hours), 2) if hours else None,
        "standing": sum(one.over_ms is None for one in found),
    }


def _house_days(config: Config, since_ms: int, until_ms: int, told: Exported) -> float:
    """Return for how many days there were birds in the houses, all houses together."""
    changes: dict[str, dict[int, bool]] = defaultdict(dict)
    for block in blocks_of(config, "flocks", Selection(), told):
        for row in records_of(block):
            at_ms = row["ended_at"] if row["action"] == "end" and row["ended_at"] is not None else row["at"]
            changes[row["house"]][at_ms] = row["flock"] is not None and row["state"] != HouseState.EMPTY.value
    total = 0
    for of_house in changes.values():
        times = sorted(of_house)
        for begin, end in zip(times, [*times[1:], until_ms], strict=True):
            if of_house[begin]:
                total += max(0, min(end, until_ms) - max(begin, since_ms))
    return total / DAY_MS


def tally_lines(value: Mapping[str, Any]) -> list[str]:
    """Return a tally for people."""
    every = value["all"]
    if not value["house_days"]:
        return [f"no bird was in a house from {value['since']} to {value['until']}"]
    lines = [
        f"from {value['since']} to {value['until']}, {value['house_days']:,} house-days with birds",
        f"{_words(every)}",
        *(f"  {rule:24} {_words(figures)}" for rule, figures in value["rules"].items()),
        *(f"left out: {why}" for why in value["left_out"]),
    ]
    if every["warnings"] and not every["confirmed"] + every["rejected"]:
        lines.append("nobody said which were right: flockwatch warning confirm|reject HOUSE RULE")
    return lines


def _words(figures: Mapping[str, Any]) -> str:
    length = "" if figures["median_hours"] is None else f", half of them over within {figures['median_hours']:g} h"
    standing = f", {figures['standing']} not over" if figures["standing"] else ""
    said = f", {figures['confirmed']} confirmed, {figures['rejected']} rejected"
    return f"{figures['warnings']} warnings ({figures['per_house_day']:g} a house-day){said}{length}{standing}"
