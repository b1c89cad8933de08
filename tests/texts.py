"""`python -m tests.texts`: writes docs/texts.md, all that a farmer may read, in every language (`make languages`).

The same examples are what the tests of the languages go through: every kind of rule, every signal, every cause, every
reason why nobody can say.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agent.domain import Cause, Chatter, Evidence, Reason, Standing, WarningState, to_ms
from agent.explain import CAUSES, SENSORS, Occasion, causes_of, direction_of, explain, likelihood_of
from agent.languages import LANGUAGES, Locale
from agent.signals import signal_of
from tests.catalogues import messages_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REVIEW = Path(__file__).parents[1] / "docs" / "texts.md"
SINCE = datetime(2026, 3, 3, 14, 20, tzinfo=UTC)
TOLD = Occasion("North house", "2026-02", 24, SINCE + timedelta(hours=2))

# signal: what was measured where too little and where too much, and what was expected; in the catalogue's units
MEASURED = {
    "water": (1210.0, 2890.0, 2005.0),
    "feed": (96.4, 212.0, 151.5),
    "temperature": (19.4, 26.5, 22.2),
    "outside_temperature": (-3.5, 31.5, 12.5),
    "weight": (1380.0, 1710.0, 1545.0),
    "weight_count": (310.0, 3100.0, 1200.0),
    "weight_sd": (91.5, 260.0, 140.5),
    "humidity": (41.5, 78.5, 60.5),
    "outside_humidity": (38.5, 97.5, 70.5),
    "co2": (900.0, 3650.0, 2100.0),
    "ammonia": (2.5, 24.5, 9.5),
    "pressure": (6.5, 41.5, 20.5),
    "air_speed": (0.25, 2.5, 1.2),
    "light": (0.5, 38.5, 20.5),
    "ventilation": (12.5, 88.5, 41.5),
    "heating": (1.5, 62.5, 20.5),
    "silo": (450.0, 11900.0, 6200.0),
    "energy": (3.5, 31.5, 12.5),
}
LIKELY = (0.97, 0.72, 0.45, 0.21, None)
_OF_A_SENSOR = (
    "has been stuck",
    "has shown what cannot be",
    "has jumped about",
    "seems to have sent another unit",
    "has disagreed with the others",
    "has been silent",
    "has been in service",
)
_SENSOR: dict[str, str | float] = {"sensor": "temperature-2", "since_ms": to_ms(SINCE)}
WHYS: tuple[tuple[str, dict[str, str | float]], ...] = (
    *((f"{{sensor}} {what} {{since}}", _SENSOR) for what in _OF_A_SENSOR),
    ("nobody told of dead birds", {}),
    ("too few days to compare with", {}),
    ("the model that saw it coming says nothing", {}),
    ("nothing measured it", {}),
    ("no reading since the start", {}),
    ("it would only repeat a warning of the last days", {}),
    ("only {share} of its course so far was measured", {"share": 0.42}),
    ("only {share} of it was measured", {"share": 0.42}),
    ("too little was measured", {}),
    ("too little water was measured", {}),
    ("{sensor} is not believed", {"sensor": "co2"}),
)


_ENDS = (Reason.BACK_IN_BAND, Reason.CANNOT_SAY, Reason.HOUSE_STATE, Reason.RULE_REMOVED)


class Example(NamedTuple):
    """One warning as it may stand."""

    kind: str
    standing: Standing
    causes: tuple[Cause, ...]

    def shape(self) -> tuple[object, ...]:
        """Return what makes its text another than those of its kind, beside the names and numbers in it."""
        evidence = self.standing.evidence or Evidence(None)
        likely = {
            likelihood_of(p) for p in (evidence.confidence, *(c.probability for c in self.causes)) if p is not None
        }
        known = (
            self.standing.unknown_since,
            self.standing.chatter,
            self.standing.is_escalated,
            evidence.score,
            evidence.actual,
            evidence.expected,
        )
        named = tuple(bool(value) for value in (*known, evidence.why, evidence.unit, evidence.is_early, self.causes))
        return self.kind, self.standing.state, self.standing.reason, direction_of(evidence), frozenset(likely), named

    def text(self, locale: Locale) -> str:
        """Return its words."""
        return explain(self.standing, self.causes, TOLD._replace(latching=True), locale).text


def examples() -> Iterator[Example]:
    """Yield a warning of every kind, signal, cause, likelihood, reason to say nothing, and end."""
    for make in EXAMPLES.values():
        for standing in make():
            yield Example(standing.rule.partition("-")[0], standing, causes_of(standing, {}))
    low = _measured("deviation", "water", 0, 3600)
    for (cause, other), chance in product(zip(CAUSES, [*list(CAUSES)[1:], "dry_line"], strict=True), LIKELY):
        causes = (Cause(cause, chance), Cause(other, None if chance is None else min(chance / 2, 1 - chance)))
        yield Example("deviation", low, causes)
    yield Example("deviation", low, (Cause("unknown", 0.7),))
    for confidence in (0.05, 0.3, 0.6, 0.95):
        doubted = replace(low, evidence=replace(low.evidence or Evidence(None), confidence=confidence))
        yield Example("deviation", doubted, (Cause("water_line_blocked", confidence),))
    for why, values in WHYS:
        unclear = replace(low.evidence or Evidence(None), why=why, why_values=values)
        waiting = replace(low, evidence=unclear, unknown_since=TOLD.at)
        yield Example("deviation", waiting, causes_of(waiting, {}))
        given_up = replace(waiting, state=WarningState.NORMAL, reason=Reason.CANNOT_SAY)
        yield Example("deviation", given_up, ())
    for standing in _courses():
        yield Example("deviation", standing, causes_of(standing, {}))
    for rule, reason in product(
        ("deviation-water", *(f"{kind}-temperature-2" for kind in _OF_SENSORS), "silent"), _ENDS
    ):
        yield Example(
            rule.partition("-")[0], Standing(rule, "house1", WarningState.NORMAL, since=SINCE, reason=reason), ()
        )


def _standing(rule: str, evidence: Evidence | None) -> Standing:
    return Standing(rule, "house1", WarningState.ACTIVE, since=SINCE, evidence=evidence)


def _measured(kind: str, signal: str, which: int, over_s: int) -> Standing:
    *actual, expected = MEASURED[signal]
    spread = abs(expected) / 20
    evidence = Evidence(
        3.0,
        actual=actual[which],
        expected=expected,
        low=expected - spread,
        high=expected + spread,
        unit=signal_of(signal).unit,
        over_s=over_s,
    )
    return _standing(f"{kind}-{signal}", evidence)


def _modelled(kind: str, over_s: int) -> Iterator[Standing]:
    for signal, which in product(MEASURED, (0, 1)):
        yield _measured(kind, signal, which, over_s)
    yield _standing(f"{kind}-noise", Evidence(2.0, actual=81.5, expected=0.0, unit="dB"))
    yield _standing(f"{kind}-water", Evidence(2.0))


def _mortality() -> Iterator[Standing]:
    dead = Evidence(1.4, actual=96, expected=13, low=0, high=84, unit="birds", course=(11, 14, 13, 25, 96))
    yield _standing("mortality", dead)
    for chance in LIKELY:
        early = replace(dead, actual=24, is_early=True, confidence=chance, course=(11, 14, 13, 24))
        yield _standing("mortality", early)
    withdrawn = replace(dead, why="has not become the outbreak that seemed near")
    yield replace(_standing("mortality", withdrawn), state=WarningState.NORMAL, reason=Reason.BACK_IN_BAND)


def _of_sensors(kind: str) -> Iterator[Standing]:
    for signal in (*SENSORS, "temperature-2", "noise"):
        actual, _, expected = MEASURED.get(signal, (21.5, 0.0, 24.5))
        yield _standing(
            f"{kind}-{signal}", Evidence(1.5, actual=actual, expected=expected, unit=signal_of(signal).unit)
        )
    yield _standing(f"{kind}-co2", None)


_OF_SENSORS = ("missing", "stuck", "disagree", "range")


def _plain(
    kind: str, signal: str, actual: float, limit: float, unit: str | None, over_s: int = 600
) -> Iterator[Standing]:
    name = f"{kind}-{signal}" if signal else kind
    yield _standing(name, Evidence(1.2, actual=actual, expected=limit, unit=unit, over_s=over_s))


def _courses() -> Iterator[Standing]:
    """Yield a warning that is told to nobody, for each reason, that comes and goes, that waits."""
    low = _measured("deviation", "water", 0, 3600)
    for reason in (Reason.HOUSE_STATE, Reason.FLOCK_AGE, Reason.SERVICE, Reason.BAD_QUALITY, Reason.ROOT_CAUSE):
        yield replace(low, state=WarningState.SUPPRESSED, reason=reason)
    for deadband in (None, 0.4):
        yield replace(low, chatter=Chatter(5, 43_200, 5_400, deadband))
    yield replace(low, is_escalated=True, back_since=TOLD.at)


EXAMPLES: dict[str, Callable[[], Iterator[Standing]]] = {  # by kind of rule
    "deviation": partial(_modelled, "deviation", 3600),
    "trend": partial(_modelled, "trend", 3 * 86_400),
    "mortality": _mortality,
    "high": partial(_plain, "high", "temperature", 26.5, 25.5, "Cel"),
    "low": partial(_plain, "low", "temperature", 17.5, 18.5, "Cel"),
    "max": partial(_plain, "max", "co2", 3650.0, 3500.0, "ppm"),
    "min": partial(_plain, "min", "humidity", 38.5, 40.5, "%RH"),
    "misplaced": partial(_plain, "misplaced", "outside_temperature", 31.5, 24.5, "Cel"),
    "drop": partial(_plain, "drop", "water", 6205.0, 7410.0, "l", 86_400),
    "rise": partial(_plain, "rise", "water", 8105.0, 7410.0, "l", 86_400),
    "few": partial(_plain, "few", "feed", 4.5, 10.5, "kg", 7_200),
    "much": partial(_plain, "much", "water", 640.0, 410.0, "l", 1_800),
    "ratio": partial(_plain, "ratio", "water", 2.7, 2.1, "l/kg", 86_400),
    "unregistered": lambda: iter([_standing("unregistered", Evidence(1.2, actual=14.0, unit="h", over_s=86_400))]),
    "placement": partial(_plain, "placement", "", 320_000.0, 32_000.0, "birds"),
    "silent": lambda: iter([_standing("silent", Evidence(1.5, actual=5400, unit="s"))]),
    **{kind: partial(_of_sensors, kind) for kind in _OF_SENSORS},
}


def review() -> str:
    """Return docs/texts.md."""
    shown = {example.shape(): example for example in reversed(list(examples()))}  # of each shape the first
    lines = [_HEAD]
    for example in reversed(shown.values()):
        lines.append(f"**{example.standing.rule}**, {example.standing.state}\n")
        lines += [f"- {tag}: {example.text(Locale(tag))}" for tag in LANGUAGES]
        lines.append("")
    lines += ["## All messages\n", f"| {' | '.join(LANGUAGES)} |", "|---" * len(LANGUAGES) + "|"]
    catalogues = [messages_of(tag) for tag in LANGUAGES]
    lines += ["| " + " | ".join(" / ".join(words[name]) for words in catalogues) + " |" for name in catalogues[0]]
    return "\n".join(lines) + "\n"


_HEAD = """# What people read, for review

Made by `make languages` from the program and its catalogues; do not edit. **No native speaker has reviewed the Danish,
German and Portuguese texts yet.** Who raises broilers in one of these languages: please read them, and put right what
nobody would say ([languages.md](languages.md)).

## Examples
"""

if __name__ == "__main__":
    REVIEW.write_text(review(), encoding="utf-8")
    print(REVIEW)
