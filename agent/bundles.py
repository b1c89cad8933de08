"""A model bundle on disk: ``<name>/<version>/{model.onnx, manifest.toml, selftest.npz, CARD.md}``, checked before use.

The bytes that were checked are the bytes that run: the model is read once, hashed, and handed on in memory.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent.errors import BundleError
from agent.manifest import Manifest, parse_manifest, version_key
from agent.reference import Reference, reference_from

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

MANIFEST, SELFTEST = "manifest.toml", "selftest.npz"
LARGEST_FILE = 64 * 1024 * 1024  # bytes; the gateway has 1 GB, and the shipped models have 0.2 MB
INPUT_PREFIX, OUTPUT_PREFIX = "in.", "out."  # of the names in selftest.npz


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A bundle that is complete and unaltered; whether its model runs is for ``predict`` to say."""

    directory: Path
    manifest: Manifest
    model: bytes
    selftest_inputs: dict[str, NDArray[np.generic]]
    selftest_outputs: dict[str, NDArray[np.generic]]
    reference: Reference | None = None  # what it was fed in training, where its manifest names that

    def __str__(self) -> str:
        """Return ``name/version``, as configuration and logs write it."""
        return f"{self.manifest.name}/{self.manifest.version}"


def shipped_directory() -> Path:
    """Return where the bundles lie that are shipped with the program.

    Raises:
        BundleError: the package that holds them is not installed.
    """
    spec = importlib.util.find_spec("models_onnx")
    if spec is None or not spec.submodule_search_locations:
        message = "the package models_onnx, with the shipped bundles, is not installed: install flockwatch again"
        raise BundleError(message)
    return Path(next(iter(spec.submodule_search_locations)))


def versions_in(root: Path) -> dict[str, list[str]]:
    """Return the names of the bundles under ``root`` with their versions, oldest first."""
    found: dict[str, list[str]] = {}
    for manifest in sorted(root.glob(f"*/*/{MANIFEST}")):
        version = manifest.parent.name
        try:
            version_key(version)
        except ValueError:
            continue  # a folder that is being written, or somebody's notes
        found.setdefault(manifest.parent.parent.name, []).append(version)
    return {name: sorted(versions, key=version_key) for name, versions in found.items()}


def find_bundle(root: Path, wanted: str) -> Path:
    """Return the directory of ``name`` (its newest version) or ``name/version`` under ``root``.

    Raises:
        BundleError: there is none; the message names those there are.
    """
    name, _, version = wanted.partition("/")
    versions = versions_in(root).get(name)
    if not versions:
        there = ", ".join(sorted(versions_in(root))) or "none"
        message = f"{root}: there is no bundle {name!r} (there are: {there}); correct [models] use, or put it there"
        raise BundleError(message)
    if version and version not in versions:
        message = (
            f"{root}: bundle {name!r} has no version {version!r}, only {', '.join(versions)}; correct [models] use"
        )
        raise BundleError(message)
    return root / name / (version or versions[-1])


def load_bundles(root: Path, wanted: Iterable[str], *, agent_version: str | None = None) -> list[Bundle]:
    """Return the bundles that ``wanted`` names, each ``name`` or ``name/version``.

    Raises:
        BundleError: one of them does not load.
    """
    return [load_bundle(find_bundle(root, name), agent_version=agent_version) for name in wanted]


def load_bundle(directory: Path, *, agent_version: str | None = None) -> Bundle:
    """Return the bundle in ``directory``, complete and with the hash that its manifest says.

    ``agent_version`` is the version of the installed program where it is not given.

    Raises:
        BundleError: something is missing, altered or asks for a newer agent than ``agent_version``.
    """
    path = directory / MANIFEST
    manifest = parse_manifest(_text(path), str(path))
    agent_version = agent_version or importlib.metadata.version("flockwatch")
    if version_key(manifest.min_agent_version) > version_key(agent_version):
        message = f"{path}: needs agent {manifest.min_agent_version}, this is {agent_version}: update the agent first"
        raise BundleError(message)
    model_path = directory / manifest.model.file
    model = _bytes(model_path)
    if (sha256 := hashlib.sha256(model).hexdigest()) != manifest.model.sha256:
        message = (
            f"{model_path}: its sha256 is {sha256[:12]}…, the manifest says {manifest.model.sha256[:12]}…: the model "
            "was altered or damaged; copy the bundle again, or write the new hash into the manifest"
        )
        raise BundleError(message)
    opset = opset_of(model, str(model_path))
    _refuse_external_data(model, str(model_path))
    if opset != manifest.model.opset:
        message = f"{model_path}: is of opset {opset}, the manifest says {manifest.model.opset}; correct model.opset"
        raise BundleError(message)
    inputs, outputs = _selftest(directory / SELFTEST, manifest)
    return Bundle(directory, manifest, model, inputs, outputs, _reference(directory, manifest))


def opset_of(model: bytes, where: str) -> int:
    """Return the opset of the standard operators in an ONNX file, read without any ONNX library.

    ModelProto's field 8 holds OperatorSetIdProto {1: domain, 2: version}; "" is the standard domain.

    Raises:
        BundleError: the bytes are no ONNX model.
    """
    try:
        for number, value in _fields(model):
            if number == 8 and isinstance(value, bytes):
                entry = dict(_fields(value))
                if entry.get(1, b"") in {b"", b"ai.onnx"} and isinstance(version := entry.get(2), int):
                    return version
    except (IndexError, ValueError) as e:
        message = f"{where}: is no ONNX model ({e}); export it again"
        raise BundleError(message) from e
    message = f"{where}: is no ONNX model, or does not say its opset; export it again"
    raise BundleError(message)


# ONNX's messages, by the number of the field in which each lies in the one around it: what holds tensors, however deep
_ATTRIBUTE: dict[int, str] = {5: "tensor", 10: "tensor", 6: "graph", 11: "graph", 22: "sparse", 23: "sparse"}
_HOLDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": _ATTRIBUTE,
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of a tensor: where its numbers lie, if not in the file
_DEEPEST = 64  # graphs within graphs


def _refuse_external_data(model: bytes, where: str) -> None:
    """Refuse a model whose numbers lie in other files: what is hashed and tested is this file.

    Raises:
        BundleError: there is such a tensor, or the file is nested beyond all reason.
    """
    waiting = [("model", model, 0)]
    while waiting:
        kind, data, depth = waiting.pop()
        if depth > _DEEPEST:
            message = f"{where}: has graphs nested deeper than {_DEEPEST} messages; export it again"
            raise BundleError(message)
        try:
            fields = _fields(data)
        except (IndexError, ValueError) as e:
            message = f"{where}: is no ONNX model ({e}); export it again"
            raise BundleError(message) from e
        if kind == "tensor" and any(n == _EXTERNAL_DATA or (n == _DATA_LOCATION and v) for n, v in fields):
            message = f"{where}: keeps tensors in other files (external data); export it as one file"
            raise BundleError(message)
        inside = _HOLDS[kind]
        waiting += [(inside[n], v, depth + 1) for n, v in fields if n in inside and isinstance(v, bytes)]


def _fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """Return number and value of each field of a protobuf message; values that are messages stay bytes."""
    fields: list[tuple[int, int | bytes]] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(data):
        key = varint()
        match key & 7:
            case 0:
                fields.append((key >> 3, varint()))
            case 2:
                length = varint()
                if at + length > len(data):
                    message = "it ends too early"
                    raise ValueError(message)
                fields.append((key >> 3, data[at : at + length]))
                at += length
            case 1 | 5 as kind:
                at += 8 if kind == 1 else 4
            case _:
                message = "it is no protobuf message"
                raise ValueError(message)
    return fields


def _selftest(path: Path, manifest: Manifest) -> tuple[dict[str, NDArray[np.generic]], dict[str, NDArray[np.generic]]]:
    """Return the inputs and outputs of the self-test, complete."""
    if not path.exists():
        message = f"{path}: is missing: a bundle without a self-test does not load; write inputs and outputs into it"
        raise BundleError(message)
    arrays = _arrays(path)
    inputs = [i.name for i in manifest.input] + [i.mask for i in manifest.input if i.mask]
    wanted = [INPUT_PREFIX + name for name in inputs] + [OUTPUT_PREFIX + o.name for o in manifest.output]
    if missing := [name for name in wanted if name not in arrays]:
        message = (
            f"{path}: has no array {missing[0]!r}; it needs one for each input, mask and output: {', '.join(wanted)}"
        )
        raise BundleError(message)
    return (
        {name: arrays[INPUT_PREFIX + name] for name in inputs},
        {o.name: arrays[OUTPUT_PREFIX + o.name] for o in manifest.output},
    )


def _reference(directory: Path, manifest: Manifest) -> Reference | None:
    """Return what the bundle's inputs were in training; None where the manifest does not name it."""
    name = manifest.reference.features if manifest.reference else None
    if name is None:
        return None
    path = directory / name
    if not path.is_file():
        message = f"{path}: is missing: [reference] features names it; copy the bundle again, or take the key out"
        raise BundleError(message)
    specs = [spec for spec in manifest.input if spec.grid is None or spec.grid.end == "now"]
    return reference_from(_arrays(path), specs, str(path))


def _arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of an ``.npz`` file by name."""
    _bytes(path)  # a plain file, of a size that a gateway loads
    try:
        _refuse_bomb(path)
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error, EOFError) as e:
        message = f"{path}: is no readable .npz file ({e}); write it with numpy.savez, without pickled objects"
        raise BundleError(message) from e


def _refuse_bomb(path: Path) -> None:
    """Refuse an archive that unpacks to more than a gateway loads, or whose arrays say more than they hold.

    Raises:
        ValueError: it does.
    """
    left = LARGEST_FILE
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            left -= member.file_size
            if left < 0:
                message = f"it unpacks to more than {LARGEST_FILE:,} bytes"
                raise ValueError(message)
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            if math.prod(shape) * dtype.itemsize > member.file_size:
                message = f"{member.filename} says shape {shape}, and holds {member.file_size:,} bytes"
                raise ValueError(message)


def _text(path: Path) -> str:
    try:
        return _bytes(path).decode()
    except UnicodeDecodeError as e:
        message = f"{path}: is not UTF-8 text ({e}); write it again as UTF-8"
        raise BundleError(message) from e


def _bytes(path: Path) -> bytes:
    """Return what the file holds."""
    try:
        if path.exists() and not (path.is_file() and path.resolve().parent == path.parent.resolve()):
            message = f"{path}: is no plain file, or a link out of the bundle; put the file itself there"
            raise BundleError(message)
        size = path.stat().st_size
        if size > LARGEST_FILE:
            message = (
                f"{path}: has {size:,} bytes, and {LARGEST_FILE:,} are the most that a gateway loads; make it smaller"
            )
            raise BundleError(message)
        return path.read_bytes()
    except FileNotFoundError as e:
        message = f"{path}: is missing; a bundle is model.onnx, {MANIFEST}, {SELFTEST} and CARD.md in <name>/<version>/"
        raise BundleError(message) from e
    except OSError as e:
        message = f"{path}: cannot be read: {e}"
        raise BundleError(message) from e
