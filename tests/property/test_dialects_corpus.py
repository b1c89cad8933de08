"""A short turn of ``make fuzz``, and what must hold for the corpus itself."""

from __future__ import annotations

import pytest

from agent.dialects import DIALECTS
from tests.property.fuzz_dialects import GOOD, TOPICS, fuzz, seeds

TRIES = 10_000  # of each dialect: a second


@pytest.mark.parametrize("dialect", TOPICS)
def test_mutated_payloads_stop_nothing_and_take_no_good_reading_with_them(dialect: str) -> None:
    tally = fuzz(dialect, TRIES, seed=7)
    assert tally.tries == TRIES
    assert tally.is_clean, tally


def test_every_dialect_has_a_corpus() -> None:
    assert {*DIALECTS, "sparkplug"} == set(TOPICS) == set(GOOD)
    assert all(len(seeds(dialect)) >= 5 for dialect in TOPICS)
