"""The life of a house: what each command changes, and what is refused with a reason."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from agent.clock import FarmDays
from agent.commands import parse_flock_command, parse_warning_command
from agent.domain import HouseState
from agent.errors import InputError
from agent.flock import HouseLife, apply, day_number, settle

DAYS = FarmDays(ZoneInfo("Europe/Copenhagen"), time(6, 0))
NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


def do(life: HouseLife, **command: object) -> HouseLife:
    return life.after(apply("house1", life, parse_flock_command(json.dumps(command)), NOW, DAYS))


@pytest.fixture
def placed() -> HouseLife:
    return do(
        HouseLife(), action="place", flock="2026-1", placed_on="2026-03-01", birds_placed=30_000, strain="Ross 308"
    )


def test_placing_fills_an_empty_house(placed: HouseLife) -> None:
    assert placed.state is HouseState.ACTIVE
    assert placed.flock is not None
    assert placed.flock.birds_placed == 30_000
    assert day_number(placed.flock, NOW, DAYS) == 9


def test_the_day_number_rolls_over_at_the_farms_own_hour(placed: HouseLife) -> None:
    assert placed.flock is not None
    before_six = datetime(2026, 3, 2, 4, 59, tzinfo=UTC)  # 05:59 in Copenhagen
    assert day_number(placed.flock, before_six, DAYS) == 0
    assert day_number(placed.flock, before_six + timedelta(minutes=1), DAYS) == 1


def test_placing_the_same_flock_again_corrects_its_facts_and_keeps_the_others(placed: HouseLife) -> None:
    corrected = do(placed, action="place", flock="2026-1", birds_placed=29_500)
    assert corrected.flock is not None
    assert (corrected.flock.birds_placed, corrected.flock.strain) == (29_500, "Ross 308")
    assert corrected.flock.placed_on == date(2026, 3, 1)


def test_thinning_is_no_mortality_and_passes_by_itself(placed: HouseLife) -> None:
    thinned = do(placed, action="thin", birds=6_000)
    assert thinned.state is HouseState.THINNED
    assert thinned.flock is not None
    assert thinned.flock.thinned_birds == 6_000
    assert thinned.flock.recorded == ()
    assert settle("house1", thinned, NOW + timedelta(hours=23)) is None
    change = settle("house1", thinned, NOW + timedelta(hours=24))
    assert change is not None
    assert thinned.after(change).state is HouseState.ACTIVE


def test_a_days_record_sets_that_days_totals(placed: HouseLife) -> None:
    once = do(placed, action="record", date="2026-03-09", dead=20, culled=3)
    twice = do(once, action="record", date="2026-03-09", dead=25, culled=3)
    assert twice.flock is not None
    assert twice.flock.recorded == ((date(2026, 3, 9), 25, 3),)


def test_ending_empties_the_house_and_tells_the_slaughter_weight(placed: HouseLife) -> None:
    change = apply("house1", placed, parse_flock_command('{"action":"end","slaughter_weight_g":2345}'), NOW, DAYS)
    assert change.flock is not None
    assert (change.flock.slaughter_weight_g, change.flock.ended_at) == (2345, NOW)
    assert placed.after(change) == HouseLife(HouseState.EMPTY, NOW, None, ended=change.flock)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ({"action": "place", "flock": "other"}, "'2026-1' is still in house1: end it before 'other' is placed"),
        ({"action": "record", "flock": "other", "dead": 1}, "flock 'other' is not in house1; '2026-1' is"),
        ({"action": "record", "date": "2026-02-01", "dead": 1}, "outside this flock's life"),
        ({"action": "record", "date": "2026-04-01", "dead": 1}, "outside this flock's life"),
        ({"action": "thin", "birds": 30_000}, "end the flock"),
        ({"action": "place", "planned_end_on": "2026-02-01"}, "not after placed_on"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(placed: HouseLife, command: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        do(placed, **command)


@pytest.mark.parametrize(
    "command", [{"action": "thin", "birds": 5}, {"action": "end"}, {"action": "record", "dead": 1}]
)
def test_an_empty_house_has_no_birds_to_tell_of(command: dict[str, object]) -> None:
    with pytest.raises(InputError, match="no flock is in house1: place one first"):
        do(HouseLife(), **command)


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"not json", "Invalid JSON"),
        (b"[]", "dictionary|object"),
        (b'{"action":"fly"}', "fly"),
        (b'{"action":"thin"}', "birds: Field required"),
        (b'{"action":"thin","birds":-1}', "birds: .*greater than or equal to 1"),
        (b'{"action":"place","birds_placed":"many"}', "birds_placed: .*valid integer"),
        (b'{"action":"place","flock":"a/b"}', "flock: .*"),
        (b'{"action":"thin","birds":5,"at":"2026-03-01T12:00:00"}', "at: .*timezone"),
        (b'{"action":"end","weight":2}', "weight: Extra inputs"),
    ],
)
def test_a_command_that_is_none_is_refused_and_the_field_is_named(payload: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_flock_command(payload)


def test_a_shelf_has_a_time(  # a warning that is put aside for ever is forgotten
) -> None:
    with pytest.raises(InputError, match="for_s: Field required"):
        parse_warning_command(b'{"action":"shelve"}')
