"""The presumed time: what is believed of the machine's clock, and of the senders', and what is not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from agent.domain import SeriesKey, TimeQuality, from_ms, to_ms
from agent.readings import Readings
from agent.senders import HEARD_FOR_S, Lead, Senders
from agent.steadyclock import EARLIEST_MS, PATIENCE_S, Kernel, SteadyClock, kernel_synchronised

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
YEAR_MS = 365 * DAY_MS


@dataclass
class FakeMachine:
    """A machine whose clock a test sets, and whose time a test lets pass."""

    wall: int = to_ms(NOW)
    boot: int = 60_000
    sync: bool | None = False
    boot_id: str = "boot-1"

    def wall_ms(self) -> int:
        return self.wall

    def boot_ms(self) -> int:
        return self.boot

    def monotonic(self) -> float:
        return self.boot / 1000

    def synchronised(self) -> bool | None:
        return self.sync

    def wait(self, seconds: float) -> None:
        self.wall += round(seconds * 1000)
        self.boot += round(seconds * 1000)


def test_the_real_machine_tells_its_times() -> None:
    kernel = Kernel()
    assert len(kernel.boot_id) == 36
    assert kernel.wall_ms() > 1_700_000_000_000
    assert 0 < kernel.boot_ms() <= kernel.boot_ms()
    assert kernel.synchronised() in {True, False, None}
    assert kernel_synchronised() == kernel.synchronised()


@pytest.mark.parametrize("sync", [True, False, None])
def test_a_plausible_clock_is_taken_as_it_is(sync: bool | None) -> None:
    machine = FakeMachine(sync=sync)
    clock = SteadyClock(machine, known_good_ms=to_ms(NOW) - 30 * DAY_MS)
    assert clock.now() == NOW
    assert (clock.is_trusted(), clock.doubt, clock.is_sure) == (True, None, sync is True)
    machine.wait(10)
    assert clock.look() is None
    assert clock.now() == NOW + timedelta(seconds=10)


@pytest.mark.parametrize("wall_ms", [0, 5 * 60_000, to_ms(NOW) - DAY_MS, to_ms(NOW) + 401 * DAY_MS, 2**62])
def test_an_impossible_clock_goes_on_from_the_last_good_time_and_says_so(wall_ms: int) -> None:
    machine = FakeMachine(wall=wall_ms)
    clock = SteadyClock(machine, known_good_ms=to_ms(NOW))
    assert clock.now() == NOW
    assert not clock.is_trusted()
    assert clock.doubt is not None
    assert "is not believed" in clock.doubt
    machine.wait(60)
    assert clock.look() is None
    assert clock.now() == NOW + timedelta(seconds=60)


def test_a_first_start_in_1970_goes_on_from_when_this_program_was_written() -> None:
    clock = SteadyClock(FakeMachine(wall=0))
    assert (to_ms(clock.now()), clock.is_trusted()) == (EARLIEST_MS, False)


def test_untrusted_time_goes_on_over_a_restart_and_does_not_begin_again() -> None:
    clock = SteadyClock(FakeMachine(wall=0), known_good_ms=to_ms(NOW), presumed_ms=to_ms(NOW) + 3 * DAY_MS)
    assert clock.now() == NOW + timedelta(days=3)


def test_without_anything_better_birds_are_judged_by_presumed_time_after_ten_minutes() -> None:
    machine = FakeMachine(wall=0)
    clock = SteadyClock(machine, known_good_ms=to_ms(NOW))
    machine.wait(PATIENCE_S - 1)
    assert not clock.may_judge()
    machine.wait(1)
    assert clock.may_judge()
    assert SteadyClock(FakeMachine()).may_judge()


@pytest.mark.parametrize("sync", [True, False])
def test_from_1970_a_clock_that_is_set_gains_trust(sync: bool) -> None:
    machine = FakeMachine(wall=0)
    clock = SteadyClock(machine, known_good_ms=to_ms(NOW))
    machine.wall, machine.sync = to_ms(NOW) + 20 * DAY_MS, sync
    step = clock.look()
    assert step is not None
    assert step.delta_ms == 20 * DAY_MS
    assert (step.before.trusted, step.after.trusted) == (False, True)
    assert clock.now() == NOW + timedelta(days=20)
    assert clock.doubt is None
    assert clock.last_step is step


@pytest.mark.parametrize("delta_ms", [-DAY_MS, -HOUR_MS, -2_000, 2_000, 6 * HOUR_MS, DAY_MS])
def test_a_step_of_up_to_a_day_is_taken(delta_ms: int) -> None:
    machine = FakeMachine()
    clock = SteadyClock(machine)
    machine.wall += delta_ms
    step = clock.look()
    assert step is not None
    assert step.delta_ms == delta_ms
    assert to_ms(clock.now()) == to_ms(NOW) + delta_ms


@pytest.mark.parametrize("delta_ms", [-10 * YEAR_MS, -2 * DAY_MS, 2 * DAY_MS, 10 * YEAR_MS])
def test_a_clock_that_jumps_far_is_not_believed_and_jumping_back_nothing_has_happened(delta_ms: int) -> None:
    machine = FakeMachine()
    clock = SteadyClock(machine)
    machine.wait(100)
    machine.wall += delta_ms
    assert clock.look() is None
    assert clock.now() == NOW + timedelta(seconds=100)
    assert clock.doubt is not None
    assert clock.is_trusted()
    machine.wait(3_600)
    assert clock.look() is None
    machine.wall -= delta_ms
    assert clock.look() is None
    assert clock.doubt is None
    assert clock.now() == NOW + timedelta(seconds=3_700)


@pytest.mark.parametrize("delta_ms", [-10 * 365 * DAY_MS, 10 * YEAR_MS])
def test_a_synchronised_clock_is_believed_at_once_but_not_before_this_program_was_written(delta_ms: int) -> None:
    machine = FakeMachine(wall=to_ms(NOW) + 9 * YEAR_MS)
    clock = SteadyClock(machine)
    machine.wall += delta_ms
    machine.sync = True
    step = clock.look()
    if delta_ms < 0:
        assert (step, clock.now()) == (clock.last_step, from_ms(to_ms(NOW) + 9 * YEAR_MS))
        assert clock.doubt is not None
    else:
        assert step is not None
        assert step.delta_ms == delta_ms


def test_a_disbelieved_time_is_believed_once_the_kernel_says_that_it_is_synchronised() -> None:
    machine = FakeMachine()
    clock = SteadyClock(machine)
    machine.wall += 7 * DAY_MS
    assert clock.look() is None
    machine.sync = True
    step = clock.look()
    assert step is not None
    assert step.delta_ms == 7 * DAY_MS
    assert clock.doubt is None


def test_slewing_is_followed_silently() -> None:
    machine = FakeMachine()
    clock = SteadyClock(machine)
    for _ in range(100):
        machine.wall += 200
        assert clock.look() is None
    assert to_ms(clock.now()) == to_ms(NOW) + 20_000


def test_a_network_that_comes_and_goes_is_noted_and_moves_nothing() -> None:
    machine = FakeMachine()
    clock = SteadyClock(machine)
    for sync in (True, False):
        machine.sync = sync
        step = clock.look()
        assert step is not None
        assert (step.delta_ms, step.after.synchronised) == (0, sync)
    assert clock.is_sure


# --- what the house computers say


def heard(house: str, *leads_ms: int, quality: TimeQuality = TimeQuality.SENDER) -> Readings:
    n = len(leads_ms)
    received = np.full(n, to_ms(NOW), np.int64)
    times = received + np.array(leads_ms, np.int64)
    qualities = np.full(n, quality, np.uint8)
    zeros = np.zeros(n, np.uint8)
    return Readings((SeriesKey(house, "water"),), np.zeros(n, np.int32), times, np.zeros(n), zeros, qualities, received)


def verdict(*blocks: Readings, times: int = 3) -> Lead | None:
    senders = Senders()
    for _ in range(times):
        for block in blocks:
            senders.hear(block, 0.0)
    assert senders.verdict(HEARD_FOR_S - 1) is None
    return senders.verdict(HEARD_FOR_S)


def test_house_computers_that_agree_are_evidence_and_waiting_messages_do_not_hide_it() -> None:
    queued = [-5 * DAY_MS + i for i in range(50)]
    lead = verdict(heard("house1", *queued, 6 * HOUR_MS), heard("house2", 6 * HOUR_MS - 40_000))
    assert lead == Lead(6 * HOUR_MS - 40_000, 2)


def test_one_wrong_house_computer_moves_nobody() -> None:
    right, wrong = [heard(house, -300) for house in ("house1", "house2")], heard("house3", 4 * YEAR_MS)
    assert verdict(*right, wrong) == Lead(-300, 2)
    assert verdict(heard("house1", 0), heard("house2", 3 * HOUR_MS)) is None
    assert verdict(heard("house1", HOUR_MS), times=2) is None


def test_a_mistake_or_two_of_a_house_computer_prove_nothing() -> None:
    senders = Senders()
    for lead_ms in (0, 8 * DAY_MS, -100, 0, 8 * DAY_MS, -200):
        senders.hear(heard("house1", lead_ms), 0.0)
    assert senders.verdict(HEARD_FOR_S) == Lead(0, 1)


def test_only_times_that_senders_gave_with_their_zone_are_evidence() -> None:
    for quality in (TimeQuality.ARRIVAL, TimeQuality.ASSUMED_ZONE, TimeQuality.LATE, TimeQuality.UNTRUSTED):
        assert verdict(heard("house1", HOUR_MS, quality=quality)) is None
    week = heard("house1", 7 * DAY_MS, quality=TimeQuality.UNTRUSTED)  # marked because it is so far ahead
    assert verdict(week) == Lead(7 * DAY_MS, 1)
