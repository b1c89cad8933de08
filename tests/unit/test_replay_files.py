"""The files of a recording: what is wrong is named by file and line, what is unusual is understood."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from agent.config import Config
from agent.domain import SeriesKey, TimeQuality, to_ms
from agent.errors import ReplayFileError
from agent.predict import Predictor
from agent.replay import replay
from agent.replay_files import Recording, read_events, read_flocks, spool_readings

if TYPE_CHECKING:
    from pathlib import Path

UTC_ZONE, COPENHAGEN = ZoneInfo("UTC"), ZoneInfo("Europe/Copenhagen")
R, F, E = (
    "at,house,signal,value\n",
    "house,flock,placed_on,birds_placed,strain,sex,parent_age_weeks,ended_on,slaughter_weight_g\n",
    "at,house,command\n",
)
NOON_MS = 1_772_366_400_000  # 2026-03-01T12:00:00Z
NO_MODEL = Predictor((), (), Config().site.days)


def spooled(folder: Path, text: str | bytes, zone: ZoneInfo = UTC_ZONE) -> Recording:
    path = folder / "readings.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    spool = folder / "spool"
    spool.mkdir()
    return spool_readings(path, spool, zone)


def rows(recording: Recording) -> list[tuple[int, SeriesKey, float]]:
    return [
        (at, block.keys[key], value)
        for block in recording.blocks()
        for at, key, value in zip(block.at_ms.tolist(), block.key.tolist(), block.value.tolist(), strict=True)
    ]


# --- what is wrong


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"the first line must be 'at,house,signal,value', it is ''"),
        ("time,house,signal,value\n", r"it is 'time,house,signal,value'"),
        ("at;house;signal;value\n", r"the first line must be"),
        (R + "2026-03-01T12:00:00Z,house1,water\n", r"line 2: 3 columns instead of 4"),
        (R + "2026-03-01T12:00:00Z,house1,water,1,5\n", r"line 2: 5 columns instead of 4"),
        (R + "2026-03-01T12:00:00Z,house1,water,12\nyesterday,house1,water,1\n", r"line 3: at 'yesterday' is no time"),
        (R + "2026-13-01T12:00:00Z,house1,water,1\n", r"line 2: at '2026-13-01T12:00:00Z' is no time"),
        (R + ",house1,water,1\n", r"line 2: at '' is no time"),
        (R + "2026-03-01T12:00:00Z,house1,water,a lot\n", r"line 2: .*'a lot'"),
        (R + "2026-03-01T12:00:00Z,house1,water,1e999\n", r"line 2: value '1e999' is no finite number"),
        (R + "2026-03-01T12:00:00Z,house 1,water,1\n", r"line 2: house 'house 1' is no name"),
        (R + "2026-03-01T12:00:00Z,,water,1\n", r"line 2: house '' is no name"),
        (R + "2026-03-01T12:00:00Z,house1,../../etc,1\n", r"line 2: signal '../../etc' is no name"),
        (R + "0001-01-01T00:00:00+14:00,house1,water,1\n", r"line 2: .*not within 1970 to 2200"),
        (R + "1026-03-01T12:00:00Z,house1,water,1\n", r"line 2: .*not within 1970 to 2200"),
        (R + "99999999999999,house1,water,1\n", r"line 2: .*not within 1970 to 2200"),
        (R + '"2026-03-01T12:00:00Z,house1,water,1\n', r"line 2: "),
        (b"\xff\xfe" + R.encode("utf-16-le"), r"is no CSV text"),
        (R.encode() + b"2026-03-01T12:00:00Z,house1,water,1\n2026-03-01T12:01:00Z,house1,\xff,1\n", r"line \d+: "),
        (R.encode() + b"\0\n", r"line \d+: "),
    ],
)
def test_what_is_wrong_in_readings_is_named_with_file_and_line(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(ReplayFileError, match=says) as raised:
        spooled(tmp_path, text)
    assert str(tmp_path / "readings.csv") in str(raised.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("house,flock\n", r"the first line must be"),
        (F + "house1,f1\n", r"line 2: 2 columns instead of 9"),
        (F + "house1,f1,1 March,,,,,,\n", r"line 2: placed_on '1 March' is no date"),
        (F + "house1,f1,,,,,,,\n", r"line 2: placed_on '' is no date"),
        (F + "house1,f1,0202-03-01,,,,,,\n", r"line 2: placed_on 0202-03-01 is not within 1970 to 2200"),
        (F + "house1,f1,2026-03-01,,,,,2026-03-01,\n", r"line 2: ended_on 2026-03-01 is not after placed_on"),
        (F + "house1,f1,2026-03-01,,,,,2062-04-01,\n", r"line 2: ended_on 2062-04-01 is more than a year after"),
        (F + "house1,f1,2026-03-01,many,,,,,\n", r"line 2: birds_placed 'many' is no number"),
        (F + "house1,f1,2026-03-01,0.2,,,,,\n", r"line 2: birds_placed '0.2' is not within 1 to 1,000,000"),
        (F + "house1,f1,2026-03-01,,,,5,,\n", r"line 2: parent_age_weeks '5' is not within 15 to 120"),
        (F + "house1,f1,2026-03-01,,,,nan,,\n", r"line 2: parent_age_weeks 'nan' is not within"),
        (F + "house1,f1,2026-03-01,,,,,2026-04-10,-5\n", r"line 2: slaughter_weight_g '-5' is not within"),
        (F + "house 1,f1,2026-03-01,,,,,,\n", r"line 2: house 'house 1' is no name"),
        (F + "house1,,2026-03-01,,,,,,\n", r"line 2: flock '' is no name"),
        (
            F + "house1,f2,2026-04-01,,,,,2026-05-10,\nhouse1,f1,2026-03-01,,,,,2026-04-05,\n",
            r"flock 'f2' is placed in house1 on 2026-04-01 while 'f1' is there until 2026-04-05",
        ),
    ],
)
def test_what_is_wrong_in_flocks_is_named_with_file_and_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "flocks.csv"
    path.write_text(text)
    with pytest.raises(ReplayFileError, match=says) as raised:
        read_flocks(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("at,house\n", r"the first line must be"),
        (E + '2026-03-01T12:00:00Z,house1,{"action":"thin","birds":5}\n', r"line 2: 4 columns instead of 3"),
        (E + "2026-03-01T12:00:00Z,house1,thin\n", r"line 2: Invalid JSON"),
        (E + '2026-03-01T12:00:00Z,house1,"{""action"":""fly""}"\n', r"line 2: .*fly"),
        (E + '2026-03-01T12:00:00Z,house1,"{""action"":""thin""}"\n', r"line 2: birds: "),
        (E + 'noon,house1,"{""action"":""end""}"\n', r"line 2: at 'noon' is no time"),
    ],
)
def test_what_is_wrong_in_events_is_named_with_file_and_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "events.csv"
    path.write_text(text)
    with pytest.raises(ReplayFileError, match=says) as raised:
        read_events(path, UTC_ZONE)
    assert str(path) in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReplayFileError, match=r"none\.csv: cannot be read: No such file"):
        read_flocks(tmp_path / "none.csv")
    with pytest.raises(ReplayFileError, match="cannot be read"):
        spool_readings(tmp_path, tmp_path, UTC_ZONE)


# --- what is unusual


@pytest.mark.parametrize(
    ("at", "quality"),
    [
        ("2026-03-01T12:00:00Z", TimeQuality.SENDER),
        ("2026-03-01T13:00:00+01:00", TimeQuality.SENDER),
        ("2026-03-01 12:00:00+00:00", TimeQuality.SENDER),
        ("2026-03-01T13:00:00", TimeQuality.ASSUMED_ZONE),
        ("2026-03-01 13:00", TimeQuality.ASSUMED_ZONE),
        ("20260301T120000Z", TimeQuality.SENDER),
        ("1772366400", TimeQuality.SENDER),
        ("1772366400.0", TimeQuality.SENDER),
        ("1772366400000", TimeQuality.SENDER),
    ],
)
def test_times_come_in_seconds_milliseconds_iso_and_local_time(tmp_path: Path, at: str, quality: TimeQuality) -> None:
    [block] = spooled(tmp_path, f"{R}{at},house1,water,1\n", COPENHAGEN).blocks()
    assert block.at_ms.tolist() == [NOON_MS]
    assert block.time_quality.tolist() == [quality]


@pytest.mark.parametrize("at_ms", [1_701_010_112_000, 1_712_011_200_000, 1_801_012_300_000])
def test_milliseconds_are_no_day_of_the_eighteenth_century(tmp_path: Path, at_ms: int) -> None:
    """The basic form of ISO 8601 would read 1712011200000 as 12 January 1712, 00:00."""
    [(at, _, _)] = rows(spooled(tmp_path, f"{R}{at_ms},house1,water,1\n"))
    assert at == at_ms


def test_an_unsorted_recording_comes_out_in_the_order_of_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    times = [NOON_MS + int(minutes) * 60_000 for minutes in rng.permutation(3_000)]
    text = R + "".join(f"{at},house{i % 3},water,{i}\n" for i, at in enumerate(times))
    recording = spooled(tmp_path, text)
    found = rows(recording)
    assert [at for at, _, _ in found] == sorted(times)
    assert recording.count == 3_000
    assert recording.days == sorted({at // 86_400_000 for at in times})


def test_of_one_series_at_one_time_the_first_value_wins_as_it_does_live(tmp_path: Path) -> None:
    """Increments that stand twice in a recording would count twice."""
    text = R + "".join(
        f"{at},{house},water,{value}\n"
        for at, house, value in (
            (NOON_MS + 60_000, "house1", 3),
            (NOON_MS, "house1", 1),
            (NOON_MS, "house2", 2),
            (NOON_MS, "house1", 9),
            (NOON_MS, "house1", 1),
        )
    )
    assert [(at - NOON_MS, key.house, value) for at, key, value in rows(spooled(tmp_path, text))] == [
        (0, "house1", 1),
        (0, "house2", 2),
        (60_000, "house1", 3),
    ]


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_understood(tmp_path: Path) -> None:
    text = "\ufeff" + R + "\n2026-03-01T12:00:00Z,house1,water,1\n\n"
    assert len(rows(spooled(tmp_path, text.replace("\n", "\r\n")))) == 1


def test_a_row_without_a_value_is_no_reading_and_is_counted(tmp_path: Path) -> None:
    recording = spooled(tmp_path, f"{R}{NOON_MS},house1,water,\n{NOON_MS},house1,feed,  \n{NOON_MS},house1,co2,700\n")
    assert (recording.count, recording.skipped_blank) == (1, 2)


def test_a_header_alone_is_an_empty_recording(tmp_path: Path) -> None:
    recording = spooled(tmp_path, R)
    assert (recording.count, list(recording.blocks())) == (0, [])


def test_flocks_may_leave_everything_open_but_house_name_and_day(tmp_path: Path) -> None:
    path = tmp_path / "flocks.csv"
    path.write_text(
        "\ufeff" + F + "house2,b,2026-03-01,,,,,,\n\nhouse1,a, 2026-03-02 ,20000,Ross 308,mixed,35,2026-04-10,2400.5\n"
    )
    first, second = read_flocks(path)
    assert (first.flock.house, first.flock.placed_on, first.flock.birds_placed) == ("house1", date(2026, 3, 2), 20_000)
    assert (first.flock.planned_end_on, first.slaughter_weight_g) == (date(2026, 4, 10), 2400.5)
    assert first.flock.slaughter_weight_g is None  # the truth is not told to the models
    assert (second.flock.birds_placed, second.ended_on, second.slaughter_weight_g) == (None, None, None)
    path.write_text(F)
    assert read_flocks(path) == []


def test_events_come_in_the_order_of_time(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text(
        E
        + '2026-03-02T12:00:00Z,house1,"{""action"":""end""}"\n'
        + '1772366400,house1,"{""action"":""state"",""state"":""catching""}"\n'
    )
    assert [(at, command.action) for at, _, command in read_events(path, UTC_ZONE)] == [
        (datetime(2026, 3, 1, 12, tzinfo=UTC), "state"),
        (datetime(2026, 3, 2, 12, tzinfo=UTC), "end"),
    ]


# --- both together


def played(folder: Path, flocks: str, events: str | None = None, readings: str = "") -> Path:
    for name, header, text in (("r", R, readings), ("f", F, flocks), ("e", E, events or "")):
        (folder / f"{name}.csv").write_text(header + text)
    told = folder / "e.csv" if events is not None else None
    replay(Config(), NO_MODEL, folder / "r.csv", folder / "f.csv", told, folder / "out")
    return folder / "out"


def test_a_flock_may_come_on_the_day_on_which_the_last_one_left(tmp_path: Path) -> None:
    played(tmp_path, "house1,a,2026-03-01,,,,,2026-04-10,2400\nhouse1,b,2026-04-10,,,,,2026-05-20,2500\n")


def test_a_slaughter_that_is_told_later_than_it_was_planned_is_when_it_was(tmp_path: Path) -> None:
    told = '2026-04-12T10:00:00Z,house1,"{""action"":""end""}"\n'
    played(tmp_path, "house1,a,2026-03-01,,,,,2026-04-10,2400\n", told)


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ('2026-03-05T10:00:00Z,house9,"{""action"":""end""}"', "'house9' is in neither readings.csv nor flocks.csv"),
        ('2026-02-05T10:00:00Z,house1,"{""action"":""end""}"', "house1: end: no flock is in house1"),
    ],
)
def test_an_event_that_cannot_be_is_named(tmp_path: Path, event: str, says: str) -> None:
    with pytest.raises(ReplayFileError, match=says):
        played(tmp_path, "house1,a,2026-03-01,,,,,2026-04-10,\n", event + "\n")


def test_the_results_have_the_columns_of_the_contract_even_if_there_is_nothing_to_tell(tmp_path: Path) -> None:
    out = played(tmp_path, "")
    assert (out / "warnings.csv").read_text() == (
        "house,flock,rule,about,signal,severity,state,raised_at,cleared_at,day_number,actual,expected,deviation_pct,"
        "confidence,cause,text\n"
    )
    assert (out / "predictions.csv").read_text() == (
        "house,flock,made_at,day_number,target,target_at,p10,p50,p90,model,model_version\n"
    )
    assert (out / "quality.csv").read_text() == "house,signal,from,to,quality,reason\n"


def test_a_silence_is_in_both_tables_once(tmp_path: Path) -> None:
    start = datetime(2026, 3, 5, tzinfo=UTC)
    minutes = [m for m in range(600) if not 200 <= m < 400]
    readings = "".join(
        f"{to_ms(start + timedelta(minutes=m))},house1,{signal},{20 + m % 7}\n"
        for m in minutes
        for signal in ("temperature", "water")
    )
    out = played(tmp_path, "house1,a,2026-03-01,20000,,,,2026-04-10,\n", readings=readings)
    header, *warnings = (out / "warnings.csv").read_text().splitlines()
    [row] = [dict(zip(header.split(","), line.split(","), strict=False)) for line in warnings]
    assert (row["rule"], row["state"], row["flock"], row["day_number"]) == ("silent", "normal", "a", "4")
    assert row["raised_at"] < row["cleared_at"]
    _, *gaps = (out / "quality.csv").read_text().splitlines()
    assert [line.split(",")[4] for line in gaps] == ["stale", "stale"]
    json.dumps(row)
