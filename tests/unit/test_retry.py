"""Trying again: what is waited for, what is said."""

from __future__ import annotations

import threading

import pytest

from agent.errors import CloudError, CloudRefused, CloudUnreachable
from sync import retry
from sync.retry import Link, Nudge, duration, persist


def test_it_is_tried_until_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0)
    results: list[Exception | str] = [CloudUnreachable("one"), CloudRefused("two"), "done"]
    failures: list[CloudError] = []

    def attempt() -> str:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    assert persist(attempt, Nudge(), failures.append, CloudError) == "done"
    assert [str(failure) for failure in failures] == ["one", "two"]


def test_a_mistake_of_ours_is_not_tried_again() -> None:
    calls = 0

    def attempt() -> None:
        nonlocal calls
        calls += 1
        raise KeyError

    with pytest.raises(KeyError):
        persist(attempt, Nudge(), lambda _error: None, CloudError)
    assert calls == 1


def test_stop_ends_a_wait_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "wait_random_exponential", lambda **_: lambda _state: 3_600.0)
    nudge = Nudge()

    def attempt() -> None:
        raise CloudUnreachable

    timer = threading.Timer(0.05, nudge.stop)
    timer.start()
    with pytest.raises(CloudUnreachable):
        persist(attempt, nudge, lambda _error: None, CloudError)
    timer.join()


def test_a_nudge_makes_the_next_try_come_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "wait_random_exponential", lambda **_: lambda _state: 3_600.0)
    nudge = Nudge()
    tries = 0

    def attempt() -> int:
        nonlocal tries
        tries += 1
        if tries < 3:
            nudge.now()
            raise CloudUnreachable
        return tries

    assert persist(attempt, nudge, lambda _error: None, CloudError) == 3


def test_the_link_is_said_to_be_down_once_and_up_once() -> None:
    link = Link()
    assert link.reached(0) is None
    assert (
        link.failed(CloudUnreachable("s3://b: no answer in time"), 100)
        == "cloud unreachable: s3://b: no answer in time"
    )
    assert [link.failed(CloudUnreachable("s3://b: refused"), 100 + i) for i in range(1, 213)] == [None] * 212
    assert link.failed(CloudRefused("s3://b: wrong keys"), 400) == "cloud refuses: s3://b: wrong keys"
    assert link.failed(CloudRefused("s3://b: wrong keys"), 500) is None
    assert link.reached(100 + 3 * 3600 + 12 * 60) == "cloud reached again after 3 h 12 min, 215 attempts"
    assert link.reached(20_000) is None
    assert link.error is None


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (7_199, "1 h 59 min")])
def test_a_duration_is_said_as_people_do(seconds: float, said: str) -> None:
    assert duration(seconds) == said
