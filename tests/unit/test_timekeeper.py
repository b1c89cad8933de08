"""The agent under clocks that are wrong: a real store, a stand-in bus, and a machine whose clock a test sets."""

from __future__ import annotations

import json
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest

from agent import timekeeper
from agent.bundles import load_bundle
from agent.bus import Bus, BusCounters
from agent.clock import SystemClock
from agent.config import Config
from agent.daemon import Agent
from agent.dialects import Decoder
from agent.domain import HouseState, Message, Severity, Standing, WarningState, to_ms
from agent.errors import StoreError
from agent.predict import Predictor
from agent.senders import HEARD_FOR_S
from agent.status import status_lines, status_value
from agent.store import Store, StoreReader, Unstored
from agent.timekeeper import steady
from tests.sparkplug_b import metric, payload
from tests.unit.test_watch import MANIFEST, write_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

START = datetime(2026, 11, 24, 12, tzinfo=UTC)
ROOT = "flockwatch/farm1"
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
TEN_YEARS_MS = 3_652 * DAY_MS
HOUSES = ("house1", "house2")


@dataclass
class FakeMachine:
    """A machine whose clock a test sets, and whose time a test lets pass; ``true_ms`` is what time it really is."""

    true_ms: int = to_ms(START)
    error_ms: int = 0
    boot: int = 60_000
    sync: bool | None = False
    boot_id: str = "boot-1"

    def wall_ms(self) -> int:
        return self.true_ms + self.error_ms

    def boot_ms(self) -> int:
        return self.boot

    def monotonic(self) -> float:
        return self.boot / 1000

    def synchronised(self) -> bool | None:
        return self.sync

    def wait(self, seconds: float) -> None:
        self.true_ms += round(seconds * 1000)
        self.boot += round(seconds * 1000)


@dataclass
class FakeBus:
    """What the agent sees of a bus."""

    is_connected: bool = True
    connection: int = 1
    last_error: str | None = None
    counters: BusCounters = field(default_factory=BusCounters)
    retained: dict[str, bytes] = field(default_factory=dict)
    published: list[str] = field(default_factory=list)

    def acknowledge(self, messages: Sequence[Message]) -> bool:
        return True

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> bool:
        self.published.append(topic)
        if retain:
            self.retained[topic] = payload
        return True


class Site:
    """An agent that can be killed, and its machine rebooted."""

    def __init__(self, folder: Path, config: dict[str, Any] | None = None) -> None:
        self.config = Config.model_validate(
            {"data": {"directory": folder}, "house": [{"id": house} for house in HOUSES], **(config or {})}
        )
        self.machine = FakeMachine()
        self.bus = FakeBus()
        self.predictor = Predictor((), (), self.config.site.days)
        self.shadow: Predictor | None = None
        self._stack = ExitStack()
        self._mid = 0

    def start(self) -> None:
        self.store = self._stack.enter_context(Store.open(self.config.data.house_db))
        clock = steady(SystemClock(), self.store, self.machine)
        decoder, bus = Decoder(self.config), cast("Bus", self.bus)
        self.agent = Agent(self.config, clock, self.store, bus, self.predictor, decoder, self.shadow)

    def stop(self) -> None:
        self._stack.close()

    def reboot(self, *, error_ms: int = 0, off_s: float = 60.0) -> None:
        """Cut the power for a while; the clock begins with an error."""
        self.stop()
        self.machine.wait(off_s)
        self.machine.boot, self.machine.error_ms, self.machine.sync = 20_000, error_ms, False
        self.machine.boot_id += "+1"
        self.start()

    def message(self, house: str, payload: dict[str, Any] | float, topic: str = "") -> Message:
        self._mid += 1
        received_ms, monotonic = to_ms(self.agent.clock.now()), self.machine.monotonic()
        where = topic or f"skov/farm1/{house}/temperature"
        return Message(where, json.dumps(payload).encode(), 1, self._mid, False, False, 1, received_ms, monotonic)

    def run(self, minutes: float, houses: Sequence[str] = HOUSES, *, dated: bool = False, every_s: int = 30) -> None:
        """Let time pass, with readings of each house; their sender dates them rightly, or not at all."""
        for step in range(round(minutes * 60 / every_s)):
            self.machine.wait(every_s)
            at = {"at": self.machine.true_ms} if dated else {}
            self.agent.turn_or_hold(
                [
                    self.message(house, {"value": value, **at}, topic=f"skov/farm1/{house}/{signal}")
                    for house in houses
                    for signal, value in (("temperature", 21 + step % 7 / 10), ("dead", step % 2))
                ]
            )

    def place(self) -> None:
        self.agent.turn_or_hold(
            [
                self.message(house, {"id": house, "action": "place"}, topic=f"{ROOT}/{house}/flock/command")
                for house in HOUSES
            ]
        )

    def rows(self, stream: str) -> dict[str, list[Any]]:
        with StoreReader.open(self.config.data.house_db) as reader:
            return reader.rows(stream, 1, reader.last_seq(stream))

    @property
    def degraded(self) -> dict[str, str]:
        return self.agent.health.degraded

    def newest(self) -> list[datetime | None]:
        return [watch.last_reading_at() for watch in self.agent.watches]

    def buckets(self) -> set[tuple[Any, ...]]:
        """Return what is kept of the windows; the counts only, as they tell where a reading went."""
        return {tuple(bucket[:5]) for bucket in self.store.restore().buckets}


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def make(**config: Any) -> Site:  # noqa: ANN401  # sections of agent.toml
        sites.append(Site(tmp_path / f"data{len(sites)}", config))
        return sites[-1]

    yield make
    for site in sites:
        site.stop()


@pytest.fixture
def site(make_site: Callable[[], Site]) -> Site:
    """A site that has run for some hours with a right clock, and whose machine was then rebooted in 1970."""
    site = make_site()
    site.start()
    site.place()
    site.run(60)
    return site


IN_1970 = -to_ms(START)


def died(site: Site) -> dict[str, float]:
    """Return the birds that each house knows to have died."""
    site.agent.turn_or_hold([])
    days = START.date() - timedelta(days=2)
    return {w.house: sum(birds for _, birds in w.window.day_totals(["dead"], days)) for w in site.agent.watches}


def test_after_a_reboot_in_1970_time_goes_on_and_the_status_says_that_it_is_not_trusted(site: Site) -> None:
    before = site.agent.clock.now()
    site.reboot(error_ms=IN_1970, off_s=600)
    assert abs(site.agent.clock.now() - before) < timedelta(minutes=2)
    site.run(2)
    assert "is not believed" in site.degraded["clock"]
    value = status_value(site.config)
    assert value["health"]["clock"]["trusted"] is False
    assert [clock["trusted"] for clock in value["clocks"]] == [True, False]
    assert any(line.startswith("clock ") and "not trusted" in line for line in status_lines(value))
    assert set(site.rows("readings")["time_quality"]) == {"arrival", "untrusted"}


def test_when_ntp_comes_all_of_this_boot_is_as_if_the_clock_had_been_right(make_site: Callable[[], Site]) -> None:
    sites = []
    for error_ms in (IN_1970, 0):
        site = make_site()
        site.start()
        site.place()
        site.run(120)
        site.reboot(error_ms=error_ms, off_s=7 * 3_600)
        site.run(45)
        site.machine.error_ms, site.machine.sync = 0, True
        site.run(30)
        sites.append(site)
    corrected, right = sites
    for name in ("at", "received_at", "time_quality", "house", "value"):
        assert corrected.rows("readings")[name] == right.rows("readings")[name], name
    assert corrected.newest() == right.newest()
    assert corrected.buckets() == right.buckets()
    assert "clock" not in corrected.degraded
    states = [corrected.rows("warnings")[name] for name in ("house", "rule", "state")]
    assert states == [right.rows("warnings")[name] for name in ("house", "rule", "state")]
    assert [watch.life.flock for watch in corrected.agent.watches] == [
        watch.life.flock for watch in right.agent.watches
    ]
    assert corrected.rows("events")["kind"].count("clock_corrected") == 1


@pytest.mark.parametrize("crash_in", ["_begin", "_restore"])
def test_a_crash_amid_the_correction_is_finished_by_the_next_start(
    make_site: Callable[[], Site], monkeypatch: pytest.MonkeyPatch, crash_in: str
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    sites = []
    for crashes in (True, False):
        site = make_site()
        site.start()
        site.run(60)
        site.reboot(error_ms=IN_1970)
        site.run(30)
        site.machine.error_ms, site.machine.sync = 0, True
        site.machine.wait(20)
        with monkeypatch.context() as patch:
            if crashes:
                patch.setattr(Agent, crash_in, crash)  # all rows are moved, the windows are not built
            with pytest.raises(KeyboardInterrupt) if crashes else nullcontext():
                site.agent.turn_or_hold([])
        site.stop()
        site.start()
        site.run(12)
        sites.append(site)
    crashed, whole = sites
    assert crashed.buckets() == whole.buckets() != set()
    assert crashed.rows("readings") == whole.rows("readings")
    assert crashed.agent.grid.last == whole.agent.grid.last


def test_a_gateway_without_network_or_battery_warns_all_the_same(site: Site) -> None:
    site.reboot(error_ms=IN_1970)
    site.run(9)
    judged = site.agent.health.instants_judged
    site.run(60)
    assert judged == 0
    assert site.agent.health.instants_judged > 3
    site.run(60, houses=["house2"])
    assert site.agent.watches[0].standings["silent"].state is WarningState.ACTIVE
    assert json.loads(site.bus.retained[f"{ROOT}/house1/warning/silent"])["state"] == "active"


@pytest.mark.parametrize("jump_ms", [-TEN_YEARS_MS, TEN_YEARS_MS])
def test_a_clock_that_jumps_ten_years_and_back_neither_loses_nor_prunes_nor_floods(site: Site, jump_ms: int) -> None:
    before, stored = site.rows("readings")["seq"], len(site.rows("warnings")["seq"])
    site.machine.error_ms = jump_ms
    site.run(30)
    assert "not believed" in site.degraded["clock"]
    site.machine.error_ms = 0
    site.run(30)
    assert "clock" not in site.degraded
    rows = site.rows("readings")
    assert rows["seq"] == list(range(1, len(before) + 4 * 120 + 1))
    assert rows["at"] == sorted(rows["at"])
    assert max(rows["at"]) <= site.machine.true_ms + 1_000
    assert len(site.rows("warnings")["seq"]) == stored
    assert site.rows("events")["kind"].count("clock") == 1  # of the start
    assert site.agent.clock.now() - site.agent.grid.last < timedelta(minutes=20)


@pytest.mark.parametrize("jump_ms", [-TEN_YEARS_MS // 12, TEN_YEARS_MS])
def test_even_a_believed_jump_is_repaired_when_the_clock_is_right_again(site: Site, jump_ms: int) -> None:
    """NTP itself may lie. What is stored meanwhile is stored; it was dated by a synchronised clock, and stays."""
    count = len(site.rows("readings")["seq"])
    site.machine.error_ms, site.machine.sync = jump_ms, True
    site.run(30)
    site.machine.error_ms = 0
    site.run(60)
    assert len(site.rows("readings")["seq"]) == count + 4 * 180
    assert abs(site.agent.clock.now() - site.agent.grid.last) < timedelta(minutes=20)
    assert not any(
        standing.state is WarningState.ACTIVE for w in site.agent.watches for standing in w.standings.values()
    )


# --- what the house computers know


def test_a_clock_that_was_saved_before_the_power_cut_learns_the_time_from_the_house_computers(site: Site) -> None:
    """Fake-hwclock: plausible, and behind by as long as the power was away."""
    site.reboot(error_ms=-6 * HOUR_MS, off_s=6 * 3_600)
    assert site.agent.clock.is_trusted()
    site.run(1)
    assert to_ms(site.agent.clock.now()) == site.machine.true_ms - 6 * HOUR_MS
    site.run(HEARD_FOR_S / 60 + 1, dated=True)
    assert abs(to_ms(site.agent.clock.now()) - site.machine.true_ms) < 1_000
    rows = site.rows("readings")
    assert max(rows["at"]) <= site.machine.true_ms
    assert rows["at"] == sorted(rows["at"])
    site.run(30, houses=["house2"], dated=True)  # and the machine's own clock, still wrong, does not pull it back
    assert abs(to_ms(site.agent.clock.now()) - site.machine.true_ms) < 1_000


def test_good_readings_a_week_ahead_of_a_wrong_clock_are_not_refused(site: Site) -> None:
    site.reboot(error_ms=-7 * DAY_MS, off_s=7 * 86_400)
    site.machine.error_ms = -7 * DAY_MS + 120_000  # saved a moment after the last known good time: plausible
    before = len(site.rows("readings")["seq"])
    site.run(2, dated=True)
    assert site.rows("readings")["time_quality"][before:] == ["untrusted"] * 16
    assert site.agent.health.rejected == {}
    site.run(HEARD_FOR_S / 60 + 2, dated=True)
    assert abs(to_ms(site.agent.clock.now()) - site.machine.true_ms) < 1_000
    rows = site.rows("readings")
    assert set(rows["time_quality"][before:]) == {"sender"}
    assert len(rows["seq"]) == before + 8 * round(2 + HEARD_FOR_S / 60 + 2)
    site.run(12, dated=True)
    assert all(newest is not None and to_ms(newest) == site.machine.true_ms for newest in site.newest())


def test_one_house_computer_that_is_years_ahead_moves_nobody_and_blinds_nobody(site: Site) -> None:
    site.reboot()
    for _ in range(60):
        site.machine.wait(20)
        ahead, right = site.machine.true_ms + 5 * 365 * DAY_MS, site.machine.true_ms
        messages = [("house1", ahead), ("house2", right)]
        site.agent.turn_or_hold([site.message(house, {"value": 21.0, "at": at}) for house, at in messages])
    assert abs(to_ms(site.agent.clock.now()) - site.machine.true_ms) < 1_000
    assert site.agent.watches[1].last_reading_at() is not None


# --- at the edges


def test_a_message_that_came_before_the_step_and_is_taken_after_it_is_dated_anew(site: Site) -> None:
    site.reboot(error_ms=IN_1970, off_s=3_600)
    site.run(1)
    site.machine.wait(10)
    waiting = [site.message("house1", 20.5)]
    true_ms = site.machine.true_ms
    site.machine.wait(10)
    site.machine.error_ms, site.machine.sync = 0, True
    site.agent.turn_or_hold([])
    site.agent.turn_or_hold(waiting)
    assert site.rows("readings")["received_at"][-1] == true_ms


def test_a_step_that_the_store_could_not_take_is_stored_later(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.reboot(error_ms=IN_1970, off_s=3_600)
    site.run(5)
    site.machine.error_ms, site.machine.sync = 0, True
    site.machine.wait(10)

    def fail(*_: object, **__: object) -> None:
        message = "house.db: the disk is full; make room"
        raise StoreError(message)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "note_clock", fail)
        site.run(1)
        assert "store" in site.degraded
    site.run(1)
    assert "store" not in site.degraded
    rows = site.rows("readings")
    assert set(rows["time_quality"]) == {"arrival"}
    assert rows["at"] == sorted(rows["at"])
    assert max(rows["received_at"]) <= site.machine.true_ms


def test_what_is_pending_is_as_long_pending_as_before(site: Site) -> None:
    """A correction by six hours must not make a silence of a moment one of six hours."""
    site.reboot(error_ms=-6 * HOUR_MS, off_s=6 * 3_600)
    site.run(30)
    site.run(22, houses=["house2"])
    pending = site.agent.watches[0].standings["silent"]
    assert pending.state is WarningState.PENDING
    assert pending.since is not None
    site.machine.error_ms, site.machine.sync = 0, True
    site.run(1, houses=["house2"])
    after = site.agent.watches[0].standings["silent"]
    assert after.since in {None, pending.since + timedelta(hours=6)}
    site.run(12)
    assert "active" not in site.rows("warnings")["state"]


def test_what_a_shadow_would_say_is_dated_anew_too(site: Site, tmp_path: Path) -> None:
    write_bundle(tmp_path / "usual" / "1.0.0", MANIFEST)
    site.shadow = Predictor.load([load_bundle(tmp_path / "usual" / "1.0.0")], site.config.site.days)
    site.reboot(error_ms=-6 * HOUR_MS, off_s=6 * 3_600)
    site.run(30)
    since = site.agent.clock.now()
    watch = site.agent.shadows.watches[0]
    for rule in ("deviation-water", "missing-water"):  # the second is not its business
        watch.standings[rule] = Standing(rule, "house1", WarningState.ACTIVE, Severity.MINOR, since=since)
    site.run(10)
    site.machine.error_ms, site.machine.sync = 0, True
    site.run(1)
    [kept] = site.store.restore().shadow_standings
    assert (kept.rule, kept.since) == ("deviation-water", since + timedelta(hours=6))
    assert site.agent.shadows.watches[0].standings == {kept.rule: kept}


@pytest.mark.parametrize("error_h", [-6, 6], ids=["behind", "ahead"])
def test_a_service_that_was_told_by_a_wrong_clock_ends_when_it_should(site: Site, error_h: int) -> None:
    site.reboot(error_ms=error_h * HOUR_MS, off_s=6 * 3_600)
    site.run(60)
    told = {"id": "s", "action": "service", "signal": "dead", "for_s": 2 * 3_600}
    site.agent.turn_or_hold([site.message("house1", told, topic=f"{ROOT}/house1/flock/command")])
    site.run(55)
    caught = {"id": "c", "action": "state", "state": "catching"}
    site.agent.turn_or_hold([site.message("house1", caught, topic=f"{ROOT}/house1/flock/command")])
    site.run(5)
    site.machine.error_ms, site.machine.sync = 0, True
    site.run(50)
    counted = died(site)
    assert counted["house2"] - counted["house1"] >= 100
    assert [watch.life.state for watch in site.agent.watches] == [HouseState.CATCHING, HouseState.ACTIVE]
    site.stop()
    site.start()  # the restart knows it too
    assert died(site) == counted
    site.run(30)
    after = died(site)
    assert after["house1"] - counted["house1"] >= after["house2"] - counted["house2"] - 12 > 0


def test_after_a_long_step_nothing_is_pruned_for_a_day(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned: list[datetime] = []

    def prune(_store: Store, now: datetime, **_: object) -> int:
        pruned.append(now)
        return 0

    monkeypatch.setattr(Store, "prune", prune)
    site.machine.error_ms, site.machine.sync = TEN_YEARS_MS, True
    site.machine.wait(10)
    site.run(30)
    assert pruned == []
    site.machine.wait(timekeeper.CALM_S)
    site.run(1)
    assert len(pruned) == 1


def test_an_agent_that_starts_again_in_the_same_boot_goes_on_with_the_same_time(site: Site) -> None:
    site.reboot(error_ms=IN_1970)
    site.run(30)
    presumed = site.agent.clock.now()
    site.stop()
    site.machine.wait(90)
    site.start()
    assert site.agent.clock.now() == presumed + timedelta(seconds=90)


def test_what_was_held_while_nothing_could_be_stored_is_dated_anew_after_a_step_in_between(site: Site) -> None:
    site.reboot(error_ms=IN_1970, off_s=3_600)
    site.run(1)
    before = site.agent
    before.use(Unstored(site.store.gateway, site.store.newest_ms()))
    site.machine.wait(10)
    held = [site.message("house1", 20.5)]
    true_ms = site.machine.true_ms
    site.machine.wait(10)
    site.machine.error_ms, site.machine.sync = 0, True
    before.turn_or_hold([])
    site.agent = Agent(
        site.config, before.clock, site.store, cast("Bus", site.bus), site.predictor, Decoder(site.config)
    )
    site.agent.take_over(before, held)
    site.agent.turn_or_hold([])
    assert site.rows("readings")["received_at"][-1] == true_ms


def test_a_correction_of_the_time_costs_no_sparkplug_node_its_place(make_site: Callable[..., Site]) -> None:
    """A node counts its messages; to forget its number asks it for all it has, and hides a gap."""
    topic = "spBv1.0/{group}/{message}/{node}/{house}"
    site = make_site(source=[{"topic": topic, "dialect": "sparkplug"}])
    site.start()
    site.reboot(error_ms=IN_1970)

    def told(kind: str, seq: int, *metrics: Any) -> Message:  # noqa: ANN401  # protobuf
        site.machine.wait(30)
        device = "" if kind == "NBIRTH" else "/house1"
        whole = payload(*metrics, seq=seq, timestamp=site.machine.true_ms)
        return replace(site.message("", 0, topic=f"spBv1.0/g/{kind}/n{device}"), payload=whole)

    co2 = metric(name="co2", alias=4, long_value=900)
    site.agent.turn_or_hold([told("NBIRTH", 0), told("DBIRTH", 1, co2)])
    site.machine.error_ms, site.machine.sync = 0, True
    site.agent.turn_or_hold([told("DDATA", 2, metric(alias=4, long_value=901))])
    assert site.rows("events")["kind"].count("clock_corrected") == 1
    assert "spBv1.0/g/NCMD/n" not in site.bus.published
    site.agent.turn_or_hold([told("DDATA", 4, metric(alias=4, long_value=902))])
    assert "spBv1.0/g/NCMD/n" in site.bus.published


def test_a_damaged_database_in_1970_does_not_forget_what_time_it_was(site: Site) -> None:
    before = site.agent.clock.now()
    site.stop()
    site.config.data.house_db.write_bytes(b"\xa5" * 4096 + site.config.data.house_db.read_bytes()[4096:])
    site.reboot(error_ms=IN_1970)
    assert not site.agent.clock.is_trusted()
    assert abs(site.agent.clock.now() - before) < timedelta(minutes=2)


def test_rows_of_a_time_that_is_yet_to_come_hold_no_seal_up(site: Site) -> None:
    """A clock of 2036 that nothing corrected in its own boot: its rows cannot be corrected any more."""
    site.machine.error_ms, site.machine.sync = TEN_YEARS_MS, True
    site.run(1)
    site.reboot(error_ms=IN_1970)
    site.run(1)
    site.reboot()
    site.machine.sync = True
    site.stop()
    site.start()
    site.run(1)
    with StoreReader.open(site.config.data.house_db) as reader:
        assert reader.sealable_seq("readings") == reader.last_seq("readings")
