"""`flockwatch drill` with the real agent, a real broker, and a controller that echoes."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Broker, Gateway, Mqtt

ROOT = "flockwatch/farm1/house1/drill"


def test_a_drill_is_proven_by_the_real_programs_and_leaves_no_warning(
    broker: Broker, make_gateway: Callable[..., Gateway], mqtt: Callable[..., Mqtt]
) -> None:
    gateway = make_gateway(broker.port, settings='[[controller]]\nname = "panel1"\ndrill = true\n')
    controller, hears = mqtt(f"{ROOT}/severity"), mqtt("flockwatch/#")
    agent = gateway.agent()
    done = threading.Event()

    def echo() -> None:
        while not done.is_set():
            message = controller.hear(lambda _: True, "a severity of the drill")
            controller.say(f"{ROOT}/receipt/panel1", message.payload)
            if message.payload == b"0":
                return

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    said = gateway.run("drill", "--by", "Anna", "--json")
    assert said.returncode == 0, said.stderr
    (outcome,) = json.loads(said.stdout)
    assert outcome["passed"], outcome
    assert "panel1 confirmed it" in [step["step"] for step in outcome["steps"]]
    thread.join(10)
    assert agent.stop() == 0
    assert gateway.rows("warnings") == []
    kinds = {row["kind"]: json.loads(row["detail"]) for row in gateway.rows("events")}
    assert kinds["drill"]["passed"]
    assert (kinds["command"]["by"], kinds["command"]["to"]) == ("Anna", "drill")
    assert f"drill    house1: passed {outcome['passed_at']}" in gateway.run("status").stdout
    while not hears.heard.empty():
        message = hears.heard.get()
        assert "/drill/" in message.topic or b"DRILL" not in message.payload
