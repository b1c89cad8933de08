"""Every query of docs/lake.md, as it stands there, answers on a lake that the store and the courier's own code made."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from agent.domain import (
    About,
    Event,
    Evidence,
    Flock,
    FlockChange,
    HouseState,
    Prediction,
    Reason,
    SeriesKey,
    Severity,
    Standing,
    TimeQuality,
    WarningEvent,
    WarningState,
    to_ms,
)
from agent.readings import ReadingsBuilder
from agent.store import STREAMS, Store, StoreReader
from sync.outbox import Outbox

PAGE = (Path(__file__).parents[2] / "docs" / "lake.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
LAKE = "/var/lib/flockwatch/lake"  # as the page has it
HOUSES = ("house1", "house2")

NOW = datetime.now(UTC).replace(microsecond=0)  # a query asks for the last day
ROSE, CLEARED = NOW - timedelta(hours=3), NOW - timedelta(hours=1)


def _readings(store: Store) -> None:
    builder = ReadingsBuilder()
    for minutes in range(0, 180, 10):
        at_ms = to_ms(NOW - timedelta(minutes=minutes))
        for number, house in enumerate(HOUSES):
            builder.add(SeriesKey(house, "temperature"), at_ms, 20.0 + number, TimeQuality.SENDER, at_ms + 7)
            builder.add(SeriesKey(house, "water"), at_ms, 50.0, TimeQuality.SENDER, at_ms + 7)
    store.append(builder.build(), at_ms=to_ms(NOW))


def _transition(
    at: datetime, before: WarningState, state: WarningState, reason: Reason, *, by: str | None = None
) -> WarningEvent:
    standing = Standing(
        "deviation-water",
        "house1",
        state,
        Severity.NONE if state is WarningState.NORMAL else Severity.MINOR,
        id="w1",
        flock="2026-1",
        since=ROSE - timedelta(minutes=20),
        raised_at=ROSE,
        updated_at=at,
        by=by,
        reason=reason,
        evidence=Evidence(1.5, actual=30.0, expected=50.0, unit="l", coverage=1.0, model="expect"),
    )
    return WarningEvent(at, before, standing, reason, About.BIRDS, "water", 36, "the water is low", (), "the line")


WARNINGS = (
    _transition(ROSE, WarningState.PENDING, WarningState.ACTIVE, Reason.ON_DELAY_OVER),
    _transition(
        NOW - timedelta(hours=2), WarningState.ACTIVE, WarningState.ACKNOWLEDGED, Reason.ACKNOWLEDGED_BY, by="anna"
    ),
    _transition(CLEARED, WarningState.ACKNOWLEDGED, WarningState.NORMAL, Reason.BACK_IN_BAND, by="anna"),
)
FLOCK = Flock(
    "house1",
    "2026-1",
    date(2026, 1, 5),
    32_000,
    planned_end_on=date(2026, 2, 10),
    ended_at=NOW,
    slaughter_weight_g=2_500,
)
PREDICTIONS = tuple(
    Prediction(
        *("house1", "2026-1", NOW - timedelta(days=1), 35, "weight_g", NOW, horizon),
        *(p50 - 80, p50, p50 + 80, "weight", "1.0.0", 0.9),
    )
    for horizon, p50 in (("slaughter", 2_450.0), ("1d", 2_400.0))
)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the local lake of a gateway with two houses, a warning that rose and cleared, and a flock that ended."""
    folder = tmp_path_factory.mktemp("gateway")
    with Store.open(folder / "house.db") as store:
        _readings(store)
        store.record(
            warnings=WARNINGS,
            predictions=PREDICTIONS,
            flock_changes=[FlockChange(NOW, "end", "house1", HouseState.EMPTY, FLOCK)],
            events=[
                Event(
                    NOW - timedelta(hours=1),
                    "label",
                    "house1",
                    "water",
                    ROSE,
                    None,
                    {"label": "reject", "warning": "w1"},
                ),
                Event(NOW, "label", "house1", "water", ROSE, None, {"label": "confirm", "warning": "w1"}),
                Event(NOW, "start"),
            ],
        )
    with (
        StoreReader.open(folder / "house.db") as rows,
        Outbox.open(folder / "sync.db", folder / "lake", rows, "farm1") as outbox,
    ):
        for stream in STREAMS:
            assert outbox.seal_next(stream, rows.last_seq(stream), to_ms(NOW)) == rows.last_seq(stream)
    return folder / "lake"


def _asked(query: str, lake: Path) -> list[dict[str, Any]]:
    assert f"read_parquet('{LAKE}/" in query
    with duckdb.connect() as db:
        answer = db.execute(query.replace(LAKE, str(lake)))
        names = [name for name, *_ in answer.description]
        return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.splitlines()[0].removeprefix("-- "))
def test_a_query_of_the_page_runs_as_it_stands_and_rows_come_back(query: str, lake: Path) -> None:
    assert _asked(query, lake)


def _the(word: str) -> str:
    (query,) = (query for query in QUERIES if word in query.splitlines()[0])
    return str(query)


def test_the_climate_query_answers_for_each_house(lake: Path) -> None:
    rows = _asked(_the("temperature"), lake)
    assert {(row["house"], row["temperature"]) for row in rows} == {("house1", 20.0), ("house2", 21.0)}


def test_the_warnings_query_tells_when_it_rose_and_cleared_and_who_saw_it(lake: Path) -> None:
    assert _asked(_the("warnings"), lake) == [
        {"house": "house1", "rule": "deviation-water", "rose": ROSE, "cleared": CLEARED, "seen_by": "anna"}
    ]


def test_the_labels_query_takes_the_last_word(lake: Path) -> None:
    assert _asked(_the("what people said"), lake) == [
        {"rule": "deviation-water", "confirmed": 1, "rejected": 0, "raised": 1}
    ]


def test_the_predictions_query_holds_them_against_the_slaughter_weight(lake: Path) -> None:
    assert [(row["p50"], row["slaughter_weight_g"], row["error_pct"]) for row in _asked(_the("slaughter"), lake)] == [
        (2_450.0, 2_500.0, -2.0)
    ]
