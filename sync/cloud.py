"""The only object-store client: create-only objects in a folder or in any S3-compatible store.

Every time-out is ours (the library's own defaults wait a minute and more on a dead link), every credential is given
(the library would otherwise ask the network for a machine's identity, and would mix in what the environment holds),
and retries are not its business: see ``retry``.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, MemoryStore, S3Store

from agent.errors import CloudError, CloudRefused, CloudUnreachable, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from obstore.store import ClientConfig, ObjectStore, S3Config, S3Credential

CONNECT_TIMEOUT_S = 3.0
TIMEOUT_S = 10  # of a small request, from the first SYN to the last byte of the answer
SLOWEST_BYTES_PER_S = 2_000  # a link slower than this counts as broken

S3_OPTIONS = (
    "access_key_id",
    "secret_access_key",
    "secret_access_key_file",
    "session_token_file",
    "region",
    "endpoint",
    "virtual_hosted_style",
    "ca_file",
    "proxy",
)
"""The keys of ``[sync.options]`` for ``s3://``; one ending in ``_file`` names a file, read again when it is needed."""


class Put(StrEnum):
    """What became of an object that was to be created."""

    CREATED = "created"
    SAME = "same"  # it was there already, with the same bytes: an upload whose answer was lost
    CONFLICT = "conflict"  # it was there already, with other bytes
    UNREADABLE = "unreadable"  # it was there already, and we may not read it to compare


@dataclass(slots=True)
class Cloud:
    """One place for objects; ``make`` gives a client whose requests may last that many seconds.

    Safe to use from several threads.
    """

    where: str  # the URL, for messages
    make: Callable[[int], ObjectStore]
    folder: Path | None = None  # where the objects are files of this machine
    _stores: dict[int, ObjectStore] = field(default_factory=dict)

    def put_new(self, key: str, data: bytes) -> Put:
        """Create the object ``key``, unless there is one already; then say whether it holds the same bytes.

        Raises:
            CloudUnreachable: no answer, or a passing trouble of the store.
            CloudRefused: a retry will not help.
        """
        try:
            self._put(key, data, "create")
            put = Put.CREATED
        except AlreadyExistsError:
            put = self._compare(key, data)
        except (BaseError, OSError) as e:
            raise self._error(e, f"creating {key}") from e
        if self.folder is not None and put in {Put.CREATED, Put.SAME}:
            self._make_durable(key)
        return put

    def put_over(self, key: str, data: bytes) -> None:
        """Write the object ``key``, whatever it held before: only for what is never part of the record.

        Raises:
            CloudUnreachable: no answer, or a passing trouble of the store.
            CloudRefused: a retry will not help.
        """
        try:
            self._put(key, data, "overwrite")
        except (BaseError, OSError) as e:
            raise self._error(e, f"writing {key}") from e

    def head(self, key: str) -> int | None:
        """Return the size of the object ``key`` in bytes, or None where there is none.

        Raises:
            CloudUnreachable: no answer, or a passing trouble of the store.
            CloudRefused: a retry will not help.
        """
        try:
            return int(obstore.head(self._store_for(0), key)["size"])
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as e:
            raise self._error(e, f"looking for {key}") from e

    def get(self, key: str) -> bytes:
        """Return the bytes of the object ``key``.

        Raises:
            CloudUnreachable: no answer, or a passing trouble of the store.
            CloudRefused: a retry will not help; also where there is no such object.
        """
        try:
            return self._get(key)
        except (BaseError, OSError) as e:
            raise self._error(e, f"reading {key}") from e

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with ``prefix``; a gateway has no right to ask, who reads a whole lake has.

        Raises:
            CloudUnreachable: no answer, or a passing trouble of the store.
            CloudRefused: a retry will not help.
        """
        try:
            for found in obstore.list(self._store_for(0), prefix):
                yield from (one["path"] for one in found)
        except (BaseError, OSError) as e:
            raise self._error(e, f"listing {prefix}") from e

    def _put(self, key: str, data: bytes, mode: str) -> None:
        # In one request: objects are far below the 5 MB from which several pay, and a part of one is never left over.
        store = self._store_for(len(data))
        if mode == "create":
            obstore.put(store, key, data, mode="create", use_multipart=False)
        else:
            obstore.put(store, key, data, mode="overwrite", use_multipart=False)

    def _get(self, key: str) -> bytes:
        size = int(obstore.head(self._store_for(0), key)["size"])
        return bytes(obstore.get(self._store_for(size), key).bytes())

    def _compare(self, key: str, data: bytes) -> Put:
        """Say whether the object that is there holds ``data``."""
        try:
            there = self._get(key)
        except FileNotFoundError as e:  # S3 says 409 while another writer is at it
            message = f"{self.where}: creating {key}: the store is busy with another upload of it"
            raise CloudUnreachable(message) from e
        except (PermissionDeniedError, UnauthenticatedError):
            return Put.UNREADABLE
        except (BaseError, OSError) as e:
            raise self._error(e, f"comparing {key}") from e
        return Put.SAME if hashlib.sha256(there).digest() == hashlib.sha256(data).digest() else Put.CONFLICT

    def _make_durable(self, key: str) -> None:
        """Let a file and its folders survive a power cut: the library only hands them to the operating system."""
        if self.folder is None:
            return
        path = self.folder / key
        try:
            for entry in (path, *path.parents):
                descriptor = os.open(entry, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                if entry == self.folder:
                    break
        except OSError as e:
            raise self._error(e, f"making {key} durable") from e

    def _store_for(self, size: int) -> ObjectStore:
        """Return a client that gives ``size`` bytes as long as a slow link needs, and not much longer."""
        timeout_s = TIMEOUT_S
        while timeout_s * SLOWEST_BYTES_PER_S < size:
            timeout_s *= 2
        if timeout_s not in self._stores:
            self._stores[timeout_s] = self.make(timeout_s)
        return self._stores[timeout_s]

    def _error(self, error: Exception, doing: str) -> CloudError:
        """Return what ``error`` means for us, with what to do about it."""
        said = str(error).split("\n", 1)[0]
        status = int(found[1]) if (found := re.search(r"status code: (\d{3})", said)) else None
        code = found[1] if (found := re.search(r"<Code>(\w+)</Code>", str(error))) else ""
        if code == "RequestTimeTooSkewed":
            what = "the clock of this machine is wrong; let it be set (timedatectl), or the store trusts no request"
            return CloudRefused(f"{self.where}: {doing}: {what}")
        if isinstance(error, (PermissionDeniedError, UnauthenticatedError, PermissionError)):
            what = "it refuses us: check the keys in [sync.options], and that they may create objects here"
            return CloudRefused(f"{self.where}: {doing}: {what}{f' ({code})' if code else ''}")
        if isinstance(error, FileNotFoundError):
            what = "there is no such bucket, folder or object; check [sync] url"
            return CloudRefused(f"{self.where}: {doing}: {what}{f' ({code})' if code else ''}")
        if self.folder is not None:
            return CloudUnreachable(f"{self.where}: {doing}: {said}")
        if "redirect without LOCATION" in said:  # so S3 answers for a bucket of another region
            return CloudRefused(f"{self.where}: {doing}: the bucket is elsewhere; check region in [sync.options]")
        final = status is not None and 400 <= status < 500
        if final and status not in _PASSING and code not in _PASSING_CODES:
            what = "check [sync] url, region and endpoint"
            return CloudRefused(f"{self.where}: {doing}: it answers {f'{status} {code}'.strip()}; {what}")
        return CloudUnreachable(f"{self.where}: {doing}: {_trouble(str(error), status)}")


_PASSING = {408, 409, 425, 429}
_PASSING_CODES = {"RequestTimeout", "IncompleteBody", "BadDigest"}  # S3 gives 400 for a link that was cut
"""Answers of the 400 family that another try later may well turn."""


def _trouble(text: str, status: int | None) -> str:
    """Say in a few stable words what is wrong with a link."""
    if status is not None:
        return f"it answers {status}"
    if "ETag Header missing" in text:
        return "what answers is no object store; a captive portal perhaps"
    if "dns error" in text:
        return "its name is not found (DNS)"
    if "certificate" in text.lower():
        return "its certificate is not trusted; check the clock, and ca_file in [sync.options]"
    if "kind: Timeout" in text:
        return "no answer in time"
    if "ConnectionRefused" in text:
        return "the connection is refused"
    if "kind: Connect" in text:
        return "no connection"
    return text.split("\n", 1)[0].rpartition(" - ")[2]


def status_key(gateway: str) -> str:
    """Return the key of the one object that a gateway writes again and again."""
    return f"status/{gateway}/latest.json"


def open_cloud(url: str, options: Mapping[str, str]) -> Cloud:
    """Return the place that ``url`` names: ``file:///folder`` or ``s3://bucket/prefix``; nothing is contacted yet.

    ``options`` are those of ``[sync.options]``; see ``S3_OPTIONS``.

    Raises:
        ConfigError: the URL or an option is wrong, or one is missing.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc:
        return _open_folder(url, Path(unquote(parts.path)), options)
    if parts.scheme == "s3" and parts.netloc:
        return _open_s3(url, parts.netloc, parts.path.strip("/"), options)
    message = f"[sync] url = {url!r} names no place; write file:///folder or s3://bucket/prefix"
    raise ConfigError(message)


def memory_cloud() -> Cloud:
    """Return a place that forgets everything with the process: the real client over no medium, for tests."""
    store = MemoryStore()
    return Cloud("memory:", lambda _timeout_s: store)


def _open_folder(url: str, folder: Path, options: Mapping[str, str]) -> Cloud:
    if options:
        message = f"[sync.options] {min(options)}: a folder ({url}) takes no options; take it out"
        raise ConfigError(message)
    # Made when first written to: the disk may be mounted later, and until then this is a link that is down.
    return Cloud(url, lambda _timeout_s: LocalStore(folder, mkdir=True), folder)


def _open_s3(url: str, bucket: str, prefix: str, options: Mapping[str, str]) -> Cloud:
    if unknown := sorted(set(options) - set(S3_OPTIONS)):
        message = f"[sync.options] {unknown[0]}: no such option for s3://; there are {', '.join(S3_OPTIONS)}"
        raise ConfigError(message)
    endpoint = options.get("endpoint", "")
    missing = [key for key in ("access_key_id",) if not options.get(key)]
    if ("secret_access_key" in options) == ("secret_access_key_file" in options):
        missing.append("secret_access_key_file (or, instead of it, secret_access_key)")
    if not endpoint and not options.get("region"):
        missing.append("region (or endpoint, for a store that is not Amazon's)")
    if missing:
        message = f"[sync.options] for {url} needs {' and '.join(missing)}; a machine's own identity is never asked for"
        raise ConfigError(message)
    if endpoint and not re.fullmatch(r"https?://[^/\s]+/?", endpoint):
        message = f"[sync.options] endpoint = {endpoint!r} is no address; write https://host or https://host:port"
        raise ConfigError(message)

    def credentials() -> S3Credential:
        secret, token = options.get("secret_access_key"), None
        if secret is None:
            secret = _read_option(options, "secret_access_key_file")
        if "session_token_file" in options:
            token = _read_option(options, "session_token_file")
        return {
            "access_key_id": options["access_key_id"],
            "secret_access_key": secret,
            "token": token,
            "expires_at": None,
        }

    credentials()  # a file that is not there is said at the start
    region = options.get("region", "us-east-1")  # where there is an endpoint, the name only enters the signature
    address = endpoint or f"https://s3.{region}.amazonaws.com"
    config: S3Config = {  # all that the environment could otherwise change
        "region": region,
        "endpoint": address,
        "aws_endpoint_url_s3": address,
        "virtual_hosted_style_request": options.get("virtual_hosted_style", "false") == "true",
        "conditional_put": "etag",
        "skip_signature": False,
        "unsigned_payload": False,
    }
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "allow_http": endpoint.startswith("http://"),
    }
    if "ca_file" in options:
        client["root_certificate"] = _read_option(options, "ca_file")
    if "proxy" in options:
        client["proxy_url"] = options["proxy"]

    def make(timeout_s: int) -> ObjectStore:
        return S3Store(
            bucket,
            prefix=prefix or None,
            config=config,
            client_options={**client, "timeout": timedelta(seconds=timeout_s)},
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=timeout_s)},
            credential_provider=credentials,
        )

    try:
        cloud = Cloud(url, make, _stores={TIMEOUT_S: make(TIMEOUT_S)})
    except (BaseError, ValueError) as e:
        message = f"[sync] url and [sync.options] of {url} do not go together: {str(e).splitlines()[0]}"
        raise ConfigError(message) from e
    return cloud


def _read_option(options: Mapping[str, str], key: str) -> str:
    """Return what the file that option ``key`` names holds.

    Raises:
        ConfigError: it cannot be read, or is empty.
    """
    try:
        text = Path(options[key]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        message = f"[sync.options] {key} = {options[key]!r} cannot be read: {e}"
        raise ConfigError(message) from e
    if not text:
        message = f"[sync.options] {key} = {options[key]!r} is empty"
        raise ConfigError(message)
    return text
