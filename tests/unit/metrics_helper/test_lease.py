from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.metrics_helper.lease import DURATION_S, Record, Sighting, holds_until, may_take, sighted


def record(holder: str, version: str = "1") -> Record:
    return Record(holder, DURATION_S, f"renewed {version}", 0, version)


@pytest.mark.parametrize(
    ("holder", "age", "may"),
    [
        ("me", 0, True),
        ("", 0, True),
        ("other", 0, False),
        ("other", DURATION_S, False),
        ("other", DURATION_S + 0.1, True),
    ],
)
def test_a_lease_is_taken_when_mine_free_or_long_unrenewed(holder: str, age: float, may: bool) -> None:
    assert may_take(Sighting(record(holder), 100.0), "me", 100.0 + age) is may


def test_a_renewal_begins_the_wait_anew_and_the_same_record_does_not() -> None:
    first = sighted(None, record("other", "1"), 100.0)
    assert sighted(first, record("other", "1"), 110.0).since == 100.0
    assert sighted(first, record("other", "2"), 110.0).since == 110.0


@given(st.floats(0, 1e6), st.floats(0, DURATION_S))
def test_the_holder_has_stopped_before_another_may_take_it(asked_at: float, seen_after: float) -> None:
    """The other sees the renewal after it was asked for, however late: it takes it later than the holder stopped."""
    seen = Sighting(record("me"), asked_at + seen_after)
    assert not may_take(seen, "other", holds_until(asked_at))
