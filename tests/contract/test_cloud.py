"""The same promises of ``Cloud`` against a folder, against memory, and against a real S3 server."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from agent.errors import CloudRefused, CloudUnreachable, ConfigError
from sync import cloud as cloud_module
from sync.cloud import Cloud, Put, memory_cloud, open_cloud, status_key

if TYPE_CHECKING:
    from pathlib import Path

    from obstore.store import ObjectStore

    from tests.contract.conftest import S3Server

KEY = "readings/site=farm1/date=2026-11-22/0a1b2c3d4e5f-01234567-1-500.parquet"
DATA = bytes(range(256)) * 400


@pytest.fixture(params=["folder", "memory", "s3"])
def cloud(request: pytest.FixtureRequest, tmp_path: Path) -> Cloud:
    """Give an empty place for objects of each kind."""
    if request.param == "folder":
        return open_cloud(f"file://{tmp_path}/a%20lake", {})
    if request.param == "memory":
        return memory_cloud()
    server: S3Server = request.getfixturevalue("s3")
    return open_cloud(f"s3://{server.bucket}/{uuid.uuid4().hex}/prefix", server.options())


def test_a_new_object_is_created_and_read_back(cloud: Cloud) -> None:
    assert cloud.put_new(KEY, DATA) is Put.CREATED
    assert cloud.get(KEY) == DATA
    assert cloud.head(KEY) == len(DATA)


def test_the_same_object_again_is_the_same(cloud: Cloud) -> None:
    """An upload whose answer was lost is repeated: that is no conflict."""
    cloud.put_new(KEY, DATA)
    assert cloud.put_new(KEY, DATA) is Put.SAME


def test_an_object_is_never_replaced_by_another(cloud: Cloud) -> None:
    cloud.put_new(KEY, DATA)
    assert cloud.put_new(KEY, DATA[::-1]) is Put.CONFLICT
    assert cloud.put_new(KEY, DATA + b"more") is Put.CONFLICT
    assert cloud.get(KEY) == DATA


def test_of_eight_at_once_one_creates_the_object(cloud: Cloud) -> None:
    bodies = [DATA + bytes([i]) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        puts = list(pool.map(lambda body: cloud.put_new(KEY, body), bodies))
    assert sorted(puts) == [Put.CONFLICT] * 7 + [Put.CREATED]
    assert cloud.get(KEY) == bodies[puts.index(Put.CREATED)]


def test_status_is_written_over(cloud: Cloud) -> None:
    key = status_key("0a1b2c3d4e5f")
    cloud.put_over(key, b"{1}")
    cloud.put_over(key, b"{2}")
    assert cloud.get(key) == b"{2}"


def test_the_keys_below_a_prefix_are_listed(cloud: Cloud) -> None:
    other = KEY.replace("readings", "flocks")
    for key in (KEY, other, f"{KEY}2"):
        cloud.put_new(key, DATA)
    assert sorted(cloud.keys("readings/")) == [KEY, f"{KEY}2"]
    assert list(cloud.keys("warnings/")) == []


def test_an_absent_object_has_no_size_and_is_not_read(cloud: Cloud) -> None:
    assert cloud.head(KEY) is None
    with pytest.raises(CloudRefused):
        cloud.get(KEY)


def test_an_empty_object_is_an_object(cloud: Cloud) -> None:
    assert cloud.put_new(KEY, b"") is Put.CREATED
    assert cloud.head(KEY) == 0


# A folder


def test_objects_of_a_folder_are_plain_files_below_it(tmp_path: Path) -> None:
    open_cloud(f"file://{tmp_path}/lake", {}).put_new(KEY, DATA)
    assert (tmp_path / "lake" / KEY).read_bytes() == DATA


def test_a_folder_that_cannot_be_made_is_unreachable(tmp_path: Path) -> None:
    """The disk may be mounted later; the message names the folder."""
    (tmp_path / "file").write_text("in the way")
    cloud = open_cloud(f"file://{tmp_path}/file/lake", {})
    with pytest.raises(CloudUnreachable, match="file/lake"):
        cloud.put_new(KEY, DATA)


def test_a_folder_that_went_away_is_unreachable(tmp_path: Path) -> None:
    cloud = open_cloud(f"file://{tmp_path}/lake", {})
    cloud.put_over("status", b"")
    (tmp_path / "lake").rename(tmp_path / "elsewhere")
    (tmp_path / "lake").write_text("in the way")
    with pytest.raises(CloudUnreachable, match="lake"):
        cloud.put_new(KEY, DATA)


# S3


def test_wrong_keys_are_refused_with_a_remedy(s3: S3Server) -> None:
    cloud = open_cloud(f"s3://{s3.bucket}", s3.options(secret_access_key="wrong"))
    with pytest.raises(CloudRefused, match=r"check the keys in \[sync\.options\]"):
        cloud.put_new(f"{uuid.uuid4().hex}", DATA)


def test_keys_that_may_only_read_are_refused(s3: S3Server) -> None:
    with pytest.raises(CloudRefused, match="may create objects"):
        open_cloud(f"s3://{s3.bucket}", s3.options("reader")).put_new(f"{uuid.uuid4().hex}", DATA)


def test_keys_that_may_only_write_create_but_cannot_compare(s3: S3Server) -> None:
    """A gateway's keys may be so narrow; then an object that is there already is told from a conflict."""
    cloud = open_cloud(f"s3://{s3.bucket}/{uuid.uuid4().hex}", s3.options("depositor"))
    assert cloud.put_new(KEY, DATA) is Put.CREATED
    assert cloud.put_new(KEY, DATA) is Put.UNREADABLE


def test_a_bucket_that_is_not_there_is_refused(s3: S3Server) -> None:
    """Only an administrator's keys make a bucket by writing into it; those of a gateway do not."""
    with pytest.raises(CloudRefused):
        open_cloud("s3://no-such-bucket", s3.options("depositor")).put_new(KEY, DATA)


def test_the_environment_changes_nothing(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library mixes AWS_* variables in; only what [sync.options] says may count."""
    for name, value in {
        "AWS_SESSION_TOKEN": "foreign",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_ACCESS_KEY_ID": "foreign",
        "AWS_REGION": "eu-north-1",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
    }.items():
        monkeypatch.setenv(name, value)
    assert open_cloud(f"s3://{s3.bucket}/{uuid.uuid4().hex}", s3.options()).put_new(KEY, DATA) is Put.CREATED


def test_the_secret_may_stand_in_a_file_and_be_renewed(s3: S3Server, tmp_path: Path) -> None:
    options = s3.options()
    file = tmp_path / "secret"
    file.write_text(options.pop("secret_access_key") + "\n")
    cloud = open_cloud(f"s3://{s3.bucket}/{uuid.uuid4().hex}", options | {"secret_access_key_file": str(file)})
    assert cloud.put_new(KEY, DATA) is Put.CREATED


# Links that are poor: every failure comes within our own time-outs, and is named


def test_a_server_that_never_answers_fails_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_module, "TIMEOUT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        cloud = _s3_at(f"http://127.0.0.1:{mute.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(CloudUnreachable, match="no answer in time"):
            cloud.put_new(KEY, b"small")
        assert 0.9 < time.monotonic() - began < 5


def test_a_refused_connection_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        endpoint = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(CloudUnreachable, match="refused"):
        _s3_at(endpoint).put_new(KEY, DATA)


@pytest.mark.parametrize(
    ("status", "body", "error", "says"),
    [
        (503, "<Error><Code>SlowDown</Code></Error>", CloudUnreachable, "503"),
        (500, "", CloudUnreachable, "500"),
        (429, "", CloudUnreachable, "429"),
        (302, "", CloudUnreachable, "302"),
        (400, "<Error><Code>RequestTimeout</Code></Error>", CloudUnreachable, "400"),
        (200, "<html>log in first</html>", CloudUnreachable, "captive portal"),
        (400, "<Error><Code>InvalidRequest</Code></Error>", CloudRefused, "400 InvalidRequest"),
        (403, "<Error><Code>RequestTimeTooSkewed</Code></Error>", CloudRefused, "clock of this machine"),
        (403, "<Error><Code>ExpiredToken</Code></Error>", CloudRefused, "ExpiredToken"),
        (401, "", CloudRefused, "keys"),
        (404, "<Error><Code>NoSuchBucket</Code></Error>", CloudRefused, "NoSuchBucket"),
        (301, "", CloudRefused, "region"),
    ],
)
def test_an_answer_is_told_passing_from_final(status: int, body: str, error: type[Exception], says: str) -> None:
    with _answering(status, body) as endpoint, pytest.raises(error, match=says):
        _s3_at(endpoint).put_new(KEY, b"small")


def test_a_big_object_gets_the_time_that_a_slow_link_needs() -> None:
    asked: list[int] = []
    memory = memory_cloud()

    def make(timeout_s: int) -> ObjectStore:
        asked.append(timeout_s)
        return memory.make(timeout_s)

    cloud = Cloud("memory:", make)
    for size in (1, 20_000, 20_001, 250_000):
        cloud.put_over("status", bytes(size))
    assert asked == [10, 20, 160]


# Configuration


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("ftp://host/x", {}, "names no place"),
        ("file://host/x", {}, "names no place"),
        ("s3://", {}, "names no place"),
        ("file:///tmp/x", {"region": "x"}, r"\[sync\.options\] region: a folder"),
        ("s3://b", {}, "access_key_id and secret_access_key_file"),
        ("s3://b", {"access_key_id": "a", "secret_access_key": "b"}, "needs region"),
        ("s3://b", {"access_key_id": "a", "region": "r"}, "secret_access_key_file"),
        ("s3://b", {"acces_key_id": "a"}, "acces_key_id: no such option"),
        ("s3://b", {"access_key_id": "a", "secret_access_key": "b", "endpoint": "host"}, "endpoint = 'host'"),
        ("s3://b", {"access_key_id": "a", "secret_access_key_file": "/no/such", "region": "r"}, "/no/such"),
        (
            "s3://b",
            {"access_key_id": "a", "secret_access_key": "b", "region": "r", "ca_file": os.devnull},
            "ca_file = '/dev/null' is empty",
        ),
    ],
)
def test_a_wrong_configuration_names_the_key(url: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        open_cloud(url, options)


def _s3_at(endpoint: str) -> Cloud:
    return open_cloud("s3://b/p", {"access_key_id": "x", "secret_access_key": "y", "endpoint": endpoint})


class _answering:  # noqa: N801  # used like a function
    """A server that gives every request the same answer."""

    def __init__(self, status: int, body: str) -> None:
        location = "Location: http://127.0.0.1:9/login\r\n" if status == 302 else ""
        head = f"HTTP/1.1 {status} X\r\n{location}Content-Length: {len(body)}\r\nConnection: close"
        self._reply = f"{head}\r\n\r\n{body}".encode()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65_536)
                connection.sendall(self._reply)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __exit__(self, *_exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
