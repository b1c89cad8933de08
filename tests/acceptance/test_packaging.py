"""What is installed on a gateway: services that systemd takes, and broker rules that hold in the real broker."""

from __future__ import annotations

import os
import queue
import re
import stat
import subprocess
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.store import Store, StoreReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Broker

PACKAGING = Path(__file__).parents[2] / "packaging"
UNITS = ("flockwatch-agent.service", "flockwatch-sync.service")
PATIENCE_S = 20.0


@pytest.fixture
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Give a unit whose program exists on this machine; all else is as shipped."""
    shipped = PACKAGING / "systemd" / str(request.param)
    copy = tmp_path / shipped.name
    copy.write_text(shipped.read_text().replace("/opt/flockwatch/bin/flockwatch", "/bin/true"))
    return copy


@pytest.mark.parametrize("unit", UNITS, indirect=True)
def test_systemd_finds_nothing_wrong_with_a_unit(unit: Path, need: Callable[..., str]) -> None:
    done = subprocess.run(
        [need("systemd-analyze", "systemd"), "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, indirect=True)
def test_a_service_may_do_little_beyond_its_work(unit: Path, need: Callable[..., str]) -> None:
    """The score of exposure is systemd's own, 0 (none) to 10; 9.6 is a service without any sandbox."""
    done = subprocess.run(
        [need("systemd-analyze", "systemd"), "security", "--offline=true", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=True,
    )
    score = re.search(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)
    assert score is not None
    assert float(score[1]) <= (1.8 if "agent" in unit.name else 1.6)  # the agent may ask the kernel about its clock


def test_the_agent_may_ask_whether_the_clock_is_synchronised_and_may_not_set_it() -> None:
    """Without the kernel's word, a clock that NTP sets right by days after a power cut would not be believed."""
    shipped = (PACKAGING / "systemd" / "flockwatch-agent.service").read_text()
    settings = [line.partition("=")[::2] for line in shipped.splitlines() if line and line[0] not in "#["]
    assert "ProtectClock" not in dict(settings)  # has a filter of its own, which no other line can open again
    filters = [value for name, value in settings if name == "SystemCallFilter"]
    assert filters.index("adjtimex clock_adjtime clock_adjtime64") > filters.index("~@privileged")  # the last one wins
    assert ("CapabilityBoundingSet", "") in settings  # CAP_SYS_TIME is what it takes to set a clock


def test_the_users_of_the_services_share_a_group(tmp_path: Path, need: Callable[..., str]) -> None:
    """A reader of house.db opens its -shm for writing, so both must be in the group of the data folder."""
    (tmp_path / "etc").mkdir()
    rules = PACKAGING / "sysusers.d" / "flockwatch.conf"
    subprocess.run([need("systemd-sysusers", "systemd"), f"--root={tmp_path}", rules], check=True, capture_output=True)
    users = dict(line.split(":", 1) for line in (tmp_path / "etc/passwd").read_text().splitlines())
    group = users["flockwatch"].split(":")[2]
    assert users["flockwatch-sync"].split(":")[2] == group
    assert f"flockwatch:x:{group}:" in (tmp_path / "etc/group").read_text()
    assert users["flockwatch"].split(":")[1] != users["flockwatch-sync"].split(":")[1]


def test_agent_and_courier_can_both_open_what_the_other_has_made(tmp_path: Path) -> None:
    """What SQLite makes beside house.db is the group's to write, whoever makes it first."""
    (umask,) = {re.findall(r"(?m)^UMask=(\d+)$", (PACKAGING / "systemd" / name).read_text())[0] for name in UNITS}
    database = tmp_path / "house.db"
    before = os.umask(int(umask, 8))
    try:
        Store.open(database).close()
        with StoreReader.open(database):  # makes -wal and -shm anew
            made = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("house.db*")}
    finally:
        os.umask(before)
    assert {"house.db", "house.db-shm", "house.db-wal"} <= set(made)
    assert set(made.values()) == {0o660}


@pytest.fixture
def shipped_broker(make_broker: Callable[[str], Broker], tmp_path: Path, need: Callable[..., str]) -> Broker:
    """Give a mosquitto with the shipped rules and six users, whose passwords are their names."""
    tool = need("mosquitto_passwd", "mosquitto")
    passwords = tmp_path / "passwd"
    passwords.touch(mode=0o600)
    for user in ("flockwatch", "panel", "viewer", "homeassistant", "house1", "house2"):
        subprocess.run([tool, "-b", passwords, user, user], check=True)
    settings = (PACKAGING / "mosquitto" / "flockwatch.conf").read_text()
    settings = settings.replace("/etc/mosquitto/flockwatch.passwd", str(passwords))
    settings = settings.replace("/etc/mosquitto/flockwatch.acl", str(PACKAGING / "mosquitto" / "flockwatch.acl"))
    (listener,) = re.findall(r"(?m)^listener .*$", settings)
    assert listener == "listener 1883 127.0.0.1"
    return make_broker(settings.replace(listener, ""))


@pytest.fixture
def connect(shipped_broker: Broker) -> Iterator[Callable[[str], paho.Client]]:
    """Give a function that connects a user."""
    with ExitStack() as stack:

        def make(user: str, password: str | None = None) -> paho.Client:
            client = paho.Client(
                CallbackAPIVersion.VERSION2, client_id=uuid.uuid4().hex, protocol=MQTTProtocolVersion.MQTTv5
            )
            client.username_pw_set(user, password or user)
            answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
            client.on_connect = lambda _client, _data, _flags, code, _properties: answers.put(not code.is_failure)
            client.connect(shipped_broker.host, shipped_broker.port)
            client.loop_start()
            stack.callback(client.loop_stop)
            stack.callback(client.disconnect)
            if not answers.get(timeout=PATIENCE_S):
                raise PermissionError(user)
            return client

        yield make


def _is_taken(client: paho.Client, topic: str) -> bool:
    """Publish, and return whether the broker took it."""
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
    client.on_publish = lambda _client, _data, _mid, code, _properties: answers.put(not code.is_failure)
    client.publish(topic, b"1", qos=1)
    return answers.get(timeout=PATIENCE_S)


@pytest.mark.parametrize(
    ("user", "topic", "may"),
    [
        ("house1", "skov/farm1/house1/temperature", True),
        ("house1", "skov/farm1/house1", True),
        ("house1", "skov/farm1/house2/temperature", False),
        ("house1", "skov/farm1/house2", False),
        ("house1", "flockwatch/farm1/house1/severity", False),
        ("house1", "flockwatch/farm1/house1/flock/command", False),
        ("flockwatch", "flockwatch/farm1/house1/severity", True),
        ("flockwatch", "flockwatch/farm1/house1/flock/command", True),
        ("flockwatch", "skov/farm1/house1/temperature", False),
        ("panel", "flockwatch/farm1/house1/flock/command", True),
        ("panel", "flockwatch/farm1/house1/warning/mortality/command", True),
        ("panel", "flockwatch/farm1/house1/drill/command", True),
        ("panel", "flockwatch/farm1/house1/receipt/panel1", False),
        ("viewer", "flockwatch/farm1/house1/warning/mortality/command", False),
        ("viewer", "flockwatch/farm1/house1/drill/command", False),
        ("house1", "flockwatch/farm1/house1/receipt/panel1", True),
        ("house1", "flockwatch/farm1/house1/drill/receipt/panel1", True),
        ("house1", "flockwatch/farm1/house2/receipt/panel1", False),
        ("house1", "flockwatch/farm1/house1/drill/reading", False),
        ("house1", "flockwatch/farm1/house1/drill/command", False),
        ("flockwatch", "homeassistant/device/flockwatch_farm1_house1/config", True),
        ("homeassistant", "homeassistant/status", True),
        ("homeassistant", "flockwatch/farm1/house1/flock/command", False),
        ("house1", "homeassistant/device/flockwatch_farm1_house1/config", False),
        ("panel", "flockwatch/farm1/house1/warning/mortality", False),
        ("panel", "flockwatch/farm1/house1/severity", False),
        ("panel", "skov/farm1/house1/temperature", False),
    ],
)
def test_a_user_of_the_broker_may_write_what_is_his_and_nothing_else(
    connect: Callable[[str], paho.Client], user: str, topic: str, *, may: bool
) -> None:
    assert _is_taken(connect(user), topic) is may


@pytest.mark.parametrize(
    ("user", "hears"),
    [
        ("flockwatch", {"skov/farm1/house1/temperature", "flockwatch/farm1/house1/severity"}),
        ("panel", {"flockwatch/farm1/house1/severity"}),
        ("house1", {"flockwatch/farm1/house1/severity"}),
        ("house2", set()),
    ],
)
def test_a_user_of_the_broker_hears_what_is_for_him(
    connect: Callable[[str], paho.Client], user: str, hears: set[str]
) -> None:
    """Everything is subscribed; what comes is what the rules allow."""
    listener, house, agent = connect(user), connect("house1"), connect("flockwatch")
    heard: queue.SimpleQueue[str] = queue.SimpleQueue()
    subscribed: queue.SimpleQueue[None] = queue.SimpleQueue()
    listener.on_message = lambda _client, _data, message: heard.put(message.topic)
    listener.on_subscribe = lambda *_: subscribed.put(None)
    listener.subscribe([("skov/#", 1), ("flockwatch/#", 1)])
    subscribed.get(timeout=PATIENCE_S)
    assert _is_taken(house, "skov/farm1/house1/temperature")
    assert _is_taken(agent, "flockwatch/farm1/house1/severity")
    # what everyone may hear of himself comes last, so that nothing is still under way when it is there
    last = f"flockwatch/farm1/{user}/end"
    assert _is_taken(agent, last)
    found = set(iter(lambda: heard.get(timeout=PATIENCE_S), last))
    assert found == hears


def test_nobody_is_let_in_without_a_password(connect: Callable[..., paho.Client]) -> None:
    with pytest.raises(PermissionError):
        connect("flockwatch", "guess")
