"""The wear meter: what is written in a day, over restarts and whatever the clock shows."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from agent.wear import WearMeter, card_years, written_bytes

DAY = date(2026, 11, 22)
GB = 10**9


def test_a_day_is_told_from_the_kernels_count_and_real_time() -> None:
    meter = WearMeter()
    meter.note(5 * GB, 1_000.0, DAY)  # what it wrote before we looked is not ours to date
    assert meter.bytes_per_day() is None
    meter.note(5 * GB + GB // 24, 4_600.0, DAY)
    assert meter.bytes_per_day() == pytest.approx(GB, rel=1e-6)


def test_it_goes_on_after_a_restart_whose_count_begins_anew() -> None:
    meter = WearMeter()
    meter.note(0, 0.0, DAY)
    meter.note(GB, 43_200.0, DAY)
    again = WearMeter.restored(meter.kept())
    again.note(100, 7.0, DAY)
    again.note(100 + GB, 43_207.0, DAY + timedelta(days=1))
    assert again.bytes_per_day() == pytest.approx(2 * GB)


def test_only_the_last_seven_days_of_running_count_however_the_clock_jumps() -> None:
    meter = WearMeter()
    meter.note(0, 0.0, DAY)
    meter.note(100 * GB, 86_400.0, DAY + timedelta(days=3650))  # a clock that has jumped ahead
    for day in range(1, 8):
        meter.note(100 * GB + day * GB, 86_400.0 * (day + 1), DAY + timedelta(days=day))
    assert meter.bytes_per_day() == pytest.approx(GB)


@pytest.mark.parametrize("text", [None, "", "[]", '{"2026-11-22": 3}', "rubbish"])
def test_what_is_not_ours_begins_anew(text: str | None) -> None:
    assert WearMeter.restored(text).bytes_per_day() is None


def test_a_kernel_that_does_not_tell_is_no_failure() -> None:
    meter = WearMeter()
    meter.note(None, 0.0, DAY)
    assert meter.bytes_per_day() is None
    assert written_bytes() is None or isinstance(written_bytes(), int)


def test_the_years_of_a_card() -> None:
    assert card_years(GB, 30.0) == pytest.approx(30_000 / 365.25)
