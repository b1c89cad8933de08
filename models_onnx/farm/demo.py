"""The verb ``demo``: the real programs on one machine with nothing installed, around a simulated farm."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.clock import SimulatedClock
from agent.config import load_config
from agent.errors import BrokerError, StoreError, UsageError
from agent.status import status_value
from models_onnx.farm.view import View

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

HOUSES = 3
PAST_DAYS = 21
INTERVAL_S = 600  # between samples, farm time: the three weeks of past then arrive within seconds
SPEED = 1_440.0  # a day passes in a minute
LEAD_S = 6.0  # real seconds in which the past arrives, before the farm's clock begins to run
REFRESH_S = 0.5
STOP_WITHIN_S = 15.0
# Water stops in the second house on the first morning and is mended after two and a half hours; later the ventilation
# of the third fails. Early faults, so that a visitor of one minute sees a warning rise and clear.
FAULTS = ("water_line_blocked@house2:0.3+2.5", "ventilation_failure@house3:1.3+3", "feed_outage@house1:2.35+6")
SEED = 7
FOREVER_DAYS = 60

_BROKER_V5 = """
id = 0
[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5-1"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 500
dynamic_filters = true
"""

_CONFIG = """\
# Made by `flockwatch demo`; every other key has its default.
[site]
id = "farm1"

[data]
directory = "{directory}"

[mqtt]
port = {port}

[store]
commit_interval_s = 0.2

[sync]
url = "file://{cloud}"
interval_s = 3600
"""


def add_demo(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb ``demo`` to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="everything on this machine with nothing installed: broker, simulated farm, agent, sync to a folder",
        description="A simulated farm of three houses at a day a minute, with the real agent and sync beside it. "
        "Ctrl-C ends it.",
    )
    parser.add_argument("--speed", type=float, default=SPEED, metavar="X", help="times faster than real time (1440)")
    parser.add_argument("--for", dest="seconds", type=float, metavar="SECONDS", help="end by itself after so long")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where to keep everything (a new temporary folder)")
    parser.set_defaults(run=run_demo)


def run_demo(args: argparse.Namespace) -> int:
    """Do ``demo``; return the exit code.

    Raises:
        UsageError: a flag is wrong.
        BrokerError: there is no broker to be had.
    """
    if not 0 < args.speed <= 100_000:
        message = f"--speed {args.speed:g} must be above 0 and at most 100000"
        raise UsageError(message)
    directory = _directory(args.data)
    port = _free_port()
    config_path = directory / "agent.toml"
    houses = "".join(f'\n[[house]]\nid = "house{i + 1}"\n' for i in range(HOUSES))
    text = _CONFIG.format(directory=directory / "data", port=port, cloud=directory / "cloud") + houses
    config_path.write_text(text, encoding="utf-8")
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    view = View(sys.stdout, houses=HOUSES, directory=directory, port=port)
    try:
        with ExitStack() as stack:
            stack.enter_context(_broker(port, directory))
            clock = SimulatedClock(start, time.time() + LEAD_S, args.speed)
            programs = _Programs(directory, config_path, clock, port)
            stack.callback(programs.stop)
            programs.start()
            failed = _show(view, config_path, programs, clock, stop, args.seconds)
    finally:
        view.close()
    if failed is None:
        sealed = programs.seal()
        view.summary(_status(config_path), clock)
        if sealed:
            return 0
        failed = f"not everything could be sealed and pushed: see {directory / 'sync.log'}"
    print(f"flockwatch: {failed}", file=sys.stderr)
    return 1


def _directory(wanted: Path | None) -> Path:
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="flockwatch-demo-"))
    directory = wanted.absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            message = f"--data {wanted} is not empty; a demo begins anew: give a new folder"
            raise UsageError(message)
    except OSError as e:
        message = f"--data {wanted} cannot be used: {e.strerror}"
        raise UsageError(message) from e
    return directory


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def _broker(port: int, directory: Path) -> Iterator[None]:
    """Run a broker of our own: the embedded one, or mosquitto where that is installed instead."""
    if importlib.util.find_spec("iotcore") is not None:
        import iotcore  # noqa: PLC0415  # belongs to the development extra; a gateway has mosquitto

        settings = directory / "broker.toml"
        settings.write_text(_BROKER_V5.format(port=port), encoding="utf-8")
        broker = iotcore.Broker(port=port, listen="127.0.0.1", config_path=str(settings))
        # Ctrl-C reaches every process of the terminal's group; the broker must outlive those that say goodbye by it
        with _without_interrupts():
            broker.start()
        try:
            yield
        finally:
            broker.stop()
        return
    mosquitto = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if mosquitto is None:
        message = "the demo needs a broker: `pip install iotcore` (part of flockwatch[dev]), or install mosquitto"
        raise BrokerError(message)
    settings = directory / "mosquitto.conf"
    settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n", encoding="utf-8")
    with subprocess.Popen(
        [mosquitto, "-c", str(settings)], start_new_session=True, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait_for(port, process)
            yield
        finally:
            process.terminate()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start children that ignore Ctrl-C: a signal that is ignored stays ignored across exec."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STOP_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    message = f"the broker does not answer on port {port}"
    raise BrokerError(message)


@dataclass(frozen=True, slots=True)
class _Programs:
    """The processes of the demo; each in a session of its own, so that Ctrl-C reaches the demo alone."""

    directory: Path
    config: Path
    clock: SimulatedClock
    port: int
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        """Start agent, sync and farm."""
        self._start("agent", "agent", "--config", str(self.config), "--simulated-clock", str(self.clock))
        self._start("sync", "sync", "--config", str(self.config), "--simulated-clock", str(self.clock))
        farm = ["simulate", "--houses", str(HOUSES), "--days", str(FOREVER_DAYS), "--seed", str(SEED), "--stagger"]
        farm += ["--mqtt", f"127.0.0.1:{self.port}", "--simulated-clock", str(self.clock)]
        farm += ["--past", str(PAST_DAYS), "--interval", str(INTERVAL_S)]
        for fault in FAULTS:
            farm += ["--fault", fault]
        self._start("farm", *farm)

    def _start(self, name: str, *arguments: str) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "agent.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ended(self) -> str | None:
        """Return which program has ended of itself, with the end of its log; None while all run."""
        for name, process in self.running.items():
            if process.poll() is not None:
                log = (self.directory / f"{name}.log").read_text(encoding="utf-8", errors="replace").strip()
                return f"the {name} ended with code {process.returncode}: {log[-500:]}"
        return None

    def stop(self) -> None:
        """End the programs in the order in which they depend on each other: farm, agent, sync."""
        for name in ("farm", "agent", "sync"):
            process = self.running.get(name)
            if process is None:
                continue
            process.terminate()
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def seal(self) -> bool:
        """Bring what is left into the lake and to the cloud folder; tell whether all of it is there."""
        with (self.directory / "sync.log").open("ab") as log:
            done = subprocess.run(
                [sys.executable, "-m", "agent.cli", "sync", "--once", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
                timeout=10 * STOP_WITHIN_S,
            )
        return done.returncode == 0


def _show(
    view: View,
    config: Path,
    programs: _Programs,
    clock: SimulatedClock,
    stop: threading.Event,
    seconds: float | None,
) -> str | None:
    """Show what goes on until it is to end; return what went wrong, if anything did."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while not stop.wait(REFRESH_S):
        if (failed := programs.ended()) is not None:
            return failed
        view.show(_status(config), clock.now())
        if deadline is not None and time.monotonic() >= deadline:
            return None
    return None


def _status(config: Path) -> dict[str, Any]:
    """Return what ``flockwatch status`` would show; empty while the agent has not made its database yet."""
    try:
        return status_value(load_config(config))
    except StoreError:
        return {}
