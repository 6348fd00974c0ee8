from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.metrics_helper.outbox import Datum, bounded


def datum(metric: str, value: float, at: float, *, is_count: bool) -> Datum:
    return Datum(metric, value, at, "Count", is_count)


DATA = st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 9)), max_size=60).map(
    lambda rows: [datum(name, value, at, is_count=name in "abc") for at, (name, value) in enumerate(rows)]
)


@given(DATA, st.integers(3, 40))
@pytest.mark.spec("operations.17.8")
def test_it_is_bounded_and_no_count_is_lost(data: list[Datum], at_most: int) -> None:
    kept = bounded(data, at_most)
    assert len(kept) <= max(at_most, 3)
    assert [one.at for one in kept] == sorted(one.at for one in kept)
    for wanted, found in ((data, kept),):
        sums: Counter[str] = Counter()
        for one in wanted:
            sums[one.metric] += int(one.value) if one.is_count else 0
        for one in found:
            sums[one.metric] -= int(one.value) if one.is_count else 0
        assert not any(sums.values())
    assert bounded(kept, at_most) == kept


def test_oldest_gauges_go_first_and_no_more_than_needed() -> None:
    data = [datum("g", 1, 0, is_count=False), datum("c", 2, 1, is_count=True), datum("g", 3, 2, is_count=False)]
    assert bounded(data, 3) == tuple(data)
    assert bounded(data, 2) == tuple(data[1:])
    assert bounded([*data, datum("c", 5, 3, is_count=True)], 1) == (datum("c", 7, 3, is_count=True),)
