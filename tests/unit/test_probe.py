"""A bundle is tried in a process of its own: what crashes, hangs or hoards memory there ends nothing else."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnx import helper

from agent import probe
from agent.errors import BundleError
from agent.probe import rehearse
from tests import foreign

if TYPE_CHECKING:
    from pathlib import Path


def test_a_good_bundle_says_what_it_takes(tmp_path: Path) -> None:
    tried = rehearse(foreign.one_by_one(tmp_path), 7)
    assert (tried.bundle, tried.houses) == ("eins/1.0.0", 7)
    assert 0 < tried.run_ms < 500
    assert 0 < tried.memory_mb < 100


def test_a_model_that_wants_gigabytes_is_refused(tmp_path: Path) -> None:
    directory = foreign.hog_above(tmp_path, -1.0)
    with pytest.raises(
        BundleError, match=r"selftest\.npz: the model does not run on it \(it wants more memory"
    ) as raised:
        rehearse(directory)
    assert str(directory) in str(raised.value)


def test_a_model_that_is_too_slow_for_the_houses_is_refused(tmp_path: Path) -> None:
    directory = foreign.slow_above(tmp_path, 0.5)  # its self-test holds a 1: it counts on until it is ended
    with pytest.raises(BundleError, match=r"Exiting due to terminate flag|max_runtime_ms"):
        rehearse(directory)


def test_a_model_whose_results_are_not_one_for_each_house_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["co2", "column"], ["flat"]),
        helper.make_node("Gather", ["flat", "two"], ["said"], axis=0),
    ]
    constants = {"column": np.array([-1, 1]), "two": np.array([0, 1])}
    inputs = [foreign.tensor("co2", foreign.FLOAT, "houses", 1, 1)]
    model = foreign.model_of(nodes, inputs, [foreign.tensor("said", foreign.FLOAT, None, 1)], constants)
    manifest = foreign.head("pair") + foreign.CO2_NOW.replace("TARGET", "pair")
    directory = foreign.write(tmp_path, manifest, model, {"co2": np.ones((2, 1, 1), np.float32)})
    with pytest.raises(BundleError, match=r"run for 20 houses at once: .* came as \(2, 1\) for 20 houses"):
        rehearse(directory)


def stand_in(tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the child be another program than Python."""
    path = tmp_path / "child"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


CHILDREN = {
    "a crash": ("kill -SEGV $$", r"the model ended the process that tried it \(SIGSEGV\): it crashes"),
    "no memory left": ("kill -KILL $$", r"\(SIGKILL\).*or wants more than the 384 MB"),
    "a traceback": ("echo 'ImportError: no such thing' >&2; exit 1", r"tried the model failed: ImportError: no such"),
    "a hang": ("exec sleep 30", r"did not load and run its self-test within 0\.2 s; make the model smaller"),
}


@pytest.mark.parametrize("case", CHILDREN)
def test_a_child_that_dies_is_a_reason_with_what_where_and_what_to_do(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, message = CHILDREN[case]
    stand_in(tmp_path, script, monkeypatch)
    if case == "a hang":
        monkeypatch.setattr(probe, "WITHIN_S", 0.2)
    with pytest.raises(BundleError, match=message) as raised:
        rehearse(tmp_path / "flow" / "1.0.0")
    assert re.match(re.escape(str(tmp_path / "flow" / "1.0.0")), str(raised.value))
