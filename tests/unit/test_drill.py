"""A drill proves each part of the way, says which failed, and leaves nothing that could be taken for the truth."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agent.config import Config
from agent.drill import TEXT, Drills
from agent.topics import Topics

if TYPE_CHECKING:
    from agent.domain import Event

START = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
PANEL = {"name": "panel1", "drill": True}
SCREEN = {"name": "screen1", "drill": True, "confirms": "warning"}


class Farm:
    """The drills, a broker in memory that may lose topics, and controllers that answer or do not."""

    def __init__(self, *controllers: dict[str, Any], kept: str | None = None, **drill: Any) -> None:  # noqa: ANN401  # [drill]
        config = Config.model_validate(
            {"house": [{"id": "house1"}, {"id": "house2"}], "controller": controllers, "drill": drill}
        )
        self.drills = Drills(config, Topics("flockwatch", "farm1"), kept)
        self.names = [controller["name"] for controller in controllers]
        self.now, self.real_s = START, 1_000.0
        self.lost: set[str] = set()  # topics' last levels that never arrive
        self.silent: set[str] = set()  # controllers
        self.said: list[tuple[str, Any]] = []
        self.events: list[Event] = []

    def turn(self, seconds: float = 0.1) -> None:
        self.now += timedelta(seconds=seconds)
        self.real_s += seconds
        out, events = self.drills.turn(self.real_s, self.now, is_able=True)
        self.events += events
        for topic, payload in out:
            self.said.append((topic, json.loads(payload)))
            if topic.rsplit("/", 1)[1] not in self.lost:
                self.drills.hear(topic, payload, self.real_s, self.now)
                self._answer(topic, json.loads(payload))

    def _answer(self, topic: str, document: Any) -> None:  # noqa: ANN401  # JSON
        root, _, what = topic.rpartition("/")
        for name in set(self.names) - self.silent:
            if what == "severity" and name.startswith("panel"):
                self.drills.hear(f"{root}/receipt/{name}", b"%d" % document, self.real_s, self.now)
            elif what == "warning" and name.startswith("screen"):
                answer = json.dumps({"id": document["id"]}).encode()
                self.drills.hear(f"{root}/receipt/{name}", answer, self.real_s, self.now)

    def drill(self, house: str = "house1") -> dict[str, Any]:
        self.drills.ask(house, "d1")
        for _ in range(400):
            self.turn()
            if self.events:
                return self.events.pop().detail
        pytest.fail("the drill has no end")


def test_a_drill_goes_from_a_reading_to_the_controllers_and_back() -> None:
    farm = Farm(PANEL, SCREEN)
    outcome = farm.drill()
    assert (outcome["passed"], outcome["reason"], outcome["id"]) == (True, None, "d1")
    assert [step["step"] for step in outcome["steps"]] == [
        "a reading came back from the broker", "the alert came back from the broker", "screen1 confirmed it",
        "panel1 confirmed it", "a good reading came back", "its end came back from the broker",
    ]  # fmt: skip


def test_nothing_of_a_drill_can_be_taken_for_the_truth() -> None:
    farm = Farm(PANEL)
    farm.drill()
    assert farm.said
    for topic, document in farm.said:
        assert topic.startswith("flockwatch/farm1/house1/drill/")
        assert isinstance(document, int) or document["drill"] is True
    alerts = [document for topic, document in farm.said if topic.endswith("/warning")]
    assert [(alert["rule"], alert["text"], alert["state"]) for alert in alerts] == [
        ("drill", TEXT, "active"),
        ("drill", TEXT, "normal"),
    ]
    assert [document for topic, document in farm.said if topic.endswith("/severity")] == [1, 0]


@pytest.mark.parametrize(
    ("lost", "silent", "reason"),
    [
        ("reading", "", "the reading did not come back from the broker within 30 s"),
        ("warning", "", "the alert did not come back from the broker within 30 s"),
        ("", "panel1", "panel1 did not confirm it within 30 s"),
    ],
)
def test_a_part_that_fails_is_named_and_the_last_one_that_passed_is_still_known(
    lost: str, silent: str, reason: str
) -> None:
    farm = Farm(PANEL)
    passed_at = farm.drill()["passed_at"]
    farm.lost, farm.silent = {lost}, {silent}
    outcome = farm.drill()
    assert (outcome["passed"], outcome["reason"], outcome["passed_at"]) == (False, reason, passed_at)
    assert farm.drills.trouble() == f"house1: {reason}"
    assert farm.said[-1] == ("flockwatch/farm1/house1/drill/severity", 0)  # nobody goes on showing it
    farm.lost, farm.silent = set(), set()
    assert farm.drill()["passed"]
    assert farm.drills.trouble() is None


def test_only_those_who_take_part_are_waited_for() -> None:
    farm = Farm({"name": "panel1"}, {"name": "panel2", "drill": True, "houses": ["house2"]})
    farm.silent = {"panel1", "panel2"}
    assert farm.drill("house1")["passed"]
    assert farm.drill("house2")["reason"] == "panel2 did not confirm it within 30 s"


def test_what_belongs_to_another_drill_proves_nothing() -> None:
    farm = Farm(PANEL)
    farm.lost = {"reading"}
    farm.drills.ask("house1", "d1")
    farm.turn()
    for payload in (b"", b"junk", b'{"id": "other", "value": 2.0}', b'{"id": "d1", "value": "many"}', b"[" * 9_999):
        for what in ("reading", "warning", "receipt/panel1"):
            farm.drills.hear(f"flockwatch/farm1/house1/drill/{what}", payload, farm.real_s, farm.now)
    for _ in range(310):
        farm.turn()
    assert farm.events[-1].detail["reason"] == "the reading did not come back from the broker within 30 s"


def test_drills_come_by_themselves_at_their_hour_one_house_after_the_other_and_go_on_after_a_restart() -> None:
    farm = Farm(every_days=7, at="10:00:00")
    for _ in range(20):
        farm.turn()
    assert [event.house for event in farm.events] == ["house1", "house2"]  # there was none yet
    again = Farm(kept=farm.drills.kept(), every_days=7, at="10:00:00")
    for hours in range(7 * 24):
        again.now = START + timedelta(hours=hours)
        for _ in range(6):
            again.turn()
    assert [event.at.isoformat()[:13] for event in again.events] == ["2026-03-17T10"] * 2


def test_without_a_broker_or_a_store_nothing_is_begun() -> None:
    farm = Farm(every_days=1)
    farm.drills.ask("house1", "d1")
    assert farm.drills.turn(farm.real_s, farm.now, is_able=False) == ([], [])
