"""A house computer that never forgets: numbered readings at QoS 1, up to 10,000 a second, in a process of its own.

Reading ``i`` has the value ``i``, so that in the lake each can be found once or be missed. It writes MQTT 3.1.1 (OASIS
standard, sections 2 and 3) to a plain socket, because a client library takes too long for a flood. What the broker has
not confirmed is sent again after a reconnect, as QoS 1 demands.

    python house_computer.py '{"port": 1883, "rate": 1000, "count": 20000}'

SIGTERM ends the sending; it exits when all that it sent is confirmed, and prints ``{"sent": …, "seconds": …}``.
"""

from __future__ import annotations

import json
import selectors
import signal
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

NAMES: Final = ("temperature", "humidity", "co2", "ammonia", "pressure", "water", "feed", "light", "weight", "dead")
LEVELS: Final = (25, 60, 1_500, 8, 20, 0.03, 0.02, 30, 900, 0)
"""What ``flat`` messages begin with, and about how much; probes follow."""
BURST_S: Final = 0.01  # what is due within this is written at once
MOST_UNCONFIRMED: Final = 20_000  # below the 65,535 packet ids that there are
KEEP_ALIVE_S: Final = 60
SILENT_S: Final = 10.0  # a broker that confirms nothing for so long is tried anew
CONNACK: Final = b"\x20\x02"
PUBACK: Final = b"\x40\x02"
DUP: Final = 0x08


@dataclass(frozen=True, slots=True)
class Orders:
    """What to send, and how fast; the fields are the keys of the JSON on the command line.

    Reading i is stamped ``first_ms + i * step_ms`` and is of one of ``houses`` x ``signals`` series in turn. With
    ``bare`` the second half of the series has no stamps: its readings are of the time of their arrival. With ``flat``
    message i holds all signals of one house, whose messages are ``step_ms`` apart. ``padding`` makes each that many
    bytes heavier.
    """

    port: int
    rate: int = 1_000  # a second
    count: int = 1_000_000_000
    first_ms: int = 0
    step_ms: int = 1
    houses: int = 2
    signals: int = 5
    bare: bool = False
    flat: bool = False
    padding: int = 0
    client_id: str = "house-computer"

    def publish(self, i: int) -> bytes:
        """Return the packet of message ``i``."""
        topic, payload = self._flat(i) if self.flat else self._value(i)
        payload += b" " * self.padding
        body = len(topic).to_bytes(2, "big") + topic + (i % 0xFFFF + 1).to_bytes(2, "big") + payload
        return b"\x32" + _length(len(body)) + body  # PUBLISH, QoS 1

    def _value(self, i: int) -> tuple[bytes, bytes]:
        """Return topic and payload of reading ``i``."""
        series = self.houses * self.signals
        topic = b"skov/farm1/house%d/probe%d" % (i % series // self.signals + 1, i % self.signals)
        if self.bare and i % series >= series // 2:
            return topic, b"%d" % i
        return topic, b'{"value":%d,"at":%d}' % (i, self.first_ms + i * self.step_ms)

    def _flat(self, i: int) -> tuple[bytes, bytes]:
        """Return topic and payload of a house's message, whose values move a little with ``i``."""
        at_ms = self.first_ms + i // self.houses * self.step_ms
        shift = i * 2_654_435_761 % 1_000 / 20_000  # up to 5 %, as irregular as it needs to be
        values = [f'"{name}":{level * (1 + shift):.2f}' for name, level in zip(NAMES, LEVELS, strict=True)]
        values += [f'"probe{n}":{20 + n + 20 * shift:.1f}' for n in range(self.signals - len(NAMES))]
        return b"skov/farm1/house%d" % (i % self.houses + 1), f'{{"at":{at_ms},{",".join(values)}}}'.encode()


def _length(n: int) -> bytes:
    """Return the remaining length as MQTT writes it (2.2.3)."""
    encoded = bytearray()
    while True:
        n, low = divmod(n, 128)
        encoded.append(low | 0x80 if n else low)
        if not n:
            return bytes(encoded)


class HouseComputer:
    """One connection after the other, until all is confirmed."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.next = 0  # the reading to be sent next
        self.stopped = False
        self._unconfirmed: deque[tuple[int, bytes]] = deque()
        self._out = bytearray()
        self._in = bytearray()
        self._began = time.monotonic()

    def run(self) -> None:
        while not self._is_done():
            try:
                self._connected()
            except OSError:  # the broker is away, or went: that is what the tests are about
                time.sleep(0.2)

    def _is_done(self) -> bool:
        return (self.stopped or self.next >= self.orders.count) and not self._unconfirmed

    def _connected(self) -> None:
        """Send on one connection.

        Raises:
            OSError: it is over, and not everything is confirmed.
        """
        name = self.orders.client_id.encode()
        body = b"\x00\x04MQTT\x04\x00" + KEEP_ALIVE_S.to_bytes(2, "big") + len(name).to_bytes(2, "big") + name
        with socket.create_connection(("127.0.0.1", self.orders.port), 5) as link, selectors.DefaultSelector() as ready:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link.sendall(b"\x10" + _length(len(body)) + body)
            if link.recv(4)[:2] != CONNACK:
                message = "no CONNACK"
                raise OSError(message)
            link.setblocking(False)
            self._in.clear()
            self._out = bytearray().join(bytes([packet[0] | DUP]) + packet[1:] for _, packet in self._unconfirmed)
            heard = time.monotonic()
            while not self._is_done():
                self._fill()
                ready_for = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
                if ready.get_map():
                    ready.modify(link, ready_for)
                else:
                    ready.register(link, ready_for)
                for _, events in ready.select(BURST_S):
                    if events & selectors.EVENT_READ:
                        self._confirmed(link.recv(65_536))
                        heard = time.monotonic()
                    if events & selectors.EVENT_WRITE and self._out:
                        del self._out[: link.send(self._out[:262_144])]
                if self._unconfirmed and time.monotonic() - heard > SILENT_S:
                    message = "the broker is silent"
                    raise OSError(message)
                if not self._out:
                    time.sleep(BURST_S)
            link.setblocking(True)
            link.sendall(b"\xe0\x00")  # DISCONNECT

    def _fill(self) -> None:
        """Add what is due to what is to be written."""
        if self.stopped:
            return
        due = min(self.orders.count, int((time.monotonic() - self._began) * self.orders.rate) + 1)
        for i in range(self.next, min(due, self.next + MOST_UNCONFIRMED - len(self._unconfirmed))):
            packet = self.orders.publish(i)
            self._unconfirmed.append((i, packet))
            self._out += packet
            self.next = i + 1

    def _confirmed(self, data: bytes) -> None:
        if not data:
            message = "closed by the broker"
            raise OSError(message)
        self._in += data
        whole = len(self._in) // 4 * 4  # every PUBACK is of four bytes, and nothing else comes
        for start in range(0, whole, 4):
            i, _ = self._unconfirmed.popleft()
            if self._in[start : start + 4] != PUBACK + (i % 0xFFFF + 1).to_bytes(2, "big"):
                message = f"not the PUBACK of reading {i}: {bytes(self._in[start : start + 4])!r}"
                raise SystemExit(message)
        del self._in[:whole]


def main() -> None:
    computer = HouseComputer(Orders(**json.loads(sys.argv[1])))

    def stop(_number: int, _frame: object) -> None:
        computer.stopped = True

    signal.signal(signal.SIGTERM, stop)
    began = time.monotonic()
    computer.run()
    print(json.dumps({"sent": computer.next, "seconds": round(time.monotonic() - began, 1)}))


if __name__ == "__main__":
    main()
