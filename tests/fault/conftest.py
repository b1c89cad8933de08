"""What the fault tests share: a house computer that floods, the account of its readings, and a link that can be cut."""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Gateway, Program

HOUSE_COMPUTER = Path(__file__).parent / "house_computer.py"


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the readings of a house computer; ``altered`` are those with another house, signal or time."""

    sent: int
    lost: int
    doubled: int
    altered: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether each is there, once, as it was sent."""
        return self.lost == self.doubled == self.altered == 0 < self.sent


class Source:
    """A running ``house_computer.py``."""

    def __init__(self, gateway: Gateway, port: int, orders: dict[str, Any]) -> None:
        """Start it; ``orders`` are the fields of its ``Orders``."""
        self._gateway = gateway
        self._orders = {"port": port, "first_ms": int(time.time() * 1000), **orders}
        self.program: Program = gateway.launch(
            [sys.executable, str(HOUSE_COMPUTER), json.dumps(self._orders)], "source"
        )

    def stop(self, patience_s: float = 60.0) -> int:
        """End the sending; return how many readings it sent, all of which the broker has confirmed."""
        assert self.program.stop(patience_s) == 0, self.program.said()
        return self.sent()

    def wait(self, patience_s: float = 60.0) -> int:
        """Return how many readings it sent, when it has sent all."""
        assert self.program.wait(patience_s) == 0, self.program.said()
        return self.sent()

    def sent(self) -> int:
        """Return how many readings it sent; only after its end."""
        return int(json.loads(self.program.said())["sent"])

    def account(self) -> Account:
        """Look for every reading in the lake; only after its end and a seal."""
        first_ms, step_ms = self._orders["first_ms"], self._orders.get("step_ms", 1)
        is_bare = "i % 10 >= 5" if self._orders.get("bare") else "false"
        sent = self.sent()
        ((rows, there, wrong),) = self._gateway.lake(
            'WITH sent AS (SELECT CAST(value AS BIGINT) AS i, house, signal, epoch_ms("at") AS at_ms FROM {readings}'
            "  WHERE signal LIKE 'probe%'),"
            f" judged AS (SELECT i, i BETWEEN 0 AND {sent - 1} AND house = 'house' || (i % 10 // 5 + 1)"
            f"  AND signal = 'probe' || (i % 5) AND ({is_bare} OR at_ms = {first_ms} + i * {step_ms}) AS good"
            "  FROM sent)"
            " SELECT count(*), count(DISTINCT i), count(*) FILTER (NOT good) FROM judged"
        )
        return Account(sent, sent - there, rows - there, wrong)


def pss_mb(program: Program) -> float:
    """Return the memory that is the program's own share, in MB (proc(5), smaps_rollup)."""
    with open(f"/proc/{program.pid}/smaps_rollup", encoding="ascii") as rollup:  # noqa: PTH123  # the kernel's file
        return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) / 1024


@pytest.fixture
def memory_mb() -> Callable[[Program], float]:
    """Give ``pss_mb``."""
    return pss_mb


@pytest.fixture
def start_source() -> type[Source]:
    """Give the function that starts a house computer for a gateway; it ends with the gateway's other programs."""
    return Source


def assert_all_arrives(gateway: Gateway, source: Source, until: Callable[..., None], patience_s: float = 60.0) -> None:
    """Wait for what the broker still holds, end the agent, seal, and find every reading in the lake once."""
    sent = source.sent()
    until(lambda: gateway.count("readings") >= sent, f"all {sent} readings are in house.db", patience_s)
    gateway.sync()
    assert source.account() == Account(sent, 0, 0)
    assert [log.name for log in gateway.logs() if "Traceback" in log.read_text(errors="replace")] == []


@pytest.fixture
def all_arrives(until: Callable[..., None]) -> Callable[..., None]:
    """Give ``assert_all_arrives``, for a gateway and its source."""
    return lambda gateway, source, patience_s=60.0: assert_all_arrives(gateway, source, until, patience_s)


# --- a link that can be cut -------------------------------------------------------------------------------------------


class Link:
    """A TCP proxy to a port of this machine: connections through it can be stalled, and left open at one end only."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.accepted = 0
        self.is_mute = False  # new connections are taken, and nothing passes through them
        self._lines: list[_Line] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def stall(self) -> None:
        """Let nothing more through on the present connections, and close none; new ones are as good as before."""
        for line in self._lines:
            line.is_stalled.set()

    def half_open(self) -> None:
        """Close the broker's end of the present connections; the agent's stay open, and silent."""
        for line in self._lines:
            line.is_stalled.set()
            line.close_far_end()

    def close(self) -> None:
        """Cut everything."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()
        for line in self._lines:
            line.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:  # closed: the test is over
                return
            self.accepted += 1
            try:
                far = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:  # the broker is away
                near.close()
                continue
            self._lines.append(_Line(near, far, is_stalled=self.is_mute))


class _Line:
    """One connection through a ``Link``."""

    def __init__(self, near: socket.socket, far: socket.socket, *, is_stalled: bool) -> None:
        self.is_stalled = threading.Event()
        if is_stalled:
            self.is_stalled.set()
        self._near, self._far = near, far
        self._is_closing = False
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()

    def _pump(self) -> None:
        other = {self._near: self._far, self._far: self._near}
        while not self._is_closing and not self.is_stalled.is_set():
            readable, _, _ = select.select(list(other), [], [], 0.05)
            for end in readable:
                if self.is_stalled.is_set():
                    return  # it stays open: whoever waits for an end waits in vain
                try:
                    data = end.recv(65_536)
                    other[end].sendall(data)
                except OSError:
                    data = b""
                if not data:
                    self._near.close()
                    self._far.close()
                    return

    def close_far_end(self) -> None:
        self._thread.join()
        self._far.close()

    def close(self) -> None:
        self._is_closing = True
        self._thread.join()
        self._near.close()
        self._far.close()


@pytest.fixture
def make_link() -> Iterator[Callable[[int], Link]]:
    """Give a function that makes links to a port; they end with the test."""
    links: list[Link] = []

    def make(port: int) -> Link:
        links.append(Link(port))
        return links[-1]

    yield make
    for link in links:
        link.close()
