from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.metrics_publisher.sources import STALE_AFTER_S, Source, stale
from vpccni.shared.messages.common import Counter, Gauge, Status


def status(epoch: str, value: float) -> Status:
    return Status(
        process="ip_allocator",
        pid=1,
        epoch=epoch,
        started_at=0,
        now=0,
        state="serving",
        counters=[Counter("c", value, {"b": "2", "a": "1"})],
        gauges=[Gauge("g", value)],
    )


SERIES = ("c", (("a", "1"), ("b", "2")))


def test_counters_go_on_over_a_restart_and_gauges_do_not_add_up() -> None:
    source = Source("ip_allocator")
    for epoch, value in (("one", 5), ("one", 7), ("two", 1), ("two", 1)):
        source.take(status(epoch, value), 0.0)
    assert source.totals()[SERIES] == 8
    assert source.gauges() == {("g", ()): 1}
    assert source.restarts == 1


@given(st.lists(st.lists(st.integers(0, 100), min_size=1).map(sorted), min_size=1, max_size=5))
def test_a_total_never_goes_down_and_ends_at_the_sum_of_all_lives(lives: list[list[int]]) -> None:
    source = Source("ip_allocator")
    before = 0.0
    for number, life in enumerate(lives):
        for value in life:
            source.take(status(str(number), value), 0.0)
            assert source.totals()[SERIES] >= before
            before = source.totals()[SERIES]
    assert before == sum(life[-1] for life in lives)


def test_a_source_is_stale_until_heard_and_after_two_missed_heartbeats() -> None:
    source = Source("ip_allocator")
    assert stale([source], 0.0) == ["ip_allocator"]
    source.take(status("one", 1), 100.0)
    assert not source.is_stale(100.0 + STALE_AFTER_S)
    assert source.is_stale(100.1 + STALE_AFTER_S)
