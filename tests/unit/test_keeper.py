"""A store that fails under the agent: what was acknowledged is durable, the houses are watched on, and all is said.

Real stores and the real agent; the bus is a stand-in with the real interface, and time is ours.
"""

from __future__ import annotations

import json
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest

from agent import keeper as keeper_module
from agent.bus import Bus, BusCounters
from agent.config import Config
from agent.daemon import HOLD_S, Agent
from agent.dialects import Decoder
from agent.domain import Message, to_ms
from agent.errors import StoreDamaged, StoreError, StoreFull, StoreUnwritable
from agent.keeper import TRY_EVERY_S, Keeper, opened
from agent.predict import Predictor
from agent.store import Store, StoreReader, Unstored
from agent.store.reserve import Reserve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

START = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
ROOT = "flockwatch/farm1"
SITE_TOPIC = f"{ROOT}/_site/warning/store"
STUCK_TOPIC = f"{ROOT}/house1/warning/stuck-temperature"
FLOCK = f"{ROOT}/house1/flock/command"
PLACE = {"id": "p", "action": "place", "flock": "A1", "placed_on": "2026-03-01", "birds_placed": 10_000}


@dataclass
class FakeClock:
    at: datetime = START
    real_s: float = 1_000.0

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.real_s

    def is_trusted(self) -> bool:
        return True

    def wait(self, seconds: float) -> None:
        self.real_s += seconds
        self.at += timedelta(seconds=seconds)


@dataclass
class FakeBus:
    """What agent and keeper see of a bus; what came in by the ear is put into ``inbox``."""

    is_connected: bool = True
    connection: int = 1
    last_error: str | None = None
    counters: BusCounters = field(default_factory=BusCounters)
    acked: list[Message] = field(default_factory=list)
    published: list[tuple[str, bytes]] = field(default_factory=list)
    retained: dict[str, bytes] = field(default_factory=dict)
    inbox: list[Message] = field(default_factory=list)
    is_closed: bool = False

    def acknowledge(self, messages: Sequence[Message]) -> bool:
        self.acked += [message for message in messages if message.qos > 0]
        return True

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> bool:
        self.published.append((topic, payload))
        if retain:
            self.retained[topic] = payload
        return True

    def connect(self) -> None:
        """Be there at once."""

    def receive(self, _timeout_s: float, _limit: int) -> list[Message]:
        inbox, self.inbox = self.inbox, []
        return inbox

    def close(self) -> None:
        self.is_closed = True

    def shown(self, topic: str) -> Any:  # noqa: ANN401  # what JSON holds
        """Return what stands on a topic; None where nothing does."""
        payload = self.retained.get(topic, b"")
        return json.loads(payload) if payload else None


class Farm:
    """A keeper and what it is given; the disk fails when it is told to."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config = Config.model_validate(
            {
                "data": {"directory": folder},
                "house": [{"id": "house1", "signals": {"temperature": {"stuck_after_s": 600}}}],
            }
        )
        self.clock, self.bus, self.ear = FakeClock(), FakeBus(), FakeBus()
        self.failing: StoreError | None = None
        self._mid = 0
        for name in ("append", "record"):
            self._wrap(monkeypatch, name)
        monkeypatch.setattr(keeper_module, "Bus", self._make_ear)
        self.ear_arguments: list[tuple[Any, ...]] = []

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        real = getattr(Store, name)

        def call(store: Store, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # whatever the real one takes and gives
            if self.failing is not None:
                raise self.failing
            return real(store, *args, **kwargs)

        monkeypatch.setattr(Store, name, call)

    def _make_ear(self, *args: Any, **_kwargs: Any) -> FakeBus:  # noqa: ANN401  # as above
        self.ear_arguments.append(args)
        self.ear = FakeBus()
        return self.ear

    @contextmanager
    def keeper(self) -> Iterator[Keeper]:
        with (
            closing(opened(self.config, self.clock.at)) as store,
            Keeper(self.config, self.clock, cast("Bus", self.bus), self.agent, [("skov/+/+/+", 1)], store) as keeper,
        ):
            yield keeper

    def agent(self, store: Store | Unstored) -> Agent:
        predictor = Predictor((), (), self.config.site.days)
        return Agent(self.config, self.clock, store, cast("Bus", self.bus), predictor, Decoder(self.config))

    def message(self, topic: str, payload: object, **changes: Any) -> Message:  # noqa: ANN401  # any field of it
        self._mid += 1
        fields = {
            "qos": 1,
            "mid": self._mid,
            "dup": False,
            "retain": False,
            "connection": 1,
            "received_ms": to_ms(self.clock.at),
            "received_monotonic": self.clock.real_s,
        }
        return Message(topic, json.dumps(payload).encode(), **{**fields, **changes})

    def reading(self, value: float = 21.0, **changes: Any) -> Message:  # noqa: ANN401  # as above
        return self.message(
            "skov/farm1/house1/temperature", {"value": value, "at": self.clock.at.isoformat()}, **changes
        )

    def stored(self) -> list[float]:
        with StoreReader.open(self.config.data.house_db) as reader:
            return list(reader.rows("readings", 1, 2**62)["value"])

    def rows(self, stream: str) -> list[dict[str, Any]]:
        with StoreReader.open(self.config.data.house_db) as reader:
            columns = reader.rows(stream, 1, 2**62)
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


FULL = StoreFull("house.db: could not append: disk is full; free space")
BROKEN = StoreUnwritable("house.db: could not append: disk I/O error")


@pytest.fixture
def farm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Farm:
    return Farm(tmp_path / "data", monkeypatch)


@pytest.fixture
def keeper(farm: Farm) -> Iterator[Keeper]:
    with farm.keeper() as keeper:
        keeper.turn([farm.message(FLOCK, PLACE)])
        yield keeper


def fail_for_good(farm: Farm, keeper: Keeper, held: Sequence[Message] = ()) -> None:
    """Let the store fail until it is given up."""
    farm.failing = BROKEN
    keeper.turn(held or [farm.reading()])
    for _ in range(4):
        farm.clock.wait(HOLD_S)
        keeper.turn([])
    assert not keeper.agent.store.is_lasting


def test_a_short_failure_only_holds_what_came(farm: Farm, keeper: Keeper) -> None:
    farm.failing = BROKEN
    message = farm.reading()
    keeper.turn([message])
    farm.clock.wait(HOLD_S + 0.1)
    farm.failing = None
    keeper.turn([])
    assert farm.bus.acked[-1] == message
    assert farm.ear_arguments == []
    assert farm.stored() == [21.0]


def test_while_the_store_fails_the_houses_are_judged_and_nothing_is_acknowledged(farm: Farm, keeper: Keeper) -> None:
    acked = list(farm.bus.acked)
    fail_for_good(farm, keeper)
    for _ in range(40):
        farm.clock.wait(60)
        farm.ear.inbox.append(farm.reading(qos=0))
        keeper.turn([farm.reading()])
    shown = farm.bus.shown(STUCK_TOPIC)
    assert (shown["state"], shown["flock"]) == ("active", "A1")
    assert farm.bus.acked == acked
    assert farm.stored() == []
    site = farm.bus.shown(SITE_TOPIC)
    assert (site["severity"], site["about"], site["state"]) == (4, "data", "active")
    assert "disk I/O error" in json.loads(farm.bus.retained[f"{ROOT}/health"])["degraded"]["store"]


def test_the_second_ear_leaves_no_session_and_asks_for_no_acknowledgement(farm: Farm, keeper: Keeper) -> None:
    fail_for_good(farm, keeper)
    [(_, client_id, subscriptions)] = farm.ear_arguments
    assert client_id == "flockwatch-farm1-live"
    assert subscriptions == [("skov/+/+/+", 0)]


def test_when_it_works_again_what_was_held_is_stored_once_and_acknowledged(farm: Farm, keeper: Keeper) -> None:
    held = [farm.reading(20.0 + i) for i in range(1)]
    fail_for_good(farm, keeper, held)
    farm.clock.wait(60)
    more = farm.reading(22.0)
    farm.ear.inbox.append(farm.reading(22.0, qos=0))
    keeper.turn([more])
    farm.failing = None
    farm.clock.wait(TRY_EVERY_S)
    keeper.turn([])
    assert keeper.agent.store.is_lasting
    assert farm.ear.is_closed
    keeper.turn([])
    assert farm.bus.acked[-2:] == [*held, more]
    assert farm.stored() == [20.0, 22.0]
    assert "store" not in keeper.agent.health.degraded
    assert farm.bus.shown(SITE_TOPIC) is None
    keeper.turn([])
    said = [row["state"] for row in farm.rows("warnings") if row["house"] == "_site"]
    assert said == ["active", "normal"]


def test_a_warning_of_that_time_that_is_not_found_again_is_taken_from_the_broker(farm: Farm, keeper: Keeper) -> None:
    """The readings that raised it came only by the second ear: at QoS 0, say."""
    fail_for_good(farm, keeper, [farm.reading(20.0)])
    for _ in range(40):
        farm.clock.wait(60)
        farm.ear.inbox.append(farm.reading(qos=0))
        keeper.turn([])
    assert farm.bus.shown(STUCK_TOPIC)["state"] == "active"
    farm.failing = None
    for _ in range(20):
        farm.clock.wait(60)
        keeper.turn([farm.reading(20 + farm._mid % 7 / 10)])
    assert farm.bus.shown(STUCK_TOPIC) is None


def test_a_command_is_put_off_with_a_word_and_done_when_it_can_be_stored(farm: Farm, keeper: Keeper) -> None:
    fail_for_good(farm, keeper)
    command = {"id": "s", "action": "state", "state": "catching"}
    farm.ear.inbox.append(farm.message(FLOCK, command, qos=0))
    keeper.turn([farm.message(FLOCK, command)])
    answers = [json.loads(payload) for topic, payload in farm.bus.published if topic.endswith("response")]
    assert (answers[-1]["id"], answers[-1]["ok"]) == ("s", False)
    assert "waits at the broker" in answers[-1]["error"]
    farm.failing = None
    farm.clock.wait(TRY_EVERY_S)
    keeper.turn([])
    keeper.turn([])
    answers = [json.loads(payload) for topic, payload in farm.bus.published if topic.endswith("response")]
    assert (answers[-1]["id"], answers[-1]["ok"], answers[-1]["state"]) == ("s", True, "catching")


def test_what_came_by_an_older_connection_is_let_go_as_the_broker_sends_it_again(farm: Farm, keeper: Keeper) -> None:
    farm.failing = BROKEN
    for connection in range(1, 6):
        keeper.turn([farm.reading(connection=connection) for _ in range(100)])
    assert len(keeper.agent._held) == 100
    fail_for_good(farm, keeper, [farm.reading(connection=5)])
    for connection in range(6, 9):
        keeper.turn([farm.reading(connection=connection) for _ in range(100)])
    assert len(keeper._held) == 100


def test_with_a_disk_that_takes_nothing_at_the_start_flocks_are_known_and_watched(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    with farm.keeper() as keeper:
        keeper.turn([farm.message(FLOCK, PLACE)])
        gateway = keeper.agent.store.gateway
    with monkeypatch.context() as patch:

        def read_only(*_: object, **__: object) -> Store:
            raise BROKEN

        patch.setattr(Store, "open", read_only)
        with farm.keeper() as keeper:
            assert keeper.agent.store.gateway == gateway
            for _ in range(40):
                farm.clock.wait(60)
                farm.ear.inbox.append(farm.reading(qos=0))
                keeper.turn([])
            assert farm.bus.shown(STUCK_TOPIC)["flock"] == "A1"
            assert farm.bus.shown(SITE_TOPIC)["severity"] == 4
            patch.undo()
            farm.clock.wait(TRY_EVERY_S)
            keeper.turn([])
            assert keeper.agent.store.is_lasting


def test_what_waiting_cannot_mend_ends_the_agent(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    with farm.keeper(), pytest.raises(StoreError, match="another agent"), farm.keeper():
        pass


# --- damage


def test_damage_in_mid_run_costs_neither_flock_nor_standing_nor_what_is_held(farm: Farm, keeper: Keeper) -> None:
    for _ in range(40):
        farm.clock.wait(60)
        keeper.turn([farm.reading()])
    before = farm.bus.shown(STUCK_TOPIC)
    with StoreReader.open(farm.config.data.house_db) as reader:
        generation = reader.generation
    store = keeper.agent.store
    assert isinstance(store, Store)
    house_db = farm.config.data.house_db
    farm.failing = StoreDamaged("house.db: could not append: database disk image is malformed")
    message = farm.reading(23.0)
    keeper.turn([message])
    assert message not in farm.bus.acked
    house_db.write_bytes(bytes(house_db.stat().st_size))  # nothing can be read of it: what is known is the agent's
    house_db.with_name("house.db-wal").unlink()
    farm.failing = None
    farm.clock.wait(0.1)
    keeper.turn([])
    assert farm.bus.acked[-1] == message
    assert farm.stored() == [23.0]
    with StoreReader.open(house_db) as reader:
        assert reader.generation != generation
        assert reader.gateway == store.gateway
        change = reader.houses()["house1"]
        assert change.flock is not None
        assert change.flock.flock == "A1"
        assert [s.id for s in reader.standings() if s.rule == "stuck-temperature"] == [before["id"]]
    assert "quarantine" in keeper.agent.health.degraded
    keeper.turn([])
    site = farm.bus.shown(SITE_TOPIC)
    assert (site["severity"], "put aside" in site["text"]) == (3, True)


def test_damage_that_only_the_start_finds_is_replaced_at_the_start(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    with farm.keeper() as keeper:
        keeper.turn([farm.message(FLOCK, PLACE)])
    real: Callable[..., Any] = Store.restore
    calls = []

    def once(store: Store, *again: object) -> Any:  # noqa: ANN401  # as the real one
        calls.append(store)
        if len(calls) == 1:
            message = "house.db: could not restore: database disk image is malformed"
            raise StoreDamaged(message)
        return real(store, *again)

    monkeypatch.setattr(Store, "restore", once)
    with farm.keeper() as keeper:
        flock = keeper.agent.watches[0].life.flock
        assert flock is not None
        assert flock.flock == "A1"
        assert len(keeper.agent.store.quarantined()) == 1


# --- the reserve


def test_a_full_disk_is_met_with_the_reserve_at_once_and_said(farm: Farm, keeper: Keeper) -> None:
    store = keeper.agent.store
    assert isinstance(store, Store)
    assert store.reserve.is_held
    farm.failing = FULL
    message = farm.reading()
    keeper.turn([message])
    assert not store.reserve.is_held
    farm.failing = None
    keeper.turn([])
    assert farm.bus.acked[-1] == message
    kinds = [row["kind"] for row in farm.rows("events")]
    assert "disk_full" in kinds


def test_without_room_for_the_reserve_the_site_is_warned(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.store.reserve.MARGIN_BYTES", 2**62)
    with farm.keeper() as keeper:
        keeper.turn([farm.reading()])
        assert "reserve" in keeper.agent.health.degraded["disk"]
        assert farm.bus.shown(SITE_TOPIC)["severity"] == 3
        monkeypatch.setattr("agent.store.reserve.MARGIN_BYTES", 0)
        farm.clock.wait(60)
        keeper.turn([])
        assert "disk" not in keeper.agent.health.degraded
        assert farm.bus.shown(SITE_TOPIC) is None


def test_a_start_on_a_full_disk_gives_the_reserve_up_and_stores(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    with farm.keeper() as keeper:
        keeper.turn([farm.message(FLOCK, PLACE)])
    full_until_given_up(farm, monkeypatch)
    with farm.keeper() as keeper:
        assert keeper.agent.store.is_lasting
        keeper.turn([farm.reading()])
    assert farm.stored() == [21.0]
    assert farm.ear_arguments == []


def test_a_disk_that_is_full_when_it_comes_back_gives_the_reserve_up(
    farm: Farm, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_for_good(farm, keeper)
    full_until_given_up(farm, monkeypatch)
    farm.clock.wait(TRY_EVERY_S)
    keeper.turn([])
    assert keeper.agent.store.is_lasting


def full_until_given_up(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    farm.failing = FULL
    real = Reserve.give_up

    def give_up(reserve: Reserve) -> bool:
        farm.failing = None
        return real(reserve)

    monkeypatch.setattr(Reserve, "give_up", give_up)


# --- what happened once is said once


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_session_that_the_broker_lost_is_recorded_once(farm: Farm, keeper: Keeper, when: str) -> None:
    if when == "before":
        farm.bus.counters.lost_sessions += 1
        keeper.turn([])
    fail_for_good(farm, keeper)
    if when == "meanwhile":
        farm.bus.counters.lost_sessions += 1
        keeper.turn([])
    farm.failing = None
    farm.clock.wait(TRY_EVERY_S)
    keeper.turn([])
    keeper.turn([])
    assert [row["kind"] for row in farm.rows("events")].count("session_lost") == 1
