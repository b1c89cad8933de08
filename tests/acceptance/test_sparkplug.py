"""A Sparkplug node, a real broker and a real agent that is killed: what was acknowledged can be read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.sparkplug_b import BOOLEAN, metric, payload

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Broker, Gateway, Mqtt

SOURCE = """
[[source]]
topic = "spBv1.0/{group}/{message}/{node}/{house}"
dialect = "sparkplug"
rename = { "Climate/CO2" = "co2" }
"""
ROOT = "spBv1.0/North"


def test_data_that_the_broker_held_while_the_agent_was_dead_are_read_by_the_births_before(
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    mqtt: Callable[..., Mqtt],
    until: Callable[..., None],
) -> None:
    gateway, node = make_gateway(broker.port, settings=SOURCE), mqtt(f"{ROOT}/NCMD/+")
    now_ms = int(time.time() * 1000)

    def data(seq: int, value: int) -> None:
        """Send by its alias, at QoS 1: then the broker holds it."""
        wire = payload(metric(alias=7, long_value=value), seq=seq, timestamp=now_ms + seq)
        node.say(f"{ROOT}/DDATA/Gateway/house1", wire)

    agent = gateway.agent()
    birth = metric(name="Climate/CO2", alias=7, long_value=900, timestamp=now_ms)
    node.say(f"{ROOT}/NBIRTH/Gateway", payload(seq=0))
    node.say(f"{ROOT}/DBIRTH/Gateway/house1", payload(birth, seq=1))
    data(2, 902)
    until(lambda: gateway.count("readings") == 2, "birth and data are stored")
    agent.kill()
    data(3, 903)
    gateway.agent()
    until(lambda: gateway.count("readings") == 3, "what the broker held is stored")
    asked = node.hear(lambda message: message.topic == f"{ROOT}/NCMD/Gateway", "the agent asks for a new birth")
    assert metric(name="Node Control/Rebirth")[2:] in asked.payload
    assert metric(datatype=BOOLEAN, boolean_value=True) in asked.payload
    assert not asked.retain
    stored = [(row["house"], row["signal"], row["value"]) for row in gateway.rows("readings")]
    assert stored == [("house1", "co2", value) for value in (900.0, 902.0, 903.0)]
    assert gateway.health().get("rejected", {}) == {}
