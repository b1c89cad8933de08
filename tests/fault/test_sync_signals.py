"""The end of a running sync: orderly at the first signal, also on a dead link; at once at the second."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from agent.domain import Event
from agent.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DRIVER = """
import argparse
import sys
from sync.cli import add_sync
parser = argparse.ArgumentParser()
add_sync(parser.add_subparsers())
arguments = parser.parse_args(["sync", "--config", sys.argv[1]])
sys.exit(arguments.run(arguments))
"""
PATIENCE_S = 30.0


@pytest.fixture
def mute() -> Iterator[socket.socket]:
    """Give a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE_S)
        yield server


def _start(folder: Path, url: str, endpoint: str = "") -> subprocess.Popen[bytes]:
    with Store.open(folder / "data" / "house.db") as store:
        store.record(events=[Event(datetime(2026, 11, 22, tzinfo=UTC), "start")])
    options = (
        f'[sync.options]\naccess_key_id = "a"\nsecret_access_key = "b"\nendpoint = "{endpoint}"' if endpoint else ""
    )
    config = folder / "agent.toml"
    config.write_text(f'[data]\ndirectory = "{folder}/data"\n[sync]\nurl = "{url}"\n{options}\n')
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(config)], stderr=subprocess.DEVNULL)


def test_the_first_signal_ends_it_in_order(tmp_path: Path) -> None:
    process = _start(tmp_path, f"file://{tmp_path}/cloud")
    try:
        pause, deadline = threading.Event(), time.monotonic() + PATIENCE_S
        while not list((tmp_path / "cloud").rglob("*.parquet")):
            assert time.monotonic() < deadline, "nothing was pushed"
            pause.wait(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()


def test_an_upload_that_hangs_does_not_keep_it(tmp_path: Path, mute: socket.socket) -> None:
    """A try lasts 10 s; the end comes after 5."""
    process = _start(tmp_path, "s3://bucket", f"http://127.0.0.1:{mute.getsockname()[1]}")
    try:
        connection, _ = mute.accept()  # it is in the middle of its upload
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert time.monotonic() - began < 9
        connection.close()
    finally:
        process.kill()
        process.wait()


def test_the_second_signal_ends_it_at_once(tmp_path: Path, mute: socket.socket) -> None:
    process = _start(tmp_path, "s3://bucket", f"http://127.0.0.1:{mute.getsockname()[1]}")
    try:
        connection, _ = mute.accept()
        began = time.monotonic()
        code = None
        while code is None:  # signals of one kind merge: the second is sent until it was seen
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        assert code == 128 + signal.SIGTERM
        assert time.monotonic() - began < 3
        connection.close()
    finally:
        process.kill()
        process.wait()
