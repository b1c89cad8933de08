from __future__ import annotations

import hashlib
import io
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args, get_origin

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.bundles import find_bundle, load_bundle, load_bundles, opset_of, shipped_directory, versions_in
from agent.errors import BundleError
from agent.manifest import (
    FACT_PREFIXES,
    PLAIN_FACTS,
    Feature,
    Grid,
    InputSpec,
    Judge,
    Manifest,
    ModelFile,
    Output,
    Reference,
    Series,
    horizon_s,
    parse_manifest,
    version_key,
)

if TYPE_CHECKING:
    from collections.abc import Callable

MANIFEST = """
name = "flow"
version = "1.2.0"
task = "expect"
licence = "Apache-2.0"
cadence_s = 600
model = { file = "model.onnx", sha256 = "SHA256", opset = 17 }

[[input]]
name = "course"
shape = ["houses", 6, 2]
grid = { step_s = 3600, length = 6 }
features = [{ signal = "water", aggregate = "sum" }, { signal = "temperature", min_coverage = 0.8 }]
fill = "nan"
mask = "course_mask"

[[output]]
name = "water"
meaning = "quantiles"
target = "water"
quantiles = [0.1, 0.5, 0.9]
horizons = ["1h"]
of = { signal = "water", aggregate = "sum" }
"""


def a_model(opset: int = 17) -> bytes:
    """Return a small ONNX file; these tests never run it."""
    value = helper.make_tensor_value_info("course", TensorProto.FLOAT, ["houses", 6, 2])
    out = helper.make_tensor_value_info("water", TensorProto.FLOAT, ["houses", 6, 2])
    graph = helper.make_graph([helper.make_node("Identity", ["course"], ["water"])], "g", [value], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return bytes(model.SerializeToString())


def write(directory: Path, manifest: str = MANIFEST, model: bytes | None = None) -> Path:
    """Write a complete bundle; SHA256 in the manifest becomes the model's."""
    directory.mkdir(parents=True, exist_ok=True)
    model = a_model() if model is None else model
    (directory / "model.onnx").write_bytes(model)
    (directory / "manifest.toml").write_text(manifest.replace("SHA256", hashlib.sha256(model).hexdigest()))
    arrays = {"in.course": np.zeros((1, 6, 2)), "in.course_mask": np.zeros((1, 6, 2)), "out.water": np.zeros((1, 1, 3))}
    np.savez(directory / "selftest.npz", **arrays)  # type: ignore[arg-type]  # numpy's stubs take the names for its own
    return directory


def test_a_complete_bundle_loads(tmp_path: Path) -> None:
    bundle = load_bundle(write(tmp_path / "flow" / "1.2.0"))
    assert str(bundle) == "flow/1.2.0"
    assert bundle.manifest.signals == {"water", "temperature"}
    assert sorted(bundle.selftest_inputs) == ["course", "course_mask"]
    assert bundle.manifest.output[0].inner_shape == (1, 3)


def test_a_feature_without_its_own_least_coverage_has_the_manifests() -> None:
    text = MANIFEST.replace("SHA256", "0" * 64).replace("cadence_s = 600", "cadence_s = 600\nmin_coverage = 0.7")
    manifest = parse_manifest(text, "here")
    assert [f.min_coverage for f in manifest.input[0].features] == [0.7, 0.8]
    assert manifest.output[0].of is not None
    assert manifest.output[0].of.min_coverage == 0.7


def replaced(old: str, new: str) -> Callable[[Path], None]:
    """Return the change of some words in the manifest."""

    def change(directory: Path) -> None:
        path = directory / "manifest.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def without(name: str) -> Callable[[Path], None]:
    """Return the loss of a file."""
    return lambda directory: (directory / name).unlink()


def holding(name: str, content: bytes) -> Callable[[Path], None]:
    """Return the overwriting of a file."""

    def change(directory: Path) -> None:
        (directory / name).write_bytes(content)

    return change


def with_model(model: bytes) -> Callable[[Path], None]:
    """Return the exchange of the model, its hash written into the manifest."""

    def change(directory: Path) -> None:
        write(directory, model=model)

    return change


def without_array(name: str) -> Callable[[Path], None]:
    """Return the loss of one array of the self-test."""

    def change(directory: Path) -> None:
        with np.load(directory / "selftest.npz") as archive:
            arrays = {n: archive[n] for n in archive.files if n != name}
        np.savez(directory / "selftest.npz", **arrays)

    return change


def both(first: Callable[[Path], None], then: Callable[[Path], None]) -> Callable[[Path], None]:
    """Return one change after the other."""

    def change(directory: Path) -> None:
        first(directory)
        then(directory)

    return change


def external_model() -> bytes:
    """Return a model whose weights lie in another file, named by a path that leaves the bundle."""
    weights = numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../../etc/passwd")
    value = helper.make_tensor_value_info("course", TensorProto.FLOAT, ["houses", 6, 2])
    out = helper.make_tensor_value_info("water", TensorProto.FLOAT, ["houses", 6, 2])
    inner = helper.make_graph([helper.make_node("Constant", [], ["w"], value=weights)], "inner", [], [out])
    node = helper.make_node("If", ["is_so"], ["water"], then_branch=inner, else_branch=inner)
    graph = helper.make_graph([node], "g", [value], [out])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())


def nested_model(depth: int) -> bytes:
    """Return graphs within graphs."""
    graph = helper.make_graph([], "g", [], [])
    for _ in range(depth):
        node = helper.make_node("If", ["is_so"], ["y"], then_branch=graph)
        graph = helper.make_graph([node], "g", [], [])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())


def with_bomb(*, honest: bool) -> Callable[[Path], None]:
    """Return a self-test of a few kilobytes that unpacks to a gigabyte, or whose header says that it holds one."""

    def change(directory: Path) -> None:
        with zipfile.ZipFile(directory / "selftest.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            header = io.BytesIO()
            told = {"descr": "<f4", "fortran_order": False, "shape": (250_000_000,)}
            np.lib.format.write_array_header_1_0(header, told)
            with archive.open("in.course.npy", "w") as file:
                file.write(header.getvalue())
                file.write(bytes(80_000_000 if honest else 8))

    return change


def linked(name: str, target: str) -> Callable[[Path], None]:
    """Return a file that is a link to another place."""

    def change(directory: Path) -> None:
        (directory / name).unlink()
        (directory / name).symlink_to(target)

    return change


SCORER = """
name = "flow"
version = "1.2.0"
task = "custom"
licence = "Apache-2.0"
cadence_s = 600
model = { file = "model.onnx", sha256 = "SHA256", opset = 17 }
[[input]]
name = "last"
shape = ["readings", 8, 1]
series = { length = 8 }
[[output]]
name = "score"
meaning = "score"
target = "reading"
"""


def as_scorer(old: str, new: str) -> Callable[[Path], None]:
    """Return the exchange of the manifest for one that scores readings, some words changed."""

    def change(directory: Path) -> None:
        assert old in SCORER
        (directory / "manifest.toml").write_text(SCORER.replace("SHA256", "0" * 64).replace(old, new))

    return change


HINDSIGHT = replaced("length = 6 }", 'length = 6, end = "horizon" }')

ESCAPING = '[reference]\nfeatures = "../x.npz"\n[[output]]'

BAD_BUNDLES: list[tuple[str, Callable[[Path], None], str]] = [
    ("no manifest", without("manifest.toml"), r"manifest\.toml: is missing; a bundle is model\.onnx"),
    ("no model", without("model.onnx"), r"model\.onnx: is missing"),
    ("no self-test", without("selftest.npz"), r"selftest\.npz: is missing: a bundle without a self-test does not load"),
    ("not toml", holding("manifest.toml", b"name = "), r"manifest\.toml: is no valid TOML"),
    ("not text", holding("manifest.toml", b"\xff\xfe"), r"manifest\.toml: is not UTF-8 text"),
    ("altered model", holding("model.onnx", b"x"), r"model\.onnx: its sha256 is 2d7116.*was altered or damaged"),
    ("no onnx", with_model(b"not a model"), r"model\.onnx: is no ONNX model"),
    ("empty model", with_model(b""), r"model\.onnx: is no ONNX model, or does not say its opset"),
    ("other opset", with_model(a_model(13)), r"is of opset 13, the manifest says 17; correct model\.opset"),
    ("broken self-test", holding("selftest.npz", b"PK"), r"selftest\.npz: is no readable \.npz file"),
    ("no mask in it", without_array("in.course_mask"), r"selftest\.npz: has no array 'in\.course_mask'"),
    ("no output in it", without_array("out.water"), r"selftest\.npz: has no array 'out\.water'"),
    (
        "newer agent",
        replaced('licence = "', 'min_agent_version = "9.0.0"\nlicence = "'),
        r"needs agent 9\.0\.0, this is",
    ),
    ("no end", replaced("cadence_s = 600", "cadence_s = 600\nmax_runtime_ms = inf"), r"max_runtime_ms: .* 10000"),
    ("no cadence", replaced("cadence_s = 600", ""), r"manifest\.toml: cadence_s: is missing; add it"),
    ("misspelt key", replaced("licence", "license"), r"license: no such key in a manifest"),
    ("bad version", replaced("1.2.0", "1.2"), r"version: '1\.2' is no version; write it as 1\.2\.3"),
    ("bad task", replaced('"expect"', '"guess"'), r"task: Input should be 'expect', 'weight'"),
    (
        "bad aggregate",
        replaced('"sum" }, {', '"total" }, {'),
        r"input\[1\]\.features\[1\]\.aggregate",
    ),
    ("bad shape", replaced("6, 2]", "7, 2]"), r"input\[1\]: input 'course' has shape .* make it \['houses', 6, 2\]"),
    ("no grid", replaced("grid =", "# grid ="), r"has features but no grid"),
    ("odd step", replaced("3600, l", "3601, l"), r"step_s 3601 is no multiple of 600"),
    ("too long", replaced("length = 6", "length = 999"), r"longer than the 14 days"),
    ("unknown fact", replaced("grid = {", 'facts = ["moon"]\ngrid = {'), r"'moon' is no fact; there are day_number"),
    ("no of", replaced("of =", "# of ="), r"task 'expect': output 'water' needs `of`"),
    ("falling quantiles", replaced("[0.1, 0.5, 0.9]", "[0.9, 0.5, 0.1]"), r"quantiles must rise"),
    ("bad horizon", replaced('"1h"', '"1 hour"'), r"'1 hour' is no horizon; write 30min, 1h, 2d or slaughter"),
    ("horizon off the grid", replaced('"1h"', '"5min"'), r"needs horizons that are multiples of 600 s, not '5min'"),
    (
        "hindsight by the day",
        replaced("length = 6 }", 'length = 6, align = "day", end = "horizon" }'),
        r"goes with align = 'end'",
    ),
    ("hindsight elsewhere", both(replaced('"expect"', '"custom"'), HINDSIGHT), r"only task 'expect' is judged"),
    ("double name", replaced('mask = "course_mask"', 'mask = "water"'), r"tensor name 'water' stands twice"),
    ("weights elsewhere", with_model(external_model()), r"keeps tensors in other files .*export it as one file"),
    ("graphs in graphs", with_model(nested_model(25)), r"nested deeper than 64 messages"),
    ("a bomb", with_bomb(honest=True), r"selftest\.npz: .*unpacks to more than 67,108,864 bytes"),
    ("a lying header", with_bomb(honest=False), r"says shape \(250000000,\), and holds"),
    ("an endless file", linked("model.onnx", "/dev/zero"), r"model\.onnx: is no plain file"),
    ("a link out of it", linked("manifest.toml", "/etc/hostname"), r"is no plain file, or a link out of the bundle"),
    (
        "escaping reference",
        replaced("[[input]]", '[reference]\nfeatures = "../x.npz"\n[[input]]'),
        r"reference\.features",
    ),
    ("a scorer with a grid", as_scorer("series =", "grid = { step_s = 600, length = 8 }\nseries ="), r"has no grid"),
    ("a scorer of weights", as_scorer('"custom"', '"weight"'), r"task 'custom' and one output, of meaning 'score'"),
    ("a scorer of values", as_scorer('"score"\ntarget', '"value"\ntarget'), r"one output, of meaning 'score'"),
    (
        "a scorer with facts",
        as_scorer("[[output]]", '[[input]]\nname = "f"\nshape = ["n", 1]\nfacts = ["hour_sin"]\n[[output]]'),
        r"inputs of `series` only",
    ),
    ("an endless window", as_scorer("length = 8 ", "length = 9000 "), r"series\.length"),
    ("escaping file", replaced('"model.onnx"', '"../model.onnx"'), r"model\.file"),
]


@pytest.mark.parametrize(
    ("change", "message"), [case[1:] for case in BAD_BUNDLES], ids=[case[0] for case in BAD_BUNDLES]
)
def test_a_bad_bundle_is_refused_with_what_where_and_what_to_do(
    tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    directory = write(tmp_path / "flow" / "1.2.0")
    change(directory)
    with pytest.raises(BundleError, match=message) as raised:
        load_bundle(directory, agent_version="0.1.0")
    assert str(directory) in str(raised.value)
    assert "Traceback" not in str(raised.value)
    assert len(str(raised.value).splitlines()) <= 2  # a misspelt key is one too many and one too few


def words_of(annotation: object) -> list[str]:
    """Return the words that a key may hold, where it is not free."""
    if get_origin(annotation) is Literal:
        return [str(word) for word in get_args(annotation)]
    return [word for part in get_args(annotation) for word in words_of(part)]


MODELS_DOC = Path(__file__).parents[2] / "docs" / "models.md"


def test_every_key_of_a_manifest_is_explained() -> None:
    """docs/models.md names each key, each word that a key may hold, and each fact."""
    text = MODELS_DOC.read_text(encoding="utf-8")
    for part in (Manifest, ModelFile, InputSpec, Grid, Series, Feature, Output, Judge, Reference):
        for name, field in part.model_fields.items():
            words = [name, *words_of(field.annotation)]
            assert not [w for w in words if not re.search(rf"\b{re.escape(w)}\b", text)], f"{part.__name__}.{name}"
    assert not [fact for fact in (*PLAIN_FACTS, *FACT_PREFIXES) if fact not in text]


def test_the_manifest_in_the_documentation_is_one() -> None:
    found = re.search(r"```toml\n(.*?)```", MODELS_DOC.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    assert parse_manifest(found[1].replace('sha256 = "…"', f'sha256 = "{"0" * 64}"'), "docs").name == "flow"


def test_a_file_too_large_for_a_gateway_is_not_read(tmp_path: Path) -> None:
    directory = write(tmp_path / "flow" / "1.2.0")
    with (directory / "model.onnx").open("r+b") as file:
        file.truncate(65 * 1024 * 1024)
    with pytest.raises(BundleError, match="are the most that a gateway loads"):
        load_bundle(directory)


def test_versions_are_ordered_as_numbers_and_the_newest_is_taken(tmp_path: Path) -> None:
    for version in ("1.9.0", "1.10.0", "0.1.0"):
        write(tmp_path / "flow" / version, MANIFEST.replace("1.2.0", version))
    (tmp_path / "flow" / "draft").mkdir()
    (tmp_path / "flow" / "draft" / "manifest.toml").write_text("")
    assert versions_in(tmp_path) == {"flow": ["0.1.0", "1.9.0", "1.10.0"]}
    assert find_bundle(tmp_path, "flow").name == "1.10.0"
    assert [str(b) for b in load_bundles(tmp_path, ["flow", "flow/1.9.0"])] == ["flow/1.10.0", "flow/1.9.0"]
    with pytest.raises(BundleError, match=r"there is no bundle 'weight' \(there are: flow\)"):
        find_bundle(tmp_path, "weight")
    with pytest.raises(BundleError, match=r"has no version '2.0.0', only 0\.1\.0, 1\.9\.0, 1\.10\.0"):
        find_bundle(tmp_path, "flow/2.0.0")


def test_the_opset_is_that_of_the_standard_operators(tmp_path: Path) -> None:
    model = helper.make_model(
        helper.make_graph([], "g", [], []),
        opset_imports=[helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 18)],
    )
    assert opset_of(model.SerializeToString(), "here") == 18


def test_the_shipped_bundles_are_found_beside_the_program() -> None:
    assert (shipped_directory() / "__init__.py").is_file()


@pytest.mark.parametrize(
    ("horizon", "seconds"), [("30min", 1800), ("1h", 3600), ("2d", 172_800), ("slaughter", None), ("0h", None)]
)
def test_a_horizon_is_a_number_of_seconds(horizon: str, seconds: int | None) -> None:
    assert horizon_s(horizon) == seconds


def test_versions_compare_by_number() -> None:
    assert version_key("1.10.0") > version_key("1.9.9")
