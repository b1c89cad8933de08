"""A gateway's clock that starts in 1970, or jumps by ten years and back: nothing lost, nothing pruned, nobody alarmed.

libfaketime gives the agent a wrong wall clock, and changes it while the agent runs; its monotonic clock stays right.
"""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Broker, Gateway, Mqtt, Program

TEN_YEARS_S = 10 * 365 * 86_400
HISTORY = 180  # readings, one a minute
STEP_S = 660.0  # a step of the grid, and the time that it takes
NEARLY_RIGHT_S = 3_600.0  # readings without a stamp that came with a wrong clock: so near their times must be


class Faked:
    """A gateway whose agent has a clock of its own."""

    def __init__(self, gateway: Gateway, library: str, mouth: Mqtt, until: Callable[..., None]) -> None:
        self.gateway = gateway
        self.sent = 0
        self.began = time.time()
        self._library, self._mouth, self._until = library, mouth, until
        self._offset = gateway.folder / "offset"
        self.set(0)

    def set(self, offset_s: float) -> None:
        """Let the agent's clock be so much ahead of the right one."""
        draft = self._offset.with_suffix(".new")
        draft.write_text(f"{offset_s:+.0f}\n")
        draft.replace(self._offset)

    def agent(self) -> Program:
        """Start the agent, and return when it hears its broker."""
        before = self.gateway.connects()
        environment = {
            "LD_PRELOAD": self._library,
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "NO_FAKE_STAT": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # its name since libfaketime 0.9.9
        }
        words = ["env", *(f"{name}={value}" for name, value in environment.items()), sys.executable, "-m", "agent.cli"]
        agent = self.gateway.launch([*words, "agent", "--config", str(self.gateway.config)], "agent")
        self._until(lambda: agent.code is not None or self.gateway.connects() > before, "the agent has its broker")
        assert agent.code is None, agent.said()
        return agent

    def hears(self, agent: Program, words: str) -> None:
        """Wait until the agent says so of its clock; it looks at it every few seconds."""
        self._until(lambda: f'"clock: {words}' in agent.said(), f"the agent says 'clock: {words}'")

    def say(self, n: int = 20) -> None:
        """Send readings without a stamp, numbered on and on, and return when the agent has stored them."""
        before = self.gateway.count("readings")
        for i in range(self.sent, self.sent + n):
            self._mouth.say("skov/farm1/house1/co2", 800 + i)
        self.sent += n
        self._until(lambda: self.gateway.count("readings") == before + n, f"{n} readings more")

    def past(self) -> None:
        """Send three hours of stamped readings."""
        now_ms = int(self.began * 1000)
        self._mouth.say_all(
            [
                ("skov/farm1/house1/humidity", {"value": 60 + i % 5, "at": now_ms - 60_000 * i})
                for i in reversed(range(HISTORY))
            ]
        )
        self._until(lambda: self.gateway.count("readings") == HISTORY, "the past is stored")

    def assert_ends_at_the_right_time(self, agent: Program) -> None:
        """End the agent; by its last word it believes its clock, and judges by it."""
        assert agent.stop() == 0
        health = self.gateway.health()
        assert health["clock_trusted"]
        assert "clock" not in health["degraded"]
        judged_at = datetime.fromisoformat(health["judged_at"]).timestamp()
        assert 0 <= time.time() - judged_at < STEP_S

    def assert_all_is_there(self, *, past: int) -> None:
        """Find every reading in house.db and in the lake once, near its true time; only after the agent's end."""
        rows = self.gateway.rows("readings")
        assert len(rows) == past + self.sent  # in house.db, where nothing is two days old: nothing was pruned
        self.gateway.sync()
        there = self.gateway.lake("SELECT value, epoch_ms(\"at\") FROM {readings} WHERE signal = 'co2' ORDER BY value")
        assert [value for value, _ in there] == [800 + i for i in range(self.sent)]
        ((n,),) = self.gateway.lake("SELECT count(*) FROM {readings} WHERE signal = 'humidity'") if past else ((0,),)
        assert n == past
        wrong_s = [at_ms / 1000 - self.began for _, at_ms in there if abs(at_ms / 1000 - self.began) > NEARLY_RIGHT_S]
        assert wrong_s == []


@pytest.fixture
def faked(
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    mqtt: Callable[..., Mqtt],
    until: Callable[..., None],
    need_library: Callable[[str, str], str],
) -> Faked:
    """Give a gateway with one house, and a broker."""
    library = need_library("faketime/libfaketimeMT.so.1", "libfaketime")
    return Faked(make_gateway(broker.port), library, mqtt(), until)


def place_flock(mouth: Mqtt) -> None:
    mouth.say("flockwatch/farm1/house1/flock/command", {"id": "p", "action": "place", "flock": "A1"})
    mouth.hear_json("flockwatch/farm1/house1/flock/response")


@pytest.mark.parametrize("jump_s", [TEN_YEARS_S, -TEN_YEARS_S], ids=["forward", "back"])
def test_a_clock_that_jumps_ten_years_and_back_loses_prunes_and_alarms_nothing(
    jump_s: int, faked: Faked, mqtt: Callable[..., Mqtt]
) -> None:
    """In mid-run, and with a start of the agent before the clock is right again."""
    alarms = mqtt("flockwatch/+/+/warning/+")
    agent = faked.agent()
    place_flock(mqtt("flockwatch/farm1/house1/flock/response"))
    faked.past()
    faked.say()
    faked.gateway.sync()  # from now on what is there might be pruned
    faked.set(jump_s)
    faked.say()
    faked.hears(agent, "")
    faked.say()
    assert agent.stop() == 0
    assert "clock" in faked.gateway.health()["degraded"]
    agent = faked.agent()
    faked.hears(agent, "")
    faked.say()
    faked.set(0)
    faked.say()
    faked.hears(agent, "well again")
    faked.assert_ends_at_the_right_time(agent)
    assert alarms.heard.empty()
    faked.assert_all_is_there(past=HISTORY)


def test_a_first_start_in_1970_is_put_right_when_the_clock_is(faked: Faked, mqtt: Callable[..., Mqtt]) -> None:
    alarms = mqtt("flockwatch/+/+/warning/+")
    faked.set(60 - time.time())
    agent = faked.agent()
    faked.hears(agent, "")
    faked.say()
    faked.set(0)
    faked.say()
    faked.hears(agent, "well again")
    place_flock(mqtt("flockwatch/farm1/house1/flock/response"))
    faked.assert_ends_at_the_right_time(agent)
    assert alarms.heard.empty()
    faked.assert_all_is_there(past=0)
