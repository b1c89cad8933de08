"""What the warnings of some time came to: how many, of which rules, how long, and what people said of them.

The figures are those of alarm engineers (ISA-18.2, EEMUA 191), as far as we know them second-hand: docs/sources.md.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median
from typing import TYPE_CHECKING, Any

from agent.alerts import iso
from agent.domain import Event, HouseState, Reason, WarningState, from_ms, to_ms
from agent.export import Exported, blocks_of, records_of
from agent.judge import CHATTER_RISES, STALE, chatter_window
from agent.rules import KINDS, kind_of, rule_of
from agent.store import StoreReader
from agent.store.tables import Selection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import date

    from agent.config import Config
    from agent.domain import WarningRule

DAY_MS, HOUR_MS, TEN_MINUTES_MS = 86_400_000, 3_600_000, 600_000
FLOOD, FLOOD_OVER = 10, 5  # more than so many in ten minutes are a flood; fewer than so many end it
TOP = 10
LONGEST_ON_DELAY_S = 7_200  # no longer one is proposed: a warning that comes so late is none (our judgement)
CHATTERING = "chattering"  # the event that tells that a rule comes and goes
ROWS_AT_ONCE = 10_000
_OVER = {WarningState.NORMAL.value, WarningState.SUPPRESSED.value}


@dataclass(slots=True)
class Raised:
    """One warning that rose, as far as it is known."""

    house: str
    rule: str
    raised_ms: int
    over_ms: int | None = None
    label: str | None = None  # confirm, reject: what was said of it last
    since_ms: int | None = None  # the limit was crossed
    acknowledged_ms: int | None = None
    severity: int = 0  # the worst
    is_escalated: bool = False
    came_back: bool = False  # it is over because it was back in its band


@dataclass(slots=True)
class Told:
    """What the streams hold of some time."""

    raised: list[Raised]
    suppressed: Counter[str] = field(default_factory=Counter)  # by reason
    shelved: int = 0
    deadbands: dict[tuple[str, str], float] = field(default_factory=dict)  # that would have stopped what came and went


Rows = Callable[[str, Selection], "Iterable[dict[str, Any]]"]
"""Give the rows of a stream of which a selection is wanted."""


def raised_of(config: Config, since_ms: int, until_ms: int, told: Exported) -> list[Raised]:
    """Return the warnings that rose from ``since_ms`` up to ``until_ms``, with what people said of them.

    Raises:
        StoreError: house.db cannot be read.
    """
    return _told(_everywhere(config, told), since_ms, until_ms).raised


def _everywhere(config: Config, told: Exported) -> Rows:
    """Read from the lake and from house.db."""

    def rows(stream: str, selection: Selection) -> Iterable[dict[str, Any]]:
        return (row for block in blocks_of(config, stream, selection, told) for row in records_of(block))

    return rows


def _in_store(reader: StoreReader) -> Rows:
    """Read from house.db alone, which holds the warnings of the last month."""

    def rows(stream: str, selection: Selection) -> Iterable[dict[str, Any]]:
        last = reader.last_seq(stream)
        for first in range(reader.first_seq(stream), last + 1, ROWS_AT_ONCE):
            for row in records_of(reader.rows(stream, first, min(first + ROWS_AT_ONCE - 1, last))):
                if selection.since_ms is None or row["at"] >= selection.since_ms:
                    yield row

    return rows


def _told(rows: Rows, since_ms: int, until_ms: int) -> Told:
    found: dict[tuple[str, str], Raised] = {}
    told = Told([])
    for row in rows("warnings", Selection(since_ms=since_ms)):
        state, at_ms, raised_ms = row["state"], row["at"], row["raised_at"]
        if at_ms < until_ms:
            told.suppressed[row["reason"]] += state == WarningState.SUPPRESSED
            told.shelved += state == WarningState.SHELVED
        if row["id"] is None or raised_ms is None or not since_ms <= raised_ms < until_ms:
            continue
        key = row["house"], row["id"]
        one = found.setdefault(key, Raised(row["house"], row["rule"], raised_ms, since_ms=row["since"]))
        one.severity = max(one.severity, row["severity"])
        one.is_escalated |= row["reason"] == Reason.ESCALATED
        if state == WarningState.ACKNOWLEDGED and one.acknowledged_ms is None:
            one.acknowledged_ms = at_ms
        if state in _OVER and one.over_ms is None:
            one.over_ms, one.came_back = at_ms, row["reason"] == Reason.BACK_IN_BAND
    labels: dict[tuple[str, str], tuple[int, int, str]] = {}  # the last word counts
    for event in rows("events", Selection(since_ms=since_ms)):
        detail = json.loads(event["detail"]) if event["kind"] in {"label", CHATTERING} else {}
        if event["kind"] == "label":
            key = event["house"], detail["warning"]
            labels[key] = max(labels.get(key, (0, 0, "")), (event["at"], event["seq"], detail["label"]))
        elif event["kind"] == CHATTERING and event["at"] < until_ms and detail["deadband"] is not None:
            key = event["house"], detail["rule"]
            told.deadbands[key] = max(told.deadbands.get(key, 0.0), detail["deadband"])
    for key, (_, _, label) in labels.items():
        if key in found:
            found[key].label = label
    told.suppressed = +told.suppressed
    told.raised = sorted(found.values(), key=lambda one: (one.raised_ms, one.house, one.rule))
    return told


def tally(config: Config, days: int) -> dict[str, Any]:
    """Return what the warnings of the last ``days`` came to, ready for JSON; the end is what was judged last.

    Raises:
        StoreError: there is no readable database.
    """
    with StoreReader.open(config.data.house_db) as reader:
        until_ms = reader.counts()["judged_ms"]
    since_ms, told = until_ms - days * DAY_MS, Exported()
    rows = _everywhere(config, told)
    found = _told(rows, since_ms, until_ms + 1)
    lives = _lives(rows)
    raised = found.raised
    rules = sorted({one.rule for one in raised}, key=lambda rule: (-sum(one.rule == rule for one in raised), rule))
    house_days = _house_days(lives, since_ms, until_ms)
    weeks = []
    for name, begin_ms, end_ms in weeks_of(config, since_ms, until_ms):
        of_week = [one for one in raised if begin_ms <= one.raised_ms < end_ms]
        figures = _figures(of_week, _house_days(lives, begin_ms, end_ms), begin_ms, end_ms, until_ms)
        weeks.append({"week": name, "since": iso(from_ms(begin_ms)), "until": iso(from_ms(end_ms)), **figures})
    return {
        "site": config.site.id,
        "since": iso(from_ms(since_ms)),
        "until": iso(from_ms(until_ms)),
        "house_days": round(house_days, 1),
        "all": _figures(raised, house_days, since_ms, until_ms, until_ms),
        "rules": {
            rule: _figures([one for one in raised if one.rule == rule], house_days, since_ms, until_ms, until_ms)
            for rule in rules
        },
        "weeks": weeks,
        **_sources(config, found, until_ms),
        "left_out": told.left_out,
    }


def week_event(config: Config, monday: date) -> Event:
    """Return what the warnings of a week of the farm came to, for the lake; from house.db alone.

    Raises:
        StoreError: house.db cannot be read.
    """
    begin, end = (config.site.days.start_of(monday + timedelta(days=days)) for days in (0, 7))
    begin_ms, end_ms = to_ms(begin), to_ms(end)
    with StoreReader.open(config.data.house_db) as reader:
        rows = _in_store(reader)
        found = _told(rows, begin_ms, end_ms)
        figures = _figures(found.raised, _house_days(_lives(rows), begin_ms, end_ms), begin_ms, end_ms, end_ms)
    detail: dict[str, object] = {"week": _week_of(monday), **figures, **_sources(config, found, end_ms)}
    return Event(end, "alarm_figures", from_at=begin, to_at=end, detail=detail)


def weeks_of(config: Config, since_ms: int, until_ms: int) -> Iterator[tuple[str, int, int]]:
    """Yield the farm's own weeks, Monday first, that a time touches: each its name and what of it lies within."""
    days = config.site.days
    day = days.week_of(from_ms(since_ms))
    while (begin_ms := to_ms(days.start_of(day))) < until_ms:
        following = day + timedelta(days=7)
        yield _week_of(day), max(begin_ms, since_ms), min(to_ms(days.start_of(following)), until_ms)
        day = following


def _week_of(day: date) -> str:
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02}"


def _figures(found: Sequence[Raised], house_days: float, since_ms: int, until_ms: int, now_ms: int) -> dict[str, Any]:
    """Return what some warnings of a time came to, in the words of ISA-18.2: docs/warnings.md.

    Args:
        found: the warnings, in order of their rise.
        house_days: for how many days there were birds in the houses.
        since_ms: the begin of the time, and
        until_ms: its end.
        now_ms: as of when: what is not over by then stands.
    """
    hours = [(one.over_ms - one.raised_ms) / HOUR_MS for one in found if one.over_ms is not None]
    answers = [(one.acknowledged_ms - one.raised_ms) / 60_000 for one in found if one.acknowledged_ms is not None]
    labels = [one.label for one in found]
    confirmed, rejected = labels.count("confirm"), labels.count("reject")
    most, flooded = _rates([one.raised_ms for one in found])
    spans = max((until_ms - since_ms) / TEN_MINUTES_MS, 1.0)
    return {
        "warnings": len(found),
        "per_house_day": round(len(found) / house_days, 4) if house_days else None,
        "per_10_minutes": round(len(found) / spans, 5),
        "most_in_10_minutes": most,
        "flood_share": round(flooded / (spans * TEN_MINUTES_MS), 5),
        "confirmed": confirmed,
        "rejected": rejected,
        "confirmed_share": round(confirmed / (confirmed + rejected), 3) if confirmed + rejected else None,
        "median_hours": round(median(hours), 2) if hours else None,
        "acknowledged": len(answers),
        "median_minutes_to_acknowledge": round(median(answers), 1) if answers else None,
        "escalated": sum(one.is_escalated for one in found),
        "standing": sum(one.over_ms is None for one in found),
        "stale": sum((one.over_ms or now_ms) - one.raised_ms > STALE // timedelta(milliseconds=1) for one in found),
    }


def _rates(raised_ms: Sequence[int]) -> tuple[int, int]:
    """Return the most rises in any ten minutes, and for how long, in ms, there was a flood of them.

    A flood begins with the rise that is one too many, and ends when ten minutes see fewer than five again; so it
    lasts for ten minutes at the least.
    """
    most = flooded = begin = 0
    end = None  # of the flood that goes on
    for number, at_ms in enumerate(raised_ms):
        while raised_ms[begin] <= at_ms - TEN_MINUTES_MS:
            begin += 1
        count = number - begin + 1
        most = max(most, count)
        if count > FLOOD or (end is not None and at_ms < end and count >= FLOOD_OVER):
            flooded += at_ms + TEN_MINUTES_MS - (at_ms if end is None or at_ms > end else end)
            end = at_ms + TEN_MINUTES_MS
    return most, flooded


def _sources(config: Config, told: Told, now_ms: int) -> dict[str, Any]:
    """Return where the warnings come from, what stands, what comes and goes, and what would have stopped that."""
    by_source: dict[tuple[str, str], list[Raised]] = defaultdict(list)
    for one in told.raised:
        by_source[one.house, one.rule].append(one)
    ranked = sorted(by_source.items(), key=lambda source: (-len(source[1]), source[0]))
    chattering = []
    for (house, name), rises in ranked:
        rule = rule_of(name, config.overrides_of(house), house_computer=True) if kind_of(name) in KINDS else None
        if rule is not None and (most := _most_within(rises, chatter_window(rule))) >= CHATTER_RISES:
            proposed = _proposals(rule, rises, told.deadbands.get((house, name)))
            chattering.append({"house": house, "rule": name, "rises": most, "proposals": proposed})
    return {
        "top": [
            {"house": house, "rule": rule, "warnings": len(rises), "share": round(len(rises) / len(told.raised), 3)}
            for (house, rule), rises in ranked[:TOP]
        ],
        "now_standing": [
            {
                "house": one.house,
                "rule": one.rule,
                "severity": one.severity,
                "raised_at": iso(from_ms(one.raised_ms)),
                "hours": round((now_ms - one.raised_ms) / HOUR_MS, 1),
                "acknowledged": one.acknowledged_ms is not None,
            }
            for one in told.raised
            if one.over_ms is None
        ],
        "chattering": chattering,
        "suppressed": dict(sorted(told.suppressed.items())),
        "shelved": told.shelved,
    }


def _most_within(rises: Sequence[Raised], window: timedelta) -> int:
    length_ms = window // timedelta(milliseconds=1)
    times = [one.raised_ms for one in rises]
    return max(sum(at_ms - length_ms <= before <= at_ms for before in times) for at_ms in times)


def _proposals(rule: WarningRule, rises: Sequence[Raised], deadband: float | None) -> list[dict[str, Any]]:
    """Return which delay or deadband would have removed which of a rule's rises, each by itself.

    Of the stored history: when the value was back is the end less the off-delay. Rises further apart than the window
    of chatter are warnings of their own, whatever the delay.
    """
    window_s = chatter_window(rule).total_seconds()
    pauses_s, crossings_s = [], []
    for one, after in zip(rises, [*rises[1:], None], strict=True):
        if one.over_ms is None or not one.came_back or one.since_ms is None:
            continue
        back_ms = max(one.over_ms - 1000 * rule.off_delay_s, one.since_ms)
        crossings_s.append((back_ms - one.since_ms) / 1000)
        if after is not None and after.since_ms is not None:
            pauses_s.append((after.since_ms - back_ms) / 1000)
    bridged = [pause_s for pause_s in pauses_s if pause_s < window_s]
    fleeting = [crossing_s for crossing_s in crossings_s if crossing_s < LONGEST_ON_DELAY_S]
    found: list[tuple[str, float, float, int]] = []
    if bridged:
        found.append(("off_delay_s", _step_above(max(bridged)), rule.off_delay_s, len(bridged)))
    if len(fleeting) > len(rises) / 2:  # else most of it is no chatter but true, and a delay would only be late
        found.append(("on_delay_s", _step_above(max(fleeting)), rule.on_delay_s, len(fleeting)))
    if deadband is not None:
        found.append(("deadband", deadband, rule.deadband, len(bridged)))
    return [
        {"key": key, "value": value, "now": now, "would_have_removed": removed, "of": len(rises)}
        for key, value, now, removed in found
        if value > now
    ]


def _step_above(seconds: float) -> int:
    return (int(seconds) // 600 + 1) * 600  # a whole step of the grid


_Lives = Mapping[str, "Mapping[int, bool]"]  # by house from when on there were birds, or none


def _lives(rows: Rows) -> _Lives:
    changes: dict[str, dict[int, bool]] = defaultdict(dict)
    for row in rows("flocks", Selection()):
        at_ms = row["ended_at"] if row["action"] == "end" and row["ended_at"] is not None else row["at"]
        changes[row["house"]][at_ms] = row["flock"] is not None and row["state"] != HouseState.EMPTY.value
    return changes


def _house_days(lives: _Lives, since_ms: int, until_ms: int) -> float:
    """Return for how many days there were birds in the houses, all houses together."""
    total = 0
    for of_house in lives.values():
        times = sorted(of_house)
        for begin, end in zip(times, [*times[1:], until_ms], strict=True):
            if of_house[begin]:
                total += max(0, min(end, until_ms) - max(begin, since_ms))
    return total / DAY_MS


# --- for people and machines ------------------------------------------------------------------------------------------


def tally_lines(value: Mapping[str, Any]) -> list[str]:
    """Return a tally for people."""
    every = value["all"]
    if not value["house_days"] and not every["warnings"]:
        return [f"no bird was in a house from {value['since']} to {value['until']}"]
    lines = [
        f"from {value['since']} to {value['until']}, {value['house_days']:,} house-days with birds",
        f"{_words(every)}",
        *(f"  {rule:24} {_words(figures)}" for rule, figures in value["rules"].items()),
        f"at most {every['most_in_10_minutes']} in ten minutes; {every['flood_share']:.2%} of the time in flood",
        *(_week_words(week) for week in value["weeks"]),
        *(f"top      {of['house']} {of['rule']}: {of['warnings']} ({of['share']:.0%})" for of in value["top"][:3]),
        *(_standing_words(of) for of in value["now_standing"]),
        *(line for of in value["chattering"] for line in _chatter_words(of)),
        *(f"rested   {count} times: {why.replace('_', ' ')}" for why, count in value["suppressed"].items()),
        *(f"left out: {why}" for why in value["left_out"]),
    ]
    if every["warnings"] and not every["confirmed"] + every["rejected"]:
        lines.append("nobody said which were right: flockwatch warning confirm|reject HOUSE RULE")
    return lines


def _words(figures: Mapping[str, Any]) -> str:
    length = "" if figures["median_hours"] is None else f", half of them over within {figures['median_hours']:g} h"
    standing = f", {figures['standing']} not over" if figures["standing"] else ""
    said = f", {figures['confirmed']} confirmed, {figures['rejected']} rejected"
    a_day = "" if figures["per_house_day"] is None else f" ({figures['per_house_day']:g} a house-day)"
    return f"{figures['warnings']} warnings{a_day}{said}{length}{standing}"


def _week_words(week: Mapping[str, Any]) -> str:
    minutes = week["median_minutes_to_acknowledge"]
    answered = "" if minutes is None else f", half of those acknowledged within {minutes:g} min"
    a_day = "" if week["per_house_day"] is None else f" ({week['per_house_day']:g} a house-day)"
    stale = f", {week['stale']} longer than a day" if week["stale"] else ""
    return f"{week['week']} {week['warnings']} warnings{a_day}, {week['acknowledged']} acknowledged{answered}{stale}"


def _standing_words(of: Mapping[str, Any]) -> str:
    seen = "acknowledged" if of["acknowledged"] else "nobody has acknowledged it"
    return f"stands   {of['house']} {of['rule']} for {of['hours']:g} h, {seen}"


def _chatter_words(of: Mapping[str, Any]) -> Iterator[str]:
    yield f"comes and goes: {of['house']} {of['rule']}, up to {of['rises']} times in its window"
    for told in of["proposals"]:
        removed = f"would have removed {told['would_have_removed']} of {told['of']}"
        yield f"  [warnings.rules.{of['rule']}] {told['key']} = {told['value']:g} (now {told['now']:g}) {removed}"


_METRICS = {
    "warnings": "warnings that rose",
    "per_house_day": "warnings for each house and day with birds",
    "per_10_minutes": "mean warnings in ten minutes",
    "most_in_10_minutes": "most warnings in any ten minutes",
    "flood_share": "share of the time in flood",
    "confirmed": "warnings that people called right",
    "rejected": "warnings that people called wrong",
    "acknowledged": "warnings that were acknowledged",
    "median_minutes_to_acknowledge": "minutes until half of the acknowledged ones were",
    "escalated": "warnings that nobody acknowledged in time",
    "standing": "warnings that stand",
    "stale": "warnings that stood for more than a day",
}


def metrics_lines(value: Mapping[str, Any]) -> list[str]:
    """Return the figures of a tally in the text format of Prometheus: of the whole, and warnings by house and rule."""
    site, lines = value["site"], []
    for name, what in _METRICS.items():
        figure = value["all"][name]
        if figure is not None:
            metric = f"flockwatch_alarm_{name}"
            lines += [f"# HELP {metric} {what}", f"# TYPE {metric} gauge", f'{metric}{{site="{site}"}} {figure:g}']
    for metric, what, of_key in (
        ("flockwatch_alarm_source_warnings", "warnings of the sources that warn most", "top"),
        ("flockwatch_alarm_chattering", "most rises within its window, of what comes and goes", "chattering"),
    ):
        lines += [f"# HELP {metric} {what}", f"# TYPE {metric} gauge"]
        lines += [
            f'{metric}{{site="{site}",house="{of["house"]}",rule="{of["rule"]}"}} {of.get("warnings", of.get("rises"))}'
            for of in value[of_key]
        ]
    return lines
