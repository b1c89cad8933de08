"""An outbreak that a model sees coming: told early and one step milder, worse when it is there, withdrawn if not."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from agent.clock import FarmDays
from agent.commands import parse_flock_command
from agent.config import RuleOverride
from agent.domain import Reason, Severity, WarningEvent, WarningState
from agent.errors import BundleError
from agent.manifest import parse_manifest
from agent.predict import Due
from agent.signals import signal_of
from agent.watch import HouseResult, HouseWatch
from agent.window import HouseInputs

if TYPE_CHECKING:
    from agent.predict import Model

DAYS = FarmDays(ZoneInfo("UTC"))
PLACED = date(2026, 3, 1)
TEXT = """
name = "seer"
version = "2.0.0"
task = "custom"
licence = "MIT"
cadence_s = 600
model = { file = "model.onnx", sha256 = "SHA256", opset = 17 }
[[input]]
name = "x"
shape = ["houses", 2]
facts = ["losses.0", "losses.1"]
[[output]]
name = "coming"
meaning = "probabilities"
target = "mortality"
labels = ["outbreak", "usual"]
limit = 0.5
""".replace("SHA256", "0" * 64)
SEER = parse_manifest(TEXT, "manifest.toml")


class House:
    """A house whose losses are told at the end of each day, and a model that says what the test wants."""

    def __init__(self, threshold: float | None = None) -> None:
        overrides = {} if threshold is None else {"mortality": RuleOverride(threshold=threshold)}
        self.watch = HouseWatch(
            "h1",
            signal=lambda key: signal_of(key.signal),
            days=DAYS,
            manifests=[SEER],
            overrides=overrides,
            rhythm_s=lambda _key: None,
            started_monotonic=float("-inf"),
        )
        self.now = datetime(2026, 3, 16, tzinfo=UTC)
        self.said: float | None = 0.1
        self.tell({"action": "place", "flock": "f1", "placed_on": str(PLACED), "birds_placed": 10_000})
        for back in range(1, 11):
            self.record(self.now.date() - timedelta(days=back), 8)

    def tell(self, command: dict[str, object]) -> None:
        self.watch.apply(parse_flock_command(json.dumps(command)), self.now)

    def record(self, day: date, dead: int) -> None:
        self.tell({"action": "record", "date": str(day), "dead": dead})

    def judge(self, probability: float | None) -> list[WarningEvent]:
        results = []
        if probability is not None:
            outputs = {"coming": np.array([probability, 1 - probability])}
            results.append(HouseResult(SEER, None, outputs, HouseInputs({}, 1.0)))
        return list(self.watch.judge(results, self.now, float("inf")).warnings)

    def day(self, dead: int, probability: float | None) -> list[WarningEvent]:
        """Let a day pass, told at its end and judged every twelve hours."""
        events = []
        for _ in range(2):
            self.now += timedelta(hours=12)
            if self.now.hour == 0:
                self.record(self.now.date() - timedelta(days=1), dead)
                self.said = probability
            events += self.judge(self.said)
        return [event for event in events if event.standing.state is not WarningState.PENDING]


def test_what_is_seen_coming_is_told_early_and_a_step_milder() -> None:
    house = House()
    [event] = house.day(16, 0.6)
    evidence = event.standing.evidence
    assert evidence is not None
    assert (event.standing.severity, evidence.is_early) == (Severity.MINOR, True)
    assert (evidence.actual, evidence.expected, evidence.confidence) == (16, 8, 0.6)
    assert (evidence.model, evidence.model_version) == ("seer", "2.0.0")
    assert (
        "an outbreak is probably coming (60 %): 16 birds on the last day counted, 8 birds would be usual" in event.text
    )
    assert "the last days: 8, 8, 8, 8, 8, 8, 16" in event.text


def test_the_outbreak_itself_makes_it_worse_and_says_so() -> None:
    house = House()
    house.day(16, 0.6)
    [event] = house.day(60, 0.9)
    assert (event.reason, event.standing.severity) == (Reason.SEVERITY_ROSE, Severity.MAJOR)
    assert "mortality on the last day counted is 650 % above the expected: 60 birds instead of 8 birds" in event.text
    assert "is probably coming" not in event.text


def test_while_an_outbreak_fades_no_other_is_foretold() -> None:
    house = House()
    house.day(60, 0.9)
    house.day(30, 0.9)
    standing = house.watch.standings["mortality"]
    assert (standing.state, standing.severity) == (WarningState.ACTIVE, Severity.MAJOR)
    assert standing.evidence is not None
    assert not standing.evidence.is_early


def test_what_does_not_come_is_withdrawn_after_six_days_and_told_anew_if_it_goes_on() -> None:
    house = House()
    moves = [event for more in range(9) for event in house.day(16 + 4 * more, 0.6)]
    assert [event.standing.state for event in moves] == [WarningState.ACTIVE, WarningState.NORMAL, WarningState.ACTIVE]
    assert "has not become the outbreak that seemed near" in moves[1].text
    assert timedelta(days=6) <= moves[1].at - moves[0].at <= timedelta(days=7)


def test_it_is_over_when_the_model_says_so() -> None:
    house = House()
    house.day(16, 0.6)
    moves = [*house.day(8, 0.1), *house.day(8, 0.1)]
    assert [(event.standing.state, event.reason) for event in moves] == [(WarningState.NORMAL, Reason.BACK_IN_BAND)]
    assert "is as expected again" in moves[0].text


def test_a_day_no_worse_than_chance_makes_a_usual_one_is_no_sign_whatever_a_model_says() -> None:
    house = House()
    assert house.day(8, 0.99) == []
    assert house.day(10, 0.99) == []  # 8 and its root are 10.8
    assert house.day(0, 0.99) == []


def test_a_model_that_falls_silent_leaves_no_false_word_behind() -> None:
    house = House()
    house.day(16, 0.6)
    [event] = [*house.day(16, None), *house.day(16, None)]
    assert (event.standing.state, event.reason) == (WarningState.NORMAL, Reason.CANNOT_SAY)
    assert "cannot be judged any more: the model that saw it coming says nothing" in event.text


def test_without_a_model_the_plain_rule_holds() -> None:
    house = House()
    assert house.day(16, None) == []
    [event] = house.day(60, None)
    assert event.standing.severity is Severity.MAJOR


@pytest.mark.parametrize(("threshold", "warns"), [(0.0015, True), (0.003, False), (0.006, False)])
def test_the_threshold_moves_the_odds_of_the_early_warning_too(threshold: float, warns: bool) -> None:
    house = House(threshold)
    assert bool(house.day(16, 0.4)) == warns


def test_losses_are_facts_by_farm_day_of_what_was_told() -> None:
    house = House()
    house.tell({"action": "thin", "at": "2026-03-14T06:00:00Z", "birds": 4_000})
    due = Due(cast("Model", SimpleNamespace(manifest=SEER)), SEER.output)

    def losses() -> list[float]:
        [(_, inputs)] = house.watch.features(due, house.now)
        return [float(value) for value in inputs.tensors["x"]]

    assert losses() == pytest.approx([8 / 5_920, 8 / 5_928])  # at midnight the last day is the one just over
    house.now += timedelta(hours=3)
    assert losses() == pytest.approx([np.nan, 8 / 5_920], nan_ok=True)
    house.record(house.now.date(), 12)
    assert losses()[0] == pytest.approx(12 / 5_908)


def test_a_manifest_that_asks_for_other_days_or_limits_what_is_no_probability_is_refused() -> None:
    with pytest.raises(BundleError, match=r"'losses\.80' is no fact"):
        parse_manifest(TEXT.replace("losses.1", "losses.80"), "m")
    with pytest.raises(BundleError, match="a limit is of probabilities"):
        parse_manifest(TEXT.replace('"probabilities"', '"score"'), "m")


def test_probabilities_of_other_things_foresee_nothing() -> None:
    assert parse_manifest(TEXT.replace("limit = 0.5", ""), "m").foresight is None
    assert parse_manifest(TEXT.replace('target = "mortality"', 'target = "rain"'), "m").foresight is None
    assert SEER.foresight == ("coming", 0, 0.5)
