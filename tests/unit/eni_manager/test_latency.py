from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.eni_manager.latency import KEPT, WINDOW_S, Recent


@given(st.lists(st.floats(0.1, 60_000), min_size=2, max_size=KEPT))
@pytest.mark.spec("operations.17.4")
def test_the_quantile_is_between_that_of_the_standard_library_and_the_slowest_call(took: list[float]) -> None:
    recent = Recent()
    for number, ms in enumerate(took):
        recent.add(ms, number / 1000)
    told = recent.p99(1.0)
    assert told in took
    assert sum(ms <= told for ms in took) >= 0.99 * len(took)
    assert statistics.quantiles(took, n=100, method="inclusive")[98] <= told * 1.0000001 <= max(took) * 1.0000002


def test_calls_of_long_ago_do_not_count_and_without_any_it_is_zero() -> None:
    recent = Recent()
    assert recent.p99(0.0) == 0
    recent.add(9_000, 100.0)
    recent.add(5, 100.0 + WINDOW_S)
    assert recent.p99(100.0 + WINDOW_S) == 9_000
    assert recent.p99(100.1 + WINDOW_S) == 5
    assert recent.p99(101 + 2 * WINDOW_S) == 0


def test_it_keeps_so_many_calls_and_no_more() -> None:
    recent = Recent()
    for number in range(KEPT * 3):
        recent.add(1_000.0 if number < KEPT else 1.0, float(number) / 1000)
    assert recent.p99(2.0) == 1.0
