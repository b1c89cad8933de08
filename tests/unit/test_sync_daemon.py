"""The courier's turns: what is due, what goes first, and how it ends."""

from __future__ import annotations

import json
import logging
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.clock import SystemClock
from agent.config import Config, parse_config
from agent.domain import About, Reason, SeriesKey, Severity, Standing, WarningEvent, WarningState, to_ms
from agent.errors import CloudError, CloudRefused, CloudUnreachable, ConfigError, StoreError
from agent.readings import Readings
from agent.status import status_lines, status_value
from agent.store import Segment, Store, StoreReader
from sync import daemon, retry
from sync.cloud import Cloud, Put, memory_cloud
from sync.daemon import Courier, run
from sync.ladder import Ladder
from sync.lane import any_alive
from sync.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
PATIENCE_S = 20.0


@dataclass
class HandClock:
    """A clock that stands until it is moved; real seconds run."""

    at: datetime = NOW

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return time.monotonic()

    def is_trusted(self) -> bool:
        return True


class Gate(Cloud):
    """A cloud in memory that can be closed, for all or for some keys."""

    __slots__ = ("error", "stuck")

    def __init__(self) -> None:
        super().__init__("memory:", memory_cloud().make)
        self.error: CloudError | None = None
        self.stuck: threading.Event | None = None  # readings wait for it

    def put_new(self, key: str, data: bytes) -> Put:
        if self.stuck is not None and key.startswith("readings/"):
            self.stuck.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        return super().put_new(key, data)

    def put_over(self, key: str, data: bytes) -> None:
        if self.error is not None:
            raise self.error
        super().put_over(key, data)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "POLL_S", 0.01)
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.05)
    monkeypatch.setattr("importlib.metadata.version", lambda _name: "0.1.0")  # tests also run from a plain checkout


def _config(folder: Path, url: str = "") -> Config:
    document = {"data": {"directory": str(folder / "data")}, "sync": {"url": url}, "store": {"max_size_mb": 20}}
    return parse_config(document, "test")


def _readings(n: int, at: datetime = NOW) -> Readings:
    at_ms = to_ms(at) + np.arange(n, dtype=np.int64) * 1_000
    zeros = np.zeros(n, np.uint8)
    key = np.zeros(n, np.int32)
    return Readings((SeriesKey("house1", "water"),), key, at_ms, np.arange(n) / 10, zeros, zeros, at_ms + 7)


def _warning(at: datetime) -> WarningEvent:
    standing = Standing("water", "house1", WarningState.ACTIVE, Severity.MAJOR, updated_at=at, raised_at=at)
    why = Reason.ON_DELAY_OVER
    return WarningEvent(
        at, WarningState.PENDING, standing, why, About.BIRDS, "water", 20, "Water fell.", (), "The line."
    )


@dataclass
class Farm:
    """One data directory with an agent's store, a courier and a cloud."""

    config: Config
    clock: HandClock
    store: Store
    outbox: Outbox
    courier: Courier
    cloud: Gate

    def turn_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < deadline, "it never came"
            self.courier.turn()

    def settle(self) -> None:
        """Let the first seal after a start be over."""
        self.courier.turn()
        self.turn_until(lambda: self.courier.is_idle)

    def waiting(self) -> int:
        return self.outbox.totals().waiting_objects

    def sealed(self) -> dict[str, int]:
        return {mark.stream: mark.sealed_seq for mark in self.outbox.watermarks()}


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    config = _config(tmp_path)
    with ExitStack() as stack:
        store = stack.enter_context(Store.open(config.data.house_db))
        reader = stack.enter_context(StoreReader.open(config.data.house_db))
        outbox = stack.enter_context(Outbox.open(config.data.sync_db, config.data.lake, reader, "farm1"))
        clock, cloud = HandClock(), Gate()
        courier = Courier(config, clock, reader, outbox, cloud)
        stack.callback(courier.finish)
        yield Farm(config, clock, store, outbox, courier, cloud)


def test_rows_are_sealed_and_pushed_once_an_interval(farm: Farm) -> None:
    farm.store.append(_readings(3), at_ms=to_ms(NOW))
    farm.turn_until(lambda: farm.sealed() == {"readings": 3} and farm.courier.is_idle)
    farm.store.append(_readings(2, NOW + timedelta(minutes=1)), at_ms=to_ms(NOW))
    for minutes in (10, 59):
        farm.clock.at = NOW + timedelta(minutes=minutes)
        for _ in range(5):
            farm.courier.turn()
        assert farm.sealed() == {"readings": 3}
    farm.clock.at = NOW + timedelta(minutes=60)
    farm.turn_until(lambda: farm.sealed() == {"readings": 5} and farm.waiting() == 0)


def test_a_clock_that_is_set_back_does_not_stop_sealing(farm: Farm) -> None:
    farm.settle()
    farm.store.append(_readings(1), at_ms=to_ms(NOW))
    farm.clock.at = NOW - timedelta(days=300)
    farm.turn_until(lambda: farm.sealed() == {"readings": 1})


@pytest.mark.parametrize("year", [1970, 2037])
def test_a_courier_with_a_wrong_clock_seals_and_pushes_all_the_same(farm: Farm, year: int) -> None:
    farm.store.append(_readings(1), at_ms=to_ms(NOW))
    farm.turn_until(lambda: farm.sealed() == {"readings": 1})
    farm.clock.at = datetime(year, 1, 1, tzinfo=UTC)
    farm.store.append(_readings(1, NOW + timedelta(minutes=1)), at_ms=to_ms(NOW))
    farm.turn_until(lambda: farm.sealed() == {"readings": 2} and farm.waiting() == 0)


def test_a_courier_does_not_run_hot_while_readings_wait_for_the_right_time(farm: Farm) -> None:
    farm.settle()
    farm.store.note_clock(Segment(0, "boot", 0, trusted=False, synchronised=False, began_ms=0), delta_ms=0, why="start")
    farm.store.append(_readings(3), at_ms=to_ms(NOW))
    farm.clock.at = NOW + timedelta(hours=2)
    farm.turn_until(lambda: "events" in farm.sealed() and farm.waiting() == 0 and not farm.courier._targets)
    assert "readings" not in farm.sealed()
    farm.store.note_clock(
        Segment(0, "boot", 0, trusted=True, synchronised=True, began_ms=to_ms(NOW)), delta_ms=60_000, why="NTP"
    )
    assert farm.store.correct()
    farm.clock.at += timedelta(hours=2)
    farm.turn_until(lambda: farm.sealed().get("readings") == 3)


def test_a_million_readings_do_not_wait_for_the_interval(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "SEAL_ROWS", 10)
    farm.settle()
    farm.store.append(_readings(9), at_ms=to_ms(NOW))
    for _ in range(5):
        farm.courier.turn()
    assert farm.sealed() == {}
    farm.store.append(_readings(1, NOW + timedelta(hours=1)), at_ms=to_ms(NOW))
    farm.turn_until(lambda: farm.sealed() == {"readings": 10})


def test_a_warning_goes_at_once_and_alone(farm: Farm) -> None:
    farm.settle()
    farm.store.append(_readings(3), at_ms=to_ms(NOW))
    farm.store.record(warnings=[_warning(NOW)])
    farm.turn_until(lambda: farm.sealed() == {"warnings": 1} and farm.waiting() == 0)
    assert farm.outbox.unsealed("readings") == 3


def test_a_bulk_upload_that_hangs_delays_no_warning(farm: Farm) -> None:
    farm.cloud.stuck = threading.Event()
    farm.store.append(_readings(3), at_ms=to_ms(NOW))
    farm.turn_until(lambda: farm.sealed() == {"readings": 3} and not farm.courier.is_idle)
    farm.store.record(warnings=[_warning(NOW)])
    farm.turn_until(lambda: farm.sealed() == {"readings": 3, "warnings": 1} and farm.waiting() == 1)
    farm.cloud.stuck.set()
    farm.turn_until(lambda: farm.waiting() == 0)


def test_a_dead_link_is_said_once_and_loses_nothing(farm: Farm, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    farm.cloud.error = CloudUnreachable("memory: no answer in time")
    for hour in range(3):
        farm.clock.at = NOW + timedelta(hours=hour)
        farm.store.append(_readings(2, farm.clock.at), at_ms=to_ms(farm.clock.at))
        farm.turn_until(lambda: farm.outbox.unsealed("readings") == 0)
    farm.turn_until(lambda: farm.courier.link.attempts >= 5)
    farm.cloud.error = None
    farm.turn_until(lambda: farm.waiting() == 0)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "cloud unreachable: memory: no answer in time"
    assert said[1].startswith("cloud reached again after 0 s, ")
    assert len(said) == 2


def test_a_disk_that_is_full_is_said_once_and_sealing_goes_on_later(
    farm: Farm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(daemon, "PAUSE_S", 0.02)
    farm.store.append(_readings(3), at_ms=to_ms(NOW))
    failures = 0

    def full(*_: object) -> None:
        nonlocal failures
        failures += 1
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("sync.outbox.write_durably", full)
        farm.turn_until(lambda: failures >= 3)
    farm.turn_until(lambda: farm.sealed() == {"readings": 3})
    assert [r.getMessage() for r in caplog.records] == ["sealing waits: [Errno 28] No space left on device"]


def test_an_object_that_conflicts_is_set_aside_and_the_next_goes(farm: Farm) -> None:
    farm.store.append(_readings(1), at_ms=to_ms(NOW))
    farm.courier.seal_all()
    parcel = farm.outbox.next_parcel(urgent=False)
    assert parcel is not None
    farm.cloud.put_new(parcel.key, b"another")
    farm.store.append(_readings(1, NOW + timedelta(hours=1)), at_ms=to_ms(NOW))
    farm.courier.seal_all()
    farm.turn_until(lambda: farm.waiting() == 0)
    assert farm.outbox.totals().set_aside_objects == 1


def test_an_object_that_was_altered_on_disk_is_not_sent(farm: Farm) -> None:
    farm.store.append(_readings(1), at_ms=to_ms(NOW))
    farm.courier.seal_all()
    parcel = farm.outbox.next_parcel(urgent=False)
    assert parcel is not None
    parcel.path.write_bytes(b"altered")
    farm.turn_until(lambda: farm.waiting() == 0)
    assert farm.outbox.totals().set_aside_objects == 1
    assert farm.cloud.head(parcel.key) is None


def test_warnings_that_stand_unsent_go_before_the_end(farm: Farm) -> None:
    farm.settle()
    farm.store.record(warnings=[_warning(NOW)])
    farm.courier.finish()
    assert farm.sealed() == {"warnings": 1}
    assert farm.waiting() == 0


# run


def test_once_leaves_lake_cloud_and_status_complete(tmp_path: Path) -> None:
    config = _config(tmp_path, f"file://{tmp_path}/cloud")
    with Store.open(config.data.house_db) as store:
        store.append(_readings(5), at_ms=to_ms(NOW))
        store.record(warnings=[_warning(NOW)])
        gateway = store.gateway
    assert run(config, HandClock(), threading.Event(), once=True) == 0
    lake, cloud = config.data.lake, tmp_path / "cloud"
    objects = {p.relative_to(lake): p.read_bytes() for p in lake.rglob("*.parquet")}
    assert len(objects) == 2
    assert {p.relative_to(cloud): p.read_bytes() for p in cloud.rglob("*.parquet")} == objects
    status = json.loads((cloud / "status" / gateway / "latest.json").read_text())
    assert status["streams"]["readings"] == {"sealed_seq": 5, "sealed_at": "2026-11-22T12:00:00Z"}
    assert status["at"] == "2026-11-22T12:00:00Z"
    assert not any_alive()


def test_once_with_no_cloud_seals_only(tmp_path: Path) -> None:
    config = _config(tmp_path)
    with Store.open(config.data.house_db) as store:
        store.append(_readings(5), at_ms=to_ms(NOW))
    assert run(config, HandClock(), threading.Event(), once=True) == 0
    assert len(list(config.data.lake.rglob("*.parquet"))) == 1


@pytest.mark.parametrize("error", [CloudUnreachable("memory: no answer"), CloudRefused("memory: wrong keys")])
def test_once_says_what_waits_where_the_cloud_fails(
    error: CloudError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    gate.error = error
    monkeypatch.setattr(daemon, "open_cloud", lambda *_: gate)
    config = _config(tmp_path, "s3://somewhere")
    with Store.open(config.data.house_db) as store:
        store.append(_readings(5), at_ms=to_ms(NOW))
    with pytest.raises(CloudError, match=f"all is sealed, but 1 objects wait: {error}"):
        run(config, HandClock(), threading.Event(), once=True)
    assert len(list(config.data.lake.rglob("*.parquet"))) == 1


def test_once_with_no_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="start `flockwatch agent` once"):
        run(_config(tmp_path), HandClock(), threading.Event(), once=True)


def test_a_wrong_place_is_a_wrong_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="access_key_id"):
        run(_config(tmp_path, "s3://bucket"), HandClock(), threading.Event())


def test_a_service_waits_for_its_house_db_and_follows_a_new_one(tmp_path: Path) -> None:
    """Started before the agent; then the SD card is replaced under it: each generation arrives."""
    config = _config(tmp_path, f"file://{tmp_path}/cloud")
    (tmp_path / "data").mkdir()
    stop = threading.Event()
    service = threading.Thread(target=run, args=(config, SystemClock(), stop))
    service.start()
    try:
        for n in (1, 2):
            with Store.open(config.data.house_db) as store:
                store.record(warnings=[_warning(NOW)])
                file = f"{store.gateway}-{store.generation}-1-1.parquet"
                _wait_for(tmp_path / "cloud" / "warnings" / "site=farm1" / "date=2026-11-22" / file)
            config.data.house_db.rename(tmp_path / f"old-{n}.db")
    finally:
        stop.set()
        service.join(PATIENCE_S)
    assert not service.is_alive()


def test_a_service_follows_a_house_db_whose_damaged_wal_was_put_aside(tmp_path: Path) -> None:
    """Its own view of the WAL would show it old pages for ever."""
    config = _config(tmp_path, f"file://{tmp_path}/cloud")
    house_db = config.data.house_db
    with Store.open(house_db) as store:
        store.record(warnings=[_warning(NOW)])
    stop = threading.Event()
    service = threading.Thread(target=run, args=(config, SystemClock(), stop))
    service.start()
    try:
        folder = tmp_path / "cloud" / "warnings" / "site=farm1" / "date=2026-11-22"
        _wait_for(folder / f"{store.gateway}-{store.generation}-1-1.parquet")
        for end in ("-wal", "-shm"):
            house_db.with_name(house_db.name + end).unlink()
        with Store.open(house_db) as store:
            store.record(warnings=[_warning(NOW)])
            _wait_for(folder / f"{store.gateway}-{store.generation}-2-2.parquet")
    finally:
        stop.set()
        service.join(PATIENCE_S)


def test_a_service_rebuilds_a_sync_db_that_breaks_under_it_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(daemon, "PAUSE_S", 0.05)
    config = _config(tmp_path, f"file://{tmp_path}/cloud")
    stop = threading.Event()
    with Store.open(config.data.house_db) as store:
        service = threading.Thread(target=run, args=(config, SystemClock(), stop))
        service.start()
        try:
            for n in (1, 2):
                store.record(warnings=[_warning(NOW)])
                file = f"{store.gateway}-{store.generation}-{n}-{n}.parquet"
                _wait_for(tmp_path / "cloud" / "warnings" / "site=farm1" / "date=2026-11-22" / file)
                deadline = time.monotonic() + PATIENCE_S
                if n == 1:
                    while not any((config.data.directory / "quarantine").glob("sync-*.db")):
                        config.data.sync_db.write_bytes(bytes(20_000))  # again: a commit under way may mend it
                        stop.wait(0.2)
                        assert time.monotonic() < deadline, "nobody noticed"
        finally:
            stop.set()
            service.join(PATIENCE_S)
    assert not service.is_alive()
    assert "is broken" in caplog.text


def test_a_service_waits_for_a_disk_that_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(daemon, "PAUSE_S", 0.02)
    config = _config(tmp_path)
    with Store.open(config.data.house_db) as store:
        store.append(_readings(3), at_ms=to_ms(NOW))
    config.data.lake.write_text("in the way")  # no folder can be made here
    stop = threading.Event()
    service = threading.Thread(target=run, args=(config, SystemClock(), stop))
    service.start()
    try:
        deadline = time.monotonic() + PATIENCE_S
        while "sealing waits" not in caplog.text:
            assert time.monotonic() < deadline
            stop.wait(0.01)
        config.data.lake.unlink()
        folder = config.data.lake / "readings" / "site=farm1" / "date=2026-11-22"
        _wait_for(folder / f"{store.gateway}-{store.generation}-1-3.parquet")
    finally:
        stop.set()
        service.join(PATIENCE_S)
    assert caplog.text.count("sealing waits") == 1


def _wait_for(path: Path) -> None:
    pause = threading.Event()
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        pause.wait(0.02)


# Room


def test_what_the_cloud_has_gives_way_when_the_directory_is_too_large_and_a_full_one_is_said(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "ROOM_EVERY_S", 0.0)
    for hour in range(3):
        farm.clock.at = NOW + timedelta(hours=hour)
        farm.store.append(_readings(50, farm.clock.at), at_ms=to_ms(farm.clock.at))
        farm.turn_until(lambda: farm.outbox.unsealed("readings") == 0 and farm.waiting() == 0)
    assert len(list(farm.config.data.lake.glob("readings/*/*/*"))) == 3
    assert status_value(farm.config)["full"] is None
    other = farm.config.data.directory / "quarantine"
    other.write_bytes(b"x" * (farm.config.store.max_size_mb * 1_000_000 + 1))
    farm.turn_until(lambda: farm.outbox.noted("full") is not None)
    assert len(list(farm.config.data.lake.glob("readings/*/*/*"))) == 1  # the newest: its name is the watermark
    shown = status_value(farm.config)
    assert any(line.startswith("full     more is kept than max_size_mb = 20 allows") for line in status_lines(shown))
    other.unlink()
    farm.turn_until(lambda: farm.outbox.noted("full") is None)
    farm.clock.at += timedelta(hours=1)
    farm.turn_until(lambda: "sync_events/site=farm1" in str(list(farm.config.data.lake.glob("sync_events/*/*/*"))))


def test_readings_give_way_before_a_seal_that_finds_no_room(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that is nearly full the first thing is to make room, also where the cloud cannot be reached."""
    farm.cloud.error = CloudUnreachable("memory: no answer in time")
    for hour in range(6):
        farm.clock.at = NOW + timedelta(hours=hour)
        farm.store.append(_readings(3_000, farm.clock.at), at_ms=to_ms(farm.clock.at))
        farm.turn_until(lambda: farm.outbox.unsealed("readings") == 0)
    order: list[str] = []
    for name in ("step", "seal_next"):
        owner = Ladder if name == "step" else Outbox
        monkeypatch.setattr(owner, name, _noting(order, name, getattr(owner, name)))
    monkeypatch.setattr("agent.store.file.KEPT_FREE_SHARE", 1.0)
    monkeypatch.setattr("agent.store.file.KEPT_FREE_BYTES", 2**62)
    farm.courier._room_due = 0.0
    farm.clock.at += timedelta(hours=1)
    farm.courier.turn()
    assert order[0] == "step"
    farm.turn_until(lambda: farm.outbox.noted("full") is not None)
    assert list(farm.config.data.lake.glob("readings_1*min/*/*/*"))


def _noting(order: list[str], name: str, real: Callable[..., object]) -> Callable[..., object]:
    def call(*args: object, **kwargs: object) -> object:
        order.append(name)
        return real(*args, **kwargs)

    return call


def test_what_is_written_in_a_day_is_measured_over_restarts(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "ROOM_EVERY_S", 0.0)
    monkeypatch.setattr("agent.wear.LEAST_S", 1e-9)
    counts = iter(range(0, 10**12, 10**6))
    monkeypatch.setattr(daemon, "written_bytes", lambda: next(counts))
    farm.settle()
    farm.clock.at += timedelta(hours=1)
    farm.turn_until(lambda: "bytes" in (farm.outbox.noted("wear") or ""))
    shown = status_value(farm.config)["wear"]
    assert shown["sync_mb_per_day"] > 0
    assert shown["card_years"] is None  # of the agent nothing is known yet
