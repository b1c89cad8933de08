"""What the simulated farm writes is what `flockwatch replay` reads, and what `simulate` says is true."""

from __future__ import annotations

import argparse
import csv
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from agent.commands import End, State, Thin
from agent.domain import to_ms
from agent.errors import FlockwatchError, UsageError
from agent.replay_files import read_events, read_flocks, spool_readings
from agent.signals import CATALOGUE
from models_onnx.farm.cli import add_simulate
from models_onnx.farm.farm import Farm, Step, Told, still_true
from models_onnx.farm.replay_files import write_replay
from models_onnx.farm.sensors import SIGNALS

if TYPE_CHECKING:
    from pathlib import Path

UTC_ZONE = ZoneInfo("UTC")
START = datetime(2026, 1, 1, tzinfo=UTC)


def simulate(*args: str) -> int:
    """Run the verb as the command line would."""
    parser = argparse.ArgumentParser()
    add_simulate(parser.add_subparsers(required=True))
    parsed = parser.parse_args(["simulate", *args])
    code = parsed.run(parsed)
    assert isinstance(code, int)
    return code


def usual(out: Path, *more: str) -> tuple[str, ...]:
    return ("--houses", "2", "--days", "3", "--seed", "11", "--interval", "1800", "--out", str(out), *more)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the files of a staggered farm that sees thinning, the end of a flock and two faults."""
    out = tmp_path_factory.mktemp("farm") / "new" / "folder"
    faults = ("--fault", "disease@house1:1.5", "--fault", "sensor_stuck-co2@house2:2+6")
    assert simulate(*usual(out, "--stagger", "--days", "20", *faults)) == 0
    return out


def test_the_replay_reads_the_readings_and_they_are_in_order_of_time(files: Path, tmp_path: Path) -> None:
    recording = spool_readings(files / "readings.csv", tmp_path, UTC_ZONE)
    assert {key.house for key in recording.keys} == {"house1", "house2"}
    assert {key.signal for key in recording.keys} == set(SIGNALS)
    with (files / "readings.csv").open() as file:
        times = [row["at"] for row in csv.DictReader(file)]
    assert times == sorted(times)
    assert recording.count == len(times)
    assert times[0] == "2026-01-01T00:30:00Z"
    assert times[-1] == "2026-01-21T00:00:00Z"


def test_in_the_field_readings_come_again_and_the_replay_takes_each_once(tmp_path: Path) -> None:
    assert simulate(*usual(tmp_path / "farm", "--days", "12", "--field")) == 0
    with (tmp_path / "farm" / "readings.csv").open() as file:
        lines = [(row["at"], row["house"], row["signal"], row["value"]) for row in csv.DictReader(file)]
    times = [line[0] for line in lines]
    assert times != sorted(times)
    assert len(set(lines)) < len(lines)
    spooled = tmp_path / "spooled"
    spooled.mkdir()
    recording = spool_readings(tmp_path / "farm" / "readings.csv", spooled, UTC_ZONE)
    assert sum(len(block.at_ms) for block in recording.blocks()) == len(set(lines))


def test_every_reading_is_plausible_to_the_catalogue(files: Path, tmp_path: Path) -> None:
    recording = spool_readings(files / "readings.csv", tmp_path, UTC_ZONE)
    for block in recording.blocks():
        for number, key in enumerate(block.keys):
            signal, values = CATALOGUE[key.signal], block.value[block.key == number]
            if not len(values):
                continue
            assert signal.low is None or values.min() >= signal.low
            assert signal.high is None or values.max() <= signal.high


def test_the_replay_reads_the_flocks_and_knows_their_end(files: Path) -> None:
    placed = [(flock.flock.house, flock.flock.placed_on) for flock in read_flocks(files / "flocks.csv")]
    assert placed[:2] == [("house1", date(2025, 12, 22)), ("house2", date(2025, 12, 2))]
    assert len(placed) == 3  # the older flock ended, and another was placed after it
    with (files / "flocks.csv").open() as file:
        for row in csv.DictReader(file):
            assert 1_500 < float(row["slaughter_weight_g"]) < 4_000
            assert date.fromisoformat(row["ended_on"]) > date.fromisoformat(row["placed_on"])


def test_the_replay_reads_the_events_and_they_are_thinning_state_and_end(files: Path) -> None:
    events = read_events(files / "events.csv", UTC_ZONE)
    assert [at for at, _, _ in events] == sorted(at for at, _, _ in events)
    assert {type(command) for _, _, command in events} <= {Thin, State, End}
    assert any(isinstance(command, End) for _, _, command in events)


def test_the_truth_of_the_faults_is_written(files: Path) -> None:
    assert (files / "truth.csv").read_text().splitlines() == [
        "fault,house,from,to,severity",
        "disease,house1,2026-01-02T12:00:00Z,2026-01-09T12:00:00Z,1.0",
        "sensor_stuck-co2,house2,2026-01-03T00:00:00Z,2026-01-03T06:00:00Z,1.0",
    ]


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        simulate(*usual(tmp_path / name))
    for name in ("readings.csv", "flocks.csv", "events.csv", "truth.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_file_without_stagger_begins_before_the_chicks_come(tmp_path: Path) -> None:
    simulate(*usual(tmp_path, "--start", "2026-05-01"))
    with (tmp_path / "readings.csv").open() as file:
        rows = list(csv.DictReader(file))
    first_weight = next(row["at"] for row in rows if row["signal"] == "weight")
    assert first_weight >= "2026-05-01T12:00:00Z"
    warm = [float(row["value"]) for row in rows if row["signal"] == "temperature" and row["at"] < "2026-05-01T12"]
    assert min(warm) > 20  # pre-heated


def test_writing_tells_how_far_it_is(tmp_path: Path) -> None:
    shares: list[float] = []
    farm = Farm(1, 1, START)
    write_replay(farm, tmp_path, houses=["house1"], days=1, interval_s=3600, progress=shares.append)
    assert shares == [pytest.approx((n + 1) / 24) for n in range(24)]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--fault", "flood@house1:1"), "there is no fault 'flood'; there are water_line_blocked"),
        (("--fault", "disease@house3:1"), "there are house1, house2"),
        (("--fault", "disease@house1:3"), "outside this farm's 3 days"),
        (("--speed", "10"), "--speed: only with --mqtt"),
        (("--past", "10", "--dialect", "flat"), "--dialect, --past: only with --mqtt"),
    ],
)
def test_wrong_usage_says_what_there_is(tmp_path: Path, args: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says) as raised:
        simulate(*usual(tmp_path, *args))
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--mqtt", "localhost"), "is not HOST:PORT"),
        (("--mqtt", "localhost:1883", "--speed", "0"), "must be above 0"),
        (("--mqtt", "localhost:1883", "--start", "2026-01-01"), "needs --speed"),
        (("--mqtt", "localhost:1883", "--simulated-clock", "soon"), "START,REAL_EPOCH,SPEED"),
        (
            ("--mqtt", "localhost:1883", "--simulated-clock", "2026-01-01T00:00:00Z,1,2", "--speed", "3"),
            "leave --speed",
        ),
    ],
)
def test_wrong_usage_of_the_live_farm_says_what_to_do(args: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        simulate("--houses", "1", "--days", "1", "--seed", "1", *args)


@pytest.mark.parametrize(
    "args",
    [("--houses", "0"), ("--days", "x"), ("--interval", "0"), ("--start", "yesterday"), ("--dialect", "dol")],
)
def test_the_command_line_itself_refuses_nonsense(tmp_path: Path, args: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as left:
        simulate(*usual(tmp_path, *args))
    assert left.value.code == 2


def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FlockwatchError, match="give a directory that can be written"):
        simulate(*usual(tmp_path / "file" / "below"))


def test_only_what_is_still_true_is_told_of_the_past() -> None:
    def told(house: int, action: str, at_ms: int = 0) -> Told:
        return Told(at_ms, house, {"action": action})

    past = [
        told(0, "state"), told(0, "place"), told(0, "record"), told(0, "thin"),
        told(1, "place"), told(1, "end"), told(1, "state", 7), told(1, "state", 8),
    ]  # fmt: skip
    kept = still_true(past, 3)
    assert [(one.house, one.command["action"]) for one in kept] == [
        (0, "place"), (0, "record"), (0, "thin"), (1, "state"),
    ]  # fmt: skip
    assert kept[-1].at_ms == 8


def test_a_stream_of_steps_keeps_nothing() -> None:
    farm = Farm(2, 1, START, ages=[5, 10])
    farm.run_to(farm.start_ms)
    steps = list(farm.steps(700, to_ms(START) + 3_600_000))
    assert [type(step) for step in steps] == [Step] * 6  # the last one is shorter
    assert steps[-1].at_ms == to_ms(START) + 3_600_000
    assert steps[0].values.shape == (len(SIGNALS), 2)
    assert np.isfinite(steps[-1].values[SIGNALS.index("temperature")]).all()
