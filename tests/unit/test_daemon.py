"""The agent's loop in one process: a real store, a stand-in bus with the real interface, and time that is ours."""

from __future__ import annotations

import json
import random
import sqlite3
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest

from agent.bus import Bus, BusCounters
from agent.config import Config
from agent.daemon import MESSAGES_PER_TURN, OBSERVE_WITHIN_S, Agent
from agent.dialects import Decoder
from agent.domain import HouseState, Message, Reason, WarningState, to_ms
from agent.errors import StoreError
from agent.grid import INSTANTS_PER_TURN, PATIENCE_S, Grid
from agent.orders import REFUSED_PER_HOUR
from agent.predict import Predictor
from agent.status import status_value
from agent.store import PRUNE_ROWS, Store, StoreReader
from agent.topics import Topics
from agent.watch import GRID
from tests.sparkplug_b import metric, payload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

START = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
ROOT = "flockwatch/farm1"
FLOCK = f"{ROOT}/house1/flock/command"


@dataclass
class FakeClock:
    """Time that a test moves."""

    at: datetime = START
    real_s: float = 1_000.0
    trusted: bool = True

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.real_s

    def is_trusted(self) -> bool:
        return self.trusted

    def wait(self, seconds: float) -> None:
        """Let real time pass, and the farm's with it."""
        self.real_s += seconds
        self.at += timedelta(seconds=seconds)


@dataclass
class FakeBus:
    """What the agent sees of a bus; remembers, in order, what was acknowledged and published."""

    is_connected: bool = True
    connection: int = 1
    last_error: str | None = None
    counters: BusCounters = field(default_factory=BusCounters)
    log: list[str] = field(default_factory=list)
    acked: list[Message] = field(default_factory=list)
    published: list[tuple[str, bytes, bool]] = field(default_factory=list)
    retained: dict[str, bytes] = field(default_factory=dict)
    dead: str | None = None

    def acknowledge(self, messages: Sequence[Message]) -> bool:
        self.log.append("acknowledge")
        self.acked += messages
        return True

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> bool:
        self.published.append((topic, payload, retain))
        if retain:
            self.retained[topic] = payload
        return True

    def unhealthy(self) -> str | None:
        return self.dead

    def published_on(self, topic: str) -> int:
        """Return how many messages were published on a topic."""
        return sum(1 for t, _, _ in self.published if t == topic)

    def on(self, topic: str) -> list[Any]:
        """Return what was published on a topic, decoded; None for the empty payload."""
        return [json.loads(payload) if payload else None for t, payload, _ in self.published if t == topic]


class WatchedStore(Store):
    """The real store, which writes into a log when it has committed, and fails when it is told to."""

    log: list[str]
    failing: str | None = None  # append | record | all
    fail_from: int = 1  # the how manieth call of it fails

    def _fails(self, what: str) -> None:
        if self.failing in {what, "all"}:
            self.fail_from -= 1
            if self.fail_from <= 0:
                message = "house.db: the disk is full; make room"
                raise StoreError(message)

    def append(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # whatever the real one takes and gives
        self._fails("append")
        readings = super().append(*args, **kwargs)
        self.log.append("commit")
        return readings

    def record(self, **kwargs: Any) -> None:  # noqa: ANN401  # as above
        self._fails("record")
        super().record(**kwargs)
        if kwargs.get("commands"):
            self.log.append("commit command")


class Site:
    """An agent that can be killed and started again; everything but the broker is real."""

    def __init__(self, folder: Path, config: dict[str, Any] | None = None) -> None:
        self.config = Config.model_validate(
            {"data": {"directory": folder}, "house": [{"id": "house1"}, {"id": "house2"}], **(config or {})}
        )
        self.clock = FakeClock()
        self.bus = FakeBus()
        self._stack = ExitStack()
        self._mid = 0
        self.start()

    def start(self) -> None:
        self.store = self._stack.enter_context(WatchedStore.open(self.config.data.house_db))
        self.store.log = self.bus.log
        predictor = Predictor((), (), self.config.site.days)
        self.agent = Agent(self.config, self.clock, self.store, cast("Bus", self.bus), predictor, Decoder(self.config))

    def restart(self) -> None:
        self._stack.close()
        self.bus.connection += 1
        self.start()

    def close(self) -> None:
        self._stack.close()

    def message(self, topic: str, payload: bytes | dict[str, Any] | float, **changes: Any) -> Message:  # noqa: ANN401
        """Return a message as it would come in now."""
        self._mid += 1
        content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        fields = {
            "qos": 1,
            "mid": self._mid,
            "dup": False,
            "retain": False,
            "connection": 1,
            "received_ms": to_ms(self.clock.at),
            "received_monotonic": self.clock.real_s,
        }
        return Message(topic, content, **{**fields, **changes})

    def reading(self, house: str = "house1", value: float = 21.0, at: datetime | None = None) -> Message:
        when = (at or self.clock.at).isoformat()
        return self.message(f"skov/farm1/{house}/temperature", {"value": value, "at": when})

    def turn(self, *messages: Message) -> None:
        self.agent.turn_or_hold(messages)

    def ask(self, command: dict[str, Any], topic: str = FLOCK) -> Any:  # noqa: ANN401  # what JSON holds
        """Send a command in a turn of its own; return its answer."""
        self.turn(self.message(topic, command))
        return self.bus.on(topic.removesuffix("command") + "response")[-1]

    def minutes(self, count: int, houses: Sequence[str] = ("house1", "house2")) -> None:
        """Let so many minutes pass, with a reading of each house in each."""
        for _ in range(count):
            self.clock.wait(60)
            self.turn(*(self.reading(house, 21 + 0.01 * (self._mid % 9)) for house in houses))

    def rows(self, stream: str) -> dict[str, list[Any]]:
        with StoreReader.open(self.config.data.house_db) as reader:
            return reader.rows(stream, 1, reader.last_seq(stream))


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def make(**config: Any) -> Site:  # noqa: ANN401  # sections of agent.toml
        sites.append(Site(tmp_path / f"data{len(sites)}", config))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


# --- the grid


@dataclass
class Ready:
    """A house that is ready up to an instant."""

    house: str
    up_to: datetime

    def is_ready(self, at: datetime, _monotonic: float) -> bool:
        return at <= self.up_to


def due(grid: Grid, now: datetime, houses: Sequence[Ready], monotonic: float = 0.0) -> list[datetime]:
    return list(grid.due(now, cast("Any", houses), monotonic))


def test_the_grid_is_in_event_time_and_each_instant_comes_once() -> None:
    grid = Grid(START + timedelta(minutes=7))
    assert grid.last == START
    now = START + timedelta(minutes=35)
    assert due(grid, now, []) == [START + timedelta(minutes=m) for m in (10, 20, 30)]
    assert due(grid, now, []) == []


def test_an_instant_waits_for_the_readings_of_every_house() -> None:
    grid, now = Grid(START), START + timedelta(hours=1)
    houses = [Ready("house1", START + timedelta(hours=2)), Ready("house2", START + timedelta(minutes=20))]
    assert due(grid, now, houses) == [START + timedelta(minutes=m) for m in (10, 20)]
    houses[1] = Ready("house2", START + timedelta(minutes=30))
    assert due(grid, now, houses) == [START + timedelta(minutes=30)]


def test_a_backlog_is_judged_in_parts_and_until_then_what_stands_is_history() -> None:
    grid, now = Grid(START), START + timedelta(days=1)
    turns = []
    while instants := due(grid, now, []):
        turns.append((len(instants), grid.is_behind))
    assert turns == [(INSTANTS_PER_TURN, True)] * 5 + [(24, False)]
    assert grid.last == now


def test_a_house_whose_clock_is_wrong_holds_up_the_others_only_once() -> None:
    """It sends without a pause, so it is never silent, and its readings never pass the instant."""
    grid, lost, well = Grid(START), Ready("house1", START - timedelta(days=9)), Ready("house2", START + timedelta(9))
    now = START + timedelta(minutes=20)
    assert due(grid, now, [lost, well], 0.0) == []
    assert due(grid, now, [lost, well], PATIENCE_S - 0.1) == []
    assert len(due(grid, now, [lost, well], PATIENCE_S)) == 2
    assert len(due(grid, now + GRID, [lost, well], PATIENCE_S + 1)) == 1
    found = Ready("house1", now + GRID)  # it has the right time again, and is waited for again
    assert due(grid, now + 2 * GRID, [found, well], PATIENCE_S + 2) == []
    found.up_to = now + 3 * GRID
    assert len(due(grid, now + 2 * GRID, [found, well], PATIENCE_S + 3)) == 1


# --- topics


@pytest.mark.parametrize(
    ("topic", "place"),
    [
        ("flockwatch/farm1/house1/flock/command", ["house1", "flock"]),
        ("flockwatch/farm1/house1/warning/deviation-water/command", ["house1", "warning", "deviation-water"]),
        ("flockwatch/farm1/house1/drill/command", ["house1", "drill"]),
        ("flockwatch/farm1/house1/command", None),
        ("flockwatch/farm1/house1/warning/command", None),
        ("flockwatch/farm1/house1/warning/a/b/command", None),
        ("flockwatch/farm1/house1/flock/response", None),
        ("flockwatch/farm2/house1/flock/command", None),
        ("flockwatch/farm1x/house1/flock/command", None),
        ("skov/farm1/house1/flock", None),
    ],
)
def test_a_commands_topic_says_whom_it_is_for(topic: str, place: list[str] | None) -> None:
    assert Topics("flockwatch", "farm1").command(topic) == place


def test_topics_are_those_of_the_contract() -> None:
    topics = Topics("a/b", "farm1")
    assert topics.health == "a/b/farm1/health"
    assert topics.severity("h") == "a/b/farm1/h/severity"
    assert topics.warning("h", "deviation-water") == "a/b/farm1/h/warning/deviation-water"
    assert topics.prediction("h", "weight_g") == "a/b/farm1/h/prediction/weight_g"
    own = ("flock", "warning/+", "drill")
    assert topics.commands == tuple(f"a/b/farm1/+/{what}/command" for what in own)


# --- readings


def test_a_reading_is_committed_before_it_is_acknowledged(site: Site) -> None:
    message = site.reading()
    site.turn(message)
    assert site.bus.log[:2] == ["commit", "acknowledge"]
    assert site.bus.acked == [message]
    assert site.rows("readings")["value"] == [21.0]


def test_what_a_failing_store_did_not_take_is_not_acknowledged_and_is_taken_up_again(site: Site) -> None:
    site.store.failing = "append"
    messages = [site.reading(value=20.0), site.message("skov/farm1/house2/water", b"12")]
    site.turn(*messages)
    assert site.bus.acked == []
    assert "disk is full" in site.agent.health.degraded["store"]
    site.clock.wait(1)
    site.store.failing = None
    later = site.reading(value=20.1)
    site.turn(later)  # too early: a store that failed is left alone for a moment
    assert site.bus.acked == []
    site.clock.wait(5)
    site.turn()
    assert site.bus.acked == [*messages, later]
    assert sorted(site.rows("readings")["value"]) == [12.0, 20.0, 20.1]
    assert "store" not in site.agent.health.degraded


def test_readings_without_a_time_are_not_doubled_when_the_store_fails_after_it_took_them(site: Site) -> None:
    """They look new when they are decoded once more: their identity is their arrival."""
    site.store.failing = "record"
    site.turn(
        site.message("skov/farm1/house1/water", b"12"),
        site.message(FLOCK, {"id": "p", "action": "place", "birds_placed": 100}),
    )
    assert site.bus.acked == []
    site.store.failing = None
    site.clock.wait(10)
    site.turn(site.message("skov/farm1/house1/water", b"13"))
    assert len(site.bus.acked) == 3
    assert site.rows("readings")["value"] == [12.0, 13.0]
    assert site.agent.watches[0].last_reading_at() == site.clock.at  # and both were observed


def test_what_was_acknowledged_is_never_acknowledged_again(site: Site) -> None:
    """Its number may be that of another message by then, which is not in the store."""
    site.minutes(30)
    site.clock.wait(600)
    site.store.failing, site.store.fail_from = "record", 1
    message = site.reading()
    site.turn(message)
    assert site.bus.acked[-1] == message
    assert "store" in site.agent.health.degraded
    site.store.failing = None
    site.clock.wait(10)
    site.turn()
    assert site.bus.acked.count(message) == 1
    assert "store" not in site.agent.health.degraded


def test_what_was_judged_while_the_store_failed_is_recorded_later(site: Site) -> None:
    site.ask({"id": "p", "action": "place", "birds_placed": 10_000})
    site.minutes(30)
    site.clock.wait(3600)
    site.store.failing = "record"
    site.turn()
    site.clock.wait(10)
    site.turn()
    assert site.rows("warnings")["at"] == []
    site.store.failing = None
    site.clock.wait(10)
    site.turn()
    assert "active" in site.rows("warnings")["state"]
    assert site.store.restore().judged_at == site.agent.grid.last


def test_what_needs_no_acknowledgement_does_not_fill_the_memory_while_the_store_fails(site: Site) -> None:
    site.store.failing = "append"
    site.turn(site.reading())
    for _ in range(3):
        site.turn(*(site.message("skov/farm1/house1/water", b"1", qos=0) for _ in range(1_500)))
    assert len(site.agent._held) <= MESSAGES_PER_TURN + 1
    assert site.agent.health.dropped_qos0 > 2_000
    assert site.agent.health_value("online")["dropped_qos0"] == site.agent.health.dropped_qos0


def test_a_retained_reading_is_ignored_and_counted(site: Site) -> None:
    site.turn(site.message("skov/farm1/house1/water", b"12", retain=True))
    assert site.rows("readings")["value"] == []
    assert site.agent.health_value("online")["retained_ignored"] == 1
    assert len(site.bus.acked) == 1


def test_junk_is_counted_kept_and_acknowledged_and_the_rest_is_stored(site: Site) -> None:
    site.turn(
        site.message("skov/farm1/house1/water", b"\xff\xfe"),
        site.message("skov/other/house1/water", b"1"),
        site.message("skov/farm1/house9/water", b"1"),
        site.message("elsewhere", b"1"),
        site.reading(),
    )
    assert len(site.bus.acked) == 5
    assert len(site.rows("readings")["value"]) == 2
    value = site.agent.health_value("online")
    assert value["unknown_houses"] == ["house9"]
    assert sum(cast("dict[str, int]", value["rejected"]).values()) == 3


def test_what_a_sparkplug_node_sends_is_readable_after_a_restart_and_the_node_is_asked_for_its_birth(
    make_site: Callable[..., Site],
) -> None:
    """Acknowledged is kept: aliases mean nothing without the birth that came before the restart."""
    topic = "spBv1.0/{group}/{message}/{node}/{house}"
    site = make_site(source=[{"topic": topic, "dialect": "sparkplug"}])
    at_ms = to_ms(site.clock.at)
    co2 = metric(name="co2", alias=4, long_value=900, timestamp=at_ms)
    site.turn(
        site.message("spBv1.0/g/NBIRTH/n", payload(seq=0)),
        site.message("spBv1.0/g/DBIRTH/n/house1", payload(co2, seq=1)),
    )
    assert site.bus.published_on("spBv1.0/g/NCMD/n") == 0
    site.restart()
    site.turn(
        site.message("spBv1.0/g/DDATA/n/house1", payload(metric(alias=4, long_value=901), seq=2, timestamp=at_ms + 1))
    )
    assert site.store.counters.appended == 1
    assert site.bus.published_on("spBv1.0/g/NCMD/n") == 1


def test_a_reading_that_came_again_is_stored_and_seen_once(site: Site) -> None:
    message = site.reading()
    site.turn(message)
    site.turn(message)
    assert site.rows("readings")["value"] == [21.0]
    assert site.store.counters.duplicates == 1


def test_readings_wait_for_company_but_not_beyond_five_seconds_nor_an_instant(site: Site) -> None:
    watch, seen = site.agent.watches[0], []
    for _ in range(12):
        site.turn(site.reading())
        seen.append(watch.last_reading_at())
        site.clock.wait(1)
    times = [at for at in seen if at is not None]
    assert seen[0] is None
    assert 2 <= len(set(times)) <= 3
    assert START + timedelta(seconds=12 - OBSERVE_WITHIN_S) <= times[-1]
    site.clock.wait(-1 + (site.agent.grid.last + GRID - site.clock.at).total_seconds())
    site.turn(site.reading())
    site.clock.wait(1)
    site.turn(site.reading(), site.reading("house2"))
    assert watch.last_reading_at() == site.clock.at == site.agent.grid.last


def test_what_waits_to_be_observed_does_not_number_a_database_that_was_begun_anew(site: Site) -> None:
    """The new one counts from 1: what the windows saw of the old one's rows says nothing about its own."""
    site.minutes(30)
    site.clock.wait(1)
    site.turn(site.reading())  # stored, and waits for company
    site.agent._damage = "house.db is damaged"
    site.minutes(11)
    with closing(sqlite3.connect(site.config.data.house_db)) as db:
        (observed_seq,) = db.execute("SELECT value FROM meta WHERE key = 'observed_seq'").fetchone()
    assert 0 < int(observed_seq) <= site.store.last_seq


def test_an_instant_that_falls_due_within_a_turn_waits_for_what_the_turn_took(site: Site) -> None:
    """The clock goes on while a turn stores: on an accelerated farm by more than an instant."""
    seen = []
    watch = site.agent.watches[0]
    judge, acknowledge = watch.judge, site.bus.acknowledge

    def judge_seen(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # whatever the real one takes and gives
        seen.append(watch.last_reading_at())
        return judge(*args, **kwargs)

    def acknowledge_slowly(messages: Sequence[Message]) -> bool:
        site.clock.wait(5)
        return acknowledge(messages)

    watch.judge = judge_seen  # type: ignore[method-assign]
    site.turn(site.reading(), site.reading("house2"))
    site.clock.wait((site.agent.grid.last + GRID - site.clock.at).total_seconds() - 1)
    site.turn(site.reading(), site.reading("house2"))  # what was there before is observed
    ahead_at = site.agent.grid.last + GRID
    ahead = [site.reading(house, at=ahead_at) for house in ("house1", "house2")]
    site.bus.acknowledge = acknowledge_slowly  # type: ignore[method-assign]
    site.turn(*ahead)
    assert seen == [ahead_at]


def test_a_backlog_with_slow_models_leaves_the_turn_time_for_what_comes_in(site: Site) -> None:
    """The watchdog would take an agent that judges for minutes for a dead one."""
    watch, grid = site.agent.watches[0], site.agent.grid
    judge = watch.judge
    site.clock.wait(3 * 3600)

    def slow(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # whatever the real one takes and gives
        site.clock.real_s += 4.0
        return judge(*args, **kwargs)

    watch.judge = slow  # type: ignore[method-assign]
    counts = []
    while grid.last < START + timedelta(hours=1):
        before = grid.last
        site.turn()
        counts.append((grid.last - before) // GRID)
        assert grid.is_behind
    assert counts == [3, 3]


# --- commands


@pytest.mark.parametrize("kind", ["increment", "counter"])
@pytest.mark.parametrize("step_s", [2, 60])  # with the shorter one, the readings of some turns are observed together
@pytest.mark.parametrize("seed", range(3))
def test_no_amount_is_lost_or_doubled_by_restarts_and_redeliveries(
    tmp_path: Path, kind: str, seed: int, step_s: int
) -> None:
    """Store, windows and restarts together: what is stored after the last record is observed once more, and once."""
    chance = random.Random(seed)
    house = {"id": "house1", "signals": {"dead": {"kind": kind}}}
    site = Site(tmp_path, {"house": [house], "site": {"timezone": "Europe/Copenhagen"}})
    sent: list[Message] = []
    told: list[int] = []
    for _ in range(150 if step_s == 60 else 400):
        site.clock.wait(step_s)
        told.append(chance.randrange(3, 9))
        value = sum(told) if kind == "counter" else told[-1]
        document = {"value": value, "at": site.clock.at.isoformat()}
        sent.append(site.message("skov/farm1/house1/dead", document))
        again = chance.sample(sent[-20:], chance.randrange(min(len(sent), 4)))
        site.turn(sent[-1], *(replace(message, dup=True) for message in again))
        if chance.random() < 0.1:  # between two instants of the grid as well as after one
            site.restart()
    site.clock.wait(60)
    site.turn()
    first = 1 if kind == "counter" else 0  # before a counter's first total nobody knows
    totals = site.agent.watches[0].window.day_totals({"dead"}, START.date())
    assert sum(total for _, total in totals) == sum(told[first:])
    site.close()


def test_a_sensor_that_left_its_twin_is_told_kept_over_a_restart_and_believed_when_it_is_back(site: Site) -> None:
    """In the events from its first hour on, in the warnings after two, and after a restart without a pause."""

    def minutes(count: int, off: float) -> None:
        for _ in range(count):
            site.clock.wait(60)
            level = 21 + 0.01 * (site._mid % 9)
            document = {"temperature-1": level, "temperature-2": level + off, "at": site.clock.at.isoformat()}
            site.turn(site.message("skov/farm1/house1", document))

    def events() -> list[tuple[str, bool]]:
        with StoreReader.open(site.config.data.house_db) as reader:
            found = reader.rows("events", 1, 10_000)
        rows = zip(found["kind"], found["signal"], found["to_at"], strict=True)
        return [(signal, to is None) for kind, signal, to in rows if kind == "quality"]

    site.ask({"id": "1", "action": "place", "flock": "f1", "placed_on": "2026-03-01", "birds_placed": 10_000})
    minutes(300, 0.5)
    minutes(90, 9.5)
    assert events() == [("temperature-2", True)]
    site.restart()
    minutes(60, 9.5)
    rule = f"{ROOT}/house1/warning/disagree-temperature-2"
    site.restart()
    minutes(60, 9.5)
    shown = site.bus.on(rule)[-1]
    assert (shown["state"], shown["about"], shown["signal"]) == ("active", "equipment", "temperature-2")
    minutes(100, 0.5)
    assert site.bus.retained[rule] == b""
    assert events()[-1] == ("temperature-2", False)


def test_the_same_id_is_done_once_and_its_answer_repeated_also_after_a_restart(site: Site) -> None:
    site.ask({"id": "a", "action": "place", "birds_placed": 10_000})
    answer = site.ask({"id": "b", "action": "thin", "birds": 1_000})
    assert answer == {
        "id": "b",
        "ok": True,
        "done": "thin",
        "state": "thinned",
        "flock": "2026-03-10",
        "day_number": 0,
        "birds_placed": 10_000,
    }
    assert site.ask({"id": "b", "action": "thin", "birds": 1_000}) == answer
    site.restart()
    assert site.ask({"id": "b", "action": "thin", "birds": 1_000}) == answer
    flock = site.agent.watches[0].life.flock
    assert flock is not None
    assert flock.thinned_birds == 1_000
    assert site.rows("flocks")["action"] == ["place", "thin"]


def test_a_command_without_id_is_done_once_a_minute(site: Site) -> None:
    site.ask({"action": "place", "birds_placed": 10_000})
    thin = {"action": "thin", "birds": 1_000}
    first = site.ask(thin)
    site.clock.wait(59)
    assert site.ask(thin) == first
    assert site.rows("flocks")["action"] == ["place", "thin"]
    site.clock.wait(2)
    site.ask(thin)
    assert site.rows("flocks")["action"] == ["place", "thin", "thin"]


def test_a_retained_command_is_ignored_and_acknowledged(site: Site) -> None:
    """Somebody left it at the broker: it would be done again with every new subscription."""
    site.turn(site.message(FLOCK, {"id": "a", "action": "place"}, retain=True))
    assert site.rows("flocks")["action"] == []
    assert len(site.bus.acked) == 1
    assert site.bus.on(f"{ROOT}/house1/flock/response") == []
    assert site.agent.health.retained_ignored == 1


@pytest.mark.parametrize(
    ("topic", "payload", "error"),
    [
        (FLOCK, b'{"id":"x","action":"thin","birds":5}', "no flock is in house1: place one first"),
        (FLOCK, b'{"id":"x","action":"fly"}', "fly"),
        (f"{ROOT}/house7/flock/command", b'{"id":"x","action":"end"}', "house 'house7' is not in the configuration"),
        (f"{ROOT}/house1/warning/silent/command", b'{"id":"x","action":"acknowledge"}', "no warning 'silent' stands"),
        (FLOCK, b'{"id":"x","action":"place","placed_on":"0001-01-01"}', "more than a year ago"),
        (FLOCK, b'{"id":"x","action":"place","planned_end_on":"9999-12-31"}', "more than a year after"),
    ],
)
def test_what_cannot_be_done_is_answered_with_the_reason(site: Site, topic: str, payload: bytes, error: str) -> None:
    site.turn(site.message(topic, payload))
    [answer] = site.bus.on(topic.removesuffix("command") + "response")
    assert (answer["id"], answer["ok"]) == ("x", False)
    assert error in answer["error"]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe\xfa",
        b"[" * 100_000,
        b'{"id":' * 50_000,
        b'{"id":"\\ud800","action":"end"}',
        b'{"id":"a","by":"\\ud800","action":"place"}',
        b'{"id":7,"action":"end"}',
        b'{"id":"' + b"a" * 5_000 + b'","action":"end"}',
        b"null",
        b"NaN",
        b'{"action":"thin","birds":1e400}',
        b'{"action":"place","placed_on":"99999-01-01"}',
        b'{"action":"end","at":"0001-01-01T00:00:00+14:00"}',
        b'{"action":"thin","birds":3,"at":"9999-12-31T23:59:59-14:00"}',
    ],
)
@pytest.mark.parametrize("topic", [FLOCK, f"{ROOT}/house1/warning/silent/command"])
def test_no_command_whatever_its_bytes_stops_the_agent(site: Site, topic: str, payload: bytes) -> None:
    """A message that kills the agent comes again after the restart, for ever."""
    site.ask({"id": "p", "action": "place", "birds_placed": 100})
    site.turn(site.message(topic, payload))
    site.minutes(11)
    assert site.bus.on(topic.removesuffix("command") + "response")[-1]["ok"] is False
    site.restart()
    site.minutes(11)


def test_a_command_that_could_not_be_stored_is_not_done_until_it_is(site: Site) -> None:
    site.ask({"id": "p", "action": "place", "birds_placed": 10_000})
    site.store.failing = "record"
    site.turn(site.message(FLOCK, {"id": "t", "action": "thin", "birds": 1_000}))
    assert site.agent.watches[0].life.state is HouseState.ACTIVE
    site.store.failing = None
    site.clock.wait(10)
    site.turn()
    assert site.bus.on(f"{ROOT}/house1/flock/response")[-1]["ok"] is True
    flock = site.agent.watches[0].life.flock
    assert flock is not None
    assert flock.thinned_birds == 1_000
    assert site.rows("flocks")["action"] == ["place", "thin"]


def test_a_command_is_stored_before_it_is_acknowledged(site: Site) -> None:
    site.ask({"id": "p", "action": "place"})
    assert site.bus.log == ["commit", "commit command", "acknowledge"]


# --- warnings out


def silent_site(site: Site) -> str:
    """Let house1 fall silent until that is told; return the alert's topic."""
    site.ask({"id": "p", "action": "place", "birds_placed": 10_000})
    site.minutes(30)
    site.minutes(60, houses=["house2"])
    return f"{ROOT}/house1/warning/silent"


@pytest.mark.parametrize("is_restarted", [False, True])
def test_after_a_clock_was_set_back_a_shelf_lasts_as_long_as_it_was_to(site: Site, *, is_restarted: bool) -> None:
    topic = silent_site(site)
    site.ask({"id": "s", "action": "shelve", "for_s": 3_600}, f"{topic}/command")
    site.clock.at -= timedelta(hours=5)
    if is_restarted:
        site.restart()
    site.minutes(50, houses=["house2"])
    standing = site.agent.watches[0].standings["silent"]
    assert (standing.state, standing.reason) == (WarningState.SHELVED, Reason.SHELVED_BY)
    [kept] = [known for known in site.store.restore().standings if known.rule == "silent"]
    assert (kept.shelved_until, kept.since) == (standing.shelved_until, standing.since)
    site.minutes(25, houses=["house2"])
    assert site.agent.watches[0].standings["silent"].reason is Reason.SHELF_TIME_OVER


def test_a_warning_is_retained_with_every_key_and_the_severity_beside_it(site: Site) -> None:
    topic = silent_site(site)
    shown = json.loads(site.bus.retained[topic])
    assert (shown["state"], shown["rule"], shown["house"], shown["flock"]) == (
        "active",
        "silent",
        "house1",
        "2026-03-10",
    )
    assert all(retain for t, _, retain in site.bus.published if t == topic)
    assert site.bus.retained[f"{ROOT}/house1/severity"] == b"2"
    assert site.bus.retained[f"{ROOT}/house2/severity"] == b"0"


def test_a_warning_that_is_over_says_normal_once_and_empties_its_topic(site: Site) -> None:
    topic = silent_site(site)
    before = len(site.bus.on(topic))
    site.minutes(12)
    last = site.bus.on(topic)[before:]
    assert [said and said["state"] for said in last[-2:]] == ["normal", None]
    assert [said for said in last[:-2] if said["state"] == "normal"] == []
    assert site.bus.retained[topic] == b""
    assert site.bus.retained[f"{ROOT}/house1/severity"] == b"0"
    count = len(site.bus.on(topic))
    site.minutes(20)
    assert len(site.bus.on(topic)) == count


def test_what_is_pending_is_in_the_store_only(site: Site) -> None:
    site.ask({"id": "p", "action": "place", "birds_placed": 10_000})
    site.minutes(30)
    site.minutes(12, houses=["house2"])
    assert site.agent.watches[0].standings["silent"].state is WarningState.PENDING
    rows = site.rows("warnings")
    assert dict(zip(rows["rule"], rows["state"], strict=True)) == {
        "silent": "pending",
        "missing-temperature": "suppressed",  # the silence of the house explains it
    }
    assert not [topic for topic in site.bus.retained if topic.startswith(f"{ROOT}/house1/warning/")]


def test_after_a_new_connection_everything_is_published_again(site: Site) -> None:
    topic = silent_site(site)
    site.bus.retained.clear()
    site.turn()
    assert topic not in site.bus.retained
    site.bus.connection += 1
    site.turn()
    assert json.loads(site.bus.retained[topic])["state"] == "active"
    assert set(site.bus.retained) >= {f"{ROOT}/{h}/severity" for h in ("house1", "house2")} | {f"{ROOT}/health"}


def test_after_a_restart_the_standing_warning_is_shown_again_and_is_the_same(site: Site) -> None:
    topic = silent_site(site)
    before = json.loads(site.bus.retained[topic])
    site.bus.retained.clear()
    site.restart()
    site.turn()
    after = json.loads(site.bus.retained[topic])
    assert {key: after[key] for key in ("id", "state", "severity", "since", "raised_at", "flock")} == {
        key: before[key] for key in ("id", "state", "severity", "since", "raised_at", "flock")
    }


def test_the_severity_is_told_every_minute_of_real_time_even_if_nothing_changes(site: Site) -> None:
    topic = f"{ROOT}/house1/severity"
    site.turn()
    count = len(site.bus.on(topic))
    site.clock.real_s += 59
    site.turn()
    assert len(site.bus.on(topic)) == count
    site.clock.real_s += 1
    site.turn()
    assert len(site.bus.on(topic)) == count + 1


def test_history_raises_no_stale_alert(site: Site) -> None:
    """After two days of downtime, what rose and cleared meanwhile is in the store, and was never shown."""
    site.ask({"id": "p", "action": "place", "birds_placed": 10_000})
    site.minutes(30)
    site.restart()
    site.clock.wait(48 * 3600)
    for _ in range(3):
        site.turn()
    assert site.agent.watches[0].standings["silent"].state is WarningState.ACTIVE
    for _ in range(20):
        site.turn(site.reading("house1"), site.reading("house2"))
        site.clock.real_s += 1
    assert site.agent.grid.last + GRID > site.clock.at
    states = [said["state"] for said in site.bus.on(f"{ROOT}/house1/warning/silent") if said]
    assert "active" in site.rows("warnings")["state"]
    assert "active" not in states


def test_an_acknowledgement_is_done_stored_and_shown_at_once(site: Site) -> None:
    topic = silent_site(site)
    answer = site.ask({"id": "k", "action": "acknowledge", "by": "anna"}, f"{topic}/command")
    assert (answer["ok"], answer["state"]) == (True, "acknowledged")
    shown = json.loads(site.bus.retained[topic])
    assert (shown["state"], shown["reason"]) == ("acknowledged", "acknowledged_by")
    assert shown["updated_at"] >= shown["raised_at"]
    assert site.rows("warnings")["by"][-1] == "anna"
    site.ask({"id": "s", "action": "shelve", "for_s": 3600}, f"{topic}/command")
    assert site.bus.retained[f"{ROOT}/house1/severity"] == b"0"
    assert json.loads(site.bus.retained[topic])["state"] == "shelved"


def test_answers_wait_for_the_connection(site: Site) -> None:
    site.bus.is_connected = False
    site.turn(site.message(FLOCK, {"id": "a", "action": "place"}))
    assert site.bus.on(f"{ROOT}/house1/flock/response") == []
    site.bus.is_connected = True
    site.turn()
    assert site.bus.on(f"{ROOT}/house1/flock/response")[0]["id"] == "a"


# --- restart, clock, health


def test_after_a_restart_nothing_is_judged_twice_and_nothing_left_out(site: Site) -> None:
    site.minutes(35)
    last = site.agent.grid.last
    site.restart()
    assert site.agent.grid.last == last
    assert site.agent.watches[0].last_reading_at() == site.clock.at
    site.minutes(10)
    assert site.agent.grid.last == last + GRID


def test_a_thinned_house_is_as_long_a_thinned_one_after_a_restart(site: Site) -> None:
    site.ask({"id": "p", "action": "place", "birds_placed": 10_000})
    site.ask({"id": "t", "action": "thin", "birds": 1_000})
    thinned = site.agent.watches[0].life
    site.clock.wait(3600)
    site.ask({"id": "r", "action": "record", "dead": 3})
    site.restart()
    assert site.agent.watches[0].life.since == thinned.since
    assert site.agent.watches[0].life.state is HouseState.THINNED


def test_with_a_clock_that_nobody_set_readings_are_stored_and_nothing_is_judged(tmp_path: Path) -> None:
    site = Site(tmp_path / "data")
    site._stack.close()
    (tmp_path / "data" / "house.db").unlink()
    site.clock.at, site.clock.trusted = datetime(1970, 1, 1, 0, 5, tzinfo=UTC), False
    site.start()
    site.turn(site.message("skov/farm1/house1/water", b"12"))
    site.clock.wait(3600)
    site.turn()
    assert site.agent.health.instants_judged == 0
    assert site.rows("readings")["time_quality"] == ["untrusted"]
    site.clock.at, site.clock.trusted = START, True
    site.turn()
    assert site.agent.grid.last >= START - GRID  # and not every ten minutes since 1970
    site.close()


def test_health_names_who_is_silent_and_says_once_what_is_wrong(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    silent_site(site)
    value = json.loads(json.dumps(site.agent.health_value("online"), allow_nan=False))
    assert [gap["house"] for gap in value["gaps"]] == ["house1"]
    assert value["houses"]["house1"]["severity"] == 2
    assert value["houses"]["house1"]["day_number"] == 0
    with caplog.at_level("WARNING", "agent.daemon"):
        for _ in range(3):
            site.agent.degrade("store", "full")
    assert len([record for record in caplog.records if "store: full" in record.getMessage()]) == 1


def test_quality_intervals_are_recorded_even_if_the_store_failed_first(site: Site) -> None:
    site.minutes(10)
    site.store.failing = "append"
    site.clock.wait(60)
    site.turn(site.reading(value=900.0))
    site.store.failing = None
    site.clock.wait(60)
    site.turn(site.reading())
    assert "quality" in site.rows("events")["kind"]


def test_every_instant_up_to_the_last_is_marked_as_judged_in_the_store(site: Site) -> None:
    site.minutes(95)
    assert site.store.restore().judged_at == site.agent.grid.last
    assert site.agent.health.instants_judged == 9


def test_flocks_of_both_houses_are_kept_apart(site: Site) -> None:
    site.ask({"id": "1", "action": "place", "flock": "a", "placed_on": "2026-03-01", "birds_placed": 100})
    site.ask({"id": "2", "action": "place", "flock": "b"}, f"{ROOT}/house2/flock/command")
    site.restart()
    first, second = (watch.life.flock for watch in site.agent.watches)
    assert first is not None
    assert second is not None
    assert (first.flock, first.placed_on, second.flock) == ("a", date(2026, 3, 1), "b")


# --- room


def test_a_week_without_a_seal_costs_detail_and_it_is_said(site: Site) -> None:
    for _ in range(9):
        site.minutes(30)
        site.clock.wait(86_400)
    site.minutes(2)
    assert "nothing was sealed for 7 days" in site.agent.health.degraded["history"]
    assert "degraded" in site.rows("events")["kind"]
    assert sum(site.rows("readings_15min")["n"]) + len(site.rows("readings")["seq"]) == 2 * (9 * 30 + 2)


def test_pruning_goes_on_soon_where_there_is_more(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A farm of 1,200 readings a second has more each ten minutes than one call takes."""
    pruned = [0, PRUNE_ROWS, PRUNE_ROWS, 10]
    monkeypatch.setattr(Store, "prune", lambda *_args, **_limits: pruned.pop())
    site.minutes(15)  # at once few; ten minutes later a full call, another with the next turn, and then none is left
    assert pruned == []


def test_a_full_disk_that_sync_tells_of_stands_in_the_health(site: Site) -> None:
    site.minutes(1)
    with closing(sqlite3.connect(site.config.data.sync_db)) as db, db:
        db.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        db.execute("INSERT INTO meta VALUES ('full', 'no room')")
    site.minutes(11)
    assert site.agent.health.degraded["lake"] == "no room"
    with closing(sqlite3.connect(site.config.data.sync_db)) as db, db:
        db.execute("DELETE FROM meta")
    site.minutes(11)
    assert "lake" not in site.agent.health.degraded


def test_what_the_agent_writes_in_a_day_is_known_after_a_restart(site: Site) -> None:
    site.minutes(25)
    site.restart()
    wear = site.agent.health_value("online")["wear"]
    assert isinstance(wear, dict)
    assert wear["bytes_per_day"] is not None
    assert status_value(site.config)["wear"]["card_years"] > 0


# --- who asked what


def test_what_was_asked_is_kept_with_who_and_when_done_or_refused(site: Site) -> None:
    site.ask({"id": "a", "by": "Anna", "action": "place", "birds_placed": 9_000})
    site.ask({"id": "a", "by": "Anna", "action": "place", "birds_placed": 9_000})  # the same again is no second one
    site.ask({"by": "Bo", "action": "explode"})
    site.turn(site.message(f"{ROOT}/house9/flock/command", b"{no json"))
    kept = [
        (house, json.loads(detail))
        for kind, house, detail in zip(
            *(site.rows("events")[name] for name in ("kind", "house", "detail")), strict=True
        )
        if kind == "command"
    ]
    assert [(house, d["to"], d["by"], d["action"], d["ok"]) for house, d in kept] == [
        ("house1", "flock", "Anna", "place", True),
        ("house1", "flock", "Bo", "explode", False),
        (None, "flock", None, None, False),
    ]
    assert kept[2][1]["asked"] == "{no json"


def test_nonsense_cannot_fill_the_disk_with_its_record(site: Site) -> None:
    site.turn(*(site.message(FLOCK, b"nonsense %d" % number) for number in range(REFUSED_PER_HOUR + 20)))
    assert site.rows("events")["kind"].count("command") == REFUSED_PER_HOUR


# --- whoever else is told


def test_a_change_of_a_warning_is_told_once_to_each_topic_that_wants_it(make_site: Callable[..., Site]) -> None:
    hears = {"name": "plc", "by": "topic", "to": "plant/alarms"}
    misses = {"name": "other", "by": "topic", "to": "plant/critical", "min_severity": 4}
    site = make_site(notify=[hears, misses])
    silent_site(site)
    site.turn()
    site.restart()
    site.minutes(2)
    (said,) = site.bus.on("plant/alarms")
    assert (said["rule"], said["state"], said["house"]) == ("silent", "active", "house1")
    assert (said["at"][-1], said["causes"] is not None) == ("Z", True)
    assert site.bus.on("plant/critical") == []


def test_a_controller_that_does_not_confirm_is_a_warning_until_it_does(make_site: Callable[..., Site]) -> None:
    site = make_site(controller=[{"name": "panel1", "houses": ["house2"], "within_s": 30}])
    receipt, topic = f"{ROOT}/house2/receipt/panel1", f"{ROOT}/_site/warning/receipt-panel1"
    for _ in range(3):
        site.turn(site.message(receipt, b"0"))
        site.minutes(1)
    assert site.bus.on(topic) == []
    site.turn(site.message(receipt, b"0", retain=True))  # somebody left it there: it proves nothing
    site.minutes(2)
    told = site.bus.on(topic)[-1]
    assert (told["state"], told["severity"], told["about"]) == ("active", 3, "equipment")
    assert told["text"] == "The controller panel1 has sent no confirmation for house2 for 90 s."
    site.restart()
    site.minutes(1)
    assert site.agent.site._standings["receipt-panel1"].state is WarningState.ACTIVE  # nobody knows better yet
    site.turn(site.message(receipt, b"0"))
    site.turn()
    assert site.bus.on(topic)[-2]["text"] == "The controller panel1 confirms what it is told again."
    assert site.bus.retained[topic] == b""
    assert site.rows("warnings")["rule"].count("receipt-panel1") == 2


def test_that_nobody_tells_people_is_seen_in_health(make_site: Callable[..., Site]) -> None:
    site = make_site(notify=[{"name": "sms", "by": "webhook", "to": "https://sms.example/"}])
    site.turn()
    assert "is flockwatch-sync running" in site.agent.health.degraded["post"]
    with closing(sqlite3.connect(site.config.data.post_db)) as db:
        db.execute("CREATE TABLE meta (key, value)")
        db.execute("INSERT INTO meta VALUES ('trouble', ?)", (json.dumps({"sms": {"since": "now", "why": "503"}}),))
        db.commit()
    site.minutes(2)
    assert site.agent.health.degraded["post"] == "sms since now: 503"
