from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.domain import SeriesKey, TimeQuality
from agent.readings import HouseSplitter, Readings, ReadingsBuilder

Row = tuple[str, str, int, float]

rows = st.lists(
    st.tuples(
        st.sampled_from(["house1", "house2", "house3"]),
        st.sampled_from(["water", "feed", "co2"]),
        st.integers(0, 10**12),
        st.floats(allow_nan=False),
    ),
    max_size=30,
)


def block(rows: list[Row]) -> Readings:
    builder = ReadingsBuilder()
    for house, signal, at_ms, value in rows:
        builder.add(SeriesKey(house, signal), at_ms, value, TimeQuality.SENDER, at_ms + 1)
    return builder.build()


def rows_of(readings: Readings) -> list[Row]:
    columns = readings.key.tolist(), readings.at_ms.tolist(), readings.value.tolist()
    return [(*readings.keys[key], at_ms, value) for key, at_ms, value in zip(*columns, strict=True)]


@given(st.lists(rows, max_size=4))
def test_every_house_gets_its_own_readings_in_their_order(blocks: list[list[Row]]) -> None:
    splitter = HouseSplitter()
    for sent in blocks:
        split = splitter.split(block(sent))
        assert {house: rows_of(share) for house, share in split.items()} == {
            house: [row for row in sent if row[0] == house] for house in {row[0] for row in sent}
        }
        assert all(key.house == house for house, share in split.items() for key in share.keys)


def test_a_house_that_says_the_same_signals_again_has_the_same_keys() -> None:
    """Others work out once what follows from keys: they ask whether it is the same tuple."""
    splitter = HouseSplitter()
    first = splitter.split(block([("house1", "co2", 1, 700.0), ("house2", "co2", 1, 710.0)]))
    second = splitter.split(block([("house2", "co2", 2, 700.0), ("house2", "feed", 2, 1.0), ("house1", "co2", 2, 9.0)]))
    assert second["house1"].keys is first["house1"].keys
    assert second["house2"].keys is not first["house2"].keys
    assert splitter.split(block([("house1", "co2", 3, 700.0)]))["house1"].keys is first["house1"].keys


def test_the_blocks_of_one_builder_number_their_series_alike() -> None:
    builder = ReadingsBuilder()

    def next_block(*houses: str) -> Readings:
        for house in houses:
            builder.add(SeriesKey(house, "co2"), 1, 700.0, TimeQuality.SENDER, 2)
        return builder.build()

    first, second, third = next_block("house1", "house2"), next_block("house2"), next_block("house3")
    assert second.keys is first.keys
    assert second.key.tolist() == [1]
    assert third.keys == (*first.keys, SeriesKey("house3", "co2"))
    assert [len(first), len(second), len(third)] == [2, 1, 1]
