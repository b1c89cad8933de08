"""``flockwatch check --listen`` on a real broker."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import Mqtt

if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import CompletedProcess

    from tests.conftest import Broker, Gateway


def test_listening_shows_what_arrives_and_writes_the_source_for_what_does_not(
    broker: Broker, make_gateway: Callable[..., Gateway], mqtt: Callable[..., Mqtt]
) -> None:
    gateway, sender, over = make_gateway(broker.port), mqtt(), threading.Event()

    def send() -> None:
        while not over.wait(0.1):
            sender.say("skov/farm1/house1/temperature", 21.5)
            sender.say("skov/farm1/house1/co2", '"high"')
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


DENIES_ALL_TOPICS = {
    "defaultACLAccess": {
        "publishClientSend": True,
        "publishClientReceive": True,
        "subscribe": True,
        "unsubscribe": True,
    },
    "anonymousGroup": "all",
    "groups": [{"groupname": "all", "roles": [{"rolename": "some"}]}],
    "roles": [
        {"rolename": "some", "acls": [{"acltype": "subscribeLiteral", "topic": "#", "priority": 1, "allow": False}]}
    ],
}


def test_where_not_all_topics_may_be_heard_that_is_said_and_those_of_the_sources_are(
    make_broker: Callable[[str], Broker], make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    (rules := tmp_path / "rules.json").write_text(json.dumps(DENIES_ALL_TOPICS))
    [plugin, *_] = Path("/usr/lib").glob("**/mosquitto_dynamic_security.so")  # of Debian's package
    broker = make_broker(f"allow_anonymous true\nplugin {plugin}\nplugin_opt_config_file {rules}\n")
    gateway, over = make_gateway(broker.port), threading.Event()
    with Mqtt(broker.port) as sender:

        def send() -> None:
            while not over.wait(0.1):
                sender.say("skov/farm1/house1/temperature", 21.5)
                sender.say("barn/3/rh", 61)

        sending = threading.Thread(target=send)
        sending.start()
        try:
            told = gateway.run("check", "--listen", "1")
        finally:
            over.set()
            sending.join()
    assert told.returncode == 0
    assert "house1/temperature" in told.stdout
    assert "barn" not in told.stdout
    assert "only the topics of [[source]] were listened to" in told.stderr
    assert "Not authorized" in told.stderr


def test_where_nothing_is_heard_the_reasons_are_named(broker: Broker, make_gateway: Callable[..., Gateway]) -> None:
    told = make_gateway(broker.port).run("check", "--listen", "0.2")
    assert told.returncode == 1
    assert "heard 0 messages" in told.stdout
    assert "access list" in told.stdout


@pytest.mark.parametrize("seconds", ["0", "-3", "nan", "inf", "soon", "100000"])
def test_seconds_that_are_none_are_refused(flockwatch: Callable[..., CompletedProcess[str]], seconds: str) -> None:
    told = flockwatch("check", "--listen", seconds)
    assert told.returncode == 2
    assert "is no number of seconds" in told.stderr


def test_a_broker_that_is_away_is_one_message(make_gateway: Callable[..., Gateway]) -> None:
    told = make_gateway(1).run("check", "--listen", "1")
    assert told.returncode == 1
    assert told.stderr.startswith("flockwatch: the broker at 127.0.0.1:1 cannot be used: ")
    assert told.stderr.count("\n") == 1
