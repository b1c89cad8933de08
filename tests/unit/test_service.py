"""Somebody is at a sensor: it is not believed meanwhile, nobody misses it, and a new one begins anew."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agent.config import Config
from agent.predict import Predictor
from agent.replay import replay
from agent.store import Unstored, salvage
from tests.unit.test_daemon import FLOCK, START, Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUR = timedelta(hours=1)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "data", {"house": [{"id": "house1", "signals": {"ammonia": {"agree_within": 5}}}]})
    site.ask({"id": "p", "action": "place", "flock": "A1", "birds_placed": 10_000})
    yield site
    site.close()


def ten_minutes(site: Site, times: int, **values: float) -> None:
    """Let time pass, with a reading of each signal each five minutes."""
    for _ in range(2 * times):
        site.clock.wait(300)
        payload: dict[str, Any] = {"at": site.clock.at.isoformat(), "temperature": 21 + 0.1 * (site._mid % 5), **values}
        site.turn(site.message("skov/farm1/house1", payload))


def dead(site: Site) -> float:
    """Return the birds that the house knows to have died today."""
    watch = site.agent.watches[0]
    return sum(birds for _, birds in watch.window.day_totals(["dead"], START.date()))


def test_what_a_sensor_says_while_somebody_is_at_it_is_not_believed(site: Site) -> None:
    ten_minutes(site, 1, dead=1.0)
    answer = site.ask({"id": "1", "action": "service", "signal": "dead", "for_s": 3600, "by": "Anna"})
    assert (answer["ok"], answer["done"]) == (True, "service")
    ten_minutes(site, 6, dead=50.0)
    assert dead(site) == 2.0
    ten_minutes(site, 2, dead=1.0)
    assert 3.0 <= dead(site) <= 6.0  # believed again, from the instant after
    assert site.rows("flocks")["action"] == ["place", "service"]


def test_what_was_measured_a_moment_before_somebody_came_counts(site: Site) -> None:
    """It may wait to be observed together with what comes after; what is taken back are whole ten minutes."""
    ten_minutes(site, 1, dead=1.0)
    for wait_s in (300, 299):
        site.clock.wait(6)
        site.turn()  # nothing waits any more
        site.clock.wait(wait_s - 6)
        site.turn(site.message("skov/farm1/house1", {"at": site.clock.at.isoformat(), "dead": 5.0}))
    site.clock.wait(2)
    command = site.message(FLOCK, {"id": "1", "action": "service", "signal": "dead", "for_s": 3600})
    site.turn(site.reading(), command)
    ten_minutes(site, 1, dead=50.0)
    assert dead(site) == 12.0


def test_a_service_goes_on_after_a_restart_and_one_that_is_over_does_not(site: Site) -> None:
    ten_minutes(site, 1, dead=1.0)
    site.ask({"id": "1", "action": "service", "signal": "dead", "for_s": 7200})
    ten_minutes(site, 3, dead=50.0)
    site.restart()
    ten_minutes(site, 3, dead=50.0)
    assert dead(site) == 2.0
    ten_minutes(site, 8, dead=1.0)
    before = dead(site)
    site.restart()
    assert dead(site) == before


def test_what_came_in_after_a_service_that_ended_while_the_agent_was_away_is_believed(site: Site) -> None:
    """The broker hands over a day at once, before an instant is judged that would end the service."""
    ten_minutes(site, 1, dead=1.0)
    site.ask({"id": "1", "action": "service", "signal": "dead", "for_s": 3600})
    ten_minutes(site, 1, dead=50.0)
    begin = site.clock.at
    site.restart()
    site.clock.wait(4 * 3600)
    told = [(begin + minutes * timedelta(minutes=1), 50.0 if minutes < 50 else 1.0) for minutes in range(5, 240, 5)]
    site.turn(*(site.message("skov/farm1/house1", {"at": at.isoformat(), "dead": birds}) for at, birds in told))
    site.turn()
    after = [birds for at, birds in told if at > begin + timedelta(minutes=50)]
    assert dead(site) == 2.0 + sum(after[1:])  # the first after a silence may hold what flowed in it


def test_what_comes_late_of_a_service_that_is_over_is_not_believed(site: Site) -> None:
    ten_minutes(site, 1, dead=1.0)
    site.ask({"id": "1", "action": "service", "signal": "dead", "for_s": 3600})
    during = site.clock.at + timedelta(minutes=30)
    ten_minutes(site, 12)
    before = dead(site)
    site.restart()
    site.turn(site.message("skov/farm1/house1", {"at": during.isoformat(), "dead": 50.0}))
    ten_minutes(site, 1)
    assert dead(site) == before


def test_a_sensor_that_was_away_for_days_during_its_service_is_believed_when_it_is_back(site: Site) -> None:
    ten_minutes(site, 1, dead=1.0)
    site.ask({"id": "1", "action": "service", "signal": "dead", "for_s": 4 * 86_400})
    for _ in range(5):
        site.clock.wait(86_400)
        ten_minutes(site, 6)
    ten_minutes(site, 1, dead=3.0)
    assert dead(site) == 2.0 + 3.0  # the first after a silence may hold what flowed in it


def test_a_service_that_is_open_goes_on_in_a_new_database(site: Site) -> None:
    ten_minutes(site, 1, dead=1.0)
    site.ask({"id": "1", "action": "service", "signal": "dead", "for_s": 7200})
    ten_minutes(site, 1, dead=50.0)
    site.store.begin_anew("a page is damaged", site.clock.at)
    site.agent.tell(site.store)
    site.restart()
    ten_minutes(site, 3, dead=50.0)
    assert dead(site) == 2.0


def test_a_service_that_is_open_is_taken_over_from_a_damaged_database(site: Site) -> None:
    ten_minutes(site, 1, dead=1.0)
    site.ask({"id": "1", "action": "service", "signal": "dead", "for_s": 7200})
    site.ask({"id": "2", "action": "service", "signal": "temperature", "for_s": 60})
    site.ask({"id": "3", "action": "record", "date": "2026-03-09", "dead": 1})
    path = site.config.data.house_db
    assert [change.detail["signal"] for change in salvage(path).services] == ["dead", "temperature"]
    known = Unstored.after(salvage(path), "the disk takes nothing").restore()
    assert [change.detail["signal"] for change in known.services] == ["dead", "temperature"]
    site.close()
    path.write_bytes(bytes(4096) + path.read_bytes()[4096:])
    site.restart()
    ten_minutes(site, 3, dead=50.0)
    assert dead(site) == 2.0


def test_a_sensor_that_first_speaks_while_its_kind_is_serviced_is_not_believed_either(site: Site) -> None:
    ten_minutes(site, 1, dead=1.0)
    site.ask({"id": "1", "action": "service", "signal": "dead", "for_s": 3600})
    ten_minutes(site, 4, **{"dead-2": 50.0})
    assert dead(site) == 2.0
    ten_minutes(site, 4, **{"dead-2": 1.0})
    assert 2.0 < dead(site) <= 6.0


def test_a_service_of_no_seconds_ends_the_one_that_goes_on(site: Site) -> None:
    ten_minutes(site, 1, dead=1.0)
    site.ask({"id": "1", "action": "service", "signal": "dead", "for_s": 6 * 3600})
    ten_minutes(site, 2, dead=50.0)
    site.ask({"id": "2", "action": "service", "signal": "dead", "for_s": 0})
    site.restart()
    ten_minutes(site, 3, dead=1.0)
    assert 2.0 < dead(site) <= 8.0


def test_a_service_of_a_sensor_that_nobody_heard_of_says_so(site: Site) -> None:
    ten_minutes(site, 1, dead=1.0)
    answer = site.ask({"id": "1", "action": "service", "signal": "amonia", "for_s": 3600})
    assert answer["ok"]  # it may come yet
    assert answer["note"] == "no sensor 'amonia' was heard of in house1, only dead, temperature"
    assert "note" not in site.ask({"id": "2", "action": "service", "signal": "temperature", "for_s": 60})


def test_nobody_misses_a_sensor_that_is_being_serviced(site: Site) -> None:
    ten_minutes(site, 30, ammonia=8.0)
    site.ask({"id": "1", "action": "service", "signal": "ammonia", "for_s": 6 * 3600})
    ten_minutes(site, 30)
    assert moves_of(site, "missing-ammonia") == [("suppressed", "service")]
    ten_minutes(site, 18)
    assert moves_of(site, "missing-ammonia")[-1] == ("active", "on_delay_over")  # it did not come back


def moves_of(site: Site, rule: str) -> list[tuple[str, str]]:
    rows = site.rows("warnings")
    moves = zip(rows["rule"], rows["state"], rows["reason"], strict=True)
    return [(state, reason) for name, state, reason in moves if name == rule]


def test_in_a_replay_too_a_stuck_sensor_is_stuck_until_it_is_replaced(tmp_path: Path) -> None:
    rows = [
        f"{START + n * HOUR / 6:%Y-%m-%dT%H:%MZ},house1,temperature,{25.0 if n < 120 else 21 + n % 5}"
        for n in range(160)
    ]
    (tmp_path / "r.csv").write_text("\n".join(["at,house,signal,value", *rows]) + "\n", encoding="utf-8")
    placed = "house,flock,placed_on,birds_placed,strain,sex,parent_age_weeks,ended_on,slaughter_weight_g"
    (tmp_path / "f.csv").write_text(f"{placed}\nhouse1,A1,2026-03-01,10000,,,,,\n", encoding="utf-8")
    told = '"{""action"": ""service"", ""signal"": ""temperature"", ""for_s"": 0, ""replaced"": true}"'
    (tmp_path / "e.csv").write_text(f"at,house,command\n2026-03-11T07:05Z,house1,{told}\n", encoding="utf-8")
    config = Config()
    nobody = Predictor((), (), config.site.days)
    replay(config, nobody, tmp_path / "r.csv", tmp_path / "f.csv", tmp_path / "e.csv", tmp_path / "out")
    quality = (tmp_path / "out" / "quality.csv").read_text(encoding="utf-8").splitlines()
    [stuck] = [row.split(",") for row in quality if ",stuck," in row]
    assert stuck[:4] == ["house1", "temperature", "2026-03-10T12:00:00Z", "2026-03-11T07:05:00Z"]


def test_a_sensor_that_was_replaced_forgets_how_the_old_one_was(site: Site) -> None:
    ten_minutes(site, 12, ammonia=8.0)
    for number in range(12):
        ten_minutes(site, 1, **{"ammonia-1": 10.0 + number % 3, "ammonia-2": 10.5 + number % 3})
    peers = site.agent.peers._peer_of
    known = [key for key in peers if key.signal == "ammonia-2"]
    assert peers[known[0]].usual is not None
    assert site.agent.quality.rhythm_s(known[0]) == 300.0
    answer = site.ask({"id": "1", "action": "service", "signal": "ammonia-2", "for_s": 0, "replaced": True})
    assert answer["ok"]
    assert peers[known[0]].usual is None
    assert site.agent.quality.rhythm_s(known[0]) is None
    other = next(key for key in peers if key.signal == "ammonia-1")
    assert peers[other].usual is not None
    ten_minutes(site, 3, **{"ammonia-1": 10.0, "ammonia-2": 14.0})
    assert site.agent.quality.rhythm_s(known[0]) == 300.0
