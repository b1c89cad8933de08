"""Replay: the same judgement as live, in any order of lines, without a look ahead, from seconds to one value a day."""

from __future__ import annotations

import csv
import random
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from agent.bundles import load_bundles, shipped_directory
from agent.bus import Bus
from agent.cli import main
from agent.config import parse_config
from agent.daemon import Agent
from agent.dialects import Decoder
from agent.domain import Message, from_ms, to_ms
from agent.predict import Predictor
from agent.store import Store, StoreReader
from agent.strains import ROSS_308

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

READINGS = ("at", "house", "signal", "value")
FLOCKS = (
    "house", "flock", "placed_on", "birds_placed", "strain", "sex", "parent_age_weeks", "ended_on",
    "slaughter_weight_g",
)  # fmt: skip
EVENTS = ("at", "house", "command")
WARNINGS_OUT = (
    "house", "flock", "rule", "about", "signal", "severity", "state", "raised_at", "cleared_at", "day_number", "actual",
    "expected", "deviation_pct", "confidence", "cause", "text",
)  # fmt: skip
PREDICTIONS_OUT = (
    "house", "flock", "made_at", "day_number", "target", "target_at", "p10", "p50", "p90", "model", "model_version",
)  # fmt: skip
QUALITY_OUT = ("house", "signal", "from", "to", "quality", "reason")
START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 4

Row = dict[str, str]


class Files(NamedTuple):
    """A recording."""

    readings: list[Row]
    flocks: list[Row]
    events: list[Row]


class Result(NamedTuple):
    """What a replay wrote."""

    warnings: list[Row]
    predictions: list[Row]
    quality: list[Row]


def read(path: Path, header: Sequence[str]) -> list[Row]:
    """Return the rows of a file whose columns are the promised ones."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames or ()) == tuple(header)
        return list(reader)


def write(path: Path, header: Sequence[str], rows: Iterable[Row]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        writer.writerows(rows)
    return path


def replay(folder: Path, files: Files, *, name: str = "out", words: Sequence[str] = ()) -> Result:
    """Replay ``files`` with the shipped bundles, and return what came out."""
    given = [
        "--readings", str(write(folder / "readings.csv", READINGS, files.readings)),
        "--flocks", str(write(folder / "flocks.csv", FLOCKS, files.flocks)),
        "--events", str(write(folder / "events.csv", EVENTS, files.events)),
    ]  # fmt: skip
    out = folder / name
    assert main(["replay", *given, "--out", str(out), *words]) == 0
    return Result(
        read(out / "warnings.csv", WARNINGS_OUT),
        read(out / "predictions.csv", PREDICTIONS_OUT),
        read(out / "quality.csv", QUALITY_OUT),
    )


def flock(house: str, placed_on: date, ended_on: date | None, **changes: str) -> Row:
    facts = {
        "house": house, "flock": f"{house}-A", "placed_on": placed_on.isoformat(), "birds_placed": "20000",
        "strain": "ross308", "sex": "mixed", "parent_age_weeks": "35", "slaughter_weight_g": "",
        "ended_on": "" if ended_on is None else ended_on.isoformat(),
    }  # fmt: skip
    return facts | changes


def iso(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Give four days of two houses every ten minutes: a blocked water line, a stuck sensor, gaps."""
    folder = tmp_path_factory.mktemp("farm")
    faults = ("water_line_blocked@house2:3.4+6", "sensor_stuck@house1:0.3+30", "sensor_dropout-humidity@house2:1.2+5")
    words = ["simulate", "--houses", "2", "--days", str(DAYS), "--seed", "11", "--stagger", "--interval", "600"]
    words += [word for fault in faults for word in ("--fault", fault)]
    assert main([*words, "--out", str(folder)]) == 0
    return Files(
        read(folder / "readings.csv", READINGS),
        read(folder / "flocks.csv", FLOCKS),
        read(folder / "events.csv", EVENTS),
    )


@pytest.fixture(scope="module")
def played(farm: Files, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Give what the replay of the farm says."""
    return replay(tmp_path_factory.mktemp("played"), farm)


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_the_faults_of_a_farm_are_found_and_their_end_too(played: Result) -> None:
    found = {(row["house"], row["rule"].partition("-")[0], row["signal"]) for row in played.warnings}
    assert ("house2", "deviation", "water") in found
    assert {house for house, kind, _ in found if kind == "stuck"} == {"house1"}
    began = START + timedelta(days=3.4)
    [water] = [
        row
        for row in played.warnings
        if (row["house"], row["rule"]) == ("house2", "deviation-water")
        and began < datetime.fromisoformat(row["raised_at"]) < began + timedelta(hours=3)
    ]
    assert began + timedelta(hours=6) < datetime.fromisoformat(water["cleared_at"]) < began + timedelta(hours=9)
    assert (water["state"], water["about"], water["flock"]) == ("normal", "birds", played.predictions[-1]["flock"])
    assert float(water["actual"]) < float(water["expected"])
    assert float(water["deviation_pct"]) < 0
    assert water["cause"] == "water_line_blocked"
    assert water["confidence"] == ""  # no model of the causes was asked


def test_the_model_of_the_causes_gives_them_probabilities(farm: Files, tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text('[models]\nuse = ["cause", "expect", "mortality", "weight"]\n', encoding="utf-8")
    found = replay(tmp_path, farm, words=["--config", str(config)]).warnings
    water = next(row for row in found if (row["house"], row["rule"]) == ("house2", "deviation-water"))
    assert 0.5 < float(water["confidence"]) <= 1
    assert " %)" in water["text"].partition("usual for this flock now")[2]  # the cause's probability
    [stuck] = {(row["cause"], row["confidence"]) for row in found if row["rule"] == "stuck-temperature"}
    assert stuck == ("sensor_stuck", "")  # a sensor's own state has no doubt


def test_every_flock_gets_its_weights_once_a_day_at_least(farm: Files, played: Result) -> None:
    """For the slaughter day, and for one, two, five and seven days on."""
    for told in farm.flocks:
        mine = [row for row in played.predictions if row["house"] == told["house"] and row["target"] == "weight_g"]
        made: dict[str, set[str]] = {}
        for row in mine:
            made.setdefault(row["made_at"][:10], set()).add(row["target_at"])
        days = {str((START + timedelta(days=n)).date()) for n in range(1, DAYS)}
        assert days <= made.keys()
        for day in days:
            ahead = {str(date.fromisoformat(day) + timedelta(days=n)) for n in (1, 2, 5, 7)}
            assert {*ahead, told["ended_on"]} <= made[day]
        assert all(float(row["p10"]) <= float(row["p50"]) <= float(row["p90"]) for row in mine)


def test_rows_of_quality_are_intervals(played: Result) -> None:
    assert {"stuck", "stale"} <= {row["quality"] for row in played.quality}
    assert all(row["from"] < row["to"] for row in played.quality)
    assert all(row["reason"] for row in played.quality)


# --- the order of lines, duplicates, the end --------------------------------------------------------------------------


def test_lines_in_any_order_and_lines_that_come_twice_change_nothing(
    farm: Files, played: Result, tmp_path: Path
) -> None:
    """The identity of a reading is house, signal and time; of two values the first one counts, as it does live."""
    chance = random.Random(5)
    shuffled = Files(*(chance.sample(rows, len(rows)) for rows in farm))
    others = [row | {"value": str(float(row["value"]) + 1)} for row in farm.readings[::3]]
    again = replay(tmp_path, shuffled._replace(readings=[*shuffled.readings, *farm.readings[::2], *others]))
    assert again.warnings == played.warnings
    assert again.predictions == played.predictions
    assert sorted(map(sorted_row, again.quality)) == sorted(map(sorted_row, played.quality))


def sorted_row(row: Row) -> list[tuple[str, str]]:
    return sorted(row.items())


@pytest.mark.parametrize("hours", [79.5, 83.28])
def test_nothing_looks_ahead(hours: float, farm: Files, played: Result, tmp_path: Path) -> None:
    """A recording that was cut says the same up to the cut: warnings, predictions, quality."""
    cut = START + timedelta(hours=hours)

    def until_cut(rows: list[Row], column: str) -> list[Row]:
        return [row for row in rows if datetime.fromisoformat(row[column]) <= cut]

    untold = [row | {"slaughter_weight_g": ""} for row in farm.flocks]  # that truth is known from the end on only
    short = replay(tmp_path, Files(until_cut(farm.readings, "at"), untold, until_cut(farm.events, "at")))

    def as_raised(rows: list[Row]) -> list[Row]:
        # what became of it later is not known at the cut
        return [{**row, "state": "", "cleared_at": ""} for row in until_cut(rows, "raised_at")]

    assert as_raised(short.warnings) == as_raised(played.warnings)
    assert until_cut(short.predictions, "made_at") == until_cut(played.predictions, "made_at")
    assert played.warnings
    ended = {tuple(row.values()) for row in until_cut(played.quality, "to")}
    assert ended <= {tuple(row.values()) for row in short.quality}


# --- daily data, no data, no flocks -----------------------------------------------------------------------------------


def daily(house: str, first: date, days: int, values: Callable[[int], dict[str, float]]) -> list[Row]:
    """Return one reading a day and signal, at the day's end."""
    return [
        {"at": f"{first + timedelta(days=n + 1)}T00:00:00Z", "house": house, "signal": name, "value": f"{value:g}"}
        for n in range(days)
        for name, value in values(n).items()
    ]


def test_one_value_a_day_is_enough(tmp_path: Path) -> None:
    """An outbreak in daily counts is found on its day, weights are predicted, and nobody misses a sensor.

    In the first week the models may be wrong about a flock that they have seen three numbers of.
    """
    placed = date(2026, 1, 1)

    def of_day(n: int) -> dict[str, float]:
        feed_kg = (ROSS_308.feed_g[n] or 6) * 0.96 * 20  # 20,000 birds, a little behind the breeder's curve
        dead = {15: 150.0}.get(n, 11.0 + n % 3)
        return {"dead": dead, "feed": feed_kg, "water": 1.8 * feed_kg, "weight": 0.95 * ROSS_308.weight_g[n]}

    files = Files(daily("h1", placed, 30, of_day), [flock("h1", placed, date(2026, 2, 11))], [])
    result = replay(tmp_path, files)
    assert [
        (row["rule"], row["raised_at"], row["day_number"])
        for row in result.warnings
        if row["about"] == "birds" and int(row["day_number"]) > 7
    ] == [("mortality", "2026-01-17T00:00:00Z", "16")]
    assert not [row for row in result.warnings if row["about"] in {"data", "equipment"}]
    made = {row["made_at"][:10] for row in result.predictions if row["target"] == "weight_g"}
    assert {str(placed + timedelta(days=n)) for n in range(1, 30)} <= made


def test_flocks_without_readings_step_daily(tmp_path: Path) -> None:
    """From placement to slaughter; day-old chicks to full-grown birds, known only by age and breed."""
    flocks = [flock("h1", date(2026, 1, 1), date(2026, 2, 8)), flock("h2", date(2026, 1, 11), date(2026, 2, 18))]
    result = replay(tmp_path, Files([], flocks, []))
    assert result.warnings == []
    for told in flocks:
        made = {row["made_at"][:10] for row in result.predictions if row["house"] == told["house"]}
        first, last = date.fromisoformat(told["placed_on"]), date.fromisoformat(told["ended_on"])
        wanted = {str(first + timedelta(days=n)) for n in range((last - first).days)}
        assert wanted - {str(first)} <= made
        assert max(made) <= str(last + timedelta(days=1))


def test_one_flock_after_the_other_in_one_house(tmp_path: Path) -> None:
    """Also where the next one is placed on the day the last one leaves."""
    first, change, last = date(2026, 1, 1), date(2026, 2, 8), date(2026, 3, 15)
    flocks = [flock("h1", first, change), flock("h1", change, last, flock="B")]
    result = replay(tmp_path, Files([], flocks, []))
    assert {row["flock"] for row in result.predictions if row["made_at"] < f"{change}T00:00"} == {"h1-A"}
    assert {row["flock"] for row in result.predictions if row["made_at"] > f"{change + timedelta(days=1)}T00:00"} == {
        "B"
    }


def test_slaughter_weights_teach_the_later_flocks_and_never_their_own(tmp_path: Path) -> None:
    """Of one house the flocks are 8 % heavier than of the other; only the last one's weight is changed."""

    def played(name: str, last_weight_g: float) -> dict[str, dict[tuple[str, str], float]]:
        flocks = []
        for house, share in (("h1", 1.04), ("h2", 0.96)):
            for number in range(5):
                placed = date(2026, 1, 1) + timedelta(days=50 * number)
                weight = f"{ROSS_308.weight_g[38] * share:.0f}" if number < 4 else f"{last_weight_g}"
                ended = placed + timedelta(days=38)
                flocks.append(flock(house, placed, ended, flock=str(number)) | {"slaughter_weight_g": weight})
        found: dict[str, dict[tuple[str, str], float]] = {"h1": {}, "h2": {}}
        made = replay(tmp_path, Files([], flocks, []), name=name).predictions
        for row in (row for row in made if row["target"] == "weight_g"):
            if date.fromisoformat(row["target_at"]) == date(2026, 1, 1) + timedelta(days=50 * int(row["flock"]) + 38):
                found[row["house"]][row["flock"], row["made_at"]] = float(row["p50"])
        return found

    said = played("one", 2_000)
    assert said == played("other", 3_000)
    first, last = "2026-01-21T00:00:00Z", "2026-08-09T00:00:00Z"
    assert said["h1"]["0", first] == pytest.approx(said["h2"]["0", first])
    assert 1.04 < said["h1"]["4", last] / said["h2"]["4", last] < 1.0834


def test_readings_without_flocks_are_judged_for_quality_and_somebody_is_asked_for_the_flock(
    farm: Files, tmp_path: Path
) -> None:
    result = replay(tmp_path, Files(farm.readings, [], []))
    assert {(row["house"], row["rule"]) for row in result.warnings} == {
        ("house1", "unregistered"),
        ("house2", "unregistered"),
    }
    assert result.predictions == []
    assert {"stuck", "stale"} <= {row["quality"] for row in result.quality}


def test_nothing_at_all_is_no_error(tmp_path: Path) -> None:
    assert replay(tmp_path, Files([], [], [])) == Result([], [], [])


# --- live and replay --------------------------------------------------------------------------------------------------


class HandClock:
    """A clock that is moved by hand."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def is_trusted(self) -> bool:
        return True


def test_live_and_replay_say_the_same(farm: Files, played: Result, tmp_path: Path) -> None:
    """The agent's own turns, with its store and all, ten minutes at a time; only the broker's wire is left out."""
    config = parse_config(
        {
            "data": {"directory": str(tmp_path / "data")},
            "house": [{"id": "house1"}, {"id": "house2"}],
            "mqtt": {"port": 1},
        },
        "test",
    )
    predictor = Predictor.load(load_bundles(shipped_directory(), config.models.use), config.site.days)
    clock = HandClock(START)
    incoming: dict[datetime, list[Message]] = {}

    def hear(at: datetime, topic: str, payload: str) -> None:
        step = START + timedelta(minutes=10) * -(-(at - START) // timedelta(minutes=10))
        message = Message(topic, payload.encode(), 0, 0, False, False, 0, to_ms(at), at.timestamp())
        incoming.setdefault(max(step, START), []).append(message)

    for told in farm.flocks:
        facts = ", ".join(
            f'"{key}": "{value}"' if key in {"placed_on", "strain", "sex"} else f'"{key}": {value}'
            for key, value in told.items()
            if value and key not in {"house", "flock", "ended_on", "slaughter_weight_g"}
        )
        planned = f'"flock": "{told["flock"]}", "planned_end_on": "{told["ended_on"]}"'
        hear(START, f"flockwatch/farm1/{told['house']}/flock/command", f'{{"action": "place", {planned}, {facts}}}')
    for row in farm.events:
        hear(datetime.fromisoformat(row["at"]), f"flockwatch/farm1/{row['house']}/flock/command", row["command"])
    for row in farm.readings:
        payload = f'{{"value": {row["value"]}, "at": "{row["at"]}"}}'
        hear(datetime.fromisoformat(row["at"]), f"skov/farm1/{row['house']}/{row['signal']}", payload)

    with Store.open(config.data.house_db) as store:
        bus = Bus(config.mqtt, "test", [], health_topic=None, clock=clock)  # never connected: nobody listens here
        agent = Agent(config, clock, store, bus, predictor, Decoder(config))
        while clock.at < START + timedelta(days=DAYS):
            agent.turn(incoming.get(clock.at, []))
            clock.at += timedelta(minutes=10)
        agent.turn(incoming.get(clock.at, []))
    with StoreReader.open(config.data.house_db) as reader:
        warnings = columns(reader, "warnings")
        predictions = columns(reader, "predictions")
        quality = [row for row in columns(reader, "events") if row["kind"] == "quality"]

    raised = {
        (row["house"], row["rule"], iso(from_ms(row["raised_at"]))) for row in warnings if row["state"] == "active"
    }
    assert raised == {(row["house"], row["rule"], row["raised_at"]) for row in played.warnings}
    texts = {row["text"] for row in warnings}
    assert {row["text"] for row in played.warnings} <= texts
    live: dict[tuple[str, str, str], str] = {}
    for made in predictions:  # where the slaughter day is one of the days ahead, the files say it once
        key = (made["house"], iso(from_ms(made["at"])), iso(from_ms(made["target_at"]))[:10])
        live.setdefault(key, f"{made['p50']:.6g}")
    assert live == {
        (row["house"], row["made_at"], row["target_at"]): row["p50"]
        for row in played.predictions
        if datetime.fromisoformat(row["made_at"]) > START
    }
    ended = {
        (row["house"], row["signal"], iso(from_ms(row["from_at"])), iso(from_ms(row["to_at"])))
        for row in quality
        if row["to_at"] is not None
    }
    assert ended <= {(row["house"], row["signal"], row["from"], row["to"]) for row in played.quality}
    assert ended


def columns(reader: StoreReader, stream: str) -> list[dict[str, Any]]:
    found = reader.rows(stream, 1, 2**62)
    return [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
