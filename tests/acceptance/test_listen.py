"""``flockwatch check --listen`` on a real broker."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Broker, Gateway, Mqtt


def test_listening_shows_what_arrives_and_writes_the_source_for_what_does_not(
    broker: Broker, make_gateway: Callable[..., Gateway], mqtt: Callable[..., Mqtt]
) -> None:
    gateway, sender, over = make_gateway(broker.port), mqtt(), threading.Event()

    def send() -> None:
        while not over.wait(0.1):
            sender.say("skov/farm1/house1/temperature", 21.5)
            sender.say("skov/farm1/house1/co2", "high")
            sender.say("barn/3/rh", 61)

    sending = threading.Thread(target=send)
    sending.start()
    try:
        told = gateway.run("check", "--listen", "2", "--json")
        shown = gateway.run("check", "--listen", "1")
    finally:
        over.set()
        sending.join()
    assert (told.returncode, told.stderr) == (0, "")
    heard = json.loads(told.stdout)
    assert [(one["house"], one["signal"], one["unit"]) for one in heard["series"]] == [("house1", "temperature", "Cel")]
    assert {one["reason"] for one in heard["dropped"]} == {"wrong type", "unknown topic"}
    (source,) = heard["sources"]
    assert source["toml"] == (
        '[[source]]\ntopic = "barn/{house}/{signal}"\ndialect = "value"\nrename = { "rh" = "humidity" }'
    )
    assert source["readings"] >= 1
    assert shown.returncode == 0
    assert "reads   house1/temperature  21.5 Cel  <- skov/farm1/house1/temperature" in shown.stdout
    assert source["toml"] in shown.stdout
    # the suggestion, pasted: now it is read
    gateway.configure(broker.port, ("house1",), source["toml"], "use = []")
    assert gateway.run("check", "--listen", "0.2").returncode == 1  # nobody sends any more


def test_an_access_list_that_hides_topics_is_said(
    make_broker: Callable[[str], Broker], make_gateway: Callable[..., Gateway]
) -> None:
    """Anonymous clients may not subscribe to everything: the sources' own topics are heard all the same."""
    broker = make_broker("allow_anonymous true\nacl_file {directory}/acl\n")
    (broker.directory / "acl").write_text("topic deny #\ntopic skov/#\n")
    told = make_gateway(broker.port).run("check", "--listen", "0.3")
    assert told.returncode == 1
    assert "heard 0 messages" in told.stdout


@pytest.mark.parametrize("seconds", ["0", "-3", "nan", "inf", "soon", "100000"])
def test_seconds_that_are_none_are_refused(flockwatch: Callable[..., object], seconds: str) -> None:
    told = flockwatch("check", "--listen", seconds)
    assert told.returncode == 2  # type: ignore[attr-defined]
    assert "is no number of seconds" in told.stderr  # type: ignore[attr-defined]


def test_a_broker_that_is_away_is_one_message(make_gateway: Callable[..., Gateway]) -> None:
    told = make_gateway(1).run("check", "--listen", "1")
    assert told.returncode == 1
    assert told.stderr.startswith("flockwatch: the broker at 127.0.0.1:1 cannot be used: ")
    assert told.stderr.count("\n") == 1
