"""A source that is cited can be followed: docs/sources.md has each, and none that nobody cites."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIST = ROOT / "docs" / "sources.md"
CITATION = re.compile(r"\b(?!S3\b)S\d{1,2}[a-c]?\b|(?<=\[)F\d(?=\])")  # S3 is an object store
LISTED = set(re.findall(r"(?m)^\| ([SF]\d+[a-c]?) \|", LIST.read_text(encoding="utf-8")))


def _citing() -> dict[Path, set[str]]:
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    files += [
        file
        for folder in ("agent", "sync", "models_onnx", "tests")
        for pattern in ("*.py", "*.md")
        for file in (ROOT / folder).rglob(pattern)
    ]
    found = {
        file: set(CITATION.findall(file.read_text(encoding="utf-8")))
        for file in files
        if file not in {LIST, Path(__file__)}
    }
    return {file: cited for file, cited in found.items() if cited}


def test_every_source_that_is_cited_is_in_the_list_and_none_is_there_for_nothing() -> None:
    cited = set().union(*_citing().values())
    assert cited - LISTED == set()
    assert LISTED - cited == {"F3"}  # a recording: a test plays it where it is at hand


def test_every_file_that_cites_says_where_the_list_is() -> None:
    assert not {str(file) for file in _citing() if "docs/sources.md" not in file.read_text(encoding="utf-8")}
