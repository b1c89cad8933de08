"""A farm's whole memory in one file that fits on a stick, and a new gateway that goes on with it.

The archive is a ``.tar.gz`` of three files: ``manifest.json`` (first: what it is, and the sha256 of the others),
``agent.toml`` (without secrets), ``house.db`` (a snapshot). It holds no key and no password. Nothing of it is believed
at restore: sizes are bounded by the manifest and by the free space, names must be these three, sums must be right.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import tarfile
import tempfile
import tomllib
import zlib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import msgspec

from agent.alerts import iso
from agent.config import parse_config
from agent.domain import to_ms
from agent.errors import ConfigError, InputError, StoreError, UsageError
from agent.store.care import begin_anew, snapshot, stopped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from agent.config import Config

FORMAT = "flockwatch-backup/1"
MANIFEST, SETTINGS, DATABASE = "manifest.json", "agent.toml", "house.db"
SMALL_BYTES = 1_000_000  # manifest and configuration: a real one has some thousand
ENDING = ".tar.gz"

_SECRET_WORDS = {"secret", "password", "passphrase", "token", "key", "credential", "credentials"}
_NOT_SEARCHED = {"rename", "signals", "rules"}  # tables whose keys are names that people give, not ours
_URL_LOGIN = re.compile(r"//[^/@\s]+@")


class _Member(msgspec.Struct, frozen=True):
    """One file of the archive."""

    bytes: Annotated[int, msgspec.Meta(ge=0)]
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What a backup says of itself."""

    format: str
    version: str
    site: str
    gateway: str
    generation: str
    at: str
    readings: bool
    files: dict[str, _Member]
    left_out: list[str]  # keys of agent.toml that hold secrets
    put_back: dict[str, str]  # keys of agent.toml that name files which are not in here: their paths


@dataclass(frozen=True, slots=True)
class Restoration:
    """What a restore did."""

    manifest: Manifest
    gateway: str
    generation: str
    settings: Path  # the configuration of the old gateway
    replaced: Path | None  # the house.db that was there


# --- taking it --------------------------------------------------------------------------------------------------------


def backup(config: Config, config_path: Path | None, out: Path, at: datetime, *, with_readings: bool) -> Manifest:
    """Write a backup into the file ``out``, also while the agent runs.

    Raises:
        ConfigError: agent.toml cannot be read.
        StoreError: house.db cannot be read or copied.
        UsageError: ``out`` has another ending or cannot be written.
    """
    if not out.name.endswith(ENDING):
        message = f"{out}: a backup is a file that ends in {ENDING}"
        raise UsageError(message)
    settings, left_out, put_back = _without_secrets(config_path)
    part = out.with_name(f".{out.name}.part")
    try:
        with ExitStack() as stack:
            stack.callback(part.unlink, missing_ok=True)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".flockwatch-", dir=out.parent)))
            meta = snapshot(config.data.house_db, folder / DATABASE, with_readings=with_readings)
            (folder / SETTINGS).write_text(settings, encoding="utf-8")
            manifest = Manifest(
                format=FORMAT,
                version=importlib.metadata.version("flockwatch"),
                site=config.site.id,
                gateway=meta["gateway"],
                generation=meta["generation"],
                at=iso(at) or "",
                readings=with_readings,
                files={name: _member(folder / name) for name in (SETTINGS, DATABASE)},
                left_out=left_out,
                put_back=put_back,
            )
            (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # a farm's figures are its own
            with os.fdopen(descriptor, "wb") as file:
                with tarfile.open(fileobj=file, mode="w:gz", compresslevel=6) as tar:
                    for name in (MANIFEST, SETTINGS, DATABASE):
                        tar.add(folder / name, name, filter=_anonymous)
                file.flush()
                os.fsync(file.fileno())
            part.replace(out)
    except OSError as e:
        message = f"{out}: cannot be written: {e.strerror or e}; give a place with space left"
        raise UsageError(message) from e
    return manifest


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o600
    return member


def _member(path: Path) -> _Member:
    with path.open("rb") as file:
        return _Member(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _without_secrets(path: Path | None) -> tuple[str, list[str], dict[str, str]]:
    """Return the configuration as TOML without its secrets and comments, the keys left out, and the files it names.

    Comments go too: an old password may stand in one.
    """
    if path is None:
        return "", [], {}
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        message = f"{path}: cannot be read: {e}"
        raise ConfigError(message) from e
    left_out: list[str] = []
    put_back: dict[str, str] = {}
    clean = _clean(document, "", left_out, put_back)
    text = _toml(clean)
    parse_config(tomllib.loads(text), f"the backup's copy of {path}")
    return text, left_out, put_back


def _clean(table: Mapping[str, Any], where: str, left_out: list[str], put_back: dict[str, str]) -> dict[str, Any]:
    clean: dict[str, Any] = {}
    for name, value in table.items():
        key = f"{where}{name}"
        if isinstance(value, dict) and name not in _NOT_SEARCHED:
            clean[name] = _clean(value, f"{key}.", left_out, put_back)
        elif isinstance(value, str) and name.endswith("_file"):
            clean[name] = put_back[key] = value
        elif isinstance(value, str) and (_SECRET_WORDS & set(name.split("_")) or _URL_LOGIN.search(value)):
            left_out.append(key)
        elif isinstance(value, list) and all(isinstance(one, dict) for one in value):
            clean[name] = [_clean(one, f"{key}[{n}].", left_out, put_back) for n, one in enumerate(value, 1)]
        else:
            clean[name] = value
    return clean


def _toml(document: Mapping[str, Any]) -> str:
    """Return a parsed TOML document as TOML: sections at the top, whatever is deeper in one line."""
    lines: list[str] = []
    for name, value in document.items():  # first what belongs to no section
        if not isinstance(value, dict) and not _is_tables(value):
            lines.append(f"{_quoted(name)} = {_inline(value)}")
    for name, value in document.items():
        tables = [(f"[{_quoted(name)}]", value)] if isinstance(value, dict) else []
        if _is_tables(value):
            tables = [(f"[[{_quoted(name)}]]", table) for table in value]
        for head, table in tables:
            lines += ["", head, *(f"{_quoted(key)} = {_inline(inner)}" for key, inner in table.items())]
    return "\n".join(lines).lstrip("\n") + "\n"


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _inline(value: Any) -> str:  # noqa: ANN401  # whatever a TOML document holds
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_quoted(key)} = {_inline(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, str):
        return _quoted(value, bare=False)
    if isinstance(value, time) or hasattr(value, "isoformat"):
        return str(value.isoformat())
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _quoted(text: str, *, bare: bool = True) -> str:
    """Return a key, or a string: JSON's escapes are TOML's, except that TOML wants DEL escaped, too."""
    if bare and re.fullmatch(r"[A-Za-z0-9_-]+", text):
        return text
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


# --- giving it to a new gateway ---------------------------------------------------------------------------------------


def restore(archive: Path, data: Path, at: datetime, *, force: bool) -> Restoration:
    """Make the data directory ``data`` that of a new gateway which goes on where the backup was taken.

    Args:
        archive: the backup.
        data: the directory; made where there is none.
        at: now.
        force: move a house.db that is there into ``quarantine/``.

    Raises:
        InputError: the archive is no whole, sound backup; nothing was changed.
        StoreError: an agent runs there, or a database is there and must not be replaced.
        UsageError: the directory cannot be written.
    """
    database = data / DATABASE
    try:
        data.mkdir(mode=0o750, parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(stopped(database))
            if database.exists() and not force:
                message = f"{database}: a database is there already; --force moves it into {data / 'quarantine'}"
                raise StoreError(message)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".restore-", dir=data)))
            manifest = _unpacked(archive, folder)
            (folder / DATABASE).chmod(0o660)
            detail: dict[str, object] = {"backup_at": manifest.at, "backup_version": manifest.version}
            gateway, generation = begin_anew(folder / DATABASE, to_ms(at), detail)
            replaced = _moved_aside(database, at) if database.exists() else None
            settings = data / "restored-agent.toml"
            (folder / SETTINGS).chmod(0o640)
            (folder / SETTINGS).replace(settings)
            with (folder / DATABASE).open("rb") as file:
                os.fsync(file.fileno())
            (folder / DATABASE).replace(database)
            _sync_folder(data)
    except OSError as e:
        message = f"{data}: cannot be written: {e.strerror or e}; look at its rights and its free space"
        raise UsageError(message) from e
    return Restoration(manifest, gateway, generation, settings, replaced)


def _unpacked(archive: Path, folder: Path) -> Manifest:
    """Unpack a backup into ``folder``, once everything in it is as the manifest says.

    Raises:
        InputError: it is not.
    """
    with _named(archive), ExitStack() as stack:
        try:
            packed = stack.enter_context(archive.open("rb"))
        except OSError as e:
            message = f"{archive}: cannot be read: {e.strerror or e}"
            raise InputError(message) from e
        unpacked = stack.enter_context(gzip.open(packed))
        tar = stack.enter_context(tarfile.open(fileobj=_Guarded(unpacked), mode="r:"))  # type: ignore[call-overload]  # a reader is enough
        manifest = _manifest(archive, _read(tar, tar.next(), MANIFEST))
        for name in (SETTINGS, DATABASE):
            wanted = manifest.files[name]
            if wanted.bytes > (SMALL_BYTES if name == SETTINGS else shutil.disk_usage(folder).free):
                message = f"{name} is said to have {wanted.bytes / 1e6:,.0f} MB, which is more than can be here"
                raise ValueError(message)
            member = tar.next()
            if member is None or member.name != name or not member.isreg() or member.size != wanted.bytes:
                message = f"{name} is missing, or is not what the manifest says"
                raise ValueError(message)
            _copy(tar, member, folder / name, wanted)
        # to the end: gzip's own sum of everything stands there
        if tar.next() is not None or len(unpacked.read(SMALL_BYTES)) == SMALL_BYTES:
            message = "it holds more than a backup does"
            raise ValueError(message)
    return manifest


@contextmanager
def _named(archive: Path) -> Iterator[None]:
    """Turn whatever a bad archive raises into one error."""
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, msgspec.MsgspecError) as e:
        message = f"{archive}: it is no whole backup of flockwatch: {e}; use another one"
        raise InputError(message) from e


class _Guarded:
    """A stream that gives no more at once than a header of ours can want: tarfile believes any size that it reads."""

    def __init__(self, file: BinaryIO | gzip.GzipFile) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Return ``size`` bytes."""
        if not 0 <= size <= SMALL_BYTES:
            message = "a header in it is far too large"
            raise ValueError(message)
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._file.tell()


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo | None, name: str) -> bytes:
    if member is None or member.name != name or not member.isreg() or not 0 < member.size <= SMALL_BYTES:
        message = f"it does not begin with {name}"
        raise ValueError(message)
    file = tar.extractfile(member)
    return b"" if file is None else file.read(member.size)


def _manifest(archive: Path, text: bytes) -> Manifest:
    said = msgspec.json.decode(text, type=Manifest)
    if said.format != FORMAT:
        message = (
            f"{archive}: a backup of the form {said.format!r}, this program reads {FORMAT!r}; use the newer program"
        )
        raise InputError(message)
    if set(said.files) != {SETTINGS, DATABASE}:
        message = "its manifest does not name the files that a backup has"
        raise ValueError(message)
    return said


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, wanted: _Member) -> None:
    source = tar.extractfile(member)
    digest = hashlib.sha256()
    with target.open("xb") as file:
        while source is not None and (block := source.read(64 * 1024)):
            digest.update(block)
            file.write(block)
    if target.stat().st_size != wanted.bytes or digest.hexdigest() != wanted.sha256:
        message = f"{member.name} is damaged: its sha256 is not the one of the manifest"
        raise ValueError(message)


def _moved_aside(database: Path, at: datetime) -> Path:
    """Move a database with its WAL into the quarantine; ``data recover --from`` reads it there."""
    folder = database.parent / "quarantine"
    folder.mkdir(mode=0o770, exist_ok=True)  # the courier puts its own there
    stem = f"replaced-house-{at:%Y%m%dT%H%M%S}Z"
    aside = next(path for n in range(1000) if not (path := folder / f"{stem}{f'-{n}' if n else ''}.db").exists())
    for end in ("-wal", "-shm", ""):
        part = database.with_name(database.name + end)
        if part.exists():
            part.replace(aside.with_name(aside.name + end))
    _sync_folder(folder)
    return aside


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
