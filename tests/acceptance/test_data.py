"""The farm's data as its owner meets it: taken home and replayed, saved, and given to a new gateway."""

from __future__ import annotations

import csv
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from agent.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Broker, Gateway, Mqtt


def lines(path: Path) -> int:
    with path.open(encoding="utf-8", newline="") as file:
        return sum(1 for _ in csv.reader(file)) - 1


def test_a_farm_is_taken_home_and_replayed_and_goes_on_on_a_new_gateway(
    make_broker: Callable[[str], Broker],
    make_gateway: Callable[..., Gateway],
    mqtt: Callable[..., Mqtt],
    broker: Broker,
    until: Callable[..., None],
    make_bundle: Callable[[], Path],
    tmp_path: Path,
) -> None:
    """Everything beside the running agent; then its card is dead, and another one begins with the backup."""
    old = make_gateway(broker.port)
    agent = old.agent()
    with mqtt() as house:
        now = datetime.now(UTC).isoformat()
        for n in range(50):
            house.say("skov/farm1/house1/water", {"value": n, "at": f"2026-11-20T10:{n:02d}:00Z"})
        place = {
            "id": "p",
            "action": "place",
            "flock": "A1",
            "placed_on": "2026-11-18",
            "birds_placed": 20_000,
            "strain": "ross308",
        }
        house.say("flockwatch/farm1/house1/flock/command", place)
        house.say("flockwatch/farm1/house1/flock/command", {"id": "t", "action": "thin", "birds": 500, "at": now})
        until(lambda: old.count("readings") == 50 and old.count("flocks") == 2, "all is stored")
    old.sync()

    for words in (("data", "tables"), ("data", "rows", "flocks"), ("data", "rows", "objects", "--json")):
        done = old.run(*words)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.strip()
    home = tmp_path / "home"
    done = old.run("data", "export", "replay", "--out", str(home))
    assert (done.returncode, done.stderr) == (0, "")
    assert [lines(home / f"{name}.csv") for name in ("readings", "flocks", "events")] == [50, 1, 1]
    files = [word for name in ("readings", "flocks", "events") for word in (f"--{name}", str(home / f"{name}.csv"))]
    config = tmp_path / "replay.toml"
    config.write_text('[models]\nuse = ["weight"]\n')
    bundles = str(make_bundle().parents[1])
    flags = ["--out", str(tmp_path / "out"), "--config", str(config), "--bundles", bundles]
    assert main(["replay", *files, *flags]) == 0
    assert lines(tmp_path / "out" / "predictions.csv") > 0

    saved = tmp_path / "farm.tar.gz"
    assert old.run("data", "backup", str(saved)).returncode == 0
    refused = old.run("data", "restore", str(saved), "--force")
    assert refused.returncode == 1
    assert "systemctl stop flockwatch-agent" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert "systemctl stop flockwatch-agent" in old.run("data", "vacuum").stderr
    agent.kill()

    other = make_broker("")
    new = make_gateway(other.port)
    assert new.run("data", "restore", str(saved)).returncode == 0
    before = new.count("flocks")
    new.agent()
    until(lambda: new.health().get("state") == "online", "the new gateway's agent is at work")
    assert new.health()["houses"]["house1"]["flock"] == "A1"
    assert new.health()["gateway"] != old.health()["gateway"]
    assert new.count("flocks") == before
    kinds = [event["kind"] for event in new.rows("events") if event["kind"] != "clock"]
    assert kinds[kinds.index("restored") + 1] == "start"
    new.sync()
    assert new.lake("SELECT count(DISTINCT house) FROM {flocks}") == [(1,)]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("data",), "ACTION"),
        (("data", "rows", "readings", "--since", "yesterday"), "--since"),
        (("data", "rows", "readings", "--limit", "0"), "--limit"),
        (("data", "rows", "secrets"), "there is no"),
        (("data", "export", "secrets", "--out", "x.csv"), "secrets"),
        (("data", "export", "readings", "--out", "x.txt"), "--format"),
        (("data", "export", "replay", "--out", "x", "--signal", "water"), "--signal"),
        (
            ("data", "export", "readings", "--out", "x.csv", "--since", "2026-01-02Z", "--until", "2026-01-01Z"),
            "--since",
        ),
        (("data", "backup", "farm.zip"), ".tar.gz"),
        (("data", "recover", "--from", "nowhere.db"), "nowhere.db"),
    ],
)
def test_wrong_words_are_one_message_and_exit_code_2(
    words: tuple[str, ...], wanted: str, make_gateway: Callable[..., Gateway], capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = make_gateway(1)
    gateway.data.mkdir()
    try:
        code = main([*words, "--config", str(gateway.config)] if len(words) > 1 else [*words])
    except SystemExit as e:
        code = int(e.code or 0)
    said = capsys.readouterr().err
    assert code == (1 if wanted == "there is no" else 2), said
    assert wanted in said
    assert "Traceback" not in said


def test_the_agent_and_the_help_load_none_of_the_data_tools() -> None:
    code = (
        "import sys; from agent.cli import build_parser; build_parser('agent'); import agent.daemon;"
        "print([m for m in ('sqlite_utils', 'arro3', 'tarfile', 'agent.export', 'agent.backup', 'agent.history',"
        " 'agent.store.tables', 'agent.store.care', 'agent.store.recover') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
