"""Tells systemd how the service is doing (sd_notify): a datagram to the socket that ``NOTIFY_SOCKET`` names.

Without that variable, nothing is sent and nothing is wrong. Source: systemd's sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Notifier:
    """The line to the service manager."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Read where to send, and how often the watchdog wants to hear from us, from the process environment."""
        path = environment.get("NOTIFY_SOCKET", "")
        # "@" stands for the null byte with which an abstract socket's name begins
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self.watchdog_interval_s = _watchdog_interval_s(environment)

    def starting(self, within_s: float) -> None:
        """Tell that the start goes on, and may take so much longer than now."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(within_s * 1e6)}")

    def ready(self) -> None:
        """Tell that the start is complete."""
        self._send("READY=1")

    def watchdog(self) -> None:
        """Tell that the service is alive; to be said more often than every ``watchdog_interval_s``."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Tell that the service has begun to end."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Show one line of ``text`` in ``systemctl status``."""
        self._send("STATUS=" + text.replace("\n", " "))

    def _send(self, state: str) -> None:
        if not self._address:
            return
        # a service manager that does not listen must not stop the house: if it misses us, it restarts us
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to_manager:
            to_manager.sendto(state.encode(), self._address)


def _watchdog_interval_s(environment: Mapping[str, str]) -> float | None:
    """Return the seconds after which the watchdog bites, or None where none watches this process."""
    try:
        interval_us = int(environment.get("WATCHDOG_USEC", "0"))
        pid = int(environment.get("WATCHDOG_PID", str(os.getpid())))
    except ValueError:
        return None
    return interval_us / 1e6 if interval_us > 0 and pid == os.getpid() else None
