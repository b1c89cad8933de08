"""What real farm data looks like: each kind of fault that was measured on real farms is recognised, good data flows on.

A healthy simulated farm, with the faults of commercial houses laid over it: what the scale, the meters, CO2, humidity,
the gateway and the silo were really seen to do. Every interval that the replay then tells is one of these faults.
"""

from __future__ import annotations

import csv
import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import pytest

from agent.cli import main

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 6
HOUSE = "house1"


class Row(NamedTuple):
    """One reading, or one interval of quality.csv cut to what is compared."""

    at: datetime
    signal: str
    value: float


class Told(NamedTuple):
    """One line of quality.csv."""

    signal: str
    begin: datetime
    end: datetime
    quality: str
    reason: str


def day(days: float) -> datetime:
    return START + timedelta(days=days)


def healthy_farm(folder: Path) -> list[Row]:
    """Return a house of twins without gaps: the simulated one's sensors, and a second of each climate sensor."""
    words = ["simulate", "--houses", "1", "--days", str(DAYS), "--seed", "4", "--stagger", "--interval", "600"]
    assert main([*words, "--out", str(folder)]) == 0
    with (folder / "readings.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            Row(datetime.fromisoformat(r["at"]), r["signal"], float(r["value"]))
            for r in csv.DictReader(file)
            if r["signal"] not in {"weight_count", "dead"}
        ]
    seen: list[Row] = []
    for row in rows:
        if row.signal == "temperature":
            seen += [row._replace(signal="temperature-1"), row._replace(signal="temperature-2", value=row.value + 0.7)]
        elif row.signal == "weight":
            continue
        else:
            seen.append(row)
    hours = range(24 * DAYS)
    seen += [Row(START + timedelta(hours=h, minutes=10), "weight", round(900 + 70 * h / 24)) for h in hours]
    kwh = [Row(START + timedelta(minutes=10 * i), "energy", 2.0 + math.sin(i / 20)) for i in range(1, 144 * DAYS)]
    return sorted(seen + kwh)


def with_faults(rows: list[Row]) -> list[Row]:
    """Lay the faults of real houses over a healthy one."""
    faulty: list[Row] = []
    for row in rows:
        at, name, value = row
        if name == "co2" and day(3) < at <= day(3.5):
            value = 380 - 60.0  # its zero is wrong
        if name == "humidity" and day(2) < at <= day(2.25):
            value = 10 * value  # tenths
        if name == "silo" and at == day(2.5):
            value = 3e18
        if name == "energy" and at == day(3):
            value = 1e7  # the meter was reset
        if name == "weight" and day(4) < at <= day(4.25):
            value = round(0.85 * value)  # the scale steps back
        if name == "temperature-1" and at > day(4.5):
            value = 27.3  # frozen
        if name == "temperature-2" and day(2.75) < at <= day(3.25):
            value += 9  # alive, moving, wrong
        if name == "ventilation" and at > day(1):
            continue  # absent for good
        if day(1.1) < at <= day(1.1) + timedelta(hours=5):
            continue  # the gateway is silent
        faulty.append(Row(at, name, value))
        if name == "ammonia" and len(faulty) % 50 == 0:
            faulty.append(Row(at, name, value + 1))  # the same stamp again
    return faulty


def replayed(rows: list[Row], folder: Path) -> tuple[list[Told], list[dict[str, str]]]:
    """Replay rows without a zone; the site is at UTC."""
    folder.mkdir()
    readings, flocks, out = folder / "readings.csv", folder / "flocks.csv", folder / "out"
    with readings.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("at", "house", "signal", "value"))
        writer.writerows((f"{row.at:%Y-%m-%d %H:%M:%S}", HOUSE, row.signal, f"{row.value:.10g}") for row in rows)
    flocks.write_text(
        "house,flock,placed_on,birds_placed,strain,sex,parent_age_weeks,ended_on,slaughter_weight_g\n"
        f"{HOUSE},A,2025-12-12,20000,ross308,mixed,35,2026-01-20,\n"
    )
    assert main(["replay", "--readings", str(readings), "--flocks", str(flocks), "--out", str(out)]) == 0
    with (out / "quality.csv").open(encoding="utf-8", newline="") as file:
        told = [
            Told(
                r["signal"],
                datetime.fromisoformat(r["from"]),
                datetime.fromisoformat(r["to"]),
                r["quality"],
                r["reason"],
            )
            for r in csv.DictReader(file)
        ]
    with (out / "warnings.csv").open(encoding="utf-8", newline="") as file:
        return told, list(csv.DictReader(file))


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return [
        row
        for row in healthy_farm(tmp_path_factory.mktemp("farm"))
        if row.at > START  # the first instant has no past
    ]


@pytest.fixture(scope="module")
def found(farm: list[Row], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Told], list[dict[str, str]]]:
    return replayed(with_faults(farm), tmp_path_factory.mktemp("faulty") / "replay")


@pytest.fixture(scope="module")
def before(farm: list[Row], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Told], list[dict[str, str]]]:
    return replayed(farm, tmp_path_factory.mktemp("healthy") / "replay")


def only(told: list[Told], signal: str, quality: str) -> Told:
    [one] = [row for row in told if (row.signal, row.quality) == (signal, quality)]
    return one


def near(at: datetime, days: float, minutes: float = 30) -> bool:
    return abs(at - day(days)) <= timedelta(minutes=minutes)


def test_of_a_healthy_house_nothing_is_told_but_its_gaps(
    before: tuple[list[Told], list[dict[str, str]]],
) -> None:
    told, warnings = before
    assert {row.quality for row in told} <= {"stale"}
    assert [row["rule"] for row in warnings if row["about"] == "equipment" or row["rule"].startswith("stuck")] == []


@pytest.mark.parametrize(
    ("signal", "quality", "begin", "end", "words"),
    [
        ("co2", "out_of_range", 3, 3.5, "320 ppm is below 350: fresh air has more"),
        ("humidity", "suspect", 2, 2.25, "looks like tenths of a percent"),
        ("silo", "out_of_range", 2.5, 2.5, "3e+18 kg is above 100000"),
        ("energy", "out_of_range", 3, 3, "1e+07 kWh is above 100000"),
        ("weight", "jump", 4, 4.25, "birds do not shrink"),
        ("temperature-1", "stuck", 4.5, DAYS, "always 27.3"),
        ("temperature-2", "suspect", 2.75, 3.25, "off its usual difference from temperature-1"),
        ("ventilation", "stale", 1, DAYS, "no readings"),
    ],
)
def test_each_kind_of_real_fault_is_told_with_its_time_and_reason(
    found: tuple[list[Told], list[dict[str, str]]], signal: str, quality: str, begin: float, end: float, words: str
) -> None:
    fault = (
        only(found[0], signal, quality)
        if signal != "ventilation"
        else max((row for row in found[0] if row.signal == "ventilation"), key=lambda row: row.end)
    )
    assert near(fault.begin, begin, 70)
    assert near(fault.end, end, 70)
    assert words in fault.reason


def test_a_silent_gateway_is_a_gap_of_every_sensor(found: tuple[list[Told], list[dict[str, str]]]) -> None:
    gaps = {row.signal for row in found[0] if row.quality == "stale" and near(row.begin, 1.1, 70)}
    assert gaps >= {"temperature-1", "temperature-2", "humidity", "co2", "ammonia", "water", "feed", "silo", "energy"}


def test_nothing_else_is_told(
    found: tuple[list[Told], list[dict[str, str]]], before: tuple[list[Told], list[dict[str, str]]]
) -> None:
    """Good readings stay good: no interval begins outside the faults."""
    expected = {"co2", "humidity", "silo", "energy", "weight", "temperature-1", "temperature-2"}
    others = [row for row in found[0] if row.quality != "stale" and row.signal not in expected]
    assert others == []
    assert sum(row.quality != "stale" for row in found[0]) == len(expected)
    known = {(row.signal, row.begin) for row in before[0]}
    unknown = [row for row in found[0] if row.quality == "stale" and (row.signal, row.begin) not in known]
    assert {row.signal for row in unknown if not near(row.begin, 1.1, 70)} <= {"ventilation"}


def test_the_farmer_hears_of_the_sensors_and_not_of_birds(
    found: tuple[list[Told], list[dict[str, str]]], before: tuple[list[Told], list[dict[str, str]]]
) -> None:
    rules = {row["rule"] for row in found[1]}
    assert {"stuck-temperature-1", "disagree-temperature-2", "missing-ventilation"} <= rules
    healthy = {row["rule"] for row in before[1]}
    assert {row["rule"] for row in found[1] if row["about"] in {"birds", "climate"}} <= healthy
