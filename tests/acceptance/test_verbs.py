"""The command line as people meet it: one clear message for each mistake, and answers where all is well."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

from agent.cli import main
from agent.clock import SimulatedClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Broker, Gateway, Mqtt

READINGS = "at,house,signal,value\n"
FLOCKS = "house,flock,placed_on,birds_placed,strain,sex,parent_age_weeks,ended_on,slaughter_weight_g\n"
EVENTS = "at,house,command\n"
ROW = "2026-01-01T00:01:00Z,house1,water,12\n"
FLOCK_ROW = "house1,A1,2026-01-01,20000,ross308,mixed,35,2026-02-10,2500\n"


class Told(NamedTuple):
    """What a verb left behind."""

    code: int
    out: str
    err: str


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Told:
    """Run the command line in this process: a mistake is found before anything is started."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as e:  # argparse's way out
        code = e.code if isinstance(e.code, int) else -1
    return Told(code, *capsys.readouterr())


def real(*words: str | Path) -> Told:
    """Run the command line as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli", *map(str, words)],
        check=False, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return Told(done.returncode, done.stdout, done.stderr)


def assert_one_message(told: Told, code: int, *wanted: str) -> None:
    """It is on standard error, is one line (argparse adds where to read on), says what is wanted, is no traceback."""
    assert told.code == code, told
    assert told.out == ""
    lines = told.err.splitlines()
    assert lines, told
    assert lines[0].startswith("flockwatch"), told.err
    assert all(line.startswith("Try 'flockwatch") for line in lines[1:]), told.err
    missing = [word for word in wanted if word not in told.err]
    assert not missing, told.err


# --- wrong configuration ----------------------------------------------------------------------------------------------

BAD_CONFIGS: dict[str, tuple[str | bytes, list[str]]] = {
    "no TOML": ('[site\nid = "farm1"\n', ["is no valid TOML", "line 1"]),
    "a key that is not there": ('[site]\nidd = "farm1"\n', ["site.idd", "no such key", "agent.toml"]),
    "a section that is not there": ('[sites]\nid = "x"\n', ["sites", "no such key"]),
    "a wrong type": ('[mqtt]\nport = "many"\n', ["mqtt.port", "must be", "'many'"]),
    "out of range": ("[mqtt]\nport = 70000\n", ["mqtt.port", "65535"]),
    "an unknown zone": ('[site]\ntimezone = "Mars/Olympus"\n', ["site.timezone", "Europe/Copenhagen"]),
    "a name with a slash": ('[[house]]\nid = "house/1"\n', ["house[1].id", "letters"]),
    "a house twice": ('[[house]]\nid = "a"\n[[house]]\nid = "a"\n', ["house", "'a' stands twice"]),
    "a table, not a list": ('[house]\nid = "a"\n', ["house", "[[house]]"]),
    "value without a signal": (
        '[[source]]\ntopic = "a/{house}"\ndialect = "value"\n',
        ["source[1]", "{signal}"],
    ),
    "a wildcard in a topic": (
        '[[source]]\ntopic = "a/+/{house}"\ndialect = "flat"\n',
        ["source[1].topic", "wildcards"],
    ),
    "no dialect": ('[[source]]\ntopic = "a/{house}"\n', ["source[1].dialect", "must be given"]),
    "limits the wrong way round": (
        '[[house]]\nid = "a"\n[house.signals.co2]\nlow = 9\nhigh = 3\n',
        ["house[1].signals.co2", "low = 9", "high = 3"],
    ),
    "an address that nobody serves": ('[sync]\nurl = "ftp://a/b"\n', ["sync.url", "s3://bucket/prefix"]),
    "not text": (b"\xff\xfe[site]", ["cannot be read", "UTF-8"]),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
@pytest.mark.parametrize("verb", ["status", "check"])
def test_a_wrong_configuration_is_named_with_file_and_key(
    verb: str, case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, wanted = BAD_CONFIGS[case]
    path = tmp_path / "agent.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    assert_one_message(run(capsys, verb, "--config", path), 2, str(path), *wanted)


@pytest.mark.parametrize("verb", ["agent", "sync"])
def test_a_service_does_not_start_with_a_wrong_configuration(verb: str, tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text("[mqtt]\nport = 0\n")
    assert_one_message(real(verb, "--config", path), 2, str(path), "mqtt.port")


def test_every_mistake_of_a_configuration_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "agent.toml"
    path.write_text("[mqtt]\nport = 0\n[store]\nkeep_hours = 0\n")
    told = run(capsys, "status", "--config", path)
    assert told.code == 2
    assert [f"{path}: " in line for line in told.err.splitlines()] == [True, True]
    assert "mqtt.port" in told.err
    assert "store.keep_hours" in told.err


def test_a_configuration_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = run(capsys, "status", "--config", tmp_path / "agent.toml")
    assert_one_message(told, 2, str(tmp_path / "agent.toml"), "no such file", "--config")


# --- wrong words ------------------------------------------------------------------------------------------------------

SIMULATE = ("simulate", "--houses", "2", "--days", "2", "--seed", "1")
REPLAY = ("replay", "--readings", "r.csv", "--flocks", "f.csv")

WRONG_WORDS = {
    "no verb": ((), ["VERB"]),
    "an unknown verb": (("agnet",), ["agnet", "agent", "replay", "sync"]),
    "an unknown flag": (("status", "--jsn"), ["--jsn"]),
    "a flag is missing": (REPLAY, ["--out"]),
    "no clock": (("agent", "--simulated-clock", "now"), ["--simulated-clock", "'now'", "START,REAL_EPOCH,SPEED"]),
    "a clock without a zone": (("agent", "--simulated-clock", "2026-01-01,0,1"), ["needs a zone"]),
    "a clock that stands": (("sync", "--simulated-clock", "2026-01-01T00:00:00Z,0,0"), ["SPEED must be above 0"]),
    "no houses": (("simulate", "--houses", "0", "--days", "2", "--seed", "1", "--out", "x"), ["--houses", "'0'"]),
    "nowhere to simulate to": (SIMULATE, ["--out", "--mqtt"]),
    "no address": ((*SIMULATE, "--mqtt", "localhost"), ["--mqtt", "HOST:PORT"]),
    "no such fault": ((*SIMULATE, "--out", "x", "--fault", "fire@house1:1"), ["fire", "water_line_blocked"]),
    "a fault nowhere": ((*SIMULATE, "--out", "x", "--fault", "feed_outage@house9:1"), ["house9", "house1, house2"]),
    "a fault too late": ((*SIMULATE, "--out", "x", "--fault", "feed_outage@house1:5"), ["day 5", "2 days"]),
    "half a fault": ((*SIMULATE, "--out", "x", "--fault", "feed_outage"), ["NAME@HOUSE:DAY[+HOURS]"]),
    "a clock for files": ((*SIMULATE, "--out", "x", "--speed", "9"), ["--speed", "--mqtt"]),
    "a demo that stands": (("demo", "--speed", "0"), ["--speed 0", "above 0"]),
    "a demo without end": (("demo", "--for", "soon"), ["--for", "'soon'"]),
    "no action": (("flock",), ["ACTION"]),
    "an unknown action": (("flock", "sell", "house1"), ["sell", "place"]),
    "no house": (("flock", "place"), ["house"]),
    "no date": (("flock", "place", "house1", "--placed-on", "yesterday"), ["--placed-on", "2026-11-22"]),
    "no such sex": (("flock", "place", "house1", "--sex", "both"), ["--sex", "mixed"]),
    "a fraction of a bird": (("flock", "thin", "house1", "--birds", "1.5"), ["--birds", "1.5"]),
    "no bird": (("flock", "thin", "house1", "--birds", "0"), ["birds", "1"]),
    "no weight": (("flock", "end", "house1", "--slaughter-weight-g", "-5"), ["slaughter_weight_g", "0"]),
    "a flock with spaces": (("flock", "place", "house1", "--flock", "A 1"), ["flock", "A 1"]),
    "a time without zone": (("flock", "end", "house1", "--at", "2026-01-01T10:00"), ["--at", "has no zone"]),
    "an unknown state": (("flock", "state", "house1", "asleep"), ["asleep", "catching"]),
    "the dead without number": (("flock", "record", "house1"), ["--dead"]),
    "a service without end": (("flock", "service", "house1", "ammonia"), ["--for-s"]),
    "a service of weeks": (("flock", "service", "house1", "ammonia", "--for-s", "9999999"), ["for_s", "604800"]),
    "a house with spaces": (("flock", "state", "house 1", "active"), ["house 1"]),
}


@pytest.mark.parametrize("case", WRONG_WORDS)
def test_wrong_words_are_named_and_cost_exit_code_2(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, wanted = WRONG_WORDS[case]
    is_service = words[:1] in {("agent",), ("sync",)}  # they set up logging and signals for a process of their own
    assert_one_message(real(*words) if is_service else run(capsys, *words), 2, *wanted)


def test_a_demo_does_not_touch_a_folder_that_holds_something(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "diary.txt").write_text("dear diary")
    told = run(capsys, "demo", "--for", "1", "--data", tmp_path)
    assert_one_message(told, 2, f"--data {tmp_path}", "is not empty", "new folder")
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


# --- wrong replay files -----------------------------------------------------------------------------------------------

BAD_REPLAYS: dict[str, tuple[dict[str, str | bytes], list[str]]] = {
    "empty readings": ({"readings": ""}, ["readings.csv", "first line", "at,house,signal,value"]),
    "another header": ({"readings": "time,house,signal,value\n"}, ["readings.csv", "first line", "time,house"]),
    "a missing column": ({"readings": READINGS + ROW + "2026-01-01T00:02:00Z,house1,12\n"}, ["readings.csv", "line 3"]),
    "a column too many": ({"readings": READINGS + ROW.replace("12", "1,2")}, ["readings.csv", "line 2"]),
    "no time": (
        {"readings": READINGS + ROW.replace("2026-01-01T00:01:00Z", "noon")},
        ["readings.csv", "line 2", "noon"],
    ),
    "no day": (
        {"readings": READINGS + ROW.replace("2026-01-01T", "2026-02-30T")},
        ["readings.csv", "line 2", "2026-02-30"],
    ),
    "a time before 1970": ({"readings": READINGS + ROW.replace("2026-01-01T00:01:00Z", "-5")}, ["line 2", "-5"]),
    "no number": ({"readings": READINGS + ROW + ROW.replace("12", "much")}, ["readings.csv", "line 3", "much"]),
    "a decimal comma": ({"readings": READINGS + ROW.replace("12", '"1,5"')}, ["readings.csv", "line 2", "1,5"]),
    "infinity": ({"readings": READINGS + ROW.replace("12", "inf")}, ["readings.csv", "line 2", "inf"]),
    "a house with a slash": (
        {"readings": READINGS + ROW.replace("house1", "../etc")},
        ["readings.csv", "line 2", "../etc"],
    ),
    "no house": ({"readings": READINGS + ROW.replace("house1", "")}, ["readings.csv", "line 2", "house"]),
    "a signal with spaces": ({"readings": READINGS + ROW.replace("water", "wa ter")}, ["line 2", "wa ter"]),
    "semicolons": ({"readings": (READINGS + ROW).replace(",", ";")}, ["readings.csv", "first line"]),
    "no text": ({"readings": b"at,house,signal,value\n\xff\xfe\x00\n"}, ["readings.csv", "line"]),
    "another alphabet": ({"readings": (READINGS + ROW).encode("utf-16")}, ["readings.csv"]),
    "another flock header": ({"flocks": "house,flock\n"}, ["flocks.csv", "first line", "placed_on"]),
    "a flock without date": ({"flocks": FLOCKS + FLOCK_ROW.replace("2026-01-01", "")}, ["flocks.csv", "line 2"]),
    "a flock without name": ({"flocks": FLOCKS + FLOCK_ROW.replace("A1", "")}, ["flocks.csv", "line 2", "flock"]),
    "no birds": ({"flocks": FLOCKS + FLOCK_ROW.replace("20000", "0")}, ["flocks.csv", "line 2", "birds_placed"]),
    "birds in words": ({"flocks": FLOCKS + FLOCK_ROW.replace("20000", "many")}, ["flocks.csv", "line 2", "many"]),
    "too young parents": (
        {"flocks": FLOCKS + FLOCK_ROW.replace(",35,", ",3,")},
        ["flocks.csv", "line 2", "parent_age_weeks"],
    ),
    "too many birds": (
        {"flocks": FLOCKS + FLOCK_ROW.replace("20000", "20000000")},
        ["flocks.csv", "line 2", "birds_placed"],
    ),
    "an end before the start": (
        {"flocks": FLOCKS + FLOCK_ROW.replace("2026-02-10", "2025-12-10")},
        ["flocks.csv", "line 2", "ended_on", "placed_on"],
    ),
    "two flocks at once": (
        {"flocks": FLOCKS + FLOCK_ROW + FLOCK_ROW.replace("A1,2026-01-01", "A2,2026-02-01")},
        ["flocks.csv", "A2", "A1", "house1"],
    ),
    "a flock line too short": ({"flocks": FLOCKS + "house1,A1\n"}, ["flocks.csv", "line 2", "columns"]),
    "another event header": ({"events": "at,house\n"}, ["events.csv", "first line"]),
    "no JSON": ({"events": EVENTS + '2026-01-02T00:00:00Z,house1,"{action: state}"\n'}, ["events.csv", "line 2"]),
    "an unknown command": (
        {"events": EVENTS + '2026-01-02T00:00:00Z,house1,"{""action"":""sell""}"\n'},
        ["events.csv", "line 2", "sell"],
    ),
    "a command without its figures": (
        {"events": EVENTS + '2026-01-02T00:00:00Z,house1,"{""action"":""thin""}"\n'},
        ["events.csv", "line 2", "birds"],
    ),
    "an event of no house": (
        {"events": EVENTS + '2026-01-02T00:00:00Z,house7,"{""action"":""state"",""state"":""active""}"\n'},
        ["events.csv", "house7"],
    ),
    "an event that cannot be": (
        {"events": EVENTS + '2026-01-01T00:00:30Z,house1,"{""action"":""thin"",""birds"":30000}"\n'},
        ["events.csv", "house1", "30000", "20000 were placed"],
    ),
}


@pytest.mark.parametrize("case", BAD_REPLAYS)
def test_a_wrong_replay_file_is_named_with_its_line(
    case: str, tmp_path: Path, make_bundle: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, wanted = BAD_REPLAYS[case]
    files = {"readings": READINGS + ROW, "flocks": FLOCKS + FLOCK_ROW, "events": EVENTS, **wrong}
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    told = run(capsys, *replay_words(tmp_path, make_bundle()))
    assert_one_message(told, 1, *wanted)


def replay_words(folder: Path, bundle: Path) -> list[str | Path]:
    """Return the words that replay the files in ``folder`` with one bundle."""
    config = folder / "replay.toml"
    config.write_text('[models]\nuse = ["weight"]\n')
    flags = [word for name in ("readings", "flocks", "events") for word in (f"--{name}", folder / f"{name}.csv")]
    return ["replay", *flags, "--out", folder / "out", "--config", config, "--bundles", bundle.parents[1]]


@pytest.mark.parametrize("name", ["readings", "flocks", "events"])
def test_a_replay_file_that_is_not_there_is_named(
    name: str, tmp_path: Path, make_bundle: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for other, text in {"readings": READINGS, "flocks": FLOCKS, "events": EVENTS}.items():
        if other != name:
            (tmp_path / f"{other}.csv").write_text(text)
    told = run(capsys, *replay_words(tmp_path, make_bundle()))
    assert_one_message(told, 1, str(tmp_path / f"{name}.csv"), "No such file")


def test_a_replay_into_a_file_is_refused(
    tmp_path: Path, make_bundle: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in {"readings": READINGS, "flocks": FLOCKS, "events": EVENTS}.items():
        (tmp_path / f"{name}.csv").write_text(text)
    (tmp_path / "out").write_text("not a folder")
    told = run(capsys, *replay_words(tmp_path, make_bundle()))
    assert_one_message(told, 1, f"--out {tmp_path / 'out'}")


# --- wrong bundles ----------------------------------------------------------------------------------------------------


def _without(name: str) -> Callable[[Path], object]:
    return lambda bundle: (bundle / name).unlink()


def _with_manifest(old: str, new: str) -> Callable[[Path], object]:
    def change(bundle: Path) -> None:
        text = (bundle / "manifest.toml").read_text()
        assert old in text
        (bundle / "manifest.toml").write_text(text.replace(old, new))

    return change


def _altered(bundle: Path) -> None:
    path = bundle / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")


def _no_model(bundle: Path) -> None:
    import hashlib  # noqa: PLC0415

    content = b"\x08\x08 this is no model"
    (bundle / "model.onnx").write_bytes(content)
    text = (bundle / "manifest.toml").read_text()
    known = text.partition('sha256 = "')[2][:64]
    (bundle / "manifest.toml").write_text(text.replace(known, hashlib.sha256(content).hexdigest()))


def _other_answers(bundle: Path) -> None:
    with np.load(bundle / "selftest.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["out.weight"] = arrays["out.weight"] + 1
    np.savez(bundle / "selftest.npz", **arrays)


BAD_BUNDLES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no manifest": (_without("manifest.toml"), ["manifest.toml", "is missing"]),
    "no model": (_without("model.onnx"), ["model.onnx", "is missing"]),
    "no self-test": (_without("selftest.npz"), ["selftest.npz", "is missing"]),
    "a manifest that is no TOML": (_with_manifest("[[output]]", "[[output"), ["manifest.toml", "no valid TOML"]),
    "a key that is not there": (
        _with_manifest("licence", "taste = 1\nlicence"),
        ["manifest.toml", "taste", "no such key"],
    ),
    "a shape that does not fit": (_with_manifest('["houses", 3, 1]', '["houses", 4, 1]'), ["manifest.toml", "shape"]),
    "another opset": (_with_manifest("opset = 17", "opset = 16"), ["model.onnx", "opset 17", "16"]),
    "another tensor": (_with_manifest('name = "course"', 'name = "cours"'), ["cours"]),
    "an altered model": (_altered, ["model.onnx", "sha256", "copy the bundle again"]),
    "a model that is none": (_no_model, ["model.onnx", "no ONNX model"]),
    "a self-test with other answers": (_other_answers, ["self-test", "weight"]),
    "a self-test that is none": (
        lambda bundle: (bundle / "selftest.npz").write_bytes(b"junk"),
        ["selftest.npz", "numpy.savez"],
    ),
    "a newer agent wanted": (
        _with_manifest('licence = "Apache-2.0"', 'licence = "Apache-2.0"\nmin_agent_version = "99.0.0"'),
        ["99.0.0", "update the agent"],
    ),
}


@pytest.mark.parametrize("case", BAD_BUNDLES)
def test_a_wrong_bundle_is_named_with_its_file(
    case: str, make_bundle: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle()
    spoil, wanted = BAD_BUNDLES[case]
    spoil(bundle)
    assert_one_message(run(capsys, "model", "check", bundle), 1, *wanted)


@pytest.mark.parametrize("case", ["no self-test", "an altered model", "a self-test with other answers"])
def test_a_replay_with_a_wrong_bundle_says_so_in_one_message(
    case: str, tmp_path: Path, make_bundle: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in {"readings": READINGS + ROW, "flocks": FLOCKS, "events": EVENTS}.items():
        (tmp_path / f"{name}.csv").write_text(text)
    bundle = make_bundle()
    spoil, wanted = BAD_BUNDLES[case]
    spoil(bundle)
    assert_one_message(run(capsys, *replay_words(tmp_path, bundle)), 1, *wanted)


def test_a_good_bundle_is_called_fine(make_bundle: Callable[[], Path], capsys: pytest.CaptureFixture[str]) -> None:
    told = run(capsys, "model", "check", make_bundle())
    assert (told.code, told.err) == (0, "")
    said = r"weight/1\.0\.0: fine; hash, shapes and self-test are right; [\d.]+ ms for 20 houses, [\d.]+ MB\n"
    assert re.fullmatch(said, told.out)


def test_a_bundle_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(f'[models]\ndirectory = "{tmp_path}"\nuse = ["taste"]\n')
    told = run(capsys, "model", "list", "--config", config)
    assert (told.code, told.err) == (1, "")
    assert re.match(r"taste\t-\t-\t-\trefused\t.*there is no bundle 'taste' .*correct \[models\] use", told.out)


# --- nobody there -----------------------------------------------------------------------------------------------------


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port: int = probe.getsockname()[1]
        return port


def test_without_a_database_there_is_nothing_to_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(f'[data]\ndirectory = "{tmp_path / "data"}"\n')
    for words in (("status",), ("flock", "list"), ("warning", "list")):
        told = run(capsys, *words, "--config", config)
        assert_one_message(told, 1, str(tmp_path / "data" / "house.db"), "flockwatch agent")
    told = real("sync", "--once", "--config", config)
    assert_one_message(told, 1, str(tmp_path / "data" / "house.db"), "flockwatch agent")
    assert not (tmp_path / "data" / "house.db").exists()


def test_without_a_broker_nothing_is_done(make_gateway: Callable[..., Gateway]) -> None:
    gateway = make_gateway(free_port())
    told = real("flock", "place", "house1", "--birds", "20000", "--config", gateway.config)
    assert_one_message(told, 1, "no broker, nothing done", "127.0.0.1", "refused")
    told = real("simulate", *SIMULATE[1:], "--mqtt", f"127.0.0.1:{free_port()}")
    assert_one_message(told, 1, "no MQTT broker answers at 127.0.0.1", "--mqtt HOST:PORT")
    told = real("check", "--config", gateway.config)
    assert told.code == 1
    assert "bad  broker: " in told.out
    assert told.err == ""


def test_without_an_agent_a_command_is_queued_and_done_later(
    broker: Broker, make_gateway: Callable[..., Gateway], until: Callable[..., None]
) -> None:
    gateway = make_gateway(broker.port)
    assert gateway.agent().stop() == 0
    told = real("flock", "place", "house1", "--flock", "A1", "--birds", "20000", "--config", gateway.config)
    assert_one_message(told, 1, "queued, the agent is not running")
    asked = real("warning", "acknowledge", "house1", "deviation-water", "--config", gateway.config)
    assert_one_message(asked, 1, "queued, the agent is not running")
    gateway.agent()
    until(lambda: gateway.count("flocks"), "the queued command is done")
    assert [(row["action"], row["flock"]) for row in gateway.rows("flocks")] == [("place", "A1")]


def test_an_agent_that_cannot_have_its_data_says_why(
    broker: Broker, tmp_path: Path, make_gateway: Callable[..., Gateway]
) -> None:
    gateway = make_gateway(broker.port)
    gateway.agent()
    assert_one_message(real("agent", "--config", gateway.config), 1, "house.db", "another agent has it open")
    blocked = make_gateway(broker.port)
    blocked.data.write_text("a file, not a folder")
    assert_one_message(real("agent", "--config", blocked.config), 1, str(blocked.data), "[data] directory")
    foreign = make_gateway(broker.port)
    foreign.data.mkdir()
    with closing(sqlite3.connect(foreign.data / "house.db")) as db:
        db.execute("CREATE TABLE recipes (name TEXT)")
    assert_one_message(real("agent", "--config", foreign.config), 1, str(foreign.data / "house.db"), "move it away")


def test_a_wrong_password_file_is_named(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(
        f'[data]\ndirectory = "{tmp_path}"\n[mqtt]\nusername = "x"\npassword_file = "{tmp_path / "none"}"\n'
    )
    assert_one_message(real("agent", "--config", config), 2, "[mqtt] password_file", str(tmp_path / "none"))


def test_a_cloud_that_is_told_wrongly_is_named(broker: Broker, make_gateway: Callable[..., Gateway]) -> None:
    gateway = make_gateway(broker.port, settings='[sync]\nurl = "s3://lake"\n[sync.options]\nregoin = "eu-north-1"\n')
    assert gateway.agent().stop() == 0
    assert_one_message(real("sync", "--once", "--config", gateway.config), 2, "[sync.options]", "regoin", "region")


def test_a_bad_bundle_never_keeps_the_house_from_being_watched(
    broker: Broker,
    make_gateway: Callable[..., Gateway],
    make_bundle: Callable[[], Path],
    mqtt: Callable[..., Mqtt],
    until: Callable[..., None],
) -> None:
    """The agent runs without it, stores what comes, and health, `status` and `check` say what is wrong."""
    bundle = make_bundle()
    _altered(bundle)
    gateway = make_gateway(broker.port, models=f'directory = "{bundle.parents[1]}"\nuse = ["weight"]')
    health = mqtt("flockwatch/farm1/health")
    agent = gateway.agent()
    degraded = health.hear_json("flockwatch/farm1/health", is_wanted=lambda value: "degraded" in value)["degraded"]
    assert "sha256" in degraded["model weight"]
    mqtt().say("skov/farm1/house1/water", 12)
    until(lambda: gateway.count("readings") == 1, "the reading is stored")
    assert "sha256" in gateway.run("status").stdout
    check = gateway.run("check")
    assert check.returncode == 1
    assert [line for line in check.stdout.splitlines() if line.startswith("bad  models: ") and "sha256" in line]
    assert agent.stop() == 0
    assert "Traceback" not in agent.said()


# --- where all is well ------------------------------------------------------------------------------------------------

ALERT = "flockwatch/farm1/house2/warning/stuck-temperature"


@pytest.fixture
def farm(
    broker: Broker, make_gateway: Callable[..., Gateway], make_bundle: Callable[[], Path], mqtt: Callable[..., Mqtt]
) -> Gateway:
    """Give a running farm: two simulated houses, one of them with a stuck sensor, and one that people tell about."""
    gateway = make_gateway(
        broker.port,
        houses=("house3", "house1", "house2"),
        models=f'directory = "{make_bundle().parents[1]}"\nuse = ["weight"]',
        settings=f'[house.signals.temperature]\nstuck_after_s = 3600\n[sync]\nurl = "file://{broker.directory}/cloud"\n',
    )
    ear = mqtt(ALERT)
    clock = SimulatedClock(datetime(2026, 3, 1, 8, tzinfo=UTC), time.time() + 4, 1_800.0)  # half an hour a second
    gateway.agent("--simulated-clock", str(clock))
    words = ["--houses", "2", "--days", "2", "--seed", "3", "--past", "2", "--stagger", "--interval", "300"]
    words += ["--mqtt", f"127.0.0.1:{broker.port}"]
    fault = ("--fault", "sensor_stuck-temperature@house2:0+30")
    gateway.launch(
        [sys.executable, "-m", "agent.cli", "simulate", *words, *fault, "--simulated-clock", str(clock)], "simulate"
    )
    ear.hear_json(ALERT, is_wanted=lambda alert: alert["state"] == "active")
    return gateway


def test_the_verbs_of_a_running_farm(farm: Gateway) -> None:
    """`check`, `status`, `warning list`, `model list`, and a flock from placement to its end; --json parses."""

    def fine(*words: str) -> str:
        done = farm.run(*words)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    findings = json.loads(fine("check", "--json"))
    wanted = {"config", "houses", "data", "models", "broker", "cloud", "post", "rule"}
    assert {finding["what"] for finding in findings} == wanted
    assert {finding["level"] for finding in findings} == {"ok"}
    assert [line[:2] for line in fine("check").splitlines()] == ["ok"] * len(findings)

    status = json.loads(fine("status", "--json"))
    assert status["health"]["state"] == "online"
    assert set(status["health"]["degraded"]) == {"clock"}  # it is simulated, and that is said
    assert status["counts"]["readings"] > 1000
    assert {warning["rule"] for warning in status["warnings"]} >= {"stuck-temperature"}
    assert {prediction["house"] for prediction in status["predictions"]} == {"house1", "house2"}
    text = fine("status")
    assert "broker   connected" in text
    assert "stuck-temperature" in text

    stuck = next(warning for warning in status["warnings"] if warning["rule"] == "stuck-temperature")
    place = (stuck["house"], "stuck-temperature")
    assert stuck["text"] in fine("warning", "show", *place)
    assert fine("warning", "confirm", *place, "--by", "Anna") == f"{': '.join(place)}: confirm done: {stuck['id']}\n"
    assert json.loads(fine("warning", "stats", "--json"))["rules"]["stuck-temperature"]["confirmed"] == 1

    [warning] = [w for w in json.loads(fine("warning", "list", "--json")) if w["rule"] == "stuck-temperature"]
    assert (warning["house"], warning["state"], warning["signal"]) == ("house2", "active", "temperature")
    assert warning["text"] in fine("warning", "list")
    assert {w["rule"] for w in json.loads(fine("warning", "list", "--all", "--json"))} >= {"stuck-temperature"}
    assert fine("model", "list").startswith("weight/1.0.0\tweight\tApache-2.0\t")

    # a flock in the house that nobody simulates
    assert "place done; the house is active, flock B7" in fine(
        "flock", "place", "house3", "--flock", "B7", "--birds", "21000", "--strain", "ross308", "--by", "Anna"
    )
    assert "record done" in fine("flock", "record", "house3", "--dead", "12", "--culled", "2")
    assert "thin done; the house is thinned" in fine("flock", "thin", "house3", "--birds", "900")
    assert "the house is catching" in fine("flock", "state", "house3", "catching")
    refused = farm.run("flock", "thin", "house3", "--birds", "90000")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "house3: 90000 birds cannot be thinned: 21000 were placed" in refused.stderr
    assert "end done; the house is empty" in fine("flock", "end", "house3", "--slaughter-weight-g", "2450")
    unknown = farm.run("flock", "end", "house9")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "'house9' is not in the configuration" in unknown.stderr
    [ended] = [flock for flock in json.loads(fine("flock", "list", "--json")) if flock["house"] == "house3"]
    assert (ended["flock"], ended["state"], ended["slaughter_weight_g"]) == ("B7", "ended", 2450)
    assert (ended["birds_placed"], ended["thinned_birds"]) == (21_000, 900)
    assert len(fine("flock", "list").splitlines()) == 3


def test_a_simulated_farm_replays(tmp_path: Path, make_bundle: Callable[[], Path]) -> None:
    told = real(*SIMULATE, "--out", tmp_path, "--interval", "600", "--stagger")
    assert (told.code, told.err) == (0, "")
    told = real(*replay_words(tmp_path, make_bundle()))
    assert (told.code, told.err) == (0, "")
    assert "warnings" in told.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"warnings.csv", "predictions.csv", "quality.csv"}
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) > 1


def test_help_is_there_for_every_verb() -> None:
    told = real("--help")
    assert told.code == 0
    for verb in ("agent", "sync", "check", "status", "replay", "simulate", "demo", "flock", "warning", "model"):
        assert f"  {verb} " in told.out
    assert real("--version").out.startswith("flockwatch 0.")


def test_a_reader_that_goes_away_is_no_error() -> None:
    """As in `flockwatch --help | head -1`."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "agent.cli", "--help"]
    done = subprocess.run(command, check=False, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
