"""What the tests share: a real MQTT broker on a free port, and the real programs on a data folder of their own."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in training; and what runs side by side shares the cores

import hashlib  # after the line above: numpy reads it when it is first imported
import json
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import duckdb
import numpy as np
import onnx
import paho.mqtt.client as paho
import pytest
from onnx import TensorProto, helper, numpy_helper
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.errors import StoreError
from agent.store import StoreReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

START_S = 10.0
STOP_S = 10.0
PATIENCE_S = 30.0
ROOT = Path(__file__).parents[1]


class Broker:
    """A mosquitto of our own: persistent, on 127.0.0.1, with the limits of its defaults but no limit to its queue.

    It is ours and no other's: it says "running" on our pipe, which it does not where it cannot have the port.
    """

    host = "127.0.0.1"

    def __init__(self, directory: Path, settings: str = "") -> None:
        """Prepare in ``directory``; ``settings`` are further lines of mosquitto.conf, "{directory}" in them is it."""
        self.directory = directory
        self.settings = settings.replace("{directory}", str(directory)) or "allow_anonymous true\n"
        with socket.create_server((self.host, 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.log: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """The process id of the running broker."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and return when connections are taken."""
        config = self.directory / "mosquitto.conf"
        user = "user root\n" if os.geteuid() == 0 else ""  # else it gives up the right to read our folder
        config.write_text(
            f"listener {self.port} {self.host}\n{user}persistence true\npersistence_location {self.directory}/\n"
            f"log_dest stderr\nlog_type all\nmax_queued_messages 0\n{self.settings}"
        )
        # Debian puts it into /usr/sbin, which is not on everyone's path
        command = [needed("mosquitto", "mosquitto", "/usr/sbin:/usr/local/sbin"), "-c", str(config)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        running = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(self._process, running), daemon=True)
        self._reader.start()
        if not running.wait(START_S) or self._process.poll() is not None:
            self.kill()
            pytest.fail("mosquitto did not start:\n" + "\n".join(self.log[-10:]))

    def stop(self) -> None:
        """End in order: what it holds for its clients is written to disk."""
        self._end(kill=False)

    def kill(self) -> None:
        """End as in a power cut."""
        self._end(kill=True)

    def forget(self) -> None:
        """Lose everything held for the clients; only while it is stopped."""
        (self.directory / "mosquitto.db").unlink(missing_ok=True)

    def _end(self, *, kill: bool) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            deadline = time.monotonic() + STOP_S
            while process.poll() is None and time.monotonic() < deadline:
                # again and again: mosquitto forgets a SIGTERM that comes just after it said "running"
                process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
        finally:
            process.kill()
            process.wait()
            assert self._reader is not None
            self._reader.join(STOP_S)
            assert process.stderr is not None
            process.stderr.close()

    def _read(self, process: subprocess.Popen[str], running: threading.Event) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.log.append(line.rstrip())
            if line.rstrip().endswith(" running"):
                running.set()
        running.set()  # it has ended: whoever waits looks at the log


def needed(name: str, package: str, more_folders: str = "") -> str:
    """Return the path of a program that a test needs; without it the test is skipped, but in CI it fails."""
    folders = os.pathsep.join(part for part in (os.environ.get("PATH", ""), more_folders) if part)
    return _found(shutil.which(name, path=folders), name, package)


def needed_library(pattern: str, package: str) -> str:
    """Return the path of a shared library, given by its path below Debian's /usr/lib/<machine>; as ``needed``."""
    found = sorted(Path("/usr/lib").glob(f"*/{pattern}"))
    return _found(str(found[0]) if found else None, pattern, package)


def _found(path: str | None, name: str, package: str) -> str:
    if path is not None:
        return path
    if os.environ.get("CI") == "true":
        pytest.fail(f"{name} is missing, and CI must not do without; install {package}")
    pytest.skip(f"{name} is missing; install {package}")


@pytest.fixture(scope="session")
def need() -> Callable[..., str]:
    """Give ``needed``."""
    return needed


@pytest.fixture(scope="session")
def need_library() -> Callable[[str, str], str]:
    """Give ``needed_library``."""
    return needed_library


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[Callable[[str], Broker]]:
    """Give a function that starts a broker with further lines of configuration."""
    brokers: list[Broker] = []

    def make(settings: str = "") -> Broker:
        directory = tmp_path / f"broker{len(brokers)}"
        directory.mkdir()
        broker = Broker(directory, settings)
        brokers.append(broker)
        broker.start()
        return broker

    yield make
    for broker in brokers:
        broker.kill()


@pytest.fixture
def broker(make_broker: Callable[[str], Broker]) -> Broker:
    """Give a running broker that takes everyone."""
    return make_broker("")


def wait_until(is_so: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Return when ``is_so`` holds; fail where it does not within ``patience_s``."""
    pause = threading.Event()
    deadline = time.monotonic() + patience_s
    while not is_so():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {patience_s:g} s: {what}")
        pause.wait(0.02)


class Program:
    """A process of ours, ended by its own id."""

    def __init__(self, words: list[str], log: Path) -> None:
        """Start ``words``; what it says goes to the file ``log``."""
        self.log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                words, cwd=log.parent, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        self.pid = self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, None while it runs; minus the signal's number where a signal ended it."""
        return self._process.poll()

    def said(self) -> str:
        """Return all it has said so far."""
        return self.log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """Return its exit code when it has ended."""
        try:
            return self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.log.name} did not end within {patience_s:g} s:\n{self.said()[-2000:]}")

    def kill(self) -> None:
        """End it as ``kill -9`` and a power cut do."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def stop(self, patience_s: float = PATIENCE_S) -> int:
        """Ask it to end, and return its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(patience_s)


class Gateway:
    """An installation in a folder of its own, and the real programs run on it."""

    def __init__(self, folder: Path, port: int, houses: tuple[str, ...], settings: str, models: str) -> None:
        """Write the configuration: broker on ``port``, ``houses``, and ``settings``, further lines of agent.toml."""
        self.folder = folder
        self.data = folder / "data"
        self.lake_folder = self.data / "lake"
        self.config = folder / "agent.toml"
        self._programs: list[Program] = []
        self.configure(port, houses, settings, models)

    def configure(self, port: int, houses: tuple[str, ...], settings: str, models: str) -> None:
        """Write the configuration anew."""
        named = "".join(f'[[house]]\nid = "{house}"\n' for house in houses)
        self.config.write_text(
            f'[data]\ndirectory = "{self.data}"\n[mqtt]\nport = {port}\n[models]\n{models}\n{named}{settings}'
        )

    def start(self, *words: str, log: str = "") -> Program:
        """Start a verb on this installation."""
        return self.launch([sys.executable, "-m", "agent.cli", *words, "--config", str(self.config)], log or words[0])

    def launch(self, words: list[str], name: str) -> Program:
        """Start any program of ours; it ends with the test."""
        program = Program(words, self.folder / f"{name}{len(self._programs)}.log")
        self._programs.append(program)
        return program

    def agent(self, *flags: str) -> Program:
        """Start the agent, and return when it hears its broker."""
        before = self.connects()
        agent = self.start("agent", *flags)
        wait_until(lambda: agent.code is not None or self.connects() > before, "the agent has its broker")
        assert agent.code is None, agent.said()
        return agent

    def connects(self) -> int:
        """Return how often an agent of this installation said that it is connected."""
        return sum(log.read_text(errors="replace").count("connected to the broker") for log in self.logs())

    def logs(self) -> list[Path]:
        """Return what the programs said."""
        return sorted(self.folder.glob("*.log"))

    def run(self, *words: str, patience_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a verb on this installation to its end."""
        return run_verb(*words, "--config", str(self.config), patience_s=patience_s)

    def reader(self) -> StoreReader:
        """Return a view of house.db."""
        return StoreReader.open(self.data / "house.db")

    def count(self, stream: str) -> int:
        """Return how many rows a stream has, 0 where there is no house.db yet."""
        try:
            with self.reader() as reader:
                return reader.last_seq(stream)
        except StoreError:
            return 0

    def rows(self, stream: str) -> list[dict[str, Any]]:
        """Return the rows of a stream in house.db."""
        with self.reader() as reader:
            columns = reader.rows(stream, 1, 2**62)
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def health(self) -> dict[str, Any]:
        """Return the health that the agent last recorded."""
        with self.reader() as reader:
            return reader.health()

    def sync(self) -> None:
        """Seal, and push, all that there is."""
        done = self.run("sync", "--once")
        assert done.returncode == 0, done.stderr

    def lake(self, query: str) -> list[tuple[Any, ...]]:
        """Ask DuckDB; ``{readings}`` and the like in ``query`` are the objects of a stream in the local lake."""
        streams = ("readings", "warnings", "predictions", "flocks", "events")
        places = {name: f"read_parquet('{self.lake_folder}/{name}/**/*.parquet')" for name in streams}
        with duckdb.connect() as db:
            return db.execute(query.format(**places)).fetchall()

    def close(self) -> None:
        """End what still runs."""
        for program in self._programs:
            program.kill()


def run_verb(*words: str, patience_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run ``flockwatch`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "agent.cli", *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=patience_s,
        stdin=subprocess.DEVNULL,
    )


class Mqtt:
    """A client that says, and hears, what a house computer or a farmer's screen does; a context manager."""

    def __init__(self, port: int, *listens_to: str) -> None:
        self.heard: queue.SimpleQueue[paho.MQTTMessage] = queue.SimpleQueue()
        self._listens_to = listens_to
        self._ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.max_queued_messages_set(0)
        self._client.on_message = lambda _client, _userdata, message: self.heard.put(message)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_connect = self._on_connect
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        if not self._ready.wait(PATIENCE_S):
            pytest.fail("the broker did not take a test's client")

    def _on_connect(self, client: paho.Client, *_: object) -> None:
        if self._listens_to:
            client.subscribe([(topic, 1) for topic in self._listens_to])
        else:
            self._ready.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def say(self, topic: str, payload: object, *, retain: bool = False) -> None:
        """Publish at QoS 1, and return when the broker has it; what is no bytes or text is sent as JSON."""
        wire = payload if isinstance(payload, (str, bytes)) else json.dumps(payload)
        self._client.publish(topic, wire, qos=1, retain=retain).wait_for_publish(PATIENCE_S)

    def say_all(self, messages: list[tuple[str, object]]) -> None:
        """Publish many, and return when the broker has them all."""
        sent = [self._client.publish(topic, json.dumps(payload), qos=1) for topic, payload in messages]
        for one in sent:
            one.wait_for_publish(PATIENCE_S)

    def hear(self, is_wanted: Callable[[paho.MQTTMessage], bool], what: str) -> paho.MQTTMessage:
        """Return the next message that is wanted; what comes before it is gone."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                message = self.heard.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                pytest.fail(f"not heard within {PATIENCE_S:g} s: {what}")
            if is_wanted(message):
                return message

    def hear_json(self, topic: str, *, is_wanted: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """Return the next JSON object on ``topic`` that is wanted."""

        def fits(message: paho.MQTTMessage) -> bool:
            return message.topic == topic and bool(message.payload) and is_wanted(json.loads(message.payload))

        found: dict[str, Any] = json.loads(self.hear(fits, f"a fitting object on {topic}").payload)
        return found


@pytest.fixture
def make_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Give a function that makes installations; their programs end with the test."""
    gateways: list[Gateway] = []

    def make(
        port: int, *, houses: tuple[str, ...] = ("house1",), settings: str = "", models: str = "use = []"
    ) -> Gateway:
        folder = tmp_path / f"gateway{len(gateways)}"
        folder.mkdir()
        gateways.append(Gateway(folder, port, houses, settings, models))
        return gateways[-1]

    yield make
    for gateway in gateways:
        gateway.close()


@pytest.fixture
def until() -> Callable[..., None]:
    """Give ``wait_until``."""
    return wait_until


@pytest.fixture
def flockwatch() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Give ``run_verb``."""
    return run_verb


@pytest.fixture
def mqtt(broker: Broker) -> Iterator[Callable[..., Mqtt]]:
    """Give a function that connects clients to the running broker, each listening to the topics that it names."""
    clients: list[Mqtt] = []

    def connect(*listens_to: str) -> Mqtt:
        clients.append(Mqtt(broker.port, *listens_to))
        return clients[-1]

    yield connect
    for client in clients:
        client.__exit__()


# --- a model that is in order -----------------------------------------------------------------------------------------

MANIFEST = """\
name = "weight"
version = "1.0.0"
task = "weight"
licence = "Apache-2.0"
cadence_s = 3600
min_coverage = 0.0
model = { file = "model.onnx", sha256 = "SHA256", opset = 17 }

[[input]]
name = "course"
shape = ["houses", 3, 1]
grid = { step_s = 86400, length = 3, align = "day" }
features = [{ signal = "water", aggregate = "sum" }]
fill = 0.0

[[output]]
name = "weight"
meaning = "quantiles"
target = "weight_g"
quantiles = [0.1, 0.5, 0.9]
horizons = ["1d"]
"""


def write_bundle(directory: Path) -> Path:
    """Write a bundle that "predicts" the water of three days, give or take a hundred; return its directory."""
    weights: dict[str, NDArray[Any]] = {
        "axes": np.array([1, 2], np.int64),
        "shape": np.array([-1, 1, 1], np.int64),
        "spread": np.array([[[-100, 0, 100]]], np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["course", "axes"], ["total"], keepdims=0),
            helper.make_node("Reshape", ["total", "shape"], ["column"]),
            helper.make_node("Add", ["column", "spread"], ["weight"]),
        ],
        "small",
        [helper.make_tensor_value_info("course", TensorProto.FLOAT, ["houses", 3, 1])],
        [helper.make_tensor_value_info("weight", TensorProto.FLOAT, ["houses", 1, 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content = model.SerializeToString()
    directory.mkdir(parents=True)
    (directory / "model.onnx").write_bytes(content)
    (directory / "manifest.toml").write_text(MANIFEST.replace("SHA256", hashlib.sha256(content).hexdigest()))
    (directory / "CARD.md").write_text("# A model for tests\n")
    course = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    outputs = course.sum(axis=(1, 2))[:, None, None] + weights["spread"]
    np.savez(directory / "selftest.npz", **{"in.course": course, "out.weight": outputs.astype(np.float32)})
    return directory


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[[], Path]:
    """Give a function that writes a good bundle, ``<tmp_path>/models/weight/1.0.0``, and returns its directory."""
    return lambda: write_bundle(tmp_path / "models" / "weight" / "1.0.0")
