"""The demo as a visitor meets it: a warning raised and cleared, weights predicted, nothing left behind."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOUSES = ("house1", "house2", "house3")
PATIENCE_S = 90.0
FIGURES = re.compile(r"^\S+ \S+ farm time +([\d,]+) readings", re.MULTILINE)


class Demo:
    """A demo of ours, in a session of its own as from a terminal, with what it said so far."""

    def __init__(self, *words: str, terminal: bool = False) -> None:
        command = [sys.executable, "-m", "agent.cli", "demo", *words]
        if terminal:
            self._read, ours = pty.openpty()  # setsid makes it the controlling terminal: Ctrl-C is typed, not sent
            command = ["setsid", "--ctty", *command]
        else:
            self._read, ours = os.pipe()
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
        self._process = subprocess.Popen(
            command, stdin=ours if terminal else subprocess.DEVNULL, stdout=ours, stderr=ours,
            env=environment, start_new_session=not terminal,
        )  # fmt: skip
        os.close(ours)
        self.pid = self._process.pid
        self._said = bytearray()
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def _listen(self) -> None:
        while True:
            select.select([self._read], [], [])
            try:
                heard = os.read(self._read, 65_536)
            except OSError:  # so a terminal says that the other side has gone
                return
            if not heard:
                return
            self._said += heard

    @property
    def said(self) -> str:
        return self._said.decode(errors="replace")

    def type(self, keys: bytes) -> None:
        """Type on its terminal."""
        os.write(self._read, keys)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait(self) -> int:
        """Return its exit code when it has ended."""
        try:
            code = self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the demo did not end:\n{self.said[-2000:]}")
        self._reader.join(PATIENCE_S)
        return code

    def close(self) -> None:
        """End it in order, so that it ends its own programs too."""
        if self.is_running():
            self._process.terminate()
            self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        os.close(self._read)


@pytest.fixture
def start_demo() -> Iterator[Callable[..., Demo]]:
    """Give a function that starts demos; they end with the test."""
    demos: list[Demo] = []

    def start(*words: str, terminal: bool = False) -> Demo:
        demos.append(Demo(*words, terminal=terminal))
        return demos[-1]

    yield start
    for demo in demos:
        demo.close()


def left_behind(directory: Path, session: int) -> list[str]:
    """Return the processes that belong to a demo: by its folder in their words, or by its session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            its_session = int((entry / "stat").read_text().rpartition(")")[2].split()[3])
        except (OSError, ProcessLookupError):  # it ended meanwhile
            continue
        if str(directory) in words or its_session == session:
            found.append(f"{entry.name}: {words}")
    return found


def objects_below(root: Path) -> dict[Path, bytes]:
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*.parquet")}


def readings_told(said: str) -> int:
    """Return how many readings the newest line of figures speaks of."""
    told = FIGURES.findall(said)
    return int(told[-1].replace(",", "")) if told else 0


def test_a_demo_of_45_seconds_shows_all_that_it_promises(tmp_path: Path, start_demo: Callable[..., Demo]) -> None:
    """Plain lines where there is no terminal; it ends by itself, and says where everything lies."""
    folder = tmp_path / "demo"
    demo = start_demo("--for", "45", "--speed", "2000", "--data", str(folder))  # by then 22 hours have passed
    assert demo.wait() == 0, demo.said
    said = demo.said
    assert "\x1b" not in said
    assert "Traceback" not in said

    raised = re.findall(r"^WARNING RAISED   (.*)$", said, re.MULTILINE)
    cleared = re.findall(r"^WARNING CLEARED  (.*)$", said, re.MULTILINE)
    assert [text for text in raised if text.startswith("house2") and "water" in text.lower()], said
    assert [text for text in cleared if text.startswith("house2")], said
    summary = said[said.rindex("farm time") :]
    for house in HOUSES:
        assert re.search(rf"^ +{house}: [\d,]+ g on \d{{4}}-\d\d-\d\d", summary, re.MULTILINE), summary
    for name in ("lake", "cloud", "database"):
        [place] = re.findall(rf"^{name} +(\S+)", summary, re.MULTILINE)
        assert Path(place).exists()
        assert place.startswith(str(folder))

    # with DuckDB: what the summary says to type, and what must be true of every stream
    [query] = re.findall(r'^read +duckdb -c "(.*)"$', summary, re.MULTILINE)
    with duckdb.connect() as db:
        assert len(db.execute(query).fetchall()) == 10
        for stream in ("readings", "warnings", "predictions", "flocks"):
            objects = f"read_parquet('{folder}/cloud/{stream}/**/*.parquet')"
            [(rows, distinct)] = db.execute(f"SELECT count(*), count(DISTINCT seq) FROM {objects}").fetchall()
            assert rows == distinct > 0, stream
        doubled = db.execute(
            f"SELECT house, signal, \"at\" FROM read_parquet('{folder}/cloud/readings/**/*.parquet')"
            " GROUP BY ALL HAVING count(*) > 1"
        ).fetchall()
        weighed = db.execute(
            f"SELECT DISTINCT house FROM read_parquet('{folder}/cloud/predictions/**/*.parquet')"
            " WHERE target = 'weight_g' AND horizon = 'slaughter' ORDER BY house"
        ).fetchall()
    assert doubled == []
    assert weighed == [(house,) for house in HOUSES]
    assert objects_below(folder / "data" / "lake") == objects_below(folder / "cloud")

    for log in folder.glob("*.log"):
        assert "Traceback" not in log.read_text(errors="replace"), log
    assert left_behind(folder, demo.pid) == []


def test_two_demos_run_side_by_side_and_ctrl_c_ends_one_clean(
    tmp_path: Path, start_demo: Callable[..., Demo], until: Callable[..., None]
) -> None:
    """One on a terminal that is redrawn and given back, and one without; Ctrl-C is typed into the first."""
    seen = start_demo("--data", str(tmp_path / "seen"), terminal=True)
    plain = start_demo("--data", str(tmp_path / "plain"))
    until(lambda: "Slaughter weight" in seen.said, "the page is drawn", PATIENCE_S)
    until(lambda: readings_told(plain.said) > 0, "lines of figures come", PATIENCE_S)
    seen.type(b"\x03")
    assert seen.wait() == 0, seen.said[-2000:]
    assert plain.is_running()
    assert seen.said.count("\x1b[?1049h") == seen.said.count("\x1b[?1049l") == 1  # the other screen, and back
    assert seen.said.rindex("\x1b[?25h") > seen.said.rindex("\x1b[?25l")  # the cursor is seen again
    assert "Traceback" not in seen.said
    assert f"lake      {tmp_path}/seen/data/lake" in seen.said[seen.said.rindex("farm time") :]
    assert left_behind(tmp_path / "seen", seen.pid) == []

    plain.signal(signal.SIGINT)
    assert plain.wait() == 0, plain.said
    assert left_behind(tmp_path / "plain", plain.pid) == []
    ports = {re.findall(r"127\.0\.0\.1:(\d+)", demo.said)[0] for demo in (seen, plain)}
    assert len(ports) == 2


def test_a_demo_whose_program_dies_says_so(
    tmp_path: Path, start_demo: Callable[..., Demo], until: Callable[..., None]
) -> None:
    folder = tmp_path / "demo"
    demo = start_demo("--data", str(folder))
    until(lambda: [p for p in left_behind(folder, 0) if " sync " in p], "sync runs")
    [sync] = [p for p in left_behind(folder, 0) if " sync " in p]
    os.kill(int(sync.partition(":")[0]), signal.SIGKILL)
    assert demo.wait() == 1
    assert "flockwatch: the sync ended with code -9" in demo.said
    assert left_behind(folder, demo.pid) == []
