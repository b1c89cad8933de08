from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from agent.notify import Notifier

if TYPE_CHECKING:
    from pathlib import Path


def listen(address: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.settimeout(5)
    listener.bind(address)
    return listener


def test_systemd_hears_ready_watchdog_status_and_stopping(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with listen(path) as manager:
        notifier = Notifier({"NOTIFY_SOCKET": path})
        notifier.starting(1.5)
        notifier.ready()
        notifier.watchdog()
        notifier.status("3 houses, 2 warnings\nand more")
        notifier.stopping()
        said = [manager.recv(4096) for _ in range(5)]
    assert said[0] == b"EXTEND_TIMEOUT_USEC=1500000"
    assert said[1:] == [b"READY=1", b"WATCHDOG=1", b"STATUS=3 houses, 2 warnings and more", b"STOPPING=1"]


def test_an_abstract_socket_is_reached() -> None:
    name = f"flockwatch-test-{os.getpid()}"
    with listen("\0" + name) as manager:
        Notifier({"NOTIFY_SOCKET": "@" + name}).ready()
        assert manager.recv(4096) == b"READY=1"


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/no/such/socket"}])
def test_without_a_manager_that_listens_nothing_happens(environment: dict[str, str]) -> None:
    notifier = Notifier(environment)
    notifier.ready()
    notifier.watchdog()
    assert notifier.watchdog_interval_s is None


@pytest.mark.parametrize(
    ("environment", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),  # it watches another process
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_interval_is_read(environment: dict[str, str], interval_s: float | None) -> None:
    assert Notifier(environment).watchdog_interval_s == interval_s
